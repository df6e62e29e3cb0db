//! Promises of the scores without labels.

#![expect(clippy::float_cmp, reason = "exact where the arithmetic is")]

use super::super::features::tests::made;
use super::*;
use crate::augment::{Preprocess, ViewRecipe, named};
use crate::data::open;
use std::sync::Arc;

fn random(rows: i64, columns: i64, item: u64) -> Tensor {
    let mut stream = Stream::open(6, Purpose::Test, Scope::Item(item));
    let values: Vec<f32> = (0..rows * columns).map(|_| stream.normal() as f32).collect();
    Tensor::from_slice(&values).view([rows, columns])
}

fn unit(h: &Tensor) -> Vec<Vec<f64>> {
    let rows = unit_rows(&h.to_kind(Kind::Double));
    (0..h.size()[0]).map(|row| rows.narrow(0, row, 1).flatten(0, -1).try_into().unwrap()).collect()
}

#[test]
fn rank_me_is_the_entropy_of_the_singular_values() {
    for (rows, columns) in [(60, 9), (9, 60), (5_000, 7)] {
        let h =
            random(rows, columns, 1) * Tensor::arange(columns, (Kind::Float, Device::Cpu)).square();
        let (_, values, _) = h.to_kind(Kind::Double).svd(true, false);
        let values: Vec<f64> = values.try_into().unwrap();
        let sum: f64 = values.iter().sum();
        let entropy: f64 = values.iter().map(|v| v / sum + 1e-7).map(|p| -p * p.ln()).sum();
        let found = rank_me(&h).unwrap();
        assert!((found - entropy.exp()).abs() < 1e-4, "{found} {}", entropy.exp());
    }
    // k orthogonal directions of equal weight have rank k, whatever the dimensions; one direction has rank 1.
    let eye = Tensor::eye(4, (Kind::Float, Device::Cpu)).repeat([10, 1]);
    let wide = Tensor::cat(&[&eye, &eye.zeros_like()], 1);
    assert!((rank_me(&wide).unwrap() - 4.0).abs() < 1e-3);
    let flat = Tensor::ones([30, 8], (Kind::Float, Device::Cpu));
    assert!((rank_me(&flat).unwrap() - 1.0).abs() < 1e-4);
}

#[test]
fn uniformity_and_mean_cosine_are_those_of_all_pairs() {
    // More rows than a tile.
    let h = random(TILE + 300, 3, 2) + 0.5;
    let rows = unit(&h);
    let (mut potential, mut cosine, mut pairs) = (0.0, 0.0, 0.0);
    for (at, row) in rows.iter().enumerate() {
        for other in &rows[..at] {
            let dot: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
            let squares: f64 = row.iter().zip(other).map(|(a, b)| (a - b).powi(2)).sum();
            potential += (-2.0 * squares).exp();
            cosine += dot;
            pairs += 1.0;
        }
    }
    let found = uniformity(&h, 2.0).unwrap();
    assert!((found - (potential / pairs).ln()).abs() < 1e-5, "{found}");
    assert!((mean_cosine(&h).unwrap() - cosine / pairs).abs() < 1e-9);
    // Closed forms: all the same, and two opposite points.
    let same = Tensor::ones([5, 3], (Kind::Float, Device::Cpu));
    assert!(uniformity(&same, 2.0).unwrap().abs() < 1e-6);
    assert!(uniformity(&same.zeros_like(), 2.0).unwrap().abs() < 1e-6);
    let opposite = Tensor::from_slice(&[1.0f32, 0.0, -3.0, 0.0]).view([2, 2]);
    assert!((uniformity(&opposite, 0.5).unwrap() + 2.0).abs() < 1e-6);
}

#[test]
fn alignment_is_the_mean_power_of_distances() {
    let (first, second) = (random(40, 5, 3), random(40, 5, 4));
    for alpha in [1.0, 2.0] {
        let settings = Unlabelled { alpha, ..Unlabelled::default() };
        let expected: f64 = unit(&first)
            .iter()
            .zip(&unit(&second))
            .map(|(a, b)| {
                let squares: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
                squares.powf(alpha / 2.0) / 40.0
            })
            .sum();
        let found = settings.alignment(&first, &second, 1).unwrap();
        assert!((found.value - expected).abs() < 1e-6);
        let [low, high] = found.interval_95.unwrap();
        assert!(low < expected && expected < high);
        assert!(settings.alignment(&first, &(&first * 3.0), 1).unwrap().value < 1e-6);
    }
}

