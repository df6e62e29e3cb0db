//! SimCLR: a simple framework for contrastive learning of visual representations.
//!
//! **Paper.** Chen, Kornblith, Norouzi, Hinton 2020, arXiv:2002.05709; SimCLRv2: Chen, Kornblith, Swersky, Norouzi,
//! Hinton 2020, arXiv:2006.10029 (a deeper projector).
//!
//! **Idea.** Two random views of one image should be closer to each other than to the views of all other images of the
//! batch.
//!
//! **Symbols.** x̃ᵢ, x̃ⱼ views; f backbone, h = f(x̃) features `[2N, F]`; g projector, z = g(h) projections `[2N, d]`; τ
//! temperature.
//!
//! **Deviations.** The loss is the mean over the 2N anchors as in the paper (Eq. 1, Algorithm 1); the authors' code sums
//! the two per-view means (`reduction = "simclr_sum"`).
//!
//! **Cost.** One forward and backward pass of the backbone over 2N views; with micro-batches a second forward pass.

use crate::error::Result;
use crate::loss::attach;
use crate::loss::nt_xent::{NtXent, Reduction};
use crate::method::{
    Constant, Held, Method, Objective, Rows, Settings, Setup, Step, Wiring, passes, require,
};
use crate::model::heads::{Head, HeadConfig};
use crate::model::resnet::ResNet;
use crate::model::{BackboneConfig, Parameters, Phase, Statistics};
use crate::shape;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Settings of SimCLR.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// τ, above 0: 0.1 for ImageNet, 0.5 for CIFAR (§B.9).
    pub temperature: f64,
    /// How the anchors' losses are summed up.
    pub reduction: Reduction,
    /// g.
    pub projector: HeadConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self { temperature: 0.5, reduction: Reduction::default(), projector: HeadConfig::default() }
    }
}

const VIEWS: usize = 2;

impl Settings for Config {
    fn wiring(&self, _views: usize) -> Wiring {
        Wiring::online(VIEWS)
    }

    fn held(&self, _: &BackboneConfig, views: usize, batch: usize, _images: usize) -> Held {
        Held { columns: views * batch, state: 0 }
    }

    fn check(&self) -> Result<()> {
        let fits = self.temperature.is_finite() && self.temperature > 0.0;
        require(fits, "method.temperature", "above 0", self.temperature)?;
        self.projector.check("method.projector")
    }
}

/// The networks of SimCLR.
pub struct SimClr {
    parameters: Parameters,
    wiring: Wiring,
    backbone: ResNet,
    projector: Head,
    loss: NtXent,
}

impl SimClr {
    pub(super) fn build(
        config: &Config,
        setup: &Setup<'_>,
        mut parameters: Parameters,
    ) -> Result<Self> {
        let backbone = ResNet::build(&mut parameters.root().at("backbone"), setup.backbone)?;
        let features = backbone.features();
        let projector =
            Head::build(&mut parameters.root().at("projector"), features, &config.projector)?;
        let loss = NtXent { temperature: config.temperature, reduction: config.reduction };
        let wiring = config.wiring(setup.views);
        Ok(Self { parameters, wiring, backbone, projector, loss })
    }
}

impl Method for SimClr {
    fn wiring(&self) -> &Wiring {
        &self.wiring
    }

    fn embed(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor {
        passes::together(&self.backbone, views, groups, statistics)
    }

    fn objective(&self, rows: &Rows, step: &Step<'_>) -> Result<Objective> {
        shape::check("rows", &rows.online, &[VIEWS as i64, -1, self.backbone.features()])?;
        let h = rows.online.detach().set_requires_grad(true);
        let statistics = Statistics::Move { seen: 0, of: 1 };
        let z = self.projector.forward(&h.flatten(0, 1), Phase::Training { groups: 1, statistics }); // [2N, d]
        let contrast = self.loss.evaluate(&z.detach(), step.tile_rows)?;
        let loss = attach(contrast.loss, &[(&z, &contrast.gradient)]);
        Ok(Objective::backward(&loss, &h, &z).with([
            ("contrastive_accuracy", contrast.contrastive_accuracy),
            ("contrastive_entropy", contrast.contrastive_entropy),
            ("positive_similarity", contrast.positive_similarity),
            ("negative_similarity", contrast.negative_similarity),
        ]))
    }

    fn stuck_at(&self, batch_size: usize) -> Option<Constant> {
        let mean = (2.0 * batch_size as f64 - 1.0).ln();
        Some(match self.loss.reduction {
            Reduction::Mean2n => Constant { value: mean, formula: "ln(2N - 1)" },
            Reduction::SimclrSum => Constant { value: 2.0 * mean, formula: "2 ln(2N - 1)" },
        })
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn backbone(&self) -> &ResNet {
        &self.backbone
    }
}
