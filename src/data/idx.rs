//! MNIST and its relatives as idx files, plain or packed with gzip.
//!
//! LeCun, Cortes and Burges, <http://yann.lecun.com/exdb/mnist/>: a magic number, the dimensions (big-endian), then the
//! bytes. Images are grey (`N, rows, columns`) or have channels (`N, rows, columns, 3`).

use super::records::{Bytes, Order, Part, Records, Shape, fingerprint};
use super::{Dataset, Entry, Source};
use crate::error::{Error, Result};
use flate2::read::GzDecoder;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Splits and how the names of their files begin.
const SPLITS: [(&str, &str); 2] = [("train", "train"), ("test", "t10k")];

/// Largest width and height.
const MAX_SIDE: u32 = 4096;

/// Deflate never packs more than about this many bytes into one.
const MOST_PACKED: u64 = 1_040;

/// Dimensions of an idx file of bytes.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The dimensions, one to four, the number of items first.
    pub dimensions: Vec<u32>,
}

impl Header {
    /// Bytes of the header itself.
    pub fn bytes(&self) -> u64 {
        4 + 4 * self.dimensions.len() as u64
    }

    /// Bytes of the data behind it, if so many can be.
    pub fn data_bytes(&self) -> Option<u64> {
        self.dimensions.iter().try_fold(1u64, |all, n| all.checked_mul(u64::from(*n)))
    }
}

/// Reads the header from the start of an idx file; `name` is for messages.
///
/// # Errors
/// [`Error::Data`] when it is cut off, or not of bytes in one to four dimensions.
#[doc(hidden)]
pub fn header(start: &[u8], name: &str) -> Result<Header> {
    let count = match start {
        [0, 0, 8, count @ 1..=4, ..] => usize::from(*count),
        _ => {
            return Err(Error::Data(format!(
                "`{name}` is no idx file of bytes: it {}, expected 00 00 08 and 1 to 4 dimensions",
                super::decode::opening(start)
            )));
        }
    };
    let sizes = start.get(4..4 + 4 * count).ok_or_else(|| {
        Error::Data(format!("`{name}` is damaged: it ends within its header of {count} dimensions"))
    })?;
    let size = |bytes: &[u8; 4]| u32::from_be_bytes(*bytes);
    Ok(Header { dimensions: sizes.as_chunks().0.iter().map(size).collect() })
}

/// A file of a split among those of a folder, under any of its usual names, plain rather than packed.
fn file(here: &[Entry], split: &str, content: &str) -> Option<PathBuf> {
    ["", ".gz"].iter().find_map(|end| {
        let dots = [format!("{split}-{content}-ubyte{end}"), {
            format!("{split}-{}-ubyte{end}", content.replacen("-idx", ".idx", 1))
        }];
        here.iter().find(|e| !e.is_folder && dots.contains(&e.name())).map(|e| e.path.clone())
    })
}

fn images(here: &[Entry], split: &str) -> Option<PathBuf> {
    ["images-idx3", "images-idx4"].iter().find_map(|content| file(here, split, content))
}

/// Whether a folder holds images in idx files that begin as such.
pub(super) fn holds(_: &Path, here: &[Entry]) -> bool {
    SPLITS.iter().any(|(_, split)| {
        images(here, split).is_some_and(|file| {
            Content::open(&file).is_ok_and(|content| content.header.dimensions.len() >= 3)
        })
    })
}

/// Opens a folder that [`holds`].
///
/// # Errors
/// [`Error::Data`] when images come without labels, or a file is damaged.
pub(super) fn open(location: &str, folder: &Path) -> Result<Source> {
    let here = super::entries(folder)?;
    let (mut splits, mut packed) = (Vec::new(), false);
    for (name, prefix) in SPLITS {
        let (images, labels) = (images(&here, prefix), file(&here, prefix, "labels-idx1"));
        let (images, labels) = match (images, labels) {
            (Some(images), Some(labels)) => (images, labels),
            (None, None) => continue,
            (found, _) => {
                let kind = if found.is_some() { "labels-idx1" } else { "images-idx3" };
                return Err(Error::Data(format!(
                    "`{}` is MNIST idx but lacks `{prefix}-{kind}-ubyte`; fetch the rest",
                    folder.display()
                )));
            }
        };
        packed |= images.extension().is_some_and(|end| end == "gz");
        splits.push((name.to_owned(), read(&images, &labels)?));
    }
    let largest = splits.iter().flat_map(|(_, split)| split.labels.iter().flatten()).max();
    let classes: Vec<String> =
        (0..largest.map_or(0, |label| label + 1)).map(|class| class.to_string()).collect();
    let fingerprint = fingerprint(&classes, &splits)?;
    let splits =
        splits.into_iter().map(|(name, split)| (name, Arc::new(split) as Arc<dyn Dataset>));
    Ok(Source {
        format: format!("MNIST idx{}", if packed { " (gzip)" } else { "" }),
        location: location.to_owned(),
        classes,
        splits: splits.collect(),
        fingerprint,
    })
}

