//! The device executor against the host's, operation by operation, on every device that is there.

use super::render::views;
use crate::augment::crop::{Crop, Interpolation};
use crate::augment::pipeline::{Drawn, Operation, Scratch};
use crate::augment::{
    Adjustment, Border, Kernel, Motion, Noise, Patch, Patches, PillowOperation, Resampling, Warp,
};
use crate::data::Image;
use crate::machine::cuda_devices;
use crate::random::{Purpose, Scope, Stream};
use tch::{Device, Tensor};

pub(super) fn devices() -> Vec<Device> {
    let gpus = (0..cuda_devices()).map(|index| Device::Cuda(index as usize));
    std::iter::once(Device::Cpu).chain(gpus).collect()
}

/// Waves and noise of another strength in each image; the first is plain, the second black and white, the third grey.
pub(super) fn picture(index: usize, width: usize, height: usize) -> Image {
    let mut stream = Stream::open(1, Purpose::Test, Scope::Item(index as u64));
    let noise = [0.0, 400.0, 30.0, 0.5][index % 4];
    let phase = stream.range(0.0, 6.0);
    let mut pixels = Vec::with_capacity(3 * width * height);
    for at in 0..width * height {
        let (x, y) = ((at % width) as f64, (at / width) as f64);
        for c in 0..3 {
            let wave = (x / (3.0 + f64::from(c)) + phase).sin() * (y / (5.0 - f64::from(c))).cos();
            let value = match index {
                0 => 77.0,
                2 => 128.0 + 90.0 * (x / 3.0 + phase).sin(),
                _ => 128.0 + 110.0 * wave + noise * stream.range(-1.0, 1.0),
            };
            pixels.push(value.round().clamp(0.0, 255.0) as u8);
        }
    }
    Image { width, height, pixels }
}

pub(super) const IMAGES: usize = 12;

/// The largest difference of the executors and the fraction of values that differ, for drawn views of `IMAGES` pictures.
fn compare(drawn: &[Drawn], (width, height): (usize, usize), device: Device) -> (u8, f64) {
    let pictures: Vec<Image> = (0..IMAGES).map(|at| picture(at, width, height)).collect();
    let all: Vec<u8> = pictures.iter().flat_map(|picture| picture.pixels.clone()).collect();
    let shape = [IMAGES, height, width, 3].map(|size| size as i64);
    let images = Tensor::from_slice(&all).view(shape).to_device(device);
    let indices: Vec<i64> = (0..drawn.len() as i64).map(|at| at % IMAGES as i64).collect();
    let found = views(&images, &indices, drawn);
    let side = drawn[0].size_px();
    assert_eq!(found.size(), [drawn.len() as i64, side as i64, side as i64, 3]);
    let found = Vec::<u8>::try_from(&found.flatten(0, -1)).unwrap();
    let mut scratch = Scratch::default();
    let (mut largest, mut differing) = (0, 0);
    for (at, (drawn, found)) in drawn.iter().zip(found.chunks_exact(3 * side * side)).enumerate() {
        let mut expected = vec![0; found.len()];
        drawn.apply(&pictures[at % IMAGES], &mut scratch, &mut expected);
        for (found, expected) in found.iter().zip(&expected) {
            largest = largest.max(found.abs_diff(*expected));
            differing += usize::from(found != expected);
        }
    }
    (largest, differing as f64 / found.len() as f64)
}

/// One view per crop with the given operations behind it.
fn drawn(crops: &[Crop], operations: impl Fn(usize) -> Vec<Operation>) -> Vec<Drawn> {
    let each = crops.iter().enumerate();
    each.map(|(at, crop)| Drawn {
        crop: crop.clone(),
        flip: at % 3 == 0,
        operations: operations(at),
    })
    .collect()
}

