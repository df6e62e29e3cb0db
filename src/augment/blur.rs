//! Gaussian blur: a sampled kernel, or Pillow's three box blurs.

use super::pipeline::unit;
use super::step::{Place, interval};
use crate::error::Result;
use crate::random::Stream;
use multiversion::multiversion;
use serde::{Deserialize, Serialize};

/// Gaussian blur of random width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Blur {
    /// How often, drawn per image; 0.5 unless told.
    pub probability: f64,
    /// `kernel` (default) or `pillow`.
    pub kind: BlurKind,
    /// Standard deviation in pixels, uniform in \[low, high\]; \[0.1, 2\] unless told.
    pub sigma_px: [f64; 2],
    /// `image` (default): one sigma per view of an image. `batch` (SimCLR): one per view of the whole batch.
    pub sigma_per: SigmaPer,
    /// Kernel side as a fraction of the view's side, 0.1 unless told; ignored if `kernel_px` is given.
    pub kernel_fraction: f64,
    /// Kernel side in pixels. Either way the side k becomes 2·⌊k/2⌋ + 1 taps (SimCLR: 224/10 = 22, so 23 taps).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_px: Option<usize>,
    /// What lies beyond the edge for `kernel`: `zero` (default; SimCLR, BYOL) or `reflect`.
    pub border: Border,
}

impl Default for Blur {
    fn default() -> Self {
        Self {
            probability: 0.5,
            kind: BlurKind::Kernel,
            sigma_px: [0.1, 2.0],
            sigma_per: SigmaPer::Image,
            kernel_fraction: 0.1,
            kernel_px: None,
            border: Border::Zero,
        }
    }
}

/// Which approximation of a Gaussian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlurKind {
    /// Weights exp(−x²/2σ²), normalised, cut at the kernel's side (SimCLR, BYOL, InfoMin).
    Kernel,
    /// Pillow's `GaussianBlur(radius=σ)` (MoCo v2, SimSiam, SwAV): three box blurs with fractional ends (Gwosdek et al.
    /// 2011) along the rows, then three along the columns, the edge pixel repeated. As in Pillow, the image is rounded to
    /// 8 bits before and after each: without, a narrow blur would not vanish as it does there.
    Pillow,
}

/// What shares one sigma.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SigmaPer {
    /// One view of one image.
    Image,
    /// One view of the whole batch.
    Batch,
}

/// What lies beyond the edge of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Border {
    /// Black.
    Zero,
    /// The image mirrored about its outermost pixels.
    Reflect,
}

/// A drawn blur.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kernel {
    /// See [`BlurKind::Kernel`].
    Kernel {
        /// Standard deviation.
        sigma_px: f32,
        /// Taps on each side of the centre.
        radius_px: usize,
        /// Beyond the edge.
        border: Border,
    },
    /// See [`BlurKind::Pillow`].
    Pillow {
        /// Standard deviation.
        sigma_px: f32,
    },
}

impl Blur {
    pub(super) fn check(&self, place: &Place, size_px: usize) -> Result<()> {
        place.probability(self.probability)?;
        let [low, high] = self.sigma_px;
        place.require(
            interval(self.sigma_px) && low > 0.0 && high <= size_px as f64,
            "sigma_px",
            "two widths `[low, high]` with 0 < low <= high, at most the view's size",
            format_args!("[{low}, {high}]"),
        )?;
        place.require(
            self.kind == BlurKind::Kernel || self.border == Border::Zero,
            "border",
            "left out for `kind = \"pillow\"`",
            format_args!("reflect"),
        )?;
        place.require(
            self.kernel_fraction > 0.0 && self.kernel_fraction <= 1.0,
            "kernel_fraction",
            "above 0 and at most 1",
            format_args!("{}", self.kernel_fraction),
        )?;
        let Some(kernel_px) = self.kernel_px else { return Ok(()) };
        place.require(
            self.kind == BlurKind::Kernel && kernel_px > 0 && self.radius_px(size_px) < size_px,
            "kernel_px",
            "below twice the view's size, and given for `kind = \"kernel\"` only",
            format_args!("{kernel_px}"),
        )
    }

    fn radius_px(&self, size_px: usize) -> usize {
        self.kernel_px.unwrap_or((size_px as f64 * self.kernel_fraction) as usize) / 2
    }

    /// Draws the blur of a view of side `size_px`; `image` draws for this image, `batch` for the whole batch.
    pub(super) fn sample(
        &self,
        image: &mut Stream,
        batch: &mut Stream,
        size_px: usize,
    ) -> Option<Kernel> {
        let applied = image.chance(self.probability);
        let stream = match self.sigma_per {
            SigmaPer::Image => image,
            SigmaPer::Batch => batch,
        };
        let sigma_px = stream.range(self.sigma_px[0], self.sigma_px[1]) as f32;
        applied.then(|| match self.kind {
            BlurKind::Kernel => {
                Kernel::Kernel { sigma_px, radius_px: self.radius_px(size_px), border: self.border }
            }
            BlurKind::Pillow => Kernel::Pillow { sigma_px },
        })
    }
}

