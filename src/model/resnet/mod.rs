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
    /// 7×7 convolution with stride 2, batch norm, `ReLU`, 3×3 max-pool with stride 2: a quarter of the image's side.
    #[default]
    ImageNet,
    /// 3×3 convolution with stride 1, batch norm, `ReLU`: the image's own side, for images of 32 pixels or so.
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

    /// Scalars that training keeps for the backward pass, per image of `side` × `side` pixels: what every convolution
    /// takes in and what every batch norm takes in. With the largest of them, which bounds what comes and goes.
    pub fn activation_count(&self, side: i64) -> (u64, u64) {
        let stem = self.stem();
        let mut side_now = halved(side, stem.stride);
        let map = |channels: i64, side: i64| channels * side * side;
        let mut largest = map(stem.outputs, side_now);
        let mut kept = map(3, side) + 2 * largest;
        if self.stem == Stem::ImageNet {
            side_now = halved(side_now, 2);
            // The max-pool keeps its result and, in 64 bits, where each came from.
            kept += 3 * map(stem.outputs, side_now);
        }
        for block in self.blocks().iter().flatten() {
            for geometry in &block.branch {
                side_now = halved(side_now, geometry.stride);
                largest = largest.max(map(geometry.outputs, side_now));
                kept += 2 * map(geometry.outputs, side_now);
            }
            // What the shortcut's batch norm gives is added in place and not kept.
            kept += block.shortcut.map_or(0, |geometry| map(geometry.outputs, side_now));
        }
        (kept as u64, largest as u64)
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

/// Side of a map after a layer of this stride, whose padding keeps the size at stride 1.
fn halved(side: i64, stride: i64) -> i64 {
    (side + stride - 1) / stride
}

/// Where inside a network features are taken, named as in SimCLR's graph; all lie behind a `ReLU`.
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

/// A residual block, basic or bottleneck: convolutions with batch norms, `ReLU` between them and after the sum.
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

    /// The result of a batch norm is not needed by its backward, so the `ReLU` and the sum may overwrite it.
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

#[cfg(test)]
mod tests {
    use super::super::golden::{COEFFICIENT, Golden, TRAINING, fill, images, noise, parameters};
    use super::super::{Parameters, Statistics};
    use super::*;
    use std::collections::BTreeMap;
    use tch::Kind;

    fn config(name: Architecture, width: f64, stem: Stem) -> BackboneConfig {
        BackboneConfig {
            name,
            width,
            stem,
            initialization: BackboneInitialization::Kaiming,
            zero_init_residual: false,
            norm_group: 0,
        }
    }

    fn build(config: &BackboneConfig, kind: Kind) -> (Parameters, ResNet) {
        let mut parameters = parameters(kind);
        let network = ResNet::build(&mut parameters.root(), config).unwrap();
        (parameters, network)
    }

    #[test]
    fn networks_equal_torchvision_to_the_stored_digits() {
        for (name, architecture) in
            [("resnet18", Architecture::ResNet18), ("resnet50", Architecture::ResNet50)]
        {
            for (width, stem_name, stem, side) in [
                (0.125, "imagenet", Stem::ImageNet, 64),
                (0.125, "cifar", Stem::Cifar, 16),
                (1.0, "imagenet", Stem::ImageNet, 64),
            ] {
                let mut config = config(architecture, width, stem);
                config.initialization = BackboneInitialization::PyTorch; // the quickest to draw
                let (parameters, network) = build(&config, Kind::Double);
                fill(&parameters);
                let images = images([4, 3, side, side], Kind::Double);
                let forward = |phase| network.forward(&images, phase);
                let golden = Golden::open(&format!("{name}.{width}.{stem_name}"));
                golden.hold_evaluation(forward, 1e-6);
                golden.hold_training(&parameters, forward, 1e-6);
            }
        }
    }

    #[test]
    fn single_precision_stays_within_its_rounding_of_torchvision() {
        let config = config(Architecture::ResNet18, 1.0, Stem::ImageNet);
        let (parameters, network) = build(&config, Kind::Float);
        fill(&parameters);
        let images = images([4, 3, 64, 64], Kind::Float);
        let forward = |phase| network.forward(&images, phase);
        let golden = Golden::open("resnet18.1.imagenet");
        golden.hold_evaluation(forward, 1e-5);
        golden.hold_training(&parameters, forward, 1e-3);
    }

    #[test]
    fn names_are_those_of_torchvision_in_its_order() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/resnet_names.json");
        let text = std::fs::read_to_string(path).unwrap();
        let expected: BTreeMap<String, Vec<String>> = serde_json::from_str(&text).unwrap();
        for (name, architecture) in
            [("resnet18", Architecture::ResNet18), ("resnet50", Architecture::ResNet50)]
        {
            let (parameters, _) = build(&config(architecture, 0.125, Stem::ImageNet), Kind::Float);
            let names: Vec<_> = parameters.all().iter().map(|p| p.name.clone()).collect();
            assert_eq!(names, expected[name]);
        }
    }

    /// The counts of the published networks.
    #[test]
    fn parameter_counts_are_the_published_ones() {
        use Architecture::{ResNet18, ResNet34, ResNet50, ResNet101, ResNet152, ResNet200};
        for (name, width, stem, expected) in [
            (ResNet18, 1.0, Stem::ImageNet, 11_176_512),
            (ResNet18, 2.0, Stem::ImageNet, 44_668_032),
            (ResNet18, 4.0, Stem::ImageNet, 178_596_096),
            (ResNet18, 1.0, Stem::Cifar, 11_168_832),
            (ResNet34, 1.0, Stem::ImageNet, 21_284_672),
            (ResNet34, 2.0, Stem::ImageNet, 85_085_824),
            (ResNet34, 1.0, Stem::Cifar, 21_276_992),
            (ResNet50, 1.0, Stem::ImageNet, 23_508_032),
            (ResNet50, 2.0, Stem::ImageNet, 93_907_072),
            (ResNet50, 4.0, Stem::ImageNet, 375_378_176),
            (ResNet50, 1.0, Stem::Cifar, 23_500_352),
            (ResNet101, 1.0, Stem::ImageNet, 42_500_160),
            (ResNet101, 2.0, Stem::ImageNet, 169_771_136),
            (ResNet101, 4.0, Stem::ImageNet, 678_625_536),
            (ResNet101, 1.0, Stem::Cifar, 42_492_480),
            (ResNet152, 1.0, Stem::ImageNet, 58_143_808),
            (ResNet152, 2.0, Stem::ImageNet, 232_253_568),
            (ResNet152, 4.0, Stem::ImageNet, 928_370_944),
            (ResNet152, 1.0, Stem::Cifar, 58_136_128),
            (ResNet200, 1.0, Stem::ImageNet, 62_624_832),
        ] {
            let config = config(name, width, stem);
            assert_eq!(config.parameter_count(), expected, "{name:?} {width} {stem:?}");
        }
    }

    #[test]
    fn the_count_without_building_is_the_count_after_building() {
        for (name, width, stem) in [
            (Architecture::ResNet18, 0.25, Stem::Cifar),
            (Architecture::ResNet34, 0.3, Stem::ImageNet),
            (Architecture::ResNet101, 0.11, Stem::Cifar),
        ] {
            let config = config(name, width, stem);
            let (parameters, network) = build(&config, Kind::Float);
            assert_eq!(parameters.count() as u64, config.parameter_count());
            let features = network.forward(&images([2, 3, 16, 16], Kind::Float), Phase::Evaluation);
            assert_eq!(features.size(), [2, network.features()]);
        }
    }

    #[test]
    fn the_seed_fixes_the_network_and_the_start_its_size() {
        let mut config = config(Architecture::ResNet50, 0.125, Stem::Cifar);
        let values = |config: &BackboneConfig| -> Vec<Tensor> {
            build(config, Kind::Float).0.all().iter().map(|p| p.tensor.copy()).collect()
        };
        let first = values(&config);
        assert_eq!(first, values(&config));
        for initialization in [BackboneInitialization::SimClr, BackboneInitialization::PyTorch] {
            config.initialization = initialization;
            assert_ne!(first, values(&config));
        }
    }

    #[test]
    fn blocks_with_silent_branches_pass_their_input_through() {
        let mut config = config(Architecture::ResNet18, 0.125, Stem::Cifar);
        config.zero_init_residual = true;
        let (parameters, network) = build(&config, Kind::Float);
        let silent: Vec<_> = parameters
            .all()
            .iter()
            .filter(|p| {
                p.role == super::super::Role::NormScale && p.tensor.max().double_value(&[]) == 0.0
            })
            .map(|p| p.name.as_str())
            .collect();
        assert_eq!(silent.len(), 8);
        assert!(silent.iter().all(|name| name.ends_with("bn2.weight")), "{silent:?}");
        let wanted = [BlockGroup::Stem, BlockGroup::Group1];
        let images = images([2, 3, 16, 16], Kind::Float);
        let maps = network.forward_features(&images, &wanted, Phase::Evaluation);
        assert_eq!(maps[0], maps[1]);
    }

    #[test]
    fn maps_stay_channels_last_and_have_the_sizes_of_the_groups() {
        use BlockGroup::{Group1, Group2, Group3, Group4, Stem as First};
        for (stem, side, sides) in
            [(Stem::Cifar, 32, [32, 32, 16, 8, 4]), (Stem::ImageNet, 64, [16, 16, 8, 4, 2])]
        {
            for groups in [1, 2] {
                let (parameters, network) =
                    build(&config(Architecture::ResNet50, 0.125, stem), Kind::Float);
                let images = images([4, 3, side, side], Kind::Float);
                let phase = Phase::Training { groups, statistics: Statistics::Keep };
                network.check_input(&images, phase).unwrap();
                let wanted = [First, Group1, Group2, Group3, Group4];
                let maps = network.forward_features(&images, &wanted, phase);
                for ((map, side), channels) in maps.iter().zip(sides).zip([8, 32, 64, 128, 256]) {
                    assert_eq!(map.size(), [4, channels, side, side]);
                    assert_eq!(
                        map.stride(),
                        [channels * side * side, 1, channels * side, channels]
                    );
                    assert!(map.min().double_value(&[]) >= 0.0);
                }
                let features = network.forward(&images, phase);
                assert_eq!(maps[4].mean_dim([2, 3].as_slice(), false, None), features);
                let two = network.forward_features(&images, &[Group3, First], phase);
                assert_eq!((&two[0], &two[1]), (&maps[3], &maps[0]));
                features.sum(None).backward();
                for parameter in
                    parameters.trainable().filter(|p| p.tensor.dim() == 4 && p.tensor.size()[2] > 1)
                {
                    assert_eq!(parameter.tensor.grad().stride(), parameter.tensor.stride());
                }
            }
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let (parameters, network) =
            build(&config(Architecture::ResNet18, 1.0 / 32.0, Stem::Cifar), Kind::Double);
        fill(&parameters);
        let images = images([4, 3, 9, 9], Kind::Double);
        let phase = Phase::Training { groups: 2, statistics: Statistics::Keep };
        let loss = || {
            let features = network.forward(&images, phase);
            (&features * noise(COEFFICIENT, &features.size())).sum(None)
        };
        loss().backward();
        let step = 1e-6;
        for parameter in parameters.trainable() {
            let gradient = parameter.tensor.grad();
            let direction = noise(77, &gradient.size());
            let expected = (&gradient * &direction).sum(None).double_value(&[]);
            let moved = |by: f64| {
                tch::no_grad(|| {
                    let mut tensor = parameter.tensor.shallow_clone();
                    tensor += &direction * by;
                    let value = loss().double_value(&[]);
                    tensor -= &direction * by;
                    value
                })
            };
            let found = (moved(step) - moved(-step)) / (2.0 * step);
            let close = (found - expected).abs() <= 1e-5 * expected.abs().max(1.0);
            assert!(close, "{}: {found} against {expected}", parameter.name);
        }
    }

    #[test]
    fn unsuitable_images_and_settings_are_refused() {
        let (_, network) =
            build(&config(Architecture::ResNet18, 0.125, Stem::ImageNet), Kind::Float);
        let check = |shape, phase| network.check_input(&images(shape, Kind::Float), phase);
        assert!(check([1, 3, 33, 32], TRAINING).is_ok());
        assert!(check([1, 3, 32, 32], TRAINING).unwrap_err().to_string().contains("at least 2"));
        assert!(check([1, 3, 32, 32], Phase::Evaluation).is_ok());
        assert!(check([2, 1, 32, 32], TRAINING).is_err());
        for width in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-3, 65.0] {
            let config = config(Architecture::ResNet18, width, Stem::Cifar);
            let message = config.check().unwrap_err().to_string();
            assert!(message.contains("`backbone.width`"), "{message}");
        }
    }

    #[test]
    fn settings_are_read_with_defaults_and_unknown_ones_refused() {
        let read = |text: &str| toml::from_str::<BackboneConfig>(text);
        assert_eq!(
            read("name = 'resnet50'").unwrap(),
            config(Architecture::ResNet50, 1.0, Stem::ImageNet)
        );
        let full = "name = 'resnet18'\nwidth = 0.25\nstem = 'cifar'\ninitialization = 'simclr'\n\
                    zero_init_residual = true\nnorm_group = 8";
        let config = read(full).unwrap();
        assert_eq!(config.stem, Stem::Cifar);
        assert_eq!(read(&toml::to_string(&config).unwrap()).unwrap(), config);
        assert!(read("name = 'resnet19'").unwrap_err().to_string().contains("resnet18"));
        assert!(read("name = 'resnet18'\nwidht = 2").unwrap_err().to_string().contains("widht"));
    }
}
