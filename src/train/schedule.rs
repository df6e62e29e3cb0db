//! Learning-rate schedules: a pure function from the step to the learning rate.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// How the learning rate changes over a run.
///
/// ```toml
/// schedule = { name = "cosine", warmup_epochs = 10 }
/// schedule = { name = "steps", milestones_epochs = [120, 160], factor = 0.1 }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleConfig {
    /// The peak learning rate throughout.
    Constant {},
    /// Linear warm-up from 0, then half a cosine down, without restarts (Loshchilov & Hutter 2017, arXiv:1608.03983,
    /// Eq. 5).
    Cosine {
        /// Epochs of warm-up, at least 0; the learning rate of step 0 is then 0, as in the official SimCLR code.
        #[serde(default)]
        warmup_epochs: f64,
        /// How often the learning rate changes.
        #[serde(default)]
        per: Per,
        /// Share of the peak the cosine ends at, in [0, 1].
        #[serde(default)]
        final_fraction: f64,
    },
    /// Linear warm-up from 0, then the peak, multiplied by `factor` at each milestone.
    Steps {
        /// Epochs, counted from 0, at whose first step the learning rate drops; increasing.
        milestones_epochs: Vec<u32>,
        /// What the learning rate is multiplied with, in (0, 1].
        #[serde(default = "tenth")]
        factor: f64,
        /// Epochs of warm-up, at least 0.
        #[serde(default)]
        warmup_epochs: f64,
    },
}

