//! The curves as small charts side by side, below each the example at every strength.

use super::{Augmentation, Curve, Point};
use crate::analyze::figure::{FONT, data_uri, escaped, png};
use crate::analyze::plot::{Area, GRID, INK, QUIET};
use crate::data::Image;
use crate::error::{Error, Result};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt::Write as _;

/// `plotters` draws on whole units: so many of them are one unit of the picture.
const UNITS: i32 = 2;
const PER_ROW: usize = 3;
const MARGIN: i32 = 20 * UNITS;
/// A chart with its title, and its pictures below.
const PANEL: (i32, i32) = (400 * UNITS, 322 * UNITS);
const TITLE: i32 = 26 * UNITS;
const PLOT: i32 = 190 * UNITS;
/// Left of the plot, for the labels of its axis.
const LABELS: i32 = 38 * UNITS;
const TICKS: i32 = 20 * UNITS;
const PICTURE: i32 = 56 * UNITS;
const GAP: i32 = 24 * UNITS;
/// A line of the legend.
const LEGEND: i32 = 24 * UNITS;

/// Where the axis of relative similarities ends at the latest.
const LEAST_RELATIVE: f64 = -0.5;

/// Of networks: told apart by any kind of colour vision (Okabe and Ito 2008).
const COLORS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(184, 134, 0),
    RGBColor(86, 180, 233),
];
/// Of what has learned nothing.
const BASELINES: [RGBColor; 2] = [RGBColor(90, 94, 102), RGBColor(160, 163, 168)];

/// What is drawn.
pub struct Chart<'a> {
    /// Above all else.
    pub title: &'a str,
    /// What the axis upwards shows, and how to read it.
    pub note: &'a str,
    /// The augmentations with their strengths.
    pub wanted: &'a [(&'static Augmentation, Vec<f64>)],
    /// Their curves.
    pub curves: &'a [Curve],
    /// Networks among them that have learned nothing; they are grey.
    pub baselines: &'a [String],
    /// The example at every strength of every augmentation.
    pub examples: &'a [Vec<Image>],
    /// Whether similarities are shown relative to that of different images; the band is then left out.
    pub relative: bool,
}

/// A layer of a network, as it is drawn.
struct Series<'a> {
    model: &'a str,
    layer: &'a str,
    color: RGBColor,
    /// Place of the network, which decides the marks.
    place: usize,
    /// Place of the layer among those of the network, which decides the dashes.
    dashes: usize,
    baseline: bool,
}

impl Series<'_> {
    /// Network and layer; pixels are no layer.
    fn name(&self) -> String {
        match self.layer {
            "pixels" => self.model.to_owned(),
            layer => format!("{}, {layer}", self.model),
        }
    }
}

type Failed<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

