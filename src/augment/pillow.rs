//! Pillow's operations on bytes, with its integer and truncating arithmetic.
//!
//! Each is held to Pillow's own result in [`super::golden`].

use super::rand_augment::{Motion, PillowOperation, Resampling, Warp};
use multiversion::multiversion;

/// What a movement uncovers: `ImageNet`'s mean colour.
pub(super) const FILL: [u8; 3] = [124, 116, 104];

/// Working memory: the view in bytes, planes behind each other, before and after an operation.
#[derive(Debug, Default)]
pub(super) struct Bytes {
    source: Vec<u8>,
    target: Vec<u8>,
}

impl PillowOperation {
    /// Changes the planes of a square view in \[0, 1\]; `bytes` is only memory.
    pub(super) fn apply(self, planes: [&mut [f32]; 3], size_px: usize, bytes: &mut Bytes) {
        let area = size_px * size_px;
        bytes.source.resize(3 * area, 0);
        bytes.target.resize(3 * area, 0);
        for (bytes, plane) in bytes.source.chunks_exact_mut(area).zip(&planes) {
            round(plane, bytes);
        }
        self.change(&bytes.source, size_px, &mut bytes.target);
        for (plane, bytes) in planes.into_iter().zip(bytes.target.chunks_exact(area)) {
            divide(bytes, plane);
        }
    }

    /// From `source` to `target`, both `[3, size_px, size_px]`.
    fn change(self, source: &[u8], size_px: usize, target: &mut [u8]) {
        let planes = || source.chunks_exact(size_px * size_px);
        match self {
            Self::AutoContrast | Self::Equalize => {
                for (source, target) in planes().zip(target.chunks_exact_mut(size_px * size_px)) {
                    let counts = histogram(source);
                    let equalize = self == Self::Equalize;
                    let table = if equalize { equalized(&counts) } else { stretched(&counts) };
                    look_up(source, &table, target);
                }
            }
            Self::Invert | Self::Posterize(_) | Self::Solarize(_) | Self::SolarizeAdd(_) => {
                look_up(source, &self.table(), target);
            }
            Self::Color(factor) => {
                let grey = luma(source);
                for (source, target) in planes().zip(target.chunks_exact_mut(grey.len())) {
                    blend(&grey, source, factor, target);
                }
            }
            Self::Contrast(factor) => {
                let grey = luma(source);
                let sum: u64 = grey.iter().map(|value| u64::from(*value)).sum();
                let mean = (sum as f64 / grey.len() as f64 + 0.5) as u8;
                blend(&vec![mean; source.len()], source, factor, target);
            }
            Self::Brightness(factor) => blend(&vec![0; source.len()], source, factor, target),
            Self::Sharpness(factor) => {
                let mut smooth = source.to_vec();
                for (source, smooth) in planes().zip(smooth.chunks_exact_mut(size_px * size_px)) {
                    smoothed(source, size_px, smooth);
                }
                blend(&smooth, source, factor, target);
            }
            Self::Warp(warp) => warp.change(source, size_px, target),
        }
    }

