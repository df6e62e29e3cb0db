//! t-SNE (van der Maaten and Hinton 2008, "Visualizing Data using t-SNE"), with the settings and the descent of
//! scikit-learn.
//!
//! ```text
//! features --exact neighbours--> distances --bandwidths--> p_ij --descent of KL(P‖Q)--> places in the plane
//! ```

mod affinity;
mod attraction;
#[cfg(test)]
mod tests;
mod tree;

use super::Point;
use crate::error::{Error, Result};
use crate::evaluate::knn::{Distance, neighbours_by};
use crate::random::{Purpose, Scope, Stream};
use affinity::Affinities;
use attraction::{attraction, cross};
use serde::{Deserialize, Serialize};
use tch::Tensor;
pub(super) use tree::along_curve;
use tree::{MOST, repulsion};

/// Settings of t-SNE; the defaults are scikit-learn's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tsne {
    /// How many neighbours an image about has, at least 1. Its `trunc(3 · perplexity + 1)` nearest others are looked at, so
    /// there must be as many images.
    pub perplexity: f64,
    /// Rounds of the descent, early exaggeration included; at least as many as that.
    pub iterations: u64,
    /// Step size, above 0; none is `max(N / (4 · exaggeration), 50)` for N images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// What probabilities are multiplied by at first, at least 1: clusters find together.
    pub exaggeration: f64,
    /// Rounds with exaggeration.
    pub exaggeration_iterations: u64,
    /// A square of the plane counts as one point if its side is less than `theta` times its distance, 0 to 1; 0 is every pair
    /// by itself.
    pub theta: f64,
    /// Up to how many images every pair counts by itself, whatever `theta`.
    pub exact_up_to: usize,
    /// Where the descent begins.
    pub start: Start,
}

/// Where the descent begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// The first two principal components, so that far clusters keep their places and no seed matters.
    #[default]
    Pca,
    /// Normal draws by the seed.
    Random,
}

impl Default for Tsne {
    fn default() -> Self {
        Self {
            perplexity: 30.0,
            iterations: 1_000,
            learning_rate: None,
            exaggeration: 12.0,
            exaggeration_iterations: 250,
            theta: 0.5,
            exact_up_to: 2_000,
            start: Start::Pca,
        }
    }
}

/// A map, and how the descent went.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// A place for each row.
    pub points: Vec<Point>,
    /// `KL(P‖Q)` at the end, in nats.
    pub kl: f64,
    /// Round and `KL(P‖Q)`, every 50 rounds.
    pub trace: Vec<(u64, f64)>,
}

/// Standard deviation of the first axis at the start.
const START_DEVIATION: f64 = 1e-4;

/// Rounds between two looks at the divergence.
const LOOK: u64 = 50;

/// Rounds without a smaller divergence after which the descent is over.
const PATIENCE: u64 = 300;

/// The descent is over when the norm of gain times gradient is no more than this.
const FLAT: f64 = 1e-7;

/// Smallest gain.
const LEAST_GAIN: f32 = 0.01;

impl Tsne {
    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting, its range and what was found.
    pub fn check(&self) -> Result<()> {
        let Self { perplexity, exaggeration, theta, .. } = *self;
        let rate = self.learning_rate.unwrap_or(1.0);
        let (rounds, early) = (self.iterations, self.exaggeration_iterations);
        let wrong = if !(perplexity >= 1.0 && perplexity.is_finite()) {
            format!("`tsne.perplexity` must be at least 1, found `{perplexity}`")
        } else if !(rate > 0.0 && rate.is_finite()) {
            format!("`tsne.learning_rate` must be above 0, found `{rate}`")
        } else if !(exaggeration >= 1.0 && exaggeration.is_finite()) {
            format!("`tsne.exaggeration` must be at least 1, found `{exaggeration}`")
        } else if !(0.0..=1.0).contains(&theta) {
            format!("`tsne.theta` must lie within 0 and 1, found `{theta}`")
        } else if rounds < early.max(1) {
            format!(
                "`tsne.iterations` must be at least `tsne.exaggeration_iterations` and 1, found `{rounds}` and `{early}`"
            )
        } else {
            return Ok(());
        };
        Err(Error::Recipe(wrong))
    }

    /// Neighbours that are looked at.
    pub fn neighbours(&self) -> usize {
        (3.0 * self.perplexity + 1.0) as usize
    }

