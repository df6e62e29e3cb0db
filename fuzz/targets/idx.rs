//! A split of MNIST: the images file, plain or packed, and the labels file.
#![no_main]

use diptych::data::idx;
use diptych_fuzz::{Folder, in_proportion, is_data, judged, read_source, tried, two};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static FOLDER: LazyLock<Folder> = LazyLock::new(Folder::new);

/// What deflate packs into a byte at most.
const PACKED: usize = 1_040;

fuzz_target!(|input: &[u8]| {
    let (images, labels) = two(input);
    judged(tried(in_proportion(images.len()), || idx::header(images, "fuzz")), is_data);
    FOLDER.put("train-images-idx3-ubyte", images);
    FOLDER.put("train-labels-idx1-ubyte", labels);
    let limit = in_proportion(PACKED / 8 * input.len());
    read_source(FOLDER.path(), limit, limit);
});
