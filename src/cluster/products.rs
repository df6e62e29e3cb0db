//! Inner products and distances of rows, in an order of summation that depends on nothing but their length.
//!
//! A matrix product of a library takes another order on another number of threads, and is slow for the few columns that
//! k-means has: ten centres and 512 dimensions ran at 15 GFLOP/s where these loops ran at 80.

use multiversion::multiversion;

/// Partial sums of an inner product; rows are padded with zeros to a multiple.
pub(super) const LANES: usize = 16;

/// Consecutive elements of a row.
pub(super) type Lanes = [f32; LANES];

/// Rows of a tile. Three rows by five centres leave no register idle with AVX-512 and few spilled with AVX2.
const TILE_ROWS: usize = 3;

/// Centres of a tile, at most.
const TILE_CENTRES: usize = 5;

/// Inner products `[rows, k]` of chosen rows of `points` with all `centres`, both of `stride` [`Lanes`] a row.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn products(
    points: &[Lanes],
    rows: &[u32],
    centres: &[Lanes],
    stride: usize,
    out: &mut [f32],
) {
    let k = centres.len() / stride;
    // As even as they can be: 4 and 4 of 8 rather than 5 and 3.
    let width = k.div_ceil(k.div_ceil(TILE_CENTRES));
    for first in (0..k).step_by(width) {
        let last = k.min(first + width);
        let panel = &centres[first * stride..last * stride];
        match last - first {
            5 => with_panel::<5>(points, rows, panel, stride, first, k, out),
            4 => with_panel::<4>(points, rows, panel, stride, first, k, out),
            3 => with_panel::<3>(points, rows, panel, stride, first, k, out),
            2 => with_panel::<2>(points, rows, panel, stride, first, k, out),
            _ => with_panel::<1>(points, rows, panel, stride, first, k, out),
        }
    }
}

/// Products of the rows with centres `first..first + C` of `k`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the processor of whoever calls")]
fn with_panel<const C: usize>(
    points: &[Lanes],
    rows: &[u32],
    panel: &[Lanes],
    stride: usize,
    first: usize,
    k: usize,
    out: &mut [f32],
) {
    let mut centres: [&[Lanes]; C] = [&[]; C];
    for j in 0..C {
        centres[j] = &panel[j * stride..(j + 1) * stride];
    }
    let mut done = 0;
    while done < rows.len() {
        let mut tile: [&[Lanes]; TILE_ROWS] = [&[]; TILE_ROWS];
        for (r, tile) in tile.iter_mut().enumerate() {
            // The last row stands in for those that are missing.
            let row = rows[(done + r).min(rows.len() - 1)] as usize;
            *tile = &points[row * stride..(row + 1) * stride];
        }
        let found = tile_products(tile, centres);
        for found in found {
            if done < rows.len() {
                out[done * k + first..done * k + first + C].copy_from_slice(&found);
                done += 1;
            }
        }
    }
}

// Index loops throughout: iterators and closures are functions of their own, compiled for any processor, and where the
// compiler does not take them in, which it often did not, these loops took ten times as long.

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the processor of whoever calls")]
#[expect(clippy::needless_range_loop, reason = "an iterator is not always taken in, see above")]
fn tile_products<const R: usize, const C: usize>(
    mut rows: [&[Lanes]; R],
    mut centres: [&[Lanes]; C],
) -> [[f32; C]; R] {
    // One length for all: no check remains in the loop.
    let stride = rows[0].len();
    for r in 0..R {
        rows[r] = &rows[r][..stride];
    }
    for j in 0..C {
        centres[j] = &centres[j][..stride];
    }
    let mut sums = [[[0.0; LANES]; C]; R];
    for at in 0..stride {
        let mut lanes = [[0.0; LANES]; R];
        for r in 0..R {
            lanes[r] = rows[r][at];
        }
        for j in 0..C {
            let centre = centres[j][at];
            for r in 0..R {
                multiply_add(&lanes[r], &centre, &mut sums[r][j]);
            }
        }
    }
    let mut totals = [[0.0; C]; R];
    for r in 0..R {
        for j in 0..C {
            totals[r][j] = total(&sums[r][j]);
        }
    }
    totals
}

