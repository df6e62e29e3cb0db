//! What a run writes as it goes: metrics, TensorBoard events, scores, gradients.

use super::events::Events;
use super::run::{Metrics, RunFolder};
use super::{Job, gradients, scores};
use crate::error::Result;

/// The files that grow with every step.
pub(super) struct Records {
    pub(super) metrics: Metrics,
    pub(super) events: Events,
    pub(super) scores: Option<scores::Recorder>,
    pub(super) gradients: Option<gradients::Recorder>,
}

impl Records {
    /// Opens them to go on at a step, without what was written of later ones; and the seconds that earlier processes took.
    pub(super) fn open(job: &Job<'_>, run: &RunFolder, step: u64) -> Result<(Self, f64)> {
        let (metrics, earlier_seconds) = Metrics::open(run, step)?;
        let (config, epoch) = (job.config, job.steps_per_epoch);
        let events = Events::open(run.path(), step)?;
        let scores = scores::Recorder::open(&config.scores, run, step, epoch)?;
        let gradients = gradients::Recorder::open(
            &config.gradients,
            run,
            (step, epoch),
            job.trained.method.as_ref(),
            job.journal.gradients.clone(),
        )?;
        Ok((Self { metrics, events, scores, gradients }, earlier_seconds))
    }
}
