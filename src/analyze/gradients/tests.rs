//! The numbers by hand, and the pictures as stored.

use super::*;
use crate::analyze::plot::tests::alike;
use std::fs;
use std::slice::from_ref;

/// A run of a few layers whose third one jumps every other epoch.
fn run(folder: &Path, epochs: u64) -> PathBuf {
    let path = folder.join("a");
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("recipe.toml"), "").unwrap();
    let names = [
        "backbone.conv1.weight",
        "backbone.bn1.weight",
        "backbone.layer1.0.conv1.weight",
        "backbone.layer1.0.bn1.weight",
        "backbone.layer2.0.conv1.weight",
        "backbone.layer2.0.bn1.bias",
        "projector.layers.0.linear.weight",
        "projector.layers.1.linear.weight",
    ];
    let layers: Vec<Value> = names
        .iter()
        .map(|name| json!({ "name": name, "kind": if name.contains("bn") { "norm_scale" } else { "weight" }, "shape": [2, 3] }))
        .collect();
    let mut text = format!("{}\n", json!({ "step": 0, "layers": layers }));
    for epoch in 1..=epochs {
        let norm = |layer: usize| {
            let size = [1.0, 0.1, 0.5, 0.08, 0.7, 0.06, 0.3, 0.4][layer];
            let jump = if layer == 2 && epoch % 2 == 0 { 4.0 } else { 1.0 };
            size * jump * (1.0 + 2.0 / epoch as f64)
        };
        let list: Vec<f64> = (0..names.len()).map(norm).collect();
        let line = json!({
            "step": epoch * 10, "epoch": epoch, "steps": 10, "mean": list, "first": list, "last": list,
            "highest": list.iter().map(|norm| 1.5 * norm).collect::<Vec<_>>(),
        });
        writeln!(text, "{line}").unwrap();
    }
    fs::write(path.join(FILE), text).unwrap();
    path
}

#[test]
fn how_steady_a_curve_is_by_hand() {
    let found = steadiness(&[1.0, 2.0, 4.0, 1.0]);
    // Sorted 1 1 2 4: median 1.5; ln 2, ln 2, ln 4.
    assert!((found.max_over_median - 4.0 / 1.5).abs() < 1e-12);
    assert!((found.mean_abs_log_difference - 4.0 * 2f64.ln() / 3.0).abs() < 1e-12);
    // Of a gap and a zero nothing is known.
    let found = steadiness(&[1.0, f64::NAN, 3.0, 0.0, 3.0]);
    assert!((found.max_over_median - 3.0 / 2.0).abs() < 1e-12, "{found:?}");
    assert!(found.mean_abs_log_difference.is_nan());
    assert!(steadiness(&[2.0]).mean_abs_log_difference.is_nan());
}

#[test]
fn the_data_and_numbers_are_those_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = run(folder.path(), 6);
    let out = folder.path().join("out");
    let analysis = draw(from_ref(&path), &Settings::default(), &out).unwrap();
    let files: Vec<&str> = analysis.files.iter().map(|file| file.file.as_str()).collect();
    assert_eq!(
        files,
        [
            "surface.svg",
            "surface.png",
            "map.svg",
            "map.png",
            "gradients.csv",
            "layers.csv",
            "gradients.json"
        ]
    );
    let csv = fs::read_to_string(out.join("gradients.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 6 * 8);
    assert!(csv.contains("\na,2,10,2,backbone.layer1.0.conv1.weight,weight,4,4,4,6\n"), "{csv}");
    let numbers = &analysis.numbers["a"];
    assert_eq!(numbers["max_over_median"]["highest"]["layer"], "backbone.layer1.0.conv1.weight");
    assert_eq!((&numbers["layers"], &numbers["epochs"]), (&json!(8), &json!(6)));
    let backbone = Settings { backbone_only: true, ..Settings::default() };
    assert_eq!(draw(from_ref(&path), &backbone, &out).unwrap().numbers["a"]["layers"], 6);

    // An epoch that was continued counts by its last line; a short line is an error that says what to do.
    let landscape = || Landscape::read(&path);
    let text = fs::read_to_string(path.join(FILE)).unwrap();
    let again = text.lines().last().unwrap().replace("\"steps\":10", "\"steps\":12");
    fs::write(path.join(FILE), format!("{text}{again}\n")).unwrap();
    let found = landscape().unwrap().unwrap();
    assert_eq!((found.epochs.len(), found.epochs[5].steps), (6, 12));
    fs::write(path.join(FILE), format!("{text}{{\"step\":70,\"epoch\":7,\"mean\":[1.0]}}\n"))
        .unwrap();
    let message = landscape().unwrap_err().to_string();
    assert!(message.contains("must have 8 numbers"), "{message}");
    let header = text.lines().next().unwrap();
    fs::write(path.join(FILE), format!("{header}\n")).unwrap();
    let message = draw(&[path], &Settings::default(), &out).unwrap_err().to_string();
    assert!(message.contains("no norms of gradients yet"), "{message}");
}

#[test]
fn layers_are_grouped_and_many_epochs_keep_their_spikes() {
    let folder = tempfile::tempdir().unwrap();
    let landscape = Landscape::read(&run(folder.path(), 450)).unwrap().unwrap();
    let found = groups(&landscape.layers);
    let names: Vec<&str> = found.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["stem", "layer1", "layer2", "projector"]);
    let (epochs, grid) = rows(&landscape, Aggregate::Mean, 200);
    assert_eq!((grid.len(), &epochs[..2]), (150, [1, 4].as_slice()));
    assert!((grid[1][2] - 2.0 * (1.0 + 2.0 / 4.0)).abs() < 1e-12, "the jump in epochs 4 to 6");
}

#[test]
fn the_pictures_are_the_stored_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = run(folder.path(), 30);
    let out = folder.path().join("out");
    draw(from_ref(&path), &Settings::default(), &out).unwrap();
    alike(&out.join("surface.png"), "gradients-surface.png");
    alike(&out.join("map.png"), "gradients-map.png");
    let settings = Settings { height: Height::Log, palette: Scale::Cividis, ..Settings::default() };
    draw(&[path], &settings, &out).unwrap();
    alike(&out.join("surface.png"), "gradients-surface-log.png");
}
