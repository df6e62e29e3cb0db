//! Where the time and the memory of a step go: `diptych pretrain --profile`.
//!
//! The loop says which stage begins ([`enter`]), so the times of the stages add up to the wall time, whatever happens in
//! them. On a CPU, libtorch tells the recorder of the shim of every operator and of every block of memory; within the
//! forward pass, the loss and the backward pass the operators are then grouped into what a person asks for. On a GPU
//! operators only begin on this thread, so there are stages alone, with the device synchronised at each change.

mod summary;
#[cfg(test)]
mod tests;

use super::Trained;
use super::probe::Probe;
use super::step::Layout;
use crate::method::Wiring;
use crate::model::{BackboneConfig, Frozen};
use diptych_shim::Recorder;
use std::cell::RefCell;
use std::time::{Duration, Instant};
use summary::Work;
pub use summary::{MemoryRow, Summary, TimeRow};
use tch::{Cuda, Device, Tensor};

/// Steps at the start of a process that are not counted: in them memory is taken that later steps reuse, and kernels are
/// compiled.
pub const WARM_UP: u64 = 3;

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
    /// Scores and norms of gradients, for the records of the run.
    Watching,
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
    const ALL: [Self; 13] = [
        Self::Start,
        Self::Views,
        Self::Normalize,
        Self::Forward,
        Self::Loss,
        Self::Backward,
        Self::Optimizer,
        Self::Watching,
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
            Self::Watching => "scores and gradients",
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
    views_per_step: u64,
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
    pub fn new(layout: &Layout, flops_per_step: f64) -> Self {
        let recorder = (layout.device == Device::Cpu)
            .then(|| Recorder::start().expect("one profile of a thread at a time"));
        Self {
            device: layout.device,
            recorder,
            views_per_step: (layout.batch * layout.views.len()) as u64,
            flops_per_step,
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
        let rows = self.recorder.as_ref().map(Recorder::rows);
        Some(Summary::of(
            &clock.stages,
            rows.as_deref(),
            &Work {
                device: self.device,
                steps,
                views: clock.moved * self.views_per_step,
                flops_per_step: self.flops_per_step,
            },
        ))
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

/// Floating-point operations of all convolutions of a step in networks of the backbone's form, a multiplication and an
/// addition counting two. The backward pass has two convolutions for every one of the forward pass that is trained, for its
/// input and for its kernel, but for the first, whose input needs none; micro-batches need a second forward pass. Views that a
/// target network sees pass once.
pub fn flops_per_step(
    backbone: &BackboneConfig,
    frozen: Frozen,
    wiring: &Wiring,
    layout: &Layout,
) -> f64 {
    let passes = if layout.micro_batch == layout.batch { 1 } else { 2 };
    let work = |view: &usize| backbone.multiply_adds(layout.views[*view].size_px as i64, frozen);
    let online = wiring.online.iter().map(work);
    let online: u64 = online.map(|of| passes * of.forward + of.trained + of.inputs).sum();
    let targets: u64 = wiring.targets.iter().map(|view| work(view).forward).sum();
    layout.batch as f64 * 2.0 * (online + targets) as f64
}
