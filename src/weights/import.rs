//! A backbone out of a file of any system: whose it is, which tensor becomes which, and what is left.
//!
//! Every tensor of the network must be there with its shape, and nothing may be left over but what is known to lie beside
//! a backbone: loading what happens to fit is how wrong networks get judged.

use super::family::{FAMILIES, Family, Prepared, Test};
use super::network::inferred;
use super::{Entry, Format, TensorFile};
use crate::error::{Error, Result};
use crate::model::BackboneConfig;
use crate::model::resnet::{Flavor, Stem};
use std::collections::{BTreeMap, BTreeSet};
use tch::{Kind, Tensor};

/// Most parts of split running statistics.
const MOST_PARTS: usize = 64;

/// What is said about a file that it does not say itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stated {
    /// Whose it is, by [`Family::id`].
    pub family: Option<String>,
    /// The stem of its network.
    pub stem: Option<Stem>,
    /// Whose rules its network follows.
    pub flavor: Option<Flavor>,
    /// The dictionaries that lead to the weights, joined by `/`, where a family has several: `model_ema`.
    pub group: Option<String>,
}

/// What became of a tensor, of the file or of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It fills one of the network.
    Matched,
    /// It is known to lie beside a backbone, and is left.
    Dropped,
    /// The network has it and the file has not.
    Missing,
    /// The file has it, and nobody knows what it is.
    Unexpected,
    /// Its shape or its numbers are not those of the network's.
    Mismatched,
}

impl Outcome {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::Dropped => "dropped",
            Self::Missing => "missing",
            Self::Unexpected => "unexpected",
            Self::Mismatched => "mismatched",
        }
    }
}

/// A line of the report.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name in the file, or in the network if the file has none.
    pub name: String,
    /// What becomes of it.
    pub outcome: Outcome,
    /// The tensor of the network, for one that is of the backbone.
    pub becomes: Option<String>,
    /// Its shape in the file, or in the network.
    pub shape: Vec<usize>,
    /// What there is to say: the shape that was expected, into how many parts statistics fell.
    pub remark: String,
}

/// How the tensors of a file become a backbone.
#[derive(Debug)]
pub struct Import {
    /// Whose file it is.
    pub family: &'static Family,
    /// Where in it the dictionary lies.
    pub group: String,
    /// The network.
    pub config: BackboneConfig,
    /// How its images are prepared, if that is published.
    prepared: Option<Prepared>,
    /// What becomes of every tensor of the dictionary, and of what lies in it and is none.
    pub rows: Vec<Row>,
    /// Tensors outside of the dictionary, by the dictionaries they lie in.
    pub elsewhere: BTreeMap<String, usize>,
    /// Entry and number of parts of each tensor of the network.
    sources: BTreeMap<String, (usize, usize)>,
}

impl Import {
    /// Finds out whose file it is, which network, and what becomes of each tensor. Nothing is loaded.
    ///
    /// # Errors
    /// [`Error::Weights`] if it holds the backbone of no known family, or that of a network that is none of ours, or its
    /// stem must be stated; [`Error::Recipe`] if a family is stated that is none.
    pub fn plan(file: &TensorFile, stated: &Stated) -> Result<Self> {
        let refused =
            |why: String| Error::Weights(format!("weights `{}`: {why}", file.path().display()));
        if let Some(id) = &stated.family
            && !FAMILIES.iter().any(|family| family.id == *id)
        {
            let ids: Vec<&str> = FAMILIES.iter().map(|family| family.id).collect();
            let ids = ids.join(", ");
            return Err(Error::Recipe(format!("`--family` must be one of {ids}, found `{id}`")));
        }
        let dictionaries = Dictionary::all(file);
        let wanted = |family: &&Family| stated.family.as_ref().is_none_or(|id| family.id == *id);
        let found = FAMILIES.iter().filter(wanted).find_map(|family| {
            let dictionary = |group: &&str| dictionaries.iter().find(|it| it.group == *group);
            let chosen =
                |group: &&&str| stated.group.as_ref().is_none_or(|stated| stated == **group);
            let mut there = family.groups.iter().filter(chosen).filter_map(dictionary);
            there.find_map(|dictionary| dictionary.of(family, file))
        });
        let Some((family, dictionary, backbone)) = found else {
            return Err(refused(unknown(file, stated)));
        };
        let entries = file.entries();
        let shape = |name: &str| backbone.get(name).map(|index| entries[*index].shape.as_slice());
        let config = inferred(&shape, family, stated).map_err(|why| {
            refused(format!("it looks like those of {}, but {why}", family.title))
        })?;
        config.check().map_err(|error| refused(error.to_string()))?;
        let mut import = Self {
            family,
            group: dictionary.group.to_owned(),
            config,
            prepared: family.prepared(file.path()),
            rows: Vec::new(),
            elsewhere: BTreeMap::new(),
            sources: BTreeMap::new(),
        };
        import.match_all(entries, dictionary, &backbone);
        import.match_opaque(file);
        for entry in entries.iter().filter(|entry| entry.group != import.group) {
            *import.elsewhere.entry(entry.group.clone()).or_default() += 1;
        }
        Ok(import)
    }

