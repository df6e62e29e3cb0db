//! The jigsaw view: patches of a grid, one beside the other.

use super::step::Place;
use crate::error::Result;
use crate::random::Stream;
use serde::{Deserialize, Serialize};

/// Cuts the view into `grid` × `grid` cells of ⌊side / grid⌋ pixels and keeps a random square of `patch_px` of each
/// (`PIRL`, Misra and van der Maaten 2020, arXiv:1912.01991; InfoMin, Tian et al. 2020, arXiv:2005.10243: a crop of 255
/// px, 3 × 3 cells of 85 px, patches of 64 px). The view becomes the patches laid out in their places, `grid · patch_px`
/// pixels a side; the method cuts it apart and draws their order. Stands last but for `normalize`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jigsaw {
    /// Cells on a side, 3 unless told.
    pub grid: usize,
    /// Side of a patch, 64 unless told; at most that of a cell.
    pub patch_px: usize,
}

impl Default for Jigsaw {
    fn default() -> Self {
        Self { grid: 3, patch_px: 64 }
    }
}

/// A drawn jigsaw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patches {
    /// Side of a patch.
    pub patch_px: usize,
    /// First row and column of each patch in the image that is cut, `grid`² of them, row by row.
    pub corners: Vec<[usize; 2]>,
}

impl Jigsaw {
    pub(super) fn check(&self, place: &Place, size_px: usize) -> Result<()> {
        let Self { grid, patch_px } = *self;
        place.require((1..=16).contains(&grid), "grid", "1 to 16", format_args!("{grid}"))?;
        place.require(
            (1..=size_px / grid).contains(&patch_px),
            "patch_px",
            &format!("1 to {}, the side of a cell", size_px / grid),
            format_args!("{patch_px}"),
        )
    }

    /// Side of the view.
    pub(super) fn size_px(&self) -> usize {
        self.grid * self.patch_px
    }

    /// Draws the patches of an image of side `size_px`.
    pub(super) fn sample(&self, stream: &mut Stream, size_px: usize) -> Patches {
        let cell = size_px / self.grid;
        let spare = (cell - self.patch_px) as u64 + 1;
        let corners = (0..self.grid * self.grid).map(|at| {
            [at / self.grid, at % self.grid].map(|c| c * cell + stream.below(spare) as usize)
        });
        Patches { patch_px: self.patch_px, corners: corners.collect() }
    }
}

impl Patches {
    /// Patches on a side.
    pub fn grid(&self) -> usize {
        self.corners.len().isqrt()
    }

    /// Lays the patches of `image`, `[size_px, size_px, 3]`, out in `out`.
    pub(super) fn apply(&self, image: &[u8], size_px: usize, out: &mut [u8]) {
        let (grid, length) = (self.grid(), 3 * self.patch_px);
        for (row, out) in out.chunks_exact_mut(grid * length).enumerate() {
            let cells = &self.corners[row / self.patch_px * grid..][..grid];
            for ([top, left], out) in cells.iter().zip(out.chunks_exact_mut(length)) {
                let start = 3 * ((top + row % self.patch_px) * size_px + left);
                out.copy_from_slice(&image[start..start + length]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope};

    #[test]
    fn every_patch_lies_in_its_cell_and_every_place_is_as_likely() {
        let jigsaw = Jigsaw { grid: 3, patch_px: 8 };
        let mut counts = [[0; 4]; 2];
        for item in 0..4_000 {
            let mut stream = Stream::open(1, Purpose::Test, Scope::Item(item));
            let patches = jigsaw.sample(&mut stream, 35);
            assert_eq!((patches.corners.len(), patches.grid()), (9, 3));
            for (at, corner) in patches.corners.iter().enumerate() {
                for (axis, cell) in [at / 3, at % 3].into_iter().enumerate() {
                    counts[axis][corner[axis] - 11 * cell] += 1;
                }
            }
        }
        assert!(counts.iter().flatten().all(|n| (8_600..9_400).contains(n)), "{counts:?}");
    }

    #[test]
    fn the_patches_stand_row_by_row() {
        let size = 10;
        let image: Vec<u8> = (0..3 * size * size).map(|at| (at * 7 % 251) as u8).collect();
        let patches = Patches { patch_px: 3, corners: vec![[0, 1], [2, 6], [5, 0], [7, 7]] };
        let mut out = vec![0; 3 * 36];
        patches.apply(&image, size, &mut out);
        for (y, x, c) in
            (0..6).flat_map(|y| (0..6).flat_map(move |x| (0..3).map(move |c| (y, x, c))))
        {
            let [top, left] = patches.corners[y / 3 * 2 + x / 3];
            let (row, column) = (top + y % 3, left + x % 3);
            assert_eq!(out[3 * (6 * y + x) + c], image[3 * (size * row + column) + c]);
        }
    }
}
