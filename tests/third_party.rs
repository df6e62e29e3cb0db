//! `THIRD_PARTY.md` names everything the program is built from.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Rows of the tables: name, version, licence.
fn listed() -> Vec<[String; 3]> {
    let text = read("THIRD_PARTY.md");
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ").map(str::to_owned);
        Some([cells.next()?, cells.next()?, cells.next()?.trim_end_matches(" |").to_owned()])
    });
    rows.collect()
}

#[test]
fn every_package_and_pinned_wheel_is_listed_with_its_version_and_a_licence() {
    let lock: toml::Table = read("Cargo.lock").parse().unwrap();
    let packages = lock["package"].as_array().unwrap().iter();
    let packages = packages.filter(|package| package.get("source").is_some());
    let text = |package: &toml::Value, key: &str| package[key].as_str().unwrap().to_owned();
    let mut wanted: Vec<(String, String)> =
        packages.map(|package| (text(package, "name"), text(package, "version"))).collect();
    assert!(wanted.len() > 100, "only {} packages found: the scan is broken", wanted.len());
    for file in ["scripts/libtorch.txt", "scripts/cuda.txt"] {
        for line in read(file).lines().filter(|line| !line.starts_with('#')) {
            let (name, version) = line.split(' ').next().unwrap().split_once("==").unwrap();
            wanted.push((name.to_owned(), version.to_owned()));
        }
    }
    let listed = listed();
    let missing: Vec<String> = wanted
        .iter()
        .filter(|(name, version)| {
            !listed.iter().any(|[n, v, licence]| n == name && v == version && licence.len() > 2)
        })
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    assert!(missing.is_empty(), "run `make third-party`: {} missing", missing.join(", "));
    let stale: Vec<&String> = listed
        .iter()
        .filter(|[name, version, _]| {
            version.starts_with(|c: char| c.is_ascii_digit())
                && !wanted.iter().any(|(n, v)| n == name && v == version)
        })
        .map(|[name, ..]| name)
        .collect();
    assert!(stale.is_empty(), "run `make third-party`: {stale:?} are gone");
}
