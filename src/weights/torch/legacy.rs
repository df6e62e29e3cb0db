//! The form before PyTorch 1.6: five pickles one after the other (a number, the protocol, the machine, the object, the keys
//! of its storages), then each storage as the count of its numbers and the numbers.

use super::super::recognise::stretch;
use super::super::tree::{Lying, Reference, reference, walk};
use super::super::{Format, Found, Number, Storage, TensorFile};
use super::LONGEST_PICKLE;
use crate::data::pickle::{self, Graph, Id, Node, Value};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The number of the first pickle.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Whether a file begins like one.
pub(in crate::weights) fn begins(start: &[u8]) -> bool {
    // A frame may come first, from protocol 4 on.
    let at = if start.get(2) == Some(&0x95) { 11 } else { 2 };
    start.first() == Some(&0x80)
        && start.get(at..at + 2) == Some(&[0x8a, 10])
        && start.get(at + 2..at + 12) == Some(&MAGIC)
}

pub(in crate::weights) fn read(path: &Path, file: File, length: u64) -> Result<TensorFile> {
    // How long the pickles are nobody says: more is read until they are whole.
    let mut taken = 1 << 16;
    let found = loop {
        let bytes = stretch(&file, 0, length.min(taken)).map_err(Error::io("read", path))?;
        match read_pickles(&bytes, &file, length) {
            Ok(found) => break found,
            Err(_) if taken < length.min(LONGEST_PICKLE) => taken *= 4,
            Err(why) => {
                return Err(Error::Weights(format!(
                    "`{}` (PyTorch before 1.6) is damaged: {why}",
                    path.display()
                )));
            }
        }
    };
    TensorFile::checked(path, Format::TorchLegacy, vec![(path.to_owned(), file)], found)
}

/// Reads the pickles that `bytes` begin with, and finds the storages in the file behind them.
fn read_pickles(bytes: &[u8], file: &File, length: u64) -> Result<Found, String> {
    let mut at = 0;
    let mut next = || {
        let graph = pickle::graph(&bytes[at..])?;
        let start = at;
        at += graph.length;
        Ok::<_, String>((graph, start))
    };
    next()?;
    let (protocol, _) = next()?;
    match protocol.node(protocol.root) {
        Node::Plain(Value::Int(1001)) => {}
        _ => return Err("it is of another protocol than 1001".to_owned()),
    }
    let (machine, _) = next()?;
    let (object, start) = next()?;
    let (keys, _) = next()?;
    let keys: Option<Vec<String>> = keys
        .items(keys.root)
        .and_then(|items| items.iter().map(|key| Some(keys.text(*key)?.into_owned())).collect());
    let storages = storages(
        &object,
        &keys.ok_or("the keys of its storages are none")?,
        file,
        at as u64,
        length,
    )?;
    let locate = |reference: &Reference| {
        let (start, number, count) = storages
            .get(&reference.key)
            .ok_or(format!("there is no storage `{}`", reference.key))?;
        if Some(*number) != reference.number {
            return Err("its storage is of two types".to_owned());
        }
        let (first, wanted) = reference.part.unwrap_or((0, *count));
        let size = number.bytes() as u64;
        if first.checked_add(wanted).is_none_or(|end| end > *count) {
            return Err("it is a part of a storage that is smaller".to_owned());
        }
        let start = start + first as u64 * size;
        Ok(Storage::At { file: 0, start, bytes: wanted as u64 * size })
    };
    let lying = Lying { bytes: &bytes[start..], place: &|at| (start + at) as u64 };
    walk(&object, lying, !is_little(&machine), &locate)
}

/// Whether the machine that wrote the file put the lowest byte first.
fn is_little(machine: &Graph<'_>) -> bool {
    let Node::Dict(pairs) = machine.node(machine.root) else { return true };
    let said = pairs.iter().find(|(key, _)| machine.text(*key).as_deref() == Some("little_endian"));
    !matches!(said.map(|(_, value)| machine.node(*value)), Some(Node::Plain(Value::Bool(false))))
}

/// Start, kind and count of the numbers of each storage by its key.
type Storages = BTreeMap<String, (u64, Number, usize)>;

fn storages(
    object: &Graph<'_>,
    keys: &[String],
    file: &File,
    mut at: u64,
    length: u64,
) -> Result<Storages, String> {
    let mut said = BTreeMap::new();
    for id in 0..object.count() as Id {
        if let Some(Reference { key, number: Some(number), count, .. }) = reference(object, id) {
            said.insert(key, (number, count));
        }
    }
    let mut storages = Storages::new();
    for key in keys {
        let (number, count) =
            said.get(key).ok_or(format!("nothing says what storage `{key}` is"))?;
        let mut there = [0; 8];
        file.read_exact_at(&mut there, at)
            .map_err(|_| format!("it is cut off before storage `{key}`"))?;
        let there = i64::from_le_bytes(there);
        if usize::try_from(there) != Ok(*count) {
            return Err(format!("storage `{key}` is to hold {count} numbers, and says {there}"));
        }
        let bytes = count.checked_mul(number.bytes()).map(|bytes| bytes as u64);
        let end = bytes.and_then(|bytes| (at + 8).checked_add(bytes)).filter(|end| *end <= length);
        let end = end.ok_or_else(|| {
            format!("storage `{key}` of {count} numbers at byte {at} leaves a file of {length}")
        })?;
        storages.insert(key.clone(), (at + 8, *number, *count));
        at = end;
    }
    Ok(storages)
}
