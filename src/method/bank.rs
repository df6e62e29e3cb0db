//! A memory bank: one row for every image of the data set (Wu et al. 2018, arXiv:1805.01978, §3.3).

use crate::model::{Place, Role};
use crate::random::Stream;
use crate::rows::unit_rows;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tch::{Tensor, no_grad};

/// Where the rows of a bank start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BankStart {
    /// Every entry uniform in ±1/√(d/3), so that rows have length 1 on average (the official code).
    #[default]
    Uniform,
    /// Random unit rows (`PyContrast`).
    Unit,
}

/// A row for every image, `[n, d]`, each replaced when its image is seen.
#[derive(Debug)]
pub struct Bank {
    rows: Tensor,
}

impl Bank {
    /// A bank for `images` images.
    pub fn build(place: &mut Place<'_>, images: usize, d: i64, start: BankStart) -> Self {
        let reach = 1.0 / (d as f64 / 3.0).sqrt();
        let value = |stream: &mut Stream| match start {
            BankStart::Uniform => stream.range(-reach, reach),
            BankStart::Unit => stream.normal(),
        };
        let rows = place.add("rows", Role::State, &[images as i64, d], value);
        if start == BankStart::Unit {
            no_grad(|| rows.shallow_clone().copy_(&unit_rows(&rows)));
        }
        Self { rows }
    }

    /// All rows, `[n, d]`.
    pub fn rows(&self) -> &Tensor {
        &self.rows
    }

    /// `M[i] ← unit(m·M[i] + (1 − m)·v)` for the unit features v `[N, d]` of these images. Of an image that comes twice
    /// (it stands in for a damaged one) the last row counts.
    pub fn update(&self, images: &[usize], features: &Tensor, momentum: f64) {
        let last: BTreeMap<usize, i64> =
            images.iter().enumerate().map(|(row, image)| (*image, row as i64)).collect();
        let device = self.rows.device();
        let places: Vec<i64> = last.keys().map(|image| *image as i64).collect();
        let rows: Vec<i64> = last.into_values().collect();
        let (places, rows) = (Tensor::from_slice(&places), Tensor::from_slice(&rows));
        let (places, rows) = (places.to_device(device), rows.to_device(device));
        no_grad(|| {
            let features = features.detach().to_kind(self.rows.kind()).index_select(0, &rows);
            let mixed = self.rows.index_select(0, &places) * momentum + features * (1.0 - momentum);
            let _ = self.rows.shallow_clone().index_copy_(0, &places, &unit_rows(&mixed));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Parameters;
    use tch::{Device, Kind};

    #[test]
    fn rows_start_as_published() {
        for (start, tolerance) in [(BankStart::Uniform, 0.5), (BankStart::Unit, 1e-6)] {
            let mut parameters = Parameters::new(0, Device::Cpu, Kind::Float);
            let bank = Bank::build(&mut parameters.root().at("bank"), 300, 128, start);
            let length = bank.rows().square().sum_dim_intlist(1, false, Kind::Float);
            assert!((length.mean(None).double_value(&[]) - 1.0).abs() < 0.01);
            assert!((length - 1.0).abs().max().double_value(&[]) < tolerance);
            let most = bank.rows().abs().max().double_value(&[]);
            let bound = 1.0 / (128.0f64 / 3.0).sqrt();
            assert_eq!(start == BankStart::Uniform, most <= bound, "{most}");
            assert_eq!(parameters.count(), 0);
        }
    }

    #[test]
    fn an_image_moves_its_own_row_and_the_last_of_two_counts() {
        let mut parameters = Parameters::new(0, Device::Cpu, Kind::Double);
        let bank = Bank::build(&mut parameters.root().at("bank"), 4, 2, BankStart::Uniform);
        let start = Tensor::from_slice(&[1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.6, 0.8]).view([4, 2]);
        bank.rows().shallow_clone().copy_(&start);
        let features = Tensor::from_slice(&[1.0, 0.0, 0.0, 1.0, 0.0, -1.0]).view([3, 2]);
        bank.update(&[2, 0, 2], &features, 0.25);
        // 0: (1,0)/4 + 3(0,1)/4; 2: (-1,0)/4 + 3(0,-1)/4.
        let length = (1.0f64 + 9.0).sqrt();
        let expected =
            [1.0 / length, 3.0 / length, 0.0, 1.0, -1.0 / length, -3.0 / length, 0.6, 0.8];
        let found: Vec<f64> = Vec::try_from(bank.rows().flatten(0, -1)).unwrap();
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
    }
}
