//! The step: gradients do not depend on how a batch is cut.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use diptych::augment::HostBatch;
use diptych::method::{Config, Method, Setup, Step, simclr};
use diptych::model::heads::{HeadConfig, HeadInitialization};
use diptych::model::resnet::BlockGroup;
use diptych::model::{BackboneConfig, Phase, Role, Statistics};
use diptych::plugin::Plugins;
use diptych::random::{Purpose, Scope, Stream};
use diptych::train::Precision;
use diptych::train::step::{self, Layout, Outcome, ViewInput};
use diptych::train::stop::Stop;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

const BATCH: usize = 32;
const SIDE: usize = 16;

fn method(kind: Kind) -> Box<dyn Method> {
    method_of(kind, 3)
}

fn method_of(kind: Kind, input_channels: i64) -> Box<dyn Method> {
    let backbone: BackboneConfig =
        toml::from_str("name = \"resnet18\"\nwidth = 0.125\nstem = \"cifar\"").unwrap();
    let backbone = BackboneConfig { input_channels, ..backbone };
    let projector =
        HeadConfig { initialization: HeadInitialization::PyTorch, ..HeadConfig::default() };
    let config = Config::SimClr(simclr::Config { projector, ..simclr::Config::default() });
    let setup = Setup {
        backbone: &backbone,
        plugins: &Plugins::default(),
        views: 2,
        images: BATCH,
        batch: BATCH,
        classes: 0,
        multi_label: false,
        teacher: None,
        seed: 3,
        device: Device::Cpu,
        kind,
    };
    config.build(&setup).unwrap()
}

/// The gradient of the first step.
fn gradient(
    method: &dyn Method,
    batch: &HostBatch,
    layout: &Layout,
    stop: &Stop,
) -> Option<Outcome> {
    let step = Step {
        index: 0,
        steps: 1,
        steps_per_epoch: 1,
        seed: 0,
        indices: &batch.indices,
        labels: None,
        ranks: (layout.batch / layout.group) as i64,
        tile_rows: layout.tile_rows,
    };
    step::gradient(method, batch, layout, &step, stop, None).unwrap()
}

fn batch() -> HostBatch {
    let mut stream = Stream::open(1, Purpose::Test, Scope::Item(0));
    let mut view = || (0..BATCH * SIDE * SIDE * 3).map(|_| stream.below(256) as u8).collect();
    let views = vec![view(), view()];
    HostBatch {
        step: 0,
        epoch: 0,
        indices: (0..BATCH).collect(),
        views,
        constants: Vec::new(),
        damaged: Vec::new(),
    }
}

fn layout(micro_batch: usize, group: usize, precision: Precision) -> Layout {
    let view = ViewInput { size_px: SIDE, mean: [0.5; 3], std: [0.25; 3] };
    Layout {
        views: vec![view; 2],
        batch: BATCH,
        micro_batch,
        group,
        tile_rows: 24,
        device: Device::Cpu,
        precision,
    }
}

/// Gradients and buffers after a step.
fn after_step(layout: &Layout) -> (f64, BTreeMap<String, Tensor>) {
    after_step_on(&batch(), layout)
}

fn after_step_on(batch: &HostBatch, layout: &Layout) -> (f64, BTreeMap<String, Tensor>) {
    let method = method(layout.precision.parameters());
    let outcome = gradient(method.as_ref(), batch, layout, &Stop::new()).unwrap();
    let values = method.parameters().all().iter().map(|parameter| {
        let buffer = parameter.role == Role::Buffer;
        let value = if buffer { parameter.tensor.copy() } else { parameter.tensor.grad().copy() };
        (parameter.name.clone(), value)
    });
    (outcome.objective.loss, values.collect())
}

/// The largest difference of two sets of tensors, each relative to the norm of the reference.
fn difference(reference: &BTreeMap<String, Tensor>, other: &BTreeMap<String, Tensor>) -> f64 {
    assert!(reference.keys().eq(other.keys()));
    let norm = |tensor: &Tensor| tensor.to_kind(Kind::Double).norm().double_value(&[]);
    // A gradient that is zero in theory (a shift before a batch norm) is rounding alone: measured against the whole.
    let whole = reference.values().map(|t| norm(t).powi(2)).sum::<f64>().sqrt();
    reference
        .iter()
        .map(|(name, tensor)| {
            norm(&(tensor.to_kind(Kind::Double) - other[name].to_kind(Kind::Double)))
                / norm(tensor).max(1e-3 * whole)
        })
        .fold(0.0, f64::max)
}

