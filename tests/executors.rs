//! The two executors make the same views, for every recipe that comes with the program.

use diptych::augment::{Batches, DeviceLoader, Loader, LoaderConfig, Order, Pipeline};
use diptych::data::{Selection, open};
use diptych::machine::cuda_devices;
use diptych::recipe::{BUILT_IN, Recipe};
use std::sync::Arc;
use tch::Device;

#[test]
fn every_recipe_gives_the_same_views_on_the_host_and_on_the_device() {
    let source = open("synthetic:scenes?train=12&test=12").unwrap();
    let dataset = source.for_training(&Selection::default()).unwrap();
    let gpus = (0..cuda_devices()).map(|index| Device::Cuda(index as usize));
    for device in std::iter::once(Device::Cpu).chain(gpus) {
        for (name, text) in BUILT_IN {
            let recipe = Recipe::parse(text, name, &[]).unwrap();
            let pipeline = Arc::new(Pipeline::new(&recipe.view).unwrap());
            let order = || Order::new(recipe.seed, dataset.len(), 6).unwrap();
            let config = LoaderConfig {
                seed: recipe.seed,
                steps: 0..2,
                threads: 2,
                background: false,
                prefetch: 1,
                max_damaged: 0.0,
            };
            let host = Loader::start(Arc::clone(&dataset), Arc::clone(&pipeline), order(), &config);
            let there = Arc::clone(&pipeline);
            let there =
                DeviceLoader::start(dataset.as_ref(), there, order(), &config, device).unwrap();
            let (mut values, mut differing) = (0u32, 0u32);
            for (host, there) in Batches::Host(host.unwrap()).zip(Batches::Device(there)) {
                let (host, there) = (host.unwrap(), there.unwrap());
                for view in 0..pipeline.views() {
                    let bytes = [&host, &there].map(|batch| {
                        let size = pipeline.size_px(view);
                        let bytes = batch.views().bytes(view, size, 0, 6, device).unwrap();
                        Vec::<u8>::try_from(&bytes.flatten(0, -1)).unwrap()
                    });
                    for (one, other) in bytes[0].iter().zip(&bytes[1]) {
                        assert!(one.abs_diff(*other) <= 1, "{name}: {one} {other}");
                        values += 1;
                        differing += u32::from(one != other);
                    }
                }
            }
            let share = f64::from(differing) / f64::from(values);
            assert!(share < 1e-4, "{name} on {device:?}: {differing} of {values} values differ");
        }
    }
}
