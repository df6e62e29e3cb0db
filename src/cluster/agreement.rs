//! How far two groupings of the same things agree, whatever their clusters are called.

use crate::error::{Error, Result};
use pathfinding::kuhn_munkres::kuhn_munkres;
use pathfinding::matrix::Matrix;
use std::collections::BTreeMap;

/// What the information that two groupings share is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Average {
    /// `(H(U) + H(V)) / 2`, the default of scikit-learn since 0.22.
    #[default]
    Arithmetic,
    /// `sqrt(H(U) H(V))`.
    Geometric,
    /// The smaller entropy.
    Min,
    /// The larger entropy.
    Max,
}

impl Average {
    fn of(self, one: f64, other: f64) -> f64 {
        match self {
            Self::Arithmetic => f64::midpoint(one, other),
            Self::Geometric => (one * other).sqrt(),
            Self::Min => one.min(other),
            Self::Max => one.max(other),
        }
    }
}

/// How many things are in each class and each cluster at once. All scores are in f64; degenerate cases are scikit-learn's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contingency {
    /// Classes that occur, ascending: the rows.
    pub classes: Vec<u32>,
    /// Clusters that occur, ascending: the columns.
    pub clusters: Vec<u32>,
    /// Counts, `[classes, clusters]`, row by row.
    pub counts: Vec<u64>,
}

impl Contingency {
    /// Counts two label lists of the same things.
    ///
    /// # Errors
    /// [`Error::Shape`] if the lists differ in length or are empty.
    pub fn new(classes: &[u32], clusters: &[u32]) -> Result<Self> {
        if classes.len() != clusters.len() || classes.is_empty() {
            return Err(Error::Shape(format!(
                "two groupings must be of the same things, at least one, found {} and {}",
                classes.len(),
                clusters.len()
            )));
        }
        let (class_names, cluster_names) = (distinct(classes), distinct(clusters));
        let place = |names: &[u32]| -> BTreeMap<u32, usize> {
            names.iter().enumerate().map(|(at, name)| (*name, at)).collect()
        };
        let (rows, columns) = (place(&class_names), place(&cluster_names));
        let mut counts = vec![0; rows.len() * columns.len()];
        for (class, cluster) in classes.iter().zip(clusters) {
            counts[rows[class] * columns.len() + columns[cluster]] += 1;
        }
        Ok(Self { classes: class_names, clusters: cluster_names, counts })
    }

    /// Number of things.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Things of each class.
    fn class_sizes(&self) -> Vec<u64> {
        self.counts.chunks(self.clusters.len()).map(|row| row.iter().sum()).collect()
    }

    /// Things of each cluster.
    fn cluster_sizes(&self) -> Vec<u64> {
        let column = |at| self.counts.iter().skip(at).step_by(self.clusters.len()).sum();
        (0..self.clusters.len()).map(column).collect()
    }

    fn trivial(&self) -> (bool, bool) {
        (self.classes.len() == 1, self.clusters.len() == 1)
    }

    /// Mutual information in nats, `Σ n_uv/N ln(N n_uv / (n_u n_v))`, at least 0.
    pub fn mutual_information(&self) -> f64 {
        if self.classes.len() == 1 || self.clusters.len() == 1 {
            return 0.0;
        }
        let (rows, columns) = (self.class_sizes(), self.cluster_sizes());
        let total = self.total() as f64;
        let mut sum = 0.0;
        for (row, counts) in rows.iter().zip(self.counts.chunks(columns.len())) {
            for (column, count) in columns.iter().zip(counts).filter(|(_, count)| **count > 0) {
                let count = *count as f64;
                let expected = *row as f64 * *column as f64;
                let term = count / total * (count.ln() + total.ln() - expected.ln());
                if term.abs() >= f64::EPSILON {
                    sum += term;
                }
            }
        }
        sum.max(0.0)
    }

    /// Normalised mutual information, in [0, 1]: `I(U; V)` over an average of the entropies (scikit-learn's
    /// `normalized_mutual_info_score`). 1 if both groupings are a single cluster, 0 if they share nothing.
    pub fn nmi(&self, average: Average) -> f64 {
        if self.trivial() == (true, true) {
            return 1.0;
        }
        let information = self.mutual_information();
        if information == 0.0 {
            return 0.0;
        }
        information / average.of(entropy(&self.class_sizes()), entropy(&self.cluster_sizes()))
    }

