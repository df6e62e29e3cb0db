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
        let mut found = self.fit_each(rows, &[k], seed)?;
        Ok(found.pop().expect("one number, one result"))
    }

    /// [`KMeans::fit`] for several numbers of clusters, the rows being brought into form once.
    ///
    /// # Errors
    /// As [`KMeans::fit`].
    pub fn fit_each(&self, rows: &Tensor, ks: &[usize], seed: u64) -> Result<Vec<Clustering>> {
        self.check()?;
        let (points, mean) = Points::centred(rows)?;
        for k in ks {
            super::check_count(points.len(), *k)?;
        }
        let fit = |k: &usize| {
            let (best, inertia) = self.best(&points, *k, seed, Centre::Mean);
            clustering(&points, best, inertia, &mean)
        };
        Ok(ks.iter().map(fit).collect())
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

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::super::products::{LANES, products};
    use super::*;

    /// Overlapping groups of different sizes: many rounds, and rows near every border.
    fn blobs(rows: i64, dimensions: i64, groups: i64) -> Tensor {
        let mut stream = Stream::open(3, Purpose::Test, Scope::Item(0));
        let mut normal = |rows: i64, scale: f64| {
            let values: Vec<f32> =
                (0..rows * dimensions).map(|_| (scale * stream.normal()) as f32).collect();
            Tensor::from_slice(&values).view([rows, dimensions])
        };
        let (centres, noise) = (normal(groups, 1.0), normal(rows, 1.0));
        let which: Vec<i64> = (0..rows).map(|row| (row * row / 7) % groups).collect();
        centres.index_select(0, &Tensor::from_slice(&which)) + noise + 3.0
    }

    fn seeds(points: &Points, k: usize, starts: usize) -> Vec<Vec<Lanes>> {
        let open = |start| Stream::open(9, Purpose::Clusters, Scope::Item(start as u64));
        let mut streams: Vec<Stream> = (0..starts).map(open).collect();
        let rows = plus_plus(points, k, &mut streams);
        let centres = |rows: Vec<u32>| -> Vec<Lanes> {
            rows.into_iter().flat_map(|row| points.row(row as usize).to_vec()).collect()
        };
        rows.into_iter().map(centres).collect()
    }

    #[test]
    fn given_centres_lead_where_scikit_learns_lead() {
        let (arrays, numbers) = (golden::arrays(), golden::numbers());
        let rows = &arrays["kmeans.rows"];
        for (name, start, most) in
            [("kmeans", "kmeans", 300), ("empty", "empty", 300), ("short", "kmeans", 2)]
        {
            let settings = KMeans { max_iterations: most, ..KMeans::default() };
            let found = settings.fit_from(rows, &arrays[&format!("{start}.start")]).unwrap();
            let labels = golden::labels(&arrays[&format!("{name}.labels")]);
            assert_eq!(golden::renamed(&found.labels), golden::renamed(&labels), "{name}");
            golden::close(found.inertia, &numbers[name]["inertia"], 1e-6);
            assert_eq!(found.iterations, numbers[name]["iterations"], "{name}");
            if name == "kmeans" {
                assert_eq!(found.labels, labels);
                let centres = Tensor::from_slice(&found.centres.unwrap()).view([6, 19]);
                let apart = (centres - &arrays["kmeans.centres"]).abs().max().double_value(&[]);
                assert!(apart < 1e-5, "{apart}");
            }
        }
        let found = KMeans::default().fit(&arrays["clear.rows"], 4, 0).unwrap();
        let labels = golden::labels(&arrays["clear.labels"]);
        assert_eq!(golden::renamed(&found.labels), golden::renamed(&labels));
        golden::close(found.inertia, &numbers["clear"]["inertia"], 1e-6);
    }

    /// Appendix of the specification.
    #[test]
    fn six_points_have_scikit_learns_inertia_centres_and_tolerance() {
        let rows: Vec<f32> =
            [0.0, 1.0, 3.0, 7.0, 8.0, 20.0].iter().flat_map(|x| [*x, 0.0]).collect();
        let rows = Tensor::from_slice(&rows).view([6, 2]);
        let found = KMeans::default().fit(&rows, 3, 0).unwrap();
        assert!((found.inertia - 31.0 / 6.0).abs() < 1e-6, "{}", found.inertia);
        let mut centres: Vec<f32> = found.centres.unwrap().into_iter().step_by(2).collect();
        centres.sort_by(f32::total_cmp);
        for (found, expected) in centres.iter().zip([4.0 / 3.0, 7.5, 20.0]) {
            assert!((found - expected).abs() < 1e-5, "{found}");
        }
        let (points, _) = Points::centred(&rows).unwrap();
        let tolerance = KMeans::default().lloyd(&points, Centre::Mean).tolerance;
        assert!((tolerance - 0.002_245_83).abs() < 5e-9, "{tolerance}");
        assert_eq!([2, 4, 6, 8, 100].map(candidates), [2, 3, 3, 4, 6]);
    }

    /// Lloyd's algorithm without any short cut, on the same inner products.
    fn plain(points: &Points, mut centres: Vec<Lanes>, tolerance: f64) -> (Vec<u32>, Vec<Lanes>) {
        let (stride, k) = (points.stride, centres.len() / points.stride);
        let all: Vec<u32> = (0..points.len() as u32).collect();
        let assign = |centres: &[Lanes]| -> Vec<u32> {
            let mut found = vec![0.0; all.len() * k];
            products(&points.values, &all, centres, stride, &mut found);
            let mut squares = vec![0.0; k * k];
            let own: Vec<u32> = (0..k as u32).collect();
            products(centres, &own, centres, stride, &mut squares);
            let nearest = |products: &[f32]| {
                let distance = |j: usize| squares[j * k + j] - 2.0 * products[j];
                (0..k).min_by(|a, b| distance(*a).total_cmp(&distance(*b))).unwrap() as u32
            };
            found.chunks(k).map(nearest).collect()
        };
        let mut labels = Vec::new();
        loop {
            let old = std::mem::replace(&mut labels, assign(&centres));
            let mut sums = vec![0.0f64; k * stride * LANES];
            let mut counts = vec![0.0; k];
            for (row, label) in labels.iter().enumerate() {
                counts[*label as usize] += 1.0;
                let sums = &mut sums[*label as usize * stride * LANES..];
                for (sum, value) in sums.iter_mut().zip(points.row(row).as_flattened()) {
                    *sum += f64::from(*value);
                }
            }
            let means =
                sums.iter().enumerate().map(|(at, sum)| sum / counts[at / (stride * LANES)]);
            let means: Vec<f32> = means.map(|mean| mean as f32).collect();
            let pairs = means.iter().zip(centres.as_flattened());
            let shift: f64 = pairs.map(|(new, old)| f64::from(new - old).powi(2)).sum();
            centres = means.as_chunks::<LANES>().0.to_vec();
            if labels == old {
                return (labels, centres);
            }
            if shift <= tolerance {
                return (assign(&centres), centres);
            }
        }
    }

    #[test]
    fn short_cuts_change_no_label() {
        for (rows, dimensions, k) in [(3_000, 40, 7), (900, 3, 4), (700, 130, 12)] {
            let (points, _) = Points::centred(&blobs(rows, dimensions, 5)).unwrap();
            for (settings, starts) in
                [(KMeans::default(), 3), (KMeans { tolerance: 0.0, ..KMeans::default() }, 2)]
            {
                let lloyd = settings.lloyd(&points, Centre::Mean);
                let starts = seeds(&points, k, starts);
                for (fitted, start) in lloyd.fit(&points, starts.clone()).iter().zip(starts) {
                    let (labels, centres) = plain(&points, start, lloyd.tolerance);
                    assert!(fitted.labels == labels, "{rows} {dimensions} {k}");
                    let pairs = fitted.centres.as_flattened().iter().zip(centres.as_flattened());
                    assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-6));
                    assert!(fitted.iterations > 3, "{}", fitted.iterations);
                }
            }
        }
    }

    #[test]
    fn neither_threads_nor_the_other_starts_change_a_bit() {
        let (points, _) = Points::centred(&blobs(2_000, 20, 6)).unwrap();
        let settings = KMeans { starts: 4, ..KMeans::default() };
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| settings.best(&points, 6, 5, Centre::Mean))
        };
        let ((one, one_inertia), (three, three_inertia)) = (on(1), on(3));
        assert_eq!(one.labels, three.labels);
        assert_eq!(one.centres, three.centres);
        assert_eq!(one_inertia.to_bits(), three_inertia.to_bits());
        let lloyd = settings.lloyd(&points, Centre::Mean);
        let starts = seeds(&points, 6, 4);
        assert_eq!(starts[2], seeds(&points, 6, 3)[2]);
        let together = lloyd.fit(&points, starts.clone());
        for (start, together) in starts.into_iter().zip(together) {
            let alone = lloyd.fit(&points, vec![start]).pop().unwrap();
            assert_eq!(alone.labels, together.labels);
            assert_eq!(alone.centres, together.centres);
        }
    }

    #[test]
    fn ten_starts_come_near_the_best_of_a_hundred() {
        let rows = blobs(600, 6, 8);
        let fit =
            |starts, seed| KMeans { starts, ..KMeans::default() }.fit(&rows, 8, seed).unwrap();
        let (ten, hundred) = (fit(10, 0).inertia, fit(100, 1).inertia);
        assert!(ten < hundred * 1.01, "{ten} {hundred}");
        assert!(fit(10, 0).inertia <= fit(1, 0).inertia);
    }

    #[test]
    fn bad_settings_and_centres_are_refused() {
        let rows = blobs(20, 3, 2);
        let fails = |settings: KMeans| settings.fit(&rows, 2, 0).unwrap_err().to_string();
        let good = KMeans::default();
        assert_eq!(
            fails(KMeans { starts: 0, ..good.clone() }),
            "`starts` must be at least 1, found `0`"
        );
        assert!(fails(KMeans { max_iterations: 0, ..good.clone() }).contains("max_iterations"));
        assert!(fails(KMeans { tolerance: -1.0, ..good.clone() }).contains("found `-1`"));
        assert!(fails(KMeans { tolerance: f64::NAN, ..good.clone() }).contains("tolerance"));
        let from = |centres: &Tensor| good.fit_from(&rows, centres).unwrap_err();
        assert!(matches!(from(&rows.narrow(1, 0, 2)), Error::Shape(_)));
        assert!(matches!(from(&(rows.narrow(0, 0, 2) / 0.0)), Error::NonFinite(_)));
    }
}
