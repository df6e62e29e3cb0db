//! What stands beside the pictures: pictures alone convince of anything.

use crate::cluster::agreement::{Average, Contingency};
use crate::error::Result;
use crate::random::{Purpose, Scope, Stream};
use pathfinding::kuhn_munkres::kuhn_munkres;
use pathfinding::matrix::Matrix;
use serde::Serialize;
use tch::{Kind, Tensor};

/// Most rows whose silhouettes are worked out.
pub const SAMPLE: usize = 512;

/// How far two groupings agree.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Adjusted Rand index: 1 is equal, 0 is what chance gives.
    pub ari: f64,
    /// Normalised mutual information, by the arithmetic mean.
    pub nmi: f64,
}

/// Agreement of two maps of one size.
///
/// # Errors
/// [`crate::error::Error::Shape`] if the sizes differ.
pub fn agreement(first: &[u8], second: &[u8]) -> Result<Agreement> {
    let table = Contingency::new(&wide(first), &wide(second))?;
    Ok(Agreement { ari: table.ari(), nmi: table.nmi(Average::Arithmetic) })
}

fn wide(labels: &[u8]) -> Vec<u32> {
    labels.iter().map(|label| u32::from(*label)).collect()
}

/// How well clusters are the parts of a ground truth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Truth {
    /// Number of parts, the background among them.
    pub parts: usize,
    /// Agreement of the two groupings.
    #[serde(flatten)]
    pub agreement: Agreement,
    /// Share of the pixels whose part is the commonest of their cluster.
    pub purity: f64,
    /// Mean over the parts of intersection over union with the cluster that stands for the part, 0 where none does; clusters
    /// stand for parts so that it is highest (Hungarian matching).
    pub iou: f64,
}

/// Judges clusters by the parts of the same pixels.
///
/// # Errors
/// [`crate::error::Error::Shape`] if the two are not of the same pixels.
pub fn truth(parts: &[u32], clusters: &[u32]) -> Result<Truth> {
    let table = Contingency::new(parts, clusters)?;
    let (rows, columns) = (table.classes.len(), table.clusters.len());
    let count = |row: usize, column: usize| table.counts[row * columns + column];
    let row_sum = |row: usize| (0..columns).map(|column| count(row, column)).sum::<u64>();
    let column_sum = |column: usize| (0..rows).map(|row| count(row, column)).sum::<u64>();
    let iou = |row: usize, column: usize| {
        let both = count(row, column);
        both as f64 / (row_sum(row) + column_sum(column) - both) as f64
    };
    // The search takes whole numbers, and no more rows than columns.
    let weight = |row: usize, column: usize| (iou(row, column) * 1e12).round() as i64;
    let matched: f64 = if rows <= columns {
        let (_, of) = kuhn_munkres(&Matrix::from_fn(rows, columns, |(r, c)| weight(r, c)));
        of.iter().enumerate().map(|(row, column)| iou(row, *column)).sum()
    } else {
        let (_, of) = kuhn_munkres(&Matrix::from_fn(columns, rows, |(c, r)| weight(r, c)));
        of.iter().enumerate().map(|(column, row)| iou(*row, column)).sum()
    };
    let most = |column: usize| (0..rows).map(|row| count(row, column)).max().unwrap_or(0);
    let pure: u64 = (0..columns).map(most).sum();
    Ok(Truth {
        parts: rows,
        agreement: Agreement { ari: table.ari(), nmi: table.nmi(Average::Arithmetic) },
        purity: pure as f64 / table.total() as f64,
        iou: matched / rows as f64,
    })
}

/// Sum of the squared distances of each cluster's rows `[n, D]` to their mean, for each of `k` clusters: one measure for all
/// algorithms, whatever they make small.
pub fn inertias(rows: &Tensor, labels: &[u8], k: usize) -> Vec<f64> {
    let _guard = tch::no_grad_guard();
    // Around their mean, so that what is left after the subtraction below keeps its digits.
    let rows = rows - rows.mean_dim(0, true, None);
    let names: Vec<i64> = labels.iter().map(|label| i64::from(*label)).collect();
    let members = Tensor::from_slice(&names).one_hot(k as i64).to_kind(Kind::Float);
    let counts = members.sum_dim_intlist(0, false, Kind::Double);
    let sums = members.tr().mm(&rows).to_kind(Kind::Double);
    let squares = rows.square().sum_dim_intlist(1, false, Kind::Double);
    let squares = members.to_kind(Kind::Double).tr().mv(&squares);
    let lengths = sums.square().sum_dim_intlist(1, false, None) / counts.clamp_min(1.0);
    let inertias = (squares - lengths).clamp_min(0.0);
    Vec::try_from(inertias).expect("a row of numbers")
}

