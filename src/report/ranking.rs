//! Which run of a folder is best, by a number that says what it is.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::format::flattened;
use super::run::{Evaluation, Run, State, number};
use super::runs::{Found, best, read_all};
use crate::error::{Error, Result};

/// By what runs are ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The evaluation of the protocol that stands for the run: of its last checkpoint, of the features h and of the data it
    /// was trained on before others, then the newest.
    Evaluation,
    /// The last value logged during the run.
    Last,
    /// The best value logged during the run.
    Best,
}

/// Runs in the order of one number.
#[derive(Debug, Serialize)]
pub struct Ranking {
    /// `knn/top1`: a logged name, or a protocol and its metric.
    pub metric: String,
    /// What the numbers are.
    pub by: By,
    /// Whether the lowest number is the best.
    pub lower_is_better: bool,
    /// Best first.
    pub ranked: Vec<Ranked>,
    /// Runs without such a number.
    pub left_out: Vec<String>,
    /// What a reader must know before trusting the order.
    pub notes: Vec<String>,
}

/// A run with the number it is ranked by.
#[derive(Debug, Serialize)]
pub struct Ranked {
    /// Path below the folder.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// None if it never started.
    pub state: Option<State>,
    /// The number.
    pub value: f64,
    /// Its 95 % interval, where one was written.
    pub interval_95: Option<[f64; 2]>,
    /// The file of the evaluation; none for a logged value.
    pub file: Option<String>,
    /// Whether the run's last checkpoint was written after it.
    pub older: bool,
    /// The step of a logged value.
    pub step: Option<u64>,
    /// What must be equal for two numbers to compare.
    #[serde(skip)]
    conditions: Vec<(String, String)>,
}

/// Whether smaller values of this metric are the better ones.
pub fn lower_is_better(metric: &str) -> bool {
    const LOWER: [&str; 9] = [
        "loss",
        "error",
        "perplexity",
        "entropy",
        "objective",
        "inertia",
        "alignment",
        "uniformity",
        "mean_cosine",
    ];
    LOWER.iter().any(|word| metric.contains(word))
}

/// The runs of `folder` in the order of `metric`. Without `by`, evaluations count where there is one, else last values:
/// a best value was chosen by the images it was measured on.
///
/// # Errors
/// As [`super::runs::find`]; [`Error::Run`] if no run has such a number.
pub fn rank(folder: &Path, metric: &str, by: Option<By>) -> Result<Ranking> {
    let (runs, damaged) = read_all(folder)?;
    let numbers = |by: By| -> Vec<Option<Ranked>> {
        runs.iter().map(|(name, path, run)| ranked(name, path, run, metric, by)).collect()
    };
    let evaluated = || numbers(By::Evaluation).iter().any(Option::is_some);
    let by = by.unwrap_or_else(|| if evaluated() { By::Evaluation } else { By::Last });
    let mut found: Vec<Ranked> = Vec::new();
    let mut left_out = Vec::new();
    for (number, (name, ..)) in numbers(by).into_iter().zip(&runs) {
        match number {
            Some(number) => found.push(number),
            None => left_out.push(name.clone()),
        }
    }
    if found.is_empty() {
        return Err(Error::Run(nothing_to_rank(folder, &runs, metric, by)));
    }
    let lower_is_better = lower_is_better(metric);
    found.sort_by(|a, b| {
        let order = a.value.total_cmp(&b.value);
        if lower_is_better { order } else { order.reverse() }
    });
    let mut notes = doubts(&found, by);
    notes.extend(
        damaged
            .into_iter()
            .map(|damaged| format!("{} cannot be read: {}", damaged.name, damaged.reason)),
    );
    let metric = metric.to_owned();
    Ok(Ranking { metric, by, lower_is_better, ranked: found, left_out, notes })
}

fn ranked(name: &str, path: &Path, run: &Run, metric: &str, by: By) -> Option<Ranked> {
    let blank = Ranked {
        name: name.to_owned(),
        path: path.to_owned(),
        state: run.state.clone(),
        value: 0.0,
        interval_95: None,
        file: None,
        older: false,
        step: None,
        conditions: Vec::new(),
    };
    if by == By::Evaluation {
        let fitting = run.evaluations.iter().filter_map(|e| Some((e, measure(e, metric)?)));
        // The protocol itself goes before its variants.
        let exact =
            |e: &Evaluation| metric.rsplit_once('/').is_some_and(|(it, _)| it == e.protocol);
        let (evaluation, (value, interval_95)) =
            fitting.max_by_key(|(e, _)| (exact(e), &e.standing))?;
        let (file, older) = (Some(evaluation.file.clone()), evaluation.older);
        let conditions = conditions(evaluation);
        return Some(Ranked { value, interval_95, file, older, conditions, ..blank });
    }
    let curve = run.metrics.curve(metric)?;
    let point = if by == By::Last { curve.last() } else { best(curve) }?;
    Some(Ranked { value: point.value, step: Some(point.step as u64), ..blank })
}

