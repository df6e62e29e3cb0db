//! Images and labels, as they lie on disk: the first stage of the flow.
//!
//! [`open`] looks at a path (never at its name alone) and returns a [`Source`] with its splits. A [`Dataset`] hands out
//! one decoded image at a time; order, augmentation and batches belong to [`crate::augment`].

use crate::error::{Error, Result};
use joined::Joined;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub mod check;
mod cifar;
mod competing;
pub mod decode;
mod detect;
mod folder;
#[doc(hidden)]
pub mod idx;
pub mod joined;
mod labels;
#[cfg(test)]
pub(crate) mod mutation;
mod options;
mod parquet;
pub mod pickle;
mod records;
mod stl10;
pub mod subset;
pub mod summary;
pub mod synthetic;
#[doc(hidden)]
pub mod tar;
#[cfg(test)]
mod testing;
pub mod transfer;
pub mod write;

pub use detect::open;
pub use labels::{Labels, MultiLabels, Presence};
pub use summary::{Summary, summary};

/// An RGB image: 8 bits a channel, rows from the top, channels interleaved, `3 · width · height` bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `pixels[3 * (y * width + x) + channel]`.
    pub pixels: Vec<u8>,
}

/// One split: images with stable indices `0..len()`.
pub trait Dataset: Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;
    /// Whether the split holds no image.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Class id of an image, if the source has labels.
    fn label(&self, index: usize) -> Option<u32>;
    /// Which classes an image shows, one mark a class, where it may be any number of them; such images have no
    /// [`Dataset::label`].
    fn presence(&self, _index: usize) -> Option<Vec<Presence>> {
        None
    }
    /// What to call an image in messages and lists: a path or a name within the source.
    fn path(&self, index: usize) -> String;
    /// Decodes an image.
    ///
    /// # Errors
    /// [`crate::error::Error::Data`] when it is damaged, too large or unreadable; the message names the image.
    fn image(&self, index: usize) -> Result<Image>;
    /// Which part of which object each pixel shows (row-major, 0 is background), for made data that knows.
    fn part_mask(&self, _index: usize) -> Option<Vec<u8>> {
        None
    }
    /// How the image is encoded (`JPEG`, `PNG`, ...), if it is.
    fn codec(&self, _index: usize) -> Option<&'static str> {
        None
    }
    /// What was put into the image and where, in the order in which it was put there, for made data that knows.
    ///
    /// # Errors
    /// [`crate::error::Error::Data`] when what was put there is damaged.
    fn objects(&self, _index: usize) -> Result<Vec<Object>> {
        Ok(Vec::new())
    }
    /// Channels that the network sees beside red, green and blue, each of one value all over the image; see
    /// [`Dataset::constants`].
    fn constant_channels(&self) -> usize {
        0
    }
    /// The values of the constant channels of an image, [`Dataset::constant_channels`] many, 0 to 255 like any byte of a
    /// pixel; `image` is what [`Dataset::image`] gives for the index. No augmentation touches them, so all views of an image
    /// share them.
    fn constants(&self, _index: usize, _image: &Image) -> Vec<u8> {
        Vec::new()
    }
}

/// Something that was put into an image.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Object {
    /// Its class.
    pub class: u32,
    /// Index of the picture it was taken from, in the split it was taken from.
    pub item: usize,
    /// Side in pixels to which that picture was brought.
    pub side: usize,
    /// Left, top, width and height of the box that was filled, in pixels of the image.
    pub bounds: [usize; 4],
}

/// Which of `classes` classes are among the objects of an image: a label for images that show several.
///
/// # Errors
/// Those of [`Dataset::objects`].
pub fn multi_hot(dataset: &dyn Dataset, index: usize, classes: usize) -> Result<Vec<bool>> {
    let objects = dataset.objects(index)?;
    Ok((0..classes).map(|class| objects.iter().any(|it| it.class as usize == class)).collect())
}

