//! Promises of the transfer sets, on made miniatures.

use super::miniature::{Tree, of, seen};
use super::*;

#[test]
fn every_set_opens_from_its_miniature() {
    for name in NAMES {
        let tree = of(name);
        let set = tree.open(name);
        assert_eq!((set.name, set.found), (name, set.counted()), "{name}");
        let splits = [Some(&set.train), set.validation.as_ref(), Some(&set.test)];
        let mut paths = Vec::new();
        for split in splits.into_iter().flatten() {
            assert!(!split.is_empty(), "{name}");
            for (index, (path, label)) in seen(split).into_iter().enumerate() {
                match (split.presence(index), label) {
                    (Some(presence), None) => {
                        assert_eq!(presence.len(), set.classes.len(), "{name}");
                    }
                    (None, Some(label)) => {
                        assert!((label as usize) < set.classes.len(), "{name}");
                    }
                    other => panic!("{name}: {other:?}"),
                }
                paths.push(path);
            }
        }
        let count = paths.len();
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), count, "{name}: an image in two splits");
        assert_eq!(set.validation.is_some(), set.published.validation.is_some(), "{name}");
        let told = set.warnings.iter().any(|text| text.contains("not the published ones"));
        assert!(told, "{name} is a miniature: {:?}", set.warnings);
        assert!(!set.citation.is_empty() && !set.title.is_empty(), "{name}");
    }
}

#[test]
fn published_counts_are_those_of_the_specification() {
    // Training images with those for validation, and test images.
    let counts = [
        ("food101", 101, 75_750, 25_250, Metric::Top1),
        ("cifar10", 10, 50_000, 10_000, Metric::Top1),
        ("cifar100", 100, 50_000, 10_000, Metric::Top1),
        ("birdsnap", 500, 47_386, 2_443, Metric::Top1),
        ("sun397", 397, 19_850, 19_850, Metric::Top1),
        ("cars", 196, 8_144, 8_041, Metric::Top1),
        ("aircraft", 100, 6_667, 3_333, Metric::MeanPerClass),
        ("voc2007", 20, 5_011, 4_952, Metric::VocMap),
        ("dtd", 47, 3_760, 1_880, Metric::Top1),
        ("pets", 37, 3_680, 3_669, Metric::MeanPerClass),
        ("caltech101", 102, 3_060, 6_084, Metric::MeanPerClass),
        ("flowers102", 102, 2_040, 6_149, Metric::MeanPerClass),
        ("inaturalist2018", 8_142, 437_513, 24_426, Metric::Top1),
        ("cub200", 200, 5_994, 5_794, Metric::Top1),
        ("imagenette", 10, 9_469, 3_925, Metric::Top1),
        ("stanford-dogs", 120, 12_000, 8_580, Metric::MeanPerClass),
    ];
    for (name, classes, train, test, metric) in counts {
        let entry = named(name).unwrap();
        let Counts { train: fitted, validation, test: tested } = entry.counts;
        let found = (entry.classes, fitted + validation.unwrap_or(0), tested, entry.metric);
        assert_eq!(found, (classes, train, test, metric), "{name}");
    }
    assert_eq!(counts.len() + 1, SETS.len(), "and the older edition of CUB");
}

#[test]
fn the_folder_above_will_do_and_the_fingerprint_stays() {
    let tree = of("dtd");
    let [above, inside] = ["", "dtd"].map(|path| open("dtd", &tree.root().join(path)).unwrap());
    assert_eq!(above.fingerprint, inside.fingerprint);
    assert_eq!(of("dtd").open("dtd").fingerprint, above.fingerprint, "a copy elsewhere");
    tree.text("dtd/images/banded/banded_0004.jpg", "another size");
    assert_ne!(tree.open("dtd").fingerprint, above.fingerprint);
    // Which split an image is in counts as well.
    let tree = of("dtd");
    std::fs::rename(tree.at("dtd/labels/train1.txt"), tree.at("kept")).unwrap();
    std::fs::rename(tree.at("dtd/labels/val1.txt"), tree.at("dtd/labels/train1.txt")).unwrap();
    std::fs::rename(tree.at("kept"), tree.at("dtd/labels/val1.txt")).unwrap();
    assert_ne!(tree.open("dtd").fingerprint, above.fingerprint);
}

