//! The networks of SimCLR (Chen et al. 2020) and `SimCLRv2` (Chen et al. 2020b) as their TensorFlow code names them
//! (google-research/simclr, `resnet.py`, `model_util.py`, and `tf2/`).
//!
//! That code names layers by the order in which it makes them: `conv2d`, `conv2d_1`, … `conv2d_52`, and batch norms by an
//! own count. The shortcut of a block is made before its branch, and selective kernels have a convolution without batch
//! norm, so the counts part. [`recognise`] finds the network whose list of layers has the shapes that are there, every one.

mod order;
#[cfg(test)]
mod tests;
mod variable;

use crate::error::{Error, Result};
use crate::model::heads::OutputNorm;
use crate::model::resnet::{Architecture, BackboneInitialization, Flavor, Stem};
use crate::model::{BackboneConfig, HeadConfig};
use crate::weights::tensorflow::{Bundle, DataType};
use order::{Layer, creation_order};
use std::collections::BTreeMap;
use tch::Tensor;
use variable::{NORM, Place, Variable};

/// The ratio of all published networks with selective kernels.
const SK_RATIO: f64 = 0.0625;

/// What is wanted of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The moving average of the weights that pre-training of `SimCLRv2` keeps (`ema_model/`), in place of the weights.
    pub average: bool,
    /// The pooling of the published PyTorch conversions ([`Flavor::SimclrConverter`]) in place of that of the network.
    pub converter: bool,
    /// How many layers of the projection head the linear head sits behind; none to find out. `SimCLRv2` fine-tunes with
    /// 1 % and 10 % of the labels from the first (Chen et al. 2020b, section 4.2), with all of them from the features.
    pub tap: Option<usize>,
}

/// A network found in a checkpoint.
#[derive(Clone, Debug)]
pub struct Network {
    /// The backbone.
    pub config: BackboneConfig,
    /// The projection head, if there is one.
    pub projector: Option<HeadConfig>,
    /// Classes of the linear head, if there is one and it is taken.
    pub classes: Option<usize>,
    /// How many layers of the projection head it sits behind.
    pub tap: usize,
    /// Every tensor of ours (`backbone.…`, `projector.…`, `classifier.…`) and where it comes from.
    pub tensors: Vec<Mapped>,
    /// Variables that are not taken, and what they are.
    pub dropped: Vec<(String, &'static str)>,
    /// Whether a moving average of the weights is there.
    pub has_average: bool,
}

impl Network {
    /// How many variables are not taken, by what they are.
    pub fn dropped_by_kind(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for (_, what) in &self.dropped {
            *counts.entry(*what).or_default() += 1;
        }
        counts
    }
}

/// What a linear head is called that is left, because nothing tells what it reads.
pub const UNDECIDED: &str =
    "linear head, of which nothing tells whether it reads h or g1: `weights import --tap`";

/// Steps after which the published checkpoints were written, and what the linear head of each sits behind: pre-training,
/// all labels, from scratch with labels, 10 % and 1 % of the labels.
const PUBLISHED: [(&str, usize); 5] =
    [("250228", 0), ("37535", 0), ("28151", 0), ("3754", 1), ("751", 1)];

/// A tensor of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Our name.
    pub target: String,
    /// Our shape.
    pub shape: Vec<i64>,
    /// The variable, by the name it was given with; none for a tensor that is zero.
    pub source: Option<String>,
    /// How the variable lies.
    pub layout: Layout,
}

/// How a variable lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Kernel of a convolution: rows, columns, channels in, channels out.
    Kernel,
    /// Matrix of a dense layer: inputs, outputs.
    Dense,
    /// As ours.
    Plain,
}

impl Layout {
    /// Which dimension of a variable of so many is each of ours.
    pub fn order(self, dimensions: usize) -> Vec<i64> {
        match (self, dimensions) {
            (Self::Kernel, 4) => vec![3, 2, 0, 1],
            (Self::Dense, 2) => vec![1, 0],
            _ => (0..dimensions as i64).collect(),
        }
    }

    /// A tensor of ours as the variable lies, sharing its memory.
    pub fn as_theirs(self, ours: &Tensor) -> Tensor {
        let order = self.order(ours.dim());
        let place = |theirs: i64| order.iter().position(|at| *at == theirs).unwrap_or(0) as i64;
        ours.permute((0..order.len() as i64).map(place).collect::<Vec<_>>())
    }
}

