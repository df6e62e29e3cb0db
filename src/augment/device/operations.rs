//! The operations on values in \[0, 1\], `[m, 3, size, size]`: the formulas of the host in the same order, so that both
//! round alike.

use crate::augment::blur::{Filter, Kernel, Outside};
use crate::augment::color::Adjustment;
use crate::augment::erase::Patch;
use crate::augment::noise::Noise;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

/// One value for each image, `[m, 1, 1, 1]`.
fn column(values: impl Iterator<Item = f32>, device: Device) -> Tensor {
    let values: Vec<f32> = values.collect();
    Tensor::from_slice(&values).view([-1, 1, 1, 1]).to_device(device)
}

/// One kind of adjustment, with an amount for each image.
pub(super) fn color(adjustments: &[Adjustment], values: &Tensor) -> Tensor {
    let amounts = adjustments.iter().map(|adjustment| match adjustment {
        Adjustment::Brightness(amount)
        | Adjustment::Contrast(amount)
        | Adjustment::Saturation(amount)
        | Adjustment::BrightnessOffset(amount)
        | Adjustment::ChannelContrast(amount)
        | Adjustment::HsvSaturation(amount)
        | Adjustment::Solarize(amount) => *amount,
        Adjustment::Hue(turns) => 6.0 * turns,
        Adjustment::Grayscale => 0.0,
    });
    let amount = column(amounts, values.device());
    let changed = match adjustments[0] {
        Adjustment::Brightness(_) => values * amount,
        Adjustment::BrightnessOffset(_) => values + amount,
        Adjustment::Contrast(_) => about(&mean(&luma(values)), values, &amount),
        Adjustment::ChannelContrast(_) => about(&mean(values), values, &amount),
        Adjustment::Saturation(_) => about(&luma(values), values, &amount),
        Adjustment::Grayscale => luma(values).expand_as(values),
        Adjustment::HsvSaturation(_) => scaled_saturation(values, &amount),
        Adjustment::Hue(_) => turned_hue(values, &amount),
        Adjustment::Solarize(_) => (1f64 - values).where_self(&values.ge_tensor(&amount), values),
    };
    changed.clamp(0.0, 1.0)
}

/// factor · values + (1 − factor) · centre.
fn about(centre: &Tensor, values: &Tensor, factor: &Tensor) -> Tensor {
    values * factor + (1f64 - factor) * centre
}

fn mean(values: &Tensor) -> Tensor {
    let mean = values.mean_dim([2i64, 3].as_slice(), true, Kind::Double);
    mean.to_kind(Kind::Float)
}

fn channels(values: &Tensor) -> [Tensor; 3] {
    [0, 1, 2].map(|channel| values.narrow(1, channel, 1))
}

fn luma(values: &Tensor) -> Tensor {
    let [red, green, blue] = channels(values);
    red * 0.2989 + green * 0.587 + blue * 0.114
}

/// Greatest value and chroma of each pixel.
fn most_and_chroma(values: &Tensor) -> (Tensor, Tensor) {
    let most = values.amax([1i64].as_slice(), true);
    let chroma = &most - values.amin([1i64].as_slice(), true);
    (most, chroma)
}

fn scaled_saturation(values: &Tensor, factor: &Tensor) -> Tensor {
    let (most, chroma) = most_and_chroma(values);
    let too_much = (factor * &chroma).gt_tensor(&most);
    let factor = (&most / chroma).where_self(&too_much, factor);
    &most - (&most - values) * factor
}

fn turned_hue(values: &Tensor, sextants: &Tensor) -> Tensor {
    let [red, green, blue] = channels(values);
    let (most, chroma) = most_and_chroma(values);
    let inverse = chroma.where_self(&chroma.gt(0.0), &chroma.ones_like()).reciprocal();
    let from_red = (&green - &blue) * &inverse;
    let from_green = (&blue - &red) * &inverse + 2.0;
    let from_blue = (&red - &green) * &inverse + 4.0;
    let hue = from_green.where_self(&green.ge_tensor(&most), &from_blue);
    let hue = from_red.where_self(&red.ge_tensor(&most), &hue) + sextants;
    let hue = (&hue + 6.0).where_self(&hue.lt(0.0), &hue);
    let hue = (&hue - 6.0).where_self(&hue.ge(6.0), &hue);
    let first = Tensor::from_slice(&[5.0f32, 3.0, 1.0]).view([1, 3, 1, 1]);
    let k = hue + first.to_device(values.device());
    let k = (&k - 6.0).where_self(&k.ge(6.0), &k);
    most - chroma * k.minimum(&(4f64 - &k)).clamp(0.0, 1.0)
}

