//! A map of images: every image a point in the plane, like ones near to one another.
//!
//! ```text
//! features of a split --PCA, t-SNE--> places --+--> map.safetensors, map.csv
//!                     --neighbours, k-means----+--> figures as SVG
//! images --small pictures----------------------+--> map.html, to move about in
//! ```

mod colors;
mod figure;
mod files;
mod page;
pub mod pca;
pub mod quality;
mod sheets;
#[cfg(test)]
mod tests;
pub mod tsne;

use super::Output;
use crate::cluster::KMeans;
use crate::data::{Dataset, Image};
use crate::error::{Error, Result};
use crate::evaluate::knn::{Neighbours, neighbours};
use crate::rows::unit_rows;
use crate::shape;
pub use colors::Palette;
use quality::{Judge, Quality};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use tch::Tensor;
use tsne::Tsne;

/// Version of the analysis; numbers of different versions do not compare.
pub const VERSION: u32 = 1;

/// A place on a map.
pub type Point = [f32; 2];

/// How images are brought into the plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// t-SNE: neighbourhoods are kept, distances are not.
    Tsne,
    /// The two directions of largest variance: distances are kept as far as two axes can.
    Pca,
}

/// Settings of the maps of some images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Map {
    /// Which maps, `tsne` or `pca`; PCA is made in any case.
    pub algorithms: Vec<Algorithm>,
    /// Whether features are brought to length 1 first.
    pub l2: bool,
    /// Clusters of k-means by which points can be coloured, 1 to 1000; none is as many as there are classes, or 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clusters: Option<usize>,
    /// How many nearest images the page knows of each, 0 to 64.
    pub neighbours: usize,
    /// Colours of figures, and those in which the page opens.
    pub palette: Palette,
    /// Side of the small pictures in the page, 0 (none) to 128; none is 64, 48, 32, 24 or 16, the largest at which they take
    /// about 12 MB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture_px: Option<usize>,
}

impl Default for Map {
    fn default() -> Self {
        Self {
            algorithms: vec![Algorithm::Tsne, Algorithm::Pca],
            l2: false,
            clusters: None,
            neighbours: 12,
            palette: Palette::Accessible,
            picture_px: None,
        }
    }
}

/// What is mapped: the same images by each of some layers.
pub struct Images<'a> {
    /// Name and features f32 `[N, D]` of each layer; the first decides neighbours and clusters.
    pub layers: Vec<(String, Tensor)>,
    /// Class of each image, −1 where there is none.
    pub labels: Vec<i64>,
    /// Names of the classes.
    pub classes: &'a [String],
    /// What to call each image.
    pub paths: Vec<String>,
    /// The splits they come from, by name.
    pub parts: Vec<(String, Arc<dyn Dataset>)>,
    /// Split and index within it of each image.
    pub places: Vec<(usize, usize)>,
}

/// One map.
#[derive(Clone, Debug)]
pub struct Layout {
    /// What its arrays and files are called: `tsne`, `pca`, with the layer behind it if there are several.
    pub id: String,
    /// The same for people.
    pub title: String,
    /// Which features.
    pub layer: String,
    /// How it was made.
    pub algorithm: Algorithm,
    /// A place for each image.
    pub points: Vec<Point>,
    /// `KL(P‖Q)` in nats, of t-SNE.
    pub kl: Option<f64>,
    /// Round and divergence along the descent, of t-SNE.
    pub trace: Vec<(u64, f64)>,
    /// Share of the variance along each axis, of PCA.
    pub explained: Option<[f64; 2]>,
    /// What it keeps.
    pub quality: Quality,
}

/// Maps of some images, and what else a page shows of them.
#[derive(Debug)]
pub struct Maps {
    /// The maps, the one to open with first.
    pub layouts: Vec<Layout>,
    /// Cluster of each image, 0 the largest.
    pub clusters: Vec<u32>,
    /// The nearest images of each by cosine similarity, if any are wanted.
    pub neighbours: Option<Neighbours>,
    /// Seed of all draws.
    pub seed: u64,
}

