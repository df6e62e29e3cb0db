//! Files by the libraries that write such (tests/golden/weights.py) against what they hold; files that nobody means well
//! with; mutants of all.

use super::archive::tests::packed;
use super::*;
use crate::augment::Sizing;
use crate::data::mutation::Mutator;
use crate::model::resnet::{Flavor, Stem};
use crate::model::{Parameters, Phase, ResNet};
use std::fs;
use tch::{Device, Kind, Tensor};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/weights").join(name)
}

fn truth(name: &str) -> Tensor {
    let file = TensorFile::open(&golden("truth.safetensors")).unwrap();
    let entry = file.entries().iter().find(|entry| entry.name == name).unwrap();
    file.tensor(entry).unwrap()
}

/// Features of the golden input by the network of a file.
fn features(file: &TensorFile, stated: &Stated) -> (Import, Tensor) {
    let import = Import::plan(file, stated).unwrap();
    import.complete(file).unwrap();
    let mut parameters = Parameters::new(0, Device::Cpu, Kind::Float);
    let net = ResNet::build(&mut parameters.root(), &import.config).unwrap();
    for parameter in parameters.all() {
        import.fill(file, &parameter.name, &parameter.tensor).unwrap();
    }
    let features = tch::no_grad(|| net.forward(&truth("input"), Phase::Evaluation));
    (import, features)
}

fn close(found: &Tensor, expected: &Tensor, share: f64) -> bool {
    let apart = (found - expected).abs().max().double_value(&[]);
    found.size() == expected.size() && apart <= share * expected.abs().max().double_value(&[])
}

/// A golden file, what it is taken for, whose features it gives.
const FILES: [(&str, Format, &str, &str); 21] = [
    ("moco.pth.tar", Format::TorchZip, "moco", "large"),
    ("moco5.pth.tar", Format::TorchZip, "moco", "large"),
    ("moco-legacy.pth.tar", Format::TorchLegacy, "moco", "large"),
    ("simsiam.pth.tar", Format::TorchLegacy, "simsiam", "large"),
    ("pycontrast.pth", Format::TorchLegacy, "pycontrast", "large"),
    ("swav.pth.tar", Format::TorchLegacy, "swav", "large"),
    ("vissl.torch", Format::TorchLegacy, "vissl", "large"),
    ("mmselfsup.pth", Format::TorchLegacy, "mmselfsup", "large"),
    ("spijkervet.pt", Format::TorchLegacy, "spijkervet", "large"),
    ("lightly.ckpt", Format::TorchLegacy, "lightly", "large"),
    ("solo.ckpt", Format::TorchLegacy, "solo-learn", "large"),
    ("imagenette.ckpt", Format::TorchLegacy, "lightly-imagenette", "large"),
    ("torchvision.pth", Format::TorchZip, "torchvision", "large"),
    ("bare.safetensors", Format::Safetensors, "bare", "large"),
    ("bf16.safetensors", Format::Safetensors, "bare", "bf16"),
    ("whole.pth", Format::TorchZip, "bare", "large"),
    ("script.pt", Format::TorchScript, "bare", "large"),
    ("solo-cifar.ckpt", Format::TorchZip, "solo-learn-cifar", "solo-cifar"),
    ("lightly-cifar.ckpt", Format::TorchLegacy, "lightly-cifar", "lightly-cifar"),
    ("cld.t7", Format::TorchLegacy, "cld-cifar", "cifar"),
    ("timm.safetensors", Format::Safetensors, "bare", "timm"),
];

/// What becomes of a tensor of a file: another name or value, or nothing.
type Change = dyn Fn(&str, Tensor) -> Option<(String, Tensor)>;

