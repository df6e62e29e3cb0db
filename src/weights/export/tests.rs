//! Every format is written, read back and compared; names and files themselves are held to other programs by
//! `tests/weights/check_exports.py`.

use super::*;
use crate::model::resnet::{Architecture, Flavor, Stem};
use crate::model::{Head, Parameters, ResNet, heads::OutputNorm};
use crate::weights::TensorFile;
use std::fs;
use tch::{Device, Kind, no_grad};

struct Sample {
    config: BackboneConfig,
    tensors: BTreeMap<String, Tensor>,
    projector: HeadConfig,
    preprocess: Preprocess,
}

impl Sample {
    fn model(&self) -> Model<'_> {
        Model {
            config: &self.config,
            tensors: &self.tensors,
            projector: Some((self.projector.clone(), self.projector.layers)),
            classifier_behind: 0,
            preprocess: Some(&self.preprocess),
        }
    }
}

/// A narrow network whose every value is drawn, statistics included, with a projector and a classifier of 5 classes.
fn sample(config: BackboneConfig, projector: HeadConfig) -> Sample {
    let mut parameters = Parameters::new(3, Device::Cpu, Kind::Float);
    ResNet::build(&mut parameters.root().at("backbone"), &config).unwrap();
    Head::build(&mut parameters.root().at("projector"), config.features(), &projector).unwrap();
    let mut tensors = BTreeMap::new();
    for (number, parameter) in parameters.all().iter().enumerate() {
        let wave = Tensor::arange(parameter.tensor.numel() as i64, (Kind::Float, Device::Cpu));
        let wave = (wave * 0.7 + number as f64).sin().view_as(&parameter.tensor);
        let value = match parameter.name.rsplit('.').next().unwrap() {
            "running_var" => wave * 0.3 + 1.0,
            "running_mean" | "bias" => wave * 0.1,
            _ if parameter.tensor.dim() == 1 => wave * 0.2 + 1.0,
            _ => parameter.tensor.detach().copy(),
        };
        tensors.insert(parameter.name.clone(), value);
    }
    let wave = Tensor::arange(5 * config.features(), (Kind::Float, Device::Cpu)).sin() * 0.1;
    tensors.insert("classifier.weight".into(), wave.view([5, config.features()]));
    tensors.insert("classifier.bias".into(), Tensor::from_slice(&[0.1f32, -0.2, 0.3, 0.0, 1.0]));
    Sample { config, tensors, projector, preprocess: Preprocess::named("imagenet").unwrap() }
}

fn plain(name: Architecture) -> Sample {
    let config = BackboneConfig { width: 0.125, ..BackboneConfig::new(name) };
    sample(config, HeadConfig { output: 6, ..HeadConfig::default() })
}

fn selective() -> Sample {
    let config = BackboneConfig {
        width: 0.125,
        stem: Stem::ResNetD,
        flavor: Flavor::SimclrTf,
        sk_ratio: 0.0625,
        ..BackboneConfig::new(Architecture::ResNet50)
    };
    sample(config, HeadConfig { layers: 3, output: 6, ..HeadConfig::default() })
}

fn head() -> Options {
    Options { head: true, ..Options::default() }
}

