//! `diptych pretrain`: from a recipe and a data source to a trained, resumable, reported run.

use super::attempt::attempt;
use super::memory::{again, again_after_crash, with_less_memory};
use super::monitor::open_subset;
use super::plan::describe;
use super::{Answer, profile, tell};
use anyhow::Result;
use diptych::data::Source;
use diptych::error::Error;
use diptych::experiment::{Experiment, Plan, changes, earlier_recipe};
use diptych::machine;
use diptych::recipe::Recipe;
use diptych::report;
use diptych::train::profile::{Profile, Summary, flops_per_step};
use diptych::train::run::{RunFolder, Status, read_status};
use diptych::train::stop::Stop;
use serde_json::json;
use std::path::{Path, PathBuf};
use tch::Device;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  diptych pretrain cifar10/simclr --data cifar10/ --out runs/a train.epochs=4 backbone.width=0.25
  diptych pretrain folder/simclr --data photos/ --out runs/photos --dry-run

Running the same command again goes on where the run stopped.")]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(super) struct Arguments {
    /// A recipe file or a built-in name (`diptych recipes list`)
    recipe: String,
    /// Settings to change, `key=value`
    overrides: Vec<String>,
    /// What to train on: an image folder, `synthetic:NAME`, or anything else that `diptych data show` takes
    #[arg(long)]
    data: Option<String>,
    /// The run folder [default: runs/ and the recipe's name]
    #[arg(long, overrides_with = "out")]
    out: Option<PathBuf>,
    /// Print the plan (steps, learning rates, memory) and stop
    #[arg(long)]
    dry_run: bool,
    /// Start again; an earlier run in the folder is kept under another name
    #[arg(long, conflicts_with = "extend")]
    fresh: bool,
    /// Let a run go on for more epochs or steps than it was started with
    #[arg(long)]
    extend: bool,
    /// Tell where the time and the memory of a step went: a table at the end, and profile.json in the run folder
    #[arg(long)]
    profile: bool,
    /// Internal, see `memory.rs`
    #[arg(long, hide = true, overrides_with = "trial")]
    trial: bool,
    /// Internal, see `memory.rs`
    #[arg(long, hide = true)]
    less_memory: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let mut recipe = Recipe::load(&arguments.recipe, &arguments.overrides)?;
    if arguments.data.is_some() {
        recipe.data.source.clone_from(&arguments.data);
    }
    let out = arguments.out.clone().unwrap_or_else(|| {
        let name = arguments.recipe.trim_end_matches(".toml").replace(['/', '\\'], "-");
        Path::new("runs").join(name)
    });
    let earlier = if arguments.fresh { None } else { earlier_recipe(&out)? };
    if let Some(earlier) = &earlier {
        recipe.inherit(earlier);
    }
    recipe.resolve()?;
    let location = recipe.data.source.clone().ok_or_else(|| {
        Error::Recipe(
            "no data: name it with --data, `--data synthetic:scenes` for a start".to_owned(),
        )
    })?;
    let source = open_subset(&location, recipe.data.subset.as_ref(), &recipe.data.classes)?;
    let mut plan = Plan::new(&recipe, &source)?;
    if let Some(text) = &arguments.less_memory {
        with_less_memory(text, &mut recipe, plan.layout.clone(), &out)?;
        plan = Plan::new(&recipe, &source)?;
    }
    if arguments.dry_run {
        return Ok(describe(&plan, &recipe));
    }
    if arguments.fresh && out.exists() {
        set_aside(&out)?;
    }
    let changes =
        earlier.map(|earlier| compare(&out, &earlier, &recipe, (&source, &plan), arguments.extend));
    let changes = changes.transpose()?;
    let unchanged = changes.as_ref().is_some_and(Vec::is_empty);
    if unchanged && let Some(status) = read_status(&out).filter(|status| status.state == "finished")
    {
        return Ok(answer(&out, &status, None, "already finished, nothing to do"));
    }
    train_run(&recipe, &source, &plan, &out, &changes.unwrap_or_default(), arguments)
}

