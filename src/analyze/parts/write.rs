//! The folder of an analysis: figures, bare maps, arrays, numbers, a page, and the file that tells about all of them.

use super::figures::Album;
use super::found::{Found, Map, Scope};
use super::maps::Picture;
use super::{Settings, VERSION, algorithm_name, elbow, page};
use crate::analyze::figure::{self, grey_png};
use crate::analyze::{Analysis, Form, Output};
use crate::error::{Error, Result};
use crate::evaluate::export::array;
use crate::evaluate::{DataUsed, WeightsUsed};
use crate::files::{replace, replace_text};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What [`Analysis`] tells beside what was found.
pub struct Told {
    /// The images.
    pub data: DataUsed,
    /// The split they are of.
    pub split: String,
    /// The folder their masks were read from, where there is one.
    pub masks: Option<PathBuf>,
    /// The networks by name.
    pub models: BTreeMap<String, WeightsUsed>,
    /// Seed of all draws.
    pub seed: u64,
    /// How long finding took; writing is added.
    pub started: std::time::Instant,
    /// Where it ran.
    pub device: String,
}

/// Writes everything into a folder, `analysis.json` last, and returns that. Files of an earlier analysis of the folder that
/// this one does not write are taken away.
///
/// # Errors
/// [`Error::Io`]; [`Error::Shape`] or [`Error::Run`] if a picture cannot be drawn.
pub fn write(
    folder: &Path,
    settings: &Settings,
    found: &Found,
    pictures: &[Picture],
    told: Told,
) -> Result<(PathBuf, Analysis)> {
    let before = Analysis::read(folder).ok().filter(|analysis| analysis.kind == "parts");
    let album = Album::new(settings, found, pictures);
    let mut files = Vec::new();
    for (stem, figure) in album.figures() {
        files.extend(figure.save(folder, &stem)?);
    }
    files.extend(elbow::save(folder, &album)?);
    let page_file = "parts.html".to_owned();
    replace_text(&folder.join(&page_file), &page::page(&album)?)?;
    files.push(Output {
        file: page_file,
        form: Form::Page,
        title: "Parts, to flick through".to_owned(),
        description: "Every image, model, block group, algorithm and number of clusters."
            .to_owned(),
    });
    files.extend(maps(folder, &album)?);
    let numbers = numbers(found, pictures);
    let text =
        serde_json::to_string_pretty(&numbers).map_err(|error| Error::Run(error.to_string()))?;
    replace_text(&folder.join("numbers.json"), &text)?;
    files.push(Output {
        file: "numbers.json".to_owned(),
        form: Form::Data,
        title: "Numbers beside the pictures".to_owned(),
        description: String::new(),
    });
    let shown = serde_json::to_value(settings).map_err(|error| Error::Run(error.to_string()))?;
    let mut settings: BTreeMap<String, Value> =
        shown.as_object().cloned().unwrap_or_default().into_iter().collect();
    settings
        .insert("images".to_owned(), json!(pictures.iter().map(|p| p.index).collect::<Vec<_>>()));
    settings.insert("split".to_owned(), json!(told.split));
    if let Some(masks) = told.masks {
        settings.insert("masks".to_owned(), json!(masks));
    }
    let analysis = Analysis {
        kind: "parts".to_owned(),
        version: VERSION,
        title: "Parts of objects".to_owned(),
        settings,
        data: Some(told.data),
        models: told.models,
        seed: told.seed,
        numbers: summary(found),
        files,
        wall_seconds: (told.started.elapsed().as_secs_f64() * 1e3).round() / 1e3,
        device: told.device,
        diptych: env!("CARGO_PKG_VERSION").to_owned(),
        revision: (!crate::machine::REVISION.is_empty())
            .then(|| crate::machine::REVISION.to_owned()),
    };
    let path = analysis.write(folder)?;
    for stale in before.iter().flat_map(|before| &before.files) {
        let inside =
            Path::new(&stale.file).components().count() == 1 || stale.file.starts_with("maps/");
        let kept = analysis.files.iter().any(|file| file.file == stale.file);
        if inside && !kept && !stale.file.contains("..") {
            let path = folder.join(&stale.file);
            std::fs::remove_file(&path).or_else(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(Error::io("remove", &path)(error)),
            })?;
        }
    }
    Ok((path, analysis))
}

