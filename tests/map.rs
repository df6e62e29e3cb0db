//! `diptych analyze map` from outside: what it leaves in a run folder, and what it says where it cannot.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use diptych::analyze::map::Map;
use diptych::analyze::map::quality::Judge;
use diptych::analyze::map::tsne::Tsne;
use diptych::analyze::{Analysis, Form};
use diptych::overrides::flatten;
use program::{diptych, failure, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const DATA: &str = "synthetic:scenes?train=64&test=48";

fn trained(run: &str) {
    let mut arguments = vec!["pretrain", "scenes/simclr", "--out", run, "--data", DATA];
    arguments.extend(["backbone.width=0.125", "data.batch_size=16", "train.epochs=1"]);
    arguments.extend(["train.schedule.warmup_epochs=0", "train.threads=1"]);
    json(&arguments);
}

#[test]
fn a_run_gets_a_map_and_the_same_command_the_same_map() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("a run");
    let out = run.to_str().unwrap();
    trained(out);
    let quick = ["tsne.perplexity=10", "tsne.iterations=500", "threads=1"];
    let map = |more: &[&str]| json(&[&["analyze", "map", out], &quick[..], more].concat());
    let told = map(&[]);
    let place = run.join("analyses/map");
    assert_eq!(told["folder"], place.to_str().unwrap());
    assert_eq!(told["kind"], "map");
    assert_eq!(told["data"]["queries"], 48, "the split that evaluation asks about");
    let tsne = &told["numbers"]["tsne"];
    for key in ["kl", "trustworthiness", "continuity", "knn_map", "knn_features"] {
        let value = tsne[key].as_f64().unwrap();
        assert!((0.0..10.0).contains(&value), "{key}: {told}");
    }
    assert_eq!(told["settings"]["tsne.perplexity"], 10.0);
    assert_eq!(told["models"]["a run"]["frozen"], true);
    let analysis = Analysis::read(&place).unwrap();
    assert_eq!(analysis.files.len(), 7);
    let of = |form: Form| analysis.files.iter().filter(|output| output.form == form).count();
    assert_eq!((of(Form::Page), of(Form::Picture), of(Form::Data)), (1, 4, 2));
    for output in &analysis.files {
        assert!(fs::metadata(place.join(&output.file)).unwrap().len() > 200, "{}", output.file);
    }
    let features = fs::read_dir(run.join("features")).unwrap().count();

    let again = folder.path().join("again");
    map(&["--out", again.to_str().unwrap()]);
    for file in ["map.safetensors", "map.html", "tsne.png", "map.csv"] {
        let [one, other] = [&place, &again].map(|it| fs::read(it.join(file)).unwrap());
        assert!(one == other, "{file} differs from one time to the next");
    }
    assert_eq!(
        fs::read_dir(run.join("features")).unwrap().count(),
        features,
        "features are reused"
    );

    let both =
        map(&["--split", "all", "--layer", "z,h", "map.algorithms=[\"pca\"]", "data.limit=20"]);
    assert_eq!(both["data"]["queries"], 40);
    assert!(both["numbers"]["pca-z"]["trustworthiness"].is_f64(), "{both}");
    assert!(run.join("analyses/map-z-h/pca-h.svg").is_file());
}

#[test]
fn what_is_wrong_is_said_with_a_way_out_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let out = run.to_str().unwrap();
    trained(out);
    let fails = |more: &[&str], code: i32, words: &[&str]| {
        let (found, text) = failure(&[&["analyze", "map", out], more].concat());
        assert_eq!(found, code, "{more:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{more:?}: {text}");
        }
    };
    fails(&[], 3, &["perplexity 30", "48", "map.algorithms"]);
    fails(&["data.limit=1"], 3, &["at least 3 images", "found 1"]);
    fails(&["tsne.perplexty=5"], 2, &["tsne.perplexity"]);
    fails(&["tsne.theta=2"], 2, &["`tsne.theta` must lie within 0 and 1"]);
    fails(&["--layer", "k"], 2, &["block1"]);
    fails(&["--split", "dev"], 3, &["no split `dev`", "`train`, `test`"]);
    let weights = Path::new(out).join("checkpoints/last.safetensors");
    let (code, text) = failure(&["analyze", "map", weights.to_str().unwrap(), "--data", DATA]);
    assert!(code == 2 && text.contains("--out"), "{text}");
    let help = diptych(&["analyze", "map", "--help"]).output().unwrap().stdout;
    assert!(String::from_utf8(help).unwrap().contains("Example"), "--help has no example");
    assert!(!run.join("analyses").exists(), "a failure leaves a folder");
}

#[test]
fn the_guide_names_every_setting_with_its_default() {
    let text = include_str!("../docs/analyses.md");
    let (_, text) = text.split_once("\n## Map\n").unwrap();
    let text = text.split("\n## ").next().unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: BTreeMap<String, String> = rows
        .filter_map(|row| {
            let mut cells = row.split(" | ");
            let key = cells.next()?.trim_end_matches('`').to_owned();
            Some((key, cells.next()?.trim_matches('`').to_owned()))
        })
        .filter(|(key, _)| ["map.", "tsne.", "judge."].iter().any(|table| key.starts_with(table)))
        .filter(|(key, _)| !["map.html", "map.csv", "map.safetensors"].contains(&key.as_str()))
        .filter(|(key, _)| !key.contains("svg"))
        .collect();
    let mut expected = BTreeMap::new();
    let mut add = |table: &str, settings: Vec<(String, String)>| {
        for (key, value) in settings {
            expected.insert(format!("{table}.{key}"), value);
        }
    };
    add("map", flatten(&Map::default()));
    add("tsne", flatten(&Tsne::default()));
    add("judge", flatten(&Judge::default()));
    for key in ["map.clusters", "map.picture_px", "tsne.learning_rate"] {
        expected.insert(key.to_owned(), "none".to_owned());
    }
    assert_eq!(listed, expected);
}
