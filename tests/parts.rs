//! `diptych analyze parts` from the command line to the files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use assert_cmd::Command;
use diptych::analyze::parts::{OPTIONAL, Settings};
use diptych::overrides::flatten;
use serde_json::Value;
use std::path::Path;

const DATA: &str = "synthetic:scenes?train=24&test=12";

fn diptych(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("diptych").unwrap();
    command.current_dir(folder).args(arguments);
    command
}

/// A run of two small steps.
fn pretrained(folder: &Path) {
    let arguments = ["pretrain", "scenes/simclr", "--out", "run", "--data", DATA];
    let settings = [
        "backbone.width=0.125",
        "data.batch_size=12",
        "train.max_steps=2",
        "train.schedule.warmup_epochs=0",
        "train.knn.every_epochs=0",
        "train.threads=1",
    ];
    diptych(folder, &[&arguments[..], &settings].concat()).assert().success();
}

const SMALL: [&str; 4] = ["parts.size=64", "parts.picture=64", "parts.clusters=2,3", "images=2"];

fn analyzed(folder: &Path, arguments: &[&str]) -> Value {
    let arguments = [&["analyze", "parts", "--json"], arguments, &SMALL[..]].concat();
    let output = diptych(folder, &arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_run_is_analysed_into_its_own_folder_and_several_models_into_one_of_choice() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    pretrained(folder);
    let found = analyzed(folder, &["run"]);
    assert_eq!(found["out"], "run/analyses/parts");
    let report = || std::fs::read_to_string(folder.join("run/report.html")).unwrap();
    assert!(report().contains("<small>parts, analyses/parts</small>"), "the report is renewed");
    let of_run = folder.join("run/analyses/parts");
    let told: Value =
        serde_json::from_slice(&std::fs::read(of_run.join("analysis.json")).unwrap()).unwrap();
    assert_eq!(told["kind"], "parts");
    assert_eq!(told["settings"]["clusters"], serde_json::json!([2, 3]));
    assert_eq!(told["models"]["run"]["frozen"], true);
    assert_eq!(told["data"]["queries"], 2);
    for file in told["files"].as_array().unwrap() {
        let file = of_run.join(file["file"].as_str().unwrap());
        assert!(file.is_file(), "{}", file.display());
    }

    let all = ["run", "--name", "SimCLR", "--untrained", "--pixels", "--out", "all"];
    let more = ["parts.blocks=3", "parts.algorithms=k-means,ward,bisecting", "--index", "5,1,7"];
    let found = analyzed(folder, &[&all[..], &more].concat());
    let models: Vec<&String> = found["models"].as_object().unwrap().keys().collect();
    assert_eq!(models, ["SimCLR", "Untrained"]);
    assert_eq!(found["settings"]["images"], serde_json::json!([5, 1, 7]));
    assert!(found["numbers"]["algorithms/ari"].is_number());
    assert!(found["numbers"]["Raw pixels/part_iou"].is_number());
    assert!(folder.join("all/image2-algorithms-untrained-block3.svg").is_file());

    // The same again is the same to the byte, but for the time it took.
    let map = std::fs::read(folder.join("all/maps/simclr-block3-k-means.npy")).unwrap();
    let again = ["run", "--name", "SimCLR", "--out", "again", "--index", "5,1,7", "parts.blocks=3"];
    analyzed(folder, &again);
    assert_eq!(std::fs::read(folder.join("again/maps/simclr-block3-k-means.npy")).unwrap(), map);

    // Another folder within the run, and a run whose name has a dot.
    std::fs::rename(folder.join("run"), folder.join("m-0.99")).unwrap();
    let found = analyzed(folder, &["m-0.99", "--out", "m-0.99/analyses/more", "parts.blocks=4"]);
    assert_eq!(found["models"].as_object().unwrap().keys().next().unwrap(), "m-0.99");
    assert_eq!(found["settings"]["split"], "test");
    std::fs::rename(folder.join("m-0.99"), folder.join("run")).unwrap();
    assert!(report().contains("<small>parts, analyses/more</small>"));

    // Colours are gone on with for the same images only.
    let like = ["analyze", "parts", "run", "--out", "like", "parts.like=again", "parts.blocks=3"];
    for (more, expected) in [
        (&["--split", "train"][..], "of the split `test`, this analysis of `train`"),
        (&["--data", "synthetic:scenes?train=24&test=13"], "whose images are others"),
        (&["parts.order=size"], "`parts.order=match`"),
    ] {
        let output = diptych(folder, &[&like, more, &SMALL[..]].concat()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && errors.contains(expected), "{errors}");
        assert!(!folder.join("like").exists());
    }

    let together = ["run", "--out", "together", "parts.together=true", "parts.mode=as-published"];
    let found = analyzed(folder, &together);
    assert_eq!(found["settings"]["mode"], "as-published");
    assert!(folder.join("together/together-layers-k-means.png").is_file());
}

#[test]
fn pixels_alone_need_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let found = analyzed(folder.path(), &["--pixels", "--data", DATA, "--out", "pixels"]);
    assert_eq!(found["numbers"].as_object().unwrap().keys().next().unwrap(), "Raw pixels/part_ari");
}