impl Images<'_> {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn check(&self) -> Result<()> {
        let count = self.len();
        if count < 3 {
            return Err(Error::Data(format!("a map needs at least 3 images, found {count}")));
        }
        if self.layers.is_empty() {
            return Err(Error::Recipe("a map needs at least one layer".to_owned()));
        }
        for (name, rows) in &self.layers {
            shape::check(name, rows, &[count as i64, -1])?;
        }
        for (name, found) in [("labels", self.labels.len()), ("paths", self.paths.len())] {
            if found != count {
                return Err(Error::Shape(format!("`{name}` must be {count}, found {found}")));
            }
        }
        Ok(())
    }

    fn image(&self, row: usize) -> Result<Image> {
        let (part, index) = self.places[row];
        self.parts[part].1.image(index)
    }

    /// Name of a class.
    fn class(&self, label: i64) -> Option<String> {
        let label = usize::try_from(label).ok()?;
        Some(self.classes.get(label).cloned().unwrap_or_else(|| label.to_string()))
    }

    /// How many classes there are, by names or by labels.
    fn class_count(&self) -> usize {
        let most = self.labels.iter().max().map_or(0, |most| most + 1).max(0) as usize;
        most.max(if most > 0 { self.classes.len() } else { 0 })
    }
}

impl Map {
    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting, its range and what was found.
    pub fn check(&self) -> Result<()> {
        let wrong = if self.neighbours > 64 {
            format!("`map.neighbours` must be at most 64, found `{}`", self.neighbours)
        } else if let Some(found) = self.clusters.filter(|it| !(1..=1_000).contains(it)) {
            format!("`map.clusters` must be 1 to 1000, found `{found}`")
        } else if let Some(side) = self.picture_px.filter(|side| *side > 128) {
            format!("`map.picture_px` must be at most 128, found `{side}`")
        } else {
            return Ok(());
        };
        Err(Error::Recipe(wrong))
    }

    /// Makes the maps of each layer. `progress` gets what is being done, how much of it is done, and of how much.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a setting out of range; [`Error::Data`] for too few images; [`Error::NonFinite`] for features
    /// that are no numbers; [`Error::Collapsed`] if all are the same.
    pub fn make(
        &self,
        tsne: &Tsne,
        judge: &Judge,
        images: &Images<'_>,
        seed: u64,
        progress: &mut dyn FnMut(&str, u64, u64),
    ) -> Result<Maps> {
        self.check()?;
        tsne.check()?;
        judge.check()?;
        images.check()?;
        let mut wanted = self.algorithms.clone();
        wanted.push(Algorithm::Pca);
        let mut layouts: Vec<Layout> = Vec::new();
        let mut first = None;
        for (layer, rows) in &images.layers {
            let rows = if self.l2 { unit_rows(rows) } else { rows.shallow_clone() };
            let components = pca::pca(&rows)?;
            for (at, algorithm) in wanted.iter().enumerate() {
                if wanted[..at].contains(algorithm) {
                    continue;
                }
                let name = match algorithm {
                    Algorithm::Tsne => "t-SNE",
                    Algorithm::Pca => "PCA",
                };
                let title = format!("{name} of {layer}");
                let (points, kl, trace) = match algorithm {
                    Algorithm::Pca => (components.points.clone(), None, Vec::new()),
                    Algorithm::Tsne => {
                        let mut rounds = |done, all| progress(&title, done, all);
                        let found = tsne.fit(&rows, &components.points, seed, &mut rounds)?;
                        (found.points, Some(found.kl), found.trace)
                    }
                };
                let explained = (*algorithm == Algorithm::Pca).then_some(components.explained);
                let quality = judge.compare(&rows, &points, &images.labels, seed)?;
                let short = if kl.is_some() { "tsne" } else { "pca" };
                let id = if images.layers.len() == 1 {
                    short.to_owned()
                } else {
                    format!("{short}-{layer}")
                };
                let (layer, algorithm) = (layer.clone(), *algorithm);
                layouts.push(Layout {
                    id,
                    title,
                    layer,
                    algorithm,
                    points,
                    kl,
                    trace,
                    explained,
                    quality,
                });
            }
            first.get_or_insert(rows);
        }
        let rows = first.expect("there is a layer");
        let k = self.clusters.unwrap_or(images.class_count()).min(images.len());
        let k = if self.clusters.is_none() && k < 2 { 10.min(images.len()) } else { k };
        let clusters = by_size(&KMeans::default().fit(&rows, k, seed)?.labels);
        let near = self.neighbours.min(images.len() - 1);
        let neighbours = (near > 0).then(|| neighbours(&rows, &rows, near, true)).transpose()?;
        Ok(Maps { layouts, clusters, neighbours, seed })
    }

