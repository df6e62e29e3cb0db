//! Images that occur twice, or almost, in and across splits: to be known before pre-training, for it needs no network.
//!
//! ```text
//! image --hash of pixels--> equal ones
//!       --8 x 8 means--> fingerprint --neighbour search--> candidates --decoded again, laid over each other--> pairs
//! ```

mod overlap;
mod report;
#[cfg(test)]
mod tests;
mod thumbnail;

use super::Features;
use super::knn::{Distance, Search, neighbours};
use crate::data::{Dataset, Source};
use crate::error::{Error, Result};
use overlap::{Alike, compare};
use rayon::prelude::*;
pub use report::{Count, Pair, Place, Report};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tch::Tensor;
use thumbnail::{Fingerprint, Thumbnail};

/// Version of the scan; what different versions find does not compare.
pub const VERSION: u32 = 2;

/// Queries searched together.
const BLOCK: usize = 1 << 16;

/// Cosine of fingerprints from which on two images are decoded again and compared. A crop of a tenth and a strong JPEG
/// compression leave it higher.
const CANDIDATE: f32 = 0.85;

/// Settings of the scan.
///
/// Two images are near-duplicates when one, or a box of at least three quarters of its width and height, laid over the
/// other correlates with it by `similarity`, and by `detail` once what varies slowly is taken away (a sky is a sky). Channels
/// are centred and lengths taken out, so brightness, contrast and a colour cast do not count. With `mirrored` an image whose
/// left and right are exchanged counts too, and is told as such; a pair that is alike both ways is not.
///
/// The bounds are ours, set by eye: on CIFAR-10 they find 286 of the 10,000 test images in the training split, of which about
/// one in twenty is another image (ships on a horizon), and 26 more of which a mirrored copy is there, all of them right. A
/// lower `detail` adds other images, a lower `similarity` finds more of the near-duplicates (Barz and Denzler 2020,
/// arXiv:1902.00423, count 3.25 % with a network's help) and more that are none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Duplicates {
    /// Least correlation, within \[0.5, 1\].
    pub similarity: f64,
    /// Least correlation of the details, within \[0, 1\].
    pub detail: f64,
    /// Most near-duplicates looked for of each image in each split, at least 1.
    pub neighbours: usize,
    /// Whether pairs within a split are looked for too, or else only those across splits.
    pub within: bool,
    /// Whether mirrored copies, left and right exchanged, are looked for too; that doubles what the search takes.
    pub mirrored: bool,
}

impl Default for Duplicates {
    fn default() -> Self {
        Self { similarity: 0.95, detail: 0.6, neighbours: 4, within: true, mirrored: true }
    }
}

/// One image's first look: hashes of its pixels as they are and mirrored, and its fingerprint.
struct Seen {
    hash: [u8; 16],
    mirrored: [u8; 16],
    fingerprint: Fingerprint,
}

/// Two images that are one; the first lies before the second.
struct Match {
    first: At,
    second: At,
    /// How alike they are; none if all pixels are equal.
    alike: Option<Alike>,
    mirrored: bool,
}

/// An image by number of its split and index.
type At = (usize, usize);

impl Duplicates {
    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting, its range and what was found.
    pub fn check(&self) -> Result<()> {
        let ranges = [("similarity", self.similarity, 0.5), ("detail", self.detail, 0.0)];
        for (key, found, least) in ranges {
            if !(least..=1.0).contains(&found) {
                return Err(Error::Recipe(format!(
                    "`{key}` must be within {least} to 1, found `{found}`"
                )));
            }
        }
        if self.neighbours == 0 {
            return Err(Error::Recipe("`neighbours` must be at least 1, found `0`".to_owned()));
        }
        Ok(())
    }

