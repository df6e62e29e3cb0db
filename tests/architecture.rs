//! The direction of imports: a module uses only what lies before it in the flow.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// Below the flow: anyone may use these, and they use only each other.
const BELOW: &[&str] =
    &["error", "ffi", "files", "machine", "memory", "overrides", "random", "rows", "shape"];

/// The flow, in order.
const FLOW: &[&str] = &[
    "data",
    "augment",
    "model",
    "weights",
    "loss",
    "plugin",
    "method",
    "train",
    "cluster",
    "evaluate",
    "analyze",
    "report",
    "recipe",
    "experiment",
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|end| end == "rs") {
            into.push(path);
        }
    }
}

/// Module of a file: the first part of its path.
fn module(file: &Path) -> String {
    let inner = file.strip_prefix(source()).unwrap();
    let first = inner.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Crate-internal modules named in a source text, `crate::{a, b::C}` included; comments do not count.
fn imports(text: &str) -> Vec<String> {
    let code: Vec<&str> =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let word = |text: &str| -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let (mut depth, mut start) = (1, true);
        for (position, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => start = true,
                c if start && !c.is_whitespace() => {
                    found.push(word(&list[position..]));
                    start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[test]
fn arrows_point_one_way() {
    let mut files = Vec::new();
    rust_files(&source(), &mut files);
    let position = |name: &str| FLOW.iter().position(|module| *module == name);
    let mut wrong = Vec::new();
    let mut arrows = 0;
    for file in files {
        let from = module(&file);
        if ["lib", "main", "cli"].contains(&from.as_str()) {
            continue;
        }
        assert!(
            position(&from).is_some() || BELOW.contains(&from.as_str()),
            "{} has no place in the flow: give it one here and in ARCHITECTURE.md",
            file.display()
        );
        for to in imports(&fs::read_to_string(&file).unwrap()) {
            let allowed = BELOW.contains(&to.as_str())
                || position(&to).zip(position(&from)).is_some_and(|(to, from)| to <= from);
            arrows += 1;
            if !allowed {
                wrong.push(format!("{} imports {to}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the flow:\n{}", wrong.join("\n"));
    assert!(arrows > 50, "only {arrows} imports found: the scan is broken");
}

#[test]
fn the_scan_sees_every_form_of_import() {
    let text = "use crate::data::Image;\nuse crate::{loss::nt_xent, train};\n// crate::cli\nlet x = crate::method::NAMES;";
    assert_eq!(imports(text), ["data", "loss", "train", "method"]);
}

#[test]
fn the_program_stands_on_the_library_alone() {
    let mut files = Vec::new();
    rust_files(&source(), &mut files);
    let library = files.iter().filter(|file| !["cli", "main"].contains(&module(file).as_str()));
    for file in library {
        let text = fs::read_to_string(file).unwrap();
        for word in ["clap::", "indicatif::", "anyhow::", "println!"] {
            let uses = text.lines().any(|l| !l.trim_start().starts_with("//") && l.contains(word));
            assert!(!uses, "{} uses {word}, which belongs to the program", file.display());
        }
    }
}

#[test]
fn a_stranger_finds_simclr() {
    let method = source().join("method/simclr.rs");
    let text = fs::read_to_string(method).unwrap();
    for heading in ["**Paper.**", "**Idea.**", "**Symbols.**", "**Deviations.**", "**Cost.**"] {
        assert!(text.contains(heading), "simclr.rs lacks {heading}");
    }
    assert!(text.lines().count() < 250, "a method is one short file");
}
