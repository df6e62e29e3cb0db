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
