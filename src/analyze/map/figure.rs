//! A map that stands still: points in the colours of their classes, for a page or a paper.

use super::colors::Palette;
use super::{Images, Layout, Maps, grouped};
use crate::analyze::figure::{FONT, base64, svg_to_png, write as write_file};
use crate::analyze::palette::{Color, hex};
use crate::analyze::{Form, Output};
use crate::error::{Error, Result};
use crate::files::replace_text;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use std::fmt::Write as _;
use std::path::Path;

/// Side of the picture of the points, in pixels and in units of the SVG.
const PIXELS: usize = 1_440;
const SIDE: usize = 720;

/// Around everything, and between the parts.
const MARGIN: usize = 24;

/// Width of the legend.
const LEGEND: usize = 220;

/// Height of a line of the legend.
const LINE: usize = 22;

/// Most groups that the legend names.
const NAMED: usize = 30;

/// Letters of a name in the legend.
const LETTERS: usize = 22;

const INK: &str = "#1d1f23";
const QUIET: &str = "#62666e";

/// A point that belongs to no group.
const NO_GROUP: Color = [98, 102, 110];

/// Groups of points: a name and a colour each, and the group of every point.
struct Groups {
    title: &'static str,
    names: Vec<String>,
    colors: Vec<Color>,
    of: Vec<Option<usize>>,
}

/// Writes `<id>.svg`, and the same as `<id>.png` at twice the size in units.
pub(super) fn write(
    folder: &Path,
    layout: &Layout,
    images: &Images<'_>,
    maps: &Maps,
    palette: Palette,
) -> Result<Vec<Output>> {
    let groups = groups(images, maps, palette);
    let description = format!(
        "{} points, coloured by {}; {}",
        layout.points.len(),
        groups.title.to_lowercase(),
        layout.numbers().join(", ")
    );
    let svg = svg(layout, &groups, &description)?;
    let [drawing, picture] = ["svg", "png"].map(|end| format!("{}.{end}", layout.id));
    replace_text(&folder.join(&drawing), &svg)?;
    write_file(&folder.join(&picture), &svg_to_png(&svg, 2.0)?)?;
    let output = |file| Output {
        file,
        form: Form::Picture,
        title: layout.title.clone(),
        description: description.clone(),
    };
    Ok(vec![output(drawing), output(picture)])
}

/// By class where there are classes, else by cluster.
fn groups(images: &Images<'_>, maps: &Maps, palette: Palette) -> Groups {
    let classes = images.class_count();
    if classes > 0 {
        return Groups {
            title: "Class",
            names: (0..classes as i64).filter_map(|label| images.class(label)).collect(),
            colors: palette.colors(classes),
            of: images.labels.iter().map(|label| usize::try_from(*label).ok()).collect(),
        };
    }
    let clusters = maps.clusters.iter().max().map_or(0, |most| *most as usize + 1);
    Groups {
        title: "Cluster",
        names: (1..=clusters).map(|cluster| cluster.to_string()).collect(),
        colors: palette.colors(clusters),
        of: maps.clusters.iter().map(|cluster| Some(*cluster as usize)).collect(),
    }
}

fn svg(layout: &Layout, groups: &Groups, description: &str) -> Result<String> {
    let mut png = Vec::new();
    let pixels = drawn(&layout.points, groups, PIXELS);
    PngEncoder::new_with_quality(&mut png, CompressionType::Best, FilterType::Adaptive)
        .write_image(&pixels, PIXELS as u32, PIXELS as u32, ExtendedColorType::Rgb8)
        .map_err(|error| Error::Run(format!("a figure cannot be encoded: {error}")))?;
    let (top, left) = (3 * MARGIN + 20, 2 * MARGIN + SIDE);
    let (width, height) = (left + LEGEND + MARGIN, top + SIDE + MARGIN);
    let (title, told) = (escaped(&layout.title), escaped(&layout.numbers().join(" · ")));
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" font-family=\"{FONT}\">\n<title>{title}</title>\n<desc>{}</desc>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"{}\" font-size=\"22\" fill=\"{INK}\">{title}</text>\n\
         <text x=\"{MARGIN}\" y=\"{}\" font-size=\"13\" fill=\"{QUIET}\">{told}</text>\n\
         <image x=\"{MARGIN}\" y=\"{top}\" width=\"{SIDE}\" height=\"{SIDE}\" href=\"data:image/png;base64,{}\"/>\n\
         <rect x=\"{MARGIN}\" y=\"{top}\" width=\"{SIDE}\" height=\"{SIDE}\" fill=\"none\" stroke=\"#d8d5cf\"/>\n",
        escaped(description),
        MARGIN + 18,
        MARGIN + 44,
        base64(&png)
    );
    let _ = writeln!(
        text,
        "<text x=\"{left}\" y=\"{}\" font-size=\"15\" fill=\"{INK}\">{}</text>",
        top + 12,
        groups.title
    );
    for (line, entry) in legend(groups).into_iter().enumerate() {
        let y = top + 18 + LINE * (line + 1);
        if let Some(color) = entry.color {
            let _ = writeln!(
                text,
                "<circle cx=\"{}\" cy=\"{}\" r=\"6\" fill=\"{}\"/>",
                left + 6,
                y - 5,
                hex(color)
            );
        }
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{y}\" font-size=\"14\" fill=\"{INK}\">{} <tspan fill=\"{QUIET}\">{}</tspan></text>",
            left + 20,
            escaped(&entry.name),
            grouped(entry.count)
        );
    }
    text.push_str("</svg>\n");
    Ok(text)
}

