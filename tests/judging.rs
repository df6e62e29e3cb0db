//! What evaluations tell beside their number, from outside: groups of a long tail, tables over several seeds, the alignment of
//! views; and fine-tuning on sets with splits and metrics of their own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use program::{diptych, failure, json};
use serde_json::Value;
use std::fs;
use std::path::Path;

const DATA: &str = "synthetic:scenes?train=96&test=48";

/// Pictures of one colour by class, into `folder/name`.
fn pictures(folder: &Path, classes: &[(&str, u8)]) {
    for (class, (name, count)) in (0u8..).zip(classes) {
        let place = folder.join(name);
        fs::create_dir_all(&place).unwrap();
        for at in 0..*count {
            let color = image::Rgb([at % 4 * 9, 40 + 100 * class, 90]);
            image::RgbImage::from_pixel(24, 20, color)
                .save(place.join(format!("{at}.png")))
                .unwrap();
        }
    }
}

fn long_tail(folder: &Path, run: &str) {
    let tail = folder.join("tail");
    pictures(&tail.join("train"), &[("common", 40), ("rare", 3)]);
    pictures(&tail.join("test"), &[("common", 5), ("rare", 5)]);
    let tail = tail.to_str().unwrap();
    for protocol in ["knn", "linear", "logistic"] {
        let told = |groups: &str| {
            json(
                &["evaluate", protocol, run, "--data", tail, "knn.k=3", "threads=1", groups][..]
                    .iter()
                    .filter(|it| protocol == "knn" || !it.starts_with("knn."))
                    .copied()
                    .collect::<Vec<_>>(),
            )
        };
        let found = told("groups=auto");
        let (medium, few) = (&found["also"]["medium_top1"], &found["also"]["few_top1"]);
        let mean = f64::midpoint(medium["value"].as_f64().unwrap(), few["value"].as_f64().unwrap());
        assert!(
            (mean - found["value"].as_f64().unwrap()).abs() < 1e-12,
            "as many of each: {found}"
        );
        assert!(found["also"]["many_top1"].is_null() && few["interval_95"].is_array());
        assert_eq!(found["settings"]["groups"]["few"], 19);
        assert!(told("groups=off")["also"]["few_top1"].is_null());
        assert_eq!(told("groups=cld")["settings"]["groups"]["few"], 20);
    }
    // Not a long tail; a protocol that ranks no classes.
    let even = json(&["evaluate", "knn", run, "threads=1"]);
    assert!(even["also"]["many_top1"].is_null() && even["settings"]["groups"].is_null());
    for protocol in ["retrieval", "quality"] {
        let (code, text) = failure(&["evaluate", protocol, run, "groups=liu", "threads=1"]);
        assert!(code != 0 && text.contains("group"), "{text}");
    }
}

fn several_seeds(run: &str) {
    let found = json(&["evaluate", "knn", run, "seeds=3", "data.holdout=0.25", "threads=1"]);
    let queries = found["data"]["queries"].as_u64().unwrap();
    let folder = Path::new(run).join("evaluations/details");
    let details: Vec<Value> = fs::read_dir(folder)
        .unwrap()
        .map(|file| serde_json::from_slice(&fs::read(file.unwrap().path()).unwrap()).unwrap())
        .filter(|details: &Value| details["seeds"].is_array())
        .collect();
    assert_eq!(details.len(), 1);
    assert_eq!(details[0]["seeds"].as_array().unwrap().len(), 3);
    let rows = details[0]["confusion"].as_array().unwrap();
    let all: u64 =
        rows.iter().flat_map(|row| row.as_array().unwrap()).map(|it| it.as_u64().unwrap()).sum();
    assert_eq!(all, 3 * queries);
    let right: u64 = rows.iter().enumerate().map(|(class, row)| row[class].as_u64().unwrap()).sum();
    let value = found["value"].as_f64().unwrap();
    assert!((value - right as f64 / all as f64).abs() < 1e-12, "the number is that of the table");
    let page = fs::read_to_string(Path::new(run).join("report.html")).unwrap();
    assert!(page.contains("Counts are sums over the seeds"));
}

