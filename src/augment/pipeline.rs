//! Sampling a view and applying what was sampled.

use super::blur::{Buffer, Kernel};
use super::color::Adjustment;
use super::crop::{Crop, Filter, Interpolation};
use super::erase::Patch;
use super::jigsaw::Patches;
use super::noise::Noise;
use super::pillow::Bytes;
use super::rand_augment::PillowOperation;
use super::resample;
use super::resize;
use super::rotate::rotate;
use super::sobel::sobel;
use super::step::{Step, ViewRecipe};
use crate::data::Image;
use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
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
    /// Whether left and right are exchanged before everything else.
    pub flip: bool,
    /// What else happens, in order.
    pub operations: Vec<Operation>,
}

/// One operation on an image whose size is settled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Change of colour.
    Color(Adjustment),
    /// Gaussian blur.
    Blur(Kernel),
    /// A flip that follows an operation with which it does not commute.
    Flip,
    /// Quarter turns, counter-clockwise.
    Rotate(u8),
    /// A box painted over.
    Fill(Patch),
    /// Normal noise.
    Noise(Noise),
    /// Strength of the edges.
    Sobel,
    /// An operation of Pillow on bytes.
    Pillow(PillowOperation),
    /// A part of the view at the view's size.
    Recrop(Crop),
    /// Patches laid out; the last operation, it makes the view's size another than the crop's.
    Jigsaw(Patches),
}

impl Operation {
    /// Whether a flip before it has the same effect as one after it.
    fn commutes_with_flip(&self) -> bool {
        matches!(self, Self::Color(_) | Self::Blur(_) | Self::Sobel)
    }
}

/// Working memory of one thread for [`Drawn::apply`].
#[derive(Debug, Default)]
pub struct Scratch {
    resized: resize::Buffer,
    resampler: resample::Buffer,
    planes: Vec<f32>,
    buffer: Buffer,
    values: Vec<f32>,
    bytes: Bytes,
    whole: Vec<u8>,
}

