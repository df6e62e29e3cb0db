//! Reads the folder of a run into plain values: what is missing stays empty, what is damaged leaves a note.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::gallery::Gallery;
use super::metrics::Metrics;
use crate::analyze::history::{Standing, older_than_checkpoint};
use crate::error::{Error, Result};

/// How many of the last bytes of `log.txt` are read.
const LOG_BYTES: u64 = 64 * 1024;

/// What a run says about itself. Its pictures and its log are read by themselves: they are large, and only one page
/// shows them.
pub(super) struct Run {
    /// The name of the folder.
    pub(super) name: String,
    /// Where it stands; none if it never wrote so.
    pub(super) state: Option<State>,
    pub(super) recipe: toml::Table,
    pub(super) recipe_text: String,
    pub(super) environment: Map<String, Value>,
    pub(super) status: Status,
    pub(super) metrics: Metrics,
    /// Sorted by file name.
    pub(super) evaluations: Vec<Evaluation>,
    /// What could not be read, one sentence each.
    pub(super) notes: Vec<String>,
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A process is working on it.
    Running,
    /// It was stopped, by a signal, an error or a kill; the same command goes on.
    Stopped,
    /// It is done.
    Finished,
    /// A word this version does not know.
    Other(String),
}

impl State {
    /// What `status.json` says, held to whether a process has the run's lock: one that was killed could not write that it
    /// stopped.
    fn of(run: &Path, written: String) -> Self {
        match written.as_str() {
            "running" if is_locked(run) => Self::Running,
            "running" | "stopped" => Self::Stopped,
            "finished" => Self::Finished,
            _ => Self::Other(written),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
            Self::Other(word) => word,
        })
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether a process holds the run, [`crate::train::run::RunFolder`]. The question takes a shared lock for an instant.
fn is_locked(run: &Path) -> bool {
    let Ok(lock) = File::open(run.join("lock")) else { return false };
    matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// Something that happened at a step: a micro-batch halved, steps skipped, what a sentinel saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Optimizer steps taken before it.
    pub step: u64,
    /// Who says so; empty for the run itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// One sentence.
    pub text: String,
}

/// `status.json`: how far the run is, and its totals.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) state: Option<String>,
    pub(super) step: Option<f64>,
    pub(super) steps: Option<f64>,
    pub(super) epoch: Option<f64>,
    pub(super) final_loss: Option<f64>,
    pub(super) views: Option<f64>,
    pub(super) views_per_second: Option<f64>,
    pub(super) wall_seconds: Option<f64>,
    pub(super) peak_memory_mb: Option<f64>,
    /// What changed the run on its way.
    pub(super) history: Vec<Event>,
    /// What its sentinels saw.
    pub(super) warnings: Vec<Event>,
    /// What else was written.
    #[serde(flatten)]
    pub(super) rest: Map<String, Value>,
}

/// One file of `evaluations/`: the outcome of one protocol.
#[derive(Deserialize)]
pub(super) struct Evaluation {
    /// The file's name.
    #[serde(skip)]
    pub(super) file: String,
    /// How well it stands for the run.
    #[serde(skip)]
    pub(super) standing: Standing,
    /// Whether the run's last checkpoint was written after it.
    #[serde(skip)]
    pub(super) older: bool,
    pub(super) protocol: String,
    #[serde(default)]
    pub(super) version: Value,
    pub(super) metric: String,
    /// A fraction where the metric is an accuracy; none if it was not finite.
    pub(super) value: Option<f64>,
    #[serde(default)]
    pub(super) interval_95: Option<[f64; 2]>,
    #[serde(default)]
    pub(super) data: DataUsed,
    #[serde(default)]
    pub(super) seed: Value,
    #[serde(default)]
    pub(super) device: Value,
    #[serde(default)]
    pub(super) wall_seconds: Option<f64>,
    #[serde(default)]
    pub(super) weights: Weights,
    /// The same metric of other inputs: raw pixels, an untrained network.
    #[serde(default)]
    pub(super) baselines: Map<String, Value>,
    /// Other measures of the same run: top-5, mean per class.
    #[serde(default)]
    pub(super) also: Map<String, Value>,
    /// Settings, data and whatever else was written.
    #[serde(flatten)]
    pub(super) rest: Map<String, Value>,
}

/// The data an evaluation used.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct DataUsed {
    pub(super) queries: Option<f64>,
    pub(super) references: Option<f64>,
    pub(super) classes: Option<f64>,
    #[serde(flatten)]
    pub(super) rest: Map<String, Value>,
}

