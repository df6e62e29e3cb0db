//! Promises of the page, held to folders made by hand.

mod details;
mod drawn;
mod recorded;
mod several;

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::write;
use crate::analyze::structure;
use crate::data::mutation::Mutator;
use crate::error::Error;

const HOSTILE: &str = "<script>alert('x')</script>\"&";

const RECIPE: &str = r#"seed = 7
steps = [{ name = "crop" }]

[data]
source = "/mnt/data/cifar10"
batch_size = 256

[[view]]
count = 2

[backbone]
name = "resnet18"
width = 64
stem = "cifar"

[method]
name = "simclr"
temperature = 0.5

[train]
epochs = 100
optimizer = { name = "lars" }
"#;

/// A run folder with the given files.
fn folder(name: &str, files: &[(&str, &str)]) -> TempDir {
    let parent = tempfile::tempdir().unwrap();
    let run = parent.path().join(name);
    fs::create_dir(&run).unwrap();
    for (file, text) in files {
        let path = run.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    parent
}

fn page_of(name: &str, files: &[(&str, &str)]) -> String {
    let parent = folder(name, files);
    let path = write(&parent.path().join(name)).unwrap();
    assert_eq!(path, parent.path().join(name).join("report.html"));
    fs::read_to_string(path).unwrap()
}

/// The first bytes of a PNG file of this size: what the page reads of it.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    bytes.extend(width.to_be_bytes());
    bytes.extend(height.to_be_bytes());
    bytes.extend([8, 2, 0, 0, 0]);
    bytes
}

/// A page from a folder in which every part is there.
fn full() -> String {
    let parent = folder(
        "first",
        &[
            ("recipe.toml", RECIPE),
            (
                "environment.json",
                r#"{"diptych":"0.1.0","revision":null,"threads":2,"cpu":"EPYC","command":["diptych","pretrain","r.toml"]}"#,
            ),
            (
                "status.json",
                r#"{"state":"finished","step":780,"steps":780,"epoch":4,"final_loss":4.2134,"views":399360,
                "views_per_second":812.3,"wall_seconds":512.0,"peak_memory_mb":1900,"skipped_steps":3}"#,
            ),
            (
                "metrics.jsonl",
                "{\"step\":10,\"epoch\":0.05,\"wall_seconds\":3.2,\"train/loss\":5.125,\"train/contrastive_accuracy\":0.1}\n\
                 {\"step\":20,\"epoch\":0.1,\"train/loss\":4.5,\"knn/top1\":0.3125}\n",
            ),
            (
                "evaluations/knn.json",
                r#"{"protocol":"knn","version":1,"metric":"top1","value":0.451,"interval_95":[0.4413,0.4608],
                "data":{"source":"cifar10","classes":10,"queries":10000,"references":50000},"also":{"top5":{"value":0.8125}},"settings":{"k":200,"temperature":0.07},
                "weights":{"file":"last.safetensors","hash_before":"a1b2","hash_after":"a1b2"},"wall_seconds":3.5,
                "device":"cpu","seed":0,"baselines":{"pixels":{"value":0.3456,"interval_95":[0.33,0.36]}}}"#,
            ),
            (
                "evaluations/linear.json",
                r#"{"protocol":"linear-features","metric":"top1","value":0.5612,"interval_95":[0.5515,0.5709],
                "weights":{"hash_before":"a1b2","hash_after":"c3d4"}}"#,
            ),
            (
                "pictures/neighbours.json",
                r#"{"title":"Nearest neighbours","caption":"Query first.","rows":[[
                {"image":"neighbours/00-00.png","caption":"cat","mark":null},
                {"image":"neighbours/00-01.png","caption":"dog","mark":"differs"},
                {"image":"neighbours/00-02.png","caption":"cat again","mark":"agrees"}]]}"#,
            ),
            ("log.txt", "started\nfinished\n"),
        ],
    );
    let run = parent.path().join("first");
    let pictures = run.join("pictures/neighbours");
    fs::create_dir(&pictures).unwrap();
    fs::write(pictures.join("00-00.png"), png(32, 32)).unwrap();
    fs::write(pictures.join("00-01.png"), png(32, 16)).unwrap();
    fs::write(pictures.join("00-02.png"), png(320, 160)).unwrap();
    fs::read_to_string(write(&run).unwrap()).unwrap()
}

