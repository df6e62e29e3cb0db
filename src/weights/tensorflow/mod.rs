//! TensorFlow checkpoints (tensor bundles), read without TensorFlow: `PREFIX.index`, a sorted table of what there is, and
//! `PREFIX.data-00000-of-00001` with the numbers. TensorFlow 1 names entries by variable, TensorFlow 2 by the path of
//! objects that leads to one; the `variables` of a `SavedModel` are the same format.
//!
//! [`Bundle::open`] reads the index alone and checks all of it against the size of the files; tensors are read one by one
//! and checked against their checksums.

mod place;
mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod wire;

use super::{Format, Found, MOST_TENSORS, Number, Storage, TensorFile};
use crate::error::{Error, Result};
use prost::Message;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use table::{masked, unmasked, varint};
use tch::{Kind, Tensor};
use wire::{EntryMessage, Header, ObjectGraph};

/// The last eight bytes of a `.index` file.
pub(super) const MAGIC: [u8; 8] = [0x57, 0xfb, 0x80, 0x8b, 0x24, 0x75, 0x47, 0xdb];

/// The checkpoint at `path` (see [`Bundle::open`]) as a file of tensors, under the names its entries have in the network
/// ([`Bundle::variables`]). Of another type than those that are read, an entry is told and never loaded.
pub(super) fn read(path: &Path) -> Result<TensorFile> {
    let bundle = Bundle::open(path)?;
    let mut files = Vec::new();
    let mut places = BTreeMap::new();
    let mut found = Found::default();
    let names: BTreeMap<String, String> =
        bundle.variables()?.into_iter().map(|(name, key)| (key, name)).collect();
    for (key, entry) in bundle.entries() {
        let number = match entry.data_type {
            DataType::Numbers(kind) => numbers(kind),
            DataType::String => Some(Number::Text),
            DataType::Other(_) => None,
        };
        let Some(number) = number else {
            let DataType::Other(code) = entry.data_type else { continue };
            found.opaque.insert(key.clone(), format!("type {code} of TensorFlow"));
            continue;
        };
        let file = if let Some(file) = places.get(&entry.shard) {
            *file
        } else {
            let path = bundle.data_file(entry.shard);
            // An entry without bytes may name a file that nobody wrote.
            match File::open(&path) {
                Ok(file) => files.push((path, file)),
                Err(_) if entry.size == 0 => continue,
                Err(error) => return Err(Error::io("read", &path)(error)),
            }
            places.insert(entry.shard, files.len() - 1);
            files.len() - 1
        };
        let storage = Storage::At { file, start: entry.offset, bytes: entry.size };
        let shape = entry.shape.iter().map(|side| *side as usize).collect();
        let name = names.get(key).unwrap_or(key);
        let listed = super::Entry {
            big_endian: bundle.big_endian,
            crc32c: (number != Number::Text).then(|| unmasked(entry.checksum)),
            ..super::Entry::plain(name, number, shape, storage)
        };
        found.entries.push(listed);
    }
    TensorFile::checked(path, Format::TensorFlow, files, found)
}

fn numbers(kind: Kind) -> Option<Number> {
    Some(match kind {
        Kind::Float => Number::F32,
        Kind::Double => Number::F64,
        Kind::Half => Number::F16,
        Kind::BFloat16 => Number::Bf16,
        Kind::Int64 => Number::I64,
        Kind::Int => Number::I32,
        Kind::Int16 => Number::I16,
        Kind::Int8 => Number::I8,
        Kind::Uint8 => Number::U8,
        Kind::Bool => Number::Bool,
        _ => return None,
    })
}

/// Largest index read.
pub const LARGEST_INDEX: u64 = 64 << 20;
/// Most bytes of an entry of strings, and most strings.
const LARGEST_STRINGS: u64 = 16 << 20;
const MOST_STRINGS: u64 = 1 << 20;
/// Longest description of a tensor in the index.
const LONGEST_ENTRY: usize = 64 << 10;
/// Most dimensions of a tensor.
pub const MOST_DIMENSIONS: usize = 32;
/// Version of the format that is read; a file may ask for more.
const VERSION: i32 = 1;
/// Most data files: their numbers have five digits.
const MOST_SHARDS: i32 = 99_999;
/// What stands behind the path of a variable in a TensorFlow 2 checkpoint.
const VARIABLE: &str = "/.ATTRIBUTES/VARIABLE_VALUE";
const OBJECT_GRAPH: &str = "_CHECKPOINTABLE_OBJECT_GRAPH";

/// Type of the numbers of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    /// Numbers that a tensor can hold.
    Numbers(Kind),
    /// Byte strings; see [`Bundle::strings`].
    String,
    /// Another type, by TensorFlow's number for it.
    Other(i32),
}

