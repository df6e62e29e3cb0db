//! The training loop: batches in, a run folder out.

pub mod checkpoint;
pub mod config;
pub mod engine;
pub mod events;
pub mod memory_plan;
pub mod optim;
pub mod run;
pub mod schedule;
pub mod step;
pub mod stop;

use crate::augment::Loader;
use crate::error::{Error, Result};
use crate::machine;
use crate::method::{Method, Objective};
use config::NonFinite;
pub use config::{Config, MonitorConfig};
use events::Events;
use optim::Optimizer;
use run::{Metrics, RunFolder, Status};
use schedule::Schedule;
use std::collections::BTreeMap;
use std::time::Instant;
use step::Layout;
use stop::Stop;
use tch::Tensor;

/// What an observer sees after each step.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Steps taken.
    pub step: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Loss of the step.
    pub loss: f64,
    /// Views per second of this process so far, from the end of its third step.
    pub views_per_second: Option<f64>,
}

/// Watches a run; what it returns is logged.
pub trait Observer {
    /// After each step.
    ///
    /// # Errors
    /// Any error ends the run.
    fn step(&mut self, _progress: &Progress) -> Result<()> {
        Ok(())
    }

    /// After each epoch, and at the end of the run; returns values to log, `knn/top1`.
    ///
    /// # Errors
    /// Any error ends the run.
    fn epoch(&mut self, _progress: &Progress, _method: &dyn Method) -> Result<Vec<(String, f64)>> {
        Ok(Vec::new())
    }

    /// After the metrics and the checkpoint of an epoch are on disk.
    ///
    /// # Errors
    /// Any error ends the run.
    fn saved(&mut self, _progress: &Progress) -> Result<()> {
        Ok(())
    }
}

/// All tensors of a run by name: what a checkpoint holds.
pub fn state(method: &dyn Method, optimizer: &Optimizer) -> BTreeMap<String, Tensor> {
    let networks = method.parameters().all().iter();
    let networks = networks.map(|p| (p.name.clone(), p.tensor.detach()));
    networks.chain(optimizer.state()).collect()
}

/// Puts the tensors of a checkpoint back in place.
///
/// # Errors
/// [`Error::Weights`] if a tensor is missing or has another shape.
pub fn restore(
    method: &dyn Method,
    optimizer: &mut Optimizer,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<()> {
    method.parameters().load(tensors)?;
    optimizer.load_state(tensors)
}

/// A run ready to go on at `first_step`.
pub struct Job<'a> {
    /// The networks.
    pub method: &'a dyn Method,
    /// Moves them.
    pub optimizer: Optimizer,
    /// Gives the learning rate of each step.
    pub schedule: Schedule,
    /// Gives the batches from `first_step` on.
    pub loader: Loader,
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
    /// What a checkpoint says about the model.
    pub model: serde_json::Value,
}

/// Trains to the end of the run and returns where it stands.
///
/// # Errors
/// [`Error::Interrupted`] after a stop was asked for and the state checkpointed; [`Error::NonFinite`], data, memory and
/// disk errors otherwise. Whatever happens, the last complete checkpoint stays whole.
pub fn train(
    mut job: Job<'_>,
    run: &RunFolder,
    stop: &Stop,
    observers: &mut [&mut dyn Observer],
) -> Result<Status> {
    let (metrics, earlier_seconds) = Metrics::open(run, job.first_step)?;
    let events = Events::open(run.path(), job.first_step)?;
    let earlier = run::read_status(run.path()).unwrap_or_default();
    let clock = Clock::new(job.layout.batch * job.layout.views.len(), earlier_seconds);
    let mut trainer =
        Trainer { run, metrics, events, clock, step: job.first_step, status: earlier };
    trainer.status.steps = job.steps;
    let result = trainer.steps(&mut job, stop, observers);
    match &result {
        // State between two steps is whole, so nothing of the work so far is lost.
        Err(Error::Interrupted(_) | Error::Data(_)) => {
            trainer.checkpoint(&job)?;
            trainer.write_status("stopped", &job)?;
        }
        // What an out-of-memory leaves behind, or the values after a NaN, are not worth keeping.
        Err(_) => {
            // The error itself matters more than a status that cannot be written.
            let _ = trainer.write_status("stopped", &job);
        }
        Ok(()) => trainer.write_status("finished", &job)?,
    }
    result.map(|()| trainer.status)
}

