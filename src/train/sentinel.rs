//! Sentinels: what goes wrong in a run without an error, seen early and named with its likely cause.

use super::journal::Counts;
use crate::error::{Error, Result};
#[cfg(doc)]
use crate::method::Method;
use crate::method::{Constant, Objective};
use crate::rows::unit_rows;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// What to do when a sentinel raises an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Nothing; the value is still logged.
    Off,
    /// Say so, once until it is over, and go on.
    Warn,
    /// End the run; the last checkpoint stays as it was.
    Stop,
    /// Go back to the last checkpoint and leave out the steps that led here, at most three times in a run.
    RollBack,
}

/// A policy for each sentinel: the `[train.sentinels]` table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SentinelConfig {
    /// A loss or gradient that is NaN or infinite. `warn` leaves the weights as they are at this step.
    pub non_finite: Policy,
    /// The loss stays at what a network that tells nothing apart has, ln(2N − 1) for NT-Xent.
    pub stuck: Policy,
    /// The standard deviation of the unit projections is far below 1/√d: all images get the same one.
    pub collapse: Policy,
    /// The unit projections use few of their dimensions (effective rank).
    pub rank: Policy,
    /// Few of the prototypes are used.
    pub prototypes: Policy,
    /// Two views of an image are no closer than views of different images.
    pub gap: Policy,
}

impl Default for SentinelConfig {
    fn default() -> Self {
        let (stop, warn) = (Policy::Stop, Policy::Warn);
        Self {
            non_finite: stop,
            stuck: warn,
            collapse: warn,
            rank: warn,
            prototypes: warn,
            gap: warn,
        }
    }
}

