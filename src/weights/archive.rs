//! Zip archives, as far as a file of weights needs them: which members there are and where the bytes of each lie.
//!
//! Sizes come from the central directory, for PyTorch leaves those of the local headers at zero; from these only the
//! lengths of name and extra field. What is wanted must be stored as it is: nothing is ever unpacked. Refused are names that
//! lead out of a folder, links, encryption, members that overlap or leave the file, and two of one name.

use super::recognise::stretch;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;

/// Most members of an archive.
const MOST_MEMBERS: u64 = 400_000;

/// Longest central directory, in bytes.
const LONGEST_DIRECTORY: u64 = 128 << 20;

/// Where the bytes of a member lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) start: u64,
    pub(super) bytes: u64,
    /// Whether they are compressed, as the code of `TorchScript` is.
    pub(super) packed: bool,
    /// CRC-32 of them; none where the writer left it out, as PyTorch does if it is told to.
    pub(super) crc32: Option<u32>,
}

/// Members by their names, without folders.
pub(super) type Members = BTreeMap<String, Member>;

/// Why an archive cannot be read.
#[derive(Debug)]
pub(super) enum Fault {
    Damaged(String),
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self::Damaged(why)
    }
}

impl From<&str> for Fault {
    fn from(why: &str) -> Self {
        Self::Damaged(why.to_owned())
    }
}

/// Little-endian numbers, read one after the other from bytes that are long enough.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("a header is cut off")?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<u64, Fault> {
        Ok(self.bytes(bytes)?.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }
}

/// The members of an archive of `length` bytes.
pub(super) fn members(file: &File, length: u64) -> Result<Members, Fault> {
    let directory = directory(file, length)?;
    let bytes = stretch(file, directory.start, directory.bytes)?;
    let mut fields = Fields(&bytes);
    let mut members = Members::new();
    // What each takes of the file, its local header included.
    let mut taken = Vec::new();
    for _ in 0..directory.members {
        let Some(Header { name, local, bytes, packed, crc32 }) = central_header(&mut fields)?
        else {
            continue;
        };
        let start = data_start(file, local, &name, directory.start)?;
        let end = start.checked_add(bytes).filter(|end| *end <= directory.start);
        let end = end.ok_or_else(|| format!("member `{name}` leaves the file"))?;
        taken.push((local, end));
        if members.insert(name.clone(), Member { start, bytes, packed, crc32 }).is_some() {
            return Err(format!("two members named `{name}`").into());
        }
    }
    taken.sort_unstable();
    match taken.array_windows().find(|[(_, end), (start, _)]| end > start) {
        Some(_) => Err("members overlap".into()),
        None => Ok(members),
    }
}

struct Directory {
    start: u64,
    bytes: u64,
    members: u64,
}

/// Where the central directory lies, from the record at the end of the file.
fn directory(file: &File, length: u64) -> Result<Directory, Fault> {
    const RECORD: u64 = 22;
    let tail_bytes = length.min(RECORD + 0xffff);
    let tail = stretch(file, length - tail_bytes, tail_bytes)?;
    // The record ends with a comment of a length it says.
    let at = (0..tail.len().saturating_sub(RECORD as usize - 1)).rev().find(|at| {
        let record = &tail[*at..];
        let comment = usize::from(u16::from_le_bytes([record[20], record[21]]));
        record.starts_with(b"PK\x05\x06") && record.len() == RECORD as usize + comment
    });
    let at = at.ok_or("its directory is missing: the file is cut off")?;
    let end = length - tail_bytes + at as u64;
    let mut fields = Fields(&tail[at + 4..]);
    let disks = fields.number(4)?;
    let (_, mut members) = (fields.number(2)?, fields.number(2)?);
    let (mut bytes, mut start) = (fields.number(4)?, fields.number(4)?);
    let mut before = end;
    if members == 0xffff || bytes == 0xffff_ffff || start == 0xffff_ffff {
        let locator = end.checked_sub(20).ok_or("its directory is missing")?;
        let locator_bytes = stretch(file, locator, 20)?;
        let mut fields = Fields(&locator_bytes);
        if fields.bytes(4)? == b"PK\x06\x07" {
            fields.bytes(4)?;
            let record = fields.number(8)?;
            if record.checked_add(56).is_none_or(|end| end > locator) {
                return Err("its directory leaves the file".into());
            }
            let record_bytes = stretch(file, record, 56)?;
            let mut fields = Fields(&record_bytes);
            if fields.bytes(4)? != b"PK\x06\x06" {
                return Err("its directory of 64 bits is missing".into());
            }
            fields.bytes(8 + 2 + 2 + 4 + 4 + 8)?;
            (members, bytes, start) = (fields.number(8)?, fields.number(8)?, fields.number(8)?);
            before = record;
        }
    }
    if disks != 0 {
        return Err("it is one of several parts".into());
    }
    if members > MOST_MEMBERS || bytes > LONGEST_DIRECTORY {
        return Err(format!("a directory of {members} members in {bytes} bytes").into());
    }
    if start.checked_add(bytes).is_none_or(|end| end > before) {
        return Err("its directory leaves the file".into());
    }
    Ok(Directory { start, bytes, members })
}

