//! The repulsion between all pairs of points in the plane, far ones grouped (Barnes and Hut 1986; for t-SNE van der Maaten
//! 2014, "Accelerating t-SNE using Tree-Based Algorithms", section 4.2).
//!
//! Points are sorted along a Hilbert curve. Every square of the quadtree is then a range of them, and sixteen neighbours on
//! the curve go through the tree together: a square is taken as one point for all of them, or for none. That looks into more
//! squares than one point by itself would and is so a little more exact, and it is vector arithmetic throughout.

use multiversion::multiversion;
use rayon::prelude::*;

/// Points that go through the tree together.
const LANES: usize = 16;

/// Most points of a square that is not divided.
const BUCKET: usize = 8;

/// Bits of a place on the curve, for each axis.
const BITS: u32 = 20;

/// Bits of a point's number; with the place on the curve they make one sorting key.
const NUMBER_BITS: u32 = 64 - 2 * BITS;

/// Most points that a tree can hold.
pub(super) const MOST: usize = 1 << NUMBER_BITS;

/// Repulsion before it is divided by the sum over all pairs.
pub(super) struct Repulsion {
    /// For each point `Σ_j q_ij² (y_i − y_j)`, `q_ij = 1 / (1 + ‖y_i − y_j‖²)`.
    pub(super) forces: Vec<[f32; 2]>,
    /// `Σ_i Σ_{j≠i} q_ij`.
    pub(super) sum: f64,
}

/// A square of the plane, with its own behind it: depth first.
struct Node {
    /// Mean of its points.
    x: f32,
    y: f32,
    /// Number of its points.
    mass: f32,
    /// Square of the longer side of their bounds; 0 where all lie in one place.
    square: f32,
    /// The next node that is not within this one.
    skip: u32,
    /// Its points, if it is not divided.
    first: u32,
    count: u32,
}

/// Repulsion of every point by all others. A square is taken as one point if its side is less than `theta` times its
/// distance; with 0 every pair counts by itself. Equal points give equal bits, whatever the number of threads.
///
/// Coordinates must be finite, and there must be at most [`MOST`] points.
pub(super) fn repulsion(points: &[[f32; 2]], theta: f32) -> Repulsion {
    let tree = Tree::new(points);
    let groups = points.len().div_ceil(LANES);
    let mut found = vec![[[0.0f32; LANES]; 3]; groups];
    found.par_iter_mut().enumerate().for_each(|(group, out)| {
        let range = group * LANES..(group + 1) * LANES;
        let x = tree.x[range.clone()].try_into().expect("padded to whole groups");
        let y = tree.y[range].try_into().expect("padded to whole groups");
        walk(&tree.nodes, (&tree.x, &tree.y), theta * theta, (x, y), out);
    });
    let mut forces = vec![[0.0; 2]; points.len()];
    let mut sum = 0.0;
    for (place, point) in tree.order.iter().enumerate() {
        let [x, y, q] = &found[place / LANES];
        let lane = place % LANES;
        forces[*point as usize] = [x[lane], y[lane]];
        sum += f64::from(q[lane]);
    }
    // Every point has met itself once, at distance 0.
    Repulsion { forces, sum: (sum - points.len() as f64).max(f64::MIN_POSITIVE) }
}

struct Tree {
    nodes: Vec<Node>,
    /// Points along the curve.
    order: Vec<u32>,
    /// Their coordinates, the last repeated to fill the last group.
    x: Vec<f32>,
    y: Vec<f32>,
    /// Their places on the curve.
    places: Vec<u64>,
}

/// Places on the curve and numbers of points, sorted.
fn keys(points: &[[f32; 2]]) -> Vec<u64> {
    assert!(!points.is_empty() && points.len() <= MOST, "{} points", points.len());
    let bounds = Bounds::of(points.iter().copied());
    let side = f64::from(bounds.side()).max(f64::from(f32::MIN_POSITIVE));
    let scale = f64::from((1u32 << BITS) - 1) / side;
    let cell = |value: f32, low: f32| ((f64::from(value) - f64::from(low)) * scale) as u32;
    let key = |(number, [x, y]): (usize, &[f32; 2])| {
        let place = hilbert(cell(*x, bounds.low[0]), cell(*y, bounds.low[1]));
        place << NUMBER_BITS | number as u64
    };
    let mut keys: Vec<u64> = points.par_iter().enumerate().map(key).collect();
    keys.par_sort_unstable();
    keys
}

/// Points in an order in which neighbours in the plane mostly follow one another.
pub(in super::super) fn along_curve(points: &[[f32; 2]]) -> Vec<u32> {
    keys(points).into_iter().map(number_of).collect()
}

fn number_of(key: u64) -> u32 {
    (key & (MOST as u64 - 1)) as u32
}

