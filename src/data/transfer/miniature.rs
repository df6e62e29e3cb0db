//! Miniatures of the sets, as their archives lay them out.

use super::{Options, TransferSet, open, open_with};
use crate::data::Dataset;
use crate::data::testing::golden;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder of its own.
pub(super) struct Tree {
    folder: tempfile::TempDir,
    images: Cell<u8>,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), images: Cell::new(0) }
    }

    pub(super) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn at(&self, path: &str) -> PathBuf {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub(super) fn text(&self, path: &str, text: &str) {
        std::fs::write(self.at(path), text).unwrap();
    }

    /// A tiny PNG of a grey of its own, whatever the path ends in.
    pub(super) fn image(&self, path: &str) {
        self.images.set(self.images.get() + 1);
        let pixels = image::RgbImage::from_pixel(3, 2, image::Rgb([self.images.get(); 3]));
        pixels.save_with_format(self.at(path), image::ImageFormat::Png).unwrap();
    }

    pub(super) fn images(&self, folder: &str, names: &[&str]) {
        for name in names {
            self.image(&format!("{folder}/{name}"));
        }
    }

    fn stored(&self, from: &str, to: &str) {
        std::fs::copy(golden("data/transfer").join(from), self.at(to)).unwrap();
    }

    pub(super) fn open(&self, name: &str) -> TransferSet {
        open(name, self.root()).unwrap()
    }

    pub(super) fn open_with(&self, name: &str, options: &Options) -> TransferSet {
        open_with(name, self.root(), options).unwrap()
    }

    pub(super) fn failure(&self, name: &str) -> String {
        open(name, self.root()).map(|_| ()).unwrap_err().to_string()
    }
}

/// Path and label of each image of a split, all of which can be decoded.
pub(super) fn seen(images: &Arc<dyn Dataset>) -> Vec<(String, Option<u32>)> {
    (0..images.len())
        .map(|index| {
            images.image(index).unwrap();
            (images.path(index), images.label(index))
        })
        .collect()
}

/// What [`seen`] should be.
pub(super) fn expected(images: &[(&str, u32)]) -> Vec<(String, Option<u32>)> {
    images.iter().map(|(path, label)| ((*path).to_owned(), Some(*label))).collect()
}

