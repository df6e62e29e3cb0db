//! What becomes of the variables of a TensorFlow checkpoint of SimCLR, in words.

use super::flattened;
use crate::cli::table::aligned;
use diptych::weights::simclr_tf::Network;
use serde_json::{Value, json};

/// A line for every tensor of ours: the variable it comes from, its shape, its name.
pub(super) fn table(network: &Network) -> String {
    let head = ["variable", "shape", "becomes"].map(str::to_owned).to_vec();
    let lines = network.tensors.iter().map(|tensor| {
        let shape: Vec<usize> = tensor.shape.iter().map(|size| *size as usize).collect();
        let source = tensor.source.clone().unwrap_or_else(|| "(zeros)".to_owned());
        vec![source, flattened(&shape), tensor.target.clone()]
    });
    aligned(&[head].into_iter().chain(lines).collect::<Vec<_>>(), &[])
}

/// The same for programs.
pub(super) fn rows(network: &Network) -> Vec<Value> {
    let row = |tensor: &diptych::weights::simclr_tf::Mapped| json!({ "name": tensor.source, "becomes": tensor.target, "shape": tensor.shape });
    network.tensors.iter().map(row).collect()
}

/// How many tensors of which part, and what is left.
pub(super) fn summary(network: &Network) -> String {
    let of = |part: &str| network.tensors.iter().filter(|it| it.target.starts_with(part)).count();
    let parts = ["backbone", "projector", "classifier"].map(|part| (part, of(part)));
    let there = parts.iter().filter(|(_, count)| *count > 0);
    let mut told: Vec<String> =
        there.map(|(part, count)| format!("{count} tensors of the {part}")).collect();
    told.extend(network.dropped.iter().map(|(what, count)| format!("{count} left ({what})")));
    told.join(", ")
}
