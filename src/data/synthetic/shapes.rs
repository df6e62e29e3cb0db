//! The objects: twelve classes, each composed of a few parts in a fixed arrangement.
//!
//! Object coordinates run from −1 to 1, x to the right and y **down**. No class is the mirror image of another.

/// A filled region of the plane.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// Centre (x, y) and half axes.
    Ellipse(f32, f32, f32, f32),
    /// The part of an ellipse above its centre (towards negative y).
    Cap(f32, f32, f32, f32),
    /// The part of an ellipse below its centre.
    Bowl(f32, f32, f32, f32),
    /// Centre, outer and inner radius.
    Ring(f32, f32, f32, f32),
    /// Left, top, right, bottom.
    Rectangle(f32, f32, f32, f32),
    /// Corners in order; even-odd rule.
    Polygon(&'static [(f32, f32)]),
}

use Shape::{Bowl, Cap, Ellipse, Polygon, Rectangle, Ring};

impl Shape {
    /// Whether the shape covers a point.
    pub(super) fn contains(&self, x: f32, y: f32) -> bool {
        let radial = |cx: f32, cy: f32, rx: f32, ry: f32| {
            let (u, v) = ((x - cx) / rx, (y - cy) / ry);
            u * u + v * v
        };
        match *self {
            Ellipse(cx, cy, rx, ry) => radial(cx, cy, rx, ry) <= 1.0,
            Cap(cx, cy, rx, ry) => y <= cy && radial(cx, cy, rx, ry) <= 1.0,
            Bowl(cx, cy, rx, ry) => y >= cy && radial(cx, cy, rx, ry) <= 1.0,
            Ring(cx, cy, outer, inner) => {
                let square = radial(cx, cy, 1.0, 1.0);
                (inner * inner..=outer * outer).contains(&square)
            }
            Rectangle(left, top, right, bottom) => {
                (left..=right).contains(&x) && (top..=bottom).contains(&y)
            }
            Polygon(corners) => {
                let mut inside = false;
                let mut from = corners[corners.len() - 1];
                for &to in corners {
                    if (to.1 > y) != (from.1 > y)
                        && x < (from.0 - to.0) * (y - to.1) / (from.1 - to.1) + to.0
                    {
                        inside = !inside;
                    }
                    from = to;
                }
                inside
            }
        }
    }
}

/// A class of objects.
pub(super) struct Class {
    /// What a person calls it.
    pub(super) name: &'static str,
    /// Shapes from back to front, each with the part (from 1) it belongs to.
    pub(super) shapes: &'static [(u8, Shape)],
}

impl Class {
    /// Number of parts.
    pub(super) fn parts(&self) -> usize {
        self.shapes.iter().map(|(part, _)| usize::from(*part)).max().unwrap_or(0)
    }

    /// The part seen at a point, 0 outside of the object.
    pub(super) fn part_at(&self, x: f32, y: f32) -> u8 {
        // The arrangement lies within the unit square.
        if x.abs() > 1.0 || y.abs() > 1.0 {
            return 0;
        }
        let front = self.shapes.iter().rev().find(|(_, shape)| shape.contains(x, y));
        front.map_or(0, |(part, _)| *part)
    }
}

