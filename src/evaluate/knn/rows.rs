//! Rows in host memory, and what a matrix product takes of them.

use super::exact::square;
use super::search::Distance;
use crate::error::{Error, Result};
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

/// Which operand of a product.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Side {
    Query,
    Reference,
}

/// Rows in host memory as they are, and their lengths.
#[derive(Debug)]
pub(super) struct Rows {
    values: Vec<f32>,
    /// At least 1e-12.
    pub(super) norms: Vec<f64>,
    pub(super) dimensions: usize,
}

impl Rows {
    pub(super) fn new(side: &str, rows: &Tensor) -> Result<Self> {
        let (len, dimensions) = (rows.size()[0] as usize, rows.size()[1] as usize);
        if dimensions == 0 {
            return Err(Error::Shape(format!("{side} features have no dimensions")));
        }
        let mut values = vec![0.0; len * dimensions];
        let rows = rows.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
        rows.copy_data(&mut values, len * dimensions);
        let norms: Vec<f64> =
            values.par_chunks(dimensions).map(|row| square(row).sqrt().max(1e-12)).collect();
        if !values.par_iter().all(|value| value.is_finite()) {
            return Err(Error::NonFinite(format!(
                "the {side} features hold values that are infinite or not a number: the network \
                 diverged or its weights are damaged"
            )));
        }
        Ok(Self { values, norms, dimensions })
    }

    pub(super) fn len(&self) -> usize {
        self.norms.len()
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.dimensions..(row + 1) * self.dimensions]
    }

    pub(super) fn mean(&self) -> Vec<f32> {
        let mut sums = vec![0.0f64; self.dimensions];
        for row in self.values.chunks(self.dimensions) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        sums.iter().map(|sum| (sum / self.len().max(1) as f64) as f32).collect()
    }

    /// `count` rows from `first` on, as what a matrix product takes so that the nearest reference has the largest key:
    /// unit rows for cosine; for Euclidean rows less a centre with one more column, since
    /// `q·r − ‖r‖²/2 = (‖q‖² − ‖q − r‖²) / 2`.
    pub(super) fn operand(
        &self,
        distance: Distance,
        side: Side,
        first: usize,
        count: usize,
        centre: &[f32],
    ) -> Result<Tensor> {
        let width = self.dimensions + usize::from(distance == Distance::Euclidean);
        let mut values = vec![0.0f32; count * width];
        values.par_chunks_mut(width).enumerate().for_each(|(row, out)| {
            let (norm, row) = (self.norms[first + row], self.row(first + row));
            match distance {
                Distance::Cosine => {
                    for (out, value) in out.iter_mut().zip(row) {
                        *out = (f64::from(*value) / norm) as f32;
                    }
                }
                Distance::Euclidean => {
                    let (last, out) = out.split_last_mut().expect("one more than dimensions");
                    for (out, (value, centre)) in out.iter_mut().zip(row.iter().zip(centre)) {
                        *out = value - centre;
                    }
                    let half = -0.5 * square(out);
                    *last = if side == Side::Query { 1.0 } else { half as f32 };
                }
            }
        });
        // Only lengths beyond f32 can overflow what was finite.
        if distance == Distance::Euclidean && values.par_iter().any(|value| !value.is_finite()) {
            return Err(Error::NonFinite(
                "features are too large for Euclidean distances (lengths beyond 1e19)".to_owned(),
            ));
        }
        Ok(Tensor::from_slice(&values).view([count as i64, width as i64]))
    }
}
