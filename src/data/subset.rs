//! A part of a data set: by seeded choice, by class, by a list of indices.

mod draw;
mod frequency;
mod list;

pub use draw::{Rule, Tail, balanced_counts, draw, long_tail_counts};
pub use frequency::{Cuts, Frequency};
pub use list::IndexList;

use super::{Dataset, Image, Object, Presence, Source};
use crate::error::{Error, Result};
use crate::overrides::nearest;
use crate::random::{Purpose, Scope, Stream};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// The classes of ImageNet-100, as published with Contrastive Multiview Coding (Tian et al. 2019, arXiv:1906.05849) and
/// used since, by their names in ImageNet's folders.
const IMAGENET_100: &str = include_str!("imagenet100.txt");

/// Some images of another data set, under indices of their own.
pub struct Subset {
    whole: Arc<dyn Dataset>,
    indices: Vec<u32>,
}

impl Subset {
    /// The images at `indices` of `whole`, in that order.
    ///
    /// # Errors
    /// [`Error::Data`] when an index lies outside of `whole`.
    pub fn new(whole: Arc<dyn Dataset>, indices: Vec<u32>) -> Result<Self> {
        let count = whole.len();
        if let Some(index) = indices.iter().find(|index| **index as usize >= count) {
            return Err(Error::Data(format!(
                "there is no image {index}, the data set has {count}"
            )));
        }
        Ok(Self { whole, indices })
    }

    /// Index within the whole data set.
    pub fn original(&self, index: usize) -> usize {
        self.indices[index] as usize
    }
}

impl Dataset for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.whole.label(self.original(index))
    }

    fn presence(&self, index: usize) -> Option<Vec<Presence>> {
        self.whole.presence(self.original(index))
    }

    fn path(&self, index: usize) -> String {
        self.whole.path(self.original(index))
    }

    fn image(&self, index: usize) -> Result<Image> {
        self.whole.image(self.original(index))
    }

    fn part_mask(&self, index: usize) -> Option<Vec<u8>> {
        self.whole.part_mask(self.original(index))
    }

    fn codec(&self, index: usize) -> Option<&'static str> {
        self.whole.codec(self.original(index))
    }

    fn objects(&self, index: usize) -> Result<Vec<Object>> {
        self.whole.objects(self.original(index))
    }

    fn constant_channels(&self) -> usize {
        self.whole.constant_channels()
    }

    fn constants(&self, index: usize, image: &Image) -> Vec<u8> {
        self.whole.constants(self.original(index), image)
    }
}

/// The first `n` images after a seeded shuffle, in the order of the data set; all of them if it has no more.
///
/// A smaller limit keeps a part of what a larger one keeps under the same seed.
pub fn limit(dataset: Arc<dyn Dataset>, n: usize, seed: u64) -> Arc<dyn Dataset> {
    if n >= dataset.len() {
        return dataset;
    }
    let mut shuffled = shuffled(dataset.len(), seed, 0);
    shuffled.truncate(n);
    Arc::new(sorted(dataset, shuffled))
}

/// Cuts a data set into (kept, held out) by a seeded shuffle; the second holds `fraction` of the images, rounded.
///
/// # Errors
/// [`Error::Data`] when `fraction` is not within (0, 1) or leaves either side empty.
pub fn holdout(
    dataset: &Arc<dyn Dataset>,
    fraction: f64,
    seed: u64,
) -> Result<(Arc<dyn Dataset>, Arc<dyn Dataset>)> {
    if !(fraction > 0.0 && fraction < 1.0) {
        return Err(Error::Data(format!(
            "`data.holdout` must lie between 0 and 1, found `{fraction}`"
        )));
    }
    let count = dataset.len();
    let out = (count as f64 * fraction).round() as usize;
    if out == 0 || out == count {
        return Err(Error::Data(format!(
            "`data.holdout={fraction}` of {count} images leaves one side empty, choose another fraction"
        )));
    }
    let mut held_out = shuffled(count, seed, 1);
    let kept = held_out.split_off(out);
    Ok((Arc::new(sorted(dataset.clone(), kept)), Arc::new(sorted(dataset.clone(), held_out))))
}

