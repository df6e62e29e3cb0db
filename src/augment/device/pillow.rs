//! Pillow's operations on bytes, `[m, 3, size, size]`, with the arithmetic of [`crate::augment::pillow`].

use crate::augment::pillow::FILL;
use crate::augment::rand_augment::{PillowOperation, Resampling, Warp};
use tch::{Kind, Tensor};

/// Whether two operations can be done in one go.
pub(super) fn alike(one: PillowOperation, other: PillowOperation) -> bool {
    match (one, other) {
        (PillowOperation::Warp(one), PillowOperation::Warp(other)) => {
            one.resampling == other.resampling
        }
        _ if is_table(one) => is_table(other),
        _ => std::mem::discriminant(&one) == std::mem::discriminant(&other),
    }
}

/// Whether the operation gives every byte another one, whatever the image.
fn is_table(operation: PillowOperation) -> bool {
    use PillowOperation::{Invert, Posterize, Solarize, SolarizeAdd};
    matches!(operation, Invert | Posterize(_) | Solarize(_) | SolarizeAdd(_))
}

/// Does alike operations, one for each image of `values`, in \[0, 1\].
pub(super) fn change(operations: &[PillowOperation], values: &Tensor) -> Tensor {
    let bytes = (values.clamp(0.0, 1.0) * 255.0).round();
    let bytes = match operations[0] {
        PillowOperation::AutoContrast => stretched(&bytes),
        PillowOperation::Equalize => equalized(&bytes),
        PillowOperation::Invert
        | PillowOperation::Posterize(_)
        | PillowOperation::Solarize(_)
        | PillowOperation::SolarizeAdd(_) => {
            let tables: Vec<u8> = operations.iter().flat_map(|it| it.table()).collect();
            let tables = Tensor::from_slice(&tables).to_device(values.device());
            let tables = tables.view([-1, 1, 256]).expand([-1, 3, -1], true);
            look_up(&bytes, &tables)
        }
        PillowOperation::Color(_) => blended(&luma(&bytes), &bytes, operations),
        PillowOperation::Contrast(_) => {
            let grey = luma(&bytes);
            let sum = grey.sum_dim_intlist([2i64, 3].as_slice(), true, Kind::Double);
            let pixels = (grey.size()[2] * grey.size()[3]) as f64;
            let mean = (sum / pixels + 0.5).floor().to_kind(Kind::Float);
            blended(&mean, &bytes, operations)
        }
        PillowOperation::Brightness(_) => blended(&bytes.zeros_like(), &bytes, operations),
        PillowOperation::Sharpness(_) => blended(&smoothed(&bytes), &bytes, operations),
        PillowOperation::Warp(_) => warped(operations, &bytes),
    };
    bytes.to_kind(Kind::Float) / 255.0
}

/// The bytes through a table per channel, `[m, 3, 256]`.
fn look_up(bytes: &Tensor, tables: &Tensor) -> Tensor {
    let indices = bytes.to_kind(Kind::Int64).flatten(2, 3);
    tables.gather(2, &indices, false).view_as(bytes)
}

fn stretched(bytes: &Tensor) -> Tensor {
    let bytes = bytes.to_kind(Kind::Double);
    let [low, high] =
        [bytes.amin([2i64, 3].as_slice(), true), bytes.amax([2i64, 3].as_slice(), true)];
    let flat = high.le_tensor(&low);
    let scale = high.full_like(255.0) / (high - &low);
    let offset = -low * &scale;
    bytes.where_self(&flat, &(&bytes * scale + offset).trunc().clamp(0.0, 255.0))
}

fn equalized(bytes: &Tensor) -> Tensor {
    let indices = bytes.to_kind(Kind::Int64).flatten(2, 3);
    let (m, device) = (bytes.size()[0], bytes.device());
    let empty = Tensor::zeros([m, 3, 256], (Kind::Int64, device));
    let counts = empty.scatter_add(2, &indices, &indices.ones_like());
    let last = counts.gather(2, &indices.amax([2i64].as_slice(), true), false);
    let step = (indices.size()[2] - last).floor_divide_scalar(255);
    let divisor = step.clamp_min(1);
    let below = counts.cumsum(2, Kind::Int64) - counts;
    let tables = (below + step.floor_divide_scalar(2)).floor_divide(&divisor).clamp_max(255);
    bytes.where_self(&step.eq(0).unsqueeze(3), &look_up(bytes, &tables).to_kind(Kind::Float))
}

fn luma(bytes: &Tensor) -> Tensor {
    let [red, green, blue] = [0, 1, 2].map(|channel| bytes.narrow(1, channel, 1));
    // Below 2^25: exact in f64.
    let sum = red.to_kind(Kind::Double) * 19_595.0 + green * 38_470.0 + blue * 7_471.0 + 32_768.0;
    (sum / 65_536.0).floor().to_kind(Kind::Float)
}

