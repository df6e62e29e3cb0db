use super::*;
use crate::data::{labels, mutation::Mutator, open as open_source};
use parquet::basic::{Compression, Encoding};
use parquet::data_type::ByteArray;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

const SCHEMA: &str = "message schema {
    optional group image { optional binary bytes; optional binary path (UTF8); }
    optional int64 label;
}";

/// A 3×2 image whose pixels tell its number.
fn ppm(number: u8) -> Vec<u8> {
    [b"P6 3 2 255 ".as_slice(), &[number; 18]].concat()
}

struct Row {
    bytes: Option<Vec<u8>>,
    path: Option<&'static str>,
    label: Option<i64>,
}

fn row(number: u8, label: i64) -> Row {
    Row { bytes: Some(ppm(number)), path: None, label: Some(label) }
}

/// Writes groups of rows; `classes` as the `huggingface` metadata would name them.
fn write(file: &Path, groups: &[Vec<Row>], classes: &[&str]) {
    write_as(file, groups, classes, WriterProperties::builder());
}

fn write_as(
    file: &Path,
    groups: &[Vec<Row>],
    classes: &[&str],
    properties: WriterPropertiesBuilder,
) {
    let info = serde_json::json!({"info": {"features": {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": classes},
    }}});
    let named = (!classes.is_empty())
        .then(|| vec![KeyValue::new("huggingface".to_owned(), info.to_string())]);
    let properties =
        properties.set_compression(Compression::SNAPPY).set_key_value_metadata(named).build();
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let output = File::create(file).unwrap();
    let mut writer = SerializedFileWriter::new(output, schema, Arc::new(properties)).unwrap();
    for rows in groups {
        let mut group = writer.next_row_group().unwrap();
        let levels = |present: Vec<bool>, full: i16| -> Vec<i16> {
            present.into_iter().map(|p| if p { full } else { full - 1 }).collect()
        };
        let bytes: Vec<_> =
            rows.iter().filter_map(|r| r.bytes.clone()).map(ByteArray::from).collect();
        let paths: Vec<_> = rows.iter().filter_map(|r| r.path).map(ByteArray::from).collect();
        let given: Vec<_> = rows.iter().filter_map(|r| r.label).collect();
        let mut column = group.next_column().unwrap().unwrap();
        let at = levels(rows.iter().map(|r| r.bytes.is_some()).collect(), 2);
        column.typed::<ByteArrayType>().write_batch(&bytes, Some(&at), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let at = levels(rows.iter().map(|r| r.path.is_some()).collect(), 2);
        column.typed::<ByteArrayType>().write_batch(&paths, Some(&at), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let at = levels(rows.iter().map(|r| r.label.is_some()).collect(), 1);
        column.typed::<Int64Type>().write_batch(&given, Some(&at), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

fn location(folder: &tempfile::TempDir) -> &str {
    folder.path().to_str().unwrap()
}

fn failure(location: &str) -> String {
    match open_source(location).map(|_| ()).unwrap_err() {
        Error::Data(message) => message,
        other => panic!("{other:?} is no data error"),
    }
}

#[test]
fn joins_the_files_of_a_split_in_order_and_takes_names_from_the_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("plain_text");
    std::fs::create_dir(&inside).unwrap();
    let file = |name: &str| inside.join(name);
    let classes = ["cat", "dog", "owl"];
    write(&file("train-00001-of-00002.parquet"), &[vec![row(5, 0)]], &classes);
    let groups = [vec![row(1, 2), row(2, 1)], vec![row(3, 0), row(4, 1)]];
    write(&file("train-00000-of-00002.parquet"), &groups, &classes);
    write(&file("test-00000-of-00001.parquet"), &[vec![row(9, 2)]], &classes);

    let source = open_source(location(&folder)).unwrap();
    assert_eq!(source.format, "parquet (Hugging Face layout, PNM)");
    assert_eq!(source.classes, classes);
    let train = source.split("train").unwrap();
    assert_eq!(labels(train.as_ref()).unwrap(), [2, 1, 0, 1, 0]);
    for index in 0..5 {
        let image = train.image(index).unwrap();
        assert_eq!((image.width, image.height), (3, 2));
        assert_eq!(image.pixels, [index as u8 + 1; 18]);
    }
    assert_eq!(source.split("test").unwrap().image(0).unwrap().pixels, [9; 18]);

    // The same rows in one file and another place are the same data; another label is not.
    let other = tempfile::tempdir().unwrap();
    let all = [vec![row(1, 2), row(2, 1), row(3, 0), row(4, 1), row(5, 0)]];
    write(&other.path().join("train-00000-of-00001.parquet"), &all, &classes);
    let test = other.path().join("test-00000-of-00001.parquet");
    write(&test, &[vec![row(9, 2)]], &classes);
    assert_eq!(open_source(location(&other)).unwrap().fingerprint, source.fingerprint);
    write(&test, &[vec![row(9, 1)]], &classes);
    assert_ne!(open_source(location(&other)).unwrap().fingerprint, source.fingerprint);
}

#[test]
fn null_bytes_mean_a_file_beside_and_null_labels_mean_none() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("beside.ppm"), ppm(7)).unwrap();
    let file = folder.path().join("pictures.parquet");
    let rows = vec![
        Row { bytes: None, path: Some("beside.ppm"), label: Some(-1) },
        Row { bytes: Some(ppm(8)), path: Some("inside.ppm"), label: None },
        Row { bytes: None, path: None, label: Some(0) },
        Row { bytes: None, path: Some("../beside.ppm"), label: Some(1) },
    ];
    write(&file, &[rows], &[]);
    let source = open_source(file.to_str().unwrap()).unwrap();
    assert_eq!(source.splits.len(), 1);
    let all = source.split("all").unwrap();
    assert_eq!(all.image(0).unwrap().pixels, [7; 18]);
    assert_eq!(all.image(1).unwrap().pixels, [8; 18]);
    assert_eq!(all.path(1), "inside.ppm");
    assert!(all.image(2).unwrap_err().to_string().contains("row 2 of split `all`"));
    assert!(all.image(3).is_err(), "left the folder");
    let found: Vec<_> = (0..4).map(|index| all.label(index)).collect();
    assert_eq!(found, [None, None, Some(0), Some(1)]);
    assert_eq!(source.classes, ["0", "1"], "numeric names where the file gives none");
}

#[test]
fn refuses_what_does_not_fit_together() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    write(&file("train-00000-of-00003.parquet"), &[vec![row(1, 0)]], &["a"]);
    let text = failure(location(&folder));
    assert!(text.contains("1 of the 3 files of split `train`, number 00001 is missing"), "{text}");
    assert!(open_source(file("train-00000-of-00003.parquet").to_str().unwrap()).is_ok());

    let bad = file("bad.parquet");
    write(&bad, &[vec![row(1, 3)]], &["a", "b"]);
    let text = failure(bad.to_str().unwrap());
    assert!(text.contains("label `3`") && text.contains("2 classes"), "{text}");

    for name in ["one", "two"] {
        std::fs::create_dir_all(file("several").join(name)).unwrap();
        write(&file("several").join(name).join("x.parquet"), &[vec![row(1, 0)]], &[]);
    }
    let text = failure(file("several").to_str().unwrap());
    assert!(text.contains("several parquet data sets"), "{text}");
}

#[test]
fn images_that_do_not_fit_are_refused_by_what_the_footer_says_and_by_what_comes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    // One image thirty times: the dictionary stores it once, so the footer tells little.
    write(&file, &[(0..30).map(|_| row(1, 0)).collect()], &["a"]);
    let files = [("train".to_owned(), file)];
    let stored = 30 * ppm(1).len() as u64;
    let failure = |budget| read("here", &files, budget).map(|_| ()).unwrap_err().to_string();
    assert!(failure(10).contains("only 10 bytes of memory are free"), "{}", failure(10));
    let text = failure(stored - 1);
    assert!(text.contains("train.parquet") && text.contains("do not fit"), "{text}");
    assert_eq!(read("here", &files, stored).unwrap().splits[0].1.len(), 30);
}

