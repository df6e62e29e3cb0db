//! `diptych pretrain`: from a recipe and a data source to a trained, resumable, reported run.

use super::memory::{again, again_after_crash, with_less_memory};
use super::monitor::{KnnMonitor, Pages, ProgressBar, open_source};
use super::{Answer, tell};
use anyhow::Result;
use diptych::augment::{
    Batches, DeviceLoader, Loader, LoaderConfig, Order, Pipeline, Preprocess, views_gallery,
};
use diptych::data::{self, Dataset, Selection, Source};
use diptych::error::Error;
use diptych::evaluate::weights::Weights;
use diptych::machine;
use diptych::method::Method;
use diptych::model::BackboneConfig;
use diptych::recipe::{Executor, Recipe, differences};
use diptych::report;
use diptych::train::engine::guard;
use diptych::train::journal::{Event, Journal};
use diptych::train::memory_plan::MemoryPlan;
use diptych::train::optim::Optimizer;
use diptych::train::probe::Probe;
use diptych::train::run::{RunFolder, Status, read_status, timestamp};
use diptych::train::schedule::Schedule;
use diptych::train::step::{Layout, ViewInput};
use diptych::train::stop::Stop;
use diptych::train::{self, Job, Observer, Trained, checkpoint};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::{Device, Kind};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  diptych pretrain cifar10/simclr --data cifar10/ --out runs/a train.epochs=4 backbone.width=0.25
  diptych pretrain folder/simclr --data photos/ --out runs/photos --dry-run

Running the same command again goes on where the run stopped.")]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(super) struct Arguments {
    /// A recipe file or a built-in name (`diptych recipes list`)
    recipe: String,
    /// Settings to change, `key=value`
    overrides: Vec<String>,
    /// What to train on: an image folder, `synthetic:NAME`, or anything else that `diptych data show` takes
    #[arg(long)]
    data: Option<String>,
    /// The run folder [default: runs/ and the recipe's name]
    #[arg(long, overrides_with = "out")]
    out: Option<PathBuf>,
    /// Print the plan (steps, learning rates, memory) and stop
    #[arg(long)]
    dry_run: bool,
    /// Start again; an earlier run in the folder is kept under another name
    #[arg(long, conflicts_with = "extend")]
    fresh: bool,
    /// Let a run go on for more epochs or steps than it was started with
    #[arg(long)]
    extend: bool,
    /// Internal, see `memory.rs`
    #[arg(long, hide = true, overrides_with = "trial")]
    trial: bool,
    /// Internal, see `memory.rs`
    #[arg(long, hide = true)]
    less_memory: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let mut recipe = Recipe::load(&arguments.recipe, &arguments.overrides)?;
    if arguments.data.is_some() {
        recipe.data.source.clone_from(&arguments.data);
    }
    let out = arguments.out.clone().unwrap_or_else(|| {
        let name = arguments.recipe.trim_end_matches(".toml").replace(['/', '\\'], "-");
        Path::new("runs").join(name)
    });
    let earlier = if arguments.fresh { None } else { earlier_recipe(&out)? };
    if let Some(earlier) = &earlier {
        recipe.inherit(earlier);
    }
    recipe.resolve()?;
    let location = recipe.data.source.clone().ok_or_else(|| {
        Error::Recipe(
            "no data: name it with --data, `--data synthetic:scenes` for a start".to_owned(),
        )
    })?;
    let source = open_source(&location, &recipe.data.classes)?;
    let mut plan = Plan::new(&recipe, &source)?;
    if let Some(text) = &arguments.less_memory {
        with_less_memory(text, &mut recipe, plan.layout.clone(), &out)?;
        plan = Plan::new(&recipe, &source)?;
    }
    if arguments.dry_run {
        return Ok(plan.describe(&recipe));
    }
    if arguments.fresh && out.exists() {
        set_aside(&out)?;
    }
    let changes =
        earlier.map(|earlier| compare(&out, &earlier, &recipe, &source, arguments.extend));
    let changes = changes.transpose()?;
    let unchanged = changes.as_ref().is_some_and(Vec::is_empty);
    if unchanged && let Some(status) = read_status(&out).filter(|status| status.state == "finished")
    {
        return Ok(answer(&out, &status, "already finished, nothing to do"));
    }
    train_run(&recipe, &source, &plan, &out, &changes.unwrap_or_default(), arguments.trial)
}

/// What follows from a recipe and a data source before anything is built.
struct Plan {
    dataset: Arc<dyn Dataset>,
    pipeline: Arc<Pipeline>,
    order: Order,
    layout: Layout,
    preprocess: Preprocess,
    /// Labels of the training images, if each has one.
    labels: Option<Vec<u32>>,
    steps: u64,
    peak_learning_rate: f64,
    schedule: Schedule,
}

