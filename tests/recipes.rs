//! Every built-in recipe parses, checks, builds, and takes a step.

use diptych::augment::{Loader, LoaderConfig, Order, Pipeline};
use diptych::data::{self, Selection};
use diptych::method::{Setup, Step};
use diptych::recipe::{BUILT_IN, Recipe, differences};
use diptych::train::Precision;
use diptych::train::optim::{Optimizer, gradient_norm};
use diptych::train::step::{Layout, ViewInput, gradient};
use diptych::train::stop::Stop;
use std::sync::Arc;
use tch::{Device, Kind};

#[test]
fn every_recipe_takes_a_step() {
    let source = data::open("synthetic:scenes?train=24&test=12").unwrap();
    for (name, text) in BUILT_IN {
        // A narrow network and the smallest batch; everything else as written.
        let small = ["data.batch_size=2", "data.micro_batch_size=0", "backbone.norm_group=0"];
        let mut changes: Vec<String> = small.iter().map(|change| (*change).to_owned()).collect();
        changes.push("backbone.width=0.125".to_owned());
        let mut recipe = Recipe::parse(text, name, &changes).unwrap();
        recipe.resolve().unwrap();
        let written = recipe.to_toml().unwrap();
        let again = Recipe::parse(&written, "the resolved recipe", &[]).unwrap();
        assert_eq!(again, recipe, "{name}: a resolved recipe reads back as it was");

        let dataset = source.for_training(&Selection::default()).unwrap();
        let (images, labels) = (dataset.len(), data::labels(dataset.as_ref()));
        let pipeline = Pipeline::new(&recipe.view).unwrap();
        let views = (0..pipeline.views()).map(|view| {
            let (mean, std) = pipeline.normalization(view);
            ViewInput { size_px: pipeline.size_px(view), mean, std }
        });
        let layout = Layout {
            views: views.collect(),
            batch: 2,
            micro_batch: recipe.data.micro_batch_size,
            group: recipe.backbone.norm_group,
            tile_rows: recipe.train.tile_rows,
            device: Device::Cpu,
            precision: Precision::Float32,
        };
        let order = Order::new(recipe.seed, dataset.len(), 2).unwrap();
        let config = LoaderConfig {
            seed: recipe.seed,
            steps: 0..1,
            threads: 1,
            background: false,
            prefetch: 1,
            max_damaged: 0.0,
        };
        let batch = Loader::start(dataset, Arc::new(pipeline), order, &config)
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        let setup = Setup {
            backbone: &recipe.backbone,
            plugins: &recipe.plugins,
            views: recipe.views(),
            images,
            batch: 2,
            seed: 0,
            device: Device::Cpu,
            kind: Kind::Float,
        };
        let method = recipe.method.build(&setup).unwrap();
        let at = Step {
            index: 0,
            steps: 1,
            steps_per_epoch: 1,
            seed: 0,
            indices: &batch.indices,
            labels: labels.as_deref(),
            ranks: 1,
            tile_rows: layout.tile_rows,
        };
        let objective =
            gradient(method.as_ref(), &batch, &layout, &at, &Stop::new(), None).unwrap().unwrap();
        method.after_step(&objective.objective.carried, &at);
        assert!(objective.objective.loss.is_finite(), "{name}: loss {}", objective.objective.loss);
        let norm = gradient_norm(method.parameters());
        assert!(norm.is_finite() && norm > 0.0, "{name}: gradient norm {norm}");
        let before = method.parameters().all()[0].tensor.copy();
        Optimizer::new(recipe.train.optimizer.clone(), method.parameters()).step(0.1);
        assert_ne!(before, method.parameters().all()[0].tensor, "{name}: nothing moved");
    }
}

#[test]
fn what_changes_and_what_does_not_are_told_apart() {
    let (name, text) = BUILT_IN[0];
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
    let (name, text) = BUILT_IN[0];
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
    let (name, text) = BUILT_IN[0];
    let newer = text.replace("format = 1", "format = 9");
    let message = Recipe::parse(&newer, name, &[]).unwrap_err().to_string();
    assert!(message.contains("format 9") && message.contains("newer diptych"), "{message}");
    let typo = text.replace("temperature", "temprature");
    let message = Recipe::parse(&typo, name, &[]).unwrap_err().to_string();
    assert!(message.contains("temprature") && message.contains("`temperature`"), "{message}");
}
