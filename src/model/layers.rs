//! The layers networks are made of: convolution, batch norm and linear, each on named tensors of a [`Place`].

use super::{Phase, Place, Role, Statistics};
use crate::error::{Error, Result};
use crate::random::Stream;
use crate::rows::unit_rows;
use tch::Tensor;

/// How the weights of a convolution or linear layer start. A bias starts at zero, except under [`Self::Uniform`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initialization {
    /// Normal with variance 2 / `fan_out` (He et al. 2015, `fan_out` mode, `ReLU` gain): torchvision's residual networks.
    KaimingNormal,
    /// Normal cut at two standard deviations and rescaled to variance 1 / `fan_in`: SimCLR's convolutions
    /// (the default `VarianceScaling` of Keras).
    TruncatedNormal,
    /// Uniform in ±1 / √`fan_in`, bias included: what PyTorch's layers start from.
    Uniform,
    /// Normal with this standard deviation: SimCLR's dense layers take 0.01.
    Normal(f64),
    /// All zero.
    Zeros,
}

/// Standard deviation of a standard normal cut at ±2.
const TRUNCATED_DEVIATION: f64 = 0.879_625_661_034_239_8;

impl Initialization {
    fn weight(self, fan_in: i64, fan_out: i64) -> impl Fn(&mut Stream) -> f64 {
        let scale = match self {
            Self::KaimingNormal => (2.0 / fan_out as f64).sqrt(),
            Self::TruncatedNormal => (fan_in as f64).sqrt().recip() / TRUNCATED_DEVIATION,
            Self::Uniform => (fan_in as f64).sqrt().recip(),
            Self::Normal(deviation) => deviation,
            Self::Zeros => 0.0,
        };
        move |stream| match self {
            Self::KaimingNormal | Self::Normal(_) => scale * stream.normal(),
            Self::TruncatedNormal => loop {
                let value = stream.normal();
                if value.abs() <= 2.0 {
                    return scale * value;
                }
            },
            Self::Uniform => stream.range(-scale, scale),
            Self::Zeros => 0.0,
        }
    }

    fn bias(self, fan_in: i64) -> impl Fn(&mut Stream) -> f64 {
        let start = if self == Self::Uniform { self } else { Self::Zeros };
        start.weight(fan_in, 1)
    }
}

/// The shape of a square 2-d convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Channels coming in.
    pub inputs: i64,
    /// Channels going out.
    pub outputs: i64,
    /// Side of the kernel, odd.
    pub kernel: i64,
    /// Step between neighbouring outputs.
    pub stride: i64,
    /// Pixels of zeros on every side of the input.
    pub padding: i64,
}

impl Geometry {
    /// Padded by half the kernel: an input side of s pixels gives ⌈s / stride⌉.
    pub fn new(inputs: i64, outputs: i64, kernel: i64, stride: i64) -> Self {
        Self { inputs, outputs, kernel, stride, padding: kernel / 2 }
    }

    /// Number of weights.
    pub fn weights(&self) -> i64 {
        self.outputs * self.inputs * self.kernel * self.kernel
    }

    /// Side of the output for an input side of `side` pixels.
    pub fn side(&self, side: i64) -> i64 {
        (side + 2 * self.padding - self.kernel) / self.stride + 1
    }
}

/// A 2-d convolution without bias (a batch norm follows everywhere it is used): `weight` `[outputs, inputs, k, k]`.
#[derive(Debug)]
pub struct Convolution {
    weight: Tensor,
    stride: i64,
    padding: i64,
}

impl Convolution {
    /// Adds `weight` to the place.
    pub fn build(place: &mut Place<'_>, geometry: Geometry, start: Initialization) -> Self {
        let Geometry { inputs, outputs, kernel, stride, padding } = geometry;
        let area = kernel * kernel;
        let draw = start.weight(inputs * area, outputs * area);
        let weight = place.add("weight", Role::Weight, &[outputs, inputs, kernel, kernel], draw);
        Self { weight, stride, padding }
    }

