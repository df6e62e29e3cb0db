//! Cross-entropy of class scores with labels, one or several an image, and with the scores of a teacher.
//!
//! `L = -mean_i Σ_y p_i(y) · ln softmax(z_i)(y)`, where `p_i` is 1 at the label of image i, or a teacher's softmax.
//! Both grow with the batch alone, so plain automatic differentiation carries their gradient.

use crate::error::Result;
use crate::shape;
use tch::{Kind, Reduction, Tensor};

/// Mean cross-entropy of logits `[N, C]` with labels i64 `[N]`, each from 0 to C − 1: a scalar with a graph.
///
/// # Errors
/// [`crate::error::Error::Shape`] if there is not one label per row.
pub fn with_labels(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    shape::check("logits", logits, &[-1, -1])?;
    shape::check("labels", labels, &[logits.size()[0]])?;
    Ok(log_probabilities(logits).nll_loss(labels))
}

/// Mean binary cross-entropy of logits `[N, C]` with what is shown, `[N, C]` of zeros and ones:
/// `-mean_ic [s_ic ln σ(z_ic) + (1 - s_ic) ln(1 - σ(z_ic))]`, a scalar with a graph (Ericsson et al. 2021,
/// arXiv:2011.13377; linusericsson/ssl-transfer, `finetune.py`).
///
/// # Errors
/// [`crate::error::Error::Shape`] if the sides differ in shape.
pub fn with_shown(logits: &Tensor, shown: &Tensor) -> Result<Tensor> {
    shape::check("logits", logits, &[-1, -1])?;
    shape::check("what is shown", shown, &logits.size())?;
    Ok(logits.binary_cross_entropy_with_logits::<Tensor>(shown, None, None, Reduction::Mean))
}

/// `-T² · mean_i Σ_y P_teacher(y|i; T) · ln P_student(y|i; T)` with `P(·; T) = softmax(logits / T)`: a scalar with a graph
/// for the student alone (Chen et al. 2020, arXiv:2006.10029, Eq. 2; the factor T², which keeps the size of the gradient,
/// is that of google-research/simclr, `colabs/distillation_self_training.ipynb`).
///
/// Both sides are logits `[N, C]`; T is above 0.
///
/// # Errors
/// [`crate::error::Error::Shape`] if the sides differ in shape.
pub fn with_teacher(student: &Tensor, teacher: &Tensor, temperature: f64) -> Result<Tensor> {
    shape::check("logits", student, &[-1, -1])?;
    shape::check("the teacher's logits", teacher, &student.size())?;
    let target = (log_probabilities(&(teacher.detach() / temperature))).exp();
    let found = log_probabilities(&(student / temperature));
    let sum = (target * found).sum_dim_intlist(1, false, None);
    Ok(-sum.mean(None) * (temperature * temperature))
}

/// Share of the rows whose largest logit is at the label, from 0 to 1.
pub fn top1(logits: &Tensor, labels: &Tensor) -> f64 {
    logits.argmax(1, false).eq_tensor(labels).to_kind(Kind::Double).mean(None).double_value(&[])
}

/// Share of the marks `[N, C]` that a logit above or below 0 tells, from 0 to 1.
pub fn marks(logits: &Tensor, shown: &Tensor) -> f64 {
    logits.gt(0).eq_tensor(&shown.gt(0)).to_kind(Kind::Double).mean(None).double_value(&[])
}

