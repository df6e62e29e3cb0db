//! Promises of the protocols: what is published of them, and what may be changed.

use super::*;
use crate::train::schedule::Schedule;

fn imagenet() -> Preprocess {
    Preprocess::named("imagenet").unwrap()
}

fn cifar() -> Preprocess {
    Preprocess::named("cifar").unwrap()
}

fn backbone() -> BackboneConfig {
    toml::from_str("name = 'resnet50'").unwrap()
}

const ALL: Labelled = Labelled { images: 1_281_167, fraction: 1.0 };

fn at(id: &str, labelled: Labelled, point: &Point, preprocess: &Preprocess) -> Recipe {
    let projector = HeadConfig { layers: 3, ..HeadConfig::default() };
    let model =
        Model { file: "runs/a", backbone: &backbone(), preprocess, projector: Some(&projector) };
    Protocol::named(id).unwrap().recipe(&model, labelled, point, 7).unwrap()
}

fn recipe(id: &str) -> Recipe {
    at(id, ALL, &Point::default(), &imagenet())
}

#[test]
fn every_file_is_a_protocol_that_says_where_it_is_from_and_makes_a_recipe() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/protocols");
    let files = std::fs::read_dir(folder).unwrap().count();
    assert_eq!(files, PROTOCOLS.len());
    for (id, text) in PROTOCOLS {
        assert!(text.starts_with("# "), "{id}");
        let protocol = Protocol::named(id).unwrap();
        protocol.check().unwrap();
        let written = toml::to_string(&protocol).unwrap();
        assert_eq!(toml::from_str::<Protocol>(&written).unwrap(), protocol, "{id}");
        for (preprocess, images) in [(imagenet(), 1_281_167), (cifar(), 500)] {
            let fraction = if *id == "semi-simclr" { 0.1 } else { 1.0 };
            let found = at(id, Labelled { images, fraction }, &protocol.points()[0], &preprocess);
            assert_eq!(found.view.len(), 1);
            assert_eq!(found.view[0].size_px(), preprocess.size_px(), "{id}");
            assert_eq!(found.view[0].normalization(), (preprocess.mean, preprocess.std), "{id}");
            assert!(found.data.batch_size <= images);
            let again = Recipe::parse(&found.to_toml().unwrap(), id, &[]).unwrap();
            assert_eq!(again, found, "{id}");
        }
    }
    let error = Protocol::named("semi-cdl").unwrap_err().to_string();
    assert!(error.contains("did you mean `semi-cld`?") && error.contains("`moco`"), "{error}");
}

/// Base rate at the peak, batch, epochs, decay, start.
fn told(id: &str) -> (f64, usize, u32, String) {
    let recipe = recipe(id);
    let method::Config::Classifier(classifier) = &recipe.method else { panic!() };
    assert_eq!(classifier.frozen, Frozen::All);
    let peak = recipe.train.optimizer.peak_learning_rate(recipe.data.batch_size);
    let start = format!("{:?}", classifier.initialization);
    (peak, recipe.data.batch_size, recipe.train.epochs, start)
}

#[test]
fn linear_layers_have_the_published_rates_lengths_and_starts() {
    for (id, peak, batch, epochs, start) in [
        ("simclr", 1.6, 4096, 90, "Normal"),
        ("simclr-code", 1.6, 4096, 90, "Zeros"),
        ("simclr-code-cifar", 0.2, 512, 100, "Zeros"),
        ("simclr-lars", 4.8, 4096, 90, "Normal"),
        ("moco", 30.0, 256, 100, "Normal"),
        ("cld", 30.0, 256, 100, "Normal"),
        ("ft-in100-r18", 10.0, 256, 100, "PyTorch"),
        ("ft-in100-r50", 10.0, 256, 60, "PyTorch"),
        ("ft-in1k", 30.0, 256, 100, "PyTorch"),
        ("simsiam", 1.6, 4096, 90, "Normal"),
        ("lightly", 0.1, 256, 90, "PyTorch"),
        ("solo-in100", 1.0, 256, 100, "PyTorch"),
        ("course", 0.1 / 16.0, 16, 15, "PyTorch"),
    ] {
        let found = told(id);
        assert!((found.0 - peak).abs() < 1e-12, "{id}: {}", found.0);
        assert_eq!((found.1, found.2, found.3.as_str()), (batch, epochs, start), "{id}");
    }
}

