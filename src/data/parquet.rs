//! Parquet files in the Hugging Face layout: a struct of `bytes` and `path` per image, an integer label beside it.
//!
//! All encoded images of a split are read into memory at once, in one buffer; decoding happens per image. The crate that
//! reads the files panics on some damaged ones, so every call into it goes through [`guarded`].

mod files;
mod pages;

use super::decode::{codec, decode, guarded, opening};
use super::{Dataset, Image, Source};
use crate::error::{Error, Result};
use pages::Checked;
use parquet::basic::Type as Physical;
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use rayon::prelude::*;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

pub(super) use files::{find, split_of};

/// Memory left to the rest of the program when images are read, in bytes.
const MARGIN: u64 = 256 << 20;

/// A row is an image, at least the name of one; packed as well as can be it still takes a part of a byte.
const MOST_ROWS_PER_BYTE: u64 = 4;

/// Labels from here on are not class ids.
const MAX_CLASSES: u32 = 1_000_000;

/// Reads parquet files into a source; `files` are the files with their splits, in the order in which they are joined.
pub(super) fn open(location: &str, files: &[(String, PathBuf)]) -> Result<Source> {
    let budget =
        crate::memory::available_bytes().map_or(u64::MAX, |free| free.saturating_sub(MARGIN));
    read(location, files, budget)
}

/// Reads files whose images take up to `budget` bytes of memory.
fn read(location: &str, files: &[(String, PathBuf)], mut budget: u64) -> Result<Source> {
    let layouts: Vec<Layout> = files
        .iter()
        .map(|(_, file)| on_file(file, || Layout::read(file)))
        .collect::<Result<_>>()?;
    let needed = layouts.iter().fold(0, |sum: u64, layout| sum.saturating_add(layout.image_bytes));
    if needed > budget {
        return Err(Error::Data(format!(
            "`{location}` holds {needed} bytes of images, but only {budget} bytes of memory are free; \
             give fewer files or use a machine with more memory"
        )));
    }

    let classes = shared_classes(files, &layouts)?;
    let mut splits: Vec<(String, Split)> = Vec::new();
    for ((name, file), layout) in files.iter().zip(&layouts) {
        if !splits.iter().any(|(known, _)| known == name) {
            splits.push((name.clone(), Split::empty(name, file)));
        }
        let (_, split) = splits.iter_mut().find(|(known, _)| known == name).expect("just added");
        let before = split.bytes.len();
        on_file(file, || split.append(file, layout, budget))?;
        budget -= (split.bytes.len() - before) as u64;
    }
    splits.sort_by_key(|(name, _)| super::split_order(name));
    let classes = check_labels(location, &splits, classes)?;
    let format = format!("parquet (Hugging Face layout, {})", codecs(&splits));
    let fingerprint = fingerprint(&splits, &classes);
    let splits = splits
        .into_iter()
        .map(|(name, split)| (name, Arc::new(split) as Arc<dyn Dataset>))
        .collect();
    Ok(Source { format, location: location.to_owned(), classes, splits, fingerprint })
}

fn on_file<T>(file: &Path, work: impl FnOnce() -> Result<T, String>) -> Result<T> {
    guarded(work)
        .map_err(|why| Error::Data(format!("cannot read parquet file `{}`: {why}", file.display())))
}

fn reader(file: &Path) -> Result<SerializedFileReader<File>, String> {
    let file = File::open(file).map_err(|e| e.to_string())?;
    SerializedFileReader::new(file).map_err(|e| e.to_string())
}

/// Where images and labels lie in a file, from its footer.
struct Layout {
    rows: u64,
    image_bytes: u64,
    image: usize,
    path: Option<usize>,
    label: Option<usize>,
    classes: Option<Vec<String>>,
}

impl Layout {
    fn read(file: &Path) -> Result<Self, String> {
        use std::io::Read;
        let mut start = Vec::new();
        let magic = File::open(file).and_then(|file| file.take(16).read_to_end(&mut start));
        magic.map_err(|e| e.to_string())?;
        if !start.starts_with(b"PAR1") {
            return Err(format!("it {}, expected `PAR1`", opening(&start)));
        }
        let layout = Self::of(reader(file)?.metadata())?;
        let size = std::fs::metadata(file).map_err(|e| e.to_string())?.len();
        // Every row takes memory, but a run of rows that are all alike takes a few bytes of a file however long it is.
        if layout.rows > size.saturating_mul(MOST_ROWS_PER_BYTE) {
            return Err(format!("damaged ({} rows in {size} bytes)", layout.rows));
        }
        Ok(layout)
    }

