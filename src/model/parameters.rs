//! The named tensors of a network: what an optimizer moves and a checkpoint holds.

use super::layers::NORM_MOMENTUM;
use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
use std::collections::{BTreeMap, BTreeSet};
use tch::{Device, Kind, Tensor};

/// What a tensor does, as far as optimizers care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Kernel of a convolution or matrix of a linear layer.
    Weight,
    /// Bias of a convolution or linear layer.
    Bias,
    /// Scale (gamma) of a normalisation layer.
    NormScale,
    /// Shift (beta) of a normalisation layer.
    NormShift,
    /// Running statistics, which move in forward passes.
    Buffer,
    /// What a method keeps from step to step and moves itself: a queue, a memory bank.
    State,
}

impl Role {
    /// In a word, as files have it: `weight`, `bias`, `norm_scale`, `norm_shift`, `buffer`, `state`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Bias => "bias",
            Self::NormScale => "norm_scale",
            Self::NormShift => "norm_shift",
            Self::Buffer => "buffer",
            Self::State => "state",
        }
    }
}

/// One named tensor. The tensor is shared with the layer that uses it: change it in place.
#[derive(Debug)]
pub struct Parameter {
    /// Full name, `backbone.layer1.0.conv1.weight`.
    pub name: String,
    /// The value; requires a gradient if it is trained.
    pub tensor: Tensor,
    /// What it does.
    pub role: Role,
    /// Whether an optimizer moves it: not buffers and state, and nothing of a frozen network.
    pub trained: bool,
}

/// All tensors of a network in the order in which they were made.
#[derive(Debug)]
pub struct Parameters {
    list: Vec<Parameter>,
    /// What initial values are drawn from; none where all are zero.
    seed: Option<u64>,
    device: Device,
    kind: Kind,
}

impl Parameters {
    /// An empty list whose initial values are drawn from `seed`, on a device, in f32 or (for tests) f64.
    pub fn new(seed: u64, device: Device, kind: Kind) -> Self {
        Self { list: Vec::new(), seed: Some(seed), device, kind }
    }

    /// An empty list for a network whose every tensor will be loaded: all are zero, and no time goes into drawing what is
    /// overwritten.
    pub fn to_be_loaded(device: Device, kind: Kind) -> Self {
        Self { list: Vec::new(), seed: None, device, kind }
    }

    /// The place where names start.
    pub fn root(&mut self) -> Place<'_> {
        Place {
            parameters: self,
            prefix: String::new(),
            frozen: false,
            norm_momentum: NORM_MOMENTUM,
        }
    }

    /// Every tensor, buffers and state included.
    pub fn all(&self) -> &[Parameter] {
        &self.list
    }

    /// Only what an optimizer moves.
    pub fn trainable(&self) -> impl Iterator<Item = &Parameter> {
        self.list.iter().filter(|parameter| parameter.trained)
    }

    /// Number of trainable scalars.
    pub fn count(&self) -> usize {
        self.trainable().map(|parameter| parameter.tensor.numel()).sum()
    }

    /// Forgets all gradients.
    pub fn zero_grad(&self) {
        for parameter in self.trainable() {
            let mut gradient = parameter.tensor.grad();
            if gradient.defined() {
                let _ = gradient.zero_();
            }
        }
    }

    /// Overwrites every tensor with the one of its name.
    ///
    /// # Errors
    /// [`Error::Weights`] if a name is missing or a shape differs; nothing is changed then.
    pub fn load(&self, values: &BTreeMap<String, Tensor>) -> Result<()> {
        load(self.list.iter(), values)
    }

    /// Whether tensors of these shapes could be [loaded](Self::load).
    ///
    /// # Errors
    /// [`Error::Weights`] if a name is missing or a shape differs.
    pub fn fits(&self, shapes: &BTreeMap<&str, &[usize]>) -> Result<()> {
        let shape_of = |name: &str| {
            shapes.get(name).map(|shape| shape.iter().map(|size| *size as i64).collect())
        };
        self.list.iter().try_for_each(|parameter| fit(parameter, shape_of(&parameter.name)))
    }

    /// Overwrites the tensors whose names start with `prefix`, and no others, with those of their names: a backbone out
    /// of another run, `load_part("backbone.", …)`. They must match exactly: every tensor of the part is in `values`,
    /// and `values` holds nothing else under `prefix`. Returns how many there are.
    ///
    /// # Errors
    /// [`Error::Weights`] naming what is missing, has another shape, or has no place here; nothing is changed then.
    pub fn load_part(&self, prefix: &str, values: &BTreeMap<String, Tensor>) -> Result<usize> {
        let part: Vec<&Parameter> =
            self.list.iter().filter(|parameter| parameter.name.starts_with(prefix)).collect();
        let known: BTreeSet<&str> = part.iter().map(|p| p.name.as_str()).collect();
        let without_place: Vec<&str> = values
            .keys()
            .map(String::as_str)
            .filter(|name| name.starts_with(prefix) && !known.contains(name))
            .collect();
        let missing: Vec<&str> =
            known.iter().copied().filter(|name| !values.contains_key(*name)).collect();
        for (names, what) in [(missing, "no tensor for"), (without_place, "no place for")] {
            if !names.is_empty() {
                return Err(Error::Weights(format!("{what} {}", listed(&names))));
            }
        }
        load(part.iter().copied(), values)?;
        Ok(part.len())
    }
}