    fn match_all(
        &mut self,
        entries: &[Entry],
        dictionary: &Dictionary<'_>,
        backbone: &BTreeMap<String, usize>,
    ) {
        let theirs: BTreeMap<usize, &str> =
            backbone.iter().map(|(name, index)| (*index, name.as_str())).collect();
        let expected: BTreeMap<String, Vec<i64>> = self.config.tensors().into_iter().collect();
        for (name, index) in &dictionary.names {
            let entry = &entries[*index];
            let becomes = theirs.get(index).copied();
            let shape = becomes.and_then(|becomes| expected.get(becomes));
            let (outcome, remark) = match (becomes, shape) {
                (Some(becomes), Some(shape)) => match parts(entry, shape, self.family) {
                    Ok(parts) => {
                        self.sources.insert(becomes.to_owned(), (*index, parts));
                        let remark = match parts {
                            1 => String::new(),
                            _ => format!("the mean of {parts} parts"),
                        };
                        (Outcome::Matched, remark)
                    }
                    Err(why) => (Outcome::Mismatched, why),
                },
                _ if is_dropped(name, self.family) => (Outcome::Dropped, String::new()),
                _ => (Outcome::Unexpected, String::new()),
            };
            self.rows.push(Row {
                name: entry.full_name(),
                outcome,
                becomes: becomes.filter(|_| shape.is_some()).map(str::to_owned),
                shape: entry.shape.clone(),
                remark,
            });
        }
        for (name, shape) in expected {
            if !backbone.contains_key(&name) {
                self.rows.push(Row {
                    name: name.clone(),
                    outcome: Outcome::Missing,
                    becomes: Some(name),
                    shape: shape.iter().map(|size| *size as usize).collect(),
                    remark: String::new(),
                });
            }
        }
    }

    /// What lies in the dictionary and is no tensor: it may be what a tensor should be, and is none that is known.
    fn match_opaque(&mut self, file: &TensorFile) {
        let missing: Vec<String> =
            self.rows_of(Outcome::Missing).filter_map(|row| row.becomes.clone()).collect();
        for (path, what) in file.opaque() {
            let inside = match self.group.as_str() {
                "" => Some(path.as_str()),
                group => path.strip_prefix(group).and_then(|rest| rest.strip_prefix('/')),
            };
            let Some(name) = inside.filter(|name| !name.is_empty() && !name.contains('/')) else {
                continue;
            };
            // That one is told already.
            if missing.iter().any(|missing| name.ends_with(missing.as_str())) {
                continue;
            }
            let bare = name.strip_prefix("module.").unwrap_or(name);
            let dropped = is_dropped(bare, self.family);
            self.rows.push(Row {
                name: path.clone(),
                outcome: if dropped { Outcome::Dropped } else { Outcome::Unexpected },
                becomes: None,
                shape: Vec::new(),
                remark: what.clone(),
            });
        }
    }

