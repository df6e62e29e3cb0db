//! The data behind a chart or table, carried inside the page for its buttons to save: `{"columns": [...], "rows": [[...]]}`.

use serde::Serialize;
use serde_json::{Value, json};

use super::format::counted;
use super::metrics::Metrics;
use crate::analyze::scores::Table;

/// Cells of all curves of a page together; above that, rows are joined.
const CELLS: usize = 600_000;

/// Rows of the table that stands behind a chart for those who cannot see it.
const SHOWN: usize = 12;

/// A table to be saved.
#[derive(Default)]
pub(super) struct Data {
    /// As JSON.
    pub(super) table: String,
    /// What it leaves out, for people; empty if nothing.
    pub(super) note: String,
}

impl Data {
    /// Columns and rows of any values.
    pub(super) fn of(columns: &[&str], rows: &[impl Serialize]) -> Self {
        Self { table: json!({ "columns": columns, "rows": rows }).to_string(), note: String::new() }
    }

    /// All curves of a run by step, `parts` such tables to a page.
    pub(super) fn metrics(metrics: &Metrics, parts: usize) -> Self {
        let mut steps: Vec<f64> = Vec::new();
        for curve in &metrics.curves {
            steps.extend(curve.points.iter().map(|point| point.step));
        }
        steps.sort_by(f64::total_cmp);
        steps.dedup();
        let mut columns = vec!["step".to_owned(), "epoch".to_owned()];
        columns.extend(metrics.curves.iter().map(|curve| curve.name.clone()));
        let mut rows = vec![vec![f64::NAN; columns.len()]; steps.len()];
        for (row, step) in rows.iter_mut().zip(&steps) {
            row[0] = *step;
        }
        for (column, curve) in metrics.curves.iter().enumerate() {
            let mut place = 0;
            for point in &curve.points {
                place += steps[place..].iter().position(|step| *step >= point.step).unwrap_or(0);
                rows[place][1] = point.epoch;
                rows[place][2 + column] = point.value;
            }
        }
        Self::joined(&columns, &rows, parts, "metrics.jsonl")
    }

    /// The scores of every step.
    pub(super) fn scores(table: &Table, parts: usize) -> Self {
        Self::joined(&table.columns, &table.rows, parts, crate::train::scores::FILE)
    }

    /// Rows of numbers; of too many the means of short stretches, which is said.
    fn joined(columns: &[String], rows: &[Vec<f64>], parts: usize, file: &str) -> Self {
        let most = (CELLS / parts.max(1) / columns.len().max(1)).max(100);
        let together = rows.len().div_ceil(most).max(1);
        let note = if together > 1 {
            format!("means of {}; {file} has every one", counted(together, "line"))
        } else {
            String::new()
        };
        let rows: Vec<Vec<Value>> = rows
            .chunks(together)
            .map(|part| (0..columns.len()).map(|column| mean(part, column)).collect())
            .collect();
        Self { table: json!({ "columns": columns, "rows": rows }).to_string(), note }
    }
}

/// Mean of the finite values of a column in six digits; `null` of none.
fn mean(rows: &[Vec<f64>], column: usize) -> Value {
    let values = || rows.iter().map(|row| row[column]).filter(|value| value.is_finite());
    match values().count() {
        0 => Value::Null,
        count => number(values().sum::<f64>() / count as f64),
    }
}

/// A number in seven digits, a whole one without a fraction.
pub(super) fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return json!(value as i64);
    }
    json!(format!("{value:.6e}").parse::<f64>().unwrap_or(value))
}

/// Evenly chosen places of so many, the first and the last among them.
pub(super) fn chosen(count: usize) -> Vec<usize> {
    match count {
        0..=SHOWN => (0..count).collect(),
        _ => (0..SHOWN).map(|place| place * (count - 1) / (SHOWN - 1)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::{Curve, Point};
    use super::*;

    #[test]
    fn curves_share_their_steps_and_long_ones_are_joined() {
        let point = |step: u32, value: f64| Point {
            step: f64::from(step),
            epoch: 0.5 * f64::from(step),
            value,
        };
        let curve = |name: &str, points: Vec<Point>| Curve { name: name.to_owned(), points };
        let metrics = Metrics {
            curves: vec![
                curve("a/b", vec![point(1, 0.5), point(3, f64::NAN)]),
                curve("c/d", vec![point(2, 1.0 / 3.0), point(3, 4.0)]),
            ],
        };
        let data = Data::metrics(&metrics, 1);
        assert_eq!(
            data.table,
            r#"{"columns":["step","epoch","a/b","c/d"],"rows":[[1,0.5,0.5,null],[2,1,null,0.3333333],[3,1.5,null,4]]}"#
        );
        assert!(data.note.is_empty());
        let long = curve("a/b", (0..1_000).map(|step| point(step, f64::from(step % 2))).collect());
        let data = Data::metrics(&Metrics { curves: vec![long] }, 2_000);
        assert_eq!(data.note, "means of 10 lines; metrics.jsonl has every one");
        assert!(data.table.contains("[[4.5,2.25,0.5],[14.5,7.25,0.5],"), "{:.200}", data.table);
    }

    #[test]
    fn a_few_rows_stand_for_many() {
        assert_eq!(chosen(3), [0, 1, 2]);
        let found = chosen(1_000);
        assert_eq!((found.len(), found[0], found[11]), (12, 0, 999));
    }
}
