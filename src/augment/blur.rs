//! Gaussian blur: a sampled kernel, or Pillow's three box blurs.

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
        let filter = self.filter();
        if filter.whole {
            to_bytes(plane);
        }
        filter.apply(plane, size_px, buffer);
        if filter.whole {
            for value in plane {
                *value /= 255.0;
            }
        }
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

/// Working memory of a blur.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    row: Vec<f32>,
    rows: Vec<f32>,
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
        let stride = size.next_multiple_of(LANES);
        let Buffer { row: line, rows } = buffer;
        line.clear();
        line.resize(stride + 2 * radius, 0.0);
        rows.clear();
        rows.resize(stride * (size + 2 * radius), 0.0);
        let targets = rows.chunks_exact_mut(stride).skip(radius);
        for (source, target) in plane.chunks_exact(size).zip(targets) {
            target[..size].copy_from_slice(source);
            for _ in 0..self.passes {
                line[radius..radius + size].copy_from_slice(&target[..size]);
                for (at, place) in margins(radius, size) {
                    line[place] = self.outside.source(at, size).map_or(0.0, |x| target[x]);
                }
                weigh(line, 1, &self.taps, self.whole, target);
            }
        }
        line.truncate(stride);
        for pass in 1..=self.passes {
            for (at, place) in margins(radius, size) {
                // These rows start out black.
                if let Some(source) = self.outside.source(at, size) {
                    let from = (source + radius) * stride;
                    rows.copy_within(from..from + stride, place * stride);
                }
            }
            for (y, target) in plane.chunks_exact_mut(size).enumerate() {
                let span = y * stride..(y + 2 * radius + 1) * stride;
                weigh(&rows[span], stride, &self.taps, self.whole, line);
                target.copy_from_slice(&line[..size]);
            }
            if pass < self.passes {
                let targets = rows.chunks_exact_mut(stride).skip(radius);
                for (source, target) in plane.chunks_exact(size).zip(targets) {
                    target[..size].copy_from_slice(source);
                }
            }
        }
    }
}

/// The positions beyond either edge, each with its place in a line that has `radius` more at both ends.
fn margins(radius: usize, size: usize) -> impl Iterator<Item = (isize, usize)> {
    (0..radius)
        .chain(radius + size..size + 2 * radius)
        .map(move |place| (place as isize - radius as isize, place))
}

/// `out[x] = Σ_j taps[|j|] · source[x + (j + radius) · step]`; `out` is a whole number of lanes.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn weigh(source: &[f32], step: usize, taps: &[f32], whole: bool, out: &mut [f32]) {
    let radius = taps.len() - 1;
    let lanes = |at: usize| source[at..].first_chunk::<LANES>().expect("lines end in whole lanes");
    for (block, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let centre = block * LANES + radius * step;
        let mut sum = lanes(centre).map(|value| taps[0] * value);
        for (distance, tap) in taps.iter().enumerate().skip(1) {
            let before = lanes(centre - distance * step);
            let after = lanes(centre + distance * step);
            for lane in 0..LANES {
                sum[lane] += tap * (before[lane] + after[lane]);
            }
        }
        *out = if whole { sum.map(f32::round_ties_even) } else { sum };
    }
}

/// From \[0, 1\] to whole numbers of 0 to 255.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn to_bytes(plane: &mut [f32]) {
    for value in plane {
        *value = (*value * 255.0).round_ties_even();
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
