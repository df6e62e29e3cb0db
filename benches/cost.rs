//! What a method costs beside its passes: `cargo bench --bench cost -- [--quick] [WORD...]`.
//!
//! A step (gradient, optimizer, and what moves after it: momentum network, queue, bank) of a recipe as it is, at the width
//! and the batch given below, against the forward passes of its backbones and the backward pass alone, with the same
//! optimizer. Heads, loss and plug-ins are in the first only, so the ratio is of everything that is not the backbone.
//! Both are timed in turns on the same network and the same bytes; a line gives the medians and the median of the ratios.

use diptych::augment::{HostBatch, Pipeline, Views as _, normalize};
use diptych::data::Labels;
use diptych::method::{Method, Setup, Step};
use diptych::model::Statistics;
use diptych::random::{Purpose, Scope, Stream};
use diptych::recipe::Recipe;
use diptych::train::Precision;
use diptych::train::optim::Optimizer;
use diptych::train::step::{self, Layout, ViewInput};
use diptych::train::stop::Stop;
use std::env;
use std::time::Instant;
use tch::{Device, Kind, Tensor, no_grad};

/// Images of the data set that a memory bank is made for.
const IMAGES: usize = 50_000;
const CLASSES: usize = 10;

/// Recipes, and what is added to them.
const CASES: &[(&str, &str, &[&str])] = &[
    ("simclr", "cifar10/simclr", &[]),
    ("simclr, DCL", "cifar10/dcl", &[]),
    ("simclr + ft", "cifar10/simclr", &["plugins.feature_transformation={}"]),
    ("simclr + cld", "cifar10/simclr", &["plugins.cross_level.groups=64"]),
    ("simclr, triplet semi-hard", "cifar10/simclr-triplet-sh", &[]),
    ("simclr, sliced Wasserstein", "cifar10/simclr-swd-sphere", &[]),
    ("supcon", "cifar10/supcon", &[]),
    ("moco v1", "cifar10/moco", &[]),
    ("moco v2", "cifar10/mocov2", &[]),
    ("moco v2 + ft", "cifar10/mocov2", &["plugins.feature_transformation={}"]),
    ("moco v2 + cld", "cifar10/mocov2", &["plugins.cross_level.groups=64"]),
    ("npid", "cifar10/npid", &[]),
    ("npid, NCE", "cifar10/npid", &["method.objective=\"nce\"", "method.negatives=4096"]),
    ("npid + cld", "cifar10/npid", &["plugins.cross_level.groups=64", "view.0.count=2"]),
    ("infomin", "scenes/infomin", &["backbone.stem=cifar"]),
    ("simsiam", "cifar10/simsiam", &[]),
    ("simsiam + gsg", "cifar10/simsiam", &["plugins.guided_stop_gradient={}", "view.0.count=4"]),
    ("byol", "cifar10/byol", &[]),
    ("byol + gsg", "cifar10/byol-gsg", &[]),
    ("swav", "cifar10/swav", &[]),
    ("barlow", "cifar10/barlow", &[]),
    ("vicreg", "cifar10/vicreg", &[]),
];

