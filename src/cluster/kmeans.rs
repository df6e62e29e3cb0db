//! K-means as scikit-learn's `KMeans` defines it: greedy k-means++, Lloyd, the best of several starts.

use super::Clustering;
use super::lloyd::{Centre, Fitted, Lloyd};
use super::points::{Points, padded, unpadded};
use super::products::Lanes;
use super::seeding::{candidates, plus_plus};
use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
use crate::shape;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// Settings of k-means; the default is that of the local-feature analysis in "\[Re\] Intriguing Properties of Contrastive
/// Losses" (section 3.3), and of scikit-learn before 1.4 (since then a single start is its default).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KMeans {
    /// Number of starts (`n_init`), at least 1. The one of least inertia counts; an equal partition does not replace one
    /// that came before.
    pub starts: usize,
    /// Most rounds of assigning and averaging (`max_iter`), at least 1.
    pub max_iterations: u64,
    /// A start ends when the squares of its centres' moves sum up to at most this share of the mean variance of the
    /// dimensions (`tol`), 0 or more.
    pub tolerance: f64,
}

impl Default for KMeans {
    fn default() -> Self {
        Self { starts: 10, max_iterations: 300, tolerance: 1e-4 }
    }
}

/// Bytes that the starts which run at once may take beside the rows. Which ones run together decides no number.
const BUDGET: usize = 1 << 28;

impl KMeans {
    /// Groups the rows `[n, D]` into `k` clusters around their means. Start `s` draws from
    /// `Stream::open(seed, Purpose::Clusters, Scope::Item(s))`: the result is the same on any number of threads.
    ///
    /// Beside scikit-learn: sums are f64; a start has a stream of its own rather than the rest of one for all; of equally
    /// far rows that could fill an empty cluster the lower counts.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a setting out of range; [`Error::Shape`] unless rows have two dimensions;
    /// [`Error::Data`] if there are fewer rows than clusters; [`Error::NonFinite`] for rows that are no numbers.
    pub fn fit(&self, rows: &Tensor, k: usize, seed: u64) -> Result<Clustering> {
        self.check()?;
        let (points, mean) = Points::centred(rows)?;
        super::check_count(points.len(), k)?;
        let (best, inertia) = self.best(&points, k, seed, Centre::Mean);
        Ok(clustering(&points, best, inertia, &mean))
    }

    /// The same from given centres `[k, D]`, once.
    ///
    /// # Errors
    /// As [`KMeans::fit`], and [`Error::Shape`] if the centres have another width.
    pub fn fit_from(&self, rows: &Tensor, centres: &Tensor) -> Result<Clustering> {
        self.check()?;
        let (points, mean) = Points::centred(rows)?;
        let dimensions = points.dimensions as i64;
        shape::check("initial centres", centres, &[-1, dimensions])?;
        super::check_count(points.len(), centres.size()[0] as usize)?;
        let offset = Tensor::from_slice(&mean);
        let moved = (centres.detach().to_device(Device::Cpu).to_kind(Kind::Double) - offset)
            .to_kind(Kind::Float)
            .contiguous();
        let mut values = vec![0.0f32; moved.numel()];
        moved.copy_data(&mut values, moved.numel());
        if !values.iter().all(|value| value.is_finite()) {
            return Err(Error::NonFinite("an initial centre is infinite or not a number".into()));
        }
        let start = padded(&values, points.dimensions);
        let fitted = self.lloyd(&points, Centre::Mean).fit(&points, vec![start]);
        let fitted = fitted.into_iter().next().expect("one start, one result");
        let inertia = points.inertia(&fitted.labels, &fitted.centres);
        Ok(clustering(&points, fitted, inertia, &mean))
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key, its range and what was found.
    pub fn check(&self) -> Result<()> {
        let wrong = if self.starts == 0 {
            "`starts` must be at least 1, found `0`".to_owned()
        } else if self.max_iterations == 0 {
            "`max_iterations` must be at least 1, found `0`".to_owned()
        } else if !(self.tolerance >= 0.0 && self.tolerance.is_finite()) {
            format!("`tolerance` must be 0 or more, found `{}`", self.tolerance)
        } else {
            return Ok(());
        };
        Err(Error::Recipe(wrong))
    }

    fn lloyd(&self, points: &Points, centre: Centre) -> Lloyd {
        let squares: f64 = points.squares.iter().map(|square| f64::from(*square)).sum();
        // Of centred rows the mean variance of the dimensions.
        let variance = squares / (points.len() * points.dimensions) as f64;
        let tolerance = self.tolerance * variance;
        Lloyd { centre, max_iterations: self.max_iterations, tolerance }
    }

    /// The start of least inertia, and that.
    pub(super) fn best(
        &self,
        points: &Points,
        k: usize,
        seed: u64,
        centre: Centre,
    ) -> (Fitted, f64) {
        let lloyd = self.lloyd(points, centre);
        let of_a_start = points.len() * 4 * (candidates(k) + 6) + 16 * k * points.dimensions;
        let at_once = (BUDGET / of_a_start).clamp(1, self.starts);
        let mut best: Option<(Fitted, f64)> = None;
        for first in (0..self.starts).step_by(at_once) {
            let starts = first..self.starts.min(first + at_once);
            let open = |start| Stream::open(seed, Purpose::Clusters, Scope::Item(start as u64));
            let mut streams: Vec<Stream> = starts.map(open).collect();
            let seeds = plus_plus(points, k, &mut streams);
            let centres = |rows: &Vec<u32>| -> Vec<Lanes> {
                rows.iter().flat_map(|row| points.row(*row as usize)).copied().collect()
            };
            for fitted in lloyd.fit(points, seeds.iter().map(centres).collect()) {
                let inertia = points.inertia(&fitted.labels, &fitted.centres);
                let better = best.as_ref().is_none_or(|(best, least)| {
                    inertia < *least && !same_partition(&fitted.labels, &best.labels, k)
                });
                if better {
                    best = Some((fitted, inertia));
                }
            }
        }
        best.expect("there is at least one start")
    }
}

/// Whether each cluster of the first lies within one of the second.
fn same_partition(first: &[u32], second: &[u32], k: usize) -> bool {
    let mut counterpart = vec![None; k];
    let fits = |(first, second): (&u32, &u32)| {
        *counterpart[*first as usize].get_or_insert(*second) == *second
    };
    first.iter().zip(second).all(fits)
}

fn clustering(points: &Points, fitted: Fitted, inertia: f64, mean: &[f64]) -> Clustering {
    Clustering {
        centres: Some(unpadded(&fitted.centres, points.dimensions, mean)),
        labels: fitted.labels,
        inertia,
        iterations: fitted.iterations,
    }
}
