//! Residual blocks, basic and bottleneck.

use super::plan::{AveragePool, BlockPlan, LayerPlan, ShortcutPlan};
use super::selective_kernel::SelectiveKernel;
use super::unit::Unit;
use crate::model::layers::Initialization;
use crate::model::{Phase, Place};
use tch::Tensor;

/// `ReLU(branch(x) + shortcut(x))`. Tensors: `conv1`, `bn1`, … of the branch, `sk` for a selective kernel, and
/// `downsample`.
#[derive(Debug)]
pub(super) struct Block {
    branch: Vec<Layer>,
    last: Unit,
    shortcut: Option<Shortcut>,
}

/// A layer that gives a map behind a `ReLU`.
#[derive(Debug)]
enum Layer {
    Convolution(Unit),
    SelectiveKernel(SelectiveKernel),
}

impl Block {
    /// `last_scale` is where the gamma of the branch's last batch norm starts.
    pub(super) fn build(
        place: &mut Place<'_>,
        plan: &BlockPlan,
        start: Initialization,
        last_scale: f64,
    ) -> Self {
        let unit = |place: &mut Place<'_>, number: usize, geometry, scale| {
            let names = [format!("conv{number}"), format!("bn{number}")];
            Unit::build(place, names.each_ref().map(String::as_str), geometry, start, scale)
        };
        let branch = (1..)
            .zip(&plan.branch)
            .map(|(number, layer)| match layer {
                LayerPlan::Convolution(geometry) => {
                    Layer::Convolution(unit(place, number, *geometry, 1.0))
                }
                LayerPlan::SelectiveKernel(plan) => {
                    Layer::SelectiveKernel(SelectiveKernel::build(place, plan, start))
                }
            })
            .collect();
        let last = unit(place, plan.branch.len() + 1, plan.last, last_scale);
        let shortcut = plan.shortcut.map(|plan| Shortcut::build(place, &plan, start));
        Self { branch, last, shortcut }
    }

    /// `[N,C,h,w]` to `[N,C',h',w']`, not below 0. The result of a batch norm is not needed by its backward, so the
    /// `ReLU` and the sum may overwrite it.
    pub(super) fn forward(&self, x: &Tensor, phase: Phase) -> Tensor {
        let mut y = x.shallow_clone();
        for layer in &self.branch {
            y = match layer {
                Layer::Convolution(unit) => unit.forward(&y, phase).relu_(),
                Layer::SelectiveKernel(kernel) => kernel.forward(&y, phase),
            };
        }
        y = self.last.forward(&y, phase);
        match &self.shortcut {
            Some(shortcut) => y += shortcut.forward(x, phase),
            None => y += x,
        }
        y.relu_()
    }
}

/// Brings the input of a block to the shape of its output. Tensors: `downsample.0`, `downsample.1`; in networks that
/// pool, as in timm, `downsample.1`, `downsample.2`.
#[derive(Debug)]
struct Shortcut {
    pool: AveragePool,
    unit: Unit,
}

impl Shortcut {
    fn build(place: &mut Place<'_>, plan: &ShortcutPlan, start: Initialization) -> Self {
        let mut place = place.at("downsample");
        let unit = Unit::build(&mut place, plan.names(), plan.convolution, start, 1.0);
        Self { pool: plan.pool, unit }
    }

    fn forward(&self, x: &Tensor, phase: Phase) -> Tensor {
        // Windows that hang over the edge: `ceil_mode` lets them, without `divisor` only real pixels count.
        let halve =
            |divisor: Option<i64>| x.avg_pool2d([2, 2], [2, 2], [0, 0], true, false, divisor);
        let pooled = match self.pool {
            AveragePool::Absent | AveragePool::Skipped => x.shallow_clone(),
            AveragePool::OverPixels => halve(None),
            AveragePool::OverZeros => halve(Some(4)),
            // Padded on all sides, then without the windows that only one-sided padding does not have.
            AveragePool::Same | AveragePool::SameOverZeros => {
                let (height, width) = (x.size()[2], x.size()[3]);
                let zeros = self.pool == AveragePool::SameOverZeros;
                x.avg_pool2d([2, 2], [1, 1], [1, 1], false, zeros, None)
                    .narrow(2, 1, height)
                    .narrow(3, 1, width)
            }
        };
        self.unit.forward(&pooled, phase)
    }
}
