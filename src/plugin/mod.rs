//! What can be added to a method: feature transformation, cross-level discrimination, guided stop-gradient. Each is its
//! settings and functions of tensors; which method takes which, and where, is the method's to say.

pub mod cross_level;
pub mod feature_transformation;
pub mod guided_stop_gradient;

use crate::error::{Error, Result};
use cross_level::CrossLevel;
use feature_transformation::FeatureTransformation;
use guided_stop_gradient::GuidedStopGradient;
use serde::{Deserialize, Serialize};

/// The recipe's `[plugins]`: a table switches a plug-in on, an empty one with its published settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plugins {
    /// Harder positives and more varied negatives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature_transformation: Option<FeatureTransformation>,
    /// Discrimination between an image and the groups of the other view.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_level: Option<CrossLevel>,
    /// Which view of an image predicts and which is predicted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guided_stop_gradient: Option<GuidedStopGradient>,
}

impl Plugins {
    /// Whether none is switched on.
    pub fn is_empty(&self) -> bool {
        self.names().is_empty()
    }

    /// The tables of those that are switched on.
    pub fn names(&self) -> Vec<&'static str> {
        let all = [
            ("feature_transformation", self.feature_transformation.is_some()),
            ("cross_level", self.cross_level.is_some()),
            ("guided_stop_gradient", self.guided_stop_gradient.is_some()),
        ];
        all.into_iter().filter_map(|(name, on)| on.then_some(name)).collect()
    }

    /// Those that are switched on, by the names of their tables, each by itself.
    pub fn each(&self) -> Vec<(&'static str, Self)> {
        let Self { feature_transformation, cross_level, guided_stop_gradient } = self.clone();
        [
            ("feature_transformation", Self { feature_transformation, ..Self::default() }),
            ("cross_level", Self { cross_level, ..Self::default() }),
            ("guided_stop_gradient", Self { guided_stop_gradient, ..Self::default() }),
        ]
        .into_iter()
        .filter(|(_, alone)| !alone.is_empty())
        .collect()
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key.
    pub fn check(&self) -> Result<()> {
        self.feature_transformation.as_ref().map_or(Ok(()), FeatureTransformation::check)?;
        self.cross_level.as_ref().map_or(Ok(()), CrossLevel::check)
    }
}

/// An error if a setting lies outside its range, both ends included.
fn within(key: &str, value: f64, [low, high]: [f64; 2]) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(Error::Recipe(format!(
        "`plugins.{key}` must lie between {low} and {high}, found `{value}`"
    )))
}

/// Refuses the first setting of `plugins.<table>` that was changed though only `key = value` reads it.
fn unused(table: &str, changed: &[(&str, bool)], key: &str, value: &str) -> Result<()> {
    match changed.iter().find(|(_, changed)| *changed) {
        None => Ok(()),
        Some((setting, _)) => Err(Error::Recipe(format!(
            "`plugins.{table}.{setting}` is read with `plugins.{table}.{key} = \"{value}\"` alone: leave it out, or set that"
        ))),
    }
}
