//! What `OpenCV` and scikit-learn found, made by `tests/golden/parts.py`.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tch::{Kind, Tensor};

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub(super) fn arrays() -> BTreeMap<String, Tensor> {
    Tensor::read_safetensors(file("parts.safetensors")).unwrap().into_iter().collect()
}

pub(super) fn numbers() -> Value {
    serde_json::from_slice(&std::fs::read(file("parts.json")).unwrap()).unwrap()
}

pub(super) fn bytes(array: &Tensor) -> Vec<u8> {
    Vec::try_from(array.to_kind(Kind::Uint8).reshape([-1])).unwrap()
}
