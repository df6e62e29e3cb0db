//! Semi-hard mining: one negative per anchor, just beyond its positive.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// What becomes of an anchor without a semi-hard negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Empty {
    /// It has no negative.
    #[default]
    Skip,
    /// Its closest negative is taken, wherever that is.
    Hardest,
}

impl Empty {
    /// Refuses the setting where there is no mining to read it; `key` is the loss's table in the recipe, `method.loss`.
    pub(super) fn check_unused(self, key: &str) -> Result<()> {
        match self {
            Self::Skip => Ok(()),
            Self::Hardest => Err(Error::Recipe(format!(
                "`{key}.empty` is about anchors without a semi-hard negative and needs `{key}.semi_hard = true`"
            ))),
        }
    }
}

/// Semi-hard mining: of an anchor's negatives the closest one that lies strictly within the margin but strictly further
/// away than the positive, `s⁺ - m < s⁻ < s⁺` (after Schroff et al. 2015, arXiv:1503.03832, §3.2). On unit rows the order of
/// cosines is the order of Euclidean distances, `‖a - b‖² = 2 - 2s`; the margin is one of cosines.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SemiHard {
    /// m on cosines, at least 0; above 2, infinity included, any negative less similar than the positive will do.
    pub margin: f64,
    /// What becomes of an anchor without a candidate.
    pub empty: Empty,
}

impl SemiHard {
    /// Checks the margin; `key` is its name in the recipe, `method.loss.margin`.
    pub(super) fn check(self, key: &str) -> Result<()> {
        let least = if self.empty == Empty::Skip { "above 0" } else { "at least 0" };
        if self.margin > 0.0 || self.margin == 0.0 && self.empty == Empty::Hardest {
            return Ok(());
        }
        Err(Error::Recipe(format!(
            "`{key}` must be {least}, or no negative lies within it, found `{}`",
            self.margin
        )))
    }

    /// Picks from `scores` `[tile, columns]`, where columns that are no negatives hold minus infinity.
    pub(super) fn pick(self, scores: &Tensor, positives: &Tensor) -> Picked {
        let lowest = positives - self.margin;
        let outside = scores.ge_tensor(positives).logical_or_(&scores.le_tensor(&lowest));
        let (mut score, mut column) =
            scores.masked_fill(&outside, f64::NEG_INFINITY).max_dim(1, true);
        let semi_hard = score.gt(f64::NEG_INFINITY);
        if self.empty == Empty::Hardest {
            let (hardest, its_column) = scores.max_dim(1, true);
            score = score.where_self(&semi_hard, &hardest);
            column = column.where_self(&semi_hard, &its_column);
        }
        Picked { score, column, semi_hard }
    }
}

/// One negative per row of a tile, each `[tile, 1]`.
pub(super) struct Picked {
    /// Its score, minus infinity where there is none.
    pub(super) score: Tensor,
    /// Its column.
    pub(super) column: Tensor,
    /// Whether it is semi-hard.
    pub(super) semi_hard: Tensor,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row of scores, as mining sees it.
    fn pick(margin: f64, empty: Empty, positive: f64, negatives: &[f64]) -> (f64, i64, bool) {
        let scores = Tensor::from_slice(negatives).unsqueeze(0);
        let positives = Tensor::from_slice(&[positive]).unsqueeze(1);
        let found = SemiHard { margin, empty }.pick(&scores, &positives);
        (
            found.score.double_value(&[]),
            found.column.int64_value(&[]),
            found.semi_hard.int64_value(&[]) == 1,
        )
    }

    #[test]
    fn the_closest_negative_strictly_inside_the_margin_is_picked() {
        let skip =
            |margin, positive, negatives: &[f64]| pick(margin, Empty::Skip, positive, negatives);
        assert_eq!(skip(0.4, 0.6, &[0.1, 0.25, 0.55, 0.7]), (0.55, 2, true));
        // Both ends are open: exact binary fractions at the ends.
        assert_eq!(skip(0.25, 0.75, &[0.5, 0.75, 0.625, 0.875]), (0.625, 2, true));
        let nothing = (f64::NEG_INFINITY, false);
        let found = skip(0.25, 0.75, &[0.5, 0.75, 0.875, -0.5]);
        assert_eq!((found.0, found.2), nothing);
        assert_eq!(skip(f64::INFINITY, 0.75, &[f64::NEG_INFINITY, -1.0, 0.9]), (-1.0, 1, true));
        let found = skip(f64::INFINITY, 0.75, &[f64::NEG_INFINITY, 0.9]);
        assert_eq!((found.0, found.2), nothing);
        let hardest = |negatives: &[f64]| pick(0.25, Empty::Hardest, 0.75, negatives);
        assert_eq!(hardest(&[0.5, 0.625, 0.875]), (0.625, 1, true));
        assert_eq!(hardest(&[0.5, 0.75, 0.875]), (0.875, 2, false));
        assert_eq!(hardest(&[0.25, 0.5, -0.5]), (0.5, 1, false));
    }
}
