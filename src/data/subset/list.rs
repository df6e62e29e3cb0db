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
mod tests {
    use super::*;
    use crate::data::mutation::Mutator;
    use crate::data::subset::Tail;
    use crate::data::testing::{Numbers, failure_of};
    use crate::data::{Image, labels};

    /// Images with paths and labels.
    struct Files(Vec<(&'static str, u32)>);

    impl Dataset for Files {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn label(&self, index: usize) -> Option<u32> {
            Some(self.0[index].1)
        }
        fn path(&self, index: usize) -> String {
            self.0[index].0.to_owned()
        }
        fn image(&self, index: usize) -> Result<Image> {
            Ok(Image { width: 1, height: 1, pixels: vec![index as u8; 3] })
        }
    }

    fn source(splits: Vec<(&str, Arc<dyn Dataset>)>) -> Source {
        Source {
            format: "some".to_owned(),
            location: "here".to_owned(),
            classes: (0..7).map(|class| format!("class {class}")).collect(),
            splits: splits.into_iter().map(|(name, split)| (name.to_owned(), split)).collect(),
            fingerprint: "f00d".to_owned(),
        }
    }

    fn numbers() -> Source {
        source(vec![("train", Arc::new(Numbers(70))), ("test", Arc::new(Numbers(14)))])
    }

    fn files() -> Source {
        let train = vec![
            ("train/n01/n01_1.JPEG", 0),
            ("train/n01/n01_2.JPEG", 0),
            ("train/n02/n02_7.JPEG", 1),
            ("train/n02/with space.JPEG", 1),
            ("train/n03/n01_1.JPEG", 2),
        ];
        let val = vec![("val/n01/ILSVRC_1.JPEG", 0), ("val/n02/ILSVRC_2.JPEG", 1)];
        source(vec![("train", Arc::new(Files(train))), ("val", Arc::new(Files(val)))])
    }

    fn parse(text: &str, source: &Source) -> Result<IndexList> {
        IndexList::parse(text, "lists/some.txt", source, None)
    }

    #[test]
    fn a_list_survives_the_file_and_gives_its_images_only() {
        let source = numbers();
        let rule = Rule::LongTail { ratio: 4.0, tail: Tail::Exponential, largest: None };
        let list = IndexList::draw(&source, None, &[], &rule, 3).unwrap();
        assert_eq!((list.split.as_str(), list.images), ("train", 70));
        assert_eq!(list.per_class(&source), [10, 7, 6, 5, 3, 3, 2]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.txt");
        list.save(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let first = "# diptych subset {\"format\":1,\"source\":\"f00d\",\"split\":\"train\",\"images\":70,\
                     \"rule\":\"long tail 4, exponential\",\"seed\":3}";
        assert_eq!(text.lines().next(), Some(first));
        assert_eq!(text.lines().count(), 37);
        let read = IndexList::read(&path, &source, None).unwrap();
        assert_eq!(read, list);
        list.save(&path).unwrap();

        let part = read.apply(&source).unwrap();
        assert_eq!(part.format, "some, 36 of 70 images of `train`");
        let train = part.split("train").unwrap();
        let shown: Vec<u32> =
            (0..train.len()).map(|i| u32::from(train.image(i).unwrap().pixels[0])).collect();
        assert_eq!(shown, list.indices);
        assert_eq!(part.split("test").unwrap().len(), 14);
        assert_ne!(part.fingerprint, source.fingerprint);
        assert_eq!(
            labels(train.as_ref()).unwrap(),
            shown.iter().map(|i| i % 7).collect::<Vec<_>>()
        );
    }

    #[test]
    fn another_split_and_some_classes_can_be_drawn_from() {
        let source = numbers();
        let wanted = ["class 6".to_owned(), "class 2".to_owned()];
        let list = IndexList::draw(&source, Some("test"), &wanted, &Rule::All, 0).unwrap();
        assert_eq!(
            (list.indices.as_slice(), list.rule.as_str()),
            (&[2, 6, 9, 13][..], "all of 2 classes")
        );
        assert_eq!(IndexList::parse(&list.text(), "a", &source, Some("test")).unwrap(), list);
        let text = failure_of(IndexList::parse(&list.text(), "a", &source, Some("train")));
        assert_eq!(text, "it is of split `test`, not `train`");
        let text = failure_of(IndexList::draw(&source, Some("val"), &[], &Rule::All, 0));
        assert!(text.contains("no split `val`, only `train`, `test`"), "{text}");
        let text =
            failure_of(IndexList::draw(&source, None, &["class 9".to_owned()], &Rule::All, 0));
        assert!(text.contains("no class `class 9`"), "{text}");
    }

    #[test]
    fn plain_indices_are_taken() {
        let list = parse("# mine\n7\n\n 3 \r\n69\n", &numbers()).unwrap();
        assert_eq!(
            (list.indices.as_slice(), list.seed, list.rule.as_str()),
            (&[3, 7, 69][..], None, "some.txt")
        );
        assert_eq!(list.split, "train");
        assert_eq!(parse(&list.text(), &numbers()).unwrap(), list);
        for (text, expected) in [
            ("3\n70\n", "line 2 must be the index of an image, 0 to 69, found `70`"),
            ("3\na.jpg\n", "line 2 must be the index of an image, 0 to 69, found `a.jpg`"),
            ("3\n-1\n", "found `-1`"),
            ("3\n4\n3\n", "line 3 names the image of line 1 again (`3`)"),
            ("# nothing\n", "it names no image"),
            ("", "it names no image"),
        ] {
            let found = failure_of(parse(text, &numbers()));
            assert!(found.contains(expected), "{found}");
        }
    }

    /// The official lists of `SimCLR` and of ImageNet-LT, in miniature.
    #[test]
    fn lists_of_file_names_are_taken() {
        let of = |text: &str| parse(text, &files()).map(|list| (list.split, list.indices));
        let simclr = of("n02_7.JPEG\nn01_2.JPEG\n").unwrap();
        assert_eq!(simclr, ("train".to_owned(), vec![1, 2]));
        let long_tail = of("train/n02/n02_7.JPEG 1\ntrain/n01/n01_1.JPEG 0\n").unwrap();
        assert_eq!(long_tail, ("train".to_owned(), vec![0, 2]));
        // Validation images are listed flat, and lie in class folders.
        let flat = of("val/ILSVRC_2.JPEG 1\nval/ILSVRC_1.JPEG 0\n").unwrap();
        assert_eq!(flat, ("val".to_owned(), vec![0, 1]));
        assert_eq!(of("train/n02/with space.JPEG 4\n").unwrap().1, [3]);
        assert_eq!(of("train/n02/with space.JPEG\n").unwrap().1, [3]);
        // From below another folder, and from above the split.
        assert_eq!(of("/data/imagenet/train/n03/n01_1.JPEG\nn01/n01_2.JPEG\n").unwrap().1, [1, 4]);
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        for (text, expected) in [
            (
                "n01_2.JPEG\nn09_9.JPEG\n",
                "1 of its 2 images are not in split `train`, the first on line 2: `n09_9.JPEG`",
            ),
            ("a.JPEG\nb.JPEG\n", "`here` has no image called `a.JPEG` (line 1), nor any other"),
            ("n01_1.JPEG\n", "2 images of `train` are called `n01_1.JPEG`; give their folders too"),
            ("train/n04/n01_2.JPEG\n", "no image called `train/n04/n01_2.JPEG`"),
            ("n01_2.JPEG\nILSVRC_1.JPEG\n", "1 of its 2 images are not in split `train`"),
            (
                "n01/n01_1.JPEG 0\nn02_7.JPEG 0\n",
                "line 2 gives `n02_7.JPEG` label 0, which stands for class 0",
            ),
            ("n01/n01_1.JPEG 0\nn01_2.JPEG 1\n", "line 2 gives `n01_2.JPEG` label 1"),
        ] {
            let found = failure_of(parse(text, &files()));
            assert!(found.contains(expected), "{found}");
        }
        // Other numbers for the same classes are no contradiction.
        assert!(parse("n01/n01_1.JPEG 5\nn02_7.JPEG 3\nn01_2.JPEG 5\n", &files()).is_ok());
    }

    #[test]
    fn a_list_of_another_source_or_format_is_refused() {
        let list = IndexList::draw(&numbers(), None, &[], &Rule::PerClass(2), 0).unwrap();
        let other = Source { fingerprint: "beef".to_owned(), ..numbers() };
        let text = failure_of(parse(&list.text(), &other));
        assert!(
            text.contains("fingerprint f00d, `here` has beef") && text.contains("draw again"),
            "{text}"
        );
        for (first, expected) in [
            ("{\"format\":2}", "format 2, this program reads up to 1"),
            ("{\"format\":1}", "first line is damaged"),
            ("{", "first line is damaged"),
            ("", "first line is damaged"),
        ] {
            let text = failure_of(parse(&format!("{MARK}{first}\n1\n"), &numbers()));
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn mutants_of_lists_are_read_or_refused() {
        let ours = IndexList::draw(&numbers(), None, &[], &Rule::PerClass(2), 0).unwrap().text();
        let theirs = "train/n01/n01_1.JPEG 0\ntrain/n02/n02_7.JPEG 1\nn01_2.JPEG\n";
        for (text, source) in [(ours.as_str(), numbers()), (theirs, files())] {
            let mut mutator = Mutator::new(text.as_bytes(), 5);
            let mut read = 0;
            for _ in 0..2000 {
                let mutant = mutator.next_mutant();
                match parse(&String::from_utf8_lossy(&mutant), &source) {
                    Ok(list) => {
                        let images = source.split(&list.split).unwrap().len() as u32;
                        assert!(
                            list.indices.is_sorted() && list.indices.iter().all(|i| *i < images)
                        );
                        read += 1;
                    }
                    Err(Error::Data(_)) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
            assert!(read > 20, "{read}");
        }
    }

    #[test]
    fn no_other_file_is_written_over_or_read_as_a_list() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("thesis.txt");
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        let list = IndexList::draw(&numbers(), None, &[], &Rule::All, 0).unwrap();
        let text = failure_of(list.save(&path));
        assert!(text.contains("thesis.txt` exists and is no list"), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), [0xff, 0xfe]);
        for path in [path, folder.path().join("absent.txt")] {
            let text = failure_of(IndexList::read(&path, &numbers(), None));
            assert!(text.contains("cannot read image list"), "{text}");
        }
    }
}
