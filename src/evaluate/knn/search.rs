//! The exact neighbour search at bounded memory: queries in tiles against references in parts.
//!
//! ```text
//! part of the references --unit or centred--> tile --matrix product with a tile of queries--> keys --> pools
//! pool of a query: the k + SPARE best keys so far --f64, at the end of the part--> exact values --> k nearest
//! ```

use super::exact::exact;
use super::rows::{Rows, Side};
use super::select::{CANDIDATE_BYTES, Found, Pool};
use crate::error::{Error, Result};
use crate::shape;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
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
    /// 8 MB of keys at a time, which stay near the processor, and 128 MB each of references and of working memory.
    fn fitting(dimensions: usize, k: usize) -> Self {
        let pool = 2 * CANDIDATE_BYTES * k.saturating_add(SPARE).min(HELD_BYTES);
        let queries = 512;
        Self {
            queries,
            references: 4_096,
            part: (HELD_BYTES / (4 * dimensions.max(1))).max(1),
            group: (HELD_BYTES / (4 * dimensions + pool)).max(queries),
        }
    }
}

/// A search that takes the references part by part, so that they need never be in memory all at once.
///
/// Values are computed in f64 in a fixed order and rounded to f32 once, so neither parts nor tiles nor threads decide a
/// tie; ties go to the lower row, counted over all parts. Memory holds one copy of the queries, `k + 32` candidates of 16
/// bytes for each of them and distance, and at most 0.5 GB of parts, tiles and working memory.
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
        let product = Tensor::empty([0], (Kind::Float, Device::Cpu));
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
                        let left = left.narrow(0, at as i64, pools.len() as i64);
                        keys.resize(pools.len() * width, 0.0f32);
                        left.matmul_out(&product, &right).copy_data(&mut keys, pools.len() * width);
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
