//! The geometric first step of every view: which box of the image, at which size.

use super::step::{Place, interval};
use crate::data::Image;
use crate::error::Result;
use crate::random::Stream;
use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use serde::{Deserialize, Serialize};

/// How pixels are interpolated; both are Pillow's, antialiased when shrinking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Triangle filter of support 1.
    #[default]
    Bilinear,
    /// Keys' cubic with a = −0.5, support 2.
    Bicubic,
}

/// A random part of the image at a fixed size, with torchvision's distribution (`RandomResizedCrop`): up to ten tries
/// with the area uniform and the aspect ratio log-uniform, else the largest centred box of an allowed ratio.
///
/// TensorFlow's version (SimCLR's own code) draws ratio and height uniformly instead.
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
    /// `bilinear` (default) or `bicubic`.
    #[serde(default)]
    pub interpolation: Interpolation,
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
    /// `bilinear` (default) or `bicubic`.
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
        let [low, high] = self.scale;
        place.require(
            interval(self.scale) && low > 0.0 && high <= 1.0,
            "scale",
            "two areas `[low, high]` with 0 < low <= high <= 1",
            format_args!("[{low}, {high}]"),
        )?;
        let [low, high] = self.ratio;
        place.require(
            interval(self.ratio) && low > 0.0,
            "ratio",
            "two ratios `[low, high]` with 0 < low <= high",
            format_args!("[{low}, {high}]"),
        )
    }

    /// Draws the box for an image of the given width and height.
    pub(super) fn sample(&self, stream: &mut Stream, (width, height): (usize, usize)) -> Crop {
        let whole = Resize { size_px: self.size_px, interpolation: self.interpolation }
            .whole(width, height);
        let area = (width * height) as f64;
        for _ in 0..10 {
            let target = area * stream.range(self.scale[0], self.scale[1]);
            let ratio = stream.range(self.ratio[0].ln(), self.ratio[1].ln()).exp();
            let w = (target * ratio).sqrt().round_ties_even() as usize;
            let h = (target / ratio).sqrt().round_ties_even() as usize;
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let top = stream.below((height - h) as u64 + 1) as usize;
                let left = stream.below((width - w) as u64 + 1) as usize;
                return Crop { left, top, width: w, height: h, ..whole };
            }
        }
        let found = width as f64 / height as f64;
        let (mut w, mut h) = (width, height);
        if found < self.ratio[0] {
            h = ((w as f64 / self.ratio[0]).round_ties_even() as usize).clamp(1, height);
        } else if found > self.ratio[1] {
            w = ((h as f64 * self.ratio[1]).round_ties_even() as usize).clamp(1, width);
        }
        Crop { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h, ..whole }
    }
}

impl Resize {
    pub(super) fn whole(&self, width: usize, height: usize) -> Crop {
        let (size_px, interpolation) = (self.size_px, self.interpolation);
        Crop { left: 0, top: 0, width, height, size_px, interpolation }
    }
}

impl Crop {
    /// Cuts the box out of `image` and resizes it into `out`, `[size_px, size_px, 3]`. Pixels outside the box have no
    /// influence.
    pub(super) fn apply(&self, image: &Image, resizer: &mut Resizer, out: &mut [u8]) {
        let size = (self.size_px, self.size_px);
        resize_box(
            image,
            [self.left, self.top, self.width, self.height],
            size,
            self.interpolation,
            resizer,
            out,
        );
    }
}

/// Resizes the box `[left, top, width, height]` of `image` to (width, height) `size`, within 1 of 255 of Pillow's crop
/// followed by its resize.
pub(super) fn resize_box(
    image: &Image,
    [left, top, width, height]: [usize; 4],
    size: (usize, usize),
    interpolation: Interpolation,
    resizer: &mut Resizer,
    out: &mut [u8],
) {
    if interpolation == Interpolation::Bicubic && width != size.0 && height != size.1 {
        // Bicubic results are clipped between the two passes, so the order matters: Pillow goes along the rows first,
        // the resizer along the columns.
        let mut wide = Image { width: size.0, height, pixels: vec![0; 3 * size.0 * height] };
        let narrow = [left, top, width, height];
        resize_box(image, narrow, (size.0, height), interpolation, resizer, &mut wide.pixels);
        return resize_box(&wide, [0, 0, size.0, height], size, interpolation, resizer, out);
    }
    let filter = match interpolation {
        Interpolation::Bilinear => FilterType::Bilinear,
        Interpolation::Bicubic => FilterType::CatmullRom,
    };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).use_alpha(false);
    // The typed interface: the other one would compile the resizer for every kind of pixel, which takes minutes.
    let (left, top, width, height) = (left as u32, top as u32, width as u32, height as u32);
    let whole =
        TypedImageRef::<U8x3>::from_buffer(image.width as u32, image.height as u32, &image.pixels)
            .expect("an image holds 3 * width * height bytes");
    let source = TypedCroppedImage::from_ref(&whole, left, top, width, height)
        .expect("a crop lies within the image it was drawn for");
    let mut target = TypedImage::<U8x3>::from_buffer(size.0 as u32, size.1 as u32, out)
        .expect("a view's buffer holds 3 * width * height bytes");
    resizer.resize_typed(&source, &mut target, &options).expect("a crop lies within its image");
}