/// Differences of large numbers: what folding rounds shows, and is no reason to refuse the network.
#[test]
fn a_network_that_magnifies_rounding_is_exported_and_told() {
    const LARGE: f64 = 3e4;
    let mut sample = plain(Architecture::ResNet50);
    let tensors = &mut sample.tensors;
    let bias = &tensors["backbone.bn1.bias"] + LARGE;
    tensors.insert("backbone.bn1.bias".into(), bias);
    for (convolution, norm) in [("conv1", "bn1"), ("downsample.0", "downsample.1")] {
        let weight = &tensors[&format!("backbone.layer1.0.{convolution}.weight")];
        let mean = weight.sum_dim_intlist([1, 2, 3].as_slice(), false, Kind::Float) * LARGE;
        tensors.insert(format!("backbone.layer1.0.{norm}.running_mean"), mean);
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.onnx");
    let written = export(&sample.model(), Format::Onnx, &head(), &out).unwrap();
    assert!(written.difference > TOLERANCE && written.difference < 0.1, "{}", written.difference);
    assert!(written.notes.iter().any(|note| note.contains("magnifies rounding")), "{written:?}");
    // The tensors as they are have nothing to round.
    let out = folder.path().join("a.safetensors");
    let written = export(&sample.model(), Format::Timm, &head(), &out).unwrap();
    let told = written.notes.iter().any(|note| note.contains("magnifies rounding"));
    assert!(written.difference == 0.0 && !told, "{written:?}");
}

#[test]
fn every_format_gives_the_features_back() {
    let folder = tempfile::tempdir().unwrap();
    for (sample, name) in
        [(plain(Architecture::ResNet18), "a"), (plain(Architecture::ResNet50), "b")]
    {
        for (format, ending, head) in [
            (Format::Torchvision, ".safetensors", true),
            (Format::Torchvision, ".pth", true),
            (Format::Timm, ".safetensors", false),
            (Format::HuggingFace, "", true),
            (Format::Detectron2, ".pkl", false),
            (Format::Torch, ".pth", true),
            (Format::Safetensors, ".safetensors", true),
            (Format::Onnx, ".onnx", true),
        ] {
            let out = folder.path().join(format!("{name}.{}{ending}", format.name()));
            let options = Options { head, ..Options::default() };
            let written = export(&sample.model(), format, &options, &out).unwrap();
            assert!(written.difference < 1e-5, "{format:?}: {}", written.difference);
            // What holds the same tensors holds the same bits.
            assert!(format == Format::Onnx || written.difference == 0.0, "{format:?}");
            assert!(written.files.iter().all(|file| file.is_file()), "{format:?}");
            let first = fs::read(&written.files[0]).unwrap();
            export(&sample.model(), format, &options, &out).unwrap();
            assert!(first == fs::read(&written.files[0]).unwrap(), "{format:?}: other bytes");
        }
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left.len(), 16, "{left:?}");
}

#[test]
fn graphs_of_all_networks_and_heads_answer_as_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("graph.onnx");
    let with = |stem, flavor, name| {
        let config = BackboneConfig { width: 0.125, stem, flavor, ..BackboneConfig::new(name) };
        sample(config, HeadConfig { layers: 1, output: 6, ..HeadConfig::default() })
    };
    let mut samples = vec![selective()];
    for flavor in [Flavor::Torchvision, Flavor::SimclrTf, Flavor::SimclrConverter] {
        samples.push(with(Stem::ResNetD, flavor, Architecture::ResNet50));
        samples.push(with(Stem::ImageNet, flavor, Architecture::ResNet18));
    }
    for stem in [Stem::Cifar, Stem::CifarPad2, Stem::CifarNoRelu] {
        samples.push(with(stem, Flavor::Torchvision, Architecture::ResNet18));
    }
    for (batch_norm, output_batch_norm, norm_linear) in [
        (true, OutputNorm::Affine, false),
        (true, OutputNorm::Plain, false),
        (false, OutputNorm::None, false),
        (false, OutputNorm::None, true),
    ] {
        let config = BackboneConfig { width: 0.125, ..BackboneConfig::new(Architecture::ResNet18) };
        let projector = HeadConfig {
            output: 6,
            batch_norm,
            output_batch_norm,
            norm_linear,
            ..HeadConfig::default()
        };
        samples.push(sample(config, projector));
    }
    for sample in &samples {
        for fold in [true, false] {
            let options = Options { fold, blocks: true, ..head() };
            let written = export(&sample.model(), Format::Onnx, &options, &out).unwrap();
            assert!(written.difference < 2e-5, "{:?}: {}", sample.config, written.difference);
        }
    }
}

