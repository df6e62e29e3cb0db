//! A map of the embedding: t-SNE or PCA, with the images on it.

use crate::cli::Answer;
use anyhow::{Result, bail};

#[derive(clap::Args)]
pub(in crate::cli) struct Arguments {}

pub(super) fn run(_: &Arguments) -> Result<Answer> {
    bail!("not built yet")
}
