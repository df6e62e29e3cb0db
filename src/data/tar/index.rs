//! One pass over the headers of a shard.

use std::borrow::Cow;
use std::io::{Read, Seek};
use tar::{Archive, Entry, PaxExtensions};

/// Fields taken for the image of a record.
pub(super) const FIELDS: [&str; 9] =
    ["jpg", "jpeg", "png", "webp", "ppm", "pgm", "bmp", "tif", "tiff"];

/// Longest name, label or text of metadata read into memory, in bytes.
const MAX_TEXT: u64 = 1 << 16;

/// Labels from here on are not class ids.
const MAX_CLASSES: u64 = 100_000;

/// A record of a shard.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Path of the image within the shard, or the key of a record without one.
    pub name: Box<str>,
    /// Where the bytes of the image begin.
    pub offset: u64,
    /// How many there are; all lie within the shard.
    pub size: u64,
    /// Class id.
    pub label: Option<u32>,
    /// Why the image cannot be used.
    pub damage: Option<Box<str>>,
}

/// What a shard holds.
#[doc(hidden)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Its records in order. If the rest of the shard cannot be read, the last one stands for it, damaged.
    pub records: Vec<Record>,
    /// Records that have an image.
    pub images: usize,
    /// Fields met, without those of images; at most 64.
    pub fields: Vec<Box<str>>,
}

/// Lists the records of a tar file of `length` bytes. Damage is part of the list, never a failure.
#[doc(hidden)]
pub fn index(reader: impl Read + Seek, length: u64) -> Index {
    let mut archive = Archive::new(reader);
    let mut open = Open { index: Index::default(), current: None, length };
    let rest = match archive.entries_with_seek() {
        Ok(entries) => open.walk(entries.raw(true)),
        Err(error) => Err(error.to_string()),
    };
    open.close();
    if let Err(why) = rest {
        open.index.records.push(Record {
            name: "(rest of the shard)".into(),
            offset: 0,
            size: 0,
            label: None,
            damage: Some(why.into()),
        });
    }
    open.index
}

/// An index under way, with the record whose members are being met.
struct Open {
    index: Index,
    current: Option<Current>,
    length: u64,
}

/// The record under way.
struct Current {
    key: String,
    image: Option<(String, u64, u64)>,
    fields: Vec<String>,
    /// From `cls`.
    label: Option<u32>,
    /// From `json`, used if there is no `cls`.
    second_label: Option<u32>,
    damage: Option<String>,
}

impl Open {
    /// Takes in member after member; an error says why the rest cannot be read.
    fn walk<'a, R: Read + 'a>(
        &mut self,
        entries: impl Iterator<Item = std::io::Result<Entry<'a, R>>>,
    ) -> Result<(), String> {
        let mut long_name = None;
        for entry in entries {
            let mut entry = entry.map_err(|e| format!("a broken header: {e}"))?;
            let kind = entry.header().entry_type();
            if kind.is_gnu_longname() {
                let mut name = text(&mut entry)?;
                name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
                long_name = Some(name);
            } else if kind.is_pax_local_extensions() {
                let stated = text(&mut entry)?;
                for pair in PaxExtensions::new(&stated) {
                    let pair = pair.map_err(|e| format!("a broken pax header: {e}"))?;
                    match pair.key_bytes() {
                        b"path" => long_name = Some(pair.value_bytes().to_vec()),
                        b"size" => return Err("a member of more than 8 GiB".to_owned()),
                        _ => {}
                    }
                }
            } else if kind.is_file() {
                let name = long_name.take().map_or_else(|| entry.path_bytes(), Cow::Owned);
                let name = String::from_utf8_lossy(&name).into_owned();
                self.member(&name, &mut entry);
            } else if !kind.is_gnu_longlink() && !kind.is_pax_global_extensions() {
                long_name = None;
            }
        }
        Ok(())
    }

    fn member<R: Read>(&mut self, name: &str, entry: &mut Entry<'_, R>) {
        let base = name.rfind('/').map_or(0, |slash| slash + 1);
        let Some(dot) = name[base..].find('.').filter(|dot| *dot > 0) else { return };
        let (key, field) = (&name[..base + dot], name[base + dot + 1..].to_lowercase());
        if self.current.as_ref().is_none_or(|current| current.key != key) {
            self.close();
            self.current = Some(Current {
                key: key.to_owned(),
                image: None,
                fields: Vec::new(),
                label: None,
                second_label: None,
                damage: None,
            });
        }
        let Some(current) = &mut self.current else { return };
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let mut damage = None;
        if current.fields.contains(&field) {
            damage = Some(format!("field `{field}` comes twice"));
        } else if offset.checked_add(size).is_none_or(|end| end > self.length) {
            let left = self.length.saturating_sub(offset);
            damage = Some(format!("field `{field}` is cut off: {left} of {size} bytes are there"));
        } else if field == "cls" {
            let label = text(entry).unwrap_or_default();
            current.label = parse_label(&label);
            // -1 says that there is none.
            if current.label.is_none() && label.trim_ascii() != b"-1" {
                damage = Some("field `cls` is no class id".to_owned());
            }
        } else if field == "json" {
            current.second_label = text(entry).ok().and_then(|json| json_label(&json));
        } else if FIELDS.contains(&&*field) && current.image.is_none() {
            current.image = Some((name.to_owned(), offset, size));
        }
        if current.damage.is_none() {
            current.damage = damage;
        }
        current.fields.push(field);
    }

    /// Ends the record under way.
    fn close(&mut self) {
        let Some(current) = self.current.take() else { return };
        let index = &mut self.index;
        for field in &current.fields {
            let known = index.fields.iter().any(|known| **known == **field);
            if index.fields.len() < 64 && !known && !FIELDS.contains(&&**field) {
                index.fields.push(field.as_str().into());
            }
        }
        let mut damage = current.damage;
        let (name, offset, size) = if let Some(image) = current.image {
            index.images += 1;
            image
        } else {
            let have = current.fields.join("`, `");
            damage = damage.or(Some(format!("it has no image, only `{have}`")));
            (current.key, 0, 0)
        };
        index.records.push(Record {
            name: name.into(),
            offset,
            size,
            label: current.label.or(current.second_label),
            damage: damage.map(Into::into),
        });
    }
}

/// A short member.
fn text<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>, String> {
    let size = entry.size();
    if size > MAX_TEXT {
        return Err(format!("a name or text of {size} bytes"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err("cut off within a name".to_owned()) }
}

fn parse_label(bytes: &[u8]) -> Option<u32> {
    let label: u64 = std::str::from_utf8(bytes).ok()?.trim().parse().ok()?;
    (label < MAX_CLASSES).then_some(label as u32)
}

fn json_label(bytes: &[u8]) -> Option<u32> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let label = ["label", "cls"].iter().find_map(|key| value.get(key)?.as_u64())?;
    (label < MAX_CLASSES).then_some(label as u32)
}
