//! Against what SimCLR's own code calls its variables and answers: `tests/golden/simclr_tf.json`.

use super::*;
use crate::model::{Head, Parameters, Phase, ResNet};
use crate::weights::tensorflow::Bundle;
use crate::weights::tensorflow::testing::Draft;
use serde::Deserialize;
use std::path::Path;
use tch::{Device, Kind, no_grad};

#[derive(Deserialize)]
struct Golden {
    tables: Vec<Table>,
    answers: Vec<Answers>,
}

#[derive(Deserialize)]
struct Table {
    depth: usize,
    width: f64,
    sk: bool,
    projector: usize,
    variables: usize,
    backbone: usize,
    crc32: u32,
}

#[derive(Deserialize)]
struct Answers {
    depth: usize,
    width: f64,
    sk: bool,
    stem: String,
    projector: usize,
    images: [i64; 4],
    variables: Vec<(String, Vec<i64>)>,
    h: Vec<f32>,
    z: Option<Vec<f32>>,
    logits: Vec<f32>,
}

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/simclr_tf.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn config(depth: usize, width: f64, sk: bool, stem: &str) -> BackboneConfig {
    let name = match depth {
        18 => Architecture::ResNet18,
        34 => Architecture::ResNet34,
        50 => Architecture::ResNet50,
        101 => Architecture::ResNet101,
        152 => Architecture::ResNet152,
        _ => Architecture::ResNet200,
    };
    let (stem, sk_ratio) = match (stem, sk) {
        ("cifar", _) => (Stem::Cifar, if sk { SK_RATIO } else { 0.0 }),
        (_, true) => (Stem::ResNetD, SK_RATIO),
        _ => (Stem::ImageNet, 0.0),
    };
    BackboneConfig {
        width,
        stem,
        sk_ratio,
        flavor: Flavor::SimclrTf,
        initialization: BackboneInitialization::SimClr,
        zero_init_residual: true,
        ..BackboneConfig::new(name)
    }
}

/// The variables of a network by our table, with a projector of that many layers and a linear head of 1000 classes.
fn listing(config: &BackboneConfig, projector: usize) -> Vec<(String, Vec<i64>)> {
    let suffix = |number: usize| if number == 0 { String::new() } else { format!("_{number}") };
    let (mut kernels, mut norms) = (0, 0);
    let mut found = Vec::new();
    let norm = |place: &str, channels: i64, shift: bool| {
        let values = NORM.iter().filter(|(theirs, _)| shift || *theirs != "beta");
        let all = values.map(|(theirs, _)| (format!("{place}/{theirs}"), vec![channels]));
        all.collect::<Vec<_>>()
    };
    for layer in creation_order(config) {
        match layer {
            Layer::Kernel { geometry: g, .. } => {
                let shape = vec![g.kernel, g.kernel, g.inputs, g.outputs];
                found.push((format!("base_model/conv2d{}/kernel", suffix(kernels)), shape));
                kernels += 1;
            }
            Layer::Norm { channels, .. } => {
                let place = format!("base_model/batch_normalization{}", suffix(norms));
                found.extend(norm(&place, channels, true));
                norms += 1;
            }
        }
    }
    let features = config.features();
    for level in 0..projector {
        let last = level + 1 == projector;
        let outputs = if last { 128 } else { features };
        let place = format!("head_contrastive/nl_{level}");
        found.push((format!("{place}/dense/kernel"), vec![features, outputs]));
        found.extend(norm(&format!("{place}/batch_normalization"), outputs, !last));
    }
    found.push(("head_supervised/linear_layer/dense/kernel".into(), vec![features, 1000]));
    found.push(("head_supervised/linear_layer/dense/bias".into(), vec![1000]));
    found.sort();
    found
}

fn recognised(variables: &[(String, Vec<i64>)], choice: Choice) -> Result<Network> {
    recognise(variables.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())), choice)
}

/// A linear head on the features.
const ON_H: Choice = Choice { average: false, converter: false, tap: Some(0) };

/// Names and shapes of variables.
type Variables = Vec<(String, Vec<i64>)>;

