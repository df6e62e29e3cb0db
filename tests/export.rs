//! Exports as other programs see them: networks of each kind are written in every format, and `tests/weights/check_exports.py`
//! loads them with torch, torchvision, timm, onnxruntime and transformers and compares features. Without these programs the
//! part in Python is left out with a message; `DIPTYCH_PYTHON` names another Python than `python3`, and
//! `DIPTYCH_FULL_EXPORTS=1` takes whole networks (ResNet-18, ResNet-50 at twice the width, one with selective kernels) in
//! place of narrow ones.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use assert_cmd::Command;
use diptych::augment::Preprocess;
use diptych::model::resnet::{Architecture, BackboneInitialization, Flavor, Stem};
use diptych::model::{BackboneConfig, Head, HeadConfig, Parameters, Phase, ResNet, Statistics};
use diptych::weights::export::{Format, Model, Options, export};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor, no_grad};

const CLASSES: i64 = 7;

struct Sample {
    config: BackboneConfig,
    tensors: BTreeMap<String, Tensor>,
    projector: HeadConfig,
    probe: Vec<(String, Tensor)>,
}

/// A network whose statistics are about those of what passes through, as a trained one's are, and what it gives.
fn sample(config: BackboneConfig) -> Sample {
    let config = BackboneConfig {
        initialization: BackboneInitialization::PyTorch,
        norm_momentum: 1.0,
        ..config
    };
    let projector = HeadConfig { output: 8, hidden: Some(16), ..HeadConfig::default() };
    let mut parameters = Parameters::new(5, Device::Cpu, Kind::Float);
    let backbone = ResNet::build(&mut parameters.root().at("backbone"), &config).unwrap();
    let features = config.features();
    let head = Head::build(&mut parameters.root().at("projector"), features, &projector).unwrap();
    let wave = |count: i64, shift: usize| {
        (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 0.37 + shift as f64).sin()
    };
    let seen = Phase::Training { groups: 1, statistics: Statistics::Move { seen: 0, of: 1 } };
    let set = |value: &dyn Fn(&str, &Tensor, Tensor) -> Option<Tensor>| {
        for (number, parameter) in parameters.all().iter().enumerate() {
            let wave = wave(parameter.tensor.numel() as i64, number).view_as(&parameter.tensor);
            if let Some(value) = value(&parameter.name, &parameter.tensor, wave) {
                parameter.tensor.shallow_clone().copy_(&value);
            }
        }
    };
    let last_of_branch = if config.name == Architecture::ResNet18 { "bn2" } else { "bn3" };
    no_grad(|| {
        // Branches are small beside what they are added to, else a deep network of random weights magnifies rounding.
        set(&|name, tensor, wave| match name.rsplit('.').next()? {
            "bias" => Some(wave * 0.1),
            "weight" if name.ends_with(&format!("{last_of_branch}.weight")) => {
                Some(wave * 0.1 + 0.2)
            }
            "weight" if tensor.dim() == 1 => Some(wave * 0.2 + 1.0),
            _ => None,
        });
        // Smooth images and noise, of different brightness: averages over whole maps must differ, for their norms.
        let smooth = wave(8 * 3 * 70 * 72, 5);
        let noise =
            ((&smooth.to_kind(Kind::Double) * 43_758.545_3).frac() * 2.0).to_kind(Kind::Float);
        let gain = (Tensor::arange(16, (Kind::Float, Device::Cpu)) * 1.7).sin().view([16, 1, 1, 1]);
        let images = Tensor::cat(&[smooth, noise], 0).view([16, 3, 70, 72]);
        let h = backbone.forward(&(images * (&gain + 1.2) + gain * 0.3), seen);
        let _ = head.forward(&h, seen);
        set(&|name, tensor, wave| match name.rsplit('.').next()? {
            "running_var" => Some((wave * 0.3 + 1.0) * tensor),
            "running_mean" => Some(wave * 0.1 + tensor),
            _ => None,
        });
        let weight = (wave(CLASSES * features, 3) * 0.1).view([CLASSES, features]);
        let bias = wave(CLASSES, 4);
        let images = wave(2 * 3 * 70 * 72, 9).view([2, 3, 70, 72]);
        let h = backbone.forward(&images, Phase::Evaluation);
        let z = head.forward(&h, Phase::Evaluation);
        let logits = h.linear(&weight, Some(&bias));
        let probe = [("images", images), ("h", h), ("z", z), ("logits", logits)];
        let all = parameters.all().iter();
        let mut tensors: BTreeMap<String, Tensor> =
            all.map(|p| (p.name.clone(), p.tensor.detach())).collect();
        tensors.insert("classifier.weight".into(), weight);
        tensors.insert("classifier.bias".into(), bias);
        let probe = probe.map(|(name, tensor)| (format!("probe.{name}"), tensor)).into();
        Sample { config, tensors, projector, probe }
    })
}