/// The images that a class-balanced draw of labels keeps ([`Rule::Fraction`]), in the order of the data set. A smaller
/// fraction keeps a part of what a larger one keeps under the same seed.
///
/// # Errors
/// [`Error::Data`] when `fraction` is not in (0, 1], no image has a label, or nothing is kept.
pub fn label_fraction(
    dataset: &Arc<dyn Dataset>,
    fraction: f64,
    seed: u64,
) -> Result<Arc<dyn Dataset>> {
    let labels: Vec<Option<u32>> = (0..dataset.len()).map(|index| dataset.label(index)).collect();
    let indices = draw(&labels, &Rule::Fraction(fraction), seed)
        .map_err(|error| Error::Data(format!("`data.label_fraction`: {error}")))?;
    Ok(Arc::new(Subset { whole: dataset.clone(), indices }))
}

/// Keeps only the images of some classes, in every split.
///
/// `wanted` names the classes, or is `imagenet100` alone, or holds the path of one text file that names them: one or
/// several names a line, set apart by white space or commas (a line that is a name as a whole counts as one), lines
/// beginning with `#` left out. A class's new label is its rank among the sorted names that are kept, whatever the order
/// in which they are given: so ImageNet-100 is labelled by its published loaders. Images without a label are dropped, splits
/// left empty as well. The fingerprint changes with the choice.
///
/// # Errors
/// [`Error::Data`] when the source has no class of such a name, naming the nearest, or nothing is left.
pub fn classes(source: &Source, wanted: &[String]) -> Result<Source> {
    let kept = chosen(source, wanted)?;
    let rank = |name: &String| kept.iter().position(|kept| kept == name).map(|rank| rank as u32);
    let labels: Vec<Option<u32>> = source.classes.iter().map(rank).collect();
    let mut splits: Vec<(String, Arc<dyn Dataset>)> = Vec::new();
    for (name, split) in &source.splits {
        let label = |index: usize| split.label(index).and_then(|label| labels[label as usize]);
        let indices: Vec<u32> =
            (0..split.len()).filter(|index| label(*index).is_some()).map(|i| i as u32).collect();
        if !indices.is_empty() {
            let part = Subset { whole: split.clone(), indices };
            splits.push((name.clone(), Arc::new(Relabelled { part, labels: labels.clone() })));
        }
    }
    if splits.is_empty() {
        return Err(Error::Data(format!(
            "`{}` holds no image of the classes of `data.classes`",
            source.location
        )));
    }
    let classes: Vec<String> = kept.into_iter().collect();
    let chosen = serde_json::json!(["classes", source.fingerprint, classes]).to_string();
    Ok(Source {
        format: format!("{}, {} of {} classes", source.format, classes.len(), source.classes.len()),
        location: source.location.clone(),
        classes,
        splits,
        fingerprint: blake3::hash(chosen.as_bytes()).to_hex().to_string(),
    })
}

/// The classes that are named, sorted; see [`classes`].
///
/// # Errors
/// [`Error::Data`] when the source has no class of such a name, naming the nearest.
fn chosen(source: &Source, wanted: &[String]) -> Result<BTreeSet<String>> {
    let names: BTreeSet<String> = match wanted {
        [one] if !source.classes.contains(one) && one == "imagenet100" => {
            IMAGENET_100.split_whitespace().map(str::to_owned).collect()
        }
        [one] if !source.classes.contains(one) && Path::new(one).is_file() => {
            listed(Path::new(one), &source.classes)?.into_iter().collect()
        }
        several => several.iter().cloned().collect(),
    };
    if let Some(unknown) = names.iter().find(|name| !source.classes.contains(name)) {
        let near = nearest(unknown, source.classes.iter().map(String::as_str));
        let near = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None if source.classes.is_empty() => "it has no classes".to_owned(),
            None => format!(
                "it has {} classes, the first is `{}`",
                source.classes.len(),
                source.classes[0]
            ),
        };
        return Err(Error::Data(format!("`{}` has no class `{unknown}`; {near}", source.location)));
    }
    Ok(names)
}

