//! One minimum for each of many penalties.
//!
//! `converged`: from coarse to fine. Every eighth penalty of the grid is fitted first, side by side from zeros; then those
//! half way between, from a polynomial in log λ through their neighbours; and so on. Minima move smoothly with log λ, so
//! most fits begin almost where they end. `reference`: one after the other, each from where the last one stopped.

use super::design::Design;
use super::lbfgs::{End, Lbfgs, Rule};
use super::objective::{Objective, Target};
use crate::error::{Error, Result};
use tch::{Device, Kind, Tensor};

/// Stride through the grid at first; halved until every penalty had its turn.
const STRIDE: usize = 8;

/// Neighbours that a start is interpolated from.
const NEIGHBOURS: usize = 4;

/// Vectors of a fit's length that it holds, and the bytes that all fits side by side may hold.
const HELD: (i64, i64) = (26, 2 << 30);

/// Where the search for a minimum ended.
#[derive(Debug)]
pub(super) struct Fit {
    /// f64 `[C, D + 1]`: weights and bias of each class, for the features as they are.
    pub(super) weights: Tensor,
    pub(super) iterations: usize,
    pub(super) objective: f64,
    /// The largest gradient entry by amount.
    pub(super) gradient: f64,
    /// Whether it stopped by its rule, not for want of iterations or digits.
    pub(super) converged: bool,
}

/// Fits every penalty of an ascending grid, or, from a `start` for the features f64 `[C, D + 1]`, all from there.
pub(super) fn converged(
    h: &Tensor,
    target: &Target,
    classes: i64,
    penalties: &[f64],
    start: Option<&Tensor>,
    rule: Rule,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Fit>> {
    let design = Design::principal(h)?;
    let objective = Objective { design: &design, target, classes, precondition: true };
    let start = match start {
        Some(start) => design.to_columns(start),
        None => Tensor::zeros([classes, design.columns()], (Kind::Double, Device::Cpu)),
    };
    let last = penalties.len() - 1;
    let most = (HELD.1 / (HELD.0 * 8 * objective.length())).max(1) as usize;
    let mut solved: Vec<Option<Lbfgs>> = penalties.iter().map(|_| None).collect();
    let mut stride = STRIDE;
    while stride > 0 {
        // From the largest on, which is the quickest.
        let due = |at: &usize| (last - at).is_multiple_of(stride) && solved[*at].is_none();
        let due: Vec<usize> = (0..=last).rev().filter(due).collect();
        for together in due.chunks(most) {
            let fits: Vec<(f64, Lbfgs)> = together
                .iter()
                .map(|at| {
                    let start = interpolated(*at, &solved).unwrap_or_else(|| start.view(-1));
                    (penalties[*at], Lbfgs::new(&start, rule))
                })
                .collect();
            let fits = side_by_side(&objective, fits)?;
            for (at, mut fit) in together.iter().zip(fits) {
                fit.forget();
                solved[*at] = Some(fit);
            }
            progress(solved.iter().flatten().count());
        }
        stride /= 2;
    }
    let flat = |solver: &Lbfgs| solver.found().is_some_and(|at| at.steepest <= rule.gradient);
    Ok(solved.iter().flatten().map(|solver| Fit::of(solver, &objective, flat(solver))).collect())
}

/// A start for penalty `at` of a grid: the polynomial through the minima of the nearest penalties that have one.
fn interpolated(at: usize, solved: &[Option<Lbfgs>]) -> Option<Tensor> {
    let mut near: Vec<(usize, &Tensor)> = solved
        .iter()
        .enumerate()
        .filter_map(|(at, solver)| Some((at, solver.as_ref()?.point())))
        .collect();
    near.sort_by_key(|(other, _)| other.abs_diff(at));
    near.truncate(NEIGHBOURS);
    let share = |own: usize| -> f64 {
        let others = near.iter().filter(|(other, _)| *other != own);
        let factor = |other: usize| (at as f64 - other as f64) / (own as f64 - other as f64);
        others.map(|(other, _)| factor(*other)).product()
    };
    near.iter().map(|(other, point)| *point * share(*other)).reduce(|sum, part| sum + part)
}

/// Minimises under all penalties at once: an evaluation is one product for all that are not yet done.
fn side_by_side(objective: &Objective<'_>, mut fits: Vec<(f64, Lbfgs)>) -> Result<Vec<Lbfgs>> {
    loop {
        let mut open: Vec<&mut (f64, Lbfgs)> =
            fits.iter_mut().filter(|(_, solver)| solver.end().is_none()).collect();
        if open.is_empty() {
            break;
        }
        let trials: Vec<&Tensor> = open.iter().map(|(_, solver)| solver.trial()).collect();
        let penalties: Vec<f64> = open.iter().map(|(penalty, _)| *penalty).collect();
        let found = objective.evaluate(&trials, &penalties);
        for ((_, solver), found) in open.iter_mut().zip(found) {
            solver.tell(found);
        }
    }
    for (penalty, solver) in &fits {
        if solver.end() == Some(End::NonFinite) {
            return Err(Error::NonFinite(format!(
                "the logistic regression of penalty `{penalty}` diverged: the features are far too large"
            )));
        }
    }
    Ok(fits.into_iter().map(|(_, solver)| solver).collect())
}

/// The published solver: f64, and every fit begins where the last one stopped.
pub(super) struct Chain<'a> {
    design: Design,
    target: &'a Target,
    classes: i64,
    rule: Rule,
    /// f64, weights `[C, D + 1]`, or `[2, D + 1]` where each class is fitted by itself.
    pub(super) state: Tensor,
}

