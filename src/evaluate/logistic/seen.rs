//! Which classes can be learned, and what a fit makes of rows: logits, ranks, shares.

use super::super::scores::{Ranks, judged};
use crate::error::{Error, Result};
use tch::{Kind, Tensor};

/// The classes that some images have; only these can be learned.
pub(super) struct Seen {
    /// Ascending.
    classes: Vec<u32>,
}

impl Seen {
    pub(super) fn new(labels: impl Iterator<Item = u32>) -> Result<Self> {
        let mut classes: Vec<u32> = labels.collect();
        classes.sort_unstable();
        classes.dedup();
        if classes.len() < 2 {
            return Err(Error::Data(format!(
                "the reference images to learn from have {} class, logistic regression needs at least 2",
                classes.len()
            )));
        }
        Ok(Self { classes })
    }

    pub(super) fn count(&self) -> i64 {
        self.classes.len() as i64
    }

    /// The place of each row's class, i64 `[n]`.
    pub(super) fn targets(&self, rows: &[usize], labels: &[u32]) -> Tensor {
        let place =
            |row: &usize| self.classes.partition_point(|class| *class < labels[*row]) as i64;
        Tensor::from_slice(&rows.iter().map(place).collect::<Vec<_>>())
    }

    /// Logits of all classes, f64 `[n, C]`.
    pub(super) fn logits(&self, h: &Tensor, weights: &Tensor, classes: usize) -> Tensor {
        let found = logits(h, weights);
        let places: Vec<i64> = self.classes.iter().map(|class| i64::from(*class)).collect();
        Tensor::full(
            [found.size()[0], classes as i64],
            f64::NEG_INFINITY,
            (Kind::Double, h.device()),
        )
        .index_copy_(1, &Tensor::from_slice(&places), &found)
    }
}

/// `W h + b` for every row, f64 `[n, C]`.
pub(super) fn logits(h: &Tensor, weights: &Tensor) -> Tensor {
    const ROWS: i64 = 4_096;
    let (images, dimensions) = (h.size()[0], h.size()[1]);
    let (slopes, bias) = (weights.narrow(1, 0, dimensions).tr(), weights.select(1, dimensions));
    let tiles: Vec<Tensor> = (0..images)
        .step_by(ROWS as usize)
        .map(|first| {
            let rows = h.narrow(0, first, ROWS.min(images - first)).to_kind(Kind::Double);
            rows.matmul(&slopes) + &bias
        })
        .collect();
    Tensor::cat(&tiles, 0)
}

pub(super) fn at(h: &Tensor, rows: &[usize]) -> Tensor {
    let rows: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
    h.index_select(0, &Tensor::from_slice(&rows))
}

pub(super) fn numbers(tensor: &Tensor) -> Vec<f64> {
    let mut values = vec![0.0; tensor.numel()];
    tensor.contiguous().copy_data(&mut values, tensor.numel());
    values
}

pub(super) fn rank_all(logits: &Tensor, labels: Vec<u32>, classes: usize) -> Ranks {
    let mut ranks = Ranks::none(classes, classes);
    for (row, label) in numbers(logits).chunks(classes).zip(labels) {
        ranks.push(judged(row, label as usize), label);
    }
    ranks
}

/// Share of images ranked right.
pub(super) fn share(ranks: &Ranks) -> f64 {
    ranks.ranks.iter().filter(|rank| **rank == 0).count() as f64 / ranks.ranks.len() as f64
}

/// Mean of that over the classes that occur.
pub(super) fn mean_share(ranks: &Ranks) -> f64 {
    let mut counts = vec![(0u32, 0u32); ranks.classes];
    for (rank, label) in ranks.ranks.iter().zip(&ranks.labels) {
        let count = &mut counts[*label as usize];
        count.0 += u32::from(*rank == 0);
        count.1 += 1;
    }
    let shares: Vec<f64> = counts
        .iter()
        .filter(|(_, all)| *all > 0)
        .map(|(right, all)| f64::from(*right) / f64::from(*all))
        .collect();
    shares.iter().sum::<f64>() / shares.len() as f64
}
