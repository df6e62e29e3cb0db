//! The order in which SimCLR's TensorFlow code makes the layers of a network.

use crate::model::BackboneConfig;
use crate::model::layers::Geometry;
use crate::model::resnet::plan::{BlockPlan, LayerPlan};

/// A layer with variables, under our name.
pub(super) enum Layer {
    Kernel { name: String, geometry: Geometry },
    Norm { name: String, channels: i64 },
}

/// Every layer of the backbone: the stem, then the blocks, in each the shortcut first.
pub(super) fn creation_order(config: &BackboneConfig) -> Vec<Layer> {
    let plan = config.plan();
    let mut layers = Vec::new();
    for (names, geometry) in plan.stem.names().iter().zip(&plan.stem.convolutions) {
        unit(&mut layers, names.map(str::to_owned), *geometry);
    }
    for (group, blocks) in (1..).zip(&plan.groups) {
        for (index, plan) in blocks.iter().enumerate() {
            block(&mut layers, &format!("layer{group}.{index}"), plan);
        }
    }
    layers
}

fn block(layers: &mut Vec<Layer>, place: &str, plan: &BlockPlan) {
    if let Some(shortcut) = &plan.shortcut {
        let names = shortcut.names().map(|name| format!("{place}.downsample.{name}"));
        unit(layers, names, shortcut.convolution);
    }
    let names = |number: usize| [format!("{place}.conv{number}"), format!("{place}.bn{number}")];
    for (number, layer) in (1..).zip(&plan.branch) {
        match layer {
            LayerPlan::Convolution(geometry) => unit(layers, names(number), *geometry),
            LayerPlan::SelectiveKernel(kernel) => {
                let below = |name: &str| format!("{place}.sk.{name}");
                unit(layers, [below("split"), below("split_bn")], kernel.split);
                unit(layers, [below("squeeze"), below("squeeze_bn")], kernel.squeeze());
                layers.push(Layer::Kernel { name: below("select"), geometry: kernel.select() });
            }
        }
    }
    unit(layers, names(plan.branch.len() + 1), plan.last);
}

fn unit(layers: &mut Vec<Layer>, [convolution, norm]: [String; 2], geometry: Geometry) {
    layers.push(Layer::Kernel { name: convolution, geometry });
    layers.push(Layer::Norm { name: norm, channels: geometry.outputs });
}
