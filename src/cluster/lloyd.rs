//! Lloyd's algorithm from several starts at once.
//!
//! ```text
//! repeat: assign (blocks of rows on all cores, every start) -> moves -> sums -> centres, until each start has settled
//! ```
//!
//! What makes it quick changes no bit of the result. A block of rows is read once for all starts. A row whose distance to
//! its own centre is known to be below that to any other, by more than rounding could hide, is left where it is (Hamerly
//! 2010, "Making k-means even faster"). Sums follow the rows that changed sides, in f64.

use super::points::{BLOCK, Points};
use super::products::{LANES, Lanes, Move, NONE, follow, products};
use rayon::prelude::*;

/// What the centre of a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Centre {
    /// The mean of its rows.
    Mean,
    /// The sum of its rows, of unit length, at length 1.
    Direction,
}

/// When to stop and what to average.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lloyd {
    pub(super) centre: Centre,
    pub(super) max_iterations: u64,
    /// Least sum of squares of the centres' moves to go on for.
    pub(super) tolerance: f64,
}

/// What a start led to.
#[derive(Clone, Debug)]
pub(super) struct Fitted {
    pub(super) labels: Vec<u32>,
    /// `[k, stride]`.
    pub(super) centres: Vec<Lanes>,
    pub(super) iterations: u64,
}

/// Sums are worked out by slices of this many [`Lanes`], one beside the other.
const SLICE: usize = 2;

impl Lloyd {
    /// Runs from each set of centres `[k, stride]`. The result of one does not depend on the others.
    pub(super) fn fit(&self, points: &Points, starts: Vec<Vec<Lanes>>) -> Vec<Fitted> {
        let mut runs: Vec<Run> =
            starts.into_iter().map(|centres| Run::new(centres, points.stride)).collect();
        let k = runs[0].squares.len();
        let mut sums = Sums::new(points.stride, runs.len() * k);
        let mut blocks: Vec<Block> = (0..points.len())
            .step_by(BLOCK)
            .map(|first| Block::new(first, BLOCK.min(points.len() - first), runs.len()))
            .collect();
        while runs.iter().any(|run| run.state != State::Done) {
            blocks.par_iter_mut().for_each_init(Scratch::default, |scratch, block| {
                block.moves.clear();
                for (at, run) in runs.iter().enumerate() {
                    if run.state != State::Done {
                        block.assign(points, at, run, scratch);
                    }
                }
            });
            sums.follow(points, &blocks, k);
            let moved = count_moves(&blocks, &mut runs);
            runs.par_iter_mut().enumerate().for_each(|(at, run)| match run.state {
                State::Moving => {
                    let labels = || labels(&blocks, at);
                    let shift = run.update(points, self.centre, &labels, &sums, at);
                    run.iterations += 1;
                    if !moved[at] {
                        run.state = State::Done;
                    } else if shift <= self.tolerance || run.iterations >= self.max_iterations {
                        run.state = State::Settling;
                    }
                }
                State::Settling | State::Done => run.state = State::Done,
            });
        }
        let fitted = runs.into_iter().enumerate().map(|(at, run)| Fitted {
            labels: labels(&blocks, at),
            centres: run.centres,
            iterations: run.iterations,
        });
        fitted.collect()
    }
}

/// How far a start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Assigns and averages.
    Moving,
    /// Assigns once more, so that labels match the last centres.
    Settling,
    Done,
}

struct Run {
    centres: Vec<Lanes>,
    squares: Vec<f32>,
    counts: Vec<i64>,
    iterations: u64,
    state: State,
    /// How far each centre moved last, not less.
    shifts: Vec<f32>,
    /// The centre that moved farthest, how far, and how far the next.
    fastest: (u32, f32, f32),
    /// Length of the longest centre, not less.
    longest: f32,
    stride: usize,
}

impl Run {
    fn new(centres: Vec<Lanes>, stride: usize) -> Self {
        let k = centres.len() / stride;
        let mut run = Self {
            centres: Vec::new(),
            squares: Vec::new(),
            counts: vec![0; k],
            iterations: 0,
            state: State::Moving,
            shifts: vec![0.0; k],
            fastest: (0, 0.0, 0.0),
            longest: 0.0,
            stride,
        };
        run.place(centres);
        run
    }

    fn place(&mut self, centres: Vec<Lanes>) {
        let square = |row: &[Lanes]| {
            let mut square = [0.0];
            products(row, &[0], row, self.stride, &mut square);
            square[0]
        };
        self.squares = centres.chunks(self.stride).map(square).collect();
        self.longest = self.squares.iter().fold(0.0f32, |most, s| most.max(s.sqrt())) * UP;
        self.centres = centres;
    }

