//! The length of the gradient of every parameter tensor, epoch by epoch: `gradients.jsonl` in the folder of a run.
//!
//! Zhu et al. 2021, arXiv:2108.02982, §C: `‖∂L/∂w‖₂` of each layer of the encoder, after the backward pass and before the
//! optimizer, weight decay or clipping. The paper does not say which of an epoch's steps its figure shows, so the mean, the
//! first, the last and the highest of them are all kept. What an epoch has summed up so far travels in the checkpoint, so
//! that a run that was killed ends with the same numbers.

use super::run::{RunFolder, append, cut_back};
use crate::error::Result;
use crate::method::Method;
use crate::model::Parameters;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::PathBuf;

/// Name of the file in the folder of a run: a line that names the layers (step 0), then one a line for every epoch. Of an
/// epoch that is there twice the last line holds.
pub const FILE: &str = "gradients.jsonl";

/// Settings of the recorder: the `[train.gradients]` table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GradientConfig {
    /// Whether they are recorded.
    pub enabled: bool,
}

impl Default for GradientConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// What an epoch has come to so far, for every layer. Numbers are kept as the bits of an f64, since reading JSON may change
/// the last of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Steps in it.
    pub steps: u64,
    /// Of its first step.
    pub first: Vec<u64>,
    /// Of its last step so far.
    pub last: Vec<u64>,
    /// Sum over its steps.
    pub sum: Vec<u64>,
    /// Highest of its steps.
    pub highest: Vec<u64>,
}

impl Sums {
    /// Adds a step.
    fn add(&mut self, norms: &[f64]) {
        let bits = || norms.iter().map(|norm| norm.to_bits());
        if self.steps == 0 || self.sum.len() != norms.len() {
            let epoch = self.epoch;
            let all = || bits().collect::<Vec<u64>>();
            *self = Self { epoch, steps: 1, first: all(), last: all(), sum: all(), highest: all() };
            return;
        }
        self.steps += 1;
        self.last = bits().collect();
        for ((sum, highest), norm) in self.sum.iter_mut().zip(&mut self.highest).zip(norms) {
            *sum = (f64::from_bits(*sum) + norm).to_bits();
            *highest = f64::from_bits(*highest).max(*norm).to_bits();
        }
    }
}

/// Writes a line per epoch.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    /// Places of the trained tensors in the order of the file: those of the backbone, then the heads.
    order: Vec<usize>,
    steps_per_epoch: u64,
    sums: Option<Sums>,
}

impl Recorder {
    /// The recorder of a run that goes on after `step` steps, with what its epoch had summed up by then; lines of later
    /// steps are cut off. `None` if nothing is recorded; what was recorded stays.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`].
    pub fn open(
        config: &GradientConfig,
        run: &RunFolder,
        (step, steps_per_epoch): (u64, u64),
        method: &dyn Method,
        sums: Option<Sums>,
    ) -> Result<Option<Self>> {
        let path = run.join(FILE);
        let begun = cut_back(&path, step)?.is_some();
        if !config.enabled {
            return Ok(None);
        }
        let order = order(method.parameters());
        if !begun {
            let trained: Vec<_> = method.parameters().trainable().collect();
            let layers = order.iter().map(|place| {
                let parameter = trained[*place];
                let (kind, shape) = (parameter.role.word(), parameter.tensor.size());
                json!({ "name": parameter.name, "kind": kind, "shape": shape })
            });
            append(&path, &json!({ "step": 0, "layers": layers.collect::<Vec<_>>() }).to_string())?;
        }
        let epoch = step / steps_per_epoch;
        let sums = sums.filter(|sums| sums.epoch == epoch && sums.sum.len() == order.len());
        Ok(Some(Self { path, order, steps_per_epoch, sums }))
    }

    /// Adds the norms of a step that is taken, in the order of [`Parameters::trainable`]; `step` steps were taken before it.
    pub fn add(&mut self, step: u64, norms: &[f64]) {
        let norms: Vec<f64> = self.order.iter().map(|place| norms[*place]).collect();
        let epoch = step / self.steps_per_epoch;
        let sums = self.sums.take().filter(|sums| sums.epoch == epoch);
        let mut sums = sums.unwrap_or(Sums { epoch, ..Sums::default() });
        sums.add(&norms);
        self.sums = Some(sums);
    }