struct Trainer<'a> {
    run: &'a RunFolder,
    metrics: Metrics,
    events: Events,
    clock: Clock,
    step: u64,
    status: Status,
}

impl Trainer<'_> {
    fn steps(
        &mut self,
        job: &mut Job<'_>,
        stop: &Stop,
        observers: &mut [&mut dyn Observer],
    ) -> Result<()> {
        self.write_status("running", job)?;
        while self.step < job.steps {
            let interrupted = || {
                Error::Interrupted(format!(
                    "stopped by a signal after step {} of {}; the same command goes on from there",
                    self.step, job.steps
                ))
            };
            if stop.asked() {
                return Err(interrupted());
            }
            let batch = job.loader.next().ok_or_else(|| {
                Error::Run(format!("the loader ended before step {}", self.step))
            })??;
            for damage in &batch.damaged {
                let (path, reason) = (&damage.path, &damage.reason);
                self.run.log(&format!(
                    "damaged: {path}: {reason}; image {} stands in",
                    damage.substitute
                ))?;
                if !self.status.damaged.contains(path) {
                    self.status.damaged.push(path.clone());
                }
            }
            let learning_rate = job.schedule.at(self.step);
            let (what, layout) = (format!("step {}", self.step), &job.layout);
            let objective =
                engine::guard(&what, || step::gradient(job.method, &batch, layout, stop));
            let Some(objective) = objective.map_err(|error| with_way_out(error, layout))? else {
                return Err(interrupted());
            };
            job.loader.recycle(batch);
            let norm = optim::gradient_norm(job.method.parameters());
            if objective.loss.is_finite() && norm.is_finite() {
                engine::guard(&what, || {
                    job.optimizer.step(learning_rate);
                    Ok(())
                })?;
            } else {
                self.not_finite(job, &objective, norm, learning_rate)?;
            }
            self.step += 1;
            self.clock.step();
            self.status.final_loss = Some(objective.loss);
            self.finish_step(job, &objective, norm, learning_rate, observers)?;
        }
        Ok(())
    }

    fn finish_step(
        &mut self,
        job: &Job<'_>,
        objective: &Objective,
        norm: f64,
        learning_rate: f64,
        observers: &mut [&mut dyn Observer],
    ) -> Result<()> {
        let config = job.config;
        let progress = Progress {
            step: self.step,
            steps: job.steps,
            steps_per_epoch: job.steps_per_epoch,
            loss: objective.loss,
            views_per_second: self.clock.views_per_second(),
        };
        for observer in observers.iter_mut() {
            observer.step(&progress)?;
        }
        let last = self.step == job.steps;
        let epoch_ends = last || self.step.is_multiple_of(job.steps_per_epoch);
        if epoch_ends || self.step.is_multiple_of(config.log_every_steps) {
            let mut values = vec![
                ("train/loss".to_owned(), objective.loss),
                ("train/learning_rate".to_owned(), learning_rate),
                ("train/gradient_norm".to_owned(), norm),
            ];
            values.extend(objective.scalars.iter().map(|(n, v)| (format!("train/{n}"), *v)));
            if let Some(rate) = progress.views_per_second {
                values.push(("train/views_per_second".to_owned(), rate));
            }
            if epoch_ends {
                for observer in observers.iter_mut() {
                    values.extend(observer.epoch(&progress, job.method)?);
                }
            }
            self.metrics.write(self.step, self.epoch(job), self.clock.seconds(), &values)?;
            self.events.write(self.step, &values)?;
        }
        let every = config.checkpoint_every_steps;
        if epoch_ends || (every > 0 && self.step.is_multiple_of(every)) {
            self.checkpoint(job)?;
        }
        if epoch_ends {
            let epoch = self.step.div_ceil(job.steps_per_epoch);
            let keep = u64::from(config.keep_every_epochs);
            if keep > 0 && epoch.is_multiple_of(keep) {
                let name = format!("epoch-{epoch:04}.safetensors");
                checkpoint::keep(&self.run.join("checkpoints"), &name)?;
            }
            self.write_status("running", job)?;
            for observer in observers.iter_mut() {
                observer.saved(&progress)?;
            }
        }
        Ok(())
    }

    fn not_finite(
        &self,
        job: &Job<'_>,
        objective: &Objective,
        norm: f64,
        learning_rate: f64,
    ) -> Result<()> {
        let found = format!(
            "step {}: loss {} and gradient norm {norm} at learning rate {learning_rate:.4e}",
            self.step, objective.loss
        );
        match job.config.non_finite {
            NonFinite::Skip => self.run.log(&format!("{found}; the weights stay as they are")),
            NonFinite::Stop => Err(Error::NonFinite(format!(
                "{found} are not finite; the last checkpoint is whole; lower \
                 `train.optimizer.learning_rate`, lengthen the warm-up, or set `train.non_finite=skip`"
            ))),
        }
    }

    fn checkpoint(&self, job: &Job<'_>) -> Result<()> {
        let state = state(job.method, &job.optimizer);
        checkpoint::save(&self.run.join("checkpoints"), self.step, &job.model, &state)
    }

    fn write_status(&mut self, state: &str, job: &Job<'_>) -> Result<()> {
        state.clone_into(&mut self.status.state);
        self.status.step = self.step;
        self.status.epoch = self.epoch(job);
        self.status.wall_seconds = self.clock.seconds();
        self.status.views_per_second =
            self.clock.views_per_second().or(self.status.views_per_second);
        let peak = machine::peak_memory().unwrap_or(0) >> 20;
        self.status.peak_memory_mb = self.status.peak_memory_mb.max(peak);
        self.run.write_status(&self.status)
    }

    fn epoch(&self, job: &Job<'_>) -> f64 {
        let epoch = self.step as f64 / job.steps_per_epoch as f64;
        (epoch * 1e4).round() / 1e4
    }
}

