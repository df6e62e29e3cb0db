//! Which images of each class a subset keeps: class-balanced parts, so many a class, long tails.
//!
//! Every class has one order, drawn by the seed, and gives a prefix of it. So a smaller fraction, a smaller count and a
//! steeper tail keep a part of what a larger or flatter one keeps.

use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
use std::collections::BTreeMap;

/// How many images of each class are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// All of them.
    All,
    /// A share of all images in (0, 1], spread evenly over the classes: [`balanced_counts`].
    Fraction(f64),
    /// The same number of each class, at least 1.
    PerClass(usize),
    /// Fewer and fewer from class to class: [`long_tail_counts`].
    LongTail {
        /// ρ, images of the first class over images of the last, at least 1.
        ratio: f64,
        /// How the counts fall.
        tail: Tail,
        /// Images of the first class; the most that every class can follow if not given.
        largest: Option<usize>,
    },
}

/// How the counts of a long tail fall from class to class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tail {
    /// By the same factor each time (Cui et al. 2019, arXiv:1901.05555, §5).
    #[default]
    Exponential,
    /// Once: the first half of the classes is whole, the others have one ρ-th (Buda et al. 2018, arXiv:1710.05381).
    Step,
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Fraction(share) => write!(f, "fraction {share}"),
            Self::PerClass(count) => write!(f, "{count} per class"),
            Self::LongTail { ratio, tail, largest } => {
                let tail = format!("{tail:?}").to_lowercase();
                write!(f, "long tail {ratio}, {tail}")?;
                largest.map_or(Ok(()), |largest| write!(f, ", largest {largest}"))
            }
        }
    }
}

/// The indices that a rule keeps of images with these labels, ascending. Images without a label are left out, and classes
/// without an image do not count.
///
/// # Errors
/// [`Error::Data`] when a number is out of range, a class has too few images, or nothing is kept.
pub fn draw(labels: &[Option<u32>], rule: &Rule, seed: u64) -> Result<Vec<u32>> {
    let mut members: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (index, label) in (0..).zip(labels) {
        if let Some(label) = label {
            members.entry(*label).or_default().push(index);
        }
    }
    let have: Vec<usize> = members.values().map(Vec::len).collect();
    if have.is_empty() {
        return Err(Error::Data(
            "no image has a label, so no class can be drawn from; `data.limit` chooses among images without labels"
                .to_owned(),
        ));
    }
    let counts = match *rule {
        Rule::All => have,
        Rule::Fraction(share) => {
            let order = Stream::open(seed, Purpose::Subset, Scope::Item(2)).permutation(have.len());
            balanced_counts(&have, share, &order)?
        }
        Rule::PerClass(count) => per_class_counts(&have, count)?,
        Rule::LongTail { ratio, tail, largest } => served(&have, ratio, tail, largest)?,
    };
    let mut kept = Vec::with_capacity(counts.iter().sum());
    for ((label, members), count) in members.iter().zip(counts) {
        let scope = Scope::Item(1 << 32 | u64::from(*label));
        let order = Stream::open(seed, Purpose::Subset, scope).permutation(members.len());
        kept.extend(order[..count].iter().map(|place| members[*place]));
    }
    kept.sort_unstable();
    Ok(kept)
}

/// Images to keep of each class for a class-balanced share of all.
///
/// T = ⌊share · N⌋ images are dealt to the classes in turn: each gets T div C, and the first T mod C of `order` one more.
/// These are the counts of `SimCLR`'s 1 % and 10 % of ImageNet (Chen et al. 2020, Appendix B.5). A class that has no more
/// is passed over, so that a share of 1 keeps everything and a larger share never takes an image back.
///
/// # Errors
/// [`Error::Data`] when `share` is not in (0, 1] or keeps nothing.
pub fn balanced_counts(have: &[usize], share: f64, order: &[usize]) -> Result<Vec<usize>> {
    let all: usize = have.iter().sum();
    // 0.29 · 100 is 28.999999999999996 in binary.
    let total = (share * all as f64 + 1e-6).floor() as usize;
    if !(share > 0.0 && share <= 1.0) || total == 0 {
        return Err(Error::Data(format!(
            "a fraction of labels must be above 0, at most 1, and leave an image of {all}, found `{share}`"
        )));
    }
    let mut counts = vec![0; have.len()];
    let mut left = total.min(all);
    while left > 0 {
        let open: Vec<usize> =
            order.iter().copied().filter(|class| counts[*class] < have[*class]).collect();
        let each = (left / open.len()).max(1);
        for class in open.into_iter().take(left) {
            let more = each.min(have[class] - counts[class]);
            counts[class] += more;
            left -= more;
        }
    }
    Ok(counts)
}

