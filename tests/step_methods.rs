//! The step for methods other than SimCLR: small views beside large ones, views apart, and their heads. Gradients do not
//! depend on how a batch is cut.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use diptych::augment::HostBatch;
use diptych::method::{Config, Setup, Step};
use diptych::plugin::Plugins;
use diptych::random::{Purpose, Scope, Stream};
use diptych::train::Precision;
use diptych::train::step::{self, Layout, ViewInput};
use diptych::train::stop::Stop;
use tch::{Device, Kind, Tensor};

const BATCH: usize = 8;

/// Every gradient and buffer after a step in f64 on views of these sides, by name, and the loss.
fn after_step(method: &str, sides: &[usize], micro_batch: usize, group: usize) -> Found {
    let config: Config = toml::from_str(method).unwrap();
    let backbone = toml::from_str("name = 'resnet18'\nwidth = 0.125\nstem = 'cifar'").unwrap();
    let plugins = Plugins::default();
    let setup = Setup {
        backbone: &backbone,
        plugins: &plugins,
        views: sides.len(),
        images: BATCH,
        batch: BATCH,
        classes: 0,
        multi_label: false,
        teacher: None,
        seed: 3,
        device: Device::Cpu,
        kind: Kind::Double,
    };
    let method = config.build(&setup).unwrap();
    let mut stream = Stream::open(1, Purpose::Test, Scope::Item(0));
    let view =
        |side: &usize| (0..BATCH * side * side * 3).map(|_| stream.below(256) as u8).collect();
    let views = sides.iter().map(view).collect();
    let indices = (0..BATCH).collect();
    let batch =
        HostBatch { step: 0, epoch: 0, indices, views, constants: Vec::new(), damaged: Vec::new() };
    let input = |size_px| ViewInput { size_px, mean: [0.5; 3], std: [0.25; 3] };
    let layout = Layout {
        views: sides.iter().map(|side| input(*side)).collect(),
        batch: BATCH,
        micro_batch,
        group,
        tile_rows: 24,
        device: Device::Cpu,
        precision: Precision::Float64,
    };
    let step = Step {
        index: 0,
        steps: 1,
        steps_per_epoch: 1,
        seed: 0,
        indices: &batch.indices,
        labels: None,
        ranks: (BATCH / group) as i64,
        tile_rows: layout.tile_rows,
    };
    let stop = Stop::new();
    let outcome =
        step::gradient(method.as_ref(), &batch, &layout, &step, &stop, None).unwrap().unwrap();
    let all = method.parameters().all().iter().map(|parameter| {
        let gradient = parameter.tensor.grad();
        let value = if gradient.defined() { gradient } else { parameter.tensor.detach() };
        (parameter.name.clone(), value.copy())
    });
    Found { loss: outcome.objective.loss, tensors: all.collect() }
}

struct Found {
    loss: f64,
    tensors: Vec<(String, Tensor)>,
}

/// The largest difference of the tensors of two steps, each relative to its norm.
fn difference(reference: &Found, other: &Found) -> f64 {
    // A gradient that is zero in theory is rounding alone: measured against the whole.
    let norms = reference.tensors.iter().map(|(_, tensor)| tensor.norm().double_value(&[]));
    let whole = norms.map(|norm| norm * norm).sum::<f64>().sqrt();
    let pairs = reference.tensors.iter().zip(&other.tensors);
    pairs
        .map(|((name, left), (other, right))| {
            assert_eq!(name, other);
            let norm = left.norm().double_value(&[]).max(1e-3 * whole);
            (left - right).norm().double_value(&[]) / norm
        })
        .fold(0.0, f64::max)
}

const HEAD: &str =
    "hidden = 24, output = 12, output_batch_norm = 'none', initialization = 'pytorch'";

#[test]
fn the_micro_batch_leaves_gradients_and_statistics_alone() {
    let swav = format!(
        "name = 'swav'\nprototypes = 10\nfreeze_prototypes_steps = 0\nprojector = {{ {HEAD} }}"
    );
    let barlow = format!("name = 'barlow'\nprojector = {{ layers = 3, bias = false, {HEAD} }}");
    let vicreg = barlow.replace("barlow", "vicreg");
    let cases: [(&str, &[usize]); 3] =
        [(&swav, &[8, 8, 6, 6]), (&barlow, &[8, 8]), (&vicreg, &[8, 8])];
    for (method, sides) in cases {
        let whole = after_step(method, sides, BATCH, 2);
        let cut = after_step(method, sides, 4, 2);
        assert!((whole.loss / cut.loss - 1.0).abs() < 1e-12, "{method}");
        let found = difference(&whole, &cut);
        assert!(found < 1e-10, "{method}: {found:e}");
        // The test sees differences.
        assert!(difference(&whole, &after_step(method, sides, BATCH, 4)) > 1e-3, "{method}");
    }
}
