//! The exact neighbour search at bounded memory: queries in tiles against references in parts.
//!
//! ```text
//! part of the references --unit or centred--> tile --matrix product with a tile of queries--> keys --> pools
//! pool of a query: the k + SPARE best keys so far --f64, at the end of the part--> exact values --> k nearest
//! ```

use super::select::{CANDIDATE_BYTES, Found, Pool};
use crate::error::{Error, Result};
use crate::shape;
use multiversion::multiversion;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::array;
use tch::{Device, Kind, Tensor};

/// What makes a reference near.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// Largest cosine similarity `q·r / (max(‖q‖, 1e-12) · max(‖r‖, 1e-12))`.
    #[default]
    Cosine,
    /// Smallest Euclidean distance `‖q − r‖` of the features as they are, not normalised (as in solo-learn).
    Euclidean,
}

impl Distance {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Euclidean => "euclidean",
        }
    }
}

/// The nearest references of each query, nearest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbours {
    /// Number of neighbours of each query.
    pub k: usize,
    rows: Vec<usize>,
    values: Vec<f32>,
}

impl Neighbours {
    /// Rows of the references nearest to a query, and their similarities (falling) or Euclidean distances (rising), both
    /// `[k]`.
    pub fn of(&self, query: usize) -> (&[usize], &[f32]) {
        let range = query * self.k..(query + 1) * self.k;
        (&self.rows[range.clone()], &self.values[range])
    }
}

/// How much is taken at a time. No result depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    /// Queries in one matrix product.
    pub(super) queries: usize,
    /// References in one matrix product.
    pub(super) references: usize,
    /// References whose rows are in memory beside the caller's.
    pub(super) part: usize,
    /// Queries that go through a part together.
    pub(super) group: usize,
}

/// Bytes of references held beside the caller's, and of the working memory of a group of queries.
const HELD_BYTES: usize = 128 << 20;

/// Candidates kept beyond `k`. Those at the edge may differ by less than the rounding of a matrix product, which
/// depends on the tile, the threads and the processor; exact values then decide among more than `k`.
const SPARE: usize = 32;

/// References whose exact values are computed together: 8 MB at 512 dimensions.
const NEARBY: usize = 4_096;

impl Tile {
    /// 64 MB of keys at a time, and 128 MB each of references and of working memory.
    fn fitting(dimensions: usize, k: usize) -> Self {
        let pool = 2 * CANDIDATE_BYTES * k.saturating_add(SPARE).min(HELD_BYTES);
        let queries = 2_048;
        Self {
            queries,
            references: 8_192,
            part: (HELD_BYTES / (4 * dimensions.max(1))).max(1),
            group: (HELD_BYTES / (4 * dimensions + pool)).max(queries),
        }
    }
}

/// A search that takes the references part by part, so that they need never be in memory all at once.
///
/// Values are computed in f64 in a fixed order and rounded to f32 once, so neither parts nor tiles nor threads decide a
/// tie; ties go to the lower row, counted over all parts. Memory holds one copy of the queries, `k + 32` candidates of 16
/// bytes for each of them and distance, and at most 0.4 GB of parts, tiles and working memory.
#[derive(Debug)]
pub struct Search {
    k: usize,
    /// Row of the first query among the references, none of which finds itself.
    itself: Option<usize>,
    queries: Rows,
    /// Subtracted from both sides for Euclidean distances, which it leaves alone; the closer to the features, the less is
    /// rounded away.
    centre: Vec<f32>,
    /// One pool for each query.
    pools: Vec<(Distance, Vec<Pool>)>,
    seen: usize,
    tile: Tile,
}

impl Search {
    /// Begins a search for the `k` references nearest to each query f32 `[Q, D]`, by each of some distances. With
    /// `itself`, for a set or a part of it compared with the whole, query `i` is reference `itself + i` and does not find
    /// that.
    ///
    /// # Errors
    /// [`Error::Recipe`] if `k` is 0; [`Error::Shape`] if queries are no rows; [`Error::NonFinite`] if they are no numbers.
    pub fn new(
        queries: &Tensor,
        k: usize,
        itself: Option<usize>,
        distances: &[Distance],
    ) -> Result<Self> {
        let dimensions = queries.size().get(1).map_or(1, |dimensions| *dimensions as usize);
        Self::tiled(queries, k, itself, distances, Tile::fitting(dimensions, k))
    }

