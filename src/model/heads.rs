//! Heads: the small perceptron g between the features h and what a loss compares, z = g(h).

use super::layers::{Affine, BatchNorm, Initialization, Linear, NormLinear, check_groups};
use super::{Phase, Place};
use crate::error::{Error, Result};
use crate::shape::check;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// A head of n layers: n − 1 times [linear, perhaps batch norm, `ReLU`], then a linear layer and perhaps a batch norm.
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
    /// Batch norm between a hidden layer and its `ReLU`.
    pub batch_norm: bool,
    /// Batch norm of z.
    pub output_batch_norm: OutputNorm,
    /// Whether linear layers without a batch norm behind them carry a bias.
    pub bias: bool,
    /// How linear layers start.
    pub initialization: HeadInitialization,
    /// Whether the last linear layer gives cosines, without a bias and from a start of its own; see [`NormLinear`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub norm_linear: bool,
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
            norm_linear: false,
        }
    }
}

/// What normalises the output of a head over the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputNorm {
    /// Nothing.
    None,
    /// Batch norm without scale and shift (SimSiam).
    Plain,
    /// Batch norm with a scale (SimCLR).
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

    /// Trainable scalars of a head on `inputs` features.
    pub fn parameter_count(&self, inputs: i64) -> u64 {
        let mut width = inputs;
        let mut count = 0;
        for index in 0..self.layers {
            let hidden = index + 1 < self.layers;
            let outputs = match self.hidden {
                _ if !hidden => self.output as i64,
                Some(hidden) => hidden as i64,
                None => inputs,
            };
            let vectors = match self.output_batch_norm {
                _ if hidden && self.batch_norm => 2,
                OutputNorm::Affine if !hidden => 2,
                OutputNorm::Gamma if !hidden => 1,
                OutputNorm::Plain if !hidden => 0,
                _ if self.norm_linear && !hidden => 0,
                _ => i64::from(self.bias),
            };
            count += width * outputs + vectors * outputs;
            width = outputs;
        }
        count as u64
    }
}

#[derive(Debug)]
enum Product {
    Plain(Linear),
    Normalized(NormLinear),
}

