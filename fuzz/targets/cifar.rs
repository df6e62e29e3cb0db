//! One file of CIFAR among whole ones: the first byte chooses the form and the file.
#![no_main]

use diptych_fuzz::{Folder, in_proportion, read_source};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static FOLDERS: LazyLock<[Folder; 4]> = LazyLock::new(|| {
    [
        "data/cifar-10/cifar-10-batches-bin",
        "data/cifar-10/cifar-10-batches-py",
        "data/cifar-100/cifar-100-binary",
        "data/cifar-100/cifar-100-python",
    ]
    .map(Folder::copy)
});

const FILES: [[&str; 2]; 4] = [
    ["test_batch.bin", "batches.meta.txt"],
    ["test_batch", "batches.meta"],
    ["test.bin", "fine_label_names.txt"],
    ["test", "meta"],
];

fuzz_target!(|input: &[u8]| {
    let Some((choice, content)) = input.split_first() else { return };
    let form = usize::from(choice % 4);
    let name = FILES[form][usize::from(choice / 4 % 2)];
    let place = FOLDERS[form].path().join(name);
    let whole = std::fs::read(&place).expect("the whole file");
    let alone = FOLDERS[form].put(name, content);
    let limit = in_proportion(content.len() + 100_000);
    read_source(FOLDERS[form].path(), limit, limit);
    if name.ends_with(".bin") {
        read_source(&alone, limit, limit);
    }
    FOLDERS[form].put(name, &whole);
});
