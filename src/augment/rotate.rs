//! Rotation by quarter turns.

use super::step::Place;
use crate::error::Result;
use crate::random::Stream;
use serde::{Deserialize, Serialize};

/// Rotates the view by a random multiple of 90 degrees (the composition study of Chen et al. 2020, arXiv:2002.05709,
/// section 3.1); views are square, so nothing is cut off or filled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rotation {
    /// How often, 1 unless told.
    pub probability: f64,
    /// Degrees to choose from, each as likely: multiples of 90 below 360; \[90, 180, 270\] unless told.
    pub angles: Vec<u16>,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { probability: 1.0, angles: vec![90, 180, 270] }
    }
}

impl Rotation {
    pub(super) fn check(&self, place: &Place) -> Result<()> {
        place.probability(self.probability)?;
        place.require(
            !self.angles.is_empty() && self.angles.iter().all(|it| it % 90 == 0 && *it < 360),
            "angles",
            "a list of 0, 90, 180 and 270",
            format_args!("{:?}", self.angles),
        )
    }

    /// Draws the quarter turns, 1 to 3; none if the view is left alone.
    pub(super) fn sample(&self, stream: &mut Stream) -> Option<u8> {
        let applied = stream.chance(self.probability);
        let angle = self.angles[stream.below(self.angles.len() as u64) as usize];
        (applied && angle > 0).then_some((angle / 90) as u8)
    }
}

/// Turns a square plane counter-clockwise in place.
pub(super) fn rotate(plane: &mut [f32], size_px: usize, quarters: u8) {
    match quarters % 4 {
        1 => {
            transpose(plane, size_px);
            for y in 0..size_px / 2 {
                let (upper, lower) = plane.split_at_mut((size_px - 1 - y) * size_px);
                upper[y * size_px..][..size_px].swap_with_slice(&mut lower[..size_px]);
            }
        }
        2 => plane.reverse(),
        3 => {
            transpose(plane, size_px);
            plane.chunks_exact_mut(size_px).for_each(<[f32]>::reverse);
        }
        _ => {}
    }
}

fn transpose(plane: &mut [f32], size_px: usize) {
    for y in 0..size_px {
        for x in 0..y {
            plane.swap(y * size_px + x, x * size_px + y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope};

    #[test]
    fn a_quarter_turn_is_counter_clockwise_and_four_are_none() {
        let start = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
        let turned = |quarters| {
            let mut plane = start;
            rotate(&mut plane, 3, quarters);
            plane.map(|value| value as u8)
        };
        assert_eq!(turned(1), [3, 6, 9, 2, 5, 8, 1, 4, 7]);
        assert_eq!(turned(2), [9, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(turned(3), [7, 4, 1, 8, 5, 2, 9, 6, 3]);
        let mut even: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let before = even.clone();
        for quarters in [1, 1, 3, 2, 1] {
            rotate(&mut even, 8, quarters);
        }
        assert_eq!(even, before);
    }

    #[test]
    fn the_angles_asked_for_are_equally_likely() {
        let counts = |rotation: &Rotation| {
            let mut counts = [0; 4];
            for item in 0..12_000 {
                let mut stream = Stream::open(1, Purpose::Test, Scope::Item(item));
                counts[usize::from(rotation.sample(&mut stream).unwrap_or(0))] += 1;
            }
            counts
        };
        let [none, rest @ ..] = counts(&Rotation::default());
        assert_eq!(none, 0);
        assert!(rest.iter().all(|n| (3_800..4_200).contains(n)), "{rest:?}");
        let half = Rotation { probability: 0.5, angles: vec![0, 180] };
        let [none, one, two, three] = counts(&half);
        assert_eq!((one, three), (0, 0));
        assert!((8_800..9_200).contains(&none) && (2_800..3_200).contains(&two), "{none} {two}");
    }
}
