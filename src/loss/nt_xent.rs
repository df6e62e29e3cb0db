//! NT-Xent, the normalised temperature-scaled cross entropy of SimCLR.

use crate::error::{Error, Result};
use crate::loss::attach;
use crate::loss::info_nce::Scored;
use crate::loss::tiled::{Contrast, Positive, check_temperature};
use crate::rows::{SHORTEST, computing_kind, row_dot, sum, unit_rows};
use crate::shape::check;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// How the losses of the 2N anchors become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Mean over all 2N anchors: the paper's Eq. 1 with Algorithm 1, also lightly and solo-learn.
    #[default]
    #[serde(rename = "mean_2n")]
    Mean2n,
    /// Sum of the two views' means, twice the other: what the official TensorFlow code returns. With LARS the factor all
    /// but cancels, with SGD it doubles the step.
    SimclrSum,
}

/// The loss of SimCLR (Chen et al. 2020, arXiv:2002.05709, §2.1, Eq. 1): cross entropy of finding each row's other view
/// among all other rows of the batch,
///
/// ```text
/// ℓ(i) = ln Σ_{k≠i} exp(ẑ_i·ẑ_k / τ) - ẑ_i·ẑ_π(i) / τ ,   ẑ = z / max(‖z‖, 1e-12)
/// ```
///
/// Its negatives are the 2N - 2 rows of the other images, of both views.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NtXent {
    /// τ, above 0.
    pub temperature: f64,
    /// How the anchors' losses become one number.
    pub reduction: Reduction,
}

/// The loss of a batch, its gradient, and what is worth logging about it.
#[derive(Debug)]
pub struct Evaluated {
    /// The loss, reduced as asked.
    pub loss: f64,
    /// ∂loss/∂projections, of the projections' shape and kind, without a graph.
    pub gradient: Tensor,
    /// How well the views find each other.
    pub agreement: Agreement,
}

impl NtXent {
    /// The loss of `projections` `[2N, d]` (first views of all N images, then second views; not normalised) and its
    /// gradient, in f32, or f64 for f64 input. Memory beside the input is about five times its size and one tile of
    /// `tile · 2N` scalars, `tile` at least 1, see [`default_tile`](crate::loss::tiled::default_tile).
    ///
    /// A row of zeros stays zero when normalised; the loss is finite and so is its (very large) gradient there.
    /// A batch of one has no negatives: its loss and gradient are 0.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is an even number of rows, at least two. [`Error::Recipe`] if the temperature is not
    /// above 0.
    pub fn evaluate(&self, projections: &Tensor, tile: i64) -> Result<Evaluated> {
        let rows = check_two_views("projections", projections)?;
        check_temperature(self.temperature)?;
        tch::no_grad(|| self.evaluate_checked(projections, rows / 2, tile))
    }

    /// The same with a graph: a scalar (f64) that adds to other losses.
    ///
    /// # Errors
    /// Those of [`NtXent::evaluate`].
    pub fn loss(&self, projections: &Tensor, tile: i64) -> Result<Tensor> {
        Ok(self.evaluate(projections, tile)?.attached(projections))
    }