/// A line of the legend.
struct Entry {
    color: Option<Color>,
    name: String,
    count: usize,
}

/// The groups in order; of many the largest, and what is left.
fn legend(groups: &Groups) -> Vec<Entry> {
    let mut counts = vec![0; groups.names.len()];
    let mut without = 0;
    for of in &groups.of {
        match of {
            Some(group) => counts[*group] += 1,
            None => without += 1,
        }
    }
    let mut shown: Vec<usize> = (0..counts.len()).filter(|group| counts[*group] > 0).collect();
    if shown.len() > NAMED {
        shown.sort_by_key(|group| (usize::MAX - counts[*group], *group));
        shown.truncate(NAMED - 1);
    }
    let listed: usize = shown.iter().map(|group| counts[*group]).sum();
    let rest = groups.of.len() - without - listed;
    let others = counts.iter().filter(|count| **count > 0).count() - shown.len();
    let mut entries: Vec<Entry> = shown
        .into_iter()
        .map(|group| Entry {
            color: Some(groups.colors[group]),
            name: shortened(&groups.names[group]),
            count: counts[group],
        })
        .collect();
    if others > 0 {
        entries.push(Entry { color: None, name: format!("{others} others"), count: rest });
    }
    if without > 0 {
        let name = format!("no {}", groups.title.to_lowercase());
        entries.push(Entry { color: Some(NO_GROUP), name, count: without });
    }
    entries
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= LETTERS {
        return name.to_owned();
    }
    let kept: String = name.chars().take(LETTERS - 1).collect();
    format!("{kept}…")
}

/// Points as discs on white, `side` pixels wide and high, RGB. They are drawn in an order that has nothing to do with classes
/// or files, so that none always lies on top.
fn drawn(points: &[super::Point], groups: &Groups, side: usize) -> Vec<u8> {
    let mut low = [f32::INFINITY; 2];
    let mut high = [f32::NEG_INFINITY; 2];
    for point in points {
        for axis in 0..2 {
            low[axis] = low[axis].min(point[axis]);
            high[axis] = high[axis].max(point[axis]);
        }
    }
    let extent = (high[0] - low[0]).max(high[1] - low[1]).max(f32::MIN_POSITIVE);
    let radius = (0.32 * side as f32 / (points.len() as f32).sqrt()).clamp(2.2, 9.0);
    let room = side as f32 - 4.0 * radius;
    let at = |value: f32, axis: usize| {
        (value - f32::midpoint(low[axis], high[axis])) / extent * room + side as f32 / 2.0
    };
    let mut pixels = vec![255u8; 3 * side * side];
    for point in scattered(points.len()) {
        let color = groups.of[point].map_or(NO_GROUP, |group| groups.colors[group]);
        let [x, y] = [at(points[point][0], 0), side as f32 - at(points[point][1], 1)];
        let span = |centre: f32| {
            let first = (centre - radius - 1.0).floor().max(0.0) as usize;
            first..((centre + radius + 1.0).ceil().max(0.0) as usize).min(side)
        };
        for row in span(y) {
            for column in span(x) {
                let apart = (column as f32 + 0.5 - x).hypot(row as f32 + 0.5 - y);
                let cover = (radius + 0.5 - apart).clamp(0.0, 1.0);
                for (channel, ink) in color.into_iter().enumerate() {
                    let pixel = &mut pixels[3 * (row * side + column) + channel];
                    let mixed = f32::from(*pixel) * (1.0 - cover) + f32::from(ink) * cover;
                    *pixel = mixed.round() as u8;
                }
            }
        }
    }
    pixels
}

