//! Painting a map of labels over a picture, in the arithmetic of the published figures (`OpenCV`'s on bytes).

use crate::analyze::palette::Color;
use crate::data::Image;
use serde::{Deserialize, Serialize};

/// How a small picture becomes a large one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enlarge {
    /// Colours blend at the borders of clusters, as in the published main figures.
    #[default]
    Bilinear,
    /// Blocks, as in the published appendix.
    Nearest,
}

impl Enlarge {
    /// The picture at another size.
    pub fn apply(self, picture: &Image, size: (usize, usize)) -> Image {
        match self {
            Self::Bilinear => linear(picture, size),
            Self::Nearest => nearest(picture, size),
        }
    }
}

/// Share of grey picture and of colour in an overlay. They do not add up to 1: published overlays are darker.
pub const WEIGHT: f64 = 0.4;

/// A map of labels `[height, width]` in colours: label `j` in the colour `j`.
///
/// # Panics
/// If there are other labels than the size says, or a label above the number of colours.
pub fn mask(labels: &[u8], (width, height): (usize, usize), colors: &[Color]) -> Image {
    assert_eq!(labels.len(), width * height, "a label for each pixel");
    let pixels = labels.iter().flat_map(|label| colors[usize::from(*label)]).collect();
    Image { width, height, pixels }
}

/// What a pixel of a line takes from its source: the first of two neighbours, the second, and their weights of 2048.
struct Taps {
    first: usize,
    second: usize,
    weights: [i32; 2],
}

/// Taps of `OpenCV`'s `INTER_LINEAR` with half-pixel centres; beyond the edge of a row the nearer pixel counts alone, beyond
/// that of a column (`vertical`) both taps are that pixel and keep their weights.
fn taps(from: usize, to: usize, vertical: bool) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let tap = |at: usize| {
        let place = ((at as f64 + 0.5) * scale - 0.5) as f32;
        let floor = place.floor();
        let mut share = place - floor;
        let first = floor as i64;
        let inside = first >= 0 && first + 1 < from as i64;
        if !inside && !vertical {
            share = 0.0;
        }
        let clamped = |at: i64| at.clamp(0, from as i64 - 1) as usize;
        let weight = |share: f32| (share * 2048.0).round_ties_even() as i32;
        Taps {
            first: clamped(first),
            second: clamped(first + 1),
            weights: [weight(1.0 - share), weight(share)],
        }
    };
    (0..to).map(tap).collect()
}

/// `OpenCV`'s `INTER_LINEAR` on bytes, bit for bit: no smoothing when it shrinks.
pub fn linear(picture: &Image, (width, height): (usize, usize)) -> Image {
    let (columns, rows) = (taps(picture.width, width, false), taps(picture.height, height, true));
    let line = |row: usize| -> Vec<i32> {
        let pixels = &picture.pixels[3 * row * picture.width..][..3 * picture.width];
        columns
            .iter()
            .flat_map(|tap| {
                [0, 1, 2].map(|channel| {
                    let (a, b) =
                        (pixels[3 * tap.first + channel], pixels[3 * tap.second + channel]);
                    tap.weights[0] * i32::from(a) + tap.weights[1] * i32::from(b)
                })
            })
            .collect()
    };
    let mut known: [(usize, Vec<i32>); 2] = [(usize::MAX, Vec::new()), (usize::MAX, Vec::new())];
    let mut pixels = Vec::with_capacity(3 * width * height);
    for tap in rows {
        for (slot, row) in [tap.first, tap.second].into_iter().enumerate() {
            if known[slot].0 != row {
                known[slot] = (row, line(row));
            }
        }
        let [upper, lower] = tap.weights;
        let values = known[0].1.iter().zip(&known[1].1).map(|(above, below)| {
            let sum = ((upper * (above >> 4)) >> 16) + ((lower * (below >> 4)) >> 16);
            ((sum + 2) >> 2).clamp(0, 255) as u8
        });
        pixels.extend(values);
    }
    Image { width, height, pixels }
}

