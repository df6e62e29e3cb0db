//! Scores of positives and negatives over a run.

use super::runs;
use crate::cli::Answer;
use anyhow::Result;
use diptych::analyze::scores::{Settings, draw};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  diptych analyze scores runs/a
  diptych analyze scores runs/m-0.999 runs/m-0.99 runs/m-0.9 --out momentum smooth=100 from=550 neg_range=[-0.25,0.25]

Settings: axis, smooth, from, to, stage, pos_range, neg_range, var_range, palette (docs/analyses.md).")]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    common: runs::Arguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    runs::run(&arguments.common, "scores", &Settings::default(), draw)
}
