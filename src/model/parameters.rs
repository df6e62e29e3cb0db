//! The named tensors of a network: what an optimizer moves and a checkpoint holds.

use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
use std::collections::BTreeMap;
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
    /// Running statistics and other state without a gradient.
    Buffer,
}

/// One named tensor. The tensor is shared with the layer that uses it: change it in place.
#[derive(Debug)]
pub struct Parameter {
    /// Full name, `backbone.layer1.0.conv1.weight`.
    pub name: String,
    /// The value; requires a gradient unless it is a [`Role::Buffer`].
    pub tensor: Tensor,
    /// What it does.
    pub role: Role,
}

/// All tensors of a network in the order in which they were made.
#[derive(Debug)]
pub struct Parameters {
    list: Vec<Parameter>,
    seed: u64,
    device: Device,
    kind: Kind,
}

impl Parameters {
    /// An empty list whose initial values are drawn from `seed`, on a device, in f32 or (for tests) f64.
    pub fn new(seed: u64, device: Device, kind: Kind) -> Self {
        Self { list: Vec::new(), seed, device, kind }
    }

    /// The place where names start.
    pub fn root(&mut self) -> Place<'_> {
        Place { parameters: self, prefix: String::new() }
    }

    /// Every tensor, buffers included.
    pub fn all(&self) -> &[Parameter] {
        &self.list
    }

    /// Only what an optimizer moves.
    pub fn trainable(&self) -> impl Iterator<Item = &Parameter> {
        self.list.iter().filter(|parameter| parameter.role != Role::Buffer)
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
        for parameter in &self.list {
            let expected = parameter.tensor.size();
            match values.get(&parameter.name).map(Tensor::size) {
                Some(found) if found == expected => {}
                Some(found) => {
                    return Err(Error::Weights(format!(
                        "`{}` must have shape {expected:?}, found {found:?}",
                        parameter.name
                    )));
                }
                None => {
                    return Err(Error::Weights(format!("no tensor named `{}`", parameter.name)));
                }
            }
        }
        tch::no_grad(|| {
            for parameter in &self.list {
                parameter.tensor.shallow_clone().copy_(&values[&parameter.name]);
            }
        });
        Ok(())
    }
}

/// A prefix under which a layer names its tensors.
#[derive(Debug)]
pub struct Place<'a> {
    parameters: &'a mut Parameters,
    prefix: String,
}

impl Place<'_> {
    /// The place below this one: `place.at("layer1").at(0)`.
    pub fn at(&mut self, name: impl std::fmt::Display) -> Place<'_> {
        let prefix = if self.prefix.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.prefix)
        };
        Place { parameters: self.parameters, prefix }
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
        let mut stream = Stream::open(parameters.seed, Purpose::Weights, Scope::Item(item));
        let values: Vec<f64> =
            (0..shape.iter().product::<i64>()).map(|_| value(&mut stream)).collect();
        let tensor = Tensor::from_slice(&values)
            .view(shape)
            .to_kind(parameters.kind)
            .to_device(parameters.device);
        // Kernels lie channels-last, the layout convolutions are fastest in.
        let tensor = if shape.len() == 4 {
            tensor.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
        } else {
            tensor
        };
        let tensor = tensor.set_requires_grad(role != Role::Buffer);
        let shared = tensor.shallow_clone();
        parameters.list.push(Parameter { name, tensor, role });
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
}