/// Constant channels go with their images however the batch is cut, and the network learns from them.
#[test]
fn constant_channels_reach_the_network_whatever_the_micro_batch() {
    let mut stream = Stream::open(2, Purpose::Test, Scope::Item(0));
    let constants: Vec<u8> = (0..2 * BATCH).map(|_| 255 * (stream.below(2) as u8)).collect();
    let first = |constants: &[u8], micro| {
        let batch = HostBatch { constants: constants.to_vec(), ..batch() };
        let method = method_of(Kind::Double, 5);
        let layout = layout(micro, 8, Precision::Float64);
        gradient(method.as_ref(), &batch, &layout, &Stop::new()).unwrap();
        let all = method.parameters().all();
        let weight = all.iter().find(|it| it.name == "backbone.conv1.weight").unwrap();
        assert_eq!(weight.tensor.size()[1], 5);
        weight.tensor.grad().copy()
    };
    let whole = first(&constants, BATCH);
    let channel = |gradient: &Tensor, channel| gradient.narrow(1, channel, 1).abs().max();
    assert!((3..5).all(|it| channel(&whole, it).double_value(&[]) > 1e-6));
    for micro in [8, 16] {
        let off = (first(&constants, micro) - &whole).abs().max() / whole.abs().max();
        assert!(off.double_value(&[]) < 1e-9, "{micro}: {off}");
    }
    // Those of the next image give another gradient.
    let mut moved = constants.clone();
    moved.rotate_left(2);
    assert!((first(&moved, BATCH) - &whole).abs().max().double_value(&[]) > 1e-6);
}

#[test]
fn bfloat16_stays_near_single_precision_and_what_lasts_is_single() {
    // Images that differ, so that their rows do: noise has them all alike, and rounding would be most of what is left.
    let mut stream = Stream::open(1, Purpose::Test, Scope::Item(1));
    let mut views = vec![Vec::new(), Vec::new()];
    for _ in 0..BATCH {
        let colour: Vec<u64> = (0..3).map(|_| stream.below(200)).collect();
        for view in &mut views {
            view.extend((0..SIDE * SIDE * 3).map(|i| (colour[i % 3] + stream.below(56)) as u8));
        }
    }
    let images = HostBatch { views, ..batch() };
    let after = |precision| after_step_on(&images, &layout(BATCH, 16, precision));
    let ((loss, single), (half_loss, half)) =
        (after(Precision::Float32), after(Precision::BFloat16));
    assert!((half_loss / loss - 1.0).abs() < 0.01, "{half_loss} {loss}");
    assert!(half.values().all(|tensor| tensor.kind() == Kind::Float));
    // A bfloat16 has 8 bits: each of some forty maps and their gradients is rounded by up to 0.4 %;
    // PyTorch's autocast differs by 0.35 on such a network and batch.
    let all = |tensors: &BTreeMap<String, Tensor>| {
        Tensor::cat(&tensors.values().map(|t| t.flatten(0, -1)).collect::<Vec<_>>(), 0)
    };
    let off = (all(&half) - all(&single)).norm() / all(&single).norm();
    let off = off.double_value(&[]);
    assert!((1e-3..0.35).contains(&off), "{off}");

    let method = method(Kind::Float);
    let images = Tensor::zeros([4, 3, 16, 16], (Kind::BFloat16, Device::Cpu));
    let maps =
        method.backbone().forward_features(&images, &[BlockGroup::Group2], Phase::Evaluation);
    assert_eq!(maps[0].kind(), Kind::BFloat16);
    assert_eq!(method.backbone().forward(&images, Phase::Evaluation).kind(), Kind::Float);
}

#[test]
fn the_micro_batch_leaves_gradients_and_statistics_alone() {
    for (precision, tolerance) in [(Precision::Float64, 1e-12), (Precision::Float32, 1e-5)] {
        let (loss, whole) = after_step(&layout(BATCH, 8, precision));
        for micro in [8, 16] {
            let (cut_loss, cut) = after_step(&layout(micro, 8, precision));
            assert!((loss - cut_loss).abs() < tolerance * loss, "{loss} {cut_loss}");
            let found = difference(&whole, &cut);
            assert!(found < tolerance, "micro-batch {micro} in {precision:?}: {found:e}");
        }
        // Without a cut the objective's rows are the same ones, so this only holds if the test sees differences.
        let (_, other_group) = after_step(&layout(BATCH, 16, precision));
        assert!(difference(&whole, &other_group) > 1e-3);
    }
}

