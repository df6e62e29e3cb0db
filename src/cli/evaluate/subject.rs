//! A model and the images it is judged on, and the record of what came of it.

use super::settings::{Data, OPTIONAL, Settings};
use super::{Arguments, choose_preprocess, recipe_of};
use crate::cli::Answer;
use crate::cli::monitor::{image_bar, location, open_subset};
use anyhow::Result;
use diptych::augment::Preprocess;
use diptych::data::{Selection, Source};
use diptych::evaluate::features::Description;
use diptych::evaluate::run::{Part, describe, features, parts, pixel_features};
use diptych::evaluate::weights::{Layer, Weights};
use diptych::evaluate::{
    Cut, DataUsed, Details, Features, Finding, Measure, Record, Repeats, WeightsUsed,
};
use diptych::recipe::Recipe;
use diptych::{machine, overrides, report};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;
use tch::Device;

/// A model and the images it is judged on.
pub(super) struct Subject {
    pub recipe: Option<Recipe>,
    pub settings: Settings,
    pub source: Source,
    pub weights: Weights,
    pub preprocess: Preprocess,
    pub layer: Layer,
    /// Whether images that are asked about were trained on.
    trained_on: bool,
    device: Device,
    hash: String,
    out: Option<PathBuf>,
    started: Instant,
    /// The features made last, of references and of queries.
    kept: RefCell<Vec<(Description, Rc<Features>)>>,
}

/// What was measured, and on how many images.
pub(super) struct Judged {
    pub id: String,
    pub version: u32,
    pub settings: Value,
    /// One for each seed.
    pub findings: Vec<Finding>,
    /// One for each seed, if asked for.
    pub baselines: Vec<BTreeMap<String, Measure>>,
    /// References, queries, damaged images of both.
    pub counts: [usize; 3],
}

impl Subject {
    /// Opens model and images; `table` puts the table of the protocol among the settings.
    pub(super) fn open(arguments: &Arguments, table: fn(&mut Settings)) -> Result<Self> {
        Self::on(arguments, table, None, |recipe, settings| {
            let location = location(arguments.data.as_ref(), recipe)?;
            let Data { subset, classes, .. } = &settings.data;
            Ok(open_subset(&location, subset.as_ref(), classes)?)
        })
    }

    /// [`Self::open`] on images that are opened in another way, and prepared as `usual` says, with the mean and deviation
    /// of the weights, where nothing else is asked for.
    pub(super) fn on(
        arguments: &Arguments,
        table: fn(&mut Settings),
        usual: Option<&str>,
        source: impl FnOnce(Option<&Recipe>, &Settings) -> Result<Source>,
    ) -> Result<Self> {
        let started = Instant::now();
        let layer = Layer::named(&arguments.layer)?;
        let recipe = recipe_of(&arguments.model)?;
        let mut settings = Settings::new(recipe.as_ref(), arguments.data.as_ref());
        table(&mut settings);
        let settings = overrides::apply(&settings, &arguments.overrides, &OPTIONAL)?;
        let source = source(recipe.as_ref(), &settings)?;
        let (data, seeds) = (&settings.data, settings.all_seeds()?);
        let trained_on = data.trained_on(recipe.as_ref(), &source.location, &seeds);
        tch::set_num_threads(settings.threads.max(1) as i32);
        let device = machine::device(&settings.device)?;
        let weights = Weights::load(&arguments.model, device)?;
        let hash = weights.hash_of(layer);
        let usual = usual.filter(|_| weights.preprocess.is_some());
        let preprocess = choose_preprocess(arguments.preprocess.as_deref().or(usual), &weights)?;
        let out = arguments.out.clone();
        Ok(Self {
            recipe,
            settings,
            source,
            weights,
            preprocess,
            layer,
            trained_on,
            device,
            hash,
            out,
            started,
            kept: RefCell::default(),
        })
    }

    /// Features of a part, stored in the run folder if there is one. What was made for one seed serves the next where that
    /// takes the same images.
    pub(super) fn features(&self, part: &Part<'_>) -> Result<Rc<Features>> {
        let store = self.weights.run.as_ref().map(|run| run.join("features"));
        let Self { weights, preprocess, layer, .. } = self;
        self.once(describe(weights, preprocess, *layer, part), || {
            let bar = &mut image_bar(part.role);
            Ok(features(weights, preprocess, *layer, part, store.as_deref(), bar)?)
        })
    }

    /// The prepared pixels themselves as features, in the same way.
    pub(super) fn pixels(&self, part: &Part<'_>) -> Result<Rc<Features>> {
        let description = describe(&self.weights, &self.preprocess, self.layer, part);
        let description =
            Description { layer: "pixels".to_owned(), weights: String::new(), ..description };
        self.once(description, || Ok(pixel_features(&self.preprocess, part)?))
    }

    fn once(
        &self,
        description: Description,
        make: impl FnOnce() -> Result<Features>,
    ) -> Result<Rc<Features>> {
        let known = |(it, _): &&(Description, Rc<Features>)| *it == description;
        if let Some((_, found)) = self.kept.borrow().iter().find(known) {
            return Ok(Rc::clone(found));
        }
        let made = Rc::new(make()?);
        let mut kept = self.kept.borrow_mut();
        // What it stands in for is of another seed.
        let same = |it: &Description| {
            let role = |it: &Description| it.split.split(',').next().map(str::to_owned);
            role(it) == role(&description) && it.layer == description.layer
        };
        kept.retain(|(it, _)| !same(it));
        kept.push((description, Rc::clone(&made)));
        Ok(made)
    }

