//! What is known of each set: where its files lie, how many images it has, and what is told of it.

use super::{Counts, Lists, Metric, Options, Place, folders, json, lists, matlab, voc};
use crate::data::Source;
use crate::error::Result;

/// How a set is read.
pub(super) enum Reader {
    /// By lists of its own.
    Lists(fn(&Place<'_>) -> Result<Lists>),
    /// By a reader of this crate, with the name of the split to report on.
    Source(fn(&Place<'_>) -> Result<(Source, &'static str)>),
}

/// A set as published.
pub(super) struct Entry {
    pub name: &'static str,
    pub title: &'static str,
    pub metric: Metric,
    pub classes: usize,
    pub counts: Counts,
    /// Folders that archives of it unpack to.
    pub folders: &'static [&'static str],
    /// Things any of which says that the layout begins here; an empty one takes the folder for what it is.
    pub markers: &'static [&'static str],
    /// Where images lie below that, which paths in lists begin in.
    pub images: &'static str,
    /// What is expected, for messages.
    pub layout: &'static str,
    pub read: Reader,
    /// Whether its split is drawn here, by [`Options`].
    pub drawn: bool,
    /// Whether the original is stored without loss, so that a copy in JPEG is another set.
    pub lossless: bool,
    pub citation: &'static str,
    /// What to know about a number on it.
    pub note: &'static str,
}

impl Entry {
    /// Number of classes.
    pub(super) fn classes(&self, options: &Options) -> usize {
        self.classes - usize::from(!options.background)
    }

    /// Published counts; without the background class of Caltech-101, 30 and 437 images less.
    pub(super) fn published(&self, options: &Options) -> Counts {
        if options.background {
            return self.counts;
        }
        let Counts { train, validation, test } = self.counts;
        Counts { train: train - 30, validation, test: test - 437 }
    }
}

const fn counts(train: usize, test: usize) -> Counts {
    Counts { train, validation: None, test }
}

const fn official(train: usize, validation: usize, test: usize) -> Counts {
    Counts { train, validation: Some(validation), test }
}

/// What entries share unless they say otherwise.
const PLAIN: Entry = Entry {
    name: "",
    title: "",
    metric: Metric::Top1,
    classes: 0,
    counts: counts(0, 0),
    folders: &[],
    markers: &[""],
    images: "",
    layout: "",
    read: Reader::Source(folders::cifar),
    drawn: false,
    lossless: false,
    citation: "",
    note: "",
};

const IMAGENET_IMAGES: &str =
    "its images are of ImageNet: no held-out claim for weights trained on ImageNet";

