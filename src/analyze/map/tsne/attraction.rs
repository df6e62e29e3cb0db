//! The attraction of near images: a sum over the sparse probabilities, sixteen entries at a time.

use super::affinity::Affinities;
use crate::analyze::map::Point;
use multiversion::multiversion;
use rayon::prelude::*;

/// Entries that are worked on together.
const LANES: usize = 16;

/// Rows that a thread takes at a time.
const ROWS: usize = 256;

/// For each point `Σ_j p_ij q_ij (y_i − y_j)`, `q_ij = 1 / (1 + ‖y_i − y_j‖²)`. Equal points give equal bits, whatever the
/// number of threads.
pub(super) fn attraction(affinities: &Affinities, points: &[Point]) -> Vec<Point> {
    let mut pulls = vec![[0.0; 2]; points.len()];
    pulls.par_iter_mut().enumerate().with_min_len(ROWS).for_each(|(row, out)| {
        let range = affinities.starts[row]..affinities.starts[row + 1];
        let (columns, values) = (&affinities.columns[range.clone()], &affinities.values[range]);
        *out = pull(columns, values, points, points[row]);
    });
    pulls
}

/// `Σ_ij p_ij ln(1 + ‖y_i − y_j‖²)`.
pub(super) fn cross(affinities: &Affinities, points: &[Point]) -> f64 {
    let of_row = |row: usize| -> f64 {
        let range = affinities.starts[row]..affinities.starts[row + 1];
        let entries = affinities.columns[range.clone()].iter().zip(&affinities.values[range]);
        let from = points[row];
        let of_entry = |(column, p): (&u32, &f32)| {
            let to = points[*column as usize];
            let apart = [0, 1].map(|axis: usize| f64::from(from[axis]) - f64::from(to[axis]));
            f64::from(*p) * (apart[0] * apart[0] + apart[1] * apart[1]).ln_1p()
        };
        entries.map(of_entry).sum()
    };
    let rows: Vec<f64> = (0..points.len()).into_par_iter().with_min_len(ROWS).map(of_row).collect();
    rows.iter().sum()
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn pull(columns: &[u32], values: &[f32], points: &[Point], from: Point) -> Point {
    let mut sums = [[0.0f32; LANES]; 2];
    let (whole, rest) = columns.as_chunks::<LANES>();
    let (p, p_rest) = values.as_chunks::<LANES>();
    for (columns, p) in whole.iter().zip(p) {
        add(columns, p, points, from, &mut sums);
    }
    if !rest.is_empty() {
        // A probability of 0 adds nothing, to whichever point it belongs.
        let (mut columns, mut p) = ([rest[0]; LANES], [0.0; LANES]);
        columns[..rest.len()].copy_from_slice(rest);
        p[..rest.len()].copy_from_slice(p_rest);
        add(&columns, &p, points, from, &mut sums);
    }
    sums.map(|lanes| {
        let mut sum = 0.0;
        for lane in lanes {
            sum += lane;
        }
        sum
    })
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the processor of whoever calls")]
fn add(
    columns: &[u32; LANES],
    p: &[f32; LANES],
    points: &[Point],
    from: Point,
    sums: &mut [[f32; LANES]; 2],
) {
    let (mut x, mut y) = ([0.0f32; LANES], [0.0f32; LANES]);
    for lane in 0..LANES {
        [x[lane], y[lane]] = points[columns[lane] as usize];
    }
    for lane in 0..LANES {
        let (apart_x, apart_y) = (from[0] - x[lane], from[1] - y[lane]);
        let strength = p[lane] / (1.0 + apart_x * apart_x + apart_y * apart_y);
        sums[0][lane] += strength * apart_x;
        sums[1][lane] += strength * apart_y;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_every_length_are_the_sum_over_their_entries() {
        let points: Vec<Point> = (0..60u8)
            .map(|at| [f32::from(at % 7) - 3.0, (f32::from(at) * 1.3).sin() * 4.0])
            .collect();
        let (mut starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for row in 0..60u32 {
            for entry in 0..row {
                columns.push(entry);
                values.push(1.0 / (row as f32 + entry as f32));
            }
            starts.push(columns.len());
        }
        let affinities = Affinities { starts, columns, values, information: 0.0 };
        let found = attraction(&affinities, &points);
        let mut all = 0.0;
        for row in 0..60 {
            let mut expected = [0.0f64; 2];
            for at in affinities.starts[row]..affinities.starts[row + 1] {
                let to = points[affinities.columns[at] as usize];
                let p = f64::from(affinities.values[at]);
                let apart = [0, 1].map(|axis: usize| f64::from(points[row][axis] - to[axis]));
                let square = apart[0].powi(2) + apart[1].powi(2);
                all += p * (1.0 + square).ln();
                for axis in 0..2 {
                    expected[axis] += p / (1.0 + square) * apart[axis];
                }
            }
            for axis in 0..2 {
                let apart = (f64::from(found[row][axis]) - expected[axis]).abs();
                assert!(apart < 1e-5, "row {row}: {:?} {expected:?}", found[row]);
            }
        }
        assert!((cross(&affinities, &points) / all - 1.0).abs() < 1e-5);
    }
}
