//! Additive Gaussian noise.

use super::step::Place;
use crate::error::Result;
use crate::random::{Purpose, Scope, Stream};
use multiversion::multiversion;
use serde::{Deserialize, Serialize};

/// Adds normal noise to every element of the view and clips to \[0, 1\] (the composition study of Chen et al. 2020,
/// arXiv:2002.05709, section 3.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GaussianNoise {
    /// How often, 1 unless told.
    pub probability: f64,
    /// Standard deviation on values in \[0, 1\], 0.1 unless told.
    pub std: f64,
}

impl Default for GaussianNoise {
    fn default() -> Self {
        Self { probability: 1.0, std: 0.1 }
    }
}

/// Drawn noise: the seed holds every element of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    /// Standard deviation.
    pub std: f32,
    /// Key of the stream of the elements.
    pub seed: u64,
}

impl GaussianNoise {
    pub(super) fn check(&self, place: &Place) -> Result<()> {
        place.probability(self.probability)?;
        let std = self.std;
        place.require((0.0..=10.0).contains(&std), "std", "within 0 to 10", format_args!("{std}"))
    }

    pub(super) fn sample(&self, stream: &mut Stream) -> Option<Noise> {
        let applied = stream.chance(self.probability);
        applied.then(|| Noise { std: self.std as f32, seed: stream.next_u64() })
    }
}

impl Noise {
    /// Adds the noise to the planes of a view; `buffer` is only memory.
    pub(super) fn apply(self, planes: [&mut [f32]; 3], buffer: &mut Vec<f32>) {
        buffer.resize(planes.iter().map(|plane| plane.len()).sum(), 0.0);
        self.elements(buffer);
        let mut rest = &buffer[..];
        for plane in planes {
            let (noise, after) = rest.split_at(plane.len());
            add(plane, noise, self.std);
            rest = after;
        }
    }

