//! Which network tensors with torchvision's names are, as far as their shapes tell.

use super::family::Family;
use super::import::Stated;
use crate::model::BackboneConfig;
use crate::model::resnet::{Architecture, Flavor, Stem};

/// The stems that a 3×3 kernel may be of: weights do not tell which.
pub const SMALL_STEMS: [(&str, Stem); 3] =
    [("cifar", Stem::Cifar), ("cifar_pad2", Stem::CifarPad2), ("cifar_no_relu", Stem::CifarNoRelu)];

/// The settings of the network whose tensors have these shapes.
pub(super) fn inferred<'s>(
    shape: &dyn Fn(&str) -> Option<&'s [usize]>,
    family: &Family,
    stated: &Stated,
) -> Result<BackboneConfig, String> {
    let bottleneck = shape("layer1.0.conv3.weight").is_some();
    let selective = shape("layer1.0.sk.split.weight").is_some();
    let blocks = |group: usize| {
        let exists = |block: &usize| shape(&format!("layer{group}.{block}.conv1.weight")).is_some();
        (0..1_000).take_while(exists).count()
    };
    let name = match (bottleneck, [blocks(1), blocks(2), blocks(3), blocks(4)]) {
        (false, [2, 2, 2, 2]) => Architecture::ResNet18,
        (false, [3, 4, 6, 3]) => Architecture::ResNet34,
        (true, [3, 4, 6, 3]) => Architecture::ResNet50,
        (true, [3, 4, 23, 3]) => Architecture::ResNet101,
        (true, [3, 8, 36, 3]) => Architecture::ResNet152,
        (true, [3, 24, 36, 3]) => Architecture::ResNet200,
        (bottleneck, blocks) => {
            return Err(format!(
                "{} blocks {blocks:?} are those of no ResNet from 18 to 200 layers",
                if bottleneck { "bottleneck" } else { "basic" }
            ));
        }
    };
    let deep = shape("conv1.0.weight");
    let first = deep.or_else(|| shape("conv1.weight")).unwrap_or_default();
    let last = if deep.is_some() { shape("conv1.6.weight") } else { Some(first) };
    let (&[_, inputs, kernel, width], Some(&[outputs, ..])) = (first, last) else {
        return Err("its first convolution is none of two dimensions".to_owned());
    };
    let small = kernel == 3 && width == 3;
    let stem = match (deep.is_some(), kernel, stated.stem) {
        (true, 3, None | Some(Stem::ResNetD)) => Stem::ResNetD,
        (false, 7, None | Some(Stem::ImageNet)) if width == 7 => Stem::ImageNet,
        (false, 3, Some(stem)) if small && SMALL_STEMS.iter().any(|(_, known)| *known == stem) => stem,
        (false, 3, None) if small => family.small_stem.ok_or_else(|| {
            let [a, b, c] = SMALL_STEMS.map(|(name, _)| name);
            format!(
                "its stem has a 3×3 kernel, which weights alone do not tell: `diptych weights import FILE --stem` takes \
                 {a} (padded by 1, as most), {b} (padded by 2, solo-learn) or {c} (without a ReLU, lightly)"
            )
        })?,
        (_, _, Some(_)) => {
            return Err(format!("`--stem` does not fit its first convolution of {kernel}×{width}"));
        }
        _ => return Err(format!("a first convolution of {kernel}×{width} is that of no known stem")),
    };
    // Only SimCLR's code projects in the first group of basic blocks.
    let projects = !bottleneck && shape("layer1.0.downsample.0.weight").is_some();
    let flavor = if projects { Flavor::SimclrTf } else { family.flavor };
    Ok(BackboneConfig {
        width: outputs as f64 / 64.0,
        // Fewer than three never fit, which the comparison of shapes says.
        input_channels: (inputs as i64).max(3),
        stem,
        flavor: stated.flavor.unwrap_or(flavor),
        sk_ratio: if selective { 0.0625 } else { 0.0 },
        ..BackboneConfig::new(name)
    })
}
