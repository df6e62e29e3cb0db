//! `diptych runs`: what is in a folder of runs.

use super::Answer;
use super::table::aligned;
use anyhow::Result;
use diptych::recipe::{BUILT_IN, Recipe, differences};
use diptych::report::ranking::{self, By, Ranking};
use diptych::report::runs::{self, Details, Judged, Listing, Summary};
use diptych::report::{duration, measured, significant};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
#[command(after_help = "Examples:
  diptych runs list
  diptych runs best runs --metric linear/top1
  diptych runs show runs/a")]
pub(super) enum Command {
    /// Where each run of a folder stands and what it reached
    #[command(after_help = "Example:\n  diptych runs list runs --monitor knn/top1")]
    List {
        /// Holds the runs, directly or in folders
        #[arg(default_value = "runs")]
        folder: PathBuf,
        /// Which logged value to show [default: knn/top1, else the first accuracy logged]
        #[arg(long)]
        monitor: Option<String>,
    },
    /// The runs of a folder in the order of a number, best first
    #[command(after_help = "Examples:
  diptych runs best
  diptych runs best runs --metric linear-features/top1
  diptych runs best runs --metric train/loss --by last")]
    Best {
        /// Holds the runs, directly or in folders
        #[arg(default_value = "runs")]
        folder: PathBuf,
        /// A logged value, or a protocol and its metric
        #[arg(long, default_value = runs::MONITOR)]
        metric: String,
        /// What the number is [default: evaluation where a run has one, else last]
        #[arg(long, value_enum)]
        by: Option<ByWord>,
    },
    /// Everything about one run
    #[command(after_help = "Example:\n  diptych runs show runs/a")]
    Show {
        /// The run folder
        run: PathBuf,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum ByWord {
    /// The newest evaluation of the protocol
    Evaluation,
    /// The last value logged during the run
    Last,
    /// The best value logged during the run, which flatters
    Best,
}

pub(super) fn run(command: &Command) -> Result<Answer> {
    match command {
        Command::List { folder, monitor } => {
            let listing = runs::list(folder, monitor.as_deref())?;
            let json =
                json!({ "folder": folder, "runs": listing.runs, "damaged": listing.damaged });
            Ok(Answer { text: table(folder, &listing), json })
        }
        Command::Best { folder, metric, by } => {
            let by = by.map(|by| match by {
                ByWord::Evaluation => By::Evaluation,
                ByWord::Last => By::Last,
                ByWord::Best => By::Best,
            });
            let ranking = ranking::rank(folder, metric, by)?;
            Ok(Answer { text: order(&ranking), json: serde_json::to_value(&ranking)? })
        }
        Command::Show { run } => show(run),
    }
}

/// A number where there is one.
fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// A value with its unit, in characters that every terminal and `grep` knows.
fn value(metric: &str, value: f64) -> String {
    measured(metric, value).replace('\u{202f}', " ").replace('\u{2212}', "-")
}

fn state(run: &Summary) -> String {
    run.state.as_ref().map_or("never started".to_owned(), ToString::to_string)
}

fn epoch(run: &Summary) -> Option<String> {
    run.epoch.map(|epoch| format!("{epoch:.1}").trim_end_matches(".0").to_owned())
}

/// `44.13 to 46.08 %`.
fn interval(metric: &str, interval_95: Option<[f64; 2]>) -> Option<String> {
    let [low, high] = interval_95.map(|edges| edges.map(|edge| value(metric, edge)))?;
    Some(format!("{} to {high}", low.trim_end_matches(" %")))
}

/// `knn/top1 45.10 % (44.13 to 46.08)`.
fn judged(evaluation: &Judged) -> String {
    let metric = &evaluation.metric;
    let number = evaluation.value.map_or("not finite".to_owned(), |number| value(metric, number));
    let interval = interval(metric, evaluation.interval_95);
    let interval = interval.map_or(String::new(), |interval| format!(" ({interval})"));
    let stale = if evaluation.older_than_checkpoint { ", before the last checkpoint" } else { "" };
    format!("{}/{metric} {number}{interval}{stale}", evaluation.protocol)
}

fn table(folder: &Path, listing: &Listing) -> String {
    let mut names: Vec<&str> =
        listing.runs.iter().filter_map(|run| Some(run.monitor.as_ref()?.name.as_str())).collect();
    names.dedup();
    // One name for all stands in the header, several stand with their values.
    let (header, one) = if let [name] = names[..] { (name, true) } else { ("monitor", false) };
    let mut rows = vec![
        [
            "run",
            "state",
            "epoch",
            "loss",
            &format!("{header} last"),
            "best",
            "views/s",
            "evaluations",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for run in &listing.runs {
        let last = run.monitor.as_ref().map(|monitor| {
            let name = if one { String::new() } else { format!("{} ", monitor.name) };
            name + &value(&monitor.name, monitor.last.value)
        });
        let best = run.monitor.as_ref().map(|monitor| value(&monitor.name, monitor.best.value));
        let evaluations: Vec<String> = run.evaluations.iter().map(judged).collect();
        rows.push(vec![
            run.name.clone(),
            state(run),
            or_dash(epoch(run)),
            or_dash(run.loss.map(|loss| value("loss", loss))),
            or_dash(last),
            or_dash(best),
            or_dash(run.views_per_second.map(|rate| format!("{rate:.1}"))),
            if evaluations.is_empty() { "-".to_owned() } else { evaluations.join("; ") },
        ]);
    }
    let mut lines = vec![if listing.runs.is_empty() {
        format!("no runs in {}", folder.display())
    } else {
        aligned(&rows, &[2, 3, 4, 5, 6])
    }];
    let whole = listing.damaged.iter().map(|damaged| (&damaged.name, &damaged.reason));
    let parts = listing.runs.iter().flat_map(|run| run.notes.iter().map(|note| (&run.name, note)));
    lines.extend(whole.chain(parts).map(|(name, why)| format!("damaged: {name}: {why}")));
    lines.join("\n")
}

fn order(ranking: &Ranking) -> String {
    let what = match ranking.by {
        By::Evaluation => "the newest evaluation of each run",
        By::Last => "the last value logged during each run, no evaluation",
        By::Best => "the best value logged during each run, no evaluation",
    };
    let direction = if ranking.lower_is_better { "lowest" } else { "highest" };
    let mut rows = Vec::new();
    for (place, run) in ranking.ranked.iter().enumerate() {
        let interval = interval(&ranking.metric, run.interval_95);
        let step = run.step.map(|step| format!("step {step}"));
        rows.push(vec![
            format!("{}.", place + 1),
            run.name.clone(),
            value(&ranking.metric, run.value),
            interval.map_or(String::new(), |interval| format!("95 %: {interval}")),
            run.state.as_ref().map_or("never started".to_owned(), ToString::to_string),
            run.file.clone().or(step).unwrap_or_default(),
        ]);
    }
    let mut lines =
        vec![format!("{}: {what}; {direction} first", ranking.metric), aligned(&rows, &[0, 2])];
    lines.extend(ranking.notes.iter().map(|note| format!("note: {note}")));
    if !ranking.left_out.is_empty() {
        lines.push(format!("without this number: {}", ranking.left_out.join(", ")));
    }
    lines.join("\n")
}

fn show(run: &Path) -> Result<Answer> {
    let details = runs::details(run)?;
    let changed = against_built_in(run, &details);
    let mut json = serde_json::to_value(&details)?;
    json["built_in_recipe"] = changed.as_ref().map(|(name, _)| *name).into();
    json["settings_that_differ"] = changed.as_ref().map(|(_, lines)| lines.clone()).into();
    Ok(Answer { text: describe(&details, changed), json })
}

/// The built-in recipe a run was started from, by its command line, and the settings in which the run differs from it.
fn against_built_in(run: &Path, details: &Details) -> Option<(&'static str, Vec<String>)> {
    let (name, text) =
        BUILT_IN.iter().find(|(name, _)| details.command.iter().any(|w| w == name))?;
    let own = std::fs::read_to_string(run.join("recipe.toml")).ok()?;
    let own = Recipe::parse(&own, name, &[]).ok()?;
    let mut built_in = Recipe::parse(text, name, &[]).ok()?;
    // What a recipe leaves to the machine is no difference.
    built_in.inherit(&own);
    if built_in.data.threads == 0 {
        built_in.data.threads = own.data.threads;
    }
    let found = differences(&built_in, &own);
    Some((name, [found.what, found.how].concat()))
}

fn describe(details: &Details, changed: Option<(&str, Vec<String>)>) -> String {
    let run = &details.summary;
    let progress = match (run.step, run.steps) {
        (Some(step), Some(steps)) => format!(", step {step} of {steps}"),
        _ => String::new(),
    };
    let mut lines = vec![format!("{}: {}{progress}", run.name, state(run))];
    let mut row = |label: &str, text: Option<String>| {
        lines.extend(text.map(|text| format!("{label:<14}{text}")));
    };
    row("epoch", epoch(run));
    row("loss", run.loss.map(|loss| value("loss", loss)));
    row(
        "monitor",
        run.monitor.as_ref().map(|monitor| {
            let show = |number| value(&monitor.name, number);
            let (last, best) = (&monitor.last, &monitor.best);
            format!(
                "{} {} at step {}, best {} at step {}",
                monitor.name,
                show(last.value),
                last.step,
                show(best.value),
                best.step
            )
        }),
    );
    row("views/s", run.views_per_second.map(|rate| format!("{rate:.1}")));
    row("wall time", run.wall_seconds.map(duration));
    row(
        "peak memory",
        run.peak_memory_mb.map(|mb| format!("{} MB", significant(mb).replace(',', ""))),
    );
    row("command", (!details.command.is_empty()).then(|| details.command.join(" ")));
    let mut block = |title: &str, entries: Vec<String>| {
        if !entries.is_empty() {
            lines.push(format!("{title}\n  {}", entries.join("\n  ")));
        }
    };
    if let Some((name, changed)) = changed {
        let none = changed.is_empty().then(|| "nothing".to_owned());
        block(&format!("differs from {name} in"), changed.into_iter().chain(none).collect());
    }
    block(
        "evaluations",
        run.evaluations.iter().map(|e| format!("{}  {}", judged(e), e.file)).collect(),
    );
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / f64::from(1 << 20));
    let files =
        details.checkpoints.iter().map(|file| vec![file.name.clone(), megabytes(file.bytes)]);
    let files: Vec<Vec<String>> = files.collect();
    block("checkpoints", aligned(&files, &[1]).lines().map(str::to_owned).collect());
    let event = |event: &diptych::report::Event| {
        let name = if event.name.is_empty() { String::new() } else { format!("{}: ", event.name) };
        format!("step {}: {name}{}", event.step, event.text)
    };
    block("warnings", details.warnings.iter().map(event).collect());
    block("history", details.history.iter().map(event).collect());
    block("warnings in log.txt", details.log_warnings.clone());
    block("images that could not be read", details.damaged_images.clone());
    block("parts that could not be read", run.notes.clone());
    lines.join("\n")
}
