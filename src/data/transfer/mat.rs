//! MATLAB 5 files (`.mat`), as far as the lists of data sets use them: numbers, text, cells and records.
//!
//! "MAT-File Format", `MathWorks`, level 5: a header of 128 bytes, then one element a variable, each with a tag of type and
//! length, most of them packed with zlib. Sizes are bounded before anything of that size is allocated.

use crate::data::read_file;
use crate::error::{Error, Result};
use flate2::read::ZlibDecoder;
use std::io::Read;
use std::path::Path;

/// Largest file read, in bytes; the lists of Stanford Cars and Dogs take less than one MiB.
const MAX_FILE: u64 = 16 << 20;

/// Most bytes that all variables of a file may unpack to.
const MAX_UNPACKED: u64 = 32 << 20;

/// Deepest nesting of cells and records.
const MAX_DEPTH: usize = 8;

/// The value of a variable.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Numbers of any type and shape, columns one behind the other.
    Numbers(Vec<f64>),
    /// One row of text.
    Text(String),
    /// Any number of values, columns one behind the other.
    Cells(Vec<Value>),
    /// An array of records: field names, and the values of the first record, the second, ...
    Records(Vec<String>, Vec<Value>),
    /// Something that no list of ours holds: sparse matrices, objects, text of several rows.
    Other,
}

impl Value {
    /// The values of a field of an array of records.
    pub(super) fn field(&self, name: &str) -> Option<Vec<&Value>> {
        let Self::Records(fields, values) = self else { return None };
        let place = fields.iter().position(|field| field == name)?;
        Some(values.iter().skip(place).step_by(fields.len()).collect())
    }

    /// The only number.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Numbers(numbers) if numbers.len() == 1 => Some(numbers[0]),
            _ => None,
        }
    }

    /// The text.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            // An empty text is often stored as an empty matrix.
            Self::Numbers(numbers) if numbers.is_empty() => Some(""),
            _ => None,
        }
    }
}

/// The variables of a file, by name, in its order.
pub struct Variables {
    file: String,
    all: Vec<(String, Value)>,
}

