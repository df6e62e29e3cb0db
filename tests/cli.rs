//! The program from outside: what users type, and what they are told when something is wrong.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::Path;

fn diptych(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("diptych").unwrap();
    command.args(arguments);
    command
}

/// A run of a few small steps; `more` overrides more.
fn small_run<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["pretrain", "scenes/simclr", "--out", out];
    arguments.extend(["--data", "synthetic:scenes?train=96&test=48", "backbone.width=0.125"]);
    arguments.extend(["data.batch_size=16", "train.epochs=2", "train.schedule.warmup_epochs=0"]);
    arguments.extend(["train.knn.every_epochs=1", "train.threads=1"]);
    arguments.extend(more);
    arguments
}

/// Runs a command that must fail: its exit code and what it prints to stderr.
fn failure(arguments: &[&str]) -> (i32, String) {
    let output = diptych(arguments).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{text}");
    (output.status.code().unwrap(), text)
}

fn json(arguments: &[&str]) -> Value {
    let output = diptych(arguments).arg("--json").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every protocol that looks at the network or at stored features, on a run that k-NN has judged.
fn every_protocol(out: &str, knn: &Value) {
    for (protocol, settings, metric) in [
        ("logistic", &["logistic.max_iterations=20"][..], "top1"),
        ("retrieval", &["retrieval.k=[1,5]"], "recall_at_1"),
        ("clusters", &["clusters.seeds=2"], "nmi"),
        ("few-shot", &["few_shot.ways=2", "few_shot.shots=1", "few_shot.queries=1"], "accuracy"),
        ("quality", &["invariance.images=8"], "rank_me"),
        (
            "probe",
            &["probe.epochs=1", "probe.hidden=8", "probe.questions=[\"noise\"]"],
            "noise_h_top1",
        ),
        ("knn", &["seeds=2", "data.holdout=0.25"], "top1"),
        ("finetune", &["epochs.all=1", "batch_size=32"], "top1"),
    ] {
        let found = json(&[&["evaluate", protocol, out, "threads=1"], settings].concat());
        assert_eq!(found["metric"], metric, "{protocol}");
        assert!(found["value"].is_f64(), "{protocol}: {found}");
        if protocol == "knn" {
            let values = found["repeats"]["values"].as_array().unwrap();
            let mean = values.iter().map(|value| value.as_f64().unwrap()).sum::<f64>() / 2.0;
            assert!((found["value"].as_f64().unwrap() - mean).abs() < 1e-12, "{found}");
        }
        // All of them leave the backbone alone; fine-tuning moves a copy.
        let frozen = found["weights"]["frozen"].as_bool().unwrap();
        assert_eq!(frozen, protocol != "finetune", "{protocol}");
        assert_eq!(found["weights"]["hash_before"], knn["weights"]["hash_before"]);
    }
    for (protocol, option) in [("probe", "--baselines"), ("quality", "--baselines")] {
        let (code, text) = failure(&["evaluate", protocol, out, option]);
        assert!(code == 2 && text.contains("has no `--baselines`"), "{text}");
    }
}

/// A table of transfer sets: one as plain lists, one that is not there.
fn transfers(folder: &Path, out: &str) {
    let pets = folder.join("pets");
    fs::create_dir(&pets).unwrap();
    for (list, images) in [("train.txt", 0..20), ("test.txt", 20..28)] {
        let line = |image: u8| {
            let name = format!("{image}.png");
            let color = image::Rgb([image % 4 * 9, 40 + 100 * (image % 2), 90]);
            image::RgbImage::from_pixel(24, 20, color).save(pets.join(&name)).unwrap();
            format!("{name} {}\n", image % 2)
        };
        fs::write(pets.join(list), images.map(line).collect::<String>()).unwrap();
    }
    let suite = folder.join("suite.toml");
    let sets =
        "[[set]]\nname = \"pets\"\npath = \"pets\"\n[[set]]\nname = \"dtd\"\npath = \"none\"\n";
    fs::write(&suite, sets).unwrap();
    let transfer = ["evaluate", "transfer", out, "--suite", suite.to_str().unwrap(), "threads=1"];
    let found = json(&[&transfer[..], &["--preprocess", "resize-32"]].concat());
    assert_eq!(found["sets"][0]["metric"], "mean_per_class");
    assert_eq!(found["sets"][0]["data"]["queries"], 8);
    assert_eq!(found["sets"][0]["value"], 1.0, "two colours are told apart: {found}");
    assert_eq!(found["missing"][0]["name"], "dtd");
    let (code, text) = failure(&[&transfer[..], &["seeds=2"]].concat());
    assert!(code == 2 && text.contains("`seeds` does not go with"), "{text}");
}

#[test]
fn pre_train_judge_and_report() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("a run with spaces é");
    let out = run.to_str().unwrap();
    let trained = json(&small_run(out, &[]));
    assert_eq!(trained["state"], "finished");
    assert_eq!(trained["steps"], 12);
    for key in ["views_per_second", "wall_seconds", "peak_memory_mb", "final_loss", "run"] {
        assert!(!trained[key].is_null(), "{key} is missing: {trained}");
    }
    for file in ["recipe.toml", "environment.json", "metrics.jsonl", "log.txt", "report.html"] {
        assert!(run.join(file).is_file(), "{file} is missing");
    }
    for file in ["checkpoints/last.safetensors", "checkpoints/previous.safetensors"] {
        assert!(run.join(file).is_file(), "{file} is missing");
    }
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert!(metrics.contains("knn/top1"), "{metrics}");

    // The resolved recipe is a recipe.
    let resolved = run.join("recipe.toml");
    let shown = json(&["recipes", "show", resolved.to_str().unwrap()]);
    assert_eq!(shown["train"]["threads"], 1);
    assert_eq!(shown["data"]["micro_batch_size"], 16);

    // The same command again changes nothing.
    let before = fs::read(run.join("checkpoints/last.safetensors")).unwrap();
    let again = json(&small_run(out, &[]));
    assert_eq!(again["final_loss"], trained["final_loss"]);
    assert_eq!(before, fs::read(run.join("checkpoints/last.safetensors")).unwrap());

    let knn = json(&["evaluate", "knn", out, "--baselines", "knn.k=20"]);
    assert_eq!(knn["protocol"], "knn");
    assert_eq!(knn["data"]["queries"], 48);
    assert_eq!(knn["weights"]["frozen"], true);
    assert_eq!(knn["weights"]["hash_before"], knn["weights"]["hash_after"]);
    let interval = [&knn["interval_95"][0], &knn["interval_95"][1]].map(|v| v.as_f64().unwrap());
    let value = knn["value"].as_f64().unwrap();
    assert!(interval[0] <= value && value <= interval[1]);
    assert!(knn["baselines"]["pixels"]["value"].is_f64());
    let stored = fs::read_dir(run.join("features")).unwrap().count();
    let linear = json(&["evaluate", "linear", out, "linear.epochs=5"]);
    assert_eq!(linear["protocol"], "linear-features");
    assert_eq!(fs::read_dir(run.join("features")).unwrap().count(), stored, "features are reused");
    for folder in ["evaluations", "evaluations/details"] {
        let files = fs::read_dir(run.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        assert_eq!(files.filter(|path| path.is_file()).count(), 2, "{folder}");
    }

    every_protocol(out, &knn);
    transfers(folder.path(), out);

    let z = json(&["evaluate", "knn", out, "--layer", "z", "knn.k=5"]);
    assert_eq!(z["layer"], "z");
    let (code, text) = failure(&["evaluate", "knn", out, "--layer", "g9"]);
    assert!(code == 2 && text.contains("has no layer g9"), "{text}");
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(page.contains("Images of a class (row)"), "the confusion matrix is shown");

    // A checkpoint by itself gives the same number as the run.
    let checkpoint = run.join("checkpoints/last.safetensors");
    let data = ["--data", "synthetic:scenes?train=96&test=48", "knn.k=20"];
    let alone = json(&[&["evaluate", "knn", checkpoint.to_str().unwrap()], &data[..]].concat());
    assert_eq!(alone["value"], knn["value"]);

    let features = folder.path().join("features.safetensors");
    let embed = ["embed", out, "--split", "test", "--out", features.to_str().unwrap()];
    assert_eq!(json(&embed)["images"], 48);
    let tensors = tch::Tensor::read_safetensors(&features).unwrap();
    let h = tensors.iter().find(|(name, _)| name == "h").unwrap();
    assert_eq!(h.1.size(), [48, 64]);
    let table = folder.path().join("features.csv");
    let embed = ["embed", out, "--split", "test", "--layer", "block2"];
    json(&[&embed[..], &["--out", table.to_str().unwrap()]].concat());
    let text = fs::read_to_string(&table).unwrap();
    assert_eq!(text.lines().count(), 49);
    assert_eq!(text.lines().next().unwrap().split(',').count(), 3 + 16);

    let page = fs::read_to_string(run.join("report.html")).unwrap();
    for expected in
        ["Nearest neighbours", "Augmented views", "knn-", "linear-features", "48 queries"]
    {
        assert!(page.contains(expected), "the report lacks {expected}");
    }
    assert!(!page.contains("src=\"http"));
}

#[test]
fn a_wrong_key_type_or_range_is_exit_2_and_names_the_key() {
    let cases = [
        ("train.epoch=3", "did you mean `train.epochs`"),
        ("method.temprature=0.5", "did you mean `method.temperature`"),
        (
            "train.optimizer.name=adam",
            "set all of it together, 'train.optimizer={ name = \"adam\", ... }'",
        ),
        ("train.epochs=many", "`train.epochs` must be a whole number, at least 0, found `many`"),
        ("method.temperature=-1", "`method.temperature` must be above 0, found `-1`"),
        ("data.batch_size=1", "`data.batch_size` must be at least 2"),
        ("data.micro_batch_size=7", "`data.micro_batch_size` must be a divisor"),
        ("backbone.name=resnet19", "resnet18"),
        ("train.device=tpu", "auto, cpu, cuda or cuda:N"),
        ("view.0.count=3", "2 views in all"),
        ("train.precision=float8", "`float32`, `bfloat16`, `float64`"),
    ];
    for (change, expected) in cases {
        let (code, text) = failure(&["pretrain", "scenes/simclr", "--dry-run", change]);
        assert_eq!(code, 2, "{change}: {text}");
        assert!(text.contains(expected), "{change}: {text}");
    }
    let (code, text) = failure(&["pretrain", "scenes/simcrl"]);
    assert!(code == 2 && text.contains("did you mean `scenes/simclr`"), "{text}");
    let (code, text) = failure(&["evaluate", "knn"]);
    assert!(code == 2 && text.contains("MODEL"), "{text}");
}

#[test]
fn what_newcomers_type_is_answered_with_the_way_out() {
    let cases: [(&[&str], i32, &str); 5] = [
        (
            &["pretrain", "scenes/simclr", "--epochs", "4"],
            2,
            "given as key=value: `train.epochs=4`",
        ),
        (&["pretrain", "scenes/simclr", "--dryrun"], 2, "'--dry-run'"),
        (&["pretrain", "simclr"], 2, "/simclr`?"),
        (&["pretrain", "scenes/simclr", "qqqq=1"], 2, "begin with `backbone.`, `data.`, "),
        (&["runs", "show", "src"], 1, "is not the folder of a run"),
    ];
    for (arguments, code, expected) in cases {
        let (found, text) = failure(arguments);
        assert_eq!(found, code, "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
}

#[test]
fn a_folder_without_labels_is_trained_on_and_not_judged() {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    fs::create_dir(&photos).unwrap();
    for number in 0..6u8 {
        let picture = image::RgbImage::from_fn(20, 16, |x, y| {
            image::Rgb([number * 40, (x * 12) as u8, (y * 15) as u8])
        });
        picture.save(photos.join(format!("{number}.png"))).unwrap();
    }
    let (run, photos) = (folder.path().join("run"), photos.to_str().unwrap());
    let out = run.to_str().unwrap();
    let mut arguments = vec!["pretrain", "folder/simclr", "--data", photos, "--out", out];
    arguments.extend(["backbone.width=0.125", "data.batch_size=4", "train.epochs=1"]);
    arguments.extend(["view.0.steps.0.size_px=32", "train.threads=1"]);
    let plan = diptych(&[&arguments[..], &["--dry-run"]].concat()).output().unwrap();
    let plan = String::from_utf8(plan.stdout).unwrap();
    assert!(plan.contains("leaves out 2 others"), "{plan}");
    json(&arguments);
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(page.contains("First column: an image. Behind it the other images"), "{page}");
    assert!(!page.contains("green where the class agrees") && !page.contains("left_out"));
    let (code, text) = failure(&["evaluate", "knn", out, "data.holdout=0.5"]);
    assert!(code == 3 && text.contains("has no labels"), "{text}");
    *arguments.iter_mut().find(|word| **word == "train.epochs=1").unwrap() = "train.epochs=2";
    let (code, text) = failure(&arguments);
    assert!(code == 2 && text.contains("use --extend to make it longer"), "{text}");
}

#[test]
fn failures_are_told_as_json_too() {
    let output = diptych(&["data", "show", "no/such/place", "--json"]).output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["exit_code"], 3);
    assert!(told["error"].as_str().unwrap().contains("no/such/place"));
}

#[test]
fn bad_data_is_exit_3() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(path("empty")).unwrap();
    fs::write(path("cut.parquet"), b"PAR1 and then nothing").unwrap();
    for (data, expected) in [
        (path("empty"), "empty"),
        (path("missing"), "does not exist"),
        (path("cut.parquet"), "cut.parquet"),
    ] {
        let (code, text) = failure(&["pretrain", "scenes/simclr", "--data", &data, "--dry-run"]);
        assert_eq!(code, 3, "{data}: {text}");
        assert!(text.contains(expected), "{text}");
    }
    let (code, text) = failure(&["pretrain", "cifar10/simclr"]);
    assert!(code == 2 && text.contains("--data"), "{text}");
}

#[test]
fn too_many_damaged_images_stop_the_run_and_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    fs::create_dir(&photos).unwrap();
    for index in 0..24 {
        let picture = image::RgbImage::from_fn(40, 30, |x, y| {
            image::Rgb([(x * 6) as u8, (y * 8) as u8, (index * 10) as u8])
        });
        picture.save(photos.join(format!("{index:02}.png"))).unwrap();
    }
    let whole = fs::read(photos.join("03.png")).unwrap();
    fs::write(photos.join("03.png"), &whole[..whole.len() / 2]).unwrap();
    let run = folder.path().join("run");
    let (photos, out) = (photos.to_str().unwrap(), run.to_str().unwrap());
    let command = |more: &'static str| {
        let mut arguments = vec!["pretrain", "scenes/simclr", "--data", photos, "--out", out];
        arguments.extend(["backbone.width=0.125", "data.batch_size=8", "train.epochs=2"]);
        arguments.extend(["train.schedule.warmup_epochs=0", more]);
        arguments
    };
    let (code, text) = failure(&command("data.max_damaged=0.01"));
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("03.png") && text.contains("data.max_damaged"), "{text}");
    // The same run goes on once a damaged image in twenty-four is tolerated, and counts it.
    let finished = json(&command("data.max_damaged=0.05"));
    assert_eq!(finished["state"], "finished");
    assert_eq!(finished["damaged"], 1);
}

