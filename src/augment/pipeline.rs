//! Sampling a view and applying what was sampled.

use super::blur::{Buffer, Kernel};
use super::color::Adjustment;
use super::crop::{Crop, Filter, Interpolation, resize_box};
use super::erase::Patch;
use super::jigsaw::Patches;
use super::noise::Noise;
use super::pillow::Bytes;
use super::rand_augment::PillowOperation;
use super::resample;
use super::rotate::rotate;
use super::sobel::sobel;
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
    resizer: Resizer,
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
                resize_box(image, place, size, filter, &mut self.resizer, out);
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
                let place = self.crop.place();
                resize_box(image, place, (size, size), filter, &mut scratch.resizer, out);
                if self.flip {
                    for row in out.chunks_exact_mut(3 * size) {
                        row.as_chunks_mut::<3>().0.reverse();
                    }
                }
                if operations.is_empty() {
                    return;
                }
                separate(out, red, green, blue);
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
mod tests {
    use super::*;

    fn pipeline(steps: &str) -> Pipeline {
        let recipe = format!("count = 2\nsteps = [{steps}]");
        Pipeline::new(&[toml::from_str(&recipe).unwrap()]).unwrap()
    }

    const CROP: &str = "{ name = \"random_resized_crop\", size_px = 8 }";

    fn noise(width: usize, height: usize) -> Image {
        let mut stream = Stream::open(5, Purpose::Test, Scope::Item(0));
        let pixels = (0..3 * width * height).map(|_| stream.next_u32() as u8).collect();
        Image { width, height, pixels }
    }

    fn sigma(drawn: &Drawn) -> Option<f32> {
        drawn.operations.iter().find_map(|operation| match operation {
            Operation::Blur(kernel) => Some(kernel.sigma_px()),
            _ => None,
        })
    }

    #[test]
    fn a_batch_sigma_is_common_to_one_view_of_one_step_and_an_image_sigma_is_not() {
        for (per, common) in [("batch", true), ("image", false)] {
            let pipeline =
                pipeline(&format!("{CROP}, {{ name = \"blur\", sigma_per = \"{per}\" }}"));
            let sigmas = |step, view| -> Vec<Option<f32>> {
                let draw = |index| pipeline.sample(1, 0, index, step, view, (20, 20));
                (0..200).map(|index| sigma(&draw(index))).collect()
            };
            let distinct = |step, view| {
                let mut found: Vec<u32> =
                    sigmas(step, view).into_iter().flatten().map(f32::to_bits).collect();
                // The probability stays per image.
                assert!((70..130).contains(&found.len()), "{}", found.len());
                found.sort_unstable();
                found.dedup();
                found
            };
            let sets = [distinct(0, 0), distinct(0, 1), distinct(1, 0)];
            if common {
                assert!(sets.iter().all(|set| set.len() == 1));
                assert!(sets[0] != sets[1] && sets[0] != sets[2]);
            } else {
                assert!(sets.iter().all(|set| set.len() > 60));
            }
        }
    }

    #[test]
    fn a_draw_depends_on_seed_epoch_image_and_view_and_not_on_the_step() {
        let pipeline =
            pipeline(&format!("{CROP}, {{ name = \"color_jitter\", probability = 1.0 }}"));
        let first = pipeline.sample(1, 2, 3, 4, 0, (50, 40));
        assert_eq!(first, pipeline.sample(1, 2, 3, 9, 0, (50, 40)));
        for other in [(0, 2, 3, 0), (1, 0, 3, 0), (1, 2, 0, 0), (1, 2, 3, 1)] {
            let (seed, epoch, index, view) = other;
            assert_ne!(first, pipeline.sample(seed, epoch, index, 4, view, (50, 40)), "{other:?}");
        }
    }

    #[test]
    fn changing_one_step_leaves_the_draws_of_the_others_alone() {
        let tail = "{ name = \"flip\" }, { name = \"color_jitter\", probability = 1.0 }";
        let one = pipeline(&format!("{CROP}, {tail}"));
        let other = pipeline(&format!("{{ name = \"resize\", size_px = 8 }}, {tail}"));
        for index in 0..50 {
            let a = one.sample(1, 0, index, 0, 0, (30, 30));
            let b = other.sample(1, 0, index, 0, 0, (30, 30));
            assert_eq!((a.flip, a.operations), (b.flip, b.operations));
            assert_eq!((b.crop.left, b.crop.top, b.crop.width, b.crop.height), (0, 0, 30, 30));
        }
    }

    #[test]
    fn views_share_a_crop_where_the_recipe_says_so() {
        for (shared, common) in [("true", true), ("false", false)] {
            let crop = CROP.replace(" }", &format!(", shared = {shared} }}"));
            let pipeline = pipeline(&format!("{crop}, {{ name = \"color_jitter\" }}"));
            let draw = |index, view| pipeline.sample(1, 0, index, 0, view, (50, 40));
            let mut crops: Vec<Crop> = (0..20).map(|index| draw(index, 0).crop).collect();
            for (index, first) in (0..).zip(&crops) {
                let second = draw(index, 1);
                assert_eq!(*first == second.crop, common);
                assert!(
                    second.operations.is_empty() || second.operations != draw(index, 0).operations
                );
            }
            crops.dedup();
            assert_eq!(crops.len(), 20);
        }
    }

