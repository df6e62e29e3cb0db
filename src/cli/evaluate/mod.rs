//! `diptych evaluate`: a protocol's number, with everything that made it.

mod probe;
mod quality;
pub(in crate::cli) mod settings;
mod stored;
mod subject;
mod trained;
mod transfer;

use super::{Answer, tell};
use anyhow::Result;
use diptych::augment::Preprocess;
use diptych::error::Error;
use diptych::evaluate::Record;
use diptych::evaluate::weights::Weights;
use diptych::recipe::Recipe;
use diptych::weights::{Family, Prepared};
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
Settings (key=value): seed, seeds, threads, device, groups (auto, off, liu, cld: top-1 of frequent, medium and rare classes), \
data.limit, data.holdout, data.classes, data.subset, data.label_fraction; knn.k, knn.temperature, \
knn.distance; sweep.k, sweep.temperature, sweep.distance, sweep.holdout")]
    Knn(Arguments),
    /// A linear classifier on stored features
    #[command(after_help = "Examples:
  diptych evaluate linear runs/a --data cifar10/ data.limit=5000

Variants (--protocol): linear-features (SGD, 100 epochs), adam-features (Adam, 800 epochs)
Settings (key=value): seed, seeds, threads, device, groups, data.limit, data.holdout, data.classes, data.subset, \
data.label_fraction; linear.epochs, linear.batch_size, linear.optimizer.*, linear.centre, linear.zero_start, \
linear.replay_order")]
    Linear(Arguments),
    /// Logistic regression to its minimum, its penalty chosen on held-out references
    #[command(after_help = "Examples:
  diptych evaluate logistic runs/a --data cifar10/
  diptych evaluate logistic runs/a logistic.lambda=0.1 logistic.metric=mean_per_class

Variants (--protocol): logistic (45 penalties, each to its minimum), logistic-reference (as published: 100 iterations, each \
from the one before)
Settings (key=value): seed, seeds, threads, device, groups, data.*; logistic.solver, logistic.lambda, \
logistic.max_iterations, logistic.metric, logistic.validation_share, logistic.difficult, logistic.average_precision")]
    Logistic(Arguments),
    /// Whether the nearest images are of the same class: R@K, P@K, mAP@R
    #[command(after_help = "Examples:
  diptych evaluate retrieval runs/a --data cifar10/ retrieval.k=[1,10,100]

Settings (key=value): seed, seeds, threads, device, data.*; retrieval.k, retrieval.map_at_r, retrieval.same")]
    Retrieval(Arguments),
    /// Whether k-means finds the classes: NMI, AMI, ARI, accuracy
    #[command(after_help = "Examples:
  diptych evaluate clusters runs/a --data cifar10/ clusters.k=20

Settings (key=value): seed, seeds, threads, device, data.*; clusters.k, clusters.seeds, clusters.k_means.*")]
    Clusters(Arguments),
    /// Classes from a few examples: episodes of N ways and K shots
    #[command(after_help = "Examples:
  diptych evaluate few-shot runs/a --data cifar100/ few_shot.ways=20 few_shot.shots=1

Settings (key=value): seed, seeds, threads, device, data.*; few_shot.ways, few_shot.shots, few_shot.queries, \
few_shot.episodes, few_shot.distance")]
    FewShot(Arguments),
    /// What h and z keep of a transformation: colour, rotation, noise, edges
    #[command(after_help = "Examples:
  diptych evaluate probe runs/a probe.epochs=5 data.limit=5000

Settings (key=value): seed, seeds, threads, device, data.*; probe.questions, probe.hidden, probe.epochs, probe.batch_size, \
probe.learning_rate, probe.weight_decay, probe.noise_std")]
    Probe(Arguments),
    /// Without labels: effective rank, uniformity, alignment, how steady features are under each augmentation
    #[command(after_help = "Examples:
  diptych evaluate quality runs/a
  diptych evaluate quality resnet50.pth --data photos/ alignment.views=mocov2

Settings (key=value): seed, seeds, threads, device, data.*; quality.images, quality.t, quality.alpha, invariance.images, \
alignment.images, alignment.views")]
    Quality(Arguments),
    /// Training with labels on top of the model: all of it, or a linear layer, as a paper does it
    #[command(after_help = "Examples:
  diptych evaluate finetune runs/a --protocol semi-simclr data.label_fraction=0.01 seeds=3
  diptych evaluate finetune runs/a --protocol moco --data cifar10/ epochs.all=20
  diptych evaluate finetune runs/a --protocol transfer-ssl grid.learning_rates=[0.01]

Protocols (--protocol): simclr, simclr-code, simclr-code-cifar, simclr-lars, moco, cld, ft-in100-r18, ft-in100-r50, ft-in1k, \
simsiam, lightly, solo-in100, course (a linear layer on the frozen backbone); semi-simclr, semi-simclrv2, semi-cld, \
finetune-lightly, transfer-simclr, transfer-simclr-random, transfer-ssl, ft-fine-grained (all weights)
Settings (key=value): seed, seeds, threads, device, groups, data.limit, data.holdout, data.classes, data.subset, \
data.label_fraction; the protocol's own: epochs.all, batch_size, optimizer.*, schedule.*, grid.*; the run's: data.micro_batch_size, train.*

The same command again goes on where it stopped.")]
    Finetune(Trained),
    /// Logistic regression on a table of other data sets, of whatever of it is on disk
    #[command(after_help = "Examples:
  diptych evaluate transfer runs/a --suite transfer.toml

