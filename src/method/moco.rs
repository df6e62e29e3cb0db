//! MoCo: momentum contrast for unsupervised visual representation learning.
//!
//! **Paper.** He et al. 2020, arXiv:1911.05722; v2: Chen et al. 2020, arXiv:2003.04297 (a perceptron for a head, stronger
//! augmentation, a cosine schedule). Code: facebookresearch/moco.
//!
//! **Idea.** A query should be closer to the key of the same image's other view than to the keys of many earlier images,
//! which wait in a queue. Keys come from a network that follows the query network slowly.
//!
//! **Symbols.** f, g query backbone and projector; f′, g′ the key network; q = g(f(x)), k = g′(f′(x)) unit rows; Q queue of
//! K keys; T temperature; m momentum.
//! `L = -ln exp(q·k/T) / (exp(q·k/T) + Σ_{n∈Q} exp(q·n/T))`, mean over the images (Eq. 1).
//!
//! **Order.** Logits see the queue as it was before this step's keys. The key network moves after the optimizer, which is
//! where the official code moves it too: at the start of the next step, before any key is made.
//!
//! **Deviations.** Virtual ranks stand for devices: batch norm groups of `backbone.norm_group` images, among which the keys'
//! images are shuffled (§3.3).
//!
//! **Cost.** A forward and backward pass for one view (two if symmetric or with cross-level discrimination), a forward pass
//! for the key, and N·K logits, a tile at a time.

use crate::error::{Error, Result};
use crate::loss::info_nce::InfoNce;
use crate::method::compared::{Compared, Excluded, Negatives, Scores};
use crate::method::group_branch::GroupBranch;
use crate::method::momentum::{self, Momentum, MomentumSchedule};
use crate::method::queue::Queue;
use crate::method::{
    Constant, Fits, Held, Method, Objective, Rows, Settings, Setup, Step, Wiring, passes, require,
};
use crate::model::heads::{Head, HeadConfig, HeadInitialization, OutputNorm};
use crate::model::resnet::ResNet;
use crate::model::{BackboneConfig, Parameters, Statistics};
use crate::plugin::Plugins;
use crate::random::Purpose;
use crate::rows::{row_dot, unit_rows};
use crate::shape;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

/// Settings of MoCo; the defaults are those of v2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// T, above 0: 0.07 (v1), 0.2 (v2), 0.1 (CIFAR).
    pub temperature: f64,
    /// K, keys in the queue. A batch that does not divide it wraps around.
    pub queue_length: usize,
    /// Whether each virtual rank has its own share of the queue, as if keys were never gathered. Off is the official code.
    pub split_queue: bool,
    /// m, in [0, 1].
    pub momentum: f64,
    /// How m changes over the run.
    pub momentum_schedule: MomentumSchedule,
    /// What m is at the end, in [0, 1], where it changes.
    pub momentum_end: f64,
    /// Whether both views are queries.
    pub symmetric: Symmetric,
    /// Whether the key network's normalisation groups are made of other images than the query network's (§3.3). Without
    /// `backbone.norm_group` there is one group, and nothing to shuffle.
    pub shuffle: bool,
    /// Whether queries and keys have unit length; without it training collapses (Zhu et al. 2021, §F.1).
    pub normalize: bool,
    /// g.
    pub projector: HeadConfig,
}

/// Whether both views are queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Symmetric {
    /// The first is the query, the second the key.
    #[default]
    None,
    /// Both, the losses added, both keys in one queue (the official CIFAR-10 notebook).
    Sum,
    /// Both, the mean of the losses, a queue for each view's keys (solo-learn).
    Mean,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            temperature: 0.2,
            queue_length: 65536,
            split_queue: false,
            momentum: 0.999,
            momentum_schedule: MomentumSchedule::default(),
            momentum_end: 1.0,
            symmetric: Symmetric::default(),
            shuffle: true,
            normalize: true,
            projector: HeadConfig {
                batch_norm: false,
                output_batch_norm: OutputNorm::None,
                initialization: HeadInitialization::PyTorch,
                ..HeadConfig::default()
            },
        }
    }
}

