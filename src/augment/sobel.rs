//! Edges: the Sobel operator.

use super::color::Adjustment;
use super::step::Place;
use crate::error::Result;
use multiversion::multiversion;
use serde::{Deserialize, Serialize};

/// Replaces the view by the strength of its edges (the composition study of Chen et al. 2020, arXiv:2002.05709, section
/// 3.1): √(gx² + gy²) of the grey view with the 3×3 Sobel kernels, divided by its largest value, in all three channels.
/// The edge pixel is repeated beyond the border; a view without edges becomes black. The paper gives no details; these
/// are ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sobel {
    /// How often, 1 unless told.
    pub probability: f64,
}

impl Default for Sobel {
    fn default() -> Self {
        Self { probability: 1.0 }
    }
}

impl Sobel {
    pub(super) fn check(&self, place: &Place) -> Result<()> {
        place.probability(self.probability)
    }
}

/// Changes the planes of a square view; `buffer` is only memory.
pub(super) fn sobel([red, green, blue]: [&mut [f32]; 3], size_px: usize, buffer: &mut Vec<f32>) {
    Adjustment::Grayscale.apply([&mut *red, &mut *green, &mut *blue]);
    // One more pixel on every side.
    let stride = size_px + 2;
    buffer.clear();
    buffer.resize(stride * stride, 0.0);
    for (y, row) in buffer.chunks_exact_mut(stride).enumerate() {
        let source = &red[y.saturating_sub(1).min(size_px - 1) * size_px..][..size_px];
        row[1..=size_px].copy_from_slice(source);
        row[0] = source[0];
        row[size_px + 1] = source[size_px - 1];
    }
    let mut largest = 0.0f32;
    for (y, row) in red.chunks_exact_mut(size_px).enumerate() {
        let line = |at: usize| &buffer[(y + at) * stride..][..stride];
        largest = edges([line(0), line(1), line(2)], row).max(largest);
    }
    if largest > 0.0 {
        for value in &mut *red {
            *value /= largest;
        }
    }
    green.copy_from_slice(red);
    blue.copy_from_slice(red);
}

/// The strengths of one row from it and its neighbours, and the largest of them.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn edges([above, row, below]: [&[f32]; 3], out: &mut [f32]) -> f32 {
    let n = out.len();
    let (above, row, below) = (&above[..n + 2], &row[..n + 2], &below[..n + 2]);
    let mut largest = 0.0f32;
    for x in 0..n {
        let right = above[x + 2] + 2.0 * row[x + 2] + below[x + 2];
        let left = above[x] + 2.0 * row[x] + below[x];
        let lower = below[x] + 2.0 * below[x + 1] + below[x + 2];
        let upper = above[x] + 2.0 * above[x + 1] + above[x + 2];
        let (dx, dy) = (right - left, lower - upper);
        out[x] = (dx * dx + dy * dy).sqrt();
        largest = largest.max(out[x]);
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_bright_and_a_plain_view_black() {
        let size = 6;
        let step: Vec<f32> = (0..size * size).map(|at| f32::from(at % size >= 3)).collect();
        for (start, bright) in [(step, true), (vec![0.7; size * size], false)] {
            let mut planes = [start.clone(), start.clone(), start];
            let [red, green, blue] = &mut planes;
            sobel([red, green, blue], size, &mut Vec::new());
            for plane in planes {
                for (at, value) in plane.iter().enumerate() {
                    let expected = f32::from(bright && (2..=3).contains(&(at % size)));
                    assert!((value - expected).abs() < 1e-6, "{at}: {value}");
                }
            }
        }
    }
}
