//! Beta draws: one at a time, exact; or many at once, out of a table of the inverse distribution function.

use super::Stream;
use multiversion::multiversion;

/// Bits of a probability's mantissa that choose the table's cell; the rest say where in the cell.
const CELL_BITS: u32 = 9;

/// Knots of half a table: the probabilities 2^-33 to 1/2, every octave in 2^`CELL_BITS` cells, and one more.
const KNOTS: usize = (32 << CELL_BITS) + 2;

/// Points at which the density is summed up.
const POINTS: usize = 1 << 14;

/// Blocks of four numbers worked on at once.
const BLOCKS: usize = 512;

impl Stream {
    /// Beta(`alpha`, `beta`) in [0, 1], both above 0: X / (X + Y) of two gamma draws.
    pub fn beta(&mut self, alpha: f64, beta: f64) -> f64 {
        let (x, y) = (self.gamma(alpha), self.gamma(beta));
        // Two gammas too small for f64: the distribution sits at its ends, with shares α : β.
        if x + y == 0.0 { f64::from(self.chance(alpha / (alpha + beta))) } else { x / (x + y) }
    }

    /// Gamma with this shape, above 0, and scale 1 (Marsaglia and Tsang 2000, "A simple method for generating gamma
    /// variables"; shapes below 1 by a power of a uniform number).
    fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let smaller = (1.0 - self.uniform()).powf(shape.recip());
            return self.gamma(shape + 1.0) * smaller;
        }
        let d = shape - 1.0 / 3.0;
        let c = (9.0 * d).sqrt().recip();
        loop {
            let normal = self.normal();
            let v = (1.0 + c * normal).powi(3);
            let accept = || 0.5 * normal * normal + d - d * v + d * v.ln();
            if v > 0.0 && (1.0 - self.uniform()).ln() < accept() {
                return d * v;
            }
        }
    }

    /// Fills `values` with independent Beta(`alpha`, `beta`) draws, both in [0.05, 1000], from the stream's next whole
    /// block on: eight million in a tenth of a second. A 32-bit number becomes a quantile, read from a table which is as
    /// fine at both ends as in the middle; Beta(1, 1) is the uniform distribution.
    pub fn fill_beta(&mut self, alpha: f64, beta: f64, values: &mut [f32]) {
        let mirrored = quantiles(beta, alpha).into_iter().map(|value| 1.0 - value);
        let table = quantiles(alpha, beta).into_iter().chain(mirrored).map(|value| value as f32);
        let table: Vec<f32> = table.collect();
        let mut blocks = [[0; 4]; BLOCKS];
        for part in values.chunks_mut(4 * BLOCKS) {
            let blocks = &mut blocks[..part.len().div_ceil(4)];
            self.blocks(blocks);
            look_up(&table, blocks.as_flattened(), part);
        }
    }
}

/// For each number n the quantile of (n + ½) / 2³², between the two knots of its cell. Numbers of the upper half count
/// from the other end, in the second half of the table.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn look_up(table: &[f32], numbers: &[u32], values: &mut [f32]) {
    let (lower, upper) = table.split_at(KNOTS);
    for (value, number) in values.iter_mut().zip(numbers) {
        let (half, number) = if number >> 31 == 0 { (lower, *number) } else { (upper, !number) };
        let (cell, within) = position(number as f32 + 0.5);
        let (low, high) = (half[cell], half[cell + 1]);
        *value = low + (high - low) * within;
    }
}

/// Bits of a number in f32 below those of its cell.
const WITHIN_BITS: u32 = 23 - CELL_BITS;

/// Bits of ½, where the first cell begins.
const FIRST: u32 = 0.5_f32.to_bits() >> WITHIN_BITS;

/// Cell of a number from ½ to 2³¹, and how far in it the number is, in [0, 1).
#[inline]
fn position(number: f32) -> (usize, f32) {
    let bits = number.to_bits();
    let within = bits & ((1 << WITHIN_BITS) - 1);
    (((bits >> WITHIN_BITS) - FIRST) as usize, within as f32 / (1 << WITHIN_BITS) as f32)
}

/// Where a cell begins; the inverse of [`position`].
fn knot(cell: usize) -> f32 {
    f32::from_bits((FIRST + cell as u32) << WITHIN_BITS)
}

