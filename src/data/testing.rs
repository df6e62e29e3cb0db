//! What the tests of several readers share.

use super::{Dataset, Image, open};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// That many 1×1 images, each showing its number and labelled with it modulo 7.
pub(super) struct Numbers(pub(super) usize);

impl Dataset for Numbers {
    fn len(&self) -> usize {
        self.0
    }
    fn label(&self, index: usize) -> Option<u32> {
        Some(index as u32 % 7)
    }
    fn path(&self, index: usize) -> String {
        index.to_string()
    }
    fn image(&self, index: usize) -> Result<Image> {
        Ok(Image { width: 1, height: 1, pixels: vec![index as u8; 3] })
    }
}

/// A path below tests/golden.
pub(super) fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// What tests/golden/data.py stored of a data set under a name.
pub(super) fn truth(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(golden("data/truth.json")).unwrap();
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    all[name].clone()
}

/// Label (−1 for none) and CRC-32 of the pixels of every image, as the reference stores them.
pub(super) fn seen(split: &dyn Dataset) -> serde_json::Value {
    let all = (0..split.len()).map(|index| {
        let mut crc = flate2::Crc::new();
        crc.update(&split.image(index).unwrap().pixels);
        serde_json::json!([split.label(index).map_or(-1, i64::from), crc.sum()])
    });
    all.collect::<Vec<_>>().into()
}

/// Asserts that a source has the splits, labels and pixels that the reference found under a name.
pub(super) fn assert_truth(location: &Path, name: &str) -> super::Source {
    let source = open(location.to_str().unwrap()).unwrap();
    let truth = truth(name);
    let names: Vec<&str> = source.splits.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, truth.as_object().unwrap().keys().collect::<Vec<_>>(), "{name}");
    for (split, dataset) in &source.splits {
        assert_eq!(seen(dataset.as_ref()), truth[split], "{split} of {name}");
    }
    source
}

/// Copies the files of a folder into a new one.
pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// The message of the data error that opening a place gives.
pub(super) fn failure(location: &Path) -> String {
    failure_of(open(location.to_str().unwrap()))
}

/// The message of a data error.
pub(super) fn failure_of(result: Result<impl Sized>) -> String {
    match result.map(|_| ()).unwrap_err() {
        Error::Data(message) => message,
        other => panic!("{other:?} is no data error"),
    }
}
