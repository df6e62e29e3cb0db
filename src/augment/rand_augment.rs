//! `RandAugment` as InfoMin uses it: what is drawn. The arithmetic is in [`super::pillow`].

use super::step::Place;
use crate::error::Result;
use crate::random::Stream;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A few operations of Pillow, drawn anew for each view (`RandAugment`, Cubuk et al. 2020, arXiv:1909.13719, in the form
/// of `InfoMin`'s code, which is timm's): `operations` of 15, with replacement, each applied with `probability` at a
/// magnitude normal about `magnitude` and cut to 0–10. The factors, angles and thresholds are those of
/// [`PillowOperation`]; what geometry uncovers becomes (124, 116, 104), bilinear or bicubic at random, left or right at
/// random. They are operations on bytes: the view is rounded to 8 bits before each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandAugment {
    /// Operations drawn, 2 unless told.
    pub operations: usize,
    /// Mean magnitude, 0 to 10; 10 unless told.
    pub magnitude: f64,
    /// Standard deviation of the magnitude, 0.5 unless told.
    pub magnitude_std: f64,
    /// How often each drawn operation is applied, 0.5 unless told.
    pub probability: f64,
}

impl Default for RandAugment {
    fn default() -> Self {
        Self { operations: 2, magnitude: 10.0, magnitude_std: 0.5, probability: 0.5 }
    }
}

/// One drawn operation of Pillow on 8-bit pixels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PillowOperation {
    /// `ImageOps.autocontrast`: each channel stretched to 0–255.
    AutoContrast,
    /// `ImageOps.equalize`: each channel's histogram made flat.
    Equalize,
    /// `ImageOps.invert`.
    Invert,
    /// `ImageOps.posterize` to so many bits: ⌊0.4 · magnitude⌋ (the TPU variant); 0 bits is black.
    Posterize(u8),
    /// `ImageOps.solarize`: values from the threshold ⌊25.6 · magnitude⌋ on are inverted.
    Solarize(u16),
    /// ⌊11 · magnitude⌋ added to values below 128.
    SolarizeAdd(u8),
    /// `ImageEnhance.Color` by 0.18 · magnitude + 0.1.
    Color(f32),
    /// `ImageEnhance.Contrast` by 0.18 · magnitude + 0.1.
    Contrast(f32),
    /// `ImageEnhance.Brightness` by 0.18 · magnitude + 0.1.
    Brightness(f32),
    /// `ImageEnhance.Sharpness` by 0.18 · magnitude + 0.1.
    Sharpness(f32),
    /// A movement.
    Warp(Warp),
}

/// A drawn movement of the pixels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warp {
    /// Which.
    pub motion: Motion,
    /// How pixels are interpolated.
    pub resampling: Resampling,
}

/// A movement: which point of the image is seen at a place of the view.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Motion {
    /// `Image.rotate` about the centre, in degrees counter-clockwise: ±3 · magnitude.
    Rotate(f32),
    /// Columns by so much of a row: ±0.03 · magnitude.
    ShearX(f32),
    /// Rows by so much of a column: ±0.03 · magnitude.
    ShearY(f32),
    /// Fraction of the width: ±0.045 · magnitude.
    TranslateX(f32),
    /// Fraction of the height: ±0.045 · magnitude.
    TranslateY(f32),
}

/// Pillow's interpolation for movements, which is not that of its resizing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resampling {
    /// Between 2×2 pixels.
    Bilinear,
    /// Between 4×4 pixels, a = −1.
    Bicubic,
}

impl RandAugment {
    pub(super) fn check(&self, place: &Place) -> Result<()> {
        let Self { operations, magnitude, magnitude_std, probability } = *self;
        place.require(
            (1..=15).contains(&operations),
            "operations",
            "1 to 15",
            format_args!("{operations}"),
        )?;
        place.require(
            (0.0..=10.0).contains(&magnitude),
            "magnitude",
            "within 0 to 10",
            format_args!("{magnitude}"),
        )?;
        place.require(
            magnitude_std >= 0.0 && magnitude_std.is_finite(),
            "magnitude_std",
            "at least 0",
            format_args!("{magnitude_std}"),
        )?;
        place.probability(probability)
    }