with a file such as
  [[set]]
  name = \"food101\"
  path = \"/data/food-101\"

Settings (key=value): seed, threads, device; logistic.* but for the metric, which is each set's own")]
    Transfer(transfer::Transfer),
}

/// What a protocol that trains is told.
#[derive(clap::Args)]
pub(super) struct Trained {
    /// A run folder, a checkpoint, or a file of another system (see `diptych weights show`)
    model: PathBuf,
    /// Settings to change, `key=value`
    overrides: Vec<String>,
    /// Labelled images [default: what the run was trained on]
    #[arg(long)]
    data: Option<String>,
    /// Whose protocol
    #[arg(long, default_value = "finetune-lightly")]
    protocol: String,
    /// How images are prepared for judging: imagenet, cifar, resize-S, center-S, ... [default: what the model file carries]
    #[arg(long)]
    preprocess: Option<String>,
    /// The folder for the runs [default: trained/ in the run]
    #[arg(long)]
    out: Option<PathBuf>,
}

/// What a protocol on features is told.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// A run folder, a checkpoint, or a file of another system (see `diptych weights show`)
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
    /// Which layer: h (the features), z (the projections), g1 and so on (layers of the projector), or stem, block1 ...
    /// block4, averaged over the map
    #[arg(long, default_value = "h")]
    layer: String,
    /// Measure raw pixels and untrained weights the same way
    #[arg(long)]
    baselines: bool,
    /// The folder for the record [default: evaluations/ in the run]
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Arguments {
    /// Refuses options that a protocol has no use for, rather than not heeding them.
    fn refuse(&self, protocol: &str, options: &[&str]) -> Result<()> {
        let given = [
            ("--protocol", self.protocol.is_some()),
            ("--baselines", self.baselines),
            ("--layer", self.layer != "h"),
        ];
        match given.iter().find(|(option, given)| *given && options.contains(option)) {
            None => Ok(()),
            Some((option, _)) => {
                Err(Error::Recipe(format!("`evaluate {protocol}` has no `{option}`")).into())
            }
        }
    }
}

pub(super) fn run(command: &Command) -> Result<Answer> {
    match command {
        Command::Knn(arguments) => stored::run(arguments, settings::KNN),
        Command::Linear(arguments) => stored::run(arguments, settings::LINEAR),
        Command::Logistic(arguments) => stored::run(arguments, settings::LOGISTIC),
        Command::Retrieval(arguments) => stored::run(arguments, settings::RETRIEVAL),
        Command::Clusters(arguments) => stored::run(arguments, settings::CLUSTERS),
        Command::FewShot(arguments) => stored::run(arguments, settings::FEW_SHOT),
        Command::Probe(arguments) => probe::run(arguments),
        Command::Quality(arguments) => quality::run(arguments),
        Command::Transfer(arguments) => transfer::run(arguments),
        Command::Finetune(arguments) => trained::run(arguments, &arguments.protocol),
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

/// What was asked for, with the mean and deviation of the weights, or what the file carries; of a file of another system,
/// what its authors published, which is told.
pub(super) fn choose_preprocess(id: Option<&str>, weights: &Weights) -> Result<Preprocess> {
    let family = weights.family;
    match (id, &weights.preprocess) {
        (Some(id), Some(own)) => Ok(Preprocess::named(id)?.normalized(own.mean, own.std)),
        (Some(id), None) => {
            // A family of several says with each what it normalises by.
            let published =
                family.and_then(|family| family.preprocess.iter().find(|it| it.id == id));
            let chosen = published.map_or_else(|| Preprocess::named(id), Prepared::preprocess)?;
            // What all of a family normalise by holds for any size.
            let normalization =
                family.filter(|_| published.is_none()).and_then(Family::normalization);
            Ok(match normalization {
                Some((mean, std)) => chosen.normalized(mean, std),
                None => chosen,
            })
        }
        (None, Some(own)) => {
            if let Some(family) = family {
                let (id, title) = (&own.id, family.title);
                tell(&format!(
                    "weights of {title}: images are prepared as published, `--preprocess {id}`"
                ));
            }
            Ok(own.clone())
        }
        (None, None) => {
            let file = weights.file.display();
            let published = family.map_or(&[][..], |family| family.preprocess);
            let why = if published.is_empty() {
                format!("`{file}` does not say how images must be prepared")
            } else {
                let ids: Vec<&str> = published.iter().map(|known| known.id).collect();
                let title = family.map_or("", |family| family.title);
                format!(
                    "`{file}` is of {title}, which prepared images in several ways: {}",
                    ids.join(", ")
                )
            };
            Err(Error::Recipe(format!(
                "{why}; choose with --preprocess one of {}, resize-S, center-S, short-S",
                Preprocess::IDS.join(", ")
            ))
            .into())
        }
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
    for (name, measure) in &record.also {
        let value = diptych::report::measured(name, measure.value);
        lines.push(format!("  {}: {value}", name.replace('_', " ")));
    }
    for (name, value) in &record.chosen {
        lines.push(format!("  chosen {name}: {value}"));
    }
    for (name, measure) in &record.baselines {
        lines.push(format!("  the same with {name}: {}", told(measure.value)));
    }
    lines.extend(file.map(|file| file.display().to_string()));
    lines.join("\n")
}
