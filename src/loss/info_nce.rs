//! InfoNCE: each query finds its key among the keys of a queue.

use crate::error::{Error, Result};
use crate::loss::attach;
use crate::loss::tiled::{Contrast, Positive, check_temperature};
use crate::rows::{computing_kind, sum};
use crate::shape::check;
use tch::Tensor;

/// The loss of `MoCo` (He et al. 2020, arXiv:1911.05722, Eq. 1; van den Oord et al. 2018, arXiv:1807.03748): cross entropy
/// of finding each query's key among the keys of the queue,
///
/// ```text
/// ℓ(i) = ln( exp(q_i·k_i / T) + Σ_j exp(q_i·n_j / T) ) - q_i·k_i / T ,   loss = mean over i
/// ```
///
/// It has one direction; a symmetric loss is the sum or mean of two. `MoCo`'s other keys of the batch are no negatives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InfoNce {
    /// T, above 0: 0.07 (v1), 0.2 (v2), 0.15 (`InfoMin`), 0.1 (CIFAR).
    pub temperature: f64,
}

/// A loss with its graph, and what is worth logging about it.
#[derive(Debug)]
pub struct Scored {
    /// The loss, a scalar (f64) with a graph to the inputs that have one.
    pub loss: Tensor,
    /// Share of the rows whose positive scores strictly above all their negatives, in [0, 1]; 0 for a collapsed network.
    pub accuracy: f64,
    /// Mean product of rows and positives before the temperature: their cosine if they are unit rows.
    pub positive_similarity: f64,
    /// Mean product of rows and negatives before the temperature.
    pub negative_similarity: f64,
}

impl InfoNce {
    /// The loss of `queries` `[N, d]` and `keys` `[N, d]` against `queue` `[K, d]`.
    ///
    /// All are taken as they are, unit rows by the caller (the feature transformation has none on purpose). Gradients go
    /// to queries and keys; detach what shall have none. The queue gets none. It is computed in f32, or f64 for f64
    /// queries, in tiles of `tile` queries, see [`default_tile`](crate::loss::tiled::default_tile).
    ///
    /// # Errors
    /// [`Error::Shape`] if shapes do not fit or there is no query or no negative, [`Error::Recipe`] if the temperature is
    /// not above 0.
    pub fn loss(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        queue: &Tensor,
        tile: i64,
    ) -> Result<Scored> {
        check_temperature(self.temperature)?;
        check("queries", queries, &[-1, -1])?;
        let (count, width) = (queries.size()[0], queries.size()[1]);
        check("keys", keys, &[count, width])?;
        check("queue", queue, &[-1, width])?;
        if count == 0 {
            return Err(Error::Shape("`queries` must have a row at least, found none".into()));
        }
        let kind = computing_kind(queries);
        let [queries, keys] = [queries, keys].map(|tensor| tensor.to_kind(kind));
        let (rows, columns) = (queries.detach(), queue.detach().to_kind(kind));
        let found = Contrast {
            rows: &rows,
            columns: &columns,
            temperature: self.temperature,
            positive: Positive::Pair(&keys.detach()),
            weights: &Tensor::full([count], 1.0 / count as f64, (kind, rows.device())),
            excluded: None,
            negatives_scale: None,
            columns_gradient: false,
            tile,
        }
        .evaluate()?;
        let Some(keys_gradient) = &found.positives_gradient else {
            unreachable!("pairs have a gradient");
        };
        let mean = |tensor: &Tensor| sum(tensor) / count as f64;
        Ok(Scored {
            loss: attach(
                mean(&(&found.log_sum_exp - &found.positive)),
                &[(&queries, &found.rows_gradient), (&keys, keys_gradient)],
            ),
            accuracy: mean(&found.positive.gt_tensor(&found.hardest)),
            positive_similarity: mean(&found.positive) * self.temperature,
            negative_similarity: mean_product(&rows, &columns),
        })
    }
}

