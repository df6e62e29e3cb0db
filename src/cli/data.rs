//! `diptych data`: what a source holds, what is wrong with it, and parts of it.

use super::monitor::image_bar;
use super::{Answer, Finding, subset};
use anyhow::Result;
use diptych::data;
use diptych::error::Error;
use diptych::evaluate::duplicates::Duplicates;
use std::path::PathBuf;
use std::sync::Mutex;

#[derive(clap::Subcommand)]
#[command(after_help = "Example:\n  diptych data show photos/")]
pub(super) enum Command {
    /// What was recognised: format, splits, classes, sizes
    #[command(after_help = "Examples:\n  diptych data show photos/\n  \
                            diptych data show cifar-10-batches-bin/\n  \
                            diptych data show 'shards/train-{000000..000146}.tar'")]
    Show {
        /// An image folder, a parquet file or folder, WebDataset tar shards, a folder of CIFAR, STL-10 or MNIST files,
        /// `synthetic:NAME`, or a set with competing features such as `digits-on:BASE?digits=MNIST`
        source: String,
    },
    /// Decodes every image: lists damaged ones, exact duplicates and empty classes
    ///
    /// Exit code 3 when an image is damaged, 0 otherwise.
    #[command(after_help = "Example:\n  diptych data check photos/ --json > check.json")]
    Check {
        /// What `diptych data show` takes
        source: String,
    },
    /// Finds images that are or nearly are others, mirrored too, within a split and across splits, from their pixels alone
    #[command(after_help = "Examples:\n  \
        diptych data duplicates cifar10/\n  \
        diptych data duplicates photos/ --across --json > leakage.json")]
    Duplicates {
        /// What `diptych data show` takes
        source: String,
        /// Only across splits: what was trained on and is asked about
        #[arg(long)]
        across: bool,
        /// Least correlation of two images that count as one, 0.5 to 1
        #[arg(long, default_value_t = Duplicates::default().similarity)]
        similarity: f64,
        /// Whether mirrored copies, left and right exchanged, are looked for
        #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
        mirrored: bool,
    },
    /// Writes every image of a source to disk, with its label: made data as well as any other
    ///
    /// As WebDataset shards: `.png`, `.cls` with the label, `.json` with what was put into the image; `classes.txt` beside
    /// them.
    #[command(after_help = "Examples:\n  \
        diptych data synthesize 'multi-digits:mnist/?variant=sizes' --out sizes/\n  \
        diptych data synthesize 'digits-on:cifar10/?digits=mnist/&unique=1024' --out digits-on-cifar/")]
    Synthesize {
        /// What `diptych data show` takes
        source: String,
        /// A new folder
        #[arg(long)]
        out: PathBuf,
    },
    /// Writes a list of some images: a share of the labels, so many a class, a long tail, some classes
    Subset(subset::Arguments),
}

pub(super) fn run(command: &Command) -> Result<Answer> {
    match command {
        Command::Show { source } => {
            let summary = data::summary(&data::open(source)?);
            Ok(Answer { text: summary.to_string(), json: serde_json::to_value(&summary)? })
        }
        Command::Duplicates { source, across, similarity, mirrored } => {
            let scan = Duplicates {
                similarity: *similarity,
                within: !across,
                mirrored: *mirrored,
                ..Duplicates::default()
            };
            let bar = Mutex::new(image_bar("look"));
            let found = scan.scan(&data::open(source)?, &|done, all| {
                if let Ok(mut bar) = bar.lock() {
                    bar(done, all);
                }
            })?;
            Ok(Answer { text: found.to_string(), json: serde_json::to_value(&found)? })
        }
        Command::Subset(arguments) => subset::run(arguments),
        Command::Synthesize { source, out } => {
            let source = data::open(source)?;
            let written = data::write::write(&source, out, &mut image_bar("write"))?;
            let text = format!(
                "{}: {} images in {} shards, {} damaged ones left out",
                out.display(),
                written.images,
                written.shards.len(),
                written.damaged.len()
            );
            Ok(Answer { text, json: serde_json::to_value(&written)? })
        }
        Command::Check { source } => {
            let source = data::open(source)?;
            let bar = Mutex::new(image_bar("check"));
            let found = data::check::check(&source, &|done, all| {
                if let Ok(mut bar) = bar.lock() {
                    bar(done, all);
                }
            });
            let answer = Answer { text: found.to_string(), json: serde_json::to_value(&found)? };
            if found.damaged == 0 {
                return Ok(answer);
            }
            let error = Error::Data(format!(
                "{} of {} images of `{}` are damaged",
                found.damaged, found.images, found.location
            ));
            Err(Finding { answer, error }.into())
        }
    }
}
