//! A folder of runs: where each stands and what it reached.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::format::is_fraction;
use super::metrics::{Curve, Metrics, Point};
use super::ranking::lower_is_better;
use super::run::{Evaluation, Event, Run, State, log_lines};
use crate::analyze::history::older_than_checkpoint;
use crate::error::{Error, Result};

/// The monitor that is shown where none is named and a run logged it.
pub const MONITOR: &str = "knn/top1";

/// The runs of a folder.
#[derive(Debug, Serialize)]
pub struct Listing {
    /// Sorted by name.
    pub runs: Vec<Summary>,
    /// Runs that cannot be read, sorted by name.
    pub damaged: Vec<Damaged>,
}

/// A run that cannot be read.
#[derive(Debug, Serialize)]
pub struct Damaged {
    /// Path below the folder.
    pub name: String,
    /// Why, in one sentence.
    pub reason: String,
}

/// A run in a few numbers; what was not written is none.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Path below the folder it was found in.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// None if it never started.
    pub state: Option<State>,
    /// Optimizer steps taken.
    pub step: Option<u64>,
    /// Optimizer steps of the whole run.
    pub steps: Option<u64>,
    /// Epochs done, with fraction.
    pub epoch: Option<f64>,
    /// Loss of the last step, or the last one logged.
    pub loss: Option<f64>,
    /// What was measured on the way.
    pub monitor: Option<Monitor>,
    /// Views per second of its last process.
    pub views_per_second: Option<f64>,
    /// Seconds spent by all its processes.
    pub wall_seconds: Option<f64>,
    /// The most memory one of them held, in MB (2^20 bytes).
    pub peak_memory_mb: Option<f64>,
    /// Sorted by protocol.
    pub evaluations: Vec<Judged>,
    /// What could not be read, one sentence each.
    pub notes: Vec<String>,
}

/// A quantity logged during a run.
#[derive(Debug, Serialize)]
pub struct Monitor {
    /// As in `metrics.jsonl`.
    pub name: String,
    /// Its last finite value.
    pub last: Reading,
    /// Its best one. It was chosen by the images it was measured on, so it flatters.
    pub best: Reading,
}

/// A value at a step.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Reading {
    /// The value; accuracies are fractions of one.
    pub value: f64,
    /// Steps taken.
    pub step: u64,
}

/// The outcome of one protocol.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// The file, as a path below the run.
    pub file: String,
    /// Id of the protocol.
    pub protocol: String,
    /// What the value is.
    pub metric: String,
    /// None if it was not finite.
    pub value: Option<f64>,
    /// Its 95 % interval.
    pub interval_95: Option<[f64; 2]>,
    /// Whether the run's last checkpoint was written after it.
    pub older_than_checkpoint: bool,
}

/// Everything a run tells beside its curves and pictures.
#[derive(Debug, Serialize)]
pub struct Details {
    /// The run in a few numbers.
    #[serde(flatten)]
    pub summary: Summary,
    /// The command that started its last process.
    pub command: Vec<String>,
    /// What changed it on its way.
    pub history: Vec<Event>,
    /// What its sentinels saw.
    pub warnings: Vec<Event>,
    /// The lines of the end of its log that warn of something.
    pub log_warnings: Vec<String>,
    /// Images that could not be read, each replaced by another.
    pub damaged_images: Vec<String>,
    /// Sorted by name.
    pub checkpoints: Vec<CheckpointFile>,
}

/// A checkpoint on disk.
#[derive(Debug, Serialize)]
pub struct CheckpointFile {
    /// Name in `checkpoints/`.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// The folders of runs below `folder`, sorted: itself, or its folders and theirs.
///
/// # Errors
/// [`Error::Run`] if `folder` is none, [`Error::Io`] if it cannot be read.
pub fn find(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Err(Error::Run(format!(
            "`{}` is not a folder; name the one that holds the runs, `runs` unless `pretrain --out` said otherwise",
            folder.display()
        )));
    }
    if looks_like_a_run(folder) {
        return Ok(vec![folder.to_owned()]);
    }
    let mut found = Vec::new();
    for inner in folders(folder)? {
        if looks_like_a_run(&inner) {
            found.push(inner);
        } else {
            // A folder below that cannot be read holds nothing to be listed.
            found.extend(
                folders(&inner).unwrap_or_default().into_iter().filter(|f| looks_like_a_run(f)),
            );
        }
    }
    found.sort();
    Ok(found)
}

/// A run that lost its recipe is still one, and damaged.
fn looks_like_a_run(folder: &Path) -> bool {
    ["recipe.toml", "status.json", "metrics.jsonl", "checkpoints"]
        .iter()
        .any(|name| folder.join(name).exists())
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect())
}

