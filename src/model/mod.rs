//! Networks: backbones and heads on named tensors.

#[cfg(test)]
mod golden;
pub mod heads;
pub mod layers;
pub mod parameters;
pub mod resnet;

pub use heads::{Head, HeadConfig};
pub use parameters::{Parameter, Parameters, Place, Role};
pub use resnet::{BackboneConfig, BlockGroup, Frozen, ResNet};

/// How a forward pass normalises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Phase {
    /// Running statistics; nothing is updated.
    Evaluation,
    /// Batch statistics, per group of consecutive rows.
    Training {
        /// Number of normalisation groups the rows fall into, evenly and in order; 1 is ordinary batch norm.
        groups: i64,
        /// Whether running statistics move.
        statistics: Statistics,
    },
}

/// What a training pass does to the running statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Statistics {
    /// Leaves them alone (the first pass of cached gradients).
    Keep,
    /// Moves them once per step by the mean over all groups of the step, however many passes these come in.
    Move {
        /// Groups of the step already seen, in this and earlier passes; at 0 the old value is decayed.
        seen: i64,
        /// Groups of the whole step.
        of: i64,
    },
}
