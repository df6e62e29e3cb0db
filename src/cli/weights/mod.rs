//! `diptych weights`: checkpoints of other systems in, ours out.

mod compare;
mod export;
mod import;
mod show;
mod tensorflow;

use super::Answer;
use anyhow::Result;
use diptych::error::Error;
use diptych::model::resnet::{Flavor, Stem};
use diptych::weights::SMALL_STEMS;
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// What is in a file of weights, without loading it all
    Show(show::Arguments),
    /// Turn weights of another system into ours
    Import(import::Arguments),
    /// Write our weights under the names and in the format of another system
    Export(export::Arguments),
    /// What differs between two files of weights
    Compare(compare::Arguments),
}

pub(super) fn run(command: &Command) -> Result<Answer> {
    match command {
        Command::Show(arguments) => show::run(arguments),
        Command::Import(arguments) => import::run(arguments),
        Command::Export(arguments) => export::run(arguments),
        Command::Compare(arguments) => compare::run(arguments),
    }
}

/// The file that is meant: of a run folder its newest checkpoint.
fn file_of(model: &Path) -> PathBuf {
    if model.join("recipe.toml").is_file() {
        return model.join("checkpoints/last.safetensors");
    }
    model.to_owned()
}

/// A stem by its name in recipes.
fn named_stem(name: &str) -> Result<Stem> {
    let known = SMALL_STEMS.iter().find(|(known, _)| *known == name);
    let found = known.map(|(_, stem)| *stem);
    let found = found.or(serde_json::from_value(name.into()).ok());
    Ok(found.ok_or_else(|| {
        let names = SMALL_STEMS.map(|(name, _)| name).join(", ");
        Error::Recipe(format!(
            "`--stem` must be one of {names}, or imagenet, resnet_d, found `{name}`"
        ))
    })?)
}

fn named_flavor(name: &str) -> Result<Flavor> {
    Ok(serde_json::from_value(name.into()).map_err(|_| {
        Error::Recipe(format!(
            "`--flavor` must be torchvision, simclr_tf or simclr_converter, found `{name}`"
        ))
    })?)
}

fn stem_name(stem: Stem) -> String {
    let name = serde_json::to_value(stem).unwrap_or_default();
    name.as_str().unwrap_or_default().to_owned()
}

/// A shape in a table.
fn flattened(shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    if sizes.is_empty() { "one".to_owned() } else { sizes.join("×") }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// A count with commas.
fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<String> = groups.map(|group| String::from_utf8_lossy(group).into()).collect();
    groups.join(",")
}
