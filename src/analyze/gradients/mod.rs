//! `analyze gradients`: the length of every layer's gradient, epoch by epoch.
//!
//! Zhu et al. 2021, arXiv:2108.02982, §C and figure 2: a surface over layers and epochs. That it is spiky across layers is as
//! it should be, batch norms have small gradients and convolutions large ones; spikes along the epochs tell of training that
//! is not stable. So two numbers of every layer stand beside the picture: the highest of its epochs by their median, and
//! the mean of |ln gₜ₊₁ - ln gₜ|.

mod map;
mod surface;
#[cfg(test)]
mod tests;

use super::history::{cell, field, lines, number, run_names};
use super::plot::save;
use super::scores::flat;
use super::{Analysis, Form, Output};
use crate::error::{Error, Result};
use crate::files::replace_text;
use crate::machine;
use crate::train::gradients::FILE;
pub use map::heat_map;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Version of the analysis.
pub const VERSION: u32 = 1;

/// Settings of the pictures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Which of an epoch's steps stand for it: `mean`, `first`, `last` or `highest`.
    pub aggregate: Aggregate,
    /// The surface's height: `linear`, as published, or `log`. The map is always logarithmic.
    pub height: Height,
    /// Whether heads are left out.
    pub backbone_only: bool,
    /// Colours: `viridis`, `cividis` or `grey`, all of which are ordered for any kind of colour vision.
    pub palette: Scale,
}

/// What stands for an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregate {
    /// The mean over its steps.
    #[default]
    Mean,
    /// Its first step.
    First,
    /// Its last step.
    Last,
    /// The highest of its steps.
    Highest,
}

/// What the height of the surface is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Height {
    /// The norm.
    #[default]
    Linear,
    /// Its logarithm.
    Log,
}

/// Colours from low to high.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// From violet over green to yellow.
    #[default]
    Viridis,
    /// From blue to yellow.
    Cividis,
    /// From black to white.
    Grey,
}

/// A layer: one tensor of parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Its name, `backbone.layer1.0.conv1.weight`.
    pub name: String,
    /// `weight`, `bias`, `norm_scale` or `norm_shift`.
    pub kind: String,
    /// Its shape.
    pub shape: Vec<i64>,
}

/// The norms of an epoch, by layer; NaN where one was not finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Epoch {
    /// From 1.
    pub epoch: u64,
    /// Steps it is made of.
    pub steps: u64,
    /// Mean over its steps, first, last, and highest of them.
    pub norms: [Vec<f64>; 4],
}

/// What a run recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Landscape {
    /// The layers in the order of the network, heads last.
    pub layers: Vec<Layer>,
    /// The epochs in order.
    pub epochs: Vec<Epoch>,
}

/// How steady a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Steadiness {
    /// Highest of its epochs by their median.
    pub max_over_median: f64,
    /// Mean over successive epochs of |ln gₜ₊₁ - ln gₜ|; NaN with fewer than two.
    pub mean_abs_log_difference: f64,
}

const NAMES: [&str; 4] = ["mean", "first", "last", "highest"];