impl Plan {
    fn new(recipe: &Recipe, source: &Source) -> Result<Self> {
        let dataset = source.for_training(&selection(recipe))?;
        let batch_size = recipe.data.batch_size;
        if dataset.len() < 2 {
            return Err(Error::Data(format!(
                "`{}` gives {} image to train on; at least 2 are needed",
                source.location,
                dataset.len()
            ))
            .into());
        }
        if dataset.len() < batch_size {
            return Err(Error::Recipe(format!(
                "`data.batch_size` must be at most the number of images ({}), found `{batch_size}`; \
                 set `data.batch_size={}`",
                dataset.len(),
                dataset.len()
            ))
            .into());
        }
        let pipeline = Pipeline::new(&recipe.view)?;
        let order = Order::new(recipe.seed, dataset.len(), batch_size)?;
        let views: Vec<ViewInput> = (0..pipeline.views())
            .map(|view| {
                let (mean, std) = pipeline.normalization(view);
                ViewInput { size_px: pipeline.size_px(view), mean, std }
            })
            .collect();
        for view in &views {
            recipe.backbone.check_images(view.size_px, recipe.backbone.norm_group)?;
        }
        let preprocess =
            Preprocess::for_training_size(views[0].size_px, views[0].mean, views[0].std);
        let steps_per_epoch = order.steps_per_epoch();
        let config = &recipe.train;
        let steps = config.max_steps.unwrap_or(u64::from(config.epochs) * steps_per_epoch);
        let peak_learning_rate = config.optimizer.peak_learning_rate(batch_size);
        let schedule =
            Schedule::new(config.schedule.clone(), peak_learning_rate, steps_per_epoch, steps);
        let layout = Layout {
            views,
            batch: batch_size,
            micro_batch: recipe.data.micro_batch_size,
            group: recipe.backbone.norm_group,
            tile_rows: config.tile_rows,
            device: machine::device(&config.device)?,
            kind: if config.precision == "float64" { Kind::Double } else { Kind::Float },
        };
        Ok(Self {
            labels: data::labels(dataset.as_ref()).filter(|_| source.classes.len() > 1),
            dataset,
            pipeline: Arc::new(pipeline),
            order,
            layout,
            preprocess,
            steps,
            peak_learning_rate,
            schedule,
        })
    }

    /// Bytes the run will hold at most: what the process holds already (program, libtorch, data) and its tensors.
    fn predicted_memory(&self, recipe: &Recipe) -> u64 {
        let layout = &self.layout;
        let plan = MemoryPlan {
            backbone: &recipe.backbone,
            view_sizes_px: &layout.views.iter().map(|view| view.size_px).collect::<Vec<_>>(),
            batch: layout.batch,
            group: layout.group,
            tile_rows: layout.tile_rows,
            optimizer_state: recipe.train.optimizer.state_per_parameter(),
            scalar_bytes: if layout.kind == Kind::Double { 8 } else { 4 },
        };
        machine::held_memory().unwrap_or(0) + plan.tensor_bytes(layout.micro_batch)
    }

    /// The plan for people and programs.
    fn describe(&self, recipe: &Recipe) -> Answer {
        let steps_per_epoch = self.order.steps_per_epoch();
        let memory = self.predicted_memory(recipe) >> 20;
        let at = |step: u64| self.schedule.at(step.min(self.steps - 1));
        let rates: Vec<(u64, f64)> =
            (0..=4).map(|part| part * self.steps / 4).map(|s| (s, at(s))).collect();
        let json = json!({
            "images": self.dataset.len(),
            "views": self.layout.views.len(),
            "view_sizes_px": self.layout.views.iter().map(|view| view.size_px).collect::<Vec<_>>(),
            "batch_size": self.layout.batch,
            "micro_batch_size": self.layout.micro_batch,
            "norm_group": self.layout.group,
            "steps_per_epoch": steps_per_epoch,
            "steps": self.steps,
            "warmup_steps": self.schedule.warmup_steps(),
            "peak_learning_rate": self.peak_learning_rate,
            "learning_rates": rates.iter().map(|(s, r)| json!([s, r])).collect::<Vec<_>>(),
            "backbone_parameters": recipe.backbone.parameter_count(),
            "features": recipe.backbone.features(),
            "device": recipe.train.device,
            "predicted_peak_memory_mb": memory,
        });
        let rates: Vec<String> =
            rates.iter().map(|(step, rate)| format!("{step}: {rate:.3e}")).collect();
        let sizes: Vec<String> =
            self.layout.views.iter().map(|view| format!("{0}x{0}", view.size_px)).collect();
        let left_out = match self.dataset.len() % self.layout.batch {
            0 => String::new(),
            rest => {
                format!(" (each epoch leaves out {rest} others, so that all batches are whole)")
            }
        };
        let text = format!(
            "images          {}{left_out}\nviews           {} per image ({} px)\nbatch           {} images, {} at a time, \
             statistics over {}\nsteps           {} ({} per epoch, {} of warm-up)\nlearning rates  {}\n\
             backbone        {} parameters, {} features\ndevice          {}\npeak memory     about {memory} MB",
            self.dataset.len(),
            self.layout.views.len(),
            sizes.join(", "),
            self.layout.batch,
            self.layout.micro_batch,
            self.layout.group,
            self.steps,
            steps_per_epoch,
            self.schedule.warmup_steps(),
            rates.join(", "),
            recipe.backbone.parameter_count(),
            recipe.backbone.features(),
            recipe.train.device,
        );
        Answer { text, json }
    }
}

