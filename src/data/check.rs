//! Every image of a source decoded once: what is damaged, what occurs twice, which classes are empty. The answer of
//! `diptych data check`.

use super::{Dataset, Source};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Images decoded between two calls of the progress function.
const CHUNK: usize = 256;

/// Entries of each list shown to people; programs get all.
const SHOWN: usize = 10;

/// What a source is worth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is.
    pub format: String,
    /// Where it was found.
    pub location: String,
    /// Hash of its content.
    pub fingerprint: String,
    /// Class names by label.
    pub classes: Vec<String>,
    /// Images in all splits.
    pub images: usize,
    /// Images that cannot be used, in all splits.
    pub damaged: usize,
    /// Its splits.
    pub splits: Vec<SplitCheck>,
    /// Images whose decoded pixels are the same, in groups of two or more.
    pub duplicates: Vec<Duplicate>,
}

/// What a split is worth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SplitCheck {
    /// Its name.
    pub name: String,
    /// Number of images.
    pub images: usize,
    /// Images without a label.
    pub unlabelled: usize,
    /// Smallest and largest label; `None` without labels.
    pub labels: Option<(u32, u32)>,
    /// Images of each class, by label; empty without labels.
    pub per_class: Vec<usize>,
    /// Names of classes without an image, in a split with labels.
    pub empty_classes: Vec<String>,
    /// Narrowest and widest decoded image, in pixels.
    pub width: Option<(usize, usize)>,
    /// Lowest and highest decoded image, in pixels.
    pub height: Option<(usize, usize)>,
    /// Images that cannot be used.
    pub damaged: Vec<DamagedImage>,
}

/// An image that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DamagedImage {
    /// Index within the split.
    pub index: usize,
    /// What it is called.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Images with the same pixels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Duplicate {
    /// Whether they lie in different splits.
    pub across_splits: bool,
    /// Whether they have different labels.
    pub labels_differ: bool,
    /// The images, by split and index.
    pub images: Vec<Twin>,
}

/// One of several images with the same pixels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Twin {
    /// Its split.
    pub split: String,
    /// Index within the split.
    pub index: usize,
    /// What it is called.
    pub path: String,
    /// Its class id.
    pub label: Option<u32>,
}

/// What is kept of an image.
type Seen = Result<([u8; 32], usize, usize), String>;

/// Decodes every image of every split on all cores, holding 32 bytes of hash (BLAKE3 of size and pixels) an image.
///
/// `progress` is told how many of how many images are done, from several threads.
pub fn check(source: &Source, progress: &(dyn Fn(usize, usize) + Sync)) -> Check {
    let images = source.splits.iter().map(|(_, split)| split.len()).sum();
    let done = AtomicUsize::new(0);
    let mut splits = Vec::new();
    let mut hashes: Vec<([u8; 32], u32, u32)> = Vec::new();
    for (number, (name, split)) in source.splits.iter().enumerate() {
        let seen: Vec<Seen> = (0..split.len())
            .into_par_iter()
            .with_max_len(CHUNK)
            .map(|index| {
                let seen = look(split.as_ref(), index, source.classes.len());
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                if done.is_multiple_of(CHUNK) || done == images {
                    progress(done, images);
                }
                seen
            })
            .collect();
        let found =
            seen.iter().enumerate().filter_map(|(index, seen)| Some((index, seen.as_ref().ok()?)));
        hashes.extend(found.map(|(index, (hash, ..))| (*hash, number as u32, index as u32)));
        splits.push(split_check(name, split.as_ref(), &source.classes, seen));
    }
    hashes.par_sort_unstable();
    Check {
        format: source.format.clone(),
        location: source.location.clone(),
        fingerprint: source.fingerprint.clone(),
        classes: source.classes.clone(),
        images,
        damaged: splits.iter().map(|split| split.damaged.len()).sum(),
        splits,
        duplicates: duplicates(source, &hashes),
    }
}

fn look(split: &dyn Dataset, index: usize, classes: usize) -> Seen {
    if let Some(label) = split.label(index).filter(|label| *label as usize >= classes) {
        return Err(format!(
            "`{}` has label `{label}`, there are {classes} classes",
            split.path(index)
        ));
    }
    let image = split.image(index).map_err(|error| error.to_string())?;
    let mut hash = blake3::Hasher::new();
    hash.update(&(image.width as u64).to_le_bytes()).update(&(image.height as u64).to_le_bytes());
    Ok((*hash.update(&image.pixels).finalize().as_bytes(), image.width, image.height))
}