    fn of(metadata: &ParquetMetaData) -> Result<Self, String> {
        let features = metadata
            .file_metadata()
            .key_value_metadata()
            .and_then(|pairs| pairs.iter().find(|pair| pair.key == "huggingface"))
            .and_then(|pair| serde_json::from_str::<serde_json::Value>(pair.value.as_ref()?).ok())
            .map(|value| value["info"]["features"].clone())
            .unwrap_or_default();
        let schema = metadata.file_metadata().schema_descr();
        let column = |wanted: &dyn Fn(&[String], Physical) -> bool| {
            schema.columns().iter().position(|column| {
                column.max_rep_level() == 0 && wanted(column.path().parts(), column.physical_type())
            })
        };
        let Some(image) = column(&|parts, kind| {
            kind == Physical::BYTE_ARRAY && parts.len() == 2 && parts[1] == "bytes"
        }) else {
            let names: Vec<String> =
                schema.columns().iter().map(|column| format!("`{}`", column.path())).collect();
            return Err(format!(
                "no image column (a struct with a binary field `bytes`) among {}",
                names.join(", ")
            ));
        };
        let name = &schema.column(image).path().parts()[0].clone();
        let path = column(&|parts, kind| {
            kind == Physical::BYTE_ARRAY
                && parts.len() == 2
                && parts[0] == *name
                && parts[1] == "path"
        });
        let integer = |kind| matches!(kind, Physical::INT32 | Physical::INT64);
        let named = |wanted: &str| column(&|parts, kind| parts == [wanted] && integer(kind));
        let declared = features.as_object().and_then(|all| {
            let mut labels = all.iter().filter(|(_, feature)| feature["_type"] == "ClassLabel");
            labels.find_map(|(name, _)| named(name))
        });
        let label = named("label").or_else(|| named("fine_label")).or(declared);
        let classes = label.and_then(|label| {
            let names = features[schema.column(label).name()]["names"].as_array()?.clone();
            names.into_iter().map(|name| name.as_str().map(str::to_owned)).collect()
        });

        let (mut rows, mut image_bytes) = (0, 0);
        for group in metadata.row_groups() {
            let size = group.columns().get(image).map(|c| u64::try_from(c.uncompressed_size()));
            let (Some(Ok(size)), Ok(count)) = (size, u64::try_from(group.num_rows())) else {
                return Err("damaged (a negative size in the footer)".to_owned());
            };
            image_bytes = size.checked_add(image_bytes).ok_or("damaged (sizes overflow)")?;
            rows = count.checked_add(rows).ok_or("damaged (row counts overflow)")?;
        }
        Ok(Self { rows, image_bytes, image, path, label, classes })
    }
}

/// Class names, which every file that names them must name alike.
fn shared_classes(files: &[(String, PathBuf)], layouts: &[Layout]) -> Result<Option<Vec<String>>> {
    let mut named = files.iter().zip(layouts).filter(|(_, layout)| layout.classes.is_some());
    let Some(((_, first), layout)) = named.next() else { return Ok(None) };
    if let Some(((_, other), _)) = named.find(|(_, other)| other.classes != layout.classes) {
        return Err(Error::Data(format!(
            "`{}` and `{}` name different classes, so their labels do not fit together",
            first.display(),
            other.display()
        )));
    }
    Ok(layout.classes.clone())
}

/// One split: the encoded images one behind the other.
struct Split {
    name: String,
    folder: PathBuf,
    bytes: Vec<u8>,
    /// Where each image ends in `bytes`; it begins where the one before ends.
    ends: Vec<u64>,
    /// Whether the row held bytes; else its path names a file beside the parquet file.
    embedded: Vec<bool>,
    paths: Vec<Option<Box<str>>>,
    labels: Vec<Option<u32>>,
}

/// What one row group holds.
#[derive(Default)]
struct Rows {
    bytes: Vec<u8>,
    lengths: Vec<Option<u64>>,
    paths: Vec<Option<Box<str>>>,
    labels: Vec<Option<u32>>,
}

impl Split {
    fn empty(name: &str, file: &Path) -> Self {
        Self {
            name: name.to_owned(),
            folder: file.parent().unwrap_or(Path::new("")).to_owned(),
            bytes: Vec::new(),
            ends: Vec::new(),
            embedded: Vec::new(),
            paths: Vec::new(),
            labels: Vec::new(),
        }
    }

