//! The two directions of largest variance.

use super::Point;
use crate::error::{Error, Result};
use crate::shape;
use tch::{Device, Kind, Tensor};

/// Rows in a matrix product.
const TILE: i64 = 4_096;

/// Rows on their first two principal components.
#[derive(Clone, Debug, PartialEq)]
pub struct Pca {
    /// A place for each row; the second coordinate is 0 if rows have but one dimension.
    pub points: Vec<Point>,
    /// Share of the variance that lies along each axis.
    pub explained: [f64; 2],
}

/// Principal components of rows `[N, D]`, in f64, by the eigenvectors of the smaller of the covariance and the matrix of
/// inner products. The coordinate farthest from 0 is positive on each axis, so that signs do not depend on the solver.
///
/// # Errors
/// [`Error::Shape`] unless rows have two dimensions; [`Error::Data`] for fewer than two rows; [`Error::NonFinite`] if a value
/// is no number or above 1e18; [`Error::Collapsed`] if all rows are the same.
pub fn pca(rows: &Tensor) -> Result<Pca> {
    shape::check("rows to map", rows, &[-1, -1])?;
    let (count, dimensions) = (rows.size()[0], rows.size()[1]);
    if count < 2 || dimensions < 1 {
        return Err(Error::Data(format!(
            "a map needs at least 2 images, found {count} with {dimensions} features"
        )));
    }
    let largest = rows.abs().max().double_value(&[]);
    if largest.is_nan() || largest >= 1e18 {
        return Err(Error::NonFinite(
            "the features to map hold values that are infinite, not a number or above 1e18: the network diverged or its \
             weights are damaged"
                .to_owned(),
        ));
    }
    let rows = Centred::new(rows);
    let narrow = dimensions <= count;
    let matrix = if narrow {
        let mut sum = Tensor::zeros([dimensions, dimensions], (Kind::Double, Device::Cpu));
        rows.tiles(|tile| sum += tile.tr().matmul(&tile));
        sum
    } else {
        let all = rows.tile(0, count);
        all.matmul(&all.tr())
    };
    let trace = matrix.trace().double_value(&[]);
    // What is left of equal rows is the rounding of their mean.
    if trace / count as f64 <= 1e-24 * rows.mean.square().sum(Kind::Double).double_value(&[]) {
        return Err(super::collapsed());
    }
    let (values, vectors) = matrix.linalg_eigh("L");
    let last = values.size()[0];
    let wanted = last.min(2);
    let vectors = vectors.narrow(1, last - wanted, wanted).flip([1]);
    let values = values.narrow(0, last - wanted, wanted).flip([0]).clamp_min(0.0);
    let scores = if narrow {
        let mut parts = Vec::new();
        rows.tiles(|tile| parts.push(tile.matmul(&vectors)));
        Tensor::cat(&parts, 0)
    } else {
        vectors * values.sqrt()
    };
    let mut explained = [0.0; 2];
    let mut points = vec![[0.0; 2]; count as usize];
    for axis in 0..wanted as usize {
        explained[axis] = values.double_value(&[axis as i64]) / trace;
        let mut column = vec![0.0f64; count as usize];
        scores.select(1, axis as i64).contiguous().copy_data(&mut column, count as usize);
        let farthest =
            column.iter().fold(0.0f64, |far, at| if at.abs() > far.abs() { *at } else { far });
        let sign = if farthest < 0.0 { -1.0 } else { 1.0 };
        for (point, value) in points.iter_mut().zip(&column) {
            point[axis] = (value * sign) as f32;
        }
    }
    Ok(Pca { points, explained })
}

/// Rows less their mean, in f64, of which there is never more than a tile at a time.
pub(super) struct Centred {
    rows: Tensor,
    mean: Tensor,
}

impl Centred {
    pub(super) fn new(rows: &Tensor) -> Self {
        let rows = rows.detach().to_device(Device::Cpu);
        let mean = rows.mean_dim(0, true, Kind::Double);
        Self { rows, mean }
    }