    /// What becomes of each byte, for the operations that do not look at the image.
    pub(super) fn table(self) -> [u8; 256] {
        std::array::from_fn(|at| {
            let value = at as u8;
            match self {
                Self::Invert => 255 - value,
                Self::Posterize(bits) => value & !(0xFFu16 >> bits.min(8)) as u8,
                Self::Solarize(threshold) if at >= usize::from(threshold) => 255 - value,
                Self::SolarizeAdd(amount) if at < 128 => value.saturating_add(amount),
                _ => value,
            }
        })
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn round(plane: &[f32], bytes: &mut [u8]) {
    for (byte, value) in bytes.iter_mut().zip(plane) {
        *byte = (value.clamp(0.0, 1.0) * 255.0 + 8_388_608.0).to_bits() as u8;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn divide(bytes: &[u8], plane: &mut [f32]) {
    for (byte, value) in bytes.iter().zip(plane) {
        *value = f32::from(*byte) / 255.0;
    }
}

fn look_up(source: &[u8], table: &[u8; 256], target: &mut [u8]) {
    for (source, target) in source.iter().zip(target) {
        *target = table[usize::from(*source)];
    }
}

fn histogram(plane: &[u8]) -> [u32; 256] {
    let mut counts = [0; 256];
    for value in plane {
        counts[usize::from(*value)] += 1;
    }
    counts
}

/// `ImageOps.autocontrast` without cutoff.
fn stretched(histogram: &[u32; 256]) -> [u8; 256] {
    let low = histogram.iter().position(|count| *count > 0).unwrap_or(0);
    let high = histogram.iter().rposition(|count| *count > 0).unwrap_or(0);
    if high <= low {
        return std::array::from_fn(|value| value as u8);
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    std::array::from_fn(|value| (value as f64 * scale + offset) as u8)
}

/// `ImageOps.equalize`.
fn equalized(histogram: &[u32; 256]) -> [u8; 256] {
    let last = histogram.iter().rev().find(|count| **count > 0).unwrap_or(&0);
    let step = (histogram.iter().sum::<u32>() - last) / 255;
    if step == 0 {
        return std::array::from_fn(|value| value as u8);
    }
    let mut below = step / 2;
    histogram.map(|count| {
        let value = below / step;
        below += count;
        value.min(255) as u8
    })
}

/// Pillow's grey: (19595 R + 38470 G + 7471 B + 2^15) / 2^16.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn luma(planes: &[u8]) -> Vec<u8> {
    let (red, rest) = planes.split_at(planes.len() / 3);
    let (green, blue) = rest.split_at(red.len());
    let pixels = red.iter().zip(green).zip(blue);
    let weigh = |((r, g), b): ((&u8, &u8), &u8)| {
        let sum = 19_595 * u32::from(*r) + 38_470 * u32::from(*g) + 7_471 * u32::from(*b);
        ((sum + 0x8000) >> 16) as u8
    };
    pixels.map(weigh).collect()
}

/// `Image.blend`: from `start` (factor 0) through `end` (factor 1) and beyond, cut off, fractions dropped.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn blend(start: &[u8], end: &[u8], factor: f32, target: &mut [u8]) {
    for ((start, end), target) in start.iter().zip(end).zip(target) {
        let (start, end) = (f32::from(*start), f32::from(*end));
        *target = (start + factor * (end - start)).clamp(0.0, 255.0) as u8;
    }
}

/// `ImageFilter.SMOOTH` of a plane: the 3×3 mean with weight 5 on the centre, rounded; `target` already holds the
/// outermost pixels, which stay as they are.
fn smoothed(source: &[u8], size_px: usize, target: &mut [u8]) {
    for y in 1..size_px.saturating_sub(1) {
        let row = |at: usize| &source[(y + at - 1) * size_px..][..size_px];
        let (above, here, below) = (row(0), row(1), row(2));
        let out = &mut target[y * size_px..][..size_px];
        for x in 1..size_px - 1 {
            let sum = |line: &[u8]| line[x - 1..=x + 1].iter().map(|v| u32::from(*v)).sum::<u32>();
            let total = sum(above) + sum(here) + sum(below) + 4 * u32::from(here[x]);
            out[x] = ((2 * total + 13) / 26) as u8;
        }
    }
}

impl Warp {
    /// (x, y) of the source at a place (x, y) of the view, both with the centre of the first pixel at ½:
    /// `[a, b, c, d, e, f]` for (a x + b y + c, d x + e y + f).
    pub(super) fn matrix(self, size_px: usize) -> [f64; 6] {
        let size = size_px as f64;
        match self.motion {
            Motion::Rotate(degrees) => {
                // Pillow rounds to 15 digits.
                let digits = |value: f64| (value * 1e15).round() / 1e15;
                let (sin, cos) = (-f64::from(degrees).rem_euclid(360.0).to_radians()).sin_cos();
                let (sin, cos, centre) = (digits(sin), digits(cos), size / 2.0);
                [
                    cos,
                    sin,
                    cos * -centre + sin * -centre + centre,
                    -sin,
                    cos,
                    -sin * -centre + cos * -centre + centre,
                ]
            }
            Motion::ShearX(part) => [1.0, f64::from(part), 0.0, 0.0, 1.0, 0.0],
            Motion::ShearY(part) => [1.0, 0.0, 0.0, f64::from(part), 1.0, 0.0],
            Motion::TranslateX(part) => [1.0, 0.0, f64::from(part) * size, 0.0, 1.0, 0.0],
            Motion::TranslateY(part) => [1.0, 0.0, 0.0, 0.0, 1.0, f64::from(part) * size],
        }
    }

    /// `Image.transform` with `Image.AFFINE`.
    fn change(self, source: &[u8], size_px: usize, target: &mut [u8]) {
        let [a, b, c, d, e, f] = self.matrix(size_px);
        let (area, size) = (size_px * size_px, size_px as f64);
        for y in 0..size_px {
            for x in 0..size_px {
                let (column, row) = (x as f64 + 0.5, y as f64 + 0.5);
                let (u, v) = (a * column + b * row + c, d * column + e * row + f);
                let inside = (0.0..size).contains(&u) && (0.0..size).contains(&v);
                for (plane, fill) in FILL.into_iter().enumerate() {
                    let source = &source[plane * area..][..area];
                    target[plane * area + y * size_px + x] = match self.resampling {
                        _ if !inside => fill,
                        Resampling::Bilinear => bilinear(source, size_px, u - 0.5, v - 0.5),
                        Resampling::Bicubic => bicubic(source, size_px, u - 0.5, v - 0.5),
                    };
                }
            }
        }
    }
}

/// The value at a place of a plane, the edge repeated, fractions dropped.
fn bilinear(plane: &[u8], size_px: usize, x: f64, y: f64) -> u8 {
    let (dx, dy) = (x - x.floor(), y - y.floor());
    let along = |row: isize| {
        let [left, right] = [0, 1].map(|at| pixel(plane, size_px, x.floor() as isize + at, row));
        left + (right - left) * dx
    };
    let (upper, lower) = (along(y.floor() as isize), along(y.floor() as isize + 1));
    (upper + (lower - upper) * dy) as u8
}

/// The same between 4×4 pixels, cut off.
fn bicubic(plane: &[u8], size_px: usize, x: f64, y: f64) -> u8 {
    let (dx, dy) = (x - x.floor(), y - y.floor());
    let along = |row: isize| {
        cubic([-1, 0, 1, 2].map(|at| pixel(plane, size_px, x.floor() as isize + at, row)), dx)
    };
    cubic([-1, 0, 1, 2].map(|at| along(y.floor() as isize + at)), dy).clamp(0.0, 255.0) as u8
}

fn cubic([v1, v2, v3, v4]: [f64; 4], d: f64) -> f64 {
    let (p2, p3, p4) = (-v1 + v3, 2.0 * (v1 - v2) + v3 - v4, -v1 + v2 - v3 + v4);
    v2 + d * (p2 + d * (p3 + d * p4))
}

fn pixel(plane: &[u8], size_px: usize, x: isize, y: isize) -> f64 {
    let inside = |at: isize| at.clamp(0, size_px as isize - 1) as usize;
    f64::from(plane[inside(y) * size_px + inside(x)])
}
