//! The first layers of a network, from pixels to the first map the blocks work on.

use super::plan::{MaxPool, StemPlan};
use super::unit::Unit;
use crate::model::layers::Initialization;
use crate::model::{Phase, Place};
use tch::Tensor;

/// Tensors: `conv1`, `bn1`; or, with three convolutions, `conv1.0`, `conv1.1` (its batch norm), `conv1.3`, `conv1.4`,
/// `conv1.6`, `bn1`, which are timm's names.
#[derive(Debug)]
pub(super) struct StemLayers {
    units: Vec<Unit>,
    relu: bool,
    pool: Option<MaxPool>,
}

impl StemLayers {
    pub(super) fn build(place: &mut Place<'_>, plan: &StemPlan, start: Initialization) -> Self {
        let units = plan
            .names()
            .iter()
            .zip(&plan.convolutions)
            .map(|(names, geometry)| Unit::build(place, *names, *geometry, start, 1.0))
            .collect();
        Self { units, relu: plan.relu, pool: plan.pool }
    }

    /// Images `[N,3,h,w]` to the first map.
    pub(super) fn forward(&self, images: &Tensor, phase: Phase) -> Tensor {
        let mut x = images.shallow_clone();
        for unit in &self.units {
            x = unit.forward(&x, phase);
            if self.relu {
                x = x.relu_();
            }
        }
        match self.pool {
            None => x,
            Some(MaxPool::AllSides) => x.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false),
            // An even side needs one more pixel, at its end: with `ceil_mode` the last window hangs over there.
            Some(MaxPool::Same) => {
                let size = x.size();
                x.max_pool2d([3, 3], [2, 2], [size[2] % 2, size[3] % 2], [1, 1], true)
            }
        }
    }
}