impl Landscape {
    /// What a run recorded; none if nothing, or no epoch yet.
    ///
    /// # Errors
    /// Those of [`lines`]; [`Error::Run`] if the file does not name its layers or a line has another number of them.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        let Some(lines) = lines(run, FILE)? else { return Ok(None) };
        let wrong = |what: &str| {
            Error::Run(format!(
                "`{}`: {what}; remove it, and it is begun anew",
                run.join(FILE).display()
            ))
        };
        let Some((first, rest)) = lines.split_first() else { return Ok(None) };
        let layers = first.get("layers").cloned().unwrap_or_default();
        let layers: Vec<Layer> = serde_json::from_value(layers)
            .map_err(|error| wrong(&format!("the first line must name the layers: {error}")))?;
        let mut epochs: BTreeMap<u64, Epoch> = BTreeMap::new();
        for line in rest {
            let list = |name: &str| -> Option<Vec<f64>> {
                let list = line.get(name)?.as_array()?;
                (list.len() == layers.len())
                    .then(|| list.iter().map(|value| number(Some(value))).collect())
            };
            let all = NAMES.map(list);
            let [Some(mean), Some(first), Some(last), Some(highest)] = all else {
                return Err(wrong(&format!(
                    "a line must have {} numbers of each kind, as many as there are layers",
                    layers.len()
                )));
            };
            let whole = |name: &str| line.get(name).and_then(Value::as_u64).unwrap_or_default();
            let epoch = Epoch {
                epoch: whole("epoch"),
                steps: whole("steps"),
                norms: [mean, first, last, highest],
            };
            epochs.insert(epoch.epoch, epoch);
        }
        let epochs: Vec<Epoch> = epochs.into_values().collect();
        Ok(Some(Self { layers, epochs }).filter(|found| !found.epochs.is_empty()))
    }

    /// Without heads.
    #[must_use]
    pub fn backbone(mut self) -> Self {
        let kept: Vec<bool> =
            self.layers.iter().map(|layer| layer.name.starts_with("backbone.")).collect();
        let mut kept_layers = kept.iter();
        self.layers.retain(|_| kept_layers.next().is_some_and(|keep| *keep));
        for list in self.epochs.iter_mut().flat_map(|epoch| &mut epoch.norms) {
            let mut kept = kept.iter();
            list.retain(|_| kept.next().is_some_and(|keep| *keep));
        }
        self
    }

    /// Norms by epoch, then by layer.
    pub fn grid(&self, aggregate: Aggregate) -> Vec<&[f64]> {
        self.epochs.iter().map(|epoch| epoch.norms[aggregate as usize].as_slice()).collect()
    }

    /// How steady each layer is over the epochs.
    pub fn steadiness(&self, aggregate: Aggregate) -> Vec<Steadiness> {
        let grid = self.grid(aggregate);
        (0..self.layers.len())
            .map(|layer| steadiness(&grid.iter().map(|epoch| epoch[layer]).collect::<Vec<_>>()))
            .collect()
    }
}

/// How steady a curve is; values that are not finite do not count.
fn steadiness(values: &[f64]) -> Steadiness {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let median = median(&sorted);
    let pairs =
        values.windows(2).filter(|pair| pair.iter().all(|value| value.is_finite() && *value > 0.0));
    let differences: Vec<f64> = pairs.map(|pair| (pair[1].ln() - pair[0].ln()).abs()).collect();
    Steadiness {
        max_over_median: sorted.last().map_or(f64::NAN, |highest| highest / median),
        mean_abs_log_difference: differences.iter().sum::<f64>() / differences.len() as f64,
    }
}

/// Of sorted values; the mean of the middle two of an even number, NaN of none.
fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => 0.5 * (sorted[count / 2 - 1] + sorted[count / 2]),
    }
}

