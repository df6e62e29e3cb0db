//! How well the clusters that k-means finds in the features are the classes, without having seen a label.

use super::protocol::{Details, Finding, Protocol};
use super::scores::labels_of;
use super::{Features, Measure};
use crate::cluster::KMeans;
use crate::cluster::agreement::{Average, Contingency};
use crate::error::{Error, Result};
use crate::rows::unit_rows;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Version of the protocol; numbers of different versions do not compare.
pub const VERSION: u32 = 2;

/// Normalised mutual information of clusters and classes, protocol `clusters`.
///
/// The features of the judged split alone, at unit length, are grouped by k-means into as many clusters as there are
/// classes, from several seeds. The figures of CLD's supplement (section 7) show such numbers without saying k or the
/// algorithm: all of this is our choice. The references play no part, and labels only in the scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clusters {
    /// Number of clusters, at least 1; without it, the number of classes that occur.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k: Option<usize>,
    /// Number of seeds, at least 1: the number is their mean.
    pub seeds: u64,
    /// How each seed groups.
    pub k_means: KMeans,
}

impl Default for Clusters {
    fn default() -> Self {
        Self { k: None, seeds: 5, k_means: KMeans::default() }
    }
}

/// What one seed found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The seed of the draws.
    pub seed: u64,
    /// Normalised mutual information, over the arithmetic mean of the entropies.
    pub nmi: f64,
    /// Adjusted mutual information, over the same.
    pub ami: f64,
    /// Adjusted Rand index.
    pub ari: f64,
    /// Share of images in the cluster that stands for their class, by the best one-to-one matching.
    pub accuracy: f64,
    /// Sum of squared distances to the centres, of features of unit length.
    pub inertia: f64,
}

/// One of the scores.
type Score = fn(&Scores) -> f64;

/// What the protocol found.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Number of clusters.
    pub k: usize,
    /// Scores of each seed.
    pub seeds: Vec<Scores>,
    /// Images of each class in each cluster, of the first seed.
    pub table: Contingency,
}

impl Outcome {
    /// Mean over the seeds, and their sample standard deviation; none of a single seed.
    pub fn mean(&self, score: impl Fn(&Scores) -> f64) -> (f64, Option<f64>) {
        let values: Vec<f64> = self.seeds.iter().map(score).collect();
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (mean, (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()))
    }
}

impl Clusters {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key, its range and what was found.
    pub fn check(&self) -> Result<()> {
        if self.k == Some(0) {
            return Err(Error::Recipe("`k` must be at least 1, found `0`".to_owned()));
        }
        if self.seeds == 0 {
            return Err(Error::Recipe("`seeds` must be at least 1, found `0`".to_owned()));
        }
        self.k_means.check()
    }

    /// Groups the features and compares the clusters with the labels, for the `seeds` seeds from `seed · seeds` on, so that
    /// no two evaluations share one. `progress` gets seeds done and seeds in all.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a setting out of range; [`Error::Data`] if labels are missing, there is only one class, or
    /// there are fewer images than clusters; [`Error::NonFinite`] for features that are no numbers.
    pub fn evaluate(
        &self,
        features: &Features,
        seed: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Outcome> {
        self.check()?;
        let labels = labels_of("query", features)?;
        let classes = Contingency::new(&labels, &labels)?.classes.len();
        if classes == 1 {
            return Err(Error::Data(format!(
                "all {} images are of class {}; clusters need at least two classes to be compared with",
                labels.len(),
                labels[0]
            )));
        }
        let k = self.k.unwrap_or(classes);
        let rows = unit_rows(&features.h.detach());
        let (mut seeds, mut table) = (Vec::new(), None);
        for done in 0..self.seeds {
            let seed = seed.wrapping_mul(self.seeds).wrapping_add(done);
            let found = self.k_means.fit(&rows, k, seed)?;
            let both = Contingency::new(&labels, &found.labels)?;
            seeds.push(Scores {
                seed,
                nmi: both.nmi(Average::Arithmetic),
                ami: both.ami(Average::Arithmetic),
                ari: both.ari(),
                accuracy: both.matched().0,
                inertia: found.inertia,
            });
            table.get_or_insert(both);
            progress(done + 1, self.seeds);
        }
        Ok(Outcome { k, seeds, table: table.expect("there is at least one seed") })
    }
}

impl Protocol for Clusters {
    fn version(&self) -> u32 {
        VERSION
    }

