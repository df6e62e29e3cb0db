//! `diptych analyze map`: every image a point in the plane, like ones near to one another.

use super::compute_threads;
use super::models::renew;
use crate::cli::Answer;
use crate::cli::evaluate::{choose_preprocess, recipe_of};
use crate::cli::monitor::{image_bar, location, of_own_data, open_subset, round_bar};
use anyhow::Result;
use diptych::analyze::map::quality::Judge;
use diptych::analyze::map::tsne::Tsne;
use diptych::analyze::map::{Images, Map, Maps, VERSION, grouped};
use diptych::analyze::{Analysis, Form};
use diptych::augment::Preprocess;
use diptych::data::{Dataset, Selection, Source};
use diptych::error::Error;
use diptych::evaluate::run::{Part, features};
use diptych::evaluate::weights::{Layer, Weights};
use diptych::evaluate::{Cut, DataUsed, Features, WeightsUsed};
use diptych::recipe::Recipe;
use diptych::{machine, overrides};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tch::{Kind, Tensor};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  diptych analyze map runs/a
  diptych analyze map runs/a --layer h,z --split all data.limit=5000 tsne.perplexity=50
  diptych analyze map weights.safetensors --data photos/ --preprocess imagenet --out maps/photos

Settings (key=value): seed, threads, device, data.limit, data.subset, data.classes; map.algorithms, map.l2, map.clusters, \
map.neighbours, map.palette, map.picture_px; tsne.perplexity, tsne.iterations, tsne.learning_rate, tsne.exaggeration, \
tsne.exaggeration_iterations, tsne.theta, tsne.exact_up_to, tsne.start; judge.trust_k, judge.knn_k, judge.images")]
pub(in crate::cli) struct Arguments {
    /// A run folder, a checkpoint, or a file of another system (see `diptych weights show`)
    model: PathBuf,
    /// Settings to change, `key=value`
    overrides: Vec<String>,
    /// Images, labelled or not [default: what the run was trained on]
    #[arg(long)]
    data: Option<String>,
    /// Which splits: names with commas between them, or `all` [default: the one that evaluation asks about, or the only one]
    #[arg(long)]
    split: Option<String>,
    /// Which layers, with commas between them: h (the features), z (the projections), g1 and so on, or stem, block1 ...
    /// block4, averaged over the map; the first decides neighbours and clusters
    #[arg(long, default_value = "h")]
    layer: String,
    /// How images are prepared: imagenet, cifar, resize-S, center-S, ... [default: what the model file carries]
    #[arg(long)]
    preprocess: Option<String>,
    /// The folder for the maps [default: analyses/map in the run, with the layers behind it if they are others than h]
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Settings that are left out while they have no value.
const OPTIONAL: [&str; 5] =
    ["data.limit", "data.subset", "map.clusters", "map.picture_px", "tsne.learning_rate"];

/// What users set, `key=value`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    seed: u64,
    threads: usize,
    device: String,
    data: Data,
    map: Map,
    tsne: Tsne,
    judge: Judge,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subset: Option<String>,
    classes: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let started = Instant::now();
    let layers: Vec<Layer> = arguments
        .layer
        .split(',')
        .map(|name| Layer::named(name.trim()))
        .collect::<Result<_, _>>()?;
    let recipe = recipe_of(&arguments.model)?;
    let own = of_own_data(arguments.data.as_ref(), recipe.as_ref());
    let settings = Settings::new(own, &arguments.overrides)?;
    compute_threads(settings.threads);
    let location = location(arguments.data.as_ref(), recipe.as_ref())?;
    let source = open_subset(&location, settings.data.subset.as_ref(), &settings.data.classes)?;
    let chosen = splits(&source, arguments.split.as_deref())?;
    let device = machine::device(&settings.device)?;
    let weights = Weights::load(&arguments.model, device)?;
    let hash = weights.hash();
    let preprocess = choose_preprocess(arguments.preprocess.as_deref(), &weights)?;
    let folder = folder(arguments, &weights, &layers)?;
    let selection =
        Selection { limit: settings.data.limit, seed: settings.seed, ..Selection::default() };
    let subject =
        Subject { weights: &weights, preprocess: &preprocess, source: &source, selection };
    let (images, damaged) = subject.images(&chosen, &layers)?;
    let Settings { map, tsne, judge, seed, .. } = &settings;
    let maps = map.make(tsne, judge, &images, *seed, &mut Bars::default().follow())?;
    let file = weights.file.display().to_string();
    let used = WeightsUsed::frozen(&file, hash, weights.hash(), weights.matched)?;
    let facts = facts(arguments, &source, &images, &layers);
    let files = map.save(&maps, &images, &folder, &facts, &mut image_bar("small pictures"))?;
    let analysis = Analysis {
        kind: "map".to_owned(),
        version: VERSION,
        title: format!("Map of {}", names(&layers, " and ")),
        settings: told(&settings, &chosen, &layers, &preprocess)?,
        data: Some(DataUsed::of(&source, [0, images.len(), damaged], Cut::default())),
        models: BTreeMap::from([(
            last_name(&arguments.model),
            WeightsUsed {
                unexpected: weights.left_over.clone(),
                history: weights.history.clone(),
                ..used
            },
        )]),
        seed: settings.seed,
        numbers: numbers(&maps)?,
        files,
        wall_seconds: (started.elapsed().as_secs_f64() * 1e3).round() / 1e3,
        device: machine::device_name(device),
        diptych: env!("CARGO_PKG_VERSION").to_owned(),
        revision: (!machine::REVISION.is_empty()).then(|| machine::REVISION.to_owned()),
    };
    analysis.write(&folder)?;
    renew(&folder, &weights.run)?;
    let lost = if damaged > 0 { format!(", {damaged} could not be read") } else { String::new() };
    let count = grouped(images.len());
    let mut lines = vec![format!("{count} images of {}{lost}", chosen_names(&chosen))];
    for layout in &maps.layouts {
        lines.push(format!("  {}: {}", layout.title, layout.numbers().join(", ")));
    }
    let page = analysis.files.iter().find(|output| output.form == Form::Page);
    lines.extend(page.map(|page| folder.join(&page.file).display().to_string()));
    let mut json = serde_json::to_value(&analysis)?;
    json["folder"] = json!(folder);
    Ok(Answer { text: lines.join("\n"), json })
}

