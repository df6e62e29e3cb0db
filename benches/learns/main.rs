//! Whether every method learns, and what the plug-ins add: short runs at small width, judged by k-NN beside the untrained
//! network.
//!
//! `cargo bench --locked --profile release --bench learns -- [WORD...]`, or `make learns`. What is run is in `runs.toml`. It
//! can be stopped at any time: the same command goes on where it was, and writes `results/learns.md` and `results/learns.json`
//! of what is there after every run. What `learns.json` holds of the same settings counts as done, on whatever machine it ran.

mod table;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
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
    /// Data sets it is run on.
    data: Vec<String>,
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
    processor: String,
}

/// What is done already: in the folders of this machine, and in the results.
struct Known {
    runs: PathBuf,
    earlier: Vec<(String, String, Found)>,
}

impl Known {
    /// What the run of a seed came to, if it was of the same settings.
    fn found(&self, data: &Data, row: &Row, seed: u64) -> Option<Found> {
        let settings = row.all_settings(data, seed);
        let same = |found: &Found| found.recipe == row.recipe && found.settings == settings;
        let file = row.place(data, &self.runs, seed).with_extension("json");
        let here = std::fs::read_to_string(file).ok();
        let here = here.and_then(|text| serde_json::from_str(&text).ok()).filter(same);
        here.or_else(|| {
            let of = |(place, name, found): &&(String, String, Found)| {
                *place == data.name && *name == row.name && same(found)
            };
            self.earlier.iter().find(of).map(|(_, _, found)| found.clone())
        })
    }
}

/// Whether every method learns: short runs, judged beside the untrained network
#[derive(Parser)]
#[command(
    bin_name = "cargo bench --locked --profile release --bench learns --",
    after_help = "Environment:
  CIFAR10  folder of CIFAR-10; without it those lines are left out"
)]
struct Arguments {
    /// Only lines that have all of these words in their name or as their data
    words: Vec<String>,
    /// What is run, in place of the built-in `runs.toml`
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Where runs are kept
    #[arg(long, default_value = "runs/learns")]
    runs: PathBuf,
    /// Where the table goes
    #[arg(long, default_value = "results")]
    out: PathBuf,
    /// Minutes after which no further run is started
    #[arg(long, default_value_t = 120.0)]
    minutes: f64,
    /// Runs at a time, each on one core
    #[arg(long, default_value_t = diptych::machine::cores())]
    jobs: usize,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // `cargo bench` starts in the package's folder.
    let text = match &arguments.plan {
        Some(file) => std::fs::read_to_string(file).with_context(|| file.display().to_string())?,
        None => include_str!("runs.toml").to_owned(),
    };
    let plan: Plan = toml::from_str(&text).context("what is to be run")?;
    std::fs::create_dir_all(&arguments.runs)?;
    std::fs::create_dir_all(&arguments.out)?;
    let started = Instant::now();
    let runs = plan.pairs().filter(|(data, row)| arguments.wants(data, row));
    let mut runs: Vec<_> =
        runs.flat_map(|(data, row)| (0..row.seeds).map(move |seed| (data, row, seed))).collect();
    // One seed of every line says most.
    runs.sort_by_key(|(_, _, seed)| *seed);
    let known = Known { runs: arguments.runs.clone(), earlier: table::read(&arguments.out)? };
    let (next, missing) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((data, row, seed)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let over = started.elapsed().as_secs_f64() > 60.0 * arguments.minutes;
            let outcome = match source(data) {
                _ if known.found(data, row, *seed).is_some() => continue,
                None => Err(anyhow!("the environment's CIFAR10 does not name a folder")),
                Some(_) if over => Err(anyhow!("the time was over")),
                Some(source) => run(&arguments, data, row, *seed, &source),
            };
            let mut missing = missing.lock().unwrap_or_else(PoisonError::into_inner);
            let written = table::write(&plan, &known, &arguments.out);
            if let Err(error) = outcome.and(written) {
                let what = format!("{} on {}, seed {seed}: {error:#}", row.name, data.name);
                eprintln!("  {what}");
                missing.push(what);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(work);
        }
    });
    let missing = missing.into_inner().unwrap_or_else(PoisonError::into_inner);
    table::write(&plan, &known, &arguments.out)?;
    println!("{}", std::fs::read_to_string(arguments.out.join("learns.md"))?);
    if !missing.is_empty() {
        bail!("not whole:\n  {}", missing.join("\n  "));
    }
    Ok(())
}

impl Arguments {
    fn wants(&self, data: &Data, row: &Row) -> bool {
        let holds = |word: &String| row.name.contains(word.as_str()) || data.name == *word;
        self.words.is_empty() || self.words.iter().all(holds)
    }
}

impl Plan {
    /// Every line on every data set it is run on, data set by data set.
    fn pairs(&self) -> impl Iterator<Item = (&Data, &Row)> {
        self.data.iter().flat_map(|data| self.of(data).map(move |row| (data, row)))
    }

    /// The lines of a data set.
    fn of<'a>(&'a self, data: &'a Data) -> impl Iterator<Item = &'a Row> {
        self.row.iter().filter(|row| row.data.contains(&data.name))
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
        // One core each: two small networks beside each other are done before the same two in turns on both cores.
        let mut settings = vec!["train.threads=1".to_owned(), "data.threads=1".to_owned()];
        settings.extend(data.settings.iter().cloned());
        settings.extend(self.settings.iter().cloned());
        settings.push(format!("seed={seed}"));
        settings
    }

    /// Where the run of a seed and what it came to lie.
    fn place(&self, data: &Data, runs: &Path, seed: u64) -> PathBuf {
        runs.join(format!("{}-{}-seed-{seed}", data.name, self.name.replace(' ', "-")))
    }
}

/// Trains and judges one seed of a row, unless that is done.
fn run(arguments: &Arguments, data: &Data, row: &Row, seed: u64, source: &str) -> Result<()> {
    let runs = &arguments.runs;
    let (place, settings) = (row.place(data, runs, seed), row.all_settings(data, seed));
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
    command
        .args(["--data", source])
        .args(data.settings.iter().filter(|s| s.starts_with("data.limit")));
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
        interval: json!(
            judged["interval_95"]
                .as_array()
                .map(|ends| ends.iter().map(percent).collect::<Vec<_>>())
        ),
        untrained: baseline("untrained").with_context(missing)?,
        pixels: baseline("pixels").with_context(missing)?,
        loss: trained["final_loss"].as_f64(),
        views_per_second: trained["views_per_second"].as_f64(),
        seconds: started.elapsed().as_secs_f64(),
        warnings: warnings
            .map(|warning| {
                format!(
                    "{}: {}",
                    warning["name"].as_str().unwrap_or("?"),
                    warning["text"].as_str().unwrap_or("?")
                )
            })
            .collect(),
        revision: diptych::machine::REVISION.to_owned(),
        processor: diptych::machine::processor().unwrap_or_else(|| "unknown processor".to_owned()),
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
        let error =
            errors.lines().rfind(|line| line.starts_with("error")).unwrap_or("no error told");
        bail!("{}: {error}", output.status);
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
