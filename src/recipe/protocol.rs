//! Named protocols that train with labels, linear layers on a frozen backbone and fine-tuning alike: each is a file in
//! `recipes/protocols/` that says where it is from, and becomes a recipe once a model and labelled images are known.
//!
//! What a protocol does not say belongs to the model: the network, the size of its input, mean and standard deviation.
//! On images up to 96 pixels the views of a protocol have the model's size and evaluation is the model's own.

use super::{DataConfig, Executor, FORMAT, Recipe};
use crate::augment::{Interpolation, Normalize, Preprocess, Sizing, Step, ViewRecipe, named};
use crate::error::{Error, Result};
use crate::method::classifier::{self, Start, Tap};
use crate::method::{self, require};
use crate::model::{BackboneConfig, Frozen, HeadConfig};
use crate::overrides::{self, nearest};
use crate::plugin::Plugins;
use crate::train::gradients::GradientConfig;
use crate::train::optim::OptimizerConfig;
use crate::train::probe::ProbeConfig;
use crate::train::schedule::ScheduleConfig;
use crate::train::scores::ScoreConfig;
use crate::train::sentinel::SentinelConfig;
use crate::train::{self, MonitorConfig, Precision};
use serde::{Deserialize, Serialize};

macro_rules! protocols {
    ($($id:literal),* $(,)?) => {
        /// Id and text of every protocol.
        pub const PROTOCOLS: &[(&str, &str)] =
            &[$(($id, include_str!(concat!("../../recipes/protocols/", $id, ".toml")))),*];
    };
}

protocols! {
    "simclr", "simclr-code", "simclr-code-cifar", "simclr-lars", "moco", "cld", "ft-in100-r18", "ft-in100-r50", "ft-in1k",
    "simsiam", "lightly", "solo-in100", "course", "semi-simclr", "semi-simclrv2", "semi-cld", "finetune-lightly",
    "transfer-simclr", "transfer-simclr-random", "transfer-ssl", "ft-fine-grained",
}

/// Version of what the protocols compute; numbers of different versions do not compare.
pub const VERSION: u32 = 1;

/// How a protocol trains: its file, whose keys users change with `key=value`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    /// What of the backbone stays as it is, in evaluation mode.
    pub frozen: Frozen,
    /// How the linear layer starts.
    pub initialization: Start,
    /// Where it sits with 1 % or 10 % of the labels; on h with all of them.
    #[serde(default = "h")]
    pub tap_with_few_labels: Tap,
    /// Whether the network starts from random weights in place of the model's: what a transfer is compared with.
    #[serde(default)]
    pub from_random: bool,
    /// Passes over the labelled images.
    pub epochs: Epochs,
    /// Optimizer steps, in place of epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Steps as google-research/simclr counts them, ⌊images · epochs / batch⌋ + 1, in place of whole batches in each epoch.
    #[serde(default)]
    pub google_steps: bool,
    /// Images per step, at least 2; all there are if they are fewer.
    pub batch_size: usize,
    /// Named set of training views, brought to the size of the model.
    pub view: String,
    /// How photographs are prepared for judging.
    pub evaluation: Evaluation,
    /// Whether running statistics follow by min(10 / steps per epoch, 0.1) a step (SimCLR, appendix B.8, as PyTorch counts).
    #[serde(default)]
    pub fast_statistics: bool,
    /// How weights move.
    pub optimizer: OptimizerConfig,
    /// How the learning rate changes.
    pub schedule: ScheduleConfig,
    /// What is chosen on a validation part of the labelled images.
    #[serde(default, skip_serializing_if = "Grid::is_empty")]
    pub grid: Grid,
}

/// Epochs by share of the labels; a protocol may be for some shares only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epochs {
    /// With about 1 % of the labels (up to 3 %).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_percent: Option<u32>,
    /// With about 10 % (up to 30 %).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ten_percent: Option<u32>,
    /// With more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<u32>,
}