/// Boxes of every kind in an image: whole, tiny, thin, and as large as the view along one axis or both.
fn crops(
    (width, height): (usize, usize),
    size_px: usize,
    interpolation: Interpolation,
) -> Vec<Crop> {
    let mut stream = Stream::open(2, Purpose::Test, Scope::Item(0));
    let mut crops = vec![
        [0, 0, width, height],
        [width - 1, 0, 1, height],
        [0, height - 2, width, 2],
        [1, 1, size_px.min(width - 1), 3],
        [0, 0, size_px.min(width), size_px.min(height)],
    ];
    while crops.len() < 4 * IMAGES {
        let mut below = |n: usize| stream.below(n as u64) as usize;
        let (w, h) = (1 + below(width), 1 + below(height));
        crops.push([below(width - w + 1), below(height - h + 1), w, h]);
    }
    crops
        .into_iter()
        .map(|[left, top, width, height]| Crop { left, top, width, height, size_px, interpolation })
        .collect()
}

#[test]
fn crops_resizes_and_flips_are_those_of_the_host() {
    use Interpolation::{Bicubic, Bilinear, Tensorflow1Bicubic, TensorflowBicubic};
    for device in devices() {
        for interpolation in [Bilinear, Bicubic, TensorflowBicubic, Tensorflow1Bicubic] {
            for (size, side) in [((20, 18), 16), ((31, 64), 16), ((9, 7), 24), ((32, 32), 32)] {
                let drawn = drawn(&crops(size, side, interpolation), |_| Vec::new());
                let (largest, differing) = compare(&drawn, size, device);
                assert!(
                    largest <= 1 && differing < 1e-3,
                    "{interpolation:?} {size:?} to {side}: {largest} {differing}"
                );
            }
        }
    }
}

