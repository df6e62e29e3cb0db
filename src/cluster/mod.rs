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
