//! Which images make up which batch.

use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};

/// The order of the images: a fresh permutation each epoch, cut into whole batches, the rest of the epoch dropped.
/// Every step can be asked for in any order and always gives the same images.
#[derive(Clone, Debug)]
pub struct Order {
    seed: u64,
    images: usize,
    batch_size: usize,
    epoch: Option<(u32, Vec<usize>)>,
}

impl Order {
    /// The order of `images` images in batches of `batch_size`.
    ///
    /// # Errors
    /// [`Error::Recipe`] if there are fewer images than one batch holds, or the batch is empty.
    pub fn new(seed: u64, images: usize, batch_size: usize) -> Result<Self> {
        if batch_size == 0 || batch_size > images {
            return Err(Error::Recipe(format!(
                "`data.batch_size` must be 1 to {images}, the number of images, found `{batch_size}`"
            )));
        }
        if u32::try_from(images).is_err() {
            return Err(Error::Data(format!(
                "a data set may hold at most {} images, found {images}; `data.limit` takes a part",
                u32::MAX
            )));
        }
        Ok(Self { seed, images, batch_size, epoch: None })
    }

    /// Steps in one epoch; an incomplete last batch is dropped.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.images / self.batch_size) as u64
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Images per batch.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Epoch and images of a step, both counted from 0 over the whole run.
    pub fn batch(&mut self, step: u64) -> (u32, Vec<usize>) {
        let epoch = u32::try_from(step / self.steps_per_epoch()).expect("fewer than 2^32 epochs");
        let first = (step % self.steps_per_epoch()) as usize * self.batch_size;
        if self.epoch.as_ref().is_none_or(|known| known.0 != epoch) {
            let scope = Scope::Item(u64::from(epoch));
            let mut stream = Stream::open(self.seed, Purpose::Shuffle, scope);
            self.epoch = Some((epoch, stream.permutation(self.images)));
        }
        let order = self.epoch.as_ref().map_or(&[][..], |known| &known.1);
        (epoch, order[first..first + self.batch_size].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_holds_no_image_twice_and_drops_the_rest() {
        let mut order = Order::new(3, 23, 5).unwrap();
        assert_eq!(order.steps_per_epoch(), 4);
        for epoch in 0..3 {
            let mut seen: Vec<usize> =
                (0..4).flat_map(|step| order.batch(4 * epoch + step).1).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 20);
            assert_eq!(order.batch(4 * epoch + 3).0, epoch as u32);
        }
        assert_ne!(order.batch(0).1, order.batch(4).1);
    }

    #[test]
    fn a_step_is_the_same_whatever_was_asked_before() {
        let mut forward = Order::new(3, 23, 5).unwrap();
        let all: Vec<_> = (0..12).map(|step| forward.batch(step)).collect();
        for step in (0..12).rev() {
            assert_eq!(forward.batch(step), all[step as usize]);
            assert_eq!(Order::new(3, 23, 5).unwrap().batch(step), all[step as usize]);
        }
        assert_ne!(Order::new(4, 23, 5).unwrap().batch(0), all[0]);
    }

    #[test]
    fn a_batch_larger_than_the_data_is_refused() {
        for batch_size in [0, 6] {
            let message = Order::new(0, 5, batch_size).unwrap_err().to_string();
            assert!(message.starts_with("`data.batch_size` must be 1 to 5"), "{message}");
        }
    }
}