    /// Writes the line of an epoch that ends after `step` steps, or of a part of one where the run ends.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`].
    pub fn end_epoch(&mut self, step: u64) -> Result<()> {
        let Some(sums) = &self.sums else { return Ok(()) };
        let list = |bits: &[u64], share: f64| -> Vec<Option<f64>> {
            let numbers = bits.iter().map(|bits| f64::from_bits(*bits) / share);
            numbers.map(|number| Some(rounded(number)).filter(|n| n.is_finite())).collect()
        };
        let line = json!({
            "step": step,
            "epoch": sums.epoch + 1,
            "steps": sums.steps,
            "mean": list(&sums.sum, sums.steps as f64),
            "first": list(&sums.first, 1.0),
            "last": list(&sums.last, 1.0),
            "highest": list(&sums.highest, 1.0),
        });
        append(&self.path, &line.to_string())?;
        if step.is_multiple_of(self.steps_per_epoch) {
            self.sums = None;
        }
        Ok(())
    }

    /// What the epoch has come to so far, for the checkpoint.
    pub fn sums(&self) -> Option<Sums> {
        self.sums.clone()
    }
}

/// Seven digits, which is what f32 has.
fn rounded(value: f64) -> f64 {
    format!("{value:.6e}").parse().unwrap_or(value)
}

