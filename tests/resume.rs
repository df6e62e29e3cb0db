//! A run that is killed, stopped, starved of disk or given other threads ends with the same bits.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use diptych::error::{Error, Result};
use diptych::experiment::{Experiment, Plan};
use diptych::method::Method;
use diptych::random::{Purpose, Scope, Stream};
use diptych::recipe::Recipe;
use diptych::train::probe::Probe;
use diptych::train::run::RunFolder;
use diptych::train::stop::Stop;
use diptych::train::{Observer, Progress};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const STEPS: u64 = 500;

/// A run of many tiny steps with a checkpoint after each, so that kills often fall into a checkpoint write.
fn arguments(out: &Path, threads: u64) -> Vec<String> {
    let fixed = [
        "pretrain",
        "scenes/simclr",
        "--data=synthetic:scenes?train=64&test=24",
        "backbone.width=0.0625",
        "backbone.norm_group=4",
        "data.batch_size=8",
        "data.micro_batch_size=4",
        "view.0.steps.0.size_px=16",
        "train.schedule.warmup_epochs=1",
        "train.threads=1",
        "train.knn.every_epochs=0",
        "train.checkpoint_every_steps=1",
    ];
    let mut arguments: Vec<String> = fixed.iter().map(|text| (*text).to_owned()).collect();
    arguments.push(format!("train.max_steps={STEPS}"));
    arguments.push(format!("data.threads={threads}"));
    arguments.push(format!("--out={}", out.display()));
    arguments
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diptych"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn finish(out: &Path, threads: u64) -> Output {
    let output = program().args(arguments(out, threads)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn last(out: &Path) -> Vec<u8> {
    fs::read(out.join("checkpoints/last.safetensors")).unwrap()
}

fn send(child: &std::process::Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Waits until the run has written its first checkpoint after `before`, or the time is up.
fn wait_for_progress(out: &Path, before: Option<&[u8]>) {
    let started = Instant::now();
    let path = out.join("checkpoints/last.safetensors");
    while started.elapsed() < Duration::from_mins(1) {
        if fs::read(&path).ok().as_deref() != before {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn killed_at_twenty_moments_or_stopped_politely_it_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    finish(&whole, 1);

    let killed = folder.path().join("killed");
    let mut stream = Stream::open(20, Purpose::Test, Scope::Item(0));
    let mut kills = 0;
    for life in 0..20 {
        let before = fs::read(killed.join("checkpoints/last.safetensors")).ok();
        let mut child = program().args(arguments(&killed, 1 + life % 3)).spawn().unwrap();
        // Every fifth dies while it starts, the others somewhere in their steps.
        if life % 5 != 4 {
            wait_for_progress(&killed, before.as_deref());
        }
        std::thread::sleep(Duration::from_micros(stream.below(60_000)));
        if child.try_wait().unwrap().is_none() {
            kills += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(kills, 20, "the run ended before it could be killed: give it more steps");

    // A polite stop in between: exit 75, and the next life goes on.
    let before = fs::read(killed.join("checkpoints/last.safetensors")).ok();
    let child = program().args(arguments(&killed, 2)).spawn().unwrap();
    wait_for_progress(&killed, before.as_deref());
    // A closed terminal is no reason to stop.
    send(&child, rustix::process::Signal::HUP);
    send(&child, rustix::process::Signal::TERM);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(75), "{text}");
    assert!(text.contains("the same command goes on"), "{text}");

    finish(&killed, 2);
    assert!(last(&whole) == last(&killed), "the last checkpoint differs");
    let metrics = |out: &Path| -> Vec<String> {
        let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let loss = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            format!("{} {}", value["step"], value["train/loss"])
        };
        text.lines().map(loss).collect()
    };
    assert_eq!(metrics(&whole), metrics(&killed), "every line of metrics is there once");
}

/// Judges at the end of each epoch, or fails there, when the checkpoint is on disk, as if the process had died.
struct Monitor {
    dies: bool,
}

impl Observer for Monitor {
    fn epoch(
        &mut self,
        progress: &Progress,
        _: &dyn Method,
        _: Option<&Probe>,
    ) -> Result<Vec<(String, f64)>> {
        if self.dies {
            return Err(Error::Run("killed".to_owned()));
        }
        Ok(vec![("knn/top1".to_owned(), progress.step as f64)])
    }
}

#[test]
fn an_epoch_that_was_not_ended_is_ended_by_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let source = diptych::data::open("synthetic:scenes?train=32&test=8").unwrap();
    let changes = [
        "backbone.width=0.0625",
        "data.batch_size=8",
        "data.threads=1",
        "train.threads=1",
        "train.device=cpu",
        "train.epochs=2",
        "train.log_every_steps=2",
        "train.keep_every_epochs=1",
        "train.gradients.enabled=true",
        "view.0.steps.0.size_px=16",
    ];
    let mut recipe = Recipe::load("scenes/simclr", &changes.map(str::to_owned)).unwrap();
    recipe.resolve().unwrap();
    let plan = Plan::new(&recipe, &source).unwrap();
    tch::set_num_threads(1);
    let train = |out: &Path, dies: bool| {
        let run = RunFolder::open(out).unwrap();
        let (recipe, source, plan) = (&recipe, &source, &plan);
        let experiment = Experiment { recipe, source, plan, folder: &run, profile: None };
        experiment.train(&Stop::new(), &mut |_| (), &mut [&mut Monitor { dies }]).map(drop)
    };
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    train(&whole, false).unwrap();
    // Killed twice at the end of the first epoch; then the second is lost in the same way.
    for _ in 0..2 {
        assert!(train(&killed, true).unwrap_err().to_string().contains("killed"));
        let metrics = fs::read_to_string(killed.join("metrics.jsonl")).unwrap();
        assert_eq!(metrics.lines().count(), 1, "step 2, and not yet step 4");
    }
    train(&killed, false).unwrap();
    let lines = |out: &Path| -> Vec<serde_json::Map<String, serde_json::Value>> {
        let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let without_times = |line: &str| {
            let mut line: serde_json::Map<_, _> = serde_json::from_str(line).unwrap();
            line.retain(|name, _| !["wall_seconds", "train/views_per_second"].contains(&&**name));
            line
        };
        text.lines().map(without_times).collect()
    };
    assert_eq!(lines(&whole), lines(&killed));
    assert_eq!(lines(&killed)[1]["knn/top1"], 4.0);
    for file in [
        "gradients.jsonl",
        "checkpoints/epoch-0001.safetensors",
        "checkpoints/epoch-0002.safetensors",
        "checkpoints/last.safetensors",
    ] {
        let read = |out: &Path| fs::read(out.join(file)).unwrap();
        assert!(read(&whole) == read(&killed), "{file}");
    }
    // A run that is at its end is at its end.
    train(&killed, false).unwrap();
    assert_eq!(lines(&whole), lines(&killed));
}

#[test]
fn a_full_disk_leaves_the_last_checkpoint_whole() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let child = program().args(arguments(&out, 1)).spawn().unwrap();
    wait_for_progress(&out, None);
    send(&child, rustix::process::Signal::INT);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(75));
    let before = last(&out);
    let blocks = before.len() / 2048; // half a checkpoint, in the shell's unit of 1,024 bytes
    let limited = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let output = Command::new("bash")
        .args(["-c", &limited, env!("CARGO_BIN_EXE_diptych")])
        .args(arguments(&out, 1))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot write") && text.contains("last.safetensors"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    assert!(before == last(&out));
    let left: Vec<_> = fs::read_dir(out.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?} fill the disk");
}

#[test]
fn two_processes_do_not_share_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut first = program().args(arguments(&out, 1)).spawn().unwrap();
    wait_for_progress(&out, None);
    let second = program().args(arguments(&out, 1)).output().unwrap();
    let text = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{text}");
    assert!(text.contains("another process is working"), "{text}");
    first.kill().unwrap();
    first.wait().unwrap();
}
