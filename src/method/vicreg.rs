//! `VICReg`: variance, invariance and covariance regularization.
//!
//! **Paper.** Bardes et al. 2021, arXiv:2105.04906. Code: facebookresearch/vicreg.
//!
//! **Idea.** The projections of an image's two views should be near each other. What keeps them from being all the same is
//! said outright, for each view by itself: over a batch every dimension should have a standard deviation of 1, and no two
//! of them should vary together.
//!
//! **Symbols.** f backbone, h = f(x) features; g expander, here `projector`, z = g(h), of D dimensions. L = 25 invariance +
//! 25 variance + covariance (Eq. 6), each as [`crate::loss::redundancy::VicReg as Regularizer`] has it.
//!
//! **Deviations.** Linear layers before a batch norm have no bias. Averages are those of the official code.
//!
//! **Cost.** A forward and backward pass for each of two views, and four products of the size N·D².

use crate::error::Result;
use crate::loss::redundancy::VicReg as Regularizer;
use crate::method::compared::Scores;
use crate::method::group_branch::GroupBranch;
use crate::method::{
    Constant, Fits, Held, Method, Objective, Rows, Settings, Setup, Step, Wiring, passes,
    prediction,
};
use crate::model::heads::{Head, HeadConfig, HeadInitialization, OutputNorm};
use crate::model::resnet::ResNet;
use crate::model::{BackboneConfig, Parameters, Statistics};
use crate::plugin::Plugins;
use crate::shape;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Settings of `VICReg`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is made of the projections.
    pub loss: Regularizer,
    /// g: three layers of 8192 dimensions, no bias at its end (§4.2).
    pub projector: HeadConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            loss: Regularizer::default(),
            projector: HeadConfig {
                layers: 3,
                hidden: Some(8192),
                output: 8192,
                output_batch_norm: OutputNorm::None,
                bias: false,
                initialization: HeadInitialization::PyTorch,
                ..HeadConfig::default()
            },
        }
    }
}

impl Settings for Config {
    fn wiring(&self, _plugins: &Plugins, _views: usize) -> Wiring {
        Wiring::online(2)
    }

    fn held(&self, backbone: &BackboneConfig, _: usize, batch: usize, _images: usize) -> Held {
        let d = self.projector.output;
        let heads = self.projector.parameter_count(backbone.features());
        // The matrix, and for both views z, z less its mean, their gradients, and what is between.
        let state = (d * d + 2 * 6 * batch * d) as u64 + Held::TRAINED * heads;
        Held { columns: 0, state }
    }

    fn fits(&self) -> Fits {
        Fits {
            feature_transformation: Err(
                "the loss has no score of a pair that is compared with others: extrapolating both views only multiplies \
                 their distance",
            ),
            cross_level: Ok("on the features of both views"),
            guided_stop_gradient: Err(
                "both views are moved and neither is a constant: there is no side to choose",
            ),
        }
    }

    fn check(&self, _plugins: &Plugins) -> Result<()> {
        self.projector.check("method.projector")?;
        self.loss.check("method.loss")
    }
}

/// The networks of `VICReg`.
pub struct VicReg {
    parameters: Parameters,
    wiring: Wiring,
    backbone: ResNet,
    projector: Head,
    group: Option<GroupBranch>,
    config: Config,
}

impl VicReg {
    pub(super) fn build(
        config: &Config,
        setup: &Setup<'_>,
        mut parameters: Parameters,
    ) -> Result<Self> {
        let (backbone, projector) =
            passes::encoder(&mut parameters.root(), setup.backbone, &config.projector)?;
        let group = GroupBranch::build(&mut parameters, setup, &config.projector)?;
        let wiring = config.wiring(setup.plugins, setup.views);
        Ok(Self { parameters, wiring, backbone, projector, group, config: config.clone() })
    }
}

impl Method for VicReg {
    fn wiring(&self) -> &Wiring {
        &self.wiring
    }