    pub(super) fn tiled(
        queries: &Tensor,
        k: usize,
        itself: Option<usize>,
        distances: &[Distance],
        tile: Tile,
    ) -> Result<Self> {
        shape::check("query features", queries, &[-1, -1])?;
        if k == 0 {
            return Err(Error::Recipe("the number of neighbours must be at least 1".to_owned()));
        }
        let queries = Rows::new("query", queries)?;
        let pools = || (0..queries.len()).map(|_| Pool::default()).collect();
        Ok(Self {
            k,
            itself,
            centre: queries.mean(),
            pools: distances.iter().map(|distance| (*distance, pools())).collect(),
            queries,
            seen: 0,
            tile,
        })
    }

    /// Looks through the next references, f32 `[n, D]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if their dimensions are not those of the queries; [`Error::NonFinite`] if they are no numbers;
    /// [`Error::Data`] for more than 2³² references.
    pub fn add(&mut self, references: &Tensor) -> Result<()> {
        shape::check("reference features", references, &[-1, self.queries.dimensions as i64])?;
        let rows = references.size()[0];
        if self.seen + rows as usize > u32::MAX as usize {
            return Err(Error::Data("a search takes at most 2^32 references".to_owned()));
        }
        for first in (0..rows).step_by(self.tile.part) {
            let rows = references.narrow(0, first, rows.min(first + self.tile.part as i64) - first);
            self.part(&Rows::new("reference", &rows)?)?;
        }
        Ok(())
    }

    fn part(&mut self, part: &Rows) -> Result<()> {
        let limit = self.k.saturating_add(SPARE);
        let (queries, tile, seen) = (&self.queries, self.tile, self.seen);
        let excluded =
            |query: usize| (self.itself? + query).checked_sub(seen).filter(|row| *row < part.len());
        let mut keys = Vec::new();
        for (distance, pools) in &mut self.pools {
            for (group, pools) in pools.chunks_mut(tile.group).enumerate() {
                let group = group * tile.group;
                let count = pools.len();
                let left = queries.operand(*distance, Side::Query, group, count, &self.centre)?;
                pools.par_iter_mut().for_each(|pool| pool.open(limit, part.len()));
                for first in (0..part.len()).step_by(tile.references) {
                    let width = tile.references.min(part.len() - first);
                    let right =
                        part.operand(*distance, Side::Reference, first, width, &self.centre)?.tr();
                    for (at, pools) in pools.chunks_mut(tile.queries).enumerate() {
                        let at = at * tile.queries;
                        let product = left.narrow(0, at as i64, pools.len() as i64).matmul(&right);
                        keys.resize(pools.len() * width, 0.0f32);
                        product.copy_data(&mut keys, pools.len() * width);
                        let rows = keys.par_chunks_mut(width).zip(pools).enumerate();
                        rows.for_each(|(query, (keys, pool))| {
                            if let Some(row) = excluded(group + at + query)
                                && let Some(key) =
                                    row.checked_sub(first).and_then(|r| keys.get_mut(r))
                            {
                                *key = f32::NEG_INFINITY;
                            }
                            pool.offer(keys, (seen + first) as u32, limit);
                        });
                    }
                }
                pools.par_iter_mut().for_each(|pool| pool.close(limit, seen as u32));
                // All queries look at the same few references, which then stay in the cache.
                for first in (0..part.len()).step_by(NEARBY) {
                    let end = (seen + first + NEARBY).min(u32::MAX as usize) as u32;
                    pools.par_iter_mut().enumerate().for_each(|(query, pool)| {
                        let query = group + query;
                        pool.settle(end, |rows| {
                            exact(
                                *distance,
                                queries.row(query),
                                queries.norms[query],
                                part,
                                rows,
                                seen,
                            )
                        });
                    });
                }
            }
        }
        self.seen += part.len();
        Ok(())
    }