/// The textbook form: one graph through network, head and a dense similarity matrix.
#[test]
fn the_gradient_is_that_of_the_dense_form() {
    let layout = layout(16, 16, Precision::Float64);
    let (loss, found) = after_step(&layout);
    let method = method(Kind::Double);
    let image = |view: &[u8]| {
        let shape = [BATCH as i64, SIDE as i64, SIDE as i64, 3];
        let pixels = Tensor::from_slice(view).view(shape).permute([0, 3, 1, 2]);
        (pixels.to_kind(Kind::Double) / 255.0 - 0.5) / 0.25
    };
    let views: Vec<Tensor> = batch().views.iter().map(|view| image(view)).collect();
    let h = method.embed(&views, 2, Statistics::Move { seen: 0, of: 2 });
    let z = head(method.as_ref(), &h.flatten(0, 1));
    let unit = &z / z.square().sum_dim_intlist(1, true, None).sqrt();
    let n = BATCH as i64;
    let logits = unit.matmul(&unit.tr()) / 0.5;
    let own = Tensor::eye(2 * n, (Kind::Bool, Device::Cpu));
    let logits = logits.masked_fill(&own, f64::NEG_INFINITY);
    let index = Tensor::arange(2 * n, (Kind::Int64, Device::Cpu));
    let partner = (&index + n).remainder(2 * n);
    let dense = logits.log_softmax(-1, Kind::Double).nll_loss(&partner);
    let value = dense.double_value(&[]);
    assert!((value - loss).abs() < 1e-10, "{value} {loss}");
    dense.backward();
    let reference: BTreeMap<String, Tensor> = method
        .parameters()
        .trainable()
        .map(|parameter| (parameter.name.clone(), parameter.tensor.grad().copy()))
        .collect();
    let found = found.into_iter().filter(|(name, _)| reference.contains_key(name)).collect();
    let difference = difference(&reference, &found);
    assert!(difference < 1e-9, "{difference:e}");
}

/// SimCLR's two-layer projector from its named tensors, independent of the head's own code.
fn head(method: &dyn Method, h: &Tensor) -> Tensor {
    let tensor = |name: &str| {
        let all = method.parameters().all().iter();
        all.into_iter()
            .find(|p| p.name == format!("projector.{name}"))
            .map(|p| p.tensor.shallow_clone())
    };
    let normalised = |x: &Tensor, layer: usize| {
        let mean = x.mean_dim([0].as_slice(), true, None);
        let centred = x - mean;
        let variance = centred.square().mean_dim([0].as_slice(), true, None);
        let y = centred / (variance + 1e-5).sqrt()
            * tensor(&format!("layers.{layer}.norm.weight")).unwrap();
        tensor(&format!("layers.{layer}.norm.bias")).map_or(y.shallow_clone(), |bias| y + bias)
    };
    let a = h.matmul(&tensor("layers.0.linear.weight").unwrap().tr());
    let a = normalised(&a, 0).relu();
    normalised(&a.matmul(&tensor("layers.1.linear.weight").unwrap().tr()), 1)
}

#[test]
fn a_dropped_step_leaves_no_trace() {
    let method = method(Kind::Float);
    let buffers = || -> Vec<Tensor> {
        let all = method.parameters().all().iter().filter(|p| p.role == Role::Buffer);
        all.map(|p| p.tensor.copy()).collect()
    };
    let before = buffers();
    let stop = Stop::new();
    stop.ask();
    let layout = layout(8, 8, Precision::Float32);
    assert!(gradient(method.as_ref(), &batch(), &layout, &stop).is_none());
    assert_eq!(before, buffers());
    assert!(gradient(method.as_ref(), &batch(), &layout, &Stop::new()).is_some());
    assert_ne!(before, buffers());
    let images = Tensor::zeros([4, 3, 16, 16], (Kind::Float, Device::Cpu));
    assert_eq!(method.backbone().forward(&images, Phase::Evaluation).size(), [4, 64]);
}