impl DataType {
    fn of(code: i32) -> Self {
        Self::Numbers(match code {
            1 => Kind::Float,
            2 => Kind::Double,
            3 => Kind::Int,
            4 => Kind::Uint8,
            5 => Kind::Int16,
            6 => Kind::Int8,
            7 => return Self::String,
            9 => Kind::Int64,
            10 => Kind::Bool,
            14 => Kind::BFloat16,
            19 => Kind::Half,
            _ => return Self::Other(code),
        })
    }
}

/// What the index says of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Type of its numbers.
    pub data_type: DataType,
    /// Its dimensions; none for a single number.
    pub shape: Vec<i64>,
    shard: usize,
    offset: u64,
    size: u64,
    checksum: u32,
}

impl Entry {
    /// Number of values.
    pub fn count(&self) -> u64 {
        self.shape.iter().product::<i64>() as u64
    }

    /// Bytes in the file.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// A checkpoint of TensorFlow, its index read.
#[derive(Debug)]
pub struct Bundle {
    prefix: PathBuf,
    entries: BTreeMap<String, Entry>,
    shards: usize,
    big_endian: bool,
}

impl Bundle {
    /// Opens the checkpoint at `path`: its prefix (`model.ckpt-225206`), one of its files, a folder with the text file
    /// `checkpoint` or one checkpoint only, or a `SavedModel`.
    ///
    /// # Errors
    /// [`Error::Weights`] if there is no checkpoint, its index is damaged or larger than [`LARGEST_INDEX`], a tensor lies
    /// outside of its file or upon another one, has an impossible shape, or is cut into parts; [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let prefix = place::prefix(path)?;
        let index = place::index_of(&prefix);
        let damaged =
            |why: String| Error::Weights(format!("index `{}` is damaged: {why}", index.display()));
        let size = fs::metadata(&index).map_err(Error::io("read", &index))?.len();
        if size > LARGEST_INDEX {
            return Err(damaged(format!("{size} bytes, at most {LARGEST_INDEX} are read")));
        }
        let bytes = fs::read(&index).map_err(Error::io("read", &index))?;
        let (header, entries) = entries(&bytes).map_err(damaged)?;
        let bundle = Self {
            prefix,
            entries,
            shards: header.num_shards as usize,
            big_endian: header.endianness == 1,
        };
        bundle.check_extents()?;
        Ok(bundle)
    }

    /// Whether [`Self::open`] would find a checkpoint here, whole or not.
    pub fn is_at(path: &Path) -> bool {
        place::prefix(path).is_ok()
    }

    /// Whether a file goes by a name that parts of checkpoints have: `.index`, `.meta`, `.data-…`, `checkpoint`.
    pub fn is_part(path: &Path) -> bool {
        let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
        matches!(end, "index" | "meta") || end.starts_with("data-") || path.ends_with("checkpoint")
    }

