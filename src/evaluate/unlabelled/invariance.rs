//! How much features keep of themselves under each augmentation.

use super::mean;
use super::varied::{Change, Eye, Look, compare};
use crate::augment::{Interpolation, Pipeline, Preprocess, Resize, Step, ViewRecipe};
use crate::data::{Dataset, subset};
use crate::error::{Error, Result};
use crate::evaluate::record::Measure;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tch::Tensor;

/// Draws for evaluation are those of an epoch that no training reaches, so they are none of its.
const EPOCH: u32 = u32::MAX;

/// Settings of view invariance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Invariance {
    /// Most images looked at, at least 2; more are drawn from by the seed.
    pub images: usize,
}

impl Default for Invariance {
    fn default() -> Self {
        Self { images: 1_000 }
    }
}

/// Augmentations that happen to an image one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Variation {
    /// What to call it.
    pub name: String,
    /// What happens to the image at the network's size; a leading `random_resized_crop` gives that size.
    pub steps: Vec<Step>,
}

/// How steady features are under a variation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Steadiness {
    /// The variation.
    pub name: String,
    /// Mean cosine similarity of an image's features before and after, with a bootstrap interval over images.
    pub cosine: Measure,
    /// The same relative to different images, `(cosine − different) / (1 − different)`: 1 when features do not see the
    /// variation, 0 when an image is no more like its variation than like another image. None where all images have the
    /// same features.
    pub relative: Option<Measure>,
    /// Mean cosine similarity of two different images, neither varied.
    pub different: f64,
}

/// The variations of a training recipe: each augmentation alone, happening always, and `all` of them as the recipe says.
/// What changes the size again (a jigsaw) and normalising are left out; crops get the side `size_px`.
pub fn variations(recipe: &ViewRecipe, size_px: usize) -> Vec<Variation> {
    let step_name = |step: &Step| {
        let value = serde_json::to_value(step).expect("steps have a JSON form");
        value["name"].as_str().expect("steps are tagged by name").to_owned()
    };
    let kept =
        |step: &&Step| !matches!(step, Step::Normalize(_) | Step::Jigsaw(_) | Step::Resize(_));
    let steps: Vec<Step> =
        recipe.steps.iter().filter(kept).map(|step| sized(step, size_px)).collect();
    let mut all: Vec<Variation> = Vec::new();
    for step in &steps {
        let name = step_name(step);
        let same = all.iter().filter(|known| known.name.split('-').next() == Some(&name)).count();
        let name = if same == 0 { name } else { format!("{name}-{}", same + 1) };
        all.push(Variation { name, steps: vec![always(step)] });
    }
    all.push(Variation { name: "all".to_owned(), steps });
    all
}

/// The step with its own crop brought to a size.
fn sized(step: &Step, size_px: usize) -> Step {
    match step {
        Step::RandomResizedCrop(crop) => {
            let mut crop = crop.clone();
            crop.size_px = size_px;
            Step::RandomResizedCrop(crop)
        }
        other => other.clone(),
    }
}

/// The step with probability 1, if it has a probability.
fn always(step: &Step) -> Step {
    let mut value = serde_json::to_value(step).expect("steps have a JSON form");
    if let Some(probability) = value.get_mut("probability") {
        *probability = 1.0.into();
    }
    serde_json::from_value(value).expect("a step with another probability is a step")
}

impl Invariance {
    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting.
    pub fn check(&self) -> Result<()> {
        if self.images < 2 {
            let found = self.images;
            return Err(Error::Recipe(format!("`images` must be at least 2, found `{found}`")));
        }
        Ok(())
    }

    /// Runs the network over images as `preprocess` prepares them, and over each variation of these. `forward` is what
    /// [`extract`](crate::evaluate::features::extract) takes; it is called with at most `batch` images. What is drawn for
    /// an image depends on the seed, the image and the variation's steps only. `progress` gets images shown and images to
    /// show, variations included.
    ///
    /// # Errors
    /// [`Error::Recipe`] for settings or steps out of range; [`Error::Data`] for fewer than two readable images;
    /// [`Error::NonFinite`] for features that are no numbers; whatever `forward` fails with.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a different thing, and most are closures or data"
    )]
    pub fn evaluate(
        &self,
        forward: &mut dyn FnMut(&[u8], usize) -> Result<Tensor>,
        dataset: &Arc<dyn Dataset>,
        preprocess: &Preprocess,
        variations: &[Variation],
        batch: usize,
        seed: u64,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Steadiness>> {
        self.check()?;
        let images = subset::limit(dataset.clone(), self.images, seed);
        let side = preprocess.size_px();
        let changes: Vec<Change> = variations
            .iter()
            .map(|variation| {
                let pipeline = variation.pipeline(side)?;
                // What a batch shares is drawn for each image: there is no batch here.
                let change = move |index: usize| {
                    pipeline.sample(seed, EPOCH, index as u32, index as u64, 0, (side, side))
                };
                Ok(Box::new(change) as Change)
            })
            .collect::<Result<_>>()?;
        let look: Look = Box::new(|pixels, n| Ok(vec![forward(pixels, n)?]));
        let mut eyes = [Eye { name: String::new(), layers: vec!["h".to_owned()], look }];
        let found = compare(&mut eyes, images.as_ref(), preprocess, &changes, batch, progress)?;
        let seen = &found.seen[0];
        let steadiness = variations.iter().zip(&seen.cosines).map(|(variation, cosines)| {
            let cosine = mean(cosines, seed);
            Steadiness {
                name: variation.name.clone(),
                relative: relative(&cosine, seen.different),
                cosine,
                different: seen.different,
            }
        });
        Ok(steadiness.collect())
    }
}

/// How steady features are relative to different images, of whose features the mean cosine similarity is `different`:
/// [`Steadiness::relative`].
pub fn relative(cosine: &Measure, different: f64) -> Option<Measure> {
    let spread = 1.0 - different;
    (spread > 1e-9).then(|| Measure {
        value: (cosine.value - different) / spread,
        interval_95: cosine.interval_95.map(|ends| ends.map(|end| (end - different) / spread)),
    })
}

impl Variation {
    /// The pipeline that makes the variation of an image of the network's size.
    fn pipeline(&self, size_px: usize) -> Result<Pipeline> {
        let mut steps = Vec::new();
        if !matches!(self.steps.first(), Some(Step::RandomResizedCrop(_))) {
            // Nothing happens to an image that has the size already.
            steps.push(Step::Resize(Resize { size_px, interpolation: Interpolation::Bilinear }));
        }
        steps.extend_from_slice(&self.steps);
        let recipe = ViewRecipe { count: 1, steps };
        let of = |error: Error| match error {
            Error::Recipe(text) => Error::Recipe(format!("variation `{}`: {text}", self.name)),
            other => other,
        };
        let pipeline = Pipeline::new(&[recipe]).map_err(of)?;
        if pipeline.size_px(0) != size_px {
            return Err(Error::Recipe(format!(
                "variation `{}` makes images of {} pixels, the network takes {size_px}; let its crop have that size",
                self.name,
                pipeline.size_px(0)
            )));
        }
        Ok(pipeline)
    }
}
