//! The norm of the gradient, by layer and epoch.

use super::runs;
use crate::cli::Answer;
use anyhow::Result;
use diptych::analyze::gradients::{Settings, draw};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  diptych analyze gradients runs/a
  diptych analyze gradients runs/m-0.99 runs/m-0.6 --out momentum backbone_only=true height=log

Settings: aggregate, height, backbone_only, palette (docs/analyses.md).")]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    common: runs::Arguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    runs::run(&arguments.common, "gradients", &Settings::default(), draw)
}
