//! Few-shot classification: a handful of labelled images of classes, and every other image goes to the nearest class mean.

use super::Features;
use super::knn::Distance;
use super::record::Measure;
use super::scores::labels;
use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
use crate::shape;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// Version of the protocol; numbers of different versions do not compare.
pub const VERSION: u32 = 1;

/// The normal quantile of a two-sided 95 % interval.
const Z: f64 = 1.959_964;

/// Nearest-mean classification of N-way K-shot episodes after `SimpleShot` (Wang et al. 2019, arXiv:1911.04623, section 3,
/// with its transformation CL2N: the mean feature of the base classes is subtracted, then rows get length 1).
///
/// Every episode draws classes, and of each class support and query images that do not overlap, all from the split of the
/// queries; the references give nothing but the mean that is subtracted (the training set is the paper's base classes).
/// Whether the classes of the queries were seen in training is the user's business: the published protocol asks about
/// classes that were not. A class takes part if it has `shots + queries` images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FewShot {
    /// Classes of an episode, at least 2 (N).
    pub ways: usize,
    /// Labelled images of each class, at least 1 (K).
    pub shots: usize,
    /// Images of each class that are asked about, at least 1.
    pub queries: usize,
    /// Episodes, at least 2; 10,000 in the paper.
    pub episodes: u64,
    /// How a class mean is near: by cosine; `euclidean` is the paper's own. They agree for one shot, where the mean has
    /// length 1 too; with more, the Euclidean distance also favours means that are short, of classes that scatter.
    pub distance: Distance,
}

impl Default for FewShot {
    /// 10,000 episodes, 5 ways, 5 shots, 15 queries of each class.
    fn default() -> Self {
        Self { ways: 5, shots: 5, queries: 15, episodes: 10_000, distance: Distance::Cosine }
    }
}

/// What the episodes gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Mean accuracy over the episodes; its interval is `± 1.96 · s / √episodes` with the sample deviation `s`.
    pub accuracy: Measure,
    /// The sample standard deviation of an episode's accuracy.
    pub deviation: f64,
    /// Classes that had enough images to take part.
    pub eligible_classes: usize,
}

impl FewShot {
    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting, its range and what was found.
    pub fn check(&self) -> Result<()> {
        let counts = [
            ("ways", self.ways as u64, 2),
            ("shots", self.shots as u64, 1),
            ("queries", self.queries as u64, 1),
            ("episodes", self.episodes, 2),
        ];
        for (key, found, least) in counts {
            if found < least {
                return Err(Error::Recipe(format!(
                    "`{key}` of few-shot must be at least {least}, found `{found}`"
                )));
            }
        }
        Ok(())
    }

    /// Runs the episodes; episode `e` is drawn by `Stream::open(seed, Purpose::Evaluation, Scope::Item(e))`.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a setting out of range; [`Error::Data`] if a side is empty or lacks labels, or if fewer than
    /// `ways` classes have `shots + queries` images; [`Error::Shape`] if the sides differ in dimensions;
    /// [`Error::NonFinite`] for features that are no numbers.
    pub fn evaluate(
        &self,
        queries: &Features,
        references: &Features,
        seed: u64,
    ) -> Result<Outcome> {
        self.check()?;
        let (query_labels, _, classes) = labels(queries, references)?;
        let dimensions = references.h.size()[1];
        shape::check("query features", &queries.h, &[-1, dimensions])?;
        let rows = centred(&queries.h, &references.h)?;
        let mut images = vec![Vec::new(); classes];
        for (image, label) in query_labels.iter().enumerate() {
            images[*label as usize].push(image);
        }
        let needed = self.shots + self.queries;
        images.retain(|images| images.len() >= needed);
        if images.len() < self.ways {
            return Err(Error::Data(format!(
                "episodes of {} ways need as many classes of at least {needed} images (`shots` + `queries`), found {}; \
                 ask for fewer",
                self.ways,
                images.len()
            )));
        }
        let accuracies: Vec<f64> = (0..self.episodes)
            .into_par_iter()
            .map(|episode| {
                let mut stream = Stream::open(seed, Purpose::Evaluation, Scope::Item(episode));
                let drawn: Vec<Vec<usize>> = draw(&mut stream, images.len(), self.ways)
                    .into_iter()
                    .map(|class| {
                        let images = &images[class];
                        let drawn = draw(&mut stream, images.len(), needed);
                        drawn.into_iter().map(|at| images[at]).collect()
                    })
                    .collect();
                self.episode(&rows, &drawn)
            })
            .collect();
        let count = accuracies.len() as f64;
        let mean = accuracies.iter().sum::<f64>() / count;
        let squares: f64 = accuracies.iter().map(|accuracy| (accuracy - mean).powi(2)).sum();
        let deviation = (squares / (count - 1.0)).sqrt();
        let reach = Z * deviation / count.sqrt();
        let interval = [(mean - reach).max(0.0), (mean + reach).min(1.0)];
        Ok(Outcome {
            accuracy: Measure { value: mean, interval_95: Some(interval) },
            deviation,
            eligible_classes: images.len(),
        })
    }

