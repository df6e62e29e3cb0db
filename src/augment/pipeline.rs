//! Sampling a view and applying what was sampled.

use super::blur::{Buffer, Kernel};
use super::color::Adjustment;
use super::crop::Crop;
use super::step::{Step, ViewRecipe};
use crate::data::Image;
use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
use fast_image_resize::Resizer;
use multiversion::multiversion;
use serde::{Deserialize, Serialize};
use std::fmt;

/// All views of an image, checked and ready to draw.
#[derive(Clone, Debug)]
pub struct Pipeline {
    recipes: Vec<ViewRecipe>,
    /// Position in `recipes` of each view.
    of_view: Vec<usize>,
}

/// Everything sampled for one view of one image. Applying it needs nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drawn {
    /// The box that is cut out, and the size it gets.
    pub crop: Crop,
    /// Whether left and right are exchanged.
    pub flip: bool,
    /// What happens to the colours and the sharpness, in order.
    pub operations: Vec<Operation>,
}

/// One operation on an image whose size is settled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Change of colour.
    Color(Adjustment),
    /// Gaussian blur.
    Blur(Kernel),
}

/// Working memory of one thread for [`Drawn::apply`].
#[derive(Debug, Default)]
pub struct Scratch {
    pub(super) resizer: Resizer,
    planes: Vec<f32>,
    buffer: Buffer,
}

impl Pipeline {
    /// Checks the recipes, in the order of the views.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key.
    pub fn new(recipes: &[ViewRecipe]) -> Result<Self> {
        for (position, recipe) in recipes.iter().enumerate() {
            recipe.check(position)?;
        }
        let of_view: Vec<usize> =
            recipes.iter().enumerate().flat_map(|(at, recipe)| vec![at; recipe.count]).collect();
        if !(1..=255).contains(&of_view.len()) {
            return Err(Error::Recipe(format!(
                "`view` must describe 1 to 255 views in all, found `{}`",
                of_view.len()
            )));
        }
        Ok(Self { recipes: recipes.to_vec(), of_view })
    }

    /// Number of views of each image.
    pub fn views(&self) -> usize {
        self.of_view.len()
    }

    /// Side of a view, in pixels.
    pub fn size_px(&self, view: usize) -> usize {
        self.recipe(view).size_px()
    }

    /// Mean and standard deviation of a view's channels in \[0, 1\]; 0 and 1 if the recipe does not normalise.
    pub fn normalization(&self, view: usize) -> ([f64; 3], [f64; 3]) {
        match self.recipe(view).steps.last() {
            Some(Step::Normalize(normalize)) => (normalize.mean, normalize.std),
            _ => ([0.0; 3], [1.0; 3]),
        }
    }

    fn recipe(&self, view: usize) -> &ViewRecipe {
        &self.recipes[self.of_view[view]]
    }

    /// Draws one view of image `index` of the given (width, height) in `epoch`; what the whole batch shares is drawn for
    /// `step`. The value depends on nothing else, and each step of the recipe on its place in it only: changing one step
    /// leaves the draws of the others alone.
    pub fn sample(
        &self,
        seed: u64,
        epoch: u32,
        index: u32,
        step: u64,
        view: u8,
        (width, height): (usize, usize),
    ) -> Drawn {
        let recipe = self.recipe(usize::from(view));
        let scope = Scope::Image { epoch, index, view };
        let mut of_image = Stream::open(seed, Purpose::Augment, scope);
        let mut of_batch = Stream::open(seed, Purpose::StepAugment, Scope::Step { step, view });
        let mut crop = None;
        let mut flip = false;
        let mut operations = Vec::new();
        for (place, step) in recipe.steps.iter().enumerate() {
            let mut image = substream(&mut of_image, Purpose::Augment, place);
            let mut batch = substream(&mut of_batch, Purpose::StepAugment, place);
            match step {
                Step::RandomResizedCrop(it) => crop = Some(it.sample(&mut image, (width, height))),
                Step::Resize(resize) => crop = Some(resize.whole(width, height)),
                Step::Flip(it) => flip ^= image.chance(it.probability),
                Step::ColorJitter(jitter) => {
                    operations.extend(jitter.sample(&mut image).into_iter().map(Operation::Color));
                }
                Step::Grayscale(grayscale) => {
                    if image.chance(grayscale.probability) {
                        operations.push(Operation::Color(Adjustment::Grayscale));
                    }
                }
                Step::Blur(blur) => {
                    let drawn = blur.sample(&mut image, &mut batch, recipe.size_px());
                    operations.extend(drawn.map(Operation::Blur));
                }
                Step::Normalize(_) => {}
            }
        }
        Drawn { crop: crop.expect("a checked recipe begins with a size"), flip, operations }
    }
}

