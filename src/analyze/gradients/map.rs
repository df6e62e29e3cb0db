//! Norms as a map: layers across, epochs downwards, the logarithm as colour.

use super::{Aggregate, Landscape, Scale, Settings, ends, groups, rows};
use crate::analyze::plot::{Area, Drawn, GRID, INK, QUIET, font, sheet, tick, units};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 540.0;
/// Of the map: left, right, top, bottom.
const MAP: [f64; 4] = [74.0, 800.0, 52.0, 452.0];
/// Most rows of a map.
const ROWS: usize = 200;

/// Anchors of [`viridis`](Scale::Viridis) and [`cividis`](Scale::Cividis) at even distances.
const VIRIDIS: [[u8; 3]; 9] = [
    [68, 1, 84],
    [71, 44, 122],
    [59, 81, 139],
    [44, 113, 142],
    [33, 144, 141],
    [39, 173, 129],
    [92, 200, 99],
    [170, 220, 50],
    [253, 231, 37],
];
const CIVIDIS: [[u8; 3]; 9] = [
    [0, 32, 77],
    [0, 50, 110],
    [49, 68, 108],
    [78, 86, 109],
    [104, 104, 112],
    [133, 124, 119],
    [165, 145, 114],
    [203, 174, 98],
    [255, 234, 70],
];
const GREY: [[u8; 3]; 2] = [[20, 20, 22], [246, 246, 244]];

impl Scale {
    /// The colour at a place in [0, 1].
    pub(super) fn color(self, at: f64) -> RGBColor {
        let anchors: &[[u8; 3]] = match self {
            Self::Viridis => &VIRIDIS,
            Self::Cividis => &CIVIDIS,
            Self::Grey => &GREY,
        };
        let place = at.clamp(0.0, 1.0) * (anchors.len() - 1) as f64;
        let (below, above) = (anchors[place.floor() as usize], anchors[place.ceil() as usize]);
        let mix = |channel: usize| {
            let (low, high) = (f64::from(below[channel]), f64::from(above[channel]));
            (low + place.fract() * (high - low)).round() as u8
        };
        RGBColor(mix(0), mix(1), mix(2))
    }
}

/// The map of a landscape as SVG; colours span `range`, or what is there.
pub fn heat_map(
    landscape: &Landscape,
    settings: &Settings,
    range: Option<(f64, f64)>,
    (title, description): (&str, &str),
) -> String {
    let range = range.unwrap_or_else(|| ends(&landscape.grid(settings.aggregate)));
    let (epochs, grid) = rows(landscape, settings.aggregate, ROWS);
    sheet((WIDTH as u32, HEIGHT as u32), title, description, |root| {
        root.draw(&Text::new(title.to_owned(), (units(16.0), units(14.0)), font(18.0, &INK)))?;
        let [left, right, top, bottom] = MAP;
        let across = |layer: usize| {
            units(left + (right - left) * layer as f64 / landscape.layers.len() as f64)
        };
        let down = |row: usize| units(top + (bottom - top) * row as f64 / grid.len() as f64);
        for (row, values) in grid.iter().enumerate() {
            for (layer, value) in values.iter().enumerate() {
                let color = match place(*value, range) {
                    Some(at) => settings.palette.color(at),
                    None => WHITE,
                };
                // A little into the next ones, which are drawn over it, so that no ground shows between them.
                let corner = (across(layer + 1) + 2, down(row + 1) + 2);
                let corners = [(across(layer), down(row)), corner];
                root.draw(&Rectangle::new(corners, color.filled()))?;
            }
        }
        axes(root, landscape, &epochs)?;
        color_bar(root, settings, range)
    })
}

/// Where a norm lies between two ends, logarithmically.
pub(super) fn place(value: f64, (low, high): (f64, f64)) -> Option<f64> {
    (value.is_finite() && value > 0.0)
        .then(|| ((value / low).ln() / (high / low).ln()).clamp(0.0, 1.0))
}

fn anchored(size: f64, across: HPos, down: VPos) -> TextStyle<'static> {
    font(size, &QUIET).pos(Pos::new(across, down))
}

