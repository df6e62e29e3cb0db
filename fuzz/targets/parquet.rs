//! A parquet file of images.
#![no_main]

use diptych_fuzz::{Folder, IMAGE, in_proportion, read_source};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static FOLDER: LazyLock<Folder> = LazyLock::new(Folder::new);

/// A million class names, the most that labels can make, whatever the size of the file.
const NAMES: usize = 64 << 20;

/// What the `parquet` crate reserves, but does not touch, for the pages being read: a page states up to 2 GiB. That they are
/// not touched is what the limit on resident memory sees.
const PAGES: usize = 8 << 30;

fuzz_target!(|input: &[u8]| {
    let file = FOLDER.put("train.parquet", input);
    read_source(&file, NAMES + PAGES + in_proportion(input.len()), IMAGE);
});