    /// Adjusted mutual information (Vinh, Epps and Bailey 2010; `adjusted_mutual_info_score`): what is shared beyond what
    /// random groupings of these sizes share, over the most that could be; 1 for equal groupings, about 0 for random
    /// ones.
    pub fn ami(&self, average: Average) -> f64 {
        match self.trivial() {
            (true, true) => return 1.0,
            (false, false) => {}
            _ => return 0.0,
        }
        let (rows, columns) = (self.class_sizes(), self.cluster_sizes());
        let expected = expected_information(&rows, &columns, self.total());
        let most = average.of(entropy(&rows), entropy(&columns));
        away_from_zero(self.mutual_information() - expected) / away_from_zero(most - expected)
    }

    /// Adjusted Rand index (Hubert and Arabie 1985; `adjusted_rand_score`): the share of pairs on which the groupings
    /// agree, less what random ones of these sizes agree on; 1 for equal groupings.
    pub fn ari(&self) -> f64 {
        let squares = |sizes: &[u64]| -> i128 {
            sizes.iter().map(|size| i128::from(*size) * i128::from(*size)).sum()
        };
        let total = i128::from(self.total());
        let both = squares(&self.counts);
        let (rows, columns) = (squares(&self.class_sizes()), squares(&self.cluster_sizes()));
        // Ordered pairs that are together in both, in the first only, in the second only, in none.
        let (together, first, second) = (both - total, rows - both, columns - both);
        let apart = total * total - rows - columns + both;
        if first == 0 && second == 0 {
            return 1.0;
        }
        let [together, first, second, apart] = [together, first, second, apart].map(|n| n as f64);
        2.0 * (together * apart - first * second)
            / ((together + first) * (first + apart) + (together + second) * (second + apart))
    }

    /// Share of things in the cluster that stands for their class, with the one-to-one matching of clusters and classes that
    /// makes it largest (Kuhn 1955). Where there are more of one than of the other, some stand for nothing.
    ///
    /// Second, the class of each column of the table, by position among the rows.
    pub fn matched(&self) -> (f64, Vec<Option<usize>>) {
        let (rows, columns) = (self.classes.len(), self.clusters.len());
        let count = |(row, column): (usize, usize)| self.counts[row * columns + column] as i64;
        let mut matching = vec![None; columns];
        // The search wants no more rows than columns.
        let right = if rows <= columns {
            let (right, of_row) = kuhn_munkres(&Matrix::from_fn(rows, columns, count));
            for (row, column) in of_row.into_iter().enumerate() {
                matching[column] = Some(row);
            }
            right
        } else {
            let turned = |(column, row): (usize, usize)| count((row, column));
            let (right, of_column) = kuhn_munkres(&Matrix::from_fn(columns, rows, turned));
            for (column, row) in of_column.into_iter().enumerate() {
                matching[column] = Some(row);
            }
            right
        };
        (right as f64 / self.total() as f64, matching)
    }
}

fn distinct(labels: &[u32]) -> Vec<u32> {
    let mut names = labels.to_vec();
    names.sort_unstable();
    names.dedup();
    names
}

/// `-Σ p ln p` in nats.
fn entropy(sizes: &[u64]) -> f64 {
    let total = sizes.iter().sum::<u64>() as f64;
    let term = |size: &u64| {
        let size = *size as f64;
        size / total * (size.ln() - total.ln())
    };
    -sizes.iter().map(term).sum::<f64>()
}

/// So that a perfect match is not 0 / 0.
fn away_from_zero(value: f64) -> f64 {
    if value < 0.0 { value.min(-f64::EPSILON) } else { value.max(f64::EPSILON) }
}

/// Mean mutual information of all pairs of groupings with these sizes (Vinh, Epps and Bailey 2010, theorem 1).
fn expected_information(rows: &[u64], columns: &[u64], total: u64) -> f64 {
    let factorials = log_factorials(total as usize);
    let ln = |n: u64| factorials[n as usize];
    let mut expected = 0.0;
    for a in rows {
        for b in columns {
            let margins = ln(*a) + ln(*b) + ln(total - a) + ln(total - b) - ln(total);
            let log_expected = (*a as f64).ln() + (*b as f64).ln() - (total as f64).ln();
            for both in (a + b).saturating_sub(total).max(1)..=*a.min(b) {
                let others = ln(both) + ln(a - both) + ln(b - both) + ln(total + both - a - b);
                let information = both as f64 / total as f64 * ((both as f64).ln() - log_expected);
                expected += information * (margins - others).exp();
            }
        }
    }
    expected
}

