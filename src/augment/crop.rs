//! The geometric first step of every view: which box of the image, at which size.

use super::resample::Version;
use super::resize;
use super::step::Place;
use crate::error::Result;
use crate::random::Stream;
use serde::{Deserialize, Serialize};

/// How pixels are interpolated: by Pillow, antialiased when shrinking, or by TensorFlow, not antialiased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Triangle filter of support 1.
    #[default]
    Bilinear,
    /// Keys' cubic with a = −0.5, support 2.
    Bicubic,
    /// `tf.image.resize` of TensorFlow 2 (SimCLR's `tf2/`, BYOL): Keys' cubic with a = −0.5 over 4 × 4 pixels.
    TensorflowBicubic,
    /// `resize_bicubic` of TensorFlow 1 (SimCLR's first code): a = −0.75, no half-pixel centres.
    Tensorflow1Bicubic,
}

/// Which code's way of drawing the box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CropKind {
    /// `RandomResizedCrop`: up to ten tries with the area uniform and the aspect ratio log-uniform, else the largest
    /// centred box of an allowed ratio.
    #[default]
    Torchvision,
    /// SimCLR's `sample_distorted_bounding_box` with the whole image as the object, of which a tenth must be covered: up
    /// to 100 tries with the ratio uniform and the *height* uniform between those of the least and the greatest area, else
    /// the whole image. So boxes below a tenth of the image are drawn again, and, as in TensorFlow's kernel, a box never
    /// lies at the right or lower edge unless it spans the side.
    Tensorflow,
    /// BYOL's: one draw of uniform area and log-uniform ratio, width and height cut to the image's.
    Byol,
}

/// A random part of the image at a fixed size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomResizedCrop {
    /// Side of the square view, in pixels.
    pub size_px: usize,
    /// Least and greatest area as a fraction of the image's, within (0, 1].
    #[serde(default = "default_scale")]
    pub scale: [f64; 2],
    /// Least and greatest width / height.
    #[serde(default = "default_ratio")]
    pub ratio: [f64; 2],
    /// `bilinear` (default), `bicubic`, `tensorflow_bicubic` or `tensorflow1_bicubic`.
    #[serde(default)]
    pub interpolation: Interpolation,
    /// `torchvision` (default), `tensorflow` or `byol`.
    #[serde(default)]
    pub kind: CropKind,
    /// Whether the box is drawn for the image instead of the view: all views that say so and are otherwise alike here
    /// show the same part (the common base crop of SimCLR's composition study, Chen et al. 2020, section 3.1).
    #[serde(default)]
    pub shared: bool,
}

fn default_scale() -> [f64; 2] {
    [0.08, 1.0]
}

fn default_ratio() -> [f64; 2] {
    [0.75, 4.0 / 3.0]
}

/// The whole image brought to a fixed square, its aspect ratio not kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Side of the square view, in pixels.
    pub size_px: usize,
    /// `bilinear` (default), `bicubic`, `tensorflow_bicubic` or `tensorflow1_bicubic`.
    #[serde(default)]
    pub interpolation: Interpolation,
}

/// A box of an image and the square it is resized to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crop {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns, at least 1.
    pub width: usize,
    /// Rows, at least 1.
    pub height: usize,
    /// Side of the result.
    pub size_px: usize,
    /// How.
    pub interpolation: Interpolation,
}

impl RandomResizedCrop {
    pub(super) fn check(&self, place: &Place) -> Result<()> {
        place.size(self.size_px)?;
        place.box_ranges(self.scale, self.ratio)
    }

    /// Checks what holds besides for a crop of a view of side `size_px`.
    pub(super) fn check_again(&self, place: &Place, size_px: usize) -> Result<()> {
        let expected = format!("that of the first crop, `{size_px}`");
        place.require(
            self.size_px == size_px,
            "size_px",
            &expected,
            format_args!("{}", self.size_px),
        )?;
        place.require(
            matches!(self.interpolation.filter(), Filter::Tensorflow(_)),
            "interpolation",
            "one of TensorFlow's, which work on values that are not rounded to bytes,",
            format_args!("{}", format!("{:?}", self.interpolation).to_lowercase()),
        )
    }

    /// Draws the box for an image of the given width and height.
    pub(super) fn sample(&self, stream: &mut Stream, image: (usize, usize)) -> Crop {
        let [left, top, width, height] = match self.kind {
            CropKind::Torchvision => self.torchvision(stream, image),
            CropKind::Tensorflow => self.tensorflow(stream, image),
            CropKind::Byol => self.byol(stream, image),
        };
        let (size_px, interpolation) = (self.size_px, self.interpolation);
        Crop { left, top, width, height, size_px, interpolation }
    }

