//! What the page over several runs says: the runs side by side, what they do not share, their curves in one picture.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use askama::Template;
use serde_json::{Map, Value};

use super::Written;
use super::analyses;
use super::chart::{COLUMNS, SIZE};
use super::data::Data;
use super::format::{
    counted, duration, flattened, grouped, is_fraction, measured, plain, significant,
};
use super::html::{Bar, bar, every, interval, judged as table_of, progress, stamp, value};
use super::metrics::{Curve, Metrics, Point};
use super::overlay::{self, Line, MOST, Over, Overlay};
use super::ranking::{conditions, differing};
use super::run::{Evaluation, Run, State, name_of, number};
use super::runs::{MONITOR, Monitor, monitored};
use super::watching::{Gradients, curve, gradients, read_scores};
use crate::error::{Error, Result};
use crate::overrides;

/// A shared beginning of at least so many bytes is left out where there is little room.
const LONG_BEGINNING: usize = 8;

#[derive(Template)]
#[template(path = "comparison.html")]
struct Page {
    css: &'static str,
    js: &'static str,
    name: String,
    /// Seconds after which the page reads itself anew, while one of the runs goes on.
    every: Option<u64>,
    stamp: String,
    notes: Vec<String>,
    runs: Vec<Row>,
    /// Key and, for each run, its value.
    settings: Vec<(String, Vec<Option<String>>)>,
    /// How many settings all runs share.
    shared: usize,
    /// The same of what they ran on.
    environment: Vec<(String, Vec<Option<String>>)>,
    figures: Vec<Figure>,
    over: &'static str,
    /// Name of the run, and what it recorded.
    gradients: Vec<(String, Gradients)>,
    analyses: Vec<(String, Vec<analyses::Shown>)>,
    protocols: Vec<Protocol>,
    size: (u32, u32),
}

/// A run in the first table.
struct Row {
    /// The data behind its curves, and behind its evaluations.
    data: Data,
    judged: Data,
    name: String,
    short: String,
    state: String,
    progress: String,
    loss: Option<String>,
    monitor: Option<String>,
    best: Option<String>,
    rate: Option<String>,
    /// The rate as a share of the fastest run's, in percent.
    share: f64,
    wall: Option<String>,
    memory: Option<String>,
    machine: String,
}

/// The picture of one quantity.
struct Figure {
    /// As logged.
    name: String,
    /// Place of a run, its points, first, lowest, highest and last value.
    rows: Vec<(usize, [String; 5])>,
    /// The part of the name before the slash.
    group: String,
    /// The rest of it, in words.
    title: String,
    overlay: Option<Overlay>,
    percent: bool,
    /// For each curve: place of the run, its last value.
    last: Vec<(usize, String)>,
    description: String,
    caveats: Vec<String>,
}

/// The evaluations of one protocol.
struct Protocol {
    id: String,
    /// What was not the same in all of them.
    differing: String,
    rows: Vec<Judged>,
}

struct Judged {
    run: usize,
    name: String,
    value: String,
    metric: String,
    interval: String,
    bar: Option<Bar>,
    counts: String,
    baselines: Vec<(String, String)>,
    file: String,
    older: bool,
}

/// A run without what its page alone shows, its curves condensed.
struct Compared {
    path: PathBuf,
    run: Run,
    monitor: Option<Monitor>,
    curves: Vec<Thin>,
    data: Data,
}

struct Thin {
    name: String,
    points: Vec<Point>,
    condensed: bool,
    gaps: usize,
    /// Finite values.
    count: usize,
    first: Option<Point>,
    lowest: f64,
    highest: f64,
    last: Option<Point>,
}