/// A number says which part of the data it is of, and whether that was trained on.
fn parts_of_data(folder: &Path, run: &str) {
    let knn = |model: &str, more: &[&str]| {
        json(&[&["evaluate", "knn", model, "knn.k=3", "threads=1"], more].concat())
    };
    let whole = knn(run, &["data.limit=48"]);
    let held = knn(run, &["data.limit=48", "data.holdout=0.5"]);
    assert_eq!(whole["data"]["cut"], serde_json::json!({ "limit": 48 }));
    let cut = serde_json::json!({ "limit": 48, "holdout": 0.5, "trained_on": true });
    assert_eq!(held["data"]["cut"], cut);
    let counts =
        |found: &Value| (found["data"]["references"].clone(), found["data"]["queries"].clone());
    assert_eq!(counts(&whole), counts(&held));
    let text = diptych(&["evaluate", "knn", run, "data.holdout=0.5", "seeds=2"]).output().unwrap();
    let text = String::from_utf8_lossy(&text.stderr).into_owned();
    assert!(text.contains("were trained on, without their labels"), "{text}");
    // What a run held out is asked about where it was held out, and nowhere else.
    let out = folder.join("held");
    let out = out.to_str().unwrap();
    let mut small = vec!["pretrain", "scenes/simclr", "--out", out, "--data", DATA];
    small.extend(["backbone.width=0.125", "data.batch_size=16", "train.max_steps=1"]);
    small.extend(["train.threads=1", "train.knn.every_epochs=0", "data.holdout=0.25"]);
    diptych(&small).assert().success();
    let own = knn(out, &[]);
    assert_eq!(own["data"]["cut"], serde_json::json!({ "holdout": 0.25 }));
    let other = knn(out, &["--data", "synthetic:scenes?train=60&test=36"]);
    assert_eq!(counts(&other), (60.into(), 36.into()));
    // One split asks about itself, and no image finds itself.
    let itself = json(&["evaluate", "retrieval", run, "retrieval.same=true", "threads=1"]);
    assert_eq!(counts(&itself), (48.into(), 48.into()));
    let least = &itself["also"]["without_match_share"]["value"];
    assert_eq!(least.as_f64(), Some(0.0), "{itself}");
    // Each seed has chosen for itself.
    let chosen = json(&["evaluate", "logistic", run, "seeds=2", "data.holdout=0.5", "threads=1"]);
    let lambda = &chosen["chosen"]["lambda"];
    assert!(lambda.is_number() || lambda.as_array().is_some_and(|all| all.len() == 2), "{chosen}");
}

fn alignment(folder: &Path, run: &str) {
    let quality = |model: &str, more: &[&str]| {
        let settings = ["threads=1", "invariance.images=8", "alignment.images=12"];
        json(&[&["evaluate", "quality", model][..], &settings, more].concat())
    };
    let value = |found: &Value| found["also"]["alignment"]["value"].as_f64();
    let square = quality(run, &[]);
    let plain = quality(run, &["quality.alpha=1"]);
    // On a sphere, lengths are at most 2, and the mean of squares is at least the square of the mean.
    let (square_value, plain_value) = (value(&square).unwrap(), value(&plain).unwrap());
    assert!(0.0 < square_value && square_value < 4.0);
    assert!(
        plain_value.powi(2) <= square_value + 1e-12 && (plain_value - square_value).abs() > 1e-9
    );
    assert!(square["also"]["alignment"]["interval_95"].is_array());
    let named = quality(run, &["alignment.views=byol"]);
    assert!((value(&named).unwrap() - square_value).abs() > 1e-9);
    // Weights alone have no views of their own.
    let file = folder.join("copy.safetensors");
    fs::copy(Path::new(run).join("checkpoints/last.safetensors"), &file).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(value(&quality(file, &["--data", DATA])), None);
    let same = quality(file, &["--data", DATA, "alignment.views=byol", "seeds=2"]);
    assert!(value(&same).is_some());
    let (code, text) = failure(&["evaluate", "quality", run, "alignment.views=byoll"]);
    assert!(code == 2 && text.contains("did you mean `byol`?"), "{text}");
}

