//! What crosses the files of the analysis.

use super::order::Order;
use super::*;
use crate::analyze::Analysis;
use crate::cluster::agreement::Contingency;
use crate::data::{Source, open};
use crate::evaluate::weights::Weights;
use crate::evaluate::{Cut, DataUsed};
use crate::model::resnet::{Architecture, ResNet, Stem};
use crate::model::{BackboneConfig, Parameters};
use crate::weights::{Stated, TensorFile};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// A small network of made weights, in a file with torchvision's names.
fn network(folder: &Path, seed: u64) -> Weights {
    let config = BackboneConfig {
        width: 0.125,
        stem: Stem::Cifar,
        ..BackboneConfig::new(Architecture::ResNet18)
    };
    let mut parameters = Parameters::new(seed, Device::Cpu, Kind::Float);
    ResNet::build(&mut parameters.root(), &config).unwrap();
    let file = folder.join(format!("network-{seed}.safetensors"));
    let tensors: Vec<(&str, Tensor)> =
        parameters.all().iter().map(|p| (p.name.as_str(), p.tensor.contiguous())).collect();
    Tensor::write_safetensors(&tensors, &file).unwrap();
    let stated = Stated { stem: Some(config.stem), ..Stated::default() };
    Weights::imported(&TensorFile::open(&file).unwrap(), &stated, Device::Cpu).unwrap()
}

fn scenes() -> Source {
    open("synthetic:scenes?train=12&test=24&size=32").unwrap()
}

pub(super) fn pictures(count: usize) -> Vec<Picture> {
    let source = scenes();
    let indices: Vec<usize> = (0..count).collect();
    read_pictures(source.split("test").unwrap().as_ref(), &indices, 64).unwrap()
}

pub(super) fn small() -> Settings {
    let (blocks, clusters) = (vec![3, 4], vec![1, 2, 4]);
    Settings { blocks, clusters, size: Some(64), picture: 64, ..Settings::default() }
}

fn found(settings: &Settings, subjects: &[Subject], pictures: &[Picture]) -> Found {
    find(settings, subjects, pictures, 0, &mut |_, _| ()).unwrap()
}

fn told() -> Told {
    Told {
        data: DataUsed {
            location: "synthetic:scenes".to_owned(),
            format: String::new(),
            fingerprint: String::new(),
            references: 0,
            queries: 2,
            damaged: 0,
            classes: 12,
            class_list_hash: String::new(),
            cut: Cut::default(),
        },
        models: std::collections::BTreeMap::new(),
        seed: 0,
        started: std::time::Instant::now(),
        split: "test".to_owned(),
        masks: None,
        device: "cpu".to_owned(),
    }
}

#[test]
fn every_layer_algorithm_and_number_has_a_map_of_the_promised_size() {
    let folder = tempfile::tempdir().unwrap();
    let weights = network(folder.path(), 1);
    let subjects = [
        Subject { name: "net".to_owned(), weights: Some(&weights) },
        Subject { name: "Raw pixels".to_owned(), weights: None },
    ];
    let settings =
        Settings { algorithms: vec![Algorithm::KMeans, Algorithm::Ward], stability: 3, ..small() };
    let pictures = pictures(2);
    let all = found(&settings, &subjects, &pictures);
    assert_eq!(all.layers(), [(0, Some(3)), (0, Some(4)), (1, None)]);
    assert_eq!(all.maps.len(), 3 * 2 * 2 * 3);
    for map in &all.maps {
        let side = if map.block == Some(3) { 16 } else { 8 };
        assert_eq!((map.width, map.height, map.labels.len()), (side, side, side * side));
        assert_eq!(map.sizes.iter().sum::<u64>(), (side * side) as u64);
        let sum: f64 = map.cluster_inertia.iter().sum();
        let apart = (sum - map.inertia).abs() / map.inertia;
        assert!(apart < 1e-4, "both measure distances to means: {sum} {}", map.inertia);
        assert_eq!(map.silhouette.is_some(), map.k > 1);
        assert_eq!(map.stability.is_some(), map.algorithm == Algorithm::KMeans);
        let truth = map.truth.unwrap();
        assert!(truth.purity > 0.0 && truth.purity <= 1.0 && truth.iou <= 1.0);
    }
    // Each pair of algorithms once; models at equal block groups, pixels with each.
    let between = |name| all.pairs.iter().filter(|pair| pair.between == name).count();
    assert_eq!(between("algorithms"), 3 * 2 * 3);
    assert_eq!(between("models"), 2 * 2 * 2 * 3);
}