/// Numbers of epochs at the left, layers and their groups below.
fn axes(root: &Area<'_>, landscape: &Landscape, epochs: &[u64]) -> Drawn<()> {
    let [left, right, top, bottom] = MAP;
    let frame = [(units(left), units(top)), (units(right), units(bottom))];
    root.draw(&Rectangle::new(frame, GRID.stroke_width(units(1.0) as u32)))?;
    let every = step(epochs.len(), 8);
    for (row, epoch) in epochs.iter().enumerate().filter(|(row, _)| row % every == 0) {
        let at = units(top + (bottom - top) * (row as f64 + 0.5) / epochs.len() as f64);
        let style = anchored(12.0, HPos::Right, VPos::Center);
        root.draw(&Text::new(tick(*epoch as f64), (units(left - 8.0), at), style))?;
    }
    let style = anchored(12.0, HPos::Center, VPos::Center).transform(FontTransform::Rotate270);
    root.draw(&Text::new("epoch", (units(18.0), units(0.5 * (top + bottom))), style))?;
    let count = landscape.layers.len();
    let at = |layer: f64| units(left + (right - left) * layer / count as f64);
    let groups = groups(&landscape.layers);
    for (number, (first, name)) in groups.iter().enumerate() {
        let end = groups.get(number + 1).map_or(count, |(next, _)| *next);
        let edge = at(*first as f64);
        let line = vec![(edge, units(bottom)), (edge, units(bottom + 8.0))];
        root.draw(&PathElement::new(line, QUIET.stroke_width(units(1.0) as u32)))?;
        // Names of narrow groups go lower, so that neighbours do not run into each other.
        let narrow = number % 2 == 1 && groups.len() > 6;
        let below = if narrow { 30.0 } else { 14.0 };
        let style = anchored(12.0, HPos::Center, VPos::Top);
        let middle = at(0.5 * (*first + end) as f64);
        root.draw(&Text::new(name.clone(), (middle, units(bottom + below)), style))?;
    }
    let style = anchored(12.0, HPos::Center, VPos::Top);
    let text = format!("{count} layers in the order of the network");
    root.draw(&Text::new(text, (units(0.5 * (left + right)), units(bottom + 54.0)), style))
}

/// Every how many of `count` a label is written, for at most `most`.
pub(super) fn step(count: usize, most: usize) -> usize {
    [1, 2, 5, 10, 20, 25, 50, 100]
        .into_iter()
        .find(|step| count.div_ceil(*step) <= most)
        .unwrap_or(200)
}

/// Steps of the bar of colours.
const BANDS: u32 = 100;

/// What the colours are.
pub(super) fn color_bar(
    root: &Area<'_>,
    settings: &Settings,
    (low, high): (f64, f64),
) -> Drawn<()> {
    let (left, right, top, bottom) = (820.0, 836.0, MAP[2], MAP[3]);
    for band in 0..BANDS {
        let at = f64::from(band) / f64::from(BANDS);
        let edge = |at: f64| units(bottom - (bottom - top) * at);
        let corners = [(units(left), edge(at + 1.0 / f64::from(BANDS))), (units(right), edge(at))];
        let color = settings.palette.color(at + 0.5 / f64::from(BANDS));
        root.draw(&Rectangle::new(corners, color.filled()))?;
    }
    for value in powers(low, high) {
        let Some(at) = place(value, (low, high)) else { continue };
        let middle = units(bottom - (bottom - top) * at);
        let style = anchored(11.0, HPos::Left, VPos::Center);
        root.draw(&Text::new(tick(value), (units(right + 6.0), middle), style))?;
    }
    let what = match settings.aggregate {
        Aggregate::Mean => "norm, mean of the epoch",
        Aggregate::First => "norm, first step",
        Aggregate::Last => "norm, last step",
        Aggregate::Highest => "norm, highest step",
    };
    let style = anchored(12.0, HPos::Right, VPos::Top);
    root.draw(&Text::new(what, (units(WIDTH - 16.0), units(MAP[2] - 24.0)), style))
}

/// A few round numbers between two ends, for a logarithmic axis.
pub(super) fn powers(low: f64, high: f64) -> Vec<f64> {
    let range = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let of = |digits: &[f64]| -> Vec<f64> {
        let all = range
            .clone()
            .flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
        all.filter(|value| (low..=high).contains(value)).collect()
    };
    let candidates = [of(&[1.0]), of(&[1.0, 3.0]), of(&[1.0, 2.0, 5.0])];
    let fitting = candidates.iter().find(|list| list.len() >= 3).cloned();
    fitting.unwrap_or_else(|| vec![low, (low * high).sqrt(), high])
}