fn main() {
    let words: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    let quick = words.iter().any(|word| word == "--quick");
    let words: Vec<&String> = words.iter().filter(|word| *word != "--quick").collect();
    let (width, batch, rounds) = if quick { ("0.125", 16, 1) } else { ("1.0", 128, 3) };
    println!(
        "ResNet-18 at width {width}, batch {batch}, {rounds} rounds in turns, {} threads\n",
        tch::get_num_threads()
    );
    println!("| | step s | passes alone s | ratio |\n|---|---|---|---|");
    for (name, recipe, changes) in CASES {
        if !words.is_empty() && !words.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let common = [
            format!("backbone.width={width}"),
            format!("data.batch_size={batch}"),
            "data.micro_batch_size=0".to_owned(),
            "backbone.norm_group=0".to_owned(),
        ];
        let all: Vec<String> =
            changes.iter().map(|change| (*change).to_owned()).chain(common).collect();
        let mut recipe = Recipe::load(recipe, &all).expect("a built-in recipe");
        recipe.resolve().expect("a recipe that fits the machine");
        let mut case = Case::new(&recipe);
        let _ = (case.step(), case.passes());
        let times: Vec<[f64; 2]> = (0..rounds).map(|_| [case.step(), case.passes()]).collect();
        let middle = |of: &dyn Fn(&[f64; 2]) -> f64| median(times.iter().map(of).collect());
        println!(
            "| {name} | {:.3} | {:.3} | {:.3} |",
            middle(&|pair| pair[0]),
            middle(&|pair| pair[1]),
            middle(&|pair| pair[0] / pair[1])
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A method with its optimizer, and the batch it learns from.
struct Case {
    method: Box<dyn Method>,
    optimizer: Optimizer,
    batch: HostBatch,
    labels: Labels,
    layout: Layout,
    steps: u64,
}

impl Case {
    fn new(recipe: &Recipe) -> Self {
        let pipeline = Pipeline::new(&recipe.view).expect("views");
        let input = |view| {
            let (mean, std) = pipeline.normalization(view);
            ViewInput { size_px: pipeline.size_px(view), mean, std }
        };
        let size = recipe.data.batch_size;
        let layout = Layout {
            views: (0..pipeline.views()).map(input).collect(),
            batch: size,
            micro_batch: size,
            group: size,
            tile_rows: recipe.train.tile_rows,
            device: Device::Cpu,
            precision: Precision::Float32,
        };
        let setup = Setup {
            backbone: &recipe.backbone,
            plugins: &recipe.plugins,
            views: recipe.views(),
            images: IMAGES,
            batch: size,
            classes: CLASSES,
            multi_label: false,
            teacher: None,
            seed: 0,
            device: Device::Cpu,
            kind: Kind::Float,
        };
        let method = recipe.method.build(&setup).expect("a method");
        let optimizer = Optimizer::new(recipe.train.optimizer.clone(), method.parameters());
        let mut noise = Stream::open(0, Purpose::Test, Scope::Item(0));
        let views = layout.views.iter().map(|view| {
            (0..size * 3 * view.size_px.pow(2)).map(|_| noise.below(256) as u8).collect()
        });
        let batch = HostBatch {
            step: 0,
            epoch: 0,
            views: views.collect(),
            indices: (0..size).collect(),
            constants: Vec::new(),
            damaged: Vec::new(),
        };
        let labels = Labels::One((0..IMAGES).map(|image| (image % CLASSES) as u32).collect());
        Self { method, optimizer, batch, labels, layout, steps: 0 }
    }

    /// Seconds of a whole step.
    fn step(&mut self) -> f64 {
        let at = Step {
            index: self.steps,
            steps: 100,
            steps_per_epoch: 10,
            seed: 0,
            indices: &self.batch.indices,
            labels: Some(&self.labels),
            ranks: 1,
            tile_rows: self.layout.tile_rows,
        };
        let (started, method) = (Instant::now(), self.method.as_ref());
        let found = step::gradient(method, &self.batch, &self.layout, &at, &Stop::new(), None);
        let found = found.expect("a step").expect("that nobody stopped");
        method.before_update(&at);
        self.optimizer.step(1e-6);
        method.after_step(&found.objective.carried, &at);
        self.steps += 1;
        started.elapsed().as_secs_f64()
    }

    /// Seconds of the backbones' passes over the same views, with a gradient that costs nothing, and of the optimizer.
    fn passes(&mut self) -> f64 {
        let started = Instant::now();
        let (method, size) = (self.method.as_ref(), self.layout.batch);
        method.parameters().zero_grad();
        let images = |views: &[usize]| -> Vec<Tensor> {
            let one = |view: &usize| {
                let ViewInput { size_px, mean, std } = self.layout.views[*view];
                let bytes = self.batch.bytes(*view, size_px, 0, size, Device::Cpu).expect("bytes");
                normalize(&bytes, mean, std, Kind::Float)
            };
            views.iter().map(one).collect()
        };
        let moving = Statistics::Move { seen: 0, of: 1 };
        if !method.wiring().targets.is_empty() {
            let _ = no_grad(|| method.targets(&images(&method.wiring().targets), 1, moving));
        }
        let rows = method.embed(&images(&method.wiring().online), 1, moving);
        let gradient = rows.ones_like().detach() * 1e-3;
        (rows * gradient).sum(None).backward();
        self.optimizer.step(1e-6);
        started.elapsed().as_secs_f64()
    }
}
