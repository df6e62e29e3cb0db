//! What each augmentation does to the embedding: how alike the features of an image and of its augmented copy are, against
//! the strength of the augmentation.
//!
//! ```text
//! image at the network's size --augmented at each strength--> copies --network--> features --cosine with the image's own-->
//! mean and quantiles over images, for each strength: a curve
//! ```

mod chart;
mod operations;
#[cfg(test)]
mod tests;

use crate::augment::{Preprocess, Scratch, shrunk};
use crate::data::{Dataset, Image, subset};
use crate::error::{Error, Result};
use crate::evaluate::unlabelled::{Change, Eye, Seen, compare, mean, relative};
use crate::evaluate::{Damaged, Measure};
use crate::overrides::nearest;
pub use chart::Chart;
pub use operations::{AUGMENTATIONS, Augmentation};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// Version of the analysis; numbers of different versions do not compare.
pub const VERSION: u32 = 1;

/// Most pixels of an example on a side.
const EXAMPLE: usize = 128;

/// Settings of the analysis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentations {
    /// Most images looked at, at least 2; more are drawn from by the seed.
    pub images: usize,
    /// Quantiles over images between which the band of a curve lies, within 0 to 1.
    pub band: [f64; 2],
    /// Names of the augmentations looked at; all if none is named.
    pub only: Vec<String>,
    /// Strengths of each augmentation, in the order in which they are shown.
    pub strengths: BTreeMap<String, Vec<f64>>,
}

impl Default for Augmentations {
    /// 256 images, the band from the 10th to the 90th percentile, every augmentation at its own strengths.
    fn default() -> Self {
        let of = |it: &Augmentation| (it.name.to_owned(), it.strengths.to_vec());
        Self {
            images: 256,
            band: [0.1, 0.9],
            only: Vec::new(),
            strengths: AUGMENTATIONS.iter().map(of).collect(),
        }
    }
}

/// How alike an image and its augmented copy are in a layer of a network, by strength.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Name of the augmentation.
    pub augmentation: String,
    /// What to call the network.
    pub model: String,
    /// The layer.
    pub layer: String,
    /// A point for each strength.
    pub points: Vec<Point>,
    /// Mean cosine similarity of two different images, neither augmented.
    pub different: f64,
    /// Mean of [`Point::relative`] over the strengths that change something: 1 when features do not see the augmentation, 0
    /// when an image is no more like its copy than like another image. None where all images have the same features.
    pub steadiness: Option<f64>,
}

/// A point of a curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The strength.
    pub strength: f64,
    /// Mean cosine similarity over images, with a bootstrap interval over these.
    pub cosine: Measure,
    /// Lower and upper quantile over images.
    pub band: [f64; 2],
    /// `(cosine − different) / (1 − different)`; none where all images have the same features.
    pub relative: Option<f64>,
}

/// The curves of some networks, and the images they were made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// For each augmentation one of each layer of each network.
    pub curves: Vec<Curve>,
    /// How many images were looked at.
    pub images: usize,
    /// Images that could not be read.
    pub damaged: Vec<Damaged>,
}

