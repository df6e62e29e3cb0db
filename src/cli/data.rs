//! `diptych data`: what a source holds.

use super::Answer;
use anyhow::Result;

#[derive(clap::Subcommand)]
#[command(after_help = "Example:\n  diptych data show photos/")]
pub(super) enum Command {
    /// What was recognised: format, splits, classes, sizes
    Show {
        /// A parquet file or folder, an image folder, or `synthetic:NAME`
        source: String,
    },
}

pub(super) fn run(command: &Command) -> Result<Answer> {
    let Command::Show { source } = command;
    let summary = diptych::data::summary(&diptych::data::open(source)?);
    Ok(Answer { text: summary.to_string(), json: serde_json::to_value(&summary)? })
}
