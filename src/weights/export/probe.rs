//! Whether what was written is the network it was made of.

use super::{Model, Sheet};
use crate::error::{Error, Result};
use crate::model::resnet::{BackboneInitialization, Stem};
use crate::model::{BackboneConfig, BlockGroup, Head, Parameters, Phase, ResNet};
use crate::random::{Purpose, Scope, Stream};
use crate::weights::TensorFile;
use std::path::Path;
use tch::{Device, Kind, Tensor, no_grad};

/// Two images of noise, and what the model gives for them.
pub(super) struct Probe {
    /// `[2, C, h, w]`, in \[−1, 1\].
    pub(super) images: Tensor,
    /// Features `[2, F]`.
    pub(super) h: Tensor,
    /// Maps behind each of the block groups.
    pub(super) blocks: Vec<Tensor>,
}

/// All block groups, in order.
const BLOCKS: [BlockGroup; 4] =
    [BlockGroup::Group1, BlockGroup::Group2, BlockGroup::Group3, BlockGroup::Group4];

/// Sides that meet odd and even maps at every pool.
fn sides(config: &BackboneConfig) -> [i64; 2] {
    match config.stem {
        Stem::ImageNet | Stem::ResNetD => [70, 72],
        _ => [18, 16],
    }
}

/// An empty network; how it starts does not matter.
fn build(config: &BackboneConfig, kind: Kind) -> Result<(ResNet, Parameters)> {
    let config =
        BackboneConfig { initialization: BackboneInitialization::PyTorch, ..config.clone() };
    let mut parameters = Parameters::to_be_loaded(Device::Cpu, kind);
    let network = ResNet::build(&mut parameters.root(), &config)?;
    Ok((network, parameters))
}

impl Probe {
    pub(super) fn of(model: &Model<'_>) -> Result<Self> {
        let [height, width] = sides(model.config);
        let shape = [2, model.config.input_channels, height, width];
        let mut stream = Stream::open(0, Purpose::Test, Scope::Item(0));
        let count = shape.iter().product::<i64>();
        let values: Vec<f32> = (0..count).map(|_| stream.range(-1.0, 1.0) as f32).collect();
        let images = Tensor::from_slice(&values).view(shape);
        let (h, blocks) = outputs(model, &images)?;
        Ok(Self { images, h, blocks })
    }

    /// How far rounding alone takes the features and maps from those in double precision, as [`difference`] counts: about
    /// 1e-6, and more where a network magnifies it.
    pub(super) fn rounding(&self, model: &Model<'_>) -> Result<f64> {
        let (h, blocks) = outputs(model, &self.images.to_kind(Kind::Double))?;
        let exact = std::iter::once(&h).chain(&blocks);
        let rounded = std::iter::once(&self.h).chain(&self.blocks);
        Ok(rounded.zip(exact).map(|(r, exact)| difference(r, exact)).fold(0.0, f64::max))
    }

    /// What the model's projector and classifier give for the probe; none where there is none.
    pub(super) fn heads(&self, model: &Model<'_>) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut taps = vec![self.h.shallow_clone()];
        if let Some((config, layers)) = &model.projector {
            let mut parameters = Parameters::new(0, Device::Cpu, Kind::Float);
            let features = model.config.features();
            let mut root = parameters.root();
            let head = Head::build_first(&mut root.at("projector"), features, config, *layers)?;
            parameters.load(model.tensors)?;
            taps = no_grad(|| head.forward_taps(&self.h, Phase::Evaluation));
        }
        let below = taps.get(model.classifier_behind);
        let weight = model.tensors.get("classifier.weight");
        let logits = weight.zip(below).map(|(weight, below)| {
            no_grad(|| {
                below.linear(&weight.to_kind(Kind::Float), model.tensors.get("classifier.bias"))
            })
        });
        Ok((taps.pop().filter(|_| model.projector.is_some()), logits))
    }

    /// Reads a file of tensors back into the network of `config`: how far its features are from the model's. Everything
    /// else in the file must be what was written, bit by bit.
    pub(super) fn read_back(
        &self,
        path: &Path,
        config: &BackboneConfig,
        sheet: &Sheet<'_>,
        model: &Model<'_>,
    ) -> Result<f64> {
        let file = TensorFile::open(path)?;
        let find = |name: &str| {
            let found = file.entries().iter().find(|entry| entry.name == name);
            found.ok_or_else(|| Error::Weights(format!("`{name}` was written and is not there")))
        };
        let (network, parameters) = build(config, Kind::Float)?;
        for parameter in parameters.all() {
            let name = sheet.backbone.get(&parameter.name).unwrap_or(&parameter.name);
            file.copy_to(find(name)?, &parameter.tensor)?;
        }
        let heads = model.part("projector.").chain(model.part("classifier."));
        let written: Vec<&str> = sheet.items.iter().map(|item| item.name.as_str()).collect();
        for (name, tensor) in heads {
            let theirs = written.iter().find(|theirs| {
                **theirs == name.as_str()
                    || name.strip_prefix("classifier.").is_some_and(|part| {
                        **theirs == format!("fc.{part}")
                            || **theirs == format!("classifier.1.{part}")
                    })
            });
            let Some(theirs) = theirs else { continue };
            if file.tensor(find(theirs)?)? != tensor.to_kind(Kind::Float) {
                return Err(Error::Weights(format!("`{theirs}` was not written as it is")));
            }
        }
        if file.entries().len() != sheet.items.len() {
            let (found, wanted) = (file.entries().len(), sheet.items.len());
            return Err(Error::Weights(format!(
                "{wanted} tensors were written, {found} are there"
            )));
        }
        let h = no_grad(|| network.forward(&self.images, Phase::Evaluation));
        Ok(difference(&h, &self.h))
    }
}

/// Features and maps of the model for images, in their kind.
fn outputs(model: &Model<'_>, images: &Tensor) -> Result<(Tensor, Vec<Tensor>)> {
    let (network, parameters) = build(model.config, images.kind())?;
    no_grad(|| {
        for parameter in parameters.all() {
            let value = model.tensor(&parameter.name)?;
            if value.size() != parameter.tensor.size() {
                return Err(Error::Weights(format!(
                    "`{}` must have shape {:?}, found {:?}",
                    parameter.name,
                    parameter.tensor.size(),
                    value.size()
                )));
            }
            parameter.tensor.shallow_clone().copy_(value);
        }
        let h = network.forward(images, Phase::Evaluation);
        Ok((h, network.forward_features(images, &BLOCKS, Phase::Evaluation)))
    })
}

/// Largest difference as a share of the largest value.
pub(super) fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    let size = expected.abs().max().double_value(&[]).max(f64::MIN_POSITIVE);
    (found - expected).abs().max().double_value(&[]) / size
}

/// What was read back is another network.
pub(super) fn differs(difference: f64, rounding: f64) -> Error {
    Error::Weights(format!(
        "what was written gives other features when it is read back (off by {difference:.1e} of the largest, rounding alone \
         by {rounding:.1e}); nothing is kept"
    ))
}