/// [`recognise`] in a bundle. What the linear head sits behind is told by the step in the name of a published checkpoint.
///
/// # Errors
/// As [`recognise`], naming the checkpoint; and if it holds anything but numbers that is no bookkeeping of TensorFlow's.
pub fn find(bundle: &Bundle, choice: Choice) -> Result<Network> {
    let keys = bundle.variables()?;
    let unknown = bundle.entries().iter().find(|(name, entry)| {
        let bookkeeping = name.starts_with('_') || name.contains("/.ATTRIBUTES/");
        !matches!(entry.data_type, DataType::Numbers(_)) && !bookkeeping
    });
    if let Some((name, entry)) = unknown {
        return Err(Error::Weights(format!(
            "checkpoint `{}`: `{name}` is no variable of SimCLR's ({:?})",
            bundle.prefix().display(),
            entry.data_type
        )));
    }
    let prefix = bundle.prefix().file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let step = prefix.strip_prefix("model.ckpt-");
    let told = PUBLISHED.iter().find(|(known, _)| Some(*known) == step).map(|(_, tap)| *tap);
    let variables = keys.iter().filter_map(|(name, key)| {
        Some((name.as_str(), bundle.entries().get(key)?.shape.as_slice()))
    });
    taken_apart(variables, choice, told).map_err(|error| {
        Error::Weights(format!("checkpoint `{}`: {error}", bundle.prefix().display()))
    })
}

/// Finds the network in a checkpoint, of which the names and shapes of all variables are given.
///
/// # Errors
/// [`Error::Weights`] if there is none of SimCLR's networks, saying at which layer the likeliest one parts; if a moving
/// average is wanted and not there; if a head is not whole; or if there is a variable that is neither of the network nor
/// known to lie beside it.
pub fn recognise<'a>(
    variables: impl IntoIterator<Item = (&'a str, &'a [i64])>,
    choice: Choice,
) -> Result<Network> {
    taken_apart(variables, choice, None)
}

/// [`recognise`]; `told` says what a linear head sits behind, as far as the name of the checkpoint does.
fn taken_apart<'a>(
    variables: impl IntoIterator<Item = (&'a str, &'a [i64])>,
    choice: Choice,
    told: Option<usize>,
) -> Result<Network> {
    let all: Vec<Variable<'a>> =
        variables.into_iter().map(|(name, shape)| Variable::new(name, shape)).collect();
    let has_average = all.iter().any(|v| v.average && matches!(v.place, Place::Kernel(_)));
    if choice.average && !has_average {
        return Err(Error::Weights(
            "there is no moving average of the weights (`ema_model/base_model/…`); only pre-training of `SimCLRv2` keeps one"
                .into(),
        ));
    }
    let unknown: Vec<&str> =
        all.iter().filter(|v| v.place == Place::Unknown).map(|v| v.name).collect();
    if let [first, ..] = unknown.as_slice() {
        return Err(Error::Weights(format!(
            "{} variables are neither of a network of SimCLR's nor known to lie beside one, the first is `{first}`",
            unknown.len()
        )));
    }
    let mut dropped: Vec<(String, &'static str)> = Vec::new();
    let mut taken: Vec<Variable<'a>> = Vec::new();
    for variable in all {
        let wanted = match variable.place {
            Place::Classifier(_) => Some("copies of the linear head").filter(|_| variable.average),
            Place::Nowhere(what) => Some(what),
            _ if variable.average == choice.average => None,
            _ if variable.average => Some("moving averages"),
            _ => Some("weights beside the moving average"),
        };
        match wanted {
            Some(what) => dropped.push((variable.name.to_owned(), what)),
            None => taken.push(variable),
        }
    }
    let found = Found::sorted(&taken)?;
    let (config, mut tensors) = backbone(&found, choice)?;
    let projector = projector(&found, config.features(), &mut tensors)?;
    let tap = match (&projector, choice.tap) {
        (head, Some(tap)) if tap > head.as_ref().map_or(0, |head| head.layers) => {
            let layers = head.as_ref().map_or(0, |head| head.layers);
            return Err(Error::Weights(format!(
                "there is no layer g{tap}: the projection head has {layers} layers"
            )));
        }
        (_, Some(tap)) => Some(tap),
        (None, None) => Some(0),
        // Only pre-training keeps an average, and its linear head reads the features.
        (Some(_), None) => told.or(has_average.then_some(0)),
    };
    let classes = if let Some(tap) = tap {
        let matrix = format!("projector.layers.{}.linear.weight", tap.wrapping_sub(1));
        let below = tensors.iter().find(|tensor| tensor.target == matrix);
        let width = below.map_or(config.features(), |tensor| tensor.shape[0]);
        classifier(&found, width, &mut tensors)?
    } else {
        let left = found.classifier.values();
        dropped.extend(left.map(|variable| (variable.name.to_owned(), UNDECIDED)));
        None
    };
    let tap = tap.unwrap_or(0);
    Ok(Network { config, projector, classes, tap, tensors, dropped, has_average })
}

/// Variables by place.
#[derive(Default)]
struct Found<'a> {
    kernels: BTreeMap<u32, &'a Variable<'a>>,
    norms: BTreeMap<u32, BTreeMap<&'static str, &'a Variable<'a>>>,
    projector: BTreeMap<u32, BTreeMap<&'static str, &'a Variable<'a>>>,
    classifier: BTreeMap<&'static str, &'a Variable<'a>>,
}

