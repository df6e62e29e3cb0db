//! The objective of logistic regression for many penalties at once: one matrix product serves all.

use super::design::Design;
use super::lbfgs::Evaluation;
use super::softmax;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

/// Entries of a tile of logits: few enough to stay in the processor's caches from one operation to the next.
const TILE: i64 = 1 << 18;

/// What the images are.
#[derive(Debug)]
pub(super) enum Target {
    /// One class of several each, i64 `[N]`: softmax regression.
    One(Tensor),
    /// Any number of classes each: +1 where present, −1 where absent, 0 where not to be counted; `[C, N]` in the kind of
    /// the design: a logistic regression for each class.
    Many(Tensor),
}

/// `J(W) = Σ_i ℓ(W x_i, y_i) + (λ/2) ‖W without its bias column‖²` on a design, for any λ.
#[derive(Debug)]
pub(super) struct Objective<'a> {
    pub(super) design: &'a Design,
    pub(super) target: &'a Target,
    /// Number of classes.
    pub(super) classes: i64,
    /// Whether evaluations carry a preconditioner.
    pub(super) precondition: bool,
}

/// Loss and its derivative by the logits for a tile.
struct Slope {
    /// Sum of the losses, f64 `[K]`.
    loss: Tensor,
    /// `[K, C, n]`.
    residual: Tensor,
    /// Estimate of the mean second derivative of the loss by a logit, summed over the tile, f64 `[K]`.
    bend: Tensor,
}

impl Objective<'_> {
    /// Length of a point: weights `[C, D + 1]` in one row.
    pub(super) fn length(&self) -> i64 {
        self.classes * self.design.columns()
    }

    /// Values and gradients at points f64 `[P]`, each under its own penalty.
    pub(super) fn evaluate(&self, points: &[&Tensor], penalties: &[f64]) -> Vec<Evaluation> {
        let (count, columns) = (points.len() as i64, self.design.columns());
        let points = Tensor::stack(points, 0).view([count, self.classes, columns]);
        let weights = points.view([-1, columns]).to_kind(self.design.rows.kind());
        let mut gradients = Tensor::zeros([count * self.classes, columns], DOUBLE);
        let (mut losses, mut bends) =
            (Tensor::zeros([count], DOUBLE), Tensor::zeros([count], DOUBLE));
        let tile = (TILE / weights.size()[0]).clamp(128, 1_024);
        for first in (0..self.design.images()).step_by(tile as usize) {
            let n = tile.min(self.design.images() - first);
            let rows = self.design.rows.narrow(0, first, n);
            let logits = weights.matmul(&rows.tr()).view([count, self.classes, n]);
            let slope = match &self.target {
                Target::One(labels) if logits.kind() == Kind::Float => {
                    softmax_f32(&logits, &labels.narrow(0, first, n))
                }
                Target::One(labels) => softmax(logits, &labels.narrow(0, first, n)),
                Target::Many(signs) => logistic(&logits, &signs.narrow(1, first, n)),
            };
            losses += slope.loss;
            bends += slope.bend;
            gradients += slope.residual.view([-1, n]).matmul(&rows);
        }
        let penalties = self.penalties(penalties);
        let gradients = gradients.view([count, self.classes, columns]) + &points * &penalties;
        let values = losses
            + (points.square() * &penalties).sum_dim_intlist([1i64, 2].as_slice(), false, None)
                / 2.0;
        let steepest = self.design.steepest(&gradients);
        let preconditioner = self.precondition.then(|| {
            let bends = (bends / self.design.images() as f64).view([-1, 1, 1]);
            // Where nothing is left to learn and nothing is penalised, the bias may still not go to infinity.
            let diagonal = &self.design.squares * bends.clamp_min(1e-12) + &penalties;
            diagonal.reciprocal().expand_as(&gradients).contiguous()
        });
        (0..count)
            .map(|at| Evaluation {
                value: values.double_value(&[at]),
                gradient: gradients.get(at).view(-1),
                steepest: steepest.double_value(&[at]),
                preconditioner: preconditioner.as_ref().map(|all| all.get(at).view(-1)),
            })
            .collect()
    }

    /// The penalty of each column: none for the bias, f64 `[K, 1, D + 1]`.
    fn penalties(&self, penalties: &[f64]) -> Tensor {
        let count = penalties.len() as i64;
        let penalties = Tensor::from_slice(penalties).view([count, 1, 1]);
        let slopes = penalties.expand([count, 1, self.design.columns() - 1], false);
        Tensor::cat(&[slopes, penalties.zeros_like()], 2)
    }
}

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