#[test]
fn features_of_every_family_are_those_of_its_library() {
    for (name, format, family, expected) in FILES {
        let file = TensorFile::open(&golden(name)).unwrap();
        assert_eq!(file.format(), format, "{name}");
        let (import, found) = features(&file, &Stated::default());
        assert_eq!(import.family.id, family, "{name}");
        let expected = truth(&format!("features/{expected}"));
        assert!(close(&found, &expected, 1e-4), "{name}: {found:?} {expected:?}");
        assert_eq!(import.count(Outcome::Matched), import.config.tensors().len(), "{name}");
    }
    for (name, prefix) in
        [("numpy.2.pkl", "model"), ("numpy.4.pkl", "model"), ("numpy.5.pkl", "model")]
    {
        let file = TensorFile::open(&golden(name)).unwrap();
        assert_eq!(file.format(), Format::Pickle);
        let (import, found) = features(&file, &Stated::default());
        assert_eq!(import.group, prefix);
        assert!(close(&found, &truth("features/large"), 1e-4), "{name}");
        assert_eq!(file.notes()["__author__"], "nobody");
    }
}

#[test]
fn what_weights_do_not_tell_is_published_or_must_be_stated() {
    let plan = |name: &str, stated: &Stated| {
        Import::plan(&TensorFile::open(&golden(name)).unwrap(), stated)
    };
    let stem = |name: &str| plan(name, &Stated::default()).unwrap().config.stem;
    assert_eq!(stem("solo-cifar.ckpt"), Stem::CifarPad2);
    assert_eq!(stem("lightly-cifar.ckpt"), Stem::CifarNoRelu);
    assert_eq!(stem("cld.t7"), Stem::Cifar);
    assert_eq!(stem("timm.safetensors"), Stem::ResNetD);
    let message = plan("small.safetensors", &Stated::default()).unwrap_err().to_string();
    assert!(message.contains("--stem") && message.contains("cifar_no_relu"), "{message}");
    let stated = Stated { stem: Some(Stem::Cifar), ..Stated::default() };
    let file = TensorFile::open(&golden("small.safetensors")).unwrap();
    assert!(close(&features(&file, &stated).1, &truth("features/cifar"), 1e-4));
    // The same names and shapes, another network.
    let stated = Stated { stem: Some(Stem::CifarPad2), ..Stated::default() };
    assert!(!close(&features(&file, &stated).1, &truth("features/cifar"), 1e-2));
    let message = plan("moco.pth.tar", &stated).unwrap_err().to_string();
    assert!(message.contains("does not fit") && message.contains("7×7"), "{message}");

    let tonylins = plan("tonylins.pth", &Stated::default()).unwrap();
    assert_eq!((tonylins.family.id, tonylins.config.flavor), ("tonylins", Flavor::SimclrTf));
    let prepared = |name: &str| plan(name, &Stated::default()).unwrap().preprocess();
    assert_eq!(prepared("moco.pth.tar").unwrap().id, "imagenet");
    let lightly = prepared("lightly-cifar.ckpt").unwrap().preprocess().unwrap();
    assert_eq!((lightly.size_px(), lightly.mean[0]), (32, 0.485));
    assert_eq!(prepared("cld.t7").unwrap_err().len(), 3);
    assert!(prepared("bare.safetensors").unwrap_err().is_empty());
    let stated = Stated { family: Some("moko".to_owned()), ..Stated::default() };
    let message = plan("moco.pth.tar", &stated).unwrap_err().to_string();
    assert!(message.contains("pycontrast") && message.contains("`moko`"), "{message}");
}

#[test]
fn every_view_and_every_kind_of_numbers_is_what_torch_says() {
    for name in ["views.pth", "views-legacy.pth"] {
        let file = TensorFile::open(&golden(name)).unwrap();
        for entry in
            file.entries().iter().filter(|entry| !matches!(entry.name.as_str(), "u16" | "u32"))
        {
            let found = file.tensor(entry).unwrap();
            let expected = truth(&format!("views/{}", entry.name));
            assert_eq!((found.kind(), found.size()), (expected.kind(), expected.size()), "{name}");
            assert_eq!(found, expected, "{name}: {}", entry.name);
            assert!(found.is_contiguous());
        }
        assert!(file.entries().len() >= 14, "{name}");
    }
    let file = TensorFile::open(&golden("views.pth")).unwrap();
    let wide = file.entries().iter().find(|entry| entry.name == "u16").unwrap();
    assert_eq!((wide.number, wide.shape.as_slice()), (Number::U16, &[2][..]));
    let message = file.tensor(wide).unwrap_err().to_string();
    assert!(message.contains("`u16`") && message.contains("not loaded"), "{message}");
}