    /// The `k` nearest of all references, or all if there are fewer, by each of the distances in the order given.
    ///
    /// # Errors
    /// [`Error::Data`] if there is nothing to find; [`Error::Shape`] if a query that is a reference was not among them.
    pub fn finish(self) -> Result<Vec<Neighbours>> {
        if let Some(first) = self.itself
            && self.seen < first + self.queries.len()
        {
            return Err(Error::Shape(format!(
                "queries that are references `{first}` to `{}` need these, found `{}` references",
                first + self.queries.len(),
                self.seen
            )));
        }
        let available = self.seen.saturating_sub(usize::from(self.itself.is_some()));
        if available == 0 {
            return Err(Error::Data(
                "there are no reference images to find neighbours in".to_owned(),
            ));
        }
        let k = self.k.min(available);
        let sorted = |(distance, pools): (Distance, Vec<Pool>)| {
            let sign = if distance == Distance::Cosine { 1.0 } else { -1.0 };
            let nearest: Vec<Vec<Found>> =
                pools.into_par_iter().map(|pool| pool.nearest(k)).collect();
            let all = || nearest.iter().flatten();
            Neighbours {
                k,
                rows: all().map(|found| found.row as usize).collect(),
                values: all().map(|found| sign * found.value).collect(),
            }
        };
        Ok(self.pools.into_iter().map(sorted).collect())
    }
}

/// Finds for each query `[Q, D]` the `k` references `[N, D]` of largest cosine similarity, as [`Search`] does.
///
/// At most `N` neighbours are returned; with `exclude_same`, for a set compared with itself, at most `N − 1`.
///
/// # Errors
/// [`Error::Shape`] if dimensions do not fit; [`Error::Recipe`] if `k` is 0; [`Error::Data`] if there is nothing to
/// find; [`Error::NonFinite`] for features that are no numbers.
pub fn neighbours(
    queries: &Tensor,
    references: &Tensor,
    k: usize,
    exclude_same: bool,
) -> Result<Neighbours> {
    let found = neighbours_by(&[Distance::Cosine], queries, references, k, exclude_same)?;
    Ok(found.into_iter().next().expect("one for each distance"))
}

/// The same by several distances.
///
/// # Errors
/// As [`neighbours`].
pub fn neighbours_by(
    distances: &[Distance],
    queries: &Tensor,
    references: &Tensor,
    k: usize,
    exclude_same: bool,
) -> Result<Vec<Neighbours>> {
    shape::check("query features", queries, &[-1, -1])?;
    let rows = if exclude_same { queries.size()[0] } else { -1 };
    shape::check("reference features", references, &[rows, queries.size()[1]])?;
    let mut search = Search::new(queries, k, exclude_same.then_some(0), distances)?;
    search.add(references)?;
    search.finish()
}

/// Which operand of a product.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Query,
    Reference,
}

/// Rows in host memory as they are, and their lengths.
#[derive(Debug)]
struct Rows {
    values: Vec<f32>,
    /// At least 1e-12.
    norms: Vec<f64>,
    dimensions: usize,
}

impl Rows {
    fn new(side: &str, rows: &Tensor) -> Result<Self> {
        let (len, dimensions) = (rows.size()[0] as usize, rows.size()[1] as usize);
        if dimensions == 0 {
            return Err(Error::Shape(format!("{side} features have no dimensions")));
        }
        let mut values = vec![0.0; len * dimensions];
        let rows = rows.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
        rows.copy_data(&mut values, len * dimensions);
        let norms: Vec<f64> =
            values.par_chunks(dimensions).map(|row| square(row).sqrt().max(1e-12)).collect();
        if !values.par_iter().all(|value| value.is_finite()) {
            return Err(Error::NonFinite(format!(
                "the {side} features hold values that are infinite or not a number: the network \
                 diverged or its weights are damaged"
            )));
        }
        Ok(Self { values, norms, dimensions })
    }

