//! One curve as an inline SVG picture: axes and lines by `plotters`, colours by the page's style sheet.

use std::fmt::Write as _;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{LightPoints, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::format::{grouped, trimmed};
use super::metrics::{Curve, Point};

/// The picture's size in its own units, of which a laptop's pixel holds about four: plotters draws on whole units only.
pub(super) const SIZE: (u32, u32) = (1760, 880);
/// A curve with more points than twice this many columns is thinned to them.
pub(super) const COLUMNS: usize = 400;
/// Columns over which the mean of a thinned curve is taken.
const MEANS: usize = 100;
/// Curves with at most this many points show each of them as a dot.
pub(super) const DOTS: usize = 40;
const FONT: u32 = 60;

// Not colours but names: each is replaced by a class of the style sheet.
const GRID: RGBColor = RGBColor(1, 1, 1);
pub(super) const AXIS: RGBColor = RGBColor(2, 2, 2);
const LABEL: RGBColor = RGBColor(3, 3, 3);
const LINE: RGBColor = RGBColor(4, 4, 4);
const DOT: RGBColor = RGBColor(5, 5, 5);
const RANGE: RGBColor = RGBColor(6, 6, 6);

/// A drawn curve, and what the page's script needs to read values off it.
pub(super) struct Chart {
    /// What stands between `<svg>` and `</svg>`.
    pub(super) drawing: String,
    /// Left, right, top and bottom of the drawing area in the picture's units.
    pub(super) area: [i32; 4],
    /// The values at those four edges: steps left and right, values at the top and at the bottom.
    pub(super) domain: [f64; 4],
    /// The points as drawn: `step,epoch,value` joined by semicolons, epoch empty if not known, without gaps.
    pub(super) points: String,
    /// Whether the curve is too long to show each point: then its range is pale and its mean dark.
    pub(super) thinned: bool,
}

/// Draws a curve over the given range of steps; values are shown in percent if `percent`. None if no value is finite.
pub(super) fn draw(curve: &Curve, steps: (f64, f64), percent: bool) -> Option<Chart> {
    let thinned = curve.points.len() > 2 * COLUMNS;
    let (points, means) = if thinned {
        (curve.thinned(steps, COLUMNS), curve.means(steps, MEANS))
    } else {
        (curve.points.clone(), Vec::new())
    };
    let values = || points.iter().map(|point| point.value).filter(|value| value.is_finite());
    let (low, high) = padded(values().reduce(f64::min)?, values().reduce(f64::max)?);
    let (first, last) = if steps.0 < steps.1 { steps } else { (steps.0 - 1.0, steps.1 + 1.0) };
    let mut drawing = String::new();
    let area = {
        let root = SVGBackend::with_string(&mut drawing, SIZE).into_drawing_area();
        let area = draw_on(&root, (&points, &means), (first, last), (low, high), percent)
            .expect("drawing into a string does not fail");
        root.present().expect("drawing into a string does not fail");
        area
    };
    Some(Chart {
        drawing: styled(&drawing),
        area,
        domain: [first, last, high, low],
        points: read_off(&points),
        thinned,
    })
}

/// Room above and below the values; a constant curve gets room too.
pub(super) fn padded(low: f64, high: f64) -> (f64, f64) {
    let size = low.abs().max(high.abs());
    let span = high - low;
    let room = if span > 1e-9 * size {
        0.06 * span
    } else if size > f64::MIN_POSITIVE {
        0.1 * size
    } else {
        1.0
    };
    (low - room, high + room)
}

pub(super) type Drawn<T> = Result<T, DrawingAreaErrorKind<std::io::Error>>;

fn draw_on(
    root: &DrawingArea<SVGBackend, Shift>,
    (points, means): (&[Point], &[(f64, f64)]),
    (first, last): (f64, f64),
    (low, high): (f64, f64),
    percent: bool,
) -> Drawn<[i32; 4]> {
    let step = |step: &f64| if step.fract() == 0.0 { grouped(*step) } else { String::new() };
    let mut chart = frame(root, (first, last), (low, high), &step, percent)?;
    let finite = points.iter().filter(|point| point.value.is_finite()).count();
    for part in points.split(|point| point.value.is_nan()).filter(|part| !part.is_empty()) {
        let line = || part.iter().map(|point| (point.step, point.value));
        chart.draw_series(LineSeries::new(line(), if means.is_empty() { LINE } else { RANGE }))?;
        if finite <= DOTS || part.len() == 1 {
            chart.draw_series(line().map(|point| Circle::new(point, 11, DOT.filled())))?;
        }
    }
    if !means.is_empty() {
        chart.draw_series(LineSeries::new(means.iter().copied(), LINE))?;
    }
    let (x, y) = chart.plotting_area().get_pixel_range();
    Ok([x.start, x.end, y.start, y.end])
}

const LABELS: usize = 5;

type Frame<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// The axes of a chart, ready for its lines; `across` writes what stands below them.
pub(super) fn frame<'a>(
    root: &DrawingArea<SVGBackend<'a>, Shift>,
    (first, last): (f64, f64),
    (low, high): (f64, f64),
    across: &dyn Fn(&f64) -> String,
    percent: bool,
) -> Drawn<Frame<'a>> {
    let mut chart = ChartBuilder::on(root)
        .margin_top(24)
        .margin_right(48)
        .x_label_area_size(84)
        .y_label_area_size(216)
        .build_cartesian_2d(first..last, low..high)?;
    let decimals = decimals(low, high, percent);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(AXIS)
        .label_style(("sans-serif", FONT).into_font().color(&LABEL))
        .x_labels(LABELS)
        .y_labels(LABELS)
        .x_label_formatter(&across)
        .y_label_formatter(&|value| tick(*value, decimals, percent))
        .draw()?;
    Ok(chart)
}