impl<'a> Found<'a> {
    fn sorted(variables: &'a [Variable<'a>]) -> Result<Self> {
        let mut found = Self::default();
        for variable in variables {
            let earlier = match variable.place {
                Place::Kernel(number) => found.kernels.insert(number, variable),
                Place::Norm(number, value) => {
                    found.norms.entry(number).or_default().insert(value, variable)
                }
                Place::Projector(number, value) => {
                    found.projector.entry(number).or_default().insert(value, variable)
                }
                Place::Classifier(value) => found.classifier.insert(value, variable),
                Place::Nowhere(_) | Place::Unknown => None,
            };
            if let Some(earlier) = earlier {
                return Err(Error::Weights(format!(
                    "`{}` and `{}` are the same layer of two networks; a checkpoint of one is needed",
                    earlier.name, variable.name
                )));
            }
        }
        Ok(found)
    }
}

/// All networks of the code, at the width of the first convolution.
fn candidates(first: &[i64], choice: Choice) -> Vec<BackboneConfig> {
    let &[side, _, inputs, outputs] = first else { return Vec::new() };
    let names = [
        Architecture::ResNet18,
        Architecture::ResNet34,
        Architecture::ResNet50,
        Architecture::ResNet101,
        Architecture::ResNet152,
        Architecture::ResNet200,
    ];
    let stems: &[(Stem, f64, f64)] = match side {
        7 => &[(Stem::ImageNet, 0.0, 64.0)],
        3 => &[
            (Stem::ResNetD, SK_RATIO, 32.0),
            (Stem::Cifar, 0.0, 64.0),
            (Stem::Cifar, SK_RATIO, 64.0),
        ],
        _ => &[],
    };
    let flavor = if choice.converter { Flavor::SimclrConverter } else { Flavor::SimclrTf };
    let all = names.iter().flat_map(|name| stems.iter().map(move |stem| (*name, *stem)));
    let all = all.map(|(name, (stem, sk_ratio, unit))| BackboneConfig {
        width: outputs as f64 / unit,
        input_channels: inputs,
        stem,
        flavor,
        sk_ratio,
        initialization: BackboneInitialization::SimClr,
        zero_init_residual: true,
        ..BackboneConfig::new(name)
    });
    all.filter(|config| config.check().is_ok()).collect()
}

/// The backbone whose layers all have the shapes that are there.
fn backbone(found: &Found<'_>, choice: Choice) -> Result<(BackboneConfig, Vec<Mapped>)> {
    let Some(first) = found.kernels.values().next() else {
        return Err(Error::Weights(
            "there is no backbone of SimCLR's TensorFlow code (`base_model/conv2d/kernel`)".into(),
        ));
    };
    let (kernels, norms) = (found.kernels.len(), found.norms.len());
    let mut parting = None;
    for config in candidates(first.shape, choice) {
        let layers = creation_order(&config);
        let wanted = layers.iter().filter(|layer| matches!(layer, Layer::Kernel { .. })).count();
        if (wanted, layers.len() - wanted) != (kernels, norms) {
            continue;
        }
        match fill(&layers, found) {
            Ok(tensors) => return Ok((config, tensors)),
            Err(why) => {
                parting = Some(format!("{:?} at width {}: {why}", config.name, config.width));
            }
        }
    }
    Err(Error::Weights(match parting {
        Some(why) => format!("no network of SimCLR; like {why}"),
        None => format!(
            "no network of SimCLR has {kernels} convolutions, the first of shape {:?}, and {norms} batch norms",
            first.shape
        ),
    }))
}

