use super::*;
use crate::analyze::figure::svg_to_png;
use crate::analyze::plot::tests::alike;
use crate::data::Source;
use crate::evaluate::unlabelled::Look;
use std::path::Path;
use tch::{Kind, Tensor};

fn scenes() -> Source {
    crate::data::open("synthetic:scenes?train=40&test=8&size=32").unwrap()
}

fn eye<'a>(name: &str, look: impl FnMut(&[u8], usize) -> Result<Tensor> + 'a) -> Eye<'a> {
    let mut look = look;
    let look: Look = Box::new(move |pixels, n| Ok(vec![look(pixels, n)?]));
    Eye { name: name.to_owned(), layers: vec!["h".to_owned()], look }
}

/// Sees the pixels.
#[expect(clippy::unnecessary_wraps, reason = "a forward pass may fail")]
fn pixels(bytes: &[u8], images: usize) -> Result<Tensor> {
    Ok(Tensor::from_slice(bytes).view([images as i64, -1]).to_kind(Kind::Float) / 255.0)
}

/// Sees nothing but the mean colour: flips are nothing to it, colours are.
#[expect(clippy::unnecessary_wraps, reason = "a forward pass may fail")]
fn mean_colour(bytes: &[u8], images: usize) -> Result<Tensor> {
    let rows = Tensor::from_slice(bytes).view([images as i64, -1, 3]).to_kind(Kind::Float);
    Ok(rows.mean_dim(1i64, false, None) - 110.0)
}

fn image(side: usize) -> Image {
    let pixels = (0..3 * side * side).map(|at| (at * 37 % 251) as u8).collect();
    Image { width: side, height: side, pixels }
}

fn applied(name: &str, strength: f64, image: &Image) -> Image {
    let side = image.width;
    let drawn = Augmentation::named(name).unwrap().drawn(strength, side, 5, 1);
    let mut pixels = vec![0; 3 * side * side];
    drawn.apply(image, &mut Scratch::default(), &mut pixels);
    Image { width: side, height: side, pixels }
}

#[test]
fn nothing_happens_at_the_neutral_strength_and_something_at_all_others() {
    let image = image(24);
    for augmentation in AUGMENTATIONS {
        assert_eq!(applied(augmentation.name, augmentation.neutral, &image), image);
        assert!(augmentation.strengths.contains(&augmentation.neutral), "{augmentation:?}");
        for strength in
            augmentation.strengths.iter().filter(|it| !augmentation.changes_nothing(**it))
        {
            let changed = applied(augmentation.name, *strength, &image);
            // A blur of a tenth of a pixel leaves bytes alone.
            let little = augmentation.name == "blur" && *strength < 0.02;
            assert!(little || changed != image, "{} {strength}", augmentation.name);
        }
    }
}

#[test]
fn operations_do_what_their_strength_says() {
    let image = image(24);
    let grey = applied("grayscale", 1.0, &image);
    assert!(
        grey.pixels
            .as_chunks::<3>()
            .0
            .iter()
            .all(|[r, g, b]| r.abs_diff(*g) <= 1 && g.abs_diff(*b) <= 1)
    );
    let flipped = applied("flip", 1.0, &image);
    assert_eq!(applied("flip", 1.0, &flipped), image);
    assert_eq!(flipped.pixels[..3], image.pixels[3 * 23..3 * 24]);
    let dark = applied("brightness", 0.5, &image);
    let half =
        |(value, dark): (&u8, &u8)| (f64::from(*value) / 2.0 - f64::from(*dark)).abs() <= 0.51;
    assert!(image.pixels.iter().zip(&dark.pixels).all(half));
    let bits = applied("posterize", 1.0, &image);
    assert!(bits.pixels.iter().all(|value| [0, 128].contains(value)));
    let hidden = applied("cutout", 0.5, &image);
    let grey = hidden.pixels.as_chunks::<3>().0.iter().filter(|pixel| **pixel == [128; 3]).count();
    assert_eq!(grey, 12 * 12);
    let inverted = applied("solarize", 1.0, &image);
    assert!(image.pixels.iter().zip(&inverted.pixels).all(|(a, b)| a.abs_diff(255 - b) <= 1));
}

