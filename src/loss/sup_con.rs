//! Supervised contrastive loss: all rows of the same label are each other's positives.

use crate::error::{Error, Result};
use crate::loss::attach;
use crate::loss::tiled::{Contrast, Positive, check_temperature};
use crate::rows::{row_dot, sum, unit_rows};
use crate::shape::check;
use std::collections::HashMap;
use tch::{Device, Kind, Tensor};

/// `SupCon` (Khosla et al. 2020, arXiv:2004.11362, Eq. 2, `L_out`),
///
/// ```text
/// ℓ(i) = τ/τ_b · [ ln Σ_{a≠i} exp(ẑ_i·ẑ_a / τ) - 1/|P(i)| Σ_{p∈P(i)} ẑ_i·ẑ_p / τ ] ,   loss = mean over all rows
/// ```
///
/// with P(i) the other rows of i's label: its other views and all views of the images of its class. A row without any
/// (one view and a label of its own) counts 0, as in the official code. With no two images of one label and two views it is
/// NT-Xent times `τ/τ_b`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SupCon {
    /// τ, above 0: 0.07 in the official code, 0.1 in the paper.
    pub temperature: f64,
    /// `τ_b`, above 0: 0.07. The official scripts change τ alone, which scales the loss by τ/0.07; `τ_b = τ` is the paper.
    pub base_temperature: f64,
}

impl SupCon {
    /// The loss of `projections` `[V·N, d]` (the first view of all N images, then the second, ...; not normalised) with
    /// `labels` i64 `[N]`, a scalar (f64) with the projections' graph. A label below 0 is none: such an image is a class of
    /// its own. Computed in f32, or f64 for f64 input, in tiles of `tile` rows, see
    /// [`default_tile`](crate::loss::tiled::default_tile).
    ///
    /// # Errors
    /// [`Error::Shape`] unless there are as many rows for every image, and two at least in all. [`Error::Recipe`] if a
    /// temperature is not above 0.
    pub fn loss(&self, projections: &Tensor, labels: &Tensor, tile: i64) -> Result<Tensor> {
        check_temperature(self.temperature)?;
        check_temperature(self.base_temperature)?;
        check("projections", projections, &[-1, -1])?;
        check("labels", labels, &[-1])?;
        let (rows, images) = (projections.size()[0], labels.size()[0]);
        if rows < 2 || images == 0 || rows % images != 0 {
            return Err(Error::Shape(format!(
                "`projections` must hold as many rows for each of the {images} labels and two at least, found {rows} rows"
            )));
        }
        let views = rows / images;
        let unit = unit_rows(projections);
        let values = unit.detach();
        let options = (values.kind(), values.device());

        let (class, sizes) = classes(labels);
        let class = class.repeat([views]).to_device(options.1);
        let positives = Tensor::from_slice(&sizes).to_device(options.1) * views - 1;
        let positives = positives.index_select(0, &class).to_kind(options.0); // [V·N]
        let share = self.temperature / self.base_temperature / rows as f64;
        let weights = positives.gt(0.0).to_kind(options.0) * share;

        let itself = Tensor::arange(rows, (Kind::Int64, options.1)).unsqueeze(1);
        let found = Contrast {
            rows: &values,
            columns: &values,
            temperature: self.temperature,
            positive: Positive::None,
            weights: &weights,
            excluded: Some(&itself),
            negatives_scale: None,
            columns_gradient: true,
            tile,
        }
        .evaluate()?;
        let Some(columns) = found.columns_gradient else {
            unreachable!("the columns' gradient was asked for");
        };
        let spread = attach(
            sum(&(&weights * &found.log_sum_exp)),
            &[(&unit, &(found.rows_gradient + columns))],
        );
        // A row's positives are its class without itself.
        let sums = Tensor::zeros([sizes.len() as i64, unit.size()[1]], options);
        let others = sums.index_add(0, &class, &unit).index_select(0, &class) - &unit;
        let pull = row_dot(&unit, &others).squeeze_dim(1) * weights / positives.clamp_min(1.0);
        Ok(spread - pull.sum(Kind::Double) / self.temperature)
    }
}

