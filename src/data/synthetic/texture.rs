//! Textures by which parts are told where colours tell nothing (`synthetic:scenes?parts=texture`).
//!
//! Every texture of an image is made of the same two colours, each on half of the area: the mean colour, and how often each
//! colour occurs, are the same in every part and in the background. What differs is how the two are arranged.

use super::scene::{Color, clouds, color, hashed, luma};
use crate::random::Stream;

/// How two colours are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Stripes from left to right.
    Level,
    /// Stripes from top to bottom.
    Upright,
    /// Stripes along either diagonal: mirrored, the one is the other.
    Diagonal,
    /// Squares.
    Checks,
    /// Discs on a grid.
    Dots,
    /// Blots of any form.
    Blots,
    /// Squares of a third of the period, each of either colour.
    Grain,
}

const KINDS: [Kind; 7] = [
    Kind::Level,
    Kind::Upright,
    Kind::Diagonal,
    Kind::Checks,
    Kind::Dots,
    Kind::Blots,
    Kind::Grain,
];

/// Radius, in periods, of discs that cover half of a square grid: √(1 / 2π).
const HALF_DISC: f32 = 0.398_942;

/// A texture as it lies in the frame.
pub(super) struct Texture {
    kind: Kind,
    colors: [Color; 2],
    /// Cosine and sine of its direction over its period in frame widths.
    along: (f32, f32),
    phase: (f32, f32),
}

impl Texture {
    /// Draws `count` textures of different kinds and of the same two colours, for the background and for each part.
    pub(super) fn draw(draws: &mut Stream, count: usize) -> Vec<Self> {
        let colors = two_colors(draws);
        let kinds = draws.permutation(KINDS.len());
        assert!(count <= kinds.len(), "{count} textures of {}", kinds.len());
        let texture = |kind: usize| {
            let kind = KINDS[kind];
            let quarter = std::f64::consts::FRAC_PI_4;
            let middle = match kind {
                // The direction in which the colours change.
                Kind::Level => 2.0 * quarter,
                Kind::Diagonal if draws.chance(0.5) => -quarter,
                Kind::Diagonal => quarter,
                _ => 0.0,
            };
            let (sin, cos) = (middle + draws.range(-0.12, 0.12)).sin_cos();
            let period = draws.range(0.045, 0.06);
            let mut phase = || draws.range(0.0, 64.0) as f32;
            let phase = (phase(), phase());
            // Which colour is in front tells nothing either.
            let colors = if draws.chance(0.5) { colors } else { [colors[1], colors[0]] };
            let along = ((cos / period) as f32, (sin / period) as f32);
            Self { kind, colors, along, phase }
        };
        kinds.into_iter().take(count).map(texture).collect()
    }

    /// Colour at a point of the frame.
    pub(super) fn color(&self, x: f32, y: f32) -> Color {
        let (cos, sin) = self.along;
        let (u, v) = (x * cos + y * sin + self.phase.0, y * cos - x * sin + self.phase.1);
        let half = |t: f32| t - t.floor() < 0.5;
        let first = match self.kind {
            Kind::Level | Kind::Upright | Kind::Diagonal => half(u),
            Kind::Checks => half(u) == half(v),
            Kind::Dots => {
                let (a, b) = (u - u.floor() - 0.5, v - v.floor() - 0.5);
                a * a + b * b < HALF_DISC * HALF_DISC
            }
            Kind::Blots => clouds(1.8 * u, 1.8 * v) < 0.5,
            Kind::Grain => hashed((3.0 * u).floor() as i32, (3.0 * v).floor() as i32) < 0.5,
        };
        self.colors[usize::from(!first)]
    }
}

/// Two colours from one distribution, far enough apart in brightness to be seen.
fn two_colors(draws: &mut Stream) -> [Color; 2] {
    let mut best = (f32::MIN, [[0.0; 3]; 2]);
    for _ in 0..32 {
        let pair = [(); 2].map(|()| color(draws, (0.0, 0.9), (0.1, 1.0)));
        let apart = (luma(pair[0]) - luma(pair[1])).abs();
        if apart > 0.35 {
            return pair;
        }
        if apart > best.0 {
            best = (apart, pair);
        }
    }
    best.1
}
