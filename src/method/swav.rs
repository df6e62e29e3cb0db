//! `SwAV`: swapping assignments between views.
//!
//! **Paper.** Caron et al. 2020, "Unsupervised learning of visual features by contrasting cluster assignments",
//! arXiv:2006.09882. Code: facebookresearch/swav.
//!
//! **Idea.** Each view of an image is compared with learned prototypes. Which prototypes a large view belongs to, its code,
//! is to be predicted from every other view. Codes are worked out for the batch together, so that all prototypes are used
//! about equally (Sinkhorn and Knopp): that keeps the method from collapsing without negatives.
//!
//! **Symbols.** f backbone, h = f(x) features; g projector, z = g(h) / |g(h)| embeddings; C prototypes `[K, d]` of unit
//! length, z·c scores; q codes; τ temperature, ε that of the codes.
//! `L = -1/A Σ_{a<A} 1/(V-1) Σ_{v≠a} Σ_k q_ak ln softmax(z_v Cᵀ / τ)_k` (Eq. 2, with multi-crop Eq. 6).
//!
//! **Queue.** A small batch cannot use all prototypes, so that codes are worked out together with those of embeddings from
//! earlier steps, compared with the prototypes of now; a queue for each assigned view, in use once it is full. Codes see it
//! as it was before this step's embeddings.
//!
//! **Feature transformation.** The embeddings of the first two views are mixed before they are compared with the
//! prototypes; scores and codes follow from the mixed ones. The queue receives the original ones.
//!
//! **Deviations.** Linear layers before a batch norm have no bias. While the prototypes are frozen no gradient is made for
//! them, where the official code drops it: nothing moves them either way, weight decay and momentum included. A queue whose
//! length the batch does not divide keeps that length, which the official code rounds down.
//!
//! **Cost.** A forward and backward pass for each view, V·N·K scores.

use crate::error::Result;
use crate::loss::swapped::{prototype_usage, sinkhorn, swapped_prediction};
use crate::method::compared::Scores;
use crate::method::group_branch::GroupBranch;
use crate::method::queue::Queue;
use crate::method::{
    Constant, Fits, Held, Method, Objective, Rows, Settings, Setup, Step, Wiring, passes,
    prediction, require,
};
use crate::model::heads::{Head, HeadConfig, HeadInitialization, OutputNorm};
use crate::model::resnet::ResNet;
use crate::model::{BackboneConfig, Parameters, Phase, Role, Statistics};
use crate::plugin::Plugins;
use crate::random::Purpose;
use crate::rows::{row_dot, unit_rows};
use crate::shape;
use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

/// Settings of `SwAV`; the defaults are those for batches of 4096 images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// g.
    pub projector: HeadConfig,
    /// K, prototypes, from 2 to 1048576.
    pub prototypes: usize,
    /// τ, above 0.
    pub temperature: f64,
    /// ε, above 0; larger ones smooth the codes. Where images are alike and the loss stays at ln K, 0.03 or less.
    pub epsilon: f64,
    /// Rounds of Sinkhorn and Knopp, at most 1000. With 0 codes are a softmax of the scores, and training collapses.
    pub sinkhorn_iterations: u32,
    /// A: the first views of the recipe, whose codes are predicted; at least 1.
    pub assigned_crops: usize,
    /// Embeddings in the queue of each assigned view: 3840 for batches of 256, 0 for none.
    pub queue_length: usize,
    /// Whole epochs before the queue begins to fill.
    pub queue_start_epoch: u64,
    /// Optimizer steps at the start in which the prototypes stay as they are: 313, or 5005 for batches of 256, an epoch of
    /// ImageNet.
    pub freeze_prototypes_steps: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            projector: HeadConfig {
                hidden: Some(2048),
                output_batch_norm: OutputNorm::None,
                initialization: HeadInitialization::PyTorch,
                ..HeadConfig::default()
            },
            prototypes: 3000,
            temperature: 0.1,
            epsilon: 0.05,
            sinkhorn_iterations: 3,
            assigned_crops: 2,
            queue_length: 0,
            queue_start_epoch: 15,
            freeze_prototypes_steps: 313,
        }
    }
}

impl Settings for Config {
    fn wiring(&self, _plugins: &Plugins, views: usize) -> Wiring {
        Wiring::online(views.max(self.assigned_crops).max(2))
    }

