//! Promises of the scan: made near-duplicates are found, different images are not taken for one.

use super::super::features::tests::made;
use super::*;
use crate::data::{Image, open};
use std::f32::consts::PI;
use std::sync::Arc;

/// Images in memory; `None` is a damaged one.
struct Made(Vec<Option<Image>>);

impl Dataset for Made {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn label(&self, index: usize) -> Option<u32> {
        Some(index as u32 % 3)
    }
    fn path(&self, index: usize) -> String {
        format!("{index}.png")
    }
    fn image(&self, index: usize) -> Result<Image> {
        self.0[index].clone().ok_or_else(|| Error::Data(format!("`{index}` is damaged")))
    }
}

fn source(splits: Vec<(&str, Vec<Option<Image>>)>) -> Source {
    let split =
        |(name, images): (&str, _)| (name.to_owned(), Arc::new(Made(images)) as Arc<dyn Dataset>);
    Source {
        format: "made".to_owned(),
        location: "here".to_owned(),
        classes: vec!["a".into(), "b".into(), "c".into()],
        splits: splits.into_iter().map(split).collect(),
        fingerprint: "f00d".to_owned(),
    }
}

fn scenes(count: usize, size: usize) -> Vec<Image> {
    let source = open(&format!("synthetic:scenes?train={count}&test=1&size={size}")).unwrap();
    let split = source.split("train").unwrap();
    (0..count).map(|index| split.image(index).unwrap()).collect()
}

/// Every value through a function of (x, y, channel).
fn mapped(width: usize, height: usize, value: impl Fn(usize, usize, usize) -> f32) -> Image {
    let pixels = (0..width * height * 3)
        .map(|at| value(at / 3 % width, at / 3 / width, at % 3).round().clamp(0.0, 255.0) as u8)
        .collect();
    Image { width, height, pixels }
}

fn at(image: &Image, x: usize, y: usize, channel: usize) -> f32 {
    f32::from(image.pixels[3 * (y * image.width + x) + channel])
}

/// A box of an image at a new size, between pixels linear.
fn resized(image: &Image, [left, top, side]: [f32; 3], size: usize) -> Image {
    let place = |from: f32, point: usize, all: usize| {
        let at = (from + side * (point as f32 + 0.5) / size as f32) * all as f32 - 0.5;
        let at = at.clamp(0.0, all as f32 - 1.001);
        (at as usize, at.fract())
    };
    mapped(size, size, |x, y, channel| {
        let ((x, right), (y, down)) = (place(left, x, image.width), place(top, y, image.height));
        let row =
            |y| at(image, x, y, channel) * (1.0 - right) + at(image, x + 1, y, channel) * right;
        row(y) * (1.0 - down) + row(y + 1) * down
    })
}

/// What JPEG loses: every 8 × 8 block of each channel by its cosine transform, coefficients rounded to multiples that grow
/// with the frequency (those of quality 40, about).
fn compressed(image: &Image) -> Image {
    let basis = |k: usize, x: usize| {
        let scale = if k == 0 { (1.0f32 / 8.0).sqrt() } else { 0.5 };
        scale * ((2 * x + 1) as f32 * k as f32 * PI / 16.0).cos()
    };
    let mut values: Vec<f32> = image.pixels.iter().copied().map(f32::from).collect();
    let index = |x: usize, y: usize, channel: usize| 3 * (y * image.width + x) + channel;
    for block_y in (0..image.height).step_by(8) {
        for block_x in (0..image.width).step_by(8) {
            for channel in 0..3 {
                let mut coefficients = [[0.0f32; 8]; 8];
                for (v, row) in coefficients.iter_mut().enumerate() {
                    for (u, coefficient) in row.iter_mut().enumerate() {
                        for y in 0..8 {
                            for x in 0..8 {
                                let value = at(image, block_x + x, block_y + y, channel);
                                *coefficient += value * basis(u, x) * basis(v, y);
                            }
                        }
                        let step = 14.0 + 6.0 * (u + v) as f32;
                        *coefficient = (*coefficient / step).round() * step;
                    }
                }
                for y in 0..8 {
                    for x in 0..8 {
                        let mut sum = 0.0;
                        for (v, row) in coefficients.iter().enumerate() {
                            for (u, coefficient) in row.iter().enumerate() {
                                sum += coefficient * basis(u, x) * basis(v, y);
                            }
                        }
                        values[index(block_x + x, block_y + y, channel)] = sum;
                    }
                }
            }
        }
    }
    mapped(image.width, image.height, |x, y, channel| values[index(x, y, channel)])
}