#[test]
fn a_set_is_a_source_for_what_takes_one() {
    let tree = of("flowers102");
    let set = tree.open("flowers102");
    let source = set.source();
    let names: Vec<&str> = source.splits.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["train", "validation", "test"]);
    assert_eq!((&source.fingerprint, source.classes.len()), (&set.fingerprint, 102));
    assert!(source.format.contains("Flowers-102") && source.format.contains("6149"));
    let (references, queries) = source.for_evaluation(&crate::data::Selection::default()).unwrap();
    assert_eq!((references.len(), queries.len()), (3, 4));
    let spec = format!("transfer:flowers102:{}", tree.root().display());
    let opened = super::super::open(&spec).unwrap();
    assert_eq!((opened.fingerprint, opened.format), (source.fingerprint, source.format));
    let failure = |spec: &str| super::super::open(spec).map(|_| ()).unwrap_err().to_string();
    assert!(failure("transfer:flowers102").contains("transfer:NAME:PATH"));
    assert!(failure("transfer:flowers:x").contains("did you mean `flowers102`?"));
}

#[test]
fn missing_images_are_told_and_their_labels_stay() {
    let tree = of("pets");
    std::fs::remove_file(tree.at("images/Abyssinian_100.jpg")).unwrap();
    let set = tree.open("pets");
    assert_eq!(seen(&set.train), [("american_bulldog_7.jpg".to_owned(), Some(1))]);
    assert!(set.warnings[0].contains("1 of 2 listed train images are missing"));
    assert!(set.warnings[0].contains("Abyssinian_100.jpg"));
    assert!(set.warnings[1].contains("found train 1, test 2; published: train 3680, test 3669"));
    std::fs::remove_dir_all(tree.at("images")).unwrap();
    let text = tree.failure("pets");
    assert!(text.contains("none of the 2 train images") && text.contains("/images/"), "{text}");
}

#[test]
fn a_pipe_is_no_image_and_links_are_followed() {
    let tree = of("pets");
    let image = tree.at("images/Abyssinian_100.jpg");
    let elsewhere = tree.at("elsewhere.png");
    std::fs::rename(&image, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &image).unwrap();
    assert_eq!(tree.open("pets").train.len(), 2);
    std::fs::remove_file(&image).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(&image).unwrap();
    assert_eq!(tree.open("pets").train.len(), 1);
}

#[test]
fn another_layout_is_told_with_what_was_expected_and_found() {
    let tree = Tree::new();
    let text = tree.failure("food101");
    assert!(text.contains("expected `meta/train.json`") && text.contains("`food-101`"), "{text}");
    assert!(text.contains("it is empty") && text.contains("plain lists"), "{text}");
    tree.text("readme.txt", "");
    assert!(tree.failure("voc2007").contains("found `readme.txt`"));
    assert!(!tree.failure("voc2007").contains("plain lists"));
    let text = of("imagenette").failure("stanford-dogs");
    assert!(text.contains("it looks like Imagenette, which is `imagenette`"), "{text}");
    let gone = open("pets", &tree.root().join("gone")).map(|_| ()).unwrap_err().to_string();
    assert!(gone.contains("gone`, which does not exist"), "{gone}");
}

#[test]
fn choices_a_set_does_not_leave_are_refused() {
    let tree = of("pets");
    let failure = |name: &str, options: &Options| {
        open_with(name, tree.root(), options).map(|_| ()).unwrap_err().to_string()
    };
    let text = failure("pets", &Options { background: false, ..Options::default() });
    assert!(text.contains("`background=false`") && text.contains("`pets` has none"), "{text}");
    let list = Some(tree.root().to_owned());
    let text = failure("voc2007", &Options { list: list.clone(), ..Options::default() });
    assert!(text.contains("`voc2007` has several"), "{text}");
    let text = failure("pets", &Options { list, ..Options::default() });
    assert!(text.contains("`list` must be a folder with `train.txt`"), "{text}");
}