#[test]
fn what_is_computed_cannot_change_in_a_run_folder() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let out = run.to_str().unwrap();
    json(&small_run(out, &["train.max_steps=2"]));
    let (code, text) = failure(&small_run(out, &["train.max_steps=2", "method.temperature=0.3"]));
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("method.temperature: 0.1 -> 0.3"), "{text}");
    let (code, text) = failure(&small_run(out, &["train.max_steps=4"]));
    assert!(code == 2 && text.contains("train.max_steps: 2 -> 4"), "{text}");
    let extended = json(&small_run(out, &["train.max_steps=4", "--extend"]));
    assert_eq!(extended["steps"], 4);
    // Longer is longer, however it is said: two epochs are 12 steps.
    let (code, text) = failure(&small_run(out, &["train.max_steps=3", "--extend"]));
    assert!(code == 2 && text.contains("3 steps in place of 4"), "{text}");
    let whole = folder.path().join("whole");
    let whole = whole.to_str().unwrap();
    assert_eq!(json(&small_run(whole, &[]))["steps"], 12);
    let (code, text) = failure(&small_run(whole, &["train.max_steps=5", "--extend"]));
    assert!(code == 2 && text.contains("5 steps in place of 12"), "{text}");
    // How it is computed may change.
    let same = json(&small_run(out, &["train.max_steps=4", "data.threads=1"]));
    assert_eq!(same["steps"], 4);
    let fresh = json(&small_run(out, &["train.max_steps=1", "--fresh"]));
    assert_eq!(fresh["steps"], 1);
    assert!(folder.path().join("run.old-1/recipe.toml").is_file());
}