#[test]
fn objects_of_unknown_types_stay_what_they_say_and_values_are_told() {
    let file = TensorFile::open(&golden("solo-cifar.ckpt")).unwrap();
    assert_eq!(file.notes()["epoch"], "9");
    assert_eq!(file.notes()["pytorch-lightning_version"], "1.2.0");
    assert!(file.opaque()["hyper_parameters"].contains("Namespace"), "{:?}", file.opaque());
    let best = file.notes().iter().find(|(name, _)| name.ends_with("/best")).unwrap();
    assert_eq!(best.1, "0.5");
    assert!(file.entries().iter().any(|entry| entry.name == "history" && entry.shape == [2, 3]));
    let file = TensorFile::open(&golden("cld.t7")).unwrap();
    assert!(file.opaque()["lemniscate"].contains("Settings"), "{:?}", file.opaque());
}

/// The golden file with some tensors changed, as safetensors.
fn changed(
    name: &str,
    change: impl Fn(&str, Tensor) -> Option<(String, Tensor)>,
) -> (tempfile::TempDir, PathBuf) {
    let file = TensorFile::open(&golden(name)).unwrap();
    let tensors: Vec<(String, Tensor)> = file
        .entries()
        .iter()
        .filter_map(|entry| change(&entry.name, file.tensor(entry).unwrap()))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.safetensors");
    Tensor::write_safetensors(&tensors, &path).unwrap();
    (folder, path)
}

#[test]
fn a_tensor_missing_too_many_or_of_another_shape_is_refused_with_counts() {
    let refusal = |change: &Change| {
        let (_folder, path) = changed("bare.safetensors", change);
        let file = TensorFile::open(&path).unwrap();
        let outcome = Import::plan(&file, &Stated::default()).and_then(|plan| plan.complete(&file));
        outcome.unwrap_err().to_string()
    };
    let missing = refusal(&|name, tensor| {
        (name != "layer2.1.bn2.running_var").then(|| (name.to_owned(), tensor))
    });
    assert!(missing.contains("101 matched") || missing.contains("1 missing"), "{missing}");
    assert!(missing.contains("missing `layer2.1.bn2.running_var`"), "{missing}");
    let unexpected = refusal(&|name, tensor| {
        let name = if name == "bn1.num_batches_tracked" { "bn1.gate" } else { name };
        Some((name.to_owned(), tensor))
    });
    assert!(
        unexpected.contains("1 unexpected") && unexpected.contains("`bn1.gate`"),
        "{unexpected}"
    );
    let mismatched = refusal(&|name, tensor| {
        let tensor = if name == "layer3.0.conv1.weight" { tensor.narrow(0, 0, 4) } else { tensor };
        Some((name.to_owned(), tensor.contiguous()))
    });
    assert!(
        mismatched.contains("1 mismatched") && mismatched.contains("[8, 4, 3, 3]"),
        "{mismatched}"
    );
    let whole = refusal(&|name, tensor| (name == "fc.bias").then(|| (name.to_owned(), tensor)));
    assert!(whole.contains("no ResNet of any known system"), "{whole}");
}

/// Golden bytes with one part put in place of another.
fn replaced(name: &str, part: &[u8], by: &[u8]) -> Vec<u8> {
    let bytes = fs::read(golden(name)).unwrap();
    let at = bytes.windows(part.len()).position(|there| there == part).unwrap();
    [&bytes[..at], by, &bytes[at + part.len()..]].concat()
}

