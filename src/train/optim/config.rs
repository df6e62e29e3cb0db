//! Settings of the optimizers.

use crate::error::{Error, Result};
use crate::model::{Parameter, Role};
use serde::{Deserialize, Serialize};

/// Which optimizer moves the weights, and its settings.
///
/// ```toml
/// optimizer = { name = "sgd", learning_rate = 0.06, scaling = "linear", momentum = 0.9, weight_decay = 5e-4 }
/// optimizer = { name = "lars", learning_rate = 0.3, weight_decay = 1e-6 }
/// optimizer = { name = "lars", form = "byol", learning_rate = 0.45, weight_decay = 1e-6 }
/// optimizer = { name = "lars", form = "byol", learning_rate = 0.2, bias_learning_rate = 0.0048, weight_decay = 1e-6 }
/// optimizer = { name = "adamw", learning_rate = 1e-3, scaling = "none", weight_decay = 0.05 }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum OptimizerConfig {
    /// Stochastic gradient descent with momentum.
    Sgd(Sgd),
    /// Layer-wise adaptive rate scaling, for large batches.
    Lars(Lars),
    /// Adam with weight decay in the gradient.
    Adam(Adam),
    /// Adam with weight decay beside the gradient.
    #[serde(rename = "adamw")]
    AdamW(Adam),
}

/// Stochastic gradient descent in PyTorch's form: `v ← μ·v + g + wd·w`, `w ← w - lr·v`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sgd {
    /// Base learning rate, above 0; `scaling` says what it is multiplied with.
    pub learning_rate: f64,
    /// The same for every bias and for scale and shift of the normalisation layers, above 0; they follow the schedule in
    /// proportion. If left out that of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias_learning_rate: Option<f64>,
    /// The same for the linear layer of a classifier (parameters named `classifier.…`, its bias included), above 0; it
    /// follows the schedule in proportion. If left out that of the others. CLD fine-tunes with up to 100 times the rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classifier_learning_rate: Option<f64>,
    /// How the learning rate follows the batch size.
    #[serde(default)]
    pub scaling: Scaling,
    /// μ, in [0, 1).
    #[serde(default = "default_momentum")]
    pub momentum: f64,
    /// wd, at least 0; added to the gradient.
    pub weight_decay: f64,
    /// Nesterov's look-ahead: the weight moves along `g + wd·w + μ·v`. SimCLR's runs without LARS have it.
    #[serde(default)]
    pub nesterov: bool,
    /// Parameters that do not decay. `none` is what MoCo and SimSiam do; `bn` is what SimCLR's code does without LARS,
    /// whose loss carries `wd/2·‖w‖²` of all variables, biases included, but those of batch norms.
    #[serde(default = "exclude_nothing")]
    pub exclude: Exclude,
}

/// LARS (You et al. 2017, arXiv:1708.03888, Algorithm 1): the step of each parameter is scaled by its own `trust`, a share
/// η of its length over that of its gradient. Programs agree on the idea and differ in the rest; see [`LarsForm`].
///
/// Three settings, if left out of a recipe, follow from the form. A `key=value` override changes a recipe that is already
/// whole, so one of `form` alone leaves them as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "LarsSettings")]
pub struct Lars {
    /// Whose rule.
    pub form: LarsForm,
    /// Base learning rate, above 0; `scaling` says what it is multiplied with.
    pub learning_rate: f64,
    /// The same for every bias and for scale and shift of the normalisation layers, above 0; they follow the schedule in
    /// proportion. If left out that of the others; Barlow Twins has 0.0048 beside 0.2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias_learning_rate: Option<f64>,
    /// The same for the linear layer of a classifier, as for SGD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classifier_learning_rate: Option<f64>,
    /// How the learning rate follows the batch size.
    pub scaling: Scaling,
    /// μ, in [0, 1); 0.9 if left out.
    pub momentum: f64,
    /// wd, at least 0; added to the gradient.
    pub weight_decay: f64,
    /// η, above 0: share of its own length a weight may move at learning rate 1. If left out 0.001, and 0.02 for `solo`.
    pub trust: f64,
    /// Whether `trust` is cut so that `lr·trust` does not exceed η‖w‖ over the gradient's length, nor `lr`:
    /// `min(trust/lr, 1)`. For `solo` (whose recipes all have it, so it is the default there) and `larc` only.
    pub clip: bool,
    /// Parameters that neither decay nor adapt, so `trust` is 1 for them. If left out `bn_bias`, and `none` for `larc`. The
    /// linear layer of a classifier does not adapt under `tf` and `popular` either, as in that code; its weight decays.
    pub exclude: Exclude,
}

