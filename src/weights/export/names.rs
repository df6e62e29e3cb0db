//! What other systems call the tensors of a residual network, and which networks they have.

use super::{Format, Model};
use crate::error::{Error, Result};
use crate::model::BackboneConfig;
use crate::model::resnet::{Architecture, Flavor, Stem};

/// A network of another system, as far as it is ours.
#[derive(Debug)]
pub(super) struct Target {
    /// The network that the other system builds.
    pub(super) config: BackboneConfig,
    /// What whoever loads the file must know.
    pub(super) notes: Vec<String>,
}

impl Target {
    /// The network of `format` for a backbone.
    ///
    /// # Errors
    /// [`Error::Weights`] if there is none, saying what carries it instead.
    pub(super) fn of(format: Format, model: &Model<'_>) -> Result<Self> {
        let own = model.config;
        let mut notes = Vec::new();
        if matches!(format, Format::Torch | Format::Safetensors) {
            return Ok(Self { config: own.clone(), notes });
        }
        let system = format.system();
        let missing = |what: &str| {
            Err(Error::Weights(format!(
                "{system} has no network with {what}; `--format onnx` carries it with its network, `--format torch` and \
                 `--format safetensors` its tensors under our names"
            )))
        };
        if own.sk_ratio > 0.0 {
            return missing("selective kernels as SimCLRv2 has them");
        }
        if own.flavor != Flavor::Torchvision && own.name.expansion() == 1 {
            return missing("a projection in the first group of basic blocks, as SimCLR has it");
        }
        match (own.stem, format) {
            (Stem::ImageNet, _) | (Stem::ResNetD, Format::Timm) => {}
            (Stem::ResNetD, Format::Torchvision) => {
                return missing("the stem of ResNet-D (`--format timm` has)");
            }
            (Stem::Cifar | Stem::CifarPad2, Format::Torchvision | Format::Timm) => {
                let padding = if own.stem == Stem::Cifar { 1 } else { 2 };
                notes.push(format!(
                    "the stem is for small images: put `conv1 = Conv2d({}, {}, 3, stride=1, padding={padding}, \
                     bias=False)` and `maxpool = Identity()` into the network of {system} first",
                    own.input_channels,
                    own.channels(64)
                ));
            }
            (stem, _) => {
                let stem = serde_json::to_string(&stem).unwrap_or_default();
                return missing(&format!("the stem {stem}"));
            }
        }
        if matches!(format, Format::Torchvision | Format::Timm)
            && (own.width - 1.0).abs() > f64::EPSILON
        {
            notes.push(format!(
                "{system} builds no network of width {}: the names are its names, the network must be made wider by hand",
                own.width
            ));
        }
        if format == Format::Detectron2 && (own.width - 1.0).abs() > f64::EPSILON {
            notes.push(format!(
                "set MODEL.RESNETS.STEM_OUT_CHANNELS = {} and RES2_OUT_CHANNELS = {}",
                own.channels(64),
                own.channels(64 * own.name.expansion())
            ));
        }
        if own.name == Architecture::ResNet200
            && matches!(format, Format::Torchvision | Format::Detectron2)
        {
            notes.push(format!("{system} has no network of 200 layers ready made"));
        }
        if own.input_channels != 3 {
            notes.push(format!("images have {} channels", own.input_channels));
        }
        let config = BackboneConfig { flavor: Flavor::Torchvision, ..own.clone() };
        Ok(Self { config, notes })
    }
}

/// The name of a tensor of the backbone (`layer1.0.conv1.weight`) in a format.
pub(super) fn backbone(format: Format, name: &str) -> String {
    match format {
        Format::Detectron2 => detectron2(name),
        Format::HuggingFace => hugging_face(name),
        _ => name.to_owned(),
    }
}

/// The name of a tensor of a head (`classifier.weight`, `projector.…`), if the format has a place for it.
pub(super) fn head(format: Format, name: &str) -> Option<String> {
    let part = name.strip_prefix("classifier.");
    match (format, part) {
        (Format::Torch | Format::Safetensors, _) => Some(name.to_owned()),
        (Format::Torchvision | Format::Timm, Some(part)) => Some(format!("fc.{part}")),
        (Format::HuggingFace, Some(part)) => Some(format!("classifier.1.{part}")),
        _ => None,
    }
}

