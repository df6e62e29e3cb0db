//! What a run will hold in memory, reckoned from its settings alone; measured peaks are in `results/`.

use crate::loss::tiled::default_tile;
use crate::method::Held;
use crate::model::{BackboneConfig, Frozen};
use crate::train::Precision;

/// Bytes beside the tensors and what the process held before: kernels that libtorch compiles while it runs, stacks of its
/// threads, buffers of the libraries. Seen on two threads: 30 to 70 MB.
const BESIDE: u64 = 40 << 20;

/// The settings of a run that decide its memory.
#[derive(Clone, Debug)]
pub struct MemoryPlan<'a> {
    /// The network.
    pub backbone: &'a BackboneConfig,
    /// What of it stays, of which no map is kept.
    pub frozen: Frozen,
    /// Side of each view of an image that the trained network sees, in pixels.
    pub view_sizes_px: Vec<usize>,
    /// Side of each view that a network without a gradient sees, in pixels.
    pub target_sizes_px: Vec<usize>,
    /// What the method holds beside the network.
    pub held: Held,
    /// Images per optimizer step.
    pub batch: usize,
    /// Images per normalisation group.
    pub group: usize,
    /// Rows of a tile of the loss.
    pub tile_rows: i64,
    /// Scalars the optimizer keeps for each parameter.
    pub optimizer_state: u64,
    /// What is computed in.
    pub precision: Precision,
    /// Batches that the loader keeps ready.
    pub prefetch: usize,
}

