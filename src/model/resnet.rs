//! Residual networks (He et al. 2016) with torchvision's layout and names, any width, and a stem for small images.

use super::layers::{Affine, BatchNorm, Convolution, Geometry, Initialization, check_groups};
use super::{Phase, Place};
use crate::error::{Error, Result};
use crate::shape::check;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// The backbone f: images `[N,3,h,w]` to features `[N,F]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneConfig {
    /// Depth and kind of block.
    pub name: Architecture,
    /// Multiplies every channel count, that of the stem and of the features included; above 0, at most 64.
    /// A count that is not whole is rounded and must reach 1.
    #[serde(default = "unit")]
    pub width: f64,
    /// What comes before the first group of blocks.
    #[serde(default)]
    pub stem: Stem,
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
}

fn unit() -> f64 {
    1.0
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
    fn depths(self) -> [usize; 4] {
        match self {
            Self::ResNet18 => [2, 2, 2, 2],
            Self::ResNet34 | Self::ResNet50 => [3, 4, 6, 3],
            Self::ResNet101 => [3, 4, 23, 3],
            Self::ResNet152 => [3, 8, 36, 3],
            Self::ResNet200 => [3, 24, 36, 3],
        }
    }

    /// Channels out of a block for every channel inside it: 1 in basic blocks, 4 in bottlenecks.
    fn expansion(self) -> i64 {
        if matches!(self, Self::ResNet18 | Self::ResNet34) { 1 } else { 4 }
    }
}

/// What comes before the first group of blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 7×7 convolution with stride 2, batch norm, ReLU, 3×3 max-pool with stride 2: a quarter of the image's side.
    #[default]
    ImageNet,
    /// 3×3 convolution with stride 1, batch norm, ReLU: the image's own side, for images of 32 pixels or so.
    Cifar,
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

/// The convolutions of one residual block; a batch norm follows each.
struct BlockPlan {
    branch: Vec<Geometry>,
    shortcut: Option<Geometry>,
}

impl BackboneConfig {
    /// Checks the ranges.
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
        if self.channels(64) < 1 {
            return Err(Error::Recipe(format!(
                "`backbone.width` = {} leaves no channel in the stem: at least 1/128 is needed",
                self.width
            )));
        }
        Ok(())
    }

    /// Number F of features.
    pub fn features(&self) -> i64 {
        self.channels(512 * self.name.expansion())
    }

    /// Number of trainable scalars, counted without making them.
    pub fn parameter_count(&self) -> u64 {
        let blocks = self.blocks();
        let geometries = blocks.iter().flatten().flat_map(|b| b.branch.iter().chain(&b.shortcut));
        geometries
            .chain([&self.stem()])
            .map(|g| (g.outputs * (g.inputs * g.kernel * g.kernel + 2)) as u64)
            .sum()
    }

    fn channels(&self, at_width_one: i64) -> i64 {
        (at_width_one as f64 * self.width).round() as i64
    }

    fn stem(&self) -> Geometry {
        let (kernel, stride) = match self.stem {
            Stem::ImageNet => (7, 2),
            Stem::Cifar => (3, 1),
        };
        Geometry { inputs: 3, outputs: self.channels(64), kernel, stride }
    }

    /// The four groups of blocks.
    fn blocks(&self) -> Vec<Vec<BlockPlan>> {
        let mut inputs = self.channels(64);
        let mut groups = Vec::new();
        for (group, depth) in self.name.depths().into_iter().enumerate() {
            let inner = self.channels(64 << group);
            let outputs = self.channels((64 << group) * self.name.expansion());
            let mut blocks = Vec::new();
            for index in 0..depth {
                let stride = if group > 0 && index == 0 { 2 } else { 1 };
                let layer =
                    |inputs, outputs, kernel, stride| Geometry { inputs, outputs, kernel, stride };
                let branch = if self.name.expansion() == 1 {
                    vec![layer(inputs, inner, 3, stride), layer(inner, outputs, 3, 1)]
                } else {
                    vec![
                        layer(inputs, inner, 1, 1),
                        layer(inner, inner, 3, stride),
                        layer(inner, outputs, 1, 1),
                    ]
                };
                let changes = stride != 1 || inputs != outputs;
                let shortcut = changes.then(|| layer(inputs, outputs, 1, stride));
                blocks.push(BlockPlan { branch, shortcut });
                inputs = outputs;
            }
            groups.push(blocks);
        }
        groups
    }
}

/// Where inside a network features are taken, named as in SimCLR's graph; all lie behind a ReLU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockGroup {
    /// After the stem, its max-pool included (`initial_max_pool`; torchvision `maxpool`).
    Stem,
    /// After the first group (`block_group1`; torchvision `layer1`).
    Group1,
    /// After the second group.
    Group2,
    /// After the third group.
    Group3,
    /// After the fourth group, before the average pool.
    Group4,
}

const GROUPS: [BlockGroup; 4] =
    [BlockGroup::Group1, BlockGroup::Group2, BlockGroup::Group3, BlockGroup::Group4];

/// A convolution and its batch norm.
#[derive(Debug)]
struct Unit {
    convolution: Convolution,
    norm: BatchNorm,
}

impl Unit {
    /// `names` are those of the convolution and of the batch norm.
    fn build(
        place: &mut Place<'_>,
        names: [String; 2],
        geometry: Geometry,
        start: Initialization,
        scale: f64,
    ) -> Self {
        let [convolution, norm] = names;
        Self {
            convolution: Convolution::build(&mut place.at(convolution), geometry, start),
            norm: BatchNorm::build(&mut place.at(norm), geometry.outputs, Affine::Full, scale),
        }
    }

