//! From scores per class to top-1, top-5 and mean per-class accuracy.

use super::Features;
use super::interval::{bootstrap, wilson};
use super::record::Measure;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Where the true class of each image came out among all classes, best first. Every image is in it exactly once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// Number of classes that score above the true one, for each image.
    pub ranks: Vec<u32>,
    /// The true class of each image.
    pub labels: Vec<u32>,
    /// The class ranked first for each image; of equal scores the lower class.
    pub predicted: Vec<u32>,
    /// Number of classes ranked.
    pub classes: usize,
    /// Number of classes that can have a score of their own at once: all of them, or the neighbours asked for. Below 5
    /// a top-5 would mean nothing.
    pub depth: usize,
}

/// How often the images of one class are ranked right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassAccuracy {
    /// The class.
    pub class: u32,
    /// Its images whose class is ranked first.
    pub correct: usize,
    /// Its images.
    pub images: usize,
    /// Share of the images that are right with its Wilson interval; none for a class without images.
    pub accuracy: Option<Measure>,
}

impl Ranks {
    /// Ranks of no image yet.
    pub(super) fn none(classes: usize, depth: usize) -> Self {
        Self { ranks: Vec::new(), labels: Vec::new(), predicted: Vec::new(), classes, depth }
    }

    /// Adds an image by what [`judged`] says of its scores.
    pub(super) fn push(&mut self, (rank, predicted): (u32, u32), label: u32) {
        self.ranks.push(rank);
        self.labels.push(label);
        self.predicted.push(predicted);
    }

    /// How many images of each class (row) were taken for each class (column), `classes` rows of `classes` counts.
    pub fn confusion(&self) -> Vec<Vec<u64>> {
        let mut counts = vec![vec![0; self.classes]; self.classes];
        for (label, predicted) in self.labels.iter().zip(&self.predicted) {
            counts[*label as usize][*predicted as usize] += 1;
        }
        counts
    }

    /// Accuracy of each class, in the order of the classes.
    pub fn per_class(&self) -> Vec<ClassAccuracy> {
        let mut counts = vec![(0, 0); self.classes];
        for (label, rank) in self.labels.iter().zip(&self.ranks) {
            let (correct, images) = &mut counts[*label as usize];
            *correct += usize::from(*rank == 0);
            *images += 1;
        }
        let of_class = |(class, (correct, images)): (u32, (usize, usize))| {
            let value = correct as f64 / images as f64;
            let accuracy = Measure { value, interval_95: Some(wilson(correct, images)) };
            ClassAccuracy { class, correct, images, accuracy: (images > 0).then_some(accuracy) }
        };
        (0..).zip(counts).map(of_class).collect()
    }

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

/// Number of classes that score above the true one, and the class ranked first; of equal scores the lower class is first.
pub(super) fn judged<T: PartialOrd + Copy>(scores: &[T], label: usize) -> (u32, u32) {
    let own = scores[label];
    let (mut above, mut first) = (0, 0);
    for (class, score) in scores.iter().enumerate() {
        above += u32::from(*score > own || (*score == own && class < label));
        if *score > scores[first] {
            first = class;
        }
    }
    (above, first as u32)
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

pub(super) fn labels_of(side: &str, features: &Features) -> Result<Vec<u32>> {
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
        let ranks: Vec<u32> = (0..5).map(|label| judged(&scores, label).0).collect();
        assert_eq!(ranks, [2, 0, 1, 4, 3]);
        assert!((0..5).all(|label| judged(&scores, label).1 == 1));
    }

    fn ranks(ranks: &[u32], labels: &[u32], classes: usize, depth: usize) -> Ranks {
        let predicted = vec![0; labels.len()];
        Ranks { ranks: ranks.to_vec(), labels: labels.to_vec(), predicted, classes, depth }
    }

    #[test]
    fn the_confusion_matrix_counts_true_by_row_and_first_ranked_by_column() {
        let mut found = Ranks::none(4, 4);
        let scores = [([3, 1, 2, 0], 0), ([3, 1, 2, 0], 2), ([0, 5, 5, 1], 2), ([0, 5, 5, 1], 1)];
        for (scores, label) in scores {
            found.push(judged(&scores, label), label as u32);
        }
        let matrix = found.confusion();
        assert_eq!(matrix, [[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [0; 4]]);
        let classes = found.per_class();
        for (class, row) in classes.iter().zip(&matrix) {
            assert_eq!(class.correct as u64, row[class.class as usize]);
            assert_eq!(class.images as u64, row.iter().sum::<u64>());
        }
        assert_eq!(classes[1].accuracy.as_ref().unwrap().value, 1.0);
        assert_eq!(classes[2].accuracy.as_ref().unwrap().interval_95, Some(wilson(0, 2)));
        assert_eq!(classes[3].accuracy, None);
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
