//! Sets whose splits are text files: reading such lists, and the layouts made of them.

use super::{Item, Lists, Place};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Component, Path, PathBuf};

/// Largest list read, in bytes.
const MAX_LIST: u64 = 256 << 20;

/// The text of a list.
///
/// # Errors
/// [`Error::Data`] when it is missing, too large or no UTF-8.
pub(super) fn read(path: &Path) -> Result<String> {
    let name = path.display();
    let failed = |why: &dyn Display| Error::Data(format!("cannot read list `{name}`: {why}"));
    let size = path.metadata().map_err(|e| failed(&e))?.len();
    if size > MAX_LIST {
        return Err(failed(&format!("{size} bytes are more than the {MAX_LIST} accepted")));
    }
    let mut text = std::fs::read_to_string(path).map_err(|e| failed(&e))?;
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(text)
}

/// A list with the lines that say something.
pub(super) struct List {
    path: PathBuf,
    text: String,
}

impl List {
    pub(super) fn read(path: PathBuf) -> Result<Self> {
        let text = read(&path)?;
        Ok(Self { path, text })
    }

    /// Lines by their numbers, without space around them; empty ones and comments left out.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
        lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    }

    /// An error about a line.
    pub(super) fn error(&self, number: usize, what: &str) -> Error {
        Error::Data(format!("line {number} of `{}` {what}", self.path.display()))
    }

    /// A path within the data set, from a line.
    pub(super) fn inside(&self, number: usize, path: &str) -> Result<PathBuf> {
        inside(path).ok_or_else(|| self.error(number, &leads_out(path)))
    }
}

/// What is said of a path that is not taken.
pub(super) fn leads_out(path: &str) -> String {
    let start: String = path.chars().take(100).collect();
    format!("names `{start}`, which is no path within the data set (relative, without `..`)")
}

/// A path that stays within the folder it belongs to, if it is one. Links are followed, as in image folders.
pub(super) fn inside(path: &str) -> Option<PathBuf> {
    let within = Path::new(path);
    let plain = within.components().all(|part| matches!(part, Component::Normal(_)));
    (plain && !path.is_empty() && !path.contains('\0')).then(|| within.to_owned())
}

/// The class names by label, when each image tells both: one name a label, labels without any image by their number.
///
/// # Errors
/// [`Error::Data`] when a label has two names.
pub(super) fn names(pairs: impl Iterator<Item = (u32, String)>) -> Result<Vec<String>> {
    let mut known: BTreeMap<u32, String> = BTreeMap::new();
    for (label, name) in pairs {
        let first = known.entry(label).or_insert_with(|| name.clone());
        if *first != name {
            return Err(Error::Data(format!(
                "label {} stands for `{first}` as well as `{name}`",
                label + 1
            )));
        }
    }
    let count = known.last_key_value().map_or(0, |(last, _)| last + 1);
    Ok((0..count).map(|label| known.remove(&label).unwrap_or(label.to_string())).collect())
}

/// Label from 0 of a number from 1, with a bound that no set reaches.
pub(super) fn from_one(number: f64) -> Option<u32> {
    let whole = number.fract() == 0.0 && (1.0..=100_000.0).contains(&number);
    whole.then(|| number as u32 - 1)
}

/// The sorted names that occur, and the items under their ranks.
pub(super) fn ranked(splits: [Vec<(PathBuf, String)>; 3]) -> (Vec<String>, [Vec<Item>; 3]) {
    let names: BTreeSet<String> = splits.iter().flatten().map(|(_, name)| name.clone()).collect();
    let names: Vec<String> = names.into_iter().collect();
    let items = splits.map(|split| {
        let label = |name: &String| names.binary_search(name).map_or(0, |rank| rank as u32);
        split.into_iter().map(|(path, name)| Item::of(path, label(&name))).collect()
    });
    (names, items)
}

/// The first part of a path, which names the class.
fn folder_of(path: &Path) -> String {
    path.iter().next().unwrap_or_default().to_string_lossy().into_owned()
}