    /// Looks through all splits of a source. Memory holds 224 bytes an image and what a neighbour search of 65,536 queries
    /// takes; candidates are decoded a second time. `progress` is told how many of how many images had their first look,
    /// from several threads.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a setting out of range; [`Error::Data`] if no image can be decoded.
    pub fn scan(
        &self,
        source: &Source,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Report> {
        self.check()?;
        let images = source.splits.iter().map(|(_, split)| split.len()).sum();
        let done = std::sync::atomic::AtomicUsize::new(0);
        let look = |split: &dyn Dataset, index| {
            let seen = split.image(index).ok().map(|image| Seen {
                hash: thumbnail::hash(&image),
                mirrored: thumbnail::hash(&thumbnail::mirrored(&image)),
                fingerprint: Fingerprint::of(&image),
            });
            let done = done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            if done.is_multiple_of(256) || done == images {
                progress(done, images);
            }
            seen
        };
        let splits: Vec<Vec<Option<Seen>>> = source
            .splits
            .iter()
            .map(|(_, split)| {
                (0..split.len()).into_par_iter().map(|index| look(split.as_ref(), index)).collect()
            })
            .collect();
        let readable = || splits.iter().flatten().flatten();
        if readable().next().is_none() {
            return Err(Error::Data(format!(
                "none of the {images} images of `{}` can be decoded",
                source.location
            )));
        }
        let mut listed = equal(&splits, self.within);
        if self.mirrored {
            listed.extend(equal_mirrored(&splits, self.within));
        }
        for first in 0..splits.len() {
            for second in first..splits.len() {
                if first != second || self.within {
                    listed.extend(self.near(source, &splits, first, second)?);
                }
            }
        }
        let place = |(split, index): At| {
            let (name, split) = &source.splits[split];
            Place { split: name.clone(), index, path: split.path(index), label: split.label(index) }
        };
        let similarity = |it: &Match| it.alike.map_or(f64::INFINITY, |alike| alike.similarity);
        let place_of = |it: &Match| (it.mirrored, it.first, it.second);
        listed.sort_by(|a, b| {
            similarity(b).total_cmp(&similarity(a)).then(place_of(a).cmp(&place_of(b)))
        });
        Ok(Report {
            images,
            damaged: images - readable().count(),
            flat: readable().filter(|seen| seen.fingerprint.is_flat()).count(),
            counts: counts(source, &listed),
            pairs: listed
                .into_iter()
                .map(|Match { first, second, alike, mirrored }| Pair {
                    first: place(first),
                    second: place(second),
                    exact: alike.is_none(),
                    mirrored,
                    similarity: alike.map_or(1.0, |alike| alike.similarity),
                    detail: alike.map_or(1.0, |alike| alike.detail),
                })
                .collect(),
        })
    }

    /// Near-duplicates of images of the second split in the first, which may be the same.
    fn near(
        &self,
        source: &Source,
        splits: &[Vec<Option<Seen>>],
        first: usize,
        second: usize,
    ) -> Result<Vec<Match>> {
        let readable = |split: usize| -> Vec<(usize, &Seen)> {
            let all = splits[split].iter().enumerate();
            all.filter_map(|(index, seen)| Some((index, seen.as_ref()?))).collect()
        };
        let (references, queries) = (readable(first), readable(second));
        let rows = |seen: &[(usize, &Seen)], mirrored: bool| {
            let print = |seen: &Seen| {
                if mirrored { seen.fingerprint.mirrored().unit() } else { seen.fingerprint.unit() }
            };
            let values: Vec<f32> = seen.iter().flat_map(|(_, seen)| print(seen)).collect();
            Tensor::from_slice(&values).view([seen.len() as i64, -1])
        };
        if references.len() <= usize::from(first == second) || queries.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = BTreeMap::new();
        // Mirrored last: a pair that is alike as it is stays so.
        let ways = if self.mirrored { &[false, true][..] } else { &[false][..] };
        let blocks = (0..queries.len()).step_by(BLOCK);
        for (mirrored, block) in ways.iter().flat_map(|way| blocks.clone().map(|at| (*way, at))) {
            let some = &queries[block..queries.len().min(block + BLOCK)];
            let itself = (first == second).then_some(block);
            let mut search =
                Search::new(&rows(some, mirrored), self.neighbours, itself, &[Distance::Cosine])?;
            for part in references.chunks(BLOCK) {
                search.add(&rows(part, false))?;
            }
            let neighbours = search.finish()?.remove(0);
            let of_query = |(at, (index, query)): (usize, &(usize, &Seen))| {
                let (rows, cosines) = neighbours.of(at);
                let candidates =
                    rows.iter().zip(cosines).filter(|(_, cosine)| **cosine >= CANDIDATE);
                // Equal ones are known, either way.
                let equal = |seen: &Seen| {
                    seen.hash == query.hash || (self.mirrored && seen.hash == query.mirrored)
                };
                let candidates: Vec<usize> = candidates
                    .filter(|(row, _)| !equal(references[**row].1))
                    .map(|(row, _)| references[*row].0)
                    .collect();
                self.verify(source, (second, *index), first, &candidates, mirrored)
            };
            let pairs: Vec<(At, At, Alike)> =
                some.par_iter().enumerate().flat_map_iter(of_query).collect();
            for (first, second, alike) in pairs {
                let found = found.entry((first, second)).or_insert((alike, mirrored));
                if found.1 == mirrored && found.0.similarity < alike.similarity {
                    found.0 = alike;
                }
            }
        }
        let of = |((first, second), (alike, mirrored))| Match {
            first,
            second,
            alike: Some(alike),
            mirrored,
        };
        Ok(found.into_iter().map(of).collect())
    }

    /// Which of some images of split `other` are near-duplicates of an image, or of it mirrored.
    fn verify(
        &self,
        source: &Source,
        at: At,
        other: usize,
        candidates: &[usize],
        mirrored: bool,
    ) -> Vec<(At, At, Alike)> {
        // Both were decoded before; one that cannot be any more is no duplicate.
        let thumbnail = |(split, index): At| {
            source.splits[split].1.image(index).ok().map(|image| Thumbnail::of(&image))
        };
        let Some(query) = (!candidates.is_empty()).then(|| thumbnail(at)).flatten() else {
            return Vec::new();
        };
        let query = if mirrored { query.mirrored() } else { query };
        let judge = |index: &usize| {
            let candidate = (other, *index);
            // The lower first, whichever of the two was asked about, so that both ways are one pair.
            let (first, second) = if candidate < at { (candidate, at) } else { (at, candidate) };
            let found = thumbnail(candidate)?;
            let alike =
                if candidate < at { compare(&found, &query) } else { compare(&query, &found) };
            let is = alike.similarity >= self.similarity && alike.detail >= self.detail;
            is.then_some((first, second, alike))
        };
        candidates.iter().filter_map(judge).collect()
    }
}

/// Pairs of images with the same pixels: of each group every later one with the first of each split.
fn equal(splits: &[Vec<Option<Seen>>], within: bool) -> Vec<Match> {
    let hashes = hashes(splits);
    let mut pairs = Vec::new();
    for group in hashes.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
        let mut firsts: Vec<At> = Vec::new();
        for (_, at) in group {
            let others = firsts.iter().filter(|first| within || first.0 != at.0);
            pairs.extend(others.map(|first| Match {
                first: *first,
                second: *at,
                alike: None,
                mirrored: false,
            }));
            if firsts.last().is_none_or(|last| last.0 != at.0) {
                firsts.push(*at);
            }
        }
    }
    pairs
}

