//! The swapped prediction of SwAV: codes by Sinkhorn-Knopp, and the loss of predicting one crop's codes from another.

use crate::error::{Error, Result};
use crate::shape::check;
use tch::{Kind, Tensor};

/// Soft codes `[B, K]` of `scores` `[B, K]` (rows against prototypes): how much each row belongs to each prototype, rows
/// summing to 1 and prototypes used about equally (Caron et al. 2020, arXiv:2006.09882, §3.1, Eq. 3–5), without a graph, in
/// f32, or f64 for f64 input.
///
/// From `exp(scores / epsilon)` each of the `iterations` (3 in the paper) gives all prototypes the same mass, then all
/// rows. With 0 it is the softmax of `scores / epsilon`: codes that know nothing of the other rows. `epsilon` is 0.05 in
/// the paper; larger ones smooth the codes.
///
/// It runs on logarithms, which is the same formula and neither overflows nor leaves a prototype without mass, whatever
/// the scores. Codes of a batch that follows a queue are the last rows of those of both together.
///
/// # Errors
/// [`Error::Shape`] unless there are rows and prototypes; [`Error::Recipe`] if `epsilon` is not above 0.
pub fn sinkhorn(scores: &Tensor, epsilon: f64, iterations: u32) -> Result<Tensor> {
    check_scores("scores", scores, &[-1, -1])?;
    above_0("epsilon", epsilon)?;
    Ok(tch::no_grad(|| {
        let mut log = scores.detach().to_kind(kind_of(scores)) / epsilon;
        for _ in 0..iterations {
            log = (&log - log.logsumexp(0, true)).log_softmax(1, None);
        }
        log.softmax(1, None)
    }))
}

/// The loss of predicting each assigned crop's codes from every other crop of the same images (arXiv:2006.09882, Eq. 2,
/// with multi-crop, Eq. 6),
///
/// ```text
/// L = 1/A Σ_{a<A} 1/(V-1) Σ_{c≠a} mean_b ( -Σ_k codes_a[b, k] · ln softmax(scores_c[b] / τ)_k )
/// ```
///
/// a scalar (f64). `scores` holds `[B, K]` for each of the V crops, `codes` `[B, K]` for the first A of them (the large
/// ones), whose rows sum to 1 and which get no gradient. τ is 0.1 in the paper. Collapsed to uniform scores it is ln K.
///
/// Each crop's cross entropies are taken together, against the sum of the codes it has to predict.
///
/// # Errors
/// [`Error::Shape`] unless there are at least two crops, and codes for at least one and at most all of them, of one shape;
/// [`Error::Recipe`] if `temperature` is not above 0.
pub fn swapped_prediction(scores: &[Tensor], codes: &[Tensor], temperature: f64) -> Result<Tensor> {
    above_0("temperature", temperature)?;
    if scores.len() < 2 || codes.is_empty() || codes.len() > scores.len() {
        return Err(Error::Shape(format!(
            "swapped prediction needs at least two crops and codes for one to all of them, found {} crops and {} codes",
            scores.len(),
            codes.len()
        )));
    }
    check_scores("scores", &scores[0], &[-1, -1])?;
    let shape = scores[0].size();
    for scores in scores {
        check_scores("scores", scores, &shape)?;
    }
    for codes in codes {
        check("codes", codes, &shape)?;
    }
    let others = |crop: usize| {
        let others = codes.iter().enumerate().filter(move |(assigned, _)| *assigned != crop);
        others.map(|(_, codes)| codes.detach()).reduce(|sum, codes| sum + codes)
    };
    let each = scores.iter().enumerate().filter_map(|(crop, scores)| {
        let codes = others(crop)?;
        let predicted = (scores.to_kind(kind_of(scores)) / temperature).log_softmax(1, None);
        Some(-(predicted * codes).sum_dim_intlist(1, false, None).mean(Kind::Double))
    });
    let pairs = codes.len() * (scores.len() - 1);
    match each.reduce(|sum, crop| sum + crop) {
        Some(sum) => Ok(sum / pairs as f64),
        None => unreachable!("of two crops one has to predict the other's codes"),
    }
}

