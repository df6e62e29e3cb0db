//! Grouping rows: k-means, Ward, bisecting and spherical k-means, spectral clustering; and how far two groupings agree.
//!
//! Rows are features of images, or the pixels of a feature map. Everything is deterministic: the same rows and seed give
//! the same bits on any number of threads.

pub mod agreement;
mod bisecting;
mod kmeans;
mod lloyd;
mod points;
mod products;
mod seeding;
mod spectral;
mod spherical;
mod ward;

pub use kmeans::KMeans;

use crate::error::{Error, Result};
use crate::shape;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// How to group rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// Least squared distance to the mean of the cluster, [`KMeans`] with its defaults.
    #[default]
    #[serde(rename = "k-means")]
    KMeans,
    /// Merges the two clusters whose union costs least, until k are left (Ward 1963), as scikit-learn's
    /// `AgglomerativeClustering`, its label order included.
    Ward,
    /// Splits the cluster of largest inertia in two, until there are k, as scikit-learn's `BisectingKMeans`.
    Bisecting,
    /// Largest cosine to the direction of the cluster (Dhillon and Modha 2001).
    Spherical,
    /// Normalised cuts of the graph of cosines (Shi and Malik 2000; Ng, Jordan and Weiss 2001).
    Spectral,
    /// The same as the released code of cross-level discrimination computes it.
    SpectralCld,
}

/// A grouping of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Clustering {
    /// Cluster of each row, in `0..k`; which number a cluster has is arbitrary, except with [`Algorithm::Ward`].
    pub labels: Vec<u32>,
    /// Centres f32 `[k, D]`, row by row: means, or with [`Algorithm::Spherical`] unit vectors. Spectral clustering has
    /// none in the space of the rows.
    pub centres: Option<Vec<f32>>,
    /// Sum over the rows of the squared distance to their centre; with [`Algorithm::Spherical`] of 1 − cosine; with
    /// spectral clustering of the squared distance in its embedding.
    pub inertia: f64,
    /// Rounds of assigning and averaging of the start that counts; of all splits together with
    /// [`Algorithm::Bisecting`]; 0 with [`Algorithm::Ward`].
    pub iterations: u64,
}

/// Groups rows `[n, D]`, of any float kind, into `k` clusters with the published settings of an algorithm. Draws come from
/// `seed` and [`crate::random::Purpose::Clusters`].
///
/// Spherical and spectral clustering look at the directions of the rows alone, the others at the rows as they are.
///
/// # Errors
/// [`Error::Recipe`] if `k` is 0; [`Error::Shape`] unless rows have two dimensions; [`Error::Data`] if there are fewer rows
/// than clusters, or more than fit into memory with an algorithm that looks at all pairs; [`Error::NonFinite`] for rows
/// that are no numbers.
pub fn cluster(rows: &Tensor, k: usize, algorithm: Algorithm, seed: u64) -> Result<Clustering> {
    match algorithm {
        Algorithm::KMeans => KMeans::default().fit(rows, k, seed),
        Algorithm::Ward => ward::fit(rows, k),
        Algorithm::Bisecting => bisecting::fit(rows, k, seed),
        Algorithm::Spherical => spherical::fit(rows, k, seed),
        Algorithm::Spectral => spectral::fit(rows, k, seed),
        Algorithm::SpectralCld => spectral::fit_cld(rows, k),
    }
}

