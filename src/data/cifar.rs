//! CIFAR-10 and CIFAR-100 as their makers give them: binary files or Python pickles.
//!
//! Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images"; <https://www.cs.toronto.edu/~kriz/cifar.html>.
//! A record is 32×32 pixels as three planes. The label of CIFAR-100 is the fine one. Files may hold fewer records than
//! the originals.

use super::pickle::{self, Value};
use super::records::{Bytes, Order, Part, Records, Shape, fingerprint};
use super::{Dataset, Entry, Source, read_file};
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Bytes of the pixels of an image.
const PIXELS: usize = 3 * 32 * 32;

const SHAPE: Shape = Shape { width: 32, height: 32, channels: 3, order: Order::RowPlanes };

/// Classes of CIFAR-10 in the order of its labels, for copies that lost the file of names.
const TEN: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// One of the four forms.
struct Form {
    name: &'static str,
    classes: usize,
    /// Bytes before the pixels of a binary record, the last of which is the label; 0 for pickles.
    labels: usize,
    train: &'static [&'static str],
    test: &'static str,
    /// File of class names, and where they are in it if it is a pickle.
    names: (&'static str, &'static str),
}

const FORMS: [Form; 4] = [
    Form {
        name: "CIFAR-10 binary",
        classes: 10,
        labels: 1,
        train: &[
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
        ],
        test: "test_batch.bin",
        names: ("batches.meta.txt", ""),
    },
    Form {
        name: "CIFAR-100 binary",
        classes: 100,
        labels: 2,
        train: &["train.bin"],
        test: "test.bin",
        names: ("fine_label_names.txt", ""),
    },
    Form {
        name: "CIFAR-10 Python pickle",
        classes: 10,
        labels: 0,
        train: &["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"],
        test: "test_batch",
        names: ("batches.meta", "label_names"),
    },
    Form {
        name: "CIFAR-100 Python pickle",
        classes: 100,
        labels: 0,
        train: &["train"],
        test: "test",
        names: ("meta", "fine_label_names"),
    },
];

/// Whether a folder holds files of a form: by their names, and by how pickles begin or how many bytes records take.
pub(super) fn holds(folder: &Path, here: &[Entry]) -> bool {
    form(folder, here).is_some()
}

fn form(folder: &Path, here: &[Entry]) -> Option<&'static Form> {
    let has = |name: &str| here.iter().any(|entry| !entry.is_folder && entry.name() == name);
    FORMS.iter().find(|form| {
        let mut found = form.train.iter().chain([&form.test]).filter(|name| has(name)).peekable();
        // The names of CIFAR-100's files are anybody's; without its names they must look right too.
        found.peek().is_some()
            && (form.train.len() > 1
                || has(form.names.0)
                || found.all(|name| form.fits(&folder.join(name))))
            && (form.labels > 0 || found_pickle(folder, form, &has))
    })
}

fn found_pickle(folder: &Path, form: &Form, has: &dyn Fn(&str) -> bool) -> bool {
    form.train
        .iter()
        .chain([&form.test])
        .filter(|name| has(name))
        .any(|name| start(&folder.join(name)).is_ok_and(|start| pickle::announces(&start)))
}

fn start(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut start = Vec::new();
    File::open(file)?.take(16).read_to_end(&mut start)?;
    Ok(start)
}

/// Opens a folder that [`holds`].
///
/// # Errors
/// [`Error::Data`] when some of the files of a split are missing, a file is damaged, or a label names no class.
pub(super) fn open(location: &str, folder: &Path) -> Result<Source> {
    let here = super::entries(folder)?;
    let form = form(folder, &here).ok_or_else(|| {
        Error::Data(format!("`{}` holds no CIFAR files any more", folder.display()))
    })?;
    let has = |name: &&&str| here.iter().any(|entry| !entry.is_folder && entry.name() == **name);
    let missing: Vec<&&str> = form.train.iter().filter(|name| !has(name)).collect();
    if !missing.is_empty() && missing.len() < form.train.len() {
        let names: Vec<String> = missing.iter().map(|name| format!("`{name}`")).collect();
        return Err(Error::Data(format!(
            "`{}` is {} but lacks {}; fetch the rest{}",
            folder.display(),
            form.name,
            names.join(", "),
            // Pickles are told by their names, in their folder.
            if form.labels > 0 { ", or give the path of one file to use it alone" } else { "" }
        )));
    }
    let classes =
        form.class_names(folder, here.iter().any(|entry| entry.name() == form.names.0))?;
    let mut splits = Vec::new();
    if missing.is_empty() {
        splits.push(("train".to_owned(), form.split(folder, form.train, &classes)?));
    }
    if has(&&form.test) {
        splits.push(("test".to_owned(), form.split(folder, &[form.test], &classes)?));
    }
    source(location, form.name, classes, splits)
}

/// Opens a single binary file if its size and every label are those of CIFAR-10 or CIFAR-100.
pub(super) fn open_file(location: &str, file: &Path) -> Option<Result<Source>> {
    let form = FORMS.iter().find(|form| form.labels > 0 && form.fits(file))?;
    let name = file.file_name()?.to_str()?;
    let split = match name {
        _ if form.train.contains(&name) => "train",
        _ if name == form.test => "test",
        _ => "all",
    };
    let folder = file.parent().unwrap_or(Path::new(""));
    let opened =
        form.class_names(folder, folder.join(form.names.0).is_file()).and_then(|classes| {
            let records = form.split(folder, &[name], &classes)?;
            source(location, form.name, classes, vec![(split.to_owned(), records)])
        });
    Some(opened)
}