/// Hashes of all images with where they lie, in order.
fn hashes(splits: &[Vec<Option<Seen>>]) -> Vec<([u8; 16], At)> {
    let mut hashes: Vec<([u8; 16], At)> = Vec::new();
    for (split, all) in splits.iter().enumerate() {
        let all = all.iter().enumerate();
        hashes.extend(all.filter_map(|(index, seen)| Some((seen.as_ref()?.hash, (split, index)))));
    }
    hashes.par_sort_unstable();
    hashes
}

/// Pairs of images of which one has the pixels of the other mirrored: every image with the first such of each split before it.
fn equal_mirrored(splits: &[Vec<Option<Seen>>], within: bool) -> Vec<Match> {
    let hashes = hashes(splits);
    let mut pairs = Vec::new();
    for (split, all) in splits.iter().enumerate() {
        for (index, seen) in all.iter().enumerate() {
            // An image that is its own mirror image is found as it is.
            let Some(seen) = seen.as_ref().filter(|seen| seen.mirrored != seen.hash) else {
                continue;
            };
            let second = (split, index);
            let from = hashes.partition_point(|(hash, _)| *hash < seen.mirrored);
            let alike = hashes[from..].iter().take_while(|(hash, _)| *hash == seen.mirrored);
            let mut last = None;
            for (_, first) in alike.take_while(|(_, first)| *first < second) {
                if last != Some(first.0) && (within || first.0 != split) {
                    pairs.push(Match { first: *first, second, alike: None, mirrored: true });
                }
                last = Some(first.0);
            }
        }
    }
    pairs
}

