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

use crate::error::{Error, Result};
use crate::loss::nt_xent::{NtXent, Reduction};
use crate::method::{Constant, Method, Objective, Step};
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

/// Views per image.
pub(super) const VIEWS: usize = 2;

impl Config {
    pub(super) fn check(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(Error::Recipe(format!(
                "`method.temperature` must be above 0, found `{}`",
                self.temperature
            )));
        }
        self.projector.check("method.projector")
    }
}

/// The networks of SimCLR.
pub struct SimClr {
    parameters: Parameters,
    backbone: ResNet,
    projector: Head,
    loss: NtXent,
}

impl SimClr {
    pub(super) fn build(
        config: &Config,
        backbone: &BackboneConfig,
        mut parameters: Parameters,
    ) -> Result<Self> {
        let backbone = ResNet::build(&mut parameters.root().at("backbone"), backbone)?;
        let features = backbone.features();
        let projector =
            Head::build(&mut parameters.root().at("projector"), features, &config.projector)?;
        let loss = NtXent { temperature: config.temperature, reduction: config.reduction };
        Ok(Self { parameters, backbone, projector, loss })
    }
}

impl Method for SimClr {
    fn views(&self) -> usize {
        VIEWS
    }

    fn embed(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor {
        let (v, n) = (views.len() as i64, views[0].size()[0]);
        // All views of a group's images next to each other: batch norm sees both (§2.1, global batch norm).
        let per_group = n / groups;
        let x: Vec<Tensor> = (0..groups)
            .flat_map(|group| views.iter().map(move |x| x.narrow(0, group * per_group, per_group)))
            .collect();
        let x = if let [one] = x.as_slice() { one.shallow_clone() } else { Tensor::cat(&x, 0) };
        let h = self.backbone.forward(&x, Phase::Training { groups, statistics }); // [groups·V·per_group, F]
        h.view([groups, v, per_group, -1]).permute([1, 0, 2, 3]).reshape([v, n, -1])
    }

    fn objective(&self, rows: &Tensor, step: &Step) -> Result<Objective> {
        shape::check("rows", rows, &[VIEWS as i64, -1, self.backbone.features()])?;
        let h = rows.detach().set_requires_grad(true);
        let statistics = Statistics::Move { seen: 0, of: 1 };
        let z = self.projector.forward(&h.flatten(0, 1), Phase::Training { groups: 1, statistics }); // [2N, d]
        let contrast = self.loss.evaluate(&z.detach(), step.tile_rows)?;
        (&z * &contrast.gradient).sum(None).backward();
        Ok(Objective {
            loss: contrast.loss,
            rows_gradient: h.grad(),
            projections: z.detach(),
            scalars: [
                ("contrastive_accuracy", contrast.contrastive_accuracy),
                ("contrastive_entropy", contrast.contrastive_entropy),
                ("positive_similarity", contrast.positive_similarity),
                ("negative_similarity", contrast.negative_similarity),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        })
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
