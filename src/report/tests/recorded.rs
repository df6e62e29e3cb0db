//! What a run recorded of itself, its analyses, and the data that pages carry.

use super::*;
use crate::analyze::structure::complaints;
use crate::report::compare;
use crate::train::run::RunFolder;
use serde_json::{Value, json};

/// Scores of some steps and norms of some epochs.
fn record(run: &Path, shift: f64) {
    let scores: Vec<String> = (1..=40)
        .map(|step| {
            let (step, t) = (f64::from(step), f64::from(step) / 40.0);
            json!({
                "step": step, "epoch": step / 10.0, "loss": 3.0 - t, "lr": 0.1, "queries": 8.0, "negatives": 30.0,
                "pos_mean": 0.25 + 0.5 * t + shift, "neg_mean": 0.125 - t / 8.0, "neg_var": 0.0625, "neg_q01": -0.5,
                "neg_q99": 0.5, "neg_hardest": 0.75,
            })
            .to_string()
        })
        .collect();
    fs::write(run.join("scores.jsonl"), scores.join("\n") + "\n").unwrap();
    let layer = |name: &str| json!({ "name": name, "kind": "weight", "shape": [4] });
    let mut lines = vec![
        json!({ "step": 0, "layers": [layer("backbone.conv1.weight"), layer("projector.a")] }),
    ];
    lines.extend((1..=4).map(|epoch| {
        let list = [0.5 * f64::from(epoch), 2.0];
        json!({ "step": 10 * epoch, "epoch": epoch, "steps": 10, "mean": list, "first": list, "last": list, "highest": list })
    }));
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    fs::write(run.join("gradients.jsonl"), lines.join("\n") + "\n").unwrap();
}

/// An analysis with a picture, a page, data, and a name that leads elsewhere.
fn analyse(run: &Path) {
    let folder = run.join("analyses/parts of dogs");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("dogs.svg"), "<svg/>").unwrap();
    fs::write(folder.join("dogs.png"), png(4, 4)).unwrap();
    fs::write(folder.join("page.html"), "x").unwrap();
    fs::write(folder.join("a.csv"), "x").unwrap();
    let file = |file: &str, form: &str| json!({ "file": file, "form": form, "title": format!("The {file}") });
    let analysis = json!({
        "kind": "parts", "version": 1, "title": "Parts <b>", "settings": { "k": 3 }, "seed": 5,
        "numbers": { "inertia": 0.123_456_789 }, "wall_seconds": 2.0, "device": "cpu", "diptych": "0",
        "files": [file("dogs.svg", "picture"), file("dogs.png", "picture"), file("page.html", "page"),
                  file("a.csv", "data"), file("../../recipe.toml", "data")],
    });
    fs::write(folder.join("analysis.json"), analysis.to_string()).unwrap();
}

