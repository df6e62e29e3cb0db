//! Optimizers: what moves the weights, as tensor arithmetic whose state is ordinary named tensors.

use crate::error::{Error, Result};
use crate::model::{Parameter, Parameters, Role};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Which optimizer moves the weights, and its settings.
///
/// ```toml
/// optimizer = { name = "sgd", learning_rate = 0.06, scaling = "linear", momentum = 0.9, weight_decay = 5e-4 }
/// optimizer = { name = "lars", learning_rate = 0.3, weight_decay = 1e-6 }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum OptimizerConfig {
    /// Stochastic gradient descent with momentum.
    Sgd(Sgd),
    /// Layer-wise adaptive rate scaling, for large batches.
    Lars(Lars),
}

/// Stochastic gradient descent in PyTorch's form: `v ← μ·v + g + wd·w`, `w ← w - lr·v`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sgd {
    /// Base learning rate, above 0; `scaling` says what it is multiplied with.
    pub learning_rate: f64,
    /// How the learning rate follows the batch size.
    #[serde(default)]
    pub scaling: Scaling,
    /// μ, in [0, 1).
    #[serde(default = "default_momentum")]
    pub momentum: f64,
    /// wd, at least 0; added to the gradient.
    pub weight_decay: f64,
    /// Nesterov's look-ahead: the weight moves along `g + wd·w + μ·v`.
    #[serde(default)]
    pub nesterov: bool,
    /// Parameters that do not decay. `none` is what MoCo and SimSiam do.
    #[serde(default = "exclude_nothing")]
    pub exclude: Exclude,
}

/// LARS (You et al. 2017, arXiv:1708.03888, Algorithm 1) as the official SimCLR code has it: with `g ← g + wd·w` first,
/// `v ← μ·v + lr·trust·g`, `w ← w - v`, `trust = η·‖w‖/‖g‖`, and trust 1 where either norm is 0.
///
/// The learning rate is inside the momentum buffer, which differs from `w ← w - lr·v` (BYOL, Barlow Twins) while a
/// schedule changes it; and the norm is that of the decayed gradient, not the paper's `‖g‖ + wd·‖w‖`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lars {
    /// Base learning rate, above 0; `scaling` says what it is multiplied with.
    pub learning_rate: f64,
    /// How the learning rate follows the batch size.
    #[serde(default)]
    pub scaling: Scaling,
    /// μ, in [0, 1).
    #[serde(default = "default_momentum")]
    pub momentum: f64,
    /// wd, at least 0; added to the gradient.
    pub weight_decay: f64,
    /// η, above 0: share of its own length a weight may move at learning rate 1.
    #[serde(default = "default_trust")]
    pub trust: f64,
    /// Parameters that neither decay nor adapt, so `trust` is 1 for them.
    #[serde(default = "exclude_bn_bias")]
    pub exclude: Exclude,
}

/// How a learning rate follows the batch size (images of the whole batch, not views).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// `base · batch / 256` (Goyal et al. 2017, arXiv:1706.02677, §2.1; SimCLR §2.2).
    #[default]
    Linear,
    /// `base · √batch` (SimCLR, appendix B.1).
    Sqrt,
    /// `base`.
    None,
}

/// Which parameters an optimizer treats without weight decay (and LARS without trust ratio).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exclude {
    /// None of them.
    None,
    /// Every bias, and scale and shift of the normalisation layers.
    BnBias,
    /// Every parameter of at most one dimension.
    Ndim1,
}

fn default_momentum() -> f64 {
    0.9
}

fn default_trust() -> f64 {
    0.001
}

fn exclude_nothing() -> Exclude {
    Exclude::None
}

fn exclude_bn_bias() -> Exclude {
    Exclude::BnBias
}

impl Scaling {
    /// The learning rate of a batch of `batch_size` images.
    pub fn apply(self, base: f64, batch_size: usize) -> f64 {
        match self {
            Self::Linear => base * batch_size as f64 / 256.0,
            Self::Sqrt => base * (batch_size as f64).sqrt(),
            Self::None => base,
        }
    }
}

