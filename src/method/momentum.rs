//! Networks that follow others: exponential moving averages of weights (He et al. 2020, arXiv:1911.05722, Eq. 2).

use crate::model::Parameters;
use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

/// Name below which the networks that follow lie; `momentum.X` follows `X`.
pub const PLACE: &str = "momentum";

/// How the momentum changes over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MomentumSchedule {
    /// It stays (MoCo).
    #[default]
    Constant,
    /// It rises to 1 along half a cosine, 1 − (1 − m)(cos πt + 1)/2 at share t of the run (BYOL, §3.3).
    Cosine,
}

impl MomentumSchedule {
    /// The momentum at a share of the run in [0, 1], for its first value.
    pub fn at(self, first: f64, progress: f64) -> f64 {
        match self {
            Self::Constant => first,
            Self::Cosine => {
                1.0 - (1.0 - first) * ((std::f64::consts::PI * progress).cos() + 1.0) / 2.0
            }
        }
    }
}

/// Pairs of weights of which one follows the other. Running statistics are not averaged: a network that follows runs in
/// training mode and keeps its own.
#[derive(Debug)]
pub struct Momentum {
    pairs: Vec<[Tensor; 2]>,
}

impl Momentum {
    /// Pairs every `momentum.X` with its `X`. With `copy` both start equal, buffers included; else each from its own draw.
    pub fn new(parameters: &Parameters, copy: bool) -> Self {
        let all = parameters.all();
        let follows = |name: &str| name.strip_prefix(PLACE)?.strip_prefix('.').map(str::to_owned);
        let mut pairs = Vec::new();
        for follower in all {
            let Some(name) = follows(&follower.name) else { continue };
            let leader = all.iter().find(|leader| leader.name == name);
            let leader = leader.expect("what follows is built like what it follows");
            if copy {
                no_grad(|| follower.tensor.shallow_clone().copy_(&leader.tensor));
            }
            if leader.trained {
                pairs.push([follower.tensor.shallow_clone(), leader.tensor.shallow_clone()]);
            }
        }
        Self { pairs }
    }

    /// θ' ← m θ' + (1 − m) θ, in the kind of the weights.
    pub fn update(&self, momentum: f64) {
        no_grad(|| {
            for [follower, leader] in &self.pairs {
                let _ = follower.shallow_clone().lerp_(leader, 1.0 - momentum);
            }
        });
    }
}
