//! What a map keeps of the neighbourhoods of the features, in numbers: maps are never compared by eye alone.

use super::Point;
use super::pca::Centred;
use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
use crate::shape;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Settings of the numbers beside a map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Judge {
    /// Neighbours whose places are compared, at least 1 and below half of the images.
    pub trust_k: usize,
    /// Neighbours that vote for a class, at least 1.
    pub knn_k: usize,
    /// Most images that are asked about, at least 1; more are drawn from by the seed. Their neighbours are looked for among
    /// all.
    pub images: usize,
}

impl Default for Judge {
    /// 5 neighbours as scikit-learn's `trustworthiness`, 10 votes, 10,000 images.
    fn default() -> Self {
        Self { trust_k: 5, knn_k: 10, images: 10_000 }
    }
}

/// What a map keeps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// How far neighbours on the map are neighbours in the features (Venna and Kaski 2001): 1 − the mean of by how much their
    /// ranks exceed k, 0 to 1.
    pub trustworthiness: f64,
    /// The same the other way round: how far neighbours in the features stay neighbours on the map.
    pub continuity: f64,
    /// Share of labelled images whose class is that of most of their nearest on the map, themselves left out.
    pub knn_map: Option<f64>,
    /// The same by their nearest in the features.
    pub knn_features: Option<f64>,
    /// Images asked about.
    pub images: usize,
}

/// Memory for products of some rows with all.
const TILE_BYTES: usize = 128 << 20;

/// Rows that take no more than this in f64 are held so.
const HELD_BYTES: usize = 512 << 20;

impl Judge {
    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting, its range and what was found.
    pub fn check(&self) -> Result<()> {
        let settings = [("trust_k", self.trust_k), ("knn_k", self.knn_k), ("images", self.images)];
        match settings.iter().find(|(_, value)| *value == 0) {
            None => Ok(()),
            Some((key, _)) => {
                Err(Error::Recipe(format!("`judge.{key}` must be at least 1, found `0`")))
            }
        }
    }

    /// Compares a map with the rows `[N, D]` it was made of; `labels` are −1 where there are none. Distances are Euclidean
    /// and in f64, ties go to the lower row. Of few images no more than fewer than half are neighbours.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a setting out of range; [`Error::Shape`] if rows, points and labels differ in number;
    /// [`Error::Data`] for fewer than three images.
    pub fn compare(
        &self,
        rows: &Tensor,
        points: &[Point],
        labels: &[i64],
        seed: u64,
    ) -> Result<Quality> {
        self.check()?;
        let count = points.len();
        shape::check("rows of a map", rows, &[count as i64, -1])?;
        if labels.len() != count {
            let found = labels.len();
            return Err(Error::Shape(format!("`labels` must be {count}, found {found}")));
        }
        if count < 3 {
            return Err(Error::Data(format!("a map needs at least 3 images, found {count}")));
        }
        let k = self.trust_k.min((count - 1) / 2);
        let votes = self.knn_k.min(count - 1);
        let mut asked = Stream::open(seed, Purpose::Evaluation, Scope::Item(1)).permutation(count);
        asked.truncate(self.images);
        asked.sort_unstable();
        let features = Products::of(rows);
        let tile = (TILE_BYTES / (8 * count)).clamp(1, 1_024);
        let mut sums = [0u64; 4];
        let mut labelled = 0u64;
        for asked in asked.chunks(tile) {
            let products = features.with(asked);
            let lengths = &features.lengths;
            let of_rows = products.par_chunks(count).zip(asked);
            let found: Vec<[u64; 5]> = of_rows
                .map(|(products, row)| {
                    let own = lengths[*row];
                    let squares = products.iter().zip(lengths);
                    let features: Vec<f64> =
                        squares.map(|(product, length)| own + length - 2.0 * product).collect();
                    let map = squares_on_map(points, points[*row]);
                    let wanted = k.max(votes);
                    let [near, on_map] = [&features, &map].map(|it| nearest(it, *row, wanted));
                    let right = |nearest: &[u32]| {
                        let label = labels[*row];
                        let vote = majority(nearest[..votes].iter().map(|it| labels[*it as usize]));
                        u64::from(label >= 0 && vote == Some(label))
                    };
                    [
                        excess(&features, *row, &on_map[..k]),
                        excess(&map, *row, &near[..k]),
                        right(&on_map),
                        right(&near),
                        u64::from(labels[*row] >= 0),
                    ]
                })
                .collect();
            for found in found {
                for (sum, found) in sums.iter_mut().zip(found) {
                    *sum += found;
                }
                labelled += found[4];
            }
        }
        let (n, asked, k) = (count as f64, asked.len() as f64, k as f64);
        let kept =
            |excess: u64| 1.0 - 2.0 * excess as f64 / (asked * k * (2.0 * n - 3.0 * k - 1.0));
        let share = |right: u64| (labelled > 0).then(|| right as f64 / labelled as f64);
        Ok(Quality {
            trustworthiness: kept(sums[0]),
            continuity: kept(sums[1]),
            knn_map: share(sums[2]),
            knn_features: share(sums[3]),
            images: asked as usize,
        })
    }
}

