//! Getting a backbone to judge: out of a run folder, a checkpoint, or a weights file.

mod tensorflow;

use crate::augment::{Preprocess, normalize, to_device, with_constants};
use crate::error::{Error, Result};
use crate::method;
use crate::method::distill::Teacher;
use crate::model::resnet::ResNet;
use crate::model::{BackboneConfig, BlockGroup, Head, HeadConfig, Parameters, Phase};
use crate::train::checkpoint::{self, Stored};
use crate::train::journal::Event;
use crate::weights::export::SETTINGS;
use crate::weights::simclr_tf::Choice;
use crate::weights::tensorflow::Bundle;
use crate::weights::{Entry, Family, Import, Outcome, Stated, TensorFile};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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

/// Where features are taken; maps are averaged over their rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The output of the stem or of a block group.
    Block(BlockGroup),
    /// The features behind the global average pool, which every image-level protocol uses.
    H,
    /// The output of a layer of the projector, counted from 1, behind its batch norm and `ReLU`.
    Projector(u8),
    /// The projections, not normalised.
    Z,
}

/// Names of the block groups, as in records and feature files.
const BLOCKS: [(&str, BlockGroup); 5] = [
    ("stem", BlockGroup::Stem),
    ("block1", BlockGroup::Group1),
    ("block2", BlockGroup::Group2),
    ("block3", BlockGroup::Group3),
    ("block4", BlockGroup::Group4),
];

impl Layer {
    /// A layer by its name: h, stem, block1 to block4, g1 (first layer of the projector) and so on, z.
    ///
    /// # Errors
    /// [`Error::Recipe`] listing the names.
    pub fn named(name: &str) -> Result<Self> {
        let block = BLOCKS.iter().find(|(known, _)| *known == name);
        let place = name.strip_prefix('g').and_then(|number| number.parse().ok());
        match (name, block, place) {
            ("h", ..) => Ok(Self::H),
            ("z", ..) => Ok(Self::Z),
            (_, Some((_, group)), _) => Ok(Self::Block(*group)),
            (_, _, Some(place @ 1..)) => Ok(Self::Projector(place)),
            _ => {
                let names = BLOCKS.map(|(name, _)| name).join(", ");
                Err(Error::Recipe(format!(
                    "`--layer` must be one of h, {names}, g1 (of the projector) and so on, z, found `{name}`"
                )))
            }
        }
    }

    /// Its name.
    pub fn name(self) -> String {
        match self {
            Self::H => "h".to_owned(),
            Self::Z => "z".to_owned(),
            Self::Projector(place) => format!("g{place}"),
            Self::Block(group) => {
                let found = BLOCKS.iter().find(|(_, known)| *known == group);
                found.map_or_else(String::new, |(name, _)| (*name).to_owned())
            }
        }
    }