/// The source of each place of a line under `OpenCV`'s `INTER_NEAREST`, which knows no half pixels.
pub fn sources(from: usize, to: usize) -> Vec<usize> {
    let step = 1.0 / (to as f64 / from as f64);
    (0..to).map(|at| ((at as f64 * step).floor() as usize).min(from - 1)).collect()
}

/// `OpenCV`'s `INTER_NEAREST`.
pub fn nearest(picture: &Image, (width, height): (usize, usize)) -> Image {
    let columns = sources(picture.width, width);
    let mut pixels = Vec::with_capacity(3 * width * height);
    for row in sources(picture.height, height) {
        let line = &picture.pixels[3 * row * picture.width..];
        pixels.extend(columns.iter().flat_map(|column| &line[3 * column..3 * column + 3]));
    }
    Image { width, height, pixels }
}

/// Labels at another size, each place that of its source under [`sources`].
pub fn nearest_labels(labels: &[u8], from: (usize, usize), to: (usize, usize)) -> Vec<u8> {
    let columns = sources(from.0, to.0);
    let rows = sources(from.1, to.1);
    rows.iter()
        .flat_map(|row| columns.iter().map(move |column| labels[row * from.0 + column]))
        .collect()
}

/// Averages over the area of each pixel of a smaller picture (`OpenCV`'s `INTER_AREA`, to the nearest byte).
pub fn area(picture: &Image, (width, height): (usize, usize)) -> Image {
    // Which source pixels a place covers, and how much of each.
    let cover = |from: usize, to: usize| -> Vec<Vec<(usize, f64)>> {
        let scale = from as f64 / to as f64;
        let of = |at: usize| {
            let (start, end) = (at as f64 * scale, ((at + 1) as f64 * scale).min(from as f64));
            let pixels = start.floor() as usize..(end.ceil() as usize).min(from);
            pixels
                .map(|pixel| {
                    (pixel, (end.min(pixel as f64 + 1.0) - start.max(pixel as f64)) / scale)
                })
                .filter(|(_, share)| *share > 1e-9)
                .collect()
        };
        (0..to).map(of).collect()
    };
    let (columns, rows) = (cover(picture.width, width), cover(picture.height, height));
    let mut pixels = Vec::with_capacity(3 * width * height);
    for row in &rows {
        for column in &columns {
            for channel in 0..3 {
                let mut sum = 0.0;
                for (y, high) in row {
                    for (x, wide) in column {
                        let value = picture.pixels[3 * (y * picture.width + x) + channel];
                        sum += high * wide * f64::from(value);
                    }
                }
                // Sums of exact halves come out a little off.
                let value = (sum * 1e6).round() / 1e6;
                pixels.push(value.round_ties_even() as u8);
            }
        }
    }
    Image { width, height, pixels }
}

/// Luma of each pixel (ITU-R BT.601 in `OpenCV`'s fixed point). The published code took red for blue and blue for red:
/// `swapped`.
pub fn grey(picture: &Image, swapped: bool) -> Vec<u8> {
    let (pixels, _) = picture.pixels.as_chunks::<3>();
    let luma = |pixel: &[u8; 3]| {
        let [mut red, green, mut blue] = pixel.map(u32::from);
        if swapped {
            std::mem::swap(&mut red, &mut blue);
        }
        ((9_798 * red + 19_235 * green + 3_735 * blue + 16_384) >> 15) as u8
    };
    pixels.iter().map(luma).collect()
}

