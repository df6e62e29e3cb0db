//! The arithmetic against torchvision's float tensors and Pillow, from arrays that `tests/golden/augment.py` made.

use super::blur::Buffer;
use super::*;
use crate::data::Image;
use crate::random::{Purpose, Scope, Stream};
use safetensors::SafeTensors;

/// The bytes of a file of arrays in `tests/golden`.
pub(super) fn read(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    std::fs::read(format!("{folder}/{name}.safetensors")).unwrap()
}

fn with_arrays(check: impl FnOnce(&SafeTensors)) {
    check(&SafeTensors::deserialize(&read("augment")).unwrap());
}

/// The test picture of 40 by 30 pixels.
pub(super) fn wide() -> Image {
    image(&SafeTensors::deserialize(&read("augment")).unwrap(), "wide")
}

pub(super) fn bytes(arrays: &SafeTensors, name: &str) -> Vec<u8> {
    arrays.tensor(name).unwrap().data().to_vec()
}

fn image(arrays: &SafeTensors, name: &str) -> Image {
    let shape = arrays.tensor(name).unwrap().shape().to_vec();
    Image { width: shape[1], height: shape[0], pixels: bytes(arrays, name) }
}

fn floats(arrays: &SafeTensors, name: &str) -> Vec<f32> {
    let data = bytes(arrays, name);
    data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The planes of the square test picture in [0, 1].
pub(super) fn planes() -> [Vec<f32>; 3] {
    let pixels = bytes(&SafeTensors::deserialize(&read("augment")).unwrap(), "square");
    [0, 1, 2].map(|c| pixels.iter().skip(c).step_by(3).map(|v| f32::from(*v) / 255.0).collect())
}

pub(super) fn interleave([red, green, blue]: &[Vec<f32>; 3]) -> Vec<f32> {
    red.iter().zip(green).zip(blue).flat_map(|((r, g), b)| [*r, *g, *b]).collect()
}

pub(super) fn furthest(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

pub(super) fn furthest_byte(found: &[u8], expected: &[u8]) -> u8 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn every_colour_operation_equals_torchvisions_float_result() {
    with_arrays(|arrays| {
        let mut cases: Vec<(String, Adjustment)> =
            vec![("grayscale".to_owned(), Adjustment::Grayscale)];
        for f in [0.0, 0.6, 1.7] {
            cases.push((format!("brightness_{f:?}"), Adjustment::Brightness(f)));
            cases.push((format!("contrast_{f:?}"), Adjustment::Contrast(f)));
            cases.push((format!("saturation_{f:?}"), Adjustment::Saturation(f)));
        }
        for f in [-0.5, -0.2, 0.03, 0.2, 0.5] {
            cases.push((format!("hue_{f:?}"), Adjustment::Hue(f)));
        }
        for (name, adjustment) in cases {
            let mut planes = planes();
            let [red, green, blue] = &mut planes;
            adjustment.apply([red, green, blue]);
            let distance = furthest(&interleave(&planes), &floats(arrays, &name));
            assert!(distance < 1e-5, "{name}: {distance}");
        }
    });
}

fn blurred(kernel: Kernel) -> Vec<f32> {
    let mut planes = planes();
    for plane in &mut planes {
        kernel.apply(plane, 24, &mut Buffer::default());
    }
    interleave(&planes)
}

#[test]
fn kernel_blur_equals_torchs_convolution() {
    with_arrays(|arrays| {
        for (side, sigma_px) in [(3, 0.4), (7, 1.3), (23, 2.0)] {
            for (name, border) in [("reflect", Border::Reflect), ("zero", Border::Zero)] {
                let kernel = Kernel::Kernel { sigma_px, radius_px: side / 2, border };
                let expected = floats(arrays, &format!("{name}_{side}_{sigma_px:?}"));
                let distance = furthest(&blurred(kernel), &expected);
                assert!(distance < 1e-5, "{name} {side} {sigma_px}: {distance}");
            }
        }
    });
}

#[test]
fn pillow_blur_equals_pillows_within_two() {
    with_arrays(|arrays| {
        for sigma_px in [0.1, 0.57, 1.03, 1.7, 2.0, 5.0] {
            let found: Vec<u8> = blurred(Kernel::Pillow { sigma_px })
                .iter()
                .map(|value| (value * 255.0).round() as u8)
                .collect();
            let expected = bytes(arrays, &format!("pillow_{sigma_px:?}"));
            // A box whose weights are small fractions makes exact halves, which f32 and Pillow's integers round apart.
            let distance = furthest_byte(&found, &expected);
            assert!(distance <= 2, "{sigma_px}: {distance} of 255");
            let sum: u32 =
                found.iter().zip(&expected).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
            let mean = f64::from(sum) / found.len() as f64;
            assert!(mean < 0.2, "{sigma_px}: {mean} of 255");
        }
    });
}

#[test]
fn crop_and_resize_equal_pillows_within_one() {
    with_arrays(|arrays| {
        let source = image(arrays, "wide");
        let mut scratch = Scratch::default();
        let mut cases = 0;
        for name in arrays.names() {
            let Some(rest) = name.strip_prefix("crop_") else { continue };
            let (filter, numbers) = rest.split_once('_').unwrap();
            let numbers: Vec<usize> = numbers.split('_').map(|it| it.parse().unwrap()).collect();
            let [left, top, width, height, size_px] = numbers[..] else { panic!("{name}") };
            let interpolation = match filter {
                "bilinear" => Interpolation::Bilinear,
                _ => Interpolation::Bicubic,
            };
            let crop = Crop { left, top, width, height, size_px, interpolation };
            let drawn = Drawn { crop, flip: false, operations: Vec::new() };
            let mut out = vec![0; 3 * size_px * size_px];
            drawn.apply(&source, &mut scratch, &mut out);
            let distance = furthest_byte(&out, &bytes(arrays, name));
            assert!(distance <= 1, "{name}: {distance}");
            cases += 1;
        }
        assert_eq!(cases, 28);
    });
}

fn check_pipeline(arrays: &SafeTensors, name: &str, drawn: &Drawn, text: &str, tolerance: u8) {
    let json = serde_json::to_string(drawn).unwrap();
    let drawn: Drawn = serde_json::from_str(&json).unwrap();
    assert_eq!(drawn.to_string(), text);
    let mut out = vec![0; 3 * drawn.crop.size_px * drawn.crop.size_px];
    drawn.apply(&image(arrays, "wide"), &mut Scratch::default(), &mut out);
    let distance = furthest_byte(&out, &bytes(arrays, name));
    assert!(distance <= tolerance, "{name}: {distance}");
}

#[test]
fn whole_pipelines_equal_the_reference_within_one() {
    use Adjustment::{Brightness, Contrast, Grayscale, Hue, Saturation};
    let interpolation = Interpolation::Bilinear;
    let blur = |sigma_px, radius_px, border| {
        Operation::Blur(Kernel::Kernel { sigma_px, radius_px, border })
    };
    let mut operations = [Saturation(1.3), Contrast(0.7), Brightness(1.2), Hue(-0.15)]
        .map(Operation::Color)
        .to_vec();
    operations.push(blur(0.8, 1, Border::Reflect));
    let color = "flip, saturation 1.30, contrast 0.70, brightness 1.20, hue -0.15, blur 0.8 px";
    with_arrays(|arrays| {
        let crop = Crop { left: 5, top: 1, width: 28, height: 28, size_px: 28, interpolation };
        let drawn = Drawn { crop, flip: true, operations: operations.clone() };
        check_pipeline(
            arrays,
            "pipeline_copy",
            &drawn,
            &format!("crop 28x28 at (5, 1), {color}"),
            1,
        );

        // The one by which the resize may differ grows with saturation and brightness.
        let crop = Crop { left: 3, top: 5, width: 20, height: 18, size_px: 32, interpolation };
        let drawn = Drawn { crop, flip: true, operations };
        check_pipeline(
            arrays,
            "pipeline_color",
            &drawn,
            &format!("crop 20x18 at (3, 5), {color}"),
            2,
        );

        let interpolation = Interpolation::Bicubic;
        let crop = Crop { left: 11, top: 2, width: 29, height: 28, size_px: 32, interpolation };
        let mut operations = [Hue(0.1), Contrast(1.4), Grayscale].map(Operation::Color).to_vec();
        operations.push(blur(1.1, 2, Border::Zero));
        let drawn = Drawn { crop, flip: false, operations };
        let text = "crop 29x28 at (11, 2), hue +0.10, contrast 1.40, grey, blur 1.1 px";
        check_pipeline(arrays, "pipeline_grey", &drawn, text, 1);
    });
}

#[test]
fn shorter_side_and_centre_equal_torchvisions() {
    with_arrays(|arrays| {
        let mut cases = 0;
        for name in arrays.names() {
            let Some(rest) = name.strip_prefix("center_").filter(|it| !it.starts_with("source"))
            else {
                continue;
            };
            let parts: Vec<&str> = rest.split('_').collect();
            let number = |at: usize| parts[at].parse::<usize>().unwrap();
            let (resize_px, crop_px) = (number(3), number(4));
            let preprocess = Preprocess {
                id: "test".to_owned(),
                sizing: Sizing::ShorterSide { resize_px, crop_px },
                interpolation: match parts[0] {
                    "bilinear" => Interpolation::Bilinear,
                    _ => Interpolation::Bicubic,
                },
                mean: [0.0; 3],
                std: [1.0; 3],
            };
            let source = image(arrays, &format!("center_source_{rest}"));
            assert_eq!((source.width, source.height), (number(1), number(2)));
            let mut out = vec![0; 3 * crop_px * crop_px];
            preprocess.apply(&source, &mut Scratch::default(), &mut out);
            let distance = furthest_byte(&out, &bytes(arrays, name));
            assert!(distance <= 1, "{name}: {distance}");
            cases += 1;
        }
        assert_eq!(cases, 18);
    });
}

fn crops(width: usize, height: usize, scale: [f64; 2]) -> impl Iterator<Item = Crop> {
    let crop = RandomResizedCrop {
        size_px: 32,
        scale,
        ratio: [0.75, 4.0 / 3.0],
        interpolation: Interpolation::Bilinear,
        kind: CropKind::Torchvision,
        shared: false,
    };
    (0..100_000).map(move |item| {
        let mut stream = Stream::open(0, Purpose::Test, Scope::Item(item));
        crop.sample(&mut stream, (width, height))
    })
}

/// Mean area, area², log ratio, log ratio², left and top offset, as fractions of the image.
fn moments(width: usize, height: usize, scale: [f64; 2]) -> [f64; 6] {
    let (w, h) = (width as f64, height as f64);
    let mut sums = [0.0; 6];
    for crop in crops(width, height, scale) {
        assert!(crop.left + crop.width <= width && crop.top + crop.height <= height);
        let area = (crop.width * crop.height) as f64 / (w * h);
        let ratio = (crop.width as f64 / crop.height as f64).ln();
        let (left, top) = (crop.left as f64 / w, crop.top as f64 / h);
        for (sum, value) in
            sums.iter_mut().zip([area, area * area, ratio, ratio * ratio, left, top])
        {
            *sum += value;
        }
    }
    sums.map(|sum| sum / 100_000.0)
}

#[test]
fn random_crops_have_torchvisions_moments() {
    with_arrays(|arrays| {
        for (width, height, low) in [(32, 32, 0.08), (500, 375, 0.2), (100, 20, 0.5)] {
            let data = bytes(arrays, &format!("moments_{width}_{height}_{low:?}"));
            let expected = data.as_chunks::<8>().0.iter().map(|it| f64::from_le_bytes(*it));
            let found = moments(width, height, [low, 1.0]);
            for (at, (found, expected)) in found.into_iter().zip(expected).enumerate() {
                // Each mean of 100,000 values of deviation below 0.3 has a standard error below 0.001.
                assert!(
                    (found - expected).abs() < 0.004,
                    "{width}x{height} {at}: {found} {expected}"
                );
            }
        }
    });
}

/// Where every try succeeds the area is uniform, the log ratio is uniform and symmetric, and the offsets are uniform.
#[test]
fn random_crops_without_rejection_have_the_moments_of_uniform_draws() {
    let [area, square, ratio, ratio_square, left, _] = moments(2000, 2000, [0.1, 0.5]);
    assert!((area - 0.3).abs() < 0.002, "{area}");
    assert!((square - (0.125 - 0.001) / (3.0 * 0.4)).abs() < 0.002, "{square}");
    assert!(ratio.abs() < 0.003, "{ratio}");
    let spread = (4.0f64 / 3.0).ln();
    assert!((ratio_square - spread * spread / 3.0).abs() < 0.001, "{ratio_square}");
    // E[(1 - w) / 2] with w = sqrt(area · ratio): E[sqrt(area)] and E[sqrt(ratio)] in closed form.
    let root_area = (0.5f64.powf(1.5) - 0.1f64.powf(1.5)) / (1.5 * 0.4);
    let root_ratio = (spread / 2.0).sinh() / (spread / 2.0);
    assert!((left - (1.0 - root_area * root_ratio) / 2.0).abs() < 0.003, "{left}");
}
