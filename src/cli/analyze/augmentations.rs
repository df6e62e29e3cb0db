//! `diptych analyze augmentations`: what each augmentation does to the embedding.

use super::compute_threads;
use super::models::{Made, Model, PIXELS, UNTRAINED, divided, finish, first_recipe, folder, open};
use crate::cli::Answer;
use crate::cli::evaluate::settings::{Data, OPTIONAL};
use crate::cli::monitor::{image_bar, location, open_subset};
use crate::cli::table::aligned;
use anyhow::Result;
use diptych::analyze::augmentations::{Augmentations, Chart, Curve, Found, VERSION, csv};
use diptych::analyze::figure::{svg_to_png, write};
use diptych::analyze::{Form, Output};
use diptych::augment::Preprocess;
use diptych::data::{Dataset, Image, Selection};
use diptych::evaluate::run::batch;
use diptych::evaluate::unlabelled::{Eye, Look};
use diptych::evaluate::weights::{Layer, Weights};
use diptych::files::replace_text;
use diptych::{machine, overrides};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tch::{Kind, Tensor};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  diptych analyze augmentations runs/a
  diptych analyze augmentations runs/a runs/b --layer h 'augmentations.only=[\"crop\", \"color\"]'
  diptych analyze augmentations runs/a augmentations.images=1000 'augmentations.strengths.blur=[0, 0.01, 0.05]'

Augmentations: crop, shift, rotation, flip, color, brightness, contrast, hue, grayscale, solarize, posterize, blur, noise, \
cutout, sobel
Settings (key=value): seed, threads, device, data.limit, data.holdout, data.classes, data.subset, baselines; \
augmentations.images, augmentations.band, augmentations.only, augmentations.strengths.NAME")]
pub(in crate::cli) struct Arguments {
    /// Run folders, checkpoints or weights files; then settings to change, `key=value`
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
    /// Images, labelled or not [default: what the first run was trained on]
    #[arg(long)]
    data: Option<String>,
    /// What to call the models, in their order [default: by their paths]
    #[arg(long)]
    name: Vec<String>,
    /// How images are prepared: imagenet, cifar, resize-S, center-S, ... [default: what each model file carries]
    #[arg(long)]
    preprocess: Option<String>,
    /// Which layer, as for `evaluate knn`; may be repeated [default: h, and z where a model has a projector]
    #[arg(long)]
    layer: Vec<String>,
    /// The folder to write [default: analyses/augmentations in the first run]
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    seed: u64,
    threads: usize,
    device: String,
    /// Whether the untrained network and the pixels are looked at too.
    baselines: bool,
    data: Data,
    augmentations: Augmentations,
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let started = Instant::now();
    let layers: Vec<Layer> =
        arguments.layer.iter().map(|name| Layer::named(name)).collect::<Result<_, _>>()?;
    let (paths, changes) = divided(&arguments.models)?;
    let recipe = first_recipe(&paths)?;
    let settings = Settings {
        seed: recipe.as_ref().map_or(0, |recipe| recipe.seed),
        threads: machine::cores(),
        device: "auto".to_owned(),
        baselines: true,
        data: Data::new(recipe.as_ref(), arguments.data.as_ref()),
        augmentations: Augmentations::default(),
    };
    let settings = overrides::apply(&settings, &changes, &OPTIONAL)?;
    settings.augmentations.wanted()?;
    compute_threads(settings.threads);
    let location = location(arguments.data.as_ref(), recipe.as_ref())?;
    let Data { limit, holdout, label_fraction, subset, classes } = &settings.data;
    let source = open_subset(&location, subset.as_ref(), classes)?;
    let device = machine::device(&settings.device)?;
    let models = open(&paths, &arguments.name, arguments.preprocess.as_deref(), device)?;
    let folder = folder(arguments.out.as_ref(), &models, "augmentations")?;
    let (limit, holdout, label_fraction) = (*limit, *holdout, *label_fraction);
    let selection = Selection { limit, holdout, label_fraction, seed: settings.seed };
    let images = source.to_look_at(&selection)?;

