//! Weighted k-nearest-neighbour classification, and the neighbour search that galleries share with it.

use super::Features;
use super::scores::{Ranks, labels, rank};
use crate::error::{Error, Result};
use crate::shape;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use tch::{Device, Kind, Tensor};

/// Version of the protocol; numbers of different versions do not compare.
pub const VERSION: u32 = 1;

/// Settings of the weighted k-NN classifier of Wu et al. 2018 (arXiv:1805.01978, section 3.4).
///
/// With unit-norm features, `s_i` the cosine similarity of a query and reference `i` with label `y_i`, and `𝒩` the `k`
/// largest of them: `score(c) = Σ_{i∈𝒩, y_i=c} exp(s_i / temperature)`; classes rank by score. The references are
/// features of the training split under the evaluation transform.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knn {
    /// Number of neighbours, at least 1; more than there are references means all of them.
    pub k: usize,
    /// Temperature of the votes, above 0.
    pub temperature: f64,
}

impl Default for Knn {
    /// Protocol `knn`: 200 neighbours, temperature 0.1.
    fn default() -> Self {
        Self { k: 200, temperature: 0.1 }
    }
}

impl Knn {
    /// Protocol `knn-npid`: 200 neighbours, temperature 0.07.
    pub fn npid() -> Self {
        Self { temperature: 0.07, ..Self::default() }
    }

    /// Protocol `knn-1`: the label of the nearest neighbour.
    pub fn nearest() -> Self {
        Self { k: 1, ..Self::default() }
    }

    /// Classifies every query by its neighbours among the references. A tie in similarity goes to the lower reference
    /// row, a tie in score to the lower class.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a setting out of range; [`Error::Data`] if a side is empty or lacks labels;
    /// [`Error::Shape`] if the two sides differ in dimensions; [`Error::NonFinite`] for features that are no numbers.
    pub fn evaluate(&self, queries: &Features, references: &Features) -> Result<Ranks> {
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            let found = self.temperature;
            return Err(Error::Recipe(format!("temperature must be above 0, found `{found}`")));
        }
        let (query_labels, reference_labels, classes) = labels(queries, references)?;
        let found = neighbours(&queries.h, &references.h, self.k, false)?;
        let ranks = (0..query_labels.len())
            .into_par_iter()
            .map(|query| {
                let (rows, similarities) = found.of(query);
                let labels = rows.iter().map(|row| reference_labels[*row] as usize);
                let scores = votes(similarities, labels, self.temperature as f32, classes);
                rank(&scores, query_labels[query] as usize)
            })
            .collect();
        Ok(Ranks { ranks, labels: query_labels, classes, depth: found.k })
    }
}

/// Scores of all classes from similarities (best first) and labels of the neighbours, up to the factor
/// `exp(−s_max / temperature)`, which changes no ranking and keeps every number in range.
fn votes(
    similarities: &[f32],
    labels: impl Iterator<Item = usize>,
    temperature: f32,
    classes: usize,
) -> Vec<f64> {
    let mut scores = vec![0.0; classes];
    for (similarity, label) in similarities.iter().zip(labels) {
        scores[label] += f64::from(((similarity - similarities[0]) / temperature).exp());
    }
    scores
}

/// The nearest references of each query, nearest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbours {
    /// Number of neighbours of each query.
    pub k: usize,
    rows: Vec<usize>,
    similarities: Vec<f32>,
}

impl Neighbours {
    /// Rows of the references nearest to a query, and their cosine similarities, both `[k]`.
    pub fn of(&self, query: usize) -> (&[usize], &[f32]) {
        let range = query * self.k..(query + 1) * self.k;
        (&self.rows[range.clone()], &self.similarities[range])
    }
}

/// References to look up in one matrix product, and queries to look them up for: 16 MB of similarities at a time.
const TILE: (usize, usize) = (512, 8_192);

/// Candidates kept beyond `k`. Those at the edge may differ by less than the rounding of a matrix product, which
/// depends on the tile, the threads and the processor; exact similarities then decide among more than `k`.
const SPARE: usize = 32;