#[test]
fn a_classifier_behind_a_layer_of_the_projector_is_computed_there() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("graph.onnx");
    let mut sample = plain(Architecture::ResNet18);
    sample.projector.hidden = Some(24);
    let mut parameters = Parameters::new(4, Device::Cpu, Kind::Float);
    let features = sample.config.features();
    Head::build(&mut parameters.root().at("projector"), features, &sample.projector).unwrap();
    for parameter in parameters.all() {
        sample.tensors.insert(parameter.name.clone(), parameter.tensor.detach());
    }
    let weight = Tensor::arange(5 * 24, (Kind::Float, Device::Cpu)).sin().view([5, 24]);
    sample.tensors.insert("classifier.weight".into(), weight);
    let behind = |sample: &Sample, layers: usize| {
        let model = Model { classifier_behind: layers, ..sample.model() };
        export(&model, Format::Onnx, &head(), &out)
    };
    let written = behind(&sample, 1).unwrap();
    assert!(written.difference < 2e-5 && written.left_out.is_empty(), "{written:?}");
    assert!(behind(&sample, 0).is_err(), "24 values are not the features");
    // Without the projector it is no output, which is told; and so is a projector that is not whole.
    sample.tensors.remove("projector.layers.0.linear.weight");
    let model = Model { projector: None, classifier_behind: 1, ..sample.model() };
    let written = export(&model, Format::Onnx, &head(), &out).unwrap();
    let told = |text: &str| written.left_out.iter().any(|line| line.contains(text));
    assert!(told("the projector") && told("not whole") && told("the classifier"), "{written:?}");
    // Our own format keeps what it sits behind.
    let out = folder.path().join("a.safetensors");
    export(&model, Format::Safetensors, &head(), &out).unwrap();
    let file = TensorFile::open(&out).unwrap();
    assert!(file.notes()[SETTINGS].contains(r#""classifier_behind":1"#));
}

#[test]
fn weights_beside_a_graph_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("graph.onnx");
    let options = Options { external_above: 0, ..head() };
    let written = export(&selective().model(), Format::Onnx, &options, &out).unwrap();
    let data = written.files[1].clone();
    let name = data.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(name.starts_with("graph.onnx.") && name.strip_suffix(".data").is_some(), "{name}");
    assert_eq!(written.files, [out.clone(), data.clone()]);
    assert!(fs::metadata(&out).unwrap().len() < fs::metadata(&data).unwrap().len() / 2);
    assert!(written.notes.iter().any(|note| note.contains(&format!("`{name}`"))));
    let files = || -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(folder.path()).unwrap().map(Result::unwrap);
        let name = |entry: &fs::DirEntry| entry.file_name().into_string().unwrap();
        entries.map(|entry| (name(&entry), fs::read(entry.path()).unwrap())).collect()
    };
    let first = files();
    assert_eq!(first.len(), 2);

    // Equal weights again are the same pair. What cannot be written leaves the pair that is there.
    export(&selective().model(), Format::Onnx, &options, &out).unwrap();
    assert_eq!(files(), first);
    let mut broken = selective();
    let nothing = broken.tensors["classifier.weight"].full_like(f64::NAN);
    broken.tensors.insert("classifier.weight".into(), nothing);
    assert!(export(&broken.model(), Format::Onnx, &options, &out).is_err());
    assert_eq!(files(), first);

    // Another network takes the place of both, and one that needs no second file of the graph alone.
    fs::write(folder.path().join("graph.onnx.notes.data"), "mine").unwrap();
    let other = plain(Architecture::ResNet18);
    let written = export(&other.model(), Format::Onnx, &options, &out).unwrap();
    assert_ne!(written.files[1], data);
    assert!(written.files[1].exists() && !data.exists());
    export(&other.model(), Format::Onnx, &head(), &out).unwrap();
    assert_eq!(files().into_keys().collect::<Vec<_>>(), ["graph.onnx", "graph.onnx.notes.data"]);
}

