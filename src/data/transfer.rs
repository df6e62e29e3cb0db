//! The data sets that representations are transferred to, each as a named set that knows its layout, splits and metric.
//!
//! [`open`] takes a name of [`NAMES`] and the folder a set was unpacked to. Splits and metrics are those of Kornblith et al.
//! 2019 (arXiv:1805.08974), Chen et al. 2020 (arXiv:2002.05709, appendix B.8) and Ericsson et al. 2021 (arXiv:2011.13377,
//! with its code linusericsson/ssl-transfer). [`splits`] gives what to fit on, to choose settings on and to report on.
//!
//! Each layout is tested on a made miniature; none was tried on the original files.

use super::folder::Folder;
use super::{Dataset, MultiLabels, Presence, Source, entries, subset};
use crate::error::{Error, Result};
use crate::overrides::nearest;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod folders;
mod json;
mod lists;
#[doc(hidden)]
pub mod mat;
mod matlab;
#[cfg(test)]
mod miniature;
mod numpy;
mod splits;
pub mod suite;
mod table;
mod voc;

pub use splits::{Splits, Validation, fifth, splits};
use table::{Entry, Reader, SETS};

/// The names that [`open`] knows.
pub const NAMES: [&str; SETS.len()] = {
    let mut names = [""; SETS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = SETS[at].name;
        at += 1;
    }
    names
};

/// Name, number of classes, images and metric of every set, as published.
pub fn published() -> impl Iterator<Item = (&'static str, usize, Counts, Metric)> {
    SETS.iter().map(|entry| (entry.name, entry.classes, entry.counts, entry.metric))
}

/// The number that is told of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of the images whose best class is theirs.
    Top1,
    /// Mean over the classes of the share of their images whose best class it is.
    MeanPerClass,
    /// Mean over the classes of the 11-point average precision of PASCAL VOC 2007.
    VocMap,
}

/// Images of each split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// To train on.
    pub train: usize,
    /// To choose settings on; `None` without an official split.
    pub validation: Option<usize>,
    /// To report on.
    pub test: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "train {}, ", self.train)?;
        if let Some(validation) = self.validation {
            write!(f, "validation {validation}, ")?;
        }
        write!(f, "test {}", self.test)
    }
}

/// How a set is opened, where it leaves a choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// A folder with `train.txt`, `test.txt` (and perhaps `val.txt`) of lines `path label`, that say the splits in place of the
    /// set's own files or, for Caltech-101, of the draw.
    pub list: Option<PathBuf>,
    /// Seed of the draw of training images of Caltech-101.
    pub seed: u64,
    /// Whether `BACKGROUND_Google` is a class of Caltech-101 (102 classes, the default and the published protocol) or left out.
    pub background: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { list: None, seed: 0, background: true }
    }
}

/// An opened set.
#[derive(Clone)]
pub struct TransferSet {
    /// One of [`NAMES`].
    pub name: &'static str,
    /// What people call it.
    pub title: &'static str,
    /// Where it was opened.
    pub location: String,
    /// Training images, without official validation images.
    pub train: Arc<dyn Dataset>,
    /// Official validation images; without them, [`splits`] takes a fifth of `train`.
    pub validation: Option<Arc<dyn Dataset>>,
    /// Test images.
    pub test: Arc<dyn Dataset>,
    /// Names of the classes by label.
    pub classes: Vec<String>,
    /// What is told of it.
    pub metric: Metric,
    /// Images as published.
    pub published: Counts,
    /// Images found; those of a limit, if there is one.
    pub found: Counts,
    /// Hash of what identifies the content and the splits (hexadecimal); equal for a copy at another path.
    pub fingerprint: String,
    /// Who made it.
    pub citation: &'static str,
    /// What to know about a number on it.
    pub notes: Vec<String>,
    /// What is not as published, or missing.
    pub warnings: Vec<String>,
}

impl TransferSet {
    /// The set as a source, with the splits `train`, `validation` (if official) and `test`: what features are extracted of.
    pub fn source(&self) -> Source {
        let splits = [("train", Some(&self.train)), ("validation", self.validation.as_ref())];
        let splits = splits.into_iter().chain([("test", Some(&self.test))]);
        let named = |(name, split): (&str, Option<&Arc<dyn Dataset>>)| {
            split.map(|split| (name.to_owned(), split.clone()))
        };
        let counts = if self.found == self.published {
            "as published".to_owned()
        } else {
            format!("{}; published: {}", self.found, self.published)
        };
        Source {
            format: format!("{}, transfer set `{}` ({counts})", self.title, self.name),
            location: self.location.clone(),
            classes: self.classes.clone(),
            splits: splits.filter_map(named).collect(),
            fingerprint: self.fingerprint.clone(),
        }
    }