    /// `[N, inputs, h, w]` to `[N, outputs, h', w']`, sides as [`Geometry::side`] says; a channels-last input gives a
    /// channels-last output. The output is of the input's kind, the weights are rounded to it.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let weight = self.weight.to_kind(x.kind());
        let size = weight.size();
        let conv = |x: &Tensor, stride: i64| {
            x.conv2d(&weight, None::<&Tensor>, [stride; 2], [self.padding; 2], [1, 1], 1)
        };
        // The gradient for the weights of a strided 1 x 1 convolution whose channels do not fill whole vectors of 16 reaches
        // beyond its buffers in oneDNN 3.10 with AVX-512 (`jit_avx512_common_1x1_convolution_bwd_weights_t`) and brings the
        // process down. What such a convolution leaves out is left out before it.
        let (pointwise, partial) = (size[2] * size[3] == 1, size[0] % 16 != 0 || size[1] % 16 != 0);
        if pointwise && partial && self.stride > 1 && self.padding == 0 {
            let every = |x: Tensor, dimension| x.slice(dimension, None, None, self.stride);
            return conv(&every(every(x.shallow_clone(), 2), 3), 1);
        }
        conv(x, self.stride)
    }
}

/// A linear layer: `weight` `[outputs, inputs]` and perhaps `bias` `[outputs]`.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Adds `weight` and, if wanted, `bias` to the place.
    pub fn build(
        place: &mut Place<'_>,
        inputs: i64,
        outputs: i64,
        bias: bool,
        start: Initialization,
    ) -> Self {
        let draw = start.weight(inputs, outputs);
        let weight = place.add("weight", Role::Weight, &[outputs, inputs], draw);
        let bias = bias.then(|| place.add("bias", Role::Bias, &[outputs], start.bias(inputs)));
        Self { weight, bias }
    }

    /// `[N, inputs]` to `[N, outputs]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

/// A linear layer whose outputs are cosines: rows of the input and of `weight` `[outputs, inputs]` are brought to unit
/// length at every forward pass. No bias. Wang et al. 2021 (arXiv:2008.03813) call it `NormLinear` and store the transpose.
#[derive(Debug)]
pub struct NormLinear {
    weight: Tensor,
}

impl NormLinear {
    /// Adds `weight` to the place, uniform in ±1 and then of unit length for each output.
    pub fn build(place: &mut Place<'_>, inputs: i64, outputs: i64) -> Self {
        let draw = |stream: &mut Stream| stream.range(-1.0, 1.0);
        let weight = place.add("weight", Role::Weight, &[outputs, inputs], draw);
        tch::no_grad(|| weight.shallow_clone().copy_(&unit_rows(&weight)));
        Self { weight }
    }

    /// `[N, inputs]` to `[N, outputs]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        unit_rows(x).linear(&unit_rows(&self.weight), None::<&Tensor>)
    }
}

/// What a batch norm learns after normalising.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affine {
    /// A scale (gamma) and a shift (beta) per channel.
    Full,
    /// A scale per channel; the shift stays 0, as in the last layer of SimCLR's head.
    Scale,
    /// Nothing.
    Nothing,
}

/// Batch normalisation (Ioffe and Szegedy 2015) of `[N, C]` or `[N, C, h, w]`, per channel.
///
/// Tensors: `weight` and `bias` `[C]` as [`Affine`] says, buffers `running_mean` (from 0) and `running_var` (from 1).
/// Epsilon is 1e-5. A bfloat16 input gives a bfloat16 output; statistics, scale and shift stay f32. Running statistics move
/// by a tenth per step, or what [`Place::set_norm_momentum`] said, and hold the unbiased variance, as in PyTorch; there is no
/// `num_batches_tracked`.
#[derive(Debug)]
pub struct BatchNorm {
    scale: Option<Tensor>,
    shift: Option<Tensor>,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: f64,
}

const EPSILON: f64 = 1e-5;

/// Share of the running statistics that a step replaces, unless a place says another: PyTorch's. TensorFlow counts the
/// share that stays.
pub const NORM_MOMENTUM: f64 = 0.1;

