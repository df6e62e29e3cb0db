//! Protocols that train with the backbone: a linear layer on augmented images, or all of it.
//!
//! Each is a run like any other in a folder of its own, so one that is stopped goes on where it was.

use super::settings::{Data, OPTIONAL, Settings};
use super::subject::{by_name, of_all};
use super::{Trained, choose_preprocess, describe, recipe_of};
use crate::cli::monitor::{ProgressBar, location, open_subset};
use crate::cli::{Answer, tell};
use anyhow::Result;
use diptych::data::{Selection, Source};
use diptych::error::Error;
use diptych::evaluate::finetune::Metric;
use diptych::evaluate::record::hash_classes;
use diptych::evaluate::weights::Weights;
use diptych::evaluate::{DataUsed, Details, Finding, Measure, Record, Repeats};
use diptych::experiment::Plan;
use diptych::experiment::finetune::{Finetune, Outcome};
use diptych::recipe::protocol::Protocol;
use diptych::train::Observer;
use diptych::train::stop::Stop;
use diptych::{machine, method, overrides, report};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Version of what is done beside the protocol's own settings.
const VERSION: u32 = 1;

/// What was asked for, by what it is about.
struct Asked {
    settings: Settings,
    protocol: Protocol,
    /// Changes of the recipes that the protocol makes.
    changes: Vec<String>,
}

impl Asked {
    fn new(arguments: &Trained, id: &str, defaults: &Settings) -> Result<Self> {
        let general = overrides::flatten(defaults);
        let is_general = |text: &String| {
            let key = text.split('=').next().unwrap_or_default().trim();
            OPTIONAL.contains(&key) || general.iter().any(|(known, _)| known == key)
        };
        let of_recipe = |text: &String| {
            ["train.", "data.", "backbone."]
                .iter()
                .any(|table| text.trim_start().starts_with(table))
        };
        let (mine, rest): (Vec<String>, Vec<String>) =
            arguments.overrides.iter().cloned().partition(is_general);
        let (mut changes, of_protocol): (Vec<String>, Vec<String>) =
            rest.into_iter().partition(of_recipe);
        let settings: Settings = overrides::apply(defaults, &mine, &OPTIONAL)?;
        changes.push(format!("train.device={}", settings.device));
        changes.push(format!("train.threads={}", settings.threads));
        let protocol = Protocol::named(id)?.with(&of_protocol)?;
        Ok(Self { settings, protocol, changes })
    }
}

