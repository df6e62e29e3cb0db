//! Images and labels, as they lie on disk: the first stage of the flow.
//!
//! [`open`] looks at a path (never at its name alone) and returns a [`Source`] with its splits. A [`Dataset`] hands out
//! one decoded image at a time; order, augmentation and batches belong to [`crate::augment`].

use crate::error::Result;
use std::sync::Arc;

pub mod decode;

/// An RGB image: 8 bits a channel, rows from the top, channels interleaved, `3 · width · height` bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `pixels[3 * (y * width + x) + channel]`.
    pub pixels: Vec<u8>,
}

/// One split: images with stable indices `0..len()`.
pub trait Dataset: Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;
    /// Whether the split holds no image.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Class id of an image, if the source has labels.
    fn label(&self, index: usize) -> Option<u32>;
    /// What to call an image in messages and lists: a path or a name within the source.
    fn path(&self, index: usize) -> String;
    /// Decodes an image.
    ///
    /// # Errors
    /// [`crate::error::Error::Data`] when it is damaged, too large or unreadable; the message names the image.
    fn image(&self, index: usize) -> Result<Image>;
    /// Which part of which object each pixel shows (row-major, 0 is background), for made data that knows.
    fn part_mask(&self, _index: usize) -> Option<Vec<u8>> {
        None
    }
}

/// What [`open`] found.
#[derive(Clone)]
pub struct Source {
    /// What the source is, for people: `parquet (Hugging Face layout)`, `image folder with classes`, ...
    pub format: String,
    /// Where it was found, as given.
    pub location: String,
    /// Names of the classes by label; empty when there are no labels.
    pub classes: Vec<String>,
    /// Splits by name: `train`, `test`, ..., or the single split `all`.
    pub splits: Vec<(String, Arc<dyn Dataset>)>,
    /// Hash of what identifies the content (hexadecimal); equal for a copy at another path.
    pub fingerprint: String,
}
