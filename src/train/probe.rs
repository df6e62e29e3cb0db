//! The online linear probe: a linear classifier on the features while they are being learned.
//!
//! It sees labels; the network never sees it: features come in detached, and nothing flows back. A monitor, not a result.

use super::optim::{Adam, Optimizer, OptimizerConfig};
use crate::error::{Error, Result};
use crate::model::Parameters;
use crate::model::layers::{Initialization, Linear};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// Settings of the online linear probe: the `[train.probe]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbeConfig {
    /// Whether there is one; it also needs a label for every training image.
    pub enabled: bool,
    /// Learning rate of its Adam, constant, above 0.
    pub learning_rate: f64,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self { enabled: true, learning_rate: 1e-3 }
    }
}

impl ProbeConfig {
    /// Checks the range.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key.
    pub fn check(&self) -> Result<()> {
        if self.learning_rate > 0.0 && self.learning_rate.is_finite() {
            return Ok(());
        }
        Err(Error::Recipe(format!(
            "`train.probe.learning_rate` must be above 0, found `{}`",
            self.learning_rate
        )))
    }
}

/// A linear layer from h `[N, F]` to the classes, with its own optimizer.
pub struct Probe {
    parameters: Parameters,
    layer: Linear,
    optimizer: Optimizer,
    learning_rate: f64,
    labels: Vec<u32>,
}

impl Probe {
    /// A probe on `features` dimensions for training images with these `labels`, all below `classes`; it starts at zero
    /// weights, so at chance.
    pub fn new(
        config: &ProbeConfig,
        labels: Vec<u32>,
        classes: usize,
        features: i64,
        (device, kind): (Device, Kind),
    ) -> Self {
        let mut parameters = Parameters::new(0, device, kind);
        let place = &mut parameters.root();
        let start = Initialization::Zeros;
        let layer = Linear::build(&mut place.at("probe"), features, classes as i64, true, start);
        let settings = OptimizerConfig::Adam(Adam::constant(config.learning_rate));
        let optimizer = Optimizer::new(settings, &parameters);
        Self { parameters, layer, optimizer, learning_rate: config.learning_rate, labels }
    }

    /// Takes one step on the rows `[V, N, F]` of a batch of images `indices`; all views of an image carry its label.
    /// Returns the share of rows that were right before the step, from 0 to 1. Rows that are not finite are left alone.
    pub fn step(&mut self, rows: &Tensor, indices: &[usize]) -> Option<f64> {
        let views = rows.size()[0];
        let labels: Vec<i64> = indices.iter().map(|index| i64::from(self.labels[*index])).collect();
        let labels = Tensor::from_slice(&labels).to_device(rows.device()).repeat([views]);
        let logits = self.layer.forward(&rows.detach().flatten(0, 1));
        let hits = logits.argmax(1, false).eq_tensor(&labels).to_kind(Kind::Double);
        let loss = logits.log_softmax(-1, logits.kind()).nll_loss(&labels);
        if !loss.double_value(&[]).is_finite() {
            return None;
        }
        self.parameters.zero_grad();
        loss.backward();
        self.optimizer.step(self.learning_rate);
        Some(hits.mean(None).double_value(&[]))
    }

    /// Share of other images, features `[N, F]` and labels i64 `[N]` (below 0 for none), whose class it names rightly,
    /// from 0 to 1; `None` if none has a label.
    pub fn top1(&self, features: &Tensor, labels: &Tensor) -> Option<f64> {
        let weight = &self.parameters.all()[0].tensor;
        let labels = labels.to_device(weight.device());
        let known = labels.ge(0);
        let count = known.sum(Kind::Int64).int64_value(&[]);
        let features = features.to_device(weight.device()).to_kind(weight.kind());
        let named = tch::no_grad(|| self.layer.forward(&features)).argmax(1, false);
        let right = named.eq_tensor(&labels).logical_and(&known).sum(Kind::Int64).int64_value(&[]);
        (count > 0).then(|| right as f64 / count as f64)
    }

    /// Its tensors by name, for the checkpoint; shared, not copied.
    pub fn state(&self) -> impl Iterator<Item = (String, Tensor)> {
        let parameters = self.parameters.all().iter().map(|p| (p.name.clone(), p.tensor.detach()));
        parameters.chain(self.optimizer.state())
    }

    /// Puts the tensors of [`Probe::state`] back in place. A checkpoint without a probe leaves it at its start.
    ///
    /// # Errors
    /// [`Error::Weights`] if one is missing or has another shape.
    pub fn restore(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        if !tensors.contains_key("probe.weight") {
            return Ok(());
        }
        self.parameters.load(tensors)?;
        self.optimizer.load_state(tensors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(labels: Vec<u32>) -> Probe {
        let config = ProbeConfig { learning_rate: 0.05, ..ProbeConfig::default() };
        Probe::new(&config, labels, 3, 4, (Device::Cpu, Kind::Float))
    }

    /// Two views of nine images; the class is where the first three features are largest.
    fn rows() -> (Tensor, Vec<u32>) {
        let labels: Vec<u32> = (0..9).map(|image| image % 3).collect();
        let index: Vec<i64> = labels.iter().map(|label| i64::from(*label)).collect();
        let h = Tensor::from_slice(&index).one_hot(4).to_kind(Kind::Float);
        (Tensor::stack(&[&h * 1.5, h + 0.1], 0), labels)
    }

    #[test]
    fn it_learns_what_is_linear_and_sends_nothing_back() {
        let (rows, labels) = rows();
        let rows = rows.set_requires_grad(true);
        let mut probe = probe(labels.clone());
        let indices: Vec<usize> = (0..9).collect();
        let first = probe.step(&rows, &indices).unwrap();
        assert!(first < 0.5, "at chance before the first step, found {first}");
        let last = (0..50).filter_map(|_| probe.step(&rows, &indices)).last().unwrap();
        assert!((last - 1.0).abs() < 1e-12, "{last}");
        assert!(!rows.grad().defined());
        let mut given: Vec<i64> = labels.iter().map(|label| i64::from(*label)).collect();
        (given[0], given[1]) = (-1, 2);
        let features = rows.detach().get(0);
        let top1 = probe.top1(&features, &Tensor::from_slice(&given)).unwrap();
        assert!(
            (top1 - 7.0 / 8.0).abs() < 1e-12,
            "one of the eight that count is wrong, found {top1}"
        );
        assert_eq!(probe.top1(&features, &Tensor::full([9], -1, (Kind::Int64, Device::Cpu))), None);
    }

    #[test]
    fn a_restored_probe_goes_on_with_the_same_bits_and_nan_leaves_it_alone() {
        let (rows, labels) = rows();
        let indices: Vec<usize> = (0..9).collect();
        let mut whole = probe(labels.clone());
        for _ in 0..3 {
            whole.step(&rows, &indices);
        }
        let saved: BTreeMap<String, Tensor> =
            whole.state().map(|(name, tensor)| (name, tensor.copy())).collect();
        let mut resumed = probe(labels);
        resumed.restore(&saved).unwrap();
        assert_eq!(whole.step(&(&rows * f64::NAN), &indices), None);
        for probe in [&mut whole, &mut resumed] {
            probe.step(&rows, &indices);
        }
        let values = |probe: &Probe| -> Vec<Tensor> { probe.state().map(|(_, t)| t).collect() };
        assert_eq!(values(&whole), values(&resumed));
        resumed.restore(&BTreeMap::new()).unwrap();
    }
}
