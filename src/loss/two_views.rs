//! The losses that compare the projections of two views of every image, by name: what SimCLR is run with.

use crate::error::{Error, Result};
use crate::loss::decoupled::Decoupled;
use crate::loss::generalized::Generalized;
use crate::loss::logistic::NtLogistic;
use crate::loss::nt_xent::{Agreement, NtXent, Reduction, agreement};
use crate::loss::pairwise::{self, NegativeReduction};
use crate::loss::triplet::MarginTriplet;
use crate::random::Stream;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// A loss of the projections of two views, told apart by `name`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Loss {
    /// Cross entropy of finding the other view among all rows.
    NtXent(NtXentSettings),
    /// The same without the positive in the denominator: DCL, and DCLW with weights.
    Decoupled(DecoupledSettings),
    /// Each pair judged by itself.
    NtLogistic(NtLogistic),
    /// Negatives less similar than the positive, by a margin.
    MarginTriplet(MarginTriplet),
    /// Alignment and a distribution of the rows.
    Generalized(Generalized),
}

/// Settings of [`NtXent`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NtXentSettings {
    /// How the anchors' losses are summed up.
    pub reduction: Reduction,
}

/// Settings of [`Decoupled`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecoupledSettings {
    /// σ of DCLW's weights of the positives, above 0 (0.5 in the paper); DCL, which has none, if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma: Option<f64>,
}

impl Default for Loss {
    fn default() -> Self {
        Self::NtXent(NtXentSettings::default())
    }
}

/// What a loss says of a batch.
#[derive(Debug)]
pub struct Said {
    /// The loss, a scalar (f64) with the graph of the projections.
    pub loss: Tensor,
    /// Named values worth logging.
    pub scalars: Vec<(&'static str, f64)>,
}

impl Loss {
    /// Checks the settings; `key` is the loss's table in the recipe, `method.loss`.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting.
    pub fn check(&self, key: &str) -> Result<()> {
        match self {
            Self::NtXent(_) => Ok(()),
            Self::Decoupled(DecoupledSettings { sigma }) => match sigma {
                Some(sigma) if !(sigma.is_finite() && *sigma > 0.0) => {
                    Err(Error::Recipe(format!("`{key}.sigma` must be above 0, found `{sigma}`")))
                }
                _ => Ok(()),
            },
            Self::NtLogistic(loss) => loss.check(key),
            Self::MarginTriplet(loss) => loss.check(key),
            Self::Generalized(loss) => loss.check(key),
        }
    }

    /// The loss of `projections` `[2N, d]` (first views of all N images, then second views; not normalised) at temperature
    /// τ, in tiles of `tile` rows, at least 1. `stream` is for the directions of sliced distances alone.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is an even number of rows, at least two (four for the decoupled loss).
    pub fn evaluate(
        &self,
        projections: &Tensor,
        temperature: f64,
        tile: i64,
        stream: &mut Stream,
    ) -> Result<Said> {
        let z = projections;
        match self {
            Self::NtXent(NtXentSettings { reduction }) => {
                let found =
                    NtXent { temperature, reduction: *reduction }.evaluate(&z.detach(), tile)?;
                Ok(said(found.attached(z), &found.agreement, []))
            }
            Self::Decoupled(DecoupledSettings { sigma }) => {
                let loss = Decoupled { temperature, sigma: *sigma }.loss(z, tile)?;
                Ok(said(loss, &agreement(z, temperature, tile)?, []))
            }
            Self::NtLogistic(loss) => Ok(pairs(loss.evaluate(z, temperature, tile)?)),
            Self::MarginTriplet(loss) => Ok(pairs(loss.evaluate(z, temperature, tile)?)),
            Self::Generalized(loss) => {
                let found = loss.evaluate(z, temperature, tile, stream)?;
                let terms = [("alignment", found.alignment), ("distribution", found.distribution)];
                Ok(said(found.loss, &found.agreement, terms))
            }
        }
    }

    /// What it comes to for N images that are all one point, and how that is written, where it is a constant.
    pub fn collapsed(&self, images: usize, temperature: f64) -> Option<(f64, &'static str)> {
        let n = images as f64;
        match self {
            Self::NtXent(NtXentSettings { reduction }) => {
                let mean = (2.0 * n - 1.0).ln();
                Some(match reduction {
                    Reduction::Mean2n => (mean, "ln(2N - 1)"),
                    Reduction::SimclrSum => (2.0 * mean, "2 ln(2N - 1)"),
                })
            }
            Self::Decoupled(_) => Some(((2.0 * n - 2.0).ln(), "ln(2N - 2)")),
            Self::NtLogistic(loss) => {
                let plain = !loss.semi_hard && loss.reduction == NegativeReduction::Mean;
                let softplus = |x: f64| x.exp().ln_1p();
                let value = softplus(-1.0 / temperature) + softplus(1.0 / temperature);
                plain.then_some((value, "ln(1 + e^(-1/τ)) + ln(1 + e^(1/τ))"))
            }
            Self::MarginTriplet(loss) => {
                let plain = !loss.semi_hard && loss.reduction == NegativeReduction::Mean;
                plain.then_some((loss.margin, "the margin"))
            }
            Self::Generalized(_) => None,
        }
    }
}

fn said(
    loss: Tensor,
    agreement: &Agreement,
    more: impl IntoIterator<Item = (&'static str, f64)>,
) -> Said {
    let mut scalars = vec![
        ("contrastive_accuracy", agreement.contrastive_accuracy),
        ("contrastive_entropy", agreement.contrastive_entropy),
        ("positive_similarity", agreement.positive_similarity),
        ("negative_similarity", agreement.negative_similarity),
    ];
    scalars.extend(more);
    Said { loss, scalars }
}

fn pairs(found: pairwise::Evaluated) -> Said {
    let share = found.semi_hard_share.map(|share| ("semi_hard_share", share));
    said(found.loss, &found.agreement, share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope};
    use tch::{Device, Kind};

    #[test]
    fn a_collapsed_batch_costs_what_is_said() {
        let rows = Tensor::ones([12, 3], (Kind::Double, Device::Cpu));
        for (text, expected) in [
            ("name = 'nt_xent'", true),
            ("name = 'nt_xent'\nreduction = 'simclr_sum'", true),
            ("name = 'decoupled'", true),
            ("name = 'decoupled'\nsigma = 0.5", true),
            ("name = 'nt_logistic'", true),
            ("name = 'nt_logistic'\nreduction = 'sum'", false),
            ("name = 'margin_triplet'\nmargin = 0.4", true),
            ("name = 'margin_triplet'\nmargin = 0.4\nsemi_hard = true", false),
            ("name = 'generalized'", false),
        ] {
            let loss: Loss = toml::from_str(text).unwrap();
            loss.check("method.loss").unwrap();
            let stream = &mut Stream::open(0, Purpose::Test, Scope::Item(0));
            let found = loss.evaluate(&rows, 0.5, 5, stream).unwrap().loss.double_value(&[]);
            let said = loss.collapsed(6, 0.5);
            assert_eq!(said.is_some(), expected, "{text}");
            if let Some((value, formula)) = said {
                assert!((found - value).abs() < 1e-12, "{text}: {found}, {formula} = {value}");
            }
        }
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let loss: Loss = toml::from_str("name = 'decoupled'\nsigma = 0.0").unwrap();
        let message = loss.check("method.loss").unwrap_err().to_string();
        assert_eq!(message, "`method.loss.sigma` must be above 0, found `0`");
        assert!(toml::from_str::<Loss>("name = 'nt_xent'\nsigma = 0.5").is_err());
    }
}
