//! Sets whose splits are MATLAB files: Stanford Cars, Flowers-102, Stanford Dogs.

use super::lists::{from_one, inside, leads_out, names};
use super::mat::Variables;
use super::{Item, Lists, Place};
use crate::error::Result;
use std::path::{Path, PathBuf};

fn within(path: &str, file: &Variables) -> Result<PathBuf> {
    inside(path).ok_or_else(|| file.error(&leads_out(path)))
}

/// Stanford Cars: records with `fname` and `class` (from 1) in `cars_train_annos.mat` and `cars_test_annos_withlabels.mat`; the
/// names of the classes in `cars_meta.mat`, if it is there. The boxes are not used, as in the references.
pub(super) fn cars(place: &Place<'_>) -> Result<Lists> {
    let split = |list: &str, folder: &str| -> Result<Vec<Item>> {
        let file = Variables::read(&place.below(&["devkit", ""], list).join(list))?;
        let records = file.get("annotations")?;
        let (Some(paths), Some(labels)) = (records.field("fname"), records.field("class")) else {
            return Err(file.error("has no records with `fname` and `class` in `annotations`"));
        };
        let item = |(path, label): (&super::mat::Value, &super::mat::Value)| {
            let label = label.number().and_then(from_one);
            let (Some(path), Some(label)) = (path.text(), label) else {
                return Err(file.error("has a record without a file name or a class from 1 up"));
            };
            Ok(Item::of(Path::new(folder).join(within(path, &file)?), label))
        };
        paths.into_iter().zip(labels).map(item).collect()
    };
    let train = split("cars_train_annos.mat", "cars_train")?;
    let test = split("cars_test_annos_withlabels.mat", "cars_test")?;
    let named = place.below(&["devkit", ""], "cars_meta.mat").join("cars_meta.mat");
    let classes: Vec<String> = if named.is_file() {
        let file = Variables::read(&named)?;
        file.texts("class_names")?.into_iter().map(str::to_owned).collect()
    } else {
        (1..=place.entry.classes).map(|number| number.to_string()).collect()
    };
    Ok(Lists { classes, ..Lists::of(&place.path, train, test) })
}

/// Flowers-102: `setid.mat` holds the numbers of the images for training (`trnid`), validation (`valid`) and test (`tstid`, the
/// large one); `imagelabels.mat` holds the class from 1 of each; image 7 is `jpg/image_00007.jpg`. The classes have no names.
pub(super) fn flowers102(place: &Place<'_>) -> Result<Lists> {
    let labels = Variables::read(&place.path.join("imagelabels.mat"))?;
    let sets = Variables::read(&place.path.join("setid.mat"))?;
    let all = labels.numbers("labels")?;
    let split = |name: &str| -> Result<Vec<Item>> {
        let item = |number: &f64| {
            let image = from_one(*number).and_then(|at| Some((at + 1, *all.get(at as usize)?)));
            let Some((image, label)) = image else {
                return Err(sets.error(&format!(
                    "names image {number} in `{name}`, of {} with labels",
                    all.len()
                )));
            };
            let label = from_one(label);
            let label = label.ok_or_else(|| labels.error("has a label that is no class from 1"))?;
            Ok(Item::of(PathBuf::from(format!("jpg/image_{image:05}.jpg")), label))
        };
        sets.numbers(name)?.iter().map(item).collect()
    };
    let (train, validation, test) = (split("trnid")?, split("valid")?, split("tstid")?);
    let classes = (1..=place.entry.classes).map(|number| number.to_string()).collect();
    let validation = Some(validation);
    Ok(Lists { classes, validation, ..Lists::of(&place.path, train, test) })
}

/// Stanford Dogs: `train_list.mat` and `test_list.mat` with the texts `file_list` (`n02085620-Chihuahua/….jpg`) and the numbers
/// `labels` from 1; images below `Images`. The boxes are not used.
pub(super) fn dogs(place: &Place<'_>) -> Result<Lists> {
    let split = |list: &str| -> Result<Vec<(PathBuf, u32, String)>> {
        let file = Variables::read(&place.below(&["", "lists"], list).join(list))?;
        let (paths, labels) = (file.texts("file_list")?, file.numbers("labels")?);
        if paths.len() != labels.len() {
            return Err(file.error(&format!(
                "has {} labels for {} images",
                labels.len(),
                paths.len()
            )));
        }
        let item = |(path, label): (&str, &f64)| {
            let label = from_one(*label);
            let label = label.ok_or_else(|| file.error("has a label that is no class from 1"))?;
            let breed = path.split('/').next().unwrap_or_default();
            let breed = breed.split_once('-').map_or(breed, |(_, breed)| breed).to_owned();
            Ok((within(path, &file)?, label, breed))
        };
        paths.into_iter().zip(labels).map(item).collect()
    };
    let (train, test) = (split("train_list.mat")?, split("test_list.mat")?);
    let told = train.iter().chain(&test).map(|(_, label, breed)| (*label, breed.clone()));
    let classes = names(told)?;
    let [train, test] = [train, test].map(|split| {
        split.into_iter().map(|(path, label, _)| Item::of(path, label)).collect::<Vec<_>>()
    });
    Ok(Lists { classes, ..Lists::of(&place.images(), train, test) })
}