/// The stream of one step of a recipe, keyed by a number of the stream above it.
fn substream(parent: &mut Stream, purpose: Purpose, place: usize) -> Stream {
    Stream::open(parent.next_u64(), purpose, Scope::Item(place as u64))
}

impl Drawn {
    /// Makes the view: `out` is `[size_px, size_px, 3]`, 8 bits, channels interleaved.
    ///
    /// Crop and resize as Pillow, all other operations in f32 on \[0, 1\] as torchvision's float tensors, rounded once
    /// (to the nearest, ties to even). The flip is done first: it commutes with all others.
    ///
    /// # Panics
    /// If the value was drawn for a larger image, or `out` has another length.
    pub fn apply(&self, image: &Image, scratch: &mut Scratch, out: &mut [u8]) {
        let size = self.crop.size_px;
        assert_eq!(out.len(), 3 * size * size, "a view of {size} px needs 3 bytes a pixel");
        self.crop.apply(image, &mut scratch.resizer, out);
        if self.flip {
            for row in out.chunks_exact_mut(3 * size) {
                row.as_chunks_mut::<3>().0.reverse();
            }
        }
        if self.operations.is_empty() {
            return;
        }
        scratch.planes.resize(out.len(), 0.0);
        let (red, rest) = scratch.planes.split_at_mut(size * size);
        let (green, blue) = rest.split_at_mut(size * size);
        separate(out, red, green, blue);
        for operation in &self.operations {
            match operation {
                Operation::Color(adjustment) => {
                    adjustment.apply([&mut *red, &mut *green, &mut *blue]);
                }
                Operation::Blur(kernel) => {
                    for plane in [&mut *red, &mut *green, &mut *blue] {
                        kernel.apply(plane, size, &mut scratch.buffer);
                    }
                }
            }
        }
        join(red, green, blue, out);
    }
}

/// Interleaved bytes to planes in [0, 1].
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn separate(pixels: &[u8], red: &mut [f32], green: &mut [f32], blue: &mut [f32]) {
    let pixels = pixels.as_chunks::<3>().0;
    for (((pixel, red), green), blue) in pixels.iter().zip(red).zip(green).zip(blue) {
        *red = f32::from(pixel[0]) / 255.0;
        *green = f32::from(pixel[1]) / 255.0;
        *blue = f32::from(pixel[2]) / 255.0;
    }
}

/// Planes to interleaved bytes, rounded to the nearest.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn join(red: &[f32], green: &[f32], blue: &[f32], pixels: &mut [u8]) {
    // 2^23 has a spacing of 1, so adding it leaves the rounded value in the lowest bits.
    let byte = |value: f32| (value.max(0.0).min(1.0) * 255.0 + 8_388_608.0).to_bits() as u8;
    let pixels = pixels.as_chunks_mut::<3>().0;
    for (((pixel, red), green), blue) in pixels.iter_mut().zip(red).zip(green).zip(blue) {
        *pixel = [byte(*red), byte(*green), byte(*blue)];
    }
}

impl fmt::Display for Drawn {
    /// `crop 20x18 at (3, 5), flip, brightness 1.12, hue -0.03, grey, blur 0.8 px`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Crop { left, top, width, height, .. } = self.crop;
        write!(f, "crop {width}x{height} at ({left}, {top})")?;
        if self.flip {
            f.write_str(", flip")?;
        }
        for operation in &self.operations {
            match operation {
                Operation::Color(Adjustment::Brightness(x)) => write!(f, ", brightness {x:.2}")?,
                Operation::Color(Adjustment::Contrast(x)) => write!(f, ", contrast {x:.2}")?,
                Operation::Color(Adjustment::Saturation(x)) => write!(f, ", saturation {x:.2}")?,
                Operation::Color(Adjustment::Hue(x)) => write!(f, ", hue {x:+.2}")?,
                Operation::Color(Adjustment::Grayscale) => f.write_str(", grey")?,
                Operation::Blur(kernel) => write!(f, ", blur {:.1} px", kernel.sigma_px())?,
            }
        }
        Ok(())
    }
}
