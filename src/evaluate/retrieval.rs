//! Retrieval: are the images nearest to an image of its class?

use super::Features;
use super::interval::{bootstrap, wilson};
use super::knn::{Distance, Search};
use super::record::Measure;
use super::scores::labels;
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Version of the protocol; numbers of different versions do not compare.
pub const VERSION: u32 = 1;

/// Neighbours held at once, over all queries of a block: 400 MB of candidates.
const HELD: usize = 1 << 25;

/// Settings of retrieval by cosine similarity of the features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retrieval {
    /// Numbers of neighbours K for R@K and P@K, each at least 1 and at most the references there are.
    pub k: Vec<usize>,
    /// Whether mAP@R is computed too; it looks at as many neighbours as the largest class has images.
    pub map_at_r: bool,
    /// Whether queries and references are one split, in the same order: then no image finds itself.
    pub same: bool,
}

impl Default for Retrieval {
    fn default() -> Self {
        Self { k: vec![1, 2, 4, 8], map_at_r: true, same: false }
    }
}

/// What retrieval found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// For each K what it gave.
    pub at: Vec<AtK>,
    /// Mean average precision at R (Musgrave et al. 2020, arXiv:2003.08505, equation 1), if asked for: with `R` references
    /// of the query's class, the mean over queries of `1/R Σ_{i≤R} P@i · [neighbour i is of the class]`. Its interval is a
    /// bootstrap over queries.
    pub map_at_r: Option<Measure>,
    /// Queries of whose class there is no other image; they count as missed everywhere.
    pub without_match: usize,
}

/// R@K and P@K.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AtK {
    /// K.
    pub k: usize,
    /// R@K: share of the queries with at least one of their class among the K nearest, with its Wilson interval.
    pub recall: Measure,
    /// P@K: mean share of images of the query's class among the K nearest, with a bootstrap interval over queries.
    pub precision: Measure,
}

impl Retrieval {
    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting.
    pub fn check(&self) -> Result<()> {
        if self.k.is_empty() || self.k.contains(&0) {
            return Err(Error::Recipe(format!(
                "`k` of retrieval must list numbers of at least 1, found `{:?}`",
                self.k
            )));
        }
        Ok(())
    }

    /// Looks up every query among the references; the seed is that of the bootstrap.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a setting out of range; [`Error::Data`] if a side is empty, lacks labels or has fewer
    /// references than the largest K; [`Error::Shape`] if the sides differ in dimensions, or in images with `same`;
    /// [`Error::NonFinite`] for features that are no numbers.
    pub fn evaluate(
        &self,
        queries: &Features,
        references: &Features,
        seed: u64,
    ) -> Result<Outcome> {
        self.check()?;
        let (query_labels, reference_labels, classes) = labels(queries, references)?;
        if self.same && query_labels != reference_labels {
            return Err(Error::Shape(format!(
                "with `same` queries and references must be one split, found {} and {} images of other labels or order",
                query_labels.len(),
                reference_labels.len()
            )));
        }
        let largest = self.k.iter().copied().max().expect("checked above");
        let available = reference_labels.len() - usize::from(self.same);
        if largest > available {
            return Err(Error::Data(format!(
                "R@{largest} needs as many references, found {available}; ask for a smaller `k`"
            )));
        }
        let mut relevant = vec![0; classes];
        for label in &reference_labels {
            relevant[*label as usize] += 1;
        }
        let relevant =
            |query: usize| relevant[query_labels[query] as usize] - usize::from(self.same);
        let deepest = (0..query_labels.len()).map(relevant).max().expect("neither side is empty");
        let depth = if self.map_at_r { largest.max(deepest) } else { largest };

        // In blocks of queries, for a class may be large.
        let block = (HELD / depth).max(1);
        let mut found = Vec::with_capacity(query_labels.len());
        for first in (0..query_labels.len()).step_by(block) {
            let count = block.min(query_labels.len() - first);
            let rows = queries.h.narrow(0, first as i64, count as i64);
            let itself = self.same.then_some(first);
            let mut search = Search::new(&rows, depth, itself, &[Distance::Cosine])?;
            search.add(&references.h)?;
            let neighbours = search.finish()?.remove(0);
            found.par_extend((0..count).into_par_iter().map(|at| {
                let label = query_labels[first + at];
                let of_class = |row: &usize| reference_labels[*row] == label;
                let hits: Vec<bool> = neighbours.of(at).0.iter().map(of_class).collect();
                self.judge(&hits, relevant(first + at))
            }));
        }
        Ok(self.summarize(
            &found,
            (0..query_labels.len()).filter(|query| relevant(*query) == 0).count(),
            seed,
        ))
    }

    fn judge(&self, hits: &[bool], relevant: usize) -> Judged {
        let of_class = |k: &usize| hits[..*k].iter().filter(|hit| **hit).count();
        Judged {
            of_class: self.k.iter().map(of_class).collect(),
            average: if self.map_at_r { average_precision_at_r(hits, relevant) } else { 0.0 },
        }
    }

    fn summarize(&self, found: &[Judged], without_match: usize, seed: u64) -> Outcome {
        let at = self.k.iter().enumerate().map(|(at, k)| {
            let hit = found.iter().filter(|query| query.of_class[at] > 0).count();
            let value = hit as f64 / found.len() as f64;
            let recall = Measure { value, interval_95: Some(wilson(hit, found.len())) };
            let shares: Vec<f64> =
                found.iter().map(|query| query.of_class[at] as f64 / *k as f64).collect();
            AtK { k: *k, recall, precision: mean(&shares, seed) }
        });
        let averages: Vec<f64> = found.iter().map(|query| query.average).collect();
        Outcome {
            at: at.collect(),
            map_at_r: self.map_at_r.then(|| mean(&averages, seed)),
            without_match,
        }
    }
}

/// What was found for a query.
struct Judged {
    /// Images of its class among the K nearest, for each K.
    of_class: Vec<usize>,
    /// Average precision at R.
    average: f64,
}

/// `1/R Σ_{i≤R} P@i · hit_i`; 0 without relevant images.
fn average_precision_at_r(hits: &[bool], relevant: usize) -> f64 {
    let (mut found, mut sum) = (0, 0.0);
    for (at, hit) in hits.iter().take(relevant).enumerate() {
        if *hit {
            found += 1;
            sum += f64::from(found) / (at + 1) as f64;
        }
    }
    sum / relevant.max(1) as f64
}

/// A mean over queries with its bootstrap interval.
fn mean(values: &[f64], seed: u64) -> Measure {
    let mean = |drawn: &mut dyn Iterator<Item = f64>| drawn.sum::<f64>() / values.len() as f64;
    let value = mean(&mut values.iter().copied());
    let interval =
        bootstrap(values.len(), seed, |drawn| mean(&mut drawn.iter().map(|at| values[*at])));
    Measure { value, interval_95: Some(interval) }
}

#[cfg(test)]
mod tests;
