//! Boxes painted over: cutout and random erasing.

use super::step::{Normalize, Place};
use crate::error::Result;
use crate::random::Stream;
use serde::{Deserialize, Serialize};

/// Paints a square whose centre is uniform in the view; it may reach beyond the border (`DeVries` and Taylor 2017,
/// arXiv:1708.04552, as used in the composition study of Chen et al. 2020, arXiv:2002.05709, section 3.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cutout {
    /// How often, 1 unless told.
    pub probability: f64,
    /// Side of the square as a fraction of the view's, 0.5 unless told.
    pub fraction: f64,
    /// Its grey, within 0 to 1; 0.5 unless told.
    pub fill: f64,
}

impl Default for Cutout {
    fn default() -> Self {
        Self { probability: 1.0, fraction: 0.5, fill: 0.5 }
    }
}

/// Paints a random box after normalising (torchvision's `RandomErasing`; Zhong et al. 2020, arXiv:1708.04896): up to ten
/// tries with the area uniform and the ratio height / width log-uniform, none if no box was smaller than the view.
///
/// The value is one of the *normalised* image, so it must stand last but for `normalize`. Views travel as bytes, so the
/// colour that normalises to the value is rounded to 8 bits: what the network sees is off by at most 0.5 / 255 / std (0.01
/// at a standard deviation of 0.2). Without `normalize` the value is one of \[0, 1\].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomErasing {
    /// How often, 0.5 unless told.
    pub probability: f64,
    /// Least and greatest area as a fraction of the view's; \[0.02, 0.33\] unless told.
    pub scale: [f64; 2],
    /// Least and greatest height / width; \[0.3, 3.3\] unless told.
    pub ratio: [f64; 2],
    /// Normalised value of every channel, 0 (the mean) unless told; cut off at black and white.
    pub value: f64,
}

impl Default for RandomErasing {
    fn default() -> Self {
        Self { probability: 0.5, scale: [0.02, 0.33], ratio: [0.3, 3.3], value: 0.0 }
    }
}

/// A box of the view and the colour it gets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green and blue in \[0, 1\].
    pub color: [f32; 3],
}

impl Cutout {
    pub(super) fn check(&self, place: &Place) -> Result<()> {
        place.probability(self.probability)?;
        place.require(
            self.fraction > 0.0 && self.fraction <= 1.0,
            "fraction",
            "above 0 and at most 1",
            format_args!("{}", self.fraction),
        )?;
        let fill = self.fill;
        place.require((0.0..=1.0).contains(&fill), "fill", "within 0 to 1", format_args!("{fill}"))
    }

    /// Draws the part of the square that lies in a view of side `size_px`.
    pub(super) fn sample(&self, stream: &mut Stream, size_px: usize) -> Option<Patch> {
        let side = ((size_px as f64 * self.fraction).round() as usize).max(1);
        let applied = stream.chance(self.probability);
        let mut span = || {
            let end = stream.below(size_px as u64) as usize + side.div_ceil(2);
            let start = end.saturating_sub(side);
            (start, end.min(size_px) - start)
        };
        let ((left, width), (top, height)) = (span(), span());
        let color = [self.fill as f32; 3];
        applied.then_some(Patch { left, top, width, height, color })
    }
}

impl RandomErasing {
    pub(super) fn check(&self, place: &Place) -> Result<()> {
        place.probability(self.probability)?;
        place.box_ranges(self.scale, self.ratio)?;
        let value = self.value;
        place.require(value.is_finite(), "value", "a finite number", format_args!("{value}"))
    }

    /// Draws the box in a view of side `size_px` that will be normalised so.
    pub(super) fn sample(
        &self,
        stream: &mut Stream,
        size_px: usize,
        normalize: Option<&Normalize>,
    ) -> Option<Patch> {
        if !stream.chance(self.probability) {
            return None;
        }
        let (mean, std) = normalize.map_or(([0.0; 3], [1.0; 3]), |it| (it.mean, it.std));
        let color = [0, 1, 2].map(|c| (mean[c] + self.value * std[c]).clamp(0.0, 1.0) as f32);
        for _ in 0..10 {
            let area = (size_px * size_px) as f64 * stream.range(self.scale[0], self.scale[1]);
            let ratio = stream.range(self.ratio[0].ln(), self.ratio[1].ln()).exp();
            let height = (area * ratio).sqrt().round_ties_even() as usize;
            let width = (area / ratio).sqrt().round_ties_even() as usize;
            if height < size_px && width < size_px {
                let top = stream.below((size_px - height) as u64 + 1) as usize;
                let left = stream.below((size_px - width) as u64 + 1) as usize;
                return Some(Patch { left, top, width, height, color });
            }
        }
        None
    }
}

