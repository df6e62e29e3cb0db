//! The places of a map as arrays and as a table.

use super::{Images, Maps};
use crate::analyze::{Form, Output};
use crate::error::{Error, Result};
use crate::files::{replace, replace_text};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// Writes `map.safetensors`: for each map f32 `[N, 2]` under its id; `label`, `split`, `index` i64 `[N]` (the split counted in
/// the order of the metadata), `cluster` i64 `[N]`, `neighbours` i64 `[N, k]` (rows, nearest first). One metadata key
/// `diptych` holds JSON: seed, classes, splits, and title, layer, KL, its course and quality of each map. Equal maps give
/// equal bytes.
pub(super) fn tensors(folder: &Path, maps: &Maps, images: &Images<'_>) -> Result<Output> {
    let name = "map.safetensors";
    let path = folder.join(name);
    let count = images.len();
    let bytes = |values: &mut dyn Iterator<Item = i64>| -> Vec<u8> {
        values.flat_map(i64::to_le_bytes).collect()
    };
    let mut arrays: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for layout in &maps.layouts {
        let values = layout.points.as_flattened().iter();
        let data = values.flat_map(|value| value.to_le_bytes()).collect();
        arrays.push((layout.id.clone(), Dtype::F32, vec![count, 2], data));
    }
    let places = || images.places.iter();
    let mut column = |name: &str, values: &mut dyn Iterator<Item = i64>| {
        arrays.push((name.to_owned(), Dtype::I64, vec![count], bytes(values)));
    };
    column("label", &mut images.labels.iter().copied());
    column("split", &mut places().map(|(part, _)| *part as i64));
    column("index", &mut places().map(|(_, index)| *index as i64));
    column("cluster", &mut maps.clusters.iter().map(|cluster| i64::from(*cluster)));
    if let Some(near) = &maps.neighbours {
        let mut rows = (0..count).flat_map(|row| near.of(row).0).map(|row| *row as i64);
        let data = bytes(&mut rows);
        arrays.push(("neighbours".to_owned(), Dtype::I64, vec![count, near.k], data));
    }
    let told: Vec<_> = maps
        .layouts
        .iter()
        .map(|layout| {
            json!({
                "id": layout.id, "title": layout.title, "layer": layout.layer, "kl": layout.kl,
                "kl_by_iteration": layout.trace,
                "explained": layout.explained, "quality": layout.quality,
            })
        })
        .collect();
    let splits: Vec<&str> = images.parts.iter().map(|(name, _)| name.as_str()).collect();
    let header = json!({
        "file_format": 1, "seed": maps.seed, "classes": images.classes, "splits": splits, "maps": told,
    });
    let metadata = HashMap::from([("diptych".to_owned(), header.to_string())]);
    let views: Vec<(&str, TensorView<'_>)> = arrays
        .iter()
        .map(|(name, kind, size, data)| {
            let view = TensorView::new(*kind, size.clone(), data);
            view.map(|view| (name.as_str(), view))
        })
        .collect::<Result<_, _>>()
        .map_err(|error| Error::Run(format!("`{name}` cannot be made: {error}")))?;
    replace(&path, |file| {
        safetensors::serialize_to_file(views, Some(metadata), file)
            .map_err(|error| Error::io("write", &path)(io::Error::other(error)))
    })?;
    Ok(Output {
        file: name.to_owned(),
        form: Form::Data,
        title: "Places, labels, clusters and neighbours as arrays".to_owned(),
        description: String::new(),
    })
}

/// Writes `map.csv`: one line an image.
pub(super) fn table(folder: &Path, maps: &Maps, images: &Images<'_>) -> Result<Output> {
    let name = "map.csv";
    let mut text = "path,split,index,label,class,cluster".to_owned();
    for layout in &maps.layouts {
        let id = &layout.id;
        let _ = write!(text, ",{id}_x,{id}_y");
    }
    text.push('\n');
    for row in 0..images.len() {
        let (part, index) = images.places[row];
        let label = images.labels[row];
        let _ = write!(
            text,
            "{},{},{index},{label},{},{}",
            quoted(&images.paths[row]),
            quoted(&images.parts[part].0),
            quoted(&images.class(label).unwrap_or_default()),
            maps.clusters[row]
        );
        for layout in &maps.layouts {
            let [x, y] = layout.points[row];
            let _ = write!(text, ",{x},{y}");
        }
        text.push('\n');
    }
    replace_text(&folder.join(name), &text)?;
    Ok(Output {
        file: name.to_owned(),
        form: Form::Data,
        title: "Places, labels and clusters as a table".to_owned(),
        description: String::new(),
    })
}

/// A field as RFC 4180 has it.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}