impl Chart<'_> {
    /// The picture as SVG.
    ///
    /// # Errors
    /// [`Error::Shape`] if an example has other bytes than its size says.
    ///
    /// # Panics
    /// If there is no augmentation, or there are not as many examples as strengths.
    pub fn svg(&self) -> Result<String> {
        let series = self.series();
        let legend = legend(&series);
        let lines = legend.last().map_or(0, |(_, (_, line))| line + 1);
        let head = MARGIN + 34 * UNITS + 30 * UNITS + lines * LEGEND + 10 * UNITS;
        let across = PER_ROW.min(self.wanted.len()) as i32;
        let down = self.wanted.len().div_ceil(PER_ROW) as i32;
        // Room for the title and the legend, however few the charts are.
        let width = 2 * MARGIN + (across * (PANEL.0 + GAP) - GAP).max(2 * PANEL.0 + GAP);
        let height = head + down * (PANEL.1 + GAP) - GAP + MARGIN;
        let mut drawing = String::new();
        let places = self
            .draw(&mut drawing, (width, height), &series, &legend, head)
            .map_err(|error| Error::Run(format!("the chart could not be drawn: {error}")))?;
        self.finished(&drawing, (width, height), &places)
    }

    /// Layers of networks in the order in which they come.
    fn series(&self) -> Vec<Series<'_>> {
        let mut series: Vec<Series> = Vec::new();
        let (mut trained, mut untaught) = (0, 0);
        for curve in self.curves {
            if series.iter().any(|it| it.model == curve.model && it.layer == curve.layer) {
                continue;
            }
            let known = series.iter().filter(|it| it.model == curve.model);
            let (dashes, first) = (known.clone().count(), known.clone().next());
            let baseline = self.baselines.contains(&curve.model);
            let place = first.map_or_else(
                || {
                    let count = if baseline { &mut untaught } else { &mut trained };
                    *count += 1;
                    *count - 1
                },
                |first| first.place,
            );
            let color = if baseline {
                BASELINES[place % BASELINES.len()]
            } else {
                COLORS[place % COLORS.len()]
            };
            let (model, layer) = (curve.model.as_str(), curve.layer.as_str());
            series.push(Series { model, layer, color, place, dashes, baseline });
        }
        series
    }

    fn value(&self, point: &Point) -> Option<f64> {
        if self.relative { point.relative } else { Some(point.cosine.value) }
    }

    /// Ends of the axis upwards, common to all charts.
    fn range(&self, series: &[Series]) -> (f64, f64) {
        let mut least: f64 = 1.0;
        for curve in self.curves {
            for point in &curve.points {
                least = least.min(self.value(point).unwrap_or(1.0));
                let banded = series.iter().any(|it| has_band(it) && is_of(curve, it));
                if !self.relative && banded {
                    least = least.min(point.band[0]);
                }
            }
        }
        // Relative similarities have no lower end; what lies below is cut off.
        let end = if self.relative { LEAST_RELATIVE } else { -1.0 };
        let low = ((least.min(0.9) * 10.0).floor() / 10.0).max(end);
        (low, 1.0 + 0.03 * (1.0 - low))
    }

    /// Draws all but the pictures; where these belong: left, top and side.
    fn draw<'d>(
        &self,
        drawing: &'d mut String,
        (width, height): (i32, i32),
        series: &[Series],
        legend: &[(&Series, (i32, i32))],
        head: i32,
    ) -> Result<Vec<Vec<[i32; 3]>>, Failed<'d>> {
        let root = SVGBackend::with_string(drawing, (width as u32, height as u32));
        let root = root.into_drawing_area();
        root.fill(&WHITE)?;
        text(&root, self.title, (MARGIN, MARGIN), (20, INK), HPos::Left)?;
        text(&root, self.note, (MARGIN, MARGIN + 34 * UNITS), (12, QUIET), HPos::Left)?;
        for (it, (left, line)) in legend {
            let top = MARGIN + 68 * UNITS + line * LEGEND;
            let left = MARGIN + left;
            let points = [(left, top), (left + 34 * UNITS, top)];
            line_of(&root, &points, it)?;
            mark(&root, (left + 17 * UNITS, top), it)?;
            text(&root, &it.name(), (left + 42 * UNITS, top - 7 * UNITS), (13, INK), HPos::Left)?;
        }
        let range = self.range(series);
        let mut places = Vec::with_capacity(self.wanted.len());
        for (at, (augmentation, strengths)) in self.wanted.iter().enumerate() {
            let (column, row) = ((at % PER_ROW) as i32, (at / PER_ROW) as i32);
            let corner = (MARGIN + column * (PANEL.0 + GAP), head + row * (PANEL.1 + GAP));
            places.push(self.panel(&root, augmentation, strengths, series, corner, range)?);
        }
        root.present()?;
        Ok(places)
    }

    /// Draws one chart; where its pictures belong.
    fn panel<'d>(
        &self,
        root: &Area<'d>,
        augmentation: &Augmentation,
        strengths: &[f64],
        series: &[Series],
        (left, top): (i32, i32),
        (low, high): (f64, f64),
    ) -> Result<Vec<[i32; 3]>, Failed<'d>> {
        text(root, augmentation.title, (left + LABELS, top), (15, INK), HPos::Left)?;
        let area = root.clone().shrink((left, top + TITLE), (PANEL.0, PLOT));
        let last = strengths.len() as f64 - 0.5;
        let mut chart = ChartBuilder::on(&area)
            .y_label_area_size(LABELS)
            .build_cartesian_2d(-0.5..last, low..high)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .disable_x_axis()
            .light_line_style(TRANSPARENT)
            .bold_line_style(ShapeStyle::from(&GRID).stroke_width(UNITS as u32))
            .axis_style(ShapeStyle::from(&GRID).stroke_width(UNITS as u32))
            .y_labels(6)
            .y_label_formatter(&|value| format!("{value:.1}").replace('-', "\u{2212}"))
            .label_style(font(12, QUIET, HPos::Right))
            .draw()?;
        // Bands first, lines over them.
        for it in series.iter().filter(|it| has_band(it) && !self.relative) {
            let Some(curve) = self.curve(augmentation, it) else { continue };
            let points = curve.points.iter().enumerate();
            let upper = points.clone().map(|(x, point)| (x as f64, point.band[1]));
            let lower = points.rev().map(|(x, point)| (x as f64, point.band[0]));
            let outline: Vec<(f64, f64)> = upper.chain(lower).collect();
            chart.draw_series([Polygon::new(outline, it.color.mix(0.13).filled())])?;
        }
        let inside = chart.plotting_area();
        for it in series.iter().rev() {
            let Some(curve) = self.curve(augmentation, it) else { continue };
            let values = curve.points.iter().enumerate();
            let values = values.filter_map(|(x, point)| Some((x as f64, self.value(point)?)));
            let values: Vec<(f64, f64)> = values.collect();
            for line in above(&values, low) {
                let line: Vec<(i32, i32)> =
                    line.iter().map(|point| inside.map_coordinate(point)).collect();
                line_of(root, &line, it)?;
            }
            for point in values.iter().filter(|point| point.1 >= low) {
                mark(root, inside.map_coordinate(point), it)?;
            }
        }
        let spacing = (PANEL.0 - LABELS) / strengths.len().max(1) as i32;
        let side = PICTURE.min(spacing - 4 * UNITS);
        let ticks = top + TITLE + PLOT + 4 * UNITS;
        let mut places = Vec::with_capacity(strengths.len());
        for (x, strength) in strengths.iter().enumerate() {
            let (middle, _) = inside.map_coordinate(&(x as f64, low));
            text(root, &format!("{strength}"), (middle, ticks), (12, QUIET), HPos::Center)?;
            places.push([middle - side / 2, ticks + TICKS, side]);
        }
        let below = ticks + TICKS + side + 5 * UNITS;
        let middle = left + LABELS + (PANEL.0 - LABELS) / 2;
        text(root, augmentation.axis, (middle, below), (12, QUIET), HPos::Center)?;
        Ok(places)
    }

    fn curve(&self, augmentation: &Augmentation, series: &Series) -> Option<&Curve> {
        let of = |curve: &&Curve| curve.augmentation == augmentation.name && is_of(curve, series);
        self.curves.iter().find(of)
    }

    /// The drawing with its pictures, a title and a description.
    fn finished(
        &self,
        drawing: &str,
        (width, height): (i32, i32),
        places: &[Vec<[i32; 3]>],
    ) -> Result<String> {
        let inner = drawing.split_once('>').map_or(drawing, |(_, inner)| inner);
        let inner = inner.rsplit_once("</svg>").map_or(inner, |(inner, _)| inner);
        let names: Vec<&str> = self.wanted.iter().map(|(it, _)| it.title).collect();
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" viewBox=\"0 0 {width} {height}\" \
             role=\"img\">\n<title>{}</title>\n<desc>{} Charts of {}, below each an example at every strength.</desc>\n",
            width / UNITS,
            height / UNITS,
            escaped(self.title),
            escaped(self.note),
            escaped(&names.join(", ")),
        );
        svg.push_str(
            &inner.replace("font-family=\"sans-serif\"", &format!("font-family=\"{FONT}\"")),
        );
        for (examples, places) in self.examples.iter().zip(places) {
            for (example, [left, top, side]) in examples.iter().zip(places) {
                // A browser would blur what is shown much larger than it is.
                let blocks = (example.width as i32) < side / UNITS;
                let style = if blocks { " style=\"image-rendering:pixelated\"" } else { "" };
                let uri = data_uri(&png(example)?);
                writeln!(
                    svg,
                    "<image x=\"{left}\" y=\"{top}\" width=\"{side}\" height=\"{side}\"{style} href=\"{uri}\"/>"
                )
                .expect("writing into a string does not fail");
            }
        }
        svg.push_str("</svg>\n");
        Ok(svg)
    }
}

