//! Scores and gradients from a training to their pictures: recorded, drawn, and the same after a stop.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn diptych(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("diptych").unwrap();
    command.current_dir(folder).args(arguments);
    command
}

/// Output of a command that must succeed.
fn told(folder: &Path, arguments: &[&str]) -> (String, String) {
    let output = diptych(folder, arguments).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {errors}");
    (String::from_utf8(output.stdout).unwrap(), errors)
}

/// Three epochs of three steps on eight images at a time.
fn train(folder: &Path, recipe: &str, out: &str, more: &[&str]) {
    let mut arguments = vec!["pretrain", recipe, "--out", out];
    arguments.extend(["--data", "synthetic:scenes?train=24&test=8", "backbone.width=0.0625"]);
    arguments.extend(["data.batch_size=8", "train.schedule.warmup_epochs=0", "train.threads=1"]);
    arguments.extend(["train.knn.every_epochs=0", "train.checkpoint_every_steps=1"]);
    told(folder, &[&arguments[..], more].concat());
}

fn rows(path: &PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_is_recorded_drawn_and_the_same_when_it_was_stopped_or_not_watched() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let more = ["train.epochs=3", "train.scores.raw=true"];
    train(here, "scenes/simclr", "whole", &more);
    let scores = rows(&here.join("whole/scores.jsonl"));
    assert_eq!(scores.len(), 9);
    for (place, row) in scores.iter().enumerate() {
        assert_eq!(row["step"], (place + 1) as u64);
        // All eight images, against the fourteen rows that are neither the image nor its other view.
        assert_eq!((&row["queries"], &row["negatives"]), (&8.into(), &14.into()));
        let value = |name: &str| row[name].as_f64().unwrap();
        assert!(value("neg_q01") <= value("neg_q50") && value("neg_q50") <= value("neg_q99"));
        assert!(value("neg_mean") <= value("neg_hardest") && value("neg_hardest") <= 1.0 + 1e-6);
        assert!(value("pos_mean").abs() <= 1.0 && value("neg_var") > 0.0, "cosines: {row}");
        let t = 0.1;
        assert!(value("exp_pos_mean") >= (value("pos_mean") / t).exp() * 0.999, "Jensen");
    }
    let gradients = rows(&here.join("whole/gradients.jsonl"));
    assert_eq!((gradients.len(), &gradients[3]["epoch"]), (4, &3.into()));
    let layers = gradients[0]["layers"].as_array().unwrap().len();
    assert!(gradients[1..].iter().all(|row| row["mean"].as_array().unwrap().len() == layers));

    // Stopped in the middle of an epoch by its own length, and continued: the same files.
    train(here, "scenes/simclr", "parts", &["train.scores.raw=true", "train.max_steps=9"]);
    let whole_of_parts = ["scores.jsonl", "scores/score_003.npy", "checkpoints/last.safetensors"]
        .map(|name| fs::read(here.join("parts").join(name)).unwrap());
    let mut killed = std::process::Command::new(env!("CARGO_BIN_EXE_diptych"));
    killed.current_dir(here).args([
        "pretrain",
        "scenes/simclr",
        "--out",
        "killed",
        "--data",
        "synthetic:scenes?train=24&test=8",
        "backbone.width=0.0625",
        "data.batch_size=8",
        "train.schedule.warmup_epochs=0",
        "train.threads=1",
        "train.knn.every_epochs=0",
        "train.checkpoint_every_steps=1",
        "train.scores.raw=true",
        "train.max_steps=9",
    ]);
    let mut child = killed
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let checkpoint = here.join("killed/checkpoints/previous.safetensors");
    while !checkpoint.exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    train(here, "scenes/simclr", "killed", &["train.scores.raw=true", "train.max_steps=9"]);
    for (name, expected) in ["scores.jsonl", "scores/score_003.npy", "checkpoints/last.safetensors"]
        .iter()
        .zip(&whole_of_parts)
    {
        assert!(fs::read(here.join("killed").join(name)).unwrap() == *expected, "{name} differs");
    }
    assert_eq!(
        rows(&here.join("killed/gradients.jsonl")),
        rows(&here.join("parts/gradients.jsonl"))
    );

    // Not watched: the same weights.
    let off = ["train.max_steps=9", "train.scores.enabled=false", "train.gradients.enabled=false"];
    train(here, "scenes/simclr", "unwatched", &off);
    assert!(!here.join("unwatched/scores.jsonl").exists());
    let last = fs::read(here.join("unwatched/checkpoints/last.safetensors")).unwrap();
    assert!(last == whole_of_parts[2], "looking changes nothing");

    // Drawn: beside the run, and several where one says.
    let (text, said) = told(here, &["analyze", "scores", "whole", "smooth=1"]);
    assert_eq!(text.trim(), "whole/analyses/scores");
    assert!(said.contains("positives"), "{said}");
    told(here, &["analyze", "gradients", "whole"]);
    let (text, _) = told(here, &["analyze", "scores", "whole", "parts", "--out", "both", "--json"]);
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["analysis"]["kind"], "scores");
    for name in ["scores.svg", "scores.png", "scores.csv", "scores.json", "analysis.json"] {
        assert!(here.join("both").join(name).is_file(), "{name}");
    }
    told(here, &["report", "whole"]);
    let page = fs::read_to_string(here.join("whole/report.html")).unwrap();
    for text in ["<h2>Scores</h2>", "<h2>Gradients</h2>", "<h2>Analyses</h2>", "Gradients of whole"]
    {
        assert!(page.contains(text), "`{text}` is missing");
    }
    let failed = diptych(here, &["analyze", "scores", "whole", "smoth=3"]).output().unwrap();
    assert_eq!(failed.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("did you mean `smooth`"));
    let failed = diptych(here, &["analyze", "scores", "unwatched"]).output().unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("recorded no scores"));
}

