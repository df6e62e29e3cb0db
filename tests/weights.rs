//! Weights of other systems from outside: show, import, compare, and every command that takes a model.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use assert_cmd::Command;
use serde_json::Value;
use std::path::Path;

fn golden(name: &str) -> String {
    format!("{}/tests/golden/weights/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Exit code, stdout, stderr.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::cargo_bin("diptych").unwrap().args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let errors = text(output.stderr);
    assert!(!errors.contains("panicked"), "{errors}");
    (output.status.code().unwrap(), text(output.stdout), errors)
}

fn json(arguments: &[&str]) -> Value {
    let (code, out, errors) = run(&[arguments, &["--json"]].concat());
    assert_eq!(code, 0, "{arguments:?}: {errors}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn a_file_is_shown_with_its_family_and_what_becomes_of_each_tensor() {
    let moco = golden("moco.pth.tar");
    let (code, text, _) = run(&["weights", "show", &moco]);
    assert_eq!(code, 0);
    for part in [
        "PyTorch (zip)",
        "family moco), in `state_dict`",
        "resnet18, width 0.03125, stem imagenet; images are prepared as `imagenet`",
        "100 matched",
        "0 missing, 0 unexpected",
        "epoch: 3",
        "f32      2×2×3×3    layer1.0.conv1.weight",
    ] {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
    let shown = json(&["weights", "show", &moco]);
    assert_eq!(shown["whose"]["family"], "moco");
    assert_eq!(shown["notes"]["arch"], "resnet18");
    let conv = shown["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .find(|tensor| tensor["name"] == "state_dict/module.encoder_q.conv1.weight");
    assert_eq!(conv.unwrap()["becomes"], "conv1.weight");
    let (code, text, _) = run(&["weights", "show", &golden("views.pth")]);
    assert!(
        code == 0 && text.contains("not recognised") && text.contains("channels_last"),
        "{text}"
    );
}

#[test]
fn imported_weights_are_a_model_that_every_command_takes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (moco, out) = (golden("moco-legacy.pth.tar"), path("moco.safetensors"));
    let found = json(&["weights", "import", &moco, "--out", &out]);
    assert_eq!(found["matched"], 100);
    assert_eq!(found["preprocess"]["id"], "imagenet");
    assert_eq!(found["source"]["family"], "moco");
    let (code, text, _) = run(&["weights", "compare", "--backbone", &out, &golden("swav.pth.tar")]);
    assert!(code == 0 && text.contains("100 equal, 0 differ"), "{text}");
    let (code, text, _) = run(&["weights", "show", &out]);
    assert!(code == 0 && text.contains("a model of diptych"), "{text}");

    // The model and the file it came from give the same features, and so do the rules of a run that starts from it.
    let embed = |model: &str, name: &str, more: &[&str]| {
        let out = path(name);
        let fixed =
            ["embed", model, "--data", "synthetic:scenes?train=4&test=4", "--split", "test"];
        let (code, _, errors) = run(&[&fixed[..], &["--out", &out], more].concat());
        (code, errors, out)
    };
    let (code, _, ours) = embed(&out, "a.safetensors", &[]);
    assert_eq!(code, 0);
    let (code, errors, theirs) = embed(&moco, "b.safetensors", &[]);
    assert!(
        code == 0 && errors.contains("prepared as published, `--preprocess imagenet`"),
        "{errors}"
    );
    let features = |path: &str| tch::Tensor::read_safetensors(path).unwrap();
    let [ours, theirs] = [ours, theirs].map(|path| features(&path));
    let h = |tensors: &[(String, tch::Tensor)]| {
        tensors.iter().find(|(name, _)| name == "h").unwrap().1.copy()
    };
    assert_eq!(h(&ours), h(&theirs));

    // What a file does not say must be stated, and is listed.
    let (code, errors, _) = embed(&golden("bare.safetensors"), "c.safetensors", &[]);
    assert!(
        code == 2 && errors.contains("--preprocess") && errors.contains("simclr-paper"),
        "{errors}"
    );
    let (code, errors, _) = embed(&golden("cld.t7"), "c.safetensors", &[]);
    assert!(code == 2 && errors.contains("several ways: cifar, stl, kitchen"), "{errors}");
    let (code, _, _) = embed(&golden("cld.t7"), "c.safetensors", &["--preprocess", "cifar"]);
    assert_eq!(code, 0);
    let (code, errors, _) =
        embed(&golden("small.safetensors"), "c.safetensors", &["--preprocess", "cifar"]);
    assert!(code == 6 && errors.contains("--stem"), "{errors}");
    let small = path("small.safetensors");
    let import = ["weights", "import", &golden("small.safetensors"), "--out", &small];
    let stated = ["--stem", "cifar", "--preprocess", "cifar"];
    let (code, text, errors) = run(&[&import[..], &stated].concat());
    assert!(code == 0 && text.contains("100 matched"), "{errors}");
    let (code, _, errors) = run(&[&import[..], &["--stem", "cifra"]].concat());
    assert!(code == 2 && errors.contains("`cifra`") && errors.contains("cifar_pad2"), "{errors}");
    assert!(embed(&small, "d.safetensors", &[]).0 == 0);

    // A run of the same network starts from the file; of another stem it does not.
    let start = |stem: &str| {
        let out = path(stem);
        let weights = format!("backbone.weights=\"{}\"", golden("solo-cifar.ckpt"));
        let stem = format!("backbone.stem={stem}");
        let fixed = [
            "pretrain",
            "scenes/simclr",
            "--out",
            &out,
            "--data",
            "synthetic:scenes?train=32&test=8",
        ];
        let settings = [
            "backbone.width=0.03125",
            "data.batch_size=16",
            "train.max_steps=1",
            "train.threads=1",
        ];
        let more = ["train.schedule.warmup_epochs=0", &weights, &stem];
        run(&[&fixed[..], &settings, &more].concat())
    };
    let (code, _, errors) = start("cifar_pad2");
    assert_eq!(code, 0, "{errors}");
    let (code, _, errors) = start("cifar");
    assert!(code == 6 && errors.contains("`backbone.stem=cifar_pad2`"), "{errors}");
}

#[test]
fn files_that_differ_say_where_and_files_that_are_none_are_refused() {
    let (code, text, _) =
        run(&["weights", "compare", &golden("bare.safetensors"), &golden("bf16.safetensors")]);
    assert_eq!(code, 1);
    assert!(text.contains("conv1.weight") && text.contains("bf16 2×3×7×7"), "{text}");
    let tolerant = [
        "weights",
        "compare",
        &golden("bare.safetensors"),
        &golden("bf16.safetensors"),
        "--tolerance",
        "0.01",
    ];
    assert_eq!(run(&tolerant).0, 0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    let out = folder.path().join("x.safetensors");
    std::fs::write(&path, b"no weights at all").unwrap();
    let import = |path: &Path| {
        run(&["weights", "import", path.to_str().unwrap(), "--out", out.to_str().unwrap()])
    };
    let (code, _, errors) = import(&path);
    assert!(code == 6 && errors.contains("none of the formats"), "{errors}");
    let whole = std::fs::read(golden("moco.pth.tar")).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let (code, _, errors) = import(&path);
    assert!(code == 6 && errors.contains("cut off"), "{errors}");
    assert!(!out.exists());
}

/// Models of ours say which network they are; numbers that are not loaded are compared by their bytes.
#[test]
fn small_networks_of_ours_and_numbers_that_are_not_loaded_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let small = golden("small.safetensors");
    let (ours, export) = (path("ours.safetensors"), path("export.safetensors"));
    let import = ["weights", "import", &small, "--out", &ours, "--stem", "cifar"];
    json(&[&import[..], &["--preprocess", "cifar"]].concat());
    json(&["weights", "export", &ours, "--format", "safetensors", "--out", &export]);
    let compare = |a: &str, b: &str, more: &[&str]| {
        run(&[&["weights", "compare", "--backbone", a, b][..], more].concat())
    };
    for (a, b) in [(&ours, &export), (&export, &ours)] {
        let (code, text, errors) = compare(a, b, &[]);
        assert!(code == 0 && text.contains("100 equal, 0 differ"), "{text}{errors}");
    }
    let (code, _, errors) = compare(&ours, &small, &[]);
    assert!(code == 6 && errors.contains("--stem"), "{errors}");
    let (code, text, _) = compare(&ours, &small, &["--stem", "cifar"]);
    assert!(code == 0 && text.contains("100 equal") && !text.contains("note:"), "{text}");
    let (code, text, _) = compare(&ours, &small, &["--stem", "cifar_pad2"]);
    assert!(code == 0 && text.contains("note: two networks, of stem cifar "), "{text}");

    // 16-bit whole numbers without a sign and complex ones; and the texts of TensorFlow.
    let numbers = |change: u8| {
        let header = r#"{"u":{"dtype":"U16","shape":[2],"data_offsets":[0,4]},"c":{"dtype":"C64","shape":[1],"data_offsets":[4,12]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, change]);
        let file = path(&format!("{change}.safetensors"));
        std::fs::write(&file, bytes).unwrap();
        file
    };
    let texts = format!("{}/tests/golden/tensorflow/model.ckpt-7", env!("CARGO_MANIFEST_DIR"));
    for file in [&numbers(1), &golden("views.pth"), &texts] {
        let (code, text, errors) = run(&["weights", "compare", file, file]);
        assert!(code == 0 && text.contains(", 0 differ"), "{text}{errors}");
    }
    let (code, text, _) = run(&["weights", "compare", &numbers(1), &numbers(2)]);
    assert!(code == 1 && text.contains("1 equal, 1 differ"), "{text}");
}

/// TensorFlow's own form, by the prefix of its files.
#[test]
fn a_checkpoint_of_tensorflow_is_shown_imported_compared_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let checkpoint =
        format!("{}/tests/golden/tensorflow/simclr/model.ckpt-7", env!("CARGO_MANIFEST_DIR"));
    let shown = json(&["weights", "show", &checkpoint]);
    assert_eq!(shown["whose"]["family"], "simclr");
    assert_eq!(shown["whose"]["backbone"]["name"], "resnet18");
    let stem = shown["tensors"].as_array().unwrap().iter();
    let stem = stem.clone().find(|tensor| tensor["name"] == "base_model/conv2d/kernel").unwrap();
    assert_eq!(stem["becomes"], "backbone.conv1.weight");
    assert_eq!(stem["shape"], serde_json::json!([7, 7, 3, 2]));

    let out = path("simclr.safetensors");
    let found = json(&["weights", "import", &format!("{checkpoint}.index"), "--out", &out]);
    assert_eq!(found["preprocess"]["id"], "simclr");
    assert_eq!(found["backbone"]["flavor"], "simclr_tf");
    let count = found["matched"].as_u64().unwrap();
    assert_eq!(count, 105);

    // Every variable is told; nothing tells what the linear head of this one reads.
    let listed = found["tensors"].as_array().unwrap();
    assert_eq!(listed.len(), shown["tensors"].as_array().unwrap().len());
    let outcome = |name: &str| {
        let row = listed.iter().find(|row| row["name"] == name).unwrap();
        (row["outcome"].as_str().unwrap().to_owned(), row["remark"].as_str().map(str::to_owned))
    };
    assert_eq!(outcome("global_step"), ("dropped".to_owned(), Some("counters".to_owned())));
    let head = outcome("head_supervised/linear_layer/dense/kernel");
    assert!(head.0 == "dropped" && head.1.unwrap().contains("--tap"));
    let behind = path("behind.safetensors");
    let import = ["weights", "import", &checkpoint, "--out", &behind, "--tap", "g1"];
    let (code, text, errors) = run(&import);
    assert!(code == 0 && text.contains("the classifier behind g1"), "{text}{errors}");
    assert!(text.contains("(left: counters)"), "{text}");
    let graph = path("behind.onnx");
    let written =
        json(&["weights", "export", &behind, "--format", "onnx", "--head", "--out", &graph]);
    assert_eq!(written["left_out"], serde_json::json!([]));

    // The same network by the same names, whatever order its dimensions lie in.
    let text = format!("{count} equal, 0 differ");
    for pair in [[&checkpoint, &out], [&out, &checkpoint], [&checkpoint, &checkpoint]] {
        let (code, found, errors) = run(&["weights", "compare", "--backbone", pair[0], pair[1]]);
        assert!(code == 0 && found.contains(&text), "{found}{errors}");
    }
    let (code, found, _) = run(&["weights", "compare", &checkpoint, &out]);
    assert!(code == 1 && found.contains("f32 7×7×3×2"), "{found}");

    let embed = |model: &str, name: &str| {
        let data = "synthetic:scenes?train=4&test=4";
        let out = path(name);
        let (code, _, errors) =
            run(&["embed", model, "--data", data, "--split", "test", "--out", &out]);
        assert_eq!(code, 0, "{errors}");
        tch::Tensor::read_safetensors(&out)
            .unwrap()
            .into_iter()
            .find(|(name, _)| name == "h")
            .unwrap()
            .1
    };
    assert_eq!(embed(&checkpoint, "a.safetensors"), embed(&out, "b.safetensors"));

    // A byte of the data that is not the one that was written.
    for ending in [".index", ".data-00000-of-00001"] {
        std::fs::copy(format!("{checkpoint}{ending}"), path(&format!("model.ckpt-7{ending}")))
            .unwrap();
    }
    let data = path("model.ckpt-7.data-00000-of-00001");
    let mut bytes = std::fs::read(&data).unwrap();
    bytes[4321] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    let damaged = path("model.ckpt-7");
    let (code, _, errors) = run(&["weights", "import", &damaged, "--out", &path("c.safetensors")]);
    assert!(code == 6 && errors.contains("checksum"), "{errors}");
    let (code, _, errors) = run(&["weights", "compare", "--backbone", &damaged, &checkpoint]);
    assert!(code == 6 && errors.contains("checksum"), "{errors}");
}

/// What an export says of itself is known when it comes back.
#[test]
fn an_export_carries_its_network_and_its_images_to_the_next_import() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (small, ours, export) =
        (golden("small.safetensors"), path("a.safetensors"), path("b.safetensors"));
    let import = ["weights", "import", &small, "--out", &ours];
    let stated = ["--stem", "cifar_pad2", "--preprocess", "center-40"];
    let first = json(&[&import[..], &stated].concat());
    let (code, _, errors) =
        run(&["weights", "export", &ours, "--format", "safetensors", "--out", &export]);
    assert_eq!(code, 0, "{errors}");
    // Neither stem nor preprocessing is stated, as it would have to be for the tensors alone.
    let back = path("c.safetensors");
    let again = json(&["weights", "import", &export, "--out", &back]);
    assert_eq!(again["backbone"]["stem"], "cifar_pad2");
    for same in ["backbone", "preprocess", "hash", "matched"] {
        assert_eq!(again[same], first[same], "{same}");
    }
    assert_eq!(again["tensors"].as_array().unwrap().len(), 100);
    assert_eq!(again["tensors"][0]["outcome"], "matched");
    let (code, text, _) = run(&["weights", "show", &export]);
    assert!(code == 0 && text.contains("diptych exported") && text.contains("center-40"), "{text}");
    let data = "synthetic:scenes?train=4&test=4";
    let embed =
        ["embed", &export, "--data", data, "--split", "test", "--out", &path("h.safetensors")];
    let (code, _, errors) = run(&embed);
    assert_eq!(code, 0, "{errors}");
    let (code, _, errors) = run(&["weights", "import", &export, "--out", &back, "--stem", "cifar"]);
    assert!(code == 2 && errors.contains("says which network it is"), "{errors}");

    // What it says must be what it is.
    let bytes = std::fs::read(&export).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    let other = header.replace("cifar_pad2", "imagenet__");
    assert_ne!(header, other);
    std::fs::write(&export, [&bytes[..8], other.as_bytes(), &bytes[8 + length..]].concat())
        .unwrap();
    let (code, _, errors) = run(&["weights", "import", &export, "--out", &back]);
    assert!(code == 6 && errors.contains("diptych.model"), "{errors}");
    let other = header.replace("resnet18", "resnet34");
    std::fs::write(&export, [&bytes[..8], other.as_bytes(), &bytes[8 + length..]].concat())
        .unwrap();
    let (code, _, errors) = run(&["weights", "import", &export, "--out", &back]);
    assert!(code == 6 && errors.contains("do not match"), "{errors}");
}

/// What was written for transformers and detectron2 is read by its names.
#[test]
fn exports_for_other_systems_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let bare = golden("bare.safetensors");
    let ours = path("ours.safetensors");
    json(&["weights", "import", &bare, "--out", &ours, "--preprocess", "imagenet"]);
    for (format, out, file) in [
        ("huggingface", "folder", "folder/model.safetensors"),
        ("detectron2", "x.pkl", "x.pkl"),
        ("timm", "x.safetensors", "x.safetensors"),
    ] {
        json(&["weights", "export", &ours, "--format", format, "--out", &path(out)]);
        let back = path("back.safetensors");
        let import = ["weights", "import", &path(file), "--out", &back, "--preprocess", "imagenet"];
        let found = json(&import);
        let family = if format == "timm" { "bare" } else { format };
        assert_eq!((&found["source"]["family"], &found["matched"]), (&family.into(), &100.into()));
        let (code, text, errors) = run(&["weights", "compare", "--backbone", &ours, &path(file)]);
        assert!(code == 0 && text.contains("100 equal, 0 differ"), "{text}{errors}");
    }
}

