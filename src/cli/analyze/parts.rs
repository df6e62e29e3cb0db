//! `diptych analyze parts`: parts of objects, clustered feature maps laid over the image.

use super::compute_threads;
use super::models::{name, renew};
use crate::cli::Answer;
use crate::cli::evaluate::recipe_of;
use crate::cli::monitor::{location, open_source, round_bar};
use anyhow::Result;
use diptych::analyze::parts::{self, Found, OPTIONAL, Scope, Subject, Told};
use diptych::data::{Dataset, Source};
use diptych::error::Error;
use diptych::evaluate::weights::Weights;
use diptych::evaluate::{Cut, DataUsed, WeightsUsed};
use diptych::{machine, overrides};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  diptych analyze parts runs/a --data photos/ --out parts/
  diptych analyze parts runs/simclr runs/supervised --untrained --pixels --data photos/ --out parts/
  diptych analyze parts runs/a --data photos/ --out parts/ images=10 parts.together=true parts.blocks=4
  diptych analyze parts runs/a --data voc/ --masks voc-parts/ --out parts/
  diptych analyze parts runs/a --out parts/ --index 3,17 parts.algorithms=k-means,ward,bisecting

Settings (key=value): seed, threads, device, images (how many, from the front of the split);
parts.blocks (2,3,4), parts.clusters (2,4,6,8), parts.algorithms (k-means, ward, bisecting, spherical, spectral,
spectral-cld), parts.together (one clustering for all images), parts.mode (report, as-published), parts.order (match, size,
first-pixel, raw), parts.like (folder of an earlier analysis whose colours to go on with), parts.enlarge (bilinear, nearest), parts.palette (accessible, published), parts.raw_resize (bilinear,
area), parts.raw_grid (side of the grid of raw pixels), parts.size (side of the input), parts.picture (side of the pictures), parts.stability (seeds to compare)")]
pub(in crate::cli) struct Arguments {
    /// Run folders, checkpoints or weights files, and settings to change, `key=value`
    #[arg(value_name = "MODEL|KEY=VALUE")]
    models: Vec<String>,
    /// Images, labelled or not [default: what the first run was trained on]
    #[arg(long)]
    data: Option<String>,
    /// Which split [default: `test`, else the first]
    #[arg(long)]
    split: Option<String>,
    /// Which images, by their places in the split from 0, instead of the first ones
    #[arg(long, value_delimiter = ',')]
    index: Vec<usize>,
    /// What the models are called, in their order [default: the names of their folders or files]
    #[arg(long, value_delimiter = ',')]
    name: Vec<String>,
    /// The first model's network before any training, too
    #[arg(long)]
    untrained: bool,
    /// Raw pixels, too
    #[arg(long)]
    pixels: bool,
    /// Folder of maps of the true parts to judge clusters by: for each image a PNG of labels called like it, 0 the
    /// background, 255 not judged
    #[arg(long)]
    masks: Option<PathBuf>,
    /// The folder to fill [default: analyses/parts in the first run]
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    seed: u64,
    threads: usize,
    device: String,
    images: usize,
    parts: parts::Settings,
}

/// A model with its weights, the hash they had, and its name.
struct Loaded {
    name: String,
    weights: Weights,
    hash: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let started = Instant::now();
    let (changes, models): (Vec<String>, Vec<String>) =
        arguments.models.iter().cloned().partition(|text| is_setting(text));
    let models: Vec<PathBuf> = models.into_iter().map(PathBuf::from).collect();
    let first = models.first().map(|model| recipe_of(model)).transpose()?.flatten();
    let settings = Settings {
        seed: 0,
        threads: machine::cores(),
        device: "auto".to_owned(),
        images: 4,
        parts: parts::Settings::default(),
    };
    let optional = OPTIONAL.map(|key| format!("parts.{key}"));
    let optional: Vec<&str> = optional.iter().map(String::as_str).collect();
    let settings = overrides::apply(&settings, &changes, &optional)?;
    settings.parts.check()?;
    compute_threads(settings.threads);
    let out = folder(arguments, &models)?;
    let source = open_source(&location(arguments.data.as_ref(), first.as_ref())?, &[])?;
    let (split, dataset) = split(&source, arguments.split.as_deref())?;
    let indices = indices(arguments, &settings, dataset.len())?;
    let data = DataUsed::of(&source, [0, indices.len(), 0], Cut::default());
    if let Some(like) = &settings.parts.like {
        parts::Earlier::same_images(like, &data, &split)?;
    }
    let loaded = load(arguments, &models, &settings)?;
    let mut subjects: Vec<Subject> = loaded
        .iter()
        .map(|it| Subject { name: it.name.clone(), weights: Some(&it.weights) })
        .collect();
    if arguments.pixels {
        subjects.push(Subject { name: "Raw pixels".to_owned(), weights: None });
    }
    let mut pictures = parts::read_pictures(dataset.as_ref(), &indices, settings.parts.picture)?;
    if let Some(masks) = &arguments.masks {
        parts::read_masks(masks, &split, &mut pictures)?;
    }
    let mut bar = round_bar("layers");
    let mut progress = |done: usize, all: usize| bar(done as u64, all as u64);
    let found = parts::find(&settings.parts, &subjects, &pictures, settings.seed, &mut progress)?;
    let device = machine::device_name(machine::device(&settings.device)?);
    let masks = arguments.masks.clone();
    let told =
        Told { data, split, masks, models: used(&loaded)?, seed: settings.seed, started, device };
    let (file, analysis) = parts::write(&out, &settings.parts, &found, &pictures, told)?;
    renew(&out, loaded.iter().filter_map(|it| it.weights.run.as_ref()))?;
    let mut json = serde_json::to_value(&analysis)?;
    json["out"] = json!(out);
    Ok(Answer { text: describe(&found, &analysis.numbers, &file), json })
}