/// The class of each image, i64 `[N]`, counted in order of appearance, and how many images each has.
fn classes(labels: &Tensor) -> (Tensor, Vec<i64>) {
    let labels: Vec<i64> =
        Vec::try_from(labels.to_device(Device::Cpu)).expect("labels have one dimension");
    let mut known = HashMap::new();
    let mut sizes: Vec<i64> = Vec::new();
    let mut class = Vec::with_capacity(labels.len());
    for label in labels {
        let next = sizes.len();
        let at = if label < 0 { next } else { *known.entry(label).or_insert(next) };
        if at == next {
            sizes.push(0);
        }
        sizes[at] += 1;
        class.push(at as i64);
    }
    (Tensor::from_slice(&class), sizes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::nt_xent::{NtXent, Reduction};
    use crate::loss::tiled::testing::{
        distance, dot, equals_golden, golden, graded, log_sum_exp, normal, slope, unit_rows_of,
        value,
    };

    const WARM: SupCon = SupCon { temperature: 0.5, base_temperature: 0.07 };

    /// The definition in one scalar loop; images of label -1 have no other of their class.
    fn naive(loss: SupCon, projections: &Tensor, labels: &[i64]) -> f64 {
        let rows = unit_rows_of(projections);
        let (count, images) = (rows.len(), labels.len());
        let mut total = 0.0;
        for i in 0..count {
            let logit = |j: usize| dot(&rows[i], &rows[j]) / loss.temperature;
            let (own, label) = (i % images, labels[i % images]);
            let positives: Vec<f64> = (0..count)
                .filter(|j| {
                    let same = label >= 0 && labels[j % images] == label;
                    *j != i && (j % images == own || same)
                })
                .map(logit)
                .collect();
            if !positives.is_empty() {
                let others: Vec<f64> = (0..count).filter(|j| *j != i).map(logit).collect();
                let mean = positives.iter().sum::<f64>() / positives.len() as f64;
                total += log_sum_exp(&others) - mean;
            }
        }
        total / count as f64 * loss.temperature / loss.base_temperature
    }

    #[test]
    fn loss_and_gradient_equal_a_scalar_loop_and_its_slope() {
        let labels = [3_i64, -1, 3, 0, -1, 3, 8];
        let tensor = Tensor::from_slice(&labels);
        for views in [1, 2, 3] {
            let rows = normal(views as u64, views * 7, 4);
            for loss in [WARM, SupCon { temperature: 0.1, base_temperature: 0.1 }] {
                for tile in [1, 5, 50] {
                    let (found, gradient) =
                        graded(&rows, |rows| loss.loss(rows, &tensor, tile).unwrap());
                    let expected = naive(loss, &rows, &labels);
                    assert!((found / expected - 1.0).abs() < 1e-12, "{found} against {expected}");
                    let expected = slope(&rows, |rows| naive(loss, rows, &labels));
                    assert!(distance(&gradient, &expected) < 1e-7);
                }
                let single = loss.loss(&rows.to_kind(Kind::Float), &tensor, 5).unwrap();
                assert!((value(&single) / naive(loss, &rows, &labels) - 1.0).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn the_official_code_agrees() {
        let arrays = golden("sup_con");
        for (name, temperature) in [("two", 0.07), ("three", 0.5), ("one", 0.1)] {
            let loss = SupCon { temperature, ..WARM };
            let found = graded(&arrays[&format!("{name}.projections")], |rows| {
                loss.loss(rows, &arrays["labels"], 7).unwrap()
            });
            equals_golden(&arrays, name, &found);
        }
    }

    #[test]
    fn without_a_shared_label_it_is_nt_xent() {
        let rows = normal(9, 12, 5);
        let base = NtXent { temperature: 0.2, reduction: Reduction::Mean2n };
        let expected = graded(&rows, |rows| base.loss(rows, 5).unwrap());
        let loss = SupCon { temperature: 0.2, base_temperature: 0.2 };
        for labels in [[0_i64, 1, 2, 3, 4, 5], [-1; 6]] {
            let labels = Tensor::from_slice(&labels);
            let found = graded(&rows, |rows| loss.loss(rows, &labels, 5).unwrap());
            assert!((found.0 - expected.0).abs() < 1e-12);
            assert!(distance(&found.1, &expected.1) < 1e-12);
        }
    }

    #[test]
    fn a_collapsed_batch_costs_ln_of_the_other_rows() {
        let rows = Tensor::ones([12, 3], (Kind::Double, Device::Cpu));
        for labels in [[0_i64; 6], [0, 0, 1, 1, 2, -1]] {
            let loss = SupCon { temperature: 0.1, base_temperature: 0.1 };
            let found = loss.loss(&rows, &Tensor::from_slice(&labels), 5).unwrap();
            assert!((value(&found) - 11_f64.ln()).abs() < 1e-12);
        }
    }

    #[test]
    fn rows_without_a_positive_count_nothing() {
        let labels = Tensor::from_slice(&[0_i64, 1, -1]);
        let (found, gradient) = graded(&normal(1, 3, 4), |r| WARM.loss(r, &labels, 2).unwrap());
        assert_eq!((found.abs(), value(&gradient.abs().max())), (0.0, 0.0));
    }

    #[test]
    fn extremes_stay_finite() {
        let rows = normal(1, 12, 4).to_kind(Kind::Float);
        let _ = rows.get(3).zero_();
        let labels = Tensor::from_slice(&[0_i64, 1, 0, 0, -1, 1]);
        for temperature in [0.001, 1000.0] {
            for scale in [1e-15, 1.0, 1e15] {
                let loss = SupCon { temperature, ..WARM };
                let (found, gradient) =
                    graded(&(&rows * scale), |rows| loss.loss(rows, &labels, 5).unwrap());
                assert!(found.is_finite() && gradient.isfinite().all().int64_value(&[]) == 1);
            }
        }
    }

    #[test]
    fn inputs_that_do_not_fit_are_refused() {
        let labels = Tensor::from_slice(&[0_i64, 1, 0]);
        let refused = |loss: SupCon, rows: i64, labels: &Tensor, part: &str| {
            let message = loss.loss(&normal(1, rows, 3), labels, 4).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        refused(WARM, 7, &labels, "each of the 3 labels and two at least, found 7 rows");
        refused(WARM, 1, &labels.narrow(0, 0, 1), "found 1 rows");
        refused(WARM, 6, &labels.narrow(0, 0, 0), "each of the 0 labels");
        refused(WARM, 6, &labels.unsqueeze(1), "`labels` must have shape [any]");
        refused(SupCon { base_temperature: 0.0, ..WARM }, 6, &labels, "must be above 0");
    }
}