    fn forward(&self, x: &Tensor, phase: Phase) -> Tensor {
        self.norm.forward(&self.convolution.forward(x), phase)
    }
}

/// A residual block, basic or bottleneck: convolutions with batch norms, ReLU between them and after the sum.
#[derive(Debug)]
struct Block {
    branch: Vec<Unit>,
    shortcut: Option<Unit>,
}

impl Block {
    fn build(
        place: &mut Place<'_>,
        plan: &BlockPlan,
        start: Initialization,
        last_scale: f64,
    ) -> Self {
        let count = plan.branch.len();
        let branch = (1..)
            .zip(&plan.branch)
            .map(|(number, geometry)| {
                let names = [format!("conv{number}"), format!("bn{number}")];
                let scale = if number == count { last_scale } else { 1.0 };
                Unit::build(place, names, *geometry, start, scale)
            })
            .collect();
        let shortcut = plan.shortcut.map(|geometry| {
            let names = ["0".to_owned(), "1".to_owned()];
            Unit::build(&mut place.at("downsample"), names, geometry, start, 1.0)
        });
        Self { branch, shortcut }
    }

    /// The result of a batch norm is not needed by its backward, so the ReLU and the sum may overwrite it.
    fn forward(&self, x: &Tensor, phase: Phase) -> Tensor {
        let mut y = self.branch[0].forward(x, phase);
        for unit in &self.branch[1..] {
            y = unit.forward(&y.relu_(), phase);
        }
        match &self.shortcut {
            Some(unit) => y += unit.forward(x, phase),
            None => y += x,
        }
        y.relu_()
    }
}

/// A residual network on named tensors. Names are torchvision's (`layer2.0.downsample.0.weight`), without classifier and
/// without `num_batches_tracked`.
///
/// Feed it images in channels-last order: every map inside then stays so, which convolutions are fastest in.
#[derive(Debug)]
pub struct ResNet {
    stem: Unit,
    stem_kind: Stem,
    groups: Vec<Vec<Block>>,
    features: i64,
}

impl ResNet {
    /// Makes the network, its tensors directly below `place`.
    ///
    /// # Errors
    /// As [`BackboneConfig::check`].
    pub fn build(place: &mut Place<'_>, config: &BackboneConfig) -> Result<Self> {
        config.check()?;
        let start = config.initialization.into();
        let last_scale = if config.zero_init_residual { 0.0 } else { 1.0 };
        let names = ["conv1".to_owned(), "bn1".to_owned()];
        let stem = Unit::build(place, names, config.stem(), start, 1.0);
        let mut groups = Vec::new();
        for (number, plans) in (1..).zip(config.blocks()) {
            let mut place = place.at(format!("layer{number}"));
            let blocks = plans
                .iter()
                .enumerate()
                .map(|(index, plan)| Block::build(&mut place.at(index), plan, start, last_scale))
                .collect();
            groups.push(blocks);
        }
        Ok(Self { stem, stem_kind: config.stem, groups, features: config.features() })
    }

    /// Number F of features.
    pub fn features(&self) -> i64 {
        self.features
    }

    /// Checks images before [`Self::forward`] or [`Self::forward_features`], which take them as they come.
    ///
    /// # Errors
    /// [`Error::Shape`] if `images` is not `[N,3,h,w]`, does not fall into the normalisation groups of `phase`, or
    /// leaves a single value per channel and group in the last maps.
    pub fn check_input(&self, images: &Tensor, phase: Phase) -> Result<()> {
        check("images", images, &[-1, 3, -1, -1])?;
        let size = images.size();
        let shrink = match self.stem_kind {
            Stem::ImageNet => 32,
            Stem::Cifar => 8,
        };
        let last_side = |side: i64| (side + shrink - 1) / shrink;
        check_groups("images", size[0], last_side(size[2]) * last_side(size[3]), phase)
    }

    /// Images `[N,3,h,w]` to features h `[N,F]`, the average of the last map.
    pub fn forward(&self, images: &Tensor, phase: Phase) -> Tensor {
        let mut x = self.forward_stem(images, phase);
        for block in self.groups.iter().flatten() {
            x = block.forward(&x, phase);
        }
        x.mean_dim([2, 3].as_slice(), false, None)
    }

    /// Images `[N,3,h,w]` to the maps `[N,C,h',w']` after each of `groups`, in the order asked. What lies behind the
    /// last of them is not computed, and its running statistics do not move.
    pub fn forward_features(
        &self,
        images: &Tensor,
        groups: &[BlockGroup],
        phase: Phase,
    ) -> Vec<Tensor> {
        let Some(last) = groups.iter().max() else { return Vec::new() };
        let mut maps = vec![self.forward_stem(images, phase)];
        for (_, blocks) in GROUPS.iter().zip(&self.groups).filter(|(group, _)| *group <= last) {
            let mut x = maps[maps.len() - 1].shallow_clone();
            for block in blocks {
                x = block.forward(&x, phase);
            }
            maps.push(x);
        }
        groups.iter().map(|group| maps[*group as usize].shallow_clone()).collect()
    }

    fn forward_stem(&self, images: &Tensor, phase: Phase) -> Tensor {
        let x = self.stem.forward(images, phase).relu_();
        match self.stem_kind {
            Stem::ImageNet => x.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false),
            Stem::Cifar => x,
        }
    }
}