    /// Draws the operations that are applied, in order.
    pub(super) fn sample(&self, stream: &mut Stream) -> Vec<PillowOperation> {
        let mut drawn = Vec::with_capacity(self.operations);
        for _ in 0..self.operations {
            let which = stream.below(OPERATIONS);
            let applied = stream.chance(self.probability);
            let level = self.magnitude + self.magnitude_std * stream.normal();
            let level = level.clamp(0.0, 10.0) / 10.0;
            let sign = if stream.chance(0.5) { -1.0 } else { 1.0 };
            let bicubic = stream.chance(0.5);
            if applied {
                drawn.push(operation(which, level, sign, bicubic));
            }
        }
        drawn
    }
}

const OPERATIONS: u64 = 15;

/// Operation number `which` at `level`, 0 to 1.
fn operation(which: u64, level: f64, sign: f64, bicubic: bool) -> PillowOperation {
    let factor = (level * 1.8 + 0.1) as f32;
    let resampling = if bicubic { Resampling::Bicubic } else { Resampling::Bilinear };
    let warp = |motion| PillowOperation::Warp(Warp { motion, resampling });
    let signed = |most: f64| (sign * level * most) as f32;
    match which {
        0 => PillowOperation::AutoContrast,
        1 => PillowOperation::Equalize,
        2 => PillowOperation::Invert,
        3 => PillowOperation::Posterize((level * 4.0) as u8),
        4 => PillowOperation::Solarize((level * 256.0) as u16),
        5 => PillowOperation::SolarizeAdd((level * 110.0) as u8),
        6 => PillowOperation::Color(factor),
        7 => PillowOperation::Contrast(factor),
        8 => PillowOperation::Brightness(factor),
        9 => PillowOperation::Sharpness(factor),
        10 => warp(Motion::Rotate(signed(30.0))),
        11 => warp(Motion::ShearX(signed(0.3))),
        12 => warp(Motion::ShearY(signed(0.3))),
        13 => warp(Motion::TranslateX(signed(0.45))),
        14 => warp(Motion::TranslateY(signed(0.45))),
        _ => unreachable!("there are 15 operations"),
    }
}