fn split_check(name: &str, split: &dyn Dataset, classes: &[String], seen: Vec<Seen>) -> SplitCheck {
    let mut per_class = vec![0; classes.len()];
    let mut labels: Option<(u32, u32)> = None;
    let mut unlabelled = 0;
    for index in 0..split.len() {
        let Some(label) = split.label(index) else {
            unlabelled += 1;
            continue;
        };
        let (least, most) = labels.unwrap_or((label, label));
        labels = Some((least.min(label), most.max(label)));
        if let Some(count) = per_class.get_mut(label as usize) {
            *count += 1;
        }
    }
    if labels.is_none() {
        per_class.clear();
    }
    let empty = classes.iter().zip(&per_class).filter(|(_, count)| **count == 0);
    let empty_classes = empty.map(|(name, _)| name.clone()).collect();
    let (mut width, mut height, mut damaged) = (None, None, Vec::new());
    for (index, seen) in seen.into_iter().enumerate() {
        match seen {
            Ok((_, w, h)) => {
                width = Some(wider(width, w));
                height = Some(wider(height, h));
            }
            Err(reason) => damaged.push(DamagedImage { index, path: split.path(index), reason }),
        }
    }
    SplitCheck {
        name: name.to_owned(),
        images: split.len(),
        unlabelled,
        labels,
        per_class,
        empty_classes,
        width,
        height,
        damaged,
    }
}

fn wider(range: Option<(usize, usize)>, value: usize) -> (usize, usize) {
    range.map_or((value, value), |(least, most)| (least.min(value), most.max(value)))
}

/// Groups of equal hashes among sorted ones, in the order of their first images.
fn duplicates(source: &Source, hashes: &[([u8; 32], u32, u32)]) -> Vec<Duplicate> {
    let mut groups = BTreeMap::new();
    for group in hashes.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
        let images: Vec<Twin> = group
            .iter()
            .map(|(_, split, index)| {
                let (name, split) = &source.splits[*split as usize];
                let index = *index as usize;
                let (path, label) = (split.path(index), split.label(index));
                Twin { split: name.clone(), index, path, label }
            })
            .collect();
        let first = &group[0];
        let across_splits = group.iter().any(|(_, split, _)| *split != first.1);
        let labels_differ = images.iter().any(|image| image.label != images[0].label);
        groups.insert((first.1, first.2), Duplicate { across_splits, labels_differ, images });
    }
    groups.into_values().collect()
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.location)?;
        writeln!(f, "  format       {}", self.format)?;
        writeln!(f, "  fingerprint  {}", self.fingerprint)?;
        for split in &self.splits {
            write!(f, "  split        {}: {} images", split.name, split.images)?;
            if let (Some(least), Some(most)) =
                (split.per_class.iter().min(), split.per_class.iter().max())
            {
                write!(f, " in {} classes of {least} to {most}", split.per_class.len())?;
            }
            if split.unlabelled > 0 {
                write!(f, ", {} without a label", split.unlabelled)?;
            }
            writeln!(f)?;
            some(f, "damaged", &split.damaged, |image| image.reason.clone())?;
            some(f, "empty classes", &split.empty_classes, Clone::clone)?;
        }
        let copy = |duplicate: &Duplicate| {
            let images: Vec<String> = duplicate
                .images
                .iter()
                .take(SHOWN)
                .map(|image| format!("{} of {}", image.path, image.split))
                .collect();
            let differ = if duplicate.labels_differ { " (labels differ)" } else { "" };
            format!("{}{differ}", images.join(" = "))
        };
        let (across, within): (Vec<&Duplicate>, Vec<&Duplicate>) =
            self.duplicates.iter().partition(|duplicate| duplicate.across_splits);
        some(f, "duplicates across splits", &across, |group| copy(group))?;
        some(f, "duplicates within a split", &within, |group| copy(group))?;
        match self.damaged {
            0 => writeln!(f, "  all {} images can be decoded", self.images),
            damaged => writeln!(f, "  {damaged} of {} images are damaged", self.images),
        }
    }
}

