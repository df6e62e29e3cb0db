//! Which images are asked about.

use crate::error::{Error, Result};
use crate::evaluate::Features;
use crate::overrides::nearest;
use crate::random::{Purpose, Scope, Stream};
use std::collections::BTreeSet;

/// Which images are asked about: those named first, then some of each class, then some of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Indices in the split of the queries.
    pub indices: Vec<usize>,
    /// Paths as the data source tells them, or their ends (`dog/3.png`).
    pub paths: Vec<String>,
    /// Names of classes.
    pub classes: Vec<String>,
    /// Images of each of `classes`, drawn by the seed.
    pub per_class: usize,
    /// Further images, drawn by the seed.
    pub random: usize,
}

/// Paths named in an error.
const NAMED: usize = 3;

impl Wanted {
    /// Rows of the queries, each once, in the order in which they are wanted. Nothing that a network finds plays a part. An
    /// image that is drawn is one that could be read; fewer are drawn where there are no more.
    ///
    /// # Errors
    /// [`Error::Data`] for an index beyond the split, an image that could not be read, a path that none or several images have,
    /// a class that is none of `classes` or of which there is no image.
    pub fn rows(&self, queries: &Features, classes: &[String], seed: u64) -> Result<Vec<usize>> {
        let mut rows = Vec::new();
        for index in &self.indices {
            rows.push(row_of(queries, *index)?);
        }
        for path in &self.paths {
            rows.push(row_called(queries, path)?);
        }
        for class in &self.classes {
            let (label, of_class) = rows_of_class(queries, class, classes)?;
            rows.extend(drawn(&of_class, self.per_class, seed, 2 + label as u64));
        }
        let mut seen = BTreeSet::new();
        rows.retain(|row| seen.insert(*row));
        let others: Vec<usize> = (0..queries.len()).filter(|row| !seen.contains(row)).collect();
        rows.extend(drawn(&others, self.random, seed, 1));
        Ok(rows)
    }
}

/// The row of an image by its index in the split.
fn row_of(queries: &Features, index: usize) -> Result<usize> {
    let indices = queries.indices();
    if let Ok(row) = indices.binary_search(&(index as i64)) {
        return Ok(row);
    }
    if let Some(damaged) = queries.damaged.iter().find(|damaged| damaged.index == index) {
        let (path, reason) = (&damaged.path, &damaged.reason);
        return Err(Error::Data(format!("query {index} (`{path}`) cannot be read: {reason}")));
    }
    let images = queries.len() + queries.damaged.len();
    Err(Error::Data(format!(
        "there is no query {index}: the split has {images} images, 0 to {}",
        images.saturating_sub(1)
    )))
}

/// The row of an image by its path or the end of it.
fn row_called(queries: &Features, path: &str) -> Result<usize> {
    let exact = queries.paths.iter().position(|known| known == path);
    if let Some(row) = exact {
        return Ok(row);
    }
    let ends = |known: &str| {
        known.strip_suffix(path).is_some_and(|rest| rest.ends_with('/') || path.starts_with('/'))
    };
    let found: Vec<usize> = (0..queries.len()).filter(|row| ends(&queries.paths[*row])).collect();
    match found[..] {
        [row] => return Ok(row),
        [] => {}
        _ => {
            let some: Vec<&str> =
                found.iter().take(NAMED).map(|row| queries.paths[*row].as_str()).collect();
            return Err(Error::Data(format!(
                "`{path}` is the end of {} paths (`{}`, ...); name more of it",
                found.len(),
                some.join("`, `")
            )));
        }
    }
    let damaged =
        queries.damaged.iter().find(|damaged| damaged.path == path || ends(&damaged.path));
    if let Some(damaged) = damaged {
        return Err(Error::Data(format!(
            "query `{}` cannot be read: {}",
            damaged.path, damaged.reason
        )));
    }
    let near = nearest(path, queries.paths.iter().map(String::as_str));
    let hint = near.map_or_else(
        || {
            let some: Vec<&str> = queries.paths.iter().take(NAMED).map(String::as_str).collect();
            format!("they are called `{}`, ...", some.join("`, `"))
        },
        |near| format!("did you mean `{near}`?"),
    );
    Err(Error::Data(format!("none of the {} queries is `{path}`; {hint}", queries.len())))
}

/// The label of a class and its rows, by its name.
fn rows_of_class(
    queries: &Features,
    class: &str,
    classes: &[String],
) -> Result<(usize, Vec<usize>)> {
    if classes.is_empty() {
        return Err(Error::Data(format!(
            "there is no class `{class}`: the images have no labels; choose by index or path"
        )));
    }
    let Some(label) = classes.iter().position(|known| known == class) else {
        let hint = match nearest(class, classes.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the classes are `{}`", classes.join("`, `")),
        };
        return Err(Error::Data(format!("there is no class `{class}`; {hint}")));
    };
    let labels = queries.labels().into_iter().enumerate();
    let rows: Vec<usize> =
        labels.filter(|(_, found)| *found == label as i64).map(|(row, _)| row).collect();
    if rows.is_empty() {
        return Err(Error::Data(format!(
            "no image of class `{class}` is among the {} queries",
            queries.len()
        )));
    }
    Ok((label, rows))
}

/// Up to `count` of some rows, by the seed.
fn drawn(rows: &[usize], count: usize, seed: u64, item: u64) -> Vec<usize> {
    let order = Stream::open(seed, Purpose::Evaluation, Scope::Item(item)).permutation(rows.len());
    order.into_iter().take(count).map(|at| rows[at]).collect()
}