fn per_class_counts(have: &[usize], count: usize) -> Result<Vec<usize>> {
    let fewest = have.iter().copied().min().unwrap_or(0);
    if (1..=fewest).contains(&count) {
        return Ok(vec![count; have.len()]);
    }
    Err(Error::Data(format!(
        "the number of images per class must be from 1 to {fewest}, which is all that the smallest class has, found `{count}`"
    )))
}

/// Images to keep of each of `classes` classes for a long tail from `largest` on.
///
/// Class c keeps trunc(largest · ρ^(−c/(C−1))) of an exponential tail (the CIFAR-LT of Cui et al. 2019, by the code of
/// Tang et al. 2020, KaihuaTang/Long-Tailed-Recognition.pytorch); of a step, the first C div 2 classes keep `largest` and
/// the others trunc(largest / ρ).
pub fn long_tail_counts(classes: usize, largest: usize, ratio: f64, tail: Tail) -> Vec<usize> {
    (0..classes)
        .map(|class| (largest as f64 * share(class, classes, ratio, tail)) as usize)
        .collect()
}

/// What a class keeps of the largest class's number.
fn share(class: usize, classes: usize, ratio: f64, tail: Tail) -> f64 {
    let power = match tail {
        Tail::Exponential => class as f64 / (classes - 1).max(1) as f64,
        Tail::Step => f64::from(class >= classes / 2),
    };
    // 49 · (1/49) is below 1 in binary.
    (1.0 / ratio).powf(power) * (1.0 + 4.0 * f64::EPSILON)
}

