//! The table of what was found: `learns.md` for people, `learns.json` with every run.

use crate::{Found, Known, Plan, Row};
use anyhow::{Context, Result};
use diptych::files::replace_text;
use diptych::machine;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Points above the untrained network that a method has to reach.
const LEARNS: f64 = 5.0;

/// A line of `learns.json`.
#[derive(Deserialize)]
struct Line {
    data: String,
    name: String,
    runs: Vec<Found>,
}

/// Data set, line and run of all that `learns.json` holds.
pub(crate) fn read(out: &Path) -> Result<Vec<(String, String, Found)>> {
    let path = out.join("learns.json");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let name = || format!("{} (set it aside to begin anew)", path.display());
    let lines: Vec<Line> =
        serde_json::from_str(&std::fs::read_to_string(&path)?).with_context(name)?;
    let of = |Line { data, name, runs }| {
        runs.into_iter().map(move |found| (String::clone(&data), String::clone(&name), found))
    };
    Ok(lines.into_iter().flat_map(of).collect())
}

/// Writes both files from what is known.
pub(crate) fn write(plan: &Plan, known: &Known, out: &Path) -> Result<()> {
    let mut text = format!(
        "# What every method learns in a few epochs\n\nlibtorch {}, one core each. Small and short on purpose: it shows that \
         methods learn and what plug-ins add under equal conditions, not what they can reach. Weighted k-NN (k 200, τ 0.1) on \
         h, top-1 in per cent, mean and standard deviation over the seeds; the untrained network is judged in the same \
         way. A gain below 5 points is marked, and so is what is made to collapse; \"against\" is the difference to \
         the method alone, seed by seed; warnings are those of the run's own sentinels. In so few epochs most stay below raw \
         pixels on the scenes, whose few colours pixels tell. Made by `make learns`; every run's settings are in learns.json.\n",
        machine::LIBTORCH,
    );
    let mut raw = Vec::new();
    for data in &plan.data {
        let of = |row: &Row| -> Vec<Found> {
            (0..row.seeds).filter_map(|seed| known.found(data, row, seed)).collect()
        };
        let found: Vec<(&Row, Vec<Found>)> = plan
            .of(data)
            .map(|row| (row, of(row)))
            .filter(|(_, found)| !found.is_empty())
            .collect();
        let Some((_, first)) = found.first() else { continue };
        let mut processors = BTreeMap::new();
        for run in found.iter().flat_map(|(_, runs)| runs) {
            *processors.entry(run.processor.as_str()).or_insert(0) += 1;
        }
        let processors: Vec<String> =
            processors.iter().map(|(name, runs)| format!("{runs} runs on {name}")).collect();
        let _ = write!(
            text,
            "\n## {}\n\n{}. Raw pixels: {:.2}.\n\n| | seeds | k-NN | untrained | gain | against | warnings |\n|---|---|---|---|---|---|---|\n",
            data.title,
            processors.join(", "),
            first[0].pixels
        );
        for (row, runs) in &found {
            let base = row.above.as_ref().and_then(|name| {
                found.iter().find(|(other, _)| other.name == *name).map(|(_, runs)| runs)
            });
            text.push_str(&line(row, runs, base));
            raw.push(
                json!({ "data": data.name, "name": row.name, "above": row.above, "runs": runs }),
            );
        }
    }
    replace_text(&out.join("learns.md"), &text)?;
    replace_text(&out.join("learns.json"), &format!("{:#}\n", json!(raw)))?;
    Ok(())
}

fn line(row: &Row, runs: &[Found], base: Option<&Vec<Found>>) -> String {
    let gains: Vec<f64> = runs.iter().map(|run| run.knn - run.untrained).collect();
    let gain = mean(&gains);
    let verdict = match &row.shows {
        Some(shows) => format!(" ({shows})"),
        None if gain >= LEARNS => String::new(),
        None => " **below 5**".to_owned(),
    };
    // Seed by seed, since the same seed draws the same images, views and initial weights.
    let against = base.map_or_else(String::new, |base| {
        let pairs = runs.iter().filter_map(|run| {
            let other = base.iter().find(|other| other.seed == run.seed)?;
            Some(run.knn - other.knn)
        });
        let pairs: Vec<f64> = pairs.collect();
        let name = row.above.as_deref().unwrap_or_default();
        if pairs.is_empty() { String::new() } else { format!("{name} {}", signed(&pairs)) }
    });
    let mut warnings: Vec<&str> = runs
        .iter()
        .flat_map(|run| &run.warnings)
        .filter_map(|warning| warning.split(':').next())
        .collect();
    warnings.sort_unstable();
    warnings.dedup();
    format!(
        "| {} | {} | {} | {:.2} | {:+.2}{verdict} | {against} | {} |\n",
        row.name,
        runs.len(),
        spread(&runs.iter().map(|run| run.knn).collect::<Vec<_>>()),
        mean(&runs.iter().map(|run| run.untrained).collect::<Vec<_>>()),
        gain,
        warnings.join(", "),
    )
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Standard deviation with n − 1; none of one value.
fn deviation(values: &[f64]) -> Option<f64> {
    let center = mean(values);
    let squares: f64 = values.iter().map(|value| (value - center).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

fn spread(values: &[f64]) -> String {
    match deviation(values) {
        Some(deviation) => format!("{:.2} ± {deviation:.2}", mean(values)),
        None => format!("{:.2}", mean(values)),
    }
}

fn signed(values: &[f64]) -> String {
    match deviation(values) {
        Some(deviation) => format!("{:+.2} ± {deviation:.2}", mean(values)),
        None => format!("{:+.2}", mean(values)),
    }
}
