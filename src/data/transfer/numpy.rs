//! The shuffle of numpy's legacy generator, by which the published protocol of transfer draws its validation images.
//!
//! `numpy.random.seed(s)` and then `numpy.random.shuffle(list(range(n)))`, which numpy promises to keep as it is (NEP 19). All
//! other draws of this crate come from [`crate::random`].

const STATES: usize = 624;
const MIDDLE: usize = 397;

/// MT19937 (Matsumoto and Nishimura 1998, "Mersenne Twister").
struct Twister {
    state: [u32; STATES],
    next: usize,
}

impl Twister {
    fn new(seed: u32) -> Self {
        let mut state = [seed; STATES];
        for place in 1..STATES {
            let last = state[place - 1];
            state[place] =
                1_812_433_253_u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(place as u32);
        }
        Self { state, next: STATES }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == STATES {
            for place in 0..STATES {
                let (this, following) = (self.state[place], self.state[(place + 1) % STATES]);
                let both = (this & 0x8000_0000) | (following & 0x7FFF_FFFF);
                let odd = if both & 1 == 1 { 0x9908_B0DF } else { 0 };
                self.state[place] = self.state[(place + MIDDLE) % STATES] ^ (both >> 1) ^ odd;
            }
            self.next = 0;
        }
        let mut value = self.state[self.next];
        self.next += 1;
        value ^= value >> 11;
        value ^= (value << 7) & 0x9D2C_5680;
        value ^= (value << 15) & 0xEFC6_0000;
        value ^ (value >> 18)
    }

    /// Uniform within `0..=most`: masked bits until they fit.
    fn up_to(&mut self, most: u32) -> u32 {
        let mask = u32::MAX.checked_shr(most.leading_zeros()).unwrap_or(0);
        loop {
            let value = self.next_u32() & mask;
            if value <= most {
                return value;
            }
        }
    }
}

/// `0..count` in the order that numpy gives under a seed.
pub(super) fn shuffled(count: u32, seed: u32) -> Vec<u32> {
    let mut twister = Twister::new(seed);
    let mut order: Vec<u32> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last as usize, twister.up_to(last) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::golden;

    #[test]
    fn the_order_is_that_of_numpy() {
        let text = std::fs::read_to_string(golden("data/transfer/truth.json")).unwrap();
        let truth: serde_json::Value = serde_json::from_str(&text).unwrap();
        let cases: Vec<(u32, u32, Vec<u32>)> =
            serde_json::from_value(truth["shuffles"].clone()).unwrap();
        assert!(cases.iter().any(|(_, count, _)| *count > 624));
        for (seed, count, order) in cases {
            assert_eq!(shuffled(count, seed), order, "{count} under seed {seed}");
        }
        assert!(shuffled(0, 0).is_empty());
    }
}
