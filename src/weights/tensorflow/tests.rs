use super::testing::Draft;
use super::wire::{Dimension, EntryMessage, Header, Shape, Slice, Version};
use super::*;
use crate::data::mutation::Mutator;
use tch::Device;

fn open(draft: &Draft) -> (tempfile::TempDir, Result<Bundle>) {
    let folder = tempfile::tempdir().unwrap();
    let prefix = draft.save(folder.path(), "model.ckpt-7");
    let bundle = Bundle::open(&prefix);
    (folder, bundle)
}

fn refusal(draft: &Draft) -> String {
    match open(draft).1.unwrap_err() {
        Error::Weights(message) => message,
        other => panic!("{other:?} does not blame the file"),
    }
}

fn some() -> Draft {
    let range = |n: i64, kind| Tensor::arange(n, (kind, Device::Cpu));
    let mut draft = Draft::of(&[
        ("a/kernel".to_owned(), range(24, Kind::Float).view([2, 3, 4])),
        ("a/bias".to_owned(), range(4, Kind::Double)),
        ("flag".to_owned(), range(2, Kind::Int64).to_kind(Kind::Bool)),
        ("global_step".to_owned(), range(1, Kind::Int64).view([0i64; 0]) + 5),
        ("half".to_owned(), range(4, Kind::Half)),
        ("nothing".to_owned(), Tensor::zeros([0, 3], (Kind::Float, Device::Cpu))),
    ]);
    draft.add_strings("words", &[b"", b"two", b"three"]);
    draft
}

#[test]
fn messages_are_those_that_were_published() {
    let version = Some(Version { producer: 1, min_consumer: 0 });
    let header = Header { num_shards: 1, endianness: 0, version };
    assert_eq!(header.encode_to_vec(), [8, 1, 0x1a, 2, 8, 1]);
    let shape = Some(Shape { dim: vec![Dimension { size: 64 }], unknown_rank: false });
    let crc32c = masked(crc32c::crc32c(&[0; 256]));
    let entry = EntryMessage { dtype: 1, shape, size: 256, crc32c, ..EntryMessage::default() };
    let expected = b"\x08\x01\x12\x04\x12\x02\x08\x40\x28\x80\x02\x35\xbd\x5b\xa4\x05";
    assert_eq!(entry.encode_to_vec(), expected);
}

#[test]
fn tensors_and_strings_come_back() {
    let (_folder, bundle) = open(&some());
    let bundle = bundle.unwrap();
    let names: Vec<&str> = bundle.entries().keys().map(String::as_str).collect();
    assert_eq!(names, ["a/bias", "a/kernel", "flag", "global_step", "half", "nothing", "words"]);
    let kernel = bundle.tensor("a/kernel").unwrap();
    assert_eq!(kernel, Tensor::arange(24, (Kind::Float, Device::Cpu)).view([2, 3, 4]));
    assert_eq!(bundle.tensor("a/bias").unwrap().kind(), Kind::Double);
    assert_eq!(bundle.tensor("global_step").unwrap().int64_value(&[]), 5);
    assert!((bundle.tensor("half").unwrap().double_value(&[3]) - 3.0).abs() < 1e-12);
    assert!(bundle.tensor("flag").unwrap().int64_value(&[1]) == 1);
    assert_eq!(bundle.tensor("nothing").unwrap().size(), [0, 3]);
    assert_eq!(
        bundle.strings("words").unwrap(),
        [b"".to_vec(), b"two".to_vec(), b"three".to_vec()]
    );
    assert!(bundle.tensor("words").unwrap_err().to_string().contains("holds no numbers"));
    assert!(bundle.tensor("b").unwrap_err().to_string().contains("there is no `b`"));
    assert!(bundle.strings("flag").is_err());
}