/// All numbers below `count`, by steps of about the golden section.
fn scattered(count: usize) -> impl Iterator<Item = usize> {
    let common = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let mut step = ((count as f64 * 0.618_033_988_75) as usize).max(1);
    while common(step, count) != 1 {
        step += 1;
    }
    (0..count).map(move |at| (at as u64 * step as u64 % count as u64) as usize)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::Algorithm;
    use super::super::quality::Quality;
    use super::*;
    use crate::random::{Purpose, Scope, Stream};
    use std::collections::BTreeSet;

    fn groups(of: Vec<Option<usize>>, names: usize) -> Groups {
        Groups {
            title: "Class",
            names: (0..names).map(|at| format!("class <{at}>")).collect(),
            colors: Palette::Accessible.colors(names),
            of,
        }
    }

    /// The stored picture is what this draws; after a change that is meant, look at the new one and store it with
    /// `DIPTYCH_BLESS=1`.
    #[test]
    fn points_look_as_in_the_stored_picture() {
        let mut stream = Stream::open(4, Purpose::Test, Scope::Item(0));
        let points: Vec<super::super::Point> = (0..400)
            .map(|at| {
                let turn = f64::from(at % 4) * std::f64::consts::FRAC_PI_2;
                [turn.cos(), turn.sin()].map(|centre| (3.0 * centre + stream.normal()) as f32)
            })
            .collect();
        let of = (0..400).map(|at| (at % 4 < 3).then_some(at % 4)).collect();
        let pixels = drawn(&points, &groups(of, 3), 160);
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/map.png");
        if std::env::var_os("DIPTYCH_BLESS").is_some() {
            image::save_buffer(file, &pixels, 160, 160, image::ColorType::Rgb8).unwrap();
        }
        let stored = image::open(file).unwrap().to_rgb8().into_raw();
        assert_eq!(stored.len(), pixels.len());
        let apart = stored.iter().zip(&pixels).map(|(a, b)| f64::from(a.abs_diff(*b)));
        let mean = apart.sum::<f64>() / stored.len() as f64;
        assert!(mean < 0.2, "pictures differ by {mean} of 255 in the mean");
    }

    #[test]
    fn the_figure_with_its_legend_looks_as_the_stored_one() {
        let points = (0..120).map(|at| {
            let turn = f64::from(at) * 0.4;
            [turn.cos() * f64::from(at % 3 + 1), turn.sin()].map(|value| value as f32)
        });
        let quality = Quality {
            trustworthiness: 0.9,
            continuity: 0.8,
            knn_map: Some(0.75),
            knn_features: Some(0.875),
            images: 120,
        };
        let layout = Layout {
            id: "tsne".to_owned(),
            title: "t-SNE of h".to_owned(),
            layer: "h".to_owned(),
            algorithm: Algorithm::Tsne,
            points: points.collect(),
            kl: Some(1.25),
            trace: Vec::new(),
            explained: None,
            quality,
        };
        let of = (0..120).map(|at| (at % 7 > 0).then_some(at % 3)).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.png");
        let svg = svg(&layout, &groups(of, 3), "120 points").unwrap();
        std::fs::write(&path, svg_to_png(&svg, 0.6).unwrap()).unwrap();
        crate::analyze::plot::tests::alike(&path, "map-figure.png");
    }

    #[test]
    fn a_point_lies_where_its_coordinates_say_and_the_second_axis_goes_up() {
        let points = [[0.0, 0.0], [10.0, 0.0], [0.0, 5.0]];
        let pixels = drawn(&points, &groups(vec![Some(0), Some(1), Some(2)], 3), 200);
        let colors = Palette::Accessible.colors(3);
        let centre = |color: Color| {
            let own = pixels.as_chunks::<3>().0.iter().enumerate().filter(|(_, it)| **it == color);
            let (mut x, mut y, mut count) = (0.0, 0.0, 0.0);
            for (at, _) in own {
                x += (at % 200) as f64 + 0.5;
                y += (at / 200) as f64 + 0.5;
                count += 1.0;
            }
            [x / count, y / count]
        };
        let [origin, right, above] = [0, 1, 2].map(|at: usize| centre(colors[at]));
        assert!((origin[1] - right[1]).abs() < 0.6 && (origin[0] - above[0]).abs() < 0.6);
        assert!((2.0 * (origin[1] - above[1]) - (right[0] - origin[0])).abs() < 1.5);
        assert!(right[0] > 150.0 && above[1] < 100.0, "{origin:?} {right:?} {above:?}");
    }

    #[test]
    fn a_legend_names_the_largest_groups_and_counts_all() {
        let of: Vec<Option<usize>> =
            (0..50).flat_map(|group| vec![Some(group); group + 1]).chain([None; 7]).collect();
        let count = of.len();
        let entries = legend(&groups(of, 50));
        assert_eq!(entries.len(), NAMED + 1);
        assert_eq!(entries[0].count, 50);
        assert_eq!(entries[NAMED - 1].name, "21 others");
        assert_eq!(entries[NAMED].name, "no class");
        assert_eq!(entries.iter().map(|entry| entry.count).sum::<usize>(), count);
        assert_eq!(shortened("a name of more than twenty letters"), "a name of more than t…");
    }

    #[test]
    fn every_number_comes_once_in_a_scattered_order() {
        for count in [1, 2, 3, 10, 997, 1_000] {
            let order: Vec<usize> = scattered(count).collect();
            assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), count);
            assert!(order.iter().all(|at| *at < count));
        }
    }
}
