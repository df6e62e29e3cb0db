//! TensorFlow's bicubic resize, which does not antialias: every result is a sum of 4 × 4 pixels however much the image
//! shrinks. SimCLR and BYOL were trained with it, and no library of Rust or PyTorch has it.

use crate::data::Image;
use multiversion::multiversion;

/// The two forms of `tf.image.resize` with `BICUBIC`. Both round the phase to 1/1024 of a pixel, as TensorFlow's table of
/// weights does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// `tf.compat.v1.image.resize_bicubic`: source = target · in/out, Keys' cubic with a = −0.75, the edge pixel repeated.
    One,
    /// `tf.image.resize` of TensorFlow 2: pixel centres at one half, a = −0.5, pixels outside left out and the weights of
    /// the others brought back to a sum of 1.
    Two,
}

/// One result along an axis: the weights of four neighbours from `first` on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Taps {
    pub(super) first: usize,
    pub(super) weights: [f32; 4],
}

/// Working memory of a resize.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// A row of the source, channels interleaved.
    line: Vec<f32>,
    /// The last four rows resized along their length; source row y lies in part y mod 4, its channels one after another.
    rows: Vec<f32>,
}

/// Resizes the box `[left, top, width, height]` of `image` to planes of (width, height) `size` in \[0, 1\].
///
/// Overshoots are clipped, as BYOL does; SimCLR's code clips them only with the first change of colour. Pixels outside the
/// box have no influence.
pub(super) fn resize(
    image: &Image,
    [left, top, width, height]: [usize; 4],
    size: (usize, usize),
    version: Version,
    buffer: &mut Buffer,
    out: [&mut [f32]; 3],
) {
    let read = |y: usize, line: &mut [f32]| {
        let start = 3 * ((top + y) * image.width + left);
        widen(&image.pixels[start..start + 3 * width], line);
    };
    run(read, (width, height), size, version, buffer, out);
}

/// The same for square planes of side `side`.
pub(super) fn resize_planes(
    [red, green, blue]: [&[f32]; 3],
    side: usize,
    [left, top, width, height]: [usize; 4],
    size: (usize, usize),
    version: Version,
    buffer: &mut Buffer,
    out: [&mut [f32]; 3],
) {
    let read = |y: usize, line: &mut [f32]| {
        let row = (top + y) * side + left..(top + y) * side + left + width;
        let values = red[row.clone()].iter().zip(&green[row.clone()]).zip(&blue[row]);
        for (pixel, ((red, green), blue)) in line.as_chunks_mut::<3>().0.iter_mut().zip(values) {
            *pixel = [*red, *green, *blue];
        }
    };
    run(read, (width, height), size, version, buffer, out);
}

/// Resizes (width, height) pixels whose row y `read` writes, channels interleaved, to the front of a line.
fn run(
    read: impl Fn(usize, &mut [f32]),
    (width, height): (usize, usize),
    size: (usize, usize),
    version: Version,
    buffer: &mut Buffer,
    [red, green, blue]: [&mut [f32]; 3],
) {
    let Buffer { line, rows } = buffer;
    // Windows of four pixels and one value more, so that a pixel can be read as four lanes.
    line.clear();
    line.resize(3 * width.max(4) + 1, 0.0);
    rows.clear();
    rows.resize(4 * 3 * size.0, 0.0);
    let mut held = [usize::MAX; 4];
    let columns = taps(width, size.0, version);
    let targets = red
        .chunks_exact_mut(size.0)
        .zip(green.chunks_exact_mut(size.0))
        .zip(blue.chunks_exact_mut(size.0));
    for (at, ((red, green), blue)) in taps(height, size.1, version).iter().zip(targets) {
        for y in at.first..height.min(at.first + 4) {
            if held[y % 4] != y {
                read(y, line);
                let target = &mut rows[y % 4 * 3 * size.0..][..3 * size.0];
                along(line, &columns, target);
                held[y % 4] = y;
            }
        }
        for (channel, target) in [red, green, blue].into_iter().enumerate() {
            let part = |k: usize| &rows[((at.first + k) % 4 * 3 + channel) * size.0..][..size.0];
            across([part(0), part(1), part(2), part(3)], at.weights, target);
        }
    }
}