    let found = looked(&settings, &models, &layers, &images)?;
    let preprocess = &models[0].preprocess;
    let examples = settings.augmentations.examples(&images, preprocess, settings.seed)?;
    let files = write_all(&settings, &found, &examples, &folder)?;
    let prepared: Vec<&str> = models.iter().map(|model| model.preprocess.id.as_str()).collect();
    let analysis = Made {
        kind: "augmentations",
        version: VERSION,
        title: TITLE.to_owned(),
        settings: json!({
            "augmentations": settings.augmentations,
            "data": settings.data,
            "baselines": settings.baselines,
            "layer": arguments.layer,
            "preprocess": prepared,
        }),
        source: &source,
        counts: [0, found.images, found.damaged.len()],
        models: &models,
        seed: settings.seed,
        numbers: numbers(&found.curves),
        files,
        started,
        device,
    }
    .analysis()?;
    let picture = folder.join("augmentations.png");
    let text = format!("{}\n{}", table(&found.curves), picture.display());
    let json = finish(&analysis, &folder, &models)?;
    Ok(Answer { text, json })
}

const TITLE: &str = "What augmentations do to the features";

/// Writes everything but `analysis.json`, and tells what it is.
fn write_all(
    settings: &Settings,
    found: &Found,
    examples: &[Vec<Image>],
    folder: &Path,
) -> Result<Vec<Output>> {
    let wanted = settings.augmentations.wanted()?;
    let (images, curves) = (found.images, &found.curves);
    let baselines = [UNTRAINED.to_owned(), PIXELS.to_owned()];
    let cosine = format!(
        "Cosine similarity of the features of an image and of its augmented copy, mean over {images} images; bands from \
         the {} of the images.",
        quantiles(settings.augmentations.band)
    );
    let relative = format!(
        "1: features do not see the augmentation; 0: an image is no more like its copy than like another image. Mean over \
         {images} images; what lies below −0.5 is cut off."
    );
    let chart = |title, note, relative| Chart {
        title,
        note,
        wanted: &wanted,
        curves,
        baselines: &baselines,
        examples,
        relative,
    };
    let mut files = save(&chart(TITLE, &cosine, false), folder, "augmentations")?;
    let title = "What augmentations do, relative to different images";
    files.extend(save(&chart(title, &relative, true), folder, "augmentations-relative")?);
    replace_text(&folder.join("augmentations.json"), &serde_json::to_string_pretty(curves)?)?;
    replace_text(&folder.join("augmentations.csv"), &csv(curves))?;
    for file in ["augmentations.json", "augmentations.csv"] {
        files.push(Output {
            file: file.to_owned(),
            form: Form::Data,
            title: "Similarities by strength".to_owned(),
            description: String::new(),
        });
    }
    Ok(files)
}

fn quantiles(band: [f64; 2]) -> String {
    let [low, high] = band.map(|share| format!("{}", (1e4 * share).round() / 1e2));
    format!("{low}th to the {high}th percentile")
}

/// Shows the images to every network, those that take images prepared alike together.
fn looked(
    settings: &Settings,
    models: &[Model],
    layers: &[Layer],
    images: &Arc<dyn Dataset>,
) -> Result<Found> {
    let untrained = settings.baselines.then(|| models[0].weights.untrained(settings.seed));
    let untrained = untrained.transpose()?;
    let mut all: Vec<(Eye, &Preprocess)> = Vec::new();
    for Model { name, weights, preprocess, .. } in models {
        all.push((eye(name, weights, preprocess, layers), preprocess));
    }
    if let Some(untrained) = &untrained {
        let preprocess = &models[0].preprocess;
        all.push((eye(UNTRAINED, untrained, preprocess, layers), preprocess));
        all.push((pixels(preprocess), preprocess));
    }
    let mut found: Vec<Found> = Vec::new();
    while let Some((_, preprocess)) = all.first() {
        let preprocess = *preprocess;
        let (alike, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(_, other)| *other == preprocess);
        all = others;
        let mut eyes: Vec<Eye> = alike.into_iter().map(|(eye, _)| eye).collect();
        found.push(settings.augmentations.evaluate(
            &mut eyes,
            images,
            preprocess,
            batch(preprocess.size_px()),
            settings.seed,
            &mut image_bar("augmented"),
        )?);
    }
    let mut all = found.remove(0);
    all.curves.extend(found.into_iter().flat_map(|it| it.curves));
    Ok(all)
}