impl Augmentations {
    /// The augmentations looked at with their strengths, in their order.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting.
    pub fn wanted(&self) -> Result<Vec<(&'static Augmentation, Vec<f64>)>> {
        if self.images < 2 {
            let found = self.images;
            return Err(Error::Recipe(format!(
                "`augmentations.images` must be at least 2, found `{found}`"
            )));
        }
        let [low, high] = self.band;
        if !(0.0 <= low && low < high && high <= 1.0) {
            return Err(Error::Recipe(format!(
                "`augmentations.band` must be two quantiles `[low, high]` with 0 <= low < high <= 1, found `[{low}, {high}]`"
            )));
        }
        for name in self.only.iter().chain(self.strengths.keys()) {
            if Augmentation::named(name).is_none() {
                let names = || AUGMENTATIONS.iter().map(|it| it.name);
                let hint = match nearest(name, names()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known are `{}`", names().collect::<Vec<_>>().join("`, `")),
                };
                return Err(Error::Recipe(format!("no augmentation is named `{name}`, {hint}")));
            }
        }
        let mut wanted = Vec::new();
        for augmentation in AUGMENTATIONS {
            let name = augmentation.name;
            if !self.only.is_empty() && !self.only.iter().any(|only| only == name) {
                continue;
            }
            let strengths = self
                .strengths
                .get(name)
                .map_or_else(|| augmentation.strengths.to_vec(), Vec::clone);
            let [low, high] = augmentation.range;
            let bad = strengths.iter().find(|strength| !(low..=high).contains(*strength));
            if let Some(found) = bad {
                return Err(Error::Recipe(format!(
                    "`augmentations.strengths.{name}` must be within {low} to {high} ({}), found `{found}`",
                    augmentation.axis
                )));
            }
            if augmentation.whole && strengths.iter().any(|strength| strength.fract() != 0.0) {
                return Err(Error::Recipe(format!(
                    "`augmentations.strengths.{name}` must be whole numbers ({}), found `{strengths:?}`",
                    augmentation.axis
                )));
            }
            if strengths.iter().all(|strength| augmentation.changes_nothing(*strength)) {
                return Err(Error::Recipe(format!(
                    "`augmentations.strengths.{name}` must list a strength other than {}, at which nothing happens",
                    augmentation.neutral
                )));
            }
            wanted.push((augmentation, strengths));
        }
        Ok(wanted)
    }

    /// Up to [`Self::images`] of a data set, by the seed.
    pub fn some(&self, images: &Arc<dyn Dataset>, seed: u64) -> Arc<dyn Dataset> {
        subset::limit(Arc::clone(images), self.images, seed)
    }

    /// One image at every strength of every augmentation, as a network of this preprocessing sees it (at most 128 pixels wide):
    /// the first of those looked at that can be read.
    ///
    /// # Errors
    /// Those of [`Self::wanted`]; [`Error::Recipe`] for images of one pixel; [`Error::Data`] if none can be read.
    pub fn examples(
        &self,
        images: &Arc<dyn Dataset>,
        preprocess: &Preprocess,
        seed: u64,
    ) -> Result<Vec<Vec<Image>>> {
        let wanted = self.wanted()?;
        let some = self.some(images, seed);
        let first = (0..some.len()).find_map(|index| Some((index, some.image(index).ok()?)));
        let Some((index, image)) = first else {
            return Err(Error::Data("no image can be read".to_owned()));
        };
        let side = side(preprocess)?;
        let mut scratch = Scratch::default();
        let mut pixels = vec![0; 3 * side * side];
        preprocess.apply(&image, &mut scratch, &mut pixels);
        let prepared = Image { width: side, height: side, pixels };
        let mut of = |augmentation: &Augmentation, strength: f64| {
            let mut pixels = vec![0; 3 * side * side];
            let drawn = augmentation.drawn(strength, side, index, seed);
            drawn.apply(&prepared, &mut scratch, &mut pixels);
            shrunk(&Image { width: side, height: side, pixels }, EXAMPLE)
        };
        let all = wanted.iter().map(|(augmentation, strengths)| {
            strengths.iter().map(|strength| of(augmentation, *strength)).collect()
        });
        Ok(all.collect())
    }

