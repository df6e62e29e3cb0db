//! Every map of an analysis, in an order that keeps colours, and its numbers.

use super::earlier::Earlier;
use super::maps::{self, Maps, Picture, Subject, check_memory};
use super::masks::UNJUDGED;
use super::numbers::{self, Agreement, Sample, Stability, Truth};
use super::order::{Order, by_first_pixel, by_size, matched};
use super::{Settings, algorithm_name, paint};
use crate::cluster::{Algorithm, cluster_each};
use crate::error::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use tch::Tensor;

/// Which images a clustering is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// One, by its place among the pictures.
    Image(usize),
    /// All of them at once.
    All,
}

/// One clustering of one layer.
#[derive(Clone, Debug, Serialize)]
pub struct Map {
    /// Place of the model.
    pub subject: usize,
    /// Block group; none are raw pixels.
    pub block: Option<u8>,
    /// How it was made.
    pub algorithm: Algorithm,
    /// Number of clusters.
    pub k: usize,
    /// Of which images.
    pub scope: Scope,
    /// Columns of the map.
    pub width: usize,
    /// Rows of the map.
    pub height: usize,
    /// Cluster of each pixel, `[images, height, width]`.
    #[serde(skip)]
    pub labels: Vec<u8>,
    /// Pixels of each cluster.
    pub sizes: Vec<u64>,
    /// What the algorithm makes small.
    pub inertia: f64,
    /// Squared distances to the mean of each cluster, summed; the same measure for all algorithms.
    pub cluster_inertia: Vec<f64>,
    /// Squared distances to the mean of all pixels, summed: the inertia of a single cluster.
    pub spread: f64,
    /// Mean silhouette on a sample of up to 512 pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silhouette: Option<f64>,
    /// How far the clusters stay under other seeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stability: Option<Stability>,
    /// How well the clusters are the parts of the ground truth, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truth: Option<Truth>,
    /// Share of the images in which each cluster occurs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_shares: Vec<f64>,
}

impl Map {
    /// The labels of one picture, `[height, width]`; none if the map is of another one.
    pub fn of_picture(&self, picture: usize) -> Option<&[u8]> {
        let pixels = self.width * self.height;
        let at = match self.scope {
            Scope::All => picture,
            Scope::Image(own) if own == picture => 0,
            Scope::Image(_) => return None,
        };
        self.labels.chunks(pixels).nth(at)
    }
}

/// Agreement of two maps that differ in one thing.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// What differs: `algorithms` or `models`.
    pub between: &'static str,
    /// The one and the other.
    pub names: [String; 2],
    /// Block groups of both; none are raw pixels.
    pub blocks: [Option<u8>; 2],
    /// Algorithms of both.
    pub algorithms: [&'static str; 2],
    /// Number of clusters.
    pub k: usize,
    /// Of which images.
    pub scope: Scope,
    /// How far they agree; the smaller map is enlarged in blocks.
    #[serde(flatten)]
    pub agreement: Agreement,
}

/// What an analysis found.
pub struct Found {
    /// Names of the models.
    pub subjects: Vec<String>,
    /// By model, layer, images, algorithm and number of clusters.
    pub maps: Vec<Map>,
    /// By what differs.
    pub pairs: Vec<Pair>,
    /// Maps whose colours those of the first layer take over.
    earlier: Option<Earlier>,
}

impl Found {
    /// The map of these, if there is one.
    pub fn map(
        &self,
        (subject, block): (usize, Option<u8>),
        scope: Scope,
        algorithm: Algorithm,
        k: usize,
    ) -> Option<&Map> {
        self.maps.iter().find(|map| {
            (map.subject, map.block) == (subject, block)
                && (map.scope, map.algorithm, map.k) == (scope, algorithm, k)
        })
    }

    /// Models and layers in order.
    pub fn layers(&self) -> Vec<(usize, Option<u8>)> {
        // The maps of a layer are neighbours.
        let mut layers: Vec<_> = self.maps.iter().map(|map| (map.subject, map.block)).collect();
        layers.dedup();
        layers
    }

    /// Images or all of them, in order.
    pub fn scopes(&self) -> Vec<Scope> {
        let mut scopes: Vec<Scope> = self.maps.iter().map(|map| map.scope).collect();
        scopes.sort_unstable();
        scopes.dedup();
        scopes
    }
}

