//! `diptych analyze neighbours`: the nearest images of some, right and wrong ones.

use super::compute_threads;
use super::models::{Made, Model, PIXELS, UNTRAINED, divided, finish, first_recipe, folder, open};
use crate::cli::Answer;
use crate::cli::evaluate::settings::{Data, OPTIONAL};
use crate::cli::monitor::{image_bar, location, open_subset};
use anyhow::Result;
use diptych::analyze::neighbours::{self, Sheet, VERSION, Wanted};
use diptych::analyze::{Form, Output};
use diptych::augment::Preprocess;
use diptych::data::{Selection, Source};
use diptych::error::Error;
use diptych::evaluate::Features;
use diptych::evaluate::run::{Part, features, parts, pixel_features};
use diptych::evaluate::weights::{Layer, Weights};
use diptych::files::replace_text;
use diptych::recipe::Recipe;
use diptych::{machine, overrides};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  diptych analyze neighbours runs/a runs/b
  diptych analyze neighbours runs/a --class cat --class dog neighbours.per_class=3
  diptych analyze neighbours runs/a --index 17 --path dog/0042.png --data photos/ --out sheet

Settings (key=value): seed, threads, device, data.limit, data.holdout, data.classes, data.subset; neighbours.k, \
neighbours.random, neighbours.per_class, neighbours.baselines