/// Bare maps: a grey PNG for each picture, one u8 array `[images, k, height, width]` for each layer and algorithm.
fn maps(folder: &Path, album: &Album) -> Result<Vec<Output>> {
    let mut files = Vec::new();
    let mut output = |file: String, title: String| {
        files.push(Output { file, form: Form::Data, title, description: String::new() });
    };
    for layer in album.found.layers() {
        for algorithm in &album.settings.algorithms {
            let stem = format!("maps/{}-{}", album.slug(layer), algorithm_name(*algorithm));
            let mut values = Vec::new();
            let mut size = (0, 0);
            for picture in 0..album.pictures.len() {
                let scope =
                    if album.settings.together { Scope::All } else { Scope::Image(picture) };
                for k in &album.settings.clusters {
                    let map = album.found.map(layer, scope, *algorithm, *k);
                    let Some((map, labels)) =
                        map.and_then(|map| Some((map, map.of_picture(picture)?)))
                    else {
                        continue;
                    };
                    size = (map.width, map.height);
                    values.extend_from_slice(labels);
                    let file = format!("{stem}-k{k}-image{picture}.png");
                    figure::write(&folder.join(&file), &grey_png(labels, size)?)?;
                    output(file, format!("Labels 0 to {} of image {picture}", k - 1));
                }
            }
            let shape = [album.pictures.len(), album.settings.clusters.len(), size.1, size.0];
            let shape = shape.map(|length| length as u64);
            let file = format!("{stem}.npy");
            let path = folder.join(&file);
            replace(&path, |file| array(file, &shape, &values).map_err(Error::io("write", &path)))?;
            output(file, "Labels, u8 [images, numbers of clusters, height, width]".to_owned());
        }
    }
    Ok(files)
}

/// All there is in numbers.
fn numbers(found: &Found, pictures: &[Picture]) -> Value {
    let pictures = pictures.iter().map(
        |picture| json!({ "name": picture.name, "index": picture.index, "label": picture.label }),
    );
    json!({
        "images": pictures.collect::<Vec<_>>(),
        "models": found.subjects,
        "maps": found.maps,
        "agreement": found.pairs,
    })
}

/// Means over everything, by model and layer.
fn summary(found: &Found) -> BTreeMap<String, Value> {
    let mean = |values: Vec<f64>| {
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let mut summary = BTreeMap::new();
    for layer in found.layers() {
        let (subject, block) = layer;
        let maps: Vec<&Map> =
            found.maps.iter().filter(|map| (map.subject, map.block) == layer).collect();
        let of = |value: &dyn Fn(&Map) -> Option<f64>| {
            mean(maps.iter().filter_map(|map| value(map)).collect())
        };
        let all = [
            ("silhouette", of(&|map| map.silhouette)),
            ("stability", of(&|map| map.stability.map(|it| it.mean_ari))),
            ("purity", of(&|map| map.truth.map(|it| it.purity))),
            ("part_iou", of(&|map| map.truth.map(|it| it.iou))),
            ("part_ari", of(&|map| map.truth.map(|it| it.agreement.ari))),
        ];
        let name = &found.subjects[subject];
        let name = block.map_or(name.clone(), |block| format!("{name}/block{block}"));
        for (what, value) in all {
            if let Some(value) = value {
                summary.insert(format!("{name}/{what}"), json!(value));
            }
        }
    }
    for between in ["algorithms", "models"] {
        let of = found.pairs.iter().filter(|pair| pair.between == between);
        if let Some(value) = mean(of.map(|pair| pair.agreement.ari).collect()) {
            summary.insert(format!("{between}/ari"), json!(value));
        }
    }
    summary
}
