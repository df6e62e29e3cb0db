//! One pickle with numpy arrays in it: detectron2's, haiku's, what people write themselves.

use super::recognise::stretch;
use super::tree::{Lying, walk};
use super::{Format, TensorFile};
use crate::data::pickle;
use crate::error::{Error, Result};
use std::fs::File;
use std::path::Path;

/// Largest file; the arrays lie within the pickle, so all of it is read once to find them.
const LARGEST: u64 = 4 << 30;

pub(super) fn read(path: &Path, file: File, length: u64) -> Result<TensorFile> {
    if length > LARGEST {
        return Err(Error::Weights(format!(
            "pickle `{}` has {length} bytes, at most {LARGEST} are read; save its arrays as safetensors",
            path.display()
        )));
    }
    // Dropped before a tensor is loaded: entries say where in the file each lies.
    let bytes = stretch(&file, 0, length).map_err(Error::io("read", path))?;
    let none = |_: &_| Err("its numbers lie in no file".to_owned());
    let found = pickle::graph(&bytes)
        .and_then(|graph| walk(&graph, Lying { bytes: &bytes, at: 0 }, false, &none))
        .map_err(|why| {
            Error::Weights(format!("pickle `{}` cannot be read: {why}", path.display()))
        })?;
    drop(bytes);
    TensorFile::checked(path, Format::Pickle, vec![(path.to_owned(), file)], found)
}