#[test]
fn a_damaged_checkpoint_falls_back_and_two_are_exit_6() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let out = run.to_str().unwrap();
    json(&small_run(out, &["train.max_steps=4", "train.checkpoint_every_steps=1"]));
    let last = run.join("checkpoints/last.safetensors");
    let whole = fs::read(&last).unwrap();
    let cut = |path: &Path| {
        fs::remove_file(path).unwrap();
        fs::write(path, &whole[..whole.len() / 3]).unwrap();
    };
    cut(&last);
    let (code, text) = failure(&["evaluate", "knn", out]);
    assert!(code == 6 && text.contains("is damaged"), "{text}");
    fs::remove_file(run.join("status.json")).unwrap();
    let output = diptych(&small_run(out, &["train.max_steps=4"])).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && text.contains("previous.safetensors"), "{text}");
    assert_eq!(fs::read(&last).unwrap(), whole, "the last step was made again, bit for bit");
    cut(&last);
    cut(&run.join("checkpoints/previous.safetensors"));
    fs::remove_file(run.join("status.json")).unwrap();
    let (code, text) = failure(&small_run(out, &["train.max_steps=4"]));
    assert!(code == 6 && text.contains("--fresh"), "{text}");
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let change = ["train.optimizer.learning_rate=1e30"];
    let (code, text) = failure(&small_run(run.to_str().unwrap(), &change));
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("loss NaN") && text.contains("learning rate"), "{text}");
}

