//! Out of a run folder, a checkpoint, an export of ours, or a file of another system.

use super::{Projector, Weights, build};
use crate::augment::Preprocess;
use crate::error::{Error, Result};
use crate::model::{BackboneConfig, HeadConfig};
use crate::train::checkpoint::{self, Stored};
use crate::weights::export::SETTINGS;
use crate::weights::simclr_tf::Choice;
use crate::weights::tensorflow::Bundle;
use crate::weights::{Entry, Import, Outcome, Stated, TensorFile};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

/// Beginnings of the names of what may sit on a backbone.
const HEAD: [&str; 2] = ["projector.", "classifier."];

/// Where a run keeps its newest weights.
fn checkpoint_of(run: &Path) -> PathBuf {
    run.join("checkpoints/last.safetensors")
}

impl Weights {
    /// Loads MODEL: a run folder, one of its checkpoints, a file of another system that [`Import`] recognises, or a
    /// TensorFlow checkpoint of SimCLR.
    ///
    /// # Errors
    /// [`Error::Weights`] when it is damaged, or not every tensor of the backbone is in it, or something is in it that
    /// nobody expects, or there is no such file.
    pub fn load(model: &Path, device: Device) -> Result<Self> {
        let run = model.join("recipe.toml").is_file().then(|| model.to_owned());
        let is_one = model.is_file() && !Bundle::is_part(model);
        if run.is_none() && !is_one && Bundle::is_at(model) {
            return Self::from_tensorflow(model, Choice::default(), device);
        }
        let file = match &run {
            Some(run) if !checkpoint_of(run).is_file() => {
                return Err(Error::Weights(format!(
                    "run folder `{}` has no checkpoint yet; let `diptych pretrain` finish an epoch",
                    run.display()
                )));
            }
            Some(run) => checkpoint_of(run),
            None if model.is_file() => model.to_owned(),
            None => {
                return Err(Error::Weights(format!(
                    "`{}` is neither a run folder, a checkpoint nor a weights file",
                    model.display()
                )));
            }
        };
        if run.is_some() {
            return Self::from_checkpoint(Stored::open(&file)?, file, run, device);
        }
        let tensors = TensorFile::open(&file)?;
        if tensors.notes().contains_key(checkpoint::KEY) {
            return Self::from_checkpoint(Stored::of(tensors)?, file, run, device);
        }
        if tensors.notes().contains_key(SETTINGS) {
            return Self::exported(&tensors, device);
        }
        Self::imported(&tensors, &Stated::default(), device)
    }

    /// A model that [`crate::weights::export`] wrote as safetensors with our names, by what it says of itself. Its bytes
    /// have no checksum: whoever changed it may have had reasons.
    ///
    /// # Errors
    /// [`Error::Weights`] if it does not say which network it is, or is not that one to the last tensor.
    pub fn exported(found: &TensorFile, device: Device) -> Result<Self> {
        #[derive(Deserialize)]
        struct Said {
            backbone: BackboneConfig,
            preprocess: Option<Preprocess>,
            projector: Option<HeadConfig>,
            #[serde(default)]
            classifier_behind: usize,
        }
        let file = found.path().to_owned();
        let wrong = |why: &dyn std::fmt::Display| {
            Error::Weights(format!("weights `{}`, metadata `{SETTINGS}`: {why}", file.display()))
        };
        let text = found.notes().get(SETTINGS).ok_or_else(|| wrong(&"there are none"))?;
        let said: Said = serde_json::from_str(text).map_err(|error| wrong(&error))?;
        if let Some(preprocess) = &said.preprocess {
            preprocess.check().map_err(|error| wrong(&error))?;
        }
        // The names of its backbone are those of the network alone.
        let of_head = |name: &str| HEAD.iter().any(|part| name.starts_with(part));
        let ours = |name: &str| match name {
            name if of_head(name) => name.to_owned(),
            name => format!("backbone.{name}"),
        };
        let entries: BTreeMap<String, &Entry> =
            found.entries().iter().map(|entry| (ours(&entry.name), entry)).collect();
        let shapes =
            entries.iter().map(|(name, it)| (name.as_str(), it.shape.as_slice())).collect();
        let load = |targets: &BTreeMap<&str, &Tensor>| {
            let mut head = BTreeMap::new();
            for (name, entry) in &entries {
                match targets.get(name.as_str()) {
                    Some(target) => found.copy_to(entry, target)?,
                    None => drop(head.insert(name.clone(), found.tensor(entry)?)),
                }
            }
            Ok(head)
        };
        let filled =
            Self::fill(&shapes, load, said.backbone, said.preprocess, file.clone(), device)?;
        let classifier_behind = said.classifier_behind;
        let mut weights = Self { projector_settings: said.projector, classifier_behind, ..filled };
        weights.projector = weights.stored_projector();
        Ok(weights)
    }

