//! What a recipe says about views, and its check.

use super::blur::Blur;
use super::color::{ColorJitter, Grayscale};
use super::crop::{RandomResizedCrop, Resize};
use super::erase::{Cutout, RandomErasing};
use super::jigsaw::Jigsaw;
use super::noise::GaussianNoise;
use super::rand_augment::RandAugment;
use super::rotate::Rotation;
use super::sobel::Sobel;
use super::solarize::Solarize;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One augmentation as a recipe names it: `{ name = "flip", probability = 0.5 }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Step {
    /// A random part of the image at a fixed size; of the view if it is not the first step.
    RandomResizedCrop(RandomResizedCrop),
    /// The whole image at a fixed size.
    Resize(Resize),
    /// Left and right exchanged.
    Flip(Flip),
    /// Brightness, contrast, saturation and hue in random order.
    ColorJitter(ColorJitter),
    /// Colour taken away.
    Grayscale(Grayscale),
    /// Gaussian blur.
    Blur(Blur),
    /// Bright values inverted.
    Solarize(Solarize),
    /// Quarter turns.
    Rotation(Rotation),
    /// A grey square painted over.
    Cutout(Cutout),
    /// A box painted over after normalising.
    RandomErasing(RandomErasing),
    /// Normal noise on every element.
    GaussianNoise(GaussianNoise),
    /// Edges instead of the image.
    Sobel(Sobel),
    /// Random operations of Pillow.
    RandAugment(RandAugment),
    /// Patches of a grid, laid out.
    Jigsaw(Jigsaw),
    /// Mean and standard deviation; the last step.
    Normalize(Normalize),
}

/// Exchanges left and right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flip {
    /// How often, 0.5 unless told.
    pub probability: f64,
}

impl Default for Flip {
    fn default() -> Self {
        Self { probability: 0.5 }
    }
}

/// Subtracts `mean` and divides by `std`, per channel, on values in \[0, 1\].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    /// Mean of red, green, blue.
    pub mean: [f64; 3],
    /// Standard deviation of red, green, blue; above 0.
    pub std: [f64; 3],
}

/// One kind of view: how many of it, and what happens to the image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewRecipe {
    /// Views of this kind, each with draws of its own.
    pub count: usize,
    /// In order. The first gives the size, the last may normalise.
    pub steps: Vec<Step>,
}

impl ViewRecipe {
    /// Checks ranges and order; `position` is the recipe's place among the `[[view]]` blocks, for messages.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key, `view[0].steps[2].hue`.
    pub fn check(&self, position: usize) -> Result<()> {
        let view = format!("view[{position}]");
        if !(1..=255).contains(&self.count) {
            return Err(Error::Recipe(format!(
                "`{view}.count` must be 1 to 255, found `{}`",
                self.count
            )));
        }
        let Some(Step::RandomResizedCrop(_) | Step::Resize(_)) = self.steps.first() else {
            return Err(Error::Recipe(format!(
                "`{view}.steps` must begin with `random_resized_crop` or `resize`, which gives the size"
            )));
        };
        for (index, step) in self.steps.iter().enumerate() {
            let place = Place(format!("{view}.steps[{index}]"));
            match step {
                Step::Resize(_) if index > 0 => {
                    return Err(Error::Recipe(format!(
                        "`{}` gives a size again; only the first step may",
                        place.0
                    )));
                }
                Step::RandomResizedCrop(crop) => {
                    crop.check(&place)?;
                    if index > 0 {
                        crop.check_again(&place, self.crop_px())?;
                    }
                }
                Step::Resize(resize) => place.size(resize.size_px)?,
                Step::Flip(flip) => place.probability(flip.probability)?,
                Step::ColorJitter(jitter) => jitter.check(&place)?,
                Step::Grayscale(grayscale) => place.probability(grayscale.probability)?,
                Step::Blur(blur) => blur.check(&place, self.crop_px())?,
                Step::Rotation(rotation) => rotation.check(&place)?,
                Step::Cutout(cutout) => cutout.check(&place)?,
                Step::RandomErasing(_) | Step::Jigsaw(_) if !self.ends_after(index) => {
                    return Err(Error::Recipe(format!(
                        "`{}` is `{}`, after which only `normalize` may stand",
                        place.0,
                        if matches!(step, Step::Jigsaw(_)) { "jigsaw" } else { "random_erasing" }
                    )));
                }
                Step::RandomErasing(erasing) => erasing.check(&place)?,
                Step::GaussianNoise(noise) => noise.check(&place)?,
                Step::Sobel(sobel) => sobel.check(&place)?,
                Step::RandAugment(augment) => augment.check(&place)?,
                Step::Jigsaw(jigsaw) => jigsaw.check(&place, self.crop_px())?,
                Step::Solarize(solarize) => solarize.check(&place)?,
                Step::Normalize(_) if index + 1 < self.steps.len() => {
                    return Err(Error::Recipe(format!(
                        "`{}` is `normalize` and must be the last step of `{view}`",
                        place.0
                    )));
                }
                Step::Normalize(normalize) => normalize.check(&place)?,
            }
        }
        Ok(())
    }

    /// Whether nothing but `normalize` follows a step.
    fn ends_after(&self, index: usize) -> bool {
        self.steps[index + 1..].iter().all(|step| matches!(step, Step::Normalize(_)))
    }

    /// Mean and standard deviation of the channels in \[0, 1\]; 0 and 1 if the recipe does not normalise.
    pub fn normalization(&self) -> ([f64; 3], [f64; 3]) {
        match self.steps.last() {
            Some(Step::Normalize(normalize)) => (normalize.mean, normalize.std),
            _ => ([0.0; 3], [1.0; 3]),
        }
    }

    /// Side of the view as the network takes it, in pixels (0 before [`ViewRecipe::check`] has found a size-giving step).
    pub fn size_px(&self) -> usize {
        let jigsaw = self.steps.iter().find_map(|step| match step {
            Step::Jigsaw(jigsaw) => Some(jigsaw.size_px()),
            _ => None,
        });
        jigsaw.unwrap_or_else(|| self.crop_px())
    }

    /// Mean and standard deviation, if the view is normalised.
    pub(super) fn normalize(&self) -> Option<&Normalize> {
        match self.steps.last() {
            Some(Step::Normalize(normalize)) => Some(normalize),
            _ => None,
        }
    }

    /// Side of the image on which the steps act: that of the crop. A jigsaw makes a view of another size of it.
    pub(super) fn crop_px(&self) -> usize {
        match self.steps.first() {
            Some(Step::RandomResizedCrop(crop)) => crop.size_px,
            Some(Step::Resize(resize)) => resize.size_px,
            _ => 0,
        }
    }
}

impl Normalize {
    fn check(&self, place: &Place) -> Result<()> {
        place.require(
            self.mean.iter().all(|mean| mean.is_finite()),
            "mean",
            "three finite numbers",
            format_args!("{:?}", self.mean),
        )?;
        place.require(
            self.std.iter().all(|std| *std > 0.0 && std.is_finite()),
            "std",
            "three numbers above 0",
            format_args!("{:?}", self.std),
        )
    }
}

/// Where in the recipe a step stands, for messages.
pub(super) struct Place(String);

impl Place {
    pub(super) fn require(
        &self,
        holds: bool,
        key: &str,
        expected: &str,
        found: fmt::Arguments,
    ) -> Result<()> {
        if holds {
            return Ok(());
        }
        Err(Error::Recipe(format!("`{}.{key}` must be {expected}, found `{found}`", self.0)))
    }

    pub(super) fn probability(&self, probability: f64) -> Result<()> {
        self.require(
            (0.0..=1.0).contains(&probability),
            "probability",
            "within 0 to 1",
            format_args!("{probability}"),
        )
    }

    /// Ranges that a box is drawn from: share of the area, and width over height.
    pub(super) fn box_ranges(&self, scale: [f64; 2], ratio: [f64; 2]) -> Result<()> {
        let [low, high] = scale;
        self.require(
            interval(scale) && low > 0.0 && high <= 1.0,
            "scale",
            "two areas `[low, high]` with 0 < low <= high <= 1",
            format_args!("[{low}, {high}]"),
        )?;
        let [low, high] = ratio;
        self.require(
            interval(ratio) && low > 0.0,
            "ratio",
            "two ratios `[low, high]` with 0 < low <= high",
            format_args!("[{low}, {high}]"),
        )
    }

    pub(super) fn size(&self, size_px: usize) -> Result<()> {
        self.require(
            (1..=4096).contains(&size_px),
            "size_px",
            "1 to 4096",
            format_args!("{size_px}"),
        )
    }
}

/// Whether two numbers are finite and in order.
pub(super) fn interval([low, high]: [f64; 2]) -> bool {
    low.is_finite() && high.is_finite() && low <= high
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIMCLR: &str = r#"
        count = 2
        steps = [
          { name = "random_resized_crop", size_px = 32, scale = [0.2, 1] },
          { name = "flip" },
          { name = "color_jitter", brightness = 0.4, hue = 0.1 },
          { name = "grayscale" },
          { name = "blur", sigma_per = "batch" },
          { name = "normalize", mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] },
        ]"#;

    fn parse(text: &str) -> ViewRecipe {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_recipe_survives_toml_and_is_complete_afterwards() {
        let recipe = parse(SIMCLR);
        recipe.check(0).unwrap();
        let text = toml::to_string(&recipe).unwrap();
        assert_eq!(parse(&text), recipe);
        for default in ["ratio = [0.75", "probability = 0.5", "contrast = 0.4", "border = \"zero\""]
        {
            assert!(text.contains(default), "{default} missing in {text}");
        }
    }

    #[test]
    fn a_wrong_recipe_names_its_key() {
        let cases = [
            ("[0.2, 1]", "[0.2, 1.5]", "`view[3].steps[0].scale` must be two areas"),
            (
                "size_px = 32",
                "size_px = 0",
                "`view[3].steps[0].size_px` must be 1 to 4096, found `0`",
            ),
            ("\"flip\"", "\"flip\", probability = 1.5", "`view[3].steps[1].probability`"),
            (
                "hue = 0.1",
                "hue = 0.6",
                "`view[3].steps[2].hue` must be within 0 to 0.5, found `0.6`",
            ),
            ("brightness = 0.4", "brightness = -1.0", "`view[3].steps[2].brightness`"),
            ("\"batch\"", "\"batch\", sigma_px = [0.0, 1.0]", "`view[3].steps[4].sigma_px`"),
            ("\"batch\"", "\"batch\", kernel_px = 99", "`view[3].steps[4].kernel_px`"),
            (
                "hue = 0.1",
                "kind = \"tf_v2\", contrast = 1.2",
                "`view[3].steps[2].contrast` must be at most 1 for TensorFlow's kinds, found `1.2`",
            ),
            (
                "\"grayscale\"",
                "\"solarize\", threshold = 1.5",
                "`view[3].steps[3].threshold` must be within 0 to 1, found `1.5`",
            ),
            (
                "\"batch\"",
                "\"batch\", kind = \"pillow\", kernel_px = 3",
                "`view[3].steps[4].kernel_px`",
            ),
            ("std = [0.25", "std = [0.0", "`view[3].steps[5].std`"),
            ("count = 2", "count = 0", "`view[3].count` must be 1 to 255, found `0`"),
            (
                "{ name = \"grayscale\" }",
                "{ name = \"resize\", size_px = 8 }",
                "only the first step may",
            ),
            (
                "{ name = \"flip\" }",
                "{ name = \"random_resized_crop\", size_px = 24 }",
                "`view[3].steps[1].size_px` must be that of the first crop, `32`, found `24`",
            ),
            (
                "{ name = \"flip\" }",
                "{ name = \"random_resized_crop\", size_px = 32 }",
                "`view[3].steps[1].interpolation` must be one of TensorFlow's",
            ),
            (
                "{ name = \"flip\" }",
                "{ name = \"normalize\", mean = [0,0,0], std = [1,1,1] }",
                "last step",
            ),
            (
                "{ name = \"random_resized_crop\", size_px = 32, scale = [0.2, 1] },",
                "",
                "must begin with",
            ),
        ];
        for (from, to, expected) in cases {
            assert!(SIMCLR.contains(from));
            let message = parse(&SIMCLR.replace(from, to)).check(3).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    const STUDY: &str = r#"
        count = 1
        steps = [
          { name = "resize", size_px = 31 },
          { name = "rotation", angles = [90, 0] },
          { name = "cutout", fraction = 0.25 },
          { name = "gaussian_noise", std = 0.2 },
          { name = "sobel" },
          { name = "rand_augment", operations = 3, magnitude_std = 1.0 },
          { name = "jigsaw", grid = 3, patch_px = 10 },
          { name = "normalize", mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] },
        ]"#;

    #[test]
    fn the_steps_of_the_composition_study_are_checked_too() {
        let recipe = parse(STUDY);
        recipe.check(0).unwrap();
        assert_eq!(parse(&toml::to_string(&recipe).unwrap()), recipe);
        assert_eq!((recipe.size_px(), recipe.crop_px()), (30, 31));
        let cases = [
            ("[90, 0]", "[90, 45]", "`view[1].steps[1].angles` must be a list of 0, 90, 180"),
            ("[90, 0]", "[]", "`view[1].steps[1].angles`"),
            ("fraction = 0.25", "fraction = 0.0", "`view[1].steps[2].fraction` must be above 0"),
            ("fraction = 0.25", "fill = 1.5", "`view[1].steps[2].fill` must be within 0 to 1"),
            ("std = 0.2", "std = -0.2", "`view[1].steps[3].std` must be within 0 to 10"),
            ("\"sobel\"", "\"sobel\", probability = 2.0", "`view[1].steps[4].probability`"),
            ("operations = 3", "operations = 0", "`view[1].steps[5].operations` must be 1 to 15"),
            ("operations = 3", "magnitude = 11.0", "`view[1].steps[5].magnitude` must be within 0"),
            ("std = 1.0", "std = -1.0", "`view[1].steps[5].magnitude_std` must be at least 0"),
            ("grid = 3", "grid = 0", "`view[1].steps[6].grid` must be 1 to 16, found `0`"),
            (
                "px = 10",
                "px = 11",
                "`view[1].steps[6].patch_px` must be 1 to 10, the side of a cell",
            ),
            (
                "\"sobel\"",
                "\"jigsaw\", patch_px = 1",
                "`view[1].steps[4]` is `jigsaw`, after which only `normalize` may stand",
            ),
            (
                "\"sobel\"",
                "\"random_erasing\"",
                "`view[1].steps[4]` is `random_erasing`, after which only",
            ),
            (
                "\"jigsaw\", grid = 3, patch_px = 10",
                "\"random_erasing\", scale = [0.0, 0.5]",
                "`view[1].steps[6].scale` must be two areas",
            ),
            (
                "\"jigsaw\", grid = 3, patch_px = 10",
                "\"random_erasing\", ratio = [2.0, 0.5]",
                "`view[1].steps[6].ratio` must be two ratios",
            ),
        ];
        for (from, to, expected) in cases {
            assert!(STUDY.contains(from));
            let message = parse(&STUDY.replace(from, to)).check(1).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn unknown_keys_and_names_are_refused() {
        for (from, to) in [("hue", "hew"), ("\"flip\"", "\"flop\""), ("count", "cont")] {
            assert!(toml::from_str::<ViewRecipe>(&SIMCLR.replace(from, to)).is_err(), "{to}");
        }
    }
}