/// Names for a message: the first few, and how many more there are.
fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Whether a tensor of this shape, if there is one, fits.
fn fit(parameter: &Parameter, found: Option<Vec<i64>>) -> Result<()> {
    let expected = parameter.tensor.size();
    match found {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(Error::Weights(format!(
            "`{}` must have shape {expected:?}, found {found:?}",
            parameter.name
        ))),
        None => Err(Error::Weights(format!("no tensor named `{}`", parameter.name))),
    }
}

/// Checks all of `parameters`, then overwrites them.
fn load<'a>(
    parameters: impl Iterator<Item = &'a Parameter> + Clone,
    values: &BTreeMap<String, Tensor>,
) -> Result<()> {
    for parameter in parameters.clone() {
        fit(parameter, values.get(&parameter.name).map(Tensor::size))?;
    }
    tch::no_grad(|| {
        for parameter in parameters {
            parameter.tensor.shallow_clone().copy_(&values[&parameter.name]);
        }
    });
    Ok(())
}

/// A prefix under which a layer names its tensors.
#[derive(Debug)]
pub struct Place<'a> {
    parameters: &'a mut Parameters,
    prefix: String,
    frozen: bool,
    norm_momentum: f64,
}

/// Values drawn at a time where a tensor starts: a memory bank of all images of a data set is large.
const DRAWN: usize = 1 << 16;

