//! What the tests of losses without negatives hold them to: arrays of other programs, and finite differences.

use crate::random::{Purpose, Scope, Stream};
use std::collections::HashMap;
use tch::{Kind, Tensor};

/// The arrays of `tests/golden/without_negatives.py`.
pub(super) fn golden() -> HashMap<String, Tensor> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/without_negatives.safetensors");
    Tensor::read_safetensors(path).unwrap().into_iter().collect()
}

/// Standard normal numbers in f64.
pub(super) fn normal(seed: u64, shape: &[i64]) -> Tensor {
    let mut stream = Stream::open(seed, Purpose::Test, Scope::Item(0));
    let values: Vec<f64> = (0..shape.iter().product()).map(|_: i64| stream.normal()).collect();
    Tensor::from_slice(&values).view(shape)
}

/// A copy that asks for a gradient.
pub(super) fn leaf(tensor: &Tensor) -> Tensor {
    tensor.detach().copy().set_requires_grad(true)
}

/// Largest difference of two tensors of one shape.
pub(super) fn distance(left: &Tensor, right: &Tensor) -> f64 {
    assert_eq!(left.size(), right.size());
    (left.to_kind(Kind::Double) - right.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// Slopes of `loss` along every element of `inputs[index]`, by central differences.
pub(super) fn slopes(
    inputs: &[Tensor],
    index: usize,
    loss: impl Fn(&[Tensor]) -> Tensor,
) -> Tensor {
    const STEP: f64 = 1e-5;
    let shape = inputs[index].size();
    let moved = |element: i64, by: f64| {
        let inputs: Vec<Tensor> = inputs.iter().map(|input| input.detach().copy()).collect();
        let _ = inputs[index].view(-1).get(element).g_add_scalar_(by);
        loss(&inputs).double_value(&[])
    };
    let slope = |element| (moved(element, STEP) - moved(element, -STEP)) / (2.0 * STEP);
    let slopes: Vec<f64> = (0..shape.iter().product()).map(slope).collect();
    Tensor::from_slice(&slopes).view(shape.as_slice())
}
