//! The sheet as a figure.

use super::{Hit, Sheet};
use crate::analyze::figure::{Cell, Figure, Row, svg_to_png, write};
use crate::analyze::palette::{Color, hex};
use crate::analyze::{Form, Output};
use crate::augment::shrunk;
use crate::data::Dataset;
use crate::error::Result;
use crate::files::replace_text;
use std::path::Path;

/// Frame of a neighbour of the query's class.
const RIGHT: Color = [31, 122, 77];
/// Frame of another; it is dashed, so that it can be told without its colour.
const WRONG: Color = [200, 50, 47];
/// Side of a picture's place.
const CELL: u32 = 96;

/// The sheet as a grid of pictures: each query, and behind it a row of neighbours of each network.
///
/// # Errors
/// [`crate::error::Error::Data`] if a picture has become unreadable since.
pub fn figure(
    sheet: &Sheet,
    title: &str,
    queries: &dyn Dataset,
    references: &dyn Dataset,
) -> Result<Figure> {
    // Twice as many pixels as units are drawn.
    let small = |image| shrunk(&image, 2 * CELL as usize);
    let mut rows = Vec::new();
    for (at, asked) in sheet.queries.iter().enumerate() {
        for (place, model) in sheet.models.iter().enumerate() {
            let name = asked.class.clone().unwrap_or_else(|| last_part(&asked.path).to_owned());
            let query = if place == 0 {
                let description = format!("query {}, {name}", at + 1);
                let image = small(queries.image(asked.index)?);
                Some(Cell { image, caption: name, description, outline: None })
            } else {
                None
            };
            let mut cells = vec![query];
            for (rank, hit) in model.found[at].iter().enumerate() {
                let image = small(references.image(hit.index)?);
                let description = format!("neighbour {}, {}", rank + 1, told(hit));
                let outline = hit.agrees.map(|agrees| if agrees { RIGHT } else { WRONG });
                cells.push(Some(Cell { image, caption: caption(hit), description, outline }));
            }
            rows.push(Row { label: model.name.clone(), cells });
        }
    }
    let others = if sheet.same { "other images" } else { "references" };
    let columns = std::iter::once("Query".to_owned());
    let columns = columns.chain((1..=sheet.k).map(|rank| rank.to_string()));
    let legend = if sheet.judges() {
        vec![
            (RIGHT, "class of the query".to_owned()),
            (WRONG, "another class (dashed frame)".to_owned()),
        ]
    } else {
        Vec::new()
    };
    let note = format!(
        "Below each picture the cosine similarity of its features and the query's; the {} nearest of all {others}.{}",
        sheet.k,
        precisions(sheet)
    );
    Ok(Figure {
        title: title.to_owned(),
        description: format!(
            "{} queries, each with the {} nearest {others} by {}.",
            sheet.queries.len(),
            sheet.k,
            sheet.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ")
        ),
        columns: columns.collect(),
        rows,
        legend,
        note,
        cell: CELL,
    })
}

/// Writes `neighbours.svg` and `neighbours.png` and tells what they are.
///
/// # Errors
/// Those of [`Figure::svg`] and [`svg_to_png`]; [`crate::error::Error::Io`].
pub fn save(figure: &Figure, folder: &Path) -> Result<Vec<Output>> {
    let wrong = format!("stroke=\"{}\"", hex(WRONG));
    let svg = figure.svg()?.replace(&wrong, &format!("{wrong} stroke-dasharray=\"9 6\""));
    let png = svg_to_png(&svg, 2.0)?;
    replace_text(&folder.join("neighbours.svg"), &svg)?;
    write(&folder.join("neighbours.png"), &png)?;
    let output = |file: &str| Output {
        file: file.to_owned(),
        form: Form::Picture,
        title: figure.title.clone(),
        description: figure.description.clone(),
    };
    Ok(vec![output("neighbours.svg"), output("neighbours.png")])
}

fn told(hit: &Hit) -> String {
    let name = hit.class.as_deref().unwrap_or(&hit.path);
    let judged = match hit.agrees {
        Some(true) => ", of the query's class",
        Some(false) => ", not of the query's class",
        None => "",
    };
    format!("{name}, cosine {:.3}{judged}", hit.similarity)
}

fn caption(hit: &Hit) -> String {
    let name = hit.class.as_deref().unwrap_or_else(|| last_part(&hit.path));
    format!("{name} {:.2}", hit.similarity).replace('-', "\u{2212}")
}

fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Precision of each network, in a sentence.
fn precisions(sheet: &Sheet) -> String {
    let of = |model: &super::Looked| {
        let measure = model.precision.as_ref()?;
        let percent = |share: f64| format!("{:.1}", 100.0 * share);
        let [low, high] = measure.interval_95?.map(percent);
        let (name, value) = (&model.name, percent(measure.value));
        Some(format!("{name} {value} % ({low} to {high})"))
    };
    let all: Option<Vec<String>> = sheet.models.iter().map(of).collect();
    let queries = sheet.models.first().map_or(0, |model| model.queries);
    all.filter(|all| !all.is_empty()).map_or(String::new(), |all| {
        format!(
            " Share of the query's class among them, over {queries} queries, with its 95 % interval: {}.",
            all.join(", ")
        )
    })
}
