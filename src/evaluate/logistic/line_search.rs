//! A step along a direction that meets the strong Wolfe conditions.
//!
//! Moré and Thuente 1994, "Line search algorithms with guaranteed sufficient decrease" (ACM TOMS 20(3)), sections 2 to 4,
//! with the constants of L-BFGS-B 3.0, which scikit-learn runs: sufficient decrease 1e-3, curvature 0.9. That program gives up
//! an interval narrower than a tenth, conditions met or not.

/// Share of the first slope that a step must gain: `φ(a) ≤ φ(0) + 1e-3 · a · φ'(0)`.
const DECREASE: f64 = 1e-3;
/// Share of the first slope that may be left: `|φ'(a)| ≤ 0.9 · |φ'(0)|`.
const CURVATURE: f64 = 0.9;
/// How far beyond the last step an unbracketed search may look, in units of its last move.
const REACH: (f64, f64) = (1.1, 4.0);
/// The longest step.
const LONGEST: f64 = 1e10;
/// Trials of one search.
const TRIALS: usize = 20;

/// A step with the value and the slope there.
#[derive(Clone, Copy, Debug)]
struct At {
    step: f64,
    value: f64,
    slope: f64,
}

impl At {
    /// The same of the function less a line of the given slope through zero.
    fn less(self, slope: f64) -> Self {
        Self { value: self.value - self.step * slope, slope: self.slope - slope, ..self }
    }
}

/// What to do after a trial.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Next {
    /// Evaluate at this step.
    Try(f64),
    /// The last step will do: it meets both conditions, or the interval around the best one is too narrow to go on.
    Accept,
    /// No step was found.
    GiveUp,
}

/// A search under way.
#[derive(Debug)]
pub(super) struct Search {
    start: At,
    /// The best step so far, one end of the interval.
    best: At,
    /// The other end.
    other: At,
    bracketed: bool,
    /// Whether no step has yet gained enough with a slope that is not downhill.
    first_stage: bool,
    low: f64,
    high: f64,
    width: f64,
    width_before: f64,
    step: f64,
    tolerance: Tolerance,
    trials: usize,
}

/// What a search makes of the limits of arithmetic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerance {
    /// An interval this narrow, relative to its upper end, is not searched any further.
    pub(super) narrow: f64,
    /// Error of a value, relative to it. Where it hides whether a step gained enough, the slopes tell instead: the
    /// approximate Wolfe conditions of Hager and Zhang 2005 (SIAM J. Optim. 16(1), equation 1.6).
    pub(super) noise: f64,
}

impl Search {
    /// A search from a value with a slope below 0; the first trial is `step`.
    pub(super) fn new(value: f64, slope: f64, step: f64, tolerance: Tolerance) -> Self {
        let start = At { step: 0.0, value, slope };
        let step = step.min(LONGEST);
        Self {
            start,
            best: start,
            other: start,
            bracketed: false,
            first_stage: true,
            low: 0.0,
            high: step + REACH.1 * step,
            width: LONGEST,
            width_before: 2.0 * LONGEST,
            step,
            tolerance,
            trials: 0,
        }
    }

    /// The step to evaluate, or the last one evaluated.
    pub(super) fn step(&self) -> f64 {
        self.step
    }

    /// The slope at the start.
    pub(super) fn first_slope(&self) -> f64 {
        self.start.slope
    }

    /// Takes value and slope at [`Search::step`].
    pub(super) fn tell(&mut self, value: f64, slope: f64) -> Next {
        self.trials += 1;
        let at = At { step: self.step, value, slope };
        let line = DECREASE * self.start.slope;
        let enough = value <= self.start.value + at.step * line;
        if enough && slope.abs() <= CURVATURE * -self.start.slope {
            return Next::Accept;
        }
        let hidden = value <= self.start.value + self.tolerance.noise * self.start.value.abs();
        let flat = CURVATURE * self.start.slope..=(2.0 * DECREASE - 1.0) * self.start.slope;
        if self.tolerance.noise > 0.0 && hidden && flat.contains(&slope) {
            return Next::Accept;
        }
        if self.first_stage && enough && slope >= 0.0 {
            self.first_stage = false;
        }
        let exhausted = self.bracketed
            && (at.step <= self.low
                || at.step >= self.high
                || self.high - self.low <= self.tolerance.narrow * self.high);
        let unbounded = at.step >= LONGEST && enough && slope <= line;
        if exhausted || unbounded {
            return Next::Accept;
        }
        if self.trials == TRIALS {
            return Next::GiveUp;
        }
        self.narrow(at, line, enough);
        Next::Try(self.step)
    }