/// Whether an argument is a setting: a key of letters, dots and the like before an equals sign, and no such file.
fn is_setting(text: &str) -> bool {
    let key = text.split_once('=').map(|(key, _)| key);
    let letters = |key: &str| key.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    key.is_some_and(|key| !key.is_empty() && letters(key)) && !Path::new(text).exists()
}

fn folder(arguments: &Arguments, models: &[PathBuf]) -> Result<PathBuf> {
    if let Some(out) = &arguments.out {
        return Ok(out.clone());
    }
    match models.first() {
        Some(run) if run.join("recipe.toml").is_file() => Ok(run.join("analyses").join("parts")),
        _ => Err(Error::Recipe("name the folder to fill with --out".to_owned()).into()),
    }
}

/// The split asked for with its name: that of `--split`, else `test` or the first.
fn split(source: &Source, wanted: Option<&str>) -> Result<(String, Arc<dyn Dataset>)> {
    let names: Vec<&str> = source.splits.iter().map(|(name, _)| name.as_str()).collect();
    let name = wanted.or_else(|| names.iter().find(|name| **name == "test").copied());
    let name = name.or(names.first().copied()).unwrap_or_default();
    let found = source.split(name).map(|split| (name.to_owned(), Arc::clone(split)));
    found.ok_or_else(|| {
        let (place, names) = (&source.location, names.join(", "));
        Error::Data(format!("`{place}` has no split `{name}`, only {names}")).into()
    })
}

fn indices(arguments: &Arguments, settings: &Settings, images: usize) -> Result<Vec<usize>> {
    if !arguments.index.is_empty() {
        return Ok(arguments.index.clone());
    }
    if settings.images == 0 {
        return Err(Error::Recipe("`images` must be at least 1, found `0`".to_owned()).into());
    }
    Ok((0..images.min(settings.images)).collect())
}

fn load(arguments: &Arguments, models: &[PathBuf], settings: &Settings) -> Result<Vec<Loaded>> {
    if arguments.name.len() > models.len() {
        return Err(Error::Recipe(format!(
            "--name gives {} names for {} models",
            arguments.name.len(),
            models.len()
        ))
        .into());
    }
    let device = machine::device(&settings.device)?;
    let mut loaded = Vec::new();
    for (at, model) in models.iter().enumerate() {
        let weights = Weights::load(model, device)?;
        let name = arguments.name.get(at).cloned().unwrap_or_else(|| name(model));
        loaded.push(Loaded { hash: weights.hash(), name, weights });
    }
    if arguments.untrained {
        let Some(first) = loaded.first() else {
            return Err(Error::Recipe(
                "--untrained takes the network of a model: name one before it".to_owned(),
            )
            .into());
        };
        let weights = first.weights.untrained(settings.seed)?;
        loaded.push(Loaded { name: "Untrained".to_owned(), hash: weights.hash(), weights });
    }
    Ok(loaded)
}

/// The networks, each proved to be what it was before.
fn used(loaded: &[Loaded]) -> Result<BTreeMap<String, WeightsUsed>> {
    let of = |it: &Loaded| {
        let file = it.weights.file.display().to_string();
        let used =
            WeightsUsed::frozen(&file, it.hash.clone(), it.weights.hash(), it.weights.matched)?;
        let (unexpected, history) = (it.weights.left_over.clone(), it.weights.history.clone());
        Ok((it.name.clone(), WeightsUsed { unexpected, history, ..used }))
    };
    loaded.iter().map(of).collect()
}

fn describe(found: &Found, numbers: &BTreeMap<String, serde_json::Value>, file: &Path) -> String {
    let scopes = found.scopes();
    let images = match scopes.first() {
        Some(Scope::All) => "all images together".to_owned(),
        _ => format!("{} images, each alone", scopes.len()),
    };
    let mut lines = vec![format!("{} maps of {images}", found.maps.len())];
    for (name, value) in numbers {
        let value = value.as_f64().unwrap_or(f64::NAN);
        lines.push(format!("  {name}: {value:.3}"));
    }
    let folder = file.parent().unwrap_or(file);
    lines.push(folder.join("parts.html").display().to_string());
    lines.push(file.display().to_string());
    lines.join("\n")
}