/// The weights along an axis of `source` pixels that gets `target`; the arithmetic is TensorFlow's, in f32.
pub(super) fn taps(source: usize, target: usize, version: Version) -> Vec<Taps> {
    let scale = source as f32 / target as f32;
    let last = source as isize - 1;
    let place = |x: usize| {
        let position = match version {
            Version::One => x as f32 * scale,
            Version::Two => (x as f32 + 0.5) * scale - 0.5,
        };
        let whole = position.floor();
        let phase = ((position - whole) * 1024.0).round_ties_even() / 1024.0;
        let first = (whole as isize - 1).clamp(0, (last - 3).max(0));
        let mut weights = [0.0; 4];
        for (at, weight) in (whole as isize - 1..).zip(keys(phase, version)) {
            let inside = at.clamp(0, last);
            if version == Version::One || inside == at {
                weights[(inside - first) as usize] += weight;
            }
        }
        if version == Version::Two {
            let sum: f32 = weights.iter().sum();
            weights = weights.map(|weight| weight / sum);
        }
        Taps { first: first as usize, weights }
    };
    (0..target).map(place).collect()
}

/// Keys' cubic at distances 1 + phase, phase, 1 − phase, 2 − phase (Keys 1981, "Cubic convolution interpolation for
/// digital image processing").
fn keys(phase: f32, version: Version) -> [f32; 4] {
    let a: f32 = match version {
        Version::One => -0.75,
        Version::Two => -0.5,
    };
    let near = |x: f32| ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
    [far(1.0 + phase), near(phase), near(1.0 - phase), far(2.0 - phase)]
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn widen(pixels: &[u8], line: &mut [f32]) {
    for (value, byte) in line.iter_mut().zip(pixels) {
        *value = f32::from(*byte) / 255.0;
    }
}

/// Resizes a row along its length: interleaved in, one channel after another out.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn along(line: &[f32], columns: &[Taps], out: &mut [f32]) {
    let (red, rest) = out.split_at_mut(columns.len());
    let (green, blue) = rest.split_at_mut(columns.len());
    for (((at, red), green), blue) in columns.iter().zip(red).zip(green).zip(blue) {
        let window: &[f32; 13] =
            line[3 * at.first..].first_chunk().expect("a line is padded to four pixels and one");
        let mut pixel = [0.0f32; 4];
        for (k, weight) in at.weights.iter().enumerate() {
            for lane in 0..4 {
                pixel[lane] += weight * window[3 * k + lane];
            }
        }
        [*red, *green, *blue, _] = pixel;
    }
}

