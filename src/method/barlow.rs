//! Barlow Twins: self-supervised learning by redundancy reduction.
//!
//! **Paper.** Zbontar et al. 2021, arXiv:2103.03230. Code: facebookresearch/barlowtwins.
//!
//! **Idea.** Over a batch, each dimension of one view's projections should vary as the same dimension of the other view's
//! does, and as no other dimension. A constant projection varies with nothing, so there are no negatives, no
//! stop-gradient and no momentum network.
//!
//! **Symbols.** f backbone, h = f(x) features; g projector, z = g(h), of D dimensions; ẑ z normalised over the batch;
//! C = ẑ₁ᵀ ẑ₂ / N. `L = Σ_i (1 - C_ii)² + λ Σ_{i≠j} C_ij²` (Eq. 1).
//!
//! **Deviations.** None known.
//!
//! **Cost.** A forward and backward pass for each of two views, and three products of the size N·D².

use crate::error::Result;
use crate::loss::redundancy::BarlowTwins;
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

/// Settings of Barlow Twins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is made of the projections.
    pub loss: BarlowTwins,
    /// g: three layers of 8192 dimensions, no bias (§2.2); 2048 for CIFAR-10 (lightly).
    pub projector: HeadConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            loss: BarlowTwins::default(),
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
        // The matrix, and for both views z, ẑ, their gradients, and what is between.
        let state = (d * d + 2 * 6 * batch * d) as u64 + Held::TRAINED * heads;
        Held { columns: 0, state }
    }

    fn fits(&self) -> Fits {
        Fits {
            feature_transformation: Err(
                "the loss compares dimensions over the batch: there is no score of a pair of rows to transform",
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

/// The networks of Barlow Twins.
pub struct Barlow {
    parameters: Parameters,
    wiring: Wiring,
    backbone: ResNet,
    projector: Head,
    group: Option<GroupBranch>,
    config: Config,
}

impl Barlow {
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

impl Method for Barlow {
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
        let mut scalars = vec![("invariance", found.invariance), ("redundancy", found.redundancy)];
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

    /// Dimensions that do not vary: C = 0.
    fn stuck_at(&self, _batch_size: usize) -> Option<Constant> {
        let value = self.config.loss.scale * self.projector.outputs() as f64;
        Some(Constant { value, formula: "scale · D" }).filter(|_| self.group.is_none())
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

    const SMALL: &str = "name = 'barlow'\nloss = { off_diagonal_weight = 0.05 }\n\
                         projector = { layers = 3, hidden = 7, output = 5, output_batch_norm = 'none', bias = false, \
                         initialization = 'pytorch' }";

    #[test]
    fn the_objective_is_the_papers_and_gradients_are_its_slopes() {
        let method = build(SMALL, "", 2);
        let rows = rows(2, 1);
        let found = objective(method.as_ref(), &rows, 0);
        let normalized = [0, 1].map(|view| {
            let z = projector(method.as_ref(), 3, &rows.online.get(view));
            let centred = &z - z.mean_dim(0, true, None);
            let variance = centred.square().mean_dim(0, true, None);
            centred / (variance + 1e-5).sqrt()
        });
        let correlation = normalized[0].tr().matmul(&normalized[1]) / 6.0;
        let value = |i: i64, j: i64| correlation.double_value(&[i, j]);
        let pairs = (0..5).flat_map(|i| (0..5).map(move |j| (i, j)));
        let expected: f64 = pairs
            .map(
                |(i, j)| {
                    if i == j { (1.0 - value(i, j)).powi(2) } else { 0.05 * value(i, j).powi(2) }
                },
            )
            .sum();
        assert!((found.loss - expected).abs() < 1e-12, "{} {expected}", found.loss);
        let mut gradients = head_gradients(method.as_ref());
        gradients.push(("rows", rows.online.shallow_clone(), found.rows_gradient.copy()));
        hold_slopes(&gradients, || objective(method.as_ref(), &rows, 0).loss);
        assert_eq!(gradients.len(), 3 + 2 * 2 + 1);
    }

    #[test]
    fn a_collapsed_network_has_the_told_loss() {
        let method = build(&SMALL.replace("0.05 ", "0.05, scale = 0.1 "), "", 2);
        let last = named(method.as_ref(), "projector.layers.2.linear.weight");
        let _ = no_grad(|| last.shallow_clone().zero_());
        let found = objective(method.as_ref(), &rows(2, 2), 0).loss;
        let told = method.stuck_at(6).unwrap().value;
        assert!((found - told).abs() < 1e-12 && (told - 0.5).abs() < 1e-12, "{found} {told}");
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
        let config = Config::default();
        // 2048 features, three layers of 8192.
        let (wide, square) = (2048 * 8192, 8192 * 8192);
        assert_eq!(config.projector.parameter_count(2048), wide + 2 * square + 4 * 8192);
        config.check(&Plugins::default()).unwrap();
        let message = refused(SMALL, "feature_transformation = {}");
        assert!(message.contains("does not go with method barlow: the loss compares dimensions"));
        let message = refused(SMALL, "guided_stop_gradient = {}");
        assert!(message.contains("neither is a constant"), "{message}");
        let message = refused("name = 'barlow'\nloss = { off_diagonal_weight = -1.0 }", "");
        assert!(message.starts_with("`method.loss.off_diagonal_weight` must"), "{message}");
    }
}
