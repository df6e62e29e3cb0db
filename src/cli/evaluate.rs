//! `diptych evaluate`: a protocol's number, with everything that made it.

use super::monitor::{image_bar, location, open_subset};
use super::{Answer, tell};
use anyhow::Result;
use diptych::augment::Preprocess;
use diptych::data::{Selection, Source};
use diptych::error::Error;
use diptych::evaluate::features::Features;
use diptych::evaluate::neighbours::gallery;
use diptych::evaluate::record::hash_classes;
use diptych::evaluate::run::{Part, features, neighbours_gallery, parts, pixel_features};
use diptych::evaluate::weights::{Layer, Weights};
use diptych::evaluate::{DataUsed, Knn, Linear, Measure, Record, WeightsUsed, knn, linear};
use diptych::recipe::Recipe;
use diptych::{machine, overrides, report};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  diptych evaluate knn runs/a --data cifar10/
  diptych evaluate linear runs/a --data cifar10/ data.limit=5000

Settings (`key=value`): seed, threads, device, data.limit, data.holdout, data.classes, data.subset, data.label_fraction; knn.k, knn.temperature; linear.epochs.")]
pub(super) struct Arguments {
    /// How to judge
    #[arg(value_enum, value_name = "PROTOCOL")]
    kind: Kind,
    /// A run folder, a checkpoint, or a safetensors file with torchvision's names
    model: PathBuf,
    /// Settings to change, `key=value`
    overrides: Vec<String>,
    /// Labelled images [default: what the run was trained on]
    #[arg(long)]
    data: Option<String>,
    /// Which variant: knn, knn-1 or knn-npid; linear-features or adam-features [default: the first]
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

#[derive(Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// Weighted k-nearest neighbours
    Knn,
    /// A linear classifier on stored features
    Linear,
}

