//! Ward's agglomerative clustering, with scikit-learn's label order.

use super::Clustering;
use super::points::{Points, unpadded};
use super::products::{LANES, Lanes, exact_distances};
use crate::error::{Error, Result};
use rayon::prelude::*;
use tch::Tensor;

/// Most rows: their pairs, in f64, take 2 GiB.
pub(super) const MOST_ROWS: usize = 23_170;

/// Starts from single rows and merges the two clusters whose union adds least to the squares within (Ward 1963), until `k`
/// are left, as scikit-learn's `AgglomerativeClustering(linkage="ward")`: labels are its labels.
pub(super) fn fit(rows: &Tensor, k: usize) -> Result<Clustering> {
    let mut found = fit_each(rows, &[k])?;
    Ok(found.pop().expect("one number, one result"))
}

/// [`fit`] for several numbers of clusters: one tree, cut for each.
pub(super) fn fit_each(rows: &Tensor, ks: &[usize]) -> Result<Vec<Clustering>> {
    let points = Points::new(rows)?;
    let n = points.len();
    for k in ks {
        super::check_count(n, *k)?;
    }
    if n > MOST_ROWS {
        return Err(Error::Data(format!(
            "ward keeps the distances of all pairs: {n} rows would take {:.1} GB, {MOST_ROWS} fit; use fewer rows or \
             another algorithm, `k-means` or `bisecting`",
            (n * (n - 1) / 2 * 8) as f64 / 1e9
        )));
    }
    let tree: Vec<[usize; 2]> =
        merges(distances(&points), n).into_iter().map(|merge| merge.nodes).collect();
    let clustering = |k: &usize| {
        let labels = cut(&tree, n, *k);
        let centres = means(&points, &labels, *k);
        Clustering {
            inertia: points.inertia(&labels, &centres),
            centres: Some(unpadded(&centres, points.dimensions, &[0.0])),
            labels,
            iterations: 0,
        }
    };
    Ok(ks.iter().map(clustering).collect())
}

/// Euclidean distances of all pairs, those of row 0 first.
fn distances(points: &Points) -> Vec<f64> {
    let n = points.len();
    let mut condensed = vec![0.0; n * (n - 1) / 2];
    let mut rest = condensed.as_mut_slice();
    let mut parts = Vec::with_capacity(n);
    for row in 0..n {
        let (part, others) = rest.split_at_mut(n - 1 - row);
        parts.push((row, part));
        rest = others;
    }
    parts.into_par_iter().for_each(|(row, part)| {
        let others = &points.values[(row + 1) * points.stride..];
        exact_distances(points.row(row), others, part);
        for distance in part {
            *distance = distance.sqrt();
        }
    });
    condensed
}

/// Two nodes that become one.
#[derive(Clone, Copy, Debug)]
struct Merge {
    /// The lower first; node `n + i` is what merge `i` made.
    nodes: [usize; 2],
    height: f64,
}

/// The merges by height, from the Euclidean distances of all pairs, by chains of nearest neighbours (Murtagh 1983; Müllner
/// 2011).
///
/// Which of equal distances counts decides the tree, and among few grey levels many are equal. So chains begin at the
/// first cluster that is left, a neighbour gives way only to a nearer one, the one before in the chain first of all, a
/// union takes the higher of the two places, and the formula is that of Lance and Williams on distances that are not
/// squared: all as in `scipy.cluster.hierarchy.ward`, which scikit-learn calls.
fn merges(mut distances: Vec<f64>, n: usize) -> Vec<Merge> {
    let place = |one: usize, other: usize| {
        let (low, high) = (one.min(other), one.max(other));
        low * n - low * (low + 1) / 2 + high - low - 1
    };
    let mut sizes = vec![1.0f64; n];
    let mut left: Vec<usize> = (0..n).collect();
    let mut chain: Vec<usize> = Vec::new();
    let mut found = Vec::with_capacity(n - 1);
    while left.len() > 1 {
        if chain.is_empty() {
            chain.push(left[0]);
        }
        let (x, y, height) = loop {
            let x = chain[chain.len() - 1];
            let before = chain.len().checked_sub(2).map(|at| chain[at]);
            let mut nearest = before.map_or((x, f64::INFINITY), |y| (y, distances[place(x, y)]));
            for other in left.iter().filter(|other| **other != x) {
                let distance = distances[place(x, *other)];
                if distance < nearest.1 {
                    nearest = (*other, distance);
                }
            }
            if before == Some(nearest.0) {
                break (x, nearest.0, nearest.1);
            }
            chain.push(nearest.0);
        };
        chain.truncate(chain.len() - 2);
        let (x, y) = (x.min(y), x.max(y));
        left.remove(left.binary_search(&x).expect("it was left until now"));
        for other in left.iter().filter(|other| **other != y) {
            let share = 1.0 / (sizes[x] + sizes[y] + sizes[*other]);
            let (to_x, to_y) = (distances[place(*other, x)], distances[place(*other, y)]);
            distances[place(*other, y)] = ((sizes[*other] + sizes[x]) * share * to_x * to_x
                + (sizes[*other] + sizes[y]) * share * to_y * to_y
                - sizes[*other] * share * height * height)
                .sqrt();
        }
        sizes[y] += sizes[x];
        found.push(Merge { nodes: [x, y], height });
    }
    found.sort_by(|one, other| one.height.total_cmp(&other.height));
    // From a row of each part to the nodes that they have become.
    let mut parents: Vec<usize> = (0..2 * n - 1).collect();
    for (at, merge) in found.iter_mut().enumerate() {
        merge.nodes = merge.nodes.map(|row| {
            let mut node = row;
            while parents[node] != node {
                parents[node] = parents[parents[node]];
                node = parents[node];
            }
            node
        });
        merge.nodes.sort_unstable();
        for node in merge.nodes {
            parents[node] = n + at;
        }
    }
    found
}