#[test]
fn every_number_of_the_folder_is_on_the_page() {
    let page = full();
    let expected = [
        "<h1>first</h1>",
        "simclr, temperature 0.5",
        "resnet18, width 64, stem cifar",
        "<dd>cifar10</dd>",
        "step 780 of 780, epoch 4",
        "4.2134",
        "812.3",
        "399,360 views",
        "8 min 32 s",
        "1,900 MB",
        "45.10\u{202f}%",
        "44.13 to 46.08\u{202f}%",
        "10,000 queries",
        "81.25",
        "50,000 references",
        "10 classes",
        "pixels 34.56\u{202f}%",
        "56.12\u{202f}%",
        "k = 200",
        "weights hash, before and after = a1b2",
        "weights hash after = c3d4",
        "✓ frozen",
        "✕ changed",
        "knn/top1 over 1 point up to step 20: lowest 31.25\u{202f}%",
        "train/loss over 2 points up to step 20: lowest 4.5, highest 5.125, last 4.5.",
        "10,0.05,5.125;20,0.1,4.5",
        "diptych pretrain r.toml",
        "skipped_steps",
        "started\nfinished",
        "temperature = 0.5",
    ];
    for text in expected {
        assert!(page.contains(text), "`{text}` is missing");
    }
    assert!(!page.contains("Not everything could be read"));
    assert_eq!(structure::complaints(&page), Vec::<String>::new());
}

#[test]
fn the_page_asks_nothing_of_the_network() {
    let page = full();
    for outside in ["http:", "https:", "ftp:", "url(", "@import", "<iframe", "<object"] {
        assert!(!page.contains(outside), "{outside}");
    }
    for attribute in ["src=", "href="] {
        for (place, _) in page.match_indices(attribute) {
            let target = &page[place + attribute.len()..];
            let here = attribute == "href=" && target.starts_with("\"#");
            assert!(here || target.starts_with("\"data:"), "{}", &target[..40]);
        }
    }
    assert_eq!(page.matches("src=\"data:image/png;base64,iVBORw0KGgo").count(), 3);
}

#[test]
fn small_pictures_are_enlarged_and_large_ones_bounded_in_their_own_proportions() {
    let page = full();
    assert!(page.contains("width=\"96\" height=\"96\" alt=\"cat\" class=\"enlarged\""));
    assert!(page.contains("width=\"96\" height=\"48\" alt=\"dog\" class=\"enlarged\""));
    assert!(page.contains("width=\"160\" height=\"80\" alt=\"cat again\">"));
    assert_eq!(page.matches("class=\"picture differs\"").count(), 1);
    assert_eq!(page.matches("class=\"picture agrees\"").count(), 1);
}

#[test]
fn hostile_text_stays_text() {
    let name = "<script>alert('x')<script>\"&";
    let quoted = serde_json::to_string(HOSTILE).unwrap();
    let page = page_of(
        name,
        &[
            ("recipe.toml", &format!("[method]\nname = {}", toml::Value::from(HOSTILE))),
            ("environment.json", &format!("{{{quoted}:{quoted}}}")),
            ("status.json", &format!("{{\"state\":{quoted},{quoted}:{quoted}}}")),
            (
                "metrics.jsonl",
                &format!(
                    "{{\"step\":1,{}:1}}\n",
                    serde_json::to_string(&format!("{HOSTILE}/a")).unwrap()
                ),
            ),
            (
                "evaluations/a.json",
                &format!(
                    "{{\"protocol\":{quoted},\"metric\":{quoted},\"value\":0.5,\"device\":{quoted},\"seed\":{quoted},
                    \"version\":{quoted},\"settings\":{{{quoted}:{quoted}}},\"weights\":{{\"file\":{quoted}}},
                    \"baselines\":{{{quoted}:{quoted}}}}}"
                ),
            ),
            (
                "pictures/a.json",
                &format!(
                    "{{\"title\":{quoted},\"caption\":{quoted},
                    \"rows\":[[{{\"image\":{quoted},\"caption\":{quoted}}}]]}}"
                ),
            ),
            ("log.txt", HOSTILE),
        ],
    );
    assert_eq!(page.matches("<script>").count(), 1, "only the page's own script");
    assert_eq!(page.matches("</script>").count(), 1);
    assert!(!page.contains("alert('x')"), "quotes are escaped too");
    assert!(page.matches("&#60;script&#62;alert(&#39;x&#39;)").count() >= 18);
}