/// The first of a list, one a line, with its length.
fn some<T>(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    list: &[T],
    shown: impl Fn(&T) -> String,
) -> fmt::Result {
    if list.is_empty() {
        return Ok(());
    }
    writeln!(f, "    {what}: {}", list.len())?;
    for item in list.iter().take(SHOWN) {
        writeln!(f, "      {}", shown(item))?;
    }
    if list.len() > SHOWN {
        writeln!(f, "      and {} more (--json lists all)", list.len() - SHOWN)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Image, testing::Numbers};
    use crate::error::{Error, Result};
    use std::sync::{Arc, Mutex};

    /// Numbers 0 to 299, of which every hundredth is damaged; pixels wrap at 256.
    struct Holed(Numbers);

    impl Dataset for Holed {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn label(&self, index: usize) -> Option<u32> {
            Some(index as u32 % 7).filter(|label| *label < 5)
        }
        fn path(&self, index: usize) -> String {
            self.0.path(index)
        }
        fn image(&self, index: usize) -> Result<Image> {
            if index % 100 == 99 {
                return Err(Error::Data(format!("`{index}` is damaged")));
            }
            self.0.image(index)
        }
    }

    fn source(splits: Vec<(&str, Arc<dyn Dataset>)>) -> Source {
        Source {
            format: "numbers".to_owned(),
            location: "here".to_owned(),
            classes: (0..7).map(|class| format!("c{class}")).collect(),
            splits: splits.into_iter().map(|(name, split)| (name.to_owned(), split)).collect(),
            fingerprint: "f00d".to_owned(),
        }
    }

    #[test]
    fn counts_damage_copies_and_empty_classes() {
        let train: Arc<dyn Dataset> = Arc::new(Holed(Numbers(300)));
        let told = Mutex::new(Vec::new());
        let source = source(vec![("train", train), ("test", Arc::new(Numbers(3)))]);
        let found = check(&source, &|done, all| told.lock().unwrap().push((done, all)));
        assert_eq!((found.images, found.damaged), (303, 3));
        assert!(told.lock().unwrap().contains(&(303, 303)));
        let train = &found.splits[0];
        let damaged: Vec<usize> = train.damaged.iter().map(|image| image.index).collect();
        assert_eq!(damaged, [99, 199, 299]);
        assert_eq!(train.damaged[0].reason, "`99` is damaged");
        assert_eq!((train.labels, train.unlabelled), (Some((0, 4)), 85));
        assert_eq!(train.empty_classes, ["c5", "c6"]);
        assert_eq!(train.per_class.iter().sum::<usize>(), 215);
        assert_eq!(train.width, Some((1, 1)));
        // 0, 1 and 2 are shown by 256, 257, 258 too, and by the test split; up to 43 by 299 less the damaged one.
        let across: Vec<_> = found.duplicates.iter().filter(|d| d.across_splits).collect();
        assert_eq!((across.len(), found.duplicates.len()), (3, 43));
        let copies: Vec<(&str, usize)> =
            across[1].images.iter().map(|image| (image.split.as_str(), image.index)).collect();
        assert_eq!(copies, [("train", 1), ("train", 257), ("test", 1)]);
        // 257 is 5 modulo 7, so it has no label; 1 has one.
        assert!(across[1].labels_differ);
        let text = found.to_string();
        assert!(text.contains("3 of 303 images are damaged"), "{text}");
        assert!(
            text.contains("duplicates within a split: 40") && text.contains("and 30 more"),
            "{text}"
        );
        assert!(text.lines().count() < 40, "{text}");
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(json["duplicates"].as_array().unwrap().len(), 43);
        assert_eq!(json["splits"][0]["damaged"][2]["path"], "299");
    }

    #[test]
    fn equal_bytes_of_another_size_are_no_copy() {
        struct Flat;
        impl Dataset for Flat {
            fn len(&self) -> usize {
                2
            }
            fn label(&self, index: usize) -> Option<u32> {
                Some(if index == 0 { 0 } else { 9 })
            }
            fn path(&self, index: usize) -> String {
                index.to_string()
            }
            fn image(&self, index: usize) -> Result<Image> {
                Ok(Image { width: 1 + index, height: 2 - index, pixels: vec![7; 6] })
            }
        }
        let found = check(&source(vec![("all", Arc::new(Flat))]), &|_, _| ());
        assert!(found.duplicates.is_empty());
        assert_eq!(found.damaged, 1, "label 9 of 7 classes");
        assert!(found.splits[0].damaged[0].reason.contains("label `9`"));
        assert!(
            check(&source(vec![("all", Arc::new(Numbers(7)))]), &|_, _| ())
                .to_string()
                .contains("all 7 images")
        );
    }
}
