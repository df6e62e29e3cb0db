//! What a representation learned, to be looked at: every analysis leaves a folder with pictures, pages and arrays, and an
//! `analysis.json` that tells what they are and what made them.

pub mod augmentations;
pub mod figure;
pub mod gradients;
pub mod history;
pub mod map;
pub mod neighbours;
pub mod palette;
pub mod parts;
mod plot;
pub mod scores;
#[cfg(test)]
pub(crate) mod structure;

#[cfg(test)]
pub(crate) use plot::tests::alike;

use crate::error::{Error, Result};
use crate::evaluate::{DataUsed, WeightsUsed};
use crate::files::replace_text;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Name of the file that tells about the others in the folder of an analysis.
pub const FILE: &str = "analysis.json";

/// One analysis: what it was made of and which files it left. Reports show these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Analysis {
    /// `parts`, `scores`, `gradients`, `map`, `neighbours`, `augmentations`.
    pub kind: String,
    /// Version of the analysis; numbers of different versions do not compare.
    pub version: u32,
    /// A title for people.
    pub title: String,
    /// Every setting that changes what comes out.
    pub settings: BTreeMap<String, Value>,
    /// Images it was made of, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataUsed>,
    /// The networks it looked at, by the name they have in the pictures.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, WeightsUsed>,
    /// Seed of everything random in it.
    pub seed: u64,
    /// What it came to in numbers, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<String, Value>,
    /// The files beside this one.
    pub files: Vec<Output>,
    /// How long it took.
    pub wall_seconds: f64,
    /// Where it ran: `cpu`, `cuda:0`.
    pub device: String,
    /// Version of this toolkit.
    pub diptych: String,
    /// Revision of the working tree it was built from, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// A file of an analysis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its name inside of the folder.
    pub file: String,
    /// What it is to a reader.
    pub form: Form,
    /// What it shows, in a few words.
    pub title: String,
    /// The same for those who cannot see it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// What a file is to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// PNG or SVG.
    Picture,
    /// HTML.
    Page,
    /// Arrays and tables: npy, json, csv.
    Data,
}

impl Analysis {
    /// Writes `analysis.json` into the folder, last of all its files.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::Run(format!("analysis `{}`: {error}", path.display())))?;
        replace_text(&path, &text)?;
        Ok(path)
    }

    /// Reads the `analysis.json` of a folder.
    ///
    /// # Errors
    /// [`Error::Io`] if there is none, [`Error::Run`] if it is damaged.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        serde_json::from_str(&text)
            .map_err(|error| Error::Run(format!("analysis `{}`: {error}", path.display())))
    }
}
