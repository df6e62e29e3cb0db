//! From bytes to the tensor a network takes, and the executor that makes the views on the device.
//!
//! The host executor is [`super::Loader`]; [`DeviceLoader`] makes the same views of the same draws with batched tensor
//! arithmetic out of a data set that lies on the device. Only the thread that computes may use anything of this module.

mod loader;
mod normalize;
mod operations;
mod pillow;
mod render;
#[cfg(test)]
mod tests;

pub use loader::{Batch, Batches, DeviceBatch, DeviceLoader};
pub use normalize::{normalize, to_device, with_constants};

use super::loader::HostBatch;
use crate::error::{Error, Result};
use normalize::upload;
use tch::{Device, Tensor};

/// A batch whose views can be had as tensors, whole or a few images at a time.
pub trait Views {
    /// Step of the batch, from 0 over the whole run.
    fn step(&self) -> u64;

    /// The bytes `[count, size_px, size_px, 3]` of `count` images from `start` on in one view, on the device.
    ///
    /// # Errors
    /// [`Error::Shape`] if the view has another size or fewer images.
    fn bytes(
        &self,
        view: usize,
        size_px: usize,
        start: usize,
        count: usize,
        device: Device,
    ) -> Result<Tensor>;

    /// The constant channels ([`crate::data::Dataset::constants`]) of `count` images from `start` on, u8 `[count, K]` on the
    /// device; `None` where there are none. They are the same in every view.
    fn constants(&self, _start: usize, _count: usize, _device: Device) -> Option<Tensor> {
        None
    }
}

impl Views for HostBatch {
    fn step(&self) -> u64 {
        self.step
    }

    fn bytes(
        &self,
        view: usize,
        size_px: usize,
        start: usize,
        count: usize,
        device: Device,
    ) -> Result<Tensor> {
        let image = 3 * size_px * size_px;
        let (bytes, images) = (&self.views[view], self.indices.len());
        if bytes.len() != images * image || start + count > images {
            return Err(Error::Shape(format!(
                "view {view} must hold at least {} of [{size_px}, {size_px}, 3] bytes, found {images} images in {} bytes",
                start + count,
                bytes.len()
            )));
        }
        let part = &bytes[start * image..(start + count) * image];
        Ok(upload(part, [count, size_px, size_px], device))
    }

    fn constants(&self, start: usize, count: usize, device: Device) -> Option<Tensor> {
        let each = self.constants.len() / self.indices.len().max(1);
        let part = (each > 0).then(|| &self.constants[start * each..(start + count) * each])?;
        Some(Tensor::from_slice(part).view([count as i64, -1]).to_device(device))
    }
}
