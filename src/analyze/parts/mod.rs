//! Parts of objects: the pixels of feature maps, clustered and painted over the image ("\[Re\] Intriguing Properties of
//! Contrastive Losses", section 3.4; Chen, Luo and Li 2021, arXiv:2011.02803, section 4).
//!
//! ```text
//! images -> prepared -> maps of block groups [n,H,W,D] -> unit length -> clusters -> order -> labels [n,H,W]
//!                                                                                       |
//!                                       numbers, figures, arrays, a page  <-------------+
//! ```
//!
//! [`find`] computes, [`write()`] leaves a folder. The published code departs from the published text; [`Mode`] has both.

mod earlier;
mod elbow;
mod figures;
mod found;
#[cfg(test)]
mod golden;
mod maps;
mod masks;
pub mod numbers;
pub mod order;
mod page;
pub mod paint;
#[cfg(test)]
mod tests;
mod write;

pub use earlier::Earlier;
pub use found::{Found, Map, Pair, Scope, find};
pub use maps::{Picture, Subject, read_pictures, side_for};
pub use masks::{UNJUDGED, read_masks};
pub use write::{Told, write};

use super::palette::Palette;
use crate::cluster::Algorithm;
use crate::error::{Error, Result};
use order::Order;
use paint::Enlarge;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::path::PathBuf;

/// Version of the analysis.
pub const VERSION: u32 = 1;

/// Everything that decides what comes out, beside models and images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Block groups, 1 to 4.
    #[serde(deserialize_with = "list")]
    pub blocks: Vec<u8>,
    /// Numbers of clusters k, 1 to 10, ascending.
    #[serde(deserialize_with = "list")]
    pub clusters: Vec<usize>,
    /// How to cluster; the first is that of figures over models.
    #[serde(deserialize_with = "list")]
    pub algorithms: Vec<Algorithm>,
    /// One clustering for all images, so that the same part has the same colour in each, instead of one per image.
    pub together: bool,
    /// The published text or the published code.
    pub mode: Mode,
    /// Which number, and so which colour, a cluster gets.
    pub order: Order,
    /// Folder of an earlier analysis of the same images, whose colours are gone on with where the order is
    /// [`Order::Match`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub like: Option<PathBuf>,
    /// How masks become as large as pictures.
    pub enlarge: Enlarge,
    /// Colours.
    pub palette: Palette,
    /// How the baseline of raw pixels is shrunk.
    pub raw_resize: RawResize,
    /// Side of the grid on which raw pixels are clustered; none is that of block group 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_grid: Option<usize>,
    /// Side of the network's input in pixels; none is what makes block group 4 14 × 14: 448, or 112 behind a stem for small
    /// images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// Side of the pictures in pixels.
    pub picture: usize,
    /// Number of seeds whose clusters are compared; below 2 none are.
    pub stability: usize,
}

/// Settings that are left out while they have no value.
pub const OPTIONAL: [&str; 3] = ["size", "like", "raw_grid"];

impl Default for Settings {
    fn default() -> Self {
        Self {
            blocks: vec![2, 3, 4],
            clusters: vec![2, 4, 6, 8],
            algorithms: vec![Algorithm::KMeans],
            together: false,
            mode: Mode::default(),
            order: Order::default(),
            like: None,
            enlarge: Enlarge::default(),
            palette: Palette::default(),
            raw_resize: RawResize::default(),
            raw_grid: None,
            size: None,
            picture: 448,
            stability: 0,
        }
    }
}

/// What the published text says, or what the published code does.
///
/// | point | `report` | `as-published` |
/// |---|---|---|
/// | length of the features of a location | 1 | as they are |
/// | batch norm | running statistics | statistics of the images analysed, which are one batch |
/// | range | as they are | the whole map brought to 0 to 255, whole numbers |
/// | grey | luma | luma with red for blue and blue for red |
/// | raw pixels | 0 to 1 | brought to 0 to 255 twice |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The text.
    #[default]
    Report,
    /// The code.
    AsPublished,
}