impl Scratch {
    /// Resizes the box `[left, top, width, height]` of an image to (width, height) `size`, rounded to bytes.
    pub(super) fn resize(
        &mut self,
        image: &Image,
        place: [usize; 4],
        size: (usize, usize),
        interpolation: Interpolation,
        out: &mut [u8],
    ) {
        match interpolation.filter() {
            Filter::Pillow(filter) => {
                resize::resize(image, place, size, filter, false, &mut self.resized);
                pack(&self.resized.pixels, out);
            }
            Filter::Tensorflow(version) => {
                self.planes.resize(out.len(), 0.0);
                let (red, rest) = self.planes.split_at_mut(size.0 * size.1);
                let (green, blue) = rest.split_at_mut(size.0 * size.1);
                let planes = [&mut *red, &mut *green, &mut *blue];
                resample::resize(image, place, size, version, &mut self.resampler, planes);
                join(red, green, blue, out);
            }
        }
    }
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
        self.recipe(view).normalize().map_or(([0.0; 3], [1.0; 3]), |it| (it.mean, it.std))
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
        let mut operations: Vec<Operation> = Vec::new();
        let size_px = recipe.crop_px();
        for (place, step) in recipe.steps.iter().enumerate() {
            let mut image = substream(&mut of_image, Purpose::Augment, place);
            let mut batch = substream(&mut of_batch, Purpose::StepAugment, place);
            match step {
                Step::RandomResizedCrop(it) => {
                    if it.shared {
                        let scope = Scope::Image { epoch, index, view: 0 };
                        let mut common = Stream::open(seed, Purpose::Augment, scope);
                        image = substream(&mut common, Purpose::Augment, place);
                    }
                    match crop {
                        None => crop = Some(it.sample(&mut image, (width, height))),
                        Some(_) => operations
                            .push(Operation::Recrop(it.sample(&mut image, (size_px, size_px)))),
                    }
                }
                Step::Resize(resize) => crop = Some(resize.whole(width, height)),
                Step::Flip(it) => {
                    let flipped = image.chance(it.probability);
                    if operations.iter().all(Operation::commutes_with_flip) {
                        flip ^= flipped;
                    } else if flipped {
                        operations.push(Operation::Flip);
                    }
                }
                Step::ColorJitter(jitter) => {
                    operations.extend(jitter.sample(&mut image).into_iter().map(Operation::Color));
                }
                Step::Grayscale(grayscale) => {
                    if image.chance(grayscale.probability) {
                        operations.push(Operation::Color(Adjustment::Grayscale));
                    }
                }
                Step::Blur(blur) => {
                    let drawn = blur.sample(&mut image, &mut batch, size_px);
                    operations.extend(drawn.map(Operation::Blur));
                }
                Step::Solarize(solarize) => {
                    if image.chance(solarize.probability) {
                        let adjustment = Adjustment::Solarize(solarize.threshold as f32);
                        operations.push(Operation::Color(adjustment));
                    }
                }
                Step::Rotation(rotation) => {
                    operations.extend(rotation.sample(&mut image).map(Operation::Rotate));
                }
                Step::Cutout(cutout) => {
                    operations.extend(cutout.sample(&mut image, size_px).map(Operation::Fill));
                }
                Step::RandomErasing(erasing) => {
                    let drawn = erasing.sample(&mut image, size_px, recipe.normalize());
                    operations.extend(drawn.map(Operation::Fill));
                }
                Step::GaussianNoise(noise) => {
                    operations.extend(noise.sample(&mut image).map(Operation::Noise));
                }
                Step::Sobel(sobel) => {
                    operations.extend(image.chance(sobel.probability).then_some(Operation::Sobel));
                }
                Step::RandAugment(augment) => {
                    operations
                        .extend(augment.sample(&mut image).into_iter().map(Operation::Pillow));
                }
                Step::Jigsaw(jigsaw) => {
                    operations.push(Operation::Jigsaw(jigsaw.sample(&mut image, size_px)));
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
    /// Side of the view.
    pub fn size_px(&self) -> usize {
        match self.operations.last() {
            Some(Operation::Jigsaw(patches)) => patches.grid() * patches.patch_px,
            _ => self.crop.size_px,
        }
    }

    /// Makes the view: `out` is `[size_px, size_px, 3]`, 8 bits, channels interleaved.
    ///
    /// Crop and resize as Pillow (or TensorFlow, without rounding), all other operations in f32 on \[0, 1\] as
    /// torchvision's float tensors, rounded once (to the nearest, ties to even). The flip is done first: it commutes with
    /// what stood before it in the recipe.
    ///
    /// # Panics
    /// If the value was drawn for a larger image, or `out` has another length.
    pub fn apply(&self, image: &Image, scratch: &mut Scratch, out: &mut [u8]) {
        let size = self.size_px();
        assert_eq!(out.len(), 3 * size * size, "a view of {size} px needs 3 bytes a pixel");
        let Some((Operation::Jigsaw(patches), operations)) = self.operations.split_last() else {
            return self.render(&self.operations, image, scratch, out);
        };
        let mut whole = std::mem::take(&mut scratch.whole);
        whole.resize(3 * self.crop.size_px.pow(2), 0);
        self.render(operations, image, scratch, &mut whole);
        patches.apply(&whole, self.crop.size_px, out);
        scratch.whole = whole;
    }

    /// Crop, flip and operations of the crop's size.
    fn render(
        &self,
        operations: &[Operation],
        image: &Image,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) {
        let size = self.crop.size_px;
        scratch.planes.resize(out.len(), 0.0);
        let (red, rest) = scratch.planes.split_at_mut(size * size);
        let (green, blue) = rest.split_at_mut(size * size);
        match self.crop.interpolation.filter() {
            Filter::Pillow(filter) => {
                let (place, resized) = (self.crop.place(), &mut scratch.resized);
                resize::resize(image, place, (size, size), filter, self.flip, resized);
                if operations.is_empty() {
                    return pack(&resized.pixels, out);
                }
                separate(&resized.pixels, red, green, blue);
            }
            Filter::Tensorflow(version) => {
                let planes = [&mut *red, &mut *green, &mut *blue];
                let buffer = &mut scratch.resampler;
                resample::resize(image, self.crop.place(), (size, size), version, buffer, planes);
                if self.flip {
                    for plane in [&mut *red, &mut *green, &mut *blue] {
                        plane.chunks_exact_mut(size).for_each(<[f32]>::reverse);
                    }
                }
            }
        }
        for operation in operations {
            let planes = [&mut *red, &mut *green, &mut *blue];
            match operation {
                Operation::Color(adjustment) => adjustment.apply(planes),
                Operation::Blur(kernel) => {
                    for plane in planes {
                        kernel.apply(plane, size, &mut scratch.buffer);
                    }
                }
                Operation::Flip => {
                    for plane in planes {
                        plane.chunks_exact_mut(size).for_each(<[f32]>::reverse);
                    }
                }
                Operation::Rotate(quarters) => {
                    for plane in planes {
                        rotate(plane, size, *quarters);
                    }
                }
                Operation::Fill(patch) => patch.apply(planes, size),
                Operation::Noise(noise) => noise.apply(planes, &mut scratch.values),
                Operation::Sobel => sobel(planes, size, &mut scratch.values),
                Operation::Pillow(operation) => operation.apply(planes, size, &mut scratch.bytes),
                Operation::Recrop(crop) => {
                    let Filter::Tensorflow(version) = crop.interpolation.filter() else {
                        panic!("a crop of a view is resized by TensorFlow's filters");
                    };
                    scratch.values.clear();
                    for plane in &planes {
                        scratch.values.extend_from_slice(plane);
                    }
                    let part = |c: usize| &scratch.values[c * size * size..][..size * size];
                    let source = [part(0), part(1), part(2)];
                    let (place, buffer) = (crop.place(), &mut scratch.resampler);
                    resample::resize_planes(
                        source,
                        size,
                        place,
                        (size, size),
                        version,
                        buffer,
                        planes,
                    );
                }
                Operation::Jigsaw(_) => unreachable!("a jigsaw is the last operation"),
            }
        }
        join(red, green, blue, out);
    }
}

/// The first three bytes of each pixel.
fn pack(pixels: &[[u8; 4]], out: &mut [u8]) {
    for (out, [red, green, blue, _]) in out.as_chunks_mut::<3>().0.iter_mut().zip(pixels) {
        *out = [*red, *green, *blue];
    }
}

/// `value / 255` for the 256 whole numbers that are bytes, to the last bit: 1/255 = 1/256 + 1/65280, and the first product
/// is exact.
#[expect(clippy::inline_always, reason = "takes on the instructions of the loop around it")]
#[inline(always)]
pub(super) fn unit(value: f32) -> f32 {
    value * (1.0 / 256.0) + value * (1.0 / 65_280.0)
}

/// The first three bytes of each pixel to planes in [0, 1].
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn separate(pixels: &[[u8; 4]], red: &mut [f32], green: &mut [f32], blue: &mut [f32]) {
    let (red, green, blue) =
        (&mut red[..pixels.len()], &mut green[..pixels.len()], &mut blue[..pixels.len()]);
    for at in 0..pixels.len() {
        let pixel = u32::from_le_bytes(pixels[at]);
        red[at] = unit((pixel & 0xFF) as f32);
        green[at] = unit((pixel >> 8 & 0xFF) as f32);
        blue[at] = unit((pixel >> 16 & 0xFF) as f32);
    }
}

/// Planes to interleaved bytes, rounded to the nearest.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn join(red: &[f32], green: &[f32], blue: &[f32], pixels: &mut [u8]) {
    // 2^23 has a spacing of 1, so adding it leaves the rounded value in the lowest bits.
    let byte = |value: f32| (value.clamp(0.0, 1.0) * 255.0 + 8_388_608.0).to_bits() as u8;
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
                Operation::Color(adjustment) => write!(f, ", {adjustment}")?,
                Operation::Blur(kernel) => write!(f, ", blur {:.1} px", kernel.sigma_px())?,
                Operation::Flip => f.write_str(", flip")?,
                Operation::Rotate(quarters) => {
                    write!(f, ", rotated {}", 90 * u16::from(*quarters))?;
                }
                Operation::Fill(Patch { left, top, width, height, .. }) => {
                    write!(f, ", painted {width}x{height} at ({left}, {top})")?;
                }
                Operation::Noise(noise) => write!(f, ", noise {:.2}", noise.std)?,
                Operation::Sobel => f.write_str(", edges")?,
                Operation::Pillow(operation) => write!(f, ", {operation}")?,
                Operation::Recrop(Crop { left, top, width, height, .. }) => {
                    write!(f, ", crop again {width}x{height} at ({left}, {top})")?;
                }
                Operation::Jigsaw(patches) => {
                    write!(f, ", jigsaw {0}x{0} of {1} px", patches.grid(), patches.patch_px)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
