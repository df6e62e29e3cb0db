//! The training loop: batches in, a run folder out.

pub mod checkpoint;
pub mod config;
pub mod engine;
pub mod events;
pub mod gradients;
pub mod journal;
pub mod memory_plan;
pub mod optim;
pub mod probe;
pub mod profile;
pub mod run;
pub mod schedule;
pub mod scores;
pub mod sentinel;
pub mod step;
pub mod stop;

use crate::augment::{Batch, Batches};
use crate::error::{Error, Result};
use crate::machine;
use crate::method::{Method, Objective, Step};
pub use config::{Config, MonitorConfig, Precision};
use events::Events;
use journal::{Event, Journal};
use optim::Optimizer;
use probe::Probe;
use profile::{Profile, Stage, enter};
use run::{Metrics, RunFolder, Status, Warning};
use schedule::Schedule;
use sentinel::{Alarm, Policy, Watch};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use step::{Buffers, Layout, Outcome};
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
    /// Loss of the step; NaN for one that was left out.
    pub loss: f64,
    /// Views per second of this process so far, from the end of its third step.
    pub views_per_second: Option<f64>,
}

/// Watches a run; what it returns is logged.
pub trait Observer {
    /// Before the first step of this process; `first_step` steps were taken by earlier ones.
    fn begin(&mut self, _first_step: u64) {}

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
    fn epoch(
        &mut self,
        _progress: &Progress,
        _method: &dyn Method,
        _probe: Option<&Probe>,
    ) -> Result<Vec<(String, f64)>> {
        Ok(Vec::new())
    }

    /// After the metrics and the checkpoint of an epoch are on disk.
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
    pub labels: Option<Arc<[u32]>>,
    /// Most images that may turn out damaged in the whole run, over all processes.
    pub max_damaged: usize,
    /// What a checkpoint says about the model.
    pub model: serde_json::Value,
    /// What happened before `first_step`.
    pub journal: Journal,
    /// Watches where the time and the memory go, if anyone asks.
    pub profile: Option<&'a Profile>,
}

/// Most roll-backs of a run.
const ROLL_BACKS: u32 = 3;

/// Most steps that one roll-back leaves out.
const SKIPPED: u64 = 100;

/// Most warnings that the status lists; the log has them all.
const WARNINGS: usize = 100;

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

struct Trainer<'a, 'o> {
    job: Job<'a>,
    run: &'a RunFolder,
    observers: &'a mut [&'o mut dyn Observer],
    loader: Batches,
    metrics: Metrics,
    events: Events,
    scores: Option<scores::Recorder>,
    gradients: Option<gradients::Recorder>,
    clock: Clock,
    watch: Watch,
    frozen: Frozen,
    step: u64,
    status: Status,
}

/// What a method never moves, proved by its hash.
struct Frozen {
    prefixes: Vec<String>,
    hash: Option<String>,
}

impl Frozen {
    fn of(method: &dyn Method) -> Self {
        let mut frozen = Self { prefixes: method.frozen(), hash: None };
        frozen.hash = frozen.now(method);
        frozen
    }

    /// The hash of all parameters and buffers; none where nothing is frozen.
    fn now(&self, method: &dyn Method) -> Option<String> {
        let named = |name: &str| self.prefixes.iter().any(|prefix| name.starts_with(prefix));
        let tensors = method.parameters().all().iter().filter(|p| named(&p.name));
        (!self.prefixes.is_empty())
            .then(|| checkpoint::hash(tensors.map(|p| (p.name.as_str(), &p.tensor))))
    }

    fn check(&self, method: &dyn Method) -> Result<()> {
        let now = self.now(method);
        if now == self.hash {
            return Ok(());
        }
        let short = |hash: &Option<String>| format!("{:.16}", hash.as_deref().unwrap_or("none"));
        Err(Error::Weights(format!(
            "`{}*` is frozen and changed while training (hash `{}` before, `{}` after); please report this",
            self.prefixes.join("*`, `"),
            short(&self.hash),
            short(&now)
        )))
    }
}