/// How many decimals tell the labels of this range apart; none if only powers of ten can.
pub(super) fn decimals(low: f64, high: f64, percent: bool) -> Option<usize> {
    let unit = if percent { 100.0 } else { 1.0 };
    let ticks = RangedCoordf64::from(low..high).key_points(LightPoints::new(LABELS, LABELS));
    let size = unit * low.abs().max(high.abs());
    let exact = |decimals: &usize| {
        let scale = 10_f64.powi(*decimals as i32);
        ticks.iter().all(|tick| {
            let scaled = tick * unit * scale;
            (scaled - scaled.round()).abs() < 1e-6 * scaled.abs().max(1.0)
        })
    };
    if (1e-3..1e5).contains(&size) { (0..=6).find(exact) } else { None }
}

pub(super) fn tick(value: f64, decimals: Option<usize>, percent: bool) -> String {
    let (value, unit) = if percent { (100.0 * value, "\u{202f}%") } else { (value, "") };
    match decimals {
        Some(0) => grouped(value) + unit,
        Some(decimals) => format!("{value:.decimals$}{unit}").replace('-', "\u{2212}"),
        None if value == 0.0 => format!("0{unit}"),
        None => {
            let text = format!("{value:.2e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            format!("{}e{exponent}{unit}", trimmed(digits).replace('-', "\u{2212}"))
        }
    }
}

/// The points for the page's script.
fn read_off(points: &[Point]) -> String {
    let mut text = String::new();
    for point in points.iter().filter(|point| point.value.is_finite()) {
        let epoch =
            if point.epoch.is_finite() { format!("{:.3}", point.epoch) } else { String::new() };
        let separator = if text.is_empty() { "" } else { ";" };
        write!(text, "{separator}{},{},{}", point.step, trimmed(&epoch), rounded(point.value))
            .expect("writing into a string does not fail");
    }
    text
}

/// Six significant digits, in the shortest form that a script reads as a number.
pub(super) fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().expect("a number that was just written")
}

