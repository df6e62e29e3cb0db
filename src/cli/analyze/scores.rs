//! Scores of positives and negatives over a run.

use crate::cli::Answer;
use anyhow::{Result, bail};

#[derive(clap::Args)]
pub(in crate::cli) struct Arguments {}

pub(super) fn run(_: &Arguments) -> Result<Answer> {
    bail!("not built yet")
}
