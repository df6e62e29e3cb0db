//! Recipes: everything a run computes, in one TOML file that can be mailed.
//!
//! A recipe is complete: no includes, no inheritance. `key=value` overrides edit the table before it is read, a key that
//! does not exist is an error that names the nearest, and the resolved recipe written into the run folder is a recipe.

use crate::augment::{ViewRecipe, named};
use crate::error::{Error, Result};
use crate::loss::tiled::default_tile;
use crate::model::BackboneConfig;
use crate::overrides::{self, nearest, unknown_key};
use crate::plugin::Plugins;
use crate::{method, train};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

#[cfg(test)]
mod mutation;
pub mod protocol;

/// Version of the recipe format; a newer one in a file is an error.
pub const FORMAT: u32 = 1;

/// Name and text of the recipes that come with the program, all `recipes/DATA/NAME.toml`, in the order of their names.
pub const BUILT_IN: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/recipes.rs"));

/// The text of the built-in recipe of that name.
pub fn built_in(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// Settings of how, not what, is computed: they may change when a run goes on.
const HOW: &[&str] = &[
    "data.source",
    // Another list changes the fingerprint of the data.
    "data.subset",
    "data.executor",
    "data.threads",
    "data.prefetch",
    "data.micro_batch_size",
    "data.max_damaged",
    "train.checkpoint_every_steps",
    "train.keep_every_epochs",
    "train.log_every_steps",
    "train.knn.every_epochs",
    "train.knn.references",
    "train.knn.queries",
    "train.probe.enabled",
    "train.probe.learning_rate",
    "train.scores.enabled",
    "train.scores.queries",
    "train.scores.stage",
    "train.scores.raw",
    "train.gradients.enabled",
    "train.sentinels.non_finite",
    "train.sentinels.stuck",
    "train.sentinels.collapse",
    "train.sentinels.rank",
    "train.sentinels.prototypes",
    "train.sentinels.gap",
    "train.device",
    "train.threads",
    "train.tile_rows",
];

/// Changing one of these changes the last bits of the weights.
const BITS: &[&str] =
    &["data.executor", "data.micro_batch_size", "train.device", "train.threads", "train.tile_rows"];

/// A whole pre-training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// [`FORMAT`].
    #[serde(default = "format")]
    pub format: u32,
    /// Every random draw of the run follows from this number.
    #[serde(default)]
    pub seed: u64,
    /// What to train on.
    pub data: DataConfig,
    /// What the network is.
    pub backbone: BackboneConfig,
    /// How it learns.
    pub method: method::Config,
    /// What is added to the method.
    #[serde(default, skip_serializing_if = "Plugins::is_empty")]
    pub plugins: Plugins,
    /// For how long, how fast, and where.
    pub train: train::Config,
    /// One block per kind of view, or the name of a published set, `"mocov2"` or `"mocov2@96"` for another size, which the
    /// resolved recipe spells out.
    #[serde(deserialize_with = "view_blocks")]
    pub view: Vec<ViewRecipe>,
}

/// Reads `[[view]]` blocks or the name of a published set ([`crate::augment::named`]).
///
/// # Errors
/// Those of the blocks; an unknown name says the nearest.
pub fn view_blocks<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<ViewRecipe>, D::Error> {
    struct Blocks;
    impl<'de> serde::de::Visitor<'de> for Blocks {
        type Value = Vec<ViewRecipe>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("`[[view]]` blocks or the name of a set of views")
        }

        fn visit_str<E: serde::de::Error>(self, name: &str) -> std::result::Result<Self::Value, E> {
            named(name).map_err(E::custom)
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(
            self,
            sequence: A,
        ) -> std::result::Result<Self::Value, A::Error> {
            Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(sequence))
        }
    }
    deserializer.deserialize_any(Blocks)
}

fn format() -> u32 {
    FORMAT
}