/// Weighs four rows and clips the sum to \[0, 1\].
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn across(rows: [&[f32]; 4], weights: [f32; 4], out: &mut [f32]) {
    let [a, b, c, d] = weights;
    let [first, second, third, fourth] = rows;
    for ((((out, p), q), r), s) in out.iter_mut().zip(first).zip(second).zip(third).zip(fourth) {
        *out = (a * p + b * q + c * r + d * s).clamp(0.0, 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope, Stream};

    /// Keys' cubic in f64, as printed in the paper.
    fn cubic(x: f64, a: f64) -> f64 {
        let x = x.abs();
        match x {
            _ if x <= 1.0 => (a + 2.0) * x.powi(3) - (a + 3.0) * x.powi(2) + 1.0,
            _ if x < 2.0 => a * x.powi(3) - 5.0 * a * x.powi(2) + 8.0 * a * x - 4.0 * a,
            _ => 0.0,
        }
    }

    /// Value of every source pixel in every result, by the definition.
    fn naive(source: usize, target: usize, version: Version) -> Vec<Vec<f64>> {
        let (a, shift) = if version == Version::One { (-0.75, 0.0) } else { (-0.5, 0.5) };
        let scale = source as f64 / target as f64;
        let row = |x: usize| {
            let position = (x as f64 + shift) * scale - shift;
            let position = position.floor()
                + ((position - position.floor()) * 1024.0).round_ties_even() / 1024.0;
            let mut row = vec![0.0; source];
            for at in -3..source as i64 + 3 {
                let weight = cubic(position - at as f64, a);
                let inside = at.clamp(0, source as i64 - 1);
                if version == Version::One || inside == at {
                    row[inside as usize] += weight;
                }
            }
            let sum: f64 = row.iter().sum();
            row.into_iter().map(|weight| weight / sum).collect()
        };
        (0..target).map(row).collect()
    }

    #[test]
    fn every_size_equals_the_definition_computed_naively() {
        let mut stream = Stream::open(3, Purpose::Test, Scope::Item(0));
        let (columns, rows) = (23, 19);
        let pixels: Vec<u8> = (0..3 * columns * rows).map(|_| stream.next_u32() as u8).collect();
        let image = Image { width: columns, height: rows, pixels };
        let mut buffer = Buffer::default();
        for version in [Version::One, Version::Two] {
            for (place, size) in [
                ([0, 0, 23, 19], (8, 8)),
                ([3, 2, 9, 11], (32, 32)),
                ([22, 18, 1, 1], (5, 5)),
                ([20, 4, 3, 2], (7, 9)),
                ([1, 1, 16, 16], (16, 16)),
                ([0, 0, 23, 19], (2, 3)),
            ] {
                let [left, top, width, height] = place;
                let mut planes = [0, 1, 2].map(|_| vec![0.0; size.0 * size.1]);
                let [red, green, blue] = &mut planes;
                resize(&image, place, size, version, &mut buffer, [red, green, blue]);
                let (across, along) =
                    (naive(width, size.0, version), naive(height, size.1, version));
                for (c, y, x) in (0..3).flat_map(|c| {
                    (0..size.1).flat_map(move |y| (0..size.0).map(move |x| (c, y, x)))
                }) {
                    let value = |v: usize, u: usize| {
                        f64::from(image.pixels[3 * ((top + v) * columns + left + u) + c]) / 255.0
                    };
                    let sum: f64 = (0..height)
                        .flat_map(|v| (0..width).map(move |u| (v, u)))
                        .map(|(v, u)| along[y][v] * across[x][u] * value(v, u))
                        .sum();
                    let found = f64::from(planes[c][y * size.0 + x]);
                    assert!(
                        (found - sum.clamp(0.0, 1.0)).abs() < 1e-5,
                        "{version:?} {place:?} {size:?}: {found} {sum}"
                    );
                }
            }
        }
    }

    #[test]
    fn planes_are_resized_like_bytes() {
        let side = 13;
        let pixels: Vec<u8> = (0..3 * side * side).map(|i| (i * i % 251) as u8).collect();
        let image = Image { width: side, height: side, pixels };
        let plane = |c: usize| image.pixels[c..].iter().step_by(3).map(|v| f32::from(*v) / 255.0);
        let source: [Vec<f32>; 3] = [0, 1, 2].map(|c| plane(c).collect());
        let place = [2, 1, 10, 11];
        let mut buffer = Buffer::default();
        let mut results = [(); 2].map(|()| [0, 1, 2].map(|_| vec![0.0; 20 * 20]));
        let [bytes, planes] = results.each_mut().map(|it| it.each_mut().map(|it| &mut it[..]));
        resize(&image, place, (20, 20), Version::Two, &mut buffer, bytes);
        let source = source.each_ref().map(|it| &it[..]);
        resize_planes(source, side, place, (20, 20), Version::Two, &mut buffer, planes);
        assert_eq!(results[0], results[1]);
    }
}
