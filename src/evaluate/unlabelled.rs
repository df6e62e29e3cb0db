//! What features tell about a network without a single label: to choose a checkpoint, or to see a collapse.
//!
//! [`Unlabelled`] looks at stored features of images; [`Invariance`] and [`Alignment`] run the network over augmented images as
//! well.

mod alignment;
mod invariance;
#[cfg(test)]
mod tests;
mod varied;

use super::Features;
use super::interval::bootstrap;
use super::record::Measure;
use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
use crate::rows::unit_rows;
use crate::shape;
pub use alignment::Alignment;
pub use invariance::{Invariance, Steadiness, Variation, relative, variations};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
pub use varied::{Change, Compared, Eye, Look, Seen, compare};

/// Version of the protocol; numbers of different versions do not compare.
pub const VERSION: u32 = 2;

/// Rows in a matrix product.
const TILE: i64 = 4_096;

/// Settings of the scores of features without labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Unlabelled {
    /// Most images whose pairs uniformity looks at, at least 2; more are drawn from by the seed.
    pub images: usize,
    /// Sharpness `t` of uniformity, above 0.
    pub t: f64,
    /// Exponent `α` of alignment, above 0.
    pub alpha: f64,
}

impl Default for Unlabelled {
    /// 10,000 images; t = 2 and α = 2, as in the paper of alignment and uniformity.
    fn default() -> Self {
        Self { images: 10_000, t: 2.0, alpha: 2.0 }
    }
}

/// Scores of the features of a split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// [`rank_me`] of all rows.
    pub rank_me: f64,
    /// The largest that it could be: the smaller of rows and dimensions.
    pub possible_rank: usize,
    /// [`uniformity`] of up to `images` rows.
    pub uniformity: f64,
    /// Mean cosine similarity of two different images, over all rows: near 1 when a network has collapsed.
    pub mean_cosine: f64,
}

impl Unlabelled {
    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting, its range and what was found.
    pub fn check(&self) -> Result<()> {
        if self.images < 2 {
            return Err(Error::Recipe(format!(
                "`images` must be at least 2, found `{}`",
                self.images
            )));
        }
        for (key, found) in [("t", self.t), ("alpha", self.alpha)] {
            if !(found > 0.0 && found.is_finite()) {
                return Err(Error::Recipe(format!("`{key}` must be above 0, found `{found}`")));
            }
        }
        Ok(())
    }

    /// Scores features; labels are not looked at.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a setting out of range; [`Error::Data`] for fewer than two images; [`Error::NonFinite`] for
    /// features that are no numbers.
    pub fn evaluate(&self, features: &Features, seed: u64) -> Result<Outcome> {
        self.check()?;
        features.check()?;
        let h = &features.h;
        let rank_me = rank_me(h)?;
        let mean_cosine = mean_cosine(h)?;
        let count = h.size()[0] as usize;
        let uniformity = if count > self.images {
            let mut drawn =
                Stream::open(seed, Purpose::Evaluation, Scope::Item(0)).permutation(count);
            drawn.truncate(self.images);
            uniformity(&features.rows(&drawn).h, self.t)?
        } else {
            uniformity(h, self.t)?
        };
        let possible_rank = count.min(h.size()[1] as usize);
        Ok(Outcome { rank_me, possible_rank, uniformity, mean_cosine })
    }

    /// Alignment of the features of two views of the same images, f32 `[N, D]` each: mean of `‖f(x) − f(y)‖^α` over
    /// pairs, rows of length 1 (Wang and Isola 2020, arXiv:2005.10242, section 4.1); 0 when views do not matter. Its
    /// interval is a bootstrap over images.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a setting out of range; [`Error::Shape`] if the views differ in shape; [`Error::Data`] without
    /// images; [`Error::NonFinite`] for features that are no numbers.
    pub fn alignment(&self, first: &Tensor, second: &Tensor, seed: u64) -> Result<Measure> {
        self.check()?;
        finite(first, 1)?;
        finite(second, 1)?;
        shape::check("features of the second view", second, &first.size())?;
        let apart = unit_rows(first) - unit_rows(second);
        let lengths = apart.square().sum_dim_intlist(1, false, Kind::Double).sqrt();
        Ok(mean(&numbers(&lengths.pow_tensor_scalar(self.alpha)), seed))
    }
}