/// The path of a run below the folder it was found in; its own name if it is that folder.
fn name_in(folder: &Path, run: &Path) -> String {
    match run.strip_prefix(folder) {
        Ok(below) if below != Path::new("") => below.display().to_string(),
        _ => super::run::name_of(run),
    }
}

/// Every run of `folder`. `monitor` names the quantity to show; where it is left out, [`MONITOR`], else what the run
/// logged first of its kind.
///
/// # Errors
/// As [`find`]; a run that cannot be read is no error.
pub fn list(folder: &Path, monitor: Option<&str>) -> Result<Listing> {
    let (runs, damaged) = read_all(folder)?;
    let runs = runs.into_iter().map(|(name, path, run)| summary(name, &path, &run, monitor));
    Ok(Listing { runs: runs.collect(), damaged })
}

pub(super) type Found = Vec<(String, PathBuf, Run)>;

pub(super) fn read_all(folder: &Path) -> Result<(Found, Vec<Damaged>)> {
    let (mut runs, mut damaged) = (Vec::new(), Vec::new());
    for path in find(folder)? {
        let name = name_in(folder, &path);
        match Run::read(&path) {
            Ok(run) => runs.push((name, path, run)),
            Err(error) => damaged.push(Damaged { name, reason: error.to_string() }),
        }
    }
    Ok((runs, damaged))
}

fn summary(name: String, path: &Path, run: &Run, monitor: Option<&str>) -> Summary {
    let status = &run.status;
    let logged_loss = || Some(run.metrics.curve("train/loss")?.last()?.value);
    let mut evaluations: Vec<Judged> = run.evaluations.iter().map(|e| judged(path, e)).collect();
    evaluations.sort_by(|a, b| (&a.protocol, &a.file).cmp(&(&b.protocol, &b.file)));
    Summary {
        name,
        path: path.to_owned(),
        state: run.state.clone(),
        step: status.step.map(|step| step as u64),
        steps: status.steps.map(|steps| steps as u64),
        epoch: status.epoch,
        loss: status.final_loss.or_else(logged_loss),
        monitor: monitored(&run.metrics, monitor),
        views_per_second: status.views_per_second,
        wall_seconds: status.wall_seconds,
        peak_memory_mb: status.peak_memory_mb,
        evaluations,
        notes: run.notes.clone(),
    }
}

/// What was logged under the name; without one, [`MONITOR`] or else the first accuracy that is not of the training itself.
pub(super) fn monitored(metrics: &Metrics, name: Option<&str>) -> Option<Monitor> {
    let curve = match name {
        Some(name) => metrics.curve(name),
        None => metrics.curve(MONITOR).or_else(|| {
            let monitors = metrics.curves.iter().filter(|curve| !curve.name.starts_with("train/"));
            monitors.into_iter().find(|curve| is_fraction(&curve.name))
        }),
    }?;
    let reading = |point: Point| Reading { value: point.value, step: point.step as u64 };
    let (last, best) = (reading(curve.last()?), reading(best(curve)?));
    Some(Monitor { name: curve.name.clone(), last, best })
}

/// The best point of a curve, of equal ones the first.
pub(super) fn best(curve: &Curve) -> Option<Point> {
    let better = if lower_is_better(&curve.name) { f64::lt } else { f64::gt };
    curve.finite().reduce(|best, next| if better(&next.value, &best.value) { next } else { best })
}

fn judged(run: &Path, evaluation: &Evaluation) -> Judged {
    Judged {
        file: evaluation.file.clone(),
        protocol: evaluation.protocol.clone(),
        metric: evaluation.metric.clone(),
        value: evaluation.value,
        interval_95: evaluation.interval_95,
        older_than_checkpoint: older_than_checkpoint(run, &evaluation.file),
    }
}

/// Everything about one run.
///
/// # Errors
/// [`Error::Run`] if the folder holds no recipe or one that is not TOML.
pub fn details(run: &Path) -> Result<Details> {
    let read = Run::read(run)?;
    let mut summary = summary(read.name.clone(), run, &read, None);
    let log = log_lines(run, &mut summary.notes);
    let warns = |line: &&String| line.contains("warning") || line.contains("stopped: ");
    let words = |value: Option<&serde_json::Value>| {
        let words = value.and_then(serde_json::Value::as_array).into_iter().flatten();
        words.filter_map(|word| Some(word.as_str()?.to_owned())).collect()
    };
    Ok(Details {
        command: words(read.environment.get("command")),
        damaged_images: words(read.status.rest.get("damaged")),
        history: read.status.history,
        warnings: read.status.warnings,
        log_warnings: log.iter().filter(warns).cloned().collect(),
        checkpoints: checkpoints(run),
        summary,
    })
}

fn checkpoints(run: &Path) -> Vec<CheckpointFile> {
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten();
    let mut files: Vec<CheckpointFile> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            Some(CheckpointFile { name, bytes: entry.metadata().ok()?.len() })
        })
        .collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}
