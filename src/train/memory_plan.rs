//! What a run will hold in memory, reckoned from its settings alone.

use crate::model::BackboneConfig;

/// What the heap holds over what lies in it, since freed memory is kept: 1.5 to 1.9 in runs on CIFAR-10.
const HEAP_SLACK: f64 = 1.6;

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
    /// Bytes of a scalar: 4, or 8 in double precision.
    pub scalar_bytes: u64,
}

impl MemoryPlan<'_> {
    /// Bytes the tensors of the run take at most when `micro_batch` images are embedded at a time, beside what the process
    /// holds already (program, libtorch, data): per parameter its value, gradient and optimizer state; the maps of a micro-batch
    /// with three of the largest in passing; the rows of the batch; a tile of the loss.
    pub fn tensor_bytes(&self, micro_batch: usize) -> u64 {
        let maps: u64 = self
            .view_sizes_px
            .iter()
            .map(|side| {
                let (kept, largest) = self.backbone.activation_count(*side as i64);
                micro_batch as u64 * (kept + 3 * largest)
            })
            .sum();
        let rows = (self.batch * self.view_sizes_px.len()) as u64;
        let projections = 8 * rows * self.backbone.features() as u64;
        let tile = 3 * self.tile_rows as u64 * rows;
        let parameters = (2 + self.optimizer_state) * self.backbone.parameter_count();
        let scalars = maps + projections + tile + parameters;
        (HEAP_SLACK * (self.scalar_bytes * scalars) as f64) as u64
    }

    /// The largest micro-batch whose tensors fit into `bytes`: a divisor of the batch, and a multiple of the normalisation
    /// group unless it is smaller than one (batch norm then sees fewer images). None if not even one image fits.
    pub fn largest_micro_batch(&self, bytes: u64) -> Option<usize> {
        let allowed = |micro: &usize| {
            self.batch.is_multiple_of(*micro)
                && (*micro < self.group || micro.is_multiple_of(self.group))
        };
        (1..=self.batch).rev().filter(allowed).find(|micro| self.tensor_bytes(*micro) <= bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BackboneConfig;

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
            scalar_bytes: 4,
        }
    }

    #[test]
    fn every_part_grows_as_it_should() {
        let backbone = backbone();
        let small = plan(&backbone, &[32, 32], 96);
        let per_image = small.tensor_bytes(2) - small.tensor_bytes(1);
        // Maps grow with the micro-batch alone, in proportion, as with the area of a view.
        let all = small.tensor_bytes(96) - small.tensor_bytes(1);
        assert!(all.abs_diff(95 * per_image) < 200, "{all} of {per_image}");
        let large = plan(&backbone, &[64, 64], 96);
        assert_eq!((large.tensor_bytes(2) - large.tensor_bytes(1)) / per_image, 4);
        let double = MemoryPlan { scalar_bytes: 8, ..small.clone() };
        assert!(double.tensor_bytes(7).abs_diff(2 * small.tensor_bytes(7)) < 2);
        // What is there whatever the micro-batch: three of each parameter, the rows eight times, three tiles.
        let rest = small.tensor_bytes(1) - per_image;
        let scalars = 3 * backbone.parameter_count() + 8 * 192 * 128 + 3 * 64 * 192;
        assert!(rest.abs_diff((1.6 * 4.0 * scalars as f64) as u64) < 200, "{rest}");
    }

    #[test]
    fn the_largest_micro_batch_fits_and_the_next_does_not() {
        let backbone = backbone();
        let whole = plan(&backbone, &[32, 32], 96);
        assert_eq!(whole.largest_micro_batch(u64::MAX), Some(96));
        assert_eq!(whole.largest_micro_batch(whole.tensor_bytes(48)), Some(48));
        assert_eq!(whole.largest_micro_batch(whole.tensor_bytes(48) - 1), Some(32));
        assert_eq!(whole.largest_micro_batch(0), None);
        // Between whole groups and parts of one, a micro-batch of 32 cuts a group of 24 in two.
        let groups = plan(&backbone, &[32, 32], 24);
        assert_eq!(groups.largest_micro_batch(groups.tensor_bytes(47)), Some(24));
        assert_eq!(groups.largest_micro_batch(groups.tensor_bytes(23)), Some(16));
    }
}
