//! The loop: batches in, weights moved, records kept.

use super::clock::Clock;
use super::frozen::Frozen;
use super::journal::Event;
use super::profile::{Stage, enter};
use super::records::{Opened, Records};
use super::run::{self, RunFolder, Status};
use super::sentinel::{Policy, Watch};
use super::step::{self, Buffers, Outcome};
use super::stop::Stop;
use super::{Job, Observer, Progress, checkpoint, engine, gradients, optim, scores};
use crate::augment::Batches;
use crate::error::{Error, Result};
use crate::machine;
use crate::method::{Objective, Step};

/// A run under way.
pub(super) struct Trainer<'a, 'o> {
    pub(super) job: Job<'a>,
    pub(super) run: &'a RunFolder,
    pub(super) observers: &'a mut [&'o mut dyn Observer],
    pub(super) loader: Batches,
    pub(super) records: Records,
    clock: Clock,
    pub(super) watch: Watch,
    frozen: Frozen,
    pub(super) step: u64,
    pub(super) status: Status,
    /// Whether the epoch that ends here was ended by no earlier process.
    ends_epoch: bool,
}

/// What became of a step whose weights have moved.
struct Taken {
    objective: Objective,
    gradient_norm: f64,
    learning_rate: f64,
    probe_top1: Option<f64>,
}

impl Taken {
    /// What is logged of it.
    fn values(&self) -> Vec<(String, f64)> {
        let named = |name: &str, value: f64| (format!("train/{name}"), value);
        let mut values = vec![
            named("loss", self.objective.loss),
            named("learning_rate", self.learning_rate),
            named("gradient_norm", self.gradient_norm),
        ];
        values.extend(self.objective.scalars.iter().map(|(name, value)| named(name, *value)));
        values.extend(self.probe_top1.map(|top1| ("probe/train_top1".to_owned(), top1)));
        values
    }
}

