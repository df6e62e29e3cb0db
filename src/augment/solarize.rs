//! Solarising: what is bright is inverted.

use super::step::Place;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Replaces every value x of at least `threshold` by 1 − x (BYOL's and Barlow Twins' second view).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Solarize {
    /// How often, 0.2 unless told.
    pub probability: f64,
    /// From where on, 0.5 unless told: of 8 bits, 128 and above (Pillow's default).
    pub threshold: f64,
}

impl Default for Solarize {
    fn default() -> Self {
        Self { probability: 0.2, threshold: 0.5 }
    }
}

impl Solarize {
    pub(super) fn check(&self, place: &Place) -> Result<()> {
        place.probability(self.probability)?;
        place.require(
            (0.0..=1.0).contains(&self.threshold),
            "threshold",
            "within 0 to 1",
            format_args!("{}", self.threshold),
        )
    }
}
