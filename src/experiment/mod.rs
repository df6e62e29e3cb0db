//! A recipe carried out: what trains a network on a data source into a folder, for pre-training and fine-tuning alike.

pub mod finetune;
mod plan;

use crate::augment::{Batches, DeviceLoader, Loader, LoaderConfig, views_gallery};
use crate::data::{Labels, Source};
use crate::error::{Error, Result};
use crate::evaluate::weights::Weights;
use crate::machine;
use crate::method::{self, Method, Setup, distill};
use crate::model::BackboneConfig;
use crate::recipe::{Executor, Recipe, differences};
use crate::train::engine::guard;
use crate::train::journal::{Event, Journal};
use crate::train::optim::Optimizer;
use crate::train::probe::Probe;
use crate::train::profile::{Profile, WARM_UP};
use crate::train::run::{RunFolder, Status, read_status, timestamp};
use crate::train::step::Layout;
use crate::train::stop::Stop;
use crate::train::{self, Job, Observer, Trained, checkpoint};
pub use plan::{Plan, memory_plan, selection};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Tensor};

/// Everything that decides a run.
#[derive(Clone, Copy)]
pub struct Experiment<'a> {
    /// What is computed, resolved ([`Recipe::resolve`]).
    pub recipe: &'a Recipe,
    /// On what.
    pub source: &'a Source,
    /// What follows from the two.
    pub plan: &'a Plan,
    /// Where it is written; checkpoints in it are gone on from.
    pub folder: &'a RunFolder,
    /// Watches where the time goes, if anyone asks.
    pub profile: Option<&'a Profile>,
}

impl Experiment<'_> {
    /// Trains from the last checkpoint on, or from the start, to the end of the run. `tell` gets what people should know,
    /// the log has it too.
    ///
    /// # Errors
    /// Those of [`train::train`], of a checkpoint, model or teacher that does not fit, and of a folder that cannot be written.
    pub fn train(
        &self,
        stop: &Stop,
        tell: &mut dyn FnMut(&str),
        observers: &mut [&mut dyn Observer],
    ) -> Result<Status> {
        let Self { recipe, source, plan, folder, profile } = *self;
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
        let mut journal =
            found.as_ref().map_or_else(Journal::default, |f| f.header.journal.clone());
        // Those of a process that ended before it could write a checkpoint.
        for event in read_status(folder.path()).unwrap_or_default().history {
            journal.add(event);
        }
        let mut trained = guard("building the networks", || build(recipe, source, plan))?;
        match &found {
            None => {
                let method = trained.method.as_ref();
                if let Some(weights) = &recipe.backbone.weights {
                    journal.add(start_from(weights, &recipe.backbone, method, layout.device)?);
                }
                if let Some(hash) = teacher_hash(&method_tensors(method)) {
                    journal.add(Event { step: 0, text: format!("taught by weights {hash:.16}") });
                }
            }
            Some(found) => {
                same_teacher(trained.method.as_ref(), &found.tensors)?;
                guard("restoring the checkpoint", || trained.restore(&found.tensors))?;
            }
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
        let batches = |first_step: u64| self.batches(first_step);
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
            labels: plan.labels.clone(),
            max_damaged: (recipe.data.max_damaged * plan.dataset.len() as f64) as usize,
            model: json!({
                // A checkpoint knows no paths.
                "backbone": BackboneConfig { weights: None, ..recipe.backbone.clone() },
                "method": recipe.method.without_paths(),
                "preprocess": plan.preprocess,
                "several_classes": matches!(plan.labels, Some(Labels::Several(_))),
            }),
            journal,
            profile,
        };
        train::train(job, folder, stop, observers)
    }

    /// The batches from a step on.
    fn batches(&self, first_step: u64) -> Result<Batches> {
        let Self { recipe, plan, .. } = *self;
        let device = plan.layout.device;
        let config = LoaderConfig {
            seed: recipe.seed,
            steps: first_step..plan.steps,
            threads: recipe.data.threads,
            background: device == Device::Cpu,
            prefetch: recipe.data.prefetch,
            max_damaged: recipe.data.max_damaged,
        };
        let (pipeline, order) = (Arc::clone(&plan.pipeline), plan.order.clone());
        match recipe.data.executor {
            Executor::Host => Loader::start(Arc::clone(&plan.dataset), pipeline, order, &config)
                .map(Batches::Host),
            Executor::Device => guard("moving the images to the device", || {
                DeviceLoader::start(plan.dataset.as_ref(), pipeline, order, &config, device)
                    .map(Batches::Device)
            }),
        }
    }
}

/// Everything that is trained, as it starts.
fn build(recipe: &Recipe, source: &Source, plan: &Plan) -> Result<Trained> {
    let (layout, kind) = (&plan.layout, plan.layout.precision.parameters());
    let teacher = match &recipe.method {
        method::Config::Distill(distill::Config { teacher: Some(teacher), .. }) => {
            let weights = Weights::load(Path::new(teacher), layout.device)?;
            same_normalization(&weights, plan)?;
            Some(weights.teacher()?)
        }
        _ => None,
    };
    let method = recipe.method.build(&Setup {
        backbone: &recipe.backbone,
        plugins: &recipe.plugins,
        views: layout.views.len(),
        images: plan.dataset.len(),
        batch: layout.batch,
        classes: plan.classes,
        multi_label: matches!(plan.labels, Some(Labels::Several(_))),
        teacher: teacher.as_ref(),
        seed: recipe.seed,
        device: layout.device,
        kind,
    })?;
    let optimizer = Optimizer::new(recipe.train.optimizer.clone(), method.parameters())
        .hold(recipe.train.schedule.constant(), plan.peak_learning_rate)?;
    let labels = plan.labels.as_ref().and_then(Labels::one);
    let probe = labels.filter(|_| recipe.train.probe.enabled).map(|labels| {
        let (features, classes) = (method.backbone().features(), source.classes.len());
        Probe::new(&recipe.train.probe, labels.to_vec(), classes, features, (layout.device, kind))
    });
    Ok(Trained { method, optimizer, probe })
}

