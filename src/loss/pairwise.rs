//! What the losses over pairs of rows share: a term summed over the negatives of every anchor, semi-hard mining, and the
//! gradient of both, tile by tile.
//!
//! With unit rows ẑ of two views, scores `s_ij = ẑ_i·ẑ_j` and the partner's score `s⁺_i`, [`Pairwise`] evaluates
//!
//! ```text
//! P = Σ_i Σ_{j ∈ J_i} φ(s_ij, s⁺_i)
//! ```
//!
//! where `J_i` holds all negatives of anchor i, or the one that mining picked. It works on values, not on a graph: losses
//! join one by [`attach`](crate::loss::attach). Memory beside rows and gradient is a few tiles of `tile · 2N` scalars,
//! never `2N · 2N`.

use crate::error::{Error, Result};
use crate::shape::check;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

/// Rows shorter than this are divided by it instead of by their length.
const SHORTEST: f64 = 1e-12;

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

/// What becomes of an anchor without a semi-hard negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Empty {
    /// It has no negative.
    #[default]
    Skip,
    /// Its closest negative is taken, wherever that is.
    Hardest,
}

impl Empty {
    /// Refuses the setting where there is no mining to read it; `key` is the loss's table in the recipe, `method.loss`.
    pub(super) fn check_unused(self, key: &str) -> Result<()> {
        match self {
            Self::Skip => Ok(()),
            Self::Hardest => Err(Error::Recipe(format!(
                "`{key}.empty` is about anchors without a semi-hard negative and needs `{key}.semi_hard = true`"
            ))),
        }
    }
}

/// Semi-hard mining (Schroff et al. 2015, arXiv:1503.03832, §3.2, where it is drawn at random): of an anchor's negatives the closest one that lies
/// strictly within the margin but strictly further away than the positive, `s⁺ - m < s⁻ < s⁺`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SemiHard {
    /// m on cosines, at least 0; above 2, infinity included, any negative less similar than the positive will do.
    pub margin: f64,
    /// What becomes of an anchor without a candidate.
    pub empty: Empty,
}

impl SemiHard {
    /// Checks the margin; `key` is its name in the recipe, `method.loss.margin`.
    pub(super) fn check(self, key: &str) -> Result<()> {
        let least = if self.empty == Empty::Skip { "above 0" } else { "at least 0" };
        if self.margin > 0.0 || self.margin == 0.0 && self.empty == Empty::Hardest {
            return Ok(());
        }
        Err(Error::Recipe(format!(
            "`{key}` must be {least}, or no negative lies within it, found `{}`",
            self.margin
        )))
    }
}

/// φ, what a negative costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Term {
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
pub struct Pairwise<'a> {
    /// ẑ, `[2N, d]`: unit rows of the first views of all N images, then of the second; f32 or f64.
    pub unit: &'a Tensor,
    /// Which rows are an anchor's negatives.
    pub negatives: Negatives,
    /// φ.
    pub term: Term,
    /// One negative per anchor instead of all.
    pub semi_hard: Option<SemiHard>,
    /// Rows handled at once, at least 1; see [`default_tile`](crate::loss::tiled::default_tile). Changes the last bits of
    /// a result, never more.
    pub tile: i64,
}

/// What [`Pairwise::evaluate`] finds.
#[derive(Debug)]
pub struct Summed {
    /// P.
    pub sum: f64,
    /// ∂P/∂ẑ, `[2N, d]`, without a graph; through the positives' scores too.
    pub gradient: Tensor,
    /// Anchors whose `J_i` is not empty.
    pub anchors: i64,
    /// Anchors with a semi-hard negative; 0 without mining.
    pub semi_hard: i64,
}

impl Pairwise<'_> {
    /// Evaluates the formula of the module and its gradient in one sweep of three matrix products per tile. Negatives
    /// are picked on values: no gradient flows through the choice. Nothing is summed in an order that depends on threads.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is an even number of rows, at least two.
    pub fn evaluate(&self) -> Result<Summed> {
        check_two_views(self.unit)?;
        assert!(self.tile > 0, "the tile is checked before");
        Ok(no_grad(|| self.sweep()))
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

/// One negative per row of a tile, each `[tile, 1]`.
struct Picked {
    /// Its score, minus infinity where there is none.
    score: Tensor,
    /// Its column.
    column: Tensor,
    /// Whether it is semi-hard.
    semi_hard: Tensor,
}

impl SemiHard {
    /// Picks from `scores` `[tile, columns]`, where columns that are no negatives hold minus infinity.
    fn pick(self, scores: &Tensor, positives: &Tensor) -> Picked {
        let lowest = positives - self.margin;
        let outside = scores.ge_tensor(positives).logical_or_(&scores.le_tensor(&lowest));
        let (mut score, mut column) =
            scores.masked_fill(&outside, f64::NEG_INFINITY).max_dim(1, true);
        let semi_hard = score.gt(f64::NEG_INFINITY);
        if self.empty == Empty::Hardest {
            let (hardest, its_column) = scores.max_dim(1, true);
            score = score.where_self(&semi_hard, &hardest);
            column = column.where_self(&semi_hard, &its_column);
        }
        Picked { score, column, semi_hard }
    }
}

/// The elements `[r, first + r]` of a tile, as a view.
fn diagonal(tile: &Tensor, first: i64, size: i64) -> Tensor {
    tile.narrow(1, first, size).diagonal(0, 0, 1)
}

/// How alike the rows of a batch are, for the log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Similarities {
    /// Share of the first view's rows whose own second view is strictly the closest of all second views, in [0, 1]; 0 for
    /// a collapsed network. As in SimCLR's code, rows of the same view do not compete.
    pub contrastive_accuracy: f64,
    /// Mean cosine between the two views of an image.
    pub positive: f64,
    /// Mean cosine between rows of different images, of both views; 0 for a batch of one, which has none.
    pub negative: f64,
}

