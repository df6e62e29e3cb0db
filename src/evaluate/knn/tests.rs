//! Promises of the classifier, the search and the sweep.

#![expect(clippy::float_cmp, reason = "exact where the arithmetic is")]

use super::super::features::tests::made;
use super::search::Tile;
use super::*;
use crate::random::{Purpose, Scope, Stream};
use tch::{Device, Kind, Tensor};

fn random(rows: usize, dimensions: usize, item: u64) -> Tensor {
    let mut stream = Stream::open(1, Purpose::Test, Scope::Item(item));
    let values: Vec<f32> = (0..rows * dimensions).map(|_| stream.normal() as f32).collect();
    Tensor::from_slice(&values).view([rows as i64, dimensions as i64])
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_kind(Kind::Double).flatten(0, -1).try_into().unwrap()
}

/// A search by cosine in tiles and parts of odd sizes.
fn search(queries: &Tensor, references: &Tensor, k: usize, tile: [usize; 4]) -> Neighbours {
    search_by(Distance::Cosine, queries, references, k, tile)
}

fn search_by(
    distance: Distance,
    queries: &Tensor,
    references: &Tensor,
    k: usize,
    [queries_at_once, references_at_once, part, group]: [usize; 4],
) -> Neighbours {
    let tile = Tile { queries: queries_at_once, references: references_at_once, part, group };
    let mut search = Search::tiled(queries, k, None, &[distance], tile).unwrap();
    search.add(references).unwrap();
    search.finish().unwrap().remove(0)
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
        let found = search(&queries, &references, k, [3, 64, 130, 5]);
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
    let whole = search(&queries, &references, 33, [9, 200, 200, 9]);
    for tile in [[1, 1, 1, 1], [2, 3, 7, 4], [4, 64, 100, 8], [9, 199, 199, 9], [64, 1_000, 77, 64]]
    {
        assert_eq!(search(&queries, &references, 33, tile), whole, "{tile:?}");
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
    let found = search(&same.narrow(0, 0, 2), &same, 4, [2, 100, 300, 2]);
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
        let knn = Knn { temperature, ..Knn::default() };
        let scores = knn.votes(&similarities, labels.into_iter(), 2);
        for (score, golden) in scores.iter().zip(golden) {
            let score = score * (0.9 / temperature).exp();
            assert!((score / golden - 1.0).abs() < 1e-6, "{score} {golden}");
        }
        assert_eq!(judged(&scores, 0), (0, 0));
    }
}

