//! What an evaluation's number does not tell: which classes are taken for which, and how the number depends on settings.

use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;

use super::chart::{AXIS, Drawn, SIZE, frame, padded, styled};
use super::data::Data;
use super::format::{grouped, is_fraction, measured, percent, significant};
use super::overlay::{MOST, name as line_name, named_lines};
use super::run::{Evaluation, read_json};
use crate::evaluate::interval::wilson;
use crate::evaluate::{Details, Sweep};

/// More classes than this make no table; then the classes and pairs that fare worst are listed.
const TABLE: usize = 24;
/// How many classes and pairs are listed then.
const LISTED: usize = 15;

/// What is shown of one evaluation.
pub(super) struct Detail {
    /// The protocol, and the file of the record.
    pub(super) protocol: String,
    pub(super) file: String,
    /// Of which seeds this is, where there were several.
    pub(super) seeds: Option<String>,
    pub(super) matrix: Option<Matrix>,
    pub(super) classes: Vec<Class>,
    /// Whether `classes` are only those that fare worst.
    pub(super) worst: bool,
    /// Whether it is their average precision, which has no interval.
    pub(super) precision: bool,
    /// Class, what it is taken for, how often: the most frequent confusions.
    pub(super) pairs: Vec<(String, String, String)>,
    pub(super) sweeps: Vec<SweepFigure>,
}

/// A table of counts, rows by columns.
pub(super) struct Matrix {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<MatrixRow>,
}

pub(super) struct MatrixRow {
    pub(super) name: String,
    pub(super) cells: Vec<MatrixCell>,
}

pub(super) struct MatrixCell {
    pub(super) count: u64,
    /// Share of the row, in percent, whole.
    pub(super) share: u32,
    pub(super) right: bool,
}

/// How one class fares.
pub(super) struct Class {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) interval: String,
    pub(super) images: String,
    /// In percent: value, low and high end.
    pub(super) bar: [f64; 3],
}

/// A drawn sweep.
pub(super) struct SweepFigure {
    pub(super) title: String,
    pub(super) measure: String,
    pub(super) drawing: String,
    pub(super) chosen: Option<String>,
    /// Names of the curves, where there are several.
    pub(super) keys: Vec<String>,
    pub(super) table: Vec<(String, Vec<String>)>,
    /// The same as numbers, to be saved.
    pub(super) data: String,
}

/// The details of the evaluations that have some.
pub(super) fn read(run: &Path, evaluations: &[Evaluation], notes: &mut Vec<String>) -> Vec<Detail> {
    let of = |evaluation: &Evaluation| {
        let name = Path::new(&evaluation.file).file_name()?.to_str()?;
        let details: Details = read_json(run, &format!("evaluations/details/{name}"), notes)?;
        let detail = Detail::of(evaluation, &details);
        let shown =
            detail.matrix.is_some() || !detail.classes.is_empty() || !detail.sweeps.is_empty();
        shown.then_some(detail)
    };
    evaluations.iter().filter_map(of).collect()
}

impl Detail {
    fn of(evaluation: &Evaluation, details: &Details) -> Self {
        // A file that was changed by hand may lack names or have rows of any length.
        let counts = &details.confusion;
        let name =
            |class: usize| details.classes.get(class).cloned().unwrap_or_else(|| class.to_string());
        let small = counts.len() <= TABLE && counts.iter().all(|row| row.len() <= TABLE);
        let square = details.columns.is_empty();
        let precision = !details.precision.is_empty();
        let mut classes: Vec<(f64, Class)> = if precision {
            let all = details.precision.iter().enumerate();
            all.filter_map(|(class, value)| Some(precise(name(class), (*value)?))).collect()
        } else if square {
            counts
                .iter()
                .enumerate()
                .filter_map(|(class, row)| of_class(name(class), class, row, details.seeds.len()))
                .collect()
        } else {
            Vec::new()
        };
        let worst = (!small || details.precision.len() > TABLE) && classes.len() > LISTED;
        if worst {
            classes.sort_by(|a, b| a.0.total_cmp(&b.0));
            classes.truncate(LISTED);
        }
        let columns =
            if square { (0..counts.len()).map(name).collect() } else { details.columns.clone() };
        let pairs = if square && !small { most_confused(counts, name) } else { Vec::new() };
        Self {
            protocol: evaluation.protocol.clone(),
            file: evaluation.file.clone(),
            seeds: told_seeds(&details.seeds, precision),
            matrix: (small && !counts.is_empty()).then(|| Matrix {
                columns,
                rows: counts
                    .iter()
                    .enumerate()
                    .map(|(class, row)| matrix_row(name(class), class, row, square))
                    .collect(),
            }),
            classes: classes.into_iter().map(|(_, class)| class).collect(),
            worst,
            precision,
            pairs,
            sweeps: details
                .sweeps
                .iter()
                .filter_map(|sweep| draw(sweep, &evaluation.metric))
                .collect(),
        }
    }
}