    /// The same with at most `count` images a split, chosen by the seed.
    ///
    /// # Errors
    /// [`Error::Recipe`] when `count` is 0.
    pub fn limited(mut self, count: usize, seed: u64) -> Result<Self> {
        if count == 0 {
            return Err(Error::Recipe("`limit` must be at least 1, found `0`".to_owned()));
        }
        self.train = subset::limit(self.train, count, seed);
        self.test = subset::limit(self.test, count, seed);
        self.validation = self.validation.map(|split| subset::limit(split, count, seed));
        let before = self.found;
        self.found = self.counted();
        if self.found != before {
            self.notes.push(format!("at most {count} images a split, chosen by seed {seed}"));
            let limited = serde_json::json!(["limit", self.fingerprint, count, seed]).to_string();
            self.fingerprint = blake3::hash(limited.as_bytes()).to_hex().to_string();
        }
        Ok(self)
    }

    /// Writes the splits as `train.txt`, `val.txt` (if official), `test.txt` and `classes.txt`, which [`Options::list`]
    /// reads: to hand a draw on.
    ///
    /// # Errors
    /// [`Error::Data`] when images have several labels or a path cannot be told in a line; [`Error::Io`].
    pub fn store_lists(&self, folder: &Path) -> Result<()> {
        folders::store(self, folder)
    }

    fn counted(&self) -> Counts {
        Counts {
            train: self.train.len(),
            validation: self.validation.as_ref().map(|split| split.len()),
            test: self.test.len(),
        }
    }
}

/// Opens a set of [`NAMES`] in the folder it was unpacked to, or the one above.
///
/// Counts other than the published ones are told in [`TransferSet::warnings`]: subsets are common.
///
/// # Errors
/// [`Error::Recipe`] for an unknown name; [`Error::Data`] saying which file was expected where when the layout is another one,
/// when a list is damaged or leads out of the folder, names an image twice, or none of its images is there.
pub fn open(name: &str, root: &Path) -> Result<TransferSet> {
    open_with(name, root, &Options::default())
}

/// [`open`] with choices.
///
/// # Errors
/// Those of [`open`]; [`Error::Recipe`] for a choice that the set does not leave.
pub fn open_with(name: &str, root: &Path, options: &Options) -> Result<TransferSet> {
    let entry = named(name)?;
    if !options.background && !entry.drawn {
        return Err(Error::Recipe(format!(
            "`background=false` leaves a class of `caltech101` out, `{name}` has none like it"
        )));
    }
    if options.list.is_some() && entry.metric == Metric::VocMap {
        return Err(Error::Recipe(format!(
            "`list` tells one label an image, `{name}` has several; leave it out"
        )));
    }
    if !root.is_dir() {
        return Err(Error::Data(format!(
            "{} is expected in the folder `{}`, which does not exist",
            entry.title,
            root.display()
        )));
    }
    let found = find(entry, root);
    let has_lists =
        |folder: &Path| ["train.txt", "test.txt"].iter().all(|n| folder.join(n).is_file());
    let lists = match &options.list {
        Some(folder) if !has_lists(folder) => {
            return Err(Error::Data(format!(
                "`list` must be a folder with `train.txt` and `test.txt`, found `{}`",
                folder.display()
            )));
        }
        Some(_) if entry.drawn && found.is_some() => None,
        Some(folder) => Some(folder.as_path()),
        None if found.is_none() && entry.metric != Metric::VocMap && has_lists(root) => Some(root),
        None => None,
    };
    if let Some(folder) = lists {
        let mut lists = lists::plain(folder)?;
        let begins = found.as_deref().unwrap_or(root);
        let places = [&begins.join(entry.images), begins, root];
        let first = lists.train.first();
        let holds = |place: &&Path| first.is_some_and(|item| place.join(&item.path).exists());
        places.into_iter().find(holds).unwrap_or(root).clone_into(&mut lists.images);
        return assemble(entry, root, options, lists);
    }
    let path = found.ok_or_else(|| not_found(entry, root))?;
    let place = Place { path, entry, options };
    match entry.read {
        Reader::Lists(read) => assemble(entry, root, options, read(&place)?),
        Reader::Source(read) => {
            let (source, test) = read(&place)?;
            of_source(entry, root, options, &source, test)
        }
    }
}

fn named(name: &str) -> Result<&'static Entry> {
    SETS.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let near = nearest(name, NAMES.into_iter());
        let near = near.map_or(String::new(), |near| format!(", did you mean `{near}`?"));
        let all = NAMES.join("`, `");
        Error::Recipe(format!("unknown transfer set `{name}`{near}; known are `{all}`"))
    })
}