/// A network, looking with some layers, or with h and what projector it has.
fn eye<'a>(
    name: &str,
    weights: &'a Weights,
    preprocess: &'a Preprocess,
    layers: &'a [Layer],
) -> Eye<'a> {
    let name = name.to_owned();
    if layers.is_empty() {
        let layers = if weights.has_projector() { &["h", "z"][..] } else { &["h"][..] };
        let layers = layers.iter().map(|layer| (*layer).to_owned()).collect();
        let look: Look = Box::new(move |pixels, n| weights.h_and_z(pixels, n, preprocess));
        return Eye { name, layers, look };
    }
    let look: Look = Box::new(move |pixels, n| {
        layers.iter().map(|layer| weights.features(pixels, n, preprocess, *layer)).collect()
    });
    Eye { name, layers: layers.iter().map(|layer| layer.name()).collect(), look }
}

/// The pixels of an image as they are prepared, in [0, 1].
fn pixels<'a>(preprocess: &Preprocess) -> Eye<'a> {
    let plain = (3 * preprocess.size_px().pow(2)) as i64;
    let look: Look = Box::new(move |pixels, n| {
        let rows = Tensor::from_slice(pixels).view([n as i64, -1]);
        Ok(vec![rows.narrow(1, 0, plain).to_kind(Kind::Float) / 255.0])
    });
    Eye { name: PIXELS.to_owned(), layers: vec!["pixels".to_owned()], look }
}

fn save(chart: &Chart, folder: &Path, stem: &str) -> Result<Vec<Output>> {
    let svg = chart.svg()?;
    let png = svg_to_png(&svg, 2.0)?;
    replace_text(&folder.join(format!("{stem}.svg")), &svg)?;
    write(&folder.join(format!("{stem}.png")), &png)?;
    let output = |ending: &str| Output {
        file: format!("{stem}.{ending}"),
        form: Form::Picture,
        title: chart.title.to_owned(),
        description: chart.note.to_owned(),
    };
    Ok(vec![output("svg"), output("png")])
}

/// Steadiness by network and layer, then by augmentation.
fn numbers(curves: &[Curve]) -> BTreeMap<String, Value> {
    let mut numbers: BTreeMap<String, Value> = BTreeMap::new();
    for curve in curves {
        let place = format!("{} {} steadiness", curve.model, curve.layer);
        let of = numbers.entry(place).or_insert_with(|| json!({}));
        of[&curve.augmentation] = json!(curve.steadiness);
    }
    numbers
}

/// Steadiness of each network and layer (columns) under each augmentation (rows).
fn table(curves: &[Curve]) -> String {
    let mut columns: Vec<(&str, &str)> = Vec::new();
    let mut rows: Vec<&str> = Vec::new();
    for curve in curves {
        let column = (curve.model.as_str(), curve.layer.as_str());
        if !columns.contains(&column) {
            columns.push(column);
        }
        if !rows.contains(&curve.augmentation.as_str()) {
            rows.push(&curve.augmentation);
        }
    }
    let mut cells = vec![vec!["steadiness".to_owned()]];
    cells[0].extend(columns.iter().map(|(model, layer)| match *layer {
        "pixels" => (*model).to_owned(),
        layer => format!("{model}, {layer}"),
    }));
    for row in rows {
        let mut line = vec![row.to_owned()];
        line.extend(columns.iter().map(|(model, layer)| {
            let of = |curve: &&Curve| {
                curve.augmentation == row && curve.model == *model && curve.layer == *layer
            };
            let value = curves.iter().find(of).and_then(|curve| curve.steadiness);
            value.map_or("–".to_owned(), |value| format!("{value:.3}"))
        }));
        cells.push(line);
    }
    aligned(&cells, &(1..=columns.len()).collect::<Vec<_>>())
}
