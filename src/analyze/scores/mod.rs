//! `analyze scores`: how alike positives and negatives were at every step of one run or several.
//!
//! Mean score of the positives, mean of the negatives, variance of the negatives (Zhu et al. 2021, arXiv:2108.02982, §A and
//! figure 2), as [`crate::train::scores`] recorded them, and beside the paper the spread of the negatives of one run, with
//! the hardest of them.

mod chart;
#[cfg(test)]
mod tests;

use super::history::{Final, cell, field, final_number, lines, number, run_names};
use super::plot::save;
pub use super::plot::{Lines, MOST};
use super::{Analysis, Form, Output};
use crate::error::{Error, Result};
use crate::files::replace_text;
use crate::machine;
use crate::train::scores::FILE;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Version of the analysis.
pub const VERSION: u32 = 1;

/// Settings of the picture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What is drawn over: `step` or `epoch`.
    pub axis: Axis,
    /// Steps of the running mean of the curves; 1 for none, 0 for a hundredth of the steps shown.
    pub smooth: u64,
    /// First step shown; 550 leaves out how a queue of 65536 fills in batches of 128.
    pub from: u64,
    /// Last step shown; 0 for the last there is.
    pub to: u64,
    /// Which side of a feature transformation, where both were recorded.
    pub stage: Side,
    /// Ends of the axis for the mean of the positives, \[0.3, 1.0\] in the published figure; from the data if empty.
    pub pos_range: Vec<f64>,
    /// ... of the negatives, \[-0.25, 0.25\] in the published figure.
    pub neg_range: Vec<f64>,
    /// ... for the variance of the negatives.
    pub var_range: Vec<f64>,
    /// Colours of the curves: `accessible` or `published`.
    pub palette: Lines,
}

/// What curves are drawn over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// Steps of training.
    #[default]
    Step,
    /// Epochs.
    Epoch,
}

/// Which of two records of a step is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// What `train.scores.stage` recorded; of both what the loss saw.
    #[default]
    Recorded,
    /// What the networks made, of `train.scores.stage=both`.
    PreFt,
}

impl Settings {
    /// Checks ranges.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting.
    pub fn check(&self) -> Result<()> {
        let refuse = |key: &str, range: &str, found: &dyn std::fmt::Debug| {
            Err(Error::Recipe(format!("`{key}` must be {range}, found `{found:?}`")))
        };
        if self.to != 0 && self.to <= self.from {
            return refuse("to", &format!("above `from` ({}), or 0 for all", self.from), &self.to);
        }
        for (key, range) in [
            ("pos_range", &self.pos_range),
            ("neg_range", &self.neg_range),
            ("var_range", &self.var_range),
        ] {
            let fits = match range.as_slice() {
                [] => true,
                [low, high] => low.is_finite() && high.is_finite() && low < high,
                _ => false,
            };
            if !fits {
                return refuse(key, "two ends, the lower first, or empty", range);
            }
        }
        Ok(())
    }
}

/// The scores of a run, a row per step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Names of the columns, `step` and `epoch` first.
    pub columns: Vec<String>,
    /// The rows in the order of their steps; what is not there is NaN.
    pub rows: Vec<Vec<f64>>,
}

impl Table {
    /// The scores of a run; none if it recorded none.
    ///
    /// # Errors
    /// Those of [`lines`].
    pub fn read(run: &Path) -> Result<Option<Self>> {
        let Some(lines) = lines(run, FILE)? else { return Ok(None) };
        let mut columns = vec!["step".to_owned(), "epoch".to_owned()];
        for line in &lines {
            // Settings of the recorder may change on the way.
            if line.len() > columns.len() || line.keys().any(|key| !columns.contains(key)) {
                columns.extend(
                    line.keys().filter(|key| !columns.contains(key)).cloned().collect::<Vec<_>>(),
                );
            }
        }
        let rows: Vec<Vec<f64>> = lines
            .iter()
            .map(|line| columns.iter().map(|column| number(line.get(column))).collect())
            .collect();
        Ok(Some(Self { columns, rows }).filter(|table| !table.rows.is_empty()))
    }

    /// A column by its name, all NaN if there is none.
    pub fn column(&self, name: &str) -> Vec<f64> {
        match self.columns.iter().position(|column| column == name) {
            Some(place) => self.rows.iter().map(|row| row[place]).collect(),
            None => vec![f64::NAN; self.rows.len()],
        }
    }

    /// Whether the column has a finite value.
    pub fn has(&self, name: &str) -> bool {
        self.column(name).iter().any(|value| value.is_finite())
    }
}

/// A run in the picture.
pub(super) struct Run {
    name: String,
    path: PathBuf,
    table: Table,
    end: Option<Final>,
}

