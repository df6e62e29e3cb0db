//! Losses that pull a prediction to the other view's projection and push nothing away: SimSiam and BYOL.

use crate::error::Result;
use crate::rows::unit_rows;
use crate::shape::check;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// What BYOL's loss is multiplied with and begins at. It matters under SGD, where the gradient of one is 4 times that of
/// the other, and hardly under LARS, which adapts to the gradient's length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// `mean(4 - 2 cos₁ - 2 cos₂)`, in [0, 8]: the authors' code, the sum of both directions' squared distances.
    #[default]
    Official,
    /// `-½ mean(cos₁ + cos₂)`, in [-1, 1]: lightly and the code of the guided stop-gradient, SimSiam's form.
    CosineHalf,
}

/// `D(p, z) = -p̂·ẑ` of every row (Chen and He 2020, arXiv:2011.10566, Eq. 1), `x̂ = x / max(‖x‖, 1e-12)`: `[N]`, each in
/// [-1, 1], from `predictions` and `targets` of one shape `[N, d]`, not normalised; in f32, or f64 for f64 input.
///
/// With `stop_gradient` no gradient reaches the targets, which is what keeps a network without negatives from
/// collapsing (§4.1); without it the collapse can be shown.
///
/// # Errors
/// [`Error::Shape`](crate::error::Error::Shape) unless both have one shape `[N, d]`.
pub fn negative_cosine(
    predictions: &Tensor,
    targets: &Tensor,
    stop_gradient: bool,
) -> Result<Tensor> {
    check("predictions", predictions, &[-1, -1])?;
    check("targets", targets, &predictions.size())?;
    let targets = if stop_gradient { targets.detach() } else { targets.shallow_clone() };
    Ok(-(unit_rows(predictions) * unit_rows(&targets)).sum_dim_intlist(1, false, None))
}

/// SimSiam's loss, `½ mean D(p₁, z₂) + ½ mean D(p₂, z₁)` (arXiv:2011.10566, Eq. 2 and 4), in [-1, 1]: a scalar (f64) from
/// the predictions and the projections of both views, each `[N, d]`. It is -1 where the network fits, and where it has
/// collapsed: watch the deviation of ẑ. `stop_gradient` as in [`negative_cosine`].
///
/// # Errors
/// [`Error::Shape`](crate::error::Error::Shape) unless all four have one shape `[N, d]`.
pub fn simsiam(
    predictions: [&Tensor; 2],
    projections: [&Tensor; 2],
    stop_gradient: bool,
) -> Result<Tensor> {
    check("projections", projections[0], &projections[1].size())?;
    let first = negative_cosine(predictions[0], projections[1], stop_gradient)?;
    let second = negative_cosine(predictions[1], projections[0], stop_gradient)?;
    Ok((first.mean(Kind::Double) + second.mean(Kind::Double)) * 0.5)
}

/// BYOL's loss, `mean_i ‖p̂₁ - ẑ′₂‖² + ‖p̂₂ - ẑ′₁‖²` (Grill et al. 2020, arXiv:2006.07733, Eq. 2, both directions), or its
/// other [`Scale`]: a scalar (f64) from the online network's predictions and the target network's projections of both
/// views, each `[N, d]`. `stop_gradient` as in [`negative_cosine`]; targets computed without a graph need none.
///
/// The authors' code takes a squared length to be at least 1e-12, here a length is: rows shorter than 1e-6 differ.
///
/// # Errors
/// [`Error::Shape`](crate::error::Error::Shape) unless all four have one shape `[N, d]`.
pub fn byol(
    predictions: [&Tensor; 2],
    targets: [&Tensor; 2],
    scale: Scale,
    stop_gradient: bool,
) -> Result<Tensor> {
    let cosine = simsiam(predictions, targets, stop_gradient)?;
    Ok(scale.of(&cosine))
}

