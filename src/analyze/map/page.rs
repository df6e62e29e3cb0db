//! The page: one file that holds everything it shows, to move about in without a network.

use super::colors::Palette;
use super::sheets::Sheets;
use super::{Images, Maps, grouped};
use crate::analyze::figure::base64;
use crate::analyze::palette::hex;
use crate::analyze::{Form, Output};
use crate::error::{Error, Result};
use crate::files::replace_text;
use askama::Template;
use serde_json::{Value, json};
use std::path::Path;

#[derive(Template)]
#[template(path = "map.html")]
struct Page<'a> {
    css: &'static str,
    js: &'static str,
    name: &'a str,
    facts: &'a [(String, String)],
    count: String,
    about: String,
    paths: String,
    arrays: Vec<(String, String)>,
    sheets: Vec<String>,
}

/// The group of an image that has none.
const NONE: u16 = u16::MAX;

/// Most rows whose numbers fit into 16 bits.
const NARROW: usize = 1 << 16;

/// Groups by which points can be coloured.
struct Coloring {
    name: &'static str,
    groups: Vec<String>,
    of: Vec<u16>,
    /// Whether a search looks at the names.
    searched: bool,
}

/// Writes `map.html`.
pub(super) fn write(
    folder: &Path,
    maps: &Maps,
    images: &Images<'_>,
    palette: Palette,
    sheets: &Sheets,
    facts: &[(String, String)],
) -> Result<Output> {
    let title = "Map of images";
    let text = page(title, maps, images, palette, sheets, facts)?;
    let file = "map.html";
    replace_text(&folder.join(file), &text)?;
    let count = grouped(images.len());
    let names: Vec<&str> = maps.layouts.iter().map(|layout| layout.title.as_str()).collect();
    Ok(Output {
        file: file.to_owned(),
        form: Form::Page,
        title: format!("{title}: {}", names.join(", ")),
        description: format!(
            "{count} images as points to move about in, search by class, path or image"
        ),
    })
}

fn page(
    title: &str,
    maps: &Maps,
    images: &Images<'_>,
    palette: Palette,
    sheets: &Sheets,
    facts: &[(String, String)],
) -> Result<String> {
    let colorings = colorings(maps, images)?;
    let mut arrays = Vec::new();
    for (at, layout) in maps.layouts.iter().enumerate() {
        let values = layout.points.as_flattened().iter().flat_map(|value| value.to_le_bytes());
        arrays.push((format!("places-{at}"), base64(&values.collect::<Vec<u8>>())));
    }
    for (at, coloring) in colorings.iter().enumerate() {
        let bytes: Vec<u8> = coloring.of.iter().flat_map(|group| group.to_le_bytes()).collect();
        arrays.push((format!("groups-{at}"), base64(&bytes)));
    }
    let wide = images.len() > NARROW;
    if let Some(near) = &maps.neighbours {
        let rows = (0..images.len()).flat_map(|row| near.of(row).0).map(|row| *row as u32);
        arrays.push(("near".to_owned(), rows_base64(rows, wide)));
    }
    arrays.push(("slots".to_owned(), rows_base64(sheets.slots.iter().copied(), wide)));
    let page = Page {
        css: include_str!("page/map.css"),
        js: concat!(
            "(() => {\n",
            include_str!("page/data.js"),
            include_str!("page/pictures.js"),
            include_str!("page/view.js"),
            include_str!("page/panel.js"),
            include_str!("page/main.js"),
            "})();\n"
        ),
        name: title,
        facts,
        count: grouped(images.len()),
        about: in_script(&about(maps, images, palette, sheets, &colorings, wide)),
        paths: in_script(&json!(front_coded(&images.paths))),
        arrays,
        sheets: sheets.files.iter().map(|file| base64(file)).collect(),
    };
    page.render().map_err(|error| Error::Run(format!("the page of a map cannot be made: {error}")))
}

