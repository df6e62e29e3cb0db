//! What goes wrong in a run: the exit code, what is told, and what is left behind.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A small run on `data`; `more` overrides more.
fn arguments<'a>(out: &'a Path, data: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["pretrain", "scenes/simclr", "--out", out.to_str().unwrap()];
    arguments.extend(["--data", data, "backbone.width=0.125", "data.batch_size=16"]);
    arguments.extend(["train.schedule.warmup_epochs=0", "train.threads=1"]);
    arguments.extend(["train.knn.every_epochs=0", "train.log_every_steps=1"]);
    arguments.extend(more);
    arguments
}

const SCENES: &str = "synthetic:scenes?train=96&test=48";

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diptych"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(out: &Path, data: &str, more: &[&str]) -> (i32, String) {
    told(&program().args(arguments(out, data, more)).output().unwrap())
}

fn told(output: &Output) -> (i32, String) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!text.contains("panicked") && !text.contains("backtrace"), "{text}");
    (output.status.code().unwrap_or(-1), text)
}

fn read(out: &Path, name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(out.join(name)).unwrap()).unwrap()
}

/// The checkpoint's own account of itself.
fn header(out: &Path) -> Value {
    let bytes = fs::read(out.join("checkpoints/last.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let outer: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    serde_json::from_str(outer["__metadata__"]["diptych"].as_str().unwrap()).unwrap()
}

#[test]
fn each_sentinel_stops_a_run_that_is_ill_in_its_way() {
    let folder = tempfile::tempdir().unwrap();
    let noise = folder.path().join("noise");
    let grey = folder.path().join("grey");
    fs::create_dir(&noise).unwrap();
    fs::create_dir(&grey).unwrap();
    let mut state = 1u32;
    for index in 0..48 {
        let picture = image::RgbImage::from_fn(40, 40, |_, _| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [_, r, g, b] = state.to_be_bytes();
            image::Rgb([r, g, b])
        });
        picture.save(noise.join(format!("{index}.png"))).unwrap();
        let picture = image::RgbImage::from_pixel(40, 40, image::Rgb([120, 120, 120]));
        picture.save(grey.join(format!("{index}.png"))).unwrap();
    }
    let whole_image = "view.0.steps=[{name=\"resize\",size_px=32}]";
    let still = "train.optimizer.learning_rate=1e-30";
    let cases: [(&str, &str, &[&str], &str); 5] = [
        ("non_finite", SCENES, &["train.optimizer.learning_rate=1e30"], "learning rate too high"),
        ("stuck", SCENES, &["method.temperature=1e6", "train.epochs=12"], "ln(2N - 1) = 3.4340"),
        ("collapse", grey.to_str().unwrap(), &[whole_image, still], "nearly one vector"),
        ("rank", SCENES, &["method.projector.hidden=1"], "use 1.0 of 32 dimensions"),
        ("gap", noise.to_str().unwrap(), &[still], "are no closer than"),
    ];
    for (name, data, more, expected) in cases {
        let out = folder.path().join(name);
        let policy = format!("train.sentinels.{name}=stop");
        let all = [&["train.epochs=20", policy.as_str()], more].concat();
        let (code, text) = run(&out, data, &all);
        assert_eq!(code, 4, "{name}: {text}");
        assert!(text.contains(expected), "{name}: {text}");
        assert!(text.contains(&format!("`train.sentinels.{name}`")), "{text}");
        let status = read(&out, "status.json");
        assert_eq!(status["state"], "stopped");
        assert_eq!(status["warnings"][0]["name"], name, "{status}");
    }
}

#[test]
fn a_warning_lets_the_run_go_on_and_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let (code, text) = run(&out, SCENES, &["method.temperature=1e6", "train.epochs=12"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(text.matches("warning: stuck").count(), 1, "{text}");
    assert_eq!(read(&out, "status.json")["state"], "finished");
}

#[test]
fn steps_that_are_not_finite_can_be_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let ill = ["train.optimizer.learning_rate=1e30", "train.epochs=2"];
    let (code, text) =
        run(&out, SCENES, &[&ill[..], &["train.sentinels.non_finite=warn"]].concat());
    assert_eq!(code, 0, "{text}");
    let status = read(&out, "status.json");
    assert_eq!(status["left_out"], 11, "all but the first of 12: {status}");
    // Not one value of the network is NaN, its running statistics included.
    let tensors = tch::Tensor::read_safetensors(out.join("checkpoints/last.safetensors")).unwrap();
    for (name, tensor) in tensors {
        let finite = tensor.isfinite().all().int64_value(&[]) == 1;
        assert!(finite, "{name} is not finite");
    }
}

#[test]
fn a_roll_back_goes_to_the_checkpoint_three_times_and_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let ill = ["train.optimizer.learning_rate=1e30", "train.sentinels.non_finite=roll_back"];
    let (code, text) = run(&out, SCENES, &[&ill[..], &["train.epochs=4"]].concat());
    assert_eq!(code, 4, "{text}");
    assert_eq!(text.matches("went back to step 0").count(), 3, "{text}");
    assert!(text.contains("the run went back 3 times already"), "{text}");
    let journal = &header(&out)["journal"];
    assert_eq!(journal["roll_backs"], 3);
    assert_eq!(journal["events"].as_array().unwrap().len(), 3, "{journal}");
    // Steps that heal (here: the learning rate falls after an epoch of six) let the run go on without the others.
    let out = folder.path().join("recovers");
    let falls = "train.schedule={name=\"steps\",milestones_epochs=[1],factor=1e-32}";
    let (code, text) = run(&out, SCENES, &[&ill[..], &[falls, "train.epochs=2"]].concat());
    assert_eq!(code, 0, "{text}");
    let journal = &header(&out)["journal"];
    assert_eq!((&journal["roll_backs"], &journal["left_out"]), (&3.into(), &6.into()), "{journal}");
    assert_eq!(read(&out, "status.json")["left_out"], 6);
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("went back to step 0"), "the report does not tell");
}

