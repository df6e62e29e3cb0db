//! What the page says: every number as text, in the order of the page. The template gives it form and escapes all of it.

use askama::Template;
use toml::Value as Toml;

use super::analyses;
use super::chart::{self, Chart};
use super::data::{Data, chosen};
use super::details::Detail;
use super::format::{
    counted, duration, flattened, grouped, is_fraction, measured, percent, plain, significant,
};
use super::gallery::{Gallery, Mark};
use super::metrics::Curve;
use super::run::{Evaluation, Event, Run, State, Status, number};
use super::watching::{Gradients, Scores};
use crate::error::{Error, Result};

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    css: &'static str,
    js: &'static str,
    name: &'a str,
    /// Address within the page and title of each section.
    sections: Vec<(&'static str, &'static str)>,
    /// Seconds after which the page reads itself anew, while the run goes on and someone writes it again.
    every: Option<u64>,
    /// What changes when the run goes on.
    stamp: String,
    /// Method, backbone, data and the like: label and text.
    facts: Vec<(&'static str, String)>,
    /// The state of the run, one word.
    state: &'a str,
    /// How far it is, in words.
    progress: String,
    /// How far it is as a fraction, while it runs.
    fraction: Option<f64>,
    notes: &'a [String],
    /// What happened on the way: title and events.
    events: Vec<(&'static str, Happened<'a>)>,
    tiles: Vec<Tile>,
    figures: Vec<Figure<'a>>,
    /// The data behind the figures.
    curves: Data,
    scores: Option<&'a Scores>,
    gradients: Option<&'a Gradients>,
    analyses: &'a [analyses::Shown],
    galleries: &'a [Gallery],
    evaluations: Vec<Row<'a>>,
    /// The data behind the evaluations.
    judged: Data,
    details: &'a [Detail],
    recipe: &'a str,
    tables: Vec<(&'static str, Vec<(String, String)>)>,
    log: &'a str,
    size: (u32, u32),
}

/// A key number; `value` is none if no file has it.
struct Tile {
    label: String,
    value: Option<String>,
    notes: Vec<String>,
}

/// The chart of one curve.
struct Figure<'a> {
    /// As logged.
    name: &'a str,
    /// The part of the name before the slash.
    group: &'a str,
    /// The rest of it, in words.
    title: String,
    chart: Option<Chart>,
    percent: bool,
    /// The last value, as shown before the reader points at another.
    last: String,
    description: String,
    /// What the picture leaves out.
    caveats: Vec<String>,
    /// Step, epoch and value of some of its points.
    rows: Vec<[String; 3]>,
}

/// One evaluation.
struct Row<'a> {
    file: &'a str,
    older: bool,
    protocol: String,
    metric: &'a str,
    value: String,
    interval: String,
    bar: Option<Bar>,
    counts: Vec<String>,
    baselines: Vec<(String, String)>,
    also: Vec<(String, String)>,
    weights: String,
    frozen: Option<bool>,
    cost: Vec<String>,
    settings: Vec<(String, String)>,
}

/// A value, its interval and the baselines on a scale from 0 to 100 percent.
pub(super) struct Bar {
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) marks: Vec<(String, f64)>,
}

/// Events of one kind, and how many more there are.
struct Happened<'a> {
    shown: &'a [Event],
    more: usize,
}

/// What is said of a record that was written before the last checkpoint.
const OLDER: &str = "older than the last checkpoint";

/// How many events of a kind are shown.
const EVENTS: usize = 50;

/// What is shown of a run beside its numbers.
pub(super) struct Parts {
    pub(super) galleries: Vec<Gallery>,
    pub(super) details: Vec<Detail>,
    pub(super) scores: Option<Scores>,
    pub(super) gradients: Option<Gradients>,
    pub(super) analyses: Vec<analyses::Shown>,
    pub(super) log: String,
    /// Seconds after which the page reads itself anew, where someone writes it again.
    pub(super) every: Option<u64>,
}

