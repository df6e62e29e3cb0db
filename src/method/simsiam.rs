//! `SimSiam`: exploring simple Siamese representation learning.
//!
//! **Paper.** Chen, He 2021, arXiv:2011.10566. Code: facebookresearch/simsiam.
//!
//! **Idea.** One view's prediction should be the other view's projection, which is taken as a constant. There are no
//! negatives and no momentum network; the stop-gradient and the predictor keep it from collapsing.
//!
//! **Symbols.** f backbone, h = f(x) features; g projector, z = g(h); q predictor, p = q(z); sg stop-gradient.
//! `L = -½ cos(p₁, sg z₂) - ½ cos(p₂, sg z₁)` (Eq. 2).
//!
//! **Deviations.** The projector's last linear layer has no bias: the batch norm behind it takes it away again (the official
//! code freezes it).
//!
//! **Cost.** A forward and backward pass for each of two views, of four with a guided stop-gradient.

use crate::error::{Error, Result};
use crate::method::group_branch::GroupBranch;
use crate::method::{
    Constant, Fits, Held, Method, Objective, Rows, Settings, Setup, Step, Wiring, passes,
    prediction,
};
use crate::model::heads::{Head, HeadConfig, HeadInitialization, OutputNorm};
use crate::model::resnet::ResNet;
use crate::model::{BackboneConfig, Parameters, Statistics};
use crate::plugin::Plugins;
use crate::plugin::guided_stop_gradient::GuidedStopGradient;
use crate::shape;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Settings of `SimSiam`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// g: three layers, the hidden ones as wide as the features (§4.4).
    pub projector: HeadConfig,
    /// q: a bottleneck of two layers that gives what g gives; `layers = 0` takes it away, which collapses (§4.2).
    pub predictor: HeadConfig,
    /// Whether z is taken as a constant; without it the network collapses (§4.1).
    pub stop_gradient: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { projector: projector(), predictor: predictor(2048), stop_gradient: true }
    }
}

/// The projector of the paper: 2048 dimensions, batch norm without scale and shift at its end.
fn projector() -> HeadConfig {
    HeadConfig {
        layers: 3,
        output: 2048,
        output_batch_norm: OutputNorm::Plain,
        initialization: HeadInitialization::PyTorch,
        ..HeadConfig::default()
    }
}

/// The predictor of the paper, giving `output` dimensions.
fn predictor(output: usize) -> HeadConfig {
    HeadConfig {
        hidden: Some(512),
        output,
        output_batch_norm: OutputNorm::None,
        initialization: HeadInitialization::PyTorch,
        ..HeadConfig::default()
    }
}

impl Settings for Config {
    fn wiring(&self, plugins: &Plugins, _views: usize) -> Wiring {
        Wiring::online(plugins.guided_stop_gradient.as_ref().map_or(2, GuidedStopGradient::views))
    }

    fn held(&self, backbone: &BackboneConfig, _: usize, _batch: usize, _images: usize) -> Held {
        let predictor = self.predictor.parameter_count(self.projector.output as i64);
        let heads = self.projector.parameter_count(backbone.features()) + predictor;
        Held { columns: 0, state: Held::TRAINED * heads }
    }

    fn fits(&self) -> Fits {
        Fits {
            feature_transformation: Ok(
                "(p, z) of each direction, extrapolated; there are no negatives",
            ),
            cross_level: Ok("on the features of the first two views"),
            guided_stop_gradient: Ok(
                "which view is predicted, by the distances of the projections",
            ),
        }
    }

    fn check(&self, plugins: &Plugins) -> Result<()> {
        self.projector.check("method.projector")?;
        self.predictor.check("method.predictor")?;
        prediction::check(&self.projector, &self.predictor, plugins)?;
        if !self.stop_gradient
            && (plugins.feature_transformation.is_some() || plugins.guided_stop_gradient.is_some())
        {
            return Err(Error::Recipe(
                "`method.stop_gradient = false` goes with neither feature transformation nor a guided stop-gradient, \
                 which take targets as constants"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

/// The networks of `SimSiam`.
pub struct SimSiam {
    parameters: Parameters,
    wiring: Wiring,
    backbone: ResNet,
    projector: Head,
    predictor: Head,
    group: Option<GroupBranch>,
    plugins: Plugins,
    config: Config,
}

impl SimSiam {
    pub(super) fn build(
        config: &Config,
        setup: &Setup<'_>,
        mut parameters: Parameters,
    ) -> Result<Self> {
        let (backbone, projector) =
            passes::encoder(&mut parameters.root(), setup.backbone, &config.projector)?;
        let predictor = Head::build(
            &mut parameters.root().at("predictor"),
            projector.outputs(),
            &config.predictor,
        )?;
        let plugins = setup.plugins.clone();
        let group = GroupBranch::build(&mut parameters, setup, &config.projector)?;
        let wiring = config.wiring(&plugins, setup.views);
        let config = config.clone();
        Ok(Self { parameters, wiring, backbone, projector, predictor, group, plugins, config })
    }
}

impl Method for SimSiam {
    fn wiring(&self) -> &Wiring {
        &self.wiring
    }

    fn embed(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor {
        passes::apart(&self.backbone, views, groups, statistics)
    }

    fn objective(&self, rows: &Rows, step: &Step<'_>) -> Result<Objective> {
        let views = self.wiring.online.len() as i64;
        shape::check("rows", &rows.online, &[views, -1, self.backbone.features()])?;
        let h = rows.online.detach().set_requires_grad(true);
        let taps = passes::heads_apart(&self.projector, &h); // each view by itself, [N, ·]
        let z = passes::outputs(&taps);
        let p = passes::head_apart(&self.predictor, &z);
        let found = prediction::loss(&p, &z, &self.plugins, self.config.stop_gradient, step)?;
        let (mut loss, mut scalars) = (found.loss, found.scalars);
        if let Some(group) = &self.group {
            let (more, told) = group.loss(&passes::two_views(&taps), step)?;
            loss += more;
            scalars.extend(told);
        }
        let objective = Objective::backward(&loss, &h, &Tensor::cat(&z, 0));
        Ok(objective.with(scalars).comparing(found.scores))
    }

    fn stuck_at(&self, _batch_size: usize) -> Option<Constant> {
        Some(Constant { value: -1.0, formula: "-1" }).filter(|_| self.group.is_none())
    }

    fn suspects(&self) -> Vec<&'static str> {
        let found = [
            (!self.config.stop_gradient, "`method.stop_gradient = false`"),
            (self.config.predictor.layers == 0, "`method.predictor.layers = 0`"),
        ];
        found.into_iter().filter_map(|(holds, name)| holds.then_some(name)).collect()
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn backbone(&self) -> &ResNet {
        &self.backbone
    }
}
