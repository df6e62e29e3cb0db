//! How sure a number is: 95 % intervals.

use crate::random::{Purpose, Scope, Stream};

/// The normal quantile of a two-sided 95 % interval.
const Z: f64 = 1.959_964;

/// Resamples of a bootstrap interval.
const DRAWS: u64 = 1_000;

/// The 95 % interval of a share `correct / total` after Wilson (1927); `[0, 1]` when nothing was counted.
///
/// `(p + z²/2n ± z·sqrt(p(1−p)/n + z²/4n²)) / (1 + z²/n)`: unlike the textbook `p ± z·sqrt(p(1−p)/n)` it stays within
/// [0, 1] and is not empty at 0 % and 100 %.
pub fn wilson(correct: usize, total: usize) -> [f64; 2] {
    assert!(correct <= total, "no more images can be right than were counted");
    if total == 0 {
        return [0.0, 1.0];
    }
    let n = total as f64;
    let p = correct as f64 / n;
    let centre = p + Z * Z / (2.0 * n);
    let reach = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    [((centre - reach) / scale).max(0.0), ((centre + reach) / scale).min(1.0)]
}

/// The 95 % percentile bootstrap interval of a statistic of `images` images (Efron 1979): 1,000 resamples with
/// replacement, percentiles 2.5 and 97.5 with linear interpolation.
///
/// `statistic` gets the positions of the drawn images, each in `0..images`; draw `d` of a seed is always the same.
pub fn bootstrap(images: usize, seed: u64, mut statistic: impl FnMut(&[usize]) -> f64) -> [f64; 2] {
    assert!(images > 0, "nothing to draw from");
    let mut drawn = vec![0; images];
    let mut values: Vec<f64> = (0..DRAWS)
        .map(|draw| {
            let mut stream = Stream::open(seed, Purpose::Bootstrap, Scope::Item(draw));
            drawn.fill_with(|| stream.below(images as u64) as usize);
            statistic(&drawn)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    [percentile(&values, 0.025), percentile(&values, 0.975)]
}

/// The value at a share of sorted values, between neighbours linear.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let below = sorted[position.floor() as usize];
    let above = sorted[position.ceil() as usize];
    below + (above - below) * position.fract()
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact where the arithmetic is")]
mod tests {
    use super::*;

    #[test]
    fn wilson_gives_published_values() {
        // Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
        for (correct, total, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let [found_low, found_high] = wilson(correct, total);
            assert!((found_low - low).abs() < 6e-5, "{correct}/{total}: {found_low}");
            assert!((found_high - high).abs() < 6e-5, "{correct}/{total}: {found_high}");
        }
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
        assert_eq!(wilson(7, 7)[1], 1.0);
    }

    #[test]
    fn percentiles_interpolate() {
        let values = [0.0, 1.0, 2.0, 3.0, 10.0];
        assert_eq!(percentile(&values, 0.0), 0.0);
        assert_eq!(percentile(&values, 0.5), 2.0);
        assert_eq!(percentile(&values, 1.0), 10.0);
        assert!((percentile(&values, 0.9) - 7.2).abs() < 1e-12);
    }

    #[test]
    fn the_bootstrap_of_a_mean_agrees_with_the_normal_interval() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(u8::from(i % 4 == 0))).collect();
        let mean =
            |drawn: &[usize]| drawn.iter().map(|i| values[*i]).sum::<f64>() / drawn.len() as f64;
        let [low, high] = bootstrap(values.len(), 3, mean);
        let reach = Z * (0.25f64 * 0.75 / 400.0).sqrt();
        assert!((low - (0.25 - reach)).abs() < 0.01, "{low}");
        assert!((high - (0.25 + reach)).abs() < 0.01, "{high}");
        assert_eq!([low, high], bootstrap(values.len(), 3, mean));
        assert_ne!([low, high], bootstrap(values.len(), 4, mean));
    }
}
