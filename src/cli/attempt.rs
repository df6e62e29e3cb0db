//! One process's share of a run: builds everything, takes the state of the last checkpoint, and trains.

use super::monitor::{KnnMonitor, Pages, ProgressBar};
use super::plan::Plan;
use super::tell;
use diptych::augment::{Batches, DeviceLoader, Loader, LoaderConfig, views_gallery};
use diptych::data::Source;
use diptych::error::{Error, Result};
use diptych::evaluate::weights::Weights;
use diptych::machine;
use diptych::method::{Method, Setup};
use diptych::model::BackboneConfig;
use diptych::recipe::{Executor, Recipe};
use diptych::train::engine::guard;
use diptych::train::journal::{Event, Journal};
use diptych::train::optim::Optimizer;
use diptych::train::probe::Probe;
use diptych::train::profile::{Profile, WARM_UP};
use diptych::train::run::{RunFolder, Status, read_status, timestamp};
use diptych::train::step::Layout;
use diptych::train::stop::Stop;
use diptych::train::{self, Job, Observer, Trained, checkpoint};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use tch::Device;

/// Trains from the last checkpoint on, or from the start, to the end of the run.
pub(super) fn attempt(
    recipe: &Recipe,
    source: &Source,
    plan: &Plan,
    folder: &RunFolder,
    stop: &Stop,
    profile: Option<&Profile>,
) -> Result<Status> {
    let layout = &plan.layout;
    let found = guard("reading the checkpoint", || {
        checkpoint::load_latest(&folder.join("checkpoints"), &mut |warning| {
            tell(&format!("warning: {warning}"));
            // A log that cannot be written shows at the next line, which must be.
            let _ = folder.log(&format!("warning: {warning}"));
        })
    })?;
    let first_step = found.as_ref().map_or(0, |found| found.header.step);
    let left = plan.steps.saturating_sub(first_step);
    if profile.is_some() && left <= WARM_UP {
        return Err(Error::Recipe(format!(
            "--profile leaves out the first {WARM_UP} steps, and {left} are left; give the run more with \
             `train.max_steps`, or leave --profile out"
        )));
    }
    let mut journal = found.as_ref().map_or_else(Journal::default, |f| f.header.journal.clone());
    // Those of a process that ended before it could write a checkpoint.
    for event in read_status(folder.path()).unwrap_or_default().history {
        journal.add(event);
    }
    let mut trained = guard("building the networks", || build(recipe, source, plan))?;
    if let Some(weights) = recipe.backbone.weights.as_ref().filter(|_| found.is_none()) {
        journal.add(start_from(weights, trained.method.as_ref(), layout.device)?);
    }
    if let Some(found) = &found {
        guard("restoring the checkpoint", || trained.restore(&found.tensors))?;
    }
    drop(found);
    folder.write("recipe.toml", &recipe.to_toml()?)?;
    folder.write("environment.json", &environment(recipe, source))?;
    let started = match first_step {
        0 => format!("started: {} steps", plan.steps),
        step => format!("going on at step {step} of {}", plan.steps),
    };
    tell(&format!("{started} in {}", folder.path().display()));
    folder.log(&started)?;
    if let Some(text) = doubts(recipe, layout).filter(|_| first_step == 0) {
        tell(&format!("warning: {text}"));
        folder.log(&format!("warning: {text}"))?;
    }
    if !folder.join("pictures/views.json").exists() {
        views_gallery(plan.dataset.as_ref(), &plan.pipeline, recipe.seed, 6)?
            .save(&folder.join("pictures"), "views")?;
    }
    let batches = |first_step: u64| {
        let config = LoaderConfig {
            seed: recipe.seed,
            steps: first_step..plan.steps,
            threads: recipe.data.threads,
            background: layout.device == Device::Cpu,
            prefetch: recipe.data.prefetch,
            max_damaged: recipe.data.max_damaged,
        };
        let (pipeline, order) = (Arc::clone(&plan.pipeline), plan.order.clone());
        match recipe.data.executor {
            Executor::Host => Loader::start(Arc::clone(&plan.dataset), pipeline, order, &config)
                .map(Batches::Host),
            Executor::Device => guard("moving the images to the device", || {
                DeviceLoader::start(plan.dataset.as_ref(), pipeline, order, &config, layout.device)
                    .map(Batches::Device)
            }),
        }
    };
    let job = Job {
        trained,
        schedule: plan.schedule.clone(),
        batches: &batches,
        layout: layout.clone(),
        config: &recipe.train,
        first_step,
        steps: plan.steps,
        steps_per_epoch: plan.order.steps_per_epoch(),
        seed: recipe.seed,
        labels: plan.labels.clone().map(Into::into),
        max_damaged: (recipe.data.max_damaged * plan.dataset.len() as f64) as usize,
        model: json!({
            // A checkpoint knows no paths.
            "backbone": BackboneConfig { weights: None, ..recipe.backbone.clone() },
            "preprocess": plan.preprocess,
        }),
        journal,
        profile,
    };
    let mut bar = ProgressBar::new(first_step, plan.steps);
    let mut knn = KnnMonitor::new(recipe, source, &plan.preprocess, layout, folder.path());
    let mut pages = Pages::new(folder.path());
    let observers: &mut [&mut dyn Observer] = &mut [&mut bar, &mut knn, &mut pages];
    let result = train::train(job, folder, stop, observers);
    bar.finish();
    result
}