#[test]
fn lengths_may_be_delta_encoded_and_common_beginnings_may_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    let groups = || [vec![row(1, 0), row(2, 1), row(3, 1)]];
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        let column = |part: &str| ColumnPath::new(vec!["image".to_owned(), part.to_owned()]);
        let properties = |encoding| {
            WriterProperties::builder()
                .set_writer_version(version)
                .set_dictionary_enabled(false)
                .set_column_encoding(column("bytes"), encoding)
                .set_column_encoding(column("path"), Encoding::PLAIN)
                .set_column_encoding("label".into(), Encoding::DELTA_BINARY_PACKED)
        };
        let lengths = properties(Encoding::DELTA_LENGTH_BYTE_ARRAY);
        write_as(&file, &groups(), &["a", "b"], lengths);
        let source = open_source(location(&folder)).unwrap();
        let train = source.split("train").unwrap();
        assert_eq!(train.image(2).unwrap().pixels, [3; 18]);
        assert_eq!(labels(train.as_ref()).unwrap(), [0, 1, 1]);

        let beginnings = properties(Encoding::DELTA_BYTE_ARRAY);
        write_as(&file, &groups(), &["a", "b"], beginnings);
        let text = failure(location(&folder));
        assert!(text.contains("write the file with plain or dictionary encoding"), "{text}");
    }
}

#[test]
fn many_rows_in_few_bytes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    let empty = || Row { bytes: None, path: None, label: None };
    write(&file, &[(0..100_000).map(|_| empty()).collect()], &["a"]);
    let text = failure(location(&folder));
    assert!(text.contains("damaged (100000 rows in"), "{text}");
}

#[test]
fn a_cut_file_is_a_data_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    write(&file, &[vec![row(1, 0), row(2, 1)]], &["a", "b"]);
    let whole = std::fs::read(&file).unwrap();
    for length in [0, 3, 8, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&file, &whole[..length]).unwrap();
        let text = failure(location(&folder));
        assert!(text.contains("train.parquet"), "cut to {length}: {text}");
    }
    std::fs::write(&file, "not parquet").unwrap();
    let text = failure(file.to_str().unwrap());
    assert!(text.contains("starts with the text \"not parquet\", expected `PAR1`"), "{text}");
}

/// Any panic that crossed the border would end this test.
#[test]
fn no_mutation_panics_across_the_border() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("train.parquet");
    let groups = [vec![row(1, 0), row(1, 1), row(2, 1)], vec![row(3, 0), row(4, 1)]];
    write(&file, &groups, &["a", "b"]);
    let whole = std::fs::read(&file).unwrap();
    let mut mutator = Mutator::new(&whole, 3);
    let (mut refused, mut read) = (0, 0);
    for _ in 0..1_000 {
        let bytes = mutator.next_mutant();
        std::fs::write(&file, &bytes).unwrap();
        match open_source(location(&folder)) {
            Err(Error::Data(_)) => refused += 1,
            Err(other) => panic!("{other:?} is no data error"),
            Ok(source) => {
                for (_, split) in &source.splits {
                    read += (0..split.len()).filter(|i| split.image(*i).is_ok()).count();
                }
            }
        }
    }
    assert!(refused > 50 && read > 50, "{refused} refused, {read} images read");
}