/// Where the files of a set lie.
struct Place<'a> {
    /// The folder that its layout begins in.
    path: PathBuf,
    entry: &'static Entry,
    options: &'a Options,
}

impl Place<'_> {
    /// The folder of images.
    fn images(&self) -> PathBuf {
        self.path.join(self.entry.images)
    }

    /// The first of some sub-folders in which something exists, else the first of them.
    fn below(&self, folders: &[&str], thing: impl AsRef<Path>) -> PathBuf {
        let exists = |folder: &&&str| self.path.join(folder).join(thing.as_ref()).exists();
        let found = folders.iter().find(exists).or(folders.first());
        found.map_or_else(|| self.path.clone(), |folder| self.path.join(folder))
    }
}

/// The folder in which a set's layout begins, at or below the root.
fn find(entry: &Entry, root: &Path) -> Option<PathBuf> {
    let folders = [""].iter().chain(entry.folders).map(|folder| root.join(folder));
    let begins = |folder: &PathBuf| entry.markers.iter().any(|file| folder.join(file).exists());
    folders.into_iter().find(begins)
}

/// What was expected where, what is there, and which set it looks like.
fn not_found(entry: &Entry, root: &Path) -> Error {
    let there = match entries(root) {
        Ok(all) if all.is_empty() => "it is empty".to_owned(),
        Ok(all) => {
            let names: Vec<String> =
                all.iter().take(8).map(|entry| format!("`{}`", entry.name())).collect();
            let more = if all.len() > names.len() { ", ..." } else { "" };
            format!("found {}{more}", names.join(", "))
        }
        Err(error) => error.to_string(),
    };
    let below = match entry.folders {
        [] => String::new(),
        folders => format!(" or in its `{}`", folders.join("`, `")),
    };
    let alike = SETS.iter().find(|other| {
        other.name != entry.name && !other.markers.contains(&"") && find(other, root).is_some()
    });
    let alike = alike.map_or(String::new(), |other| {
        format!("; it looks like {}, which is `{}`", other.title, other.name)
    });
    let lists = match entry.metric {
        Metric::VocMap => "",
        _ => "; plain lists `train.txt` and `test.txt` with lines `path label` do as well",
    };
    Error::Data(format!(
        "`{}` is not laid out as {}: expected {} in it{below}; {there}{alike}{lists}",
        root.display(),
        entry.title,
        entry.layout
    ))
}

/// What an image shows.
enum Target {
    Class(u32),
    Presence(Box<[Presence]>),
}

/// An image of a list: its path below the folder of images.
struct Item {
    path: PathBuf,
    target: Target,
}

impl Item {
    /// An image of one class.
    fn of(path: PathBuf, label: u32) -> Self {
        Self { path, target: Target::Class(label) }
    }

    fn label(&self) -> Option<u32> {
        match self.target {
            Target::Class(label) => Some(label),
            Target::Presence(_) => None,
        }
    }
}

/// What the files of a set say.
struct Lists {
    /// The folder that paths begin in.
    images: PathBuf,
    classes: Vec<String>,
    train: Vec<Item>,
    validation: Option<Vec<Item>>,
    test: Vec<Item>,
    notes: Vec<String>,
    warnings: Vec<String>,
}

impl Lists {
    fn of(images: &Path, train: Vec<Item>, test: Vec<Item>) -> Self {
        let images = images.to_owned();
        let (classes, notes, warnings) = (Vec::new(), Vec::new(), Vec::new());
        Self { images, classes, train, validation: None, test, notes, warnings }
    }
}

/// A set of what its lists say, less the images that are not there.
fn assemble(
    entry: &'static Entry,
    root: &Path,
    options: &Options,
    lists: Lists,
) -> Result<TransferSet> {
    once(&lists)?;
    let Lists { images, classes, train, validation, test, notes, mut warnings } = lists;
    let images: Arc<Path> = images.into();
    let mut hash = blake3::Hasher::new();
    hash.update(b"transfer").update(entry.name.as_bytes());
    let mut split = |name: &str, items: Vec<Item>| {
        hash.update(&[0]).update(name.as_bytes()).update(&[0]);
        present(&images, &classes, (name, items), &mut hash, &mut warnings)
    };
    let train = split("train", train)?;
    let validation = validation.map(|items| split("validation", items)).transpose()?;
    let test = split("test", test)?;
    let set = TransferSet {
        name: entry.name,
        title: entry.title,
        location: root.display().to_string(),
        found: Counts { train: 0, validation: None, test: 0 },
        published: entry.published(options),
        train,
        validation,
        test,
        classes,
        metric: entry.metric,
        fingerprint: hash.finalize().to_hex().to_string(),
        citation: entry.citation,
        notes,
        warnings,
    };
    Ok(compared(entry, options, set))
}

