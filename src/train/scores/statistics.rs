//! What the scores of a step come to.

use crate::method::compared::{Compared, Excluded, Negatives};
use crate::rows::{row_dot, unit_rows};
use tch::{Device, Kind, Tensor};

/// Shares of the negatives that lie below each of the quantiles.
pub const QUANTILES: [f64; 5] = [0.01, 0.25, 0.5, 0.75, 0.99];

/// Columns looked at together: 16 MB of scores for 64 queries.
const COLUMNS: i64 = 1 << 16;

/// Negatives of a query that the quantiles are taken from, at most: evenly taken ones.
const SAMPLE: i64 = 256;

/// Below every score.
const LOWEST: f64 = -1e30;

/// The scores of a step: cosines, before the temperature. NaN where a method has no such thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// Queries looked at.
    pub queries: usize,
    /// Negatives of a query, on average.
    pub negatives: f64,
    /// Mean over the queries of the score of their positives.
    pub pos_mean: f64,
    /// Mean over the queries of the mean of their negatives.
    pub neg_mean: f64,
    /// Mean over the queries of the variance (unbiased) of their negatives; not the variance of all scores together.
    pub neg_var: f64,
    /// Mean over the queries of exp(s⁺/τ).
    pub exp_pos_mean: f64,
    /// Mean over the queries of the mean of exp(s/τ) over their negatives.
    pub exp_neg_mean: f64,
    /// Quantiles of the negatives of all queries, of [`QUANTILES`]; of more than 256 a query those of an even sample.
    pub neg_quantiles: [f64; 5],
    /// Mean over the queries of the highest of their negatives.
    pub neg_hardest: f64,
    /// For every query: mean and variance of its negatives, its positive, mean exp(s/τ), exp(s⁺/τ).
    pub each: Vec<[f64; 5]>,
}

impl Statistics {
    /// Of the first `queries` queries of these, in order. Several hold consecutive queries.
    pub fn of(compared: &[Compared], queries: i64, temperature: Option<f64>) -> Self {
        let mut left = queries;
        let (mut each, mut hardest, mut sample, mut negatives) =
            (Vec::new(), Vec::new(), Vec::new(), 0.0);
        for part in compared {
            let taken = left.min(part.queries.size()[0]);
            if taken == 0 {
                break;
            }
            left -= taken;
            let found = Part::of(part, taken, temperature);
            each.extend(found.each);
            hardest.extend(found.hardest);
            sample.extend(found.sample);
            negatives += found.negatives;
        }
        let count = each.len() as f64;
        let mean =
            |column: usize| each.iter().map(|row: &[f64; 5]| row[column]).sum::<f64>() / count;
        sample.sort_unstable_by(f32::total_cmp);
        Self {
            queries: each.len(),
            negatives: negatives / count,
            pos_mean: mean(2),
            neg_mean: mean(0),
            neg_var: mean(1),
            exp_pos_mean: mean(4),
            exp_neg_mean: mean(3),
            neg_quantiles: QUANTILES.map(|share| quantile(&sample, share)),
            neg_hardest: hardest.iter().sum::<f64>() / count,
            each,
        }
    }