impl Tree {
    fn new(points: &[[f32; 2]]) -> Self {
        let keys = keys(points);
        let order: Vec<u32> = keys.iter().copied().map(number_of).collect();
        let padded = points.len().next_multiple_of(LANES);
        let along = |axis: usize| -> Vec<f32> {
            let mut values: Vec<f32> =
                order.iter().map(|point| points[*point as usize][axis]).collect();
            values.resize(padded, values[values.len() - 1]);
            values
        };
        let (x, y) = (along(0), along(1));
        let places = keys.into_iter().map(|key| key >> NUMBER_BITS).collect();
        let mut tree = Self { nodes: Vec::with_capacity(points.len() / 2), order, x, y, places };
        tree.divide(0, points.len(), 2 * BITS);
        tree
    }

    /// Adds the square of the points `first..end`, which agree in all but the last `bits` of their places, and all squares
    /// within; returns the sums of their coordinates and their bounds.
    fn divide(&mut self, first: usize, end: usize, mut bits: u32) -> ([f64; 2], Bounds) {
        // A square with one square in it is that one.
        let apart = self.places[first] ^ self.places[end - 1];
        bits = bits.min((u64::BITS - apart.leading_zeros()).next_multiple_of(2));
        let at = self.nodes.len();
        self.nodes.push(Node { x: 0., y: 0., mass: 0., square: 0., skip: 0, first: 0, count: 0 });
        let whole = end - first <= BUCKET || bits == 0;
        let (mut sums, mut bounds) = ([0.0; 2], Bounds::EMPTY);
        if whole {
            for point in first..end {
                let (x, y) = (self.x[point], self.y[point]);
                sums = [sums[0] + f64::from(x), sums[1] + f64::from(y)];
                bounds = bounds.and(Bounds { low: [x, y], high: [x, y] });
            }
        } else {
            let mut start = first;
            while start < end {
                let quadrant = self.places[start] >> (bits - 2);
                let range = &self.places[start..end];
                let next = start + range.partition_point(|place| place >> (bits - 2) == quadrant);
                let (part, extent) = self.divide(start, next, bits - 2);
                sums = [sums[0] + part[0], sums[1] + part[1]];
                bounds = bounds.and(extent);
                start = next;
            }
        }
        let count = end - first;
        let side = bounds.side();
        self.nodes[at] = Node {
            x: (sums[0] / count as f64) as f32,
            y: (sums[1] / count as f64) as f32,
            mass: count as f32,
            square: side * side,
            skip: self.nodes.len() as u32,
            first: first as u32,
            count: if whole { count as u32 } else { 0 },
        };
        (sums, bounds)
    }
}

/// The least rectangle around points.
#[derive(Clone, Copy)]
struct Bounds {
    low: [f32; 2],
    high: [f32; 2],
}

impl Bounds {
    const EMPTY: Self = Self { low: [f32::INFINITY; 2], high: [f32::NEG_INFINITY; 2] };

    fn of(points: impl Iterator<Item = [f32; 2]>) -> Self {
        points.fold(Self::EMPTY, |all, point| all.and(Self { low: point, high: point }))
    }

    fn and(self, other: Self) -> Self {
        let [low, high] = [0, 1].map(|axis: usize| {
            (self.low[axis].min(other.low[axis]), self.high[axis].max(other.high[axis]))
        });
        Self { low: [low.0, high.0], high: [low.1, high.1] }
    }

    fn side(&self) -> f32 {
        (self.high[0] - self.low[0]).max(self.high[1] - self.low[1])
    }
}

/// How far along the Hilbert curve a cell of a square of `2^BITS` cells a side lies.
fn hilbert(mut x: u32, mut y: u32) -> u64 {
    let mut place = 0;
    for bit in (0..BITS).rev() {
        let (right, up) = (x >> bit & 1, y >> bit & 1);
        place = place << 2 | u64::from((3 * right) ^ up);
        if up == 0 {
            if right == 1 {
                x = !x;
                y = !y;
            }
            (x, y) = (y, x);
        }
    }
    place
}