impl Config {
    fn queues(&self) -> usize {
        if self.symmetric == Symmetric::Mean { 2 } else { 1 }
    }
}

impl Settings for Config {
    fn wiring(&self, plugins: &Plugins, _views: usize) -> Wiring {
        match (self.symmetric, &plugins.cross_level) {
            (Symmetric::None, None) => Wiring { online: vec![0], targets: vec![1] },
            // Two queries and one key.
            (Symmetric::None, Some(_)) => Wiring { online: vec![0, 1], targets: vec![2] },
            (Symmetric::Sum | Symmetric::Mean, _) => {
                Wiring { online: vec![0, 1], targets: vec![0, 1] }
            }
        }
    }

    fn held(&self, backbone: &BackboneConfig, _: usize, _batch: usize, _images: usize) -> Held {
        let queues = self.queues() * self.queue_length * self.projector.output;
        let head = self.projector.parameter_count(backbone.features());
        let follows = backbone.parameter_count() + head;
        let state = follows + queues as u64 + Held::TRAINED * head;
        Held { columns: self.queue_length, state }
    }

    fn fits(&self) -> Fits {
        Fits {
            feature_transformation: Ok("(q, k) extrapolated, the queue mixed"),
            cross_level: Ok("on the features of two queries, against one key"),
            guided_stop_gradient: Err(
                "keys come from another network, which no gradient reaches: there is no side to choose",
            ),
        }
    }