#[test]
fn a_run_told_in_steps_is_shown_in_steps() {
    let fact = |name: &str, value: &str| format!("<dt>{name}</dt><dd>{value}</dd>");
    let bare = |page: String| page.split_whitespace().collect::<String>();
    let page = bare(page_of("a", &[("recipe.toml", RECIPE)]));
    assert!(page.contains(&fact("Epochs", "100")));
    let recipe = RECIPE.replace("epochs = 100", "epochs = 100\nmax_steps = 150");
    let page = bare(page_of("a", &[("recipe.toml", &recipe)]));
    assert!(page.contains(&fact("Steps", "150")));
    assert!(!page.contains("<dt>Epochs</dt>"), "`max_steps` takes the place of `epochs`");
}

#[test]
fn a_run_that_has_only_begun_says_so() {
    let page = page_of("begun", &[("recipe.toml", "")]);
    for text in [
        "no status yet",
        "Nothing measured yet.",
        "No pictures yet.",
        "Nothing evaluated yet.",
        "Nothing recorded yet.",
    ] {
        assert!(page.contains(text), "`{text}` is missing");
    }
    assert_eq!(page.matches("Nothing logged yet.").count(), 2, "neither curves nor log");
    assert!(!page.contains("Not everything could be read"));
    assert!(!page.contains("NaN") && !page.contains("undefined"));
}

#[test]
fn a_metrics_line_cut_off_while_it_was_written_is_left_out_in_silence() {
    let good = "{\"step\":1,\"train/loss\":2.5}\n{\"step\":2,\"train/loss\":2.25}\n";
    let cut = format!("{good}{{\"step\":3,\"train/lo");
    let page = page_of("cut", &[("recipe.toml", ""), ("metrics.jsonl", &cut)]);
    assert!(page.contains("data-points=\"1,,2.5;2,,2.25\""));
    assert!(!page.contains("Not everything could be read"));

    let inside = format!("{{\"step\":0,\"train/lo\n{good}");
    let page = page_of("inside", &[("recipe.toml", ""), ("metrics.jsonl", &inside)]);
    assert!(page.contains("data-points=\"1,,2.5;2,,2.25\""));
    assert!(page.contains("1 line of metrics.jsonl left out as unreadable."));
}

