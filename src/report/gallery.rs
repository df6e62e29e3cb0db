//! Galleries of pictures, carried inside the page as data URIs.

use std::fs;
use std::path::{Component, Path};

use serde::Deserialize;

use super::run::read_json;
use crate::analyze::figure::base64;

/// Pictures narrower than this are enlarged to it, in CSS pixels.
const SMALL: u32 = 96;
/// No picture of a short row is shown wider than this, in CSS pixels.
const WIDE: u32 = 160;
/// No picture of a row of more than [`SHORT`]: nine of them go beside one another.
const NARROW: u32 = 96;
/// Pictures in a short row.
const SHORT: usize = 5;
/// Larger files are not put into the page.
const LARGEST_FILE: u64 = 4 << 20;

/// One file of `pictures/`: rows of pictures with captions.
pub(super) struct Gallery {
    pub(super) title: String,
    pub(super) caption: String,
    pub(super) rows: Vec<Vec<Picture>>,
}

/// One picture of a gallery.
pub(super) struct Picture {
    pub(super) caption: String,
    pub(super) mark: Option<Mark>,
    /// The picture as a data URI; none if its file could not be taken.
    pub(super) uri: Option<String>,
    /// Width on the page in CSS pixels.
    pub(super) width: u32,
    /// Height on the page in CSS pixels.
    pub(super) height: u32,
    /// Whether it is shown larger than it is, pixel by pixel.
    pub(super) enlarged: bool,
}

/// Whether a neighbour has the label of its query.
#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mark {
    Agrees,
    Differs,
}

#[derive(Deserialize)]
struct GalleryFile {
    title: String,
    #[serde(default)]
    caption: String,
    rows: Vec<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    image: String,
    #[serde(default)]
    caption: Option<String>,
    #[serde(default)]
    mark: Option<Mark>,
}

impl Gallery {
    /// Reads `file` (relative to the run) and the pictures it names.
    pub(super) fn read(run: &Path, file: &str, notes: &mut Vec<String>) -> Option<Self> {
        let gallery: GalleryFile = read_json(run, file, notes)?;
        let folder = run.join("pictures");
        let mut lost = Vec::new();
        let rows = gallery.rows.into_iter().map(|row| {
            let widest = if row.len() > SHORT { NARROW } else { WIDE };
            let row = row.into_iter();
            row.map(|entry| picture(&folder, entry, widest, &mut lost)).collect::<Vec<_>>()
        });
        let rows = rows.filter(|row| !row.is_empty()).collect();
        if let Some(reason) = lost.first() {
            notes.push(format!(
                "{file} names {} pictures that are not shown: {reason}.",
                lost.len()
            ));
        }
        Some(Self { title: gallery.title, caption: gallery.caption, rows })
    }
}

fn picture(folder: &Path, entry: Entry, widest: u32, lost: &mut Vec<String>) -> Picture {
    let image = load(folder, &entry.image)
        .map_err(|reason| lost.push(format!("`{}` {reason}", entry.image)))
        .ok();
    let (uri, width, height) =
        image.map_or((None, SMALL, SMALL), |(uri, (width, height))| (Some(uri), width, height));
    let shown = width.clamp(SMALL, widest);
    let tall = u64::from(height) * u64::from(shown) / u64::from(width);
    Picture {
        caption: entry.caption.unwrap_or_default(),
        mark: entry.mark,
        uri,
        width: shown,
        height: tall.clamp(1, 4096) as u32,
        enlarged: width < SMALL,
    }
}

/// The picture as a data URI and its size in pixels, or why not.
fn load(folder: &Path, image: &str) -> Result<(String, (u32, u32)), String> {
    let inside = Path::new(image).components().all(|part| matches!(part, Component::Normal(_)));
    if !inside {
        return Err("lies outside the folder `pictures`".to_owned());
    }
    let path = folder.join(image);
    let length = fs::metadata(&path).map_err(|error| format!("could not be read: {error}"))?.len();
    if length > LARGEST_FILE {
        return Err(format!("has {length} bytes, at most {LARGEST_FILE} are put into the page"));
    }
    let bytes = fs::read(&path).map_err(|error| format!("could not be read: {error}"))?;
    let size = png_size(&bytes).ok_or("is not a PNG file")?;
    Ok((format!("data:image/png;base64,{}", base64(&bytes)), size))
}

/// Width and height from the header of a PNG file (PNG, third edition, sections 5.2 and 11.2.1).
fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let header = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n")?.get(4..16)?;
    let sizes = header.strip_prefix(b"IHDR")?;
    let width = u32::from_be_bytes(sizes[..4].try_into().ok()?);
    let height = u32::from_be_bytes(sizes[4..].try_into().ok()?);
    (width > 0 && height > 0).then_some((width, height))
}