fn source(
    location: &str,
    format: &str,
    classes: Vec<String>,
    splits: Vec<(String, Records)>,
) -> Result<Source> {
    let fingerprint = fingerprint(&classes, &splits)?;
    let splits =
        splits.into_iter().map(|(name, split)| (name, Arc::new(split) as Arc<dyn Dataset>));
    Ok(Source {
        format: format.to_owned(),
        location: location.to_owned(),
        classes,
        splits: splits.collect(),
        fingerprint,
    })
}

impl Form {
    /// Whether a file consists of records whose labels all name a class, or begins as a pickle.
    fn fits(&self, file: &Path) -> bool {
        if self.labels == 0 {
            return start(file).is_ok_and(|start| pickle::announces(&start));
        }
        self.binary(file, "").is_ok_and(|(part, labels)| {
            // Of CIFAR-100's two labels the coarse one is below 20.
            let coarse = |index: usize| {
                let mut label = [0];
                let place = index as u64 * part.stride;
                part.bytes.read_at(&mut label, place).is_ok() && label[0] < 20
            };
            labels.iter().all(|label| (*label as usize) < self.classes)
                && (self.labels == 1 || (0..part.count).all(coarse))
        })
    }

    fn class_names(&self, folder: &Path, given: bool) -> Result<Vec<String>> {
        let (file, key) = self.names;
        let path = folder.join(file);
        if !given {
            let numbers = (0..self.classes).map(|class| class.to_string());
            let ten = TEN.iter().map(|name| (*name).to_owned());
            return Ok(if self.classes == 10 { ten.collect() } else { numbers.collect() });
        }
        let bytes = read_file(&path)?;
        let names: Option<Vec<String>> = if self.labels > 0 {
            let text = String::from_utf8_lossy(&bytes);
            let names = text.lines().map(str::trim).filter(|name| !name.is_empty());
            Some(names.map(str::to_owned).collect())
        } else {
            let meta = pickle::parse(&bytes, &path.to_string_lossy())?;
            let names = meta.get(key).and_then(Value::items);
            names.and_then(|names| {
                names.iter().map(|name| name.text().map(Cow::into_owned)).collect()
            })
        };
        names.filter(|names| !names.is_empty() && names.len() <= 256).ok_or_else(|| {
            Error::Data(format!("`{}` does not name the classes of {}", path.display(), self.name))
        })
    }

    fn split(&self, folder: &Path, files: &[&str], classes: &[String]) -> Result<Records> {
        let (mut parts, mut all) = (Vec::new(), Vec::new());
        for name in files {
            let path = folder.join(name);
            let (part, labels) =
                if self.labels > 0 { self.binary(&path, name)? } else { pickled(&path, name)? };
            if let Some(record) = labels.iter().position(|label| *label as usize >= classes.len()) {
                return Err(Error::Data(format!(
                    "`{}` is damaged: record {record} has label `{}`, there are {} classes",
                    path.display(),
                    labels[record],
                    classes.len()
                )));
            }
            parts.push(part);
            all.extend(labels);
        }
        Ok(Records { parts, shape: SHAPE, labels: Some(all) })
    }

    /// A binary file and its labels.
    fn binary(&self, path: &Path, name: &str) -> Result<(Part, Vec<u32>)> {
        let failed =
            |e: std::io::Error| Error::Data(format!("cannot read `{}`: {e}", path.display()));
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let stride = (self.labels + PIXELS) as u64;
        if size == 0 || !size.is_multiple_of(stride) {
            return Err(Error::Data(format!(
                "`{}` is damaged: {size} bytes are no whole number of {} records of {stride} bytes; fetch it again",
                path.display(),
                self.name
            )));
        }
        let bytes = Bytes::File(file);
        let mut labels = Vec::with_capacity((size / stride) as usize);
        for record in 0..size / stride {
            let mut label = [0];
            bytes.read_at(&mut label, record * stride + self.labels as u64 - 1).map_err(failed)?;
            labels.push(u32::from(label[0]));
        }
        let (name, count) = (name.to_owned(), labels.len());
        Ok((Part { name, bytes, first: self.labels as u64, stride, count }, labels))
    }
}

/// A pickled batch and its labels.
fn pickled(path: &Path, name: &str) -> Result<(Part, Vec<u32>)> {
    let shown = path.to_string_lossy();
    let file = read_file(path)?;
    let value = pickle::parse(&file, &shown)?;
    let damaged = |why: String| Error::Data(format!("`{shown}` is no batch of CIFAR: {why}"));
    let Some(Value::Array(array)) = value.get("data") else {
        return Err(damaged("it has no array `data`".to_owned()));
    };
    let count = match *array.shape.as_slice() {
        [count, PIXELS] if array.kind == 'u' && array.item_bytes == 1 => count,
        _ => {
            return Err(damaged(format!(
                "`data` has shape {:?} and numbers of {} bytes, expected rows of {PIXELS} bytes",
                array.shape, array.item_bytes
            )));
        }
    };
    let labels = value.get("fine_labels").or_else(|| value.get("labels"));
    let labels = labels.and_then(Value::integers).ok_or_else(|| {
        damaged("it has neither a list `fine_labels` nor `labels` of integers".to_owned())
    })?;
    if labels.len() != count {
        return Err(damaged(format!("{} labels for {count} images", labels.len())));
    }
    let labels: Vec<u32> =
        labels.into_iter().map(|label| u32::try_from(label).unwrap_or(u32::MAX)).collect();
    let bytes = Bytes::Memory(array.data.to_vec());
    Ok((Part { name: name.to_owned(), bytes, first: 0, stride: PIXELS as u64, count }, labels))
}

#[cfg(test)]
mod tests;
