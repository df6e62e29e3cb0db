//! Sorted string tables: the file format of `LevelDB` (google/leveldb, `doc/table_format.md`), in which the index of a
//! tensor bundle is written.
//!
//! A table is blocks of entries, an index block that says where they lie, and a footer of 48 bytes. Every block carries a
//! checksum and is taken only if it holds.

use super::LARGEST_INDEX;

/// The last bytes of every table.
const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
const FOOTER: usize = 48;
/// Type byte and checksum behind a block.
const TRAILER: usize = 5;
/// Longest key taken.
pub(super) const LONGEST_KEY: usize = 4096;
/// Most bytes of all keys.
const MOST_KEYS: usize = 64 << 20;
/// Snappy's shortest code for 64 bytes takes three.
const SNAPPY_FACTOR: usize = 22;

/// What is wrong with a table.
type Outcome<T> = Result<T, String>;

/// Hands on every entry in order, keys strictly ascending.
///
/// # Errors
/// What is wrong with the table, or what `entry` says.
pub(super) fn read(
    bytes: &[u8],
    mut entry: impl FnMut(&[u8], &[u8]) -> Outcome<()>,
) -> Outcome<()> {
    let start = bytes.len().checked_sub(FOOTER).ok_or("it is too short for a table")?;
    let (blocks, footer) = bytes.split_at(start);
    if footer[FOOTER - 8..] != MAGIC.to_le_bytes() {
        return Err("it does not end as a table does: no index of a checkpoint, or cut off".into());
    }
    let mut handles = &footer[..FOOTER - 8];
    let _metaindex = Handle::take(&mut handles)?;
    let index = Handle::take(&mut handles)?.block(blocks)?;
    let budget = ((1 << 20) + 16 * bytes.len()).min(MOST_KEYS);
    let mut keys = Keys { last: None, budget };
    let mut end = 0;
    let mut separators = Keys { last: None, budget: keys.budget };
    for_each(&index, &mut separators, |_, value| {
        let mut value = value;
        let handle = Handle::take(&mut value)?;
        if handle.offset < end {
            return Err("two of its blocks overlap".into());
        }
        end = handle.offset.saturating_add(handle.size).saturating_add(TRAILER as u64);
        for_each(&handle.block(blocks)?, &mut keys, &mut entry)
    })
}

/// Where a block lies.
#[derive(Clone, Copy)]
struct Handle {
    offset: u64,
    size: u64,
}

impl Handle {
    fn take(bytes: &mut &[u8]) -> Outcome<Self> {
        Ok(Self { offset: varint(bytes)?, size: varint(bytes)? })
    }

    /// The content of the block, checked and unpacked.
    fn block(self, blocks: &[u8]) -> Outcome<std::borrow::Cow<'_, [u8]>> {
        let outside = "a block lies outside of it";
        let offset = usize::try_from(self.offset).map_err(|_| outside)?;
        let size = usize::try_from(self.size).map_err(|_| outside)?;
        let end =
            offset.checked_add(size).and_then(|end| end.checked_add(TRAILER)).ok_or(outside)?;
        let whole = blocks.get(offset..end).ok_or(outside)?;
        let (covered, checksum) = whole.split_at(size + 1);
        let (content, kind) = covered.split_at(size);
        if masked(crc32c::crc32c(covered)).to_le_bytes() != checksum {
            return Err("the checksum of a block is wrong".into());
        }
        match kind {
            [0] => Ok(content.into()),
            [1] => {
                let length = snap::raw::decompress_len(content).map_err(|why| why.to_string())?;
                if length > SNAPPY_FACTOR * content.len() + 64 {
                    return Err("a packed block claims an impossible size".into());
                }
                if length as u64 > LARGEST_INDEX {
                    return Err(format!("a packed block of {length} bytes"));
                }
                let unpacked = snap::raw::Decoder::new().decompress_vec(content);
                Ok(unpacked.map_err(|why| format!("a packed block is damaged: {why}"))?.into())
            }
            other => Err(format!("a block is packed in an unknown way ({})", other[0])),
        }
    }
}

/// Keys met so far: the last one, and how many bytes all that follow may have. Keys share beginnings, so that a few bytes of
/// file may ask for long keys without end.
struct Keys {
    last: Option<Vec<u8>>,
    budget: usize,
}