#[test]
fn the_small_commands_answer() {
    let plan = json(&["pretrain", "cifar10/simclr", "--data", "synthetic:scenes", "--dry-run"]);
    assert!(plan["predicted_peak_memory_mb"].as_u64().unwrap() > 100, "{plan}");
    assert_eq!(plan["backbone_parameters"], 11_168_832);
    let list = json(&["recipes", "list"]);
    assert!(list["recipes"].as_array().unwrap().len() >= 5);
    let doctor = json(&["doctor"]);
    assert!(doctor["libtorch"].as_str().unwrap().starts_with("2.11"), "{doctor}");
    let shown = json(&["data", "show", "synthetic:scenes"]);
    assert!(shown["format"].as_str().unwrap().contains("synthetic"), "{shown}");
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("views.png");
    let views = ["views", "cifar10/simclr", "--data", "synthetic:scenes", "--images", "3"];
    let views = json(&[&views[..], &["--out", picture.to_str().unwrap()]].concat());
    assert_eq!(views["images"].as_array().unwrap().len(), 3);
    assert!(image::open(&picture).unwrap().width() > 200);
    let commands =
        ["pretrain", "embed", "evaluate", "views", "data", "recipes", "report", "doctor"];
    let protocols = ["knn", "linear", "logistic", "retrieval", "clusters", "few-shot", "finetune"];
    let protocols = protocols.into_iter().chain(["probe", "quality", "transfer"]);
    let protocols: Vec<String> = protocols.map(|name| format!("evaluate {name}")).collect();
    for command in commands.into_iter().chain(protocols.iter().map(String::as_str)) {
        let mut output =
            diptych(&[&command.split(' ').collect::<Vec<_>>()[..], &["--help"]].concat());
        let help = String::from_utf8(output.output().unwrap().stdout).unwrap();
        assert!(help.contains("Example"), "{command} --help has no example");
    }
}