/// ln n! for n from 0 on, each rounded but once or twice (Neumaier's sum).
fn log_factorials(most: usize) -> Vec<f64> {
    let (mut sum, mut lost) = (0.0f64, 0.0);
    let mut table = vec![0.0];
    for n in 1..=most {
        let term = (n as f64).ln();
        let next = sum + term;
        lost += (sum - next) + term;
        sum = next;
        table.push(sum + lost);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::*;
    use serde_json::Value;

    fn list(value: &Value) -> Vec<u32> {
        value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
    }

    #[test]
    fn all_scores_are_scikit_learns() {
        let numbers = golden::numbers();
        let cases = numbers["agreement"].as_array().unwrap();
        assert!(cases.len() > 10);
        for case in cases {
            let (classes, clusters) = (list(&case["classes"]), list(&case["clusters"]));
            let table = Contingency::new(&classes, &clusters).unwrap();
            let turned = Contingency::new(&clusters, &classes).unwrap();
            let compare = |name: &str, score: &dyn Fn(&Contingency) -> f64| {
                let expected = case[name].as_f64().unwrap();
                for found in [score(&table), score(&turned)] {
                    assert!(
                        (found - expected).abs() < 1e-9,
                        "{name}: {found}, expected {expected}"
                    );
                }
            };
            compare("ari", &Contingency::ari);
            compare("accuracy", &|table| table.matched().0);
            for (name, average) in [
                ("arithmetic", Average::Arithmetic),
                ("geometric", Average::Geometric),
                ("min", Average::Min),
                ("max", Average::Max),
            ] {
                compare(&format!("nmi_{name}"), &|table| table.nmi(average));
                compare(&format!("ami_{name}"), &|table| table.ami(average));
            }
        }
    }

    /// Appendix of the specification.
    #[test]
    fn nmi_has_the_published_values() {
        let nmi = |classes: &[u32], clusters: &[u32]| {
            Contingency::new(classes, clusters).unwrap().nmi(Average::default())
        };
        assert!((nmi(&[0, 0, 1, 1], &[0, 0, 1, 2]) - 0.8).abs() < 1e-12);
        assert!((nmi(&[0, 0, 1, 1, 2, 2], &[0, 0, 0, 1, 1, 1]) - 0.515_803_7).abs() < 5e-8);
    }

    #[test]
    fn names_do_not_count_and_lists_must_fit() {
        let classes = [0, 0, 1, 1, 2, 2, 2, 0];
        let clusters = [1, 1, 0, 2, 2, 2, 2, 0];
        let renamed = clusters.map(|cluster| [70, 4_000_000_000, 3][cluster as usize]);
        let (one, other) = (
            Contingency::new(&classes, &clusters).unwrap(),
            Contingency::new(&classes, &renamed).unwrap(),
        );
        assert!((one.nmi(Average::Max) - other.nmi(Average::Max)).abs() < 1e-15);
        assert_eq!(one.matched().0.to_bits(), other.matched().0.to_bits());
        assert_eq!(other.clusters, [3, 70, 4_000_000_000]);
        assert!(matches!(Contingency::new(&classes, &clusters[1..]), Err(Error::Shape(_))));
        assert!(matches!(Contingency::new(&[], &[]), Err(Error::Shape(_))));
    }

    #[test]
    fn the_matching_names_the_class_of_each_cluster() {
        // Clusters 0, 1, 2 are classes 2, 0, 1; two rows stray; cluster 3 stands for nothing.
        let classes = [2, 2, 2, 0, 0, 1, 1, 1, 0, 2];
        let clusters = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3];
        let (accuracy, matching) = Contingency::new(&classes, &clusters).unwrap().matched();
        assert!((accuracy - 0.8).abs() < 1e-15);
        assert_eq!(matching, [Some(2), Some(0), Some(1), None]);
    }
}
