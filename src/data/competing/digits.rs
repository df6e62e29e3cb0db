//! The digits that are put into images, and how.

use crate::data::{Dataset, Image, Source};
use crate::error::{Error, Result};
use image::imageops::{FilterType, resize};
use image::{GrayImage, ImageBuffer};
use std::ops::Range;
use std::sync::Arc;

/// A grey picture of one digit, light on black.
#[derive(Clone, Debug)]
pub(super) struct Glyph {
    /// Its class.
    pub class: u32,
    /// Where it comes from: index in the split of the digits.
    pub item: usize,
    /// Side in pixels it was brought to.
    pub side: usize,
    pub width: usize,
    pub height: usize,
    /// `values[y * width + x]`.
    pub values: Vec<u8>,
}

/// Digits to draw from.
#[derive(Clone)]
pub(super) struct Digits {
    dataset: Arc<dyn Dataset>,
    range: Range<usize>,
}

/// The digits for the images that are learned from, and those for all others, with what is to be said of these.
pub(super) struct DigitSets {
    pub training: Digits,
    pub others: Digits,
    pub held_out: bool,
}

impl DigitSets {
    /// The first `unique` digits of the training split (all if not given) are for training; for the others there is the
    /// split that evaluation asks about, else what the only split has behind these, else there are only the same.
    ///
    /// # Errors
    /// [`Error::Data`] when the source has no labels, or fewer digits.
    pub(super) fn of(source: &Source, unique: Option<usize>) -> Result<Self> {
        let split = source.training_split()?;
        let all = split.len();
        let count = unique.unwrap_or(all);
        if source.classes.is_empty() || count > all || all == 0 {
            return Err(Error::Data(format!(
                "`{}` must give labelled digits, {count} of them; it has {all} in {} classes",
                source.location,
                source.classes.len()
            )));
        }
        let training = Digits { dataset: split.clone(), range: 0..count };
        let others = match source.query_split() {
            Some(queries) => Digits { dataset: queries.clone(), range: 0..queries.len() },
            None if count < all => Digits { dataset: split.clone(), range: count..all },
            None => training.clone(),
        };
        let held_out = source.query_split().is_some() || count < all;
        Ok(Self { training, others, held_out })
    }

    /// Says which digits the images that are not learned from show.
    pub(super) fn said(&self) -> &'static str {
        if self.held_out { "other digits in other splits" } else { "the same digits in all splits" }
    }
}

impl Digits {
    /// Number of digits.
    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    /// One of them.
    ///
    /// # Errors
    /// [`Error::Data`] when it is damaged or has no label.
    pub(super) fn glyph(&self, digit: usize) -> Result<Glyph> {
        let item = self.range.start + digit;
        let class = self.class(digit)?;
        let Image { width, height, pixels } = self.dataset.image(item)?;
        let (pixels, _) = pixels.as_chunks::<3>();
        // ITU-R 601; exact where the three are equal.
        let grey = |[r, g, b]: &[u8; 3]| {
            ((299 * u32::from(*r) + 587 * u32::from(*g) + 114 * u32::from(*b) + 500) / 1000) as u8
        };
        let values = pixels.iter().map(grey).collect();
        Ok(Glyph { class, item, side: width.max(height), width, height, values })
    }

    /// The class of one of them.
    ///
    /// # Errors
    /// [`Error::Data`] when it has no label.
    pub(super) fn class(&self, digit: usize) -> Result<u32> {
        let item = self.range.start + digit;
        self.dataset
            .label(item)
            .ok_or_else(|| Error::Data(format!("digit `{}` has no label", self.dataset.path(item))))
    }
}

impl Glyph {
    /// Brought to another size, bilinearly (with antialiasing where it shrinks).
    pub(super) fn resized(self, width: usize, height: usize) -> Self {
        if (self.width, self.height) == (width, height) {
            return self;
        }
        let whole: GrayImage =
            ImageBuffer::from_raw(self.width as u32, self.height as u32, self.values)
                .expect("as many values as pixels");
        let values = resize(&whole, width as u32, height as u32, FilterType::Triangle).into_raw();
        Self { width, height, side: width.max(height), values, ..self }
    }

    /// Without the black rows and columns around; one that is all black stays as it is.
    pub(super) fn cropped(self) -> Self {
        let lit = |place: &usize| self.values[*place] > 0;
        let places = || (0..self.values.len()).filter(lit);
        let (rows, columns) = (|p: usize| p / self.width, |p: usize| p % self.width);
        let (Some(top), Some(bottom)) = (places().map(rows).min(), places().map(rows).max()) else {
            return self;
        };
        let left = places().map(columns).min().unwrap_or(0);
        let right = places().map(columns).max().unwrap_or(0);
        let (width, height) = (right + 1 - left, bottom + 1 - top);
        let row = |y: usize| &self.values[y * self.width + left..y * self.width + left + width];
        let values = (top..=bottom).flat_map(row).copied().collect();
        Self { width, height, values, ..self }
    }