impl Scale {
    /// The loss of this scale from SimSiam's, in [-1, 1].
    pub fn of(self, cosine: &Tensor) -> Tensor {
        match self {
            Self::Official => cosine * 4.0 + 4.0,
            Self::CosineHalf => cosine.shallow_clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::numeric::{distance, golden, leaf, normal, slopes};
    use tch::Device;

    fn rows(seed: u64, kind: Kind) -> [Tensor; 4] {
        [0, 1, 2, 3].map(|index| normal(seed * 10 + index, &[5, 3]).to_kind(kind))
    }

    fn appendix() -> [Tensor; 2] {
        let z1 = Tensor::from_slice(&[1.0, 0.0, 0.0, 1.0]).view([2, 2]);
        [z1, Tensor::from_slice(&[1.0, 1.0, -1.0, 1.0]).view([2, 2])]
    }

    #[test]
    fn published_vectors_are_met() {
        let [z1, z2] = appendix();
        let value = simsiam([&z1, &z2], [&z1, &z2], true).unwrap();
        assert!((value.double_value(&[]) + std::f64::consts::FRAC_1_SQRT_2).abs() < 1e-10);
        let official = byol([&z1, &z2], [&z1, &z2], Scale::Official, true).unwrap();
        assert!((official.double_value(&[]) - 1.171_572_875_3).abs() < 1e-10);
        let half = byol([&z1, &z2], [&z1, &z2], Scale::CosineHalf, true).unwrap();
        assert_eq!(half, value);
    }

    #[test]
    fn both_losses_equal_the_textbook_loop() {
        let [p1, p2, z1, z2] = rows(1, Kind::Double);
        let values = [&p1, &p2, &z1, &z2].map(|t| Vec::<Vec<f64>>::try_from(t).unwrap());
        let length = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
        let (mut cosine, mut squares) = (0.0, 0.0);
        for (p, z) in [(&values[0], &values[3]), (&values[1], &values[2])] {
            for (p, z) in p.iter().zip(z) {
                let dot: f64 = p.iter().zip(z).map(|(p, z)| p * z).sum();
                cosine -= dot / length(p) / length(z) / 10.0;
                let away = p.iter().zip(z).map(|(a, b)| (a / length(p) - b / length(z)).powi(2));
                squares += away.sum::<f64>() / 5.0;
            }
        }
        let found = simsiam([&p1, &p2], [&z1, &z2], true).unwrap().double_value(&[]);
        assert!((found - cosine).abs() < 1e-14);
        let found = byol([&p1, &p2], [&z1, &z2], Scale::Official, true).unwrap();
        assert!((found.double_value(&[]) - squares).abs() < 1e-13);
    }

    #[test]
    fn values_and_gradients_equal_the_golden_arrays() {
        let golden = golden();
        let [p1, p2, z1, z2] =
            ["p1", "p2", "z1", "z2"].map(|name| leaf(&golden[&format!("cosine.{name}")]));
        let row = negative_cosine(&p1, &z2, true).unwrap();
        assert!(distance(&row, &golden["cosine.rows"]) < 1e-6);
        // lightly's class, whose floor of the length is 1e-8.
        let loss = simsiam([&p1, &p2], [&z1, &z2], true).unwrap();
        assert!(distance(&loss, &golden["cosine.simsiam"]) < 1e-6);
        loss.backward();
        assert!(distance(&p1.grad(), &golden["cosine.simsiam.p1"]) < 1e-7);
        assert!(distance(&p2.grad(), &golden["cosine.simsiam.p2"]) < 1e-7);
        let (p1, p2) = (leaf(&p1), leaf(&p2));
        let loss = byol([&p1, &p2], [&z1, &z2], Scale::Official, true).unwrap();
        assert!(distance(&loss, &golden["cosine.byol"]) < 1e-6);
        loss.backward();
        assert!(distance(&p1.grad(), &golden["cosine.byol.p1"]) < 1e-6);
    }

    #[test]
    fn gradients_are_the_slopes_and_stop_at_the_targets() {
        for stop in [true, false] {
            let leaves = rows(2, Kind::Double).map(|rows| leaf(&rows));
            let loss = |rows: &[Tensor]| {
                let [p1, p2, z1, z2] = rows else { unreachable!() };
                byol([p1, p2], [z1, z2], Scale::Official, stop).unwrap()
            };
            loss(&leaves).backward();
            for (index, leaf) in leaves.iter().enumerate() {
                if stop && index >= 2 {
                    assert!(!leaf.grad().defined(), "a gradient reached the targets");
                } else {
                    assert!(distance(&leaf.grad(), &slopes(&leaves, index, loss)) < 1e-8);
                }
            }
        }
    }

    #[test]
    fn length_does_not_matter_and_a_row_of_zeros_stays_finite() {
        let [p, _, z, _] = rows(3, Kind::Double);
        let expected = negative_cosine(&p, &z, true).unwrap();
        let found = negative_cosine(&(&p * 7.0), &(&z * 1e-3), true).unwrap();
        assert!(distance(&found, &expected) < 1e-14);
        let zeros = leaf(&Tensor::zeros([5, 3], (Kind::Float, Device::Cpu)));
        let value = negative_cosine(&zeros, &zeros, false).unwrap();
        assert_eq!(value, Tensor::zeros([5], (Kind::Float, Device::Cpu)));
        value.sum(None).backward();
        assert!(bool::try_from(zeros.grad().isfinite().all()).unwrap());
    }

    #[test]
    fn half_precision_is_computed_in_f32() {
        let [p, _, z, _] = rows(4, Kind::BFloat16);
        let found = negative_cosine(&p, &z, true).unwrap();
        assert_eq!(found.kind(), Kind::Float);
        let whole = [&p, &z].map(|rows| rows.to_kind(Kind::Float));
        assert_eq!(found, negative_cosine(&whole[0], &whole[1], true).unwrap());
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let [wide, narrow] = [4, 3].map(|d| Tensor::zeros([2, d], (Kind::Float, Device::Cpu)));
        let message = negative_cosine(&wide, &narrow, true).unwrap_err().to_string();
        assert_eq!(message, "`targets` must have shape [2, 4], found [2, 3]");
        assert!(simsiam([&wide, &wide], [&wide, &narrow], true).is_err());
        assert!(negative_cosine(&wide.flatten(0, 1), &wide, true).is_err());
    }
}
