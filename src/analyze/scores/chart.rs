//! Its pictures.

use super::{Axis, Run, Settings, in_range, prefix};
use crate::analyze::plot::{
    Area, Band, Curve, Drawn, Panel, beside, colored, font, legend, legend_height, panel, sheet,
    units,
};
use crate::analyze::plot::{INK, QUIET};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const WIDTH: u32 = 900;

/// Points of a curve: more than a picture of this width can show are joined.
const POINTS: usize = 1_200;

/// Three panels, one below the other, a curve for each run: drawing, title, description.
pub(super) fn curves(runs: &[Run], settings: &Settings) -> (String, String, String) {
    let names: Vec<String> = runs
        .iter()
        .map(|run| match &run.end {
            Some(end) => format!("{} · {}", run.name, end.text()),
            None => run.name.clone(),
        })
        .collect();
    let prefix = prefix(settings.stage);
    let kinds = [
        ("pos_mean", "Mean score of the positives", &settings.pos_range),
        ("neg_mean", "Mean score of the negatives", &settings.neg_range),
        ("neg_var", "Variance of the negatives", &settings.var_range),
    ];
    let kinds: Vec<_> = kinds
        .into_iter()
        .filter(|(name, ..)| runs.iter().any(|run| run.table.has(&format!("{prefix}{name}"))))
        .collect();
    let (below, each) = (legend_height(&names), 260);
    let height = 46 + each * kinds.len() as u32 + 24 + below;
    let range = range(runs, settings);
    let smooth = smooth(runs, settings);
    let title = match runs {
        [run] => format!("Scores of {}", run.name),
        several => format!("Scores of {} runs", several.len()),
    };
    let ends: Vec<String> = runs
        .iter()
        .map(|run| {
            let last = |name: &str| {
                let column = run.table.column(&format!("{prefix}{name}"));
                column.into_iter().rev().find(|value| value.is_finite()).unwrap_or(f64::NAN)
            };
            let [positive, negative, variance] = ["pos_mean", "neg_mean", "neg_var"].map(last);
            let all = format!("{}: positives {positive:.3}", run.name);
            if negative.is_finite() {
                format!("{all}, negatives {negative:.3} with variance {variance:.4}")
            } else {
                all
            }
        })
        .collect();
    let description = format!(
        "Cosines before the temperature, over {}s. At the end {}.",
        word(settings.axis),
        ends.join("; ")
    );
    let svg = sheet((WIDTH, height), &title, &description, |root| {
        heading(root, &title, smooth)?;
        for (place, (name, caption, values)) in kinds.iter().enumerate() {
            let top = units(f64::from(46 + each * place as u32));
            let last = place + 1 == kinds.len();
            let bottom = top + units(f64::from(each + if last { 20 } else { 0 }));
            let area = root.clone().shrink((0, top), (units(f64::from(WIDTH)), bottom - top));
            let column = format!("{prefix}{name}");
            let mut drawn = Vec::new();
            for (number, run) in runs.iter().enumerate() {
                let raw = points(run, settings, &column);
                if runs.len() == 1 && smooth > 1 {
                    drawn.push(Curve { points: extremes(&raw), run: number, pale: true });
                }
                let points = thinned(&mean(&raw, smooth), smooth);
                drawn.push(Curve { points, run: number, pale: false });
            }
            panel(
                &area,
                &Panel {
                    title: caption,
                    across: last.then(|| across(settings.axis)),
                    range,
                    values: ends_of(values),
                    curves: drawn,
                    bands: Vec::new(),
                    lines: settings.palette,
                },
            )?;
        }
        let top = units(f64::from(46 + each * kinds.len() as u32 + 24));
        legend(
            &root.clone().shrink((0, top), (units(f64::from(WIDTH)), units(f64::from(below)))),
            &names,
        )
    });
    (colored(&svg, settings.palette), title, description)
}

