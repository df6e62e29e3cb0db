//! Which number, and so which colour, a cluster gets. Algorithms number clusters as they please: two equal maps would look
//! different.

use crate::cluster::agreement::Contingency;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// The order of the labels of a map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Like the map beside it, so that a part keeps its colour over numbers of clusters, block groups, algorithms and
    /// models; the first map of all by [`Order::Size`].
    #[default]
    Match,
    /// The largest cluster first, of equal ones that with the first pixel.
    Size,
    /// In order of their first pixels.
    FirstPixel,
    /// The algorithm's own.
    Raw,
}

/// Labels by the size of their clusters, the largest first, of equal ones that with the first pixel. Labels without a pixel
/// come last.
pub fn by_size(labels: &[u8], k: usize) -> Vec<u8> {
    let mut counts = vec![0u64; k];
    for label in labels {
        counts[usize::from(*label)] += 1;
    }
    let mut order = appearance(labels, k);
    // Stable: equal sizes stay in order of their first pixels.
    order.sort_by_key(|label| std::cmp::Reverse(counts[usize::from(*label)]));
    renamed(labels, &order)
}

/// Labels by the first pixel of their clusters.
pub fn by_first_pixel(labels: &[u8], k: usize) -> Vec<u8> {
    renamed(labels, &appearance(labels, k))
}

/// Labels in order of appearance; those that do not appear come last, in their own order.
fn appearance(labels: &[u8], k: usize) -> Vec<u8> {
    let mut order: Vec<u8> = Vec::with_capacity(k);
    for label in labels.iter().copied().chain(0..k as u8) {
        if !order.contains(&label) {
            order.push(label);
        }
    }
    order
}

/// The label at place `i` of `order` becomes `i`.
fn renamed(labels: &[u8], order: &[u8]) -> Vec<u8> {
    let mut names = vec![0; order.len()];
    for (name, label) in order.iter().enumerate() {
        names[usize::from(*label)] = name as u8;
    }
    labels.iter().map(|label| names[usize::from(*label)]).collect()
}

/// Labels renamed so that they agree with those of a reference map on as many pixels as possible (Hungarian matching of the
/// overlaps). Of `k` labels those without a partner get the numbers below `k` that are left, the largest cluster first.
///
/// The same grouping under other names comes out the same, unless several matchings are equally good.
///
/// # Errors
/// [`crate::error::Error::Shape`] if the maps differ in size or are empty.
pub fn matched(labels: &[u8], k: usize, reference: &[u8]) -> Result<Vec<u8>> {
    // From names that do not depend on those at hand.
    let labels = by_size(labels, k);
    let wide =
        |labels: &[u8]| -> Vec<u32> { labels.iter().map(|label| u32::from(*label)).collect() };
    let table = Contingency::new(&wide(reference), &wide(&labels))?;
    let (_, partners) = table.matched();
    let mut names: Vec<Option<u8>> = vec![None; k];
    for (cluster, partner) in table.clusters.iter().zip(partners) {
        let partner = partner.map(|at| table.classes[at] as u8);
        names[*cluster as usize] = partner.filter(|name| usize::from(*name) < k);
    }
    let taken = names.clone();
    let mut free = (0..k as u8).filter(|name| !taken.contains(&Some(*name)));
    for name in &mut names {
        *name = name.or_else(|| free.next());
    }
    let name = |label: &u8| names[usize::from(*label)].expect("as many names as labels");
    Ok(labels.iter().map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: [u8; 12] = [2, 2, 0, 0, 0, 1, 1, 1, 1, 1, 3, 3];

    #[test]
    fn orders_are_what_they_are_called() {
        assert_eq!(by_size(&MAP, 4), [2, 2, 1, 1, 1, 0, 0, 0, 0, 0, 3, 3]);
        assert_eq!(by_first_pixel(&MAP, 4), [0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3]);
        assert_eq!(by_size(&[4, 4, 1], 6), [0, 0, 1]);
        assert_eq!(by_size(&[0, 0, 0], 1), [0, 0, 0]);
    }

    #[test]
    fn colours_stay_whatever_the_clusters_are_called() {
        for names in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
            let other: Vec<u8> = MAP.iter().map(|label| names[usize::from(*label)]).collect();
            assert_eq!(by_size(&other, 4), by_size(&MAP, 4));
            assert_eq!(by_first_pixel(&other, 4), by_first_pixel(&MAP, 4));
            assert_eq!(matched(&other, 4, &MAP).unwrap(), MAP);
        }
    }

    #[test]
    fn a_split_cluster_keeps_its_colour_on_the_larger_part() {
        let few = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1];
        // The first six become two and four of another name, the rest stays together.
        let many = [2, 2, 2, 2, 0, 0, 1, 1, 1, 1];
        assert_eq!(matched(&many, 3, &few).unwrap(), [0, 0, 0, 0, 2, 2, 1, 1, 1, 1]);
        // Back from many to few: names stay below the number of clusters.
        let back = matched(&few, 2, &[5, 5, 5, 5, 7, 7, 7, 7, 7, 7]).unwrap();
        assert_eq!(back, [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]);
        assert!(matched(&few, 2, &few[1..]).is_err());
    }
}
