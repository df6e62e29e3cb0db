//! TensorFlow checkpoints: a table of names (`.index`) and the tensors beside it (`.data-…`).

use super::TensorFile;
use crate::error::{Error, Result};
use std::path::Path;

/// The last eight bytes of a `.index` file.
pub(super) const MAGIC: [u8; 8] = [0x57, 0xfb, 0x80, 0x8b, 0x24, 0x75, 0x47, 0xdb];

/// Reads the table, and finds the files beside it.
pub(super) fn read(path: &Path) -> Result<TensorFile> {
    Err(Error::Weights(format!(
        "`{}` is a TensorFlow checkpoint, which is not read",
        path.display()
    )))
}
