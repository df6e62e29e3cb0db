//! Norms as a surface, as published: layers and epochs on the ground, the norm as height, seen at equal angles.

use super::map::{color_bar, place, powers, step};
use super::{Height, Landscape, Settings, groups, rows};
use crate::analyze::plot::{Area, Drawn, GRID, INK, QUIET, font, sheet, tick, units};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 580.0;
/// Half of the ground's width, and the place of its corner at the back.
const REACH: f64 = 360.0;
const BACK: (f64, f64) = (408.0, 252.0);
/// The ground's depth by its width: 30 degrees, flattened a little so that there is room for heights.
const SLOPE: f64 = 0.40;
/// Units of the picture that the highest value is high.
const TALL: f64 = 196.0;
/// Most epochs of a surface.
const ROWS: usize = 100;

/// The surface as SVG; height and colours span `range`.
pub(super) fn draw(
    landscape: &Landscape,
    settings: &Settings,
    range: (f64, f64),
    (title, description): (&str, &str),
) -> String {
    let (epochs, grid) = rows(landscape, settings.aggregate, ROWS);
    // A single epoch becomes a strip.
    let grid = if grid.len() == 1 { vec![grid[0].clone(), grid[0].clone()] } else { grid };
    sheet((WIDTH as u32, HEIGHT as u32), title, description, |root| {
        root.draw(&Text::new(title.to_owned(), (units(16.0), units(14.0)), font(18.0, &INK)))?;
        let scene = Scene { settings, range };
        scene.walls(root)?;
        scene.cells(root, &grid)?;
        labels(root, landscape, &epochs)?;
        color_bar(root, settings, range)
    })
}

/// A point of the scene on the sheet: along the layers, along the epochs, upwards, each in [0, 1].
fn at(layer: f64, epoch: f64, height: f64) -> (i32, i32) {
    let across = BACK.0 + (layer - epoch) * REACH;
    let down = BACK.1 + (layer + epoch) * REACH * SLOPE - height * TALL;
    (units(across), units(down))
}

struct Scene<'a> {
    settings: &'a Settings,
    range: (f64, f64),
}

impl Scene<'_> {
    /// A norm as height in [0, 1].
    fn height(&self, value: f64) -> f64 {
        match self.settings.height {
            Height::Linear if value.is_finite() => (value / self.range.1).clamp(0.0, 1.0),
            Height::Log => place(value, self.range).unwrap_or(0.0),
            Height::Linear => 0.0,
        }
    }

    /// Lines on the two walls at the back at round heights, with their numbers.
    fn walls(&self, root: &Area<'_>) -> Drawn<()> {
        let thin = || GRID.stroke_width(units(1.0) as u32);
        let ground = vec![
            at(0.0, 0.0, 0.0),
            at(1.0, 0.0, 0.0),
            at(1.0, 1.0, 0.0),
            at(0.0, 1.0, 0.0),
            at(0.0, 0.0, 0.0),
        ];
        root.draw(&PathElement::new(ground, thin()))?;
        let mut ticks: Vec<f64> = match self.settings.height {
            Height::Linear => {
                let unit = 10f64.powf(self.range.1.log10().floor());
                let unit = [0.2, 0.5, 1.0, 2.0]
                    .into_iter()
                    .find(|part| self.range.1 / (unit * part) <= 5.5)
                    .unwrap_or(5.0)
                    * unit;
                (0..=6)
                    .map(|count| f64::from(count) * unit)
                    .filter(|value| *value <= self.range.1)
                    .collect()
            }
            Height::Log => powers(self.range.0, self.range.1),
        };
        ticks.dedup();
        for value in ticks {
            let height = self.height(value);
            let line = vec![at(0.0, 1.0, height), at(0.0, 0.0, height), at(1.0, 0.0, height)];
            root.draw(&PathElement::new(line, thin()))?;
            let (left, middle) = at(0.0, 1.0, height);
            let style = font(11.0, &QUIET).pos(Pos::new(HPos::Right, VPos::Center));
            root.draw(&Text::new(tick(value), (left - units(5.0), middle), style))?;
        }
        for (layer, epoch) in [(0.0, 1.0), (0.0, 0.0), (1.0, 0.0)] {
            let line = vec![at(layer, epoch, 0.0), at(layer, epoch, 1.0)];
            root.draw(&PathElement::new(line, thin()))?;
        }
        Ok(())
    }

    /// The surface, from the back to the front.
    fn cells(&self, root: &Area<'_>, grid: &[Vec<f64>]) -> Drawn<()> {
        let (rows, columns) = (grid.len(), grid[0].len());
        let corner = |row: usize, column: usize| {
            let part = |place: usize, count: usize| place as f64 / (count - 1).max(1) as f64;
            let height = self.height(grid[row][column]);
            at(part(column, columns), part(row, rows), height)
        };
        for distance in 0..(rows - 1) + columns.saturating_sub(1) {
            for row in
                distance.saturating_sub(columns.saturating_sub(2))..(rows - 1).min(distance + 1)
            {
                let column = distance - row;
                if column + 1 >= columns {
                    continue;
                }
                let corners =
                    [(row, column), (row, column + 1), (row + 1, column + 1), (row + 1, column)];
                let values = corners.iter().map(|(row, column)| grid[*row][*column]);
                let known: Vec<f64> = values.filter_map(|value| place(value, self.range)).collect();
                if known.is_empty() {
                    continue;
                }
                let color =
                    self.settings.palette.color(known.iter().sum::<f64>() / known.len() as f64);
                let outline: Vec<(i32, i32)> =
                    corners.iter().map(|(row, column)| corner(*row, *column)).collect();
                root.draw(&Polygon::new(outline.clone(), color.filled()))?;
                let RGBColor(r, g, b) = color;
                let edge = RGBColor(darker(r), darker(g), darker(b));
                root.draw(&PathElement::new(
                    outline,
                    edge.stroke_width(units(0.25).max(1) as u32),
                ))?;
            }
        }
        Ok(())
    }
}

