//! What users type to look at their runs and their machine, and what they are told.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use assert_cmd::Command;
use diptych::train::run::{RunFolder, Status};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

fn diptych(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("diptych").unwrap();
    command.current_dir(folder).args(arguments);
    command
}

/// Standard output of a command that must succeed.
fn text(folder: &Path, arguments: &[&str]) -> String {
    let output = diptych(folder, arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The one object that `--json` prints.
fn json(folder: &Path, arguments: &[&str]) -> Value {
    let printed = text(folder, &[arguments, &["--json"]].concat());
    assert_eq!(printed.lines().count(), 1, "exactly one object on one line");
    serde_json::from_str(&printed).unwrap()
}

/// Exit code and message of a command that must fail.
fn failure(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = diptych(folder, arguments).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Trains for two epochs of three steps, into `runs/<name>`.
fn train(folder: &Path, name: &str, more: &[&str]) {
    let out = format!("runs/{name}");
    let mut arguments = vec!["pretrain", "scenes/simclr", "--out", &out];
    arguments.extend(["--data", "synthetic:scenes?train=48&test=24", "backbone.width=0.0625"]);
    arguments.extend(["data.batch_size=16", "train.epochs=2", "train.schedule.warmup_epochs=0"]);
    arguments.extend(["train.knn.every_epochs=1", "train.threads=1", "train.log_every_steps=1"]);
    text(folder, &[&arguments[..], more].concat());
}

#[test]
fn a_folder_of_runs_is_listed_ranked_shown_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    train(here, "cold", &["method.temperature=0.1"]);
    train(here, "group/warm é <b>", &["method.temperature=0.5"]);
    text(here, &["evaluate", "knn", "runs/cold", "knn.k=5"]);
    // What lies beside runs: a file, a folder that is none, one that lost its recipe, one that never started.
    fs::write(here.join("runs/notes.txt"), "").unwrap();
    fs::create_dir_all(here.join("runs/other/photos")).unwrap();
    fs::create_dir_all(here.join("runs/lost/checkpoints")).unwrap();
    fs::create_dir(here.join("runs/new")).unwrap();
    fs::copy(here.join("runs/cold/recipe.toml"), here.join("runs/new/recipe.toml")).unwrap();

    let list = json(here, &["runs", "list"]);
    let names: Vec<&str> =
        list["runs"].as_array().unwrap().iter().map(|run| run["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["cold", "group/warm é <b>", "new"]);
    let cold = &list["runs"][0];
    assert_eq!((&cold["state"], &cold["step"]), (&"finished".into(), &6.into()));
    assert_eq!(cold["monitor"]["name"], "knn/top1");
    assert_eq!(cold["monitor"]["last"]["step"], 6);
    assert_eq!(cold["evaluations"][0]["protocol"], "knn");
    assert!(list["runs"][2]["state"].is_null());
    assert_eq!(list["damaged"][0]["name"], "lost");
    let table = text(here, &["runs", "list"]);
    let header = table.lines().next().unwrap();
    assert!(header.starts_with("run ") && header.contains("knn/top1 last"), "{table}");
    assert!(table.contains("never started"), "{table}");
    assert!(table.contains("damaged: lost: ") && table.contains("no `recipe.toml`"), "{table}");
    assert!(!table.contains("other") && !table.contains("notes.txt"), "{table}");

    // By default an evaluation counts more than a value logged on the way, and the text says which it is.
    let best = json(here, &["runs", "best"]);
    assert_eq!((&best["by"], &best["metric"]), (&"evaluation".into(), &"knn/top1".into()));
    assert_eq!(best["ranked"].as_array().unwrap().len(), 1);
    assert_eq!(best["left_out"].as_array().unwrap().len(), 2);
    let best = json(here, &["runs", "best", "runs", "--metric", "train/loss"]);
    assert_eq!((&best["by"], &best["lower_is_better"]), (&"last".into(), &true.into()));
    let loss = |place: usize| best["ranked"][place]["value"].as_f64().unwrap();
    assert!(loss(0) <= loss(1));
    let table = text(here, &["runs", "best", "--by", "best"]);
    assert!(table.contains("best value logged during each run, no evaluation"), "{table}");
    assert!(table.contains("flatter") && table.contains("without this number: new"), "{table}");
    let (code, message) = failure(here, &["runs", "best", "--metric", "knn/top9"]);
    assert!(code == 1 && message.contains("knn/top1"), "{message}");
    let (code, message) = failure(here, &["runs", "list", "nowhere"]);
    assert!(code == 1 && message.contains("`nowhere` is not a folder"), "{message}");

    let shown = text(here, &["runs", "show", "runs/cold"]);
    for expected in [
        "cold: finished, step 6 of 6",
        "differs from scenes/simclr in",
        "backbone.width: 0.5 -> 0.0625",
        "last.safetensors",
        "knn/top1",
    ] {
        assert!(shown.contains(expected), "{expected} is missing:\n{shown}");
    }
    let shown = json(here, &["runs", "show", "runs/cold"]);
    assert_eq!(shown["built_in_recipe"], "scenes/simclr");
    assert!(shown["checkpoints"][0]["bytes"].as_u64().unwrap() > 10_000, "{shown}");
    let (code, message) = failure(here, &["runs", "show", "runs/other"]);
    assert!(code == 1 && message.contains("recipe.toml"), "{message}");

    let output = diptych(here, &["report", "runs"]).output().unwrap();
    assert!(output.status.success());
    let warned = String::from_utf8(output.stderr).unwrap();
    assert!(warned.contains("warning: ") && warned.contains("runs/lost"), "{warned}");
    let page = fs::read_to_string(here.join("comparison.html")).unwrap();
    for expected in ["3 runs side by side", "warm é &#60;b&#62;", "method.temperature", "knn"] {
        assert!(page.contains(expected), "{expected} is missing");
    }
    assert!(!page.contains("warm é <b>") && !page.contains("http:"));
    let one = json(here, &["report", "runs/cold", "--out", "elsewhere.html"]);
    assert_eq!(one["report"], "elsewhere.html");
    assert!(fs::read_to_string(here.join("elsewhere.html")).unwrap().contains("<h1>cold</h1>"));
    assert_eq!(json(here, &["report", "runs/cold"])["report"], "runs/cold/report.html");
}

#[test]
fn a_page_is_followed_until_no_run_goes_on_or_until_ctrl_c() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let held = RunFolder::open(&here.join("run")).unwrap();
    held.write("recipe.toml", "seed = 1\n").unwrap();
    let status = |state: &str| {
        let status =
            Status { state: state.into(), wall_seconds: 1.0, epoch: 1.0, ..Status::default() };
        held.write_status(&status).unwrap();
    };
    let live = |page: &str| {
        let page = fs::read_to_string(here.join(page));
        page.is_ok_and(|page| page.contains("class=\"live\""))
    };
    let start = |page: &str| {
        let program = assert_cmd::cargo::cargo_bin("diptych");
        let mut command = std::process::Command::new(program);
        command.current_dir(here).args(["report", "run", "--follow", "--out", page]);
        let child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        while !live(page) {
            assert!(begun.elapsed() < Duration::from_mins(1), "no page");
            sleep(Duration::from_millis(50));
        }
        child
    };
    status("running");
    let mut stopped = start("stopped.html");
    sleep(Duration::from_millis(500));
    let pid = stopped.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert!(stopped.wait().unwrap().success());
    assert!(!live("stopped.html"), "the page no longer waits for it");
    let mut followed = start("followed.html");
    status("finished");
    assert!(followed.wait().unwrap().success());
    assert!(!live("followed.html"));
    assert!(fs::read_to_string(here.join("followed.html")).unwrap().contains("finished"));
}

/// The one event file of a run, and how many records it holds.
fn events(run: &Path) -> (PathBuf, usize) {
    let entries = fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.display().to_string().contains("tfevents")).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let file = files.remove(0);
    let bytes = fs::read(&file).unwrap();
    let (mut rest, mut records) = (bytes.as_slice(), 0);
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap());
        rest = &rest[length as usize + 16..];
        records += 1;
    }
    (file, records)
}