/// What the directory says of a member.
struct Header {
    name: String,
    /// Where its local header lies.
    local: u64,
    bytes: u64,
    packed: bool,
    crc32: Option<u32>,
}

/// The next member; none for a folder.
fn central_header(fields: &mut Fields<'_>) -> Result<Option<Header>, Fault> {
    if fields.bytes(4)? != b"PK\x01\x02" {
        return Err("its directory has fewer members than it says".into());
    }
    fields.bytes(4)?;
    let (flags, method) = (fields.number(2)?, fields.number(2)?);
    fields.bytes(4)?;
    // Of one in four thousand million members it is 0 indeed.
    let crc32 = Some(fields.number(4)? as u32).filter(|crc| *crc != 0);
    let (mut packed, mut bytes) = (fields.number(4)?, fields.number(4)?);
    let [name, extra, comment] =
        [fields.number(2)?, fields.number(2)?, fields.number(2)?].map(|length| length as usize);
    fields.bytes(4)?;
    let mode = fields.number(4)? >> 16;
    let mut local = fields.number(4)?;
    let name = fields.bytes(name)?;
    let mut extra = Fields(fields.bytes(extra)?);
    fields.bytes(comment)?;
    while extra.0.len() >= 4 {
        let (kind, length) = (extra.number(2)?, extra.number(2)? as usize);
        let mut field = Fields(extra.bytes(length)?);
        if kind == 1 {
            // Sizes of 64 bits, of those only that do not fit.
            for value in [&mut bytes, &mut packed, &mut local] {
                if *value == 0xffff_ffff {
                    *value = field.number(8)?;
                }
            }
        }
    }
    let name = std::str::from_utf8(name).map_err(|_| "a name is not UTF-8")?;
    let shown = name.escape_debug();
    if name.ends_with('/') && bytes == 0 {
        return Ok(None);
    }
    let leads_out = name.starts_with('/') || name.contains(['\\', '\0']);
    if name.is_empty() || leads_out || name.split('/').any(|part| part == ".." || part == ".") {
        return Err(format!("member `{shown}` leads out of the archive").into());
    }
    if mode & 0o170_000 == 0o120_000 {
        return Err(format!("member `{shown}` is a link").into());
    }
    if flags & 1 != 0 {
        return Err(format!("member `{shown}` is encrypted").into());
    }
    if method == 0 && packed != bytes {
        return Err(format!("member `{shown}` is stored and has two sizes").into());
    }
    let (name, bytes) = (name.to_owned(), packed);
    Ok(Some(Header { name, local, bytes, packed: method != 0, crc32 }))
}

