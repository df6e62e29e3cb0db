//! One number and everything that made it: what a protocol run leaves behind.

use super::protocol::Details;
use crate::data::{Selection, Source};
use crate::error::{Error, Result};
use crate::files::replace_text;
use crate::train::journal::Event;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A measured value with its 95 % interval, where one is defined.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// The value; accuracies are shares in [0, 1].
    pub value: f64,
    /// Lower and upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_95: Option<[f64; 2]>,
}

impl Measure {
    /// A value without an interval.
    pub fn plain(value: f64) -> Self {
        Self { value, interval_95: None }
    }
}

/// The result of one protocol run. Its JSON is what `--json` prints, a run folder keeps and reports are made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Id of the protocol: `knn`, `linear-features`, ...
    pub protocol: String,
    /// Version of the protocol; numbers of different versions do not compare.
    pub version: u32,
    /// What `value` is: `top1`, `mean_per_class`, ...
    pub metric: String,
    /// The number; accuracies are shares in [0, 1].
    pub value: f64,
    /// Its 95 % interval.
    pub interval_95: Option<[f64; 2]>,
    /// The runs of several seeds that `value` is the mean of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<Repeats>,
    /// Further measures of the same run: `top5`, `mean_per_class`, `train_loss`, ...
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub also: BTreeMap<String, Measure>,
    /// The same metric of something that has learned nothing: `pixels`, `random_weights`, `chance`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub baselines: BTreeMap<String, Measure>,
    /// Every setting of the protocol that changes the number.
    pub settings: BTreeMap<String, Value>,
    /// What the protocol chose by itself, on images it was not judged on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub chosen: BTreeMap<String, Value>,
    /// What it was measured on.
    pub data: DataUsed,
    /// What was measured.
    pub weights: WeightsUsed,
    /// Which layer: `h`, `z`, `pixels`.
    pub layer: String,
    /// Id of the preprocessing.
    pub preprocess: String,
    /// What images were normalised by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<[f64; 3]>,
    /// The deviation of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<[f64; 3]>,
    /// Seed of everything random in the protocol.
    pub seed: u64,
    /// Which state of a trained layer counts: `last`, or, where asked for by name, `best_on_test`.
    pub choice: String,
    /// How long it took, extraction included unless the features were stored.
    pub wall_seconds: f64,
    /// Where it ran: `cpu`, `cuda:0`.
    pub device: String,
    /// Compute threads.
    pub threads: usize,
    /// Version of this toolkit.
    pub diptych: String,
    /// Revision of the working tree it was built from, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// One protocol run with several seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Repeats {
    /// The seeds.
    pub seeds: Vec<u64>,
    /// What each came to.
    pub values: Vec<f64>,
    /// Sample standard deviation of these.
    pub deviation: f64,
}

impl Repeats {
    /// Of at least two seeds.
    pub fn of(seeds: &[u64], values: Vec<f64>) -> Self {
        assert!(seeds.len() > 1 && seeds.len() == values.len(), "a value for each of two seeds");
        let mean = Self::mean(&values);
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (squares / (values.len() - 1) as f64).sqrt();
        Self { seeds: seeds.to_vec(), values, deviation }
    }

    /// The mean of values.
    pub fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / values.len() as f64
    }
}

/// Which part of a source a number is of; none of it set where it is of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cut {
    /// Most images of a split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Share of the training split that was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdout: Option<f64>,
    /// Share of the labelled images that were learned from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_fraction: Option<f64>,
    /// Whether the network was trained on images that were asked about.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub trained_on: bool,
}

impl Cut {
    /// What a selection leaves.
    pub fn of(selection: &Selection) -> Self {
        Self {
            limit: selection.limit,
            holdout: (selection.holdout > 0.0).then_some(selection.holdout),
            label_fraction: selection.label_fraction,
            trained_on: false,
        }
    }

    /// Whether it is all of the source.
    pub fn is_whole(&self) -> bool {
        *self == Self::default()
    }
}