#[test]
fn what_a_system_has_not_is_refused_and_what_it_does_otherwise_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let refused = |sample: &Sample, format, options: &Options, name: &str| {
        let error = export(&sample.model(), format, options, &at(name)).unwrap_err().to_string();
        assert!(!at(name).exists());
        error
    };
    let usual = Options::default();
    let sk = selective();
    for (format, name) in [
        (Format::Torchvision, "a.pth"),
        (Format::Timm, "a.pth"),
        (Format::HuggingFace, "a"),
        (Format::Detectron2, "a.pkl"),
    ] {
        let message = refused(&sk, format, &usual, name);
        assert!(message.contains("no network with selective kernels"), "{message}");
        assert!(message.contains("`--format onnx` carries it"), "{message}");
    }
    let basic = sample(
        BackboneConfig {
            width: 0.125,
            flavor: Flavor::SimclrTf,
            ..BackboneConfig::new(Architecture::ResNet18)
        },
        HeadConfig::default(),
    );
    let message = refused(&basic, Format::Torchvision, &usual, "a.pth");
    assert!(message.contains("projection in the first group"), "{message}");
    let plain = plain(Architecture::ResNet18);
    let message = refused(&plain, Format::Detectron2, &head(), "a.pkl");
    assert!(message.contains("nothing for `--head`"), "{message}");
    assert!(message.contains("detectron2 has no place for it"), "{message}");
    let message = refused(&plain, Format::Onnx, &usual, "a.pth");
    assert!(message.contains("must end in .onnx"), "{message}");
    let message = refused(&plain, Format::Timm, &Options { fold: false, ..usual }, "a.pth");
    assert!(message.contains("are for `--format onnx`, not timm"), "{message}");

    // The same tensors, pooled otherwise.
    let simclr = sample(
        BackboneConfig {
            width: 0.125,
            flavor: Flavor::SimclrTf,
            ..BackboneConfig::new(Architecture::ResNet50)
        },
        HeadConfig::default(),
    );
    let written = export(&simclr.model(), Format::Torchvision, &usual, &at("b.pth")).unwrap();
    assert!(written.difference > 1e-3);
    assert!(written.notes.iter().any(|note| note.contains("pools in another way")));
    let told = |text: &str| written.left_out.iter().any(|line| line.contains(text));
    assert!(told("the projector") && told("the classifier") && told("`imagenet`, mean"));
    assert!(written.notes.iter().any(|note| note.contains("no network of width 0.125")));
}

#[test]
fn a_file_that_is_there_stays_when_the_new_one_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.safetensors");
    fs::write(&out, "old").unwrap();
    let mut broken = plain(Architecture::ResNet18);
    let weight = Tensor::full([8, 3, 7, 7], f64::NAN, (Kind::Float, Device::Cpu));
    broken.tensors.insert("backbone.conv1.weight".into(), weight);
    let error = export(&broken.model(), Format::Timm, &Options::default(), &out).unwrap_err();
    assert!(error.to_string().contains("gives other features"), "{error}");
    broken.tensors.remove("backbone.layer4.1.bn2.bias");
    let error = export(&broken.model(), Format::Timm, &Options::default(), &out).unwrap_err();
    assert!(error.to_string().contains("no tensor `backbone.layer4.1.bn2.bias`"), "{error}");
    assert_eq!(fs::read(&out).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn transformers_is_told_the_network_and_the_preparation() {
    let folder = tempfile::tempdir().unwrap();
    let sample = plain(Architecture::ResNet50);
    let out = folder.path().join("resnet");
    let written = export(&sample.model(), Format::HuggingFace, &head(), &out).unwrap();
    assert_eq!(written.files.len(), 3);
    let json = |name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(out.join(name)).unwrap()).unwrap()
    };
    let config = json("config.json");
    assert_eq!(config["hidden_sizes"], json!([32, 64, 128, 256]));
    assert_eq!(config["embedding_size"], 8);
    assert_eq!(config["depths"], json!([3, 4, 6, 3]));
    assert_eq!(config["layer_type"], "bottleneck");
    assert_eq!(config["architectures"], json!(["ResNetForImageClassification"]));
    assert_eq!(config["id2label"].as_object().unwrap().len(), 5);
    let preparation = json("preprocessor_config.json");
    assert_eq!(preparation["size"]["shortest_edge"], 256);
    assert_eq!(preparation["crop_size"]["height"], 224);
    let file = TensorFile::open(&out.join("model.safetensors")).unwrap();
    let names: Vec<&str> = file.entries().iter().map(|entry| entry.name.as_str()).collect();
    assert!(names.contains(&"classifier.1.weight"));
    assert!(names.contains(&"resnet.embedder.embedder.normalization.num_batches_tracked"));
}

/// What libtorch's own reader of such archives makes of ours.
#[test]
fn libtorch_reads_our_archives() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.pth");
    let sample = plain(Architecture::ResNet18);
    export(&sample.model(), Format::Torch, &head(), &out).unwrap();
    let found: BTreeMap<String, Tensor> = Tensor::loadz_multi(&out).unwrap().into_iter().collect();
    assert_eq!(found.len(), sample.tensors.len());
    for (name, tensor) in &sample.tensors {
        let theirs = name.strip_prefix("backbone.").unwrap_or(name);
        assert!(no_grad(|| found[theirs].equal(tensor)), "{name}");
    }
}
