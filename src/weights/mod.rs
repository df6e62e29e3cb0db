//! Files of weights, ours and other people's: read without ever executing anything, written under the names that others
//! expect.
//!
//! [`TensorFile::open`] recognises a file by its content and reads its headers only; tensors are loaded one at a time,
//! each from its own place in the file. Which network they are is told apart from how they lie there.

mod archive;
pub mod compare;
pub mod export;
mod family;
mod import;
mod load;
mod names;
mod network;
mod number;
mod pickles;
mod recognise;
mod safetensors;
pub mod simclr_tf;
pub mod tensorflow;
#[cfg(test)]
mod tests;
mod torch;
mod tree;

use crate::error::{Error, Result};
pub use family::{FAMILIES, Family, Prepared, Test};
pub use import::{Import, Outcome, Row, Stated};
pub use names::Names;
pub use network::SMALL_STEMS;
pub use number::Number;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Most tensors of a file.
pub const MOST_TENSORS: usize = 200_000;

/// Longest name of a tensor, in bytes, with the path to it.
pub const LONGEST_NAME: usize = 4096;

/// Most dimensions of a tensor.
pub const MOST_DIMENSIONS: usize = 32;

/// What wrote a file, as far as reading it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A header of JSON, then the tensors (Hugging Face).
    Safetensors,
    /// A zip archive with a pickle in it (PyTorch since 1.6).
    TorchZip,
    /// Such an archive with code beside the pickle, which is never looked at.
    TorchScript,
    /// Pickles one after the other, then the tensors (PyTorch before 1.6).
    TorchLegacy,
    /// One pickle with numpy arrays in it (detectron2, haiku).
    Pickle,
    /// A `.index` with its `.data-…` files (TensorFlow).
    TensorFlow,
}

impl Format {
    /// Its name in messages and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::TorchZip => "PyTorch (zip)",
            Self::TorchScript => "TorchScript",
            Self::TorchLegacy => "PyTorch (before 1.6)",
            Self::Pickle => "pickle of numpy arrays",
            Self::TensorFlow => "TensorFlow checkpoint",
        }
    }
}

/// A tensor of a file: what it is and where it lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The keys of the dictionaries it lies in, joined by `/`: `state_dict`; empty at the top.
    pub group: String,
    /// Its own key: `module.encoder_q.conv1.weight`.
    pub name: String,
    /// What its numbers are.
    pub number: Number,
    /// Its dimensions; empty for a single number.
    pub shape: Vec<usize>,
    /// Where the numbers lie within the storage; `None` if they are all of it, row by row.
    pub view: Option<View>,
    /// The storage.
    pub storage: Storage,
    /// Whether the first byte of a number is its highest.
    pub big_endian: bool,
    /// CRC-32C of the storage, not masked, which loading checks; only for a tensor that is all of its storage.
    pub crc32c: Option<u32>,
    /// CRC-32 of the storage likewise, as zip archives have it.
    pub crc32: Option<u32>,
}

/// A tensor as a part of a storage, in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Where its first number lies.
    pub offset: usize,
    /// How far the next number along each dimension is.
    pub strides: Vec<usize>,
}

/// Bytes that one or several tensors are parts of.
#[derive(Clone, Debug, PartialEq)]
pub enum Storage {
    /// A stretch of one of the files.
    At {
        /// Which of [`TensorFile::files`].
        file: usize,
        /// Its first byte.
        start: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// Bytes that lie in the file in another form and were small enough to keep.
    Held(Rc<[u8]>),
}

impl Entry {
    /// A tensor that is all of a storage, row by row, lowest byte first.
    pub fn plain(
        name: impl Into<String>,
        number: Number,
        shape: Vec<usize>,
        storage: Storage,
    ) -> Self {
        Self {
            group: String::new(),
            name: name.into(),
            number,
            shape,
            view: None,
            storage,
            big_endian: false,
            crc32c: None,
            crc32: None,
        }
    }

    /// The keys that lead to it, joined by `/`.
    pub fn full_name(&self) -> String {
        match self.group.as_str() {
            "" => self.name.clone(),
            group => format!("{group}/{}", self.name),
        }
    }

    /// How many numbers it has.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// How many bytes it takes in memory.
    pub fn bytes(&self) -> usize {
        self.count() * self.number.bytes()
    }

    /// Steps along each dimension, in numbers.
    fn strides(&self) -> Vec<usize> {
        match &self.view {
            Some(view) => view.strides.clone(),
            None => row_major(&self.shape),
        }
    }

    /// Whether it is all of its storage, row by row.
    fn is_whole(&self) -> bool {
        let there = match &self.storage {
            Storage::At { bytes, .. } => *bytes,
            Storage::Held(bytes) => bytes.len() as u64,
        };
        let own = row_major(&self.shape);
        let steps = self.strides().into_iter().zip(own).zip(&self.shape);
        self.bytes() as u64 == there
            && self.offset() == 0
            && steps.into_iter().all(|((found, wanted), size)| *size == 1 || found == wanted)
    }

    fn offset(&self) -> usize {
        self.view.as_ref().map_or(0, |view| view.offset)
    }