#[test]
fn schedules_are_the_published_ones() {
    let rate = |id: &str, steps_per_epoch: u64, step: u64| {
        let recipe = recipe(id);
        let peak = recipe.train.optimizer.peak_learning_rate(recipe.data.batch_size);
        let steps = u64::from(recipe.train.epochs) * steps_per_epoch;
        let found = Schedule::new(recipe.train.schedule, peak, steps_per_epoch, steps).at(step);
        found / peak
    };
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found}");
    let cosine = |share: f64| 0.5 * (1.0 + (std::f64::consts::PI * share).cos());
    close(rate("simclr", 10, 225), cosine(225.0 / 900.0));
    close(rate("simsiam", 10, 225), cosine(22.0 / 90.0));
    close(rate("lightly", 10, 899), 0.001);
    close(rate("lightly", 10, 300), 0.001 + 0.999 * cosine(300.0 / 899.0));
    for (epoch, expected) in [(59, 1.0), (60, 0.1), (79, 0.1), (80, 0.01)] {
        close(rate("moco", 3, 3 * epoch), expected);
    }
    for (epoch, expected) in [(29, 1.0), (30, 0.1), (40, 0.01), (50, 0.001)] {
        close(rate("ft-in100-r50", 3, 3 * epoch), expected);
    }
    for (epoch, expected) in [(11, 1.0), (12, 0.2), (16, 0.04)] {
        close(rate("semi-cld", 3, 3 * epoch), expected);
    }
}

#[test]
fn a_share_of_the_labels_decides_length_and_tap() {
    let tap = |fraction: f64, images: usize| {
        let labelled = Labelled { images, fraction };
        let recipe = at("semi-simclrv2", labelled, &Point::default(), &imagenet());
        let method::Config::Classifier(classifier) = recipe.method else { panic!() };
        assert_eq!(classifier.frozen, Frozen::Nothing);
        (String::from(classifier.tap), recipe.train.epochs, recipe.train.max_steps.unwrap())
    };
    // Steps as Google counts them.
    assert_eq!(tap(0.01, 12_811), ("g1".to_owned(), 60, 12_811 * 60 / 1024 + 1));
    assert_eq!(tap(0.1, 128_116), ("g1".to_owned(), 30, 128_116 * 30 / 1024 + 1));
    assert_eq!(tap(1.0, 1_281_167).0, "h");
    let peak = |id: &str, fraction: f64| {
        let labelled = Labelled { images: 100_000, fraction };
        let recipe = at(id, labelled, &Point::default(), &imagenet());
        recipe.train.optimizer.peak_learning_rate(recipe.data.batch_size)
    };
    assert!((peak("semi-simclr", 0.1) - 0.8).abs() < 1e-12);
    assert!((peak("semi-simclrv2", 0.1) - 0.16).abs() < 1e-12);
    let plain = backbone();
    let preprocess = imagenet();
    let model = Model { file: "a", backbone: &plain, preprocess: &preprocess, projector: None };
    let refuse = |id: &str, fraction: f64| {
        let labelled = Labelled { fraction, ..ALL };
        let protocol = Protocol::named(id).unwrap();
        protocol.recipe(&model, labelled, &Point::default(), 0).unwrap_err().to_string()
    };
    assert!(refuse("semi-simclr", 1.0).contains("100% of the labels; set `epochs.all=EPOCHS`"));
    assert!(refuse("semi-simclrv2", 0.01).contains("fine-tunes from `g1`"));
}