#[test]
fn every_table_is_that_of_the_code_and_is_recognised() {
    for Table { depth, width, sk, projector, variables, backbone, crc32 } in golden().tables {
        let expected = config(depth, width, sk, "imagenet");
        let listing = listing(&expected, projector);
        let what = format!("r{depth}_{width}x_sk{}", i32::from(sk));
        assert_eq!(listing.len(), variables, "{what}");
        let mut crc = flate2::Crc::new();
        for (name, shape) in &listing {
            let shape: Vec<String> = shape.iter().map(i64::to_string).collect();
            crc.update(format!("{name} {}\n", shape.join(" ")).as_bytes());
        }
        assert_eq!(crc.sum(), crc32, "{what}");
        let undecided = recognised(&listing, Choice::default()).unwrap();
        assert_eq!(undecided.classes.is_none(), projector > 0, "{what}");
        let network = recognised(&listing, ON_H).unwrap();
        assert_eq!(network.config, expected, "{what}");
        let of_backbone = network.tensors.iter().filter(|t| t.target.starts_with("backbone."));
        assert_eq!(of_backbone.count(), backbone, "{what}");
        assert_eq!(network.classes, Some(1000));
        assert_eq!(network.projector.map_or(0, |head| head.layers), projector);
    }
    let counts = |name, sk| {
        let layers = creation_order(&config(name, 1.0, sk, "imagenet"));
        let kernels = layers.iter().filter(|l| matches!(l, Layer::Kernel { .. })).count();
        (kernels, layers.len() - kernels)
    };
    assert_eq!(counts(50, false), (53, 53));
    assert_eq!(counts(101, false), (104, 104));
    assert_eq!(counts(152, false), (155, 155));
    assert_eq!(counts(50, true), (87, 71));
    assert_eq!(counts(101, true), (172, 139));
    assert_eq!(counts(152, true), (257, 207));
}

