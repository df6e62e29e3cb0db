//! A backbone out of a TensorFlow checkpoint of SimCLR, with its heads.

use super::{Projector, Weights, build};
use crate::augment::Preprocess;
use crate::error::Result;
use crate::weights::simclr_tf::{Choice, find};
use crate::weights::tensorflow::Bundle;
use crate::weights::{Entry, TensorFile};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

impl Weights {
    /// Loads a checkpoint of SimCLR's or `SimCLRv2`'s TensorFlow code ([`Bundle::open`] says by which names), its
    /// projection head and its linear head included. Beside the tensors a few megabytes are held. Images are prepared as
    /// `simclr`, without mean and deviation.
    ///
    /// # Errors
    /// [`crate::error::Error::Weights`] if it is damaged, or not every variable of one of these networks is in it, or the
    /// moving average is wanted and there is none.
    pub fn from_tensorflow(path: &Path, choice: Choice, device: Device) -> Result<Self> {
        let bundle = Bundle::open(path)?;
        let (file, network) = (TensorFile::open(path)?, find(&bundle, choice)?);
        let variables: BTreeMap<&str, &Entry> =
            file.entries().iter().map(|entry| (entry.name.as_str(), entry)).collect();
        let (backbone, parameters) = build(&network.config, None, device)?;
        let mut head = BTreeMap::new();
        for mapped in &network.tensors {
            let variable = mapped.source.as_ref().and_then(|name| variables.get(name.as_str()));
            let own = parameters.all().iter().find(|parameter| parameter.name == mapped.target);
            let target = own.map_or_else(
                || Tensor::zeros(&mapped.shape, (Kind::Float, device)),
                |parameter| parameter.tensor.detach(),
            );
            match variable {
                Some(entry) => file.copy_to(entry, &mapped.layout.as_theirs(&target))?,
                None => drop(target.shallow_clone().zero_()),
            }
            if own.is_none() {
                head.insert(mapped.target.clone(), target);
            }
        }
        let features = network.config.features();
        let projector = network.projector.as_ref();
        let projector = projector
            .map(|config| -> Result<Projector> {
                let projector = Projector::build(config, features, None, device)?;
                projector.parameters.load(&head)?;
                Ok(projector)
            })
            .transpose()?;
        let left = network.dropped_by_kind().into_iter();
        let left = left.map(|(what, count)| format!("{what} ({count})"));
        Ok(Self {
            backbone,
            matched: parameters.all().len(),
            parameters,
            device,
            config: network.config,
            method: None,
            head,
            projector,
            projector_settings: network.projector,
            classifier_behind: network.tap,
            several_classes: false,
            preprocess: Some(Preprocess::named("simclr")?),
            family: None,
            file: bundle.prefix().to_owned(),
            left_over: left.collect(),
            run: None,
            history: Vec::new(),
        })
    }
}