/// Rounded half to even, `weight` · (grey + colour) in each channel, at most 255 (`OpenCV`'s `addWeighted`).
///
/// # Panics
/// If grey picture and mask differ in size.
pub fn overlay(grey: &[u8], mask: &Image, weight: f64) -> Image {
    let (colors, _) = mask.pixels.as_chunks::<3>();
    assert_eq!(grey.len(), colors.len(), "a grey pixel for each of the mask");
    let blend = |grey: u8, color: u8| {
        let sum = weight * f64::from(grey) + weight * f64::from(color);
        sum.round_ties_even().clamp(0.0, 255.0) as u8
    };
    let pixels = grey.iter().zip(colors).flat_map(|(grey, color)| color.map(|c| blend(*grey, c)));
    Image { width: mask.width, height: mask.height, pixels: pixels.collect() }
}

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::*;
    use crate::analyze::palette::Palette;

    fn image(name: &str) -> Image {
        let array = &golden::arrays()[name];
        let (height, width) = (array.size()[0] as usize, array.size()[1] as usize);
        Image { width, height, pixels: golden::bytes(array) }
    }

    #[test]
    fn pictures_are_enlarged_and_shrunk_as_opencv_does() {
        for name in ["square", "odd"] {
            let mask = image(&format!("{name}.mask"));
            for (enlarge, way) in [(Enlarge::Bilinear, "bilinear"), (Enlarge::Nearest, "nearest")] {
                let expected = image(&format!("{name}.{way}"));
                let found = enlarge.apply(&mask, (expected.width, expected.height));
                assert!(found == expected, "{name} {way}");
            }
        }
        let picture = image("picture");
        assert!(linear(&picture, (5, 6)) == image("picture.small"));
        assert!(area(&picture, (5, 6)) == image("picture.area"));
        let (found, expected) = (area(&picture, (7, 9)), image("picture.area_odd"));
        let apart = found.pixels.iter().zip(&expected.pixels).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(apart <= Some(1), "{apart:?}");
        for case in golden::numbers()["nearest"].as_array().unwrap() {
            let number = |key: &str| case[key].as_u64().unwrap() as usize;
            let expected: Vec<usize> = case["source"]
                .as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_u64().unwrap() as usize)
                .collect();
            assert_eq!(sources(number("from"), number("to")), expected);
        }
    }

    /// Appendix of the specification.
    #[test]
    fn small_cases_have_the_published_values() {
        let line = |values: &[u8]| {
            let pixels = values.iter().flat_map(|value| [*value; 3]).collect();
            Image { width: values.len(), height: 1, pixels }
        };
        assert_eq!(linear(&line(&[0, 100]), (8, 1)), line(&[0, 0, 13, 38, 63, 88, 100, 100]));
        assert_eq!(nearest(&line(&[0, 1, 2]), (5, 1)), line(&[0, 0, 1, 1, 2]));
        let zeros = line(&[0; 4]);
        assert_eq!(overlay(&[5, 15, 25, 35], &zeros, 0.5), line(&[2, 8, 12, 18]));
        let primary = Image { width: 3, height: 1, pixels: vec![255, 0, 0, 0, 255, 0, 0, 0, 255] };
        assert_eq!(grey(&primary, true), [29, 150, 76]);
        assert_eq!(grey(&primary, false), [76, 150, 29]);
    }

    #[test]
    fn grey_and_overlay_are_opencvs() {
        let picture = image("picture");
        let luma = grey(&picture, false);
        assert_eq!(luma, golden::bytes(&golden::arrays()["picture.grey"]));
        assert_eq!(
            grey(&picture, true),
            golden::bytes(&golden::arrays()["picture.grey_published"])
        );
        assert!(overlay(&luma, &image("overlay.mask"), WEIGHT) == image("overlay"));
    }

    /// The grids of all block groups at the published size, and one that does not divide it.
    #[test]
    fn a_map_enlarged_in_blocks_and_sampled_back_is_unchanged() {
        let colors = Palette::Published.colors();
        for side in [14, 28, 56, 112, 30] {
            let labels: Vec<u8> = (0..side * side).map(|at| (at * at % 97 % 10) as u8).collect();
            let large = Enlarge::Nearest.apply(&mask(&labels, (side, side), &colors), (448, 448));
            let back = |at: usize| {
                let middle = |at: usize| (at * 448 + 224) / side;
                let at = 3 * (middle(at / side) * 448 + middle(at % side));
                let color: Color = large.pixels[at..at + 3].try_into().unwrap();
                colors.iter().position(|known| *known == color).unwrap() as u8
            };
            let back: Vec<u8> = (0..side * side).map(back).collect();
            assert!(back == labels, "{side}");
            let wide = nearest_labels(&labels, (side, side), (448, 448));
            assert!(mask(&wide, (448, 448), &colors) == large, "{side}");
        }
    }
}
