//! Python pickles that hold arrays and lists, read without ever running anything.
//!
//! A pickle is a program for a small stack machine. This machine knows the opcodes of protocols 0 to 5 that plain data
//! needs and four functions, which it evaluates itself: numpy's `_reconstruct` and `_frombuffer` (also under their numpy 2
//! names), `numpy.dtype`, and `_codecs.encode`, by which Python 3 writes byte strings under protocols 0 to 2. Every other
//! global and opcode is refused by name. Memory is bounded by the size of the input: at most [`MAX_VALUES`] values, and
//! what must be copied takes at most eight times the input.

mod call;
mod graph;
mod input;
mod machine;
mod skim;
mod take;

use crate::error::{Error, Result};
pub(crate) use graph::{FarArray, Graph, Id, Node, Object};
pub(crate) use skim::{Skimmed, skim};
use std::borrow::Cow;

/// Most values (numbers, strings, containers) a pickle may hold.
pub const MAX_VALUES: usize = 1_000_000;

/// Deepest nesting of containers.
pub const MAX_DEPTH: usize = 32;

/// What a pickle holds; long byte strings are borrowed from the input.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of up to 64 bits.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A byte string; Python 2's `str` too.
    Bytes(Cow<'a, [u8]>),
    /// A text.
    Text(Cow<'a, str>),
    /// A list.
    List(Vec<Value<'a>>),
    /// A tuple.
    Tuple(Vec<Value<'a>>),
    /// A dictionary, in order of insertion.
    Dict(Vec<(Value<'a>, Value<'a>)>),
    /// A numpy array.
    Array(Array<'a>),
}

/// A numpy array of numbers, rows first.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<'a> {
    /// Its dimensions; their product times `item_bytes` is the length of `data`.
    pub shape: Vec<usize>,
    /// `u`, `i`, `f` or `b`, as numpy names kinds of numbers.
    pub kind: char,
    /// Bytes of a number: 1, 2, 4 or 8.
    pub item_bytes: usize,
    /// Whether the first byte of a number is its highest.
    pub big_endian: bool,
    /// The numbers.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Value<'a> {
    /// The value of a dictionary under a key, which may be a text or a byte string.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        let Self::Dict(pairs) = self else { return None };
        pairs.iter().find(|(name, _)| name.text().as_deref() == Some(key)).map(|(_, value)| value)
    }

    /// A text, or a byte string that is one.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
            _ => None,
        }
    }

    /// The items of a list or tuple.
    pub fn items(&self) -> Option<&[Value<'a>]> {
        match self {
            Self::List(items) | Self::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// A list, tuple or array of integers.
    pub fn integers(&self) -> Option<Vec<i64>> {
        if let Self::Array(array) = self {
            return array.integers();
        }
        let integer = |item: &Value| if let Value::Int(value) = item { Some(*value) } else { None };
        self.items()?.iter().map(integer).collect()
    }
}

impl Array<'_> {
    fn integers(&self) -> Option<Vec<i64>> {
        let number = |item: &[u8]| {
            let fold = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
            let bits = if self.big_endian {
                item.iter().fold(0, fold)
            } else {
                item.iter().rev().fold(0, fold)
            };
            let unused = 64 - 8 * self.item_bytes as u32;
            match self.kind {
                'i' => Some((bits << unused) as i64 >> unused),
                'u' => i64::try_from(bits).ok(),
                _ => None,
            }
        };
        self.data.chunks_exact(self.item_bytes).map(number).collect()
    }
}

/// Reads a pickle; `name` is for messages.
///
/// # Errors
/// [`Error::Data`] naming the byte at which it is damaged, cut off, larger than allowed, or asks for an opcode or a
/// global that is not among those of plain arrays and lists.
pub fn parse<'a>(bytes: &'a [u8], name: &str) -> Result<Value<'a>> {
    machine::run(bytes, &[], Globals::Refused)
        .and_then(|(graph, copies)| take::value(&graph, copies))
        .map_err(|why| Error::Data(format!("cannot read pickle `{name}`: {why}")))
}