/// What [`open`] found.
#[derive(Clone)]
pub struct Source {
    /// What the source is, for people: `parquet (Hugging Face layout, JPEG)`, `image folder with classes, JPEG`, ...
    pub format: String,
    /// Where it was found, as given.
    pub location: String,
    /// Names of the classes by label; empty when there are no labels.
    pub classes: Vec<String>,
    /// Splits by name: `train`, `test`, ..., or the single split `all`.
    pub splits: Vec<(String, Arc<dyn Dataset>)>,
    /// Hash of what identifies the content (hexadecimal); equal for a copy at another path.
    pub fingerprint: String,
}

/// Which images of a source are used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Selection {
    /// Most images per split (`data.limit`).
    pub limit: Option<usize>,
    /// Fraction of the training split kept for evaluation (`data.holdout`), within (0, 1); 0 holds out nothing.
    pub holdout: f64,
    /// Class-balanced fraction, in (0, 1], of the training split that is not held out (`data.label_fraction`); `None` for
    /// all of it. What evaluation asks about stays whole.
    pub label_fraction: Option<f64>,
    /// Seed of all these choices.
    pub seed: u64,
}

impl Source {
    /// The split of that name.
    pub fn split(&self, name: &str) -> Option<&Arc<dyn Dataset>> {
        self.splits.iter().find(|(known, _)| known == name).map(|(_, split)| split)
    }

    /// The images to train on: `train`, or the single split, less what is held out; then all of a split `unlabeled`,
    /// `unlabelled` or `unsupervised`, if there is one beside `train` (so STL-10 gives its 105,000 images).
    ///
    /// # Errors
    /// [`Error::Data`] when there are several splits but no `train`, the holdout leaves nothing, or a fraction of labels is
    /// asked for where there are none.
    pub fn for_training(&self, options: &Selection) -> Result<Arc<dyn Dataset>> {
        let split = self.training_split()?.clone();
        let mut kept = if options.holdout == 0.0 {
            split
        } else {
            subset::holdout(&split, options.holdout, options.seed)?.0
        };
        kept = balanced(kept, options)?;
        let beside = UNLABELLED.iter().filter(|_| self.splits.len() > 1);
        if let Some(unlabelled) = beside.into_iter().find_map(|name| self.split(name)) {
            kept = Arc::new(Joined::new(vec![kept, unlabelled.clone()]));
        }
        Ok(limited(kept, options))
    }

    /// References and queries of an evaluation: `train` (without what is unlabelled beside it) and `test` (else a validation
    /// split), or, with a holdout, the two parts of the training split, so that settings can be chosen without looking at
    /// `test`.
    ///
    /// # Errors
    /// [`Error::Data`] when there is nothing to ask about: one split and no holdout.
    pub fn for_evaluation(
        &self,
        options: &Selection,
    ) -> Result<(Arc<dyn Dataset>, Arc<dyn Dataset>)> {
        let training = self.training_split()?;
        let (references, queries) = if options.holdout == 0.0 {
            let Some(queries) = self.query_split() else {
                return Err(Error::Data(format!(
                    "`{}` has only {}, so nothing is left to evaluate on; cut it with `data.holdout=FRACTION` \
                     (0.2 holds out a fifth)",
                    self.location,
                    self.names()
                )));
            };
            (training.clone(), queries.clone())
        } else {
            subset::holdout(training, options.holdout, options.seed)?
        };
        let references = balanced(references, options)?;
        Ok((limited(references, options), limited(queries, options)))
    }

    /// Images to be looked at without their labels: those that an evaluation asks about; without such a split, those that
    /// are trained on.
    ///
    /// # Errors
    /// Those of [`Self::for_evaluation`] and [`Self::for_training`].
    pub fn to_look_at(&self, options: &Selection) -> Result<Arc<dyn Dataset>> {
        if self.query_split().is_some() || options.holdout > 0.0 {
            return Ok(self.for_evaluation(options)?.1);
        }
        self.for_training(options)
    }