/// Lowest and highest finite value above 0 of a grid; a narrow range around 1 if there is none.
fn ends(grid: &[&[f64]]) -> (f64, f64) {
    let values = grid.iter().copied().flatten().copied();
    let some = values.filter(|value| value.is_finite() && *value > 0.0);
    let (low, high) =
        some.fold((f64::INFINITY, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        (0.5, 2.0)
    } else if high / low < 1.0 + 1e-6 {
        (0.5 * low, 2.0 * high)
    } else {
        (low, high)
    }
}

/// Groups of consecutive layers: where each begins, and its name (`layer1`, `projector`).
fn groups(layers: &[Layer]) -> Vec<(usize, String)> {
    let group = |layer: &Layer| {
        let mut parts = layer.name.split('.');
        let first = parts.next().unwrap_or_default();
        let name = if first == "backbone" { parts.next().unwrap_or(first) } else { first };
        match name {
            "conv1" | "bn1" => "stem".to_owned(),
            name => name.to_owned(),
        }
    };
    let mut found: Vec<(usize, String)> = Vec::new();
    for (place, layer) in layers.iter().enumerate() {
        let name = group(layer);
        if found.last().is_none_or(|(_, last)| *last != name) {
            found.push((place, name));
        }
    }
    found
}

/// Epochs of a grid in at most so many rows: of several in one row the highest of each layer, which keeps the spikes.
/// Gives the first epoch of each row too.
fn rows(landscape: &Landscape, aggregate: Aggregate, most: usize) -> (Vec<u64>, Vec<Vec<f64>>) {
    let grid = landscape.grid(aggregate);
    let together = grid.len().div_ceil(most).max(1);
    let numbers = landscape.epochs.iter().step_by(together).map(|epoch| epoch.epoch).collect();
    let highest = |part: &[&[f64]]| -> Vec<f64> {
        (0..landscape.layers.len())
            .map(|layer| {
                let values =
                    part.iter().map(|epoch| epoch[layer]).filter(|value| value.is_finite());
                values.fold(f64::NAN, f64::max)
            })
            .collect()
    };
    (numbers, grid.chunks(together).map(highest).collect())
}

/// Draws the landscapes of these runs into a folder.
///
/// # Errors
/// [`Error::Run`] if a folder is none of a run or has no norms yet; [`Error::Io`].
pub fn draw(runs: &[PathBuf], settings: &Settings, folder: &Path) -> Result<Analysis> {
    let started = Instant::now();
    let names = run_names(runs);
    let mut shown = Vec::new();
    for (path, name) in runs.iter().zip(&names) {
        let landscape = Landscape::read(path)?.ok_or_else(|| {
            Error::Run(format!(
                "`{}` has no norms of gradients yet: they are written at the end of an epoch, unless it is trained with \
                 `train.gradients.enabled=false`",
                path.display()
            ))
        })?;
        let landscape = if settings.backbone_only { landscape.backbone() } else { landscape };
        shown.push((name, landscape));
    }
    let mut files = Vec::new();
    let mut numbers = BTreeMap::new();
    // One scale for all, so that heights and colours of several runs compare.
    let together: Vec<&[f64]> =
        shown.iter().flat_map(|(_, landscape)| landscape.grid(settings.aggregate)).collect();
    let ends = ends(&together);
    for (place, (name, landscape)) in shown.iter().enumerate() {
        let stem = |what: &str| match shown.len() {
            1 => what.to_owned(),
            _ => format!("{what}-{}", place + 1),
        };
        let steadiness = landscape.steadiness(settings.aggregate);
        let (summary, told) = summary(landscape, &steadiness);
        numbers.insert((*name).clone(), summary);
        let title = format!("Gradients of {name}");
        let svg = surface::draw(landscape, settings, ends, (&title, &told));
        files.extend(save(folder, &stem("surface"), &svg, (&title, &told))?);
        let svg = heat_map(landscape, settings, Some(ends), (&title, &told));
        files.extend(save(folder, &stem("map"), &svg, (&title, &told))?);
    }
    files.extend(tables(&shown, settings, folder)?);
    let title = match names.as_slice() {
        [name] => format!("Gradients of {name}"),
        several => format!("Gradients of {} runs", several.len()),
    };
    let analysis = Analysis {
        kind: "gradients".to_owned(),
        version: VERSION,
        title,
        settings: flat(settings),
        data: None,
        models: BTreeMap::new(),
        seed: 0,
        numbers,
        files,
        wall_seconds: started.elapsed().as_secs_f64(),
        device: "cpu".to_owned(),
        diptych: env!("CARGO_PKG_VERSION").to_owned(),
        revision: Some(machine::REVISION.to_owned()).filter(|revision| !revision.is_empty()),
    };
    analysis.write(folder)?;
    Ok(analysis)
}

/// What the layers come to together, as numbers and as a sentence.
fn summary(landscape: &Landscape, steadiness: &[Steadiness]) -> (Value, String) {
    let of = |value: fn(&Steadiness) -> f64| {
        let all = landscape
            .layers
            .iter()
            .zip(steadiness)
            .map(|(layer, found)| (value(found), &layer.name));
        let mut all: Vec<(f64, &String)> = all.filter(|(value, _)| value.is_finite()).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        let middle = median(&all.iter().map(|(value, _)| *value).collect::<Vec<_>>());
        (middle, all.last().map(|(value, name)| (*value, (*name).clone())))
    };
    let (ratio, highest) = of(|found| found.max_over_median);
    let (change, most) = of(|found| found.mean_abs_log_difference);
    let named = |value: &Option<(f64, String)>| {
        json!(value.as_ref().map(|(value, layer)| json!({ "value": value, "layer": layer })))
    };
    let numbers = json!({
        "layers": landscape.layers.len(),
        "epochs": landscape.epochs.len(),
        "max_over_median": { "median_layer": ratio, "highest": named(&highest) },
        "mean_abs_log_difference": { "median_layer": change, "highest": named(&most) },
    });
    let mut told = format!(
        "Length of the gradient of {} layers over {} epochs",
        landscape.layers.len(),
        landscape.epochs.len()
    );
    if let Some((value, layer)) = &highest {
        write!(told, "; highest by median over the epochs: {ratio:.2} for the layer in the middle, at most {value:.2} ({layer})")
            .expect("writing into a string does not fail");
    }
    if let Some((value, layer)) = &most {
        write!(told, "; from one epoch to the next it changes by {change:.3} in the natural logarithm, at most {value:.3} ({layer})")
            .expect("writing into a string does not fail");
    }
    (numbers, told + ".")
}

/// The data behind the pictures.
fn tables(
    runs: &[(&String, Landscape)],
    settings: &Settings,
    folder: &Path,
) -> Result<Vec<Output>> {
    const FAILS: &str = "writing into a string does not fail";
    let mut norms = "run,epoch,steps,layer,name,kind,mean,first,last,highest\n".to_owned();
    let mut layers =
        "run,layer,name,kind,shape,max_over_median,mean_abs_log_difference\n".to_owned();
    let mut all = Vec::new();
    for (run, landscape) in runs {
        let name = field(run);
        for epoch in &landscape.epochs {
            for (place, layer) in landscape.layers.iter().enumerate() {
                let numbers: Vec<String> =
                    epoch.norms.iter().map(|list| cell(list[place])).collect();
                writeln!(
                    norms,
                    "{name},{},{},{place},{},{},{}",
                    epoch.epoch,
                    epoch.steps,
                    field(&layer.name),
                    layer.kind,
                    numbers.join(",")
                )
                .expect(FAILS);
            }
        }
        let steadiness = landscape.steadiness(settings.aggregate);
        for (place, (layer, found)) in landscape.layers.iter().zip(&steadiness).enumerate() {
            let shape: Vec<String> = layer.shape.iter().map(i64::to_string).collect();
            writeln!(
                layers,
                "{name},{place},{},{},{},{},{}",
                field(&layer.name),
                layer.kind,
                shape.join(" "),
                cell(found.max_over_median),
                cell(found.mean_abs_log_difference)
            )
            .expect(FAILS);
        }
        let epochs = landscape.epochs.iter().map(|epoch| {
            let [mean, first, last, highest] = &epoch.norms;
            json!({ "epoch": epoch.epoch, "steps": epoch.steps, "mean": mean, "first": first, "last": last, "highest": highest })
        });
        all.push(json!({
            "run": run,
            "layers": landscape.layers,
            "steadiness": steadiness,
            "epochs": epochs.collect::<Vec<_>>(),
        }));
    }
    replace_text(&folder.join("gradients.csv"), &norms)?;
    replace_text(&folder.join("layers.csv"), &layers)?;
    replace_text(&folder.join("gradients.json"), &json!({ "runs": all }).to_string())?;
    let output = |file: &str, title: &str| Output {
        file: file.to_owned(),
        form: Form::Data,
        title: title.to_owned(),
        description: String::new(),
    };
    Ok(vec![
        output("gradients.csv", "Norms by layer and epoch"),
        output("layers.csv", "How steady each layer is"),
        output("gradients.json", "Norms by layer and epoch"),
    ])
}
