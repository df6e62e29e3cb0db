//! Getting a backbone to judge: out of a run folder, a checkpoint, or a weights file.

mod forward;
mod layer;
mod load;
mod tensorflow;

pub use forward::{forward, images};
pub use layer::Layer;

use crate::augment::Preprocess;
use crate::error::{Error, Result};
use crate::method;
use crate::method::distill::Teacher;
use crate::model::resnet::ResNet;
use crate::model::{BackboneConfig, Head, HeadConfig, Parameters};
use crate::train::checkpoint;
use crate::train::journal::Event;
use crate::weights::Family;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

/// A backbone with its weights, in evaluation mode.
pub struct Weights {
    /// The network.
    backbone: ResNet,
    parameters: Parameters,
    device: Device,
    /// Its settings.
    pub config: BackboneConfig,
    /// The method that trained it, if the file says.
    pub method: Option<method::Config>,
    /// Tensors of what sat on it, `projector.…` and `classifier.…`, under their names.
    head: BTreeMap<String, Tensor>,
    /// The projector it was trained with, if all of it is there.
    projector: Option<Projector>,
    /// Its settings, where they are not those of a method.
    projector_settings: Option<HeadConfig>,
    /// How many layers of the projector the classifier sits behind, where no method says so; 0 on the features.
    pub classifier_behind: usize,
    /// Whether its classifier learned images that may show several classes each.
    pub several_classes: bool,
    /// How images must be prepared, if the file says or the system that wrote it is known to prepare all alike.
    pub preprocess: Option<Preprocess>,
    /// Whose file it is, if it is not ours.
    pub family: Option<&'static Family>,
    /// The file the weights came from.
    pub file: PathBuf,
    /// Backbone tensors found in the file.
    pub matched: usize,
    /// What else the file holds, by the first part of its name: `optimizer.* (60 tensors)`. Only parts that are expected
    /// beside a backbone get here.
    pub left_over: Vec<String>,
    /// The run folder, if the model is one.
    pub run: Option<PathBuf>,
    /// What happened to the run on the way to these weights.
    pub history: Vec<Event>,
}

/// A projector with its weights.
struct Projector {
    head: Head,
    parameters: Parameters,
}

impl Projector {
    /// With values drawn from a seed, or to be loaded.
    fn build(
        config: &HeadConfig,
        features: i64,
        seed: Option<u64>,
        device: Device,
    ) -> Result<Self> {
        let mut parameters = parameters(seed, device);
        let head = Head::build(&mut parameters.root().at("projector"), features, config)?;
        Ok(Self { head, parameters })
    }
}

impl Weights {
    /// The network a checkpoint's recipe starts from, before any training: a baseline.
    ///
    /// # Errors
    /// [`Error::Recipe`] if the settings are out of range.
    pub fn untrained(&self, seed: u64) -> Result<Self> {
        let (backbone, parameters) = build(&self.config, Some(seed), self.device)?;
        let projector = self.projector().filter(|_| self.projector.is_some());
        let projector = projector
            .map(|config| {
                Projector::build(&config, self.config.features(), Some(seed), self.device)
            })
            .transpose()?;
        Ok(Self {
            backbone,
            parameters,
            device: self.device,
            config: self.config.clone(),
            method: self.method.clone(),
            head: BTreeMap::new(),
            projector,
            projector_settings: self.projector_settings.clone(),
            classifier_behind: self.classifier_behind,
            several_classes: false,
            preprocess: self.preprocess.clone(),
            family: self.family,
            file: PathBuf::from("untrained"),
            matched: 0,
            left_over: Vec::new(),
            run: None,
            history: Vec::new(),
        })
    }

    /// All parameters and buffers of the backbone by name (`backbone.conv1.weight`), shared.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        let all = self.parameters.all().iter();
        all.map(|p| (p.name.clone(), p.tensor.detach())).collect()
    }

    /// The same with the tensors of what sat on it, `projector.…` and `classifier.…`.
    pub fn with_head(&self) -> BTreeMap<String, Tensor> {
        let head = self.head.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        self.tensors().into_iter().chain(head).collect()
    }

    /// The projector it was trained with, if the file says and there was one.
    pub fn projector(&self) -> Option<HeadConfig> {
        let Some(method) = &self.method else { return self.projector_settings.clone() };
        let settings = serde_json::to_value(method).ok()?;
        serde_json::from_value(settings.get("projector")?.clone()).ok()
    }

    /// Whether all of the projector is there, so that layers behind the backbone can be looked at.
    pub fn has_projector(&self) -> bool {
        self.projector.is_some()
    }

    /// The whole classifier, for a network that learns from it.
    ///
    /// # Errors
    /// [`Error::Weights`] if the model is none: a run of another method, or a file without its linear layer.
    pub fn teacher(&self) -> Result<Teacher> {
        let classifier = match &self.method {
            Some(method::Config::Classifier(config)) => config.clone(),
            other => {
                let found =
                    other.as_ref().map_or("a file that does not say".to_owned(), |method| {
                        format!("method {}", method.name())
                    });
                return Err(Error::Weights(format!(
                    "`{}` cannot teach: a run of method classifier is needed, found {found}; fine-tune it first",
                    self.file.display()
                )));
            }
        };
        let classes = self.head.get("classifier.weight").map_or(0, |weight| weight.size()[0]);
        if classes == 0 {
            return Err(Error::Weights(format!(
                "`{}` cannot teach: it has no `classifier.weight`",
                self.file.display()
            )));
        }
        Ok(Teacher {
            backbone: self.config.clone(),
            classifier,
            classes: classes as usize,
            several_classes: self.several_classes,
            tensors: self.with_head(),
        })
    }

    /// BLAKE3 over all parameters and buffers of the backbone.
    pub fn hash(&self) -> String {
        checkpoint::hash(self.parameters.all().iter().map(|p| (p.name.as_str(), &p.tensor)))
    }

    /// The same over all that the features of a layer depend on: with the projector's for those behind it.
    pub fn hash_of(&self, layer: Layer) -> String {
        let head = self.projector.iter().filter(|_| layer.is_of_head());
        let head = head.flat_map(|projector| projector.parameters.all());
        let all = self.parameters.all().iter().chain(head);
        checkpoint::hash(all.map(|p| (p.name.as_str(), &p.tensor)))
    }
}

/// An empty list: values are drawn from a seed, or all will be loaded.
fn parameters(seed: Option<u64>, device: Device) -> Parameters {
    match seed {
        Some(seed) => Parameters::new(seed, device, Kind::Float),
        None => Parameters::to_be_loaded(device, Kind::Float),
    }
}

fn build(
    config: &BackboneConfig,
    seed: Option<u64>,
    device: Device,
) -> Result<(ResNet, Parameters)> {
    let mut parameters = parameters(seed, device);
    let backbone = ResNet::build(&mut parameters.root().at("backbone"), config)?;
    Ok((backbone, parameters))
}