impl Exclude {
    /// Whether `parameter` is left out.
    pub fn covers(self, parameter: &Parameter) -> bool {
        match self {
            Self::None => false,
            Self::BnBias => {
                matches!(parameter.role, Role::Bias | Role::NormScale | Role::NormShift)
            }
            Self::Ndim1 => parameter.tensor.dim() <= 1,
        }
    }
}

impl OptimizerConfig {
    /// Checks every setting's range.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key, the range and what was found.
    pub fn check(&self) -> Result<()> {
        let (learning_rate, momentum, weight_decay) = match self {
            Self::Sgd(sgd) => (sgd.learning_rate, sgd.momentum, sgd.weight_decay),
            Self::Lars(lars) => (lars.learning_rate, lars.momentum, lars.weight_decay),
        };
        let above_0 = |value: f64| value > 0.0 && value.is_finite();
        require("learning_rate", learning_rate, above_0(learning_rate), "above 0")?;
        require("momentum", momentum, (0.0..1.0).contains(&momentum), "in [0, 1)")?;
        require(
            "weight_decay",
            weight_decay,
            weight_decay >= 0.0 && weight_decay.is_finite(),
            "at least 0",
        )?;
        match self {
            Self::Sgd(sgd) if sgd.nesterov => {
                require("momentum", momentum, momentum > 0.0, "above 0 for `nesterov`")
            }
            Self::Sgd(_) => Ok(()),
            Self::Lars(lars) => require("trust", lars.trust, above_0(lars.trust), "above 0"),
        }
    }

    /// The learning rate after warm-up for batches of `batch_size` images (not views, not per device).
    pub fn peak_learning_rate(&self, batch_size: usize) -> f64 {
        match self {
            Self::Sgd(sgd) => sgd.scaling.apply(sgd.learning_rate, batch_size),
            Self::Lars(lars) => lars.scaling.apply(lars.learning_rate, batch_size),
        }
    }

    fn exclude(&self) -> Exclude {
        match self {
            Self::Sgd(sgd) => sgd.exclude,
            Self::Lars(lars) => lars.exclude,
        }
    }
}

fn require(key: &str, found: f64, fits: bool, range: &str) -> Result<()> {
    if fits {
        return Ok(());
    }
    Err(Error::Recipe(format!("`train.optimizer.{key}` must be {range}, found `{found}`")))
}

/// Moves the trainable parameters of one network along their gradients.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    slots: Vec<Slot>,
}

/// One parameter and what the optimizer remembers of it.
#[derive(Debug)]
struct Slot {
    /// Name of the momentum buffer in a checkpoint.
    key: String,
    weight: Tensor,
    /// v, of the weight's kind and memory layout.
    momentum: Tensor,
    excluded: bool,
}

impl Optimizer {
    /// An optimizer over the trainable tensors of `parameters`, sharing them; every momentum starts at 0.
    pub fn new(config: OptimizerConfig, parameters: &Parameters) -> Self {
        let exclude = config.exclude();
        let slots = parameters
            .trainable()
            .map(|parameter| Slot {
                key: format!("optimizer.{}.momentum", parameter.name),
                weight: parameter.tensor.shallow_clone(),
                momentum: parameter.tensor.detach().zeros_like(),
                excluded: exclude.covers(parameter),
            })
            .collect();
        Self { config, slots }
    }

    /// One step in place; a parameter without a gradient stays as it is. Gradients are read, not cleared.
    pub fn step(&mut self, learning_rate: f64) {
        tch::no_grad(|| {
            for slot in &mut self.slots {
                let gradient = slot.weight.grad();
                if gradient.defined() {
                    match &self.config {
                        OptimizerConfig::Sgd(sgd) => slot.sgd(sgd, &gradient, learning_rate),
                        OptimizerConfig::Lars(lars) => slot.lars(lars, &gradient, learning_rate),
                    }
                }
            }
        });
    }

