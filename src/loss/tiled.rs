//! The one primitive behind every loss that compares rows with a batch, a queue or a bank: log-sum-exp over columns and
//! its gradients, tile by tile.
//!
//! With logits `S = A Bᵀ / T`, a positive per row, weights `w` and factors `c` it evaluates
//!
//! ```text
//! L = Σ_i w_i ( lse_i - s⁺_i ),   lse_i = ln( exp s⁺_i + c_i Σ_{j negative of i} exp S_ij )
//! ```
//!
//! or, where rows have no positive, `L = Σ_i w_i lse_i` with `lse_i = ln( c_i Σ_{j negative of i} exp S_ij )`,
//! and its exact gradients, holding one tile of rows against all columns at a time: memory is `tile · K` scalars beside
//! the inputs and results, never `M · K`. It works on values, not on a graph: losses chain its gradients by hand.

use crate::error::{Error, Result};
use crate::rows::row_dot;
use crate::shape::check;
use tch::{Kind, Tensor};

/// Logits held at once by [`default_tile`]: 134 MB in f32.
const TILE_ELEMENTS: i64 = 1 << 25;

/// Most rows of a tile chosen by [`default_tile`]: more gain nothing and leave the processor's caches.
const TILE_ROWS: i64 = 512;

/// Rows per tile for a number of columns. It follows from the sizes alone, never from free memory, so a run repeats.
pub fn default_tile(columns: i64) -> i64 {
    (TILE_ELEMENTS / columns.max(1)).clamp(1, TILE_ROWS)
}

/// Where each row's positive is.
#[derive(Clone, Copy, Debug)]
pub enum Positive<'a> {
    /// Nowhere: the log-sum-exp of the negatives alone, for losses whose positives are counted outside (decoupled,
    /// several positives a row). Every row needs a negative.
    None,
    /// Among the columns: i64 `[M]`, the column of each row's positive (in-batch losses, memory banks).
    Column(&'a Tensor),
    /// Beside the columns: `[M, d]`, the i-th belonging to the i-th row alone (a key against a queue).
    Pair(&'a Tensor),
}

/// Rows, what they are compared with, and how; see the module for the formula.
///
/// Rows and columns are taken as they are: normalise first where the loss says so.
#[derive(Clone, Copy, Debug)]
pub struct Contrast<'a> {
    /// `A`, `[M, d]`, f32 or f64; everything is computed in that kind.
    pub rows: &'a Tensor,
    /// `B`, `[K, d]`. All columns are negatives of every row, but for its positive and the exclusions below.
    pub columns: &'a Tensor,
    /// `T`, above 0.
    pub temperature: f64,
    /// Where each row's positive is.
    pub positive: Positive<'a>,
    /// `w`, `[M]`: weight of each row in the objective the gradients belong to.
    pub weights: &'a Tensor,
    /// Columns that are no negatives of a row beside its positive, i64 `[M, E]`: the row itself in a batch, say. An index
    /// may be named twice, so rows with fewer than E such columns repeat one.
    pub excluded: Option<&'a Tensor>,
    /// `c`, `[M]`, above 0: factor on the sum over a row's negatives; 1 where it is left out.
    pub negatives_scale: Option<&'a Tensor>,
    /// Also compute the gradient for the columns, a third of the work; queues and banks need none.
    pub columns_gradient: bool,
    /// Rows handled at once, at least 1; see [`default_tile`]. Changes the last bits of a result, never more.
    pub tile: i64,
}

/// What [`Contrast::evaluate`] finds. All tensors are of the inputs' kind and hold no graph.
#[derive(Debug)]
pub struct Contrasted {
    /// `lse_i`, `[M]`.
    pub log_sum_exp: Tensor,
    /// `s⁺_i`, `[M]`: the positive's logit (cosine over temperature for unit rows); 0 for [`Positive::None`].
    pub positive: Tensor,
    /// The largest logit among each row's negatives, `[M]`; minus infinity for a row without any.
    pub hardest: Tensor,
    /// ∂L/∂A, `[M, d]`, the part through [`Positive::Pair`] included.
    pub rows_gradient: Tensor,
    /// ∂L/∂B, `[K, d]`, if asked for.
    pub columns_gradient: Option<Tensor>,
    /// ∂L/∂positives, `[M, d]`, for [`Positive::Pair`].
    pub positives_gradient: Option<Tensor>,
}

