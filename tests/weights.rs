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
