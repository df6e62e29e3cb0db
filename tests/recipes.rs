//! Every built-in recipe parses, checks and resolves; every kind of recipe builds and takes a step.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use diptych::augment::{Loader, LoaderConfig, Order, Pipeline};
use diptych::data::{self, Dataset, Selection};
use diptych::method::distill::Teacher;
use diptych::method::{Config, NAMES, Setup, Step, classifier};
use diptych::overrides::flatten;
use diptych::recipe::{BUILT_IN, Recipe, built_in, differences};
use diptych::train::Precision;
use diptych::train::optim::{Optimizer, gradient_norm};
use diptych::train::step::{Layout, ViewInput, gradient};
use diptych::train::stop::Stop;
use std::collections::BTreeSet;
use std::sync::Arc;
use tch::{Device, Kind};

#[test]
fn every_recipe_can_be_read_resolved_and_read_again() {
    for (name, text) in BUILT_IN {
        let mut recipe = Recipe::parse(text, name, &[]).unwrap();
        assert!(recipe.views() >= 1 && recipe.backbone.parameter_count() > 0, "{name}");
        Pipeline::new(&recipe.view).unwrap();
        recipe.resolve().unwrap();
        let written = recipe.to_toml().unwrap();
        let again = Recipe::parse(&written, "the resolved recipe", &[]).unwrap();
        assert_eq!(again, recipe, "{name}: a resolved recipe reads back as it was");
    }
}

/// A recipe as small as it can be with everything in its place: the narrowest network, four images, short queues, thin
/// heads, small views.
fn tiny(name: &str, text: &str) -> Recipe {
    let small = [
        "data.batch_size=4",
        "data.micro_batch_size=0",
        "backbone.norm_group=0",
        "backbone.width=0.125",
    ];
    let read = Recipe::parse(text, name, &[]).unwrap();
    let settings = flatten(&read);
    let has = |key: &str| settings.iter().any(|(known, value)| known == key && value != "0");
    let shorter = [
        ("method.queue_length", "8"),
        ("method.prototypes", "6"),
        ("method.negatives", "5"),
        ("method.projector.hidden", "16"),
        ("method.predictor.hidden", "16"),
        ("plugins.cross_level.groups", "2"),
    ];
    let shorter = shorter.iter().filter(|(key, _)| has(key));
    // Views of ImageNet at a quarter of their size, 56 pixels.
    let large = read.view[0].size_px() > 96;
    let sizes = settings.iter().filter(|(key, _)| {
        large
            && key.starts_with("view.")
            && (key.ends_with(".size_px") || key.ends_with(".patch_px"))
    });
    let sizes = sizes.map(|(key, size)| format!("{key}={}", size.parse::<usize>().unwrap() / 4));
    let changes = small.iter().map(|change| (*change).to_owned());
    let shorter = shorter.map(|(key, value)| format!("{key}={value}"));
    let changes: Vec<String> = changes.chain(shorter).chain(sizes).collect();
    let mut recipe = Recipe::parse(text, name, &changes).unwrap();
    recipe.resolve().unwrap();
    recipe
}

/// What tells a way of learning from another: the words among the settings of method and plug-ins, what is switched on,
/// and what is left out by a 0.
fn kind(recipe: &Recipe) -> String {
    let settings = flatten(recipe).into_iter();
    let words = settings.filter(|(key, value)| {
        let part = key.starts_with("method.") || key.starts_with("plugins.");
        part && (value.starts_with('"') || ["true", "0", "0.0"].contains(&value.as_str()))
    });
    let words: Vec<String> = words.map(|(key, value)| format!("{key}={value}")).collect();
    words.join(" ")
}

#[test]
fn every_kind_of_recipe_takes_a_step() {
    // Networks this small gain nothing from more.
    tch::set_num_threads(1);
    let source = data::open("synthetic:scenes?train=24&test=12").unwrap();
    let dataset = source.for_training(&Selection::default()).unwrap();
    let mut seen = BTreeSet::new();
    // From the smallest images on, so that each kind is tried where it is cheapest.
    let mut recipes: Vec<(&str, Recipe)> =
        BUILT_IN.iter().map(|(name, text)| (*name, tiny(name, text))).collect();
    recipes.sort_by_key(|(_, recipe)| recipe.view[0].size_px());
    for (name, recipe) in recipes {
        if seen.insert(kind(&recipe)) {
            takes_a_step(name, &recipe, source.classes.len(), dataset.clone());
        }
    }
    for name in NAMES {
        let tried = seen.iter().any(|kind| kind.contains(&format!("method.name=\"{name}\"")));
        assert!(tried, "no recipe of method {name}");
    }
}

/// A classifier of random weights on the same backbone.
fn teacher(setup: &Setup<'_>) -> Teacher {
    let classifier = classifier::Config::default();
    let method = Config::Classifier(classifier.clone()).build(setup).unwrap();
    let tensors = method.parameters().all().iter();
    Teacher {
        backbone: setup.backbone.clone(),
        classifier,
        classes: setup.classes,
        several_classes: false,
        tensors: tensors.map(|p| (p.name.clone(), p.tensor.detach())).collect(),
    }
}