/// Runs with a limit on memory, in KiB.
fn limited(kib: u32, out: &Path, more: &[&str]) -> Output {
    let wide = ["backbone.stem=cifar", "backbone.width=1", "data.batch_size=96", "train.epochs=1"];
    // What threads hold shall not depend on the machine.
    let wide = [&wide[..], &["data.threads=1"]].concat();
    let more = [&wide[..], more].concat();
    program_limited(kib).args(arguments(out, SCENES, &more)).output().unwrap()
}

fn program_limited(kib: u32) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("ulimit -d {kib}; exec \"$0\" \"$@\"")]);
    command.arg(env!("CARGO_BIN_EXE_diptych"));
    command
}

#[test]
fn out_of_memory_halves_the_micro_batch_and_every_later_number_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let (code, text) = told(&limited(700_000, &out, &["backbone.norm_group=8"]));
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("allocate memory") || text.contains("at the memory limit"), "{text}");
    assert!(text.contains("going on from the last checkpoint with 48 images at a time"), "{text}");
    let status = read(&out, "status.json");
    let told = status["history"][0]["text"].as_str().unwrap();
    assert!(told.contains("out of memory with 96 images at a time, went on with 48"), "{status}");
    assert_eq!(header(&out)["journal"]["events"][0]["text"], told);
    let recipe = fs::read_to_string(out.join("recipe.toml")).unwrap();
    assert!(!recipe.contains("micro_batch_size = 96") && recipe.contains("batch_size = 96"));
    let evaluate = ["evaluate", "knn", out.to_str().unwrap(), "--json"];
    let number = program().args(evaluate).output().unwrap();
    let number: Value = serde_json::from_slice(&number.stdout).unwrap();
    assert_eq!(number["weights"]["history"][0]["text"], told, "{number}");
}