impl Kernel {
    /// Standard deviation in pixels.
    pub fn sigma_px(&self) -> f32 {
        match self {
            Self::Kernel { sigma_px, .. } | Self::Pillow { sigma_px } => *sigma_px,
        }
    }

    /// What the blur does along either axis.
    pub(super) fn filter(&self) -> Filter {
        match *self {
            Self::Kernel { sigma_px, radius_px, border } => {
                let outside = match border {
                    Border::Zero => Outside::Zero,
                    Border::Reflect => Outside::Reflect,
                };
                let taps = gaussian(f64::from(sigma_px), radius_px);
                Filter { taps, passes: 1, whole: false, outside }
            }
            Self::Pillow { sigma_px } => {
                let taps = pillow_box(f64::from(sigma_px));
                Filter { taps, passes: PILLOW_PASSES, whole: true, outside: Outside::Repeat }
            }
        }
    }

    /// Blurs one square plane of values in \[0, 1\] in place; `buffer` is only memory.
    pub(super) fn apply(&self, plane: &mut [f32], size_px: usize, buffer: &mut Buffer) {
        self.filter().apply(plane, size_px, buffer);
    }
}

const PILLOW_PASSES: usize = 3;

/// Centre and one side of the normalised kernel. Beyond 6 σ a weight is below 2e-8 and left out.
fn gaussian(sigma: f64, radius: usize) -> Vec<f32> {
    let radius = radius.min((6.0 * sigma).ceil() as usize);
    let weights: Vec<f64> =
        (0..=radius).map(|x| (-0.5 * (x as f64 / sigma).powi(2)).exp()).collect();
    let sum = 2.0 * weights.iter().sum::<f64>() - weights[0];
    weights.iter().map(|weight| (weight / sum) as f32).collect()
}

/// Centre and one side of the extended box whose threefold application has variance σ² (Gwosdek et al. 2011, Eqs. 7, 11
/// and 14).
fn pillow_box(sigma: f64) -> Vec<f32> {
    let variance = sigma * sigma / PILLOW_PASSES as f64;
    let whole = (((12.0 * variance + 1.0).sqrt() - 1.0) / 2.0).floor();
    let fraction = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance)
        / (6.0 * (variance - (whole + 1.0).powi(2)));
    let inner = 1.0 / (2.0 * (whole + fraction) + 1.0);
    let mut taps = vec![inner as f32; whole as usize + 1];
    taps.push((fraction * inner) as f32);
    taps
}

/// Working memory of a blur: a row and a plane with what lies beyond their ends, before and after a pass.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    line: [Vec<f32>; 2],
    rows: [Vec<f32>; 2],
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Outside {
    Zero,
    Reflect,
    Repeat,
}

impl Outside {
    /// The pixel that stands for position `index` of 0..size, or none for black.
    pub(super) fn source(self, index: isize, size: usize) -> Option<usize> {
        let last = size as isize - 1;
        match self {
            _ if (0..=last).contains(&index) => Some(index as usize),
            Self::Zero => None,
            Self::Reflect if last == 0 => Some(0),
            Self::Reflect => {
                let folded = index.rem_euclid(2 * last);
                Some(folded.min(2 * last - folded) as usize)
            }
            Self::Repeat => Some(index.clamp(0, last) as usize),
        }
    }
}

const LANES: usize = 32;

/// 1.5 · 2^23: what is below it by less than half of it has a spacing of 1, so adding and subtracting it rounds to the
/// nearest, ties to even, without a call.
const WHOLE: f32 = 12_582_912.0;

/// A symmetric kernel that acts along the rows, then along the columns.
pub(super) struct Filter {
    /// Its centre and one side.
    pub(super) taps: Vec<f32>,
    /// How often it acts along either.
    pub(super) passes: usize,
    /// Whether it acts on bytes and every pass rounds to whole numbers.
    pub(super) whole: bool,
    pub(super) outside: Outside,
}

impl Filter {
    fn apply(&self, plane: &mut [f32], size: usize, buffer: &mut Buffer) {
        let radius = self.taps.len() - 1;
        let padded = size + 2 * radius;
        let Buffer { line: [line, next_line], rows: [rows, next_rows] } = buffer;
        for (memory, length) in [(&mut *line, 1), (&mut *next_line, 1), (&mut *rows, size)] {
            memory.resize(length * padded, 0.0);
        }
        if self.passes > 1 {
            next_rows.resize(size * padded, 0.0);
        }
        for (y, source) in plane.chunks_exact(size).enumerate() {
            line[radius..radius + size].copy_from_slice(source);
            if self.whole {
                to_bytes(&mut line[radius..radius + size]);
            }
            for pass in 1..=self.passes {
                self.surround(line, 1, size);
                let target = if pass == self.passes {
                    &mut rows[(radius + y) * size..][..size]
                } else {
                    &mut next_line[radius..radius + size]
                };
                weigh(line, 1, &self.taps, self.whole, target);
                std::mem::swap(line, next_line);
            }
        }
        for pass in 1..=self.passes {
            self.surround(rows, size, size);
            for (y, last) in plane.chunks_exact_mut(size).enumerate() {
                let source = &rows[y * size..][..(2 * radius + 1) * size];
                if pass < self.passes {
                    let target = &mut next_rows[(radius + y) * size..][..size];
                    weigh(source, size, &self.taps, self.whole, target);
                } else {
                    weigh(source, size, &self.taps, self.whole, last);
                    if self.whole {
                        from_bytes(last);
                    }
                }
            }
            std::mem::swap(rows, next_rows);
        }
    }

