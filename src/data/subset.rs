//! A part of a data set, by seeded choice.

use super::{Dataset, Image};
use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
use std::sync::Arc;

/// Some images of another data set, under indices of their own.
pub struct Subset {
    whole: Arc<dyn Dataset>,
    indices: Vec<u32>,
}

impl Subset {
    /// The images at `indices` of `whole`, in that order.
    ///
    /// # Errors
    /// [`Error::Data`] when an index lies outside of `whole`.
    pub fn new(whole: Arc<dyn Dataset>, indices: Vec<u32>) -> Result<Self> {
        let count = whole.len();
        if let Some(index) = indices.iter().find(|index| **index as usize >= count) {
            return Err(Error::Data(format!(
                "there is no image {index}, the data set has {count}"
            )));
        }
        Ok(Self { whole, indices })
    }

    /// Index within the whole data set.
    pub fn original(&self, index: usize) -> usize {
        self.indices[index] as usize
    }
}

impl Dataset for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.whole.label(self.original(index))
    }

    fn path(&self, index: usize) -> String {
        self.whole.path(self.original(index))
    }

    fn image(&self, index: usize) -> Result<Image> {
        self.whole.image(self.original(index))
    }

    fn part_mask(&self, index: usize) -> Option<Vec<u8>> {
        self.whole.part_mask(self.original(index))
    }

    fn codec(&self, index: usize) -> Option<&'static str> {
        self.whole.codec(self.original(index))
    }
}

/// The first `n` images after a seeded shuffle, in the order of the data set; all of them if it has no more.
///
/// A smaller limit keeps a part of what a larger one keeps under the same seed.
pub fn limit(dataset: Arc<dyn Dataset>, n: usize, seed: u64) -> Arc<dyn Dataset> {
    if n >= dataset.len() {
        return dataset;
    }
    let mut shuffled = shuffled(dataset.len(), seed, 0);
    shuffled.truncate(n);
    Arc::new(sorted(dataset, shuffled))
}

/// Cuts a data set into (kept, held out) by a seeded shuffle; the second holds `fraction` of the images, rounded.
///
/// # Errors
/// [`Error::Data`] when `fraction` is not within (0, 1) or leaves either side empty.
pub fn holdout(
    dataset: &Arc<dyn Dataset>,
    fraction: f64,
    seed: u64,
) -> Result<(Arc<dyn Dataset>, Arc<dyn Dataset>)> {
    if !(fraction > 0.0 && fraction < 1.0) {
        return Err(Error::Data(format!(
            "`data.holdout` must lie between 0 and 1, found `{fraction}`"
        )));
    }
    let count = dataset.len();
    let out = (count as f64 * fraction).round() as usize;
    if out == 0 || out == count {
        return Err(Error::Data(format!(
            "`data.holdout={fraction}` of {count} images leaves one side empty, choose another fraction"
        )));
    }
    let mut held_out = shuffled(count, seed, 1);
    let kept = held_out.split_off(out);
    Ok((Arc::new(sorted(dataset.clone(), kept)), Arc::new(sorted(dataset.clone(), held_out))))
}

/// Limit and holdout draw from streams of their own (`item`), so that one does not bias the other.
fn shuffled(count: usize, seed: u64, item: u64) -> Vec<u32> {
    let order = Stream::open(seed, Purpose::Subset, Scope::Item(item)).permutation(count);
    order.into_iter().map(|index| index as u32).collect()
}

fn sorted(whole: Arc<dyn Dataset>, mut indices: Vec<u32>) -> Subset {
    indices.sort_unstable();
    Subset { whole, indices }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::Numbers;

    fn numbers(count: usize) -> Arc<dyn Dataset> {
        Arc::new(Numbers(count))
    }

    fn members(dataset: &dyn Dataset) -> Vec<u8> {
        (0..dataset.len()).map(|index| dataset.image(index).unwrap().pixels[0]).collect()
    }

    #[test]
    fn a_limit_keeps_a_seeded_choice_that_grows_with_it() {
        let of = |n, seed| members(limit(numbers(100), n, seed).as_ref());
        let (few, more) = (of(10, 1), of(40, 1));
        assert_eq!((few.len(), more.len()), (10, 40));
        assert!(few.iter().all(|member| more.contains(member)));
        assert_eq!(few, of(10, 1));
        assert_ne!(few, of(10, 2));
        assert_eq!(of(100, 1), of(1000, 1));
        let sub = limit(numbers(100), 10, 1);
        let label = sub.label(3).unwrap();
        assert_eq!(label, u32::from(few[3]) % 7);
        assert_eq!(sub.path(3), few[3].to_string());
    }

    #[test]
    fn a_holdout_cuts_without_overlap_or_loss() {
        let (kept, out) = holdout(&numbers(50), 0.3, 4).unwrap();
        assert_eq!((kept.len(), out.len()), (35, 15));
        let mut both = [members(kept.as_ref()), members(out.as_ref())].concat();
        assert_ne!(both, (0..50).collect::<Vec<u8>>());
        both.sort_unstable();
        assert_eq!(both, (0..50).collect::<Vec<u8>>());
        for (fraction, count) in [(1.5, 50), (-0.1, 50), (f64::NAN, 50), (0.001, 50), (0.5, 1)] {
            assert!(holdout(&numbers(count), fraction, 4).is_err(), "{fraction} of {count}");
        }
    }

    #[test]
    fn indices_must_exist() {
        assert!(Subset::new(numbers(3), vec![0, 2]).is_ok());
        assert!(Subset::new(numbers(3), vec![0, 3]).is_err());
    }
}