/// Share of the prototypes that are some row's first choice, in (0, 1], of `scores` or codes `[B, K]`; at most B/K. Near
/// 1/K the codes have collapsed.
///
/// # Errors
/// [`Error::Shape`] unless there are rows and prototypes.
pub fn prototype_usage(scores: &Tensor) -> Result<f64> {
    check_scores("scores", scores, &[-1, -1])?;
    let chosen = scores.detach().argmax(1, false).bincount::<Tensor>(None, scores.size()[1]);
    Ok(chosen.gt(0).mean(Kind::Double).double_value(&[]))
}

fn check_scores(name: &str, scores: &Tensor, shape: &[i64]) -> Result<()> {
    check(name, scores, shape)?;
    if scores.numel() > 0 {
        return Ok(());
    }
    let found = scores.size();
    Err(Error::Shape(format!("`{name}` must have rows and prototypes, found shape {found:?}")))
}

fn above_0(name: &str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::Recipe(format!("`method.{name}` must be above 0, found `{value}`")))
}

fn kind_of(tensor: &Tensor) -> Kind {
    if tensor.kind() == Kind::Double { Kind::Double } else { Kind::Float }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::numeric::{distance, golden, leaf, normal, slopes};
    use tch::Device;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// Spec and authors' code, entry by entry in f64: `Q` is `[K, B]`.
    fn textbook(scores: &[Vec<f64>], epsilon: f64, iterations: u32) -> Vec<Vec<f64>> {
        let (rows, prototypes) = (scores.len(), scores[0].len());
        let mut q: Vec<Vec<f64>> = (0..prototypes)
            .map(|k| scores.iter().map(|row| (row[k] / epsilon).exp()).collect())
            .collect();
        let total: f64 = q.iter().flatten().sum();
        for value in q.iter_mut().flatten() {
            *value /= total;
        }
        for _ in 0..iterations {
            for row in &mut q {
                let sum: f64 = row.iter().sum();
                for value in row {
                    *value /= sum * prototypes as f64;
                }
            }
            for b in 0..rows {
                let sum: f64 = q.iter().map(|row| row[b]).sum();
                for row in &mut q {
                    row[b] /= sum * rows as f64;
                }
            }
        }
        (0..rows).map(|b| q.iter().map(|row| row[b] * rows as f64).collect()).collect()
    }

    fn nested(tensor: &Tensor) -> Vec<Vec<f64>> {
        Vec::try_from(&tensor.to_kind(Kind::Double)).unwrap()
    }

    fn flat(values: &[Vec<f64>]) -> Tensor {
        Tensor::from_slice(&values.concat()).view([values.len() as i64, -1])
    }

    #[test]
    fn published_codes_are_met() {
        let scores = Tensor::from_slice(&[1.0, 0.0, 0.5, 0.2, 0.9, 0.8]).view([3, 2]);
        let codes = sinkhorn(&scores, 0.5, 3).unwrap();
        let first = [0.748_487_0, 0.423_251_2, 0.329_722_4];
        let expected = first.map(|share| vec![share, 1.0 - share]);
        assert!(distance(&codes, &flat(&expected)) < 6e-8);
    }

    #[test]
    fn codes_equal_the_textbook_loop_for_any_iterations() {
        let scores = normal(1, &[9, 4]) * 0.3;
        for (epsilon, iterations) in [(0.05, 1), (0.05, 3), (0.5, 3), (0.2, 20)] {
            let expected = flat(&textbook(&nested(&scores), epsilon, iterations));
            let found = sinkhorn(&scores, epsilon, iterations).unwrap();
            assert!(distance(&found, &expected) < 1e-13, "{epsilon} {iterations}");
            let single = sinkhorn(&scores.to_kind(Kind::Float), epsilon, iterations).unwrap();
            assert_eq!(single.kind(), Kind::Float);
            assert!(distance(&single, &expected) < 1e-5, "{epsilon} {iterations}");
            let sums = found.sum_dim_intlist(1, false, None);
            assert!(distance(&sums, &Tensor::ones([9], CPU)) < 1e-14);
        }
        // Many iterations also use every prototype equally.
        let columns = sinkhorn(&scores, 0.2, 200).unwrap().sum_dim_intlist(0, false, None);
        assert!(distance(&columns, &(Tensor::ones([4], CPU) * 2.25)) < 1e-9);
    }

    #[test]
    fn without_iterations_the_codes_are_a_softmax() {
        let scores = normal(2, &[6, 5]);
        let expected = nested(&scores).into_iter().map(|row| {
            let powers: Vec<f64> = row.iter().map(|score| (score / 0.25).exp()).collect();
            let sum: f64 = powers.iter().sum();
            powers.into_iter().map(|power| power / sum).collect()
        });
        let expected: Vec<Vec<f64>> = expected.collect();
        assert!(distance(&sinkhorn(&scores, 0.25, 0).unwrap(), &flat(&expected)) < 1e-14);
    }

    #[test]
    fn codes_have_no_graph_and_survive_any_scores() {
        let scores = leaf(&(normal(3, &[8, 6]).to_kind(Kind::Float) * 1e4));
        let codes = sinkhorn(&scores, 0.05, 3).unwrap();
        assert!(!codes.requires_grad());
        assert!(bool::try_from(codes.isfinite().all()).unwrap());
        assert!(distance(&codes.sum_dim_intlist(1, false, None), &Tensor::ones([8], CPU)) < 1e-5);
        // A constant on all scores changes nothing.
        let scores = normal(4, &[8, 6]);
        let moved = sinkhorn(&(&scores + 3.0), 0.05, 3).unwrap();
        assert!(distance(&moved, &sinkhorn(&scores, 0.05, 3).unwrap()) < 1e-12);
    }

    #[test]
    fn loss_equals_the_textbook_loop() {
        for (crops, assigned) in [(2, 2), (2, 1), (5, 2), (3, 3)] {
            let scores: Vec<Tensor> = (0..crops).map(|c| normal(10 + c, &[4, 3])).collect();
            let codes: Vec<Tensor> =
                scores[..assigned].iter().map(|s| sinkhorn(s, 0.5, 3).unwrap()).collect();
            let mut expected = 0.0;
            for (a, codes) in codes.iter().enumerate() {
                for (_, scores) in scores.iter().enumerate().filter(|(c, _)| *c != a) {
                    for (code, row) in nested(codes).iter().zip(nested(scores)) {
                        let sum: f64 = row.iter().map(|score| (score / 0.1).exp()).sum();
                        let entropy = code.iter().zip(&row).map(|(q, s)| q * (s / 0.1 - sum.ln()));
                        let weight = 4.0 * assigned as f64 * (crops - 1) as f64;
                        expected -= entropy.sum::<f64>() / weight;
                    }
                }
            }
            let found = swapped_prediction(&scores, &codes, 0.1).unwrap().double_value(&[]);
            assert!((found / expected - 1.0).abs() < 1e-13, "{found}, not {expected}");
        }
    }

    #[test]
    fn codes_and_loss_equal_lightly() {
        let golden = golden();
        let scores = ["0", "1", "2", "3"].map(|crop| leaf(&golden[&format!("swapped.{crop}")]));
        let codes =
            scores[..2].iter().map(|scores| sinkhorn(scores, 0.05, 3).unwrap()).collect::<Vec<_>>();
        for (index, codes) in codes.iter().enumerate() {
            assert!(distance(codes, &golden[&format!("swapped.codes.{index}")]) < 1e-5);
        }
        let loss = swapped_prediction(&scores, &codes, 0.1).unwrap();
        assert!(distance(&loss, &golden["swapped.loss"]) < 1e-5);
        loss.backward();
        for (index, scores) in scores.iter().enumerate() {
            let expected = &golden[&format!("swapped.gradient.{index}")];
            assert!(distance(&scores.grad(), expected) < 1e-6, "{index}");
        }
        // With a queue before the batch only the batch's codes are kept.
        let queue = &golden["swapped.queue"];
        let both = sinkhorn(&Tensor::cat(&[queue, &scores[0]], 0), 0.05, 3).unwrap();
        let kept = both.narrow(0, queue.size()[0], scores[0].size()[0]);
        assert!(distance(&kept, &golden["swapped.queue.codes"]) < 1e-5);
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let leaves = [0, 1, 2].map(|crop| leaf(&normal(20 + crop, &[3, 4])));
        let codes = [0, 1].map(|crop| sinkhorn(&leaves[crop], 0.3, 3).unwrap());
        let loss = |scores: &[Tensor]| swapped_prediction(scores, &codes, 0.1).unwrap();
        loss(&leaves).backward();
        for (index, leaf) in leaves.iter().enumerate() {
            assert!(distance(&leaf.grad(), &slopes(&leaves, index, loss)) < 1e-7);
        }
    }

    #[test]
    fn equal_scores_cost_ln_of_the_prototypes() {
        let scores = [0, 1, 2].map(|_| Tensor::ones([4, 7], CPU));
        let codes = [0, 1].map(|crop: usize| sinkhorn(&scores[crop], 0.05, 3).unwrap());
        let found = swapped_prediction(&scores, &codes, 0.1).unwrap().double_value(&[]);
        assert!((found - 7.0_f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn half_precision_is_computed_in_f32() {
        let halves = [0, 1].map(|crop| normal(30 + crop, &[6, 5]).to_kind(Kind::BFloat16));
        let whole = halves.each_ref().map(|scores| scores.to_kind(Kind::Float));
        let codes = halves.each_ref().map(|scores| sinkhorn(scores, 0.05, 3).unwrap());
        assert_eq!(codes[0].kind(), Kind::Float);
        assert_eq!(codes[0], sinkhorn(&whole[0], 0.05, 3).unwrap());
        let loss = |scores: &[Tensor]| swapped_prediction(scores, &codes, 0.1).unwrap();
        assert_eq!(loss(&halves), loss(&whole));
    }

    #[test]
    fn usage_counts_the_prototypes_that_are_chosen() {
        let scores =
            Tensor::from_slice(&[0.9, 0.1, 0.0, 0.0, 0.8, 0.2, 0.1, 0.3, 0.1, 0.2, 0.3, 0.9]);
        let usage = |scores: &Tensor| prototype_usage(scores).unwrap();
        assert!((usage(&scores.view([3, 4])) - 0.5).abs() < 1e-15);
        assert!((usage(&Tensor::ones([9, 5], CPU)) - 0.2).abs() < 1e-15);
        assert!((usage(&Tensor::eye(6, CPU)) - 1.0).abs() < 1e-15);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (wide, narrow) = (Tensor::ones([2, 4], CPU), Tensor::ones([2, 3], CPU));
        let refused = |scores: &[&Tensor], codes: &[&Tensor], temperature| {
            let copy = |t: &[&Tensor]| t.iter().map(|t| t.shallow_clone()).collect::<Vec<_>>();
            swapped_prediction(&copy(scores), &copy(codes), temperature).unwrap_err().to_string()
        };
        assert!(refused(&[&wide], &[&wide], 0.1).contains("found 1 crops and 1 codes"));
        assert!(refused(&[&wide, &wide], &[], 0.1).contains("at least two crops"));
        assert!(refused(&[&wide, &wide], &[&wide; 3], 0.1).contains("found 2 crops and 3 codes"));
        let message = refused(&[&wide, &narrow], &[&wide], 0.1);
        assert_eq!(message, "`scores` must have shape [2, 4], found [2, 3]");
        let message = refused(&[&wide, &wide], &[&narrow], 0.1);
        assert_eq!(message, "`codes` must have shape [2, 4], found [2, 3]");
        let message = refused(&[&wide, &wide], &[&wide], 0.0);
        assert_eq!(message, "`method.temperature` must be above 0, found `0`");
        let message = sinkhorn(&wide, -1.0, 3).unwrap_err().to_string();
        assert_eq!(message, "`method.epsilon` must be above 0, found `-1`");
        let empty = Tensor::ones([0, 4], CPU);
        assert!(sinkhorn(&empty, 0.05, 3).unwrap_err().to_string().contains("found shape [0, 4]"));
        assert!(prototype_usage(&empty).is_err());
    }
}