/// Fine-tuning where an image shows any number of classes: a cat on the red, a dog on the green ones.
fn several_classes(folder: &Path, run: &str) {
    let voc = folder.join("voc/VOCdevkit/VOC2007");
    let lists = voc.join("ImageSets/Main");
    fs::create_dir_all(&lists).unwrap();
    fs::create_dir_all(voc.join("JPEGImages")).unwrap();
    let shows = |image: u32, class: &str| match class {
        "cat" => image.is_multiple_of(2),
        "dog" => (image / 2).is_multiple_of(2),
        _ => false,
    };
    let classes = "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person \
                   pottedplant sheep sofa train tvmonitor";
    for (split, images) in [("train", 0..16), ("val", 16..24), ("test", 24..36)] {
        let names = images.clone().map(|image| format!("{image:06}\n"));
        fs::write(lists.join(format!("{split}.txt")), names.collect::<String>()).unwrap();
        for class in classes.split_whitespace() {
            let mark = |image| match shows(image, class) {
                // Left out for that class.
                false if (image, class) == (24, "cow") => 0,
                shown => 2 * i32::from(shown) - 1,
            };
            let lines = images.clone().map(|image| format!("{image:06} {}\n", mark(image)));
            let file = lists.join(format!("{class}_{split}.txt"));
            fs::write(file, lines.collect::<String>()).unwrap();
        }
        for image in images {
            let [red, green] = ["cat", "dog"].map(|class| 200 * u8::from(shows(image, class)));
            let color = image::Rgb([red, green, (image % 7 * 20) as u8]);
            let file = voc.join(format!("JPEGImages/{image:06}.jpg"));
            image::RgbImage::from_pixel(40, 40, color).save(file).unwrap();
        }
    }
    let data = format!("transfer:voc2007:{}", folder.join("voc").display());
    let out = folder.join("tuned-voc");
    let tune =
        ["evaluate", "finetune", run, "--data", &data, "--out", out.to_str().unwrap(), "threads=1"];
    let small = ["--preprocess", "resize-32", "max_steps=12", "batch_size=8"];
    let grid =
        ["grid.learning_rates=[0.1, 0.001]", "grid.decays=[0.0]", "--protocol", "transfer-ssl"];
    let found = json(&[&tune[..], &small, &grid].concat());
    assert_eq!(found["metric"], "mean_average_precision");
    assert_eq!(found["settings"]["validation"], "official");
    assert_eq!((&found["data"]["references"], &found["data"]["queries"]), (&24.into(), &12.into()));
    assert_eq!(found["settings"]["grid"].as_array().unwrap().len(), 2);
    // Half of the images show either class: chance is about a half, and two colours are learned in a few steps.
    assert!(found["value"].as_f64().unwrap() > 0.8, "{found}");
    assert!(found["also"].get("top1").is_none(), "{found}");
    let again = json(&[&tune[..], &small, &grid].concat());
    assert_eq!(again["value"], found["value"], "what is finished is not done again");
    assert_eq!(found["settings"]["difficult"], "ignore");
    let (code, text) = failure(&[&tune[..], &["groups=liu"]].concat());
    assert!(code == 2 && text.contains("`groups` tells apart classes"), "{text}");
    let (code, text) = failure(&[&tune[..], &["data.label_fraction=0.1"]].concat());
    assert!(code == 2 && text.contains("`data.label_fraction` keeps the same share"), "{text}");
}

fn transfer_sets(folder: &Path, run: &str) {
    let pets = folder.join("pets");
    pictures(&pets, &[("cat", 14), ("dog", 14)]);
    for (list, images) in [("train.txt", 0..10), ("test.txt", 10..14)] {
        let lines =
            images.flat_map(|at| [format!("cat/{at}.png 0\n"), format!("dog/{at}.png 1\n")]);
        fs::write(pets.join(list), lines.collect::<String>()).unwrap();
    }
    let data = format!("transfer:pets:{}", pets.display());
    let out = folder.join("tuned");
    let tune =
        ["evaluate", "finetune", run, "--data", &data, "--out", out.to_str().unwrap(), "threads=1"];
    let small = ["--preprocess", "resize-32", "max_steps=2", "batch_size=4"];
    let grid =
        ["grid.learning_rates=[0.01, 0.1]", "grid.decays=[0.0]", "--protocol", "transfer-ssl"];
    let found = json(&[&tune[..], &small, &grid].concat());
    assert_eq!(found["metric"], "mean_per_class");
    assert!(found["also"]["top1"]["value"].is_f64());
    assert_eq!(found["settings"]["set"], "pets");
    assert_eq!(found["settings"]["validation"], "a fifth of train");
    assert_eq!((&found["data"]["references"], &found["data"]["queries"]), (&20.into(), &8.into()));
    assert_eq!(found["settings"]["grid"].as_array().unwrap().len(), 2);
    // What was chosen is judged on four images, a fifth of the training images.
    for tried in found["settings"]["grid"].as_array().unwrap() {
        let shares = tried["value"].as_f64().unwrap() * 12.0;
        assert!((shares - shares.round()).abs() < 1e-9, "of one to four images a class: {tried}");
    }
    several_classes(folder, run);
    let (code, text) = failure(&[&tune[..], &["data.holdout=0.2"]].concat());
    assert!(code == 2 && text.contains("`data.holdout` does not go with"), "{text}");
}

#[test]
fn evaluations_tell_more_than_a_number() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let run = run.to_str().unwrap();
    let small = [
        "pretrain",
        "scenes/simclr",
        "--out",
        run,
        "--data",
        DATA,
        "backbone.width=0.125",
        "data.batch_size=16",
        "train.epochs=1",
        "train.schedule.warmup_epochs=0",
        "train.knn.every_epochs=0",
        "train.threads=1",
    ];
    diptych(&small).assert().success();
    long_tail(folder.path(), run);
    several_seeds(run);
    parts_of_data(folder.path(), run);
    alignment(folder.path(), run);
    transfer_sets(folder.path(), run);
}