#[test]
fn the_crop_of_every_strength_lies_about_the_same_place() {
    let crop = Augmentation::named("crop").unwrap();
    for index in 0..50 {
        let mut before = [0, 0, 32, 32];
        for area in [0.9, 0.5, 0.25, 0.1] {
            let found = crop.drawn(area, 32, index, 2).crop;
            assert_eq!(found.width, (32.0 * f64::sqrt(area)).round() as usize);
            let now = [found.left, found.top, found.width, found.height];
            // Rounding to whole pixels may push an edge by one.
            let inside = |at: usize| {
                now[at] >= before[at] && now[at] + now[at + 2] <= before[at] + before[at + 2] + 1
            };
            assert!(inside(0) && inside(1), "{now:?} in {before:?}");
            before = now;
        }
    }
}

fn settings(only: &[&str]) -> Augmentations {
    let only = only.iter().map(|name| (*name).to_owned()).collect();
    Augmentations { images: 30, only, ..Augmentations::default() }
}

fn run(settings: &Augmentations, eyes: &mut [Eye], batch: usize, seed: u64) -> Vec<Curve> {
    let source = scenes();
    let images = source.split("train").unwrap();
    let preprocess = Preprocess::named("resize-32").unwrap();
    settings.evaluate(eyes, images, &preprocess, batch, seed, &mut |_, _| ()).unwrap().curves
}

#[test]
fn what_an_eye_does_not_see_leaves_its_curve_at_one() {
    let settings = settings(&["flip", "color", "hue", "crop"]);
    let curves = run(&settings, &mut [eye("mean", mean_colour), eye("pixels", pixels)], 16, 1);
    assert_eq!(curves.len(), 8, "one of each eye for each augmentation");
    let of = |augmentation: &str, model: &str| {
        let is = |it: &&Curve| it.augmentation == augmentation && it.model == model;
        curves.iter().find(is).unwrap()
    };
    let flip = of("flip", "mean");
    assert!((flip.points[1].cosine.value - 1.0).abs() < 1e-6 && flip.points[1].band[0] > 0.999_99);
    assert!((flip.steadiness.unwrap() - 1.0).abs() < 1e-5);
    assert!(of("flip", "pixels").points[1].cosine.value < 0.99);
    for name in ["color", "hue", "crop"] {
        let values: Vec<f64> = of(name, "pixels").points.iter().map(|it| it.cosine.value).collect();
        assert!((values[0] - 1.0).abs() < 1e-12, "nothing happened at first");
        assert!(values.windows(2).all(|pair| pair[1] < pair[0] + 0.01), "{name}: {values:?}");
    }
    for curve in &curves {
        for point in &curve.points {
            let [low, high] = point.band;
            assert!(low <= high && high <= 1.0 + 1e-9);
            let expected = (point.cosine.value - curve.different) / (1.0 - curve.different);
            assert!((point.relative.unwrap() - expected).abs() < 1e-9);
        }
    }
}

#[test]
fn neither_batch_nor_company_changes_a_curve_and_the_seed_does() {
    let some = settings(&["crop", "noise"]);
    let alone = run(&some, &mut [eye("pixels", pixels)], 7, 1);
    let both = run(&some, &mut [eye("mean", mean_colour), eye("pixels", pixels)], 30, 1);
    let both: Vec<Curve> = both.into_iter().filter(|curve| curve.model == "pixels").collect();
    assert_eq!(alone, both);
    assert_ne!(run(&some, &mut [eye("pixels", pixels)], 7, 2)[0].points, alone[0].points);
    // What else is looked at does not matter either.
    assert_eq!(run(&settings(&["noise"]), &mut [eye("pixels", pixels)], 30, 1)[0], alone[1]);
}