/// Draws the scores of these runs into a folder.
///
/// # Errors
/// [`Error::Run`] if a folder is none of a run or has no scores, or there are more than 32; [`Error::Recipe`] for settings
/// out of range; [`Error::Io`].
pub fn draw(runs: &[PathBuf], settings: &Settings, folder: &Path) -> Result<Analysis> {
    let started = Instant::now();
    settings.check()?;
    if runs.len() > MOST {
        return Err(Error::Run(format!(
            "{} runs cannot be told apart in one picture; name at most {MOST}",
            runs.len()
        )));
    }
    let mut shown = Vec::new();
    for (path, name) in runs.iter().zip(run_names(runs)) {
        let table = Table::read(path)?.ok_or_else(|| {
            Error::Run(format!(
                "`{}` recorded no scores: its method compares no rows, or it was trained with \
                 `train.scores.enabled=false`",
                path.display()
            ))
        })?;
        let prefix = prefix(settings.stage);
        if !table.has(&format!("{prefix}pos_mean")) {
            return Err(Error::Recipe(format!(
                "`stage=pre_ft` needs scores of both sides, and `{}` recorded one; train with \
                 `train.scores.stage=both`",
                path.display()
            )));
        }
        let within = table.rows.iter().any(|row| in_range(settings, row[0]));
        if !within {
            return Err(Error::Recipe(format!(
                "`from` and `to` leave none of the steps of `{}`, which are 1 to {}",
                path.display(),
                table.rows.last().map_or(0.0, |row| row[0])
            )));
        }
        shown.push(Run { name, path: path.clone(), table, end: final_number(path) });
    }
    let mut files = Vec::new();
    let (svg, title, description) = chart::curves(&shown, settings);
    files.extend(save(folder, "scores", &svg, (&title, &description))?);
    if let [run] = shown.as_slice()
        && run.table.has(&format!("{}neg_q50", prefix(settings.stage)))
    {
        let (svg, title, description) = chart::spread(run, settings);
        files.extend(save(folder, "negatives", &svg, (&title, &description))?);
    }
    files.extend(tables(&shown, folder)?);
    let analysis = Analysis {
        kind: "scores".to_owned(),
        version: VERSION,
        title,
        settings: flat(settings),
        data: None,
        models: BTreeMap::new(),
        seed: 0,
        numbers: shown.iter().map(|run| (run.name.clone(), run.numbers(settings))).collect(),
        files,
        wall_seconds: started.elapsed().as_secs_f64(),
        device: "cpu".to_owned(),
        diptych: env!("CARGO_PKG_VERSION").to_owned(),
        revision: Some(machine::REVISION.to_owned()).filter(|revision| !revision.is_empty()),
    };
    analysis.write(folder)?;
    Ok(analysis)
}

/// What the names of columns begin with.
fn prefix(side: Side) -> &'static str {
    match side {
        Side::Recorded => "",
        Side::PreFt => "pre_ft_",
    }
}

fn in_range(settings: &Settings, step: f64) -> bool {
    step >= settings.from as f64 && (settings.to == 0 || step <= settings.to as f64)
}

/// Settings by name.
pub(super) fn flat(settings: &impl Serialize) -> BTreeMap<String, Value> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(settings)) => settings.into_iter().collect(),
        _ => BTreeMap::new(),
    }
}

impl Run {
    /// What it came to: means over the last twentieth of the steps shown.
    fn numbers(&self, settings: &Settings) -> Value {
        let steps = self.table.column("step");
        let last =
            steps.iter().copied().filter(|step| in_range(settings, *step)).fold(0.0, f64::max);
        let from = last - 0.05 * (last - settings.from as f64);
        let prefix = prefix(settings.stage);
        let mean = |name: &str| {
            let column = self.table.column(&format!("{prefix}{name}"));
            let values = || {
                steps
                    .iter()
                    .zip(&column)
                    .filter(|(step, _)| **step >= from && **step <= last)
                    .map(|(_, value)| *value)
            };
            values().sum::<f64>() / values().count() as f64
        };
        let [positive, negative] = [mean("pos_mean"), mean("neg_mean")];
        json!({
            "run": self.path,
            "steps": last,
            "mean_over_steps_from": from.ceil(),
            "pos_mean": positive,
            "neg_mean": negative,
            "neg_var": mean("neg_var"),
            "neg_hardest": mean("neg_hardest"),
            "gap": positive - negative,
            "final": self.end,
        })
    }
}

/// The data behind the pictures: every step, nothing smoothed.
fn tables(runs: &[Run], folder: &Path) -> Result<Vec<Output>> {
    let mut columns: Vec<&String> = Vec::new();
    for column in runs.iter().flat_map(|run| &run.table.columns) {
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    let header: Vec<&str> = columns.iter().map(|column| column.as_str()).collect();
    let mut csv = format!("run,{}\n", header.join(","));
    for run in runs {
        let places: Vec<Option<usize>> = columns
            .iter()
            .map(|column| run.table.columns.iter().position(|known| known == *column))
            .collect();
        let name = field(&run.name);
        for row in &run.table.rows {
            let cells = places.iter().map(|place| place.map_or(String::new(), |at| cell(row[at])));
            let cells: Vec<String> = cells.collect();
            writeln!(csv, "{name},{}", cells.join(","))
                .expect("writing into a string does not fail");
        }
    }
    replace_text(&folder.join("scores.csv"), &csv)?;
    let all: Vec<Value> = runs
        .iter()
        .map(|run| json!({ "run": run.name, "columns": run.table.columns, "rows": run.table.rows }))
        .collect();
    replace_text(&folder.join("scores.json"), &json!({ "runs": all }).to_string())?;
    let output = |file: &str| Output {
        file: file.to_owned(),
        form: Form::Data,
        title: "Scores of every step".to_owned(),
        description: String::new(),
    };
    Ok(vec![output("scores.csv"), output("scores.json")])
}
