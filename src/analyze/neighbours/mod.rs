//! Retrieval sheets: some images, what each network finds most like them, and which of that is of their class.
//!
//! [`Wanted`] chooses the queries, [`Sheet`] holds what every network finds for them, as plain data; [`figure()`] and
//! [`page()`] show it.

mod choose;
mod drawing;
mod page;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::evaluate::neighbours::nearest;
use crate::evaluate::{Features, Measure, Retrieval};
pub use choose::Wanted;
pub use drawing::{figure, save};
pub use page::page;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// Version of the analysis; numbers of different versions do not compare.
pub const VERSION: u32 = 1;

/// Queries, and what every network finds for them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sheet {
    /// Neighbours of each query.
    pub k: usize,
    /// Whether queries and references are one split; then no image finds itself.
    pub same: bool,
    /// The queries, in the order of the sheet.
    pub queries: Vec<Asked>,
    /// What each network finds.
    pub models: Vec<Looked>,
}

/// An image that is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Index of the image in the split of the queries.
    pub index: usize,
    /// What to call it.
    pub path: String,
    /// Its class, if it has one.
    pub label: Option<u32>,
    /// The name of its class.
    pub class: Option<String>,
}

/// What a network finds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Looked {
    /// What to call the network.
    pub name: String,
    /// For each query its nearest references, nearest first.
    pub found: Vec<Vec<Hit>>,
    /// Mean share of references of the query's class among the `k` nearest, over *all* queries of the split, with a bootstrap
    /// interval over these; none unless all images have labels.
    pub precision: Option<Measure>,
    /// Queries that `precision` is a mean over.
    pub queries: usize,
    /// The same share over the queries of the sheet, which are too few for an interval.
    pub shown_precision: Option<f64>,
}

/// A reference found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// Index of the image in the split of the references.
    pub index: usize,
    /// What to call it.
    pub path: String,
    /// Its class, if it has one.
    pub label: Option<u32>,
    /// The name of its class.
    pub class: Option<String>,
    /// Cosine similarity to the query, in [−1, 1].
    pub similarity: f32,
    /// Whether its class is the query's; none where either has no class.
    pub agrees: Option<bool>,
}

impl Sheet {
    /// A sheet of queries, rows of `queries`, about which no network has been asked yet.
    ///
    /// # Errors
    /// [`Error::Recipe`] if `k` is 0; [`Error::Data`] if there is no query.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn new(
        queries: &Features,
        rows: &[usize],
        k: usize,
        same: bool,
        classes: &[String],
    ) -> Result<Self> {
        if k == 0 {
            return Err(Error::Recipe("`neighbours.k` must be at least 1, found `0`".to_owned()));
        }
        if rows.is_empty() {
            return Err(Error::Data("there is no query to show".to_owned()));
        }
        let (labels, indices) = (queries.labels(), queries.indices());
        let asked = |row: &usize| {
            let label = u32::try_from(labels[*row]).ok();
            Asked {
                index: indices[*row] as usize,
                path: queries.paths[*row].clone(),
                label,
                class: class_name(label, classes),
            }
        };
        Ok(Self { k, same, queries: rows.iter().map(asked).collect(), models: Vec::new() })
    }

    /// Asks a network, by its features of all queries and references. The seed is that of the interval's bootstrap.
    ///
    /// # Errors
    /// [`Error::Data`] if there are fewer than `k` references, or a query of the sheet could not be read this time; whatever
    /// the search fails with.
    pub fn ask(
        &mut self,
        name: &str,
        queries: &Features,
        references: &Features,
        classes: &[String],
        seed: u64,
    ) -> Result<()> {
        let (k, same) = (self.k, self.same);
        let there = references.len() - usize::from(same);
        if k > there {
            return Err(Error::Data(format!(
                "`neighbours.k` is {k}, but there are only {there} references to be found; ask for fewer, `neighbours.k={}`",
                there.max(1)
            )));
        }
        let indices = queries.indices();
        let row = |asked: &Asked| {
            indices.iter().position(|index| *index as usize == asked.index).ok_or_else(|| {
                Error::Data(format!("`{}` could not be read for `{name}`", asked.path))
            })
        };
        let rows = self.queries.iter().map(row).collect::<Result<Vec<usize>>>()?;
        let reference_indices = references.indices();
        // Rows are in the order of their indices, some of which are left out.
        let path = |index: usize| match reference_indices.binary_search(&(index as i64)) {
            Ok(row) => references.paths[row].clone(),
            Err(_) => String::new(),
        };
        let examples = nearest(queries, references, &rows, k, same)?;
        let found = examples.into_iter().map(|example| {
            let hits = example.neighbours.into_iter().map(|found| Hit {
                index: found.index,
                path: path(found.index),
                label: found.label,
                class: class_name(found.label, classes),
                similarity: found.similarity,
                agrees: found.agrees,
            });
            hits.collect()
        });
        let found: Vec<Vec<Hit>> = found.collect();
        let labelled =
            [queries, references].iter().all(|side| side.labels().iter().all(|it| *it >= 0));
        let precision = if labelled {
            let retrieval = Retrieval { k: vec![k], map_at_r: false, same };
            let outcome = retrieval.evaluate(queries, references, seed)?;
            outcome.at.into_iter().next().map(|at| at.precision)
        } else {
            None
        };
        let judged = || found.iter().flatten().filter_map(|hit| hit.agrees);
        let right = judged().filter(|agrees| *agrees).count();
        let shown_precision =
            (judged().count() > 0).then(|| right as f64 / judged().count() as f64);
        self.models.push(Looked {
            name: name.to_owned(),
            found,
            precision,
            queries: queries.len(),
            shown_precision,
        });
        Ok(())
    }

    /// Whether anything on the sheet is right or wrong.
    pub fn judges(&self) -> bool {
        self.models
            .iter()
            .flat_map(|model| model.found.iter().flatten())
            .any(|hit| hit.agrees.is_some())
    }

    /// A line for each neighbour: `model,query,query_path,query_class,rank,index,path,class,cosine,agrees`.
    pub fn csv(&self) -> String {
        let mut text = String::from(
            "model,query,query_path,query_class,rank,index,path,class,cosine,agrees\n",
        );
        let class = |class: &Option<String>| class.as_deref().map_or(String::new(), quoted);
        for model in &self.models {
            for (asked, hits) in self.queries.iter().zip(&model.found) {
                for (rank, hit) in hits.iter().enumerate() {
                    let agrees = hit.agrees.map_or(String::new(), |agrees| agrees.to_string());
                    writeln!(
                        text,
                        "{},{},{},{},{},{},{},{},{},{agrees}",
                        quoted(&model.name),
                        asked.index,
                        quoted(&asked.path),
                        class(&asked.class),
                        rank + 1,
                        hit.index,
                        quoted(&hit.path),
                        class(&hit.class),
                        hit.similarity,
                    )
                    .expect("writing into a string does not fail");
                }
            }
        }
        text
    }
}

/// The name of a class, its number where it has no name.
fn class_name(label: Option<u32>, classes: &[String]) -> Option<String> {
    let label = label? as usize;
    Some(classes.get(label).cloned().unwrap_or_else(|| label.to_string()))
}

/// A field of a table (RFC 4180): in quotes, quotes in it doubled.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}
