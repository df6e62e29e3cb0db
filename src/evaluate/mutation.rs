//! Mutants of stored features, weights and records: each is read or is an error that blames the file, never a panic.

use super::features::{Damaged, Description, Features};
use super::record::{Cut, DataUsed, Record, WeightsUsed, hash_classes};
use super::weights::Weights;
use crate::augment::Preprocess;
use crate::data::mutation::Mutator;
use crate::error::{Error, Result};
use crate::model::{BackboneConfig, Parameters, ResNet};
use crate::train::checkpoint;
use crate::train::journal::Journal;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Whether a file was read; if not, the error is about weights.
fn judged<T>(outcome: Result<T>) -> bool {
    match outcome {
        Ok(_) => true,
        Err(Error::Weights(_)) => false,
        Err(other) => panic!("{other:?} does not blame the file"),
    }
}

/// How many of `count` mutants of a file were read.
fn read_of(path: &Path, count: usize, seed: u64, mut read: impl FnMut() -> bool) -> usize {
    let whole = fs::read(path).unwrap();
    let mut mutator = Mutator::new(&whole, seed);
    let mut found = 0;
    for _ in 0..count {
        fs::write(path, mutator.next_mutant()).unwrap();
        found += usize::from(read());
    }
    fs::write(path, whole).unwrap();
    found
}

fn description() -> Description {
    Description {
        classes: vec!["cat".into(), "dog".into()],
        diptych: "0.1.0".into(),
        fingerprint: "f00d".into(),
        format: "numbers".into(),
        height: 2,
        images: 4,
        interpolation: "none".into(),
        layer: "h".into(),
        mean: [0.5; 3],
        precision: "float32".into(),
        preprocess: "cifar".into(),
        split: "all".into(),
        std: [0.25; 3],
        weights: "beef".into(),
        width: 2,
    }
}

fn stored_features(path: &Path) {
    let features = Features {
        h: Tensor::arange(9, (Kind::Float, Device::Cpu)).view([3, 3]),
        labels: Tensor::from_slice(&[0i64, 1, -1]),
        index: Tensor::from_slice(&[0i64, 1, 3]),
        paths: ["a", "b", "d"].map(str::to_owned).into(),
        damaged: vec![Damaged { index: 2, path: "c".into(), reason: "cut off".into() }],
    };
    features.save(path, &description()).unwrap();
}

#[test]
fn features_and_the_paths_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.safetensors");
    stored_features(&path);
    let read = || judged(Features::load(&path));
    assert!((50..2_500).contains(&read_of(&path, 3_000, 1, read)));
    let beside = folder.path().join("h.paths.txt");
    assert!((10..500).contains(&read_of(&beside, 500, 2, read)));
}

#[test]
fn features_of_a_smaller_kind_are_not_read_beyond_their_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.safetensors");
    stored_features(&path);
    let whole = fs::read(&path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&whole).unwrap();
    // The same bytes under the same hash, said to be more numbers of a smaller kind.
    let file = SafeTensors::deserialize(&whole).unwrap();
    let as_bytes = |name: &str, kind, shape: Vec<usize>| {
        TensorView::new(kind, shape, file.tensor(name).unwrap().data()).unwrap()
    };
    let tensors = [
        ("h", as_bytes("h", Dtype::U8, vec![3, 12])),
        ("label", as_bytes("label", Dtype::I64, vec![3])),
        ("index", as_bytes("index", Dtype::I64, vec![3])),
    ];
    safetensors::serialize_to_file(tensors, metadata.metadata().clone(), &path).unwrap();
    let message = Features::load(&path).unwrap_err().to_string();
    assert!(message.contains("`h` must be F32, found U8"), "{message}");
}

/// A network of every name that torchvision gives, as narrow as can be, in a file.
fn narrow(path: &Path) -> BTreeMap<String, Tensor> {
    let config: BackboneConfig =
        serde_json::from_str(r#"{"name":"resnet18","width":0.015625}"#).unwrap();
    let mut parameters = Parameters::new(1, Device::Cpu, Kind::Float);
    ResNet::build(&mut parameters.root(), &config).unwrap();
    let named = parameters.all().iter().map(|p| (p.name.clone(), p.tensor.detach().contiguous()));
    let tensors: BTreeMap<String, Tensor> = named.collect();
    write(path, &tensors);
    tensors
}

fn write(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    let all: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    Tensor::write_safetensors(&all, path).unwrap();
}

#[test]
fn weights_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    narrow(&path);
    let read = || judged(Weights::load(&path, Device::Cpu));
    assert!(read());
    assert!((20..380).contains(&read_of(&path, 400, 3, read)));
}