    /// Accuracy of an episode, given the images of each class, those of the support first.
    fn episode(&self, rows: &Rows, classes: &[Vec<usize>]) -> f64 {
        let means: Vec<Vec<f64>> = classes.iter().map(|images| self.mean(rows, images)).collect();
        let mut correct = 0;
        for (label, images) in classes.iter().enumerate() {
            for image in &images[self.shots..] {
                let scores: Vec<f64> =
                    means.iter().map(|mean| self.score(rows.row(*image), mean)).collect();
                // The first of equal ones.
                let best = (0..scores.len())
                    .fold(0, |best, at| if scores[at] > scores[best] { at } else { best });
                correct += usize::from(best == label);
            }
        }
        correct as f64 / (classes.len() * self.queries) as f64
    }

    /// The mean of a class's support, brought to length 1 for cosine.
    fn mean(&self, rows: &Rows, images: &[usize]) -> Vec<f64> {
        let mut mean = vec![0.0; rows.dimensions];
        for image in &images[..self.shots] {
            for (sum, value) in mean.iter_mut().zip(rows.row(*image)) {
                *sum += f64::from(*value) / self.shots as f64;
            }
        }
        if self.distance == Distance::Cosine {
            let norm = mean.iter().map(|value| value * value).sum::<f64>().sqrt().max(1e-12);
            for value in &mut mean {
                *value /= norm;
            }
        }
        mean
    }

    /// Larger is nearer.
    fn score(&self, row: &[f32], mean: &[f64]) -> f64 {
        let pairs = row.iter().zip(mean).map(|(value, mean)| (f64::from(*value), mean));
        match self.distance {
            Distance::Cosine => pairs.map(|(value, mean)| value * mean).sum(),
            Distance::Euclidean => -pairs.map(|(value, mean)| (value - mean).powi(2)).sum::<f64>(),
        }
    }
}

/// Rows less the references' mean and of length 1, in host memory.
struct Rows {
    values: Vec<f32>,
    dimensions: usize,
}

impl Rows {
    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.dimensions..(row + 1) * self.dimensions]
    }
}

fn centred(queries: &Tensor, references: &Tensor) -> Result<Rows> {
    let centre = references.mean_dim(0i64, true, Kind::Double);
    let rows = queries.to_kind(Kind::Double) - centre;
    let norms = rows.square().sum_dim_intlist(1, true, Kind::Double).sqrt().clamp_min(1e-12);
    let rows = (rows / norms).to_kind(Kind::Float).to_device(Device::Cpu).contiguous();
    if rows.isfinite().all().int64_value(&[]) == 0 {
        return Err(Error::NonFinite(
            "features hold values that are infinite or not a number: the network diverged or its weights are damaged"
                .to_owned(),
        ));
    }
    let mut values = vec![0.0; rows.numel()];
    rows.copy_data(&mut values, rows.numel());
    Ok(Rows { values, dimensions: rows.size()[1] as usize })
}

/// `count` different numbers below `n`, in the order drawn.
fn draw(stream: &mut Stream, n: usize, count: usize) -> Vec<usize> {
    let mut drawn: Vec<usize> = Vec::with_capacity(count);
    while drawn.len() < count {
        // Drawn again if there already; for many of few, a shuffle.
        if 2 * count > n {
            drawn = stream.permutation(n);
            drawn.truncate(count);
            return drawn;
        }
        let next = stream.below(n as u64) as usize;
        if !drawn.contains(&next) {
            drawn.push(next);
        }
    }
    drawn
}

#[cfg(test)]
mod tests;