#[test]
fn one_cluster_paints_one_colour() {
    let pictures = pictures(1);
    let subjects = [Subject { name: "Raw pixels".to_owned(), weights: None }];
    let settings = Settings { clusters: vec![1], ..small() };
    let all = found(&settings, &subjects, &pictures);
    let map = &all.maps[0];
    let colors = Palette::Published.colors();
    let mask = paint::mask(&map.labels, (map.width, map.height), &colors);
    for enlarge in [Enlarge::Bilinear, Enlarge::Nearest] {
        let large = enlarge.apply(&mask, (448, 448));
        assert!(large.pixels.chunks(3).all(|pixel| pixel == colors[0]), "{enlarge:?}");
    }
}

/// Pixels of a map by the colour of another, most of which agree: a part keeps its colour.
#[test]
fn colours_follow_numbers_of_clusters_layers_algorithms_and_models() {
    let folder = tempfile::tempdir().unwrap();
    let weights = network(folder.path(), 1);
    // Equal networks: whatever clusters are called, equal maps must have equal colours.
    let twin = network(folder.path(), 1);
    let subjects = [
        Subject { name: "one".to_owned(), weights: Some(&weights) },
        Subject { name: "twin".to_owned(), weights: Some(&twin) },
    ];
    let algorithms = vec![Algorithm::KMeans, Algorithm::Bisecting];
    let settings = Settings { algorithms, clusters: vec![2, 4], ..small() };
    let pictures = pictures(1);
    let matched = found(&settings, &subjects, &pictures);
    let scope = Scope::Image(0);
    let agreeing = |first: &Map, second: &Map| {
        let equal = first.labels.iter().zip(&second.labels).filter(|(a, b)| a == b).count();
        equal as f64 / first.labels.len() as f64
    };
    for (subject, block) in [(0, Some(3)), (0, Some(4))] {
        let map =
            |subject, algorithm, k| matched.map((subject, block), scope, algorithm, k).unwrap();
        for k in [2, 4] {
            let base = map(subject, Algorithm::KMeans, k);
            assert_eq!(base.labels, map(1, Algorithm::KMeans, k).labels);
            // No other naming of the clusters agrees on more pixels.
            let other = map(subject, Algorithm::Bisecting, k);
            let wide =
                |map: &Map| -> Vec<u32> { map.labels.iter().map(|l| u32::from(*l)).collect() };
            let (best, _) = Contingency::new(&wide(base), &wide(other)).unwrap().matched();
            assert!((agreeing(base, other) - best).abs() < 1e-12);
        }
        let (few, many) = (map(subject, Algorithm::KMeans, 2), map(subject, Algorithm::KMeans, 4));
        if block == Some(3) {
            let wide =
                |map: &Map| -> Vec<u32> { map.labels.iter().map(|l| u32::from(*l)).collect() };
            let (best, _) = Contingency::new(&wide(few), &wide(many)).unwrap().matched();
            assert!((agreeing(few, many) - best).abs() < 1e-12);
        }
    }
    let raw = found(&Settings { order: Order::Raw, ..settings.clone() }, &subjects, &pictures);
    let sized = found(&Settings { order: Order::Size, ..settings }, &subjects, &pictures);
    for ((raw, sized), matched) in raw.maps.iter().zip(&sized.maps).zip(&matched.maps) {
        assert!(sized.sizes.is_sorted_by(|a, b| a >= b), "{:?}", sized.sizes);
        for other in [sized, matched] {
            let found = numbers::agreement(&raw.labels, &other.labels).unwrap();
            assert!((found.ari - 1.0).abs() < 1e-12, "order changes names alone");
        }
    }
}

