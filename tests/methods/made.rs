//! Small methods, their plug-ins, and batches of made images.

use diptych::augment::HostBatch;
use diptych::data::Labels;
use diptych::method::distill::Teacher;
use diptych::method::{Config, Method, NAMES, Setup, Step};
use diptych::model::BackboneConfig;
use diptych::overrides;
use diptych::plugin::Plugins;
use diptych::random::{Purpose, Scope, Stream};
use diptych::train::Trained;
use diptych::train::optim::{Optimizer, OptimizerConfig};
use diptych::train::step::{self, Layout, Outcome, ViewInput};
use diptych::train::stop::Stop;
use diptych::train::{Precision, checkpoint};
use std::collections::BTreeMap;
use std::ops::Range;
use tch::{Device, Tensor};

/// Images of the data set, of a batch, and of a virtual rank.
pub(crate) const IMAGES: usize = 40;
pub(crate) const BATCH: usize = 16;
pub(crate) const GROUP: usize = 4;
/// Classes of the data set.
pub(crate) const CLASSES: usize = 5;
/// Steps of the run and of an epoch.
pub(crate) const STEPS: u64 = 8;
pub(crate) const EPOCH: u64 = 2;
/// Side of a view.
pub(crate) const SIDE: usize = 16;

const HEAD: &[&str] = &["projector.hidden=24", "projector.output=12"];
const HEADS: &[&str] =
    &["projector.hidden=24", "projector.output=12", "predictor.hidden=20", "predictor.output=12"];

/// Settings that make a method small, added to those of its row: one row at least for every method. The first is walked
/// with every set of plug-ins that goes with the method, the others alone and with cross-level discrimination.
const SMALL: &[(&str, &[&str], &[&str])] = &[
    ("barlow", HEAD, &[]),
    ("byol", HEADS, &["momentum=0.9"]),
    ("byol", HEADS, &["momentum=0.9", "target_start=own", "scale=cosine_half"]),
    ("classifier", &["projector.hidden=24"], &[]),
    ("classifier", &["projector.hidden=24"], &["tap=g1"]),
    ("classifier", &["projector.hidden=24"], &["tap=g1", "frozen=true"]),
    ("classifier", &["projector.hidden=24"], &["frozen=group2"]),
    ("distill", &[], &["temperature=2.0"]),
    ("distill", &[], &["alpha=0.5"]),
    ("infomin", HEAD, &["queue_length=24", "momentum=0.9"]),
    ("infomin", HEAD, &["queue_length=24", "momentum=0.9", "jigsaw_weight=0.0"]),
    ("moco", HEAD, &["queue_length=24", "momentum=0.9"]),
    ("moco", HEAD, &["queue_length=24", "momentum=0.9", "symmetric=sum"]),
    ("moco", HEAD, &["queue_length=24", "momentum=0.9", "symmetric=mean"]),
    ("moco", HEAD, &["queue_length=24", "momentum=0.9", "split_queue=true"]),
    ("npid", HEAD, &[]),
    ("npid", HEAD, &["objective=nce", "negatives=9"]),
    ("npid", HEAD, &["objective=sampled_softmax", "negatives=9"]),
    ("simclr", HEAD, &["projector.initialization=pytorch"]),
    ("simclr", HEAD, &["loss={ name = \"decoupled\", sigma = 0.5 }"]),
    ("simclr", HEAD, &["loss={ name = \"nt_logistic\" }"]),
    ("simclr", HEAD, &["loss={ name = \"margin_triplet\" }"]),
    ("simclr", HEAD, &["loss={ name = \"generalized\" }"]),
    ("simsiam", HEADS, &[]),
    ("supcon", HEAD, &[]),
    ("swav", HEAD, &["prototypes=10", "freeze_prototypes_steps=0"]),
    (
        "swav",
        HEAD,
        &["prototypes=10", "freeze_prototypes_steps=1", "queue_length=24", "queue_start_epoch=0"],
    ),
    ("vicreg", HEAD, &[]),
];

/// The plug-ins by the names of their tables, with settings that suit the batch.
const PLUGINS: [(&str, &str); 3] = [
    ("feature_transformation", "[feature_transformation]\nnegative_level = \"sample\"\n"),
    ("cross_level", "[cross_level]\ngroups = 2\nper_rank = true\n"),
    ("guided_stop_gradient", "[guided_stop_gradient]\n"),
];

