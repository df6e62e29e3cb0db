//! Logistic regression on stored features, its penalty chosen on held-out references.
//!
//! ```text
//! references --validation split--> fit 45 penalties, score each --best--> fit all references --> rank the queries
//! ```

mod design;
mod lbfgs;
mod line_search;
mod objective;
mod softmax;
mod sweep;

use super::Features;
use super::average_precision::{
    AveragePrecision, Difficult, MeanAveragePrecision, MultiLabels, mean_average_precision,
    mean_only,
};
use super::scores::{Ranks, judged, labels};
use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
use crate::shape;
use lbfgs::Rule;
use line_search::Tolerance;
use objective::Target;
use serde::{Deserialize, Serialize};
use sweep::{Chain, Fit};
use tch::{Kind, Tensor};

/// Version of the protocol; numbers of different versions do not compare.
pub const VERSION: u32 = 1;

/// Number of penalties tried.
pub const PENALTIES: usize = 45;

/// The penalties tried, `10^(−6 + j/4)` for `j` = 0 … 44, of Kornblith et al. 2019 (arXiv:1805.08974, section A.4). They are
/// what their f32 form says, as in the published program.
pub fn penalties() -> [f64; PENALTIES] {
    std::array::from_fn(|j| f64::from(10f64.powf(-6.0 + j as f64 / 4.0) as f32))
}

/// How the minimum is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Solver {
    /// Until the largest entry of the gradient is at most 1e-5 for each image, and the objective, by its quadratic model,
    /// within 1e-6 of the minimum; at most 2,000 iterations. f32 features, f64 sums. Many classes at once are one
    /// logistic regression each.
    ///
    /// Departs from evaluation.md in ways that do not move the minimum: principal axes with a diagonal preconditioner,
    /// and starts interpolated between penalties instead of the neighbour's minimum.
    #[default]
    Converged,
    /// As scikit-learn 0.22 to 1.3 under the program of Ericsson et al. 2021 (arXiv:2011.13377): f64; penalties upwards,
    /// each from where the last one stopped, the final fit from the largest; at most 100 iterations, a gradient of the
    /// sum of at most 1e-4, or a relative decrease of at most 2.2e-9. Small penalties are far from converged then, so the
    /// limit is part of the result. Many classes at once are a softmax of two each, which begins at the class before.
    Reference,
}

impl Solver {
    fn rule(self, images: i64) -> Rule {
        match self {
            Self::Converged => Rule {
                gradient: 1e-5 * images as f64,
                gap: Some(1e-6),
                // Only where nothing is left but rounding.
                decrease: 1e-9,
                patience: 20,
                tolerance: Tolerance { narrow: 1e-6, noise: 1e-7 },
                iterations: 2_000,
            },
            Self::Reference => Rule {
                gradient: 1e-4,
                gap: None,
                decrease: 2.2e-9,
                patience: 1,
                tolerance: Tolerance { narrow: 0.1, noise: 0.0 },
                iterations: 100,
            },
        }
    }
}

/// What the penalty is chosen by, and the result for images of one class each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of images whose class ranks first.
    #[default]
    Top1,
    /// Mean of that share over the classes that occur.
    MeanPerClass,
}

/// Settings of the protocol `logistic` of Chen et al. 2020 (arXiv:2002.05709, section B.8) and Kornblith et al. 2019.
///
/// The objective is a sum over images, the bias is free:
/// `J(W, b) = Σ_i −log softmax(W h_i + b)[y_i] + (λ/2) ‖W‖²`; scikit-learn's `C` is `1/λ`. Features are as they are,
/// neither normalised nor standardised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logistic {
    /// How the minimum is looked for: `converged` (ours) or `reference` (the published program's).
    pub solver: Solver,
    /// A penalty λ, at least 0, to be used as it is: nothing is held out. Default: none, the best of [`penalties`] on the
    /// validation split; of equals the smallest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
    /// Most iterations of a fit, at least 1. Default: 2,000 for `converged`, 100 for `reference`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_iterations: Option<usize>,
    /// What the penalty is chosen by: `top1` or `mean_per_class`. For images of many classes it is the mean average
    /// precision.
    pub metric: Metric,
    /// Share of the references to choose the penalty on, above 0 and below 1, where no validation split is given: the first
    /// `⌊share · n⌋` of a seeded shuffle. Published: 0.2.
    pub validation_share: f64,
    /// What becomes of difficult images where images have many classes: `ignore` (VOC 2007) or `negative` (Ericsson et
    /// al. 2021).
    pub difficult: Difficult,
    /// Which average precision, where images have many classes: `eleven_point` (VOC 2007), `eleven_point_extra`, `area`,
    /// `hundred_one_point` or `plain`.
    pub average_precision: AveragePrecision,
}

impl Default for Logistic {
    fn default() -> Self {
        Self {
            solver: Solver::Converged,
            lambda: None,
            max_iterations: None,
            metric: Metric::Top1,
            validation_share: 0.2,
            difficult: Difficult::Ignore,
            average_precision: AveragePrecision::ElevenPoint,
        }
    }
}

