//! Residual networks (He et al. 2016) with torchvision's layout and names, any width, stems for large and small images,
//! and the selective kernels of SimCLRv2.

mod block;
mod config;
mod frozen;
mod names;
pub(crate) mod plan;
mod selective_kernel;
mod stem;
#[cfg(test)]
mod tests;
mod unit;

use super::{Phase, Place};
use crate::error::Result;
use block::Block;
pub use config::{Architecture, BackboneConfig, BackboneInitialization, Flavor, Stem};
pub use frozen::Frozen;
pub use plan::MultiplyAdds;
use serde::{Deserialize, Serialize};
use stem::StemLayers;
use tch::{Kind, Tensor};

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

/// A residual network on named tensors. Names are torchvision's (`layer2.0.downsample.0.weight`), timm's where
/// torchvision has no such layer (`conv1.0.weight`, `layer2.0.downsample.1.weight`), and ours for selective kernels
/// (`layer2.0.sk.split.weight`); there is no classifier and no `num_batches_tracked`.
///
/// Feed it images in channels-last order: every map inside then stays so, which convolutions are fastest in.
///
/// [`Self::forward`] and [`Self::forward_features`] panic if the rows do not suit the normalisation groups of the phase
/// or a group leaves a batch norm a single value per channel; [`BackboneConfig::check_images`] tells beforehand.
#[derive(Debug)]
pub struct ResNet {
    stem: StemLayers,
    groups: Vec<Vec<Block>>,
    frozen: Frozen,
    input_channels: i64,
    features: i64,
}

impl ResNet {
    /// Makes the network, its tensors directly below `place`.
    ///
    /// # Errors
    /// As [`BackboneConfig::check`].
    pub fn build(place: &mut Place<'_>, config: &BackboneConfig) -> Result<Self> {
        Self::build_frozen(place, config, Frozen::Nothing)
    }

    /// As [`Self::build`], a network of which a part stays: no optimizer moves its tensors, and a training pass goes
    /// through it in evaluation mode and without a graph.
    ///
    /// # Errors
    /// As [`BackboneConfig::check`].
    pub fn build_frozen(
        place: &mut Place<'_>,
        config: &BackboneConfig,
        frozen: Frozen,
    ) -> Result<Self> {
        config.check()?;
        place.set_norm_momentum(config.norm_momentum);
        let plan = config.plan();
        let start = config.initialization.into();
        let last_scale = if config.zero_init_residual { 0.0 } else { 1.0 };
        let mut below = place.frozen_if(frozen.holds(BlockGroup::Stem));
        let stem = StemLayers::build(&mut below, &plan.stem, start);
        let mut groups = Vec::new();
        for (group, plans) in GROUPS.into_iter().zip(&plan.groups) {
            let mut place = place.frozen_if(frozen.holds(group));
            let mut place = place.at(format!("layer{}", group as usize));
            let blocks = plans
                .iter()
                .enumerate()
                .map(|(index, plan)| Block::build(&mut place.at(index), plan, start, last_scale))
                .collect();
            groups.push(blocks);
        }
        let (input_channels, features) = (config.input_channels, config.features());
        Ok(Self { stem, groups, frozen, input_channels, features })
    }

    /// How a part goes through a pass of this phase: in evaluation where it is frozen.
    fn phase(&self, part: BlockGroup, phase: Phase) -> Phase {
        if self.frozen.holds(part) { Phase::Evaluation } else { phase }
    }

    /// Channels of the images it takes.
    pub fn input_channels(&self) -> i64 {
        self.input_channels
    }

    /// Number F of features.
    pub fn features(&self) -> i64 {
        self.features
    }

    /// Images `[N,3,h,w]` to features h `[N,F]`, the average of the last map. Images in bfloat16 keep all maps in it; the
    /// features are f32 then.
    pub fn forward(&self, images: &Tensor, phase: Phase) -> Tensor {
        let mut x = self.stem.forward(images, self.phase(BlockGroup::Stem, phase));
        for (group, blocks) in GROUPS.into_iter().zip(&self.groups) {
            for block in blocks {
                x = block.forward(&x, self.phase(group, phase));
            }
        }
        let features = (x.kind() == Kind::BFloat16).then_some(Kind::Float);
        x.mean_dim([2, 3].as_slice(), false, features)
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
        let mut maps = vec![self.stem.forward(images, self.phase(BlockGroup::Stem, phase))];
        for (group, blocks) in GROUPS.iter().zip(&self.groups).filter(|(group, _)| *group <= last) {
            let mut x = maps[maps.len() - 1].shallow_clone();
            for block in blocks {
                x = block.forward(&x, self.phase(*group, phase));
            }
            maps.push(x);
        }
        groups.iter().map(|group| maps[*group as usize].shallow_clone()).collect()
    }
}
