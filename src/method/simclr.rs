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
//! **Losses.** NT-Xent is SimCLR's own. The others are those it was compared with, or that were put in its place since:
//! `method.loss.name` = `nt_xent`, `decoupled` (DCL, DCLW: Yeh et al. 2022), `nt_logistic` and `margin_triplet` (the
//! paper's Table 2), `generalized` (Chen, Luo, Li 2021).
//!
//! **Deviations.** NT-Xent is the mean over the 2N anchors as in the paper (Eq. 1, Algorithm 1); the authors' code sums
//! the two per-view means (`reduction = "simclr_sum"`).
//!
//! **Cost.** One forward and backward pass of the backbone over 2N views; with micro-batches a second forward pass.

use crate::error::{Error, Result};
use crate::loss::nt_xent::{NtXent, similarities};
use crate::loss::two_views::{Loss, Said};
use crate::method::compared::{Compared, Excluded, Negatives, Scores};
use crate::method::group_branch::GroupBranch;
use crate::method::{
    Constant, Fits, Held, Method, Objective, Rows, Settings, Setup, Step, Wiring, passes, require,
};
use crate::model::heads::{Head, HeadConfig};
use crate::model::resnet::ResNet;
use crate::model::{BackboneConfig, Parameters, Phase, Statistics};
use crate::plugin::Plugins;
use crate::plugin::feature_transformation::FeatureTransformation;
use crate::random::Purpose;
use crate::rows::unit_rows;
use crate::shape;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Settings of SimCLR.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// τ, above 0: 0.1 for ImageNet, 0.5 for CIFAR (§B.9). Margin triplet and sliced Wasserstein distances have none
    /// but log their metrics with it.
    pub temperature: f64,
    /// What is made of the projections.
    pub loss: Loss,
    /// g.
    pub projector: HeadConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self { temperature: 0.5, loss: Loss::default(), projector: HeadConfig::default() }
    }
}

const VIEWS: usize = 2;

impl Settings for Config {
    fn wiring(&self, _plugins: &Plugins, _views: usize) -> Wiring {
        Wiring::online(VIEWS)
    }

    fn held(&self, backbone: &BackboneConfig, views: usize, batch: usize, _images: usize) -> Held {
        let head = self.projector.parameter_count(backbone.features());
        Held { columns: views * batch, state: Held::TRAINED * head }
    }

    fn fits(&self) -> Fits {
        Fits {
            feature_transformation: Ok(
                "each pair of projections extrapolated, all rows mixed among each other as negatives (loss `nt_xent`)",
            ),
            cross_level: Ok("on the features of both views"),
            guided_stop_gradient: Err(
                "both views are compared with negatives and neither is a constant: there is no stop-gradient to guide",
            ),
        }
    }

    fn check(&self, plugins: &Plugins) -> Result<()> {
        let fits = self.temperature.is_finite() && self.temperature > 0.0;
        require(fits, "method.temperature", "above 0", self.temperature)?;
        self.loss.check("method.loss")?;
        if plugins.feature_transformation.is_some() && !matches!(self.loss, Loss::NtXent(_)) {
            return Err(Error::Recipe(
                "`plugins.feature_transformation` goes with `method.loss.name = \"nt_xent\"` alone: for the others no \
                 source says what is mixed"
                    .to_owned(),
            ));
        }
        self.projector.check("method.projector")
    }
}

/// The networks of SimCLR.
pub struct SimClr {
    parameters: Parameters,
    wiring: Wiring,
    backbone: ResNet,
    projector: Head,
    group: Option<GroupBranch>,
    mixing: Option<FeatureTransformation>,
    config: Config,
}

impl SimClr {
    pub(super) fn build(
        config: &Config,
        setup: &Setup<'_>,
        mut parameters: Parameters,
    ) -> Result<Self> {
        let (backbone, projector) =
            passes::encoder(&mut parameters.root(), setup.backbone, &config.projector)?;
        let group = GroupBranch::build(&mut parameters, setup, &config.projector)?;
        Ok(Self {
            wiring: config.wiring(setup.plugins, setup.views),
            mixing: setup.plugins.feature_transformation.clone(),
            config: config.clone(),
            parameters,
            backbone,
            projector,
            group,
        })
    }

    /// The loss of projections `[2N, d]`.
    fn loss(&self, z: &Tensor, step: &Step<'_>) -> Result<(Said, Scores)> {
        let (temperature, tile) = (self.config.temperature, step.tile_rows);
        let mixing = self.mixing.as_ref();
        let mut scores = Scores::in_batch(z, temperature, Excluded::OwnPair);
        match (mixing.filter(|mixing| mixing.active(step.epoch() as u32)), &self.config.loss) {
            (Some(mixing), Loss::NtXent(settings)) => {
                let loss = NtXent { temperature, reduction: settings.reduction };
                let (said, compared) = mixed(&loss, mixing, z, step)?;
                scores.transformed.push(compared);
                Ok((said, scores))
            }
            (_, loss) => {
                let mut slices = step.stream(Purpose::Slices, 0);
                Ok((loss.evaluate(z, temperature, tile, &mut slices)?, scores))
            }
        }
    }
}

/// NT-Xent of transformed features; what is logged are the scores it sees.
fn mixed(
    loss: &NtXent,
    mixing: &FeatureTransformation,
    z: &Tensor,
    step: &Step<'_>,
) -> Result<(Said, Compared)> {
    let batch = mixing.in_batch(&unit_rows(z), &mut step.stream(Purpose::Mix, 0))?;
    let found = loss.transformed(
        [&batch.rows, &batch.positives],
        &batch.negatives,
        &batch.excluded,
        Some(&batch.scale),
        step.tile_rows,
    )?;
    let images = z.size()[0] / 2;
    // Mixed rows have other cosines than the network gives, which is what the sentinels ask about.
    let [positive, negative] = similarities(z)?;
    let scalars = vec![
        ("contrastive_accuracy", found.accuracy),
        ("positive_similarity", positive),
        ("negative_similarity", negative),
    ];
    let first = |rows: &Tensor| rows.detach().narrow(0, 0, images);
    let compared = Compared {
        queries: first(&batch.rows),
        positives: first(&batch.positives),
        negatives: Negatives::Shared(
            batch.negatives.detach(),
            Excluded::Columns(batch.excluded.narrow(0, 0, images)),
        ),
        to_unit: false,
    };
    Ok((Said { loss: found.loss, scalars }, compared))
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
        let taps = self
            .projector
            .forward_taps(&h.flatten(0, 1), Phase::Training { groups: 1, statistics });
        let z = &taps[taps.len() - 1]; // [2N, d]
        let (Said { mut loss, mut scalars }, scores) = self.loss(z, step)?;
        if let Some(group) = &self.group {
            let (more, told) = group.loss(&taps, step)?;
            loss += more;
            scalars.extend(told);
        }
        Ok(Objective::backward(&loss, &h, z).with(scalars).comparing(scores))
    }

    fn stuck_at(&self, batch_size: usize) -> Option<Constant> {
        let found = self.config.loss.collapsed(batch_size, self.config.temperature);
        let found = found.map(|(value, formula)| Constant { value, formula });
        found.filter(|_| self.group.is_none())
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn backbone(&self) -> &ResNet {
        &self.backbone
    }
}
