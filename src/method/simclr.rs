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
use crate::loss::decoupled::Decoupled;
use crate::loss::generalized::{self, Generalized};
use crate::loss::logistic::NtLogistic;
use crate::loss::nt_xent::{Agreement, NtXent, Reduction, agreement};
use crate::loss::pairwise;
use crate::loss::triplet::MarginTriplet;
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

/// A loss of the projections of two views, told apart by `name`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Loss {
    /// Cross entropy of finding the other view among all rows.
    NtXent(NtXentSettings),
    /// The same without the positive in the denominator: DCL, and DCLW with weights.
    Decoupled(DecoupledSettings),
    /// Each pair judged by itself.
    NtLogistic(NtLogistic),
    /// Negatives less similar than the positive, by a margin.
    MarginTriplet(MarginTriplet),
    /// Alignment and a distribution of the rows.
    Generalized(Generalized),
}

/// Settings of [`NtXent`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NtXentSettings {
    /// How the anchors' losses are summed up.
    pub reduction: Reduction,
}

/// Settings of [`Decoupled`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecoupledSettings {
    /// σ of DCLW's weights of the positives, above 0 (0.5 in the paper); DCL, which has none, if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma: Option<f64>,
}

impl Default for Loss {
    fn default() -> Self {
        Self::NtXent(NtXentSettings::default())
    }
}

const VIEWS: usize = 2;

impl Settings for Config {
    fn wiring(&self, _plugins: &Plugins, _views: usize) -> Wiring {
        Wiring::online(VIEWS)
    }

    fn held(&self, _: &BackboneConfig, views: usize, batch: usize, _images: usize) -> Held {
        Held { columns: views * batch, state: 0 }
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
        let above_0 = |key: &str, value: f64| {
            require(value.is_finite() && value > 0.0, key, "above 0", value)
        };
        above_0("method.temperature", self.temperature)?;
        match &self.loss {
            Loss::NtXent(_) => {}
            Loss::Decoupled(settings) => {
                settings.sigma.map_or(Ok(()), |sigma| above_0("method.loss.sigma", sigma))?;
            }
            Loss::NtLogistic(loss) => loss.check("method.loss")?,
            Loss::MarginTriplet(loss) => loss.check("method.loss")?,
            Loss::Generalized(loss) => loss.check("method.loss")?,
        }
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

/// What a loss says: a scalar with a graph, and what is worth logging.
type Said = (Tensor, Vec<(&'static str, f64)>);

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
        let group = GroupBranch::build(
            &mut parameters,
            setup.plugins.cross_level.as_ref(),
            &config.projector,
            features,
        )?;
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
    fn loss(&self, z: &Tensor, step: &Step<'_>) -> Result<Said> {
        let (temperature, tile) = (self.config.temperature, step.tile_rows);
        match &self.config.loss {
            Loss::NtXent(settings) => {
                let loss = NtXent { temperature, reduction: settings.reduction };
                let mixing = self.mixing.as_ref();
                match mixing.filter(|mixing| mixing.active(step.epoch() as u32)) {
                    None => nt_xent(&loss, z, tile),
                    Some(mixing) => mixed(&loss, mixing, z, step),
                }
            }
            Loss::Decoupled(settings) => {
                let loss = Decoupled { temperature, sigma: settings.sigma }.loss(z, tile)?;
                Ok((loss, told(&agreement(z, temperature, tile)?)))
            }
            Loss::NtLogistic(loss) => Ok(pairs(loss.evaluate(z, temperature, tile)?)),
            Loss::MarginTriplet(loss) => Ok(pairs(loss.evaluate(z, temperature, tile)?)),
            Loss::Generalized(loss) => {
                let mut stream = step.stream(Purpose::Slices, 0);
                Ok(generalized(loss.evaluate(z, temperature, tile, &mut stream)?))
            }
        }
    }
}

fn nt_xent(loss: &NtXent, z: &Tensor, tile: i64) -> Result<Said> {
    let found = loss.evaluate(&z.detach(), tile)?;
    Ok((found.attached(z), told(&found.agreement)))
}

fn told(agreement: &Agreement) -> Vec<(&'static str, f64)> {
    vec![
        ("contrastive_accuracy", agreement.contrastive_accuracy),
        ("contrastive_entropy", agreement.contrastive_entropy),
        ("positive_similarity", agreement.positive_similarity),
        ("negative_similarity", agreement.negative_similarity),
    ]
}

/// NT-Xent of transformed features; what is logged are the scores it sees.
fn mixed(
    loss: &NtXent,
    mixing: &FeatureTransformation,
    z: &Tensor,
    step: &Step<'_>,
) -> Result<Said> {
    let batch = mixing.in_batch(&unit_rows(z), &mut step.stream(Purpose::Mix, 0))?;
    let found = loss.transformed(
        [&batch.rows, &batch.positives],
        &batch.negatives,
        &batch.excluded,
        Some(&batch.scale),
        step.tile_rows,
    )?;
    let told = [
        ("contrastive_accuracy", found.accuracy),
        ("positive_similarity", found.positive_similarity),
        ("negative_similarity", found.negative_similarity),
    ];
    Ok((found.loss, told.into()))
}

fn pairs(found: pairwise::Evaluated) -> Said {
    let mut told = told(&found.agreement);
    told.extend(found.semi_hard_share.map(|share| ("semi_hard_share", share)));
    (found.loss, told)
}

fn generalized(found: generalized::Evaluated) -> Said {
    let mut told = told(&found.agreement);
    told.extend([("alignment", found.alignment), ("distribution", found.distribution)]);
    (found.loss, told)
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
        let (mut loss, mut scalars) = self.loss(z, step)?;
        if let Some(group) = &self.group {
            let (more, told) = group.loss(&taps, step)?;
            loss += more;
            scalars.extend(told);
        }
        Ok(Objective::backward(&loss, &h, z).with(scalars))
    }

    fn stuck_at(&self, batch_size: usize) -> Option<Constant> {
        let (images, temperature) = (batch_size as f64, self.config.temperature);
        let mean = (2.0 * images - 1.0).ln();
        let constant = match &self.config.loss {
            Loss::NtXent(settings) => match settings.reduction {
                Reduction::Mean2n => Constant { value: mean, formula: "ln(2N - 1)" },
                Reduction::SimclrSum => Constant { value: 2.0 * mean, formula: "2 ln(2N - 1)" },
            },
            Loss::Decoupled(_) => {
                Constant { value: (2.0 * images - 2.0).ln(), formula: "ln(2N - 2)" }
            }
            Loss::NtLogistic(loss) if !loss.semi_hard => {
                let softplus = |x: f64| x.exp().ln_1p();
                let value = softplus(-1.0 / temperature) + softplus(1.0 / temperature);
                Constant { value, formula: "ln(1 + e^(-1/τ)) + ln(1 + e^(1/τ))" }
            }
            Loss::MarginTriplet(loss) if !loss.semi_hard => {
                Constant { value: loss.margin, formula: "the margin" }
            }
            Loss::NtLogistic(_) | Loss::MarginTriplet(_) | Loss::Generalized(_) => return None,
        };
        Some(constant).filter(|_| self.group.is_none())
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn backbone(&self) -> &ResNet {
        &self.backbone
    }
}