impl<'a> Chain<'a> {
    /// Begins at a state, or at zeros.
    pub(super) fn new(
        h: &Tensor,
        target: &'a Target,
        classes: i64,
        rule: Rule,
        state: Option<Tensor>,
    ) -> Result<Self> {
        let design = Design::raw(h)?;
        let rows = match target {
            Target::One(_) => classes,
            Target::Many(_) => 2,
        };
        let state = state.unwrap_or_else(|| {
            Tensor::zeros([rows, design.columns()], (Kind::Double, Device::Cpu))
        });
        Ok(Self { design, target, classes, rule, state })
    }

    /// Fits one penalty.
    pub(super) fn fit(&mut self, penalty: f64) -> Result<Fit> {
        let signs = match self.target {
            Target::One(_) => {
                let objective = Objective {
                    design: &self.design,
                    target: self.target,
                    classes: self.classes,
                    precondition: false,
                };
                let fit = minimise(&objective, penalty, &self.state, self.rule)?;
                self.state = fit.weights.copy();
                return Ok(fit);
            }
            Target::Many(signs) => signs,
        };
        let mut whole = Fit {
            weights: Tensor::zeros(
                [self.classes, self.design.columns()],
                (Kind::Double, Device::Cpu),
            ),
            iterations: 0,
            objective: 0.0,
            gradient: 0.0,
            converged: true,
        };
        for class in 0..self.classes {
            let signs = signs.get(class);
            let counted = signs.nonzero().view(-1);
            let labels = signs.index_select(0, &counted).gt(0.0).to_kind(Kind::Int64);
            let design = self.design.rows_at(&counted);
            let target = Target::One(labels);
            let objective =
                Objective { design: &design, target: &target, classes: 2, precondition: false };
            let fit = minimise(&objective, penalty, &self.state, self.rule)?;
            let margin = fit.weights.get(1) - fit.weights.get(0);
            whole.weights.get(class).copy_(&margin);
            whole.iterations = whole.iterations.max(fit.iterations);
            whole.objective += fit.objective;
            whole.gradient = whole.gradient.max(fit.gradient);
            whole.converged &= fit.converged;
            self.state = fit.weights;
        }
        Ok(whole)
    }
}

fn minimise(objective: &Objective<'_>, penalty: f64, start: &Tensor, rule: Rule) -> Result<Fit> {
    let solver = Lbfgs::new(&start.view(-1), rule);
    let solved = side_by_side(objective, vec![(penalty, solver)])?;
    let stopped = matches!(solved[0].end(), Some(End::Gradient | End::Decrease));
    Ok(Fit::of(&solved[0], objective, stopped))
}

impl Fit {
    fn of(solver: &Lbfgs, objective: &Objective<'_>, converged: bool) -> Self {
        let weights = solver.point().view([objective.classes, objective.design.columns()]);
        let found = |of: fn(&super::lbfgs::Evaluation) -> f64| solver.found().map_or(f64::NAN, of);
        Self {
            weights: objective.design.to_features(&weights),
            iterations: solver.iterations(),
            objective: found(|at| at.value),
            gradient: found(|at| at.steepest),
            converged,
        }
    }
}