/// An operation's name and the operation for each image.
type Case = (&'static str, Box<dyn Fn(usize) -> Operation>);

/// Every operation, with amounts that differ between the images.
fn operations() -> Vec<Case> {
    let share = |at: usize| (at % 11) as f32 / 10.0;
    let mut list: Vec<Case> = Vec::new();
    let color = |of: fn(f32) -> Adjustment| -> Box<dyn Fn(usize) -> Operation> {
        Box::new(move |at| Operation::Color(of(share(at))))
    };
    list.push(("brightness", color(|part| Adjustment::Brightness(0.2 + 1.6 * part))));
    list.push(("contrast", color(|part| Adjustment::Contrast(0.2 + 1.6 * part))));
    list.push(("saturation", color(|part| Adjustment::Saturation(0.2 + 1.6 * part))));
    list.push(("hue", color(|part| Adjustment::Hue(part - 0.5))));
    list.push(("grey", color(|_| Adjustment::Grayscale)));
    list.push(("brightness offset", color(|part| Adjustment::BrightnessOffset(part - 0.5))));
    list.push(("channel contrast", color(|part| Adjustment::ChannelContrast(0.2 + 1.6 * part))));
    list.push(("hsv saturation", color(|part| Adjustment::HsvSaturation(0.2 + 1.6 * part))));
    list.push(("solarize", color(Adjustment::Solarize)));
    for (border, radius_px) in [(Border::Zero, 2), (Border::Reflect, 2), (Border::Reflect, 19)] {
        let kernel = move |at: usize| {
            Operation::Blur(Kernel::Kernel { sigma_px: 0.1 + 2.0 * share(at), radius_px, border })
        };
        list.push(("kernel blur", Box::new(kernel)));
    }
    let blur = move |at| Operation::Blur(Kernel::Pillow { sigma_px: 0.1 + 2.4 * share(at) });
    list.push(("pillow blur", Box::new(blur)));
    list.push(("flip", Box::new(|_| Operation::Flip)));
    list.push(("rotation", Box::new(|at| Operation::Rotate(1 + (at % 3) as u8))));
    let patch = |at: usize| Patch {
        left: at % 5,
        top: at % 7,
        width: at % 9,
        height: 1 + at % 4,
        color: [0.1, 0.2, at as f32 / 50.0],
    };
    list.push(("fill", Box::new(move |at| Operation::Fill(patch(at)))));
    let noise = move |at: usize| Noise { std: 0.2 * share(at), seed: at as u64 };
    list.push(("noise", Box::new(move |at| Operation::Noise(noise(at)))));
    list.push(("sobel", Box::new(|_| Operation::Sobel)));
    let pillow = |of: fn(f32) -> PillowOperation| -> Box<dyn Fn(usize) -> Operation> {
        Box::new(move |at| Operation::Pillow(of(share(at))))
    };
    list.push(("auto contrast", pillow(|_| PillowOperation::AutoContrast)));
    list.push(("equalize", pillow(|_| PillowOperation::Equalize)));
    list.push(("invert", pillow(|_| PillowOperation::Invert)));
    list.push(("posterize", pillow(|part| PillowOperation::Posterize((4.0 * part) as u8))));
    list.push(("solarize", pillow(|part| PillowOperation::Solarize((256.0 * part) as u16))));
    list.push(("solarize add", pillow(|it| PillowOperation::SolarizeAdd((110.0 * it) as u8))));
    list.push(("color", pillow(|part| PillowOperation::Color(0.1 + 1.8 * part))));
    list.push(("contrast", pillow(|part| PillowOperation::Contrast(0.1 + 1.8 * part))));
    list.push(("brightness", pillow(|part| PillowOperation::Brightness(0.1 + 1.8 * part))));
    list.push(("sharpness", pillow(|part| PillowOperation::Sharpness(0.1 + 1.8 * part))));
    for resampling in [Resampling::Bilinear, Resampling::Bicubic] {
        let motion = move |at: usize| {
            let part = 2.0 * share(at) - 1.0;
            match at % 5 {
                0 => Motion::Rotate(30.0 * part),
                1 => Motion::ShearX(0.3 * part),
                2 => Motion::ShearY(0.3 * part),
                3 => Motion::TranslateX(0.45 * part),
                _ => Motion::TranslateY(0.45 * part),
            }
        };
        let warp = move |at| PillowOperation::Warp(Warp { motion: motion(at), resampling });
        list.push(("warp", Box::new(move |at| Operation::Pillow(warp(at)))));
    }
    let corners =
        |at: usize| (0..4).map(move |cell| [at % 4 + 8 * (cell / 2), at % 3 + 8 * (cell % 2)]);
    let jigsaw = move |at| Patches { patch_px: 5, corners: corners(at).collect() };
    list.push(("jigsaw", Box::new(move |at| Operation::Jigsaw(jigsaw(at)))));
    list
}

#[test]
fn every_operation_gives_the_bytes_of_the_host() {
    let size = (23, 19);
    let crops = crops(size, 16, Interpolation::Bilinear);
    for device in devices() {
        for (name, operation) in operations() {
            let drawn = drawn(&crops, |at| vec![operation(at)]);
            let (largest, differing) = compare(&drawn, size, device);
            assert!(largest <= 1 && differing < 1e-3, "{name}: {largest} {differing}");
        }
    }
}

#[test]
fn lists_that_differ_in_length_and_order_stay_with_their_images() {
    let size = (23, 19);
    let crops = crops(size, 16, Interpolation::Bilinear);
    let all: Vec<_> = operations().into_iter().filter(|(name, _)| *name != "jigsaw").collect();
    let mixed = |first: &Option<Operation>, at: usize| {
        let mut stream = Stream::open(4, Purpose::Test, Scope::Item(at as u64));
        let mut draw = || (all[stream.below(all.len() as u64) as usize].1)(at);
        let rest: Vec<Operation> = (0..at % 4).map(|_| draw()).collect();
        first.iter().cloned().chain(rest).collect()
    };
    let grey = Operation::Color(Adjustment::Grayscale);
    for device in devices() {
        for first in [None, Some(Operation::Sobel), Some(grey.clone())] {
            let drawn = drawn(&crops, |at| mixed(&first, at));
            let (largest, differing) = compare(&drawn, size, device);
            // A value that is rounded apart may be stretched by what follows.
            assert!(largest <= 4 && differing < 1e-3, "{first:?}: {largest} {differing}");
        }
    }
}