/// Finds for each query `[Q, D]` the `k` references `[N, D]` of largest cosine similarity.
///
/// Similarities are scalar products of f32 unit vectors, summed in f64 in a fixed order and rounded to f32 once, so
/// neither tile size nor thread count decides a tie; ties go to the lower row. At most `N` neighbours are returned.
/// With `exclude_same`, for a set compared with itself, query `i` does not find reference `i`, and at most `N − 1` are
/// returned. Beside the two inputs memory holds one copy of each and a tile.
///
/// # Errors
/// [`Error::Shape`] if dimensions do not fit; [`Error::Recipe`] if `k` is 0; [`Error::Data`] if there is nothing to
/// find; [`Error::NonFinite`] for features that are no numbers.
pub fn neighbours(
    queries: &Tensor,
    references: &Tensor,
    k: usize,
    exclude_same: bool,
) -> Result<Neighbours> {
    search(queries, references, k, exclude_same, TILE)
}

fn search(
    queries: &Tensor,
    references: &Tensor,
    k: usize,
    exclude_same: bool,
    (query_tile, reference_tile): (usize, usize),
) -> Result<Neighbours> {
    shape::check("query features", queries, &[-1, -1])?;
    let rows = if exclude_same { queries.size()[0] } else { -1 };
    shape::check("reference features", references, &[rows, queries.size()[1]])?;
    let queries = Unit::new("query", queries)?;
    let references = Unit::new("reference", references)?;
    let available = references.len - usize::from(exclude_same && references.len > 0);
    if available == 0 {
        return Err(Error::Data("there are no reference images to find neighbours in".to_owned()));
    }
    if k == 0 {
        return Err(Error::Recipe("the number of neighbours must be at least 1".to_owned()));
    }
    let k = k.min(available);
    let mut found = Neighbours {
        k,
        rows: Vec::with_capacity(k * queries.len),
        similarities: Vec::with_capacity(k * queries.len),
    };
    let mut products = Vec::new();
    for first_query in (0..queries.len).step_by(query_tile) {
        let tile = queries.tensor(first_query, query_tile);
        let count = tile.size()[0] as usize;
        let mut best: Vec<Best> = (first_query..first_query + count)
            .map(|query| Best::new(k + SPARE, exclude_same.then_some(query)))
            .collect();
        for first in (0..references.len).step_by(reference_tile) {
            let product = tile.matmul(&references.tensor(first, reference_tile).tr());
            let width = product.size()[1] as usize;
            products.resize(count * width, 0.0f32);
            product.copy_data(&mut products, count * width);
            best.par_iter_mut()
                .zip(products.par_chunks(width))
                .for_each(|(best, similarities)| best.offer(similarities, first));
        }
        let nearest: Vec<Vec<Candidate>> = best
            .into_par_iter()
            .enumerate()
            .map(|(offset, best)| best.nearest(queries.row(first_query + offset), &references, k))
            .collect();
        for candidate in nearest.into_iter().flatten() {
            found.rows.push(candidate.row);
            found.similarities.push(candidate.similarity);
        }
    }
    Ok(found)
}

/// Rows of unit length in host memory.
struct Unit {
    values: Vec<f32>,
    len: usize,
    dimensions: usize,
}

impl Unit {
    /// Copies rows and divides each by its norm, or by 1e-12 if that is larger.
    fn new(side: &str, rows: &Tensor) -> Result<Self> {
        let (len, dimensions) = (rows.size()[0] as usize, rows.size()[1] as usize);
        if dimensions == 0 {
            return Err(Error::Shape(format!("{side} features have no dimensions")));
        }
        let mut values = vec![0.0; len * dimensions];
        let rows = rows.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
        rows.copy_data(&mut values, len * dimensions);
        let finite = values.par_chunks_mut(dimensions).all(|row| {
            let norm = dot(row, row).sqrt();
            let divisor = norm.max(1e-12);
            for value in row {
                *value = (f64::from(*value) / divisor) as f32;
            }
            norm.is_finite()
        });
        if !finite {
            return Err(Error::NonFinite(format!(
                "the {side} features hold values that are infinite or not a number: the network \
                 diverged or its weights are damaged"
            )));
        }
        Ok(Self { values, len, dimensions })
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.dimensions..(row + 1) * self.dimensions]
    }

    /// Up to `count` rows from `first`, f32 `[n, D]`.
    fn tensor(&self, first: usize, count: usize) -> Tensor {
        let last = self.len.min(first + count);
        let values = &self.values[first * self.dimensions..last * self.dimensions];
        Tensor::from_slice(values).view([-1, self.dimensions as i64])
    }
}