#[test]
fn a_run_can_start_from_the_weights_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let (first, second) = (first.to_str().unwrap(), second.to_str().unwrap());
    json(&small_run(first, &["train.max_steps=2"]));
    let weights = format!("backbone.weights={first}");
    let still = ["train.max_steps=1", "train.optimizer.learning_rate=1e-30", &weights];
    let started = json(&small_run(second, &still));
    let told = started["history"][0]["text"].as_str().unwrap();
    assert!(told.starts_with("started from weights "), "{started}");
    let conv = |run: &str, place: &str| {
        let file = format!("{run}/checkpoints/last.safetensors");
        let tensors = tch::Tensor::read_safetensors(file).unwrap();
        let wanted = format!("{place}.conv1.weight");
        tensors.into_iter().find(|(name, _)| *name == wanted).unwrap().1
    };
    assert_eq!(conv(first, "backbone"), conv(second, "backbone"));
    // A network that follows starts equal to the one it follows, not to that one's first draw.
    for recipe in ["scenes/moco", "scenes/byol", "scenes/infomin"] {
        let run = folder.path().join(recipe.replace('/', "-"));
        let run = run.to_str().unwrap();
        let mut arguments = small_run(run, &still);
        arguments[1] = recipe;
        json(&arguments);
        for place in ["backbone", "momentum.backbone"] {
            assert_eq!(conv(first, "backbone"), conv(run, place), "{recipe}, {place}");
        }
    }
    // Neither the path nor the run's name is in the checkpoint.
    let bytes = fs::read(format!("{second}/checkpoints/last.safetensors")).unwrap();
    let path = folder.path().to_str().unwrap().as_bytes();
    assert!(!bytes.windows(path.len()).any(|window| window == path));

    let third = folder.path().join("third");
    let wider = ["train.max_steps=1", "backbone.width=0.25", &weights];
    let (code, text) = failure(&small_run(third.to_str().unwrap(), &wider));
    assert_eq!(code, 6, "{text}");
    assert!(text.contains("`backbone.weights`") && text.contains("shape"), "{text}");
    let missing = ["train.max_steps=1", "backbone.weights=no/such/model"];
    let (code, text) = failure(&small_run(third.to_str().unwrap(), &missing));
    assert!(code == 6 && text.contains("no/such/model"), "{text}");
}

