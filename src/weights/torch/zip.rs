//! The zip form: `TOP/data.pkl` and a member `TOP/data/KEY` for every storage.

use super::super::archive::{self, Fault, Member};
use super::super::recognise::stretch;
use super::super::tree::{Lying, Reference, walk};
use super::super::{Format, Storage, TensorFile};
use super::LONGEST_PICKLE;
use crate::data::pickle;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// What PyTorch never does to what is read here, and the way out.
const PACKED: &str = "is compressed; unpack the archive and pack it again with `zip -0 -r`";

pub(in crate::weights) fn read(path: &Path, file: File, length: u64) -> Result<TensorFile> {
    let damaged = |why: &dyn std::fmt::Display| {
        Error::Weights(format!("archive `{}` is refused: {why}", path.display()))
    };
    let members = archive::members(&file, length).map_err(|fault| match fault {
        Fault::Damaged(why) => damaged(&why),
        Fault::Io(error) => Error::io("read", path)(error),
    })?;
    let tops: Vec<&str> =
        members.keys().filter_map(|name| name.strip_suffix("/data.pkl")).collect();
    let top = match tops.as_slice() {
        [top] => *top,
        [] => {
            let some: Vec<&str> = members.keys().take(3).map(String::as_str).collect();
            return Err(damaged(&format!(
                "it has no `data.pkl`, so PyTorch did not write it; it holds {}{}. Unpack it and give the file in it",
                some.join(", "),
                if members.len() > 3 { ", …" } else { "" }
            )));
        }
        several => return Err(damaged(&format!("{} `data.pkl` in it", several.len()))),
    };
    let member = |name: &str| members.get(&format!("{top}/{name}")).copied();
    let content = |member: Member, most: u64| {
        if member.packed {
            return Err(damaged(&format!("a member that is wanted {PACKED}")));
        }
        if member.bytes > most {
            return Err(damaged(&format!("a pickle of {} bytes", member.bytes)));
        }
        let bytes = stretch(&file, member.start, member.bytes).map_err(Error::io("read", path))?;
        let mut crc = flate2::Crc::new();
        crc.update(&bytes);
        match member.crc32 {
            Some(expected) if expected != crc.sum() => {
                Err(damaged(&"the checksum of a member that is no tensor is wrong"))
            }
            _ => Ok(bytes),
        }
    };
    let big_endian = match member("byteorder") {
        Some(order) => content(order, 64)?.starts_with(b"big"),
        None => false,
    };
    let nothing = Member { start: 0, bytes: 0, packed: false, crc32: None };
    let at = member("data.pkl").unwrap_or(nothing);
    let bytes = content(at, LONGEST_PICKLE)?;
    let locate = |reference: &Reference| {
        let key = &reference.key;
        let there = member(&format!("data/{key}")).ok_or(format!("there is no storage `{key}`"))?;
        if there.packed {
            return Err(format!("storage `{key}` {PACKED}"));
        }
        match reference.bytes().filter(|bytes| *bytes <= there.bytes) {
            Some(bytes) => Ok(Storage::At { file: 0, start: there.start, bytes }),
            None => Err(format!(
                "storage `{key}` is to hold {} numbers, and has {} bytes",
                reference.count, there.bytes
            )),
        }
    };
    let mut found = pickle::graph(&bytes)
        .and_then(|graph| {
            let lying = Lying { bytes: &bytes, place: &|within| at.start + within as u64 };
            walk(&graph, lying, big_endian, &locate)
        })
        .map_err(|why| damaged(&format!("`data.pkl`: {why}")))?;
    // The checksum of a storage is that of a tensor that is all of it.
    let checksums: BTreeMap<u64, (u64, Option<u32>)> =
        members.values().map(|member| (member.start, (member.bytes, member.crc32))).collect();
    for entry in &mut found.entries {
        if let Storage::At { start, bytes, .. } = entry.storage
            && let Some((all, crc32)) = checksums.get(&start)
            && bytes == *all
            // What cannot be meant is refused below.
            && entry.fault(&[length]).is_none()
            && entry.is_whole()
        {
            entry.crc32 = *crc32;
        }
    }
    let code = format!("{top}/code/");
    let script =
        member("constants.pkl").is_some() || members.keys().any(|name| name.starts_with(&code));
    let format = if script { Format::TorchScript } else { Format::TorchZip };
    TensorFile::checked(path, format, vec![(path.to_owned(), file)], found)
}
