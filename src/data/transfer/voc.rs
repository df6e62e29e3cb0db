//! PASCAL VOC 2007: several classes may be seen in one image.

use super::lists::List;
use super::splits::{ABSENT, DIFFICULT, PRESENT};
use super::{Item, Lists, Place, Target};
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

/// A mark that no file gives.
const UNTOLD: u8 = u8::MAX;

/// `ImageSets/Main/{train,val,test}.txt` list the images, `ImageSets/Main/CLASS_SPLIT.txt` say of each whether the class is seen
/// (1), not (-1), or only in instances marked as difficult (0). Images in `JPEGImages`.
pub(super) fn voc2007(place: &Place<'_>) -> Result<Lists> {
    let main = place.path.join("ImageSets/Main");
    let split = |name: &str| -> Result<Vec<Item>> {
        let list = List::read(main.join(format!("{name}.txt")))?;
        let first = |line: &'_ str| line.split_whitespace().next().unwrap_or_default().to_owned();
        let ids: Vec<String> = list.lines().map(|(_, line)| first(line)).collect();
        let rows: BTreeMap<&str, usize> = ids.iter().map(String::as_str).zip(0..).collect();
        let mut marks = vec![[UNTOLD; CLASSES.len()]; ids.len()];
        for (class, named) in CLASSES.iter().enumerate() {
            let told = List::read(main.join(format!("{named}_{name}.txt")))?;
            for (number, line) in told.lines() {
                let mut words = line.split_whitespace();
                let row = words.next().and_then(|id| rows.get(id));
                let row = row.ok_or_else(|| {
                    told.error(number, &format!("names an image that `{name}.txt` lacks"))
                })?;
                marks[*row][class] = match words.next() {
                    Some("1") => PRESENT,
                    Some("-1") => ABSENT,
                    Some("0") => DIFFICULT,
                    _ => return Err(told.error(number, "has no mark 1, 0 or -1")),
                };
            }
            if let Some(row) = marks.iter().position(|marks| marks[class] == UNTOLD) {
                return Err(Error::Data(format!(
                    "`{}` says nothing of image `{}`",
                    main.join(format!("{named}_{name}.txt")).display(),
                    ids[row]
                )));
            }
        }
        let items = list.lines().zip(marks).map(|((number, line), marks)| {
            let path = list.inside(number, &format!("{}.jpg", first(line)))?;
            Ok(Item { path, target: Target::Presence(Box::new(marks)) })
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
    use crate::data::transfer::miniature::{of, seen};
    use crate::data::transfer::{ABSENT, DIFFICULT, Metric, PRESENT};

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
        let marks = set.train.presence.as_ref().unwrap();
        assert_eq!((marks.classes, marks.marks.len()), (20, 40));
        assert_eq!(
            [dog, person, train].map(|class| marks.of(0)[class]),
            [PRESENT, DIFFICULT, ABSENT]
        );
        assert_eq!([dog, person, train].map(|class| marks.of(1)[class]), [ABSENT, ABSENT, PRESENT]);
        let mut all = marks.marks.clone();
        all.sort_unstable();
        let counted = [vec![ABSENT; 37], vec![PRESENT; 2], vec![DIFFICULT; 1]].concat();
        assert_eq!(all, counted);
        let validation = set.validation.as_ref().unwrap().presence.as_ref().unwrap();
        assert_eq!(validation.of(0)[dog], PRESENT);
        assert_eq!(set.test.presence.as_ref().unwrap().marks, [ABSENT; 20]);
    }

    #[test]
    fn marks_follow_their_images() {
        let tree = of("voc2007");
        std::fs::remove_file(tree.at("VOCdevkit/VOC2007/JPEGImages/000001.jpg")).unwrap();
        let set = tree.open("voc2007");
        assert_eq!(seen(&set.train), [("000002.jpg".to_owned(), None)]);
        assert_eq!(set.train.presence.as_ref().unwrap().of(0)[18], PRESENT);
        assert!(set.warnings[0].contains("1 of 2 listed train images are missing"));
        let both = set.train.with(set.validation.as_ref().unwrap());
        assert_eq!(both.images.path(1), "000003.jpg");
        assert_eq!(both.presence.as_ref().unwrap().of(1)[11], PRESENT);
        let last = both.part(&[1]).unwrap();
        assert_eq!(last.presence.unwrap().marks, both.presence.unwrap().marks[20..]);
        assert_eq!(last.images.path(0), "000003.jpg");
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