    /// Moves the centres to where the sums say; the sum of squares of their moves.
    fn update(
        &mut self,
        points: &Points,
        centre: Centre,
        labels: &dyn Fn() -> Vec<u32>,
        sums: &Sums,
        at: usize,
    ) -> f64 {
        let k = self.counts.len();
        let mut all: Vec<Vec<f64>> = (0..k).map(|cluster| sums.of(at * k + cluster)).collect();
        let mut counts = self.counts.clone();
        if counts.contains(&0) {
            relocate(points, &labels(), &self.centres, &mut all, &mut counts);
        }
        let mut largest = 0;
        for cluster in 1..k {
            if counts[cluster] > counts[largest] {
                largest = cluster;
            }
        }
        let mut centres = Vec::with_capacity(self.centres.len());
        for cluster in 0..k {
            let from = if counts[cluster] > 0 { cluster } else { largest };
            let divisor = match centre {
                Centre::Mean => counts[from] as f64,
                Centre::Direction => all[from].iter().map(|v| v * v).sum::<f64>().sqrt(),
            };
            // Directions that cancel out leave the centre where it was.
            if divisor <= crate::rows::SHORTEST {
                centres.extend(&self.centres[cluster * self.stride..][..self.stride]);
            } else {
                let row = all[from].as_chunks::<LANES>().0;
                centres.extend(row.iter().map(|lanes| lanes.map(|sum| (sum / divisor) as f32)));
            }
        }
        let squares: Vec<f64> = (centres.chunks(self.stride))
            .zip(self.centres.chunks(self.stride))
            .map(|(new, old)| {
                let pairs = new.as_flattened().iter().zip(old.as_flattened());
                pairs.map(|(new, old)| (f64::from(*new) - f64::from(*old)).powi(2)).sum()
            })
            .collect();
        self.shifts = squares.iter().map(|square| square.sqrt() as f32 * UP).collect();
        self.fastest = (0, 0.0, 0.0);
        for (cluster, shift) in self.shifts.iter().enumerate() {
            if *shift > self.fastest.1 {
                self.fastest = (cluster as u32, *shift, self.fastest.1);
            } else if *shift > self.fastest.2 {
                self.fastest.2 = *shift;
            }
        }
        self.place(centres);
        squares.iter().sum()
    }
}

/// Gives each empty cluster one of the rows farthest from their centres, the farthest first, the lower row of equals, and
/// takes it off the sum and count of its old one. Labels stay. Nothing happens where every row lies on its centre.
fn relocate(
    points: &Points,
    labels: &[u32],
    centres: &[Lanes],
    sums: &mut [Vec<f64>],
    counts: &mut [i64],
) {
    let distances = points.distances(labels, centres);
    let empty: Vec<usize> = (0..counts.len()).filter(|cluster| counts[*cluster] == 0).collect();
    let mut rows: Vec<usize> = (0..points.len()).collect();
    rows.sort_by(|left, right| distances[*right].total_cmp(&distances[*left]));
    if distances[rows[0]] == 0.0 {
        return;
    }
    for (cluster, row) in empty.into_iter().zip(rows) {
        let old = labels[row] as usize;
        for (at, value) in points.row(row).as_flattened().iter().enumerate() {
            sums[old][at] -= f64::from(*value);
            sums[cluster][at] = f64::from(*value);
        }
        counts[cluster] = 1;
        counts[old] -= 1;
    }
}

/// Consecutive rows, and where each start has them.
struct Block {
    first: usize,
    len: usize,
    /// `[runs, len]`.
    labels: Vec<u32>,
    /// At least the distance to the own centre, `[runs, len]`.
    upper: Vec<f32>,
    /// At most the distance to any other, `[runs, len]`.
    lower: Vec<f32>,
    moves: Vec<Move>,
}

#[derive(Default)]
struct Scratch {
    rows: Vec<u32>,
    products: Vec<f32>,
}

/// Factors that outweigh the rounding of what they are applied to.
const UP: f32 = 1.0 + 4.0 * f32::EPSILON;
const DOWN: f32 = 1.0 - 4.0 * f32::EPSILON;

impl Block {
    fn new(first: usize, len: usize, runs: usize) -> Self {
        Self {
            first,
            len,
            labels: vec![NONE; runs * len],
            upper: vec![0.0; runs * len],
            lower: vec![0.0; runs * len],
            moves: Vec::new(),
        }
    }