/// The parts of a line through points that lie at `low` or above.
fn above(points: &[(f64, f64)], low: f64) -> Vec<Vec<(f64, f64)>> {
    let mut parts: Vec<Vec<(f64, f64)>> = vec![Vec::new()];
    for (at, point) in points.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| points[before]);
        if let Some(before) = before.filter(|before| (before.1 < low) != (point.1 < low)) {
            // Where the line crosses.
            let share = (low - before.1) / (point.1 - before.1);
            let crossing = (before.0 + share * (point.0 - before.0), low);
            parts.last_mut().expect("there always is one").push(crossing);
            if point.1 < low {
                parts.push(Vec::new());
            }
        }
        if point.1 >= low {
            parts.last_mut().expect("there always is one").push(*point);
        }
    }
    parts.retain(|part| part.len() > 1);
    parts
}

/// Whether the band of a series is drawn: those of further layers and of what has learned nothing would cover it.
fn has_band(series: &Series) -> bool {
    series.dashes == 0 && !series.baseline
}

fn is_of(curve: &Curve, series: &Series) -> bool {
    curve.model == series.model && curve.layer == series.layer
}

/// Every series with its left edge and line in the legend.
fn legend<'s, 'a>(series: &'s [Series<'a>]) -> Vec<(&'s Series<'a>, (i32, i32))> {
    let (mut left, mut line) = (0, 0);
    let mut places = Vec::with_capacity(series.len());
    for it in series {
        let letters = it.name().chars().count() as i32;
        let wide = (42 + 8 * letters + 18) * UNITS;
        if left > 0 && left + wide > 2 * PANEL.0 + GAP {
            (left, line) = (0, line + 1);
        }
        places.push((it, (left, line)));
        left += wide;
    }
    places
}

