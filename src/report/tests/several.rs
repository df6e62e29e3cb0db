//! Promises about several runs at once: lists, rankings, the page that compares them.

use std::fs;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::{HOSTILE, RECIPE};
use crate::report::ranking::{By, Ranking, lower_is_better, rank};
use crate::report::runs::list;
use crate::report::{State, compare, write, write_to};

/// A folder of run folders.
fn runs(all: &[(&str, &[(&str, &str)])]) -> TempDir {
    let parent = tempfile::tempdir().unwrap();
    for (name, files) in all {
        for (file, text) in *files {
            let path = parent.path().join(name).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }
    parent
}

const FIRST: &[(&str, &str)] = &[
    ("recipe.toml", RECIPE),
    (
        "status.json",
        r#"{"state":"finished","step":20,"steps":20,"epoch":2,"final_loss":4.5,"views_per_second":100}"#,
    ),
    (
        "metrics.jsonl",
        "{\"step\":10,\"epoch\":1,\"train/loss\":5.0,\"knn/top1\":0.5}\n\
         {\"step\":20,\"epoch\":2,\"train/loss\":4.5,\"knn/top1\":0.4}\n",
    ),
    (
        "evaluations/knn-1.json",
        r#"{"protocol":"knn","version":1,"metric":"top1","value":0.42,"interval_95":[0.40,0.44],
        "also":{"top5":{"value":0.9,"interval_95":[0.88,0.92]}},"settings":{"k":200},"data":{"queries":1000,"fingerprint":"aa"}}"#,
    ),
    (
        "evaluations/linear.json",
        r#"{"protocol":"linear-features","version":1,"metric":"top1","value":0.52,"interval_95":[0.5,0.54]}"#,
    ),
];

const SECOND: &[(&str, &str)] = &[
    ("recipe.toml", "seed = 7\n[data]\nbatch_size = 512\n[method]\nname = \"simclr\"\n"),
    ("status.json", r#"{"state":"running","step":5,"steps":10,"epoch":1,"views_per_second":50}"#),
    ("metrics.jsonl", "{\"step\":5,\"epoch\":1,\"train/loss\":6.0,\"knn/top1\":0.45}\n"),
    (
        "evaluations/knn-2.json",
        r#"{"protocol":"knn","version":1,"metric":"top1","value":0.43,"interval_95":[0.41,0.45],
        "settings":{"k":20},"data":{"queries":1000,"fingerprint":"aa"}}"#,
    ),
];

#[test]
fn a_run_is_running_only_while_a_process_holds_it() {
    use crate::train::run::{RunFolder, Status};
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("run");
    let state = || list(parent.path(), None).unwrap().runs.remove(0).state;
    let held = RunFolder::open(&path).unwrap();
    held.write("recipe.toml", RECIPE).unwrap();
    assert_eq!(state(), None, "nothing was written yet");
    held.write_status(&Status { state: "running".into(), ..Status::default() }).unwrap();
    assert_eq!(state(), Some(State::Running));
    assert!(fs::read_to_string(write(&path).unwrap()).unwrap().contains("data-state=\"running\""));
    drop(held);
    assert_eq!(state(), Some(State::Stopped), "it was killed");
    let again = RunFolder::open(&path).expect("asking holds nothing");
    again.write_status(&Status { state: "odd".into(), ..Status::default() }).unwrap();
    assert_eq!(state(), Some(State::Other("odd".into())));
}

#[test]
fn a_listing_has_every_run_at_one_or_two_levels_and_names_damage() {
    let parent = runs(&[
        ("b", FIRST),
        ("group/a", SECOND),
        ("group/deep/er", FIRST),
        ("torn", &[("recipe.toml", "seed = ")]),
        ("lost", &[("metrics.jsonl", "")]),
        ("photos", &[("one.jpg", "")]),
    ]);
    let listing = list(parent.path(), None).unwrap();
    let names: Vec<&str> = listing.runs.iter().map(|run| run.name.as_str()).collect();
    assert_eq!(names, ["b", "group/a"]);
    let damaged: Vec<&str> = listing.damaged.iter().map(|run| run.name.as_str()).collect();
    assert_eq!(damaged, ["lost", "torn"]);
    let run = &listing.runs[0];
    assert_eq!((run.step, run.loss), (Some(20), Some(4.5)));
    let monitor = run.monitor.as_ref().unwrap();
    assert_eq!((monitor.last.value, monitor.best.value, monitor.best.step), (0.4, 0.5, 10));
    let protocols: Vec<&str> = run.evaluations.iter().map(|e| e.protocol.as_str()).collect();
    assert_eq!(protocols, ["knn", "linear-features"]);
    assert_eq!(listing.runs[1].loss, Some(6.0), "logged, where no status has it");
    let loss = list(parent.path(), Some("train/loss")).unwrap().runs.remove(0).monitor.unwrap();
    assert_eq!(loss.best.step, 20, "of a loss the lowest is the best");
    // A run folder itself is a folder of one run.
    let one = list(&parent.path().join("b"), None).unwrap();
    assert_eq!((one.runs.len(), one.runs[0].name.as_str()), (1, "b"));
}