/// Where the bytes of a member begin.
fn data_start(file: &File, local: u64, name: &str, directory: u64) -> Result<u64, Fault> {
    const HEADER: u64 = 30;
    let header = HEADER + name.len() as u64;
    if local.checked_add(header).is_none_or(|end| end > directory) {
        return Err(format!("member `{name}` leaves the file").into());
    }
    let bytes = stretch(file, local, header)?;
    let mut fields = Fields(&bytes);
    let marked = fields.bytes(4)? == b"PK\x03\x04";
    fields.bytes(22)?;
    let (length, extra) = (fields.number(2)?, fields.number(2)?);
    if !marked || length != name.len() as u64 || fields.0 != name.as_bytes() {
        return Err(format!("member `{name}` is not where the directory says").into());
    }
    Ok(local + header + extra)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom, Write};

    /// An archive of stored members as a simple writer makes it; `change` may spoil headers, central ones marked `true`.
    pub(crate) fn packed(
        members: &[(&str, &[u8])],
        change: impl Fn(&mut Vec<u8>, bool),
    ) -> Vec<u8> {
        let (mut file, mut directory) = (Vec::new(), Vec::new());
        for (name, content) in members {
            let local = file.len() as u32;
            let sizes = [content.len() as u32; 2].map(u32::to_le_bytes).concat();
            let names = [(name.len() as u16).to_le_bytes(), [0; 2]].concat();
            let common = [&[0u8; 8][..], &[0; 4], &sizes, &names].concat();
            let mut header = [b"PK\x03\x04\x14\x00", &common[..], name.as_bytes()].concat();
            let mut central = [b"PK\x01\x02\x14\x03\x14\x00", &common[..], &[0; 10]].concat();
            central.extend(local.to_le_bytes());
            central.extend(name.as_bytes());
            change(&mut header, false);
            change(&mut central, true);
            file.extend(header);
            file.extend(*content);
            directory.extend(central);
        }
        let start = file.len() as u32;
        file.extend(&directory);
        file.extend(b"PK\x05\x06\0\0\0\0");
        file.extend([members.len() as u16; 2].map(u16::to_le_bytes).concat());
        file.extend((directory.len() as u32).to_le_bytes());
        file.extend(start.to_le_bytes());
        file.extend([0; 2]);
        file
    }

    fn read(bytes: &[u8]) -> Result<Members, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        members(&file, bytes.len() as u64).map_err(|fault| match fault {
            Fault::Damaged(why) => why,
            Fault::Io(error) => panic!("{error}"),
        })
    }

    const PLAIN: [(&str, &[u8]); 2] = [("a/data.pkl", b"first"), ("a/data/0", b"the second")];

    #[test]
    fn members_lie_where_they_are_said_to() {
        let bytes = packed(&PLAIN, |_, _| ());
        let found = read(&bytes).unwrap();
        assert_eq!(found.len(), 2);
        for (name, content) in PLAIN {
            let Member { start, bytes: length, packed, crc32 } = found[name];
            assert!(!packed && crc32.is_none());
            assert_eq!(&bytes[start as usize..][..length as usize], content);
        }
        // A comment behind the directory.
        let mut commented = bytes.clone();
        let end = commented.len();
        commented[end - 2..].copy_from_slice(&[3, 0]);
        commented.extend(b"PK\x05");
        assert_eq!(read(&commented).unwrap(), found);
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn what_leads_out_or_lies_is_refused() {
        for name in ["../x", "a/../../x", "/etc/passwd", "a\\..\\x", "a/./x", ""] {
            let why = read(&packed(&[(name, b"x")], |_, _| ())).unwrap_err();
            assert!(why.contains("leads out"), "{name}: {why}");
        }
        // Nothing is unpacked, so a colon is a letter like others.
        assert!(read(&packed(&[("run 12:30/data.pkl", b"x")], |_, _| ())).is_ok());
        let twice = read(&packed(&[("a", b"x"), ("a", b"y")], |_, _| ())).unwrap_err();
        assert!(twice.contains("two members"), "{twice}");
        let spoilt = |at: usize, value: &'static [u8]| {
            let bytes = packed(&PLAIN, |header, central| {
                if central {
                    header[at..at + value.len()].copy_from_slice(value);
                }
            });
            read(&bytes).unwrap_err()
        };
        assert!(spoilt(8, &[1]).contains("encrypted"));
        assert!(spoilt(20, &[9]).contains("two sizes"));
        assert!(spoilt(20, &[0xff, 0, 0, 0, 0xff, 0, 0, 0]).contains("leaves the file"));
        assert!(spoilt(40, &[0xff, 0xa1]).contains("link"));
        assert!(spoilt(42, &[0, 1]).contains("leaves the file"));
        // Both members in one place: an archive that unpacks to more than it holds.
        let same: [(&str, &[u8]); 2] = [("a", b"same bytes"), ("a", b"")];
        let bytes = packed(&same, |header, central| {
            if central {
                header[42..46].fill(0);
            }
        });
        assert!(read(&bytes).unwrap_err().contains("two members"));
        let bytes = packed(&[("abc", b"0123456789"), ("abd", b"x")], |header, central| {
            if central {
                let last = header.len() - 1;
                (header[20], header[24], header[last]) = (10, 10, b'c');
                header[42..46].fill(0);
            }
        });
        assert!(read(&bytes).is_err());
    }

    #[test]
    fn sizes_of_64_bits_reach_beyond_4_gigabytes() {
        // Hand-made: one member of 5 GB in a sparse file.
        let size: u64 = 5 << 30;
        let mut file = tempfile::tempfile().unwrap();
        let local = [b"PK\x03\x04\x2d\x00", &[0u8; 20][..], &[1, 0, 0, 0], b"w"].concat();
        file.write_all(&local).unwrap();
        let start = local.len() as u64 + size;
        file.seek(SeekFrom::Start(start)).unwrap();
        let extra = [&[1u8, 0, 16, 0][..], &size.to_le_bytes(), &size.to_le_bytes()].concat();
        let mut central = [b"PK\x01\x02\x2d\x03\x2d\x00", &[0u8; 12][..], &[0xff; 8]].concat();
        central.extend([1, 0, extra.len() as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        central.extend([0; 4]);
        central.extend(b"w");
        central.extend(extra);
        file.write_all(&central).unwrap();
        let record = start + central.len() as u64;
        let count = [1u64.to_le_bytes(), 1u64.to_le_bytes()].concat();
        let place = [(central.len() as u64).to_le_bytes(), start.to_le_bytes()].concat();
        file.write_all(&[b"PK\x06\x06", &[0u8; 20][..], &count, &place].concat()).unwrap();
        file.write_all(
            &[b"PK\x06\x07", &[0u8; 4][..], &record.to_le_bytes(), &[1, 0, 0, 0]].concat(),
        )
        .unwrap();
        file.write_all(&[b"PK\x05\x06\0\0\0\0", &[0xff; 12][..], &[0; 2]].concat()).unwrap();
        let length = file.metadata().unwrap().len();
        let found = members(&file, length).unwrap();
        let expected =
            Member { start: local.len() as u64, bytes: size, packed: false, crc32: None };
        assert_eq!(found["w"], expected);
    }
}
