use super::summary::kind;
use super::*;
use crate::augment::HostBatch;
use crate::method::{Config, Setup, Step, simclr};
use crate::model::resnet::MultiplyAdds;
use crate::plugin::Plugins;
use crate::train::optim::{Optimizer, OptimizerConfig};
use crate::train::step::{ViewInput, gradient};
use crate::train::stop::Stop;
use tch::Kind;

const BATCH: usize = 8;
const SIDE: usize = 16;

fn backbone() -> BackboneConfig {
    toml::from_str("name = \"resnet18\"\nwidth = 0.125\nstem = \"cifar\"").unwrap()
}

fn layout(micro_batch: usize) -> Layout {
    let view = ViewInput { size_px: SIDE, mean: [0.5; 3], std: [0.25; 3] };
    Layout {
        views: vec![view; 2],
        batch: BATCH,
        micro_batch,
        group: micro_batch,
        tile_rows: 8,
        device: Device::Cpu,
        precision: crate::train::Precision::Float32,
    }
}

fn trained() -> Trained {
    let method = Config::SimClr(simclr::Config::default());
    let setup = Setup {
        backbone: &backbone(),
        plugins: &Plugins::default(),
        views: 2,
        images: BATCH,
        batch: BATCH,
        classes: 0,
        multi_label: false,
        teacher: None,
        seed: 0,
        device: Device::Cpu,
        kind: Kind::Float,
    };
    let method = method.build(&setup).unwrap();
    let sgd = "name = \"sgd\"\nlearning_rate = 0.1\nweight_decay = 0.0";
    let optimizer: OptimizerConfig = toml::from_str(sgd).unwrap();
    let optimizer = Optimizer::new(optimizer, method.parameters());
    Trained { method, optimizer, probe: None }
}

fn step(trained: &mut Trained, profile: &Profile, layout: &Layout) {
    profile.enter(Stage::Views);
    let view: Vec<u8> = (0..BATCH * SIDE * SIDE * 3).map(|i| (i * i % 251) as u8).collect();
    let indices = (0..BATCH).collect();
    let views = vec![view.clone(), view];
    let batch =
        HostBatch { step: 0, epoch: 0, indices, views, constants: Vec::new(), damaged: Vec::new() };
    let method = trained.method.as_ref();
    let at = Step {
        index: 0,
        steps: 1,
        steps_per_epoch: 1,
        seed: 0,
        indices: &batch.indices,
        labels: None,
        ranks: 1,
        tile_rows: layout.tile_rows,
    };
    gradient(method, &batch, layout, &at, &Stop::new(), Some(profile)).unwrap().unwrap();
    profile.enter(Stage::Optimizer);
    trained.optimizer.step(0.1);
    profile.enter(Stage::Metrics);
    profile.end_step(trained, true);
}

/// Of a step whose network sees both views.
fn work(layout: &Layout) -> f64 {
    flops_per_step(&backbone(), Frozen::Nothing, &Wiring::online(2), layout)
}

/// Sum of a number of every row.
fn sum(rows: &[TimeRow], value: impl Fn(&TimeRow) -> f64) -> f64 {
    rows.iter().map(value).sum()
}

#[test]
fn rows_add_up_and_count_what_a_network_does() {
    let layout = layout(BATCH);
    let started = Instant::now();
    let profile = Profile::new(&layout, work(&layout));
    let mut trained = trained();
    for _ in 0..WARM_UP {
        step(&mut trained, &profile, &layout);
        assert_eq!(profile.summary(), None, "the warm-up is not counted");
    }
    let warm = Instant::now();
    for _ in 0..2 {
        step(&mut trained, &profile, &layout);
    }
    let counted = warm.elapsed().as_secs_f64();
    let summary = profile.summary().unwrap();
    assert_eq!((summary.steps, summary.device.as_str()), (2, "cpu"));
    // Nothing is lost and nothing counted twice.
    let (least, most) = (counted, started.elapsed().as_secs_f64());
    assert!(summary.seconds >= least && summary.seconds < most, "{summary:?}");
    assert!((sum(&summary.time, |row| row.seconds) / summary.seconds - 1.0).abs() < 1e-9);
    assert!((sum(&summary.time, |row| row.share) - 1.0).abs() < 1e-9);
    assert!(summary.time.iter().all(|row| row.seconds >= 0.0), "{summary:?}");
    assert!(summary.time.is_sorted_by(|a, b| a.seconds >= b.seconds));
    let rate = 2.0 * 2.0 * BATCH as f64 / summary.seconds;
    assert!((summary.views_per_second / rate - 1.0).abs() < 1e-9);
    // ResNet-18 has twenty convolutions, each once forward and once backward, and eight sums.
    let time = |what: &str| summary.time.iter().find(|row| row.what == what).unwrap();
    for (what, calls) in [("convolution", 40), ("residual addition", 16), ("waiting for views", 1)]
    {
        assert_eq!(time(what).calls, 2 * calls, "{what}: {summary:?}");
    }
    let convolution = time("convolution");
    assert!(convolution.forward > 0.0 && convolution.backward > 0.0 && convolution.loss == 0.0);
    assert!(time("linear").loss > 0.0 && time("linear").forward == 0.0);
    assert!(time("batch norm").loss > 0.0, "that of the head");

    let held = |what: &str| {
        let row = summary.memory.iter().find(|row| row.what == what);
        row.unwrap_or_else(|| panic!("no {what}: {summary:#?}")).bytes
    };
    assert_eq!(summary.memory.iter().map(|row| row.bytes).sum::<u64>(), summary.peak_tensor_bytes);
    let parameters = trained.method.parameters();
    let trainable: usize = parameters.trainable().map(|p| p.tensor.numel()).sum();
    let all: usize = parameters.all().iter().map(|p| p.tensor.numel()).sum();
    assert_eq!(held("parameters"), 4 * all as u64);
    assert_eq!(held("gradients"), 4 * trainable as u64);
    assert_eq!(held("optimizer state"), 4 * trainable as u64);
    // Five maps of each size out of a convolution, with 8, 16, 32 and 64 channels.
    let views = 2 * BATCH as u64;
    let maps = 5 * (8 * 16 * 16 + 16 * 8 * 8 + 32 * 4 * 4 + 64 * 2 * 2);
    // The backward pass may be past the last at the peak, when it holds the gradient of that kernel.
    let last = 64 * 2 * 2;
    let scalars = held("convolution outputs") / (4 * views);
    assert!(scalars == maps || scalars == maps - last, "{scalars} of {maps}");
    // All of them go on through a batch norm; the three projections are added and gone.
    let projections = 16 * 8 * 8 + 32 * 4 * 4 + 64 * 2 * 2;
    let ratio = held("batch norm outputs") as f64 / (4 * views * (maps - projections)) as f64;
    assert!((0.97..1.05).contains(&ratio), "{ratio}");
}

