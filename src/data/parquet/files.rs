//! Which parquet files a folder holds, and the split each belongs to.

use crate::data::{entries, is_split_name};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A folder with more sub-folders than this holds classes, not configurations of a parquet data set.
const MAX_SUBFOLDERS: usize = 16;

/// The parquet files under a folder, each with the split it belongs to; empty if there are none.
///
/// Looks into the folder itself, else up to two levels below it (`data/`, `plain_text/`, `default/train/`).
///
/// # Errors
/// [`Error::Data`] when several configurations lie side by side, or when numbered files of a split are missing.
pub(in crate::data) fn find(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let holders = holders(root, 2)?;
    let name =
        |folder: &PathBuf| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let by_folder = holders.len() > 1;
    if by_folder && !holders.iter().all(|folder| is_split_name(&name(folder))) {
        let names: Vec<String> = holders.iter().map(|f| format!("`{}`", f.display())).collect();
        return Err(Error::Data(format!(
            "`{}` holds several parquet data sets, give the path of one: {}",
            root.display(),
            names.join(", ")
        )));
    }
    let mut files = Vec::new();
    for folder in &holders {
        let inside = listing(folder)?.0;
        check_complete(folder, &inside)?;
        files.extend(inside.into_iter().map(|file| {
            let split = if by_folder { name(folder).to_lowercase() } else { split_of(&file) };
            (split, file)
        }));
    }
    Ok(files)
}

/// Parquet files and sub-folders of a folder, hidden ones left out, each sorted by name.
fn listing(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let entries = entries(folder)?;
    let (folders, files): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.is_folder);
    let is_parquet =
        |path: &PathBuf| path.extension().is_some_and(|end| end.eq_ignore_ascii_case("parquet"));
    Ok((
        files.into_iter().map(|file| file.path).filter(is_parquet).collect(),
        folders.into_iter().map(|folder| folder.path).collect(),
    ))
}

fn holders(folder: &Path, depth: usize) -> Result<Vec<PathBuf>> {
    let (files, folders) = listing(folder)?;
    if !files.is_empty() {
        return Ok(vec![folder.to_owned()]);
    }
    if depth == 0 || folders.len() > MAX_SUBFOLDERS {
        return Ok(Vec::new());
    }
    let below: Result<Vec<_>> = folders.iter().map(|folder| holders(folder, depth - 1)).collect();
    Ok(below?.concat())
}

/// `train-00000-of-00002[-hash]` as its split, number and count.
fn numbered(stem: &str) -> Option<(&str, usize, usize)> {
    let (split, rest) = stem.split_once("-of-").and_then(|(front, count)| {
        let (split, number) = front.rsplit_once('-')?;
        Some((split, (number, count.split('-').next()?)))
    })?;
    Some((split, rest.0.parse().ok()?, rest.1.parse().ok()?))
}

/// The split a file's name tells: `train-00000-of-00001.parquet`, `train.parquet`; any other name is `all`.
pub(in crate::data) fn split_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    match numbered(&stem) {
        Some((split, ..)) => split.to_owned(),
        None if is_split_name(&stem) => stem,
        None => "all".to_owned(),
    }
}

fn check_complete(folder: &Path, files: &[PathBuf]) -> Result<()> {
    let mut found: BTreeMap<(String, usize), Vec<usize>> = BTreeMap::new();
    for file in files {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if let Some((split, number, count)) = numbered(&stem) {
            found.entry((split.to_owned(), count)).or_default().push(number);
        }
    }
    for ((split, count), numbers) in found {
        if let Some(missing) = (0..count).find(|number| !numbers.contains(number)) {
            return Err(Error::Data(format!(
                "`{}` holds {} of the {count} files of split `{split}`, number {missing:05} is missing; \
                 fetch the rest, or give the path of one file to use it alone",
                folder.display(),
                numbers.len(),
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_tell_the_split() {
        for (name, split) in [
            ("train-00000-of-00001.parquet", "train"),
            ("test-00003-of-00010-0a1b2c.parquet", "test"),
            ("Validation.parquet", "validation"),
            ("foo.parquet", "all"),
            ("my-train-set.parquet", "all"),
        ] {
            assert_eq!(split_of(Path::new(name)), split, "{name}");
        }
    }
}
