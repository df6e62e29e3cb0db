//! What the charts of analyses share, on plotters: the sheet, the colours of several runs, a panel of curves, and the way
//! of a drawing into files.

use super::figure::{FONT, escaped, svg_to_png, write};
use super::{Form, Output};
use crate::error::Result;
use crate::files::replace_text;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Whole units of a drawing in one of the picture's: plotters draws on whole ones only.
pub(super) const UNIT: u32 = 4;

/// Ink of axes and text, and of lines behind the data.
pub(super) const INK: RGBColor = RGBColor(29, 31, 35);
pub(super) const QUIET: RGBColor = RGBColor(98, 102, 110);
pub(super) const GRID: RGBColor = RGBColor(228, 226, 221);

/// Most runs in one picture: eight colours in four kinds of lines.
pub const MOST: usize = 32;

/// Colours of curves that are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lines {
    /// Eight colours that readers with any kind of colour vision can tell apart, each well seen on white paper.
    #[default]
    Accessible,
    /// Those of the published figures, which are drawn with Matplotlib's cycle.
    Published,
}

const ACCESSIBLE: [RGBColor; 8] = [
    RGBColor(11, 91, 255),
    RGBColor(219, 119, 0),
    RGBColor(16, 162, 138),
    RGBColor(212, 20, 173),
    RGBColor(29, 31, 35),
    RGBColor(139, 72, 10),
    RGBColor(5, 72, 106),
    RGBColor(102, 82, 60),
];

const PUBLISHED: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(127, 127, 127),
];

/// Dashes of each row of eight runs, in units of the picture.
const DASHES: [&str; 4] = ["", "6 4", "2 4", "9 3 2 3"];

impl Lines {
    /// The colour of a run.
    pub(super) fn color(self, run: usize) -> RGBColor {
        let colors = if self == Self::Accessible { ACCESSIBLE } else { PUBLISHED };
        colors[run % colors.len()]
    }
}

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Drawn<T> = std::result::Result<T, DrawingAreaErrorKind<std::io::Error>>;

/// Units of a drawing.
pub(super) fn units(length: f64) -> i32 {
    (length * f64::from(UNIT)).round() as i32
}

/// A drawing of this size in units of the picture, on white.
pub(super) fn sheet(
    (width, height): (u32, u32),
    title: &str,
    description: &str,
    draw: impl FnOnce(&Area<'_>) -> Drawn<()>,
) -> String {
    let mut svg = String::new();
    let size = (UNIT * width, UNIT * height);
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let drawn = root.fill(&WHITE).and_then(|()| draw(&root)).and_then(|()| root.present());
        drawn.expect("drawing into a string does not fail");
    }
    let sizes = format!("width=\"{}\" height=\"{}\" ", size.0, size.1);
    let shown = format!("width=\"{width}\" height=\"{height}\" role=\"img\" ");
    let named = format!("><title>{}</title><desc>{}</desc>", escaped(title), escaped(description));
    svg.replacen(&sizes, &shown, 1)
        .replacen('>', &named, 1)
        .replace("font-family=\"sans-serif\"", &format!("font-family=\"{FONT}\""))
}

/// Writes `<stem>.svg` and `<stem>.png`, the second at twice the size, and tells what they are.
///
/// # Errors
/// [`crate::error::Error::Io`].
pub(super) fn save(
    folder: &Path,
    stem: &str,
    svg: &str,
    (title, description): (&str, &str),
) -> Result<Vec<Output>> {
    let (drawing, picture) = (format!("{stem}.svg"), format!("{stem}.png"));
    let png = svg_to_png(svg, 2.0)?;
    replace_text(&folder.join(&drawing), svg)?;
    write(&folder.join(&picture), &png)?;
    let output = |file| Output {
        file,
        form: Form::Picture,
        title: title.to_owned(),
        description: description.to_owned(),
    };
    Ok(vec![output(drawing), output(picture)])
}

/// Text of this height in units of the picture.
pub(super) fn font(size: f64, color: &RGBColor) -> TextStyle<'_> {
    ("sans-serif", units(size)).into_font().color(color)
}

/// Text of this height right of a place, at its middle.
pub(super) fn beside(size: f64) -> TextStyle<'static> {
    font(size, &INK).pos(Pos::new(HPos::Left, VPos::Center))
}

