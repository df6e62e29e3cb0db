//! Inner products and distances of rows, in an order of summation that depends on nothing but their length.
//!
//! A matrix product of a library takes another order on another number of threads, and is slow for the few columns that
//! k-means has: ten centres and 512 dimensions ran at 15 GFLOP/s where these loops ran at 80.

use multiversion::multiversion;
use std::array::from_fn;

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
    let centres: [&[Lanes]; C] = from_fn(|j| &panel[j * stride..(j + 1) * stride]);
    for (group, out) in rows.chunks(TILE_ROWS).zip(out.chunks_mut(TILE_ROWS * k)) {
        // The last row stands in for those that are missing.
        let tile: [&[Lanes]; TILE_ROWS] = from_fn(|r| {
            let row = group[r.min(group.len() - 1)] as usize;
            &points[row * stride..(row + 1) * stride]
        });
        let found = tile_products(tile, centres);
        for (out, found) in out.chunks_mut(k).zip(found) {
            out[first..first + C].copy_from_slice(&found);
        }
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the processor of whoever calls")]
fn tile_products<const R: usize, const C: usize>(
    rows: [&[Lanes]; R],
    centres: [&[Lanes]; C],
) -> [[f32; C]; R] {
    let stride = rows[0].len();
    let (rows, centres) = (rows.map(|row| &row[..stride]), centres.map(|c| &c[..stride]));
    let mut sums = [[[0.0; LANES]; C]; R];
    for at in 0..stride {
        let lanes: [Lanes; R] = from_fn(|r| rows[r][at]);
        for (j, centre) in centres.iter().enumerate() {
            let centre = centre[at];
            for (sums, lanes) in sums.iter_mut().zip(&lanes) {
                multiply_add(lanes, &centre, &mut sums[j]);
            }
        }
    }
    sums.map(|row| row.map(total))
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
fn total(lanes: Lanes) -> f32 {
    let eight: [f32; 8] = from_fn(|lane| lanes[lane] + lanes[lane + 8]);
    let four: [f32; 4] = from_fn(|lane| eight[lane] + eight[lane + 4]);
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
    let rows = points[first * stride..].chunks_exact(stride);
    for ((row, label), out) in rows.zip(labels).zip(out) {
        let centre = &centres[*label as usize * stride..][..stride];
        let mut sums = [0.0; LANES];
        for (row, centre) in row.iter().zip(centre) {
            let apart: Lanes = from_fn(|lane| row[lane] - centre[lane]);
            multiply_add(&apart, &apart, &mut sums);
        }
        *out = total(sums);
    }
}

/// Squared distances in f64 of one row to consecutive rows, all of `row.len()` elements; no rounding but f64's own.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn exact_distances(row: &[Lanes], others: &[Lanes], out: &mut [f64]) {
    for (other, out) in others.chunks_exact(row.len()).zip(out) {
        let mut sums = [0.0f64; LANES];
        for (left, right) in row.iter().zip(other) {
            for lane in 0..LANES {
                let apart = f64::from(left[lane]) - f64::from(right[lane]);
                sums[lane] = apart.mul_add(apart, sums[lane]);
            }
        }
        *out = sums.iter().sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope, Stream};

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
                    let exact: f64 = row.iter().zip(centre).map(|(x, c)| f64::from(*x) * f64::from(*c)).sum();
                    assert!((exact - f64::from(*found)).abs() < 1e-5, "{exact} {found}");
                    let mut alone = [0.0];
                    products(row.as_chunks().0, &[0], centre.as_chunks().0, stride, &mut alone);
                    assert_eq!(alone[0].to_bits(), found.to_bits());
                }
            }
        }
    }
}
