//! PASCAL VOC 2007: several classes may be seen in one image.

use super::lists::List;
use super::{Item, Lists, Place, Target};
use crate::data::Presence;
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// The classes, in the devkit's order.
pub(super) const CLASSES: [&str; 20] = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
];

/// `ImageSets/Main/{train,val,test}.txt` list the images, `ImageSets/Main/CLASS_SPLIT.txt` say of each whether the class is
/// seen (1), not (-1), or only in instances marked as difficult (0). Images in `JPEGImages`.
pub(super) fn voc2007(place: &Place<'_>) -> Result<Lists> {
    let main = place.path.join("ImageSets/Main");
    let split = |name: &str| -> Result<Vec<Item>> {
        let list = List::read(main.join(format!("{name}.txt")))?;
        let first = |line: &'_ str| line.split_whitespace().next().unwrap_or_default().to_owned();
        let ids: Vec<String> = list.lines().map(|(_, line)| first(line)).collect();
        let rows: BTreeMap<&str, usize> = ids.iter().map(String::as_str).zip(0..).collect();
        let mut marks = vec![[None; CLASSES.len()]; ids.len()];
        for (class, named) in CLASSES.iter().enumerate() {
            let told = List::read(main.join(format!("{named}_{name}.txt")))?;
            for (number, line) in told.lines() {
                let mut words = line.split_whitespace();
                let row = words.next().and_then(|id| rows.get(id));
                let row = row.ok_or_else(|| {
                    told.error(number, &format!("names an image that `{name}.txt` lacks"))
                })?;
                marks[*row][class] = match words.next() {
                    Some("1") => Some(Presence::Present),
                    Some("-1") => Some(Presence::Absent),
                    Some("0") => Some(Presence::Difficult),
                    _ => return Err(told.error(number, "has no mark 1, 0 or -1")),
                };
            }
            if let Some(row) = marks.iter().position(|marks| marks[class].is_none()) {
                return Err(Error::Data(format!(
                    "`{}` says nothing of image `{}`",
                    main.join(format!("{named}_{name}.txt")).display(),
                    ids[row]
                )));
            }
        }
        let items = list.lines().zip(marks).map(|((number, line), marks)| {
            let path = list.inside(number, &format!("{}.jpg", first(line)))?;
            let marks = marks.into_iter().flatten().collect();
            Ok(Item { path, target: Target::Presence(marks) })
        });
        items.collect()
    };
    let (train, validation, test) = (split("train")?, split("val")?, split("test")?);
    Ok(Lists {
        classes: CLASSES.map(str::to_owned).to_vec(),
        validation: Some(validation),
        ..Lists::of(&place.images(), train, test)
    })
}

#[cfg(test)]
mod tests {
    use crate::data::Presence::{Absent, Difficult, Present};
    use crate::data::subset::Subset;
    use crate::data::transfer::miniature::{of, seen};
    use crate::data::transfer::{Metric, splits};
    use crate::data::{Dataset, MultiLabels};

    #[test]
    fn present_absent_and_difficult_are_told_apart_per_split() {
        let tree = of("voc2007");
        let set = tree.open("voc2007");
        assert_eq!(set.metric, Metric::VocMap);
        let class = |name: &str| set.classes.iter().position(|class| class == name).unwrap();
        let (dog, person, train) = (class("dog"), class("person"), class("train"));
        assert_eq!((set.classes.len(), person, train), (20, 14, 18));
        let images = seen(&set.train);
        assert_eq!(images[1], ("000002.jpg".to_owned(), None), "one label would say too little");
        let row = |split: &dyn Dataset, image, classes: [usize; 3]| {
            let marks = split.presence(image).unwrap();
            classes.map(|class| marks[class])
        };
        let asked = [dog, person, train];
        assert_eq!(row(set.train.as_ref(), 0, asked), [Present, Difficult, Absent]);
        assert_eq!(row(set.train.as_ref(), 1, asked), [Absent, Absent, Present]);
        let marks = MultiLabels::of_all(set.train.as_ref()).unwrap();
        assert_eq!((marks.classes(), marks.images()), (20, 2));
        let count =
            |mark| (0..2).flat_map(|image| marks.of(image)).filter(|it| **it == mark).count();
        assert_eq!([Absent, Present, Difficult].map(count), [37, 2, 1]);
        let validation = set.validation.as_ref().unwrap();
        assert_eq!(row(validation.as_ref(), 0, asked)[0], Present);
        assert_eq!(set.test.presence(0).unwrap(), [Absent; 20]);
    }

    #[test]
    fn marks_follow_their_images() {
        let tree = of("voc2007");
        std::fs::remove_file(tree.at("VOCdevkit/VOC2007/JPEGImages/000001.jpg")).unwrap();
        let set = tree.open("voc2007");
        assert_eq!(seen(&set.train), [("000002.jpg".to_owned(), None)]);
        assert_eq!(set.train.presence(0).unwrap()[18], Present);
        assert!(set.warnings[0].contains("1 of 2 listed train images are missing"));
        let both = splits(&set, 0).unwrap().train_and_validation();
        assert_eq!(both.path(1), "000003.jpg");
        assert_eq!(both.presence(1).unwrap()[11], Present);
        let last = Subset::new(both, vec![1]).unwrap();
        assert_eq!((last.path(0).as_str(), last.presence(0).unwrap()[11]), ("000003.jpg", Present));
    }

    #[test]
    fn class_files_must_say_something_of_each_image_and_of_no_other() {
        let main = "VOCdevkit/VOC2007/ImageSets/Main";
        let failure = |text: &str| {
            let tree = of("voc2007");
            tree.text(&format!("{main}/cat_train.txt"), text);
            tree.failure("voc2007")
        };
        let text = failure("000001 -1\n");
        assert!(text.contains("cat_train.txt` says nothing of image `000002`"), "{text}");
        let text = failure("000001 -1\n000007 -1\n");
        assert!(text.contains("line 2") && text.contains("`train.txt` lacks"), "{text}");
        assert!(failure("000001 2\n").contains("no mark 1, 0 or -1"));
        let tree = of("voc2007");
        std::fs::remove_file(tree.at(&format!("{main}/sofa_test.txt"))).unwrap();
        assert!(tree.failure("voc2007").contains("sofa_test.txt"));
    }
}
