//! Heads: the small perceptron g between the features h and what a loss compares, z = g(h).

use super::layers::{Affine, BatchNorm, Initialization, Linear, check_groups};
use super::{Phase, Place};
use crate::error::{Error, Result};
use crate::shape::check;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// A head of n layers: n − 1 times [linear, perhaps batch norm, ReLU], then a linear layer and perhaps a batch norm.
///
/// A linear layer carries a bias only where no batch norm follows. The loss, not the head, normalises z to unit length.
/// Missing settings are those of SimCLR's head; others are written like this:
///
/// | head | settings |
/// |---|---|
/// | SimCLR | none |
/// | SimCLRv2 | `layers = 3` |
/// | MoCo v1 | `layers = 1`, no batch norms, `initialization = "pytorch"` |
/// | MoCo v2 | no batch norms, `initialization = "pytorch"` |
/// | lightly's SimCLR | `output_batch_norm = "affine"`, `initialization = "pytorch"` |
/// | spij | `output = 64`, no batch norms, `bias = false`, `initialization = "pytorch"` |
///
/// where "no batch norms" is `batch_norm = false`, `output_batch_norm = "none"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadConfig {
    /// Number of linear layers; 0 makes z = h.
    pub layers: usize,
    /// Width of the hidden layers; the width F of the features if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<usize>,
    /// Width d of z (with 0 layers it is F instead).
    pub output: usize,
    /// Batch norm between a hidden layer and its ReLU.
    pub batch_norm: bool,
    /// Batch norm of z.
    pub output_batch_norm: OutputNorm,
    /// Whether linear layers without a batch norm behind them carry a bias.
    pub bias: bool,
    /// How linear layers start.
    pub initialization: HeadInitialization,
}

impl Default for HeadConfig {
    /// SimCLR's head (Chen et al. 2020): two layers, d = 128.
    fn default() -> Self {
        Self {
            layers: 2,
            hidden: None,
            output: 128,
            batch_norm: true,
            output_batch_norm: OutputNorm::Gamma,
            bias: true,
            initialization: HeadInitialization::SimClr,
        }
    }
}

/// What normalises the output of a head over the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputNorm {
    /// Nothing.
    None,
    /// Batch norm without scale and shift (`SimSiam`).
    Plain,
    /// Batch norm with a scale (`SimCLR`).
    Gamma,
    /// Batch norm with scale and shift (lightly).
    Affine,
}

/// How the linear layers of a head start; see [`Initialization`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadInitialization {
    /// Normal with standard deviation 0.01, biases 0, as SimCLR's TensorFlow code.
    SimClr,
    /// Uniform, biases included, as PyTorch.
    PyTorch,
}

impl HeadConfig {
    /// Checks the ranges; `name` is the head's table in the recipe, `method.projector`.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting.
    pub fn check(&self, name: &str) -> Result<()> {
        for (setting, value) in [("hidden", self.hidden.unwrap_or(1)), ("output", self.output)] {
            if !(1..=1 << 20).contains(&value) {
                return Err(Error::Recipe(format!(
                    "`{name}.{setting}` must lie between 1 and {}, found {value}",
                    1 << 20
                )));
            }
        }
        if self.layers > 64 {
            return Err(Error::Recipe(format!(
                "`{name}.layers` must be at most 64, found {}",
                self.layers
            )));
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Layer {
    linear: Linear,
    norm: Option<BatchNorm>,
    hidden: bool,
}

/// A head on named tensors: `layers.I.linear.weight`, `.bias`, and `layers.I.norm.weight`, `.bias`, `.running_mean`,
/// `.running_var`, with I from 0; only those exist that the settings ask for.
#[derive(Debug)]
pub struct Head {
    layers: Vec<Layer>,
    inputs: i64,
    outputs: i64,
}

impl Head {
    /// Makes a head on `inputs` features, its tensors below `place`.
    ///
    /// # Errors
    /// As [`HeadConfig::check`].
    pub fn build(place: &mut Place<'_>, inputs: i64, config: &HeadConfig) -> Result<Self> {
        config.check("head")?;
        let start = match config.initialization {
            HeadInitialization::SimClr => Initialization::Normal(0.01),
            HeadInitialization::PyTorch => Initialization::Uniform,
        };
        let mut width = inputs;
        let mut layers = Vec::new();
        for index in 0..config.layers {
            let hidden = index + 1 < config.layers;
            let affine = match config.output_batch_norm {
                _ if hidden => config.batch_norm.then_some(Affine::Full),
                OutputNorm::None => None,
                OutputNorm::Plain => Some(Affine::Nothing),
                OutputNorm::Gamma => Some(Affine::Scale),
                OutputNorm::Affine => Some(Affine::Full),
            };
            let outputs = match config.hidden {
                _ if !hidden => config.output as i64,
                Some(hidden) => hidden as i64,
                None => inputs,
            };
            let mut place = place.at("layers");
            let mut place = place.at(index);
            let bias = config.bias && affine.is_none();
            layers.push(Layer {
                linear: Linear::build(&mut place.at("linear"), width, outputs, bias, start),
                norm: affine.map(|a| BatchNorm::build(&mut place.at("norm"), outputs, a, 1.0)),
                hidden,
            });
            width = outputs;
        }
        Ok(Self { layers, inputs, outputs: width })
    }

    /// Width d of z.
    pub fn outputs(&self) -> i64 {
        self.outputs
    }

    /// Checks features before [`Self::forward`] or [`Self::forward_taps`], which take them as they come.
    ///
    /// # Errors
    /// [`Error::Shape`] if `features` is not `[N,F]`, or does not suit the batch norms in this phase.
    pub fn check_input(&self, features: &Tensor, phase: Phase) -> Result<()> {
        check("features", features, &[-1, self.inputs])?;
        if self.layers.iter().any(|layer| layer.norm.is_some()) {
            check_groups("features", features.size()[0], 1, phase)?;
        }
        Ok(())
    }

    /// Features h `[N,F]` to z `[N,d]`.
    pub fn forward(&self, features: &Tensor, phase: Phase) -> Tensor {
        let mut x = features.shallow_clone();
        for layer in &self.layers {
            x = layer.forward(&x, phase);
        }
        x
    }

    /// `[h, a1, ..., z]`: the features and the output of every layer, behind its ReLU where it has one. SimCLRv2
    /// fine-tunes from `a1` (Chen et al. 2020b, section 2).
    pub fn forward_taps(&self, features: &Tensor, phase: Phase) -> Vec<Tensor> {
        let mut taps = vec![features.shallow_clone()];
        for layer in &self.layers {
            taps.push(layer.forward(&taps[taps.len() - 1], phase));
        }
        taps
    }
}

impl Layer {
    fn forward(&self, x: &Tensor, phase: Phase) -> Tensor {
        let mut x = self.linear.forward(x);
        if let Some(norm) = &self.norm {
            x = norm.forward(&x, phase);
        }
        if self.hidden { x.relu_() } else { x }
    }
}
