//! Linear evaluation on stored features: one affine map from `h` to the classes, trained with labels.

use super::Features;
use super::scores::{Ranks, labels, rank};
use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
use crate::shape;
use serde::Serialize;
use std::f64::consts::PI;
use tch::{Kind, Tensor};

/// Version of the protocol; numbers of different versions do not compare.
pub const VERSION: u32 = 1;

/// How the layer moves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Optimizer {
    /// SGD with Nesterov momentum in the form of PyTorch and TensorFlow; the rate, scaled by batch size / 256, falls to 0
    /// along half a cosine, step by step.
    Sgd {
        /// Learning rate for a batch of 256.
        learning_rate_per_256: f64,
        /// Momentum, in [0, 1).
        momentum: f64,
    },
    /// Adam (Kingma and Ba 2015, arXiv:1412.6980) with betas 0.9 and 0.999, epsilon 1e-8 and a constant rate.
    Adam {
        /// Learning rate, not scaled.
        learning_rate: f64,
    },
}

/// Softmax regression by mini-batches on stored features. No weight decay; the state after the last epoch counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Linear {
    /// How the layer moves.
    pub optimizer: Optimizer,
    /// Passes over the references, at least 1.
    pub epochs: u64,
    /// Images in a step, at least 1; the last of an epoch may be smaller and is not dropped.
    pub batch_size: usize,
    /// Whether features are moved to mean 0 and divided by one number, their root mean square norm; both are taken from
    /// the references. No two features change places and none gains weight over another, so what the layer can express is
    /// the same; only how fast it learns no longer depends on the unit and the offset of the features.
    pub centre: bool,
    /// Whether the layer starts at zero, or else uniform in ±1/sqrt(D), the default of PyTorch's linear layer.
    pub zero_start: bool,
    /// Whether every epoch goes through the references in the order of the first.
    pub replay_order: bool,
}

impl Linear {
    /// Protocol `linear-features`: 100 epochs of SGD in the manner of SimCLR's CIFAR evaluation (Nesterov momentum 0.9,
    /// batch 512, cosine to 0, zero start, no decay), but without augmentation and on centred features.
    ///
    /// Published rates range from 0.1 (SimCLR) to 30 (MoCo) because features differ in scale from method to method. With
    /// the scale taken out one rate serves all.
    pub fn features() -> Self {
        Self {
            optimizer: Optimizer::Sgd { learning_rate_per_256: 2.0, momentum: 0.9 },
            epochs: 100,
            batch_size: 512,
            centre: true,
            zero_start: true,
            replay_order: false,
        }
    }

    /// Protocol `adam-features`: 800 epochs of Adam at 3e-4 with batches of 256 on raw features, as in the
    /// replication "[Re] Intriguing Properties of Contrastive Losses", section 3.3. That program replays one order
    /// ([`Linear::replay_order`]) and leaves out the incomplete last test batch; here every image counts.
    pub fn adam_features() -> Self {
        Self {
            optimizer: Optimizer::Adam { learning_rate: 3e-4 },
            epochs: 800,
            batch_size: 256,
            centre: false,
            zero_start: false,
            replay_order: false,
        }
    }