#[test]
fn what_lies_among_the_weights_and_is_no_tensor_is_refused_or_known() {
    // An object under a name of its own, in front of the tensors.
    let whole = fs::read(golden("moco-legacy.pth.tar")).unwrap();
    let key = b"X\x0a\x00\x00\x00state_dict";
    let at = whole.windows(key.len()).position(|there| there == key).unwrap() + key.len();
    let mark = at + whole[at..].iter().position(|byte| *byte == b'(').unwrap() + 1;
    let with = |name: &str| {
        let object = [&b"X"[..], &(name.len() as u32).to_le_bytes(), name.as_bytes()].concat();
        let bytes = [&whole[..mark], &object, b"cos\nsystem\n)R", &whole[mark..]].concat();
        let file = opened(&bytes).unwrap();
        let import = Import::plan(&file, &Stated::default()).unwrap();
        (import.complete(&file).map_err(|error| error.to_string()), import.summary())
    };
    let (outcome, summary) = with("module.encoder_q.gate");
    let message = outcome.unwrap_err();
    assert!(message.contains("module.encoder_q.gate` (os.system)"), "{message}");
    assert!(summary.contains("1 unexpected"), "{summary}");
    assert!(with("module.queue_state").0.is_ok());
}

#[test]
fn one_of_several_dictionaries_may_be_stated() {
    let key = b"X\x05\x00\x00\x00model";
    let file = opened(&replaced("pycontrast.pth", key, b"X\x09\x00\x00\x00model_ema")).unwrap();
    let plan = |group: Option<&str>| {
        let group = group.map(str::to_owned);
        Import::plan(&file, &Stated { group, ..Stated::default() })
    };
    for group in [None, Some("model_ema")] {
        let import = plan(group).unwrap();
        assert_eq!((import.family.id, &*import.group), ("pycontrast", "model_ema"));
    }
    let message = plan(Some("model")).unwrap_err().to_string();
    assert!(message.contains("in `model`") && message.contains("lie in `model_ema`"), "{message}");
    let (_folder, path) = changed("bare.safetensors", |name, tensor| {
        let encoder = if name.starts_with("layer1") { 1 } else { 2 };
        Some((format!("module.encoder{encoder}.{name}"), tensor))
    });
    let file = TensorFile::open(&path).unwrap();
    let message = Import::plan(&file, &Stated::default()).unwrap_err().to_string();
    assert!(message.contains("CMC"), "{message}");
}

/// torchvision published two sets of weights, whose images are resized to other sizes; timm's files have the same names.
#[test]
fn torchvision_is_told_by_the_names_of_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = |name: &str| {
        let path = folder.path().join(name);
        fs::copy(golden("torchvision.pth"), &path).unwrap();
        let import = Import::plan(&TensorFile::open(&path).unwrap(), &Stated::default()).unwrap();
        assert_eq!(import.family.id, "torchvision");
        import.preprocess().map(|prepared| prepared.preprocess().unwrap())
    };
    let sizing = |resize_px| Sizing::ShorterSide { resize_px, crop_px: 224 };
    assert_eq!(prepared("resnet50-0676ba61.pth").unwrap().sizing, sizing(256));
    assert_eq!(prepared("resnet50-11ad3fa6.pth").unwrap().sizing, sizing(232));
    for name in ["resnet50_a1_0-14fe96d1.pth", "model.pth"] {
        assert_eq!(prepared(name).unwrap_err().len(), 2, "{name}");
    }
}

