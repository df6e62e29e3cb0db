//! Learning-rate schedules: a pure function from the step to the learning rate.

#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// How the learning rate changes over a run.
///
/// ```toml
/// schedule = { name = "cosine", warmup_epochs = 10 }
/// schedule = { name = "steps", milestones_epochs = [120, 160], factor = 0.1 }
/// ```
///
/// The published schedules are written like this (with their usual lengths; the run's length is that of the run):
///
/// | schedule | settings beside `name = "cosine"` |
/// |---|---|
/// | SimCLR, BYOL | `warmup_epochs = 10` |
/// | SimCLRv2 | `warmup_fraction = 0.05` |
/// | Barlow Twins, `VICReg` | `warmup_epochs = 10, final_fraction = 0.001` |
/// | MoCo | `per = "epoch"` |
/// | `SimSiam` | `per = "epoch", constant = ["predictor."]` |
/// | MoCo's CIFAR demo | `per = "epoch", decay_ends = "last"` |
/// | `PyContrast` | `per = "epoch", decay_ends = "last", final_fraction = 0.001`; for batches above 256 also `warmup_epochs = 5, warmup_start_learning_rate = 0.01, decay_over = "run"` |
/// | `SwAV` | `warmup_epochs = 10, warmup_ends = "both", warmup_start_learning_rate = 0.3, final_learning_rate = 0.0048` |
/// | CLD on CIFAR | `warmup_epochs = 5, warmup_start_fraction = 0.01, final_learning_rate = 1e-6` |
/// | lightly | `warmup_epochs = 10, warmup_ends = "last", decay_ends = "both", final_fraction = 0.001` (its `VICReg`: 0.01) |
/// | solo-learn | `warmup_epochs = 10, warmup_ends = "both", warmup_start_learning_rate = 3e-5` |
///
/// NPID's on CIFAR-10, `0.1^⌊(epoch - 80)/40⌋` from epoch 80 on, is `steps` with milestones every 40 epochs from 120: the
/// first exponent is 0, so nothing drops at 80.
///
/// MoCo's and `PyContrast`'s drops are both `steps`: the first counts epochs from 0 and drops where epoch ≥ milestone,
/// the second counts from 1 and drops where epoch > milestone, which are the same epochs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleConfig {
    /// The peak learning rate throughout.
    Constant {},
    /// Warm-up, then half a cosine down, without restarts (Loshchilov & Hutter 2017, arXiv:1608.03983, Eq. 5).
    Cosine(Decay),
    /// Warm-up, then a straight line down.
    Linear(Decay),
    /// Warm-up, then the peak, multiplied by `factor` at each milestone.
    Steps(Steps),
}

/// Settings of a schedule that rises along a line and falls along a curve. With the defaults both start at their first
/// value and would reach their last one a step behind their end, as in the official SimCLR code.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Decay {
    /// Epochs of warm-up, at least 0.
    pub warmup_epochs: f64,
    /// Warm-up as a share of the run, in [0, 1), in place of `warmup_epochs`.
    pub warmup_fraction: f64,
    /// Share of the peak the warm-up starts from, in [0, 1].
    pub warmup_start_fraction: f64,
    /// Learning rate the warm-up starts from, in place of a share of the peak; not scaled with the batch.
    pub warmup_start_learning_rate: f64,
    /// Which ends of the warm-up's line its steps include.
    pub warmup_ends: Ends,
    /// How often the curve changes the learning rate; the warm-up does so at every step.
    pub per: Per,
    /// What the curve is laid over.
    pub decay_over: Span,
    /// Which ends of the curve its steps (or epochs) include.
    pub decay_ends: Ends,
    /// Share of the peak the curve ends at, in [0, 1].
    pub final_fraction: f64,
    /// Learning rate the curve ends at, in place of a share of the peak; not scaled with the batch.
    pub final_learning_rate: f64,
    /// Beginnings of the names of parameters that keep the peak from the first step to the last (`predictor.`).
    pub constant: Vec<String>,
}

/// Settings of a schedule that falls at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steps {
    /// Epochs, counted from 0, at whose first step the learning rate drops; increasing.
    pub milestones_epochs: Vec<u32>,
    /// What the learning rate is multiplied with, in (0, 1].
    #[serde(default = "tenth")]
    pub factor: f64,
    /// Epochs of warm-up, at least 0.
    #[serde(default)]
    pub warmup_epochs: f64,
    /// Learning rate the warm-up starts from; not scaled with the batch.
    #[serde(default)]
    pub warmup_start_learning_rate: f64,
    /// Beginnings of the names of parameters that keep the peak from the first step to the last (`predictor.`).
    #[serde(default)]
    pub constant: Vec<String>,
}