/// How often a cosine changes the learning rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// At every step (SimCLR, BYOL, SwAV).
    #[default]
    Step,
    /// At the first step of every epoch (MoCo, SimSiam), which cannot warm up.
    Epoch,
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
        let refuse = |key: &str, range: &str, found: &dyn std::fmt::Debug| {
            Err(Error::Recipe(format!("`train.schedule.{key}` must be {range}, found `{found:?}`")))
        };
        let warmup = self.warmup_epochs();
        if !(warmup >= 0.0 && warmup.is_finite()) {
            return refuse("warmup_epochs", "at least 0", &warmup);
        }
        match self {
            Self::Cosine { final_fraction, .. } if !(0.0..=1.0).contains(final_fraction) => {
                refuse("final_fraction", "in [0, 1]", final_fraction)
            }
            Self::Cosine { per: Per::Epoch, .. } if warmup > 0.0 => {
                refuse("warmup_epochs", "0 with `per = \"epoch\"`", &warmup)
            }
            Self::Steps { factor, .. } if !(*factor > 0.0 && *factor <= 1.0) => {
                refuse("factor", "in (0, 1]", factor)
            }
            Self::Steps { milestones_epochs, .. }
                if !milestones_epochs.is_sorted_by(|earlier, later| earlier < later) =>
            {
                refuse("milestones_epochs", "increasing", milestones_epochs)
            }
            Self::Constant {} | Self::Cosine { .. } | Self::Steps { .. } => Ok(()),
        }
    }

    fn warmup_epochs(&self) -> f64 {
        match self {
            Self::Constant {} => 0.0,
            Self::Cosine { warmup_epochs, .. } | Self::Steps { warmup_epochs, .. } => {
                *warmup_epochs
            }
        }
    }
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
    /// `round(warmup_epochs · N / batch)`, and runs one step more; the two differ by less than a step per epoch.
    pub fn new(config: ScheduleConfig, peak: f64, steps_per_epoch: u64, total_steps: u64) -> Self {
        let warmup_steps = (config.warmup_epochs() * steps_per_epoch as f64).round() as u64;
        Self { config, peak, steps_per_epoch: steps_per_epoch.max(1), total_steps, warmup_steps }
    }

    /// Steps of warm-up; if the run is not longer, it ends before the peak.
    pub fn warmup_steps(&self) -> u64 {
        self.warmup_steps
    }

    /// The learning rate of step `step`, counted from 0; after the last step that of the end.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        let epoch = step / self.steps_per_epoch;
        match &self.config {
            ScheduleConfig::Constant {} => self.peak,
            ScheduleConfig::Cosine { per, final_fraction, .. } => {
                let step = match per {
                    Per::Step => step,
                    Per::Epoch => epoch * self.steps_per_epoch,
                };
                let length = self.total_steps.saturating_sub(self.warmup_steps).max(1);
                let progress = ((step - self.warmup_steps) as f64 / length as f64).min(1.0);
                let remaining = 0.5 * (1.0 + (PI * progress).cos());
                self.peak * (final_fraction + (1.0 - final_fraction) * remaining)
            }
            ScheduleConfig::Steps { milestones_epochs, factor, .. } => {
                let passed =
                    milestones_epochs.iter().filter(|milestone| u64::from(**milestone) <= epoch);
                self.peak * factor.powi(passed.count() as i32)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Tensor;

    fn config(text: &str) -> ScheduleConfig {
        let config: ScheduleConfig = toml::from_str(text).unwrap();
        config.check().unwrap();
        config
    }

    fn golden(name: &str) -> Vec<f64> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/optim.safetensors");
        let arrays = Tensor::read_safetensors(path).unwrap();
        let (_, rates) = arrays.into_iter().find(|(found, _)| found == name).unwrap();
        Vec::try_from(rates).unwrap()
    }

    fn follows(schedule: &Schedule, stride: u64, expected: &[f64]) {
        for (index, expected) in expected.iter().enumerate() {
            for step in index as u64 * stride..(index as u64 + 1) * stride {
                let found = schedule.at(step);
                assert!((found - expected).abs() < 1e-12, "step {step}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn cosine_equals_the_official_simclr_code() {
        let cosine = config("name = 'cosine'\nwarmup_epochs = 3");
        follows(&Schedule::new(cosine, 4.8, 10, 110), 1, &golden("schedule.cosine_tf"));
        let cosine = config("name = 'cosine'\nwarmup_epochs = 10");
        let schedule = Schedule::new(cosine, 1.0, 1, 110);
        assert!((schedule.at(60) - 0.5).abs() < 1e-15);
        assert!(schedule.at(0).abs() < f64::MIN_POSITIVE && (schedule.at(10) - 1.0).abs() < 1e-15);
    }

    #[test]
    fn cosine_and_steps_equal_pytorch() {
        let laid =
            |text: &str, per_epoch, total| Schedule::new(config(text), 0.3, per_epoch, total);
        follows(&laid("name = 'cosine'", 5, 60), 1, &golden("schedule.cosine_step"));
        let last = "name = 'cosine'\nfinal_fraction = 0.01";
        follows(&laid(last, 5, 60), 1, &golden("schedule.cosine_final"));
        let epochs = "name = 'cosine'\nper = 'epoch'";
        follows(&laid(epochs, 7, 84), 7, &golden("schedule.cosine_epoch"));
        let steps = "name = 'steps'\nmilestones_epochs = [6, 9]";
        follows(&laid(steps, 7, 84), 7, &golden("schedule.steps"));
    }

    #[test]
    fn warm_up_is_a_straight_line_from_0_and_rounds_to_steps() {
        let steps = "name = 'steps'\nmilestones_epochs = [2]\nfactor = 0.5\nwarmup_epochs = 0.26";
        let schedule = Schedule::new(config(steps), 8.0, 10, 40);
        assert_eq!(schedule.warmup_steps(), 3);
        let found: Vec<f64> = [0, 1, 2, 3, 19, 20, 39].map(|step| schedule.at(step)).to_vec();
        for (found, expected) in found.iter().zip([0.0, 8.0 / 3.0, 16.0 / 3.0, 8.0, 8.0, 4.0, 4.0])
        {
            assert!((found - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn the_end_stays_and_a_run_within_warm_up_stays_finite() {
        let schedule =
            Schedule::new(config("name = 'cosine'\nfinal_fraction = 0.001"), 2.0, 10, 50);
        for step in [50, 51, 1000] {
            assert!((schedule.at(step) - 0.002).abs() < 1e-12);
        }
        let short = Schedule::new(config("name = 'cosine'\nwarmup_epochs = 10"), 2.0, 10, 100);
        assert!((short.at(99) - 1.98).abs() < 1e-12);
        assert!((short.at(100) - 2.0).abs() < 1e-12);
        let constant = Schedule::new(config("name = 'constant'"), 2.0, 10, 100);
        assert!((0..200).all(|step| (constant.at(step) - 2.0).abs() < 1e-15));
    }

    #[test]
    fn settings_out_of_range_or_unknown_are_refused() {
        for (text, part) in [
            ("name = 'cosine'\nwarmup_epochs = -1", "warmup_epochs` must be at least 0"),
            ("name = 'cosine'\nper = 'epoch'\nwarmup_epochs = 1", "must be 0 with `per"),
            ("name = 'cosine'\nfinal_fraction = 1.5", "final_fraction` must be in [0, 1]"),
            ("name = 'steps'\nmilestones_epochs = [3]\nfactor = 0.0", "factor` must be in (0, 1]"),
            ("name = 'steps'\nmilestones_epochs = [3, 3]", "must be increasing, found `[3, 3]`"),
        ] {
            let config: ScheduleConfig = toml::from_str(text).unwrap();
            let message = config.check().unwrap_err().to_string();
            assert!(message.starts_with("`train.schedule.") && message.contains(part), "{message}");
        }
        for text in ["name = 'constant'\nfactor = 0.1", "name = 'cosine'\nwarmup = 1"] {
            let message = toml::from_str::<ScheduleConfig>(text).unwrap_err().to_string();
            assert!(message.contains("unknown field"), "{message}");
        }
    }

    #[test]
    fn a_written_config_reads_back() {
        for text in [
            "name = 'constant'",
            "name = 'cosine'\nwarmup_epochs = 10",
            "name = 'steps'\nmilestones_epochs = [60, 80]",
        ] {
            let config = config(text);
            let written = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<ScheduleConfig>(&written).unwrap(), config);
        }
    }
}