    /// Reads a file behind what is there, a few row groups at a time so that little is held twice.
    fn append(&mut self, file: &Path, layout: &Layout, mut budget: u64) -> Result<(), String> {
        let groups: Vec<usize> = (0..reader(file)?.num_row_groups()).collect();
        let expected = self.ends.len() as u64 + layout.rows;
        // Encoded images hardly shrink, so room for more than twice the file would be for a footer that lies.
        let size = std::fs::metadata(file).map_err(|e| e.to_string())?.len();
        let likely = layout.image_bytes.min(size.saturating_mul(2));
        let room = self.bytes.try_reserve_exact(likely as usize);
        room.map_err(|_| "its images do not fit into memory")?;
        for some in groups.chunks(2 * rayon::current_num_threads()) {
            let read: Vec<Rows> = some
                .par_iter()
                .map_init(
                    || reader(file),
                    |reader, group| {
                        Rows::read(reader.as_ref().map_err(Clone::clone)?, *group, layout, budget)
                    },
                )
                .collect::<Result<_, String>>()?;
            for rows in read {
                let size = rows.bytes.len() as u64;
                budget = budget.checked_sub(size).ok_or("its images do not fit into memory")?;
                self.push(rows);
            }
        }
        if self.ends.len() as u64 != expected {
            return Err(format!("damaged ({} rows found of {expected})", self.ends.len()));
        }
        Ok(())
    }

    fn push(&mut self, rows: Rows) {
        self.bytes.extend_from_slice(&rows.bytes);
        let mut end = self.ends.last().copied().unwrap_or(0);
        for length in rows.lengths {
            end += length.unwrap_or(0);
            self.ends.push(end);
            self.embedded.push(length.is_some());
        }
        self.paths.extend(rows.paths);
        self.labels.extend(rows.labels);
    }

    fn encoded(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start as usize..self.ends[index] as usize]
    }
}

impl Rows {
    fn read(
        reader: &SerializedFileReader<File>,
        group: usize,
        layout: &Layout,
        budget: u64,
    ) -> Result<Self, String> {
        let group = reader.get_row_group(group).map_err(|e| e.to_string())?;
        let group = group.as_ref();
        let stated = group.metadata().num_rows();
        let mut rows = Self::default();
        each::<ByteArrayType>(group, layout.image, |value| {
            if let Some(value) = value {
                rows.bytes.extend_from_slice(value.data());
            }
            rows.lengths.push(value.map(|value| value.len() as u64));
            if rows.bytes.len() as u64 > budget {
                return Err("its images do not fit into memory".to_owned());
            }
            Ok(())
        })?;
        let count = rows.lengths.len();
        match layout.path {
            None => rows.paths.resize(count, None),
            Some(path) => {
                each::<ByteArrayType>(group, path, |value| {
                    let text = value.map(|value| String::from_utf8_lossy(value.data()).into());
                    rows.paths.push(text);
                    Ok(())
                })?;
            }
        }
        match layout.label.map(|label| (label, group.metadata().column(label).column_type())) {
            None => rows.labels.resize(count, None),
            Some((label, Physical::INT32)) => {
                each::<Int32Type>(group, label, |value| {
                    rows.push_label(value.map(|v| i64::from(*v)))
                })?;
            }
            Some((label, _)) => {
                each::<Int64Type>(group, label, |value| rows.push_label(value.copied()))?;
            }
        }
        if [count, rows.paths.len(), rows.labels.len()].iter().any(|n| *n as i64 != stated) {
            return Err(format!(
                "damaged (a row group of {stated} rows holds {count} images, {} paths and {} labels)",
                rows.paths.len(),
                rows.labels.len()
            ));
        }
        Ok(rows)
    }

    /// −1 stands for no label, as Hugging Face writes it.
    fn push_label(&mut self, value: Option<i64>) -> Result<(), String> {
        self.labels.push(match value {
            None | Some(-1) => None,
            Some(value) => match u32::try_from(value) {
                Ok(label) if label < MAX_CLASSES => Some(label),
                _ => {
                    let row = self.labels.len();
                    return Err(format!(
                        "label `{value}` of row {row} of a row group is no class id"
                    ));
                }
            },
        });
        Ok(())
    }
}