/// The page about one run.
pub(super) fn page(run: &Run, parts: &Parts) -> Result<String> {
    let status = &run.status;
    let (progress, fraction) = progress(run);
    let state = run.state.as_ref().map_or("no status yet".to_owned(), State::to_string);
    let page = Page {
        css: concat!(
            include_str!("../../templates/page.css"),
            include_str!("../../templates/series.css")
        ),
        js: concat!(include_str!("../../templates/page.js"), include_str!("report.js")),
        name: &run.name,
        sections: sections(run, parts),
        every: parts.every,
        stamp: stamp(run),
        facts: facts(&run.recipe),
        state: &state,
        progress,
        fraction,
        notes: &run.notes,
        events: events(status),
        tiles: tiles(run, status),
        figures: figures(run),
        curves: Data::metrics(&run.metrics, 1),
        scores: parts.scores.as_ref(),
        gradients: parts.gradients.as_ref(),
        analyses: &parts.analyses,
        galleries: &parts.galleries,
        evaluations: run.evaluations.iter().map(row).collect(),
        judged: judged(&run.evaluations),
        details: &parts.details,
        recipe: &run.recipe_text,
        tables: tables(run, status),
        log: &parts.log,
        size: chart::SIZE,
    };
    page.render().map_err(|error| Error::Run(format!("the report could not be made: {error}")))
}

/// The parts of the page that a reader can jump to.
fn sections(run: &Run, parts: &Parts) -> Vec<(&'static str, &'static str)> {
    let all = [
        ("numbers", "Key numbers", true),
        ("curves", "Curves", true),
        ("scores", "Scores", parts.scores.is_some()),
        ("gradients", "Gradients", parts.gradients.is_some()),
        ("pictures", "Pictures", !parts.galleries.is_empty()),
        ("evaluations", "Evaluations", !run.evaluations.is_empty()),
        ("analyses", "Analyses", !parts.analyses.is_empty()),
        ("recipe-text", "Recipe", true),
        ("environment", "Environment", true),
        ("log", "Log", true),
    ];
    all.into_iter().filter(|(.., there)| *there).map(|(id, title, _)| (id, title)).collect()
}

/// Seconds after which there may be something new of a run that goes on: it writes after every epoch, and every minute.
pub(super) fn every(run: &Run) -> Option<u64> {
    if run.state != Some(State::Running) {
        return None;
    }
    let status = &run.status;
    let epoch = status.wall_seconds.zip(status.epoch).map(|(wall, epochs)| wall / epochs);
    let seconds = epoch.filter(|seconds| seconds.is_finite()).unwrap_or(30.0);
    Some((0.5 * seconds).clamp(5.0, 60.0) as u64)
}

/// What changes when a run goes on.
pub(super) fn stamp(run: &Run) -> String {
    let last = run.metrics.steps().map_or(0.0, |(_, last)| last);
    format!("{last} {}", run.status.step.unwrap_or(0.0))
}

/// Every evaluation with the number as it was written.
pub(super) fn judged(evaluations: &[Evaluation]) -> Data {
    let row = |evaluation: &Evaluation| {
        let [low, high] = evaluation.interval_95.map_or([None; 2], |ends| ends.map(Some));
        serde_json::json!([
            evaluation.protocol,
            evaluation.version,
            evaluation.metric,
            evaluation.value,
            low,
            high,
            evaluation.data.queries,
            evaluation.data.references,
            evaluation.seed,
            evaluation.file
        ])
    };
    let columns = [
        "protocol",
        "version",
        "metric",
        "value",
        "interval_low",
        "interval_high",
        "queries",
        "references",
        "seed",
        "file",
    ];
    Data::of(&columns, &evaluations.iter().map(row).collect::<Vec<_>>())
}

/// A setting of the recipe as text; none if it is not there or no single value.
fn setting(recipe: &toml::Table, section: &str, key: &str) -> Option<String> {
    scalar(recipe.get(section)?.get(key)?)
}