/// How often a curve changes the learning rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// At every step (SimCLR, BYOL, `SwAV`).
    #[default]
    Step,
    /// At the first step of every epoch (MoCo, `SimSiam`).
    Epoch,
}

/// What a curve is laid over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// What the warm-up leaves of the run.
    #[default]
    Rest,
    /// The whole run; the warm-up hides its beginning and rises to where it then is.
    Run,
}

/// Which ends of a line or curve from A to B its n steps include.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ends {
    /// Step k = 0, …, n - 1 is at k/n of the way: the first at A; B would be the next step's.
    #[default]
    First,
    /// At k/(n - 1): the first at A, the last at B.
    Both,
    /// At (k + 1)/n: the last at B; the first has already left A.
    Last,
}

impl Ends {
    /// How far along, as counter and denominator: `done` behind the first step, of `length`, in strides of `stride`.
    fn share(self, done: u64, length: u64, stride: u64) -> (f64, f64) {
        let (counter, denominator) = match self {
            Self::First => (done, length),
            Self::Both => (done, length.saturating_sub(stride)),
            Self::Last => (done + stride, length),
        };
        (counter as f64, denominator.max(1) as f64)
    }
}

fn tenth() -> f64 {
    0.1
}

impl ScheduleConfig {
    /// Checks every setting's range.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key, the range and what was found.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Constant {} => Ok(()),
            Self::Cosine(decay) | Self::Linear(decay) => decay.check(),
            Self::Steps(steps) => steps.check(),
        }
    }

    /// Beginnings of the names of parameters that keep the peak learning rate throughout, for
    /// [`Optimizer::hold`](crate::train::optim::Optimizer::hold).
    pub fn constant(&self) -> &[String] {
        match self {
            Self::Constant {} => &[],
            Self::Cosine(decay) | Self::Linear(decay) => &decay.constant,
            Self::Steps(steps) => &steps.constant,
        }
    }

    /// Epochs and share of the run of the warm-up, of which one is 0.
    fn warmup(&self) -> (f64, f64) {
        match self {
            Self::Constant {} => (0.0, 0.0),
            Self::Cosine(decay) | Self::Linear(decay) => {
                (decay.warmup_epochs, decay.warmup_fraction)
            }
            Self::Steps(steps) => (steps.warmup_epochs, 0.0),
        }
    }
}

impl Decay {
    fn check(&self) -> Result<()> {
        let share = |key, value| require((0.0..=1.0).contains(&value), key, "in [0, 1]", &value);
        at_least_0("warmup_epochs", self.warmup_epochs)?;
        let fits = (0.0..1.0).contains(&self.warmup_fraction);
        require(fits, "warmup_fraction", "in [0, 1)", &self.warmup_fraction)?;
        share("warmup_start_fraction", self.warmup_start_fraction)?;
        at_least_0("warmup_start_learning_rate", self.warmup_start_learning_rate)?;
        share("final_fraction", self.final_fraction)?;
        at_least_0("final_learning_rate", self.final_learning_rate)?;
        for (key, value, other, rival) in [
            ("warmup_fraction", self.warmup_fraction, "warmup_epochs", self.warmup_epochs),
            (
                "warmup_start_learning_rate",
                self.warmup_start_learning_rate,
                "warmup_start_fraction",
                self.warmup_start_fraction,
            ),
            (
                "final_learning_rate",
                self.final_learning_rate,
                "final_fraction",
                self.final_fraction,
            ),
        ] {
            let fits = value == 0.0 || rival == 0.0;
            require(fits, key, &format!("0 where `{other}` is given"), &value)?;
        }
        starts(&self.constant)
    }
}

impl Steps {
    fn check(&self) -> Result<()> {
        at_least_0("warmup_epochs", self.warmup_epochs)?;
        at_least_0("warmup_start_learning_rate", self.warmup_start_learning_rate)?;
        require(self.factor > 0.0 && self.factor <= 1.0, "factor", "in (0, 1]", &self.factor)?;
        let increasing = self.milestones_epochs.is_sorted_by(|earlier, later| earlier < later);
        require(increasing, "milestones_epochs", "increasing", &self.milestones_epochs)?;
        starts(&self.constant)
    }
}