/// Where the images of a number came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataUsed {
    /// Where the source was found, as given.
    pub location: String,
    /// What kind of source it is.
    pub format: String,
    /// Hash of its content.
    pub fingerprint: String,
    /// Number of labelled images the protocol learned from or looked things up in.
    pub references: usize,
    /// Number of images the number is a mean over; each is counted once.
    pub queries: usize,
    /// Number of images of both splits that could not be read.
    pub damaged: usize,
    /// Number of classes.
    pub classes: usize,
    /// Hash of the class names in order, [`hash_classes`].
    pub class_list_hash: String,
    /// Which part of the source it is.
    #[serde(default, skip_serializing_if = "Cut::is_whole")]
    pub cut: Cut,
}

impl DataUsed {
    /// Of a source, with so many references, queries, and damaged images of both.
    pub fn of(source: &Source, [references, queries, damaged]: [usize; 3], cut: Cut) -> Self {
        Self {
            location: source.location.clone(),
            format: source.format.clone(),
            fingerprint: source.fingerprint.clone(),
            references,
            queries,
            damaged,
            classes: source.classes.len(),
            class_list_hash: hash_classes(&source.classes),
            cut,
        }
    }
}

/// The network a number belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightsUsed {
    /// The file it was read from.
    pub file: String,
    /// Hash of all weights and buffers before the protocol ran, [`crate::train::checkpoint::hash`].
    pub hash_before: String,
    /// The same afterwards.
    pub hash_after: String,
    /// Whether the network is proved not to have changed.
    pub frozen: bool,
    /// Number of tensors found in the file.
    pub matched: usize,
    /// Tensors of the network that the file lacks.
    pub missing: Vec<String>,
    /// Tensors of the file that the network lacks.
    pub unexpected: Vec<String>,
    /// What happened to the run they come from: how it went on after running out of memory, steps that were left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Event>,
}

impl WeightsUsed {
    /// A network that was to stay as it was, proved by its hash before and after.
    ///
    /// # Errors
    /// [`Error::Weights`] if the hashes differ: the number would belong to no network at all.
    pub fn frozen(
        file: &str,
        hash_before: String,
        hash_after: String,
        matched: usize,
    ) -> Result<Self> {
        if hash_before != hash_after {
            return Err(Error::Weights(format!(
                "the frozen backbone `{file}` changed during the evaluation (hash `{hash_before}` \
                 before, `{hash_after}` after), so its number means nothing; please report this"
            )));
        }
        Ok(Self {
            file: file.to_owned(),
            hash_before,
            hash_after,
            frozen: true,
            matched,
            missing: Vec::new(),
            unexpected: Vec::new(),
            history: Vec::new(),
        })
    }
}

impl Record {
    /// Twelve hexadecimal digits that two runs share exactly when they measure the same thing in the same way: all that
    /// decides the number, and neither where the files lie nor how fast the machine is.
    pub fn identity(&self) -> String {
        let identity = serde_json::json!([
            self.protocol,
            self.version,
            self.metric,
            self.settings,
            [self.data.fingerprint, self.data.class_list_hash],
            [self.data.references, self.data.queries, self.data.damaged],
            self.data.cut,
            self.weights.hash_before,
            self.layer,
            self.preprocess,
            [self.mean, self.std],
            self.seed,
            self.choice,
            self.repeats.as_ref().map(|repeats| &repeats.seeds),
        ]);
        blake3::hash(identity.to_string().as_bytes()).to_hex()[..12].to_owned()
    }

    /// Writes `<protocol>-<identity>.json` into a folder, over an earlier run of the same, and returns its path.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn save(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join(format!("{}-{}.json", self.protocol, self.identity()));
        let mut text = serde_json::to_string_pretty(self).expect("plain data has a JSON form");
        text.push('\n');
        replace_text(&path, &text)?;
        Ok(path)
    }

    /// Puts `details`, if there are any, beside the record: `details/` in its folder, a file of the same name.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn save_details(&self, folder: &Path, details: &Details) -> Result<()> {
        if *details == Details::default() {
            return Ok(());
        }
        let folder = folder.join("details");
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let name = format!("{}-{}.json", self.protocol, self.identity());
        let text = serde_json::to_string(details).expect("plain data has a JSON form");
        replace_text(&folder.join(name), &text)
    }

    /// Reads what [`Record::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Run`] if the file is no such record.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read(path).map_err(Error::io("read", path))?;
        serde_json::from_slice(&text).map_err(|error| {
            Error::Run(format!("`{}` is no evaluation record: {error}", path.display()))
        })
    }
}