/// Labels of the rows when the tree is cut into `k`: node `n + i` joins `tree[i]`, the last node is the root.
///
/// The nodes to keep lie in a binary heap, the latest merge on top; `k - 1` times it gives way to its two children, the
/// first pushed before it leaves, the second put in its place. A label is the position of the node in the heap.
fn cut(tree: &[[usize; 2]], n: usize, k: usize) -> Vec<u32> {
    let mut heap = vec![2 * n - 2];
    for _ in 1..k {
        let [first, second] = tree[heap[0] - n];
        heap.push(first);
        let mut at = heap.len() - 1;
        while at > 0 && heap[at] > heap[(at - 1) / 2] {
            heap.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
        heap[0] = second;
        at = 0;
        loop {
            let children = 2 * at + 1..heap.len().min(2 * at + 3);
            match children.max_by_key(|child| heap[*child]) {
                Some(child) if heap[child] > heap[at] => {
                    heap.swap(child, at);
                    at = child;
                }
                _ => break,
            }
        }
    }
    let mut labels = vec![0; n];
    for (label, node) in heap.into_iter().enumerate() {
        let mut below = vec![node];
        while let Some(node) = below.pop() {
            if node < n {
                labels[node] = label as u32;
            } else {
                below.extend(tree[node - n]);
            }
        }
    }
    labels
}

fn means(points: &Points, labels: &[u32], k: usize) -> Vec<Lanes> {
    let width = points.stride * LANES;
    let mut sums = vec![0.0f64; k * width];
    let mut counts = vec![0.0; k];
    for (row, label) in labels.iter().enumerate() {
        let sums = &mut sums[*label as usize * width..][..width];
        for (sum, value) in sums.iter_mut().zip(points.row(row).as_flattened()) {
            *sum += f64::from(*value);
        }
        counts[*label as usize] += 1.0;
    }
    let centres = sums.as_chunks::<LANES>().0.chunks(points.stride).zip(counts);
    centres
        .flat_map(|(row, count)| row.iter().map(move |sums| sums.map(|sum| (sum / count) as f32)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::*;

    #[test]
    fn labels_are_scikit_learns_also_among_equal_distances() {
        let (arrays, numbers) = (golden::arrays(), golden::numbers());
        for name in ["ward", "grey"] {
            for k in [2, 4, 6, 8] {
                let found = fit(&arrays[&format!("{name}.rows")], k).unwrap();
                let labels = golden::labels(&arrays[&format!("{name}.labels.{k}")]);
                assert_eq!(found.labels, labels, "{name} {k}");
                golden::close(found.inertia, &numbers[format!("{name}.{k}")]["inertia"], 1e-6);
            }
        }
    }

    #[test]
    fn heights_of_all_merges_are_scipys() {
        let arrays = golden::arrays();
        for name in ["ward", "grey"] {
            let points = Points::new(&arrays[&format!("{name}.rows")]).unwrap();
            let tree = merges(distances(&points), points.len());
            let heights: Vec<f64> = Vec::try_from(&arrays[&format!("{name}.heights")]).unwrap();
            assert_eq!(tree.len(), heights.len());
            for (merge, expected) in tree.iter().zip(heights) {
                let apart = (merge.height - expected).abs();
                assert!(apart <= 1e-6 * expected, "{name}: {}, expected {expected}", merge.height);
            }
        }
    }

    /// Appendix of the specification, made with scikit-learn.
    #[test]
    fn labels_and_heights_of_six_points_are_scikit_learns() {
        let rows: Vec<f32> =
            [0.0, 1.0, 3.0, 7.0, 8.0, 20.0].iter().flat_map(|x| [*x, 0.0]).collect();
        let rows = Tensor::from_slice(&rows).view([6, 2]);
        let points = Points::new(&rows).unwrap();
        let tree = merges(distances(&points), 6);
        for (merge, height) in tree.iter().zip([1.0, 1.0, 2.88675, 9.55336, 20.91411]) {
            assert!((merge.height - height).abs() < 5e-6, "{}", merge.height);
        }
        let labels = |k| fit(&rows, k).unwrap().labels;
        assert_eq!(labels(1), [0; 6]);
        assert_eq!(labels(2), [0, 0, 0, 0, 0, 1]);
        assert_eq!(labels(3), [0, 0, 0, 2, 2, 1]);
        assert_eq!(labels(4), [2, 2, 3, 0, 0, 1]);
        let three = fit(&rows, 3).unwrap();
        assert!((three.inertia - 31.0 / 6.0).abs() < 1e-6, "{}", three.inertia);
        let centres: Vec<f32> = vec![4.0 / 3.0, 0.0, 20.0, 0.0, 7.5, 0.0];
        assert_eq!(three.centres.unwrap(), centres);
    }

    #[test]
    fn too_many_rows_are_refused_with_the_number_that_fits() {
        let rows = Tensor::zeros([23_171, 1], (tch::Kind::Float, tch::Device::Cpu));
        let message = fit(&rows, 2).unwrap_err().to_string();
        assert!(message.contains("23170 fit"), "{message}");
    }
}