/// How far the features are from those in double precision, as a share of the largest: what rounding alone does.
fn rounding(sample: &Sample) -> f64 {
    let mut parameters = Parameters::new(5, Device::Cpu, Kind::Double);
    let network = ResNet::build(&mut parameters.root().at("backbone"), &sample.config).unwrap();
    parameters.load(&sample.tensors).unwrap();
    let of = |name: &str| {
        let (_, tensor) =
            sample.probe.iter().find(|(known, _)| known == &format!("probe.{name}")).unwrap();
        tensor.to_kind(Kind::Double)
    };
    let exact = no_grad(|| network.forward(&of("images"), Phase::Evaluation));
    let off = (&exact - of("h")).abs().max().double_value(&[]);
    off / exact.abs().max().double_value(&[])
}

/// Writes every format that has a place for the network, and what the script needs to judge them.
fn write_all(folder: &Path, title: &str, sample: &Sample) {
    let preprocess = Preprocess::named("imagenet").unwrap();
    let model = Model {
        config: &sample.config,
        tensors: &sample.tensors,
        projector: Some((sample.projector.clone(), sample.projector.layers)),
        classifier_behind: 0,
        preprocess: Some(&preprocess),
    };
    let usual = Options { head: true, ..Options::default() };
    let unfolded = Options { fold: false, blocks: true, ..usual };
    let external = Options { external_above: 0, ..usual };
    let backbone = Options { head: false, ..usual };
    let mut all = vec![
        (Format::Torch, usual, "torch.pth"),
        (Format::Safetensors, usual, "safetensors"),
        (Format::Onnx, usual, "onnx"),
        (Format::Onnx, unfolded, "unfolded.onnx"),
        (Format::Onnx, external, "external.onnx"),
    ];
    if sample.config.sk_ratio == 0.0 {
        all.push((Format::Torchvision, usual, "torchvision.pth"));
        all.push((Format::Timm, usual, "timm.safetensors"));
        all.push((Format::HuggingFace, usual, "huggingface"));
        all.push((Format::Detectron2, backbone, "detectron2.pkl"));
    }
    for (format, options, ending) in all {
        let out = folder.join(format!("{title}.{ending}"));
        let written = export(&model, format, &options, &out);
        let written = written.unwrap_or_else(|error| panic!("{title} {ending}: {error}"));
        assert!(written.difference < 1e-4, "{title} {ending}: {}", written.difference);
    }
    let name = serde_json::to_value(sample.config.name).unwrap();
    let told = json!({
        "name": name,
        "width": sample.config.width,
        "sk": sample.config.sk_ratio > 0.0,
        "classes": CLASSES,
    });
    std::fs::write(folder.join(format!("{title}.json")), told.to_string()).unwrap();
    let bare = |name: &str| name.strip_prefix("backbone.").unwrap_or(name).to_owned();
    let mut ours: Vec<(String, Tensor)> =
        sample.tensors.iter().map(|(name, tensor)| (bare(name), tensor.contiguous())).collect();
    ours.extend(sample.probe.iter().map(|(name, tensor)| (name.clone(), tensor.contiguous())));
    Tensor::write_safetensors(&ours, folder.join(format!("{title}.ours.safetensors"))).unwrap();
}