/// Calls `take` for each value of a flat column, `None` where it is null (at any level of nesting); there may be as many
/// as the row group states to have rows.
fn each<T: DataType>(
    group: &dyn RowGroupReader,
    column: usize,
    mut take: impl FnMut(Option<&T::T>) -> Result<(), String>,
) -> Result<(), String> {
    let stated = group.metadata().num_rows();
    let description = group.metadata().column(column).column_descr_ptr();
    let nesting = description.max_def_level();
    let pages = group.get_column_page_reader(column).map_err(|e| e.to_string())?;
    let pages = Box::new(Checked::new(pages, stated, nesting));
    let mut column = ColumnReaderImpl::<T>::new(description, pages);
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    let mut left = stated;
    loop {
        values.clear();
        levels.clear();
        let read = column.read_records(1024, Some(&mut levels), None, &mut values);
        let read = read.map_err(|e| e.to_string())?.0 as i64;
        if read == 0 {
            return Ok(());
        }
        left -= read;
        if left < 0 {
            return Err(format!("damaged (a row group of {stated} rows holds more)"));
        }
        let mut present = values.iter();
        if nesting == 0 {
            present.try_for_each(|value| take(Some(value)))?;
        } else {
            levels.iter().try_for_each(|level| {
                take(if *level == nesting { present.next() } else { None })
            })?;
        }
    }
}

/// Checks every label against the class names, or makes numeric names up to the largest label.
fn check_labels(
    location: &str,
    splits: &[(String, Split)],
    classes: Option<Vec<String>>,
) -> Result<Vec<String>> {
    let largest = splits.iter().flat_map(|(_, split)| split.labels.iter().copied().flatten()).max();
    let count = largest.map_or(0, |label| label as usize + 1);
    let Some(classes) = classes else {
        return Ok((0..count).map(|label| label.to_string()).collect());
    };
    if count > classes.len() {
        return Err(Error::Data(format!(
            "`{location}` holds label `{}` but names only {} classes",
            count - 1,
            classes.len()
        )));
    }
    Ok(if count == 0 { Vec::new() } else { classes })
}

/// The codecs of all embedded images, such as `JPEG` or `JPEG and PNG`.
fn codecs(splits: &[(String, Split)]) -> String {
    let mut seen: Vec<&str> = Vec::new();
    for (_, split) in splits {
        for index in 0..split.len() {
            let name = if split.embedded[index] {
                codec(split.encoded(index)).unwrap_or("unknown")
            } else {
                "files beside it"
            };
            if !seen.contains(&name) {
                seen.push(name);
            }
        }
    }
    seen.sort_unstable();
    if seen.is_empty() { "empty".to_owned() } else { seen.join(" and ") }
}

/// Hash of classes, split names, labels and encoded images: the same however the rows are cut into files.
fn fingerprint(splits: &[(String, Split)], classes: &[String]) -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(serde_json::json!(["parquet", classes]).to_string().as_bytes());
    for (name, split) in splits {
        hash.update(serde_json::json!([name, split.len()]).to_string().as_bytes());
        for index in 0..split.len() {
            hash.update(&split.ends[index].to_le_bytes());
            hash.update(&split.labels[index].unwrap_or(u32::MAX).to_le_bytes());
            if !split.embedded[index] {
                hash.update(split.paths[index].as_deref().unwrap_or_default().as_bytes());
            }
        }
        hash.update(&split.bytes);
    }
    hash.finalize().to_hex().to_string()
}

impl Dataset for Split {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels[index]
    }

    fn path(&self, index: usize) -> String {
        match &self.paths[index] {
            Some(path) if !path.is_empty() => path.to_string(),
            _ => format!("{}/{index:06}", self.name),
        }
    }

    fn image(&self, index: usize) -> Result<Image> {
        let in_row = |why| Error::Data(format!("row {index} of split `{}`: {why}", self.name));
        if self.embedded[index] {
            return decode(self.encoded(index), &self.path(index)).map_err(in_row);
        }
        let path = self.paths[index].as_deref().map(Path::new);
        let beside =
            |path: &&Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        let Some(path) = path.filter(beside) else {
            let why = "it has neither bytes nor the path of a file beside the parquet file";
            return Err(in_row(Error::Data(why.to_owned())));
        };
        super::decode_file(&self.folder.join(path))
    }

    fn codec(&self, index: usize) -> Option<&'static str> {
        codec(self.encoded(index))
    }
}

#[cfg(test)]
mod tests;
