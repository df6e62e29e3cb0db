//! A parquet file of images.
#![no_main]

use diptych_fuzz::{Folder, IMAGE, read_source};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static FOLDER: LazyLock<Folder> = LazyLock::new(Folder::new);

fuzz_target!(|input: &[u8]| {
    read_source(&FOLDER.put("train.parquet", input), input.len(), IMAGE);
});