/// From `start` by the factors of the operations towards `end` and beyond, fractions dropped.
fn blended(start: &Tensor, end: &Tensor, operations: &[PillowOperation]) -> Tensor {
    let factors: Vec<f32> = operations
        .iter()
        .map(|operation| match operation {
            PillowOperation::Color(factor)
            | PillowOperation::Contrast(factor)
            | PillowOperation::Brightness(factor)
            | PillowOperation::Sharpness(factor) => *factor,
            _ => unreachable!("only these have a factor"),
        })
        .collect();
    let factors = Tensor::from_slice(&factors).view([-1, 1, 1, 1]).to_device(end.device());
    (start + factors * (end - start)).clamp(0.0, 255.0).trunc()
}

fn smoothed(bytes: &Tensor) -> Tensor {
    let (rows, columns) = (bytes.size()[2] - 2, bytes.size()[3] - 2);
    let smooth = bytes.copy();
    if rows < 1 {
        return smooth;
    }
    let inner = |y: i64, x: i64| bytes.narrow(2, y, rows).narrow(3, x, columns);
    let mut total = inner(1, 1) * 4.0;
    for (y, x) in (0..3).flat_map(|y| (0..3).map(move |x| (y, x))) {
        total += inner(y, x);
    }
    smooth.narrow(2, 1, rows).narrow(3, 1, columns).copy_(&((total * 2.0 + 13.0) / 26.0).floor());
    smooth
}

/// Movements with one interpolation, in f64 as on the host.
fn warped(operations: &[PillowOperation], bytes: &Tensor) -> Tensor {
    let (m, size, device) = (bytes.size()[0], bytes.size()[3], bytes.device());
    let warps: Vec<Warp> = operations
        .iter()
        .map(|operation| match operation {
            PillowOperation::Warp(warp) => *warp,
            _ => unreachable!("a group holds alike operations"),
        })
        .collect();
    let matrices: Vec<f64> = warps.iter().flat_map(|warp| warp.matrix(size as usize)).collect();
    let matrices = Tensor::from_slice(&matrices).view([m, 6, 1]).to_device(device);
    let [a, b, c, d, e, f] = [0, 1, 2, 3, 4, 5].map(|at| matrices.narrow(1, at, 1));
    let places = Tensor::arange(size * size, (Kind::Double, device));
    let row = (&places / size as f64).floor();
    let column = places - &row * size as f64 + 0.5;
    let row = row + 0.5;
    let u = a * &column + b * &row + c; // [m, 1, pixels]
    let v = d * column + e * row + f;
    let within = |at: &Tensor| at.ge(0.0).logical_and(&at.lt(size as f64));
    let inside = within(&u).logical_and(&within(&v));
    let (u, v) = (u - 0.5, v - 0.5);
    let (x, y) = (u.floor(), v.floor());
    let (dx, dy) = (u - &x, v - &y);
    let pixels = bytes.to_kind(Kind::Double).flatten(2, 3);
    let pixel = |down: f64, right: f64| {
        let last = (size - 1) as f64;
        let row = (&y + down).clamp(0.0, last);
        let source = row * size as f64 + (&x + right).clamp(0.0, last);
        pixels.gather(2, &source.to_kind(Kind::Int64).expand([-1, 3, -1], true), false)
    };
    let between = |start: Tensor, end: Tensor, part: &Tensor| &start + (end - &start) * part;
    let seen = match warps[0].resampling {
        Resampling::Bilinear => {
            let [upper, lower] =
                [0.0, 1.0].map(|down| between(pixel(down, 0.0), pixel(down, 1.0), &dx));
            between(upper, lower, &dy)
        }
        Resampling::Bicubic => {
            let steps = [-1.0, 0.0, 1.0, 2.0];
            cubic(steps.map(|down| cubic(steps.map(|right| pixel(down, right)), &dx)), &dy)
        }
    };
    let fill = Tensor::from_slice(&FILL.map(f64::from)).view([1, 3, 1]).to_device(device);
    seen.clamp(0.0, 255.0).trunc().where_self(&inside, &fill).view_as(bytes)
}

fn cubic([v1, v2, v3, v4]: [Tensor; 4], d: &Tensor) -> Tensor {
    let p2 = -&v1 + &v3;
    let p3 = (&v1 - &v2) * 2.0 + &v3 - &v4;
    let p4 = -v1 + &v2 - v3 + v4;
    v2 + d * (p2 + d * (p3 + d * p4))
}
