//! Pillow's resize, antialiased when it shrinks: each result is a sum of all pixels below a filter that grows with the
//! scale. Weights are whole numbers of 16 bits over a common power of two, and bytes are rounded between the two passes, as
//! Pillow and the SIMD resizers that follow it do.
//!
//! Along the rows, eight rows are worked on at once: their pixels are laid side by side, so that every pass weighs whole
//! vectors of bytes.

use crate::data::Image;
use multiversion::multiversion;

/// The filters of Pillow in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// Triangle of support 1. The columns are weighed first, as the fast resizers for 8 bits do; Pillow weighs the rows
    /// first, which is within 1 of 255.
    Bilinear,
    /// Keys' cubic with a = −0.5, support 2. Rows first like Pillow: results are clipped between the passes, so the order
    /// matters.
    Bicubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    #[inline]
    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            Self::Bicubic => 0.0,
        }
    }
}

/// Rows that are weighed along their length together.
const ROWS: usize = 8;

/// Bytes of one column of such rows, four for each pixel; also what is weighed at a time along the columns.
const LANES: usize = 4 * ROWS;

/// One column of eight rows, as pixels.
type Column = [[u8; 4]; ROWS];

/// Working memory of a resize.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    columns: Weights,
    rows: Weights,
    /// Bytes of up to eight rows, or of all rows after the first of two passes.
    lines: Vec<u8>,
    narrow: Vec<Column>,
    wide: Vec<[u8; LANES]>,
    /// The result, rows from the top; the fourth byte of a pixel means nothing.
    pub(super) pixels: Vec<[u8; 4]>,
}

/// Resizes the box `[left, top, width, height]` of `image` to (width, height) `size`, left and right exchanged if `flip`.
/// The result is `buffer.pixels`. Pixels outside the box have no influence.
pub(super) fn resize(
    image: &Image,
    [left, top, width, height]: [usize; 4],
    size: (usize, usize),
    filter: Filter,
    flip: bool,
    buffer: &mut Buffer,
) {
    let Buffer { columns, rows, lines, narrow, wide, pixels } = buffer;
    columns.fill(width, size.0, filter);
    if flip {
        columns.spans.reverse();
    }
    rows.fill(height, size.1, filter);
    narrow.resize(width, Column::default());
    wide.resize(size.0, [0; LANES]);
    pixels.resize(size.0 * size.1, [0; 4]);
    let stride = 3 * image.width;
    let source = &image.pixels[top * stride + 3 * left..];
    match filter {
        Filter::Bilinear => {
            let length = 3 * width;
            lines.resize(ROWS * length, 0);
            for (group, out) in pixels.chunks_mut(ROWS * size.0).enumerate() {
                for (line, target) in lines.chunks_exact_mut(length).enumerate() {
                    if let Some(span) = rows.spans.get(group * ROWS + line) {
                        down(
                            &source[span.first * stride..],
                            stride,
                            rows.of(span),
                            rows.shift,
                            target,
                        );
                    }
                }
                along(lines, length, columns, narrow, wide, out);
            }
        }
        Filter::Bicubic => {
            let length = 4 * size.0;
            lines.resize(length * height, 0);
            for (group, out) in lines.chunks_mut(ROWS * length).enumerate() {
                let source = &source[group * ROWS * stride..];
                along(source, stride, columns, narrow, wide, out.as_chunks_mut().0);
            }
            for (span, out) in rows.spans.iter().zip(pixels.chunks_exact_mut(size.0)) {
                let source = &lines[span.first * length..];
                down(source, length, rows.of(span), rows.shift, out.as_flattened_mut());
            }
        }
    }
}

/// What resizes one axis.
#[derive(Debug, Default)]
struct Weights {
    /// For each result its pixels.
    spans: Vec<Span>,
    /// The weights of all results one behind the other, times 2^`shift`.
    values: Vec<i32>,
    shift: u32,
    exact: Vec<f64>,
}

/// The pixels whose weighted sum is one result.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: usize,
    /// Where their weights lie.
    start: usize,
    end: usize,
}