/// Gives every layer its variables, in order.
fn fill(layers: &[Layer], found: &Found<'_>) -> Result<Vec<Mapped>, String> {
    let mut kernels = found.kernels.values();
    let mut norms = found.norms.values();
    let mut tensors = Vec::new();
    for layer in layers {
        match layer {
            Layer::Kernel { name, geometry } => {
                let variable = kernels.next().ok_or("a convolution is missing")?;
                let (side, inputs, outputs) = (geometry.kernel, geometry.inputs, geometry.outputs);
                shaped(variable, &[side, side, inputs, outputs])?;
                tensors.push(Mapped {
                    target: format!("backbone.{name}.weight"),
                    shape: vec![outputs, inputs, side, side],
                    source: Some(variable.name.to_owned()),
                    layout: Layout::Kernel,
                });
            }
            Layer::Norm { name, channels } => {
                let values = norms.next().ok_or("a batch norm is missing")?;
                norm(&format!("backbone.{name}"), *channels, values, true, &mut tensors)?;
            }
        }
    }
    Ok(tensors)
}

fn shaped(variable: &Variable<'_>, expected: &[i64]) -> Result<(), String> {
    if variable.shape == expected {
        return Ok(());
    }
    Err(format!("`{}` must have shape {expected:?}, found {:?}", variable.name, variable.shape))
}

/// The values of a batch norm; without `shift` it has no bias, and one that it has not is zero.
fn norm(
    name: &str,
    channels: i64,
    values: &BTreeMap<&'static str, &Variable<'_>>,
    shift: bool,
    tensors: &mut Vec<Mapped>,
) -> Result<(), String> {
    for (_, value) in NORM.iter().filter(|(_, value)| shift || *value != "bias") {
        let variable = values.get(value);
        match variable {
            Some(variable) => shaped(variable, &[channels])?,
            None if *value == "bias" => {}
            None => return Err(format!("`{name}.{value}` is missing")),
        }
        tensors.push(Mapped {
            target: format!("{name}.{value}"),
            shape: vec![channels],
            source: variable.map(|variable| variable.name.to_owned()),
            layout: Layout::Plain,
        });
    }
    Ok(())
}

/// The projection head: layers of the width of the features, the last one without a shift.
fn projector(
    found: &Found<'_>,
    features: i64,
    tensors: &mut Vec<Mapped>,
) -> Result<Option<HeadConfig>> {
    let broken = |why: String| Error::Weights(format!("the projection head is not whole: {why}"));
    let count = found.projector.len();
    let mut width = features;
    for (place, (number, values)) in found.projector.iter().enumerate() {
        if *number as usize != place {
            return Err(broken(format!("there is no layer nl_{place}")));
        }
        let linear = values.get("linear.weight");
        let linear = linear.ok_or_else(|| broken(format!("nl_{place} has no matrix")))?;
        let &[inputs, outputs] = linear.shape else {
            return Err(broken(format!("`{}` has shape {:?}", linear.name, linear.shape)));
        };
        let last = place + 1 == count;
        if inputs != width || (!last && outputs != features) {
            let found = linear.shape;
            return Err(broken(format!("`{}` takes {width} values, found {found:?}", linear.name)));
        }
        let name = format!("projector.layers.{place}");
        tensors.push(Mapped {
            target: format!("{name}.linear.weight"),
            shape: vec![outputs, inputs],
            source: Some(linear.name.to_owned()),
            layout: Layout::Dense,
        });
        if last && values.contains_key("bias") {
            return Err(broken(format!("the batch norm of its last layer nl_{place} has a shift")));
        }
        norm(&format!("{name}.norm"), outputs, values, !last, tensors).map_err(broken)?;
        width = outputs;
    }
    Ok((count > 0).then(|| HeadConfig {
        layers: count,
        output: width as usize,
        output_batch_norm: OutputNorm::Gamma,
        ..HeadConfig::default()
    }))
}

/// The linear head, with its bias.
fn classifier(
    found: &Found<'_>,
    features: i64,
    tensors: &mut Vec<Mapped>,
) -> Result<Option<usize>> {
    let Some(kernel) = found.classifier.get("kernel") else { return Ok(None) };
    let &[inputs, classes] = kernel.shape else {
        return Err(Error::Weights(format!("`{}` has shape {:?}", kernel.name, kernel.shape)));
    };
    let bias = found.classifier.get("bias");
    if inputs != features || bias.is_some_and(|bias| bias.shape != [classes]) {
        return Err(Error::Weights(format!(
            "the linear head `{}` of shape {:?} does not fit {features} features",
            kernel.name, kernel.shape
        )));
    }
    tensors.push(Mapped {
        target: "classifier.weight".into(),
        shape: vec![classes, inputs],
        source: Some(kernel.name.to_owned()),
        layout: Layout::Dense,
    });
    tensors.push(Mapped {
        target: "classifier.bias".into(),
        shape: vec![classes],
        source: bias.map(|bias| bias.name.to_owned()),
        layout: Layout::Plain,
    });
    Ok(Some(classes as usize))
}