fn read(images: &Path, labels: &Path) -> Result<Records> {
    let name = images.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let content = Content::open(images)?;
    let (count, shape) = match *content.header.dimensions.as_slice() {
        [count, rows @ 1..=MAX_SIDE, columns @ 1..=MAX_SIDE] => (count, (rows, columns, 1)),
        [count, rows @ 1..=MAX_SIDE, columns @ 1..=MAX_SIDE, channels @ (1 | 3)] => {
            (count, (rows, columns, channels))
        }
        _ => {
            return Err(content.damaged(&format!(
                "dimensions {:?} are no images: expected count, rows, columns and perhaps 1 or 3 channels, sides up to \
                 {MAX_SIDE}",
                content.header.dimensions
            )));
        }
    };
    let order = Order::Interleaved;
    let (height, width, channels) = (shape.0 as usize, shape.1 as usize, shape.2 as usize);
    let shape = Shape { width, height, channels, order };
    let labels = Content::open(labels)?;
    if labels.header.dimensions != [count] {
        return Err(labels.damaged(&format!(
            "labels of dimensions {:?} for {count} images",
            labels.header.dimensions
        )));
    }
    let (first, count) = (content.header.bytes(), count as usize);
    let bytes = content.bytes()?;
    let (first_label, path) = (labels.header.bytes(), labels.path.clone());
    // Only now, with sizes checked, is there room for that many labels to be made.
    let stored = labels.bytes()?;
    let mut found = vec![0; count];
    stored
        .read_at(&mut found, first_label)
        .map_err(|e| Error::Data(format!("cannot read `{}`: {e}", path.display())))?;
    let part = Part { name, bytes, first, stride: shape.bytes() as u64, count };
    Ok(Records {
        parts: vec![part],
        shape,
        labels: Some(found.into_iter().map(u32::from).collect()),
    })
}

/// An idx file whose header was read.
struct Content {
    path: PathBuf,
    file: File,
    packed: bool,
    header: Header,
}

impl Content {
    fn open(path: &Path) -> Result<Self> {
        let failed =
            |e: std::io::Error| Error::Data(format!("cannot read `{}`: {e}", path.display()));
        let mut file = File::open(path).map_err(failed)?;
        let mut start = Vec::new();
        Read::by_ref(&mut file).take(20).read_to_end(&mut start).map_err(failed)?;
        let packed = start.starts_with(&[0x1f, 0x8b]);
        if packed {
            start.clear();
            let file = File::open(path).map_err(failed)?;
            GzDecoder::new(file).take(20).read_to_end(&mut start).map_err(failed)?;
        }
        let header = header(&start, &path.to_string_lossy())?;
        Ok(Self { path: path.to_owned(), file, packed, header })
    }

    fn damaged(&self, why: &str) -> Error {
        Error::Data(format!("`{}` is damaged: {why}", self.path.display()))
    }

    /// The whole file, of exactly the size that its header tells.
    fn bytes(self) -> Result<Bytes> {
        let dimensions = &self.header.dimensions;
        let size = self.file.metadata().map_or(0, |file| file.len());
        let expected = self.header.data_bytes().and_then(|n| n.checked_add(self.header.bytes()));
        let expected =
            expected.ok_or_else(|| self.damaged(&format!("dimensions {dimensions:?} overflow")))?;
        if !self.packed {
            if size != expected {
                let why =
                    format!("{size} bytes, {expected} expected for dimensions {dimensions:?}");
                return Err(self.damaged(&why));
            }
            return Ok(Bytes::File(self.file));
        }
        if expected > size.saturating_mul(MOST_PACKED) {
            let why = format!("{size} packed bytes cannot hold {expected}");
            return Err(self.damaged(&why));
        }
        let mut bytes = Vec::new();
        let read = File::open(&self.path)
            .and_then(|file| GzDecoder::new(file).take(expected + 1).read_to_end(&mut bytes));
        read.map_err(|e| self.damaged(&e.to_string()))?;
        if bytes.len() as u64 != expected {
            let found = if (bytes.len() as u64) < expected { "fewer" } else { "more" };
            return Err(self.damaged(&format!(
                "it unpacks to {found} than the {expected} bytes of dimensions {dimensions:?}"
            )));
        }
        Ok(Bytes::Memory(bytes))
    }
}

#[cfg(test)]
mod tests;
