//! `diptych analyze`: pictures of what was learned.

mod augmentations;
mod gradients;
mod map;
mod models;
mod neighbours;
mod parts;
mod runs;
mod scores;

use super::Answer;
use anyhow::Result;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Parts of objects: clustered feature maps laid over the image
    Parts(parts::Arguments),
    /// Scores of positives and negatives over a run
    Scores(scores::Arguments),
    /// The norm of the gradient, by layer and epoch
    Gradients(gradients::Arguments),
    /// A map of the embedding: t-SNE or PCA, with the images on it
    Map(map::Arguments),
    /// The nearest images of some, right and wrong ones
    Neighbours(neighbours::Arguments),
    /// What each augmentation does to the embedding
    Augmentations(augmentations::Arguments),
}

/// Has libtorch and our own loops compute on so many threads.
fn compute_threads(threads: usize) {
    let threads = threads.max(1);
    tch::set_num_threads(threads as i32);
    // What has begun to compute keeps its threads: nothing has when a command begins.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
}

pub(super) fn run(command: &Command) -> Result<Answer> {
    match command {
        Command::Parts(arguments) => parts::run(arguments),
        Command::Scores(arguments) => scores::run(arguments),
        Command::Gradients(arguments) => gradients::run(arguments),
        Command::Map(arguments) => map::run(arguments),
        Command::Neighbours(arguments) => neighbours::run(arguments),
        Command::Augmentations(arguments) => augmentations::run(arguments),
    }
}
