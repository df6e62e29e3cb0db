//! Protocols on stored features: the backbone only looks, once.

use super::settings::{OPTIONAL, Settings, Variant, variant};
use super::{Arguments, choose_preprocess, describe, recipe_of};
use crate::cli::monitor::{image_bar, location, open_subset, round_bar};
use crate::cli::{Answer, tell};
use anyhow::Result;
use diptych::augment::Preprocess;
use diptych::data::{Selection, Source};
use diptych::error::Error;
use diptych::evaluate::neighbours::gallery;
use diptych::evaluate::record::hash_classes;
use diptych::evaluate::run::{Part, features, neighbours_gallery, parts, pixel_features};
use diptych::evaluate::weights::{Layer, Weights};
use diptych::evaluate::{
    DataUsed, Details, Features, Finding, Measure, Protocol, Record, Repeats, WeightsUsed,
};
use diptych::recipe::Recipe;
use diptych::{machine, overrides, report};
use std::collections::BTreeMap;
use std::time::Instant;

pub(super) fn run(arguments: &Arguments, variants: &'static [Variant]) -> Result<Answer> {
    let started = Instant::now();
    let variant = variant(variants, arguments.protocol.as_deref())?;
    let layer = Layer::named(&arguments.layer)?;
    let recipe = recipe_of(&arguments.model)?;
    let mut settings = Settings::new(recipe.as_ref());
    (variant.set)(&mut settings);
    let settings = overrides::apply(&settings, &arguments.overrides, &OPTIONAL)?;
    let seeds = settings.all_seeds()?;
    let protocol = settings.protocol().expect("the variant has put its table in place");
    let location = location(arguments.data.as_ref(), recipe.as_ref())?;
    let source = open_subset(&location, settings.data.subset.as_ref(), &settings.data.classes)?;
    judge_source(&source, recipe.as_ref(), &settings)?;
    tch::set_num_threads(settings.threads.max(1) as i32);
    let device = machine::device(&settings.device)?;
    let weights = Weights::load(&arguments.model, device)?;
    let hash_before = weights.hash();
    let preprocess = choose_preprocess(arguments.preprocess.as_deref(), &weights)?;
    let judge = Judge { weights: &weights, preprocess: &preprocess, layer, source: &source };
    let [references, queries] = judge.features(&settings, settings.seed)?;
    let first = measure(protocol, [&references, &queries], settings.seed)?;
    let mut findings = vec![first];
    for seed in &seeds[1..] {
        let [references, queries] = judge.features(&settings, *seed)?;
        findings.push(measure(protocol, [&references, &queries], *seed)?);
    }
    let mut baselines = Vec::new();
    for seed in if arguments.baselines { &seeds[..] } else { &[] } {
        baselines.push(judge.baselines(protocol, &settings, *seed)?);
    }
    let value = of_all(findings.iter().map(|finding| &finding.value));
    let first = &findings[0];
    let record = Record {
        protocol: variant.id.to_owned(),
        version: protocol.version(),
        metric: first.metric.clone(),
        value: value.value,
        interval_95: value.interval_95,
        repeats: (seeds.len() > 1).then(|| {
            Repeats::of(&seeds, findings.iter().map(|finding| finding.value.value).collect())
        }),
        also: by_name(findings.iter().map(|finding| &finding.also)),
        baselines: by_name(baselines.iter()),
        settings: serde_json::from_value(protocol.settings())?,
        chosen: first.chosen.clone(),
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
    let file = folder.as_ref().map(|folder| record.save(folder)).transpose()?;
    if let Some(folder) = &folder {
        record.save_details(folder, &judge.named(&first.details))?;
    }
    if let Some(run) = &weights.run {
        let examples = gallery(&queries, &references, 8, 8, false)?;
        let [references, queries] = judge.parts(&settings, settings.seed)?;
        let (queries, references) = (queries.dataset.as_ref(), references.dataset.as_ref());
        neighbours_gallery(&examples, queries, references, &source.classes, false)?
            .save(&run.join("pictures"), "neighbours")?;
        report::write(run)?;
    }
    Ok(Answer { text: describe(&record, file.as_deref()), json: serde_json::to_value(&record)? })
}

/// What is judged, on what.
struct Judge<'a> {
    weights: &'a Weights,
    preprocess: &'a Preprocess,
    layer: Layer,
    source: &'a Source,
}

impl Judge<'_> {
    /// References and queries, as the settings cut them.
    fn parts(&self, settings: &Settings, seed: u64) -> Result<[Part<'_>; 2]> {
        let super::settings::Data { limit, holdout, label_fraction, .. } = settings.data;
        let selection = Selection { limit, holdout, label_fraction, seed };
        Ok(parts(self.source, &selection)?)
    }

    /// Features of both, stored in the run folder if there is one.
    fn features(&self, settings: &Settings, seed: u64) -> Result<[Features; 2]> {
        let store = self.weights.run.as_ref().map(|run| run.join("features"));
        let [references, queries] = self.parts(settings, seed)?;
        let of = |part: &Part<'_>| {
            let bar = &mut image_bar(part.role);
            features(self.weights, self.preprocess, self.layer, part, store.as_deref(), bar)
        };
        Ok([of(&references)?, of(&queries)?])
    }

    /// The same number of what has learned nothing.
    fn baselines(
        &self,
        protocol: &dyn Protocol,
        settings: &Settings,
        seed: u64,
    ) -> Result<BTreeMap<String, Measure>> {
        let parts = self.parts(settings, seed)?;
        let untrained = self.weights.untrained(seed)?;
        let of = |part: &Part<'_>| {
            let bar = &mut image_bar("untrained");
            features(&untrained, self.preprocess, self.layer, part, None, bar)
        };
        let untrained = [of(&parts[0])?, of(&parts[1])?];
        let pixels = [
            pixel_features(self.preprocess, &parts[0])?,
            pixel_features(self.preprocess, &parts[1])?,
        ];
        let mut found = BTreeMap::new();
        for (name, features) in [("untrained", untrained), ("pixels", pixels)] {
            found.insert(name.to_owned(), measure(protocol, features.each_ref(), seed)?.value);
        }
        Ok(found)
    }

    /// Details with the names of the classes.
    fn named(&self, details: &Details) -> Details {
        let classes = (0..details.confusion.len())
            .map(|class| {
                self.source.classes.get(class).cloned().unwrap_or_else(|| class.to_string())
            })
            .collect();
        Details { classes, ..details.clone() }
    }
}

fn measure(
    protocol: &dyn Protocol,
    [references, queries]: [&Features; 2],
    seed: u64,
) -> Result<Finding> {
    Ok(protocol.measure(queries, references, seed, &mut round_bar("judging"))?)
}

/// One measure of all seeds: their mean, or the measure itself with its interval if there is one seed only.
fn of_all<'a>(measures: impl Iterator<Item = &'a Measure>) -> Measure {
    let measures: Vec<&Measure> = measures.collect();
    if let [only] = measures[..] {
        return only.clone();
    }
    let values: Vec<f64> = measures.iter().map(|measure| measure.value).collect();
    Measure { value: Repeats::mean(&values), interval_95: None }
}

/// [`of_all`] for each name that the first seed has.
fn by_name<'a>(
    seeds: impl Iterator<Item = &'a BTreeMap<String, Measure>>,
) -> BTreeMap<String, Measure> {
    let seeds: Vec<&BTreeMap<String, Measure>> = seeds.collect();
    let of = |name: &String| of_all(seeds.iter().filter_map(|measures| measures.get(name)));
    let names = seeds.first().into_iter().flat_map(|first| first.keys());
    names.map(|name| (name.clone(), of(name))).collect()
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
