use super::*;
use crate::data::Selection;
use crate::data::testing::{assert_truth, failure};
use std::fs;

/// The bytes that tests/golden/data.py gives torchvision to read.
fn write(folder: &Path) {
    let image = |number: usize| {
        (0..3 * 96 * 96).map(move |k| ((k / 96 * 5 + k % 96 * 2 + 50 * number) % 251) as u8)
    };
    let images = |numbers: std::ops::Range<usize>| numbers.flat_map(image).collect::<Vec<u8>>();
    fs::write(folder.join("train_X.bin"), images(0..2)).unwrap();
    fs::write(folder.join("train_y.bin"), [10, 1]).unwrap();
    fs::write(folder.join("test_X.bin"), images(2..3)).unwrap();
    fs::write(folder.join("test_y.bin"), [3]).unwrap();
    fs::write(folder.join("unlabeled_X.bin"), images(3..5)).unwrap();
}

#[test]
fn gives_what_torchvision_reads_and_trains_on_everything_but_test() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let source = assert_truth(folder.path(), "stl-10");
    assert_eq!((source.format.as_str(), source.classes[9].as_str()), ("STL-10 binary", "truck"));
    let training = source.for_training(&Selection::default()).unwrap();
    let paths: Vec<String> = (0..training.len()).map(|index| training.path(index)).collect();
    let expected = ["train_X.bin[0]", "train_X.bin[1]", "unlabeled_X.bin[0]", "unlabeled_X.bin[1]"];
    assert_eq!(paths, expected);
    let (references, queries) = source.for_evaluation(&Selection::default()).unwrap();
    assert_eq!((references.len(), queries.len()), (2, 1));
}

#[test]
fn what_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    write(folder.path());
    fs::write(file("train_y.bin"), [10, 0]).unwrap();
    assert!(failure(folder.path()).contains("label 1 is `0`, expected 1 to 10"));
    fs::write(file("train_y.bin"), [10]).unwrap();
    assert!(failure(folder.path()).contains("1 labels for 2 images"));
    fs::remove_file(file("train_y.bin")).unwrap();
    assert!(failure(folder.path()).contains("lacks `train_y.bin`"));
    write(folder.path());
    fs::remove_file(file("test_X.bin")).unwrap();
    assert!(failure(folder.path()).contains("lacks `test_X.bin`"));
    write(folder.path());
    fs::write(file("test_X.bin"), vec![0; 27_000]).unwrap();
    let text = failure(folder.path());
    assert!(text.contains("test_X.bin") && text.contains("27000 bytes"), "{text}");
    fs::write(file("test_X.bin"), vec![0; 27_648]).unwrap();
    let text = failure(&file("test_X.bin"));
    assert!(text.contains("size of STL-10 images; give the folder"), "{text}");
}