/// The page about the given runs, and what is to be told of it; `followed` where someone writes it again while they go on.
pub(super) fn page(paths: &[PathBuf], page: &Path, followed: bool) -> Result<(String, Written)> {
    let mut notes = Vec::new();
    let mut runs = Vec::new();
    for path in paths {
        match Run::read(path) {
            Ok(run) => runs.push(Compared::new(path.clone(), run, paths.len())),
            Err(error) => notes.push(error.to_string()),
        }
    }
    if runs.is_empty() || runs.len() > MOST {
        let why = match notes.first() {
            Some(note) => note.clone(),
            None => format!(
                "{} runs cannot be told apart in one picture; name at most {MOST}",
                runs.len()
            ),
        };
        return Err(Error::Run(why));
    }
    let names = names(&runs);
    for (compared, name) in runs.iter().zip(&names) {
        notes.extend(compared.run.notes.iter().map(|note| format!("{name}: {note}")));
    }
    let mut recorded = Vec::new();
    let mut analysed = Vec::new();
    // Pictures of all runs share the room of the page.
    let mut room = analyses::ROOM;
    for (compared, name) in runs.iter().zip(&names) {
        let mut more = Vec::new();
        recorded
            .extend(gradients(&compared.path, name, &mut more).map(|found| (name.clone(), found)));
        let found = analyses::read(&compared.path, page, &mut room, &mut more);
        if !found.is_empty() {
            analysed.push((name.clone(), found));
        }
        notes.extend(more.iter().map(|note| format!("{name}: {note}")));
    }
    let settings: Vec<_> = runs.iter().map(|run| settings(&run.run)).collect();
    let environments: Vec<_> = runs.iter().map(|run| environment(&run.run)).collect();
    let over = over(&runs);
    let every = runs.iter().filter_map(|run| every(&run.run)).min();
    let page = Page {
        css: concat!(
            include_str!("../../templates/page.css"),
            include_str!("../../templates/series.css"),
            include_str!("comparison.css")
        ),
        js: concat!(include_str!("../../templates/page.js"), include_str!("comparison.js")),
        name: counted(runs.len(), "run"),
        every: every.filter(|_| followed),
        stamp: runs.iter().map(|run| stamp(&run.run)).collect::<Vec<_>>().join(" "),
        notes: notes.clone(),
        settings: side_by_side(&settings),
        shared: shared(&settings),
        environment: side_by_side(&environments),
        figures: figures(&runs, &names, over),
        over: over.word(),
        gradients: recorded,
        analyses: analysed,
        protocols: protocols(&runs, &names),
        runs: rows(runs, names),
        size: SIZE,
    };
    let page = page.render();
    let page =
        page.map_err(|error| Error::Run(format!("the report could not be made: {error}")))?;
    Ok((page, Written { notes, every }))
}

impl Compared {
    fn new(path: PathBuf, mut run: Run, runs: usize) -> Self {
        let monitor = monitored(&run.metrics, None);
        if let Some(table) = read_scores(&path, &mut run.notes) {
            let scores = ["pos_mean", "neg_mean", "neg_var", "neg_hardest"].into_iter();
            run.metrics.curves.extend(scores.filter_map(|name| {
                Some(Curve { name: format!("scores/{name}"), ..curve(&table, name)? })
            }));
        }
        let data = Data::metrics(&run.metrics, runs);
        // What it has logged is asked for once more, for the stamp of the page.
        let steps = run.metrics.steps();
        let thin = |curve: Curve| {
            let (points, condensed) = curve.condensed(COLUMNS / 2);
            let gaps = curve.points.len() - curve.finite().count();
            let (first, last) = (curve.finite().next(), curve.last());
            let values = || curve.finite().map(|point| point.value);
            let (lowest, highest) =
                (values().fold(f64::NAN, f64::min), values().fold(f64::NAN, f64::max));
            let count = curve.finite().count();
            Thin { name: curve.name, points, condensed, gaps, count, first, lowest, highest, last }
        };
        let curves = std::mem::take(&mut run.metrics).curves.into_iter().map(thin).collect();
        if let Some((_, step)) = steps {
            let point = Point { step, epoch: f64::NAN, value: f64::NAN };
            let last = Curve { name: String::new(), points: vec![point] };
            run.metrics = Metrics { curves: vec![last] };
        }
        Self { path, run, monitor, curves, data }
    }
}

/// The names of the folders; where two are the same, the paths.
fn names(runs: &[Compared]) -> Vec<String> {
    let names: Vec<String> = runs.iter().map(|run| name_of(&run.path)).collect();
    let twice = |name: &String| names.iter().filter(|other| *other == name).count() > 1;
    let name = |(name, run): (&String, &Compared)| {
        if twice(name) { run.path.display().to_string() } else { name.clone() }
    };
    names.iter().zip(runs).map(name).collect()
}

/// The names for narrow places: a long beginning that all share is left out.
fn short(names: &[String]) -> Vec<String> {
    let [first, rest @ ..] = names else { return Vec::new() };
    let alike = |name: &String| first.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
    let shared = rest.iter().map(alike).min().unwrap_or(0);
    // Cut where a word ends, so that what is left can be read.
    let cut = first.as_bytes()[..shared].iter().rposition(|byte| b"-_/ ".contains(byte));
    match cut {
        Some(cut) if cut >= LONG_BEGINNING => {
            names.iter().map(|name| format!("…{}", &name[cut + 1..])).collect()
        }
        _ => names.to_vec(),
    }
}

type Settings = Vec<(String, String)>;

