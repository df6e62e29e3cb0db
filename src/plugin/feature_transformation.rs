//! Feature transformation: positives pushed apart and negatives mixed, between head and logits.
//!
//! **Paper.** Zhu, Zhao, Liu, Sun, Chen 2021, "Improving contrastive learning by visualizing feature transformation",
//! arXiv:2108.02982. Its code: `memory/mem_moco.py` of DTennant/CL-Visualizing-Feature-Transformation.
//!
//! **Idea.** A mixture of unit rows is another, unseen row. Extrapolated beyond each other, the two rows of a positive
//! pair become a harder pair; interpolated, the rows of a queue become more varied negatives. Nothing is stored: a queue
//! receives the original keys.
//!
//! **Use.** Against a queue: [`FeatureTransformation::negatives`] once, [`FeatureTransformation::positives`] for every
//! query, and [`Negatives::align`] of the two gives rows, positives and columns of an ordinary contrast. In a batch:
//! [`FeatureTransformation::in_batch`]. Predictions and targets: [`FeatureTransformation::similarity`]. Crops for
//! prototypes: [`FeatureTransformation::crops`]. The loss of a transformed run is not comparable with that of a plain one.

mod settings;

pub use settings::{
    Distribution, FeatureTransformation, Level, NegativeMixing, PositiveMixing, Renormalize,
};

use crate::error::{Error, Result};
use crate::random::Stream;
use crate::rows::{in_full, row_dot, unit_rows};
use crate::shape::check;
use tch::Tensor;

/// Negatives as the columns of a plain product of rows; made by [`FeatureTransformation::negatives`].
///
/// Hard negatives differ from query to query, but their logits are those of longer rows against common columns: with one λ
/// per negative, `q'·(λq + (1-λ)n) = [q', q'·q]·[(1-λ)n, λ]`; with one per coordinate
/// `[q', q'⊙q]·[(1-λ)⊙n, λ]`. No negative is made per query, and the temperature stays.
#[derive(Debug)]
pub struct Negatives {
    /// What the rows of [`Self::align`] are compared with, `[K, d]`, `[K, d + 1]` or `[K, 2d]`.
    pub columns: Tensor,
    hard: Option<Level>,
}

impl Negatives {
    /// Queries and keys as long as the columns: `queries` q' and `keys` k' `[N, d]` as they are compared, `unmixed` q
    /// `[N, d]` as it was before, which is what hard negatives are drawn towards. That pull is a constant, as a queue is.
    /// Products of a query with its key do not change.
    pub fn align(&self, queries: &Tensor, keys: &Tensor, unmixed: &Tensor) -> (Tensor, Tensor) {
        let Some(level) = self.hard else {
            return (queries.shallow_clone(), keys.shallow_clone());
        };
        let query = unmixed.detach();
        let more = match level {
            Level::Step | Level::Sample => row_dot(queries, &query),
            Level::Dimension => queries * query,
        };
        let longer = Tensor::cat(&[queries, &more], 1);
        (longer, Tensor::cat(&[keys, &more.zeros_like()], 1))
    }
}

/// A batch whose rows are each other's negatives; made by [`FeatureTransformation::in_batch`].
///
/// The loss of anchor i is `-s⁺/τ + ln( exp(s⁺/τ) + scale_i Σ_j exp(rows_i·negatives_j / τ) )` over the columns j that are
/// not excluded, with `s⁺ = rows_i·positives_i`.
#[derive(Debug)]
pub struct InBatch {
    /// Anchors, `[2N, d']`, d' as in [`Negatives`].
    pub rows: Tensor,
    /// Their positives, `[2N, d']`.
    pub positives: Tensor,
    /// Columns, `[2N, d']`.
    pub negatives: Tensor,
    /// Columns that are no negatives of an anchor, i64 `[2N, 2]`, or `[2N, 4]` where negatives are mixed with each other;
    /// one column may stand there twice.
    pub excluded: Tensor,
    /// Factor of each anchor's sum over its negatives, `[2N]`: (2N - 2) / kept, or 1.
    pub scale: Tensor,
}

impl FeatureTransformation {
    /// The pair (q', k') of unit queries and keys `[N, d]`: both mixed from the rows as they were, with one λ. Keys are
    /// constants, the query within k' keeps its gradient. With several queries per key call it for each, so that each
    /// has its own λ.
    ///
    /// # Errors
    /// [`Error::Shape`] unless both have one shape.
    pub fn positives(
        &self,
        q: &Tensor,
        k: &Tensor,
        stream: &mut Stream,
    ) -> Result<(Tensor, Tensor)> {
        check("queries", q, &[-1, -1])?;
        check("keys", k, &q.size())?;
        let (q, k) = (in_full(q), in_full(&k.detach()));
        let inside = if self.detach_keys_mix { q.detach() } else { q.shallow_clone() };
        let Some(lambda) = self.positive_lambda(&q, stream) else {
            return Ok((q, k));
        };
        let pair = (mix(&q, &k, &lambda), mix(&k, &inside, &lambda));
        Ok(self.lengths(pair, Renormalize::None))
    }