    /// The noise of deviation 1: red, green, then blue plane, row by row.
    pub(super) fn elements(self, out: &mut [f32]) {
        let mut stream = Stream::open(self.seed, Purpose::Augment, Scope::Item(0));
        let mut blocks = [[0; 4]; BLOCKS];
        let mut values = [0.0; 4 * BLOCKS];
        for out in out.chunks_mut(4 * BLOCKS) {
            stream.blocks(&mut blocks);
            normals(blocks.as_flattened(), &mut values);
            out.copy_from_slice(&values[..out.len()]);
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn add(plane: &mut [f32], noise: &[f32], std: f32) {
    for (value, noise) in plane.iter_mut().zip(noise) {
        *value = (*value + std * noise).clamp(0.0, 1.0);
    }
}

const BLOCKS: usize = 64;
const PAIRS: usize = 2 * BLOCKS;

/// Standard normal numbers by Box and Muller's transform, both of each pair, out of 24 bits each. Logarithm, sine and
/// cosine are polynomials (Cephes' for single precision), so that the loop has no call and every machine gives the same.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn normals(bits: &[u32], out: &mut [f32; 2 * PAIRS]) {
    let bits = bits.first_chunk::<{ 2 * PAIRS }>().expect("as many bits as numbers");
    for pair in 0..PAIRS {
        // In (0, 1] and [0, 1).
        let first = ((bits[pair] >> 8) + 1) as f32 * (1.0 / 16_777_216.0);
        let second = (bits[pair + PAIRS] >> 8) as f32 * (1.0 / 16_777_216.0);
        let radius = (-2.0 * ln(first)).sqrt();
        let (sine, cosine) = turn(second);
        out[pair] = radius * cosine;
        out[pair + PAIRS] = radius * sine;
    }
}

/// Natural logarithm of a normal number above 0, relative error below 2e-7.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must become part of the vectorised loop")]
fn ln(x: f32) -> f32 {
    // x = 2^exponent · m with m in [1/√2, √2).
    let shifted = x.to_bits().wrapping_sub(0x3F35_04F3);
    let exponent = (shifted as i32 >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007F_FFFF) + 0x3F35_04F3) - 1.0;
    let square = m * m;
    let mut p = 7.037_683_6e-2;
    for coefficient in [
        -0.115_146_1,
        0.116_769_984,
        -0.124_201_41,
        0.142_493_23,
        -0.166_680_57,
        0.200_007_14,
        -0.249_999_94,
        0.333_333_3,
    ] {
        p = p * m + coefficient;
    }
    let tail = m * square * p - 2.121_944_4e-4 * exponent - 0.5 * square;
    m + tail + 0.693_359_4 * exponent
}

/// Sine and cosine of `turns` of the circle, 0 to 1; absolute error below 2e-7.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must become part of the vectorised loop")]
fn turn(turns: f32) -> (f32, f32) {
    let quarter = (4.0 * turns + 0.5).floor();
    // Within an eighth of a turn of a multiple of a quarter; the difference is exact.
    let angle = (turns - 0.25 * quarter) * std::f32::consts::TAU;
    let z = angle * angle;
    let sine = ((-1.951_529_6e-4 * z + 8.332_161e-3) * z - 0.166_666_55) * z * angle + angle;
    let cosine =
        ((2.443_315_7e-5 * z - 1.388_731_6e-3) * z + 4.166_664_6e-2) * z * z - 0.5 * z + 1.0;
    let quarter = quarter as i32;
    let (s, c) = if quarter & 1 == 0 { (sine, cosine) } else { (cosine, sine) };
    let s = if quarter & 2 == 0 { s } else { -s };
    let c = if (quarter + 1) & 2 == 0 { c } else { -c };
    (s, c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithm_sine_and_cosine_are_exact_to_single_precision() {
        for step in (1..=1u32 << 24).step_by(997) {
            let x = step as f32 / 16_777_216.0;
            let exact = f64::from(x).ln();
            assert!((f64::from(ln(x)) - exact).abs() <= 3e-7 * exact.abs().max(0.1), "ln {x}");
            let turns = (step - 1) as f32 / 16_777_216.0;
            let (sine, cosine) = turn(turns);
            let (s, c) = (f64::from(turns) * std::f64::consts::TAU).sin_cos();
            assert!((f64::from(sine) - s).abs() < 3e-7, "sin {turns}: {sine} {s}");
            assert!((f64::from(cosine) - c).abs() < 3e-7, "cos {turns}: {cosine} {c}");
        }
    }

    #[test]
    fn the_noise_is_standard_normal_and_without_correlation() {
        let mut values = vec![0.0; 300_000];
        Noise { std: 1.0, seed: 7 }.elements(&mut values);
        let n = values.len() as f64;
        let mean = |f: &dyn Fn(f64) -> f64| {
            values.iter().map(|value| f(f64::from(*value))).sum::<f64>() / n
        };
        // Five standard errors of each moment.
        let bound = |variance: f64| 5.0 * (variance / n).sqrt();
        assert!(mean(&|x| x).abs() < bound(1.0));
        assert!((mean(&|x| x * x) - 1.0).abs() < bound(2.0));
        assert!(mean(&|x| x.powi(3)).abs() < bound(15.0));
        assert!((mean(&|x| x.powi(4)) - 3.0).abs() < bound(96.0));
        assert!((mean(&|x| f64::from(x.abs() > 1.959_964)) - 0.05).abs() < bound(0.0475));
        for lag in [1, 2, PAIRS, 2 * PAIRS] {
            let products = values.iter().zip(&values[lag..]).map(|(a, b)| f64::from(a * b));
            assert!((products.sum::<f64>() / n).abs() < bound(1.0), "{lag}");
        }
    }

    #[test]
    fn the_noise_is_its_seed_for_any_size_and_clips() {
        let noise = |seed, len| {
            let mut values = vec![0.0; len];
            Noise { std: 0.1, seed }.elements(&mut values);
            values
        };
        let long = noise(3, 1000);
        assert_eq!(noise(3, 301), long[..301]);
        assert_ne!(noise(4, 1000), long);
        let mut planes = [vec![0.0; 100], vec![0.5; 100], vec![1.0; 100]];
        let [red, green, blue] = &mut planes;
        Noise { std: 0.1, seed: 3 }.apply([red, green, blue], &mut vec![9.0; 1000]);
        for (at, (value, noise)) in planes.iter().flatten().zip(&long).enumerate() {
            let expected = ((at / 100) as f32 * 0.5 + 0.1 * noise).clamp(0.0, 1.0);
            assert_eq!(value.to_bits(), expected.to_bits());
        }
    }

    #[test]
    fn noise_is_drawn_as_often_as_asked_and_never_twice_the_same() {
        let recipe = GaussianNoise { probability: 0.3, std: 0.2 };
        let draw = |item| recipe.sample(&mut Stream::open(1, Purpose::Test, Scope::Item(item)));
        let mut seeds: Vec<u64> = (0..10_000).filter_map(draw).map(|noise| noise.seed).collect();
        assert!((2_800..3_200).contains(&seeds.len()), "{}", seeds.len());
        let drawn = seeds.len();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), drawn);
    }
}
