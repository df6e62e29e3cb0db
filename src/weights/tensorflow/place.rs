//! Where a checkpoint lies: all names by which people call one.

use crate::error::{Error, Result};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Largest `checkpoint` text read.
const LONGEST_TEXT: u64 = 1 << 20;

/// The prefix of the checkpoint at `path`: the prefix itself, its `.index`, `.data-…` or `.meta`, the text file
/// `checkpoint`, a folder with that file or with one checkpoint only, or the folder of a `SavedModel`.
///
/// # Errors
/// [`Error::Weights`] if there is none, or several and nothing says which.
pub(super) fn prefix(path: &Path) -> Result<PathBuf> {
    if path.is_dir() {
        return in_folder(path);
    }
    if path.file_name() == Some(OsStr::new("checkpoint")) && path.is_file() {
        return named_by(path);
    }
    let stem = || path.with_extension("");
    let candidate = match path.extension().and_then(OsStr::to_str) {
        Some("index" | "meta") => stem(),
        Some(end) if end.starts_with("data-") => stem(),
        _ => path.to_owned(),
    };
    if index_of(&candidate).is_file() {
        return Ok(candidate);
    }
    Err(Error::Weights(format!(
        "`{}` is no TensorFlow checkpoint: there is no `{}`",
        path.display(),
        index_of(&candidate).display()
    )))
}

/// The index of a prefix.
pub(super) fn index_of(prefix: &Path) -> PathBuf {
    with(prefix, ".index")
}

/// A data file of a prefix.
pub(super) fn data_of(prefix: &Path, shard: usize, shards: usize) -> PathBuf {
    with(prefix, &format!(".data-{shard:05}-of-{shards:05}"))
}

fn with(prefix: &Path, ending: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn in_folder(folder: &Path) -> Result<PathBuf> {
    if folder.join("checkpoint").is_file() {
        return named_by(&folder.join("checkpoint"));
    }
    for inner in ["variables/variables", "variables"] {
        if index_of(&folder.join(inner)).is_file() {
            return Ok(folder.join(inner));
        }
    }
    let listed = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let mut found: Vec<PathBuf> = listed
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension() == Some(OsStr::new("index")))
        .collect();
    found.sort();
    let names = |paths: &[PathBuf]| {
        let names: Vec<String> = paths.iter().map(|path| format!("`{}`", path.display())).collect();
        names.join(", ")
    };
    match found.as_slice() {
        [only] => Ok(only.with_extension("")),
        [] => Err(Error::Weights(format!(
            "folder `{}` holds no TensorFlow checkpoint: neither a file `checkpoint` nor one that ends in `.index`",
            folder.display()
        ))),
        several => Err(Error::Weights(format!(
            "folder `{}` holds several checkpoints, choose one: {}",
            folder.display(),
            names(several)
        ))),
    }
}

/// The checkpoint that a text file `checkpoint` calls the latest. Its path is often that of the machine that wrote it: then
/// the name alone counts.
fn named_by(text: &Path) -> Result<PathBuf> {
    let damaged = |why: &str| Error::Weights(format!("`{}` {why}", text.display()));
    let size = fs::metadata(text).map_err(Error::io("read", text))?.len();
    if size > LONGEST_TEXT {
        return Err(damaged("is too large for a list of checkpoints"));
    }
    let content = fs::read(text).map_err(Error::io("read", text))?;
    let content = String::from_utf8(content).map_err(|_| damaged("is no text"))?;
    let latest = content
        .lines()
        .find_map(|line| line.trim().strip_prefix("model_checkpoint_path:"))
        .map(|value| value.trim().trim_matches('"'))
        .filter(|value| !value.is_empty())
        .ok_or_else(|| damaged("does not say `model_checkpoint_path: \"…\"`"))?;
    let folder = text.parent().unwrap_or(Path::new("."));
    let name = Path::new(latest).file_name().map(Path::new);
    [Some(Path::new(latest)), name]
        .into_iter()
        .flatten()
        .map(|place| folder.join(place))
        .find(|prefix| index_of(prefix).is_file())
        .ok_or_else(|| damaged(&format!("names `{latest}`, of which there is no `.index` here")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_found_under_all_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let here = |name: &str| folder.path().join(name);
        let refused = |path: &Path| prefix(path).unwrap_err().to_string();
        assert!(refused(folder.path()).contains("holds no TensorFlow checkpoint"));
        assert!(refused(&here("model.ckpt-5")).contains("there is no `"));
        fs::write(here("model.ckpt-5.index"), "").unwrap();
        let expected = here("model.ckpt-5");
        for name in [
            "model.ckpt-5",
            "model.ckpt-5.index",
            "model.ckpt-5.meta",
            "model.ckpt-5.data-00000-of-00001",
            "",
        ] {
            assert_eq!(prefix(&here(name)).unwrap(), expected, "{name}");
        }
        fs::write(here("model.ckpt-9.index"), "").unwrap();
        assert!(refused(folder.path()).contains("several checkpoints"), "which?");
        let text = "model_checkpoint_path: \"/elsewhere/model.ckpt-9\"\nall_model_checkpoint_paths: \"x\"\n";
        fs::write(here("checkpoint"), text).unwrap();
        assert_eq!(prefix(folder.path()).unwrap(), here("model.ckpt-9"));
        assert_eq!(prefix(&here("checkpoint")).unwrap(), here("model.ckpt-9"));
        fs::write(here("checkpoint"), "model_checkpoint_path: \"gone\"").unwrap();
        assert!(refused(folder.path()).contains("names `gone`"));
        fs::write(here("checkpoint"), [0xff, 0xfe]).unwrap();
        assert!(refused(folder.path()).contains("is no text"));
    }

    #[test]
    fn the_variables_of_a_saved_model_are_found() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("variables")).unwrap();
        fs::write(folder.path().join("variables/variables.index"), "").unwrap();
        let expected = folder.path().join("variables/variables");
        assert_eq!(prefix(folder.path()).unwrap(), expected);
        assert_eq!(prefix(&folder.path().join("variables")).unwrap(), expected);
    }
}
