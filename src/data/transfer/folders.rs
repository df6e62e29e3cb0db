//! Sets that are folders of classes, or that other readers of this crate open.

use super::lists::{self, List};
use super::{Item, Lists, Place};
use crate::data::{self, Dataset, Source, entries, folder};
use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Training images a class (Fei-Fei et al. 2004; Ericsson et al. 2021, arXiv:2011.13377, appendix).
const PER_CLASS: usize = 30;

/// The class of pictures of nothing in particular.
const BACKGROUND: &str = "BACKGROUND_Google";

/// The images of each class folder, classes by the bytes of their names, paths below `root`.
fn classes(root: &Path) -> Result<Vec<(String, Vec<PathBuf>)>> {
    let mut found = Vec::new();
    for class in entries(root)?.iter().filter(|entry| entry.is_folder) {
        let images = folder::walk(root, &class.path)?;
        found.push((class.name(), images.into_iter().map(|image| image.path).collect()));
    }
    found.retain(|(_, images): &(String, Vec<PathBuf>)| !images.is_empty());
    Ok(found)
}

/// Caltech-101: 30 images a class to train on, drawn by the seed, the rest to test on; or the lists of `list`.
///
/// The draw of a class depends on the seed, its name and its files alone, so leaving the background class out changes no other.
pub(super) fn caltech101(place: &Place<'_>) -> Result<Lists> {
    let mut found = classes(&place.path)?;
    if !place.options.background {
        found.retain(|(name, _)| name != BACKGROUND);
    }
    let names: Vec<String> = found.iter().map(|(name, _)| name.clone()).collect();
    let (mut notes, mut warnings) = (Vec::new(), Vec::new());
    let (mut train, mut test) = (Vec::new(), Vec::new());
    if let Some(folder) = &place.options.list {
        [train, test] = listed(folder, &names, place.options.background)?;
        notes.push(format!("split by the lists in `{}`", folder.display()));
    } else {
        let seed = place.options.seed;
        notes.push(format!("{PER_CLASS} training images a class, drawn by seed {seed}"));
        for (label, (name, images)) in (0..).zip(&found) {
            let kept = PER_CLASS.min(images.len() - 1).max(1);
            if kept < PER_CLASS {
                warnings.push(format!("class `{name}` has only {} images", images.len()));
            }
            let hash = blake3::hash(name.as_bytes());
            let key = u32::from_le_bytes(hash.as_bytes()[..4].try_into().unwrap_or_default());
            // An item that no other choice of a part of a data set draws by.
            let item = Scope::Item(101 << 32 | u64::from(key));
            let order = Stream::open(seed, Purpose::Subset, item).permutation(images.len());
            let drawn: BTreeSet<usize> = order.into_iter().take(kept).collect();
            for (at, path) in images.iter().enumerate() {
                let side = if drawn.contains(&at) { &mut train } else { &mut test };
                side.push(Item::of(path.clone(), label));
            }
        }
    }
    Ok(Lists { classes: names, notes, warnings, ..Lists::of(&place.path, train, test) })
}

/// `train.txt` and `test.txt` with lines `class/image label`, as ssl-transfer gives them. The folder tells the class; the
/// number counts with the background class.
fn listed(folder: &Path, names: &[String], background: bool) -> Result<[Vec<Item>; 2]> {
    let split = |name: &str| -> Result<Vec<Item>> {
        let list = List::read(folder.join(name))?;
        let mut items = Vec::new();
        for (number, line) in list.lines() {
            let path = line.rsplit_once(char::is_whitespace).map_or(line, |(path, _)| path);
            let path = list.inside(number, path.trim_end())?;
            let class = path.iter().next().unwrap_or_default().to_string_lossy().into_owned();
            if class == BACKGROUND && !background {
                continue;
            }
            let label = names.iter().position(|name| *name == class);
            let label = label.ok_or_else(|| list.error(number, "names a class without folder"))?;
            items.push(Item::of(path, label as u32));
        }
        Ok(items)
    };
    Ok([split("train.txt")?, split("test.txt")?])
}

/// Birdsnap: `test_images.txt` (a heading, then paths) lists the test images; all others below `download/images` are for
/// training, as in ssl-transfer. Many of the addresses it was made of are dead, so every copy has images of its own.
pub(super) fn birdsnap(place: &Place<'_>) -> Result<Lists> {
    let root = place.below(&["download/images", "images"], "");
    let list = List::read(place.path.join("test_images.txt"))?;
    let tested: BTreeSet<PathBuf> = list
        .lines()
        .filter(|(number, line)| !(*number == 1 && *line == "path"))
        .map(|(number, line)| list.inside(number, line))
        .collect::<Result<_>>()?;
    let found = classes(&root)?;
    let names: Vec<String> = found.iter().map(|(name, _)| name.clone()).collect();
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (label, (_, images)) in (0..).zip(found) {
        for path in images {
            let side = if tested.contains(&path) { &mut test } else { &mut train };
            side.push(Item::of(path, label));
        }
    }
    let mut warnings = Vec::new();
    if test.len() < tested.len() {
        let count = tested.len() - test.len();
        warnings.push(format!("{count} of {} listed test images are missing", tested.len()));
    }
    Ok(Lists { classes: names, warnings, ..Lists::of(&root, train, test) })
}