#[test]
fn shared_clusters_are_those_of_all_pixels_together() {
    let pictures = pictures(3);
    let subjects = [Subject { name: "Raw pixels".to_owned(), weights: None }];
    let settings = Settings { together: true, clusters: vec![3], ..small() };
    let all = found(&settings, &subjects, &pictures);
    let [map] = &all.maps[..] else { panic!("one map") };
    assert_eq!(map.labels.len(), 3 * 14 * 14);
    let rows: Vec<f32> = pictures
        .iter()
        .flat_map(|picture| paint::linear(&picture.shown, (14, 14)).pixels)
        .map(|value| f32::from(value) / 255.0)
        .collect();
    let rows = Tensor::from_slice(&rows).view([-1, 3]);
    let alone = crate::cluster::cluster(&rows, 3, Algorithm::KMeans, 0).unwrap();
    let alone: Vec<u8> = alone.labels.iter().map(|label| *label as u8).collect();
    assert_eq!(map.labels, order::by_size(&alone, 3));
    assert_eq!(map.image_shares.len(), 3);
    assert_eq!(map.of_picture(1).unwrap(), &map.labels[196..392]);
    // Parts of different classes are different parts: the background and those of three classes.
    assert!(map.truth.unwrap().parts > 6);
}

/// The published code normalises by the batch: an image's map depends on its neighbours, ours does not.
#[test]
fn a_figure_shows_a_dozen_images_and_says_of_how_many() {
    let settings = Settings { together: true, ..small() };
    let pixels = [Subject { name: "Raw pixels".to_owned(), weights: None }];
    for (count, shown) in [(3, 3), (13, 12)] {
        let pictures = pictures(count);
        let all = found(&settings, &pixels, &pictures);
        let figures = figures::Album::new(&settings, &all, &pictures).figures();
        let (_, figure) = &figures[0];
        assert_eq!(figure.columns.len(), shown);
        assert!(figure.rows.iter().all(|row| row.cells.iter().flatten().count() == shown));
        assert_eq!(figure.note.contains("The first 12 of 13 images"), count == 13);
    }
}

#[test]
fn as_published_depends_on_the_batch_and_works_on_whole_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let weights = network(folder.path(), 1);
    let before = weights.hash();
    let (one, two) = (&pictures(1)[..], &pictures(2)[..]);
    let maps = |mode, pictures| {
        let settings = Settings { mode, ..small() };
        let found = maps::of_network(&weights, pictures, &settings).unwrap();
        found[1].features(Some(0), mode)
    };
    let apart = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
    let ours = maps(Mode::Report, one);
    assert!(apart(&ours, &maps(Mode::Report, two)) < 1e-5);
    let lengths = ours.square().sum_dim_intlist(1, false, None);
    assert!(apart(&lengths, &lengths.ones_like()) < 1e-5);
    let published = maps(Mode::AsPublished, one);
    assert!(apart(&published, &maps(Mode::AsPublished, two)) > 1.0);
    assert!(apart(&published, &published.round()) == 0.0);
    let (least, most) = (published.min().double_value(&[]), published.max().double_value(&[]));
    assert_eq!((least, most), (0.0, 255.0));
    assert_eq!(weights.hash(), before, "running statistics stay");
}

#[test]
fn pixels_are_clustered_on_the_grid_asked_for() {
    let pixels = [Subject { name: "Raw pixels".to_owned(), weights: None }];
    let pictures = pictures(2);
    let side = |raw_grid| {
        let all = found(&Settings { raw_grid, ..small() }, &pixels, &pictures);
        (all.maps[0].width, all.maps[0].height, all.maps[0].labels.len())
    };
    assert_eq!(side(None), (14, 14, 196));
    assert_eq!(side(Some(32)), (32, 32, 1_024));
    let refused = |settings: Settings| {
        find(&settings, &pixels, &pictures, 0, &mut |_, _| ()).err().unwrap().to_string()
    };
    let wrong = refused(Settings { raw_grid: Some(65), ..small() });
    assert!(wrong.contains("from 2 to the 64 pixels of `parts.picture`, found `65`"), "{wrong}");
    let large = Settings {
        algorithms: vec![Algorithm::Ward],
        raw_grid: Some(200),
        picture: 224,
        ..small()
    };
    let wrong = refused(large);
    assert!(wrong.contains("`parts.raw_grid=152` fits"), "{wrong}");
}