impl BatchNorm {
    /// Adds the tensors to the place; `scale` is where gamma starts: 1, or 0 to silence a residual branch.
    pub fn build(place: &mut Place<'_>, channels: i64, affine: Affine, scale: f64) -> Self {
        let shape = [channels];
        let has_scale = affine != Affine::Nothing;
        let has_shift = affine == Affine::Full;
        Self {
            momentum: place.norm_momentum(),
            scale: has_scale.then(|| place.add("weight", Role::NormScale, &shape, |_| scale)),
            shift: has_shift.then(|| place.add("bias", Role::NormShift, &shape, |_| 0.0)),
            running_mean: place.add("running_mean", Role::Buffer, &shape, |_| 0.0),
            running_var: place.add("running_var", Role::Buffer, &shape, |_| 1.0),
        }
    }

    /// Normalises; the result is a new tensor of the shape and strides of `x`, safe to change in place.
    ///
    /// In training the rows fall into equal groups of consecutive rows, each normalised with its own mean and biased
    /// variance. Over a step the running statistics move once, r ← (1 − m) r + m · mean over all groups of the step,
    /// with the same bits however the groups are spread over forward passes.
    ///
    /// # Panics
    /// If the rows do not fall into the groups or a group has one value per channel (see [`check_groups`]), or if more
    /// groups come than the step has.
    pub fn forward(&self, x: &Tensor, phase: Phase) -> Tensor {
        let Phase::Training { groups, statistics } = phase else {
            return self.apply(
                x,
                Some((&self.running_mean, &self.running_var)),
                false,
                self.momentum,
            );
        };
        let size = x.size();
        check_groups("x", size[0], size[2..].iter().product(), phase)
            .expect("the caller has checked the rows");
        if let Statistics::Move { seen, of } = statistics {
            assert!(seen >= 0 && seen + groups <= of, "groups {seen}+{groups} of a step of {of}");
        }
        if groups == 1 {
            return self.train(x, statistics);
        }
        // `split`, not `narrow`: its backward joins all groups at once.
        let normalized: Vec<Tensor> = (0..)
            .zip(x.split(size[0] / groups, 0))
            .map(|(index, group)| {
                self.train(
                    &group,
                    match statistics {
                        Statistics::Keep => Statistics::Keep,
                        Statistics::Move { seen, of } => {
                            Statistics::Move { seen: seen + index, of }
                        }
                    },
                )
            })
            .collect();
        Tensor::cat(&normalized, 0)
    }

    /// Normalises one group with its own statistics.
    fn train(&self, x: &Tensor, statistics: Statistics) -> Tensor {
        match statistics {
            Statistics::Keep => self.apply(x, None, true, self.momentum),
            Statistics::Move { of: 1, .. } => {
                self.apply(x, Some((&self.running_mean, &self.running_var)), true, self.momentum)
            }
            Statistics::Move { seen, of } => {
                // With momentum 1 libtorch leaves the group's mean and unbiased variance in these.
                let (mean, var) = (self.running_mean.zeros_like(), self.running_var.zeros_like());
                let normalized = self.apply(x, Some((&mean, &var)), true, 1.0);
                tch::no_grad(|| {
                    for (running, group) in [(&self.running_mean, mean), (&self.running_var, var)] {
                        let mut running = running.shallow_clone();
                        if seen == 0 {
                            running *= 1.0 - self.momentum;
                        }
                        running += group * (self.momentum / of as f64);
                    }
                });
                normalized
            }
        }
    }

    fn apply(
        &self,
        x: &Tensor,
        running: Option<(&Tensor, &Tensor)>,
        training: bool,
        momentum: f64,
    ) -> Tensor {
        let (mean, var) = running.unzip();
        let (scale, shift) = (self.scale.as_ref(), self.shift.as_ref());
        x.batch_norm(scale, shift, mean, var, training, momentum, EPSILON, true)
    }
}

