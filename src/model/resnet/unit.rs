//! A convolution with its batch norm: what everything in a residual network is made of.

use crate::model::layers::{Affine, BatchNorm, Convolution, Geometry, Initialization};
use crate::model::{Phase, Place};
use tch::Tensor;

#[derive(Debug)]
pub(super) struct Unit {
    convolution: Convolution,
    norm: BatchNorm,
}

impl Unit {
    /// `names` are those of the convolution and of the batch norm; `scale` is where the batch norm's gamma starts.
    pub(super) fn build(
        place: &mut Place<'_>,
        names: [&str; 2],
        geometry: Geometry,
        start: Initialization,
        scale: f64,
    ) -> Self {
        let [convolution, norm] = names;
        Self {
            convolution: Convolution::build(&mut place.at(convolution), geometry, start),
            norm: BatchNorm::build(&mut place.at(norm), geometry.outputs, Affine::Full, scale),
        }
    }

    /// `[N,C,h,w]` to `[N,C',h',w']`, a new tensor whose backward does not need it: safe to change in place.
    pub(super) fn forward(&self, x: &Tensor, phase: Phase) -> Tensor {
        self.norm.forward(&self.convolution.forward(x), phase)
    }
}