/// The `[data]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// A path or `synthetic:NAME`; `--data` goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Images (not views) per optimizer step.
    pub batch_size: usize,
    /// Images embedded at a time; 0 takes the whole batch. A memory knob: smaller costs time, not quality.
    #[serde(default)]
    pub micro_batch_size: usize,
    /// The first so many images of each split, after a shuffle by the seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// A list of the images to use of one split: what `diptych data subset` writes, plain indices, or file names as the
    /// official lists of ImageNet have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// Class-balanced share, in (0, 1], of the labelled training images, drawn by the seed: 0.01 for the 1 % of labels of
    /// semi-supervised protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_fraction: Option<f64>,
    /// Only these classes, by name, or one path of a file that lists them; all if empty. Labels are ranks among the sorted
    /// names that are kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// Share of a source with one split that is kept from training, for evaluation; 0 keeps none.
    #[serde(default)]
    pub holdout: f64,
    /// Share of damaged images above which the run stops.
    #[serde(default = "one_percent")]
    pub max_damaged: f64,
    /// Where views are made: `host` (threads of the processor) or `device` (for images of one size, which then lie in the
    /// device's memory). A rare pixel differs by 1 of 255.
    #[serde(default)]
    pub executor: Executor,
    /// Loader threads; 0 takes every core.
    #[serde(default)]
    pub threads: usize,
    /// Batches made ahead.
    #[serde(default = "two")]
    pub prefetch: usize,
}

/// Where views are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Executor {
    /// On threads of the processor.
    #[default]
    Host,
    /// On the device that trains.
    Device,
}

fn one_percent() -> f64 {
    0.01
}

fn two() -> usize {
    2
}

impl Recipe {
    /// Reads a recipe file, or a built-in recipe if there is no such file, and applies `key=value` overrides.
    ///
    /// # Errors
    /// [`Error::Recipe`] for unknown names, keys, types and ranges; [`Error::Io`] for an unreadable file.
    pub fn load(name: &str, overrides: &[String]) -> Result<Self> {
        let path = std::path::Path::new(name);
        let text = if path.is_file() {
            std::fs::read_to_string(path).map_err(Error::io("read", path))?
        } else if let Some(text) = built_in(name) {
            text.to_owned()
        } else {
            let names = || BUILT_IN.iter().map(|(name, _)| *name);
            let same_method = || names().find(|known| known.rsplit('/').next() == Some(name));
            let near = nearest(name, names()).or_else(same_method);
            let near = near.map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
            return Err(Error::Recipe(format!(
                "`{name}` is neither a recipe file nor a built-in recipe; {near}`diptych recipes list` shows them all"
            )));
        };
        Self::parse(&text, name, overrides)
    }

