//! The protocols on stored features as [`Protocol`]s: what of their outcomes is the number, and what stands beside it.

use super::few_shot::FewShot;
use super::logistic::{Logistic, Metric};
use super::protocol::{Finding, Protocol, Sweep};
use super::record::Measure;
use super::retrieval::Retrieval;
use super::{Features, Knn, Linear, calibration, few_shot, knn, linear, logistic, retrieval};
use crate::error::{Error, Result};
use serde_json::{Value, json};

impl Protocol for Knn {
    fn version(&self) -> u32 {
        knn::VERSION
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    fn measure(
        &self,
        queries: &Features,
        references: &Features,
        seed: u64,
        _progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Finding> {
        Ok(Finding::of_ranks(&self.evaluate(queries, references)?, seed))
    }
}

impl Protocol for knn::Sweep {
    fn version(&self) -> u32 {
        knn::VERSION
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    /// The combination chosen on held-out references; without a choice, the first.
    fn measure(
        &self,
        queries: &Features,
        references: &Features,
        seed: u64,
        _progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Finding> {
        let outcome = self.evaluate(queries, references, seed)?;
        let Some(chosen) = &outcome.chosen else {
            return Err(Error::Recipe(
                "`sweep.holdout` must be above 0, so that the reported combination is not chosen on what it is judged by"
                    .to_owned(),
            ));
        };
        let point = outcome.points[chosen.point].setting;
        let mut finding = Finding::of_ranks(&chosen.ranks, seed);
        finding.chosen = serde_json::from_value(json!(point)).unwrap_or_default();
        if point.distance == knn::Distance::Euclidean {
            finding.chosen.remove("temperature");
        }
        finding.details.sweeps = self
            .distance
            .iter()
            .map(|distance| Sweep {
                setting: "k".to_owned(),
                measure: format!("top1 of the queries, {}", distance.name()),
                logarithmic: true,
                at: self.k.iter().map(|k| *k as f64).collect(),
                curves: outcome.curves(*distance),
                chosen: (point.distance == *distance).then_some(point.k as f64),
            })
            .collect();
        Ok(finding)
    }
}

impl Protocol for Linear {
    fn version(&self) -> u32 {
        linear::VERSION
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    fn measure(
        &self,
        queries: &Features,
        references: &Features,
        seed: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Finding> {
        let outcome = self.evaluate(queries, references, seed, progress)?;
        Ok(Finding::of_ranks(&outcome.ranks, seed)
            .and("train_loss", Measure::plain(outcome.train_loss))
            .and("train_top1", outcome.training.top(1)))
    }
}

impl Protocol for Logistic {
    fn version(&self) -> u32 {
        logistic::VERSION
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    fn measure(
        &self,
        queries: &Features,
        references: &Features,
        seed: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Finding> {
        let mut done = |at: usize, all: usize| progress(at as u64, all as u64);
        let outcome = self.evaluate(queries, references, None, seed, &mut done)?;
        Ok(self.finding(&outcome, seed))
    }
}

impl Logistic {
    /// What of an outcome is told: top-1, or mean per class where the penalty was chosen by that.
    pub fn finding(&self, outcome: &logistic::Outcome, seed: u64) -> Finding {
        let mut finding = Finding::of_ranks(&outcome.ranks, seed)
            .and("train_top1", outcome.training.top(1))
            .and("train_objective", Measure::plain(outcome.choice.fit.objective));
        let calibrated = calibration::calibration(&outcome.logits, &outcome.ranks.labels, seed);
        // A class that no reference has makes a logit of a true class infinite: nothing to calibrate.
        if let Ok(found) = calibrated {
            finding = finding
                .and("calibration_error", Measure::plain(found.error))
                .and("calibration_error_scaled", Measure::plain(found.error_scaled));
        }
        if self.metric == Metric::MeanPerClass {
            finding = finding.by_mean_per_class();
        }
        let name = finding.metric.clone();
        let choice = &outcome.choice;
        finding.chosen.insert("lambda".to_owned(), json!(choice.lambda));
        if !choice.fit.converged {
            finding.chosen.insert("converged".to_owned(), json!(false));
        }
        if !choice.sweep.is_empty() {
            let values = choice.sweep.iter().map(|point| point.validation.unwrap_or(f64::NAN));
            finding.details.sweeps.push(Sweep {
                setting: "lambda".to_owned(),
                measure: format!("{name} of the held-out references"),
                logarithmic: true,
                at: choice.sweep.iter().map(|point| point.lambda).collect(),
                curves: vec![(String::new(), values.collect())],
                chosen: Some(choice.lambda),
            });
        }
        finding
    }
}

impl Protocol for Retrieval {
    fn version(&self) -> u32 {
        retrieval::VERSION
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    /// R@K of the smallest K, `recall_at_1`; all others beside it.
    fn measure(
        &self,
        queries: &Features,
        references: &Features,
        seed: u64,
        _progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Finding> {
        let found = self.evaluate(queries, references, seed)?;
        let mut finding = Finding::default();
        for at in &found.at {
            finding = finding
                .and(&format!("recall_at_{}", at.k), at.recall.clone())
                .and(&format!("precision_at_{}", at.k), at.precision.clone());
        }
        if let Some(map) = &found.map_at_r {
            finding = finding.and("map_at_r", map.clone());
        }
        let share = found.without_match as f64 / queries.len() as f64;
        finding = finding.and("without_match_share", Measure::plain(share));
        let least = found.at.iter().map(|at| at.k).min().unwrap_or(1);
        finding.metric = format!("recall_at_{least}");
        finding.value = finding.also.remove(&finding.metric).unwrap_or_default();
        let curve =
            |of: fn(&retrieval::AtK) -> &Measure| found.at.iter().map(move |at| of(at).value);
        finding.details.sweeps.push(Sweep {
            setting: "k".to_owned(),
            measure: "recall and precision at k".to_owned(),
            logarithmic: true,
            at: found.at.iter().map(|at| at.k as f64).collect(),
            curves: vec![
                ("recall".to_owned(), curve(|at| &at.recall).collect()),
                ("precision".to_owned(), curve(|at| &at.precision).collect()),
            ],
            chosen: None,
        });
        Ok(finding)
    }
}

impl Protocol for FewShot {
    fn version(&self) -> u32 {
        few_shot::VERSION
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    /// Mean accuracy over the episodes.
    fn measure(
        &self,
        queries: &Features,
        references: &Features,
        seed: u64,
        _progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Finding> {
        let found = self.evaluate(queries, references, seed)?;
        let also = [
            ("deviation", Measure::plain(found.deviation)),
            ("eligible_classes", Measure::plain(found.eligible_classes as f64)),
        ];
        Ok(Finding {
            metric: "accuracy".to_owned(),
            value: found.accuracy,
            also: also.map(|(name, measure)| (name.to_owned(), measure)).into(),
            ..Finding::default()
        })
    }
}