/// Takes the outer element off and puts classes in the place of colours, sizes and fonts.
pub(super) fn styled(svg: &str) -> String {
    let inner = svg.split_once('>').map_or(svg, |(_, inner)| inner);
    let inner = inner.rsplit_once("</svg>").map_or(inner, |(inner, _)| inner);
    let mut styled = inner
        .replace(" opacity=\"1\"", "")
        .replace(" font-family=\"sans-serif\"", "")
        .replace(" stroke-width=\"1\"", "")
        .replace(" stroke=\"none\"", "")
        .replace(" fill=\"none\"", "");
    for (color, class) in [
        (GRID, "grid"),
        (AXIS, "axis"),
        (LABEL, "label"),
        (LINE, "line"),
        (DOT, "dot"),
        (RANGE, "range"),
    ] {
        let color = format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2);
        for attribute in ["stroke", "fill"] {
            styled =
                styled.replace(&format!("{attribute}=\"{color}\""), &format!("class=\"{class}\""));
        }
    }
    styled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(values: &[f64]) -> Curve {
        let point = |(place, value): (usize, &f64)| Point {
            step: place as f64,
            epoch: f64::NAN,
            value: *value,
        };
        Curve {
            name: "train/loss".to_owned(),
            points: values.iter().enumerate().map(point).collect(),
        }
    }

    fn drawn(values: &[f64]) -> Chart {
        draw(&curve(values), (0.0, values.len() as f64 - 1.0), false).unwrap()
    }

    #[test]
    fn a_long_curve_keeps_its_extremes_and_stays_small() {
        let mut values: Vec<f64> =
            (0..100_000).map(|step| 1.0 + f64::from(step % 7) / 100.0).collect();
        values[54_321] = 9.5;
        values[77_777] = -3.25;
        let chart = drawn(&values);
        assert!(chart.points.contains(";54321,,9.5;"), "the highest value is drawn");
        assert!(chart.points.contains(";77777,,-3.25;"), "the lowest value is drawn");
        assert!(chart.points.starts_with("0,,1;") && chart.points.contains(";99999,,"));
        let size = chart.drawing.len() + chart.points.len();
        assert!(size < 40_000, "{size} bytes for one chart");
    }

    #[test]
    fn the_mean_of_a_long_curve_is_the_mean_of_its_columns() {
        let mut values: Vec<f64> = (0..1_000).map(|step| f64::from(step % 2)).collect();
        values[0] = f64::NAN;
        values.push(0.0);
        let means = curve(&values).means((0.0, 1_000.0), 10);
        assert_eq!(means.len(), 10, "the last step has no column of its own");
        assert!((means[0].0 - 50.0).abs() < 1e-9 && (means[0].1 - 50.0 / 99.0).abs() < 1e-9);
        assert!((means[3].0 - 349.5).abs() < 1e-9 && (means[3].1 - 0.5).abs() < 1e-9);
        assert!((means[9].0 - 950.0).abs() < 1e-9 && (means[9].1 - 50.0 / 101.0).abs() < 1e-9);
    }

    #[test]
    fn values_that_are_not_finite_cut_the_line() {
        let chart = drawn(&[1.0, 2.0, f64::NAN, 4.0, 3.0]);
        assert_eq!(chart.drawing.matches("<polyline class=\"line\"").count(), 2);
        assert_eq!(chart.points, "0,,1;1,,2;3,,4;4,,3");
        assert!(draw(&curve(&[f64::NAN, f64::NAN]), (0.0, 1.0), false).is_none());
        let long: Vec<f64> = (0..10_000).map(|s| if s == 5_000 { f64::NAN } else { 1.0 }).collect();
        assert_eq!(drawn(&long).drawing.matches("<polyline class=\"range\"").count(), 2);
    }

    #[test]
    fn points_lie_where_their_values_are() {
        let chart = drawn(&[0.0, 1.0, 0.5]);
        let [left, right, top, bottom] = chart.area.map(f64::from);
        let [first, last, high, low] = chart.domain;
        let circles: Vec<(f64, f64)> = chart
            .drawing
            .match_indices("<circle cx=\"")
            .map(|(place, start)| {
                let mut parts = chart.drawing[place + start.len()..].split('"');
                (parts.next().unwrap().parse().unwrap(), parts.nth(1).unwrap().parse().unwrap())
            })
            .collect();
        assert_eq!(circles.len(), 3);
        for (circle, (step, value)) in circles.iter().zip([(0.0, 0.0), (1.0, 1.0), (2.0, 0.5)]) {
            let x = left + (step - first) / (last - first) * (right - left);
            let y = top + (high - value) / (high - low) * (bottom - top);
            assert!((circle.0 - x).abs() <= 2.0 && (circle.1 - y).abs() <= 2.0, "{circle:?}");
        }
    }

    #[test]
    fn the_style_sheet_has_the_last_word_on_every_colour() {
        let chart = drawn(&[5.0, 4.0, 3.0]);
        assert!(!chart.drawing.contains('#'), "{}", chart.drawing);
        for class in ["grid", "axis", "label", "line", "dot"] {
            assert!(chart.drawing.contains(&format!("class=\"{class}\"")), "{class}");
        }
    }

    #[test]
    fn labels_tell_values_apart_without_needless_digits() {
        assert_eq!(tick(0.5, decimals(0.0, 1.0, true), true), "50\u{202f}%");
        assert_eq!(tick(0.02, decimals(0.0, 0.05, false), false), "0.02");
        assert_eq!(tick(-20_000.0, decimals(-30_000.0, 0.0, false), false), "\u{2212}20,000");
        assert_eq!(tick(2e-7, decimals(0.0, 1e-6, false), false), "2e-7");
    }

    #[test]
    fn extreme_values_are_drawn_too() {
        for values in
            [&[0.0, 0.0][..], &[7.0], &[9e299, -9e299], &[1e-300, 2e-300], &[1e16, 1e16 + 2.0]]
        {
            let chart = draw(&curve(values), (0.0, values.len() as f64 - 1.0), false).unwrap();
            assert!(chart.drawing.contains("class=\"dot\""), "{values:?}");
        }
    }
}