    fn rows_of(&self, outcome: Outcome) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.outcome == outcome)
    }

    /// How many tensors came to this.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.rows_of(outcome).count()
    }

    /// Names of the file that are left, as [`Row::name`].
    pub fn dropped(&self) -> impl Iterator<Item = &str> {
        self.rows_of(Outcome::Dropped).map(|row| row.name.as_str())
    }

    /// The counts in a line.
    pub fn summary(&self) -> String {
        use Outcome::{Dropped, Matched, Mismatched, Missing, Unexpected};
        let counts = [Matched, Dropped, Missing, Unexpected, Mismatched]
            .map(|outcome| format!("{} {}", self.count(outcome), outcome.name()));
        counts.join(", ")
    }

    /// Refuses what does not match to the last tensor.
    ///
    /// # Errors
    /// [`Error::Weights`] with the counts and the first names.
    pub fn complete(&self, file: &TensorFile) -> Result<()> {
        const SHOWN: usize = 6;
        let wrong: Vec<&Row> = self
            .rows
            .iter()
            .filter(|row| !matches!(row.outcome, Outcome::Matched | Outcome::Dropped))
            .collect();
        if wrong.is_empty() {
            return Ok(());
        }
        let shown: Vec<String> = wrong
            .iter()
            .take(SHOWN)
            .map(|row| {
                // What was there and could not be read says more than that it is missing.
                let unread = file.opaque().iter().find(|(name, _)| {
                    row.becomes.as_ref().is_some_and(|becomes| name.ends_with(becomes.as_str()))
                });
                let remark = match (row.remark.as_str(), unread) {
                    ("", Some((_, what))) => format!(" ({what})"),
                    ("", None) => String::new(),
                    (remark, _) => format!(" ({remark})"),
                };
                format!("{} `{}`{remark}", row.outcome.name(), row.name)
            })
            .collect();
        let more = wrong.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Err(Error::Weights(format!(
            "weights `{}`, taken for those of {} ({}), do not match: {}: {}{more}",
            file.path().display(),
            self.family.title,
            self.family.id,
            self.summary(),
            shown.join(", ")
        )))
    }

    /// The tensors of the network that the file has, each with the place of its entry.
    pub fn sources(&self) -> impl Iterator<Item = (&str, usize)> {
        self.sources.iter().map(|(name, (index, _))| (name.as_str(), *index))
    }

    /// Fills a tensor of the network, by its name in [`BackboneConfig::tensors`].
    ///
    /// # Errors
    /// Those of [`TensorFile::copy_to`]; [`Error::Weights`] if the file has no such tensor.
    pub fn fill(&self, file: &TensorFile, name: &str, target: &Tensor) -> Result<()> {
        let (index, parts) = self.sources.get(name).ok_or_else(|| {
            Error::Weights(format!("weights `{}` have no `{name}`", file.path().display()))
        })?;
        let entry = &file.entries()[*index];
        if *parts == 1 {
            return file.copy_to(entry, target);
        }
        let split = file.tensor(entry)?.to_kind(Kind::Float).view([*parts as i64, -1]);
        tch::no_grad(|| {
            target.shallow_clone().copy_(&split.mean_dim([0].as_slice(), false, None));
        });
        Ok(())
    }

    /// How its images are prepared, if its family prepares all alike or the name of the file tells it; else what may be
    /// stated.
    pub fn preprocess(&self) -> std::result::Result<Prepared, &'static [Prepared]> {
        self.prepared.ok_or(self.family.preprocess)
    }
}

/// Into how many parts a tensor falls that is to have this shape: 1 if it has it.
fn parts(entry: &Entry, shape: &[i64], family: &Family) -> std::result::Result<usize, String> {
    let found: Vec<i64> = entry.shape.iter().map(|size| *size as i64).collect();
    if !entry.number.is_float() {
        return Err(format!("numbers of type {}", entry.number.name()));
    }
    if found == shape {
        return Ok(1);
    }
    if let ([found], [channels], true) = (found.as_slice(), shape, family.split_norms)
        && entry.name.contains(".running_")
        && found % channels == 0
        && (2..=MOST_PARTS as i64).contains(&(found / channels))
    {
        return Ok((found / channels) as usize);
    }
    Err(format!("shape {found:?}, the network has {shape:?}"))
}

fn is_dropped(name: &str, family: &Family) -> bool {
    // A counter that nothing reads.
    name.ends_with("num_batches_tracked") || family.drops.iter().any(|drop| name.starts_with(drop))
}

/// The tensors of one dictionary, by their names without `module.`.
struct Dictionary<'f> {
    group: &'f str,
    names: Vec<(&'f str, usize)>,
}