/// Hands on the entries of a block.
fn for_each(
    block: &[u8],
    keys: &mut Keys,
    mut entry: impl FnMut(&[u8], &[u8]) -> Outcome<()>,
) -> Outcome<()> {
    let broken = || "a block ends within an entry".to_owned();
    let (rest, count) = block.split_last_chunk::<4>().ok_or_else(broken)?;
    let restarts = (u32::from_le_bytes(*count) as usize).checked_mul(4).ok_or_else(broken)?;
    let mut rest = &rest[..rest.len().checked_sub(restarts).ok_or_else(broken)?];
    let mut key: Vec<u8> = Vec::new();
    while !rest.is_empty() {
        let shared = varint(&mut rest)? as usize;
        let own = varint(&mut rest)? as usize;
        let value = varint(&mut rest)? as usize;
        if shared > key.len() {
            return Err("a key begins like more than there was".into());
        }
        if shared.saturating_add(own) > LONGEST_KEY {
            return Err(format!("a key is longer than {LONGEST_KEY} bytes"));
        }
        let (fresh, behind) = rest.split_at_checked(own).ok_or_else(broken)?;
        let (value, behind) = behind.split_at_checked(value).ok_or_else(broken)?;
        rest = behind;
        key.truncate(shared);
        key.extend_from_slice(fresh);
        keys.budget = keys.budget.checked_sub(key.len()).ok_or("its keys are out of proportion")?;
        if keys.last.as_ref().is_some_and(|last| *last >= key) {
            return Err("its keys are not in order".into());
        }
        entry(&key, value)?;
        keys.last = Some(key.clone());
    }
    Ok(())
}

