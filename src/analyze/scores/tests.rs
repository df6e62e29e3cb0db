//! The numbers behind the curves, and the pictures as stored.

use super::chart::{between, extremes, mean, thinned};
use super::*;
use crate::analyze::plot::tests::alike;
use std::fs;
use std::slice::from_ref;

/// A run of 200 steps in epochs of 20, with queue-like scores.
fn run(folder: &Path, name: &str, hard: f64) -> PathBuf {
    let run = folder.join(name);
    fs::create_dir_all(run.join("evaluations")).unwrap();
    fs::write(run.join("recipe.toml"), "").unwrap();
    let mut text = String::new();
    for step in 1..=200u32 {
        let t = f64::from(step) / 200.0;
        let wave = 0.03 * (f64::from(step) * 2.399).sin();
        let (positive, negative) = (0.3 + 0.5 * t.sqrt() - 0.1 * hard + wave, 0.1 * hard - 0.1 * t);
        let line = json!({
            "step": step, "epoch": f64::from(step) / 20.0, "loss": 4.0 - t, "lr": 0.1,
            "pos_mean": positive, "neg_mean": negative, "neg_var": 0.02 + 0.01 * t,
            "neg_q01": negative - 0.3, "neg_q25": negative - 0.08, "neg_q50": negative,
            "neg_q75": negative + 0.08, "neg_q99": negative + 0.3, "neg_hardest": negative + 0.45,
        });
        writeln!(text, "{line}").unwrap();
    }
    // Cut off while it was written.
    fs::write(run.join(FILE), text + "{\"step\":201,\"po").unwrap();
    run
}

fn record(run: &Path, protocol: &str, value: f64) {
    let record = json!({ "protocol": protocol, "version": 1, "metric": "top1", "value": value });
    fs::write(run.join(format!("evaluations/{protocol}.json")), record.to_string()).unwrap();
}

#[test]
fn the_data_are_every_step_and_the_numbers_the_means_of_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (run(folder.path(), "a, \"b\"", 0.0), run(folder.path(), "ft", 1.0));
    let out = folder.path().join("out");
    let settings = Settings { smooth: 5, ..Settings::default() };
    let analysis = draw(&[a, b], &settings, &out).unwrap();
    let files: Vec<&str> = analysis.files.iter().map(|file| file.file.as_str()).collect();
    assert_eq!(files, ["scores.svg", "scores.png", "scores.csv", "scores.json"]);
    assert_eq!(Analysis::read(&out).unwrap(), analysis);
    let csv = fs::read_to_string(out.join("scores.csv")).unwrap();
    assert_eq!(csv.lines().count(), 401);
    assert!(csv.starts_with("run,step,epoch,loss,lr,pos_mean,"), "{csv:.60}");
    assert!(csv.lines().nth(1).unwrap().starts_with("\"a, \"\"b\"\"\",1,0.05,"), "quoted");
    let found = &analysis.numbers["ft"];
    // Steps 191 to 200: -0.1 t + 0.1 at t = 0.9775 on average (190 to 200 are eleven).
    let expected: f64 =
        (190..=200).map(|step| 0.1 - 0.1 * f64::from(step) / 200.0).sum::<f64>() / 11.0;
    assert!((found["neg_mean"].as_f64().unwrap() - expected).abs() < 1e-12, "{found}");
    assert_eq!(found["steps"], json!(200.0));
    let svg = fs::read_to_string(out.join("scores.svg")).unwrap();
    assert!(svg.contains("<title>Scores of 2 runs</title>") && svg.contains("stroke=\"#db7700\""));
    assert!(!svg.contains("#010102"), "every name has its colour");
}

#[test]
fn the_legend_tells_how_good_a_run_became() {
    let folder = tempfile::tempdir().unwrap();
    let path = run(folder.path(), "a", 0.0);
    assert_eq!(final_number(&path), None);
    record(&path, "knn", 0.5);
    record(&path, "linear-features", 0.713);
    record(&path, "retrieval", 0.9);
    let found = final_number(&path).unwrap();
    assert_eq!(found.text(), "linear-features 71.30\u{202f}%");
    let out = folder.path().join("out");
    let analysis = draw(&[path], &Settings::default(), &out).unwrap();
    assert_eq!(analysis.files[2].file, "negatives.svg", "one run has its spread too");
    let svg = fs::read_to_string(out.join("scores.svg")).unwrap();
    assert!(svg.contains("a · linear-features 71.30\u{202f}%"), "in the legend");
}

/// Says when a file was written, in seconds of one day.
fn written(file: &Path, second: u64) {
    let time =
        std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000 + second);
    fs::File::options().append(true).open(file).unwrap().set_modified(time).unwrap();
}

