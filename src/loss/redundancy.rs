//! Losses that forbid the dimensions of a projection to say the same: Barlow Twins and `VICReg`.
//!
//! Both hold one `[D, D]` matrix at a time, which becomes its own gradient in place, beside a few copies of the
//! projections.

use crate::error::{Error, Result};
use crate::loss::attach;
use crate::rows::{in_full, sum};
use crate::shape::check;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230, Eq. 1 and 2): the correlation of the two views' dimensions should
/// be the identity,
///
/// ```text
/// L = scale · ( Σ_i (1 - C_ii)² + λ Σ_{i≠j} C_ij² ) ,   C = ẑ₁ᵀ ẑ₂ / N
/// ```
///
/// with ẑ each dimension of z over the batch less its mean, divided by `√(Var + epsilon)`, the variance biased (divided by
/// N), as a batch norm without scale and shift does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BarlowTwins {
    /// λ, at least 0: 0.0051 in the paper and its code, 0.005 in lightly.
    pub off_diagonal_weight: f64,
    /// What the loss is multiplied with, above 0: 1 in the paper, 0.1 in solo-learn. Without effect under LARS.
    pub scale: f64,
    /// Added to the variance, above 0: that of a batch norm, 1e-5.
    pub epsilon: f64,
}

impl Default for BarlowTwins {
    fn default() -> Self {
        Self { off_diagonal_weight: 0.0051, scale: 1.0, epsilon: 1e-5 }
    }
}

/// The loss of a batch and its parts, each before its weight.
#[derive(Debug)]
pub struct Correlated {
    /// The loss, a scalar (f64) with a graph to both views.
    pub loss: Tensor,
    /// `Σ_i (1 - C_ii)²`: 0 where the views agree, D for dimensions that do not vary.
    pub invariance: f64,
    /// `Σ_{i≠j} C_ij²`: 0 where no dimension repeats another.
    pub redundancy: f64,
}

impl BarlowTwins {
    /// Checks every setting's range; `key` is where the settings are in the recipe.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key, the range and what was found.
    pub fn check(&self, key: &str) -> Result<()> {
        at_least_0(&format!("{key}.off_diagonal_weight"), self.off_diagonal_weight)?;
        above_0(&format!("{key}.scale"), self.scale)?;
        above_0(&format!("{key}.epsilon"), self.epsilon)
    }

    /// The loss of the two views' projections `[N, D]`, row i of both being image i, computed in f32, or f64 for f64
    /// input.
    ///
    /// # Errors
    /// [`Error::Shape`] unless both have one shape with at least two rows.
    pub fn evaluate(&self, first: &Tensor, second: &Tensor) -> Result<Correlated> {
        check_views(first, second)?;
        let rows = first.size()[0] as f64;
        let normalized = |z: &Tensor| {
            let centred = centred(z);
            let variance = centred.square().mean_dim(0, true, None);
            centred / (variance + self.epsilon).sqrt()
        };
        let (first, second) = (normalized(first), normalized(second));
        let (invariance, redundancy, gradients) = tch::no_grad(|| {
            let mut matrix = (first.tr() / rows).mm(&second);
            let (diagonal, redundancy) = take_diagonal(&mut matrix);
            let missing: Tensor = 1.0 - diagonal;
            // From here on it is ∂L/∂C / N.
            matrix *= 2.0 * self.scale * self.off_diagonal_weight / rows;
            let slope = &missing * (-2.0 * self.scale / rows);
            matrix.diagonal(0, 0, 1).copy_(&slope);
            (sum(&missing.square()), redundancy, [second.mm(&matrix.tr()), first.mm(&matrix)])
        });
        let value = self.scale * (invariance + self.off_diagonal_weight * redundancy);
        let loss = attach(value, &[(&first, &gradients[0]), (&second, &gradients[1])]);
        Ok(Correlated { loss, invariance, redundancy })
    }
}

/// `VICReg` (Bardes et al. 2021, arXiv:2105.04906, §4.1, Eq. 1–6), with the averages of its code:
///
/// ```text
/// L = invariance · mean (z₁ - z₂)²
///   + variance   · ½ Σ_v mean_j relu( 1 - √(Var z_vj + epsilon) )
///   + covariance · 1/D Σ_v Σ_{i≠j} Cov(z_v)_ij²
/// ```
///
/// with unbiased variance and covariance (divided by N - 1). The variance is averaged over the two views v and the
/// covariance summed; the paper sums both, and so does solo-learn, whose variance weight of 25 is one of 50 here. The mean
/// square is over all N·D entries as in the code, where the paper sums over D.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VicReg {
    /// λ, at least 0.
    pub invariance_weight: f64,
    /// μ, at least 0.
    pub variance_weight: f64,
    /// ν, at least 0.
    pub covariance_weight: f64,
    /// Added to the variance below the root, above 0.
    pub epsilon: f64,
}

