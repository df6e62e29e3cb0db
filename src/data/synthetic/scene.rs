//! One scene: an object of a class under nuisances that tell nothing about the class, and its rendering.

use super::super::Image;
use super::shapes::{CLASSES, Class, Shape};
use super::texture::Texture;
use crate::random::Stream;

/// Samples per pixel and axis.
const SAMPLES: usize = 3;

/// Amplitude of the noise, of 255.
const NOISE: f32 = 6.0;

/// The same where parts are told by texture, so that no pixel is exactly one of the two colours.
const TEXTURED_NOISE: f32 = 16.0;

/// By what the parts of an object differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    /// Each has a colour of its own, with a pattern on it that may be like another's.
    Color,
    /// Each has a texture of its own, and all the same two colours.
    Texture,
}

pub(super) type Color = [f32; 3];

/// A colour with a pattern on it.
struct Fill {
    color: Color,
    pattern: Pattern,
    /// Relative change of brightness by the pattern.
    depth: f32,
    /// Direction and pitch of the pattern: cosine and sine over its period.
    along: (f32, f32),
    phase: f32,
}

#[derive(Clone, Copy)]
enum Pattern {
    Plain,
    Stripes,
    Checks,
    Dots,
    Clouds,
}

impl Fill {
    fn draw(draws: &mut Stream, color: Color, period: (f64, f64), depth: (f64, f64)) -> Self {
        const ALL: [Pattern; 5] =
            [Pattern::Plain, Pattern::Stripes, Pattern::Checks, Pattern::Dots, Pattern::Clouds];
        let pattern = ALL[draws.below(5) as usize];
        let period = draws.range(period.0, period.1);
        let (sin, cos) = draws.range(0.0, std::f64::consts::TAU).sin_cos();
        Self {
            color,
            pattern,
            depth: draws.range(depth.0, depth.1) as f32,
            along: ((cos / period) as f32, (sin / period) as f32),
            phase: draws.range(0.0, 64.0) as f32,
        }
    }

    /// Brightness at a point, about 1.
    fn shade(&self, x: f32, y: f32) -> f32 {
        let (cos, sin) = self.along;
        let (u, v) = (x * cos + y * sin + self.phase, y * cos - x * sin + self.phase);
        let high = |t: f32| t - t.floor() < 0.5;
        let sign = match self.pattern {
            Pattern::Plain => return 1.0,
            Pattern::Stripes => high(u),
            Pattern::Checks => high(u) == high(v),
            Pattern::Dots => {
                let (a, b) = (u - u.floor() - 0.5, v - v.floor() - 0.5);
                a * a + b * b < 0.09
            }
            Pattern::Clouds => return 1.0 + self.depth * 2.0 * (clouds(u, v) - 0.5),
        };
        if sign { 1.0 + self.depth } else { 1.0 - self.depth }
    }
}

/// A value in [0, 1] for each point of a lattice.
pub(super) fn hashed(x: i32, y: i32) -> f32 {
    let mut hash = (x as u32).wrapping_mul(0x9E37_79B1) ^ (y as u32).wrapping_mul(0x85EB_CA77);
    hash = (hash ^ (hash >> 15)).wrapping_mul(0x2C1B_3C6D);
    (hash >> 16) as f32 / 65535.0
}

/// Smooth noise in [0, 1]: hashed lattice values, interpolated.
pub(super) fn clouds(x: f32, y: f32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let ease = |t: f32| t * t * (3.0 - 2.0 * t);
    let (s, t) = (ease(x - left), ease(y - top));
    let (i, j) = (left as i32, top as i32);
    let upper = hashed(i, j) + s * (hashed(i + 1, j) - hashed(i, j));
    let lower = hashed(i, j + 1) + s * (hashed(i + 1, j + 1) - hashed(i, j + 1));
    upper + t * (lower - upper)
}

/// A small thing that belongs to no class.
struct Clutter {
    shape: Shape,
    color: Color,
}

/// Where an object stands: frame coordinates (0 to 1) to object coordinates.
struct Pose {
    center: (f32, f32),
    /// Rows of the linear map.
    rows: [(f32, f32); 2],
}