/// The scalar product in f64, summed in an order that depends on nothing but the length.
fn dot(left: &[f32], right: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut lanes = [0.0f64; LANES];
    let (left, right) = (left.chunks(LANES), right.chunks(LANES));
    for (left, right) in left.zip(right) {
        for (lane, (left, right)) in lanes.iter_mut().zip(left.iter().zip(right)) {
            *lane += f64::from(*left) * f64::from(*right);
        }
    }
    lanes.iter().sum()
}

#[derive(Clone, Copy)]
struct Candidate {
    similarity: f32,
    row: usize,
}

/// Most similar first, of equal ones the lower row.
fn nearest_first(left: &Candidate, right: &Candidate) -> Ordering {
    let similarity = right.similarity.partial_cmp(&left.similarity);
    similarity.expect("products of unit vectors are numbers").then(left.row.cmp(&right.row))
}

/// The most similar references seen so far.
struct Best {
    limit: usize,
    excluded: Option<usize>,
    /// At most twice `limit`, in no order.
    kept: Vec<Candidate>,
    /// Only what lies above can still be among the best: `limit` others, all of lower rows, do not lie below.
    floor: f32,
}

impl Best {
    fn new(limit: usize, excluded: Option<usize>) -> Self {
        Self { limit, excluded, kept: Vec::new(), floor: f32::NEG_INFINITY }
    }

    /// Takes similarities to the references from row `first` on; rows must come in ascending order.
    fn offer(&mut self, similarities: &[f32], first: usize) {
        const RUN: usize = 32;
        for (run, similarities) in similarities.chunks(RUN).enumerate() {
            // Almost always false once the floor has risen, and fast to find out.
            let above = similarities.iter().map(|similarity| u32::from(*similarity > self.floor));
            if above.sum::<u32>() > 0 {
                self.take(similarities, first + run * RUN);
            }
        }
    }

    fn take(&mut self, similarities: &[f32], first: usize) {
        for (row, similarity) in (first..).zip(similarities) {
            if *similarity > self.floor && self.excluded != Some(row) {
                self.kept.push(Candidate { similarity: *similarity, row });
                if self.kept.len() == 2 * self.limit {
                    self.kept.select_nth_unstable_by(self.limit - 1, nearest_first);
                    self.kept.truncate(self.limit);
                    self.floor = self.kept[self.limit - 1].similarity;
                }
            }
        }
    }