    pub(crate) fn training_split(&self) -> Result<&Arc<dyn Dataset>> {
        let named = ["train", "training"].iter().find_map(|name| self.split(name));
        let only = self.splits.first().filter(|_| self.splits.len() == 1).map(|(_, split)| split);
        named.or(only).ok_or_else(|| {
            Error::Data(format!("`{}` has no split `train`, only {}", self.location, self.names()))
        })
    }

    /// The split that evaluation asks about, if it is not the only one.
    pub(crate) fn query_split(&self) -> Option<&Arc<dyn Dataset>> {
        let names = QUERIES.iter().filter(|_| self.splits.len() > 1);
        names.into_iter().find_map(|name| self.split(name))
    }

    pub(crate) fn names(&self) -> String {
        let names: Vec<String> = self.splits.iter().map(|(name, _)| format!("`{name}`")).collect();
        names.join(", ")
    }
}

/// Splits that evaluation asks about, the first found counts.
const QUERIES: [&str; 5] = ["test", "testing", "validation", "val", "valid"];

/// Splits that training reads beside `train`, the first found counts.
const UNLABELLED: [&str; 3] = ["unlabeled", "unlabelled", "unsupervised"];

fn balanced(dataset: Arc<dyn Dataset>, options: &Selection) -> Result<Arc<dyn Dataset>> {
    match options.label_fraction {
        Some(fraction) => subset::label_fraction(&dataset, fraction, options.seed),
        None => Ok(dataset),
    }
}

fn limited(dataset: Arc<dyn Dataset>, options: &Selection) -> Arc<dyn Dataset> {
    match options.limit {
        Some(n) => subset::limit(dataset, n, options.seed),
        None => dataset,
    }
}

/// The labels of a data set, or `None` when an image has none.
pub fn labels(dataset: &dyn Dataset) -> Option<Vec<u32>> {
    (0..dataset.len()).map(|index| dataset.label(index)).collect()
}

/// Whether evaluation asks about a split of this name, if it is not the only one.
fn is_query_name(name: &str) -> bool {
    QUERIES.contains(&name)
}

/// Whether a file or folder of this name is a split of its own.
fn is_split_name(name: &str) -> bool {
    const OTHERS: [&str; 3] = ["train", "training", "extra"];
    let name = name.to_lowercase();
    [&QUERIES[..], &UNLABELLED, &OTHERS].iter().any(|names| names.contains(&name.as_str()))
}

/// Key that lists `train` (or `training`) first and the other splits by name.
fn split_order(name: &str) -> (bool, String) {
    (!matches!(name, "train" | "training"), name.to_owned())
}

/// One thing in a folder.
struct Entry {
    path: PathBuf,
    is_folder: bool,
}