/// [`cluster`] for several numbers of clusters: the same results, from work that is done once. A tree of merges or splits
/// is cut at each number, eigenvectors and rows are shared.
///
/// # Errors
/// As [`cluster`].
pub fn cluster_each(
    rows: &Tensor,
    ks: &[usize],
    algorithm: Algorithm,
    seed: u64,
) -> Result<Vec<Clustering>> {
    match algorithm {
        Algorithm::KMeans => KMeans::default().fit_each(rows, ks, seed),
        Algorithm::Ward => ward::fit_each(rows, ks),
        Algorithm::Bisecting => bisecting::fit_each(rows, ks, seed),
        Algorithm::Spherical => ks.iter().map(|k| spherical::fit(rows, *k, seed)).collect(),
        Algorithm::Spectral => spectral::fit_each(rows, ks, seed),
        Algorithm::SpectralCld => ks.iter().map(|k| spectral::fit_cld(rows, *k)).collect(),
    }
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 6] = [
        Self::KMeans,
        Self::Ward,
        Self::Bisecting,
        Self::Spherical,
        Self::Spectral,
        Self::SpectralCld,
    ];

    /// Most rows it takes; none where memory grows with the rows alone.
    pub fn most_rows(self) -> Option<usize> {
        match self {
            Self::Ward => Some(ward::MOST_ROWS),
            Self::Spectral | Self::SpectralCld => Some(spectral::MOST_ROWS as usize),
            Self::KMeans | Self::Bisecting | Self::Spherical => None,
        }
    }

    /// Whether another seed may lead to other clusters.
    pub fn is_random(self) -> bool {
        !matches!(self, Self::Ward | Self::SpectralCld)
    }
}

/// Whether there are rows, of some width.
fn check_shape(rows: &Tensor) -> Result<()> {
    shape::check("rows to cluster", rows, &[-1, -1])?;
    if rows.numel() == 0 {
        let found = rows.size();
        let text = format!("`rows to cluster` must have a row and a dimension, found {found:?}");
        return Err(Error::Shape(text));
    }
    Ok(())
}

/// Whether `n` rows can be `k` clusters.
fn check_count(n: usize, k: usize) -> Result<()> {
    if k == 0 {
        return Err(Error::Recipe("the number of clusters must be at least 1, found `0`".into()));
    }
    if n < k {
        return Err(Error::Data(format!("{n} rows cannot be {k} clusters; ask for at most {n}")));
    }
    if u32::try_from(n).is_err() {
        return Err(Error::Data(format!("{n} rows are more than can be numbered, {}", u32::MAX)));
    }
    Ok(())
}

/// What scikit-learn found, made by `tests/golden/cluster.py`.
#[cfg(test)]
mod golden {
    use serde_json::Value;
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use tch::{Kind, Tensor};

    fn file(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
    }

    pub(super) fn arrays() -> BTreeMap<String, Tensor> {
        Tensor::read_safetensors(file("cluster.safetensors")).unwrap().into_iter().collect()
    }

    pub(super) fn numbers() -> Value {
        serde_json::from_slice(&std::fs::read(file("cluster.json")).unwrap()).unwrap()
    }

    pub(super) fn labels(array: &Tensor) -> Vec<u32> {
        let labels: Vec<i64> = Vec::try_from(array.to_kind(Kind::Int64)).unwrap();
        labels.into_iter().map(|label| label as u32).collect()
    }

    /// Labels in order of appearance, so that groupings compare whatever their clusters are called.
    pub(super) fn renamed(labels: &[u32]) -> Vec<u32> {
        let mut names = Vec::new();
        let name = |label: &u32| {
            let known = names.iter().position(|name| name == label);
            known.unwrap_or_else(|| {
                names.push(*label);
                names.len() - 1
            }) as u32
        };
        labels.iter().map(name).collect()
    }