#[cfg(test)]
mod tests {
    use crate::data::transfer::Metric;
    use crate::data::transfer::miniature::{expected, of, seen};

    #[test]
    fn cars_are_told_by_records() {
        let tree = of("cars");
        let set = tree.open("cars");
        assert_eq!(set.metric, Metric::Top1);
        assert_eq!(set.classes[1..], ["Acura RL Sedan 2012", "Citroën Ë-C3 2020"]);
        let train = [
            ("cars_train/00001.jpg", 2),
            ("cars_train/00002.jpg", 0),
            ("cars_train/00003.jpg", 1),
            ("cars_train/00004.jpg", 1),
        ];
        assert_eq!(seen(&set.train), expected(&train));
        assert_eq!(seen(&set.test)[2], ("cars_test/00003.jpg".to_owned(), Some(2)));
        // Without the names there are numbers, and the lists for tests may lie in the development kit.
        let tree = of("cars");
        std::fs::remove_file(tree.at("devkit/cars_meta.mat")).unwrap();
        let list = "cars_test_annos_withlabels.mat";
        std::fs::rename(tree.at(list), tree.at(&format!("devkit/{list}"))).unwrap();
        let set = tree.open("cars");
        assert_eq!((set.classes.len(), set.classes[195].as_str()), (196, "196"));
    }

    #[test]
    fn the_large_list_of_flowers_is_the_test_set() {
        let tree = of("flowers102");
        let set = tree.open("flowers102");
        assert_eq!(set.metric, Metric::MeanPerClass);
        let image = |number: usize| format!("jpg/image_{number:05}.jpg");
        assert_eq!(
            seen(&set.train),
            [(image(1), Some(0)), (image(3), Some(1)), (image(5), Some(2))]
        );
        assert_eq!(
            seen(set.validation.as_ref().unwrap()),
            [(image(7), Some(0)), (image(8), Some(1))]
        );
        assert_eq!(set.test.len(), 4);
        assert_eq!(seen(&set.test)[3], (image(9), Some(2)));
        assert_eq!(set.classes.len(), 102);
    }

    #[test]
    fn dogs_are_told_by_cells_and_numbers() {
        let tree = of("stanford-dogs");
        let set = tree.open("stanford-dogs");
        assert_eq!(set.classes, ["Chihuahua", "Japanese_spaniel"]);
        let train = [
            ("n02085620-Chihuahua/n02085620_5927.jpg", 0),
            ("n02085620-Chihuahua/n02085620_4441.jpg", 0),
            ("n02085782-Japanese_spaniel/n02085782_17.jpg", 1),
        ];
        assert_eq!(seen(&set.train), expected(&train));
        assert_eq!(set.test.len(), 2);
        assert!(set.notes[0].contains("ImageNet"), "{:?}", set.notes);
    }

    #[test]
    fn a_damaged_list_is_named_with_the_way_out() {
        let tree = of("flowers102");
        tree.text("setid.mat", "no MATLAB file");
        let text = tree.failure("flowers102");
        assert!(text.contains("setid.mat") && text.contains("`train.txt`"), "{text}");
        let tree = of("stanford-dogs");
        std::fs::copy(tree.at("lists/train_list.mat"), tree.at("lists/test_list.mat")).unwrap();
        let text = tree.failure("stanford-dogs");
        assert!(text.contains("5927.jpg` twice"), "{text}");
    }

    #[test]
    fn text_lists_stand_in_for_matlab_files() {
        let tree = of("cars");
        std::fs::remove_dir_all(tree.at("devkit")).unwrap();
        tree.text("train.txt", "cars_train/00001.jpg 2\ncars_train/00002.jpg 0\n");
        tree.text("test.txt", "cars_test/00003.jpg 1\n");
        let set = tree.open("cars");
        let train = [("cars_train/00001.jpg", 2), ("cars_train/00002.jpg", 0)];
        assert_eq!(seen(&set.train), expected(&train));
        assert_eq!(set.classes, ["0", "1", "2"]);
        assert!(set.warnings.iter().any(|text| text == "3 classes instead of 196"));
    }
}
