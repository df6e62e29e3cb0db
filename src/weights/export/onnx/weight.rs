//! The numbers of a graph: those of the model, or worked out of them, one tensor at a time.

use crate::weights::export::item;
use tch::{Kind, Tensor, no_grad};

/// Epsilon of every batch norm.
pub(super) const EPSILON: f64 = 1e-5;

/// An initializer of the graph.
#[derive(Debug)]
pub(super) struct Weight<'a> {
    pub(super) name: String,
    pub(super) shape: Vec<i64>,
    pub(super) value: Value<'a>,
}

#[derive(Debug)]
pub(super) enum Value<'a> {
    /// As it is.
    Plain(&'a Tensor),
    /// Rows brought to length 1.
    UnitRows(&'a Tensor),
    /// W · γ / √(v + ε), along the first dimension.
    FoldedWeight(&'a Tensor, Norm<'a>),
    /// β + (b − μ) · γ / √(v + ε).
    FoldedBias(Option<&'a Tensor>, Norm<'a>),
    /// The same number everywhere.
    Filled(f32),
    /// Whole numbers, as i64.
    Integers(Vec<i64>),
}

/// A batch norm; what it does not learn is 1 and 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm<'a> {
    pub(super) scale: Option<&'a Tensor>,
    pub(super) shift: Option<&'a Tensor>,
    pub(super) mean: &'a Tensor,
    pub(super) variance: &'a Tensor,
}

impl Norm<'_> {
    /// γ / √(v + ε), f64.
    fn factor(&self) -> Tensor {
        let root = (self.variance.to_kind(Kind::Double) + EPSILON).sqrt();
        match self.scale {
            Some(scale) => scale.to_kind(Kind::Double) / root,
            None => root.reciprocal(),
        }
    }
}

impl Weight<'_> {
    /// ONNX's number for its type: f32 or i64.
    pub(super) fn data_type(&self) -> i32 {
        if matches!(self.value, Value::Integers(_)) { 7 } else { 1 }
    }

    /// Bytes it takes.
    pub(super) fn size(&self) -> u64 {
        let item = if self.data_type() == 7 { 8 } else { 4 };
        self.shape.iter().product::<i64>() as u64 * item
    }

    /// Its bytes, row by row, lowest first.
    pub(super) fn bytes(&self) -> Vec<u8> {
        no_grad(|| match &self.value {
            Value::Plain(tensor) => item::bytes(tensor),
            Value::UnitRows(tensor) => item::bytes(&crate::rows::unit_rows(tensor)),
            Value::FoldedWeight(tensor, norm) => {
                let mut shape = vec![1; tensor.dim()];
                shape[0] = -1;
                item::bytes(&(tensor.to_kind(Kind::Double) * norm.factor().view(shape.as_slice())))
            }
            Value::FoldedBias(bias, norm) => {
                let mean = norm.mean.to_kind(Kind::Double);
                let from = match bias {
                    Some(bias) => bias.to_kind(Kind::Double) - mean,
                    None => -mean,
                };
                let moved = from * norm.factor();
                item::bytes(&match norm.shift {
                    Some(shift) => moved + shift.to_kind(Kind::Double),
                    None => moved,
                })
            }
            Value::Filled(value) => {
                value.to_le_bytes().repeat(self.shape.iter().product::<i64>() as usize)
            }
            Value::Integers(values) => {
                values.iter().flat_map(|value| value.to_le_bytes()).collect()
            }
        })
    }
}
