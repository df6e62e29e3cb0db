//! Softmax cross-entropy and its derivative in one pass over a block of f32 logits.

use multiversion::multiversion;

/// Images handled together: as many as fill the processor's vectors and few enough to stay in its nearest cache.
const LANES: usize = 64;

/// Sums over a block of images.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    /// Cross-entropy in nats.
    pub(super) loss: f64,
    /// `(1 − Σ_c p_c²) / (C − 1)`: the mean second derivative by a logit where all classes are as likely.
    pub(super) bend: f64,
}

/// Turns logits `[C, n]` into the derivative of the loss by them, `p − onehot(y)`.
///
/// Everything is reckoned from the differences to the true class's logit, so that losses and derivatives near 0 keep their
/// relative precision: `ℓ = log(1 + Σ_{c≠y} exp(z_c − z_y))`, to a few units in the last place.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn softmax(logits: &mut [f32], labels: &[i64]) -> Sums {
    let n = labels.len();
    let classes = logits.len() / n;
    let mut sums = Sums::default();
    for first in (0..n).step_by(LANES) {
        let count = LANES.min(n - first);
        let (mut own, mut largest) = ([0.0f32; LANES], [0.0f32; LANES]);
        for (lane, own) in own[..count].iter_mut().enumerate() {
            *own = logits[labels[first + lane] as usize * n + first + lane];
        }
        for class in 0..classes {
            let row = &logits[class * n + first..][..count];
            for ((largest, own), logit) in largest.iter_mut().zip(&own).zip(row) {
                *largest = largest.max(logit - own);
            }
        }
        for class in 0..classes {
            let row = &mut logits[class * n + first..][..count];
            for ((logit, own), largest) in row.iter_mut().zip(&own).zip(&largest) {
                *logit = exp(*logit - own - largest);
            }
        }
        for lane in 0..count {
            logits[labels[first + lane] as usize * n + first + lane] = 0.0;
        }
        let (mut others, mut squares) = ([0.0f32; LANES], [0.0f32; LANES]);
        for class in 0..classes {
            let row = &logits[class * n + first..][..count];
            for ((others, squares), value) in others.iter_mut().zip(&mut squares).zip(row) {
                *others += value;
                *squares += value * value;
            }
        }
        let (mut scale, mut loss, mut bend) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
        for lane in 0..LANES {
            let own = exp(-largest[lane]);
            scale[lane] = 1.0 / (others[lane] + own);
            loss[lane] = largest[lane] + log1p(others[lane] + (own - 1.0));
            bend[lane] = 1.0 - (squares[lane] + own * own) * scale[lane] * scale[lane];
        }
        sums.loss += loss[..count].iter().map(|loss| f64::from(*loss)).sum::<f64>();
        sums.bend += bend[..count].iter().map(|bend| f64::from(*bend)).sum::<f64>();
        for class in 0..classes {
            let row = &mut logits[class * n + first..][..count];
            for (value, scale) in row.iter_mut().zip(&scale) {
                *value *= scale;
            }
        }
        for lane in 0..count {
            logits[labels[first + lane] as usize * n + first + lane] = -others[lane] * scale[lane];
        }
    }
    sums.bend /= (classes - 1) as f64;
    sums
}

/// `e^x` for x up to 0, within 2 units in the last place; below −87 as at −87.
#[inline]
fn exp(x: f32) -> f32 {
    let x = x.max(-87.0);
    let whole = (x * std::f32::consts::LOG2_E).round_ties_even();
    // ln 2 in two parts, the first short enough for the product to be exact.
    let rest = whole.mul_add(-0.693_359_4, x);
    let rest = whole.mul_add(2.121_944_4e-4, rest);
    let mut sum = 1.987_569_1e-4f32;
    for factor in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        sum = sum.mul_add(rest, factor);
    }
    let sum = sum.mul_add(rest * rest, rest) + 1.0;
    sum * f32::from_bits(((whole as i32 + 127) << 23) as u32)
}