/// Noise of variance σ² on values whose mean square is m: the cosine of many values is √(m / (m + σ²)).
#[test]
fn noise_lowers_the_cosine_as_far_as_theory_says() {
    struct Grey;
    impl Dataset for Grey {
        fn len(&self) -> usize {
            20
        }
        fn label(&self, _: usize) -> Option<u32> {
            None
        }
        fn path(&self, index: usize) -> String {
            index.to_string()
        }
        fn image(&self, index: usize) -> Result<Image> {
            let value = 118 + index as u8;
            Ok(Image { width: 32, height: 32, pixels: vec![value; 3 * 32 * 32] })
        }
    }
    let mut settings = settings(&["noise"]);
    settings.strengths.insert("noise".to_owned(), vec![0.05, 0.1]);
    let images: Arc<dyn Dataset> = Arc::new(Grey);
    let preprocess = Preprocess::named("resize-32").unwrap();
    let curves = settings
        .evaluate(&mut [eye("pixels", pixels)], &images, &preprocess, 8, 1, &mut |_, _| ())
        .unwrap()
        .curves;
    for (point, std) in curves[0].points.iter().zip([0.05f64, 0.1]) {
        let square = (0..20).map(|i| (f64::from(118 + i) / 255.0).powi(2)).sum::<f64>() / 20.0;
        let expected = (square / (square + std * std)).sqrt();
        assert!((point.cosine.value - expected).abs() < 1e-3, "{point:?} {expected}");
    }
    // All are grey: as directions, the images are one and the same.
    assert!(curves[0].steadiness.is_none() && curves[0].points[0].relative.is_none());
}

#[test]
fn damaged_images_are_left_out_and_told() {
    struct Some(Arc<dyn Dataset>);
    impl Dataset for Some {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn label(&self, _: usize) -> Option<u32> {
            None
        }
        fn path(&self, index: usize) -> String {
            self.0.path(index)
        }
        fn image(&self, index: usize) -> Result<Image> {
            if index.is_multiple_of(4) {
                return Err(Error::Data("cut short".to_owned()));
            }
            self.0.image(index)
        }
    }
    let whole = scenes().split("train").unwrap().clone();
    let images: Arc<dyn Dataset> = Arc::new(Some(whole));
    let preprocess = Preprocess::named("resize-32").unwrap();
    let all = Augmentations { images: 100, ..settings(&["flip"]) };
    let found = all
        .evaluate(&mut [eye("pixels", pixels)], &images, &preprocess, 8, 1, &mut |_, _| ())
        .unwrap();
    assert_eq!((found.images, found.damaged.len()), (30, 10));
    assert_eq!(all.examples(&images, &preprocess, 1).unwrap()[0].len(), 2);
}

#[test]
fn bad_settings_name_themselves() {
    let fails = |settings: Augmentations| settings.wanted().unwrap_err().to_string();
    let strengths = |name: &str, values: &[f64]| {
        let mut settings = Augmentations::default();
        settings.strengths.insert(name.to_owned(), values.to_vec());
        settings
    };
    for (settings, expected) in [
        (
            Augmentations { images: 1, ..Augmentations::default() },
            "`augmentations.images` must be at least 2",
        ),
        (
            Augmentations { band: [0.9, 0.1], ..Augmentations::default() },
            "`augmentations.band` must be two quantiles",
        ),
        (settings(&["crpo"]), "did you mean `crop`?"),
        (strengths("blurr", &[0.1]), "did you mean `blur`?"),
        (
            strengths("crop", &[1.0, 0.0]),
            "`augmentations.strengths.crop` must be within 0.001 to 1 (area that is kept), found `0`",
        ),
        (strengths("flip", &[0.5]), "`augmentations.strengths.flip` must be whole numbers"),
        (strengths("noise", &[0.0]), "other than 0"),
        (strengths("noise", &[]), "other than 0"),
        (strengths("hue", &[f64::NAN]), "`augmentations.strengths.hue` must be within"),
    ] {
        let message = fails(settings);
        assert!(message.contains(expected), "{message}");
    }
    let images: Arc<dyn Dataset> = scenes().split("train").unwrap().clone();
    let pixel = Preprocess::named("resize-1").unwrap();
    let all = Augmentations { images: 2, ..Augmentations::default() };
    let examples = all.examples(&images, &pixel, 1).unwrap_err();
    let refused = all
        .evaluate(&mut [eye("pixels", pixels)], &images, &pixel, 8, 1, &mut |_, _| ())
        .unwrap_err();
    for error in [examples, refused] {
        assert!(
            error.to_string().contains("at least 2 pixels a side, and `--preprocess resize-1`")
        );
    }
    let least = Preprocess::named("resize-2").unwrap();
    assert_eq!(all.examples(&images, &least, 1).unwrap().len(), AUGMENTATIONS.len());
    let wanted = settings(&["blur", "crop"]).wanted().unwrap();
    assert_eq!(wanted.iter().map(|(it, _)| it.name).collect::<Vec<_>>(), ["crop", "blur"]);
}