/// A function of its own: within the loops around it the compiler would not see sixteen lanes as one register.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the processor of whoever calls")]
fn multiply_add(left: &Lanes, right: &Lanes, sum: &mut Lanes) {
    for lane in 0..LANES {
        sum[lane] = left[lane].mul_add(right[lane], sum[lane]);
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the processor of whoever calls")]
fn total(lanes: &Lanes) -> f32 {
    let mut eight = [0.0; 8];
    for lane in 0..8 {
        eight[lane] = lanes[lane] + lanes[lane + 8];
    }
    let mut four = [0.0; 4];
    for lane in 0..4 {
        four[lane] = eight[lane] + eight[lane + 4];
    }
    (four[0] + four[2]) + (four[1] + four[3])
}

/// Squared distance of each row, from row `first` on, to the centre of its label.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn own_distances(
    points: &[Lanes],
    first: usize,
    labels: &[u32],
    centres: &[Lanes],
    stride: usize,
    out: &mut [f32],
) {
    for at in 0..labels.len() {
        let row = &points[(first + at) * stride..(first + at + 1) * stride];
        let centre = labels[at] as usize * stride;
        let centre = &centres[centre..centre + stride];
        let mut sums = [0.0; LANES];
        for at in 0..stride {
            let mut apart = row[at];
            for lane in 0..LANES {
                apart[lane] -= centre[at][lane];
            }
            multiply_add(&apart, &apart, &mut sums);
        }
        out[at] = total(&sums);
    }
}

/// A row that changes from one sum to another.
#[derive(Clone, Copy)]
pub(super) struct Move {
    pub(super) row: u32,
    /// Whose sums, in case there are several.
    pub(super) run: u32,
    /// [`NONE`] if it was nowhere.
    pub(super) from: u32,
    pub(super) to: u32,
}

/// No cluster yet.
pub(super) const NONE: u32 = u32::MAX;

/// Lets sums in f64, of [`Lanes`] `first..first + width` of the rows, follow moves in their order. Run `r` has the `k` sums
/// from `r * k` on, `[sums, width]`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn follow(
    sums: &mut [[f64; LANES]],
    moves: &[Move],
    points: &[Lanes],
    (stride, first, width): (usize, usize, usize),
    k: usize,
) {
    for step in moves {
        let row = step.row as usize * stride + first;
        let row = &points[row..row + width];
        let base = step.run as usize * k;
        if step.from != NONE {
            let from = (base + step.from as usize) * width;
            let from = &mut sums[from..from + width];
            for at in 0..width {
                add(&row[at], -1.0, &mut from[at]);
            }
        }
        let to = (base + step.to as usize) * width;
        let to = &mut sums[to..to + width];
        for at in 0..width {
            add(&row[at], 1.0, &mut to[at]);
        }
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the processor of whoever calls")]
fn add(row: &Lanes, sign: f64, sum: &mut [f64; LANES]) {
    for lane in 0..LANES {
        sum[lane] = f64::from(row[lane]).mul_add(sign, sum[lane]);
    }
}

/// Squared distances in f64 of one row to consecutive rows, all of `row.len()` [`Lanes`]; no rounding but f64's own.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn exact_distances(row: &[Lanes], others: &[Lanes], out: &mut [f64]) {
    let stride = row.len();
    for other in 0..out.len() {
        let others = &others[other * stride..(other + 1) * stride];
        let mut sums = [0.0f64; LANES];
        for at in 0..stride {
            add_squares(&row[at], &others[at], &mut sums);
        }
        let mut sum = 0.0;
        for part in &sums {
            sum += part;
        }
        out[other] = sum;
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the processor of whoever calls")]
fn add_squares(left: &Lanes, right: &Lanes, sum: &mut [f64; LANES]) {
    for lane in 0..LANES {
        let apart = f64::from(left[lane]) - f64::from(right[lane]);
        sum[lane] = apart.mul_add(apart, sum[lane]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope, Stream};
    use std::array::from_fn;

    #[test]
    fn products_of_every_number_of_centres_are_those_of_one_at_a_time() {
        let mut stream = Stream::open(1, Purpose::Test, Scope::Item(0));
        let stride = 3;
        let mut made = |count: usize| -> Vec<Lanes> {
            (0..count * stride).map(|_| from_fn(|_| stream.normal() as f32)).collect()
        };
        let points = made(20);
        let rows = [3, 0, 19, 7, 7, 11, 2];
        for k in 1..=12 {
            let centres = made(k);
            let mut out = vec![0.0; rows.len() * k];
            products(&points, &rows, &centres, stride, &mut out);
            for (row, out) in rows.iter().zip(out.chunks(k)) {
                let row = &points[*row as usize * stride..][..stride];
                for (centre, found) in centres.chunks(stride).zip(out) {
                    let (row, centre) = (row.as_flattened(), centre.as_flattened());
                    let exact: f64 =
                        row.iter().zip(centre).map(|(x, c)| f64::from(*x) * f64::from(*c)).sum();
                    assert!((exact - f64::from(*found)).abs() < 1e-5, "{exact} {found}");
                    let mut alone = [0.0];
                    products(row.as_chunks().0, &[0], centre.as_chunks().0, stride, &mut alone);
                    assert_eq!(alone[0].to_bits(), found.to_bits());
                }
            }
        }
    }
}