impl Place<'_> {
    /// The place below this one: `place.at("layer1").at(0)`.
    pub fn at(&mut self, name: impl std::fmt::Display) -> Place<'_> {
        let prefix = if self.prefix.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.prefix)
        };
        Place {
            parameters: self.parameters,
            prefix,
            frozen: self.frozen,
            norm_momentum: self.norm_momentum,
        }
    }

    /// Share of their running statistics that a step replaces, for the batch norms made below this place.
    pub fn norm_momentum(&self) -> f64 {
        self.norm_momentum
    }

    /// Sets [`Self::norm_momentum`], for batch norms made from now on.
    pub fn set_norm_momentum(&mut self, momentum: f64) {
        self.norm_momentum = momentum;
    }

    /// The same place for a network that no optimizer moves (a momentum encoder); it is checkpointed all the same.
    #[must_use]
    pub fn frozen(self) -> Self {
        Self { frozen: true, ..self }
    }

    /// This place again, as [`Self::frozen`] if `frozen` says so.
    pub fn frozen_if(&mut self, frozen: bool) -> Place<'_> {
        Place {
            parameters: self.parameters,
            prefix: self.prefix.clone(),
            frozen: self.frozen || frozen,
            norm_momentum: self.norm_momentum,
        }
    }

    /// Adds a counter, i64 `[1]`, that starts at 0: state like a queue's position.
    pub fn add_counter(&mut self, name: &str) -> Tensor {
        let tensor = self.add(name, Role::State, &[1], |_| 0.0);
        let counter = tensor.to_kind(Kind::Int64);
        if let Some(parameter) = self.parameters.list.last_mut() {
            parameter.tensor = counter.shallow_clone();
        }
        counter
    }

    /// Adds a tensor of the given shape whose values are `value(stream)` in row-major order; the stream belongs to the
    /// position of the tensor in the list, so one network and seed always give the same values.
    pub fn add(
        &mut self,
        name: &str,
        role: Role,
        shape: &[i64],
        mut value: impl FnMut(&mut Stream) -> f64,
    ) -> Tensor {
        let parameters = &mut *self.parameters;
        let name = if self.prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.prefix)
        };
        assert!(parameters.list.iter().all(|other| other.name != name), "two tensors named {name}");
        let item = parameters.list.len() as u64;
        let options = (parameters.kind, parameters.device);
        // Kernels lie channels-last, the layout convolutions are fastest in.
        let tensor = match (parameters.seed, shape) {
            (None, [out, inputs, height, width]) => {
                Tensor::zeros([*out, *height, *width, *inputs], options).permute([0, 3, 1, 2])
            }
            (None, _) => Tensor::zeros(shape, options),
            (Some(seed), _) => {
                let mut stream = Stream::open(seed, Purpose::Weights, Scope::Item(item));
                let count = shape.iter().product::<i64>() as usize;
                let tensor = Tensor::empty([count as i64], options);
                for start in (0..count).step_by(DRAWN) {
                    let values: Vec<f64> =
                        (start..count.min(start + DRAWN)).map(|_| value(&mut stream)).collect();
                    let mut part = tensor.narrow(0, start as i64, values.len() as i64);
                    part.copy_(&Tensor::from_slice(&values));
                }
                let tensor = tensor.view(shape);
                if shape.len() == 4 {
                    tensor.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
                } else {
                    tensor
                }
            }
        };
        let trained = !(self.frozen || matches!(role, Role::Buffer | Role::State));
        let tensor = tensor.set_requires_grad(trained);
        let shared = tensor.shallow_clone();
        parameters.list.push(Parameter { name, tensor, role, trained });
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(seed: u64) -> Parameters {
        let mut parameters = Parameters::new(seed, Device::Cpu, Kind::Float);
        let mut root = parameters.root();
        let _ = root.at("a").at(0).add("weight", Role::Weight, &[2, 3], Stream::normal);
        let _ = root.at("a").add("mean", Role::Buffer, &[3], |_| 0.0);
        parameters
    }

    #[test]
    fn names_follow_the_place_and_buffers_do_not_count() {
        let parameters = small(1);
        let names: Vec<_> = parameters.all().iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["a.0.weight", "a.mean"]);
        assert_eq!(parameters.count(), 6);
        assert!(parameters.all()[0].tensor.requires_grad());
    }

    #[test]
    fn what_will_be_loaded_is_zero_and_lies_as_what_is_drawn() {
        let made = |mut parameters: Parameters| {
            parameters.root().add("kernel", Role::Weight, &[4, 3, 2, 2], Stream::normal)
        };
        let drawn = made(Parameters::new(1, Device::Cpu, Kind::Float));
        let blank = made(Parameters::to_be_loaded(Device::Cpu, Kind::Float));
        assert_eq!((blank.size(), blank.stride()), (drawn.size(), drawn.stride()));
        assert_eq!(blank, blank.zeros_like());
        assert!(blank.requires_grad());
    }

    #[test]
    fn the_seed_fixes_the_values() {
        let value = |parameters: &Parameters| parameters.all()[0].tensor.shallow_clone();
        assert_eq!(value(&small(1)), value(&small(1)));
        assert_ne!(value(&small(1)), value(&small(2)));
    }

    #[test]
    fn loading_needs_every_name_and_shape_and_changes_nothing_otherwise() {
        let parameters = small(1);
        let before = parameters.all()[0].tensor.copy();
        let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
        let mut values = BTreeMap::from([("a.0.weight".to_owned(), ones(&[2, 3]))]);
        assert!(parameters.load(&values).unwrap_err().to_string().contains("`a.mean`"));
        values.insert("a.mean".to_owned(), ones(&[4]));
        assert!(parameters.load(&values).unwrap_err().to_string().contains("[3], found [4]"));
        assert_eq!(parameters.all()[0].tensor, before);
        values.insert("a.mean".to_owned(), ones(&[3]));
        parameters.load(&values).unwrap();
        assert_eq!(parameters.all()[0].tensor, ones(&[2, 3]));
    }

    #[test]
    fn a_part_must_match_exactly_and_the_rest_stays() {
        let mut parameters = small(1);
        let _ = parameters.root().at("head").add("weight", Role::Weight, &[2], Stream::normal);
        let values = || -> BTreeMap<String, Tensor> {
            let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
            let part = [("a.0.weight", ones(&[2, 3])), ("a.mean", ones(&[3]))];
            let beside = [("head.other", ones(&[5])), ("optimizer.a.mean.momentum", ones(&[3]))];
            part.into_iter().chain(beside).map(|(name, tensor)| (name.to_owned(), tensor)).collect()
        };
        let refused = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
            let mut values = values();
            change(&mut values);
            let before: Vec<Tensor> = parameters.all().iter().map(|p| p.tensor.copy()).collect();
            let message = parameters.load_part("a.", &values).unwrap_err().to_string();
            let after: Vec<Tensor> = parameters.all().iter().map(|p| p.tensor.copy()).collect();
            assert_eq!(before, after, "changed anyway");
            message
        };
        let message = refused(&|values| drop(values.remove("a.mean")));
        assert_eq!(message, "no tensor for `a.mean`");
        let message = refused(&|values| {
            let moved = values["a.mean"].shallow_clone();
            values.extend((0..10).map(|i| (format!("a.{i}.x"), moved.shallow_clone())));
        });
        assert!(message.starts_with("no place for `a.0.x`, `a.1.x`, "), "{message}");
        assert!(message.ends_with("`a.7.x` and 2 more"), "{message}");
        let message = refused(&|values| {
            let _ = values.insert("a.mean".to_owned(), Tensor::from_slice(&[1.0f32]));
        });
        assert_eq!(message, "`a.mean` must have shape [3], found [1]");

        let head = parameters.all()[2].tensor.copy();
        assert_eq!(parameters.load_part("a.", &values()).unwrap(), 2);
        assert_eq!(parameters.all()[0].tensor, values()["a.0.weight"]);
        assert_eq!(parameters.all()[1].tensor, values()["a.mean"]);
        assert_eq!(parameters.all()[2].tensor, head);
    }
}
