//! What one step does to one parameter. Nothing here waits for the device: norms stay tensors of no dimension.

use super::config::{Adam, Lars, LarsForm, Sgd};
use tch::Tensor;

/// Added to the gradient's length by the forms of LARS that do so.
const LARS_EPSILON: f64 = 1e-8;

/// A parameter in the middle of a step.
pub(super) struct Move<'a> {
    pub(super) weight: &'a mut Tensor,
    pub(super) gradient: &'a Tensor,
    /// Whether weight decay holds for it.
    pub(super) decays: bool,
    /// Whether LARS scales its step.
    pub(super) adapts: bool,
    pub(super) learning_rate: f64,
}

pub(super) fn sgd(config: &Sgd, step: Move<'_>, velocity: &mut Tensor) {
    let Move { weight, gradient, decays, learning_rate, .. } = step;
    let decay = if decays { config.weight_decay } else { 0.0 };
    *velocity *= config.momentum;
    *velocity += gradient;
    add_scaled(velocity, weight, decay);
    if config.nesterov {
        let mut direction = &*velocity * config.momentum;
        direction += gradient;
        add_scaled(&mut direction, weight, decay);
        add_scaled(weight, &direction, -learning_rate);
    } else {
        add_scaled(weight, velocity, -learning_rate);
    }
}

pub(super) fn lars(config: &Lars, step: Move<'_>, velocity: &mut Tensor) {
    let Move { weight, gradient, decays, adapts, learning_rate } = step;
    let form = config.form;
    let inside = if form == LarsForm::Tf { learning_rate } else { 1.0 };
    *velocity *= config.momentum;
    if !adapts {
        add_scaled(velocity, gradient, inside);
        add_scaled(velocity, weight, if decays { inside * config.weight_decay } else { 0.0 });
    } else if form == LarsForm::Popular {
        *velocity += gradient;
        add_scaled(velocity, weight, config.weight_decay);
    } else {
        let (direction, trust) = adapted(config, weight, gradient, learning_rate);
        let _ = velocity.addcmul_(&direction, &(trust * inside));
    }
    match form {
        LarsForm::Tf => *weight -= &*velocity,
        LarsForm::Popular if adapts => {
            let trust = ratio(&(weight.norm() * config.trust), &velocity.norm());
            let _ = weight.addcmul_(velocity, &(trust * -learning_rate));
        }
        _ => add_scaled(weight, velocity, -learning_rate),
    }
}

/// The decayed gradient and its trust.
fn adapted(
    config: &Lars,
    weight: &Tensor,
    gradient: &Tensor,
    learning_rate: f64,
) -> (Tensor, Tensor) {
    let weight_norm = weight.norm();
    let decay = config.weight_decay;
    if matches!(config.form, LarsForm::Tf | LarsForm::Byol) {
        let mut decayed = weight * decay;
        decayed += gradient;
        let trust = ratio(&(weight_norm * config.trust), &decayed.norm());
        return (decayed, trust);
    }
    let gradient_norm = gradient.norm();
    let both = weight_norm.gt(0.0).logical_and(&gradient_norm.gt(0.0));
    let mut decayed = weight * (both.to_kind(weight.kind()) * decay);
    decayed += gradient;
    let bound = gradient_norm + &weight_norm * decay + LARS_EPSILON;
    let mut trust = weight_norm * config.trust / bound;
    if config.clip {
        trust = (trust / learning_rate).clamp_max(1.0);
    }
    let trust = trust.where_self(&both, &trust.ones_like());
    (decayed, trust)
}

/// The quotient of two lengths, 1 where one of them is 0.
fn ratio(numerator: &Tensor, denominator: &Tensor) -> Tensor {
    let both = numerator.gt(0.0).logical_and(&denominator.gt(0.0));
    (numerator / denominator).where_self(&both, &numerator.ones_like())
}

/// What Adam remembers of a parameter.
#[derive(Debug)]
pub(super) struct Moments {
    /// Running mean of the gradient.
    pub(super) first: Tensor,
    /// Running mean of its square.
    pub(super) second: Tensor,
    /// Steps taken, a whole number on the CPU.
    pub(super) steps: Tensor,
}

/// `decoupled` is `AdamW`.
pub(super) fn adam(config: &Adam, step: Move<'_>, moments: &mut Moments, decoupled: bool) {
    let Move { weight, gradient, decays, learning_rate, .. } = step;
    let decay = if decays { config.weight_decay } else { 0.0 };
    let gradient = if decay > 0.0 && !decoupled {
        gradient + &*weight * decay
    } else {
        gradient.shallow_clone()
    };
    if decay > 0.0 && decoupled {
        *weight *= 1.0 - learning_rate * decay;
    }
    let [beta1, beta2] = config.betas;
    moments.steps += 1;
    let _ = moments.first.lerp_(&gradient, 1.0 - beta1);
    let _ = moments.second.lerp_(&gradient.square(), 1.0 - beta2);
    let steps = moments.steps.int64_value(&[]) as f64;
    let mut scale = moments.second.sqrt();
    scale /= (1.0 - beta2.powf(steps)).sqrt();
    scale += config.epsilon;
    add_scaled(weight, &(&moments.first / scale), -learning_rate / (1.0 - beta1.powf(steps)));
}

/// `sum += scale · tensor` without a temporary.
fn add_scaled(sum: &mut Tensor, tensor: &Tensor, scale: f64) {
    if scale != 0.0 {
        let _ = sum.addcmul_(tensor, &Tensor::full([], scale, (sum.kind(), sum.device())));
    }
}
