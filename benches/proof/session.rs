//! What all parts share: the machine, the pictures, the peer, and how a run is made and told.

use crate::child;
use crate::data::{self, Pictures};
use crate::figures::{Outcome, Pair, rounded, without_places};
use crate::machine::{Watch, disturbed};
use crate::peer::Peer;
use anyhow::{Result, anyhow, bail};
use serde_json::{Map, Value, json};
use std::cell::OnceCell;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// The recipe whose settings are the peer's.
pub(crate) const RECIPE: &str = "cifar10/simclr-peer";

/// One run takes no longer; a program that hangs does not keep the others from running.
const LIMIT: Duration = Duration::from_hours(3);

/// Bytes of what programs call MB when they count in 2^20, in MB of 10^6 bytes.
fn megabytes(mebibytes: &Value) -> Value {
    mebibytes.as_f64().map_or(Value::Null, |count| json!((count * 1.048_576).round()))
}

pub(crate) struct Session {
    /// Few small runs, to see that everything works.
    pub(crate) quick: bool,
    pub(crate) threads: usize,
    pub(crate) peer: Result<Peer, String>,
    pub(crate) scratch: TempDir,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) cifar10: OnceCell<Pictures>,
    pub(crate) photographs: OnceCell<Pictures>,
}

impl Session {
    /// Runs of each program that a median is of.
    pub(crate) fn runs(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }

    /// Small labelled pictures: CIFAR-10, or made ones.
    pub(crate) fn cifar10(&self) -> Result<&Pictures> {
        found_or_made(&self.cifar10, "CIFAR10", || data::make_small(self))
    }

    /// Photographs of full size, or made pictures as large.
    pub(crate) fn photographs(&self) -> Result<&Pictures> {
        found_or_made(&self.photographs, "PHOTOGRAPHS", || data::make_large(self))
    }

    /// Fails once somebody asked this program to stop.
    pub(crate) fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// One run, whose failure is a result, too; only an interruption ends everything.
    pub(crate) fn attempt(
        &self,
        what: &str,
        run: impl FnOnce() -> Result<Value>,
    ) -> Result<Outcome> {
        self.go_on()?;
        let watch = Watch::start();
        let outcome = run();
        self.go_on()?;
        let others = watch.others();
        let outcome = outcome.map_err(|error| self.without_places(&format!("{error:#}")));
        let outcome = outcome.map(|mut value| {
            value["others_cores"] = json!(others);
            value
        });
        match &outcome {
            Ok(value) => eprintln!("  {what}: {}", told(value)),
            Err(error) => eprintln!("  {what} failed: {error}"),
        }
        if let Some(warning) = others.and_then(disturbed) {
            eprintln!("  warning: {warning}");
        }
        Ok(outcome)
    }

    /// Runs of both programs in turns, ours first; the peer's are left out where it is missing.
    pub(crate) fn in_turns(
        &self,
        what: &str,
        runs: usize,
        mut ours: impl FnMut(usize) -> Result<Value>,
        mut peer: impl FnMut(&Peer, usize) -> Command,
    ) -> Result<Pair> {
        let mut pair = Pair::default();
        for run in 0..runs {
            let name = |who| format!("{what}, {who}, run {} of {runs}", run + 1);
            pair.ours.push(self.attempt(&name("diptych"), || ours(run))?);
            if let Ok(found) = &self.peer {
                let work = || self.answer(peer(found, run));
                pair.peer.push(self.attempt(&name("lightly"), work)?);
            }
        }
        Ok(pair)
    }

    /// What a program prints as JSON.
    pub(crate) fn answer(&self, command: Command) -> Result<Value> {
        child::run(command, LIMIT, &self.stop)?.answer().map_err(|why| anyhow!(why))
    }

    /// Trains in a new folder and gives what counts of the answer, and what `then` finds in the run.
    pub(crate) fn pretrain(
        &self,
        pictures: &Pictures,
        settings: &[String],
        then: impl FnOnce(&Path, &mut Value) -> Result<()>,
    ) -> Result<Value> {
        let folder = tempfile::tempdir_in(&self.scratch)?;
        let run = folder.path().join("run");
        let mut command = self.training(pictures, settings);
        command.arg("--out").arg(&run);
        let answer = self.answer(command)?;
        let mut found = json!({
            "steps": answer["steps"],
            "views_per_second": answer["views_per_second"],
            "wall_seconds": answer["wall_seconds"],
            "final_loss": answer["final_loss"],
            "peak_memory_mb": megabytes(&answer["peak_memory_mb"]),
        });
        then(&run, &mut found)?;
        Ok(found)
    }

