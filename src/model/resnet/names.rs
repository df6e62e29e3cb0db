//! Names and shapes of a network's tensors, without making any.

use super::config::BackboneConfig;
use super::plan::LayerPlan;
use crate::model::layers::Geometry;

impl BackboneConfig {
    /// Every tensor of the network, in the order in which it is made: its name below the network's place, and its shape.
    pub fn tensors(&self) -> Vec<(String, Vec<i64>)> {
        let plan = self.plan();
        let mut list = List(Vec::new());
        for ([convolution, norm], geometry) in plan.stem.names().iter().zip(&plan.stem.convolutions)
        {
            list.unit(convolution, norm, geometry);
        }
        for (group, blocks) in (1..).zip(&plan.groups) {
            for (index, block) in blocks.iter().enumerate() {
                let place = format!("layer{group}.{index}");
                let numbered = |number: usize| {
                    (format!("{place}.conv{number}"), format!("{place}.bn{number}"))
                };
                for (number, layer) in (1..).zip(&block.branch) {
                    match layer {
                        LayerPlan::Convolution(geometry) => {
                            let (convolution, norm) = numbered(number);
                            list.unit(&convolution, &norm, geometry);
                        }
                        LayerPlan::SelectiveKernel(kernel) => {
                            let sk = |part: &str| format!("{place}.sk.{part}");
                            list.unit(&sk("split"), &sk("split_bn"), &kernel.split);
                            list.unit(&sk("squeeze"), &sk("squeeze_bn"), &kernel.squeeze());
                            list.weight(&sk("select"), &kernel.select());
                        }
                    }
                }
                let (convolution, norm) = numbered(block.branch.len() + 1);
                list.unit(&convolution, &norm, &block.last);
                if let Some(shortcut) = &block.shortcut {
                    let [convolution, norm] =
                        shortcut.names().map(|name| format!("{place}.downsample.{name}"));
                    list.unit(&convolution, &norm, &shortcut.convolution);
                }
            }
        }
        list.0
    }
}

struct List(Vec<(String, Vec<i64>)>);

impl List {
    fn weight(&mut self, name: &str, geometry: &Geometry) {
        let Geometry { inputs, outputs, kernel, .. } = *geometry;
        self.0.push((format!("{name}.weight"), vec![outputs, inputs, kernel, kernel]));
    }

    /// A convolution with its batch norm.
    fn unit(&mut self, convolution: &str, norm: &str, geometry: &Geometry) {
        self.weight(convolution, geometry);
        for part in ["weight", "bias", "running_mean", "running_var"] {
            self.0.push((format!("{norm}.{part}"), vec![geometry.outputs]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Parameters, ResNet};
    use tch::{Device, Kind};

    #[test]
    fn they_are_those_of_the_network_that_is_made() {
        for settings in [
            r#"{"name":"resnet18"}"#,
            r#"{"name":"resnet34","stem":"cifar_no_relu"}"#,
            r#"{"name":"resnet18","flavor":"simclr_tf","stem":"cifar_pad2"}"#,
            r#"{"name":"resnet50","input_channels":5}"#,
            r#"{"name":"resnet50","stem":"resnet_d"}"#,
            r#"{"name":"resnet50","stem":"resnet_d","flavor":"simclr_tf","sk_ratio":0.0625}"#,
        ] {
            let config: BackboneConfig = serde_json::from_str(settings).unwrap();
            let config = BackboneConfig { width: 1.0 / 16.0, ..config };
            let mut parameters = Parameters::new(0, Device::Cpu, Kind::Float);
            ResNet::build(&mut parameters.root(), &config).unwrap();
            let made = parameters.all().iter().map(|p| (p.name.clone(), p.tensor.size()));
            assert_eq!(config.tensors(), made.collect::<Vec<_>>(), "{settings}");
        }
    }
}
