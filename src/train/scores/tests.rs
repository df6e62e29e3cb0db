//! Held to a naive loop in f64.

use super::*;
use crate::method::compared::{Compared, Excluded, Negatives, Scores};
use crate::random::{Purpose, Scope, Stream};
use crate::rows::unit_rows;
use serde_json::Value;
use std::fs;
use tch::{Device, Kind, Tensor};

fn normal(seed: u64, rows: i64, d: i64) -> Tensor {
    let mut stream = Stream::open(seed, Purpose::Test, Scope::Item(0));
    let values: Vec<f64> = (0..rows * d).map(|_| stream.normal()).collect();
    Tensor::from_slice(&values).view([rows, d])
}

fn lists(rows: &Tensor) -> Vec<Vec<f64>> {
    (0..rows.size()[0]).map(|row| Vec::try_from(rows.get(row)).unwrap()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The five numbers of a query, the hardest of its negatives, and all of them.
type Plain = ([f64; 5], f64, Vec<f64>);

/// A query, its key, and its negatives.
type Query<'a> = (Vec<f64>, Vec<f64>, Vec<&'a Vec<f64>>);

/// What one query comes to, in plain loops.
fn naive(q: &[f64], k: &[f64], negatives: &[&Vec<f64>], t: f64) -> Plain {
    let scores: Vec<f64> = negatives.iter().map(|n| dot(q, n)).collect();
    let count = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / count;
    let variance = scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let exp = scores.iter().map(|s| (s / t).exp()).sum::<f64>() / count;
    let positive = dot(q, k);
    let hardest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    ([mean, variance, positive, exp, (positive / t).exp()], hardest, scores)
}

fn close(found: f64, expected: f64) {
    let bound = 1e-9 * expected.abs().max(1.0);
    assert!((found - expected).abs() < bound, "{found} instead of {expected}");
}

/// Holds statistics to the loops of these queries, keys, and negatives of each query.
fn hold(found: &Statistics, queries: &[Query<'_>], t: f64) {
    assert_eq!(found.queries, queries.len());
    let each: Vec<_> = queries.iter().map(|(q, k, n)| naive(q, k, n, t)).collect();
    for (found, (expected, ..)) in found.each.iter().zip(&each) {
        found.iter().zip(expected).for_each(|(found, expected)| close(*found, *expected));
    }
    let mean = |of: &dyn Fn(&Plain) -> f64| each.iter().map(of).sum::<f64>() / each.len() as f64;
    close(found.neg_mean, mean(&|row| row.0[0]));
    close(found.neg_var, mean(&|row| row.0[1]));
    close(found.pos_mean, mean(&|row| row.0[2]));
    close(found.exp_neg_mean, mean(&|row| row.0[3]));
    close(found.exp_pos_mean, mean(&|row| row.0[4]));
    close(found.neg_hardest, mean(&|row| row.1));
    close(found.negatives, mean(&|row| row.2.len() as f64));
    let mut all: Vec<f64> = each.iter().flat_map(|row| row.2.clone()).collect();
    if all.len() <= 256 * each.len() {
        all.sort_by(f64::total_cmp);
        let place = 0.25 * (all.len() - 1) as f64;
        let (low, high) = (all[place.floor() as usize], all[place.ceil() as usize]);
        let expected = low + place.fract() * (high - low);
        assert!((found.neg_quantiles[1] - expected).abs() < 1e-6);
    }
}

#[test]
fn a_queue_in_parts_longer_than_a_tile_is_what_plain_loops_give() {
    let (q, k) = (unit_rows(&normal(1, 6, 3)), unit_rows(&normal(2, 6, 3)));
    let queue = unit_rows(&normal(3, 140_000, 3));
    let compared = |part: i64| Compared {
        queries: q.narrow(0, 3 * part, 3),
        positives: k.narrow(0, 3 * part, 3),
        negatives: Negatives::Shared(queue.narrow(0, 70_000 * part, 70_000), Excluded::Nothing),
        to_unit: false,
    };
    // Two queries of the second part, and its columns in two tiles.
    let found = Statistics::of(&[compared(0), compared(1)], 5, Some(0.07));
    let (q, k, queue) = (lists(&q), lists(&k), lists(&queue));
    let query = |i: usize| {
        let part = i / 3;
        (q[i].clone(), k[i].clone(), queue[70_000 * part..70_000 * (part + 1)].iter().collect())
    };
    hold(&found, &(0..5).map(query).collect::<Vec<_>>(), 0.07);
    // An even sample of a uniform spread: cosines in three dimensions are uniform in [-1, 1].
    for (found, share) in found.neg_quantiles.iter().zip(QUANTILES) {
        assert!((found - (2.0 * share - 1.0)).abs() < 0.08, "{found} at {share}");
    }
}

#[test]
fn in_a_batch_all_rows_but_the_pair_are_negatives() {
    let z = normal(4, 12, 5) * 3.0;
    let scores = Scores::in_batch(&z, 0.5, Excluded::OwnPair);
    let found = Statistics::of(&scores.plain, 4, scores.temperature);
    let rows = lists(&unit_rows(&z));
    let query = |i: usize, keeps: &dyn Fn(usize) -> bool| {
        let others = (0..12).filter(|row| keeps(*row)).map(|row| &rows[row]).collect();
        (rows[i].clone(), rows[i + 6].clone(), others)
    };
    let pair: Vec<_> = (0..4).map(|i| query(i, &|row| row % 6 != i)).collect();
    hold(&found, &pair, 0.5);
    assert!((found.negatives - 10.0).abs() < 1e-12, "2N - 2");

    let labels = [0i64, 1, 0, 2, 1, 1];
    let scores = Scores::in_batch(&z, 0.5, Excluded::SameLabel(Tensor::from_slice(&labels)));
    let found = Statistics::of(&scores.plain, 64, scores.temperature);
    let others: Vec<_> = (0..6).map(|i| query(i, &|row| labels[row % 6] != labels[i])).collect();
    hold(&found, &others, 0.5);
    assert_eq!(found.each.len(), 6, "a batch smaller than asked for");

    // A batch of one image has a positive and no negative.
    let alone = Scores::in_batch(&normal(5, 2, 5), 0.5, Excluded::OwnPair);
    let found = Statistics::of(&alone.plain, 64, Some(0.5));
    assert!(found.pos_mean.is_finite() && found.neg_mean.is_nan() && found.neg_var.is_nan());
    assert!(found.neg_hardest.is_nan() && found.exp_neg_mean.is_nan());
    assert!(found.negatives.abs() < 1e-12);
}

#[test]
fn excluded_columns_and_drawn_rows_are_what_plain_loops_give() {
    let (q, k, bank) = (normal(6, 3, 4) * 0.3, normal(7, 3, 4) * 0.3, normal(8, 9, 4) * 0.3);
    let (q_rows, k_rows, rows) = (lists(&q), lists(&k), lists(&bank));
    let compared = |negatives| Compared {
        queries: q.shallow_clone(),
        positives: k.shallow_clone(),
        negatives,
        to_unit: false,
    };
    // One column may stand there twice.
    let excluded = [[0i64, 4], [7, 7], [8, 1]];
    let tensor = Tensor::from_slice2(&excluded);
    let shared = Negatives::Shared(bank.shallow_clone(), Excluded::Columns(tensor));
    let found = Statistics::of(&[compared(shared)], 64, Some(0.1));
    let query = |i: usize, keeps: &dyn Fn(usize) -> bool| {
        let others = (0..9).filter(|row| keeps(*row)).map(|row| &rows[row]).collect();
        (q_rows[i].clone(), k_rows[i].clone(), others)
    };
    let expected: Vec<_> =
        (0..3).map(|i| query(i, &|row| !excluded[i].contains(&(row as i64)))).collect();
    hold(&found, &expected, 0.1);

    let drawn = [[0i64, 4, 4, 2], [1, 7, 3, 0], [2, 8, 1, 5]];
    let indices = Tensor::from_slice2(&drawn);
    let own = Negatives::Drawn(bank.shallow_clone(), indices);
    let found = Statistics::of(&[compared(own)], 2, Some(0.1));
    let expected: Vec<_> = (0..2)
        .map(|i| {
            let others = drawn[i][1..].iter().map(|row| &rows[*row as usize]).collect();
            (q_rows[i].clone(), k_rows[i].clone(), others)
        })
        .collect();
    hold(&found, &expected, 0.1);
}

#[test]
fn pairs_have_positives_alone_and_a_cold_temperature_stays_exact() {
    let (p, z) = (normal(9, 5, 4), normal(10, 5, 4));
    let cosines = Tensor::from_slice(&[0.1, 0.2, 0.3, 0.4, 0.5]);
    let scores = Scores::pairs(&p, &z, Some(&cosines));
    let found = Statistics::of(&scores.transformed, 3, None);
    assert!((found.pos_mean - 0.2).abs() < 1e-12 && found.neg_mean.is_nan());
    let found = Statistics::of(&scores.plain, 3, None);
    let (p, z) = (lists(&unit_rows(&p)), lists(&unit_rows(&z)));
    close(found.pos_mean, (0..3).map(|i| dot(&p[i], &z[i])).sum::<f64>() / 3.0);
    assert!(found.exp_pos_mean.is_nan(), "no temperature, no exponential");

    // exp(1/0.01) is beyond f32.
    let q = unit_rows(&normal(11, 2, 3)).to_kind(Kind::Float);
    let queue = Tensor::cat(&[&q, &unit_rows(&normal(12, 30, 3)).to_kind(Kind::Float)], 0);
    let compared = Compared {
        queries: q.shallow_clone(),
        positives: q.shallow_clone(),
        negatives: Negatives::Shared(queue, Excluded::Nothing),
        to_unit: false,
    };
    let found = Statistics::of(&[compared], 64, Some(0.01));
    assert!((found.exp_pos_mean / 100f64.exp() - 1.0).abs() < 1e-3, "{}", found.exp_pos_mean);
    assert!(found.exp_neg_mean > 100f64.exp() / 33.0 && found.exp_neg_mean.is_finite());
}

fn objective(seed: u64) -> Objective {
    let z = normal(seed, 8, 4).to_kind(Kind::Float);
    Objective {
        loss: 0.1 * seed as f64,
        rows_gradient: Tensor::zeros([1], (Kind::Float, Device::Cpu)),
        projections: z.shallow_clone(),
        scalars: Vec::new(),
        carried: Vec::new(),
        scores: Some(Scores::in_batch(&z, 0.1, Excluded::OwnPair)),
    }
}

fn rows(run: &RunFolder) -> Vec<Value> {
    let text = fs::read_to_string(run.join(FILE)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Records the steps of this range, from 1, all but one that was left out.
fn record(run: &RunFolder, first: u64, last: u64, config: &ScoreConfig) {
    let mut recorder = Recorder::open(config, run, first - 1, 3).unwrap().unwrap();
    for step in (first..=last).filter(|step| *step != 5) {
        let taken = Taken { step, loss: 0.1 * step as f64, learning_rate: 0.5 };
        recorder.record(taken, &objective(step)).unwrap();
    }
}

#[test]
fn rows_and_arrays_of_a_killed_run_are_those_of_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let config = ScoreConfig { queries: 3, raw: true, ..ScoreConfig::default() };
    let runs = ["whole", "killed"].map(|name| RunFolder::open(&folder.path().join(name)).unwrap());
    record(&runs[0], 1, 8, &config);
    for (first, last) in [(1, 2), (2, 7), (4, 4), (4, 8), (6, 8)] {
        record(&runs[1], first, last, &config);
    }
    let [whole, killed] = [&runs[0], &runs[1]].map(rows);
    assert_eq!(whole, killed);
    let steps: Vec<u64> = whole.iter().map(|row| row["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 3, 4, 6, 7, 8]);
    assert_eq!((&whole[0]["negatives"], &whole[0]["queries"]), (&6.into(), &3.into()));
    for epoch in 1..=3 {
        let file = |run: &RunFolder| fs::read(run.join(&format!("scores/score_00{epoch}.npy")));
        assert_eq!(file(&runs[0]).unwrap(), file(&runs[1]).unwrap(), "epoch {epoch}");
    }
    // The second epoch: steps 4, 5 (left out) and 6; columns as published.
    let file = fs::File::open(runs[0].join("scores/score_002.npy")).unwrap();
    let array = npyz::NpyFile::new(file).unwrap();
    assert_eq!(array.shape(), [3, 3, 5]);
    let values: Vec<f32> = array.into_vec().unwrap();
    assert!(values[15..30].iter().all(|value| value.is_nan()));
    let scores = Statistics::of(&objective(6).scores.unwrap().plain, 3, Some(0.1));
    for (found, expected) in values[30..].iter().zip(scores.each.as_flattened()) {
        assert!(
            (f64::from(*found) - expected).abs() <= 1e-6 * expected.abs(),
            "{found} {expected}"
        );
    }
    let third = fs::read(runs[0].join("scores/score_003.npy")).unwrap();
    assert_eq!(third.len(), 128 + 2 * 3 * 5 * 4, "an epoch under way");
}

#[test]
fn both_sides_of_a_transformation_and_none_where_nothing_is_compared() {
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::open(folder.path()).unwrap();
    let mut objective = objective(1);
    let mut scores = objective.scores.take().unwrap();
    scores.transformed = Scores::in_batch(&normal(20, 8, 4), 0.1, Excluded::OwnPair).plain;
    objective.scores = Some(scores);
    let taken = |step| Taken { step, loss: 1.0, learning_rate: 0.1 };
    for (step, stage) in [(1, Stage::PostFt), (2, Stage::PreFt), (3, Stage::Both)] {
        let config = ScoreConfig { stage, ..ScoreConfig::default() };
        let mut recorder = Recorder::open(&config, &run, step - 1, 10).unwrap().unwrap();
        recorder.record(taken(step), &objective).unwrap();
    }
    let rows = rows(&run);
    let (post, pre, both) = (&rows[0], &rows[1], &rows[2]);
    assert_ne!(post["neg_mean"], pre["neg_mean"]);
    assert_eq!(both["neg_mean"], post["neg_mean"]);
    assert_eq!(both["pre_ft_neg_mean"], pre["neg_mean"]);
    assert!(post.get("pre_ft_neg_mean").is_none());

    objective.scores = None;
    let mut recorder = Recorder::open(&ScoreConfig::default(), &run, 3, 10).unwrap().unwrap();
    recorder.record(taken(4), &objective).unwrap();
    assert_eq!(self::rows(&run).len(), 3);
    let off = ScoreConfig { enabled: false, ..ScoreConfig::default() };
    assert!(Recorder::open(&off, &run, 2, 10).unwrap().is_none());
    assert_eq!(self::rows(&run).len(), 2, "what will be taken again is cut off all the same");
    let none = ScoreConfig { queries: 0, ..ScoreConfig::default() };
    assert!(none.check().unwrap_err().to_string().contains("`train.scores.queries` must"));
}
