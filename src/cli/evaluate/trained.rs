//! Protocols that train with the backbone: a linear layer on augmented images, or all of it.
//!
//! Each is a run like any other in a folder of its own, so one that is stopped goes on where it was.

use super::settings::{Data, OPTIONAL, Settings};
use super::subject::{by_name, chosen, of_all};
use super::{Trained, choose_preprocess, describe, recipe_of};
use crate::cli::monitor::{ProgressBar, location, open_source, open_subset};
use crate::cli::{Answer, tell};
use anyhow::Result;
use diptych::data::transfer::{self, TransferSet, splits};
use diptych::data::{Dataset, Selection, Source, labels, subset};
use diptych::error::Error;
use diptych::evaluate::average_precision::{AveragePrecision, Difficult};
use diptych::evaluate::finetune::{Metric, Told};
use diptych::evaluate::frequency::{Groups, grouped, per_class};
use diptych::evaluate::weights::Weights;
use diptych::evaluate::{Cut, DataUsed, Details, Finding, Measure, Record, Repeats};
use diptych::experiment::Plan;
use diptych::experiment::finetune::{Finetune, Outcome};
use diptych::recipe::protocol::Protocol;
use diptych::train::Observer;
use diptych::train::stop::Stop;
use diptych::{machine, method, overrides, report};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tch::Device;

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
    let location = location(arguments.data.as_ref(), recipe.as_ref())?;
    let defaults = Settings::new(recipe.as_ref(), arguments.data.as_ref());
    let asked = Asked::new(arguments, id, &defaults)?;
    let Asked { settings, protocol, .. } = &asked;
    let seeds = settings.all_seeds()?;
    let images = Images::open(&location, &settings.data)?;
    let source = &images.source;
    let trained_on = settings.data.trained_on(recipe.as_ref(), &source.location, &seeds);
    if source.classes.is_empty() {
        return Err(Error::Data(format!(
            "`{}` has no labels to train with; `diptych evaluate quality` judges a representation without",
            source.location
        ))
        .into());
    }
    images.check_groups(settings.groups)?;
    tch::set_num_threads(settings.threads.max(1) as i32);
    let device = machine::device(&settings.device)?;
    if device == Device::Cpu {
        machine::limit_memory();
    }
    let mut model = Weights::load(&arguments.model, device)?;
    model.preprocess = Some(choose_preprocess(arguments.preprocess.as_deref(), &model)?);
    let file = arguments.model.display().to_string();
    let parent = arguments.out.clone().or(model.run.as_ref().map(|run| run.join("trained")));
    let parent = parent.ok_or_else(|| {
        Error::Recipe(format!("`{file}` is no run folder to write into; name one with --out"))
    })?;
    let stop = Stop::on_signals()?;
    let train =
        Train { asked: &asked, model: &model, file: &file, images: &images, parent: &parent };
    let mut outcomes = Vec::with_capacity(seeds.len());
    let mut found: Vec<Finding> = Vec::with_capacity(seeds.len());
    let mut counts = [0; 3];
    let mut told = images.settings();
    for seed in &seeds {
        let (outcome, cut) = train.once(id, *seed, &stop)?;
        let mut finding = finding(&outcome, images.metric(), *seed);
        let per_class =
            per_class(labels(cut.references.as_ref()).unwrap_or_default().into_iter().map(Some));
        if let Some(cuts) = settings.groups.cuts(&per_class) {
            finding = grouped(finding, cuts, &per_class)?;
            told.insert("groups".to_owned(), json!(cuts));
        }
        // Images that could not be read were stood in for in training; asked about they are left out.
        let missed = outcome.judged.damaged.len();
        let damaged = outcome.damaged + missed;
        counts = [cut.references.len() - outcome.damaged, cut.queries.len() - missed, damaged];
        outcomes.push(outcome);
        found.push(finding);
    }
    let value = of_all(found.iter().map(|finding| &finding.value));
    let first = &outcomes[0];
    let prepared = model.preprocess.as_ref().map(|it| protocol.preprocess(it));
    let cut = Cut { trained_on, ..Cut::of(&settings.data.selection(seeds[0])) };
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
        settings: first.settings().into_iter().chain(told).collect(),
        chosen: chosen(found.iter().map(|finding| &finding.chosen)),
        data: DataUsed::of(source, counts, cut),
        weights: first.weights(&model.file.display().to_string(), model.matched),
        layer: layer(first),
        mean: prepared.as_ref().map(|it| it.mean),
        std: prepared.as_ref().map(|it| it.std),
        preprocess: prepared.map_or(String::new(), |it| it.id),
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
    images: &'a Images,
    parent: &'a Path,
}

