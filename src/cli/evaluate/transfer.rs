//! `diptych evaluate transfer`: a model on a table of other data sets.

use super::Arguments;
use super::settings::{LOGISTIC, Variant, variant};
use super::subject::{Judged, Subject};
use crate::cli::monitor::{image_bar, round_bar};
use crate::cli::table::aligned;
use crate::cli::{Answer, Finding as Failure, tell};
use anyhow::Result;
use diptych::data::transfer::suite::{Suite, SuiteSet};
use diptych::data::transfer::{Metric, TransferSet};
use diptych::data::transfer::{Splits, splits};
use diptych::data::{Dataset, MultiLabels, Selection};
use diptych::error::Error;
use diptych::evaluate::logistic::{Logistic, Metric as Chosen, VERSION};
use diptych::evaluate::run::{Part, features};
use diptych::evaluate::{Features, Finding, Measure};
use diptych::report::measured;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(clap::Args)]
pub(in crate::cli) struct Transfer {
    /// A run folder, a checkpoint, or a file of another system (see `diptych weights show`)
    model: PathBuf,
    /// Settings to change, `key=value`
    overrides: Vec<String>,
    /// The table of sets, a TOML file of `[[set]]` with `name` and `path`
    #[arg(long)]
    suite: PathBuf,
    /// logistic or logistic-reference, for sets that do not name one
    #[arg(long)]
    protocol: Option<String>,
    /// How images are prepared [default: transfer, 224 px as published, with the mean and deviation of the model]
    #[arg(long)]
    preprocess: Option<String>,
    /// Which layer, as for `evaluate knn`
    #[arg(long, default_value = "h")]
    layer: String,
    /// The folder for the records [default: evaluations/ in the run]
    #[arg(long)]
    out: Option<PathBuf>,
}

