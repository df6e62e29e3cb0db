//! The folder of a run: what is written where, by one process at a time.

use super::journal::Event;
use crate::error::{Error, Result};
use crate::files::replace_text;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Version of what a run folder holds; a newer one is an error.
pub const FORMAT: u32 = 1;

/// An open run folder; it is locked against other processes until dropped (or the process dies).
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: File,
}

/// Where a run stands: `status.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`FORMAT`] of the writer.
    #[serde(default)]
    pub format: u32,
    /// `running`, `stopped` (by a signal or an error; resumable) or `finished`.
    pub state: String,
    /// Optimizer steps taken.
    pub step: u64,
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// Epochs done, with fraction.
    pub epoch: f64,
    /// Loss of the last step; absent before the first.
    pub final_loss: Option<f64>,
    /// Views per second of the last process, from the end of its third step, everything included.
    pub views_per_second: Option<f64>,
    /// Seconds spent by all processes that worked on the run.
    pub wall_seconds: f64,
    /// The most memory a process held, in MB (2^20 bytes).
    pub peak_memory_mb: u64,
    /// Damaged images met so far, each replaced by a substitute.
    pub damaged: Vec<String>,
    /// Steps that left the weights as they were, because something was not finite or by a roll-back.
    #[serde(default)]
    pub left_out: u64,
    /// What happened to the run beside training: how it went on after running out of memory, steps left out, ...
    #[serde(default)]
    pub history: Vec<Event>,
    /// What the sentinels said.
    #[serde(default)]
    pub warnings: Vec<Warning>,
}

/// What a sentinel said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Step at which it was said.
    pub step: u64,
    /// Which sentinel.
    pub name: String,
    /// What it found, and the likely cause.
    pub text: String,
}

impl RunFolder {
    /// Creates the folder if need be and locks it.
    ///
    /// # Errors
    /// [`Error::Run`] when another process works in it or a newer program made it; [`Error::Io`] when it cannot be written.
    pub fn open(path: &Path) -> Result<Self> {
        let format = format_of(path);
        if format > u64::from(FORMAT) {
            return Err(Error::Run(format!(
                "run folder `{}` has format {format}, this program reads up to {FORMAT}; use a newer diptych",
                path.display()
            )));
        }
        for folder in ["checkpoints", "evaluations", "pictures"] {
            let folder = path.join(folder);
            fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        }
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(Error::io("write", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::Run(format!(
                "another process is working in run folder `{}`; wait for it or choose another --out",
                path.display()
            ))),
            Err(TryLockError::Error(source)) => Err(Error::io("lock", &lock_path)(source)),
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file or folder in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Replaces a file as a whole.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, name: &str, content: &str) -> Result<()> {
        replace_text(&self.join(name), content)
    }

    /// Replaces `status.json`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_status(&self, status: &Status) -> Result<()> {
        let status = Status { format: FORMAT, ..status.clone() };
        let text = serde_json::to_string_pretty(&status).map_err(|e| Error::Run(e.to_string()))?;
        self.write("status.json", &text)
    }

    /// Adds a line, with the time, to `log.txt`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn log(&self, line: &str) -> Result<()> {
        log(&self.path, line)
    }
}

/// Adds a line, with the time, to `log.txt` of a run folder.
///
/// # Errors
/// [`Error::Io`].
pub fn log(run: &Path, line: &str) -> Result<()> {
    append(&run.join("log.txt"), &format!("{} {line}", timestamp()))
}

/// The format of a run folder, whatever else its status says; 0 without one.
fn format_of(run: &Path) -> u64 {
    let text = fs::read_to_string(run.join("status.json")).unwrap_or_default();
    let status: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    status["format"].as_u64().unwrap_or(0)
}

/// Reads `status.json` of a run folder; `None` when there is none or it cannot be understood.
pub fn read_status(run: &Path) -> Option<Status> {
    serde_json::from_str(&fs::read_to_string(run.join("status.json")).ok()?).ok()
}

/// `metrics.jsonl`: one object a line, in the order of the steps.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
}

impl Metrics {
    /// Opens the metrics of a run that goes on after `step` steps: later lines, which the run will write again, and a
    /// half-written last line are cut off. Returns the step and the wall seconds of the last line kept.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(run: &RunFolder, step: u64) -> Result<(Self, Option<u64>, f64)> {
        let path = run.join("metrics.jsonl");
        let last = cut_back(&path, step)?.unwrap_or_default();
        let wall = last["wall_seconds"].as_f64().unwrap_or_default();
        Ok((Self { path }, last["step"].as_u64(), wall))
    }

    /// Appends one line. A value that is not finite is written as `null`, which is what JSON has for it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(
        &self,
        step: u64,
        epoch: f64,
        wall_seconds: f64,
        values: &[(String, f64)],
    ) -> Result<()> {
        let mut line = serde_json::Map::new();
        line.insert("step".into(), step.into());
        line.insert("epoch".into(), epoch.into());
        line.insert("wall_seconds".into(), ((wall_seconds * 1e3).round() / 1e3).into());
        for (name, value) in values {
            line.insert(name.clone(), (*value).into());
        }
        append(&self.path, &serde_json::Value::Object(line).to_string())
    }
}

