//! `pretrain --profile`: what it says, and that the run is none the other for it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Output;

/// Trains on made images; two epochs of three steps unless told otherwise.
fn pretrain(folder: &Path, out: &str, more: &[&str]) -> Output {
    let mut arguments = vec!["pretrain", "scenes/simclr", "--out", out, "--json"];
    arguments.extend(["--data", "synthetic:scenes?train=48&test=24", "backbone.width=0.0625"]);
    arguments.extend(["data.batch_size=16", "train.epochs=2", "train.schedule.warmup_epochs=0"]);
    arguments.extend(["train.knn.every_epochs=1", "train.threads=1", "backbone.norm_group=8"]);
    let mut command = Command::cargo_bin("diptych").unwrap();
    command.current_dir(folder).args(arguments).args(more).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn sum(rows: &Value, key: &str) -> f64 {
    rows.as_array().unwrap().iter().map(|row| row[key].as_f64().unwrap()).sum()
}

#[test]
fn a_profile_tells_everything_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let plain = json(&pretrain(here, "plain", &[]));
    assert!(plain.get("profile").is_none() && !here.join("plain/profile.json").exists());
    let output = pretrain(here, "watched", &["--profile"]);
    let watched = json(&output);
    assert_eq!(watched["final_loss"], plain["final_loss"]);
    let checkpoint = |run: &str| fs::read(here.join(run).join("checkpoints/last.safetensors"));
    assert!(checkpoint("watched").unwrap() == checkpoint("plain").unwrap(), "other bits");
    let recipe = |run: &str| fs::read_to_string(here.join(run).join("recipe.toml")).unwrap();
    assert_eq!(recipe("watched"), recipe("plain"), "a way of running is no setting");

    let profile = &watched["profile"];
    let file = fs::read_to_string(here.join("watched/profile.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&file).unwrap(), *profile);
    assert_eq!((&profile["format"], &profile["device"]), (&1.into(), &"cpu".into()));
    assert_eq!(profile["steps"], 3, "six steps less the warm-up");
    let seconds = profile["seconds"].as_f64().unwrap();
    assert!(seconds > 0.0 && seconds < watched["wall_seconds"].as_f64().unwrap());
    assert!((sum(&profile["time"], "seconds") / seconds - 1.0).abs() < 1e-9, "{profile}");
    assert!((sum(&profile["time"], "share") - 1.0).abs() < 1e-9);
    let peak = profile["peak_tensor_bytes"].as_f64().unwrap();
    assert!((sum(&profile["memory"], "bytes") - peak).abs() < 0.5);
    assert!(peak < watched["peak_memory_mb"].as_f64().unwrap() * f64::from(1 << 20));
    assert!(profile["flops_per_step"].as_f64().unwrap() > 1e6);
    let views = 3.0 * 2.0 * 16.0 / seconds;
    assert!((profile["views_per_second"].as_f64().unwrap() / views - 1.0).abs() < 1e-9);

    // The guide tells every row, and no other.
    let guide = include_str!("../docs/running.md").split("## Where the time goes").nth(1).unwrap();
    let guide = guide.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with("| `"));
    let names =
        guide.flat_map(|line| line.split('|').nth(1).unwrap().split('`').skip(1).step_by(2));
    let mut told: Vec<&str> = names.collect();
    let rows = profile["time"].as_array().unwrap().iter();
    let mut found: Vec<&str> = rows.map(|row| row["what"].as_str().unwrap()).collect();
    told.sort_unstable();
    found.sort_unstable();
    assert_eq!(told, found);

    let table = String::from_utf8(output.stderr).unwrap();
    let told =
        |row: &str| assert!(table.lines().any(|line| line.starts_with(row)), "{row}: {table}");
    told("profile: 3 steps on cpu (the first 3 are not counted)");
    let rows =
        profile["time"].as_array().unwrap().iter().chain(profile["memory"].as_array().unwrap());
    rows.for_each(|row| told(row["what"].as_str().unwrap()));
    for row in ["convolution", "batch norm", "ReLU", "residual addition", "linear", "optimizer"] {
        told(row);
    }
    for row in ["waiting for views", "metrics", "checkpoint", "monitor", "report", "all "] {
        told(row);
    }
    for row in ["parameters", "gradients", "optimizer state", "convolution outputs", "all tensors"]
    {
        told(row);
    }
    assert!(
        !table.contains("unknown size") && !table.to_lowercase().contains("warning"),
        "{table}"
    );
}

#[test]
fn a_run_goes_on_with_a_profile_or_without() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let error = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let short = pretrain(here, "run", &["train.max_steps=3", "--profile"]);
    assert_eq!(short.status.code(), Some(2), "{}", error(&short));
    assert!(error(&short).contains("leaves out the first 3 steps, and 3 are left"));
    assert_eq!(json(&pretrain(here, "run", &["train.max_steps=3"]))["steps"], 3);
    let short = pretrain(here, "run", &["train.max_steps=5", "--extend", "--profile"]);
    assert!(error(&short).contains("and 2 are left"), "{}", error(&short));
    // A micro-batch takes a second forward pass, which is told.
    let more = ["train.max_steps=8", "data.micro_batch_size=8", "--extend", "--profile"];
    let resumed = pretrain(here, "run", &more);
    let profile = &json(&resumed)["profile"];
    assert_eq!(profile["steps"], 2, "{profile}");
    let row = profile["time"].as_array().unwrap().iter();
    let row = row.clone().find(|row| row["what"] == "convolution").unwrap();
    // Twenty convolutions, two micro-batches: forward twice, and backward.
    assert_eq!(row["calls"], 2 * 20 * 2 * 3, "{profile}");
    let again = pretrain(here, "run", &more);
    assert!(json(&again).get("profile").is_none(), "a finished run takes no step");
}
