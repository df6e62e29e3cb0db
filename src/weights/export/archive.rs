//! Zip archives as PyTorch writes them: members stored as they are, each beginning at a multiple of 64 bytes, so that their
//! numbers can be mapped into memory. No time is written: equal weights give equal files.

use std::io::{self, Write};

/// Where the content of members begins.
const ALIGNMENT: u64 = 64;
/// 1 January 1980, the first day a zip archive knows.
const DATE: u16 = 0x21;
/// The field of a header that fills it up (PyTorch's).
const PADDING: u16 = 0x4246;

struct Member {
    name: String,
    crc: u32,
    size: u32,
    offset: u64,
}

/// An archive being written.
pub(super) struct Archive<W: Write> {
    out: W,
    position: u64,
    members: Vec<Member>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, position: 0, members: Vec::new() }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.position += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Adds a member.
    ///
    /// # Errors
    /// Those of writing, and one for a member of 4 GiB or more.
    pub(super) fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len())
            .ok()
            .filter(|size| *size < u32::MAX)
            .ok_or_else(|| io::Error::other(format!("`{name}` takes 4 GiB or more")))?;
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let member = Member { name: name.to_owned(), crc: crc.sum(), size, offset: self.position };
        // The fixed part, the name, and the head of the field that fills up.
        let header = 30 + name.len() as u64 + 4;
        let fill = (self.position + header).next_multiple_of(ALIGNMENT) - self.position - header;
        let mut bytes = b"PK\x03\x04".to_vec();
        member.common(20, &mut bytes);
        bytes.extend((name.len() as u16).to_le_bytes());
        bytes.extend((4 + fill as u16).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(PADDING.to_le_bytes());
        bytes.extend((fill as u16).to_le_bytes());
        bytes.resize(bytes.len() + fill as usize, b'Z');
        self.write(&bytes)?;
        self.write(content)?;
        self.members.push(member);
        Ok(())
    }

    /// Writes the list of members.
    ///
    /// # Errors
    /// Those of writing.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let start = self.position;
        let mut list = Vec::new();
        for member in &self.members {
            member.listed(&mut list);
        }
        self.write(&list)?;
        let (count, size) = (self.members.len() as u64, list.len() as u64);
        let end = self.position;
        let mut tail = Vec::new();
        if start >= u64::from(u32::MAX) || count >= u64::from(u16::MAX) {
            tail.extend(b"PK\x06\x06");
            tail.extend(44u64.to_le_bytes());
            tail.extend([45, 0, 45, 0]);
            tail.extend([0; 8]);
            for number in [count, count, size, start] {
                tail.extend(number.to_le_bytes());
            }
            tail.extend(b"PK\x06\x07\0\0\0\0");
            tail.extend(end.to_le_bytes());
            tail.extend(1u32.to_le_bytes());
        }
        tail.extend(b"PK\x05\x06\0\0\0\0");
        let count = count.min(u64::from(u16::MAX)) as u16;
        for number in [count, count] {
            tail.extend(number.to_le_bytes());
        }
        tail.extend((size as u32).to_le_bytes());
        tail.extend((start.min(u64::from(u32::MAX)) as u32).to_le_bytes());
        tail.extend([0, 0]);
        self.write(&tail)?;
        self.out.flush()
    }
}

impl Member {
    /// What both its headers have: the version needed, no flags, stored, when, checksum and sizes.
    fn common(&self, version: u16, out: &mut Vec<u8>) {
        out.extend(version.to_le_bytes());
        out.extend([0; 6]);
        out.extend(DATE.to_le_bytes());
        out.extend(self.crc.to_le_bytes());
        [self.size; 2].iter().for_each(|size| out.extend(size.to_le_bytes()));
    }

    fn listed(&self, out: &mut Vec<u8>) {
        let far = self.offset >= u64::from(u32::MAX);
        let version: u16 = if far { 45 } else { 20 };
        out.extend(b"PK\x01\x02");
        out.extend(version.to_le_bytes());
        self.common(version, out);
        out.extend((self.name.len() as u16).to_le_bytes());
        out.extend((if far { 12u16 } else { 0 }).to_le_bytes());
        out.extend([0; 10]);
        out.extend((self.offset.min(u64::from(u32::MAX)) as u32).to_le_bytes());
        out.extend(self.name.as_bytes());
        if far {
            out.extend([1, 0, 8, 0]);
            out.extend(self.offset.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_begin_at_multiples_of_64_bytes_and_equal_content_gives_equal_bytes() {
        let written = || {
            let mut bytes = Vec::new();
            let mut archive = Archive::new(&mut bytes);
            archive.add("archive/data.pkl", b"a").unwrap();
            archive.add("archive/data/0", &[7; 100]).unwrap();
            archive.add("archive/version", b"3\n").unwrap();
            archive.finish().unwrap();
            bytes
        };
        let bytes = written();
        assert_eq!(bytes, written());
        let sevens = bytes.windows(100).position(|part| part == [7; 100]).unwrap();
        assert_eq!(sevens % 64, 0);
        assert_eq!(bytes.iter().position(|byte| *byte == b'a'), Some(30));
        let end = bytes.len() - 22;
        assert_eq!(bytes[end..end + 4], *b"PK\x05\x06");
        let start = u32::from_le_bytes(bytes[end + 16..end + 20].try_into().unwrap()) as usize;
        assert_eq!(bytes[start..start + 4], *b"PK\x01\x02");
    }

    /// Counts what it is given and keeps the end of it.
    #[derive(Default)]
    struct End(Vec<u8>);

    impl Write for End {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend(bytes);
            let surplus = self.0.len().saturating_sub(1 << 16);
            self.0.drain(..surplus);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn beyond_four_gibibytes_the_list_says_more() {
        let mut end = End::default();
        let mut archive = Archive::new(&mut end);
        archive.position = u64::from(u32::MAX) + 5;
        archive.add("a", b"b").unwrap();
        let start = archive.position;
        archive.finish().unwrap();
        let at = |mark: &[u8; 4]| end.0.windows(4).position(|part| part == mark).unwrap();
        let listed = at(b"PK\x01\x02");
        assert_eq!(end.0[listed + 42..listed + 46], [0xff; 4]);
        assert_eq!(end.0[listed + 51..listed + 59], (u64::from(u32::MAX) + 5).to_le_bytes());
        let far = at(b"PK\x06\x06");
        assert_eq!(end.0[far + 48..far + 56], start.to_le_bytes());
        assert_eq!(end.0[at(b"PK\x05\x06") + 16..][..4], [0xff; 4]);
    }
}
