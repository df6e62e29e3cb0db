//! From recorded times and memory to rows with names that people ask for.

use super::Stage;
use diptych_shim::{NAMED, Row};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tch::Device;

/// Version of [`Summary`] as JSON.
const FORMAT: u32 = 1;

/// Where the time and the memory of the counted steps went: `profile.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Version of this form, 1.
    pub format: u32,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Steps counted: all of the process but the first [`super::WARM_UP`].
    pub steps: u64,
    /// Wall time of these steps.
    pub seconds: f64,
    /// Views of the steps in which the weights moved, over that time.
    pub views_per_second: f64,
    /// What took it, longest first; adds up to `seconds`.
    pub time: Vec<TimeRow>,
    /// Who held the memory of libtorch's tensors when the most was held, largest first; empty on a GPU. Scratch that oneDNN
    /// takes for itself is not among it.
    pub memory: Vec<MemoryRow>,
    /// Their sum.
    pub peak_tensor_bytes: u64,
    /// See [`super::flops_per_step`].
    pub flops_per_step: f64,
}

/// One thing that took time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TimeRow {
    /// What.
    pub what: String,
    /// Of all counted steps.
    pub seconds: f64,
    /// Of all the time, in [0, 1].
    pub share: f64,
    /// How often: the stage began, or the most often called operator of the group was called.
    pub calls: u64,
    /// Of `seconds`, those in the backbone's forward pass.
    pub forward: f64,
    /// Of `seconds`, those in the head and the loss.
    pub loss: f64,
    /// Of `seconds`, those in the backbone's backward pass.
    pub backward: f64,
}

/// One holder of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryRow {
    /// Who.
    pub what: String,
    /// How much.
    pub bytes: u64,
}

/// What was done in the counted steps.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) device: Device,
    pub(super) steps: u64,
    pub(super) views: u64,
    pub(super) flops_per_step: f64,
}

impl Summary {
    /// Of the time of every stage with how often it began, and of the operators where there are any.
    pub(super) fn of(stages: &[(Duration, u64)], rows: Option<&[Row]>, work: &Work) -> Self {
        let seconds = stages.iter().map(|(time, _)| time).sum::<Duration>().as_secs_f64();
        let memory = memory(rows.unwrap_or_default());
        Self {
            format: FORMAT,
            device: match work.device {
                Device::Cuda(index) => format!("cuda:{index}"),
                other => format!("{other:?}").to_lowercase(),
            },
            steps: work.steps,
            seconds,
            views_per_second: work.views as f64 / seconds,
            time: times(stages, rows, seconds),
            peak_tensor_bytes: memory.iter().map(|row| row.bytes).sum(),
            memory,
            flops_per_step: work.flops_per_step,
        }
    }
}

/// Kinds of operators.
const CONVOLUTION: &str = "convolution";
const BATCH_NORM: &str = "batch norm";
const RELU: &str = "ReLU";
const ADDITION: &str = "residual addition";
const LINEAR: &str = "linear";
const POOLING: &str = "pooling and mean";
const GRADIENTS: &str = "adding up gradients";
const COPIES: &str = "layout and copies";
const OTHER: &str = "other";

/// The kind of an operator by libtorch's name of it, as [`Row::operator`] has it. A node of the backward pass is of the kind
/// of the operator that it is the backward of.
pub(super) fn kind(operator: &str) -> &'static str {
    let (node, name) = operator.rsplit_once(" > ").unwrap_or(("", operator));
    if node.ends_with("AccumulateGrad") || name.ends_with("AccumulateGrad") {
        return GRADIENTS;
    }
    let name = name.rsplit(':').next().unwrap_or(name).trim_start();
    let name = name.split("Backward").next().unwrap_or(name).to_lowercase();
    let plain = name.trim_end_matches('_');
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    if has(&["conv"]) {
        CONVOLUTION
    } else if has(&["batch_norm", "batchnorm"]) {
        BATCH_NORM
    } else if has(&["relu", "threshold", "clamp_min"]) {
        RELU
    } else if has(&["linear", "matmul"]) || plain.ends_with("mm") {
        LINEAR
    } else if plain == "add" {
        ADDITION
    } else if has(&["pool", "mean"]) || node.starts_with("Mean") {
        POOLING
    } else if LAYOUT.contains(&plain) || has(&MAKES) {
        COPIES
    } else {
        OTHER
    }
}

