//! Colour: the float-tensor formulas of torchvision and of TensorFlow on planes in \[0, 1\], clamped after each operation.
//!
//! The loops hold no fused multiply-add and sum in a fixed order, so every x86-64 gives the same bits.

use super::step::Place;
use crate::error::Result;
use crate::random::Stream;
use multiversion::multiversion;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Random brightness, contrast, saturation and hue in an order drawn anew each time. A strength of 0 leaves its operation
/// out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColorJitter {
    /// How often, 0.8 unless told.
    pub probability: f64,
    /// Whose formulas: `torchvision` (default), `tf_v2` or `tf_v1`.
    pub kind: JitterKind,
    /// Factor uniform in \[max(0, 1 − b), 1 + b\]; for `tf_v1` a summand uniform in \[−b, b\].
    pub brightness: f64,
    /// Factor uniform in \[max(0, 1 − c), 1 + c\].
    pub contrast: f64,
    /// Factor uniform in \[max(0, 1 − s), 1 + s\].
    pub saturation: f64,
    /// Shift uniform in \[−h, h\] turns of the colour circle; at most 0.5.
    pub hue: f64,
}

/// Whose formulas change brightness, contrast and saturation. Hue, the random order and the clipping after each operation
/// are common to all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JitterKind {
    /// `ColorJitter` in `RandomApply`: brightness as a factor, contrast about the mean of the grey image, saturation as a
    /// blend with the grey image.
    #[default]
    Torchvision,
    /// SimCLR's first version, and BYOL's with strengths of its own (`byol/utils/augmentations.py`: the same formulas,
    /// order and clipping): brightness as a summand, contrast about each channel's mean, saturation as a factor of the S
    /// of HSV, cut at 1.
    TfV1,
    /// SimCLR's second version, the default of its code: as [`JitterKind::TfV1`], brightness as a factor.
    TfV2,
}

impl Default for ColorJitter {
    fn default() -> Self {
        Self {
            probability: 0.8,
            kind: JitterKind::Torchvision,
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            hue: 0.1,
        }
    }
}

/// Replaces the colours by their luma, 0.2989 R + 0.587 G + 0.114 B: the weights of torchvision's tensors, TensorFlow and
/// BYOL. Pillow's (0.299, 0.587, 0.114 in 16-bit integers) differ by at most 1/10,000, a fortieth of an 8-bit step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grayscale {
    /// How often, 0.2 unless told.
    pub probability: f64,
}

impl Default for Grayscale {
    fn default() -> Self {
        Self { probability: 0.2 }
    }
}

/// One drawn change of colour.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Adjustment {
    /// All values times the factor.
    Brightness(f32),
    /// Blend with the mean of the grey image.
    Contrast(f32),
    /// Blend with the grey image.
    Saturation(f32),
    /// Turns of the colour circle.
    Hue(f32),
    /// Only the luma is left.
    Grayscale,
    /// The summand added to all values (TensorFlow).
    BrightnessOffset(f32),
    /// Each channel's distance from its own mean times the factor (TensorFlow).
    ChannelContrast(f32),
    /// The S of HSV times the factor, at most 1 (TensorFlow).
    HsvSaturation(f32),
    /// Values from the threshold on are inverted.
    Solarize(f32),
}

impl ColorJitter {
    pub(super) fn check(&self, place: &Place) -> Result<()> {
        place.probability(self.probability)?;
        for (key, strength) in [
            ("brightness", self.brightness),
            ("contrast", self.contrast),
            ("saturation", self.saturation),
        ] {
            let holds = strength >= 0.0 && strength.is_finite();
            place.require(holds, key, "at least 0", format_args!("{strength}"))?;
        }
        if self.kind != JitterKind::Torchvision {
            for (key, strength) in [("contrast", self.contrast), ("saturation", self.saturation)] {
                let expected = "at most 1 for TensorFlow's kinds";
                place.require(strength <= 1.0, key, expected, format_args!("{strength}"))?;
            }
        }
        let holds = (0.0..=0.5).contains(&self.hue);
        place.require(holds, "hue", "within 0 to 0.5", format_args!("{}", self.hue))
    }

