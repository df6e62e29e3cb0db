//! Weights of a backbone from elsewhere, in a safetensors file.
#![no_main]

use diptych::evaluate::weights::Weights;
use diptych_fuzz::{Folder, in_proportion, is_weights, judged, tried};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tch::Device;

static FOLDER: LazyLock<Folder> = LazyLock::new(Folder::new);

fuzz_target!(|input: &[u8]| {
    let path = FOLDER.put("weights.safetensors", input);
    let loaded = tried(in_proportion(input.len()), || Weights::load(&path, Device::Cpu));
    judged(loaded, is_weights);
});
