//! Losses that compare rows with a batch, a queue or a bank: pure functions of projections.

pub mod nt_xent;
pub mod tiled;
