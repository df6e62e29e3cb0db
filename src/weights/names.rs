//! Names of other systems' networks in torchvision's.

/// From a system's names to torchvision's.
#[derive(Clone, Copy, Debug)]
pub enum Names {
    /// The same names.
    Same,
    /// Other first parts, and other parts within: `0.weight` is `conv1.weight`, `shortcut` is `downsample`.
    Parts {
        /// First parts.
        first: &'static [(&'static str, &'static str)],
        /// Parts anywhere.
        within: &'static [(&'static str, &'static str)],
    },
    /// Those of Separius' converter of SimCLRv2.
    Separius,
    /// detectron2's.
    Detectron2,
    /// Those of transformers.
    HuggingFace,
}

impl Names {
    /// A name of the backbone in torchvision's, ours for selective kernels; none if it is no name of a network. `deep` says
    /// whether a converted SimCLRv2 has selective kernels, see [`Self::is_deep`].
    pub fn translated(self, name: &str, deep: bool) -> Option<String> {
        match self {
            Self::Same => Some(name.to_owned()),
            Self::Parts { first, within } => {
                let other = |list: &[(&'static str, &'static str)], part: &str| {
                    list.iter().find(|(theirs, _)| *theirs == part).map(|(_, ours)| *ours)
                };
                let mut parts = name.split('.');
                let head = parts.next()?;
                let head = if first.is_empty() { head } else { other(first, head)? };
                let rest = parts.map(|part| other(within, part).unwrap_or(part));
                Some([head].into_iter().chain(rest).collect::<Vec<_>>().join("."))
            }
            Self::Separius => separius(name, deep),
            Self::Detectron2 => detectron2(name),
            Self::HuggingFace => hugging_face(name),
        }
    }

    /// Whether names are those of a network with selective kernels, which shifts the numbers of the rest.
    pub fn is_deep<'a>(self, mut names: impl Iterator<Item = &'a str>) -> bool {
        matches!(self, Self::Separius) && names.any(|name| name.starts_with("0.5."))
    }
}

/// `0.…` is the stem, `G.blocks.B.…` a block. `deep` networks have three convolutions in the stem, selective kernels, and
/// shortcuts that pool.
fn separius(name: &str, deep: bool) -> Option<String> {
    let parts: Vec<&str> = name.split('.').collect();
    let (last, path) = parts.split_last()?;
    let place = match (path, deep) {
        (["0", "0"], false) => "conv1".to_owned(),
        (["0", "1", "0"], false) | (["0", "5", "0"], true) => "bn1".to_owned(),
        (["0", number @ ("0" | "2" | "4")], true) => {
            format!("conv1.{}", ["0", "3", "6"][number.parse::<usize>().ok()? / 2])
        }
        (["0", "1", "0"], true) => "conv1.1".to_owned(),
        (["0", "3", "0"], true) => "conv1.4".to_owned(),
        ([group, "blocks", block, inner @ ..], _) => {
            let inner = match (inner, deep) {
                (["projection", "shortcut"], false) => "downsample.0",
                (["projection", "bn", "0"], false) | (["projection", "shortcut", "2"], true) => {
                    "downsample.1"
                }
                (["projection", "bn", "0"], true) => "downsample.2",
                (["net", "0"], _) => "conv1",
                (["net", "1", "0"], _) => "bn1",
                (["net", "2"], false) => "conv2",
                (["net", "3", "0"], false) => "bn2",
                (["net", "4"], false) | (["net", "3"], true) => "conv3",
                (["net", "5", "0"], false) | (["net", "4", "0"], true) => "bn3",
                (["net", "2", "main_conv", "0"], true) => "sk.split",
                (["net", "2", "main_conv", "1", "0"], true) => "sk.split_bn",
                (["net", "2", "mixing_conv", "0"], true) => "sk.squeeze",
                (["net", "2", "mixing_conv", "1", "0"], true) => "sk.squeeze_bn",
                (["net", "2", "mixing_conv", "2"], true) => "sk.select",
                _ => return None,
            };
            format!("layer{group}.{block}.{inner}")
        }
        _ => return None,
    };
    Some(format!("{place}.{last}"))
}

/// `stem.conv1.…` is the stem, `resG.B.…` a block, a norm lies within its convolution.
fn detectron2(name: &str) -> Option<String> {
    if let Some(value) = name.strip_prefix("stem.conv1.") {
        return Some(match value.strip_prefix("norm.") {
            Some(value) => format!("bn1.{value}"),
            None => format!("conv1.{value}"),
        });
    }
    let (group, rest) = name.strip_prefix("res")?.split_once('.')?;
    let group = group.parse::<usize>().ok()?.checked_sub(1)?;
    let (block, rest) = rest.split_once('.')?;
    let (layer, value) = rest.split_once('.')?;
    let (norm, value) = match value.strip_prefix("norm.") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let layer = match (layer, norm) {
        ("shortcut", _) => format!("downsample.{}", usize::from(norm)),
        (layer, true) => format!("bn{}", layer.strip_prefix("conv")?),
        (layer, false) => layer.to_owned(),
    };
    Some(format!("layer{group}.{block}.{layer}.{value}"))
}