/// How photographs come to the side S of the model's input at evaluation; mean and standard deviation are the model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evaluation {
    /// Shorter side to S · 256/224, bilinear, central S.
    #[serde(rename = "imagenet")]
    ImageNet,
    /// The same, bicubic.
    #[serde(rename = "imagenet_bicubic")]
    ImageNetBicubic,
    /// Central square of 0.875 of the shorter side, then S, bicubic as TensorFlow 1.
    #[serde(rename = "simclr")]
    SimClr,
    /// Shorter side to S, bicubic, central S.
    Transfer,
}

/// Settings of which every combination is tried; empty lists try nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grid {
    /// Learning rates.
    pub learning_rates: Vec<f64>,
    /// What the rate of the linear layer is multiplied with.
    pub multipliers: Vec<f64>,
    /// Weight decays, each divided by the learning rate it is tried with (Kornblith et al. 2019, arXiv:1805.08974).
    pub decays: Vec<f64>,
}

impl Grid {
    fn is_empty(&self) -> bool {
        self.learning_rates.is_empty() && self.multipliers.is_empty() && self.decays.is_empty()
    }
}

/// One combination of a grid; what is not tried is as the protocol has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Base learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Factor of the linear layer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multiplier: Option<f64>,
    /// Weight decay before it is divided by the rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay: Option<f64>,
}

impl Point {
    /// A name for a folder: `rate-0.01-multiplier-100`.
    pub fn name(&self) -> String {
        let parts =
            [("rate", self.learning_rate), ("multiplier", self.multiplier), ("decay", self.decay)];
        let parts =
            parts.into_iter().filter_map(|(name, value)| Some(format!("{name}-{:e}", value?)));
        parts.collect::<Vec<_>>().join("-")
    }
}

/// What a protocol needs to know of the model it judges.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// Where its weights lie: a run folder, a checkpoint or a weights file.
    pub file: &'a str,
    /// Its network.
    pub backbone: &'a BackboneConfig,
    /// How it wants its images.
    pub preprocess: &'a Preprocess,
    /// The projector it was trained with, if known.
    pub projector: Option<&'a HeadConfig>,
}

/// What a protocol needs to know of the images it trains on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Labelled {
    /// How many.
    pub images: usize,
    /// Share they are of all labelled training images, in (0, 1].
    pub fraction: f64,
}

fn h() -> Tap {
    Tap::H
}

/// Sides up to which images count as small and are not cropped at evaluation, as [`Preprocess::for_training`] has it.
const SMALL_PX: usize = 96;

/// Images at a time on a frozen backbone, at most: more are no faster.
const FROZEN_IMAGES: usize = 256;

impl Protocol {
    /// The protocol of an id.
    ///
    /// # Errors
    /// [`Error::Recipe`] listing the ids.
    pub fn named(id: &str) -> Result<Self> {
        let Some((_, text)) = PROTOCOLS.iter().find(|(known, _)| *known == id) else {
            let ids = || PROTOCOLS.iter().map(|(id, _)| *id);
            let near = nearest(id, ids()).map(|near| format!("did you mean `{near}`? "));
            return Err(Error::Recipe(format!(
                "no protocol that trains is named `{id}`; {}known are `{}`",
                near.unwrap_or_default(),
                ids().collect::<Vec<_>>().join("`, `")
            )));
        };
        Ok(toml::from_str(text).expect("the protocols that come with the program parse"))
    }

    /// The protocol with `key=value` changes.
    ///
    /// # Errors
    /// [`Error::Recipe`] for an unknown key, a wrong type or range.
    pub fn with(&self, changes: &[String]) -> Result<Self> {
        const OPTIONAL: &[&str] = &[
            "epochs.one_percent",
            "epochs.ten_percent",
            "epochs.all",
            "max_steps",
            "grid.learning_rates",
            "grid.multipliers",
            "grid.decays",
            "optimizer.bias_learning_rate",
            "optimizer.classifier_learning_rate",
        ];
        let changed: Self = overrides::apply(self, changes, OPTIONAL)?;
        changed.check()?;
        Ok(changed)
    }

