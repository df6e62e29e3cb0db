//! Pages about one run or several, made from their folders alone.
//!
//! [`write()`] reads what training and evaluation left behind and writes `report.html` beside it: one file with style, script,
//! charts and pictures inside, which asks nothing of the network and shows no number that is not in the files.
//! [`compare()`] does the same over several runs. Reading (`run`, `metrics`) and showing (`html`, `comparison`) are apart;
//! [`runs`] and [`ranking`] read folders of runs for those who want numbers, not pages.

mod analyses;
mod chart;
mod comparison;
mod data;
mod details;
mod format;
mod gallery;
mod html;
mod metrics;
mod overlay;
pub mod ranking;
mod run;
pub mod runs;
#[cfg(test)]
mod tests;
mod watching;

use std::path::{Path, PathBuf};

pub use format::{duration, measured, significant};

use crate::error::Result;
use crate::files::replace_text;
use run::Run;
pub use run::{Event, State};

/// How many of the last lines of `log.txt` the page shows.
const LOG_LINES: usize = 40;

/// Writes `report.html` into the folder of a run and returns its path.
///
/// Only `recipe.toml` must be there. A part that is missing is said to be missing, a part that is damaged is named on the
/// page, and a last line of `metrics.jsonl` that was cut off while it was written is left out. The page is written to a
/// sibling and renamed, so a reader sees the old page or the new one, never half of one.
///
/// # Errors
/// [`crate::error::Error::Run`] if the folder holds no recipe or one that is not TOML, [`crate::error::Error::Io`] if the
/// page cannot be written.
pub fn write(run: &Path) -> Result<PathBuf> {
    let path = run.join("report.html");
    // Training writes it again and again.
    write_to(run, &path, true)?;
    Ok(path)
}

/// What is to be told of a page that was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// What of several runs could not be read, one sentence each, which the page shows too.
    pub notes: Vec<String>,
    /// Seconds after which the runs that go on may have something new; none if none goes on.
    pub every: Option<u64>,
}

/// [`write()`] to a file of one's choice. `followed` says that it is written again while the run goes on; only then the
/// page reads itself anew.
///
/// # Errors
/// As [`write()`].
pub fn write_to(run: &Path, path: &Path, followed: bool) -> Result<Written> {
    let mut read = Run::read(run)?;
    let (mut room, every) = (analyses::ROOM, html::every(&read));
    let notes = &mut read.notes;
    let log = run::log_lines(run, notes);
    let parts = html::Parts {
        galleries: run::read_galleries(run, notes),
        details: details::read(run, &read.evaluations, notes),
        scores: watching::scores(run, notes),
        gradients: watching::gradients(run, &read.name, notes),
        analyses: analyses::read(run, path, &mut room, notes),
        log: log[log.len().saturating_sub(LOG_LINES)..].join("\n"),
        every: every.filter(|_| followed),
    };
    replace_text(path, &html::page(&read, &parts)?)?;
    Ok(Written { notes: Vec::new(), every })
}

/// Writes one page about several runs to `path`; `followed` as in [`write_to()`].
///
/// # Errors
/// [`crate::error::Error::Run`] if none of them can be read or they are too many for one picture,
/// [`crate::error::Error::Io`] if the page cannot be written.
pub fn compare(runs: &[PathBuf], path: &Path, followed: bool) -> Result<Written> {
    let (page, written) = comparison::page(runs, path, followed)?;
    replace_text(path, &page)?;
    Ok(written)
}