    /// Why the header cannot be meant, if so: everything that loading relies on.
    fn fault(&self, file_bytes: &[u64]) -> Option<String> {
        if self.shape.len() > MOST_DIMENSIONS {
            return Some(format!(
                "{} dimensions, at most {MOST_DIMENSIONS} are read",
                self.shape.len()
            ));
        }
        // Dimensions of no numbers count as one, so that no product of some of them overflows either.
        let count = self.shape.iter().try_fold(1usize, |all, size| all.checked_mul((*size).max(1)));
        let bytes = count.and_then(|count| count.checked_mul(self.number.bytes().max(1)));
        let Some(count) = count.filter(|_| bytes.is_some_and(|bytes| i64::try_from(bytes).is_ok()))
        else {
            return Some(format!("shape {:?} is beyond any memory", self.shape));
        };
        let count = if self.shape.contains(&0) { 0 } else { count };
        let there = match &self.storage {
            Storage::At { file, start, bytes } => {
                let end = start.checked_add(*bytes);
                let length = file_bytes.get(*file).copied().unwrap_or(0);
                if end.is_none_or(|end| end > length) {
                    return Some(format!("{bytes} bytes from byte {start} of a file of {length}"));
                }
                *bytes
            }
            Storage::Held(bytes) => bytes.len() as u64,
        };
        let size = self.number.bytes() as u64;
        let Some(view) = &self.view else {
            let wanted = count as u64 * size;
            return (wanted != there && size > 0).then(|| {
                format!("shape {:?} takes {wanted} bytes, {there} are there", self.shape)
            });
        };
        if view.strides.len() != self.shape.len() {
            return Some(format!("{} strides for shape {:?}", view.strides.len(), self.shape));
        }
        let numbers = there / size.max(1);
        if count as u64 > numbers {
            return Some(format!("shape {:?} of a storage of {numbers} numbers", self.shape));
        }
        let reach =
            self.shape.iter().zip(&view.strides).try_fold(view.offset, |reach, (size, stride)| {
                size.saturating_sub(1).checked_mul(*stride).and_then(|step| reach.checked_add(step))
            });
        let inside = if count == 0 {
            view.offset as u64 <= numbers
        } else {
            reach.is_some_and(|reach| (reach as u64) < numbers)
        };
        (!inside).then(|| {
            format!(
                "shape {:?} with strides {:?} from number {} on leaves its storage of {numbers} numbers",
                self.shape, view.strides, view.offset
            )
        })
    }
}

fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for place in (1..shape.len()).rev() {
        strides[place - 1] = strides[place].saturating_mul(shape[place].max(1));
    }
    strides
}

/// What a reader found, before it is checked.
#[derive(Debug, Default)]
pub struct Found {
    /// The tensors, in the order of the file.
    pub entries: Vec<Entry>,
    /// Short values beside them, by the path to them: `epoch` is 200.
    pub notes: BTreeMap<String, String>,
    /// What was there and is neither a tensor nor a short value, by the path to it, with what it is: nothing of it was
    /// looked into.
    pub opaque: BTreeMap<String, String>,
}

/// A file of tensors of which the headers have been read.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    format: Format,
    files: Vec<(PathBuf, File)>,
    found: Found,
}

impl TensorFile {
    /// Opens a file of any [`Format`], by its content and not by its name, and reads its headers.
    ///
    /// # Errors
    /// [`Error::Weights`] if it is of no known format, damaged, or says what cannot be meant: tensors outside of the file,
    /// two of one name, absurd shapes. [`Error::Io`] if it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        recognise::open(path)
    }

    /// Opens a file that must be safetensors.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub(crate) fn open_safetensors(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        safetensors::read(path, file, length)
    }

    /// Takes what a reader found in `files`, checked.
    ///
    /// # Errors
    /// [`Error::Weights`] naming the tensor that cannot be meant.
    pub(crate) fn checked(
        path: &Path,
        format: Format,
        files: Vec<(PathBuf, File)>,
        found: Found,
    ) -> Result<Self> {
        let refused = |why: String| {
            Error::Weights(format!("`{}` ({}) is damaged: {why}", path.display(), format.name()))
        };
        if found.entries.len() > MOST_TENSORS {
            let count = found.entries.len();
            return Err(refused(format!("{count} tensors, at most {MOST_TENSORS} are read")));
        }
        let mut lengths = Vec::new();
        for (path, file) in &files {
            lengths.push(file.metadata().map_err(Error::io("read", path))?.len());
        }
        let mut names: Vec<(&str, &str)> = Vec::with_capacity(found.entries.len());
        for entry in &found.entries {
            if entry.group.len() + entry.name.len() > LONGEST_NAME {
                let start: String = entry.full_name().chars().take(60).collect();
                return Err(refused(format!(
                    "a name of more than {LONGEST_NAME} bytes, `{start}…`"
                )));
            }
            if let Some(why) = entry.fault(&lengths) {
                return Err(refused(format!("tensor `{}`: {why}", entry.full_name())));
            }
            names.push((&entry.group, &entry.name));
        }
        names.sort_unstable();
        if let Some([(group, name), _]) = names.array_windows().find(|[a, b]| a == b) {
            return Err(refused(format!("two tensors named `{group}/{name}`")));
        }
        Ok(Self { path: path.to_owned(), format, files, found })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Every file that belongs to it, itself among them.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// Its tensors, in the order of the file.
    pub fn entries(&self) -> &[Entry] {
        &self.found.entries
    }

    /// Short values beside the tensors, by the path to them.
    pub fn notes(&self) -> &BTreeMap<String, String> {
        &self.found.notes
    }

    /// What is neither a tensor nor a short value, by the path to it: its type.
    pub fn opaque(&self) -> &BTreeMap<String, String> {
        &self.found.opaque
    }
}