#[test]
fn views_go_by_name_and_classes_can_be_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let out = run.to_str().unwrap();
    let some = ["view=mocov2@32", "data.classes=[\"boat\", \"car\"]", "train.max_steps=1"];
    json(&small_run(out, &some));
    let shown = json(&["recipes", "show", run.join("recipe.toml").to_str().unwrap()]);
    assert_eq!(shown["view"][0]["steps"][0]["size_px"], 32);
    assert_eq!(shown["data"]["classes"][1], "car");
    let knn = json(&["evaluate", "knn", out, "knn.k=5"]);
    assert_eq!((&knn["data"]["classes"], &knn["data"]["references"]), (&2.into(), &16.into()));
    let wrong = ["pretrain", "cifar10/simclr", "--data", "synthetic:scenes", "--dry-run"];
    let (code, text) = failure(&[&wrong[..], &["view=mocov3@32"]].concat());
    assert!(code == 2 && text.contains("did you mean `mocov"), "{text}");
    let (code, text) = failure(&[&wrong[..], &["view=swav_mc@32"]].concat());
    assert!(code == 2 && text.contains("2 views in all for method simclr, found `8`"), "{text}");
    let (code, text) = failure(&[&wrong[..], &["data.classes=[\"boot\"]"]].concat());
    assert!(code == 3 && text.contains("`boat`"), "{text}");
}

#[test]
fn random_bits_are_trained_on_and_present_at_evaluation() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let out = run.to_str().unwrap();
    let digits = "synthetic:digits?train=96&test=48";
    let bits = format!("random-bits:{digits}?bits=4");
    let mut arguments = vec!["pretrain", "mnist/randbits", "--out", out, "--data", &bits];
    arguments.extend(["data.batch_size=16", "backbone.width=0.125", "train.max_steps=3"]);
    arguments.extend(["train.threads=1", "train.knn.every_epochs=0"]);
    let (code, text) = failure(&arguments);
    assert!(code == 2 && text.contains("set `backbone.input_channels=7`"), "{text}");
    arguments.push("backbone.input_channels=7");
    assert_eq!(json(&arguments)["steps"], 3);
    let knn = json(&["evaluate", "knn", out, "--baselines", "knn.k=5"]);
    assert_eq!((&knn["data"]["queries"], &knn["weights"]["frozen"]), (&48.into(), &true.into()));
    assert_eq!(knn["data"]["format"], "synthetic digits (strokes, drawn), 4 random bits");
    let (code, text) = failure(&["evaluate", "knn", out, "--data", digits]);
    assert!(code == 3 && text.contains("takes 7 channels, the images have 3"), "{text}");
    assert!(text.contains("random-bits:BASE?bits=4"), "{text}");
    // What trains with the backbone, and what looks at views, is shown the bits, too.
    let small = ["epochs.all=1", "batch_size=48", "threads=1"];
    let tuned = json(
        &[&["evaluate", "finetune", out, "--protocol", "finetune-lightly"], &small[..]].concat(),
    );
    assert_eq!(tuned["data"]["queries"], 48);
    let probe = json(&["evaluate", "probe", out, "probe.epochs=1", "threads=1"]);
    assert!(probe["value"].as_f64().unwrap() <= 1.0);
}