impl Contrast<'_> {
    /// Evaluates the formula of the module: logits, log-sum-exps and gradients in one sweep of three matrix products
    /// per tile (two without `columns_gradient`).
    ///
    /// Each row's largest logit is subtracted before the exponential, so any temperature stays finite, and the positive's
    /// factor `p - 1` is formed as minus the negatives' share, so it keeps its digits when the loss is nearly 0. Nothing
    /// is summed in an order that depends on threads.
    ///
    /// # Errors
    /// [`Error::Shape`] if shapes or kinds do not fit, or a row without a positive might have no negative either.
    pub fn evaluate(&self) -> Result<Contrasted> {
        self.check()?;
        Ok(tch::no_grad(|| self.sweep()))
    }

    fn check(&self) -> Result<()> {
        check("rows", self.rows, &[-1, -1])?;
        let (count, width) = (self.rows.size()[0], self.rows.size()[1]);
        check("columns", self.columns, &[-1, width])?;
        check("weights", self.weights, &[count])?;
        match self.positive {
            Positive::None => {}
            Positive::Column(index) => check("positive columns", index, &[count])?,
            Positive::Pair(keys) => check("positives", keys, &[count, width])?,
        }
        if let Some(excluded) = self.excluded {
            check("excluded columns", excluded, &[count, -1])?;
        }
        if let Some(scale) = self.negatives_scale {
            check("scale of the negatives", scale, &[count])?;
        }
        let kind = self.rows.kind();
        if !matches!(kind, Kind::Float | Kind::Double) || self.columns.kind() != kind {
            return Err(Error::Shape(format!(
                "`rows` and `columns` must both be f32 or both f64, found {kind:?} and {:?}",
                self.columns.kind()
            )));
        }
        let (columns, excluded) =
            (self.columns.size()[0], self.excluded.map_or(0, |excluded| excluded.size()[1]));
        if columns == 0 {
            return Err(Error::Shape("`columns` must have a row at least, found none".into()));
        }
        if matches!(self.positive, Positive::None) && columns <= excluded {
            return Err(Error::Shape(format!(
                "rows without a positive need a negative each, found {columns} columns of which {excluded} are none: use \
                 a larger batch"
            )));
        }
        assert!(self.temperature > 0.0 && self.tile > 0, "temperature and tile are checked before");
        Ok(())
    }

    /// Writes `value` wherever a column is no negative of its row, in the tile of the rows from `start` on.
    fn fill_excluded(&self, tile: &mut Tensor, start: i64, value: f64) {
        let size = tile.size()[0];
        if let Positive::Column(index) = self.positive {
            let _ = tile.scatter_value_(1, &index.narrow(0, start, size).unsqueeze(1), value);
        }
        if let Some(excluded) = self.excluded {
            let _ = tile.scatter_value_(1, &excluded.narrow(0, start, size), value);
        }
    }

    fn sweep(&self) -> Contrasted {
        let (count, width) = (self.rows.size()[0], self.rows.size()[1]);
        let columns = self.columns.size()[0];
        let alone = matches!(self.positive, Positive::None);
        let options = (self.rows.kind(), self.rows.device());
        let scaled = self.rows / self.temperature;
        let buffer = Tensor::empty([self.tile.min(count), columns], options);
        let [log_sum_exp, positive, hardest] = [(); 3].map(|()| Tensor::zeros([count, 1], options));
        let rows_gradient = Tensor::empty([count, width], options);
        let mut columns_gradient =
            self.columns_gradient.then(|| Tensor::zeros([columns, width], options));
        let positives_gradient = matches!(self.positive, Positive::Pair(_))
            .then(|| Tensor::empty([count, width], options));

        // Far below what changes a sum, far above the denormal numbers that would make processors crawl.
        let smallest = if options.0 == Kind::Double { -600.0 } else { -70.0 };

        for start in (0..count).step_by(self.tile as usize) {
            let size = self.tile.min(count - start);
            let part = |tensor: &Tensor| tensor.narrow(0, start, size);
            let rows = part(&scaled);

            // Logits, with everything that is no negative at minus infinity.
            let mut tile = buffer.narrow(0, 0, size);
            let _ = rows.mm_out(&tile, &self.columns.tr());
            match self.positive {
                Positive::None => {}
                Positive::Column(index) => {
                    part(&positive).copy_(&tile.gather(1, &part(index).unsqueeze(1), false));
                }
                Positive::Pair(keys) => part(&positive).copy_(&row_dot(&rows, &part(keys))),
            }
            let positives = part(&positive);
            self.fill_excluded(&mut tile, start, f64::NEG_INFINITY);

            // exp(logit - shift) of the negatives and its sum, then of the positive.
            let largest = tile.amax(1, true);
            part(&hardest).copy_(&largest);
            let shift = if alone { largest } else { largest.maximum(&positives) };
            tile -= &shift;
            let _ = tile.clamp_min_(smallest).exp_();
            self.fill_excluded(&mut tile, start, 0.0);
            let negatives = tile.sum_dim_intlist(1, true, None);
            let scale = self.negatives_scale.map(|scale| part(scale).unsqueeze(1));
            let mut sum = match &scale {
                Some(scale) => &negatives * scale,
                None => negatives.shallow_clone(),
            };
            if !alone {
                sum = &sum + (&positives - &shift).exp();
            }
            part(&log_sum_exp).copy_(&(sum.log() + shift));

            // dL/dlogit = weight · scale · tile / sum, and minus the negatives' share for the positive.
            let mut factor = part(self.weights).unsqueeze(1) / sum;
            if let Some(scale) = scale {
                factor *= scale;
            }
            let pull = -negatives;
            if let Positive::Column(index) = self.positive {
                let _ = tile.scatter_(1, &part(index).unsqueeze(1), &pull);
            }
            let mut gradient = tile.mm(self.columns);
            if let Positive::Pair(keys) = self.positive {
                gradient += part(keys) * &pull;
            }
            part(&rows_gradient).copy_(&(gradient * (&factor / self.temperature)));
            if let Some(gradient) = &mut columns_gradient {
                let _ = gradient.addmm_(&tile.tr(), &(&rows * &factor));
            }
            if let Some(gradient) = &positives_gradient {
                part(gradient).copy_(&(rows * factor * pull));
            }
        }
        Contrasted {
            log_sum_exp: log_sum_exp.squeeze_dim(1),
            positive: positive.squeeze_dim(1),
            hardest: hardest.squeeze_dim(1),
            rows_gradient,
            columns_gradient,
            positives_gradient,
        }
    }
}

/// Checks a temperature: above 0.
///
/// # Errors
/// [`Error::Recipe`] naming what was found.
pub(crate) fn check_temperature(temperature: f64) -> Result<()> {
    if temperature > 0.0 && temperature.is_finite() {
        return Ok(());
    }
    Err(Error::Recipe(format!("`method.temperature` must be above 0, found `{temperature}`")))
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
