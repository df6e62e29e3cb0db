//! The training loop: batches in, a run folder out.

mod answers;
pub mod checkpoint;
mod clock;
pub mod config;
pub mod engine;
pub mod events;
mod frozen;
pub mod gradients;
pub mod journal;
pub mod memory_plan;
pub mod optim;
pub mod probe;
pub mod profile;
mod records;
pub mod run;
pub mod schedule;
pub mod scores;
pub mod sentinel;
pub mod step;
pub mod stop;
mod trainer;

use crate::augment::Batches;
use crate::data::Labels;
use crate::error::{Error, Result};
use crate::method::Method;
pub use config::{Config, MonitorConfig, Precision};
use journal::Journal;
use optim::Optimizer;
use probe::Probe;
use profile::Profile;
use run::{RunFolder, Status};
use schedule::Schedule;
use std::collections::BTreeMap;
use step::Layout;
use stop::Stop;
use tch::Tensor;
use trainer::Trainer;

/// What an observer sees after each step.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Steps taken.
    pub step: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Loss of the step; NaN for one that was left out.
    pub loss: f64,
    /// Views per second of this process so far, from the end of its third step.
    pub views_per_second: Option<f64>,
}

/// Watches a run; what it returns is logged.
pub trait Observer {
    /// Before the first step of this process, of which `first_step` were taken by earlier ones; and after the run went back to
    /// a step.
    fn begin(&mut self, _first_step: u64) {}

    /// After each step.
    ///
    /// # Errors
    /// Any error ends the run.
    fn step(&mut self, _progress: &Progress) -> Result<()> {
        Ok(())
    }

    /// After each epoch, and at the end of the run, when the checkpoint is on disk; returns values to log, `knn/top1`. Done
    /// again if the run was killed while it was under way.
    ///
    /// # Errors
    /// Any error ends the run.
    fn epoch(
        &mut self,
        _progress: &Progress,
        _method: &dyn Method,
        _probe: Option<&Probe>,
    ) -> Result<Vec<(String, f64)>> {
        Ok(Vec::new())
    }

    /// After the checkpoint and the metrics of an epoch are on disk.
    ///
    /// # Errors
    /// Any error ends the run.
    fn saved(&mut self, _progress: &Progress) -> Result<()> {
        Ok(())
    }

    /// When a sentinel has something to say, or the run went back.
    fn warn(&mut self, _text: &str) {}
}

/// What is trained: everything a checkpoint holds the tensors of.
pub struct Trained {
    /// The networks.
    pub method: Box<dyn Method>,
    /// Moves them.
    pub optimizer: Optimizer,
    /// Learns from labels beside them.
    pub probe: Option<Probe>,
}

impl Trained {
    /// All tensors of a run by name.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let networks = self.method.parameters().all().iter();
        let networks = networks.map(|p| (p.name.clone(), p.tensor.detach()));
        let probe = self.probe.iter().flat_map(Probe::state);
        networks.chain(self.optimizer.state()).chain(probe).collect()
    }

    /// Puts the tensors of a checkpoint back in place.
    ///
    /// # Errors
    /// [`Error::Weights`] if a tensor is missing or has another shape.
    pub fn restore(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        self.method.parameters().load(tensors)?;
        self.optimizer.load_state(tensors)?;
        self.probe.as_mut().map_or(Ok(()), |probe| probe.restore(tensors))
    }
}

/// A run ready to go on at `first_step`.
pub struct Job<'a> {
    /// What is trained, as it is after `first_step` steps.
    pub trained: Trained,
    /// Gives the learning rate of each step.
    pub schedule: Schedule,
    /// Gives the batches from a step on.
    pub batches: &'a dyn Fn(u64) -> Result<Batches>,
    /// How a batch is cut.
    pub layout: Layout,
    /// The `[train]` table.
    pub config: &'a Config,
    /// Steps already taken.
    pub first_step: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Labels of the training images, if each has one; for methods that learn from them.
    pub labels: Option<Labels>,
    /// Most images that may turn out damaged in the whole run, over all processes.
    pub max_damaged: usize,
    /// What a checkpoint says about the model.
    pub model: serde_json::Value,
    /// What happened before `first_step`.
    pub journal: Journal,
    /// Watches where the time and the memory go, if anyone asks.
    pub profile: Option<&'a Profile>,
}

/// Trains to the end of the run and returns where it stands.
///
/// # Errors
/// [`Error::Interrupted`] after a stop was asked for and the state checkpointed; [`Error::NonFinite`],
/// [`Error::Collapsed`], data, memory and disk errors otherwise. Whatever happens, the last complete checkpoint stays
/// whole.
pub fn train(
    job: Job<'_>,
    run: &RunFolder,
    stop: &Stop,
    observers: &mut [&mut dyn Observer],
) -> Result<Status> {
    let mut trainer = Trainer::new(job, run, observers)?;
    let result = trainer.steps(stop);
    match &result {
        // State between two steps is whole, so nothing of the work so far is lost.
        Err(Error::Interrupted(_) | Error::Data(_)) => {
            trainer.checkpoint()?;
            trainer.write_status("stopped")?;
        }
        // What an out-of-memory leaves behind, or the values after a NaN, are not worth keeping.
        Err(_) => {
            // The error itself matters more than a status that cannot be written.
            let _ = trainer.write_status("stopped");
        }
        Ok(()) => trainer.write_status("finished")?,
    }
    result.map(|()| trainer.status)
}