/// A curve of a panel.
pub(super) struct Curve {
    pub(super) points: Vec<(f64, f64)>,
    /// Place of the run, below [`MOST`].
    pub(super) run: usize,
    /// Behind the others and pale.
    pub(super) pale: bool,
}

/// An area between two curves with the same places across: place, lower, upper.
pub(super) struct Band {
    pub(super) points: Vec<(f64, f64, f64)>,
    pub(super) run: usize,
    /// How much of what is behind is hidden, in [0, 1].
    pub(super) opacity: f64,
}

/// What a panel shows.
pub(super) struct Panel<'a> {
    pub(super) title: &'a str,
    /// Below the axis; none for a panel with another below it.
    pub(super) across: Option<&'a str>,
    pub(super) range: (f64, f64),
    /// Ends of the axis upwards; from the data if left out.
    pub(super) values: Option<(f64, f64)>,
    pub(super) curves: Vec<Curve>,
    pub(super) bands: Vec<Band>,
    pub(super) lines: Lines,
}

/// Not a colour but a name, which [`colored`] puts colour and dashes in the place of.
fn name(run: usize) -> RGBColor {
    RGBColor(1, run as u8, 2)
}

/// Gives the curves of a drawing their colours and dashes.
pub(super) fn colored(svg: &str, lines: Lines) -> String {
    (0..MOST).fold(svg.to_owned(), |svg, run| {
        let RGBColor(r, g, b) = name(run);
        let RGBColor(red, green, blue) = lines.color(run);
        let dashes: Vec<String> = DASHES[run / 8]
            .split(' ')
            .filter_map(|dash| Some((dash.parse::<u32>().ok()? * UNIT).to_string()))
            .collect();
        let dashes = match dashes.as_slice() {
            [] => String::new(),
            some => format!(" stroke-dasharray=\"{}\"", some.join(" ")),
        };
        svg.replace(
            &format!("stroke=\"#{r:02X}{g:02X}{b:02X}\""),
            &format!("stroke=\"#{red:02x}{green:02x}{blue:02x}\"{dashes}"),
        )
    })
}

/// A thousand of a number, as people write them.
pub(super) fn tick(value: f64) -> String {
    if value.fract().abs() < 1e-9 && value.abs() < 1e15 {
        let digits = format!("{:.0}", value.abs());
        let mut text = String::new();
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        return if value < -0.5 { format!("\u{2212}{text}") } else { text };
    }
    if (1e-3..1e5).contains(&value.abs()) {
        let text = format!("{value:.4}").replace('-', "\u{2212}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        format!("{value:.1e}").replace('-', "\u{2212}")
    }
}

/// Lowest and highest finite value with room around them; from 0 to 1 of none.
pub(super) fn padded(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let ends = values.filter(|value| value.is_finite()).fold(None, |ends, value| match ends {
        None => Some((value, value)),
        Some((low, high)) => Some((value.min(low), value.max(high))),
    });
    let Some((low, high)): Option<(f64, f64)> = ends else { return (0.0, 1.0) };
    let size = low.abs().max(high.abs());
    let room = match high - low {
        span if span > 1e-9 * size => 0.06 * span,
        _ if size > 0.0 => 0.1 * size,
        _ => 1.0,
    };
    (low - room, high + room)
}

/// Draws a panel.
pub(super) fn panel(area: &Area<'_>, shown: &Panel<'_>) -> Drawn<()> {
    let curves = shown.curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.1));
    let bands = shown.bands.iter().flat_map(|band| band.points.iter());
    let bands = bands.flat_map(|(_, low, high)| [*low, *high]);
    let (low, high) = shown.values.unwrap_or_else(|| padded(curves.chain(bands)));
    let (first, last) = shown.range;
    let mut chart = ChartBuilder::on(area)
        .margin_top(units(8.0))
        .margin_right(units(16.0))
        .caption(shown.title, font(14.0, &INK))
        .x_label_area_size(units(if shown.across.is_some() { 44.0 } else { 24.0 }))
        .y_label_area_size(units(62.0))
        .build_cartesian_2d(first..last, low..high)?;
    let quiet = font(12.0, &QUIET);
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.stroke_width(UNIT))
        .axis_style(QUIET.stroke_width(UNIT))
        .label_style(quiet)
        .x_labels(6)
        .y_labels(5)
        .x_label_formatter(&|value| tick(*value))
        .y_label_formatter(&|value| tick(*value));
    if let Some(across) = shown.across {
        mesh.x_desc(across).axis_desc_style(font(12.0, &QUIET));
    }
    mesh.draw()?;
    let inside = |x: &f64| (first..=last).contains(x);
    let bounded = |y: f64| y.clamp(low, high);
    for band in &shown.bands {
        let color = shown.lines.color(band.run).mix(band.opacity).filled();
        let whole = |point: &&(f64, f64, f64)| point.1.is_finite() && inside(&point.0);
        let below = band.points.iter().filter(whole).map(|(x, low, _)| (*x, bounded(*low)));
        let above = band.points.iter().rev().filter(whole).map(|(x, _, high)| (*x, bounded(*high)));
        let around: Vec<(f64, f64)> = below.chain(above).collect();
        if around.len() > 2 {
            chart.draw_series([Polygon::new(around, color)])?;
        }
    }
    for curve in shown
        .curves
        .iter()
        .filter(|curve| curve.pale)
        .chain(shown.curves.iter().filter(|curve| !curve.pale))
    {
        let style: ShapeStyle = if curve.pale {
            shown.lines.color(curve.run).mix(0.3).stroke_width(UNIT)
        } else {
            name(curve.run).stroke_width(UNIT * 17 / 10)
        };
        for part in curve.points.split(|(x, y)| !y.is_finite() || !inside(x)) {
            let points = || part.iter().map(|(x, y)| (*x, bounded(*y)));
            match part {
                [] => {}
                [_] => drop(chart.draw_series(points().map(|at| {
                    Circle::new(at, units(2.5), shown.lines.color(curve.run).filled())
                }))?),
                _ => drop(chart.draw_series(LineSeries::new(points(), style))?),
            }
        }
    }
    Ok(())
}