impl Similarities {
    /// Of unit rows `[2N, d]`, first views then second views, `tile` rows at a time.
    pub fn of(unit: &Tensor, tile: i64) -> Self {
        no_grad(|| {
            let unit = unit.detach();
            let images = unit.size()[0] / 2;
            let (first, second) = (unit.narrow(0, 0, images), unit.narrow(0, images, images));
            let mut hits = Tensor::zeros([], (Kind::Double, unit.device()));
            for start in (0..images).step_by(tile as usize) {
                let size = tile.min(images - start);
                let scores = first.narrow(0, start, size).mm(&second.tr());
                let own = diagonal(&scores, start, size).copy();
                let _ = diagonal(&scores, start, size).fill_(f64::NEG_INFINITY);
                hits += own.gt_tensor(&scores.amax(1, false)).sum(Kind::Double);
            }
            let sum = |tensor: &Tensor| tensor.sum(Kind::Double).double_value(&[]);
            let count = images as f64;
            let pairs = sum(&(&first * &second));
            let everything = sum(&unit.sum_dim_intlist(0, false, Kind::Double).square());
            let others = everything - sum(&unit.square()) - 2.0 * pairs;
            Self {
                contrastive_accuracy: sum(&hits) / count,
                positive: pairs / count,
                negative: if images == 1 { 0.0 } else { others / (4.0 * count * (count - 1.0)) },
            }
        })
    }
}

/// A loss over pairs, and what is worth logging about it.
#[derive(Debug)]
pub struct Evaluated {
    /// The loss, a f64 scalar with the graph of the projections.
    pub loss: Tensor,
    /// How alike the rows are.
    pub similarities: Similarities,
    /// Share of the 2N anchors with a semi-hard negative, if that was asked for.
    pub semi_hard_share: Option<f64>,
}

/// An even number of rows, at least two.
pub(super) fn check_two_views(rows: &Tensor) -> Result<()> {
    check("projections", rows, &[-1, -1])?;
    let count = rows.size()[0];
    if count >= 2 && count % 2 == 0 {
        return Ok(());
    }
    Err(Error::Shape(format!(
        "`projections` must hold two views of every image, found {count} rows"
    )))
}

/// A temperature above 0.
pub(super) fn check_temperature(temperature: f64) -> Result<()> {
    if temperature > 0.0 && temperature.is_finite() {
        return Ok(());
    }
    Err(Error::Recipe(format!("`method.temperature` must be above 0, found `{temperature}`")))
}

/// `rows / max(‖row‖, 1e-12)` with its graph, in f32, or f64 for f64 input.
pub(super) fn unit_rows(rows: &Tensor) -> Tensor {
    let rows = single_or_double(rows);
    &rows / rows.norm_scalaropt_dim(2.0, [1_i64], true).clamp_min(SHORTEST)
}

/// The same values in f32, unless they are f64.
pub(super) fn single_or_double(rows: &Tensor) -> Tensor {
    rows.to_kind(if rows.kind() == Kind::Double { Kind::Double } else { Kind::Float })
}

