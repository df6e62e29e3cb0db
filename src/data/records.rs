//! Uncompressed images of one size, one behind the other: what CIFAR, STL-10 and MNIST files hold.
//!
//! Files are read in place, an image at a time; what had to be unpacked is kept in memory.

use super::{Dataset, Image};
use crate::error::{Error, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Images of a split whose pixels count for the fingerprint, spread evenly.
const SAMPLE: usize = 64;

/// Where the bytes of a part lie.
pub(super) enum Bytes {
    /// In a file, read in place.
    File(File),
    /// In memory.
    Memory(Vec<u8>),
}

impl Bytes {
    /// Fills `buffer` with what lies at `offset`.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(buffer, offset),
            Self::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(buffer.len());
                let found = bytes.get(start..end).ok_or(std::io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(found);
                Ok(())
            }
        }
    }
}

/// A file of records, each holding one image.
pub(super) struct Part {
    /// What to call the file in messages.
    pub name: String,
    /// Its bytes.
    pub bytes: Bytes,
    /// Offset of the first image within the bytes.
    pub first: u64,
    /// Bytes from one image to the next.
    pub stride: u64,
    /// Number of images.
    pub count: usize,
}

/// Order of the samples of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// One plane a channel, rows from the top (CIFAR; grey images too).
    RowPlanes,
    /// One plane a channel, columns from the left (STL-10).
    ColumnPlanes,
    /// The channels of a pixel side by side, rows from the top.
    Interleaved,
}

/// Size and layout of every image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 (grey) or 3.
    pub channels: usize,
    /// Order of the samples.
    pub order: Order,
}

impl Shape {
    /// Bytes of an image.
    pub(super) fn bytes(&self) -> usize {
        self.width * self.height * self.channels
    }

    /// Samples as stored to RGB, interleaved, rows from the top.
    fn rgb(&self, raw: &[u8]) -> Vec<u8> {
        let &Self { width, height, channels, order } = self;
        let plane = width * height;
        let step = match order {
            _ if channels == 1 => 0,
            Order::RowPlanes | Order::ColumnPlanes => plane,
            Order::Interleaved => 1,
        };
        let mut pixels = Vec::with_capacity(3 * plane);
        for y in 0..height {
            for x in 0..width {
                let first = match order {
                    Order::RowPlanes => y * width + x,
                    Order::ColumnPlanes => x * height + y,
                    Order::Interleaved => (y * width + x) * channels,
                };
                pixels.extend([raw[first], raw[first + step], raw[first + 2 * step]]);
            }
        }
        pixels
    }
}

/// One split.
pub(super) struct Records {
    /// Its files in order.
    pub parts: Vec<Part>,
    /// Size and layout of the images.
    pub shape: Shape,
    /// Class id of each image, or none at all.
    pub labels: Option<Vec<u32>>,
}

impl Records {
    fn place(&self, index: usize) -> (&Part, usize) {
        let mut within = index;
        for part in &self.parts {
            if within < part.count {
                return (part, within);
            }
            within -= part.count;
        }
        panic!("image {index} asked of {}", self.len());
    }
}

impl Dataset for Records {
    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.count).sum()
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.as_ref().map(|labels| labels[index])
    }

    fn path(&self, index: usize) -> String {
        let (part, within) = self.place(index);
        format!("{}[{within}]", part.name)
    }

    fn image(&self, index: usize) -> Result<Image> {
        let (part, within) = self.place(index);
        let mut raw = vec![0; self.shape.bytes()];
        part.bytes.read_at(&mut raw, part.first + within as u64 * part.stride).map_err(|e| {
            Error::Data(format!("cannot read image {within} of `{}`: {e}", part.name))
        })?;
        let (width, height) = (self.shape.width, self.shape.height);
        Ok(Image { width, height, pixels: self.shape.rgb(&raw) })
    }
}

/// Hash of classes, labels, counts and the pixels of a few images: the same for the same images in another form.
///
/// # Errors
/// [`Error::Data`] when an image cannot be read.
pub(super) fn fingerprint(classes: &[String], splits: &[(String, Records)]) -> Result<String> {
    let mut hash = blake3::Hasher::new();
    hash.update(serde_json::json!(["records", classes]).to_string().as_bytes());
    for (name, split) in splits {
        let Shape { width, height, .. } = split.shape;
        let count = split.len();
        hash.update(serde_json::json!([name, count, width, height]).to_string().as_bytes());
        for label in split.labels.iter().flatten() {
            hash.update(&label.to_le_bytes());
        }
        let sample = count.min(SAMPLE);
        for index in (0..sample).map(|step| step * count / sample) {
            hash.update(&split.image(index)?.pixels);
        }
    }
    Ok(hash.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, bytes: Vec<u8>, first: u64, stride: u64, count: usize) -> Part {
        Part { name: name.to_owned(), bytes: Bytes::Memory(bytes), first, stride, count }
    }

    #[test]
    fn each_order_of_samples_gives_the_same_picture() {
        // 2 wide, 3 high; the sample of channel c at (x, y) is 100 c + 10 y + x.
        let value = |c: usize, x: usize, y: usize| (100 * c + 10 * y + x) as u8;
        let mut stored = [Vec::new(), Vec::new(), Vec::new()];
        for c in 0..2 {
            for y in 0..3 {
                stored[0].extend((0..2).map(|x| value(c, x, y)));
            }
            for x in 0..2 {
                stored[1].extend((0..3).map(|y| value(c, x, y)));
            }
        }
        stored[0].extend([7; 6]);
        stored[1].extend([7; 6]);
        for y in 0..3 {
            for x in 0..2 {
                stored[2].extend([value(0, x, y), value(1, x, y), 7]);
            }
        }
        let expected: Vec<u8> = [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
            .into_iter()
            .flat_map(|(x, y)| [value(0, x, y), value(1, x, y), 7])
            .collect();
        for (order, stored) in
            [Order::RowPlanes, Order::ColumnPlanes, Order::Interleaved].into_iter().zip(stored)
        {
            let shape = Shape { width: 2, height: 3, channels: 3, order };
            let split = Records { parts: vec![part("a", stored, 0, 18, 1)], shape, labels: None };
            assert_eq!(split.image(0).unwrap().pixels, expected, "{order:?}");
        }
    }

    #[test]
    fn parts_are_joined_and_a_short_one_is_a_data_error() {
        let shape = Shape { width: 1, height: 1, channels: 1, order: Order::RowPlanes };
        let parts = vec![part("a", vec![0, 9, 1, 9, 2], 0, 2, 3), part("b", vec![9, 5], 1, 1, 2)];
        let split = Records { parts, shape, labels: Some(vec![4, 3, 2, 1, 0]) };
        let shown = |index: usize| split.image(index).unwrap().pixels;
        assert_eq!((shown(0), shown(2), shown(3)), (vec![0; 3], vec![2; 3], vec![5; 3]));
        assert_eq!((split.path(2), split.path(3)), ("a[2]".to_owned(), "b[0]".to_owned()));
        assert_eq!(split.label(3), Some(1));
        let text = split.image(4).unwrap_err().to_string();
        assert!(text.contains("image 1 of `b`"), "{text}");
    }
}