/// Plain lists `train.txt`, `test.txt`, and `val.txt` if there is one: lines `path label`, the label a number from 0 or a name
/// of `classes.txt`, which has one name a line. Paths may hold spaces; where they begin is for the caller to say.
pub(super) fn plain(lists: &Path) -> Result<Lists> {
    let named = lists.join("classes.txt");
    let known: Option<Vec<String>> = if named.is_file() {
        Some(read(&named)?.lines().map(|line| line.trim().to_owned()).collect())
    } else {
        None
    };
    let split = |name: &str| -> Result<Vec<Item>> {
        let list = List::read(lists.join(name))?;
        let item = |(number, line): (usize, &str)| {
            let parts = line.rsplit_once(char::is_whitespace);
            let (path, label) =
                parts.ok_or_else(|| list.error(number, "has no label behind the path"))?;
            let rank = known.as_ref().and_then(|names| names.iter().position(|n| n == label));
            let (rank, count) = (rank.map(|rank| rank as u32), label.parse().ok());
            if let (Some(rank), Some(count)) = (rank, count)
                && rank != count
            {
                return Err(list.error(
                    number,
                    &format!(
                        "ends in `{label}`, which is the name of class {rank} in `classes.txt` and could be the number of \
                         another; take numbers from 0, and leave `classes.txt` out or let its names be no numbers"
                    ),
                ));
            }
            let label = rank.or(count);
            let label = label.filter(|label| *label < 100_000).ok_or_else(|| {
                list.error(number, "ends in no label: a number from 0, or a name of `classes.txt`")
            })?;
            Ok(Item::of(list.inside(number, path.trim_end())?, label))
        };
        list.lines().map(item).collect()
    };
    let (train, test) = (split("train.txt")?, split("test.txt")?);
    let validation = if lists.join("val.txt").is_file() { Some(split("val.txt")?) } else { None };
    let all = train.iter().chain(&test).chain(validation.iter().flatten());
    let most = all.filter_map(Item::label).max().map_or(0, |label| label as usize + 1);
    let classes = known.unwrap_or_else(|| (0..most).map(|label| label.to_string()).collect());
    Ok(Lists { classes, validation, ..Lists::of(lists, train, test) })
}

/// SUN397, partition 01: `Training_01.txt` and `Testing_01.txt` name `/a/abbey/sun_aaa….jpg`; the class is the folder.
pub(super) fn sun397(place: &Place<'_>) -> Result<Lists> {
    let lists = place.below(&["Partitions", ""], "Training_01.txt");
    let split = |name: &str| -> Result<Vec<(PathBuf, String)>> {
        let list = List::read(lists.join(name))?;
        let item = |(number, line): (usize, &str)| {
            // Within the data set, whatever the slash says.
            let path = list.inside(number, line.trim_start_matches('/'))?;
            let class = path.parent().unwrap_or(Path::new(""));
            // The first folder is the first letter.
            let class: PathBuf = class.iter().skip(1).collect();
            if class.as_os_str().is_empty() {
                return Err(list.error(number, "names no `/letter/class/image`"));
            }
            let class = class.to_string_lossy().into_owned();
            Ok((path, class))
        };
        list.lines().map(item).collect()
    };
    let (train, test) = (split("Training_01.txt")?, split("Testing_01.txt")?);
    let first = train.first().map_or(PathBuf::new(), |(path, _)| path.clone());
    let images = place.below(&["", "SUN397"], &first);
    let (classes, [train, _, test]) = ranked([train, Vec::new(), test]);
    Ok(Lists { classes, ..Lists::of(&images, train, test) })
}

/// FGVC-Aircraft by variant: `images_variant_train.txt` and its like, lines `1025794 707-320`; `variants.txt` names the
/// classes.
pub(super) fn aircraft(place: &Place<'_>) -> Result<Lists> {
    let classes: Vec<String> =
        List::read(place.path.join("variants.txt"))?.lines().map(|(_, l)| l.to_owned()).collect();
    let split = |name: &str| -> Result<Vec<Item>> {
        let list = List::read(place.path.join(format!("images_variant_{name}.txt")))?;
        let item = |(number, line): (usize, &str)| {
            let (image, variant) = line.split_once(' ').unwrap_or((line, ""));
            let label = classes.iter().position(|class| class == variant.trim());
            let label = label
                .ok_or_else(|| list.error(number, "has no variant that `variants.txt` lists"))?;
            Ok(Item::of(list.inside(number, &format!("{image}.jpg"))?, label as u32))
        };
        list.lines().map(item).collect()
    };
    let (train, validation, test) = (split("train")?, split("val")?, split("test")?);
    let validation = Some(validation);
    Ok(Lists { classes, validation, ..Lists::of(&place.images(), train, test) })
}

