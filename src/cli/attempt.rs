//! One process's share of a run, watched by the program.

use super::monitor::{KnnMonitor, Pages, ProgressBar};
use super::tell;
use diptych::error::Result;
use diptych::experiment::Experiment;
use diptych::train::Observer;
use diptych::train::run::Status;
use diptych::train::stop::Stop;

/// Trains from the last checkpoint on, or from the start, to the end of the run.
pub(super) fn attempt(experiment: &Experiment<'_>, stop: &Stop) -> Result<Status> {
    let Experiment { recipe, source, plan, folder, .. } = *experiment;
    let mut bar = ProgressBar::new(plan.steps);
    let mut knn = KnnMonitor::new(recipe, source, &plan.preprocess, &plan.layout, folder.path())?;
    let mut pages = Pages::new(folder.path());
    let observers: &mut [&mut dyn Observer] = &mut [&mut bar, &mut knn, &mut pages];
    let result = experiment.train(stop, &mut |text| tell(text), observers);
    bar.finish();
    result
}