    pub(super) fn close(found: f64, expected: &Value, tolerance: f64) {
        let expected = expected.as_f64().unwrap();
        let apart = (found - expected).abs() / expected.abs().max(1e-12);
        assert!(apart < tolerance, "{found}, expected {expected}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(Algorithm, &str); 6] = [
        (Algorithm::KMeans, "k-means"),
        (Algorithm::Ward, "ward"),
        (Algorithm::Bisecting, "bisecting"),
        (Algorithm::Spherical, "spherical"),
        (Algorithm::Spectral, "spectral"),
        (Algorithm::SpectralCld, "spectral-cld"),
    ];

    /// Three rays in turns, four rows each, of different lengths.
    fn rays() -> Tensor {
        let rows: Vec<f32> = (0..12u8)
            .flat_map(|row| {
                let mut ray = [0.02, 0.01, 0.0];
                ray[usize::from(row % 3)] = 1.0;
                ray.map(|value| value * (1.0 + f32::from(row / 3) / 16.0))
            })
            .collect();
        Tensor::from_slice(&rows).view([12, 3])
    }

    #[test]
    fn every_algorithm_goes_by_its_name_and_finds_three_rays() {
        for (algorithm, name) in ALL {
            assert_eq!(serde_json::to_value(algorithm).unwrap(), name);
            let found = cluster(&rays(), 3, algorithm, 0).unwrap();
            let expected = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2];
            assert_eq!(golden::renamed(&found.labels), expected, "{name}");
            assert!(found.inertia >= 0.0 && found.inertia < 0.3, "{name} {}", found.inertia);
            assert_eq!(found, cluster(&rays(), 3, algorithm, 0).unwrap(), "{name}");
            if let Some(centres) = found.centres {
                assert_eq!(centres.len(), 9, "{name}");
            }
        }
    }

    #[test]
    fn several_numbers_of_clusters_at_once_are_those_one_by_one() {
        let rows = golden::arrays()["kmeans.rows"].narrow(0, 0, 300);
        for (algorithm, name) in ALL {
            let ks = [4, 1, 7, 2];
            let found = cluster_each(&rows, &ks, algorithm, 5).unwrap();
            for (found, k) in found.iter().zip(ks) {
                assert_eq!(*found, cluster(&rows, k, algorithm, 5).unwrap(), "{name} {k}");
            }
            assert!(cluster_each(&rows, &[3, 0], algorithm, 5).is_err(), "{name}");
        }
    }

    #[test]
    fn one_cluster_holds_all_and_as_many_as_rows_one_each() {
        for (algorithm, name) in ALL {
            assert_eq!(cluster(&rays(), 1, algorithm, 0).unwrap().labels, [0; 12], "{name}");
        }
        for algorithm in [Algorithm::KMeans, Algorithm::Ward, Algorithm::Bisecting] {
            let found = cluster(&rays(), 12, algorithm, 0).unwrap();
            let expected: Vec<u32> = (0..12).collect();
            assert_eq!(golden::renamed(&found.labels), expected, "{algorithm:?}");
            assert!(found.inertia < 1e-10, "{algorithm:?} {}", found.inertia);
        }
    }

    #[test]
    fn equal_rows_in_more_clusters_than_there_are_points_stay_finite() {
        for (algorithm, name) in ALL {
            for rows in [rays().narrow(0, 0, 1).expand([6, 3], false), rays().zeros_like()] {
                let found = cluster(&rows, 4, algorithm, 1).unwrap();
                assert!(found.labels.iter().all(|label| *label < 4), "{name}");
                assert!(found.inertia.is_finite(), "{name}");
                let centres = found.centres.unwrap_or_default();
                assert!(centres.iter().all(|value| value.is_finite()), "{name}");
                // All eigenvectors of equal rows serve alike, and the cosine to a row of zeros is 0.
                let euclidean =
                    [Algorithm::KMeans, Algorithm::Ward, Algorithm::Bisecting].contains(&algorithm);
                assert!(!euclidean || found.inertia < 1e-6, "{name} {}", found.inertia);
            }
        }
    }

    #[test]
    fn impossible_requests_are_refused_by_every_algorithm() {
        for (algorithm, name) in ALL {
            let fails = |rows: &Tensor, k| cluster(rows, k, algorithm, 0).unwrap_err();
            assert!(matches!(fails(&rays(), 0), Error::Recipe(_)), "{name}");
            let message = fails(&rays(), 13).to_string();
            assert_eq!(message, "12 rows cannot be 13 clusters; ask for at most 12", "{name}");
            assert!(matches!(fails(&rays().view([36]), 2), Error::Shape(_)), "{name}");
            assert!(matches!(fails(&(rays() / 0.0), 2), Error::NonFinite(_)), "{name}");
            let nothing = rays().narrow(1, 0, 0);
            assert!(matches!(fails(&nothing, 2), Error::Shape(_)), "{name}");
        }
    }
}
