//! The generalised contrastive loss: the views of an image align, and all rows together follow a distribution.

use crate::error::{Error, Result};
use crate::loss::attach;
use crate::loss::nt_xent::{Agreement, agreement};
use crate::loss::sliced_wasserstein::{Prior, directions, matched_squares};
use crate::loss::tiled::{Contrast, Positive};
use crate::random::Stream;
use crate::rows::{computing_kind, unit_rows};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

/// Which distribution the rows should follow, and how that is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// Uniform on the unit sphere, by log-sum-exps of all cosines: the decoupled NT-Xent loss.
    #[default]
    #[serde(rename = "logsumexp")]
    LogSumExp,
    /// Uniform on the unit sphere, by sliced Wasserstein distance.
    SwdHypersphere,
    /// Uniform in a cube, by sliced Wasserstein distance; rows are not normalised.
    SwdHypercube,
    /// Standard normal, by sliced Wasserstein distance; rows are not normalised.
    SwdNormal,
}

/// How terms are scaled where the paper's listing and the authors' notebook differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Convention {
    /// The authors' notebook: alignment halved, the sliced distance a mean over all elements, the cube `[-1, 1]`.
    #[default]
    Notebook,
    /// Algorithm 1 of the paper as it was re-implemented (mona251/Intriguing-Properties-of-Contrastive-Losses): alignment
    /// not halved, the sliced distance summed over rows and divided by width and directions, the cube `[0, 1]`.
    Listing,
}

/// The loss family of "Intriguing Properties of Contrastive Losses" (Chen, Luo, Li 2021, arXiv:2011.02803,
/// Algorithm 1), scaled as in the authors' notebook (`colabs/intriguing_properties` of google-research/simclr):
///
/// ```text
/// L = scale · ( L_align + λ · L_distribution )
/// L_align = mean over all n·d elements of (h1 - h2)² / 2
/// L_distribution = mean_i [ ln Σ_j exp(h_i·h_j / τ) - ln d ]        over all 2n rows j, i itself included
///                or mean of ( sort(H W) - sort(P W) )²              columns sorted, P a sample of the prior
/// ```
///
/// of rows h, normalised for the two distributions on the sphere and as they are for the others, with H = [h1; h2] and W a
/// random orthogonal matrix, fresh at every step like P.
///
/// On unit rows `L_align = (1 - s⁺) / d`, so with λ = τ / d the log-sum-exp form is τ / d times NT-Xent, up to a constant
/// and the term of i itself. A collapsed batch costs `λ (ln 2n + 1/τ - ln d)` there, at scale 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Generalized {
    /// Which distribution the rows should follow.
    pub distribution: Distribution,
    /// λ, the weight of the distribution's term, finite, at least 0; 1 in the authors' notebook.
    pub lambda: f64,
    /// Factor of the whole loss, above 0; 1 in the authors' notebook.
    pub scale: f64,
    /// How terms are scaled.
    pub convention: Convention,
    /// Directions of the sliced distance, from 1 to the width d of the projections; d if left out, as in the notebook.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swd_dim: Option<usize>,
}

impl Default for Generalized {
    fn default() -> Self {
        Self {
            distribution: Distribution::default(),
            lambda: 1.0,
            scale: 1.0,
            convention: Convention::default(),
            swd_dim: None,
        }
    }
}

/// The loss of a batch, its two terms, and what is worth logging about it.
#[derive(Debug)]
pub struct Evaluated {
    /// The loss, a f64 scalar with the graph of the projections.
    pub loss: Tensor,
    /// `L_align`, before the scale.
    pub alignment: f64,
    /// `L_distribution`, before λ and the scale.
    pub distribution: f64,
    /// How well the two views find each other, normalised for this.
    pub agreement: Agreement,
}

impl Generalized {
    /// Checks the settings; `key` is the loss's table in the recipe, `method.loss`.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting.
    pub fn check(&self, key: &str) -> Result<()> {
        let Self { lambda, scale, .. } = self;
        if !(lambda.is_finite() && *lambda >= 0.0) {
            return Err(Error::Recipe(format!(
                "`{key}.lambda` must be finite and at least 0, found `{lambda}`"
            )));
        }
        if !(scale.is_finite() && *scale > 0.0) {
            return Err(Error::Recipe(format!(
                "`{key}.scale` must be finite and above 0, found `{scale}`"
            )));
        }
        match self.swd_dim {
            Some(0) => Err(Error::Recipe(format!("`{key}.swd_dim` must be at least 1, found `0`"))),
            Some(_) if self.prior().is_none() => Err(Error::Recipe(format!(
                "`{key}.swd_dim` counts directions of a sliced distance, which `distribution = \"logsumexp\"` has not: \
                 leave it out"
            ))),
            _ => Ok(()),
        }
    }