    /// Reads the text of a recipe; `origin` names it in errors.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn parse(text: &str, origin: &str, changes: &[String]) -> Result<Self> {
        let in_file = |error: toml::de::Error| {
            let text = error.to_string();
            Error::Recipe(format!("recipe `{origin}`: {}{}", text.trim_end(), suggestion(&text)))
        };
        let table: Table = toml::from_str(text).map_err(in_file)?;
        if let Some(format) = table.get("format").and_then(Value::as_integer)
            && format > i64::from(FORMAT)
        {
            return Err(Error::Recipe(format!(
                "recipe `{origin}` has format {format}, this program reads up to {FORMAT}; use a newer diptych"
            )));
        }
        let recipe: Self = toml::from_str(text).map_err(in_file)?;
        let recipe = overrides::apply(&recipe, changes, OPTIONAL)?;
        recipe.check()?;
        Ok(recipe)
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key, what it must be and what it is.
    pub fn check(&self) -> Result<()> {
        let require = |holds: bool, key: &str, expected: &str, found: &dyn std::fmt::Display| {
            if holds {
                return Ok(());
            }
            Err(Error::Recipe(format!("`{key}` must be {expected}, found `{found}`")))
        };
        let format = format!("at most {FORMAT}, which is what this program reads");
        require(self.format <= FORMAT, "format", &format, &self.format)?;
        let data = &self.data;
        require(data.batch_size >= 2, "data.batch_size", "at least 2", &data.batch_size)?;
        require(data.prefetch >= 1, "data.prefetch", "at least 1", &data.prefetch)?;
        require(
            (0.0..1.0).contains(&data.holdout),
            "data.holdout",
            "at least 0 and below 1",
            &data.holdout,
        )?;
        require(
            (0.0..=1.0).contains(&data.max_damaged),
            "data.max_damaged",
            "from 0 to 1",
            &data.max_damaged,
        )?;
        require(data.limit != Some(0), "data.limit", "at least 1", &0)?;
        let share = data.label_fraction.unwrap_or(1.0);
        let fits = share > 0.0 && share <= 1.0;
        require(fits, "data.label_fraction", "above 0 and at most 1", &share)?;
        let micro = data.micro_batch_size;
        require(
            micro == 0 || data.batch_size.is_multiple_of(micro),
            "data.micro_batch_size",
            &format!("a divisor of `data.batch_size` ({}) or 0", data.batch_size),
            &micro,
        )?;
        let group = self.backbone.norm_group;
        require(
            group == 0 || data.batch_size.is_multiple_of(group),
            "backbone.norm_group",
            &format!("a divisor of `data.batch_size` ({}) or 0", data.batch_size),
            &group,
        )?;
        require(
            micro == 0 || group == 0 || micro.is_multiple_of(group) || micro < group,
            "data.micro_batch_size",
            &format!("a multiple of `backbone.norm_group` ({group})"),
            &micro,
        )?;
        self.backbone.check()?;
        self.method.check(&self.plugins)?;
        self.train.check()?;
        let classifies =
            matches!(self.method, method::Config::Classifier(_) | method::Config::Distill(_));
        if let Some(rate) = self.train.optimizer.classifier_learning_rate() {
            require(
                classifies,
                "train.optimizer.classifier_learning_rate",
                &format!("left out, since method {} has no classifier", self.method.name()),
                &rate,
            )?;
        }
        for (index, view) in self.view.iter().enumerate() {
            view.check(index)?;
        }
        self.check_views()
    }

    /// Checks that there are as many views as the method and its plug-ins take, and of the kinds it takes.
    fn check_views(&self) -> Result<()> {
        let (found, settings) = (self.views(), self.method.settings());
        let wanted = |plugins: &Plugins| settings.wiring(plugins, found).views();
        let (all, plain) = (wanted(&self.plugins), wanted(&Plugins::default()));
        if found == all {
            return settings.check_views(&self.plugins, &self.view);
        }
        let more: Vec<String> = self
            .plugins
            .each()
            .iter()
            .filter(|(_, alone)| wanted(alone) != plain)
            .map(|(name, _)| format!("`plugins.{name}`"))
            .collect();
        let more = match more.as_slice() {
            [] => String::new(),
            names => format!(" with {} ({plain} without)", names.join(" and ")),
        };
        let way = match self.view.as_slice() {
            [_] => format!("set `view.0.count={all}`"),
            _ => "it is the sum of the `count` of all `[[view]]` blocks".to_owned(),
        };
        Err(Error::Recipe(format!(
            "`view` must be {all} views in all for method {}{more}, found `{found}`; {way}",
            self.method.name()
        )))
    }

    /// Views of an image in all.
    pub fn views(&self) -> usize {
        self.view.iter().map(|view| view.count).sum()
    }

