//! Linear evaluation on stored features: one affine map from `h` to the classes, trained with labels.

use super::Features;
use super::scores::{Ranks, judged, labels};
use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
use crate::shape;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;
use tch::{Kind, Tensor};

/// Version of the protocol; numbers of different versions do not compare.
pub const VERSION: u32 = 2;

/// How the layer moves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// the scale taken out one rate serves all: 3 per 256, our choice, made on held-out images of a training split with
    /// features of an untrained network (which overfit above 0.3) and of random patches (which still gained at 10).
    pub fn features() -> Self {
        Self {
            optimizer: Optimizer::Sgd { learning_rate_per_256: 3.0, momentum: 0.9 },
            epochs: 100,
            batch_size: 512,
            centre: true,
            zero_start: true,
            replay_order: false,
        }
    }

    /// Protocol `adam-features`: 800 epochs of Adam at 3e-4 with batches of 256 on raw features, as in the
    /// replication "\[Re\] Intriguing Properties of Contrastive Losses", section 3.3. That program replays one order
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
            let (training, train_loss) = judge(&layer, &x, &reference_labels, classes)?;
            let (ranks, _) = judge(&layer, &input.rows(&queries.h), &query_labels, classes)?;
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
                layer -= state.update(&self.optimizer, batch as usize, &gradient, steps);
            }
            if layer.isfinite().all().int64_value(&[]) == 0 {
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
fn judge(layer: &Tensor, x: &Tensor, labels: &[u32], classes: usize) -> Result<(Ranks, f64)> {
    let mut ranks = Ranks::none(classes, classes);
    let mut loss = 0.0;
    for tile in tiles(x) {
        let mut logits = vec![0.0f32; tile.size()[0] as usize * classes];
        let product = tile.matmul(layer);
        product.to_device(tch::Device::Cpu).copy_data(&mut logits, product.numel());
        for logits in logits.chunks(classes) {
            let label = labels[ranks.labels.len()] as usize;
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
            loss += sum.ln() - f64::from(logits[label] - largest);
            ranks.push(judged(logits, label), label as u32);
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
    Ok((ranks, loss))
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact where the arithmetic is")]
mod tests {
    use super::super::features::tests::made;
    use super::*;
    use serde_json::Value;
    use tch::Device;

    fn matrix(value: &Value) -> Tensor {
        let rows: Vec<Vec<f32>> = serde_json::from_value(value.clone()).unwrap();
        Tensor::from_slice2(&rows)
    }

    /// Weight `[C, D]` and bias `[C]` of PyTorch as our `[D + 1, C]`.
    fn layer(value: &Value) -> Tensor {
        let bias: Vec<f32> = serde_json::from_value(value["bias"].clone()).unwrap();
        Tensor::cat(&[matrix(&value["weight"]).tr(), Tensor::from_slice(&bias).unsqueeze(0)], 0)
    }

    fn largest(difference: &Tensor) -> f64 {
        difference.abs().max().double_value(&[])
    }

    /// `tests/golden/evaluate_linear.py`: torch.optim from a given start in a given order, the last batch incomplete.
    #[test]
    fn both_optimizers_end_where_those_of_pytorch_do() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/evaluate_linear.json");
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let labels: Vec<u32> = serde_json::from_value(golden["labels"].clone()).unwrap();
        let order: Vec<Vec<usize>> = serde_json::from_value(golden["order"].clone()).unwrap();
        let h = matrix(&golden["x"]);
        let sgd = Optimizer::Sgd { learning_rate_per_256: 0.8, momentum: 0.9 };
        for (name, optimizer) in [("sgd", sgd), ("adam", Optimizer::Adam { learning_rate: 3e-2 })] {
            let settings = Linear {
                optimizer,
                epochs: order.len() as u64,
                batch_size: 16,
                centre: false,
                ..Linear::features()
            };
            let x = Input::of(&h, false).rows(&h);
            let visit = |epoch: u64| order[epoch as usize].clone();
            let trained =
                settings.fit(&x, &labels, layer(&golden["start"]), visit, &mut |_, _| {}).unwrap();
            let expected = layer(&golden[name]);
            assert!(largest(&(&trained - &expected)) < 2e-5, "{name}: {trained} {expected}");
            let moved = largest(&(&trained - layer(&golden["start"])));
            assert!(moved > 0.1, "{name} moved by {moved} only");
            let (_, loss) = judge(&trained, &x, &labels, 3).unwrap();
            assert!((loss - golden[name]["loss"].as_f64().unwrap()).abs() < 1e-5, "{name} {loss}");
        }
    }

    fn random(rows: i64, columns: i64, item: u64) -> Tensor {
        let mut stream = Stream::open(2, Purpose::Test, Scope::Item(item));
        let values: Vec<f64> = (0..rows * columns).map(|_| stream.normal()).collect();
        Tensor::from_slice(&values).view([rows, columns])
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let (x, start) = (random(9, 4, 1), random(4, 3, 2));
        let labels = Tensor::from_slice(&[0i64, 1, 2, 2, 1, 0, 1, 1, 2]);
        let loss = |layer: &Tensor| {
            let all = x.matmul(layer).log_softmax(1, Kind::Double);
            -all.gather(1, &labels.unsqueeze(1), false).mean(Kind::Double).double_value(&[])
        };
        let found = gradient(&start, &x, &labels.unsqueeze(1));
        for entry in 0..12 {
            let step = Tensor::zeros([12], (Kind::Double, Device::Cpu));
            let _ = step.narrow(0, entry, 1).fill_(1e-5);
            let step = step.view([4, 3]);
            let slope = (loss(&(&start + &step)) - loss(&(&start - &step))) / 2e-5;
            let found = found.double_value(&[entry / 3, entry % 3]);
            assert!((slope - found).abs() < 1e-9, "{slope} {found}");
        }
    }

    /// Two well separated clouds a class, features of unit scale.
    fn clouds(images: i64, item: u64) -> Features {
        let labels: Vec<i64> = (0..images).map(|image| image % 7).collect();
        let centres = random(7, 12, 100);
        let h = random(images, 12, item) * 0.25
            + centres.index_select(0, &Tensor::from_slice(&labels)) * 2.0;
        made(h.to_kind(Kind::Float), &labels)
    }

    fn quiet(settings: Linear, queries: &Features, references: &Features) -> Result<Outcome> {
        settings.evaluate(queries, references, 5, &mut |_, _| {})
    }

    #[test]
    fn separable_features_are_separated_in_any_unit_and_place() {
        let (references, queries) = (clouds(700, 3), clouds(210, 4));
        for (scale, offset) in [(1.0, 0.0), (1e-3, 0.0), (1e3, 0.0), (1.0, 20.0)] {
            let moved = |side: &Features| made(&side.h * scale + offset, &side.labels());
            let found = quiet(Linear::features(), &moved(&queries), &moved(&references)).unwrap();
            assert_eq!(found.ranks.top(1).value, 1.0, "scale {scale}, offset {offset}");
            assert_eq!(found.ranks.classes, 7);
            assert!(found.train_loss < 0.01, "{}", found.train_loss);
        }
        let few = Linear { epochs: 60, ..Linear::adam_features() };
        let few = Linear { optimizer: Optimizer::Adam { learning_rate: 1e-2 }, ..few };
        assert_eq!(quiet(few, &queries, &references).unwrap().ranks.top(1).value, 1.0);
    }

    /// Where a feature names one of three kinds of image, the best layer gives each kind the share of its labels, so
    /// the loss is the conditional entropy and the accuracy the sum of the largest shares.
    #[test]
    fn overlapping_classes_reach_the_entropy_of_their_labels() {
        let counts = [[60, 30, 10], [20, 80, 0], [5, 15, 80]];
        let (mut rows, mut labels) = (Vec::new(), Vec::new());
        for (kind, counts) in counts.iter().enumerate() {
            for (label, count) in counts.iter().enumerate() {
                for _ in 0..*count {
                    rows.extend((0..3).map(|column| f32::from(u8::from(column == kind))));
                    labels.push(label as i64);
                }
            }
        }
        let set = || made(Tensor::from_slice(&rows).view([-1, 3]), &labels);
        let found = quiet(Linear::features(), &set(), &set()).unwrap();
        let shares = counts.iter().flatten().map(|count| f64::from(*count) / 300.0);
        let entropy: f64 = shares.filter(|p| *p > 0.0).map(|p| -p * (p * 3.0).ln()).sum();
        assert!((found.train_loss - entropy).abs() < 5e-3, "{} {entropy}", found.train_loss);
        assert_eq!(found.ranks.top(1).value, 220.0 / 300.0);
        assert_eq!(found.training, found.ranks);
    }

    #[test]
    fn the_seed_decides_the_order_and_replaying_it_changes_the_result() {
        let (references, queries) = (clouds(70, 3), clouds(21, 4));
        let brief = Linear { epochs: 3, batch_size: 8, ..Linear::adam_features() };
        let run = |settings: Linear, seed| {
            settings.evaluate(&queries, &references, seed, &mut |_, _| {}).unwrap()
        };
        assert_eq!(run(brief, 1), run(brief, 1));
        assert_ne!(run(brief, 1).train_loss, run(brief, 2).train_loss);
        let replayed = run(Linear { replay_order: true, ..brief }, 1).train_loss;
        assert_ne!(run(brief, 1).train_loss, replayed);
    }

    #[test]
    fn classes_that_only_one_side_has_are_counted() {
        let references = made(random(4, 2, 1).to_kind(Kind::Float), &[0, 1, 0, 1]);
        let queries = made(random(2, 2, 2).to_kind(Kind::Float), &[8, 1]);
        let found = quiet(Linear::features(), &queries, &references).unwrap();
        assert_eq!(found.ranks.classes, 9);
        assert!(found.ranks.ranks[0] > 1, "a class never seen does not win");
    }

    #[test]
    fn settings_out_of_range_and_features_that_are_no_numbers_are_errors() {
        let set = || clouds(20, 3);
        let bad = [
            Linear { epochs: 0, ..Linear::features() },
            Linear { batch_size: 0, ..Linear::features() },
            Linear { optimizer: Optimizer::Adam { learning_rate: 0.0 }, ..Linear::features() },
            Linear {
                optimizer: Optimizer::Sgd { learning_rate_per_256: 1.0, momentum: 1.0 },
                ..Linear::features()
            },
        ];
        for settings in bad {
            assert!(matches!(quiet(settings, &set(), &set()), Err(Error::Recipe(_))));
        }
        let broken = made(set().h / 0.0, &set().labels());
        for settings in [Linear::features(), Linear { epochs: 1, ..Linear::adam_features() }] {
            assert!(matches!(quiet(settings, &set(), &broken), Err(Error::NonFinite(_))));
        }
        let narrow = made(set().h.narrow(1, 0, 3), &set().labels());
        assert!(matches!(quiet(Linear::features(), &narrow, &set()), Err(Error::Shape(_))));
    }

    #[test]
    fn the_settings_say_what_was_done() {
        let text = serde_json::to_string(&Linear::features()).unwrap();
        let expected = r#"{"optimizer":{"name":"sgd","learning_rate_per_256":3.0,"momentum":0.9},"epochs":100,"batch_size":512,"#;
        assert!(text.starts_with(expected), "{text}");
    }
}
