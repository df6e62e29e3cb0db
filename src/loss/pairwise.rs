//! What the losses over pairs of rows share: a term summed over the negatives of every anchor, semi-hard mining, and the
//! gradient of both, tile by tile.
//!
//! With unit rows ẑ of two views, scores `s_ij = ẑ_i·ẑ_j` and the partner's score `s⁺_i`, `Pairwise` evaluates
//!
//! ```text
//! P = Σ_i Σ_{j ∈ J_i} φ(s_ij, s⁺_i)
//! ```
//!
//! where `J_i` holds all negatives of anchor i, or the one that mining picked. It works on values, not on a graph: losses
//! join one by [`attach`](crate::loss::attach). Memory beside rows and gradient is a few tiles of `tile · 2N` scalars,
//! never `2N · 2N`.

use crate::loss::nt_xent::Agreement;
use crate::loss::semi_hard::SemiHard;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

/// Which rows an anchor is pushed away from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Negatives {
    /// The N - 1 rows of the other images in the other view (Chen et al. 2020, arXiv:2002.05709, §B.10).
    #[default]
    OneView,
    /// The 2N - 2 rows of the other images, as in NT-Xent.
    BothViews,
}

impl Negatives {
    /// What the sum over an anchor's negatives is divided by.
    pub(super) fn terms(self, reduction: NegativeReduction, images: i64) -> i64 {
        match (reduction, self) {
            (NegativeReduction::Sum, _) => 1,
            (NegativeReduction::Mean, Self::OneView) => (images - 1).max(1),
            (NegativeReduction::Mean, Self::BothViews) => (2 * images - 2).max(1),
        }
    }
}

/// How the terms of an anchor's negatives become one number; with semi-hard mining there is only one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NegativeReduction {
    /// Their mean, of the size of the positive's term at any batch size.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

/// φ, what a negative costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Term {
    /// `-ln σ(-s / τ)`.
    Logistic {
        /// τ, above 0.
        temperature: f64,
    },
    /// `max(s - s⁺ + m, 0)`.
    Hinge {
        /// m on cosines.
        margin: f64,
    },
}

impl Term {
    /// φ; 0 for a score of minus infinity, which is how a column is left out.
    fn value(self, scores: &Tensor, positives: &Tensor) -> Tensor {
        match self {
            Self::Logistic { temperature } => -(scores / -temperature).log_sigmoid(),
            Self::Hinge { margin } => (scores - positives + margin).relu(),
        }
    }

    /// ∂φ/∂s.
    fn slope(self, scores: &Tensor, positives: &Tensor) -> Tensor {
        match self {
            Self::Logistic { temperature } => (scores / temperature).sigmoid() / temperature,
            Self::Hinge { margin } => (scores - positives + margin).gt(0.0).to_kind(scores.kind()),
        }
    }
}

/// Rows of two views and what to sum over their pairs; see the module for the formula.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pairwise<'a> {
    /// ẑ, `[2N, d]`: unit rows of the first views of all N images, then of the second; f32 or f64.
    pub(super) unit: &'a Tensor,
    /// Which rows are an anchor's negatives.
    pub(super) negatives: Negatives,
    /// φ.
    pub(super) term: Term,
    /// One negative per anchor instead of all.
    pub(super) semi_hard: Option<SemiHard>,
    /// Rows handled at once, at least 1; see [`default_tile`](crate::loss::tiled::default_tile). Changes the last bits of
    /// a result, never more.
    pub(super) tile: i64,
}

/// What [`Pairwise::evaluate`] finds.
#[derive(Debug)]
pub(super) struct Summed {
    /// P.
    pub(super) sum: f64,
    /// ∂P/∂ẑ, `[2N, d]`, without a graph; through the positives' scores too.
    pub(super) gradient: Tensor,
    /// Anchors whose `J_i` is not empty.
    pub(super) anchors: i64,
    /// Anchors with a semi-hard negative; 0 without mining.
    pub(super) semi_hard: i64,
}

impl Pairwise<'_> {
    /// Evaluates the formula of the module and its gradient in one sweep of three matrix products per tile. Negatives
    /// are picked on values: no gradient flows through the choice. Nothing is summed in an order that depends on threads.
    pub(super) fn evaluate(&self) -> Summed {
        no_grad(|| self.sweep())
    }

    fn sweep(&self) -> Summed {
        let images = self.unit.size()[0] / 2;
        let gradient = self.unit.zeros_like();
        let zero = || Tensor::zeros([], (Kind::Double, self.unit.device()));
        let [mut sum, mut anchors, mut semi_hard] = [(); 3].map(|()| zero());
        for view in 0..2 {
            let (own, other) = (view * images, (1 - view) * images);
            let (first, count) = match self.negatives {
                Negatives::OneView => (other, images),
                Negatives::BothViews => (0, 2 * images),
            };
            let columns = self.unit.narrow(0, first, count);
            for start in (0..images).step_by(self.tile as usize) {
                let size = self.tile.min(images - start);
                let rows = self.unit.narrow(0, own + start, size);
                let mut scores = rows.mm(&columns.tr()); // [size, count]
                let partners = |tile: &Tensor| diagonal(tile, other - first + start, size);
                let positives = partners(&scores).copy().unsqueeze(1);
                let _ = partners(&scores).fill_(f64::NEG_INFINITY);
                if self.negatives == Negatives::BothViews {
                    let _ = diagonal(&scores, own + start, size).fill_(f64::NEG_INFINITY);
                }

                let slopes = if let Some(mining) = self.semi_hard {
                    let picked = mining.pick(&scores, &positives);
                    anchors += picked.score.gt(f64::NEG_INFINITY).sum(Kind::Double);
                    semi_hard += picked.semi_hard.sum(Kind::Double);
                    sum += self.term.value(&picked.score, &positives).sum(Kind::Double);
                    let slope = self.term.slope(&picked.score, &positives);
                    scores.zero_().scatter_(1, &picked.column, &slope)
                } else {
                    anchors += if images > 1 { size } else { 0 };
                    sum += self.term.value(&scores, &positives).sum(Kind::Double);
                    self.term.slope(&scores, &positives)
                };
                if matches!(self.term, Term::Hinge { .. }) {
                    partners(&slopes).copy_(&-slopes.sum_dim_intlist(1, false, None));
                }
                let _ = gradient.narrow(0, own + start, size).addmm_(&slopes, &columns);
                let _ = gradient.narrow(0, first, count).addmm_(&slopes.tr(), &rows);
            }
        }
        let count = |total: &Tensor| total.double_value(&[]) as i64;
        Summed {
            sum: sum.double_value(&[]),
            gradient,
            anchors: count(&anchors),
            semi_hard: count(&semi_hard),
        }
    }
}

