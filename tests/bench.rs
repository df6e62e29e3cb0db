//! The parts of `make bench` that need no measurement: figures, tables, other programs, a peer that is missing, results.

#[path = "../benches/proof/child.rs"]
mod child;
#[path = "../benches/proof/figures.rs"]
mod figures;
#[path = "../benches/proof/peer.rs"]
mod peer;
#[path = "../benches/proof/results.rs"]
mod results;

use figures::{
    Claim, Outcome, Pair, Spread, json_line, mean, median, numbers, or_dash, rounded, runs_json,
    spread, table, without_places,
};
use peer::Peer;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_mins(1);

#[test]
fn medians_means_and_spreads() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0]), Some(3.0));
    assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), Some(3.0));
    assert_eq!(mean(&[]), None);
    assert_eq!(mean(&[1.0, 2.0, 6.0]), Some(3.0));
    let found = Spread::of(&[455.5, 443.6, 458.3]).unwrap();
    assert_eq!(found, Spread { median: 455.5, least: 443.6, most: 458.3 });
    assert_eq!(found.to_string(), "455.5 (443.6 to 458.3)");
    assert_eq!(Spread::of(&[2.0]).unwrap().to_string(), "2.000");
    assert_eq!(found.to_json(), json!({ "median": 455.5, "least": 443.6, "most": 458.3 }));
}

#[test]
fn numbers_keep_four_digits_and_all_before_the_point() {
    let cases = [
        (0.0, "0"),
        (0.012_345, "0.01235"),
        (1.7129, "1.713"),
        (455.54, "455.5"),
        (-5.432_1, "-5.432"),
        (12_345.6, "12,346"),
        (1_234_567.0, "1,234,567"),
        (-1_234.5, "-1,234"),
        (f64::INFINITY, "inf"),
    ];
    for (value, text) in cases {
        assert_eq!(rounded(value), text);
    }
    assert_eq!(or_dash(None::<f64>), "–");
}

fn rates(values: &[Option<f64>]) -> Vec<Outcome> {
    let run = |value: &Option<f64>| {
        value.map(|rate| json!({ "rate": rate })).ok_or_else(|| "no memory".to_owned())
    };
    values.iter().map(run).collect()
}

#[test]
fn a_ratio_is_of_medians_and_spreads_over_neighbouring_runs() {
    let pair = Pair {
        ours: rates(&[Some(800.0), Some(700.0), Some(900.0)]),
        peer: rates(&[Some(400.0), Some(500.0), Some(450.0)]),
    };
    let expected = Spread { median: 800.0 / 450.0, least: 1.4, most: 2.0 };
    assert_eq!(pair.ratio("rate"), Some(expected));
    assert_eq!(pair.ratio_of("rate", "rate"), Some(expected));
    assert!(pair.failures().is_empty());
    assert!(pair.ratio("another").is_none());
}

#[test]
fn a_run_that_fails_costs_only_itself() {
    let pair = Pair {
        ours: rates(&[Some(8.0), None, Some(9.0)]),
        peer: rates(&[None, Some(5.0), Some(4.5)]),
    };
    assert_eq!(numbers(&pair.ours, "rate"), [Some(8.0), None, Some(9.0)]);
    let left = Spread { median: 8.5, least: 8.0, most: 9.0 };
    assert_eq!(spread(&pair.ours, "rate"), Some(left));
    // Only the last runs followed one another.
    let ratio = Spread { median: 8.5 / 4.75, least: 2.0, most: 2.0 };
    assert_eq!(pair.ratio("rate"), Some(ratio));
    assert_eq!(pair.failures(), ["diptych, run 2: no memory", "lightly, run 1: no memory"]);
    assert_eq!(runs_json(&pair.ours)[1], json!({ "failed": "no memory" }));

    let alone = Pair { ours: rates(&[Some(8.0)]), ..Pair::default() };
    assert!(alone.ratio("rate").is_none());
    assert_eq!(alone.to_json(), json!({ "diptych": [{ "rate": 8.0 }], "lightly": [] }));
}

#[test]
fn claims_are_judged_at_their_limits() {
    let cases = [
        (Claim::AtLeast(1.6), 1.6, "at least 1.6: holds"),
        (Claim::AtLeast(1.6), 1.59, "at least 1.6: **does not hold**"),
        (Claim::Below(4000.0), 3999.0, "below 4000: holds"),
        (Claim::Below(4000.0), 4000.0, "below 4000: **does not hold**"),
        (Claim::Within(15.0), -15.0, "within ±15: holds"),
        (Claim::Within(15.0), 15.1, "within ±15: **does not hold**"),
    ];
    for (claim, value, text) in cases {
        assert_eq!(claim.judge(Some(value)), text);
    }
    assert_eq!(Claim::Below(1.0).judge(None), "–");
}

#[test]
fn tables_are_markdown() {
    let text = table(&["", "views/s"], &[vec!["diptych".to_owned(), "789.6".to_owned()]]);
    assert_eq!(text, "|  | views/s |\n|---|---|\n| diptych | 789.6 |\n");
}

