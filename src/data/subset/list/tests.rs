//! Promises of lists of indices.

use super::*;
use crate::data::mutation::Mutator;
use crate::data::subset::Tail;
use crate::data::testing::{Numbers, failure_of};
use crate::data::{Image, labels};

/// Images with paths and labels.
struct Files(Vec<(&'static str, u32)>);

impl Dataset for Files {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn label(&self, index: usize) -> Option<u32> {
        Some(self.0[index].1)
    }
    fn path(&self, index: usize) -> String {
        self.0[index].0.to_owned()
    }
    fn image(&self, index: usize) -> Result<Image> {
        Ok(Image { width: 1, height: 1, pixels: vec![index as u8; 3] })
    }
}

fn source(splits: Vec<(&str, Arc<dyn Dataset>)>) -> Source {
    Source {
        format: "some".to_owned(),
        location: "here".to_owned(),
        classes: (0..7).map(|class| format!("class {class}")).collect(),
        splits: splits.into_iter().map(|(name, split)| (name.to_owned(), split)).collect(),
        fingerprint: "f00d".to_owned(),
    }
}

fn numbers() -> Source {
    source(vec![("train", Arc::new(Numbers(70))), ("test", Arc::new(Numbers(14)))])
}

fn files() -> Source {
    let train = vec![
        ("train/n01/n01_1.JPEG", 0),
        ("train/n01/n01_2.JPEG", 0),
        ("train/n02/n02_7.JPEG", 1),
        ("train/n02/with space.JPEG", 1),
        ("train/n03/n01_1.JPEG", 2),
    ];
    let val = vec![("val/n01/ILSVRC_1.JPEG", 0), ("val/n02/ILSVRC_2.JPEG", 1)];
    source(vec![("train", Arc::new(Files(train))), ("val", Arc::new(Files(val)))])
}

fn parse(text: &str, source: &Source) -> Result<IndexList> {
    IndexList::parse(text, "lists/some.txt", source, None)
}

#[test]
fn a_list_survives_the_file_and_gives_its_images_only() {
    let source = numbers();
    let rule = Rule::LongTail { ratio: 4.0, tail: Tail::Exponential, largest: None };
    let list = IndexList::draw(&source, None, &[], &rule, 3).unwrap();
    assert_eq!((list.split.as_str(), list.images), ("train", 70));
    assert_eq!(list.per_class(&source), [10, 7, 6, 5, 3, 3, 2]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("list.txt");
    list.save(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let first = "# diptych subset {\"format\":1,\"source\":\"f00d\",\"split\":\"train\",\"images\":70,\
                 \"rule\":\"long tail 4, exponential\",\"seed\":3}";
    assert_eq!(text.lines().next(), Some(first));
    assert_eq!(text.lines().count(), 37);
    let read = IndexList::read(&path, &source, None).unwrap();
    assert_eq!(read, list);
    list.save(&path).unwrap();

    let part = read.apply(&source).unwrap();
    assert_eq!(part.format, "some, 36 of 70 images of `train`");
    let train = part.split("train").unwrap();
    let shown: Vec<u32> =
        (0..train.len()).map(|i| u32::from(train.image(i).unwrap().pixels[0])).collect();
    assert_eq!(shown, list.indices);
    assert_eq!(part.split("test").unwrap().len(), 14);
    assert_ne!(part.fingerprint, source.fingerprint);
    assert_eq!(labels(train.as_ref()).unwrap(), shown.iter().map(|i| i % 7).collect::<Vec<_>>());
}

#[test]
fn another_split_and_some_classes_can_be_drawn_from() {
    let source = numbers();
    let wanted = ["class 6".to_owned(), "class 2".to_owned()];
    let list = IndexList::draw(&source, Some("test"), &wanted, &Rule::All, 0).unwrap();
    assert_eq!(
        (list.indices.as_slice(), list.rule.as_str()),
        (&[2, 6, 9, 13][..], "all of 2 classes")
    );
    assert_eq!(IndexList::parse(&list.text(), "a", &source, Some("test")).unwrap(), list);
    let text = failure_of(IndexList::parse(&list.text(), "a", &source, Some("train")));
    assert_eq!(text, "it is of split `test`, not `train`");
    let text = failure_of(IndexList::draw(&source, Some("val"), &[], &Rule::All, 0));
    assert!(text.contains("no split `val`, only `train`, `test`"), "{text}");
    let text = failure_of(IndexList::draw(&source, None, &["class 9".to_owned()], &Rule::All, 0));
    assert!(text.contains("no class `class 9`"), "{text}");
}

#[test]
fn plain_indices_are_taken() {
    let list = parse("# mine\n7\n\n 3 \r\n69\n", &numbers()).unwrap();
    assert_eq!(
        (list.indices.as_slice(), list.seed, list.rule.as_str()),
        (&[3, 7, 69][..], None, "some.txt")
    );
    assert_eq!(list.split, "train");
    assert_eq!(parse(&list.text(), &numbers()).unwrap(), list);
    for (text, expected) in [
        ("3\n70\n", "line 2 must be the index of an image, 0 to 69, found `70`"),
        ("3\na.jpg\n", "line 2 must be the index of an image, 0 to 69, found `a.jpg`"),
        ("3\n-1\n", "found `-1`"),
        ("3\n4\n3\n", "line 3 names the image of line 1 again (`3`)"),
        ("# nothing\n", "it names no image"),
        ("", "it names no image"),
    ] {
        let found = failure_of(parse(text, &numbers()));
        assert!(found.contains(expected), "{found}");
    }
}

/// The official lists of `SimCLR` and of ImageNet-LT, in miniature.
#[test]
fn lists_of_file_names_are_taken() {
    let of = |text: &str| parse(text, &files()).map(|list| (list.split, list.indices));
    let simclr = of("n02_7.JPEG\nn01_2.JPEG\n").unwrap();
    assert_eq!(simclr, ("train".to_owned(), vec![1, 2]));
    let long_tail = of("train/n02/n02_7.JPEG 1\ntrain/n01/n01_1.JPEG 0\n").unwrap();
    assert_eq!(long_tail, ("train".to_owned(), vec![0, 2]));
    // Validation images are listed flat, and lie in class folders.
    let flat = of("val/ILSVRC_2.JPEG 1\nval/ILSVRC_1.JPEG 0\n").unwrap();
    assert_eq!(flat, ("val".to_owned(), vec![0, 1]));
    assert_eq!(of("train/n02/with space.JPEG 4\n").unwrap().1, [3]);
    assert_eq!(of("train/n02/with space.JPEG\n").unwrap().1, [3]);
    // From below another folder, and from above the split.
    assert_eq!(of("/data/imagenet/train/n03/n01_1.JPEG\nn01/n01_2.JPEG\n").unwrap().1, [1, 4]);
}

#[test]
fn lists_that_do_not_fit_are_refused() {
    for (text, expected) in [
        (
            "n01_2.JPEG\nn09_9.JPEG\n",
            "1 of its 2 images are not in split `train`, the first on line 2: `n09_9.JPEG`",
        ),
        ("a.JPEG\nb.JPEG\n", "`here` has no image called `a.JPEG` (line 1), nor any other"),
        ("n01_1.JPEG\n", "2 images of `train` are called `n01_1.JPEG`; give their folders too"),
        ("train/n04/n01_2.JPEG\n", "no image called `train/n04/n01_2.JPEG`"),
        ("n01_2.JPEG\nILSVRC_1.JPEG\n", "1 of its 2 images are not in split `train`"),
        (
            "n01/n01_1.JPEG 0\nn02_7.JPEG 0\n",
            "line 2 gives `n02_7.JPEG` label 0, which stands for class 0",
        ),
        ("n01/n01_1.JPEG 0\nn01_2.JPEG 1\n", "line 2 gives `n01_2.JPEG` label 1"),
    ] {
        let found = failure_of(parse(text, &files()));
        assert!(found.contains(expected), "{found}");
    }
    // Other numbers for the same classes are no contradiction.
    assert!(parse("n01/n01_1.JPEG 5\nn02_7.JPEG 3\nn01_2.JPEG 5\n", &files()).is_ok());
}

#[test]
fn a_list_of_another_source_or_format_is_refused() {
    let list = IndexList::draw(&numbers(), None, &[], &Rule::PerClass(2), 0).unwrap();
    let other = Source { fingerprint: "beef".to_owned(), ..numbers() };
    let text = failure_of(parse(&list.text(), &other));
    assert!(
        text.contains("fingerprint f00d, `here` has beef") && text.contains("draw again"),
        "{text}"
    );
    for (first, expected) in [
        ("{\"format\":2}", "format 2, this program reads up to 1"),
        ("{\"format\":1}", "first line is damaged"),
        ("{", "first line is damaged"),
        ("", "first line is damaged"),
    ] {
        let text = failure_of(parse(&format!("{MARK}{first}\n1\n"), &numbers()));
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn mutants_of_lists_are_read_or_refused() {
    let ours = IndexList::draw(&numbers(), None, &[], &Rule::PerClass(2), 0).unwrap().text();
    let theirs = "train/n01/n01_1.JPEG 0\ntrain/n02/n02_7.JPEG 1\nn01_2.JPEG\n";
    for (text, source) in [(ours.as_str(), numbers()), (theirs, files())] {
        let mut mutator = Mutator::new(text.as_bytes(), 5);
        let mut read = 0;
        for _ in 0..2000 {
            let mutant = mutator.next_mutant();
            match parse(&String::from_utf8_lossy(&mutant), &source) {
                Ok(list) => {
                    let images = source.split(&list.split).unwrap().len() as u32;
                    assert!(list.indices.is_sorted() && list.indices.iter().all(|i| *i < images));
                    read += 1;
                }
                Err(Error::Data(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(read > 20, "{read}");
    }
}

#[test]
fn no_other_file_is_written_over_or_read_as_a_list() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("thesis.txt");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    let list = IndexList::draw(&numbers(), None, &[], &Rule::All, 0).unwrap();
    let text = failure_of(list.save(&path));
    assert!(text.contains("thesis.txt` exists and is no list"), "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), [0xff, 0xfe]);
    for path in [path, folder.path().join("absent.txt")] {
        let text = failure_of(IndexList::read(&path, &numbers(), None));
        assert!(text.contains("cannot read image list"), "{text}");
    }
}