/// What the tests of the losses over pairs share.
#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::random::{Purpose, Scope, Stream};

    pub(crate) fn normal(item: u64, rows: i64, width: i64) -> Tensor {
        let mut stream = Stream::open(17, Purpose::Test, Scope::Item(item));
        let values: Vec<f64> = (0..rows * width).map(|_| stream.normal()).collect();
        Tensor::from_slice(&values).view([rows, width])
    }

    pub(crate) fn rows_of(tensor: &Tensor) -> Vec<Vec<f64>> {
        Vec::<Vec<f64>>::try_from(tensor.detach().to_kind(Kind::Double)).unwrap()
    }

    pub(crate) fn gradient_of(rows: &Tensor, loss: impl Fn(&Tensor) -> Tensor) -> Tensor {
        let leaf = rows.detach().copy().set_requires_grad(true);
        loss(&leaf).backward();
        leaf.grad()
    }

    /// Holds a gradient to central differences of a scalar function of the rows.
    pub(crate) fn slopes_agree(
        value: impl Fn(&[Vec<f64>]) -> f64,
        rows: &Tensor,
        gradient: &Tensor,
    ) {
        let step = 1e-6;
        let rows = rows_of(rows);
        for (i, k) in (0..rows.len()).flat_map(|i| (0..rows[0].len()).map(move |k| (i, k))) {
            let moved = |by: f64| {
                let mut moved = rows.clone();
                moved[i][k] += by;
                value(&moved)
            };
            let slope = (moved(step) - moved(-step)) / (2.0 * step);
            let found = gradient.double_value(&[i as i64, k as i64]);
            assert!((found - slope).abs() < 1e-8, "[{i}, {k}]: {found} against {slope}");
        }
    }

    /// The definitions of the two losses, loop by loop: the loss and the share of anchors with a semi-hard negative.
    pub(crate) struct Naive {
        pub(crate) negatives: Negatives,
        pub(crate) reduction: NegativeReduction,
        pub(crate) term: Term,
        pub(crate) semi_hard: Option<SemiHard>,
    }

    impl Naive {
        pub(crate) fn evaluate(&self, rows: &[Vec<f64>]) -> (f64, f64) {
            let (all, n) = (rows.len(), rows.len() / 2);
            let score = |i: usize, j: usize| {
                let dot =
                    |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
                let length = |i: usize| dot(&rows[i], &rows[i]).sqrt();
                dot(&rows[i], &rows[j]) / length(i) / length(j)
            };
            let (mut total, mut anchors, mut found) = (0.0, 0, 0);
            for i in 0..all {
                let partner = (i + n) % all;
                let positive = score(i, partner);
                let mut chosen: Vec<f64> = (0..all)
                    .filter(|j| *j % n != i % n)
                    .filter(|j| self.negatives == Negatives::BothViews || j / n != i / n)
                    .map(|j| score(i, j))
                    .collect();
                if let Some(mining) = self.semi_hard {
                    chosen.sort_by(|a, b| b.total_cmp(a));
                    let inside = |s: &&f64| **s < positive && **s > positive - mining.margin;
                    let closest = chosen.iter().find(inside).copied();
                    found += usize::from(closest.is_some());
                    chosen = match (closest, mining.empty) {
                        (Some(closest), _) => vec![closest],
                        (None, Empty::Hardest) => chosen[..1].to_vec(),
                        (None, Empty::Skip) => vec![],
                    };
                }
                let mut push: f64 = chosen.iter().map(|s| self.term_of(*s, positive)).sum();
                if self.reduction == NegativeReduction::Mean && !chosen.is_empty() {
                    push /= chosen.len() as f64;
                }
                total += push;
                match self.term {
                    Term::Logistic { temperature } => {
                        total += (1.0 + (-positive / temperature).exp()).ln();
                        anchors += 1;
                    }
                    Term::Hinge { .. } => anchors += usize::from(!chosen.is_empty()),
                }
            }
            (total / anchors.max(1) as f64, found as f64 / all as f64)
        }

        fn term_of(&self, score: f64, positive: f64) -> f64 {
            match self.term {
                Term::Logistic { temperature } => (1.0 + (score / temperature).exp()).ln(),
                Term::Hinge { margin } => (score - positive + margin).max(0.0),
            }
        }
    }

    /// Every way to choose negatives: which, how they are reduced, and with or without mining of a margin.
    pub(crate) fn choices(
        margin: f64,
    ) -> impl Iterator<Item = (Negatives, NegativeReduction, Option<SemiHard>)> {
        let mined = |empty| Some(SemiHard { margin, empty });
        let minings = [None, mined(Empty::Skip), mined(Empty::Hardest)];
        [Negatives::OneView, Negatives::BothViews].into_iter().flat_map(move |negatives| {
            [NegativeReduction::Mean, NegativeReduction::Sum].into_iter().flat_map(
                move |reduction| {
                    minings.into_iter().map(move |mining| (negatives, reduction, mining))
                },
            )
        })
    }

    /// Two images of which every row has its partner at cosine 0.8 and the other image's other view at 0.3.
    pub(crate) fn published() -> Tensor {
        let rest = f64::sqrt(1.0 - 0.73);
        let axes = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0];
        let views = [0.8, 0.3, rest, 0.0, 0.3, 0.8, 0.0, rest];
        Tensor::from_slice(&[axes, views].concat()).view([4, 4])
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{normal, published};
    use super::*;
    use tch::Device;

    /// One row of scores, as mining sees it.
    fn pick(margin: f64, empty: Empty, positive: f64, negatives: &[f64]) -> (f64, i64, bool) {
        let scores = Tensor::from_slice(negatives).unsqueeze(0);
        let positives = Tensor::from_slice(&[positive]).unsqueeze(1);
        let found = SemiHard { margin, empty }.pick(&scores, &positives);
        (
            found.score.double_value(&[]),
            found.column.int64_value(&[]),
            found.semi_hard.int64_value(&[]) == 1,
        )
    }

    #[test]
    fn the_closest_negative_strictly_inside_the_margin_is_picked() {
        let skip =
            |margin, positive, negatives: &[f64]| pick(margin, Empty::Skip, positive, negatives);
        assert_eq!(skip(0.4, 0.6, &[0.1, 0.25, 0.55, 0.7]), (0.55, 2, true));
        // Both ends are open: exact binary fractions at the ends.
        assert_eq!(skip(0.25, 0.75, &[0.5, 0.75, 0.625, 0.875]), (0.625, 2, true));
        let nothing = (f64::NEG_INFINITY, false);
        let found = skip(0.25, 0.75, &[0.5, 0.75, 0.875, -0.5]);
        assert_eq!((found.0, found.2), nothing);
        assert_eq!(skip(f64::INFINITY, 0.75, &[f64::NEG_INFINITY, -1.0, 0.9]), (-1.0, 1, true));
        let found = skip(f64::INFINITY, 0.75, &[f64::NEG_INFINITY, 0.9]);
        assert_eq!((found.0, found.2), nothing);
        let hardest = |negatives: &[f64]| pick(0.25, Empty::Hardest, 0.75, negatives);
        assert_eq!(hardest(&[0.5, 0.625, 0.875]), (0.625, 1, true));
        assert_eq!(hardest(&[0.5, 0.75, 0.875]), (0.875, 2, false));
        assert_eq!(hardest(&[0.25, 0.5, -0.5]), (0.5, 1, false));
    }

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
                .unwrap()
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
                let with = |tile| {
                    Pairwise { unit: &unit, negatives, term, semi_hard, tile }.evaluate().unwrap()
                };
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
    fn similarities_equal_their_definitions() {
        let rows = normal(2, 40, 4) + normal(3, 20, 4).repeat([2, 1]);
        let unit = unit_rows(&rows);
        let cosine = unit.mm(&unit.tr());
        let value = |i: i64, j: i64| cosine.double_value(&[i, j]);
        let (mut hits, mut positive, mut negative) = (0, 0.0, 0.0);
        for i in 0..20 {
            hits += i32::from((20..40).all(|j| j == i + 20 || value(i, j) < value(i, i + 20)));
            positive += value(i, i + 20) / 20.0;
        }
        for (i, j) in (0..40).flat_map(|i| (0..40).map(move |j| (i, j))) {
            negative += if i % 20 == j % 20 { 0.0 } else { value(i, j) / (40.0 * 38.0) };
        }
        assert!(hits > 0 && hits < 20, "the batch tests nothing: {hits} hits");
        for tile in [1, 7, 50] {
            let found = Similarities::of(&unit, tile);
            assert!((found.contrastive_accuracy - f64::from(hits) / 20.0).abs() < 1e-15);
            assert!((found.positive - positive).abs() < 1e-14);
            assert!((found.negative - negative).abs() < 1e-14);
        }
        let collapsed = Similarities::of(&Tensor::ones([6, 1], (Kind::Float, Device::Cpu)), 2);
        let expected = Similarities { contrastive_accuracy: 0.0, positive: 1.0, negative: 1.0 };
        assert_eq!(collapsed, expected);
        let alone = Similarities::of(&unit_rows(&normal(4, 2, 3)), 2);
        assert_eq!((alone.contrastive_accuracy, alone.negative), (1.0, 0.0));
    }

    #[test]
    fn unit_rows_have_length_one_and_a_slope_at_zero() {
        let rows = normal(5, 4, 3).to_kind(Kind::Float);
        let _ = rows.get(1).zero_();
        let rows = rows.set_requires_grad(true);
        let unit = unit_rows(&rows);
        let lengths = unit.square().sum_dim_intlist(1, false, None);
        let expected = Tensor::from_slice(&[1.0_f32, 0.0, 1.0, 1.0]);
        assert!((lengths - expected).abs().max().double_value(&[]) < 1e-6);
        unit.sum(None).backward();
        assert!(rows.grad().isfinite().all().int64_value(&[]) == 1);
        assert_eq!(unit_rows(&normal(6, 2, 3)).kind(), Kind::Double);
        assert_eq!(unit_rows(&normal(6, 2, 3).to_kind(Kind::BFloat16)).kind(), Kind::Float);
    }
}
