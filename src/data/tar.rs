//! WebDataset shards: plain tar files whose images are read in place, never unpacked.
//!
//! Members with the same key (path up to the first dot of the file name) that follow one another are one record: its
//! image under a field such as `jpg`, its label under `cls` (an integer as text) or in `json` (an integer `label` or
//! `cls`). One pass over the headers of every shard finds where the images lie.

mod index;
mod shards;

use super::decode::{codec, decode};
use super::{Dataset, Image, MAX_FILE_BYTES, Source};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use index::{Index, Record, index};
pub(super) use shards::{expand, holds, is_tar, open, packed};

/// Shards kept open, below the usual limit of open files; the others are opened for every image.
const MAX_OPEN: usize = 256;

/// Images per split looked at to name the codec.
const SAMPLE: usize = 64;

/// A tar file.
struct Shard {
    path: PathBuf,
    name: String,
    file: Option<File>,
}

impl Shard {
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let read = match &self.file {
            Some(file) => file.read_exact_at(buffer, offset),
            None => File::open(&self.path).and_then(|file| file.read_exact_at(buffer, offset)),
        };
        read.map_err(|e| Error::Data(format!("cannot read shard `{}`: {e}", self.path.display())))
    }
}

/// One split: the records of its shards, one shard behind the other.
struct Split {
    shards: Vec<Shard>,
    records: Vec<(u32, Record)>,
}

impl Split {
    fn of(&self, index: usize) -> (&Shard, &Record) {
        let (shard, record) = &self.records[index];
        (&self.shards[*shard as usize], record)
    }
}

impl Dataset for Split {
    fn len(&self) -> usize {
        self.records.len()
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.records[index].1.label
    }

    fn path(&self, index: usize) -> String {
        let (shard, record) = self.of(index);
        format!("{}/{}", shard.name, record.name)
    }

    fn image(&self, index: usize) -> Result<Image> {
        let (shard, record) = self.of(index);
        let path = self.path(index);
        if let Some(why) = &record.damage {
            return Err(Error::Data(format!("`{path}` is damaged: {why}")));
        }
        if record.size > MAX_FILE_BYTES {
            let size = record.size;
            return Err(Error::Data(format!("`{path}` is {size} bytes, no image is so large")));
        }
        // The index has checked that the shard is long enough.
        let mut bytes = vec![0; record.size as usize];
        shard.read(&mut bytes, record.offset)?;
        decode(&bytes, &path)
    }

    fn codec(&self, index: usize) -> Option<&'static str> {
        let (shard, record) = self.of(index);
        let mut start = vec![0; record.size.min(16) as usize];
        shard.read(&mut start, record.offset).ok()?;
        codec(&start)
    }
}

/// Reads the headers of all shards; each comes with its split, in the order in which they are joined.
///
/// # Errors
/// [`Error::Data`] when a shard cannot be opened, no record has an image, or a label has no name in `classes.txt`.
fn read(location: &str, shards: &[(String, PathBuf)]) -> Result<Source> {
    let found: Vec<(Shard, Index)> = shards
        .par_iter()
        .enumerate()
        .map(|(number, (_, path))| read_shard(path, number < MAX_OPEN))
        .collect::<Result<_>>()?;
    if let Some(error) = no_image(location, &found) {
        return Err(error);
    }
    let count = found.len();
    let mut splits: Vec<(String, Split)> = Vec::new();
    for ((name, _), (shard, index)) in shards.iter().zip(found) {
        let place = splits.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            splits.push((name.clone(), Split { shards: Vec::new(), records: Vec::new() }));
            splits.len() - 1
        });
        let split = &mut splits[place].1;
        let number = split.shards.len() as u32;
        split.records.extend(index.records.into_iter().map(|record| (number, record)));
        split.shards.push(shard);
    }
    splits.sort_by_key(|(name, _)| super::split_order(name));
    let classes = class_names(&shards[0].1, &splits)?;
    let codecs = codecs(&splits);
    let many = if count == 1 { "1 shard".to_owned() } else { format!("{count} shards") };
    let fingerprint = fingerprint(&classes, &splits);
    Ok(Source {
        format: format!("WebDataset tar, {many}, {codecs}"),
        location: location.to_owned(),
        classes,
        splits: splits
            .into_iter()
            .map(|(name, split)| (name, Arc::new(split) as Arc<dyn Dataset>))
            .collect(),
        fingerprint,
    })
}

