//! Views of many images at once.

use super::{operations, pillow};
use crate::augment::crop::{Crop, Filter, Interpolation};
use crate::augment::jigsaw::Patches;
use crate::augment::pipeline::{Drawn, Operation};
use crate::augment::resample::{self, Version};
use tch::{Device, Kind, Tensor};

/// Values worked on at a time; bounds the memory of a batch of any size.
const VALUES: usize = 1 << 23;

/// Makes one view of each of `indices` out of `images`, bytes `[n, H, W, 3]`, as it was drawn; all draws are of one view
/// of one pipeline. Returns bytes `[indices, size, size, 3]`, those of [`Drawn::apply`] but for values that lie so close
/// to a half that the order of a sum decides.
pub(super) fn views(images: &Tensor, indices: &[i64], drawn: &[Drawn]) -> Tensor {
    let size = drawn[0].crop.size_px.max(images.size()[1].max(images.size()[2]) as usize);
    let at_a_time = (VALUES / (3 * size * size)).max(1);
    let parts: Vec<Tensor> = indices
        .chunks(at_a_time)
        .zip(drawn.chunks(at_a_time))
        .map(|(indices, drawn)| part(images, indices, drawn))
        .collect();
    Tensor::cat(&parts, 0)
}

fn part(images: &Tensor, indices: &[i64], drawn: &[Drawn]) -> Tensor {
    let device = images.device();
    let chosen = images.index_select(0, &Tensor::from_slice(indices).to_device(device));
    let crops: Vec<&Crop> = drawn.iter().map(|drawn| &drawn.crop).collect();
    let values = resized(&chosen, &crops);
    let flipped: Vec<i64> = positions(drawn, |drawn| drawn.flip);
    let mut values = on(values, &flipped, |part| part.flip([3]));
    let longest = drawn.iter().map(|drawn| drawn.operations.len()).max().unwrap_or(0);
    for slot in 0..longest {
        values = one_slot(values, drawn, slot);
    }
    let bytes = (values.clamp(0.0, 1.0) * 255.0).round().to_kind(Kind::Uint8);
    let patches: Vec<&Patches> = drawn
        .iter()
        .filter_map(|drawn| match drawn.operations.last() {
            Some(Operation::Jigsaw(patches)) => Some(patches),
            _ => None,
        })
        .collect();
    let bytes = if patches.is_empty() { bytes } else { jigsaw(&bytes, &patches) };
    bytes.permute([0, 2, 3, 1]).contiguous()
}

/// Does the operation at one place of the images' lists, alike ones together.
fn one_slot(mut values: Tensor, drawn: &[Drawn], slot: usize) -> Tensor {
    let mut groups: Vec<(Vec<i64>, Vec<&Operation>)> = Vec::new();
    for (at, drawn) in drawn.iter().enumerate() {
        let Some(operation) = drawn.operations.get(slot) else { continue };
        match groups.iter_mut().find(|(_, group)| alike(group[0], operation)) {
            Some((places, group)) => {
                places.push(at as i64);
                group.push(operation);
            }
            None => groups.push((vec![at as i64], vec![operation])),
        }
    }
    for (places, group) in groups {
        values = on(values, &places, |part| apply(&group, part));
    }
    values
}

/// Whether two operations can be done in one go.
fn alike(one: &Operation, other: &Operation) -> bool {
    use std::mem::discriminant;
    match (one, other) {
        (Operation::Color(one), Operation::Color(other)) => {
            discriminant(one) == discriminant(other)
        }
        (Operation::Blur(one), Operation::Blur(other)) => {
            let (one, other) = (one.filter(), other.filter());
            (one.outside, one.whole) == (other.outside, other.whole)
        }
        (Operation::Rotate(one), Operation::Rotate(other)) => one == other,
        (Operation::Pillow(one), Operation::Pillow(other)) => pillow::alike(*one, *other),
        (Operation::Recrop(one), Operation::Recrop(other)) => {
            one.interpolation == other.interpolation
        }
        _ => discriminant(one) == discriminant(other),
    }
}

/// Does alike operations, one for each image of `values`, `[m, 3, size, size]` in \[0, 1\].
fn apply(group: &[&Operation], values: &Tensor) -> Tensor {
    /// What the operations of a group hold.
    macro_rules! held {
        ($variant:ident) => {
            group
                .iter()
                .map(|operation| match operation {
                    Operation::$variant(held) => *held,
                    _ => unreachable!("a group holds alike operations"),
                })
                .collect::<Vec<_>>()
        };
    }
    match group[0] {
        Operation::Color(_) => operations::color(&held!(Color), values),
        Operation::Blur(_) => operations::blur(&held!(Blur), values),
        Operation::Flip => values.flip([3]),
        Operation::Rotate(quarters) => values.rot90(i64::from(*quarters), [2, 3]),
        Operation::Fill(_) => operations::fill(&held!(Fill), values),
        Operation::Noise(_) => operations::noise(&held!(Noise), values),
        Operation::Sobel => operations::sobel(values),
        Operation::Pillow(_) => pillow::change(&held!(Pillow), values),
        Operation::Recrop(_) => recropped(group, values),
        // It acts on the finished bytes.
        Operation::Jigsaw(_) => values.shallow_clone(),
    }
}