    /// The numbers by their names in `scores.jsonl`.
    pub fn named(&self) -> [(&'static str, f64); 13] {
        let [q01, q25, q50, q75, q99] = self.neg_quantiles;
        [
            ("queries", self.queries as f64),
            ("negatives", self.negatives),
            ("pos_mean", self.pos_mean),
            ("neg_mean", self.neg_mean),
            ("neg_var", self.neg_var),
            ("exp_pos_mean", self.exp_pos_mean),
            ("exp_neg_mean", self.exp_neg_mean),
            ("neg_q01", q01),
            ("neg_q25", q25),
            ("neg_q50", q50),
            ("neg_q75", q75),
            ("neg_q99", q99),
            ("neg_hardest", self.neg_hardest),
        ]
    }
}

/// The value below which this share of the sorted values lies, linear between two of them; NaN of none.
fn quantile(sorted: &[f32], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    f64::from(below) + place.fract() * (f64::from(above) - f64::from(below))
}

/// Consecutive queries against the same negatives.
struct Part {
    each: Vec<[f64; 5]>,
    hardest: Vec<f64>,
    sample: Vec<f32>,
    /// Of all queries together.
    negatives: f64,
}

impl Part {
    fn of(compared: &Compared, queries: i64, temperature: Option<f64>) -> Self {
        let unit =
            |rows: &Tensor| if compared.to_unit { unit_rows(rows) } else { rows.shallow_clone() };
        let q = unit(&compared.queries.narrow(0, 0, queries));
        let k = unit(&compared.positives.narrow(0, 0, queries));
        let positive = row_dot(&q, &k).squeeze_dim(1).to_kind(Kind::Double);
        let t = temperature.unwrap_or(f64::NAN);
        let exp_positive = (&positive / t).exp();
        let nothing = || positive.full_like(f64::NAN);
        let (mut columns, mut sample) = (None, Vec::new());
        match &compared.negatives {
            Negatives::None => {}
            Negatives::Shared(rows, excluded) => {
                let rows = unit(rows);
                let all = rows.size()[0];
                for start in (0..all).step_by(COLUMNS as usize) {
                    let width = COLUMNS.min(all - start);
                    let scores = q.matmul(&rows.narrow(0, start, width).tr());
                    let left_out = excluded.mask(queries, all, start, width, q.device());
                    sample.extend(even_sample(&scores, left_out.as_ref(), all));
                    let found = Columns::of(scores, left_out.as_ref(), t);
                    columns = Some(match columns {
                        None => found,
                        Some(before) => Columns::joined(&before, &found, t),
                    });
                }
            }
            Negatives::Drawn(rows, indices) => {
                let drawn = indices.size()[1] - 1;
                let indices = indices.narrow(0, 0, queries).narrow(1, 1, drawn);
                let own = |query: i64| {
                    let rows = unit(&rows.index_select(0, &indices.get(query)));
                    rows.mv(&q.get(query))
                };
                let scores = Tensor::stack(&(0..queries).map(own).collect::<Vec<_>>(), 0);
                sample.extend(even_sample(&scores, None, drawn));
                columns = Some(Columns::of(scores, None, t));
            }
        }
        let (mean, variance, exp, hardest, count) = match &columns {
            None => (nothing(), nothing(), nothing(), nothing(), positive.zeros_like()),
            Some(found) => {
                // NaN for a query without a negative.
                let none = found.count.lt(1.0);
                let known = |tensor: Tensor| tensor.masked_fill(&none, f64::NAN);
                (
                    known(found.mean.shallow_clone()),
                    known(&found.squares / (&found.count - 1.0)),
                    known(&found.exp / &found.count * (&found.highest / t).exp()),
                    known(found.highest.shallow_clone()),
                    found.count.shallow_clone(),
                )
            }
        };
        // One transfer for all of them.
        let all = Tensor::stack(&[mean, variance, positive, exp, exp_positive, hardest, count], 1);
        let all = Vec::<f64>::try_from(all.to_device(Device::Cpu).contiguous().view(-1));
        let all = all.expect("a list of f64 is one");
        let rows = || all.chunks_exact(7);
        Self {
            each: rows().map(|row| [row[0], row[1], row[2], row[3], row[4]]).collect(),
            hardest: rows().map(|row| row[5]).collect(),
            sample,
            negatives: rows().map(|row| row[6]).sum(),
        }
    }
}

/// What columns of scores come to, for every query, f64 `[S]` each.
struct Columns {
    count: Tensor,
    mean: Tensor,
    /// Sum of the squared distances from the mean.
    squares: Tensor,
    highest: Tensor,
    /// Sum of exp((s - highest)/τ).
    exp: Tensor,
}

impl Columns {
    /// Of scores `[S, w]` without those that are left out, bool `[S, w]`.
    fn of(scores: Tensor, left_out: Option<&Tensor>, temperature: f64) -> Self {
        let dim = [1i64].as_slice();
        let width = scores.size()[1] as f64;
        let sum = |tensor: &Tensor| tensor.sum_dim_intlist(dim, true, None);
        let (count, mean) = match left_out {
            None => {
                let mean = scores.mean_dim(dim, true, None);
                (mean.full_like(width), mean)
            }
            Some(left_out) => {
                let count = width - sum(&left_out.to_kind(scores.kind()));
                let mean = sum(&scores.masked_fill(left_out, 0.0)) / count.clamp_min(1.0);
                (count, mean)
            }
        };
        let fill = |tensor: Tensor, value: f64| match left_out {
            None => tensor,
            Some(left_out) => tensor.masked_fill(left_out, value),
        };
        let squares = sum(&fill((&scores - &mean).square_(), 0.0));
        let scores = fill(scores, f64::NEG_INFINITY);
        // Finite, so that a query of which all are left out adds zeros.
        let highest = scores.amax(dim, true).clamp_min(LOWEST);
        let exp = sum(&(scores - &highest).g_div_scalar_(temperature).exp_());
        let list = |tensor: Tensor| tensor.squeeze_dim(1).to_kind(Kind::Double);
        Self {
            count: list(count),
            mean: list(mean),
            squares: list(squares),
            highest: list(highest),
            exp: list(exp),
        }
    }

