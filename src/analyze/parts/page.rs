//! A page to flick through every map. It holds pictures and labels, and paints as [`super::paint`] does, so that all
//! combinations take little more room than the pictures.

use super::figures::{Album, name_of};
use super::found::{Map, Scope};
use super::maps::Picture;
use super::paint::WEIGHT;
use super::{Mode, algorithm_name, algorithm_title};
use crate::analyze::figure::{base64, data_uri, png};
use crate::error::{Error, Result};
use askama::Template;
use serde_json::{Value, json};

#[derive(Template)]
#[template(path = "parts.html")]
struct Page<'a> {
    css: &'static str,
    js: &'static str,
    name: &'a str,
    /// What the page is of, in a sentence.
    facts: String,
    images: Vec<Choice>,
    /// What else there is to choose: title, name of the control, choices.
    groups: Vec<(&'static str, &'static str, Vec<Choice>)>,
    side: usize,
    data: String,
}

/// Something to choose.
struct Choice {
    value: String,
    label: String,
    /// A picture to choose by.
    uri: Option<String>,
}

impl Choice {
    fn new(value: &impl ToString, label: &impl ToString) -> Self {
        Self { value: value.to_string(), label: label.to_string(), uri: None }
    }
}

pub(super) fn page(album: &Album) -> Result<String> {
    let uris: Vec<String> = (album.pictures.iter())
        .map(|picture| Ok(data_uri(&png(&picture.shown)?)))
        .collect::<Result<_>>()?;
    let settings = album.settings;
    let facts = format!(
        "{} image{}, clusters {}.",
        album.pictures.len(),
        if album.pictures.len() == 1 { "" } else { "s" },
        if settings.together { "shared by all of them" } else { "of each image alone" }
    );
    let images = album.pictures.iter().enumerate().map(|(at, picture)| {
        let uri = thumbnail(picture).ok();
        Choice { uri, ..Choice::new(&at, &name_of(picture)) }
    });
    let networks = album.found.layers().iter().any(|(_, block)| block.is_some());
    let blocks = settings.blocks.iter().filter(|_| networks);
    let models = album.found.subjects.iter().enumerate();
    let algorithms = settings.algorithms.iter();
    let algorithms = algorithms.map(|it| Choice::new(&algorithm_name(*it), &algorithm_title(*it)));
    let groups = vec![
        ("Model", "model", models.map(|(at, name)| Choice::new(&at, name)).collect()),
        ("Block group", "block", blocks.map(|block| Choice::new(block, block)).collect()),
        ("Algorithm", "algorithm", algorithms.collect()),
        ("Clusters", "k", settings.clusters.iter().map(|k| Choice::new(k, k)).collect()),
    ];
    let page = Page {
        css: concat!(include_str!("../../../templates/page.css"), include_str!("parts.css")),
        js: concat!(include_str!("../../../templates/page.js"), include_str!("parts.js")),
        name: "Parts of objects",
        facts,
        images: images.collect(),
        groups: groups
            .into_iter()
            .filter(|(.., choices): &(_, _, Vec<Choice>)| !choices.is_empty())
            .collect(),
        side: settings.picture,
        data: data(album, &uris).replace('<', "\\u003c"),
    };
    page.render().map_err(|error| Error::Run(format!("the page could not be made: {error}")))
}

/// A small copy to choose by.
fn thumbnail(picture: &Picture) -> Result<String> {
    let size = (64, 64);
    Ok(data_uri(&png(&super::paint::area(&picture.shown, size))?))
}

/// What the script reads.
fn data(album: &Album, uris: &[String]) -> String {
    let images = album.pictures.iter().zip(uris);
    let images = images.map(|(picture, uri)| json!({ "name": name_of(picture), "uri": uri }));
    let entries = album.settings.palette.entries();
    json!({
        "side": album.settings.picture,
        "swapped": album.settings.mode == Mode::AsPublished,
        "weight": WEIGHT,
        "enlarge": album.settings.enlarge,
        "together": album.settings.together,
        "colors": entries.map(|(name, color)| json!({ "name": name, "rgb": color })),
        "images": images.collect::<Vec<_>>(),
        "models": album.found.subjects,
        "maps": album.found.maps.iter().map(map).collect::<Vec<_>>(),
    })
    .to_string()
}

fn map(map: &Map) -> Value {
    let scope = match map.scope {
        Scope::Image(image) => Some(image),
        Scope::All => None,
    };
    json!({
        "model": map.subject,
        "block": map.block,
        "algorithm": algorithm_name(map.algorithm),
        "k": map.k,
        "scope": scope,
        "width": map.width,
        "height": map.height,
        "labels": base64(&map.labels),
        "silhouette": map.silhouette,
        "stability": map.stability.map(|it| it.mean_ari),
        "inertia": map.cluster_inertia.iter().sum::<f64>(),
        "spread": map.spread,
        "purity": map.truth.map(|it| it.purity),
        "iou": map.truth.map(|it| it.iou),
        "shares": map.image_shares,
    })
}
