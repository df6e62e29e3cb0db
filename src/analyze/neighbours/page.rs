//! The sheet as one HTML file with its pictures inside.

use super::{Asked, Hit, Sheet};
use crate::analyze::figure::{data_uri, png};
use crate::augment::shrunk;
use crate::data::{Dataset, Image};
use crate::error::{Error, Result};
use askama::Template;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Longer side of a picture in the page, in its own pixels.
const LARGEST: usize = 192;
/// Longer side of a picture as it is shown, in CSS pixels.
const SHOWN: usize = 92;

#[derive(Template)]
#[template(path = "neighbours.html")]
struct Page<'a> {
    css: &'static str,
    js: &'static str,
    name: &'a str,
    facts: &'a [(String, String)],
    judges: bool,
    k: usize,
    same: bool,
    models: Vec<Model<'a>>,
    cards: Vec<Card<'a>>,
}

/// A network in the table above.
struct Model<'a> {
    name: &'a str,
    precision: Option<String>,
    interval: Option<String>,
    queries: usize,
    shown: Option<String>,
}

/// A query.
struct Card<'a> {
    number: usize,
    asked: &'a Asked,
    picture: Picture,
    lines: Vec<Line<'a>>,
    /// Right neighbours by model, for sorting; empty where nothing is right or wrong.
    right: String,
}

/// What a network finds for a query.
struct Line<'a> {
    model: &'a str,
    /// `5 of 8 of its class`.
    right: Option<String>,
    tiles: Vec<Tile<'a>>,
}

/// A reference found.
struct Tile<'a> {
    hit: &'a Hit,
    rank: usize,
    cosine: String,
    picture: Picture,
    /// Ranks among what the other networks find: `byol 3`.
    also: String,
}

/// A picture and how large it is shown.
#[derive(Clone)]
struct Picture {
    uri: String,
    width: usize,
    height: usize,
    enlarged: bool,
}

/// The page of a sheet. `facts` are told above it: label and text.
///
/// # Errors
/// [`Error::Data`] if a picture has become unreadable since.
pub fn page(
    sheet: &Sheet,
    title: &str,
    facts: &[(String, String)],
    queries: &dyn Dataset,
    references: &dyn Dataset,
) -> Result<String> {
    // A reference may be found many times.
    let mut pictures: BTreeMap<usize, Picture> = BTreeMap::new();
    for hit in sheet.models.iter().flat_map(|model| model.found.iter().flatten()) {
        if let Entry::Vacant(place) = pictures.entry(hit.index) {
            place.insert(picture(&references.image(hit.index)?)?);
        }
    }
    let mut cards = Vec::with_capacity(sheet.queries.len());
    for (at, asked) in sheet.queries.iter().enumerate() {
        let lines: Vec<Line> = sheet
            .models
            .iter()
            .enumerate()
            .map(|(place, model)| {
                let hits = &model.found[at];
                let tiles = hits.iter().enumerate().map(|(rank, hit)| Tile {
                    hit,
                    rank: rank + 1,
                    cosine: format!("{:.3}", hit.similarity).replace('-', "\u{2212}"),
                    picture: pictures[&hit.index].clone(),
                    also: also(sheet, place, at, hit.index),
                });
                let right =
                    judged(hits).map(|(right, all)| format!("{right} of {all} of its class"));
                Line { model: &model.name, right, tiles: tiles.collect() }
            })
            .collect();
        let right = sheet.models.iter().map(|model| judged(&model.found[at]).map(|it| it.0));
        let right: Option<Vec<usize>> = right.collect();
        let right = right.unwrap_or_default().iter().map(usize::to_string).collect::<Vec<_>>();
        let picture = picture(&queries.image(asked.index)?)?;
        cards.push(Card { number: at + 1, asked, picture, lines, right: right.join(" ") });
    }
    let percent = |share: f64| format!("{:.1}\u{202f}%", 100.0 * share);
    let models = sheet.models.iter().map(|model| Model {
        name: &model.name,
        precision: model.precision.as_ref().map(|measure| percent(measure.value)),
        interval: model
            .precision
            .as_ref()
            .and_then(|measure| measure.interval_95)
            .map(|[low, high]| format!("{} to {}", percent(low), percent(high))),
        queries: model.queries,
        shown: model.shown_precision.map(percent),
    });
    let page = Page {
        css: concat!(include_str!("../../../templates/page.css"), include_str!("page.css")),
        js: include_str!("page.js"),
        name: title,
        facts,
        judges: sheet.judges(),
        k: sheet.k,
        same: sheet.same,
        models: models.collect(),
        cards,
    };
    page.render().map_err(|error| Error::Run(format!("the page could not be made: {error}")))
}

/// How many of some neighbours are of the query's class, and how many are judged.
fn judged(hits: &[Hit]) -> Option<(usize, usize)> {
    let judged: Vec<bool> = hits.iter().filter_map(|hit| hit.agrees).collect();
    let right = judged.iter().filter(|agrees| **agrees).count();
    (!judged.is_empty()).then_some((right, judged.len()))
}

/// Where the other networks have a reference among the neighbours of a query.
fn also(sheet: &Sheet, place: usize, query: usize, index: usize) -> String {
    let others = sheet.models.iter().enumerate().filter(|(other, _)| *other != place);
    let found = others.filter_map(|(_, model)| {
        let rank = model.found[query].iter().position(|hit| hit.index == index)?;
        Some(format!("{} {}", model.name, rank + 1))
    });
    found.collect::<Vec<_>>().join(", ")
}

fn picture(image: &Image) -> Result<Picture> {
    let small = shrunk(image, LARGEST);
    let longer = small.width.max(small.height).max(1);
    let shown = |side: usize| (side * SHOWN / longer).max(1);
    Ok(Picture {
        uri: data_uri(&png(&small)?),
        width: shown(small.width),
        height: shown(small.height),
        enlarged: longer < SHOWN,
    })
}
