//! How an image is brought to a network's input when nothing is drawn: at evaluation time.

use super::crop::{CropKind, Interpolation};
use super::pipeline::Scratch;
use super::step::{Step, ViewRecipe};
use crate::data::Image;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Evaluation-time preprocessing; it belongs to the weights it was trained for and is stored with them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// What it is called: one of [`Preprocess::IDS`], or `resize-S`, `center-S` or `short-S` for a side of S pixels.
    pub id: String,
    /// Resize and crop.
    pub sizing: Sizing,
    /// Whose filter.
    pub interpolation: Interpolation,
    /// Mean of red, green, blue in \[0, 1\].
    pub mean: [f64; 3],
    /// Standard deviation of red, green, blue in \[0, 1\].
    pub std: [f64; 3],
}

/// How the input gets its size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Sizing {
    /// To exactly this square, the aspect ratio not kept; an image of this size is taken as it is.
    Exact {
        /// Side of the result.
        size_px: usize,
    },
    /// The shorter side to `resize_px`, then the central square of `crop_px` (torchvision's `Resize` and `CenterCrop`).
    ShorterSide {
        /// Shorter side after resizing.
        resize_px: usize,
        /// Side of the result, at most `resize_px`.
        crop_px: usize,
    },
    /// To exactly a square of `resize_px`, then its central square of `crop_px`.
    ExactThenCenter {
        /// Side after resizing.
        resize_px: usize,
        /// Side of the result, at most `resize_px`.
        crop_px: usize,
    },
    /// The central square of round(`fraction` · shorter side), to this size (SimCLR's `center_crop`).
    CentralSquare {
        /// Part of the shorter side, above 0 and at most 1.
        fraction: f64,
        /// Side of the result.
        size_px: usize,
    },
}

const IMAGENET: ([f64; 3], [f64; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
const CIFAR: ([f64; 3], [f64; 3]) = ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]);
const HALF: ([f64; 3], [f64; 3]) = ([0.5; 3], [0.5; 3]);
const NONE: ([f64; 3], [f64; 3]) = ([0.0; 3], [1.0; 3]);

impl Preprocess {
    /// The names [`Preprocess::named`] knows, besides `resize-S`, `center-S` and `short-S`.
    pub const IDS: [&str; 10] = [
        "imagenet",
        "imagenet-232",
        "simclr",
        "simclr-paper",
        "transfer",
        "cifar",
        "stl",
        "kitchen",
        "local",
        "adam-features",
    ];

    /// The preprocessing of a published protocol:
    ///
    /// | id | size | mean, std |
    /// |---|---|---|
    /// | `imagenet` | shorter side 256, centre 224, bilinear | ImageNet |
    /// | `imagenet-232` | shorter side 232, centre 224, bilinear (torchvision's second weights) | ImageNet |
    /// | `simclr` | centre 0.875 of the shorter side, then 224, bicubic of TensorFlow 1 | 0, 1 |
    /// | `simclr-paper` | 256 × 256, centre 224, bicubic | 0, 1 |
    /// | `transfer` | shorter side 224, centre 224, bicubic | ImageNet |
    /// | `cifar`, `kitchen` | 32 × 32, bilinear | CIFAR-10, std of about 0.2 |
    /// | `stl` | 96 × 96, bilinear | 0.5, 0.5 |
    /// | `local` | 448 × 448, bilinear | 0, 1 |
    /// | `adam-features` | 224 × 224, bilinear | 0, 1 |
    /// | `resize-S` | S × S, bilinear | 0, 1 |
    /// | `center-S` | shorter side round(S · 256 / 224), centre S, bilinear | 0, 1 |
    /// | `short-S` | shorter side S, centre S, bilinear | 0, 1 |
    ///
    /// Mean and std of weights that carry their own go before these: [`Preprocess::normalized`].
    ///
    /// # Errors
    /// [`Error::Recipe`] listing the ids.
    pub fn named(id: &str) -> Result<Self> {
        let exact = |size_px| Sizing::Exact { size_px };
        let (sizing, interpolation, (mean, std)) = match id {
            "imagenet" => (center(224), Interpolation::Bilinear, IMAGENET),
            "imagenet-232" => {
                let sizing = Sizing::ShorterSide { resize_px: 232, crop_px: 224 };
                (sizing, Interpolation::Bilinear, IMAGENET)
            }
            "simclr" => {
                let sizing = Sizing::CentralSquare { fraction: 0.875, size_px: 224 };
                (sizing, Interpolation::Tensorflow1Bicubic, NONE)
            }
            "simclr-paper" => {
                let sizing = Sizing::ExactThenCenter { resize_px: 256, crop_px: 224 };
                (sizing, Interpolation::Bicubic, NONE)
            }
            "transfer" => {
                let sizing = Sizing::ShorterSide { resize_px: 224, crop_px: 224 };
                (sizing, Interpolation::Bicubic, IMAGENET)
            }
            "cifar" | "kitchen" => (exact(32), Interpolation::Bilinear, CIFAR),
            "stl" => (exact(96), Interpolation::Bilinear, HALF),
            "local" => (exact(448), Interpolation::Bilinear, NONE),
            "adam-features" => (exact(224), Interpolation::Bilinear, NONE),
            _ => {
                let side = |prefix: &str| {
                    let side = id.strip_prefix(prefix)?.parse().ok()?;
                    (1..=4096).contains(&side).then_some(side)
                };
                let short = |size_px| Sizing::ShorterSide { resize_px: size_px, crop_px: size_px };
                let sizing = side("resize-").map(exact).or_else(|| side("center-").map(center));
                let sizing = sizing.or_else(|| side("short-").map(short));
                let sizing = sizing.ok_or_else(|| {
                    Error::Recipe(format!(
                        "unknown preprocessing `{id}`; known are `{}`, and `resize-S`, `center-S` and `short-S` for a \
                         side of S from 1 to 4096 pixels",
                        Self::IDS.join("`, `")
                    ))
                })?;
                (sizing, Interpolation::Bilinear, NONE)
            }
        };
        Ok(Self { id: id.to_owned(), sizing, interpolation, mean, std })
    }