    /// Moves the interval and chooses the next step.
    fn narrow(&mut self, at: At, line: f64, enough: bool) {
        let limits = (self.low, self.high);
        // A lower value that has not gained enough: the function less its line has the interval.
        let line =
            if self.first_stage && at.value <= self.best.value && !enough { line } else { 0.0 };
        let (mut best, mut other) = (self.best.less(line), self.other.less(line));
        self.step = next_step(&mut best, &mut other, at.less(line), &mut self.bracketed, limits);
        (self.best, self.other) = (best.less(-line), other.less(-line));
        if self.bracketed {
            let width = (self.other.step - self.best.step).abs();
            if width >= 0.66 * self.width_before {
                self.step = self.best.step + 0.5 * (self.other.step - self.best.step);
            }
            self.width_before = self.width;
            self.width = width;
            self.low = self.best.step.min(self.other.step);
            self.high = self.best.step.max(self.other.step);
        } else {
            let move_ = self.step - self.best.step;
            self.low = self.step + REACH.0 * move_;
            self.high = self.step + REACH.1 * move_;
        }
        self.step = self.step.clamp(0.0, LONGEST);
        let nowhere = self.step <= self.low
            || self.step >= self.high
            || self.high - self.low <= self.tolerance.narrow * self.high;
        if self.bracketed && nowhere {
            self.step = self.best.step;
        }
    }
}

/// The minimum of the cubic through two points with their slopes, as a share of the way from `a` to `b`. With `cut` a
/// root that does not exist counts as 0.
fn cubic(a: At, b: At, cut: bool) -> (f64, f64) {
    let theta = 3.0 * (a.value - b.value) / (b.step - a.step) + a.slope + b.slope;
    let scale = theta.abs().max(a.slope.abs()).max(b.slope.abs());
    let square = (theta / scale).powi(2) - (a.slope / scale) * (b.slope / scale);
    let root = scale * if cut { square.max(0.0) } else { square }.sqrt();
    let root = if b.step < a.step { -root } else { root };
    let part = (root - a.slope) + theta;
    let whole =
        if cut { (root + (b.slope - a.slope)) + root } else { ((root - a.slope) + root) + b.slope };
    (part / whole, root)
}

/// The zero of the slope between two points, linear between them.
fn secant(at: At, best: At) -> f64 {
    at.step + at.slope / (at.slope - best.slope) * (best.step - at.step)
}

/// The four cases of section 4: the next step, and the interval with the trial `at` taken in.
fn next_step(
    best: &mut At,
    other: &mut At,
    at: At,
    bracketed: &mut bool,
    (low, high): (f64, f64),
) -> f64 {
    let turned = at.slope * best.slope.signum() < 0.0;
    let far = if at.step > best.step { high } else { low };
    let step = if at.value > best.value {
        // Higher: the minimum lies between. The cubic step, or half way from it to the quadratic one.
        *bracketed = true;
        let by_cubic = best.step + cubic(*best, at, false).0 * (at.step - best.step);
        let secant_slope = (best.value - at.value) / (at.step - best.step) + best.slope;
        let by_square = best.step + best.slope / secant_slope / 2.0 * (at.step - best.step);
        if (by_cubic - best.step).abs() < (by_square - best.step).abs() {
            by_cubic
        } else {
            by_cubic + (by_square - by_cubic) / 2.0
        }
    } else if turned {
        // Lower, and the slope has turned: between again. The step further from the trial.
        *bracketed = true;
        let by_cubic = at.step + cubic(at, *best, false).0 * (best.step - at.step);
        further(by_cubic, secant(at, *best), at.step)
    } else if at.slope.abs() < best.slope.abs() {
        // Lower and flatter: beyond the trial, if the cubic has a minimum there.
        let (share, root) = cubic(at, *best, true);
        let beyond = share < 0.0 && root != 0.0;
        let by_cubic = if beyond { at.step + share * (best.step - at.step) } else { far };
        let by_secant = secant(at, *best);
        if *bracketed {
            let step = nearer(by_cubic, by_secant, at.step);
            let most = at.step + 0.66 * (other.step - at.step);
            if at.step > best.step { step.min(most) } else { step.max(most) }
        } else {
            further(by_cubic, by_secant, at.step).max(low).min(high)
        }
    } else if *bracketed {
        at.step + cubic(at, *other, false).0 * (other.step - at.step)
    } else {
        far
    };
    if at.value > best.value {
        *other = at;
    } else {
        if turned {
            *other = *best;
        }
        *best = at;
    }
    step
}