fn takes_a_step(name: &str, recipe: &Recipe, classes: usize, dataset: Arc<dyn Dataset>) {
    let (images, labels) = (dataset.len(), data::Labels::of(dataset.as_ref()));
    let batch_size = recipe.data.batch_size;
    let pipeline = Pipeline::new(&recipe.view).unwrap();
    let views = (0..pipeline.views()).map(|view| {
        let (mean, std) = pipeline.normalization(view);
        ViewInput { size_px: pipeline.size_px(view), mean, std }
    });
    let layout = Layout {
        views: views.collect(),
        batch: batch_size,
        micro_batch: recipe.data.micro_batch_size,
        group: recipe.backbone.norm_group,
        tile_rows: recipe.train.tile_rows,
        device: Device::Cpu,
        precision: Precision::Float32,
    };
    let order = Order::new(recipe.seed, dataset.len(), batch_size).unwrap();
    let config = LoaderConfig {
        seed: recipe.seed,
        steps: 0..1,
        threads: 1,
        background: false,
        prefetch: 1,
        max_damaged: 0.0,
    };
    let mut loader = Loader::start(dataset, Arc::new(pipeline), order, &config).unwrap();
    let batch = loader.next().unwrap().unwrap();
    let mut setup = Setup {
        backbone: &recipe.backbone,
        plugins: &recipe.plugins,
        views: recipe.views(),
        images,
        batch: batch_size,
        classes,
        multi_label: false,
        teacher: None,
        seed: 0,
        device: Device::Cpu,
        kind: Kind::Float,
    };
    let teacher = teacher(&setup);
    setup.teacher = Some(&teacher);
    let method = recipe.method.build(&setup).unwrap();
    let at = Step {
        index: 0,
        steps: 1,
        steps_per_epoch: 1,
        seed: 0,
        indices: &batch.indices,
        labels: labels.as_ref(),
        ranks: 1,
        tile_rows: layout.tile_rows,
    };
    let found =
        gradient(method.as_ref(), &batch, &layout, &at, &Stop::new(), None).unwrap().unwrap();
    method.after_step(&found.objective.carried, &at);
    assert!(found.objective.loss.is_finite(), "{name}: loss {}", found.objective.loss);
    let norm = gradient_norm(method.parameters());
    assert!(norm.is_finite() && norm > 0.0, "{name}: gradient norm {norm}");
    let before = method.parameters().all()[0].tensor.copy();
    Optimizer::new(recipe.train.optimizer.clone(), method.parameters()).step(0.1);
    assert_ne!(before, method.parameters().all()[0].tensor, "{name}: nothing moved");
}

#[test]
fn what_changes_and_what_does_not_are_told_apart() {
    let name = "cifar10/simclr";
    let text = built_in(name).unwrap();
    let with = |change: &str| Recipe::parse(text, name, &[change.to_owned()]).unwrap();
    let base = Recipe::parse(text, name, &[]).unwrap();
    let threads = differences(&base, &with("data.threads=7"));
    assert!(threads.what.is_empty() && threads.bits_match);
    assert_eq!(threads.how, ["data.threads: 0 -> 7"]);
    let micro = differences(&base, &with("data.micro_batch_size=64"));
    assert!(micro.what.is_empty() && !micro.bits_match);
    let seed = differences(&base, &with("seed=1"));
    assert_eq!(seed.what, ["seed: 0 -> 1"]);
    assert!(differences(&base, &base) == differences(&base, &with("seed=0")));
}

#[test]
fn what_is_left_to_the_machine_is_taken_over_from_the_earlier_recipe() {
    let name = "cifar10/simclr";
    let text = built_in(name).unwrap();
    let changes = ["data.micro_batch_size=64".to_owned(), "train.threads=3".to_owned()];
    let mut earlier = Recipe::parse(text, name, &changes).unwrap();
    earlier.resolve().unwrap();
    assert_eq!(earlier.backbone.norm_group, 64, "the group shrinks to what is in memory");
    let mut later = Recipe::parse(text, name, &[]).unwrap();
    later.inherit(&earlier);
    later.resolve().unwrap();
    assert_eq!(later, earlier);
}

#[test]
fn a_newer_format_and_an_unknown_key_are_told() {
    let name = "cifar10/simclr";
    let text = built_in(name).unwrap();
    let newer = text.replace("format = 1", "format = 9");
    let message = Recipe::parse(&newer, name, &[]).unwrap_err().to_string();
    assert!(message.contains("format 9") && message.contains("newer diptych"), "{message}");
    let typo = text.replace("temperature", "temprature");
    let message = Recipe::parse(&typo, name, &[]).unwrap_err().to_string();
    assert!(message.contains("temprature") && message.contains("`temperature`"), "{message}");
}

/// The last gamma of a head whose rows are not normalised is moved by plain momentum, which is stable below 2 (1 + m) over
/// the curvature: `scale · 2 (λ + 1) / d` of the sliced distance and, at most, of the alignment.
#[test]
fn heads_without_normalisation_do_not_run_away() {
    let mut seen = 0;
    for (name, text) in BUILT_IN
        .iter()
        .filter(|(_, text)| text.contains("\"swd_hypercube\"") || text.contains("\"swd_normal\""))
    {
        let recipe = Recipe::parse(text, name, &[]).unwrap();
        let settings = flatten(&recipe);
        let get = |key: &str| -> f64 {
            let found = settings.iter().find(|(known, _)| known == key);
            found.unwrap_or_else(|| panic!("{name}: {key}")).1.parse().unwrap()
        };
        let width = get("method.projector.output");
        let curvature = get("method.loss.scale") * 2.0 * (get("method.loss.lambda") + 1.0) / width;
        let peak = recipe.train.optimizer.peak_learning_rate(recipe.data.batch_size);
        let stable = 2.0 * (1.0 + get("train.optimizer.momentum")) / curvature;
        assert!(peak < stable, "{name}: the rate comes to {peak}, stable is below {stable}");
        seen += 1;
    }
    assert_eq!(seen, 4);
}