    /// Trains on the references and ranks the queries. `progress` gets epochs done and epochs in all.
    ///
    /// The order of epoch `e` is the permutation of `Stream::open(seed, Purpose::Evaluation, Scope::Item(e))`.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a setting out of range; [`Error::Data`] if a side is empty or lacks labels;
    /// [`Error::Shape`] if the sides differ in dimensions; [`Error::NonFinite`] if training diverges or features are
    /// no numbers.
    pub fn evaluate(
        &self,
        queries: &Features,
        references: &Features,
        seed: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Outcome> {
        self.check()?;
        let (query_labels, reference_labels, classes) = labels(queries, references)?;
        let dimensions = references.h.size()[1];
        shape::check("query features", &queries.h, &[-1, dimensions])?;
        tch::no_grad(|| {
            let input = Input::of(&references.h, self.centre);
            let x = input.rows(&references.h);
            let start = self.start(dimensions, classes, seed);
            let order = |epoch| {
                let item = if self.replay_order { 0 } else { epoch };
                Stream::open(seed, Purpose::Evaluation, Scope::Item(item))
                    .permutation(reference_labels.len())
            };
            let layer = self.fit(&x, &reference_labels, start, order, progress)?;
            let (training, train_loss) = judge(&layer, &x, reference_labels, classes)?;
            let (ranks, _) = judge(&layer, &input.rows(&queries.h), query_labels, classes)?;
            Ok(Outcome { ranks, training, train_loss })
        })
    }

    fn check(&self) -> Result<()> {
        let (rate, momentum) = match self.optimizer {
            Optimizer::Sgd { learning_rate_per_256, momentum } => (learning_rate_per_256, momentum),
            Optimizer::Adam { learning_rate } => (learning_rate, 0.0),
        };
        let wrong = if !(rate > 0.0 && rate.is_finite()) {
            format!("learning rate must be above 0, found `{rate}`")
        } else if !(0.0..1.0).contains(&momentum) {
            format!("momentum must be in [0, 1), found `{momentum}`")
        } else if self.epochs == 0 || self.batch_size == 0 {
            "epochs and batch size must be at least 1".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::Recipe(wrong))
    }

    /// The layer before training, f32 `[D + 1, C]`; the last row is the bias.
    fn start(&self, dimensions: i64, classes: usize, seed: u64) -> Tensor {
        let bound = if self.zero_start { 0.0 } else { 1.0 / (dimensions as f64).sqrt() };
        // No epoch has this number.
        let mut stream = Stream::open(seed, Purpose::Evaluation, Scope::Item(u64::MAX));
        let count = (dimensions as usize + 1) * classes;
        let values: Vec<f32> = (0..count).map(|_| stream.range(-bound, bound) as f32).collect();
        Tensor::from_slice(&values).view([dimensions + 1, classes as i64])
    }

    /// Trains a layer `[D + 1, C]` on rows `[N, D + 1]`, visited in the order given for each epoch.
    fn fit(
        &self,
        x: &Tensor,
        labels: &[u32],
        mut layer: Tensor,
        order: impl Fn(u64) -> Vec<usize>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Tensor> {
        layer = layer.to_device(x.device());
        let images = labels.len() as i64;
        let labels: Vec<i64> = labels.iter().map(|label| i64::from(*label)).collect();
        let labels = Tensor::from_slice(&labels).unsqueeze(1).to_device(x.device());
        let batch = (self.batch_size as i64).min(images);
        let steps = self.epochs * (images as u64).div_ceil(batch as u64);
        let mut state = State::new(&layer);
        for epoch in 0..self.epochs {
            let order: Vec<i64> = order(epoch).into_iter().map(|row| row as i64).collect();
            let order = Tensor::from_slice(&order).to_device(x.device());
            for first in (0..images).step_by(batch as usize) {
                let rows = order.narrow(0, first, batch.min(images - first));
                let gradient =
                    gradient(&layer, &x.index_select(0, &rows), &labels.index_select(0, &rows));
                layer -= state.update(&self.optimizer, self.batch_size, &gradient, steps);
            }
            if !layer.isfinite().all().int64_value(&[]) == 1 {
                return Err(Error::NonFinite(format!(
                    "the linear layer diverged in epoch {epoch}; lower its learning rate"
                )));
            }
            progress(epoch + 1, self.epochs);
        }
        Ok(layer)
    }
}

/// What linear evaluation found.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Ranks of the queries: the result.
    pub ranks: Ranks,
    /// Ranks of the images the layer was trained on.
    pub training: Ranks,
    /// Mean cross-entropy over those, in nats.
    pub train_loss: f64,
}

/// How features become the rows that the layer sees.
struct Input {
    centre: Tensor,
    scale: f64,
}

impl Input {
    fn of(h: &Tensor, centre: bool) -> Self {
        if !centre {
            let zero = Tensor::zeros([1, h.size()[1]], (Kind::Float, h.device()));
            return Self { centre: zero, scale: 1.0 };
        }
        let mean = h.mean_dim(0i64, true, Kind::Double).to_kind(Kind::Float);
        // Tile by tile, so that no second copy of the features is needed.
        let mut squares = 0.0;
        for tile in tiles(h) {
            squares += (tile - &mean).square().sum(Kind::Double).double_value(&[]);
        }
        let scale = (squares / h.size()[0] as f64).sqrt().max(1e-12);
        Self { centre: mean, scale }
    }

