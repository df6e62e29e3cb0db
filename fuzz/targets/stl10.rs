//! STL-10 of two training images: the labels file and the names of the classes.
#![no_main]

use diptych_fuzz::{Folder, in_proportion, read_source, two};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static FOLDER: LazyLock<Folder> = LazyLock::new(|| {
    let folder = Folder::new();
    folder.put("train_X.bin", &[7; 2 * 27_648]);
    folder
});

fuzz_target!(|input: &[u8]| {
    let (labels, names) = two(input);
    FOLDER.put("train_y.bin", labels);
    FOLDER.put("class_names.txt", names);
    let limit = in_proportion(input.len());
    read_source(FOLDER.path(), limit, limit);
});