fn font(size: i32, color: RGBColor, across: HPos) -> TextStyle<'static> {
    // `plotters` draws text at 1 / 1.24 of what is asked for.
    let size = f64::from(size * UNITS) * 1.24;
    ("sans-serif", size).into_font().color(&color).pos(Pos::new(across, VPos::Top))
}

/// Text whose upper edge is at a point.
fn text<'d>(
    root: &Area<'d>,
    text: &str,
    at: (i32, i32),
    (size, color): (i32, RGBColor),
    across: HPos,
) -> Result<(), Failed<'d>> {
    root.draw(&Text::new(text.to_owned(), at, font(size, color, across)))
}

/// A line through points, dashed by the layer.
fn line_of<'d>(root: &Area<'d>, points: &[(i32, i32)], series: &Series) -> Result<(), Failed<'d>> {
    let style = ShapeStyle::from(&series.color).stroke_width(2 * UNITS as u32);
    let points = points.to_vec();
    match series.dashes {
        0 => root.draw(&PathElement::new(points, style)),
        1 => root.draw(&DashedPathElement::new(points, 6 * UNITS, 4 * UNITS, style)),
        _ => root.draw(&DashedPathElement::new(points, 2 * UNITS, 3 * UNITS, style)),
    }
}

/// A point of a curve, of a shape by the network.
fn mark<'d>(root: &Area<'d>, (x, y): (i32, i32), series: &Series) -> Result<(), Failed<'d>> {
    let style = series.color.filled();
    let r = 7 * UNITS / 2;
    let around = |points: &[(i32, i32)]| {
        Polygon::new(points.iter().map(|(dx, dy)| (x + dx, y + dy)).collect::<Vec<_>>(), style)
    };
    match (series.baseline, series.place % 3) {
        (true, _) => {
            root.draw(&around(&[(-2 * r / 3, 0), (0, -2 * r / 3), (2 * r / 3, 0), (0, 2 * r / 3)]))
        }
        (false, 0) => root.draw(&Circle::new((x, y), r, style)),
        (false, 1) => root.draw(&around(&[(-r, -r), (r, -r), (r, r), (-r, r)])),
        (false, _) => root.draw(&around(&[(0, -r), (r, r), (-r, r)])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_where_it_leaves_the_chart() {
        let line = [(0.0, 1.0), (1.0, 0.0), (2.0, -2.0), (3.0, -1.5), (4.0, 0.5)];
        let parts = above(&line, -0.5);
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[0], [(0.0, 1.0), (1.0, 0.0), (1.25, -0.5)]);
        assert_eq!(parts[1], [(3.5, -0.5), (4.0, 0.5)]);
        assert_eq!(above(&line, -3.0), [line.to_vec()]);
        assert!(above(&line[2..4], -0.5).is_empty());
        assert!(above(&[], 0.0).is_empty());
    }
}