/// How the negatives of one run spread, with the hardest and the positives: drawing, title, description.
pub(super) fn spread(run: &Run, settings: &Settings) -> (String, String, String) {
    let prefix = prefix(settings.stage);
    let runs = std::slice::from_ref(run);
    let smooth = smooth(runs, settings);
    let column = |name: &str| mean(&points(run, settings, &format!("{prefix}{name}")), smooth);
    let band = |low: &str, high: &str, opacity: f64| Band {
        points: between(&column(low), &column(high)),
        run: 0,
        opacity,
    };
    let curve =
        |name: &str, run: usize| Curve { points: thinned(&column(name), smooth), run, pale: false };
    // Lines of one kind each, so that they are told apart without colours.
    let names = [
        ("pos_mean", 1, "positives, mean"),
        ("neg_hardest", 10, "hardest negative, mean"),
        ("neg_q50", 0, "negatives, median"),
    ];
    let title = format!("Negatives of {}", run.name);
    let description = "Quantiles of the scores of the negatives over training: 98 and 50 in 100 of them lie within the pale \
                       and the darker band; with the mean of the hardest negative of each query and of the positives."
        .to_owned();
    let svg = sheet((WIDTH, 520), &title, &description, |root| {
        heading(root, &title, smooth)?;
        let area = root.clone().shrink((0, units(46.0)), (units(f64::from(WIDTH)), units(420.0)));
        panel(
            &area,
            &Panel {
                title: "Scores: cosines before the temperature",
                across: Some(across(settings.axis)),
                range: range(runs, settings),
                values: None,
                curves: names.iter().map(|(name, run, _)| curve(name, *run)).collect(),
                bands: vec![band("neg_q01", "neg_q99", 0.16), band("neg_q25", "neg_q75", 0.3)],
                lines: settings.palette,
            },
        )?;
        key(root, &names, settings)
    });
    (colored(&svg, settings.palette), title, description)
}

/// What the lines and bands of [`spread`] are.
fn key(root: &Area<'_>, names: &[(&str, usize, &str)], settings: &Settings) -> Drawn<()> {
    let color = settings.palette.color(0);
    let middle = units(492.0);
    let mut left = units(16.0);
    for (_, run, text) in names {
        let name = RGBColor(1, *run as u8, 2);
        let ends = vec![(left, middle), (left + units(28.0), middle)];
        root.draw(&PathElement::new(ends, name.stroke_width(units(2.0) as u32)))?;
        root.draw(&Text::new(*text, (left + units(36.0), middle), beside(12.0)))?;
        left += units(190.0);
    }
    for (opacity, text) in [(0.46, "50 of 100"), (0.16, "98 of 100 negatives")] {
        let corners = [(left, middle - units(6.0)), (left + units(28.0), middle + units(6.0))];
        root.draw(&Rectangle::new(corners, color.mix(opacity).filled()))?;
        root.draw(&Text::new(text, (left + units(36.0), middle), beside(12.0)))?;
        left += units(118.0);
    }
    Ok(())
}

fn heading(root: &Area<'_>, title: &str, smooth: usize) -> Drawn<()> {
    root.draw(&Text::new(title.to_owned(), (units(16.0), units(14.0)), font(18.0, &INK)))?;
    let note = match smooth {
        0 | 1 => return Ok(()),
        steps => format!("means of {} steps", crate::analyze::plot::tick(steps as f64)),
    };
    let style = font(12.0, &QUIET).pos(Pos::new(HPos::Right, VPos::Top));
    root.draw(&Text::new(note, (units(f64::from(WIDTH) - 16.0), units(18.0)), style))
}

fn word(axis: Axis) -> &'static str {
    match axis {
        Axis::Step => "step",
        Axis::Epoch => "epoch",
    }
}

fn across(axis: Axis) -> &'static str {
    match axis {
        Axis::Step => "training step",
        Axis::Epoch => "epoch",
    }
}

fn ends_of(range: &[f64]) -> Option<(f64, f64)> {
    match range {
        [low, high] => Some((*low, *high)),
        _ => None,
    }
}