    /// The preprocessing that fits a network trained on these views: up to 96 pixels (small images) `resize-S`, above
    /// (photographs) `center-S`, or `simclr` where the crop is that of SimCLR's code at its 224 pixels.
    pub fn for_training(view: &ViewRecipe) -> Self {
        let (mean, std) = view.normalization();
        let size_px = view.size_px();
        if let Some(Step::RandomResizedCrop(crop)) = view.steps.first()
            && crop.kind == CropKind::Tensorflow
            && let Ok(simclr) = Self::named("simclr")
            && simclr.size_px() == size_px
        {
            return simclr.normalized(mean, std);
        }
        let (name, sizing) = if size_px <= 96 {
            ("resize", Sizing::Exact { size_px })
        } else {
            ("center", center(size_px))
        };
        let id = format!("{name}-{size_px}");
        Self { id, sizing, interpolation: Interpolation::Bilinear, mean, std }
    }

    /// The same with another mean and standard deviation.
    #[must_use]
    pub fn normalized(self, mean: [f64; 3], std: [f64; 3]) -> Self {
        Self { mean, std, ..self }
    }

    /// Side of the square result.
    pub fn size_px(&self) -> usize {
        match self.sizing {
            Sizing::Exact { size_px } | Sizing::CentralSquare { size_px, .. } => size_px,
            Sizing::ShorterSide { crop_px, .. } | Sizing::ExactThenCenter { crop_px, .. } => {
                crop_px
            }
        }
    }

    /// Checks what a file says: sides from 1 to 4096 pixels (8192 before a crop), no crop larger than what it is cut from, a
    /// part of a side above 0 and at most 1, and numbers that normalise.
    ///
    /// # Errors
    /// [`Error::Recipe`].
    pub fn check(&self) -> Result<()> {
        let side = |side: usize| (1..=4096).contains(&side);
        let sized = match self.sizing {
            Sizing::Exact { size_px } => side(size_px),
            Sizing::ShorterSide { resize_px, crop_px }
            | Sizing::ExactThenCenter { resize_px, crop_px } => {
                side(crop_px) && crop_px <= resize_px && resize_px <= 2 * 4096
            }
            Sizing::CentralSquare { fraction, size_px } => {
                fraction > 0.0 && fraction <= 1.0 && side(size_px)
            }
        };
        let normal = self.mean.iter().all(|mean| mean.is_finite())
            && self.std.iter().all(|std| std.is_finite() && *std > 0.0);
        if sized && normal {
            return Ok(());
        }
        Err(Error::Recipe(format!(
            "preprocessing `{}` needs sides of 1 to 4096 pixels, a crop within them, and standard deviations above 0, \
             found {:?}, mean {:?}, std {:?}",
            self.id, self.sizing, self.mean, self.std
        )))
    }