/// Layers along the edge at the front left, epochs along the one at the right.
fn labels(root: &Area<'_>, landscape: &Landscape, epochs: &[u64]) -> Drawn<()> {
    let line = || QUIET.stroke_width(units(1.0) as u32);
    root.draw(&PathElement::new(
        vec![at(0.0, 1.0, 0.0), at(1.0, 1.0, 0.0), at(1.0, 0.0, 0.0)],
        line(),
    ))?;
    let count = landscape.layers.len();
    let along = |layer: usize| layer as f64 / (count - 1).max(1) as f64;
    let groups = groups(&landscape.layers);
    for (number, (first, name)) in groups.iter().enumerate() {
        let (x, y) = at(along(*first), 1.0, 0.0);
        // A narrow group leaves the place to the next one.
        let next = groups.get(number + 1).map_or(1.0, |(next, _)| along(*next));
        if (next - along(*first)) * REACH * SLOPE < 12.0 && number + 1 < groups.len() {
            continue;
        }
        root.draw(&PathElement::new(vec![(x, y), (x - units(5.0), y + units(2.0))], line()))?;
        let style = font(11.0, &QUIET).pos(Pos::new(HPos::Right, VPos::Top));
        root.draw(&Text::new(name.clone(), (x - units(7.0), y + units(3.0)), style))?;
    }
    let every = step(epochs.len(), 8);
    for (row, epoch) in epochs.iter().enumerate().filter(|(row, _)| row % every == 0) {
        let (x, y) = at(1.0, row as f64 / (epochs.len() - 1).max(1) as f64, 0.0);
        root.draw(&PathElement::new(vec![(x, y), (x + units(5.0), y + units(2.0))], line()))?;
        let style = font(11.0, &QUIET).pos(Pos::new(HPos::Left, VPos::Top));
        root.draw(&Text::new(tick(*epoch as f64), (x + units(7.0), y), style))?;
    }
    for (text, layer, epoch, across) in [("layer", 0.5, 1.0, -130.0), ("epoch", 1.0, 0.5, 64.0)] {
        let (x, y) = at(layer, epoch, 0.0);
        let style = font(12.0, &QUIET).pos(Pos::new(HPos::Center, VPos::Top));
        root.draw(&Text::new(text, (x + units(across), y + units(34.0)), style))?;
    }
    Ok(())
}

fn darker(channel: u8) -> u8 {
    (f64::from(channel) * 0.72) as u8
}