    /// The peak memory in MB that `--dry-run` predicts.
    pub(crate) fn predict(&self, pictures: &Pictures, settings: &[String]) -> Result<Value> {
        let mut command = self.training(pictures, settings);
        command.arg("--dry-run");
        Ok(megabytes(&self.answer(command)?["predicted_peak_memory_mb"]))
    }

    fn training(&self, pictures: &Pictures, settings: &[String]) -> Command {
        // A recipe may stand before the settings.
        let (recipe, settings) = match settings.split_first() {
            Some((first, rest)) if !first.contains('=') => (first.as_str(), rest),
            _ => (RECIPE, settings),
        };
        let mut command = diptych();
        command.args(["pretrain", recipe, "--json", "--data"]).arg(&pictures.path).args(settings);
        command.arg(format!("train.threads={}", self.threads));
        command.args(["train.device=cpu", "train.knn.every_epochs=0"]);
        command
    }

    /// A text without the names of folders of this machine.
    pub(crate) fn without_places(&self, text: &str) -> String {
        let place = |path: &Path, word| (path.display().to_string(), word);
        let mut places = vec![
            place(self.scratch.path(), "TEMPORARY"),
            place(Path::new(env!("CARGO_MANIFEST_DIR")), "."),
        ];
        for (cell, word) in [(&self.cifar10, "CIFAR10"), (&self.photographs, "PHOTOGRAPHS")] {
            places.extend(cell.get().map(|pictures| place(&pictures.path, word)));
        }
        places.extend(std::env::home_dir().map(|home| place(&home, "~")));
        without_places(text, &places)
    }
}

/// Our program.
pub(crate) fn diptych() -> Command {
    Command::new(env!("CARGO_BIN_EXE_diptych"))
}

fn found_or_made<'a>(
    cell: &'a OnceCell<Pictures>,
    name: &str,
    make: impl FnOnce() -> Result<Pictures>,
) -> Result<&'a Pictures> {
    if let Some(pictures) = cell.get() {
        return Ok(pictures);
    }
    let pictures = match data::given(name)? {
        Some(pictures) => pictures,
        None => make()?,
    };
    Ok(cell.get_or_init(|| pictures))
}

/// A run in a few words.
fn told(value: &Value) -> String {
    let names = [
        ("views_per_second", "views/s"),
        ("peak_memory_mb", "MB"),
        ("top1", "% k-NN top-1"),
        ("knn_top1", "% k-NN top-1"),
        ("wall_seconds", "s"),
    ];
    let words = names
        .iter()
        .filter_map(|(key, unit)| Some(format!("{} {unit}", rounded(value[*key].as_f64()?))));
    words.collect::<Vec<_>>().join(", ")
}

/// A part as it is printed, and what will be stored of it.
pub(crate) struct Report<'a> {
    session: &'a Session,
    pub(crate) text: String,
    pub(crate) raw: Map<String, Value>,
    /// Runs that failed; the part is whole without any.
    pub(crate) failures: Vec<String>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(session: &'a Session) -> Self {
        Self { session, text: String::new(), raw: Map::new(), failures: Vec::new() }
    }

    /// Prints a paragraph or a table, and keeps it.
    pub(crate) fn say(&mut self, text: &str) {
        let text = self.session.without_places(text);
        let text = format!("{}\n\n", text.trim_end());
        print!("{text}");
        self.text += &text;
    }

    /// Tells what is measured on.
    pub(crate) fn pictures(&mut self, pictures: &Pictures) {
        self.say(&pictures.told);
        let told = self.raw.entry("pictures").or_insert_with(|| json!([]));
        if let Some(told) = told.as_array_mut() {
            told.push(json!(pictures.told));
        }
    }

    /// Keeps runs side by side, and tells of those that failed or were disturbed.
    pub(crate) fn keep(&mut self, key: &str, pair: &Pair) {
        self.raw.insert(key.to_owned(), pair.to_json());
        self.note(&pair.failures(), pair.ours.iter().chain(&pair.peer));
    }

    /// Tells of runs that failed or were disturbed.
    pub(crate) fn note<'b>(
        &mut self,
        failures: &[String],
        runs: impl IntoIterator<Item = &'b Outcome>,
    ) {
        for failure in failures {
            self.say(&format!("**Failed:** {failure}"));
        }
        self.failures.extend_from_slice(failures);
        let others = |run: &Outcome| run.as_ref().ok()?["others_cores"].as_f64();
        let others = runs.into_iter().filter_map(others).fold(0.0, f64::max);
        if let Some(warning) = disturbed(others) {
            self.say(&format!("**Warning:** {warning} at most."));
        }
    }
}