    /// Checks ranges, and that what the grid tries is what the optimizer has.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key.
    pub fn check(&self) -> Result<()> {
        require(self.batch_size >= 2, "batch_size", "at least 2", self.batch_size)?;
        let Grid { learning_rates, multipliers, decays } = &self.grid;
        let above_0 = |value: &f64| value.is_finite() && *value > 0.0;
        let decays_fit = decays.iter().all(|decay| decay.is_finite() && *decay >= 0.0);
        for (fits, key, range, found) in [
            (learning_rates.iter().all(above_0), "grid.learning_rates", "above 0", learning_rates),
            (multipliers.iter().all(above_0), "grid.multipliers", "above 0", multipliers),
            (decays_fit, "grid.decays", "at least 0", decays),
        ] {
            require(fits, key, range, format!("{found:?}"))?;
        }
        let sgd = matches!(self.optimizer, OptimizerConfig::Sgd(_));
        require(
            sgd || self.grid.is_empty(),
            "grid",
            "left out for an optimizer other than sgd",
            "a grid",
        )?;
        self.optimizer.check()?;
        self.schedule.check()?;
        named(&self.view).map(drop)
    }

    /// Every combination of the grid, rates first, in the order of the lists; one empty point without a grid.
    pub fn points(&self) -> Vec<Point> {
        let values = |list: &[f64]| -> Vec<Option<f64>> {
            if list.is_empty() { vec![None] } else { list.iter().copied().map(Some).collect() }
        };
        let Grid { learning_rates, multipliers, decays } = &self.grid;
        let mut points = Vec::new();
        for learning_rate in values(learning_rates) {
            for multiplier in values(multipliers) {
                for decay in values(decays) {
                    points.push(Point { learning_rate, multiplier, decay });
                }
            }
        }
        points
    }

    /// How images are prepared for judging this model.
    pub fn preprocess(&self, model: &Preprocess) -> Preprocess {
        let side = model.size_px();
        if side <= SMALL_PX {
            return model.clone();
        }
        let resize_px = (side * 256 + 112) / 224;
        let cropped = Sizing::ShorterSide { resize_px, crop_px: side };
        let (id, sizing, interpolation) = match self.evaluation {
            Evaluation::ImageNet => ("center", cropped, Interpolation::Bilinear),
            Evaluation::ImageNetBicubic => ("center-bicubic", cropped, Interpolation::Bicubic),
            Evaluation::SimClr => {
                let sizing = Sizing::CentralSquare { fraction: 0.875, size_px: side };
                ("simclr", sizing, Interpolation::Tensorflow1Bicubic)
            }
            Evaluation::Transfer => {
                let sizing = Sizing::ShorterSide { resize_px: side, crop_px: side };
                ("transfer", sizing, Interpolation::Bicubic)
            }
        };
        let (mean, std) = (model.mean, model.std);
        Preprocess { id: format!("{id}-{side}"), sizing, interpolation, mean, std }
    }

    /// The training view: the named set at the model's size, with its mean and standard deviation.
    fn views(&self, model: &Preprocess) -> Result<Vec<ViewRecipe>> {
        let mut views = named(&format!("{}@{}", self.view, model.size_px()))?;
        let (mean, std) = (model.mean, model.std);
        for view in &mut views {
            view.steps.retain(|step| !matches!(step, Step::Normalize(_)));
            view.steps.push(Step::Normalize(Normalize { mean, std }));
        }
        Ok(views)
    }

    /// Epochs and tap for a share of the labels.
    fn for_share(&self, fraction: f64) -> Result<(u32, Tap)> {
        let few = self.tap_with_few_labels;
        let (key, epochs, tap) = if fraction <= 0.03 {
            ("one_percent", self.epochs.one_percent.or(self.epochs.all), few)
        } else if fraction <= 0.3 {
            ("ten_percent", self.epochs.ten_percent.or(self.epochs.all), few)
        } else {
            ("all", self.epochs.all, Tap::H)
        };
        let epochs = epochs.ok_or_else(|| {
            Error::Recipe(format!(
                "the protocol does not say how long to train on {:.0}% of the labels; set `epochs.{key}=EPOCHS`",
                100.0 * fraction
            ))
        })?;
        Ok((epochs, tap))
    }

