//! A pickle without its long byte strings: a file of arrays is mostly those, and where they lie is all that is wanted of
//! them before they are loaded.

use super::input::Outcome;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};

/// Bytes from which on a byte string is left in the file.
pub(crate) const LONG: u64 = 1 << 16;

/// A byte string that was left in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Far {
    /// Where it would begin in [`Skimmed::bytes`].
    pub(super) at: usize,
    /// Where it begins in the file.
    pub(crate) start: u64,
    /// How long it is.
    pub(crate) bytes: u64,
}

/// What was read of a pickle.
#[derive(Debug)]
pub(crate) struct Skimmed {
    /// All of it but the long byte strings.
    pub(crate) bytes: Vec<u8>,
    /// Those, in their order.
    pub(crate) far: Vec<Far>,
}

impl Skimmed {
    /// Where a byte of it lies in the file.
    pub(crate) fn place(&self, at: usize) -> u64 {
        place(&self.far, at)
    }
}

/// Where byte `at` of what is left lies in the file.
pub(super) fn place(far: &[Far], at: usize) -> u64 {
    let before = far.partition_point(|far| far.at <= at);
    at as u64
        + before.checked_sub(1).map_or(0, |last| {
            let far = far[last];
            far.start + far.bytes - far.at as u64
        })
}

/// What stands behind an opcode.
enum Behind {
    Bytes(u64),
    /// A length of so many bytes, and that many bytes.
    Counted(usize),
    /// The same, of a byte string, which may be long.
    CountedBytes(usize),
    Lines(usize),
}

fn behind(opcode: u8) -> Behind {
    match opcode {
        0x80 | b'K' | b'q' | b'h' | 0x82 => Behind::Bytes(1),
        b'M' | 0x83 => Behind::Bytes(2),
        b'J' | b'r' | b'j' | 0x84 => Behind::Bytes(4),
        b'G' | 0x95 => Behind::Bytes(8),
        b'U' | b'C' | 0x8c | 0x8a => Behind::Counted(1),
        b'X' | 0x8b => Behind::Counted(4),
        0x8d => Behind::Counted(8),
        b'T' | b'B' => Behind::CountedBytes(4),
        0x8e | 0x96 => Behind::CountedBytes(8),
        b'I' | b'L' | b'F' | b'S' | b'V' | b'p' | b'g' | b'P' => Behind::Lines(1),
        b'c' | b'i' => Behind::Lines(2),
        // What stands behind one that does not exist nobody knows, and nobody reads on.
        _ => Behind::Bytes(0),
    }
}

/// Reads the pickle that a file of `length` bytes begins with and leaves its long byte strings where they are. `most` bytes
/// may be read. It understands no more than how long each opcode is.
///
/// # Errors
/// What is wrong with it, or why the file cannot be read: the first an error of kind
/// [`InvalidData`](std::io::ErrorKind::InvalidData).
pub(crate) fn skim(file: &File, length: u64, most: u64) -> std::io::Result<Skimmed> {
    let mut skim = Skim {
        input: BufReader::with_capacity(1 << 16, file),
        found: Skimmed { bytes: Vec::new(), far: Vec::new() },
        at: 0,
        length,
        most,
    };
    skim.input.seek(SeekFrom::Start(0))?;
    loop {
        skim.copy(1)?;
        let opcode = skim.found.bytes.last().copied().unwrap_or(b'.');
        match behind(opcode) {
            _ if opcode == b'.' => return Ok(skim.found),
            Behind::Bytes(count) => skim.copy(count)?,
            Behind::Counted(size) => {
                let count = skim.count(size)?;
                skim.copy(count)?;
            }
            Behind::CountedBytes(size) => {
                let count = skim.count(size)?;
                if count < LONG { skim.copy(count)? } else { skim.leave(count)? }
            }
            Behind::Lines(count) => (0..count).try_for_each(|_| skim.line())?,
        }
    }
}

struct Skim<'f> {
    input: BufReader<&'f File>,
    found: Skimmed,
    at: u64,
    length: u64,
    most: u64,
}

