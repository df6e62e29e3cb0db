//! How much features keep of themselves under each augmentation.

use super::{finite, mean, mean_cosine, numbers};
use crate::augment::{Interpolation, Pipeline, Preprocess, Resize, Scratch, Step, ViewRecipe};
use crate::data::{Dataset, Image, subset};
use crate::error::{Error, Result};
use crate::evaluate::features::{Features, extract};
use crate::evaluate::record::Measure;
use crate::rows::{row_dot, unit_rows};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tch::{Kind, Tensor};

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
    /// [`extract`] takes; it is called with at most `batch` images. What is drawn for an image depends on the seed, the
    /// image and the variation's steps only. `progress` gets passes over the images done and in all.
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
        let pipelines: Vec<Pipeline> = variations
            .iter()
            .map(|variation| variation.pipeline(preprocess.size_px()))
            .collect::<Result<_>>()?;
        let passes = 1 + pipelines.len();
        let mut run = |pipeline: Option<&Pipeline>| {
            let varied = Varied { images: images.as_ref(), preprocess, pipeline, seed };
            let side = preprocess.size_px();
            let copy = |image: &Image, out: &mut [u8]| out.copy_from_slice(&image.pixels);
            extract(forward, &varied, (side, side), &copy, batch, &mut |_, _| ())
        };
        let plain = run(None)?;
        finite(&plain.h, 2)?;
        let different = mean_cosine(&plain.h)?;
        progress(1, passes);
        let mut found = Vec::with_capacity(variations.len());
        for (at, (variation, pipeline)) in variations.iter().zip(&pipelines).enumerate() {
            let varied = run(Some(pipeline))?;
            found.push(steadiness(&variation.name, &plain, &varied, different, seed)?);
            progress(at + 2, passes);
        }
        Ok(found)
    }
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

fn steadiness(
    name: &str,
    plain: &Features,
    varied: &Features,
    different: f64,
    seed: u64,
) -> Result<Steadiness> {
    finite(&varied.h, 2)?;
    assert_eq!(plain.indices(), varied.indices(), "the same images can be read each time");
    let cosines = row_dot(
        &unit_rows(&plain.h.to_kind(Kind::Double)),
        &unit_rows(&varied.h.to_kind(Kind::Double)),
    );
    let cosine = mean(&numbers(&cosines), seed);
    let spread = 1.0 - different;
    let relative = (spread > 1e-9).then(|| Measure {
        value: (cosine.value - different) / spread,
        interval_95: cosine.interval_95.map(|ends| ends.map(|end| (end - different) / spread)),
    });
    Ok(Steadiness { name: name.to_owned(), cosine, relative, different })
}

/// A data set as a network sees it, varied or not.
struct Varied<'a> {
    images: &'a dyn Dataset,
    preprocess: &'a Preprocess,
    pipeline: Option<&'a Pipeline>,
    seed: u64,
}

impl Dataset for Varied<'_> {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn label(&self, _: usize) -> Option<u32> {
        None
    }

    fn path(&self, index: usize) -> String {
        self.images.path(index)
    }

    fn image(&self, index: usize) -> Result<Image> {
        thread_local!(static SCRATCH: std::cell::RefCell<Scratch> = std::cell::RefCell::default());
        let image = self.images.image(index)?;
        let side = self.preprocess.size_px();
        let mut pixels = vec![0; 3 * side * side];
        SCRATCH.with_borrow_mut(|scratch| {
            self.preprocess.apply(&image, scratch, &mut pixels);
            let prepared = Image { width: side, height: side, pixels };
            let Some(pipeline) = self.pipeline else {
                return Ok(prepared);
            };
            // What a batch shares is drawn for each image: there is no batch here.
            let drawn =
                pipeline.sample(self.seed, EPOCH, index as u32, index as u64, 0, (side, side));
            let mut pixels = vec![0; 3 * side * side];
            drawn.apply(&prepared, scratch, &mut pixels);
            Ok(Image { width: side, height: side, pixels })
        })
    }
}