impl Weights {
    /// The weights for `source` pixels that become `target`.
    fn fill(&mut self, source: usize, target: usize, filter: Filter) {
        self.spans.clear();
        self.values.clear();
        if source == target {
            self.shift = 0;
            self.values.push(1);
            self.spans.extend((0..target).map(|first| Span { first, start: 0, end: 1 }));
            return;
        }
        self.exact.clear();
        let scale = source as f64 / target as f64;
        let (stretch, shrink) = (scale.max(1.0), 1.0 / scale.max(1.0));
        let radius = filter.support() * stretch;
        for result in 0..target {
            let centre = (result as f64 + 0.5) * scale;
            // A cast cuts fractions off, and what is below 0.
            let low = (centre - radius) as usize;
            let mut high = ((centre + radius) as usize + 1).min(source);
            let weight = |pixel: usize| filter.at((pixel as f64 - (centre - 0.5)) * shrink);
            let mut first = low;
            while first < high && weight(first) == 0.0 {
                first += 1;
            }
            while high > first && weight(high - 1) == 0.0 {
                high -= 1;
            }
            let start = self.exact.len();
            self.exact.extend((first..high).map(weight));
            let sum: f64 = self.exact[start..].iter().sum();
            for weight in &mut self.exact[start..] {
                *weight /= sum;
            }
            self.spans.push(Span { first, start, end: self.exact.len() });
        }
        // The largest power of two that leaves every weight below 2^15.
        let most = self.exact.iter().copied().fold(0.0, f64::max);
        self.shift = 0;
        while self.shift < MAX_SHIFT && whole(most * f64::from(1u32 << (self.shift + 1))) < 1 << 15
        {
            self.shift += 1;
        }
        let unit = f64::from(1u32 << self.shift);
        self.values.extend(self.exact.iter().map(|weight| whole(weight * unit)));
    }

    #[inline]
    fn of(&self, span: &Span) -> &[i32] {
        &self.values[span.start..span.end]
    }
}

/// A sum of weights may reach twice its unit, and bytes times weights must stay within 32 bits.
const MAX_SHIFT: u32 = 21;

/// Rounded to the nearest, halves away from zero.
fn whole(value: f64) -> i32 {
    (value + 0.5f64.copysign(value)) as i32
}

/// The weighted sum of rows `stride` bytes apart.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn down(source: &[u8], stride: usize, weights: &[i32], shift: u32, out: &mut [u8]) {
    let (blocks, rest) = out.as_chunks_mut::<LANES>();
    let mut at = 0;
    for out in blocks {
        *out = weigh(&source[at..], stride, weights, shift);
        at += LANES;
    }
    for out in rest {
        let mut sum = 1 << shift >> 1;
        let mut from = at;
        for weight in weights {
            sum += weight * i32::from(source[from]);
            from += stride;
        }
        *out = (sum >> shift).clamp(0, 255) as u8;
        at += 1;
    }
}

/// Resizes up to eight rows along their length: `source` holds them `stride` bytes apart, `out` gets them one behind the
/// other. `narrow` and `wide` are memory for them before and after.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn along(
    source: &[u8],
    stride: usize,
    weights: &Weights,
    narrow: &mut [Column],
    wide: &mut [[u8; LANES]],
    out: &mut [[u8; 4]],
) {
    let (length, rows) = (3 * narrow.len(), out.len() / wide.len());
    for row in 0..rows {
        let line = source[row * stride..][..length].as_chunks::<3>().0;
        for (column, [red, green, blue]) in narrow.iter_mut().zip(line) {
            column[row] = [*red, *green, *blue, 0];
        }
    }
    let bytes = narrow.as_flattened().as_flattened();
    for (column, span) in wide.iter_mut().zip(&weights.spans) {
        *column = weigh(&bytes[span.first * LANES..], LANES, weights.of(span), weights.shift);
    }
    for (row, line) in out.chunks_exact_mut(wide.len()).enumerate() {
        for (pixel, column) in line.iter_mut().zip(&*wide) {
            *pixel = column.as_chunks().0[row];
        }
    }
}