/// [`long_tail_counts`] of classes that have enough images.
fn served(have: &[usize], ratio: f64, tail: Tail, largest: Option<usize>) -> Result<Vec<usize>> {
    let classes = have.len();
    if !(ratio >= 1.0 && ratio.is_finite()) || classes < 2 {
        return Err(Error::Data(format!(
            "a long tail needs an imbalance ratio of at least 1 and at least 2 classes, found `{ratio}` and {classes}"
        )));
    }
    let counts = |largest| long_tail_counts(classes, largest, ratio, tail);
    let fits = |counts: &[usize]| counts.iter().zip(have).all(|(count, have)| count <= have);
    let chosen = match largest {
        Some(largest) => counts(largest),
        None => (1..=have[0]).rev().map(counts).find(|counts| fits(counts)).unwrap_or_default(),
    };
    if let Some(class) = chosen.iter().zip(have).position(|(count, have)| count > have) {
        return Err(Error::Data(format!(
            "the long tail asks for {} images of class number {class}, which has {}; begin with fewer than {} images in the \
             largest class",
            chosen[class], have[class], chosen[0]
        )));
    }
    match chosen.iter().position(|count| *count == 0) {
        None if !chosen.is_empty() => Ok(chosen),
        class => Err(Error::Data(format!(
            "an imbalance ratio of {ratio} leaves class number {} without an image; the first class has {}",
            class.unwrap_or(0),
            chosen.first().unwrap_or(&have[0])
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Labels of so many images of each class, class after class.
    fn labels(have: &[usize]) -> Vec<Option<u32>> {
        let of = |(class, count): (u32, &usize)| vec![Some(class); *count];
        (0..).zip(have).flat_map(of).collect()
    }

    fn counts(labels: &[Option<u32>], kept: &[u32]) -> Vec<usize> {
        let mut counts =
            vec![0; labels.iter().flatten().max().map_or(0, |most| *most as usize + 1)];
        for index in kept {
            counts[labels[*index as usize].unwrap() as usize] += 1;
        }
        counts
    }

    fn histogram(counts: &[usize]) -> BTreeMap<usize, usize> {
        let mut found = BTreeMap::new();
        for count in counts {
            *found.entry(*count).or_default() += 1;
        }
        found
    }

    /// Class sizes as ImageNet's: 895 of 1,300 images, the others down to 732, 1,281,167 in all.
    fn imagenet() -> Vec<usize> {
        let mut have: Vec<usize> =
            (0..1000).map(|class| if class % 9 == 4 { 732 } else { 1300 }).collect();
        let mut missing = 1_281_167 - have.iter().sum::<usize>();
        for count in have.iter_mut().filter(|count| **count == 732) {
            let more = missing.min(500);
            *count += more;
            missing -= more;
        }
        assert_eq!(missing, 0);
        have
    }

    #[test]
    fn one_and_ten_percent_of_imagenet_have_the_published_counts_and_nest() {
        let labels = labels(&imagenet());
        assert_eq!(labels.len(), 1_281_167);
        let one = draw(&labels, &Rule::Fraction(0.01), 1).unwrap();
        let ten = draw(&labels, &Rule::Fraction(0.1), 1).unwrap();
        assert_eq!((one.len(), ten.len()), (12_811, 128_116));
        assert_eq!(histogram(&counts(&labels, &one)), BTreeMap::from([(12, 189), (13, 811)]));
        assert_eq!(histogram(&counts(&labels, &ten)), BTreeMap::from([(128, 884), (129, 116)]));
        assert!(one.iter().all(|index| ten.binary_search(index).is_ok()));
        assert!(one.is_sorted());
        // Another seed chooses other images, and other classes for the one more.
        let other = draw(&labels, &Rule::Fraction(0.01), 2).unwrap();
        assert_ne!(counts(&labels, &one), counts(&labels, &other));
    }

    #[test]
    fn a_class_that_has_no_more_is_passed_over() {
        let have = [3, 100, 0, 10];
        let labels = labels(&have);
        let of = |share| counts(&labels, &draw(&labels, &Rule::Fraction(share), 5).unwrap());
        // 40 of 113: 3 are all of the first, 10 all of the last, the other 27 come from the second.
        assert_eq!(of(0.354), [3, 27, 0, 10]);
        assert_eq!(of(1.0), have);
        assert_eq!(of(9.0 / 113.0), [3, 3, 0, 3]);
        let mut before = vec![0; 4];
        for total in 1..=113 {
            let now = of(f64::from(total) / 113.0);
            assert_eq!(now.iter().sum::<usize>(), total as usize);
            assert!(before.iter().zip(&now).all(|(before, now)| before <= now), "{total}");
            before = now;
        }
    }

    #[test]
    fn images_without_labels_are_left_out_and_not_counted() {
        let mut some = labels(&[10, 10]);
        some.splice(5..5, vec![None; 80]);
        let kept = draw(&some, &Rule::Fraction(0.5), 0).unwrap();
        assert_eq!(counts(&some, &kept), [5, 5]);
        assert_eq!(draw(&some, &Rule::All, 0).unwrap().len(), 20);
        assert!(
            draw(&[None, None], &Rule::All, 0)
                .unwrap_err()
                .to_string()
                .contains("no image has a label")
        );
    }

    #[test]
    fn so_many_of_each_class_are_a_part_of_more() {
        let labels = labels(&[7, 20, 9]);
        let of = |count, seed| draw(&labels, &Rule::PerClass(count), seed).unwrap();
        assert_eq!(counts(&labels, &of(5, 3)), [5, 5, 5]);
        assert!(of(2, 3).iter().all(|index| of(7, 3).contains(index)));
        assert_ne!(of(5, 3), of(5, 4));
        for count in [0, 8] {
            let text = draw(&labels, &Rule::PerClass(count), 0).unwrap_err().to_string();
            assert!(text.contains("from 1 to 7") && text.contains("smallest class"), "{text}");
        }
    }

    /// Totals, first five and last three of the published long-tailed CIFAR sets.
    #[test]
    fn long_tails_have_the_published_counts() {
        for (classes, ratio, total, first, last) in [
            (10, 100.0, 12_406, [5000, 2997, 1796, 1077, 645], [139, 83, 50]),
            (10, 50.0, 13_996, [5000, 3237, 2096, 1357, 878], [238, 154, 100]),
            (10, 10.0, 20_431, [5000, 3871, 2997, 2320, 1796], [834, 645, 500]),
            (100, 100.0, 10_847, [500, 477, 455, 434, 415], [5, 5, 5]),
            (100, 50.0, 12_608, [500, 480, 462, 444, 426], [10, 10, 10]),
            (100, 10.0, 19_573, [500, 488, 477, 466, 455], [52, 51, 50]),
        ] {
            let labels = labels(&vec![50_000 / classes; classes]);
            let rule = Rule::LongTail { ratio, tail: Tail::Exponential, largest: None };
            let found = counts(&labels, &draw(&labels, &rule, 0).unwrap());
            assert_eq!(found.iter().sum::<usize>(), total, "{classes} {ratio}");
            assert_eq!((&found[..5], &found[classes - 3..]), (&first[..], &last[..]));
        }
    }

    #[test]
    fn a_step_leaves_half_of_the_classes_whole() {
        assert_eq!(long_tail_counts(5, 500, 10.0, Tail::Step), [500, 500, 50, 50, 50]);
        // As Python's int(49 * (1 / 49)) would give 0.
        assert_eq!(long_tail_counts(2, 49, 49.0, Tail::Step), [49, 1]);
        assert_eq!(long_tail_counts(2, 49, 49.0, Tail::Exponential), [49, 1]);
        assert_eq!(long_tail_counts(3, 7, 1.0, Tail::Exponential), [7, 7, 7]);
    }

    #[test]
    fn a_steeper_tail_is_a_part_of_a_flatter_one_and_begins_with_what_every_class_can_follow() {
        let even = labels(&[50; 4]);
        let tail = |ratio, largest| Rule::LongTail { ratio, tail: Tail::Exponential, largest };
        let (steep, flat) =
            (draw(&even, &tail(25.0, None), 1).unwrap(), draw(&even, &tail(5.0, None), 1).unwrap());
        assert!(steep.iter().all(|index| flat.contains(index)) && steep.len() < flat.len());
        // Halved each time: the third class has 5, so the first gives 23 (and not 24).
        let odd = labels(&[100, 60, 5, 30]);
        assert_eq!(counts(&odd, &draw(&odd, &tail(8.0, None), 1).unwrap()), [23, 11, 5, 2]);
        let failure =
            |labels: &[Option<u32>], rule| draw(labels, &rule, 1).unwrap_err().to_string();
        let text = failure(&odd, tail(8.0, Some(60)));
        assert!(text.contains("15 images of class number 2, which has 5"), "{text}");
        let text = failure(&even, tail(51.0, None));
        assert!(text.contains("leaves class number 3 without an image"), "{text}");
        for (labels, ratio) in
            [(&even, 0.5), (&even, f64::NAN), (&even, f64::INFINITY), (&labels(&[9]), 2.0)]
        {
            let text = failure(labels, tail(ratio, None));
            assert!(text.contains("at least 1 and at least 2 classes"), "{text}");
        }
    }

    #[test]
    fn fractions_are_exact_and_checked() {
        let labels = labels(&[50, 50]);
        // In binary 0.29 · 100 and 0.57 · 100 are just below 29 and 57.
        for (share, count) in [(0.29, 29), (0.57, 57), (0.015, 1), (0.999, 99)] {
            assert_eq!(draw(&labels, &Rule::Fraction(share), 0).unwrap().len(), count);
        }
        for share in [0.0, -0.5, 1.01, 0.001, f64::NAN] {
            let text = draw(&labels, &Rule::Fraction(share), 0).unwrap_err().to_string();
            assert!(text.contains("above 0, at most 1"), "{text}");
        }
    }

    #[test]
    fn a_rule_says_itself() {
        let tail = Rule::LongTail { ratio: 100.0, tail: Tail::Step, largest: Some(500) };
        assert_eq!(tail.to_string(), "long tail 100, step, largest 500");
        assert_eq!(Rule::Fraction(0.01).to_string(), "fraction 0.01");
    }
}