#[test]
fn what_cannot_be_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let weights = network(folder.path(), 1);
    let net = || Subject { name: "net".to_owned(), weights: Some(&weights) };
    let pictures = pictures(2);
    let refused = |settings: Settings, subjects: &[Subject]| {
        find(&settings, subjects, &pictures, 0, &mut |_, _| ()).err().unwrap().to_string()
    };
    let cases = [
        (Settings { clusters: vec![11], ..small() }, "at most 10 clusters"),
        (Settings { clusters: vec![4, 2], ..small() }, "must ascend"),
        (Settings { clusters: vec![2, 2], ..small() }, "names one twice"),
        (Settings { blocks: vec![5], ..small() }, "1, 2, 3 and 4"),
        (Settings { size: Some(4), ..small() }, "from 16 to 4096"),
        (Settings { stability: 1, ..small() }, "at least 2 seeds"),
        (Settings { algorithms: Vec::new(), ..small() }, "at least one"),
    ];
    for (settings, expected) in cases {
        let message = refused(settings, &[net()]);
        assert!(message.contains(expected), "{message}");
    }
    assert!(refused(small(), &[]).contains("nothing to analyse"));
    assert!(refused(small(), &[net(), net()]).contains("--name"));
    // 160 x 160 pixels of block group 1 are too many for all pairs; 152 x 152 are the most.
    let large =
        Settings { algorithms: vec![Algorithm::Ward], blocks: vec![1], size: Some(160), ..small() };
    let message = refused(large.clone(), &[net()]);
    assert!(message.contains("`parts.size=152` fits"), "{message}");
    let message = refused(Settings { together: true, ..large }, &[net()]);
    assert!(message.contains("`parts.size=107` fits"), "{message}");
}

#[test]
fn lists_are_read_from_texts_too() {
    let read = |text: &str| crate::overrides::apply(&small(), &[text.to_owned()], &OPTIONAL);
    assert_eq!(read("blocks=1,4").unwrap().blocks, [1, 4]);
    assert_eq!(read("blocks=2").unwrap().blocks, [2]);
    assert_eq!(read("clusters=[3, 5]").unwrap().clusters, [3, 5]);
    let found = read("algorithms=k-means,spectral-cld").unwrap().algorithms;
    assert_eq!(found, [Algorithm::KMeans, Algorithm::SpectralCld]);
    let message = read("algorithms=k-mean").unwrap_err().to_string();
    assert!(message.contains("k-means"), "{message}");
}

