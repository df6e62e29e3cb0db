//! What the tests of methods share: small networks in f64, a head written out, slopes.

use super::distill::Teacher;
use super::{Config, Method, Objective, Rows, Setup, Step};
use crate::model::BackboneConfig;
use crate::plugin::Plugins;
use crate::random::{Purpose, Scope, Stream};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor, no_grad};

/// Images of a batch.
pub(super) const IMAGES: usize = 6;

/// Classes of the data set.
pub(super) const CLASSES: usize = 3;

/// A method on a backbone of 64 features, from its `[method]` and `[plugins]` tables.
pub(super) fn build(method: &str, plugins: &str, views: usize) -> Box<dyn Method> {
    let config: Config = toml::from_str(method).unwrap();
    let plugins: Plugins = toml::from_str(plugins).unwrap();
    config.check(&plugins).unwrap();
    let backbone =
        toml::from_str("name = 'resnet18'\nwidth = 0.125\nstem = 'cifar'\nnorm_group = 6").unwrap();
    let mut setup = Setup {
        backbone: &backbone,
        plugins: &plugins,
        views,
        images: 4 * IMAGES,
        batch: IMAGES,
        classes: CLASSES,
        multi_label: false,
        teacher: None,
        seed: 5,
        device: Device::Cpu,
        kind: Kind::Double,
    };
    let teacher = teacher(&Setup { seed: 8, ..setup });
    setup.teacher = Some(&teacher);
    config.build(&setup).unwrap()
}

/// A teacher of random weights on another backbone, its layer behind the first of a projector.
pub(super) fn teacher(setup: &Setup<'_>) -> Teacher {
    let backbone = BackboneConfig { width: 0.25, ..setup.backbone.clone() };
    let text = "name = 'classifier'\ntap = 'g1'\nprojector = { layers = 2, hidden = 9 }";
    let config: Config = toml::from_str(text).unwrap();
    let method = config.build(&Setup { backbone: &backbone, ..*setup }).unwrap();
    let Config::Classifier(classifier) = config else { unreachable!() };
    Teacher {
        tensors: tensors(method.as_ref()),
        backbone,
        classifier,
        classes: CLASSES,
        several_classes: false,
    }
}

/// What is wrong with these tables.
pub(super) fn refused(method: &str, plugins: &str) -> String {
    let config: Config = toml::from_str(method).unwrap();
    let plugins: Plugins = toml::from_str(plugins).unwrap();
    config.check(&plugins).unwrap_err().to_string()
}

/// The step of this index, ten to an epoch.
pub(super) fn step(index: u64) -> Step<'static> {
    Step {
        index,
        steps: 100,
        steps_per_epoch: 10,
        seed: 0,
        indices: &[0, 1, 2, 3, 4, 5],
        labels: None,
        ranks: 1,
        tile_rows: 4,
    }
}

/// Standard normal features of `views` views, views of an image alike.
pub(super) fn rows(views: i64, seed: u64) -> Rows {
    let images = IMAGES as i64;
    let mut stream = Stream::open(seed, Purpose::Test, Scope::Item(0));
    let mut normal = |shape: &[i64]| {
        let values: Vec<f64> = (0..shape.iter().product()).map(|_: i64| stream.normal()).collect();
        Tensor::from_slice(&values).view(shape)
    };
    let online = normal(&[1, images, 64]) + normal(&[views, images, 64]) * 0.5;
    Rows { online, targets: None }
}

/// The objective of these rows at a step, all gradients anew.
pub(super) fn objective(method: &dyn Method, rows: &Rows, index: u64) -> Objective {
    method.parameters().zero_grad();
    method.objective(rows, &step(index)).unwrap()
}

/// A tensor by its name.
pub(super) fn named(method: &dyn Method, name: &str) -> Tensor {
    let found = method.parameters().all().iter().find(|p| p.name == name);
    found.unwrap_or_else(|| panic!("no tensor {name}")).tensor.shallow_clone()
}

/// Every tensor by its name, copied.
pub(super) fn tensors(method: &dyn Method) -> BTreeMap<String, Tensor> {
    method.parameters().all().iter().map(|p| (p.name.clone(), p.tensor.copy())).collect()
}

/// A projector of `layers` layers, written out: linear layers, each but the last with a batch norm and a `ReLU` behind it.
pub(super) fn projector(method: &dyn Method, layers: usize, h: &Tensor) -> Tensor {
    let all = method.parameters().all();
    let mut x = h.shallow_clone();
    for layer in 0..layers {
        let tensor = |name: &str| {
            let name = format!("projector.layers.{layer}.{name}");
            all.iter().find(|p| p.name == name).map(|p| p.tensor.shallow_clone())
        };
        x = x.matmul(&tensor("linear.weight").unwrap().tr());
        if let Some(bias) = tensor("linear.bias") {
            x += bias;
        }
        if layer + 1 < layers {
            let centred = &x - x.mean_dim(0, true, None);
            let variance = centred.square().mean_dim(0, true, None);
            let normalized = centred / (variance + 1e-5).sqrt();
            x = normalized * tensor("norm.weight").unwrap() + tensor("norm.bias").unwrap();
            x = x.clamp_min(0.0);
        }
    }
    x
}

/// Holds every tensor's gradient to the slopes of `loss`, by central differences at some of its elements.
pub(super) fn hold_slopes(tensors: &[(&str, Tensor, Tensor)], loss: impl Fn() -> f64) {
    const STEP: f64 = 1e-5;
    for (name, tensor, gradient) in tensors {
        assert!(gradient.defined() && gradient.abs().max().double_value(&[]) > 1e-6, "{name}");
        let (flat, gradient) = (tensor.detach().view(-1), gradient.contiguous().view(-1));
        let count = flat.size()[0];
        for element in (0..count).step_by((count / 11).max(1) as usize) {
            let moved = |by: f64| {
                let place = flat.narrow(0, element, 1);
                let before = place.copy();
                no_grad(|| place.shallow_clone().copy_(&(&before + by)));
                let value = loss();
                no_grad(|| place.shallow_clone().copy_(&before));
                value
            };
            let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            let found = gradient.double_value(&[element]);
            assert!(
                (slope - found).abs() < 1e-6 * (1.0 + slope.abs()),
                "{name}[{element}]: {found}, not {slope}"
            );
        }
    }
}

/// The trained tensors of the heads with their gradients.
pub(super) fn head_gradients(method: &dyn Method) -> Vec<(&str, Tensor, Tensor)> {
    let heads = method.parameters().trainable().filter(|p| !p.name.starts_with("backbone."));
    heads.map(|p| (p.name.as_str(), p.tensor.shallow_clone(), p.tensor.grad().copy())).collect()
}

/// Largest difference of two tensors of one shape.
pub(super) fn distance(left: &Tensor, right: &Tensor) -> f64 {
    assert_eq!(left.size(), right.size());
    (left - right).abs().max().double_value(&[])
}
