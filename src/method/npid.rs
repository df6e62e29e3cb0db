//! NPID: unsupervised feature learning via non-parametric instance discrimination.
//!
//! **Paper.** Wu, Xiong, Yu, Lin 2018, arXiv:1805.01978. Code: zhirongw/lemniscate.pytorch.
//!
//! **Idea.** Every image is a class of its own. Its weights are what a memory bank remembers of it, one row per image.
//!
//! **Symbols.** v = g(f(x)) unit features; M bank `[n, d]`; T temperature; m momentum of a row.
//! `L = -ln exp(v·M[i]/T) / Σ_j exp(v·M[j]/T)` (Eq. 2), or its noise-contrastive estimate (Eq. 7).
//!
//! **Order.** Logits see the bank as it was before this step; the rows of the batch move after the optimizer, of which they
//! know nothing.
//!
//! **Deviations.** With cross-level discrimination both views have a loss of their own against the same bank, the mean of
//! which counts, and move the bank's rows one after the other, the second view first, as in that code's backward pass.
//!
//! **Cost.** One forward and backward pass of one view (two with cross-level discrimination), a bank of n·d scalars, and
//! logits for N rows of it all, a tile at a time, or of K drawn ones.

use crate::error::Result;
use crate::loss::instance::{Instance, sample};
use crate::loss::tiled::default_tile;
use crate::method::bank::{Bank, BankStart};
use crate::method::compared::{Compared, Excluded, Negatives, Scores};
use crate::method::group_branch::GroupBranch;
use crate::method::{
    Constant, Fits, Held, Method, Objective, Rows, Settings, Setup, Step, Wiring, passes, require,
};
use crate::model::heads::{Head, HeadConfig, HeadInitialization, OutputNorm};
use crate::model::resnet::ResNet;
use crate::model::{BackboneConfig, Parameters, Place, Role, Statistics};
use crate::plugin::Plugins;
use crate::random::Purpose;
use crate::rows::unit_rows;
use crate::shape;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Settings of NPID.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// T, above 0: 0.07 for ImageNet, 0.1 for CIFAR.
    pub temperature: f64,
    /// Which rows of the bank an image is told apart from.
    pub objective: InstanceLoss,
    /// K, negatives drawn for each image, at least 1; not for the full softmax.
    pub negatives: usize,
    /// m, in [0, 1]: share of a row that stays when its image is seen.
    pub momentum: f64,
    /// Where the bank starts.
    pub bank_start: BankStart,
    /// g.
    pub projector: HeadConfig,
}

/// Which rows of the bank an image is told apart from, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceLoss {
    /// All of them (the official code on CIFAR-10).
    #[default]
    Softmax,
    /// K drawn ones, by noise-contrastive estimation; Z is estimated on the first batch (the official code on ImageNet).
    Nce,
    /// K drawn ones, in a softmax (`PyContrast`, and the authors' later model).
    SampledSoftmax,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            temperature: 0.07,
            objective: InstanceLoss::default(),
            negatives: 4096,
            momentum: 0.5,
            bank_start: BankStart::default(),
            projector: HeadConfig {
                layers: 1,
                output_batch_norm: OutputNorm::None,
                initialization: HeadInitialization::PyTorch,
                ..HeadConfig::default()
            },
        }
    }
}

impl Settings for Config {
    fn wiring(&self, plugins: &Plugins, _views: usize) -> Wiring {
        Wiring::online(if plugins.cross_level.is_some() { 2 } else { 1 })
    }

    fn held(&self, backbone: &BackboneConfig, _views: usize, _batch: usize, images: usize) -> Held {
        let columns = match self.objective {
            InstanceLoss::Softmax => images,
            // Drawn rows are gathered for a few images at a time, which is no more than a tile.
            InstanceLoss::Nce | InstanceLoss::SampledSoftmax => self.negatives,
        };
        let head = self.projector.parameter_count(backbone.features());
        let bank = (images * self.projector.output) as u64;
        Held { columns, state: bank + Held::TRAINED * head }
    }

    fn fits(&self) -> Fits {
        Fits {
            feature_transformation: Err(
                "its positive is the bank's memory of the image, and no source says how to mix that",
            ),
            cross_level: Ok(
                "on the features of two views, each with its own loss against the bank",
            ),
            guided_stop_gradient: Err("nothing is predicted: there is no stop-gradient to guide"),
        }
    }

    fn check(&self, _plugins: &Plugins) -> Result<()> {
        self.projector.check("method.projector")?;
        let fits = self.temperature.is_finite() && self.temperature > 0.0;
        require(fits, "method.temperature", "above 0", self.temperature)?;
        // Z, a mean of exp(cosine / τ) times the images, is kept in 32 bits.
        let holds = self.objective != InstanceLoss::Nce || self.temperature >= 0.015;
        require(holds, "method.temperature", "at least 0.015 for nce", self.temperature)?;
        let k = self.negatives;
        require((1..=1 << 22).contains(&k), "method.negatives", "from 1 to 4194304", k)?;
        let m = self.momentum;
        require((0.0..=1.0).contains(&m), "method.momentum", "from 0 to 1", m)
    }
}

