//! What a run writes as it goes: metrics, TensorBoard events, scores, gradients.

use super::events::Events;
use super::run::{Metrics, RunFolder};
use super::{Job, gradients, scores};
use crate::error::Result;

/// The records of a run that goes on.
pub(super) struct Opened {
    pub(super) records: Records,
    /// Seconds that earlier processes took, up to the last line of metrics.
    pub(super) earlier_seconds: f64,
    /// Whether the epoch that ended with the last step taken has yet to be closed.
    pub(super) ends_epoch: bool,
}

/// The files that grow with every step.
pub(super) struct Records {
    pub(super) metrics: Metrics,
    pub(super) events: Events,
    pub(super) scores: Option<scores::Recorder>,
    pub(super) gradients: Option<gradients::Recorder>,
}

impl Records {
    /// Opens them to go on at a step, without what was written of later ones.
    pub(super) fn open(job: &Job<'_>, run: &RunFolder, step: u64) -> Result<Opened> {
        let (metrics, last, earlier_seconds) = Metrics::open(run, step)?;
        // The line of metrics is the last that an epoch's end writes.
        let ends_epoch = job.journal.epoch_end.is_some() && last != Some(step);
        let events =
            Events::open(run.path(), if ends_epoch { step.saturating_sub(1) } else { step })?;
        let (config, epoch) = (job.config, job.steps_per_epoch);
        let scores = scores::Recorder::open(&config.scores, run, step, epoch)?;
        let gradients = gradients::Recorder::open(
            &config.gradients,
            run,
            (step, epoch),
            job.trained.method.as_ref(),
            job.journal.gradients.clone(),
        )?;
        let records = Self { metrics, events, scores, gradients };
        Ok(Opened { records, earlier_seconds, ends_epoch })
    }
}
