//! Settings of a backbone.

use super::Frozen;
use super::plan::{MultiplyAdds, Plan};
use crate::error::{Error, Result};
use crate::model::layers::{Initialization, NORM_MOMENTUM};
use serde::{Deserialize, Serialize};

/// The backbone f: images `[N,3,h,w]` (or with more channels) to features `[N,F]`.
///
/// The networks of the papers are written like this (`name` and `width` are free, and `stem = "cifar"` replaces the
/// stem for images of 32 pixels or so):
///
/// | network | settings |
/// |---|---|
/// | torchvision, MoCo, SwAV | none |
/// | SimCLR | `flavor = "simclr_tf"`, `initialization = "simclr"`, `zero_init_residual = true` |
/// | SimCLRv2 with selective kernels | those of SimCLR, `stem = "resnet_d"`, `sk_ratio = 0.0625` |
/// | timm's ResNet-D | `stem = "resnet_d"` |
/// | lightly and CLD on CIFAR | `stem = "cifar"`, `initialization = "pytorch"` |
/// | solo-learn's CIFAR checkpoints | `stem = "cifar_pad2"` |
/// | lightly's CIFAR checkpoints | `stem = "cifar_no_relu"` |
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneConfig {
    /// Depth and kind of block.
    pub name: Architecture,
    /// Multiplies every channel count, that of the stem and of the features included; above 0, at most 64.
    /// A count that is not whole is rounded and must reach 1.
    #[serde(default = "unit")]
    pub width: f64,
    /// Channels of an image, 3 to 259: red, green and blue, and those of one value each that the data adds
    /// ([`crate::data::Dataset::constants`]).
    #[serde(default = "rgb")]
    pub input_channels: i64,
    /// What comes before the first group of blocks.
    #[serde(default)]
    pub stem: Stem,
    /// Whose rules hold where the published networks differ in how they pool and project.
    #[serde(default)]
    pub flavor: Flavor,
    /// Width of the gate of selective kernels (Li et al. 2019) as a share of the channels it weighs, in [0, 1]; 0 is
    /// ordinary 3×3 convolutions, SimCLRv2 (Chen et al. 2020b) takes 0.0625. Bottleneck networks only. The `ResNet-D`
    /// shortcut of [`Stem::ResNetD`] comes with them whatever the stem.
    #[serde(default)]
    pub sk_ratio: f64,
    /// How convolutions start.
    #[serde(default)]
    pub initialization: BackboneInitialization,
    /// Start the last batch norm of every residual branch at scale 0, so that each block begins as the identity
    /// (Goyal et al. 2017). SimCLR does, MoCo does not.
    #[serde(default)]
    pub zero_init_residual: bool,
    /// Images per normalisation group in training; 0 is the whole batch.
    #[serde(default)]
    pub norm_group: usize,
    /// Share of its running statistics that a batch norm replaces at each step, in (0, 1], in PyTorch's counting. SimCLR
    /// fine-tunes on small data sets with min(10 / steps per epoch, 0.1).
    #[serde(default = "tenth")]
    pub norm_momentum: f64,
    /// A model to start from in place of random weights: a run folder, a checkpoint or a weights file. Every tensor of the
    /// backbone must be in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
}

fn tenth() -> f64 {
    NORM_MOMENTUM
}

fn unit() -> f64 {
    1.0
}

fn rgb() -> i64 {
    3
}

/// Depth and kind of block of a residual network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Basic blocks 2, 2, 2, 2; F = 512 × width.
    ResNet18,
    /// Basic blocks 3, 4, 6, 3; F = 512 × width.
    ResNet34,
    /// Bottlenecks 3, 4, 6, 3; F = 2048 × width.
    ResNet50,
    /// Bottlenecks 3, 4, 23, 3; F = 2048 × width.
    ResNet101,
    /// Bottlenecks 3, 8, 36, 3; F = 2048 × width.
    ResNet152,
    /// Bottlenecks 3, 24, 36, 3; F = 2048 × width (BYOL).
    ResNet200,
}

