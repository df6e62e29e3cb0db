//! Which images a network finds alike: plain data for a gallery.

use super::Features;
use super::knn::neighbours;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tch::Tensor;

/// A query image and what the network finds most like it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Index of the image in the split of the queries.
    pub query: usize,
    /// Its class, if it has one.
    pub label: Option<u32>,
    /// The references nearest to it, nearest first.
    pub neighbours: Vec<Found>,
}

/// One reference found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Index of the image in the split of the references.
    pub index: usize,
    /// Its class, if it has one.
    pub label: Option<u32>,
    /// Cosine similarity to the query, in [−1, 1].
    pub similarity: f32,
    /// Whether its class is the query's; none where either has no class.
    pub agrees: Option<bool>,
}

/// The `k` nearest references (fewer if there are fewer) of up to `examples` queries.
///
/// The queries are chosen without looking at what is found: the first image of each of `examples` classes spread evenly
/// over the class list, or, without labels, images spread evenly over the split. With `same` both sides are one split
/// and no image finds itself.
///
/// # Errors
/// [`Error::Data`] if there is no query; whatever [`neighbours`] fails with.
pub fn gallery(
    queries: &Features,
    references: &Features,
    examples: usize,
    k: usize,
    same: bool,
) -> Result<Vec<Example>> {
    if queries.is_empty() {
        return Err(Error::Data("there are no query images to show".to_owned()));
    }
    nearest(queries, references, &choose(&queries.labels(), examples), k, same)
}

/// The `k` nearest references (fewer if there are fewer) of the queries in these rows, in the order given. With `same` both
/// sides are one split and no image finds itself.
///
/// # Errors
/// Whatever [`neighbours`] fails with.
///
/// # Panics
/// If there is no such row.
pub fn nearest(
    queries: &Features,
    references: &Features,
    rows: &[usize],
    k: usize,
    same: bool,
) -> Result<Vec<Example>> {
    queries.check()?;
    references.check()?;
    let query_labels = queries.labels();
    let at: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
    let h = queries.h.index_select(0, &Tensor::from_slice(&at).to_device(queries.h.device()));
    // One more than asked for: a query may have to leave itself out.
    let found = neighbours(&h, &references.h, k + usize::from(same), false)?;
    let (query_indices, reference_indices) = (queries.indices(), references.indices());
    let reference_labels = references.labels();
    let class = |label: i64| u32::try_from(label).ok();
    Ok(rows
        .iter()
        .enumerate()
        .map(|(position, row)| {
            let label = class(query_labels[*row]);
            let (rows, similarities) = found.of(position);
            let neighbours = rows
                .iter()
                .zip(similarities)
                .filter(|(reference, _)| !(same && *reference == row))
                .take(k)
                .map(|(reference, similarity)| {
                    let found = class(reference_labels[*reference]);
                    Found {
                        index: reference_indices[*reference] as usize,
                        label: found,
                        similarity: *similarity,
                        agrees: label.zip(found).map(|(query, found)| query == found),
                    }
                })
                .collect();
            Example { query: query_indices[*row] as usize, label, neighbours }
        })
        .collect())
}

/// Rows of at most `count` queries.
fn choose(labels: &[i64], count: usize) -> Vec<usize> {
    let mut first_of_class = BTreeMap::new();
    for (row, label) in labels.iter().enumerate().filter(|(_, label)| **label >= 0) {
        first_of_class.entry(*label).or_insert(row);
    }
    let eligible: Vec<usize> = if first_of_class.is_empty() {
        (0..labels.len()).collect()
    } else {
        first_of_class.into_values().collect()
    };
    let count = count.min(eligible.len());
    (0..count).map(|position| eligible[position * eligible.len() / count]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::features::tests::made;
    use super::*;

    #[test]
    fn queries_are_the_first_of_classes_spread_over_the_list() {
        let labels = [3, 0, 0, 1, 3, 2, -1, 5];
        assert_eq!(choose(&labels, 9), [1, 3, 5, 0, 7]);
        assert_eq!(choose(&labels, 2), [1, 5]);
        assert_eq!(choose(&[-1; 10], 3), [0, 3, 6]);
        assert!(choose(&labels, 0).is_empty());
    }

    #[test]
    fn a_gallery_tells_what_agrees_and_no_image_finds_itself() {
        // Directions at 0°, 10°, 30°, 90°, so the nearest of each are known.
        let angles = [0.0f32, 10.0, 30.0, 90.0];
        let rows: Vec<f32> =
            angles.iter().flat_map(|a| [a.to_radians().cos(), a.to_radians().sin()]).collect();
        let mut set = made(Tensor::from_slice(&rows).view([4, 2]), &[0, 0, 1, -1]);
        set.index = Tensor::from_slice(&[10i64, 11, 12, 13]);
        let found = gallery(&set, &set, 2, 2, true).unwrap();
        assert_eq!(found.iter().map(|example| example.query).collect::<Vec<_>>(), [10, 12]);
        let first = &found[0].neighbours;
        assert_eq!(
            first.iter().map(|n| (n.index, n.agrees)).collect::<Vec<_>>(),
            [(11, Some(true)), (12, Some(false))]
        );
        assert!((first[0].similarity - 10f32.to_radians().cos()).abs() < 1e-6);
        let all = gallery(&set, &set, 1, 8, true).unwrap();
        assert_eq!(all[0].neighbours.len(), 3);
        assert_eq!(all[0].neighbours[2].agrees, None);
        let other = gallery(&set, &set, 1, 8, false).unwrap();
        assert_eq!(other[0].neighbours[0].index, 10);
    }
}
