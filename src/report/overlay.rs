//! Curves of several runs in one picture.

use std::fmt::Write as _;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::chart::{DOTS, Drawn, SIZE, decimals, frame, padded, rounded, styled, tick};
use super::metrics::Point;

/// How many runs are told apart: by colour, then by dashes.
pub(super) const MOST: usize = 32;

/// What the curves are drawn over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Epochs,
    Steps,
}

impl Over {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Epochs => "epoch",
            Self::Steps => "step",
        }
    }

    fn of(self, point: &Point) -> f64 {
        match self {
            Self::Epochs => point.epoch,
            Self::Steps => point.step,
        }
    }
}

/// The curve of one run.
pub(super) struct Line {
    /// Place of the run, below [`MOST`].
    pub(super) run: usize,
    pub(super) points: Vec<Point>,
}

/// A drawn picture, and what the page's script needs to read values off it.
pub(super) struct Overlay {
    /// What stands between `<svg>` and `</svg>`.
    pub(super) drawing: String,
    /// Left, right, top and bottom of the drawing area in the picture's units.
    pub(super) area: [i32; 4],
    /// The values at those four edges.
    pub(super) domain: [f64; 4],
    /// For every line, its points as drawn: `x,value` joined by semicolons.
    pub(super) points: Vec<String>,
}

/// Draws the lines; values are shown in percent if `percent`. None if no value is finite.
pub(super) fn draw(lines: &[Line], over: Over, percent: bool) -> Option<Overlay> {
    let finite = || lines.iter().flat_map(|l| &l.points).filter(|point| point.value.is_finite());
    let values = || finite().map(|point| point.value);
    let (low, high) = padded(values().reduce(f64::min)?, values().reduce(f64::max)?);
    let last = finite().map(|point| over.of(point)).reduce(f64::max)?;
    let last = if last > 0.0 { last } else { 1.0 };
    let mut drawing = String::new();
    let area = {
        let root = SVGBackend::with_string(&mut drawing, SIZE).into_drawing_area();
        let area = draw_on(&root, lines, over, last, (low, high), percent)
            .expect("drawing into a string does not fail");
        root.present().expect("drawing into a string does not fail");
        area
    };
    let drawing = named_lines(styled(&drawing), lines.iter().map(|line| line.run));
    let points = lines.iter().map(|line| read_off(&line.points, over)).collect();
    Some(Overlay { drawing, area, domain: [0.0, last, high, low], points })
}

/// Puts classes in the place of the lines' colours.
pub(super) fn named_lines(drawing: String, runs: impl Iterator<Item = usize>) -> String {
    runs.fold(drawing, |mut drawing, run| {
        let RGBColor(r, g, b) = name(run);
        for (attribute, class) in [("stroke", "line"), ("fill", "dot")] {
            let color = format!("{attribute}=\"#{r:02X}{g:02X}{b:02X}\"");
            drawing = drawing.replace(&color, &format!("class=\"{class} s{run} r{run}\""));
        }
        drawing
    })
}

/// Not a colour but a name: it is replaced by a class of the style sheet.
pub(super) fn name(run: usize) -> RGBColor {
    RGBColor(16, run as u8, 0)
}

fn draw_on(
    root: &DrawingArea<SVGBackend, Shift>,
    lines: &[Line],
    over: Over,
    last: f64,
    values: (f64, f64),
    percent: bool,
) -> Drawn<[i32; 4]> {
    let places = decimals(0.0, last, false);
    let across = |x: &f64| tick(*x, places, false);
    let mut chart = frame(root, (0.0, last), values, &across, percent)?;
    for line in lines {
        let finite = line.points.iter().filter(|point| point.value.is_finite()).count();
        let parts = line.points.split(|point| !point.value.is_finite());
        for part in parts.filter(|part| !part.is_empty()) {
            let points = || part.iter().map(|point| (over.of(point), point.value));
            chart.draw_series(LineSeries::new(points(), name(line.run)))?;
            if finite <= DOTS || part.len() == 1 {
                let dot = |point| Circle::new(point, 9, name(line.run).filled());
                chart.draw_series(points().map(dot))?;
            }
        }
    }
    let (x, y) = chart.plotting_area().get_pixel_range();
    Ok([x.start, x.end, y.start, y.end])
}

/// The points for the page's script.
fn read_off(points: &[Point], over: Over) -> String {
    let mut text = String::new();
    for point in points.iter().filter(|point| point.value.is_finite()) {
        let separator = if text.is_empty() { "" } else { ";" };
        write!(text, "{separator}{},{}", rounded(over.of(point)), rounded(point.value))
            .expect("writing into a string does not fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Curve;
    use super::*;

    fn line(run: usize, values: &[f64]) -> Line {
        let point = |(place, value): (usize, &f64)| Point {
            step: 10.0 * place as f64,
            epoch: 0.5 * place as f64,
            value: *value,
        };
        Line { run, points: values.iter().enumerate().map(point).collect() }
    }

    #[test]
    fn every_run_has_its_own_class_and_its_gaps() {
        let lines = [line(0, &[1.0, 2.0, 3.0]), line(7, &[3.0, f64::NAN, 1.0, 2.0])];
        let overlay = draw(&lines, Over::Epochs, false).unwrap();
        assert_eq!(overlay.drawing.matches("<polyline class=\"line s0 r0\"").count(), 1);
        assert_eq!(overlay.drawing.matches("<polyline class=\"line s7 r7\"").count(), 2);
        assert_eq!(overlay.points, ["0,1;0.5,2;1,3", "0,3;1,1;1.5,2"]);
        assert!((overlay.domain[1] - 1.5).abs() < 1e-12);
        assert!(!overlay.drawing.contains('#'), "the style sheet has the last word");
        let overlay = draw(&lines, Over::Steps, false).unwrap();
        assert_eq!(overlay.points[1], "0,3;20,1;30,2");
    }

    #[test]
    fn without_a_finite_value_there_is_nothing_to_draw() {
        assert!(draw(&[line(0, &[f64::NAN])], Over::Steps, false).is_none());
        assert!(draw(&[], Over::Steps, false).is_none());
        assert!(draw(&[line(0, &[2.0])], Over::Epochs, true).is_some(), "one value at epoch 0");
    }

    #[test]
    fn a_long_curve_is_condensed_to_means_in_its_own_steps_and_epochs() {
        let curve = |count: usize| {
            let point = |place: usize| Point {
                step: 5.0 + place as f64,
                epoch: 0.1 * place as f64,
                value: if place < 10 { f64::NAN } else { (place % 2) as f64 },
            };
            Curve { name: "a/b".to_owned(), points: (0..count).map(point).collect() }
        };
        let (points, condensed) = curve(200).condensed(100);
        assert_eq!((points.len(), condensed), (200, false), "short enough as it is");
        let (points, condensed) = curve(1001).condensed(100);
        assert_eq!((points.len(), condensed), (100, true));
        assert!(points[0].value.is_nan() && points[0].step < 6.0, "a gap stays a gap");
        let fifth = points[5];
        assert!((fifth.value - 0.5).abs() < 1e-9 && (fifth.step - 59.5).abs() < 1e-9, "{fifth:?}");
        assert!((fifth.epoch - 5.45).abs() < 1e-9, "{fifth:?}");
        assert!(
            (points[99].value - 5.0 / 11.0).abs() < 1e-9,
            "the last step is in the last column"
        );
    }
}