/// Labelled images.
struct Images {
    source: Source,
    /// The set they are, if it is one with splits and a metric of its own.
    transfer: Option<TransferSet>,
    /// Share of all labelled training images that a list keeps, 1 without one.
    listed: f64,
}

/// What a seed trains on and is judged by.
struct Divided {
    /// With the validation images, where these were trained on in the end.
    references: Arc<dyn Dataset>,
    queries: Arc<dyn Dataset>,
    /// Images to learn from while settings are chosen, and to choose them on, where the set says which.
    choosing: Option<[Arc<dyn Dataset>; 2]>,
}

impl Images {
    fn open(location: &str, data: &Data) -> Result<Self> {
        let Data { subset, classes, .. } = data;
        let named = location.strip_prefix("transfer:").and_then(|named| named.split_once(':'));
        let Some((name, root)) = named else {
            let source = open_subset(location, subset.as_ref(), classes)?;
            let references = |source: &Source| {
                Ok::<_, Error>(source.for_evaluation(&Selection::default())?.0.len() as f64)
            };
            let listed = match subset {
                Some(_) => references(&source)? / references(&open_source(location, classes)?)?,
                None => 1.0,
            };
            return Ok(Self { source, transfer: None, listed });
        };
        let set = transfer::open(name, Path::new(root))?;
        for warning in &set.warnings {
            tell(&format!("warning: {name}: {warning}"));
        }
        let given = [
            ("data.subset", subset.is_some()),
            ("data.classes", !classes.is_empty()),
            ("data.holdout", data.holdout != 0.0),
        ];
        if let Some((key, _)) = given.iter().find(|(_, given)| *given) {
            return Err(Error::Recipe(format!(
                "`{key}` does not go with `{location}`, whose splits are published; `data.limit` and `data.label_fraction` \
                 take a part of them, a copy opened by its path (`--data {root}`) can be cut in any way"
            ))
            .into());
        }
        let source = Source { location: location.to_owned(), ..set.source() };
        Ok(Self { source, transfer: Some(set), listed: 1.0 })
    }

    /// What is told first, and settings are chosen by.
    fn metric(&self) -> Metric {
        match self.transfer.as_ref().map(|set| set.metric) {
            Some(transfer::Metric::MeanPerClass) => Metric::MeanPerClass,
            _ => Metric::Top1,
        }
    }

    /// Whether an image may show several classes.
    fn several_classes(&self) -> bool {
        self.transfer.as_ref().is_some_and(|set| set.metric == transfer::Metric::VocMap)
    }

    /// Refuses groups of classes where they cannot be told apart.
    fn check_groups(&self, groups: Groups) -> Result<()> {
        if self.several_classes() && matches!(groups, Groups::Liu | Groups::Cld) {
            return Err(Error::Recipe(format!(
                "`groups` tells apart classes of images that show one class each, and those of `{}` show several; leave it out",
                self.source.location
            ))
            .into());
        }
        Ok(())
    }

    /// What of it made the number.
    fn settings(&self) -> BTreeMap<String, Value> {
        let Some(set) = &self.transfer else { return BTreeMap::new() };
        let validation = if set.validation.is_some() { "official" } else { "a fifth of train" };
        let mut settings = BTreeMap::from([
            ("set".to_owned(), json!(set.name)),
            ("validation".to_owned(), json!(validation)),
            ("notes".to_owned(), json!(set.notes)),
        ]);
        if self.several_classes() {
            settings.insert("average_precision".to_owned(), json!(AveragePrecision::ElevenPoint));
            settings.insert("difficult".to_owned(), json!(Difficult::Ignore));
        }
        settings
    }