/// Runs the analysis. `progress` gets layers done and layers in all. Draws come from `seed` alone.
///
/// # Errors
/// [`Error::Recipe`] for settings out of range, no model, two of one name, or an algorithm that does not fit into memory;
/// [`Error::Data`] for no image, or fewer pixels than clusters; those of clustering.
pub fn find(
    settings: &Settings,
    subjects: &[Subject],
    pictures: &[Picture],
    seed: u64,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Found> {
    settings.check()?;
    if subjects.is_empty() {
        return Err(Error::Recipe(
            "there is nothing to analyse: name a model, or take raw pixels".into(),
        ));
    }
    if pictures.is_empty() {
        return Err(Error::Data("there is no image to analyse".into()));
    }
    for (at, subject) in subjects.iter().enumerate() {
        if subjects[..at].iter().any(|other| other.name == subject.name) {
            return Err(Error::Recipe(format!(
                "two models are called `{}`; give each a name of its own with --name",
                subject.name
            )));
        }
    }
    check_memory(subjects, pictures.len(), settings)?;
    let earlier = settings.like.as_deref();
    let earlier = earlier.map(|folder| Earlier::read(folder, settings, pictures)).transpose()?;
    let layers = |subject: &Subject| subject.weights.map_or(1, |_| settings.blocks.len());
    let all: usize = subjects.iter().map(layers).sum();
    let mut found = Found { subjects: Vec::new(), maps: Vec::new(), pairs: Vec::new(), earlier };
    let mut done = 0;
    for (at, subject) in subjects.iter().enumerate() {
        found.subjects.push(subject.name.clone());
        let layers = match subject.weights {
            Some(weights) => maps::of_network(weights, pictures, settings)?,
            None => {
                vec![maps::of_pixels(pictures, maps::grid(subjects, settings), settings.raw_resize)]
            }
        };
        for layer in layers {
            for scope in scopes(settings, pictures.len()) {
                cluster_layer(&mut found, (at, &layer), scope, (settings, pictures), seed)?;
            }
            done += 1;
            progress(done, all);
        }
    }
    found.pairs = pairs(&found)?;
    Ok(found)
}

fn scopes(settings: &Settings, pictures: usize) -> Vec<Scope> {
    if settings.together { vec![Scope::All] } else { (0..pictures).map(Scope::Image).collect() }
}

/// Clusters one layer of one scope with every algorithm and number of clusters.
fn cluster_layer(
    found: &mut Found,
    (subject, layer): (usize, &Maps),
    scope: Scope,
    (settings, pictures): (&Settings, &[Picture]),
    seed: u64,
) -> Result<()> {
    let image = match scope {
        Scope::Image(image) => Some(image),
        Scope::All => None,
    };
    let rows = layer.features(image, settings.mode);
    let sample = Sample::new(&rows, seed);
    let spread = numbers::inertias(&rows, &vec![0; rows.size()[0] as usize], 1)[0];
    for algorithm in &settings.algorithms {
        let clusterings = cluster_each(&rows, &settings.clusters, *algorithm, seed)?;
        let mut seeds: Vec<Vec<Vec<u32>>> =
            clusterings.iter().map(|found| vec![found.labels.clone()]).collect();
        if algorithm.is_random() {
            for other in 1..settings.stability as u64 {
                let again = seed.wrapping_add(other);
                let again = cluster_each(&rows, &settings.clusters, *algorithm, again)?;
                for (seeds, found) in seeds.iter_mut().zip(again) {
                    seeds.push(found.labels);
                }
            }
        }
        for ((clustering, seeds), k) in clusterings.into_iter().zip(seeds).zip(&settings.clusters) {
            let labels = clustering.labels.iter().map(|label| *label as u8).collect();
            let mut map = Map {
                subject,
                block: layer.block,
                algorithm: *algorithm,
                k: *k,
                scope,
                width: layer.width,
                height: layer.height,
                labels,
                sizes: Vec::new(),
                inertia: clustering.inertia,
                cluster_inertia: Vec::new(),
                spread,
                silhouette: None,
                stability: numbers::stability(&seeds)?,
                truth: None,
                image_shares: Vec::new(),
            };
            map.labels = ordered(&map, found, settings)?;
            measure(&mut map, &rows, &sample, pictures)?;
            found.maps.push(map);
        }
    }
    Ok(())
}

/// The labels of a map in the order asked for.
fn ordered(map: &Map, found: &Found, settings: &Settings) -> Result<Vec<u8>> {
    let Map { labels, k, .. } = map;
    match settings.order {
        Order::Raw => Ok(labels.clone()),
        Order::Size => Ok(by_size(labels, *k)),
        Order::FirstPixel => Ok(by_first_pixel(labels, *k)),
        Order::Match => match reference(map, found, settings) {
            None => Ok(by_size(labels, *k)),
            Some(other) => {
                let (own, other) = at_one_size(map, other);
                let renamed = matched(&own, *k, &other)?;
                // From the common size back: each label has one new name.
                let mut names = vec![0; *k];
                for (before, after) in own.iter().zip(&renamed) {
                    names[usize::from(*before)] = *after;
                }
                Ok(labels.iter().map(|label| names[usize::from(*label)]).collect())
            }
        },
    }
}

/// The map whose colours another one takes over: with the first algorithm; of the same block group of the
/// first model; of the first layer of the model; of an earlier analysis; with fewer clusters.
fn reference<'a>(map: &Map, found: &'a Found, settings: &Settings) -> Option<&'a Map> {
    let first = settings.algorithms[0];
    let of = |layer, k| found.map(layer, map.scope, first, k);
    let own = (map.subject, map.block);
    if map.algorithm != first {
        return of(own, map.k);
    }
    let base = found.layers().first().copied().unwrap_or(own);
    let start =
        found.layers().into_iter().find(|(subject, _)| *subject == map.subject).unwrap_or(own);
    let twin = (base.0, map.block);
    let mut others = [twin, start, base].into_iter().filter(|layer| *layer != own);
    others.find_map(|layer| of(layer, map.k)).or_else(|| {
        if let Some(earlier) = found.earlier.as_ref().and_then(|it| it.map(map.scope, map.k)) {
            return Some(earlier);
        }
        let at = settings.clusters.iter().position(|k| *k == map.k)?;
        of(own, settings.clusters[at.checked_sub(1)?])
    })
}

