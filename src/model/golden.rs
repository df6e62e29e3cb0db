//! For tests: networks and inputs filled as `tests/golden/resnet.py` fills them, and its arrays.

use super::{Parameters, Phase, Role, Statistics};
use tch::{Device, Kind, Tensor};

pub(super) const INPUT: u64 = 1 << 20;
pub(super) const COEFFICIENT: u64 = 1 << 21;

/// One ordinary training pass: the whole batch is one group, running statistics move.
pub(super) const TRAINING: Phase =
    Phase::Training { groups: 1, statistics: Statistics::Move { seen: 0, of: 1 } };

/// Uniform in [−1, 1), 24 bits, from the tag and the position in row-major order; f64.
pub(super) fn noise(tag: u64, shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>() as u64;
    let values: Vec<f64> = (0..count)
        .map(|position| {
            let mut x = (position + (tag << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            x ^= x >> 32;
            x = x.wrapping_mul(0xD6E8_FEB8_6659_FD93);
            x ^= x >> 32;
            (x >> 40) as f64 / f64::from(1 << 23) - 1.0
        })
        .collect();
    Tensor::from_slice(&values).view(shape)
}

/// [`noise`] as images in channels-last order.
pub(super) fn images(shape: [i64; 4], kind: Kind) -> Tensor {
    let images = noise(INPUT, &shape).to_kind(kind);
    images.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// Overwrites every tensor.
pub(super) fn fill(parameters: &Parameters) {
    for (tag, parameter) in (0..).zip(parameters.all()) {
        let shape = parameter.tensor.size();
        let noise = noise(tag, &shape);
        let value = match parameter.role {
            Role::Weight => noise * (3.0 / shape[1..].iter().product::<i64>() as f64).sqrt(),
            Role::Buffer if parameter.name.ends_with("running_var") => noise * 0.3 + 1.0,
            Role::NormScale => noise * 0.2 + 1.0,
            Role::Bias | Role::NormShift | Role::Buffer | Role::State => noise * 0.1,
        };
        tch::no_grad(|| parameter.tensor.shallow_clone().copy_(&value));
    }
}

/// The stored arrays whose names start with a network's.
pub(super) struct Golden {
    arrays: Vec<(String, Tensor)>,
    prefix: String,
}

impl Golden {
    pub(super) fn open(prefix: &str) -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/resnet.safetensors");
        Self { arrays: Tensor::read_safetensors(path).unwrap(), prefix: prefix.to_owned() }
    }

    fn find(&self, name: &str) -> Option<&Tensor> {
        let name = format!("{}.{name}", self.prefix);
        self.arrays.iter().find(|(stored, _)| *stored == name).map(|(_, array)| array)
    }

    /// A stored number.
    pub(super) fn number(&self, name: &str) -> f64 {
        self.find(name).unwrap().double_value(&[])
    }

    /// `found` must differ from the stored array by at most `tolerance` times its largest value, at least 1.
    fn near(&self, name: &str, found: &Tensor, tolerance: f64) {
        let expected = self.find(name).unwrap();
        assert_eq!(found.size(), expected.size(), "{} {name}", self.prefix);
        let difference = (found - expected).abs().max().double_value(&[]);
        let size = expected.abs().max().double_value(&[]).max(1.0);
        assert!(difference <= tolerance * size, "{} {name}: {difference}", self.prefix);
    }

    /// Holds the output in evaluation against the stored one.
    pub(super) fn hold_evaluation(&self, forward: impl Fn(Phase) -> Tensor, tolerance: f64) {
        self.near("evaluation", &tch::no_grad(|| forward(Phase::Evaluation)), tolerance);
    }

    /// Holds output, gradients and moved statistics of one training pass against the stored ones.
    pub(super) fn hold_training(
        &self,
        parameters: &Parameters,
        forward: impl Fn(Phase) -> Tensor,
        tolerance: f64,
    ) {
        let output = forward(TRAINING);
        let coefficients = noise(COEFFICIENT, &output.size()).to_kind(output.kind());
        (&output * coefficients).sum(None).backward();
        self.near("training", &output, tolerance);
        let gradients: Vec<Tensor> = parameters.trainable().map(|p| p.tensor.grad()).collect();
        let first = gradients[0].contiguous().view([-1]).narrow(0, 0, 32);
        self.near("first_gradient", &first, tolerance);
        let norms: Vec<Tensor> = gradients.iter().map(Tensor::norm).collect();
        let expected = self.find("gradient_norms").unwrap();
        let ratio = (Tensor::stack(&norms, 0) / expected - 1.0).abs().max().double_value(&[]);
        assert!(ratio <= tolerance, "{} gradient_norms: {ratio}", self.prefix);
        let running: Vec<Tensor> = parameters
            .all()
            .iter()
            .filter(|p| p.role == Role::Buffer)
            .map(|p| p.tensor.narrow(0, 0, p.tensor.size()[0].min(8)))
            .collect();
        assert_eq!(running.is_empty(), self.find("running").is_none());
        if !running.is_empty() {
            self.near("running", &Tensor::cat(&running, 0), tolerance);
        }
    }
}

/// An empty list of tensors on the CPU.
pub(super) fn parameters(kind: Kind) -> Parameters {
    Parameters::new(1, Device::Cpu, kind)
}