impl fmt::Display for PillowOperation {
    /// `rand posterize 3 bits`, `rand rotate +28.1 degrees`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rand ")?;
        match self {
            Self::AutoContrast => f.write_str("autocontrast"),
            Self::Equalize => f.write_str("equalize"),
            Self::Invert => f.write_str("invert"),
            Self::Posterize(bits) => write!(f, "posterize {bits} bits"),
            Self::Solarize(threshold) => write!(f, "solarize from {threshold}"),
            Self::SolarizeAdd(amount) => write!(f, "solarize add {amount}"),
            Self::Color(x) => write!(f, "color {x:.2}"),
            Self::Contrast(x) => write!(f, "contrast {x:.2}"),
            Self::Brightness(x) => write!(f, "brightness {x:.2}"),
            Self::Sharpness(x) => write!(f, "sharpness {x:.2}"),
            Self::Warp(Warp { motion, .. }) => match motion {
                Motion::Rotate(degrees) => write!(f, "rotate {degrees:+.1} degrees"),
                Motion::ShearX(x) => write!(f, "shear x {x:+.2}"),
                Motion::ShearY(x) => write!(f, "shear y {x:+.2}"),
                Motion::TranslateX(x) => write!(f, "translate x {x:+.2}"),
                Motion::TranslateY(x) => write!(f, "translate y {x:+.2}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope};
    use std::collections::BTreeMap;

    fn draws(recipe: &RandAugment) -> Vec<Vec<PillowOperation>> {
        let draw = |item| recipe.sample(&mut Stream::open(2, Purpose::Test, Scope::Item(item)));
        (0..30_000).map(draw).collect()
    }

    fn name(operation: &PillowOperation) -> String {
        let text = operation.to_string();
        text.split(|c: char| c.is_ascii_digit() || c == '+' || c == '-').next().unwrap().to_owned()
    }

    #[test]
    fn each_of_fifteen_operations_is_as_likely_and_half_are_applied() {
        let mut counts = BTreeMap::new();
        let mut lengths = [0u32; 3];
        for drawn in draws(&RandAugment::default()) {
            lengths[drawn.len()] += 1;
            for operation in drawn {
                *counts.entry(name(&operation)).or_insert(0u32) += 1;
            }
        }
        assert_eq!(counts.len(), 15, "{counts:?}");
        // Chi square: 36.1 with 14 and 13.8 with 2 degrees of freedom have probability 0.001.
        let chi = |found: &mut dyn Iterator<Item = (u32, f64)>| -> f64 {
            found.map(|(n, expected)| (f64::from(n) - expected).powi(2) / expected).sum()
        };
        let operations = chi(&mut counts.values().map(|n| (*n, 2_000.0)));
        assert!(operations < 36.1, "{counts:?}");
        let applied = chi(&mut lengths.into_iter().zip([7_500.0, 15_000.0, 7_500.0]));
        assert!(applied < 13.8, "{lengths:?}");
    }

    #[test]
    fn magnitudes_are_normal_cut_off_and_geometry_goes_both_ways() {
        let recipe = RandAugment { magnitude: 9.0, probability: 1.0, ..RandAugment::default() };
        let (mut angles, mut factors) = (Vec::new(), Vec::new());
        let mut bicubic = 0;
        for operation in draws(&recipe).into_iter().flatten() {
            match operation {
                PillowOperation::Warp(Warp { motion: Motion::Rotate(degrees), resampling }) => {
                    angles.push(degrees);
                    bicubic += usize::from(resampling == Resampling::Bicubic);
                }
                PillowOperation::Sharpness(factor) => factors.push(f64::from(factor)),
                PillowOperation::Posterize(bits) => assert!((2..=4).contains(&bits)),
                _ => {}
            }
        }
        let n = angles.len() as f64;
        let positive = angles.iter().filter(|degrees| **degrees > 0.0).count() as f64;
        assert!((positive / n - 0.5).abs() < 0.03 && (bicubic as f64 / n - 0.5).abs() < 0.03);
        // A magnitude of 9 ± 0.5 is cut at 10 with probability P(z > 2) = 0.0228; the mean then is 9 − 0.5·0.00849.
        let cut =
            angles.iter().filter(|degrees| (degrees.abs() - 30.0).abs() < 1e-6).count() as f64;
        assert!((cut / n - 0.0228).abs() < 0.009, "{}", cut / n);
        let mean = factors.iter().sum::<f64>() / factors.len() as f64;
        assert!((mean - (0.18 * (9.0 - 0.5 * 0.008_49) + 0.1)).abs() < 0.006, "{mean}");
    }

    #[test]
    fn the_levels_are_those_of_the_table() {
        let at = |which, level| operation(which, level, -1.0, true);
        assert_eq!(at(3, 1.0), PillowOperation::Posterize(4));
        assert_eq!(at(3, 0.99), PillowOperation::Posterize(3));
        assert_eq!(at(4, 1.0), PillowOperation::Solarize(256));
        assert_eq!(at(5, 0.5), PillowOperation::SolarizeAdd(55));
        assert_eq!(at(6, 1.0), PillowOperation::Color(1.9));
        assert_eq!(at(9, 0.0), PillowOperation::Sharpness(0.1));
        let warp = |motion| PillowOperation::Warp(Warp { motion, resampling: Resampling::Bicubic });
        assert_eq!(at(10, 0.5), warp(Motion::Rotate(-15.0)));
        assert_eq!(at(12, 1.0), warp(Motion::ShearY(-0.3)));
        assert_eq!(at(13, 1.0), warp(Motion::TranslateX(-0.45)));
    }
}
