//! Lists of the images of a subset: what `diptych data subset` writes and `data.subset` reads.
//!
//! Ours is a text file: a first line `# diptych subset {…}` that says of which source and split, and by which rule, then one
//! index a line. Lists of others are taken as well: plain indices, file names (`SimCLR`'s 1 % and 10 % of ImageNet), file
//! names with labels (ImageNet-LT).

use super::{Rule, Subset, chosen, draw};
use crate::data::{Dataset, Source};
use crate::error::{Error, Result};
use crate::files::replace_text;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

/// Version of the file format; a newer one is an error.
const FORMAT: u32 = 1;

/// How the first line begins.
const MARK: &str = "# diptych subset ";

/// Some images of one split of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexList {
    /// The split.
    pub split: String,
    /// Images of that split.
    pub images: usize,
    /// How they were chosen: `fraction 0.01`, or the name of the file for a list of others.
    pub rule: String,
    /// Seed of the choice; `None` for a list of others.
    pub seed: Option<u64>,
    /// [`Source::fingerprint`] of the source.
    pub source: String,
    /// The images, ascending, each once.
    pub indices: Vec<u32>,
}

/// The first line of a list.
#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    source: String,
    split: String,
    images: usize,
    rule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

impl IndexList {
    /// Draws from the images of a split, those of some classes only if `classes` names any (as
    /// [`super::classes`] reads them, but labels stay as they are).
    ///
    /// # Errors
    /// Those of [`draw`]; [`Error::Data`] when there is no such split or class.
    pub fn draw(
        source: &Source,
        split: Option<&str>,
        classes: &[String],
        rule: &Rule,
        seed: u64,
    ) -> Result<Self> {
        let (name, dataset) = named(source, split)?;
        let mut said = rule.to_string();
        let mut labels: Vec<Option<u32>> = (0..dataset.len()).map(|i| dataset.label(i)).collect();
        if !classes.is_empty() {
            let chosen = chosen(source, classes)?;
            let wanted: Vec<bool> =
                source.classes.iter().map(|name| chosen.contains(name)).collect();
            let keep = |label: u32| wanted.get(label as usize).is_some_and(|wanted| *wanted);
            for label in &mut labels {
                *label = label.filter(|label| keep(*label));
            }
            said = format!("{said} of {} classes", chosen.len());
        }
        Ok(Self {
            split: name.to_owned(),
            images: dataset.len(),
            rule: said,
            seed: Some(seed),
            source: source.fingerprint.clone(),
            indices: draw(&labels, rule, seed)?,
        })
    }