/// PyTorch writes the checksum of every member, or 0 where it is told not to.
#[test]
fn a_changed_byte_of_a_storage_is_noticed_where_its_checksum_is_known() {
    let file = TensorFile::open(&golden("moco.pth.tar")).unwrap();
    let entry = file.entries().iter().find(|entry| entry.name.ends_with("q.conv1.weight")).unwrap();
    assert!(entry.crc32.is_some());
    let Storage::At { start, .. } = entry.storage else { panic!("{entry:?}") };
    let mut bytes = fs::read(golden("moco.pth.tar")).unwrap();
    bytes[start as usize + 5] ^= 1;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.pth");
    fs::write(&path, &bytes).unwrap();
    let changed = TensorFile::open(&path).unwrap();
    let message = changed.tensor(entry).unwrap_err().to_string();
    assert!(message.contains("checksum should be"), "{message}");
    // A part of a storage has none of its own.
    let views = TensorFile::open(&golden("views.pth")).unwrap();
    assert!(views.entries().iter().any(|entry| entry.crc32.is_none()));
    let at = bytes.windows(12).position(|there| there == b"encoder_q.fc").unwrap();
    bytes[at] ^= 1;
    assert!(refusal(&bytes).contains("no tensor is wrong"), "{}", refusal(&bytes));
}

fn opened(bytes: &[u8]) -> Result<TensorFile> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, bytes).unwrap();
    TensorFile::open(&path)
}

