//! What a network is made of, before any tensor exists: counted here, built from the same list in the files beside.

use super::config::{BackboneConfig, Flavor, Stem};
use super::{BlockGroup, Frozen, GROUPS};
use crate::model::layers::Geometry;

/// All layers of a backbone.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) stem: StemPlan,
    /// The four groups of blocks.
    pub(crate) groups: Vec<Vec<BlockPlan>>,
}

/// Convolutions, each with batch norm and `ReLU`, then perhaps a 3×3 max-pool with stride 2.
#[derive(Debug)]
pub(crate) struct StemPlan {
    pub(crate) convolutions: Vec<Geometry>,
    /// Whether a `ReLU` is behind them.
    pub(crate) relu: bool,
    pub(crate) pool: Option<MaxPool>,
}

/// How the max-pool of the stem is padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MaxPool {
    /// One pixel on all sides.
    AllSides,
    /// TensorFlow's `SAME`: an even side is padded at its end only.
    Same,
}

/// A residual block.
#[derive(Debug)]
pub(crate) struct BlockPlan {
    /// In order; each gives a map behind a `ReLU`.
    pub(crate) branch: Vec<LayerPlan>,
    /// The convolution, with batch norm, that ends the branch; the sum and the last `ReLU` come behind it.
    pub(crate) last: Geometry,
    /// How the input is brought to the output's shape; `None` where it has it.
    pub(crate) shortcut: Option<ShortcutPlan>,
}

/// One layer of a residual branch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LayerPlan {
    /// A convolution with batch norm and `ReLU`.
    Convolution(Geometry),
    /// A selective kernel in place of such a 3×3 convolution.
    SelectiveKernel(SelectiveKernelPlan),
}

/// Shapes of a selective kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SelectiveKernelPlan {
    /// The 3×3 convolution whose outputs are the two candidates, 2F channels.
    pub(crate) split: Geometry,
    /// Width of the gate's hidden layer.
    pub(crate) hidden: i64,
}

/// A projection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShortcutPlan {
    pub(crate) pool: AveragePool,
    pub(crate) convolution: Geometry,
}

/// What comes before the convolution of a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AveragePool {
    /// Nothing: the convolution strides.
    Absent,
    /// Nothing at stride 1, in a network that pools at stride 2 (timm).
    Skipped,
    /// 2×2 with stride 1, over real pixels, the map keeping its size (TensorFlow's `SAME`).
    Same,
    /// 2×2 with stride 1, the map keeping its size; what hangs over its end counts as zeros.
    SameOverZeros,
    /// 2×2 with stride 2; what hangs over the edge of an odd map counts as zeros (TensorFlow).
    OverZeros,
    /// 2×2 with stride 2; what hangs over the edge of an odd map does not count (timm).
    OverPixels,
}

impl Plan {
    pub(crate) fn of(config: &BackboneConfig) -> Self {
        let mut inputs = config.channels(64);
        let mut groups = Vec::new();
        for (group, depth) in config.name.depths().into_iter().enumerate() {
            let inner = config.channels(64 << group);
            let outputs = config.channels((64 << group) * config.name.expansion());
            let mut blocks = Vec::new();
            for index in 0..depth {
                let stride = if group > 0 && index == 0 { 2 } else { 1 };
                let projects = stride != 1
                    || inputs != outputs
                    || (index == 0 && config.flavor != Flavor::Torchvision);
                let last_kernel = if config.name.expansion() == 1 { 3 } else { 1 };
                blocks.push(BlockPlan {
                    branch: branch(config, inputs, inner, stride),
                    last: Geometry::new(inner, outputs, last_kernel, 1),
                    shortcut: projects.then(|| shortcut(config, inputs, outputs, stride)),
                });
                inputs = outputs;
            }
            groups.push(blocks);
        }
        Self { stem: stem(config), groups }
    }

