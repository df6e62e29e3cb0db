//! A checkpoint of a run.
#![no_main]

use diptych::train::checkpoint;
use diptych_fuzz::{Folder, in_proportion, is_weights, judged, tried};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static FOLDER: LazyLock<Folder> = LazyLock::new(Folder::new);

fuzz_target!(|input: &[u8]| {
    let path = FOLDER.put("last.safetensors", input);
    let loaded = tried(in_proportion(input.len()), || checkpoint::load(&path));
    if let Some(checkpoint) = judged(loaded, is_weights) {
        let elements: usize = checkpoint.tensors.values().map(tch::Tensor::numel).sum();
        assert!(elements <= input.len());
    }
});