fn about(
    maps: &Maps,
    images: &Images<'_>,
    palette: Palette,
    sheets: &Sheets,
    colorings: &[Coloring],
    wide: bool,
) -> Value {
    // The page opens in the colours that were asked for.
    let mut palettes = Palette::ALL;
    palettes.sort_by_key(|known| *known != palette);
    let layer = &maps.layouts[0].layer;
    json!({
        "count": images.len(),
        "wide_rows": wide,
        "maps": maps.layouts.iter().map(|layout| json!({
            "id": layout.id, "name": layout.title, "numbers": layout.numbers(),
        })).collect::<Vec<_>>(),
        "palettes": palettes.map(Palette::title),
        "colourings": colorings.iter().map(|coloring| json!({
            "name": coloring.name,
            "groups": coloring.groups,
            "searched": coloring.searched,
            "colors": palettes.map(|palette| {
                palette.colors(coloring.groups.len()).into_iter().map(hex).collect::<Vec<_>>()
            }),
        })).collect::<Vec<_>>(),
        "neighbours": maps.neighbours.as_ref().map(|near| json!({
            "k": near.k, "by": format!("By cosine similarity of {layer}, the nearest first."),
        })),
        "pictures": {
            "side": sheets.side, "columns": sheets.columns,
            "per_sheet": sheets.columns * sheets.columns, "sheets": sheets.files.len(),
        },
    })
}

/// By class where there are classes, by cluster, and by split where there are several.
fn colorings(maps: &Maps, images: &Images<'_>) -> Result<Vec<Coloring>> {
    let classes = images.class_count();
    if classes >= usize::from(NONE) {
        return Err(Error::Data(format!(
            "a page knows fewer than {NONE} classes, found {classes}; take some with data.classes"
        )));
    }
    let mut colorings = Vec::new();
    if classes > 0 {
        let of = |label: &i64| u16::try_from(*label).unwrap_or(NONE);
        colorings.push(Coloring {
            name: "Class",
            groups: (0..classes as i64).filter_map(|label| images.class(label)).collect(),
            of: images.labels.iter().map(of).collect(),
            searched: true,
        });
    }
    let clusters = maps.clusters.iter().max().map_or(0, |most| *most as usize + 1);
    colorings.push(Coloring {
        name: "Cluster",
        groups: (0..clusters).map(|cluster| cluster_name(cluster, maps, images)).collect(),
        of: maps.clusters.iter().map(|cluster| *cluster as u16).collect(),
        searched: false,
    });
    if images.parts.len() > 1 {
        colorings.push(Coloring {
            name: "Split",
            groups: images.parts.iter().map(|(name, _)| name.clone()).collect(),
            of: images.places.iter().map(|(part, _)| *part as u16).collect(),
            searched: false,
        });
    }
    Ok(colorings)
}

/// Number of a cluster, and the class most frequent in it.
fn cluster_name(cluster: usize, maps: &Maps, images: &Images<'_>) -> String {
    let mut counts = vec![0usize; images.class_count()];
    let mut all = 0;
    for (own, label) in maps.clusters.iter().zip(&images.labels) {
        if *own as usize == cluster {
            all += 1;
            if let Some(count) = usize::try_from(*label).ok().and_then(|at| counts.get_mut(at)) {
                *count += 1;
            }
        }
    }
    let most = (0..counts.len()).rev().max_by_key(|label| counts[*label]);
    let most = most.filter(|label| counts[*label] > 0);
    match most.and_then(|label| Some((images.class(label as i64)?, counts[label]))) {
        Some((name, count)) => {
            format!("{}: {name} {:.0} %", cluster + 1, 100.0 * count as f64 / all as f64)
        }
        None => (cluster + 1).to_string(),
    }
}

fn rows_base64(rows: impl Iterator<Item = u32>, wide: bool) -> String {
    let bytes: Vec<u8> = if wide {
        rows.flat_map(u32::to_le_bytes).collect()
    } else {
        rows.flat_map(|row| (row as u16).to_le_bytes()).collect()
    };
    base64(&bytes)
}

/// Each text as the length of what it shares with the one before it, in UTF-16 units, a bar, and the rest.
fn front_coded(texts: &[String]) -> Vec<String> {
    let mut last = "";
    texts
        .iter()
        .map(|text| {
            let shared: usize = text
                .char_indices()
                .zip(last.chars())
                .take_while(|((_, a), b)| a == b)
                .map(|((_, a), _)| a.len_utf8())
                .sum();
            last = text;
            let units = text[..shared].encode_utf16().count();
            format!("{units}|{}", &text[shared..])
        })
        .collect()
}

/// JSON that no reader of HTML takes for the end of its script.
fn in_script(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c")
}
