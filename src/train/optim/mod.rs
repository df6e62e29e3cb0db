//! Optimizers: what moves the weights, as tensor arithmetic whose state is ordinary named tensors.

mod config;
mod rules;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::model::Parameters;
pub use config::{Adam, Exclude, Lars, LarsForm, OptimizerConfig, Scaling, Sgd};
use rules::{Moments, Move};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// Moves the trainable parameters of one network along their gradients.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    slots: Vec<Slot>,
}

/// One parameter and what the optimizer remembers of it.
#[derive(Debug)]
struct Slot {
    name: String,
    weight: Tensor,
    decays: bool,
    adapts: bool,
    /// What its learning rate is multiplied with.
    share: f64,
    /// Its learning rate in place of that of the step.
    held: Option<f64>,
    memory: Memory,
}

/// What is remembered, of the weight's kind and memory layout.
#[derive(Debug)]
enum Memory {
    Momentum(Tensor),
    Moments(Moments),
}

impl Optimizer {
    /// An optimizer over the trainable tensors of `parameters`, sharing them; all it remembers starts at 0.
    pub fn new(config: OptimizerConfig, parameters: &Parameters) -> Self {
        let slots = parameters
            .trainable()
            .map(|parameter| {
                let zeros = || parameter.tensor.detach().zeros_like();
                Slot {
                    name: parameter.name.clone(),
                    weight: parameter.tensor.shallow_clone(),
                    decays: !config.excludes(parameter),
                    adapts: config.adapts(parameter),
                    share: config.share(parameter),
                    held: None,
                    memory: match config {
                        OptimizerConfig::Sgd(_) | OptimizerConfig::Lars(_) => {
                            Memory::Momentum(zeros())
                        }
                        OptimizerConfig::Adam(_) | OptimizerConfig::AdamW(_) => {
                            let steps = Tensor::zeros([], (Kind::Int64, Device::Cpu));
                            Memory::Moments(Moments { first: zeros(), second: zeros(), steps })
                        }
                    },
                }
            })
            .collect();
        Self { config, slots }
    }

    /// The same optimizer, in which the parameters whose names start with one of `prefixes` have the learning rate
    /// `learning_rate` at every step: SimSiam's predictor, whose rate does not decay (Chen and He 2020, arXiv:2011.10566,
    /// §4.2).
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the first prefix that no trainable parameter has, and those there are.
    pub fn hold(mut self, prefixes: &[String], learning_rate: f64) -> Result<Self> {
        for prefix in prefixes {
            let (mut named, mut found) = (Vec::new(), false);
            for slot in &mut self.slots {
                if slot.name.starts_with(prefix) {
                    (slot.held, found) = (Some(learning_rate), true);
                }
                named.push(slot.name.split_inclusive('.').next().unwrap_or_default());
            }
            if !found {
                named.dedup();
                return Err(Error::Recipe(format!(
                    "`train.schedule.constant`: no parameter's name starts with `{prefix}`; they start with `{}`",
                    named.join("`, `")
                )));
            }
        }
        Ok(self)
    }

    /// One step in place; a parameter without a gradient, or that asks for none now, stays as it is. Gradients are read, not cleared.
    pub fn step(&mut self, learning_rate: f64) {
        tch::no_grad(|| {
            for slot in &mut self.slots {
                let gradient = slot.weight.grad();
                if !(gradient.defined() && slot.weight.requires_grad()) {
                    continue;
                }
                let learning_rate = slot.held.unwrap_or(learning_rate) * slot.share;
                let (decays, adapts) = (slot.decays, slot.adapts);
                let (weight, gradient) = (&mut slot.weight, &gradient);
                let step = Move { weight, gradient, decays, adapts, learning_rate };
                match (&self.config, &mut slot.memory) {
                    (OptimizerConfig::Sgd(sgd), Memory::Momentum(v)) => rules::sgd(sgd, step, v),
                    (OptimizerConfig::Lars(lars), Memory::Momentum(v)) => {
                        rules::lars(lars, step, v);
                    }
                    (OptimizerConfig::Adam(adam), Memory::Moments(moments)) => {
                        rules::adam(adam, step, moments, false);
                    }
                    (OptimizerConfig::AdamW(adam), Memory::Moments(moments)) => {
                        rules::adam(adam, step, moments, true);
                    }
                    _ => unreachable!("the memory was made for the optimizer"),
                }
            }
        });
    }

