//! What happens when memory runs out: the program starts itself anew with fewer images at a time.
//!
//! Memory is torn after libtorch could not allocate (it holds on to parts of the graph, and the next failure may be a
//! segmentation fault), so nothing goes on in the same process: it is replaced by a fresh one, which goes on from the last
//! checkpoint.

use super::tell;
use anyhow::Result;
use diptych::error::Error;
use diptych::ffi::succeed_after_crash;
use diptych::recipe::Recipe;
use diptych::train::journal::Event;
use diptych::train::run::{RunFolder, read_status};
use diptych::train::step::Layout;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Replaces this process by one that goes on in less memory, see [`with_less_memory`]. Returns only if that fails.
pub(super) fn again(text: &str) -> Error {
    let error = command().args([LESS_MEMORY, text]).exec();
    Error::OutOfMemory(format!("{text}; a fresh process could not be started: {error}"))
}

/// The same for a crash at the memory limit, which nobody can catch.
pub(super) fn again_after_crash() {
    let command = command();
    let text = "libtorch crashed at the memory limit";
    let words =
        command.get_args().map(OsStr::as_bytes).chain([LESS_MEMORY, text].map(str::as_bytes));
    let name = std::env::args_os().next().unwrap_or_default();
    let words = std::iter::once(name.as_bytes()).chain(words).map(CString::new);
    if let Ok(words) = words.collect() {
        succeed_after_crash(words);
    }
}

/// The flag that such a process is started with; what was said of the memory follows it.
const LESS_MEMORY: &str = "--less-memory";

/// Halves the micro-batch of a run that ran out of memory, and records it. When a smaller one would change what is
/// computed: an error that says the largest batch that fits.
pub(super) fn with_less_memory(
    text: &str,
    recipe: &mut Recipe,
    mut layout: Layout,
    run: &Path,
) -> Result<()> {
    // What the process that ran out of memory had.
    let earlier = std::fs::read_to_string(run.join("recipe.toml")).unwrap_or_default();
    let earlier = Recipe::parse(&earlier, "recipe.toml", &[]);
    let before = earlier.map_or(layout.micro_batch, |earlier| earlier.data.micro_batch_size);
    layout.micro_batch = before;
    let Some(micro_batch) = layout.smaller_micro_batch() else {
        return Err(largest_batch(text, &layout, run).into());
    };
    let event = format!(
        "out of memory with {before} images at a time, went on with {micro_batch} (the batch stays whole, last bits differ)"
    );
    tell(&format!(
        "warning: {text}; going on from the last checkpoint with {micro_batch} images at a time"
    ));
    let folder = RunFolder::open(run)?;
    let mut status = read_status(run).unwrap_or_default();
    "stopped".clone_into(&mut status.state);
    status.history.push(Event { step: status.step, text: event.clone() });
    folder.log(&event)?;
    folder.write_status(&status)?;
    recipe.data.micro_batch_size = micro_batch;
    Ok(())
}

/// The command this process was started with, without what must not happen twice.
fn command() -> Command {
    let mut words = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(words.next().unwrap_or_default());
    while let Some(word) = words.next() {
        if word == LESS_MEMORY {
            words.next();
        } else if word != "--fresh" {
            command.arg(word);
        }
    }
    command
}

/// The error for a run of which not even one normalisation group fits. It says the largest batch that does, to a quarter,
/// found by running two steps of it.
fn largest_batch(text: &str, layout: &Layout, run: &Path) -> Error {
    let out = run.join("trial");
    let mut strange = None;
    let mut fits = |size: usize| {
        // What is left of a trial that was killed would be taken for a run to go on with.
        let _ = std::fs::remove_dir_all(&out);
        let mut trial = command();
        trial.args(["--trial", "--out"]).arg(&out);
        trial.args(
            ["data.batch_size", "data.micro_batch_size", "backbone.norm_group"]
                .map(|key| format!("{key}={size}")),
        );
        trial.args(["train.max_steps=2", "train.knn.every_epochs=0"]);
        let quiet = trial.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let code = quiet.status().map(|status| status.code());
        let _ = std::fs::remove_dir_all(&out);
        match code {
            Ok(Some(0)) => true,
            // Out of memory, told or by a crash.
            Ok(Some(7) | None) => false,
            other => {
                strange = Some(format!("{other:?}"));
                false
            }
        }
    };
    tell("out of memory; looking for the largest batch that fits");
    let halves = (1..).map(|n| layout.group >> n).take_while(|size| *size >= 2);
    let Some(half) = halves.into_iter().find(|size| fits(*size)) else {
        let found = match strange {
            Some(code) => {
                format!("what batch would fit is not known, since trying one ended with {code}")
            }
            None => "not even a batch of 2 images fits".to_owned(),
        };
        return Error::OutOfMemory(format!(
            "{text}; {found}; choose smaller images or a smaller backbone"
        ));
    };
    // Between what fits and twice that, which does not.
    let above = |quarters: usize| half + (quarters * half / 4) / 2 * 2;
    let mut fits = |quarters: usize| above(quarters) > half && fits(above(quarters));
    let largest = match (fits(2), half) {
        (true, _) => above(if fits(3) { 3 } else { 2 }),
        (false, half) if half >= 8 && fits(1) => above(1),
        (false, half) => half,
    };
    let size = (2..=largest).rev().find(|size| layout.batch.is_multiple_of(*size));
    let keep = size.map_or(String::new(), |size| {
        format!(
            ", or keep the batch whole with `data.micro_batch_size={size}` (batch norm then sees {size} images at a time)"
        )
    });
    Error::OutOfMemory(format!(
        "{text}; the largest batch that fits is {largest} (tried): set `data.batch_size={largest}`{keep}; either is \
         another run: --fresh or another --out"
    ))
}
