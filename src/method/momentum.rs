//! Networks that follow others: exponential moving averages of weights (He et al. 2020, arXiv:1911.05722, Eq. 2).

use crate::error::{Error, Result};
use crate::method::require;
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
    /// It goes to its last value m′ along half a cosine, m′ − (m′ − m)(cos πt + 1)/2 at share t of the run: to 1 in BYOL
    /// (§3.3), to 0.999 in solo-learn's MoCo v2.
    Cosine,
}

impl MomentumSchedule {
    /// The momentum at a share of the run in [0, 1], for its first and its last value.
    pub fn at(self, [first, last]: [f64; 2], progress: f64) -> f64 {
        match self {
            Self::Constant => first,
            Self::Cosine => {
                last - (last - first) * ((std::f64::consts::PI * progress).cos() + 1.0) / 2.0
            }
        }
    }

    /// Refuses values out of range, and a last one that nothing goes to.
    pub(super) fn check(self, [first, last]: [f64; 2]) -> Result<()> {
        require((0.0..=1.0).contains(&first), "method.momentum", "from 0 to 1", first)?;
        require((0.0..=1.0).contains(&last), "method.momentum_end", "from 0 to 1", last)?;
        if self == Self::Constant && last < 1.0 {
            return Err(Error::Recipe(format!(
                "`method.momentum_end` is what `method.momentum_schedule = \"cosine\"` goes to; leave it out where the \
                 momentum stays, found `{last}`"
            )));
        }
        Ok(())
    }
}

/// Pairs of tensors of which one follows the other. Running statistics are not averaged: a network that follows runs in
/// training mode and keeps its own.
#[derive(Debug)]
pub struct Momentum {
    pairs: Vec<[Tensor; 2]>,
    /// Running statistics, which are equal at the start alone.
    buffers: Vec<[Tensor; 2]>,
}

impl Momentum {
    /// Pairs every `momentum.X` with its `X`. With `copy` both start equal, buffers included; else each from its own draw.
    pub fn new(parameters: &Parameters, copy: bool) -> Self {
        let all = parameters.all();
        let follows = |name: &str| name.strip_prefix(PLACE)?.strip_prefix('.').map(str::to_owned);
        let (mut pairs, mut buffers) = (Vec::new(), Vec::new());
        for follower in all {
            let Some(name) = follows(&follower.name) else { continue };
            let leader = all.iter().find(|leader| leader.name == name);
            let leader = leader.expect("what follows is built like what it follows");
            let pair = [follower.tensor.shallow_clone(), leader.tensor.shallow_clone()];
            if leader.trained { pairs.push(pair) } else { buffers.push(pair) }
        }
        let found = Self { pairs, buffers };
        if copy {
            found.copy();
        }
        found
    }

    /// Makes what follows equal to what it follows, buffers included.
    pub fn copy(&self) {
        no_grad(|| {
            for [follower, leader] in self.pairs.iter().chain(&self.buffers) {
                follower.shallow_clone().copy_(leader);
            }
        });
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