    /// Shows images at every strength of every augmentation to networks that take images prepared alike. `batch` is the most
    /// images in a forward pass; `progress` gets images shown and images to show.
    ///
    /// # Errors
    /// Those of [`Self::wanted`] and [`compare`]; [`Error::Recipe`] for images of one pixel.
    pub fn evaluate(
        &self,
        eyes: &mut [Eye],
        images: &Arc<dyn Dataset>,
        preprocess: &Preprocess,
        batch: usize,
        seed: u64,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Found> {
        let wanted = self.wanted()?;
        let side = side(preprocess)?;
        let mut changes: Vec<Change> = Vec::new();
        for (augmentation, strengths) in &wanted {
            let changing = strengths.iter().filter(|it| !augmentation.changes_nothing(**it));
            for strength in changing {
                let (augmentation, strength) = (*augmentation, *strength);
                let change = move |index: usize| augmentation.drawn(strength, side, index, seed);
                changes.push(Box::new(change));
            }
        }
        let some = self.some(images, seed);
        let found = compare(eyes, some.as_ref(), preprocess, &changes, batch, progress)?;
        let mut curves = Vec::new();
        let mut first = 0;
        for (augmentation, strengths) in &wanted {
            for seen in &found.seen {
                curves.push(self.curve(augmentation, strengths, seen, first, seed));
            }
            first += strengths.iter().filter(|it| !augmentation.changes_nothing(**it)).count();
        }
        Ok(Found { curves, images: found.index.len(), damaged: found.damaged })
    }

    /// The curve of an augmentation whose cosines lie from change `first` on.
    fn curve(
        &self,
        augmentation: &Augmentation,
        strengths: &[f64],
        seen: &Seen,
        first: usize,
        seed: u64,
    ) -> Curve {
        let mut changing = seen.cosines[first..].iter();
        let point = |strength: &f64| {
            if augmentation.changes_nothing(*strength) {
                // The image itself.
                let cosine = Measure { value: 1.0, interval_95: Some([1.0; 2]) };
                return Point { strength: *strength, cosine, band: [1.0; 2], relative: Some(1.0) };
            }
            let cosines =
                changing.next().expect("cosines of every strength that changes something");
            let cosine = mean(cosines, seed);
            let mut sorted = cosines.clone();
            sorted.sort_by(f64::total_cmp);
            Point {
                strength: *strength,
                band: self.band.map(|share| quantile(&sorted, share)),
                relative: relative(&cosine, seen.different).map(|measure| measure.value),
                cosine,
            }
        };
        let points: Vec<Point> = strengths.iter().map(point).collect();
        let changed = points.iter().filter(|it| !augmentation.changes_nothing(it.strength));
        let relative: Option<Vec<f64>> = changed.map(|point| point.relative).collect();
        Curve {
            augmentation: augmentation.name.to_owned(),
            model: seen.eye.clone(),
            layer: seen.layer.clone(),
            points,
            different: seen.different,
            steadiness: relative.map(|all| all.iter().sum::<f64>() / all.len() as f64),
        }
    }
}

/// Side of the images a network sees: what moves or crops them needs more than one pixel.
fn side(preprocess: &Preprocess) -> Result<usize> {
    match preprocess.size_px() {
        side @ (0 | 1) => Err(Error::Recipe(format!(
            "augmentations need images of at least 2 pixels a side, and `--preprocess {}` makes them {side}",
            preprocess.id
        ))),
        side => Ok(side),
    }
}

/// The value at a share of sorted values, between neighbours linear.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    below + (above - below) * position.fract()
}

/// A line for each point:
/// `augmentation,strength,model,layer,cosine,cosine_low,cosine_high,band_low,band_high,relative,different`.
pub fn csv(curves: &[Curve]) -> String {
    let mut text = String::from(
        "augmentation,strength,model,layer,cosine,cosine_low,cosine_high,band_low,band_high,relative,different\n",
    );
    for curve in curves {
        for point in &curve.points {
            let [low, high] = point.cosine.interval_95.unwrap_or([f64::NAN; 2]);
            let relative = point.relative.map_or(String::new(), |value| value.to_string());
            writeln!(
                text,
                "{},{},\"{}\",{},{},{low},{high},{},{},{relative},{}",
                curve.augmentation,
                point.strength,
                curve.model.replace('"', "\"\""),
                curve.layer,
                point.cosine.value,
                point.band[0],
                point.band[1],
                curve.different,
            )
            .expect("writing into a string does not fail");
        }
    }
    text
}