impl Settings {
    /// The defaults with what users set.
    fn new(recipe: Option<&Recipe>, overrides: &[String]) -> Result<Self> {
        let settings = Self {
            seed: recipe.map_or(0, |recipe| recipe.seed),
            threads: machine::cores(),
            device: "auto".to_owned(),
            data: Data {
                limit: None,
                subset: None,
                classes: recipe.map_or_else(Vec::new, |recipe| recipe.data.classes.clone()),
            },
            map: Map::default(),
            tsne: Tsne::default(),
            judge: Judge::default(),
        };
        let settings = overrides::apply(&settings, overrides, &OPTIONAL)?;
        settings.map.check()?;
        settings.tsne.check()?;
        settings.judge.check()?;
        Ok(settings)
    }
}

/// A bar for each thing that is done.
#[derive(Default)]
struct Bars {
    what: String,
    bar: Option<Box<dyn FnMut(u64, u64)>>,
}

impl Bars {
    fn follow(mut self) -> impl FnMut(&str, u64, u64) {
        move |what, done, all| {
            if self.what != what {
                what.clone_into(&mut self.what);
                self.bar = Some(Box::new(round_bar(what)));
            }
            if let Some(bar) = &mut self.bar {
                bar(done, all);
            }
        }
    }
}

/// Where the maps go.
fn folder(arguments: &Arguments, weights: &Weights, layers: &[Layer]) -> Result<PathBuf> {
    let name = match layers {
        [Layer::H] => "map".to_owned(),
        layers => format!("map-{}", names(layers, "-")),
    };
    let run = weights.run.as_ref().map(|run| run.join("analyses").join(name));
    Ok(arguments.out.clone().or(run).ok_or_else(|| {
        let text = "a model that is no run folder has no place for a map; name one with --out";
        Error::Recipe(text.to_owned())
    })?)
}