/// Distances of some rows to one another, from which silhouettes of any grouping follow.
pub struct Sample {
    rows: Vec<usize>,
    /// `[rows, rows]`.
    distances: Tensor,
}

impl Sample {
    /// Up to [`SAMPLE`] of the rows `[n, D]`, drawn by the seed.
    pub fn new(rows: &Tensor, seed: u64) -> Self {
        let n = rows.size()[0] as usize;
        let mut chosen: Vec<usize> = (0..n).collect();
        if n > SAMPLE {
            let mut stream = Stream::open(seed, Purpose::Evaluation, Scope::Item(n as u64));
            chosen = stream.permutation(n);
            chosen.truncate(SAMPLE);
            chosen.sort_unstable();
        }
        let at: Vec<i64> = chosen.iter().map(|row| *row as i64).collect();
        let _guard = tch::no_grad_guard();
        let rows = rows.index_select(0, &Tensor::from_slice(&at)).to_kind(Kind::Double);
        let rows = &rows - rows.mean_dim(0, true, None);
        let squares = rows.square().sum_dim_intlist(1, true, None);
        let products = rows.mm(&rows.tr());
        let distances = (&squares + squares.tr() - products * 2.0).clamp_min(0.0).sqrt();
        Self { rows: chosen, distances }
    }

    /// Mean silhouette of the rows drawn (Rousseeuw 1987): (b − a) / max(a, b), with a the mean distance to the others of
    /// the own cluster and b to those of the nearest other; 0 for a row alone in its cluster. None if all drawn rows are of
    /// one cluster, or each of its own.
    pub fn silhouette(&self, labels: &[u8], k: usize) -> Option<f64> {
        let own: Vec<usize> = self.rows.iter().map(|row| usize::from(labels[*row])).collect();
        let mut counts = vec![0.0f64; k];
        for label in &own {
            counts[*label] += 1.0;
        }
        let there = counts.iter().filter(|count| **count > 0.0).count();
        if there < 2 || there == own.len() {
            return None;
        }
        let _guard = tch::no_grad_guard();
        let names: Vec<i64> = own.iter().map(|label| *label as i64).collect();
        let members = Tensor::from_slice(&names).one_hot(k as i64).to_kind(Kind::Double);
        let sums: Vec<f64> =
            Vec::try_from(self.distances.mm(&members).reshape([-1])).expect("a row of numbers");
        let of = |(row, label): (usize, &usize)| {
            if counts[*label] < 2.0 {
                return 0.0;
            }
            let sums = &sums[row * k..(row + 1) * k];
            let inside = sums[*label] / (counts[*label] - 1.0);
            let others = (0..k).filter(|other| other != label && counts[*other] > 0.0);
            let outside =
                others.map(|other| sums[other] / counts[other]).fold(f64::INFINITY, f64::min);
            let larger = inside.max(outside);
            if larger > 0.0 { (outside - inside) / larger } else { 0.0 }
        };
        Some(own.iter().enumerate().map(of).sum::<f64>() / own.len() as f64)
    }
}

/// How far clusters stay when everything random is drawn anew.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stability {
    /// Number of seeds.
    pub seeds: usize,
    /// Mean over all pairs of seeds of the adjusted Rand index.
    pub mean_ari: f64,
    /// The least of them.
    pub least_ari: f64,
}

/// Agreement over all pairs of groupings of the same rows, one for each seed; none below two.
///
/// # Errors
/// [`crate::error::Error::Shape`] if they are not of the same rows.
pub fn stability(groupings: &[Vec<u32>]) -> Result<Option<Stability>> {
    let mut found = Vec::new();
    for (at, first) in groupings.iter().enumerate() {
        for second in &groupings[..at] {
            found.push(Contingency::new(first, second)?.ari());
        }
    }
    if found.is_empty() {
        return Ok(None);
    }
    Ok(Some(Stability {
        seeds: groupings.len(),
        mean_ari: found.iter().sum::<f64>() / found.len() as f64,
        least_ari: found.iter().copied().fold(f64::INFINITY, f64::min),
    }))
}