fn train_run(
    recipe: &Recipe,
    source: &Source,
    plan: &Plan,
    out: &Path,
    changes: &[String],
    arguments: &Arguments,
) -> Result<Answer> {
    let trial = arguments.trial;
    let folder = RunFolder::open(out)?;
    let stop = Stop::on_signals()?;
    if read_status(out).is_some_and(|status| status.state == "running") {
        let text = "the last process of this run ended without a word: killed, or the machine went down; if the kernel \
                    killed it for want of memory (`dmesg` says so), set a smaller `data.micro_batch_size`";
        tell(&format!("warning: {text}"));
        folder.log(text)?;
    }
    tch::set_num_threads(recipe.train.threads as i32);
    if plan.layout.device == Device::Cpu {
        machine::limit_memory();
    }
    if !trial {
        again_after_crash();
    }
    for change in changes {
        tell(&format!("changed: {change}"));
        folder.log(&format!("changed: {change}"))?;
    }
    // A trial is shorter than the warm-up of a profile.
    let profile = (arguments.profile && !trial).then(|| {
        let settings = recipe.method.settings();
        let wiring = settings.wiring(&recipe.plugins, plan.layout.views.len());
        let work = flops_per_step(&recipe.backbone, settings.frozen(), &wiring, &plan.layout);
        Profile::new(&plan.layout, work)
    });
    let experiment =
        Experiment { recipe, source, plan, folder: &folder, profile: profile.as_ref() };
    let outcome = attempt(&experiment, &stop);
    let profile = match &outcome {
        Ok(_) | Err(Error::Interrupted(_)) => profile.and_then(|profile| profile.summary()),
        Err(_) => None,
    };
    if let Some(profile) = &profile {
        folder.write("profile.json", &format!("{:#}", json!(profile)))?;
        tell(&profile::text(profile));
    }
    let status = outcome.map_err(|error| {
        // Where the disk is full these fail too; the error at hand says more.
        let _ = match &error {
            Error::Interrupted(text) => folder.log(text),
            other => folder.log(&format!("stopped: {other}")),
        };
        let _ = report::write(folder.path());
        match error {
            Error::OutOfMemory(text) if !trial => again(&text),
            other => other,
        }
    })?;
    folder.log("finished")?;
    report::write(folder.path())?;
    Ok(answer(out, &status, profile.as_ref(), "finished"))
}

fn answer(out: &Path, status: &Status, profile: Option<&Summary>, state: &str) -> Answer {
    let page = out.join("report.html");
    let number = |value: Option<f64>, digits: usize| {
        value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let mut notes: Vec<String> =
        status.history.iter().map(|e| format!("\nnote: {}", e.text)).collect();
    if status.left_out > 0 {
        notes.push(format!("\nnote: {} of {} steps were left out", status.left_out, status.step));
    }
    let text = format!(
        "{}: {state}{}\nloss {}, {} views/s, {:.0} s, peak memory {} MB\n{}",
        out.display(),
        notes.concat(),
        number(status.final_loss, 4),
        number(status.views_per_second, 1),
        status.wall_seconds,
        status.peak_memory_mb,
        page.display()
    );
    let mut json = json!({
        "run": out,
        "state": status.state,
        "steps": status.step,
        "epochs": status.epoch,
        "final_loss": status.final_loss,
        "views_per_second": status.views_per_second,
        "wall_seconds": status.wall_seconds,
        "peak_memory_mb": status.peak_memory_mb,
        "damaged": status.damaged.len(),
        "left_out": status.left_out,
        "history": status.history,
        "warnings": status.warnings,
        "report": page,
    });
    if let Some(profile) = profile {
        json["profile"] = json!(profile);
    }
    Answer { text, json }
}

/// Steps that an earlier run was to have, or has taken.
fn earlier_steps(out: &Path, earlier: &Recipe, plan: &Plan) -> u64 {
    let planned = u64::from(earlier.train.epochs) * plan.order.steps_per_epoch();
    let taken = read_status(out).map_or(0, |status| status.step);
    earlier.train.max_steps.unwrap_or(planned).max(taken)
}

/// What changed since the run was started, for the log; an error when it is what is computed.
fn compare(
    out: &Path,
    earlier: &Recipe,
    recipe: &Recipe,
    (source, plan): (&Source, &Plan),
    extend: bool,
) -> Result<Vec<String>> {
    let then = earlier_steps(out, earlier, plan);
    if extend && plan.steps < then {
        return Err(Error::Recipe(format!(
            "`--extend` lets a run go on for longer, and this recipe is shorter, {} steps in place of {then}; --fresh starts \
             again",
            plan.steps
        ))
        .into());
    }
    let mut found = changes(out, earlier, recipe, source);
    let longer = |line: &String| {
        ["train.epochs:", "train.max_steps:"].iter().any(|key| line.starts_with(key))
    };
    if extend {
        let (longer, other) = found.what.into_iter().partition(longer);
        (found.what, found.how) = (other, [found.how, longer].concat());
    }
    if !found.what.is_empty() {
        let way = if found.what.iter().all(longer) { "--extend to make it longer, " } else { "" };
        return Err(Error::Recipe(format!(
            "run folder `{}` holds a run that computes something else; use {way}another --out, or --fresh to start again \
             (the old run is kept):\n  {}",
            out.display(),
            found.what.join("\n  ")
        ))
        .into());
    }
    let bits = if found.bits_match { "same bits" } else { "other last bits from here on" };
    Ok(found.how.iter().map(|line| format!("{line} ({bits})")).collect())
}

/// Moves an earlier run out of the way, under the first free name.
fn set_aside(out: &Path) -> Result<()> {
    // Nobody may be working in it.
    drop(RunFolder::open(out)?);
    let name = |n: u32| {
        let mut name = out.as_os_str().to_owned();
        name.push(format!(".old-{n}"));
        PathBuf::from(name)
    };
    let mut number = 1;
    while name(number).exists() {
        number += 1;
    }
    let free = name(number);
    std::fs::rename(out, &free).map_err(Error::io("rename", out))?;
    tell(&format!("the earlier run is now {}", free.display()));
    Ok(())
}