/// The network and the bank of NPID.
pub struct Npid {
    parameters: Parameters,
    wiring: Wiring,
    backbone: ResNet,
    projector: Head,
    bank: Bank,
    /// Z of the noise-contrastive estimate `[1]`, 0 until the first batch has been seen.
    normalizer: Tensor,
    group: Option<GroupBranch>,
    config: Config,
}

impl Npid {
    pub(super) fn build(
        config: &Config,
        setup: &Setup<'_>,
        mut parameters: Parameters,
    ) -> Result<Self> {
        let (backbone, projector) =
            passes::encoder(&mut parameters.root(), setup.backbone, &config.projector)?;
        let group = GroupBranch::build(&mut parameters, setup, &config.projector)?;
        let mut root: Place<'_> = parameters.root();
        let mut place = root.at("bank");
        let bank = Bank::build(&mut place, setup.images, projector.outputs(), config.bank_start);
        let normalizer = place.add("normalizer", Role::State, &[1], |_| 0.0);
        Ok(Self {
            wiring: config.wiring(setup.plugins, setup.views),
            config: config.clone(),
            parameters,
            backbone,
            projector,
            bank,
            normalizer,
            group,
        })
    }
}

impl Method for Npid {
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
        let taps = passes::heads_apart(&self.projector, &h);
        let z = passes::outputs(&taps);
        let v: Vec<Tensor> = z.iter().map(unit_rows).collect();

        let loss_of = Instance { temperature: self.config.temperature };
        let (bank, device) = (self.bank.rows(), h.device());
        let images: Vec<i64> = step.indices.iter().map(|image| *image as i64).collect();
        let (k, n) = (self.config.negatives, bank.size()[0]);
        let mut normalizer = self.normalizer.double_value(&[0]);
        let mut loss = Tensor::from(0.0).to_device(device);
        let mut told = [0.0; 3];
        let own = step.images(device);
        let mut negatives = None; // of the first view
        for (view, v) in (0..).zip(&v) {
            let drawn = || {
                let mut stream = step.stream(Purpose::Negatives, view);
                sample(&mut stream, &images, k, n as u32).to_device(device)
            };
            let found = match self.config.objective {
                InstanceLoss::Softmax => {
                    let tile = step.tile_rows.min(default_tile(n));
                    negatives.get_or_insert_with(|| {
                        Negatives::Shared(bank.detach(), Excluded::Columns(own.unsqueeze(1)))
                    });
                    loss_of.softmax(v, bank, &own, tile)?
                }
                InstanceLoss::Nce => {
                    let indices = drawn();
                    negatives.get_or_insert_with(|| {
                        Negatives::Drawn(bank.detach(), indices.shallow_clone())
                    });
                    if normalizer == 0.0 {
                        normalizer = loss_of.normalizer(v, bank, &indices)?;
                    }
                    loss_of.noise_contrastive(v, bank, &indices, normalizer)?
                }
                InstanceLoss::SampledSoftmax => {
                    let indices = drawn();
                    negatives.get_or_insert_with(|| {
                        Negatives::Drawn(bank.detach(), indices.shallow_clone())
                    });
                    loss_of.sampled_softmax(v, bank, &indices)?
                }
            };
            loss += found.loss / views as f64;
            let scalars = [found.accuracy, found.positive_similarity, found.negative_similarity];
            told.iter_mut().zip(scalars).for_each(|(sum, value)| *sum += value / views as f64);
        }
        let mut scalars: Vec<_> =
            ["contrastive_accuracy", "positive_similarity", "negative_similarity"]
                .into_iter()
                .zip(told)
                .collect();
        if let Some(group) = &self.group {
            let (more, told) = group.loss(&passes::two_views(&taps), step)?;
            loss += more;
            scalars.extend(told);
        }
        let compared = Compared {
            queries: v[0].detach(),
            positives: bank.detach().index_select(0, &own),
            negatives: negatives.unwrap_or(Negatives::None),
            to_unit: false,
        };
        let scores = Scores {
            temperature: Some(self.config.temperature),
            plain: vec![compared],
            transformed: Vec::new(),
        };
        let objective = Objective::backward(&loss, &h, &Tensor::cat(&z, 0));
        let mut objective = objective.with(scalars).comparing(scores);
        objective.carried = v.iter().map(Tensor::detach).collect();
        objective.carried.push(Tensor::from(normalizer));
        Ok(objective)
    }

    fn after_step(&self, carried: &[Tensor], step: &Step<'_>) {
        let Some((normalizer, views)) = carried.split_last() else { return };
        for features in views.iter().rev() {
            self.bank.update(step.indices, features, self.config.momentum);
        }
        let _ = self.normalizer.shallow_clone().fill_(normalizer.double_value(&[]));
    }

    fn stuck_at(&self, _batch_size: usize) -> Option<Constant> {
        let rows = match self.config.objective {
            InstanceLoss::Softmax => Some((self.bank.rows().size()[0] as f64, "ln n")),
            InstanceLoss::SampledSoftmax => Some((1.0 + self.config.negatives as f64, "ln(1 + K)")),
            InstanceLoss::Nce => None,
        };
        rows.filter(|_| self.group.is_none())
            .map(|(rows, formula)| Constant { value: rows.ln(), formula })
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn backbone(&self) -> &ResNet {
        &self.backbone
    }
}