    /// The optimizer at a point of the grid.
    fn optimizer(&self, point: &Point) -> OptimizerConfig {
        let mut optimizer = self.optimizer.clone();
        if let OptimizerConfig::Sgd(sgd) = &mut optimizer {
            sgd.learning_rate = point.learning_rate.unwrap_or(sgd.learning_rate);
            if let Some(multiplier) = point.multiplier {
                sgd.classifier_learning_rate = Some(sgd.learning_rate * multiplier);
            }
            if let Some(decay) = point.decay {
                sgd.weight_decay = decay / sgd.learning_rate;
            }
        }
        optimizer
    }

    /// The whole run: this protocol on a model, for labelled images, at a point of the grid.
    ///
    /// # Errors
    /// [`Error::Recipe`] if the protocol is not for this share of the labels, or needs a projector that the model has not.
    pub fn recipe(
        &self,
        model: &Model<'_>,
        labelled: Labelled,
        point: &Point,
        seed: u64,
    ) -> Result<Recipe> {
        let (epochs, tap) = self.for_share(labelled.fraction)?;
        let projector = match (tap, model.projector) {
            (Tap::H, _) => HeadConfig::default(),
            (_, Some(projector)) => projector.clone(),
            (tap, None) => {
                return Err(Error::Recipe(format!(
                    "the protocol fine-tunes from `{}`, and the model does not say what projector it has; take a run \
                     folder or a checkpoint, or `tap_with_few_labels=h`",
                    String::from(tap)
                )));
            }
        };
        let batch_size = self.batch_size.min(labelled.images).max(2);
        let steps_per_epoch = (labelled.images / batch_size).max(1);
        let google = (labelled.images as u64 * u64::from(epochs)) / batch_size as u64 + 1;
        let max_steps = self.max_steps.or(self.google_steps.then_some(google));
        let in_memory = |size: &usize| batch_size.is_multiple_of(*size);
        let all_frozen = self.frozen == Frozen::All;
        let micro_batch_size =
            if all_frozen { (1..=FROZEN_IMAGES).rev().find(in_memory).unwrap_or(0) } else { 0 };
        let norm_momentum = if self.fast_statistics {
            (10.0 / steps_per_epoch as f64).min(0.1)
        } else {
            BackboneConfig::new(model.backbone.name).norm_momentum
        };
        let weights = (!self.from_random).then(|| model.file.to_owned());
        let recipe = Recipe {
            format: FORMAT,
            seed,
            data: DataConfig {
                source: None,
                batch_size,
                micro_batch_size,
                limit: None,
                subset: None,
                label_fraction: None,
                classes: Vec::new(),
                holdout: 0.0,
                max_damaged: 0.01,
                executor: Executor::Host,
                threads: 0,
                prefetch: 2,
            },
            backbone: BackboneConfig {
                weights,
                norm_group: 0,
                norm_momentum,
                ..model.backbone.clone()
            },
            method: method::Config::Classifier(classifier::Config {
                tap,
                frozen: self.frozen,
                initialization: self.initialization,
                projector,
            }),
            plugins: Plugins::default(),
            train: train::Config {
                epochs,
                max_steps,
                optimizer: self.optimizer(point),
                schedule: self.schedule.clone(),
                sentinels: SentinelConfig::default(),
                log_every_steps: 10,
                checkpoint_every_steps: 0,
                keep_every_epochs: 0,
                knn: MonitorConfig { every_epochs: 0, ..MonitorConfig::default() },
                probe: ProbeConfig { enabled: false, ..ProbeConfig::default() },
                scores: ScoreConfig::default(),
                gradients: GradientConfig::default(),
                device: "auto".to_owned(),
                precision: Precision::Float32,
                threads: 0,
                tile_rows: 0,
            },
            view: self.views(model.preprocess)?,
        };
        recipe.check()?;
        Ok(recipe)
    }
}

#[cfg(test)]
mod tests;