    fn from_checkpoint(
        found: Stored,
        file: PathBuf,
        run: Option<PathBuf>,
        device: Device,
    ) -> Result<Self> {
        let part = |name: &str| {
            found.header.model.get(name).cloned().ok_or_else(|| {
                Error::Weights(format!("checkpoint `{}` does not say its `{name}`", file.display()))
            })
        };
        let unreadable = |error: serde_json::Error| {
            Error::Weights(format!("checkpoint `{}`: {error}", file.display()))
        };
        let config: BackboneConfig =
            serde_json::from_value(part("backbone")?).map_err(unreadable)?;
        let preprocess: Preprocess =
            serde_json::from_value(part("preprocess")?).map_err(unreadable)?;
        preprocess
            .check()
            .map_err(|error| Error::Weights(format!("checkpoint `{}`: {error}", file.display())))?;
        let said =
            |name: &str| found.header.model.get(name).filter(|value| !value.is_null()).cloned();
        // Checkpoints of earlier versions do not say it.
        let method = said("method").map(serde_json::from_value).transpose().map_err(unreadable)?;
        // Of weights that no method of ours trained.
        let projector_settings =
            said("projector").map(serde_json::from_value).transpose().map_err(unreadable)?;
        let behind = said("classifier_behind").map(serde_json::from_value).transpose();
        let classifier_behind = behind.map_err(unreadable)?.unwrap_or(0);
        let several_classes =
            said("several_classes").and_then(|said| said.as_bool()).unwrap_or(false);
        let filled = {
            let shapes = found.shapes().collect();
            let of_head = |name: &str| HEAD.iter().any(|part| name.starts_with(part));
            let load = |targets: &BTreeMap<&str, &Tensor>| found.load(targets, &of_head);
            Self::fill(&shapes, load, config, Some(preprocess), file, device)?
        };
        let history = found.header.journal.events;
        let mut weights = Self {
            method,
            projector_settings,
            classifier_behind,
            several_classes,
            run,
            history,
            ..filled
        };
        weights.projector = weights.stored_projector();
        Ok(weights)
    }

    /// The backbone of a file of another system; what the file does not say may be stated. Beside the tensors of the
    /// network only a few megabytes are held.
    ///
    /// # Errors
    /// [`Error::Weights`] if it is of no known system or does not match to the last tensor.
    pub fn imported(file: &TensorFile, stated: &Stated, device: Device) -> Result<Self> {
        let import = Import::plan(file, stated)?;
        import.complete(file)?;
        let preprocess = import.preprocess().ok().map(|known| known.preprocess()).transpose()?;
        let (backbone, parameters) = build(&import.config, None, device)?;
        for parameter in parameters.all() {
            let name = parameter.name.strip_prefix("backbone.").unwrap_or(&parameter.name);
            import.fill(file, name, &parameter.tensor)?;
        }
        let prefix = match import.group.as_str() {
            "" => String::new(),
            group => format!("{group}/"),
        };
        let left = import.dropped().filter(|name| !name.ends_with("num_batches_tracked"));
        let left = left.map(|name| name.strip_prefix(&prefix).unwrap_or(name).to_owned());
        Ok(Self {
            backbone,
            parameters,
            device,
            matched: import.count(Outcome::Matched),
            left_over: by_part(&left.collect::<Vec<_>>()),
            config: import.config,
            method: None,
            head: BTreeMap::new(),
            projector: None,
            projector_settings: None,
            classifier_behind: 0,
            several_classes: false,
            preprocess,
            family: Some(import.family),
            file: file.path().to_owned(),
            run: None,
            history: Vec::new(),
        })
    }