/// Files that TensorFlow 2.15 wrote (`tests/golden/simclr_tf.py`).
#[test]
fn what_tensorflow_wrote_is_read() {
    let golden = |name: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tensorflow");
        Bundle::open(&folder.join(name))
    };
    let bundle = golden("").unwrap();
    let shapes: Vec<(&str, &[i64])> =
        bundle.entries().iter().map(|(name, entry)| (name.as_str(), &entry.shape[..])).collect();
    let expected: [(&str, &[i64]); 9] = [
        ("base_model/conv2d/kernel", &[3, 3, 2, 4]),
        ("base_model/conv2d_10/kernel", &[1, 1, 4, 4]),
        ("base_model/conv2d_2/kernel", &[1, 1, 4, 4]),
        ("brain", &[2]),
        ("flags", &[3]),
        ("global_step", &[]),
        ("half", &[2]),
        ("wide", &[1]),
        ("words", &[3]),
    ];
    assert_eq!(shapes, expected);
    let values = |name: &str| {
        let flat = bundle.tensor(name).unwrap().to_kind(Kind::Double).view([-1]);
        Vec::<f64>::try_from(flat).unwrap()
    };
    assert_eq!(values("brain"), [0.5, -2.0]);
    assert_eq!(values("half"), [0.5, -2.0]);
    assert_eq!(values("wide"), [1e300]);
    assert_eq!(values("flags"), [1.0, 0.0, 1.0]);
    assert_eq!(values("global_step"), [7.0]);
    // The first of the noise of tag 1.
    let first = 0x9E37_79B9_7F4A_7C15u64.wrapping_mul(1 << 32);
    let mixed = (first ^ first >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    let expected = ((mixed ^ mixed >> 32) >> 40) as f64 / f64::from(1 << 23) - 1.0;
    assert_eq!(values("base_model/conv2d/kernel")[0].to_bits(), expected.to_bits());
    let long = "three".repeat(60).into_bytes();
    assert_eq!(bundle.strings("words").unwrap(), [b"".to_vec(), b"two".to_vec(), long]);

    let message = golden("partitioned").unwrap_err().to_string();
    assert!(message.contains("partitioned"), "{message}");

    let objects = golden("objects").unwrap();
    let variables = objects.variables().unwrap();
    let kernel = &variables["kernel"];
    assert_eq!(kernel, "model/kernel/.ATTRIBUTES/VARIABLE_VALUE");
    let kernel = objects.tensor(kernel).unwrap();
    assert_eq!(kernel, Tensor::arange(6, (Kind::Float, Device::Cpu)).view([1, 1, 3, 2]));
}

#[test]
fn high_bytes_first_are_turned() {
    let mut draft = Draft::default();
    let bytes = [1.5f32.to_be_bytes(), (-2.0f32).to_be_bytes()].concat();
    draft.add_bytes("x", 1, &[2], &bytes, masked(crc32c::crc32c(&bytes)));
    let folder = tempfile::tempdir().unwrap();
    let prefix = draft.save(folder.path(), "m");
    let header = Header { num_shards: 1, endianness: 1, version: None };
    fs::write(place::index_of(&prefix), draft.index_under(&header)).unwrap();
    let found = Bundle::open(&prefix).unwrap().tensor("x").unwrap();
    assert_eq!(found, Tensor::from_slice(&[1.5f32, -2.0]));
}

#[test]
fn impossible_entries_are_refused_by_name() {
    let with = |change: &dyn Fn(&mut EntryMessage)| {
        let mut draft = some();
        change(draft.entries.get_mut("a/kernel").unwrap());
        refusal(&draft)
    };
    let shape = |dims: &[i64]| {
        let dim = dims.iter().map(|size| Dimension { size: *size }).collect();
        Some(Shape { dim, unknown_rank: false })
    };
    for (message, text) in [
        (with(&|e| e.shape = shape(&[2, -3, 4])), "`a/kernel` has an impossible shape [2, -3, 4]"),
        (with(&|e| e.shape = shape(&[1 << 40, 1 << 40])), "`a/kernel` has an impossible shape"),
        (with(&|e| e.shape = shape(&[1; 33])), "has an impossible shape (33 dimensions)"),
        (with(&|e| e.shape = shape(&[2, 3])), "of shape [2, 3] (Float) cannot take 96 bytes"),
        (with(&|e| e.dtype = 0), "`a/kernel` has no type"),
        (with(&|e| e.shard_id = 1), "lies in data file 1 of 1"),
        (with(&|e| e.shard_id = -1), "lies in data file -1 of 1"),
        (with(&|e| e.offset = -1), "lies at -1, 96 bytes long"),
        (with(&|e| e.offset = i64::MAX), "96 bytes long"),
        (with(&|e| e.offset = 1 << 40), "the file is cut off"),
        (with(&|e| e.offset = 8), "overlap in its data"),
        (with(&|e| e.slices = vec![Slice {}]), "`a/kernel` is cut into parts"),
    ] {
        assert!(message.contains(text), "{message}");
    }
    // Of another type nothing is known but where it lies.
    let mut draft = some();
    draft.entries.get_mut("a/kernel").unwrap().dtype = 21;
    let (_folder, bundle) = open(&draft);
    let bundle = bundle.unwrap();
    assert_eq!(bundle.entries()["a/kernel"].data_type, DataType::Other(21));
    assert!(bundle.tensor("a/kernel").is_err());
}