/// Everything that is trained, as it starts.
fn build(recipe: &Recipe, source: &Source, plan: &Plan) -> Result<Trained> {
    let (layout, kind) = (&plan.layout, plan.layout.precision.parameters());
    let method = recipe.method.build(&Setup {
        backbone: &recipe.backbone,
        plugins: &recipe.plugins,
        views: layout.views.len(),
        images: plan.dataset.len(),
        batch: layout.batch,
        seed: recipe.seed,
        device: layout.device,
        kind,
    })?;
    let optimizer = Optimizer::new(recipe.train.optimizer.clone(), method.parameters())
        .hold(recipe.train.schedule.constant(), plan.peak_learning_rate)?;
    let labels = plan.labels.clone().filter(|_| recipe.train.probe.enabled);
    let probe = labels.map(|labels| {
        let (features, classes) = (method.backbone().features(), source.classes.len());
        Probe::new(&recipe.train.probe, labels, classes, features, (layout.device, kind))
    });
    Ok(Trained { method, optimizer, probe })
}

/// Puts the backbone of a model in place; what is to be remembered of it names its hash, not where it lay.
fn start_from(weights: &str, method: &dyn Method, device: Device) -> Result<Event> {
    let weights = Weights::load(Path::new(weights), device)?;
    method.parameters().load_part("backbone.", &weights.tensors()).map_err(|error| {
        Error::Weights(format!(
            "`backbone.weights`: `{}` does not fit: {error}",
            weights.file.display()
        ))
    })?;
    Ok(Event { step: 0, text: format!("started from weights {:.16}", weights.hash()) })
}

/// What is allowed and yet hardly meant.
fn doubts(recipe: &Recipe, layout: &Layout) -> Option<String> {
    let cross_level = recipe.plugins.cross_level.as_ref()?;
    cross_level.warning(if cross_level.per_rank { layout.group } else { layout.batch })
}

/// What a number depends on beside the recipe.
fn environment(recipe: &Recipe, source: &Source) -> String {
    let command: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let environment = json!({
        "diptych": env!("CARGO_PKG_VERSION"),
        "revision": machine::REVISION,
        "libtorch": machine::LIBTORCH,
        "device": recipe.train.device,
        "processor": machine::processor(),
        "cores": machine::cores(),
        "vector_extensions": machine::vector_extensions(),
        "compute_threads": recipe.train.threads,
        "loader_threads": recipe.data.threads,
        "data": source.location,
        "data_format": source.format,
        "data_fingerprint": source.fingerprint,
        "command": command,
        "started": timestamp(),
    });
    format!("{environment:#}")
}