#[test]
fn the_seed_draws_which_pairs_count_when_there_are_many() {
    let features = made(random(200, 6, 5), &[-1; 200]);
    let settings = Unlabelled { images: 50, ..Unlabelled::default() };
    let run = |seed| settings.evaluate(&features, seed).unwrap();
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).uniformity, run(2).uniformity);
    assert_eq!(run(1).rank_me, run(2).rank_me);
    assert_eq!(run(1).possible_rank, 6);
}

/// A "network" that sees nothing but the mean colour: grey images and flips are nothing to it, colours are.
#[expect(clippy::unnecessary_wraps, reason = "a forward pass may fail")]
fn mean_colour(pixels: &[u8], images: usize) -> Result<Tensor> {
    let pixels = Tensor::from_slice(pixels).view([images as i64, -1, 3]).to_kind(Kind::Float);
    Ok(pixels.mean_dim(1i64, false, None) - 110.0)
}

#[test]
fn what_a_network_does_not_see_leaves_its_features_alone() {
    let source = open("synthetic:scenes?train=60&test=10&size=32").unwrap();
    let images = source.split("train").unwrap();
    let preprocess = Preprocess::named("resize-32").unwrap();
    let recipe = &named("simclr_cifar").unwrap()[0];
    let all = variations(recipe, 32);
    let names: Vec<&str> = all.iter().map(|variation| variation.name.as_str()).collect();
    assert_eq!(names, ["random_resized_crop", "flip", "color_jitter", "grayscale", "all"]);
    let settings = Invariance { images: 40 };
    let mut passes = Vec::new();
    let mut run = |seed, batch| {
        let mut told = |done, all| passes.push((done, all));
        settings
            .evaluate(&mut mean_colour, images, &preprocess, &all, batch, seed, &mut told)
            .unwrap()
    };
    let found = run(1, 16);
    let of = |name: &str| found.iter().find(|it| it.name == name).unwrap();
    assert!((of("flip").relative.as_ref().unwrap().value - 1.0).abs() < 1e-6, "always flipped");
    assert!(of("color_jitter").cosine.value < 0.9, "{:?}", of("color_jitter"));
    assert!(of("grayscale").cosine.value < of("flip").cosine.value);
    for one in &found {
        let relative = one.relative.as_ref().unwrap();
        let expected = (one.cosine.value - one.different) / (1.0 - one.different);
        assert!((relative.value - expected).abs() < 1e-12);
    }
    assert_eq!(run(1, 7), found, "the batch does not matter");
    assert_ne!(run(2, 16)[2], found[2]);
    let expected: Vec<(usize, usize)> = (1..=6).map(|pass| (40 * pass, 240)).collect();
    assert_eq!(passes[..6], expected);
}

#[test]
fn alignment_is_the_distance_of_two_views_and_alpha_its_exponent() {
    let source = open("synthetic:scenes?train=60&test=10&size=32").unwrap();
    let images = source.split("train").unwrap();
    let own = named("simclr_cifar").unwrap();
    let settings = Alignment { images: 40, ..Alignment::default() };
    let run = |settings: &Alignment, alpha: f64, own: &[ViewRecipe], seed, batch| {
        let pair = settings.pair(own, 24).unwrap().unwrap();
        let quality = Unlabelled { alpha, ..Unlabelled::default() };
        let mut seen = Vec::new();
        let found = settings.evaluate(
            &quality,
            &mut |pixels, n| {
                assert_eq!(pixels.len(), n * 3 * 24 * 24);
                let h = mean_colour(pixels, n)?;
                seen.push(h.shallow_clone());
                Ok(h)
            },
            images,
            &pair,
            batch,
            seed,
            &mut |_, _| (),
        );
        (found.unwrap(), Tensor::cat(&seen, 0))
    };
    let (square, h) = run(&settings, 2.0, &own, 1, 16);
    // Both views of all images went by: the rest is arithmetic.
    let unit = |rows: Tensor| {
        let length = rows.square().sum_dim_intlist(1, true, Kind::Float).sqrt();
        rows / length
    };
    let apart = unit(h.narrow(0, 0, 40)) - unit(h.narrow(0, 40, 40));
    let squares = apart.square().sum_dim_intlist(1, false, Kind::Double);
    assert!((square.value - squares.mean(Kind::Double).double_value(&[])).abs() < 1e-6);
    let (plain, _) = run(&settings, 1.0, &own, 1, 16);
    assert!((plain.value - squares.sqrt().mean(Kind::Double).double_value(&[])).abs() < 1e-6);
    assert_eq!(run(&settings, 2.0, &own, 1, 7).0, square, "the batch does not matter");
    assert_ne!(run(&settings, 2.0, &own, 2, 16).0, square);
    // Views that differ in nothing are nowhere apart.
    let whole: Vec<ViewRecipe> =
        vec![toml::from_str("count = 1\nsteps = [{ name = \"resize\", size_px = 9 }]").unwrap()];
    assert_eq!(run(&settings, 2.0, &whole, 1, 16).0.value, 0.0);
}

