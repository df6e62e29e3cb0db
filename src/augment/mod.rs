//! From images to views: the second stage of the flow.
//!
//! A recipe lists [`Step`]s per kind of view ([`ViewRecipe`]). A [`Pipeline`] *samples* them for one view of one image,
//! which gives a small value ([`Drawn`]), and the value is *applied* to the image, which is deterministic. Two executors
//! do both for whole batches: the [`Loader`] on threads of the host, whose bytes then move to the device, and the
//! [`DeviceLoader`] on the device, with batched tensor arithmetic. [`Views`] gives the tensors of either's batch.
//!
//! One arithmetic holds everywhere: crop, resize as Pillow or TensorFlow does, then f32 in \[0, 1\] with the formulas of
//! torchvision's or TensorFlow's float tensors, rounded once to 8 bits at the end; normalising is the first operation on
//! the device.

mod blur;
mod color;
mod crop;
mod device;
mod erase;
mod gallery;
mod jigsaw;
mod lettering;
mod loader;
mod noise;
mod order;
mod pillow;
mod pipeline;
mod preprocess;
mod rand_augment;
mod resample;
mod resize;
mod rotate;
mod sobel;
mod solarize;
mod step;
mod views;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod golden_operations;
#[cfg(test)]
mod golden_tensorflow;

pub use blur::{Blur, BlurKind, Border, Kernel, SigmaPer};
pub use color::{Adjustment, ColorJitter, Grayscale, JitterKind};
pub use crop::{Crop, CropKind, Interpolation, RandomResizedCrop, Resize};
pub use device::{
    Batch, Batches, DeviceBatch, DeviceLoader, Views, normalize, to_device, with_constants,
};
pub use erase::{Cutout, Patch, RandomErasing};
pub use gallery::{
    Cell, Gallery, Mark, SampledImage, sample_images, shrunk, views_gallery, write_png,
};
pub use jigsaw::{Jigsaw, Patches};
pub use loader::{Damage, HostBatch, Loader, LoaderConfig};
pub use noise::{GaussianNoise, Noise};
pub use order::Order;
pub use pipeline::{Drawn, Operation, Pipeline, Scratch};
pub use preprocess::{Preprocess, Sizing};
pub use rand_augment::{Motion, PillowOperation, RandAugment, Resampling, Warp};
pub use rotate::Rotation;
pub use sobel::Sobel;
pub use solarize::Solarize;
pub use step::{Flip, Normalize, Step, ViewRecipe};
pub use views::{NAMED, named};
