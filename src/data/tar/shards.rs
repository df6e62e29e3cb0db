//! Which shards a location names, and the split each belongs to.

use super::super::{Entry, Source, entries, is_image, is_split_name};
use super::read;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Most shards a brace range may name.
const MAX_SHARDS: usize = 100_000;

/// Whether a file begins with a tar header: 512 bytes whose checksum is right.
pub(in crate::data) fn is_tar(start: &[u8]) -> bool {
    let Some(block) = start.get(..512) else { return false };
    let text = std::str::from_utf8(&block[148..156]).unwrap_or_default();
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    // The checksum counts its own eight bytes as spaces.
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let own: u32 = block[148..156].iter().map(|byte| u32::from(*byte)).sum();
    u32::from_str_radix(text, 8).is_ok_and(|stated| stated == sum - own + 8 * 32)
}

/// Whether a name is that of a tar file packed with gzip.
pub(in crate::data) fn packed(name: &str) -> bool {
    ends(name, &["tar.gz", "tgz"])
}

fn is_shard(entry: &Entry) -> bool {
    !entry.is_folder && ends(&entry.name(), &["tar", "tar.gz", "tgz"])
}

fn ends(name: &str, ends: &[&str]) -> bool {
    let name = name.to_lowercase();
    ends.iter().any(|end| name.strip_suffix(end).is_some_and(|stem| stem.ends_with('.')))
}

/// Whether a folder holds shards: itself, without sub-folders, or in sub-folders that are all named like splits.
pub(in crate::data) fn holds(_: &Path, here: &[Entry]) -> bool {
    find(here).is_ok_and(|shards| !shards.is_empty())
}

fn find(here: &[Entry]) -> Result<Vec<(String, PathBuf)>> {
    let mut shards = Vec::new();
    if here.iter().all(|entry| !entry.is_folder) {
        for shard in here.iter().filter(|entry| is_shard(entry)) {
            shards.push((split_of(&shard.path), shard.path.clone()));
        }
        return Ok(shards);
    }
    for folder in here.iter().filter(|entry| entry.is_folder) {
        let inside = entries(&folder.path)?;
        let mixed = inside.iter().any(|entry| entry.is_folder || is_image(entry));
        if mixed || !is_split_name(&folder.name()) || !inside.iter().any(is_shard) {
            return Ok(Vec::new());
        }
        let inside = inside.into_iter().filter(is_shard);
        shards.extend(inside.map(|shard| (folder.name().to_lowercase(), shard.path)));
    }
    Ok(shards)
}

/// Opens a folder that [`holds`] shards.
///
/// # Errors
/// Those of [`expand`].
pub(in crate::data) fn open(location: &str, folder: &Path) -> Result<Source> {
    checked(location, &find(&entries(folder)?)?)
}

/// Opens the shards that `name-{000000..000146}.tar` names, or a single one.
///
/// # Errors
/// [`Error::Data`] when the range is no range, a shard is missing or packed, or there is no image in them.
pub(in crate::data) fn expand(location: &str) -> Result<Source> {
    let mut paths = vec![String::new()];
    let mut rest = location;
    while let Some(range) = next_range(rest)? {
        let Range { front, width, first, last, after } = range;
        let count = (last - first).saturating_add(1).saturating_mul(paths.len());
        if count > MAX_SHARDS {
            return Err(Error::Data(format!(
                "`{location}` names {count} shards, more than {MAX_SHARDS}"
            )));
        }
        let numbered = |path: String| {
            (first..=last).map(move |number| format!("{path}{front}{number:0width$}"))
        };
        paths = paths.into_iter().flat_map(numbered).collect();
        rest = after;
    }
    let paths: Vec<PathBuf> =
        paths.into_iter().map(|path| PathBuf::from(format!("{path}{rest}"))).collect();
    let missing: Vec<&PathBuf> = paths.iter().filter(|path| !path.is_file()).collect();
    if let Some(first) = missing.first() {
        return Err(Error::Data(format!(
            "{} of the {} shards of `{location}` are missing, the first is `{}`",
            missing.len(),
            paths.len(),
            first.display()
        )));
    }
    let shards: Vec<_> = paths.into_iter().map(|path| (split_of(&path), path)).collect();
    checked(location, &shards)
}

/// A brace range within a location.
struct Range<'a> {
    front: &'a str,
    /// Digits of a number, filled with zeros.
    width: usize,
    first: usize,
    last: usize,
    after: &'a str,
}

fn next_range(text: &str) -> Result<Option<Range<'_>>> {
    let Some((front, rest)) = text.split_once('{') else { return Ok(None) };
    let range = rest.split_once('}').and_then(|(range, after)| {
        let (start, end) = range.split_once("..")?;
        let (first, last): (usize, usize) = (start.parse().ok()?, end.parse().ok()?);
        let width = if start.len() == end.len() { end.len() } else { 0 };
        (first <= last).then_some(Range { front, width, first, last, after })
    });
    range.map(Some).ok_or_else(|| {
        Error::Data(format!(
            "`{{{rest}` is no range of shards, write `name-{{000000..000146}}.tar`"
        ))
    })
}

/// Shards that exist and are plain tar.
fn checked(location: &str, shards: &[(String, PathBuf)]) -> Result<Source> {
    for (_, path) in shards {
        let mut start = Vec::new();
        let read = File::open(path).and_then(|file| file.take(2).read_to_end(&mut start));
        read.map_err(|e| Error::Data(format!("cannot read `{}`: {e}", path.display())))?;
        if start == [0x1f, 0x8b] {
            return Err(Error::Data(format!(
                "`{0}` is packed with gzip, but images are read in place, which needs plain tar; unpack it once with \
                 `gunzip {0}`",
                path.display()
            )));
        }
    }
    read(location, shards)
}

/// The split that the name of a shard tells before its digits (`train-0001.tar`, `imagenet-val-000000.tar`), else `all`.
pub(super) fn split_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let words = stem.split(|c: char| !c.is_alphanumeric());
    let mut words = words.map(|word| word.trim_end_matches(|c: char| c.is_ascii_digit()));
    let last = words.rfind(|word| !word.is_empty() && *word != "of");
    last.filter(|word| is_split_name(word)).unwrap_or("all").to_owned()
}