impl Default for VicReg {
    fn default() -> Self {
        Self {
            invariance_weight: 25.0,
            variance_weight: 25.0,
            covariance_weight: 1.0,
            epsilon: 1e-4,
        }
    }
}

/// The loss of a batch and its parts, each before its weight.
#[derive(Debug)]
pub struct Regularized {
    /// The loss, a scalar (f64) with a graph to both views.
    pub loss: Tensor,
    /// Mean squared difference of the views.
    pub invariance: f64,
    /// How far the deviations of the dimensions are below 1 in the mean, in [0, 1]; about 1 for a collapsed network.
    pub variance: f64,
    /// Squared covariances of different dimensions, summed over both views, divided by D.
    pub covariance: f64,
}

impl VicReg {
    /// Checks every setting's range; `key` is where the settings are in the recipe.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key, the range and what was found.
    pub fn check(&self, key: &str) -> Result<()> {
        at_least_0(&format!("{key}.invariance_weight"), self.invariance_weight)?;
        at_least_0(&format!("{key}.variance_weight"), self.variance_weight)?;
        at_least_0(&format!("{key}.covariance_weight"), self.covariance_weight)?;
        above_0(&format!("{key}.epsilon"), self.epsilon)
    }

    /// The loss of the two views' projections `[N, D]`, row i of both being image i, computed in f32, or f64 for f64
    /// input.
    ///
    /// # Errors
    /// [`Error::Shape`] unless both have one shape with at least two rows.
    pub fn evaluate(&self, first: &Tensor, second: &Tensor) -> Result<Regularized> {
        check_views(first, second)?;
        let invariance = (in_full(first) - in_full(second)).square().mean(Kind::Double);
        let views = [first, second].map(centred);
        let variance = views.each_ref().map(|view| self.missing_deviation(view));
        let variance = (&variance[0] + &variance[1]) * 0.5;
        let covariance = views.each_ref().map(covariance);
        let covariance = &covariance[0] + &covariance[1];
        let value = |part: &Tensor| part.double_value(&[]);
        let parts = [value(&invariance), value(&variance), value(&covariance)];
        let loss = invariance * self.invariance_weight
            + variance * self.variance_weight
            + covariance * self.covariance_weight;
        let [invariance, variance, covariance] = parts;
        Ok(Regularized { loss, invariance, variance, covariance })
    }

    /// How far the deviations of centred rows are below 1, in the mean over the dimensions.
    fn missing_deviation(&self, rows: &Tensor) -> Tensor {
        let variance = rows.square().sum_dim_intlist(0, false, None) / (rows.size()[0] - 1) as f64;
        let missing: Tensor = 1.0 - (variance + self.epsilon).sqrt();
        missing.relu().mean(Kind::Double)
    }
}

/// Squared covariances of different dimensions of centred rows, divided by their number.
fn covariance(rows: &Tensor) -> Tensor {
    let (free, width) = ((rows.size()[0] - 1) as f64, rows.size()[1] as f64);
    let (squares, gradient) = tch::no_grad(|| {
        let mut matrix = (rows.tr() / free).mm(rows);
        let (_, squares) = take_diagonal(&mut matrix);
        (squares, (rows * (4.0 / (free * width))).mm(&matrix))
    });
    attach(squares / width, &[(rows, &gradient)])
}

/// Takes the diagonal out of a square matrix: it, and the sum of squares of the rest, of which no copy is made.
fn take_diagonal(matrix: &mut Tensor) -> (Tensor, f64) {
    let diagonal = matrix.diagonal(0, 0, 1).copy();
    let _ = matrix.fill_diagonal_(0.0, false);
    (diagonal, sum(&matrix.norm_scalaropt_dim(2.0, 1, false).square()))
}

/// Each dimension less its mean over the batch.
fn centred(rows: &Tensor) -> Tensor {
    let rows = in_full(rows);
    &rows - rows.mean_dim(0, true, None)
}

fn check_views(first: &Tensor, second: &Tensor) -> Result<()> {
    check("first view", first, &[-1, -1])?;
    check("second view", second, &first.size())?;
    let (rows, width) = (first.size()[0], first.size()[1]);
    if rows >= 2 && width >= 1 {
        return Ok(());
    }
    Err(Error::Shape(format!(
        "the variance of a batch needs at least 2 rows of at least 1 dimension, found [{rows}, {width}]"
    )))
}

fn at_least_0(key: &str, value: f64) -> Result<()> {
    require(key, value, value >= 0.0, "at least 0")
}

fn above_0(key: &str, value: f64) -> Result<()> {
    require(key, value, value > 0.0, "above 0")
}

fn require(key: &str, value: f64, fits: bool, range: &str) -> Result<()> {
    if fits && value.is_finite() {
        return Ok(());
    }
    Err(Error::Recipe(format!("`{key}` must be {range}, found `{value}`")))
}

#[cfg(test)]
mod tests;
