//! `diptych report`: the page of a run, or one page over several.

use super::{Answer, tell};
use anyhow::Result;
use diptych::report::{self, runs};
use serde_json::json;
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  diptych report runs/a
  diptych report runs/a runs/b --out a-and-b.html
  diptych report runs")]
pub(super) struct Arguments {
    /// Run folders, or a folder that holds some: one run gets its page, several are compared in one
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page [default: report.html in the folder of the run, comparison.html here for several]
    #[arg(long)]
    out: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let mut found = Vec::new();
    for path in &arguments.runs {
        let inside = runs::find(path)?;
        // What holds no run is told by whoever reads it.
        found.extend(if inside.is_empty() { vec![path.clone()] } else { inside });
    }
    let (page, notes) = match (&found[..], &arguments.out) {
        ([run], None) => (report::write(run)?, Vec::new()),
        ([run], Some(page)) => {
            report::write_to(run, page)?;
            (page.clone(), Vec::new())
        }
        (several, page) => {
            let page = page.clone().unwrap_or_else(|| PathBuf::from("comparison.html"));
            let notes = report::compare(several, &page)?;
            (page, notes)
        }
    };
    for note in &notes {
        tell(&format!("warning: {note}"));
    }
    let json = json!({ "report": page, "runs": found, "notes": notes });
    Ok(Answer { text: page.display().to_string(), json })
}