/// `embedder.…` is the stem, `encoder.stages.G.layers.B.…` a block.
fn hugging_face(name: &str) -> Option<String> {
    let kind = |rest: &str| match rest.split_once('.')? {
        ("convolution", value) => Some((false, value.to_owned())),
        ("normalization", value) => Some((true, value.to_owned())),
        _ => None,
    };
    if let Some(rest) = name.strip_prefix("embedder.embedder.") {
        let (norm, value) = kind(rest)?;
        return Some(format!("{}1.{value}", if norm { "bn" } else { "conv" }));
    }
    let (group, rest) = name.strip_prefix("encoder.stages.")?.split_once(".layers.")?;
    let group = group.parse::<usize>().ok()?.checked_add(1)?;
    let (block, rest) = rest.split_once('.')?;
    let place = format!("layer{group}.{block}");
    if let Some(rest) = rest.strip_prefix("shortcut.") {
        let (norm, value) = kind(rest)?;
        return Some(format!("{place}.downsample.{}.{value}", usize::from(norm)));
    }
    let (layer, rest) = rest.strip_prefix("layer.")?.split_once('.')?;
    let layer = layer.parse::<usize>().ok()?.checked_add(1)?;
    let (norm, value) = kind(rest)?;
    Some(format!("{place}.{}{layer}.{value}", if norm { "bn" } else { "conv" }))
}

#[cfg(test)]
mod tests {
    use super::super::FAMILIES;
    use super::*;
    use crate::model::BackboneConfig;
    use std::collections::BTreeSet;

    /// Names of a block of Separius' network by its plan: what its modules register.
    fn of_separius(depths: [usize; 4], deep: bool) -> Vec<String> {
        let norm = |place: String| {
            ["weight", "bias", "running_mean", "running_var"].map(|part| format!("{place}.{part}"))
        };
        let mut names = Vec::new();
        let stem: &[usize] = if deep { &[0, 2, 4] } else { &[0] };
        for number in stem {
            names.push(format!("0.{number}.weight"));
            names.extend(norm(format!("0.{}.0", number + 1)));
        }
        for (group, depth) in (1..).zip(depths) {
            for block in 0..depth {
                let place = format!("{group}.blocks.{block}");
                if block == 0 {
                    let inner = if deep { ".2" } else { "" };
                    names.push(format!("{place}.projection.shortcut{inner}.weight"));
                    names.extend(norm(format!("{place}.projection.bn.0")));
                }
                let norms: &[usize] = if deep { &[1, 4] } else { &[1, 3, 5] };
                let convolutions: &[usize] = if deep { &[0, 3] } else { &[0, 2, 4] };
                names.extend(convolutions.iter().map(|n| format!("{place}.net.{n}.weight")));
                names.extend(norms.iter().flat_map(|n| norm(format!("{place}.net.{n}.0"))));
                if deep {
                    let kernel = format!("{place}.net.2");
                    names.push(format!("{kernel}.main_conv.0.weight"));
                    names.extend(norm(format!("{kernel}.main_conv.1.0")));
                    names.push(format!("{kernel}.mixing_conv.0.weight"));
                    names.extend(norm(format!("{kernel}.mixing_conv.1.0")));
                    names.push(format!("{kernel}.mixing_conv.2.weight"));
                }
            }
        }
        names
    }

    #[test]
    fn names_of_separius_are_those_of_the_network_with_and_without_selective_kernels() {
        for (deep, settings) in [
            (false, r#"{"name":"resnet50","flavor":"simclr_tf"}"#),
            (
                true,
                r#"{"name":"resnet50","flavor":"simclr_tf","stem":"resnet_d","sk_ratio":0.0625}"#,
            ),
        ] {
            let config: BackboneConfig = serde_json::from_str(settings).unwrap();
            let theirs = of_separius([3, 4, 6, 3], deep);
            assert_eq!(theirs.len(), if deep { 371 } else { 265 });
            assert_eq!(Names::Separius.is_deep(theirs.iter().map(String::as_str)), deep);
            let translated: BTreeSet<String> =
                theirs.iter().map(|name| Names::Separius.translated(name, deep).unwrap()).collect();
            let ours: BTreeSet<String> =
                config.tensors().into_iter().map(|(name, _)| name).collect();
            assert_eq!(translated, ours);
        }
        assert_eq!(Names::Separius.translated("1.blocks.0.net.9.weight", false), None);
    }

    #[test]
    fn parts_of_names_are_other_parts() {
        let lightly = FAMILIES.iter().find(|family| family.id == "lightly-cifar").unwrap();
        let name = |theirs: &str| lightly.names.translated(theirs, false);
        assert_eq!(name("3.0.shortcut.1.bias").unwrap(), "layer2.0.downsample.1.bias");
        assert_eq!(name("0.weight").unwrap(), "conv1.weight");
        assert_eq!(name("9.weight"), None);
    }
}