/// Softmax cross-entropy of f32 logits `[K, C, n]` and labels `[n]`, in one pass over them.
fn softmax_f32(logits: &Tensor, labels: &Tensor) -> Slope {
    let size = logits.size();
    let mut values = vec![0.0f32; logits.numel()];
    logits.copy_data(&mut values, logits.numel());
    let mut wanted = vec![0i64; labels.numel()];
    labels.copy_data(&mut wanted, labels.numel());
    let sums: Vec<softmax::Sums> = values
        .par_chunks_mut((size[1] * size[2]) as usize)
        .map(|logits| softmax::softmax(logits, &wanted))
        .collect();
    let of = |sum: fn(&softmax::Sums) -> f64| {
        Tensor::from_slice(&sums.iter().map(sum).collect::<Vec<_>>())
    };
    Slope {
        loss: of(|sums| sums.loss),
        bend: of(|sums| sums.bend),
        residual: Tensor::from_slice(&values).view(&size[..]),
    }
}

/// Softmax cross-entropy of logits `[K, C, n]`, which it overwrites, and labels `[n]`.
///
/// Everything is reckoned from the differences to the true class's logit, so that a loss and a residual near 0 keep their
/// relative precision: `ℓ = log(1 + Σ_{c≠y} exp(z_c − z_y))`.
fn softmax(mut logits: Tensor, labels: &Tensor) -> Slope {
    let (count, _, n) = logits.size3().expect("logits have three dimensions");
    let labels = labels.view([1, 1, n]).expand([count, 1, n], false);
    let own = logits.gather(1, &labels, false);
    logits -= own;
    let _ = logits.scatter_value_(1, &labels, f64::NEG_INFINITY);
    let largest = logits.amax([1], true).clamp_min(0.0); // [K, 1, n]
    logits -= &largest;
    let mut residual = logits.exp_();
    let others = residual.sum_dim_intlist(1i64, true, None);
    let own = (-&largest).exp();
    let all = &others + &own;
    residual /= &all;
    let own = own / &all;
    let share = others.to_kind(Kind::Double) + largest.to_kind(Kind::Double).neg().expm1();
    let loss = share.log1p() + largest;
    // 1 − Σ p², which is C − 1 times the mean second derivative where all classes are equal.
    let classes = residual.size()[1] as f64;
    let even = residual.square().sum_dim_intlist(1i64, true, None) + own.square();
    let bend = (1.0 - even) / (classes - 1.0);
    let _ = residual.scatter_(1, &labels, &-(others / all));
    let sum = |tensor: &Tensor| tensor.sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Double);
    Slope { loss: sum(&loss), bend: sum(&bend), residual }
}