fn scalar(value: &Toml) -> Option<String> {
    match value {
        Toml::String(text) => Some(text.clone()),
        Toml::Integer(number) => Some(number.to_string()),
        Toml::Float(number) => Some(number.to_string()),
        Toml::Boolean(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// The settings that a reader wants first.
fn facts(recipe: &toml::Table) -> Vec<(&'static str, String)> {
    let joined = |section: &str, keys: &[(&str, &str)]| {
        let known = keys.iter().filter_map(|(key, before)| {
            Some(format!("{before}{}", setting(recipe, section, key)?))
        });
        known.collect::<Vec<_>>().join(", ")
    };
    let source = setting(recipe, "data", "source").unwrap_or_default();
    let source = source.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    let views = recipe.get("view").and_then(Toml::as_array).map(|views| {
        let counts =
            views.iter().map(|view| view.get("count").and_then(Toml::as_integer).unwrap_or(1));
        counts.sum::<i64>().to_string()
    });
    let optimizer = recipe.get("train").and_then(|train| train.get("optimizer"));
    let optimizer = optimizer.and_then(|optimizer| scalar(optimizer.get("name")?));
    let length = match setting(recipe, "train", "max_steps") {
        Some(steps) => ("Steps", steps),
        None => ("Epochs", setting(recipe, "train", "epochs").unwrap_or_default()),
    };
    let all = [
        ("Method", joined("method", &[("name", ""), ("temperature", "temperature ")])),
        ("Backbone", joined("backbone", &[("name", ""), ("width", "width "), ("stem", "stem ")])),
        ("Data", source),
        ("Batch", setting(recipe, "data", "batch_size").unwrap_or_default()),
        ("Views", views.unwrap_or_default()),
        length,
        ("Optimizer", optimizer.unwrap_or_default()),
        ("Seed", recipe.get("seed").and_then(scalar).unwrap_or_default()),
    ];
    all.into_iter().filter(|(_, text)| !text.is_empty()).collect()
}

/// What happened to the run and what its sentinels saw, if anything; of many the last.
fn events(status: &Status) -> Vec<(&'static str, Happened<'_>)> {
    let kinds = [("Warnings", &status.warnings), ("What happened on the way", &status.history)];
    let some = kinds.into_iter().filter(|(_, events)| !events.is_empty());
    some.map(|(title, events)| {
        let more = events.len().saturating_sub(EVENTS);
        (title, Happened { shown: &events[more..], more })
    })
    .collect()
}

/// How far the run is, in words and, while it runs, as a fraction.
pub(super) fn progress(run: &Run) -> (String, Option<f64>) {
    let status = &run.status;
    let mut words = Vec::new();
    // The status is written after an epoch, curves go on.
    let running = run.state == Some(State::Running);
    let logged = run.metrics.steps().map(|(_, last)| last).filter(|_| running);
    let step = status.step.map(|step| logged.map_or(step, |logged| logged.max(step)));
    match (step, status.steps) {
        (Some(step), Some(steps)) => {
            words.push(format!("step {} of {}", grouped(step), grouped(steps)));
        }
        (Some(step), None) => words.push(format!("step {}", grouped(step))),
        _ => {}
    }
    if let Some(epoch) = status.epoch {
        words.push(format!("epoch {}", significant(epoch)));
    }
    let fraction = step.zip(status.steps).map(|(step, steps)| (step / steps).clamp(0.0, 1.0));
    (words.join(", "), fraction.filter(|fraction| running && fraction.is_finite()))
}

/// The key numbers. They come from `status.json`, `evaluations/` and the last lines of `metrics.jsonl`.
fn tiles(run: &Run, status: &Status) -> Vec<Tile> {
    let tile = |label: &str, value, note: Option<String>| Tile {
        label: label.to_owned(),
        value,
        notes: note.into_iter().collect(),
    };
    let memory = status.peak_memory_mb.map(|megabytes| format!("{} MB", grouped(megabytes)));
    let views = status.views.map(|views| format!("{} views", grouped(views)));
    let tiles = vec![
        loss_tile(run, status),
        evaluation_tile(run, "k-NN", "knn"),
        evaluation_tile(run, "Linear", "linear"),
        tile("Views per second", status.views_per_second.map(significant), views),
        tile("Wall time", status.wall_seconds.map(duration), None),
        tile("Peak memory", memory, None),
    ];
    if tiles.iter().all(|tile| tile.value.is_none()) { Vec::new() } else { tiles }
}

fn loss_tile(run: &Run, status: &Status) -> Tile {
    let tile = |label: &str, value: f64, notes| Tile {
        label: label.to_owned(),
        value: Some(significant(value)),
        notes,
    };
    let logged = run.metrics.curve("train/loss").and_then(Curve::last);
    match (status.final_loss, logged) {
        (Some(loss), _) => tile("Final loss", loss, Vec::new()),
        (None, Some(last)) => {
            tile("Last loss", last.value, vec![format!("at step {}", grouped(last.step))])
        }
        (None, None) => Tile { label: "Loss".to_owned(), value: None, notes: Vec::new() },
    }
}

/// The evaluation that stands best for the run of those whose protocol starts with `protocol`, else the last value logged
/// during the run.
fn evaluation_tile(run: &Run, label: &str, protocol: &str) -> Tile {
    let fitting = run.evaluations.iter().filter(|e| e.protocol.starts_with(protocol));
    let count = fitting.clone().count();
    if let Some(evaluation) = fitting.max_by_key(|evaluation| &evaluation.standing) {
        let interval = Some(interval(evaluation)).filter(|interval| !interval.is_empty());
        let notes = [
            interval.map(|interval| format!("95\u{202f}% interval {interval}")),
            evaluation.data.queries.map(|queries| format!("{} queries", grouped(queries))),
            (count > 1).then(|| format!("{}, one of {count}", evaluation.file)),
            evaluation.older.then(|| OLDER.to_owned()),
        ];
        return Tile {
            label: format!("{label}, {}", evaluation.metric),
            value: value(evaluation),
            notes: notes.into_iter().flatten().collect(),
        };
    }
    let mut logged = run.metrics.curves.iter().filter(|curve| {
        let parts = curve.name.split_once('/');
        parts.is_some_and(|(group, metric)| group.starts_with(protocol) && is_fraction(metric))
    });
    let last = logged.next().and_then(|curve| Some((&curve.name, curve.last()?)));
    let (value, note) = match last {
        Some((name, point)) => (
            Some(measured(name, point.value)),
            format!("{name} during the run, step {}", grouped(point.step)),
        ),
        None => (None, "not evaluated yet".to_owned()),
    };
    Tile { label: label.to_owned(), value, notes: vec![note] }
}

/// One chart for each curve; those whose names share the part before the slash stand together.
fn figures(run: &Run) -> Vec<Figure<'_>> {
    let Some(steps) = run.metrics.steps() else { return Vec::new() };
    let mut figures: Vec<Figure> = Vec::new();
    for curve in &run.metrics.curves {
        let figure = figure(curve, steps);
        let last = figures.iter().rposition(|other| other.group == figure.group);
        figures.insert(last.map_or(figures.len(), |last| last + 1), figure);
    }
    figures
}

fn figure(curve: &Curve, steps: (f64, f64)) -> Figure<'_> {
    let (group, title) = curve.name.split_once('/').unwrap_or(("", &curve.name));
    let show = |value| measured(&curve.name, value);
    let lowest = curve.finite().map(|point| point.value).reduce(f64::min);
    let highest = curve.finite().map(|point| point.value).reduce(f64::max);
    let description = match (lowest, highest, curve.last()) {
        (Some(lowest), Some(highest), Some(last)) => format!(
            "{} over {} up to step {}: lowest {}, highest {}, last {}.",
            curve.name,
            counted(curve.finite().count(), "point"),
            grouped(last.step),
            show(lowest),
            show(highest),
            show(last.value)
        ),
        _ => format!("{} has no finite value yet.", curve.name),
    };
    let gaps = curve.points.len() - curve.finite().count();
    let chart = chart::draw(curve, steps, is_fraction(&curve.name));
    let thinned = chart.as_ref().is_some_and(|chart| chart.thinned);
    let caveats = [
        thinned
            .then(|| format!("{}, range pale and mean dark", counted(curve.points.len(), "value"))),
        (gaps > 0).then(|| format!("{} not finite", counted(gaps, "value"))),
    ];
    let rows = chosen(curve.points.len()).into_iter().map(|place| {
        let point = &curve.points[place];
        let finite =
            |value: f64, text: String| if value.is_finite() { text } else { "–".to_owned() };
        [
            grouped(point.step),
            finite(point.epoch, significant(point.epoch)),
            finite(point.value, show(point.value)),
        ]
    });
    Figure {
        name: &curve.name,
        rows: rows.collect(),
        group,
        title: title.replace('_', " "),
        chart,
        percent: is_fraction(&curve.name),
        last: curve.last().map_or(String::new(), |point| show(point.value)),
        description,
        caveats: caveats.into_iter().flatten().collect(),
    }
}

pub(super) fn value(evaluation: &Evaluation) -> Option<String> {
    evaluation.value.map(|value| measured(&evaluation.metric, value))
}

/// The 95 % interval in the unit of the metric; empty if it was not written.
pub(super) fn interval(evaluation: &Evaluation) -> String {
    match evaluation.interval_95 {
        Some([low, high]) if is_fraction(&evaluation.metric) => {
            format!("{:.2} to {}", 100.0 * low, percent(high))
        }
        Some([low, high]) => format!("{} to {}", significant(low), significant(high)),
        None => String::new(),
    }
}

fn row(evaluation: &Evaluation) -> Row<'_> {
    let metric = evaluation.metric.as_str();
    let version = match &evaluation.version {
        serde_json::Value::Null => String::new(),
        version => format!(" (version {})", plain(version)),
    };
    let counts = [
        (evaluation.data.queries, "queries"),
        (evaluation.data.references, "references"),
        (evaluation.data.classes, "classes"),
    ];
    let cost = [
        evaluation.wall_seconds.map(duration),
        (!evaluation.device.is_null()).then(|| plain(&evaluation.device)),
        (!evaluation.seed.is_null()).then(|| format!("seed {}", plain(&evaluation.seed))),
    ];
    let weights = &evaluation.weights;
    let hashes = match (&weights.hash_before, &weights.hash_after) {
        (Some(before), Some(after)) if before == after => {
            vec![("hash, before and after", before)]
        }
        (before, after) => [("hash before", before), ("hash after", after)]
            .into_iter()
            .filter_map(|(name, hash)| Some((name, hash.as_ref()?)))
            .collect(),
    };
    let hashes = hashes.into_iter().map(|(name, hash)| (name.to_owned(), hash.clone()));
    let of_weights = hashes.chain(flattened(&weights.rest));
    let of_weights = of_weights.map(|(name, text)| (format!("weights {name}"), text));
    let settings = flattened(&evaluation.rest).into_iter().map(|(name, text)| {
        (name.strip_prefix("settings.").map_or(name.clone(), str::to_owned), text)
    });
    let of_data = flattened(&evaluation.data.rest).into_iter();
    let of_data = of_data.map(|(name, text)| (format!("data {name}"), text));
    let settings = settings.chain(of_data).chain(of_weights).collect();
    let measures = |measures: &serde_json::Map<String, serde_json::Value>, metric: Option<&str>| {
        let shown = measures.iter().map(|(name, value)| {
            let metric = metric.unwrap_or(name);
            let text = number(value).map_or_else(|| plain(value), |value| measured(metric, value));
            (name.replace('_', " "), text)
        });
        shown.collect::<Vec<_>>()
    };
    Row {
        file: &evaluation.file,
        older: evaluation.older,
        protocol: format!("{}{version}", evaluation.protocol),
        metric,
        value: value(evaluation).unwrap_or_else(|| "not finite".to_owned()),
        interval: interval(evaluation),
        bar: bar(evaluation),
        counts: counts
            .iter()
            .filter_map(|(count, of)| Some(format!("{} {of}", grouped((*count)?))))
            .collect(),
        baselines: measures(&evaluation.baselines, Some(metric)),
        also: measures(&evaluation.also, None),
        weights: if weights.file.is_null() { String::new() } else { plain(&weights.file) },
        frozen: weights.hash_before.as_ref().zip(weights.hash_after.as_ref()).map(|(a, b)| a == b),
        cost: cost.into_iter().flatten().collect(),
        settings,
    }
}