impl Pose {
    fn draw(draws: &mut Stream) -> Self {
        let extent = draws.range(0.52, 0.86);
        let free = (1.0 - extent) / 2.0;
        let center = (0.5 + draws.range(-free, free), 0.5 + draws.range(-free, free));
        let (sin, cos) = draws.range(-0.35, 0.35).sin_cos();
        let stretch = draws.range(-0.18, 0.18).exp();
        let mirror = if draws.chance(0.5) { -1.0 } else { 1.0 };
        let (wide, high) = (mirror * extent / 2.0 * stretch, extent / 2.0 / stretch);
        Self {
            center: (center.0 as f32, center.1 as f32),
            rows: [
                ((cos / wide) as f32, (sin / wide) as f32),
                ((-sin / high) as f32, (cos / high) as f32),
            ],
        }
    }

    fn to_object(&self, x: f32, y: f32) -> (f32, f32) {
        let (x, y) = (x - self.center.0, y - self.center.1);
        let [u, v] = self.rows;
        (x * u.0 + y * u.1, x * v.0 + y * v.1)
    }
}

/// Everything that decides an image.
pub(super) struct Scene {
    class: &'static Class,
    pose: Pose,
    parts: Vec<Fill>,
    background: Fill,
    /// Colour the background fades to, and the direction in which it does.
    far: Color,
    fade: (f32, f32),
    behind: Vec<Clutter>,
    before: Vec<Clutter>,
    shadow: Option<(f32, f32)>,
    brightness: f32,
    /// Change of brightness across the frame.
    light: (f32, f32),
    /// Of the background and of each part; none where colours tell the parts.
    textures: Vec<Texture>,
    noise: Stream,
}

impl Scene {
    /// Draws a scene of the class with that label. Object and pose are the same whatever the parts differ by.
    pub(super) fn draw(label: u32, parts_by: Parts, mut draws: Stream) -> Self {
        let class = &CLASSES[label as usize];
        let pose = Pose::draw(&mut draws);
        let near = color(&mut draws, (0.0, 0.45), (0.15, 0.9));
        let far = color(&mut draws, (0.0, 0.45), (0.15, 0.9));
        let background = Fill::draw(&mut draws, near, (0.1, 0.3), (0.03, 0.12));
        let mut parts: Vec<Fill> = Vec::new();
        for _ in 0..class.parts() {
            let before = parts.last().map(|fill: &Fill| fill.color);
            let color = contrasting(&mut draws, [near, far], before);
            parts.push(Fill::draw(&mut draws, color, (0.35, 0.9), (0.05, 0.2)));
        }
        let direction = |draws: &mut Stream, size: f64| {
            let (sin, cos) = draws.range(0.0, std::f64::consts::TAU).sin_cos();
            ((size * cos) as f32, (size * sin) as f32)
        };
        let fade = direction(&mut draws, 1.0);
        let behind = (0..=draws.below(3)).map(|_| clutter(&mut draws, 0.03, 0.09)).collect();
        let before = (0..draws.below(3)).map(|_| clutter(&mut draws, 0.02, 0.04)).collect();
        let shadow = draws.chance(0.3).then(|| direction(&mut draws, 0.06));
        let brightness = draws.range(0.85, 1.1) as f32;
        let strength = draws.range(0.0, 0.2);
        let light = direction(&mut draws, strength);
        let textures = match parts_by {
            Parts::Color => Vec::new(),
            Parts::Texture => Texture::draw(&mut draws, 1 + class.parts()),
        };
        Self {
            class,
            pose,
            parts,
            background,
            far,
            fade,
            behind,
            before,
            shadow,
            brightness,
            light,
            textures,
            noise: draws,
        }
    }

    /// Renders a square image and, for each of its pixels, the part that covers most of it (0 is none).
    pub(super) fn render(mut self, size: usize) -> (Image, Vec<u8>) {
        let step = 1.0 / (size * SAMPLES) as f32;
        let amplitude = if self.textures.is_empty() { NOISE } else { TEXTURED_NOISE };
        let mut pixels = Vec::with_capacity(3 * size * size);
        let mut mask = Vec::with_capacity(size * size);
        let mut noise = Vec::new();
        for row in 0..size {
            for column in 0..size {
                let mut sum = [0.0; 3];
                let mut seen = [0u8; 8];
                for sample in 0..SAMPLES * SAMPLES {
                    let x = ((column * SAMPLES + sample % SAMPLES) as f32 + 0.5) * step;
                    let y = ((row * SAMPLES + sample / SAMPLES) as f32 + 0.5) * step;
                    let (part, color) = self.look(x, y);
                    seen[usize::from(part)] += 1;
                    for channel in 0..3 {
                        sum[channel] += color[channel];
                    }
                }
                let most = (0..seen.len()).rev().max_by_key(|part| seen[*part]).unwrap_or(0);
                mask.push(most as u8);
                for value in sum {
                    if noise.is_empty() {
                        noise.extend(self.noise.next_u32().to_le_bytes());
                    }
                    let grain = noise.pop().map_or(0.0, |byte| f32::from(byte) / 127.5 - 1.0);
                    let value = value * 255.0 / (SAMPLES * SAMPLES) as f32 + amplitude * grain;
                    pixels.push(value.round().clamp(0.0, 255.0) as u8);
                }
            }
        }
        (Image { width: size, height: size, pixels }, mask)
    }

