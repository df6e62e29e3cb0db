//! What is written under a name.

use safetensors::tensor::{Dtype, View};
use std::borrow::Cow;
use tch::{Kind, Tensor};

/// A tensor under the name it gets.
#[derive(Debug)]
pub(super) struct Item<'a> {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) value: Value<'a>,
}

#[derive(Debug)]
pub(super) enum Value<'a> {
    /// Numbers, written as f32.
    Floats(&'a Tensor),
    /// PyTorch's count of the batches a norm has seen, an i64 `[]`; it changes nothing and is 0.
    Counter,
}

impl<'a> Item<'a> {
    pub(super) fn floats(name: String, tensor: &'a Tensor) -> Self {
        let shape = tensor.size().into_iter().map(|side| side as usize).collect();
        Self { name, shape, value: Value::Floats(tensor) }
    }

    pub(super) fn counter(name: String) -> Self {
        Self { name, shape: Vec::new(), value: Value::Counter }
    }

    /// Number of values.
    pub(super) fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its bytes, row by row, lowest first; made anew at every call, so that one tensor is held at a time.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match &self.value {
            Value::Floats(tensor) => bytes(tensor),
            Value::Counter => vec![0; 8],
        }
    }
}

/// f32, row by row, lowest byte first.
pub(super) fn bytes(tensor: &Tensor) -> Vec<u8> {
    let tensor = tensor.detach().to_kind(Kind::Float).contiguous();
    let mut bytes = vec![0; 4 * tensor.numel()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

impl View for &Item<'_> {
    fn dtype(&self) -> Dtype {
        match self.value {
            Value::Floats(_) => Dtype::F32,
            Value::Counter => Dtype::I64,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bytes().into()
    }

    fn data_len(&self) -> usize {
        match self.value {
            Value::Floats(_) => 4 * self.count(),
            Value::Counter => 8,
        }
    }
}