Queries come from the split `test`, references from `train`; where there is one split only, its images are compared with one \
another.")]
pub(in crate::cli) struct Arguments {
    /// Run folders, checkpoints or weights files, side by side; then settings to change, `key=value`
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
    /// Images [default: what the first run was trained on]
    #[arg(long)]
    data: Option<String>,
    /// Ask about this image of the split, counted from 0; may be repeated
    #[arg(long)]
    index: Vec<usize>,
    /// Ask about the image of this path, or whose path ends so; may be repeated
    #[arg(long)]
    path: Vec<String>,
    /// Ask about images of this class; may be repeated
    #[arg(long)]
    class: Vec<String>,
    /// What to call the models, in their order [default: by their paths]
    #[arg(long)]
    name: Vec<String>,
    /// How images are prepared: imagenet, cifar, resize-S, center-S, ... [default: what each model file carries]
    #[arg(long)]
    preprocess: Option<String>,
    /// Which layer, as for `evaluate knn`
    #[arg(long, default_value = "h")]
    layer: String,
    /// The folder to write [default: analyses/neighbours in the first run]
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    seed: u64,
    threads: usize,
    device: String,
    data: Data,
    neighbours: Neighbours,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Neighbours {
    /// Neighbours of each query.
    k: usize,
    /// Queries drawn from all images.
    random: usize,
    /// Queries drawn from each class asked for.
    per_class: usize,
    /// Whether the untrained network and the pixels are asked too.
    baselines: bool,
}

impl Settings {
    /// Before anything is changed.
    fn new(arguments: &Arguments, recipe: Option<&Recipe>) -> Self {
        let chosen = !(arguments.index.is_empty()
            && arguments.path.is_empty()
            && arguments.class.is_empty());
        Self {
            seed: recipe.map_or(0, |recipe| recipe.seed),
            threads: machine::cores(),
            device: "auto".to_owned(),
            data: Data::new(recipe, arguments.data.as_ref()),
            neighbours: Neighbours {
                k: 8,
                random: if chosen { 0 } else { 8 },
                per_class: 2,
                baselines: false,
            },
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let started = Instant::now();
    let layer = Layer::named(&arguments.layer)?;
    let (paths, changes) = divided(&arguments.models)?;
    let recipe = first_recipe(&paths)?;
    let settings =
        overrides::apply(&Settings::new(arguments, recipe.as_ref()), &changes, &OPTIONAL)?;
    compute_threads(settings.threads);
    let location = location(arguments.data.as_ref(), recipe.as_ref())?;
    let source = open_subset(&location, settings.data.subset.as_ref(), &settings.data.classes)?;
    let device = machine::device(&settings.device)?;
    let models = open(&paths, &arguments.name, arguments.preprocess.as_deref(), device)?;
    let folder = folder(arguments.out.as_ref(), &models, "neighbours")?;

    let shown = Shown::new(&source, &settings)?;
    let asked = asked(arguments, &settings, &shown, &models, layer)?;
    let title = format!("Nearest neighbours by {}", layer.name());
    let facts = facts(&settings, &shown, layer, &asked.counts);
    let files = write(&asked.sheet, &title, &facts, &shown, &folder)?;
    let looked = &asked.sheet.models;
    let numbers = looked.iter().map(|model| {
        let number = json!({
            "precision": model.precision,
            "queries": model.queries,
            "shown_precision": model.shown_precision,
        });
        (format!("{} precision_at_{}", model.name, asked.sheet.k), number)
    });
    let prepared: Vec<&str> = models.iter().map(|model| model.preprocess.id.as_str()).collect();
    let analysis = Made {
        kind: "neighbours",
        version: VERSION,
        title,
        settings: json!({
            "neighbours": settings.neighbours,
            "data": settings.data,
            "index": arguments.index,
            "path": arguments.path,
            "class": arguments.class,
            "layer": layer.name(),
            "preprocess": prepared,
        }),
        source: &source,
        counts: asked.counts,
        models: &models,
        seed: settings.seed,
        numbers: numbers.collect(),
        files,
        started,
        device,
    }
    .analysis()?;
    let mut lines: Vec<String> =
        looked.iter().map(|model| describe(model, asked.sheet.k)).collect();
    lines.push(folder.join("neighbours.html").display().to_string());
    let json = finish(&analysis, &folder, &models)?;
    Ok(Answer { text: lines.join("\n"), json })
}

/// Writes everything but `analysis.json`, and tells what it is.
fn write(
    sheet: &Sheet,
    title: &str,
    facts: &[(String, String)],
    shown: &Shown<'_>,
    folder: &Path,
) -> Result<Vec<Output>> {
    let (queries, references) =
        (shown.queries().dataset.as_ref(), shown.references.dataset.as_ref());
    let figure = neighbours::figure(sheet, title, queries, references)?;
    let page = neighbours::page(sheet, title, facts, queries, references)?;
    let mut files = neighbours::save(&figure, folder)?;
    replace_text(&folder.join("neighbours.html"), &page)?;
    replace_text(&folder.join("neighbours.json"), &serde_json::to_string_pretty(sheet)?)?;
    replace_text(&folder.join("neighbours.csv"), &sheet.csv())?;
    let output = |file: &str, form, title: &str| Output {
        file: file.to_owned(),
        form,
        title: title.to_owned(),
        description: figure.description.clone(),
    };
    files.push(output("neighbours.html", Form::Page, title));
    files.push(output("neighbours.json", Form::Data, "Queries and what was found for them"));
    files.push(output("neighbours.csv", Form::Data, "The same as a table"));
    Ok(files)
}

fn describe(model: &neighbours::Looked, k: usize) -> String {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let over_all = model.precision.as_ref().map(|measure| {
        let interval = measure.interval_95.map_or(String::new(), |[low, high]| {
            format!(" (95 %: {} to {})", percent(low), percent(high))
        });
        format!(
            "precision at {k} {}{interval} over {} queries",
            percent(measure.value),
            model.queries
        )
    });
    let shown = model.shown_precision.map(|share| format!("{} of those shown", percent(share)));
    let told: Vec<String> = [over_all, shown].into_iter().flatten().collect();
    let told = if told.is_empty() { "no labels to judge by".to_owned() } else { told.join("; ") };
    format!("{}: {told}", model.name)
}

/// The images asked about and found.
struct Shown<'a> {
    references: Part<'a>,
    /// None where queries and references are one split.
    queries: Option<Part<'a>>,
}

impl<'a> Shown<'a> {
    fn new(source: &'a Source, settings: &Settings) -> Result<Self> {
        let Data { limit, holdout, label_fraction, .. } = settings.data;
        let selection = Selection { limit, holdout, label_fraction, seed: settings.seed };
        if source.splits.len() > 1 || holdout > 0.0 {
            let [references, queries] = parts(source, &selection)?;
            return Ok(Self { references, queries: Some(queries) });
        }
        let dataset = source.for_training(&selection)?;
        Ok(Self { references: Part { dataset, role: "images", source, selection }, queries: None })
    }

