//! From scores per class to top-1, top-5 and mean per-class accuracy.

use super::Features;
use super::interval::{bootstrap, wilson};
use super::record::Measure;
use crate::error::{Error, Result};

/// Where the true class of each image came out among all classes, best first. Every image is in it exactly once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// Number of classes that score above the true one, for each image.
    pub ranks: Vec<u32>,
    /// The true class of each image.
    pub labels: Vec<u32>,
    /// Number of classes ranked.
    pub classes: usize,
    /// Number of classes that can have a score of their own at once: all of them, or the neighbours asked for. Below 5
    /// a top-5 would mean nothing.
    pub depth: usize,
}

impl Ranks {
    /// Share of images whose true class is among the `k` best, with its Wilson interval.
    pub fn top(&self, k: u32) -> Measure {
        let correct = self.ranks.iter().filter(|rank| **rank < k).count();
        let total = self.ranks.len();
        Measure { value: correct as f64 / total as f64, interval_95: Some(wilson(correct, total)) }
    }

    /// Top-5; none where it would be meaningless: up to five classes, or fewer than five neighbours.
    pub fn top5(&self) -> Option<Measure> {
        (self.classes > 5 && self.depth >= 5).then(|| self.top(5))
    }

    /// Mean over the classes that occur of the share of their images ranked first, with its bootstrap interval.
    pub fn mean_per_class(&self, seed: u64) -> Measure {
        let all: Vec<usize> = (0..self.ranks.len()).collect();
        let mut counts = vec![[0u32; 2]; self.classes];
        let mut of = |images: &[usize]| {
            counts.fill([0; 2]);
            for image in images {
                let count = &mut counts[self.labels[*image] as usize];
                count[0] += u32::from(self.ranks[*image] == 0);
                count[1] += 1;
            }
            let present = counts.iter().filter(|count| count[1] > 0);
            let (sum, number) = present.fold((0.0, 0), |(sum, number), [correct, total]| {
                (sum + f64::from(*correct) / f64::from(*total), number + 1)
            });
            sum / f64::from(number)
        };
        let value = of(&all);
        Measure { value, interval_95: Some(bootstrap(all.len(), seed, of)) }
    }
}

/// Number of classes that score above the true one; of equal scores the lower class is first.
pub(super) fn rank<T: PartialOrd + Copy>(scores: &[T], label: usize) -> u32 {
    let own = scores[label];
    let above = scores
        .iter()
        .enumerate()
        .filter(|(class, score)| **score > own || (**score == own && *class < label));
    above.count() as u32
}

/// The labels of both sides and the number of classes: 1 + the largest label of either, so that a class that one side
/// lacks (a subset) neither shifts nor breaks the count.
pub(super) fn labels(
    queries: &Features,
    references: &Features,
) -> Result<(Vec<u32>, Vec<u32>, usize)> {
    let queries = labels_of("query", queries)?;
    let references = labels_of("reference", references)?;
    let largest = queries.iter().chain(&references).max().expect("neither side is empty");
    let classes = *largest as usize + 1;
    Ok((queries, references, classes))
}

fn labels_of(side: &str, features: &Features) -> Result<Vec<u32>> {
    features.check()?;
    let labels = features.labels();
    if labels.is_empty() {
        return Err(Error::Data(format!("there are no {side} images to evaluate")));
    }
    let missing = labels.iter().filter(|label| **label < 0).count();
    if missing > 0 {
        return Err(Error::Data(format!(
            "{missing} of {} {side} images have no label; accuracy needs a labelled split",
            labels.len()
        )));
    }
    labels
        .iter()
        .map(|label| {
            u32::try_from(*label)
                .map_err(|_| Error::Data(format!("{side} label {label} is too large")))
        })
        .collect()
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact where the arithmetic is")]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_rank_the_lower_class_first() {
        let scores = [1.0, 3.0, 3.0, 0.0, 1.0];
        let ranks: Vec<u32> = (0..5).map(|label| rank(&scores, label)).collect();
        assert_eq!(ranks, [2, 0, 1, 4, 3]);
    }

    fn ranks(ranks: &[u32], labels: &[u32], classes: usize, depth: usize) -> Ranks {
        Ranks { ranks: ranks.to_vec(), labels: labels.to_vec(), classes, depth }
    }

    #[test]
    fn top_k_counts_each_image_once() {
        let six = ranks(&[0, 1, 4, 5, 0], &[0, 0, 1, 2, 5], 6, 6);
        assert_eq!(six.top(1).value, 0.4);
        assert_eq!(six.top5().unwrap().value, 0.8);
        assert_eq!(six.top(1).interval_95, Some(wilson(2, 5)));
    }

    #[test]
    fn there_is_no_top_5_of_five_classes_or_four_neighbours() {
        assert!(ranks(&[0], &[0], 5, 5).top5().is_none());
        assert!(ranks(&[0], &[0], 10, 4).top5().is_none());
        assert!(ranks(&[0], &[0], 10, 5).top5().is_some());
    }

    #[test]
    fn mean_per_class_weighs_classes_not_images() {
        // Class 0: 3 of 4 right; class 1: 0 of 1; class 2 does not occur.
        let found = ranks(&[0, 0, 0, 1, 2], &[0, 0, 0, 0, 1], 3, 3).mean_per_class(1);
        assert_eq!(found.value, 0.375);
        let [low, high] = found.interval_95.unwrap();
        assert!(low < 0.375 && 0.375 < high && high <= 1.0, "{low} {high}");
        assert_eq!(ranks(&[0, 0], &[0, 1], 2, 2).mean_per_class(1).interval_95, Some([1.0, 1.0]));
    }
}
