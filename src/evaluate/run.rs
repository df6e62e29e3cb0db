//! From a model and a data source to features and pictures: what every protocol shares.

use super::features::{Description, Features, extract, pixels, stored};
use super::neighbours::Example;
use super::weights::{Layer, Weights};
use crate::augment::{Cell, Gallery, Mark, Preprocess, Scratch};
use crate::data::{Dataset, Image, Selection, Source};
use crate::error::Result;
use std::path::Path;
use std::sync::Arc;

/// A split of a source, cut as an evaluation asks for.
#[derive(Clone)]
pub struct Part<'a> {
    /// Its images.
    pub dataset: Arc<dyn Dataset>,
    /// `references` or `queries`.
    pub role: &'static str,
    /// Where they come from.
    pub source: &'a Source,
    /// How the source was cut.
    pub selection: Selection,
}

/// References and queries of an evaluation.
///
/// # Errors
/// Those of [`Source::for_evaluation`].
pub fn parts<'a>(source: &'a Source, selection: &Selection) -> Result<[Part<'a>; 2]> {
    let (references, queries) = source.for_evaluation(selection)?;
    Ok([("references", references), ("queries", queries)].map(|(role, dataset)| Part {
        dataset,
        role,
        source,
        selection: *selection,
    }))
}

/// Features of a part, from the folder of stored ones if they are there (written there if not).
///
/// # Errors
/// Those of [`extract`]; a folder that cannot be written is one too.
pub fn features(
    weights: &Weights,
    preprocess: &Preprocess,
    layer: Layer,
    part: &Part<'_>,
    folder: Option<&Path>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Features> {
    let description = describe(weights, preprocess, layer, part);
    if let Some(found) = folder.and_then(|folder| stored(folder, &description)) {
        return Ok(found);
    }
    let side = preprocess.size_px();
    let mut forward = |pixels: &[u8], n: usize| weights.features(pixels, n, preprocess, layer);
    let dataset = part.dataset.as_ref();
    let features =
        extract(&mut forward, dataset, (side, side), &prepare(preprocess), batch(side), progress)?;
    if let Some(folder) = folder {
        features.store(folder, &description)?;
    }
    Ok(features)
}

/// The prepared pixels themselves as features: a baseline that has learned nothing.
///
/// # Errors
/// Those of [`extract`].
pub fn pixel_features(preprocess: &Preprocess, part: &Part<'_>) -> Result<Features> {
    let side = preprocess.size_px();
    let dataset = part.dataset.as_ref();
    pixels(dataset, (side, side), &prepare(preprocess), batch(side), &mut |_, _| ())
}

/// What [`extract`] calls for each image.
pub fn prepare(preprocess: &Preprocess) -> impl Fn(&Image, &mut [u8]) + Sync {
    |image, out| {
        thread_local!(static SCRATCH: std::cell::RefCell<Scratch> = std::cell::RefCell::default());
        SCRATCH.with_borrow_mut(|scratch| preprocess.apply(image, scratch, out));
    }
}

/// Images in a forward pass: about as many pixels whatever their size.
pub fn batch(side: usize) -> usize {
    ((1 << 19) / (side * side)).clamp(4, 512)
}

/// What stored features belong to.
pub fn describe(
    weights: &Weights,
    preprocess: &Preprocess,
    layer: Layer,
    part: &Part<'_>,
) -> Description {
    let Selection { limit, holdout, label_fraction, seed } = part.selection;
    let cut = match (limit, holdout) {
        (None, 0.0) => String::new(),
        (None, holdout) => format!(", holdout {holdout} by seed {seed}"),
        (Some(limit), holdout) => format!(", limit {limit}, holdout {holdout} by seed {seed}"),
    };
    // The queries are the same whatever was learned from.
    let labels = label_fraction.filter(|_| part.role == "references");
    let labels = labels.map_or(String::new(), |share| format!(", labels {share} by seed {seed}"));
    let side = preprocess.size_px();
    Description {
        classes: part.source.classes.clone(),
        diptych: env!("CARGO_PKG_VERSION").to_owned(),
        fingerprint: part.source.fingerprint.clone(),
        format: part.source.format.clone(),
        height: side,
        images: part.dataset.len(),
        interpolation: format!("{:?}", preprocess.interpolation).to_lowercase(),
        layer: layer.name(),
        mean: preprocess.mean,
        precision: "float32".to_owned(),
        preprocess: preprocess.id.clone(),
        split: format!("{}{cut}{labels}", part.role),
        std: preprocess.std,
        weights: weights.hash_of(layer),
        width: side,
    }
}

/// Draws what [`super::neighbours::gallery`] found: a query, then its nearest references; `same` as there.
///
/// # Errors
/// [`crate::error::Error::Data`] if an image has become unreadable since.
pub fn neighbours_gallery(
    examples: &[Example],
    queries: &dyn Dataset,
    references: &dyn Dataset,
    classes: &[String],
    same: bool,
) -> Result<Gallery> {
    let name = |label: Option<u32>| {
        let label = label.map(|label| label as usize);
        label.map(|label| classes.get(label).cloned().unwrap_or_else(|| label.to_string()))
    };
    let mut rows = Vec::with_capacity(examples.len());
    for example in examples {
        let caption = name(example.label).unwrap_or_else(|| queries.path(example.query));
        let mut row = vec![Cell { image: queries.image(example.query)?, caption, mark: None }];
        for found in &example.neighbours {
            let similarity = format!("{:.2}", found.similarity);
            let caption = match name(found.label) {
                Some(name) => format!("{name} {similarity}"),
                None => similarity,
            };
            let mark = found.agrees.map(|agrees| if agrees { Mark::Agrees } else { Mark::Differs });
            row.push(Cell { image: references.image(found.index)?, caption, mark });
        }
        rows.push(row);
    }
    let (asked, found) =
        if same { ("an image", "other images") } else { ("a query", "references") };
    let marks = if rows.iter().flatten().any(|cell| cell.mark.is_some()) {
        "; green where the class agrees, red where it does not"
    } else {
        ""
    };
    let caption = format!(
        "First column: {asked}. Behind it the {found} whose features are most like its own (cosine similarity){marks}."
    );
    Ok(Gallery { title: "Nearest neighbours".to_owned(), caption, rows })
}