impl Architecture {
    /// Blocks per group.
    pub(crate) fn depths(self) -> [usize; 4] {
        match self {
            Self::ResNet18 => [2, 2, 2, 2],
            Self::ResNet34 | Self::ResNet50 => [3, 4, 6, 3],
            Self::ResNet101 => [3, 4, 23, 3],
            Self::ResNet152 => [3, 8, 36, 3],
            Self::ResNet200 => [3, 24, 36, 3],
        }
    }

    /// Channels out of a block for every channel inside it: 1 in basic blocks, 4 in bottlenecks.
    pub(crate) fn expansion(self) -> i64 {
        if matches!(self, Self::ResNet18 | Self::ResNet34) { 1 } else { 4 }
    }
}

/// What comes before the first group of blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stem {
    /// 7×7 convolution with stride 2, batch norm, `ReLU`, 3×3 max-pool with stride 2: a quarter of the image's side.
    #[default]
    #[serde(rename = "imagenet")]
    ImageNet,
    /// 3×3 convolution with stride 1, batch norm, `ReLU`: the image's own side, for images of 32 pixels or so.
    #[serde(rename = "cifar")]
    Cifar,
    /// [`Self::Cifar`] padded by 2 pixels instead of 1, so that maps of a 32-pixel image are 34, 17, 9 and 5 wide: only
    /// for checkpoints of solo-learn, which trained so.
    #[serde(rename = "cifar_pad2")]
    CifarPad2,
    /// [`Self::Cifar`] without the `ReLU`: only for checkpoints of lightly's CIFAR benchmark, which lost it where the
    /// parts of the network were put in a row.
    #[serde(rename = "cifar_no_relu")]
    CifarNoRelu,
    /// Three 3×3 convolutions, the first with stride 2, each with batch norm and `ReLU`, then the max-pool (He et al.
    /// 2019, arXiv:1812.01187, ResNet-C and ResNet-D). With it, projections in shortcuts pool by averages instead of
    /// striding.
    #[serde(rename = "resnet_d")]
    ResNetD,
}

/// Whose rules hold where the published networks differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flavor {
    /// torchvision, and timm for ResNet-D: the first group of a basic network keeps its identity shortcut, the max-pool
    /// is padded on all sides, an average pool with stride 1 is left out and one with stride 2 averages real pixels.
    #[default]
    Torchvision,
    /// SimCLR's TensorFlow code: a projection in the first block of every group, `SAME` max-pool (an even map is padded
    /// at the bottom and right only), 2×2 average pools at stride 1 (over real pixels) and at stride 2 (zeros count).
    /// Its released weights lose 0.1 to 0.8 points under the other rules.
    SimclrTf,
    /// The published PyTorch conversions of SimCLR's weights: its projections, the max-pool padded on all sides, and
    /// average pools for which the zeros beyond the end of a map count, at stride 1 too. Only to meet figures that were
    /// measured with those; [`Self::SimclrTf`] is the network that was trained.
    SimclrConverter,
}

/// How the convolutions of a backbone start; see [`Initialization`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackboneInitialization {
    /// Kaiming normal over `fan_out`, as torchvision.
    #[default]
    Kaiming,
    /// Truncated normal over `fan_in`, as SimCLR's TensorFlow code.
    SimClr,
    /// Uniform, as PyTorch's layers where no code says otherwise (lightly's and CLD's CIFAR networks).
    PyTorch,
}

impl From<BackboneInitialization> for Initialization {
    fn from(value: BackboneInitialization) -> Self {
        match value {
            BackboneInitialization::Kaiming => Self::KaimingNormal,
            BackboneInitialization::SimClr => Self::TruncatedNormal,
            BackboneInitialization::PyTorch => Self::Uniform,
        }
    }
}

impl BackboneConfig {
    /// torchvision's network of this name: every setting at its default.
    pub fn new(name: Architecture) -> Self {
        Self {
            name,
            width: 1.0,
            input_channels: 3,
            stem: Stem::default(),
            flavor: Flavor::default(),
            sk_ratio: 0.0,
            initialization: BackboneInitialization::default(),
            zero_init_residual: false,
            norm_group: 0,
            norm_momentum: NORM_MOMENTUM,
            weights: None,
        }
    }

