//! Logistic regression on stored features, its penalty chosen on held-out references.
//!
//! ```text
//! references --validation split--> fit 45 penalties, score each --best--> fit all references --> rank the queries
//! ```

mod design;
mod lbfgs;
mod line_search;
mod objective;
mod seen;
mod softmax;
mod sweep;

use super::Features;
use super::average_precision::{
    AveragePrecision, Difficult, MeanAveragePrecision, mean_average_precision, mean_only,
};
use super::scores::{Ranks, labels};
use crate::data::MultiLabels;
use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
use crate::shape;
use lbfgs::Rule;
use line_search::Tolerance;
use objective::Target;
use seen::{Seen, at, logits, mean_share, numbers, rank_all, share};
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

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact where the arithmetic is")]
mod tests;
