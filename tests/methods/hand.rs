//! What a step must come to, worked out from a method's named tensors and scalar loops.

use crate::made::{BATCH, CLASSES, at};
use diptych::method::{Config, Method, Objective, Rows, Setup};
use diptych::plugin::Plugins;
use diptych::random::{Purpose, Scope, Stream};
use std::collections::BTreeMap;
use tch::{Device, Tensor};

/// Images of the data set where a whole bank is worked out by hand.
pub(crate) const IMAGES: usize = 20;

/// Width of the features.
pub(crate) const FEATURES: i64 = 64;

/// Settings of heads that are two plain layers, or one.
pub(crate) const PLAIN: &[&str] = &[
    "projector.hidden=10",
    "projector.output=6",
    "projector.batch_norm=false",
    "projector.output_batch_norm=none",
    "projector.initialization=pytorch",
];
pub(crate) const PLAIN_PREDICTOR: &[&str] = &[
    "predictor.hidden=8",
    "predictor.output=6",
    "predictor.batch_norm=false",
    "predictor.output_batch_norm=none",
];

/// A method in f64, of which only the heads are used.
pub(crate) fn method(config: &Config, plugins: &Plugins, group: usize) -> Box<dyn Method> {
    config.check(plugins).unwrap();
    tch::set_num_threads(1);
    let backbone = crate::made::backbone(group);
    let setup = Setup {
        backbone: &backbone,
        plugins,
        views: config.settings().wiring(plugins, crate::made::views(config)).views(),
        images: IMAGES,
        batch: BATCH,
        classes: CLASSES,
        multi_label: false,
        teacher: None,
        seed: 5,
        device: Device::Cpu,
        kind: tch::Kind::Double,
    };
    config.build(&setup).unwrap()
}

/// Normal rows `[views, BATCH, FEATURES]`, those of an image alike in all views.
pub(crate) fn rows(item: u64, views: i64) -> Tensor {
    let normal = |item: u64, count: i64| {
        let mut stream = Stream::open(9, Purpose::Test, Scope::Item(item));
        let values: Vec<f64> = (0..count).map(|_| stream.normal()).collect();
        Tensor::from_slice(&values)
    };
    let images = BATCH as i64;
    let shared = normal(item, images * FEATURES).view([1, images, FEATURES]);
    let own = normal(item + 1_000, views * images * FEATURES).view([views, images, FEATURES]);
    shared + own * 0.5
}

/// The images of a step's batch.
pub(crate) fn images(step: u64) -> Vec<usize> {
    let mut stream = Stream::open(9, Purpose::Test, Scope::Item(5_000 + step));
    stream.permutation(IMAGES)[..BATCH].to_vec()
}

/// The objective of a step on these rows, for a batch in so many virtual ranks.
pub(crate) fn objective(
    method: &dyn Method,
    step: u64,
    online: &Tensor,
    targets: Option<&Tensor>,
    ranks: usize,
) -> Objective {
    let (images, labels) = (images(step), crate::made::labels());
    let rows = Rows { online: online.copy(), targets: targets.map(Tensor::copy) };
    method.objective(&rows, &at(step, &images, &labels, ranks)).unwrap()
}

/// What follows the optimizer at a step.
pub(crate) fn after(method: &dyn Method, step: u64, carried: &[Tensor], ranks: usize) {
    let (images, labels) = (images(step), crate::made::labels());
    method.after_step(carried, &at(step, &images, &labels, ranks));
}

/// Copies of the tensors of a method, by name.
pub(crate) struct Named(BTreeMap<String, Tensor>);

impl Named {
    pub(crate) fn of(method: &dyn Method) -> Self {
        let all = method.parameters().all().iter();
        Self(all.map(|p| (p.name.clone(), p.tensor.detach().copy())).collect())
    }

    pub(crate) fn get(&self, name: &str) -> &Tensor {
        &self.0[name]
    }

    /// Every tensor with its name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        self.0.iter()
    }

    /// What a plain head at this place makes of rows `[N, ·]`.
    pub(crate) fn head(&self, place: &str, rows: &Tensor) -> Tensor {
        let mut x = rows.shallow_clone();
        for layer in 0.. {
            let name = |tensor: &str| format!("{place}.layers.{layer}.linear.{tensor}");
            let Some(weight) = self.0.get(&name("weight")) else { break };
            let x_in = if layer == 0 { x } else { x.clamp_min(0.0) };
            x = x_in.matmul(&weight.tr());
            if let Some(bias) = self.0.get(&name("bias")) {
                x += bias;
            }
        }
        x
    }

    /// The same of unit length.
    pub(crate) fn unit_head(&self, place: &str, rows: &Tensor) -> Tensor {
        unit(&self.head(place, rows))
    }
}

pub(crate) fn unit(rows: &Tensor) -> Tensor {
    rows / rows.square().sum_dim_intlist(1, true, None).sqrt()
}

pub(crate) fn values(rows: &Tensor) -> Vec<Vec<f64>> {
    Vec::try_from(rows).unwrap()
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(crate) fn cosine(a: &[f64], b: &[f64]) -> f64 {
    dot(a, b) / dot(a, a).sqrt() / dot(b, b).sqrt()
}

/// MoCo's Eq. 1, image by image.
pub(crate) fn info_nce(q: &Tensor, k: &Tensor, queue: &Tensor, temperature: f64) -> f64 {
    let (q, k, queue) = (values(q), values(k), values(queue));
    let of = |(q, k): (&Vec<f64>, &Vec<f64>)| {
        let positive = dot(q, k) / temperature;
        let negatives: f64 = queue.iter().map(|n| (dot(q, n) / temperature).exp()).sum();
        (positive.exp() + negatives).ln() - positive
    };
    q.iter().zip(&k).map(of).sum::<f64>() / q.len() as f64
}

#[track_caller]
pub(crate) fn equal(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-10, "found {found}, expected {expected}");
}

#[track_caller]
pub(crate) fn equal_rows(found: &Tensor, expected: &Tensor) {
    assert_eq!(found.size(), expected.size());
    let off = (found - expected).abs().max().double_value(&[]);
    assert!(off < 1e-12, "differ by {off:e}");
}