    /// Which images of each split are taken.
    pub(super) fn selection(&self, seed: u64) -> Selection {
        self.settings.data.selection(seed)
    }

    /// References and queries.
    pub(super) fn parts(&self, seed: u64) -> Result<[Part<'_>; 2]> {
        Ok(parts(&self.source, &self.selection(seed))?)
    }

    /// Writes the record and what belongs to it, and renews the report of the run.
    pub(super) fn answer(&self, judged: &Judged) -> Result<Answer> {
        let record = self.record(judged)?;
        let run = self.weights.run.as_ref();
        let folder = self.out.clone().or(run.map(|run| run.join("evaluations")));
        let file = folder.as_ref().map(|folder| record.save(folder)).transpose()?;
        if let Some(folder) = &folder {
            let seeds = self.settings.all_seeds()?;
            let details = Details::of_all(&judged.findings, &seeds);
            record.save_details(folder, &self.named(&details))?;
        }
        if let Some(run) = run {
            report::write(run)?;
        }
        let text = super::describe(&record, file.as_deref());
        Ok(Answer { text, json: serde_json::to_value(&record)? })
    }

    fn record(&self, judged: &Judged) -> Result<Record> {
        let Judged { findings, baselines, counts, .. } = judged;
        let seeds = self.settings.all_seeds()?;
        let value = of_all(findings.iter().map(|finding| &finding.value));
        let values = findings.iter().map(|finding| finding.value.value).collect();
        let (source, weights) = (&self.source, &self.weights);
        let cut = Cut { trained_on: self.trained_on, ..Cut::of(&self.selection(seeds[0])) };
        let file = weights.file.display().to_string();
        let used = WeightsUsed::frozen(
            &file,
            self.hash.clone(),
            weights.hash_of(self.layer),
            weights.matched,
        )?;
        Ok(Record {
            protocol: judged.id.clone(),
            version: judged.version,
            metric: findings[0].metric.clone(),
            value: value.value,
            interval_95: value.interval_95,
            repeats: (findings.len() > 1).then(|| Repeats::of(&seeds, values)),
            also: by_name(findings.iter().map(|finding| &finding.also)),
            baselines: by_name(baselines.iter()),
            settings: serde_json::from_value(judged.settings.clone())?,
            chosen: chosen(findings.iter().map(|finding| &finding.chosen)),
            data: DataUsed::of(source, *counts, cut),
            weights: WeightsUsed {
                unexpected: weights.left_over.clone(),
                history: weights.history.clone(),
                ..used
            },
            layer: self.layer.name(),
            preprocess: self.preprocess.id.clone(),
            mean: Some(self.preprocess.mean),
            std: Some(self.preprocess.std),
            seed: self.settings.seed,
            choice: "last".to_owned(),
            wall_seconds: (self.started.elapsed().as_secs_f64() * 1e3).round() / 1e3,
            device: machine::device_name(self.device),
            threads: self.settings.threads,
            diptych: env!("CARGO_PKG_VERSION").to_owned(),
            revision: (!machine::REVISION.is_empty()).then(|| machine::REVISION.to_owned()),
        })
    }

    /// Details with the names of the classes, where they have none of their own.
    pub(super) fn named(&self, details: &Details) -> Details {
        if details.classes.is_empty() {
            details.clone().with_classes(&self.source.classes)
        } else {
            details.clone()
        }
    }
}

/// One measure of all seeds: their mean, or the measure itself with its interval if there is one seed only.
pub(super) fn of_all<'a>(measures: impl Iterator<Item = &'a Measure>) -> Measure {
    let measures: Vec<&Measure> = measures.collect();
    if let [only] = measures[..] {
        return only.clone();
    }
    let values: Vec<f64> = measures.iter().map(|measure| measure.value).collect();
    Measure::plain(Repeats::mean(&values))
}

/// [`of_all`] for each name that all seeds have.
pub(super) fn by_name<'a>(
    seeds: impl Iterator<Item = &'a BTreeMap<String, Measure>>,
) -> BTreeMap<String, Measure> {
    let seeds: Vec<&BTreeMap<String, Measure>> = seeds.collect();
    let of = |name: &String| {
        let measures: Option<Vec<&Measure>> = seeds.iter().map(|it| it.get(name)).collect();
        Some((name.clone(), of_all(measures?.into_iter())))
    };
    seeds.first().into_iter().flat_map(|first| first.keys()).filter_map(of).collect()
}

/// What a protocol chose: once where all seeds chose the same, else a list with one for each.
pub(super) fn chosen<'a>(
    seeds: impl Iterator<Item = &'a BTreeMap<String, Value>>,
) -> BTreeMap<String, Value> {
    let seeds: Vec<&BTreeMap<String, Value>> = seeds.collect();
    let names = seeds.first().into_iter().flat_map(|first| first.iter());
    let of = |name: &String, first: &Value| {
        let mut others = seeds.iter().map(|it| it.get(name).unwrap_or(&Value::Null));
        if others.all(|other| other == first) {
            return first.clone();
        }
        seeds.iter().map(|it| it.get(name).cloned().unwrap_or(Value::Null)).collect()
    };
    names.map(|(name, first)| (name.clone(), of(name, first))).collect()
}
