//! Whether every method learns, and what the plug-ins add: short runs at small width, judged by k-NN beside the untrained
//! network.
//!
//! `cargo bench --locked --profile release --bench learns -- [WORD...]`, or `make learns`. What is run is in `runs.toml`. It
//! can be stopped at any time: the same command goes on where it was, and writes `results/learns.md` and `results/learns.json`
//! of what is there after every run.

mod table;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What is run: `runs.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    data: Vec<Data>,
    row: Vec<Row>,
}

/// Pictures, and what all runs on them have in common.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    name: String,
    title: String,
    /// `synthetic:…`; otherwise the environment names it.
    source: Option<String>,
    settings: Vec<String>,
}

/// A line of the table: a recipe on a data set, with changes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    data: String,
    recipe: String,
    #[serde(default)]
    settings: Vec<String>,
    /// Runs with seeds 0, 1, …
    seeds: u64,
    /// The line that this one is compared with.
    #[serde(default)]
    above: Option<String>,
    /// What the run is there to show, if it is not that the method learns.
    #[serde(default)]
    shows: Option<String>,
}

/// What a run came to; kept beside its folder.
#[derive(Clone, Serialize, Deserialize)]
struct Found {
    recipe: String,
    settings: Vec<String>,
    seed: u64,
    knn: f64,
    interval: Value,
    untrained: f64,
    pixels: f64,
    loss: Option<f64>,
    views_per_second: Option<f64>,
    seconds: f64,
    warnings: Vec<String>,
    revision: String,
}

/// Whether every method learns: short runs, judged beside the untrained network
#[derive(Parser)]
#[command(
    bin_name = "cargo bench --locked --profile release --bench learns --",
    after_help = "Environment:
  CIFAR10  folder of CIFAR-10; without it those lines are left out"
)]
struct Arguments {
    /// Only lines whose data or name holds one of these words
    words: Vec<String>,
    /// Where runs are kept
    #[arg(long, default_value = "runs/learns")]
    runs: PathBuf,
    /// Where the table goes
    #[arg(long, default_value = "results")]
    out: PathBuf,
    /// Minutes after which no further run is started
    #[arg(long, default_value_t = 120.0)]
    minutes: f64,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // `cargo bench` starts in the package's folder.
    let plan: Plan = toml::from_str(include_str!("runs.toml")).context("runs.toml")?;
    std::fs::create_dir_all(&arguments.runs)?;
    std::fs::create_dir_all(&arguments.out)?;
    let started = Instant::now();
    let mut missing = Vec::new();
    for row in plan.row.iter().filter(|row| arguments.wants(row)) {
        let data = plan.data_of(row)?;
        let Some(source) = source(data) else {
            missing.push(format!("{}: `CIFAR10` does not name a folder", row.name));
            continue;
        };
        for seed in 0..row.seeds {
            if started.elapsed().as_secs_f64() > 60.0 * arguments.minutes {
                missing.push(format!("{}, seed {seed}: the time was over", row.name));
                continue;
            }
            match run(&arguments, data, row, seed, &source) {
                Ok(()) => table::write(&plan, &arguments.runs, &arguments.out)?,
                Err(error) => {
                    eprintln!("  {} on {}, seed {seed}: {error:#}", row.name, data.name);
                    missing.push(format!("{}, seed {seed}: {error:#}", row.name));
                }
            }
        }
    }
    table::write(&plan, &arguments.runs, &arguments.out)?;
    println!("{}", std::fs::read_to_string(arguments.out.join("learns.md"))?);
    if !missing.is_empty() {
        bail!("not whole:\n  {}", missing.join("\n  "));
    }
    Ok(())
}

impl Arguments {
    fn wants(&self, row: &Row) -> bool {
        let holds = |word: &String| row.name.contains(word.as_str()) || row.data == *word;
        self.words.is_empty() || self.words.iter().any(holds)
    }
}

impl Plan {
    fn data_of(&self, row: &Row) -> Result<&Data> {
        let found = self.data.iter().find(|data| data.name == row.data);
        found.with_context(|| format!("runs.toml has no data `{}`", row.data))
    }
}

fn source(data: &Data) -> Option<String> {
    match &data.source {
        Some(source) => Some(source.clone()),
        None => std::env::var("CIFAR10").ok().filter(|folder| !folder.is_empty()),
    }
}

impl Row {
    /// All that is set beside the recipe.
    fn all_settings(&self, data: &Data, seed: u64) -> Vec<String> {
        let mut settings = data.settings.clone();
        settings.extend(self.settings.iter().cloned());
        settings.push(format!("seed={seed}"));
        settings
    }

    /// Where the run of a seed and what it came to lie.
    fn place(&self, runs: &Path, seed: u64) -> PathBuf {
        runs.join(format!("{}-{}-seed-{seed}", self.data, self.name.replace(' ', "-")))
    }

    /// What the run of a seed came to, if it was of the same settings.
    fn found(&self, data: &Data, runs: &Path, seed: u64) -> Option<Found> {
        let text = std::fs::read_to_string(self.place(runs, seed).with_extension("json")).ok()?;
        let found: Found = serde_json::from_str(&text).ok()?;
        let same = found.recipe == self.recipe && found.settings == self.all_settings(data, seed);
        same.then_some(found)
    }
}

/// Trains and judges one seed of a row, unless that is done.
fn run(arguments: &Arguments, data: &Data, row: &Row, seed: u64, source: &str) -> Result<()> {
    let runs = &arguments.runs;
    if row.found(data, runs, seed).is_some() {
        return Ok(());
    }
    let (place, settings) = (row.place(runs, seed), row.all_settings(data, seed));
    let started = Instant::now();
    let pretrain = |fresh: bool| {
        let mut command = diptych();
        command.args(["pretrain", &row.recipe, "--data", source, "--json", "--out"]).arg(&place);
        command.args(fresh.then_some("--fresh")).args(&settings);
        answer(command)
    };
    // A run of other settings in its place gives way.
    let trained = pretrain(false).or_else(|_| pretrain(true))?;
    let mut command = diptych();
    command.args(["evaluate", "knn", "--baselines", "--json"]).arg(&place);
    command.args(["--data", source]).args(data.settings.iter().filter(|s| s.starts_with("data.limit")));
    let judged = answer(command)?;
    let percent = |value: &Value| value.as_f64().map(|share| 100.0 * share);
    let missing = || format!("an answer without a value: {judged}");
    let baseline = |name: &str| percent(&judged["baselines"][name]["value"]);
    let warnings = trained["warnings"].as_array().into_iter().flatten();
    let found = Found {
        recipe: row.recipe.clone(),
        settings,
        seed,
        knn: percent(&judged["value"]).with_context(missing)?,
        interval: json!(judged["interval_95"].as_array().map(|ends| ends.iter().map(percent).collect::<Vec<_>>())),
        untrained: baseline("untrained").with_context(missing)?,
        pixels: baseline("pixels").with_context(missing)?,
        loss: trained["final_loss"].as_f64(),
        views_per_second: trained["views_per_second"].as_f64(),
        seconds: started.elapsed().as_secs_f64(),
        warnings: warnings.map(|warning| format!("{}: {}", warning["name"].as_str().unwrap_or("?"), warning["text"].as_str().unwrap_or("?"))).collect(),
        revision: diptych::machine::REVISION.to_owned(),
    };
    eprintln!(
        "  {} on {}, seed {seed}: {:.2} % (untrained {:.2} %), {:.0} s",
        row.name, data.name, found.knn, found.untrained, found.seconds
    );
    let text = serde_json::to_string_pretty(&found)?;
    diptych::files::replace_text(&place.with_extension("json"), &text)?;
    Ok(())
}

fn diptych() -> Command {
    Command::new(env!("CARGO_BIN_EXE_diptych"))
}

/// The JSON object that a program prints.
fn answer(mut command: Command) -> Result<Value> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let error = errors.lines().rfind(|line| line.starts_with("error")).unwrap_or("no error told");
        bail!("{}: {error}", output.status);
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Rows by data set, in the order of the plan.
fn by_data(plan: &Plan) -> BTreeMap<usize, Vec<&Row>> {
    let mut rows: BTreeMap<usize, Vec<&Row>> = BTreeMap::new();
    for row in &plan.row {
        if let Some(at) = plan.data.iter().position(|data| data.name == row.data) {
            rows.entry(at).or_default().push(row);
        }
    }
    rows
}
