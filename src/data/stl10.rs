//! STL-10 as its makers give it: binary files of 96×96 pixels, stored column by column.
//!
//! Coates, Lee and Ng 2011, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning";
//! <https://cs.stanford.edu/~acoates/stl10>. The split `unlabeled` is trained on together with `train`
//! ([`Source::for_training`]). Labels are 1 to 10 in the files and 0 to 9 here. Files may hold fewer images than the
//! originals.

use super::records::{Bytes, Order, Part, Records, Shape, fingerprint};
use super::{Dataset, Entry, Source};
use crate::error::{Error, Result};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

const SHAPE: Shape = Shape { width: 96, height: 96, channels: 3, order: Order::ColumnPlanes };

/// Classes in the order of the labels, for copies that lost `class_names.txt`.
const CLASSES: [&str; 10] =
    ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"];

/// Splits, their images, and their labels.
const FILES: [(&str, &str, Option<&str>); 3] = [
    ("train", "train_X.bin", Some("train_y.bin")),
    ("test", "test_X.bin", Some("test_y.bin")),
    ("unlabeled", "unlabeled_X.bin", None),
];

/// Whether a folder holds files of STL-10: their names, and a size that is a whole number of images for one at least.
pub(super) fn holds(folder: &Path, here: &[Entry]) -> bool {
    FILES.iter().any(|(_, images, _)| {
        here.iter().any(|entry| !entry.is_folder && entry.name() == *images)
            && std::fs::metadata(folder.join(images)).is_ok_and(|file| fits(file.len()))
    })
}

/// Whether that many bytes are a whole number of images.
pub(super) fn fits(bytes: u64) -> bool {
    bytes > 0 && bytes.is_multiple_of(SHAPE.bytes() as u64)
}

/// Opens a folder that [`holds`].
///
/// # Errors
/// [`Error::Data`] when images come without labels, a file is damaged, or a label lies outside of 1 to 10.
pub(super) fn open(location: &str, folder: &Path) -> Result<Source> {
    let mut splits = Vec::new();
    for (split, images, labels) in FILES {
        let labels = labels.map(|labels| (labels, folder.join(labels)));
        let missing = match (folder.join(images).is_file(), &labels) {
            (true, Some((name, path))) if !path.is_file() => name,
            (false, Some((_, path))) if path.is_file() => images,
            (false, _) => continue,
            (true, _) => {
                splits.push((split.to_owned(), read(folder, images, labels.map(|l| l.1))?));
                continue;
            }
        };
        return Err(Error::Data(format!(
            "`{}` is STL-10 binary but lacks `{missing}`; fetch the rest",
            folder.display()
        )));
    }
    let names = std::fs::read_to_string(folder.join("class_names.txt")).unwrap_or_default();
    let names: Vec<&str> = names.split_whitespace().collect();
    let classes = if names.len() == CLASSES.len() { names } else { CLASSES.to_vec() };
    let classes: Vec<String> = classes.into_iter().map(str::to_owned).collect();
    let fingerprint = fingerprint(&classes, &splits)?;
    let splits =
        splits.into_iter().map(|(name, split)| (name, Arc::new(split) as Arc<dyn Dataset>));
    Ok(Source {
        format: "STL-10 binary".to_owned(),
        location: location.to_owned(),
        classes,
        splits: splits.collect(),
        fingerprint,
    })
}

fn read(folder: &Path, images: &str, labels: Option<std::path::PathBuf>) -> Result<Records> {
    let path = folder.join(images);
    let failed = |e: std::io::Error| Error::Data(format!("cannot read `{}`: {e}", path.display()));
    let file = File::open(&path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let stride = SHAPE.bytes() as u64;
    if !fits(size) {
        return Err(Error::Data(format!(
            "`{}` is damaged: {size} bytes are no whole number of images of {stride} bytes; fetch it again",
            path.display()
        )));
    }
    let count = (size / stride) as usize;
    let labels = labels.map(|file| read_labels(&file, count)).transpose()?;
    let part = Part { name: images.to_owned(), bytes: Bytes::File(file), first: 0, stride, count };
    Ok(Records { parts: vec![part], shape: SHAPE, labels })
}

fn read_labels(file: &Path, count: usize) -> Result<Vec<u32>> {
    let damaged = |why: String| Error::Data(format!("`{}` is damaged: {why}", file.display()));
    let size = std::fs::metadata(file).map_or(0, |file| file.len());
    if size != count as u64 {
        return Err(damaged(format!("{size} labels for {count} images")));
    }
    let bytes = std::fs::read(file).map_err(|e| damaged(e.to_string()))?;
    let label = |(index, label): (usize, &u8)| match label {
        1..=10 => Ok(u32::from(label - 1)),
        other => Err(damaged(format!("label {index} is `{other}`, expected 1 to 10"))),
    };
    bytes.iter().enumerate().map(label).collect()
}

#[cfg(test)]
mod tests;