/// The ten classes of Imagenette.
const IMAGENETTE: [(&str, &str); 10] = [
    ("n01440764", "tench"),
    ("n02102040", "English springer"),
    ("n02979186", "cassette player"),
    ("n03000684", "chain saw"),
    ("n03028079", "church"),
    ("n03394916", "French horn"),
    ("n03417042", "garbage truck"),
    ("n03425413", "gas pump"),
    ("n03445777", "golf ball"),
    ("n03888257", "parachute"),
];

/// Imagenette of any size: folders `train` and `val` of `WordNet` ids.
pub(super) fn imagenette(place: &Place<'_>) -> Result<(Source, &'static str)> {
    let mut source = folder::open(&place.path.to_string_lossy(), &place.path)?;
    for class in &mut source.classes {
        let known = IMAGENETTE.iter().find(|(id, _)| id == class);
        let (_, name) = known.ok_or_else(|| {
            Error::Data(format!(
                "`{}` is no class of Imagenette",
                place.path.join(&*class).display()
            ))
        })?;
        *class = (*name).to_owned();
    }
    Ok((source, "val"))
}

/// CIFAR-10 or CIFAR-100 in any form that this crate reads.
pub(super) fn cifar(place: &Place<'_>) -> Result<(Source, &'static str)> {
    let location = place.path.to_string_lossy();
    let source = data::open(&location)?;
    let title = place.entry.title;
    if source.classes.len() != place.entry.classes {
        return Err(Error::Data(format!(
            "`{location}` is no {title}: it holds {} with {} classes instead of {}",
            source.format,
            source.classes.len(),
            place.entry.classes
        )));
    }
    let first = source.splits.first().and_then(|(_, split)| split.image(0).ok());
    if let Some(image) = first.filter(|image| (image.width, image.height) != (32, 32)) {
        return Err(Error::Data(format!(
            "`{location}` is no {title}: its images are {}x{} instead of 32x32",
            image.width, image.height
        )));
    }
    Ok((source, "test"))
}