    #[test]
    fn a_second_crop_takes_a_part_of_the_view() {
        let sharp = "size_px = 24, interpolation = \"tensorflow_bicubic\" }";
        let step = CROP.replace("size_px = 8 }", sharp);
        let once = pipeline(&step);
        let twice = pipeline(&format!("{step}, {step}"));
        let (image, mut scratch) = (noise(40, 30), Scratch::default());
        for index in 0..20 {
            let drawn = once.sample(1, 0, index, 0, 0, (40, 30));
            let mut view = Image { width: 24, height: 24, pixels: vec![0; 3 * 24 * 24] };
            drawn.apply(&image, &mut scratch, &mut view.pixels);
            let again = twice.sample(1, 0, index, 0, 0, (40, 30));
            assert_eq!(again.crop, drawn.crop);
            let [Operation::Recrop(part)] = &again.operations[..] else { panic!("{again}") };
            assert!(part.left + part.width <= 24 && part.top + part.height <= 24);
            let (mut found, mut expected) = (vec![0; 3 * 24 * 24], vec![0; 3 * 24 * 24]);
            again.apply(&image, &mut scratch, &mut found);
            let filter = Interpolation::TensorflowBicubic;
            scratch.resize(&view, part.place(), (24, 24), filter, &mut expected);
            // The view was rounded in between here.
            assert!(found.iter().zip(&expected).all(|(a, b)| a.abs_diff(*b) <= 1));
        }
    }

    #[test]
    fn a_flip_mirrors_and_nothing_else() {
        let image = noise(9, 9);
        for interpolation in [Interpolation::Bilinear, Interpolation::TensorflowBicubic] {
            let crop = Crop { left: 0, top: 0, width: 9, height: 9, size_px: 9, interpolation };
            let drawn = Drawn { crop, flip: true, operations: Vec::new() };
            let mut out = vec![0; image.pixels.len()];
            drawn.apply(&image, &mut Scratch::default(), &mut out);
            for (y, x, c) in
                (0..9).flat_map(|y| (0..9).flat_map(move |x| (0..3).map(move |c| (y, x, c))))
            {
                assert_eq!(out[3 * (9 * y + x) + c], image.pixels[3 * (9 * y + 8 - x) + c]);
            }
        }
    }

    #[test]
    fn a_flip_takes_its_place_behind_what_has_a_left_and_a_right() {
        let flip = "{ name = \"flip\", probability = 1 }";
        for (steps, first, last) in [
            (format!("{flip}, {{ name = \"cutout\" }}"), true, false),
            (format!("{{ name = \"sobel\" }}, {flip}"), true, false),
            (format!("{{ name = \"cutout\" }}, {flip}"), false, true),
            (format!("{flip}, {{ name = \"rotation\" }}, {flip}"), true, true),
        ] {
            let drawn = pipeline(&format!("{CROP}, {steps}")).sample(1, 0, 0, 0, 0, (20, 20));
            let behind = drawn.operations.last() == Some(&Operation::Flip);
            assert_eq!((drawn.flip, behind), (first, last), "{steps}");
        }
        let image = noise(8, 8);
        let steps = "{ name = \"resize\", size_px = 8 }, { name = \"cutout\" }".to_owned();
        let mut views = [vec![0; 192], vec![0; 192]];
        for (steps, out) in [steps.clone(), format!("{steps}, {flip}")].iter().zip(&mut views) {
            let drawn = pipeline(steps).sample(1, 0, 5, 0, 0, (8, 8));
            drawn.apply(&image, &mut Scratch::default(), out);
        }
        views[1].chunks_exact_mut(24).for_each(|row| row.as_chunks_mut::<3>().0.reverse());
        assert_eq!(views[0], views[1]);
    }

    #[test]
    fn every_operation_is_drawn_stored_shown_and_done_again_alike() {
        let pipeline = pipeline(
            "{ name = \"random_resized_crop\", size_px = 24 }, { name = \"rotation\" }, \
             { name = \"cutout\" }, { name = \"flip\", probability = 1 }, { name = \"gaussian_noise\" }, \
             { name = \"rand_augment\", probability = 1 }, { name = \"sobel\" }, { name = \"jigsaw\", patch_px = 5 }",
        );
        assert_eq!((pipeline.size_px(0), pipeline.size_px(1)), (15, 15));
        let image = noise(40, 30);
        let mut scratch = Scratch::default();
        let mut seen = Vec::new();
        for index in 0..40 {
            let drawn = pipeline.sample(1, 0, index, 0, 0, (40, 30));
            let text = drawn.to_string();
            for part in [", rotated ", ", painted ", ", flip", ", noise 0.10", ", rand ", ", edges"]
            {
                assert!(text.contains(part), "{part} missing in {text}");
            }
            assert!(text.ends_with(", jigsaw 3x3 of 5 px"), "{text}");
            let json = serde_json::to_string(&drawn).unwrap();
            assert_eq!(serde_json::from_str::<Drawn>(&json).unwrap(), drawn);
            let mut views = [vec![0; 675], vec![1; 675]];
            drawn.apply(&image, &mut scratch, &mut views[0]);
            drawn.apply(&image, &mut Scratch::default(), &mut views[1]);
            assert_eq!(views[0], views[1]);
            assert!(!seen.contains(&views[0]));
            seen.push(views[0].clone());
        }
    }