    fn held(&self, backbone: &BackboneConfig, views: usize, batch: usize, _images: usize) -> Held {
        let width = self.projector.output;
        let queues = self.assigned_crops * self.queue_length * width;
        let heads =
            self.projector.parameter_count(backbone.features()) + (self.prototypes * width) as u64;
        // Scores, their log-softmax and their gradient; codes with those of a queue.
        let compared = 3 * views * batch + self.assigned_crops * batch + 2 * self.queue_length;
        let state = (queues + compared * self.prototypes) as u64 + Held::TRAINED * heads;
        Held { columns: self.prototypes, state }
    }

    fn fits(&self) -> Fits {
        Fits {
            feature_transformation: Ok("the embeddings of the first two views, extrapolated"),
            cross_level: Ok("on the features of the first two views"),
            guided_stop_gradient: Err(
                "what is predicted is a code, never a view's own projection: there is no distance to choose a side by",
            ),
        }
    }

    fn check(&self, plugins: &Plugins) -> Result<()> {
        self.projector.check("method.projector")?;
        for (key, value) in
            [("method.temperature", self.temperature), ("method.epsilon", self.epsilon)]
        {
            require(value.is_finite() && value > 0.0, key, "above 0", value)?;
        }
        let (k, most) = (self.prototypes, 1 << 20);
        require((2..=most).contains(&k), "method.prototypes", "from 2 to 1048576", k)?;
        let rounds = self.sinkhorn_iterations;
        require(rounds <= 1000, "method.sinkhorn_iterations", "at most 1000", rounds)?;
        require(self.assigned_crops >= 1, "method.assigned_crops", "at least 1", 0)?;
        let length = self.queue_length;
        require(length <= 1 << 24, "method.queue_length", "at most 16777216", length)?;
        prediction::check_mixing(plugins)
    }
}

/// The networks, prototypes and queues of `SwAV`.
pub struct SwAv {
    parameters: Parameters,
    wiring: Wiring,
    backbone: ResNet,
    projector: Head,
    prototypes: Tensor,
    queues: Vec<Queue>,
    group: Option<GroupBranch>,
    plugins: Plugins,
    config: Config,
}

impl SwAv {
    pub(super) fn build(
        config: &Config,
        setup: &Setup<'_>,
        mut parameters: Parameters,
    ) -> Result<Self> {
        let (backbone, projector) =
            passes::encoder(&mut parameters.root(), setup.backbone, &config.projector)?;
        let width = projector.outputs();
        let bound = (width as f64).sqrt().recip();
        let prototypes = parameters.root().at("prototypes").add(
            "weight",
            Role::Weight,
            &[config.prototypes as i64, width],
            |stream| stream.range(-bound, bound),
        );
        bring_to_unit_length(&prototypes);
        let plugins = setup.plugins.clone();
        let group = GroupBranch::build(&mut parameters, setup, &config.projector)?;
        let count = if config.queue_length == 0 { 0 } else { config.assigned_crops };
        let queues = (0..count).map(|index| {
            let mut root = parameters.root();
            let mut place = root.at("queue");
            Queue::empty(&mut place.at(index), config.queue_length, width)
        });
        let queues = queues.collect();
        let wiring = config.wiring(&plugins, setup.views);
        let config = config.clone();
        Ok(Self {
            parameters,
            wiring,
            backbone,
            projector,
            prototypes,
            queues,
            group,
            plugins,
            config,
        })
    }

    /// Whether the prototypes stay as they are at this step.
    fn frozen(&self, step: &Step<'_>) -> bool {
        step.index < self.config.freeze_prototypes_steps
    }

    /// Embeddings as they are compared with the prototypes.
    fn transformed(&self, z: &[Tensor], step: &Step<'_>) -> Result<Vec<Tensor>> {
        let mut z: Vec<Tensor> = z.iter().map(Tensor::shallow_clone).collect();
        let mixing = self.plugins.feature_transformation.as_ref();
        if let Some(mixing) = mixing.filter(|mixing| mixing.active(step.epoch() as u32)) {
            let mut stream = step.stream(Purpose::Mix, 0);
            (z[0], z[1]) = mixing.crops(&z[0], &z[1], &mut stream)?;
        }
        Ok(z)
    }