/// The rules of LARS by whose code they are, with `d = g + wd·w`.
///
/// | form | trust | update |
/// |---|---|---|
/// | `tf` | `η‖w‖/‖d‖` | `v ← μ·v + lr·trust·d`, `w ← w - v` |
/// | `popular` | `η‖w‖/‖v‖` | `v ← μ·v + d`, `w ← w - lr·trust·v` |
/// | `byol` | `η‖w‖/‖d‖` | `v ← μ·v + trust·d`, `w ← w - lr·v` |
/// | `lightly`, `solo`, `larc` | `η‖w‖/(‖g‖ + wd‖w‖ + 1e-8)` | `v ← μ·v + trust·d`, `w ← w - lr·v` |
///
/// Where a norm is 0 the trust is 1; the last three then leave out the decay as well. Under a constant learning rate `tf`
/// and `byol` are equal; while a schedule changes it they are not, the learning rate being inside the buffer in `tf`.
///
/// There is no form for the LARS of Spijkervet's SimCLR: it gives tensors of zero length trust 0, so that biases that
/// start at 0 never move, which is an error and not a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LarsForm {
    /// The official SimCLR code, "classic" momentum.
    #[default]
    Tf,
    /// The same code with `classic_momentum=False`.
    Popular,
    /// BYOL, Barlow Twins, `VICReg`.
    Byol,
    /// lightly. Does not adapt anything if `weight_decay` is 0.
    Lightly,
    /// solo-learn.
    Solo,
    /// NVIDIA apex's LARC over SGD, as `SwAV` and the linear evaluation of `SimSiam` use it: adapts every parameter.
    Larc,
}

/// A recipe's `lars` table, whose missing settings depend on the form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LarsSettings {
    #[serde(default)]
    form: LarsForm,
    learning_rate: f64,
    bias_learning_rate: Option<f64>,
    classifier_learning_rate: Option<f64>,
    #[serde(default)]
    scaling: Scaling,
    #[serde(default = "default_momentum")]
    momentum: f64,
    weight_decay: f64,
    trust: Option<f64>,
    clip: Option<bool>,
    exclude: Option<Exclude>,
}

impl From<LarsSettings> for Lars {
    fn from(settings: LarsSettings) -> Self {
        let form = settings.form;
        let (solo, larc) = (form == LarsForm::Solo, form == LarsForm::Larc);
        Self {
            form,
            learning_rate: settings.learning_rate,
            bias_learning_rate: settings.bias_learning_rate,
            classifier_learning_rate: settings.classifier_learning_rate,
            scaling: settings.scaling,
            momentum: settings.momentum,
            weight_decay: settings.weight_decay,
            trust: settings.trust.unwrap_or(if solo { 0.02 } else { 0.001 }),
            clip: settings.clip.unwrap_or(solo),
            exclude: settings.exclude.unwrap_or(if larc { Exclude::None } else { Exclude::BnBias }),
        }
    }
}

/// Adam (Kingma and Ba 2015, arXiv:1412.6980, Algorithm 1) with PyTorch's constants:
/// `m ← β₁·m + (1-β₁)·g`, `v ← β₂·v + (1-β₂)·g²`, `w ← w - lr·m̂/(√v̂ + ε)`, with `m̂ = m/(1-β₁ᵗ)`, `v̂ = v/(1-β₂ᵗ)` and t
/// the steps in which the parameter had a gradient.
///
/// `adam` decays through the gradient, `g ← g + wd·w`; `adamw` directly, `w ← (1 - lr·wd)·w` before the step (Loshchilov
/// and Hutter 2019, arXiv:1711.05101).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adam {
    /// Base learning rate, above 0; `scaling` says what it is multiplied with.
    pub learning_rate: f64,
    /// How the learning rate follows the batch size.
    #[serde(default)]
    pub scaling: Scaling,
    /// β₁ and β₂, each in [0, 1).
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// ε, above 0.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// wd, at least 0.
    pub weight_decay: f64,
    /// Parameters that do not decay.
    #[serde(default = "exclude_nothing")]
    pub exclude: Exclude,
}

impl Adam {
    /// PyTorch's defaults at a learning rate that no batch size scales, without decay.
    pub fn constant(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            scaling: Scaling::None,
            betas: default_betas(),
            epsilon: default_epsilon(),
            weight_decay: 0.0,
            exclude: Exclude::None,
        }
    }
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
    /// Scale and shift of the normalisation layers.
    Bn,
    /// Every bias, and scale and shift of the normalisation layers.
    BnBias,
    /// Every parameter of at most one dimension.
    Ndim1,
}

/// Beginning of the names of the parameters of a classifier's linear layer.
const CLASSIFIER: &str = "classifier.";

fn default_momentum() -> f64 {
    0.9
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_epsilon() -> f64 {
    1e-8
}

fn exclude_nothing() -> Exclude {
    Exclude::None
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
            Self::Bn => matches!(parameter.role, Role::NormScale | Role::NormShift),
            Self::BnBias => {
                matches!(parameter.role, Role::Bias | Role::NormScale | Role::NormShift)
            }
            Self::Ndim1 => parameter.tensor.dim() <= 1,
        }
    }
}

/// What all optimizers have.
struct Common {
    learning_rate: f64,
    scaling: Scaling,
    weight_decay: f64,
    exclude: Exclude,
}