/// The bar of an accuracy; none for other metrics and for values outside 0 to 1.
pub(super) fn bar(evaluation: &Evaluation) -> Option<Bar> {
    let inside = |value: &f64| (0.0..=1.0).contains(value);
    let value = evaluation.value.filter(inside).filter(|_| is_fraction(&evaluation.metric))?;
    let [low, high] = evaluation.interval_95.unwrap_or([value, value]);
    let marks = evaluation
        .baselines
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), 100.0 * number(value).filter(inside)?)));
    let [low, high] = [low, high].map(|edge| 100.0 * edge.clamp(0.0, 1.0));
    Some(Bar { value: 100.0 * value, low, high, marks: marks.collect() })
}

/// Everything else that was written about the run.
fn tables(run: &Run, status: &Status) -> Vec<(&'static str, Vec<(String, String)>)> {
    let environment = run.environment.iter().map(|(key, value)| match value {
        serde_json::Value::Array(words) if key == "command" => {
            vec![(key.clone(), words.iter().map(plain).collect::<Vec<_>>().join(" "))]
        }
        value => flattened(&serde_json::Map::from_iter([(key.clone(), value.clone())])),
    });
    // Lists without entries and counts of zero say nothing.
    let mut told = status.rest.clone();
    told.retain(|key, value| {
        key != "format"
            && *value != serde_json::json!(0)
            && value.as_array().is_none_or(|list| !list.is_empty())
    });
    let tables =
        [("environment.json", environment.flatten().collect()), ("status.json", flattened(&told))];
    tables.into_iter().filter(|(_, rows): &(_, Vec<_>)| !rows.is_empty()).collect()
}
