//! What becomes of the variables of a TensorFlow checkpoint of SimCLR, in words.

use super::flattened;
use crate::cli::table::aligned;
use diptych::weights::simclr_tf::Network;
use serde_json::{Value, json};

/// A line for every tensor of ours: the variable it comes from, its shape, its name. Then one for every variable that is
/// left.
pub(super) fn table(network: &Network) -> String {
    let head = ["variable", "shape", "becomes"].map(str::to_owned).to_vec();
    let lines = network.tensors.iter().map(|tensor| {
        let shape: Vec<usize> = tensor.shape.iter().map(|size| *size as usize).collect();
        let source = tensor.source.clone().unwrap_or_else(|| "(zeros)".to_owned());
        vec![source, flattened(&shape), tensor.target.clone()]
    });
    let left = network
        .dropped
        .iter()
        .map(|(name, what)| vec![name.clone(), String::new(), format!("(left: {what})")]);
    aligned(&[head].into_iter().chain(lines).chain(left).collect::<Vec<_>>(), &[])
}

/// The same for programs.
pub(super) fn rows(network: &Network) -> Vec<Value> {
    let taken = network.tensors.iter().map(|tensor| {
        json!({
            "name": tensor.source,
            "outcome": "matched",
            "becomes": tensor.target,
            "shape": tensor.shape,
        })
    });
    let left = network.dropped.iter();
    let left =
        left.map(|(name, what)| json!({ "name": name, "outcome": "dropped", "remark": what }));
    taken.chain(left).collect()
}

/// How many tensors of which part, and what is left.
pub(super) fn summary(network: &Network) -> String {
    let of = |part: &str| network.tensors.iter().filter(|it| it.target.starts_with(part)).count();
    let parts = ["backbone", "projector", "classifier"].map(|part| (part, of(part)));
    let there = parts.iter().filter(|(_, count)| *count > 0);
    let mut told: Vec<String> =
        there.map(|(part, count)| format!("{count} tensors of the {part}")).collect();
    if network.classes.is_some() && network.tap > 0 {
        told.push(format!("the classifier behind g{}", network.tap));
    }
    let left = network.dropped_by_kind().into_iter();
    told.extend(left.map(|(what, count)| format!("{count} left ({what})")));
    told.join(", ")
}
