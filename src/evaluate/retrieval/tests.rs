//! Promises of retrieval.

use super::super::features::tests::made;
use super::*;
use crate::evaluate::Knn;
use serde_json::Value;
use tch::Tensor;

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/retrieval.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn side(golden: &Value, rows: &str, labels: &str) -> Features {
    let rows: Vec<Vec<f32>> = serde_json::from_value(golden[rows].clone()).unwrap();
    let labels: Vec<i64> = serde_json::from_value(golden[labels].clone()).unwrap();
    made(Tensor::from_slice2(&rows), &labels)
}

/// `tests/golden/retrieval.py`: neighbours and average precision of scikit-learn.
#[test]
fn all_scores_are_those_of_scikit_learn() {
    let golden = golden();
    let queries = side(&golden, "queries", "query_labels");
    let references = side(&golden, "references", "reference_labels");
    for (name, queries, same) in [("other", &queries, false), ("same", &references, true)] {
        let settings = Retrieval { same, ..Retrieval::default() };
        let found = settings.evaluate(queries, &references, 1).unwrap();
        let expected = &golden[name];
        for at in &found.at {
            let k = at.k.to_string();
            for (measure, kind) in [(&at.recall, "recall"), (&at.precision, "precision")] {
                let expected = expected[kind][&k].as_f64().unwrap();
                assert!((measure.value - expected).abs() < 1e-12, "{name} {kind}@{k}");
                let [low, high] = measure.interval_95.unwrap();
                assert!(low <= expected && expected <= high && low < high);
            }
        }
        assert_eq!(found.at.iter().map(|at| at.k).collect::<Vec<_>>(), [1, 2, 4, 8]);
        let map = found.map_at_r.unwrap();
        assert!((map.value - expected["map_at_r"].as_f64().unwrap()).abs() < 1e-12, "{name}");
        assert!(map.value > 0.1 && map.value < 0.9);
        assert_eq!(found.without_match, 0);
    }
}

#[test]
fn recall_at_1_is_the_accuracy_of_the_nearest_neighbour() {
    let golden = golden();
    let queries = side(&golden, "queries", "query_labels");
    let references = side(&golden, "references", "reference_labels");
    let found = Retrieval::default().evaluate(&queries, &references, 1).unwrap();
    let nearest = Knn::nearest().evaluate(&queries, &references).unwrap().top(1);
    assert_eq!(found.at[0].recall, nearest);
    assert!((found.at[0].precision.value - nearest.value).abs() < 1e-15);
}

#[test]
fn average_precision_at_r_by_hand() {
    let of = |hits: &[u8], relevant| {
        average_precision_at_r(&hits.iter().map(|hit| *hit == 1).collect::<Vec<_>>(), relevant)
    };
    assert!((of(&[1, 0, 1, 1], 4) - (1.0 + 2.0 / 3.0 + 3.0 / 4.0) / 4.0).abs() < 1e-15);
    assert!((of(&[0, 1, 1], 2) - 0.25).abs() < 1e-15, "only the first R count");
    assert!((of(&[1, 1, 0], 2) - 1.0).abs() < 1e-15);
    assert!(of(&[0, 0], 0).abs() < 1e-15);
}

#[test]
fn a_query_without_its_like_is_missed_and_told() {
    let rows = |rows: &[f32]| Tensor::from_slice(rows).view([-1, 2]);
    let queries = made(rows(&[1.0, 0.0, 0.0, 1.0]), &[0, 7]);
    let references = made(rows(&[1.0, 0.1, 0.1, 1.0]), &[0, 1]);
    let settings = Retrieval { k: vec![1, 2], ..Retrieval::default() };
    let found = settings.evaluate(&queries, &references, 1).unwrap();
    assert_eq!(found.without_match, 1);
    assert!((found.at[1].recall.value - 0.5).abs() < 1e-15);
    assert!((found.map_at_r.unwrap().value - 0.5).abs() < 1e-15);
    let alone = Retrieval { same: true, ..settings };
    let set = made(rows(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]), &[0, 1, 2]);
    let found = alone.evaluate(&set, &set, 1).unwrap();
    assert_eq!(found.without_match, 3);
}

#[test]
fn what_cannot_be_judged_is_an_error() {
    let golden = golden();
    let queries = side(&golden, "queries", "query_labels");
    let references = side(&golden, "references", "reference_labels");
    let fails =
        |settings: Retrieval, q: &Features, r: &Features| settings.evaluate(q, r, 0).unwrap_err();
    let ok = Retrieval::default;
    assert!(matches!(
        fails(Retrieval { k: vec![], ..ok() }, &queries, &references),
        Error::Recipe(_)
    ));
    assert!(matches!(
        fails(Retrieval { k: vec![0], ..ok() }, &queries, &references),
        Error::Recipe(_)
    ));
    let far = fails(Retrieval { k: vec![91], ..ok() }, &queries, &references).to_string();
    assert!(far.contains("R@91") && far.contains("found 90"), "{far}");
    let not_same = Retrieval { same: true, ..ok() };
    assert!(matches!(fails(not_same, &queries, &references), Error::Shape(_)));
    let unlabelled = made(queries.h.shallow_clone(), &[-1; 40]);
    assert!(matches!(fails(ok(), &unlabelled, &references), Error::Data(_)));
    let narrow = made(queries.h.narrow(1, 0, 3), &queries.labels());
    assert!(matches!(fails(ok(), &narrow, &references), Error::Shape(_)));
    let broken = made(&queries.h / 0.0, &queries.labels());
    assert!(matches!(fails(ok(), &broken, &references), Error::NonFinite(_)));
}
