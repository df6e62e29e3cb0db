//! A file of tensors of any format: its headers, its tensors, whose backbone it is.
#![no_main]

use diptych::weights::{Import, Stated, TensorFile};
use diptych_fuzz::{Folder, in_proportion, is_weights, judged, tried};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static FOLDER: LazyLock<Folder> = LazyLock::new(Folder::new);

fuzz_target!(|input: &[u8]| {
    let path = FOLDER.put("weights.bin", input);
    // A value of one byte takes a place in an arena, which grows by doubling.
    let room = 4 * in_proportion(input.len());
    let Some(file) = judged(tried(room, || TensorFile::open(&path)), is_weights) else { return };
    for entry in file.entries().iter().take(16) {
        if let Some(tensor) = judged(tried(room, || file.tensor(entry)), is_weights) {
            assert_eq!(tensor.numel(), entry.count());
        }
    }
    let plan = tried(room, || Import::plan(&file, &Stated::default()));
    if let Some(plan) = judged(plan, is_weights) {
        judged(plan.complete(&file), is_weights);
    }
});