impl MemoryPlan<'_> {
    /// Bytes the run takes at most when `micro_batch` images are embedded at a time, beside what the process holds already
    /// (program, libtorch, data): the maps of a micro-batch and one more in passing; per parameter its value, gradient and
    /// optimizer state; the rows of the batch; a tile of the loss; momentum networks, queues and banks; and the loader's
    /// batches, of which one is in use and one in the making beside those kept ready.
    pub fn bytes(&self, micro_batch: usize) -> u64 {
        let views = || self.view_sizes_px.iter().chain(&self.target_sizes_px);
        let pixels: u64 = views().map(|side| 3 * (side * side) as u64).sum();
        let count = |side: &usize| self.backbone.activation_count(*side as i64, self.frozen);
        // Target rows are there before the maps that are kept: without a graph a map goes as the next but one comes.
        let kept = self.view_sizes_px.iter().map(|side| count(side).0 + count(side).1).sum();
        let passing = self.target_sizes_px.iter().map(|side| 3 * count(side).1).max();
        let maps = micro_batch as u64 * passing.unwrap_or(0).max(kept);
        let rows = (self.batch * views().count()) as u64;
        let projections = 8 * rows * self.backbone.features() as u64;
        let tile_rows = self.tile_rows.min(default_tile(self.held.columns as i64)).min(rows as i64);
        let tile = 3 * tile_rows as u64 * self.held.columns as u64;
        let parameters = (2 + self.optimizer_state) * self.backbone.parameter_count();
        let scalars = projections + tile + parameters + self.held.state;
        let loader = (self.prefetch + 2) as u64 * self.batch as u64 * pixels;
        let [scalar_bytes, map_bytes] = [self.precision.parameters(), self.precision.maps()]
            .map(|kind| kind.elt_size_in_bytes() as u64);
        map_bytes * maps + scalar_bytes * scalars + loader + BESIDE
    }

    /// The largest micro-batch whose tensors fit into `bytes`: a divisor of the batch, and a multiple of the normalisation
    /// group unless it is smaller than one (batch norm then sees fewer images). None if not even one image fits.
    pub fn largest_micro_batch(&self, bytes: u64) -> Option<usize> {
        let allowed = |micro: &usize| {
            self.batch.is_multiple_of(*micro)
                && (*micro < self.group || micro.is_multiple_of(self.group))
        };
        (1..=self.batch).rev().filter(allowed).find(|micro| self.bytes(*micro) <= bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BackboneConfig, BlockGroup};
    use crate::train::Precision;

    fn backbone() -> BackboneConfig {
        toml::from_str("name = \"resnet18\"\nwidth = 0.25\nstem = \"cifar\"").unwrap()
    }

    fn plan<'a>(backbone: &'a BackboneConfig, sizes: &[usize], group: usize) -> MemoryPlan<'a> {
        MemoryPlan {
            backbone,
            frozen: Frozen::Nothing,
            view_sizes_px: sizes.to_vec(),
            target_sizes_px: Vec::new(),
            held: Held { columns: 192, state: 0 },
            batch: 96,
            group,
            tile_rows: 64,
            optimizer_state: 1,
            precision: Precision::Float32,
            prefetch: 2,
        }
    }

    #[test]
    fn every_part_grows_as_it_should() {
        let backbone = backbone();
        let small = plan(&backbone, &[32, 32], 96);
        let per_image = small.bytes(2) - small.bytes(1);
        // Maps grow with the micro-batch alone, in proportion, as with the area of a view.
        assert_eq!(small.bytes(96) - small.bytes(1), 95 * per_image);
        let large = plan(&backbone, &[64, 64], 96);
        assert_eq!(large.bytes(2) - large.bytes(1), 4 * per_image);
        // What is there whatever the micro-batch: three of each parameter, the rows eight times, three tiles; and bytes of
        // four batches.
        let scalars = 3 * backbone.parameter_count() + 8 * 192 * 128 + 3 * 64 * 192;
        let (pixels, rest) = (4 * 192 * 3 * 32 * 32, small.bytes(1) - per_image);
        assert_eq!(rest, 4 * scalars + pixels + BESIDE);
        let double = MemoryPlan { precision: Precision::Float64, ..small.clone() };
        assert_eq!(double.bytes(7) - pixels - BESIDE, 2 * (small.bytes(7) - pixels - BESIDE));
        // Views without a graph pass through; what a method holds is added.
        let target = MemoryPlan { target_sizes_px: vec![64], ..small.clone() };
        assert_eq!(target.bytes(2) - target.bytes(1), per_image);
        let held = Held { state: 1000, ..small.held };
        assert_eq!(MemoryPlan { held, ..small.clone() }.bytes(7) - small.bytes(7), 4000);
        // Of a part that stays nothing is kept but what the next one takes in.
        let maps = |frozen| {
            let part = MemoryPlan { frozen, ..small.clone() };
            part.bytes(2) - part.bytes(1)
        };
        let through = |part| maps(Frozen::Through(part));
        let parts = [BlockGroup::Stem, BlockGroup::Group1, BlockGroup::Group2].map(through);
        assert!(per_image > parts[0] && parts.is_sorted_by(|a, b| a > b), "{per_image} {parts:?}");
        // The last group of ResNet-18 at a quarter of its width: maps of 128 × 4 × 4, eight of which its units keep, the
        // shortcut's, and its input, 64 × 8 × 8; beside the largest map, 16 × 32 × 32; for two views.
        let last = 2 * 4 * (9 * 128 * 16 + 64 * 64 + 16 * 1024);
        assert_eq!(through(BlockGroup::Group3), last);
        let half = MemoryPlan { precision: Precision::BFloat16, ..small.clone() };
        assert_eq!(small.bytes(7) - half.bytes(7), 7 * per_image / 2);
    }

    #[test]
    fn the_largest_micro_batch_fits_and_the_next_does_not() {
        let backbone = backbone();
        let whole = plan(&backbone, &[32, 32], 96);
        assert_eq!(whole.largest_micro_batch(u64::MAX), Some(96));
        assert_eq!(whole.largest_micro_batch(whole.bytes(48)), Some(48));
        assert_eq!(whole.largest_micro_batch(whole.bytes(48) - 1), Some(32));
        assert_eq!(whole.largest_micro_batch(0), None);
        // Between whole groups and parts of one, a micro-batch of 32 cuts a group of 24 in two.
        let groups = plan(&backbone, &[32, 32], 24);
        assert_eq!(groups.largest_micro_batch(groups.bytes(47)), Some(24));
        assert_eq!(groups.largest_micro_batch(groups.bytes(23)), Some(16));
    }
}