#[test]
fn impossible_headers_are_refused() {
    let draft = some();
    let folder = tempfile::tempdir().unwrap();
    let prefix = draft.save(folder.path(), "m");
    let newer = Some(Version { producer: 2, min_consumer: 2 });
    for (header, text) in [
        (Header { num_shards: 0, endianness: 0, version: None }, "0 data files"),
        (Header { num_shards: -4, endianness: 0, version: None }, "-4 data files"),
        (Header { num_shards: 1, endianness: 2, version: None }, "unknown order of bytes"),
        (Header { num_shards: 1, endianness: 0, version: newer }, "needs a reader of version 2"),
        (Header { num_shards: 2, endianness: 0, version: None }, "00000-of-00002`, which is not"),
    ] {
        fs::write(place::index_of(&prefix), draft.index_under(&header)).unwrap();
        let message = Bundle::open(&prefix).unwrap_err().to_string();
        assert!(message.contains(text), "{message}");
    }
    let nameless = table::writer::table(&[&[(b"x".to_vec(), vec![])]], false);
    fs::write(place::index_of(&prefix), nameless).unwrap();
    assert!(Bundle::open(&prefix).unwrap_err().to_string().contains("begin with a header"));
    fs::write(place::index_of(&prefix), table::writer::table(&[&[]], false)).unwrap();
    assert!(Bundle::open(&prefix).unwrap_err().to_string().contains("it is empty"));
}

#[test]
fn changed_numbers_and_strings_are_noticed() {
    let draft = some();
    let folder = tempfile::tempdir().unwrap();
    let prefix = draft.save(folder.path(), "m");
    let data = place::data_of(&prefix, 0, 1);
    let bundle = Bundle::open(&prefix).unwrap();
    for position in 0..draft.data.len() {
        let mut changed = draft.data.clone();
        changed[position] ^= 0x10;
        fs::write(&data, changed).unwrap();
        let failures = bundle.entries().keys().filter(|name| {
            let numbers = bundle.entries()[*name].data_type != DataType::String;
            let outcome = if numbers {
                bundle.tensor(name).map(drop)
            } else {
                bundle.strings(name).map(drop)
            };
            outcome.is_err()
        });
        assert_eq!(failures.count(), 1, "byte {position}");
    }
    fs::write(&data, &draft.data[..draft.data.len() - 1]).unwrap();
    let message = Bundle::open(&prefix).unwrap_err().to_string();
    assert!(message.contains("`words` ends at byte") && message.contains("cut off"), "{message}");
}

#[test]
fn the_object_graph_tells_the_names() {
    let mut draft = Draft::default();
    let zero = Tensor::zeros([1], (Kind::Float, Device::Cpu));
    for place in ["a", "b", "c", "d"] {
        draft.add(&format!("{place}{VARIABLE}"), &zero);
    }
    let attribute = |name: &str, place: &str| wire::Attribute {
        full_name: name.into(),
        checkpoint_key: format!("{place}{VARIABLE}"),
    };
    let attributes =
        vec![attribute("conv2d/kernel", "a"), attribute("twice", "b"), attribute("twice", "c")];
    let graph = ObjectGraph { nodes: vec![wire::Object { attributes }] }.encode_to_vec();
    let lengths = (graph.len() as u32).to_le_bytes();
    let mask = masked(crc32c::crc32c(&lengths)).to_le_bytes();
    let crc = masked(crc32c::crc32c(&[&lengths[..], &mask, &graph].concat()));
    let mut bytes = vec![graph.len() as u8 | 0x80, (graph.len() >> 7) as u8];
    bytes.extend(mask);
    bytes.extend(graph);
    draft.add_bytes(OBJECT_GRAPH, 7, &[], &bytes, crc);
    let (_folder, bundle) = open(&draft);
    let found: Vec<(String, String)> = bundle.unwrap().variables().unwrap().into_iter().collect();
    let expected = [("b", "b"), ("c", "c"), ("conv2d/kernel", "a"), ("d", "d")];
    let expected = expected.map(|(name, key)| (name.to_owned(), format!("{key}{VARIABLE}")));
    assert_eq!(found, expected);
}