    pub(crate) fn parameter_count(&self) -> u64 {
        let stem: i64 = self.stem.convolutions.iter().map(with_norm).sum();
        let blocks: i64 = self.groups.iter().flatten().map(BlockPlan::parameter_count).sum();
        (stem + blocks) as u64
    }

    /// See [`BackboneConfig::activation_count`].
    pub(crate) fn activation_count(&self, side: i64, frozen: Frozen) -> (u64, u64) {
        let inputs = self.stem.convolutions[0].inputs;
        let mut count = Activations { side, kept: inputs * side * side, largest: 0 };
        for geometry in &self.stem.convolutions {
            count.convolve(geometry);
        }
        if let (Some(_), Some(last)) = (self.stem.pool, self.stem.convolutions.last()) {
            count.side = halved(count.side);
            // The max-pool keeps its result and, in 64 bits, where each came from.
            count.kept += 3 * last.outputs * count.side * count.side;
        }
        if let (true, Some(last)) = (frozen.holds(BlockGroup::Stem), self.stem.convolutions.last())
        {
            count.begin(last);
        }
        let groups = GROUPS.into_iter().zip(&self.groups);
        for (group, block) in
            groups.flat_map(|(group, blocks)| blocks.iter().map(move |b| (group, b)))
        {
            for layer in &block.branch {
                match layer {
                    LayerPlan::Convolution(geometry) => count.convolve(geometry),
                    LayerPlan::SelectiveKernel(kernel) => {
                        count.convolve(&kernel.split);
                        // The chosen map, and what the gate keeps: its input, hidden layer and weights.
                        let channels = kernel.split.outputs / 2;
                        count.kept += channels * count.side * count.side;
                        count.kept += 3 * channels + 2 * kernel.hidden;
                    }
                }
            }
            count.convolve(&block.last);
            if let Some(ShortcutPlan { pool, convolution }) = &block.shortcut {
                count.kept += convolution.inputs
                    * match pool {
                        AveragePool::Absent | AveragePool::Skipped => 0,
                        AveragePool::Same | AveragePool::SameOverZeros => (count.side + 1).pow(2),
                        AveragePool::OverZeros | AveragePool::OverPixels => count.side.pow(2),
                    };
                // What the shortcut's batch norm gives is added in place and not kept.
                count.kept += convolution.outputs * count.side * count.side;
            }
            if frozen.holds(group) {
                count.begin(&block.last);
            }
        }
        (count.kept as u64, count.largest as u64)
    }

    /// See [`BackboneConfig::multiply_adds`].
    pub(crate) fn multiply_adds(&self, side: i64, frozen: Frozen) -> MultiplyAdds {
        let (mut found, mut begins) = (MultiplyAdds::default(), true);
        for Convolutions { part, branch, shortcut } in self.convolutions(side) {
            let each = |(g, side): &(Geometry, i64)| (g.weights() * side * side) as u64;
            let sum: u64 = branch.iter().chain(&shortcut).map(each).sum();
            found.forward += sum;
            if !frozen.holds(part) {
                found.trained += sum;
                found.inputs += sum;
                if std::mem::take(&mut begins) {
                    // Images, and what a frozen part gives, need no gradient.
                    let taking = branch.first().into_iter().chain(&shortcut);
                    found.inputs -= taking.map(each).sum::<u64>();
                }
            }
        }
        found
    }

