//! Values of few pairs of rows in f64: what decides where a matrix product rounds.

use super::rows::Rows;
use super::search::Distance;
use multiversion::multiversion;
use std::array;

/// True values of the references `rows`, of which the part's first is `seen`; larger is nearer.
pub(super) fn exact(
    distance: Distance,
    query: &[f32],
    norm: f64,
    part: &Rows,
    rows: &[u32],
    seen: usize,
) -> Vec<f32> {
    let query: Vec<f64> = query.iter().copied().map(f64::from).collect();
    let of_row = |row: &u32| *row as usize - seen;
    let mut values = Vec::with_capacity(rows.len());
    // Several rows at once, so that the memory is waited for once. The last ones fill up with their last.
    for some in rows.chunks(TOGETHER) {
        let at: [usize; TOGETHER] = array::from_fn(|i| of_row(&some[i.min(some.len() - 1)]));
        let sums = match distance {
            Distance::Cosine => dots(&query, at.map(|at| part.row(at))),
            Distance::Euclidean => squares(&query, at.map(|at| part.row(at))),
        };
        let values_of = sums.iter().zip(at).take(some.len()).map(|(sum, at)| match distance {
            Distance::Cosine => (sum / (norm * part.norms[at])) as f32,
            Distance::Euclidean => -sum.sqrt() as f32,
        });
        values.extend(values_of);
    }
    values
}

/// The squared length of a row in f64, summed in an order that depends on nothing but its dimensions.
pub(super) fn square(row: &[f32]) -> f64 {
    let wide: Vec<f64> = row.iter().copied().map(f64::from).collect();
    dots(&wide, [row; 1])[0]
}

const LANES: usize = 16;
const TOGETHER: usize = 4;

/// Scalar products in f64, each summed in an order that depends on nothing but the length. Plain loops, as in `sift`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "so that it is compiled for the processor of its caller")]
fn summed<const ROWS: usize, const SQUARES: bool>(
    query: &[f64],
    rows: [&[f32]; ROWS],
) -> [f64; ROWS] {
    let mut lanes = [[0.0f64; LANES]; ROWS];
    let whole = query.len() / LANES * LANES;
    let mut first = 0;
    while first < whole {
        let left: &[f64; LANES] = query[first..].first_chunk().expect("a whole chunk is left");
        for row in 0..ROWS {
            let right: &[f32; LANES] =
                rows[row][first..].first_chunk().expect("as long as the query");
            for lane in 0..LANES {
                let right = f64::from(right[lane]);
                let difference = left[lane] - right;
                lanes[row][lane] +=
                    if SQUARES { difference * difference } else { left[lane] * right };
            }
        }
        first += LANES;
    }
    let mut sums = [0.0; ROWS];
    for row in 0..ROWS {
        for at in whole..query.len() {
            let right = f64::from(rows[row][at]);
            let difference = query[at] - right;
            lanes[row][at - whole] +=
                if SQUARES { difference * difference } else { query[at] * right };
        }
        for lane in lanes[row] {
            sums[row] += lane;
        }
    }
    sums
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn dots<const ROWS: usize>(query: &[f64], rows: [&[f32]; ROWS]) -> [f64; ROWS] {
    summed::<ROWS, false>(query, rows)
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn squares<const ROWS: usize>(query: &[f64], rows: [&[f32]; ROWS]) -> [f64; ROWS] {
    summed::<ROWS, true>(query, rows)
}
