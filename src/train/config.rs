//! Settings of the training loop.

use super::gradients::GradientConfig;
use super::optim::OptimizerConfig;
use super::probe::ProbeConfig;
use super::schedule::ScheduleConfig;
use super::scores::ScoreConfig;
use super::sentinel::SentinelConfig;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use tch::Kind;

/// What a run computes in. Weights, their gradients, statistics, heads and losses are never in less than f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Everything in f32.
    #[default]
    Float32,
    /// The maps inside the backbone in bfloat16, half the memory: each convolution rounds its weights to it; batch norms
    /// take and give it and reckon in f32. Faster where the processor multiplies it in hardware (`doctor` measures).
    BFloat16,
    /// Everything in f64, for checks.
    Float64,
}

impl Precision {
    /// Of weights, gradients, statistics, rows and losses.
    pub fn parameters(self) -> Kind {
        if self == Self::Float64 { Kind::Double } else { Kind::Float }
    }

    /// Of what flows through the backbone while training.
    pub fn maps(self) -> Kind {
        if self == Self::BFloat16 { Kind::BFloat16 } else { self.parameters() }
    }
}

/// Settings of the loop: the `[train]` table of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Passes over the data.
    pub epochs: u32,
    /// Optimizer steps, in place of `epochs`; also the length of the schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// How weights move.
    pub optimizer: OptimizerConfig,
    /// How the learning rate changes.
    pub schedule: ScheduleConfig,
    /// What to do when something goes wrong without an error.
    #[serde(default)]
    pub sentinels: SentinelConfig,
    /// A line of metrics every so many steps; the last step of an epoch always has one.
    #[serde(default = "ten")]
    pub log_every_steps: u64,
    /// A checkpoint every so many steps besides the one at the end of each epoch; 0 for none.
    #[serde(default)]
    pub checkpoint_every_steps: u64,
    /// Keeps the checkpoint of every so-many-th epoch for good; 0 for none.
    #[serde(default)]
    pub keep_every_epochs: u32,
    /// The k-NN monitor.
    #[serde(default)]
    pub knn: MonitorConfig,
    /// The online linear probe.
    #[serde(default)]
    pub probe: ProbeConfig,
    /// Scores of positives and negatives, step by step.
    #[serde(default)]
    pub scores: ScoreConfig,
    /// The length of every layer's gradient, epoch by epoch.
    #[serde(default)]
    pub gradients: GradientConfig,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "auto")]
    pub device: String,
    /// `float32`, `bfloat16` or, for checks, `float64`.
    #[serde(default)]
    pub precision: Precision,
    /// Compute threads; 0 takes every core.
    #[serde(default)]
    pub threads: usize,
    /// Rows of a tile of the loss; 0 chooses from the sizes.
    #[serde(default)]
    pub tile_rows: i64,
}

/// The k-NN monitor: weighted k-NN on a fixed part of the data, while training. A monitor, not a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MonitorConfig {
    /// Every so many epochs; 0 turns it off.
    pub every_epochs: u32,
    /// Training images to compare with, at most.
    pub references: usize,
    /// Test images to judge, at most.
    pub queries: usize,
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self { every_epochs: 1, references: 4_000, queries: 1_000 }
    }
}

fn ten() -> u64 {
    10
}

fn auto() -> String {
    "auto".to_owned()
}

/// Compute threads at most.
const MOST_THREADS: usize = 4096;

impl Config {
    /// Checks ranges.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key.
    pub fn check(&self) -> Result<()> {
        let at_least_one = |key: &str, value: u64| {
            if value >= 1 {
                return Ok(());
            }
            Err(Error::Recipe(format!("`train.{key}` must be at least 1, found `{value}`")))
        };
        at_least_one("epochs", u64::from(self.epochs))?;
        at_least_one("log_every_steps", self.log_every_steps)?;
        if self.tile_rows < 0 {
            return Err(Error::Recipe(format!(
                "`train.tile_rows` must be at least 1, or 0 for automatic, found `{}`",
                self.tile_rows
            )));
        }
        if let Some(steps) = self.max_steps {
            at_least_one("max_steps", steps)?;
        }
        if self.knn.every_epochs > 0 {
            at_least_one("knn.references", self.knn.references as u64)?;
            at_least_one("knn.queries", self.knn.queries as u64)?;
        }
        // libtorch counts its threads in 32 bits; nothing has so many cores.
        if self.threads > MOST_THREADS {
            return Err(Error::Recipe(format!(
                "`train.threads` must be at most {MOST_THREADS}, or 0 for all cores, found `{}`",
                self.threads
            )));
        }
        self.sentinels.check()?;
        self.probe.check()?;
        self.scores.check()?;
        self.optimizer.check()?;
        self.schedule.check()
    }
}