/// Labels of two maps of the same images, the smaller enlarged in blocks.
fn at_one_size(one: &Map, other: &Map) -> (Vec<u8>, Vec<u8>) {
    let size = (one.width.max(other.width), one.height.max(other.height));
    let large = |map: &Map| -> Vec<u8> {
        let from = (map.width, map.height);
        if from == size {
            return map.labels.clone();
        }
        let each = map.labels.chunks(from.0 * from.1);
        each.flat_map(|labels| paint::nearest_labels(labels, from, size)).collect()
    };
    (large(one), large(other))
}

fn measure(map: &mut Map, rows: &Tensor, sample: &Sample, pictures: &[Picture]) -> Result<()> {
    let mut sizes = vec![0; map.k];
    for label in &map.labels {
        sizes[usize::from(*label)] += 1;
    }
    map.sizes = sizes;
    map.cluster_inertia = numbers::inertias(rows, &map.labels, map.k);
    map.silhouette = sample.silhouette(&map.labels, map.k);
    if map.scope == Scope::All {
        map.image_shares = numbers::image_shares(&map.labels, map.width * map.height, map.k);
    }
    map.truth = truth(map, pictures)?;
    Ok(())
}

/// The clusters against the parts, at the pixels of the original images; none unless all images know their parts.
fn truth(map: &Map, pictures: &[Picture]) -> Result<Option<Truth>> {
    let (mut parts, mut clusters) = (Vec::new(), Vec::new());
    for (at, picture) in pictures.iter().enumerate() {
        let Some(labels) = map.of_picture(at) else { continue };
        let Some(known) = &picture.parts else { return Ok(None) };
        let (width, height) = (picture.original.width, picture.original.height);
        // Parts of other classes of made scenes are other parts; the background is the same everywhere.
        let class = picture.label.filter(|_| !picture.drawn).map_or(0, |label| label + 1) << 8;
        for (at, part) in known.iter().enumerate() {
            if picture.drawn && *part == UNJUDGED {
                continue;
            }
            parts.push(if *part == 0 { 0 } else { class | u32::from(*part) });
            let (x, y) = (at % width, at / width);
            let row = (2 * y + 1) * map.height / (2 * height);
            let column = (2 * x + 1) * map.width / (2 * width);
            clusters.push(u32::from(labels[row * map.width + column]));
        }
    }
    if parts.is_empty() {
        return Ok(None);
    }
    numbers::truth(&parts, &clusters).map(Some)
}

/// Agreement between algorithms, and between models.
fn pairs(found: &Found) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    let mut index: BTreeMap<(Scope, usize), Vec<&Map>> = BTreeMap::new();
    for map in &found.maps {
        index.entry((map.scope, map.k)).or_default().push(map);
    }
    for maps in index.values() {
        for (at, second) in maps.iter().enumerate() {
            for first in &maps[..at] {
                let one_layer = (first.subject, first.block) == (second.subject, second.block);
                let beside = first.subject != second.subject
                    && first.algorithm == second.algorithm
                    && (first.block == second.block
                        || first.block.is_none()
                        || second.block.is_none());
                let between = match (one_layer, beside) {
                    (true, _) => "algorithms",
                    (_, true) => "models",
                    _ => continue,
                };
                let name = |map: &Map| match between {
                    "models" => found.subjects[map.subject].clone(),
                    _ => algorithm_name(map.algorithm).to_owned(),
                };
                let (one, other) = at_one_size(first, second);
                pairs.push(Pair {
                    between,
                    names: [name(first), name(second)],
                    blocks: [first.block, second.block],
                    algorithms: [first, second].map(|map| algorithm_name(map.algorithm)),
                    k: first.k,
                    scope: first.scope,
                    agreement: numbers::agreement(&one, &other)?,
                });
            }
        }
    }
    pairs.sort_by_key(|pair| pair.between);
    Ok(pairs)
}