fn read_shard(path: &Path, keep: bool) -> Result<(Shard, Index)> {
    let failed =
        |e: std::io::Error| Error::Data(format!("cannot read shard `{}`: {e}", path.display()));
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let index = index(BufReader::with_capacity(1024, &file), length);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((Shard { path: path.to_owned(), name, file: keep.then_some(file) }, index))
}

/// The error of shards without a single image, with what they hold in its place.
fn no_image(location: &str, found: &[(Shard, Index)]) -> Option<Error> {
    if found.iter().any(|(_, index)| index.images > 0) {
        return None;
    }
    let mut fields: Vec<&str> =
        found.iter().flat_map(|(_, index)| &index.fields).map(|field| &**field).collect();
    fields.sort_unstable();
    fields.dedup();
    let damage = found.iter().flat_map(|(shard, index)| {
        index.records.iter().filter_map(|record| Some((&shard.name, record.damage.as_ref()?)))
    });
    let seen = match (fields.as_slice(), damage.into_iter().next()) {
        ([], Some((shard, why))) => format!("`{shard}` is damaged: {why}"),
        ([], None) => "they are empty".to_owned(),
        (fields, _) if fields.contains(&"tar") => {
            "they hold tar files; unpack them into class folders".to_owned()
        }
        (fields, _) => format!("they hold .{}", fields[..fields.len().min(8)].join(", .")),
    };
    Some(Error::Data(format!(
        "no image (.{}) in the shards of `{location}`: {seen}",
        index::FIELDS.join(", .")
    )))
}

/// Names from `classes.txt` or `classnames.txt` beside the first shard, a line each; else numbers up to the largest label.
fn class_names(shard: &Path, splits: &[(String, Split)]) -> Result<Vec<String>> {
    let folder = shard.parent().unwrap_or(Path::new(""));
    let file = ["classes.txt", "classnames.txt"].map(|name| folder.join(name));
    let file = file.into_iter().find(|file| file.is_file());
    let largest = splits
        .iter()
        .flat_map(|(_, split)| split.records.iter().filter_map(|(_, record)| record.label))
        .max();
    let count = largest.map_or(0, |label| label as usize + 1);
    let Some(file) = file.filter(|_| count > 0) else {
        return Ok((0..count).map(|label| label.to_string()).collect());
    };
    let text = std::fs::read_to_string(&file)
        .map_err(|e| Error::Data(format!("cannot read `{}`: {e}", file.display())))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let names: Vec<String> = lines.map(str::to_owned).collect();
    if count > names.len() {
        return Err(Error::Data(format!(
            "a record has label `{}`, but `{}` names only {} classes",
            count - 1,
            file.display(),
            names.len()
        )));
    }
    Ok(names)
}

fn codecs(splits: &[(String, Split)]) -> String {
    let mut seen: Vec<&str> = splits
        .iter()
        .flat_map(|(_, split)| (0..split.len().min(SAMPLE)).filter_map(|i| split.codec(i)))
        .collect();
    seen.sort_unstable();
    seen.dedup();
    if seen.is_empty() { "unknown".to_owned() } else { seen.join(" and ") }
}

/// Hash of names, sizes and labels; the images themselves are not read.
fn fingerprint(classes: &[String], splits: &[(String, Split)]) -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(serde_json::json!(["tar", classes]).to_string().as_bytes());
    for (name, split) in splits {
        hash.update(serde_json::json!([name, split.len()]).to_string().as_bytes());
        for (_, record) in &split.records {
            hash.update(record.name.as_bytes()).update(&[0]);
            hash.update(&record.size.to_le_bytes());
            hash.update(&record.label.unwrap_or(u32::MAX).to_le_bytes());
        }
    }
    hash.finalize().to_hex().to_string()
}

#[cfg(test)]
pub(super) mod tests;
