//! `diptych data subset`: a list of some images of a source, to be trained on and passed on.

use super::Answer;
use anyhow::Result;
use diptych::data;
use diptych::data::subset::{Cuts, Frequency, IndexList, Rule, Tail};
use serde_json::json;
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true).multiple(true),
    group = clap::ArgGroup::new("rule"),
    after_help = "Examples:\n  \
        diptych data subset imagenet/ --fraction 0.01 --out 1percent.txt\n  \
        diptych data subset cifar10/ --long-tail 100 --seed 1 --out lt100.txt\n  \
        diptych data subset imagenet/ --classes imagenet100 --out imagenet100.txt\n  \
        diptych data subset imagenet/ --list ImageNet_LT_train.txt --out lt.txt\n\n\
        Use the list as `data.subset=FILE`. The same seed and a smaller fraction, count or a steeper tail keep a part of what \
        larger ones keep."
)]
pub(super) struct Arguments {
    /// What `diptych data show` takes
    source: String,
    /// The list to write
    #[arg(long)]
    out: PathBuf,
    /// A class-balanced share of all images, above 0 and at most 1
    #[arg(long, value_name = "P", groups = ["what", "rule"])]
    fraction: Option<f64>,
    /// The same number of images of each class
    #[arg(long, value_name = "N", groups = ["what", "rule"])]
    per_class: Option<usize>,
    /// A long tail: the first class has RHO times the images of the last, and the counts between fall by equal factors
    #[arg(long, value_name = "RHO", groups = ["what", "rule"])]
    long_tail: Option<f64>,
    /// Let the long tail fall once, half-way, to one RHO-th
    // Where another rule is given, clap does not miss the long tail.
    #[arg(long, requires = "long_tail", conflicts_with_all = ["fraction", "per_class", "list"])]
    step: bool,
    /// Images of the first class of the long tail [default: as many as all classes can follow]
    #[arg(long, value_name = "N", requires = "long_tail", conflicts_with_all = ["fraction", "per_class", "list"])]
    largest: Option<usize>,
    /// Only these classes: names set apart by commas, a file that lists them, or `imagenet100`
    #[arg(long, value_name = "NAMES", value_delimiter = ',', group = "what")]
    classes: Vec<String>,
    /// A list of others: indices, or file names as the official lists of ImageNet have them
    #[arg(long, value_name = "FILE", groups = ["what", "rule"], conflicts_with = "classes")]
    list: Option<PathBuf>,
    /// Which split [default: the one that is trained on]
    #[arg(long)]
    split: Option<String>,
    /// Another seed keeps other images
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Arguments {
    fn rule(&self) -> Rule {
        match (self.fraction, self.per_class, self.long_tail) {
            (Some(share), ..) => Rule::Fraction(share),
            (_, Some(count), _) => Rule::PerClass(count),
            (.., Some(ratio)) => {
                let tail = if self.step { Tail::Step } else { Tail::Exponential };
                Rule::LongTail { ratio, tail, largest: self.largest }
            }
            _ => Rule::All,
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let source = data::open(&arguments.source)?;
    let split = arguments.split.as_deref();
    let list = if let Some(path) = &arguments.list {
        IndexList::read(path, &source, split)?
    } else {
        let rule = arguments.rule();
        IndexList::draw(&source, split, &arguments.classes, &rule, arguments.seed)?
    };
    list.save(&arguments.out)?;
    let per_class = list.per_class(&source);
    let kept: Vec<usize> = per_class.iter().copied().filter(|count| *count > 0).collect();
    let (least, most) = (kept.iter().min().unwrap_or(&0), kept.iter().max().unwrap_or(&0));
    let groups = |cuts: Cuts| {
        let found = cuts.groups(&kept);
        [Frequency::Many, Frequency::Medium, Frequency::Few]
            .map(|group| found.iter().filter(|known| **known == group).count())
    };
    let [many, medium, few] = groups(Cuts::LIU);
    let text = format!(
        "{} of {} images of `{}` by {}, {} classes with {least} to {most} each\nclasses by training images: {many} above \
         100, {medium} with 20 to 100, {few} below 20\n{}",
        list.indices.len(),
        list.images,
        list.split,
        list.rule,
        kept.len(),
        arguments.out.display()
    );
    let json = json!({
        "out": arguments.out,
        "source": list.source,
        "split": list.split,
        "rule": list.rule,
        "seed": list.seed,
        "images": list.indices.len(),
        "of": list.images,
        "classes": kept.len(),
        "per_class": per_class,
        "many": many,
        "medium": medium,
        "few": few,
        "fingerprint": list.apply(&source)?.fingerprint,
    });
    Ok(Answer { text, json })
}