fn counts(source: &Source, pairs: &[Match]) -> Vec<Count> {
    let mut found: BTreeMap<(usize, usize), [BTreeSet<usize>; 3]> = BTreeMap::new();
    for Match { first, second, alike, mirrored } in pairs {
        let sets = found.entry((first.0, second.0)).or_default();
        let kind = if *mirrored { 2 } else { usize::from(alike.is_some()) };
        sets[kind].insert(second.1);
    }
    let count = |((first, second), [exact, near, mirrored]): (_, [BTreeSet<usize>; 3])| {
        let (first, second): (usize, usize) = (first, second);
        let (name, split) = &source.splits[second];
        Count {
            split: name.clone(),
            found_in: source.splits[first].0.clone(),
            images: split.len(),
            exact: exact.len(),
            near: near.difference(&exact).count(),
            mirrored: mirrored
                .iter()
                .filter(|it| !exact.contains(it) && !near.contains(it))
                .count(),
        }
    };
    found.into_iter().map(count).collect()
}

/// Two images that a network finds alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeaturePair {
    /// Index of the query in its split.
    pub query: usize,
    /// Index of the reference in its split.
    pub reference: usize,
    /// What the two are called.
    pub paths: [String; 2],
    /// Cosine similarity of their features.
    pub similarity: f32,
}

/// Pairs whose stored features have a cosine similarity of at least `bound`, most alike first: up to `most` references of
/// each query. With `same` both sides are one split, no image is paired with itself and none twice. Unlike [`Duplicates`] it
/// finds what a network holds to be alike, which may be a class, not an image.
///
/// # Errors
/// [`Error::Recipe`] for a bound outside of \[−1, 1\]; whatever [`neighbours`] fails with.
pub fn alike_features(
    queries: &Features,
    references: &Features,
    bound: f32,
    most: usize,
    same: bool,
) -> Result<Vec<FeaturePair>> {
    if !(-1.0..=1.0).contains(&bound) {
        return Err(Error::Recipe(format!("the bound must be within -1 to 1, found `{bound}`")));
    }
    queries.check()?;
    references.check()?;
    let found = neighbours(&queries.h, &references.h, most, same)?;
    let (query_indices, reference_indices) = (queries.indices(), references.indices());
    let mut pairs = BTreeMap::new();
    for query in 0..queries.len() {
        let (rows, similarities) = found.of(query);
        for (row, similarity) in rows.iter().zip(similarities).filter(|(_, value)| **value >= bound)
        {
            let key = if same { (query.min(*row), query.max(*row)) } else { (query, *row) };
            pairs.insert(key, *similarity);
        }
    }
    let mut pairs: Vec<FeaturePair> = pairs
        .into_iter()
        .map(|((query, reference), similarity)| FeaturePair {
            query: query_indices[query] as usize,
            reference: reference_indices[reference] as usize,
            paths: [queries.paths[query].clone(), references.paths[reference].clone()],
            similarity,
        })
        .collect();
    pairs.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
    Ok(pairs)
}
