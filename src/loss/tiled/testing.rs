//! What the tests of contrastive losses share.

use crate::random::{Purpose, Scope, Stream};
use std::collections::HashMap;
use tch::{Kind, Tensor};

/// Standard normal numbers `[rows, width]`, f64; each item has its own.
pub(crate) fn normal(item: u64, rows: i64, width: i64) -> Tensor {
    let mut stream = Stream::open(5, Purpose::Test, Scope::Item(item));
    let values: Vec<f64> = (0..rows * width).map(|_| stream.normal()).collect();
    Tensor::from_slice(&values).view([rows, width])
}

pub(crate) fn rows_of(tensor: &Tensor) -> Vec<Vec<f64>> {
    Vec::<Vec<f64>>::try_from(tensor.to_kind(Kind::Double)).unwrap()
}

pub(crate) fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

/// Rows divided by their length.
pub(crate) fn unit_rows_of(tensor: &Tensor) -> Vec<Vec<f64>> {
    let scaled = |row: Vec<f64>| {
        let length = dot(&row, &row).sqrt();
        row.iter().map(|value| value / length).collect()
    };
    rows_of(tensor).into_iter().map(scaled).collect()
}

/// ln Σ exp, the largest taken out.
pub(crate) fn log_sum_exp(logits: &[f64]) -> f64 {
    let largest = logits.iter().copied().fold(f64::MIN, f64::max);
    largest + logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln()
}

pub(crate) fn distance(left: &Tensor, right: &Tensor) -> f64 {
    assert_eq!(left.size(), right.size());
    (left.to_kind(Kind::Double) - right.to_kind(Kind::Double)).abs().max().double_value(&[])
}

pub(crate) fn value(tensor: &Tensor) -> f64 {
    tensor.double_value(&[])
}

/// A loss and its gradient for `input`.
pub(crate) fn graded(input: &Tensor, loss: impl Fn(&Tensor) -> Tensor) -> (f64, Tensor) {
    let leaf = input.detach().copy().set_requires_grad(true);
    let loss = loss(&leaf);
    loss.backward();
    (value(&loss), leaf.grad())
}

/// The slope of a function of a matrix by central differences.
pub(crate) fn slope(input: &Tensor, function: impl Fn(&Tensor) -> f64) -> Tensor {
    let step = 1e-6;
    let slopes: Vec<f64> = (0..input.numel() as i64)
        .map(|at| {
            let moved = |by: f64| {
                let moved = input.detach().copy();
                let _ = moved.view(-1).get(at).g_add_scalar_(by);
                function(&moved)
            };
            (moved(step) - moved(-step)) / (2.0 * step)
        })
        .collect();
    Tensor::from_slice(&slopes).view(input.size().as_slice())
}

/// The arrays of `tests/golden/<name>.safetensors`.
pub(crate) fn golden(name: &str) -> HashMap<String, Tensor> {
    let path = format!("{}/tests/golden/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    Tensor::read_safetensors(path).unwrap().into_iter().collect()
}

/// Loss and gradient equal the arrays of a name, both in f32.
pub(crate) fn equals_golden(arrays: &HashMap<String, Tensor>, name: &str, found: &(f64, Tensor)) {
    let loss = value(&arrays[&format!("{name}.loss")]);
    assert!((found.0 - loss).abs() < 1e-5 * loss.abs().max(1.0), "{} against {loss}", found.0);
    let gradient = &arrays[&format!("{name}.gradient")];
    let largest = value(&gradient.abs().max());
    let off = distance(&found.1, gradient);
    assert!(off < 1e-5 * largest, "{name}: gradient off by {off} of {largest}");
}
