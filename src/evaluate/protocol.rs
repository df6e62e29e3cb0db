//! What protocols that need stored features alone have in common: settings in, a finding out.

use super::Features;
use super::average_precision::MeanAveragePrecision;
use super::record::Measure;
use super::scores::Ranks;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A way to judge a representation from stored features.
pub trait Protocol {
    /// Version of the protocol; numbers of different versions do not compare.
    fn version(&self) -> u32;

    /// Every setting that changes the number, as a JSON object.
    fn settings(&self) -> Value;

    /// Judges `queries` with what `references` teach. `progress` gets rounds done and rounds in all, of protocols that
    /// have such.
    ///
    /// # Errors
    /// [`crate::error::Error::Recipe`] for a setting out of range; [`crate::error::Error::Data`] for features that the
    /// protocol cannot judge, too few or without labels; [`crate::error::Error::NonFinite`] for features that are no
    /// numbers.
    fn measure(
        &self,
        queries: &Features,
        references: &Features,
        seed: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Finding>;
}

/// What a protocol found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finding {
    /// What `value` is: `top1`, `nmi`.
    pub metric: String,
    /// The number; accuracies are shares in [0, 1].
    pub value: Measure,
    /// Further measures.
    pub also: BTreeMap<String, Measure>,
    /// What the protocol chose by itself, on images it was not judged on: `weight_decay`.
    pub chosen: BTreeMap<String, Value>,
    /// What else there is to look at.
    pub details: Details,
}

/// What a number does not tell; kept beside the record and drawn in the report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Details {
    /// The seeds that the counts below are the sum over, and of whose first the sweeps are; empty where there was one seed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<u64>,
    /// Images of each class (row) by the class they were taken for (column).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub confusion: Vec<Vec<u64>>,
    /// Average precision of each class, where images show any number of them; none of a class that no image shows. Of
    /// several seeds the mean.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub precision: Vec<Option<f64>>,
    /// Names of the rows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// Names of the columns, where they are not the classes: clusters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// How a measure depends on a setting.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sweeps: Vec<Sweep>,
}

/// How a measure depends on a setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// The setting: `k`, `weight_decay`.
    pub setting: String,
    /// What was measured, and on which images: `top1 on the validation part`.
    pub measure: String,
    /// Whether the setting is best drawn on a logarithmic axis.
    pub logarithmic: bool,
    /// Values of the setting.
    pub at: Vec<f64>,
    /// Named curves, a value for each of `at`.
    pub curves: Vec<(String, Vec<f64>)>,
    /// The value that was chosen, or taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<f64>,
}

impl Details {
    /// Those of all seeds of a protocol: counts of classes are added up; of clusters, which have no names in common, those of
    /// the first seed are kept, as of all else.
    ///
    /// # Panics
    /// If there is no seed, or not as many findings.
    pub fn of_all(findings: &[Finding], seeds: &[u64]) -> Self {
        assert_eq!(findings.len(), seeds.len(), "a finding for each seed");
        let mut sum = findings[0].details.clone();
        if seeds.len() < 2 {
            return sum;
        }
        let size =
            |details: &Self| (details.confusion.len(), details.confusion.first().map(Vec::len));
        let alike = |finding: &Finding| size(&finding.details) == size(&sum);
        if !sum.columns.is_empty() || !findings.iter().all(alike) {
            sum.seeds = vec![seeds[0]];
            return sum;
        }
        for finding in &findings[1..] {
            for (row, more) in sum.confusion.iter_mut().zip(&finding.details.confusion) {
                row.iter_mut().zip(more).for_each(|(count, more)| *count += more);
            }
        }
        let mean = |class: usize| {
            let values = findings.iter().map(|finding| *finding.details.precision.get(class)?);
            Some(values.sum::<Option<f64>>()? / findings.len() as f64)
        };
        sum.precision = (0..sum.precision.len()).map(mean).collect();
        sum.seeds = seeds.to_vec();
        sum
    }

    /// With the names of the classes that the rows of the tables stand for.
    #[must_use]
    pub fn with_classes(mut self, classes: &[String]) -> Self {
        let name = |class: usize| classes.get(class).cloned().unwrap_or_else(|| class.to_string());
        self.classes = (0..self.confusion.len().max(self.precision.len())).map(name).collect();
        self
    }
}

impl Finding {
    /// Of a classification: top-1, with top-5, mean per class and the confusion matrix beside it.
    pub fn of_ranks(ranks: &Ranks, seed: u64) -> Self {
        let mut also = BTreeMap::from([("mean_per_class".to_owned(), ranks.mean_per_class(seed))]);
        if let Some(top5) = ranks.top5() {
            also.insert("top5".to_owned(), top5);
        }
        Self {
            metric: "top1".to_owned(),
            value: ranks.top(1),
            also,
            details: Details { confusion: ranks.confusion(), ..Details::default() },
            ..Self::default()
        }
    }

    /// Of images that show any number of classes: the mean average precision, that of each class beside it.
    pub fn of_precision(found: &MeanAveragePrecision) -> Self {
        Self {
            metric: "mean_average_precision".to_owned(),
            value: found.mean.clone(),
            details: Details { precision: found.classes.clone(), ..Details::default() },
            ..Self::default()
        }
    }

    /// The same told by the mean over classes, top-1 beside it.
    #[must_use]
    pub fn by_mean_per_class(mut self) -> Self {
        if let Some(mean) = self.also.remove("mean_per_class") {
            let top1 = std::mem::replace(&mut self.value, mean);
            let top1_name = std::mem::replace(&mut self.metric, "mean_per_class".to_owned());
            self.also.insert(top1_name, top1);
        }
        self
    }

    /// With a further measure.
    #[must_use]
    pub fn and(mut self, name: &str, measure: Measure) -> Self {
        self.also.insert(name.to_owned(), measure);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(confusion: Vec<Vec<u64>>, columns: &[&str]) -> Finding {
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        Finding {
            details: Details { confusion, columns, ..Details::default() },
            ..Finding::default()
        }
    }

    #[test]
    fn counts_of_classes_are_added_over_seeds_and_those_of_clusters_are_not() {
        let two = [
            finding(vec![vec![3, 1], vec![0, 2]], &[]),
            finding(vec![vec![4, 0], vec![1, 1]], &[]),
        ];
        let sum = Details::of_all(&two, &[5, 6]);
        assert_eq!(sum.confusion, [[7, 1], [1, 3]]);
        assert_eq!(sum.seeds, [5, 6]);
        let one = Details::of_all(&two[..1], &[5]);
        assert_eq!((one.seeds.len(), one), (0, two[0].details.clone()));
        let clusters =
            [finding(vec![vec![3, 1]], &["0", "1"]), finding(vec![vec![0, 4]], &["0", "1"])];
        let first = Details::of_all(&clusters, &[5, 6]);
        assert_eq!((first.confusion, first.seeds), (vec![vec![3, 1]], vec![5]));
        let of = |classes: &[Option<f64>]| {
            let mean = Measure::plain(0.5);
            Finding::of_precision(&MeanAveragePrecision { mean, classes: classes.to_vec() })
        };
        let precision = [of(&[Some(0.25), None]), of(&[Some(0.75), Some(1.0)])];
        let mean = Details::of_all(&precision, &[5, 6]).with_classes(&["cat".to_owned()]);
        assert_eq!(mean.precision, [Some(0.5), None]);
        assert_eq!(mean.classes, ["cat", "1"]);
        // Another number of classes was seen with the second seed.
        let other = [two[0].clone(), finding(vec![vec![1]], &[])];
        assert_eq!(Details::of_all(&other, &[5, 6]).seeds, [5]);
    }
}