/// Settings of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    seed: u64,
    threads: usize,
    device: String,
    data: DataSettings,
    knn: KnnSettings,
    linear: LinearSettings,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DataSettings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subset: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label_fraction: Option<f64>,
    holdout: f64,
    classes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KnnSettings {
    k: usize,
    temperature: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LinearSettings {
    epochs: u64,
}

/// A protocol with its settings.
enum Protocol {
    Knn(&'static str, Knn),
    Linear(&'static str, Linear),
}

impl Protocol {
    fn choose(kind: Kind, id: Option<&str>) -> Result<Self> {
        Ok(match (kind, id) {
            (Kind::Knn, None | Some("knn")) => Self::Knn("knn", Knn::default()),
            (Kind::Knn, Some("knn-1")) => Self::Knn("knn-1", Knn::nearest()),
            (Kind::Knn, Some("knn-npid")) => Self::Knn("knn-npid", Knn::npid()),
            (Kind::Linear, None | Some("linear-features")) => {
                Self::Linear("linear-features", Linear::features())
            }
            (Kind::Linear, Some("adam-features")) => {
                Self::Linear("adam-features", Linear::adam_features())
            }
            (kind, Some(other)) => {
                let known = match kind {
                    Kind::Knn => "knn, knn-1, knn-npid",
                    Kind::Linear => "linear-features, adam-features",
                };
                return Err(Error::Recipe(format!(
                    "`--protocol` must be one of {known}, found `{other}`"
                ))
                .into());
            }
        })
    }

    fn settings(&self, recipe: Option<&Recipe>) -> Settings {
        let knn = if let Self::Knn(_, knn) = self { *knn } else { Knn::default() };
        let linear = if let Self::Linear(_, linear) = self { *linear } else { Linear::features() };
        Settings {
            seed: recipe.map_or(0, |recipe| recipe.seed),
            threads: machine::cores(),
            device: "auto".to_owned(),
            data: DataSettings {
                limit: None,
                subset: None,
                label_fraction: None,
                holdout: recipe.map_or(0.0, |recipe| recipe.data.holdout),
                classes: recipe.map_or_else(Vec::new, |recipe| recipe.data.classes.clone()),
            },
            knn: KnnSettings { k: knn.k, temperature: knn.temperature },
            linear: LinearSettings { epochs: linear.epochs },
        }
    }

    fn with(self, settings: &Settings) -> Self {
        match self {
            Self::Knn(id, _) => {
                let KnnSettings { k, temperature } = settings.knn;
                Self::Knn(id, Knn { k, temperature })
            }
            Self::Linear(id, linear) => {
                Self::Linear(id, Linear { epochs: settings.linear.epochs, ..linear })
            }
        }
    }

    /// Top-1, and what else the protocol measures.
    fn measure(
        &self,
        queries: &Features,
        references: &Features,
        seed: u64,
    ) -> Result<(Measure, BTreeMap<String, Measure>)> {
        let mut also = BTreeMap::new();
        let ranks = match self {
            Self::Knn(_, knn) => knn.evaluate(queries, references)?,
            Self::Linear(_, linear) => {
                let outcome = linear.evaluate(queries, references, seed, &mut |_, _| ())?;
                let loss = Measure { value: outcome.train_loss, interval_95: None };
                also.insert("train_loss".to_owned(), loss);
                also.insert("train_top1".to_owned(), outcome.training.top(1));
                outcome.ranks
            }
        };
        if let Some(top5) = ranks.top5() {
            also.insert("top5".to_owned(), top5);
        }
        also.insert("mean_per_class".to_owned(), ranks.mean_per_class(seed));
        Ok((ranks.top(1), also))
    }

    fn id(&self) -> &'static str {
        match self {
            Self::Knn(id, _) | Self::Linear(id, _) => id,
        }
    }

    fn version(&self) -> u32 {
        match self {
            Self::Knn(..) => knn::VERSION,
            Self::Linear(..) => linear::VERSION,
        }
    }

    fn as_json(&self) -> Result<BTreeMap<String, serde_json::Value>> {
        let value = match self {
            Self::Knn(_, knn) => serde_json::to_value(knn)?,
            Self::Linear(_, linear) => serde_json::to_value(linear)?,
        };
        Ok(serde_json::from_value(value)?)
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let started = Instant::now();
    let protocol = Protocol::choose(arguments.kind, arguments.protocol.as_deref())?;
    let layer = Layer::named(&arguments.layer)?;
    let recipe = recipe_of(&arguments.model)?;
    let settings = overrides::apply(
        &protocol.settings(recipe.as_ref()),
        &arguments.overrides,
        &["data.limit", "data.subset", "data.label_fraction"],
    )?;
    let protocol = protocol.with(&settings);
    let location = location(arguments.data.as_ref(), recipe.as_ref())?;
    let source = open_subset(&location, settings.data.subset.as_ref(), &settings.data.classes)?;
    judge_source(&source, recipe.as_ref(), &settings)?;
    tch::set_num_threads(settings.threads.max(1) as i32);
    let device = machine::device(&settings.device)?;
    let weights = Weights::load(&arguments.model, device)?;
    let hash_before = weights.hash();
    let preprocess = choose_preprocess(arguments.preprocess.as_deref(), &weights)?;
    let selection = Selection {
        limit: settings.data.limit,
        holdout: settings.data.holdout,
        label_fraction: settings.data.label_fraction,
        seed: settings.seed,
    };
    let parts = parts(&source, &selection)?;
    let store = weights.run.as_ref().map(|run| run.join("features"));
    let of = |part: &Part<'_>| {
        features(&weights, &preprocess, layer, part, store.as_deref(), &mut image_bar(part.role))
    };
    let [references, queries] = [of(&parts[0])?, of(&parts[1])?];
    let (value, also) = protocol.measure(&queries, &references, settings.seed)?;
    let mut baselines = BTreeMap::new();
    if arguments.baselines {
        let untrained = weights.untrained(settings.seed)?;
        let of = |part: &Part<'_>| {
            features(&untrained, &preprocess, layer, part, None, &mut image_bar("untrained"))
        };
        let [references, queries] = [of(&parts[0])?, of(&parts[1])?];
        let untrained = protocol.measure(&queries, &references, settings.seed)?.0;
        baselines.insert("untrained".to_owned(), untrained);
        let [references, queries] =
            [pixel_features(&preprocess, &parts[0])?, pixel_features(&preprocess, &parts[1])?];
        let pixels = protocol.measure(&queries, &references, settings.seed)?.0;
        baselines.insert("pixels".to_owned(), pixels);
    }
    let record = Record {
        protocol: protocol.id().to_owned(),
        version: protocol.version(),
        metric: "top1".to_owned(),
        value: value.value,
        interval_95: value.interval_95,
        also,
        baselines,
        settings: protocol.as_json()?,
        data: DataUsed {
            location: source.location.clone(),
            format: source.format.clone(),
            fingerprint: source.fingerprint.clone(),
            references: references.len(),
            queries: queries.len(),
            damaged: references.damaged.len() + queries.damaged.len(),
            classes: source.classes.len(),
            class_list_hash: hash_classes(&source.classes),
        },
        weights: WeightsUsed {
            unexpected: weights.left_over.clone(),
            history: weights.history.clone(),
            ..WeightsUsed::frozen(
                &weights.file.display().to_string(),
                hash_before,
                weights.hash(),
                weights.matched,
            )?
        },
        layer: layer.name().to_owned(),
        preprocess: preprocess.id.clone(),
        seed: settings.seed,
        choice: "last".to_owned(),
        wall_seconds: (started.elapsed().as_secs_f64() * 1e3).round() / 1e3,
        device: machine::device_name(device),
        threads: settings.threads,
        diptych: env!("CARGO_PKG_VERSION").to_owned(),
        revision: (!machine::REVISION.is_empty()).then(|| machine::REVISION.to_owned()),
    };
    let folder = arguments.out.clone().or(weights.run.as_ref().map(|run| run.join("evaluations")));
    let file = folder.map(|folder| record.save(&folder)).transpose()?;
    if let Some(run) = &weights.run {
        let examples = gallery(&queries, &references, 8, 8, false)?;
        let (queries, references) = (parts[1].dataset.as_ref(), parts[0].dataset.as_ref());
        neighbours_gallery(&examples, queries, references, &source.classes, false)?
            .save(&run.join("pictures"), "neighbours")?;
        report::write(run)?;
    }
    Ok(Answer { text: describe(&record, file.as_deref()), json: serde_json::to_value(&record)? })
}

/// Refuses data without labels; says so where what is asked about was trained on.
fn judge_source(source: &Source, recipe: Option<&Recipe>, settings: &Settings) -> Result<()> {
    if source.classes.is_empty() {
        return Err(Error::Data(format!(
            "`{}` has no labels, which every protocol needs; without them there is `diptych embed`, and the nearest neighbours \
             in the run's report.html",
            source.location
        ))
        .into());
    }
    let trained_on = recipe.is_some_and(|recipe| {
        settings.data.holdout > 0.0
            && recipe.data.source.as_ref() == Some(&source.location)
            && (recipe.data.holdout, recipe.seed) != (settings.data.holdout, settings.seed)
    });
    if trained_on {
        tell(
            "note: the images asked about were trained on, without their labels; train with the same data.holdout to keep them \
             out",
        );
    }
    Ok(())
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

fn describe(record: &Record, file: Option<&Path>) -> String {
    let percent = |measure: f64| format!("{:.2} %", 100.0 * measure);
    let interval = record.interval_95.map_or(String::new(), |[low, high]| {
        format!(" (95 %: {:.2} to {:.2})", 100.0 * low, 100.0 * high)
    });
    let mut lines = vec![format!(
        "{} {}: {}{interval}, {} queries, {} references",
        record.protocol,
        record.metric,
        percent(record.value),
        record.data.queries,
        record.data.references
    )];
    for (name, measure) in &record.baselines {
        lines.push(format!("  the same with {name}: {}", percent(measure.value)));
    }
    lines.extend(file.map(|file| file.display().to_string()));
    lines.join("\n")
}
