//! Tells programs and tests where libtorch lies, so that nobody sets `LD_LIBRARY_PATH`, and what was built; lists the
//! built-in recipes.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=build.rs");
    for path in [".git/HEAD", ".git/refs/heads"].into_iter().filter(|path| Path::new(path).exists())
    {
        println!("cargo:rerun-if-changed={path}");
    }
    let revision = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let revision = revision.ok().filter(|output| output.status.success());
    let revision = revision.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    println!("cargo:rustc-env=DIPTYCH_REVISION={}", revision.unwrap_or_default());

    println!("cargo:rerun-if-changed=recipes");
    let list = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("recipes.rs");
    std::fs::write(list, recipes()).expect("the folder of what is built can be written");

    let Some(libtorch) = std::env::var_os("LIBTORCH").map(PathBuf::from) else { return };
    let lib = libtorch.join("lib");
    let lib = lib.canonicalize().unwrap_or(lib);
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:rustc-env=DIPTYCH_LIBTORCH={}", version(&libtorch).unwrap_or_default());
}

/// The version a libtorch folder states: `build-version` in the plain archive, `version.py` in a wheel.
fn version(libtorch: &Path) -> Option<String> {
    if let Ok(text) = std::fs::read_to_string(libtorch.join("build-version")) {
        return Some(text.trim().to_owned());
    }
    let text = std::fs::read_to_string(libtorch.join("version.py")).ok()?;
    let line = text.lines().find(|line| line.starts_with("__version__"))?;
    Some(line.split('\'').nth(1)?.to_owned())
}

/// Names and texts of all `recipes/DATA/NAME.toml` as an expression, in the order of their names, so that none is
/// forgotten. Sets of views and protocols are no recipes.
fn recipes() -> String {
    let files = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let folders = files(Path::new("recipes"))
        .into_iter()
        .filter(|folder| !["views", "protocols"].iter().any(|other| folder.ends_with(other)));
    let names = folders.flat_map(|folder| files(&folder)).filter_map(|file| {
        Some(file.to_str()?.strip_prefix("recipes/")?.strip_suffix(".toml")?.to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    let entry = |name: &String| {
        format!(
            "({name:?}, include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/recipes/{name}.toml\"))),\n"
        )
    };
    format!("&[\n{}]\n", names.iter().map(entry).collect::<String>())
}