#[test]
fn ranks_are_those_of_a_double_loop() {
    let (queries, references) = (random(40, 5, 6), random(120, 5, 7));
    let query_labels: Vec<i64> = (0..40).map(|i| i % 9).collect();
    let reference_labels: Vec<i64> = (0..120).map(|i| (i * i) % 8).collect();
    for settings in [Knn { k: 11, ..Knn::default() }, Knn::npid(), Knn::nearest()] {
        let found = settings
            .evaluate(
                &made(queries.shallow_clone(), &query_labels),
                &made(references.shallow_clone(), &reference_labels),
            )
            .unwrap();
        assert_eq!((found.classes, found.depth), (9, settings.k.min(120)));
        for (query, label) in query_labels.iter().enumerate() {
            let mut scores: Vec<(usize, f64)> = (0..9).map(|class| (class, 0.0)).collect();
            for (row, similarity) in naive(&queries, &references, query).iter().take(settings.k) {
                let vote = (similarity / settings.temperature).exp();
                scores[reference_labels[*row] as usize].1 += vote;
            }
            scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let expected = scores.iter().position(|(class, _)| *class == *label as usize).unwrap();
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
    let ranks = Knn { k: 3, ..Knn::default() }.evaluate(&queries, &references).unwrap();
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

#[test]
fn euclidean_neighbours_and_votes_are_those_of_a_double_loop() {
    let (queries, references) = (random(23, 7, 11) + 30.0, random(211, 7, 12) * 1.5 + 30.0);
    let (query_labels, reference_labels): (Vec<i64>, Vec<i64>) =
        ((0..23).map(|i| i % 6).collect(), (0..211).map(|i| (i * i) % 6).collect());
    let (q, r) = (values(&queries), values(&references));
    let found = search_by(Distance::Euclidean, &queries, &references, 9, [4, 50, 99, 10]);
    let knn = Knn { k: 9, distance: Distance::Euclidean, ..Knn::default() };
    let sides = (made(queries, &query_labels), made(references, &reference_labels));
    let ranks = knn.evaluate(&sides.0, &sides.1).unwrap();
    for query in 0..23 {
        let distance = |row: usize| -> f64 {
            (0..7).map(|d| (q[query * 7 + d] - r[row * 7 + d]).powi(2)).sum::<f64>().sqrt()
        };
        let mut expected: Vec<(usize, f64)> = (0..211).map(|row| (row, distance(row))).collect();
        expected.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        let (rows, distances) = found.of(query);
        assert_eq!(rows, expected[..9].iter().map(|n| n.0).collect::<Vec<_>>());
        let mut scores = [0.0; 6];
        for (at, (row, distance)) in expected[..9].iter().enumerate() {
            assert!((f64::from(distances[at]) - distance).abs() < 1e-6);
            scores[reference_labels[*row] as usize] += 1.0 / (distance + 1e-5);
        }
        let best = (0..6).fold(0, |best, at| if scores[at] > scores[best] { at } else { best });
        assert_eq!(ranks.predicted[query] as usize, best);
    }
}

#[test]
fn references_may_come_in_parts() {
    let (queries, references) = (random(20, 9, 13), random(400, 9, 14));
    let distances = [Distance::Euclidean, Distance::Cosine];
    let whole = neighbours_by(&distances, &queries, &references, 40, false).unwrap();
    let mut search = Search::new(&queries, 40, None, &distances).unwrap();
    for (first, count) in [(0, 3), (3, 0), (3, 250), (253, 147)] {
        search.add(&references.narrow(0, first, count)).unwrap();
    }
    assert_eq!(search.finish().unwrap(), whole);
    // A set compared with itself, in parts: nobody finds itself.
    let mut itself = Search::new(&references, 5, Some(0), &[Distance::Euclidean]).unwrap();
    for first in (0..400).step_by(50) {
        itself.add(&references.narrow(0, first, 50)).unwrap();
    }
    let itself = itself.finish().unwrap().remove(0);
    assert!((0..400).all(|query| !itself.of(query).0.contains(&query)));
    // A part of a set compared with the whole finds what the whole finds.
    let mut some =
        Search::new(&references.narrow(0, 120, 30), 5, Some(120), &[Distance::Euclidean]).unwrap();
    some.add(&references).unwrap();
    let some = some.finish().unwrap().remove(0);
    assert!((0..30).all(|query| some.of(query) == itself.of(120 + query)));
    let mut short = Search::new(&references, 5, Some(0), &[Distance::Cosine]).unwrap();
    short.add(&references.narrow(0, 0, 399)).unwrap();
    assert!(matches!(short.finish(), Err(Error::Shape(_))));
}

#[test]
fn a_grid_gives_what_each_setting_gives_alone() {
    let (queries, references) = sides();
    let sweep = Sweep {
        k: vec![1, 7, 40, 500],
        temperature: vec![0.05, 0.5],
        distance: vec![Distance::Euclidean, Distance::Cosine],
        holdout: 0.0,
    };
    let found = sweep.evaluate(&queries, &references, 1).unwrap();
    assert_eq!((found.points.len(), &found.chosen), (12, &None));
    for point in &found.points {
        let alone = point.setting.evaluate(&queries, &references).unwrap();
        assert_eq!((&point.top1, &point.top5), (&alone.top(1), &alone.top5()));
        assert_eq!(point.held_out, None);
    }
    assert_eq!(found.points[0].top5, None, "one neighbour has no top-5");
    let distinct: std::collections::BTreeSet<u64> =
        found.points.iter().map(|point| point.top1.value.to_bits()).collect();
    assert!(distinct.len() > 3, "the settings differ: {distinct:?}");
}

/// Features in which a class is a direction and noise makes neighbours matter.
fn sides() -> (Features, Features) {
    let centres = random(8, 6, 20);
    let side = |count: i64, item| {
        let labels: Vec<i64> = (0..count).map(|i| i % 8).collect();
        let h = centres.index_select(0, &Tensor::from_slice(&labels));
        made(h + random(count as usize, 6, item) * 1.2, &labels)
    };
    (side(150, 21), side(300, 22))
}

#[test]
fn the_choice_is_made_without_the_queries() {
    let (queries, references) = sides();
    let sweep = Sweep { holdout: 0.25, ..Sweep::default() };
    let found = sweep.evaluate(&queries, &references, 3).unwrap();
    let chosen = found.chosen.unwrap();
    let held_out = |point: &Point| point.held_out.as_ref().unwrap().value;
    let best = found.points.iter().map(held_out).fold(0.0, f64::max);
    assert_eq!(held_out(&found.points[chosen.point]), best);
    assert!(found.points[..chosen.point].iter().all(|point| held_out(point) < best));
    assert_eq!(chosen.ranks.top(1), found.points[chosen.point].top1);
    assert_eq!(chosen.ranks.labels.len(), 150);
    // Other queries, even wrong ones, do not change the choice; another seed may.
    let wrong: Vec<i64> = (0..150).map(|i| (i + 1) % 8).collect();
    let other = made(queries.h.shallow_clone(), &wrong);
    let again = sweep.evaluate(&other, &references, 3).unwrap();
    assert_eq!(again.chosen.unwrap().point, chosen.point);
    let all: Vec<Vec<f64>> = (0..4)
        .map(|seed| sweep.evaluate(&queries, &references, seed).unwrap().points)
        .map(|points| points.iter().map(held_out).collect())
        .collect();
    assert!(all.iter().any(|values| *values != all[0]), "the seed draws the held-out part");
}

#[test]
fn a_grid_out_of_range_is_refused() {
    let (queries, references) = sides();
    let sweep = Sweep::default();
    let bad = [
        (Sweep { k: vec![], ..sweep.clone() }, "`k`"),
        (Sweep { k: vec![5, 0], ..sweep.clone() }, "neighbours"),
        (Sweep { temperature: vec![0.1, -1.0], ..sweep.clone() }, "temperature"),
        (Sweep { distance: vec![], ..sweep.clone() }, "`distance`"),
        (Sweep { holdout: 1.0, ..sweep.clone() }, "`holdout`"),
        (Sweep { holdout: f64::NAN, ..sweep.clone() }, "`holdout`"),
    ];
    for (bad, expected) in bad {
        let error = bad.evaluate(&queries, &references, 0).unwrap_err();
        assert!(
            matches!(error, Error::Recipe(_)) && error.to_string().contains(expected),
            "{error}"
        );
    }
    let few = Sweep { holdout: 1e-4, ..sweep };
    assert!(matches!(few.evaluate(&queries, &references, 0), Err(Error::Data(_))));
    assert!(matches!(Knn::evaluate_all(&[], &queries, &references), Err(Error::Recipe(_))));
    let huge = made(random(300, 6, 22) * 1e30, &[0; 300]);
    let euclidean = Knn { distance: Distance::Euclidean, ..Knn::default() };
    assert!(matches!(euclidean.evaluate(&queries, &huge), Err(Error::NonFinite(_))));
    assert!(Knn::default().evaluate(&queries, &huge).is_ok());
}