#[test]
fn the_number_of_a_run_is_its_newest_of_the_last_checkpoint_the_features_and_all_data() {
    let folder = tempfile::tempdir().unwrap();
    let path = run(folder.path(), "a", 0.0);
    fs::write(path.join("recipe.toml"), "[data]\nsource = \"here\"\n").unwrap();
    fs::create_dir(path.join("checkpoints")).unwrap();
    fs::write(path.join("checkpoints/last.safetensors"), "").unwrap();
    written(&path.join("checkpoints/last.safetensors"), 100);
    let judged = |name: &str, second: u64, record: Value| {
        let mut all = json!({ "protocol": "knn", "metric": "top1", "value": 0.5 });
        all.as_object_mut().unwrap().extend(record.as_object().unwrap().clone());
        let file = path.join(format!("evaluations/{name}.json"));
        fs::write(&file, all.to_string()).unwrap();
        written(&file, second);
    };
    let found = || final_number(&path).unwrap();
    // From the least to the best; names go the other way.
    judged("z", 50, json!({ "data": { "queries": 900, "location": "here" } }));
    assert!(found().file.ends_with("z.json") && found().older_than_checkpoint);
    assert!(found().text().ends_with("%, before the last checkpoint"), "{}", found().text());
    judged("y", 500, json!({ "weights": { "file": "a/checkpoints/epoch-3.safetensors" } }));
    judged("x", 400, json!({ "layer": "z" }));
    assert!(found().file.ends_with("x.json") && !found().older_than_checkpoint);
    judged("w", 300, json!({ "data": { "queries": 5000, "location": "elsewhere" } }));
    assert!(found().file.ends_with("w.json"));
    judged("v", 290, json!({ "data": { "queries": 100, "location": "here" } }));
    assert!(found().file.ends_with("v.json"));
    let last = json!({ "layer": "h", "data": { "queries": 900 }, "weights": { "file": "last.safetensors" } });
    judged("u", 200, last.clone());
    assert!(found().file.ends_with("u.json"));
    judged("a", 250, last);
    assert!(found().file.ends_with("a.json"), "the newest");
    assert_eq!(found().text(), "knn 50.00\u{202f}%");
}

#[test]
fn long_curves_keep_their_spikes_and_gaps() {
    let mut points: Vec<(f64, f64)> = (0..30_000).map(|x| (f64::from(x), 0.5)).collect();
    (points[12_345].1, points[23_456].1) = (9.0, -9.0);
    points[20_000..20_400].iter_mut().for_each(|point| point.1 = f64::NAN);
    for found in [thinned(&points, 1), thinned(&points, 7), extremes(&points)] {
        assert!(found.len() <= 1_200, "{}", found.len());
        assert!(found.contains(&(12_345.0, 9.0)) && found.contains(&(23_456.0, -9.0)));
        assert!(found.iter().any(|point| point.1.is_nan()), "the gap is gone");
        assert!(found.is_sorted_by(|a, b| a.0 <= b.0));
    }
    let smooth = thinned(&mean(&points, 300), 300);
    assert_eq!((smooth.len(), smooth[0].0, smooth[1_199].0), (1_200, 0.0, 29_999.0));
    let band = between(&points, &points);
    assert!(band.len() <= 1_200);
    assert!(band.iter().any(|it| it.1 < -8.0) && band.iter().any(|it| it.2 > 8.0));
    let short = &points[..40];
    let same: Vec<_> = short.iter().map(|(x, value)| (*x, *value, *value)).collect();
    assert_eq!(between(short, short), same);
}

#[test]
fn a_running_mean_is_that_of_plain_loops_and_keeps_gaps() {
    let points: Vec<(f64, f64)> = (0..30)
        .map(|x| (f64::from(x), if x == 7 { f64::NAN } else { f64::from((x * x) % 11) }))
        .collect();
    let found = mean(&points, 5);
    for (place, (x, value)) in found.iter().enumerate() {
        assert!((x - points[place].0).abs() < 1e-12);
        if place == 7 {
            assert!(value.is_nan());
            continue;
        }
        let reach = 2.min(place).min(29 - place);
        let around: Vec<f64> = points[place - reach..=place + reach]
            .iter()
            .map(|p| p.1)
            .filter(|v| v.is_finite())
            .collect();
        let expected = around.iter().sum::<f64>() / around.len() as f64;
        assert!((value - expected).abs() < 1e-12, "{place}");
    }
    assert_eq!(mean(&points[..3], 1), points[..3]);
}

#[test]
fn what_does_not_fit_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (run(folder.path(), "a", 0.0), folder.path().join("out"));
    let refused =
        |settings: Settings| draw(from_ref(&path), &settings, &out).unwrap_err().to_string();
    let message = refused(Settings { from: 100, to: 50, ..Settings::default() });
    assert!(message.starts_with("`to` must be above `from` (100)"), "{message}");
    let message = refused(Settings { from: 1_000, ..Settings::default() });
    assert!(message.contains("leave none of the steps"), "{message}");
    let message = refused(Settings { neg_range: vec![0.5, 0.1], ..Settings::default() });
    assert!(message.starts_with("`neg_range` must be two ends"), "{message}");
    let message = refused(Settings { stage: Side::PreFt, ..Settings::default() });
    assert!(message.contains("train.scores.stage=both"), "{message}");
    let nothing = folder.path().join("nothing");
    let message = draw(from_ref(&nothing), &Settings::default(), &out).unwrap_err().to_string();
    assert!(message.contains("holds no `recipe.toml`"), "{message}");
    fs::create_dir(&nothing).unwrap();
    fs::write(nothing.join("recipe.toml"), "").unwrap();
    let message = draw(from_ref(&nothing), &Settings::default(), &out).unwrap_err().to_string();
    assert!(message.contains("recorded no scores"), "{message}");
    fs::write(nothing.join(FILE), "{\"step\":1}\nxx\n{\"step\":2}\n").unwrap();
    let message = draw(&[nothing], &Settings::default(), &out).unwrap_err().to_string();
    assert!(message.contains("line 2: not a JSON object"), "{message}");
    assert!(!out.exists(), "nothing half written");
}

#[test]
fn the_pictures_are_the_stored_ones() {
    let folder = tempfile::tempdir().unwrap();
    let paths =
        [("plain", 0.0), ("transformed", 1.0)].map(|(name, hard)| run(folder.path(), name, hard));
    record(&paths[0], "linear-features", 0.713);
    let out = folder.path().join("out");
    draw(&paths, &Settings::default(), &out).unwrap();
    alike(&out.join("scores.png"), "scores.png");
    draw(&paths[1..], &Settings { axis: Axis::Epoch, ..Settings::default() }, &out).unwrap();
    alike(&out.join("negatives.png"), "negatives.png");
}