impl SentinelConfig {
    /// Checks that no impossible policy is asked for.
    ///
    /// # Errors
    /// [`Error::Recipe`]: weights that are NaN cannot be ignored.
    pub fn check(&self) -> Result<()> {
        if self.non_finite == Policy::Off {
            return Err(Error::Recipe(
                "`train.sentinels.non_finite` must be warn (leaves the step out), stop or roll_back, found `off`"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// Whether a checkpoint must exist before the first step.
    pub fn rolls_back(&self) -> bool {
        let all =
            [self.non_finite, self.stuck, self.collapse, self.rank, self.prototypes, self.gap];
        all.contains(&Policy::RollBack)
    }
}

/// A sentinel's finding.
#[derive(Clone, Debug, PartialEq)]
pub struct Alarm {
    /// Key of the sentinel in `[train.sentinels]`.
    pub name: &'static str,
    /// Step it belongs to, from 0.
    pub step: u64,
    /// What the recipe says to do.
    pub policy: Policy,
    /// Whether this is the first of a row, worth telling.
    pub first: bool,
    /// What was found, and the likely cause.
    pub text: String,
}

/// How far from its constant, relative to it where that is above 1, a loss counts as stuck.
const STUCK_WITHIN: f64 = 0.01;
/// Steps in a row at its constant that make a loss stuck.
const STUCK_STEPS: u32 = 50;
/// Looks at the projections in a row that make an alarm.
const LOOKS: u32 = 3;
/// Standard deviation of the unit projections, in units of 1/√d, below which they count as one point.
const SPREAD: f64 = 0.1;
/// Share of the possible dimensions below which the effective rank is too low.
const RANK_SHARE: f64 = 0.02;
/// Share of the prototypes in use below which most are dead.
const PROTOTYPE_SHARE: f64 = 0.05;
/// Difference of mean cosines below which positives are no closer than negatives.
const GAP: f64 = 0.02;
/// Rows of the projections that are looked at.
const ROWS: i64 = 256;

/// Judges each step. The constants of a collapsed network are judged only after warm-up: at the start every network is
/// near them.
#[derive(Debug)]
pub struct Watch {
    config: SentinelConfig,
    constant: Option<Constant>,
    judged_from: u64,
    counts: Counts,
    suspects: Vec<&'static str>,
}

/// What the projections of a batch look like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Standard deviation over the rows, mean over the dimensions, in units of 1/√d: 1 on a uniformly filled sphere, 0
    /// when all rows are the same (SimSiam, Chen and He 2021, arXiv:2011.10566, §4.1).
    pub deviation: f64,
    /// exp of the entropy of the normalised singular values (`RankMe`, Garrido et al. 2023, arXiv:2210.02885, Eq. 1), from
    /// 1 to min(rows, d).
    pub effective_rank: f64,
    /// min(rows, d).
    pub possible_rank: f64,
}

impl Spread {
    /// Looks at up to 256 rows, evenly taken, of projections `[R, d]`, each brought to length 1. `None` unless all are
    /// finite.
    pub fn of(projections: &Tensor) -> Option<Self> {
        let (_, d) = projections.size2().ok()?;
        let unit = some_unit_rows(projections).to_kind(Kind::Double).to_device(tch::Device::Cpu);
        let deviation = unit.std_dim(0, false, false).mean(None).double_value(&[]);
        if !deviation.is_finite() {
            return None;
        }
        // The smaller of the two Gram matrices has the same eigenvalues, the squares of the singular values.
        let (rows, narrow) = (unit.size()[0], unit.size()[0] < d);
        let gram = if narrow { unit.matmul(&unit.tr()) } else { unit.tr().matmul(&unit) };
        let values = gram.linalg_eigvalsh("L").clamp_min(0.0).sqrt();
        let share = &values / values.sum(None).clamp_min(1e-300);
        let entropy = -(&share * share.clamp_min(1e-300).log()).sum(None);
        Some(Self {
            deviation: deviation * (d as f64).sqrt(),
            effective_rank: entropy.exp().double_value(&[]),
            possible_rank: rows.min(d) as f64,
        })
    }

    /// [`Self::deviation`] alone, which costs little.
    pub fn deviation(projections: &Tensor) -> f64 {
        let d = projections.size().last().copied().unwrap_or_default() as f64;
        let deviation = some_unit_rows(projections).std_dim(0, false, false).mean(Kind::Double);
        deviation.double_value(&[]) * d.sqrt()
    }
}

/// Up to 256 rows, evenly taken, at length 1.
fn some_unit_rows(projections: &Tensor) -> Tensor {
    let rows = projections.size().first().copied().unwrap_or_default();
    let step = (rows + ROWS - 1) / ROWS;
    unit_rows(&projections.slice(0, 0, rows, step.max(1)))
}

impl Watch {
    /// A watch over a run whose constants count from step `judged_from` on.
    pub fn new(
        config: SentinelConfig,
        constant: Option<Constant>,
        judged_from: u64,
        counts: Counts,
    ) -> Self {
        Self { config, constant, judged_from, counts, suspects: Vec::new() }
    }

    /// The watch, naming these settings as the likely cause of a collapse: see [`Method::suspects`].
    #[must_use]
    pub fn suspecting(self, suspects: Vec<&'static str>) -> Self {
        Self { suspects, ..self }
    }

    /// What the settings of this run have to do with a collapse.
    fn blame(&self) -> String {
        match self.suspects.as_slice() {
            [] => String::new(),
            suspects => format!("; most likely here: {}", suspects.join(", ")),
        }
    }

    /// What was counted so far, for the checkpoint.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Starts counting anew, after a roll-back.
    pub fn forget(&mut self) {
        self.counts = Counts::default();
    }

    /// Judges the numbers of a step before the weights move.
    pub fn step(&mut self, step: u64, loss: f64, norm: f64, learning_rate: f64) -> Option<Alarm> {
        let broken = !loss.is_finite() || !norm.is_finite();
        let first = count(&mut self.counts.non_finite, broken, 1);
        if broken {
            let cause = if loss.is_finite() {
                "the loss is finite and its gradient is not, which points at an overflow on the way back: a projection \
                 of nearly zero length, or values too large for the precision"
            } else {
                "the usual cause is a learning rate too high for this batch, or too short a warm-up"
            };
            return Some(Alarm {
                name: "non_finite",
                step,
                first,
                policy: self.config.non_finite,
                text: format!(
                    "loss {loss} and gradient norm {norm} at learning rate {learning_rate:.4e}; {cause}"
                ),
            });
        }
        let constant = self.constant?;
        let close = (loss - constant.value).abs() <= STUCK_WITHIN * constant.value.abs().max(1.0);
        let stuck = step >= self.judged_from && close;
        let raised = count(&mut self.counts.stuck, stuck, STUCK_STEPS);
        let blame = self.blame();
        alarm("stuck", step, self.config.stuck, raised, || {
            let Constant { value, formula } = constant;
            format!(
                "for {STUCK_STEPS} steps the loss has been at {loss:.4}, which is {formula} = {value:.4}, the \
                 loss of a network that tells nothing apart; the learning rate is too high (collapsed) or too low, the \
                 temperature is wrong, or the views have nothing in common{blame}"
            )
        })
    }

    /// Judges what the projections of a step look like; returns what is worth logging and what is wrong.
    pub fn look(&mut self, step: u64, objective: &Objective) -> (Vec<(String, f64)>, Vec<Alarm>) {
        let Some(spread) = Spread::of(&objective.projections) else {
            return (Vec::new(), Vec::new());
        };
        let values = vec![
            ("train/projection_deviation".to_owned(), spread.deviation),
            ("train/effective_rank".to_owned(), spread.effective_rank),
        ];
        if step < self.judged_from {
            return (values, Vec::new());
        }
        let scalar = |name: &str| {
            objective.scalars.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
        };
        let blame = self.blame();
        let (config, counts) = (&self.config, &mut self.counts);
        let flat = spread.deviation < SPREAD;
        let collapse = alarm(
            "collapse",
            step,
            config.collapse,
            count(&mut counts.collapse, flat, LOOKS),
            || {
                format!(
                    "the projections of all images are nearly one vector (standard deviation {:.3} of 1/√d, \
                 {SPREAD} is the bound): the network has collapsed; the learning rate is too high, or what keeps the \
                 method from collapsing (negatives, batch norm, stop-gradient, predictor) is missing{blame}",
                    spread.deviation
                )
            },
        );
        let lowest = (RANK_SHARE * spread.possible_rank).max(2.0).min(0.5 * spread.possible_rank);
        // One point has no rank to speak of: the alarm above says it better.
        let low = spread.effective_rank < lowest && !flat;
        let rank = alarm("rank", step, config.rank, count(&mut counts.rank, low, LOOKS), || {
            format!(
                "the projections use {:.1} of {} dimensions (effective rank, {lowest:.1} is the bound): \
                 dimensional collapse; the temperature is too high, augmentation too strong, or weight decay too large",
                spread.effective_rank, spread.possible_rank
            )
        });
        let usage = scalar("prototype_usage");
        let dead = usage.is_some_and(|usage| usage < PROTOTYPE_SHARE);
        let prototypes = alarm(
            "prototypes",
            step,
            config.prototypes,
            count(&mut counts.prototypes, dead, LOOKS),
            || {
                format!(
                    "{:.1} % of the prototypes are used: the assignment has degenerated; raise epsilon, freeze the \
                 prototypes for longer at the start, or use fewer of them{blame}",
                    100.0 * usage.unwrap_or_default()
                )
            },
        );
        let pair = scalar("positive_similarity").zip(scalar("negative_similarity"));
        let level = pair.is_some_and(|(positive, negative)| positive - negative < GAP) && !flat;
        let gap = alarm("gap", step, config.gap, count(&mut counts.gap, level, LOOKS), || {
            let (positive, negative) = pair.unwrap_or_default();
            format!(
                "two views of an image (cosine {positive:.3}) are no closer than views of different images \
                 ({negative:.3}): nothing is learned; augmentation is too strong, the images are all alike, or the learning rate is \
                 wrong (too high where both are near 1){blame}"
            )
        });
        (values, [collapse, rank, prototypes, gap].into_iter().flatten().collect())
    }
}

/// Healthy steps or looks, in units of the bound, after which an alarm may come again.
const RECOVERY: u32 = 10;

/// Counts a wrong step or look; true when the bound is just reached. After that the counter is full and empties with
/// every healthy look, so that what comes and goes is told once.
fn count(counter: &mut u32, wrong: bool, bound: u32) -> bool {
    let (before, full) = (*counter, bound * (1 + RECOVERY));
    *counter = match (wrong, before) {
        (true, low) if low + 1 < bound => low + 1,
        (true, _) => full,
        (false, high) if high > bound => high - 1,
        (false, _) => 0,
    };
    wrong && before < bound && *counter == full
}

fn alarm(
    name: &'static str,
    step: u64,
    policy: Policy,
    raised: bool,
    text: impl FnOnce() -> String,
) -> Option<Alarm> {
    (raised && policy != Policy::Off).then(|| Alarm {
        name,
        step,
        policy,
        first: true,
        text: text(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn watch(judged_from: u64) -> Watch {
        let constant = Some(Constant { value: 63.0f64.ln(), formula: "ln(2N - 1)" });
        Watch::new(SentinelConfig::default(), constant, judged_from, Counts::default())
    }

    fn objective(projections: Tensor, scalars: &[(&str, f64)]) -> Objective {
        Objective {
            loss: 1.0,
            rows_gradient: Tensor::zeros([1], (Kind::Float, Device::Cpu)),
            carried: Vec::new(),
            scores: None,
            projections,
            scalars: scalars.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        }
    }

    /// The names of the alarms that three looks at the same projections raise.
    fn looks(projections: &Tensor, scalars: &[(&str, f64)]) -> Vec<&'static str> {
        let mut watch = watch(10);
        let objective = objective(projections.shallow_clone(), scalars);
        assert!(watch.look(9, &objective).1.is_empty(), "judged before warm-up");
        let found: Vec<Alarm> = (10..20).flat_map(|step| watch.look(step, &objective).1).collect();
        found.iter().map(|alarm| alarm.name).collect()
    }

    /// A fixed sphere of points: the projections of a healthy network.
    fn healthy() -> Tensor {
        let index = Tensor::arange(64 * 32, (Kind::Double, Device::Cpu)).view([64, 32]);
        ((index * 12.9898).sin() * 43_758.547).remainder(1.0) - 0.5
    }

    #[test]
    fn each_disease_raises_its_own_alarm_once() {
        let apart = [("positive_similarity", 0.8), ("negative_similarity", 0.0)];
        assert!(looks(&healthy(), &apart).is_empty());
        let point = healthy() * 1e-3 + 1.0;
        assert_eq!(looks(&point, &apart), ["collapse"]);
        // Two directions out of 32.
        let plane = healthy().narrow(1, 0, 1).matmul(&healthy().narrow(0, 0, 1));
        assert_eq!(looks(&plane, &apart), ["rank"]);
        let level = [("positive_similarity", 0.01), ("negative_similarity", 0.0)];
        assert_eq!(looks(&healthy(), &level), ["gap"]);
        let dead = [("prototype_usage", 0.01)];
        assert_eq!(looks(&healthy(), &dead), ["prototypes"]);
        assert!(looks(&healthy(), &[("prototype_usage", 0.5)]).is_empty());
    }

    #[test]
    fn a_loss_at_its_constant_for_fifty_steps_is_stuck_and_told_again_after_recovery() {
        let mut watch = watch(100);
        let constant = 63.0f64.ln();
        let mut told = Vec::new();
        for step in 0..2_000 {
            // A better step or two are no recovery, five hundred are.
            let well = step == 120 || step == 250 || (1_000..1_501).contains(&step);
            let loss = if well { 1.0 } else { constant * 1.009 };
            told.extend(watch.step(step, loss, 1.0, 0.1).map(|alarm| (step, alarm.name)));
        }
        assert_eq!(told, [(170, "stuck"), (1_550, "stuck")]);
        watch.forget();
        let text = (2_000..2_050).find_map(|step| watch.step(step, constant, 1.0, 0.1));
        let text = text.unwrap().text;
        assert!(text.contains("ln(2N - 1) = 4.1431"), "{text}");
    }

    #[test]
    fn what_is_not_finite_is_told_at_once_with_its_cause() {
        let mut watch = watch(1_000);
        let alarm = watch.step(3, f64::NAN, 1.0, 0.5).unwrap();
        assert_eq!((alarm.name, alarm.policy), ("non_finite", Policy::Stop));
        assert!(alarm.step == 3 && alarm.text.contains("learning rate too high"));
        let alarm = watch.step(3, 1.0, f64::INFINITY, 0.5).unwrap();
        assert!(alarm.text.contains("on the way back"), "{}", alarm.text);
        assert!(watch.step(4, 1.0, 1.0, 0.5).is_none());
    }

    #[test]
    fn a_resumed_watch_goes_on_counting() {
        let constant = Some(Constant { value: 4.0, formula: "c" });
        let mut first = Watch::new(SentinelConfig::default(), constant, 0, Counts::default());
        assert!((0..30).all(|step| first.step(step, 4.0, 1.0, 0.1).is_none()));
        let counts = first.counts().clone();
        let mut second = Watch::new(SentinelConfig::default(), constant, 0, counts);
        let told: Vec<u64> =
            (30..60).filter(|step| second.step(*step, 4.0, 1.0, 0.1).is_some()).collect();
        assert_eq!(told, [49]);
    }

    #[test]
    fn spread_has_its_closed_forms() {
        let eye = Tensor::eye(16, (Kind::Double, Device::Cpu));
        let spread = Spread::of(&eye).unwrap();
        assert!((spread.effective_rank - 16.0).abs() < 1e-9, "{spread:?}");
        // Each column holds one 1 and fifteen 0: variance 1/16 − 1/256.
        let expected = (1.0f64 / 16.0 - 1.0 / 256.0).sqrt() * 4.0;
        assert!((spread.deviation - expected).abs() < 1e-12);
        let one = Tensor::ones([600, 8], (Kind::Float, Device::Cpu));
        let spread = Spread::of(&one).unwrap();
        assert!(
            spread.deviation < 1e-6 && (spread.effective_rank - 1.0).abs() < 1e-5,
            "{spread:?}"
        );
        assert!(Spread::of(&(one * f64::NAN)).is_none());
    }

    #[test]
    fn ignoring_what_is_not_finite_is_refused_and_off_is_silent() {
        let mut config = SentinelConfig { non_finite: Policy::Off, ..SentinelConfig::default() };
        assert!(config.check().unwrap_err().to_string().contains("train.sentinels.non_finite"));
        config = SentinelConfig { stuck: Policy::Off, ..SentinelConfig::default() };
        config.check().unwrap();
        assert!(!config.rolls_back());
        let constant = Some(Constant { value: 4.0, formula: "c" });
        let mut watch = Watch::new(config, constant, 0, Counts::default());
        assert!((0..200).all(|step| watch.step(step, 4.0, 1.0, 0.1).is_none()));
    }
}