#[test]
fn when_no_normalisation_group_fits_the_largest_batch_that_does_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    // `--extend` must not keep the trials from starting.
    let output = limited(900_000, &out, &["--json", "--extend"]);
    let (code, text) = told(&output);
    assert_eq!(code, 7, "{text}");
    let found =
        text.split("the largest batch that fits is ").nth(1).unwrap_or_else(|| panic!("{text}"));
    let size = found.split(' ').next().unwrap();
    let images: u32 = size.parse().unwrap();
    assert!((2..96).contains(&images), "{text}");
    assert!(text.contains(&format!("`data.batch_size={size}`")), "{text}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["exit_code"], 7);
    // It is no guess: that batch trains.
    let batch = format!("data.batch_size={size}");
    let other = folder.path().join("smaller");
    let (code, text) = told(&limited(900_000, &other, &[&batch, "train.max_steps=1"]));
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains("out of memory"), "{text}");
}

#[test]
fn a_folder_that_cannot_be_written_is_told_before_training() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    fs::write(&taken, "a file").unwrap();
    for out in [taken.as_path(), Path::new("/proc/diptych-run")] {
        let (code, text) = run(out, SCENES, &[]);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("cannot create") && text.contains(out.to_str().unwrap()), "{text}");
        assert!(!text.contains("started:"), "{text}");
    }
}

#[test]
fn a_second_interrupt_leaves_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    // A step of this takes seconds: the first signal waits for its end, the second does not.
    let slow = ["backbone.width=2", "backbone.stem=cifar", "data.batch_size=96", "train.epochs=50"];
    let mut child = program().args(arguments(&out, SCENES, &slow)).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let started = Instant::now();
    let signal = || rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    while !out.join("pictures/views.json").exists() {
        assert!(started.elapsed() < Duration::from_mins(1), "it does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    signal();
    std::thread::sleep(Duration::from_millis(100));
    assert!(child.try_wait().unwrap().is_none(), "the first signal waits for the micro-batch");
    signal();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // The next process says that the last one ended without a word.
    let (_, text) = run(&out, SCENES, &[&slow[..], &["--dry-run"]].concat());
    assert!(!text.contains("ended without a word"), "a plan touches nothing: {text}");
    let mut again = program().args(arguments(&out, SCENES, &slow)).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    again.kill().unwrap();
    let (_, text) = told(&again.wait_with_output().unwrap());
    assert!(text.contains("ended without a word"), "{text}");
}

#[test]
fn damage_is_counted_over_all_processes_of_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos with spaces é");
    fs::create_dir(&photos).unwrap();
    for index in 0..24 {
        let picture = image::RgbImage::from_fn(40, 30, |x, y| {
            image::Rgb([(x * 6) as u8, (y * 8) as u8, (index * 10) as u8])
        });
        picture.save(photos.join(format!("{index:02}.png"))).unwrap();
    }
    let file = |index: u32| photos.join(format!("{index:02}.png"));
    let whole = [3, 5].map(|index| fs::read(file(index)).unwrap());
    let break_one =
        |index: u32, bytes: &[u8]| fs::write(file(index), vec![0; bytes.len()]).unwrap();
    let out = folder.path().join("run");
    let one = ["data.batch_size=8", "data.max_damaged=0.05", "train.checkpoint_every_steps=1"];
    break_one(3, &whole[0]);
    let first = [&one[..], &["train.epochs=1"]].concat();
    let (code, text) = run(&out, photos.to_str().unwrap(), &first);
    assert_eq!(code, 0, "{text}");
    fs::write(file(3), &whole[0]).unwrap();
    break_one(5, &whole[1]);
    let more = [&one[..], &["train.epochs=2", "--extend"]].concat();
    let (code, text) = run(&out, photos.to_str().unwrap(), &more);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("2 images have turned out damaged since the run was started"), "{text}");
    assert_eq!(read(&out, "status.json")["damaged"].as_array().unwrap().len(), 2);
}

