//! A table of transfer sets to evaluate on: which sets, and where each lies.
//!
//! ```toml
//! [[set]]
//! name = "food101"            # one of the known sets
//! path = "food-101"           # relative to this file
//!
//! [[set]]
//! name = "caltech101"
//! path = "/data/caltech101"
//! background = false
//! limit = 2000                # at most so many images a split
//! ```

use super::{Options, TransferSet, named, open_with};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A table of sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suite {
    /// The sets, in the order of the file.
    pub sets: Vec<SuiteSet>,
    /// The folder that relative paths begin in: that of the file.
    pub folder: PathBuf,
}

/// A set of a suite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuiteSet {
    /// One of [`super::NAMES`].
    pub name: String,
    /// The folder it was unpacked to, absolute or relative to the file.
    pub path: PathBuf,
    /// Protocol to evaluate it by; `None` leaves it to the one that asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Most images a split, at least 1; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// [`Options::list`], absolute or relative to the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<PathBuf>,
    /// [`Options::seed`], and the seed of the limit.
    #[serde(default)]
    pub seed: u64,
    /// [`Options::background`].
    #[serde(default = "with_background")]
    pub background: bool,
}

fn with_background() -> bool {
    true
}

/// The form of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    set: Vec<SuiteSet>,
}

impl Suite {
    /// Reads and checks a suite file; no set is looked for yet.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, else those of [`Suite::parse`].
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).map_err(Error::io("read", file))?;
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        Self::parse(&text, folder).map_err(|error| match error {
            Error::Recipe(why) => Error::Recipe(format!("suite `{}`: {why}", file.display())),
            other => other,
        })
    }

    /// A suite from its text; relative paths begin in `folder`.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the nearest known set for an unknown one; for unknown keys, a limit of 0, the same set twice,
    /// and when there is none.
    pub fn parse(text: &str, folder: PathBuf) -> Result<Self> {
        let written: Written =
            toml::from_str(text).map_err(|e| Error::Recipe(e.to_string().trim().to_owned()))?;
        let sets = written.set;
        if sets.is_empty() {
            return Err(Error::Recipe(
                "there is no set; add `[[set]]` with `name` and `path`".to_owned(),
            ));
        }
        for (number, set) in sets.iter().enumerate() {
            named(&set.name)?;
            if set.limit == Some(0) {
                return Err(Error::Recipe(format!(
                    "`limit` of set `{}` must be at least 1, found `0`",
                    set.name
                )));
            }
            if sets[..number].contains(set) {
                return Err(Error::Recipe(format!("set `{}` is there twice", set.name)));
            }
        }
        Ok(Self { sets, folder })
    }

    /// Opens every set: those that are there, and for the others why not.
    pub fn available(&self) -> Vec<(&SuiteSet, Result<TransferSet>)> {
        self.sets.iter().map(|set| (set, self.open(set))).collect()
    }

    /// Opens a set of this suite.
    ///
    /// # Errors
    /// Those of [`super::open_with`].
    pub fn open(&self, set: &SuiteSet) -> Result<TransferSet> {
        let options = Options {
            list: set.list.as_ref().map(|list| self.folder.join(list)),
            seed: set.seed,
            background: set.background,
        };
        let opened = open_with(&set.name, &self.folder.join(&set.path), &options)?;
        match set.limit {
            Some(limit) => opened.limited(limit, set.seed),
            None => Ok(opened),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::transfer::miniature::of;

    fn failure(text: &str) -> String {
        Suite::parse(text, PathBuf::new()).unwrap_err().to_string()
    }

    #[test]
    fn a_suite_opens_what_is_there_and_says_what_is_missing() {
        let (pets, caltech) = (of("pets"), of("caltech101"));
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(pets.root(), folder.path().join("pets")).unwrap();
        let file = folder.path().join("suite.toml");
        let text = format!(
            "[[set]]\nname = \"pets\"\npath = \"pets\"\nprotocol = \"logistic\"\n\n\
             [[set]]\nname = \"food101\"\npath = \"food-101\"\n\n\
             [[set]]\nname = \"caltech101\"\npath = {:?}\nbackground = false\nlimit = 3\nseed = 2\n\n\
             [[set]]\nname = \"dtd\"\npath = \"pets\"\n",
            caltech.root()
        );
        std::fs::write(&file, text).unwrap();
        let suite = Suite::read(&file).unwrap();
        let found = suite.available();
        assert_eq!(found.len(), 4);
        let (set, pets) = &found[0];
        assert_eq!(set.protocol.as_deref(), Some("logistic"));
        assert_eq!(pets.as_ref().unwrap().found.train, 2);
        let why = |number: usize| found[number].1.as_ref().map(|_| ()).unwrap_err().to_string();
        assert!(why(1).contains("food-101`, which does not exist"), "{}", why(1));
        let caltech = found[2].1.as_ref().unwrap();
        assert_eq!((caltech.classes.len(), caltech.train.len()), (2, 3));
        assert!(caltech.notes.iter().any(|note| note.contains("drawn by seed 2")));
        let why = why(3);
        assert!(
            why.contains("`labels/{train1,val1,test1}.txt`") && why.contains("`images`"),
            "{why}"
        );
        assert!(why.contains("which is `pets`"), "{why}");
    }

    #[test]
    fn what_is_wrong_in_a_suite_is_told_before_any_set_is_opened() {
        let text = failure("[[set]]\nname = \"fod101\"\npath = \"x\"\n");
        assert!(text.contains("`fod101`, did you mean `food101`?"), "{text}");
        let text = failure("[[set]]\nname = \"pets\"\npath = \"x\"\nlimt = 3\n");
        assert!(text.contains("unknown field `limt`") && text.contains("`limit`"), "{text}");
        assert!(failure("[[set]]\nname = \"pets\"\n").contains("missing field `path`"));
        assert!(failure("").contains("there is no set"));
        let set = "[[set]]\nname = \"pets\"\npath = \"x\"\n";
        assert!(failure(&format!("{set}limit = 0\n")).contains("at least 1, found `0`"));
        assert!(failure(&format!("{set}{set}")).contains("`pets` is there twice"));
        assert!(Suite::parse(&format!("{set}{set}limit = 5\n"), PathBuf::new()).is_ok());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("suite.toml");
        assert!(matches!(Suite::read(&file), Err(Error::Io { .. })));
        std::fs::write(&file, "[[set]]\nname = 7\n").unwrap();
        let text = Suite::read(&file).unwrap_err().to_string();
        assert!(text.contains("suite.toml"), "{text}");
    }
}