/// Cuts lines of steps after `step`, which the run will write again, and what is no line off the end of a file of JSON
/// objects in the order of their steps. Returns the last one kept; none, and nothing is done, without a file.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn cut_back(path: &Path, step: u64) -> Result<Option<serde_json::Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let file = OpenOptions::new().read(true).write(true).open(path);
    let mut reader = BufReader::new(file.map_err(Error::io("open", path))?);
    let (mut kept, mut line, mut last) = (0u64, Vec::new(), None);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(Error::io("read", path))?;
        let value: Option<serde_json::Value> =
            line.ends_with(b"\n").then(|| serde_json::from_slice(&line).ok()).flatten();
        let Some(value) = value else { break };
        if value["step"].as_u64().is_none_or(|found| found > step) {
            break;
        }
        last = Some(value);
        kept += read as u64;
    }
    let mut file = reader.into_inner();
    file.set_len(kept)
        .and_then(|()| file.seek(SeekFrom::Start(kept)).map(drop))
        .map_err(Error::io("cut", path))?;
    Ok(last)
}

/// One write per line, so that a kill leaves whole lines behind.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn append(path: &Path, line: &str) -> Result<()> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
        .map_err(Error::io("write", path))
}

/// The present in UTC, `2026-11-21T10:15:00Z`; for people only, nothing is decided by it. A clock before 1970 shows 1970.
pub fn timestamp() -> String {
    let now = std::time::SystemTime::now();
    utc(now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs())
}

/// The time that many seconds after the start of 1970.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days since 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("with space é");
        let first = RunFolder::open(&path).unwrap();
        let message = RunFolder::open(&path).unwrap_err().to_string();
        assert!(message.contains("another process"), "{message}");
        drop(first);
        RunFolder::open(&path).unwrap();
    }

    #[test]
    fn metrics_are_cut_back_to_the_checkpoint_and_half_lines_go() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(folder.path()).unwrap();
        let (metrics, last, wall) = Metrics::open(&run, 0).unwrap();
        assert!(wall.abs() < 1e-9 && last.is_none());
        for step in [10, 20, 30] {
            let values = [("train/loss".to_owned(), if step == 20 { f64::NAN } else { 1.5 })];
            metrics.write(step, 0.1, step as f64, &values).unwrap();
        }
        let path = run.join("metrics.jsonl");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"step\":40,\"train/lo").unwrap();
        let (metrics, last, wall) = Metrics::open(&run, 20).unwrap();
        assert!((wall - 20.0).abs() < 1e-9 && last == Some(20));
        metrics.write(30, 0.2, 31.0, &[]).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1], r#"{"step":20,"epoch":0.1,"wall_seconds":20.0,"train/loss":null}"#);
        assert!(lines[2].contains("31.0"));
    }

    #[test]
    fn metrics_that_end_in_garbage_are_cut_back_to_what_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(folder.path()).unwrap();
        let path = run.join("metrics.jsonl");
        let whole = b"{\"step\":10,\"wall_seconds\":1.5}\n".as_slice();
        for garbage in [b"\0\0\0\n".as_slice(), b"\xff\xfe\n", b"{\"step\":20}\xff\n"] {
            fs::write(&path, [whole, garbage].concat()).unwrap();
            let (_, _, wall) = Metrics::open(&run, 100).unwrap();
            assert!((wall - 1.5).abs() < 1e-9);
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn the_status_survives_a_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(folder.path()).unwrap();
        assert_eq!(read_status(folder.path()), None);
        let status = Status {
            state: "finished".into(),
            step: 3,
            final_loss: Some(1.25),
            ..Status::default()
        };
        run.write_status(&status).unwrap();
        assert_eq!(read_status(folder.path()), Some(Status { format: FORMAT, ..status }));
    }

    #[test]
    fn a_folder_of_a_newer_program_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        drop(RunFolder::open(folder.path()).unwrap());
        let status = Status { format: FORMAT + 1, ..Status::default() };
        let text = serde_json::to_string(&status).unwrap();
        fs::write(folder.path().join("status.json"), &text).unwrap();
        let message = RunFolder::open(folder.path()).unwrap_err().to_string();
        assert!(message.contains("has format 2, this program reads up to 1"), "{message}");
        assert_eq!(fs::read_to_string(folder.path().join("status.json")).unwrap(), text);
    }

    #[test]
    fn time_is_written_the_common_way() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), expected);
        }
        let now = timestamp();
        assert_eq!(now.len(), 20);
        assert!(now.as_str() > "2025-01-01T00:00:00Z" && now.ends_with('Z'), "{now}");
    }
}