/// `Counts are sums over the seeds 0, 1, 2.`
fn told_seeds(seeds: &[u64], precision: bool) -> Option<String> {
    let all: Vec<String> = seeds.iter().map(u64::to_string).collect();
    match all.as_slice() {
        [] => None,
        [only] => Some(format!("Of seed {only} alone.")),
        all if precision => Some(format!("Means over the seeds {}.", all.join(", "))),
        all => Some(format!(
            "Counts are sums over the seeds {}; what was swept is of seed {}.",
            all.join(", "),
            all[0]
        )),
    }
}

fn matrix_row(name: String, class: usize, row: &[u64], square: bool) -> MatrixRow {
    let total: u64 = row.iter().sum();
    let cell = |(column, count): (usize, &u64)| MatrixCell {
        count: *count,
        share: (100.0 * *count as f64 / total.max(1) as f64).round() as u32,
        right: square && column == class,
    };
    MatrixRow { name, cells: row.iter().enumerate().map(cell).collect() }
}

/// Share of the images of a class that were taken for it; none for a class without images. Counts are sums over so many
/// seeds, of which each judged the same images: the interval is that of the images of one.
fn of_class(name: String, class: usize, row: &[u64], seeds: usize) -> Option<(f64, Class)> {
    let total = row.iter().sum::<u64>() as usize;
    let right = *row.get(class)? as usize;
    let value = right as f64 / (total > 0).then_some(total)? as f64;
    let seeds = seeds.max(1);
    let total = total.div_ceil(seeds);
    let [low, high] = wilson(((value * total as f64).round() as usize).min(total), total);
    let class = Class {
        name,
        value: percent(value),
        interval: format!("{:.1} to {:.1}", 100.0 * low, 100.0 * high),
        images: grouped(total as f64),
        bar: [value, low, high].map(|share| 100.0 * share),
    };
    Some((value, class))
}

/// The average precision of a class, a share.
fn precise(name: String, value: f64) -> (f64, Class) {
    let bar = [100.0 * value.clamp(0.0, 1.0); 3];
    (
        value,
        Class { name, value: percent(value), interval: String::new(), images: String::new(), bar },
    )
}

fn most_confused(
    counts: &[Vec<u64>],
    name: impl Fn(usize) -> String,
) -> Vec<(String, String, String)> {
    let cells = counts.iter().enumerate().flat_map(|(class, row)| {
        row.iter().enumerate().map(move |(taken, count)| (*count, class, taken))
    });
    let mut wrong: Vec<_> =
        cells.filter(|(count, class, taken)| *count > 0 && class != taken).collect();
    wrong.sort_by_key(|(count, class, taken)| (std::cmp::Reverse(*count), *class, *taken));
    wrong.truncate(LISTED);
    let shown = wrong
        .into_iter()
        .map(|(count, class, taken)| (name(class), name(taken), grouped(count as f64)));
    shown.collect()
}