    fn settings(&self) -> Value {
        serde_json::json!(self)
    }

    /// Mean NMI over the seeds. Beside it the means of the other scores, the standard deviation of each over the seeds
    /// (`nmi_sd`) and the NMI of each seed (`nmi_seed_0`). The table is that of the first seed, its columns in the order
    /// of the classes that they stand for, and the others behind.
    fn measure(
        &self,
        queries: &Features,
        _references: &Features,
        seed: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Finding> {
        let outcome = self.evaluate(queries, seed, progress)?;
        let plain = |value| Measure { value, interval_95: None };
        let mut also = BTreeMap::new();
        let scores: [(&str, Score); 5] = [
            ("nmi", |scores| scores.nmi),
            ("ami", |scores| scores.ami),
            ("ari", |scores| scores.ari),
            ("accuracy", |scores| scores.accuracy),
            ("inertia", |scores| scores.inertia),
        ];
        for (name, score) in scores {
            let (mean, deviation) = outcome.mean(score);
            also.insert(name.to_owned(), plain(mean));
            also.extend(deviation.map(|sd| (format!("{name}_sd"), plain(sd))));
        }
        for scores in &outcome.seeds {
            also.insert(format!("nmi_seed_{}", scores.seed), plain(scores.nmi));
        }
        let value = also.remove("nmi").expect("it was just put there");
        let chosen = BTreeMap::from([("k".to_owned(), outcome.k.into())]);
        let details = details(&outcome.table);
        Ok(Finding { metric: "nmi".to_owned(), value, also, chosen, details })
    }
}

/// Images by class id, whether the class occurs or not, and cluster; clusters in the order of the classes they stand for,
/// those that stand for none behind. Whoever knows the names of the classes adds them.
fn details(table: &Contingency) -> Details {
    let matching = table.matched().1;
    let columns = table.clusters.len();
    let mut order: Vec<usize> = (0..columns).collect();
    order.sort_by_key(|column| matching[*column].unwrap_or(usize::MAX));
    let classes = *table.classes.last().expect("there are images") as usize + 1;
    let mut confusion = vec![vec![0; columns]; classes];
    for (class, counts) in table.classes.iter().zip(table.counts.chunks(columns)) {
        confusion[*class as usize] = order.iter().map(|column| counts[*column]).collect();
    }
    let name = |column: &usize| format!("cluster {}", table.clusters[*column]);
    Details { confusion, columns: order.iter().map(name).collect(), ..Details::default() }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact where the arithmetic is")]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope, Stream};
    use tch::Tensor;

    /// Rows around a ray for each class, `noise` off it, of lengths that must not count.
    fn features(labels: &[i64], noise: f64) -> Features {
        let mut stream = Stream::open(1, Purpose::Test, Scope::Item(0));
        let mut row = |label: i64| -> Vec<f32> {
            let length = stream.range(0.1, 10.0);
            let mut value = |at| {
                let ray = if at == label { 1.0 } else { 0.0 };
                (length * (ray + noise * stream.normal())) as f32
            };
            (0..8).map(&mut value).collect()
        };
        let values: Vec<f32> = labels.iter().flat_map(|label| row((*label).max(0))).collect();
        let count = labels.len() as i64;
        Features {
            h: Tensor::from_slice(&values).view([count, 8]),
            labels: Tensor::from_slice(labels),
            index: Tensor::arange(count, (tch::Kind::Int64, tch::Device::Cpu)),
            paths: vec![String::new(); labels.len()],
            damaged: Vec::new(),
        }
    }

    fn labels(count: i64) -> Vec<i64> {
        // Classes 0, 2, 3 and 5: neither the largest label nor the gaps are clusters.
        (0..count).map(|row| [0, 2, 3, 5][(row % 4) as usize]).collect()
    }

    #[test]
    fn classes_that_are_rays_are_found_whatever_the_lengths() {
        let outcome =
            Clusters::default().evaluate(&features(&labels(80), 0.02), 7, &mut |_, _| {}).unwrap();
        assert_eq!(outcome.k, 4);
        let seeds: Vec<u64> = outcome.seeds.iter().map(|scores| scores.seed).collect();
        assert_eq!(seeds, [35, 36, 37, 38, 39], "the next evaluation begins at 40");
        for scores in &outcome.seeds {
            for score in [scores.nmi, scores.ami, scores.ari, scores.accuracy] {
                assert!((score - 1.0).abs() < 1e-12, "{scores:?}");
            }
        }
        assert_eq!(outcome.table.classes, [0, 2, 3, 5]);
    }

    #[test]
    fn the_finding_has_mean_deviation_and_every_seed() {
        // A single start each, so that seeds differ.
        let clusters =
            Clusters { k: Some(6), seeds: 3, k_means: KMeans { starts: 1, ..KMeans::default() } };
        let features = features(&labels(120), 0.5);
        let mut seen = Vec::new();
        let finding = clusters
            .measure(&features, &features, 3, &mut |done, all| seen.push((done, all)))
            .unwrap();
        assert_eq!(seen, [(1, 3), (2, 3), (3, 3)]);
        let of = |name: &str| finding.also[name].value;
        let seeds = [of("nmi_seed_9"), of("nmi_seed_10"), of("nmi_seed_11")];
        let mean = seeds.iter().sum::<f64>() / 3.0;
        assert_eq!(finding.metric, "nmi");
        assert!((finding.value.value - mean).abs() < 1e-12 && mean > 0.1 && mean < 0.95, "{mean}");
        let sd = (seeds.iter().map(|nmi| (nmi - mean).powi(2)).sum::<f64>() / 2.0).sqrt();
        assert!((of("nmi_sd") - sd).abs() < 1e-12 && sd > 0.0, "{sd}");
        assert_eq!(finding.chosen["k"], 6);
        // The same again, bit for bit; another seed, another grouping.
        let again = clusters.measure(&features, &features, 3, &mut |_, _| {}).unwrap();
        assert_eq!(finding, again);
        let (rows, columns) = (&finding.details.confusion, &finding.details.columns);
        assert_eq!((rows.len(), columns.len()), (6, 6));
        assert!(rows.iter().all(|row| row.len() == 6));
        assert_eq!(
            rows.iter().map(|row| row.iter().sum()).collect::<Vec<u64>>(),
            [30, 0, 30, 30, 0, 30]
        );
        // Columns 0 to 3 stand for classes 0, 2, 3, 5: the diagonal of what is there is the accuracy.
        let outcome = clusters.evaluate(&features, 3, &mut |_, _| {}).unwrap();
        let right = rows[0][0] + rows[2][1] + rows[3][2] + rows[5][3];
        assert_eq!(right as f64 / 120.0, outcome.seeds[0].accuracy);
    }

    #[test]
    fn features_that_cannot_be_judged_are_refused() {
        let fails = |clusters: &Clusters, features: &Features| {
            clusters.evaluate(features, 0, &mut |_, _| {}).unwrap_err()
        };
        let usual = Clusters::default();
        let good = features(&labels(12), 0.1);
        let message = fails(&usual, &features(&[0, -1, 1], 0.1)).to_string();
        assert!(message.contains("1 of 3 query images have no label"), "{message}");
        let message = fails(&usual, &features(&[4, 4, 4], 0.1)).to_string();
        assert!(message.contains("all 3 images are of class 4"), "{message}");
        assert!(matches!(fails(&usual, &features(&[], 0.1)), Error::Data(_)));
        let many = Clusters { k: Some(13), ..usual.clone() };
        assert!(matches!(fails(&many, &good), Error::Data(_)));
        for wrong in
            [Clusters { k: Some(0), ..usual.clone() }, Clusters { seeds: 0, ..usual.clone() }]
        {
            assert!(matches!(fails(&wrong, &good), Error::Recipe(_)));
        }
        let broken = Features { h: &good.h / 0.0, ..features(&labels(12), 0.1) };
        assert!(matches!(fails(&usual, &broken), Error::NonFinite(_)));
    }

    #[test]
    fn settings_are_written_as_users_write_them() {
        let read: Clusters = toml::from_str("k = 20\nk_means.starts = 3").unwrap();
        let expected = Clusters {
            k: Some(20),
            k_means: KMeans { starts: 3, ..KMeans::default() },
            ..Clusters::default()
        };
        assert_eq!(read, expected);
        assert!(toml::from_str::<Clusters>("n_init = 3").is_err());
    }
}
