//! What lies at a location: found by looking at what files hold, with their names as a hint.

use super::{
    Entry, Source, cifar, competing, decode, entries, folder, idx, is_image, parquet, stl10,
};
use super::{synthetic, tar, transfer};
use crate::error::{Error, Result};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A folder with more sub-folders than this is not searched for data sets.
const MAX_SUBFOLDERS: usize = 16;

/// What can be opened, for messages.
const READABLE: &str = "a folder of images, a parquet file or folder in the Hugging Face layout, WebDataset shards \
                        (`name-{000..146}.tar`), or a folder of CIFAR, STL-10 or MNIST files";

/// A kind of folder: whether a folder with these entries is one, and how it is opened.
type Kind = (fn(&Path, &[Entry]) -> bool, fn(&str, &Path) -> Result<Source>);

const KINDS: [Kind; 4] = [
    (cifar::holds, cifar::open),
    (stl10::holds, stl10::open),
    (idx::holds, idx::open),
    (tar::holds, tar::open),
];

/// Opens a data source: a folder of images, a parquet file or folder, WebDataset shards, CIFAR, STL-10 or MNIST files
/// as they are published, `synthetic:NAME`, `transfer:NAME:PATH` ([`transfer::open`]), or a set with competing features made
/// of others (`digits-on:BASE?digits=MNIST`, `multi-digits:MNIST?variant=grid`, `random-bits:BASE?bits=10`).
///
/// A folder that holds such a data set alone in a sub-folder, up to two levels below, stands for it.
///
/// # Errors
/// [`Error::Data`] when nothing is there, it is damaged, or it is of no kind that is read; says what was seen.
pub fn open(spec: &str) -> Result<Source> {
    if let Some(name) = spec.strip_prefix("synthetic:") {
        return synthetic::open(name);
    }
    if let Some(opened) = competing::open(spec) {
        return opened;
    }
    if let Some(named) = spec.strip_prefix("transfer:") {
        let (name, root) = named.split_once(':').ok_or_else(|| {
            Error::Data(format!("`{spec}` must be of the form `transfer:NAME:PATH`"))
        })?;
        let source = transfer::open(name, Path::new(root))?.source();
        return Ok(Source { location: spec.to_owned(), ..source });
    }
    let path = Path::new(spec);
    if !path.exists() {
        if spec.contains('{') && spec.contains("..") {
            return tar::expand(spec);
        }
        return Err(Error::Data(format!(
            "`{spec}` does not exist; give {READABLE}, or `synthetic:scenes` for a made data set that needs no file"
        )));
    }
    if path.is_dir() { open_folder(spec, path) } else { open_file(spec, path) }
}

fn open_folder(spec: &str, path: &Path) -> Result<Source> {
    let here = entries(path)?;
    // Images in the folder itself make one set, whatever tables lie beside them.
    let images = here.iter().any(is_image);
    let files = if images { Vec::new() } else { parquet::find(path)? };
    match (kind_of(path, &here), files.is_empty()) {
        // Shards are told by any tar file, which an archive beside tables is, too.
        (Some(_), false) if tar::holds(path, &here) => {
            return Err(Error::Data(format!(
                "`{spec}` holds parquet files (`{}`) and tar files; give the path of one, or move the others away",
                files[0].1.display()
            )));
        }
        (Some((_, open)), _) => return open(spec, path),
        (None, false) => return parquet::open(spec, &files),
        (None, true) => {}
    }
    let mut below = Vec::new();
    if !here.iter().any(is_image) {
        search(&here, 2, &mut below)?;
    }
    match below.as_slice() {
        [] => folder::open(spec, path),
        [(found, (_, open))] => open(spec, found),
        several => {
            let names: Vec<String> =
                several.iter().map(|(found, _)| format!("`{}`", found.display())).collect();
            Err(Error::Data(format!(
                "`{spec}` holds several data sets, give the path of one: {}",
                names.join(", ")
            )))
        }
    }
}

fn kind_of(folder: &Path, here: &[Entry]) -> Option<&'static Kind> {
    if here.iter().any(is_image) {
        return None;
    }
    KINDS.iter().find(|(holds, _)| holds(folder, here))
}

/// Folders of a kind below some entries, the search not going into what was found.
fn search(here: &[Entry], depth: usize, found: &mut Vec<(PathBuf, &'static Kind)>) -> Result<()> {
    let folders: Vec<&Entry> = here.iter().filter(|entry| entry.is_folder).collect();
    if depth == 0 || folders.len() > MAX_SUBFOLDERS {
        return Ok(());
    }
    for folder in folders {
        let inside = entries(&folder.path)?;
        match kind_of(&folder.path, &inside) {
            Some(kind) => found.push((folder.path.clone(), kind)),
            None => search(&inside, depth - 1, found)?,
        }
    }
    Ok(())
}

fn open_file(spec: &str, path: &Path) -> Result<Source> {
    let mut start = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(512).read_to_end(&mut start));
    read.map_err(|e| Error::Data(format!("cannot read `{spec}`: {e}")))?;
    let named = |ends: &str| path.extension().is_some_and(|end| end.eq_ignore_ascii_case(ends));
    if start.starts_with(b"PAR1") || named("parquet") {
        return parquet::open(spec, &[(parquet::split_of(path), path.to_owned())]);
    }
    if tar::is_tar(&start) || named("tar") || (tar::packed(spec) && start.starts_with(b"\x1f\x8b"))
    {
        return tar::expand(spec);
    }
    if let Some(codec) = decode::codec(&start) {
        return Err(Error::Data(format!(
            "`{spec}` is a single {codec} image; give the folder that holds it"
        )));
    }
    if let Some(opened) = cifar::open_file(spec, path) {
        return opened;
    }
    let size = path.metadata().map_or(0, |file| file.len());
    let seen = if idx::header(&start, spec).is_ok() {
        "is an idx file; give the folder that holds images and labels".to_owned()
    } else if super::pickle::announces(&start) {
        "is a Python pickle; give the folder that holds all files of the data set".to_owned()
    } else if named("bin") && stl10::fits(size) {
        "has the size of STL-10 images; give the folder that holds images and labels".to_owned()
    } else if named("bin") && size >= 3073 {
        format!(
            "is {size} bytes, no whole number of records of CIFAR-10 (3073) or CIFAR-100 (3074) with labels of theirs, \
             nor of images of STL-10 (27648); give {READABLE}"
        )
    } else {
        format!("{}; give {READABLE}", decode::opening(&start))
    };
    Err(Error::Data(format!("`{spec}` {seen}")))
}
