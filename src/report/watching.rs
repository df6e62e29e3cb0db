//! What a run recorded of itself: scores of positives and negatives, norms of gradients.

use std::path::Path;

use super::data::{Data, chosen, number};
use super::format::significant;
use super::metrics::{Curve, Point};
use super::overlay::{self, Line, Over, Overlay};
use crate::analyze::figure::base64;
use crate::analyze::gradients::{Landscape, Settings, heat_map};
use crate::analyze::scores::Table;

/// Points of a curve of scores.
const COLUMNS: usize = 300;

/// Norms of a run in the page, by layer and epoch.
const CELLS: usize = 40_000;

/// A picture of scores.
pub(super) struct ScoreFigure {
    pub(super) title: String,
    pub(super) overlay: Overlay,
    /// Names of the curves with their last values: place, name, value.
    pub(super) keys: Vec<(usize, String, String)>,
    pub(super) description: String,
    /// Columns of the table that belong to it.
    pub(super) columns: String,
    /// Step and values of some of its points.
    pub(super) rows: Vec<(String, Vec<String>)>,
}

/// The scores of a run.
pub(super) struct Scores {
    pub(super) figures: Vec<ScoreFigure>,
    pub(super) data: Data,
}

/// The norms of a run.
pub(super) struct Gradients {
    pub(super) uri: String,
    pub(super) description: String,
    /// Layer, kind, highest by median, change from epoch to epoch.
    pub(super) layers: Vec<[String; 4]>,
    pub(super) data: Data,
}

/// Pictures, and the columns in them.
const FIGURES: [(&str, &[(&str, &str)]); 2] = [
    (
        "of positives and negatives",
        &[
            ("pos_mean", "positives"),
            ("neg_hardest", "hardest negative"),
            ("neg_q99", "99 % of negatives"),
            ("neg_mean", "negatives"),
            ("neg_q01", "1 % of negatives"),
        ],
    ),
    ("of negatives, variance", &[("neg_var", "variance")]),
];

/// The scores of a run, if it recorded some.
pub(super) fn scores(run: &Path, notes: &mut Vec<String>) -> Option<Scores> {
    let table = read_scores(run, notes)?;
    let figures: Vec<ScoreFigure> =
        FIGURES.iter().filter_map(|(title, columns)| figure(&table, title, columns)).collect();
    (!figures.is_empty()).then(|| Scores { figures, data: Data::scores(&table, 1) })
}

/// What a run recorded; a damaged file leaves a note.
pub(super) fn read_scores(run: &Path, notes: &mut Vec<String>) -> Option<Table> {
    Table::read(run).map_err(|error| notes.push(format!("{error}."))).ok().flatten()
}

/// A column of a table as a curve.
pub(super) fn curve(table: &Table, name: &str) -> Option<Curve> {
    let place = table.columns.iter().position(|column| column == name)?;
    let point = |row: &Vec<f64>| Point { step: row[0], epoch: row[1], value: row[place] };
    let points: Vec<Point> = table.rows.iter().map(point).collect();
    let some = points.iter().any(|point| point.value.is_finite());
    some.then(|| Curve { name: name.to_owned(), points })
}

fn figure(table: &Table, title: &str, columns: &[(&str, &str)]) -> Option<ScoreFigure> {
    let curves: Vec<(usize, &str, &str, Curve)> = columns
        .iter()
        .enumerate()
        .filter_map(|(place, (name, words))| Some((place, *name, *words, curve(table, name)?)))
        .collect();
    let lines: Vec<Line> = curves
        .iter()
        .map(|(place, .., curve)| Line { run: *place, points: curve.condensed(COLUMNS).0 })
        .collect();
    let overlay = overlay::draw(&lines, Over::Steps, false)?;
    let last = |curve: &Curve| {
        curve.last().map_or(String::new(), |point| significant(rounded(point.value)))
    };
    let keys: Vec<(usize, String, String)> = curves
        .iter()
        .map(|(place, _, words, curve)| (*place, (*words).to_owned(), last(curve)))
        .collect();
    let told: Vec<String> =
        keys.iter().map(|(_, words, value)| format!("{words} {value}")).collect();
    let rows = chosen(table.rows.len()).into_iter().map(|row| {
        let values = curves.iter().map(|(.., curve)| {
            let value = curve.points[row].value;
            if value.is_finite() { significant(rounded(value)) } else { "–".to_owned() }
        });
        (significant(table.rows[row][0]), values.collect())
    });
    Some(ScoreFigure {
        title: title.to_owned(),
        overlay,
        description: format!(
            "Cosines before the temperature over the steps; at the end {}.",
            told.join(", ")
        ),
        columns: curves.iter().map(|(_, name, ..)| *name).collect::<Vec<_>>().join(" "),
        keys,
        rows: rows.collect(),
    })
}

/// Four digits are enough for eyes.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// The norms of a run, if it recorded some.
pub(super) fn gradients(run: &Path, name: &str, notes: &mut Vec<String>) -> Option<Gradients> {
    let found = Landscape::read(run);
    let landscape = found.map_err(|error| notes.push(format!("{error}."))).ok().flatten()?;
    let settings = Settings::default();
    let description = format!(
        "Length of the gradient of {} layers over {} epochs, as colour.",
        landscape.layers.len(),
        landscape.epochs.len()
    );
    let title = format!("Gradients of {name}");
    let svg = heat_map(&landscape, &settings, None, (&title, &description));
    let steadiness = landscape.steadiness(settings.aggregate);
    let shown =
        |value: f64| if value.is_finite() { significant(rounded(value)) } else { "–".to_owned() };
    let layers = landscape.layers.iter().zip(&steadiness).map(|(layer, found)| {
        let [ratio, change] = [found.max_over_median, found.mean_abs_log_difference].map(shown);
        [layer.name.clone(), layer.kind.replace('_', " "), ratio, change]
    });
    let every = (landscape.epochs.len() * landscape.layers.len()).div_ceil(CELLS).max(1);
    let rows: Vec<Vec<serde_json::Value>> = landscape
        .epochs
        .iter()
        .step_by(every)
        .flat_map(|epoch| {
            landscape.layers.iter().enumerate().map(move |(place, layer)| {
                let mut row = vec![epoch.epoch.into(), layer.name.clone().into()];
                let norm = |list: &Vec<f64>| {
                    if list[place].is_finite() {
                        number(list[place])
                    } else {
                        serde_json::Value::Null
                    }
                };
                row.extend(epoch.norms.iter().map(norm));
                row
            })
        })
        .collect();
    let columns = ["epoch", "layer", "mean", "first", "last", "highest"];
    Some(Gradients {
        uri: format!("data:image/svg+xml;base64,{}", base64(svg.as_bytes())),
        description,
        layers: layers.collect(),
        data: Data {
            note: if every > 1 {
                format!("one epoch in {every}; gradients.jsonl has every one")
            } else {
                String::new()
            },
            ..Data::of(&columns, &rows)
        },
    })
}