#[test]
fn the_guide_tells_every_family() {
    let guide = include_str!("../docs/weights.md");
    let ticked = |names: &[&str], empty: &str| {
        let names = names.iter().map(|name| match *name {
            "" => empty.to_owned(),
            name => format!("`{name}`"),
        });
        names.collect::<Vec<_>>().join(", ")
    };
    for family in diptych::weights::FAMILIES {
        let ids: Vec<&str> = family.preprocess.iter().map(|prepared| prepared.id).collect();
        let images = if ids.is_empty() { "must be stated".to_owned() } else { ticked(&ids, "") };
        let row = format!(
            "| `{}` | {} | {} | {} | {images} |",
            family.id,
            family.title,
            ticked(family.groups, "the top"),
            ticked(family.prefixes, "–")
        );
        assert!(guide.contains(&row), "the guide has no line\n{row}");
        for prepared in family.preprocess {
            prepared.preprocess().unwrap();
        }
    }
    for (name, _) in diptych::weights::SMALL_STEMS {
        assert!(guide.contains(&format!("| `--stem {name}` |")), "{name}");
    }
}

/// What a program held and read, in megabytes.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy, Debug)]
struct Taken {
    peak: f64,
    read: f64,
}

/// Runs the program and looks at what the system says of it until it ends.
#[cfg(target_os = "linux")]
fn watched(arguments: &[&str]) -> Taken {
    use std::process::{Command, Stdio};
    let mut command = Command::new(env!("CARGO_BIN_EXE_diptych"));
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut taken = Taken { peak: 0.0, read: 0.0 };
    let number = |file: &str, key: &str| -> Option<f64> {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse().ok()
    };
    loop {
        let of = |file: &str| format!("/proc/{}/{file}", child.id());
        let (peak, read) = (number(&of("status"), "VmHWM:"), number(&of("io"), "rchar:"));
        taken.peak = peak.map_or(taken.peak, |kilobytes| kilobytes * 1024.0 / 1e6);
        taken.read = read.map_or(taken.read, |bytes| bytes / 1e6);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{arguments:?}: {status}");
            return taken;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// A key and an array of f32 as Python 3 pickles them, up to the numbers; behind those comes `tb`.
#[cfg(target_os = "linux")]
fn numpy_array(key: &str, shape: &[i64]) -> Vec<u8> {
    let text =
        |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let sizes = shape.iter().map(|size| [&b"\x8a\x08"[..], &size.to_le_bytes()].concat());
    let bytes = 4 * shape.iter().product::<i64>();
    [
        &text(key)[..],
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R(K\x01(",
        &sizes.collect::<Vec<_>>().concat(),
        b"tcnumpy\ndtype\n",
        &text("f4"),
        b"\x89\x88\x87R(K\x03",
        &text("<"),
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89\x8e",
        &bytes.to_le_bytes(),
    ]
    .concat()
}

/// What importing holds beside the program itself: the tensors once, and 64 MB.
#[cfg(target_os = "linux")]
#[test]
fn importing_holds_the_tensors_once() {
    use diptych::augment::Preprocess;
    use diptych::model::resnet::Architecture;
    use diptych::model::{BackboneConfig, Parameters, ResNet};
    use diptych::weights::export::{Format, Model, Options, export};
    use std::io::Write;
    use tch::{Device, Kind, Tensor};

    let config = BackboneConfig { width: 1.25, ..BackboneConfig::new(Architecture::ResNet50) };
    let mut parameters = Parameters::to_be_loaded(Device::Cpu, Kind::Float);
    ResNet::build(&mut parameters.root().at("backbone"), &config).unwrap();
    let mut tensors = std::collections::BTreeMap::new();
    for parameter in parameters.all() {
        let numbers = Tensor::arange(parameter.tensor.numel() as i64, (Kind::Float, Device::Cpu));
        let numbers = numbers.sin().view_as(&parameter.tensor);
        let value = if parameter.tensor.dim() == 1 { numbers * 0.2 + 1.0 } else { numbers * 0.05 };
        tensors.insert(parameter.name.clone(), value);
    }
    let megabytes = tensors.values().map(Tensor::numel).sum::<usize>() as f64 * 4.0 / 1e6;
    assert!(megabytes > 140.0, "twice the tensors must be more than is allowed");
    let preprocess = Preprocess::named("imagenet").unwrap();
    let (tensors, preprocess) = (&tensors, Some(&preprocess));
    let model =
        Model { config: &config, tensors, projector: None, classifier_behind: 0, preprocess };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let out = path("ours.safetensors");
    let rest = watched(&["weights", "show", &golden("bare.safetensors")]);
    let write = |format, file: &str| {
        export(&model, format, &Options::default(), Path::new(file)).map(drop).unwrap();
    };
    let pickle = |file: &str| {
        let mut file = std::io::BufWriter::new(std::fs::File::create(file).unwrap());
        file.write_all(b"\x80\x03}(").unwrap();
        for (name, tensor) in tensors {
            let name = name.strip_prefix("backbone.").unwrap();
            let mut bytes = vec![0; 4 * tensor.numel()];
            tensor.contiguous().copy_data_u8(&mut bytes, tensor.numel());
            file.write_all(&numpy_array(name, &tensor.size())).unwrap();
            file.write_all(&bytes).unwrap();
            file.write_all(b"tb").unwrap();
        }
        file.write_all(b"u.").unwrap();
    };
    for name in ["timm.safetensors", "torchvision.pth", "numpy.pkl"] {
        let file = path(name);
        match name {
            "timm.safetensors" => write(Format::Timm, &file),
            "torchvision.pth" => write(Format::Torchvision, &file),
            _ => pickle(&file),
        }
        let shown = watched(&["weights", "show", &file]);
        assert!(shown.peak < rest.peak + 16.0, "{name}: {shown:?}, {rest:?} at rest");
        assert!(shown.read < rest.read + 8.0, "{name}: {shown:?}, {rest:?} at rest");
        let import = ["weights", "import", &file, "--out", &out, "--preprocess", "imagenet"];
        let found = watched(&import);
        // As long as it holds them at all, it is what is watched.
        let beside = found.peak - rest.peak - megabytes;
        assert!((-16.0..64.0).contains(&beside), "{name}: {beside} MB beside {megabytes}");
        std::fs::remove_file(file).unwrap();
    }
}

/// Files of several gigabytes, most of which nobody wrote: a look takes their headers.
#[cfg(target_os = "linux")]
#[test]
fn a_look_at_a_file_of_gigabytes_reads_its_headers() {
    use std::io::{Seek, SeekFrom, Write};
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let rest = watched(&["weights", "show", &golden("bare.safetensors")]);
    let numbers: u64 = 1_500_000_000;
    let header = format!(
        "{{\"a\":{{\"dtype\":\"F32\",\"shape\":[{numbers}],\"data_offsets\":[0,{}]}}}}",
        4 * numbers
    );
    let plain = path("large.safetensors");
    let mut file = std::fs::File::create(&plain).unwrap();
    file.write_all(&[&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).unwrap();
    file.set_len(8 + header.len() as u64 + 4 * numbers).unwrap();

    // {"a": an array of 6 GB, "epoch": 7}
    let pickle = path("large.pkl");
    let mut file = std::fs::File::create(&pickle).unwrap();
    file.write_all(b"\x80\x03}(").unwrap();
    file.write_all(&numpy_array("a", &[numbers as i64])).unwrap();
    file.seek(SeekFrom::Current(4 * numbers as i64)).unwrap();
    file.write_all(b"tbX\x05\0\0\0epochK\x07u.").unwrap();

    for (file, note) in [(&plain, None), (&pickle, Some("7"))] {
        let shown = json(&["weights", "show", file]);
        assert_eq!(shown["numbers"], numbers);
        assert_eq!(shown["notes"]["epoch"].as_str(), note);
        let taken = watched(&["weights", "show", file]);
        assert!(taken.peak < rest.peak + 16.0, "{file}: {taken:?}, {rest:?} at rest");
        assert!(taken.read < rest.read + 1.0, "{file}: {taken:?}, {rest:?} at rest");
    }
}
