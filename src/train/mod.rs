//! train.
pub mod checkpoint;
pub mod engine;
pub mod run;
pub mod stop;
