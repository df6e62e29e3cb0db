//! Files of named tensors: each written one tensor at a time.

use super::archive::Archive;
use super::item::Item;
use super::pickle::Pickle;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

/// safetensors, with one line of metadata.
pub(super) fn safetensors(
    path: &Path,
    items: &[Item<'_>],
    (key, text): (&str, String),
) -> Result<()> {
    let all = items.iter().map(|item| (item.name.as_str(), item));
    let metadata = Some(HashMap::from([(key.to_owned(), text)]));
    safetensors::serialize_to_file(all, metadata, path).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(source) => Error::io("write", path)(source),
        other => Error::Weights(format!("cannot write `{}`: {other}", path.display())),
    })
}

/// PyTorch's state dict in a zip archive, which `torch.load(…, weights_only=True)` reads.
pub(super) fn torch(path: &Path, items: &[Item<'_>]) -> Result<()> {
    let write = || {
        let mut pickle = Pickle::new(Vec::new(), 2)?;
        pickle.raw(b"}(")?;
        for (key, item) in items.iter().enumerate() {
            pickle.text(&item.name)?;
            pickle.torch_tensor(&key.to_string(), item)?;
        }
        pickle.raw(b"u")?;
        let pickle = pickle.end()?;
        let mut archive = Archive::new(BufWriter::new(File::create(path)?));
        archive.add("archive/data.pkl", &pickle)?;
        archive.add("archive/byteorder", b"little")?;
        for (key, item) in items.iter().enumerate() {
            archive.add(&format!("archive/data/{key}"), &item.bytes())?;
        }
        archive.add("archive/version", b"3\n")?;
        archive.finish()
    };
    write().map_err(Error::io("write", path))
}

/// detectron2's pickle of numpy arrays, which asks to be matched by the ends of names.
pub(super) fn detectron2(path: &Path, items: &[Item<'_>]) -> Result<()> {
    let write = || {
        let mut pickle = Pickle::new(BufWriter::new(File::create(path)?), 3)?;
        pickle.raw(b"}(")?;
        pickle.text("model")?;
        pickle.raw(b"}(")?;
        for item in items {
            pickle.text(&item.name)?;
            pickle.array(item)?;
        }
        pickle.raw(b"u")?;
        pickle.text("__author__")?;
        pickle.text("diptych")?;
        pickle.text("matching_heuristics")?;
        pickle.raw(b"\x88u")?;
        pickle.end().map(drop)
    };
    write().map_err(Error::io("write", path))
}