/// Mean product of every row with every column.
pub(super) fn mean_product(rows: &Tensor, columns: &Tensor) -> f64 {
    let mean = |tensor: &Tensor| tensor.mean_dim(0, false, tch::Kind::Double);
    mean(rows).dot(&mean(columns)).double_value(&[])
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact by construction: counts and equal inputs")]
mod tests {
    use super::*;
    use crate::loss::tiled::testing::{
        distance, dot, equals_golden, golden, graded, log_sum_exp, normal, rows_of, slope, value,
    };
    use crate::rows::unit_rows;
    use tch::{Device, Kind};

    const COOL: InfoNce = InfoNce { temperature: 0.07 };

    /// Queries near their keys, and a queue.
    fn inputs() -> [Tensor; 3] {
        let shared = normal(1, 7, 5);
        let [queries, keys] = [2, 3].map(|item| unit_rows(&(&shared + normal(item, 7, 5) * 0.6)));
        [queries, keys, unit_rows(&normal(4, 23, 5))]
    }

    /// Loss, accuracy and mean scores in one scalar loop.
    fn naive(temperature: f64, [queries, keys, queue]: [&Tensor; 3]) -> [f64; 4] {
        let (queries, keys, queue) = (rows_of(queries), rows_of(keys), rows_of(queue));
        let mut sums = [0.0; 4];
        for (query, key) in queries.iter().zip(&keys) {
            let positive = dot(query, key);
            let negatives: Vec<f64> = queue.iter().map(|row| dot(query, row)).collect();
            let mut logits: Vec<f64> = negatives.iter().map(|score| score / temperature).collect();
            logits.push(positive / temperature);
            sums[0] += log_sum_exp(&logits) - positive / temperature;
            sums[1] += f64::from(u8::from(negatives.iter().all(|score| *score < positive)));
            sums[2] += positive;
            sums[3] += negatives.iter().sum::<f64>() / negatives.len() as f64;
        }
        sums.map(|sum| sum / queries.len() as f64)
    }

    #[test]
    fn published_vectors_are_met() {
        let first = Tensor::from_slice(&[1.0, 0.0, 0.0, 1.0]).view([2, 2]);
        let second = unit_rows(&Tensor::from_slice(&[1.0, 1.0, -1.0, 1.0]).view([2, 2]));
        let queue = Tensor::from_slice(&[0.6, 0.8, 0.0, -1.0, -1.0, 0.0]).view([3, 2]);
        for (temperature, expected) in [(0.07, 0.879_177_822_8), (0.2, 0.721_256_756_7)] {
            let found = InfoNce { temperature }.loss(&first, &second, &queue, 1).unwrap();
            assert!((value(&found.loss) - expected).abs() < 1e-10);
        }
    }

    #[test]
    fn a_collapsed_network_pays_ln_of_the_queue_plus_one() {
        let ones = |rows: i64| Tensor::ones([rows, 4], (Kind::Float, Device::Cpu)) / 2.0;
        let found = COOL.loss(&ones(3), &ones(3), &ones(20), 2).unwrap();
        assert!((value(&found.loss) - 21_f64.ln()).abs() < 1e-5);
        assert_eq!(found.accuracy, 0.0);
        assert!((found.positive_similarity - 1.0).abs() < 1e-6);
        assert!((found.negative_similarity - 1.0).abs() < 1e-6);
    }

    #[test]
    fn loss_and_scores_equal_a_scalar_loop() {
        let [queries, keys, queue] = inputs();
        for temperature in [0.01, 0.2, 5.0] {
            let loss = InfoNce { temperature };
            let expected = naive(temperature, [&queries, &keys, &queue]);
            assert!(expected[1] > 0.0 && expected[1] < 1.0, "the batch tests nothing");
            for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 2e-5)] {
                let [queries, keys, queue] = [&queries, &keys, &queue].map(|t| t.to_kind(kind));
                for tile in [1, 3, 50] {
                    let found = loss.loss(&queries, &keys, &queue, tile).unwrap();
                    let found = [
                        value(&found.loss),
                        found.accuracy,
                        found.positive_similarity,
                        found.negative_similarity,
                    ];
                    for (found, expected) in found.iter().zip(expected) {
                        let off = (found - expected).abs();
                        assert!(off < tolerance * expected.abs().max(1.0), "{found} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn gradients_of_queries_and_keys_are_the_slopes_of_the_loss() {
        let [queries, keys, queue] = inputs();
        // Not of length 1, as after a feature transformation.
        let [queries, keys] = [queries * 1.3, keys * 0.8];
        let found = graded(&queries, |q| COOL.loss(q, &keys, &queue, 3).unwrap().loss).1;
        let expected = slope(&queries, |q| naive(0.07, [q, &keys, &queue])[0]);
        assert!(distance(&found, &expected) < 1e-7);
        let found = graded(&keys, |k| COOL.loss(&queries, k, &queue, 3).unwrap().loss).1;
        let expected = slope(&keys, |k| naive(0.07, [&queries, k, &queue])[0]);
        assert!(distance(&found, &expected) < 1e-7);

        // Through what made both from one leaf, as the feature transformation does; nothing for the queue.
        let leaf = queries.copy().set_requires_grad(true);
        let bank = queue.copy().set_requires_grad(true);
        let loss = COOL.loss(&(&leaf * 1.5), &(&keys - &leaf * 0.5), &bank, 3).unwrap().loss;
        loss.backward();
        let expected =
            slope(&queries, |q| naive(0.07, [&(q * 1.5), &(&keys - q * 0.5), &queue])[0]);
        assert!(distance(&leaf.grad(), &expected) < 1e-6);
        assert!(!bank.grad().defined());
    }

    #[test]
    fn lightly_agrees() {
        let arrays = golden("info_nce");
        for (name, temperature) in [("cool", 0.07), ("warm", 0.2)] {
            let loss = InfoNce { temperature };
            let found = graded(&arrays["queries"], |queries| {
                loss.loss(&unit_rows(queries), &arrays["keys"], &arrays["queue"], 5).unwrap().loss
            });
            equals_golden(&arrays, name, &found);
        }
    }

    #[test]
    fn extremes_stay_finite_and_half_precision_is_computed_in_single() {
        let [queries, keys, queue] = inputs().map(|tensor| tensor.to_kind(Kind::BFloat16));
        for temperature in [0.001, 1000.0] {
            let loss = InfoNce { temperature };
            for scale in [0.0, 1.0, 1e4] {
                let queries = &queries * scale;
                let (found, gradient) =
                    graded(&queries, |q| loss.loss(q, &keys, &queue, 3).unwrap().loss);
                assert!(found.is_finite() && gradient.isfinite().all().int64_value(&[]) == 1);
                let [q, k, n] = [&queries, &keys, &queue].map(|t| t.to_kind(Kind::Float));
                let single = loss.loss(&q, &k, &n, 3).unwrap().loss;
                assert_eq!(found, value(&single));
            }
        }
    }

    #[test]
    fn inputs_that_do_not_fit_are_refused() {
        let [queries, keys, queue] = inputs();
        let refused = |loss: InfoNce, [queries, keys, queue]: [&Tensor; 3], part: &str| {
            let message = loss.loss(queries, keys, queue, 3).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        refused(InfoNce { temperature: 0.0 }, [&queries, &keys, &queue], "must be above 0");
        refused(COOL, [&queries, &queue, &queue], "`keys` must have shape [7, 5]");
        refused(COOL, [&queries, &keys, &queue.tr()], "`queue` must have shape [any, 5]");
        refused(COOL, [&queries, &keys, &queue.narrow(0, 0, 0)], "found none");
        let [none, no_keys] = [&queries, &keys].map(|tensor| tensor.narrow(0, 0, 0));
        refused(COOL, [&none, &no_keys, &queue], "`queries` must have a row");
    }
}
