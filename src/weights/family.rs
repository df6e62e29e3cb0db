//! Whose file it is: where each system's training code leaves the backbone, told by the names in the file.

use super::names::Names;
use crate::augment::Preprocess;
use crate::error::Result;
use crate::model::resnet::{Flavor, Stem};
use std::path::Path;

/// How one system names things. Names are meant without a leading `module.`, if all in the dictionary have one
/// (PyTorch's parallel wrappers put it there).
#[derive(Debug)]
pub struct Family {
    /// Its name in records and on the command line.
    pub id: &'static str,
    /// Whose files these are.
    pub title: &'static str,
    /// Where the dictionary with the backbone lies; the first that is there.
    pub groups: &'static [&'static str],
    /// What the names of the backbone begin with; the first that fits.
    pub prefixes: &'static [&'static str],
    /// Beginnings of names of which one must be in the dictionary; none needed if empty.
    pub signs: &'static [&'static str],
    /// Side of the kernel of the first convolution, where only one was published.
    pub kernel: Option<usize>,
    /// From its names to torchvision's.
    pub names: Names,
    /// Beginnings of names that are expected beside the backbone and left where they are.
    pub drops: &'static [&'static str],
    /// The stem of its networks with a 3×3 kernel, which weights do not tell; none if it was not published.
    pub small_stem: Option<Stem>,
    /// Whose rules its networks follow.
    pub flavor: Flavor,
    /// How it prepares images: one if all its files do so, several if that must be stated, none if nothing is known.
    pub preprocess: &'static [Prepared],
    /// Whether running statistics may come in several parts, of which the mean is meant.
    pub split_norms: bool,
    /// What else must hold.
    pub test: Test,
}

/// What tells a family beside its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Nothing.
    Names,
    /// The projection of a block comes before its convolutions.
    ShortcutFirst,
    /// A classifier of 1,000 classes in a file of PyTorch's.
    ImageNetClassifier,
    /// A network converted for detectron2. Those of its own have the names, but take blue, green and red in this order, and
    /// stride in other convolutions.
    Converted,
}

/// How images are prepared: a preprocessing by its id, perhaps with another mean and deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prepared {
    /// What `--preprocess` takes.
    pub id: &'static str,
    /// Mean and standard deviation, where they are not those of the id.
    pub normalization: Option<([f64; 3], [f64; 3])>,
}

impl Prepared {
    /// The preprocessing.
    ///
    /// # Errors
    /// Those of [`Preprocess::named`].
    pub fn preprocess(&self) -> Result<Preprocess> {
        let plain = Preprocess::named(self.id)?;
        Ok(match self.normalization {
            Some((mean, std)) => plain.normalized(mean, std),
            None => plain,
        })
    }
}

const fn plain(id: &'static str) -> Prepared {
    Prepared { id, normalization: None }
}

/// With a mean and deviation of its own.
const fn normalized(id: &'static str, by: ([f64; 3], [f64; 3])) -> Prepared {
    Prepared { id, normalization: Some(by) }
}

/// What the names of torchvision's files end in: of its first weights, and of its second.
const TORCHVISION_V1: &[&str] = &[
    "5c106cde", "f37072fd", "333f7ec4", "b627a593", "19c8e357", "0676ba61", "5d3b4d8f", "63fe2227",
    "b121ed2d", "394f9c45", "95faca4d", "32ee1156",
];
const TORCHVISION_V2: &[&str] = &["11ad3fa6", "cd907fc2", "f82ba261", "9ba9bcbe", "d733dc28"];

