//! Decoupled contrastive loss: NT-Xent without the positive in its denominator.

use crate::error::{Error, Result};
use crate::loss::attach;
use crate::loss::tiled::{Contrast, Positive, check_temperature};
use crate::rows::{row_dot, sum, unit_rows};
use crate::shape::check;
use tch::{Kind, Tensor};

/// DCL and DCLW (Yeh et al. 2022, arXiv:2110.06848, Eq. 6),
///
/// ```text
/// ℓ(i) = ln Σ_{k ≠ i, π(i)} exp(ẑ_i·ẑ_k / τ) - w_i ẑ_i·ẑ_π(i) / τ ,   loss = mean over the 2N anchors
/// w_i = 1 (DCL)  or  2 - N softmax_i(ẑ_i·ẑ_π(i) / σ) over the N images, without gradient (DCLW)
/// ```
///
/// One log-sum-exp over the 2N - 2 rows of the other images, of both views; it may be negative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoupled {
    /// τ, above 0: 0.1.
    pub temperature: f64,
    /// σ of the weights, above 0: 0.5. `None` is DCL.
    pub sigma: Option<f64>,
}

impl Decoupled {
    /// The loss of `projections` `[2N, d]` (first views of all N images, then second views; not normalised), a scalar
    /// (f64) with their graph, computed in f32, or f64 for f64 input, in tiles of `tile` rows, see
    /// [`default_tile`](crate::loss::tiled::default_tile).
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is an even number of rows, at least four: one image has no negative.
    /// [`Error::Recipe`] if τ or σ is not above 0.
    pub fn loss(&self, projections: &Tensor, tile: i64) -> Result<Tensor> {
        check_temperature(self.temperature)?;
        if let Some(sigma) = self.sigma
            && !(sigma > 0.0 && sigma.is_finite())
        {
            return Err(Error::Recipe(format!("`method.sigma` must be above 0, found `{sigma}`")));
        }
        check("projections", projections, &[-1, -1])?;
        let rows = projections.size()[0];
        if rows < 4 || rows % 2 != 0 {
            return Err(Error::Shape(format!(
                "`projections` must hold two views of every image and at least two images, found {rows} rows"
            )));
        }
        let images = rows / 2;
        let unit = unit_rows(projections);
        let values = unit.detach();
        let itself = Tensor::arange(rows, (Kind::Int64, values.device()));
        let found = Contrast {
            rows: &values,
            columns: &values,
            temperature: self.temperature,
            positive: Positive::None,
            weights: &Tensor::full([rows], 1.0 / rows as f64, (values.kind(), values.device())),
            excluded: Some(&Tensor::stack(&[&itself, &itself.roll(images, 0)], 1)),
            negatives_scale: None,
            columns_gradient: true,
            tile,
        }
        .evaluate()?;
        let Some(columns) = found.columns_gradient else {
            unreachable!("the columns' gradient was asked for");
        };
        let push = attach(
            sum(&found.log_sum_exp) / rows as f64,
            &[(&unit, &(found.rows_gradient + columns))],
        );
        // The same for both directions.
        let cosine = row_dot(&unit.narrow(0, 0, images), &unit.narrow(0, images, images));
        let pull = match self.sigma {
            Some(sigma) => {
                &cosine * (2.0 - (cosine.detach() / sigma).softmax(0, None) * images as f64)
            }
            None => cosine,
        };
        Ok(push - pull.mean(Kind::Double) / self.temperature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::tiled::testing::{
        distance, dot, equals_golden, golden, graded, log_sum_exp, normal, slope, unit_rows_of,
        value,
    };
    use tch::Device;

    const DCL: Decoupled = Decoupled { temperature: 0.1, sigma: None };
    const DCLW: Decoupled = Decoupled { temperature: 0.1, sigma: Some(0.5) };

    fn projections() -> Tensor {
        normal(1, 14, 6) + normal(2, 7, 6).repeat([2, 1])
    }

    fn positives(rows: &[Vec<f64>]) -> Vec<f64> {
        let images = rows.len() / 2;
        (0..rows.len()).map(|i| dot(&rows[i], &rows[(i + images) % rows.len()])).collect()
    }

    /// The weights of all 2N anchors.
    fn weights(loss: Decoupled, projections: &Tensor) -> Vec<f64> {
        let positives = positives(&unit_rows_of(projections));
        let images = positives.len() / 2;
        let Some(sigma) = loss.sigma else { return vec![1.0; 2 * images] };
        let total: f64 = positives[..images].iter().map(|cosine| (cosine / sigma).exp()).sum();
        let weight = |cosine: &f64| 2.0 - images as f64 * (cosine / sigma).exp() / total;
        positives.iter().map(weight).collect()
    }

    /// The definition in one scalar loop; the weights are constants.
    fn naive(loss: Decoupled, projections: &Tensor, weights: &[f64]) -> f64 {
        let rows = unit_rows_of(projections);
        let (count, positives) = (rows.len(), positives(&rows));
        let mut total = 0.0;
        for i in 0..count {
            let others = (0..count).filter(|j| j % (count / 2) != i % (count / 2));
            let logits: Vec<f64> =
                others.map(|j| dot(&rows[i], &rows[j]) / loss.temperature).collect();
            assert_eq!(logits.len(), count - 2);
            total += log_sum_exp(&logits) - weights[i] * positives[i] / loss.temperature;
        }
        total / count as f64
    }

    #[test]
    fn published_vectors_are_met() {
        let rows = Tensor::from_slice(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0, -1.0, 1.0]).view([4, 2]);
        for (temperature, expected) in [(0.5, -0.489_485_059_6), (0.1, -3.534_684_940_7)] {
            let found = Decoupled { temperature, ..DCL }.loss(&rows, 3).unwrap();
            assert!((value(&found) - expected).abs() < 1e-10, "{found}");
        }
    }

    #[test]
    fn loss_and_gradient_equal_a_scalar_loop_and_its_slope() {
        let rows = projections();
        for loss in [DCL, DCLW, Decoupled { temperature: 0.5, sigma: Some(0.1) }] {
            let weights = weights(loss, &rows);
            for tile in [1, 5, 50] {
                let (found, gradient) = graded(&rows, |rows| loss.loss(rows, tile).unwrap());
                assert!((found - naive(loss, &rows, &weights)).abs() < 1e-12);
                let expected = slope(&rows, |rows| naive(loss, rows, &weights));
                assert!(distance(&gradient, &expected) < 1e-7);
            }
            let single = loss.loss(&rows.to_kind(Kind::Float), 5).unwrap();
            assert!((value(&single) - naive(loss, &rows, &weights)).abs() < 1e-5);
        }
    }

    #[test]
    fn lightly_agrees() {
        let arrays = golden("decoupled");
        let sharp = Decoupled { temperature: 0.5, sigma: Some(0.2) };
        for (name, loss) in [("plain", DCL), ("weighted", DCLW), ("sharp", sharp)] {
            let found = graded(&arrays["projections"], |rows| loss.loss(rows, 7).unwrap());
            equals_golden(&arrays, name, &found);
        }
    }

    #[test]
    fn a_collapsed_batch_costs_ln_of_its_negatives_weighted_or_not() {
        let rows = Tensor::ones([10, 3], (Kind::Double, Device::Cpu));
        for loss in [DCL, DCLW] {
            let (found, gradient) = graded(&rows, |rows| loss.loss(rows, 4).unwrap());
            assert!((found - 8_f64.ln()).abs() < 1e-12);
            assert!(value(&gradient.abs().max()) < 1e-12);
        }
    }

    #[test]
    fn neither_swapped_views_nor_lengths_matter() {
        let rows = projections();
        for loss in [DCL, DCLW] {
            let expected = value(&loss.loss(&rows, 14).unwrap());
            let swapped = rows.roll(7, 0);
            let scaled = &rows * normal(3, 14, 1).exp();
            for other in [swapped, scaled] {
                assert!((value(&loss.loss(&other, 14).unwrap()) - expected).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn extremes_stay_finite() {
        let rows = projections().to_kind(Kind::Float);
        let _ = rows.get(3).zero_();
        for (temperature, sigma) in [(0.001, 0.001), (1000.0, 1000.0)] {
            for sigma in [None, Some(sigma)] {
                for scale in [1e-15, 1.0, 1e15] {
                    let loss = Decoupled { temperature, sigma };
                    let (found, gradient) =
                        graded(&(&rows * scale), |rows| loss.loss(rows, 4).unwrap());
                    assert!(found.is_finite() && gradient.isfinite().all().int64_value(&[]) == 1);
                }
            }
        }
    }

    #[test]
    fn a_single_image_and_settings_out_of_range_are_refused() {
        let refused = |loss: Decoupled, rows: i64, part: &str| {
            let message = loss.loss(&normal(1, rows, 3), 4).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        refused(DCL, 2, "at least two images, found 2 rows");
        refused(DCL, 5, "found 5 rows");
        refused(Decoupled { temperature: -1.0, ..DCL }, 4, "must be above 0, found `-1`");
        refused(Decoupled { sigma: Some(0.0), ..DCL }, 4, "`method.sigma` must be above 0");
    }
}