    /// The codes `[N, K]` of an assigned view from its scores.
    fn codes(&self, scores: &Tensor, crop: usize, prototypes: &Tensor) -> Result<Tensor> {
        let Config { epsilon, sinkhorn_iterations, .. } = self.config;
        match self.queues.get(crop).filter(|queue| queue.is_full()) {
            None => sinkhorn(scores, epsilon, sinkhorn_iterations),
            Some(queue) => {
                let earlier = no_grad(|| queue.part(0).matmul(&prototypes.tr()));
                let all = Tensor::cat(&[&earlier, &scores.detach()], 0);
                let codes = sinkhorn(&all, epsilon, sinkhorn_iterations)?;
                Ok(codes.narrow(0, earlier.size()[0], scores.size()[0]))
            }
        }
    }
}

/// Where they lie. The official code does it at the start of each step; behind the optimizer a step that is left out, or
/// begun again after a stop, changes nothing.
fn bring_to_unit_length(prototypes: &Tensor) {
    no_grad(|| prototypes.shallow_clone().copy_(&unit_rows(prototypes)));
}

impl Method for SwAv {
    fn wiring(&self) -> &Wiring {
        &self.wiring
    }

    fn embed(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor {
        passes::together(&self.backbone, views, groups, statistics)
    }

    fn objective(&self, rows: &Rows, step: &Step<'_>) -> Result<Objective> {
        let views = self.wiring.online.len() as i64;
        shape::check("rows", &rows.online, &[views, -1, self.backbone.features()])?;
        let h = rows.online.detach().set_requires_grad(true);
        // The optimizer leaves alone what asks for no gradient, also where an earlier step has left one behind.
        let prototypes = self.prototypes.set_requires_grad(!self.frozen(step));
        // All views through the head together.
        let phase = Phase::Training { groups: 1, statistics: Statistics::Move { seen: 0, of: 1 } };
        let taps = self.projector.forward_taps(&h.flatten(0, 1), phase);
        let projections = &taps[taps.len() - 1]; // [V·N, d]
        let z = unit_rows(projections).chunk(views, 0);
        let transformed = self.transformed(&z, step)?;
        let scores: Vec<Tensor> = transformed.iter().map(|z| z.matmul(&prototypes.tr())).collect();
        let codes: Result<Vec<Tensor>> = (0..self.config.assigned_crops)
            .map(|crop| self.codes(&scores[crop], crop, &prototypes))
            .collect();
        let mut loss = swapped_prediction(&scores, &codes?, self.config.temperature)?;

        let nearest = Tensor::cat(&scores.iter().map(Tensor::detach).collect::<Vec<_>>(), 0);
        let possible = nearest.size()[0] as f64 / self.config.prototypes as f64;
        // A share of the prototypes that so many rows can use.
        let usage = prototype_usage(&nearest)? / possible.min(1.0);
        let mut scalars = vec![("prototype_usage", usage)];
        scalars.extend(prediction::similarities(&z[0], &z[1]));
        if let Some(group) = &self.group {
            let (more, told) = group.loss(&taps, step)?;
            loss += more;
            scalars.extend(told);
        }
        let mixing = self.plugins.feature_transformation.as_ref();
        let cosines = mixing
            .filter(|mixing| mixing.active(step.epoch() as u32))
            .map(|_| row_dot(&transformed[0].detach(), &transformed[1].detach()));
        let compared = Scores::pairs(&z[0], &z[1], cosines.as_ref());
        let objective = Objective::backward(&loss, &h, projections);
        let mut objective = objective.with(scalars).comparing(compared);
        objective.carried = z[..self.queues.len()].iter().map(Tensor::detach).collect();
        Ok(objective)
    }

    fn after_step(&self, carried: &[Tensor], step: &Step<'_>) {
        if !self.frozen(step) {
            bring_to_unit_length(&self.prototypes);
        }
        if step.epoch() >= self.config.queue_start_epoch {
            self.queues.iter().zip(carried).for_each(|(queue, z)| queue.push(z));
        }
    }

    fn stuck_at(&self, _batch_size: usize) -> Option<Constant> {
        let value = (self.config.prototypes as f64).ln();
        Some(Constant { value, formula: "ln K" }).filter(|_| self.group.is_none())
    }

    fn suspects(&self) -> Vec<&'static str> {
        if self.config.sinkhorn_iterations == 0 {
            vec!["`method.sinkhorn_iterations = 0`"]
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
mod tests;