/// Operators that only look at memory in another way.
const LAYOUT: [&str; 16] = [
    "as_strided",
    "detach",
    "expand",
    "flatten",
    "narrow",
    "permute",
    "reshape",
    "select",
    "slice",
    "split",
    "squeeze",
    "t",
    "to",
    "transpose",
    "unsqueeze",
    "view",
];

/// Parts of the names of operators that take, fill or copy memory.
const MAKES: [&str; 12] = [
    "cat",
    "clone",
    "contiguous",
    "copy",
    "copies",
    "empty",
    "fill",
    "ones",
    "resize",
    "stack",
    "unsafe",
    "zero",
];

/// How a group's row is called: what is not of a network's layers is the loss where it is in it.
fn group(stage: Stage, operator: &str) -> &'static str {
    match kind(operator) {
        ADDITION | POOLING | OTHER if stage == Stage::Loss => "loss arithmetic",
        kind => kind,
    }
}

fn stage_of(row: &Row) -> Option<Stage> {
    Stage::ALL.get(usize::try_from(row.stage).ok()?).copied()
}

/// Rows that add up to `all`; without operators every stage is one.
fn times(stages: &[(Duration, u64)], operators: Option<&[Row]>, all: f64) -> Vec<TimeRow> {
    let mut found: BTreeMap<&str, TimeRow> = BTreeMap::new();
    let mut add = |what: &'static str, stage: Stage, seconds: f64, calls: u64| {
        let row = found.entry(what).or_default();
        row.seconds += seconds;
        row.calls += calls;
        match stage {
            Stage::Forward => row.forward += seconds,
            Stage::Loss => row.loss += seconds,
            Stage::Backward => row.backward += seconds,
            _ => {}
        }
    };
    for (stage, (time, calls)) in Stage::ALL.into_iter().zip(stages) {
        if stage == Stage::Start || (stage == Stage::Probe && *calls == 0) {
            continue;
        }
        let Some(operators) = operators.filter(|_| stage.is_network()) else {
            add(stage.name(), stage, time.as_secs_f64(), *calls);
            continue;
        };
        let mut groups: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
        for row in operators.iter().filter(|row| stage_of(row) == Some(stage)) {
            let (nanoseconds, calls) = groups.entry(group(stage, &row.operator)).or_default();
            *nanoseconds += row.nanoseconds;
            *calls = row.calls.max(*calls);
        }
        let recorded: u64 = groups.values().map(|(nanoseconds, _)| nanoseconds).sum();
        for (what, (nanoseconds, calls)) in groups {
            add(what, stage, nanoseconds as f64 * 1e-9, calls);
        }
        // Between operators: the graph, and our own code.
        add(OTHER, stage, time.as_secs_f64() - recorded as f64 * 1e-9, 0);
    }
    let mut rows: Vec<TimeRow> = found
        .into_iter()
        .map(|(what, row)| TimeRow { what: what.to_owned(), share: row.seconds / all, ..row })
        .collect();
    rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    rows
}

fn memory(rows: &[Row]) -> Vec<MemoryRow> {
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.bytes_at_peak > 0) {
        *found.entry(holder(row)).or_default() += row.bytes_at_peak;
    }
    let rows = found.into_iter().map(|(what, bytes)| MemoryRow { what, bytes });
    let mut rows: Vec<MemoryRow> = rows.collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    rows
}

/// Who holds the memory that an operator took.
fn holder(row: &Row) -> String {
    if row.stage == NAMED {
        return row.operator.clone();
    }
    match stage_of(row) {
        Some(Stage::Start) => "made before the first step".to_owned(),
        Some(Stage::Views | Stage::Normalize) => "views".to_owned(),
        Some(Stage::Forward) => match kind(&row.operator) {
            COPIES => "copies in the forward pass".to_owned(),
            OTHER => "other in the forward pass".to_owned(),
            kind => format!("{kind} outputs"),
        },
        Some(Stage::Loss) => "head and loss".to_owned(),
        Some(Stage::Backward) => "gradients of maps".to_owned(),
        _ => OTHER.to_owned(),
    }
}