/// Puts the parts of a model that a method inherits in place; what is to be remembered of it names its hash, not where it
/// lay.
fn start_from(
    weights: &str,
    config: &BackboneConfig,
    method: &dyn Method,
    device: Device,
) -> Result<Event> {
    let weights = Weights::load(Path::new(weights), device)?;
    same_network(&weights, config)?;
    let tensors = weights.with_head();
    for part in method.inherits() {
        method.parameters().load_part(&part, &tensors).map_err(|error| {
            let file = weights.file.display();
            Error::Weights(format!("`backbone.weights`: `{file}` does not fit: {error}"))
        })?;
    }
    method.inherited();
    Ok(Event { step: 0, text: format!("started from weights {:.16}", weights.hash()) })
}

/// Refuses weights of a network of the same names and shapes that computes something else. A file that says nothing about
/// itself is taken for what the recipe says.
fn same_network(weights: &Weights, config: &BackboneConfig) -> Result<()> {
    if weights.family.is_some_and(|family| family.preprocess.is_empty()) {
        return Ok(());
    }
    let name = |value: serde_json::Result<serde_json::Value>| {
        let value = value.unwrap_or_default();
        value.as_str().unwrap_or_default().to_owned()
    };
    let of = |config: &BackboneConfig| {
        let (stem, flavor) =
            (serde_json::to_value(config.stem), serde_json::to_value(config.flavor));
        [("stem", name(stem)), ("flavor", name(flavor))]
    };
    for ((setting, theirs), (_, ours)) in of(&weights.config).into_iter().zip(of(config)) {
        if theirs != ours {
            return Err(Error::Weights(format!(
                "`backbone.weights`: `{}` is a network of `backbone.{setting}={theirs}`, the recipe says `{ours}`",
                weights.file.display()
            )));
        }
    }
    Ok(())
}

fn method_tensors(method: &dyn Method) -> BTreeMap<String, Tensor> {
    let all = method.parameters().all().iter();
    all.map(|p| (p.name.clone(), p.tensor.detach())).collect()
}

/// A teacher is shown what the student is shown, normalised as it was taught.
fn same_normalization(teacher: &Weights, plan: &Plan) -> Result<()> {
    let Some(own) = &teacher.preprocess else { return Ok(()) };
    let shown = &plan.preprocess;
    if (own.mean, own.std) == (shown.mean, shown.std) {
        return Ok(());
    }
    Err(Error::Recipe(format!(
        "the teacher `{}` was taught with images normalised by mean {:?} and deviation {:?}, and the views have {:?} and {:?}; \
         give the `normalize` step of the views the teacher's",
        teacher.file.display(),
        own.mean,
        own.std,
        shown.mean,
        shown.std
    )))
}

/// The hash of the teacher's tensors, if there are any.
fn teacher_hash(tensors: &BTreeMap<String, Tensor>) -> Option<String> {
    let prefix = format!("{}.", distill::PLACE);
    let teacher = || tensors.iter().filter(|(name, _)| name.starts_with(&prefix));
    teacher().next()?;
    Some(checkpoint::hash(teacher().map(|(name, tensor)| (name.as_str(), tensor))))
}

/// A run goes on with the teacher it began with.
fn same_teacher(method: &dyn Method, stored: &BTreeMap<String, Tensor>) -> Result<()> {
    let (found, before) = (teacher_hash(&method_tensors(method)), teacher_hash(stored));
    if found == before {
        return Ok(());
    }
    let short = |hash: Option<String>| hash.map_or("none".to_owned(), |hash| format!("{hash:.16}"));
    Err(Error::Weights(format!(
        "`method.teacher` holds other weights ({}) than those the run began with ({}); bring them back, or start again \
         with --fresh",
        short(found),
        short(before)
    )))
}

/// The recipe a run folder was started with.
///
/// # Errors
/// [`Error::Recipe`] if it cannot be understood.
pub fn earlier_recipe(folder: &Path) -> Result<Option<Recipe>> {
    let path = folder.join("recipe.toml");
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    Ok(Some(Recipe::parse(&text, &path.display().to_string(), &[])?))
}

/// How a recipe and the content of the data differ from what a run folder was started with.
pub fn changes(
    folder: &Path,
    earlier: &Recipe,
    recipe: &Recipe,
    source: &Source,
) -> crate::recipe::Differences {
    let mut found = differences(earlier, recipe);
    let environment = std::fs::read_to_string(folder.join("environment.json")).unwrap_or_default();
    let environment: Value = serde_json::from_str(&environment).unwrap_or_default();
    if let Some(before) = environment["data_fingerprint"].as_str()
        && before != source.fingerprint
    {
        found.what.push(format!(
            "content of the data: {:.12} -> {:.12} ({})",
            before, source.fingerprint, source.location
        ));
    }
    found
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
