//! Results on long tails: how often images of frequent, medium and rare classes are right.

use super::interval::wilson;
use super::protocol::Finding;
use super::record::Measure;
use crate::data::subset::{Cuts, Frequency};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Whether results are told by how frequent a class is among the references.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Groups {
    /// As `liu` where the references are long-tailed: the most frequent class has at least [`TAIL`] times as many as the
    /// rarest.
    #[default]
    Auto,
    /// Never.
    Off,
    /// [`Cuts::LIU`]: more than 100 references, 20 to 100, fewer than 20.
    Liu,
    /// [`Cuts::CLD`]: 100 and more, 21 to 99, 20 and fewer.
    Cld,
}

/// How many times as many images the most frequent class of a long tail has as the rarest, at least.
pub const TAIL: usize = 10;

impl Groups {
    /// Where the groups are cut, for references of which there are so many of each class; none where groups are not told.
    /// Classes without any reference do not count.
    pub fn cuts(self, per_class: &[usize]) -> Option<Cuts> {
        match self {
            Self::Off => None,
            Self::Liu => Some(Cuts::LIU),
            Self::Cld => Some(Cuts::CLD),
            Self::Auto => {
                let present = per_class.iter().filter(|count| **count > 0);
                let (least, most) = (present.clone().min()?, present.max()?);
                (*most >= TAIL * least).then_some(Cuts::LIU)
            }
        }
    }
}

/// How many references of each class there are, from their labels; those without a label count nowhere.
pub fn per_class(labels: impl IntoIterator<Item = Option<u32>>) -> Vec<usize> {
    let mut counts = Vec::new();
    for label in labels.into_iter().flatten() {
        let label = label as usize;
        if counts.len() <= label {
            counts.resize(label + 1, 0);
        }
        counts[label] += 1;
    }
    counts
}

/// A finding with the top-1 of each group beside it: `many_top1`, `medium_top1`, `few_top1`, the share of the queries of the
/// group's classes that are right, with its Wilson interval; a group without a query is left out.
///
/// # Errors
/// [`Error::Shape`] if the finding does not say which class was taken for which.
pub fn grouped(finding: Finding, cuts: Cuts, per_class: &[usize]) -> Result<Finding> {
    let confusion = &finding.details.confusion;
    if confusion.is_empty() || confusion.iter().any(|row| row.len() != confusion.len()) {
        return Err(Error::Shape(
            "groups of classes need a table of which class was taken for which".to_owned(),
        ));
    }
    let mut counts = [(0, 0); 3];
    for (class, row) in confusion.iter().enumerate() {
        let group = match cuts.group(per_class.get(class).copied().unwrap_or(0)) {
            Frequency::Many => 0,
            Frequency::Medium => 1,
            Frequency::Few => 2,
        };
        counts[group].0 += row[class] as usize;
        counts[group].1 += row.iter().sum::<u64>() as usize;
    }
    let named = ["many_top1", "medium_top1", "few_top1"].into_iter().zip(counts);
    let there = named.filter(|(_, (_, images))| *images > 0);
    Ok(there.fold(finding, |finding, (name, (correct, images))| {
        let value = correct as f64 / images as f64;
        finding.and(name, Measure { value, interval_95: Some(wilson(correct, images)) })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::{Details, Ranks};

    fn ranks() -> Ranks {
        // Three classes; of 4, 3 and 2 queries 3, 1 and 0 are right.
        let labels = vec![0, 0, 0, 0, 1, 1, 1, 2, 2];
        let predicted = vec![0, 0, 0, 1, 1, 0, 2, 0, 1];
        let right = |(label, predicted): (&u32, &u32)| u32::from(label != predicted);
        let ranks = labels.iter().zip(&predicted).map(right).collect();
        Ranks { ranks, labels, predicted, classes: 3, depth: 3 }
    }

    #[test]
    fn groups_are_told_by_how_many_references_a_class_has() {
        let finding = Finding::of_ranks(&ranks(), 0);
        let found = grouped(finding.clone(), Cuts::LIU, &[500, 101, 19]).unwrap();
        let value = |finding: &Finding, name: &str| finding.also.get(name).map(|it| it.value);
        assert_eq!(value(&found, "many_top1"), Some(4.0 / 7.0));
        assert_eq!(value(&found, "medium_top1"), None);
        assert_eq!(value(&found, "few_top1"), Some(0.0));
        assert_eq!(found.also["many_top1"].interval_95, Some(wilson(4, 7)));
        assert_eq!((&found.value, &found.metric), (&finding.value, &finding.metric));
        // The cuts of CLD: 20 is few there. A class without a reference is rare.
        let found = grouped(finding.clone(), Cuts::CLD, &[100, 20]).unwrap();
        assert_eq!(value(&found, "few_top1"), Some(1.0 / 5.0));
        let without = Finding { details: Details::default(), ..finding };
        assert!(matches!(grouped(without, Cuts::CLD, &[1]), Err(Error::Shape(_))));
    }

    #[test]
    fn only_long_tails_are_grouped_unless_told() {
        assert_eq!(Groups::Auto.cuts(&[500, 0, 50]), Some(Cuts::LIU));
        assert_eq!(Groups::Auto.cuts(&[500, 51]), None);
        assert_eq!(Groups::Auto.cuts(&[]), None);
        assert_eq!(Groups::Liu.cuts(&[5, 5]), Some(Cuts::LIU));
        assert_eq!(Groups::Cld.cuts(&[5, 5]), Some(Cuts::CLD));
        assert_eq!(Groups::Off.cuts(&[500, 1]), None);
        assert_eq!(per_class([Some(2), None, Some(0), Some(2)]), [1, 0, 2]);
    }
}