/// `log(1 + x)` for x from 0 on, within a few units in the last place.
#[inline]
fn log1p(x: f32) -> f32 {
    // 1 + x rounds; the quotient takes the error out again (Goldberg 1991, theorem 4).
    let sum = 1.0 + x;
    let bits = sum.to_bits().wrapping_sub(0x3f33_3333); // from 0.7 to 1.4
    let power = (bits as i32) >> 23;
    let mantissa = f32::from_bits((bits & 0x007f_ffff).wrapping_add(0x3f33_3333)) - 1.0;
    let mut tail = 7.037_683_6e-2f32;
    for factor in [
        -0.115_146_1,
        0.116_769_984,
        -0.124_201_41,
        0.142_493_23,
        -0.166_680_57,
        0.200_007_14,
        -0.249_999_94,
        0.333_333_3,
    ] {
        tail = tail.mul_add(mantissa, factor);
    }
    let square = mantissa * mantissa;
    let power = power as f32;
    let log = (mantissa * square).mul_add(tail, power * -2.121_944_4e-4);
    let log = (log - 0.5 * square) + mantissa + power * 0.693_359_4;
    let rounded = sum - 1.0;
    if rounded > 0.0 { log * (x / rounded) } else { x }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact where the arithmetic is")]
mod tests {
    use super::*;

    /// The loss and the derivatives of one image in f64.
    fn plain(logits: &[f64], label: usize) -> (f64, Vec<f64>) {
        let others: f64 = (0..logits.len())
            .filter(|class| *class != label)
            .map(|class| (logits[class] - logits[label]).exp())
            .sum();
        let shares = logits.iter().map(|logit| (logit - logits[label]).exp() / (1.0 + others));
        let slopes = shares
            .enumerate()
            .map(|(class, share)| if class == label { -others / (1.0 + others) } else { share });
        (others.ln_1p(), slopes.collect())
    }

    #[test]
    fn small_losses_and_derivatives_keep_their_digits() {
        // 130 images: whole lanes and a rest.
        let (classes, n) = (5, 130);
        let labels: Vec<i64> = (0..n).map(|image| (image * 7 % classes) as i64).collect();
        for scale in [0.0, 1e-3, 1.0, 5.0, 30.0] {
            let logits: Vec<f32> =
                (0..classes * n).map(|at| (at as f32 * 1.7).sin() * scale as f32).collect();
            let mut found = logits.clone();
            let sums = softmax(&mut found, &labels);
            let mut loss = 0.0;
            for image in 0..n {
                let row: Vec<f64> =
                    (0..classes).map(|class| f64::from(logits[class * n + image])).collect();
                let (own, slopes) = plain(&row, labels[image] as usize);
                loss += own;
                for (class, slope) in slopes.iter().enumerate() {
                    let found = f64::from(found[class * n + image]);
                    let error = (found - slope).abs() / slope.abs();
                    // Differences of logits up to 60 are exact to half an ulp of 64, 4e-6.
                    assert!(error < 1e-6 + 2e-7 * scale, "scale {scale}: {found} {slope}");
                }
            }
            assert!((sums.loss / loss - 1.0).abs() < 1e-6, "scale {scale}: {} {loss}", sums.loss);
        }
    }

    #[test]
    fn one_image_alone_keeps_its_digits_however_sure() {
        for margin in [0.0f32, 1.0, 10.0, 40.0, 80.0, -40.0, -1e4] {
            let mut logits = [margin, 0.0];
            let sums = softmax(&mut logits, &[0]);
            let expected =
                if margin < -700.0 { f64::from(-margin) } else { f64::from(-margin).exp().ln_1p() };
            assert!(
                (sums.loss / expected - 1.0).abs() < 1e-6,
                "{margin}: {} {expected}",
                sums.loss
            );
            assert_eq!(logits[0], -logits[1]);
        }
    }

    #[test]
    fn equal_classes_have_the_bend_of_one_over_c() {
        for classes in [2, 10] {
            let mut logits = vec![3.0; classes * 4];
            let sums = softmax(&mut logits, &[0, 1, 0, 1]);
            assert!((sums.bend / 4.0 - 1.0 / classes as f64).abs() < 1e-6);
        }
    }
}