#[test]
fn a_small_file_that_asks_for_a_large_network_is_refused_before_it_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let mut tensors = narrow(&path);
    // Without an element, a stem may have any number of channels.
    let stem = Tensor::zeros([64 * 64, 0, 7, 7], (Kind::Float, Device::Cpu));
    tensors.insert("conv1.weight".to_owned(), stem);
    write(&path, &tensors);
    let message = Weights::load(&path, Device::Cpu).err().unwrap().to_string();
    assert!(message.contains("0 matched") && message.contains("[4096, 0, 7, 7]"), "{message}");
    let stem = Tensor::zeros([1 << 40, 0, 7, 7], (Kind::Float, Device::Cpu));
    tensors.insert("conv1.weight".to_owned(), stem);
    write(&path, &tensors);
    assert!(!judged(Weights::load(&path, Device::Cpu)));

    // The header of a checkpoint may ask for as much.
    for width in [64.0, 1e300, -1.0] {
        let model = serde_json::json!({
            "backbone": {"name": "resnet152", "width": width},
            "preprocess": Preprocess::named("cifar").unwrap(),
        });
        let state = BTreeMap::from([("step".to_owned(), Tensor::from(1i64))]);
        checkpoint::save(folder.path(), 1, (&model, &Journal::default()), &state).unwrap();
        assert!(!judged(Weights::load(&folder.path().join("last.safetensors"), Device::Cpu)));
    }
}

#[test]
fn a_checkpoint_says_how_images_are_prepared_only_in_ways_that_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({"name": "resnet18", "width": 1.0 / 64.0});
    let plain = folder.path().join("weights.safetensors");
    let state: BTreeMap<String, Tensor> = narrow(&plain)
        .into_iter()
        .map(|(name, tensor)| (format!("backbone.{name}"), tensor))
        .collect();
    let load = |sizing: serde_json::Value, std: f64| {
        let mut preprocess = serde_json::to_value(Preprocess::named("cifar").unwrap()).unwrap();
        preprocess["sizing"] = sizing;
        preprocess["std"] = serde_json::json!([std, 0.25, 0.25]);
        let model = serde_json::json!({"backbone": config, "preprocess": preprocess});
        checkpoint::save(folder.path(), 1, (&model, &Journal::default()), &state).unwrap();
        judged(Weights::load(&folder.path().join("last.safetensors"), Device::Cpu))
    };
    let exact = |size_px: u64| serde_json::json!({"kind": "exact", "size_px": size_px});
    assert!(load(exact(32), 0.25));
    assert!(!load(exact(0), 0.25) && !load(exact(1 << 40), 0.25) && !load(exact(32), 0.0));
    let cut = |resize_px: u64, crop_px: u64| serde_json::json!({"kind": "shorter_side", "resize_px": resize_px, "crop_px": crop_px});
    assert!(load(cut(256, 224), 0.25));
    assert!(!load(cut(224, 256), 0.25) && !load(cut(1 << 50, 224), 0.25));
    let part = |fraction: f64| serde_json::json!({"kind": "central_square", "fraction": fraction, "size_px": 224});
    assert!(load(part(0.875), 0.25));
    assert!(!load(part(0.0), 0.25) && !load(part(1.5), 0.25));
}

#[test]
fn records() {
    let folder = tempfile::tempdir().unwrap();
    let record = Record {
        protocol: "knn".into(),
        version: 1,
        metric: "top1".into(),
        value: 0.5,
        interval_95: Some([0.4, 0.6]),
        repeats: None,
        also: BTreeMap::new(),
        baselines: BTreeMap::new(),
        settings: BTreeMap::from([("k".to_owned(), 200.into())]),
        chosen: BTreeMap::new(),
        data: DataUsed {
            location: "here".into(),
            format: "numbers".into(),
            fingerprint: "f00d".into(),
            references: 50,
            queries: 10,
            damaged: 0,
            classes: 2,
            class_list_hash: hash_classes(&["cat".into()]),
            cut: Cut::default(),
        },
        weights: WeightsUsed::frozen("w", "aa".into(), "aa".into(), 1).unwrap(),
        layer: "h".into(),
        preprocess: "cifar".into(),
        mean: None,
        std: None,
        seed: 0,
        choice: "last".into(),
        wall_seconds: 1.5,
        device: "cpu".into(),
        threads: 2,
        diptych: "0.1.0".into(),
        revision: None,
    };
    let path = record.save(folder.path()).unwrap();
    let read = || match Record::load(&path) {
        Ok(_) => true,
        Err(Error::Run(_)) => false,
        Err(other) => panic!("{other:?} does not blame the record"),
    };
    assert!((100..2_900).contains(&read_of(&path, 3_000, 4, read)));
}
