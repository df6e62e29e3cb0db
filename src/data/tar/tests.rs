use super::*;
use crate::data::testing::{failure, golden};
use crate::data::{labels, open as open_source};
use std::fs;
use std::io::Cursor;

/// A 3×2 image that shows its number.
fn ppm(number: u8) -> Vec<u8> {
    [b"P6 3 2 255 ".as_slice(), &[number; 18]].concat()
}

/// A tar file of members in order.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A shard of records `first..last`, each an image and its label.
fn shard(first: u8, last: u8) -> Vec<u8> {
    let mut members = Vec::new();
    for number in first..last {
        members.push((format!("{number:03}.ppm"), ppm(number)));
        members.push((format!("{number:03}.cls"), (number % 3).to_string().into_bytes()));
    }
    let members: Vec<(&str, &[u8])> =
        members.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    archive(&members)
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn of(files: &[(&str, Vec<u8>)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, content) in files {
            let file = folder.0.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
        folder
    }

    fn location(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn open(&self, name: &str) -> Source {
        open_source(&self.location(name)).unwrap()
    }
}

fn numbers(split: &dyn Dataset) -> Vec<u8> {
    (0..split.len()).map(|index| split.image(index).unwrap().pixels[0]).collect()
}

fn names(source: &Source) -> Vec<&str> {
    source.splits.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn reads_what_python_writes_in_every_tar_format() {
    for format in ["ustar", "gnu", "pax"] {
        let source = open_source(golden(&format!("data/{format}.tar")).to_str().unwrap()).unwrap();
        assert_eq!(source.format, "WebDataset tar, 1 shard, PNG", "{format}");
        let all = source.split("all").unwrap();
        let long = format!("{}{}", "deep/".repeat(30), "größe".repeat(10));
        let expected = [format!("{format}.tar/a.png"), format!("{format}.tar/some/b")];
        let paths: Vec<String> = (0..all.len()).map(|index| all.path(index)).collect();
        assert_eq!(paths[..2], expected);
        if format != "ustar" {
            assert_eq!(paths[2..], [format!("{format}.tar/{long}.png")]);
        }
        assert_eq!(all.label(0), Some(3));
        // `b.v2.png` is the field `v2.png` of record `b`, as webdataset has it, and no image.
        let text = all.image(1).unwrap_err().to_string();
        assert!(text.contains("only `v2.png`, `v2.cls`"), "{text}");
        assert_eq!(numbers_of(all.as_ref()), if format == "ustar" { vec![0] } else { vec![0, 2] });
    }
}

/// The numbers of the images that can be decoded.
fn numbers_of(split: &dyn Dataset) -> Vec<u8> {
    (0..split.len()).filter_map(|index| Some(split.image(index).ok()?.pixels[0])).collect()
}

#[test]
fn shards_of_a_folder_are_joined_by_split_in_order() {
    let folder = Folder::of(&[
        ("imagenet-train-000001.tar", shard(4, 6)),
        ("imagenet-train-000000.tar", shard(0, 4)),
        ("imagenet-val-000000.tar", shard(9, 10)),
        ("imagenet-train-000000.json", b"{}".to_vec()),
    ]);
    let source = folder.open("");
    assert_eq!(source.format, "WebDataset tar, 3 shards, PNM");
    assert_eq!(names(&source), ["train", "val"]);
    let train = source.split("train").unwrap();
    assert_eq!(numbers(train.as_ref()), [0, 1, 2, 3, 4, 5]);
    assert_eq!(labels(train.as_ref()).unwrap(), [0, 1, 2, 0, 1, 2]);
    assert_eq!(train.path(4), "imagenet-train-000001.tar/004.ppm");
    assert_eq!(source.classes, ["0", "1", "2"]);

    // The same shards below folders named like splits, with names for the classes.
    let other = Folder::of(&[
        ("sets/train/a.tar", shard(0, 4)),
        ("sets/train/b.tar", shard(4, 6)),
        ("sets/val/a.tar", shard(9, 10)),
        ("sets/train/classes.txt", b"ape\nwhite owl\nbee\n".to_vec()),
    ]);
    let named = other.open("");
    assert_eq!(names(&named), ["train", "val"]);
    assert_eq!(named.classes, ["ape", "white owl", "bee"]);
    assert_ne!(named.fingerprint, source.fingerprint);
    fs::remove_file(other.location("sets/train/classes.txt")).unwrap();
    assert_eq!(other.open("").fingerprint, source.fingerprint);
    fs::write(folder.location("classnames.txt"), "ape\nowl\n").unwrap();
    let text = failure(folder.0.path());
    assert!(text.contains("label `2`") && text.contains("only 2 classes"), "{text}");
}

#[test]
fn ranges_name_shards_and_a_gap_is_told() {
    let folder = Folder::of(&[
        ("a-08.tar", shard(0, 1)),
        ("a-09.tar", shard(1, 2)),
        ("a-10.tar", shard(2, 3)),
        ("train-0001-of-0002.tar", shard(5, 6)),
    ]);
    let source = folder.open("a-{08..10}.tar");
    assert_eq!(names(&source), ["all"]);
    assert_eq!(numbers(source.split("all").unwrap().as_ref()), [0, 1, 2]);
    let two = folder.open("a-{0..0}{8..9}.tar");
    assert_eq!(numbers(two.splits[0].1.as_ref()), [0, 1]);
    assert_eq!(names(&folder.open("train-0001-of-0002.tar")), ["train"]);
    let text = failure(Path::new(&folder.location("a-{07..12}.tar")));
    assert!(text.contains("3 of the 6 shards") && text.contains("a-07.tar`"), "{text}");
    for range in ["a-{9..8}.tar", "a-{x..8}.tar", "a-{..tar"] {
        let text = failure(Path::new(&folder.location(range)));
        assert!(text.contains("no range of shards"), "{text}");
    }
    let text = failure(Path::new(&folder.location("a-{0..99}{0..99}{0..99}.tar")));
    assert!(text.contains("more than 100000"), "{text}");
}

#[test]
fn labels_come_from_cls_or_json_and_may_be_missing() {
    let folder = Folder::of(&[(
        "x.tar",
        archive(&[
            ("a.json", br#"{"label": 4, "caption": "x"}"#),
            ("a.ppm", &ppm(1)),
            ("b.ppm", &ppm(2)),
            ("b.cls", b"2"),
            ("b.json", br#"{"label": 4}"#),
            ("c.PPM", &ppm(3)),
            ("c.txt", b"a caption"),
            ("c.cls", b"-1\n"),
            ("._d.ppm", b"what another system leaves behind"),
            ("README", b"no field"),
        ]),
    )]);
    let source = folder.open("x.tar");
    let all = source.split("all").unwrap();
    assert_eq!(numbers(all.as_ref()), [1, 2, 3]);
    let found: Vec<_> = (0..3).map(|index| all.label(index)).collect();
    assert_eq!(found, [Some(4), Some(2), None]);
    assert_eq!(source.classes.len(), 5);
}

#[test]
fn damage_is_listed_and_the_rest_stays_usable() {
    let folder = Folder::of(&[(
        "x.tar",
        archive(&[
            ("a.ppm", &ppm(1)),
            ("a.cls", b"1"),
            ("b.cls", b"1"),
            ("c.ppm", &ppm(3)),
            ("c.cls", b"one"),
            ("d.ppm", &ppm(4)),
            ("d.ppm", &ppm(5)),
            ("e.ppm", b"hello"),
            ("f.ppm", &ppm(6)),
        ]),
    )]);
    let source = folder.open("x.tar");
    let all = source.split("all").unwrap();
    let told: Vec<String> = (0..all.len())
        .map(|index| all.image(index).map_or_else(|e| e.to_string(), |i| i.pixels[0].to_string()))
        .collect();
    assert_eq!((told[0].as_str(), told[5].as_str()), ("1", "6"));
    for (index, expected) in [
        (1, "no image, only `cls`"),
        (2, "`cls` is no class id"),
        (3, "`ppm` comes twice"),
        (4, "is no image"),
    ] {
        assert!(told[index].contains(expected), "{}", told[index]);
    }
    assert!(told[1].contains("x.tar/b"), "{}", told[1]);
    assert_eq!(told.len(), 6);
}

#[test]
fn a_cut_shard_ends_in_a_damaged_image_and_a_broken_header_in_a_damaged_rest() {
    let whole = shard(0, 4);
    let open = |bytes: &[u8]| {
        let folder = Folder::of(&[("x.tar", bytes.to_vec())]);
        let all = folder.open("x.tar").split("all").unwrap().clone();
        let good = numbers_of(all.as_ref());
        // The file stays open after its name is gone.
        (
            good,
            (0..all.len())
                .filter_map(|i| all.image(i).err())
                .map(|e| e.to_string())
                .collect::<Vec<_>>(),
        )
    };
    // A record takes four blocks of 512 bytes.
    let (good, damaged) = open(&whole[..3 * 2048 + 512 + 10]);
    assert_eq!((good, damaged.len()), (vec![0, 1, 2], 1));
    assert!(damaged[0].contains("`ppm` is cut off: 10 of 29 bytes"), "{damaged:?}");
    let (good, damaged) = open(&whole[..2 * 2048 + 100]);
    assert_eq!((good, damaged.len()), (vec![0, 1], 1));
    assert!(damaged[0].contains("rest of the shard"), "{damaged:?}");
    let mut broken = whole.clone();
    broken[2 * 2048 + 5] ^= 1;
    let (good, damaged) = open(&broken);
    assert_eq!((good, damaged.len()), (vec![0, 1], 1));
    assert!(damaged[0].contains("checksum"), "{damaged:?}");
    // A size that no file has, in base 256, under a right checksum.
    let mut absurd = whole;
    absurd[2 * 2048 + 124..2 * 2048 + 136]
        .copy_from_slice(&[0x80, 0, 0, 0, 0x7f, 0, 0, 0, 0, 0, 0, 0]);
    resum(&mut absurd[2 * 2048..2 * 2048 + 512]);
    let (good, damaged) = open(&absurd);
    assert_eq!(good, [0, 1]);
    assert!(damaged[0].contains("cut off"), "{damaged:?}");
}

/// Sets the checksum of a header right.
pub(in crate::data) fn resum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[test]
fn what_is_no_shard_of_images_is_told() {
    let folder = Folder::of(&[("x.tar.gz", b"\x1f\x8b\x08\0".to_vec())]);
    for place in ["", "x.tar.gz"] {
        let text = failure(Path::new(&folder.location(place)));
        assert!(text.contains("packed with gzip") && text.contains("gunzip"), "{text}");
    }
    let of = |members: &[(&str, &[u8])]| {
        let folder = Folder::of(&[("x.tar", archive(members))]);
        failure(Path::new(&folder.location("x.tar")))
    };
    assert!(of(&[("n01.tar", b"x")]).contains("unpack them"));
    assert!(of(&[("a.txt", b"x"), ("a.cls", b"1")]).contains("they hold .cls, .txt"));
    assert!(of(&[]).contains("they are empty"));
    let folder = Folder::of(&[("x.tar", vec![7; 2000])]);
    let text = failure(Path::new(&folder.location("x.tar")));
    assert!(text.contains("`x.tar` is damaged"), "{text}");
}

#[test]
fn archives_beside_class_folders_do_not_count() {
    let folder =
        Folder::of(&[("original.tar", shard(0, 2)), ("a/1.ppm", ppm(1)), ("b/1.ppm", ppm(2))]);
    assert_eq!(folder.open("").classes, ["a", "b"]);
}

#[test]
fn a_shard_begins_with_a_header_whose_checksum_is_right() {
    let whole = shard(0, 1);
    assert!(is_tar(&whole));
    assert!(!is_tar(&whole[..511]));
    assert!(!is_tar(&[0; 512]));
    assert_eq!(index(Cursor::new(&whole), whole.len() as u64).images, 1);
}