/// None if there is nothing finite to draw.
fn draw(sweep: &Sweep, metric: &str) -> Option<SweepFigure> {
    let logarithmic = sweep.logarithmic && sweep.at.iter().all(|at| *at > 0.0);
    let place = |at: f64| if logarithmic { at.log10() } else { at };
    let points = |values: &[f64]| -> Vec<(f64, f64)> {
        let pairs = sweep.at.iter().map(|at| place(*at)).zip(values.iter().copied());
        pairs.filter(|(at, value)| at.is_finite() && value.is_finite()).collect()
    };
    let curves: Vec<Vec<(f64, f64)>> =
        sweep.curves.iter().map(|(_, values)| points(values)).collect();
    let all = || curves.iter().flatten();
    let (low, high) = padded(
        all().map(|point| point.1).reduce(f64::min)?,
        all().map(|point| point.1).reduce(f64::max)?,
    );
    let first = all().map(|point| point.0).reduce(f64::min)?;
    let last = all().map(|point| point.0).reduce(f64::max)?;
    let range = if first < last { (first, last) } else { (first - 1.0, last + 1.0) };
    let fraction = is_fraction(metric);
    let mut drawing = String::new();
    {
        let root = SVGBackend::with_string(&mut drawing, SIZE).into_drawing_area();
        let chosen = sweep.chosen.map(place).filter(|at| (range.0..=range.1).contains(at));
        draw_on(&root, &curves, range, (low, high), logarithmic, fraction, chosen)
            .expect("drawing into a string does not fail");
        root.present().expect("drawing into a string does not fail");
    }
    let shown = |value: f64| measured(metric, value);
    let table = sweep.at.iter().enumerate().map(|(row, at)| {
        let values = sweep
            .curves
            .iter()
            .map(|(_, values)| values.get(row).map_or(String::new(), |v| shown(*v)));
        (significant(*at), values.collect())
    });
    Some(SweepFigure {
        title: sweep.setting.replace('_', " "),
        measure: sweep.measure.clone(),
        drawing: named_lines(styled(&drawing), 0..curves.len().min(MOST)),
        chosen: sweep.chosen.map(significant),
        keys: sweep.curves.iter().map(|(name, _)| name.clone()).collect(),
        table: table.collect(),
        data: saved(sweep),
    })
}

/// A sweep as a table of numbers.
fn saved(sweep: &Sweep) -> String {
    let mut columns = vec![sweep.setting.as_str()];
    columns.extend(sweep.curves.iter().map(|(name, _)| name.as_str()));
    let row = |(place, at): (usize, &f64)| {
        let values = sweep.curves.iter().map(|(_, values)| values.get(place).copied());
        std::iter::once(Some(*at)).chain(values).collect::<Vec<_>>()
    };
    Data::of(&columns, &sweep.at.iter().enumerate().map(row).collect::<Vec<_>>()).table
}

/// A number in a few characters: two digits, or a power of ten.
fn rough(value: f64) -> String {
    if (1e-3..1e4).contains(&value) {
        let power = 10f64.powf(1.0 - value.log10().floor());
        return significant((value * power).round() / power);
    }
    let text = format!("{value:.1e}");
    text.replace(".0e", "e")
}

fn draw_on(
    root: &DrawingArea<SVGBackend, Shift>,
    curves: &[Vec<(f64, f64)>],
    range: (f64, f64),
    (low, high): (f64, f64),
    logarithmic: bool,
    fraction: bool,
    chosen: Option<f64>,
) -> Drawn<()> {
    let across = |at: &f64| if logarithmic { rough(10f64.powf(*at)) } else { significant(*at) };
    let mut chart = frame(root, range, (low, high), &across, fraction)?;
    if let Some(at) = chosen {
        chart.draw_series(LineSeries::new([(at, low), (at, high)], AXIS))?;
    }
    for (place, curve) in curves.iter().enumerate() {
        let color = line_name(place % MOST);
        chart.draw_series(LineSeries::new(curve.iter().copied(), color))?;
        chart.draw_series(curve.iter().map(|point| Circle::new(*point, 9, color.filled())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::rough;

    #[test]
    fn ticks_of_logarithmic_axes_are_short() {
        for (value, text) in [
            (1e-5, "1e-5"),
            (1e5, "1e5"),
            (1.584_9, "1.6"),
            (1.0, "1"),
            (250.0, "250"),
            (0.013, "0.013"),
        ] {
            assert_eq!(rough(value), text);
        }
    }
}