    /// Brings an image to size; `out` is `[size_px, size_px, 3]` bytes. Mean and std are for [`super::to_device`].
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn apply(&self, image: &Image, scratch: &mut Scratch, out: &mut [u8]) {
        let side = self.size_px();
        assert_eq!(out.len(), 3 * side * side, "an input of {side} px needs 3 bytes a pixel");
        let (width, height) = (image.width, image.height);
        let whole = match self.sizing {
            Sizing::ShorterSide { resize_px, .. } => middle(width, height, resize_px),
            _ => [0, 0, width, height],
        };
        let [_, _, width, height] = whole;
        let mut resize = |place, size, out: &mut [u8]| {
            scratch.resize(image, place, size, self.interpolation, out);
        };
        let resized_to = match self.sizing {
            Sizing::Exact { .. } => return resize(whole, (side, side), out),
            Sizing::CentralSquare { fraction, .. } => {
                let part =
                    (fraction * width.min(height) as f64).round_ties_even().max(1.0) as usize;
                // SimCLR rounds up, torchvision to even.
                let offset = |side: usize| (side - part).div_ceil(2);
                return resize([offset(width), offset(height), part, part], (side, side), out);
            }
            Sizing::ExactThenCenter { resize_px, .. } => (resize_px, resize_px),
            Sizing::ShorterSide { resize_px, .. } if width <= height => {
                (resize_px, resize_px * height / width)
            }
            Sizing::ShorterSide { resize_px, .. } => (resize_px * width / height, resize_px),
        };
        let mut resized = vec![0; 3 * resized_to.0 * resized_to.1];
        resize(whole, resized_to, &mut resized);
        let offset = |long: usize| ((long - side) as f64 / 2.0).round_ties_even() as usize;
        let (left, top) = (offset(resized_to.0), offset(resized_to.1));
        let rows = resized.chunks_exact(3 * resized_to.0).skip(top);
        for (target, row) in out.chunks_exact_mut(3 * side).zip(rows) {
            target.copy_from_slice(&row[3 * left..3 * (left + side)]);
        }
    }
}

/// Pixels that an image brought to size may have before it is cropped, where it is not four times as long as wide at most.
const RESIZED: usize = 1 << 24;

/// What of an image is looked at when its shorter side becomes `resize_px`: all of it, or, of one so long that this would
/// take memory without bounds for what is cropped away, as much of the middle as fits. The scale differs by less than a
/// pixel over that length.
fn middle(width: usize, height: usize, resize_px: usize) -> [usize; 4] {
    let longest = width.min(height) * (RESIZED / (resize_px * resize_px)).max(4);
    let cut = |side: usize| (side.saturating_sub(longest) / 2, side.min(longest));
    let ((left, width), (top, height)) = (cut(width), cut(height));
    [left, top, width, height]
}

fn center(size_px: usize) -> Sizing {
    let resize_px = (size_px as f64 * 256.0 / 224.0).round() as usize;
    Sizing::ShorterSide { resize_px, crop_px: size_px }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_known_and_a_wrong_one_lists_them() {
        for id in Preprocess::IDS.into_iter().chain(["resize-64", "center-160", "short-128"]) {
            let preprocess = Preprocess::named(id).unwrap();
            assert_eq!(preprocess.id, id);
            let json = serde_json::to_string(&preprocess).unwrap();
            assert_eq!(serde_json::from_str::<Preprocess>(&json).unwrap(), preprocess);
        }
        for id in ["imagnet", "resize-", "resize-0", "center-x", "center-99999"] {
            let message = Preprocess::named(id).unwrap_err().to_string();
            assert!(message.contains(id) && message.contains("`adam-features`"), "{message}");
        }
    }

    #[test]
    fn the_size_of_training_decides() {
        let view = |name: &str| crate::augment::named(name).unwrap().remove(0);
        let small = Preprocess::for_training(&view("cld_cifar@96"));
        assert_eq!(small, Preprocess::named("resize-96").unwrap().normalized(CIFAR.0, CIFAR.1));
        assert_eq!(Preprocess::for_training(&view("simclr_in")).id, "simclr");
        assert_eq!(Preprocess::for_training(&view("simclr_in@160")).id, "center-160");
        let large = Preprocess::for_training(&view("mocov2"));
        assert_eq!((large.mean, large.std), IMAGENET);
        assert_eq!(large.id, "center-224");
        assert_eq!(large.sizing, Preprocess::named("imagenet").unwrap().sizing);
        assert_eq!(large.sizing, Sizing::ShorterSide { resize_px: 256, crop_px: 224 });
    }

    #[test]
    fn a_sliver_takes_no_memory_without_bounds_and_gives_its_middle() {
        assert_eq!(middle(500, 375, 256), [0, 0, 500, 375]);
        assert_eq!(middle(2, 512, 256), [0, 0, 2, 512]);
        assert_eq!(middle(60_000, 1, 256), [29_872, 0, 256, 1]);
        // 27 GB, if all of it were brought to size; the middle is brighter.
        let bright = |x: usize| if (29_990..30_010).contains(&x) { 200 } else { 50 };
        let pixels = (0..60_000).flat_map(|x| [bright(x); 3]).collect();
        let image = Image { width: 60_000, height: 1, pixels };
        let imagenet = Preprocess::named("imagenet").unwrap();
        let mut out = vec![0; 3 * 224 * 224];
        imagenet.apply(&image, &mut Scratch::default(), &mut out);
        assert!(out.iter().all(|byte| *byte == 200));
    }

    #[test]
    fn an_image_of_the_right_size_is_taken_as_it_is() {
        let pixels: Vec<u8> = (0..32 * 32 * 3).map(|i| (i * 7 % 251) as u8).collect();
        let image = Image { width: 32, height: 32, pixels: pixels.clone() };
        let mut out = vec![0; pixels.len()];
        Preprocess::named("cifar").unwrap().apply(&image, &mut Scratch::default(), &mut out);
        assert_eq!(out, pixels);
    }
}