#[test]
fn photos_are_judged_by_masks_that_people_drew() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for place in ["photos/cat", "photos/dog", "masks/cat", "masks/dog"] {
        std::fs::create_dir_all(folder.join(place)).unwrap();
    }
    // The left half is red, the right one blue; nobody judges the last rows.
    for class in ["cat", "dog"] {
        let red = |x: u32| if x < 20 { [200, 30, 30] } else { [30, 30, 200] };
        let photo = image::RgbImage::from_fn(40, 40, |x, _| image::Rgb(red(x)));
        photo.save(folder.join(format!("photos/{class}/0.png"))).unwrap();
        let label = |x: u32, y: u32| if y > 35 { 255 } else { u8::from(x < 20) };
        let mask = image::GrayImage::from_fn(40, 40, |x, y| image::Luma([label(x, y)]));
        mask.save(folder.join(format!("masks/{class}/0.png"))).unwrap();
    }
    let arguments = ["--pixels", "--data", "photos", "--masks", "masks", "--out", "out"];
    let found = analyzed(folder, &arguments);
    assert_eq!(found["settings"]["masks"], "masks");
    assert!(found["numbers"]["Raw pixels/purity"].as_f64().unwrap() > 0.99, "{found}");
    std::fs::remove_file(folder.join("masks/dog/0.png")).unwrap();
    let output =
        diptych(folder, &[&["analyze", "parts"], &arguments[..]].concat()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && errors.contains("no map of parts"), "{errors}");
}

#[test]
fn what_is_wrong_is_said_with_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let data = ["--data", DATA, "--out", "out"];
    let cases: [(&[&str], i32, &str); 9] = [
        (&["--pixels", "parts.clusters=11"], 2, "at most 10 clusters"),
        (&["--pixels", "parts.cluster=2"], 2, "parts.clusters"),
        (&["--pixels", "parts.algorithms=wards"], 2, "ward"),
        (&["--pixels", "--index", "12"], 3, "no image 12"),
        (
            &[
                "--pixels",
                "parts.algorithms=spectral",
                "parts.together=true",
                "images=12",
                "parts.raw_grid=200",
            ],
            2,
            "keeps all pairs of pixels",
        ),
        (&["--pixels", "--split", "val"], 3, "only train, test"),
        (&["missing"], 6, "neither a run folder"),
        (&[], 2, "nothing to analyse"),
        (&["--untrained"], 2, "name one before it"),
    ];
    for (arguments, code, expected) in cases {
        let arguments = [&["analyze", "parts"], arguments, &data[..]].concat();
        let output = diptych(folder, &arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(expected), "{arguments:?}: {errors}");
        assert!(!folder.join("out").exists(), "{arguments:?} left something");
    }
    let output =
        diptych(folder, &["analyze", "parts", "--pixels", "--data", DATA]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("--out"));
}

#[test]
fn the_guide_names_every_setting_with_its_default() {
    let guide = include_str!("../docs/analyses.md");
    let table = guide.split("| setting |").nth(1).unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `parts."));
    let rows: Vec<(String, String)> = rows
        .map(|row| {
            let (key, rest) = row.split_once("` | ").unwrap();
            let default = rest.split_once(" | ").unwrap().0;
            (key.to_owned(), default.trim_matches('`').to_owned())
        })
        .collect();
    let mut wanted = flatten(&Settings::default());
    wanted.extend(OPTIONAL.map(|key| (key.to_owned(), "none".to_owned())));
    assert_eq!(rows.len(), wanted.len());
    for setting in wanted {
        assert!(rows.contains(&setting), "{setting:?} of {rows:?}");
    }
}

/// Where colours tell nothing, what a network learned without labels in half a minute agrees with the parts, and raw pixels
/// do not, on their best grid or the finest; nor does the network before it learned. Measured over three seeds:
/// `results/2026-11-parts.md`.
#[test]
fn trained_features_find_parts_that_raw_pixels_cannot() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let data = "synthetic:scenes?parts=texture&train=640&test=240";
    let arguments = ["pretrain", "scenes/simclr", "--out", "run", "--data", data];
    let settings = [
        "backbone.width=0.125",
        "backbone.stem=cifar",
        "data.batch_size=64",
        "data.threads=1",
        "train.max_steps=150",
        "train.schedule.warmup_epochs=0",
        "train.knn.every_epochs=0",
        "train.threads=1",
        "view.0.steps.0.scale=[0.1,0.125]",
        "view.0.steps.0.ratio=[0.9,1.1]",
        "view.0.steps.2.hue=0.5",
        "view.0.steps.2.saturation=0.8",
        "view.0.steps.3.probability=0.5",
    ];
    diptych(folder, &[&arguments[..], &settings].concat()).assert().success();
    let numbers = |arguments: &[&str], out: &str| {
        let same = ["--json", "--data", data, "--out", out, "parts.size=96", "parts.picture=96"];
        let more = ["parts.clusters=4,5", "images=24", "threads=1", "parts.blocks=4"];
        let all = [&["analyze", "parts"], arguments, &same[..], &more].concat();
        let output = diptych(folder, &all).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["numbers"].clone()
    };
    let of = |numbers: &Value, name: &str| {
        ["part_ari", "part_iou"].map(|what| numbers[format!("{name}/{what}")].as_f64().unwrap())
    };
    let found = numbers(&["run", "--name", "Trained", "--untrained", "--pixels"], "all");
    let trained = of(&found, "Trained/block4");
    let others = [
        of(&found, "Untrained/block4"),
        of(&found, "Raw pixels"),
        of(&numbers(&["--pixels", "parts.raw_grid=48"], "fine"), "Raw pixels"),
        of(&numbers(&["--pixels", "parts.raw_resize=area"], "area"), "Raw pixels"),
    ];
    for other in others {
        let better = trained[0] > other[0] + 0.03 && trained[1] > other[1] + 0.015;
        assert!(better, "trained {trained:?}, all others {others:?}");
    }
}