    #[test]
    fn a_jigsaw_cuts_the_view_the_other_steps_made() {
        let steps = "{ name = \"resize\", size_px = 20 }, { name = \"flip\", probability = 1 }";
        let image = noise(20, 20);
        let mut whole = vec![0; 1200];
        pipeline(steps).sample(1, 0, 3, 0, 0, (20, 20)).apply(
            &image,
            &mut Scratch::default(),
            &mut whole,
        );
        let jigsaw = pipeline(&format!("{steps}, {{ name = \"jigsaw\", grid = 2, patch_px = 7 }}"));
        let drawn = jigsaw.sample(1, 0, 3, 0, 0, (20, 20));
        let Some(Operation::Jigsaw(patches)) = drawn.operations.last() else { panic!("{drawn}") };
        let mut out = vec![0; 3 * 14 * 14];
        drawn.apply(&image, &mut Scratch::default(), &mut out);
        for (at, [top, left]) in patches.corners.iter().enumerate() {
            for y in 0..7 {
                let found = &out[3 * (14 * (at / 2 * 7 + y) + at % 2 * 7)..][..21];
                assert_eq!(found, &whole[3 * (20 * (top + y) + left)..][..21]);
            }
        }
    }

    #[test]
    fn memory_of_earlier_views_leaves_no_trace() {
        let image = noise(40, 30);
        let steps = "{ name = \"color_jitter\" }, { name = \"blur\", kind = \"pillow\" }, { name = \"flip\" }";
        let small = pipeline(&format!("{CROP}, {steps}"));
        let large = pipeline(&format!("{}, {steps}", CROP.replace('8', "37")));
        let sharp = CROP.replace(" }", ", interpolation = \"tensorflow_bicubic\" }");
        let [sharp, plain] = ["37", "8"].map(|side| pipeline(&sharp.replace('8', side)));
        let mut scratch = Scratch::default();
        for index in 0..20 {
            for pipeline in [&large, &sharp, &plain, &small] {
                let drawn = pipeline.sample(1, 0, index, 0, 1, (40, 30));
                let mut out = vec![0; 3 * pipeline.size_px(1).pow(2)];
                let mut fresh = out.clone();
                drawn.apply(&image, &mut scratch, &mut out);
                drawn.apply(&image, &mut Scratch::default(), &mut fresh);
                assert_eq!(out, fresh);
            }
        }
    }

    #[test]
    fn bytes_survive_the_way_to_planes_and_back() {
        let pixels: Vec<u8> = (0..=255).flat_map(|v| [v, 255 - v, v ^ 0x55]).collect();
        let (mut red, mut green, mut blue) = ([0.0; 256], [0.0; 256], [0.0; 256]);
        separate(&pixels, &mut red, &mut green, &mut blue);
        let mut back = vec![0; pixels.len()];
        join(&red, &green, &blue, &mut back);
        assert_eq!(back, pixels);
        let mut rounded = [0; 9];
        let values = |v: f32| [v / 255.0, (v + 0.4) / 255.0, (v + 0.6) / 255.0];
        join(&values(0.0), &values(-3.0), &values(300.0), &mut rounded);
        assert_eq!(rounded, [0, 0, 255, 0, 0, 255, 1, 0, 255]);
    }

    #[test]
    fn views_of_several_kinds_keep_their_order_size_and_statistics() {
        let recipe = |text: &str| toml::from_str::<ViewRecipe>(text).unwrap();
        let pipeline = Pipeline::new(&[
            recipe(&format!(
                "count = 2\nsteps = [{CROP}, {{ name = \"normalize\", mean = [0.1, 0.2, 0.3], std = [1, 2, 3] }}]"
            )),
            recipe("count = 3\nsteps = [{ name = \"resize\", size_px = 4 }]"),
        ])
        .unwrap();
        assert_eq!(pipeline.views(), 5);
        assert_eq!([0, 1, 2, 4].map(|view| pipeline.size_px(view)), [8, 8, 4, 4]);
        assert_eq!(pipeline.normalization(1), ([0.1, 0.2, 0.3], [1.0, 2.0, 3.0]));
        assert_eq!(pipeline.normalization(2), ([0.0; 3], [1.0; 3]));
        let message = Pipeline::new(&[]).unwrap_err().to_string();
        assert!(message.contains("`view` must describe 1 to 255 views"), "{message}");
    }
}