    /// The images of a seed. Of a set with published splits all training images are learned from in the end, those of an
    /// official validation split too.
    fn cut(&self, data: &Data, seed: u64) -> Result<Divided> {
        let Data { limit, label_fraction, .. } = *data;
        let Some(set) = &self.transfer else {
            let (references, queries) = self.source.for_evaluation(&data.selection(seed))?;
            return Ok(Divided { references, queries, choosing: None });
        };
        let set = match limit {
            Some(limit) => set.clone().limited(limit, seed)?,
            None => set.clone(),
        };
        let mut cut = splits(&set, 0)?;
        if let Some(fraction) = label_fraction {
            if self.several_classes() {
                return Err(Error::Recipe(format!(
                    "`data.label_fraction` keeps the same share of every class, and images of `{}` show several; \
                     `data.limit` keeps some images, whatever they show",
                    set.name
                ))
                .into());
            }
            // What is chosen on has labels too: it is as small a part.
            for part in [&mut cut.train, &mut cut.validation] {
                *part = subset::label_fraction(part, fraction, seed)?;
            }
        }
        let references = cut.train_and_validation();
        let choosing = Some([cut.train, cut.validation]);
        Ok(Divided { references, queries: cut.test, choosing })
    }
}

impl Train<'_> {
    /// Trains and judges with one seed; how many images were trained on and judged.
    fn once(&self, id: &str, seed: u64, stop: &Stop) -> Result<(Outcome, Divided)> {
        let Asked { settings, protocol, changes } = self.asked;
        let Data { label_fraction, .. } = settings.data;
        let cut = self.images.cut(&settings.data, seed)?;
        // Without a grid there is nothing to choose.
        let choosing = cut.choosing.as_ref().filter(|_| protocol.points().len() > 1);
        let (references, validation) = match choosing {
            Some([train, validation]) => (train, Some(validation)),
            None => (&cut.references, None),
        };
        let folder = self.parent.join(name(id, label_fraction, seed));
        let finetune = Finetune {
            protocol,
            model: self.model,
            file: self.file,
            source: &self.images.source,
            references,
            queries: &cut.queries,
            validation,
            fraction: self.images.listed * label_fraction.unwrap_or(1.0),
            selection: settings.data.selection(seed),
            metric: self.images.metric(),
            changes,
            seed,
            folder: &folder,
        };
        let mut watch = |name: &str, plan: &Plan| -> Vec<Box<dyn Observer>> {
            tell(&format!("{name}: {} steps", plan.steps));
            vec![Box::new(ProgressBar::new(plan.steps))]
        };
        let outcome = finetune.run(stop, &mut |text| tell(text), &mut watch);
        let outcome = outcome.map_err(|error| match error {
            Error::OutOfMemory(text) => Error::OutOfMemory(format!(
                "{text}; the same command with a smaller `data.micro_batch_size` goes on from the last checkpoint in less \
                 memory"
            )),
            other => other,
        })?;
        tell(&format!("trained in {}", folder.display()));
        Ok((outcome, cut))
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

fn finding(outcome: &Outcome, metric: Metric, seed: u64) -> Finding {
    let mut finding = match &outcome.judged.result {
        Told::Ranks(ranks) if metric == Metric::MeanPerClass => {
            Finding::of_ranks(ranks, seed).by_mean_per_class()
        }
        Told::Ranks(ranks) => Finding::of_ranks(ranks, seed),
        Told::Precision(precision) => Finding::of_precision(precision),
    };
    if let Some(loss) = outcome.train_loss {
        finding = finding.and("train_loss", Measure::plain(loss));
    }
    if let Some(point) = &outcome.chosen {
        finding.chosen.insert("point".to_owned(), point.name().into());
    }
    finding
}