#[test]
fn grids_try_every_combination_and_divide_the_decay_by_the_rate() {
    let points = |id: &str| Protocol::named(id).unwrap().points();
    let counts = ["moco", "semi-cld", "transfer-simclr", "transfer-simclr-random", "transfer-ssl"];
    assert_eq!(counts.map(|id| points(id).len()), [1, 9, 56, 56, 20]);
    assert_eq!(points("semi-cld")[5].name(), "rate-1e-2-multiplier-1e2");
    let sgd = |id: &str, point: &Point, images: usize| {
        let recipe = at(id, Labelled { images, fraction: 1.0 }, point, &imagenet());
        let OptimizerConfig::Sgd(sgd) = recipe.train.optimizer else { panic!() };
        (sgd, recipe.backbone, recipe.train.max_steps)
    };
    let best = points("semi-cld")[5];
    let (found, ..) = sgd("semi-cld", &best, 12_811);
    assert!((found.learning_rate - 0.01).abs() < 1e-15);
    assert!((found.classifier_learning_rate.unwrap() - 1.0).abs() < 1e-12);
    let point = Point { learning_rate: Some(0.01), multiplier: None, decay: Some(1e-4) };
    let (found, backbone, steps) = sgd("transfer-ssl", &point, 3_680);
    assert!((found.weight_decay - 0.01).abs() < 1e-12);
    assert!((backbone.norm_momentum - 0.1).abs() < 1e-15);
    assert_eq!(steps, Some(5_000));
    // Epochs of 14 and of 292 steps.
    let (_, short, _) = sgd("transfer-simclr", &point, 3_680);
    let (_, long, _) = sgd("transfer-simclr", &point, 75_000);
    assert!((short.norm_momentum - 0.1).abs() < 1e-15);
    assert!((long.norm_momentum - 10.0 / 292.0).abs() < 1e-15);
    assert_eq!(long.weights.as_deref(), Some("runs/a"));
    assert_eq!(sgd("transfer-simclr-random", &point, 3_680).1.weights, None);
}

#[test]
fn photographs_are_prepared_as_the_protocol_says_and_small_images_as_the_model() {
    let judged = |id: &str, model: &Preprocess| Protocol::named(id).unwrap().preprocess(model);
    let none = ([0.0; 3], [1.0; 3]);
    for id in ["moco", "simclr", "transfer-ssl"] {
        assert_eq!(judged(id, &cifar()), cifar());
        let found = judged(id, &imagenet().normalized(none.0, none.1));
        found.check().unwrap();
        assert_eq!((found.size_px(), found.mean, found.std), (224, none.0, none.1));
    }
    assert_eq!(judged("moco", &imagenet()).sizing, imagenet().sizing);
    let simclr = Preprocess::named("simclr").unwrap();
    assert_eq!(judged("simclr", &imagenet()).sizing, simclr.sizing);
    assert_eq!(judged("simclr", &imagenet()).interpolation, simclr.interpolation);
    let transfer = Preprocess::named("transfer").unwrap();
    assert_eq!(judged("transfer-ssl", &imagenet()).sizing, transfer.sizing);
    assert_eq!(judged("transfer-simclr", &imagenet()).interpolation, Interpolation::Bicubic);
}

#[test]
fn a_frozen_run_holds_few_images_at_a_time_and_a_small_set_makes_a_small_batch() {
    assert_eq!(recipe("simclr").data.micro_batch_size, 256);
    let few = Labelled { images: 500, fraction: 1.0 };
    let found = at("simclr", few, &Point::default(), &cifar());
    assert_eq!((found.data.batch_size, found.data.micro_batch_size), (500, 250));
    assert_eq!(at("finetune-lightly", few, &Point::default(), &cifar()).data.micro_batch_size, 0);
}

#[test]
fn settings_can_be_changed_and_wrong_ones_are_told() {
    let protocol = Protocol::named("moco").unwrap();
    let with = |change: &str| protocol.with(&[change.to_owned()]);
    assert_eq!(with("epochs.all=3").unwrap().epochs.all, Some(3));
    assert_eq!(with("grid.learning_rates=[1.0, 2.0]").unwrap().points().len(), 2);
    for (change, expected) in [
        ("batch_size=1", "`batch_size` must be at least 2"),
        ("grid.decays=[-1.0]", "`grid.decays` must be at least 0"),
        ("view=lineval", "no views are named"),
        ("epoch=3", "epoch"),
    ] {
        let error = with(change).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let larc = Protocol::named("simsiam").unwrap();
    let error = larc.with(&["grid.decays=[0.1]".to_owned()]).unwrap_err().to_string();
    assert!(error.contains("other than sgd"), "{error}");
}
