//! What a source holds, in numbers: the answer of `diptych data show`.

use super::{Dataset, Source};
use serde::Serialize;
use std::fmt;

/// Images per split whose size and codec are looked at.
const SAMPLE: usize = 64;

/// What a source holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// What it is.
    pub format: String,
    /// Where it was found.
    pub location: String,
    /// Hash of its content.
    pub fingerprint: String,
    /// Class names by label.
    pub classes: Vec<String>,
    /// Its splits.
    pub splits: Vec<SplitSummary>,
}

/// What a split holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SplitSummary {
    /// Its name.
    pub name: String,
    /// Number of images.
    pub images: usize,
    /// Images of each class, by label; empty without labels.
    pub per_class: Vec<usize>,
    /// Images without a label.
    pub unlabelled: usize,
    /// What the first images look like; `None` if none of them can be decoded.
    pub sample: Option<Sample>,
    /// Why images of the sample could not be decoded.
    pub damaged: Vec<String>,
}

/// Sizes and codecs of the first (at most 64) images of a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// How many were decoded.
    pub images: usize,
    /// Narrowest and widest, in pixels.
    pub width: (usize, usize),
    /// Lowest and highest, in pixels.
    pub height: (usize, usize),
    /// Codecs found; empty for images that are not stored but made.
    pub codecs: Vec<String>,
}

/// Counts a source and decodes a few of its images.
pub fn summary(source: &Source) -> Summary {
    Summary {
        format: source.format.clone(),
        location: source.location.clone(),
        fingerprint: source.fingerprint.clone(),
        classes: source.classes.clone(),
        splits: source
            .splits
            .iter()
            .map(|(name, split)| split_summary(name, split.as_ref(), source.classes.len()))
            .collect(),
    }
}

fn split_summary(name: &str, split: &dyn Dataset, classes: usize) -> SplitSummary {
    let mut per_class = vec![0; classes];
    let mut unlabelled = 0;
    for index in 0..split.len() {
        match split.label(index) {
            Some(label) => per_class[label as usize] += 1,
            None => unlabelled += 1,
        }
    }
    if unlabelled == split.len() {
        per_class.clear();
    }
    let mut sample: Option<Sample> = None;
    let mut damaged = Vec::new();
    for index in 0..split.len().min(SAMPLE) {
        match split.image(index) {
            Err(error) => damaged.push(error.to_string()),
            Ok(image) => {
                let (w, h) = (image.width, image.height);
                let seen = sample.get_or_insert(Sample {
                    images: 0,
                    width: (w, w),
                    height: (h, h),
                    codecs: Vec::new(),
                });
                seen.images += 1;
                seen.width = (seen.width.0.min(w), seen.width.1.max(w));
                seen.height = (seen.height.0.min(h), seen.height.1.max(h));
                if let Some(codec) = split.codec(index)
                    && !seen.codecs.iter().any(|known| known == codec)
                {
                    seen.codecs.push(codec.to_owned());
                }
            }
        }
    }
    SplitSummary {
        name: name.to_owned(),
        images: split.len(),
        per_class,
        unlabelled,
        sample,
        damaged,
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.location)?;
        writeln!(f, "  format       {}", self.format)?;
        writeln!(f, "  fingerprint  {}", self.fingerprint)?;
        match self.classes.len() {
            0 => writeln!(f, "  classes      none (unlabelled)")?,
            count => writeln!(f, "  classes      {count}: {}", shortened(&self.classes))?,
        }
        for split in &self.splits {
            write!(f, "  split        {}: {} images", split.name, split.images)?;
            if let (Some(least), Some(most)) =
                (split.per_class.iter().min(), split.per_class.iter().max())
            {
                if least == most {
                    write!(f, ", {least} per class")?;
                } else {
                    write!(f, ", {least} to {most} per class")?;
                }
            }
            if split.unlabelled > 0 && !self.classes.is_empty() {
                write!(f, ", {} without a label", split.unlabelled)?;
            }
            if let Some(sample) = &split.sample {
                if split.images > sample.images {
                    write!(f, "; the first {}:", sample.images)?;
                } else {
                    write!(f, ";")?;
                }
                write!(f, " {} wide, {} high", span(sample.width), span(sample.height))?;
                if !sample.codecs.is_empty() {
                    write!(f, ", {}", sample.codecs.join(" and "))?;
                }
            }
            writeln!(f)?;
            for why in &split.damaged {
                writeln!(f, "    damaged: {why}")?;
            }
        }
        Ok(())
    }
}

fn span((least, most): (usize, usize)) -> String {
    if least == most { format!("{least} px") } else { format!("{least} to {most} px") }
}

fn shortened(names: &[String]) -> String {
    match names {
        [first @ .., last] if names.len() > 12 => {
            format!("{}, ..., {last}", first[..10].join(", "))
        }
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Source, testing::Numbers};
    use std::sync::Arc;

    #[test]
    fn counts_and_shows() {
        let source = Source {
            format: "numbers".to_owned(),
            location: "here".to_owned(),
            classes: (0..7).map(|class| class.to_string()).collect(),
            splits: vec![("train".to_owned(), Arc::new(Numbers(100)))],
            fingerprint: "f00d".to_owned(),
        };
        let summary = summary(&source);
        let train = &summary.splits[0];
        assert_eq!(train.per_class, [15, 15, 14, 14, 14, 14, 14]);
        assert_eq!((train.images, train.unlabelled), (100, 0));
        let sample = train.sample.as_ref().unwrap();
        assert_eq!((sample.images, sample.width, sample.height), (64, (1, 1), (1, 1)));
        assert_eq!(
            summary.to_string(),
            "here\n  format       numbers\n  fingerprint  f00d\n  classes      7: 0, 1, 2, 3, 4, 5, 6\n  \
             split        train: 100 images, 14 to 15 per class; the first 64: 1 px wide, 1 px high\n"
        );
        assert_eq!(serde_json::to_value(&summary).unwrap()["splits"][0]["per_class"][2], 14);
    }
}
