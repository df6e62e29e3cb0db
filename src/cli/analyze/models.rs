//! The networks an analysis looks at, and the images it shows them.

use crate::cli::evaluate::{choose_preprocess, recipe_of};
use anyhow::Result;
use diptych::analyze::{Analysis, Output};
use diptych::augment::Preprocess;
use diptych::data::Source;
use diptych::error::Error;
use diptych::evaluate::weights::Weights;
use diptych::evaluate::{Cut, DataUsed, WeightsUsed};
use diptych::recipe::Recipe;
use diptych::{machine, report};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tch::Device;

/// What the untrained network is called.
pub(super) const UNTRAINED: &str = "untrained";
/// What the pixels themselves are called.
pub(super) const PIXELS: &str = "raw pixels";

/// Models and settings, which are given one after the other; what has a `=` and is no file is a setting.
pub(super) fn divided(given: &[String]) -> Result<(Vec<PathBuf>, Vec<String>)> {
    let is_setting = |text: &&String| text.contains('=') && !Path::new(text.as_str()).exists();
    let settings: Vec<String> = given.iter().filter(is_setting).cloned().collect();
    let models: Vec<PathBuf> =
        given.iter().filter(|text| !is_setting(text)).map(PathBuf::from).collect();
    if models.is_empty() {
        return Err(Error::Recipe(
            "no model: name a run folder, a checkpoint or a weights file".to_owned(),
        )
        .into());
    }
    Ok((models, settings))
}

/// The recipe of the first model, if it is a run.
pub(super) fn first_recipe(models: &[PathBuf]) -> Result<Option<Recipe>> {
    recipe_of(&models[0])
}

/// A network, and what it is called in the pictures.
pub(super) struct Model {
    pub name: String,
    pub weights: Weights,
    pub preprocess: Preprocess,
    hash: String,
}

/// Opens the models; `names` stand in for those that their paths give, from the first on.
pub(super) fn open(
    models: &[PathBuf],
    names: &[String],
    preprocess: Option<&str>,
    device: Device,
) -> Result<Vec<Model>> {
    if names.len() > models.len() {
        return Err(Error::Recipe(format!(
            "there are {} names for {} models",
            names.len(),
            models.len()
        ))
        .into());
    }
    let mut taken = vec![UNTRAINED.to_owned(), PIXELS.to_owned()];
    let mut opened = Vec::with_capacity(models.len());
    for (place, path) in models.iter().enumerate() {
        let weights = Weights::load(path, device)?;
        let preprocess = choose_preprocess(preprocess, &weights)?;
        let name = names.get(place).cloned().unwrap_or_else(|| name(path));
        let same = |count: usize| if count < 2 { name.clone() } else { format!("{name} {count}") };
        let name =
            (1..=taken.len() + 1).map(same).find(|name| !taken.contains(name)).unwrap_or_default();
        taken.push(name.clone());
        opened.push(Model { name, hash: weights.hash(), weights, preprocess });
    }
    Ok(opened)
}

/// What a path calls its model: the folder of a run, with the checkpoint if it is one of its own, else the file.
pub(super) fn name(path: &Path) -> String {
    let text =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    if path.is_dir() {
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        return text(whole.file_name());
    }
    let stem = text(path.file_stem());
    let folder = path.parent().filter(|folder| folder.ends_with("checkpoints"));
    match folder.and_then(Path::parent).and_then(Path::file_name) {
        Some(run) => format!("{} {stem}", run.to_string_lossy()),
        None => stem,
    }
}

impl Model {
    /// Proof that looking has not changed it.
    fn used(&self) -> Result<WeightsUsed> {
        let Weights { file, matched, left_over, history, .. } = &self.weights;
        let used = WeightsUsed::frozen(
            &file.display().to_string(),
            self.hash.clone(),
            self.weights.hash(),
            *matched,
        )?;
        Ok(WeightsUsed { unexpected: left_over.clone(), history: history.clone(), ..used })
    }
}

/// The folder of an analysis: `--out`, else one in the run of the first model.
pub(super) fn folder(out: Option<&PathBuf>, models: &[Model], kind: &str) -> Result<PathBuf> {
    let run = models[0].weights.run.as_ref();
    let folder = out.cloned().or(run.map(|run| run.join("analyses").join(kind)));
    folder.ok_or_else(|| {
        Error::Recipe(format!(
            "`{}` is no run folder to write into; name one with --out",
            models[0].weights.file.display()
        ))
        .into()
    })
}

/// Writes the report of those of some runs in whose folder the folder of an analysis lies.
pub(super) fn renew<'a>(folder: &Path, runs: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    let Ok(folder) = folder.canonicalize() else { return Ok(()) };
    for run in runs {
        if run.canonicalize().is_ok_and(|run| folder.starts_with(run)) {
            report::write(run)?;
        }
    }
    Ok(())
}

/// Writes `analysis.json` and, for an analysis that lies in a run, its report; what programs are told.
pub(super) fn finish(analysis: &Analysis, folder: &Path, models: &[Model]) -> Result<Value> {
    analysis.write(folder)?;
    renew(folder, models.iter().filter_map(|model| model.weights.run.as_ref()))?;
    let mut json = serde_json::to_value(analysis)?;
    json["folder"] = json!(folder);
    Ok(json)
}

/// What was made, and of what.
pub(super) struct Made<'a> {
    pub kind: &'a str,
    pub version: u32,
    pub title: String,
    pub settings: Value,
    pub source: &'a Source,
    /// References, queries, damaged images of both.
    pub counts: [usize; 3],
    pub models: &'a [Model],
    pub seed: u64,
    pub numbers: BTreeMap<String, Value>,
    pub files: Vec<Output>,
    pub started: Instant,
    pub device: Device,
}

impl Made<'_> {
    /// What stands in `analysis.json`.
    pub(super) fn analysis(self) -> Result<Analysis> {
        let used = |model: &Model| Ok((model.name.clone(), model.used()?));
        Ok(Analysis {
            kind: self.kind.to_owned(),
            version: self.version,
            title: self.title,
            settings: serde_json::from_value(self.settings)?,
            data: Some(DataUsed::of(self.source, self.counts, Cut::default())),
            models: self.models.iter().map(used).collect::<Result<_>>()?,
            seed: self.seed,
            numbers: self.numbers,
            files: self.files,
            wall_seconds: (self.started.elapsed().as_secs_f64() * 1e3).round() / 1e3,
            device: machine::device_name(self.device),
            diptych: env!("CARGO_PKG_VERSION").to_owned(),
            revision: (!machine::REVISION.is_empty()).then(|| machine::REVISION.to_owned()),
        })
    }
}