fn refusal(bytes: &[u8]) -> String {
    match opened(bytes) {
        Err(Error::Weights(message)) => message,
        other => panic!("{other:?}"),
    }
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn safetensors_that_cannot_be_meant_are_refused() {
    let one = |shape: &str, from: u64, to: u64| {
        format!(r#""a":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let whole = format!("{{{}}}", one("[2]", 0, 8));
    assert_eq!(opened(&safetensors(&whole, 8)).unwrap().entries().len(), 1);
    assert!(refusal(&safetensors(&whole, 7)).contains("8 bytes, 7"));
    assert!(refusal(&safetensors(&whole, 9)).contains("8 bytes, 9"));
    let twice = format!("{{{},{}}}", one("[2]", 0, 8), one("[2]", 8, 16));
    assert!(refusal(&safetensors(&twice, 16)).contains("two tensors named"));
    let other = r#""b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#;
    assert!(
        refusal(&safetensors(&format!("{{{},{other}}}", one("[2]", 0, 8)), 8))
            .contains("`b` lies at 4")
    );
    assert!(
        refusal(&safetensors(&format!("{{{}}}", one("[1]", 4, 8)), 8)).contains("where 0 is next")
    );
    assert!(
        refusal(&safetensors(&format!("{{{}}}", one("[3]", 0, 8)), 8)).contains("takes 12 bytes")
    );
    for shape in ["[4611686018427387904,4]", "[9223372036854775808,0]", "[4294967296,4294967296,0]"]
    {
        assert!(
            refusal(&safetensors(&format!("{{{}}}", one(shape, 0, 0)), 0)).contains("memory"),
            "{shape}"
        );
    }
    let deep = format!("[{}]", vec!["1"; 40].join(","));
    assert!(
        refusal(&safetensors(&format!("{{{}}}", one(&deep, 0, 4)), 4)).contains("40 dimensions")
    );
    assert!(refusal(&safetensors(&whole.replace("F32", "F6"), 8)).contains("`F6`"));
    let mut long = safetensors(&whole, 8);
    long[4] = 1;
    assert!(refusal(&long).contains("is announced"));
    assert!(
        refusal(&safetensors(&format!("{}{}", "{\"a\":".repeat(200), "1"), 0)).contains("header")
    );
}

#[test]
fn what_is_none_of_the_formats_is_named() {
    assert!(refusal(b"").contains("is empty"));
    assert!(refusal(b"hello, these are no weights").contains("none of the formats"));
    assert!(refusal(b"\x1f\x8b\x08\0\0\0\0\0\0\0").contains("compressed"));
    assert!(refusal(b"\x89HDF\r\n\x1a\n").contains("HDF5"));
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    assert!(refusal(&tar).contains("tar archive"));
    let zip = packed(&[("model.txt", b"x")], |_, _| ());
    assert!(refusal(&zip).contains("no `data.pkl`"), "{}", refusal(&zip));
    let zip = packed(&[("a/data.pkl", b"x")], |header, central| {
        if central {
            header[10] = 8;
        }
    });
    assert!(refusal(&zip).contains("zip -0"), "{}", refusal(&zip));
    let folder = tempfile::tempdir().unwrap();
    assert!(TensorFile::open(folder.path()).unwrap_err().to_string().contains("folder"));
}

/// A pickle of `{"x": tensor}` of 4-byte floats by hand, of that offset, shape and strides.
fn pickled(storage: &str, count: i32, offset: i32, shape: [i32; 2], strides: [i32; 2]) -> Vec<u8> {
    let int = |value: i32| [&b"J"[..], &value.to_le_bytes()].concat();
    let text =
        |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let pair = |pair: [i32; 2]| [&int(pair[0])[..], &int(pair[1]), b"\x86"].concat();
    let id = [
        &b"("[..],
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text(storage),
        &text("cpu"),
        &int(count),
        b"tQ",
    ]
    .concat();
    [
        &b"\x80\x02}"[..],
        &text("x"),
        b"ctorch._utils\n_rebuild_tensor_v2\n(",
        &id,
        &int(offset),
        &pair(shape),
        &pair(strides),
        b"\x89NtRs.",
    ]
    .concat()
}

#[test]
fn tensors_outside_of_their_storages_are_refused() {
    let numbers = [0u8; 48];
    let file = |pickle: &[u8]| packed(&[("a/data.pkl", pickle), ("a/data/0", &numbers)], |_, _| ());
    let whole = opened(&file(&pickled("0", 12, 0, [3, 4], [4, 1]))).unwrap();
    assert_eq!(whole.entries()[0].shape, [3, 4]);
    for (offset, shape, strides) in [
        (1, [3, 4], [4, 1]),
        (0, [3, 4], [5, 1]),
        (0, [i32::MAX, 1], [0, 0]),
        (0, [2, 2], [i32::MAX, i32::MAX]),
        (13, [0, 1], [1, 1]),
    ] {
        let message = refusal(&file(&pickled("0", 12, offset, shape, strides)));
        assert!(message.contains("tensor `x`"), "{message}");
    }
    // What cannot be found or is below zero is no tensor; the rest of such a file may be.
    for pickle in [
        pickled("1", 12, 0, [3, 4], [4, 1]),
        pickled("0", 13, 0, [3, 4], [4, 1]),
        pickled("0", 12, -1, [3, 4], [4, 1]),
        pickled("0", 12, 0, [-3, 4], [4, 1]),
        pickled("../../0", 12, 0, [3, 4], [4, 1]),
    ] {
        let found = opened(&file(&pickle)).unwrap();
        assert!(found.entries().is_empty() && found.opaque()["x"].contains("not read"));
    }
}

#[test]
fn nothing_in_a_pickle_is_ever_called() {
    let marker = tempfile::tempdir().unwrap();
    let path = marker.path().join("called");
    let shown = path.display().to_string();
    let run = [
        &b"\x80\x02}X\x01\x00\x00\x00xcos\nsystem\nX"[..],
        &((shown.len() + 6) as u32).to_le_bytes(),
        b"touch ",
        shown.as_bytes(),
        b"\x85Rs.",
    ]
    .concat();
    let found = opened(&packed(&[("a/data.pkl", &run)], |_, _| ())).unwrap();
    assert_eq!(found.opaque()["x"], "os.system");
    assert!(!path.exists());
    assert_eq!(opened(&run).unwrap().opaque()["x"], "os.system");
    let message = Import::plan(&opened(b"\x80\x02cos\nsystem\n)R.").unwrap(), &Stated::default());
    assert!(message.unwrap_err().to_string().contains("os.system"));
}

#[test]
fn lists_in_circles_and_values_held_a_thousand_times_end() {
    let member = |pickle: &[u8]| packed(&[("a/data.pkl", pickle)], |_, _| ());
    // A dictionary that holds itself.
    let circle = opened(&member(b"\x80\x02}q\x00X\x01\x00\x00\x00xh\x00s.")).unwrap();
    assert!(circle.opaque().values().any(|what| what.contains("nested")));
    // Nine levels of ten references each.
    let mut laughs = b"\x80\x02}q\x00".to_vec();
    for _ in 0..9 {
        laughs.extend(b"(");
        laughs.extend(b"h\x00".repeat(10));
        laughs.extend(b"tq\x00");
    }
    laughs.push(b'.');
    assert!(refusal(&member(&laughs)).contains("values"), "{}", refusal(&member(&laughs)));
    // A tensor whose arguments are the list that holds them.
    let own = b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\nq\x00]q\x01(h\x00Nh\x01eR.";
    for file in [member(own), own.to_vec()] {
        let found = opened(&file).unwrap();
        assert!(found.opaque().values().any(|what| what.contains("nested")), "{found:?}");
    }
    // A network of thirty levels, each of which holds the next one ten times.
    let mut network = b"\x80\x02cm\nC\n)R}bq\x000".to_vec();
    for _ in 0..30 {
        network.extend(b"cm\nC\n)R}X\x08\x00\x00\x00_modules}(");
        (b'a'..b'k').for_each(|name| network.extend([b'X', 1, 0, 0, 0, name, b'h', 0]));
        network.extend(b"usbq\x000");
    }
    network.extend(b"h\x00.");
    assert!(refusal(&network).contains("values"), "{}", refusal(&network));
    // A shape as long as the file.
    let mut long = b"\x80\x02}X\x01\x00\x00\x00xctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
    long.extend(b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NK\x01tQK\x00(");
    long.extend(b"K\x01".repeat(5_000));
    long.extend(b"tq\x00h\x00\x89NtRs.");
    let found =
        opened(&packed(&[("a/data.pkl", &long), ("a/data/0", &[0; 4])], |_, _| ())).unwrap();
    assert!(found.opaque()["x"].contains("5000 dimensions"), "{found:?}");
    // A name longer than any file's.
    let key = [&b"\x80\x02}X\x88\x13\x00\x00"[..], &[b'k'; 5_000], b"}s."].concat();
    assert!(refusal(&key).contains("4096 bytes"), "{}", refusal(&key));
    // Opcodes that call for more than there is.
    for pickle in [
        &b"\x80\x02Q."[..],
        b"\x80\x02\x81.",
        b"\x80\x02R.",
        b"\x80\x02N\x90.",
        b"\x80\x02b.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02\x82\x01.",
        b"\x80\x05\x97.",
    ] {
        let message = refusal(&member(pickle));
        assert!(message.contains("`data.pkl`"), "{message}");
    }
}

#[test]
fn headers_of_a_file_of_many_gigabytes_are_all_that_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.safetensors");
    let count: u64 = 3 << 30;
    let header =
        format!(r#"{{"w":{{"dtype":"F32","shape":[{count}],"data_offsets":[0,{}]}}}}"#, 4 * count);
    fs::write(&path, safetensors(&header, 0)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(8 + header.len() as u64 + 4 * count).unwrap();
    let started = std::time::Instant::now();
    let found = TensorFile::open(&path).unwrap();
    assert_eq!(found.entries()[0].shape, [count as usize]);
    assert!(started.elapsed().as_secs() < 5);
    // A file that shrinks while it is read.
    file.set_len(1 << 10).unwrap();
    let part = Entry {
        shape: vec![1 << 12],
        view: Some(View { offset: 0, strides: vec![1] }),
        ..found.entries()[0].clone()
    };
    assert!(found.tensor(&part).unwrap_err().to_string().contains("ends within it"));
}

#[test]
fn pieces_of_a_tensor_larger_than_one_join_again() {
    // Rows, columns and a channels-last kernel of more than a piece each.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("numbers");
    let numbers = Tensor::arange(3 << 20, (Kind::Float, Device::Cpu));
    let mut bytes = vec![0u8; 12 << 20];
    numbers.copy_data_u8(&mut bytes, 3 << 20);
    fs::write(&path, &bytes).unwrap();
    let storage = Storage::At { file: 0, start: 0, bytes: 12 << 20 };
    for (shape, strides) in [
        (vec![1 << 10, 3 << 10], vec![3 << 10, 1]),
        (vec![3 << 10, 1 << 10], vec![1, 3 << 10]),
        (vec![3, 1 << 20], vec![1 << 20, 1]),
        (vec![256, 1024, 3, 4], vec![12_288, 1, 4096, 1024]),
        (vec![1, 700_000], vec![7, 4]),
    ] {
        let entry = Entry {
            view: Some(View { offset: 0, strides: strides.clone() }),
            crc32c: None,
            ..Entry::plain("x", Number::F32, shape.clone(), storage.clone())
        };
        let found = Found { entries: vec![entry], ..Found::default() };
        let files = vec![(path.clone(), File::open(&path).unwrap())];
        let file = TensorFile::checked(&path, Format::TorchZip, files, found).unwrap();
        let whole = |numbers: &[usize]| numbers.iter().map(|n| *n as i64).collect::<Vec<i64>>();
        let expected = numbers.as_strided(whole(&shape), whole(&strides), None);
        assert_eq!(file.tensor(&file.entries()[0]).unwrap(), expected, "{shape:?}");
    }
    // All of a storage, highest byte first, under its checksum.
    let checksum = crc32c::crc32c(&bytes);
    let entry = |crc32c| Entry {
        big_endian: true,
        crc32c: Some(crc32c),
        ..Entry::plain("x", Number::F32, vec![3 << 20], storage.clone())
    };
    let load = |crc32c| {
        let found = Found { entries: vec![entry(crc32c)], ..Found::default() };
        let files = vec![(path.clone(), File::open(&path).unwrap())];
        let file = TensorFile::checked(&path, Format::TensorFlow, files, found).unwrap();
        file.tensor(&file.entries()[0])
    };
    let swapped = load(checksum).unwrap();
    let expected = f32::from_bits(1234f32.to_bits().swap_bytes());
    assert!((swapped.double_value(&[1234]) - f64::from(expected)).abs() < 1e-12);
    assert!(load(checksum ^ 1).unwrap_err().to_string().contains("checksum"));
}

#[test]
fn no_mutant_panics_or_blames_anything_but_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mutant");
    let tried = |name: &str, count: usize, seed: u64| {
        let whole = fs::read(golden(name)).unwrap();
        let mut mutator = Mutator::new(&whole, seed);
        let (mut opened, mut loaded) = (0, 0);
        for _ in 0..count {
            fs::write(&path, mutator.next_mutant()).unwrap();
            let file = match TensorFile::open(&path) {
                Ok(file) => file,
                Err(Error::Weights(_)) => continue,
                Err(other) => panic!("{name}: {other:?} does not blame the file"),
            };
            opened += 1;
            for entry in file.entries().iter().take(40) {
                match file.tensor(entry) {
                    Ok(tensor) => assert_eq!(tensor.numel(), entry.count()),
                    Err(Error::Weights(_)) => {}
                    Err(other) => panic!("{name}: {other:?} does not blame the file"),
                }
            }
            match Import::plan(&file, &Stated::default()).and_then(|plan| plan.complete(&file)) {
                Ok(()) => loaded += 1,
                Err(Error::Weights(_)) => {}
                Err(other) => panic!("{name}: {other:?} does not blame the file"),
            }
        }
        assert!(opened > count / 50 && loaded < count, "{name}: {opened} opened, {loaded} loaded");
    };
    tried("views.pth", 1_500, 1);
    tried("views-legacy.pth", 1_500, 2);
    tried("cld.t7", 300, 3);
    tried("solo-cifar.ckpt", 300, 4);
    tried("numpy.4.pkl", 300, 5);
    tried("bare.safetensors", 300, 6);
    tried("script.pt", 200, 7);
}
