//! `diptych report`: the page of a run, or one page over several.

use super::{Answer, tell};
use anyhow::Result;
use diptych::report::{self, Written, runs};
use diptych::train::stop::Stop;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  diptych report runs/a
  diptych report runs/a runs/b --out a-and-b.html
  diptych report runs/a runs/b --follow
  diptych report runs")]
pub(super) struct Arguments {
    /// Run folders, or a folder that holds some: one run gets its page, several are compared in one
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page [default: report.html in the folder of the run, comparison.html here for several]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Write the page again and again until no run goes on; Ctrl-C ends it before
    #[arg(long)]
    follow: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let mut found = Vec::new();
    for path in &arguments.runs {
        let inside = runs::find(path)?;
        // What holds no run is told by whoever reads it.
        found.extend(if inside.is_empty() { vec![path.clone()] } else { inside });
    }
    let page = match (&found[..], &arguments.out) {
        (_, Some(page)) => page.clone(),
        ([run], None) => run.join("report.html"),
        _ => PathBuf::from("comparison.html"),
    };
    let mut written = write(&found, arguments.out.as_deref(), &page, arguments.follow)?;
    for note in &written.notes {
        tell(&format!("warning: {note}"));
    }
    if arguments.follow {
        follow(&found, arguments.out.as_deref(), &page, &mut written)?;
    }
    let json = json!({ "report": page, "runs": found, "notes": written.notes });
    Ok(Answer { text: page.display().to_string(), json })
}

fn write(found: &[PathBuf], out: Option<&Path>, page: &Path, followed: bool) -> Result<Written> {
    Ok(match found {
        // The page of a run in its own folder is written by its training too.
        [run] => report::write_to(run, page, followed || out.is_none())?,
        several => report::compare(several, page, followed)?,
    })
}

/// Writes the page whenever there may be something new, and in the end once more, so that it no longer waits for it.
fn follow(found: &[PathBuf], out: Option<&Path>, page: &Path, written: &mut Written) -> Result<()> {
    let stop = Stop::on_signals()?;
    if written.every.is_some() {
        tell(&format!("{} follows the runs; Ctrl-C ends it", page.display()));
    }
    while let Some(every) = written.every {
        let due = Instant::now() + Duration::from_secs(every);
        while Instant::now() < due && !stop.asked() {
            sleep(Duration::from_millis(100));
        }
        let asked = stop.asked();
        *written = write(found, out, page, !asked)?;
        if asked {
            break;
        }
    }
    Ok(())
}