/// The lines of a list that are paths `class/image`, with their classes.
fn by_folder(path: PathBuf) -> Result<Vec<(PathBuf, String)>> {
    let list = List::read(path)?;
    let item = |(number, line): (usize, &str)| {
        let path = list.inside(number, line)?;
        let class = folder_of(&path);
        Ok((path, class))
    };
    list.lines().map(item).collect()
}

/// DTD, partition 1: `labels/train1.txt` and its like, lines `banded/banded_0002.jpg`; the class is the folder.
pub(super) fn dtd(place: &Place<'_>) -> Result<Lists> {
    let split = |name: &str| by_folder(place.path.join("labels").join(name));
    let splits = [split("train1.txt")?, split("val1.txt")?, split("test1.txt")?];
    let (classes, [train, validation, test]) = ranked(splits);
    let validation = Some(validation);
    Ok(Lists { classes, validation, ..Lists::of(&place.images(), train, test) })
}

/// Oxford-IIIT Pets: `annotations/trainval.txt` and `test.txt`, lines `Abyssinian_100 1 1 1` (image, class from 1, species,
/// breed within the species).
pub(super) fn pets(place: &Place<'_>) -> Result<Lists> {
    let split = |name: &str| -> Result<Vec<(PathBuf, u32, String)>> {
        let list = List::read(place.path.join("annotations").join(name))?;
        let item = |(number, line): (usize, &str)| {
            let mut words = line.split_whitespace();
            let (image, label) = (words.next().unwrap_or_default(), words.next());
            let label = label.and_then(|label| from_one(label.parse().ok()?));
            let label = label.ok_or_else(|| list.error(number, "has no class from 1 up"))?;
            let breed = image.rsplit_once('_').map_or(image, |(breed, _)| breed).to_owned();
            Ok((list.inside(number, &format!("{image}.jpg"))?, label, breed))
        };
        list.lines().map(item).collect()
    };
    let (train, test) = (split("trainval.txt")?, split("test.txt")?);
    let told = train.iter().chain(&test).map(|(_, label, breed)| (*label, breed.clone()));
    let classes = names(told)?;
    let [train, test] = [train, test].map(|split| {
        split.into_iter().map(|(path, label, _)| Item::of(path, label)).collect::<Vec<_>>()
    });
    Ok(Lists { classes, ..Lists::of(&place.images(), train, test) })
}

/// CUB-200-2011: `images.txt`, `image_class_labels.txt` and `train_test_split.txt` tell path, class from 1 and split (1 is
/// train) by the number of an image; `classes.txt` names the classes.
pub(super) fn cub_2011(place: &Place<'_>) -> Result<Lists> {
    let list = |name: &str| List::read(place.path.join(name));
    let (images, labels, split) =
        (list("images.txt")?, list("image_class_labels.txt")?, list("train_test_split.txt")?);
    let (labels, split) = (numbered(&labels)?, numbered(&split)?);
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (number, line) in images.lines() {
        let (id, path) = line.split_once(' ').unwrap_or((line, ""));
        let label = labels.get(id).and_then(|label| from_one(label.parse().ok()?));
        let side = match split.get(id) {
            Some(&"1") => Some(&mut train),
            Some(&"0") => Some(&mut test),
            _ => None,
        };
        let (Some(label), Some(side)) = (label, side) else {
            return Err(images.error(number, "names an image without a class or a split"));
        };
        side.push(Item::of(images.inside(number, path.trim())?, label));
    }
    let classes = list("classes.txt")?;
    let classes = numbered(&classes)?;
    let name = |number: usize| classes.get(number.to_string().as_str()).copied();
    let classes: Vec<String> = (1..=classes.len())
        .map(|number| name(number).map_or_else(|| number.to_string(), str::to_owned))
        .collect();
    Ok(Lists { classes, ..Lists::of(&place.images(), train, test) })
}

