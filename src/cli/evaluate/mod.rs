//! `diptych evaluate`: a protocol's number, with everything that made it.

mod settings;
mod stored;

use super::Answer;
use anyhow::Result;
use diptych::augment::Preprocess;
use diptych::error::Error;
use diptych::evaluate::Record;
use diptych::evaluate::weights::Weights;
use diptych::recipe::Recipe;
use std::path::{Path, PathBuf};

pub(super) const EXAMPLES: &str = "Examples:
  diptych evaluate knn runs/a
  diptych evaluate linear runs/a --data cifar10/ --baselines";

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Weighted k-nearest neighbours
    #[command(after_help = "Examples:
  diptych evaluate knn runs/a --data cifar10/
  diptych evaluate knn runs/a --protocol knn-npid --baselines

Variants (--protocol): knn (200 neighbours, temperature 0.1), knn-1 (the nearest), knn-npid (temperature 0.07), knn-sweep (a grid \
of k, temperature and distance in one search; one is chosen on held-out references)
Settings (key=value): seed, seeds, threads, device, data.limit, data.holdout, data.classes, data.subset, data.label_fraction; knn.k, knn.temperature, \
knn.distance; sweep.k, sweep.temperature, sweep.distance, sweep.holdout")]
    Knn(Arguments),
    /// A linear classifier on stored features
    #[command(after_help = "Examples:
  diptych evaluate linear runs/a --data cifar10/ data.limit=5000

Variants (--protocol): linear-features (SGD, 100 epochs), adam-features (Adam, 800 epochs)
Settings (key=value): seed, seeds, threads, device, data.limit, data.holdout, data.classes, data.subset, data.label_fraction; linear.epochs, linear.batch_size, \
linear.optimizer, ...")]
    Linear(Arguments),
}

/// What a protocol on features is told.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// A run folder, a checkpoint, or a safetensors file with torchvision's names
    model: PathBuf,
    /// Settings to change, `key=value`
    overrides: Vec<String>,
    /// Labelled images [default: what the run was trained on]
    #[arg(long)]
    data: Option<String>,
    /// Which variant of the protocol [default: the first]
    #[arg(long)]
    protocol: Option<String>,
    /// How images are prepared: imagenet, cifar, resize-S, center-S, ... [default: what the model file carries]
    #[arg(long)]
    preprocess: Option<String>,
    /// Which layer: h (the features), or stem, block1 ... block4, averaged over the map
    #[arg(long, default_value = "h")]
    layer: String,
    /// Measure raw pixels and untrained weights the same way
    #[arg(long)]
    baselines: bool,
    /// The folder for the record [default: evaluations/ in the run]
    #[arg(long)]
    out: Option<PathBuf>,
}

pub(super) fn run(command: &Command) -> Result<Answer> {
    match command {
        Command::Knn(arguments) => stored::run(arguments, settings::KNN),
        Command::Linear(arguments) => stored::run(arguments, settings::LINEAR),
    }
}

/// The recipe of a run folder, if the model is one.
pub(super) fn recipe_of(model: &Path) -> Result<Option<Recipe>> {
    let path = model.join("recipe.toml");
    if !path.is_file() {
        return Ok(None);
    }
    Ok(Some(Recipe::load(&path.display().to_string(), &[])?))
}

/// What was asked for, with the mean and deviation of the weights, or what the file carries.
pub(super) fn choose_preprocess(id: Option<&str>, weights: &Weights) -> Result<Preprocess> {
    match (id, &weights.preprocess) {
        (Some(id), Some(own)) => Ok(Preprocess::named(id)?.normalized(own.mean, own.std)),
        (Some(id), None) => Ok(Preprocess::named(id)?),
        (None, Some(own)) => Ok(own.clone()),
        (None, None) => Err(Error::Recipe(format!(
            "`{}` does not say how images must be prepared; choose with --preprocess one of {}, resize-S, center-S",
            weights.file.display(),
            Preprocess::IDS.join(", ")
        ))
        .into()),
    }
}

/// The number in a sentence, and what lies beside it.
fn describe(record: &Record, file: Option<&Path>) -> String {
    let told = |value: f64| diptych::report::measured(&record.metric, value);
    let spread = match (&record.repeats, record.interval_95) {
        (Some(repeats), _) => {
            format!(" ± {} over {} seeds", told(repeats.deviation), repeats.seeds.len())
        }
        (None, Some([low, high])) => format!(" (95 %: {} to {})", told(low), told(high)),
        (None, None) => String::new(),
    };
    let mut lines = vec![format!(
        "{} {}: {}{spread}, {} queries, {} references",
        record.protocol,
        record.metric,
        told(record.value),
        record.data.queries,
        record.data.references
    )];
    for (name, value) in &record.chosen {
        lines.push(format!("  chosen {name}: {value}"));
    }
    for (name, measure) in &record.baselines {
        lines.push(format!("  the same with {name}: {}", told(measure.value)));
    }
    lines.extend(file.map(|file| file.display().to_string()));
    lines.join("\n")
}
