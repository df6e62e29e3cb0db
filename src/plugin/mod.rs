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
use tch::{Kind, Tensor};

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
        self.feature_transformation.is_none()
            && self.cross_level.is_none()
            && self.guided_stop_gradient.is_none()
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

/// In f32, or f64 if it is f64.
fn full(tensor: &Tensor) -> Tensor {
    tensor.to_kind(if tensor.kind() == Kind::Double { Kind::Double } else { Kind::Float })
}

/// Rows (the last dimension) divided by their length, or by 1e-12 if they are shorter.
fn unit(rows: &Tensor) -> Tensor {
    rows / rows.square().sum_dim_intlist(-1, true, None).sqrt().clamp_min(1e-12)
}

/// Inner product of each row with its counterpart, `[N, d]` and `[N, d]` to `[N, 1]`.
fn row_dot(left: &Tensor, right: &Tensor) -> Tensor {
    (left * right).sum_dim_intlist(-1, true, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Plugins {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_table_switches_a_plugin_on_and_only_it_is_written() {
        assert!(read("").is_empty());
        assert_eq!(toml::to_string(&read("")).unwrap(), "");
        for name in ["feature_transformation", "cross_level", "guided_stop_gradient"] {
            let plugins = read(&format!("[{name}]"));
            assert!(!plugins.is_empty());
            plugins.check().unwrap();
            let text = toml::to_string(&plugins).unwrap();
            assert_eq!(text.lines().filter(|line| line.starts_with('[')).count(), 1, "{text}");
            assert_eq!(read(&text), plugins);
        }
        assert!(toml::from_str::<Plugins>("[cross_level_discrimination]").is_err());
    }

    #[test]
    fn the_settings_of_each_are_checked() {
        for text in
            ["[feature_transformation]\nalpha_extrapolate = -2.0", "[cross_level]\ngroups = 0"]
        {
            assert!(matches!(read(text).check(), Err(Error::Recipe(_))), "{text}");
        }
    }
}
