//! How good a representation is: features of a frozen backbone, and protocols that turn them into a number.
//!
//! [`features`] runs a network over a data set once and keeps the result; [`knn`], [`linear`] and [`clusters`] judge the stored
//! features, each a [`protocol`]; [`scores`] and [`interval`] say what came of it; [`record`] writes down a number with
//! everything that made it. Nothing here knows a network: whoever calls hands in a closure from pixels to features.

pub mod average_precision;
pub mod calibration;
pub mod clusters;
pub mod duplicates;
pub mod export;
pub mod features;
pub mod few_shot;
mod findings;
pub mod finetune;
pub mod frequency;
pub mod interval;
pub mod knn;
pub mod linear;
pub mod logistic;
#[cfg(test)]
mod mutation;
pub mod neighbours;
pub mod probe;
pub mod protocol;
pub mod record;
pub mod retrieval;
pub mod run;
pub mod scores;
pub mod unlabelled;
pub mod weights;

pub use clusters::Clusters;
pub use features::{Damaged, Description, Features};
pub use few_shot::FewShot;
pub use knn::Knn;
pub use linear::Linear;
pub use logistic::Logistic;
pub use protocol::{Details, Finding, Protocol, Sweep};
pub use record::{Cut, DataUsed, Measure, Record, Repeats, WeightsUsed};
pub use retrieval::Retrieval;
pub use scores::Ranks;