/// BLAKE3 over the class names in order of their labels.
pub fn hash_classes(classes: &[String]) -> String {
    let mut hasher = blake3::Hasher::new();
    for class in classes {
        hasher.update(format!("{class:?}\n").as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            protocol: "knn".into(),
            version: 1,
            metric: "top1".into(),
            value: 0.875,
            interval_95: Some([0.8, 0.9]),
            repeats: None,
            also: BTreeMap::from([("top5".into(), Measure { value: 0.99, interval_95: None })]),
            baselines: BTreeMap::new(),
            settings: BTreeMap::from([
                ("k".into(), 200.into()),
                ("temperature".into(), 0.1.into()),
            ]),
            chosen: BTreeMap::new(),
            data: DataUsed {
                location: "data/cifar10".into(),
                format: "parquet".into(),
                fingerprint: "f00d".into(),
                references: 50_000,
                queries: 10_000,
                damaged: 0,
                classes: 10,
                class_list_hash: hash_classes(&["cat".into(), "dog".into()]),
                cut: Cut::default(),
            },
            weights: WeightsUsed::frozen("last.safetensors", "aa".into(), "aa".into(), 122)
                .unwrap(),
            layer: "h".into(),
            preprocess: "cifar".into(),
            mean: Some([0.5; 3]),
            std: Some([0.25; 3]),
            seed: 0,
            choice: "last".into(),
            wall_seconds: 1.5,
            device: "cpu".into(),
            threads: 2,
            diptych: "0.1.0".into(),
            revision: None,
        }
    }

    #[test]
    fn a_record_comes_back_and_a_second_run_of_the_same_replaces_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = record();
        let path = first.save(folder.path()).unwrap();
        assert_eq!(Record::load(&path).unwrap(), first);
        let mut again = record();
        again.wall_seconds = 9.0;
        again.device = "cuda:0".into();
        again.data.location = "elsewhere".into();
        again.weights.file = "copy.safetensors".into();
        assert_eq!(again.save(folder.path()).unwrap(), path);
        assert_eq!(Record::load(&path).unwrap(), again);
        let changes: [fn(&mut Record); 9] = [
            |r| r.mean = Some([0.0; 3]),
            |r| r.data.cut.holdout = Some(0.2),
            |r| r.data.cut.limit = Some(50_000),
            |r| r.version = 2,
            |r| r.weights.hash_before = "bb".into(),
            |r| r.data.queries = 9_999,
            |r| r.seed = 1,
            |r| r.layer = "z".into(),
            |r| r.settings = BTreeMap::from([("k".into(), 20.into())]),
        ];
        for change in changes {
            let mut other = record();
            change(&mut other);
            assert_ne!(other.save(folder.path()).unwrap(), path);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 10);
        fs::write(&path, "{}").unwrap();
        assert!(matches!(Record::load(&path), Err(Error::Run(_))));
    }

    #[test]
    fn the_json_leads_with_what_scripts_rely_on() {
        let text = serde_json::to_string(&record()).unwrap();
        let expected = r#"{"protocol":"knn","version":1,"metric":"top1","value":0.875,"interval_95":[0.8,0.9],"also":{"top5":{"value":0.99}},"settings":{"k":200,"temperature":0.1},"data":{"location":"data/cifar10","format":"parquet","fingerprint":"f00d","references":50000,"#;
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.contains(r#""hash_before":"aa","hash_after":"aa","frozen":true,"matched":122"#)
        );
    }

    #[test]
    fn a_backbone_that_moved_is_no_frozen_backbone() {
        let error = WeightsUsed::frozen("w", "aa".into(), "ab".into(), 1).unwrap_err();
        assert!(matches!(error, Error::Weights(_)));
    }

    #[test]
    fn class_lists_are_told_apart() {
        let hash = |names: &[&str]| {
            hash_classes(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        assert_ne!(hash(&["a", "b"]), hash(&["b", "a"]));
        assert_ne!(hash(&["a", "b"]), hash(&["ab"]));
        assert_ne!(hash(&["a\n", "b"]), hash(&["a", "\nb"]));
    }
}