    /// A backbone and what sat on it out of a file of tensors of these shapes by our names. `load` fills the tensors that it
    /// is given, and returns those of the head.
    fn fill(
        shapes: &BTreeMap<&str, &[usize]>,
        load: impl FnOnce(&BTreeMap<&str, &Tensor>) -> Result<BTreeMap<String, Tensor>>,
        config: BackboneConfig,
        preprocess: Option<Preprocess>,
        file: PathBuf,
        device: Device,
    ) -> Result<Self> {
        let mismatch = |why: &dyn std::fmt::Display| {
            Error::Weights(format!("weights `{}` do not match: {why}", file.display()))
        };
        config.check().map_err(|error| mismatch(&error))?;
        // A few bytes may ask for a network of any size; one that cannot be filled is not made.
        let there: usize = shapes.values().map(|shape| shape.iter().product::<usize>()).sum();
        let wanted = config.parameter_count();
        if wanted / 2 > there as u64 {
            let why = format!("a network of {wanted} parameters, but only {there} numbers");
            return Err(mismatch(&why));
        }
        let (backbone, parameters) = build(&config, None, device)?;
        parameters.fits(shapes).map_err(|error| mismatch(&error))?;
        let targets: BTreeMap<&str, &Tensor> =
            parameters.all().iter().map(|p| (p.name.as_str(), &p.tensor)).collect();
        let (backbone_only, left_over): (Vec<&str>, Vec<&str>) = shapes
            .keys()
            .copied()
            .filter(|name| !targets.contains_key(name))
            .partition(|name| name.starts_with("backbone."));
        if !backbone_only.is_empty() {
            let names = backbone_only.join(", ");
            return Err(mismatch(&format!("the backbone has no place for {names}")));
        }
        let head =
            load(&targets)?.into_iter().map(|(name, tensor)| (name, tensor.to_device(device)));
        let matched = targets.len();
        let left_over = by_part(&left_over);
        Ok(Self {
            head: head.collect(),
            backbone,
            parameters,
            device,
            config,
            method: None,
            projector: None,
            projector_settings: None,
            classifier_behind: 0,
            several_classes: false,
            preprocess,
            family: None,
            file,
            matched,
            left_over,
            run: None,
            history: Vec::new(),
        })
    }

    /// The projector with its weights, if all of it is among the tensors of the head.
    fn stored_projector(&self) -> Option<Projector> {
        let config = self.projector()?;
        let there: usize = self.head.values().map(Tensor::numel).sum();
        config.check("projector").ok()?;
        // As with the backbone: a few bytes may ask for a head of any size.
        if config.parameter_count(self.config.features()) > there as u64 {
            return None;
        }
        let projector =
            Projector::build(&config, self.config.features(), None, self.device).ok()?;
        projector.parameters.load(&self.head).ok()?;
        Some(projector)
    }
}

/// Names counted by their first part.
fn by_part(names: &[impl AsRef<str>]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in names.iter().map(AsRef::as_ref) {
        *counts.entry(name.split('.').next().unwrap_or(name)).or_default() += 1;
    }
    counts.into_iter().map(|(part, count)| format!("{part}.* ({count} tensors)")).collect()
}