    /// Reads a list for a source; `split` says of which split, where the list itself does not.
    ///
    /// # Errors
    /// [`Error::Data`] when the list is of another source, names an image that is not there or names one twice, or labels it
    /// otherwise than the source.
    pub fn read(path: &Path, source: &Source, split: Option<&str>) -> Result<Self> {
        let name = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::Data(format!("cannot read image list `{name}`: {error}")))?;
        let found = Self::parse(&text, &name.to_string(), source, split);
        found.map_err(|error| Error::Data(format!("image list `{name}`: {error}")))
    }

    fn parse(text: &str, name: &str, source: &Source, split: Option<&str>) -> Result<Self> {
        let first = text.strip_prefix(MARK).map(|rest| rest.lines().next().unwrap_or_default());
        let header = first.map(|line| header(line, source)).transpose()?;
        if let (Some(header), Some(split)) = (&header, split)
            && header.split != split
        {
            return Err(Error::Data(format!("it is of split `{}`, not `{split}`", header.split)));
        }
        let lines = text.lines().map(str::trim).zip(1..);
        let lines: Vec<(&str, usize)> =
            lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')).collect();
        let number = |(line, _): &(&str, usize)| line.parse::<u64>().is_ok();
        let asked = header.as_ref().map(|header| header.split.as_str()).or(split);
        let (split, dataset, places) = if header.is_some() || lines.first().is_none_or(number) {
            let (split, dataset) = named(source, asked)?;
            (split, dataset, numbers(&lines, dataset.len())?)
        } else {
            names(&lines, source, asked)?
        };
        let mut seen = BTreeMap::new();
        for (index, line) in places {
            if let Some(before) = seen.insert(index, line) {
                return Err(Error::Data(format!(
                    "line {line} names the image of line {before} again (`{}`)",
                    dataset.path(index as usize)
                )));
            }
        }
        if seen.is_empty() {
            return Err(Error::Data("it names no image".to_owned()));
        }
        let (rule, seed) = match header {
            Some(header) => (header.rule, header.seed),
            None => (base(name).to_owned(), None),
        };
        Ok(Self {
            split: split.to_owned(),
            images: dataset.len(),
            rule,
            seed,
            source: source.fingerprint.clone(),
            indices: seen.into_keys().collect(),
        })
    }

    /// The file as text.
    pub fn text(&self) -> String {
        let header = serde_json::json!(Header {
            format: FORMAT,
            source: self.source.clone(),
            split: self.split.clone(),
            images: self.images,
            rule: self.rule.clone(),
            seed: self.seed,
        });
        let mut text = format!("{MARK}{header}\n");
        for index in &self.indices {
            text.push_str(&index.to_string());
            text.push('\n');
        }
        text
    }

    /// Writes the file. One that is there is replaced only if it is such a list.
    ///
    /// # Errors
    /// [`Error::Data`] when something else is there; [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let ours = |text: String| text.starts_with(MARK);
        if path.exists() && !std::fs::read_to_string(path).is_ok_and(ours) {
            return Err(Error::Data(format!(
                "`{}` exists and is no list of a subset; choose another name or remove it",
                path.display()
            )));
        }
        replace_text(path, &self.text())
    }

    /// Images of each class of the source that are kept.
    pub fn per_class(&self, source: &Source) -> Vec<usize> {
        let mut counts = vec![0; source.classes.len()];
        if let Some(split) = source.split(&self.split) {
            let labels = self.indices.iter().filter_map(|index| split.label(*index as usize));
            for label in labels {
                if let Some(count) = counts.get_mut(label as usize) {
                    *count += 1;
                }
            }
        }
        counts
    }

    /// The source with only these images in the split of the list; the other splits stay, the fingerprint changes.
    ///
    /// # Errors
    /// [`Error::Data`] when an index lies outside of the split.
    pub fn apply(&self, source: &Source) -> Result<Source> {
        let (name, dataset) = named(source, Some(&self.split))?;
        let part: Arc<dyn Dataset> = Arc::new(Subset::new(dataset.clone(), self.indices.clone())?);
        let splits = source.splits.iter().map(|(split, whole)| {
            (split.clone(), if split == name { part.clone() } else { whole.clone() })
        });
        let chosen = serde_json::json!(["subset", source.fingerprint, name, self.indices]);
        Ok(Source {
            format: format!(
                "{}, {} of {} images of `{name}`",
                source.format,
                self.indices.len(),
                dataset.len()
            ),
            location: source.location.clone(),
            classes: source.classes.clone(),
            splits: splits.collect(),
            fingerprint: blake3::hash(chosen.to_string().as_bytes()).to_hex().to_string(),
        })
    }
}

/// The split of that name, else the one that is trained on.
fn named<'a>(source: &'a Source, split: Option<&str>) -> Result<(&'a str, &'a Arc<dyn Dataset>)> {
    let mut splits = source.splits.iter();
    let found = if let Some(name) = split {
        splits.find(|(known, _)| known == name)
    } else {
        let training = source.training_split()?;
        splits.find(|(_, split)| Arc::ptr_eq(split, training))
    };
    found.map(|(name, split)| (name.as_str(), split)).ok_or_else(|| {
        let asked = split.unwrap_or_default();
        Error::Data(format!(
            "`{}` has no split `{asked}`, only {}",
            source.location,
            source.names()
        ))
    })
}

/// The first line of a list of ours, which must be of this source.
fn header(line: &str, source: &Source) -> Result<Header> {
    let value: serde_json::Value = serde_json::from_str(line)
        .map_err(|error| Error::Data(format!("its first line is damaged: {error}")))?;
    let format = value["format"].as_u64().unwrap_or(0);
    if format > u64::from(FORMAT) {
        return Err(Error::Data(format!(
            "it has format {format}, this program reads up to {FORMAT}; use a newer diptych"
        )));
    }
    let header: Header = serde_json::from_value(value)
        .map_err(|error| Error::Data(format!("its first line is damaged: {error}")))?;
    if header.source != source.fingerprint {
        return Err(Error::Data(format!(
            "it was made of a source with fingerprint {:.12}, `{}` has {:.12}; use it with that source, or draw again with \
             `diptych data subset`",
            header.source, source.location, source.fingerprint
        )));
    }
    Ok(header)
}

/// Lines that are indices below `images`, each with its number.
fn numbers(lines: &[(&str, usize)], images: usize) -> Result<Vec<(u32, usize)>> {
    let number = |(line, number): &(&str, usize)| match line.parse::<u32>() {
        Ok(index) if (index as usize) < images => Ok((index, *number)),
        _ => Err(Error::Data(format!(
            "line {number} must be the index of an image, 0 to {}, found `{line}`",
            images.saturating_sub(1)
        ))),
    };
    lines.iter().map(number).collect()
}