/// Counts a set and says where it differs from the published one.
fn compared(entry: &Entry, options: &Options, mut set: TransferSet) -> TransferSet {
    set.found = set.counted();
    if set.found != set.published {
        let (found, published) = (set.found, set.published);
        set.warnings.push(format!(
            "the counts are not the published ones: found {found}; published: {published}"
        ));
    }
    let classes = entry.classes(options);
    if set.classes.len() != classes {
        set.warnings.push(format!("{} classes instead of {classes}", set.classes.len()));
    }
    if !entry.note.is_empty() {
        set.notes.push(entry.note.to_owned());
    }
    set
}

/// Refuses lists that name an image twice: it would count twice, or be tested after it was trained on.
fn once(lists: &Lists) -> Result<()> {
    let mut seen = HashSet::new();
    let all = lists.train.iter().chain(lists.validation.iter().flatten()).chain(&lists.test);
    for item in all {
        if !seen.insert(item.path.as_path()) {
            return Err(Error::Data(format!(
                "the lists of the set name `{}` twice, in one split or in two",
                item.path.display()
            )));
        }
    }
    Ok(())
}

/// The images of a list that are there.
fn present(
    root: &Arc<Path>,
    classes: &[String],
    (name, items): (&str, Vec<Item>),
    hash: &mut blake3::Hasher,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Dataset>> {
    let listed = items.len();
    let size = |item: &Item| {
        let file = std::fs::metadata(root.join(&item.path)).ok().filter(std::fs::Metadata::is_file);
        file.map(|file| file.len())
    };
    let sizes: Vec<Option<u64>> = items.par_iter().map(size).collect();
    let (mut files, mut marks, mut missing) = (Vec::new(), Vec::new(), None);
    for (item, size) in items.into_iter().zip(sizes) {
        if item.label().is_some_and(|label| label as usize >= classes.len()) {
            return Err(Error::Data(format!(
                "`{}` has label {}, there are {} classes",
                item.path.display(),
                item.label().unwrap_or_default(),
                classes.len()
            )));
        }
        let Some(size) = size else {
            missing.get_or_insert(item.path);
            continue;
        };
        hash.update(item.path.as_os_str().as_encoded_bytes()).update(&[0]);
        hash.update(&size.to_le_bytes());
        let label = item.label();
        match item.target {
            Target::Class(label) => hash.update(&label.to_le_bytes()),
            Target::Presence(row) => {
                marks.extend_from_slice(&row);
                hash.update(&row.iter().map(|mark| *mark as u8).collect::<Vec<u8>>())
            }
        };
        files.push((item.path.into_boxed_path(), label));
    }
    let first = missing.map(|path| root.join(path).display().to_string());
    if files.is_empty() {
        return Err(Error::Data(match first {
            Some(first) => format!(
                "none of the {listed} {name} images that the lists name is there, the first would be `{first}`"
            ),
            None => format!("the lists name no {name} image, below `{}`", root.display()),
        }));
    }
    if let Some(first) = first {
        let missing = listed - files.len();
        warnings.push(format!(
            "{missing} of {listed} listed {name} images are missing, the first is `{first}`"
        ));
    }
    let several = !marks.is_empty();
    let presence = several.then(|| MultiLabels::new(classes.len(), marks)).transpose()?;
    Ok(Arc::new(Folder::listed(root, files, presence)))
}

/// A set that another reader opened.
fn of_source(
    entry: &'static Entry,
    root: &Path,
    options: &Options,
    source: &Source,
    test: &str,
) -> Result<TransferSet> {
    let split = |name: &str| {
        let images: Arc<dyn Dataset> = source.split(name).cloned().ok_or_else(|| {
            let location = &source.location;
            Error::Data(format!("`{location}` ({}) has no split `{name}`", source.format))
        })?;
        if super::labels(images.as_ref()).is_none() {
            return Err(Error::Data(format!(
                "`{}`: images of `{name}` lack labels",
                source.location
            )));
        }
        Ok(images)
    };
    let mut warnings = Vec::new();
    if entry.lossless && source.format.contains("JPEG") {
        warnings
            .push("the images are JPEG copies of the original, which costs accuracy".to_owned());
    }
    let set = TransferSet {
        name: entry.name,
        title: entry.title,
        location: root.display().to_string(),
        train: split("train")?,
        validation: None,
        test: split(test)?,
        classes: source.classes.clone(),
        metric: entry.metric,
        published: entry.published(options),
        found: Counts { train: 0, validation: None, test: 0 },
        fingerprint: source.fingerprint.clone(),
        citation: entry.citation,
        notes: Vec::new(),
        warnings,
    };
    Ok(compared(entry, options, set))
}

#[cfg(test)]
mod tests;
