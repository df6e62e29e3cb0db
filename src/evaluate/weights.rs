//! Getting a backbone to judge: out of a run folder, a checkpoint, or a weights file.

use crate::augment::{Preprocess, normalize, to_device, with_constants};
use crate::error::{Error, Result};
use crate::model::resnet::{Architecture, ResNet, Stem};
use crate::model::{BackboneConfig, BlockGroup, Parameters, Phase};
use crate::train::checkpoint;
use crate::train::journal::Event;
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
    /// How images must be prepared, if the file says.
    pub preprocess: Option<Preprocess>,
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
pub struct Layer(Option<BlockGroup>);

/// Names of the layers, as in records and feature files.
const LAYERS: [(&str, Option<BlockGroup>); 6] = [
    ("h", None),
    ("stem", Some(BlockGroup::Stem)),
    ("block1", Some(BlockGroup::Group1)),
    ("block2", Some(BlockGroup::Group2)),
    ("block3", Some(BlockGroup::Group3)),
    ("block4", Some(BlockGroup::Group4)),
];

impl Layer {
    /// The features behind the global average pool, which every image-level protocol uses.
    pub const H: Self = Self(None);

    /// A layer by its name: h, stem, block1 to block4.
    ///
    /// # Errors
    /// [`Error::Recipe`] listing the names.
    pub fn named(name: &str) -> Result<Self> {
        let found = LAYERS.iter().find(|(known, _)| *known == name);
        found.map(|(_, group)| Self(*group)).ok_or_else(|| {
            let names = LAYERS.map(|(name, _)| name).join(", ");
            Error::Recipe(format!("`--layer` must be one of {names}, found `{name}`"))
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        LAYERS.iter().find(|(_, group)| *group == self.0).map_or("h", |(name, _)| name)
    }

    fn group(self) -> Option<BlockGroup> {
        self.0
    }
}

/// Where a run keeps its newest weights.
fn checkpoint_of(run: &Path) -> PathBuf {
    run.join("checkpoints/last.safetensors")
}

impl Weights {
    /// Loads MODEL: a run folder, one of its checkpoints, or a safetensors file with torchvision's names.
    ///
    /// # Errors
    /// [`Error::Weights`] when it is damaged, or not every tensor of the backbone is in it, or something is in it that
    /// nobody expects; [`Error::Data`] when there is no such file.
    pub fn load(model: &Path, device: Device) -> Result<Self> {
        let run = model.join("recipe.toml").is_file().then(|| model.to_owned());
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
        match checkpoint::load(&file) {
            Ok(found) => Self::from_checkpoint(found, file, run, device),
            Err(Error::Weights(message)) if message.contains("was not written by diptych") => {
                Self::from_foreign(file, device)
            }
            Err(error) => Err(error),
        }
    }

    /// The network a checkpoint's recipe starts from, before any training: a baseline.
    ///
    /// # Errors
    /// [`Error::Recipe`] if the settings are out of range.
    pub fn untrained(&self, seed: u64) -> Result<Self> {
        let (backbone, parameters) = build(&self.config, seed, self.device)?;
        Ok(Self {
            backbone,
            parameters,
            device: self.device,
            config: self.config.clone(),
            preprocess: self.preprocess.clone(),
            file: PathBuf::from("untrained"),
            matched: 0,
            left_over: Vec::new(),
            run: None,
            history: Vec::new(),
        })
    }

    fn from_checkpoint(
        found: checkpoint::Checkpoint,
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
        let filled = Self::fill(found.tensors, config, Some(preprocess), file, device)?;
        Ok(Self { run, history: found.header.journal.events, ..filled })
    }

    /// Weights with torchvision's names, bare or below `backbone.`, `encoder.` or `module.`; the network is read off
    /// their shapes.
    fn from_foreign(file: PathBuf, device: Device) -> Result<Self> {
        let tensors = Tensor::read_safetensors(&file).map_err(|error| {
            Error::Weights(format!("weights `{}` cannot be read: {error}", file.display()))
        })?;
        let tensors: BTreeMap<String, Tensor> = tensors
            .into_iter()
            .filter(|(name, _)| !name.ends_with("num_batches_tracked"))
            .map(|(name, tensor)| {
                let bare = ["backbone.", "encoder.", "module."]
                    .iter()
                    .find_map(|prefix| name.strip_prefix(prefix))
                    .unwrap_or(&name);
                let expected = ["fc.", "projector.", "optimizer."];
                let known = expected.iter().any(|prefix| bare.starts_with(prefix));
                (if known { bare.to_owned() } else { format!("backbone.{bare}") }, tensor)
            })
            .collect();
        let config = infer(&tensors).ok_or_else(|| {
            Error::Weights(format!(
                "weights `{}` hold no ResNet with torchvision's names (conv1.weight, layer1.0.conv1.weight, ...)",
                file.display()
            ))
        })?;
        Self::fill(tensors, config, None, file, device)
    }

    fn fill(
        tensors: BTreeMap<String, Tensor>,
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
        let wanted = config.parameter_count();
        let there: usize = tensors.values().map(Tensor::numel).sum();
        if wanted / 2 > there as u64 {
            let why = format!("a network of {wanted} parameters, but only {there} numbers");
            return Err(mismatch(&why));
        }
        let (backbone, parameters) = build(&config, 0, device)?;
        parameters.load(&tensors).map_err(|error| mismatch(&error))?;
        let known = |name: &str| parameters.all().iter().any(|p| p.name == name);
        let (backbone_only, left_over): (Vec<String>, Vec<String>) = tensors
            .into_keys()
            .filter(|name| !known(name))
            .partition(|name| name.starts_with("backbone."));
        if !backbone_only.is_empty() {
            let names = backbone_only.join(", ");
            return Err(mismatch(&format!("the backbone has no place for {names}")));
        }
        let matched = parameters.all().len();
        let left_over = by_part(&left_over);
        Ok(Self {
            backbone,
            parameters,
            device,
            config,
            preprocess,
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

    /// BLAKE3 over all parameters and buffers of the backbone.
    pub fn hash(&self) -> String {
        checkpoint::hash(self.parameters.all().iter().map(|p| (p.name.as_str(), &p.tensor)))
    }

    /// Features `[n, D]` of `n` prepared images; see [`forward`].
    ///
    /// # Errors
    /// Those of [`forward`].
    pub fn features(
        &self,
        pixels: &[u8],
        n: usize,
        preprocess: &Preprocess,
        layer: Layer,
    ) -> Result<Tensor> {
        forward(&self.backbone, pixels, n, preprocess, layer, self.device, Kind::Float)
    }
}

/// Features `[n, D]` of a layer, f32 on the CPU, of `n` prepared images, in evaluation mode. Each image is its bytes
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
        let h = match layer.group() {
            None => backbone.forward(&images, Phase::Evaluation),
            Some(group) => {
                let maps = backbone.forward_features(&images, &[group], Phase::Evaluation);
                maps[0].mean_dim([2, 3].as_slice(), false, None)
            }
        };
        Ok(h.to_kind(Kind::Float).to_device(Device::Cpu))
    })
}

/// Names counted by their first part.
fn by_part(names: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in names {
        *counts.entry(name.split('.').next().unwrap_or(name)).or_default() += 1;
    }
    counts.into_iter().map(|(part, count)| format!("{part}.* ({count} tensors)")).collect()
}

fn build(config: &BackboneConfig, seed: u64, device: Device) -> Result<(ResNet, Parameters)> {
    let mut parameters = Parameters::new(seed, device, Kind::Float);
    let backbone = ResNet::build(&mut parameters.root().at("backbone"), config)?;
    Ok((backbone, parameters))
}

/// Which network tensors with torchvision's names belong to.
fn infer(tensors: &BTreeMap<String, Tensor>) -> Option<BackboneConfig> {
    let shape = |name: &str| tensors.get(&format!("backbone.{name}")).map(Tensor::size);
    let stem = shape("conv1.weight")?;
    let blocks = |group: usize| {
        let exists = |i: &usize| shape(&format!("layer{group}.{i}.conv1.weight")).is_some();
        (0..tensors.len()).take_while(exists).count()
    };
    let bottleneck = shape("layer1.0.conv3.weight").is_some();
    let name = match (bottleneck, [blocks(1), blocks(2), blocks(3), blocks(4)]) {
        (false, [2, 2, 2, 2]) => Architecture::ResNet18,
        (false, [3, 4, 6, 3]) => Architecture::ResNet34,
        (true, [3, 4, 6, 3]) => Architecture::ResNet50,
        (true, [3, 4, 23, 3]) => Architecture::ResNet101,
        (true, [3, 8, 36, 3]) => Architecture::ResNet152,
        _ => return None,
    };
    let kind = match stem.get(2)? {
        7 => Stem::ImageNet,
        3 => Stem::Cifar,
        _ => return None,
    };
    Some(BackboneConfig {
        width: *stem.first()? as f64 / 64.0,
        // Fewer than three never fit, which loading says with the shapes.
        input_channels: (*stem.get(1)?).max(3),
        stem: kind,
        ..BackboneConfig::new(name)
    })
}