/// The tables that a page carries, as JSON.
fn tables(page: &str) -> Vec<Value> {
    let parts = page.split("data-table=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    parts.map(|text| serde_json::from_str(&text.replace("&#34;", "\"")).unwrap()).collect()
}

#[test]
fn scores_gradients_and_analyses_stand_on_the_page_with_their_data() {
    let parent = folder("first", &[("recipe.toml", RECIPE)]);
    let run = parent.path().join("first");
    record(&run, 0.0);
    analyse(&run);
    let page = fs::read_to_string(write(&run).unwrap()).unwrap();
    assert_eq!(complaints(&page), Vec::<String>::new());
    for text in [
        "<h2>Scores</h2>",
        "positives 0.75",
        "Length of the gradient of 2 layers over 4 epochs",
        "<th scope=\"row\">backbone.conv1.weight</th><td>weight</td>",
        "Parts &#60;b&#62;<small>parts, analyses/parts of dogs</small>",
        "href=\"analyses/parts%20of%20dogs/page.html\">The page.html (page.html)</a>",
        "src=\"data:image/svg+xml;base64,PHN2Zy8+\" alt=\"The dogs.svg\"",
        "<th scope=\"row\">inertia</th><td>0.12346</td>",
        "which is not there",
        "<a href=\"#scores\">Scores</a>",
    ] {
        assert!(page.contains(text), "`{text}` is missing");
    }
    assert_eq!(page.matches("data:image/png").count(), 0, "the SVG stands for the PNG beside it");
    let tables = tables(&page);
    let scores = &tables[0];
    assert_eq!(scores["columns"][6], "pos_mean", "{}", scores["columns"]);
    assert_eq!(
        (scores["rows"].as_array().unwrap().len(), &scores["rows"][39][6]),
        (40, &json!(0.75))
    );
    let gradients = &tables[1];
    assert_eq!(gradients["rows"][2], json!([2, "backbone.conv1.weight", 1, 1, 1, 1]));

    // Elsewhere the links find their way back.
    let other = parent.path().join("pages/a.html");
    fs::create_dir(parent.path().join("pages")).unwrap();
    crate::report::write_to(&run, &other, false).unwrap();
    let page = fs::read_to_string(other).unwrap();
    assert!(page.contains("href=\"../first/analyses/parts%20of%20dogs/a.csv\""));

    // Damage is told.
    fs::write(run.join("scores.jsonl"), "{}\n{}\n").unwrap();
    fs::write(run.join("gradients.jsonl"), "{\"step\":0}\n").unwrap();
    fs::write(run.join("analyses/parts of dogs/analysis.json"), "{").unwrap();
    let page = fs::read_to_string(write(&run).unwrap()).unwrap();
    for text in ["scores.jsonl`, line 1", "must name the layers", "analysis `"] {
        assert!(page.contains(text), "`{text}` is missing");
    }
    assert!(!page.contains("id=\"scores\"") && !page.contains("id=\"analyses\""));
}

#[test]
fn a_large_drawing_is_shown_as_its_picture_and_pages_have_room_for_so_much() {
    let parent = folder("a", &[("recipe.toml", RECIPE)]);
    let paths = ["a", "b"].map(|name| parent.path().join(name));
    fs::create_dir(&paths[1]).unwrap();
    fs::write(paths[1].join("recipe.toml"), RECIPE).unwrap();
    for run in &paths {
        analyse(run);
        let drawing = run.join("analyses/parts of dogs/dogs.svg");
        fs::write(&drawing, vec![b' '; (4 << 20) + 1]).unwrap();
    }
    let page = fs::read_to_string(write(&paths[0]).unwrap()).unwrap();
    assert_eq!(page.matches("src=\"data:image/png").count(), 1, "in place of the drawing");
    assert!(!page.contains("too large") && !page.contains("image/svg+xml"));
    // Two runs share the room that one has.
    let mut room = 40;
    let shown = |room: &mut u64, run| {
        let found =
            crate::report::analyses::read(run, &parent.path().join("p"), room, &mut Vec::new());
        found[0].pictures.len()
    };
    assert_eq!((shown(&mut room, &paths[0]), shown(&mut room, &paths[1])), (1, 0));
    assert_eq!(room, 40 - png(4, 4).len() as u64);
}

#[test]
fn the_data_of_curves_and_evaluations_are_the_numbers_of_the_files() {
    let page = full();
    let tables = tables(&page);
    let curves = json!({
        "columns": ["step", "epoch", "train/loss", "train/contrastive_accuracy", "knn/top1"],
        "rows": [[10, 0.05, 5.125, 0.1, null], [20, 0.1, 4.5, null, 0.3125]],
    });
    assert_eq!(tables[0], curves);
    assert_eq!(tables[1]["rows"][0][3], json!(0.451));
    assert_eq!(tables[1]["rows"][0][5], json!(0.4608));
    assert!(
        page.contains("<th scope=\"row\">10</th><td>0.05</td><td>5.125</td>"),
        "a table behind the chart"
    );
}

#[test]
fn several_runs_have_all_of_it_side_by_side() {
    let parent = folder("a", &[("recipe.toml", RECIPE)]);
    let paths = ["a", "b"].map(|name| parent.path().join(name));
    fs::create_dir(&paths[1]).unwrap();
    fs::write(paths[1].join("recipe.toml"), RECIPE).unwrap();
    for (run, shift) in paths.iter().zip([0.0, 0.125]) {
        record(run, shift);
        analyse(run);
        fs::write(run.join("metrics.jsonl"), "{\"step\":10,\"epoch\":1,\"train/loss\":2.5}\n")
            .unwrap();
    }
    let path = parent.path().join("both.html");
    compare(&paths, &path, false).unwrap();
    let page = fs::read_to_string(path).unwrap();
    assert_eq!(complaints(&page), Vec::<String>::new());
    for text in [
        "<span>scores</span> pos mean",
        "scores/pos_mean over epochs, last values: a 0.75, b 0.875.",
        "alt=\"b: Length of the gradient",
        "a: Parts &#60;b&#62;",
        "href=\"b/analyses/parts%20of%20dogs/page.html\"",
        "<th scope=\"row\">b</th><td>40</td><td>0.3875</td><td>0.3875</td><td>0.875</td><td>0.875</td>",
    ] {
        assert!(page.contains(text), "`{text}` is missing");
    }
    let tables = tables(&page);
    assert_eq!(tables[1]["columns"][3], "scores/pos_mean");
    let row = &tables[1]["rows"][9];
    assert_eq!([&row[2], &row[3]], [&json!(2.5), &json!(0.5)]);
}

#[test]
fn only_a_run_that_goes_on_reads_itself_anew() {
    let parent = folder("first", &[("recipe.toml", RECIPE)]);
    let run = parent.path().join("first");
    let status = |state: &str| {
        let status =
            json!({ "state": state, "step": 10, "steps": 100, "epoch": 1.0, "wall_seconds": 40.0 });
        fs::write(run.join("status.json"), status.to_string()).unwrap();
        fs::read_to_string(write(&run).unwrap()).unwrap()
    };
    let lock = RunFolder::open(&run).unwrap();
    fs::write(run.join("metrics.jsonl"), "{\"step\":15,\"epoch\":1.5,\"train/loss\":2.5}\n")
        .unwrap();
    let page = status("running");
    assert!(page.contains("data-every=\"20\" data-stamp=\"15 10\""), "half an epoch");
    assert!(page.contains("step 15 of 100"), "curves are ahead of the status");
    assert!(!status("finished").contains("data-every="));
    drop(lock);
    assert!(!status("running").contains("data-every="), "nobody works on it");
}
