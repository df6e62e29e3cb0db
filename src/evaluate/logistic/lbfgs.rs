//! Limited-memory BFGS that asks for an evaluation and is told, so that many problems can share one.
//!
//! The two-loop recursion of Nocedal 1980 (Nocedal and Wright 2006, algorithm 7.4) with a diagonal preconditioner as the
//! initial inverse Hessian and the line search of [`super::line_search`]. Without a preconditioner, first step, memory,
//! skipped updates, restarts and stopping are those of L-BFGS-B 3.0 without bounds, and so are the iterates.

use super::line_search::{Next, Search};
use std::collections::VecDeque;
use tch::Tensor;

/// Pairs of moves and gradient changes kept.
const MEMORY: usize = 10;

/// When to stop. The first rule that holds counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// The largest gradient entry that is small enough.
    pub(super) gradient: f64,
    /// The decrease of one iteration, relative to the larger of 1 and the values, that is too small to go on.
    pub(super) decrease: f64,
    /// How far above its minimum the value may be, relative to it, by the quadratic model: half the Newton decrement.
    /// Asked for beside `gradient`; none asks nothing.
    pub(super) gap: Option<f64>,
    /// Most iterations.
    pub(super) iterations: usize,
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The gradient is small enough.
    Gradient,
    /// The value no longer falls.
    Decrease,
    /// There were as many iterations as allowed.
    Iterations,
    /// No step along the steepest descent lowers the value: the limit of the arithmetic.
    Rounding,
    /// A value or gradient is infinite or not a number.
    NonFinite,
}

/// Value and gradient at a point.
#[derive(Debug)]
pub(super) struct Evaluation {
    pub(super) value: f64,
    /// f64 `[P]`.
    pub(super) gradient: Tensor,
    /// The largest gradient entry by amount, in the coordinates that the rule is meant in.
    pub(super) steepest: f64,
    /// Estimate of the inverse Hessian's diagonal up to a factor, f64 `[P]`; none is all ones.
    pub(super) preconditioner: Option<Tensor>,
}

/// A move between two accepted points and what it did to the gradient.
#[derive(Debug)]
struct Pair {
    moved: Tensor,
    change: Tensor,
    product: f64,
}

/// One minimisation under way.
#[derive(Debug)]
pub(super) struct Lbfgs {
    rule: Rule,
    point: Tensor,
    trial: Tensor,
    /// At `point`; none before the first evaluation.
    at: Option<Evaluation>,
    direction: Tensor,
    search: Option<Search>,
    pairs: VecDeque<Pair>,
    iterations: usize,
    end: Option<End>,
}

impl Lbfgs {
    /// A minimisation from a point f64 `[P]`.
    pub(super) fn new(start: &Tensor, rule: Rule) -> Self {
        Self {
            rule,
            point: start.copy(),
            trial: start.copy(),
            at: None,
            direction: start.zeros_like(),
            search: None,
            pairs: VecDeque::new(),
            iterations: 0,
            end: None,
        }
    }

    /// Where to evaluate next, f64 `[P]`.
    pub(super) fn trial(&self) -> &Tensor {
        &self.trial
    }

    /// Why it ended, if it has.
    pub(super) fn end(&self) -> Option<End> {
        self.end
    }

    /// The best point so far, f64 `[P]`.
    pub(super) fn point(&self) -> &Tensor {
        &self.point
    }

    /// What was found at [`Lbfgs::point`]; none before the first evaluation.
    pub(super) fn found(&self) -> Option<&Evaluation> {
        self.at.as_ref()
    }

    /// Lets go of what only a search under way needs.
    pub(super) fn forget(&mut self) {
        self.pairs.clear();
        (self.trial, self.direction) = (Tensor::new(), Tensor::new());
    }

    /// Iterations done.
    pub(super) fn iterations(&self) -> usize {
        self.iterations
    }

    /// Takes the evaluation at [`Lbfgs::trial`].
    pub(super) fn tell(&mut self, found: Evaluation) {
        if !(found.value.is_finite() && found.steepest.is_finite()) {
            self.end = Some(End::NonFinite);
            return;
        }
        let Some(search) = &mut self.search else {
            self.at = Some(found);
            self.go_on(None);
            return;
        };
        match search.tell(found.value, dot(&found.gradient, &self.direction)) {
            Next::Try(step) => self.trial = &self.point + &self.direction * step,
            Next::Accept => self.accept(found),
            Next::GiveUp => self.restart(),
        }
    }

    fn accept(&mut self, found: Evaluation) {
        let (Some(before), Some(search)) = (self.at.take(), self.search.take()) else { return };
        let moved = &self.direction * search.step();
        let change = &found.gradient - &before.gradient;
        let product = dot(&moved, &change);
        if product > f64::EPSILON * -search.first_slope() * search.step() {
            if self.pairs.len() == MEMORY {
                self.pairs.pop_front();
            }
            self.pairs.push_back(Pair { moved, change, product });
        }
        std::mem::swap(&mut self.point, &mut self.trial);
        self.iterations += 1;
        let fallen = before.value - found.value;
        let scale = before.value.abs().max(found.value.abs()).max(1.0);
        self.at = Some(found);
        self.go_on(Some(fallen / scale));
    }

    /// Forgets the memory and tries again; without memory there is nothing left to try.
    fn restart(&mut self) {
        if self.pairs.is_empty() {
            self.end = Some(End::Rounding);
        } else {
            self.pairs.clear();
            self.go_on(None);
        }
    }

    /// Stops, or chooses a direction and begins a search along it.
    fn go_on(&mut self, decrease: Option<f64>) {
        let Some(at) = &self.at else { return };
        let direction = self.descent(at);
        let slope = dot(&direction, &at.gradient);
        let small = at.steepest <= self.rule.gradient;
        let close = self.rule.gap.is_none_or(|gap| -slope / 2.0 <= gap * at.value.abs());
        self.end = if small && close {
            Some(End::Gradient)
        } else if decrease.is_some_and(|decrease| decrease <= self.rule.decrease) {
            Some(End::Decrease)
        } else if self.iterations >= self.rule.iterations {
            Some(End::Iterations)
        } else {
            None
        };
        if self.end.is_some() {
            return;
        }
        if slope >= 0.0 {
            self.restart();
            return;
        }
        let careful = self.iterations == 0 && at.preconditioner.is_none();
        let step = if careful { 1.0 / dot(&direction, &direction).sqrt() } else { 1.0 };
        self.search = Some(Search::new(at.value, slope, step));
        self.trial = &self.point + &direction * step;
        self.direction = direction;
    }

    /// The two-loop recursion: minus the inverse Hessian's estimate times the gradient.
    fn descent(&self, at: &Evaluation) -> Tensor {
        let mut direction = -&at.gradient;
        let mut shares = Vec::with_capacity(self.pairs.len());
        for pair in self.pairs.iter().rev() {
            let share = dot(&pair.moved, &direction) / pair.product;
            direction -= &pair.change * share;
            shares.push(share);
        }
        let scaled = |rows: &Tensor| match &at.preconditioner {
            Some(preconditioner) => rows * preconditioner,
            None => rows.copy(),
        };
        direction = scaled(&direction);
        if let Some(last) = self.pairs.back() {
            direction *= last.product / dot(&last.change, &scaled(&last.change));
        }
        for (pair, share) in self.pairs.iter().zip(shares.into_iter().rev()) {
            let back = dot(&pair.change, &direction) / pair.product;
            direction += &pair.moved * (share - back);
        }
        direction
    }
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    a.dot(b).double_value(&[])
}
