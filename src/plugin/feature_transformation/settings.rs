//! The settings of the feature transformation.

use super::super::{unused, within};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What happens to the two rows of a positive pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositiveMixing {
    /// Nothing.
    None,
    /// q' = λq + (1-λ)k and k' = λk + (1-λ)q with λ = 1 + Beta(α, α).
    #[default]
    Extrapolate,
}

/// What happens to the negatives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NegativeMixing {
    /// Nothing.
    None,
    /// n' = λn + (1-λ)m, m another negative drawn by a random permutation, λ = Beta(α, α).
    #[default]
    Interpolate,
    /// The same with λ = 1 + Beta(α, α).
    Extrapolate,
    /// n' = λq + (1-λ)n: drawn towards each query (Table 7).
    Hard,
}

/// How many λ are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// One a step: the published commands.
    #[default]
    Step,
    /// One for every pair, or every negative; not in the released code.
    Sample,
    /// One for every coordinate of every pair or negative (Table 3).
    Dimension,
}

/// Where λ comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// The Beta distribution of each mixing.
    #[default]
    Beta,
    /// Uniform in [0, 1] (plus 1 where it extrapolates), whatever the Beta settings say.
    Uniform,
}

/// Which mixed rows are brought back to unit length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Renormalize {
    /// None: the published runs.
    None,
    /// The two rows of a positive pair.
    Positive,
    /// The negatives.
    Negative,
    /// All.
    Both,
}

/// The recipe's `[plugins.feature_transformation]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeatureTransformation {
    /// What happens to positive pairs.
    pub positive: PositiveMixing,
    /// What happens to negatives, where a method has them.
    pub negative: NegativeMixing,
    /// How many λ the positives get; both rows of a pair share theirs.
    pub positive_level: Level,
    /// How many λ the negatives get.
    pub negative_level: Level,
    /// α of every extrapolation, from 0.05 to 1000 (2.0: §B.4).
    pub alpha_extrapolate: f64,
    /// α of the interpolation, from 0.05 to 1000 (1.6: §B.4).
    pub alpha_interpolate: f64,
    /// The Beta distribution of λ of the hard negatives, each from 0.05 to 1000: [2, 1] or, better, [5, 2] (Table 7).
    pub hard_beta: [f64; 2],
    /// Where λ comes from.
    pub distribution: Distribution,
    /// Whether the query within a mixed key is a constant too; the released code keeps its gradient. Queues only.
    pub detach_keys_mix: bool,
    /// Which mixed rows get unit length again; left out it is `none` against negatives (as published) and `positive` where
    /// a pair is compared with nothing else, or with prototypes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renormalize: Option<Renormalize>,
    /// Whole epochs at the start without transformation (Table 2: 0 for ResNet-50, 2 for ResNet-18).
    pub start_epoch: u32,
    /// Hard negatives with λ on the negative and 1-λ on the query. Text and Table 7 of the paper disagree about the side;
    /// off is the printed formula.
    pub swap_lambda: bool,
    /// In a batch, the sum over an anchor's kept negatives counts as much as one over all of them.
    pub rescale_negatives: bool,
}

impl Default for FeatureTransformation {
    fn default() -> Self {
        Self {
            positive: PositiveMixing::default(),
            negative: NegativeMixing::default(),
            positive_level: Level::default(),
            negative_level: Level::default(),
            alpha_extrapolate: 2.0,
            alpha_interpolate: 1.6,
            hard_beta: [2.0, 1.0],
            distribution: Distribution::default(),
            detach_keys_mix: false,
            renormalize: None,
            start_epoch: 0,
            swap_lambda: false,
            rescale_negatives: true,
        }
    }
}

impl FeatureTransformation {
    /// Checks ranges.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key.
    pub fn check(&self) -> Result<()> {
        let [first, second] = self.hard_beta;
        for (key, value) in [
            ("alpha_extrapolate", self.alpha_extrapolate),
            ("alpha_interpolate", self.alpha_interpolate),
            ("hard_beta", first),
            ("hard_beta", second),
        ] {
            within(&format!("feature_transformation.{key}"), value, [0.05, 1000.0])?;
        }
        if self.positive == PositiveMixing::None && self.negative == NegativeMixing::None {
            return Err(Error::Recipe(
                "`plugins.feature_transformation` with `positive` and `negative` both `none` does nothing: leave the \
                 table out"
                    .to_owned(),
            ));
        }
        if self.negative != NegativeMixing::Hard {
            let plain = Self::default().hard_beta.map(f64::to_bits);
            let hard = [
                ("hard_beta", self.hard_beta.map(f64::to_bits) != plain),
                ("swap_lambda", self.swap_lambda),
            ];
            unused("feature_transformation", &hard, "negative", "hard")?;
        }
        if self.negative == NegativeMixing::Hard && self.renormalizes_negatives() {
            return Err(Error::Recipe(
                "`plugins.feature_transformation.renormalize` must be `none` or `positive` with hard negatives, which \
                 are never made one by one"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// Whether features are transformed in this epoch, counted from 0.
    pub fn active(&self, epoch: u32) -> bool {
        epoch >= self.start_epoch
    }

    /// Whether mixed pairs get unit length, `otherwise` if nothing is said.
    pub(super) fn renormalizes_positives(&self, otherwise: Renormalize) -> bool {
        let choice = self.renormalize.unwrap_or(otherwise);
        matches!(choice, Renormalize::Positive | Renormalize::Both)
    }

    /// Whether mixed negatives do.
    pub(super) fn renormalizes_negatives(&self) -> bool {
        matches!(self.renormalize, Some(Renormalize::Negative | Renormalize::Both))
    }
}