#[test]
fn a_ranking_says_what_its_numbers_are_and_doubts_them() {
    let parent = runs(&[("first", FIRST), ("second", SECOND)]);
    let names = |ranking: &Ranking| -> Vec<String> {
        ranking.ranked.iter().map(|run| run.name.clone()).collect()
    };
    let ranking = rank(parent.path(), "knn/top1", None).unwrap();
    assert_eq!(ranking.by, By::Evaluation);
    assert_eq!(names(&ranking), ["second", "first"]);
    assert_eq!(ranking.ranked[0].file.as_deref(), Some("evaluations/knn-2.json"));
    let notes = ranking.notes.join("; ");
    assert!(notes.contains("not measured alike: settings.k differ"), "{notes}");
    assert!(notes.contains("overlap") && notes.contains("not finished"), "{notes}");

    let last = rank(parent.path(), "knn/top1", Some(By::Last)).unwrap();
    assert_eq!((names(&last), last.ranked[1].value), (vec!["second".into(), "first".into()], 0.4));
    let best = rank(parent.path(), "knn/top1", Some(By::Best)).unwrap();
    assert_eq!((names(&best)[0].as_str(), best.ranked[0].step), ("first", Some(10)));
    assert!(best.notes.iter().any(|note| note.contains("flatter")));
    let loss = rank(parent.path(), "train/loss", None).unwrap();
    assert!(loss.lower_is_better && loss.by == By::Last);
    assert_eq!(names(&loss), ["first", "second"]);
    // A protocol's family finds it, and so do its further measures.
    let linear = rank(parent.path(), "linear/top1", None).unwrap();
    assert_eq!(
        (names(&linear), linear.left_out),
        (vec!["first".to_owned()], vec!["second".into()])
    );
    // A variant stands in for its protocol only where that is missing, and what is older than the checkpoint is told.
    let variant = r#"{"protocol":"knn-1","version":1,"metric":"top1","value":0.99}"#;
    fs::write(parent.path().join("second/evaluations/knn-1-abc.json"), variant).unwrap();
    let again = rank(parent.path(), "knn/top1", None).unwrap();
    assert_eq!(again.ranked[0].file.as_deref(), Some("evaluations/knn-2.json"));
    let checkpoints = parent.path().join("second/checkpoints");
    fs::create_dir_all(&checkpoints).unwrap();
    let checkpoint = fs::File::create(checkpoints.join("last.safetensors")).unwrap();
    checkpoint.set_modified(SystemTime::now() + Duration::from_mins(1)).unwrap();
    let older = rank(parent.path(), "knn/top1", None).unwrap().notes.join("; ");
    assert!(older.contains("older than the last checkpoint: the number of second"), "{older}");
    assert!(rank(parent.path(), "quality/uniformity", None).is_err());
    assert!(lower_is_better("quality/uniformity") && !lower_is_better("clusters/nmi"));
    let top5 = rank(parent.path(), "knn/top5", None).unwrap();
    assert_eq!((top5.ranked[0].value, top5.ranked[0].interval_95), (0.9, Some([0.88, 0.92])));
    let message = rank(parent.path(), "knn/top3", Some(By::Evaluation)).unwrap_err().to_string();
    assert!(message.contains("knn/top1, linear-features/top1"), "{message}");
}

/// The page over these runs, and its notes.
fn comparison(all: &[(&str, &[(&str, &str)])]) -> (String, Vec<String>) {
    let parent = runs(all);
    let paths: Vec<_> = all.iter().map(|(name, _)| parent.path().join(name)).collect();
    let page = parent.path().join("page.html");
    let notes = compare(&paths, &page, false).unwrap().notes;
    (fs::read_to_string(page).unwrap(), notes)
}

/// The page over two runs.
pub(super) fn comparison_of_two() -> String {
    comparison(&[("first", FIRST), ("second", SECOND)]).0
}

#[test]
fn a_page_reads_itself_anew_only_while_someone_writes_it() {
    use crate::train::run::{RunFolder, Status};
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("run");
    let held = RunFolder::open(&path).unwrap();
    held.write("recipe.toml", RECIPE).unwrap();
    held.write_status(&Status { state: "running".into(), ..Status::default() }).unwrap();
    let page = parent.path().join("page.html");
    let again = || fs::read_to_string(&page).unwrap().contains("class=\"live\"");
    for followed in [false, true] {
        let written = write_to(&path, &page, followed).unwrap();
        assert_eq!((again(), written.every), (followed, Some(15)));
        let written = compare(&[path.clone(), path.clone()], &page, followed).unwrap();
        assert_eq!((again(), written.every), (followed, Some(15)));
    }
    let own = fs::read_to_string(write(&path).unwrap()).unwrap();
    assert!(own.contains("class=\"live\""), "its training writes it");
    held.write_status(&Status { state: "finished".into(), ..Status::default() }).unwrap();
    let written = compare(std::slice::from_ref(&path), &page, true).unwrap();
    assert_eq!((again(), written.every), (false, None));
}