/// One fit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The penalty.
    pub lambda: f64,
    /// The metric on the validation split; none where nothing was held out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<f64>,
    /// Iterations of L-BFGS; with a fit for each class those of the longest.
    pub iterations: usize,
    /// The objective where it stopped, summed over images.
    pub objective: f64,
    /// The largest entry of the objective's gradient by amount.
    pub gradient: f64,
    /// Whether it stopped by its rule, and not for want of iterations or digits.
    pub converged: bool,
}

/// Which penalty was chosen, and what became of the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The penalty of the final fit.
    pub lambda: f64,
    /// One fit for each penalty on the references that were not held out; empty where the penalty was given.
    pub sweep: Vec<Point>,
    /// The final fit, on all references.
    pub fit: Point,
}

/// What the protocol found for images of one class each.
#[derive(Debug)]
pub struct Outcome {
    /// Ranks of the queries: the result.
    pub ranks: Ranks,
    /// Logits of the queries, f32 `[Q, C]`; −∞ for a class that no reference has.
    pub logits: Tensor,
    /// Ranks of all references, which the final fit has seen.
    pub training: Ranks,
    /// The penalty and how it came about.
    pub choice: Choice,
}

/// What the protocol found for images of any number of classes each.
#[derive(Debug)]
pub struct MultiLabelOutcome {
    /// Average precision of the queries: the result.
    pub precision: MeanAveragePrecision,
    /// Scores of the queries, f64 `[Q, C]`: log-odds.
    pub scores: Tensor,
    /// Mean average precision of all references, which the final fit has seen.
    pub training: f64,
    /// The penalty and how it came about.
    pub choice: Choice,
}

impl Logistic {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key, its range and what was found.
    pub fn check(&self) -> Result<()> {
        let wrong = if let Some(found) = self.lambda.filter(|l| !(l.is_finite() && *l >= 0.0)) {
            format!("`logistic.lambda` must be at least 0, found `{found}`")
        } else if self.max_iterations == Some(0) {
            "`logistic.max_iterations` must be at least 1, found `0`".to_owned()
        } else if !(self.validation_share > 0.0 && self.validation_share < 1.0) {
            let found = self.validation_share;
            format!("`logistic.validation_share` must be above 0 and below 1, found `{found}`")
        } else {
            return Ok(());
        };
        Err(Error::Recipe(wrong))
    }

