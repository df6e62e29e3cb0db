//! Counter-based randomness: every draw is a pure function of the run seed, a purpose and a scope.
//!
//! A [`Stream`] is Philox 4×32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") with the run seed
//! as its key and (scope, purpose, block) as its counter, so no stream depends on how many draws another has taken,
//! on threads, on the batch an image lands in, or on a restart.

mod beta;

use multiversion::multiversion;

/// What a stream is for; two purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Order of the images within an epoch.
    Shuffle = 1,
    /// Augmentation values of one view of one image.
    Augment = 2,
    /// Augmentation values shared by one view of a whole batch.
    StepAugment = 3,
    /// Initial weights.
    Weights = 4,
    /// Which images a limit or a holdout keeps.
    Subset = 5,
    /// Which image stands in for a damaged one.
    Substitute = 6,
    /// Training order and initial weights of an evaluation.
    Evaluation = 7,
    /// Bootstrap resampling of an interval.
    Bootstrap = 8,
    /// Content of a synthetic image.
    Synthesis = 9,
    /// Test inputs.
    Test = 10,
    /// Mixing coefficients and the order of negatives of the feature transformation.
    Mix = 11,
    /// Which image is whose partner in the guided stop-gradient.
    Partner = 12,
    /// Order of the images in the key branch (shuffling batch norm).
    KeyOrder = 13,
    /// Random directions and prior samples of the sliced Wasserstein distance.
    Slices = 14,
    /// Negatives drawn from a memory bank.
    Negatives = 15,
    /// Order of the nine patches of a jigsaw.
    Patches = 16,
    /// First centres of clusters.
    Clusters = 17,
}

/// What a draw belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One item of the run: a parameter tensor, an epoch's order, a synthetic image.
    Item(u64),
    /// One view of one image in one epoch.
    Image {
        /// Epoch, from 0.
        epoch: u32,
        /// Index in the data set.
        index: u32,
        /// View, from 0.
        view: u8,
    },
    /// One view of the whole batch at one step.
    Step {
        /// Step, from 0, over the whole run.
        step: u64,
        /// View, from 0.
        view: u8,
    },
}

/// A keyed, seekable stream of random numbers.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl Stream {
    /// Opens the stream of (seed, purpose, scope); opening it again gives the same numbers.
    pub fn open(seed: u64, purpose: Purpose, scope: Scope) -> Self {
        let (low, high, kind, view) = match scope {
            Scope::Item(item) => (item as u32, (item >> 32) as u32, 0, 0),
            Scope::Image { epoch, index, view } => (index, epoch, 1, view),
            Scope::Step { step, view } => (step as u32, (step >> 32) as u32, 2, view),
        };
        let tag = (purpose as u32) << 24 | kind << 16 | u32::from(view);
        Self {
            key: [seed as u32, (seed >> 32) as u32],
            counter: [0, low, high, tag],
            block: [0; 4],
            used: 4,
        }
    }

    /// The next 32 uniform bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox(self.counter, self.key);
            self.counter[0] =
                self.counter[0].checked_add(1).expect("a stream is shorter than 2^34 numbers");
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// Many uniform bits at once, four numbers a block, from the next whole block of the stream on.
    pub fn blocks(&mut self, blocks: &mut [[u32; 4]]) {
        let [first, low, high, tag] = self.counter;
        let count = u32::try_from(blocks.len()).ok().and_then(|count| first.checked_add(count));
        self.counter[0] = count.expect("a stream is shorter than 2^34 numbers");
        self.used = 4;
        fill(first, [low, high, tag], self.key, blocks);
    }

    /// The next 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) << 32 | u64::from(self.next_u32())
    }

    /// Uniform in [0, 1), with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in [low, high).
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform integer in 0..n, without bias (Lemire 2019, arXiv:1805.10941). `n` must be at least 1.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "an integer below zero does not exist");
        let threshold = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// True with the given probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.uniform() < probability
    }

    /// Standard normal (Box and Muller 1958); one of the pair is used, so the stream stays easy to seek.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// A uniform permutation of 0..n (Fisher and Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for last in (1..n).rev() {
            order.swap(last, self.below(last as u64 + 1) as usize);
        }
        order
    }
}

/// One block for each counter from `first` on.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn fill(first: u32, [low, high, tag]: [u32; 3], key: [u32; 2], blocks: &mut [[u32; 4]]) {
    for (at, block) in blocks.iter_mut().enumerate() {
        *block = philox([first + at as u32, low, high, tag], key);
    }
}

/// Ten rounds of Philox 4×32.
#[inline]
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known-answer vectors published with Random123.
    #[test]
    fn philox_gives_the_published_vectors() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    fn stream(item: u64) -> Stream {
        Stream::open(7, Purpose::Test, Scope::Item(item))
    }

    #[test]
    fn a_stream_is_its_key_and_nothing_else() {
        let first: Vec<u32> = (0..9)
            .map({
                let mut s = stream(1);
                move |_| s.next_u32()
            })
            .collect();
        let again: Vec<u32> = (0..9)
            .map({
                let mut s = stream(1);
                move |_| s.next_u32()
            })
            .collect();
        let other: Vec<u32> = (0..9)
            .map({
                let mut s = stream(2);
                move |_| s.next_u32()
            })
            .collect();
        assert_eq!(first, again);
        assert_ne!(first, other);
        let scopes = [
            Scope::Item(3),
            Scope::Image { epoch: 0, index: 3, view: 0 },
            Scope::Image { epoch: 0, index: 3, view: 1 },
            Scope::Image { epoch: 1, index: 3, view: 0 },
            Scope::Step { step: 3, view: 0 },
        ];
        let mut seen: Vec<u64> =
            scopes.iter().map(|scope| Stream::open(7, Purpose::Test, *scope).next_u64()).collect();
        seen.push(Stream::open(7, Purpose::Augment, Scope::Item(3)).next_u64());
        seen.push(Stream::open(8, Purpose::Test, Scope::Item(3)).next_u64());
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 7);
    }

    #[test]
    fn blocks_are_the_numbers_of_the_stream_from_the_next_whole_block_on() {
        let (mut one, mut other) = (stream(4), stream(4));
        let all: Vec<u32> = (0..400).map(|_| one.next_u32()).collect();
        assert_eq!(other.next_u32(), all[0]);
        let mut blocks = [[0; 4]; 90];
        other.blocks(&mut blocks);
        assert_eq!(blocks.as_flattened(), &all[4..364]);
        assert_eq!(other.next_u32(), all[364]);
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let mut s = stream(5);
        let n = 100_000;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let uniform: Vec<f64> = (0..n).map(|_| s.uniform()).collect();
        assert!(uniform.iter().all(|u| (0.0..1.0).contains(u)));
        assert!((mean(&uniform) - 0.5).abs() < 0.004);
        let normal: Vec<f64> = (0..n).map(|_| s.normal()).collect();
        assert!(mean(&normal).abs() < 0.013);
        let square: Vec<f64> = normal.iter().map(|x| x * x).collect();
        assert!((mean(&square) - 1.0).abs() < 0.02);
    }

    #[test]
    fn integers_cover_their_range_evenly() {
        let mut s = stream(6);
        let mut counts = [0u32; 6];
        for _ in 0..60_000 {
            counts[s.below(6) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut order = stream(9).permutation(1_000);
        assert_ne!(order[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        order.sort_unstable();
        assert!(order.iter().enumerate().all(|(position, index)| position == *index));
        assert!(stream(9).permutation(0).is_empty());
    }
}