#[test]
fn without_operators_the_stages_are_told() {
    let layout = layout(BATCH);
    let profile = Profile { recorder: None, ..Profile::new(&layout, work(&layout)) };
    let mut trained = trained();
    for _ in 0..=WARM_UP {
        step(&mut trained, &profile, &layout);
    }
    let summary = profile.summary().unwrap();
    assert!((sum(&summary.time, |row| row.seconds) / summary.seconds - 1.0).abs() < 1e-9);
    for what in ["forward", "loss", "backward"] {
        let row = summary.time.iter().find(|row| row.what == what).unwrap();
        assert!(row.seconds > 0.0 && row.calls == 1, "{row:?}");
    }
    assert_eq!((summary.memory, summary.peak_tensor_bytes), (Vec::new(), 0));
}

#[test]
fn operators_fall_into_the_groups_that_people_ask_for() {
    for (operator, expected) in [
        ("aten::mkldnn_convolution", "convolution"),
        ("ConvolutionBackward0 > aten::convolution_backward", "convolution"),
        ("autograd::engine::evaluate_function: ConvolutionBackward0", "convolution"),
        ("aten::native_batch_norm", "batch norm"),
        ("NativeBatchNormBackward0", "batch norm"),
        ("aten::clamp_min_", "ReLU"),
        ("ReluBackward0 > aten::threshold_backward", "ReLU"),
        ("aten::add_", "residual addition"),
        ("AddBackward0", "residual addition"),
        ("torch::autograd::AccumulateGrad > aten::add_", "adding up gradients"),
        (
            "autograd::engine::evaluate_function: torch::autograd::AccumulateGrad",
            "adding up gradients",
        ),
        ("aten::addmm_", "linear"),
        ("MmBackward0 > aten::mm", "linear"),
        ("aten::max_pool2d_with_indices", "pooling and mean"),
        ("MeanBackward1 > aten::div", "pooling and mean"),
        ("ConvolutionBackward0 > aten::copy_", "layout and copies"),
        ("TBackward0 > aten::t", "layout and copies"),
        ("UnsafeViewBackward0", "layout and copies"),
        ("aten::logsumexp", "other"),
        ("aten::sum", "other"),
        ("", "other"),
    ] {
        assert_eq!(kind(operator), expected, "{operator}");
    }
}

#[test]
fn the_work_of_a_step_is_counted_with_its_backward_pass() {
    let MultiplyAdds { forward: all, inputs, .. } =
        backbone().multiply_adds(SIDE as i64, Frozen::Nothing);
    let views = 2 * BATCH as u64;
    // Forward, then the gradient of every kernel, and of every input but the images.
    let whole = 2 * views * (all + all + inputs);
    assert_eq!(work(&layout(BATCH)) as u64, whole);
    assert_eq!(work(&layout(BATCH / 2)) as u64, whole + 2 * views * all, "a second forward pass");
    // A momentum network sees the second view once, whatever the micro-batch.
    let moco = Wiring { online: vec![0], targets: vec![1] };
    let of = |layout| flops_per_step(&backbone(), Frozen::Nothing, &moco, &layout) as u64;
    assert_eq!(of(layout(BATCH)), BATCH as u64 * 2 * (3 * all + inputs));
    assert_eq!(of(layout(BATCH / 2)), BATCH as u64 * 2 * (4 * all + inputs));
    let alone = Wiring { online: vec![], targets: vec![0] };
    let frozen = flops_per_step(&backbone(), Frozen::All, &alone, &layout(BATCH));
    assert_eq!(frozen as u64, BATCH as u64 * 2 * all);
}