    /// Fills in what is left to the machine, so that the run can be repeated bit for bit: threads, device, micro-batch,
    /// normalisation group, tile of the loss.
    ///
    /// # Errors
    /// [`Error::Environment`] if the device is not there.
    pub fn resolve(&mut self) -> Result<()> {
        let cores = crate::machine::cores();
        let fill = |value: &mut usize, with: usize| {
            if *value == 0 {
                *value = with;
            }
        };
        fill(&mut self.data.threads, cores);
        fill(&mut self.train.threads, cores);
        fill(&mut self.data.micro_batch_size, self.data.batch_size);
        fill(&mut self.backbone.norm_group, self.data.batch_size);
        // A group cannot be larger than what is in memory at a time.
        self.backbone.norm_group = self.backbone.norm_group.min(self.data.micro_batch_size);
        if self.train.tile_rows == 0 {
            // A bank as large as the data, which nobody has looked at yet, makes its own tiles smaller.
            let held =
                self.method.settings().held(&self.backbone, self.views(), self.data.batch_size, 0);
            self.train.tile_rows = default_tile(held.columns as i64);
        }
        let device = crate::machine::device(&self.train.device)?;
        self.train.device = crate::machine::device_name(device);
        Ok(())
    }

    /// The recipe as TOML.
    ///
    /// # Errors
    /// [`Error::Recipe`] if a value has no TOML form.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::Recipe(error.to_string()))
    }

    /// Takes over from the earlier recipe of a run what this one leaves to the machine, so that going on computes the
    /// same bits.
    pub fn inherit(&mut self, earlier: &Self) {
        if self.data.micro_batch_size == 0 {
            self.data.micro_batch_size = earlier.data.micro_batch_size;
        }
        if self.backbone.norm_group == 0 {
            self.backbone.norm_group = earlier.backbone.norm_group;
        }
        if self.train.threads == 0 {
            self.train.threads = earlier.train.threads;
        }
        if self.train.tile_rows == 0 {
            self.train.tile_rows = earlier.train.tile_rows;
        }
        if self.train.device == "auto" {
            self.train.device.clone_from(&earlier.train.device);
        }
    }
}

/// How a recipe differs from the one a run was started with.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Settings of what is computed: `key: before -> after`.
    pub what: Vec<String>,
    /// Settings of how it is computed.
    pub how: Vec<String>,
    /// Whether the weights still match a run without the change, bit for bit.
    pub bits_match: bool,
}

/// Compares two resolved recipes.
pub fn differences(before: &Recipe, after: &Recipe) -> Differences {
    let (before, after) = (overrides::flatten(before), overrides::flatten(after));
    let mut found = Differences { bits_match: true, ..Differences::default() };
    let value = |settings: &[(String, String)], key: &str| {
        settings.iter().find(|(k, _)| k == key).map_or("(none)".to_owned(), |(_, v)| v.clone())
    };
    let mut keys: Vec<&String> = before.iter().chain(&after).map(|(key, _)| key).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let (old, new) = (value(&before, key), value(&after, key));
        if old == new {
            continue;
        }
        let line = format!("{key}: {old} -> {new}");
        if HOW.contains(&key.as_str()) {
            found.bits_match &= !BITS.contains(&key.as_str());
            found.how.push(line);
        } else {
            found.what.push(line);
        }
    }
    found
}

/// Keys that a recipe may leave out and that therefore are not known from its settings.
const OPTIONAL: &[&str] = &[
    "data.source",
    "data.limit",
    "data.subset",
    "data.label_fraction",
    "data.classes",
    "backbone.weights",
    "method.projector.hidden",
    "method.projector.norm_linear",
    "method.predictor.hidden",
    "method.teacher",
    "method.loss.sigma",
    "method.loss.margin",
    "method.loss.swd_dim",
    "plugins.feature_transformation",
    "plugins.feature_transformation.renormalize",
    "plugins.cross_level",
    "plugins.cross_level.k_eigen",
    "plugins.guided_stop_gradient",
    "train.optimizer.bias_learning_rate",
    "train.optimizer.classifier_learning_rate",
    "train.max_steps",
];

/// The nearest of the fields that serde expected, out of its message.
fn suggestion(message: &str) -> String {
    let near = unknown_key(message).and_then(|found| {
        let expected = message.split("expected").nth(1)?;
        nearest(found, expected.split('`').skip(1).step_by(2))
    });
    near.map(|near| format!("\ndid you mean `{near}`?")).unwrap_or_default()
}