/// A measure: a bare number, or an object with a `value`.
pub(super) fn number(measure: &Value) -> Option<f64> {
    measure.as_f64().or_else(|| measure.get("value")?.as_f64())
}

/// The weights an evaluation read, and their hashes: equal ones prove that the backbone stayed frozen.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Weights {
    pub(super) file: Value,
    pub(super) hash_before: Option<String>,
    pub(super) hash_after: Option<String>,
    #[serde(flatten)]
    pub(super) rest: Map<String, Value>,
}

impl Run {
    /// Reads the folder `run`. Only a missing or unreadable recipe is an error.
    pub(super) fn read(run: &Path) -> Result<Self> {
        let mut notes = Vec::new();
        let (recipe_text, recipe) = read_recipe(run)?;
        let status: Option<Status> = read_json(run, "status.json", &mut notes);
        let written = status.as_ref().and_then(|status| status.state.clone());
        let state = written.map(|written| State::of(run, written));
        let source = recipe.get("data").and_then(|data| data.get("source")?.as_str());
        let evaluations = read_evaluations(run, source, &mut notes);
        Ok(Self {
            name: name_of(run),
            state,
            recipe,
            recipe_text,
            environment: read_json(run, "environment.json", &mut notes).unwrap_or_default(),
            status: status.unwrap_or_default(),
            metrics: Metrics::read(run, &mut notes),
            evaluations,
            notes,
        })
    }
}

/// The last part of its path.
pub(super) fn name_of(run: &Path) -> String {
    let full = run.canonicalize().unwrap_or_else(|_| run.to_owned());
    full.file_name().unwrap_or(full.as_os_str()).to_string_lossy().into_owned()
}

fn read_recipe(run: &Path) -> Result<(String, toml::Table)> {
    let path = run.join("recipe.toml");
    let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::Run(format!(
            "`{}` is not the folder of a run: it holds no `recipe.toml`; give the folder that `pretrain` wrote",
            run.display()
        )),
        _ => Error::io("read", &path)(error),
    })?;
    let table = text.parse().map_err(|error: toml::de::Error| {
        Error::Run(format!("`{}` is not valid TOML: {}", path.display(), error.message()))
    })?;
    Ok((text, table))
}

/// Reads one JSON file of the run; none if it is missing, and with a note if it is damaged.
pub(super) fn read_json<T: DeserializeOwned>(
    run: &Path,
    file: &str,
    notes: &mut Vec<String>,
) -> Option<T> {
    let bytes = match fs::read(run.join(file)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            notes.push(format!("{file} could not be read: {error}."));
            return None;
        }
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| notes.push(format!("{file} could not be understood: {error}.")))
        .ok()
}

/// The JSON files directly in `folder`, as names relative to the run, sorted.
fn json_files(run: &Path, folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(run.join(folder)) else { return Vec::new() };
    let mut files: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "json"))
        .map(|name| format!("{folder}/{name}"))
        .collect();
    files.sort();
    files
}

fn read_evaluations(run: &Path, source: Option<&str>, notes: &mut Vec<String>) -> Vec<Evaluation> {
    let mut read = |file: String| {
        let record: Value = read_json(run, &file, notes)?;
        let standing = Standing::of(run, source, &file, &record);
        let older = older_than_checkpoint(run, &file);
        let evaluation: Result<Evaluation, _> = serde_json::from_value(record);
        let evaluation = evaluation
            .map_err(|error| notes.push(format!("{file} could not be understood: {error}.")))
            .ok()?;
        Some(Evaluation { file, standing, older, ..evaluation })
    };
    json_files(run, "evaluations").into_iter().filter_map(&mut read).collect()
}

/// The galleries of `pictures/`, sorted by file name.
pub(super) fn read_galleries(run: &Path, notes: &mut Vec<String>) -> Vec<Gallery> {
    let files = json_files(run, "pictures");
    files.iter().filter_map(|file| Gallery::read(run, file, notes)).collect()
}

/// The lines of the end of `log.txt`, or none.
pub(super) fn log_lines(run: &Path, notes: &mut Vec<String>) -> Vec<String> {
    match read_end(&run.join("log.txt")) {
        Ok(text) => text.lines().map(str::to_owned).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            notes.push(format!("log.txt could not be read: {error}."));
            Vec::new()
        }
    }
}

fn read_end(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(LOG_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
