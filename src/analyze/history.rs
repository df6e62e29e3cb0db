//! What analyses of whole runs read of a run's folder: its name, its files of one JSON object a line, and how good it was
//! in the end.

use crate::error::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::SystemTime;

/// How good a run was in the end, by a record of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Final {
    /// The protocol.
    pub protocol: String,
    /// What was measured.
    pub metric: String,
    /// The value; accuracies are shares.
    pub value: f64,
    /// The file of the record, in the run's folder.
    pub file: String,
    /// Whether the run's last checkpoint was written after it.
    pub older_than_checkpoint: bool,
}

/// Protocols whose number stands for a run, the best first.
const FINALS: [&str; 4] = ["linear", "logistic", "adam-features", "knn"];

/// How well a record stands for its run: of two records of a protocol the greater does.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    /// Whether it is of the last checkpoint, and not older than that.
    current: bool,
    /// Whether it is of the features h.
    features: bool,
    /// Whether it is of the data that the run was trained on.
    own: bool,
    /// Images it was made of, so that the whole of the data goes before a part.
    images: u64,
    /// When it was written.
    written: Option<SystemTime>,
}

impl Standing {
    /// Of the record in a file of a run that was trained on `source`.
    pub fn of(run: &Path, source: Option<&str>, file: &str, record: &Value) -> Self {
        let word = |place: &str| record.pointer(place).and_then(Value::as_str);
        let count = |place: &str| record.pointer(place).and_then(Value::as_u64).unwrap_or(0);
        let last = word("/weights/file").is_none_or(|file| Path::new(file).ends_with(LAST));
        Self {
            current: last && !older_than_checkpoint(run, file),
            features: word("/layer").is_none_or(|layer| layer == "h"),
            own: word("/data/location").zip(source).is_none_or(|(used, own)| used == own),
            images: count("/data/queries") + count("/data/references"),
            written: written(&run.join(file)),
        }
    }
}

/// Name of a run's last checkpoint.
const LAST: &str = "last.safetensors";

/// When a file was written last.
pub(crate) fn written(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// Whether the run's last checkpoint was written after this file of it.
pub(crate) fn older_than_checkpoint(run: &Path, file: &str) -> bool {
    let times = written(&run.join(file)).zip(written(&run.join("checkpoints").join(LAST)));
    times.is_some_and(|(record, checkpoint)| record < checkpoint)
}

/// The number of the record that tells most about a run: of the best protocol there is, what [`Standing`] puts first.
/// None without a record.
pub fn final_number(run: &Path) -> Option<Final> {
    let mut files: Vec<String> = fs::read_dir(run.join("evaluations"))
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| Path::new(name).extension().is_some_and(|end| end == "json"))
        .collect();
    files.sort();
    let recipe = fs::read_to_string(run.join("recipe.toml")).unwrap_or_default();
    let recipe: toml::Table = recipe.parse().unwrap_or_default();
    let source = recipe.get("data").and_then(|data| data.get("source")?.as_str());
    // No more of a record is asked for than what is shown, so that one of another version will do.
    let record = |name: &String| -> Option<(Standing, Final)> {
        let file = format!("evaluations/{name}");
        let text = fs::read_to_string(run.join(&file)).ok()?;
        let record: Value = serde_json::from_str(&text).ok()?;
        let word = |key: &str| record.get(key)?.as_str().map(str::to_owned);
        let value = record.get("value")?.as_f64()?;
        let standing = Standing::of(run, source, &file, &record);
        let older_than_checkpoint = older_than_checkpoint(run, &file);
        let (protocol, metric) = (word("protocol")?, word("metric")?);
        Some((standing, Final { protocol, metric, value, file, older_than_checkpoint }))
    };
    let records: Vec<(Standing, Final)> = files.iter().filter_map(record).collect();
    let best = |protocol: &&str| {
        let fitting = records.iter().filter(|(_, found)| found.protocol.starts_with(protocol));
        fitting.max_by_key(|(standing, _)| standing)
    };
    FINALS.iter().find_map(best).map(|(_, found)| found.clone())
}

impl Final {
    /// `linear-features 71.30 %`; what is no accuracy as a plain number, and an older record said to be one.
    pub fn text(&self) -> String {
        let older = if self.older_than_checkpoint { ", before the last checkpoint" } else { "" };
        let fraction =
            ["top", "accuracy", "per_class"].iter().any(|word| self.metric.contains(word));
        if fraction {
            format!("{} {:.2}\u{202f}%{older}", self.protocol, 100.0 * self.value)
        } else {
            format!("{} {} {:.4}{older}", self.protocol, self.metric, self.value)
        }
    }
}

/// The last part of a run's path.
pub fn run_name(run: &Path) -> String {
    let full = run.canonicalize().unwrap_or_else(|_| run.to_owned());
    full.file_name().unwrap_or(full.as_os_str()).to_string_lossy().into_owned()
}

/// Names of several runs: those of their folders, or, where two are the same, their paths.
pub fn run_names(runs: &[impl AsRef<Path>]) -> Vec<String> {
    let names: Vec<String> = runs.iter().map(|run| run_name(run.as_ref())).collect();
    let twice = |name: &String| names.iter().filter(|other| *other == name).count() > 1;
    let name = |(name, run): (&String, &_)| {
        let path: &Path = AsRef::as_ref(run);
        if twice(name) { path.display().to_string() } else { name.clone() }
    };
    names.iter().zip(runs).map(name).collect()
}

/// The lines of a file of a run; none without the file. A last line that was cut off while it was written is left out in
/// silence.
///
/// # Errors
/// [`Error::Run`] if the folder is none of a run or an earlier line is no JSON object with a step, [`Error::Io`].
pub fn lines(run: &Path, name: &str) -> Result<Option<Vec<Map<String, Value>>>> {
    if !run.join("recipe.toml").is_file() {
        return Err(Error::Run(format!(
            "`{}` is not the folder of a run: it holds no `recipe.toml`; give the folder that `pretrain` wrote",
            run.display()
        )));
    }
    let path = run.join(name);
    if !path.exists() {
        return Ok(None);
    }
    let file = File::open(&path).map_err(Error::io("read", &path))?;
    let mut rows = Vec::new();
    let mut damaged = None;
    for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
        let line = line.map_err(Error::io("read", &path))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        if let Some(number) = damaged {
            return Err(Error::Run(format!(
                "`{}`, line {number}: not a JSON object with a `step`; the run writes it anew from its last checkpoint \
                 when it goes on",
                path.display()
            )));
        }
        match serde_json::from_slice::<Map<String, Value>>(&line) {
            Ok(row) if row.get("step").and_then(Value::as_f64).is_some() => rows.push(row),
            _ => damaged = Some(number + 1),
        }
    }
    Ok(Some(rows))
}

/// A number; what is not there or not finite is NaN.
pub fn number(value: Option<&Value>) -> f64 {
    value.and_then(Value::as_f64).unwrap_or(f64::NAN)
}

/// A field of a CSV (RFC 4180): in quotes where it needs them.
pub fn field(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// A number in a CSV, empty if it is not finite.
pub fn cell(value: f64) -> String {
    if value.is_finite() { value.to_string() } else { String::new() }
}