/// Uniform in [−1, 1), 24 bits, from the tag and the position in row-major order.
fn noise(tag: u64, shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>() as u64;
    let value = |position: u64| {
        let mut x = (position + (tag << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x ^= x >> 32;
        x = x.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        x ^= x >> 32;
        (x >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    Tensor::from_slice(&(0..count).map(value).collect::<Vec<f64>>()).view(shape)
}

/// What the script gives a variable.
fn filled(name: &str, shape: &[i64]) -> Tensor {
    let mut crc = flate2::Crc::new();
    crc.update(name.as_bytes());
    let u = noise(u64::from(crc.sum() & 0xFFFFF), shape);
    let value = match name.rsplit('/').next().unwrap() {
        "kernel" => {
            let inputs = shape[..shape.len() - 1].iter().product::<i64>();
            u * (3.0 / inputs as f64).sqrt()
        }
        "moving_variance" => u * 0.3 + 1.0,
        "gamma" => u * 0.2 + 1.0,
        _ => u * 0.1,
    };
    value.to_kind(Kind::Float)
}

fn near(what: &str, found: &Tensor, expected: &[f32]) {
    let expected = Tensor::from_slice(expected).view_as(found);
    let off = (found - &expected).abs().max().double_value(&[]);
    let size = expected.abs().max().double_value(&[]);
    assert!(off <= 1e-4 * size, "{what}: off by {off} of {size}");
}

/// A checkpoint with noise in every variable, written, opened, mapped and run.
#[test]
fn networks_from_checkpoints_answer_as_the_code() {
    for answers in golden().answers {
        let what = format!("r{}_sk{} {}", answers.depth, i32::from(answers.sk), answers.stem);
        let folder = tempfile::tempdir().unwrap();
        let mut draft = Draft::default();
        for (name, shape) in &answers.variables {
            draft.add(name, &filled(name, shape));
        }
        draft.add("global_step", &Tensor::from(7i64));
        let bundle = Bundle::open(&draft.save(folder.path(), "model.ckpt-7")).unwrap();
        let entries = bundle.entries().iter();
        let network =
            recognise(entries.map(|(name, entry)| (name.as_str(), entry.shape.as_slice())), ON_H)
                .unwrap();
        assert_eq!(network.config, config(answers.depth, answers.width, answers.sk, &answers.stem));
        assert_eq!(network.dropped, [("global_step".to_owned(), "counters")]);

        let mut parameters = Parameters::new(1, Device::Cpu, Kind::Float);
        let backbone =
            ResNet::build(&mut parameters.root().at("backbone"), &network.config).unwrap();
        let features = network.config.features();
        let projector = network.projector.as_ref().map(|head| {
            Head::build(&mut parameters.root().at("projector"), features, head).unwrap()
        });
        let mut values = BTreeMap::new();
        for mapped in &network.tensors {
            let value = Tensor::zeros(&mapped.shape, (Kind::Float, Device::Cpu));
            if let Some(name) = &mapped.source {
                mapped.layout.as_theirs(&value).copy_(&bundle.tensor(name).unwrap());
            }
            values.insert(mapped.target.clone(), value);
        }
        parameters.load(&values).unwrap();
        let images = noise(1 << 20, &answers.images).to_kind(Kind::Float);
        let h = no_grad(|| backbone.forward(&images, Phase::Evaluation));
        near(&what, &h, &answers.h);
        assert_eq!(projector.is_some(), answers.projector > 0);
        if let (Some(head), Some(expected)) = (projector, &answers.z) {
            near(&what, &no_grad(|| head.forward(&h, Phase::Evaluation)), expected);
        }
        let (weight, bias) = (&values["classifier.weight"], &values["classifier.bias"]);
        near(&what, &no_grad(|| h.linear(weight, Some(bias))), &answers.logits);
    }
}

/// What `tests/weights.rs` gives to the program: a narrow network of this code. `DIPTYCH_BLESS=1` writes it anew.
#[test]
fn the_stored_checkpoint_is_that_of_a_narrow_network() {
    let mut draft = Draft::default();
    for (name, shape) in listing(&config(18, 0.03125, false, "imagenet"), 2) {
        draft.add(&name, &filled(&name, &shape));
    }
    draft.add("global_step", &Tensor::from(7i64));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tensorflow/simclr");
    if std::env::var_os("DIPTYCH_BLESS").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        draft.save(&folder, "model.ckpt-7");
    }
    let stored =
        |ending: &str| std::fs::read(folder.join(format!("model.ckpt-7{ending}"))).unwrap();
    assert!(stored(".index") == draft.index());
    assert!(stored(".data-00000-of-00001") == draft.data);
}

#[test]
fn the_moving_average_is_another_network() {
    let plain = listing(&config(50, 0.25, false, "imagenet"), 3);
    assert!(recognised(&plain, Choice { average: true, ..Choice::default() }).is_err());
    let mut both = plain.clone();
    for (name, shape) in &plain {
        if !name.starts_with("head_supervised") {
            both.push((format!("ema_model/{name}"), shape.clone()));
            both.push((format!("{name}/Momentum"), shape.clone()));
        }
    }
    let weights = recognised(&both, Choice::default()).unwrap();
    let average = recognised(&both, Choice { average: true, ..Choice::default() }).unwrap();
    assert!(weights.has_average && average.has_average);
    assert_eq!(weights.config, average.config);
    for (one, other) in weights.tensors.iter().zip(&average.tensors) {
        assert_eq!(one.target, other.target);
        let expected = one.source.as_ref().map(|name| match name.split('/').next() {
            Some("head_supervised") => name.clone(),
            _ => format!("ema_model/{name}"),
        });
        assert_eq!(other.source, expected);
    }
    let named = |network: &Network| network.dropped_by_kind().into_keys().collect::<Vec<_>>();
    assert_eq!(named(&weights), ["moving averages", "state of the optimizer"]);
    let copies = ["state of the optimizer", "weights beside the moving average"];
    assert_eq!(named(&average), copies);
    let converted = recognised(&both, Choice { converter: true, ..Choice::default() }).unwrap();
    assert_eq!(converted.config.flavor, Flavor::SimclrConverter);
}

#[test]
fn names_of_tensorflow_2_are_the_same_layers() {
    let expected = config(50, 0.25, true, "imagenet");
    let plain = listing(&expected, 2);
    let renamed: Vec<(String, Vec<i64>)> = plain
        .iter()
        .map(|(name, shape)| {
            let name = name
                .replace("base_model/", "resnet/block_group1/bottleneck_block_3/")
                .replace("head_contrastive/nl_1/dense/", "projection_head/nl_1/dense_1/")
                .replace("head_contrastive/", "projection_head/")
                .replace(
                    "head_supervised/linear_layer/dense/",
                    "head_supervised/linear_layer/dense_2/",
                );
            (format!("{name}:0"), shape.clone())
        })
        .collect();
    let (one, other) =
        (recognised(&plain, Choice::default()), recognised(&renamed, Choice::default()));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.config, other.config);
    let targets = |network: &Network| {
        network.tensors.iter().map(|tensor| tensor.target.clone()).collect::<Vec<_>>()
    };
    assert_eq!(targets(&one), targets(&other));
}

#[test]
fn what_is_no_such_network_is_refused_by_its_layer() {
    let plain = listing(&config(50, 0.25, false, "imagenet"), 3);
    let with = |change: &dyn Fn(&mut Variables)| {
        let mut variables = plain.clone();
        change(&mut variables);
        recognised(&variables, ON_H).unwrap_err().to_string()
    };
    let at = |variables: &mut Vec<(String, Vec<i64>)>, name: &str| {
        variables.iter().position(|(other, _)| other == name).unwrap()
    };
    let message = with(&|v| {
        let place = at(v, "base_model/conv2d_10/kernel");
        v[place].1[3] += 1;
    });
    assert!(message.contains("ResNet50 at width 0.25: `base_model/conv2d_10/kernel`"), "{message}");
    let message = with(&|v| v.retain(|(name, _)| !name.contains("conv2d_7/")));
    assert!(message.contains("has 52 convolutions"), "{message}");
    let message =
        with(&|v| v.retain(|(name, _)| name != "base_model/batch_normalization_3/moving_mean"));
    assert!(message.contains("running_mean` is missing"), "{message}");
    let message = with(&|v| v.retain(|(name, _)| !name.contains("nl_1/dense")));
    assert!(message.contains("nl_1 has no matrix"), "{message}");
    let message = with(&|v| v.retain(|(name, _)| !name.contains("nl_1/")));
    assert!(message.contains("there is no layer nl_1"), "{message}");
    let message = with(&|v| v.retain(|(name, _)| !name.starts_with("base_model")));
    assert!(message.contains("no backbone of SimCLR"), "{message}");
    let message = with(&|v| {
        let place = at(v, "head_supervised/linear_layer/dense/kernel");
        v[place].1[0] -= 1;
    });
    assert!(message.contains("does not fit 512 features"), "{message}");
    let message = with(&|v| v.push(("base_model/gate/scale".into(), vec![4])));
    assert!(
        message.contains("1 variables") && message.contains("`base_model/gate/scale`"),
        "{message}"
    );
    let message = with(&|v| v.push(("loss_scale".into(), vec![])));
    assert!(message.contains("`loss_scale`"), "{message}");
    let message = with(&|v| v.push(("model/resnet/conv2d_3/kernel".into(), vec![1, 1, 16, 16])));
    assert!(message.contains("same layer of two networks"), "{message}");
}

/// Fine-tuning with 1 % and 10 % of the labels puts the linear head onto the first layer of the projector, which is as
/// wide as the features.
#[test]
fn what_the_linear_head_reads_is_published_or_must_be_stated() {
    let variables = listing(&config(18, 0.03125, false, "imagenet"), 3);
    let mut draft = Draft::default();
    for (name, shape) in &variables {
        draft.add(name, &filled(name, shape));
    }
    let folder = tempfile::tempdir().unwrap();
    let found = |name: &str, choice: Choice| {
        let bundle = Bundle::open(&draft.save(folder.path(), name)).unwrap();
        find(&bundle, choice).unwrap()
    };
    let plain = Choice::default();
    for (step, tap) in [(751, 1), (3754, 1), (37535, 0), (250_228, 0), (28151, 0)] {
        let network = found(&format!("model.ckpt-{step}"), plain);
        assert_eq!((network.tap, network.classes), (tap, Some(1000)), "{step}");
    }
    let unknown = found("model.ckpt-7", plain);
    assert_eq!((unknown.tap, unknown.classes), (0, None));
    assert_eq!(unknown.dropped_by_kind(), BTreeMap::from([(UNDECIDED, 2)]));
    assert!(!unknown.tensors.iter().any(|tensor| tensor.target.starts_with("classifier.")));
    let stated = found("model.ckpt-751", ON_H);
    assert_eq!((stated.tap, stated.classes), (0, Some(1000)));
    let message = recognised(&variables, Choice { tap: Some(4), ..plain }).unwrap_err().to_string();
    assert!(message.contains("no layer g4: the projection head has 3 layers"), "{message}");
    // Of the width of the last layer it is none on the features.
    let mut narrow = variables.clone();
    let kernel = narrow.iter_mut().find(|(name, _)| name.ends_with("linear_layer/dense/kernel"));
    kernel.unwrap().1[0] = 128;
    assert!(recognised(&narrow, ON_H).is_err());
    assert_eq!(recognised(&narrow, Choice { tap: Some(3), ..plain }).unwrap().tap, 3);
}