/// Places of the trained tensors, the backbone's first.
fn order(parameters: &Parameters) -> Vec<usize> {
    let names: Vec<&str> = parameters.trainable().map(|p| p.name.as_str()).collect();
    let of = |backbone: bool| {
        let names = names.iter().enumerate();
        names.filter(move |(_, name)| name.starts_with("backbone.") == backbone).map(|(at, _)| at)
    };
    of(true).chain(of(false)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::{Config, Setup};
    use crate::plugin::Plugins;
    use crate::train::optim::gradient_norms;
    use serde_json::Value;
    use std::fs;
    use tch::{Device, Kind, Tensor};

    fn method() -> Box<dyn Method> {
        let text = "name = 'simsiam'\nprojector = { layers = 2, hidden = 8, output = 8 }\n\
                    predictor = { layers = 2, hidden = 4, output = 8 }";
        let config: Config = toml::from_str(text).unwrap();
        let backbone = toml::from_str("name = 'resnet18'\nwidth = 0.0625\nstem = 'cifar'").unwrap();
        let setup = Setup {
            backbone: &backbone,
            plugins: &Plugins::default(),
            views: 2,
            images: 8,
            batch: 4,
            classes: 0,
            multi_label: false,
            teacher: None,
            seed: 1,
            device: Device::Cpu,
            kind: Kind::Float,
        };
        config.build(&setup).unwrap()
    }

    fn lines(run: &RunFolder) -> Vec<Value> {
        let text = fs::read_to_string(run.join(FILE)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn open(run: &RunFolder, method: &dyn Method, step: u64, sums: Option<Sums>) -> Recorder {
        let config = GradientConfig::default();
        Recorder::open(&config, run, (step, 3), method, sums).unwrap().unwrap()
    }

    #[test]
    fn an_epoch_is_its_mean_first_last_and_highest_and_a_killed_run_has_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let method = method();
        let count = method.parameters().trainable().count();
        let norms = |step: u64| -> Vec<f64> {
            (0..count).map(|layer| (1.0 + layer as f64) * (0.1 + ((step * 7) % 5) as f64)).collect()
        };
        let whole = RunFolder::open(&folder.path().join("whole")).unwrap();
        let mut recorder = open(&whole, method.as_ref(), 0, None);
        for step in 0..6 {
            recorder.add(step, &norms(step));
            if (step + 1) % 3 == 0 {
                recorder.end_epoch(step + 1).unwrap();
            }
        }
        let found = lines(&whole);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0]["layers"].as_array().unwrap().len(), count);
        // Steps 0, 1, 2: 0.1, 2.1, 4.1 times 1 + layer.
        for (name, expected) in [("mean", 2.1), ("first", 0.1), ("last", 4.1), ("highest", 4.1)] {
            for layer in [0, 5, count - 1] {
                let value = found[1][name][layer].as_f64().unwrap();
                let expected = expected * (1.0 + layer as f64);
                assert!((value - expected).abs() < 1e-5 * expected, "{name} {layer}: {value}");
            }
        }

        // Killed after step 4, with a checkpoint after step 2 and one after 4; through JSON as in a checkpoint.
        let killed = RunFolder::open(&folder.path().join("killed")).unwrap();
        let mut recorder = open(&killed, method.as_ref(), 0, None);
        let kept = |recorder: &Recorder| -> Option<Sums> {
            serde_json::from_str(&serde_json::to_string(&recorder.sums()).unwrap()).unwrap()
        };
        for step in 0..2 {
            recorder.add(step, &norms(step));
        }
        let mut recorder = open(&killed, method.as_ref(), 2, kept(&recorder));
        recorder.add(2, &norms(2));
        recorder.end_epoch(3).unwrap();
        assert!(recorder.sums().is_none());
        recorder.add(3, &norms(3));
        let at_four = kept(&recorder);
        for step in 4..6 {
            recorder.add(step, &norms(step));
        }
        recorder.end_epoch(6).unwrap();
        let mut recorder = open(&killed, method.as_ref(), 4, at_four);
        assert_eq!(lines(&killed).len(), 2, "what comes after the checkpoint is cut off");
        for step in 4..6 {
            recorder.add(step, &norms(step));
        }
        recorder.end_epoch(6).unwrap();
        assert_eq!(lines(&killed), found);
    }

    #[test]
    fn a_run_that_ends_within_an_epoch_has_its_line_and_may_complete_it_later() {
        let folder = tempfile::tempdir().unwrap();
        let (run, method) = (RunFolder::open(folder.path()).unwrap(), method());
        let count = method.parameters().trainable().count();
        let mut recorder = open(&run, method.as_ref(), 0, None);
        recorder.add(0, &vec![1.0; count]);
        recorder.end_epoch(1).unwrap();
        let kept = recorder.sums();
        let mut recorder = open(&run, method.as_ref(), 1, kept);
        recorder.add(1, &vec![2.0; count]);
        recorder.add(2, &vec![f64::NAN; count]);
        recorder.end_epoch(3).unwrap();
        let found = lines(&run);
        assert_eq!((&found[1]["steps"], &found[2]["steps"]), (&json!(1), &json!(3)));
        assert_eq!(found[2]["highest"][0], json!(2.0));
        assert!(found[2]["mean"][0].is_null());
        // Off: what is there stays, but for what will be written again.
        let off = GradientConfig { enabled: false };
        assert!(Recorder::open(&off, &run, (1, 3), method.as_ref(), None).unwrap().is_none());
        assert_eq!(lines(&run).len(), 2);
    }

    #[test]
    fn layers_are_the_backbones_in_their_order_and_then_the_heads_with_the_norms_of_autograd() {
        let method = method();
        let parameters = method.parameters();
        let order = order(parameters);
        let names: Vec<&str> = parameters.trainable().map(|p| p.name.as_str()).collect();
        let backbone = order.iter().filter(|place| names[**place].starts_with("backbone.")).count();
        assert_eq!(backbone, 60, "20 convolutions and 20 batch norms of two");
        assert_eq!(names[order[0]], "backbone.conv1.weight");
        assert!(order[backbone..].iter().all(|place| !names[*place].starts_with("backbone.")));
        // L = Σ_t c_t Σ w_t: the gradient is c_t everywhere, its length c_t √n.
        let mut loss = Tensor::from(0.0f32);
        for (place, parameter) in parameters.trainable().enumerate() {
            loss += parameter.tensor.sum(Kind::Float) * (0.5 + place as f64);
        }
        loss.backward();
        for (place, (norm, parameter)) in
            gradient_norms(parameters).iter().zip(parameters.trainable()).enumerate()
        {
            let expected = (0.5 + place as f64) * (parameter.tensor.numel() as f64).sqrt();
            assert!((norm - expected).abs() < 1e-5 * expected, "{}: {norm}", parameter.name);
        }
    }
}