/// Squared distances of a place to all points of a map.
fn squares_on_map(points: &[Point], from: Point) -> Vec<f64> {
    let apart = |point: &Point, axis: usize| f64::from(point[axis]) - f64::from(from[axis]);
    points.iter().map(|point| apart(point, 0).powi(2) + apart(point, 1).powi(2)).collect()
}

/// Products of rows less their mean, in f64.
struct Products {
    rows: Centred,
    /// All rows, where there is room for them.
    whole: Option<Tensor>,
    /// Product of each row with itself.
    lengths: Vec<f64>,
}

impl Products {
    fn of(rows: &Tensor) -> Self {
        let fits = 8 * rows.numel() <= HELD_BYTES;
        let rows = Centred::new(rows);
        let mut lengths = Vec::new();
        rows.tiles(|tile| {
            lengths.extend(numbers(&tile.square().sum_dim_intlist(1, false, Kind::Double)));
        });
        let whole = fits.then(|| rows.tile(0, lengths.len() as i64));
        Self { rows, whole, lengths }
    }

    /// Products of some rows with all, row by row.
    fn with(&self, asked: &[usize]) -> Vec<f64> {
        let at = Tensor::from_slice(&asked.iter().map(|row| *row as i64).collect::<Vec<_>>());
        let some = self.rows.at(&at);
        if let Some(whole) = &self.whole {
            return numbers(&some.matmul(&whole.tr()));
        }
        let mut parts = Vec::new();
        self.rows.tiles(|tile| parts.push(some.matmul(&tile.tr())));
        numbers(&Tensor::cat(&parts, 1))
    }
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    let mut values = vec![0.0; tensor.numel()];
    tensor.contiguous().copy_data(&mut values, tensor.numel());
    values
}

/// The `k` rows of least distance beside `row` itself, nearest first; of equally far ones the lower first.
fn nearest(squares: &[f64], row: usize, k: usize) -> Vec<u32> {
    let mut found: Vec<(f64, u32)> = Vec::with_capacity(k + 1);
    let mut reach = f64::INFINITY;
    for (other, square) in squares.iter().enumerate() {
        if (*square < reach || found.len() < k) && other != row {
            let place = found.partition_point(|(nearer, _)| nearer <= square);
            found.insert(place, (*square, other as u32));
            found.truncate(k);
            if found.len() == k {
                reach = found[k - 1].0;
            }
        }
    }
    found.into_iter().map(|(_, other)| other).collect()
}

