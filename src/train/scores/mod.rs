//! Scores of positives and negatives, recorded at every step: `scores.jsonl` in the folder of a run.
//!
//! Zhu et al. 2021, arXiv:2108.02982, §A: the means of both and the variance of the negatives tell how hard a loss makes it
//! for a network. Rows that the loss compared are looked at after it and before anything moves; nothing random is drawn, no
//! graph is held, and no weight depends on whether anyone looks.

mod raw;
mod statistics;
#[cfg(test)]
mod tests;

use super::run::{RunFolder, append, cut_back};
use super::sentinel::Spread;
use crate::error::{Error, Result};
use crate::method::Objective;
use raw::Raw;
use serde::{Deserialize, Serialize};
pub use statistics::{QUANTILES, Statistics};
use std::fmt::Write as _;
use std::path::PathBuf;
use tch::no_grad;

/// Name of the file in the folder of a run: one JSON object a line, one for every step that was taken.
pub const FILE: &str = "scores.jsonl";

/// Settings of the recorder: the `[train.scores]` table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScoreConfig {
    /// Whether scores are recorded, for a method whose loss compares rows.
    pub enabled: bool,
    /// S, at least 1: the first so many images of each (shuffled) batch, or all of a smaller one.
    pub queries: usize,
    /// On which side of a feature transformation.
    pub stage: Stage,
    /// Whether each query's own numbers are kept too, in an array per epoch.
    pub raw: bool,
}

/// On which side of a feature transformation scores are taken. Without one the sides are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// As the loss saw them (the published figures).
    #[default]
    PostFt,
    /// As the networks made them.
    PreFt,
    /// Both; what the networks made has names that begin with `pre_ft_`.
    Both,
}

impl Default for ScoreConfig {
    fn default() -> Self {
        Self { enabled: true, queries: 64, stage: Stage::default(), raw: false }
    }
}

impl ScoreConfig {
    /// Checks ranges.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key.
    pub fn check(&self) -> Result<()> {
        if (1..=1 << 16).contains(&self.queries) {
            return Ok(());
        }
        Err(Error::Recipe(format!(
            "`train.scores.queries` must be from 1 to 65536, found `{}`; `train.scores.enabled=false` records none",
            self.queries
        )))
    }
}

/// Where a step stands, for its row.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Optimizer steps taken with this one.
    pub step: u64,
    /// Loss of the step.
    pub loss: f64,
    /// Its learning rate.
    pub learning_rate: f64,
}

/// Writes a row per step.
#[derive(Debug)]
pub struct Recorder {
    config: ScoreConfig,
    path: PathBuf,
    raw: Option<Raw>,
    steps_per_epoch: u64,
}

impl Recorder {
    /// The recorder of a run that goes on after `step` steps; rows of later steps, which will be taken again, are cut off.
    /// `None` if scores are not recorded; what was recorded stays.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(
        config: &ScoreConfig,
        run: &RunFolder,
        step: u64,
        steps_per_epoch: u64,
    ) -> Result<Option<Self>> {
        let path = run.join(FILE);
        cut_back(&path, step)?;
        let folder = run.join("scores");
        raw::cut_back(&folder, step, steps_per_epoch)?;
        let raw = config.raw.then(|| Raw::new(folder, config.queries, steps_per_epoch));
        let recorder = Self { config: config.clone(), path, raw, steps_per_epoch };
        Ok(config.enabled.then_some(recorder))
    }

    /// Looks at what the loss of a step compared, before the weights and queues move, and writes its row. Of a method that
    /// compares no rows there is none.
    ///
    /// # Errors
    /// [`Error::Io`]; libtorch's panics are the caller's to catch.
    pub fn record(&mut self, taken: Taken, objective: &Objective) -> Result<()> {
        let Some(scores) = &objective.scores else { return Ok(()) };
        let shown = if scores.transformed.is_empty() { &scores.plain } else { &scores.transformed };
        let (queries, temperature) = (self.config.queries as i64, scores.temperature);
        let of = |compared| no_grad(|| Statistics::of(compared, queries, temperature));
        let main = of(if self.config.stage == Stage::PreFt { &scores.plain } else { shown });
        let before = (self.config.stage == Stage::Both).then(|| of(&scores.plain));
        let deviation = no_grad(|| Spread::deviation(&objective.projections));

        let epoch = taken.step as f64 / self.steps_per_epoch as f64;
        let mut line =
            format!("{{\"step\":{},\"epoch\":{}", taken.step, (epoch * 1e4).round() / 1e4);
        add(&mut line, "loss", taken.loss);
        add(&mut line, "lr", taken.learning_rate);
        for (name, value) in main.named() {
            add(&mut line, name, value);
        }
        add(&mut line, "deviation", deviation);
        for (name, value) in before.iter().flat_map(Statistics::named) {
            add(&mut line, &format!("pre_ft_{name}"), value);
        }
        line.push('}');
        append(&self.path, &line)?;
        if let Some(raw) = &mut self.raw {
            raw.write(taken.step, &main.each)?;
        }
        Ok(())
    }
}

/// Adds a number in the digits that f32 has; what is not finite is `null`, which is what JSON has for it.
fn add(line: &mut String, name: &str, value: f64) {
    let short = value as f32;
    let written = if short.is_finite() {
        if short == 0.0 || (1e-4..1e7).contains(&short.abs()) {
            write!(line, ",\"{name}\":{short}")
        } else {
            write!(line, ",\"{name}\":{short:e}")
        }
    } else if value.is_finite() {
        write!(line, ",\"{name}\":{value:.6e}")
    } else {
        write!(line, ",\"{name}\":null")
    };
    written.expect("writing into a string does not fail");
}