/// Blurs of one kind and border, each with a width of its own.
pub(super) fn blur(kernels: &[Kernel], values: &Tensor) -> Tensor {
    let filters: Vec<Filter> = kernels.iter().map(Kernel::filter).collect();
    let length = filters.iter().map(|filter| filter.taps.len()).max().unwrap_or(1);
    let taps: Vec<Tensor> = (0..length)
        .map(|at| filters.iter().map(move |filter| filter.taps.get(at).copied().unwrap_or(0.0)))
        .map(|taps| column(taps, values.device()))
        .collect();
    let first = &filters[0];
    let mut values = if first.whole { (values * 255.0).round() } else { values.shallow_clone() };
    for axis in [3, 2] {
        for _ in 0..first.passes {
            values = weighed(&values, axis, &taps, first.outside);
            if first.whole {
                values = values.round();
            }
        }
    }
    if first.whole { values / 255.0 } else { values }
}

/// Weighs neighbours along an axis with symmetric taps, centre first.
fn weighed(values: &Tensor, axis: i64, taps: &[Tensor], outside: Outside) -> Tensor {
    let (size, radius) = (values.size()[axis as usize], taps.len() as i64 - 1);
    let padded = padded(values, axis, radius, outside);
    let at = |offset: i64| padded.narrow(axis, radius + offset, size);
    let mut sum = &taps[0] * at(0);
    for (distance, tap) in (1..).zip(&taps[1..]) {
        sum += tap * (at(-distance) + at(distance));
    }
    sum
}

/// The values with `radius` more on both sides of an axis.
fn padded(values: &Tensor, axis: i64, radius: i64, outside: Outside) -> Tensor {
    if outside == Outside::Zero {
        let pad = if axis == 3 { vec![radius, radius] } else { vec![0, 0, radius, radius] };
        return values.constant_pad_nd(pad);
    }
    let size = values.size()[axis as usize];
    let sources: Vec<i64> = (-radius..size + radius)
        .filter_map(|at| outside.source(at as isize, size as usize))
        .map(|at| at as i64)
        .collect();
    values.index_select(axis, &Tensor::from_slice(&sources).to_device(values.device()))
}

/// Boxes painted over.
pub(super) fn fill(patches: &[Patch], values: &Tensor) -> Tensor {
    let device = values.device();
    let inside = |axis: usize, span: fn(&Patch) -> (usize, usize)| {
        let shape = if axis == 2 { [1, 1, -1, 1] } else { [1, 1, 1, -1] };
        let at = Tensor::arange(values.size()[axis], (Kind::Float, device)).view(shape);
        let start = column(patches.iter().map(|patch| span(patch).0 as f32), device);
        let end = column(patches.iter().map(|it| (span(it).0 + span(it).1) as f32), device);
        at.ge_tensor(&start).logical_and(&at.lt_tensor(&end))
    };
    let inside = inside(2, |patch| (patch.top, patch.height))
        .logical_and(&inside(3, |patch| (patch.left, patch.width)));
    let colors: Vec<f32> = patches.iter().flat_map(|patch| patch.color).collect();
    let colors = Tensor::from_slice(&colors).view([-1, 3, 1, 1]).to_device(device);
    colors.where_self(&inside, values)
}

/// Normal noise; the elements are those of the host, made there.
pub(super) fn noise(noises: &[Noise], values: &Tensor) -> Tensor {
    let mut elements = vec![0.0; values.numel()];
    let parts = elements.par_chunks_exact_mut(values.numel() / noises.len());
    parts.zip(noises).for_each(|(part, noise)| noise.elements(part));
    let elements = Tensor::from_slice(&elements).view_as(values).to_device(values.device());
    let std = column(noises.iter().map(|noise| noise.std), values.device());
    (values + std * elements).clamp(0.0, 1.0)
}

/// Strength of the edges.
pub(super) fn sobel(values: &Tensor) -> Tensor {
    let grey = luma(values).clamp(0.0, 1.0);
    let (rows, columns) = (values.size()[2], values.size()[3]);
    let grey = padded(&padded(&grey, 3, 1, Outside::Repeat), 2, 1, Outside::Repeat);
    let at = |y: i64, x: i64| grey.narrow(2, y, rows).narrow(3, x, columns);
    let right = at(0, 2) + at(1, 2) * 2.0 + at(2, 2);
    let left = at(0, 0) + at(1, 0) * 2.0 + at(2, 0);
    let lower = at(2, 0) + at(2, 1) * 2.0 + at(2, 2);
    let upper = at(0, 0) + at(0, 1) * 2.0 + at(0, 2);
    let (dx, dy) = (right - left, lower - upper);
    let strength = (&dx * &dx + &dy * &dy).sqrt();
    let largest = strength.amax([2i64, 3].as_slice(), true);
    // 0 / 0 where there is no edge at all.
    (strength / largest).nan_to_num(0.0, 0.0, 0.0).expand_as(values)
}
