use crate::data::open as open_source;
use crate::data::testing::{assert_truth, copy, failure, golden, seen};
use std::fs;

const SETS: [(&str, &str, &str); 4] = [
    ("cifar-10", "cifar-10-batches-bin", "CIFAR-10 binary"),
    ("cifar-10", "cifar-10-batches-py", "CIFAR-10 Python pickle"),
    ("cifar-100", "cifar-100-binary", "CIFAR-100 binary"),
    ("cifar-100", "cifar-100-python", "CIFAR-100 Python pickle"),
];

fn set(folder: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let name = folder.rsplit('/').next().unwrap();
    let inside = place.path().join(name);
    copy(&golden(&format!("data/{folder}")), &inside);
    (place, inside)
}

#[test]
fn every_form_gives_what_torchvision_reads() {
    for (name, folder, format) in SETS {
        let source = assert_truth(&golden(&format!("data/{name}/{folder}")), name);
        assert_eq!(source.format, format);
        let image = source.splits[0].1.image(0).unwrap();
        assert_eq!((image.width, image.height), (32, 32));
        let (count, third) = if name == "cifar-10" { (10, "bird") } else { (100, "fine 2") };
        assert_eq!((source.classes.len(), source.classes[2].as_str()), (count, third));
    }
}

#[test]
fn the_same_images_in_both_forms_have_one_fingerprint() {
    let fingerprint = |folder: &str| {
        let folder = golden(&format!("data/{folder}"));
        open_source(folder.to_str().unwrap()).unwrap().fingerprint
    };
    let ten = fingerprint("cifar-10/cifar-10-batches-bin");
    assert_eq!(ten, fingerprint("cifar-10/cifar-10-batches-py"));
    assert_ne!(ten, fingerprint("cifar-100/cifar-100-binary"));
    let (_place, folder) = set("cifar-10/cifar-10-batches-bin");
    let mut other = fs::read(folder.join("data_batch_2.bin")).unwrap();
    other[100] ^= 1;
    fs::write(folder.join("data_batch_2.bin"), other).unwrap();
    assert_ne!(ten, open_source(folder.to_str().unwrap()).unwrap().fingerprint);
}

#[test]
fn missing_files_are_named_and_a_set_without_test_is_whole() {
    for (folder, end) in [("cifar-10-batches-bin", ".bin"), ("cifar-10-batches-py", "")] {
        let (_place, folder) = set(&format!("cifar-10/{folder}"));
        fs::remove_file(folder.join(format!("test_batch{end}"))).unwrap();
        let source = open_source(folder.to_str().unwrap()).unwrap();
        assert_eq!((source.splits.len(), source.splits[0].0.as_str()), (1, "train"));
        fs::remove_file(folder.join(format!("data_batch_2{end}"))).unwrap();
        fs::remove_file(folder.join(format!("data_batch_5{end}"))).unwrap();
        let text = failure(&folder);
        let names = format!("lacks `data_batch_2{end}`, `data_batch_5{end}`");
        assert!(text.contains(&names), "{text}");
    }
}

#[test]
fn damaged_files_are_named_with_what_is_wrong() {
    let (_place, folder) = set("cifar-10/cifar-10-batches-bin");
    let file = folder.join("data_batch_3.bin");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..3000]).unwrap();
    let text = failure(&folder);
    assert!(text.contains("data_batch_3.bin") && text.contains("3000 bytes"), "{text}");
    let mut two = [&whole[..], &whole[..]].concat();
    two[3073] = 10;
    fs::write(&file, two).unwrap();
    let text = failure(&folder);
    assert!(
        text.contains("data_batch_3.bin") && text.contains("record 1 has label `10`"),
        "{text}"
    );

    let (_place, folder) = set("cifar-100/cifar-100-python");
    let train = fs::read(folder.join("train")).unwrap();
    fs::write(folder.join("train"), &train[..train.len() / 2]).unwrap();
    let text = failure(&folder);
    assert!(text.contains("train`") && text.contains("cut off"), "{text}");
    fs::copy(folder.join("meta"), folder.join("train")).unwrap();
    assert!(failure(&folder).contains("no array `data`"));
}

#[test]
fn a_single_binary_file_is_recognised_by_size_and_labels() {
    let file = golden("data/cifar-10/cifar-10-batches-bin/data_batch_4.bin");
    let source = open_source(file.to_str().unwrap()).unwrap();
    assert_eq!((source.format.as_str(), source.splits.len()), ("CIFAR-10 binary", 1));
    assert_eq!(source.split("train").unwrap().label(0), Some(0));
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("mine.bin");
    fs::copy(golden("data/cifar-100/cifar-100-binary/train.bin"), &other).unwrap();
    let source = open_source(other.to_str().unwrap()).unwrap();
    assert_eq!((source.format.as_str(), source.classes[79].as_str()), ("CIFAR-100 binary", "79"));
    let all = source.split("all").unwrap();
    assert_eq!(seen(all.as_ref()), crate::data::testing::truth("cifar-100")["train"]);
    fs::write(&other, [200; 3073]).unwrap();
    let text = failure(&other);
    assert!(text.contains("3073 bytes") && text.contains("CIFAR-10 (3073)"), "{text}");
    let text = failure(&golden("data/cifar-100/cifar-100-python/train"));
    assert!(text.contains("a Python pickle; give the folder"), "{text}");
}

#[test]
fn other_files_of_those_names_are_no_cifar() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("train.bin"), [1; 100]).unwrap();
    fs::write(folder.path().join("test"), b"a text").unwrap();
    let text = failure(folder.path());
    assert!(text.contains("holds no image"), "{text}");
}
