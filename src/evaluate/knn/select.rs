//! Which of many keys are largest: the part of a neighbour search that is no matrix product.

use multiversion::multiversion;

/// Keys looked at together, and those looked at again where there is something among them.
const RUN: usize = 64;
const PIECE: usize = 16;

/// A candidate as one number, smaller is nearer: the key's order in the upper half, the row below, so that of equal keys
/// the lower row is nearer.
type Packed = u64;

#[inline(always)]
#[expect(clippy::inline_always, reason = "so that it is compiled for the processor of its caller")]
fn pack(key: f32, row: u32) -> Packed {
    let bits = key.to_bits();
    // Negative floats fall as their bits rise.
    let rising = bits ^ ((bits as i32 >> 31) as u32 | 0x8000_0000);
    u64::from(!rising) << 32 | u64::from(row)
}

fn key_of(packed: Packed) -> f32 {
    let rising = !((packed >> 32) as u32);
    let sign = if rising >> 31 == 1 { 0x8000_0000 } else { u32::MAX };
    f32::from_bits(rising ^ sign)
}

fn row_of(packed: Packed) -> u32 {
    packed as u32
}

/// Bytes of a candidate between parts.
pub(super) const CANDIDATE_BYTES: usize = size_of::<Packed>() + size_of::<Found>();

/// A reference with its exact value, larger is nearer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) row: u32,
    pub(super) value: f32,
}

/// The nearest references of a query so far.
#[derive(Debug)]
pub(super) struct Pool {
    /// In no order; `len` of them count.
    kept: Vec<Packed>,
    len: usize,
    /// Only keys above it can still be among the best: `limit` others, all of lower rows, do not lie below.
    floor: f32,
    /// Those whose values are known, by row.
    found: Vec<Found>,
    /// Rows of the others, when a part has ended.
    waiting: Vec<u32>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            kept: Vec::new(),
            len: 0,
            floor: f32::NEG_INFINITY,
            found: Vec::new(),
            waiting: Vec::new(),
        }
    }
}

impl Pool {
    /// Makes room for a part of so many references.
    pub(super) fn open(&mut self, limit: usize, part: usize) {
        let room = limit.saturating_mul(2).min(self.len + part) + RUN;
        self.kept.resize(room, Packed::MAX);
    }

    /// Takes keys of the references from row `first` on; rows must come in ascending order.
    pub(super) fn offer(&mut self, keys: &[f32], first: u32, limit: usize) {
        sift(self, keys, first, limit);
    }

    /// Ends a part, whose rows begin with `first`: the `limit` best keys stay.
    pub(super) fn close(&mut self, limit: usize, first: u32) {
        if self.len > limit {
            self.cut(limit);
        }
        self.kept.truncate(self.len);
        self.kept.shrink_to_fit();
        let mut rows: Vec<u32> = self.kept.iter().map(|packed| row_of(*packed)).collect();
        rows.sort_unstable();
        self.waiting = rows.split_off(rows.partition_point(|row| *row < first));
        // Both ascend, and every older row was found when its part ended.
        let mut older = rows.iter().peekable();
        self.found.retain(|found| older.next_if_eq(&&found.row).is_some());
        self.found.reserve_exact(self.waiting.len());
    }

    /// Asks for the exact values of what the part that was closed last brought, up to row `end`. Ends must ascend.
    pub(super) fn settle(&mut self, end: u32, exact: impl Fn(&[u32]) -> Vec<f32>) {
        let later = self.waiting.split_off(self.waiting.partition_point(|row| *row < end));
        let values = exact(&self.waiting);
        let found = self.waiting.iter().zip(values);
        self.found.extend(found.map(|(row, value)| Found { row: *row, value }));
        self.waiting = later;
    }

    /// The `k` nearest by exact value, nearest first, of equal ones the lower row.
    pub(super) fn nearest(self, k: usize) -> Vec<Found> {
        let mut found = self.found;
        let order = |left: &Found, right: &Found| {
            let values = right.value.partial_cmp(&left.value);
            values.expect("values of finite features are numbers").then(left.row.cmp(&right.row))
        };
        found.sort_unstable_by(order);
        found.truncate(k);
        found
    }

    fn cut(&mut self, limit: usize) {
        self.kept[..self.len].select_nth_unstable(limit - 1);
        self.len = limit;
        self.floor = key_of(self.kept[limit - 1]);
    }
}

// Plain loops: a closure would be compiled for this processor, the iterator that calls it for any, and neither put into
// the other.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn sift(pool: &mut Pool, keys: &[f32], first: u32, limit: usize) {
    for (run, keys) in keys.chunks(RUN).enumerate() {
        let floor = pool.floor;
        // Mostly none once the floor has risen, and fast to find out.
        if !any_above(keys, floor) {
            continue;
        }
        for (piece, keys) in keys.chunks(PIECE).enumerate() {
            if !any_above(keys, floor) {
                continue;
            }
            let row = first + (run * RUN + piece * PIECE) as u32;
            let room = &mut pool.kept[pool.len..pool.len + keys.len()];
            let mut taken = 0;
            // Written always, counted only if above: no branch that nobody can foresee.
            for (offset, key) in keys.iter().enumerate() {
                room[taken] = pack(*key, row + offset as u32);
                taken += usize::from(*key > floor);
            }
            pool.len += taken;
        }
        if pool.len >= limit.saturating_mul(2) {
            pool.cut(limit);
        }
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "so that it is compiled for the processor of its caller")]
fn any_above(keys: &[f32], floor: f32) -> bool {
    let mut above = 0;
    for key in keys {
        above |= u32::from(*key > floor);
    }
    above != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_candidates_sort_as_keys_and_rows() {
        let keys = [f32::MAX, 3.5, 1e-40, 0.0, -1e-40, -2.0, -3.0, f32::MIN];
        let packed: Vec<Packed> = keys.iter().map(|key| pack(*key, 7)).collect();
        assert!(packed.is_sorted());
        assert!(pack(1.0, 3) < pack(1.0, 4));
        for (key, packed) in keys.iter().zip(packed) {
            assert_eq!((key_of(packed).to_bits(), row_of(packed)), (key.to_bits(), 7));
        }
    }
}
