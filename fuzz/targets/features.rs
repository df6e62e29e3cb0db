//! Stored features: the safetensors file and the paths beside it.
#![no_main]

use diptych::evaluate::features::Features;
use diptych_fuzz::{Folder, in_proportion, is_weights, judged, tried, two};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static FOLDER: LazyLock<Folder> = LazyLock::new(Folder::new);

fuzz_target!(|input: &[u8]| {
    let (file, paths) = two(input);
    let path = FOLDER.put("h.safetensors", file);
    FOLDER.put("h.paths.txt", paths);
    judged(tried(in_proportion(input.len()), || Features::load(&path)), is_weights);
});