/// Effective rank after `RankMe` (Garrido et al. 2023, arXiv:2210.02885, equation 1): `exp(−Σ p_k ln p_k)` with
/// `p_k = σ_k / Σσ + 1e-7` over the singular values of the features `[N, D]` as they are, neither centred nor normalised. It
/// goes from 1 to the smaller of N and D. The paper takes 25,600 images; fewer than D can have no full rank.
///
/// The singular values are roots of the eigenvalues of the smaller Gram matrix in f64, so those below 1e-8 of the largest
/// are noise of that size; their share of the sum is too small to matter.
///
/// # Errors
/// [`Error::Data`] for fewer than two rows; [`Error::NonFinite`] for rows that are no numbers.
pub fn rank_me(h: &Tensor) -> Result<f64> {
    finite(h, 2)?;
    let (rows, dimensions) = h.size2().expect("the shape was checked");
    let gram = if rows < dimensions {
        let h = h.to_kind(Kind::Double);
        h.matmul(&h.tr())
    } else {
        let mut gram = Tensor::zeros([dimensions, dimensions], (Kind::Double, h.device()));
        for tile in tiles(h) {
            let tile = tile.to_kind(Kind::Double);
            gram += tile.tr().matmul(&tile);
        }
        gram
    };
    let values = gram.linalg_eigvalsh("L").clamp_min(0.0).sqrt();
    let share = &values / values.sum(Kind::Double).clamp_min(1e-300) + 1e-7;
    Ok((-(&share * share.log()).sum(Kind::Double)).exp().double_value(&[]))
}

/// Uniformity (Wang and Isola 2020, arXiv:2005.10242, section 4.1): `ln E exp(−t ‖f(x) − f(y)‖²)` over all pairs of different
/// images, rows `[N, D]` of length 1; 0 when all are the same, about −2t when spread over a sphere of many dimensions.
///
/// # Errors
/// [`Error::Data`] for fewer than two rows; [`Error::NonFinite`] for rows that are no numbers.
pub fn uniformity(h: &Tensor, t: f64) -> Result<f64> {
    finite(h, 2)?;
    let unit = unit_rows(h);
    let count = unit.size()[0];
    // 1, or 0 for a row of zeros, which no unit length can be given: all such rows are the same.
    let lengths = unit.square().sum_dim_intlist(1, true, Kind::Float).gt(0.5).to_kind(unit.kind());
    let mut sum = 0.0;
    // Every pair once: a tile against those after it, and above the diagonal within itself.
    for first in (0..count).step_by(TILE as usize) {
        let rows = unit.narrow(0, first, TILE.min(count - first));
        for second in (first..count).step_by(TILE as usize) {
            let others = unit.narrow(0, second, TILE.min(count - second));
            let length = |first: i64, rows: &Tensor| lengths.narrow(0, first, rows.size()[0]);
            let squares = length(first, &rows) + length(second, &others).tr();
            let potential = ((rows.matmul(&others.tr()) * 2.0 - squares) * t).exp();
            let potential = if first == second { potential.triu(1) } else { potential };
            sum += potential.sum(Kind::Double).double_value(&[]);
        }
    }
    let pairs = count as f64 * (count - 1) as f64 / 2.0;
    Ok((sum / pairs).ln())
}

/// Mean cosine similarity of two different rows of `[N, D]`, from the length of the sum of unit rows.
///
/// # Errors
/// [`Error::Data`] for fewer than two rows; [`Error::NonFinite`] for rows that are no numbers.
pub fn mean_cosine(h: &Tensor) -> Result<f64> {
    finite(h, 2)?;
    let (rows, dimensions) = h.size2().expect("the shape was checked");
    let mut sum = Tensor::zeros([dimensions], (Kind::Double, h.device()));
    let mut squares = 0.0;
    for tile in tiles(h) {
        let unit = unit_rows(&tile.to_kind(Kind::Double));
        sum += unit.sum_dim_intlist(0, false, Kind::Double);
        squares += unit.square().sum(Kind::Double).double_value(&[]);
    }
    let all = sum.square().sum(Kind::Double).double_value(&[]);
    Ok((all - squares) / (rows as f64 * (rows - 1) as f64))
}

/// Consecutive rows, a few thousand at a time.
fn tiles(rows: &Tensor) -> impl Iterator<Item = Tensor> {
    let all = rows.size()[0];
    (0..all).step_by(TILE as usize).map(move |first| rows.narrow(0, first, TILE.min(all - first)))
}

fn finite(h: &Tensor, least: i64) -> Result<()> {
    shape::check("features", h, &[-1, -1])?;
    let (rows, dimensions) = h.size2().expect("the shape was checked");
    if rows < least || dimensions == 0 {
        return Err(Error::Data(format!(
            "at least {least} images with features are needed, found {rows} of {dimensions} dimensions"
        )));
    }
    if h.isfinite().all().int64_value(&[]) == 0 {
        return Err(Error::NonFinite(
            "features hold values that are infinite or not a number: the network diverged or its weights are damaged"
                .to_owned(),
        ));
    }
    Ok(())
}

/// One number for each image.
fn numbers(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.to_kind(Kind::Double).to_device(Device::Cpu).contiguous();
    let mut values = vec![0.0; tensor.numel()];
    tensor.copy_data(&mut values, tensor.numel());
    values
}

/// A mean over images with its bootstrap interval.
pub fn mean(values: &[f64], seed: u64) -> Measure {
    let count = values.len() as f64;
    let of = |drawn: &[usize]| drawn.iter().map(|at| values[*at]).sum::<f64>() / count;
    let value = values.iter().sum::<f64>() / count;
    Measure { value, interval_95: Some(bootstrap(values.len(), seed, of)) }
}
