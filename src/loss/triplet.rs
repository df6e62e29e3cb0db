//! The margin triplet loss on unit rows.

use crate::error::{Error, Result};
use crate::loss::attach;
use crate::loss::nt_xent::agreement;
use crate::loss::pairwise::{Evaluated, NegativeReduction, Negatives, Pairwise, Term};
use crate::loss::semi_hard::{Empty, SemiHard};
use crate::rows::unit_rows;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// A negative must be less similar to the anchor than the positive is, by a margin (Schroff et al. 2015,
/// arXiv:1503.03832; in this form Chen et al. 2020, arXiv:2002.05709, §5.1, Table 2):
///
/// ```text
/// ℓ(i) = mean_{j ∈ J_i} max(s_ij - s⁺_i + m, 0) ,   L = mean of ℓ over all anchors whose J_i is not empty
/// ```
///
/// with cosines s and `J_i` the anchor's negatives or its semi-hard one; it knows no temperature. The authors' code for it
/// was never released: the mean over negatives, zeros included, and over anchors is a choice. If mining leaves no anchor
/// the loss is 0. A collapsed batch costs m without mining.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MarginTriplet {
    /// m on cosines, finite, at least 0 (above 0 with `semi_hard`, unless `empty = "hardest"`). The paper tried 0, 0.4, 0.8
    /// and 1.6 (§B.10).
    pub margin: f64,
    /// Which rows an anchor is pushed away from.
    pub negatives: Negatives,
    /// How the terms of an anchor's negatives become one number.
    pub reduction: NegativeReduction,
    /// Only the closest semi-hard negative of each anchor counts.
    pub semi_hard: bool,
    /// What becomes of an anchor without a semi-hard negative.
    pub empty: Empty,
}

impl Default for MarginTriplet {
    fn default() -> Self {
        Self {
            margin: 0.8,
            negatives: Negatives::default(),
            reduction: NegativeReduction::default(),
            semi_hard: false,
            empty: Empty::default(),
        }
    }
}

impl MarginTriplet {
    /// Checks the settings; `key` is the loss's table in the recipe, `method.loss`.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting.
    pub fn check(&self, key: &str) -> Result<()> {
        if !(self.margin.is_finite() && self.margin >= 0.0) {
            return Err(Error::Recipe(format!(
                "`{key}.margin` must be finite and at least 0, found `{}`",
                self.margin
            )));
        }
        match self.mining() {
            Some(mining) => mining.check(&format!("{key}.margin")),
            None => self.empty.check_unused(key),
        }
    }

    fn mining(&self) -> Option<SemiHard> {
        self.semi_hard.then_some(SemiHard { margin: self.margin, empty: self.empty })
    }