    /// The loss over transformed rows (feature transformation, Zhu et al. 2021, arXiv:2108.02982; this form for in-batch
    /// negatives is ours, the authors' is not released):
    ///
    /// ```text
    /// ℓ(i) = ln( exp(z'_i·z'_π(i) / τ) + c_i Σ_{j kept} exp(z'_i·n_j / τ) ) - z'_i·z'_π(i) / τ
    /// ```
    ///
    /// The first of a pair are rows z' `[2N, d]` (first views, then second views), the second their positives z'_π(i), which
    /// is the other view's row; `negatives` are n `[2N, d]`. All are taken as they are, with their gradients. `excluded` i64
    /// `[2N, E]` names the rows of n an anchor does not keep, repeats allowed; `negatives_scale` is c `[2N]`, 1 if left out.
    /// The reduction is the setting's, the metrics count the kept negatives.
    ///
    /// # Errors
    /// [`Error::Shape`] if shapes do not fit, [`Error::Recipe`] if the temperature is not above 0.
    pub fn transformed(
        &self,
        [rows, positives]: [&Tensor; 2],
        negatives: &Tensor,
        excluded: &Tensor,
        negatives_scale: Option<&Tensor>,
        tile: i64,
    ) -> Result<Scored> {
        let count = check_two_views("rows", rows)?;
        check_temperature(self.temperature)?;
        check("positives", positives, &rows.size())?;
        check("negatives", negatives, &rows.size())?;
        let kind = computing_kind(rows);
        let [rows, positives, negatives] =
            [rows, positives, negatives].map(|tensor| tensor.to_kind(kind));
        let scale = negatives_scale.map(|scale| scale.detach().to_kind(kind));
        let values = rows.detach();
        let weight = self.weight(count / 2);
        let found = Contrast {
            rows: &values,
            columns: &negatives.detach(),
            temperature: self.temperature,
            positive: Positive::Pair(&positives.detach()),
            weights: &Tensor::full([count], weight, (kind, rows.device())),
            excluded: Some(excluded),
            negatives_scale: scale.as_ref(),
            columns_gradient: true,
            tile,
        }
        .evaluate()?;
        let (Some(to_columns), Some(to_positives)) =
            (&found.columns_gradient, &found.positives_gradient)
        else {
            unreachable!("pairs have a gradient, and the columns' was asked for");
        };
        let loss = weight * sum(&(&found.log_sum_exp - &found.positive));
        Ok(Scored {
            loss: attach(
                loss,
                &[
                    (&rows, &found.rows_gradient),
                    (&positives, to_positives),
                    (&negatives, to_columns),
                ],
            ),
            accuracy: sum(&found.positive.gt_tensor(&found.hardest)) / count as f64,
            positive_similarity: sum(&found.positive) * self.temperature / count as f64,
            negative_similarity: tch::no_grad(|| kept_similarity(&rows, &negatives, excluded)),
        })
    }

    /// Weight of an anchor.
    fn weight(&self, images: i64) -> f64 {
        match self.reduction {
            Reduction::Mean2n => 0.5 / images as f64,
            Reduction::SimclrSum => 1.0 / images as f64,
        }
    }

    fn evaluate_checked(&self, projections: &Tensor, images: i64, tile: i64) -> Result<Evaluated> {
        let kind = computing_kind(projections);
        let options = (kind, projections.device());
        let values = projections.to_kind(kind);
        let length = values.square().sum_dim_intlist(1, true, None).sqrt();
        let divisor = length.clamp_min(SHORTEST);
        let unit = &values / &divisor;

        let itself = Tensor::arange(2 * images, (Kind::Int64, options.1));
        let weight = self.weight(images);
        let all = Contrast {
            rows: &unit,
            columns: &unit,
            temperature: self.temperature,
            positive: Positive::Column(&itself.roll(images, 0)),
            weights: &Tensor::full([2 * images], weight, options),
            excluded: Some(&itself.unsqueeze(1)),
            negatives_scale: None,
            columns_gradient: true,
            tile,
        }
        .evaluate()?;
        let loss = weight * sum(&(&all.log_sum_exp - &all.positive));
        let unit_gradient = match all.columns_gradient {
            Some(columns) => all.rows_gradient + columns,
            None => unreachable!("the columns' gradient was asked for"),
        };
        // Through the normalisation: what points along the row is lost, unless the row is too short to be normalised.
        let along = row_dot(&unit_gradient, &unit) * length.gt(SHORTEST);
        let gradient = ((unit_gradient - &unit * along) / divisor).to_kind(projections.kind());

        Ok(Evaluated { loss, gradient, agreement: Agreement::of(&unit, self.temperature, tile)? })
    }
}

/// How well the two views of a batch find each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Share of the first view's rows whose own second view is strictly the closest of all second views, in [0, 1]; 0 for
    /// a collapsed network. As in the official code, rows of the same view do not compete.
    pub contrastive_accuracy: f64,
    /// Mean entropy in nats of the softmax over those logits, from 0 to ln N.
    pub contrastive_entropy: f64,
    /// Mean cosine between the two views of an image.
    pub positive_similarity: f64,
    /// Mean cosine between rows of different images; 0 for a batch of one, which has none.
    pub negative_similarity: f64,
}

/// The agreement of `projections` as in [`NtXent::evaluate`], at a third of its work.
///
/// # Errors
/// Those of [`NtXent::evaluate`].
pub fn agreement(projections: &Tensor, temperature: f64, tile: i64) -> Result<Agreement> {
    check_two_views("projections", projections)?;
    check_temperature(temperature)?;
    tch::no_grad(|| Agreement::of(&unit_rows(projections), temperature, tile))
}

