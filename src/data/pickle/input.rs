//! The bytes of a pickle: lengths, numbers, strings. Nothing longer than what is left is ever taken.

use super::Value;
use super::skim::{self, Far};
use std::borrow::Cow;
use std::cell::Cell;

pub(super) type Outcome<T> = Result<T, String>;

/// The bytes, and how far they are read.
pub(super) struct Input<'a> {
    bytes: &'a [u8],
    /// Byte strings that are not among them.
    far: &'a [Far],
    at: usize,
    /// Bytes that may still be copied.
    copies_left: Cell<usize>,
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8], far: &'a [Far]) -> Self {
        Self { bytes, far, at: 0, copies_left: Cell::new(bytes.len().saturating_mul(8)) }
    }

    /// How many bytes are read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Where the next byte lies in the file.
    pub(super) fn place(&self) -> u64 {
        skim::place(self.far, self.at)
    }

    pub(super) fn take(&mut self, count: usize) -> Outcome<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| {
            format!("cut off: {count} bytes are announced, {} are left", self.bytes.len() - self.at)
        })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// A little-endian length of that many bytes.
    pub(super) fn length(&mut self, bytes: usize) -> Outcome<usize> {
        let value = self.take(bytes)?.iter().rev().fold(0u64, |sum, b| sum << 8 | u64::from(*b));
        usize::try_from(value).map_err(|_| format!("a length of {value} bytes"))
    }

    pub(super) fn line(&mut self) -> Outcome<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or("cut off within a line")?;
        self.at += end + 1;
        Ok(&rest[..end])
    }

    /// Bytes that may still be copied.
    pub(super) fn copies_left(&self) -> usize {
        self.copies_left.get()
    }

    /// A number; none for an integer of more than 64 bits.
    pub(super) fn number(&mut self, opcode: u8) -> Outcome<Option<Value<'a>>> {
        let little = |bytes: &[u8]| {
            let bits = bytes.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
            let unused = 64 - 8 * bytes.len() as u32;
            (bits << unused) as i64 >> unused
        };
        Ok(Some(Value::Int(match opcode {
            b'J' => little(self.take(4)?),
            b'K' => i64::from(self.take(1)?[0]),
            b'M' => self.length(2)? as i64,
            0x8a | 0x8b => {
                let length = self.length(if opcode == 0x8a { 1 } else { 4 })?;
                match self.take(length)? {
                    [] => 0,
                    bytes if bytes.len() <= 8 => little(bytes),
                    _ => return Ok(None),
                }
            }
            b'G' => {
                let bytes = self.take(8)?.try_into().map_err(|_| "a short number")?;
                return Ok(Some(Value::Float(f64::from_be_bytes(bytes))));
            }
            _ => {
                let line = std::str::from_utf8(self.line()?).map_err(|_| "a number is no text")?;
                let bad = |_| format!("`{}` is no number", line.escape_default());
                match (opcode, line) {
                    (b'F', _) => {
                        let value = line.trim().parse().map_err(|_| "no number")?;
                        return Ok(Some(Value::Float(value)));
                    }
                    (b'I', "00" | "01") => return Ok(Some(Value::Bool(line == "01"))),
                    _ => line.trim().trim_end_matches('L').parse().map_err(bad)?,
                }
            }
        })))
    }

    /// A byte string; one that was left in the file is the error within.
    pub(super) fn byte_string(&mut self, opcode: u8) -> Outcome<Result<Cow<'a, [u8]>, Far>> {
        let length = match opcode {
            b'U' | b'C' => self.length(1)?,
            b'T' | b'B' => self.length(4)?,
            0x8e | 0x96 => self.length(8)?,
            _ => {
                let line = self.line()?;
                self.copied(line.len())?;
                return unquoted(line).map(|bytes| Ok(Cow::Owned(bytes)));
            }
        };
        match skim::next(self.far, self.at, length)? {
            Some(far) => Ok(Err(far)),
            None => self.take(length).map(|bytes| Ok(Cow::Borrowed(bytes))),
        }
    }

    pub(super) fn text(&mut self, opcode: u8) -> Outcome<Cow<'a, str>> {
        let length = match opcode {
            0x8c => self.length(1)?,
            b'X' => self.length(4)?,
            0x8d => self.length(8)?,
            _ => {
                let line = self.line()?;
                self.copied(2 * line.len())?;
                return unescaped(line).map(Cow::Owned);
            }
        };
        let text = std::str::from_utf8(self.take(length)?);
        text.map(Cow::Borrowed).map_err(|_| "a text is not UTF-8".to_owned())
    }

    /// Counts bytes about to be copied out of the input; an error when there are too many.
    pub(super) fn copied(&self, bytes: usize) -> Outcome<()> {
        let left = self
            .copies_left
            .get()
            .checked_sub(bytes)
            .ok_or("its values take more than eight times the size of the file")?;
        self.copies_left.set(left);
        Ok(())
    }
}

/// A byte string as Python writes it in source text: quoted, with escapes.
fn unquoted(line: &[u8]) -> Outcome<Vec<u8>> {
    let inner = match line {
        [quote @ (b'\'' | b'"'), inner @ .., end] if quote == end => inner,
        _ => return Err("a string without quotes".to_owned()),
    };
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let [first, after @ ..] = rest {
        let (byte, used) = match (first, after) {
            (b'\\', [b'x', high, low, ..]) => {
                let digit = |digit: u8| char::from(digit).to_digit(16);
                let digits = digit(*high).zip(digit(*low)).ok_or("a bad escape in a string")?;
                ((16 * digits.0 + digits.1) as u8, 4)
            }
            (b'\\', [b'n', ..]) => (b'\n', 2),
            (b'\\', [b'r', ..]) => (b'\r', 2),
            (b'\\', [b't', ..]) => (b'\t', 2),
            (b'\\', [same @ (b'\\' | b'\'' | b'"'), ..]) => (*same, 2),
            (b'\\', _) => return Err("a bad escape in a string".to_owned()),
            _ => (*first, 1),
        };
        bytes.push(byte);
        rest = &rest[used..];
    }
    Ok(bytes)
}

/// A text in Python's raw-unicode-escape: Latin-1 with `\uXXXX` and `\UXXXXXXXX`.
fn unescaped(line: &[u8]) -> Outcome<String> {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let [first, after @ ..] = rest {
        let digits = match (first, after) {
            (b'\\', [b'u', ..]) => 4,
            (b'\\', [b'U', ..]) => 8,
            _ => {
                text.push(char::from(*first));
                rest = after;
                continue;
            }
        };
        let code = after.get(1..=digits).and_then(|code| std::str::from_utf8(code).ok());
        let code = code.and_then(|code| u32::from_str_radix(code, 16).ok());
        text.push(code.and_then(char::from_u32).ok_or("a bad escape in a text")?);
        rest = &after[1 + digits..];
    }
    Ok(text)
}