#[test]
fn a_run_that_went_on_has_every_step_once_in_its_events() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    train(here, "parts", &["train.checkpoint_every_steps=1"]);
    let run = here.join("runs/parts");
    let (file, records) = events(&run);
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("events.out.tfevents.") && name.ends_with(".diptych"), "{name}");
    assert_eq!(records, 1 + 6, "the version and six steps");
    // As after a kill: the last checkpoint is older than the last event, which is torn.
    let checkpoints = run.join("checkpoints");
    fs::rename(checkpoints.join("previous.safetensors"), checkpoints.join("last.safetensors"))
        .unwrap();
    fs::remove_file(run.join("status.json")).unwrap();
    let size = fs::metadata(&file).unwrap().len();
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(size - 9).unwrap();
    train(here, "parts", &["train.checkpoint_every_steps=1"]);
    let (again, records) = events(&run);
    assert_eq!(records, 1 + 6, "no step is missing, none is there twice");
    assert_ne!(again, file, "a reader of the torn file is led to the new one");
}

#[test]
fn the_doctor_tells_what_matters_and_plans_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let found = json(here, &["doctor"]);
    for key in ["processor", "cores", "memory_available_gib", "devices", "float32_gemm_gflops"] {
        assert!(!found[key].is_null(), "{key} is missing: {found}");
    }
    assert!(found["float32_gemm_gflops"].as_f64().unwrap() > 0.5, "{found}");
    assert_eq!(found["system"]["fits"], true, "{found}");
    for key in ["write_mb_per_second", "read_mb_per_second", "small_file_opens_per_second"] {
        assert!(found["storage"][key].as_f64().unwrap() > 0.0, "{key}: {found}");
    }
    assert_eq!(fs::read_dir(here).unwrap().count(), 0, "nothing is left behind");
    assert!(found["plans"].as_array().unwrap().len() >= 3);

    // A batch that can never be in memory at a time gets a micro-batch that can.
    let huge = ["doctor", "imagenet/simclr", "data.batch_size=8192", "data.micro_batch_size=0"];
    let plan = json(here, &huge)["plans"][0].clone();
    assert_eq!((&plan["batch_size"], &plan["fits"]), (&8192.into(), &false.into()));
    if let Some(largest) = plan["largest_micro_batch_size"].as_u64() {
        assert!(largest < 8192 && 8192 % largest == 0, "{plan}");
    }
    let told = text(here, &["doctor", "cifar10/simclr", "data.batch_size=8"]);
    assert!(told.contains("page cache") && told.contains("as it is"), "{told}");
    let (code, message) = failure(here, &["doctor", "cifar10/simcrl"]);
    assert!(code == 2 && message.contains("did you mean"), "{message}");
    let (code, message) = failure(here, &["doctor", "--data", "missing"]);
    assert!(code == 3 && message.contains("`missing` does not exist"), "{message}");
}