/// A finished run of one epoch of six steps, ready to be extended.
fn finished(out: &Path) {
    let (code, text) = run(out, SCENES, &["train.epochs=1", "train.checkpoint_every_steps=1"]);
    assert_eq!(code, 0, "{text}");
}

fn extend(out: &Path) -> (i32, String) {
    run(out, SCENES, &["train.epochs=2", "train.checkpoint_every_steps=1", "--extend"])
}

#[test]
fn a_clock_that_jumps_decides_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    finished(&out);
    let date = |name: &str, seconds: u64| {
        let file = fs::File::options().write(true).open(out.join(name)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    };
    // As if the clock had been set back by decades, and forward for the older checkpoint.
    date("checkpoints/last.safetensors", 0);
    date("checkpoints/previous.safetensors", 4_000_000_000);
    date("metrics.jsonl", 4_000_000_000);
    date("status.json", 0);
    let (code, text) = extend(&out);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("going on at step 6 of 12"), "{text}");
    let (code, text) = run(&out, SCENES, &["train.epochs=1", "--extend"]);
    assert!(code == 2 && text.contains("this recipe is shorter"), "{text}");
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> =
        metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=12).collect::<Vec<_>>());
    let seconds: Vec<f64> = lines.iter().map(|l| l["wall_seconds"].as_f64().unwrap()).collect();
    assert!(seconds.is_sorted() && seconds[11] < 600.0, "{seconds:?}");
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before_and_two_damaged_ones_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    finished(&out);
    let damage = |name: &str| {
        let file = out.join("checkpoints").join(name);
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(file, bytes).unwrap();
    };
    damage("last.safetensors");
    let (code, text) = extend(&out);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("is damaged: its checksum should be"), "{text}");
    assert!(text.contains("going on at step 5 of 12"), "{text}");
    damage("last.safetensors");
    damage("previous.safetensors");
    let (code, text) = run(&out, SCENES, &["train.epochs=3", "--extend"]);
    assert_eq!(code, 6, "{text}");
    assert!(text.contains("last.safetensors") && text.contains("previous.safetensors"), "{text}");
    assert!(text.contains("--fresh"), "{text}");
    let (code, text) = told(&program().args(["evaluate", "knn"]).arg(&out).output().unwrap());
    assert_eq!(code, 6, "{text}");
}

#[test]
fn what_a_newer_program_wrote_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    finished(&out);
    let replace = |name: &str, from: &str, to: &str| {
        let bytes = fs::read(out.join(name)).unwrap();
        let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
        let newer = [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat();
        fs::write(out.join(name), newer).unwrap();
        bytes
    };
    let cases = [
        ("checkpoints/last.safetensors", r#"\"format\":1"#, r#"\"format\":9"#, 6),
        ("recipe.toml", "format = 1", "format = 9", 2),
        ("status.json", "\"format\": 1", "\"format\": 9", 1),
    ];
    for (name, from, to, expected) in cases {
        let before = replace(name, from, to);
        let (code, text) = extend(&out);
        assert_eq!(code, expected, "{name}: {text}");
        assert!(text.contains("has format 9, this program reads up to 1"), "{name}: {text}");
        fs::write(out.join(name), before).unwrap();
    }
}

#[test]
fn links_that_go_round_are_followed_once() {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    fs::create_dir_all(photos.join("inner")).unwrap();
    for index in 0..4 {
        let picture = image::RgbImage::from_pixel(8, 8, image::Rgb([index * 60; 3]));
        picture.save(photos.join(format!("inner/{index}.png"))).unwrap();
    }
    fs::copy(photos.join("inner/0.png"), photos.join("top.png")).unwrap();
    std::os::unix::fs::symlink(&photos, photos.join("inner/round")).unwrap();
    std::os::unix::fs::symlink("self", photos.join("self")).unwrap();
    let shown = program().args(["data", "show", "--json"]).arg(&photos).output().unwrap();
    let (code, text) = told(&shown);
    assert_eq!(code, 0, "{text}");
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["splits"][0]["images"], 5, "{shown}");
}