/// Mean and deviation of `ImageNet`, and of CIFAR-10 and STL-10 as solo-learn has them.
const IMAGENET: ([f64; 3], [f64; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
const SOLO_CIFAR: ([f64; 3], [f64; 3]) = ([0.4914, 0.4822, 0.4465], [0.247, 0.243, 0.261]);
const SOLO_STL: ([f64; 3], [f64; 3]) = ([0.4914, 0.4823, 0.4466], [0.247, 0.243, 0.261]);

/// What most files are; the rows below say what is different.
const COMMON: Family = Family {
    id: "",
    title: "",
    groups: &["state_dict"],
    prefixes: &[""],
    signs: &[],
    kernel: None,
    names: Names::Same,
    drops: &[],
    small_stem: None,
    flavor: Flavor::Torchvision,
    preprocess: &[plain("imagenet")],
    split_norms: false,
    test: Test::Names,
};

/// Lightning checkpoints of lightly's benchmarks hold these beside the backbone.
const LIGHTLY_HEADS: &[&str] = &[
    "projection_head",
    "prediction_head",
    "online_classifier.",
    "knn_classifier.",
    "query_",
    "key_",
    "teacher_",
    "student_",
    "backbone_momentum.",
    "head.",
    "prototypes.",
    "criterion.",
    "memory_bank",
    "start_queue_at_epoch",
    "queues.",
    "smog.",
    "feature_bank",
    "targets_bank",
    "center",
];

/// All families, the more special ones first: a file is of the first that fits.
pub const FAMILIES: &[Family] = &[
    Family {
        id: "moco-cifar-demo",
        title: "MoCo's CIFAR-10 demonstration",
        prefixes: &["encoder_q.net."],
        kernel: Some(3),
        names: Names::Parts {
            first: &[
                ("0", "conv1"),
                ("1", "bn1"),
                ("3", "layer1"),
                ("4", "layer2"),
                ("5", "layer3"),
                ("6", "layer4"),
            ],
            within: &[],
        },
        drops: &["encoder_q.net.9.", "encoder_k.", "queue"],
        small_stem: Some(Stem::Cifar),
        preprocess: &[plain("cifar")],
        ..COMMON
    },
    Family {
        id: "moco",
        title: "MoCo v1 and v2, PCL, CLD on ImageNet",
        prefixes: &["encoder_q."],
        drops: &[
            "encoder_q.fc.",
            "encoder_q.pre_fc.",
            "encoder_q.groupDis.",
            "encoder_k.",
            "queue",
        ],
        ..COMMON
    },
    Family {
        id: "vissl",
        title: "VISSL",
        groups: &["classy_state_dict/base_model/model/trunk", "model_state_dict", ""],
        prefixes: &["_feature_blocks.", "trunk._feature_blocks."],
        drops: &["heads.", "_feature_blocks.fc."],
        ..COMMON
    },
    Family {
        id: "separius",
        title: "SimCLRv2, converted by Separius",
        groups: &["resnet"],
        prefixes: &["net."],
        names: Names::Separius,
        drops: &["fc."],
        flavor: Flavor::SimclrTf,
        preprocess: &[plain("simclr")],
        ..COMMON
    },
    Family {
        id: "lightly-cifar",
        title: "lightly's CIFAR-10 benchmark, GSG on CIFAR",
        prefixes: &["backbone."],
        kernel: Some(3),
        names: Names::Parts {
            first: &[
                ("0", "conv1"),
                ("1", "bn1"),
                ("2", "layer1"),
                ("3", "layer2"),
                ("4", "layer3"),
                ("5", "layer4"),
            ],
            within: &[("shortcut", "downsample")],
        },
        drops: LIGHTLY_HEADS,
        small_stem: Some(Stem::CifarNoRelu),
        preprocess: &[normalized("cifar", IMAGENET)],
        split_norms: true,
        ..COMMON
    },
    Family {
        id: "lightly-imagenette",
        title: "lightly's Imagenette benchmark",
        prefixes: &["backbone."],
        kernel: Some(7),
        names: Names::Parts {
            first: &[
                ("0", "conv1"),
                ("1", "bn1"),
                ("4", "layer1"),
                ("5", "layer2"),
                ("6", "layer3"),
                ("7", "layer4"),
            ],
            within: &[],
        },
        drops: LIGHTLY_HEADS,
        preprocess: &[normalized("short-128", IMAGENET)],
        ..COMMON
    },
    Family {
        id: "lightly",
        title: "lightly's ImageNet benchmark",
        prefixes: &["backbone."],
        signs: &["projection_head.", "online_classifier.", "query_backbone.", "student_"],
        kernel: Some(7),
        drops: LIGHTLY_HEADS,
        ..COMMON
    },
    Family {
        id: "mmselfsup",
        title: "OpenSelfSup, MMSelfSup, MMPretrain",
        prefixes: &["backbone."],
        signs: &["neck.", "head.", "data_preprocessor.", "encoder_q.", "online_net."],
        drops: &[
            "neck.",
            "head.",
            "data_preprocessor.",
            "target_generator.",
            "encoder_q.",
            "encoder_k.",
            "online_net.",
            "target_net.",
            "queue",
            "memory_bank",
        ],
        ..COMMON
    },
    Family {
        id: "simsiam",
        title: "SimSiam, GSG on ImageNet",
        prefixes: &["encoder."],
        // The projector; a `predictor.` beside it is not theirs alone.
        signs: &["encoder.fc."],
        drops: &["encoder.fc.", "predictor.", "encoder_momentum."],
        ..COMMON
    },
    Family {
        id: "solo-learn-cifar",
        title: "solo-learn on CIFAR",
        prefixes: &["backbone.", "encoder."],
        signs: SOLO_SIGNS,
        kernel: Some(3),
        drops: SOLO_HEADS,
        small_stem: Some(Stem::CifarPad2),
        preprocess: &[normalized("cifar", SOLO_CIFAR)],
        ..COMMON
    },
    Family {
        id: "solo-learn",
        title: "solo-learn on ImageNet, ImageNet-100 or STL-10",
        prefixes: &["backbone.", "encoder."],
        signs: SOLO_SIGNS,
        kernel: Some(7),
        drops: SOLO_HEADS,
        preprocess: &[plain("imagenet"), normalized("stl", SOLO_STL)],
        ..COMMON
    },
    Family {
        id: "pycontrast",
        title: "PyContrast, FT, InfoMin, PIRL, InsDis",
        groups: &["model", "model_ema"],
        prefixes: &["encoder."],
        kernel: Some(7),
        drops: &["head.", "head_jig.", "jigsaw", "encoder.fc."],
        ..COMMON
    },
    Family {
        id: "cld-cifar",
        title: "CLD and NPID on small images",
        groups: &["net", "model", "model_ema"],
        signs: &["linear.", "groupDis.", "pre_fc."],
        kernel: Some(3),
        names: Names::Parts { first: &[], within: &[("shortcut", "downsample")] },
        drops: &["linear.", "groupDis.", "pre_fc.", "l2norm."],
        small_stem: Some(Stem::Cifar),
        preprocess: &[plain("cifar"), plain("stl"), plain("kitchen")],
        ..COMMON
    },
    Family {
        id: "swav",
        title: "SwAV, DeepCluster v2, SeLa v2",
        groups: &["", "state_dict"],
        signs: &["prototypes."],
        drops: &["projection_head.", "prototypes.", "queue"],
        ..COMMON
    },
    Family {
        id: "spijkervet",
        title: "Spijkervet's SimCLR",
        groups: &[""],
        prefixes: &["encoder."],
        signs: &["projector."],
        kernel: Some(7),
        drops: &["projector.", "encoder.fc."],
        preprocess: &[plain("adam-features")],
        ..COMMON
    },
    Family {
        id: "tonylins",
        title: "SimCLR v1, converted by tonylins",
        drops: &["fc."],
        flavor: Flavor::SimclrTf,
        preprocess: &[plain("simclr")],
        test: Test::ShortcutFirst,
        ..COMMON
    },
    Family {
        id: "torchvision",
        title: "torchvision",
        groups: &["", "state_dict", "model"],
        signs: &["fc."],
        kernel: Some(7),
        drops: &["fc."],
        preprocess: &[plain("imagenet"), plain("imagenet-232")],
        test: Test::ImageNetClassifier,
        ..COMMON
    },
    Family {
        id: "huggingface",
        title: "transformers",
        groups: &[""],
        prefixes: &["resnet.", ""],
        signs: &["resnet.embedder.", "embedder.embedder."],
        names: Names::HuggingFace,
        drops: &["classifier."],
        preprocess: &[],
        ..COMMON
    },
    Family {
        id: "detectron2",
        title: "networks converted for detectron2",
        groups: &["model"],
        signs: &["stem.conv1."],
        names: Names::Detectron2,
        drops: &["linear."],
        preprocess: &[],
        test: Test::Converted,
        ..COMMON
    },
    Family {
        id: "bare",
        title: "torchvision's or timm's names, without saying whose",
        groups: &["", "state_dict", "model", "model_state_dict", "net", "backbone", "encoder"],
        prefixes: &["", "backbone.", "encoder."],
        drops: &["fc.", "projector.", "classifier.", "optimizer."],
        preprocess: &[],
        ..COMMON
    },
];

/// What a Lightning checkpoint of solo-learn holds beside the backbone.
const SOLO_SIGNS: &[&str] = &["classifier.", "projector.", "predictor.", "momentum_"];
const SOLO_HEADS: &[&str] = &[
    "classifier.",
    "projector",
    "predictor",
    "momentum_",
    "prototypes",
    "queue",
    "temporal_",
    "knn.",
    "key_projector",
    "frame_projector",
    "whitening.",
    "head.",
];

impl Family {
    /// Mean and standard deviation, where all ways in which it prepares images have the same.
    pub fn normalization(&self) -> Option<([f64; 3], [f64; 3])> {
        let of = |prepared: &Prepared| prepared.preprocess().ok().map(|it| (it.mean, it.std));
        let (first, others) = self.preprocess.split_first()?;
        let first = of(first)?;
        others.iter().all(|other| of(other) == Some(first)).then_some(first)
    }

    /// How the images of a file are prepared, as far as the family or the name of the file tells.
    pub(super) fn prepared(&self, file: &Path) -> Option<Prepared> {
        if let [only] = self.preprocess {
            return Some(*only);
        }
        let name = file.file_stem()?.to_str()?;
        let hash = name.rsplit_once('-').map(|(_, hash)| hash)?;
        let of = |known: &[&str], id: &str| {
            let published = self.preprocess.iter().find(|prepared| prepared.id == id);
            published.copied().filter(|_| known.contains(&hash))
        };
        (self.test == Test::ImageNetClassifier).then(|| {
            of(TORCHVISION_V1, "imagenet").or_else(|| of(TORCHVISION_V2, "imagenet-232"))
        })?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_and_every_preprocessing_exists() {
        let ids: BTreeSet<&str> = FAMILIES.iter().map(|family| family.id).collect();
        assert_eq!(ids.len(), FAMILIES.len());
        for prepared in FAMILIES.iter().flat_map(|family| family.preprocess) {
            prepared.preprocess().unwrap();
        }
    }

    #[test]
    fn what_all_of_a_family_normalise_by_is_known() {
        let of = |id: &str| FAMILIES.iter().find(|family| family.id == id).unwrap().normalization();
        assert_eq!(of("torchvision"), Some(IMAGENET), "two sizes, one mean");
        let several = FAMILIES.iter().filter(|family| family.preprocess.len() > 1);
        let apart: Vec<&str> =
            several.filter(|it| it.normalization().is_none()).map(|it| it.id).collect();
        assert_eq!(apart, ["solo-learn", "cld-cifar"]);
    }
}