    fn len(&self) -> usize {
        self.norms.len()
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.dimensions..(row + 1) * self.dimensions]
    }

    fn mean(&self) -> Vec<f32> {
        let mut sums = vec![0.0f64; self.dimensions];
        for row in self.values.chunks(self.dimensions) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        sums.iter().map(|sum| (sum / self.len().max(1) as f64) as f32).collect()
    }

    /// `count` rows from `first` on, as what a matrix product takes so that the nearest reference has the largest key:
    /// unit rows for cosine; for Euclidean rows less a centre with one more column, since
    /// `q·r − ‖r‖²/2 = (‖q‖² − ‖q − r‖²) / 2`.
    fn operand(
        &self,
        distance: Distance,
        side: Side,
        first: usize,
        count: usize,
        centre: &[f32],
    ) -> Result<Tensor> {
        let width = self.dimensions + usize::from(distance == Distance::Euclidean);
        let mut values = vec![0.0f32; count * width];
        values.par_chunks_mut(width).enumerate().for_each(|(row, out)| {
            let (norm, row) = (self.norms[first + row], self.row(first + row));
            match distance {
                Distance::Cosine => {
                    for (out, value) in out.iter_mut().zip(row) {
                        *out = (f64::from(*value) / norm) as f32;
                    }
                }
                Distance::Euclidean => {
                    let (last, out) = out.split_last_mut().expect("one more than dimensions");
                    for (out, (value, centre)) in out.iter_mut().zip(row.iter().zip(centre)) {
                        *out = value - centre;
                    }
                    let half = -0.5 * square(out);
                    *last = if side == Side::Query { 1.0 } else { half as f32 };
                }
            }
        });
        // Only lengths beyond f32 can overflow what was finite.
        if distance == Distance::Euclidean && values.par_iter().any(|value| !value.is_finite()) {
            return Err(Error::NonFinite(
                "features are too large for Euclidean distances (lengths beyond 1e19)".to_owned(),
            ));
        }
        Ok(Tensor::from_slice(&values).view([count as i64, width as i64]))
    }
}

/// True values of the references `rows`, of which the part's first is `seen`; larger is nearer.
fn exact(
    distance: Distance,
    query: &[f32],
    norm: f64,
    part: &Rows,
    rows: &[u32],
    seen: usize,
) -> Vec<f32> {
    let query: Vec<f64> = query.iter().copied().map(f64::from).collect();
    let of_row = |row: &u32| *row as usize - seen;
    let mut values = Vec::with_capacity(rows.len());
    // Several rows at once, so that the memory is waited for once. The last ones fill up with their last.
    for some in rows.chunks(TOGETHER) {
        let at: [usize; TOGETHER] = array::from_fn(|i| of_row(&some[i.min(some.len() - 1)]));
        let sums = match distance {
            Distance::Cosine => dots(&query, at.map(|at| part.row(at))),
            Distance::Euclidean => squares(&query, at.map(|at| part.row(at))),
        };
        let values_of = sums.iter().zip(at).take(some.len()).map(|(sum, at)| match distance {
            Distance::Cosine => (sum / (norm * part.norms[at])) as f32,
            Distance::Euclidean => -sum.sqrt() as f32,
        });
        values.extend(values_of);
    }
    values
}

/// The squared length of a row in f64, summed in an order that depends on nothing but its dimensions.
fn square(row: &[f32]) -> f64 {
    let wide: Vec<f64> = row.iter().copied().map(f64::from).collect();
    dots(&wide, [row; 1])[0]
}

const LANES: usize = 16;
const TOGETHER: usize = 4;

/// Scalar products in f64, each summed in an order that depends on nothing but the length. Plain loops, as in `sift`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "so that it is compiled for the processor of its caller")]
fn summed<const ROWS: usize, const SQUARES: bool>(
    query: &[f64],
    rows: [&[f32]; ROWS],
) -> [f64; ROWS] {
    let mut lanes = [[0.0f64; LANES]; ROWS];
    let whole = query.len() / LANES * LANES;
    let mut first = 0;
    while first < whole {
        let left: &[f64; LANES] = query[first..].first_chunk().expect("a whole chunk is left");
        for row in 0..ROWS {
            let right: &[f32; LANES] =
                rows[row][first..].first_chunk().expect("as long as the query");
            for lane in 0..LANES {
                let right = f64::from(right[lane]);
                let difference = left[lane] - right;
                lanes[row][lane] +=
                    if SQUARES { difference * difference } else { left[lane] * right };
            }
        }
        first += LANES;
    }
    let mut sums = [0.0; ROWS];
    for row in 0..ROWS {
        for at in whole..query.len() {
            let right = f64::from(rows[row][at]);
            let difference = query[at] - right;
            lanes[row][at - whole] +=
                if SQUARES { difference * difference } else { query[at] * right };
        }
        for lane in 0..LANES {
            sums[row] += lanes[row][lane];
        }
    }
    sums
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn dots<const ROWS: usize>(query: &[f64], rows: [&[f32]; ROWS]) -> [f64; ROWS] {
    summed::<ROWS, false>(query, rows)
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn squares<const ROWS: usize>(query: &[f64], rows: [&[f32]; ROWS]) -> [f64; ROWS] {
    summed::<ROWS, true>(query, rows)
}