    /// The loss of `projections` `[2N, d]` (first views of all N images, then second views; not normalised), in f32, or
    /// f64 for f64 input, with `tile` rows at a time, at least 1. Only the agreement that is logged knows the temperature.
    ///
    /// A batch of one has no negatives: its loss is 0.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is an even number of rows, at least two. [`Error::Recipe`] if the temperature is not
    /// above 0.
    pub fn evaluate(&self, projections: &Tensor, temperature: f64, tile: i64) -> Result<Evaluated> {
        let agreement = agreement(projections, temperature, tile)?;
        let unit = unit_rows(projections);
        let rows = unit.size()[0];
        let pairs = Pairwise {
            unit: &unit.detach(),
            negatives: self.negatives,
            term: Term::Hinge { margin: self.margin },
            semi_hard: self.mining(),
            tile,
        }
        .evaluate();
        let terms = if self.semi_hard { 1 } else { self.negatives.terms(self.reduction, rows / 2) };
        let weight = 1.0 / (pairs.anchors.max(1) * terms) as f64;
        Ok(Evaluated {
            loss: attach(pairs.sum * weight, &[(&unit, &(pairs.gradient * weight))]),
            agreement,
            semi_hard_share: self.semi_hard.then(|| pairs.semi_hard as f64 / rows as f64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::pairwise::testing::{
        Naive, choices, gradient_of, normal, published, rows_of, slopes_agree,
    };
    use tch::{Device, Kind};

    /// Every choice of the settings.
    fn all(margin: f64) -> impl Iterator<Item = MarginTriplet> {
        choices(margin).map(move |(negatives, reduction, mining)| MarginTriplet {
            margin,
            negatives,
            reduction,
            semi_hard: mining.is_some(),
            empty: mining.map_or(Empty::Skip, |mining| mining.empty),
        })
    }

    fn value(loss: &MarginTriplet, rows: &Tensor) -> f64 {
        loss.evaluate(rows, 1.0, 3).unwrap().loss.double_value(&[])
    }

    #[test]
    fn every_form_and_its_slopes_equal_a_scalar_loop() {
        for margin in [0.2, 0.8, 1.6] {
            for loss in all(margin) {
                loss.check("method.loss").unwrap();
                let mined = SemiHard { margin, empty: loss.empty };
                let naive = Naive {
                    negatives: loss.negatives,
                    reduction: loss.reduction,
                    term: Term::Hinge { margin },
                    semi_hard: loss.semi_hard.then_some(mined),
                };
                let rows = normal(1, 14, 3);
                let (expected, share) = naive.evaluate(&rows_of(&rows));
                let found = loss.evaluate(&rows, 1.0, 3).unwrap();
                let single = value(&loss, &rows.to_kind(Kind::Float));
                assert!((found.loss.double_value(&[]) - expected).abs() < 1e-12, "{loss:?}");
                assert!((single / expected - 1.0).abs() < 1e-5, "{loss:?}");
                if loss.semi_hard {
                    assert!(share > 0.0 && share < 1.0, "the batch tests nothing: {share}");
                    assert!((found.semi_hard_share.unwrap() - share).abs() < 1e-15);
                } else {
                    assert_eq!(found.semi_hard_share, None);
                }
                let gradient = gradient_of(&rows, |rows| loss.evaluate(rows, 1.0, 3).unwrap().loss);
                slopes_agree(|rows| naive.evaluate(rows).0, &rows, &gradient);
            }
        }
    }

    #[test]
    fn published_vectors_are_met() {
        for loss in all(0.8).filter(|loss| loss.negatives == Negatives::OneView) {
            let found = value(&loss, &(published() * 3.0));
            assert!((found - 0.3).abs() < 1e-14, "{loss:?}: {found}");
        }
        for loss in all(0.4).filter(|loss| loss.negatives == Negatives::OneView) {
            assert!(value(&loss, &(published() * 3.0)).abs() < 1e-15);
        }
    }

    #[test]
    fn anchors_without_a_semi_hard_negative_do_not_count() {
        // Image 0 has its views at cosine 0.8 and each negative at 0.3, at 0 or below; image 1 its views at cosine 0:
        // of its anchors none has a negative that is less similar but within the margin.
        let rows = published();
        let apart = Tensor::from_slice(&[0.0, 0.0, 0.0, 1.0]);
        rows.get(3).copy_(&apart);
        let loss = MarginTriplet { margin: 0.9, semi_hard: true, ..MarginTriplet::default() };
        let scores = [(0.8_f64, 0.0_f64), (0.8, 0.3)];
        let expected: f64 = scores.iter().map(|(s, n)| n - s + 0.9).sum::<f64>() / 2.0;
        let found = loss.evaluate(&rows, 1.0, 2).unwrap();
        assert!((found.loss.double_value(&[]) - expected).abs() < 1e-14);
        assert_eq!(found.semi_hard_share, Some(0.5));
    }

    #[test]
    fn if_every_anchor_is_skipped_the_loss_is_zero_with_a_graph() {
        let rows = published().set_requires_grad(true);
        let loss = MarginTriplet { margin: 0.4, semi_hard: true, ..MarginTriplet::default() };
        let found = loss.evaluate(&rows, 1.0, 4).unwrap();
        assert_eq!(found.semi_hard_share, Some(0.0));
        assert!(found.loss.double_value(&[]).abs() < f64::MIN_POSITIVE);
        found.loss.backward();
        assert!(rows.grad().abs().max().double_value(&[]) < f64::MIN_POSITIVE);
    }

    #[test]
    fn a_collapsed_batch_costs_the_margin_and_a_batch_of_one_nothing() {
        let rows = Tensor::ones([8, 3], (Kind::Float, Device::Cpu));
        for loss in all(0.4) {
            let terms = match (loss.semi_hard, loss.empty, loss.reduction, loss.negatives) {
                (true, Empty::Skip, ..) => 0.0,
                (true, Empty::Hardest, ..) | (_, _, NegativeReduction::Mean, _) => 1.0,
                (_, _, NegativeReduction::Sum, Negatives::OneView) => 3.0,
                (_, _, NegativeReduction::Sum, Negatives::BothViews) => 6.0,
            };
            assert!((value(&loss, &rows) - terms * 0.4).abs() < 1e-6, "{loss:?}");
            assert!(value(&loss, &rows.narrow(0, 0, 2)).abs() < f64::MIN_POSITIVE);
        }
    }

    #[test]
    fn torch_agrees() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/pairs.safetensors");
        let golden: std::collections::HashMap<String, Tensor> =
            Tensor::read_safetensors(path).unwrap().into_iter().collect();
        for (name, margin) in [("narrow", 0.4), ("wide", 1.6)] {
            let loss = MarginTriplet { margin, ..MarginTriplet::default() };
            let rows = &golden["projections"];
            let expected = golden[&format!("triplet.{name}.loss")].double_value(&[]);
            assert!((value(&loss, rows) / expected - 1.0).abs() < 1e-5);
            let gradient = gradient_of(rows, |rows| loss.evaluate(rows, 1.0, 7).unwrap().loss);
            let expected = &golden[&format!("triplet.{name}.gradient")];
            let off = (gradient - expected).abs().max().double_value(&[]);
            assert!(off < 1e-5 * expected.abs().max().double_value(&[]), "{off}");
        }
    }

    #[test]
    fn order_views_and_lengths_do_not_matter() {
        let rows = normal(2, 16, 5);
        let images = Tensor::from_slice(&[3_i64, 5, 1, 0, 7, 2, 4, 6]);
        let orders = [
            Tensor::arange(16, (Kind::Int64, Device::Cpu)).roll(8, 0),
            Tensor::cat(&[&images, &(&images + 8)], 0),
        ];
        let lengths = (Tensor::arange(16, (Kind::Double, Device::Cpu)) + 0.5).unsqueeze(1);
        for loss in all(0.4) {
            let value = |rows: &Tensor| loss.evaluate(rows, 1.0, 3).unwrap().loss;
            let expected = value(&rows).double_value(&[]);
            let gradient = gradient_of(&rows, value);
            let distance =
                |left: &Tensor, right: &Tensor| (left - right).abs().max().double_value(&[]);
            for order in &orders {
                let rearranged = rows.index_select(0, order);
                assert!((value(&rearranged).double_value(&[]) - expected).abs() < 1e-13);
                let found = gradient_of(&rearranged, value);
                assert!(distance(&found, &gradient.index_select(0, order)) < 1e-13);
            }
            let scaled = &rows * &lengths;
            assert!((value(&scaled).double_value(&[]) - expected).abs() < 1e-13);
            assert!(distance(&(gradient_of(&scaled, value) * &lengths), &gradient) < 1e-13);
        }
    }

    #[test]
    fn extremes_stay_finite_and_bfloat16_is_computed_in_single() {
        let rows = normal(3, 16, 8).to_kind(Kind::Float);
        let _ = rows.get(3).zero_();
        let rows = Tensor::cat(&[&rows, &rows.narrow(0, 0, 4), &rows.narrow(0, 3, 4)], 0);
        for loss in all(0.4) {
            let evaluate = |rows: &Tensor| loss.evaluate(rows, 1.0, 5).unwrap().loss;
            for scale in [1e-15, 1.0, 1e15] {
                let rows = &rows * scale;
                assert!(evaluate(&rows).double_value(&[]).is_finite());
                assert!(gradient_of(&rows, evaluate).isfinite().all().int64_value(&[]) == 1);
            }
            let half = rows.to_kind(Kind::BFloat16);
            let expected = value(&loss, &half.to_kind(Kind::Float));
            assert!((value(&loss, &half) - expected).abs() < 1e-15);
            assert_eq!(gradient_of(&half, evaluate).kind(), Kind::BFloat16);
        }
    }

    #[test]
    fn what_is_not_a_number_stays_visible() {
        let rows = normal(4, 8, 3);
        let _ = rows.get(2).fill_(f64::NAN);
        for loss in all(0.4) {
            assert!(value(&loss, &rows).is_nan());
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let refused = |text: &str, start: &str| {
            let loss: MarginTriplet = toml::from_str(text).unwrap();
            let message = loss.check("method.loss").unwrap_err().to_string();
            assert!(message.starts_with(start), "{message}");
        };
        refused(
            "margin = -0.1",
            "`method.loss.margin` must be finite and at least 0, found `-0.1`",
        );
        refused("margin = inf", "`method.loss.margin` must be finite");
        refused("margin = nan", "`method.loss.margin` must be finite");
        refused("semi_hard = true\nmargin = 0.0", "`method.loss.margin` must be above 0");
        refused("empty = 'hardest'", "`method.loss.empty` is about");
        assert!(toml::from_str::<MarginTriplet>("temperature = 0.5").is_err());
        for text in ["margin = 0.0", "margin = 0.0\nsemi_hard = true\nempty = 'hardest'"] {
            let loss: MarginTriplet = toml::from_str(text).unwrap();
            loss.check("method.loss").unwrap();
            assert_eq!(
                toml::from_str::<MarginTriplet>(&toml::to_string(&loss).unwrap()).unwrap(),
                loss
            );
        }
        let message =
            MarginTriplet::default().evaluate(&normal(5, 3, 2), 1.0, 4).unwrap_err().to_string();
        assert!(message.contains("found 3 rows"), "{message}");
    }
}