    fn embed(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor {
        passes::apart(&self.backbone, views, groups, statistics)
    }

    fn objective(&self, rows: &Rows, step: &Step<'_>) -> Result<Objective> {
        shape::check("rows", &rows.online, &[2, -1, self.backbone.features()])?;
        let h = rows.online.detach().set_requires_grad(true);
        let taps = passes::heads_apart(&self.projector, &h); // each view by itself, [N, ·]
        let z = passes::outputs(&taps);
        let found = self.config.loss.evaluate(&z[0], &z[1])?;
        let mut loss = found.loss;
        let mut scalars = vec![
            ("invariance", found.invariance),
            ("variance", found.variance),
            ("covariance", found.covariance),
        ];
        scalars.extend(prediction::similarities(&z[0], &z[1]));
        if let Some(group) = &self.group {
            let (more, told) = group.loss(&passes::two_views(&taps), step)?;
            loss += more;
            scalars.extend(told);
        }
        let scores = Scores::pairs(&z[0], &z[1], None);
        let objective = Objective::backward(&loss, &h, &Tensor::cat(&z, 0));
        Ok(objective.with(scalars).comparing(scores))
    }

    /// Dimensions that do not vary.
    fn stuck_at(&self, _batch_size: usize) -> Option<Constant> {
        let Regularizer { variance_weight, epsilon, .. } = self.config.loss;
        let value = variance_weight * (1.0 - epsilon.sqrt()).max(0.0);
        let formula = "variance_weight (1 - √epsilon)";
        Some(Constant { value, formula }).filter(|_| self.group.is_none())
    }

    fn suspects(&self) -> Vec<&'static str> {
        if self.config.loss.variance_weight == 0.0 {
            vec!["`method.loss.variance_weight = 0`"]
        } else {
            Vec::new()
        }
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn backbone(&self) -> &ResNet {
        &self.backbone
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        build, head_gradients, hold_slopes, named, objective, projector, refused, rows,
    };
    use super::*;
    use tch::no_grad;

    const SMALL: &str = "name = 'vicreg'\nprojector = { layers = 3, hidden = 7, output = 5, \
                         output_batch_norm = 'none', bias = false, initialization = 'pytorch' }";

    #[test]
    fn the_objective_is_the_papers_and_gradients_are_its_slopes() {
        let method = build(SMALL, "", 2);
        let rows = rows(2, 1);
        let found = objective(method.as_ref(), &rows, 0);
        let z = [0, 1].map(|view| projector(method.as_ref(), 3, &rows.online.get(view)));
        let mut expected = 25.0 * (&z[0] - &z[1]).square().mean(None).double_value(&[]);
        for z in &z {
            let covariance = z.tr().cov(1, None::<&Tensor>, None::<&Tensor>);
            for (i, j) in (0..5).flat_map(|i| (0..5).map(move |j| (i, j))) {
                let value = covariance.double_value(&[i, j]);
                expected += if i == j {
                    12.5 * (1.0 - (value + 1e-4).sqrt()).max(0.0) / 5.0
                } else {
                    value.powi(2) / 5.0
                };
            }
        }
        assert!((found.loss - expected).abs() < 1e-12, "{} {expected}", found.loss);
        let mut gradients = head_gradients(method.as_ref());
        gradients.push(("rows", rows.online.shallow_clone(), found.rows_gradient.copy()));
        hold_slopes(&gradients, || objective(method.as_ref(), &rows, 0).loss);
        assert_eq!(gradients.len(), 3 + 2 * 2 + 1);
    }

    #[test]
    fn a_collapsed_network_has_the_told_loss() {
        let method = build(SMALL, "", 2);
        let last = named(method.as_ref(), "projector.layers.2.linear.weight");
        let _ = no_grad(|| last.shallow_clone().zero_());
        let found = objective(method.as_ref(), &rows(2, 2), 0).loss;
        let told = method.stuck_at(6).unwrap().value;
        assert!((found - told).abs() < 1e-12 && (told - 24.75).abs() < 1e-12, "{found} {told}");
    }

    #[test]
    fn without_the_variance_the_settings_are_suspected() {
        let suspects = |loss: &str| build(&format!("{SMALL}\nloss = {loss}"), "", 2).suspects();
        assert_eq!(suspects("{ variance_weight = 0.0 }"), ["`method.loss.variance_weight = 0`"]);
        assert!(suspects("{ covariance_weight = 0.0 }").is_empty());
    }

    #[test]
    fn groups_of_images_add_their_loss() {
        let method = build(SMALL, "cross_level = { groups = 2, weight = 0.5 }", 2);
        let (with, without) = (objective(method.as_ref(), &rows(2, 3), 0), build(SMALL, "", 2));
        let more = with.scalars.iter().find(|(name, _)| name == "cross_level_loss").unwrap().1;
        let alone = objective(without.as_ref(), &rows(2, 3), 0).loss;
        assert!(more > 0.1 && (with.loss - alone - 0.5 * more).abs() < 1e-12);
        assert!(method.stuck_at(6).is_none());
    }

    #[test]
    fn the_defaults_are_the_papers_and_what_does_not_fit_is_refused() {
        Config::default().check(&Plugins::default()).unwrap();
        assert_eq!(Config::default().projector.parameter_count(512), 138_444_800);
        let message = refused(SMALL, "feature_transformation = {}");
        assert!(
            message.contains("does not go with method vicreg: the loss has no score"),
            "{message}"
        );
        let message = refused(SMALL, "guided_stop_gradient = {}");
        assert!(message.contains("neither is a constant"), "{message}");
        let message = refused("name = 'vicreg'\nloss = { epsilon = 0.0 }", "");
        assert!(message.starts_with("`method.loss.epsilon` must"), "{message}");
    }
}
