//! A tar shard: as it is, then with the checksum of every header set right, which gets further.
#![no_main]

use diptych::data::{decode, tar};
use diptych_fuzz::{IMAGE, in_proportion, is_data, judged, tried};
use libfuzzer_sys::fuzz_target;
use std::io::Cursor;

fuzz_target!(|input: &[u8]| {
    read(input);
    let mut mended = input.to_vec();
    for header in mended.chunks_exact_mut(512).filter(|header| header[257..262] == *b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    if mended != input {
        read(&mended);
    }
});

fn read(shard: &[u8]) {
    let length = shard.len() as u64;
    let index = tried(in_proportion(shard.len()), || tar::index(Cursor::new(shard), length));
    for record in index.records.iter().filter(|record| record.damage.is_none()) {
        assert!(record.offset.checked_add(record.size).is_some_and(|end| end <= length));
        let bytes = &shard[record.offset as usize..][..record.size as usize];
        judged(tried(IMAGE, || decode::decode(bytes, &record.name)), is_data);
    }
}
