//! Rows of a matrix: their length, their products, and what they are computed in.

use tch::{Kind, Tensor};

/// Rows shorter than this are divided by it instead of by their length.
pub const SHORTEST: f64 = 1e-12;

/// What a loss of such rows is computed in: f64 for f64, else f32.
pub fn computing_kind(rows: &Tensor) -> Kind {
    if rows.kind() == Kind::Double { Kind::Double } else { Kind::Float }
}

/// As f64 if it is f64, else as f32.
pub fn in_full(tensor: &Tensor) -> Tensor {
    tensor.to_kind(computing_kind(tensor))
}

/// Rows of length 1, `z / max(‖z‖, 1e-12)`, along the last dimension; f32, or f64 for f64 input, with a graph where `rows`
/// have one. A row of zeros stays zero and its gradient is finite.
pub fn unit_rows(rows: &Tensor) -> Tensor {
    let rows = in_full(rows);
    // Clamped before the root, whose slope at 0 is infinite.
    let shortest = SHORTEST * SHORTEST;
    &rows / rows.square().sum_dim_intlist(-1, true, None).clamp_min(shortest).sqrt()
}

/// Inner product of each row with its counterpart, `[M, d]` and `[M, d]` to `[M, 1]`.
pub fn row_dot(left: &Tensor, right: &Tensor) -> Tensor {
    (left * right).sum_dim_intlist(-1, true, None)
}

/// Sum over all elements, accumulated in f64.
pub fn sum(tensor: &Tensor) -> f64 {
    tensor.sum(Kind::Double).double_value(&[])
}
