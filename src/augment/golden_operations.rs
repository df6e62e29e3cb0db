//! Operations of Pillow, Sobel, quarter turns and random erasing against the arrays that `tests/golden/operations.py` made.

use super::pillow::Bytes;
use super::rotate::rotate;
use super::sobel::sobel;
use super::*;
use crate::random::{Purpose, Scope, Stream};
use safetensors::SafeTensors;

const SIZE: usize = 26;

fn with_arrays(check: impl FnOnce(&SafeTensors)) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/operations.safetensors");
    let bytes = std::fs::read(path).unwrap();
    check(&SafeTensors::deserialize(&bytes).unwrap());
}

fn planes(pixels: &[u8]) -> [Vec<f32>; 3] {
    [0, 1, 2].map(|c| pixels.iter().skip(c).step_by(3).map(|v| f32::from(*v) / 255.0).collect())
}

fn bytes([red, green, blue]: &[Vec<f32>; 3]) -> Vec<u8> {
    let byte = |value: &f32| (value * 255.0).round() as u8;
    red.iter().zip(green).zip(blue).flat_map(|((r, g), b)| [r, g, b].map(byte)).collect()
}

/// Differing bytes and the largest difference of an operation on `source_…` from the array of that name.
fn differences(
    arrays: &SafeTensors,
    source: &str,
    name: &str,
    operation: PillowOperation,
) -> (usize, u8) {
    let mut planes = planes(arrays.tensor(&format!("source_{source}")).unwrap().data());
    let [red, green, blue] = &mut planes;
    operation.apply([red, green, blue], SIZE, &mut Bytes::default());
    let expected = arrays.tensor(name).unwrap().data().to_vec();
    let off: Vec<u8> = bytes(&planes)
        .iter()
        .zip(&expected)
        .map(|(a, b)| a.abs_diff(*b))
        .filter(|d| *d > 0)
        .collect();
    (off.len(), off.into_iter().max().unwrap_or(0))
}

#[test]
fn operations_on_values_equal_pillows_exactly() {
    use PillowOperation::{
        AutoContrast, Brightness, Color, Contrast, Equalize, Invert, Posterize, Sharpness,
        Solarize, SolarizeAdd,
    };
    with_arrays(|arrays| {
        let mut cases = vec![("waves", "invert_waves_0".to_owned(), Invert)];
        for source in ["waves", "flat", "poor"] {
            cases.push((source, format!("auto_contrast_{source}_0"), AutoContrast));
            cases.push((source, format!("equalize_{source}_0"), Equalize));
        }
        for bits in [0, 1, 3, 4, 8] {
            cases.push(("waves", format!("posterize_waves_{bits}"), Posterize(bits)));
        }
        for threshold in [0, 100, 243, 256] {
            cases.push(("waves", format!("solarize_waves_{threshold}"), Solarize(threshold)));
        }
        for amount in [0, 55, 110] {
            cases.push(("waves", format!("solarize_add_waves_{amount}"), SolarizeAdd(amount)));
        }
        for factor in [0.0, 0.1, 0.73, 1.0, 1.9] {
            for (name, operation) in [
                ("color", Color(factor)),
                ("contrast", Contrast(factor)),
                ("brightness", Brightness(factor)),
                ("sharpness", Sharpness(factor)),
            ] {
                cases.push(("waves", format!("{name}_waves_{factor:?}"), operation));
            }
        }
        for (source, name, operation) in cases {
            let found = differences(arrays, source, &name, operation);
            assert_eq!(found, (0, 0), "{name}");
        }
    });
}

#[test]
fn movements_equal_pillows_exactly() {
    with_arrays(|arrays| {
        let mut cases = 0;
        for name in arrays.names() {
            let parts: Vec<&str> = name.rsplitn(3, '_').collect();
            let [amount, kind, motion] = parts[..] else { continue };
            let resampling = match kind {
                "bilinear" => Resampling::Bilinear,
                "bicubic" => Resampling::Bicubic,
                _ => continue,
            };
            let amount: f32 = amount.parse().unwrap();
            let motion = match motion {
                "rotate" => Motion::Rotate(amount),
                "shear_x" => Motion::ShearX(amount),
                "shear_y" => Motion::ShearY(amount),
                "translate_x" => Motion::TranslateX(amount),
                "translate_y" => Motion::TranslateY(amount),
                other => panic!("{other}"),
            };
            let operation = PillowOperation::Warp(Warp { motion, resampling });
            assert_eq!(differences(arrays, "waves", name, operation), (0, 0), "{name}");
            cases += 1;
        }
        assert_eq!(cases, 28);
    });
}

#[test]
fn sobel_and_quarter_turns_equal_the_reference() {
    with_arrays(|arrays| {
        let start = planes(arrays.tensor("source_waves").unwrap().data());
        let mut edges = start.clone();
        let [red, green, blue] = &mut edges;
        sobel([red, green, blue], SIZE, &mut vec![9.0; 7]);
        let expected = arrays.tensor("sobel").unwrap().data().to_vec();
        for (at, expected) in expected.as_chunks::<4>().0.iter().enumerate() {
            let found = edges[at % 3][at / 3];
            assert!((found - f32::from_le_bytes(*expected)).abs() < 1e-5, "{at}: {found}");
        }
        for quarters in 1..=3 {
            let mut turned = start.clone();
            for plane in &mut turned {
                rotate(plane, SIZE, quarters);
            }
            let expected = arrays.tensor(&format!("turned_{quarters}")).unwrap().data().to_vec();
            assert_eq!(bytes(&turned), expected);
        }
    });
}

#[test]
fn random_erasing_has_torchvisions_moments() {
    with_arrays(|arrays| {
        for (side, scale, ratio) in [(32, [0.02, 0.33], [0.3, 3.3]), (12, [0.3, 0.9], [0.5, 4.0])] {
            let erasing = RandomErasing { probability: 1.0, scale, ratio, value: 0.0 };
            let mut sums = [0.0; 6];
            let mut count = 0.0;
            for item in 0..100_000 {
                let mut stream = Stream::open(0, Purpose::Test, Scope::Item(item));
                let Some(patch) = erasing.sample(&mut stream, side, None) else { continue };
                let Patch { left, top, width, height, .. } = patch;
                assert!(left + width <= side && top + height <= side);
                let area = (width * height) as f64 / (side * side) as f64;
                let ratio = (height as f64 / width as f64).ln();
                let (left, top) = (left as f64 / side as f64, top as f64 / side as f64);
                let values = [area, area * area, ratio, ratio * ratio, left, top];
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                count += 1.0;
            }
            let data = arrays.tensor(&format!("erasing_{side}")).unwrap().data().to_vec();
            let expected = data.as_chunks::<8>().0.iter().map(|it| f64::from_le_bytes(*it));
            for (at, (sum, expected)) in sums.into_iter().zip(expected).enumerate() {
                // Each is a mean of 100,000 values, of deviation below 0.7: a standard error below 0.0023.
                assert!(
                    (sum / count - expected).abs() < 0.01,
                    "{side} {at}: {} {expected}",
                    sum / count
                );
            }
        }
    });
}