fn settings(run: &Run) -> Settings {
    let mut settings = overrides::flatten(&run.recipe);
    for (_, value) in &mut settings {
        *value = value.trim_matches('"').to_owned();
    }
    settings
}

/// What the numbers depend on beside the recipe.
fn environment(run: &Run) -> Settings {
    let shown = |(key, _): &(&String, &Value)| !["command", "started"].contains(&key.as_str());
    let shown = run.environment.iter().filter(shown).map(|(k, v)| (k.clone(), v.clone()));
    flattened(&shown.collect::<Map<_, _>>())
}

/// The keys in which those who say anything differ, with the value of each.
fn side_by_side(all: &[Settings]) -> Vec<(String, Vec<Option<String>>)> {
    let find = |settings: &Settings, key: &str| {
        settings.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone())
    };
    let keys = differing(&known(all)).into_iter();
    keys.map(|key| {
        let values = all.iter().map(|settings| find(settings, &key)).collect();
        (key, values)
    })
    .collect()
}

/// Those of the lists that say anything.
fn known(all: &[Settings]) -> Vec<&[(String, String)]> {
    all.iter().map(Vec::as_slice).filter(|settings| !settings.is_empty()).collect()
}

/// How many keys all who say anything have in common, with their values.
fn shared(all: &[Settings]) -> usize {
    let differing = differing(&known(all));
    known(all)
        .first()
        .map_or(0, |first| first.iter().filter(|(key, _)| !differing.contains(key)).count())
}

/// Epochs make runs of several batch sizes comparable; steps are known for every run.
fn over(runs: &[Compared]) -> Over {
    let points = || runs.iter().flat_map(|run| &run.curves).flat_map(|curve| &curve.points);
    if points().all(|point| point.epoch.is_finite()) { Over::Epochs } else { Over::Steps }
}

fn rows(runs: Vec<Compared>, names: Vec<String>) -> Vec<Row> {
    let rate = |run: &Compared| run.run.status.views_per_second;
    let fastest = runs.iter().filter_map(rate).fold(f64::MIN_POSITIVE, f64::max);
    let names = short(&names).into_iter().zip(names);
    runs.into_iter().zip(names).map(|(compared, names)| row(compared, names, fastest)).collect()
}

fn row(compared: Compared, (short, name): (String, String), fastest: f64) -> Row {
    let (run, status) = (&compared.run, &compared.run.status);
    let logged = compared.curves.iter().find(|curve| curve.name == "train/loss");
    let loss = status.final_loss.or_else(|| Some(logged?.last?.value));
    let monitor = compared.monitor.as_ref();
    let shown = |monitor: &Monitor, value: f64| match monitor.name.as_str() {
        MONITOR => measured(MONITOR, value),
        other => format!("{other} {}", measured(other, value)),
    };
    let environment = |key: &str| Some(plain(run.environment.get(key)?));
    let cores = environment("cores").map(|cores| format!("{cores} cores"));
    let threads =
        environment("compute_threads").map(|threads| format!("{threads} compute threads"));
    let machine = [environment("processor"), cores, environment("device"), threads];
    Row {
        judged: table_of(&run.evaluations),
        name,
        short,
        state: run.state.as_ref().map_or("never started".to_owned(), State::to_string),
        progress: progress(run).0,
        loss: loss.map(significant),
        monitor: monitor.map(|monitor| shown(monitor, monitor.last.value)),
        best: monitor.map(|monitor| shown(monitor, monitor.best.value)),
        rate: status.views_per_second.map(significant),
        share: status.views_per_second.map_or(0.0, |rate| 100.0 * (rate / fastest).clamp(0.0, 1.0)),
        wall: status.wall_seconds.map(duration),
        memory: status.peak_memory_mb.map(|megabytes| format!("{} MB", grouped(megabytes))),
        machine: machine.into_iter().flatten().collect::<Vec<_>>().join(", "),
        data: compared.data,
    }
}

/// One picture for each quantity that a run logged; those whose names share the part before the slash stand together.
fn figures(runs: &[Compared], names: &[String], over: Over) -> Vec<Figure> {
    let mut quantities: Vec<&str> = Vec::new();
    for name in runs.iter().flat_map(|run| &run.curves).map(|curve| curve.name.as_str()) {
        if quantities.contains(&name) {
            continue;
        }
        let group = |name: &str| name.split('/').next().map(str::to_owned);
        let last = quantities.iter().rposition(|other| group(other) == group(name));
        quantities.insert(last.map_or(quantities.len(), |last| last + 1), name);
    }
    quantities.into_iter().map(|quantity| figure(quantity, runs, names, over)).collect()
}