impl Skim<'_> {
    fn damaged<T>(&self, why: &str) -> std::io::Result<T> {
        let text = format!("{why}, at byte {}", self.at);
        Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text))
    }

    /// Refuses to go beyond the end of the file, or to hold too much.
    fn check(&self, count: u64, held: bool) -> std::io::Result<()> {
        let left = self.length - self.at;
        if count > left {
            return self.damaged(&format!("cut off: {count} bytes are announced, {left} are left"));
        }
        if held && self.found.bytes.len() as u64 + count > self.most {
            return self.damaged(&format!(
                "it has more than {} bytes beside long byte strings",
                self.most
            ));
        }
        Ok(())
    }

    fn copy(&mut self, count: u64) -> std::io::Result<()> {
        self.check(count, true)?;
        let copied = (&mut self.input).take(count).read_to_end(&mut self.found.bytes)?;
        self.at += copied as u64;
        if copied as u64 == count { Ok(()) } else { self.damaged("it became shorter") }
    }

    /// A length of `size` bytes.
    fn count(&mut self, size: usize) -> std::io::Result<u64> {
        self.copy(size as u64)?;
        let bytes = &self.found.bytes[self.found.bytes.len() - size..];
        Ok(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    fn leave(&mut self, count: u64) -> std::io::Result<()> {
        self.check(count, false)?;
        self.found.far.push(Far { at: self.found.bytes.len(), start: self.at, bytes: count });
        self.at += count;
        // Within the length of a file, which is no negative number.
        self.input.seek_relative(count as i64)
    }

    fn line(&mut self) -> std::io::Result<()> {
        loop {
            let there = self.input.fill_buf()?;
            let end = there.iter().position(|byte| *byte == b'\n');
            let count = end.map_or(there.len(), |end| end + 1) as u64;
            if count == 0 {
                return self.damaged("cut off within a line");
            }
            self.copy(count)?;
            if end.is_some() {
                return Ok(());
            }
        }
    }
}

/// The bytes of a string that is next, if it was left in the file.
pub(super) fn next(far: &[Far], at: usize, length: usize) -> Outcome<Option<Far>> {
    // Several at one place cannot be: between two of them stands an opcode.
    let Ok(found) = far.binary_search_by_key(&at, |far| far.at) else { return Ok(None) };
    let far = far[found];
    if far.bytes == length as u64 { Ok(Some(far)) } else { Err("two lengths".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::super::{Node, graph, graph_of};
    use super::*;
    use std::io::Write;

    fn skimmed(bytes: &[u8], most: u64) -> Result<Skimmed, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        skim(&file, bytes.len() as u64, most).map_err(|error| error.to_string())
    }

    /// A list of a long string, a short one and a long one.
    fn three() -> Vec<u8> {
        let long = |fill: u8| [&b"B\0\0\x01\0"[..], &vec![fill; 1 << 16]].concat();
        [b"\x80\x03](", &long(b'.')[..], b"C\x02ab", &long(b'(')[..], b"e."].concat()
    }

    #[test]
    fn long_strings_stay_in_the_file_and_the_rest_is_read_as_ever() {
        let bytes = three();
        let found = skimmed(&bytes, 64).unwrap();
        assert_eq!(found.bytes, b"\x80\x03](B\0\0\x01\0C\x02abB\0\0\x01\0e.");
        let starts: Vec<u64> = found.far.iter().map(|far| far.start).collect();
        assert_eq!(starts, [9, 9 + (1 << 16) + 9]);
        assert_eq!((found.place(8), found.place(9)), (8, 9 + (1 << 16)));
        assert_eq!(bytes[found.place(found.bytes.len() - 1) as usize], b'.');
        assert_eq!(found.place(found.bytes.len()), bytes.len() as u64);
        let graph = graph_of(&found).unwrap();
        let items = graph.items(graph.root).unwrap();
        let far = |id: &u32| match graph.node(*id) {
            Node::Far(far) => Some((far.start, far.bytes)),
            _ => None,
        };
        let lies = [Some((9, 1 << 16)), None, Some((9 + (1 << 16) + 9, 1 << 16))];
        assert_eq!(items.iter().map(far).collect::<Vec<_>>(), lies);
    }

    #[test]
    fn every_golden_pickle_is_the_same_with_nothing_to_leave_out() {
        let mut read = 0;
        for folder in ["data", "weights"] {
            let folder = format!("{}/tests/golden/{folder}", env!("CARGO_MANIFEST_DIR"));
            for entry in std::fs::read_dir(folder).unwrap() {
                let bytes = std::fs::read(entry.unwrap().path()).unwrap_or_default();
                if !matches!(bytes.as_slice(), [0x80, 2..=5, ..]) {
                    continue;
                }
                let Ok(whole) = graph(&bytes) else { continue };
                let found = skimmed(&bytes, u64::MAX).unwrap();
                assert_eq!(found.bytes, bytes[..whole.length]);
                read += 1;
            }
        }
        assert!(read >= 5, "{read}");
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_refused() {
        let bytes = three();
        for cut in [4, 7, 100, 9 + (1 << 16) + 5, bytes.len() - 1] {
            let why = skimmed(&bytes[..cut], u64::MAX).unwrap_err();
            assert!(why.contains("cut off") && why.contains("at byte"), "{cut}: {why}");
        }
        assert!(skimmed(b"cnumpy", 64).unwrap_err().contains("within a line"));
        assert!(skimmed(&bytes, 12).unwrap_err().contains("more than 12 bytes"));
        let endless = [&b"\x8e"[..], &[0xff; 8], &[0; 100]].concat();
        assert!(skimmed(&endless, u64::MAX).unwrap_err().contains("18446744073709551615 bytes"));
    }

    #[test]
    fn where_no_bytes_are_wanted_a_long_string_is_none() {
        // As a text, a key, an encoding: refused or kept, and never taken for what it is not.
        let bytes = [&b"\x80\x03}(B\0\0\x01\0"[..], &vec![b'a'; 1 << 16], b"K\x01u."].concat();
        let found = skimmed(&bytes, 64).unwrap();
        let graph = graph_of(&found).unwrap();
        let Node::Dict(pairs) = graph.node(graph.root) else { panic!("no dictionary") };
        assert_eq!(graph.text(pairs[0].0), None);
    }
}