/// A method with its plug-ins.
pub(crate) struct Case {
    pub(crate) label: String,
    pub(crate) config: Config,
    pub(crate) plugins: Plugins,
    /// Whether it is the first of its method.
    pub(crate) main: bool,
}

/// A method with these settings changed.
pub(crate) fn config(name: &str, changes: &[&str]) -> Config {
    let config: Config = toml::from_str(&format!("name = \"{name}\"")).unwrap();
    let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
    overrides::apply(&config, &changes, &["projector.hidden", "predictor.hidden"]).unwrap()
}

pub(crate) fn plugins(text: &str) -> Plugins {
    toml::from_str(text).unwrap()
}

/// Views that a recipe of this method has: two small ones beside two large ones where any number goes.
pub(crate) fn views(config: &Config) -> usize {
    match config.name() {
        "swav" => 4,
        "classifier" | "distill" => 1,
        _ => 2,
    }
}

/// Every method with every set of plug-ins that goes with it.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in NAMES {
        let rows = SMALL.iter().filter(|(method, ..)| method == name);
        let before = cases.len();
        for (index, (_, sizes, changes)) in rows.enumerate() {
            let config = config(name, &[*sizes, *changes].concat());
            let fits = config.settings().fits().named();
            for set in 0..1 << PLUGINS.len() {
                let on = |plugin: usize| set >> plugin & 1 == 1;
                let all_fit = (0..PLUGINS.len()).all(|plugin| {
                    let (name, fit) = fits[plugin];
                    assert_eq!(name, PLUGINS[plugin].0);
                    !on(plugin) || fit.is_ok()
                });
                let rare = index > 0 && (on(0) || on(2));
                if !all_fit || rare {
                    continue;
                }
                let tables: String = (0..PLUGINS.len())
                    .filter(|plugin| on(*plugin))
                    .map(|plugin| PLUGINS[plugin].1)
                    .collect();
                let plugins = plugins(&tables);
                config.check(&plugins).unwrap();
                let label = format!("{name} {changes:?} {tables}").replace('\n', " ");
                cases.push(Case { label, config: config.clone(), plugins, main: index == 0 });
            }
        }
        assert!(cases.len() > before, "method {name} has no row in `SMALL`");
    }
    cases
}

pub(crate) fn backbone(group: usize) -> BackboneConfig {
    let text =
        format!("name = \"resnet18\"\nwidth = 0.125\nstem = \"imagenet\"\nnorm_group = {group}");
    toml::from_str(&text).unwrap()
}

pub(crate) fn build(
    config: &Config,
    plugins: &Plugins,
    precision: Precision,
    group: usize,
) -> Box<dyn Method> {
    // Tensors are tiny and tests run beside each other: more threads would mostly wait.
    tch::set_num_threads(1);
    let backbone = backbone(group);
    let mut setup = Setup {
        backbone: &backbone,
        plugins,
        views: config.settings().wiring(plugins, views(config)).views(),
        images: IMAGES,
        batch: BATCH,
        classes: CLASSES,
        multi_label: false,
        teacher: None,
        seed: 3,
        device: Device::Cpu,
        kind: precision.parameters(),
    };
    let teacher = teacher(&Setup { seed: 4, ..setup });
    setup.teacher = Some(&teacher).filter(|_| config.name() == "distill");
    config.build(&setup).unwrap()
}

/// A classifier of random weights, its layer behind the first of a projector.
pub(crate) fn teacher(setup: &Setup<'_>) -> Teacher {
    let classifier = config("classifier", &["tap=g1", "projector.hidden=24"]);
    let method = classifier.build(setup).unwrap();
    let tensors = method.parameters().all().iter();
    let Config::Classifier(classifier) = classifier else { unreachable!() };
    Teacher {
        backbone: setup.backbone.clone(),
        classifier,
        classes: setup.classes,
        several_classes: false,
        tensors: tensors.map(|p| (p.name.clone(), p.tensor.detach())).collect(),
    }
}

/// A label for every image.
pub(crate) fn labels() -> Labels {
    Labels::One((0..IMAGES).map(|image| (image % CLASSES) as u32).collect())
}

