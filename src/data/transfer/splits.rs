//! The splits of a transfer set: what is learned from, what settings are chosen on, what is reported.

use super::TransferSet;
use super::numpy::shuffled;
use crate::data::Dataset;
use crate::data::joined::Joined;
use crate::data::subset::Subset;
use crate::error::{Error, Result};
use std::sync::Arc;

/// Where the validation images come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validation {
    /// The set has an official split.
    Official,
    /// [`fifth`] of the training images, under this seed.
    Fifth {
        /// 0 in the published protocol.
        seed: u32,
    },
}

/// The three splits of an evaluation; no image is in two of them.
#[derive(Clone)]
pub struct Splits {
    /// To fit under each setting.
    pub train: Arc<dyn Dataset>,
    /// To choose the setting on.
    pub validation: Arc<dyn Dataset>,
    /// To report on; looked at once.
    pub test: Arc<dyn Dataset>,
    /// Where `validation` comes from.
    pub rule: Validation,
}

impl Splits {
    /// The images of `train` and then those of `validation`, which settings once chosen are fitted on again.
    pub fn train_and_validation(&self) -> Arc<dyn Dataset> {
        Arc::new(Joined::new(vec![self.train.clone(), self.validation.clone()]))
    }
}

/// The splits of a set: the official validation images, or a fifth of the training images, drawn as ssl-transfer does (seed 0
/// gives its very draw for the same order of images).
///
/// Features are best extracted once, of the splits of [`TransferSet::source`], and their rows parted by [`fifth`]: stored
/// features of `train` then serve every seed.
///
/// # Errors
/// [`Error::Data`] when there are too few images to cut a fifth off.
pub fn splits(set: &TransferSet, seed: u32) -> Result<Splits> {
    let test = set.test.clone();
    if let Some(validation) = &set.validation {
        let (train, validation) = (set.train.clone(), validation.clone());
        return Ok(Splits { train, validation, test, rule: Validation::Official });
    }
    let [train, validation] = fifth(set.train.len(), seed);
    if validation.is_empty() {
        return Err(Error::Data(format!(
            "`{}` has {} training images, too few to cut a fifth off for validation",
            set.location,
            set.train.len()
        )));
    }
    let part = |indices| Ok::<_, Error>(Arc::new(Subset::new(set.train.clone(), indices)?));
    let rule = Validation::Fifth { seed };
    Ok(Splits { train: part(train)?, validation: part(validation)?, test, rule })
}

/// The indices of training and of validation images among `count`: `numpy.random.seed(seed)`, `shuffle` of `0..count`, the
/// first ⌊0.2 · count⌋ are for validation (repo linusericsson/ssl-transfer, `linear.py`). Each part ascending.
pub fn fifth(count: usize, seed: u32) -> [Vec<u32>; 2] {
    let order = shuffled(count as u32, seed);
    let (validation, train) = order.split_at((0.2 * count as f64).floor() as usize);
    [train, validation].map(|part| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::transfer::miniature::{of, seen};

    #[test]
    fn a_fifth_is_cut_off_where_there_is_no_official_validation() {
        // The first two of numpy's order 2 8 4 9 1 6 7 3 0 5 (seed 0).
        assert_eq!(fifth(10, 0), [vec![0, 1, 3, 4, 5, 6, 7, 9], vec![2, 8]]);
        let [train, validation] = fifth(3_684, 0);
        assert_eq!((train.len(), validation.len()), (2_948, 736), "rounded down");
        let tree = of("cifar10");
        let set = tree.open("cifar10");
        let cut = splits(&set, 0).unwrap();
        assert_eq!(cut.rule, Validation::Fifth { seed: 0 });
        let count = set.train.len();
        assert_eq!(cut.validation.len(), count / 5);
        let mut both: Vec<String> = [&cut.train, &cut.validation]
            .into_iter()
            .flat_map(|part| (0..part.len()).map(|index| part.path(index)))
            .collect();
        both.sort();
        let mut all: Vec<String> = (0..count).map(|index| set.train.path(index)).collect();
        all.sort();
        assert_eq!(both, all, "each image once");
        assert_eq!(cut.test.len(), set.test.len());
        assert_eq!(splits(&set, 1).unwrap().rule, Validation::Fifth { seed: 1 });
        assert_ne!(fifth(100, 1), fifth(100, 0));
    }

    #[test]
    fn an_official_validation_is_taken_as_it_is() {
        let tree = of("flowers102");
        let set = tree.open("flowers102");
        let cut = splits(&set, 9).unwrap();
        assert_eq!(cut.rule, Validation::Official);
        assert_eq!(seen(&cut.validation), seen(set.validation.as_ref().unwrap()));
        assert_eq!(cut.train.len(), 3);
        // Food's three training images have no whole fifth.
        let text = splits(&of("food101").open("food101"), 0).map(|_| ()).unwrap_err().to_string();
        assert!(text.contains("has 3 training images, too few"), "{text}");
    }

    #[test]
    fn a_limit_keeps_images_with_their_marks_and_is_another_set() {
        let tree = of("voc2007");
        let set = tree.open("voc2007");
        let few = set.clone().limited(1, 3).unwrap();
        assert_eq!((few.found.train, few.found.validation, few.found.test), (1, Some(1), 1));
        assert_ne!(few.fingerprint, set.fingerprint);
        let kept = few.train.path(0);
        let row = (0..2).find(|index| set.train.path(*index) == kept).unwrap();
        assert_eq!(few.train.presence(0).unwrap(), set.train.presence(row).unwrap());
        let all = set.clone().limited(100, 3).unwrap();
        assert_eq!(all.fingerprint, set.fingerprint);
        assert!(set.limited(0, 3).is_err());
        // The same images as `data.limit` keeps.
        let cifar = of("cifar10").open("cifar10");
        let limit = crate::data::subset::limit(cifar.train.clone(), 4, 6);
        let paths: Vec<String> = (0..4).map(|index| limit.path(index)).collect();
        let found: Vec<String> =
            seen(&cifar.limited(4, 6).unwrap().train).into_iter().map(|(path, _)| path).collect();
        assert_eq!(found, paths);
    }
}
