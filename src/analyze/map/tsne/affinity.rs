//! How near images are to one another in the space of the features, as probabilities of pairs.

use crate::evaluate::knn::Neighbours;
use rayon::prelude::*;

/// Entropies closer to the wanted one than this are equal to it.
const TOLERANCE: f64 = 1e-5;

/// Most steps of a bisection.
const STEPS: usize = 100;

/// The symmetric probabilities `p_ij`, sparse, `Σ p_ij = 1`.
pub(super) struct Affinities {
    /// Where each row begins, and where the last ends.
    pub(super) starts: Vec<usize>,
    /// Column of each entry, rising within a row.
    pub(super) columns: Vec<u32>,
    pub(super) values: Vec<f32>,
    /// `Σ p_ij ln p_ij`.
    pub(super) information: f64,
}

impl Affinities {
    /// From the nearest neighbours by Euclidean distance: `p_{j|i} ∝ exp(−β_i d_ij²)` with an entropy of ln(perplexity), and
    /// `p_ij = (p_{j|i} + p_{i|j}) / 2N`.
    pub(super) fn new(neighbours: &Neighbours, count: usize, perplexity: f64) -> Self {
        let k = neighbours.k;
        let conditional: Vec<Vec<(u32, f64)>> = (0..count)
            .into_par_iter()
            .map(|point| {
                let (rows, distances) = neighbours.of(point);
                let squares: Vec<f64> =
                    distances.iter().map(|distance| f64::from(*distance).powi(2)).collect();
                let shares = shares(&squares, perplexity.ln());
                let mut row: Vec<(u32, f64)> =
                    rows.iter().map(|row| *row as u32).zip(shares).collect();
                row.sort_unstable_by_key(|(column, _)| *column);
                row
            })
            .collect();
        // The transposed entries arrive by rising row, so each column of them is sorted.
        let mut transposed: Vec<Vec<(u32, f64)>> = vec![Vec::with_capacity(k); count];
        for (row, entries) in conditional.iter().enumerate() {
            for (column, share) in entries {
                transposed[*column as usize].push((row as u32, *share));
            }
        }
        let scale = 1.0 / (2.0 * count as f64);
        let rows: Vec<Vec<(u32, f64)>> = conditional
            .into_par_iter()
            .zip(transposed)
            .map(|(one, other)| merged(&one, &other, scale))
            .collect();
        let mut starts = Vec::with_capacity(count + 1);
        starts.push(0);
        for row in &rows {
            starts.push(starts[starts.len() - 1] + row.len());
        }
        let all = || rows.iter().flatten();
        Self {
            columns: all().map(|(column, _)| *column).collect(),
            values: all().map(|(_, value)| *value as f32).collect(),
            information: all().map(|(_, p)| if *p > 0.0 { p * p.ln() } else { 0.0 }).sum(),
            starts,
        }
    }
}

/// Two rows of sorted columns added and scaled.
fn merged(one: &[(u32, f64)], other: &[(u32, f64)], scale: f64) -> Vec<(u32, f64)> {
    let mut sum = Vec::with_capacity(one.len() + other.len());
    let (mut left, mut right) = (one.iter().peekable(), other.iter().peekable());
    loop {
        let column = match (left.peek(), right.peek()) {
            (Some((a, _)), Some((b, _))) => *a.min(b),
            (Some((a, _)), None) | (None, Some((a, _))) => *a,
            (None, None) => return sum,
        };
        let of = |side: &mut std::iter::Peekable<std::slice::Iter<'_, (u32, f64)>>| {
            side.next_if(|(at, _)| *at == column).map_or(0.0, |(_, share)| *share)
        };
        sum.push((column, (of(&mut left) + of(&mut right)) * scale));
    }
}

/// `exp(−β d²)`, normalised, with β such that the entropy is as wanted: by bisection, as scikit-learn does it. Distances are
/// taken relative to the nearest and the mean, which changes β alone, so that no scale of features under- or overflows.
fn shares(squares: &[f64], entropy: f64) -> Vec<f64> {
    let nearest = squares.iter().copied().fold(f64::INFINITY, f64::min);
    let apart: Vec<f64> = squares.iter().map(|square| square - nearest).collect();
    let mean = apart.iter().sum::<f64>() / apart.len() as f64;
    let apart: Vec<f64> = apart.iter().map(|a| if mean > 0.0 { a / mean } else { 0.0 }).collect();
    let (mut beta, mut low, mut high) = (1.0, 0.0, f64::INFINITY);
    let mut shares = vec![0.0; apart.len()];
    for _ in 0..STEPS {
        let (mut sum, mut weighted) = (0.0, 0.0);
        for (share, apart) in shares.iter_mut().zip(&apart) {
            *share = (-beta * apart).exp();
            sum += *share;
            weighted += *share * apart;
        }
        for share in &mut shares {
            *share /= sum;
        }
        let difference = sum.ln() + beta * weighted / sum - entropy;
        if difference.abs() <= TOLERANCE {
            break;
        }
        if difference > 0.0 {
            low = beta;
            beta = if high == f64::INFINITY { beta * 2.0 } else { f64::midpoint(beta, high) };
        } else {
            high = beta;
            beta = f64::midpoint(low, beta);
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::knn::{Distance, neighbours_by};
    use tch::Tensor;

    #[test]
    fn shares_have_the_entropy_at_every_scale() {
        for scale in [1e-12, 1.0, 1e12] {
            let squares: Vec<f64> = (0..91).map(|at| scale * (4.0 + f64::from(at) / 7.0)).collect();
            let shares = shares(&squares, 30f64.ln());
            assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let entropy: f64 = shares.iter().map(|p| -p * p.ln()).sum();
            assert!((entropy - 30f64.ln()).abs() < 2e-5, "{entropy}");
            assert!(shares.windows(2).all(|pair| pair[0] > pair[1]));
        }
        // More equal images than the perplexity: all of them alike, whatever the bisection does.
        assert!(shares(&[0.0; 91], 30f64.ln()).iter().all(|p| (p - 1.0 / 91.0).abs() < 1e-12));
    }

    #[test]
    fn affinities_are_symmetric_and_sum_to_one() {
        let rows: Vec<f32> = (0..40u8).map(|row| f32::from(row).sin() * f32::from(row)).collect();
        let rows = Tensor::from_slice(&rows).view([20, 2]);
        let found = neighbours_by(&[Distance::Euclidean], &rows, &rows, 10, true).unwrap();
        let p = Affinities::new(&found[0], 20, 3.0);
        let mut dense = [[0.0f64; 20]; 20];
        for (row, dense) in dense.iter_mut().enumerate() {
            for at in p.starts[row]..p.starts[row + 1] {
                dense[p.columns[at] as usize] = f64::from(p.values[at]);
            }
        }
        let sum: f64 = dense.iter().flatten().sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        let mut information = 0.0;
        for (row, values) in dense.iter().enumerate() {
            assert!(values[row] == 0.0, "no image is its own neighbour");
            for (column, value) in values.iter().enumerate() {
                assert!((value - dense[column][row]).abs() < 1e-9);
                information += if *value > 0.0 { value * value.ln() } else { 0.0 };
            }
        }
        assert!((information - p.information).abs() < 1e-6, "{information} {}", p.information);
    }
}