impl Variables {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Data`] when it cannot be read, is too large, damaged, or of MATLAB's newer format.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let size = path.metadata().map_or(0, |metadata| metadata.len());
        if size > MAX_FILE {
            return Err(Error::Data(format!(
                "`{file}` is {size} bytes, more than the {MAX_FILE} accepted for a list in MATLAB's format"
            )));
        }
        Self::parse(&read_file(path)?, &file)
    }

    /// Reads the bytes of a file; the name is for messages.
    ///
    /// # Errors
    /// [`Error::Data`] when they are damaged, unpack to too much, or are of MATLAB's newer format.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self> {
        let all = parse(bytes).map_err(|why| {
            Error::Data(format!(
                "cannot read `{file}` as a MATLAB 5 file: {why}; plain lists `train.txt` and `test.txt` with lines \
                 `path label` in the folder of the data set do as well"
            ))
        })?;
        Ok(Self { file: file.to_owned(), all })
    }

    /// The variable of a name.
    ///
    /// # Errors
    /// [`Error::Data`] listing what the file holds.
    pub(super) fn get(&self, name: &str) -> Result<&Value> {
        let found = self.all.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        found.ok_or_else(|| {
            let names: Vec<&str> = self.all.iter().map(|(name, _)| name.as_str()).collect();
            self.error(&format!("has no variable `{name}`, only `{}`", names.join("`, `")))
        })
    }

    /// An array of numbers.
    ///
    /// # Errors
    /// [`Error::Data`] when it is missing or something else.
    pub(super) fn numbers(&self, name: &str) -> Result<&[f64]> {
        match self.get(name)? {
            Value::Numbers(numbers) => Ok(numbers),
            _ => Err(self.error(&format!("holds no numbers in `{name}`"))),
        }
    }

    /// A cell array of texts.
    ///
    /// # Errors
    /// [`Error::Data`] when it is missing or something else.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<&str>> {
        let texts = match self.get(name)? {
            Value::Cells(cells) => cells.iter().map(Value::text).collect(),
            _ => None,
        };
        texts.ok_or_else(|| self.error(&format!("holds no texts in `{name}`")))
    }

    /// An error about this file.
    pub(super) fn error(&self, what: &str) -> Error {
        Error::Data(format!("`{}` {what}", self.file))
    }
}

/// The variables of a file, or what is wrong with it.
fn parse(bytes: &[u8]) -> Result<Vec<(String, Value)>, String> {
    if bytes.starts_with(b"MATLAB 7.3") || bytes.starts_with(b"\x89HDF") {
        return Err("it is of version 7.3 (HDF5); save it with `-v7`".to_owned());
    }
    let big = match bytes.get(126..128) {
        Some(b"IM") => false,
        Some(b"MI") => true,
        _ => return Err("it lacks the mark of that format".to_owned()),
    };
    let mut outer = Reader { bytes: &bytes[128..], big };
    let mut left = MAX_UNPACKED;
    let mut variables = Vec::new();
    while !outer.bytes.is_empty() {
        let (kind, data) = outer.element()?;
        match kind {
            COMPRESSED => {
                let mut unpacked = Vec::new();
                let read = ZlibDecoder::new(data).take(left + 1).read_to_end(&mut unpacked);
                read.map_err(|e| format!("a packed variable is damaged ({e})"))?;
                left = left
                    .checked_sub(unpacked.len() as u64)
                    .ok_or_else(|| format!("it unpacks to more than {MAX_UNPACKED} bytes"))?;
                let mut inner = Reader { bytes: &unpacked, big };
                if let (MATRIX, data) = inner.element()? {
                    variables.push(matrix(data, big, 0)?);
                }
            }
            MATRIX => variables.push(matrix(data, big, 0)?),
            _ => {}
        }
    }
    Ok(variables)
}

const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;

/// What is left of a run of elements.
struct Reader<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let cut = self.bytes.split_at_checked(length);
        let (taken, rest) = cut.ok_or_else(|| "it is cut off".to_owned())?;
        self.bytes = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(integer(self.take(4)?, self.big) as u32)
    }

    /// Type and data of the next element.
    fn element(&mut self) -> Result<(u32, &'a [u8]), String> {
        let first = self.u32()?;
        // A short one keeps its length in the upper half, and four bytes hold its data.
        if first >> 16 != 0 {
            let length = (first >> 16) as usize;
            let data = self.take(4)?;
            let data = data.get(..length).ok_or("a short element is longer than four bytes")?;
            return Ok((first & 0xFFFF, data));
        }
        let length = self.u32()? as usize;
        let data = self.take(length)?;
        if first != COMPRESSED {
            // The padding of the last one may be missing.
            let padding = (length.next_multiple_of(8) - length).min(self.bytes.len());
            self.take(padding)?;
        }
        Ok((first, data))
    }
}

/// An unsigned integer of 1 to 8 bytes.
fn integer(bytes: &[u8], big: bool) -> u64 {
    let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    if big { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) }
}

/// Name and value of a matrix element.
fn matrix(data: &[u8], big: bool, depth: usize) -> Result<(String, Value), String> {
    if data.is_empty() {
        return Ok((String::new(), Value::Numbers(Vec::new())));
    }
    if depth > MAX_DEPTH {
        return Err(format!("it nests deeper than {MAX_DEPTH}"));
    }
    let mut inside = Reader { bytes: data, big };
    let (_, flags) = inside.element()?;
    let class = integer(flags.get(..4).ok_or("an array lacks its class")?, big) & 0xFF;
    let (_, sizes) = inside.element()?;
    let sizes: Vec<u64> = sizes.chunks_exact(4).map(|size| integer(size, big)).collect();
    let count = sizes.iter().try_fold(1_u64, |product, size| product.checked_mul(*size));
    let count = count.ok_or("an array has more elements than can be counted")? as usize;
    let (_, name) = inside.element()?;
    let name = String::from_utf8_lossy(name).into_owned();
    let value = match class {
        1 => Value::Cells(values(&mut inside, count, depth)?),
        2 => {
            let (_, width) = inside.element()?;
            let width = integer(width.get(..4).ok_or("a record lacks its names")?, big) as usize;
            let (_, names) = inside.element()?;
            let text = |name: &[u8]| {
                let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
                String::from_utf8_lossy(&name[..end]).into_owned()
            };
            let fields: Vec<String> = names.chunks_exact(width.max(1)).map(text).collect();
            let all = count.checked_mul(fields.len()).ok_or("too many records to be counted")?;
            let values = values(&mut inside, all, depth)?;
            if fields.is_empty() { Value::Other } else { Value::Records(fields, values) }
        }
        4 if sizes.first().is_none_or(|rows| *rows <= 1) || count == 0 => {
            let (kind, data) = if count == 0 { (1, &[][..]) } else { inside.element()? };
            Value::Text(text(kind, data, big))
        }
        6..=15 => {
            let (kind, data) = if count == 0 { (9, &[][..]) } else { inside.element()? };
            let numbers = numbers(kind, data, big)?;
            if numbers.len() != count {
                return Err(format!("`{name}` should have {count} numbers, has {}", numbers.len()));
            }
            Value::Numbers(numbers)
        }
        _ => Value::Other,
    };
    Ok((name, value))
}

/// That many matrices without names.
fn values(from: &mut Reader<'_>, count: usize, depth: usize) -> Result<Vec<Value>, String> {
    // Each takes at least its tag.
    if count > from.bytes.len() / 8 {
        return Err(format!("{count} elements do not fit in {} bytes", from.bytes.len()));
    }
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let (kind, data) = from.element()?;
        if kind != MATRIX {
            return Err(format!("an element of type {kind} stands where an array should"));
        }
        values.push(matrix(data, from.big, depth + 1)?.1);
    }
    Ok(values)
}

/// Text of 8 or 16 bits a character.
fn text(kind: u32, data: &[u8], big: bool) -> String {
    match kind {
        4 | 17 => {
            let units: Vec<u16> =
                data.chunks_exact(2).map(|unit| integer(unit, big) as u16).collect();
            String::from_utf16_lossy(&units)
        }
        _ => String::from_utf8_lossy(data).into_owned(),
    }
}

/// Numbers of a type as `f64`.
fn numbers(kind: u32, data: &[u8], big: bool) -> Result<Vec<f64>, String> {
    let width = match kind {
        1 | 2 => 1,
        3 | 4 => 2,
        5..=7 => 4,
        9 | 12 | 13 => 8,
        _ => return Err(format!("numbers of the unknown type {kind}")),
    };
    let number = |bytes: &[u8]| {
        let value = integer(bytes, big);
        match kind {
            1 => f64::from(value as i8),
            3 => f64::from(value as i16),
            5 => f64::from(value as i32),
            7 => f64::from(f32::from_bits(value as u32)),
            9 => f64::from_bits(value),
            12 => value as i64 as f64,
            _ => value as f64,
        }
    };
    Ok(data.chunks_exact(width).map(number).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::mutation::Mutator;
    use crate::data::testing::golden;

    fn stored(name: &str) -> Variables {
        Variables::read(&golden("data/transfer").join(name)).unwrap()
    }

    /// What scipy read back from the same files.
    fn truth() -> serde_json::Value {
        let text = std::fs::read_to_string(golden("data/transfer/truth.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn records_cells_text_and_numbers_are_what_scipy_reads() {
        let truth = truth();
        for name in ["cars_train_annos.mat", "cars_test_annos_withlabels.mat"] {
            let file = stored(name);
            let cars = file.get("annotations").unwrap();
            let found: Vec<serde_json::Value> = cars
                .field("fname")
                .unwrap()
                .into_iter()
                .zip(cars.field("class").unwrap())
                .map(|(path, class)| serde_json::json!([path.text().unwrap(), class.number()]))
                .collect();
            assert_eq!(serde_json::Value::from(found), truth[name], "{name}");
        }
        assert_eq!(
            serde_json::json!(stored("cars_meta.mat").texts("class_names").unwrap()),
            truth["cars_meta.mat"]
        );
        let dogs = stored("train_list.mat");
        let found =
            serde_json::json!([dogs.texts("file_list").unwrap(), dogs.numbers("labels").unwrap()]);
        assert_eq!(found, truth["train_list.mat"]);
        for name in ["trnid", "valid", "tstid"] {
            let found = serde_json::json!(stored("setid.mat").numbers(name).unwrap());
            assert_eq!(found, truth["setid.mat"][name], "{name}");
        }
        let all = stored("kinds.mat");
        let names: Vec<&str> = all.all.iter().map(|(name, _)| name.as_str()).collect();
        for name in names {
            if name == "sparse" {
                assert_eq!(*all.get(name).unwrap(), Value::Other);
            } else if name == "text" {
                assert_eq!(serde_json::json!(all.get(name).unwrap().text()), truth[name]);
            } else {
                let found = serde_json::json!(all.numbers(name).unwrap());
                assert_eq!(found, truth["kinds.mat"][name], "{name}");
            }
        }
    }

    #[test]
    fn a_file_of_the_other_byte_order_is_read() {
        let mut bytes = vec![b' '; 124];
        bytes.extend(b"\x01\x00MI");
        let element = |kind: u32, data: &[u8]| {
            let mut all = [kind.to_be_bytes(), (data.len() as u32).to_be_bytes()].concat();
            all.extend(data);
            all.resize(all.len().next_multiple_of(8), 0);
            all
        };
        let parts = [
            element(6, &[0, 0, 0, 6, 0, 0, 0, 0]),
            element(5, &[0, 0, 0, 1, 0, 0, 0, 2]),
            // A short element: length in the upper half.
            vec![0, 2, 0, 1, b'i', b'd', 0, 0],
            element(4, &[1, 0, 0, 7]),
        ];
        bytes.extend(element(14, &parts.concat()));
        let expected = vec![("id".to_owned(), Value::Numbers(vec![256.0, 7.0]))];
        assert_eq!(parse(&bytes).unwrap(), expected);
    }

    #[test]
    fn what_is_missing_or_of_another_kind_is_named() {
        let file = stored("setid.mat");
        let text = file.numbers("testid").unwrap_err().to_string();
        assert!(text.contains("no variable `testid`, only `trnid`"), "{text}");
        let text = file.texts("trnid").unwrap_err().to_string();
        assert!(text.contains("setid.mat") && text.contains("no texts in `trnid`"), "{text}");
        let text = stored("train_list.mat").numbers("file_list").unwrap_err().to_string();
        assert!(text.contains("no numbers in `file_list`"), "{text}");
        let newer = parse(b"MATLAB 7.3 MAT-file, ...").unwrap_err();
        assert!(newer.contains("HDF5") && newer.contains("-v7"), "{newer}");
    }

    /// A file with one packed element.
    fn packed(data: &[u8]) -> Vec<u8> {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut zlib, data).unwrap();
        let packed = zlib.finish().unwrap();
        let mut bytes = vec![b' '; 124];
        bytes.extend(b"\x00\x01IM");
        bytes.extend(COMPRESSED.to_le_bytes());
        bytes.extend((packed.len() as u32).to_le_bytes());
        bytes.extend(packed);
        bytes
    }

    #[test]
    fn sizes_beyond_all_measure_are_refused_before_they_are_allocated() {
        // 40 MiB of zeros in some 40 kB.
        let text = parse(&packed(&vec![0; 40 << 20])).unwrap_err();
        assert!(text.contains("unpacks to more than"), "{text}");
        // A cell of four billion elements, without any.
        let mut cell = Vec::new();
        for word in [14, 40, 6, 8, 1, 0, 5, 8, 0xFFFF, 0xFFFF, 1, 0] {
            cell.extend(u32::to_le_bytes(word));
        }
        let text = parse(&packed(&cell)).unwrap_err();
        assert!(text.contains("do not fit in 0 bytes"), "{text}");
        // Cells in cells in cells.
        let mut nested = Vec::new();
        for _ in 0..20 {
            let mut outer = Vec::new();
            for word in [6_u32, 8, 1, 0, 5, 8, 1, 1, 1, 0] {
                outer.extend(word.to_le_bytes());
            }
            outer.extend(14_u32.to_le_bytes());
            outer.extend((nested.len() as u32).to_le_bytes());
            outer.append(&mut nested);
            nested = outer;
        }
        let mut bytes = vec![b' '; 124];
        bytes.extend(b"\x00\x01IM");
        bytes.extend(14_u32.to_le_bytes());
        bytes.extend((nested.len() as u32).to_le_bytes());
        bytes.extend(nested);
        let text = parse(&bytes).unwrap_err();
        assert!(text.contains("nests deeper"), "{text}");
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large.mat");
        std::fs::File::create(&large).unwrap().set_len(MAX_FILE + 1).unwrap();
        let text = Variables::read(&large).map(|_| ()).unwrap_err().to_string();
        assert!(text.contains("large.mat") && text.contains("more than"), "{text}");
    }

    #[test]
    fn mutants_are_read_or_refused() {
        for name in ["cars_train_annos.mat", "setid.mat", "train_list.mat", "kinds.mat"] {
            let whole = std::fs::read(golden("data/transfer").join(name)).unwrap();
            let mut mutator = Mutator::new(&whole, 8);
            let read = (0..3_000).filter(|_| parse(&mutator.next_mutant()).is_ok()).count();
            assert!(read < 2_900, "{name}: {read} read");
        }
        // Below the packing, where mutants get further.
        let whole = std::fs::read(golden("data/transfer/records.mat")).unwrap();
        let mut mutator = Mutator::new(&whole, 9);
        let read = (0..20_000).filter(|_| parse(&mutator.next_mutant()).is_ok()).count();
        assert!((1_000..19_000).contains(&read), "{read}");
    }
}
