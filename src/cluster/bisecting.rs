//! Bisecting k-means: the cluster of largest inertia is split in two, until there are enough.

use super::Clustering;
use super::lloyd::{Centre, Lloyd};
use super::points::{Points, unpadded};
use super::products::Lanes;
use crate::error::Result;
use crate::random::{Purpose, Scope, Stream};
use tch::Tensor;

/// A cluster that may still be split.
struct Leaf {
    rows: Vec<u32>,
    centre: Vec<Lanes>,
    inertia: f64,
}

/// Settings of one split, those of scikit-learn's `BisectingKMeans`; its tolerance is not scaled by the variance.
const SPLIT: Lloyd = Lloyd { centre: Centre::Mean, max_iterations: 300, tolerance: 1e-4 };

/// Splits leaf after leaf, that of largest inertia first, the leftmost of equals: two distinct random rows are the seeds of
/// one run of 2-means, whose first cluster goes left. Labels count the leaves from left to right.
///
/// Split `s` draws from `Stream::open(seed, Purpose::Clusters, Scope::Item(s))`. Beside scikit-learn: a leaf of one row,
/// which cannot be split, is passed over.
pub(super) fn fit(rows: &Tensor, k: usize, seed: u64) -> Result<Clustering> {
    let mut found = fit_each(rows, &[k], seed)?;
    Ok(found.pop().expect("one number, one result"))
}

/// [`fit`] for several numbers of clusters: fewer are what the splits to more pass by.
pub(super) fn fit_each(rows: &Tensor, ks: &[usize], seed: u64) -> Result<Vec<Clustering>> {
    let mut draw = |split: u64, rows: usize| {
        let mut stream = Stream::open(seed, Purpose::Clusters, Scope::Item(split));
        let first = stream.below(rows as u64) as usize;
        let second = stream.below(rows as u64 - 1) as usize;
        [first, second + usize::from(second >= first)]
    };
    split_each(rows, ks, &mut draw)
}

/// Splits with the seeds that `draw` gives: places of two rows among those of the cluster that is split, by the number of
/// the split and of these rows.
fn split_each(
    rows: &Tensor,
    ks: &[usize],
    draw: &mut dyn FnMut(u64, usize) -> [usize; 2],
) -> Result<Vec<Clustering>> {
    let (points, mean) = Points::centred(rows)?;
    for k in ks {
        super::check_count(points.len(), *k)?;
    }
    let all: Vec<u32> = (0..points.len() as u32).collect();
    let centre = vec![[0.0; super::products::LANES]; points.stride];
    let inertia = points.inertia(&vec![0; all.len()], &centre);
    let mut leaves = vec![Leaf { rows: all, centre, inertia }];
    let mut iterations = 0;
    let mut found: Vec<Option<Clustering>> = vec![None; ks.len()];
    for k in 1..=ks.iter().copied().max().unwrap_or(0) {
        if k > 1 {
            let at = largest(&leaves);
            let seeds = draw(k as u64 - 2, leaves[at].rows.len());
            let (children, rounds) = halves(&points, &leaves[at].rows, seeds);
            iterations += rounds;
            leaves.splice(at..=at, children);
        }
        for (found, _) in found.iter_mut().zip(ks).filter(|(_, wanted)| **wanted == k) {
            *found = Some(clustering(&points, &leaves, iterations, &mean));
        }
    }
    Ok(found.into_iter().flatten().collect())
}

/// The leaf to split: the largest inertia, the leftmost of equals, of those with two rows.
fn largest(leaves: &[Leaf]) -> usize {
    let mut at = None;
    for (leaf, found) in leaves.iter().enumerate() {
        let larger = |best: usize| found.inertia > leaves[best].inertia;
        if found.rows.len() > 1 && at.is_none_or(larger) {
            at = Some(leaf);
        }
    }
    at.expect("fewer leaves than rows: one has two")
}