/// Logistic losses of logits `[K, C, n]` and signs `[C, n]`: `ℓ = Σ_c log(1 + exp(−s_c z_c))`.
fn logistic(logits: &Tensor, signs: &Tensor) -> Slope {
    let margins = logits * signs;
    let counted = signs.abs();
    let sum = |tensor: &Tensor| tensor.sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Double);
    let loss = sum(&((-&margins).softplus() * &counted));
    let wrong = (-margins).sigmoid() * &counted;
    let bend = sum(&(&wrong - wrong.square())) / counted.size()[0] as f64;
    Slope { loss, residual: -wrong * signs, bend }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope, Stream};

    fn random(rows: i64, columns: i64, item: u64) -> Tensor {
        let mut stream = Stream::open(4, Purpose::Test, Scope::Item(item));
        let values: Vec<f64> = (0..rows * columns).map(|_| stream.normal()).collect();
        Tensor::from_slice(&values).view([rows, columns])
    }

    fn targets() -> [Target; 2] {
        let classes: Vec<i64> = (0..40).map(|image| image * image % 3).collect();
        let signs: Vec<f64> = (0..120).map(|at| f64::from(at * at % 7 % 3 - 1)).collect();
        [
            Target::One(Tensor::from_slice(&classes)),
            Target::Many(Tensor::from_slice(&signs).view([3, 40])),
        ]
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_value_under_every_penalty() {
        let design = Design::raw(&random(40, 4, 1)).unwrap();
        for target in &targets() {
            let objective = Objective { design: &design, target, classes: 3, precondition: false };
            let points = [random(1, 15, 2).view(-1), random(1, 15, 3).view(-1)];
            let penalties = [0.3, 20.0];
            let found = objective.evaluate(&[&points[0], &points[1]], &penalties);
            for ((point, penalty), found) in points.iter().zip(penalties).zip(found) {
                let mut steepest = 0.0f64;
                for entry in 0..15 {
                    let step = Tensor::zeros([15], DOUBLE);
                    let _ = step.narrow(0, entry, 1).fill_(1e-5);
                    let value = |at: &Tensor| objective.evaluate(&[at], &[penalty])[0].value;
                    let slope = (value(&(point + &step)) - value(&(point - &step))) / 2e-5;
                    let own = found.gradient.double_value(&[entry]);
                    assert!(
                        (slope - own).abs() < 1e-6 * (1.0 + own.abs()),
                        "{target:?} {slope} {own}"
                    );
                    steepest = steepest.max(own.abs());
                }
                assert!((found.steepest - steepest).abs() < 1e-12);
                assert!(found.preconditioner.is_none());
            }
        }
    }

    #[test]
    fn the_value_is_that_of_the_textbook() {
        let h = random(40, 4, 1);
        let design = Design::raw(&h).unwrap();
        let weights = random(3, 5, 2);
        let logits = h.matmul(&weights.narrow(1, 0, 4).tr()) + weights.select(1, 4);
        let penalty = weights.narrow(1, 0, 4).square().sum(None).double_value(&[]) * 0.7 / 2.0;
        for target in &targets() {
            let objective = Objective { design: &design, target, classes: 3, precondition: false };
            let expected = match target {
                Target::One(labels) => -logits
                    .log_softmax(1, Kind::Double)
                    .gather(1, &labels.unsqueeze(1), false)
                    .sum(None),
                Target::Many(signs) => {
                    -((&logits * signs.tr()).log_sigmoid() * signs.tr().abs()).sum(None)
                }
            };
            let found = objective.evaluate(&[&weights.view(-1)], &[0.7])[0].value;
            assert!((found - expected.double_value(&[]) - penalty).abs() < 1e-9, "{target:?}");
        }
    }

    /// The fused f32 form against the tensor form, which f64 takes, over several tiles.
    #[test]
    fn both_forms_of_the_softmax_agree() {
        let h = random(2_500, 6, 5);
        let labels = (&h.select(1, 0) * 2.0 + h.select(1, 1)).clamp(-1.4, 1.4).round() + 1.0;
        let target = Target::One(labels.to_kind(Kind::Int64));
        let (principal, raw) = (Design::principal(&h).unwrap(), Design::raw(&h).unwrap());
        let weights = [random(3, 7, 6), random(3, 7, 7) * 10.0];
        let evaluate = |design: &Design| {
            let points: Vec<Tensor> =
                weights.iter().map(|w| design.to_columns(w).view(-1)).collect();
            let objective = Objective { design, target: &target, classes: 3, precondition: true };
            objective.evaluate(&points.iter().collect::<Vec<_>>(), &[1.0, 0.01])
        };
        for (fused, plain) in evaluate(&principal).iter().zip(evaluate(&raw)) {
            assert!(
                (fused.value / plain.value - 1.0).abs() < 1e-6,
                "{} {}",
                fused.value,
                plain.value
            );
            assert!((fused.steepest / plain.steepest - 1.0).abs() < 1e-5);
            // The ones come last in both, and nothing penalises them.
            let bias = |at: &Evaluation| at.preconditioner.as_ref().unwrap().double_value(&[6]);
            assert!(
                (bias(fused) / bias(&plain) - 1.0).abs() < 1e-4,
                "{} {}",
                bias(fused),
                bias(&plain)
            );
        }
    }
}