#[test]
fn data_that_were_joined_are_said_to_be_under_every_picture() {
    let line = |step: u32| {
        let values: Vec<String> = (0..40).map(|at| format!("\"train/a{at}\":{step}.5")).collect();
        format!("{{\"step\":{step},\"epoch\":1,{}}}\n", values.join(","))
    };
    let long: String = (1..=8_000).map(line).collect();
    let long = [("recipe.toml", RECIPE), ("metrics.jsonl", long.as_str())];
    let (page, _) = comparison(&[("long", &long), ("first", FIRST)]);
    let note = "the data of long are means of 2 lines; metrics.jsonl has every one";
    assert_eq!(page.matches(note).count(), 40, "of each of its quantities");
}

#[test]
fn runs_stand_side_by_side_with_what_they_do_not_share() {
    let (page, notes) = comparison(&[("first", FIRST), ("second", SECOND)]);
    assert!(notes.is_empty(), "{notes:?}");
    for text in [
        "2 runs side by side",
        "<th scope=\"row\">data.batch_size</th><td>256</td><td>512</td>",
        "<th scope=\"row\">method.temperature</th><td>0.5</td><td><span class=\"quiet\">–</span></td>",
        "2 other settings are the same",
        "data-points=\"1,5;2,4.5\"",
        "data-points=\"1,6\"",
        "data-over=\"epoch\"",
        "class=\"line s1 r1\"",
        "train/loss over epochs, last values: first 4.5, second 6.",
        "Not measured alike: settings.k differ.",
        "<b>42.00\u{202f}%</b> top1",
        "41.00 to 45.00\u{202f}%",
        "<rect class=\"fill\" y=\"3\" width=\"50\" height=\"4\"/>",
    ] {
        assert!(page.contains(text), "`{text}` is missing");
    }
    assert!(!page.contains("<th scope=\"row\">seed</th>"), "both have the same seed");
    let (page, _) = comparison(&[("größer-als-0.1", FIRST), ("größer-als-0.5", SECOND)]);
    assert!(
        page.contains("<span title=\"größer-als-0.5\">…0.5</span>"),
        "a long shared beginning is left out"
    );
}

#[test]
fn a_comparison_keeps_to_itself_and_escapes_what_it_is_told() {
    let name = "<script>alert('x')<script>\"&é";
    let metrics =
        format!("{{\"step\":1,{}:1}}\n", serde_json::to_string(&format!("{HOSTILE}/a")).unwrap());
    let quoted = serde_json::to_string(HOSTILE).unwrap();
    let hostile = [
        ("recipe.toml", format!("[method]\nname = {}", toml::Value::from(HOSTILE))),
        ("environment.json", format!("{{{quoted}:{quoted},\"processor\":{quoted}}}")),
        ("status.json", format!("{{\"state\":{quoted}}}")),
        ("metrics.jsonl", metrics),
        (
            "evaluations/a.json",
            format!(
                "{{\"protocol\":{quoted},\"metric\":{quoted},\"value\":0.5,\"baselines\":{{{quoted}:{quoted}}}}}"
            ),
        ),
    ];
    let hostile: Vec<(&str, &str)> =
        hostile.iter().map(|(file, text)| (*file, text.as_str())).collect();
    let (page, _) = comparison(&[(name, &hostile), ("first", FIRST)]);
    assert_eq!(page.matches("<script>").count(), 1, "only the page's own script");
    assert!(!page.contains("alert('x')"), "quotes are escaped too");
    assert!(page.matches("alert(&#39;x&#39;)").count() > 10);
    for outside in ["http:", "https:", "url(", "@import", "src="] {
        assert!(!page.contains(outside), "{outside}");
    }
    // Steps where not every run knows its epochs.
    assert!(page.contains("data-over=\"step\""));
}

#[test]
fn a_comparison_goes_on_without_what_cannot_be_read() {
    let torn: &[(&str, &str)] = &[("recipe.toml", "seed = ")];
    let new: &[(&str, &str)] = &[("recipe.toml", "seed = 7")];
    let (page, notes) =
        comparison(&[("first", FIRST), ("torn", torn), ("new", new), ("x/first", SECOND)]);
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("not valid TOML") && page.contains("Not everything could be read"));
    assert!(page.contains("never started") && page.contains("3 runs side by side"));
    assert!(page.contains("x/first"), "two of the same name are told apart by their paths");
    assert!(!page.contains("NaN"));
    let parent = runs(&[("torn", torn)]);
    let failed = compare(&[parent.path().join("torn")], &parent.path().join("page.html"), false);
    assert!(failed.unwrap_err().to_string().contains("not valid TOML"));
    let too_many = vec![parent.path().join("torn"); 40];
    fs::write(parent.path().join("torn/recipe.toml"), "").unwrap();
    let failed =
        compare(&too_many, &parent.path().join("page.html"), false).unwrap_err().to_string();
    assert!(failed.contains("40 runs") && failed.contains("at most 32"), "{failed}");
    assert!(!parent.path().join("page.html").exists());
}