    /// Of both together (Chan et al. 1979).
    fn joined(a: &Self, b: &Self, temperature: f64) -> Self {
        let count = &a.count + &b.count;
        let share = &b.count / count.clamp_min(1.0);
        let apart = &b.mean - &a.mean;
        let highest = a.highest.maximum(&b.highest);
        let exp = |part: &Self| &part.exp * ((&part.highest - &highest) / temperature).exp();
        Self {
            mean: &a.mean + &apart * &share,
            squares: &a.squares + &b.squares + apart.square() * &a.count * &share,
            exp: exp(a) + exp(b),
            count,
            highest,
        }
    }
}

/// Up to [`SAMPLE`] of the scores of each query, of `all` columns that these are some of; what is left out is not among
/// them.
fn even_sample(scores: &Tensor, left_out: Option<&Tensor>, all: i64) -> Vec<f32> {
    let step = (all + SAMPLE - 1) / SAMPLE;
    let width = scores.size()[1];
    let even = |tensor: &Tensor| tensor.slice(1, 0, width, step.max(1));
    let some = match left_out {
        None => even(scores).contiguous().view(-1),
        Some(left_out) => even(scores).masked_select(&even(&left_out.logical_not())),
    };
    let some = Vec::<f32>::try_from(some.to_kind(Kind::Float).to_device(Device::Cpu));
    some.expect("a list of f32 is one")
}

impl Excluded {
    /// Which of the `width` columns from `start` on, of `all`, are no negatives of the first queries: bool `[S, width]`.
    fn mask(
        &self,
        queries: i64,
        all: i64,
        start: i64,
        width: i64,
        device: Device,
    ) -> Option<Tensor> {
        let whole = (Kind::Int64, device);
        let columns = || Tensor::arange_start(start, start + width, whole).unsqueeze(0);
        let query = || Tensor::arange(queries, whole).unsqueeze(1);
        match self {
            Self::Nothing => None,
            Self::OwnPair => {
                Some(columns().remainder(all / 2).eq_tensor(&query().remainder(all / 2)))
            }
            Self::Columns(excluded) => {
                let excluded = excluded.narrow(0, 0, queries);
                let each = (0..excluded.size()[1])
                    .map(|place| columns().eq_tensor(&excluded.narrow(1, place, 1)));
                each.reduce(|all, one| all.logical_or(&one))
            }
            Self::SameLabel(labels) => {
                let rows = labels.repeat([2]).narrow(0, start, width).unsqueeze(0);
                Some(labels.narrow(0, 0, queries).unsqueeze(1).eq_tensor(&rows))
            }
        }
    }
}