#[test]
fn a_folder_holds_figures_maps_numbers_and_a_page_and_forgets_what_is_stale() {
    let folder = tempfile::tempdir().unwrap();
    let weights = network(folder.path(), 1);
    let subjects = [
        Subject { name: "My net".to_owned(), weights: Some(&weights) },
        Subject { name: "Raw pixels".to_owned(), weights: None },
    ];
    let pictures = pictures(2);
    let out = folder.path().join("parts");
    let alone = Settings { algorithms: vec![Algorithm::KMeans, Algorithm::Ward], ..small() };
    let all = found(&alone, &subjects, &pictures);
    let (file, analysis) = write(&out, &alone, &all, &pictures, told()).unwrap();
    // The text of a number is read back to the last bit but one.
    let read = Analysis::read(&out).unwrap();
    assert!(read.numbers.keys().eq(analysis.numbers.keys()));
    for (name, value) in &read.numbers {
        let apart = value.as_f64().unwrap() - analysis.numbers[name].as_f64().unwrap();
        assert!(apart.abs() < 1e-12, "{name}");
    }
    assert_eq!(Analysis { numbers: analysis.numbers.clone(), ..read }, analysis);
    assert_eq!(file, out.join("analysis.json"));
    for file in &analysis.files {
        assert!(out.join(&file.file).is_file(), "{}", file.file);
    }
    let names: Vec<&str> = analysis.files.iter().map(|file| file.file.as_str()).collect();
    for name in [
        "image0-layers.svg",
        "image1-algorithms-my-net-block3.png",
        "elbow.svg",
        "parts.html",
        "numbers.json",
        "maps/my-net-block4-ward.npy",
        "maps/raw-pixels-k-means-k4-image1.png",
    ] {
        assert!(names.contains(&name), "{name} of {names:?}");
    }
    // A bare map holds the labels themselves.
    let map = all.map((0, Some(3)), Scope::Image(1), Algorithm::Ward, 4).unwrap();
    let stored = std::fs::read(out.join("maps/my-net-block3-ward-k4-image1.png")).unwrap();
    assert_eq!(image::load_from_memory(&stored).unwrap().into_bytes(), map.labels);
    let array = std::fs::read(out.join("maps/my-net-block3-ward.npy")).unwrap();
    let array = npyz::NpyFile::new(&array[..]).unwrap();
    assert_eq!(array.shape(), [2, 3, 16, 16]);
    let values: Vec<u8> = array.into_vec().unwrap();
    assert_eq!(&values[5 * 256..], map.labels);
    let page = std::fs::read_to_string(out.join("parts.html")).unwrap();
    assert!(!page.contains("http://") && !page.contains("https://"), "the page asks for nothing");
    assert_eq!(crate::analyze::structure::complaints(&page), Vec::<String>::new());
    assert!(page.contains("My net") && page.contains("Block group") && page.contains("Ward"));
    let numbers: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("numbers.json")).unwrap()).unwrap();
    assert_eq!(numbers["maps"].as_array().unwrap().len(), all.maps.len());
    assert!(analysis.numbers.contains_key("My net/block4/part_iou"), "{:?}", analysis.numbers);

    // Other colours of an earlier analysis are gone on with: its labels turned round are ours turned round.
    let path = out.join("maps/my-net-block3-k-means.npy");
    let stored = npyz::NpyFile::new(&std::fs::read(&path).unwrap()[..]).unwrap().into_vec::<u8>();
    let mut turned = stored.unwrap();
    for image in turned.chunks_mut(3 * 256) {
        image[512..].iter_mut().for_each(|label| *label = 3 - *label);
    }
    crate::evaluate::export::array(&path, &[2, 3, 16, 16], &turned).unwrap();
    let again = Settings { like: Some(out.clone()), ..alone.clone() };
    let renamed = found(&again, &subjects, &pictures);
    for image in [0, 1] {
        let of = |found: &Found, block, k| {
            let layer = (0, Some(block));
            let map = found.map(layer, Scope::Image(image), Algorithm::KMeans, k).unwrap();
            map.labels.clone()
        };
        assert_eq!(of(&renamed, 3, 2), of(&all, 3, 2));
        let expected: Vec<u8> = of(&all, 3, 4).iter().map(|label| 3 - label).collect();
        assert_eq!(of(&renamed, 3, 4), expected);
    }
    let told = told();
    let other = |fingerprint: &str, split| {
        let data = DataUsed { fingerprint: fingerprint.to_owned(), ..told.data.clone() };
        Earlier::same_images(&out, &data, split).map_err(|error| error.to_string())
    };
    assert_eq!(other("", "test"), Ok(()));
    assert!(other("ab", "test").unwrap_err().contains("whose images are others"));
    assert!(
        other("", "train").unwrap_err().contains("of the split `test`, this analysis of `train`")
    );
    let idle = Settings { order: Order::Size, ..again.clone() }.check().unwrap_err().to_string();
    assert!(idle.contains("`parts.order=match`"), "{idle}");
    let other = Settings { together: true, ..again };
    let refused = find(&other, &subjects, &pictures, 0, &mut |_, _| ()).err().unwrap().to_string();
    assert!(refused.contains("cannot be carried over"), "{refused}");

    let together = Settings { together: true, ..small() };
    let all = found(&together, &subjects, &pictures);
    let (_, analysis) = write(&out, &together, &all, &pictures, told).unwrap();
    let names: Vec<&str> = analysis.files.iter().map(|file| file.file.as_str()).collect();
    assert!(names.contains(&"together-my-net-block4-k-means.svg"), "{names:?}");
    assert!(names.contains(&"together-layers-k-means.png"), "{names:?}");
    assert!(!out.join("image0-layers.svg").exists(), "a stale figure stays");
}