/// Adds what the user can do about an error of the step.
fn with_way_out(error: Error, layout: &Layout) -> Error {
    let Error::OutOfMemory(text) = error else { return error };
    let half = layout.micro_batch / 2;
    let advice = match half {
        0 => "choose smaller images or a smaller backbone".to_owned(),
        half if half < layout.group => format!(
            "set `data.micro_batch_size={half}` (now {}): the batch stays whole, but batch norm then sees {half} images \
             at a time, so it is another run (--fresh or another --out)",
            layout.micro_batch
        ),
        half => format!(
            "set `data.micro_batch_size={half}` (now {}) and go on: the batch stays whole",
            layout.micro_batch
        ),
    };
    Error::OutOfMemory(format!("{text}; no checkpoint is lost; {advice}"))
}

/// Time of the run and speed of this process.
struct Clock {
    started: Instant,
    earlier_seconds: f64,
    views_per_step: usize,
    steps: u64,
    third_step: Option<Instant>,
    last_step: Instant,
}

impl Clock {
    fn new(views_per_step: usize, earlier_seconds: f64) -> Self {
        let started = Instant::now();
        Self {
            started,
            earlier_seconds,
            views_per_step,
            steps: 0,
            third_step: None,
            last_step: started,
        }
    }

    fn step(&mut self) {
        self.steps += 1;
        self.last_step = Instant::now();
        if self.steps == 3 {
            self.third_step = Some(self.last_step);
        }
    }

    fn seconds(&self) -> f64 {
        self.earlier_seconds + self.started.elapsed().as_secs_f64()
    }

    fn views_per_second(&self) -> Option<f64> {
        let steps = self.steps.checked_sub(3).filter(|steps| *steps > 0)?;
        let views = steps * self.views_per_step as u64;
        Some(views as f64 / (self.last_step - self.third_step?).as_secs_f64())
    }
}