fn recropped(group: &[&Operation], values: &Tensor) -> Tensor {
    let crops: Vec<&Crop> = group
        .iter()
        .map(|operation| match operation {
            Operation::Recrop(crop) => crop,
            _ => unreachable!("a group holds alike operations"),
        })
        .collect();
    let Filter::Tensorflow(version) = crops[0].interpolation.filter() else {
        panic!("a crop of a view is resized by TensorFlow's filters");
    };
    tensorflow_resized(values, &crops, version)
}

/// Changes some of the images and leaves the others alone.
fn on(mut values: Tensor, places: &[i64], change: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
    if places.is_empty() {
        return values;
    }
    if places.len() as i64 == values.size()[0] {
        // One plane may stand for all three channels, which could not be written to afterwards.
        return change(&values).contiguous();
    }
    let places = Tensor::from_slice(places).to_device(values.device());
    let changed = change(&values.index_select(0, &places));
    values.index_copy_(0, &places, &changed)
}

fn positions(drawn: &[Drawn], holds: impl Fn(&Drawn) -> bool) -> Vec<i64> {
    (0..).zip(drawn).filter(|(_, drawn)| holds(drawn)).map(|(at, _)| at).collect()
}

/// Cuts a box out of each of `images`, bytes `[m, H, W, 3]`, and resizes it: `[m, 3, size, size]` in \[0, 1\].
///
/// Each axis is a product with a matrix of weights per image that is 0 outside of the box, in f64: whole numbers times
/// powers of two, which no order of summing and no reduced precision of f32 products can change. In the order of the host:
/// the columns first for bilinear, the rows first for the others.
fn resized(images: &Tensor, crops: &[&Crop]) -> Tensor {
    let interpolation = crops[0].interpolation;
    match interpolation.filter() {
        Filter::Pillow(_) => {
            let (size, device) = (crops[0].size_px, images.device());
            let (height, width) = (images.size()[1] as usize, images.size()[2] as usize);
            let rows: Vec<[usize; 2]> = crops.iter().map(|crop| [crop.top, crop.height]).collect();
            let columns: Vec<[usize; 2]> =
                crops.iter().map(|crop| [crop.left, crop.width]).collect();
            let values = images.to_kind(Kind::Double);
            let cubic = interpolation == Interpolation::Bicubic;
            let weights =
                |spans: &[[usize; 2]], length| pillow_weights(spans, size, length, cubic, device);
            let round = |values: Tensor| (values + 0.5).floor().clamp(0.0, 255.0);
            let (down, across) = (weights(&rows, height), weights(&columns, width));
            let values = if cubic {
                let wide = round(weigh(&across, &values.transpose(1, 2)));
                round(weigh(&down, &wide.transpose(1, 2)))
            } else {
                let low = round(weigh(&down, &values));
                round(weigh(&across, &low.transpose(1, 2))).transpose(1, 2)
            };
            values.permute([0, 3, 1, 2]).to_kind(Kind::Float).contiguous() / 255.0
        }
        Filter::Tensorflow(version) => {
            let values = images.permute([0, 3, 1, 2]).to_kind(Kind::Float) / 255.0;
            tensorflow_resized(&values, crops, version)
        }
    }
}

/// Resizes a box of each of `values`, `[m, 3, H, W]` in \[0, 1\], as TensorFlow does, the rows first. The four neighbours
/// are summed in the order of the host.
fn tensorflow_resized(values: &Tensor, crops: &[&Crop], version: Version) -> Tensor {
    let columns = |crop: &Crop| [crop.left, crop.width];
    let wide = tensorflow_axis(values, 3, crops, columns, version);
    let rows = |crop: &Crop| [crop.top, crop.height];
    tensorflow_axis(&wide, 2, crops, rows, version).clamp(0.0, 1.0)
}