impl OptimizerConfig {
    fn common(&self) -> Common {
        let (learning_rate, scaling, weight_decay, exclude) = match self {
            Self::Sgd(c) => (c.learning_rate, c.scaling, c.weight_decay, c.exclude),
            Self::Lars(c) => (c.learning_rate, c.scaling, c.weight_decay, c.exclude),
            Self::Adam(c) | Self::AdamW(c) => {
                (c.learning_rate, c.scaling, c.weight_decay, c.exclude)
            }
        };
        Common { learning_rate, scaling, weight_decay, exclude }
    }

    /// Checks every setting's range.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key, the range and what was found.
    pub fn check(&self) -> Result<()> {
        let Common { learning_rate, weight_decay, .. } = self.common();
        let above_0 = |key: &str, value: f64| {
            require(key, value, value > 0.0 && value.is_finite(), "above 0")
        };
        let below_1 =
            |key: &str, value: f64| require(key, value, (0.0..1.0).contains(&value), "in [0, 1)");
        above_0("learning_rate", learning_rate)?;
        if let Some(rate) = self.bias_learning_rate() {
            above_0("bias_learning_rate", rate)?;
        }
        if let Some(rate) = self.classifier_learning_rate() {
            above_0("classifier_learning_rate", rate)?;
        }
        require(
            "weight_decay",
            weight_decay,
            weight_decay >= 0.0 && weight_decay.is_finite(),
            "at least 0",
        )?;
        match self {
            Self::Sgd(sgd) => {
                below_1("momentum", sgd.momentum)?;
                let fits = !sgd.nesterov || sgd.momentum > 0.0;
                require("momentum", sgd.momentum, fits, "above 0 for `nesterov`")
            }
            Self::Lars(lars) => {
                below_1("momentum", lars.momentum)?;
                above_0("trust", lars.trust)?;
                let fits = !lars.clip || matches!(lars.form, LarsForm::Solo | LarsForm::Larc);
                require("clip", lars.clip, fits, "false, except with `form` solo or larc")
            }
            Self::Adam(adam) | Self::AdamW(adam) => {
                below_1("betas[0]", adam.betas[0])?;
                below_1("betas[1]", adam.betas[1])?;
                above_0("epsilon", adam.epsilon)
            }
        }
    }

    /// The learning rate after warm-up for batches of `batch_size` images (not views, not per device).
    pub fn peak_learning_rate(&self, batch_size: usize) -> f64 {
        let Common { learning_rate, scaling, .. } = self.common();
        scaling.apply(learning_rate, batch_size)
    }

    fn bias_learning_rate(&self) -> Option<f64> {
        match self {
            Self::Sgd(sgd) => sgd.bias_learning_rate,
            Self::Lars(lars) => lars.bias_learning_rate,
            Self::Adam(_) | Self::AdamW(_) => None,
        }
    }

    /// The base learning rate of a classifier's linear layer, if it has one of its own.
    pub fn classifier_learning_rate(&self) -> Option<f64> {
        match self {
            Self::Sgd(sgd) => sgd.classifier_learning_rate,
            Self::Lars(lars) => lars.classifier_learning_rate,
            Self::Adam(_) | Self::AdamW(_) => None,
        }
    }

    /// Scalars remembered for every scalar that is moved.
    pub fn state_per_parameter(&self) -> u64 {
        match self {
            Self::Sgd(_) | Self::Lars(_) => 1,
            Self::Adam(_) | Self::AdamW(_) => 2,
        }
    }

    /// What the learning rate is multiplied with for `parameter`.
    pub(super) fn share(&self, parameter: &Parameter) -> f64 {
        let base = self.common().learning_rate;
        match (self.classifier_learning_rate(), self.bias_learning_rate()) {
            (Some(rate), _) if parameter.name.starts_with(CLASSIFIER) => rate / base,
            (_, Some(rate)) if Exclude::BnBias.covers(parameter) => rate / base,
            _ => 1.0,
        }
    }

    /// Whether `parameter` moves without decay and without trust ratio.
    pub(super) fn excludes(&self, parameter: &Parameter) -> bool {
        let Common { weight_decay, exclude, .. } = self.common();
        let idle = matches!(self, Self::Lars(lars) if lars.form == LarsForm::Lightly)
            && weight_decay == 0.0;
        idle || exclude.covers(parameter)
    }

    /// Whether LARS scales the step of `parameter` by its trust ratio. `SimCLR`'s code leaves the linear layer of a classifier
    /// (`head_supervised`) to the plain rule.
    pub(super) fn adapts(&self, parameter: &Parameter) -> bool {
        let left = match self {
            Self::Lars(lars) if matches!(lars.form, LarsForm::Tf | LarsForm::Popular) => {
                parameter.name.starts_with(CLASSIFIER)
            }
            _ => false,
        };
        !left && !self.excludes(parameter)
    }
}

fn require(key: &str, found: impl std::fmt::Display, fits: bool, range: &str) -> Result<()> {
    if fits {
        return Ok(());
    }
    Err(Error::Recipe(format!("`train.optimizer.{key}` must be {range}, found `{found}`")))
}