type Named<'a> = (&'a str, &'a Arc<dyn Dataset>, Vec<(u32, usize)>);

/// Lines that are file names, perhaps with a label behind; each with the image it names and its number. They are looked up
/// in the split that holds the first.
fn names<'a>(
    lines: &[(&str, usize)],
    source: &'a Source,
    split: Option<&str>,
) -> Result<Named<'a>> {
    let entries: Vec<(&str, Option<&str>, usize)> = lines.iter().map(|line| entry(line)).collect();
    let wanted: BTreeSet<&str> = entries.iter().map(|(path, ..)| base(path)).collect();
    let candidates: Vec<&(String, Arc<dyn Dataset>)> = match split {
        Some(split) => {
            named(source, Some(split))?;
            source.splits.iter().filter(|(name, _)| name == split).collect()
        }
        None => source.splits.iter().collect(),
    };
    for (name, dataset) in &candidates {
        let mut by_name: HashMap<String, Vec<u32>> = HashMap::new();
        for index in 0..dataset.len() {
            let path = dataset.path(index);
            if wanted.contains(base(&path)) {
                by_name.entry(base(&path).to_owned()).or_default().push(index as u32);
            }
        }
        let mut missing = Vec::new();
        let mut found = Vec::with_capacity(entries.len());
        for (path, _, line) in &entries {
            let all = by_name.get(base(path)).map_or(&[][..], Vec::as_slice);
            match matching(path, all, dataset.as_ref()).as_slice() {
                [] => missing.push((*path, *line)),
                [one] => found.push((*one, *line)),
                several => {
                    return Err(Error::Data(format!(
                        "line {line}: {} images of `{name}` are called `{path}`; give their folders too",
                        several.len()
                    )));
                }
            }
        }
        match missing.first() {
            Some(_) if found.is_empty() => {}
            Some((path, line)) => {
                return Err(Error::Data(format!(
                    "{} of its {} images are not in split `{name}`, the first on line {line}: `{path}`",
                    missing.len(),
                    entries.len()
                )));
            }
            None => {
                same_labels(&entries, &found, dataset.as_ref())?;
                return Ok((name, dataset, found));
            }
        }
    }
    Err(Error::Data(format!(
        "`{}` has no image called `{}` (line {}), nor any other that is named",
        source.location, entries[0].0, entries[0].2
    )))
}

/// The images among some of one file name that a path of a list names: those whose path ends so or that ends with theirs,
/// or would without its class folder, into which validation images are sorted only once they are unpacked.
fn matching(path: &str, all: &[u32], dataset: &dyn Dataset) -> Vec<u32> {
    let fits = |index: &u32| {
        let whole = dataset.path(*index as usize);
        let outside = whole.rsplitn(3, '/').collect::<Vec<_>>();
        let unsorted = match outside.as_slice() {
            [file, _, above] => format!("{above}/{file}"),
            _ => whole.clone(),
        };
        ends_with(&whole, path) || ends_with(path, &whole) || ends_with(&unsorted, path)
    };
    all.iter().copied().filter(fits).collect()
}

/// Whether a path is the end of a longer one.
fn ends_with(longer: &str, path: &str) -> bool {
    longer.strip_suffix(path).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

/// The part behind the last slash.
fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Path and label of a line.
fn entry<'a>((line, number): &(&'a str, usize)) -> (&'a str, Option<&'a str>, usize) {
    match line.rsplit_once(char::is_whitespace) {
        Some((path, label)) if label.parse::<u64>().is_ok() => {
            (path.trim_end(), Some(label), *number)
        }
        _ => (line, None, *number),
    }
}

/// Checks that the labels of a list and those of the source name the same classes, under whatever numbers.
fn same_labels(
    entries: &[(&str, Option<&str>, usize)],
    found: &[(u32, usize)],
    dataset: &dyn Dataset,
) -> Result<()> {
    let mut ours: BTreeMap<&str, u32> = BTreeMap::new();
    let mut theirs: BTreeMap<u32, &str> = BTreeMap::new();
    for ((path, listed, line), (index, _)) in entries.iter().zip(found) {
        let (Some(listed), Some(label)) = (*listed, dataset.label(*index as usize)) else {
            continue;
        };
        let known = *ours.entry(listed).or_insert(label);
        if known != label || *theirs.entry(label).or_insert(listed) != listed {
            return Err(Error::Data(format!(
                "line {line} gives `{path}` label {listed}, which stands for class {known} of the source elsewhere; the source \
                 has class {label} here"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