    /// Draws the operations in the order in which they act; empty if the image is left alone.
    pub(super) fn sample(&self, stream: &mut Stream) -> Vec<Adjustment> {
        if !stream.chance(self.probability) {
            return Vec::new();
        }
        let order = stream.permutation(4);
        let factor = |strength: f64| [(1.0 - strength).max(0.0), 1.0 + strength];
        let about_zero = |strength: f64| [-strength, strength];
        let brightness = match self.kind {
            JitterKind::TfV1 => about_zero(self.brightness),
            JitterKind::Torchvision | JitterKind::TfV2 => factor(self.brightness),
        };
        let mut draw = |[low, high]: [f64; 2]| stream.range(low, high) as f32;
        let brightness = draw(brightness);
        let contrast = draw(factor(self.contrast));
        let saturation = draw(factor(self.saturation));
        let hue = Adjustment::Hue(draw(about_zero(self.hue)));
        let brightness = match self.kind {
            JitterKind::TfV1 => Adjustment::BrightnessOffset(brightness),
            JitterKind::Torchvision | JitterKind::TfV2 => Adjustment::Brightness(brightness),
        };
        let (contrast, saturation) = match self.kind {
            JitterKind::Torchvision => {
                (Adjustment::Contrast(contrast), Adjustment::Saturation(saturation))
            }
            JitterKind::TfV1 | JitterKind::TfV2 => {
                (Adjustment::ChannelContrast(contrast), Adjustment::HsvSaturation(saturation))
            }
        };
        let drawn = [
            (self.brightness, brightness),
            (self.contrast, contrast),
            (self.saturation, saturation),
            (self.hue, hue),
        ];
        order.into_iter().map(|i| drawn[i]).filter(|drawn| drawn.0 > 0.0).map(|it| it.1).collect()
    }
}

impl Adjustment {
    /// Changes the planes of an image in place; red, green and blue have one length.
    pub(super) fn apply(self, planes: [&mut [f32]; 3]) {
        let [red, green, blue] = planes;
        match self {
            Self::Brightness(factor) => {
                for plane in [red, green, blue] {
                    blend_with(plane, factor, 0.0);
                }
            }
            Self::Contrast(factor) => {
                let mean = mean_luma(red, green, blue);
                for plane in [red, green, blue] {
                    blend_with(plane, factor, (1.0 - factor) * mean);
                }
            }
            Self::Saturation(factor) => saturate(red, green, blue, factor),
            Self::Hue(turns) => turn_hue(red, green, blue, turns),
            Self::Grayscale => saturate(red, green, blue, 0.0),
            Self::BrightnessOffset(summand) => {
                for plane in [red, green, blue] {
                    blend_with(plane, 1.0, summand);
                }
            }
            Self::ChannelContrast(factor) => {
                for plane in [red, green, blue] {
                    let mean = mean(plane);
                    blend_with(plane, factor, (1.0 - factor) * mean);
                }
            }
            Self::HsvSaturation(factor) => scale_saturation(red, green, blue, factor),
            Self::Solarize(threshold) => {
                for plane in [red, green, blue] {
                    invert_from(plane, threshold);
                }
            }
        }
    }
}

impl fmt::Display for Adjustment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Brightness(x) => write!(f, "brightness {x:.2}"),
            Self::Contrast(x) | Self::ChannelContrast(x) => write!(f, "contrast {x:.2}"),
            Self::Saturation(x) | Self::HsvSaturation(x) => write!(f, "saturation {x:.2}"),
            Self::Hue(x) => write!(f, "hue {x:+.2}"),
            Self::Grayscale => f.write_str("grey"),
            Self::BrightnessOffset(x) => write!(f, "brightness {x:+.2}"),
            Self::Solarize(x) => write!(f, "solarize {x:.2}"),
        }
    }
}

#[inline]
fn luma(red: f32, green: f32, blue: f32) -> f32 {
    0.2989 * red + 0.587 * green + 0.114 * blue
}