/// Resizes the part `[start, extent]` of an axis.
fn tensorflow_axis(
    values: &Tensor,
    axis: usize,
    crops: &[&Crop],
    span: fn(&Crop) -> [usize; 2],
    version: Version,
) -> Tensor {
    let size = crops[0].size_px;
    let taps: Vec<_> = crops
        .iter()
        .flat_map(|crop| {
            let [start, extent] = span(crop);
            let taps = resample::taps(extent, size, version).into_iter();
            taps.map(move |taps| (taps, start, start + extent - 1))
        })
        .collect();
    let mut shape = [-1, 1, 1, 1];
    shape[axis] = size as i64;
    let mut whole = values.size();
    whole[axis] = size as i64;
    let neighbour = |k: usize| {
        // Fewer than four pixels leave the last weights 0.
        let places: Vec<i64> =
            taps.iter().map(|(it, start, last)| (start + it.first + k).min(*last) as i64).collect();
        let weights: Vec<f32> = taps.iter().map(|(it, ..)| it.weights[k]).collect();
        let places = Tensor::from_slice(&places).view(shape).to_device(values.device());
        let weights = Tensor::from_slice(&weights).view(shape).to_device(values.device());
        values.gather(axis as i64, &places.expand(&whole, true), false) * weights
    };
    neighbour(0) + neighbour(1) + neighbour(2) + neighbour(3)
}

/// `[m, s, a]` weights times `[m, a, b, 3]`, summed over a: `[m, s, b, 3]`.
fn weigh(weights: &Tensor, values: &Tensor) -> Tensor {
    let (m, a, b) = (values.size()[0], values.size()[1], values.size()[2]);
    weights.bmm(&values.reshape([m, a, 3 * b])).view([m, -1, b, 3])
}

/// The weights `[m, size, length]` that resize the part `[start, extent]` of an axis to `size`, antialiased as Pillow's
/// filters are, with the rounding that the resizer on the host gives them: to whole numbers of 16 bits over a common power
/// of two.
fn pillow_weights(
    spans: &[[usize; 2]],
    size: usize,
    length: usize,
    cubic: bool,
    device: Device,
) -> Tensor {
    let axis = |length: usize| Tensor::arange(length as i64, (Kind::Double, device));
    let column = |of: fn(&[usize; 2]) -> usize| {
        let values: Vec<f64> = spans.iter().map(|span| of(span) as f64).collect();
        Tensor::from_slice(&values).view([-1, 1, 1]).to_device(device)
    };
    let (start, extent) = (column(|span| span[0]), column(|span| span[1]));
    let scale = &extent / size as f64;
    let centre = (axis(size).view([1, -1, 1]) + 0.5) * &scale - 0.5;
    let pixel = axis(length).view([1, 1, -1]) - start;
    let x = ((&pixel - centre) * scale.clamp_min(1.0).reciprocal()).abs();
    let weights = if cubic {
        let near = (&x * 1.5 - 2.5) * &x * &x + 1.0;
        let far = (((&x - 5.0) * &x + 8.0) * &x - 4.0) * -0.5;
        near.where_self(&x.lt(1.0), &(far * x.lt(2.0)))
    } else {
        (1f64 - x).clamp_min(0.0)
    };
    let weights = weights * pixel.ge(0.0).logical_and(&pixel.lt_tensor(&extent));
    let weights = &weights / weights.sum_dim_intlist([-1i64].as_slice(), true, Kind::Double);
    // The largest power of two that leaves the greatest weight below 2^15.
    let largest = weights.amax([1, 2].as_slice(), true);
    let unit = ((largest.reciprocal() * 32_767.5).log2().ceil() - 1.0).clamp_max(21.0).exp2();
    (weights * &unit).round() / unit
}

/// Lays patches of `images`, `[m, 3, size, size]`, out; all jigsaws have one form.
fn jigsaw(images: &Tensor, patches: &[&Patches]) -> Tensor {
    let (m, size, device) = (images.size()[0], images.size()[3], images.device());
    let (grid, patch) = (patches[0].grid() as i64, patches[0].patch_px as i64);
    let side = grid * patch;
    let corners: Vec<i64> = patches
        .iter()
        .flat_map(|patches| &patches.corners)
        .map(|[top, left]| *top as i64 * size + *left as i64)
        .collect();
    // For each pixel of the view its cell and its place within.
    let (cells, places): (Vec<i64>, Vec<i64>) = (0..side * side)
        .map(|at| (at / side, at % side))
        .map(|(y, x)| (y / patch * grid + x / patch, y % patch * size + x % patch))
        .unzip();
    let constant = |values: &[i64]| Tensor::from_slice(values).to_device(device);
    let corners = constant(&corners).view([m, -1]).index_select(1, &constant(&cells));
    let source = (corners + constant(&places)).unsqueeze(1).expand([-1, 3, -1], true);
    images.view([m, 3, -1]).gather(2, &source, false).view([m, 3, side, side])
}
