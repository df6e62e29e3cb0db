//! Where k-means starts: greedy k-means++ (Arthur and Vassilvitskii 2007, with several candidates for each centre).

use super::points::{BLOCK, Points};
use super::products::{Lanes, products};
use crate::random::Stream;
use rayon::prelude::*;

/// Candidates for each centre but the first: 2 + the whole part of ln k.
pub(super) fn candidates(k: usize) -> usize {
    2 + (k as f64).ln() as usize
}

/// Rows that become the centres `[k]`, for each stream of random numbers.
///
/// The first is uniform. For each further one, candidates are drawn with a probability proportional to their squared
/// distance to the nearest centre so far, and that one stays which leaves the least sum of such distances over all rows,
/// the first of equals. All starts go through the rows together.
pub(super) fn plus_plus(points: &Points, k: usize, streams: &mut [Stream]) -> Vec<Vec<u32>> {
    let (rows, starts) = (points.len(), streams.len());
    let mut blocks: Vec<Block> = (0..rows)
        .step_by(BLOCK)
        .map(|first| Block::new(first, BLOCK.min(rows - first), starts))
        .collect();
    let mut chosen = vec![Vec::with_capacity(k); starts];
    for centre in 0..k {
        let drawn: Vec<u32> = if centre == 0 {
            streams.iter_mut().map(|stream| stream.below(rows as u64) as u32).collect()
        } else {
            let draw = |(start, stream): (usize, &mut Stream)| -> Vec<u32> {
                (0..candidates(k)).map(|_| draw(&blocks, start, stream)).collect()
            };
            streams.iter_mut().enumerate().flat_map(draw).collect()
        };
        let tries = drawn.len() / starts;
        let panel: Vec<Lanes> =
            drawn.iter().flat_map(|row| points.row(*row as usize)).copied().collect();
        let squares: Vec<f32> = drawn.iter().map(|row| points.squares[*row as usize]).collect();
        blocks.par_iter_mut().for_each(|block| block.offer(points, &panel, &squares, starts));
        let best: Vec<usize> = (0..starts)
            .map(|start| {
                let potential =
                    |tried: usize| -> f64 { blocks.iter().map(|b| b.offered_sums[tried]).sum() };
                let tried = start * tries..(start + 1) * tries;
                let potentials: Vec<f64> = tried.clone().map(potential).collect();
                let mut best = 0;
                for at in 1..tries {
                    if potentials[at] < potentials[best] {
                        best = at;
                    }
                }
                chosen[start].push(drawn[tried.start + best]);
                tried.start + best
            })
            .collect();
        blocks.par_iter_mut().for_each(|block| block.accept(&best));
    }
    chosen
}

/// Consecutive rows and their squared distances to the nearest centre of each start.
struct Block {
    rows: Vec<u32>,
    /// `[starts, rows]`, and its sums over the rows.
    nearest: Vec<f32>,
    nearest_sums: Vec<f64>,
    /// What it would be with one candidate more, `[starts * candidates, rows]`, and its sums.
    offered: Vec<f32>,
    offered_sums: Vec<f64>,
}

impl Block {
    fn new(first: usize, len: usize, starts: usize) -> Self {
        Self {
            rows: (first as u32..(first + len) as u32).collect(),
            nearest: vec![f32::INFINITY; starts * len],
            nearest_sums: vec![0.0; starts],
            offered: Vec::new(),
            offered_sums: Vec::new(),
        }
    }

    fn offer(&mut self, points: &Points, panel: &[Lanes], squares: &[f32], starts: usize) {
        let (len, tried) = (self.rows.len(), squares.len());
        let mut found = vec![0.0; len * tried];
        products(&points.values, &self.rows, panel, points.stride, &mut found);
        self.offered.resize(tried * len, 0.0);
        self.offered_sums.clear();
        for (at, (offered, square)) in self.offered.chunks_mut(len).zip(squares).enumerate() {
            let start = at / (tried / starts);
            let nearest = &self.nearest[start * len..(start + 1) * len];
            let mut sum = 0.0;
            for (row, (offered, nearest)) in offered.iter_mut().zip(nearest).enumerate() {
                let own = points.squares[self.rows[row] as usize];
                *offered = (own + square - 2.0 * found[row * tried + at]).max(0.0).min(*nearest);
                sum += f64::from(*offered);
            }
            self.offered_sums.push(sum);
        }
    }

    /// Goes on with the best candidate of each start.
    fn accept(&mut self, best: &[usize]) {
        let len = self.rows.len();
        for (start, best) in best.iter().enumerate() {
            let offered = &self.offered[best * len..(best + 1) * len];
            self.nearest[start * len..(start + 1) * len].copy_from_slice(offered);
            self.nearest_sums[start] = self.offered_sums[*best];
        }
    }
}

/// The first row at which the running sum of distances reaches a uniform share of their whole sum.
fn draw(blocks: &[Block], start: usize, stream: &mut Stream) -> u32 {
    let whole: f64 = blocks.iter().map(|block| block.nearest_sums[start]).sum();
    let mut left = stream.uniform() * whole;
    for block in blocks {
        if left > block.nearest_sums[start] {
            left -= block.nearest_sums[start];
            continue;
        }
        let len = block.rows.len();
        let mut sum = 0.0;
        for (row, distance) in block.rows.iter().zip(&block.nearest[start * len..]) {
            sum += f64::from(*distance);
            if sum >= left {
                return *row;
            }
        }
    }
    // The share came out above the sum by rounding.
    blocks.last().and_then(|block| block.rows.last()).copied().expect("there are rows")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope};
    use tch::Tensor;

    #[test]
    fn a_row_is_drawn_as_often_as_its_squared_distance_says() {
        // From row 0: distances 0, 1, 9, 0; in a second block, 90 times 0 and a 10.
        let mut values = vec![0.0, 1.0, 3.0, 0.0];
        values.resize(BLOCK + 90, 0.0);
        values.push(10f32.sqrt());
        let points = Points::new(&Tensor::from_slice(&values).view([-1, 1])).unwrap();
        let mut blocks = vec![Block::new(0, BLOCK, 1), Block::new(BLOCK, 91, 1)];
        for block in &mut blocks {
            block.offer(&points, points.row(0), &points.squares[..1], 1);
            block.accept(&[0]);
        }
        let mut stream = Stream::open(0, Purpose::Test, Scope::Item(0));
        let mut counts = [0u32; 3];
        for _ in 0..20_000 {
            match draw(&blocks, 0, &mut stream) {
                1 => counts[0] += 1,
                2 => counts[1] += 1,
                row if row as usize == BLOCK + 90 => counts[2] += 1,
                row => panic!("row {row} lies on the centre"),
            }
        }
        for (count, expected) in counts.into_iter().zip([1_000.0, 9_000.0, 10_000.0]) {
            assert!((f64::from(count) - expected).abs() < 4.0 * 100.0, "{counts:?}");
        }
    }

    #[test]
    fn of_the_candidates_the_one_that_leaves_least_stays() {
        // Two far groups: whichever is first, the second centre lies in the other one, though a candidate may not.
        let values: Vec<f32> =
            (0..40u8).map(|row| f32::from(row % 2) * 100.0 + f32::from(row)).collect();
        let points = Points::new(&Tensor::from_slice(&values).view([-1, 1])).unwrap();
        let open = |start| Stream::open(2, Purpose::Test, Scope::Item(start));
        let mut streams: Vec<Stream> = (0..50).map(open).collect();
        for chosen in plus_plus(&points, 2, &mut streams) {
            assert_ne!(chosen[0] % 2, chosen[1] % 2);
        }
    }
}