    /// Maps rows `[N, D]`; `pca` are their first two principal components. `progress` gets rounds done and in all.
    ///
    /// The neighbours are exact. All sums have an order of their own, so the same rows, settings and seed give the same bits
    /// on any number of threads of one kind of processor; a processor with other vector instructions rounds differently,
    /// and then the path, which is chaotic, leads to another map of about the same divergence.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a setting out of range; [`Error::Data`] for fewer rows than neighbours or too many;
    /// [`Error::NonFinite`] for rows that are no numbers; [`Error::Collapsed`] if all rows are the same.
    pub fn fit(
        &self,
        rows: &Tensor,
        pca: &[Point],
        seed: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Embedding> {
        self.check()?;
        let count = pca.len();
        crate::shape::check("rows to map", rows, &[count as i64, -1])?;
        if count < self.neighbours() || count < 3 {
            return Err(Error::Data(format!(
                "t-SNE with perplexity {} looks at {} neighbours, so it needs at least as many images, found {count}; take \
                 more images, a `tsne.perplexity` of at most {:.0}, or `map.algorithms=[\"pca\"]`",
                self.perplexity,
                self.neighbours(),
                ((count as f64 - 1.0) / 3.0).floor().max(1.0)
            )));
        }
        if count > MOST {
            return Err(Error::Data(format!(
                "a map holds at most {MOST} images, found {count}; take a part with `data.limit`"
            )));
        }
        let k = self.neighbours().min(count - 1);
        let found = neighbours_by(&[Distance::Euclidean], rows, rows, k, true)?;
        let found = found.into_iter().next().expect("one for each distance");
        let affinities = Affinities::new(&found, count, self.perplexity);
        Ok(self.descend(&affinities, self.begin(pca, seed)?, progress))
    }

    fn begin(&self, pca: &[Point], seed: u64) -> Result<Vec<Point>> {
        if self.start == Start::Random {
            let mut stream = Stream::open(seed, Purpose::Evaluation, Scope::Item(0));
            let mut draw = || (START_DEVIATION * stream.normal()) as f32;
            return Ok(pca.iter().map(|_| [draw(), draw()]).collect());
        }
        let first = || pca.iter().map(|point| f64::from(point[0]));
        let mean = first().sum::<f64>() / pca.len() as f64;
        let deviation =
            (first().map(|x| (x - mean).powi(2)).sum::<f64>() / pca.len() as f64).sqrt();
        if deviation <= 0.0 {
            return Err(super::collapsed());
        }
        let scale = START_DEVIATION / deviation;
        Ok(pca.iter().map(|point| point.map(|at| (f64::from(at) * scale) as f32)).collect())
    }

    /// Gradient descent with momentum and a gain for each coordinate (Jacobs 1988), as scikit-learn does it.
    fn descend(
        &self,
        affinities: &Affinities,
        mut points: Vec<Point>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Embedding {
        let count = points.len();
        let theta = if count <= self.exact_up_to { 0.0 } else { self.theta as f32 };
        let rate = (count as f64 / (4.0 * self.exaggeration)).max(50.0);
        let rate = self.learning_rate.unwrap_or(rate) as f32;
        let early = self.exaggeration_iterations;
        let (mut velocity, mut gains) = (vec![[0.0f32; 2]; count], vec![[1.0f32; 2]; count]);
        let mut trace = Vec::new();
        let mut best = (f64::INFINITY, 0);
        let mut round = 0;
        while round < self.iterations {
            let exaggerated = round < early;
            if round == early {
                // The change of the probabilities is a new beginning.
                velocity.fill([0.0; 2]);
                gains.fill([1.0; 2]);
                best = (f64::INFINITY, round);
            }
            let factor = if exaggerated { self.exaggeration as f32 } else { 1.0 };
            let look = (round + 1).is_multiple_of(LOOK) || round + 1 == self.iterations;
            let (gradient, divergence) = gradient(affinities, &points, factor, theta, look);
            let momentum = if exaggerated { 0.5 } else { 0.8 };
            let mut norm = 0.0;
            for point in 0..count {
                for axis in 0..2 {
                    let (gain, speed) = (&mut gains[point][axis], &mut velocity[point][axis]);
                    let slope = gradient[point][axis];
                    *gain = if *speed * slope < 0.0 { *gain + 0.2 } else { *gain * 0.8 };
                    *gain = gain.max(LEAST_GAIN);
                    let step = *gain * slope;
                    norm += f64::from(step).powi(2);
                    *speed = momentum * *speed - rate * step;
                    points[point][axis] += *speed;
                }
            }
            round += 1;
            progress(round, self.iterations);
            if let Some(divergence) = divergence {
                trace.push((round, divergence));
                if divergence < best.0 {
                    best = (divergence, round);
                }
                let over = round - best.1 > PATIENCE || norm.sqrt() <= FLAT;
                if over && exaggerated {
                    round = early;
                } else if over {
                    break;
                }
            }
        }
        progress(self.iterations, self.iterations);
        let (_, divergence) = gradient(affinities, &points, 1.0, theta, true);
        Embedding { points, kl: divergence.unwrap_or(f64::NAN), trace }
    }
}

/// `4 Σ_j (p_ij − q_ij / Σ q) q_ij (y_i − y_j)` with p times `factor`, and, on demand, `KL(P‖Q)` without it.
fn gradient(
    affinities: &Affinities,
    points: &[Point],
    factor: f32,
    theta: f32,
    look: bool,
) -> (Vec<Point>, Option<f64>) {
    let pushed = repulsion(points, theta);
    let pulls = attraction(affinities, points);
    let scale = (1.0 / pushed.sum) as f32;
    let slope = |(pull, push): (&Point, &Point)| {
        [0, 1].map(|axis: usize| 4.0 * (factor * pull[axis] - push[axis] * scale))
    };
    let slopes = pulls.iter().zip(&pushed.forces).map(slope).collect();
    let divergence =
        look.then(|| affinities.information + cross(affinities, points) + pushed.sum.ln());
    (slopes, divergence)
}