    /// Width and height of a box of uniform area and log-uniform ratio; they may exceed the image's.
    fn uniform_area(&self, stream: &mut Stream, (width, height): (usize, usize)) -> (usize, usize) {
        let area = (width * height) as f64 * stream.range(self.scale[0], self.scale[1]);
        let ratio = stream.range(self.ratio[0].ln(), self.ratio[1].ln()).exp();
        let side = |square: f64| square.sqrt().round_ties_even() as usize;
        (side(area * ratio), side(area / ratio))
    }

    fn torchvision(&self, stream: &mut Stream, (width, height): (usize, usize)) -> [usize; 4] {
        for _ in 0..10 {
            let (w, h) = self.uniform_area(stream, (width, height));
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let top = stream.below((height - h) as u64 + 1) as usize;
                let left = stream.below((width - w) as u64 + 1) as usize;
                return [left, top, w, h];
            }
        }
        let found = width as f64 / height as f64;
        let (mut w, mut h) = (width, height);
        if found < self.ratio[0] {
            h = ((w as f64 / self.ratio[0]).round_ties_even() as usize).clamp(1, height);
        } else if found > self.ratio[1] {
            w = ((h as f64 * self.ratio[1]).round_ties_even() as usize).clamp(1, width);
        }
        [(width - w) / 2, (height - h) / 2, w, h]
    }

    fn byol(&self, stream: &mut Stream, (width, height): (usize, usize)) -> [usize; 4] {
        let (w, h) = self.uniform_area(stream, (width, height));
        let (w, h) = (w.clamp(1, width), h.clamp(1, height));
        let left = stream.below((width - w) as u64 + 1) as usize;
        let top = stream.below((height - h) as u64 + 1) as usize;
        [left, top, w, h]
    }

    /// In f32 like TensorFlow's kernel, whose roundings decide for small images.
    fn tensorflow(&self, stream: &mut Stream, (width, height): (usize, usize)) -> [usize; 4] {
        let pixels = (width * height) as f32;
        let [least, most] = self.scale.map(|part| part as f32 * pixels);
        for _ in 0..100 {
            let ratio = stream.range(self.ratio[0], self.ratio[1]) as f32;
            let columns = |rows: usize| (rows as f32 * ratio).round_ties_even() as usize;
            let area = |rows: usize| (columns(rows) * rows) as f32;
            let rows_of = |area: f32| (area / ratio).sqrt().round_ties_even() as usize;
            let mut tallest = rows_of(most);
            if columns(tallest) > width {
                tallest = ((width as f64 + 0.5 - 1e-7) / f64::from(ratio)) as usize;
                tallest -= usize::from(columns(tallest) > width);
            }
            let tallest = tallest.min(height);
            let mut h = rows_of(least).min(tallest);
            h += stream.below((tallest - h) as u64 + 1) as usize;
            // Rounding alone may have missed the area by a row.
            h += usize::from(area(h) < least);
            h -= usize::from(area(h) > most);
            let (w, covered) = (columns(h), area(h));
            let fits = (1..=width).contains(&w) && (1..=height).contains(&h);
            if fits && covered >= least && covered <= most && covered / pixels >= OBJECT_COVERED {
                let mut offset =
                    |free: usize| if free == 0 { 0 } else { stream.below(free as u64) as usize };
                let top = offset(height - h);
                return [offset(width - w), top, w, h];
            }
        }
        [0, 0, width, height]
    }
}

/// `min_object_covered` of SimCLR.
const OBJECT_COVERED: f32 = 0.1;

impl Resize {
    pub(super) fn whole(&self, width: usize, height: usize) -> Crop {
        let (size_px, interpolation) = (self.size_px, self.interpolation);
        Crop { left: 0, top: 0, width, height, size_px, interpolation }
    }
}

/// What carries an interpolation out.
pub(super) enum Filter {
    /// Pillow's: [`resize::resize`].
    Pillow(resize::Filter),
    /// TensorFlow's: [`super::resample::resize`].
    Tensorflow(Version),
}

impl Interpolation {
    pub(super) fn filter(self) -> Filter {
        match self {
            Self::Bilinear => Filter::Pillow(resize::Filter::Bilinear),
            Self::Bicubic => Filter::Pillow(resize::Filter::Bicubic),
            Self::TensorflowBicubic => Filter::Tensorflow(Version::Two),
            Self::Tensorflow1Bicubic => Filter::Tensorflow(Version::One),
        }
    }
}

impl Crop {
    /// The box `[left, top, width, height]`.
    pub(super) fn place(&self) -> [usize; 4] {
        [self.left, self.top, self.width, self.height]
    }
}