/// Forces in x and y and sums of q of a group of points.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn walk(
    nodes: &[Node],
    (all_x, all_y): (&[f32], &[f32]),
    theta_square: f32,
    (x, y): (&[f32; LANES], &[f32; LANES]),
    out: &mut [[f32; LANES]; 3],
) {
    let (mut low, mut high) = ([x[0], y[0]], [x[0], y[0]]);
    for lane in 1..LANES {
        low = [low[0].min(x[lane]), low[1].min(y[lane])];
        high = [high[0].max(x[lane]), high[1].max(y[lane])];
    }
    let mut at = 0;
    while let Some(node) = nodes.get(at) {
        // From the nearest place that a point of the group could have.
        let apart_x = (node.x - high[0]).max(low[0] - node.x).max(0.0);
        let apart_y = (node.y - high[1]).max(low[1] - node.y).max(0.0);
        let apart = apart_x * apart_x + apart_y * apart_y;
        if node.square == 0.0 || node.square < theta_square * apart {
            repel((x, y), (node.x, node.y), node.mass, out);
            at = node.skip as usize;
        } else if node.count > 0 {
            for point in node.first as usize..(node.first + node.count) as usize {
                repel((x, y), (all_x[point], all_y[point]), 1.0, out);
            }
            at = node.skip as usize;
        } else {
            at += 1;
        }
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the processor of whoever calls")]
fn repel(
    (x, y): (&[f32; LANES], &[f32; LANES]),
    from: (f32, f32),
    mass: f32,
    out: &mut [[f32; LANES]; 3],
) {
    let [force_x, force_y, sum] = out;
    for lane in 0..LANES {
        let (apart_x, apart_y) = (x[lane] - from.0, y[lane] - from.1);
        let q = 1.0 / (1.0 + apart_x * apart_x + apart_y * apart_y);
        let weighted = mass * q;
        sum[lane] += weighted;
        let strength = weighted * q;
        force_x[lane] += strength * apart_x;
        force_y[lane] += strength * apart_y;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope, Stream};

    fn clouds(count: usize, centres: usize) -> Vec<[f32; 2]> {
        let mut stream = Stream::open(3, Purpose::Test, Scope::Item(0));
        let centres: Vec<[f64; 2]> =
            (0..centres).map(|_| [0, 1].map(|_| 30.0 * stream.normal())).collect();
        (0..count)
            .map(|point| centres[point % centres.len()].map(|c| (c + stream.normal()) as f32))
            .collect()
    }

    /// All pairs in f64.
    fn naive(points: &[[f32; 2]]) -> (Vec<[f64; 2]>, f64) {
        let (mut forces, mut sum) = (vec![[0.0; 2]; points.len()], 0.0);
        for (i, a) in points.iter().enumerate() {
            for (j, b) in points.iter().enumerate() {
                if i != j {
                    let [x, y] = [0, 1].map(|axis: usize| f64::from(a[axis]) - f64::from(b[axis]));
                    let q = 1.0 / (1.0 + x * x + y * y);
                    sum += q;
                    forces[i][0] += q * q * x;
                    forces[i][1] += q * q * y;
                }
            }
        }
        (forces, sum)
    }

    /// Error of all forces together, relative; and of the sum, relative to it and what every point adds by meeting itself.
    fn errors(points: &[[f32; 2]], theta: f32) -> (f64, f64) {
        let found = repulsion(points, theta);
        let (forces, sum) = naive(points);
        let (mut wrong, mut all) = (0.0, 0.0);
        for (found, exact) in found.forces.iter().zip(&forces) {
            for axis in 0..2 {
                wrong += (f64::from(found[axis]) - exact[axis]).powi(2);
                all += exact[axis].powi(2);
            }
        }
        ((wrong / all).sqrt(), (found.sum - sum).abs() / (sum + points.len() as f64))
    }

    #[test]
    fn without_groups_it_is_the_sum_over_all_pairs() {
        for count in [1usize, 2, 15, 16, 17, 700] {
            let (force, sum) = errors(&clouds(count, 5.min(count)), 0.0);
            if count > 1 {
                assert!(force < 1e-5 && sum < 1e-5, "{count}: {force} {sum}");
            }
        }
    }

    #[test]
    fn far_squares_as_one_point_cost_little() {
        let points = clouds(3_000, 12);
        let (force, sum) = errors(&points, 0.5);
        assert!(force < 0.01 && sum < 0.002, "{force} {sum}");
        let (rough, _) = errors(&points, 1.2);
        assert!(rough > force, "{rough} {force}");
    }

    #[test]
    fn many_points_in_one_place_and_one_far_away() {
        let mut points = vec![[0.25f32, -3.0]; 100];
        points.push([1e4, 1e4]);
        points.extend([[0.25, -3.000_001]; 30]);
        for theta in [0.0, 0.5] {
            let (force, sum) = errors(&points, theta);
            assert!(force < 1e-3 && sum < 1e-4, "{theta}: {force} {sum}");
        }
        let found = repulsion(&[[7.0, 7.0]; 40], 0.5);
        assert!(found.forces.iter().all(|force| *force == [0.0, 0.0]));
        assert!((found.sum - 40.0 * 39.0).abs() < 1e-3, "{}", found.sum);
    }

    #[test]
    fn threads_change_no_bit() {
        let points = clouds(2_000, 7);
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(|| repulsion(&points, 0.5));
            (found.forces, found.sum.to_bits())
        };
        assert_eq!(with(1), with(3));
    }

    #[test]
    fn the_curve_goes_from_cell_to_neighbouring_cell() {
        let side = 1 << 5;
        let mut cells: Vec<(u64, i64, i64)> = Vec::new();
        for x in 0..side {
            for y in 0..side {
                cells.push((hilbert(x, y), i64::from(x), i64::from(y)));
            }
        }
        cells.sort_unstable();
        for pair in cells.windows(2) {
            let [(_, a, b), (_, c, d)] = [pair[0], pair[1]];
            assert_eq!((a - c).abs() + (b - d).abs(), 1, "{pair:?}");
        }
    }
}
