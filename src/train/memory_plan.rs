//! What a run will hold in memory, reckoned from its settings alone; measured peaks are in `results/`.

use crate::model::BackboneConfig;
use crate::train::Precision;

/// Bytes beside the tensors and what the process held before: kernels that libtorch compiles while it runs, stacks of its
/// threads, buffers of the libraries. Seen on two threads: 30 to 70 MB.
const BESIDE: u64 = 40 << 20;

/// The settings of a run that decide its memory.
#[derive(Clone, Debug)]
pub struct MemoryPlan<'a> {
    /// The network.
    pub backbone: &'a BackboneConfig,
    /// Side of each view of an image, in pixels.
    pub view_sizes_px: &'a [usize],
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
    /// optimizer state; the rows of the batch; a tile of the loss; and the loader's batches, of which one is in use and one
    /// in the making beside those kept ready.
    pub fn bytes(&self, micro_batch: usize) -> u64 {
        let pixels = || self.view_sizes_px.iter().map(|side| 3 * (side * side) as u64);
        let maps: u64 = self
            .view_sizes_px
            .iter()
            .map(|side| {
                let (kept, largest) = self.backbone.activation_count(*side as i64);
                micro_batch as u64 * (kept + largest)
            })
            .sum();
        let rows = (self.batch * self.view_sizes_px.len()) as u64;
        let projections = 8 * rows * self.backbone.features() as u64;
        let tile = 3 * self.tile_rows as u64 * rows;
        let parameters = (2 + self.optimizer_state) * self.backbone.parameter_count();
        let scalars = projections + tile + parameters;
        let loader = (self.prefetch + 2) as u64 * self.batch as u64 * pixels().sum::<u64>();
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
    use crate::model::BackboneConfig;
    use crate::train::Precision;

    fn backbone() -> BackboneConfig {
        toml::from_str("name = \"resnet18\"\nwidth = 0.25\nstem = \"cifar\"").unwrap()
    }

    fn plan<'a>(backbone: &'a BackboneConfig, sizes: &'a [usize], group: usize) -> MemoryPlan<'a> {
        MemoryPlan {
            backbone,
            view_sizes_px: sizes,
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