    /// Writes all files of an analysis but its description into a folder: the places, a table, a figure of each map, the
    /// page. `facts` are shown above the page's map; `progress` gets pictures done and in all.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be written, [`Error::Data`] for an image that has become unreadable.
    pub fn save(
        &self,
        maps: &Maps,
        images: &Images<'_>,
        folder: &Path,
        facts: &[(String, String)],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Output>> {
        let mut outputs = Vec::new();
        // Small pictures lie on their sheets as they do on the first map.
        let order = tsne::along_curve(&maps.layouts[0].points);
        let side = match self.picture_px {
            Some(side) => side,
            None => sheets::fitting_side(images)?,
        };
        let sheets = match side {
            0 => sheets::Sheets {
                side: 1,
                columns: 1,
                slots: vec![0; images.len()],
                files: Vec::new(),
            },
            side => sheets::sheets(images, &order, side, progress)?,
        };
        outputs.push(page::write(folder, maps, images, self.palette, &sheets, facts)?);
        for layout in &maps.layouts {
            outputs.extend(figure::write(folder, layout, images, maps, self.palette)?);
        }
        outputs.push(files::tensors(folder, maps, images)?);
        outputs.push(files::table(folder, maps, images)?);
        Ok(outputs)
    }
}

impl Layout {
    /// Its numbers for people, one in a text.
    pub fn numbers(&self) -> Vec<String> {
        let mut told = Vec::new();
        if let Some(kl) = self.kl {
            told.push(format!("KL {kl:.3}"));
        }
        if let Some([first, second]) = self.explained {
            let percent = |share: f64| 100.0 * share;
            told.push(format!(
                "{:.1} % and {:.1} % of the variance",
                percent(first),
                percent(second)
            ));
        }
        let Quality { trustworthiness, continuity, knn_map, knn_features, images } = self.quality;
        told.push(format!("trustworthiness {trustworthiness:.3}"));
        told.push(format!("continuity {continuity:.3}"));
        if let (Some(map), Some(features)) = (knn_map, knn_features) {
            told.push(format!(
                "class right by nearest on the map {:.1} %, in the features {:.1} %",
                100.0 * map,
                100.0 * features
            ));
        }
        if images < self.points.len() {
            told.push(format!("judged on {} images", grouped(images)));
        }
        told
    }
}

/// Clusters renamed so that the largest is 0; of equals the one whose first row comes first.
fn by_size(labels: &[u32]) -> Vec<u32> {
    let count = labels.iter().max().map_or(0, |most| *most as usize + 1);
    let (mut sizes, mut firsts) = (vec![0usize; count], vec![usize::MAX; count]);
    for (row, label) in labels.iter().enumerate() {
        sizes[*label as usize] += 1;
        firsts[*label as usize] = firsts[*label as usize].min(row);
    }
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|label| (usize::MAX - sizes[*label], firsts[*label]));
    let mut names = vec![0; count];
    for (name, label) in order.into_iter().enumerate() {
        names[label] = name as u32;
    }
    labels.iter().map(|label| names[*label as usize]).collect()
}

/// A count with commas between thousands.
pub fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What is said where no image differs from another.
fn collapsed() -> Error {
    Error::Collapsed(
        "all features to map are the same: the network has collapsed, or the images are one; look at another checkpoint, \
         layer (--layer) or part of the data"
            .to_owned(),
    )
}
