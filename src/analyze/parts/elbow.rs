//! Inertia and silhouette over the number of clusters: where the one bends and the other peaks, more clusters tell little.

use super::algorithm_title;
use super::figures::Album;
use super::found::Map;
use crate::analyze::Output;
use crate::analyze::palette::Palette;
use crate::analyze::plot::{
    self, Curve, INK, Lines, MOST, Panel, colored, font, legend, legend_height, panel, sheet, units,
};
use crate::cluster::Algorithm;
use crate::error::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

const WIDTH: u32 = 900;
const EACH: u32 = 270;

/// One layer by one algorithm.
struct Line {
    name: String,
    /// Number of clusters, and the share of the squares that is left within them, of all images together.
    inertia: Vec<(f64, f64)>,
    /// The same with the mean silhouette.
    silhouette: Vec<(f64, f64)>,
}

/// Writes `elbow.svg` and `elbow.png`; nothing for one number of clusters.
///
/// # Errors
/// [`crate::error::Error::Io`].
pub(super) fn save(folder: &Path, album: &Album) -> Result<Vec<Output>> {
    if album.settings.clusters.len() < 2 {
        return Ok(Vec::new());
    }
    let (svg, title, description) = draw(album);
    plot::save(folder, "elbow", &svg, (&title, &description))
}

/// The drawing with title and description.
fn draw(album: &Album) -> (String, String, String) {
    let lines = lines(album);
    let names: Vec<String> = lines.iter().map(|line| line.name.clone()).collect();
    let title = "Inertia and silhouette over the number of clusters".to_owned();
    let ends: Vec<String> = lines
        .iter()
        .filter_map(|line| {
            let ((least, first), (most, last)) = (line.inertia.first()?, line.inertia.last()?);
            Some(format!("{}: from {first:.3} at {least} to {last:.3} at {most}", line.name))
        })
        .collect();
    let description = format!(
        "Above, the share of the squared distances to the mean that is left within clusters; below, the mean silhouette. \
         The share falls, {}.",
        ends.join("; ")
    );
    let palette = match album.settings.palette {
        Palette::Accessible => Lines::Accessible,
        Palette::Published => Lines::Published,
    };
    let numbers = || album.settings.clusters.iter().map(|k| *k as f64);
    let range = (numbers().fold(f64::MAX, f64::min), numbers().fold(0.0, f64::max));
    let below = legend_height(&names);
    let height = 40 + 2 * EACH + 24 + below;
    let svg = sheet((WIDTH, height), &title, &description, |root| {
        let style = font(18.0, &INK).pos(Pos::new(HPos::Left, VPos::Top));
        root.draw(&Text::new(title.clone(), (units(16.0), units(12.0)), style))?;
        let panels =
            [("Share of the squares left within clusters", false), ("Mean silhouette", true)];
        for (place, (caption, last)) in panels.into_iter().enumerate() {
            let top = units(f64::from(40 + EACH * place as u32));
            let tall = units(f64::from(EACH + if last { 20 } else { 0 }));
            let area = root.clone().shrink((0, top), (units(f64::from(WIDTH)), tall));
            let curve = |(run, line): (usize, &Line)| Curve {
                points: if last { line.silhouette.clone() } else { line.inertia.clone() },
                run,
                pale: false,
            };
            panel(
                &area,
                &Panel {
                    title: caption,
                    across: last.then_some("clusters"),
                    range,
                    values: None,
                    curves: lines.iter().enumerate().map(curve).collect(),
                    bands: Vec::new(),
                    lines: palette,
                },
            )?;
        }
        let top = units(f64::from(40 + 2 * EACH + 24));
        let area = (units(f64::from(WIDTH)), units(f64::from(below)));
        legend(&root.clone().shrink((0, top), area), &names)
    });
    (colored(&svg, palette), title, description)
}

/// Every layer by every algorithm; by the first alone where those would be too many to tell apart.
fn lines(album: &Album) -> Vec<Line> {
    let (layers, algorithms) = (album.found.layers(), &album.settings.algorithms);
    let shown = if layers.len() * algorithms.len() <= MOST { algorithms.len() } else { 1 };
    let every = layers
        .into_iter()
        .flat_map(|layer| algorithms[..shown].iter().map(move |algorithm| (layer, *algorithm)));
    every.take(MOST).map(|(layer, algorithm)| line(album, layer, algorithm)).collect()
}

fn line(album: &Album, layer: (usize, Option<u8>), algorithm: Algorithm) -> Line {
    let several = album.settings.algorithms.len() > 1;
    let name = if several {
        format!("{}, {}", album.layer(layer), algorithm_title(algorithm))
    } else {
        album.layer(layer)
    };
    let of = |k: usize| {
        let maps = album.found.maps.iter();
        maps.filter(move |map| {
            (map.subject, map.block) == layer && (map.algorithm, map.k) == (algorithm, k)
        })
    };
    let over = |value: &dyn Fn(usize) -> f64| {
        album.settings.clusters.iter().map(|k| (*k as f64, value(*k))).collect()
    };
    Line {
        name,
        inertia: over(&|k| share(of(k))),
        silhouette: over(&|k| {
            let found: Vec<f64> = of(k).filter_map(|map| map.silhouette).collect();
            found.iter().sum::<f64>() / found.len() as f64
        }),
    }
}

/// Squares within the clusters of some maps over all their squares.
fn share<'a>(maps: impl Iterator<Item = &'a Map>) -> f64 {
    let (within, all) = maps.fold((0.0, 0.0), |(within, all), map| {
        (within + map.cluster_inertia.iter().sum::<f64>(), all + map.spread)
    });
    within / all
}

#[cfg(test)]
mod tests {
    use super::super::found::{Found, Scope, find};
    use super::super::tests::{pictures, small};
    use super::super::{Settings, Subject};
    use super::*;
    use crate::analyze::plot::tests::alike;

    #[test]
    fn the_chart_shows_what_the_numbers_say() {
        let settings = Settings {
            clusters: vec![1, 2, 4, 8],
            algorithms: vec![Algorithm::KMeans, Algorithm::Ward],
            ..small()
        };
        let pictures = pictures(3);
        let subjects = [Subject { name: "Raw pixels".to_owned(), weights: None }];
        let found: Found = find(&settings, &subjects, &pictures, 0, &mut |_, _| ()).unwrap();
        let album = Album::new(&settings, &found, &pictures);
        let lines = lines(&album);
        assert_eq!(lines.len(), 2);
        for line in &lines {
            // One cluster leaves everything within, more leave less; one cluster has no silhouette.
            assert!((line.inertia[0].1 - 1.0).abs() < 1e-6, "{}", line.inertia[0].1);
            assert!(line.inertia.is_sorted_by(|a, b| a.1 > b.1), "{:?}", line.inertia);
            assert!(line.silhouette[0].1.is_nan() && line.silhouette[1].1.is_finite());
        }
        let map = found.map((0, None), Scope::Image(1), Algorithm::Ward, 4).unwrap();
        let alone = share(std::iter::once(map));
        assert!((alone - map.cluster_inertia.iter().sum::<f64>() / map.spread).abs() < 1e-12);

        let folder = tempfile::tempdir().unwrap();
        let files = save(folder.path(), &album).unwrap();
        assert_eq!(files.len(), 2);
        assert!(files[0].description.contains("Raw pixels, Ward Hierarchical: from 1.000 at 1 to"));
        alike(&folder.path().join("elbow.png"), "elbow.png");
        let one = Settings { clusters: vec![2], ..settings };
        assert!(save(folder.path(), &Album::new(&one, &found, &pictures)).unwrap().is_empty());
    }
}