    /// Part and colour at a point of the frame.
    fn look(&self, x: f32, y: f32) -> (u8, Color) {
        let lit = self.brightness + self.light.0 * (x - 0.5) + self.light.1 * (y - 0.5);
        if !self.textures.is_empty() {
            // Nothing but the textures: no clutter and no shadow, whose colours would stand out.
            let (u, v) = self.pose.to_object(x, y);
            let part = self.class.part_at(u, v);
            let color = self.textures[usize::from(part)].color(x, y);
            return (part, color.map(|value| value * lit));
        }
        if let Some(thing) = self.before.iter().find(|thing| thing.shape.contains(x, y)) {
            return (0, thing.color.map(|value| value * lit));
        }
        let (u, v) = self.pose.to_object(x, y);
        let part = self.class.part_at(u, v);
        if part > 0 {
            let fill = &self.parts[usize::from(part) - 1];
            let shade = lit * fill.shade(u, v);
            return (part, fill.color.map(|value| value * shade));
        }
        let shadowed = self.shadow.is_some_and(|(dx, dy)| {
            let (u, v) = self.pose.to_object(x - dx, y - dy);
            self.class.part_at(u, v) > 0
        });
        let lit = if shadowed { 0.72 * lit } else { lit };
        if let Some(thing) = self.behind.iter().find(|thing| thing.shape.contains(x, y)) {
            return (0, thing.color.map(|value| value * lit));
        }
        let t = (0.5 + self.fade.0 * (x - 0.5) + self.fade.1 * (y - 0.5)).clamp(0.0, 1.0);
        let shade = lit * self.background.shade(x, y);
        let mut color = self.background.color;
        for (value, far) in color.iter_mut().zip(self.far) {
            *value = (*value + t * (far - *value)) * shade;
        }
        (0, color)
    }
}

/// A colour of any hue, saturation and value within the bounds.
pub(super) fn color(draws: &mut Stream, saturation: (f64, f64), value: (f64, f64)) -> Color {
    let hue = draws.range(0.0, 6.0);
    let saturation = draws.range(saturation.0, saturation.1);
    let value = draws.range(value.0, value.1);
    [5.0, 3.0, 1.0].map(|shift| {
        let k: f64 = (shift + hue) % 6.0;
        (value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)) as f32
    })
}

/// Perceived brightness (ITU-R BT.601).
pub(super) fn luma(color: Color) -> f32 {
    0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
}

/// A colour that stands out from the background and, less, from the part before.
fn contrasting(draws: &mut Stream, background: [Color; 2], before: Option<Color>) -> Color {
    let mut best = (f32::MIN, [0.0; 3]);
    for _ in 0..12 {
        let candidate = color(draws, (0.2, 0.9), (0.1, 1.0));
        let far = background.map(|end| (luma(candidate) - luma(end)).abs() / 0.2);
        let far = far[0].min(far[1]);
        let apart = before.map_or(1.0, |part| (luma(candidate) - luma(part)).abs() / 0.15);
        let contrast = far.min(apart);
        if contrast > 1.0 {
            return candidate;
        }
        if contrast > best.0 {
            best = (contrast, candidate);
        }
    }
    best.1
}

fn clutter(draws: &mut Stream, least: f64, most: f64) -> Clutter {
    let (x, y) = (draws.uniform() as f32, draws.uniform() as f32);
    let size = draws.range(least, most) as f32;
    let shape = match draws.below(4) {
        0 => Shape::Ellipse(x, y, size, size),
        1 => Shape::Rectangle(x - size, y - size, x + size, y + size),
        2 => Shape::Rectangle(x - 2.0 * size, y - 0.3 * size, x + 2.0 * size, y + 0.3 * size),
        _ => Shape::Rectangle(x - 0.3 * size, y - 2.0 * size, x + 0.3 * size, y + 2.0 * size),
    };
    Clutter { shape, color: color(draws, (0.0, 0.7), (0.15, 0.95)) }
}