#[test]
fn a_positive_pair_is_the_first_two_views_of_the_run_or_of_a_named_set() {
    let own = named("infomin_jigsaw").unwrap();
    let settings = Alignment::default();
    let pair = settings.pair(&own, 96).unwrap().unwrap();
    assert!(pair.iter().all(|view| view.count == 1 && view.size_px() == 96));
    assert_eq!(pair[0].steps.len(), own[0].steps.len());
    assert!(settings.pair(&[], 96).unwrap().is_none());
    let byol = Alignment { views: Some("byol".to_owned()), ..settings.clone() };
    let pair = byol.pair(&own, 96).unwrap().unwrap();
    assert_ne!(pair[0], pair[1], "its two views differ");
    let wrong = Alignment { views: Some("byoll".to_owned()), ..settings.clone() };
    assert!(wrong.pair(&own, 96).unwrap_err().to_string().contains("`byol`"));
    let patches: Vec<ViewRecipe> = own.into_iter().filter(|it| it.size_px() != 224).collect();
    let error = settings.pair(&patches, 96).unwrap_err().to_string();
    assert!(error.contains("alignment.views=mocov2"), "{error}");
}

#[test]
fn two_steps_of_one_name_have_two_names() {
    let mut recipe = named("simclr_cifar").unwrap().remove(0);
    recipe.steps.insert(2, recipe.steps[1].clone());
    let names: Vec<String> = variations(&recipe, 32).into_iter().map(|it| it.name).collect();
    assert_eq!(names[1..3], ["flip", "flip-2"]);
}

#[test]
fn bad_settings_and_features_are_errors() {
    let ok = Unlabelled::default();
    let features = |h: Tensor| {
        let labels = vec![-1; h.size()[0] as usize];
        made(h, &labels)
    };
    let fails = |settings: &Unlabelled, h: Tensor| settings.evaluate(&features(h), 0).unwrap_err();
    let h = || random(9, 4, 7);
    for bad in [
        Unlabelled { images: 1, ..ok.clone() },
        Unlabelled { t: 0.0, ..ok.clone() },
        Unlabelled { alpha: f64::NAN, ..ok.clone() },
    ] {
        assert!(matches!(fails(&bad, h()), Error::Recipe(_)));
    }
    assert!(matches!(fails(&ok, h().narrow(0, 0, 1)), Error::Data(_)));
    assert!(matches!(fails(&ok, h() / 0.0), Error::NonFinite(_)));
    assert!(matches!(ok.alignment(&h(), &random(9, 3, 8), 0), Err(Error::Shape(_))));
    let source = open("synthetic:scenes?train=20&test=4&size=32").unwrap();
    let images: &Arc<dyn crate::data::Dataset> = source.split("train").unwrap();
    let preprocess = Preprocess::named("resize-32").unwrap();
    let run = |settings: Invariance, all: &[Variation]| {
        settings
            .evaluate(&mut mean_colour, images, &preprocess, all, 8, 1, &mut |_, _| ())
            .unwrap_err()
    };
    assert!(matches!(run(Invariance { images: 1 }, &[]), Error::Recipe(_)));
    let wrong_size = variations(&named("simclr_cifar").unwrap()[0], 24);
    let message = run(Invariance::default(), &wrong_size).to_string();
    assert!(message.contains("random_resized_crop") && message.contains("24 pixels"), "{message}");
}