fn starts(names: &[String]) -> Result<()> {
    let empty = names.iter().any(String::is_empty);
    require(!empty, "constant", "beginnings of names (`predictor.`), none of them empty", &names)
}

fn at_least_0(key: &str, value: f64) -> Result<()> {
    require(value >= 0.0 && value.is_finite(), key, "at least 0", &value)
}

fn require(fits: bool, key: &str, range: &str, found: &dyn std::fmt::Debug) -> Result<()> {
    if fits {
        return Ok(());
    }
    Err(Error::Recipe(format!("`train.schedule.{key}` must be {range}, found `{found:?}`")))
}

/// A schedule laid over a run of known length.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    config: ScheduleConfig,
    peak: f64,
    steps_per_epoch: u64,
    total_steps: u64,
    warmup_steps: u64,
}

impl Schedule {
    /// Lays `config` over `total_steps` steps (all the run will take, `train.max_steps` if that is less) that rise to
    /// the learning rate `peak`.
    ///
    /// Epochs are those of the run: `steps_per_epoch` full batches each. The official SimCLR code counts them in images,
    /// `round(warmup_epochs · N / batch)`, and takes `N · epochs / batch + 1` steps: of 1,281,167 images in batches of
    /// 4,096, 31,279 steps in 100 epochs, where full batches make 31,200. So a run of its recipes is shorter by less than
    /// a step per epoch, and one.
    pub fn new(config: ScheduleConfig, peak: f64, steps_per_epoch: u64, total_steps: u64) -> Self {
        let (epochs, fraction) = config.warmup();
        let steps = epochs * steps_per_epoch as f64 + fraction * total_steps as f64;
        let steps_per_epoch = steps_per_epoch.max(1);
        Self { config, peak, steps_per_epoch, total_steps, warmup_steps: steps.round() as u64 }
    }

    /// Steps of warm-up; if the run is not longer, it ends before the peak.
    pub fn warmup_steps(&self) -> u64 {
        self.warmup_steps
    }

    /// The learning rate of step `step`, counted from 0; after the last step that of the end.
    pub fn at(&self, step: u64) -> f64 {
        match &self.config {
            ScheduleConfig::Constant {} => self.peak,
            ScheduleConfig::Cosine(decay) => {
                self.decayed(step, decay, |progress| 0.5 * (1.0 + (PI * progress).cos()))
            }
            ScheduleConfig::Linear(decay) => self.decayed(step, decay, |progress| 1.0 - progress),
            ScheduleConfig::Steps(steps) => {
                if step < self.warmup_steps {
                    return self.warm(
                        step,
                        Ends::First,
                        steps.warmup_start_learning_rate,
                        self.peak,
                    );
                }
                let epoch = step / self.steps_per_epoch;
                let passed = steps.milestones_epochs.iter().filter(|m| u64::from(**m) <= epoch);
                self.peak * steps.factor.powi(passed.count() as i32)
            }
        }
    }

    /// `curve` falls from 1 to 0 while its argument goes from 0 to 1.
    fn decayed(&self, step: u64, decay: &Decay, curve: impl Fn(f64) -> f64) -> f64 {
        let end = decay.final_fraction * self.peak + decay.final_learning_rate;
        let value = |(counter, denominator): (f64, f64)| {
            end + (self.peak - end) * curve((counter / denominator).min(1.0))
        };
        let whole_run = decay.decay_over == Span::Run;
        if step < self.warmup_steps {
            let start = decay.warmup_start_fraction * self.peak + decay.warmup_start_learning_rate;
            let reached = (self.warmup_steps as f64, self.total_steps.max(1) as f64);
            let top = if whole_run { value(reached) } else { self.peak };
            return self.warm(step, decay.warmup_ends, start, top);
        }
        let hidden = if whole_run { 0 } else { self.warmup_steps };
        let stride = if decay.per == Per::Epoch { self.steps_per_epoch } else { 1 };
        let done = (step / stride * stride).saturating_sub(hidden);
        let length = self.total_steps.saturating_sub(hidden);
        value(decay.decay_ends.share(done, length, stride))
    }

    fn warm(&self, step: u64, ends: Ends, start: f64, top: f64) -> f64 {
        let (counter, denominator) = ends.share(step, self.warmup_steps, 1);
        start + (top - start) * counter / denominator
    }
}