    /// Each row to its nearest centre, the least `|c|² - 2 x·c`, the first of equals.
    fn assign(&mut self, points: &Points, at: usize, run: &Run, scratch: &mut Scratch) {
        let range = at * self.len..(at + 1) * self.len;
        let labels = &mut self.labels[range.clone()];
        let (upper, lower) = (&mut self.upper[range.clone()], &mut self.lower[range]);
        let squares = &points.squares[self.first..][..self.len];
        // The most that rounding can move a squared distance by, in squared lengths of row plus centre: a sum of
        // stride + 4 roundings for each product, and a few.
        let slack = (points.stride + 8) as f32 * f32::EPSILON;
        scratch.rows.clear();
        for (row, label) in labels.iter().enumerate() {
            if *label != NONE {
                let (fastest, most, next) = run.fastest;
                upper[row] = (upper[row] + run.shifts[*label as usize]) * UP;
                lower[row] = (lower[row] - if *label == fastest { next } else { most }) * DOWN;
                let reach = squares[row].sqrt() * UP + run.longest;
                let gap = (lower[row] - upper[row]) * (lower[row] + upper[row]);
                if lower[row] > upper[row] && gap > 3.0 * slack * reach * reach {
                    continue;
                }
            }
            scratch.rows.push((self.first + row) as u32);
        }
        let k = run.squares.len();
        scratch.products.resize(scratch.rows.len() * k, 0.0);
        products(&points.values, &scratch.rows, &run.centres, run.stride, &mut scratch.products);
        for (global, products) in scratch.rows.iter().zip(scratch.products.chunks(k)) {
            let row = *global as usize - self.first;
            let (mut label, mut nearest, mut second) = (0, f32::INFINITY, f32::INFINITY);
            for (cluster, (square, product)) in run.squares.iter().zip(products).enumerate() {
                // Choices rather than branches, which no processor could foresee.
                let distance = square - 2.0 * product;
                let nearer = distance < nearest;
                second = second.min(if nearer { nearest } else { distance });
                nearest = if nearer { distance } else { nearest };
                label = if nearer { cluster as u32 } else { label };
            }
            let reach = squares[row].sqrt() * UP + run.longest;
            let error = slack * reach * reach;
            upper[row] = (nearest + squares[row] + error).max(0.0).sqrt() * UP;
            lower[row] = (second + squares[row] - error).max(0.0).sqrt() * DOWN;
            if label != labels[row] {
                self.moves.push(Move {
                    row: *global,
                    run: at as u32,
                    from: labels[row],
                    to: label,
                });
                labels[row] = label;
            }
        }
    }
}

/// The labels of one run, over all blocks.
fn labels(blocks: &[Block], run: usize) -> Vec<u32> {
    let of = |block: &Block| block.labels[run * block.len..(run + 1) * block.len].to_vec();
    blocks.iter().flat_map(of).collect()
}

/// Brings the counts up to date; whether each run had a move.
fn count_moves(blocks: &[Block], runs: &mut [Run]) -> Vec<bool> {
    let mut moved = vec![false; runs.len()];
    for step in blocks.iter().flat_map(|block| &block.moves) {
        let run = step.run as usize;
        moved[run] = true;
        if step.from != NONE {
            runs[run].counts[step.from as usize] -= 1;
        }
        runs[run].counts[step.to as usize] += 1;
    }
    moved
}

/// Sums of the rows of each cluster of each run, by slices of the dimensions.
struct Sums {
    slices: Vec<Slice>,
}

/// The sums of some consecutive [`Lanes`], `[clusters, width]`.
struct Slice {
    first: usize,
    width: usize,
    sums: Vec<[f64; LANES]>,
}

impl Sums {
    fn new(stride: usize, clusters: usize) -> Self {
        let slice = |first| {
            let width = SLICE.min(stride - first);
            Slice { first, width, sums: vec![[0.0; LANES]; clusters * width] }
        };
        Self { slices: (0..stride).step_by(SLICE).map(slice).collect() }
    }

    /// Follows the moves, in their order.
    fn follow(&mut self, points: &Points, blocks: &[Block], k: usize) {
        self.slices.par_iter_mut().for_each(|slice| {
            let place = (points.stride, slice.first, slice.width);
            for block in blocks {
                follow(&mut slice.sums, &block.moves, &points.values, place, k);
            }
        });
    }

    /// The whole sum of a cluster, `[stride * LANES]`.
    fn of(&self, cluster: usize) -> Vec<f64> {
        let part = |slice: &Slice| {
            let range = cluster * slice.width..(cluster + 1) * slice.width;
            slice.sums[range].as_flattened().to_vec()
        };
        self.slices.iter().flat_map(part).collect()
    }
}
