//! What a scan found, for programs and for people.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Pairs shown to people; programs get all.
const SHOWN: usize = 10;

/// Where an image lies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Its split.
    pub split: String,
    /// Index within the split.
    pub index: usize,
    /// What it is called.
    pub path: String,
    /// Its class id.
    pub label: Option<u32>,
}

/// Two images that are one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The one in the split that comes first, or the lower index.
    pub first: Place,
    /// The other.
    pub second: Place,
    /// Whether all pixels are equal.
    pub exact: bool,
    /// Whether one is the other with left and right exchanged.
    #[serde(default)]
    pub mirrored: bool,
    /// Correlation after laying one over the other; 1 where all pixels are equal.
    pub similarity: f64,
    /// The same of their details.
    pub detail: f64,
}

impl Pair {
    /// Whether the images lie in different splits.
    pub fn across_splits(&self) -> bool {
        self.first.split != self.second.split
    }

    /// Whether both have a label and these differ.
    pub fn labels_differ(&self) -> bool {
        self.first.label.zip(self.second.label).is_some_and(|(first, second)| first != second)
    }
}

/// What the scan found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Images in all splits.
    pub images: usize,
    /// Images that cannot be decoded.
    pub damaged: usize,
    /// Images of one colour, of which only equal ones are found.
    pub flat: usize,
    /// For every two splits, how many images of the later one occur in the earlier one; for every split with itself, how
    /// many occur earlier in it.
    pub counts: Vec<Count>,
    /// All pairs: equal ones first, then by falling similarity. Of several equal images each is paired with the first.
    pub pairs: Vec<Pair>,
}

/// How many images of a split occur in another, or earlier in the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// The split whose images are counted.
    pub split: String,
    /// The split they occur in.
    pub found_in: String,
    /// Images of `split`.
    pub images: usize,
    /// Those with all pixels equal.
    pub exact: usize,
    /// Those that are near-duplicates and not equal.
    pub near: usize,
    /// Those of which only a mirrored copy is there, equal or nearly.
    #[serde(default)]
    pub mirrored: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} images, {} damaged, {} of one colour",
            self.images, self.damaged, self.flat
        )?;
        for count in &self.counts {
            let Count { split, found_in, images, exact, near, mirrored } = count;
            let place = if split == found_in {
                "occur earlier in it".to_owned()
            } else {
                format!("occur in {found_in}")
            };
            let share = 100.0 * (exact + near + mirrored) as f64 / *images as f64;
            writeln!(
                f,
                "  {split}: {exact} equal, {near} nearly equal and {mirrored} mirrored of {images} images ({share:.2} %) {place}"
            )?;
        }
        let across = self.pairs.iter().filter(|pair| pair.across_splits()).count();
        if across == 0 {
            writeln!(f, "  no image occurs in two splits")?;
        }
        for pair in self.pairs.iter().take(SHOWN) {
            let Pair { first, second, similarity, .. } = pair;
            let how = if pair.exact { "equal".to_owned() } else { format!("{similarity:.3}") };
            let mirrored = if pair.mirrored { " mirrored" } else { "" };
            let differ = if pair.labels_differ() { " (labels differ)" } else { "" };
            writeln!(
                f,
                "    {how}{mirrored}  {} of {}, {} of {}{differ}",
                first.path, first.split, second.path, second.split
            )?;
        }
        if self.pairs.len() > SHOWN {
            writeln!(f, "    and {} more", self.pairs.len() - SHOWN)?;
        }
        Ok(())
    }
}
