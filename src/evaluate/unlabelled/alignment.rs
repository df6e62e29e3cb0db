//! Alignment of positive pairs: how near the features of two views of an image are.

use super::Unlabelled;
use crate::augment::{Pipeline, Scratch, Step, ViewRecipe, named};
use crate::data::{Dataset, Image, subset};
use crate::error::{Error, Result};
use crate::evaluate::features::extract;
use crate::evaluate::record::Measure;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::sync::Arc;
use tch::Tensor;

/// Draws for evaluation are those of an epoch that no training reaches; none of these is one of view invariance.
const EPOCH: u32 = u32::MAX - 2;

/// Settings of the alignment of positive pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alignment {
    /// Most images of which two views are made, at least 2; more are drawn from by the seed.
    pub images: usize,
    /// Whose views, by a name such as `mocov2`; those of the run if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<String>,
}

impl Default for Alignment {
    /// 1,000 images, the views of the run.
    fn default() -> Self {
        Self { images: 1_000, views: None }
    }
}

impl Alignment {
    /// The two kinds of view that make a positive pair, at the network's size: the first two of the named set, or of `own`,
    /// views of jigsaws left out; a single view counts twice. None if no set is named and there are no own views.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a name that is none, or a set without two such views.
    pub fn pair(&self, own: &[ViewRecipe], size_px: usize) -> Result<Option<[ViewRecipe; 2]>> {
        let views = match &self.views {
            Some(name) => named(name)?,
            None if own.is_empty() => return Ok(None),
            None => own.to_vec(),
        };
        let whole =
            |view: &&ViewRecipe| !view.steps.iter().any(|step| matches!(step, Step::Jigsaw(_)));
        let each = |view: &ViewRecipe| {
            let steps = view.steps.iter().map(|step| sized(step, size_px)).collect();
            vec![ViewRecipe { count: 1, steps }; view.count]
        };
        let mut pair = views.iter().filter(whole).flat_map(each);
        let Some(first) = pair.next() else {
            return Err(Error::Recipe(
                "alignment needs a view of the whole image, these are patches; name others, `alignment.views=mocov2`"
                    .to_owned(),
            ));
        };
        let second = pair.next().unwrap_or_else(|| first.clone());
        Ok(Some([first, second]))
    }

    /// [`Unlabelled::alignment`] of two views of each image, made of the image as it is. `forward` is what [`extract`] takes;
    /// it is called with at most `batch` images. What is drawn for an image depends on the seed, the image and the view's
    /// steps only; what a batch shares in training is drawn for each image. `progress` gets views done and in all.
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
        quality: &Unlabelled,
        forward: &mut dyn FnMut(&[u8], usize) -> Result<Tensor>,
        dataset: &Arc<dyn Dataset>,
        pair: &[ViewRecipe; 2],
        batch: usize,
        seed: u64,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Measure> {
        if self.images < 2 {
            let found = self.images;
            return Err(Error::Recipe(format!(
                "`alignment.images` must be at least 2, found `{found}`"
            )));
        }
        let images = subset::limit(Arc::clone(dataset), self.images, seed);
        let pipeline = Pipeline::new(pair)?;
        let side = pipeline.size_px(0);
        let copy = |image: &Image, out: &mut [u8]| out.copy_from_slice(&image.pixels);
        let mut of = |view: u8| {
            let views = Viewed { images: images.as_ref(), pipeline: &pipeline, view, seed };
            let mut progress = |done: usize, all: usize| {
                progress(usize::from(view) * all + done, 2 * all);
            };
            extract(forward, &views, (side, side), &copy, batch, &mut progress)
        };
        let (first, second) = (of(0)?, of(1)?);
        assert_eq!(first.indices(), second.indices(), "the same images can be read each time");
        if first.len() < 2 {
            return Err(Error::Data(format!(
                "alignment needs at least 2 images that can be read, found {} of {}",
                first.len(),
                images.len()
            )));
        }
        quality.alignment(&first.h, &second.h, seed)
    }
}

/// The step with the size that a network takes.
fn sized(step: &Step, size_px: usize) -> Step {
    let mut step = step.clone();
    match &mut step {
        Step::RandomResizedCrop(crop) => crop.size_px = size_px,
        Step::Resize(resize) => resize.size_px = size_px,
        _ => {}
    }
    step
}

/// One view of every image of a data set.
struct Viewed<'a> {
    images: &'a dyn Dataset,
    pipeline: &'a Pipeline,
    view: u8,
    seed: u64,
}

impl Dataset for Viewed<'_> {
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
        thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());
        let image = self.images.image(index)?;
        let size = (image.width, image.height);
        let (at, view) = (index as u32, self.view);
        let drawn = self.pipeline.sample(self.seed, EPOCH, at, index as u64, view, size);
        let side = drawn.size_px();
        let mut pixels = vec![0; 3 * side * side];
        SCRATCH.with_borrow_mut(|scratch| drawn.apply(&image, scratch, &mut pixels));
        Ok(Image { width: side, height: side, pixels })
    }

    fn constant_channels(&self) -> usize {
        self.images.constant_channels()
    }

    fn constants(&self, index: usize, image: &Image) -> Vec<u8> {
        if self.constant_channels() == 0 {
            return Vec::new();
        }
        // They are those of the image itself, not of a view of it.
        self.images.image(index).map_or_else(
            |_| self.images.constants(index, image),
            |whole| self.images.constants(index, &whole),
        )
    }
}