/// The step with this number for a batch of these images.
pub(crate) fn at<'a>(
    index: u64,
    indices: &'a [usize],
    labels: &'a Labels,
    ranks: usize,
) -> Step<'a> {
    Step {
        index,
        steps: STEPS,
        steps_per_epoch: EPOCH,
        seed: 11,
        indices,
        labels: Some(labels),
        ranks: ranks as i64,
        tile_rows: 7,
    }
}

impl Case {
    pub(crate) fn views(&self) -> usize {
        self.config.settings().wiring(&self.plugins, views(&self.config)).views()
    }

    /// Side of a view: the jigsaw holds nine, small crops are smaller.
    pub(crate) fn side(&self, view: usize) -> usize {
        match &self.config {
            Config::InfoMin(config) if config.jigsaw_weight > 0.0 && view + 1 == self.views() => {
                3 * SIDE
            }
            Config::SwAv(_) if view >= 2 => SIDE - 4,
            _ => SIDE,
        }
    }

    pub(crate) fn layout(&self, precision: Precision, micro_batch: usize, group: usize) -> Layout {
        let input = |view| ViewInput { size_px: self.side(view), mean: [0.5; 3], std: [0.25; 3] };
        Layout {
            views: (0..self.views()).map(input).collect(),
            batch: BATCH,
            micro_batch,
            group,
            tile_rows: 7,
            device: Device::Cpu,
            precision,
        }
    }

    /// The batch of a step: some of the images, each of its own colour, in noise of the view's own.
    pub(crate) fn batch(&self, step: u64) -> HostBatch {
        let open = |item| Stream::open(1, Purpose::Test, Scope::Item(item));
        let indices = open(step).permutation(IMAGES)[..BATCH].to_vec();
        let views = (0..self.views()).map(|view| {
            let mut noise = open(1_000 + 100 * step + view as u64);
            let pixels = self.side(view) * self.side(view);
            let image = |image: &usize| -> Vec<u8> {
                let mut colours = open(10_000 + *image as u64);
                let colour: Vec<u64> = (0..3).map(|_| colours.below(180)).collect();
                (0..3 * pixels).map(|at| (colour[at % 3] + noise.below(76)) as u8).collect()
            };
            indices.iter().flat_map(image).collect()
        });
        let views = views.collect();
        HostBatch {
            step,
            epoch: (step / EPOCH) as u32,
            indices,
            views,
            constants: Vec::new(),
            damaged: Vec::new(),
        }
    }

    pub(crate) fn trained(&self, precision: Precision, group: usize) -> Trained {
        let method = build(&self.config, &self.plugins, precision, group);
        let optimizer: OptimizerConfig =
            toml::from_str("name = \"sgd\"\nlearning_rate = 1.0\nweight_decay = 1e-4").unwrap();
        let optimizer = Optimizer::new(optimizer, method.parameters());
        Trained { method, optimizer, probe: None }
    }

    /// The gradient of a step.
    pub(crate) fn gradient(&self, method: &dyn Method, step: u64, layout: &Layout) -> Outcome {
        let (batch, labels) = (self.batch(step), labels());
        let at = at(step, &batch.indices, &labels, layout.batch / layout.group);
        let at = Step { tile_rows: layout.tile_rows, ..at };
        step::gradient(method, &batch, layout, &at, &Stop::new(), None).unwrap().unwrap()
    }

    /// Takes these steps.
    pub(crate) fn train(&self, trained: &mut Trained, steps: Range<u64>, layout: &Layout) {
        for step in steps {
            let found = self.gradient(trained.method.as_ref(), step, layout);
            let (batch, labels) = (self.batch(step), labels());
            let at = at(step, &batch.indices, &labels, layout.batch / layout.group);
            trained.method.before_update(&at);
            trained.optimizer.step(0.05);
            trained.method.after_step(&found.objective.carried, &at);
        }
    }
}

/// Copies of all tensors of a run.
pub(crate) fn copied(trained: &Trained) -> BTreeMap<String, Tensor> {
    trained.state().into_iter().map(|(name, tensor)| (name, tensor.copy())).collect()
}

/// The names under which two states differ in a bit.
pub(crate) fn differences(
    a: &BTreeMap<String, Tensor>,
    b: &BTreeMap<String, Tensor>,
) -> Vec<String> {
    assert!(a.keys().eq(b.keys()));
    let differ = |name: &&String| checkpoint::bytes(&a[*name]) != checkpoint::bytes(&b[*name]);
    a.keys().filter(differ).cloned().collect()
}