/// Where a run's column is within the range: place across, value.
pub(super) fn points(run: &Run, settings: &Settings, column: &str) -> Vec<(f64, f64)> {
    let steps = run.table.column("step");
    let at = run.table.column(word(settings.axis));
    let values = run.table.column(column);
    let all = steps.iter().zip(at.iter().zip(values));
    all.filter(|(step, _)| in_range(settings, **step))
        .map(|(_, (at, value))| (*at, value))
        .collect()
}

/// Both ends of what is shown.
fn range(runs: &[Run], settings: &Settings) -> (f64, f64) {
    let ends =
        runs.iter().flat_map(|run| points(run, settings, "step").into_iter().map(|(at, _)| at));
    let (low, high) = ends
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), at| (at.min(low), at.max(high)));
    if low < high { (low, high) } else { (low - 1.0, high + 1.0) }
}

/// Steps of the running mean.
fn smooth(runs: &[Run], settings: &Settings) -> usize {
    match settings.smooth {
        0 => {
            let shown = |run: &Run| points(run, settings, "step").len();
            runs.iter().map(shown).max().unwrap_or(0).div_ceil(100)
        }
        steps => usize::try_from(steps).unwrap_or(usize::MAX),
    }
}

/// The running mean of `window` values around each, fewer at the ends; what is not finite does not count, and stays a gap.
pub(super) fn mean(points: &[(f64, f64)], window: usize) -> Vec<(f64, f64)> {
    if window < 2 {
        return points.to_vec();
    }
    let mut sums = vec![(0.0, 0usize)];
    for (_, value) in points {
        let (sum, count) = sums[sums.len() - 1];
        let finite = value.is_finite();
        sums.push((if finite { sum + value } else { sum }, count + usize::from(finite)));
    }
    let half = window / 2;
    let at = |(place, (x, value)): (usize, &(f64, f64))| {
        if !value.is_finite() {
            return (*x, f64::NAN);
        }
        // As many on both sides, so that the ends do not lean.
        let reach = half.min(place).min(points.len() - 1 - place);
        let (from, to) = (sums[place - reach], sums[place + reach + 1]);
        (*x, (to.0 - from.0) / (to.1 - from.1) as f64)
    };
    points.iter().enumerate().map(at).collect()
}

/// A curve of running means by at most [`POINTS`] of its points, the ends among them; one that they leave rough by its
/// extremes.
pub(super) fn thinned(points: &[(f64, f64)], smooth: usize) -> Vec<(f64, f64)> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    if smooth < 2 * points.len().div_ceil(POINTS) {
        return extremes(points);
    }
    let place = |index: usize| index * (points.len() - 1) / (POINTS - 1);
    (0..POINTS).map(|index| points[place(index)]).collect()
}

/// What lies between two curves of the same places; of too many the lowest and the highest of short stretches.
pub(super) fn between(low: &[(f64, f64)], high: &[(f64, f64)]) -> Vec<(f64, f64, f64)> {
    let length = low.len().div_ceil(POINTS).max(1);
    let value = |part: &[(f64, f64)], of: fn(f64, f64) -> f64| {
        part.iter().map(|point| point.1).fold(f64::NAN, of)
    };
    let parts = low.chunks(length).zip(high.chunks(length));
    let parts = parts
        .map(|(low, high)| (low[low.len() / 2].0, value(low, f64::min), value(high, f64::max)));
    parts.collect()
}

/// A rough curve by the lowest and the highest of short stretches; one without any value stays a gap.
pub(super) fn extremes(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let length = points.len().div_ceil(POINTS / 2).max(1);
    let ends = |part: &[(f64, f64)]| {
        let order = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let finite = || part.iter().filter(|point| point.1.is_finite());
        let mut ends: Vec<(f64, f64)> =
            finite().min_by(order).into_iter().chain(finite().max_by(order)).copied().collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends.dedup();
        if ends.is_empty() {
            ends.extend(part.first().map(|point| (point.0, f64::NAN)));
        }
        ends
    };
    points.chunks(length).flat_map(ends).collect()
}