/// Sum of by how much the ranks of some rows, counted from 1, exceed their number; of equally far rows the lower comes first.
fn excess(squares: &[f64], row: usize, chosen: &[u32]) -> u64 {
    let mut sum = 0;
    for other in chosen {
        let (at, own) = (*other as usize, squares[*other as usize]);
        let before = squares[..at].iter().filter(|square| **square <= own).count();
        let behind = squares[at + 1..].iter().filter(|square| **square < own).count();
        // The row itself is not counted.
        let itself = if row < at { squares[row] <= own } else { squares[row] < own };
        let rank = 1 + before + behind - usize::from(itself);
        sum += rank.saturating_sub(chosen.len()) as u64;
    }
    sum
}

/// The label most often among those there are; of equals the lowest.
fn majority(labels: impl Iterator<Item = i64>) -> Option<i64> {
    let mut labels: Vec<i64> = labels.filter(|label| *label >= 0).collect();
    labels.sort_unstable();
    let runs = labels.chunk_by(|a, b| a == b);
    runs.fold(None, |best: Option<(usize, i64)>, run| match best {
        Some((most, _)) if most >= run.len() => best,
        _ => Some((run.len(), run[0])),
    })
    .map(|(_, label)| label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plane(points: &[Point]) -> Tensor {
        Tensor::from_slice(points.as_flattened()).view([-1, 2])
    }

    use serde_json::Value;

    fn golden() -> (Tensor, Vec<Point>, Vec<i64>, Value) {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/map.json");
        let golden: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let rows: Vec<Vec<f32>> = serde_json::from_value(golden["features"].clone()).unwrap();
        let width = rows[0].len() as i64;
        let rows = Tensor::from_slice(&rows.concat()).view([-1, width]);
        let points = serde_json::from_value(golden["map"].clone()).unwrap();
        let labels = serde_json::from_value(golden["labels"].clone()).unwrap();
        (rows, points, labels, golden)
    }

    #[test]
    fn trustworthiness_and_votes_are_those_of_scikit_learn() {
        let (rows, points, labels, golden) = golden();
        for case in golden["cases"].as_array().unwrap() {
            let k = case["k"].as_u64().unwrap() as usize;
            let judge = Judge { trust_k: k, knn_k: k, images: 10_000 };
            let found = judge.compare(&rows, &points, &labels, 0).unwrap();
            for (name, found) in [
                ("trustworthiness", found.trustworthiness),
                ("continuity", found.continuity),
                ("knn_map", found.knn_map.unwrap()),
                ("knn_features", found.knn_features.unwrap()),
            ] {
                let expected = case[name].as_f64().unwrap();
                assert!((found - expected).abs() < 1e-9, "{name}, k {k}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn a_sample_is_about_the_whole_and_a_copy_is_perfect() {
        let (rows, points, labels, _) = golden();
        let all = Judge::default().compare(&rows, &points, &labels, 1).unwrap();
        let some = Judge { images: 60, ..Judge::default() };
        let some = some.compare(&rows, &points, &labels, 1).unwrap();
        assert_eq!(some.images, 60);
        assert!((some.trustworthiness - all.trustworthiness).abs() < 0.1, "{some:?} {all:?}");
        let copy = Judge::default().compare(&plane(&points), &points, &labels, 1).unwrap();
        assert_eq!((copy.trustworthiness, copy.continuity), (1.0, 1.0));
        assert_eq!(copy.knn_map, copy.knn_features);
    }

    #[test]
    fn without_labels_nothing_is_said_of_classes_and_few_images_are_enough() {
        let points = [[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]];
        let found = Judge::default().compare(&plane(&points), &points, &[-1; 3], 0).unwrap();
        assert_eq!((found.trustworthiness, found.knn_map, found.images), (1.0, None, 3));
        let fails = |judge: Judge, points: &[Point]| {
            judge.compare(&plane(points), points, &vec![0; points.len()], 0).unwrap_err()
        };
        assert!(matches!(fails(Judge::default(), &points[..2]), Error::Data(_)));
        let none = Judge { knn_k: 0, ..Judge::default() };
        assert_eq!(fails(none, &points).to_string(), "`judge.knn_k` must be at least 1, found `0`");
    }
}