/// For each of `k` clusters, the share of images in which it occurs; `labels` are maps of `pixels` each.
pub fn image_shares(labels: &[u8], pixels: usize, k: usize) -> Vec<f64> {
    let images = (labels.len() / pixels) as f64;
    let share = |cluster: usize| {
        let there = labels.chunks(pixels).filter(|map| map.contains(&(cluster as u8))).count();
        there as f64 / images
    };
    (0..k).map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::*;

    #[test]
    fn silhouettes_are_scikit_learns() {
        let numbers = golden::numbers();
        let case = &numbers["silhouette"];
        let labels: Vec<u8> =
            case["labels"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u8).collect();
        let sample = Sample::new(&golden::arrays()["silhouette.rows"], 0);
        let found = sample.silhouette(&labels, 4).unwrap();
        let expected = case["mean"].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
        assert_eq!(sample.silhouette(&[0; 60], 4), None);
    }

    #[test]
    fn a_sample_of_many_rows_is_close_to_all() {
        let mut stream = Stream::open(0, Purpose::Test, Scope::Item(0));
        let labels: Vec<u8> = (0..3 * SAMPLE).map(|row| (row % 3) as u8).collect();
        let values: Vec<f32> = labels
            .iter()
            .flat_map(|label| [f64::from(*label) * 2.0 + stream.normal(), stream.normal()])
            .map(|value| value as f32)
            .collect();
        let rows = Tensor::from_slice(&values).view([-1, 2]);
        let part = Sample::new(&rows, 1);
        assert_eq!(part.rows.len(), SAMPLE);
        let whole: Vec<usize> = (0..labels.len()).collect();
        let difference = |at: usize, other: usize| {
            (0..2)
                .map(|d| f64::from(values[2 * at + d] - values[2 * other + d]).powi(2))
                .sum::<f64>()
                .sqrt()
        };
        // Plainly, over all rows.
        let plain: f64 = whole
            .iter()
            .map(|at| {
                let mean = |cluster: u8| {
                    let others =
                        whole.iter().filter(|other| *other != at && labels[**other] == cluster);
                    let found: Vec<f64> = others.map(|other| difference(*at, *other)).collect();
                    found.iter().sum::<f64>() / found.len() as f64
                };
                let inside = mean(labels[*at]);
                let outside =
                    (0..3).filter(|c| *c != labels[*at]).map(mean).fold(f64::INFINITY, f64::min);
                (outside - inside) / inside.max(outside)
            })
            .sum::<f64>()
            / labels.len() as f64;
        let found = part.silhouette(&labels, 3).unwrap();
        assert!((found - plain).abs() < 0.03, "{found}, of all {plain}");
    }

    #[test]
    fn inertias_are_squared_distances_to_the_mean() {
        let rows = Tensor::from_slice(&[0.0f32, 0.0, 2.0, 0.0, 5.0, 1.0, 5.0, 4.0]).view([4, 2]);
        let found = inertias(&rows, &[0, 0, 2, 2], 3);
        for (found, expected) in found.iter().zip([2.0, 0.0, 4.5]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn clusters_are_judged_by_the_parts_they_stand_for() {
        // Part 0 is cluster 5 but for a pixel; part 1 is split into 3 and 4; part 2 has no cluster of its own.
        let parts = [0, 0, 0, 0, 1, 1, 1, 1, 1, 2];
        let clusters = [5, 5, 5, 3, 3, 3, 3, 4, 4, 5];
        let found = truth(&parts, &clusters).unwrap();
        assert_eq!(found.parts, 3);
        assert!((found.purity - 0.8).abs() < 1e-12);
        // 5 for 0: 3 of 5; 3 for 1: 3 of 6; 4 for 2: nothing.
        assert!((found.iou - (3.0 / 5.0 + 3.0 / 6.0) / 3.0).abs() < 1e-12, "{}", found.iou);
        let same = truth(&parts, &parts).unwrap();
        assert!((same.iou - 1.0).abs() < 1e-12 && (same.agreement.ari - 1.0).abs() < 1e-12);
        // More parts than clusters.
        let few = truth(&parts, &[1; 10]).unwrap();
        assert!((few.iou - 0.5 / 3.0).abs() < 1e-12 && (few.purity - 0.5).abs() < 1e-12);
    }

    #[test]
    fn shares_and_stability_count_images_and_pairs() {
        assert_eq!(image_shares(&[0, 1, 0, 0, 2, 0], 2, 4), [1.0, 1.0 / 3.0, 1.0 / 3.0, 0.0]);
        let groupings = [vec![0, 0, 1, 1], vec![1, 1, 0, 0], vec![0, 1, 0, 1]];
        let found = stability(&groupings).unwrap().unwrap();
        assert_eq!(found.seeds, 3);
        assert!((found.least_ari + 0.5).abs() < 1e-12 && found.mean_ari.abs() < 1e-12, "{found:?}");
        assert_eq!(stability(&groupings[..1]).unwrap(), None);
    }
}