impl Patch {
    /// Paints the box on the planes of a square view.
    pub(super) fn apply(&self, planes: [&mut [f32]; 3], size_px: usize) {
        for (plane, color) in planes.into_iter().zip(self.color) {
            for row in plane.chunks_exact_mut(size_px).skip(self.top).take(self.height) {
                row[self.left..][..self.width].fill(color);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope};

    fn draws<T>(sample: impl Fn(&mut Stream) -> Option<T>) -> Vec<T> {
        let stream = |item| Stream::open(3, Purpose::Test, Scope::Item(item));
        (0..100_000).filter_map(|item| sample(&mut stream(item))).collect()
    }

    #[test]
    fn a_cutout_has_its_side_and_its_centre_is_uniform() {
        for (size_px, fraction, side) in [(32, 0.5, 16), (9, 0.3, 3), (5, 0.01, 1), (8, 1.0, 8)] {
            let cutout = Cutout { fraction, ..Cutout::default() };
            let found = draws(|stream| cutout.sample(stream, size_px));
            assert_eq!(found.len(), 100_000);
            let mut counts = vec![0; size_px];
            for patch in &found {
                assert!(patch.width <= side && patch.left + patch.width <= size_px);
                assert!(patch.height <= side && patch.top + patch.height <= size_px);
                // Only the border makes it smaller, and the last column of the upper half is the drawn centre.
                let whole = patch.left > 0 && patch.left + patch.width < size_px;
                assert!(!whole || patch.width == side);
                let end = if patch.left > 0 { patch.left + side } else { patch.width };
                counts[end - side.div_ceil(2)] += 1;
            }
            let expected = 100_000 / size_px;
            assert!(
                counts.iter().all(|n| (expected * 9 / 10..=expected * 11 / 10).contains(n)),
                "{size_px} {fraction}: {counts:?}"
            );
        }
    }

    #[test]
    fn random_erasing_paints_what_normalises_to_the_value() {
        let normalize = Normalize { mean: [0.4914, 0.4822, 0.4465], std: [0.2, 0.25, 0.3] };
        let mut stream = Stream::open(3, Purpose::Test, Scope::Item(0));
        for (value, normalize) in [(0.0, Some(&normalize)), (1.5, Some(&normalize)), (0.25, None)] {
            let erasing = RandomErasing { probability: 1.0, value, ..RandomErasing::default() };
            let color = erasing.sample(&mut stream, 32, normalize).unwrap().color;
            for (c, color) in color.into_iter().enumerate() {
                let (mean, std) = normalize.map_or((0.0, 1.0), |it| (it.mean[c], it.std[c]));
                let byte = f64::from((color * 255.0).round()) / 255.0;
                assert!(((byte - mean) / std - value).abs() <= 0.5 / 255.0 / std, "{c} {value}");
            }
        }
    }

    #[test]
    fn only_the_box_is_painted() {
        let mut planes = [vec![1.0; 20], vec![1.0; 20], vec![1.0; 20]];
        let patch = Patch { left: 1, top: 2, width: 2, height: 1, color: [0.1, 0.2, 0.3] };
        let [red, green, blue] = &mut planes;
        patch.apply([red, green, blue], 4);
        for (plane, color) in planes.iter().zip(patch.color) {
            for (at, value) in plane.iter().enumerate() {
                let expected = if at == 9 || at == 10 { color } else { 1.0 };
                assert_eq!(value.to_bits(), expected.to_bits());
            }
        }
    }

    #[test]
    fn too_large_a_box_erases_nothing() {
        let erasing =
            RandomErasing { probability: 1.0, scale: [1.0, 1.0], ..RandomErasing::default() };
        let erasing = RandomErasing { ratio: [1.0, 1.0], ..erasing };
        assert!(draws(|stream| erasing.sample(stream, 8, None)).is_empty());
        let rare = RandomErasing { probability: 0.1, ..RandomErasing::default() };
        let found = draws(|stream| rare.sample(stream, 32, None)).len();
        assert!((9_500..10_500).contains(&found), "{found}");
    }
}