/// The values below which `knot(cell)` / 2³² of the distribution lies, for every cell.
///
/// In y = ln( x / (1 - x) ) the density is e^(αy) / (1 + e^y)^(α+β): smooth, whatever α and β, like a normal one around
/// its mode and falling by e^α and e^β per unit far from it. It is summed by trapezoids and inverted by walking along the
/// sum.
fn quantiles(alpha: f64, beta: f64) -> Vec<f64> {
    let (mode, deviation) = ((alpha / beta).ln(), (alpha.recip() + beta.recip()).sqrt());
    let first = mode - 9.0 * deviation - 40.0 / alpha;
    let last = mode + 9.0 * deviation + 40.0 / beta;
    let width = (last - first) / POINTS as f64;
    let at = |point: usize| first + width * point as f64;
    let logistic = |y: f64| (1.0 + (-y).exp()).recip();
    let logarithm = |y: f64| alpha * y - (alpha + beta) * (y.max(0.0) + (-y.abs()).exp().ln_1p());
    let highest = logarithm(mode);
    let relative = |point| (logarithm(at(point)) - highest).exp();
    let density: Vec<f64> = (0..=POINTS).map(relative).collect();
    let area = |point: usize| 0.5 * (density[point] + density[point + 1]);
    let total: f64 = (0..POINTS).map(area).sum();

    let (mut point, mut below) = (0, 0.0);
    let walk = |cell: usize| {
        let wanted = total * f64::from(knot(cell)) / (1u64 << 32) as f64;
        while point + 1 < POINTS && below + area(point) < wanted {
            below += area(point);
            point += 1;
        }
        let within = ((wanted - below) / area(point)).min(1.0);
        logistic(at(point) + width * within)
    };
    (0..KNOTS).map(walk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope};

    const SHAPES: [(f64, f64); 4] = [(2.0, 2.0), (1.6, 1.6), (2.0, 1.0), (5.0, 2.0)];

    fn stream() -> Stream {
        Stream::open(11, Purpose::Test, Scope::Item(0))
    }

    /// The distribution function at 0, 1/n, ..., 1 by Simpson's rule on x^(α-1) (1-x)^(β-1), α and β at least 1.
    fn cumulative(alpha: f64, beta: f64) -> Vec<f64> {
        const PARTS: usize = 20_000;
        let density = |x: f64| x.powf(alpha - 1.0) * (1.0 - x).powf(beta - 1.0);
        let mut sums = vec![0.0];
        for part in 0..PARTS {
            let (low, high) = (part as f64 / PARTS as f64, (part + 1) as f64 / PARTS as f64);
            let area = density(low) + 4.0 * density(0.5 * (low + high)) + density(high);
            sums.push(sums[part] + area);
        }
        let total = sums[PARTS];
        sums.into_iter().map(|sum| sum / total).collect()
    }

    /// Largest distance between the share of values below and the distribution function (Kolmogorov and Smirnov).
    fn distance(mut values: Vec<f64>, cumulative: &[f64]) -> f64 {
        values.sort_by(f64::total_cmp);
        let parts = (cumulative.len() - 1) as f64;
        let function = |x: f64| {
            let cell = ((x * parts) as usize).min(cumulative.len() - 2);
            let within = x * parts - cell as f64;
            cumulative[cell] + (cumulative[cell + 1] - cumulative[cell]) * within
        };
        let count = values.len() as f64;
        let off = values.iter().enumerate().map(|(rank, x)| {
            let expected = function(*x);
            (expected - rank as f64 / count).abs().max((expected - (rank + 1) as f64 / count).abs())
        });
        off.fold(0.0, f64::max)
    }

    fn bulk(alpha: f64, beta: f64, count: usize) -> Vec<f64> {
        let mut values = vec![0.0; count];
        stream().fill_beta(alpha, beta, &mut values);
        values.into_iter().map(f64::from).collect()
    }

    fn single(alpha: f64, beta: f64, count: usize) -> Vec<f64> {
        let mut stream = stream();
        (0..count).map(|_| stream.beta(alpha, beta)).collect()
    }

    #[test]
    fn both_forms_follow_the_integrated_density() {
        for (alpha, beta) in SHAPES {
            let expected = cumulative(alpha, beta);
            // Exceeded by chance once in 10,000 times: 2.23 / √n.
            let off = distance(bulk(alpha, beta, 1_000_000), &expected);
            assert!(off < 2.23e-3, "Beta({alpha}, {beta}) in bulk: {off}");
            let off = distance(single(alpha, beta, 100_000), &expected);
            assert!(off < 7.05e-3, "Beta({alpha}, {beta}): {off}");
        }
    }

    #[test]
    fn both_forms_have_the_moments_even_for_shapes_below_one() {
        for (alpha, beta) in SHAPES.into_iter().chain([(0.05, 0.2), (0.5, 3.0), (900.0, 300.0)]) {
            let (sum, count) = (alpha + beta, 200_000);
            let mean = alpha / sum;
            let variance = alpha * beta / (sum * sum * (sum + 1.0));
            for values in [bulk(alpha, beta, count), single(alpha, beta, count)] {
                assert!(values.iter().all(|value| (0.0..=1.0).contains(value)));
                let found = values.iter().sum::<f64>() / count as f64;
                assert!((found - mean).abs() < 5.0 * (variance / count as f64).sqrt());
                let square = |value: &f64| (value - mean) * (value - mean);
                let spread = values.iter().map(square).sum::<f64>() / count as f64;
                assert!((spread / variance - 1.0).abs() < 0.03, "Beta({alpha}, {beta}): {spread}");
            }
        }
    }

    #[test]
    fn the_table_holds_the_quantiles() {
        // F(x) = 3x² - 2x³ for Beta(2, 2), x² for Beta(2, 1), x for Beta(1, 1).
        type Distribution = fn(f64) -> f64;
        let known: [(f64, f64, Distribution); 3] =
            [(2.0, 2.0, |x| x * x * (3.0 - 2.0 * x)), (2.0, 1.0, |x| x * x), (1.0, 1.0, |x| x)];
        for (alpha, beta, function) in known {
            for (cell, value) in quantiles(alpha, beta).into_iter().enumerate() {
                let expected = f64::from(knot(cell)) / 2.0_f64.powi(32);
                let found = function(value);
                assert!((found / expected - 1.0).abs() < 3e-5, "{alpha}, {beta}, {cell}: {found}");
            }
        }
    }

    #[test]
    fn both_ends_are_drawn_as_they_should() {
        // F(x) = x² for Beta(2, 1), and one number of every octave from either end.
        let numbers: Vec<u32> = (0..32).map(|bit| 1 << bit).collect();
        let table: Vec<f32> = {
            let mirrored = quantiles(1.0, 2.0).into_iter().map(|value| 1.0 - value);
            quantiles(2.0, 1.0).into_iter().chain(mirrored).map(|value| value as f32).collect()
        };
        let mut values = vec![0.0; 32];
        look_up(&table, &numbers, &mut values);
        for (number, value) in numbers.iter().zip(&values) {
            let expected = ((f64::from(*number) + 0.5) / 2.0_f64.powi(32)).sqrt();
            assert!((f64::from(*value) / expected - 1.0).abs() < 3e-5, "{number}: {value}");
        }
        let numbers: Vec<u32> = numbers.iter().map(|number| !number).collect();
        look_up(&table, &numbers, &mut values);
        for (number, value) in numbers.iter().zip(&values) {
            let expected = ((f64::from(*number) + 0.5) / 2.0_f64.powi(32)).sqrt();
            assert!((f64::from(*value) - expected).abs() < 1e-6, "{number}: {value}");
        }
    }

    #[test]
    fn a_stream_in_bulk_is_its_key_and_nothing_else() {
        let (all, first) = (bulk(1.6, 1.6, 5_000), bulk(1.6, 1.6, 3));
        assert_eq!(all[..3], first[..]);
        let (mut stream, mut more) = (stream(), [0.0; 3]);
        stream.fill_beta(1.6, 1.6, &mut more);
        let mut rest = [0.0; 4];
        stream.fill_beta(1.6, 1.6, &mut rest);
        assert_eq!(rest.map(f64::from)[..], all[4..8]);
    }
}
