//! A map of images: every image a point in the plane, like ones near to one another.

pub mod pca;
pub mod quality;
pub mod tsne;

use crate::error::Error;

/// A place on a map.
pub type Point = [f32; 2];

/// What is said where no image differs from another.
fn collapsed() -> Error {
    Error::Collapsed(
        "all features to map are the same: the network has collapsed, or the images are one; look at another checkpoint, \
         layer (--layer) or part of the data"
            .to_owned(),
    )
}