    /// What it is called on disk, without the endings of its files.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Every tensor, by name.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// Every tensor lies in its file and on no other one.
    fn check_extents(&self) -> Result<()> {
        let mut extents: Vec<_> = self.entries.iter().filter(|(_, e)| e.size > 0).collect();
        extents.sort_by_key(|(_, entry)| (entry.shard, entry.offset));
        let mut last: Option<(&String, &Entry)> = None;
        let mut length = 0;
        for (name, entry) in extents {
            let file = self.data_file(entry.shard);
            if let Some((before, upon)) = last.filter(|(_, other)| other.shard == entry.shard) {
                if upon.offset + upon.size > entry.offset {
                    return Err(
                        self.damaged(format!("`{before}` and `{name}` overlap in its data"))
                    );
                }
            } else {
                let found = fs::metadata(&file).map_err(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => self.damaged(format!(
                        "`{name}` lies in `{}`, which is not there",
                        file.display()
                    )),
                    _ => Error::io("read", &file)(error),
                });
                length = found?.len();
            }
            if entry.offset.checked_add(entry.size).is_none_or(|end| end > length) {
                return Err(self.damaged(format!(
                    "`{name}` ends at byte {} of `{}`, which has {length}: the file is cut off",
                    entry.offset.saturating_add(entry.size),
                    file.display()
                )));
            }
            last = Some((name, entry));
        }
        Ok(())
    }

    fn data_file(&self, shard: usize) -> PathBuf {
        place::data_of(&self.prefix, shard, self.shards)
    }

    fn damaged(&self, why: impl std::fmt::Display) -> Error {
        Error::Weights(format!("checkpoint `{}`: {why}", self.prefix.display()))
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| self.damaged(format!("there is no `{name}`")))
    }

    fn bytes(&self, entry: &Entry) -> Result<Vec<u8>> {
        if entry.size == 0 {
            return Ok(Vec::new());
        }
        let path = self.data_file(entry.shard);
        let mut bytes = vec![0; entry.size as usize];
        let mut file = File::open(&path).map_err(Error::io("read", &path))?;
        file.seek(SeekFrom::Start(entry.offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(Error::io("read", &path))?;
        Ok(bytes)
    }

    /// A tensor of numbers, in its own kind and shape, on the CPU.
    ///
    /// # Errors
    /// [`Error::Weights`] if there is none of that name, its checksum is wrong, or it holds no numbers; [`Error::Io`].
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let entry = self.entry(name)?;
        let DataType::Numbers(kind) = entry.data_type else {
            return Err(self.damaged(format!("`{name}` holds no numbers ({:?})", entry.data_type)));
        };
        let mut bytes = self.bytes(entry)?;
        if masked(crc32c::crc32c(&bytes)) != entry.checksum {
            return Err(self.damaged(format!("the checksum of `{name}` is wrong")));
        }
        if kind == Kind::Bool && bytes.iter().any(|byte| *byte > 1) {
            return Err(self.damaged(format!("`{name}` holds truth values other than 0 and 1")));
        }
        if self.big_endian {
            bytes.chunks_exact_mut(kind.elt_size_in_bytes()).for_each(<[u8]>::reverse);
        }
        Tensor::f_from_data_size(&bytes, &entry.shape, kind)
            .map_err(|error| self.damaged(format!("`{name}`: {error}")))
    }

    /// The byte strings of an entry of [`DataType::String`], in row-major order.
    ///
    /// # Errors
    /// [`Error::Weights`] if there is none of that name, it holds no strings, or is damaged; [`Error::Io`].
    pub fn strings(&self, name: &str) -> Result<Vec<Vec<u8>>> {
        let entry = self.entry(name)?;
        if entry.data_type != DataType::String {
            return Err(self.damaged(format!("`{name}` holds no strings")));
        }
        if entry.size > LARGEST_STRINGS || entry.count() > MOST_STRINGS {
            return Err(self.damaged(format!(
                "`{name}` holds {} strings in {} bytes, at most {MOST_STRINGS} in {LARGEST_STRINGS} are read",
                entry.count(),
                entry.size
            )));
        }
        let bytes = self.bytes(entry)?;
        strings(&bytes, entry.count(), entry.checksum, self.big_endian)
            .map_err(|why| self.damaged(format!("`{name}`: {why}")))
    }

    /// The name in the network of every entry of numbers: of a TensorFlow 2 checkpoint as its object graph says, or else
    /// its path of objects; otherwise the entry's own name. What a graph calls one way twice keeps its path.
    ///
    /// # Errors
    /// [`Error::Weights`] if the object graph is damaged; [`Error::Io`].
    pub fn variables(&self) -> Result<BTreeMap<String, String>> {
        let mut told: BTreeMap<String, String> = BTreeMap::new();
        if let Some(entry) = self.entries.get(OBJECT_GRAPH) {
            if !entry.shape.is_empty() {
                let shape = &entry.shape;
                return Err(self.damaged(format!("its object graph has shape {shape:?}")));
            }
            let graph = self.strings(OBJECT_GRAPH)?.concat();
            let graph = ObjectGraph::decode(graph.as_slice())
                .map_err(|error| self.damaged(format!("its object graph is damaged: {error}")))?;
            let attributes = graph.nodes.into_iter().flat_map(|node| node.attributes);
            let named = attributes.filter(|attribute| !attribute.full_name.is_empty());
            told.extend(named.map(|named| (named.checkpoint_key, named.full_name)));
        }
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        for (key, name) in &told {
            if self.entries.contains_key(key) {
                *times.entry(name).or_default() += 1;
            }
        }
        let numbers =
            self.entries.iter().filter(|(_, e)| matches!(e.data_type, DataType::Numbers(_)));
        let name = |key: &String| match told.get(key) {
            Some(name) if times.get(name.as_str()) == Some(&1) => name.clone(),
            _ => key.strip_suffix(VARIABLE).unwrap_or(key).to_owned(),
        };
        Ok(numbers.map(|(key, _)| (name(key), key.clone())).collect())
    }
}

/// All that an index says.
fn entries(bytes: &[u8]) -> Result<(Header, BTreeMap<String, Entry>), String> {
    let mut header: Option<Header> = None;
    let mut entries = BTreeMap::new();
    table::read(bytes, |key, value| {
        let Some(header) = &header else {
            if !key.is_empty() {
                return Err("it does not begin with a header".into());
            }
            header = Some(checked_header(value)?);
            return Ok(());
        };
        if entries.len() == MOST_TENSORS {
            return Err(format!("it lists more than {MOST_TENSORS} tensors"));
        }
        let name = std::str::from_utf8(key).map_err(|_| {
            "it holds a name that is no text: variables cut into parts (partitioned) cannot be read"
        })?;
        let entry = entry(value, header).map_err(|why| format!("`{name}` {why}"))?;
        entries.insert(name.to_owned(), entry);
        Ok(())
    })?;
    let header = header.ok_or("it is empty")?;
    Ok((header, entries))
}