fn figure(quantity: &str, runs: &[Compared], names: &[String], over: Over) -> Figure {
    let of = |run: &Compared| run.curves.iter().position(|curve| curve.name == quantity);
    let found: Vec<(usize, &Thin)> = runs
        .iter()
        .enumerate()
        .filter_map(|(place, run)| Some((place, &run.curves[of(run)?])))
        .collect();
    let lines: Vec<Line> =
        found.iter().map(|(run, curve)| Line { run: *run, points: curve.points.clone() }).collect();
    let last: Vec<(usize, String)> = found
        .iter()
        .map(|(run, curve)| {
            let value = curve.last.map(|point| measured(quantity, point.value));
            (*run, value.unwrap_or_else(|| "not finite".to_owned()))
        })
        .collect();
    let values: Vec<String> =
        last.iter().map(|(run, value)| format!("{} {value}", names[*run])).collect();
    let gaps: usize = found.iter().map(|(_, curve)| curve.gaps).sum();
    let condensed = found.iter().any(|(_, curve)| curve.condensed);
    let caveats = [
        condensed.then(|| "of long curves the means of short stretches".to_owned()),
        (gaps > 0).then(|| format!("{} not finite", counted(gaps, "value"))),
    ];
    let mut joined: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (run, _) in found.iter().filter(|(run, _)| !runs[*run].data.note.is_empty()) {
        joined.entry(&runs[*run].data.note).or_default().push(&names[*run]);
    }
    let joined =
        joined.iter().map(|(note, names)| format!("the data of {} are {note}", names.join(", ")));
    let (group, title) = quantity.split_once('/').unwrap_or(("", quantity));
    let shown =
        |value: f64| if value.is_finite() { measured(quantity, value) } else { "–".to_owned() };
    let rows = found.iter().map(|(run, curve)| {
        let of = |point: Option<Point>| shown(point.map_or(f64::NAN, |point| point.value));
        let ends = [of(curve.first), shown(curve.lowest), shown(curve.highest), of(curve.last)];
        let [first, lowest, highest, last] = ends;
        (*run, [grouped(curve.count as f64), first, lowest, highest, last])
    });
    Figure {
        name: quantity.to_owned(),
        rows: rows.collect(),
        group: group.to_owned(),
        title: title.replace('_', " "),
        overlay: overlay::draw(&lines, over, is_fraction(quantity)),
        percent: is_fraction(quantity),
        description: format!(
            "{quantity} over {}s, last values: {}.",
            over.word(),
            values.join(", ")
        ),
        last,
        caveats: caveats.into_iter().flatten().chain(joined).collect(),
    }
}

/// The evaluations by protocol, the runs in their order.
fn protocols(runs: &[Compared], names: &[String]) -> Vec<Protocol> {
    let mut found: BTreeMap<&str, Vec<(usize, &Evaluation)>> = BTreeMap::new();
    for (place, compared) in runs.iter().enumerate() {
        for evaluation in &compared.run.evaluations {
            found.entry(&evaluation.protocol).or_default().push((place, evaluation));
        }
    }
    let protocol = |(id, evaluations): (&str, Vec<(usize, &Evaluation)>)| {
        let conditions: Vec<Settings> = evaluations.iter().map(|(_, e)| conditions(e)).collect();
        Protocol {
            id: id.to_owned(),
            differing: differing(&known(&conditions)).join(", "),
            rows: evaluations
                .into_iter()
                .map(|(place, e)| judged(place, &names[place], e))
                .collect(),
        }
    };
    found.into_iter().map(protocol).collect()
}

fn judged(run: usize, name: &str, evaluation: &Evaluation) -> Judged {
    let count = |count: Option<f64>, of: &str| Some(format!("{} {of}", grouped(count?)));
    let counts = [
        count(evaluation.data.queries, "queries"),
        count(evaluation.data.references, "references"),
    ];
    let baseline = |(name, value): (&String, &Value)| {
        (
            name.replace('_', " "),
            number(value).map_or_else(|| plain(value), |v| measured(&evaluation.metric, v)),
        )
    };
    Judged {
        run,
        name: name.to_owned(),
        value: value(evaluation).unwrap_or_else(|| "not finite".to_owned()),
        metric: evaluation.metric.clone(),
        interval: interval(evaluation),
        bar: bar(evaluation),
        counts: counts.into_iter().flatten().collect::<Vec<_>>().join(", "),
        baselines: evaluation.baselines.iter().map(baseline).collect(),
        file: evaluation.file.clone(),
        older: evaluation.older,
    }
}
