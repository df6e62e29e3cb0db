//! One pickle with numpy arrays in it: detectron2's, haiku's, what people write themselves.

use super::tree::{Lying, walk};
use super::{Format, TensorFile};
use crate::data::pickle;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

/// Most bytes that are held beside the long arrays, which stay in the file until they are loaded. Python 3 writes arrays of
/// protocols before 3 as texts, which are.
const MOST: u64 = 1 << 30;

pub(super) fn read(path: &Path, file: File, length: u64) -> Result<TensorFile> {
    let damaged =
        |why: String| Error::Weights(format!("pickle `{}` cannot be read: {why}", path.display()));
    let skimmed = pickle::skim(&file, length, MOST).map_err(|error| match error.kind() {
        ErrorKind::InvalidData => damaged(error.to_string()),
        _ => Error::io("read", path)(error),
    })?;
    let none = |_: &_| Err("its numbers lie in no file".to_owned());
    let lying = Lying { bytes: &skimmed.bytes, place: &|at| skimmed.place(at) };
    let found = pickle::graph_of(&skimmed)
        .and_then(|graph| walk(&graph, lying, false, &none))
        .map_err(damaged)?;
    TensorFile::checked(path, Format::Pickle, vec![(path.to_owned(), file)], found)
}