/// Checks that `rows` rows of `values` values per channel fall evenly into the groups of `phase`, and that every group
/// has the two values per channel that a variance needs. Nothing is asked in evaluation.
///
/// # Errors
/// [`Error::Shape`] naming `name`, the tensor the rows belong to.
pub fn check_groups(name: &str, rows: i64, values: i64, phase: Phase) -> Result<()> {
    let Phase::Training { groups, .. } = phase else { return Ok(()) };
    if groups < 1 || rows % groups != 0 {
        return Err(Error::Shape(format!(
            "the {rows} rows of `{name}` must fall evenly into {groups} normalisation groups: \
             make the batch a multiple of the group"
        )));
    }
    if rows / groups * values < 2 {
        return Err(Error::Shape(format!(
            "batch norm needs at least 2 values per channel and group, found {} in `{name}`: \
             make the batch or the group larger",
            rows / groups * values
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Parameters;
    use super::super::golden::{TRAINING, noise, parameters};
    use super::*;
    use tch::{Device, Kind};

    fn moments(start: Initialization) -> (f64, f64, f64) {
        let mut parameters = parameters(Kind::Double);
        let geometry = Geometry::new(32, 64, 3, 1);
        let _ = Convolution::build(&mut parameters.root(), geometry, start);
        let weight = &parameters.all()[0].tensor;
        assert_eq!(weight.size(), [64, 32, 3, 3]);
        let mean = weight.mean(None).double_value(&[]);
        let variance = (weight * weight).mean(None).double_value(&[]);
        (mean, variance, weight.abs().max().double_value(&[]))
    }

    #[test]
    fn a_strided_pointwise_convolution_of_few_channels_stays_within_its_memory() {
        // Without the detour this ends the process with a segmentation fault, on processors with AVX-512.
        for round in 0..40 {
            let (images, side) = (2 + round % 7, [96, 48, 24, 56, 33][round as usize % 5]);
            for inputs in [8, 16, 24] {
                let mut parameters = Parameters::new(round as u64, Device::Cpu, Kind::Float);
                let geometry = Geometry { inputs, outputs: 20, kernel: 1, stride: 2, padding: 0 };
                let place = &mut parameters.root();
                let layer = Convolution::build(place, geometry, Initialization::KaimingNormal);
                let draw = |x: &Tensor| x.sin() * 2.0;
                let x = Tensor::arange(images * side * side * inputs, (Kind::Float, Device::Cpu));
                let x = draw(&x).view([images, side, side, inputs]).permute([0, 3, 1, 2]);
                let weight = &parameters.all()[0].tensor;
                layer.forward(&x).square().sum(None).backward();
                let found = weight.grad().to_kind(Kind::Double);
                if round % 10 > 0 {
                    continue;
                }
                let exact = weight.detach().to_kind(Kind::Double).set_requires_grad(true);
                let wide = x.to_kind(Kind::Double);
                let y = wide.conv2d(&exact, None::<&Tensor>, [2, 2], [0, 0], [1, 1], 1);
                y.square().sum(None).backward();
                let off = (found - exact.grad()).abs().max() / exact.grad().abs().max();
                assert!(off.double_value(&[]) < 1e-4, "{inputs} channels of {side} px");
            }
        }
    }

    #[test]
    fn convolutions_start_with_the_promised_variance_and_bound() {
        let (fan_in, fan_out) = (288.0, 576.0);
        // 18,432 draws: the variance of a normal is met to about 1 %.
        let close = |found: f64, expected: f64| {
            assert!((found / expected - 1.0).abs() < 0.04, "{found} against {expected}");
        };
        for (start, variance, bound) in [
            (Initialization::KaimingNormal, 2.0 / fan_out, f64::INFINITY),
            (
                Initialization::TruncatedNormal,
                1.0 / fan_in,
                2.0 / f64::sqrt(fan_in) / TRUNCATED_DEVIATION,
            ),
            (Initialization::Uniform, 1.0 / fan_in / 3.0, 1.0 / f64::sqrt(fan_in)),
            (Initialization::Normal(0.01), 1e-4, f64::INFINITY),
        ] {
            let (mean, second, largest) = moments(start);
            assert!(mean.abs() < 0.03 * variance.sqrt(), "{mean}");
            close(second, variance);
            assert!(largest <= bound);
            if bound.is_finite() {
                assert!(largest > 0.98 * bound);
            } else {
                assert!(largest > 3.0 * variance.sqrt());
            }
        }
        assert_eq!(moments(Initialization::Zeros), (0.0, 0.0, 0.0));
    }

    #[test]
    fn only_the_uniform_start_moves_a_bias() {
        for (start, bound) in [(Initialization::Uniform, 0.5), (Initialization::Normal(0.01), 0.0)]
        {
            let mut parameters = parameters(Kind::Double);
            let linear = Linear::build(&mut parameters.root(), 4, 200, true, start);
            let largest = linear.bias.as_ref().unwrap().abs().max().double_value(&[]);
            assert!(largest <= bound && largest >= 0.95 * bound, "{largest}");
        }
    }

    /// Batch norm of three channels with moved scale, shift and running statistics.
    fn norm() -> (Parameters, BatchNorm) {
        let mut parameters = parameters(Kind::Double);
        let norm = BatchNorm::build(&mut parameters.root(), 3, Affine::Full, 1.0);
        tch::no_grad(|| {
            for (tag, parameter) in (0..).zip(parameters.all()) {
                let mut tensor = parameter.tensor.shallow_clone();
                tensor += noise(tag, &[3]) * 0.5;
            }
        });
        (parameters, norm)
    }

    fn training(groups: i64, statistics: Statistics) -> Phase {
        Phase::Training { groups, statistics }
    }

    /// Mean and variance (divided by n − `correction`) per channel, in plain loops.
    fn plain_moments(x: &Tensor, correction: f64) -> (Vec<f64>, Vec<f64>) {
        (0..x.size()[1])
            .map(|channel| {
                let values =
                    Vec::<f64>::try_from(x.select(1, channel).contiguous().view([-1])).unwrap();
                let n = values.len() as f64;
                let mean = values.iter().sum::<f64>() / n;
                let square = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
                (mean, square / (n - correction))
            })
            .unzip()
    }

    fn assert_near(found: &Tensor, expected: &Tensor, tolerance: f64) {
        assert_eq!(found.size(), expected.size());
        let difference = (found - expected).abs().max().double_value(&[]);
        assert!(difference <= tolerance, "{difference}");
    }

    #[test]
    fn a_place_says_how_fast_running_statistics_follow() {
        let mut parameters = parameters(Kind::Double);
        let mut place = parameters.root();
        place.set_norm_momentum(0.25);
        let norm = BatchNorm::build(&mut place.at("norm"), 3, Affine::Full, 1.0);
        let x = noise(9, &[8, 3]) * 2.0 + 0.3;
        let (mean, variance) = plain_moments(&x, 1.0);
        for of in [1, 2] {
            let before = norm.running_mean.copy();
            for seen in 0..of {
                let _ = norm.forward(&x, training(1, Statistics::Move { seen, of }));
            }
            let mean = Tensor::from_slice(&mean);
            assert_near(&norm.running_mean, &(before * 0.75 + mean * 0.25), 1e-12);
        }
        let expected = Tensor::from_slice(&variance) * (1.0 - 0.75 * 0.75) + 0.75 * 0.75;
        assert_near(&norm.running_var, &expected, 1e-12);
    }

    #[test]
    fn each_group_is_normalised_with_its_own_moments() {
        let x = noise(9, &[8, 3, 2, 2]) * 2.0 + 0.3;
        let (_, norm) = norm();
        let found = norm.forward(&x, training(4, Statistics::Keep));
        for group in 0..4 {
            let rows = x.narrow(0, 2 * group, 2);
            let (mean, var) = plain_moments(&rows, 0.0);
            let per_channel = |t: &Tensor| t.view([1, 3, 1, 1]);
            let mean = per_channel(&Tensor::from_slice(&mean));
            let var = per_channel(&Tensor::from_slice(&var));
            let expected = (rows - mean) / (var + 1e-5).sqrt()
                * per_channel(norm.scale.as_ref().unwrap())
                + per_channel(norm.shift.as_ref().unwrap());
            assert_near(&found.narrow(0, 2 * group, 2), &expected, 1e-12);
        }
    }

    #[test]
    fn running_statistics_move_once_per_step_however_the_groups_are_spread() {
        let x = noise(9, &[12, 3, 2, 2]) * 2.0 + 0.3;
        let (parameters, _) = norm();
        let before: Vec<Tensor> = parameters.all()[2..].iter().map(|p| p.tensor.copy()).collect();
        let (means, vars): (Vec<Tensor>, Vec<Tensor>) = (0..6)
            .map(|group| plain_moments(&x.narrow(0, 2 * group, 2), 1.0))
            .map(|(mean, var)| (Tensor::from_slice(&mean), Tensor::from_slice(&var)))
            .unzip();
        let moved = |before: &Tensor, groups: &[Tensor]| {
            before * 0.9 + Tensor::stack(groups, 0).mean_dim(0, false, None) * 0.1
        };
        let expected = [moved(&before[0], &means), moved(&before[1], &vars)];
        let mut results = Vec::new();
        for passes in [vec![6], vec![2, 4], vec![1, 1, 3, 1], vec![1; 6]] {
            let (_, norm) = norm();
            let mut seen = 0;
            for groups in passes {
                let rows = x.narrow(0, 2 * seen, 2 * groups);
                let _ = norm.forward(&rows, training(groups, Statistics::Keep));
                let _ = norm.forward(&rows, training(groups, Statistics::Move { seen, of: 6 }));
                seen += groups;
            }
            assert_near(&norm.running_mean, &expected[0], 1e-12);
            assert_near(&norm.running_var, &expected[1], 1e-12);
            results.push((norm.running_mean, norm.running_var));
        }
        assert!(results.iter().all(|result| *result == results[0]));
    }

    #[test]
    fn one_group_moves_like_the_general_rule_and_evaluation_uses_what_it_left() {
        let x = noise(9, &[5, 3]) * 2.0 + 0.3;
        let (_, norm) = norm();
        let (mean, var) = plain_moments(&x, 1.0);
        let expected_mean = norm.running_mean.copy() * 0.9 + Tensor::from_slice(&mean) * 0.1;
        let expected_var = norm.running_var.copy() * 0.9 + Tensor::from_slice(&var) * 0.1;
        let _ = norm.forward(&x, TRAINING);
        assert_near(&norm.running_mean, &expected_mean, 1e-14);
        assert_near(&norm.running_var, &expected_var, 1e-14);
        let expected = (&x - &norm.running_mean) / (&norm.running_var + 1e-5).sqrt()
            * norm.scale.as_ref().unwrap()
            + norm.shift.as_ref().unwrap();
        assert_near(&norm.forward(&x, Phase::Evaluation), &expected, 1e-14);
        assert_near(&norm.running_mean, &expected_mean, 1e-14);
        assert!(!norm.running_mean.requires_grad());
    }

    /// Libtorch keeps running statistics for the backward pass: moving them must not spoil an earlier graph.
    #[test]
    fn two_passes_may_come_before_one_backward() {
        let views = [noise(9, &[4, 3]), noise(10, &[4, 3])];
        let gradient = |statistics: [Statistics; 2], together: bool| {
            let (_, norm) = norm();
            let losses: Vec<Tensor> = views
                .iter()
                .zip(statistics)
                .map(|(view, statistics)| {
                    let z = norm.forward(view, training(1, statistics));
                    let loss = (&z * &z * &z).sum(None);
                    if !together {
                        loss.backward();
                    }
                    loss
                })
                .collect();
            if together {
                (&losses[0] + &losses[1]).backward();
            }
            norm.scale.unwrap().grad()
        };
        let halves = [0, 1].map(|seen| Statistics::Move { seen, of: 2 });
        let expected = gradient([Statistics::Keep; 2], false);
        for statistics in [halves, [Statistics::Move { seen: 0, of: 1 }; 2], [Statistics::Keep; 2]]
        {
            assert_near(&gradient(statistics, true), &expected, 1e-13);
        }
    }

    #[test]
    fn rows_that_do_not_suit_the_groups_are_refused() {
        let phase = training(3, Statistics::Keep);
        assert!(check_groups("rows", 6, 1, phase).is_ok());
        assert!(check_groups("rows", 3, 4, phase).is_ok());
        let message = check_groups("rows", 7, 1, phase).unwrap_err().to_string();
        assert!(message.contains("7 rows of `rows`"), "{message}");
        let message = check_groups("rows", 3, 1, phase).unwrap_err().to_string();
        assert!(message.contains("at least 2 values"), "{message}");
        assert!(check_groups("rows", 0, 4, phase).is_err());
        assert!(check_groups("rows", 1, 1, Phase::Evaluation).is_ok());
    }
}