fn quiet(settings: &Duplicates, source: &Source) -> Result<Report> {
    settings.scan(source, &|_, _| ())
}

/// Something done to an image.
type Way = fn(&Image) -> Image;

#[test]
fn made_near_duplicates_are_found_whatever_was_done() {
    let images = scenes(40, 64);
    let ways: [(&str, Way); 6] = [
        ("compressed", compressed),
        ("smaller", |image| resized(image, [0.0, 0.0, 1.0], 48)),
        ("larger", |image| resized(image, [0.0, 0.0, 1.0], 100)),
        ("cropped", |image| resized(image, [0.07, 0.02, 0.9], 64)),
        ("brighter", |image| mapped(64, 64, |x, y, channel| at(image, x, y, channel) * 0.8 + 40.0)),
        ("all of it", |image| {
            let image = resized(image, [0.03, 0.04, 0.93], 56);
            let image = mapped(56, 56, |x, y, channel| at(&image, x, y, channel) * 0.9 + 15.0);
            compressed(&image)
        }),
    ];
    let train: Vec<Option<Image>> = images.iter().cloned().map(Some).collect();
    for (name, way) in ways {
        let test = images[..12].iter().map(|image| Some(way(image))).collect();
        let source = source(vec![("train", train.clone()), ("test", test)]);
        let report =
            quiet(&Duplicates { within: false, ..Duplicates::default() }, &source).unwrap();
        let right =
            report.pairs.iter().filter(|pair| pair.first.index == pair.second.index).count();
        assert_eq!(report.pairs.len(), right, "{name}: a pair that is none");
        assert_eq!(right, 12, "{name}");
        assert!(report.pairs.iter().all(|pair| !pair.exact && pair.across_splits()));
        assert!(report.counts[0].near == right && report.counts[0].exact == 0);
    }
}

#[test]
fn different_images_are_no_duplicates() {
    let source = open("synthetic:scenes?train=400&test=200&size=32").unwrap();
    let report = quiet(&Duplicates::default(), &source).unwrap();
    assert_eq!((report.images, report.damaged), (600, 0));
    assert_eq!(report.pairs, [], "{report}");
    assert!(report.to_string().contains("no image occurs in two splits"));
}

#[test]
fn equal_images_are_paired_with_the_first_of_each_split() {
    let images: Vec<Option<Image>> = scenes(6, 32).into_iter().map(Some).collect();
    let flat = |value| Some(mapped(32, 32, |_, _, _| value));
    let train = vec![images[0].clone(), images[1].clone(), images[0].clone(), None, flat(9.0)];
    let test = vec![images[2].clone(), images[0].clone(), flat(9.0), flat(11.0), images[0].clone()];
    let source = source(vec![("train", train), ("test", test)]);
    let report = quiet(&Duplicates::default(), &source).unwrap();
    assert_eq!((report.images, report.damaged, report.flat), (10, 1, 3));
    let pairs: Vec<_> = report
        .pairs
        .iter()
        .map(|pair| {
            assert!(pair.exact);
            let name = |place: &Place| format!("{}{}", &place.split[..2], place.index);
            name(&pair.first) + &name(&pair.second)
        })
        .collect();
    assert_eq!(pairs, ["tr0tr2", "tr0te1", "tr0te4", "tr4te2", "te1te4"]);
    assert!(report.pairs[0].labels_differ(), "labels 0 and 2");
    let counts: Vec<_> = report
        .counts
        .iter()
        .map(|it| (it.split.as_str(), it.found_in.as_str(), it.exact))
        .collect();
    assert_eq!(counts, [("train", "train", 1), ("test", "train", 3), ("test", "test", 1)]);
    let text = report.to_string();
    assert!(
        text.contains(
            "test: 3 equal, 0 nearly equal and 0 mirrored of 5 images (60.00 %) occur in train"
        ),
        "{text}"
    );
    let across = quiet(&Duplicates { within: false, ..Duplicates::default() }, &source).unwrap();
    assert_eq!(across.pairs.len(), 3);
    let again: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(again, report);
}