/// Lines `number value`, by number.
fn numbered(list: &List) -> Result<BTreeMap<&str, &str>> {
    let pair = |(number, line)| {
        let pair: Option<(&str, &str)> = str::split_once(line, ' ');
        let (id, value) = pair.ok_or_else(|| list.error(number, "is no `number value`"))?;
        Ok((id, value.trim()))
    };
    list.lines().map(pair).collect()
}

/// CUB-200 of 2010: `lists/train.txt` and `lists/test.txt`, lines `001.Black_footed_Albatross/….jpg`; the class is the folder.
pub(super) fn cub_2010(place: &Place<'_>) -> Result<Lists> {
    let split = |name: &str| by_folder(place.path.join("lists").join(name));
    let (classes, [train, _, test]) = ranked([split("train.txt")?, Vec::new(), split("test.txt")?]);
    Ok(Lists { classes, ..Lists::of(&place.images(), train, test) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::transfer::Metric;
    use crate::data::transfer::miniature::{Tree, expected, of, seen};

    #[test]
    fn scenes_are_classes_by_folder_whatever_the_slash_says() {
        let tree = of("sun397");
        let set = tree.open("sun397");
        assert_eq!(set.classes, ["abbey", "outhouse/outdoor"]);
        let train = [("a/abbey/sun_b.jpg", 0), ("o/outhouse/outdoor/sun_c.jpg", 1)];
        assert_eq!(seen(&set.train), expected(&train));
        assert_eq!(set.test.len(), 2);
        // The lists may lie beside the letters.
        for list in ["Training_01.txt", "Testing_01.txt"] {
            std::fs::rename(
                tree.at(&format!("Partitions/{list}")),
                tree.at(&format!("SUN397/{list}")),
            )
            .unwrap();
        }
        assert_eq!(tree.open("sun397").fingerprint, set.fingerprint);
    }

    #[test]
    fn aircraft_has_variants_with_spaces_and_slashes_and_an_official_validation() {
        let tree = of("aircraft");
        let set = tree.open("aircraft");
        assert_eq!(set.metric, Metric::MeanPerClass);
        assert_eq!(seen(&set.train), expected(&[("0034309.jpg", 1), ("1.jpg", 0)]));
        assert_eq!(seen(set.validation.as_ref().unwrap()), expected(&[("2.jpg", 2)]));
        assert_eq!(seen(&set.test), expected(&[("3.jpg", 0)]));
        tree.text("fgvc-aircraft-2013b/data/images_variant_test.txt", "3 F-16\n");
        let text = tree.failure("aircraft");
        assert!(text.contains("line 1") && text.contains("images_variant_test.txt"), "{text}");
    }

    #[test]
    fn textures_and_pets_are_read() {
        let tree = of("dtd");
        let set = tree.open("dtd");
        assert_eq!(set.classes, ["banded", "zigzagged"]);
        assert_eq!(seen(&set.train), expected(&[("banded/banded_0002.jpg", 0)]));
        let validation = expected(&[("zigzagged/zigzagged_2.jpg", 1)]);
        assert_eq!(seen(set.validation.as_ref().unwrap()), validation);
        assert_eq!((set.metric, set.test.len()), (Metric::Top1, 2));

        let tree = of("pets");
        let set = tree.open("pets");
        assert_eq!(set.classes, ["Abyssinian", "american_bulldog"]);
        let train = [("Abyssinian_100.jpg", 0), ("american_bulldog_7.jpg", 1)];
        assert_eq!(seen(&set.train), expected(&train));
        assert_eq!((set.metric, set.test.len()), (Metric::MeanPerClass, 2));
        tree.text("annotations/test.txt", "american_bulldog_9 1 2 1\n");
        let text = tree.failure("pets");
        assert!(text.contains("label 1 stands for `Abyssinian` as well as"), "{text}");
        tree.text("annotations/test.txt", "american_bulldog_9 0 2 1\n");
        assert!(tree.failure("pets").contains("no class from 1 up"));
    }

    #[test]
    fn both_editions_of_the_birds_are_read_and_told_apart() {
        let tree = of("cub200");
        let set = tree.open("cub200");
        let train =
            [("001.Black_footed_Albatross/b_2.jpg", 0), ("002.Laysan_Albatross/a_1.jpg", 1)];
        assert_eq!(seen(&set.train), expected(&train));
        assert_eq!(set.test.len(), 2);
        assert_eq!(set.classes[1], "002.Laysan_Albatross");
        let text = tree.failure("cub200-2010");
        assert!(text.contains("looks like CUB-200-2011, which is `cub200`"), "{text}");
        tree.text("CUB_200_2011/train_test_split.txt", "1 0\n2 1\n3 1\n");
        let text = tree.failure("cub200");
        assert!(text.contains("line 4") && text.contains("without a class or a split"), "{text}");

        let tree = of("cub200-2010");
        let set = tree.open("cub200-2010");
        let train =
            [("002.Laysan_Albatross/a_1.jpg", 1), ("001.Black_footed_Albatross/a_1.jpg", 0)];
        assert_eq!(seen(&set.train), expected(&train));
        assert_eq!(set.published.train + set.published.test, 6_033);
        assert!(tree.failure("cub200").contains("which is `cub200-2010`"));
    }

    #[test]
    fn plain_lists_hold_numbers_or_names_and_paths_with_spaces() {
        let tree = Tree::new();
        tree.images("some pictures", &["a b.jpg", "c.jpg", "d.jpg"]);
        tree.text("train.txt", "\u{feff}# comment\nsome pictures/a b.jpg 1\n");
        tree.text("val.txt", "some pictures/c.jpg dog\n");
        tree.text("test.txt", "some pictures/d.jpg\t0\r\n\r\n");
        tree.text("classes.txt", "cat\ndog\n");
        let set = tree.open("stanford-dogs");
        assert_eq!(set.classes, ["cat", "dog"]);
        assert_eq!(seen(&set.train), expected(&[("some pictures/a b.jpg", 1)]));
        assert_eq!(seen(set.validation.as_ref().unwrap())[0].1, Some(1));
        assert_eq!(seen(&set.test), expected(&[("some pictures/d.jpg", 0)]));
        for (line, told) in [
            ("some pictures/d.jpg 2\n", "label 2, there are 2 classes"),
            ("d.jpg\n", "no label behind the path"),
            ("d.jpg mouse\n", "ends in no label"),
            ("d.jpg 4000000000\n", "ends in no label"),
            ("../d.jpg 0\n", "names `../d.jpg`, which is no path within"),
            ("/etc/hostname 0\n", "no path within"),
            ("some pictures/c.jpg 1\n", "twice"),
            ("", "name no test image"),
            ("gone.jpg 0\n", "none of the 1 test images"),
        ] {
            tree.text("test.txt", line);
            let text = tree.failure("stanford-dogs");
            assert!(text.contains(told), "{line}: {text}");
        }
    }

    #[test]
    fn a_number_that_is_the_name_of_another_class_is_refused() {
        let tree = Tree::new();
        tree.images("all", &["a.jpg", "b.jpg"]);
        tree.text("train.txt", "all/a.jpg 1\n");
        tree.text("test.txt", "all/b.jpg 0\n");
        tree.text("classes.txt", "1\n2\n");
        let text = tree.failure("stanford-dogs");
        assert!(
            text.contains("name of class 0") && text.contains("leave `classes.txt` out"),
            "{text}"
        );
        tree.text("classes.txt", "0\n1\n");
        assert_eq!(seen(&tree.open("stanford-dogs").train), expected(&[("all/a.jpg", 1)]));
    }

    #[test]
    fn only_paths_within_are_taken() {
        for path in ["a.jpg", "a/b.jpg", "a/..b", "größe/ü.jpg", "a//b"] {
            assert!(inside(path).is_some(), "{path}");
        }
        for path in ["", "/", "/a", "..", "../a", "a/../b", "./a", "a/\0"] {
            assert!(inside(path).is_none(), "{path}");
        }
    }
}
