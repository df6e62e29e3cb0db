//! Analyses in the folder of a run: their pictures inside of the page, their pages and data as links beside it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::format::{duration, flattened, plain, significant};
use crate::analyze::figure::base64;
use crate::analyze::{Analysis, FILE, Form};

/// Larger pictures are linked.
const LARGEST: u64 = 4 << 20;

/// Bytes of pictures in a page; what comes after is linked.
pub(super) const ROOM: u64 = 24 << 20;

/// An analysis on the page.
pub(super) struct Shown {
    pub(super) title: String,
    /// Its kind and folder, `gradients, analyses/gradients`.
    pub(super) what: String,
    pub(super) pictures: Vec<Picture>,
    /// Pages and data: address, title.
    pub(super) links: Vec<(String, String)>,
    pub(super) settings: Vec<(String, String)>,
    pub(super) numbers: Vec<(String, String)>,
    /// Time, device, seed.
    pub(super) cost: Vec<String>,
}

/// A picture of an analysis.
pub(super) struct Picture {
    pub(super) title: String,
    pub(super) description: String,
    pub(super) uri: String,
}

/// The analyses of a run, by folder name; `page` is where the page goes, `room` the bytes of pictures it has left.
pub(super) fn read(run: &Path, page: &Path, room: &mut u64, notes: &mut Vec<String>) -> Vec<Shown> {
    let Ok(entries) = fs::read_dir(run.join("analyses")) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|folder| folder.join(FILE).is_file())
        .collect();
    folders.sort();
    let mut shown = Vec::new();
    for folder in folders {
        match Analysis::read(&folder) {
            Ok(analysis) => shown.push(show(&analysis, &folder, page, room, notes)),
            Err(error) => notes.push(format!("{error}.")),
        }
    }
    shown
}

fn show(
    analysis: &Analysis,
    folder: &Path,
    page: &Path,
    room: &mut u64,
    notes: &mut Vec<String>,
) -> Shown {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (mut pictures, mut links) = (Vec::new(), Vec::new());
    for file in &analysis.files {
        let path = folder.join(&file.file);
        // A name that leads elsewhere, or a file that is gone.
        let inside = Path::new(&file.file)
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !inside || !path.is_file() {
            notes.push(format!("analyses/{name} names `{}`, which is not there.", file.file));
            continue;
        }
        let address = address(&path, page);
        if file.form != Form::Picture {
            links.push((address, format!("{} ({})", file.title, file.file)));
            continue;
        }
        // The same picture is there twice, to look at and to take away.
        let svg = path.with_extension("svg");
        if svg != path && svg.is_file() {
            links.push((address, format!("{} ({})", file.title, file.file)));
            continue;
        }
        // A large drawing is shown as the picture made of it.
        let uri = match embedded(&path, room) {
            None => embedded(&path.with_extension("png"), room),
            uri => uri,
        };
        match uri {
            Some(uri) => {
                let (title, description) = (file.title.clone(), file.description.clone());
                pictures.push(Picture { title, description, uri });
                links.push((address, format!("{} ({})", file.title, file.file)));
            }
            None => links.push((
                address,
                format!("{} ({}, too large for this page)", file.title, file.file),
            )),
        }
    }
    let pairs = |map: &std::collections::BTreeMap<String, Value>| {
        let map: Map<String, Value> = map.iter().map(|(k, v)| (k.clone(), rounded(v))).collect();
        flattened(&map)
    };
    Shown {
        title: analysis.title.clone(),
        what: format!("{}, analyses/{name}", analysis.kind),
        pictures,
        links,
        settings: pairs(&analysis.settings),
        numbers: pairs(&analysis.numbers),
        cost: vec![
            duration(analysis.wall_seconds),
            analysis.device.clone(),
            format!("seed {}", analysis.seed),
        ],
    }
}

/// Numbers as people read them, in whatever they lie.
fn rounded(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            number.as_f64().map_or(Value::Null, |number| Value::String(significant(number)))
        }
        Value::Object(map) => {
            let some = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(some.map(|(key, value)| (key.clone(), rounded(value))).collect())
        }
        Value::Array(list) => {
            Value::String(list.iter().map(|v| plain(&rounded(v))).collect::<Vec<_>>().join(", "))
        }
        other => other.clone(),
    }
}

/// A picture as a data URI, if it is one, small enough, and there is room left.
fn embedded(path: &Path, room: &mut u64) -> Option<String> {
    let kind = match path.extension()?.to_str()? {
        "png" => "image/png",
        "svg" => "image/svg+xml",
        _ => return None,
    };
    let size = fs::metadata(path).ok()?.len();
    if size > LARGEST || size > *room {
        return None;
    }
    *room -= size;
    Some(format!("data:{kind};base64,{}", base64(&fs::read(path).ok()?)))
}

/// The address of a file for a page in another place: relative where both lie below one folder, so that folders can be
/// moved together.
pub(super) fn address(file: &Path, page: &Path) -> String {
    let whole = |path: &Path| path.canonicalize().ok();
    let folder = match page.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => whole(parent),
        _ => whole(Path::new(".")),
    };
    let (Some(file), Some(folder)) = (whole(file), folder) else {
        return encoded(&file.to_string_lossy());
    };
    let shared = file.components().zip(folder.components()).take_while(|(a, b)| a == b).count();
    let up = folder.components().count() - shared;
    let rest: PathBuf = file.components().skip(shared).collect();
    encoded(&format!("{}{}", "../".repeat(up), rest.display()))
}

/// What an address may not hold as it is, in percent.
fn encoded(text: &str) -> String {
    let mut address = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
            address.push(char::from(byte));
        } else {
            write!(address, "%{byte:02X}").expect("writing into a string does not fail");
        }
    }
    address
}