/// Which images of each split a recipe uses.
pub(super) fn selection(recipe: &Recipe) -> Selection {
    Selection { limit: recipe.data.limit, holdout: recipe.data.holdout, seed: recipe.seed }
}

fn train_run(
    recipe: &Recipe,
    source: &Source,
    plan: &Plan,
    out: &Path,
    changes: &[String],
    trial: bool,
) -> Result<Answer> {
    let folder = RunFolder::open(out)?;
    let stop = Stop::on_signals()?;
    if read_status(out).is_some_and(|status| status.state == "running") {
        let text = "the last process of this run ended without a word: killed, or the machine went down; if the kernel \
                    killed it for want of memory (`dmesg` says so), set a smaller `data.micro_batch_size`";
        tell(&format!("warning: {text}"));
        folder.log(text)?;
    }
    tch::set_num_threads(recipe.train.threads as i32);
    if plan.layout.device == Device::Cpu {
        machine::limit_memory();
    }
    if !trial {
        again_after_crash();
    }
    for change in changes {
        tell(&format!("changed: {change}"));
        folder.log(&format!("changed: {change}"))?;
    }
    let status = attempt(recipe, source, plan, &folder, &stop).map_err(|error| {
        // Where the disk is full these fail too; the error at hand says more.
        let _ = match &error {
            Error::Interrupted(text) => folder.log(text),
            other => folder.log(&format!("stopped: {other}")),
        };
        let _ = report::write(folder.path());
        match error {
            Error::OutOfMemory(text) if !trial => again(&text),
            other => other,
        }
    })?;
    folder.log("finished")?;
    report::write(folder.path())?;
    Ok(answer(out, &status, "finished"))
}

/// Builds everything, takes the state of the last checkpoint, and trains.
fn attempt(
    recipe: &Recipe,
    source: &Source,
    plan: &Plan,
    folder: &RunFolder,
    stop: &Stop,
) -> diptych::error::Result<Status> {
    let layout = &plan.layout;
    let found = guard("reading the checkpoint", || {
        checkpoint::load_latest(&folder.join("checkpoints"), &mut |warning| {
            tell(&format!("warning: {warning}"));
            // A log that cannot be written shows at the next line, which must be.
            let _ = folder.log(&format!("warning: {warning}"));
        })
    })?;
    let first_step = found.as_ref().map_or(0, |found| found.header.step);
    let mut journal = found.as_ref().map_or_else(Journal::default, |f| f.header.journal.clone());
    // Those of a process that ended before it could write a checkpoint.
    for event in read_status(folder.path()).unwrap_or_default().history {
        journal.add(event);
    }
    let mut trained = guard("building the networks", || {
        let method =
            recipe.method.build(&recipe.backbone, recipe.seed, layout.device, layout.kind)?;
        let optimizer = Optimizer::new(recipe.train.optimizer.clone(), method.parameters());
        let labels = plan.labels.clone().filter(|_| recipe.train.probe.enabled);
        let probe = labels.map(|labels| {
            let (features, classes) = (method.backbone().features(), source.classes.len());
            let place = (layout.device, layout.kind);
            Probe::new(&recipe.train.probe, labels, classes, features, place)
        });
        Ok(Trained { method, optimizer, probe })
    })?;
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
        model: json!({
            // A checkpoint knows no paths.
            "backbone": BackboneConfig { weights: None, ..recipe.backbone.clone() },
            "preprocess": plan.preprocess,
        }),
        journal,
    };
    let mut bar = ProgressBar::new(first_step, plan.steps);
    let mut knn = KnnMonitor::new(recipe, source, &plan.preprocess, layout, folder.path());
    let mut pages = Pages::new(folder.path());
    let observers: &mut [&mut dyn Observer] = &mut [&mut bar, &mut knn, &mut pages];
    let result = train::train(job, folder, stop, observers);
    bar.finish();
    result
}