/// The lists of a set as files that [`lists::plain`] reads: `train.txt`, `val.txt` if there is an official one, `test.txt`,
/// and `classes.txt` unless the names of the classes are numbers.
///
/// # Errors
/// [`Error::Data`] when an image has several labels; [`Error::Io`] when a file cannot be written.
pub(super) fn store(set: &super::TransferSet, folder: &Path) -> Result<()> {
    let text = |split: &dyn Dataset| -> Result<String> {
        let line = |index| {
            let path = split.path(index);
            let label = split.label(index).ok_or_else(|| {
                Error::Data(format!("`{path}` has no single label that a list could tell"))
            })?;
            if lists::inside(&path).is_none() || path.contains(['\n', '\r', '\u{fffd}']) {
                return Err(Error::Data(format!("`{path}` is no path that a list could tell")));
            }
            Ok(format!("{path} {label}\n"))
        };
        (0..split.len()).map(line).collect()
    };
    let mut files =
        vec![("train.txt", text(set.train.as_ref())?), ("test.txt", text(set.test.as_ref())?)];
    if let Some(validation) = &set.validation {
        files.push(("val.txt", text(validation.as_ref())?));
    }
    // Names that are other numbers than those of their classes would be taken for these.
    let number = |(rank, name): (usize, &String)| name.parse().is_ok_and(|n: usize| n != rank);
    if !set.classes.iter().enumerate().any(number) {
        files.push(("classes.txt", set.classes.join("\n") + "\n"));
    }
    for (name, text) in files {
        crate::files::replace_text(&folder.join(name), &text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::data::Dataset;
    use crate::data::transfer::miniature::{Tree, expected, of, seen};
    use crate::data::transfer::{Metric, Options};
    use std::sync::Arc;

    fn of_class(split: &Arc<dyn Dataset>, label: u32) -> Vec<String> {
        seen(split).into_iter().filter(|(_, l)| *l == Some(label)).map(|(path, _)| path).collect()
    }

    #[test]
    fn caltech_draws_thirty_a_class_and_tests_on_the_rest() {
        let tree = of("caltech101");
        let set = tree.open("caltech101");
        assert_eq!(set.metric, Metric::MeanPerClass);
        assert_eq!(set.classes, ["BACKGROUND_Google", "Faces", "accordion"]);
        let (train, test) = (of_class(&set.train, 2), of_class(&set.test, 2));
        assert_eq!((train.len(), test.len()), (30, 5));
        let mut all = [train.clone(), test].concat();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 35, "each once");
        // A class with fewer keeps one to test on, and says so.
        assert_eq!(of_class(&set.test, 1).len(), 1);
        assert!(set.warnings.contains(&"class `Faces` has only 3 images".to_owned()));
        assert!(set.notes[0].contains("drawn by seed 0"), "{:?}", set.notes);

        let again = tree.open("caltech101");
        assert_eq!(of_class(&again.train, 2), train);
        assert_eq!(again.fingerprint, set.fingerprint);
        let other = tree.open_with("caltech101", &Options { seed: 1, ..Options::default() });
        assert_ne!(of_class(&other.train, 2), train);
        assert_ne!(other.fingerprint, set.fingerprint, "another split is another set");
    }

    #[test]
    fn without_its_background_no_other_class_changes() {
        let tree = of("caltech101");
        let with = tree.open("caltech101");
        let options = Options { background: false, ..Options::default() };
        let without = tree.open_with("caltech101", &options);
        assert_eq!(without.classes, ["Faces", "accordion"]);
        assert_eq!(of_class(&without.train, 1), of_class(&with.train, 2));
        assert_eq!((with.published.train, with.published.test), (3_060, 6_084));
        assert_eq!((without.published.train, without.published.test), (3_030, 5_647));
    }

    #[test]
    fn a_draw_is_stored_and_read_again_as_lists() {
        let tree = of("caltech101");
        let set = tree.open_with("caltech101", &Options { seed: 5, ..Options::default() });
        let lists = tempfile::tempdir().unwrap();
        set.store_lists(lists.path()).unwrap();
        let options = Options { list: Some(lists.path().to_owned()), ..Options::default() };
        let again = tree.open_with("caltech101", &options);
        assert_eq!(seen(&again.train), seen(&set.train));
        assert_eq!(seen(&again.test), seen(&set.test));
        assert_eq!(again.fingerprint, set.fingerprint);
        assert!(again.notes[0].contains("split by the lists in"));
        // The number of a list of others counts the background, the folder does not.
        let options = Options { background: false, ..options };
        let without = tree.open_with("caltech101", &options);
        assert_eq!(of_class(&without.train, 1), of_class(&set.train, 2));
        // Of another set likewise, with its names.
        let pets = of("pets");
        pets.open("pets").store_lists(lists.path()).unwrap();
        let options = Options { list: Some(lists.path().to_owned()), ..Options::default() };
        let again = pets.open_with("pets", &options);
        assert_eq!(again.fingerprint, pets.open("pets").fingerprint);
        assert_eq!(again.classes, ["Abyssinian", "american_bulldog"]);
        // Of Flowers, whose classes have numbers for names, the numbers of the classes are told.
        let flowers = of("flowers102");
        let lists = tempfile::tempdir().unwrap();
        flowers.open("flowers102").store_lists(lists.path()).unwrap();
        let options = Options { list: Some(lists.path().to_owned()), ..Options::default() };
        let (set, again) = (flowers.open("flowers102"), flowers.open_with("flowers102", &options));
        assert_eq!((seen(&again.train), seen(&again.test)), (seen(&set.train), seen(&set.test)));
        let text = of("voc2007").open("voc2007").store_lists(lists.path()).unwrap_err();
        assert!(text.to_string().contains("no single label"), "{text}");
    }

    #[test]
    fn birdsnap_trains_on_what_is_not_listed() {
        let tree = of("birdsnap");
        let set = tree.open("birdsnap");
        assert_eq!(set.classes, ["Acadian_Flycatcher", "Zone-tailed_Hawk"]);
        let train = [
            ("Acadian_Flycatcher/1.jpg", 0),
            ("Acadian_Flycatcher/3.jpg", 0),
            ("Zone-tailed_Hawk/9.jpg", 1),
        ];
        assert_eq!(seen(&set.train), expected(&train));
        let test = [("Acadian_Flycatcher/2.jpg", 0), ("Zone-tailed_Hawk/1.jpg", 1)];
        assert_eq!(seen(&set.test), expected(&test));
        assert_eq!(set.warnings[0], "1 of 3 listed test images are missing");
    }

    #[test]
    fn imagenette_names_its_classes() {
        let tree = of("imagenette");
        let set = tree.open("imagenette");
        assert_eq!(set.classes, ["tench", "parachute"]);
        assert_eq!((set.train.len(), set.test.len()), (4, 2));
        assert_eq!(set.test.label(1), Some(1));
        assert!(set.notes[0].contains("ImageNet"));
        tree.image("imagenette2-160/train/n00000000/1.JPEG");
        let text = tree.failure("imagenette");
        assert!(text.contains("n00000000` is no class of Imagenette"), "{text}");
    }

    #[test]
    fn another_set_is_not_taken_for_cifar() {
        let text = of("cifar100").failure("cifar10");
        assert!(text.contains("100 classes instead of 10"), "{text}");
        let tree = Tree::new();
        for class in 0..10 {
            tree.image(&format!("train/{class}/1.png"));
            tree.image(&format!("test/{class}/1.png"));
        }
        let text = tree.failure("cifar10");
        assert!(text.contains("images are 3x2 instead of 32x32"), "{text}");
    }
}