/// All sets, the twelve of the transfer tables first.
pub(super) static SETS: [Entry; 17] = [
    Entry {
        name: "food101",
        title: "Food-101",
        classes: 101,
        counts: counts(75_750, 25_250),
        folders: &["food-101"],
        markers: &["meta/train.json"],
        images: "images",
        layout: "`meta/train.json`, `meta/test.json` and `images/CLASS/NUMBER.jpg`",
        read: Reader::Lists(json::food101),
        citation: "Bossard et al. 2014, Food-101: Mining Discriminative Components with Random Forests",
        ..PLAIN
    },
    Entry {
        name: "cifar10",
        title: "CIFAR-10",
        classes: 10,
        counts: counts(50_000, 10_000),
        layout: "the published files, binary or Python pickles, or parquet",
        lossless: true,
        citation: "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        ..PLAIN
    },
    Entry {
        name: "cifar100",
        title: "CIFAR-100",
        classes: 100,
        counts: counts(50_000, 10_000),
        layout: "the published files, binary or Python pickles, or parquet",
        lossless: true,
        citation: "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        note: "labels are the fine ones",
        ..PLAIN
    },
    Entry {
        name: "birdsnap",
        title: "Birdsnap",
        classes: 500,
        counts: counts(47_386, 2_443),
        folders: &["birdsnap"],
        markers: &["test_images.txt"],
        images: "download/images",
        layout: "`test_images.txt` and `download/images/CLASS/*.jpg`",
        read: Reader::Lists(folders::birdsnap),
        citation: "Berg et al. 2014, Birdsnap: Large-scale Fine-grained Visual Categorization of Birds",
        note: "many of the addresses of its images are dead: every copy has images of its own",
        ..PLAIN
    },
    Entry {
        name: "sun397",
        title: "SUN397",
        classes: 397,
        counts: counts(19_850, 19_850),
        folders: &["SUN397"],
        markers: &["Training_01.txt", "Partitions/Training_01.txt"],
        images: "SUN397",
        layout: "`Training_01.txt` and `Testing_01.txt`, or both in `Partitions`, and `a/abbey/*.jpg`",
        read: Reader::Lists(lists::sun397),
        citation: "Xiao et al. 2010, SUN Database: Large-scale Scene Recognition from Abbey to Zoo",
        note: "partition 01 of ten",
        ..PLAIN
    },
    Entry {
        name: "cars",
        title: "Stanford Cars",
        classes: 196,
        counts: counts(8_144, 8_041),
        folders: &["stanford_cars", "cars"],
        markers: &["devkit/cars_train_annos.mat", "cars_train_annos.mat"],
        layout: "`devkit/cars_train_annos.mat`, `cars_test_annos_withlabels.mat`, `cars_train/*.jpg` and `cars_test/*.jpg`",
        read: Reader::Lists(matlab::cars),
        citation: "Krause et al. 2013, 3D Object Representations for Fine-Grained Categorization",
        ..PLAIN
    },
    Entry {
        name: "aircraft",
        title: "FGVC-Aircraft",
        metric: Metric::MeanPerClass,
        classes: 100,
        counts: official(3_334, 3_333, 3_333),
        folders: &["data", "fgvc-aircraft-2013b/data"],
        markers: &["images_variant_train.txt"],
        images: "images",
        layout: "`variants.txt`, `images_variant_train.txt`, `images_variant_val.txt`, `images_variant_test.txt` and `images/*.jpg`",
        read: Reader::Lists(lists::aircraft),
        citation: "Maji et al. 2013, Fine-Grained Visual Classification of Aircraft",
        note: "100 variants, as the released archive 2013b; papers also speak of 102",
        ..PLAIN
    },
    Entry {
        name: "voc2007",
        title: "PASCAL VOC 2007",
        metric: Metric::VocMap,
        classes: 20,
        counts: official(2_501, 2_510, 4_952),
        folders: &["VOC2007", "VOCdevkit/VOC2007"],
        markers: &["ImageSets/Main/train.txt"],
        images: "JPEGImages",
        layout: "`ImageSets/Main/{train,val,test}.txt`, `ImageSets/Main/CLASS_{train,val,test}.txt` and `JPEGImages/*.jpg`, the \
                 archive of the test images unpacked over that of the training images,",
        read: Reader::Lists(voc::voc2007),
        citation: "Everingham et al. 2010, The Pascal Visual Object Classes (VOC) Challenge",
        note: "an image may have several classes; of those seen only in difficult instances nothing is asked",
        ..PLAIN
    },
    Entry {
        name: "dtd",
        title: "Describable Textures",
        classes: 47,
        counts: official(1_880, 1_880, 1_880),
        folders: &["dtd"],
        markers: &["labels/train1.txt"],
        images: "images",
        layout: "`labels/{train1,val1,test1}.txt` and `images/CLASS/*.jpg`",
        read: Reader::Lists(lists::dtd),
        citation: "Cimpoi et al. 2014, Describing Textures in the Wild",
        note: "partition 1 of ten",
        ..PLAIN
    },
    Entry {
        name: "pets",
        title: "Oxford-IIIT Pets",
        metric: Metric::MeanPerClass,
        classes: 37,
        counts: counts(3_680, 3_669),
        folders: &["oxford-iiit-pet"],
        markers: &["annotations/trainval.txt"],
        images: "images",
        layout: "`annotations/trainval.txt`, `annotations/test.txt` and `images/*.jpg`",
        read: Reader::Lists(lists::pets),
        citation: "Parkhi et al. 2012, Cats and Dogs",
        ..PLAIN
    },
    Entry {
        name: "caltech101",
        title: "Caltech-101",
        metric: Metric::MeanPerClass,
        classes: 102,
        counts: counts(3_060, 6_084),
        folders: &[
            "101_ObjectCategories",
            "caltech101/101_ObjectCategories",
            "caltech-101/101_ObjectCategories",
        ],
        markers: &["BACKGROUND_Google", "Faces_easy", "accordion"],
        layout: "the class folders `BACKGROUND_Google`, `Faces_easy`, `accordion`, ...",
        read: Reader::Lists(folders::caltech101),
        drawn: true,
        citation: "Fei-Fei et al. 2004, Learning Generative Visual Models from Few Training Examples",
        note: "no official split; with `BACKGROUND_Google` 102 classes, without 101",
        ..PLAIN
    },
    Entry {
        name: "flowers102",
        title: "Flowers-102",
        metric: Metric::MeanPerClass,
        classes: 102,
        counts: official(1_020, 1_020, 6_149),
        folders: &["flowers-102", "flowers102"],
        markers: &["setid.mat"],
        layout: "`setid.mat`, `imagelabels.mat` and `jpg/image_*.jpg`",
        read: Reader::Lists(matlab::flowers102),
        citation: "Nilsback and Zisserman 2008, Automated Flower Classification over a Large Number of Classes",
        note: "the test set is larger than the training set",
        ..PLAIN
    },
    Entry {
        name: "inaturalist2018",
        title: "iNaturalist 2018",
        classes: 8_142,
        counts: counts(437_513, 24_426),
        folders: &["inaturalist2018", "iNaturalist2018", "inat2018"],
        markers: &["train2018.json"],
        layout: "`train2018.json`, `val2018.json` and `train_val2018/*/*/*.jpg`",
        read: Reader::Lists(json::inaturalist2018),
        citation: "Van Horn et al. 2018, The iNaturalist Species Classification and Detection Dataset",
        note: "long-tailed; the number is that of the validation images, for the test images have no public labels",
        ..PLAIN
    },
    Entry {
        name: "cub200",
        title: "CUB-200-2011",
        classes: 200,
        counts: counts(5_994, 5_794),
        folders: &["CUB_200_2011"],
        markers: &["train_test_split.txt"],
        images: "images",
        layout: "`images.txt`, `image_class_labels.txt`, `train_test_split.txt`, `classes.txt` and `images/CLASS/*.jpg`",
        read: Reader::Lists(lists::cub_2011),
        citation: "Wah et al. 2011, The Caltech-UCSD Birds-200-2011 Dataset",
        note: "some of its images are of ImageNet",
        ..PLAIN
    },
    Entry {
        name: "cub200-2010",
        title: "CUB-200 of 2010",
        classes: 200,
        counts: counts(3_000, 3_033),
        folders: &["CUB_200_2010", "CUB_200"],
        markers: &["lists/files.txt"],
        images: "images",
        layout: "`lists/{train,test,files}.txt` and `images/CLASS/*.jpg`",
        read: Reader::Lists(lists::cub_2010),
        citation: "Welinder et al. 2010, Caltech-UCSD Birds 200",
        note: "the edition of 6,033 images; most papers use that of 2011",
        ..PLAIN
    },
    Entry {
        name: "imagenette",
        title: "Imagenette",
        classes: 10,
        counts: counts(9_469, 3_925),
        folders: &["imagenette2", "imagenette2-320", "imagenette2-160"],
        markers: &["train/n01440764"],
        layout: "`train/WNID/*.JPEG` and `val/WNID/*.JPEG`",
        read: Reader::Source(folders::imagenette),
        citation: "Howard 2019, Imagenette, https://github.com/fastai/imagenette",
        note: IMAGENET_IMAGES,
        ..PLAIN
    },
    Entry {
        name: "stanford-dogs",
        title: "Stanford Dogs",
        metric: Metric::MeanPerClass,
        classes: 120,
        counts: counts(12_000, 8_580),
        folders: &["stanford-dogs", "stanford_dogs"],
        markers: &["train_list.mat", "lists/train_list.mat"],
        images: "Images",
        layout: "`train_list.mat` and `test_list.mat`, or both in `lists`, and `Images/CLASS/*.jpg`",
        read: Reader::Lists(matlab::dogs),
        citation: "Khosla et al. 2011, Novel Dataset for Fine-Grained Image Categorization",
        note: IMAGENET_IMAGES,
        ..PLAIN
    },
];
