//! How good a representation is: features of a frozen backbone, and protocols that turn them into a number.
//!
//! [`features`] runs a network over a data set once and keeps the result; [`knn`] and [`linear`] judge the stored
//! features; [`scores`] and [`interval`] say what came of it; [`record`] writes down a number with everything that made
//! it. Nothing here knows a network: whoever calls hands in a closure from pixels to features.

pub mod duplicates;
pub mod export;
pub mod features;
pub mod few_shot;
pub mod interval;
pub mod knn;
pub mod linear;
#[cfg(test)]
mod mutation;
pub mod neighbours;
pub mod record;
pub mod retrieval;
pub mod run;
pub mod scores;
pub mod unlabelled;
pub mod weights;

pub use features::{Damaged, Description, Features};
pub use knn::Knn;
pub use linear::Linear;
pub use record::{DataUsed, Measure, Record, WeightsUsed};
pub use scores::Ranks;