    /// The negatives Q' out of a queue `[K, d]`, which stays as it is; without a graph.
    ///
    /// # Errors
    /// [`Error::Shape`] unless it is a matrix.
    pub fn negatives(&self, queue: &Tensor, stream: &mut Stream) -> Result<Negatives> {
        check("queue", queue, &[-1, -1])?;
        Ok(tch::no_grad(|| self.mix_negatives(&in_full(&queue.detach()), stream).0))
    }

    /// Unit rows `[2N, d]` of a batch, first views, then second: each pair extrapolated, all rows mixed among each other as
    /// negatives, everything with its gradient. The paper tells of this use (§E.1) without its code; an anchor keeps
    /// those mixed rows that contain neither itself nor its positive.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is an even number of rows, at least two.
    pub fn in_batch(&self, rows: &Tensor, stream: &mut Stream) -> Result<InBatch> {
        check("rows", rows, &[-1, -1])?;
        let count = rows.size()[0];
        if count < 2 || count % 2 != 0 {
            return Err(Error::Shape(format!(
                "`rows` must hold two views of every image, found {count} rows"
            )));
        }
        let (z, images) = (in_full(rows), count / 2);
        let other_view = |rows: &Tensor| rows.roll(images, 0);
        let anchors = match self.positive_lambda(&z.narrow(0, 0, images), stream) {
            None => z.shallow_clone(),
            Some(lambda) => {
                let repeats = if lambda.size()[0] == images { 2 } else { 1 };
                let mixed = mix(&z, &other_view(&z), &lambda.repeat([repeats, 1]));
                if self.renormalizes_positives(Renormalize::None) {
                    unit_rows(&mixed)
                } else {
                    mixed
                }
            }
        };
        let (negatives, order) = self.mix_negatives(&z, stream);
        let (excluded, kept) = exclusions(count as usize, order.as_deref());
        let scale = kept.iter().map(|kept| match kept {
            0 => 1.0,
            _ if !self.rescale_negatives => 1.0,
            kept => (count - 2) as f64 / *kept as f64,
        });
        let options = (z.kind(), z.device());
        let (rows, positives) = negatives.align(&anchors, &other_view(&anchors), &z);
        Ok(InBatch {
            rows,
            positives,
            negatives: negatives.columns,
            excluded: Tensor::from_slice(&excluded).view([count, -1]).to_device(options.1),
            scale: Tensor::from_slice(&scale.collect::<Vec<f64>>())
                .to_kind(options.0)
                .to_device(options.1),
        })
    }

    /// Cosine of each prediction with its target after both were mixed, `[N]`, from unit rows `[N, d]`; targets are
    /// constants (SimSiam, BYOL: §E). Mixed rows are brought to unit length unless the settings say otherwise: with
    /// `t = 2λ(λ-1)` and s the cosine before, it is `(s - t(1-s)) / (1 + t(1-s))`, and without that length
    /// `1 - (1-s)(1+t)`, the loss of before times a random factor.
    ///
    /// # Errors
    /// [`Error::Shape`] unless both have one shape.
    pub fn similarity(
        &self,
        predictions: &Tensor,
        targets: &Tensor,
        stream: &mut Stream,
    ) -> Result<Tensor> {
        check("predictions", predictions, &[-1, -1])?;
        check("targets", targets, &predictions.size())?;
        let pair = (in_full(predictions), in_full(&targets.detach()));
        let (p, z) = self.extrapolate(pair, stream);
        Ok(row_dot(&p, &z).squeeze_dim(1))
    }

    /// The embeddings `[N, d]` (unit rows) of the two large crops, mixed with each other, both with their gradients, and
    /// brought to unit length for the prototypes unless the settings say otherwise (SwAV: §E).
    ///
    /// # Errors
    /// [`Error::Shape`] unless both have one shape.
    pub fn crops(
        &self,
        first: &Tensor,
        second: &Tensor,
        stream: &mut Stream,
    ) -> Result<(Tensor, Tensor)> {
        check("first crops", first, &[-1, -1])?;
        check("second crops", second, &first.size())?;
        Ok(self.extrapolate((in_full(first), in_full(second)), stream))
    }

