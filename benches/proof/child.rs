//! Other programs: started, waited for, stopped when this one is asked to stop or they take too long.

use crate::figures::{Outcome, json_line};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a child is looked at; its end is seen this late, which no figure depends on.
const LOOK: Duration = Duration::from_millis(100);

/// How long a child that is told to stop has for it.
const GRACE: Duration = Duration::from_secs(20);

/// What a program that ended left behind.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Ended {
    /// The JSON object it printed, or why there is none.
    pub(crate) fn answer(&self) -> Outcome {
        if self.status.success() {
            return json_line(&self.output);
        }
        let mut said = self.errors.lines().filter(|line| !line.trim().is_empty());
        // Ours says `error: ...`, perhaps with a hint below; Python ends with what went wrong.
        let error =
            said.clone().find(|line| line.starts_with("error")).or_else(|| said.next_back());
        Err(format!("{}: {}", self.status, error.unwrap_or("nothing was said")))
    }
}

/// Runs a program to its end.
///
/// # Errors
/// When it cannot be started, takes longer than `limit`, or `stop` is set.
pub(crate) fn run(mut command: Command, limit: Duration, stop: &AtomicBool) -> Result<Ended> {
    // Files in place of pipes: nothing has to be read while the program works.
    let (output, errors) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let command = command.stdin(Stdio::null()).stdout(output.try_clone()?);
    let mut child = command
        .stderr(errors.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot start `{}`", command.get_program().display()))?;
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let asked = stop.load(Ordering::Relaxed);
        if asked || started.elapsed() > limit {
            end(&mut child)?;
            if asked {
                bail!("interrupted");
            }
            bail!("stopped after {} s", limit.as_secs());
        }
        sleep(LOOK);
    };
    Ok(Ended { status, output: content(output)?, errors: content(errors)? })
}

/// Asks a child to stop, and kills it if it does not.
fn end(child: &mut Child) -> Result<()> {
    let asked = Instant::now();
    if let Some(pid) = Pid::from_raw(child.id() as i32) {
        // It may just have ended.
        let _ = kill_process(pid, Signal::TERM);
    }
    while child.try_wait()?.is_none() {
        if asked.elapsed() > GRACE {
            child.kill()?;
        }
        sleep(LOOK);
    }
    Ok(())
}

/// All of a file, whatever its encoding.
fn content(mut file: File) -> Result<String> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
