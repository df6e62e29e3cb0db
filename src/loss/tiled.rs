//! The one primitive behind every loss that compares rows with a batch, a queue or a bank: log-sum-exp over columns and
//! its gradients, tile by tile.
//!
//! With logits `S = A Bᵀ / T`, a positive per row and weights `w`, it evaluates
//!
//! ```text
//! L = Σ_i w_i ( lse_i - s⁺_i ),   lse_i = ln( exp s⁺_i + Σ_{j negative of i} exp S_ij )
//! ```
//!
//! and its exact gradients, holding one tile of rows against all columns at a time: memory is `tile · K` scalars beside
//! the inputs and results, never `M · K`. It works on values, not on a graph: losses chain its gradients by hand.

use crate::error::{Error, Result};
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
    /// Column i is no negative of row i (it is the row itself). Needs `M ≤ K`.
    pub exclude_same_index: bool,
    /// The positive is left out of the denominator: the decoupled loss (Yeh et al. 2022, arXiv:2110.06848, §3).
    pub exclude_positive: bool,
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
    /// `s⁺_i`, `[M]`: the positive's logit (cosine over temperature for unit rows).
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
    /// [`Error::Shape`] if shapes or kinds do not fit, or a decoupled row would have no negative.
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
            Positive::Column(index) => check("positive columns", index, &[count])?,
            Positive::Pair(keys) => check("positives", keys, &[count, width])?,
        }
        let kind = self.rows.kind();
        if !matches!(kind, Kind::Float | Kind::Double) || self.columns.kind() != kind {
            return Err(Error::Shape(format!(
                "`rows` and `columns` must both be f32 or both f64, found {kind:?} and {:?}",
                self.columns.kind()
            )));
        }
        let columns = self.columns.size()[0];
        if self.exclude_same_index && count > columns {
            return Err(Error::Shape(format!(
                "to leave out the column of the same index `columns` must have at least {count} rows, found {columns}"
            )));
        }
        let excluded = i64::from(self.exclude_same_index)
            + i64::from(matches!(self.positive, Positive::Column(_)));
        if self.exclude_positive && columns <= excluded {
            return Err(Error::Shape(format!(
                "a loss without the positive in its denominator needs a negative, found {columns} columns of which \
                 {excluded} are none: use a larger batch"
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
        if self.exclude_same_index {
            let _ = tile.narrow(1, start, size).diagonal(0, 0, 1).fill_(value);
        }
    }

    fn sweep(&self) -> Contrasted {
        let (count, width) = (self.rows.size()[0], self.rows.size()[1]);
        let columns = self.columns.size()[0];
        let options = (self.rows.kind(), self.rows.device());
        let scaled = self.rows / self.temperature;
        let buffer = Tensor::empty([self.tile.min(count), columns], options);
        let [log_sum_exp, positive, hardest] = [(); 3].map(|()| Tensor::empty([count, 1], options));
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
            part(&positive).copy_(&match self.positive {
                Positive::Column(index) => tile.gather(1, &part(index).unsqueeze(1), false),
                Positive::Pair(keys) => row_dot(&rows, &part(keys)),
            });
            let positives = part(&positive);
            self.fill_excluded(&mut tile, start, f64::NEG_INFINITY);

            // exp(logit - shift) of the negatives and its sum, then of the positive.
            let largest = tile.amax(1, true);
            part(&hardest).copy_(&largest);
            let shift = if self.exclude_positive { largest } else { largest.maximum(&positives) };
            tile -= &shift;
            let _ = tile.clamp_min_(smallest).exp_();
            self.fill_excluded(&mut tile, start, 0.0);
            let negatives = tile.sum_dim_intlist(1, true, None);
            let sum = if self.exclude_positive {
                negatives.shallow_clone()
            } else {
                &negatives + (&positives - &shift).exp()
            };
            part(&log_sum_exp).copy_(&(sum.log() + shift));

            // dL/dlogit = weight · tile / sum, and minus the negatives' share for the positive.
            let factor = part(self.weights).unsqueeze(1) / sum;
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

/// Inner product of each row with its counterpart, `[M, d]` and `[M, d]` to `[M, 1]`.
pub(crate) fn row_dot(left: &Tensor, right: &Tensor) -> Tensor {
    (left * right).sum_dim_intlist(1, true, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope, Stream};
    use tch::Device;

    fn normal(item: u64, rows: i64, width: i64) -> Tensor {
        let mut stream = Stream::open(5, Purpose::Test, Scope::Item(item));
        let values: Vec<f64> = (0..rows * width).map(|_| stream.normal()).collect();
        Tensor::from_slice(&values).view([rows, width])
    }

    fn rows_of(tensor: &Tensor) -> Vec<Vec<f64>> {
        Vec::<Vec<f64>>::try_from(tensor.to_kind(Kind::Double)).unwrap()
    }

    fn dot(left: &[f64], right: &[f64]) -> f64 {
        left.iter().zip(right).map(|(left, right)| left * right).sum()
    }

    /// log-sum-exp, positive, hardest, then the gradients of rows, columns and pairs: one scalar loop in f64.
    type Naive = (Vec<[f64; 3]>, Vec<Vec<f64>>, Vec<Vec<f64>>, Vec<Vec<f64>>);

    fn naive(contrast: &Contrast) -> Naive {
        let (rows, columns) = (rows_of(contrast.rows), rows_of(contrast.columns));
        let weights: Vec<f64> = Vec::try_from(contrast.weights.to_kind(Kind::Double)).unwrap();
        let width = rows[0].len();
        let mut scalars = Vec::new();
        let mut rows_gradient = vec![vec![0.0; width]; rows.len()];
        let mut columns_gradient = vec![vec![0.0; width]; columns.len()];
        let mut pairs_gradient = vec![vec![0.0; width]; rows.len()];
        for (i, row) in rows.iter().enumerate() {
            let (own, pair) = match contrast.positive {
                Positive::Column(index) => {
                    let own = index.int64_value(&[i as i64]) as usize;
                    (Some(own), columns[own].clone())
                }
                Positive::Pair(keys) => (None, rows_of(keys)[i].clone()),
            };
            let logit = |column: &[f64]| dot(row, column) / contrast.temperature;
            let positive = logit(&pair);
            let negatives: Vec<usize> = (0..columns.len())
                .filter(|j| Some(*j) != own && !(contrast.exclude_same_index && *j == i))
                .collect();
            let mut sum: f64 = negatives.iter().map(|j| logit(&columns[*j]).exp()).sum();
            if !contrast.exclude_positive {
                sum += positive.exp();
            }
            let hardest = negatives.iter().map(|j| logit(&columns[*j])).fold(f64::MIN, f64::max);
            scalars.push([sum.ln(), positive, hardest]);
            let mut add = |slope: f64, column: &[f64], gradient: &mut [f64]| {
                for k in 0..width {
                    rows_gradient[i][k] += weights[i] * slope * column[k] / contrast.temperature;
                    gradient[k] += weights[i] * slope * row[k] / contrast.temperature;
                }
            };
            for j in negatives {
                add(logit(&columns[j]).exp() / sum, &columns[j], &mut columns_gradient[j]);
            }
            let share = if contrast.exclude_positive { 0.0 } else { positive.exp() / sum };
            let gradient = match own {
                Some(own) => &mut columns_gradient[own],
                None => &mut pairs_gradient[i],
            };
            add(share - 1.0, &pair, gradient);
        }
        (scalars, rows_gradient, columns_gradient, pairs_gradient)
    }

    fn close(found: &Tensor, expected: &[Vec<f64>], tolerance: f64) {
        let expected = Tensor::from_slice2(expected);
        let off = (found.to_kind(Kind::Double) - &expected).abs().max().double_value(&[]);
        let scale = expected.abs().max().double_value(&[]).max(1e-3);
        assert!(off < tolerance * scale, "off by {off} of {scale}");
    }

    fn agrees(contrast: &Contrast, tolerance: f64) {
        let found = contrast.evaluate().unwrap();
        let (scalars, rows, columns, pairs) = naive(contrast);
        let scalars: Vec<Vec<f64>> = scalars.iter().map(|three| three.to_vec()).collect();
        let three = [&found.log_sum_exp, &found.positive, &found.hardest];
        close(&Tensor::stack(&three, 1), &scalars, tolerance);
        close(&found.rows_gradient, &rows, tolerance);
        match found.columns_gradient {
            Some(gradient) => close(&gradient, &columns, tolerance),
            None => assert!(!contrast.columns_gradient),
        }
        match found.positives_gradient {
            Some(gradient) => close(&gradient, &pairs, tolerance),
            None => assert!(matches!(contrast.positive, Positive::Column(_))),
        }
    }

    #[test]
    fn every_form_equals_a_scalar_loop() {
        let (rows, columns, keys) = (normal(1, 7, 4), normal(2, 11, 4), normal(3, 7, 4));
        let weights = normal(4, 7, 1).squeeze_dim(1);
        let index = Tensor::from_slice(&[3_i64, 10, 0, 0, 5, 7, 1]);
        for positive in [Positive::Column(&index), Positive::Pair(&keys)] {
            for switches in 0..8 {
                let mut contrast = Contrast {
                    rows: &rows,
                    columns: &columns,
                    temperature: 0.4,
                    positive,
                    weights: &weights,
                    exclude_same_index: switches & 1 != 0,
                    exclude_positive: switches & 2 != 0,
                    columns_gradient: switches & 4 != 0,
                    tile: 1,
                };
                for tile in [1, 3, 7, 50] {
                    contrast.tile = tile;
                    agrees(&contrast, 1e-12);
                }
                let single = [&rows, &columns, &keys, &weights].map(|t| t.to_kind(Kind::Float));
                let [rows, columns, keys, weights] = &single;
                let positive = match positive {
                    Positive::Column(index) => Positive::Column(index),
                    Positive::Pair(_) => Positive::Pair(keys),
                };
                agrees(&Contrast { rows, columns, positive, weights, ..contrast }, 1e-5);
            }
        }
    }

    #[test]
    fn a_queue_of_equal_scores_costs_ln_of_its_length_plus_one() {
        let ones = |rows: i64| Tensor::ones([rows, 4], (Kind::Float, Device::Cpu)) / 2.0;
        let found = Contrast {
            rows: &ones(3),
            columns: &ones(20),
            temperature: 0.07,
            positive: Positive::Pair(&ones(3)),
            weights: &Tensor::ones([3], (Kind::Float, Device::Cpu)),
            exclude_same_index: false,
            exclude_positive: false,
            columns_gradient: false,
            tile: 2,
        }
        .evaluate()
        .unwrap();
        let loss = (found.log_sum_exp - found.positive).mean(Kind::Double).double_value(&[]);
        assert!((loss - 21_f64.ln()).abs() < 1e-5);
    }

    #[test]
    fn published_vectors_of_queue_and_decoupled_losses_are_met() {
        let half = std::f64::consts::FRAC_1_SQRT_2;
        let first = Tensor::from_slice(&[1.0, 0.0, 0.0, 1.0]).view([2, 2]);
        let second = Tensor::from_slice(&[half, half, -half, half]).view([2, 2]);
        let queue = Tensor::from_slice(&[0.6, 0.8, 0.0, -1.0, -1.0, 0.0]).view([3, 2]);
        let all = Tensor::cat(&[&first, &second], 0);
        let partner = Tensor::from_slice(&[2_i64, 3, 0, 1]);
        let ones = |rows: i64| Tensor::ones([rows], (Kind::Double, Device::Cpu));
        let loss = |contrast: Contrast| {
            let found = contrast.evaluate().unwrap();
            (found.log_sum_exp - found.positive).mean(None).double_value(&[])
        };
        for (temperature, expected) in [(0.07, 0.879_177_822_8), (0.2, 0.721_256_756_7)] {
            let contrast = Contrast {
                rows: &first,
                columns: &queue,
                temperature,
                positive: Positive::Pair(&second),
                weights: &ones(2),
                exclude_same_index: false,
                exclude_positive: false,
                columns_gradient: false,
                tile: 1,
            };
            assert!((loss(contrast) - expected).abs() < 1e-10);
        }
        // DCL is the mean of two directions of equal size: the mean over all anchors.
        for (temperature, expected) in [(0.5, -0.489_485_059_6), (0.1, -3.534_684_940_7)] {
            let contrast = Contrast {
                rows: &all,
                columns: &all,
                temperature,
                positive: Positive::Column(&partner),
                weights: &ones(4),
                exclude_same_index: true,
                exclude_positive: true,
                columns_gradient: false,
                tile: 3,
            };
            assert!((loss(contrast) - expected).abs() < 1e-10);
        }
    }

    #[test]
    fn a_nearly_perfect_row_keeps_the_digits_of_its_gradient() {
        // One negative at cosine 0, T = 0.05: the negative's share is e^-20, below f32's steps around 1.
        let rows = Tensor::from_slice(&[1.0_f32, 0.0]).view([1, 2]);
        let columns = Tensor::from_slice(&[1.0_f32, 0.0, 0.0, 1.0]).view([2, 2]);
        let found = Contrast {
            rows: &rows,
            columns: &columns,
            temperature: 0.05,
            positive: Positive::Column(&Tensor::from_slice(&[0_i64])),
            weights: &Tensor::from_slice(&[1.0_f32]),
            exclude_same_index: false,
            exclude_positive: false,
            columns_gradient: false,
            tile: 1,
        }
        .evaluate()
        .unwrap();
        let share = (-20.0_f64).exp() / (1.0 + (-20.0_f64).exp()) / 0.05;
        for (column, expected) in [(0, -share), (1, share)] {
            let value = found.rows_gradient.double_value(&[0, column]);
            assert!((value / expected - 1.0).abs() < 1e-4, "{value} against {expected}");
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let (rows, columns) = (normal(1, 4, 3), normal(2, 2, 3));
        let index = Tensor::zeros([4], (Kind::Int64, Device::Cpu));
        let weights = Tensor::ones([4], (Kind::Double, Device::Cpu));
        let contrast = Contrast {
            rows: &rows,
            columns: &columns,
            temperature: 1.0,
            positive: Positive::Column(&index),
            weights: &weights,
            exclude_same_index: false,
            exclude_positive: false,
            columns_gradient: false,
            tile: 4,
        };
        let refused = |contrast: Contrast, part: &str| {
            let message = contrast.evaluate().unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        refused(Contrast { columns: &normal(2, 2, 5), ..contrast }, "`columns` must have shape");
        refused(Contrast { exclude_same_index: true, ..contrast }, "at least 4 rows, found 2");
        let single = columns.to_kind(Kind::Float);
        refused(Contrast { columns: &single, ..contrast }, "found Double and Float");
        let one = columns.narrow(0, 0, 1);
        refused(Contrast { columns: &one, exclude_positive: true, ..contrast }, "needs a negative");
        refused(Contrast { weights: &weights.narrow(0, 0, 3), ..contrast }, "`weights` must");
    }

    #[test]
    fn the_default_tile_bounds_memory() {
        assert_eq!(default_tile(1), 512);
        assert_eq!(default_tile(131_072), 256);
        assert_eq!(default_tile(1 << 40), 1);
    }
}