/// The elements `[r, first + r]` of a tile, as a view.
fn diagonal(tile: &Tensor, first: i64, size: i64) -> Tensor {
    tile.narrow(1, first, size).diagonal(0, 0, 1)
}

/// A loss over pairs, and what is worth logging about it.
#[derive(Debug)]
pub struct Evaluated {
    /// The loss, a f64 scalar with the graph of the projections.
    pub loss: Tensor,
    /// How well the two views find each other.
    pub agreement: Agreement,
    /// Share of the 2N anchors with a semi-hard negative, if that was asked for.
    pub semi_hard_share: Option<f64>,
}

#[cfg(test)]
pub(super) mod testing;

#[cfg(test)]
mod tests {
    use super::testing::{normal, published};
    use super::*;
    use crate::loss::semi_hard::Empty;
    use crate::rows::unit_rows;

    #[test]
    fn published_terms_are_met() {
        let at = |value: f64| Tensor::from_slice(&[value]);
        let logistic = Term::Logistic { temperature: 0.5 };
        let push = logistic.value(&at(0.3), &at(0.8)).double_value(&[0]);
        let pull = logistic.value(&at(-0.8), &at(0.8)).double_value(&[0]);
        assert!((pull + push - 1.221_388_691_4).abs() < 1e-10);
        let hinge = |margin| Term::Hinge { margin }.value(&at(0.3), &at(0.8)).double_value(&[0]);
        assert!((hinge(0.8) - 0.3).abs() < 1e-15);
        assert!(hinge(0.4).abs() < 1e-15);
    }

    #[test]
    fn gradients_are_the_columns_of_the_paper_s_table() {
        // Each row is an anchor, and just so a negative of one anchor and the positive of another: all comes twice.
        let unit = published();
        let (positives, negatives) = (unit.roll(2, 0), unit.flip([0]));
        let sum = |term| {
            Pairwise { unit: &unit, negatives: Negatives::OneView, term, semi_hard: None, tile: 1 }
                .evaluate()
        };
        let close = |found: &Tensor, expected: &Tensor| {
            assert!((found - expected).abs().max().double_value(&[]) < 1e-14);
        };
        let found = sum(Term::Logistic { temperature: 0.5 });
        let sigmoid = 1.0 / (1.0 + f64::exp(-0.3 / 0.5));
        close(&found.gradient, &(&negatives * (2.0 * sigmoid / 0.5)));
        let found = sum(Term::Hinge { margin: 0.8 });
        assert!((found.sum - 4.0 * 0.3).abs() < 1e-14);
        close(&found.gradient, &((&negatives - &positives) * 2.0));
        let found = sum(Term::Hinge { margin: 0.4 });
        assert_eq!((found.sum, found.anchors), (0.0, 4));
        close(&found.gradient, &unit.zeros_like());
    }

    #[test]
    fn the_tile_changes_nothing() {
        let unit = unit_rows(&normal(1, 22, 6));
        for term in [Term::Logistic { temperature: 0.3 }, Term::Hinge { margin: 0.5 }] {
            for (negatives, _, semi_hard) in testing::choices(0.3) {
                let with =
                    |tile| Pairwise { unit: &unit, negatives, term, semi_hard, tile }.evaluate();
                let expected = with(100);
                for tile in [1, 3, 11] {
                    let found = with(tile);
                    assert!((found.sum - expected.sum).abs() < 1e-11);
                    let off = (found.gradient - &expected.gradient).abs().max().double_value(&[]);
                    assert!(off < 1e-12, "{off}");
                    assert_eq!(found.anchors, expected.anchors);
                    assert_eq!(found.semi_hard, expected.semi_hard);
                }
            }
        }
    }

    #[test]
    fn the_same_batch_gives_the_same_bits() {
        let unit = unit_rows(&normal(7, 600, 32).to_kind(Kind::Float));
        let semi_hard = Some(SemiHard { margin: 0.3, empty: Empty::Hardest });
        for term in [Term::Logistic { temperature: 0.1 }, Term::Hinge { margin: 0.4 }] {
            let negatives = Negatives::BothViews;
            let pairs = Pairwise { unit: &unit, negatives, term, semi_hard, tile: 128 };
            let first = pairs.evaluate();
            for _ in 0..3 {
                let again = pairs.evaluate();
                assert_eq!((again.sum, &again.gradient), (first.sum, &first.gradient));
            }
        }
    }
}
