//! BYOL: bootstrap your own latent.
//!
//! **Paper.** Grill et al. 2020, arXiv:2006.07733. Code: google-deepmind/deepmind-research, `byol/`.
//!
//! **Idea.** An online network predicts, from one view, what a target network makes of the other. The target follows the
//! online network as a moving average.
//!
//! **Symbols.** f, g, q online backbone, projector, predictor; f′, g′ target; p = q(g(f(x))); z′ = g′(f′(x)); m momentum.
//! `L = ‖p̂₁ - ẑ′₂‖² + ‖p̂₂ - ẑ′₁‖²`, mean over the images.
//!
//! **Deviations.** Linear layers before a batch norm have no bias, which would have no effect. Both networks start equal; in the official code the
//! target starts from a draw of its own (`target_start = "own"`).
//!
//! **Cost.** A forward and backward pass of the online network for each of two views and a forward pass of the target
//! network for each, of four views with a guided stop-gradient.

use crate::error::Result;
use crate::loss::cosine::Scale;
use crate::method::group_branch::GroupBranch;
use crate::method::momentum::{self, Momentum, MomentumSchedule};
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
use tch::{Tensor, no_grad};

/// Settings of BYOL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// g.
    pub projector: HeadConfig,
    /// q, which gives what g gives.
    pub predictor: HeadConfig,
    /// m at the start, in [0, 1]: 0.996 for 1000 epochs, 0.99 for 100 and 300.
    pub momentum: f64,
    /// How m changes: up to 1 (BYOL), or not at all (lightly on CIFAR-10, and the guided stop-gradient's code).
    pub momentum_schedule: MomentumSchedule,
    /// What m is at the end, in [0, 1], where it changes.
    pub momentum_end: f64,
    /// Where the target network starts.
    pub target_start: TargetStart,
    /// How the two directions become one number.
    pub scale: Scale,
}

/// Where a target network starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetStart {
    /// Equal to the online network.
    #[default]
    Copy,
    /// From initial weights of its own (the official code); equal where the online network begins with weights of another.
    Own,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            projector: perceptron(),
            predictor: perceptron(),
            momentum: 0.996,
            momentum_schedule: MomentumSchedule::Cosine,
            momentum_end: 1.0,
            target_start: TargetStart::default(),
            scale: Scale::default(),
        }
    }
}

/// Projector and predictor of the paper: 4096 hidden dimensions, 256 out, without a bias.
fn perceptron() -> HeadConfig {
    HeadConfig {
        hidden: Some(4096),
        output: 256,
        output_batch_norm: OutputNorm::None,
        bias: false,
        initialization: HeadInitialization::PyTorch,
        ..HeadConfig::default()
    }
}

impl Settings for Config {
    fn wiring(&self, plugins: &Plugins, _views: usize) -> Wiring {
        let views = plugins.guided_stop_gradient.as_ref().map_or(2, GuidedStopGradient::views);
        Wiring { targets: (0..views).collect(), ..Wiring::online(views) }
    }

    fn held(&self, backbone: &BackboneConfig, _: usize, _batch: usize, _images: usize) -> Held {
        let projector = self.projector.parameter_count(backbone.features());
        let predictor = self.predictor.parameter_count(self.projector.output as i64);
        let follows = backbone.parameter_count() + projector;
        Held { columns: 0, state: follows + Held::TRAINED * (projector + predictor) }
    }

    fn fits(&self) -> Fits {
        Fits {
            feature_transformation: Ok(
                "(p, z′) of each direction, extrapolated; there are no negatives",
            ),
            cross_level: Ok("on the online features of the first two views"),
            guided_stop_gradient: Ok(
                "which view is predicted, by the distances of the target projections",
            ),
        }
    }

    fn check(&self, plugins: &Plugins) -> Result<()> {
        self.projector.check("method.projector")?;
        self.predictor.check("method.predictor")?;
        self.momentum_schedule.check([self.momentum, self.momentum_end])?;
        prediction::check(&self.projector, &self.predictor, plugins)
    }
}

/// The networks of BYOL.
pub struct Byol {
    parameters: Parameters,
    wiring: Wiring,
    backbone: ResNet,
    projector: Head,
    predictor: Head,
    target_backbone: ResNet,
    target_projector: Head,
    momentum: Momentum,
    group: Option<GroupBranch>,
    plugins: Plugins,
    config: Config,
}

impl Byol {
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
        let mut root = parameters.root();
        let mut place = root.at(momentum::PLACE).frozen();
        let (target_backbone, target_projector) =
            passes::encoder(&mut place, setup.backbone, &config.projector)?;
        let momentum = Momentum::new(&parameters, config.target_start == TargetStart::Copy);
        Ok(Self {
            wiring: config.wiring(&plugins, setup.views),
            config: config.clone(),
            parameters,
            backbone,
            projector,
            predictor,
            target_backbone,
            target_projector,
            momentum,
            group,
            plugins,
        })
    }

    fn momentum_at(&self, step: &Step<'_>) -> f64 {
        let ends = [self.config.momentum, self.config.momentum_end];
        self.config.momentum_schedule.at(ends, step.progress())
    }
}

impl Method for Byol {
    fn wiring(&self) -> &Wiring {
        &self.wiring
    }

    fn embed(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor {
        passes::apart(&self.backbone, views, groups, statistics)
    }

    fn targets(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor {
        passes::apart(&self.target_backbone, views, groups, statistics)
    }

    fn objective(&self, rows: &Rows, step: &Step<'_>) -> Result<Objective> {
        let shape = [self.wiring.online.len() as i64, -1, self.backbone.features()];
        let targets = rows.targets()?;
        shape::check("rows", &rows.online, &shape)?;
        shape::check("target rows", targets, &shape)?;
        let h = rows.online.detach().set_requires_grad(true);
        let taps = passes::heads_apart(&self.projector, &h);
        let z = passes::outputs(&taps);
        let p = passes::head_apart(&self.predictor, &z);
        let target_rows: Vec<Tensor> = targets.unbind(0);
        let z_target = no_grad(|| passes::head_apart(&self.target_projector, &target_rows));
        let found = prediction::loss(&p, &z_target, &self.plugins, true, step)?;
        let (mut loss, mut scalars) = (self.config.scale.of(&found.loss), found.scalars);
        if let Some(group) = &self.group {
            let (more, told) = group.loss(&passes::two_views(&taps), step)?;
            loss += more;
            scalars.extend(told);
        }
        scalars.push(("momentum", self.momentum_at(step)));
        let objective = Objective::backward(&loss, &h, &Tensor::cat(&z, 0));
        Ok(objective.with(scalars).comparing(found.scores))
    }

    fn after_step(&self, _carried: &[Tensor], step: &Step<'_>) {
        self.momentum.update(self.momentum_at(step));
    }

    /// A target that begins with a draw of its own would know nothing of the weights that are begun with.
    fn inherited(&self) {
        self.momentum.copy();
    }

    fn stuck_at(&self, _batch_size: usize) -> Option<Constant> {
        let constant = match self.config.scale {
            Scale::Official => Constant { value: 0.0, formula: "0" },
            Scale::CosineHalf => Constant { value: -1.0, formula: "-1" },
        };
        Some(constant).filter(|_| self.group.is_none())
    }

    fn suspects(&self) -> Vec<&'static str> {
        let found = [
            (self.config.predictor.layers == 0, "`method.predictor.layers = 0`"),
            (self.config.momentum == 0.0, "`method.momentum = 0`"),
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