/// The miniature of a set.
#[expect(clippy::too_many_lines, reason = "one arm a set")]
pub(super) fn of(name: &str) -> Tree {
    let tree = Tree::new();
    match name {
        "food101" => {
            tree.images("images/apple_pie", &["1005649.jpg", "1014775.jpg", "1026328.jpg"]);
            tree.images("images/Waffles", &["7.jpg", "8.jpg"]);
            let train = r#"{"apple_pie": ["apple_pie/1005649", "apple_pie/1026328"], "Waffles": ["Waffles/8"]}"#;
            tree.text("meta/train.json", train);
            let test = r#"{"Waffles": ["Waffles/7"], "apple_pie": ["apple_pie/1014775"]}"#;
            tree.text("meta/test.json", test);
        }
        "cifar10" => {
            let inside = tree.root().join("cifar-10-batches-bin");
            crate::data::testing::copy(&golden("data/cifar-10/cifar-10-batches-bin"), &inside);
        }
        "cifar100" => {
            let inside = tree.root().join("cifar-100-python");
            crate::data::testing::copy(&golden("data/cifar-100/cifar-100-python"), &inside);
        }
        "birdsnap" => {
            tree.images("download/images/Acadian_Flycatcher", &["1.jpg", "2.jpg", "3.jpg"]);
            tree.images("download/images/Zone-tailed_Hawk", &["1.jpg", "9.jpg"]);
            tree.text(
                "test_images.txt",
                "path\nZone-tailed_Hawk/1.jpg\nAcadian_Flycatcher/2.jpg\nAcadian_Flycatcher/dead.jpg\n",
            );
        }
        "sun397" => {
            let images = ["a/abbey/sun_a.jpg", "a/abbey/sun_b.jpg", "o/outhouse/outdoor/sun_c.jpg"];
            tree.images("SUN397", &images);
            tree.image("SUN397/o/outhouse/outdoor/sun_d.jpg");
            let train = "/a/abbey/sun_b.jpg\r\n/o/outhouse/outdoor/sun_c.jpg\r\n";
            tree.text("Partitions/Training_01.txt", train);
            let test = "/a/abbey/sun_a.jpg\r\n/o/outhouse/outdoor/sun_d.jpg\r\n";
            tree.text("Partitions/Testing_01.txt", test);
        }
        "cars" => {
            tree.images("cars_train", &["00001.jpg", "00002.jpg", "00003.jpg", "00004.jpg"]);
            tree.images("cars_test", &["00001.jpg", "00002.jpg", "00003.jpg"]);
            tree.stored("cars_train_annos.mat", "devkit/cars_train_annos.mat");
            tree.stored("cars_meta.mat", "devkit/cars_meta.mat");
            tree.stored("cars_test_annos_withlabels.mat", "cars_test_annos_withlabels.mat");
        }
        "aircraft" => {
            let data = "fgvc-aircraft-2013b/data";
            tree.images(&format!("{data}/images"), &["0034309.jpg", "1.jpg", "2.jpg", "3.jpg"]);
            tree.text(&format!("{data}/variants.txt"), "707-320\nF-16A/B\nMD-11\n");
            let list = |name: &str| format!("{data}/images_variant_{name}.txt");
            tree.text(&list("train"), "0034309 F-16A/B\n1 707-320\n");
            tree.text(&list("val"), "2 MD-11\n");
            tree.text(&list("test"), "3 707-320\n");
        }
        "voc2007" => voc(&tree),
        "dtd" => {
            tree.images("dtd/images/banded", &["banded_0002.jpg", "banded_0004.jpg"]);
            tree.images("dtd/images/zigzagged", &["zigzagged_1.jpg", "zigzagged_2.jpg"]);
            tree.text("dtd/labels/train1.txt", "banded/banded_0002.jpg\n");
            tree.text("dtd/labels/val1.txt", "zigzagged/zigzagged_2.jpg\n");
            let test = "banded/banded_0004.jpg\nzigzagged/zigzagged_1.jpg\n";
            tree.text("dtd/labels/test1.txt", test);
        }
        "pets" => {
            let images = ["Abyssinian_100.jpg", "Abyssinian_2.jpg", "american_bulldog_7.jpg"];
            tree.images("images", &images);
            tree.image("images/american_bulldog_9.jpg");
            let train = "#Image CLASS-ID SPECIES BREED ID\nAbyssinian_100 1 1 1\namerican_bulldog_7 2 2 1\n";
            tree.text("annotations/trainval.txt", train);
            tree.text("annotations/test.txt", "american_bulldog_9 2 2 1\nAbyssinian_2 1 1 1\n");
        }
        "caltech101" => {
            let images = ["image_0001.jpg", "image_0002.jpg", "image_0003.jpg", "image_0004.jpg"];
            tree.images("101_ObjectCategories/BACKGROUND_Google", &images);
            tree.images("101_ObjectCategories/Faces", &images[..3]);
            let many: Vec<String> =
                (1..=35).map(|number| format!("image_{number:04}.jpg")).collect();
            let many: Vec<&str> = many.iter().map(String::as_str).collect();
            tree.images("101_ObjectCategories/accordion", &many);
        }
        "flowers102" => {
            let images: Vec<String> =
                (1..=9).map(|number| format!("image_{number:05}.jpg")).collect();
            tree.images("jpg", &images.iter().map(String::as_str).collect::<Vec<_>>());
            tree.stored("setid.mat", "setid.mat");
            tree.stored("imagelabels.mat", "imagelabels.mat");
        }
        "inaturalist2018" => {
            tree.images("train_val2018/Plantae/7477", &["3b60.jpg", "aa.jpg"]);
            tree.images("train_val2018/Aves/17", &["bb.jpg", "cc.jpg"]);
            tree.text(
                "train2018.json",
                r#"{"info": {"year": 2018}, "images": [
                    {"id": 12, "width": 3, "height": 2, "file_name": "train_val2018/Plantae/7477/3b60.jpg"},
                    {"id": 3, "file_name": "train_val2018/Aves/17/bb.jpg"}],
                  "annotations": [{"id": 0, "image_id": 3, "category_id": 17},
                    {"id": 1, "image_id": 12, "category_id": 7477}],
                  "categories": [{"id": 7477, "name": "Rosa", "supercategory": "Plantae"},
                    {"id": 17, "name": "Pica pica", "supercategory": "Aves"}]}"#,
            );
            tree.text(
                "val2018.json",
                r#"{"images": [{"id": 20, "file_name": "train_val2018/Aves/17/cc.jpg"},
                    {"id": 21, "file_name": "train_val2018/Plantae/7477/aa.jpg"}],
                  "annotations": [{"image_id": 20, "category_id": 17}, {"image_id": 21, "category_id": 7477}]}"#,
            );
        }
        "cub200" => {
            let classes = ["001.Black_footed_Albatross", "002.Laysan_Albatross"];
            for class in classes {
                tree.images(&format!("CUB_200_2011/images/{class}"), &["a_1.jpg", "b_2.jpg"]);
            }
            let [first, second] = classes;
            let list = |name: &str, text: &str| tree.text(&format!("CUB_200_2011/{name}"), text);
            list("classes.txt", &format!("1 {first}\n2 {second}\n"));
            let images = format!(
                "1 {first}/a_1.jpg\n2 {first}/b_2.jpg\n3 {second}/a_1.jpg\n4 {second}/b_2.jpg\n"
            );
            list("images.txt", &images);
            list("image_class_labels.txt", "1 1\n2 1\n3 2\n4 2\n");
            list("train_test_split.txt", "1 0\n2 1\n3 1\n4 0\n");
        }
        "cub200-2010" => {
            let classes = ["001.Black_footed_Albatross", "002.Laysan_Albatross"];
            for class in classes {
                tree.images(&format!("images/{class}"), &["a_1.jpg", "b_2.jpg"]);
            }
            let [first, second] = classes;
            tree.text("lists/train.txt", &format!("{second}/a_1.jpg\n{first}/a_1.jpg\n"));
            tree.text("lists/test.txt", &format!("{first}/b_2.jpg\n{second}/b_2.jpg\n"));
            tree.text("lists/files.txt", "");
        }
        "imagenette" => {
            for class in ["n01440764", "n03888257"] {
                tree.images(&format!("imagenette2-160/train/{class}"), &["1.JPEG", "2.JPEG"]);
                tree.images(&format!("imagenette2-160/val/{class}"), &["3.JPEG"]);
            }
            tree.text("imagenette2-160/noisy_imagenette.csv", "path,noisy_labels_0\n");
        }
        "stanford-dogs" => {
            let first = ["n02085620_5927.jpg", "n02085620_4441.jpg", "n02085620_2650.jpg"];
            tree.images("Images/n02085620-Chihuahua", &first);
            let second = ["n02085782_17.jpg", "n02085782_1058.jpg"];
            tree.images("Images/n02085782-Japanese_spaniel", &second);
            tree.stored("train_list.mat", "lists/train_list.mat");
            tree.stored("test_list.mat", "lists/test_list.mat");
        }
        other => panic!("there is no miniature of `{other}`"),
    }
    tree
}

/// Two images to train on, one to validate, one to test; what is seen: a dog and (difficult) a person, a train, a dog, nothing.
fn voc(tree: &Tree) {
    let base = "VOCdevkit/VOC2007";
    tree.images(
        &format!("{base}/JPEGImages"),
        &["000001.jpg", "000002.jpg", "000003.jpg", "9.jpg"],
    );
    let splits =
        [("train", vec!["000001", "000002"]), ("val", vec!["000003"]), ("test", vec!["9"])];
    for (split, ids) in splits {
        let main = format!("{base}/ImageSets/Main");
        tree.text(&format!("{main}/{split}.txt"), &format!("{}\n", ids.join("\n")));
        for class in super::voc::CLASSES {
            let mark = |id: &str| match (id, class) {
                ("000001" | "000003", "dog") | ("000002", "train") => " 1",
                ("000001", "person") => " 0",
                _ => "-1",
            };
            let lines: Vec<String> = ids.iter().map(|id| format!("{id} {}", mark(id))).collect();
            tree.text(&format!("{main}/{class}_{split}.txt"), &lines.join("\n"));
        }
    }
}
