//! The whole grid of k, temperature and distance in one search, and an honest choice from it.

use super::{Distance, Knn};
use crate::error::{Error, Result};
use crate::evaluate::features::Features;
use crate::evaluate::record::Measure;
use crate::evaluate::scores::Ranks;
use crate::random::{Purpose, Scope, Stream};
use serde::{Deserialize, Serialize};

/// A grid of settings, all judged in one neighbour search; the default is the grid published by solo-learn.
///
/// With a `holdout` one of them is chosen: that with the best top-1 of a part of the references, asked about the rest of
/// the references. The queries are never looked at for the choice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sweep {
    /// Numbers of neighbours, each at least 1.
    pub k: Vec<usize>,
    /// Temperatures, each above 0; they matter to cosine only.
    pub temperature: Vec<f64>,
    /// Distances.
    pub distance: Vec<Distance>,
    /// Share of the references that the choice is made on, within \[0, 1); 0 chooses nothing.
    pub holdout: f64,
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            k: vec![1, 2, 5, 10, 20, 50, 100, 200],
            temperature: vec![0.01, 0.02, 0.05, 0.07, 0.1, 0.2, 0.5, 1.0],
            distance: vec![Distance::Cosine, Distance::Euclidean],
            holdout: 0.1,
        }
    }
}

/// What a sweep found.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Every combination, by distance, then temperature, then k, in the order of the settings.
    pub points: Vec<Point>,
    /// The one that was chosen, if a choice was asked for.
    pub chosen: Option<Chosen>,
}

/// One combination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The combination; the temperature of a Euclidean one stands for none.
    pub setting: Knn,
    /// Top-1 of the queries.
    pub top1: Measure,
    /// Top-5 of the queries, where it means something.
    pub top5: Option<Measure>,
    /// Top-1 of the held-out references, if a choice was asked for.
    pub held_out: Option<Measure>,
}

/// The combination that was best on the held-out references.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// Its place among the points.
    pub point: usize,
    /// Ranks of the queries under it, with all references: the result.
    pub ranks: Ranks,
}

impl Outcome {
    /// Top-1 of the queries over k by a distance, a curve for each temperature.
    pub fn curves(&self, distance: Distance) -> Vec<(String, Vec<f64>)> {
        let mut curves: Vec<(String, Vec<f64>)> = Vec::new();
        for point in self.points.iter().filter(|point| point.setting.distance == distance) {
            let name = match distance {
                Distance::Cosine => format!("temperature {}", point.setting.temperature),
                Distance::Euclidean => "weights 1/d".to_owned(),
            };
            match curves.last_mut() {
                Some((last, values)) if *last == name => values.push(point.top1.value),
                _ => curves.push((name, vec![point.top1.value])),
            }
        }
        curves
    }
}

impl Sweep {
    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting, its range and what was found.
    pub fn check(&self) -> Result<()> {
        for (key, empty) in [
            ("k", self.k.is_empty()),
            ("temperature", self.temperature.is_empty()),
            ("distance", self.distance.is_empty()),
        ] {
            if empty {
                return Err(Error::Recipe(format!(
                    "`{key}` of a sweep must list at least one value, found none"
                )));
            }
        }
        if !(0.0..1.0).contains(&self.holdout) {
            return Err(Error::Recipe(format!(
                "`holdout` of a sweep must be within 0 (nothing is chosen) and 1, found `{}`",
                self.holdout
            )));
        }
        self.settings().iter().try_for_each(Knn::check)
    }

    /// Every combination; a Euclidean one occurs once, not for each temperature.
    fn settings(&self) -> Vec<Knn> {
        let mut settings = Vec::new();
        for distance in &self.distance {
            let temperatures = match distance {
                Distance::Cosine => &self.temperature[..],
                Distance::Euclidean => &self.temperature[..1],
            };
            for temperature in temperatures {
                let of = |k: &usize| Knn { k: *k, temperature: *temperature, distance: *distance };
                settings.extend(self.k.iter().map(of));
            }
        }
        settings
    }

    /// Judges every combination on the queries, and chooses one on held-out references if asked to. Which references are
    /// held out is drawn by the seed; of equally good combinations the first is chosen.
    ///
    /// # Errors
    /// As [`Knn::evaluate`]; [`Error::Data`] if the holdout leaves either part of the references empty.
    pub fn evaluate(
        &self,
        queries: &Features,
        references: &Features,
        seed: u64,
    ) -> Result<Outcome> {
        self.check()?;
        let settings = self.settings();
        let held_out = if self.holdout > 0.0 {
            let (kept, held_out) = self.cut(references, seed)?;
            Knn::evaluate_all(&settings, &held_out, &kept)?
        } else {
            Vec::new()
        };
        let held_out: Vec<Measure> = held_out.iter().map(|ranks| ranks.top(1)).collect();
        let mut all = Knn::evaluate_all(&settings, queries, references)?;
        let points = settings.iter().zip(&all).enumerate().map(|(at, (setting, ranks))| Point {
            setting: *setting,
            top1: ranks.top(1),
            top5: ranks.top5(),
            held_out: held_out.get(at).cloned(),
        });
        let points = points.collect();
        let best = (0..held_out.len())
            .reduce(|best, at| if held_out[at].value > held_out[best].value { at } else { best });
        let chosen = best.map(|point| Chosen { point, ranks: all.swap_remove(point) });
        Ok(Outcome { points, chosen })
    }

    /// References that are kept and those that are held out.
    fn cut(&self, references: &Features, seed: u64) -> Result<(Features, Features)> {
        let count = references.len();
        let out = (count as f64 * self.holdout).round() as usize;
        if out == 0 || out == count {
            return Err(Error::Data(format!(
                "`holdout={}` of {count} references leaves one part empty; choose another share",
                self.holdout
            )));
        }
        let mut held_out = Stream::open(seed, Purpose::Subset, Scope::Item(2)).permutation(count);
        let mut kept = held_out.split_off(out);
        held_out.sort_unstable();
        kept.sort_unstable();
        Ok((references.rows(&kept), references.rows(&held_out)))
    }
}
