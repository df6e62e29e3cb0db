//! Weighted k-nearest-neighbour classification, and the neighbour search that galleries and retrieval share with it.

mod exact;
mod rows;
mod search;
mod select;
mod sweep;
#[cfg(test)]
mod tests;

use super::Features;
use super::scores::{Ranks, judged, labels};
use crate::error::{Error, Result};
use rayon::prelude::*;
pub use search::{Distance, Neighbours, Search, neighbours, neighbours_by};
use serde::{Deserialize, Serialize};
pub use sweep::{Chosen, Outcome, Point, Sweep};

/// Version of the protocol; numbers of different versions do not compare.
///
/// It rises when any value, tie or vote may come out otherwise for the same features and settings: another formula, another
/// rule for ties, or values computed in another precision or order than f64 in the fixed order of the search. What only makes
/// the search faster or smaller (tiles, parts, threads) leaves it alone.
///
/// 1: similarities of features rounded to f32 after they were brought to length 1. 2: of features as they are, divided by
/// their lengths in f64, which may swap neighbours whose similarities differ by a few units of f32's last place.
pub const VERSION: u32 = 2;

/// Settings of the weighted k-NN classifier of Wu et al. 2018 (arXiv:1805.01978, section 3.4).
///
/// With unit-norm features, `s_i` the cosine similarity of a query and reference `i` with label `y_i`, and `𝒩` the `k`
/// largest of them: `score(c) = Σ_{i∈𝒩, y_i=c} exp(s_i / temperature)`; classes rank by score. By Euclidean distances `d_i`
/// of features as they are, as solo-learn offers: `score(c) = Σ 1 / (d_i + 1e-5)` over the `k` smallest, without a
/// temperature. The references are features of the training split under the evaluation transform.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Knn {
    /// Number of neighbours, at least 1; more than there are references means all of them.
    pub k: usize,
    /// Temperature of the votes, above 0; Euclidean votes have none.
    pub temperature: f64,
    /// What makes a reference near.
    pub distance: Distance,
}

impl Default for Knn {
    /// Protocol `knn`: 200 neighbours, temperature 0.1, cosine.
    fn default() -> Self {
        Self { k: 200, temperature: 0.1, distance: Distance::Cosine }
    }
}

impl Knn {
    /// Protocol `knn-npid`: 200 neighbours, temperature 0.07.
    pub fn npid() -> Self {
        Self { temperature: 0.07, ..Self::default() }
    }

    /// Protocol `knn-1`: the label of the nearest neighbour.
    pub fn nearest() -> Self {
        Self { k: 1, ..Self::default() }
    }

    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            let found = self.temperature;
            return Err(Error::Recipe(format!("temperature must be above 0, found `{found}`")));
        }
        if self.k == 0 {
            return Err(Error::Recipe("the number of neighbours must be at least 1".to_owned()));
        }
        Ok(())
    }

    /// Classifies every query by its neighbours among the references. A tie in similarity goes to the lower reference
    /// row, a tie in score to the lower class.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a setting out of range; [`Error::Data`] if a side is empty or lacks labels;
    /// [`Error::Shape`] if the two sides differ in dimensions; [`Error::NonFinite`] for features that are no numbers.
    pub fn evaluate(&self, queries: &Features, references: &Features) -> Result<Ranks> {
        let all = Self::evaluate_all(&[*self], queries, references)?;
        Ok(all.into_iter().next().expect("one for each setting"))
    }

    /// The same for many settings in one search: the ranks of each.
    ///
    /// # Errors
    /// As [`Knn::evaluate`]; [`Error::Recipe`] if there is no setting.
    pub fn evaluate_all(
        settings: &[Self],
        queries: &Features,
        references: &Features,
    ) -> Result<Vec<Ranks>> {
        settings.iter().try_for_each(Self::check)?;
        let Some(k) = settings.iter().map(|setting| setting.k).max() else {
            return Err(Error::Recipe("a sweep needs at least one setting".to_owned()));
        };
        let (query_labels, reference_labels, classes) = labels(queries, references)?;
        let mut distances: Vec<Distance> = Vec::new();
        for setting in settings {
            if !distances.contains(&setting.distance) {
                distances.push(setting.distance);
            }
        }
        let found = neighbours_by(&distances, &queries.h, &references.h, k, false)?;
        let found_by = |distance| {
            let at = distances.iter().position(|known| *known == distance);
            &found[at.expect("every distance was searched")]
        };
        let ranks = settings.iter().map(|setting| {
            let found = found_by(setting.distance);
            let k = setting.k.min(found.k);
            let of_query = |query: usize| {
                let (rows, values) = found.of(query);
                let labels = rows[..k].iter().map(|row| reference_labels[*row] as usize);
                let scores = setting.votes(&values[..k], labels, classes);
                judged(&scores, query_labels[query] as usize)
            };
            let judgements: Vec<(u32, u32)> =
                (0..query_labels.len()).into_par_iter().map(of_query).collect();
            let mut ranks = Ranks::none(classes, k);
            for (judgement, label) in judgements.into_iter().zip(&query_labels) {
                ranks.push(judgement, *label);
            }
            ranks
        });
        Ok(ranks.collect())
    }

    /// Scores of all classes from values (best first) and labels of the neighbours; of similarities up to the factor
    /// `exp(−s_max / temperature)`, which changes no ranking and keeps every number in range.
    fn votes(
        &self,
        values: &[f32],
        labels: impl Iterator<Item = usize>,
        classes: usize,
    ) -> Vec<f64> {
        let temperature = self.temperature as f32;
        let mut scores = vec![0.0; classes];
        for (value, label) in values.iter().zip(labels) {
            scores[label] += match self.distance {
                Distance::Cosine => f64::from(((value - values[0]) / temperature).exp()),
                Distance::Euclidean => 1.0 / (f64::from(*value) + 1e-5),
            };
        }
        scores
    }
}