    /// Chooses a penalty, fits the references and ranks the queries, images of one class each.
    ///
    /// `validation` is a split to choose on, which joins the references for the final fit; without one a share of the
    /// references is held out. A class that no reference has is never predicted. `progress` gets fits done and fits in all.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a setting out of range; [`Error::Data`] if a side is empty or lacks labels, if the references
    /// are of one class only or too few to hold any out; [`Error::Shape`] if dimensions differ; [`Error::NonFinite`]
    /// for features that are no numbers.
    pub fn evaluate(
        &self,
        queries: &Features,
        references: &Features,
        validation: Option<&Features>,
        seed: u64,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Outcome> {
        self.check()?;
        let (query_labels, mut reference_labels, mut classes) = labels(queries, references)?;
        let h = joined(&queries.h, &references.h, validation.map(|side| &side.h))?;
        if let Some(validation) = validation {
            let (_, more, all) = labels(queries, validation)?;
            reference_labels.extend(more);
            classes = classes.max(all);
        }
        let penalty = self.penalty(h.size()[0] as usize, references.len(), seed)?;
        let metric = |ranks: &Ranks| match self.metric {
            Metric::Top1 => share(ranks),
            Metric::MeanPerClass => mean_share(ranks),
        };
        tch::no_grad(|| {
            let seen = |rows: &[usize]| Seen::new(rows.iter().map(|row| reference_labels[*row]));
            let rank = |fit: &Fit, seen: &Seen, h: &Tensor, labels: Vec<u32>| {
                let logits = seen.logits(h, &fit.weights, classes);
                (rank_all(&logits, labels, classes), logits)
            };
            let fit = |rows: &[usize], penalties: &[f64], state, done: &mut dyn FnMut(usize)| {
                let seen = seen(rows)?;
                let target = Target::One(seen.targets(rows, &reference_labels));
                self.fit(&at(&h, rows), &target, seen.count(), penalties, state, done)
            };
            let judge = |fit: &Fit, split: &Split, held_out: &Tensor| {
                let labels = split.held_out.iter().map(|row| reference_labels[*row]).collect();
                Ok(metric(&rank(fit, &seen(&split.training)?, held_out, labels).0))
            };
            let (fit, choice) = self.choose(&penalty, &h, fit, judge, progress)?;
            let all: Vec<usize> = (0..reference_labels.len()).collect();
            let seen = seen(&all)?;
            let training = rank(&fit, &seen, &h, reference_labels.clone()).0;
            let (ranks, logits) = rank(&fit, &seen, &queries.h, query_labels);
            Ok(Outcome { ranks, logits: logits.to_kind(Kind::Float), training, choice })
        })
    }

    /// The same for images of any number of classes each: a logistic regression for every class, one penalty for all.
    ///
    /// Labels are those of the whole split that the features are of; a row belongs to the image of its index.
    ///
    /// # Errors
    /// As [`Logistic::evaluate`]; [`Error::Data`] also if labels of an image are missing.
    pub fn evaluate_multi_label(
        &self,
        queries: (&Features, &MultiLabels),
        references: (&Features, &MultiLabels),
        validation: Option<(&Features, &MultiLabels)>,
        seed: u64,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<MultiLabelOutcome> {
        self.check()?;
        let of = |(features, labels): (&Features, &MultiLabels)| {
            features.check()?;
            if features.is_empty() {
                return Err(Error::Data("there are no images to evaluate on one side".to_owned()));
            }
            labels.at(&features.indices())
        };
        let (query_labels, mut reference_labels) = (of(queries)?, of(references)?);
        if query_labels.classes() != reference_labels.classes() {
            let (expected, found) = (reference_labels.classes(), query_labels.classes());
            return Err(Error::Data(format!(
                "queries have labels of {found} classes, references of {expected}"
            )));
        }
        let h = joined(&queries.0.h, &references.0.h, validation.map(|side| &side.0.h))?;
        if let Some(validation) = validation {
            reference_labels = reference_labels.and(&of(validation)?)?;
        }
        let penalty = self.penalty(h.size()[0] as usize, references.0.len(), seed)?;
        let classes = reference_labels.classes() as i64;
        tch::no_grad(|| {
            let scores = |fit: &Fit, h: &Tensor| logits(h, &fit.weights);
            let precision = |scores: &Tensor, labels: &MultiLabels| {
                mean_only(self.average_precision, self.difficult, &numbers(scores), labels)
            };
            let fit = |rows: &[usize], penalties: &[f64], state, done: &mut dyn FnMut(usize)| {
                let target = Target::Many(self.signs(rows, &reference_labels)?);
                self.fit(&at(&h, rows), &target, classes, penalties, state, done)
            };
            let judge = |fit: &Fit, split: &Split, held_out: &Tensor| {
                let rows: Vec<i64> = split.held_out.iter().map(|row| *row as i64).collect();
                precision(&scores(fit, held_out), &reference_labels.at(&rows)?)
            };
            let (fit, choice) = self.choose(&penalty, &h, fit, judge, progress)?;
            let training = precision(&scores(&fit, &h), &reference_labels)?;
            let scores = scores(&fit, &queries.0.h);
            let (form, difficult) = (self.average_precision, self.difficult);
            let precision =
                mean_average_precision(form, difficult, &numbers(&scores), &query_labels, seed)?;
            Ok(MultiLabelOutcome { precision, scores, training, choice })
        })
    }

    /// Where the penalty comes from, with this many rows to learn from, a validation split at their end included.
    fn penalty(&self, rows: usize, references: usize, seed: u64) -> Result<Penalty> {
        if let Some(lambda) = self.lambda {
            return Ok(Penalty::Given(lambda));
        }
        if references < rows {
            let (training, held_out) = ((0..references).collect(), (references..rows).collect());
            return Ok(Penalty::Chosen(Split { training, held_out }));
        }
        let mut order =
            Stream::open(seed, Purpose::Evaluation, Scope::Item(0)).permutation(references);
        let held_out = (self.validation_share * references as f64).floor() as usize;
        if held_out == 0 || held_out == references {
            return Err(Error::Data(format!(
                "{references} reference images are too few to hold out {} of them and choose a \
                 penalty; give a validation split or `logistic.lambda`",
                self.validation_share
            )));
        }
        // In data-set order, so that only the choice is random and not the order of sums.
        let mut training = order.split_off(held_out);
        order.sort_unstable();
        training.sort_unstable();
        Ok(Penalty::Chosen(Split { training, held_out: order }))
    }

    /// Fits the sweep, chooses, and fits all rows.
    fn choose(
        &self,
        penalty: &Penalty,
        h: &Tensor,
        fit: impl Fn(
            &[usize],
            &[f64],
            Option<Tensor>,
            &mut dyn FnMut(usize),
        ) -> Result<(Vec<Fit>, Tensor)>,
        judge: impl Fn(&Fit, &Split, &Tensor) -> Result<f64>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(Fit, Choice)> {
        let (lambda, state, sweep) = match penalty {
            Penalty::Given(lambda) => (*lambda, None, Vec::new()),
            Penalty::Chosen(split) => {
                let penalties = penalties();
                let mut done = |done| progress(done, PENALTIES + 1);
                let (fits, state) = fit(&split.training, &penalties, None, &mut done)?;
                let held_out = at(h, &split.held_out);
                let mut sweep = Vec::with_capacity(PENALTIES);
                let mut best = 0;
                for (at, (fit, lambda)) in fits.iter().zip(penalties).enumerate() {
                    let value = judge(fit, split, &held_out)?;
                    sweep.push(Point::of(fit, lambda, Some(value)));
                    if Some(value) > sweep[best].validation {
                        best = at;
                    }
                }
                // Classes may have come: then the sweep's weights are of another model.
                let state = match self.solver {
                    Solver::Reference => state,
                    Solver::Converged => fits[best].weights.copy(),
                };
                (penalties[best], Some(state), sweep)
            }
        };
        let all: Vec<usize> = (0..h.size()[0] as usize).collect();
        let (fits, _) = fit(&all, &[lambda], state, &mut |_| ())?;
        progress(sweep.len() + 1, sweep.len() + 1);
        let fit = fits.into_iter().next().expect("one penalty, one fit");
        let point = Point::of(&fit, lambda, None);
        Ok((fit, Choice { lambda, sweep, fit: point }))
    }

    /// Fits penalties in ascending order, from a state where one is given and fits, and says where the solver stands.
    fn fit(
        &self,
        h: &Tensor,
        target: &Target,
        classes: i64,
        penalties: &[f64],
        state: Option<Tensor>,
        done: &mut dyn FnMut(usize),
    ) -> Result<(Vec<Fit>, Tensor)> {
        let rows = match (self.solver, target) {
            (Solver::Reference, Target::Many(_)) => 2,
            _ => classes,
        };
        let state = state.filter(|state| state.size() == [rows, h.size()[1] + 1]);
        let rule = self.solver.rule(h.size()[0]);
        let rule = Rule { iterations: self.max_iterations.unwrap_or(rule.iterations), ..rule };
        match self.solver {
            Solver::Converged => {
                let fits =
                    sweep::converged(h, target, classes, penalties, state.as_ref(), rule, done)?;
                Ok((fits, Tensor::new()))
            }
            Solver::Reference => {
                let mut chain = Chain::new(h, target, classes, rule, state)?;
                let mut fits = Vec::with_capacity(penalties.len());
                for penalty in penalties {
                    fits.push(chain.fit(*penalty)?);
                    done(fits.len());
                }
                Ok((fits, chain.state))
            }
        }
    }

    /// +1, −1 or 0 for every class and image, `[C, N]`.
    fn signs(&self, rows: &[usize], labels: &MultiLabels) -> Result<Tensor> {
        let classes = labels.classes();
        let mut signs = vec![0.0f32; classes * rows.len()];
        for (place, row) in rows.iter().enumerate() {
            for (class, presence) in labels.of(*row).iter().enumerate() {
                signs[class * rows.len() + place] = match self.difficult.judge(*presence) {
                    Some(true) => 1.0,
                    Some(false) => -1.0,
                    None => 0.0,
                };
            }
        }
        for (class, signs) in signs.chunks(rows.len()).enumerate() {
            if !(signs.contains(&1.0) && signs.contains(&-1.0)) {
                return Err(Error::Data(format!(
                    "class {class} is on all or on none of the {} reference images to learn from; \
                     logistic regression needs both",
                    rows.len()
                )));
            }
        }
        Ok(Tensor::from_slice(&signs).view([classes as i64, -1]))
    }
}

impl Point {
    fn of(fit: &Fit, lambda: f64, validation: Option<f64>) -> Self {
        Self {
            lambda,
            validation,
            iterations: fit.iterations,
            objective: fit.objective,
            gradient: fit.gradient,
            converged: fit.converged,
        }
    }
}

/// Where a penalty comes from.
enum Penalty {
    Given(f64),
    Chosen(Split),
}

/// Rows of the references to fit, and to choose a penalty on.
struct Split {
    training: Vec<usize>,
    held_out: Vec<usize>,
}

/// The reference features, those of a validation split at their end.
fn joined(queries: &Tensor, references: &Tensor, validation: Option<&Tensor>) -> Result<Tensor> {
    shape::check("reference features", references, &[-1, -1])?;
    let dimensions = references.size()[1];
    shape::check("query features", queries, &[-1, dimensions])?;
    design::finite("query", queries)?;
    let Some(validation) = validation else { return Ok(references.shallow_clone()) };
    shape::check("validation features", validation, &[-1, dimensions])?;
    Ok(Tensor::cat(&[references, validation], 0))
}

/// The classes that some images have; only these can be learned.
struct Seen {
    /// Ascending.
    classes: Vec<u32>,
}

impl Seen {
    fn new(labels: impl Iterator<Item = u32>) -> Result<Self> {
        let mut classes: Vec<u32> = labels.collect();
        classes.sort_unstable();
        classes.dedup();
        if classes.len() < 2 {
            return Err(Error::Data(format!(
                "the reference images to learn from have {} class, logistic regression needs at least 2",
                classes.len()
            )));
        }
        Ok(Self { classes })
    }

    fn count(&self) -> i64 {
        self.classes.len() as i64
    }

    /// The place of each row's class, i64 `[n]`.
    fn targets(&self, rows: &[usize], labels: &[u32]) -> Tensor {
        let place =
            |row: &usize| self.classes.partition_point(|class| *class < labels[*row]) as i64;
        Tensor::from_slice(&rows.iter().map(place).collect::<Vec<_>>())
    }

    /// Logits of all classes, f64 `[n, C]`.
    fn logits(&self, h: &Tensor, weights: &Tensor, classes: usize) -> Tensor {
        let found = logits(h, weights);
        let places: Vec<i64> = self.classes.iter().map(|class| i64::from(*class)).collect();
        Tensor::full(
            [found.size()[0], classes as i64],
            f64::NEG_INFINITY,
            (Kind::Double, h.device()),
        )
        .index_copy_(1, &Tensor::from_slice(&places), &found)
    }
}

/// `W h + b` for every row, f64 `[n, C]`.
fn logits(h: &Tensor, weights: &Tensor) -> Tensor {
    const ROWS: i64 = 4_096;
    let (images, dimensions) = (h.size()[0], h.size()[1]);
    let (slopes, bias) = (weights.narrow(1, 0, dimensions).tr(), weights.select(1, dimensions));
    let tiles: Vec<Tensor> = (0..images)
        .step_by(ROWS as usize)
        .map(|first| {
            let rows = h.narrow(0, first, ROWS.min(images - first)).to_kind(Kind::Double);
            rows.matmul(&slopes) + &bias
        })
        .collect();
    Tensor::cat(&tiles, 0)
}

fn at(h: &Tensor, rows: &[usize]) -> Tensor {
    let rows: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
    h.index_select(0, &Tensor::from_slice(&rows))
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    let mut values = vec![0.0; tensor.numel()];
    tensor.contiguous().copy_data(&mut values, tensor.numel());
    values
}

fn rank_all(logits: &Tensor, labels: Vec<u32>, classes: usize) -> Ranks {
    let mut ranks = Ranks::none(classes, classes);
    for (row, label) in numbers(logits).chunks(classes).zip(labels) {
        ranks.push(judged(row, label as usize), label);
    }
    ranks
}

/// Share of images ranked right.
fn share(ranks: &Ranks) -> f64 {
    ranks.ranks.iter().filter(|rank| **rank == 0).count() as f64 / ranks.ranks.len() as f64
}

/// Mean of that over the classes that occur.
fn mean_share(ranks: &Ranks) -> f64 {
    let mut counts = vec![(0u32, 0u32); ranks.classes];
    for (rank, label) in ranks.ranks.iter().zip(&ranks.labels) {
        let count = &mut counts[*label as usize];
        count.0 += u32::from(*rank == 0);
        count.1 += 1;
    }
    let shares: Vec<f64> = counts
        .iter()
        .filter(|(_, all)| *all > 0)
        .map(|(right, all)| f64::from(*right) / f64::from(*all))
        .collect();
    shares.iter().sum::<f64>() / shares.len() as f64
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact where the arithmetic is")]
mod tests {
    use super::super::average_precision::{Presence, tests::golden};
    use super::super::features::tests::made;
    use super::*;

    fn far(left: &Tensor, right: &Tensor) -> f64 {
        (left - right).abs().max().double_value(&[])
    }

    fn golden_labels() -> Vec<i64> {
        golden("y").try_into().unwrap()
    }

    /// The classes of `tests/golden/logistic.py` and their features.
    fn golden_set() -> Features {
        made(golden("h"), &golden_labels())
    }

    fn fit(solver: Solver, target: &Target, classes: i64, penalties: &[f64]) -> Vec<Fit> {
        let settings = Logistic { solver, ..Logistic::default() };
        settings.fit(&golden("h"), target, classes, penalties, None, &mut |_| ()).unwrap().0
    }

    /// `tests/golden/logistic.py`: scikit-learn's Newton solver.
    #[test]
    fn minima_are_those_of_scikit_learn() {
        let penalties: Vec<f64> = golden("penalties").try_into().unwrap();
        let (objective, weights) = (golden("objective"), golden("weights"));
        let fits = fit(Solver::Converged, &Target::One(golden("y")), 4, &penalties);
        for (at, fit) in fits.iter().enumerate() {
            let expected = objective.double_value(&[at as i64]);
            let lambda = penalties[at];
            assert!(
                (fit.objective / expected - 1.0).abs() < 2e-6,
                "{lambda} {} {expected}",
                fit.objective
            );
            assert!(fit.converged && fit.gradient <= 3e-3, "{lambda} {}", fit.gradient);
            let error = far(&fit.weights, &weights.get(at as i64));
            // The gap allowed bounds the error by sqrt(2 · gap / λ) where only the penalty curves.
            assert!(error < 2e-2 && (lambda < 0.5 || error < 4e-3), "{lambda}: {error}");
        }
    }

    /// `tests/golden/logistic.py`: `SciPy`'s L-BFGS-B, each penalty from where the last one stopped.
    #[test]
    fn the_reference_takes_the_steps_of_l_bfgs_b() {
        let (h, target) = (golden("h"), Target::One(golden("y")));
        let mut state = None;
        for (at, (penalty, iterations)) in [(0.5, 6), (2.0, 4), (8.0, 100)].into_iter().enumerate()
        {
            let rule = Rule { iterations, ..Solver::Reference.rule(300) };
            let mut chain = Chain::new(&h, &target, 4, rule, state).unwrap();
            let fit = chain.fit(penalty).unwrap();
            let expected = golden("chain").get(at as i64);
            let error = far(&fit.weights.view(-1), &expected.narrow(0, 0, 44));
            let value = expected.double_value(&[44]);
            if iterations < 100 {
                assert_eq!((fit.iterations, fit.converged), (iterations, false));
                assert!(error < 1e-8, "penalty {penalty}: {error}");
                assert!((fit.objective / value - 1.0).abs() < 1e-10, "{} {value}", fit.objective);
            } else {
                // Rounding grows from step to step: another order of sums ends elsewhere on the same floor.
                assert!((fit.objective / value - 1.0).abs() < 1e-4, "{} {value}", fit.objective);
            }
            state = Some(chain.state);
        }
    }

    fn presence(column: Option<i64>) -> MultiLabels {
        let labels = golden("labels");
        let labels = column.map_or(labels.shallow_clone(), |column| labels.narrow(1, column, 1));
        let classes = labels.size()[1] as usize;
        let values: Vec<u8> = labels.contiguous().view(-1).try_into().unwrap();
        let of = |value: &u8| {
            [Presence::Absent, Presence::Present, Presence::Difficult][*value as usize]
        };
        MultiLabels::new(classes, values.iter().map(of).collect()).unwrap()
    }

    /// `tests/golden/logistic.py`: scikit-learn on the images that are not difficult, class by class.
    #[test]
    fn each_class_of_many_is_a_logistic_regression_of_its_own() {
        let settings = Logistic::default();
        let rows: Vec<usize> = (0..300).collect();
        let target = Target::Many(settings.signs(&rows, &presence(None)).unwrap());
        let found = &fit(Solver::Converged, &target, 3, &[1.0])[0];
        assert!(far(&found.weights, &golden("single")) < 5e-3);
        // A softmax of two with penalty λ is a logistic regression with λ/2.
        let settings =
            Logistic { max_iterations: Some(2_000), solver: Solver::Reference, ..settings };
        let (found, _) = settings.fit(&golden("h"), &target, 3, &[2.0], None, &mut |_| ()).unwrap();
        assert!(far(&found[0].weights, &golden("single")) < 5e-3);
        assert!(found[0].converged);
    }

    fn random(rows: i64, columns: i64, item: u64) -> Tensor {
        let mut stream = Stream::open(6, Purpose::Test, Scope::Item(item));
        let values: Vec<f64> = (0..rows * columns).map(|_| stream.normal()).collect();
        Tensor::from_slice(&values).view([rows, columns])
    }

    /// Clouds around seven centres, `width` wide.
    fn clouds(images: i64, width: f64, item: u64) -> Features {
        let labels: Vec<i64> = (0..images).map(|image| image * image % 7).collect();
        let labels: Vec<i64> = labels.iter().zip(0..).map(|(a, b)| (a + b) % 7).collect();
        let centres = random(7, 12, 100);
        let h = random(images, 12, item) * width
            + centres.index_select(0, &Tensor::from_slice(&labels)) * 2.0;
        made(h.to_kind(Kind::Float), &labels)
    }

    fn run(settings: &Logistic, queries: &Features, references: &Features) -> Result<Outcome> {
        settings.evaluate(queries, references, None, 5, &mut |_, _| ())
    }

    #[test]
    fn separable_features_are_separated_by_both_solvers_in_any_unit_and_place() {
        let (references, queries) = (clouds(300, 0.2, 1), clouds(100, 0.2, 2));
        for solver in [Solver::Converged, Solver::Reference] {
            let settings = Logistic { solver, ..Logistic::default() };
            for (scale, offset) in [(1.0, 0.0), (1e-2, 0.0), (10.0, 20.0)] {
                let moved = |side: &Features| made(&side.h * scale + offset, &side.labels());
                let found = run(&settings, &moved(&queries), &moved(&references)).unwrap();
                assert_eq!(found.ranks.top(1).value, 1.0, "{solver:?} {scale} {offset}");
                assert_eq!(found.training.top(1).value, 1.0);
                assert_eq!(found.logits.size(), [100, 7]);
            }
        }
    }

    #[test]
    fn the_best_penalty_is_the_smallest_of_equals_and_both_parts_are_fitted_with_it() {
        let (references, queries) = (clouds(140, 1.5, 1), clouds(70, 1.5, 2));
        let mut last = (0, 0);
        let settings = Logistic::default();
        let found = settings
            .evaluate(&queries, &references, None, 5, &mut |done, all| {
                assert!(done > last.0, "{done} after {}", last.0);
                last = (done, all);
            })
            .unwrap();
        assert_eq!(last, (46, 46));
        let Choice { lambda, sweep, fit } = &found.choice;
        assert!(sweep.iter().map(|point| point.lambda).eq(penalties()));
        let best = sweep.iter().filter_map(|point| point.validation).fold(0.0, f64::max);
        let first = sweep.iter().find(|point| point.validation == Some(best)).unwrap();
        assert_eq!(first.lambda, *lambda);
        let lowest = sweep.iter().filter_map(|point| point.validation).fold(1.0, f64::min);
        assert!(lowest < best, "some penalty is worse");
        // Larger penalties cost more.
        assert!(sweep.windows(2).all(|pair| pair[0].objective < pair[1].objective));
        assert!(sweep.iter().all(|point| point.converged));
        let alone = Logistic { lambda: Some(*lambda), ..settings.clone() };
        let again = run(&alone, &queries, &references).unwrap();
        assert!(again.choice.sweep.is_empty());
        assert!((again.choice.fit.objective / fit.objective - 1.0).abs() < 1e-5);
        assert_eq!(again.ranks, found.ranks);
        // The same bits again, and other images held out by another seed.
        let repeated = run(&settings, &queries, &references).unwrap();
        assert_eq!(repeated.choice, found.choice);
        assert_eq!(repeated.logits, found.logits);
        let other = settings.evaluate(&queries, &references, None, 6, &mut |_, _| ()).unwrap();
        assert_ne!(other.choice.sweep, found.choice.sweep);
    }

    #[test]
    fn the_order_of_images_changes_nothing_but_rounding() {
        let (references, queries) = (golden_set(), golden_set());
        let order: Vec<i64> = (0..300).map(|row| row * 7 % 300).collect();
        let turned = Tensor::from_slice(&order);
        let labels: Vec<i64> = order.iter().map(|row| golden_labels()[*row as usize]).collect();
        let turned = made(references.h.index_select(0, &turned), &labels);
        let settings = Logistic { lambda: Some(1.0), ..Logistic::default() };
        let (one, other) = (
            run(&settings, &queries, &references).unwrap(),
            run(&settings, &queries, &turned).unwrap(),
        );
        assert!(far(&one.logits, &other.logits) < 1e-2, "{}", far(&one.logits, &other.logits));
        let ratio = one.choice.fit.objective / other.choice.fit.objective;
        assert!((ratio - 1.0).abs() < 2e-6, "{ratio}");
    }

    #[test]
    fn a_validation_split_is_chosen_on_and_then_learned_from() {
        let (references, queries) = (clouds(60, 1.0, 1), clouds(70, 1.0, 2));
        let validation = clouds(50, 1.0, 3);
        let settings = Logistic { metric: Metric::MeanPerClass, ..Logistic::default() };
        let found =
            settings.evaluate(&queries, &references, Some(&validation), 0, &mut |_, _| ()).unwrap();
        assert_eq!(found.training.labels.len(), 110);
        // No seed plays a part.
        let other =
            settings.evaluate(&queries, &references, Some(&validation), 9, &mut |_, _| ()).unwrap();
        assert_eq!(found.choice, other.choice);
        // The metric of one penalty, by hand.
        let lambda = found.choice.sweep[20].lambda;
        let alone = Logistic { lambda: Some(lambda), ..settings };
        let judged = run(&alone, &validation, &references).unwrap().ranks;
        let expected = judged.mean_per_class(0).value;
        assert!((found.choice.sweep[20].validation.unwrap() - expected).abs() < 1e-12);
    }

    #[test]
    fn a_class_that_no_reference_has_is_never_predicted_and_few_images_are_fine() {
        let references = made(random(5, 3, 1).to_kind(Kind::Float), &[0, 4, 0, 4, 7]);
        let queries = made(random(2, 3, 2).to_kind(Kind::Float), &[8, 4]);
        let settings = Logistic { lambda: Some(1.0), ..Logistic::default() };
        let found = run(&settings, &queries, &references).unwrap();
        assert_eq!(found.ranks.classes, 9);
        assert_eq!(
            found.ranks.ranks[0], 8,
            "behind all that are known, and the lower unknown ones"
        );
        assert_eq!(found.logits.double_value(&[0, 1]), f64::NEG_INFINITY);
    }

    #[test]
    fn many_classes_share_a_penalty_and_are_judged_by_mean_average_precision() {
        let set = golden_set();
        let (queries, references) = ((&set, &presence(None)), (&set, &presence(None)));
        for solver in [Solver::Converged, Solver::Reference] {
            let settings = Logistic { solver, max_iterations: Some(30), ..Logistic::default() };
            let found = settings
                .evaluate_multi_label(queries, references, None, 1, &mut |_, _| ())
                .unwrap();
            assert_eq!(found.choice.sweep.len(), PENALTIES);
            assert_eq!(found.scores.size(), [300, 3]);
            // The queries are the references here.
            assert_eq!(found.training, found.precision.mean.value);
            assert!(found.training > 0.6, "{solver:?} {}", found.training);
            let [low, high] = found.precision.mean.interval_95.unwrap();
            assert!(low < found.training && found.training < high);
        }
        // Counting difficult images against a class changes what is learned and judged.
        let negative = Logistic { difficult: Difficult::Negative, ..Logistic::default() };
        let one =
            negative.evaluate_multi_label(queries, references, None, 1, &mut |_, _| ()).unwrap();
        let ignored =
            Logistic::default().evaluate_multi_label(queries, references, None, 1, &mut |_, _| ());
        assert!(one.training < ignored.unwrap().training);
        // Labels go by the index in the split: without image 0 the others keep theirs.
        let rest = Features {
            h: set.h.narrow(0, 1, 299),
            labels: set.labels.narrow(0, 1, 299),
            index: set.index.narrow(0, 1, 299),
            paths: set.paths[1..].to_vec(),
            damaged: Vec::new(),
        };
        let fixed = Logistic { lambda: Some(1.0), ..Logistic::default() };
        let found = fixed
            .evaluate_multi_label((&rest, &presence(None)), references, None, 1, &mut |_, _| ())
            .unwrap();
        assert!(found.precision.mean.value > 0.7);
    }

    #[test]
    fn what_cannot_be_judged_is_an_error_that_says_why() {
        let set = || clouds(40, 1.0, 3);
        let settings = Logistic::default();
        let fails = |queries: &Features, references: &Features| {
            run(&settings, queries, references).map(|_| ()).unwrap_err()
        };
        let single = made(set().h, &[3; 40]);
        let error = fails(&set(), &single);
        assert!(matches!(error, Error::Data(_)), "{error}");
        assert!(error.to_string().contains("at least 2"), "{error}");
        let mut labels = set().labels();
        labels[7] = -1;
        assert!(matches!(fails(&set(), &made(set().h, &labels)), Error::Data(_)));
        assert!(matches!(
            fails(&set(), &made(set().h / 0.0, &set().labels())),
            Error::NonFinite(_)
        ));
        assert!(matches!(
            fails(&made(set().h / 0.0, &set().labels()), &set()),
            Error::NonFinite(_)
        ));
        assert!(matches!(
            fails(&made(set().h.narrow(1, 0, 3), &set().labels()), &set()),
            Error::Shape(_)
        ));
        let few = made(random(4, 12, 1).to_kind(Kind::Float), &[0, 1, 0, 1]);
        let error = fails(&set(), &few);
        assert!(error.to_string().contains("too few to hold out"), "{error}");
        let wrong = [
            Logistic { lambda: Some(-1.0), ..Logistic::default() },
            Logistic { lambda: Some(f64::NAN), ..Logistic::default() },
            Logistic { max_iterations: Some(0), ..Logistic::default() },
            Logistic { validation_share: 0.0, ..Logistic::default() },
            Logistic { validation_share: 1.0, ..Logistic::default() },
        ];
        for settings in wrong {
            let error = run(&settings, &set(), &set()).map(|_| ()).unwrap_err();
            assert!(
                matches!(&error, Error::Recipe(text) if text.contains("`logistic.")),
                "{error}"
            );
        }
    }

    #[test]
    fn labels_of_many_classes_must_fit() {
        let set = golden_set();
        let labels = presence(None);
        let one = presence(Some(0));
        let never = MultiLabels::new(1, vec![Presence::Absent; 300]).unwrap();
        let short = MultiLabels::new(3, vec![Presence::Present; 30]).unwrap();
        let fails = |queries: &MultiLabels, references: &MultiLabels| {
            let settings = Logistic::default();
            let found = settings.evaluate_multi_label(
                (&set, queries),
                (&set, references),
                None,
                0,
                &mut |_, _| (),
            );
            let error = found.map(|_| ()).unwrap_err();
            assert!(matches!(error, Error::Data(_)), "{error}");
            error.to_string()
        };
        assert!(fails(&one, &labels).contains("classes"));
        assert!(fails(&never, &never).contains("class 0"));
        assert!(fails(&short, &labels).contains("no labels"));
        let empty = made(set.h.narrow(0, 0, 0), &[]);
        let (none, all) = ((&empty, &labels), (&set, &labels));
        let run = |queries, references| {
            Logistic::default().evaluate_multi_label(queries, references, None, 0, &mut |_, _| ())
        };
        assert!(matches!(run(none, all), Err(Error::Data(_))));
        assert!(matches!(run(all, none), Err(Error::Data(_))));
    }

    #[test]
    fn settings_are_read_by_their_names() {
        let text = "solver = \"reference\"\nmax_iterations = 50\nmetric = \"mean_per_class\"\n\
                    difficult = \"negative\"\naverage_precision = \"eleven_point_extra\"\n";
        let read: Logistic = toml::from_str(text).unwrap();
        let expected = Logistic {
            solver: Solver::Reference,
            max_iterations: Some(50),
            metric: Metric::MeanPerClass,
            difficult: Difficult::Negative,
            average_precision: AveragePrecision::ElevenPointExtra,
            ..Logistic::default()
        };
        assert_eq!(read, expected);
        assert_eq!(
            toml::from_str::<Logistic>(&toml::to_string(&expected).unwrap()).unwrap(),
            expected
        );
        assert!(toml::from_str::<Logistic>("lamda = 1.0").is_err());
    }

    #[test]
    fn the_penalties_are_the_published_ones() {
        let all = penalties();
        for (at, expected) in
            [(0, 1e-6), (1, 1.778_279e-6), (2, 3.162_278e-6), (43, 5.623_413e4), (44, 1e5)]
        {
            assert!((all[at] / expected - 1.0).abs() < 1e-6, "{} {expected}", all[at]);
        }
    }
}