#[test]
fn lists_and_shares_of_labels_choose_what_is_learned_from() {
    let folder = tempfile::tempdir().unwrap();
    let data = "synthetic:scenes?train=96&test=48";
    let list = folder.path().join("list.txt");
    let list = list.to_str().unwrap();
    let drawn = json(&["data", "subset", data, "--per-class", "2", "--out", list]);
    assert_eq!(
        (&drawn["images"], &drawn["of"], &drawn["few"]),
        (&24.into(), &96.into(), &12.into())
    );
    let run = folder.path().join("run");
    let out = run.to_str().unwrap();
    let subset = format!("data.subset={list}");
    let plan = |more: &[&str]| {
        json(&[&small_run("unused", more)[..], &["--dry-run"]].concat())["images"].clone()
    };
    assert_eq!(plan(&[&subset]), 24);
    assert_eq!(plan(&["data.label_fraction=0.25"]), 24);
    assert_eq!(
        plan(&[&subset, "data.label_fraction=1.0", "data.classes=[\"boat\"]", "data.batch_size=2"]),
        2
    );
    json(&small_run(out, &[&subset, "train.max_steps=1"]));
    // A list at another place is the same; another list is another run.
    let moved = folder.path().join("moved.txt");
    fs::rename(list, &moved).unwrap();
    let moved = format!("data.subset={}", moved.display());
    assert_eq!(json(&small_run(out, &[&moved, "train.max_steps=1"]))["state"], "finished");
    json(&["data", "subset", data, "--fraction", "0.5", "--out", list]);
    let (code, text) = failure(&small_run(out, &[&subset, "train.max_steps=1"]));
    assert!(code == 2 && text.contains("content of the data"), "{text}");
    let knn = json(&["evaluate", "knn", out, "knn.k=5", "data.label_fraction=0.25"]);
    assert_eq!((&knn["data"]["references"], &knn["data"]["queries"]), (&24.into(), &48.into()));
    assert_eq!(knn["data"]["cut"], serde_json::json!({ "label_fraction": 0.25 }));
    // A list of a hundredth of the labels is a hundredth, whoever drew it.
    let few = folder.path().join("few.txt");
    let few = few.to_str().unwrap();
    json(&["data", "subset", data, "--per-class", "1", "--out", few]);
    let (few, small) =
        (format!("data.subset={few}"), ["batch_size=8", "epochs.all=1", "threads=1"]);
    let tuned = json(
        &[
            &[
                "evaluate",
                "finetune",
                out,
                "--protocol",
                "semi-simclr",
                &few,
                "epochs.ten_percent=2",
            ],
            &small[..],
        ]
        .concat(),
    );
    assert_eq!(tuned["settings"]["epochs"], 2, "12 of 96 images: {tuned}");
    let knn = json(&["evaluate", "knn", out, "knn.k=5", &subset]);
    assert_eq!((&knn["data"]["references"], &knn["data"]["queries"]), (&48.into(), &48.into()));

    let other = "synthetic:scenes?train=97&test=48";
    let wrong = ["pretrain", "scenes/simclr", "--dry-run", "--data", other, &subset];
    let (code, text) = failure(&wrong);
    assert!(code == 3 && text.contains("draw again with `diptych data subset`"), "{text}");
    let (code, text) = failure(&small_run("unused", &["data.label_fraction=1.5"]));
    assert!(code == 2 && text.contains("`data.label_fraction` must be above 0"), "{text}");
}

#[test]
fn views_made_on_the_device_train_like_those_made_on_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let losses = ["host", "device"].map(|executor| {
        let run = folder.path().join(executor);
        let chosen = format!("data.executor={executor}");
        let trained = json(&small_run(run.to_str().unwrap(), &["train.max_steps=3", &chosen]));
        let resolved = fs::read_to_string(run.join("recipe.toml")).unwrap();
        assert!(resolved.contains(&format!("executor = \"{executor}\"")), "{resolved}");
        trained["final_loss"].as_f64().unwrap()
    });
    assert!((losses[0] - losses[1]).abs() < 0.01 * losses[0], "{losses:?}");
    let photos = folder.path().join("photos");
    fs::create_dir(&photos).unwrap();
    for side in [40, 41] {
        let name = photos.join(format!("{side}.png"));
        image::RgbImage::from_pixel(side, 40, image::Rgb([9; 3])).save(name).unwrap();
    }
    let run = folder.path().join("sizes");
    let mixed = ["pretrain", "scenes/simclr", "--data", photos.to_str().unwrap(), "--out"];
    let more = [run.to_str().unwrap(), "data.batch_size=2", "data.executor=device"];
    let (code, text) = failure(&[&mixed[..], &more].concat());
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("needs images of one size") && text.contains("41x40"), "{text}");
}