/// What each method has: negatives of a query, if any.
#[test]
fn every_method_that_compares_rows_records_what_its_loss_saw() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for (recipe, negatives, more) in [
        ("scenes/moco", Some(16.0), &["method.queue_length=16"][..]),
        (
            "scenes/moco",
            Some(16.0),
            &[
                "method.queue_length=16",
                "plugins.feature_transformation.negative=hard",
                "train.scores.stage=both",
            ][..],
        ),
        ("scenes/npid", Some(23.0), &[][..]),
        ("scenes/npid", Some(5.0), &["method.objective=nce", "method.negatives=5"][..]),
        ("scenes/byol", None, &[][..]),
        ("scenes/simsiam", None, &[][..]),
        ("scenes/barlow", None, &[][..]),
    ] {
        let out = format!("{}-{}", recipe.replace('/', "-"), more.len());
        let mut all = vec!["train.max_steps=2", "method.projector.output=16"];
        if ["scenes/byol", "scenes/simsiam"].contains(&recipe) {
            all.extend(["method.predictor.output=16"]);
        }
        all.extend(more);
        train(here, recipe, &out, &all);
        let rows = rows(&here.join(&out).join("scores.jsonl"));
        assert_eq!(rows.len(), 2, "{out}");
        let found = &rows[1];
        assert!(
            found["pos_mean"].as_f64().is_some_and(|value| value.abs() < 3.0),
            "{out}: {found}"
        );
        assert!(found["deviation"].as_f64().is_some(), "{out}: {found}");
        match negatives {
            Some(count) => {
                assert_eq!(found["negatives"].as_f64(), Some(count), "{out}: {found}");
                assert!(
                    found["neg_mean"].as_f64().is_some() && found["neg_var"].as_f64().is_some()
                );
            }
            None => assert!(found["neg_mean"].is_null(), "{out}: {found}"),
        }
        if more.len() == 3 {
            assert!(found["pre_ft_neg_mean"] != found["neg_mean"], "{found}");
            let (before, after) = (&found["pre_ft_pos_mean"], &found["pos_mean"]);
            assert!(before.as_f64() > after.as_f64(), "extrapolated pairs are harder: {found}");
        }
    }
}
