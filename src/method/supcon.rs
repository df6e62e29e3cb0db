//! `SupCon`: supervised contrastive learning.
//!
//! **Paper.** Khosla et al. 2020, arXiv:2004.11362. Code: HobbitLong/SupContrast.
//!
//! **Idea.** As SimCLR, but all rows of the same class are positives of each other. Not a method without labels: it is here
//! to compare with.
//!
//! **Symbols.** z = g(f(x)) projections of 2N views; P(i) rows of the class of i but i itself; τ temperature, `τ_b` base
//! temperature. `L = -(τ/τ_b) mean_i mean_{p∈P(i)} ln exp(ẑ_i·ẑ_p/τ) / Σ_{a≠i} exp(ẑ_i·ẑ_a/τ)` (Eq. 2).
//!
//! **Cost.** As SimCLR.

use crate::error::{Error, Result};
use crate::loss::sup_con::SupCon as Loss;
use crate::method::compared::{Excluded, Scores};
use crate::method::{
    Constant, Fits, Held, Method, Objective, Rows, Settings, Setup, Step, Wiring, passes,
    prediction::similarities, require,
};
use crate::model::heads::{Head, HeadConfig, HeadInitialization, OutputNorm};
use crate::model::resnet::ResNet;
use crate::model::{BackboneConfig, Parameters, Phase, Statistics};
use crate::plugin::Plugins;
use crate::shape;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Settings of `SupCon`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// τ, above 0: 0.1 in the paper, 0.07 in the official code.
    pub temperature: f64,
    /// `τ_b`, above 0. Equal to τ in the paper; the official scripts leave it at 0.07, which scales the loss by τ/0.07.
    pub base_temperature: f64,
    /// g.
    pub projector: HeadConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            temperature: 0.1,
            base_temperature: 0.1,
            projector: HeadConfig {
                batch_norm: false,
                output_batch_norm: OutputNorm::None,
                initialization: HeadInitialization::PyTorch,
                ..HeadConfig::default()
            },
        }
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
        let labels = "it learns from labels; plug-ins are for learning without";
        Fits {
            feature_transformation: Err(labels),
            cross_level: Err(labels),
            guided_stop_gradient: Err(labels),
        }
    }

    fn check(&self, _plugins: &Plugins) -> Result<()> {
        for (key, value) in
            [("temperature", self.temperature), ("base_temperature", self.base_temperature)]
        {
            let fits = value.is_finite() && value > 0.0;
            require(fits, &format!("method.{key}"), "above 0", value)?;
        }
        self.projector.check("method.projector")
    }
}

/// The networks of `SupCon`.
pub struct SupCon {
    parameters: Parameters,
    wiring: Wiring,
    backbone: ResNet,
    projector: Head,
    loss: Loss,
}

impl SupCon {
    pub(super) fn build(
        config: &Config,
        setup: &Setup<'_>,
        mut parameters: Parameters,
    ) -> Result<Self> {
        if setup.classes == 0 || setup.multi_label {
            let found =
                if setup.multi_label { "images that show several" } else { "images without" };
            return Err(Error::Data(format!(
                "supcon learns from labels, one class an image, and there are {found}; take `simclr` for data without labels"
            )));
        }
        let (backbone, projector) =
            passes::encoder(&mut parameters.root(), setup.backbone, &config.projector)?;
        let wiring = config.wiring(setup.plugins, setup.views);
        let loss =
            Loss { temperature: config.temperature, base_temperature: config.base_temperature };
        Ok(Self { parameters, wiring, backbone, projector, loss })
    }
}

impl Method for SupCon {
    fn wiring(&self) -> &Wiring {
        &self.wiring
    }

    fn embed(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor {
        passes::together(&self.backbone, views, groups, statistics)
    }

    fn objective(&self, rows: &Rows, step: &Step<'_>) -> Result<Objective> {
        shape::check("rows", &rows.online, &[VIEWS as i64, -1, self.backbone.features()])?;
        let labels = step.labels_of_batch("supcon", rows.online.device())?;
        let h = rows.online.detach().set_requires_grad(true);
        let statistics = Statistics::Move { seen: 0, of: 1 };
        let z = self.projector.forward(&h.flatten(0, 1), Phase::Training { groups: 1, statistics });
        let loss = self.loss.loss(&z, &labels, step.tile_rows)?;
        let views = z.chunk(VIEWS as i64, 0);
        let scores = Scores::in_batch(&z, self.loss.temperature, Excluded::SameLabel(labels));
        let objective = Objective::backward(&loss, &h, &z).comparing(scores);
        Ok(objective.with(similarities(&views[0], &views[1])))
    }

    fn stuck_at(&self, batch_size: usize) -> Option<Constant> {
        let scale = self.loss.temperature / self.loss.base_temperature;
        let value = scale * (2.0 * batch_size as f64 - 1.0).ln();
        Some(Constant { value, formula: "ln(2N - 1) τ/τ_b" })
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn backbone(&self) -> &ResNet {
        &self.backbone
    }
}