/// Puts the backbone of a model in place; what is to be remembered of it names its hash, not where it lay.
fn start_from(weights: &str, method: &dyn Method, device: Device) -> diptych::error::Result<Event> {
    let weights = Weights::load(Path::new(weights), device)?;
    method.parameters().load_part("backbone.", &weights.tensors()).map_err(|error| {
        Error::Weights(format!(
            "`backbone.weights`: `{}` does not fit: {error}",
            weights.file.display()
        ))
    })?;
    Ok(Event { step: 0, text: format!("started from weights {:.16}", weights.hash()) })
}

fn answer(out: &Path, status: &Status, state: &str) -> Answer {
    let page = out.join("report.html");
    let number = |value: Option<f64>, digits: usize| {
        value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let mut notes: Vec<String> =
        status.history.iter().map(|e| format!("\nnote: {}", e.text)).collect();
    if status.left_out > 0 {
        notes.push(format!("\nnote: {} of {} steps were left out", status.left_out, status.step));
    }
    let text = format!(
        "{}: {state}{}\nloss {}, {} views/s, {:.0} s, peak memory {} MB\n{}",
        out.display(),
        notes.concat(),
        number(status.final_loss, 4),
        number(status.views_per_second, 1),
        status.wall_seconds,
        status.peak_memory_mb,
        page.display()
    );
    let json = json!({
        "run": out,
        "state": status.state,
        "steps": status.step,
        "epochs": status.epoch,
        "final_loss": status.final_loss,
        "views_per_second": status.views_per_second,
        "wall_seconds": status.wall_seconds,
        "peak_memory_mb": status.peak_memory_mb,
        "damaged": status.damaged.len(),
        "left_out": status.left_out,
        "history": status.history,
        "warnings": status.warnings,
        "report": page,
    });
    Answer { text, json }
}

/// The recipe a run folder was started with.
fn earlier_recipe(out: &Path) -> Result<Option<Recipe>> {
    let path = out.join("recipe.toml");
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    Ok(Some(Recipe::parse(&text, &path.display().to_string(), &[])?))
}

/// What changed since the run was started, for the log; an error when it is what is computed.
fn compare(
    out: &Path,
    earlier: &Recipe,
    recipe: &Recipe,
    source: &Source,
    extend: bool,
) -> Result<Vec<String>> {
    let mut found = differences(earlier, recipe);
    let longer = |line: &String| {
        ["train.epochs:", "train.max_steps:"].iter().any(|key| line.starts_with(key))
    };
    if extend {
        let (longer, other) = found.what.into_iter().partition(longer);
        (found.what, found.how) = (other, [found.how, longer].concat());
    }
    let environment = std::fs::read_to_string(out.join("environment.json")).unwrap_or_default();
    let environment: Value = serde_json::from_str(&environment).unwrap_or_default();
    if let Some(before) = environment["data_fingerprint"].as_str()
        && before != source.fingerprint
    {
        found.what.push(format!(
            "content of the data: {:.12} -> {:.12} ({})",
            before, source.fingerprint, source.location
        ));
    }
    if !found.what.is_empty() {
        let way = if found.what.iter().all(longer) { "--extend to make it longer, " } else { "" };
        return Err(Error::Recipe(format!(
            "run folder `{}` holds a run that computes something else; use {way}another --out, or --fresh to start again \
             (the old run is kept):\n  {}",
            out.display(),
            found.what.join("\n  ")
        ))
        .into());
    }
    let bits = if found.bits_match { "same bits" } else { "other last bits from here on" };
    Ok(found.how.iter().map(|line| format!("{line} ({bits})")).collect())
}

/// Moves an earlier run out of the way, under the first free name.
fn set_aside(out: &Path) -> Result<()> {
    // Nobody may be working in it.
    drop(RunFolder::open(out)?);
    let name = |n: u32| {
        let mut name = out.as_os_str().to_owned();
        name.push(format!(".old-{n}"));
        PathBuf::from(name)
    };
    let mut number = 1;
    while name(number).exists() {
        number += 1;
    }
    let free = name(number);
    std::fs::rename(out, &free).map_err(Error::io("rename", out))?;
    tell(&format!("the earlier run is now {}", free.display()));
    Ok(())
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