impl<'a, 'o> Trainer<'a, 'o> {
    pub(super) fn new(
        job: Job<'a>,
        run: &'a RunFolder,
        observers: &'a mut [&'o mut dyn Observer],
    ) -> Result<Self> {
        let Opened { records, earlier_seconds, ends_epoch } =
            Records::open(&job, run, job.first_step)?;
        let mut status = run::read_status(run.path()).unwrap_or_default();
        status.steps = job.steps;
        status.history.clone_from(&job.journal.events);
        // Steps after the last line of metrics took their time, too.
        let earlier_seconds = earlier_seconds.max(status.wall_seconds);
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
            records,
            clock,
            watch,
            frozen,
            step,
            status,
            ends_epoch,
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

    /// Takes all steps that are left.
    pub(super) fn steps(&mut self, stop: &Stop) -> Result<()> {
        let leaves_out = self.job.config.sentinels.non_finite == Policy::Warn;
        let labels = self.job.labels.clone();
        if std::mem::take(&mut self.ends_epoch) {
            self.end_epoch()?;
        }
        self.job.journal.epoch_end = None;
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
                labels: labels.as_ref(),
                ranks: (layout.batch / layout.group) as i64,
                tile_rows: layout.tile_rows,
            };
            let taken = engine::guard(&what, || {
                let buffers = leaves_out.then(|| Buffers::of(method));
                let outcome = step::gradient(method, batch.views(), layout, &at, stop, profile)?;
                enter(profile, Stage::Metrics);
                Ok(outcome.map(|it| (it, buffers, optim::gradient_norms(method.parameters()))))
            })?;
            let Some((outcome, mut buffers, norms)) = taken else { return Err(interrupted()) };
            let learning_rate = self.job.schedule.at(self.step);
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
            if let Some(gradients) = &mut self.records.gradients {
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
                let whole =
                    trained.method.whole_views().map_or(rows.size()[0], |views| views as i64);
                Ok(probe.step(&rows.narrow(0, 0, whole), batch.indices()))
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
        let Some(recorder) = &mut self.records.scores else { return Ok(()) };
        let taken = scores::Taken { step: self.step + 1, loss: objective.loss, learning_rate };
        engine::guard(what, || recorder.record(taken, objective))
    }

    fn finish_step(&mut self, taken: Option<Taken>) -> Result<()> {
        self.step += 1;
        self.clock.step(taken.is_some());
        self.job.journal.left_out += u64::from(taken.is_none());
        let (config, profile, moved) = (self.job.config, self.job.profile, taken.is_some());
        let loss = taken.as_ref().map_or(f64::NAN, |taken| taken.objective.loss);
        let progress = self.progress(loss);
        for observer in self.observers.iter_mut() {
            observer.step(&progress)?;
        }
        let last = self.step == self.job.steps;
        let epoch_ends = last || self.step.is_multiple_of(self.job.steps_per_epoch);
        if epoch_ends || self.step.is_multiple_of(config.log_every_steps) {
            let what = format!("after step {}", self.step);
            let mut values = Vec::new();
            if let Some(taken) = &taken {
                values.extend(taken.values());
                let (found, alarms) =
                    engine::guard(&what, || Ok(self.watch.look(self.step - 1, &taken.objective)))?;
                values.extend(found);
                for alarm in &alarms {
                    if self.answer(alarm)? {
                        return Ok(());
                    }
                }
            }
            drop(taken);
            if epoch_ends {
                let method = self.job.trained.method.as_ref();
                engine::guard(&what, || self.frozen.check(method))?;
                let bits = values.into_iter().map(|(name, value)| (name, value.to_bits()));
                self.job.journal.epoch_end = Some(bits.collect());
                if let Some(gradients) = &mut self.records.gradients {
                    gradients.end_epoch(self.step)?;
                }
            } else {
                self.add_rate(&mut values);
                self.write_metrics(&values)?;
            }
        }
        let every = config.checkpoint_every_steps;
        if epoch_ends || (every > 0 && self.step.is_multiple_of(every)) {
            self.checkpoint()?;
        }
        if epoch_ends {
            self.end_epoch()?;
        }
        if let Some(profile) = profile {
            profile.end_step(&self.job.trained, moved);
        }
        Ok(())
    }

    /// Where the run stands, for those who watch.
    fn progress(&self, loss: f64) -> Progress {
        Progress {
            step: self.step,
            steps: self.job.steps,
            steps_per_epoch: self.job.steps_per_epoch,
            loss,
            views_per_second: self.clock.views_per_second(),
        }
    }

    /// What ends an epoch once its checkpoint is on disk. The line of metrics comes last: where it is missing, a process that
    /// goes on from the checkpoint does this again.
    fn end_epoch(&mut self) -> Result<()> {
        let (config, profile) = (self.job.config, self.job.profile);
        let progress = self.progress(self.status.final_loss.unwrap_or(f64::NAN));
        let values = self.job.journal.epoch_end.iter().flatten();
        let mut values: Vec<(String, f64)> =
            values.map(|(name, bits)| (name.clone(), f64::from_bits(*bits))).collect();
        self.add_rate(&mut values);
        enter(profile, Stage::Monitor);
        let trained = &self.job.trained;
        for observer in self.observers.iter_mut() {
            values.extend(engine::guard(&format!("after step {}", self.step), || {
                observer.epoch(&progress, trained.method.as_ref(), trained.probe.as_ref())
            })?);
        }
        enter(profile, Stage::Metrics);
        let (epoch, part) =
            (self.step / self.job.steps_per_epoch, self.step % self.job.steps_per_epoch);
        let keep = u64::from(config.keep_every_epochs);
        if keep > 0 && part == 0 && epoch.is_multiple_of(keep) {
            let name = format!("epoch-{epoch:04}.safetensors");
            checkpoint::keep(&self.run.join("checkpoints"), &name)?;
        }
        self.write_metrics(&values)?;
        self.job.journal.epoch_end = None;
        enter(profile, Stage::Report);
        self.write_status("running")?;
        for observer in self.observers.iter_mut() {
            observer.saved(&progress)?;
        }
        Ok(())
    }

    /// Adds the speed to the values of a step that was taken.
    fn add_rate(&self, values: &mut Vec<(String, f64)>) {
        let rate = self.clock.views_per_second().filter(|_| !values.is_empty());
        values.extend(rate.map(|rate| ("train/views_per_second".to_owned(), rate)));
    }

    fn write_metrics(&mut self, values: &[(String, f64)]) -> Result<()> {
        self.records.events.write(self.step, values)?;
        self.records.metrics.write(self.step, self.epoch(), self.clock.seconds(), values)
    }

    pub(super) fn checkpoint(&mut self) -> Result<()> {
        enter(self.job.profile, Stage::Checkpoint);
        self.job.journal.counts = self.watch.counts().clone();
        self.job.journal.gradients =
            self.records.gradients.as_ref().and_then(gradients::Recorder::sums);
        let (job, folder) = (&self.job, self.run.join("checkpoints"));
        engine::guard(&format!("the checkpoint after step {}", self.step), || {
            checkpoint::save(&folder, self.step, (&job.model, &job.journal), &job.trained.state())
        })
    }

    pub(super) fn write_status(&mut self, state: &str) -> Result<()> {
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
