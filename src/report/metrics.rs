//! The numbers logged during a run: one curve for every name in `metrics.jsonl`, and their thinning for a picture.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;

use serde_json::{Map, Value};

use super::format::counted;

/// All curves of a run, in the order in which their names first appear.
#[derive(Default)]
pub(super) struct Metrics {
    pub(super) curves: Vec<Curve>,
}

/// One logged quantity over the steps of a run.
pub(super) struct Curve {
    /// As logged, such as `train/loss`.
    pub(super) name: String,
    /// In the order of their steps.
    pub(super) points: Vec<Point>,
}

/// One logged value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) step: f64,
    /// NaN if the line has no epoch.
    pub(super) epoch: f64,
    /// NaN if the value was not finite: the curve has a gap there.
    pub(super) value: f64,
}

impl Metrics {
    /// Reads `metrics.jsonl`. A last line that is cut off is left out in silence, it is being written or the run was
    /// killed there; damaged lines elsewhere are counted in a note.
    pub(super) fn read(run: &Path, notes: &mut Vec<String>) -> Self {
        let file = match File::open(run.join("metrics.jsonl")) {
            Ok(file) => file,
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    notes.push(format!("metrics.jsonl could not be read: {error}."));
                }
                return Self::default();
            }
        };
        let mut metrics = Self::default();
        let mut places = BTreeMap::new();
        let mut damaged = 0;
        let mut last_damaged = false;
        for line in BufReader::new(file).split(b'\n') {
            let line = match line {
                Ok(line) => line,
                Err(error) => {
                    notes.push(format!("metrics.jsonl could not be read to its end: {error}."));
                    break;
                }
            };
            if line.trim_ascii().is_empty() {
                continue;
            }
            last_damaged = metrics.add(&line, &mut places).is_none();
            damaged += usize::from(last_damaged);
        }
        damaged -= usize::from(last_damaged);
        if damaged > 0 {
            notes.push(format!(
                "{} of metrics.jsonl left out as unreadable.",
                counted(damaged, "line")
            ));
        }
        for curve in &mut metrics.curves {
            curve.points.sort_by(|a, b| a.step.total_cmp(&b.step));
        }
        metrics
    }

    /// Adds one line; none if it is no object with a step.
    fn add(&mut self, line: &[u8], places: &mut BTreeMap<String, usize>) -> Option<()> {
        let line: Map<String, Value> = serde_json::from_slice(line).ok()?;
        let step = line.get("step")?.as_f64()?;
        let epoch = line.get("epoch").and_then(Value::as_f64).unwrap_or(f64::NAN);
        for (name, value) in line.iter().filter(|(name, _)| name.contains('/')) {
            let Some(value) = number(value) else { continue };
            let place = *places.entry(name.clone()).or_insert_with(|| {
                self.curves.push(Curve { name: name.clone(), points: Vec::new() });
                self.curves.len() - 1
            });
            self.curves[place].points.push(Point { step, epoch, value });
        }
        Some(())
    }

    /// The curve of this name.
    pub(super) fn curve(&self, name: &str) -> Option<&Curve> {
        self.curves.iter().find(|curve| curve.name == name)
    }

    /// The steps that all charts span, from 0 to the last one logged; none if nothing was.
    pub(super) fn steps(&self) -> Option<(f64, f64)> {
        let last = self.curves.iter().filter_map(|curve| curve.points.last());
        Some((0.0, last.map(|point| point.step).reduce(f64::max)?))
    }
}

/// A logged value: JSON has no NaN, so null and the usual spellings stand for it. A value above 1e300 counts as infinite.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => {
            number.as_f64().map(|value| if value.abs() < 1e300 { value } else { f64::NAN })
        }
        Value::Null => Some(f64::NAN),
        Value::String(text) => {
            text.parse::<f64>().ok().filter(|v| !v.is_finite()).map(|_| f64::NAN)
        }
        _ => None,
    }
}

impl Curve {
    /// The last finite point.
    pub(super) fn last(&self) -> Option<Point> {
        self.finite().next_back()
    }

    /// The points that have a value.
    pub(super) fn finite(&self) -> impl DoubleEndedIterator<Item = Point> + '_ {
        self.points.iter().copied().filter(|point| point.value.is_finite())
    }

    /// The curve for a picture `columns` wide: of the points that fall into one column, the lowest and the highest stay,
    /// in their order, and one gap if there was one. First and last points stay as they are.
    pub(super) fn thinned(&self, steps: (f64, f64), columns: usize) -> Vec<Point> {
        let [head, middle @ .., tail] = self.points.as_slice() else { return self.points.clone() };
        let mut kept = vec![*head];
        for bucket in buckets(middle, steps, columns) {
            let finite = || bucket.iter().enumerate().filter(|(_, point)| point.value.is_finite());
            let lowest = finite().min_by(|a, b| a.1.value.total_cmp(&b.1.value));
            let highest = finite().max_by(|a, b| a.1.value.total_cmp(&b.1.value));
            let gap = bucket.iter().enumerate().find(|(_, point)| point.value.is_nan());
            let mut places: Vec<usize> =
                [lowest, highest, gap].into_iter().flatten().map(|(place, _)| place).collect();
            places.sort_unstable();
            places.dedup();
            kept.extend(places.into_iter().map(|place| bucket[place]));
        }
        kept.push(*tail);
        kept
    }

    /// The curve as the means of its finite values in `columns` columns of its own steps, if it has more points than twice
    /// as many; true if it was.
    pub(super) fn condensed(&self, columns: usize) -> (Vec<Point>, bool) {
        let ([first, .., last], true) = (self.points.as_slice(), self.points.len() > 2 * columns)
        else {
            return (self.points.clone(), false);
        };
        let mean = |bucket: &[Point]| {
            let finite: Vec<&Point> = bucket.iter().filter(|p| p.value.is_finite()).collect();
            let mean = |of: fn(&Point) -> f64| {
                finite.iter().map(|point| of(point)).sum::<f64>() / finite.len() as f64
            };
            // Of a column without values nothing is known but where it lies.
            let value = mean(|point| point.value);
            let step = if finite.is_empty() { bucket[0].step } else { mean(|point| point.step) };
            let epoch = if finite.is_empty() { bucket[0].epoch } else { mean(|point| point.epoch) };
            Point { step, epoch, value }
        };
        (buckets(&self.points, (first.step, last.step), columns).map(mean).collect(), true)
    }

    /// The mean of the finite values in each of `columns` columns, at the mean of their steps.
    pub(super) fn means(&self, steps: (f64, f64), columns: usize) -> Vec<(f64, f64)> {
        let mean = |bucket: &[Point]| {
            let finite = || bucket.iter().filter(|point| point.value.is_finite());
            let share = 1.0 / finite().count() as f64;
            let mean = |of: fn(&Point) -> f64| finite().map(|point| share * of(point)).sum();
            finite().next().map(|_| (mean(|point| point.step), mean(|point| point.value)))
        };
        buckets(&self.points, steps, columns).filter_map(mean).collect()
    }
}

/// Cuts points into those that fall into the same of `columns` columns; the last step belongs to the last column.
fn buckets(
    points: &[Point],
    (first, last): (f64, f64),
    columns: usize,
) -> impl Iterator<Item = &[Point]> {
    let width = ((last - first) / columns as f64).max(f64::MIN_POSITIVE);
    let column = move |point: &Point| (((point.step - first) / width) as usize).min(columns - 1);
    points.chunk_by(move |a, b| column(a) == column(b))
}