    /// Everything remembered, in the parameters' order, shared and not copied: `optimizer.<parameter>.momentum`, or with
    /// Adam `.first_moment`, `.second_moment` and `.steps` (a whole number).
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.slots.iter().flat_map(Slot::state).collect()
    }

    /// Overwrites everything remembered with what [`Optimizer::state`] gave.
    ///
    /// # Errors
    /// [`Error::Weights`] if a tensor is missing or of another shape; nothing is changed then.
    pub fn load_state(&mut self, values: &BTreeMap<String, Tensor>) -> Result<()> {
        let state = self.state();
        for (name, tensor) in &state {
            let expected = tensor.size();
            match values.get(name).map(Tensor::size) {
                Some(found) if found == expected => {}
                Some(found) => {
                    return Err(Error::Weights(format!(
                        "`{name}` must have shape {expected:?}, found {found:?}"
                    )));
                }
                None => return Err(Error::Weights(format!("no tensor named `{name}`"))),
            }
        }
        tch::no_grad(|| {
            for (name, mut tensor) in state {
                tensor.copy_(&values[&name]);
            }
        });
        Ok(())
    }
}

impl Slot {
    fn state(&self) -> Vec<(String, Tensor)> {
        let named = match &self.memory {
            Memory::Momentum(momentum) => vec![("momentum", momentum)],
            Memory::Moments(Moments { first, second, steps }) => {
                vec![("first_moment", first), ("second_moment", second), ("steps", steps)]
            }
        };
        let name = |what| format!("optimizer.{}.{what}", self.name);
        named.into_iter().map(|(what, tensor)| (name(what), tensor.shallow_clone())).collect()
    }
}

/// Euclidean length of the gradient of all trainable parameters together: infinite or NaN exactly if some gradient holds
/// an infinity or NaN. Parameters without a gradient count as 0.
pub fn gradient_norm(parameters: &Parameters) -> f64 {
    length(&gradient_norms(parameters))
}

/// Euclidean length of the gradient of each trainable parameter, in the order of [`Parameters::trainable`]; 0 without one.
///
/// Each tensor is summed in its own kind, which is several times faster, and only if one of them overflows in f64, where
/// the squares of every finite f32 fit.
pub fn gradient_norms(parameters: &Parameters) -> Vec<f64> {
    let gradients: Vec<Tensor> = parameters.trainable().map(|p| p.tensor.grad()).collect();
    let norms = |norm: fn(&Tensor) -> Tensor| -> Vec<f64> {
        let some: Vec<&Tensor> = gradients.iter().filter(|gradient| gradient.defined()).collect();
        if some.is_empty() {
            return vec![0.0; gradients.len()];
        }
        let found: Vec<Tensor> = some.iter().map(|g| norm(g).to_kind(Kind::Double)).collect();
        let found = Vec::<f64>::try_from(Tensor::stack(&found, 0).to_device(Device::Cpu));
        let mut found = found.expect("a list of f64 is one").into_iter();
        let of = |gradient: &Tensor| if gradient.defined() { found.next() } else { None };
        gradients.iter().map(of).map(Option::unwrap_or_default).collect()
    };
    let quick = norms(Tensor::norm);
    if quick.iter().all(|norm| norm.is_finite()) {
        quick
    } else {
        norms(|g| g.norm_scalaropt_dtype(2.0, Kind::Double))
    }
}

/// Length of a vector of lengths.
pub fn length(norms: &[f64]) -> f64 {
    norms.iter().map(|norm| norm * norm).sum::<f64>().sqrt()
}