fn log_probabilities(logits: &Tensor) -> Tensor {
    logits.log_softmax(-1, logits.kind())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope, Stream};
    use tch::no_grad;

    const N: usize = 5;
    const C: usize = 4;

    fn logits(item: u64) -> Tensor {
        let mut stream = Stream::open(2, Purpose::Test, Scope::Item(item));
        let values: Vec<f64> = (0..N * C).map(|_| 2.0 * stream.normal()).collect();
        Tensor::from_slice(&values).view([N as i64, C as i64])
    }

    /// softmax(z / T) of a row, written out.
    fn softmax(z: &Tensor, row: usize, temperature: f64) -> Vec<f64> {
        let exp = |class| (z.double_value(&[row as i64, class as i64]) / temperature).exp();
        let sum: f64 = (0..C).map(exp).sum();
        (0..C).map(|class| exp(class) / sum).collect()
    }

    fn slopes(z: &Tensor, loss: impl Fn(&Tensor) -> Tensor) {
        let leaf = z.copy().set_requires_grad(true);
        loss(&leaf).backward();
        let gradient = leaf.grad();
        for element in 0..(N * C) as i64 {
            let at = |by: f64| {
                let moved = z.copy();
                no_grad(|| {
                    let _ = moved.view(-1).narrow(0, element, 1).g_add_scalar_(by);
                });
                loss(&moved).double_value(&[])
            };
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((slope - gradient.view(-1).double_value(&[element])).abs() < 1e-8);
        }
    }

    #[test]
    fn cross_entropy_is_the_mean_over_images_and_its_gradient_its_slope() {
        let (z, labels) = (logits(0), [3i64, 0, 2, 2, 1]);
        let expected: f64 =
            (0..N).map(|row| -softmax(&z, row, 1.0)[labels[row] as usize].ln()).sum::<f64>() / 5.0;
        let labels = Tensor::from_slice(&labels);
        let found = with_labels(&z, &labels).unwrap().double_value(&[]);
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        slopes(&z, |z| with_labels(z, &labels).unwrap());
        assert!(with_labels(&z, &labels.narrow(0, 0, 4)).is_err());
    }

    #[test]
    fn binary_cross_entropy_is_the_mean_over_marks_and_its_gradient_its_slope() {
        let z = logits(0);
        let shown = logits(1).gt(0.5).to_kind(Kind::Double);
        let mut expected = 0.0;
        for (z, shown) in numbers(&z).into_iter().zip(numbers(&shown)) {
            let yes = 1.0 / (1.0 + (-z).exp());
            expected -= if shown > 0.0 { yes.ln() } else { (1.0 - yes).ln() };
        }
        expected /= (N * C) as f64;
        let found = with_shown(&z, &shown).unwrap().double_value(&[]);
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        slopes(&z, |z| with_shown(z, &shown).unwrap());
        assert!(with_shown(&z, &shown.narrow(1, 0, 3)).is_err());
        let pairs = numbers(&z).into_iter().zip(numbers(&shown));
        let right = pairs.filter(|(z, shown)| (*z > 0.0) == (*shown > 0.0));
        assert!((marks(&z, &shown) - right.count() as f64 / (N * C) as f64).abs() < 1e-12);
    }

    fn numbers(values: &Tensor) -> Vec<f64> {
        values.contiguous().view(-1).try_into().unwrap()
    }

    #[test]
    fn distillation_is_the_double_loop_at_any_temperature_and_its_gradient_its_slope() {
        let (student, teacher) = (logits(0), logits(1));
        for temperature in [0.1, 1.0, 3.0] {
            let mut expected = 0.0;
            for row in 0..N {
                let (p, q) =
                    (softmax(&teacher, row, temperature), softmax(&student, row, temperature));
                expected -= p.iter().zip(&q).map(|(p, q)| p * q.ln()).sum::<f64>() / N as f64;
            }
            expected *= temperature * temperature;
            let found = with_teacher(&student, &teacher, temperature).unwrap().double_value(&[]);
            assert!(
                (found - expected).abs() < 1e-12 * expected.abs().max(1.0),
                "{found} {expected}"
            );
        }
        slopes(&student, |z| with_teacher(z, &teacher, 1.5).unwrap());
        let leaf = teacher.set_requires_grad(true);
        let with_graph = student.set_requires_grad(true);
        with_teacher(&with_graph, &leaf, 1.0).unwrap().backward();
        assert!(!leaf.grad().defined(), "nothing reaches the teacher");
        assert!(with_teacher(&with_graph, &leaf.narrow(1, 0, 3), 1.0).is_err());
    }

    #[test]
    fn of_equal_logits_the_lower_class_counts() {
        let z = Tensor::from_slice(&[1.0f64, 1.0, 0.0, 2.0]).view([2, 2]);
        assert!((top1(&z, &Tensor::from_slice(&[0i64, 0])) - 0.5).abs() < 1e-12);
        assert!(top1(&z, &Tensor::from_slice(&[1i64, 0])).abs() < 1e-12);
    }
}