    fn queries(&self) -> &Part<'a> {
        self.queries.as_ref().unwrap_or(&self.references)
    }

    /// Features of queries and references; those of one split are made once.
    fn features(
        &self,
        mut of: impl FnMut(&Part<'_>) -> diptych::error::Result<Features>,
    ) -> Result<[Rc<Features>; 2]> {
        let references = Rc::new(of(&self.references)?);
        let queries = match &self.queries {
            Some(queries) => Rc::new(of(queries)?),
            None => Rc::clone(&references),
        };
        Ok([queries, references])
    }
}

/// What was asked and found.
struct Asked {
    sheet: Sheet,
    /// References, queries, damaged images.
    counts: [usize; 3],
}

fn asked(
    arguments: &Arguments,
    settings: &Settings,
    shown: &Shown<'_>,
    models: &[Model],
    layer: Layer,
) -> Result<Asked> {
    let classes = &shown.references.source.classes;
    let wanted = Wanted {
        indices: arguments.index.clone(),
        paths: arguments.path.clone(),
        classes: arguments.class.clone(),
        per_class: settings.neighbours.per_class,
        random: settings.neighbours.random,
    };
    if !wanted.classes.is_empty() && wanted.per_class == 0 {
        return Err(Error::Recipe(
            "`neighbours.per_class` must be at least 1 for --class, found `0`".to_owned(),
        )
        .into());
    }
    let seed = settings.seed;
    let of = |weights: &Weights, preprocess: &Preprocess, name: &str| {
        let store = weights.run.as_ref().map(|run| run.join("features"));
        shown.features(|part| {
            let what = format!("{name} {}", part.role);
            let mut bar = image_bar(&what);
            features(weights, preprocess, layer, part, store.as_deref(), &mut bar)
        })
    };
    let first = &models[0];
    let [queries, references] = of(&first.weights, &first.preprocess, &first.name)?;
    let rows = wanted.rows(&queries, classes, seed)?;
    let same = shown.queries.is_none();
    let mut sheet = Sheet::new(&queries, &rows, settings.neighbours.k, same, classes)?;
    sheet.ask(&first.name, &queries, &references, classes, seed)?;
    let damaged = references.damaged.len() + if same { 0 } else { queries.damaged.len() };
    let counts = [references.len(), queries.len(), damaged];
    drop((queries, references));
    for model in &models[1..] {
        let [queries, references] = of(&model.weights, &model.preprocess, &model.name)?;
        sheet.ask(&model.name, &queries, &references, classes, seed)?;
    }
    if settings.neighbours.baselines {
        let untrained = first.weights.untrained(seed)?;
        let [queries, references] = of(&untrained, &first.preprocess, UNTRAINED)?;
        sheet.ask(UNTRAINED, &queries, &references, classes, seed)?;
        let [queries, references] =
            shown.features(|part| pixel_features(&first.preprocess, part))?;
        sheet.ask(PIXELS, &queries, &references, classes, seed)?;
    }
    Ok(Asked { sheet, counts })
}

/// What stands above the page.
fn facts(
    settings: &Settings,
    shown: &Shown<'_>,
    layer: Layer,
    [references, queries, damaged]: &[usize; 3],
) -> Vec<(String, String)> {
    let location = &shown.references.source.location;
    let last = location.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let mut facts = vec![("Data", last.to_owned()), ("Layer", layer.name())];
    if shown.queries.is_some() {
        facts.push(("Queries", queries.to_string()));
        facts.push(("References", references.to_string()));
    } else {
        facts.push(("Images", references.to_string()));
    }
    if *damaged > 0 {
        facts.push(("Damaged", damaged.to_string()));
    }
    facts.push(("Seed", settings.seed.to_string()));
    facts.into_iter().map(|(label, text)| (label.to_owned(), text)).collect()
}
