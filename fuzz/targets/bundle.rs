//! A TensorFlow checkpoint: its index and its data. An input begins with 1 where what follows is the content of the block of
//! entries alone, which is then put into a table with right checksums; else it is the whole index.
#![no_main]

use diptych::weights::tensorflow::{Bundle, DataType};
use diptych_fuzz::{Folder, in_proportion, is_weights, judged, tried, two};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static FOLDER: LazyLock<Folder> = LazyLock::new(Folder::new);

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a block and gives where it lies.
fn append(table: &mut Vec<u8>, content: &[u8]) -> Vec<u8> {
    let (mut handle, start) = (Vec::new(), table.len());
    varint(start, &mut handle);
    varint(content.len(), &mut handle);
    table.extend(content);
    table.push(0);
    let checksum = crc32c::crc32c(&table[start..]).rotate_right(15).wrapping_add(0xa282_ead8);
    table.extend(checksum.to_le_bytes());
    handle
}

/// A table of one block.
fn around(content: &[u8]) -> Vec<u8> {
    let mut table = Vec::new();
    let handle = append(&mut table, content);
    let mut index = vec![0, 1, handle.len() as u8, b'z'];
    index.extend(handle);
    index.extend([0, 0, 0, 0, 1, 0, 0, 0]);
    let mut footer = append(&mut table, &[0, 0, 0, 0, 1, 0, 0, 0]);
    footer.extend(append(&mut table, &index));
    footer.resize(40, 0);
    footer.extend(0xdb47_7524_8b80_fb57u64.to_le_bytes());
    table.extend(footer);
    table
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, input)) = input.split_first() else { return };
    let (index, data) = two(input);
    let table = around(index);
    let path = FOLDER.put("model.ckpt.index", if *kind == 1 { &table } else { index });
    FOLDER.put("model.ckpt.data-00000-of-00001", data);
    tried(in_proportion(input.len()), || {
        let Some(bundle) = judged(Bundle::open(&path), is_weights) else { return };
        for (name, entry) in bundle.entries() {
            match entry.data_type {
                DataType::Numbers(_) => drop(judged(bundle.tensor(name), is_weights)),
                DataType::String => drop(judged(bundle.strings(name), is_weights)),
                DataType::Other(_) => {}
            }
        }
        judged(bundle.variables(), is_weights);
    });
});