/// A line and a name for each run, in as many columns as fit; returns nothing drawn below its area.
pub(super) fn legend(area: &Area<'_>, names: &[String]) -> Drawn<()> {
    let columns = legend_columns(names);
    let width = area.dim_in_pixel().0 as i32 / columns as i32;
    for (run, text) in names.iter().enumerate() {
        let left = width * (run % columns) as i32 + units(16.0);
        let middle = units(LEGEND_ROW) * (run / columns) as i32 + units(12.0);
        let ends = vec![(left, middle), (left + units(30.0), middle)];
        area.draw(&PathElement::new(ends, name(run).stroke_width(UNIT * 2)))?;
        area.draw(&Text::new(text.clone(), (left + units(38.0), middle), beside(13.0)))?;
    }
    Ok(())
}

const LEGEND_ROW: f64 = 22.0;

fn legend_columns(names: &[String]) -> usize {
    match names.iter().map(|name| name.chars().count()).max().unwrap_or_default() {
        0..=26 if names.len() > 2 => 3,
        0..=46 if names.len() > 1 => 2,
        _ => 1,
    }
}

/// Height of a legend in units of the picture.
pub(super) fn legend_height(names: &[String]) -> u32 {
    (LEGEND_ROW * names.len().div_ceil(legend_columns(names)) as f64) as u32 + 10
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::fs;

    /// Holds a picture to a quarter-size one under `tests/golden/watch`, to a few levels on average; with
    /// `DIPTYCH_STORE=1` the stored one is written anew, to be looked at.
    pub(crate) fn alike(found: &Path, name: &str) {
        let found = image::open(found).unwrap().to_rgb8();
        let (width, height) = (found.width() / 2, found.height() / 2);
        let filter = image::imageops::FilterType::Triangle;
        let small = image::imageops::resize(&found, width, height, filter);
        let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/watch").join(name);
        if std::env::var_os("DIPTYCH_STORE").is_some() {
            fs::create_dir_all(stored.parent().unwrap()).unwrap();
            small.save(&stored).unwrap();
            return;
        }
        let stored =
            image::open(&stored).unwrap_or_else(|error| panic!("{name}: {error}")).to_rgb8();
        assert_eq!(small.dimensions(), stored.dimensions(), "{name}");
        let apart = |(a, b): (&u8, &u8)| f64::from(a.abs_diff(*b));
        let all = small.as_raw().iter().zip(stored.as_raw());
        let mean = all.clone().map(apart).sum::<f64>() / small.as_raw().len() as f64;
        // A curve that moves by a few pixels changes far more of them than edges drawn by another rounding do.
        let far = all.filter(|pair| apart((pair.0, pair.1)) > 64.0).count();
        let share = far as f64 / small.as_raw().len() as f64;
        assert!(mean < 0.5 && share < 1e-3, "{name}: {mean:.3} apart on average, {share:.5} far");
    }

    #[test]
    fn numbers_of_axes_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (12_500.0, "12,500"),
            (-0.25, "\u{2212}0.25"),
            (0.3, "0.3"),
            (2e-5, "2.0e\u{2212}5"),
            (-3.0, "\u{2212}3"),
        ] {
            assert_eq!(tick(value), text);
        }
        assert_eq!(padded([f64::NAN].into_iter()), (0.0, 1.0));
        assert_eq!(padded([2.0, 2.0].into_iter()), (1.8, 2.2));
    }

    /// Linear light of a colour, and its luminance.
    fn light(RGBColor(r, g, b): RGBColor) -> ([f64; 3], f64) {
        let linear = [r, g, b].map(|channel| {
            let value = f64::from(channel) / 255.0;
            if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        });
        (linear, 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    }

    /// A colour in CIELAB as it is seen through a matrix.
    fn seen(color: RGBColor, through: &[[f64; 3]; 3]) -> [f64; 3] {
        let product = |matrix: &[[f64; 3]; 3], v: [f64; 3]| {
            matrix.map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum::<f64>())
        };
        let linear = product(through, light(color).0).map(|value| value.clamp(0.0, 1.0));
        let xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]];
        let [x, y, z] = product(&xyz, linear);
        let f = |t: f64| if t > 0.008_856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 };
        let [x, y, z] = [f(x / 0.9505), f(y), f(z / 1.089)];
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    }

    #[test]
    fn readers_with_any_colour_vision_tell_the_colours_apart_and_paper_does_not_swallow_them() {
        // Machado, Oliveira, Fernandes 2009, severity 1: protanopia, deuteranopia, tritanopia.
        let visions = [
            [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            [
                [0.152_286, 1.052_583, -0.204_868],
                [0.114_503, 0.786_281, 0.099_216],
                [-0.003_882, -0.048_116, 1.051_998],
            ],
            [
                [0.367_322, 0.860_646, -0.227_968],
                [0.280_085, 0.672_501, 0.047_413],
                [-0.011_820, 0.042_940, 0.968_881],
            ],
            [
                [1.255_528, -0.076_749, -0.178_779],
                [-0.078_411, 0.930_809, 0.147_602],
                [0.004_733, 0.691_367, 0.303_900],
            ],
        ];
        // The page has the same colours by day, and others by night.
        let style = include_str!("../../templates/series.css");
        let pairs: Vec<[RGBColor; 2]> = style
            .split("light-dark(")
            .skip(1)
            .map(|rest| {
                let hex = |text: &str| {
                    let part = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
                    RGBColor(part(1), part(3), part(5))
                };
                [hex(&rest[..7]), hex(&rest[9..16])]
            })
            .collect();
        assert_eq!(pairs.len(), 8);
        assert!(pairs.iter().zip(ACCESSIBLE).all(|(pair, color)| pair[0] == color));
        for (ground, which) in [(RGBColor(255, 255, 255), 0), (RGBColor(27, 29, 32), 1)] {
            let colors: Vec<RGBColor> = pairs.iter().map(|pair| pair[which]).collect();
            for color in &colors {
                let (a, b) = (light(*color).1, light(ground).1);
                let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
                assert!(contrast >= 3.0, "{color:?}: {contrast}");
            }
            for through in &visions {
                for (place, a) in colors.iter().enumerate() {
                    for b in &colors[..place] {
                        let [a, b] = [a, b].map(|color| seen(*color, through));
                        let apart: f64 =
                            a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
                        assert!(apart >= 19.0, "{apart}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_run_has_a_line_of_its_own() {
        let name = |run: usize| {
            let RGBColor(r, g, b) = name(run);
            format!("<path stroke=\"#{r:02X}{g:02X}{b:02X}\"/>")
        };
        for lines in [Lines::Accessible, Lines::Published] {
            let mut all: Vec<String> = (0..MOST).map(|run| colored(&name(run), lines)).collect();
            all.sort();
            all.dedup();
            assert_eq!(all.len(), MOST);
        }
    }
}
