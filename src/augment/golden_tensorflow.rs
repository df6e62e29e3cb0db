//! The TensorFlow side of the arithmetic, from arrays that `tests/golden/augment_tensorflow.py` made.

use super::golden::{bytes, furthest, furthest_byte, interleave, planes, read, wide};
use super::*;
use crate::data::Image;
use crate::random::{Purpose, Scope, Stream};
use safetensors::SafeTensors;

fn with_arrays(check: impl FnOnce(&SafeTensors)) {
    let arrays = read("augment_tensorflow");
    check(&SafeTensors::deserialize(&arrays).unwrap());
}

fn floats(arrays: &SafeTensors, name: &str) -> Vec<f32> {
    let data = bytes(arrays, name);
    data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn every_colour_operation_equals_tensorflows() {
    use Adjustment::{BrightnessOffset, ChannelContrast, Grayscale, HsvSaturation, Hue, Solarize};
    let mut cases: Vec<(String, Adjustment)> = vec![("grayscale".to_owned(), Grayscale)];
    cases.extend([-0.7, 0.3].map(|d| (format!("brightness_{d:?}"), BrightnessOffset(d))));
    for f in [0.0, 0.6, 1.7] {
        cases.push((format!("contrast_{f:?}"), ChannelContrast(f)));
        cases.push((format!("saturation_{f:?}"), HsvSaturation(f)));
    }
    cases.extend([-0.5, -0.2, 0.03, 0.2, 0.5].map(|f| (format!("hue_{f:?}"), Hue(f))));
    cases.extend([0.0, 0.5, 0.8].map(|t| (format!("solarize_{t:?}"), Solarize(t))));
    with_arrays(|arrays| {
        for (name, adjustment) in cases {
            let mut planes = planes();
            let [red, green, blue] = &mut planes;
            adjustment.apply([red, green, blue]);
            let distance = furthest(&interleave(&planes), &floats(arrays, &name));
            assert!(distance < 1e-5, "{name}: {distance}");
        }
    });
}

#[test]
fn bicubic_resize_equals_tensorflows() {
    let source = wide();
    let mut buffer = resample::Buffer::default();
    with_arrays(|arrays| {
        let mut cases = 0;
        for name in arrays.names() {
            let Some(rest) = name.strip_prefix("resize_") else { continue };
            let (version, numbers) = rest.split_once('_').unwrap();
            let version = match version {
                "one" => resample::Version::One,
                _ => resample::Version::Two,
            };
            let numbers: Vec<usize> = numbers.split('_').map(|it| it.parse().unwrap()).collect();
            let [left, top, width, height, side] = numbers[..] else { panic!("{name}") };
            let mut planes = [0, 1, 2].map(|_| vec![0.0; side * side]);
            let [red, green, blue] = &mut planes;
            let place = [left, top, width, height];
            let out = [&mut red[..], &mut green[..], &mut blue[..]];
            resample::resize(&source, place, (side, side), version, &mut buffer, out);
            let distance = furthest(&interleave(&planes), &floats(arrays, name));
            assert!(distance < 1e-5, "{name}: {distance}");
            cases += 1;
        }
        assert_eq!(cases, 16);
    });
}

#[test]
fn a_whole_view_of_simclr_equals_tensorflows_within_one() {
    use Adjustment::{BrightnessOffset, ChannelContrast, HsvSaturation, Hue};
    let (size_px, interpolation) = (24, Interpolation::TensorflowBicubic);
    let crop = Crop { left: 3, top: 5, width: 20, height: 18, size_px, interpolation };
    let operations = [HsvSaturation(1.3), ChannelContrast(0.7), BrightnessOffset(0.15), Hue(-0.15)];
    let operations = operations.map(Operation::Color).to_vec();
    let drawn = Drawn { crop, flip: true, operations };
    let json = serde_json::to_string(&drawn).unwrap();
    let drawn: Drawn = serde_json::from_str(&json).unwrap();
    let text =
        "crop 20x18 at (3, 5), flip, saturation 1.30, contrast 0.70, brightness +0.15, hue -0.15";
    assert_eq!(drawn.to_string(), text);
    let mut out = vec![0; 3 * size_px * size_px];
    drawn.apply(&wide(), &mut Scratch::default(), &mut out);
    with_arrays(|arrays| assert!(furthest_byte(&out, &bytes(arrays, "view")) <= 1));
}

#[test]
fn the_central_square_equals_simclrs() {
    let source = wide();
    with_arrays(|arrays| {
        for (width, height, size_px) in [(40, 30, 24), (29, 30, 16), (23, 30, 32)] {
            let preprocess = Preprocess {
                sizing: Sizing::CentralSquare { fraction: 0.875, size_px },
                ..Preprocess::named("simclr").unwrap()
            };
            let rows = source.pixels.chunks_exact(3 * source.width).take(height);
            let pixels = rows.flat_map(|row| row[..3 * width].to_vec()).collect();
            let mut out = vec![0; 3 * size_px * size_px];
            let image = Image { width, height, pixels };
            preprocess.apply(&image, &mut Scratch::default(), &mut out);
            let name = format!("center_{width}_{height}_{size_px}");
            // Exact halves may be rounded apart.
            assert!(furthest_byte(&out, &bytes(arrays, &name)) <= 1, "{name}");
        }
    });
}

/// Means of area, area², log ratio, log ratio², left and top offset, as fractions of the image; of being the whole image;
/// of touching the right edge.
fn moments(crop: &RandomResizedCrop, width: usize, height: usize) -> [f64; 8] {
    let (w, h) = (width as f64, height as f64);
    let mut sums = [0.0; 8];
    for item in 0..100_000 {
        let mut stream = Stream::open(0, Purpose::Test, Scope::Item(item));
        let crop = crop.sample(&mut stream, (width, height));
        let right = crop.left + crop.width;
        assert!(right <= width && crop.top + crop.height <= height);
        let area = (crop.width * crop.height) as f64 / (w * h);
        let ratio = (crop.width as f64 / crop.height as f64).ln();
        let (whole, edge) =
            (f64::from(crop.width * crop.height == width * height), f64::from(right == width));
        let (left, top) = (crop.left as f64 / w, crop.top as f64 / h);
        let values = [area, area * area, ratio, ratio * ratio, left, top, whole, edge];
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value;
        }
    }
    sums.map(|sum| sum / 100_000.0)
}