#[test]
fn shells_and_readers_are_told_the_recipes() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let script = text(here, &["completions", "bash"]);
    fs::write(here.join("diptych.bash"), &script).unwrap();
    // Asked as bash asks: the word before the cursor is `scen`.
    let asked = "source diptych.bash; COMP_WORDS=(diptych pretrain scen); COMP_CWORD=2; \
                 _diptych diptych scen pretrain; echo \"${COMPREPLY[@]}\"";
    let output = std::process::Command::new("bash")
        .current_dir(here)
        .args(["--norc", "-c", asked])
        .output()
        .unwrap();
    let completed = String::from_utf8(output.stdout).unwrap();
    assert!(completed.split_whitespace().any(|word| word == "scenes/simclr"), "{completed}");
    let (code, message) = failure(here, &["completions", "tcsh"]);
    assert!(code == 2 && message.contains("possible values: bash"), "{message}");

    let list = json(here, &["recipes", "list", "scenes"]);
    let simclr = list["recipes"].as_array().unwrap().iter().find(|r| r["name"] == "scenes/simclr");
    assert_eq!(simclr.unwrap()["method"], "simclr");
    let table = text(here, &["recipes", "list"]);
    let line = table.lines().find(|line| line.starts_with("imagenet/simclr ")).unwrap();
    assert!(line.ends_with("(Chen et al. 2020, section 2.2 and B.6)"), "{line}");
    let (code, message) = failure(here, &["recipes", "list", "nothing-like-it"]);
    assert!(code == 2 && message.contains("nothing-like-it"), "{message}");
}

#[test]
fn every_command_that_watches_has_an_example() {
    let commands: [&[&str]; 9] = [
        &["runs"],
        &["runs", "list"],
        &["runs", "best"],
        &["runs", "show"],
        &["report"],
        &["doctor"],
        &["completions"],
        &["recipes", "list"],
        &["recipes", "show"],
    ];
    for command in commands {
        let help = text(Path::new("."), &[command, &["--help"]].concat());
        assert!(help.contains("Example"), "{command:?} --help has no example");
    }
}