/// The last part of a path.
fn last_name(path: &Path) -> String {
    path.file_name().map_or(path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// A split by its name.
type Split = (String, Arc<dyn Dataset>);

/// The splits that are asked for.
fn splits(source: &Source, wanted: Option<&str>) -> Result<Vec<Split>> {
    let all = &source.splits;
    let Some(wanted) = wanted else {
        let asked = ["test", "testing", "validation", "val", "valid"];
        let found = asked.iter().find_map(|name| all.iter().find(|(known, _)| known == name));
        return match (found, &all[..]) {
            (Some(split), _) => Ok(vec![split.clone()]),
            (None, [only]) => Ok(vec![only.clone()]),
            _ => Err(Error::Recipe(format!(
                "`{}` has the splits {}; choose with --split, `all` takes every one",
                source.location,
                chosen_names(all)
            ))
            .into()),
        };
    };
    if wanted == "all" {
        return Ok(all.clone());
    }
    let mut chosen: Vec<Split> = Vec::new();
    for name in wanted.split(',').map(str::trim) {
        let split = all.iter().find(|(known, _)| known == name).ok_or_else(|| {
            Error::Data(format!(
                "`{}` has no split `{name}`, only {}",
                source.location,
                chosen_names(all)
            ))
        })?;
        if !chosen.iter().any(|(known, _)| known == name) {
            chosen.push(split.clone());
        }
    }
    Ok(chosen)
}

fn chosen_names(splits: &[Split]) -> String {
    let names: Vec<String> = splits.iter().map(|(name, _)| format!("`{name}`")).collect();
    names.join(", ")
}

fn names(layers: &[Layer], between: &str) -> String {
    let names: Vec<String> = layers.iter().map(|layer| layer.name()).collect();
    names.join(between)
}

/// A model and where its images come from.
struct Subject<'a> {
    weights: &'a Weights,
    preprocess: &'a Preprocess,
    source: &'a Source,
    selection: Selection,
}

impl<'a> Subject<'a> {
    /// The images of some splits with their features, and how many could not be read.
    fn images(&self, splits: &[Split], layers: &[Layer]) -> Result<(Images<'a>, usize)> {
        let mut parts = Vec::new();
        for (name, dataset) in splits {
            let dataset = match self.selection.limit {
                Some(limit) => {
                    diptych::data::subset::limit(Arc::clone(dataset), limit, self.selection.seed)
                }
                None => Arc::clone(dataset),
            };
            parts.push((name.clone(), dataset));
        }
        let mut rows: Vec<Vec<Tensor>> = layers.iter().map(|_| Vec::new()).collect();
        let (mut labels, mut paths, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let mut damaged = 0;
        for (part, (name, dataset)) in parts.iter().enumerate() {
            for (at, layer) in layers.iter().enumerate() {
                let found = self.features(name, dataset, *layer)?;
                rows[at].push(found.h.to_kind(Kind::Float));
                if at > 0 {
                    continue;
                }
                labels.extend(integers(&found.labels));
                places.extend(integers(&found.index).into_iter().map(|at| (part, at as usize)));
                paths.extend(found.paths);
                damaged += found.damaged.len();
            }
        }
        let layers = layers.iter().zip(&rows);
        let layers = layers.map(|(layer, rows)| (layer.name(), Tensor::cat(rows, 0))).collect();
        let classes = &self.source.classes;
        Ok((Images { layers, labels, classes, paths, parts, places }, damaged))
    }

    /// Features of a split, from those that the run has stored if they are there: protocols store under the names of the
    /// parts that splits play in them.
    fn features(&self, name: &str, dataset: &Arc<dyn Dataset>, layer: Layer) -> Result<Features> {
        let role = match name {
            "train" | "training" => Some("references"),
            "test" | "testing" => Some("queries"),
            "validation" | "val" | "valid" => None,
            _ if self.source.splits.len() == 1 => Some("images"),
            _ => None,
        };
        let store = self.weights.run.as_ref().filter(|_| role.is_some());
        let store = store.map(|run| run.join("features"));
        let part = Part {
            dataset: Arc::clone(dataset),
            role: role.unwrap_or("split"),
            source: self.source,
            selection: self.selection,
        };
        let bar = &mut image_bar(&format!("{} of {name}", layer.name()));
        Ok(features(self.weights, self.preprocess, layer, &part, store.as_deref(), bar)?)
    }
}

fn integers(tensor: &Tensor) -> Vec<i64> {
    let mut values = vec![0; tensor.numel()];
    tensor.to_kind(Kind::Int64).contiguous().copy_data(&mut values, tensor.numel());
    values
}

/// What stands above the map in its page.
fn facts(
    arguments: &Arguments,
    source: &Source,
    images: &Images<'_>,
    layers: &[Layer],
) -> Vec<(String, String)> {
    let parts: Vec<&str> = images.parts.iter().map(|(name, _)| name.as_str()).collect();
    let location = last_name(Path::new(&source.location));
    let classes = match source.classes.len() {
        0 => "none".to_owned(),
        count => grouped(count),
    };
    [
        ("Model", last_name(&arguments.model)),
        ("Layer", names(layers, ", ")),
        ("Data", format!("{location}, {}", parts.join(" and "))),
        ("Images", grouped(images.len())),
        ("Classes", classes),
    ]
    .map(|(label, text)| (label.to_owned(), text))
    .into()
}

/// Everything that decides what comes out.
fn told(
    settings: &Settings,
    splits: &[Split],
    layers: &[Layer],
    preprocess: &Preprocess,
) -> Result<BTreeMap<String, Value>> {
    let mut told: BTreeMap<String, Value> = overrides::flatten(settings)
        .into_iter()
        .filter(|(key, _)| !["seed", "threads", "device"].contains(&key.as_str()))
        .map(|(key, value)| {
            let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
            (key, value)
        })
        .collect();
    let splits: Vec<&str> = splits.iter().map(|(name, _)| name.as_str()).collect();
    let layers: Vec<String> = layers.iter().map(|layer| layer.name()).collect();
    told.insert("splits".to_owned(), json!(splits));
    told.insert("layers".to_owned(), json!(layers));
    told.insert("preprocess".to_owned(), serde_json::to_value(preprocess)?);
    Ok(told)
}

/// The numbers of each map.
fn numbers(maps: &Maps) -> Result<BTreeMap<String, Value>> {
    let mut numbers = BTreeMap::new();
    for layout in &maps.layouts {
        let mut of_map = serde_json::to_value(layout.quality)?;
        if let Some(kl) = layout.kl {
            of_map["kl"] = json!(kl);
        }
        if let Some(explained) = layout.explained {
            of_map["explained"] = json!(explained);
        }
        numbers.insert(layout.id.clone(), of_map);
    }
    Ok(numbers)
}