#[test]
fn random_crops_have_the_moments_of_simclrs_and_byols() {
    with_arrays(|arrays| {
        for (name, kind) in [("tensorflow", CropKind::Tensorflow), ("byol", CropKind::Byol)] {
            for (width, height, low, high) in
                [(32, 32, 0.08, 1.0), (500, 375, 0.08, 1.0), (100, 20, 0.5, 1.0), (9, 9, 0.2, 0.6)]
            {
                let name = format!("moments_{name}_{width}_{height}_{low:?}_{high:?}");
                let data = bytes(arrays, &name);
                let expected = data.as_chunks::<8>().0.iter().map(|it| f64::from_le_bytes(*it));
                let crop = RandomResizedCrop {
                    size_px: 32,
                    scale: [low, high],
                    ratio: [0.75, 4.0 / 3.0],
                    interpolation: Interpolation::Bilinear,
                    kind,
                    shared: false,
                };
                let found = moments(&crop, width, height);
                assert_eq!(expected.len(), found.len());
                for (at, (found, expected)) in found.into_iter().zip(expected).enumerate() {
                    // Each mean of 100,000 values of deviation below 0.5 has a standard error below 0.0016, the
                    // difference of two one below 0.0023.
                    assert!((found - expected).abs() < 0.007, "{name} {at}: {found} {expected}");
                }
            }
        }
    });
}