    /// Both rows mixed with the other, where nothing but the pair's direction counts.
    fn extrapolate(&self, (a, b): (Tensor, Tensor), stream: &mut Stream) -> (Tensor, Tensor) {
        match self.positive_lambda(&a, stream) {
            None => (a, b),
            Some(lambda) => {
                let pair = (mix(&a, &b, &lambda), mix(&b, &a, &lambda));
                self.lengths(pair, Renormalize::Positive)
            }
        }
    }

    fn lengths(&self, (a, b): (Tensor, Tensor), otherwise: Renormalize) -> (Tensor, Tensor) {
        if self.renormalizes_positives(otherwise) { (unit_rows(&a), unit_rows(&b)) } else { (a, b) }
    }

    /// λ of positive pairs whose first rows are these, if they are mixed at all.
    fn positive_lambda(&self, rows: &Tensor, stream: &mut Stream) -> Option<Tensor> {
        let shape = [self.alpha_extrapolate; 2];
        match self.positive {
            PositiveMixing::None => None,
            PositiveMixing::Extrapolate => {
                Some(self.lambda(shape, self.positive_level, rows, stream) + 1.0)
            }
        }
    }

    /// The negatives, and the order in which they were mixed with each other if they were.
    fn mix_negatives(&self, rows: &Tensor, stream: &mut Stream) -> (Negatives, Option<Vec<usize>>) {
        let (shape, beyond) = match self.negative {
            NegativeMixing::None => {
                return (Negatives { columns: rows.shallow_clone(), hard: None }, None);
            }
            NegativeMixing::Interpolate => ([self.alpha_interpolate; 2], 0.0),
            NegativeMixing::Extrapolate => ([self.alpha_extrapolate; 2], 1.0),
            NegativeMixing::Hard => (self.hard_beta, 0.0),
        };
        let level = self.negative_level;
        let lambda = self.lambda(shape, level, rows, stream) + beyond;
        if self.negative == NegativeMixing::Hard {
            let query = if self.swap_lambda { 1.0 - lambda } else { lambda };
            let negative = rows * (1.0 - &query);
            let columns = Tensor::cat(&[negative, query.expand([rows.size()[0], -1], false)], 1);
            return (Negatives { columns, hard: Some(level) }, None);
        }
        let order = stream.permutation(rows.size()[0] as usize);
        let index: Vec<i64> = order.iter().map(|index| *index as i64).collect();
        let others = rows.index_select(0, &Tensor::from_slice(&index).to_device(rows.device()));
        let mixed = mix(rows, &others, &lambda);
        let columns = if self.renormalizes_negatives() { unit_rows(&mixed) } else { mixed };
        (Negatives { columns, hard: None }, Some(order))
    }

    /// Draws λ in [0, 1] for `rows` `[N, d]`: `[1, 1]`, `[N, 1]` or `[N, d]`.
    fn lambda(
        &self,
        [alpha, beta]: [f64; 2],
        level: Level,
        rows: &Tensor,
        stream: &mut Stream,
    ) -> Tensor {
        let [alpha, beta] = match self.distribution {
            Distribution::Beta => [alpha, beta],
            Distribution::Uniform => [1.0, 1.0],
        };
        let (count, width) = (rows.size()[0], rows.size()[1]);
        let [count, width] = match level {
            Level::Step => [1, 1],
            Level::Sample => [count, 1],
            Level::Dimension => [count, width],
        };
        let values = if level == Level::Step {
            Tensor::from_slice(&[stream.beta(alpha, beta)])
        } else {
            let mut values = vec![0.0; (count * width) as usize];
            stream.fill_beta(alpha, beta, &mut values);
            Tensor::from_slice(&values)
        };
        values.view([count, width]).to_device(rows.device()).to_kind(rows.kind())
    }
}

/// λa + (1-λ)b.
fn mix(a: &Tensor, b: &Tensor, lambda: &Tensor) -> Tensor {
    a * lambda + b * (1.0 - lambda)
}

/// For every anchor of a batch of this many rows the columns it must not see, row by row, and how many it keeps. Column j
/// is made of row j and, with an order, of row `order[j]`.
fn exclusions(count: usize, order: Option<&[usize]>) -> (Vec<i64>, Vec<usize>) {
    let mut made_of = vec![0; count];
    for (column, row) in order.unwrap_or_default().iter().enumerate() {
        made_of[*row] = column;
    }
    let (mut excluded, mut kept) = (Vec::new(), Vec::new());
    for anchor in 0..count {
        let mut columns = vec![anchor, (anchor + count / 2) % count];
        if order.is_some() {
            columns.extend([made_of[columns[0]], made_of[columns[1]]]);
        }
        excluded.extend(columns.iter().map(|column| *column as i64));
        columns.sort_unstable();
        columns.dedup();
        kept.push(count - columns.len());
    }
    (excluded, kept)
}

#[cfg(test)]
mod tests;