    /// Rows `[N, D + 1]` with a last column of ones for the bias.
    fn rows(&self, h: &Tensor) -> Tensor {
        let x = (h.to_kind(Kind::Float) - &self.centre) / self.scale;
        Tensor::cat(&[&x, &x.ones_like().narrow(1, 0, 1)], 1)
    }
}

/// Consecutive rows, a few thousand at a time.
fn tiles(rows: &Tensor) -> impl Iterator<Item = Tensor> {
    const ROWS: i64 = 4_096;
    let all = rows.size()[0];
    (0..all).step_by(ROWS as usize).map(move |first| rows.narrow(0, first, ROWS.min(all - first)))
}

/// Gradient of the mean cross-entropy by the layer: `xᵀ (softmax(x W) − onehot(y)) / n`.
fn gradient(layer: &Tensor, x: &Tensor, labels: &Tensor) -> Tensor {
    let mut error = x.matmul(layer).softmax(1, x.kind());
    let _ = error.scatter_add_(1, labels, &labels.full_like(-1.0).to_kind(x.kind()));
    x.tr().matmul(&error) / x.size()[0] as f64
}

/// What an optimizer remembers.
struct State {
    step: u64,
    first: Tensor,
    second: Tensor,
}

impl State {
    fn new(layer: &Tensor) -> Self {
        Self { step: 0, first: layer.zeros_like(), second: layer.zeros_like() }
    }

    /// What to take off the layer.
    fn update(
        &mut self,
        optimizer: &Optimizer,
        batch_size: usize,
        gradient: &Tensor,
        steps: u64,
    ) -> Tensor {
        let done = self.step as f64 / steps as f64;
        self.step += 1;
        match *optimizer {
            Optimizer::Sgd { learning_rate_per_256, momentum } => {
                let rate = learning_rate_per_256 * batch_size as f64 / 256.0;
                let rate = rate * (1.0 + (PI * done).cos()) / 2.0;
                self.first = &self.first * momentum + gradient;
                (gradient + &self.first * momentum) * rate
            }
            Optimizer::Adam { learning_rate } => {
                let (decay, square_decay, epsilon) = (0.9, 0.999, 1e-8);
                self.first = &self.first * decay + gradient * (1.0 - decay);
                self.second =
                    &self.second * square_decay + gradient.square() * (1.0 - square_decay);
                let step = self.step as f64;
                let first = &self.first / (1.0 - f64::powf(decay, step));
                let second = &self.second / (1.0 - f64::powf(square_decay, step));
                first / (second.sqrt() + epsilon) * learning_rate
            }
        }
    }
}

/// Ranks of the true classes, and the mean cross-entropy.
fn judge(layer: &Tensor, x: &Tensor, labels: Vec<u32>, classes: usize) -> Result<(Ranks, f64)> {
    let mut ranks = Vec::with_capacity(labels.len());
    let mut loss = 0.0;
    for tile in tiles(x) {
        let mut logits = vec![0.0f32; tile.size()[0] as usize * classes];
        let product = tile.matmul(layer);
        product.to_device(tch::Device::Cpu).copy_data(&mut logits, product.numel());
        for logits in logits.chunks(classes) {
            let label = labels[ranks.len()] as usize;
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
            loss += sum.ln() - f64::from(logits[label] - largest);
            ranks.push(rank(logits, label));
        }
    }
    if !loss.is_finite() {
        return Err(Error::NonFinite(
            "logits of the linear layer are infinite or not a number: the features are no numbers \
             or far too large"
                .to_owned(),
        ));
    }
    let loss = loss / labels.len() as f64;
    Ok((Ranks { ranks, labels, classes, depth: classes }, loss))
}
