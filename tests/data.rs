//! `diptych data` from outside: what it prints and how it exits.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Output;

fn diptych(arguments: &[&str]) -> Output {
    assert_cmd::Command::cargo_bin("diptych").unwrap().args(arguments).output().unwrap()
}

fn ppm(value: u8) -> Vec<u8> {
    [b"P6 2 2 255 ".as_slice(), &[value; 12]].concat()
}

#[test]
fn check_lists_damage_and_copies_and_exits_with_3() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in [("train/a/1.ppm", 1), ("train/b/2.ppm", 2), ("test/a/3.ppm", 1)] {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, ppm(value)).unwrap();
    }
    let place = folder.path().to_str().unwrap();
    let whole = diptych(&["data", "check", place]);
    assert_eq!(whole.status.code(), Some(0));
    let text = String::from_utf8(whole.stdout).unwrap();
    assert!(text.contains("all 3 images can be decoded"), "{text}");
    assert!(text.contains("duplicates across splits: 1"), "{text}");
    assert!(text.contains("a/1.ppm of train = test/a/3.ppm of test"), "{text}");

    fs::write(folder.path().join("train/b/broken.ppm"), &ppm(3)[..14]).unwrap();
    let damaged = diptych(&["data", "check", place, "--json"]);
    assert_eq!(damaged.status.code(), Some(3));
    let told: Value = serde_json::from_slice(&damaged.stdout).unwrap();
    assert_eq!((&told["damaged"], &told["images"]), (&1.into(), &4.into()));
    let broken = &told["splits"][0]["damaged"][0];
    assert_eq!(broken["path"], "train/b/broken.ppm");
    assert!(broken["reason"].as_str().unwrap().contains("cannot decode"));
    assert_eq!(told["splits"][1]["empty_classes"], serde_json::json!(["b"]));
    assert_eq!(told["duplicates"][0]["across_splits"], true);
}

#[test]
fn a_subset_is_drawn_listed_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("lists/lt.txt");
    let list = list.to_str().unwrap();
    let data = "synthetic:digits?train=500&test=100";
    let subset =
        |more: &[&str]| diptych(&[&["data", "subset", data, "--out", list], more].concat());
    let drawn = subset(&["--long-tail", "10", "--seed", "4", "--json"]);
    let told: Value = serde_json::from_slice(&drawn.stdout).unwrap();
    // trunc(50 · 10^(−c/9))
    let counts = [50, 38, 29, 23, 17, 13, 10, 8, 6, 5];
    assert_eq!(told["per_class"], serde_json::json!(counts));
    assert_eq!((&told["medium"], &told["few"]), (&4.into(), &6.into()));
    let text = fs::read_to_string(list).unwrap();
    assert_eq!(text.lines().count(), 1 + counts.iter().sum::<usize>());
    assert!(text.starts_with("# diptych subset {\"format\":1,\"source\":\""), "{text}");
    let step = subset(&["--long-tail", "10", "--step", "--largest", "40"]);
    let said = String::from_utf8(step.stdout).unwrap();
    assert!(
        said.contains("220 of 500 images of `train` by long tail 10, step, largest 40"),
        "{said}"
    );
    let few = subset(&["--classes", "3,7", "--fraction", "0.1", "--split", "test", "--json"]);
    let told: Value = serde_json::from_slice(&few.stdout).unwrap();
    assert_eq!(
        (&told["images"], &told["of"], &told["classes"]),
        (&2.into(), &100.into(), &2.into())
    );
    // A list of others becomes one of ours.
    let other = folder.path().join("theirs.txt");
    fs::write(&other, "5\n3\n").unwrap();
    assert_eq!(subset(&["--list", other.to_str().unwrap()]).status.code(), Some(0));
    assert!(fs::read_to_string(list).unwrap().ends_with("\"rule\":\"theirs.txt\"}\n3\n5\n"));

    for (more, code, expected) in [
        (&["--fraction", "2"][..], 3, "above 0, at most 1"),
        (&["--long-tail", "1000"], 3, "leaves class number"),
        (&["--classes", "eleven"], 3, "no class `eleven`"),
        (&["--per-class", "51"], 3, "from 1 to 50"),
        (&["--list", "no/such/list"], 3, "cannot read image list"),
        (&["--fraction", "0.1", "--per-class", "3"], 2, "cannot be used with"),
        (&["--fraction", "0.1", "--step"], 2, "cannot be used with"),
        (&["--per-class", "3", "--largest", "9"], 2, "cannot be used with"),
        (&["--classes", "3", "--step"], 2, "--long-tail"),
        (&["--seed", "3"], 2, "required"),
    ] {
        let found = subset(more);
        let text = String::from_utf8(found.stderr).unwrap();
        assert!(found.status.code() == Some(code) && text.contains(expected), "{more:?}: {text}");
    }
}

#[test]
fn made_data_can_be_written_to_disk() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("made");
    let place = place.to_str().unwrap();
    let made =
        "digits-on:synthetic:scenes?train=24&test=12?digits=synthetic:digits&unique=4&label=digit";
    let written = diptych(&["data", "synthesize", made, "--out", place, "--json"]);
    let told: Value = serde_json::from_slice(&written.stdout).unwrap();
    assert_eq!((&told["images"], &told["damaged"]), (&36.into(), &serde_json::json!([])));
    let shown = |place: &str| -> Value {
        serde_json::from_slice(&diptych(&["data", "show", place, "--json"]).stdout).unwrap()
    };
    let (read, original) = (shown(place), shown(made));
    assert_eq!(read["classes"], original["classes"]);
    for split in 0..2 {
        assert_eq!(read["splits"][split]["per_class"], original["splits"][split]["per_class"]);
    }
    let again = diptych(&["data", "synthesize", made, "--out", place]);
    assert_eq!(again.status.code(), Some(3));
    assert!(String::from_utf8(again.stderr).unwrap().contains("is not empty"));
}

#[test]
fn show_names_every_format() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data");
    for (place, format) in [
        ("cifar-10/cifar-10-batches-bin", "CIFAR-10 binary"),
        ("cifar-10/cifar-10-batches-py", "CIFAR-10 Python pickle"),
        ("cifar-100/cifar-100-binary", "CIFAR-100 binary"),
        ("cifar-100/cifar-100-python", "CIFAR-100 Python pickle"),
        ("MNIST", "MNIST idx"),
        ("pax.tar", "WebDataset tar, 1 shard, PNG"),
    ] {
        let shown = diptych(&["data", "show", golden.join(place).to_str().unwrap(), "--json"]);
        let told: Value = serde_json::from_slice(&shown.stdout).unwrap();
        assert_eq!((shown.status.code(), &told["format"]), (Some(0), &format.into()));
    }
}