    /// The momentum buffers, named `optimizer.<parameter>.momentum`, in the parameters' order. They are shared, not
    /// copied.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.slots.iter().map(|slot| (slot.key.clone(), slot.momentum.shallow_clone())).collect()
    }

    /// Overwrites the momentum buffers with those of [`Optimizer::state`].
    ///
    /// # Errors
    /// [`Error::Weights`] if one is missing or of another shape; nothing is changed then.
    pub fn load_state(&mut self, values: &BTreeMap<String, Tensor>) -> Result<()> {
        for slot in &self.slots {
            let expected = slot.momentum.size();
            match values.get(&slot.key).map(Tensor::size) {
                Some(found) if found == expected => {}
                Some(found) => {
                    return Err(Error::Weights(format!(
                        "`{}` must have shape {expected:?}, found {found:?}",
                        slot.key
                    )));
                }
                None => return Err(Error::Weights(format!("no tensor named `{}`", slot.key))),
            }
        }
        tch::no_grad(|| {
            for slot in &mut self.slots {
                slot.momentum.copy_(&values[&slot.key]);
            }
        });
        Ok(())
    }
}

impl Slot {
    fn sgd(&mut self, config: &Sgd, gradient: &Tensor, learning_rate: f64) {
        let decay = if self.excluded { 0.0 } else { config.weight_decay };
        self.momentum *= config.momentum;
        self.momentum += gradient;
        add_scaled(&mut self.momentum, &self.weight, decay);
        if config.nesterov {
            let mut direction = &self.momentum * config.momentum;
            direction += gradient;
            add_scaled(&mut direction, &self.weight, decay);
            add_scaled(&mut self.weight, &direction, -learning_rate);
        } else {
            add_scaled(&mut self.weight, &self.momentum, -learning_rate);
        }
    }

    fn lars(&mut self, config: &Lars, gradient: &Tensor, learning_rate: f64) {
        self.momentum *= config.momentum;
        if self.excluded {
            add_scaled(&mut self.momentum, gradient, learning_rate);
        } else {
            let mut decayed = &self.weight * config.weight_decay;
            decayed += gradient;
            // Kept on the device: reading a norm would make the host wait once per tensor.
            let (weight_norm, gradient_norm) = (self.weight.norm(), decayed.norm());
            let both = weight_norm.gt(0.0).logical_and(&gradient_norm.gt(0.0));
            let trust = weight_norm * config.trust / gradient_norm;
            let trust = trust.where_self(&both, &trust.ones_like());
            let _ = self.momentum.addcmul_(&decayed, &(trust * learning_rate));
        }
        self.weight -= &self.momentum;
    }
}

/// `sum += scale · tensor` without a temporary.
fn add_scaled(sum: &mut Tensor, tensor: &Tensor, scale: f64) {
    if scale != 0.0 {
        let _ = sum.addcmul_(tensor, &Tensor::full([], scale, (sum.kind(), sum.device())));
    }
}