#[test]
fn values_that_are_not_finite_are_gaps_that_are_told() {
    let lines = "{\"step\":1,\"train/loss\":2.5,\"train/norm\":null}\n\
                 {\"step\":2,\"train/loss\":null,\"train/norm\":\"NaN\"}\n\
                 {\"step\":3,\"train/loss\":\"-inf\"}\n{\"step\":4,\"train/loss\":2.75}\n";
    let files = [
        ("recipe.toml", ""),
        ("metrics.jsonl", lines),
        ("evaluations/a.json", r#"{"protocol":"knn","metric":"top1","value":null}"#),
    ];
    let page = page_of("gaps", &files);
    assert!(page.contains("data-points=\"1,,2.5;4,,2.75\""));
    assert_eq!(page.matches("2 values not finite").count(), 2);
    assert!(page.contains("No finite value yet."));
    assert!(page.contains("<b>not finite</b> top1"));
    assert!(!page.contains("NaN"));
}

#[test]
fn damaged_parts_are_named_and_the_rest_is_shown() {
    let page = page_of(
        "damaged",
        &[
            ("recipe.toml", RECIPE),
            ("status.json", "{\"state\":"),
            ("evaluations/a.json", "[]"),
            (
                "pictures/a.json",
                r#"{"title":"T","rows":[[{"image":"../../secret.png"},{"image":"no.png"}]]}"#,
            ),
            ("log.txt", "still here"),
        ],
    );
    for text in [
        "status.json could not be understood",
        "evaluations/a.json could not be understood",
        "pictures/a.json names 2 pictures that are not shown: `../../secret.png` lies outside",
        "still here",
    ] {
        assert!(page.contains(text), "`{text}` is missing");
    }
    assert_eq!(page.matches("class=\"lost\"").count(), 2);
}

#[test]
fn without_an_evaluation_the_last_value_of_the_run_is_shown_as_such() {
    let lines =
        "{\"step\":5,\"knn/top1\":0.25}\n{\"step\":9,\"knn/top1\":0.375,\"train/loss\":1.5}\n";
    let page = page_of("online", &[("recipe.toml", ""), ("metrics.jsonl", lines)]);
    assert!(page.contains("37.50\u{202f}%"));
    assert!(page.contains("knn/top1 during the run, step 9"));
    assert!(page.contains("Last loss") && !page.contains("Final loss"));
    assert!(page.contains("not evaluated yet"), "the linear protocol was not run");
}

#[test]
fn only_the_last_lines_of_a_long_log_are_shown() {
    let log = (0..20_000).map(|line| format!("line {line}.\n")).collect::<Vec<_>>().concat();
    let page = page_of("long", &[("recipe.toml", ""), ("log.txt", &log)]);
    assert!(page.contains(">line 19960.\n") && page.contains("line 19999."));
    assert!(!page.contains("line 19959."));
}

#[test]
fn a_folder_without_a_recipe_is_refused_with_the_way_out() {
    let parent = folder("none", &[]);
    let error = write(&parent.path().join("none")).unwrap_err();
    assert!(matches!(error, Error::Run(_)));
    assert!(error.to_string().contains("holds no `recipe.toml`"), "{error}");

    let parent = folder("broken", &[("recipe.toml", "seed = ")]);
    let error = write(&parent.path().join("broken")).unwrap_err();
    assert!(error.to_string().contains("is not valid TOML"), "{error}");
}

/// Names in the folder, sorted.
fn names(run: &Path) -> Vec<String> {
    let entries = fs::read_dir(run).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_page_is_replaced_whole() {
    let parent = folder("again", &[("recipe.toml", "seed = 1\n")]);
    let run = parent.path().join("again");
    let path = write(&run).unwrap();
    // A reader that opened the old page goes on reading the old page.
    let before = fs::File::open(&path).unwrap();
    let old = fs::read_to_string(&path).unwrap();
    fs::write(run.join("recipe.toml"), "seed = 2\n").unwrap();
    write(&run).unwrap();
    assert_eq!(std::io::read_to_string(before).unwrap(), old);
    assert!(fs::read_to_string(&path).unwrap().contains("seed = 2"));
    assert_eq!(names(&run), ["recipe.toml", "report.html"]);

    // What cannot be replaced stays, and no half page is left beside it.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(write(&run), Err(Error::Io { .. })));
    assert_eq!(names(&run), ["recipe.toml", "report.html"]);
}

#[test]
fn what_happened_and_what_sentinels_saw_is_in_sight() {
    let status = r#"{"state":"finished","history":[{"step":3,"text":"micro-batch halved to 8 <i>"}],
        "warnings":[{"step":5,"name":"collapse","text":"the deviation is far below"}]}"#;
    let page = page_of("warned", &[("recipe.toml", ""), ("status.json", status)]);
    assert!(
        page.contains("<h2>Warnings</h2>") && page.contains("<h2>What happened on the way</h2>")
    );
    assert!(page.contains("step 5, collapse</span> the deviation is far below"));
    assert!(page.contains("step 3</span> micro-batch halved to 8 &#60;i&#62;"));
    let quiet =
        page_of("quiet", &[("recipe.toml", ""), ("status.json", "{\"state\":\"finished\"}")]);
    assert!(!quiet.contains("<h2>Warnings</h2>") && !quiet.contains("What happened on the way"));
    let warning = r#"{"step":1,"name":"a","text":"again"}"#;
    let many = format!("{{\"warnings\":[{}{warning}]}}", format!("{warning},").repeat(59));
    let page = page_of("many", &[("recipe.toml", ""), ("status.json", &many)]);
    assert_eq!(page.matches("</span> again").count(), 50);
    assert!(page.contains("The last 50; 10 earlier ones are in status.json."));
}

/// Every file of a run, mutated one at a time: the page is made whatever it finds, and only a recipe can be refused.
#[test]
fn no_damage_to_a_run_keeps_the_page_from_being_made() {
    let picture =
        r#"{"title":"t","caption":"c","rows":[[{"image":"pictures/a.png","mark":"agrees"}]]}"#;
    let files = [
        ("recipe.toml", RECIPE),
        ("environment.json", r#"{"threads":2,"cpu":"EPYC","command":["diptych","pretrain"]}"#),
        (
            "status.json",
            r#"{"state":"running","step":78,"steps":780,"epoch":4,"final_loss":4.2134,"views":399360,
            "views_per_second":812.3,"wall_seconds":512.0,"peak_memory_mb":1900,"skipped_steps":3}"#,
        ),
        (
            "metrics.jsonl",
            "{\"step\":10,\"epoch\":0.05,\"wall_seconds\":3.2,\"train/loss\":5.125,\"knn/top1\":0.1}\n\
             {\"step\":20,\"epoch\":0.1,\"train/loss\":null,\"train/rate\":-1e-5}\n\
             {\"step\":30,\"epoch\":0.1,\"train/loss\":1e299,\"train/rate\":\"NaN\"}\n",
        ),
        (
            "evaluations/knn.json",
            r#"{"protocol":"knn","version":1,"metric":"top1","value":0.451,"interval_95":[0.4413,0.4608],
            "data":{"classes":10,"queries":10000,"references":50000},"also":{"top5":{"value":0.8125}},
            "weights":{"file":"last.safetensors","hash_before":"a1b2","hash_after":"a1b2"},"wall_seconds":3.5,
            "baselines":{"chance":0.1},"settings":{"k":200}}"#,
        ),
        ("pictures/views.json", picture),
        ("log.txt", "2026-11-21T10:15:00Z started\n"),
    ];
    let parent = folder("mutants", &files);
    let run = parent.path().join("mutants");
    fs::write(run.join("pictures/a.png"), png(32, 32)).unwrap();
    for (seed, (name, text)) in files.iter().enumerate() {
        let mut mutator = Mutator::new(text.as_bytes(), seed as u64);
        let (mut made, count) = (0, 60);
        for _ in 0..count {
            fs::write(run.join(name), mutator.next_mutant()).unwrap();
            match write(&run) {
                Ok(_) => made += 1,
                Err(Error::Run(_) | Error::Io { .. }) if *name == "recipe.toml" => {}
                Err(other) => panic!("{name}: {other:?}"),
            }
            crate::train::run::read_status(&run);
        }
        assert!(if *name == "recipe.toml" { made > 4 } else { made == count }, "{name}: {made}");
        fs::write(run.join(name), text).unwrap();
    }
}