    fn prior(&self) -> Option<Prior> {
        match (self.distribution, self.convention) {
            (Distribution::LogSumExp, _) => None,
            (Distribution::SwdHypersphere, _) => Some(Prior::Hypersphere),
            (Distribution::SwdHypercube, Convention::Notebook) => Some(Prior::Hypercube(-1.0, 1.0)),
            (Distribution::SwdHypercube, Convention::Listing) => Some(Prior::Hypercube(0.0, 1.0)),
            (Distribution::SwdNormal, _) => Some(Prior::Normal),
        }
    }

    /// The loss of `projections` `[2n, d]` (first views of all n images, then second views; not normalised) at temperature
    /// τ, which of the terms only the log-sum-exp knows, in f32, or f64 for f64 input, with `tile` rows at a time, at least 1.
    /// Directions and prior are drawn from `stream`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is an even number of rows, at least two. [`Error::Recipe`] if the temperature is not
    /// above 0 or there are more directions than the rows are wide.
    pub fn evaluate(
        &self,
        projections: &Tensor,
        temperature: f64,
        tile: i64,
        stream: &mut Stream,
    ) -> Result<Evaluated> {
        let agreement = agreement(projections, temperature, tile)?;
        let hidden = match self.distribution {
            Distribution::LogSumExp | Distribution::SwdHypersphere => unit_rows(projections),
            Distribution::SwdHypercube | Distribution::SwdNormal => {
                projections.to_kind(computing_kind(projections))
            }
        };
        let images = hidden.size()[0] / 2;
        let (first, second) = (hidden.narrow(0, 0, images), hidden.narrow(0, images, images));
        let squares = (first - second).square().mean(Kind::Double);
        let alignment = match self.convention {
            Convention::Notebook => squares / 2.0,
            Convention::Listing => squares,
        };
        let distribution = match self.prior() {
            None => mean_log_sum_exp(&hidden, temperature, tile)?,
            Some(prior) => self.sliced_distance(&hidden, prior, stream)?,
        };
        Ok(Evaluated {
            alignment: alignment.double_value(&[]),
            distribution: distribution.double_value(&[]),
            loss: (alignment + distribution * self.lambda) * self.scale,
            agreement,
        })
    }

    fn sliced_distance(
        &self,
        hidden: &Tensor,
        prior: Prior,
        stream: &mut Stream,
    ) -> Result<Tensor> {
        let (rows, width) = hidden.size2().expect("rows are checked before");
        let count = self.swd_dim.map_or(width, |count| count as i64);
        if !(1..=width).contains(&count) {
            return Err(Error::Recipe(format!(
                "`method.loss.swd_dim` must lie between 1 and the width {width} of the projections, found `{count}`"
            )));
        }
        let options = (hidden.kind(), hidden.device());
        let directions = directions(stream, width, count).to_device(options.1).to_kind(options.0);
        let sample = prior.sample(stream, [rows, width], options);
        let squares = matched_squares(hidden, &sample, &directions).sum(Kind::Double);
        Ok(match self.convention {
            Convention::Notebook => squares / (rows * count) as f64,
            Convention::Listing => squares / (width * count) as f64,
        })
    }
}

/// Mean over rows of the log-sum-exp of their products with all rows, themselves included, less ln d.
fn mean_log_sum_exp(hidden: &Tensor, temperature: f64, tile: i64) -> Result<Tensor> {
    let (rows, width) = hidden.size2().expect("rows are checked before");
    let options = (hidden.kind(), hidden.device());
    let values = hidden.detach();
    let found = Contrast {
        rows: &values,
        columns: &values,
        temperature,
        positive: Positive::None,
        weights: &Tensor::full([rows], 1.0 / rows as f64, options),
        excluded: None,
        negatives_scale: None,
        columns_gradient: true,
        tile,
    }
    .evaluate()?;
    let mean = no_grad(|| found.log_sum_exp.mean(Kind::Double)).double_value(&[]);
    let gradient = match found.columns_gradient {
        Some(columns) => found.rows_gradient + columns,
        None => unreachable!("the columns' gradient was asked for"),
    };
    Ok(attach(mean - (width as f64).ln(), &[(hidden, &gradient)]))
}

#[cfg(test)]
mod tests;