/// Euclidean length of the gradient of all trainable parameters together: infinite or NaN exactly if some gradient holds
/// an infinity or NaN. Parameters without a gradient count as 0.
///
/// Each tensor is summed in its own kind, which is several times faster, and only if that overflows in f64, where the
/// squares of every finite f32 fit.
pub fn gradient_norm(parameters: &Parameters) -> f64 {
    let gradients: Vec<Tensor> =
        parameters.trainable().map(|p| p.tensor.grad()).filter(Tensor::defined).collect();
    let total = |norm: fn(&Tensor) -> Tensor| match gradients.as_slice() {
        [] => 0.0,
        some => {
            let norms: Vec<Tensor> = some.iter().map(|g| norm(g).to_kind(Kind::Double)).collect();
            Tensor::stack(&norms, 0).norm().double_value(&[])
        }
    };
    let quick = total(Tensor::norm);
    if quick.is_finite() { quick } else { total(|g| g.norm_scalaropt_dtype(2.0, Kind::Double)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tch::Device;

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/optim.safetensors");
    const NAMES: [&str; 5] = ["kernel", "matrix", "bias", "scale", "shift"];

    fn golden() -> HashMap<String, Tensor> {
        Tensor::read_safetensors(GOLDEN).unwrap().into_iter().collect()
    }

    /// A network of the golden file's tensors at their starting values, and one running mean.
    fn network(golden: &HashMap<String, Tensor>) -> Parameters {
        let mut parameters = Parameters::new(0, Device::Cpu, Kind::Double);
        let roles = [Role::Weight, Role::Weight, Role::Bias, Role::NormScale, Role::NormShift];
        let mut values = BTreeMap::new();
        for (name, role) in NAMES.iter().zip(roles) {
            let start = &golden[&format!("{name}.start")];
            let _ = parameters.root().at("net").add(name, role, &start.size(), |_| 0.0);
            values.insert(format!("net.{name}"), start.shallow_clone());
        }
        let _ = parameters.root().at("net").add("mean", Role::Buffer, &[2], |_| 0.0);
        values.insert("net.mean".to_owned(), Tensor::from_slice(&[1.0, 2.0]));
        parameters.load(&values).unwrap();
        parameters
    }

    fn set_gradients(parameters: &Parameters, golden: &HashMap<String, Tensor>, step: usize) {
        parameters.zero_grad();
        for (parameter, name) in parameters.trainable().zip(NAMES) {
            let gradient = &golden[&format!("{name}.gradient.{step}")];
            (&parameter.tensor * gradient).sum(None).backward();
        }
    }

    fn rates(golden: &HashMap<String, Tensor>) -> Vec<f64> {
        Vec::try_from(&golden["rates"]).unwrap()
    }

    fn config(text: &str) -> OptimizerConfig {
        let config: OptimizerConfig = toml::from_str(text).unwrap();
        config.check().unwrap();
        config
    }

    fn run(config: OptimizerConfig, case: &str) {
        let golden = golden();
        let parameters = network(&golden);
        let mut optimizer = Optimizer::new(config, &parameters);
        for (step, rate) in rates(&golden).into_iter().enumerate() {
            set_gradients(&parameters, &golden, step);
            optimizer.step(rate);
        }
        for (parameter, name) in parameters.trainable().zip(NAMES) {
            let expected = &golden[&format!("{case}.{name}")];
            let off = (&parameter.tensor - expected).abs().max().double_value(&[]);
            assert!(off < 1e-12, "{case}.{name} is off by {off}");
        }
        let mean = &parameters.all()[NAMES.len()].tensor;
        assert_eq!(mean, &Tensor::from_slice(&[1.0, 2.0]), "a buffer was moved");
    }

    #[test]
    fn sgd_equals_pytorch() {
        let sgd = "name = 'sgd'\nlearning_rate = 1.0\n";
        run(config(&format!("{sgd} momentum = 0.0\n weight_decay = 0.0")), "sgd.plain");
        run(config(&format!("{sgd} weight_decay = 0.1")), "sgd.decayed");
        run(config(&format!("{sgd} weight_decay = 0.1\n nesterov = true")), "sgd.nesterov");
    }

    #[test]
    fn lars_equals_the_published_rule() {
        let lars = "name = 'lars'\nlearning_rate = 1.0\nweight_decay = 0.1\n";
        run(config(lars), "lars.bn_bias");
        run(config(&format!("{lars} exclude = 'ndim1'")), "lars.bn_bias");
        run(config(&format!("{lars} exclude = 'none'")), "lars.none");
    }

    #[test]
    fn the_published_step_of_lars_is_met() {
        let mut parameters = Parameters::new(0, Device::Cpu, Kind::Double);
        let mut values = [3.0, 4.0].into_iter();
        let weight = parameters.root().add("w", Role::Weight, &[2], |_| values.next().unwrap());
        (&weight * Tensor::from_slice(&[0.6, 0.8])).sum(None).backward();
        let text = "name = 'lars'\nlearning_rate = 1.0\nweight_decay = 0.1";
        Optimizer::new(config(text), &parameters).step(1.0);
        let off = (weight - Tensor::from_slice(&[2.997, 3.996])).abs().max().double_value(&[]);
        assert!(off < 1e-12);
    }

    #[test]
    fn excluded_parameters_do_not_decay() {
        let golden = golden();
        for (exclude, expected) in
            [("none", [true; 5]), ("bn_bias", [true, true, false, false, false])]
        {
            let parameters = network(&golden);
            // A gradient of zeros: only decay can move a weight.
            for parameter in parameters.trainable() {
                (&parameter.tensor * 0.0).sum(None).backward();
            }
            let text = format!(
                "name = 'sgd'\nlearning_rate = 1.0\nweight_decay = 0.1\nexclude = '{exclude}'"
            );
            Optimizer::new(config(&text), &parameters).step(1.0);
            for ((parameter, name), decays) in parameters.trainable().zip(NAMES).zip(expected) {
                let share = if decays { 0.9 } else { 1.0 };
                let off = &parameter.tensor - &golden[&format!("{name}.start")] * share;
                assert!(off.abs().max().double_value(&[]) < 1e-12, "{exclude} {name}");
            }
        }
    }

    #[test]
    fn a_parameter_without_a_gradient_stays() {
        let golden = golden();
        for name in ["sgd", "lars"] {
            let parameters = network(&golden);
            let text = format!("name = '{name}'\nlearning_rate = 1.0\nweight_decay = 0.1");
            let mut optimizer = Optimizer::new(config(&text), &parameters);
            let moved = &parameters.all()[0].tensor;
            moved.sum(None).backward();
            optimizer.step(0.1);
            assert_ne!(moved, &golden["kernel.start"]);
            assert_eq!(parameters.all()[1].tensor, golden["matrix.start"]);
        }
    }

    #[test]
    fn stopping_and_loading_the_state_changes_no_bit() {
        let golden = golden();
        for name in ["sgd", "lars"] {
            let text = format!("name = '{name}'\nlearning_rate = 1.0\nweight_decay = 0.1");
            let steady = network(&golden);
            let mut optimizer = Optimizer::new(config(&text), &steady);
            let mut resumed = network(&golden);
            for (step, rate) in rates(&golden).into_iter().enumerate() {
                set_gradients(&steady, &golden, step);
                optimizer.step(rate);
                if step == 2 {
                    // Copies, as a checkpoint on disk would be.
                    let copy = |(name, tensor): (String, Tensor)| (name, tensor.copy());
                    let state: BTreeMap<_, _> = optimizer.state().into_iter().map(copy).collect();
                    let weights = steady.all().iter();
                    let weights: BTreeMap<_, _> =
                        weights.map(|p| (p.name.clone(), p.tensor.detach().copy())).collect();
                    resumed = network(&golden);
                    resumed.load(&weights).unwrap();
                    let mut other = Optimizer::new(config(&text), &resumed);
                    other.load_state(&state).unwrap();
                    for (step, rate) in rates(&golden).into_iter().enumerate().skip(3) {
                        set_gradients(&resumed, &golden, step);
                        other.step(rate);
                    }
                }
            }
            for (steady, resumed) in steady.trainable().zip(resumed.trainable()) {
                assert_eq!(steady.tensor, resumed.tensor, "{name} {}", steady.name);
            }
        }
    }

    #[test]
    fn state_is_named_lies_like_its_weight_and_must_fit() {
        let golden = golden();
        let parameters = network(&golden);
        let text = "name = 'sgd'\nlearning_rate = 1.0\nweight_decay = 0.1";
        let mut optimizer = Optimizer::new(config(text), &parameters);
        let state = optimizer.state();
        assert_eq!(state.len(), NAMES.len());
        assert_eq!(state[0].0, "optimizer.net.kernel.momentum");
        for ((_, momentum), parameter) in state.iter().zip(parameters.trainable()) {
            assert_eq!(momentum.stride(), parameter.tensor.stride());
            assert!(!momentum.requires_grad());
        }
        let mut values: BTreeMap<_, _> =
            state.iter().map(|(name, tensor)| (name.clone(), tensor.ones_like())).collect();
        let bias = values.remove("optimizer.net.bias.momentum").unwrap();
        let message = optimizer.load_state(&values).unwrap_err().to_string();
        assert_eq!(message, "no tensor named `optimizer.net.bias.momentum`");
        values.insert("optimizer.net.bias.momentum".to_owned(), bias.narrow(0, 0, 2));
        let message = optimizer.load_state(&values).unwrap_err().to_string();
        assert!(message.contains("must have shape [4], found [2]"), "{message}");
        for (_, momentum) in &state {
            assert!(momentum.abs().max().double_value(&[]) < f64::MIN_POSITIVE, "changed anyway");
        }
    }

    #[test]
    fn the_gradient_norm_sees_every_gradient_and_every_nan() {
        let golden = golden();
        let parameters = network(&golden);
        assert!(gradient_norm(&parameters) < f64::MIN_POSITIVE);
        set_gradients(&parameters, &golden, 0);
        let squares = NAMES.iter().map(|name| {
            let values: Vec<f64> =
                Vec::try_from(golden[&format!("{name}.gradient.0")].flatten(0, -1)).unwrap();
            values.iter().map(|value| value * value).sum::<f64>()
        });
        let expected = squares.sum::<f64>().sqrt();
        assert!((gradient_norm(&parameters) - expected).abs() < 1e-12);
        for wrong in [f64::NAN, f64::NEG_INFINITY] {
            let _ = parameters.all()[2].tensor.grad().get(1).fill_(wrong);
            assert!(!gradient_norm(&parameters).is_finite());
        }
    }

    #[test]
    fn a_large_finite_gradient_has_a_finite_norm() {
        let mut parameters = Parameters::new(0, Device::Cpu, Kind::Float);
        let weight = parameters.root().add("w", Role::Weight, &[4], |_| 1.0);
        (weight * 1e30).sum(None).backward();
        assert!((gradient_norm(&parameters) / 2e30 - 1.0).abs() < 1e-6);
    }

    #[test]
    fn the_learning_rate_follows_the_batch() {
        let peak = |text: &str, batch| config(text).peak_learning_rate(batch);
        let lars = "name = 'lars'\nweight_decay = 1e-6\n";
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12);
        close(peak(&format!("{lars} learning_rate = 0.3"), 4096), 4.8);
        close(peak(&format!("{lars} learning_rate = 0.075\n scaling = 'sqrt'"), 4096), 4.8);
        let sgd = "name = 'sgd'\nweight_decay = 1e-4\n";
        close(peak(&format!("{sgd} learning_rate = 0.03\n scaling = 'none'"), 512), 0.03);
        close(peak(&format!("{sgd} learning_rate = 0.06"), 512), 0.12);
    }

    #[test]
    fn settings_out_of_range_or_unknown_are_refused() {
        let sgd = "name = 'sgd'\nlearning_rate = 0.1\nweight_decay = 0.0\n";
        let lars = "name = 'lars'\nlearning_rate = 0.1\nweight_decay = 0.0\n";
        for (text, part) in [
            (format!("{sgd} momentum = 1.0"), "momentum` must be in [0, 1), found `1`"),
            (format!("{sgd} momentum = 0.0\n nesterov = true"), "above 0 for `nesterov`"),
            (format!("{lars} trust = -0.1"), "trust` must be above 0, found `-0.1`"),
            (sgd.replace("0.1", "nan"), "learning_rate` must be above 0"),
            (sgd.replace("decay = 0.0", "decay = -1.0"), "weight_decay` must be at least 0"),
        ] {
            let config: OptimizerConfig = toml::from_str(&text).unwrap();
            let message = config.check().unwrap_err().to_string();
            assert!(
                message.starts_with("`train.optimizer.") && message.contains(part),
                "{message}"
            );
        }
        for (text, part) in [
            (format!("{sgd} trust = 0.1"), "unknown field `trust`"),
            ("name = 'sgd'\nweight_decay = 0.0".to_owned(), "missing field `learning_rate`"),
            (sgd.replace("sgd", "adamw"), "unknown variant `adamw`"),
        ] {
            let message = toml::from_str::<OptimizerConfig>(&text).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_written_config_reads_back_with_every_default_spelt_out() {
        let lars = config("name = 'lars'\nlearning_rate = 0.3\nweight_decay = 1e-6");
        let text = toml::to_string(&lars).unwrap();
        for line in
            ["name = \"lars\"", "scaling = \"linear\"", "trust = 0.001", "exclude = \"bn_bias\""]
        {
            assert!(text.contains(line), "{text}");
        }
        assert_eq!(config(&text), lars);
    }
}