pub(super) fn run(arguments: &Trained, id: &str) -> Result<Answer> {
    let started = Instant::now();
    let recipe = recipe_of(&arguments.model)?;
    let asked = Asked::new(arguments, id, &Settings::new(recipe.as_ref()))?;
    let Asked { settings, protocol, .. } = &asked;
    let seeds = settings.all_seeds()?;
    let Data { subset, classes, .. } = &settings.data;
    let location = location(arguments.data.as_ref(), recipe.as_ref())?;
    let source = open_subset(&location, subset.as_ref(), classes)?;
    if source.classes.is_empty() {
        return Err(Error::Data(format!(
            "`{}` has no labels to train with; `diptych evaluate quality` judges a representation without",
            source.location
        ))
        .into());
    }
    tch::set_num_threads(settings.threads.max(1) as i32);
    let device = machine::device(&settings.device)?;
    let mut model = Weights::load(&arguments.model, device)?;
    model.preprocess = Some(choose_preprocess(arguments.preprocess.as_deref(), &model)?);
    let file = arguments.model.display().to_string();
    let parent = arguments.out.clone().or(model.run.as_ref().map(|run| run.join("trained")));
    let parent = parent.ok_or_else(|| {
        Error::Recipe(format!("`{file}` is no run folder to write into; name one with --out"))
    })?;
    let stop = Stop::on_signals()?;
    let train =
        Train { asked: &asked, model: &model, file: &file, source: &source, parent: &parent };
    let mut outcomes = Vec::with_capacity(seeds.len());
    let mut counts = (0, 0);
    for seed in &seeds {
        let (outcome, found) = train.once(id, *seed, &stop)?;
        outcomes.push(outcome);
        counts = found;
    }
    let found: Vec<Finding> =
        outcomes.iter().zip(&seeds).map(|(outcome, seed)| finding(outcome, *seed)).collect();
    let value = of_all(found.iter().map(|finding| &finding.value));
    let first = &outcomes[0];
    let record = Record {
        protocol: id.to_owned(),
        version: VERSION,
        metric: found[0].metric.clone(),
        value: value.value,
        interval_95: value.interval_95,
        repeats: (seeds.len() > 1)
            .then(|| Repeats::of(&seeds, found.iter().map(|it| it.value.value).collect())),
        also: by_name(found.iter().map(|finding| &finding.also)),
        baselines: BTreeMap::new(),
        settings: first.settings(),
        chosen: found[0].chosen.clone(),
        data: DataUsed {
            location: source.location.clone(),
            format: source.format.clone(),
            fingerprint: source.fingerprint.clone(),
            references: counts.0,
            queries: counts.1 - first.judged.damaged.len(),
            damaged: first.judged.damaged.len(),
            classes: source.classes.len(),
            class_list_hash: hash_classes(&source.classes),
        },
        weights: first.weights(&model.file.display().to_string(), model.matched),
        layer: layer(first),
        preprocess: model
            .preprocess
            .as_ref()
            .map_or(String::new(), |it| protocol.preprocess(it).id),
        seed: settings.seed,
        choice: "last".to_owned(),
        wall_seconds: (started.elapsed().as_secs_f64() * 1e3).round() / 1e3,
        device: machine::device_name(device),
        threads: settings.threads,
        diptych: env!("CARGO_PKG_VERSION").to_owned(),
        revision: (!machine::REVISION.is_empty()).then(|| machine::REVISION.to_owned()),
    };
    let folder = model.run.as_ref().map_or(parent, |run| run.join("evaluations"));
    let saved = record.save(&folder)?;
    let details = Details::of_all(&found, &seeds).with_classes(&source.classes);
    record.save_details(&folder, &details)?;
    if let Some(run) = &model.run {
        report::write(run)?;
    }
    Ok(Answer { text: describe(&record, Some(&saved)), json: serde_json::to_value(&record)? })
}

/// What the runs of all seeds have in common.
struct Train<'a> {
    asked: &'a Asked,
    model: &'a Weights,
    file: &'a str,
    source: &'a Source,
    parent: &'a Path,
}

impl Train<'_> {
    /// Trains and judges with one seed; how many images were trained on and judged.
    fn once(&self, id: &str, seed: u64, stop: &Stop) -> Result<(Outcome, (usize, usize))> {
        let Asked { settings, protocol, changes } = self.asked;
        let Data { limit, holdout, label_fraction, .. } = settings.data;
        let selection = Selection { limit, holdout, label_fraction, seed };
        let (references, queries) = self.source.for_evaluation(&selection)?;
        let folder = self.parent.join(name(id, label_fraction, seed));
        let finetune = Finetune {
            protocol,
            model: self.model,
            file: self.file,
            source: self.source,
            references: &references,
            queries: &queries,
            validation: None,
            fraction: label_fraction.unwrap_or(1.0),
            metric: Metric::Top1,
            changes,
            seed,
            folder: &folder,
        };
        let mut watch = |name: &str, plan: &Plan| -> Vec<Box<dyn Observer>> {
            tell(&format!("{name}: {} steps", plan.steps));
            vec![Box::new(ProgressBar::new(plan.steps))]
        };
        let outcome = finetune.run(stop, &mut |text| tell(text), &mut watch)?;
        tell(&format!("trained in {}", folder.display()));
        Ok((outcome, (references.len(), queries.len())))
    }
}

/// Where the linear layer sat.
fn layer(outcome: &Outcome) -> String {
    match &outcome.recipe.method {
        method::Config::Classifier(config) => config.tap.into(),
        _ => "h".to_owned(),
    }
}

/// The folder of a run.
fn name(id: &str, fraction: Option<f64>, seed: u64) -> PathBuf {
    let part = fraction.map_or(String::new(), |fraction| format!("-{fraction}"));
    PathBuf::from(format!("{id}{part}-seed-{seed}"))
}

fn finding(outcome: &Outcome, seed: u64) -> Finding {
    let mut finding = Finding::of_ranks(&outcome.judged.ranks, seed);
    if let Some(loss) = outcome.train_loss {
        finding = finding.and("train_loss", Measure::plain(loss));
    }
    if let Some(point) = &outcome.chosen {
        finding.chosen.insert("point".to_owned(), point.name().into());
    }
    finding
}