/// All classes; the label of a class is its position.
pub(super) const CLASSES: [Class; 12] = [
    Class {
        name: "house",
        shapes: &[
            (1, Rectangle(-0.68, -0.1, 0.68, 0.95)),
            (2, Polygon(&[(-0.95, -0.1), (0.95, -0.1), (0.0, -0.95)])),
            (3, Rectangle(-0.2, 0.35, 0.2, 0.95)),
        ],
    },
    Class {
        name: "mushroom",
        shapes: &[
            (1, Polygon(&[(-0.24, 0.0), (0.24, 0.0), (0.32, 0.95), (-0.32, 0.95)])),
            (2, Cap(0.0, 0.1, 0.95, 1.0)),
            (3, Ellipse(-0.42, -0.22, 0.17, 0.17)),
            (3, Ellipse(0.38, -0.18, 0.17, 0.17)),
            (3, Ellipse(0.02, -0.58, 0.17, 0.17)),
        ],
    },
    Class {
        name: "snowman",
        shapes: &[
            (1, Ellipse(0.0, 0.48, 0.52, 0.5)),
            (2, Ellipse(0.0, -0.2, 0.37, 0.36)),
            (3, Ellipse(0.0, -0.7, 0.26, 0.26)),
        ],
    },
    Class {
        name: "fir",
        shapes: &[
            (1, Rectangle(-0.15, 0.5, 0.15, 0.97)),
            (2, Polygon(&[(-0.8, 0.62), (0.8, 0.62), (0.0, -0.1)])),
            (3, Polygon(&[(-0.62, 0.12), (0.62, 0.12), (0.0, -0.5)])),
            (4, Polygon(&[(-0.45, -0.32), (0.45, -0.32), (0.0, -0.97)])),
        ],
    },
    Class {
        name: "fish",
        shapes: &[
            (2, Polygon(&[(0.3, 0.0), (0.96, -0.55), (0.8, 0.0), (0.96, 0.55)])),
            (1, Ellipse(-0.2, 0.0, 0.76, 0.48)),
            (3, Ellipse(-0.58, -0.12, 0.12, 0.12)),
        ],
    },
    Class {
        name: "boat",
        shapes: &[
            (1, Polygon(&[(-0.95, 0.42), (0.95, 0.42), (0.6, 0.92), (-0.6, 0.92)])),
            (2, Rectangle(-0.08, -0.95, 0.05, 0.42)),
            (3, Polygon(&[(0.14, -0.85), (0.14, 0.28), (0.85, 0.28)])),
            (3, Polygon(&[(-0.18, -0.55), (-0.18, 0.28), (-0.68, 0.28)])),
        ],
    },
    Class {
        name: "car",
        shapes: &[
            (1, Rectangle(-0.95, -0.08, 0.95, 0.45)),
            (2, Polygon(&[(-0.62, -0.08), (-0.4, -0.6), (0.36, -0.6), (0.66, -0.08)])),
            (3, Ellipse(-0.52, 0.46, 0.27, 0.27)),
            (3, Ellipse(0.52, 0.46, 0.27, 0.27)),
        ],
    },
    Class {
        name: "flower",
        shapes: &[
            (1, Rectangle(-0.08, 0.0, 0.08, 0.97)),
            (2, Ellipse(0.0, -0.76, 0.22, 0.22)),
            (2, Ellipse(0.36, -0.5, 0.22, 0.22)),
            (2, Ellipse(0.23, -0.08, 0.22, 0.22)),
            (2, Ellipse(-0.23, -0.08, 0.22, 0.22)),
            (2, Ellipse(-0.36, -0.5, 0.22, 0.22)),
            (3, Ellipse(0.0, -0.37, 0.22, 0.22)),
            (4, Ellipse(0.3, 0.62, 0.24, 0.12)),
        ],
    },
    Class {
        name: "cup",
        shapes: &[
            (1, Ring(0.46, 0.0, 0.46, 0.26)),
            (2, Polygon(&[(-0.8, -0.6), (0.5, -0.6), (0.34, 0.85), (-0.64, 0.85)])),
            (3, Ellipse(-0.15, -0.6, 0.65, 0.2)),
        ],
    },
    Class {
        name: "face",
        shapes: &[
            (1, Ellipse(0.0, 0.0, 0.92, 0.95)),
            (2, Ellipse(-0.36, -0.25, 0.17, 0.2)),
            (2, Ellipse(0.36, -0.25, 0.17, 0.2)),
            (3, Bowl(0.0, 0.25, 0.5, 0.36)),
        ],
    },
    Class {
        name: "key",
        shapes: &[
            (1, Ring(-0.5, 0.0, 0.46, 0.2)),
            (2, Rectangle(-0.06, -0.13, 0.96, 0.13)),
            (3, Rectangle(0.4, 0.13, 0.58, 0.5)),
            (3, Rectangle(0.76, 0.13, 0.94, 0.42)),
        ],
    },
    Class {
        name: "plane",
        shapes: &[
            (
                1,
                Polygon(&[
                    (0.0, -0.35),
                    (0.96, 0.2),
                    (0.96, 0.42),
                    (0.0, 0.14),
                    (-0.96, 0.42),
                    (-0.96, 0.2),
                ]),
            ),
            (2, Polygon(&[(0.0, 0.5), (0.42, 0.82), (0.42, 0.95), (-0.42, 0.95), (-0.42, 0.82)])),
            (3, Ellipse(0.0, 0.0, 0.17, 0.96)),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_cover_what_their_names_say() {
        let square = Polygon(&[(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]);
        let cases = [
            (square, (0.5, 0.5), (1.5, 0.5)),
            (Rectangle(0.0, 0.0, 1.0, 1.0), (0.9, 0.1), (0.5, -0.1)),
            (Ellipse(0.0, 0.0, 1.0, 0.5), (0.9, 0.0), (0.0, 0.9)),
            (Cap(0.0, 0.0, 1.0, 1.0), (0.0, -0.5), (0.0, 0.5)),
            (Bowl(0.0, 0.0, 1.0, 1.0), (0.0, 0.5), (0.0, -0.5)),
            (Ring(0.0, 0.0, 1.0, 0.5), (0.0, 0.7), (0.0, 0.2)),
        ];
        for (shape, inside, outside) in cases {
            assert!(shape.contains(inside.0, inside.1), "{shape:?}");
            assert!(!shape.contains(outside.0, outside.1), "{shape:?}");
        }
        // A notch: the even-odd rule leaves it out.
        let notched = Polygon(&[(0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (1.0, 1.0), (0.0, 2.0)]);
        assert!(notched.contains(0.2, 1.5) && notched.contains(1.8, 1.5));
        assert!(!notched.contains(1.0, 1.6));
    }

    /// Every part shows, lies within the unit square, and no class covers what another or its mirror image covers.
    #[test]
    fn classes_are_composed_and_distinct() {
        let grid: Vec<(f32, f32)> = (0..4096)
            .map(|i| ((i % 64) as f32 / 31.5 - 1.0, (i / 64) as f32 / 31.5 - 1.0))
            .collect();
        let covered = |class: &Class, flip: f32| -> Vec<bool> {
            grid.iter().map(|(x, y)| class.part_at(flip * x, *y) > 0).collect()
        };
        for (i, class) in CLASSES.iter().enumerate() {
            let parts = class.parts();
            assert!((2..=4).contains(&parts), "{}", class.name);
            for part in 1..=parts {
                let seen = grid.iter().filter(|(x, y)| usize::from(class.part_at(*x, *y)) == part);
                assert!(seen.count() > 20, "part {part} of {}", class.name);
            }
            let outline = |(_, shape): &(u8, Shape)| {
                (0..100).any(|i| {
                    let along = i as f32 / 50.0 - 1.0;
                    [(along, 1.01), (along, -1.01), (1.01, along), (-1.01, along)]
                        .iter()
                        .any(|(x, y)| shape.contains(*x, *y))
                })
            };
            assert!(!class.shapes.iter().any(outline), "{} leaves the square", class.name);
            for other in &CLASSES[..i] {
                for flip in [1.0, -1.0] {
                    let (a, b) = (covered(class, 1.0), covered(other, flip));
                    let both = a.iter().zip(&b).filter(|(a, b)| **a && **b).count() as f64;
                    let either = a.iter().zip(&b).filter(|(a, b)| **a || **b).count() as f64;
                    let overlap = both / either;
                    assert!(overlap < 0.8, "{} and {}: {overlap:.2}", class.name, other.name);
                }
            }
        }
    }
}