    /// The `k` nearest by exact similarity.
    fn nearest(mut self, query: &[f32], references: &Unit, k: usize) -> Vec<Candidate> {
        if self.kept.len() > self.limit {
            self.kept.select_nth_unstable_by(self.limit - 1, nearest_first);
            self.kept.truncate(self.limit);
        }
        for candidate in &mut self.kept {
            candidate.similarity = dot(query, references.row(candidate.row)) as f32;
        }
        self.kept.sort_unstable_by(nearest_first);
        self.kept.truncate(k);
        self.kept
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact where the arithmetic is")]
mod tests {
    use super::super::features::tests::made;
    use super::*;
    use crate::random::{Purpose, Scope, Stream};

    fn random(rows: usize, dimensions: usize, item: u64) -> Tensor {
        let mut stream = Stream::open(1, Purpose::Test, Scope::Item(item));
        let values: Vec<f32> = (0..rows * dimensions).map(|_| stream.normal() as f32).collect();
        Tensor::from_slice(&values).view([rows as i64, dimensions as i64])
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        tensor.to_kind(Kind::Double).flatten(0, -1).try_into().unwrap()
    }

    /// Every reference by f64 cosine similarity in f32 steps, nearest first, ties by row.
    fn naive(queries: &Tensor, references: &Tensor, query: usize) -> Vec<(usize, f64)> {
        let dimensions = queries.size()[1] as usize;
        let unit = |tensor: &Tensor, row: usize| -> Vec<f64> {
            let row = &values(tensor)[row * dimensions..(row + 1) * dimensions];
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
            row.iter().map(|x| x / norm).collect()
        };
        let query = unit(queries, query);
        let mut all: Vec<(usize, f64)> = (0..references.size()[0] as usize)
            .map(|row| {
                let reference = unit(references, row);
                (row, query.iter().zip(reference).map(|(q, r)| q * r).sum())
            })
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all
    }

    #[test]
    fn neighbours_are_those_of_a_double_loop() {
        let (queries, references) = (random(7, 19, 1), random(301, 19, 2));
        for k in [1, 5, 200, 301, 900] {
            let found = search(&queries, &references, k, false, (3, 64)).unwrap();
            assert_eq!(found.k, k.min(301));
            for query in 0..7 {
                let expected = naive(&queries, &references, query);
                let (rows, similarities) = found.of(query);
                assert_eq!(rows, expected[..found.k].iter().map(|n| n.0).collect::<Vec<_>>());
                for (found, expected) in similarities.iter().zip(&expected) {
                    assert!((f64::from(*found) - expected.1).abs() < 2e-7);
                }
            }
        }
    }

    #[test]
    fn equal_references_come_in_row_order_whatever_the_tile() {
        // 40 rows, each five times over, so that every edge of a tile and of k falls between equals.
        let distinct = random(40, 13, 3);
        let order: Vec<i64> = (0..200).map(|row| (row * 7) % 40).collect();
        let references = distinct.index_select(0, &Tensor::from_slice(&order));
        let queries = random(9, 13, 4);
        let whole = search(&queries, &references, 33, false, (9, 200)).unwrap();
        for tile in [(1, 1), (2, 3), (4, 64), (9, 199), (64, 1_000)] {
            assert_eq!(search(&queries, &references, 33, false, tile).unwrap(), whole, "{tile:?}");
        }
        for query in 0..9 {
            let (rows, similarities) = whole.of(query);
            for pair in 0..32 {
                let tied = similarities[pair] == similarities[pair + 1];
                assert!(similarities[pair] >= similarities[pair + 1]);
                assert!(!tied || rows[pair] < rows[pair + 1]);
            }
            // Six whole groups of equals fit before the cut through the seventh.
            assert_eq!(similarities.iter().filter(|s| **s == similarities[0]).count(), 5);
            let cut = order[rows[30]];
            let lowest: Vec<usize> = (0..200).filter(|row| order[*row] == cut).take(3).collect();
            assert_eq!(rows[30..], lowest);
        }
    }

    #[test]
    fn a_collapsed_network_still_gets_an_answer() {
        let same = Tensor::full([500, 8], 0.3, (Kind::Float, Device::Cpu));
        let found = search(&same.narrow(0, 0, 2), &same, 4, false, (2, 100)).unwrap();
        assert_eq!(found.of(1).0, [0, 1, 2, 3]);
        let zero = Tensor::zeros([3, 8], (Kind::Float, Device::Cpu));
        assert_eq!(neighbours(&zero, &same, 1, false).unwrap().of(0), (&[0][..], &[0.0][..]));
    }

    #[test]
    fn a_row_does_not_find_itself_when_excluded() {
        let set = random(50, 6, 5);
        let itself = neighbours(&set, &set, 50, false).unwrap();
        let others = neighbours(&set, &set, 50, true).unwrap();
        assert_eq!(others.k, 49);
        for query in 0..50 {
            assert_eq!(itself.of(query).0[0], query);
            assert_eq!(others.of(query).0, &itself.of(query).0[1..]);
        }
    }

    #[test]
    fn votes_are_the_golden_ones() {
        let similarities = [0.9, 0.8, 0.8, 0.7];
        let labels = [0, 1, 1, 0];
        for (temperature, golden) in
            [(0.07f64, [405_544.86, 183_821.16]), (0.1, [9_199.717, 5_961.916])]
        {
            let scores = votes(&similarities, labels.into_iter(), temperature as f32, 2);
            for (score, golden) in scores.iter().zip(golden) {
                let score = score * (0.9 / temperature).exp();
                assert!((score / golden - 1.0).abs() < 1e-6, "{score} {golden}");
            }
            assert_eq!(rank(&scores, 0), 0);
        }
    }

    #[test]
    fn ranks_are_those_of_a_double_loop() {
        let (queries, references) = (random(40, 5, 6), random(120, 5, 7));
        let query_labels: Vec<i64> = (0..40).map(|i| i % 9).collect();
        let reference_labels: Vec<i64> = (0..120).map(|i| (i * i) % 8).collect();
        for settings in [Knn { k: 11, temperature: 0.1 }, Knn::npid(), Knn::nearest()] {
            let found = settings
                .evaluate(
                    &made(queries.shallow_clone(), &query_labels),
                    &made(references.shallow_clone(), &reference_labels),
                )
                .unwrap();
            assert_eq!((found.classes, found.depth), (9, settings.k.min(120)));
            for (query, label) in query_labels.iter().enumerate() {
                let mut scores: Vec<(usize, f64)> = (0..9).map(|class| (class, 0.0)).collect();
                for (row, similarity) in naive(&queries, &references, query).iter().take(settings.k)
                {
                    let vote = (similarity / settings.temperature).exp();
                    scores[reference_labels[*row] as usize].1 += vote;
                }
                scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                let expected =
                    scores.iter().position(|(class, _)| *class == *label as usize).unwrap();
                assert_eq!(found.ranks[query] as usize, expected, "query {query}, {settings:?}");
            }
        }
    }

    #[test]
    fn one_neighbour_is_retrieval_at_one() {
        let (queries, references) = (random(60, 4, 8), random(90, 4, 9));
        let (a, b): (Vec<i64>, Vec<i64>) =
            ((0..60).map(|i| i % 3).collect(), (0..90).map(|i| i % 3).collect());
        let found = neighbours(&queries, &references, 1, false).unwrap();
        let hits = (0..60).filter(|query| b[found.of(*query).0[0]] == a[*query]).count();
        let ranks = Knn::nearest().evaluate(&made(queries, &a), &made(references, &b)).unwrap();
        assert_eq!(ranks.top(1).value, hits as f64 / 60.0);
        assert!(hits > 0 && hits < 60);
    }

    #[test]
    fn a_tie_in_votes_goes_to_the_lower_class() {
        let rows = |rows: &[f32]| Tensor::from_slice(rows).view([-1, 2]);
        let references = made(rows(&[1.0, 0.0, 0.0, 1.0, 1.0, 0.0]), &[2, 0, 1]);
        let queries = made(rows(&[2.0, 0.0, 5.0, 0.0]), &[1, 2]);
        let ranks = Knn { k: 3, temperature: 0.1 }.evaluate(&queries, &references).unwrap();
        assert_eq!(ranks.ranks, [0, 1]);
        let nearest = Knn::nearest().evaluate(&queries, &references).unwrap();
        assert_eq!(nearest.ranks[1], 0, "of equal references the first counts");
    }

    #[test]
    fn what_cannot_be_judged_is_an_error() {
        let ok = || made(random(4, 3, 10), &[0, 1, 2, 3]);
        let fails = |knn: Knn, q: &Features, r: &Features| knn.evaluate(q, r).unwrap_err();
        let knn = Knn::default();
        let unlabelled = made(random(4, 3, 10), &[0, -1, 2, 3]);
        let message = fails(knn, &unlabelled, &ok()).to_string();
        assert!(message.contains("1 of 4 query images"), "{message}");
        assert!(matches!(fails(knn, &ok(), &made(random(0, 3, 1), &[])), Error::Data(_)));
        assert!(matches!(fails(knn, &ok(), &made(random(4, 2, 1), &[0; 4])), Error::Shape(_)));
        assert!(matches!(fails(Knn { k: 0, ..knn }, &ok(), &ok()), Error::Recipe(_)));
        let hot = Knn { temperature: 0.0, ..knn };
        assert!(matches!(fails(hot, &ok(), &ok()), Error::Recipe(_)));
        let broken = made(random(4, 3, 10) / 0.0, &[0; 4]);
        assert!(matches!(fails(knn, &ok(), &broken), Error::NonFinite(_)));
    }
}