    fn check(&self, plugins: &Plugins) -> Result<()> {
        self.projector.check("method.projector")?;
        let fits = self.temperature.is_finite() && self.temperature > 0.0;
        require(fits, "method.temperature", "above 0", self.temperature)?;
        let length = self.queue_length;
        require(
            (1..=1 << 24).contains(&length),
            "method.queue_length",
            "from 1 to 16777216",
            length,
        )?;
        self.momentum_schedule.check([self.momentum, self.momentum_end])?;
        if !self.normalize && plugins.feature_transformation.is_some() {
            return Err(Error::Recipe(
                "`plugins.feature_transformation` mixes unit rows and needs `method.normalize = true`"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

/// The networks and the queue of MoCo.
pub struct MoCo {
    pub(super) parameters: Parameters,
    wiring: Wiring,
    pub(super) backbone: ResNet,
    pub(super) projector: Head,
    key_backbone: ResNet,
    key_projector: Head,
    momentum: Momentum,
    pub(super) queues: Vec<Queue>,
    pub(super) group: Option<GroupBranch>,
    plugins: Plugins,
    config: Config,
}

/// What a direction comes to.
pub(super) struct Contrasted {
    pub(super) loss: Tensor,
    /// Accuracy, positive and negative similarity.
    pub(super) scalars: [f64; 3],
    pub(super) scores: Scores,
}

/// A query view against a key view, and the queue its negatives are in.
struct Direction {
    query: usize,
    key: usize,
    queue: usize,
}

impl MoCo {
    pub(super) fn build(
        config: &Config,
        setup: &Setup<'_>,
        mut parameters: Parameters,
    ) -> Result<Self> {
        let (backbone, projector) =
            passes::encoder(&mut parameters.root(), setup.backbone, &config.projector)?;
        let plugins = setup.plugins.clone();
        let group = GroupBranch::build(&mut parameters, setup, &config.projector)?;
        let mut root = parameters.root();
        let mut place = root.at(momentum::PLACE).frozen();
        let (key_backbone, key_projector) =
            passes::encoder(&mut place, setup.backbone, &config.projector)?;
        let ranks = if config.split_queue { setup.ranks() } else { 1 };
        require(
            config.queue_length.is_multiple_of(ranks),
            "method.queue_length",
            &format!(
                "a multiple of the {ranks} virtual ranks that `method.split_queue` shares it among"
            ),
            config.queue_length,
        )?;
        let queues = (0..config.queues()).map(|index| {
            let mut root = parameters.root();
            let mut place = root.at("queue");
            Queue::build(
                &mut place.at(index),
                config.queue_length,
                projector.outputs(),
                ranks as i64,
            )
        });
        let queues = queues.collect();
        let momentum = Momentum::new(&parameters, true);
        Ok(Self {
            wiring: config.wiring(&plugins, setup.views),
            config: config.clone(),
            parameters,
            backbone,
            projector,
            key_backbone,
            key_projector,
            momentum,
            queues,
            group,
            plugins,
        })
    }

    fn directions(&self) -> Vec<Direction> {
        match self.config.symmetric {
            Symmetric::None => (0..self.wiring.online.len())
                .map(|query| Direction { query, key: 0, queue: 0 })
                .collect(),
            Symmetric::Sum | Symmetric::Mean => [(0, 1), (1, 0)]
                .map(|(query, key)| Direction { query, key, queue: key.min(self.queues.len() - 1) })
                .into(),
        }
    }

    /// One direction. Under feature transformation `streams` tells apart the draws for the positives and for the negatives.
    pub(super) fn contrast(
        &self,
        q: &Tensor,
        k: &Tensor,
        queue: &Queue,
        step: &Step<'_>,
        streams: [u8; 2],
    ) -> Result<Contrasted> {
        let mixing = self.plugins.feature_transformation.as_ref();
        let mixing = mixing.filter(|mixing| mixing.active(step.epoch() as u32));
        let loss = InfoNce { temperature: self.config.temperature };
        let parts = queue.parts();
        let share = q.size()[0] / parts;
        let mut sum = Tensor::from(0.0).to_device(q.device());
        let mut scalars = [0.0; 3];
        let temperature = Some(self.config.temperature);
        let mut scores = Scores { temperature, ..Scores::default() };
        let compared = |queries: &Tensor, positives: &Tensor, queue: &Tensor| Compared {
            queries: queries.detach(),
            positives: positives.detach(),
            negatives: Negatives::Shared(queue.detach(), Excluded::Nothing),
            to_unit: false,
        };
        // One stream for all parts, so that each virtual rank has draws of its own.
        let [mut pairs, mut others] = streams.map(|part| step.stream(Purpose::Mix, part));
        for part in 0..parts {
            let [q, k] = [q, k].map(|rows| rows.narrow(0, part * share, share));
            let queue = queue.part(part);
            scores.plain.push(compared(&q, &k, &queue));
            let found = match mixing {
                None => loss.loss(&q, &k, &queue, step.tile_rows)?,
                Some(mixing) => {
                    let (mixed_q, mixed_k) = mixing.positives(&q, &k, &mut pairs)?;
                    let negatives = mixing.negatives(&queue, &mut others)?;
                    let (rows, keys) = negatives.align(&mixed_q, &mixed_k, &q);
                    scores.transformed.push(compared(&rows, &keys, &negatives.columns));
                    loss.loss(&rows, &keys, &negatives.columns, step.tile_rows)?
                }
            };
            sum += found.loss / parts as f64;
            // Mixed rows have other cosines than the network gives, which is what the sentinels ask about.
            let [positive, negative] = if mixing.is_some() {
                plain_similarities(&q, &k, &queue)
            } else {
                [found.positive_similarity, found.negative_similarity]
            };
            let told = [found.accuracy, positive, negative];
            scalars.iter_mut().zip(told).for_each(|(sum, value)| *sum += value / parts as f64);
        }
        Ok(Contrasted { loss: sum, scalars, scores })
    }

    /// Keys `[N, d]` of every target view, from target rows `[V, N, F]`.
    pub(super) fn keys(&self, targets: &Tensor) -> Vec<Tensor> {
        let keys = no_grad(|| passes::head_apart(&self.key_projector, &targets.unbind(0)));
        keys.iter().map(|k| self.length(k)).collect()
    }

    /// A projection as it is compared.
    pub(super) fn length(&self, rows: &Tensor) -> Tensor {
        let rows = if rows.kind() == Kind::Double {
            rows.shallow_clone()
        } else {
            rows.to_kind(Kind::Float)
        };
        if self.config.normalize { unit_rows(&rows) } else { rows }
    }
}

/// Mean product of queries and their keys, and of queries and the queue.
fn plain_similarities(q: &Tensor, k: &Tensor, queue: &Tensor) -> [f64; 2] {
    let mean = |rows: &Tensor| rows.detach().mean_dim(0, false, Kind::Double);
    let positive = row_dot(&q.detach(), k).mean(Kind::Double).double_value(&[]);
    [positive, mean(q).dot(&mean(queue)).double_value(&[])]
}

impl Method for MoCo {
    fn wiring(&self) -> &Wiring {
        &self.wiring
    }

    fn embed(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor {
        passes::apart(&self.backbone, views, groups, statistics)
    }

    fn targets(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor {
        passes::apart(&self.key_backbone, views, groups, statistics)
    }

    fn targets_order(&self, step: &Step<'_>) -> Option<Vec<usize>> {
        let images = step.indices.len();
        self.config.shuffle.then(|| step.stream(Purpose::KeyOrder, 0).permutation(images))
    }

    fn objective(&self, rows: &Rows, step: &Step<'_>) -> Result<Objective> {
        let (features, targets) = (self.backbone.features(), rows.targets()?);
        shape::check("rows", &rows.online, &[self.wiring.online.len() as i64, -1, features])?;
        shape::check("target rows", targets, &[self.wiring.targets.len() as i64, -1, features])?;
        let h = rows.online.detach().set_requires_grad(true);
        let taps = passes::heads_apart(&self.projector, &h);
        let z = passes::outputs(&taps);
        let q: Vec<Tensor> = z.iter().map(|z| self.length(z)).collect();
        let k = self.keys(targets);

        let directions = self.directions();
        let weight = if self.config.symmetric == Symmetric::Sum {
            1.0
        } else {
            1.0 / directions.len() as f64
        };
        let mut loss = Tensor::from(0.0).to_device(h.device());
        let mut told = [0.0; 3];
        let mut compared = None; // of the first direction
        for (index, Direction { query, key, queue }) in (0..).zip(&directions) {
            let queue = &self.queues[*queue];
            let Contrasted { loss: part, scalars, scores } =
                self.contrast(&q[*query], &k[*key], queue, step, [2 * index, 2 * index + 1])?;
            loss += part * weight;
            compared.get_or_insert(scores);
            let share = directions.len() as f64;
            told.iter_mut().zip(scalars).for_each(|(sum, value)| *sum += value / share);
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
        let mut objective = Objective::backward(&loss, &h, &Tensor::cat(&z, 0)).with(scalars);
        objective.carried = k;
        objective.scores = compared;
        Ok(objective)
    }

    fn after_step(&self, carried: &[Tensor], step: &Step<'_>) {
        let ends = [self.config.momentum, self.config.momentum_end];
        self.momentum.update(self.config.momentum_schedule.at(ends, step.progress()));
        match self.queues.as_slice() {
            [queue] => carried.iter().for_each(|keys| queue.push(keys)),
            queues => queues.iter().zip(carried).for_each(|(queue, keys)| queue.push(keys)),
        }
    }

    fn inherited(&self) {
        self.momentum.copy();
    }

    fn stuck_at(&self, _batch_size: usize) -> Option<Constant> {
        let keys = self.config.queue_length / self.queues[0].parts() as usize;
        let mean = (1.0 + keys as f64).ln();
        let constant = match self.config.symmetric {
            Symmetric::Sum => Constant { value: 2.0 * mean, formula: "2 ln(1 + K)" },
            Symmetric::None | Symmetric::Mean => Constant { value: mean, formula: "ln(1 + K)" },
        };
        Some(constant).filter(|_| self.group.is_none())
    }

    fn suspects(&self) -> Vec<&'static str> {
        if self.config.normalize { Vec::new() } else { vec!["`method.normalize = false`"] }
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn backbone(&self) -> &ResNet {
        &self.backbone
    }
}
