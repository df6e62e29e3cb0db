//! Retrieval sheets and invariance curves from outside: what `diptych analyze neighbours` and `augmentations` leave, and what
//! they refuse.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use assert_cmd::Command;
use diptych::analyze::augmentations::{AUGMENTATIONS, Augmentations};
use diptych::overrides::flatten;
use serde_json::Value;
use std::fs;
use std::path::Path;

const DATA: &str = "synthetic:scenes?train=96&test=48";

fn diptych(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("diptych").unwrap();
    command.args(arguments);
    command
}

fn train(out: &str, more: &[&str]) {
    let mut arguments = vec!["pretrain", "scenes/simclr", "--out", out, "--data", DATA];
    arguments.extend(["backbone.width=0.125", "data.batch_size=16", "train.epochs=1"]);
    arguments.extend(["train.schedule.warmup_epochs=0", "train.knn.every_epochs=0"]);
    arguments.extend(["train.threads=1"]);
    arguments.extend(more);
    diptych(&arguments).assert().success();
}

fn json(arguments: &[&str]) -> Value {
    let output = diptych(arguments).arg("--json").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn failure(arguments: &[&str]) -> (i32, String) {
    let output = diptych(arguments).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!text.contains("panicked") && !text.contains("internal error"), "{text}");
    (output.status.code().unwrap(), text)
}

fn read(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap()
}

/// Every file that `analysis.json` names is there, and of its kind.
fn check_files(folder: &Path, kind: &str) -> Value {
    let analysis: Value = serde_json::from_str(&read(folder, "analysis.json")).unwrap();
    assert_eq!(analysis["kind"], kind);
    let files = analysis["files"].as_array().unwrap();
    assert!(!files.is_empty());
    for file in files {
        let name = file["file"].as_str().unwrap();
        let bytes = fs::read(folder.join(name)).unwrap();
        let begins = match name.rsplit('.').next().unwrap() {
            "png" => b"\x89PNG".as_slice(),
            "svg" => b"<svg".as_slice(),
            "html" => b"<!doctype html>".as_slice(),
            "json" | "csv" => b"".as_slice(),
            other => panic!("what is .{other}?"),
        };
        assert!(bytes.starts_with(begins) && bytes.len() > 20, "{name}");
    }
    analysis
}

fn neighbours(folder: &Path, one: &str, two: &str) {
    let found = json(&[
        "analyze",
        "neighbours",
        one,
        two,
        "--name",
        "first",
        "--class",
        "boat",
        "--index",
        "3",
        "threads=1",
        "neighbours.k=5",
        "neighbours.baselines=true",
    ]);
    let place = Path::new(one).join("analyses/neighbours");
    assert_eq!(found["folder"], place.to_str().unwrap());
    let analysis = check_files(&place, "neighbours");
    assert_eq!(analysis["models"].as_object().unwrap().len(), 2);
    assert_eq!(analysis["models"]["first"]["frozen"], true);
    assert_eq!(analysis["data"]["references"], 96);
    let sheet: Value = serde_json::from_str(&read(&place, "neighbours.json")).unwrap();
    let names: Vec<&str> =
        sheet["models"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["first", "two", "untrained", "raw pixels"]);
    assert_eq!(sheet["queries"][0]["index"], 3);
    assert_eq!(sheet["queries"].as_array().unwrap().len(), 3);
    assert_eq!(sheet["queries"][1]["class"], "boat");
    assert_eq!(sheet["models"][0]["found"][2].as_array().unwrap().len(), 5);
    // The precision is that of `evaluate retrieval`.
    let retrieval = json(&["evaluate", "retrieval", one, "retrieval.k=[5]", "threads=1"]);
    let precision = &found["numbers"]["first precision_at_5"]["precision"];
    assert_eq!(precision, &retrieval["also"]["precision_at_5"]);
    assert!(precision["interval_95"].is_array());
    assert_eq!(read(&place, "neighbours.csv").lines().count(), 1 + 4 * 3 * 5);
    let page = read(&place, "neighbours.html");
    assert!(!page.contains("src=\"http") && page.matches("data:image/png").count() >= 3 + 60);
    // The same again gives the same.
    let again = folder.join("again");
    json(&[
        "analyze",
        "neighbours",
        one,
        two,
        "--name",
        "first",
        "--class",
        "boat",
        "--index",
        "3",
        "threads=1",
        "neighbours.k=5",
        "neighbours.baselines=true",
        "--out",
        again.to_str().unwrap(),
    ]);
    assert_eq!(read(&again, "neighbours.csv"), read(&place, "neighbours.csv"));
    assert_eq!(
        fs::read(again.join("neighbours.png")).unwrap(),
        fs::read(place.join("neighbours.png")).unwrap()
    );
}

