//! Where the time and the memory of a step go: `diptych pretrain --profile`.
//!
//! The loop says which stage begins ([`enter`]), so the times of the stages add up to the wall time, whatever happens in
//! them. On a CPU, libtorch tells the recorder of the shim of every operator and of every block of memory; within the
//! forward pass, the loss and the backward pass the operators are then grouped into what a person asks for. On a GPU
//! operators only begin on this thread, so there are stages alone, with the device synchronised at each change.

use super::Trained;
use super::probe::Probe;
use super::step::Layout;
use crate::model::BackboneConfig;
use diptych_shim::{NAMED, Recorder, Row};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tch::{Cuda, Device, Tensor};

/// Steps at the start of a process that are not counted: in them memory is taken that later steps reuse, and kernels are
/// compiled.
pub const WARM_UP: u64 = 3;

/// Version of [`Summary`] as JSON.
const FORMAT: u32 = 1;

/// What the loop is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// What happens once before the first step; never counted.
    Start,
    /// Waiting for the views of a batch, or making them where the model trains.
    Views,
    /// From bytes to normalised pixels on the device.
    Normalize,
    /// The backbone, from pixels to rows.
    Forward,
    /// The objective: head and loss with their own backward passes.
    Loss,
    /// The backbone's backward pass.
    Backward,
    /// Clearing the gradients, and moving the weights.
    Optimizer,
    /// The online linear classifier.
    Probe,
    /// Sentinels, metrics, events, progress bar.
    Metrics,
    /// Writing checkpoints.
    Checkpoint,
    /// k-NN on held-out images.
    Monitor,
    /// The status and the page of the run.
    Report,
}

impl Stage {
    const ALL: [Self; 12] = [
        Self::Start,
        Self::Views,
        Self::Normalize,
        Self::Forward,
        Self::Loss,
        Self::Backward,
        Self::Optimizer,
        Self::Probe,
        Self::Metrics,
        Self::Checkpoint,
        Self::Monitor,
        Self::Report,
    ];

    /// Whether its time is told by groups of operators.
    fn is_network(self) -> bool {
        matches!(self, Self::Forward | Self::Loss | Self::Backward)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Views => "waiting for views",
            Self::Normalize => "normalising the views",
            Self::Forward => "forward",
            Self::Loss => "loss",
            Self::Backward => "backward",
            Self::Optimizer => "optimizer",
            Self::Probe => "probe",
            Self::Metrics => "metrics and sentinels",
            Self::Checkpoint => "checkpoint",
            Self::Monitor => "monitor",
            Self::Report => "report",
        }
    }
}

/// Tells a profile, if there is one, that a stage begins.
pub fn enter(profile: Option<&Profile>, stage: Stage) {
    if let Some(profile) = profile {
        profile.enter(stage);
    }
}

/// What is known of a process so far.
#[derive(Debug)]
pub struct Profile {
    device: Device,
    /// Absent on a GPU.
    recorder: Option<Recorder>,
    views_per_step: usize,
    flops_per_step: f64,
    clock: RefCell<Clock>,
}

#[derive(Debug)]
struct Clock {
    stage: Stage,
    since: Instant,
    /// By stage: time, and how often it began.
    stages: [(Duration, u64); Stage::ALL.len()],
    /// Steps of this process, those of the warm-up included.
    steps: u64,
    /// Counted steps in which the weights moved.
    moved: u64,
}

impl Profile {
    /// Starts to watch this thread. Do it before the first tensor is made: memory taken earlier is not known.
    ///
    /// # Panics
    /// If this thread is watched already.
    pub fn new(backbone: &BackboneConfig, layout: &Layout) -> Self {
        let recorder = (layout.device == Device::Cpu)
            .then(|| Recorder::start().expect("one profile of a thread at a time"));
        Self {
            device: layout.device,
            recorder,
            views_per_step: layout.batch * layout.views.len(),
            flops_per_step: flops_per_step(backbone, layout),
            clock: RefCell::new(Clock {
                stage: Stage::Start,
                since: Instant::now(),
                stages: Default::default(),
                steps: 0,
                moved: 0,
            }),
        }
    }

    /// What follows belongs to this stage.
    pub fn enter(&self, stage: Stage) {
        if let Device::Cuda(index) = self.device {
            Cuda::synchronize(index as i64);
        }
        self.clock.borrow_mut().enter(stage);
        if let Some(recorder) = &self.recorder {
            recorder.stage(stage as i32);
        }
    }

    /// A step is over; `moved` says whether the weights moved. After the last one of the warm-up the count begins, and the
    /// memory that stays from step to step gets its names.
    pub fn end_step(&self, trained: &Trained, moved: bool) {
        let mut clock = self.clock.borrow_mut();
        clock.steps += 1;
        if clock.steps > WARM_UP {
            clock.moved += u64::from(moved);
        } else if clock.steps == WARM_UP {
            clock.stages = Default::default();
            if let Some(recorder) = &self.recorder {
                name_memory(recorder, trained);
                recorder.reset();
            }
            clock.since = Instant::now();
        }
    }