fn checked_header(value: &[u8]) -> Result<Header, String> {
    let header = Header::decode(value).map_err(|error| format!("its header: {error}"))?;
    if !(1..=MOST_SHARDS).contains(&header.num_shards) {
        return Err(format!("{} data files", header.num_shards));
    }
    if !(0..=1).contains(&header.endianness) {
        return Err(format!("an unknown order of bytes ({})", header.endianness));
    }
    let wants = header.version.as_ref().map_or(0, |version| version.min_consumer);
    if wants > VERSION {
        return Err(format!("it needs a reader of version {wants}, this is one of {VERSION}"));
    }
    Ok(header)
}

fn entry(value: &[u8], header: &Header) -> Result<Entry, String> {
    if value.len() > LONGEST_ENTRY {
        return Err(format!("is described in {} bytes", value.len()));
    }
    let message = EntryMessage::decode(value).map_err(|error| error.to_string())?;
    if !message.slices.is_empty() {
        return Err("is cut into parts (partitioned), which cannot be read".into());
    }
    if !(0..header.num_shards).contains(&message.shard_id) {
        return Err(format!("lies in data file {} of {}", message.shard_id, header.num_shards));
    }
    let (Ok(offset), Ok(size)) = (u64::try_from(message.offset), u64::try_from(message.size))
    else {
        return Err(format!("lies at {}, {} bytes long", message.offset, message.size));
    };
    if offset.checked_add(size).is_none_or(|end| end > i64::MAX as u64) {
        return Err(format!("lies at {offset}, {size} bytes long"));
    }
    let shape = message.shape.unwrap_or_default();
    if shape.unknown_rank || shape.dim.len() > MOST_DIMENSIONS {
        return Err(format!("has an impossible shape ({} dimensions)", shape.dim.len()));
    }
    let shape: Vec<i64> = shape.dim.iter().map(|dimension| dimension.size).collect();
    let count = shape
        .iter()
        .try_fold(1i64, |product, side| if *side < 0 { None } else { product.checked_mul(*side) });
    let count = count.ok_or_else(|| format!("has an impossible shape {shape:?}"))?;
    let data_type = DataType::of(message.dtype);
    if message.dtype <= 0 {
        return Err("has no type".into());
    }
    if let DataType::Numbers(kind) = data_type {
        let expected = (count as u64).checked_mul(kind.elt_size_in_bytes() as u64);
        if expected != Some(size) {
            return Err(format!("of shape {shape:?} ({kind:?}) cannot take {size} bytes"));
        }
    }
    let shard = message.shard_id as usize;
    Ok(Entry { data_type, shape, shard, offset, size, checksum: message.crc32c })
}

/// Strings as a bundle stores them: their lengths, a checksum of these, and the bytes. Both checksums count each length as
/// a fixed number, 4 bytes or 8 where 4 do not do.
fn strings(
    bytes: &[u8],
    count: u64,
    checksum: u32,
    big_endian: bool,
) -> Result<Vec<Vec<u8>>, String> {
    if count > bytes.len() as u64 {
        return Err(format!("{} bytes cannot hold {count} strings", bytes.len()));
    }
    let mut rest = bytes;
    let mut crc = 0;
    let mut lengths = Vec::new();
    for _ in 0..count {
        let length = varint(&mut rest)?;
        crc = match (u32::try_from(length), big_endian) {
            (Ok(short), false) => crc32c::crc32c_append(crc, &short.to_le_bytes()),
            (Ok(short), true) => crc32c::crc32c_append(crc, &short.to_be_bytes()),
            (Err(_), false) => crc32c::crc32c_append(crc, &length.to_le_bytes()),
            (Err(_), true) => crc32c::crc32c_append(crc, &length.to_be_bytes()),
        };
        lengths.push(length);
    }
    let (stored, mut rest) = rest.split_first_chunk::<4>().ok_or("it is cut off")?;
    let told = if big_endian { u32::from_be_bytes(*stored) } else { u32::from_le_bytes(*stored) };
    if told != masked(crc) {
        return Err("the checksum of its lengths is wrong".into());
    }
    crc = crc32c::crc32c_append(crc, stored);
    crc = crc32c::crc32c_append(crc, rest);
    if masked(crc) != checksum {
        return Err("its checksum is wrong".into());
    }
    let mut found = Vec::new();
    for length in lengths {
        let length = usize::try_from(length).map_err(|_| "it is cut off")?;
        let (string, behind) = rest.split_at_checked(length).ok_or("it is cut off")?;
        found.push(string.to_vec());
        rest = behind;
    }
    if rest.is_empty() { Ok(found) } else { Err("there is more than its strings".into()) }
}