#[test]
fn a_small_index_does_not_ask_for_much_memory() {
    let mut draft = Draft::default();
    for number in 0..=MOST_TENSORS {
        draft.add_bytes(&format!("{number:06}"), 1, &[0], &[], 0);
    }
    let message = refusal(&draft);
    assert!(message.contains("more than 200000 tensors"), "{message}");

    let mut draft = Draft::default();
    draft.add_bytes(OBJECT_GRAPH, 7, &[3], &[0; 16], 0);
    let message = open(&draft).1.unwrap().variables().unwrap_err().to_string();
    assert!(message.contains("object graph has shape [3]"), "{message}");
    let mut draft = Draft::default();
    draft.add_bytes(OBJECT_GRAPH, 7, &[], &vec![0; 17 << 20], 0);
    let (_folder, bundle) = open(&draft);
    let message = bundle.unwrap().variables().unwrap_err().to_string();
    assert!(message.contains("in 17825792 bytes"), "{message}");

    // A tensor that is described at length, and a packed block.
    let dim = vec![Dimension { size: 1 }; 20_000];
    let shape = Some(Shape { dim, unknown_rank: false });
    let entry = EntryMessage { dtype: 1, shape, ..EntryMessage::default() };
    let mut draft = some();
    draft.entries.insert("long".to_owned(), entry);
    assert!(refusal(&draft).contains("`long` is described in"), "{}", refusal(&draft));
    let (header, value) = ((Vec::new(), Vec::new()), (b"x".to_vec(), vec![0; 65 << 20]));
    let index = table::writer::table(&[&[header, value]], true);
    assert!(index.len() < 4 << 20);
    let why = table::read(&index, |_, _| Ok(())).unwrap_err();
    assert!(why.contains("packed block of"), "{why}");
}

/// Reads all of a checkpoint; every error blames the file.
fn whole(prefix: &Path) -> bool {
    let judged = |outcome: Result<()>| match outcome {
        Ok(()) => true,
        Err(Error::Weights(_)) => false,
        Err(other) => panic!("{other:?} does not blame the file"),
    };
    let bundle = match Bundle::open(prefix) {
        Ok(bundle) => bundle,
        Err(error) => return judged(Err(error)),
    };
    let read = |(name, entry): (&String, &Entry)| match entry.data_type {
        DataType::Numbers(_) => judged(bundle.tensor(name).map(drop)),
        DataType::String => judged(bundle.strings(name).map(drop)),
        DataType::Other(_) => true,
    };
    bundle.entries().iter().all(read) & judged(bundle.variables().map(drop))
}

#[test]
fn mutants_are_read_or_refused() {
    let draft = some();
    let folder = tempfile::tempdir().unwrap();
    let prefix = draft.save(folder.path(), "m");
    assert!(whole(&prefix));
    let mut read = 0;
    for file in [place::index_of(&prefix), place::data_of(&prefix, 0, 1)] {
        let original = fs::read(&file).unwrap();
        let mut mutator = Mutator::new(&original, 3);
        for _ in 0..500 {
            fs::write(&file, mutator.next_mutant()).unwrap();
            read += usize::from(whole(&prefix));
        }
        fs::write(&file, original).unwrap();
    }
    assert!(read < 100, "{read} of 1000 read");
    // Mutants of the messages under right checksums get further.
    let pairs: Vec<(Vec<u8>, Vec<u8>)> = {
        let mut pairs = Vec::new();
        let keep = |key: &[u8], value: &[u8]| {
            pairs.push((key.to_vec(), value.to_vec()));
            Ok(())
        };
        table::read(&draft.index(), keep).unwrap();
        pairs
    };
    let block = table::writer::block(&pairs);
    let mut mutator = Mutator::new(&block, 4);
    let mut read = 0;
    for _ in 0..1_000 {
        let index = table::writer::around(&mutator.next_mutant());
        fs::write(place::index_of(&prefix), index).unwrap();
        read += usize::from(whole(&prefix));
    }
    assert!((20..500).contains(&read), "{read} of 4000 read");
}