/// A Python with the programs, if there is one.
fn python() -> Option<String> {
    let python = std::env::var("DIPTYCH_PYTHON").unwrap_or_else(|_| "python3".into());
    let wanted = "import numpy, onnx, onnxruntime, safetensors, timm, torch, torchvision";
    let found = std::process::Command::new(&python).args(["-c", wanted]).output().ok()?;
    found.status.success().then_some(python)
}

#[test]
fn other_programs_read_every_export_and_give_the_same_features() {
    let Some(python) = python() else {
        eprintln!(
            "left out: no Python with torch, torchvision, timm, onnx and onnxruntime (DIPTYCH_PYTHON)"
        );
        return;
    };
    let full = std::env::var("DIPTYCH_FULL_EXPORTS").is_ok_and(|value| value == "1");
    let width = |whole: f64| if full { whole } else { whole / 8.0 };
    let simple = |name, whole| BackboneConfig { width: width(whole), ..BackboneConfig::new(name) };
    let selective = BackboneConfig {
        stem: Stem::ResNetD,
        flavor: Flavor::SimclrTf,
        sk_ratio: 0.0625,
        ..simple(Architecture::ResNet50, 1.0)
    };
    let folder = tempfile::tempdir().unwrap();
    for (title, config) in [
        ("r18_1x", simple(Architecture::ResNet18, 1.0)),
        ("r50_2x", simple(Architecture::ResNet50, 2.0)),
        ("r50_1x_sk1", selective),
    ] {
        let sample = sample(config);
        let rounding = rounding(&sample);
        eprintln!("{title}: rounding {rounding:.1e}");
        assert!(
            rounding < 3e-5,
            "{title}: a network that magnifies rounding shows nothing: {rounding:e}"
        );
        write_all(folder.path(), title, &sample);
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/weights/check_exports.py");
    let judged =
        std::process::Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    let (said, failed) =
        (String::from_utf8_lossy(&judged.stdout), String::from_utf8_lossy(&judged.stderr));
    eprintln!("{said}");
    assert!(judged.status.success(), "{said}\n{failed}");
}

fn diptych() -> Command {
    Command::new(env!("CARGO_BIN_EXE_diptych"))
}

#[test]
fn the_program_exports_a_file_of_weights_and_says_what_is_not_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let sample =
        sample(BackboneConfig { width: 0.125, ..BackboneConfig::new(Architecture::ResNet18) });
    let preprocess = Preprocess::named("imagenet").unwrap();
    let model = Model {
        config: &sample.config,
        tensors: &sample.tensors,
        projector: None,
        classifier_behind: 0,
        preprocess: Some(&preprocess),
    };
    let from = folder.path().join("from.safetensors");
    export(&model, Format::Torchvision, &Options::default(), &from).unwrap();
    let at = |name: &str| folder.path().join(name);
    let run = |format: &str, out: &str| {
        let mut command = diptych();
        command.args(["weights", "export"]).arg(&from).args(["--format", format, "--out"]);
        command.arg(at(out));
        command
    };
    let output =
        run("onnx", "a.onnx").args(["--preprocess", "imagenet", "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["format"], "onnx");
    assert!(answer["difference"].as_f64().unwrap() < 1e-4);
    assert!(at("a.onnx").is_file());
    let output = run("detectron2", "a.pkl").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("not in it: how images are prepared"), "{said}");
    assert!(said.contains("RES2_OUT_CHANNELS = 8"), "{said}");
    for (format, out, text) in [
        ("onxx", "b.onnx", "did you mean `onnx`?"),
        ("onnx", "b.pth", "must end in .onnx"),
        ("torchvision", "b.onnx", "must end in .safetensors or .pth or .pt"),
    ] {
        let output = run(format, out).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(text), "{said}");
        assert!(!at(out).exists());
    }
    let output = run("onnx", "c.onnx").arg("--head").output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(String::from_utf8(output.stderr).unwrap().contains("no head that could be exported"));
}
