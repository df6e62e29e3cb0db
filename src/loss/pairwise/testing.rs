//! What the tests of the losses over pairs share.

use super::*;
use crate::loss::semi_hard::Empty;
use crate::random::{Purpose, Scope, Stream};

pub(crate) fn normal(item: u64, rows: i64, width: i64) -> Tensor {
    let mut stream = Stream::open(17, Purpose::Test, Scope::Item(item));
    let values: Vec<f64> = (0..rows * width).map(|_| stream.normal()).collect();
    Tensor::from_slice(&values).view([rows, width])
}

pub(crate) fn rows_of(tensor: &Tensor) -> Vec<Vec<f64>> {
    Vec::<Vec<f64>>::try_from(tensor.detach().to_kind(Kind::Double)).unwrap()
}

pub(crate) fn gradient_of(rows: &Tensor, loss: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let leaf = rows.detach().copy().set_requires_grad(true);
    loss(&leaf).backward();
    leaf.grad()
}

/// Holds a gradient to central differences of a scalar function of the rows.
pub(crate) fn slopes_agree(value: impl Fn(&[Vec<f64>]) -> f64, rows: &Tensor, gradient: &Tensor) {
    let step = 1e-6;
    let rows = rows_of(rows);
    for (i, k) in (0..rows.len()).flat_map(|i| (0..rows[0].len()).map(move |k| (i, k))) {
        let moved = |by: f64| {
            let mut moved = rows.clone();
            moved[i][k] += by;
            value(&moved)
        };
        let slope = (moved(step) - moved(-step)) / (2.0 * step);
        let found = gradient.double_value(&[i as i64, k as i64]);
        assert!((found - slope).abs() < 1e-8, "[{i}, {k}]: {found} against {slope}");
    }
}

/// The definitions of the two losses, loop by loop: the loss and the share of anchors with a semi-hard negative.
pub(crate) struct Naive {
    pub(crate) negatives: Negatives,
    pub(crate) reduction: NegativeReduction,
    pub(crate) term: Term,
    pub(crate) semi_hard: Option<SemiHard>,
}

impl Naive {
    pub(crate) fn evaluate(&self, rows: &[Vec<f64>]) -> (f64, f64) {
        let (all, n) = (rows.len(), rows.len() / 2);
        let score = |i: usize, j: usize| {
            let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
            let length = |i: usize| dot(&rows[i], &rows[i]).sqrt();
            dot(&rows[i], &rows[j]) / length(i) / length(j)
        };
        let (mut total, mut anchors, mut found) = (0.0, 0, 0);
        for i in 0..all {
            let partner = (i + n) % all;
            let positive = score(i, partner);
            let mut chosen: Vec<f64> = (0..all)
                .filter(|j| *j % n != i % n)
                .filter(|j| self.negatives == Negatives::BothViews || j / n != i / n)
                .map(|j| score(i, j))
                .collect();
            if let Some(mining) = self.semi_hard {
                chosen.sort_by(|a, b| b.total_cmp(a));
                let inside = |s: &&f64| **s < positive && **s > positive - mining.margin;
                let closest = chosen.iter().find(inside).copied();
                found += usize::from(closest.is_some());
                chosen = match (closest, mining.empty) {
                    (Some(closest), _) => vec![closest],
                    (None, Empty::Hardest) => chosen[..1].to_vec(),
                    (None, Empty::Skip) => vec![],
                };
            }
            let mut push: f64 = chosen.iter().map(|s| self.term_of(*s, positive)).sum();
            if self.reduction == NegativeReduction::Mean && !chosen.is_empty() {
                push /= chosen.len() as f64;
            }
            total += push;
            match self.term {
                Term::Logistic { temperature } => {
                    total += (1.0 + (-positive / temperature).exp()).ln();
                    anchors += 1;
                }
                Term::Hinge { .. } => anchors += usize::from(!chosen.is_empty()),
            }
        }
        (total / anchors.max(1) as f64, found as f64 / all as f64)
    }

    fn term_of(&self, score: f64, positive: f64) -> f64 {
        match self.term {
            Term::Logistic { temperature } => (1.0 + (score / temperature).exp()).ln(),
            Term::Hinge { margin } => (score - positive + margin).max(0.0),
        }
    }
}

/// Every way to choose negatives: which, how they are reduced, and with or without mining of a margin.
pub(crate) fn choices(
    margin: f64,
) -> impl Iterator<Item = (Negatives, NegativeReduction, Option<SemiHard>)> {
    let mined = |empty| Some(SemiHard { margin, empty });
    let minings = [None, mined(Empty::Skip), mined(Empty::Hardest)];
    [Negatives::OneView, Negatives::BothViews].into_iter().flat_map(move |negatives| {
        [NegativeReduction::Mean, NegativeReduction::Sum].into_iter().flat_map(move |reduction| {
            minings.into_iter().map(move |mining| (negatives, reduction, mining))
        })
    })
}

/// Two images of which every row has its partner at cosine 0.8 and the other image's other view at 0.3.
pub(crate) fn published() -> Tensor {
    let rest = f64::sqrt(1.0 - 0.73);
    let axes = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0];
    let views = [0.8, 0.3, rest, 0.0, 0.3, 0.8, 0.0, rest];
    Tensor::from_slice(&[axes, views].concat()).view([4, 4])
}
