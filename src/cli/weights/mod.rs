//! `diptych weights`: checkpoints of other systems in, ours out.

mod compare;
mod export;
mod import;
mod show;

use super::Answer;
use anyhow::Result;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// What is in a file of weights, without loading it all
    Show(show::Arguments),
    /// Turn weights of another system into ours
    Import(import::Arguments),
    /// Write our weights under the names and in the format of another system
    Export(export::Arguments),
    /// What differs between two files of weights
    Compare(compare::Arguments),
}

pub(super) fn run(command: &Command) -> Result<Answer> {
    match command {
        Command::Show(arguments) => show::run(arguments),
        Command::Import(arguments) => import::run(arguments),
        Command::Export(arguments) => export::run(arguments),
        Command::Compare(arguments) => compare::run(arguments),
    }
}