#[test]
fn near_duplicates_within_a_split_are_one_pair() {
    let mut images = scenes(20, 64);
    images.push(compressed(&images[4]));
    let source = source(vec![("all", images.into_iter().map(Some).collect())]);
    let report = quiet(&Duplicates::default(), &source).unwrap();
    let pairs: Vec<_> = report.pairs.iter().map(|it| (it.first.index, it.second.index)).collect();
    assert_eq!(pairs, [(4, 20)]);
    assert!(report.pairs[0].similarity > 0.97 && report.pairs[0].detail > 0.6, "{report:?}");
}

#[test]
fn mirrored_copies_are_found_and_told_as_such() {
    let images = scenes(30, 64);
    let mirrored = thumbnail::mirrored;
    assert_eq!(mirrored(&mirrored(&images[0])), images[0]);
    assert_eq!(mirrored(&images[0]).pixels[..3], images[0].pixels[3 * 63..3 * 64]);
    let train: Vec<Option<Image>> = images.iter().cloned().map(Some).collect();
    // 0: equal but mirrored; 1: mirrored, cropped and compressed; 2: as it is; 3: symmetric, so found as it is.
    let symmetric =
        mapped(64, 64, |x, y, c| 4.0 * (x.abs_diff(63 - x) + y / 2 + 20 * c) as f32 % 255.0);
    let cropped = compressed(&resized(&mirrored(&images[1]), [0.05, 0.05, 0.9], 64));
    let test = vec![
        Some(mirrored(&images[0])),
        Some(cropped),
        Some(images[2].clone()),
        Some(symmetric.clone()),
    ];
    let train = [train, vec![Some(symmetric)]].concat();
    let source = source(vec![("train", train), ("test", test)]);
    let settings = Duplicates { within: false, ..Duplicates::default() };
    let report = quiet(&settings, &source).unwrap();
    let mut pairs: Vec<_> = report
        .pairs
        .iter()
        .map(|it| (it.second.index, it.first.index, it.exact, it.mirrored))
        .collect();
    pairs.sort_unstable();
    assert_eq!(
        pairs,
        [(0, 0, true, true), (1, 1, false, true), (2, 2, true, false), (3, 30, true, false)]
    );
    let count = &report.counts[0];
    assert_eq!((count.exact, count.near, count.mirrored), (2, 0, 2));
    let text = report.to_string();
    assert!(text.contains("equal mirrored  0.png of train, 0.png of test"), "{text}");
    let without = quiet(&Duplicates { mirrored: false, ..settings }, &source).unwrap();
    assert_eq!(without.pairs.len(), 2);
    // Within a split either of the two may be asked about: one pair.
    let both = vec![Some(images[4].clone()), Some(images[5].clone()), Some(mirrored(&images[4]))];
    let within = quiet(&Duplicates::default(), &self::source(vec![("all", both)])).unwrap();
    let pairs: Vec<_> = within.pairs.iter().map(|it| (it.first.index, it.second.index)).collect();
    assert_eq!(pairs, [(0, 2)]);
    assert!(within.pairs[0].mirrored && within.pairs[0].exact);
}

#[test]
fn features_alike_are_listed_once() {
    let rows = [1.0f32, 0.0, 0.0, 1.0, 0.999, 0.01, 0.0, -1.0];
    let set = made(Tensor::from_slice(&rows).view([4, 2]), &[-1; 4]);
    let found = alike_features(&set, &set, 0.99, 3, true).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].query, found[0].reference), (0, 2));
    assert_eq!(found[0].paths, ["0.png", "2.png"]);
    assert!(found[0].similarity > 0.9999);
    assert_eq!(alike_features(&set, &set, 0.99, 3, false).unwrap().len(), 6);
    assert!(matches!(alike_features(&set, &set, 1.5, 3, true), Err(Error::Recipe(_))));
    assert!(matches!(alike_features(&set, &set, 0.9, 0, true), Err(Error::Recipe(_))));
}

#[test]
fn settings_out_of_range_and_a_source_without_images_are_errors() {
    let source = source(vec![("all", vec![None, None])]);
    let ok = Duplicates::default();
    for bad in [
        Duplicates { similarity: 0.4, ..ok.clone() },
        Duplicates { detail: f64::NAN, ..ok.clone() },
        Duplicates { neighbours: 0, ..ok.clone() },
    ] {
        assert!(matches!(quiet(&bad, &source), Err(Error::Recipe(_))));
    }
    assert!(matches!(quiet(&ok, &source), Err(Error::Data(_))));
}