/// The value of `protocol/metric` in an evaluation, with its interval; `linear/top1` finds `linear-features` too.
fn measure(evaluation: &Evaluation, metric: &str) -> Option<(f64, Option<[f64; 2]>)> {
    let (protocol, metric) = metric.rsplit_once('/')?;
    let named = evaluation.protocol == protocol
        || evaluation.protocol.strip_prefix(protocol).is_some_and(|rest| rest.starts_with('-'));
    if !named {
        return None;
    }
    if evaluation.metric == metric {
        return Some((evaluation.value?, evaluation.interval_95));
    }
    let also = evaluation.also.get(metric)?;
    let interval = also.get("interval_95").cloned();
    Some((number(also)?, interval.and_then(|interval| serde_json::from_value(interval).ok())))
}

/// What decides an evaluation's number beside the weights and the seed.
pub(super) fn conditions(evaluation: &Evaluation) -> Vec<(String, String)> {
    let data = &evaluation.data;
    let count = |count: Option<f64>| count.map_or(String::new(), |count| count.to_string());
    let mut found = vec![
        ("protocol".to_owned(), evaluation.protocol.clone()),
        ("version".to_owned(), evaluation.version.to_string()),
        ("data.queries".to_owned(), count(data.queries)),
        ("data.references".to_owned(), count(data.references)),
    ];
    for (key, value) in flattened(&data.rest) {
        if ["fingerprint", "class_list_hash"].contains(&key.as_str()) || key.starts_with("cut.") {
            found.push((format!("data.{key}"), value));
        }
    }
    let decides = |key: &str| {
        key.starts_with("settings.") || ["layer", "preprocess", "choice"].contains(&key)
    };
    found.extend(flattened(&evaluation.rest).into_iter().filter(|(key, _)| decides(key)));
    found
}

/// The names under which the given lists of settings do not all say the same, sorted.
pub(super) fn differing(all: &[&[(String, String)]]) -> Vec<String> {
    let mut keys: Vec<&String> = all.iter().copied().flatten().map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    let differs = |key: &&String| {
        let mut values = all.iter().map(|settings| {
            settings.iter().find(|(known, _)| known == *key).map(|(_, value)| value)
        });
        let first = values.next();
        values.any(|other| Some(other) != first)
    };
    keys.into_iter().filter(differs).cloned().collect()
}

/// What a reader must know before trusting the order.
fn doubts(ranked: &[Ranked], by: By) -> Vec<String> {
    let mut notes = Vec::new();
    let conditions: Vec<_> = ranked.iter().map(|run| run.conditions.as_slice()).collect();
    let differing = differing(&conditions);
    if !differing.is_empty() {
        notes.push(format!("the numbers were not measured alike: {} differ", differing.join(", ")));
    }
    if let [first, second, ..] = ranked
        && let (Some(a), Some(b)) = (first.interval_95, second.interval_95)
        && a[0] <= b[1]
        && b[0] <= a[1]
    {
        let (first, second) = (&first.name, &second.name);
        notes.push(format!(
            "the 95 % intervals of {first} and {second} overlap: their order is not certain"
        ));
    }
    let older: Vec<&str> =
        ranked.iter().filter(|run| run.older).map(|run| run.name.as_str()).collect();
    if !older.is_empty() {
        notes.push(format!("older than the last checkpoint: the number of {}", older.join(", ")));
    }
    if ranked.iter().any(|run| run.state != Some(State::Finished)) {
        notes.push("some of these runs are not finished".to_owned());
    }
    if by == By::Best {
        notes.push(
            "best values were chosen by the images they were measured on, so they flatter"
                .to_owned(),
        );
    }
    notes
}

fn nothing_to_rank(folder: &Path, runs: &Found, metric: &str, by: By) -> String {
    let mut known: Vec<String> = Vec::new();
    for (_, _, run) in runs {
        if by == By::Evaluation {
            known.extend(run.evaluations.iter().map(|e| format!("{}/{}", e.protocol, e.metric)));
        } else {
            known.extend(run.metrics.curves.iter().map(|curve| curve.name.clone()));
        }
    }
    known.sort();
    known.dedup();
    let what = if by == By::Evaluation { "an evaluation" } else { "a logged value" };
    let known = match (runs.is_empty(), known.is_empty()) {
        (true, _) => "it holds no runs".to_owned(),
        (false, true) => "its runs have none at all yet".to_owned(),
        (false, false) => format!("its runs have {}", known.join(", ")),
    };
    format!("no run in `{}` has {what} named `{metric}`; {known}", folder.display())
}
