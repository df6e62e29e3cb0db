//! What a run does about damaged images and what its sentinels see.

use super::checkpoint;
use super::journal::Event;
use super::records::Records;
use super::run::Warning;
use super::sentinel::{Alarm, Policy};
use super::trainer::Trainer;
use crate::augment::Batch;
use crate::error::{Error, Result};

/// Most roll-backs of a run.
const ROLL_BACKS: u32 = 3;

/// Most steps that one roll-back leaves out.
const SKIPPED: u64 = 100;

/// Most warnings that the status lists; the log has them all.
const WARNINGS: usize = 100;

impl Trainer<'_, '_> {
    /// Logs what the loader found damaged, and ends a run with too much of it.
    pub(super) fn note_damage(&mut self, batch: &Batch) -> Result<()> {
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
    pub(super) fn answer(&mut self, alarm: &Alarm) -> Result<bool> {
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
            let whole = if self.run.join("checkpoints/last.safetensors").exists() {
                "the last checkpoint is whole"
            } else {
                "there is no checkpoint yet"
            };
            let text = format!(
                "step {step}: {text}; {whole}; `train.sentinels.{name}` says what happens then (warn, stop, roll_back)"
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
        self.records = Records::open(&self.job, self.run, back)?.records;
        for observer in self.observers.iter_mut() {
            observer.begin(back);
        }
        self.run.log(&text)?;
        for warning in warnings.iter().chain([&text]) {
            self.tell(warning);
        }
        // What is left out must survive a kill.
        self.checkpoint()?;
        self.write_status("running")
    }

    pub(super) fn note(&mut self, event: Event) {
        self.job.journal.add(event);
        self.status.history.clone_from(&self.job.journal.events);
    }

    fn tell(&mut self, text: &str) {
        for observer in self.observers.iter_mut() {
            observer.warn(text);
        }
    }
}