    /// Everything from the end of the warm-up up to now; `None` if no step was counted. Time of a step that was broken off
    /// is in it.
    pub fn summary(&self) -> Option<Summary> {
        let stage = self.clock.borrow().stage;
        self.enter(stage);
        let clock = self.clock.borrow();
        let steps = clock.steps.saturating_sub(WARM_UP);
        if steps == 0 {
            return None;
        }
        let rows = self.recorder.as_ref().map_or_else(Vec::new, Recorder::rows);
        let all: Duration = clock.stages.iter().map(|(time, _)| time).sum();
        let memory = memory(&rows);
        Some(Summary {
            format: FORMAT,
            device: match self.device {
                Device::Cuda(index) => format!("cuda:{index}"),
                other => format!("{other:?}").to_lowercase(),
            },
            steps,
            seconds: all.as_secs_f64(),
            views_per_second: clock.moved as f64 * self.views_per_step as f64 / all.as_secs_f64(),
            time: times(&clock.stages, &rows, all, self.recorder.is_some()),
            peak_tensor_bytes: memory.iter().map(|row| row.bytes).sum(),
            memory,
            flops_per_step: self.flops_per_step,
        })
    }
}

impl Clock {
    fn enter(&mut self, stage: Stage) {
        let now = Instant::now();
        self.stages[self.stage as usize].0 += now - self.since;
        self.since = now;
        if stage != self.stage {
            self.stages[stage as usize].1 += 1;
            self.stage = stage;
        }
    }
}

/// What stays from step to step.
fn name_memory(recorder: &Recorder, trained: &Trained) {
    let name = |tensor: &Tensor, owner: &str| recorder.name(tensor.data_ptr() as usize, owner);
    for parameter in trained.method.parameters().all() {
        name(&parameter.tensor, "parameters");
        let gradient = parameter.tensor.grad();
        if gradient.defined() {
            name(&gradient, "gradients");
        }
    }
    for (_, tensor) in trained.optimizer.state() {
        name(&tensor, "optimizer state");
    }
    for (_, tensor) in trained.probe.iter().flat_map(Probe::state) {
        name(&tensor, "probe");
    }
}

/// Floating-point operations of all convolutions of a step, a multiplication and an addition counting two. The backward
/// pass has two convolutions for every one of the forward pass, for its input and for its kernel, but for the first, whose
/// input needs none; micro-batches need a second forward pass.
pub fn flops_per_step(backbone: &BackboneConfig, layout: &Layout) -> f64 {
    let passes = if layout.micro_batch == layout.batch { 3 } else { 4 };
    let of_view = |side: usize| {
        let (all, first) = backbone.multiply_adds(side as i64);
        2 * (passes * all - first)
    };
    let of_image: u64 = layout.views.iter().map(|view| of_view(view.size_px)).sum();
    layout.batch as f64 * of_image as f64
}

/// Where the time and the memory of the counted steps went: `profile.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Version of this form, 1.
    pub format: u32,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Steps counted: all of the process but the first [`WARM_UP`].
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
    /// See [`flops_per_step`].
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

/// The kind of an operator by libtorch's name of it, as [`Row::operator`] has it.
fn kind(operator: &str) -> &'static str {
    let (node, name) = operator.rsplit_once(" > ").unwrap_or(("", operator));
    if node.ends_with("AccumulateGrad") || name.ends_with("AccumulateGrad") {
        return GRADIENTS;
    }
    let full = name.to_lowercase();
    let name = full.strip_prefix("aten::").unwrap_or(&full);
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    let is_view = || {
        let views = ["view", "_unsafe_view", "reshape", "permute", "transpose", "t", "narrow"];
        let more = ["slice", "select", "expand", "as_strided", "squeeze", "unsqueeze", "detach"];
        views.contains(&name) || more.contains(&name) || name == "split" || name == "alias"
    };
    if has(&["conv"]) {
        CONVOLUTION
    } else if has(&["batch_norm", "batchnorm"]) {
        BATCH_NORM
    } else if has(&["relu", "threshold", "clamp_min"]) {
        RELU
    } else if has(&["linear", "matmul", "mmbackward"]) || name.ends_with("mm") {
        LINEAR
    } else if ["add", "add_"].contains(&name) || has(&["addbackward"]) {
        ADDITION
    } else if has(&["pool", "mean"]) || node.contains("MeanBackward") {
        POOLING
    } else if is_view()
        || has(&["copy", "clone", "contiguous", "cat", "stack", "empty", "zero", "fill", "ones"])
        || has(&["resize", "viewbackward", "copybackward", "_to"])
        || name == "to"
    {
        COPIES
    } else {
        OTHER
    }
}

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

/// Rows that add up to `all`; without operators (`by_operator`) every stage is one.
fn times(
    stages: &[(Duration, u64)],
    rows: &[Row],
    all: Duration,
    by_operator: bool,
) -> Vec<TimeRow> {
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
        if !(by_operator && stage.is_network()) {
            add(stage.name(), stage, time.as_secs_f64(), *calls);
            continue;
        }
        let mut groups: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
        for row in rows.iter().filter(|row| stage_of(row) == Some(stage)) {
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
        .map(|(what, row)| TimeRow {
            what: what.to_owned(),
            share: row.seconds / all.as_secs_f64(),
            ..row
        })
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