/// How an image is shrunk to a few pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RawResize {
    /// By four pixels around the middle of each, as published.
    #[default]
    Bilinear,
    /// By the mean over the area of each.
    Area,
}

impl Settings {
    /// Checks what can be checked without images.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting, what was expected and what was found.
    pub fn check(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::Recipe(text));
        if self.blocks.is_empty() || !self.blocks.iter().all(|block| (1..=4).contains(block)) {
            return wrong(format!(
                "`parts.blocks` must be some of 1, 2, 3 and 4, found {:?}",
                self.blocks
            ));
        }
        if self.clusters.is_empty() || self.clusters.contains(&0) {
            return wrong(format!(
                "`parts.clusters` must be one or more numbers from 1 to 10, found {:?}",
                self.clusters
            ));
        }
        for k in &self.clusters {
            self.palette.check(*k)?;
        }
        if self.algorithms.is_empty() {
            return wrong("`parts.algorithms` must name at least one".to_owned());
        }
        let sides = [("size", self.size), ("picture", Some(self.picture))];
        for (name, side) in sides {
            if let Some(side) = side.filter(|side| !(16..=4_096).contains(side)) {
                return wrong(format!(
                    "`parts.{name}` must be from 16 to 4096 pixels, found `{side}`"
                ));
            }
        }
        if let Some(side) = self.raw_grid.filter(|side| !(2..=self.picture).contains(side)) {
            return wrong(format!(
                "`parts.raw_grid` must be from 2 to the {} pixels of `parts.picture`, found `{side}`",
                self.picture
            ));
        }
        if self.like.is_some() && self.order != Order::Match {
            return wrong(
                "`parts.like` goes on with colours where `parts.order=match`, and does nothing otherwise; leave one of \
                 the two away"
                    .to_owned(),
            );
        }
        if self.stability == 1 {
            return wrong(
                "`parts.stability` compares at least 2 seeds (0: none), found `1`".to_owned(),
            );
        }
        let twice = |name: &str, twice: bool| {
            if twice { wrong(format!("`parts.{name}` names one twice")) } else { Ok(()) }
        };
        twice("blocks", repeated(&self.blocks))?;
        twice("clusters", repeated(&self.clusters))?;
        twice("algorithms", repeated(&self.algorithms))?;
        if !self.clusters.is_sorted() {
            return wrong(format!("`parts.clusters` must ascend, found {:?}", self.clusters));
        }
        Ok(())
    }
}

/// A list, one of its members alone, or members in a text, separated by commas (`k-means,ward`).
fn list<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Vec<T>, D::Error> {
    let members = match Value::deserialize(from)? {
        Value::Array(members) => members,
        Value::String(text) => {
            let member = |text: &str| {
                let text = text.trim();
                text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from)
            };
            text.split(',').map(member).collect()
        }
        one => vec![one],
    };
    members.into_iter().map(|member| T::deserialize(member).map_err(D::Error::custom)).collect()
}

fn repeated<T: PartialEq>(values: &[T]) -> bool {
    values.iter().enumerate().any(|(at, value)| values[..at].contains(value))
}

/// Name of an algorithm, as in settings and files.
pub fn algorithm_name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::KMeans => "k-means",
        Algorithm::Ward => "ward",
        Algorithm::Bisecting => "bisecting",
        Algorithm::Spherical => "spherical",
        Algorithm::Spectral => "spectral",
        Algorithm::SpectralCld => "spectral-cld",
    }
}

/// The same for readers.
pub(super) fn algorithm_title(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::KMeans => "K-Means",
        Algorithm::Ward => "Ward Hierarchical",
        Algorithm::Bisecting => "Bisecting K-Means",
        Algorithm::Spherical => "Spherical K-Means",
        Algorithm::Spectral => "Spectral",
        Algorithm::SpectralCld => "Spectral (CLD code)",
    }
}