    /// Changes the pixels of an image under the digit, its left upper corner at (left, top): `mix` makes the new byte of
    /// the old one and the digit's. What hangs over the edge is cut.
    pub(super) fn put(&self, image: &mut Image, [left, top]: [usize; 2], mix: fn(u8, u8) -> u8) {
        for y in 0..self.height.min(image.height.saturating_sub(top)) {
            for x in 0..self.width.min(image.width.saturating_sub(left)) {
                let value = self.values[y * self.width + x];
                let first = 3 * ((top + y) * image.width + left + x);
                for byte in &mut image.pixels[first..first + 3] {
                    *byte = mix(*byte, value);
                }
            }
        }
    }
}

/// An image brought to a square, bilinearly (with antialiasing where it shrinks).
pub(super) fn squared(image: Image, side: usize) -> Image {
    if (image.width, image.height) == (side, side) {
        return image;
    }
    let (width, height) = (image.width as u32, image.height as u32);
    let whole =
        image::RgbImage::from_raw(width, height, image.pixels).expect("three bytes a pixel");
    let pixels = resize(&whole, side as u32, side as u32, FilterType::Triangle).into_raw();
    Image { width: side, height: side, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::open;
    use crate::data::testing::failure_of;

    fn glyph(width: usize, values: &[u8]) -> Glyph {
        let height = values.len() / width;
        Glyph { class: 3, item: 9, side: width.max(height), width, height, values: values.to_vec() }
    }

    #[test]
    fn a_crop_leaves_the_box_of_what_is_lit() {
        let cropped = glyph(4, &[0, 0, 0, 0, 0, 0, 1, 0, 0, 5, 0, 0, 0, 0, 0, 0]).cropped();
        assert_eq!((cropped.width, cropped.height, cropped.side), (2, 2, 4));
        assert_eq!(cropped.values, [0, 1, 5, 0]);
        assert_eq!(glyph(2, &[0; 4]).cropped().values, [0; 4]);
    }

    #[test]
    fn what_hangs_over_the_edge_is_cut() {
        let mut image = Image { width: 3, height: 2, pixels: vec![10; 18] };
        glyph(2, &[1, 2, 3, 4]).put(&mut image, [2, 1], u8::saturating_add);
        assert_eq!(image.pixels[..15], [10; 15]);
        assert_eq!(image.pixels[15..], [11; 3]);
        glyph(2, &[1, 2, 3, 4]).put(&mut image, [7, 7], u8::saturating_add);
        assert_eq!(image.pixels[15..], [11; 3]);
    }

    #[test]
    fn sizes_change_bilinearly() {
        let wide = glyph(2, &[0, 100]).resized(4, 1);
        assert_eq!((wide.values.as_slice(), wide.side), (&[0, 25, 75, 100][..], 4));
        assert_eq!(glyph(2, &[8; 6]).resized(1, 5).values, [8; 5]);
        let image = Image { width: 2, height: 1, pixels: vec![9, 8, 7, 9, 8, 7] };
        assert_eq!(squared(image, 3).pixels, [9, 8, 7].repeat(9));
    }

    #[test]
    fn other_splits_show_other_digits_where_there_are_any() {
        let digits = open("synthetic:digits?train=30&test=20").unwrap();
        let of = |source: &Source, unique| DigitSets::of(source, unique).unwrap();
        let both = of(&digits, Some(16));
        assert_eq!((both.training.range, both.others.range, both.held_out), (0..16, 0..20, true));
        assert_eq!(of(&digits, None).training.len(), 30);
        let mut single = digits.clone();
        single.splits.truncate(1);
        let cut = of(&single, Some(16));
        assert_eq!((cut.training.range, cut.others.range, cut.held_out), (0..16, 16..30, true));
        let same = of(&single, None);
        assert_eq!((same.training.range, same.others.range.clone()), (0..30, 0..30));
        let text = failure_of(DigitSets::of(&digits, Some(31)));
        assert!(text.contains("labelled digits, 31 of them; it has 30 in 10 classes"), "{text}");
        let bare = Source { classes: Vec::new(), ..digits };
        assert!(failure_of(DigitSets::of(&bare, None)).contains("30 in 0 classes"));
    }
}