/// A number in groups of seven bits, lowest first, as protocol buffers write it too.
pub(super) fn varint(bytes: &mut &[u8]) -> Outcome<u64> {
    let mut value = 0u64;
    for place in 0..10 {
        let (byte, rest) = bytes.split_first().ok_or("a number is cut off")?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if place == 9 && bits > 1 {
            break;
        }
        value |= bits << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number has more than 64 bits".into())
}

/// CRC-32C as tables and bundles store it: a checksum of data that holds checksums would be weak.
pub(super) fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// What [`masked`] was given.
pub(super) fn unmasked(stored: u32) -> u32 {
    stored.wrapping_sub(0xa282_ead8).rotate_left(15)
}

/// For tests: what [`read`] reads.
#[cfg(test)]
pub(super) mod writer {
    use super::{MAGIC, masked};

    fn varint(mut value: usize, out: &mut Vec<u8>) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    /// Content of a block, entries in the order given; every 16th begins anew.
    pub(in super::super) fn block(entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let (mut out, mut restarts, mut last) = (Vec::new(), Vec::new(), &[][..]);
        for (number, (key, value)) in entries.iter().enumerate() {
            let mut shared = key.iter().zip(last).take_while(|(a, b)| a == b).count();
            if number % 16 == 0 {
                restarts.push(out.len() as u32);
                shared = 0;
            }
            varint(shared, &mut out);
            varint(key.len() - shared, &mut out);
            varint(value.len(), &mut out);
            out.extend(&key[shared..]);
            out.extend(value);
            last = key;
        }
        if restarts.is_empty() {
            restarts.push(0);
        }
        for restart in &restarts {
            out.extend(restart.to_le_bytes());
        }
        out.extend((restarts.len() as u32).to_le_bytes());
        out
    }

    /// Appends a block with its trailer and gives its handle.
    fn append(table: &mut Vec<u8>, content: &[u8], packed: bool) -> Vec<u8> {
        let snappy = packed.then(|| snap::raw::Encoder::new().compress_vec(content).unwrap());
        let stored = snappy.as_deref().unwrap_or(content);
        let (mut handle, start) = (Vec::new(), table.len());
        varint(start, &mut handle);
        varint(stored.len(), &mut handle);
        table.extend(stored);
        table.push(u8::from(packed));
        let checksum = masked(crc32c::crc32c(&table[start..]));
        table.extend(checksum.to_le_bytes());
        handle
    }

    /// A table whose data blocks are given.
    pub(in super::super) fn table(blocks: &[&[(Vec<u8>, Vec<u8>)]], packed: bool) -> Vec<u8> {
        let last = |entries: &[(Vec<u8>, Vec<u8>)]| {
            entries.last().map_or(Vec::new(), |(key, _)| key.clone())
        };
        let blocks: Vec<_> = blocks.iter().map(|entries| (last(entries), block(entries))).collect();
        assembled(&blocks, packed)
    }

    /// A table of one block of any content.
    pub(in super::super) fn around(content: &[u8]) -> Vec<u8> {
        assembled(&[(b"z".to_vec(), content.to_vec())], false)
    }

    fn assembled(blocks: &[(Vec<u8>, Vec<u8>)], packed: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let mut index = Vec::new();
        for (last, content) in blocks {
            let handle = append(&mut out, content, packed);
            index.push((last.clone(), handle));
        }
        let mut footer = append(&mut out, &block(&[]), false);
        let index = append(&mut out, &block(&index), packed);
        footer.extend(index);
        footer.resize(40, 0);
        footer.extend(MAGIC.to_le_bytes());
        out.extend(footer);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::writer::table;
    use super::*;

    fn pairs(count: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut keys: Vec<String> = (0..count).map(|i| format!("layer/{i}/kernel")).collect();
        keys.sort();
        keys.insert(0, String::new());
        keys.into_iter().map(|key| (key.clone().into_bytes(), key.repeat(3).into_bytes())).collect()
    }

    fn all(bytes: &[u8]) -> Outcome<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut found = Vec::new();
        read(bytes, |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn checksums_are_the_published_ones() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked(crc32c::crc32c(b"123456789")), 0xc78a_b0e5);
        assert_eq!(masked(crc32c::crc32c(&[0; 256])), 0x05a4_5bbd);
        assert_eq!(unmasked(0xc78a_b0e5), 0xe306_9283);
    }

    #[test]
    fn entries_come_back_from_one_block_or_several_plain_or_packed() {
        let pairs = pairs(100);
        for packed in [false, true] {
            assert_eq!(all(&table(&[&pairs], packed)).unwrap(), pairs);
            let (first, second) = pairs.split_at(40);
            assert_eq!(all(&table(&[first, second], packed)).unwrap(), pairs);
        }
    }

    #[test]
    fn what_is_no_whole_table_is_refused() {
        let pairs = pairs(20);
        let whole = table(&[&pairs], false);
        for length in 0..whole.len() {
            assert!(all(&whole[..length]).is_err(), "{length} bytes of {}", whole.len());
        }
        for position in 0..whole.len() - FOOTER {
            let mut changed = whole.clone();
            changed[position] ^= 4;
            // The metaindex is empty and not read.
            if let Ok(found) = all(&changed) {
                assert_eq!(found, pairs, "{position}");
            }
        }
        let refused = |entries: &[&[(Vec<u8>, Vec<u8>)]]| all(&table(entries, false)).unwrap_err();
        assert_eq!(refused(&[&pairs, &pairs]), "its keys are not in order");
        let twice = [pairs[1].clone(), pairs[1].clone()];
        assert_eq!(refused(&[&twice]), "its keys are not in order");
        let long = [(vec![b'a'; 4097], Vec::new())];
        assert_eq!(refused(&[&long]), "a key is longer than 4096 bytes");
        // Keys of 4,095 bytes that take 8.
        let mut content = vec![0, 0xff, 0x1f, 0];
        content.extend([b'a'; 4095]);
        for number in 0..3000u16 {
            content.extend([0xfd, 0x1f, 2, 0, b'b' + (number >> 8) as u8, number as u8]);
        }
        content.extend([0, 0, 0, 0, 1, 0, 0, 0]);
        let message = all(&super::writer::around(&content)).unwrap_err();
        assert_eq!(message, "its keys are out of proportion");
    }

    #[test]
    fn a_number_has_at_most_64_bits() {
        let read = |bytes: &[u8]| {
            let mut rest = bytes;
            varint(&mut rest)
        };
        assert_eq!(read(&[0x96, 0x01]), Ok(150));
        assert_eq!(read(&[[0xff; 9].as_slice(), &[1]].concat()), Ok(u64::MAX));
        assert!(read(&[[0xff; 9].as_slice(), &[2]].concat()).is_err());
        assert!(read(&[0x80]).is_err());
    }
}