#[inline]
fn clamp(value: f32) -> f32 {
    value.clamp(0.0, 1.0)
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn blend_with(plane: &mut [f32], factor: f32, offset: f32) {
    for value in plane {
        *value = clamp(factor * *value + offset);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn saturate(red: &mut [f32], green: &mut [f32], blue: &mut [f32], factor: f32) {
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        let grey = (1.0 - factor) * luma(*red, *green, *blue);
        *red = clamp(factor * *red + grey);
        *green = clamp(factor * *green + grey);
        *blue = clamp(factor * *blue + grey);
    }
}

/// Multiplies the S of HSV. With maximum v and chroma c = s·v a channel x is v − c·k with a k that depends on the hue alone,
/// so the new one is v − (v − x)·min(factor, v / c): no need to know the hue.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn scale_saturation(red: &mut [f32], green: &mut [f32], blue: &mut [f32], factor: f32) {
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        let most = red.max(*green).max(*blue);
        let chroma = most - red.min(*green).min(*blue);
        let factor = if factor * chroma > most { most / chroma } else { factor };
        *red = clamp(most - (most - *red) * factor);
        *green = clamp(most - (most - *green) * factor);
        *blue = clamp(most - (most - *blue) * factor);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn invert_from(plane: &mut [f32], threshold: f32) {
    for value in plane {
        *value = if *value >= threshold { 1.0 - *value } else { *value };
    }
}

const LANES: usize = 32;

/// Mean, summed in `LANES` interleaved parts (the same on every machine).
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn mean(plane: &[f32]) -> f32 {
    let (blocks, rest) = plane.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for block in blocks {
        for lane in 0..LANES {
            sums[lane] += block[lane];
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum += value;
    }
    mean_of(&sums, plane.len())
}

/// Mean luma, summed in the same way.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn mean_luma(red: &[f32], green: &[f32], blue: &[f32]) -> f32 {
    let (reds, red_rest) = red.as_chunks::<LANES>();
    let (greens, green_rest) = green.as_chunks::<LANES>();
    let (blues, blue_rest) = blue.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for ((red, green), blue) in reds.iter().zip(greens).zip(blues) {
        for lane in 0..LANES {
            sums[lane] += luma(red[lane], green[lane], blue[lane]);
        }
    }
    for (lane, ((red, green), blue)) in red_rest.iter().zip(green_rest).zip(blue_rest).enumerate() {
        sums[lane] += luma(*red, *green, *blue);
    }
    mean_of(&sums, red.len())
}

#[inline]
fn mean_of(sums: &[f32; LANES], count: usize) -> f32 {
    let sum: f64 = sums.iter().map(|sum| f64::from(*sum)).sum();
    (sum / count as f64) as f32
}

/// Rotates the hue. With hue h in sextants, maximum v and chroma c, a channel is v − c·clamp(min(k, 4 − k), 0, 1) for
/// k = (n + h) mod 6 and n = 5, 3, 1: the six cases of the usual way back from HSV without a branch.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn turn_hue(red: &mut [f32], green: &mut [f32], blue: &mut [f32], turns: f32) {
    let shift = 6.0 * turns;
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        let (r, g, b) = (*red, *green, *blue);
        let most = r.max(g).max(b);
        let chroma = most - r.min(g).min(b);
        let inverse = 1.0 / if chroma > 0.0 { chroma } else { 1.0 };
        let from_red = (g - b) * inverse;
        let from_green = 2.0 + (b - r) * inverse;
        let from_blue = 4.0 + (r - g) * inverse;
        let hue = if g >= most { from_green } else { from_blue };
        let hue = if r >= most { from_red } else { hue } + shift;
        let hue = if hue < 0.0 { hue + 6.0 } else { hue };
        let hue = if hue >= 6.0 { hue - 6.0 } else { hue };
        let channel = |n: f32| {
            let k = n + hue;
            let k = if k >= 6.0 { k - 6.0 } else { k };
            clamp(most - chroma * clamp(k.min(4.0 - k)))
        };
        *red = channel(5.0);
        *green = channel(3.0);
        *blue = channel(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope};

    fn stream(item: u64) -> Stream {
        Stream::open(1, Purpose::Test, Scope::Item(item))
    }

    #[test]
    fn every_order_of_the_four_operations_is_as_likely_as_any_other() {
        let jitter = ColorJitter { probability: 1.0, ..ColorJitter::default() };
        let mut counts = std::collections::BTreeMap::new();
        let draws = 24_000;
        for item in 0..draws {
            let order: Vec<_> =
                jitter.sample(&mut stream(item)).iter().map(std::mem::discriminant).collect();
            *counts.entry(format!("{order:?}")).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 24);
        // Chi square with 23 degrees of freedom: 49.7 has probability 0.001.
        let expected = draws as f64 / 24.0;
        let chi: f64 = counts.values().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
        assert!(chi < 49.7, "{chi}: {counts:?}");
    }

    #[test]
    fn factors_fill_their_ranges_and_probability_and_zero_strength_hold() {
        let jitter = ColorJitter {
            probability: 0.8,
            brightness: 1.5,
            contrast: 0.4,
            saturation: 0.0,
            hue: 0.1,
            kind: JitterKind::Torchvision,
        };
        let (mut applied, mut low, mut high, mut hue) = (0, f32::MAX, f32::MIN, 0.0f64);
        for item in 0..20_000 {
            let drawn = jitter.sample(&mut stream(item));
            applied += usize::from(!drawn.is_empty());
            for adjustment in drawn {
                match adjustment {
                    Adjustment::Brightness(factor) => {
                        low = low.min(factor);
                        high = high.max(factor);
                    }
                    Adjustment::Contrast(factor) => assert!((0.6..=1.4).contains(&factor)),
                    Adjustment::Hue(turns) => {
                        assert!((-0.1..=0.1).contains(&turns));
                        hue += f64::from(turns);
                    }
                    other => panic!("{other:?} has strength 0"),
                }
            }
        }
        assert!((15_800..16_200).contains(&applied), "{applied}");
        assert!((0.0..0.01).contains(&low) && (2.49..=2.5).contains(&high), "{low} {high}");
        assert!((hue / f64::from(applied as u32)).abs() < 0.002);
    }

    #[test]
    fn a_third_of_a_turn_moves_red_to_green() {
        let (mut r, mut g, mut b) = ([1.0, 0.5], [0.0, 0.5], [0.0, 0.5]);
        Adjustment::Hue(1.0 / 3.0).apply([&mut r, &mut g, &mut b]);
        for (found, expected) in [(r, [0.0, 0.5]), (g, [1.0, 0.5]), (b, [0.0, 0.5])] {
            assert!((found[0] - expected[0]).abs() < 1e-6 && (found[1] - expected[1]).abs() < 1e-6);
        }
    }
}