/// Mean cosines of the two views of an image and of rows of different images, as in [`Agreement`].
///
/// # Errors
/// [`Error::Shape`] unless there are two views of every image.
pub fn similarities(projections: &Tensor) -> Result<[f64; 2]> {
    let images = check_two_views("projections", projections)? / 2;
    tch::no_grad(|| {
        let unit = unit_rows(projections);
        let own = sum(&row_dot(&unit.narrow(0, 0, images), &unit.narrow(0, images, images)));
        Ok([own / images as f64, of_others(&unit, own)])
    })
}

/// Mean cosine between rows of different images, of unit rows in two views whose own cosines sum up to `own`.
fn of_others(unit: &Tensor, own: f64) -> f64 {
    let images = unit.size()[0] as f64 / 2.0;
    if images < 2.0 {
        return 0.0;
    }
    let everything = sum(&unit.sum_dim_intlist(0, false, Kind::Double).square());
    (everything - sum(&unit.square()) - 2.0 * own) / (4.0 * images * (images - 1.0))
}

impl Agreement {
    /// Of rows of length 1.
    fn of(unit: &Tensor, temperature: f64, tile: i64) -> Result<Self> {
        let images = unit.size()[0] / 2;
        let (first, second) = (unit.narrow(0, 0, images), unit.narrow(0, images, images));
        let across = Contrast {
            rows: &first,
            columns: &second,
            temperature,
            positive: Positive::Column(&Tensor::arange(images, (Kind::Int64, unit.device()))),
            weights: &Tensor::ones([images], (unit.kind(), unit.device())),
            excluded: None,
            negatives_scale: None,
            columns_gradient: false,
            tile,
        }
        .evaluate()?;
        let hits = across.positive.gt_tensor(&across.hardest);
        // Entropy is lse - Σ p·logit, and row · gradient is Σ p·logit - s⁺.
        let entropy = &across.log_sum_exp
            - &across.positive
            - row_dot(&first, &across.rows_gradient).squeeze_dim(1);

        let count = images as f64;
        let cosines = sum(&across.positive) * temperature;
        Ok(Self {
            contrastive_accuracy: sum(&hits) / count,
            contrastive_entropy: (sum(&entropy) / count).max(0.0),
            positive_similarity: cosines / count,
            negative_similarity: of_others(unit, cosines),
        })
    }
}

impl Evaluated {
    /// The loss with a graph to the projections it was evaluated for.
    pub fn attached(&self, projections: &Tensor) -> Tensor {
        attach(self.loss, &[(projections, &self.gradient)])
    }
}

/// The rows of an input that holds two views of every image.
fn check_two_views(name: &str, input: &Tensor) -> Result<i64> {
    check(name, input, &[-1, -1])?;
    let rows = input.size()[0];
    if rows < 2 || rows % 2 != 0 {
        return Err(Error::Shape(format!(
            "`{name}` must hold two views of every image, found {rows} rows"
        )));
    }
    Ok(rows)
}

/// Mean product of rows and negatives over the pairs that are not excluded; 0 if none is left.
fn kept_similarity(rows: &Tensor, negatives: &Tensor, excluded: &Tensor) -> f64 {
    let (count, each) = (excluded.size()[0], excluded.size()[1]);
    // A column named twice counts once: its first place in the sorted list.
    let (sorted, _) = excluded.sort(1, false);
    let first = sorted.diff::<Tensor>(1, 1, None, None).not_equal(0).constant_pad_nd([1, 0]);
    let _ = first.narrow(1, 0, 1).fill_(1);
    let columns = negatives.index_select(0, &sorted.flatten(0, 1)).view([count, each, -1]);
    let products = columns.bmm(&rows.unsqueeze(2)).squeeze_dim(2) * &first;
    let all = |tensor: &Tensor| tensor.sum_dim_intlist(0, false, Kind::Double);
    let total = all(rows).dot(&all(negatives)).double_value(&[]) - sum(&products);
    total / (count as f64 * negatives.size()[0] as f64 - sum(&first)).max(1.0)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact by construction: counts and equal inputs")]
mod tests;
