//! Spherical k-means: the least sum of 1 − cosine to the direction of the cluster.

use super::lloyd::Centre;
use super::points::{Points, unpadded};
use super::{Clustering, KMeans};
use crate::error::Result;
use tch::Tensor;

/// Clusters of unit rows, `Σ_i (1 - cos(f_i, u_label(i)))` as small as ten starts find it ("Unsupervised Feature Learning by
/// Cross-Level Instance-Group Discrimination", supplement, section 3): a row joins the centre of largest cosine, a centre
/// is the sum of its unit rows, brought to unit length.
///
/// Among unit vectors `|f - u|² = 2 (1 - cos)`: the seeds, the ways out of empty clusters and the ends are those of k-means,
/// with its settings.
pub(super) fn fit(rows: &Tensor, k: usize, seed: u64) -> Result<Clustering> {
    let points = Points::unit(rows)?;
    super::check_count(points.len(), k)?;
    let (best, _) = KMeans::default().best(&points, k, seed, Centre::Direction);
    let cosine = |(row, label): (usize, &u32)| -> f64 {
        let centre = &best.centres[*label as usize * points.stride..][..points.stride];
        let pairs = points.row(row).as_flattened().iter().zip(centre.as_flattened());
        pairs.map(|(f, u)| f64::from(*f) * f64::from(*u)).sum()
    };
    let inertia = best.labels.iter().enumerate().map(|row| 1.0 - cosine(row)).sum();
    Ok(Clustering {
        centres: Some(unpadded(&best.centres, points.dimensions, &[0.0])),
        inertia,
        iterations: best.iterations,
        labels: best.labels,
    })
}