/// The names in a text file.
fn listed(file: &Path, known: &[String]) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| Error::Data(format!("cannot read class list `{}`: {e}", file.display())))?;
    let mut names = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if known.iter().any(|name| name == line) {
            names.push(line.to_owned());
        } else {
            let words = line.split(|c: char| c == ',' || c.is_whitespace());
            names.extend(words.filter(|word| !word.is_empty()).map(str::to_owned));
        }
    }
    if names.is_empty() {
        return Err(Error::Data(format!("class list `{}` names no class", file.display())));
    }
    Ok(names)
}

/// Images under labels of their own.
struct Relabelled {
    part: Subset,
    /// New label by old one.
    labels: Vec<Option<u32>>,
}

impl Dataset for Relabelled {
    fn len(&self) -> usize {
        self.part.len()
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.part.label(index).and_then(|label| self.labels[label as usize])
    }

    fn path(&self, index: usize) -> String {
        self.part.path(index)
    }

    fn image(&self, index: usize) -> Result<Image> {
        self.part.image(index)
    }

    fn part_mask(&self, index: usize) -> Option<Vec<u8>> {
        self.part.part_mask(index)
    }

    fn codec(&self, index: usize) -> Option<&'static str> {
        self.part.codec(index)
    }

    fn objects(&self, index: usize) -> Result<Vec<Object>> {
        self.part.objects(index)
    }

    fn constant_channels(&self) -> usize {
        self.part.constant_channels()
    }

    fn constants(&self, index: usize, image: &Image) -> Vec<u8> {
        self.part.constants(index, image)
    }
}

/// Limit and holdout draw from streams of their own (`item`), so that one does not bias the other.
fn shuffled(count: usize, seed: u64, item: u64) -> Vec<u32> {
    let order = Stream::open(seed, Purpose::Subset, Scope::Item(item)).permutation(count);
    order.into_iter().map(|index| index as u32).collect()
}

