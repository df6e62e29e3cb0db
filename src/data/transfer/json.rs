//! Sets whose splits are JSON files: Food-101 and iNaturalist 2018.

use super::lists::{inside, leads_out};
use super::{Item, Lists, Place};
use crate::data::read_file;
use crate::error::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_slice(&read_file(path)?)
        .map_err(|e| Error::Data(format!("cannot read list `{}`: {e}", path.display())))
}

fn within(path: &str, list: &Path) -> Result<PathBuf> {
    let found = inside(path);
    found.ok_or_else(|| Error::Data(format!("`{}` {}", list.display(), leads_out(path))))
}

/// Food-101: `meta/train.json` and `meta/test.json` hold the images of each class as `apple_pie/1005649`.
pub(super) fn food101(place: &Place<'_>) -> Result<Lists> {
    let lists = ["train.json", "test.json"].map(|name| place.path.join("meta").join(name));
    let [train, test]: [BTreeMap<String, Vec<String>>; 2] = [read(&lists[0])?, read(&lists[1])?];
    let classes: BTreeSet<&String> = train.keys().chain(test.keys()).collect();
    let classes: Vec<String> = classes.into_iter().cloned().collect();
    let items = |split: &BTreeMap<String, Vec<String>>, list: &Path| -> Result<Vec<Item>> {
        let mut items = Vec::new();
        for (class, images) in split {
            let label = classes.binary_search(class).map_or(0, |rank| rank as u32);
            for image in images {
                items.push(Item::of(within(&format!("{image}.jpg"), list)?, label));
            }
        }
        Ok(items)
    };
    let (train, test) = (items(&train, &lists[0])?, items(&test, &lists[1])?);
    Ok(Lists { classes, ..Lists::of(&place.images(), train, test) })
}

/// What is used of a list of iNaturalist, which has the form of COCO's.
#[derive(Deserialize)]
struct Listed {
    images: Vec<Picture>,
    annotations: Vec<Annotation>,
    #[serde(default)]
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Picture {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: u64,
    category_id: u64,
}

#[derive(Deserialize)]
struct Category {
    id: u64,
    name: String,
}

/// iNaturalist 2018: `train2018.json` and `val2018.json`, images below `train_val2018`. Validation is what all report on: it is
/// the test split here. The label is the rank of the category's number.
pub(super) fn inaturalist2018(place: &Place<'_>) -> Result<Lists> {
    let lists = ["train2018.json", "val2018.json"].map(|name| place.path.join(name));
    let [train, test]: [Listed; 2] = [read(&lists[0])?, read(&lists[1])?];
    let mut categories: BTreeMap<u64, String> = BTreeMap::new();
    for category in train.categories.iter().chain(&test.categories) {
        categories.insert(category.id, category.name.clone());
    }
    for annotation in train.annotations.iter().chain(&test.annotations) {
        let number = annotation.category_id;
        categories.entry(number).or_insert_with(|| number.to_string());
    }
    let rank: BTreeMap<u64, u32> = categories.keys().copied().zip(0..).collect();
    let items = |split: &Listed, list: &Path| -> Result<Vec<Item>> {
        let labels: BTreeMap<u64, u64> =
            split.annotations.iter().map(|told| (told.image_id, told.category_id)).collect();
        let item = |image: &Picture| {
            let label = labels.get(&image.id).and_then(|category| rank.get(category));
            let label = label.ok_or_else(|| {
                Error::Data(format!("`{}` has no annotation of image {}", list.display(), image.id))
            })?;
            Ok(Item::of(within(&image.file_name, list)?, *label))
        };
        split.images.iter().map(item).collect()
    };
    let (train, test) = (items(&train, &lists[0])?, items(&test, &lists[1])?);
    let classes = categories.into_values().collect();
    Ok(Lists { classes, ..Lists::of(&place.path, train, test) })
}

#[cfg(test)]
mod tests {
    use crate::data::transfer::miniature::{expected, of, seen};

    #[test]
    fn food_is_listed_by_class() {
        let tree = of("food101");
        let set = tree.open("food101");
        assert_eq!(set.classes, ["Waffles", "apple_pie"]);
        let train =
            [("Waffles/8.jpg", 0), ("apple_pie/1005649.jpg", 1), ("apple_pie/1026328.jpg", 1)];
        assert_eq!(seen(&set.train), expected(&train));
        assert_eq!(
            seen(&set.test),
            expected(&[("Waffles/7.jpg", 0), ("apple_pie/1014775.jpg", 1)])
        );
        assert!(set.validation.is_none());
    }

    #[test]
    fn species_are_ranks_of_their_numbers_and_validation_is_the_test() {
        let tree = of("inaturalist2018");
        let set = tree.open("inaturalist2018");
        assert_eq!(set.classes, ["Pica pica", "Rosa"]);
        let train =
            [("train_val2018/Plantae/7477/3b60.jpg", 1), ("train_val2018/Aves/17/bb.jpg", 0)];
        assert_eq!(seen(&set.train), expected(&train));
        let test = [("train_val2018/Aves/17/cc.jpg", 0), ("train_val2018/Plantae/7477/aa.jpg", 1)];
        assert_eq!(seen(&set.test), expected(&test));
        tree.text(
            "val2018.json",
            r#"{"images": [{"id": 20, "file_name": "x.jpg"}], "annotations": []}"#,
        );
        let text = tree.failure("inaturalist2018");
        assert!(text.contains("val2018.json` has no annotation of image 20"), "{text}");
    }

    #[test]
    fn damaged_and_escaping_lists_are_refused() {
        let failure = |json: &str| {
            let tree = of("food101");
            tree.text("meta/test.json", json);
            tree.failure("food101")
        };
        assert!(failure("{\"apple_pie\": 7}").contains("test.json"));
        for path in ["../../etc/passwd", "/etc/passwd", "a/../../b", "a\\u0000b"] {
            let text = failure(&format!("{{\"apple_pie\": [\"{path}\"]}}"));
            assert!(text.contains("no path within the data set"), "{path}: {text}");
        }
        assert!(failure(r#"{"apple_pie": ["apple_pie/1005649"]}"#).contains("twice"));
    }
}