    /// The convolutions of the stem and of every block.
    fn convolutions(&self, mut side: i64) -> Vec<Convolutions> {
        let mut stem = Vec::new();
        for geometry in &self.stem.convolutions {
            side = geometry.side(side);
            stem.push((*geometry, side));
        }
        if self.stem.pool.is_some() {
            side = halved(side);
        }
        let mut parts = vec![Convolutions { part: BlockGroup::Stem, branch: stem, shortcut: None }];
        for (group, blocks) in GROUPS.into_iter().zip(&self.groups) {
            for block in blocks {
                let mut found = Vec::new();
                for layer in &block.branch {
                    match layer {
                        LayerPlan::Convolution(geometry) => {
                            side = geometry.side(side);
                            found.push((*geometry, side));
                        }
                        LayerPlan::SelectiveKernel(kernel) => {
                            side = kernel.split.side(side);
                            found.push((kernel.split, side));
                            // The gate works on averages over whole maps.
                            found.extend([(kernel.squeeze(), 1), (kernel.select(), 1)]);
                        }
                    }
                }
                found.push((block.last, side));
                // What a block takes in by its shortcut it gives out at the branch's size.
                let shortcut = block.shortcut.map(|shortcut| (shortcut.convolution, side));
                parts.push(Convolutions { part: group, branch: found, shortcut });
            }
        }
        parts
    }

    /// Fewest values per channel and image that a batch norm sees, images being `side` × `side` pixels.
    pub(crate) fn fewest_values(&self, side: i64) -> i64 {
        let branches = self.groups.iter().flatten().flat_map(|block| &block.branch);
        let mut side = self.stem.convolutions.iter().fold(side, |side, g| g.side(side));
        if self.stem.pool.is_some() {
            side = halved(side);
        }
        let mut fewest = side * side;
        for layer in branches {
            match layer {
                LayerPlan::Convolution(geometry) => side = geometry.side(side),
                // Its gate normalises averages over whole maps.
                LayerPlan::SelectiveKernel(_) => return 1,
            }
            fewest = fewest.min(side * side);
        }
        fewest
    }
}

/// Convolutions of the stem or of a block, each with the side of its output.
struct Convolutions {
    part: BlockGroup,
    /// In their order; the first takes in what the part takes in.
    branch: Vec<(Geometry, i64)>,
    /// It takes in the same, where there is one.
    shortcut: Option<(Geometry, i64)>,
}

/// Multiplications, each with its addition, in the convolutions of one image's passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MultiplyAdds {
    /// Of a forward pass.
    pub forward: u64,
    /// Of the gradients of all kernels that are trained.
    pub trained: u64,
    /// Of the gradients of what these convolutions take in, less the first, whose input needs none.
    pub inputs: u64,
}

/// Running total of [`Plan::activation_count`].
struct Activations {
    side: i64,
    kept: i64,
    largest: i64,
}

impl Activations {
    /// Nothing so far is kept but this convolution's result, as what follows takes it in.
    fn begin(&mut self, last: &Geometry) {
        self.kept = last.outputs * self.side * self.side;
    }

    /// A convolution, whose result its batch norm keeps, and the `ReLU` behind, whose result what follows keeps.
    fn convolve(&mut self, geometry: &Geometry) {
        self.side = geometry.side(self.side);
        let map = geometry.outputs * self.side * self.side;
        self.kept += 2 * map;
        self.largest = self.largest.max(map);
    }
}

impl StemPlan {
    /// Names of each convolution and its batch norm; those of timm where there are three.
    pub(crate) fn names(&self) -> &'static [[&'static str; 2]] {
        match self.convolutions.len() {
            1 => &[["conv1", "bn1"]],
            _ => &[["conv1.0", "conv1.1"], ["conv1.3", "conv1.4"], ["conv1.6", "bn1"]],
        }
    }
}

impl ShortcutPlan {
    /// Names of the convolution and its batch norm; in networks that pool, as in timm, the pool has the number before.
    pub(crate) fn names(&self) -> [&'static str; 2] {
        if self.pool == AveragePool::Absent { ["0", "1"] } else { ["1", "2"] }
    }
}

impl BlockPlan {
    fn parameter_count(&self) -> i64 {
        let branch: i64 = self
            .branch
            .iter()
            .map(|layer| match layer {
                LayerPlan::Convolution(geometry) => with_norm(geometry),
                LayerPlan::SelectiveKernel(kernel) => {
                    with_norm(&kernel.split)
                        + with_norm(&kernel.squeeze())
                        + kernel.select().weights()
                }
            })
            .sum();
        branch
            + with_norm(&self.last)
            + self.shortcut.map_or(0, |shortcut| with_norm(&shortcut.convolution))
    }
}

