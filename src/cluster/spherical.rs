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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope, Stream};
    use crate::rows::unit_rows;
    use tch::Kind;

    #[test]
    fn each_row_has_its_nearest_direction_and_each_direction_is_that_of_its_sum() {
        let mut stream = Stream::open(4, Purpose::Test, Scope::Item(0));
        let values: Vec<f32> = (0..500 * 7).map(|_| stream.normal() as f32 + 0.3).collect();
        let rows = Tensor::from_slice(&values).view([500, 7]);
        let found = fit(&rows, 5, 0).unwrap();
        let unit = unit_rows(&rows.to_kind(Kind::Double));
        let centres = Tensor::from_slice(found.centres.as_ref().unwrap()).view([5, 7]);
        let cosines = unit.mm(&centres.to_kind(Kind::Double).tr());
        let nearest: Vec<i64> = Vec::try_from(cosines.argmax(1, false)).unwrap();
        let labels: Vec<i64> = found.labels.iter().map(|label| i64::from(*label)).collect();
        assert_eq!(labels, nearest);
        let members = Tensor::from_slice(&labels).one_hot(5).to_kind(Kind::Double);
        let directions = unit_rows(&members.tr().mm(&unit));
        // The last move was below the tolerance, not 0.
        assert!((directions - &centres).abs().max().double_value(&[]) < 0.02);
        let best = cosines.amax([1].as_slice(), false);
        let objective = (best - 1.0).neg().sum(Kind::Double).double_value(&[]);
        assert!((objective - found.inertia).abs() < 1e-4, "{objective} {}", found.inertia);
        // Lengths do not count.
        let lengths = Tensor::arange(500, (Kind::Float, rows.device())).unsqueeze(1) + 1.0;
        assert_eq!(
            fit(&(rows * lengths.exp2().clamp_max(64.0)), 5, 0).unwrap().labels,
            found.labels
        );
    }
}