pub(super) fn run(arguments: &Transfer) -> Result<Answer> {
    let suite = Suite::read(&arguments.suite)?;
    let given = |text: &String| text.trim_start().starts_with("logistic.metric");
    if let Some(text) = arguments.overrides.iter().find(|text| given(text)) {
        let text =
            format!("`{text}`: every set has a metric of its own, which its penalty is chosen by");
        return Err(Error::Recipe(text).into());
    }
    let variant_of = |listed: &SuiteSet| {
        let protocol = listed.protocol.as_ref().or(arguments.protocol.as_ref());
        variant(LOGISTIC, protocol.map(String::as_str))
    };
    // What is mistyped is told before hours have gone by.
    suite.sets.iter().try_for_each(|listed| variant_of(listed).map(drop))?;
    let (mut rows, mut records, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    let mut failed: Vec<(&str, Error)> = Vec::new();
    for (listed, opened) in suite.available() {
        let set = match opened {
            Ok(set) => set,
            Err(error) => {
                tell(&format!("{}: left out: {error}", listed.name));
                missing.push(json!({ "name": listed.name, "reason": error.to_string() }));
                continue;
            }
        };
        for warning in &set.warnings {
            tell(&format!("warning: {}: {warning}", set.name));
        }
        let record = match one(arguments, &set, variant_of(listed)?) {
            Ok(record) => record,
            // A set that cannot be judged is no reason to lose the others.
            Err(error) => match error.downcast::<Error>()? {
                error @ (Error::Data(_) | Error::NonFinite(_) | Error::Io { .. }) => {
                    tell(&format!("{}: failed: {error}", listed.name));
                    failed.push((&listed.name, error));
                    continue;
                }
                other => return Err(other.into()),
            },
        };
        let metric = record["metric"].as_str().unwrap_or_default().to_owned();
        let told = |value: &Value| {
            value.as_f64().map_or("–".to_owned(), |value| measured(&metric, value))
        };
        let interval = match record["interval_95"].as_array().map(Vec::as_slice) {
            Some([low, high]) => format!("{} to {}", told(low), told(high)),
            _ => String::new(),
        };
        rows.push(vec![
            set.name.to_owned(),
            metric.clone(),
            told(&record["value"]),
            interval,
            record["chosen"]["lambda"].to_string(),
            if set.found == set.published { String::new() } else { "not as published".to_owned() },
        ]);
        records.push(record);
    }
    if records.is_empty() {
        if !failed.is_empty() {
            return Err(failed.remove(0).1.into());
        }
        let reasons = missing.iter().map(|it| it["reason"].as_str().unwrap_or_default());
        let reasons: Vec<&str> = reasons.collect();
        return Err(Error::Data(format!(
            "none of the sets of `{}` is on disk:\n  {}",
            arguments.suite.display(),
            reasons.join("\n  ")
        ))
        .into());
    }
    let heads = ["set", "metric", "value", "95 %", "lambda", "images"];
    rows.insert(0, heads.map(str::to_owned).to_vec());
    let mut text = aligned(&rows, &[2]);
    for it in &missing {
        text.push_str("\nleft out: ");
        text.push_str(it["name"].as_str().unwrap_or_default());
    }
    let told: Vec<Value> = failed
        .iter()
        .map(|(name, error)| json!({ "name": name, "reason": error.to_string() }))
        .collect();
    let json = json!({ "sets": records, "missing": missing, "failed": told });
    let answer = Answer { text, json };
    match failed.into_iter().next() {
        None => Ok(answer),
        Some((_, error)) => Err(anyhow::Error::new(Failure { answer, error })),
    }
}

/// The record of one set.
fn one(arguments: &Transfer, set: &TransferSet, variant: &'static Variant) -> Result<Value> {
    let asked = Arguments {
        model: arguments.model.clone(),
        overrides: arguments.overrides.clone(),
        // How a run cut its own images is nothing to a set with published splits.
        data: Some(format!("transfer:{}:{}", set.name, set.location)),
        protocol: None,
        preprocess: arguments.preprocess.clone(),
        layer: arguments.layer.clone(),
        baselines: false,
        out: arguments.out.clone(),
    };
    let subject = Subject::on(&asked, variant.set, Some("transfer"), |_, settings| {
        settings.only_one_cut()?;
        settings.no_groups("transfer")?;
        Ok(set.source())
    })?;
    let logistic = subject.settings.logistic.clone().expect("the variant has put it in place");
    let metric = match set.metric {
        Metric::MeanPerClass => Chosen::MeanPerClass,
        Metric::Top1 | Metric::VocMap => Chosen::Top1,
    };
    let logistic = Logistic { metric, ..logistic };
    let seed = subject.settings.seed;
    let cut = splits(set, 0)?;
    let Splits { train, validation, test, rule } = &cut;
    let of = |split: &Arc<dyn Dataset>, role: &'static str| extracted(&subject, split, role);
    let (references, held_out, queries) =
        (of(train, "train")?, of(validation, "validation")?, of(test, "test")?);
    let mut bar = round_bar(set.name);
    let mut done = |at: usize, all: usize| bar(at as u64, all as u64);
    let finding = if set.metric == Metric::VocMap {
        let label = |split: &Arc<dyn Dataset>| labels(split.as_ref(), set);
        let found = logistic.evaluate_multi_label(
            (&queries, &label(test)?),
            (&references, &label(train)?),
            Some((&held_out, &label(validation)?)),
            seed,
            &mut done,
        )?;
        let chosen = [("lambda".to_owned(), json!(found.choice.lambda))].into();
        Finding { chosen, ..Finding::of_precision(&found.precision) }
            .and("train_mean_average_precision", Measure::plain(found.training))
    } else {
        let found = logistic.evaluate(&queries, &references, Some(&held_out), seed, &mut done)?;
        logistic.finding(&found, seed)
    };
    let mut settings = json!(logistic);
    // The validation images are the set's, or a fifth as its rule says.
    settings.as_object_mut().expect("settings are a table").remove("validation_share");
    settings["set"] = json!(set.name);
    settings["validation"] = json!(format!("{rule:?}"));
    settings["notes"] = json!(set.notes);
    let damaged = [&references, &held_out, &queries].map(|side| side.damaged.len());
    let answer = subject.answer(&Judged {
        id: format!("transfer-{}-{}", set.name, variant.id),
        version: VERSION,
        settings,
        findings: vec![finding],
        baselines: Vec::new(),
        counts: [references.len() + held_out.len(), queries.len(), damaged.iter().sum()],
    })?;
    Ok(answer.json)
}

fn extracted(subject: &Subject, split: &Arc<dyn Dataset>, role: &'static str) -> Result<Features> {
    let store = subject.weights.run.as_ref().map(|run| run.join("features"));
    let selection = Selection::default();
    let part = Part { dataset: Arc::clone(split), role, source: &subject.source, selection };
    let Subject { weights, preprocess, layer, .. } = subject;
    Ok(features(weights, preprocess, *layer, &part, store.as_deref(), &mut image_bar(role))?)
}

/// Which classes each image of a split shows.
fn labels(split: &dyn Dataset, set: &TransferSet) -> Result<MultiLabels> {
    let labels = MultiLabels::of_all(split).ok_or_else(|| {
        Error::Data(format!("`{}` does not say which classes its images show", set.location))
    })?;
    Ok(labels)
}