    /// Sets what lies beyond both ends of `size` values (or rows) of the given length.
    fn surround(&self, values: &mut [f32], length: usize, size: usize) {
        let radius = self.taps.len() - 1;
        for place in (0..radius).chain(radius + size..size + 2 * radius) {
            match self.outside.source(place as isize - radius as isize, size) {
                Some(source) => {
                    let from = (radius + source) * length;
                    values.copy_within(from..from + length, place * length);
                }
                None => values[place * length..][..length].fill(0.0),
            }
        }
    }
}

/// `out[x] = Σ_j taps[|j|] · source[x + (j + radius) · step]`, rounded if it shall be whole.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn weigh(source: &[f32], step: usize, taps: &[f32], whole: bool, out: &mut [f32]) {
    let (middle, sides) = taps.split_first().expect("a kernel has a centre");
    let (blocks, rest) = out.as_chunks_mut::<LANES>();
    let mut centre = sides.len() * step;
    for out in blocks {
        let mut sum = *lanes(source, centre);
        for value in &mut sum {
            *value *= *middle;
        }
        let mut away = step;
        for tap in sides {
            let (before, after) = (lanes(source, centre - away), lanes(source, centre + away));
            for lane in 0..LANES {
                sum[lane] += tap * (before[lane] + after[lane]);
            }
            away += step;
        }
        if whole {
            for value in &mut sum {
                *value = (*value + WHOLE) - WHOLE;
            }
        }
        *out = sum;
        centre += LANES;
    }
    for out in rest {
        let mut sum = middle * source[centre];
        let mut away = step;
        for tap in sides {
            sum += tap * (source[centre - away] + source[centre + away]);
            away += step;
        }
        *out = if whole { (sum + WHOLE) - WHOLE } else { sum };
        centre += 1;
    }
}

#[expect(clippy::inline_always, reason = "takes on the instructions of the loop around it")]
#[inline(always)]
fn lanes(source: &[f32], at: usize) -> &[f32; LANES] {
    source[at..].first_chunk().expect("a block of results lies within the line")
}

/// From \[0, 1\] to whole numbers of 0 to 255.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn to_bytes(plane: &mut [f32]) {
    for value in plane {
        *value = (*value * 255.0 + WHOLE) - WHOLE;
    }
}

/// And back.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn from_bytes(plane: &mut [f32]) {
    for value in plane {
        *value = unit(*value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reflection_does_not_repeat_the_edge() {
        let at = |index| Outside::Reflect.source(index, 4).unwrap();
        assert_eq!([-3, -2, -1, 0, 3, 4, 5, 6].map(at), [3, 2, 1, 0, 3, 2, 1, 0]);
        assert_eq!(Outside::Reflect.source(-1, 1), Some(0));
    }

    #[test]
    fn three_pillow_boxes_have_the_variance_asked_for() {
        for sigma in [0.1, 0.7, 1.0, 2.0, 7.3] {
            let taps = pillow_box(sigma);
            let sum: f32 = taps[0] + 2.0 * taps[1..].iter().sum::<f32>();
            assert!((sum - 1.0).abs() < 1e-6);
            let variance: f64 =
                taps.iter().enumerate().map(|(x, w)| 2.0 * f64::from(*w) * (x * x) as f64).sum();
            assert!((3.0 * variance - sigma * sigma).abs() < 1e-5, "{sigma}: {variance}");
        }
    }

    #[test]
    fn black_beyond_the_edge_darkens_a_white_image_by_the_lost_weight() {
        let size = 5;
        let mut plane = vec![1.0; size * size];
        let kernel = Kernel::Kernel { sigma_px: 1.0, radius_px: 1, border: Border::Zero };
        kernel.apply(&mut plane, size, &mut Buffer::default());
        let side = (-0.5f64).exp() / (1.0 + 2.0 * (-0.5f64).exp());
        assert!((f64::from(plane[12]) - 1.0).abs() < 1e-6);
        assert!((f64::from(plane[2]) - (1.0 - side)).abs() < 1e-6);
        assert!((f64::from(plane[0]) - (1.0 - side).powi(2)).abs() < 1e-6);
    }
}