    /// Checks the ranges and that the settings go together.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting.
    pub fn check(&self) -> Result<()> {
        if !(self.width > 0.0 && self.width <= 64.0) {
            return Err(Error::Recipe(format!(
                "`backbone.width` must be above 0 and at most 64, found {}",
                self.width
            )));
        }
        if !(3..=259).contains(&self.input_channels) {
            return Err(Error::Recipe(format!(
                "`backbone.input_channels` must be from 3 to 259, found {}",
                self.input_channels
            )));
        }
        // The narrowest layer: half of the stem's channels in `ResNet-D`, all of them otherwise.
        let (narrowest, least) =
            if self.stem == Stem::ResNetD { (32, "1/64") } else { (64, "1/128") };
        if self.channels(narrowest) < 1 {
            return Err(Error::Recipe(format!(
                "`backbone.width` = {} leaves no channel in the stem: at least {least} is needed",
                self.width
            )));
        }
        if !(self.norm_momentum > 0.0 && self.norm_momentum <= 1.0) {
            return Err(Error::Recipe(format!(
                "`backbone.norm_momentum` must be above 0 and at most 1, found {}",
                self.norm_momentum
            )));
        }
        if !(0.0..=1.0).contains(&self.sk_ratio) {
            return Err(Error::Recipe(format!(
                "`backbone.sk_ratio` must be in [0, 1], found {}",
                self.sk_ratio
            )));
        }
        if self.sk_ratio > 0.0 && self.name.expansion() == 1 {
            let name = format!("{:?}", self.name).to_lowercase();
            return Err(Error::Recipe(format!(
                "`backbone.sk_ratio` = {} needs bottleneck blocks, which `{name}` has not: take `resnet50` or deeper, \
                 or `sk_ratio = 0`",
                self.sk_ratio
            )));
        }
        if self.sk_ratio > 0.0 && self.stem == Stem::ImageNet {
            return Err(Error::Recipe(format!(
                "`backbone.sk_ratio` = {} goes with `backbone.stem = \"resnet_d\"`, or `\"cifar\"` for small images; \
                 found `\"imagenet\"`, with which no such network was published",
                self.sk_ratio
            )));
        }
        Ok(())
    }

    /// Checks that normalisation groups of `images` images of `side` × `side` pixels leave every batch norm the two
    /// values per channel that a variance needs. The views of an image that pass the network together count once, so
    /// this holds whatever the method.
    ///
    /// # Errors
    /// [`Error::Recipe`] saying what is left and what to change.
    pub fn check_images(&self, side: usize, images: usize) -> Result<()> {
        let last = self.plan().fewest_values(side as i64) as usize;
        if images * last >= 2 {
            return Ok(());
        }
        let pools = matches!(self.stem, Stem::ImageNet | Stem::ResNetD) && self.sk_ratio == 0.0;
        let other_stem = if pools { ", or take `backbone.stem = \"cifar\"`" } else { "" };
        Err(Error::Recipe(format!(
            "batch norm needs at least 2 values per channel: a group of {images} at {side} px leaves {}; \
             raise `backbone.norm_group` and `data.micro_batch_size`{other_stem}",
            images * last
        )))
    }

    /// Number F of features.
    pub fn features(&self) -> i64 {
        self.channels(512 * self.name.expansion())
    }

    /// Number of trainable scalars, counted without making them.
    pub fn parameter_count(&self) -> u64 {
        self.plan().parameter_count()
    }

    /// Scalars that training keeps for the backward pass, per image of `side` × `side` pixels: what every convolution
    /// takes in and what every batch norm takes in, of parts that are not frozen. With the largest of all, which bounds
    /// what comes and goes.
    pub fn activation_count(&self, side: i64, frozen: Frozen) -> (u64, u64) {
        self.plan().activation_count(side, frozen)
    }

    /// Multiplications in the passes of one image of `side` × `side` pixels through a network of which a part is frozen.
    pub fn multiply_adds(&self, side: i64, frozen: Frozen) -> MultiplyAdds {
        self.plan().multiply_adds(side, frozen)
    }

    pub(crate) fn plan(&self) -> Plan {
        Plan::of(self)
    }

    pub(crate) fn channels(&self, at_width_one: i64) -> i64 {
        (at_width_one as f64 * self.width).round() as i64
    }
}
