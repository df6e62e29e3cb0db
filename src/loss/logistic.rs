//! NT-Logistic, the normalised temperature-scaled logistic loss.

use crate::error::{Error, Result};
use crate::loss::attach;
use crate::loss::nt_xent::agreement;
use crate::loss::pairwise::{Evaluated, NegativeReduction, Negatives, Pairwise, Term};
use crate::loss::semi_hard::{Empty, SemiHard};
use crate::rows::{row_dot, unit_rows};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Every pair of rows is told apart on its own: is it two views of one image or not (Chen et al. 2020, arXiv:2002.05709,
/// §5.1, Table 2)?
///
/// ```text
/// ℓ(i) = -ln σ(s⁺_i / τ) + mean_{j ∈ J_i} -ln σ(-s_ij / τ) ,   L = mean of ℓ over all 2N anchors
/// ```
///
/// with cosines s and `J_i` the anchor's negatives or its semi-hard one. The authors' code for it was never released: the
/// mean over negatives, and that an anchor without a semi-hard negative keeps its positive's term, are choices.
/// A collapsed batch costs `ln(1 + e^{-1/τ}) + ln(1 + e^{1/τ})` without mining.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NtLogistic {
    /// Which rows an anchor is pushed away from.
    pub negatives: Negatives,
    /// How the terms of an anchor's negatives become one number.
    pub reduction: NegativeReduction,
    /// Only the closest semi-hard negative of each anchor counts.
    pub semi_hard: bool,
    /// m of the semi-hard negatives, on cosines, above 0 (0 only with `empty = "hardest"`); left out, every negative less
    /// similar than the positive is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// What becomes of an anchor without a semi-hard negative.
    pub empty: Empty,
}

impl NtLogistic {
    /// Checks the settings; `key` is the loss's table in the recipe, `method.loss`.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting.
    pub fn check(&self, key: &str) -> Result<()> {
        match self.mining() {
            Some(mining) => mining.check(&format!("{key}.margin")),
            None if self.margin.is_some() => Err(Error::Recipe(format!(
                "`{key}.margin` says which negatives are semi-hard and needs `{key}.semi_hard = true`"
            ))),
            None => self.empty.check_unused(key),
        }
    }

    fn mining(&self) -> Option<SemiHard> {
        let margin = self.margin.unwrap_or(f64::INFINITY);
        self.semi_hard.then_some(SemiHard { margin, empty: self.empty })
    }