    /// Some of the rows.
    pub(super) fn tile(&self, first: i64, count: i64) -> Tensor {
        self.rows.narrow(0, first, count).to_kind(Kind::Double) - &self.mean
    }

    /// The rows at some places.
    pub(super) fn at(&self, places: &Tensor) -> Tensor {
        self.rows.index_select(0, places).to_kind(Kind::Double) - &self.mean
    }

    /// All of the rows in turn.
    pub(super) fn tiles(&self, mut visit: impl FnMut(Tensor)) {
        let count = self.rows.size()[0];
        for first in (0..count).step_by(TILE as usize) {
            visit(self.tile(first, TILE.min(count - first)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[f32], dimensions: i64) -> Tensor {
        Tensor::from_slice(values).view([-1, dimensions])
    }

    #[test]
    fn a_tilted_ellipse_is_turned_upright() {
        // Along (3, 4) / 5 with lengths −2, −1, 0, 1, 2 and across it ±0.1, around (10, 20).
        let mut values = Vec::new();
        for at in [-2.0f32, -1.0, 0.0, 1.0, 2.5] {
            for across in [-0.1f32, 0.1] {
                values.extend([10.0 + 0.6 * at - 0.8 * across, 20.0 + 0.8 * at + 0.6 * across]);
            }
        }
        let found = pca(&rows(&values, 2)).unwrap();
        for (row, [along, across]) in found.points.iter().enumerate() {
            let expected = [-2.0, -1.0, 0.0, 1.0, 2.5][row / 2] - 0.1;
            assert!((along - expected).abs() < 1e-4, "{row}: {along}");
            assert!((across.abs() - 0.1).abs() < 1e-4, "{row}: {across}");
        }
        assert!(
            found.explained[0] > 0.99 && (found.explained.iter().sum::<f64>() - 1.0).abs() < 1e-6
        );
    }

    #[test]
    fn both_matrices_give_the_same() {
        let values: Vec<f32> =
            (0..60u8).map(|at| (f32::from(at) * 1.7).sin() * f32::from(at % 7)).collect();
        let wide = rows(&values, 12);
        // A thirteenth to twenty-fourth dimension of zeros changes nothing, but the shape of the covariance.
        let tall = rows(&values, 5);
        let padded = Tensor::cat(
            &[tall.shallow_clone(), Tensor::zeros([12, 20], (Kind::Float, Device::Cpu))],
            1,
        );
        let close = |a: &Pca, b: &Pca| {
            for (a, b) in a.points.iter().zip(&b.points) {
                assert!((a[0] - b[0]).abs() < 1e-4 && (a[1] - b[1]).abs() < 1e-4, "{a:?} {b:?}");
            }
            assert!((a.explained[0] - b.explained[0]).abs() < 1e-9);
        };
        close(&pca(&tall).unwrap(), &pca(&padded).unwrap());
        assert_eq!(pca(&wide).unwrap().points.len(), 5);
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        let fails = |rows: &Tensor| pca(rows).unwrap_err();
        assert!(matches!(fails(&rows(&[1.0, 2.0], 2)), Error::Data(_)));
        assert!(matches!(fails(&rows(&[1.0, f32::NAN, 2.0, 3.0], 2)), Error::NonFinite(_)));
        assert!(matches!(fails(&rows(&[0.3; 60], 6)), Error::Collapsed(_)));
        assert!(matches!(fails(&Tensor::from_slice(&[1.0f32, 2.0])), Error::Shape(_)));
        let line = pca(&rows(&[1.0, 5.0, 2.0], 1)).unwrap();
        assert!(line.points.iter().all(|point| point[1] == 0.0), "{line:?}");
        assert!((line.explained[0] - 1.0).abs() < 1e-12 && line.explained[1] == 0.0, "{line:?}");
    }
}