/// A family, the dictionary of it, and the entries of its backbone by torchvision's names.
type Recognised<'d, 'f> = (&'static Family, &'d Dictionary<'f>, BTreeMap<String, usize>);

impl<'f> Dictionary<'f> {
    fn all(file: &'f TensorFile) -> Vec<Self> {
        let mut groups: BTreeMap<&str, Vec<(&str, usize)>> = BTreeMap::new();
        for (index, entry) in file.entries().iter().enumerate() {
            groups.entry(&entry.group).or_default().push((&entry.name, index));
        }
        let wrapped =
            |names: &[(&'f str, usize)]| names.iter().all(|(name, _)| name.starts_with("module."));
        let dictionary = |(group, mut names): (&'f str, Vec<(&'f str, usize)>)| {
            if wrapped(&names) {
                for (name, _) in &mut names {
                    *name = &name["module.".len()..];
                }
            }
            Self { group, names }
        };
        groups.into_iter().map(dictionary).collect()
    }

    /// The backbone, if it is one of this family.
    fn of(&self, family: &'static Family, file: &TensorFile) -> Option<Recognised<'_, 'f>> {
        let entries = file.entries();
        let begins = |start: &&str| self.names.iter().any(|(name, _)| name.starts_with(start));
        if !(family.signs.is_empty() || family.signs.iter().any(begins)) {
            return None;
        }
        let deep = |prefix: &&str| {
            let names = self.names.iter().filter_map(|(name, _)| name.strip_prefix(prefix));
            family.names.is_deep(names)
        };
        let backbone =
            family.prefixes.iter().filter(|prefix| begins(prefix)).find_map(|prefix| {
                let deep = deep(prefix);
                let named: BTreeMap<String, usize> = self
                    .names
                    .iter()
                    .filter(|(name, _)| !is_dropped(name, family))
                    .filter_map(|(name, index)| {
                        let inner = name.strip_prefix(prefix)?;
                        Some((family.names.translated(inner, deep)?, *index))
                    })
                    .collect();
                let first = named.get("conv1.weight").or_else(|| named.get("conv1.0.weight"))?;
                let &[_, _, kernel, _] = entries[*first].shape.as_slice() else { return None };
                family.kernel.is_none_or(|known| known == kernel).then_some(named)
            })?;
        let place = |name: &str| backbone.get(name).copied();
        let fits = match family.test {
            Test::Names => true,
            Test::ShortcutFirst => {
                // Every depth has a projection there.
                let shortcut = place("layer2.0.downsample.0.weight");
                shortcut.is_some() && shortcut < place("layer2.0.conv1.weight")
            }
            Test::Converted => {
                let author = file.notes().get("__author__").map(String::as_str);
                matches!(author, Some("diptych" | "torchvision" | "MOCO"))
            }
            Test::ImageNetClassifier => {
                let classes = self.names.iter().find(|(name, _)| *name == "fc.weight");
                let classes = classes.and_then(|(_, index)| entries[*index].shape.first());
                classes == Some(&1000)
                    && matches!(file.format(), Format::TorchZip | Format::TorchLegacy)
            }
        };
        fits.then_some((family, self, backbone))
    }
}

/// Why no backbone was found.
fn unknown(file: &TensorFile, stated: &Stated) -> String {
    let entries = file.entries();
    let groups: BTreeSet<&str> = entries.iter().map(|entry| entry.group.as_str()).collect();
    let whose = match (&stated.family, &stated.group) {
        (_, Some(group)) => {
            let groups: Vec<String> =
                groups.iter().take(8).map(|group| format!("`{group}`")).collect();
            format!(
                "no backbone of a known system in `{group}` (tensors lie in {})",
                groups.join(", ")
            )
        }
        (Some(id), None) => format!("no backbone as `{id}` has it"),
        (None, None) => {
            "no ResNet of any known system (`conv1.weight`, `layer1.0.conv1.weight`, …)".to_owned()
        }
    };
    let begins = |start: &str| {
        let bare = |entry: &Entry| {
            let name = entry.name.strip_prefix("module.").unwrap_or(&entry.name);
            name.starts_with(start)
        };
        entries.iter().any(bare)
    };
    let found = match entries {
        _ if file.opaque().keys().any(|name| name.starts_with("experiment_state")) => {
            "arrays within objects of JAX, as BYOL's releases have them: load it with the packages that wrote it, and save the \
             backbone with torchvision's names (kernels transposed to outputs, inputs, rows, columns)"
                .to_owned()
        }
        _ if begins("encoder1.") && begins("encoder2.") => {
            "two networks, as PyContrast's CMC has them: one of the lightness and one of the two colours of Lab images, \
             which are not read"
                .to_owned()
        }
        [] => match file.opaque().iter().next() {
            Some((_, what)) => format!(
                "no tensor at all, but a whole `{what}`, which only its own code could read; save its `state_dict()`"
            ),
            None => "no tensor at all".to_owned(),
        },
        _ => {
            let names: Vec<String> =
                entries.iter().take(3).map(|entry| format!("`{}`", entry.full_name())).collect();
            format!("{} tensors, the first are {}", entries.len(), names.join(", "))
        }
    };
    format!("it holds {whose}; it has {found}. `diptych weights show` lists all")
}