#[derive(Debug)]
struct Layer {
    linear: Product,
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
        Self::build_first(place, inputs, config, config.layers)
    }

    /// Makes the first `count` layers of that head alone, under their names: those below the last one are hidden layers
    /// and keep their batch norm and `ReLU` (SimCLRv2 fine-tunes from the first, Chen et al. 2020b, section 2).
    ///
    /// # Errors
    /// As [`HeadConfig::check`], and if the head has fewer layers.
    pub fn build_first(
        place: &mut Place<'_>,
        inputs: i64,
        config: &HeadConfig,
        count: usize,
    ) -> Result<Self> {
        config.check("head")?;
        if count > config.layers {
            return Err(Error::Recipe(format!(
                "a head of {} layers has no layer {count}",
                config.layers
            )));
        }
        let start = match config.initialization {
            HeadInitialization::SimClr => Initialization::Normal(0.01),
            HeadInitialization::PyTorch => Initialization::Uniform,
        };
        let mut width = inputs;
        let mut layers = Vec::new();
        for index in 0..count {
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
            let mut linear = place.at("linear");
            let linear = if config.norm_linear && !hidden {
                Product::Normalized(NormLinear::build(&mut linear, width, outputs))
            } else {
                Product::Plain(Linear::build(&mut linear, width, outputs, bias, start))
            };
            layers.push(Layer {
                linear,
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

    /// `[h, a1, ..., z]`: the features and the output of every layer, behind its `ReLU` where it has one. SimCLRv2
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
        let mut x = match &self.linear {
            Product::Plain(linear) => linear.forward(x),
            Product::Normalized(linear) => linear.forward(x),
        };
        if let Some(norm) = &self.norm {
            x = norm.forward(&x, phase);
        }
        if self.hidden { x.relu_() } else { x }
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden::{Golden, INPUT, TRAINING, fill, noise, parameters};
    use super::super::{Parameters, Statistics};
    use super::*;
    use tch::Kind;

    fn read(settings: &str) -> HeadConfig {
        toml::from_str(settings).unwrap()
    }

    fn build(inputs: i64, settings: &str) -> (Parameters, Head) {
        let mut parameters = parameters(Kind::Double);
        let head = Head::build(&mut parameters.root(), inputs, &read(settings)).unwrap();
        (parameters, head)
    }

    const NO_NORM: &str = "batch_norm = false\noutput_batch_norm = 'none'\n";

    #[test]
    fn heads_equal_torch_to_the_stored_digits() {
        for (name, settings) in [
            ("simclr", String::new()),
            ("simclrv2", "layers = 3".to_owned()),
            ("moco_v1", format!("{NO_NORM} layers = 1\ninitialization = 'pytorch'")),
            ("moco_v2", format!("{NO_NORM} initialization = 'pytorch'")),
            ("spij", format!("{NO_NORM} layers = 3\nbias = false\ninitialization = 'pytorch'")),
            ("wide_plain", "hidden = 40\noutput_batch_norm = 'plain'".to_owned()),
            ("lightly", "output_batch_norm = 'affine'\ninitialization = 'pytorch'".to_owned()),
        ] {
            let (parameters, head) = build(24, &format!("output = 8\n{settings}"));
            fill(&parameters);
            let features = noise(INPUT, &[12, 24]);
            head.check_input(&features, TRAINING).unwrap();
            let golden = Golden::open(&format!("head.{name}"));
            let forward = |phase| head.forward(&features, phase);
            golden.hold_evaluation(forward, 1e-6);
            golden.hold_training(&parameters, forward, 1e-6);
        }
    }

    #[test]
    fn parameter_counts_are_the_published_ones() {
        for (inputs, settings, expected) in [
            (2048, String::new(), 4_460_672),
            (2048, "layers = 3".to_owned(), 8_659_072),
            (2048, format!("{NO_NORM} layers = 1"), 262_272),
            (2048, NO_NORM.to_owned(), 4_458_624),
            (2048, "layers = 0".to_owned(), 0),
            (512, format!("{NO_NORM} output = 64\nbias = false"), 512 * 512 + 512 * 64),
        ] {
            assert_eq!(build(inputs, &settings).0.count(), expected, "{settings}");
            assert_eq!(read(&settings).parameter_count(inputs), expected as u64, "{settings}");
        }
    }

    #[test]
    fn names_and_the_start_follow_the_settings() {
        let names = |settings: &str| -> Vec<String> {
            build(6, settings).0.all().iter().map(|p| p.name.clone()).collect()
        };
        assert_eq!(
            names(""),
            [
                "layers.0.linear.weight",
                "layers.0.norm.weight",
                "layers.0.norm.bias",
                "layers.0.norm.running_mean",
                "layers.0.norm.running_var",
                "layers.1.linear.weight",
                "layers.1.norm.weight",
                "layers.1.norm.running_mean",
                "layers.1.norm.running_var",
            ]
        );
        assert_eq!(
            names(NO_NORM),
            [
                "layers.0.linear.weight",
                "layers.0.linear.bias",
                "layers.1.linear.weight",
                "layers.1.linear.bias",
            ]
        );
        let deviation =
            |settings: &str| build(400, settings).0.all()[0].tensor.std(false).double_value(&[]);
        assert!((deviation("") - 0.01).abs() < 1e-4);
        let uniform = 1.0 / f64::sqrt(3.0 * 400.0);
        assert!((deviation("initialization = 'pytorch'") / uniform - 1.0).abs() < 0.01);
    }

    #[test]
    fn taps_are_the_features_every_layer_and_z() {
        let (parameters, head) = build(6, "layers = 3\noutput = 4");
        fill(&parameters);
        let features = noise(INPUT, &[5, 6]);
        let taps = head.forward_taps(&features, Phase::Evaluation);
        let sizes: Vec<_> = taps.iter().map(Tensor::size).collect();
        assert_eq!(sizes, [[5, 6], [5, 6], [5, 6], [5, 4]]);
        assert_eq!(taps[0], features);
        assert_eq!(taps[0], noise(INPUT, &[5, 6]));
        assert!(taps[1..3].iter().all(|tap| tap.min().double_value(&[]) == 0.0));
        assert!(taps[3].min().double_value(&[]) < 0.0);
        assert_eq!(taps[3], head.forward(&features, Phase::Evaluation));
        let (_, none) = build(6, "layers = 0");
        assert_eq!(none.outputs(), 6);
        assert_eq!(none.forward_taps(&features, TRAINING), [features]);
    }

    #[test]
    fn the_first_layers_alone_are_those_of_the_whole_head() {
        let config = read("layers = 3\noutput = 4");
        let (whole, head) = build(6, "layers = 3\noutput = 4");
        fill(&whole);
        let mut parameters = parameters(Kind::Double);
        let first = Head::build_first(&mut parameters.root(), 6, &config, 2).unwrap();
        let values = whole.all().iter().map(|p| (p.name.clone(), p.tensor.detach())).collect();
        parameters.load(&values).unwrap();
        let features = noise(INPUT, &[5, 6]);
        let taps = head.forward_taps(&features, Phase::Evaluation);
        assert_eq!(first.forward(&features, Phase::Evaluation), taps[2]);
        assert_eq!(first.outputs(), 6);
        assert!(parameters.all().iter().all(|p| !p.name.starts_with("layers.2.")));
        let too_many = Head::build_first(&mut parameters.root(), 6, &config, 4).unwrap_err();
        assert!(too_many.to_string().contains("has no layer 4"), "{too_many}");
    }

    #[test]
    fn a_normalized_last_layer_gives_cosines() {
        let (parameters, head) =
            build(6, "output = 4\noutput_batch_norm = 'none'\nnorm_linear = true");
        let weight = &parameters.all().last().unwrap().tensor;
        assert_eq!(parameters.all().last().unwrap().name, "layers.1.linear.weight");
        let lengths = weight.square().sum_dim_intlist(1, false, None);
        assert!((lengths - 1.0).abs().max().double_value(&[]) < 1e-12);
        tch::no_grad(|| {
            let _ = weight.shallow_clone().g_mul_scalar_(3.0);
        });
        let taps = head.forward_taps(&noise(INPUT, &[5, 6]), TRAINING);
        for (row, output) in (0..5).flat_map(|row| (0..4).map(move |output| (row, output))) {
            let pair = [taps[1].get(row), weight.get(output)];
            let dot = pair[0].dot(&pair[1]).double_value(&[]);
            let length = |v: &Tensor| v.norm().double_value(&[]);
            let cosine = dot / length(&pair[0]) / length(&pair[1]);
            assert!((taps[2].double_value(&[row, output]) - cosine).abs() < 1e-12);
        }
    }

    #[test]
    fn groups_of_rows_pass_as_if_alone() {
        let (parameters, head) = build(6, "output = 4");
        fill(&parameters);
        let features = noise(INPUT, &[8, 6]);
        let phase = |groups| Phase::Training { groups, statistics: Statistics::Keep };
        let halves = features.split(4, 0);
        let alone: Vec<Tensor> = halves.iter().map(|half| head.forward(half, phase(1))).collect();
        let difference = head.forward(&features, phase(2)) - Tensor::cat(&alone, 0);
        assert!(difference.abs().max().double_value(&[]) < 1e-14);
    }

    #[test]
    fn unsuitable_features_and_settings_are_refused() {
        let (_, head) = build(6, "");
        let features = |rows| noise(INPUT, &[rows, 6]);
        assert!(head.check_input(&features(1), TRAINING).is_err());
        assert!(head.check_input(&features(1), Phase::Evaluation).is_ok());
        assert!(head.check_input(&noise(INPUT, &[4, 5]), TRAINING).is_err());
        assert!(build(6, NO_NORM).1.check_input(&features(1), TRAINING).is_ok());
        let message = read("hidden = 0").check("method.projector").unwrap_err().to_string();
        assert!(message.starts_with("`method.projector.hidden` must"), "{message}");
        assert!(read("output = 0").check("head").is_err());
        assert!(read("layers = 65").check("head").is_err());
        assert!(toml::from_str::<HeadConfig>("layer = 2").is_err());
        let config = read("hidden = 3\noutput_batch_norm = 'none'");
        assert_eq!(read(&toml::to_string(&config).unwrap()), config);
    }
}
