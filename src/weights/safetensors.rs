//! safetensors: the length of a header, a header of JSON, the tensors one after the other.
//!
//! Read strictly, where the reference reader is lenient: two tensors of a name, holes, overlaps and bytes that belong to
//! none are errors, and the header takes at most 100 million bytes.

use super::recognise::stretch;
use super::{Entry, Format, Found, MOST_TENSORS, Number, Storage, TensorFile};
use crate::error::{Error, Result};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// Longest header, in bytes; that of the reference reader.
const LONGEST_HEADER: u64 = 100_000_000;

pub(super) fn read(path: &Path, file: File, length: u64) -> Result<TensorFile> {
    let damaged =
        |why: String| Error::Weights(format!("safetensors `{}` is damaged: {why}", path.display()));
    if length < 8 {
        return Err(damaged(format!("it has {length} bytes, where 8 announce the header")));
    }
    let announced = stretch(&file, 0, 8).map_err(Error::io("read", path))?;
    let announced = announced.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    let rest = length.saturating_sub(8);
    if announced > LONGEST_HEADER || announced > rest {
        return Err(damaged(format!(
            "a header of {announced} bytes is announced; {rest} are there, at most {LONGEST_HEADER} are read"
        )));
    }
    let text = stretch(&file, 8, announced).map_err(Error::io("read", path))?;
    let header: Header = serde_json::from_slice(&text)
        .map_err(|error| damaged(format!("its header cannot be read: {error}")))?;
    let data = 8 + announced;
    tiled(&header.tensors, length - data).map_err(damaged)?;
    let mut found = Found { notes: header.metadata.unwrap_or_default(), ..Found::default() };
    for (name, Tensor { dtype, shape, data_offsets: [begin, end] }) in header.tensors {
        let number = number(&dtype).ok_or_else(|| {
            damaged(format!("tensor `{name}`: numbers of type `{dtype}` are not known"))
        })?;
        let storage = Storage::At { file: 0, start: data + begin, bytes: end - begin };
        found.entries.push(Entry::plain(name, number, shape, storage));
    }
    TensorFile::checked(path, Format::Safetensors, vec![(path.to_owned(), file)], found)
}

/// Whether the tensors fill the data, each byte once.
fn tiled(tensors: &[(String, Tensor)], length: u64) -> Result<(), String> {
    let mut sorted: Vec<([u64; 2], &str)> =
        tensors.iter().map(|(name, tensor)| (tensor.data_offsets, name.as_str())).collect();
    sorted.sort_unstable();
    let mut at = 0;
    for ([begin, end], name) in sorted {
        if begin != at || end < begin {
            return Err(format!("tensor `{name}` lies at {begin} to {end}, where {at} is next"));
        }
        at = end;
    }
    if at == length {
        Ok(())
    } else {
        Err(format!("its tensors take {at} bytes, {length} are there"))
    }
}

fn number(dtype: &str) -> Option<Number> {
    Some(match dtype {
        "F64" => Number::F64,
        "F32" => Number::F32,
        "F16" => Number::F16,
        "BF16" => Number::Bf16,
        "I64" => Number::I64,
        "I32" => Number::I32,
        "I16" => Number::I16,
        "I8" => Number::I8,
        "U64" => Number::U64,
        "U32" => Number::U32,
        "U16" => Number::U16,
        "U8" => Number::U8,
        "BOOL" => Number::Bool,
        "F8_E4M3" => Number::F8E4M3,
        "F8_E5M2" => Number::F8E5M2,
        "C64" => Number::C64,
        _ => return None,
    })
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// The header with every name that is in it, also one that is in it twice.
struct Header {
    tensors: Vec<(String, Tensor)>,
    metadata: Option<BTreeMap<String, String>>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Header;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header { tensors: Vec::new(), metadata: None };
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        if header.metadata.replace(map.next_value()?).is_some() {
                            return Err(A::Error::custom("`__metadata__` is in it twice"));
                        }
                    } else if header.tensors.len() == MOST_TENSORS {
                        return Err(A::Error::custom(format!("more than {MOST_TENSORS} tensors")));
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Names)
    }
}