fn further(a: f64, b: f64, from: f64) -> f64 {
    if (a - from).abs() > (b - from).abs() { a } else { b }
}

fn nearer(a: f64, b: f64, to: f64) -> f64 {
    if (a - to).abs() < (b - to).abs() { a } else { b }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "steps are handed on as they are")]
mod tests {
    use super::*;

    const EXACT: Tolerance = Tolerance { narrow: 1e-9, noise: 0.0 };

    /// Value and slope of functions 1 to 3 of Moré and Thuente's section 5.
    fn functions() -> [fn(f64) -> (f64, f64); 3] {
        [
            |a| (-a / (a * a + 2.0), (a * a - 2.0) / (a * a + 2.0).powi(2)),
            |a| {
                let b = a + 0.004;
                (b.powi(5) - 2.0 * b.powi(4), 5.0 * b.powi(4) - 8.0 * b.powi(3))
            },
            |a| {
                let (beta, l) = (0.01, 39.0);
                let bowl = if a <= 1.0 - beta {
                    (1.0 - a, -1.0)
                } else if a >= 1.0 + beta {
                    (a - 1.0, 1.0)
                } else {
                    ((a - 1.0).powi(2) / (2.0 * beta) + beta / 2.0, (a - 1.0) / beta)
                };
                let turn = l * std::f64::consts::PI / 2.0;
                let height = 2.0 * (1.0 - beta) / (l * std::f64::consts::PI);
                (bowl.0 + height * (turn * a).sin(), bowl.1 + height * turn * (turn * a).cos())
            },
        ]
    }

    #[test]
    fn an_accepted_step_meets_both_conditions_from_near_and_far() {
        for (name, function) in functions().into_iter().enumerate() {
            let (value, slope) = function(0.0);
            for first in [1e-3, 1e-1, 1.0, 10.0, 1e3] {
                let mut search = Search::new(value, slope, first, EXACT);
                assert_eq!(search.step(), first);
                let mut trials = 0;
                let at = loop {
                    trials += 1;
                    let at = function(search.step());
                    match search.tell(at.0, at.1) {
                        Next::Accept => break at,
                        Next::Try(step) => assert_eq!(step, search.step()),
                        Next::GiveUp => panic!("function {name} from {first}"),
                    }
                };
                let step = search.step();
                assert!(
                    at.0 <= value + DECREASE * step * slope,
                    "function {name} from {first}: {step}"
                );
                assert!(
                    at.1.abs() <= CURVATURE * slope.abs(),
                    "function {name} from {first}: {step}"
                );
                assert!(trials <= 15, "function {name} from {first}: {trials} trials");
            }
        }
    }

    #[test]
    fn a_search_without_a_minimum_or_without_a_descent_ends() {
        let mut search = Search::new(0.0, -1.0, 1.0, EXACT);
        let mut trials = 1;
        while let Next::Try(step) = search.tell(-search.step(), -1.0) {
            assert!(step > 0.0 && step <= LONGEST);
            trials += 1;
        }
        assert!(trials <= TRIALS);
        // The slope promises what the value never keeps.
        let mut search = Search::new(0.0, -1.0, 1.0, EXACT);
        let mut trials = 1;
        while let Next::Try(step) = search.tell(1e-9, -1.0) {
            assert!((0.0..=LONGEST).contains(&step));
            trials += 1;
        }
        assert!(trials <= TRIALS);
    }

    #[test]
    fn where_rounding_hides_the_gain_the_slopes_decide() {
        // A value that rounds to 1 near the minimum at 1 of a flat bowl.
        let slope = |step: f64| 1e-12 * (step - 1.0);
        let mut search = Search::new(1.0, slope(0.0), 1.1, EXACT);
        assert!(matches!(search.tell(1.0 + 1e-9, slope(1.1)), Next::Try(_)));
        let mut search = Search::new(1.0, slope(0.0), 1.1, Tolerance { noise: 1e-8, ..EXACT });
        assert_eq!(search.tell(1.0 + 1e-9, slope(1.1)), Next::Accept);
        let mut search = Search::new(1.0, slope(0.0), 1.1, Tolerance { noise: 1e-10, ..EXACT });
        assert!(matches!(search.tell(1.0 + 1e-9, slope(1.1)), Next::Try(_)));
    }
}