fn refusals(folder: &Path, one: &str) {
    let none = folder.join("none");
    let out = ["--out", none.to_str().unwrap(), "threads=1"];
    for (more, code, expected) in [
        (&["--path", "no/such.png"][..], 3, "none of the 48 queries is `no/such.png`"),
        (&["--index", "48"], 3, "there is no query 48: the split has 48 images"),
        (&["--class", "cat"], 3, "there is no class `cat`"),
        (&["neighbours.k=97"], 3, "there are only 96 references"),
        (&["neighbours.k=0"], 2, "`neighbours.k` must be at least 1"),
        (&["neighbours.kk=3"], 2, "`neighbours.k`"),
        (&["neighbours.random=0"], 3, "there is no query to show"),
        (&["--class", "boat", "neighbours.per_class=0"], 2, "`neighbours.per_class`"),
        (&["--layer", "y"], 2, "`--layer` must be one of"),
        (&["--name", "a", "--name", "b"], 2, "there are 2 names for 1 models"),
    ] {
        let (found, text) = failure(&[&["analyze", "neighbours", one][..], &out, more].concat());
        assert!(found == code && text.contains(expected), "{more:?}: {found} {text}");
        assert!(!none.exists(), "{more:?} left something");
    }
    let (code, text) = failure(&["analyze", "neighbours", "nowhere", "--data", DATA]);
    assert!(code == 6 && text.contains("`nowhere` is neither a run folder"), "{text}");
    for (more, expected) in [
        ("augmentations.only=[\"crpo\"]", "did you mean `crop`?"),
        ("augmentations.strengths.crop=[2]", "must be within 0.001 to 1"),
        ("augmentations.images=1", "`augmentations.images` must be at least 2"),
    ] {
        let (code, text) = failure(&[&["analyze", "augmentations", one, more][..], &out].concat());
        assert!(code == 2 && text.contains(expected), "{text}");
        assert!(!none.exists());
    }
}

fn augmentations(folder: &Path, one: &str, two: &str) {
    let found = json(&[
        "analyze",
        "augmentations",
        one,
        two,
        "threads=1",
        "augmentations.images=10",
        "augmentations.only=[\"crop\", \"flip\"]",
        "augmentations.strengths.crop=[1, 0.5, 0.1]",
    ]);
    let place = Path::new(one).join("analyses/augmentations");
    let analysis = check_files(&place, "augmentations");
    assert_eq!(analysis["data"]["queries"], 10);
    let numbers = found["numbers"].as_object().unwrap();
    let names: Vec<&str> = numbers.keys().map(String::as_str).collect();
    let expected =
        ["one h", "one z", "raw pixels pixels", "two h", "two z", "untrained h", "untrained z"];
    assert_eq!(names, expected.map(|name| format!("{name} steadiness")));
    assert!(numbers["one h steadiness"]["crop"].as_f64().unwrap() < 1.0);
    let curves: Value = serde_json::from_str(&read(&place, "augmentations.json")).unwrap();
    let curves = curves.as_array().unwrap();
    assert_eq!(curves.len(), 2 * 7);
    for curve in curves {
        assert_eq!(curve["points"][0]["cosine"]["value"], 1.0, "{curve}");
    }
    assert_eq!(read(&place, "augmentations.csv").lines().count(), 1 + 7 * (3 + 2));
    assert_eq!(read(&place, "augmentations.svg").matches("<image ").count(), 3 + 2);
    // One layer, no baselines, another place.
    let out = folder.join("curves");
    let found = json(&[
        "analyze",
        "augmentations",
        one,
        "--layer",
        "block3",
        "threads=1",
        "augmentations.images=10",
        "baselines=false",
        "augmentations.only=[\"flip\"]",
        "--out",
        out.to_str().unwrap(),
    ]);
    assert_eq!(found["numbers"].as_object().unwrap().len(), 1);
    assert!(found["numbers"]["one block3 steadiness"]["flip"].is_f64());
}

#[test]
fn sheets_and_curves_are_made_of_runs_and_nonsense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (one, two) = (of("one"), of("two"));
    train(&one, &[]);
    train(&two, &["seed=1"]);
    neighbours(folder.path(), &one, &two);
    augmentations(folder.path(), &one, &two);
    refusals(folder.path(), &one);
    // One split without labels: its images are compared with one another.
    let photos = folder.path().join("photos");
    fs::create_dir(&photos).unwrap();
    for at in 0..6u8 {
        let color = image::Rgb([40 * at, 200 - 30 * at, 90]);
        image::RgbImage::from_pixel(50, 30, color).save(photos.join(format!("{at}.png"))).unwrap();
    }
    let out = of("sheet");
    let found = json(&[
        "analyze",
        "neighbours",
        &one,
        "--data",
        photos.to_str().unwrap(),
        "--path",
        "2.png",
        "--out",
        &out,
        "threads=1",
        "neighbours.k=3",
    ]);
    assert!(found["numbers"]["one precision_at_3"]["precision"].is_null());
    let sheet: Value = serde_json::from_str(&read(Path::new(&out), "neighbours.json")).unwrap();
    assert_eq!(sheet["same"], true);
    let hits = sheet["models"][0]["found"][0].as_array().unwrap();
    assert!(hits.len() == 3 && hits.iter().all(|hit| hit["index"] != 2), "{hits:?}");
}

#[test]
fn guide_and_help_name_every_augmentation_and_setting() {
    let guide = include_str!("../docs/analyses.md");
    let output = diptych(&["analyze", "augmentations", "--help"]).output().unwrap();
    // Long lines are wrapped.
    let help = String::from_utf8(output.stdout).unwrap().replace('\n', " ");
    for augmentation in AUGMENTATIONS {
        let name = augmentation.name;
        assert!(guide.contains(&format!("`{name}`")), "the guide lacks {name}");
        assert!(help.contains(name), "the help lacks {name}");
    }
    for (key, _) in flatten(&Augmentations::default()) {
        let key = key.split('.').next().unwrap();
        let named = format!("augmentations.{key}");
        assert!(guide.contains(&named) && help.contains(&named), "{named}");
    }
    let output = diptych(&["analyze", "neighbours", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for key in ["k", "random", "per_class", "baselines"] {
        let named = format!("neighbours.{key}");
        assert!(guide.contains(&named) && help.contains(&named), "{named}");
    }
}
