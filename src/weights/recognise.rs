//! What a file is, told by its first and last bytes.

use super::{TensorFile, pickles, safetensors, tensorflow, torch};
use crate::error::{Error, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(super) fn open(path: &Path) -> Result<TensorFile> {
    // A checkpoint of TensorFlow is several files, and goes by the name of none of them.
    let part = tensorflow::Bundle::is_part(path) || !path.is_file();
    if part && tensorflow::Bundle::is_at(path) {
        return tensorflow::read(path);
    }
    let file = File::open(path).map_err(Error::io("read", path))?;
    let length = file.metadata().map_err(Error::io("read", path))?;
    if length.is_dir() {
        return Err(refused(path, "is a folder, no file of weights"));
    }
    let length = length.len();
    let start = stretch(&file, 0, 512.min(length)).map_err(Error::io("read", path))?;
    let end = stretch(&file, length.saturating_sub(8), 8.min(length));
    let end = end.map_err(Error::io("read", path))?;
    match start.as_slice() {
        [] => Err(refused(path, "is empty")),
        _ if end == tensorflow::MAGIC => tensorflow::read(path),
        [_, _, _, _, _, _, _, _, b'{', ..] => safetensors::read(path, file, length),
        [b'P', b'K', 3 | 5, 4 | 6, ..] => torch::read_zip(path, file, length),
        start if torch::begins(start) => torch::read_legacy(path, file, length),
        [0x80, 2..=5, ..] => pickles::read(path, file, length),
        [0x1f, 0x8b, ..] | [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', ..] => {
            Err(refused(path, "is compressed; unpack it first"))
        }
        [0x89, b'H', b'D', b'F', ..] => {
            Err(refused(path, "is HDF5, which is not read; save the weights as safetensors"))
        }
        start if start.get(257..262) == Some(b"ustar") => Err(refused(
            path,
            "is a tar archive: one of PyTorch's first releases, or packed by hand. Unpack it, or load it with a PyTorch \
             that can and save its state_dict again",
        )),
        _ => Err(refused(
            path,
            "is none of the formats that are read: safetensors, PyTorch (zip, and before 1.6), TorchScript, pickles of \
             numpy arrays, TensorFlow checkpoints (`.index`)",
        )),
    }
}

fn refused(path: &Path, what: &str) -> Error {
    Error::Weights(format!("`{}` {what}", path.display()))
}

/// A stretch of a file that lies within it.
pub(super) fn stretch(file: &File, start: u64, bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut all = vec![0; bytes as usize];
    file.read_exact_at(&mut all, start)?;
    Ok(all)
}
