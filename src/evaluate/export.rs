//! Stored features in formats that other programs read.

use super::Features;
use crate::error::{Error, Result};
use crate::files::replace;
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use tch::Kind;

/// The endings [`write()`] knows, besides `safetensors`, which [`Features::save`] writes.
pub const ENDINGS: [&str; 3] = ["npy", "csv", "parquet"];

/// Writes features by the ending of the path:
///
/// | ending | content |
/// |---|---|
/// | `npy` | h, f32 `[N, D]`; labels and paths beside it in `NAME.labels.npy` (i64, −1 is none) and `NAME.paths.txt` |
/// | `csv` | a line per image: path, label, index, h0, h1, ...; large, since every number is text |
/// | `parquet` | columns path, label, index, and h as a list of f32 |
///
/// # Errors
/// [`Error::Recipe`] for another ending; [`Error::Io`].
pub fn write(features: &Features, path: &Path) -> Result<()> {
    features.check()?;
    let ending = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
    match ending {
        "npy" => npy(features, path),
        "csv" => replace(path, |file| csv(features, file).map_err(Error::io("write", path))),
        "parquet" => replace(path, |file| {
            parquet(features, file).map_err(|e| Error::io("write", path)(std::io::Error::other(e)))
        }),
        other => Err(Error::Recipe(format!(
            "features are written as .safetensors, .{}, found `.{other}`",
            ENDINGS.join(", .")
        ))),
    }
}

fn values(features: &Features) -> (Vec<f32>, usize) {
    let h = features.h.to_kind(Kind::Float).contiguous();
    let mut values = vec![0.0; h.numel()];
    h.copy_data(&mut values, h.numel());
    (values, h.size()[1] as usize)
}

fn npy(features: &Features, path: &Path) -> Result<()> {
    let (h, dimensions) = values(features);
    let shape = [features.len() as u64, dimensions as u64];
    replace(path, |file| array(file, &shape, &h).map_err(Error::io("write", path)))?;
    let labels_path = path.with_extension("labels.npy");
    let labels = features.labels();
    let count = [labels.len() as u64];
    replace(&labels_path, |file| {
        array(file, &count, &labels).map_err(Error::io("write", &labels_path))
    })?;
    let paths_path = path.with_extension("paths.txt");
    crate::files::replace_text(&paths_path, &(features.paths.join("\n") + "\n"))
}

/// An array in C order as npy.
pub(crate) fn array<T: npyz::AutoSerialize + Copy>(
    path: &Path,
    shape: &[u64],
    values: &[T],
) -> std::io::Result<()> {
    use npyz::WriterBuilder;
    let file = BufWriter::new(File::create(path)?);
    let options = npyz::WriteOptions::new().default_dtype().shape(shape);
    let mut writer = options.writer(file).begin_nd()?;
    writer.extend(values.iter().copied())?;
    writer.finish()
}

fn csv(features: &Features, path: &Path) -> std::io::Result<()> {
    let (h, dimensions) = values(features);
    let mut file = BufWriter::new(File::create(path)?);
    let names: Vec<String> = (0..dimensions).map(|d| format!("h{d}")).collect();
    writeln!(file, "path,label,index,{}", names.join(","))?;
    let (labels, indices) = (features.labels(), features.indices());
    for (row, h) in h.chunks_exact(dimensions).enumerate() {
        // RFC 4180: a field in quotes, quotes in it doubled.
        let name = features.paths[row].replace('"', "\"\"");
        write!(file, "\"{name}\",{},{}", labels[row], indices[row])?;
        for value in h {
            write!(file, ",{value}")?;
        }
        writeln!(file)?;
    }
    file.flush()
}

fn parquet(features: &Features, path: &Path) -> Result<(), ParquetError> {
    let schema = "message features { required binary path (STRING); required int64 label; required int64 index; \
                  required group h (LIST) { repeated group list { required float element; } } }";
    let schema = Arc::new(parse_message_type(schema)?);
    let file = File::create(path)?;
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(file, schema, properties)?;
    let (h, dimensions) = values(features);
    let (labels, indices) = (features.labels(), features.indices());
    let paths: Vec<ByteArray> = features.paths.iter().map(|p| p.as_str().into()).collect();
    let mut group = writer.next_row_group()?;
    let mut column = group.next_column()?.ok_or_else(missing)?;
    column.typed::<ByteArrayType>().write_batch(&paths, None, None)?;
    column.close()?;
    for numbers in [labels, indices] {
        let mut column = group.next_column()?.ok_or_else(missing)?;
        column.typed::<Int64Type>().write_batch(&numbers, None, None)?;
        column.close()?;
    }
    // A list in levels: every element is there (1); the first of a row begins a list (0), the others go on with it (1).
    let defined = vec![1; h.len()];
    let repeated: Vec<i16> = (0..h.len()).map(|n| i16::from(n % dimensions != 0)).collect();
    let mut column = group.next_column()?.ok_or_else(missing)?;
    column.typed::<FloatType>().write_batch(&h, Some(&defined), Some(&repeated))?;
    column.close()?;
    group.close()?;
    writer.close()?;
    Ok(())
}

fn missing() -> ParquetError {
    ParquetError::General("the schema has a column for each".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use tch::Tensor;

    fn features() -> Features {
        Features {
            h: Tensor::from_slice(&[0.5f32, -1.0, 2.0, 0.25, 1e-7, 3.0]).view([2, 3]),
            labels: Tensor::from_slice(&[4i64, -1]),
            index: Tensor::from_slice(&[0i64, 7]),
            paths: vec!["a \"b\", c.png".to_owned(), "d.png".to_owned()],
            damaged: Vec::new(),
        }
    }

    #[test]
    fn npy_holds_the_numbers_and_its_companions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.npy");
        write(&features(), &path).unwrap();
        let read = npyz::NpyFile::new(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(read.shape(), [2, 3]);
        assert_eq!(read.into_vec::<f32>().unwrap(), [0.5, -1.0, 2.0, 0.25, 1e-7, 3.0]);
        let labels = std::fs::File::open(folder.path().join("f.labels.npy")).unwrap();
        assert_eq!(npyz::NpyFile::new(labels).unwrap().into_vec::<i64>().unwrap(), [4, -1]);
        let paths = std::fs::read_to_string(folder.path().join("f.paths.txt")).unwrap();
        assert_eq!(paths, "a \"b\", c.png\nd.png\n");
    }

    #[test]
    fn csv_quotes_paths_and_keeps_every_digit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.csv");
        write(&features(), &path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "path,label,index,h0,h1,h2");
        assert_eq!(lines[1], "\"a \"\"b\"\", c.png\",4,0,0.5,-1,2");
        assert_eq!(
            lines[2].split(',').nth(4).unwrap().parse::<f32>().unwrap().to_bits(),
            1e-7f32.to_bits()
        );
    }

    #[test]
    fn parquet_reads_back_row_by_row() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.parquet");
        write(&features(), &path).unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        let rows: Vec<String> =
            reader.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect();
        assert_eq!(rows.len(), 2);
        assert!(rows[0].contains("label: 4") && rows[0].contains("[0.5, -1E0, 2.0]"), "{rows:?}");
        assert!(rows[1].contains("index: 7") && rows[1].contains("label: -1"), "{rows:?}");
    }

    #[test]
    fn another_ending_is_refused() {
        let message = write(&features(), Path::new("f.xlsx")).unwrap_err().to_string();
        assert!(message.contains(".safetensors, .npy, .csv, .parquet"), "{message}");
    }
}