impl Entry {
    fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// What lies in a folder, links followed, hidden things left out, sorted by the bytes of the names.
fn entries(folder: &Path) -> Result<Vec<Entry>> {
    let failed = |e| Error::Data(format!("cannot read folder `{}`: {e}", folder.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let kind = entry.file_type().map_err(failed)?;
        let is_folder = if kind.is_symlink() { path.is_dir() } else { kind.is_dir() };
        found.push(Entry { path, is_folder });
    }
    found.sort_by(|a, b| a.path.file_name().cmp(&b.path.file_name()));
    Ok(found)
}

/// File name endings taken for images, whatever their case.
const EXTENSIONS: [&str; 9] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"];

fn is_image(entry: &Entry) -> bool {
    let end = entry.path.extension().and_then(OsStr::to_str).unwrap_or_default();
    !entry.is_folder && EXTENSIONS.iter().any(|known| end.eq_ignore_ascii_case(known))
}

/// Reads and decodes an image file.
fn decode_file(file: &Path) -> Result<Image> {
    decode::decode(&read_file(file)?, &file.to_string_lossy())
}

/// Largest file read into memory as a whole, in bytes: above what the largest accepted image takes uncompressed.
const MAX_FILE_BYTES: u64 = 2 << 30;

/// Reads a whole file of up to [`MAX_FILE_BYTES`].
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| Error::Data(format!("cannot read `{}`: {e}", path.display()));
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size > MAX_FILE_BYTES {
        return Err(Error::Data(format!(
            "`{}` is {size} bytes, more than the {MAX_FILE_BYTES} accepted",
            path.display()
        )));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::testing::Numbers;
    use super::*;

    fn source(splits: &[(&str, usize)]) -> Source {
        let splits = splits.iter();
        Source {
            format: "numbers".to_owned(),
            location: "here".to_owned(),
            classes: (0..7).map(|class| class.to_string()).collect(),
            splits: splits
                .map(|(name, count)| {
                    ((*name).to_owned(), Arc::new(Numbers(*count)) as Arc<dyn Dataset>)
                })
                .collect(),
            fingerprint: String::new(),
        }
    }

    #[test]
    fn one_data_set_below_a_folder_is_found_and_of_several_one_must_be_chosen() {
        use super::testing::golden;
        let text = failure(open(golden("data/cifar-10").to_str().unwrap()));
        assert!(text.contains("several") && text.contains("cifar-10-batches-bin`"), "{text}");
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("unpacked").join("cifar-10-batches-bin");
        testing::copy(&golden("data/cifar-10/cifar-10-batches-bin"), &inside);
        std::fs::write(folder.path().join("cifar-10-binary.tar.gz"), b"\x1f\x8b").unwrap();
        let source = open(folder.path().to_str().unwrap()).unwrap();
        assert_eq!(source.format, "CIFAR-10 binary");
        assert_eq!(source.location, folder.path().to_str().unwrap());
        // Images beside it mean an image folder, whatever table lies there, too.
        std::fs::write(folder.path().join("a.ppm"), b"P6 1 1 255 abc").unwrap();
        std::fs::write(folder.path().join("metadata.parquet"), b"PAR1").unwrap();
        assert!(open(folder.path().to_str().unwrap()).unwrap().format.starts_with("flat image"));
    }

    fn failure(result: Result<impl Sized>) -> String {
        match result.map(|_| ()).unwrap_err() {
            Error::Data(message) => message,
            other => panic!("{other:?} is no data error"),
        }
    }

    #[test]
    fn training_reads_train_and_evaluation_asks_test() {
        let both = source(&[("train", 60), ("test", 30), ("val", 20)]);
        let all = Selection::default();
        assert_eq!(both.for_training(&all).unwrap().len(), 60);
        let (references, queries) = both.for_evaluation(&all).unwrap();
        assert_eq!((references.len(), queries.len()), (60, 30));
        let (_, queries) = source(&[("val", 20), ("train", 60)]).for_evaluation(&all).unwrap();
        assert_eq!(queries.len(), 20);

        let few = Selection { limit: Some(25), ..all };
        let (references, queries) = both.for_evaluation(&few).unwrap();
        assert_eq!((references.len(), queries.len()), (25, 25));
        assert_eq!(both.for_training(&few).unwrap().len(), 25);
    }

    #[test]
    fn training_takes_what_is_unlabelled_beside_train_and_evaluation_does_not() {
        let all = Selection::default();
        let three = source(&[("train", 60), ("test", 30), ("unlabeled", 40)]);
        let training = three.for_training(&all).unwrap();
        assert_eq!((training.len(), training.path(99).as_str()), (100, "39"));
        let (references, queries) = three.for_evaluation(&all).unwrap();
        assert_eq!((references.len(), queries.len()), (60, 30));
        // To look at, what is trained on will do where nothing is to be asked about.
        let two = source(&[("train", 60), ("unlabeled", 40)]);
        assert_eq!(two.to_look_at(&all).unwrap().len(), 100);
        assert_eq!(three.to_look_at(&all).unwrap().len(), 30);
        // What is held out of `train` is not trained on; the limit counts all images.
        let cut = Selection { holdout: 0.5, ..all };
        assert_eq!(three.for_training(&cut).unwrap().len(), 70);
        let few = Selection { limit: Some(80), ..all };
        assert_eq!(three.for_training(&few).unwrap().len(), 80);
        assert_eq!(source(&[("unlabelled", 9)]).for_training(&all).unwrap().len(), 9);
    }

    #[test]
    fn a_fraction_of_labels_cuts_what_is_learned_from_and_nothing_else() {
        let three = source(&[("train", 70), ("test", 30), ("unlabeled", 40)]);
        let tenth = Selection { label_fraction: Some(0.1), ..Selection::default() };
        let (references, queries) = three.for_evaluation(&tenth).unwrap();
        assert_eq!((references.len(), queries.len()), (7, 30));
        let mut found = labels(references.as_ref()).unwrap();
        found.sort_unstable();
        assert_eq!(found, [0, 1, 2, 3, 4, 5, 6]);
        // What is unlabelled beside it stays; the images are the same; a larger fraction keeps them.
        let training = three.for_training(&tenth).unwrap();
        assert_eq!(training.len(), 47);
        let shown = |split: &dyn Dataset| (0..7).map(|i| split.path(i)).collect::<Vec<_>>();
        assert_eq!(shown(training.as_ref()), shown(references.as_ref()));
        // Held out images are not drawn.
        let cut = Selection { holdout: 0.5, label_fraction: Some(1.0), ..tenth };
        let (references, queries) = three.for_evaluation(&cut).unwrap();
        assert_eq!((references.len(), queries.len()), (35, 35));
        let none = Selection { label_fraction: Some(0.001), ..tenth };
        let text = failure(three.for_training(&none));
        assert!(text.contains("`data.label_fraction`") && text.contains("found `0.001`"), "{text}");
    }

    #[test]
    fn a_single_split_must_be_cut() {
        let one = source(&[("test", 50)]);
        let all = Selection::default();
        assert_eq!(one.for_training(&all).unwrap().len(), 50);
        let text = failure(one.for_evaluation(&all));
        assert!(text.contains("only `test`") && text.contains("data.holdout=FRACTION"), "{text}");

        let cut = Selection { holdout: 0.2, seed: 3, ..all };
        let (references, queries) = one.for_evaluation(&cut).unwrap();
        assert_eq!((references.len(), queries.len()), (40, 10));
        let training = one.for_training(&cut).unwrap();
        let shown =
            |split: &dyn Dataset| (0..split.len()).map(|i| split.path(i)).collect::<Vec<_>>();
        assert_eq!(shown(training.as_ref()), shown(references.as_ref()));
        let queries = shown(queries.as_ref());
        assert!(shown(training.as_ref()).iter().all(|path| !queries.contains(path)));

        let text = failure(source(&[("a", 1), ("b", 1)]).for_training(&all));
        assert!(text.contains("no split `train`, only `a`, `b`"), "{text}");
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let text = failure(open("no/such/thing"));
        assert!(text.contains("`no/such/thing` does not exist"), "{text}");
        assert!(text.contains("synthetic:scenes"), "{text}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("some.bin");
        std::fs::write(&file, b"\x1f\x8b\x08").unwrap();
        let text = failure(open(file.to_str().unwrap()));
        assert!(text.contains("1f 8b 08") && text.contains("parquet"), "{text}");
        std::fs::write(&file, b"\xFF\xD8\xFF").unwrap();
        let text = failure(open(file.to_str().unwrap()));
        assert!(text.contains("a single JPEG image; give the folder"), "{text}");
    }

    #[test]
    fn a_file_too_large_for_an_image_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.jpg");
        // A hole takes no room on the disk.
        File::create(&file).unwrap().set_len(1 << 40).unwrap();
        let source = open(folder.path().to_str().unwrap()).unwrap();
        let text = failure(source.splits[0].1.image(0));
        assert!(text.contains("a.jpg` is 1099511627776 bytes, more than"), "{text}");
    }

    #[test]
    fn labels_are_all_or_none() {
        assert_eq!(labels(&Numbers(9)).unwrap(), [0, 1, 2, 3, 4, 5, 6, 0, 1]);
    }
}