/// Places of a layer: `layer1.0.conv2.weight` is group 1, block 0, layer `conv2`, `weight`.
fn parts(name: &str) -> Option<(usize, &str, &str, &str)> {
    let (group, rest) = name.strip_prefix("layer")?.split_once('.')?;
    let (block, rest) = rest.split_once('.')?;
    let (layer, value) = match rest.strip_prefix("downsample.") {
        Some(rest) => {
            let (_, value) = rest.split_once('.')?;
            (&rest[.."0".len()], value)
        }
        None => rest.split_once('.')?,
    };
    Some((group.parse().ok()?, block, layer, value))
}

fn detectron2(name: &str) -> String {
    match parts(name) {
        None => match name.strip_prefix("bn1.") {
            Some(value) => format!("stem.conv1.norm.{value}"),
            None => format!("stem.{name}"),
        },
        Some((group, block, layer, value)) => {
            let place = format!("res{}.{block}", group + 1);
            match (layer, layer.strip_prefix("bn")) {
                ("0", _) => format!("{place}.shortcut.{value}"),
                ("1", _) => format!("{place}.shortcut.norm.{value}"),
                (_, Some(number)) => format!("{place}.conv{number}.norm.{value}"),
                _ => format!("{place}.{layer}.{value}"),
            }
        }
    }
}

fn hugging_face(name: &str) -> String {
    let place = |place: &str, norm: bool, value: &str| {
        format!("resnet.{place}.{}.{value}", if norm { "normalization" } else { "convolution" })
    };
    match parts(name) {
        None => {
            let (layer, value) = name.split_once('.').unwrap_or((name, ""));
            place("embedder.embedder", layer == "bn1", value)
        }
        Some((group, block, layer, value)) => {
            let within = format!("encoder.stages.{}.layers.{block}", group - 1);
            match (layer, layer.strip_prefix("bn"), layer.strip_prefix("conv")) {
                ("0" | "1", ..) => place(&format!("{within}.shortcut"), layer == "1", value),
                (_, norm, convolution) => {
                    let number: usize = norm.or(convolution).unwrap_or("1").parse().unwrap_or(1);
                    place(&format!("{within}.layer.{}", number - 1), norm.is_some(), value)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Names;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_those_of_detectron2_and_transformers() {
        for (name, detectron2, hugging_face) in [
            ("conv1.weight", "stem.conv1.weight", "resnet.embedder.embedder.convolution.weight"),
            (
                "bn1.weight",
                "stem.conv1.norm.weight",
                "resnet.embedder.embedder.normalization.weight",
            ),
            (
                "layer3.0.downsample.1.bias",
                "res4.0.shortcut.norm.bias",
                "resnet.encoder.stages.2.layers.0.shortcut.normalization.bias",
            ),
            (
                "layer3.0.downsample.0.weight",
                "res4.0.shortcut.weight",
                "resnet.encoder.stages.2.layers.0.shortcut.convolution.weight",
            ),
            (
                "layer1.2.bn3.running_var",
                "res2.2.conv3.norm.running_var",
                "resnet.encoder.stages.0.layers.2.layer.2.normalization.running_var",
            ),
            (
                "layer4.1.conv2.weight",
                "res5.1.conv2.weight",
                "resnet.encoder.stages.3.layers.1.layer.1.convolution.weight",
            ),
        ] {
            assert_eq!(backbone(Format::Detectron2, name), detectron2);
            assert_eq!(backbone(Format::HuggingFace, name), hugging_face);
            assert_eq!(backbone(Format::Timm, name), name);
        }
    }

    #[test]
    fn no_two_tensors_get_one_name() {
        for name in [Architecture::ResNet18, Architecture::ResNet101] {
            let tensors = BackboneConfig::new(name).tensors();
            for format in [Format::Detectron2, Format::HuggingFace, Format::Torchvision] {
                let names: BTreeSet<String> =
                    tensors.iter().map(|(name, _)| backbone(format, name)).collect();
                assert_eq!(names.len(), tensors.len());
            }
            // And each is understood when it comes back.
            for (format, names) in
                [(Format::Detectron2, Names::Detectron2), (Format::HuggingFace, Names::HuggingFace)]
            {
                for (name, _) in &tensors {
                    let theirs = backbone(format, name);
                    let theirs = theirs.strip_prefix("resnet.").unwrap_or(&theirs);
                    assert_eq!(names.translated(theirs, false).as_ref(), Some(name));
                }
            }
        }
    }
}
