//! Every method with every plug-in that goes with it: what a step computes, and that nothing it remembers is lost.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod classifier;
mod contrast;
mod every;
mod hand;
mod made;
mod momentum;
mod prediction;
mod program;