/// What the leaves are, from left to right.
fn clustering(points: &Points, leaves: &[Leaf], iterations: u64, mean: &[f64]) -> Clustering {
    let mut labels = vec![0; points.len()];
    for (label, leaf) in leaves.iter().enumerate() {
        for row in &leaf.rows {
            labels[*row as usize] = label as u32;
        }
    }
    let centres: Vec<Lanes> = leaves.iter().flat_map(|leaf| &leaf.centre).copied().collect();
    Clustering {
        inertia: points.inertia(&labels, &centres),
        centres: Some(unpadded(&centres, points.dimensions, mean)),
        labels,
        iterations,
    }
}

/// The two clusters of some rows, and how many rounds it took.
fn halves(points: &Points, rows: &[u32], seeds: [usize; 2]) -> ([Leaf; 2], u64) {
    let part = points.select(rows);
    let start = seeds.iter().flat_map(|row| part.row(*row)).copied().collect();
    let fitted = SPLIT.fit(&part, vec![start]).pop().expect("one start, one result");
    let distances = part.distances(&fitted.labels, &fitted.centres);
    let leaf = |side: u32| {
        let mut leaf = Leaf {
            rows: Vec::new(),
            centre: fitted.centres[side as usize * points.stride..][..points.stride].to_vec(),
            inertia: 0.0,
        };
        for ((row, label), distance) in rows.iter().zip(&fitted.labels).zip(&distances) {
            if *label == side {
                leaf.rows.push(*row);
                leaf.inertia += f64::from(*distance);
            }
        }
        leaf
    };
    ([leaf(0), leaf(1)], fitted.iterations)
}

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::*;

    #[test]
    fn far_groups_split_as_scikit_learn_splits_them() {
        let (arrays, numbers) = (golden::arrays(), golden::numbers());
        // Far from the origin 32 bits leave the inertia four digits.
        let cases: [(&str, &[usize], f64); 2] =
            [("bisecting", &[2, 3, 4, 6], 1e-4), ("near", &[2], 1e-6)];
        for (name, ks, tolerance) in cases {
            for k in ks.iter().copied() {
                let found = fit(&arrays[&format!("{name}.rows")], k, 0).unwrap();
                let labels = golden::labels(&arrays[&format!("{name}.labels.{k}")]);
                assert_eq!(golden::renamed(&found.labels), golden::renamed(&labels), "{name} {k}");
                golden::close(found.inertia, &numbers[format!("{name}.{k}")]["inertia"], tolerance);
            }
        }
    }

    /// From scikit-learn's own seeds, where splits depend on them: labels are its labels, left and right included.
    #[test]
    fn splits_from_given_seeds_are_scikit_learns() {
        let (arrays, numbers) = (golden::arrays(), golden::numbers());
        for name in ["kmeans", "ward"] {
            for k in [2, 3, 5, 8] {
                let seeds =
                    golden::labels(&arrays[&format!("{name}.split.seeds.{k}")].flatten(0, -1));
                let mut draw = |split: u64, rows: usize| {
                    let seeds = [2 * split, 2 * split + 1].map(|at| seeds[at as usize] as usize);
                    assert!(seeds.iter().all(|seed| *seed < rows));
                    seeds
                };
                let rows = &arrays[&format!("{name}.rows")];
                let found = split_each(rows, &[k], &mut draw).unwrap().pop().unwrap();
                let labels = golden::labels(&arrays[&format!("{name}.split.labels.{k}")]);
                assert_eq!(found.labels, labels, "{name} {k}");
                let expected = &numbers[format!("{name}.split.{k}")]["inertia"];
                golden::close(found.inertia, expected, 1e-6);
            }
        }
    }

    #[test]
    fn the_children_of_a_split_stand_where_their_parent_stood() {
        let rows = &golden::arrays()["bisecting.rows"];
        for k in 2..6 {
            let (few, many) =
                (fit(rows, k, 3).unwrap().labels, fit(rows, k + 1, 3).unwrap().labels);
            // Which of the few each of the many was part of: one of them twice in a row, none out of order.
            let parent = |child| {
                let row = many.iter().position(|label| *label == child).unwrap();
                few[row]
            };
            let parents: Vec<u32> = (0..=k as u32).map(parent).collect();
            assert!(parents.is_sorted(), "{parents:?}");
            assert!(many.iter().zip(&few).all(|(many, few)| parents[*many as usize] == *few));
        }
    }
}