/// What became of a step whose weights have moved.
struct Taken {
    objective: Objective,
    gradient_norm: f64,
    learning_rate: f64,
    probe_top1: Option<f64>,
}

impl<'a, 'o> Trainer<'a, 'o> {
    fn new(
        job: Job<'a>,
        run: &'a RunFolder,
        observers: &'a mut [&'o mut dyn Observer],
    ) -> Result<Self> {
        let (metrics, earlier_seconds) = Metrics::open(run, job.first_step)?;
        let events = Events::open(run.path(), job.first_step)?;
        let (config, epoch) = (job.config, job.steps_per_epoch);
        let scores = scores::Recorder::open(&config.scores, run, job.first_step, epoch)?;
        let gradients = gradients::Recorder::open(
            &config.gradients,
            run,
            (job.first_step, epoch),
            job.trained.method.as_ref(),
            job.journal.gradients.clone(),
        )?;
        let mut status = run::read_status(run.path()).unwrap_or_default();
        status.steps = job.steps;
        status.history.clone_from(&job.journal.events);
        let clock = Clock::new(job.layout.batch * job.layout.views.len(), earlier_seconds);
        // Every network is near its constants at first; without a warm-up the first epoch counts as one.
        let judged_from = job.schedule.warmup_steps().max(job.steps_per_epoch);
        let watch = Watch::new(
            job.config.sentinels.clone(),
            job.trained.method.stuck_at(job.layout.batch),
            judged_from,
            job.journal.counts.clone(),
        )
        .suspecting(job.trained.method.suspects());
        let loader = (job.batches)(job.first_step)?;
        let (step, frozen) = (job.first_step, Frozen::of(job.trained.method.as_ref()));
        let mut trainer = Self {
            job,
            run,
            observers,
            loader,
            metrics,
            events,
            scores,
            gradients,
            clock,
            watch,
            frozen,
            step,
            status,
        };
        for observer in trainer.observers.iter_mut() {
            observer.begin(trainer.step);
        }
        trainer.write_status("running")?;
        if trainer.step == 0 && trainer.job.config.sentinels.rolls_back() {
            trainer.checkpoint()?;
        }
        Ok(trainer)
    }

    fn steps(&mut self, stop: &Stop) -> Result<()> {
        let leaves_out = self.job.config.sentinels.non_finite == Policy::Warn;
        let labels = self.job.labels.clone();
        while self.step < self.job.steps {
            let (step, steps) = (self.step, self.job.steps);
            let interrupted = || {
                Error::Interrupted(format!(
                    "stopped by a signal after step {step} of {steps}; the same command goes on from there"
                ))
            };
            if stop.asked() {
                return Err(interrupted());
            }
            let what = format!("step {step}");
            let profile = self.job.profile;
            enter(profile, Stage::Views);
            // Views that are made on the device are made here.
            let batch = engine::guard(&what, || self.loader.next().transpose())?
                .ok_or_else(|| Error::Run(format!("the loader ended before step {step}")))?;
            enter(profile, Stage::Metrics);
            self.note_damage(&batch)?;
            if self.job.journal.skips(self.step) {
                self.loader.recycle(batch);
                self.finish_step(None)?;
                continue;
            }
            let layout = &self.job.layout;
            let method = self.job.trained.method.as_ref();
            let at = Step {
                index: self.step,
                steps,
                steps_per_epoch: self.job.steps_per_epoch,
                seed: self.job.seed,
                indices: batch.indices(),
                labels: labels.as_deref(),
                ranks: (layout.batch / layout.group) as i64,
                tile_rows: layout.tile_rows,
            };
            let mut buffers = leaves_out.then(|| Buffers::of(method));
            let outcome = engine::guard(&what, || {
                step::gradient(method, batch.views(), layout, &at, stop, profile)
            })?;
            enter(profile, Stage::Metrics);
            let Some(outcome) = outcome else { return Err(interrupted()) };
            let learning_rate = self.job.schedule.at(self.step);
            let norms = optim::gradient_norms(method.parameters());
            let gradient_norm = optim::length(&norms);
            let loss = outcome.objective.loss;
            if let Some(alarm) = self.watch.step(self.step, loss, gradient_norm, learning_rate) {
                if self.answer(&alarm)? {
                    continue;
                }
                if !(loss.is_finite() && gradient_norm.is_finite()) {
                    if alarm.first {
                        let text = "non_finite: from here on steps are left out".to_owned();
                        self.note(Event { step: self.step, text });
                    }
                    // The weights have not moved yet, the running statistics have.
                    if let Some(buffers) = &mut buffers {
                        buffers.restore();
                    }
                    self.loader.recycle(batch);
                    self.finish_step(None)?;
                    continue;
                }
            }
            let Outcome { mut objective, rows } = outcome;
            enter(profile, Stage::Watching);
            self.watch_rows(&what, &objective, learning_rate)?;
            objective.scores = None;
            if let Some(gradients) = &mut self.gradients {
                gradients.add(self.step, &norms);
            }
            let trained = &mut self.job.trained;
            let probe_top1 = engine::guard(&what, || {
                enter(profile, Stage::Optimizer);
                trained.method.before_update(&at);
                trained.optimizer.step(learning_rate);
                trained.method.after_step(&objective.carried, &at);
                let Some(probe) = trained.probe.as_mut() else { return Ok(None) };
                enter(profile, Stage::Probe);
                Ok(probe.step(&rows, batch.indices()))
            })?;
            enter(profile, Stage::Metrics);
            drop(rows);
            self.loader.recycle(batch);
            self.status.final_loss = Some(loss);
            self.finish_step(Some(Taken { objective, gradient_norm, learning_rate, probe_top1 }))?;
        }
        Ok(())
    }

    /// Records the scores of a step, before anything moves.
    fn watch_rows(&mut self, what: &str, objective: &Objective, learning_rate: f64) -> Result<()> {
        let Some(recorder) = &mut self.scores else { return Ok(()) };
        let taken = scores::Taken { step: self.step + 1, loss: objective.loss, learning_rate };
        engine::guard(what, || recorder.record(taken, objective))
    }

    fn note_damage(&mut self, batch: &Batch) -> Result<()> {
        for damage in batch.damaged() {
            let (path, reason) = (&damage.path, &damage.reason);
            let stand_in = damage.substitute;
            self.run.log(&format!("damaged: {path}: {reason}; image {stand_in} stands in"))?;
            if !self.status.damaged.contains(path) {
                self.status.damaged.push(path.clone());
            }
        }
        // The loader counts what this process met, which it can tell better.
        let (found, most) = (self.status.damaged.len(), self.job.max_damaged);
        if found > most {
            return Err(Error::Data(format!(
                "{found} images have turned out damaged since the run was started, more than the {most} that \
                 `data.max_damaged` allows; log.txt lists them, `diptych data check` finds all"
            )));
        }
        Ok(())
    }

    /// Does what the policy of an alarm says; true when the run went back to a checkpoint.
    fn answer(&mut self, alarm: &Alarm) -> Result<bool> {
        let Alarm { name, step, policy, first, text } = alarm;
        if *first {
            self.run.log(&format!("sentinel {name}, step {step}: {text}"))?;
            let warning = Warning { step: *step, name: (*name).to_owned(), text: text.clone() };
            if self.status.warnings.len() < WARNINGS && !self.status.warnings.contains(&warning) {
                self.status.warnings.push(warning);
            }
        }
        let roll_backs = self.job.journal.roll_backs;
        let stop = |text: &str| {
            let text = format!(
                "step {step}: {text}; the last checkpoint is whole; `train.sentinels.{name}` says what happens then (warn, stop, roll_back)"
            );
            Err(if *name == "non_finite" { Error::NonFinite(text) } else { Error::Collapsed(text) })
        };
        match policy {
            Policy::Stop => stop(text),
            Policy::RollBack if roll_backs >= ROLL_BACKS => {
                stop(&format!("{text}; the run went back {roll_backs} times already"))
            }
            Policy::RollBack => self.roll_back(name, *step).map(|()| true),
            Policy::Warn | Policy::Off => {
                if *first {
                    self.tell(&format!("{name}, step {step}: {text}"));
                }
                Ok(false)
            }
        }
    }

    /// Takes the state of the last checkpoint and leaves out the steps from there to `last`, a hundred at most.
    fn roll_back(&mut self, name: &str, last: u64) -> Result<()> {
        let folder = self.run.join("checkpoints");
        let mut warnings = Vec::new();
        let found = checkpoint::load_latest(&folder, &mut |warning| warnings.push(warning))?
            .ok_or_else(|| {
                Error::Run(format!("no checkpoint to go back to at step {}", self.step))
            })?;
        let back = found.header.step;
        let first = back.max((last + 1).saturating_sub(SKIPPED));
        self.job.trained.restore(&found.tensors)?;
        let journal = &mut self.job.journal;
        journal.left_out = found.header.journal.left_out;
        journal.gradients = found.header.journal.gradients;
        journal.skipped.push([first, last]);
        journal.roll_backs += 1;
        let text =
            format!("{name}: went back to step {back}, steps {first} to {last} are left out");
        self.note(Event { step: back, text: text.clone() });
        self.watch.forget();
        self.step = back;
        self.loader = (self.job.batches)(back)?;
        self.metrics = Metrics::open(self.run, back)?.0;
        self.events = Events::open(self.run.path(), back)?;
        let (config, epoch) = (self.job.config, self.job.steps_per_epoch);
        self.scores = scores::Recorder::open(&config.scores, self.run, back, epoch)?;
        self.gradients = gradients::Recorder::open(
            &config.gradients,
            self.run,
            (back, epoch),
            self.job.trained.method.as_ref(),
            self.job.journal.gradients.clone(),
        )?;
        self.run.log(&text)?;
        for warning in warnings.iter().chain([&text]) {
            self.tell(warning);
        }
        // What is left out must survive a kill.
        self.checkpoint()?;
        self.write_status("running")
    }

    fn note(&mut self, event: Event) {
        self.job.journal.add(event);
        self.status.history.clone_from(&self.job.journal.events);
    }

    fn tell(&mut self, text: &str) {
        for observer in self.observers.iter_mut() {
            observer.warn(text);
        }
    }

    fn finish_step(&mut self, taken: Option<Taken>) -> Result<()> {
        self.step += 1;
        self.clock.step(taken.is_some());
        self.job.journal.left_out += u64::from(taken.is_none());
        let (config, profile, moved) = (self.job.config, self.job.profile, taken.is_some());
        let progress = Progress {
            step: self.step,
            steps: self.job.steps,
            steps_per_epoch: self.job.steps_per_epoch,
            loss: taken.as_ref().map_or(f64::NAN, |taken| taken.objective.loss),
            views_per_second: self.clock.views_per_second(),
        };
        for observer in self.observers.iter_mut() {
            observer.step(&progress)?;
        }
        let last = self.step == self.job.steps;
        let epoch_ends = last || self.step.is_multiple_of(self.job.steps_per_epoch);
        if epoch_ends || self.step.is_multiple_of(config.log_every_steps) {
            let mut values = Vec::new();
            if let Some(taken) = &taken {
                values.extend(self.step_values(taken));
                let (found, alarms) = self.watch.look(self.step - 1, &taken.objective);
                values.extend(found);
                for alarm in &alarms {
                    if self.answer(alarm)? {
                        return Ok(());
                    }
                }
            }
            drop(taken);
            if epoch_ends {
                enter(profile, Stage::Monitor);
                let trained = &self.job.trained;
                self.frozen.check(trained.method.as_ref())?;
                for observer in self.observers.iter_mut() {
                    values.extend(engine::guard(&format!("after step {}", self.step), || {
                        observer.epoch(&progress, trained.method.as_ref(), trained.probe.as_ref())
                    })?);
                }
            }
            enter(profile, Stage::Metrics);
            if epoch_ends && let Some(gradients) = &mut self.gradients {
                gradients.end_epoch(self.step)?;
            }
            self.metrics.write(self.step, self.epoch(), self.clock.seconds(), &values)?;
            self.events.write(self.step, &values)?;
        }
        let every = config.checkpoint_every_steps;
        if epoch_ends || (every > 0 && self.step.is_multiple_of(every)) {
            self.checkpoint()?;
        }
        if epoch_ends {
            let epoch = self.step.div_ceil(self.job.steps_per_epoch);
            let keep = u64::from(config.keep_every_epochs);
            if keep > 0 && epoch.is_multiple_of(keep) {
                let name = format!("epoch-{epoch:04}.safetensors");
                checkpoint::keep(&self.run.join("checkpoints"), &name)?;
            }
            enter(profile, Stage::Report);
            self.write_status("running")?;
            for observer in self.observers.iter_mut() {
                observer.saved(&progress)?;
            }
        }
        if let Some(profile) = profile {
            profile.end_step(&self.job.trained, moved);
        }
        Ok(())
    }

    fn step_values(&self, taken: &Taken) -> Vec<(String, f64)> {
        let named = |name: &str, value: f64| (format!("train/{name}"), value);
        let mut values = vec![
            named("loss", taken.objective.loss),
            named("learning_rate", taken.learning_rate),
            named("gradient_norm", taken.gradient_norm),
        ];
        values.extend(taken.objective.scalars.iter().map(|(name, value)| named(name, *value)));
        values.extend(self.clock.views_per_second().map(|rate| named("views_per_second", rate)));
        values.extend(taken.probe_top1.map(|top1| ("probe/train_top1".to_owned(), top1)));
        values
    }

    fn checkpoint(&mut self) -> Result<()> {
        enter(self.job.profile, Stage::Checkpoint);
        self.job.journal.counts = self.watch.counts().clone();
        self.job.journal.gradients = self.gradients.as_ref().and_then(gradients::Recorder::sums);
        let (job, folder) = (&self.job, self.run.join("checkpoints"));
        checkpoint::save(&folder, self.step, (&job.model, &job.journal), &job.trained.state())
    }

    fn write_status(&mut self, state: &str) -> Result<()> {
        state.clone_into(&mut self.status.state);
        self.status.step = self.step;
        self.status.epoch = self.epoch();
        self.status.left_out = self.job.journal.left_out;
        self.status.wall_seconds = self.clock.seconds();
        self.status.views_per_second =
            self.clock.views_per_second().or(self.status.views_per_second);
        let peak = machine::peak_memory().unwrap_or(0) >> 20;
        self.status.peak_memory_mb = self.status.peak_memory_mb.max(peak);
        self.run.write_status(&self.status)
    }

    fn epoch(&self) -> f64 {
        let epoch = self.step as f64 / self.job.steps_per_epoch as f64;
        (epoch * 1e4).round() / 1e4
    }
}

/// Time of the run and speed of this process. It looks at the monotonic clock only, so a clock that is set does not show.
struct Clock {
    started: Instant,
    earlier_seconds: f64,
    views_per_step: usize,
    steps: u64,
    views: u64,
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
            views: 0,
            third_step: None,
            last_step: started,
        }
    }

    /// A step is over; one that was left out adds no views.
    fn step(&mut self, taken: bool) {
        self.steps += 1;
        self.last_step = Instant::now();
        if self.third_step.is_some() {
            self.views += if taken { self.views_per_step as u64 } else { 0 };
        } else if self.steps == 3 {
            self.third_step = Some(self.last_step);
        }
    }

    fn seconds(&self) -> f64 {
        self.earlier_seconds + self.started.elapsed().as_secs_f64()
    }

    fn views_per_second(&self) -> Option<f64> {
        let seconds = (self.last_step - self.third_step?).as_secs_f64();
        (self.views > 0).then(|| self.views as f64 / seconds)
    }
}