/// `Σ_j weights[j] · source[j · stride + lane]` for each lane, over 2^`shift`, rounded and cut to a byte.
#[expect(clippy::inline_always, reason = "takes on the instructions of the loop around it")]
#[inline(always)]
fn weigh(source: &[u8], stride: usize, weights: &[i32], shift: u32) -> [u8; LANES] {
    let mut sums = [1 << shift >> 1; LANES];
    let mut from = 0;
    for weight in weights {
        let row: &[u8; LANES] =
            source[from..].first_chunk().expect("all rows reach to the end of the box");
        from += stride;
        for lane in 0..LANES {
            sums[lane] += weight * i32::from(row[lane]);
        }
    }
    let mut bytes = [0; LANES];
    for lane in 0..LANES {
        bytes[lane] = (sums[lane] >> shift).clamp(0, 255) as u8;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope, Stream};

    fn noise(width: usize, height: usize) -> Image {
        let mut stream = Stream::open(5, Purpose::Test, Scope::Item(0));
        let pixels = (0..3 * width * height).map(|_| stream.next_u32() as u8).collect();
        Image { width, height, pixels }
    }

    /// Value of every source pixel in every result, by the definition.
    fn naive(source: usize, target: usize, filter: Filter) -> Vec<Vec<f64>> {
        let scale = source as f64 / target as f64;
        let kernel = |x: f64| match filter {
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Bicubic if x < 1.0 => 1.5 * x.powi(3) - 2.5 * x.powi(2) + 1.0,
            Filter::Bicubic if x < 2.0 => -0.5 * x.powi(3) + 2.5 * x.powi(2) - 4.0 * x + 2.0,
            Filter::Bicubic => 0.0,
        };
        let row = |result: usize| {
            let centre = (result as f64 + 0.5) * scale;
            let distance = |pixel: usize| (pixel as f64 + 0.5 - centre).abs() / scale.max(1.0);
            let row: Vec<f64> = (0..source).map(|pixel| kernel(distance(pixel))).collect();
            let sum: f64 = row.iter().sum();
            row.into_iter().map(|weight| weight / sum).collect()
        };
        (0..target).map(row).collect()
    }

    #[test]
    fn every_size_equals_the_definition_computed_naively() {
        let image = noise(61, 53);
        let mut buffer = Buffer::default();
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            for (place, size) in [
                ([0, 0, 61, 53], (8, 9)),
                ([3, 2, 9, 11], (40, 33)),
                ([60, 52, 1, 1], (5, 5)),
                ([20, 4, 3, 2], (7, 9)),
                ([1, 1, 16, 19], (16, 19)),
                ([5, 7, 32, 40], (32, 13)),
                ([5, 7, 40, 13], (12, 13)),
                ([0, 0, 61, 53], (1, 1)),
            ] {
                let [left, top, width, height] = place;
                let (across, along) = (naive(width, size.0, filter), naive(height, size.1, filter));
                let byte = |sum: f64| sum.round().clamp(0.0, 255.0);
                for flip in [false, true] {
                    resize(&image, place, size, filter, flip, &mut buffer);
                    assert_eq!(buffer.pixels.len(), size.0 * size.1);
                    for (y, x, c) in (0..size.1)
                        .flat_map(|y| (0..size.0).flat_map(move |x| (0..3).map(move |c| (y, x, c))))
                    {
                        let value = |v: usize, u: usize| {
                            f64::from(image.pixels[3 * ((top + v) * image.width + left + u) + c])
                        };
                        let column = if flip { size.0 - 1 - x } else { x };
                        let row =
                            |v| byte((0..width).map(|u| across[column][u] * value(v, u)).sum());
                        let expected = byte((0..height).map(|v| along[y][v] * row(v)).sum());
                        let found = f64::from(buffer.pixels[y * size.0 + x][c]);
                        // Bytes between the passes and whole weights each move a result a little.
                        assert!(
                            (found - expected).abs() <= 1.0,
                            "{filter:?} {place:?} {size:?} {flip}: {found} {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn pixels_outside_the_box_have_no_influence() {
        let (place, size) = ([11, 9, 30, 25], (24, 24));
        let [left, top, width, height] = place;
        let mut buffer = Buffer::default();
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            let mut image = noise(61, 53);
            resize(&image, place, size, filter, false, &mut buffer);
            let inside = |at: usize| {
                let (x, y) = (at / 3 % 61, at / 3 / 61);
                (left..left + width).contains(&x) && (top..top + height).contains(&y)
            };
            let expected: Vec<u8> =
                buffer.pixels.iter().flat_map(|pixel| pixel[..3].to_vec()).collect();
            for (at, value) in image.pixels.iter_mut().enumerate() {
                *value = if inside(at) { *value } else { !*value };
            }
            resize(&image, place, size, filter, false, &mut buffer);
            let found: Vec<u8> =
                buffer.pixels.iter().flat_map(|pixel| pixel[..3].to_vec()).collect();
            assert_eq!(found, expected);
        }
    }
}