#[test]
fn the_table_has_a_line_for_each_point() {
    let curves = run(&settings(&["flip", "crop"]), &mut [eye("a \"b\"", pixels)], 16, 1);
    let text = csv(&curves);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1 + 6 + 2);
    assert!(lines[1].starts_with("crop,1,\"a \"\"b\"\"\",h,1,1,1,1,1,1,"), "{}", lines[1]);
    assert_eq!(lines[8].split(',').count(), lines[0].split(',').count());
}

/// `DIPTYCH_BLESS=1` writes the stored picture anew.
#[test]
fn the_chart_looks_like_the_stored_one() {
    let curve = |model: &str, layer: &str, values: [f64; 6]| Curve {
        augmentation: "crop".to_owned(),
        model: model.to_owned(),
        layer: layer.to_owned(),
        points: values
            .iter()
            .zip(AUGMENTATIONS[0].strengths)
            .map(|(value, strength)| Point {
                strength: *strength,
                cosine: Measure::plain(*value),
                band: [value - 0.2 * (1.0 - value), value + 0.2 * (1.0 - value)],
                relative: Some(2.0 * value - 1.0),
            })
            .collect(),
        different: 0.5,
        steadiness: None,
    };
    let curves = [
        curve("one", "h", [1.0, 0.95, 0.9, 0.8, 0.7, 0.5]),
        curve("one", "z", [1.0, 0.98, 0.95, 0.9, 0.85, 0.8]),
        curve("untrained", "h", [1.0, 0.9, 0.8, 0.6, 0.5, 0.3]),
    ];
    let wanted = settings(&["crop"]).wanted().unwrap();
    let source = scenes();
    let preprocess = Preprocess::named("resize-32").unwrap();
    let examples =
        settings(&["crop"]).examples(source.split("train").unwrap(), &preprocess, 1).unwrap();
    let baselines = ["untrained".to_owned()];
    let chart = |relative| Chart {
        title: "What augmentations do & more",
        note: "Cosine similarity.",
        wanted: &wanted,
        curves: &curves,
        baselines: &baselines,
        examples: &examples,
        relative,
    };
    let svg = chart(false).svg().unwrap();
    assert_eq!(svg.matches("<image ").count(), 6);
    assert_eq!(
        svg.matches("<polygon").count() - 7,
        1,
        "a band for the trained network's first layer; a diamond for each point and the legend"
    );
    assert!(svg.contains("<title>What augmentations do &amp; more</title>"));
    assert_eq!(chart(true).svg().unwrap().matches("<polygon").count(), 7);
    let folder = tempfile::tempdir().unwrap();
    let relative = folder.path().join("relative.png");
    std::fs::write(&relative, svg_to_png(&chart(true).svg().unwrap(), 0.7).unwrap()).unwrap();
    alike(&relative, "augmentations-relative.png");
    let png = svg_to_png(&svg, 1.0).unwrap();
    let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/augmentations.png");
    if std::env::var_os("DIPTYCH_BLESS").is_some() {
        std::fs::write(&stored, &png).unwrap();
    }
    let decoded = |bytes: &[u8]| image::load_from_memory(bytes).unwrap().to_rgb8();
    let (found, expected) = (decoded(&png), decoded(&std::fs::read(&stored).unwrap()));
    assert_eq!(found.dimensions(), expected.dimensions());
    let apart = |(a, b): (&u8, &u8)| a.abs_diff(*b) > 24;
    let count = found.as_raw().iter().zip(expected.as_raw()).filter(|pair| apart(*pair)).count();
    let share = count as f64 / found.as_raw().len() as f64;
    assert!(share < 0.002, "{share}: look at it, then write it anew with DIPTYCH_BLESS=1");
}
