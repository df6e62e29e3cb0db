//! `diptych report`: the page of a run.

use super::Answer;
use anyhow::Result;
use diptych::error::Error;
use serde_json::json;
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  diptych report runs/a")]
pub(super) struct Arguments {
    /// The run folder
    run: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    if !arguments.run.join("recipe.toml").is_file() {
        return Err(Error::Run(format!(
            "`{}` is not a run folder: it has no recipe.toml; `diptych pretrain` makes one",
            arguments.run.display()
        ))
        .into());
    }
    let page = diptych::report::write(&arguments.run)?;
    Ok(Answer { text: page.display().to_string(), json: json!({ "report": page }) })
}
