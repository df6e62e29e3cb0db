//! Rows in host memory, in the form in which they are clustered.

use super::products::{LANES, Lanes, products};
use crate::error::{Error, Result};
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

/// Rows that are worked on together; what depends on it is the order of sums alone, and nothing depends on threads.
pub(super) const BLOCK: usize = 256;

/// Rows `[n, D]` of f32, each padded with zeros to whole [`Lanes`], with their squared lengths.
#[derive(Clone, Debug)]
pub(super) struct Points {
    pub(super) values: Vec<Lanes>,
    /// Squared length of each row, summed as products are, so that the distance of a row to itself is exactly 0.
    pub(super) squares: Vec<f32>,
    pub(super) dimensions: usize,
    /// Number of [`Lanes`] of a row.
    pub(super) stride: usize,
}

impl Points {
    /// Rows as they are.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `rows` has two dimensions, both above 0; [`Error::NonFinite`] if a value is no number, or
    /// so large that squares overflow.
    pub(super) fn new(rows: &Tensor) -> Result<Self> {
        let (values, dimensions) = host(rows)?;
        Self::made(&values, dimensions)
    }

    /// Rows less their mean, and the mean `[D]`. Distances stay, and are the more exact the shorter the rows.
    ///
    /// # Errors
    /// As [`Points::new`].
    pub(super) fn centred(rows: &Tensor) -> Result<(Self, Vec<f64>)> {
        let (mut values, dimensions) = host(rows)?;
        let sums: Vec<Vec<f64>> = values
            .par_chunks(BLOCK * dimensions)
            .map(|block| {
                let mut sum = vec![0.0; dimensions];
                for row in block.chunks(dimensions) {
                    for (sum, value) in sum.iter_mut().zip(row) {
                        *sum += f64::from(*value);
                    }
                }
                sum
            })
            .collect();
        let mut mean = vec![0.0; dimensions];
        for sum in &sums {
            for (mean, sum) in mean.iter_mut().zip(sum) {
                *mean += sum;
            }
        }
        let count = (values.len() / dimensions) as f64;
        for mean in &mut mean {
            *mean /= count;
        }
        values.par_chunks_mut(dimensions).for_each(|row| {
            for (value, mean) in row.iter_mut().zip(&mean) {
                *value = (f64::from(*value) - mean) as f32;
            }
        });
        Ok((Self::made(&values, dimensions)?, mean))
    }

    /// Rows divided by their length; a row of zeros stays.
    ///
    /// # Errors
    /// As [`Points::new`].
    pub(super) fn unit(rows: &Tensor) -> Result<Self> {
        let (mut values, dimensions) = host(rows)?;
        values.par_chunks_mut(dimensions).for_each(|row| {
            let square: f64 = row.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
            let length = square.sqrt().max(crate::rows::SHORTEST);
            for value in row {
                *value = (f64::from(*value) / length) as f32;
            }
        });
        Self::made(&values, dimensions)
    }

    fn made(values: &[f32], dimensions: usize) -> Result<Self> {
        let stride = dimensions.div_ceil(LANES);
        let values = padded(values, dimensions);
        let mut squares = vec![0.0; values.len() / stride];
        squares.par_iter_mut().zip(values.par_chunks(stride)).for_each(|(square, row)| {
            products(row, &[0], row, stride, std::slice::from_mut(square));
        });
        // A distance is at most twice as long as the longest row.
        if !squares.iter().all(|square| *square < f32::MAX / 8.0) {
            return Err(Error::NonFinite(
                "the rows to cluster hold values that are infinite, not a number or above 1e18: \
                 the network diverged or its weights are damaged"
                    .to_owned(),
            ));
        }
        Ok(Self { values, squares, dimensions, stride })
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.squares.len()
    }

    /// One row.
    pub(super) fn row(&self, row: usize) -> &[Lanes] {
        &self.values[row * self.stride..(row + 1) * self.stride]
    }

    /// Some of the rows, in this order.
    pub(super) fn select(&self, rows: &[u32]) -> Self {
        let values = rows.iter().flat_map(|row| self.row(*row as usize)).copied().collect();
        let squares = rows.iter().map(|row| self.squares[*row as usize]).collect();
        Self { values, squares, ..*self }
    }

    /// Sum over all rows of the squared distance to the centre of their label.
    pub(super) fn inertia(&self, labels: &[u32], centres: &[Lanes]) -> f64 {
        let blocks = self.distances(labels, centres);
        blocks.chunks(BLOCK).map(|block| block.iter().map(|d| f64::from(*d)).sum::<f64>()).sum()
    }

    /// Squared distance of each row to the centre of its label.
    pub(super) fn distances(&self, labels: &[u32], centres: &[Lanes]) -> Vec<f32> {
        let mut distances = vec![0.0; self.len()];
        distances.par_chunks_mut(BLOCK).zip(labels.par_chunks(BLOCK)).enumerate().for_each(
            |(block, (out, labels))| {
                let first = block * BLOCK;
                super::products::own_distances(
                    &self.values,
                    first,
                    labels,
                    centres,
                    self.stride,
                    out,
                );
            },
        );
        distances
    }
}

/// Rows of `dimensions` values, each filled up with zeros to whole [`Lanes`].
pub(super) fn padded(values: &[f32], dimensions: usize) -> Vec<Lanes> {
    let stride = dimensions.div_ceil(LANES);
    let mut padded = vec![[0.0; LANES]; values.len() / dimensions * stride];
    padded.par_chunks_mut(stride).zip(values.par_chunks(dimensions)).for_each(|(row, values)| {
        row.as_flattened_mut()[..dimensions].copy_from_slice(values);
    });
    padded
}

/// Centres without their padding, moved by `offset`: f32 `[k, D]`, row by row.
pub(super) fn unpadded(centres: &[Lanes], dimensions: usize, offset: &[f64]) -> Vec<f32> {
    let stride = dimensions.div_ceil(LANES);
    let rows = centres.chunks(stride).flat_map(|row| &row.as_flattened()[..dimensions]);
    rows.zip(offset.iter().cycle()).map(|(c, offset)| (f64::from(*c) + offset) as f32).collect()
}

/// Values in host memory and the number of dimensions.
fn host(rows: &Tensor) -> Result<(Vec<f32>, usize)> {
    super::check_shape(rows)?;
    let rows = rows.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let mut values = vec![0.0; rows.numel()];
    rows.copy_data(&mut values, rows.numel());
    Ok((values, rows.size()[1] as usize))
}