/// What becomes of a type or function that means nothing here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Globals {
    /// The pickle is refused.
    Refused,
    /// It stays what it is, a name; what it would have made stays its name and its arguments. Nothing is ever called.
    Kept,
}

impl Globals {
    /// Most values of an arena.
    fn most_values(self) -> usize {
        match self {
            Self::Refused => MAX_VALUES,
            Self::Kept => 4 * MAX_VALUES,
        }
    }
}

/// Runs the pickle that `bytes` begin with, up to protocol 5, and keeps as names what means nothing here: files of other
/// programs hold objects of theirs beside what is wanted. At most four million values; text of protocol 0 is refused.
///
/// # Errors
/// Why it cannot be read, with the byte.
pub(crate) fn graph(bytes: &[u8]) -> std::result::Result<Graph<'_>, String> {
    machine::run(bytes, &[], Globals::Kept).map(|(graph, _)| graph)
}

/// The same of a pickle whose long byte strings were left in the file.
///
/// # Errors
/// As [`graph`].
pub(crate) fn graph_of(skimmed: &Skimmed) -> std::result::Result<Graph<'_>, String> {
    machine::run(&skimmed.bytes, &skimmed.far, Globals::Kept).map(|(graph, _)| graph)
}

/// Whether a file that begins so may be a pickle of a container: protocol 2 and above, or 0 and 1.
pub(super) fn announces(start: &[u8]) -> bool {
    matches!(start, [0x80, 2..=5, ..] | [b'(', b'd' | b'l' | b't', ..] | [b'}' | b']', b'q', ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Value<'_> {
        parse(bytes, "x").unwrap()
    }

    fn refusal(bytes: &[u8]) -> String {
        parse(bytes, "x").unwrap_err().to_string()
    }

    fn golden(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/tests/golden/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    /// Opcode by opcode what Python 2 and its numpy wrote into `data_batch_1`, with two rows of three bytes.
    fn python_2() -> Vec<u8> {
        let mut bytes = b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(".to_vec();
        bytes.extend(b"K\x06K\x09eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08");
        bytes.extend(b"K\x00\x85U\x01b\x87Rq\x09(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b");
        bytes.extend(b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89");
        bytes.extend(b"T\x06\x00\x00\x00\x01\x02\x03\xf0\x00\x2etb");
        bytes.extend(b"U\x09filenamesq\x0c]q\x0d(U\x05a.pngq\x0eh\x0eeu.");
        bytes
    }

    #[test]
    fn reads_what_python_2_wrote() {
        let bytes = python_2();
        let value = read(&bytes);
        assert_eq!(value.get("batch_label").unwrap().text().unwrap(), "training batch 1 of 5");
        assert_eq!(value.get("labels").unwrap().integers().unwrap(), [6, 9]);
        let Some(Value::Array(data)) = value.get("data") else { panic!("{value:?}") };
        assert_eq!((data.shape.as_slice(), data.kind, data.item_bytes), (&[2, 3][..], 'u', 1));
        assert!(matches!(data.data, Cow::Borrowed([1, 2, 3, 0xf0, 0, 0x2e])));
        let names = value.get("filenames").unwrap().items().unwrap();
        assert_eq!(names[0], names[1], "a name said again through the memo");
        assert_eq!(value.get("nothing"), None);
    }

    /// tests/golden/data.py dumps one object under every protocol that numpy writes `_reconstruct` for.
    #[test]
    fn reads_every_protocol_of_python_3_alike() {
        let expected: Vec<u8> = (0..12).map(|i| (i * 23 % 256) as u8).collect();
        for protocol in 0..=4 {
            let bytes = golden(&format!("object.{protocol}.pickle"));
            let value = read(&bytes);
            let Some(Value::Array(data)) = value.get("data") else {
                panic!("{protocol}: {value:?}")
            };
            assert_eq!((data.shape.as_slice(), &*data.data), (&[4, 3][..], &expected[..]));
            assert_eq!(value.get("labels").unwrap().integers().unwrap(), [3, 0, 300, -70_000]);
            let big = value.get("big").unwrap().integers().unwrap();
            assert_eq!(big, [-1, 1 << 40], "{protocol}");
            assert_eq!(value.get("none"), Some(&Value::None));
            assert_eq!(value.get("flags").unwrap().items().unwrap()[1], Value::Bool(false));
            assert_eq!(value.get("half"), Some(&Value::Float(-0.5)));
            assert_eq!(value.get("text").unwrap().text().unwrap(), "Größe \\ 木\n'");
            let Some(Value::Bytes(raw)) = value.get("raw") else { panic!("{value:?}") };
            assert_eq!(**raw, *b"\x00\xff\n\\'");
        }
    }

    #[test]
    fn no_other_global_is_called_and_it_is_named() {
        let text = refusal(b"cos\nsystem\n(S'echo hello'\ntR.");
        assert!(text.contains("`os system`") && text.contains("refused"), "{text}");
        let text = refusal(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.");
        assert!(text.contains("`builtins eval`"), "{text}");
        assert!(refusal(b"cnumpy\nndarray\n(K\x01tR.").contains("`numpy ndarray`"));
        for (bytes, opcode) in [(&b"(K\x01ios\nsystem\n."[..], "0x69"), (b"P7\n.", "0x50")] {
            let text = refusal(bytes);
            assert!(text.contains("opcode") && text.contains(opcode), "{text}");
        }
    }

    #[test]
    fn lengths_depth_and_sharing_are_bounded() {
        assert!(refusal(b"\x80\x02T\xff\xff\xff\x7fabc.").contains("cut off"));
        assert!(refusal(b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc.").contains("cut off"));
        let deep = [&[b'('; 40][..], &[b't'; 40], b"."].concat();
        assert!(refusal(&deep).contains("nested"), "{}", refusal(&deep));
        // A list that holds itself.
        assert!(refusal(b"]q\x00h\x00a.").contains("nested"));
        // Nine levels of ten references each: a thousand million leaves in two hundred bytes.
        let mut laughs = b"K\x01q\x00".to_vec();
        for _ in 0..9 {
            laughs.extend([b'(']);
            laughs.extend(b"h\x00".repeat(10));
            laughs.extend(b"tq\x00");
        }
        laughs.push(b'.');
        assert!(refusal(&laughs).contains("values"), "{}", refusal(&laughs));
        // Marks without end, and one value over and over.
        for (first, again) in [(&b"("[..], &b"("[..]), (b"N", b"2"), (b"Nq\x00", b"h\x00")] {
            let endless = [first, &again.repeat(MAX_VALUES)].concat();
            assert!(refusal(&endless).contains("values"), "{}", refusal(&endless));
        }
        let long = [b"c", &[b'm'; 600][..], b"\n", &[b'n'; 600], b"\n."].concat();
        assert!(graph(&long).err().unwrap().contains("1200 bytes"));
        // A thousand byte strings made of one long text.
        let mut copies = b"\x80\x02X\x00\x10\x00\x00".to_vec();
        copies.extend([b'a'; 4096]);
        copies.extend(b"q\x00c_codecs\nencode\nq\x01X\x06\x00\x00\x00latin1q\x02]");
        copies.extend(b"h\x01h\x00h\x02\x86Ra".repeat(1000));
        copies.push(b'.');
        assert!(refusal(&copies).contains("times the size"), "{}", refusal(&copies));
    }

    #[test]
    fn arrays_must_be_as_long_as_their_shape() {
        let bytes = python_2();
        let at = bytes.windows(2).position(|pair| pair == *b"K\x02").unwrap();
        let mut short = bytes.clone();
        short[at + 1] = 3;
        let text = refusal(&short);
        assert!(text.contains("[3, 3]") && text.contains("6 bytes"), "{text}");
        for length in 0..bytes.len() {
            assert!(parse(&bytes[..length], "x").is_err(), "cut to {length}");
        }
    }
}
