//! Losses: pure functions of projections.

pub mod cosine;
pub mod cross_entropy;
pub mod decoupled;
pub mod generalized;
pub mod info_nce;
pub mod instance;
pub mod logistic;
pub mod nt_xent;
pub mod pairwise;
pub mod redundancy;
pub mod semi_hard;
pub mod sliced_wasserstein;
pub mod sup_con;
pub mod swapped;
pub mod tiled;
pub mod triplet;
pub mod two_views;

#[cfg(test)]
mod numeric;

use tch::{Kind, Tensor};

/// A scalar (f64) of this value whose gradient for each input is the one given: how a loss that works out its own gradient
/// joins a graph and adds to other losses. `parts` are pairs of an input and ∂value/∂input, of one shape.
pub fn attach(value: f64, parts: &[(&Tensor, &Tensor)]) -> Tensor {
    let slope = |(input, gradient): &(&Tensor, &Tensor)| {
        (*input * gradient.detach()).sum(None).to_kind(Kind::Double)
    };
    let total = parts.iter().map(slope).reduce(|sum, part| sum + part);
    match total {
        Some(total) => &total - total.detach() + value,
        None => Tensor::from(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attached_value_adds_to_a_graph_with_its_own_gradient() {
        let leaf = Tensor::from_slice(&[1.0, 2.0]).set_requires_grad(true);
        let (doubled, halved) = (&leaf * 2.0, &leaf * 0.5);
        let gradients = [Tensor::from_slice(&[3.0, 5.0]), Tensor::from_slice(&[7.0, 11.0])];
        let loss = attach(0.1, &[(&doubled, &gradients[0]), (&halved, &gradients[1])]);
        assert!((loss.double_value(&[]) - 0.1).abs() < 1e-15);
        (loss * 10.0 + leaf.square().sum(None)).backward();
        let expected = [10.0 * (6.0 + 3.5) + 2.0, 10.0 * (10.0 + 5.5) + 4.0];
        assert_eq!(Vec::<f64>::try_from(leaf.grad()).unwrap(), expected);
        assert!((attach(0.25, &[]).double_value(&[]) - 0.25).abs() < 1e-15);
    }
}