    /// The loss of `projections` `[2N, d]` (first views of all N images, then second views; not normalised) at
    /// temperature τ, in f32, or f64 for f64 input, with `tile` rows at a time, at least 1.
    ///
    /// A batch of one has no negatives: only the positive's term is left.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is an even number of rows, at least two. [`Error::Recipe`] if the temperature is not
    /// above 0.
    pub fn evaluate(&self, projections: &Tensor, temperature: f64, tile: i64) -> Result<Evaluated> {
        let agreement = agreement(projections, temperature, tile)?;
        let unit = unit_rows(projections);
        let anchors = unit.size()[0];
        let images = anchors / 2;
        // Both views of an image have the same positive.
        let positive = row_dot(&unit.narrow(0, 0, images), &unit.narrow(0, images, images));
        let pull = -(positive / temperature).log_sigmoid().mean(Kind::Double);

        let push = Pairwise {
            unit: &unit.detach(),
            negatives: self.negatives,
            term: Term::Logistic { temperature },
            semi_hard: self.mining(),
            tile,
        }
        .evaluate();
        let terms = if self.semi_hard { 1 } else { self.negatives.terms(self.reduction, images) };
        let weight = 1.0 / (anchors * terms) as f64;
        Ok(Evaluated {
            loss: pull + attach(push.sum * weight, &[(&unit, &(push.gradient * weight))]),
            agreement,
            semi_hard_share: self.semi_hard.then(|| push.semi_hard as f64 / anchors as f64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::pairwise::testing::{
        Naive, choices, gradient_of, normal, published, rows_of, slopes_agree,
    };
    use tch::Device;

    /// Every choice of the settings.
    fn all(margin: f64) -> impl Iterator<Item = NtLogistic> {
        choices(margin).map(|(negatives, reduction, mining)| NtLogistic {
            negatives,
            reduction,
            semi_hard: mining.is_some(),
            margin: mining.and_then(|mining| mining.margin.is_finite().then_some(mining.margin)),
            empty: mining.map_or(Empty::Skip, |mining| mining.empty),
        })
    }

    fn value(loss: &NtLogistic, rows: &Tensor, temperature: f64) -> f64 {
        loss.evaluate(rows, temperature, 3).unwrap().loss.double_value(&[])
    }

    #[test]
    fn every_form_and_its_slopes_equal_a_scalar_loop() {
        for margin in [0.3, f64::INFINITY] {
            for (loss, temperature) in
                all(margin).flat_map(|loss| [(loss.clone(), 0.1), (loss, 0.7)])
            {
                loss.check("method.loss").unwrap();
                let mined = SemiHard { margin, empty: loss.empty };
                let naive = Naive {
                    negatives: loss.negatives,
                    reduction: loss.reduction,
                    term: Term::Logistic { temperature },
                    semi_hard: loss.semi_hard.then_some(mined),
                };
                let rows = normal(1, 14, 3);
                let (expected, share) = naive.evaluate(&rows_of(&rows));
                let found = loss.evaluate(&rows, temperature, 3).unwrap();
                let single = value(&loss, &rows.to_kind(Kind::Float), temperature);
                assert!((found.loss.double_value(&[]) - expected).abs() < 1e-12, "{loss:?}");
                assert!((single / expected - 1.0).abs() < 1e-5, "{loss:?}");
                if loss.semi_hard {
                    assert!(share > 0.0 && share < 1.0, "the batch tests nothing: {share}");
                    assert!((found.semi_hard_share.unwrap() - share).abs() < 1e-15);
                } else {
                    assert_eq!(found.semi_hard_share, None);
                }
                let gradient =
                    gradient_of(&rows, |rows| loss.evaluate(rows, temperature, 3).unwrap().loss);
                slopes_agree(|rows| naive.evaluate(rows).0, &rows, &gradient);
            }
        }
    }

    #[test]
    fn the_published_vector_is_met() {
        for loss in all(0.8).filter(|loss| loss.negatives == Negatives::OneView) {
            let found = value(&loss, &(published() * 3.0), 0.5);
            assert!((found - 1.221_388_691_4).abs() < 1e-10, "{loss:?}: {found}");
        }
    }

    #[test]
    fn without_a_semi_hard_negative_the_positive_s_term_is_left() {
        // 0.8 - 0.4 is above 0.3: nothing lies within the margin.
        let pull = (1.0 + f64::exp(-0.8 / 0.5)).ln();
        let push = (1.0 + f64::exp(0.3 / 0.5)).ln();
        for (empty, expected) in [(Empty::Skip, pull), (Empty::Hardest, pull + push)] {
            let loss =
                NtLogistic { semi_hard: true, margin: Some(0.4), empty, ..NtLogistic::default() };
            let found = loss.evaluate(&published(), 0.5, 4).unwrap();
            assert!((found.loss.double_value(&[]) - expected).abs() < 1e-14);
            assert_eq!(found.semi_hard_share, Some(0.0));
        }
    }

    #[test]
    fn a_collapsed_batch_and_a_batch_of_one_cost_what_the_formula_says() {
        let temperature = 0.5;
        let rows = Tensor::ones([8, 3], (Kind::Float, Device::Cpu));
        let (pull, push) = ((1.0 + f64::exp(-2.0)).ln(), (1.0 + f64::exp(2.0)).ln());
        for loss in all(0.4) {
            let terms = match (loss.semi_hard, loss.reduction, loss.negatives) {
                (true, ..) => continue,
                (_, NegativeReduction::Mean, _) => 1.0,
                (_, NegativeReduction::Sum, Negatives::OneView) => 3.0,
                (_, NegativeReduction::Sum, Negatives::BothViews) => 6.0,
            };
            assert!((value(&loss, &rows, temperature) - pull - terms * push).abs() < 1e-5);
            let gradient =
                gradient_of(&rows, |rows| loss.evaluate(rows, temperature, 3).unwrap().loss);
            assert!(gradient.abs().max().double_value(&[]) < 1e-6);
        }
        for loss in all(0.4) {
            let alone = value(&loss, &rows.narrow(0, 0, 2), temperature);
            assert!((alone - pull).abs() < 1e-6, "{loss:?}: {alone}");
        }
    }

    #[test]
    fn torch_agrees() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/pairs.safetensors");
        let golden: std::collections::HashMap<String, Tensor> =
            Tensor::read_safetensors(path).unwrap().into_iter().collect();
        for (name, temperature) in [("cool", 0.1), ("warm", 1.0)] {
            let (loss, rows) = (NtLogistic::default(), &golden["projections"]);
            let expected = golden[&format!("logistic.{name}.loss")].double_value(&[]);
            assert!((value(&loss, rows, temperature) / expected - 1.0).abs() < 1e-5);
            let gradient =
                gradient_of(rows, |rows| loss.evaluate(rows, temperature, 7).unwrap().loss);
            let expected = &golden[&format!("logistic.{name}.gradient")];
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
            let value = |rows: &Tensor| loss.evaluate(rows, 0.5, 3).unwrap().loss;
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
            for (temperature, scale) in [(0.01, 1.0), (100.0, 1e-15), (1.0, 1e15)] {
                let evaluate = |rows: &Tensor| loss.evaluate(rows, temperature, 5).unwrap().loss;
                let rows = &rows * scale;
                assert!(evaluate(&rows).double_value(&[]).is_finite());
                assert!(gradient_of(&rows, evaluate).isfinite().all().int64_value(&[]) == 1);
            }
            let half = rows.to_kind(Kind::BFloat16);
            let expected = value(&loss, &half.to_kind(Kind::Float), 0.5);
            assert!((value(&loss, &half, 0.5) - expected).abs() < 1e-15);
            let gradient = gradient_of(&half, |rows| loss.evaluate(rows, 0.5, 5).unwrap().loss);
            assert_eq!(gradient.kind(), Kind::BFloat16);
        }
    }

    #[test]
    fn what_is_not_a_number_stays_visible() {
        let rows = normal(4, 8, 3);
        let _ = rows.get(2).fill_(f64::NAN);
        for loss in all(0.4) {
            assert!(value(&loss, &rows, 0.5).is_nan());
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let refused = |text: &str, start: &str| {
            let loss: NtLogistic = toml::from_str(text).unwrap();
            let message = loss.check("method.loss").unwrap_err().to_string();
            assert!(message.starts_with(start), "{message}");
        };
        refused("semi_hard = true\nmargin = 0.0", "`method.loss.margin` must be above 0");
        refused("semi_hard = true\nmargin = nan", "`method.loss.margin` must be above 0");
        refused(
            "semi_hard = true\nmargin = -1.0\nempty = 'hardest'",
            "`method.loss.margin` must be at least 0",
        );
        refused("margin = 0.4", "`method.loss.margin` says which");
        refused("empty = 'hardest'", "`method.loss.empty` is about");
        assert!(toml::from_str::<NtLogistic>("temperature = 0.5").is_err());
        let text = "negatives = 'both_views'\nreduction = 'sum'\nsemi_hard = true\nmargin = inf\nempty = 'hardest'";
        let loss: NtLogistic = toml::from_str(text).unwrap();
        loss.check("method.loss").unwrap();
        assert_eq!(
            (loss.negatives, loss.reduction),
            (Negatives::BothViews, NegativeReduction::Sum)
        );
        assert_eq!(toml::from_str::<NtLogistic>(&toml::to_string(&loss).unwrap()).unwrap(), loss);

        let loss = NtLogistic::default();
        let message = loss.evaluate(&normal(5, 3, 2), 0.5, 4).unwrap_err().to_string();
        assert!(message.contains("found 3 rows"), "{message}");
        let message = loss.evaluate(&normal(5, 4, 2), 0.0, 4).unwrap_err().to_string();
        assert!(message.contains("`method.temperature` must be above 0"), "{message}");
    }
}