fn sorted(whole: Arc<dyn Dataset>, mut indices: Vec<u32>) -> Subset {
    indices.sort_unstable();
    Subset { whole, indices }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::Numbers;

    fn numbers(count: usize) -> Arc<dyn Dataset> {
        Arc::new(Numbers(count))
    }

    fn members(dataset: &dyn Dataset) -> Vec<u8> {
        (0..dataset.len()).map(|index| dataset.image(index).unwrap().pixels[0]).collect()
    }

    #[test]
    fn a_limit_keeps_a_seeded_choice_that_grows_with_it() {
        let of = |n, seed| members(limit(numbers(100), n, seed).as_ref());
        let (few, more) = (of(10, 1), of(40, 1));
        assert_eq!((few.len(), more.len()), (10, 40));
        assert!(few.iter().all(|member| more.contains(member)));
        assert_eq!(few, of(10, 1));
        assert_ne!(few, of(10, 2));
        assert_eq!(of(100, 1), of(1000, 1));
        let sub = limit(numbers(100), 10, 1);
        let label = sub.label(3).unwrap();
        assert_eq!(label, u32::from(few[3]) % 7);
        assert_eq!(sub.path(3), few[3].to_string());
    }

    #[test]
    fn a_holdout_cuts_without_overlap_or_loss() {
        let (kept, out) = holdout(&numbers(50), 0.3, 4).unwrap();
        assert_eq!((kept.len(), out.len()), (35, 15));
        let mut both = [members(kept.as_ref()), members(out.as_ref())].concat();
        assert_ne!(both, (0..50).collect::<Vec<u8>>());
        both.sort_unstable();
        assert_eq!(both, (0..50).collect::<Vec<u8>>());
        for (fraction, count) in [(1.5, 50), (-0.1, 50), (f64::NAN, 50), (0.001, 50), (0.5, 1)] {
            assert!(holdout(&numbers(count), fraction, 4).is_err(), "{fraction} of {count}");
        }
    }

    #[test]
    fn indices_must_exist() {
        assert!(Subset::new(numbers(3), vec![0, 2]).is_ok());
        assert!(Subset::new(numbers(3), vec![0, 3]).is_err());
    }

    fn digits() -> Source {
        Source {
            format: "numbers".to_owned(),
            location: "here".to_owned(),
            classes: ["red", "dark blue", "tan", "green", "blue", "ash", "pink"]
                .map(str::to_owned)
                .to_vec(),
            splits: vec![("train".to_owned(), numbers(70)), ("test".to_owned(), numbers(3))],
            fingerprint: "f00d".to_owned(),
        }
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn classes_are_ranked_among_the_sorted_names_that_are_kept() {
        // Labels 5 (ash), 3 (green) and 0 (red) become 0, 1 and 2, in whatever order they are named.
        let kept = classes(&digits(), &owned(&["red", "ash", "green", "ash"])).unwrap();
        assert_eq!(kept.classes, ["ash", "green", "red"]);
        let train = kept.split("train").unwrap();
        assert_eq!(members(train.as_ref())[..7], [0, 3, 5, 7, 10, 12, 14]);
        let labels = crate::data::labels(train.as_ref()).unwrap();
        assert_eq!((labels.len(), &labels[..4]), (30, &[2, 1, 0, 2][..]));
        assert_eq!(train.path(1), "3");
        assert_eq!(members(kept.split("test").unwrap().as_ref()), [0]);
        assert_eq!(kept.format, "numbers, 3 of 7 classes");
        let same = classes(&digits(), &owned(&["green", "red", "ash"])).unwrap();
        assert_eq!(same.fingerprint, kept.fingerprint);
        let fewer = classes(&digits(), &owned(&["green", "red"])).unwrap();
        assert!(fewer.fingerprint != kept.fingerprint && kept.fingerprint != "f00d");
        // A split without any of them goes.
        assert!(classes(&digits(), &owned(&["pink"])).unwrap().split("test").is_none());
    }

    #[test]
    fn a_list_file_holds_one_or_several_names_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("some.txt");
        std::fs::write(&file, "# chosen\nred green,ash\n\ndark blue\n").unwrap();
        let kept = classes(&digits(), &owned(&[file.to_str().unwrap()])).unwrap();
        assert_eq!(kept.classes, ["ash", "dark blue", "green", "red"]);
        std::fs::write(&file, "# nothing\n").unwrap();
        let empty = classes(&digits(), &owned(&[file.to_str().unwrap()])).map(|_| ());
        assert!(empty.unwrap_err().to_string().contains("names no class"));
    }

    #[test]
    fn imagenet_100_is_known_by_name() {
        let mut names: Vec<String> = IMAGENET_100.split_whitespace().map(str::to_owned).collect();
        let published = names.clone();
        assert!(published.is_sorted() && published.len() == 100);
        assert_eq!(published.iter().collect::<BTreeSet<_>>().len(), 100);
        assert_eq!((published[0].as_str(), published[99].as_str()), ("n01558993", "n13040303"));
        names.insert(1, "n01560419".to_owned());
        let whole = Source { classes: names, ..digits() };
        let kept = classes(&whole, &owned(&["imagenet100"])).unwrap();
        assert_eq!(kept.classes, published);
        // Labels 0, 2, 3, … keep their order; 1 is gone.
        let labels = crate::data::labels(kept.split("train").unwrap().as_ref()).unwrap();
        assert_eq!(labels[..8], [0, 1, 2, 3, 4, 5, 0, 1]);
        let text = classes(&digits(), &owned(&["imagenet100"])).map(|_| ()).unwrap_err();
        assert!(text.to_string().contains("no class `n01558993`"), "{text}");
    }

    #[test]
    fn an_unknown_class_is_answered_with_the_nearest() {
        let failure =
            |names: &[&str]| classes(&digits(), &owned(names)).map(|_| ()).unwrap_err().to_string();
        let text = failure(&["ash", "grean"]);
        assert!(text.contains("no class `grean`") && text.contains("`green`?"), "{text}");
        assert!(failure(&["n01558993"]).contains("7 classes, the first is `red`"));
        let bare = Source { classes: Vec::new(), ..digits() };
        let text = classes(&bare, &owned(&["red"])).map(|_| ()).unwrap_err().to_string();
        assert!(text.contains("it has no classes"), "{text}");
    }
}
