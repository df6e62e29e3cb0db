//! Which of many keys are largest: the part of a neighbour search that is no matrix product.

use multiversion::multiversion;
use std::cmp::Ordering;

/// Keys looked at together.
const RUN: usize = 64;

/// A reference that may be among the nearest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Candidate {
    /// What the matrix product says, larger is nearer; exact up to its rounding.
    pub(super) key: f32,
    /// Its row.
    pub(super) row: u32,
    /// Its true value, larger is nearer; set when its part of the references ends.
    pub(super) exact: f32,
}

/// The nearest references of a query so far.
#[derive(Debug)]
pub(super) struct Pool {
    /// In no order; `len` of them count.
    kept: Vec<Candidate>,
    len: usize,
    /// Only keys above it can still be among the best: `limit` others, all of lower rows, do not lie below.
    floor: f32,
}

impl Default for Pool {
    fn default() -> Self {
        Self { kept: Vec::new(), len: 0, floor: f32::NEG_INFINITY }
    }
}

impl Pool {
    /// Makes room for a part of so many references.
    pub(super) fn open(&mut self, limit: usize, part: usize) {
        let room = limit.saturating_mul(2).min(self.len + part) + RUN;
        self.kept.resize(room, Candidate::default());
    }

    /// Takes keys of the references from row `first` on; rows must come in ascending order.
    pub(super) fn offer(&mut self, keys: &[f32], first: u32, limit: usize) {
        sift(self, keys, first, limit);
    }

    /// Keeps the `limit` best, none where that many are not there, and gives those of rows from `first` on, whose exact
    /// values are not known yet.
    pub(super) fn close(
        &mut self,
        limit: usize,
        first: u32,
    ) -> impl Iterator<Item = &mut Candidate> {
        if self.len > limit {
            self.cut(limit);
        }
        self.kept.truncate(self.len);
        self.kept.shrink_to_fit();
        self.kept.iter_mut().filter(move |candidate| candidate.row >= first)
    }

    /// The `k` nearest by exact value, nearest first, of equal ones the lower row.
    pub(super) fn nearest(mut self, k: usize) -> Vec<Candidate> {
        let order = |left: &Candidate, right: &Candidate| {
            descending(left.exact, right.exact).then(left.row.cmp(&right.row))
        };
        self.kept.sort_unstable_by(order);
        self.kept.truncate(k);
        self.kept
    }

    fn cut(&mut self, limit: usize) {
        let order = |left: &Candidate, right: &Candidate| {
            descending(left.key, right.key).then(left.row.cmp(&right.row))
        };
        self.kept[..self.len].select_nth_unstable_by(limit - 1, order);
        self.len = limit;
        self.floor = self.kept[limit - 1].key;
    }
}

fn descending(left: f32, right: f32) -> Ordering {
    right.partial_cmp(&left).expect("keys of finite features are numbers")
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn sift(pool: &mut Pool, keys: &[f32], first: u32, limit: usize) {
    for (run, keys) in keys.chunks(RUN).enumerate() {
        let floor = pool.floor;
        // Mostly false once the floor has risen, and fast to find out.
        let above: u32 = keys.iter().map(|key| u32::from(*key > floor)).sum();
        if above == 0 {
            continue;
        }
        let row = first + (run * RUN) as u32;
        let room = &mut pool.kept[pool.len..pool.len + keys.len()];
        let mut taken = 0;
        // Written always, counted only if above: no branch that nobody can foresee.
        for (row, key) in (row..).zip(keys) {
            room[taken] = Candidate { key: *key, row, exact: 0.0 };
            taken += usize::from(*key > floor);
        }
        pool.len += taken;
        if pool.len >= limit.saturating_mul(2) {
            pool.cut(limit);
        }
    }
}
