//! A file of a run folder: the first byte chooses which. The page is made from what can be read.
#![no_main]

use diptych::error::Error;
use diptych::evaluate::record::Record;
use diptych::train::run;
use diptych_fuzz::{Folder, in_proportion, judged, tried};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static FOLDER: LazyLock<Folder> = LazyLock::new(|| {
    let folder = Folder::new();
    folder.put("recipe.toml", b"seed = 0\n");
    folder
});

const FILES: [&str; 7] = [
    "metrics.jsonl",
    "status.json",
    "environment.json",
    "evaluations/a.json",
    "pictures/a.json",
    "log.txt",
    "recipe.toml",
];

fuzz_target!(|input: &[u8]| {
    let Some((choice, content)) = input.split_first() else { return };
    let name = FILES[usize::from(*choice) % FILES.len()];
    let path = FOLDER.put(name, content);
    // Every name logged has a chart of its own, some 20 kB for ten bytes.
    let limit = 64 * in_proportion(content.len());
    judged(tried(limit, || diptych::report::write(FOLDER.path())), |error| {
        matches!(error, Error::Run(_) | Error::Io { .. })
    });
    tried(limit, || run::read_status(FOLDER.path()));
    if name.starts_with("evaluations") {
        judged(tried(limit, || Record::load(&path)), |_| true);
    }
    match name {
        "recipe.toml" => drop(FOLDER.put(name, b"seed = 0\n")),
        _ => std::fs::remove_file(path).expect("the file is there"),
    }
});