#[test]
fn a_number_is_the_newest_of_the_last_checkpoint_and_an_older_one_is_said_to_be() {
    let record = |value: f64, layer: &str| {
        format!(
            "{{\"protocol\":\"knn\",\"metric\":\"top1\",\"value\":{value},\"layer\":\"{layer}\"}}"
        )
    };
    let (old, new, other) = (record(0.25, "h"), record(0.5, "h"), record(0.75, "z"));
    let parent = folder(
        "a",
        &[
            ("recipe.toml", RECIPE),
            ("checkpoints/last.safetensors", ""),
            ("evaluations/knn-a.json", &new),
            ("evaluations/knn-b.json", &old),
            ("evaluations/knn-c.json", &other),
        ],
    );
    let run = parent.path().join("a");
    let written = |file: &str, second: u64| {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(second);
        fs::File::options().append(true).open(run.join(file)).unwrap().set_modified(time).unwrap();
    };
    let tile = || {
        let page = fs::read_to_string(write(&run).unwrap()).unwrap();
        let tile = page.split("<h3>k-NN, top1</h3>").nth(1).unwrap();
        (tile.split("</div>").next().unwrap().to_owned(), page)
    };
    written("checkpoints/last.safetensors", 100);
    written("evaluations/knn-a.json", 300);
    written("evaluations/knn-b.json", 200);
    written("evaluations/knn-c.json", 400);
    let (found, page) = tile();
    assert!(found.contains("50.00\u{202f}%") && found.contains("knn-a.json, one of 3"), "{found}");
    assert!(!page.contains("older than the last checkpoint"));
    written("checkpoints/last.safetensors", 350);
    written("evaluations/knn-c.json", 340);
    let (found, page) = tile();
    assert!(found.contains("50.00\u{202f}%"), "{found}");
    assert!(found.contains("older than the last checkpoint"), "{found}");
    assert_eq!(
        page.matches("<span class=\"bad\">older than the last checkpoint</span>").count(),
        3
    );
}