impl SelectiveKernelPlan {
    /// The gate's first layer.
    pub(crate) fn squeeze(&self) -> Geometry {
        Geometry::new(self.split.outputs / 2, self.hidden, 1, 1)
    }

    /// The gate's second layer, which no batch norm follows.
    pub(crate) fn select(&self) -> Geometry {
        Geometry::new(self.hidden, self.split.outputs, 1, 1)
    }
}

/// Weights of a convolution and of its batch norm.
fn with_norm(geometry: &Geometry) -> i64 {
    geometry.weights() + 2 * geometry.outputs
}

fn stem(config: &BackboneConfig) -> StemPlan {
    let (half, full) = (config.channels(32), config.channels(64));
    let inputs = config.input_channels;
    let convolutions = match config.stem {
        Stem::ImageNet => vec![Geometry::new(inputs, full, 7, 2)],
        Stem::Cifar | Stem::CifarNoRelu => vec![Geometry::new(inputs, full, 3, 1)],
        Stem::CifarPad2 => vec![Geometry { padding: 2, ..Geometry::new(inputs, full, 3, 1) }],
        Stem::ResNetD => vec![
            Geometry::new(inputs, half, 3, 2),
            Geometry::new(half, half, 3, 1),
            Geometry::new(half, full, 3, 1),
        ],
    };
    let pool = match (config.stem, config.flavor) {
        (Stem::Cifar | Stem::CifarPad2 | Stem::CifarNoRelu, _) => None,
        (_, Flavor::Torchvision | Flavor::SimclrConverter) => Some(MaxPool::AllSides),
        (_, Flavor::SimclrTf) => Some(MaxPool::Same),
    };
    StemPlan { convolutions, relu: config.stem != Stem::CifarNoRelu, pool }
}

/// The residual branch of a block, but for its last convolution.
fn branch(config: &BackboneConfig, inputs: i64, inner: i64, stride: i64) -> Vec<LayerPlan> {
    if config.name.expansion() == 1 {
        return vec![LayerPlan::Convolution(Geometry::new(inputs, inner, 3, stride))];
    }
    let middle = if config.sk_ratio > 0.0 {
        LayerPlan::SelectiveKernel(SelectiveKernelPlan {
            split: Geometry::new(inner, 2 * inner, 3, stride),
            hidden: ((inner as f64 * config.sk_ratio) as i64).max(32),
        })
    } else {
        LayerPlan::Convolution(Geometry::new(inner, inner, 3, stride))
    };
    vec![LayerPlan::Convolution(Geometry::new(inputs, inner, 1, 1)), middle]
}

fn shortcut(config: &BackboneConfig, inputs: i64, outputs: i64, stride: i64) -> ShortcutPlan {
    let pools = config.stem == Stem::ResNetD || config.sk_ratio > 0.0;
    let pool = match (config.flavor, stride) {
        _ if !pools => AveragePool::Absent,
        (Flavor::Torchvision, 1) => AveragePool::Skipped,
        (Flavor::Torchvision, _) => AveragePool::OverPixels,
        (Flavor::SimclrTf, 1) => AveragePool::Same,
        (Flavor::SimclrConverter, 1) => AveragePool::SameOverZeros,
        (Flavor::SimclrTf | Flavor::SimclrConverter, _) => AveragePool::OverZeros,
    };
    let stride = if pools { 1 } else { stride };
    ShortcutPlan { pool, convolution: Geometry::new(inputs, outputs, 1, stride) }
}

/// Side of a map after a pool with stride 2.
fn halved(side: i64) -> i64 {
    (side + 1) / 2
}