#[test]
fn the_answer_of_a_program_is_its_last_json_object() {
    let output = "{\"old\": 1}\nwarning: {\n{\"views_per_second\": 455.5}\n3\ndone\n";
    assert_eq!(json_line(output).unwrap(), json!({ "views_per_second": 455.5 }));
    assert_eq!(json_line(""), Err("it printed nothing".to_owned()));
    assert!(json_line("a\nb\n").unwrap_err().ends_with("ends with `b`"));
}

#[test]
fn results_name_no_place() {
    let places = [("/home/someone".to_owned(), "~"), ("/home/someone/data".to_owned(), "DATA")];
    let text = without_places("/home/someone/data/a.png: not in /home/someone", &places);
    assert_eq!(text, "DATA/a.png: not in ~");
    assert_eq!(without_places("/a", &[("/".to_owned(), "ROOT")]), "/a");
}

#[test]
fn only_a_whole_part_replaces_an_earlier_result() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("bench");
    let read = |name: &str| fs::read_to_string(folder.join(name));
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    results::publish(&folder, "speed", "first", &json!({ "n": 1 }), true).unwrap();
    results::publish(&folder, "speed", "half", &json!({ "n": 2 }), false).unwrap();
    assert_eq!(read("speed.md").unwrap(), "first");
    assert_eq!(read("speed.json").unwrap(), "{\n  \"n\": 1\n}\n");
    assert_eq!(read("speed.partial.md").unwrap(), "half");
    assert_eq!(names().len(), 4);
    results::publish(&folder, "speed", "second", &json!({ "n": 3 }), true).unwrap();
    assert_eq!(read("speed.md").unwrap(), "second");
    assert_eq!(names(), ["speed.json", "speed.md"]);
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[test]
fn a_program_that_fails_hangs_or_is_not_there_is_told() {
    let go_on = AtomicBool::new(false);
    let ended = child::run(shell("echo '{\"a\": 1}'"), MINUTE, &go_on).unwrap();
    assert_eq!(ended.answer().unwrap(), json!({ "a": 1 }));
    for (errors, told) in [
        ("Traceback\\n  line 1\\nValueError: why\\n", ": ValueError: why"),
        ("warning\\nerror: why\\n\\nUsage: a b\\n", ": error: why"),
        ("", ": nothing was said"),
    ] {
        let script = format!("echo '{{\"a\": 1}}'; printf '{errors}' >&2; exit 3");
        let error = child::run(shell(&script), MINUTE, &go_on).unwrap().answer().unwrap_err();
        assert!(error.contains('3') && error.ends_with(told), "{error}");
    }

    let begin = Instant::now();
    let error = child::run(shell("exec sleep 60"), Duration::ZERO, &go_on).err().unwrap();
    assert!(error.to_string().starts_with("stopped after"), "{error}");
    let error = child::run(shell("exec sleep 60"), MINUTE, &AtomicBool::new(true)).err().unwrap();
    assert_eq!(error.to_string(), "interrupted");
    assert!(begin.elapsed() < MINUTE / 2);

    let missing = Command::new("/there/is/no/such/program");
    let error = child::run(missing, MINUTE, &go_on).err().unwrap();
    assert!(error.to_string().contains("cannot start"), "{error}");
}

#[test]
fn a_missing_peer_is_told_in_one_line_with_the_way_to_get_it() {
    let folder = tempfile::tempdir().unwrap();
    // A shell in the place of Python.
    let find = |script: &str| {
        fs::write(folder.path().join("check.py"), script).unwrap();
        Peer::find("sh".into(), folder.path().to_owned(), &AtomicBool::new(false))
    };
    let lacking = r#"echo '{"versions": {}, "missing": ["lightly"]}'; exit 1"#;
    for (script, what) in [(lacking, "lacks lightly"), ("echo broken >&2; exit 1", "broken")] {
        let error = find(script).err().unwrap();
        assert!(
            error.contains(what) && error.contains("benches/peers/requirements.txt"),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let error = Peer::find("/no/python".into(), folder.path().to_owned(), &AtomicBool::new(false));
    let error = error.err().unwrap();
    assert!(error.contains("cannot start `PEER_PYTHON`") && !error.contains("/no"), "{error}");

    let found = r#"echo '{"versions": {"torch": "2.11.0"}, "missing": [], "differs": ["a 1 in place of 2"]}'"#;
    let peer = find(found).unwrap();
    assert_eq!(peer.versions, json!({ "torch": "2.11.0" }));
    assert_eq!(peer.differs, ["a 1 in place of 2"]);
    let command = peer.program("simclr.py", Path::new("data"), &[("--width", &0.25)]);
    let words: Vec<_> = command.get_args().skip(1).collect();
    assert_eq!(words, ["data", "--width", "0.25"]);
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
    for name in ["check.py", "simclr.py", "loader.py"] {
        assert!(programs.join(name).is_file(), "{name}");
    }
}