    /// Whether it lies behind the backbone.
    pub fn is_of_head(self) -> bool {
        matches!(self, Self::Projector(_) | Self::Z)
    }
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
            preprocess: self.preprocess.clone(),
            family: self.family,
            file: PathBuf::from("untrained"),
            matched: 0,
            left_over: Vec::new(),
            run: None,
            history: Vec::new(),
        })
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
        let mut weights = Self { projector_settings: said.projector, ..filled };
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
        // Checkpoints of earlier versions do not say it.
        let method = found.header.model.get("method").cloned();
        let method = method.map(serde_json::from_value).transpose().map_err(unreadable)?;
        // Of weights that no method of ours trained.
        let projector = found.header.model.get("projector").cloned();
        let projector_settings =
            projector.map(serde_json::from_value).transpose().map_err(unreadable)?;
        let filled = {
            let shapes = found.shapes().collect();
            let of_head = |name: &str| HEAD.iter().any(|part| name.starts_with(part));
            let load = |targets: &BTreeMap<&str, &Tensor>| found.load(targets, &of_head);
            Self::fill(&shapes, load, config, Some(preprocess), file, device)?
        };
        let history = found.header.journal.events;
        let mut weights = Self { method, projector_settings, run, history, ..filled };
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
            preprocess,
            family: None,
            file,
            matched,
            left_over,
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

    /// Features `[n, D]` of `n` prepared images; see [`forward`].
    ///
    /// # Errors
    /// Those of [`forward`]; [`Error::Weights`] for a layer of a projector that the model does not have.
    pub fn features(
        &self,
        pixels: &[u8],
        n: usize,
        preprocess: &Preprocess,
        layer: Layer,
    ) -> Result<Tensor> {
        let backbone =
            |layer| forward(&self.backbone, pixels, n, preprocess, layer, self.device, Kind::Float);
        if !layer.is_of_head() {
            return backbone(layer);
        }
        let h = backbone(Layer::H)?.to_device(self.device);
        self.behind(&h, layer)
    }

    /// Maps f32 `[n, C, H, W]` behind each of `groups`, on the CPU, of `n` prepared images `[side, side, 3]`.
    ///
    /// # Errors
    /// [`Error::Data`] if the network takes more than three channels; [`Error::Shape`] if `pixels` holds another number of
    /// bytes.
    pub fn maps(
        &self,
        pixels: &[u8],
        n: usize,
        preprocess: &Preprocess,
        groups: &[BlockGroup],
        phase: Phase,
    ) -> Result<Vec<Tensor>> {
        let channels = self.backbone.input_channels();
        if channels != 3 {
            return Err(Error::Data(format!(
                "maps are made of images of 3 channels, the network of `{}` takes {channels}",
                self.file.display()
            )));
        }
        let side = preprocess.size_px();
        let (mean, std) = (preprocess.mean, preprocess.std);
        tch::no_grad(|| {
            let images = to_device(pixels, [n, side, side], mean, std, self.device, Kind::Float)?;
            let maps = self.backbone.forward_features(&images, groups, phase);
            Ok(maps.iter().map(|map| map.to_kind(Kind::Float).to_device(Device::Cpu)).collect())
        })
    }

    /// h and, where the model has a projector, z of the images of [`Self::features`], from one pass.
    ///
    /// # Errors
    /// Those of [`forward`].
    pub fn h_and_z(&self, pixels: &[u8], n: usize, preprocess: &Preprocess) -> Result<Vec<Tensor>> {
        let h = self.features(pixels, n, preprocess, Layer::H)?;
        let z = self.projector.as_ref().map(|_| self.behind(&h.to_device(self.device), Layer::Z));
        Ok([Some(h), z.transpose()?].into_iter().flatten().collect())
    }

    /// Features of a layer of the projector.
    fn behind(&self, h: &Tensor, layer: Layer) -> Result<Tensor> {
        let projector = self.projector.as_ref().ok_or_else(|| {
            Error::Weights(format!(
                "`{}` has no whole projector, which layer {} lies in; take `--layer h`",
                self.file.display(),
                layer.name()
            ))
        })?;
        let mut taps =
            tch::no_grad(|| projector.head.forward_taps(h, Phase::Evaluation)).into_iter();
        let found = match layer {
            Layer::Projector(place) => taps.nth(usize::from(place)),
            _ => taps.next_back(),
        };
        let found = found.ok_or_else(|| {
            let (file, layer) = (self.file.display(), layer.name());
            Error::Recipe(format!("the projector of `{file}` has no layer {layer}"))
        })?;
        Ok(found.to_device(Device::Cpu))
    }
}

/// Features `[n, D]` of a layer of the backbone (h for any behind it), f32 on the CPU, of `n` prepared images, in evaluation mode. Each image is its bytes
/// `[side, side, 3]` and behind them those of its constant channels, as [`super::features::extract`] hands them on.
///
/// # Errors
/// [`Error::Data`] if the images have other channels than the network takes; [`Error::Shape`] if `pixels` holds another
/// number of bytes.
pub fn forward(
    backbone: &ResNet,
    pixels: &[u8],
    n: usize,
    preprocess: &Preprocess,
    layer: Layer,
    device: Device,
    kind: Kind,
) -> Result<Tensor> {
    let side = preprocess.size_px();
    let (mean, std) = (preprocess.mean, preprocess.std);
    let found = pixels.len().checked_div(n).unwrap_or(0);
    let (plain, wanted) = (3 * side * side, backbone.input_channels() as usize - 3);
    if found != plain + wanted && (plain..plain + 256).contains(&found) && pixels.len() == n * found
    {
        return Err(Error::Data(format!(
            "the network takes {} channels, the images have {}; give the data it was trained on, with the same bits \
             (`random-bits:BASE?bits={wanted}`)",
            3 + wanted,
            3 + found - plain
        )));
    }
    if wanted > 0 && pixels.len() != n * (plain + wanted) {
        return Err(Error::Shape(format!(
            "`pixels` must hold {n} times {plain} and {wanted} bytes, found {}",
            pixels.len()
        )));
    }
    tch::no_grad(|| {
        let images = if wanted == 0 {
            to_device(pixels, [n, side, side], mean, std, device, kind)?
        } else {
            let records = Tensor::from_slice(pixels).view([n as i64, -1]);
            let parts = records.split_with_sizes([plain as i64, wanted as i64], 1);
            let side = side as i64;
            let bytes = parts[0].reshape([-1, side, side, 3]).to_device(device);
            let images = normalize(&bytes, mean, std, kind);
            with_constants(&images, &parts[1].to_device(device))
        };
        let h = match layer {
            Layer::Block(group) => {
                let maps = backbone.forward_features(&images, &[group], Phase::Evaluation);
                maps[0].mean_dim([2, 3].as_slice(), false, None)
            }
            _ => backbone.forward(&images, Phase::Evaluation),
        };
        Ok(h.to_kind(Kind::Float).to_device(Device::Cpu))
    })
}

/// Names counted by their first part.
fn by_part(names: &[impl AsRef<str>]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in names.iter().map(AsRef::as_ref) {
        *counts.entry(name.split('.').next().unwrap_or(name)).or_default() += 1;
    }
    counts.into_iter().map(|(part, count)| format!("{part}.* ({count} tensors)")).collect()
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
