//! The two executors make the same views, for every recipe and every named set of views that comes with the program.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use diptych::augment::{
    Batches, DeviceLoader, Loader, LoaderConfig, NAMED, Order, Pipeline, Step, ViewRecipe, named,
};
use diptych::data::{Dataset, Selection, open};
use diptych::machine::cuda_devices;
use diptych::recipe::{BUILT_IN, Recipe};
use std::sync::Arc;
use tch::Device;

/// The values of the views of two steps, how many differ between the executors, and by how much at most.
fn compare(recipes: &[ViewRecipe], dataset: &Arc<dyn Dataset>, device: Device) -> (u32, u32, u8) {
    let pipeline = Arc::new(Pipeline::new(recipes).unwrap());
    let order = || Order::new(3, dataset.len(), 6).unwrap();
    let config = LoaderConfig {
        seed: 3,
        steps: 0..2,
        threads: 2,
        background: false,
        prefetch: 1,
        max_damaged: 0.0,
    };
    let shared = || Arc::clone(&pipeline);
    let host = Loader::start(Arc::clone(dataset), shared(), order(), &config).unwrap();
    let there = DeviceLoader::start(dataset.as_ref(), shared(), order(), &config, device).unwrap();
    let (mut values, mut differing, mut largest) = (0, 0, 0);
    for (host, there) in Batches::Host(host).zip(Batches::Device(there)) {
        let batches = [host.unwrap(), there.unwrap()];
        for view in 0..pipeline.views() {
            let size = pipeline.size_px(view);
            let [one, other] = batches.each_ref().map(|batch| {
                let bytes = batch.views().bytes(view, size, 0, 6, device).unwrap();
                Vec::<u8>::try_from(&bytes.flatten(0, -1)).unwrap()
            });
            for (one, other) in one.iter().zip(&other) {
                values += 1;
                differing += u32::from(one != other);
                largest = largest.max(one.abs_diff(*other));
            }
        }
    }
    (values, differing, largest)
}

#[test]
fn every_recipe_gives_the_same_views_on_the_host_and_on_the_device() {
    let source = open("synthetic:scenes?train=12&test=12").unwrap();
    let dataset = source.for_training(&Selection::default()).unwrap();
    let mut cases: Vec<(String, Vec<ViewRecipe>)> = Vec::new();
    for (name, text) in BUILT_IN {
        let view = Recipe::parse(text, name, &[]).unwrap().view;
        // Many have the same views, and more of them those of another with other counts.
        let known = |(_, other): &(String, Vec<ViewRecipe>)| {
            other.len() == view.len() && other.iter().zip(&view).all(|(a, b)| a.steps == b.steps)
        };
        if !cases.iter().any(known) {
            cases.push(((*name).to_owned(), view));
        }
    }
    let cells = ["composition_crop+noise", "composition_cutout+crop", "composition_sobel+color"];
    let mut sets: Vec<(&str, &str)> = cells.iter().map(|cell| (*cell, "")).collect();
    for (name, text) in NAMED {
        // Some names stand for one text.
        if sets.iter().all(|(_, known)| known != text) {
            sets.push((name, text));
        }
    }
    for (name, _) in sets {
        // Small, for speed.
        let small = format!("{name}@40");
        cases.push((small.clone(), named(&small).unwrap()));
    }
    let gpus = (0..cuda_devices()).map(|index| Device::Cuda(index as usize));
    for device in std::iter::once(Device::Cpu).chain(gpus) {
        for (name, recipes) in &cases {
            let (values, differing, largest) = compare(recipes, &dataset, device);
            let share = f64::from(differing) / f64::from(values);
            // Operations on values already rounded, like posterizing, widen a difference of 1.
            let mut steps = recipes.iter().flat_map(|view| &view.steps);
            let widened = steps.any(|step| matches!(step, Step::RandAugment(_)));
            let most = if widened { 128 } else { 1 };
            assert!(
                largest <= most && share < 1e-4,
                "{name} on {device:?}: {differing} of {values} values differ, by {largest} at most"
            );
        }
    }
}
