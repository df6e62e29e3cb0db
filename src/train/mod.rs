//! train.

pub mod optim;
pub mod schedule;
