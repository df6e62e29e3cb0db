//! What holds for every method with every set of plug-ins.

use crate::made::{BATCH, CLASSES, Case, EPOCH, GROUP, at, cases, copied, differences, labels};
use diptych::augment::{
    Batches, HostBatch, Loader, LoaderConfig, Order, Pipeline, ViewRecipe, Views,
};
use diptych::data::{self, Selection};
use diptych::error::Result;
use diptych::method::{Constant, Method, Objective, Rows, Step, Wiring};
use diptych::model::resnet::ResNet;
use diptych::model::{Parameters, Role, Statistics};
use diptych::plugin::Plugins;
use diptych::train::journal::Journal;
use diptych::train::run::{RunFolder, read_status};
use diptych::train::schedule::Schedule;
use diptych::train::step::{self, Layout};
use diptych::train::stop::Stop;
use diptych::train::{self, Job, Precision, Trained, checkpoint};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

#[test]
fn a_run_that_is_stored_and_built_anew_goes_on_with_the_same_bits() {
    for case in cases() {
        let layout = case.layout(Precision::Float32, BATCH / 2, GROUP);
        let mut whole = case.trained(Precision::Float32, GROUP);
        case.train(&mut whole, 0..2, &layout);
        let folder = tempfile::tempdir().unwrap();
        let about = (&serde_json::json!({}), &Journal::default());
        checkpoint::save(folder.path(), 2, about, &whole.state()).unwrap();
        let half = copied(&whole);
        case.train(&mut whole, 2..4, &layout);

        let stored = checkpoint::load_latest(folder.path(), &mut |_| ()).unwrap().unwrap();
        let mut again = case.trained(Precision::Float32, GROUP);
        assert!(!differences(&half, &copied(&again)).is_empty());
        again.restore(&stored.tensors).unwrap();
        assert_eq!(differences(&half, &copied(&again)), [""; 0], "{}", case.label);
        case.train(&mut again, 2..4, &layout);
        assert_eq!(differences(&copied(&whole), &copied(&again)), [""; 0], "{}", case.label);

        // All that a method remembers moved meanwhile, so that losing it would have shown.
        let moved = differences(&half, &copied(&whole));
        for name in half.keys() {
            let remembered = ["momentum.", "queue.", "bank.rows", "optimizer."];
            if remembered.iter().any(|start| name.starts_with(start)) {
                assert!(moved.contains(name), "{}: `{name}` did not move", case.label);
            }
        }
    }
}

#[test]
fn going_back_in_one_process_is_as_good_as_in_a_new_one() {
    for case in cases() {
        let layout = case.layout(Precision::Float32, BATCH, GROUP);
        let mut gone_back = case.trained(Precision::Float32, GROUP);
        let start = copied(&gone_back);
        case.train(&mut gone_back, 0..2, &layout);
        gone_back.restore(&start).unwrap();
        let mut new = case.trained(Precision::Float32, GROUP);
        for trained in [&mut gone_back, &mut new] {
            case.train(trained, 0..1, &layout);
        }
        assert_eq!(differences(&copied(&gone_back), &copied(&new)), [""; 0], "{}", case.label);
    }
}

/// What a step computes, by name, and its loss.
fn computed(case: &Case, layout: &Layout) -> (f64, BTreeMap<String, Tensor>) {
    let trained = case.trained(layout.precision, layout.group);
    let method = trained.method.as_ref();
    let objective = case.gradient(method, 0, layout).objective;
    let mut found = BTreeMap::new();
    for parameter in method.parameters().all() {
        let buffer = parameter.role == Role::Buffer;
        let value = if buffer { parameter.tensor.copy() } else { parameter.tensor.grad() };
        if value.defined() {
            found.insert(parameter.name.clone(), value.copy());
        }
    }
    found.insert("of the rows".to_owned(), objective.rows_gradient.copy());
    for (index, carried) in objective.carried.iter().enumerate() {
        found.insert(format!("carried {index}"), carried.copy());
    }
    let (batch, labels) = (case.batch(0), labels());
    method.after_step(&objective.carried, &at(0, &batch.indices, &labels, BATCH / layout.group));
    for parameter in method.parameters().all().iter().filter(|p| p.role == Role::State) {
        found.insert(format!("state {}", parameter.name), parameter.tensor.to_kind(Kind::Double));
    }
    (objective.loss, found)
}

/// The largest difference, relative to the tensor or, where that is rounding alone, to a small part of all of them.
fn distance(a: &BTreeMap<String, Tensor>, b: &BTreeMap<String, Tensor>) -> (f64, String) {
    assert!(a.keys().eq(b.keys()));
    let norm = |tensor: &Tensor| tensor.norm().double_value(&[]);
    let whole = a.values().map(|tensor| norm(tensor).powi(2)).sum::<f64>().sqrt();
    a.iter()
        .map(|(name, tensor)| {
            (norm(&(tensor - &b[name])) / norm(tensor).max(1e-3 * whole), name.clone())
        })
        .fold((0.0, String::new()), |most, found| if found.0 > most.0 { found } else { most })
}

#[test]
fn the_micro_batch_and_the_tile_change_nothing_that_a_step_computes() {
    for case in cases() {
        let layout = |micro, group| case.layout(Precision::Float64, micro, group);
        let (loss, whole) = computed(&case, &layout(BATCH, GROUP));
        assert!(loss.is_finite());
        for micro in [BATCH / 2, GROUP] {
            let cut = Layout { tile_rows: 5, ..layout(micro, GROUP) };
            let (cut_loss, found) = computed(&case, &cut);
            assert!((loss - cut_loss).abs() < 1e-10, "{}: {loss} {cut_loss}", case.label);
            let (off, name) = distance(&whole, &found);
            assert!(off < 1e-10, "{} in micro-batches of {micro}: {name} {off:e}", case.label);
        }
        // The comparison sees another computation.
        let (_, other) = computed(&case, &layout(BATCH, 2 * GROUP));
        let no_groups = ["split_queue", "frozen"].iter().any(|word| case.label.contains(word));
        if !no_groups {
            assert!(distance(&whole, &other).0 > 1e-4, "{}", case.label);
        }
    }
}

#[test]
fn what_is_not_trained_has_neither_gradient_nor_optimizer_state_and_all_else_has() {
    for case in cases() {
        let layout = case.layout(Precision::Float32, BATCH, GROUP);
        let mut trained = case.trained(Precision::Float32, GROUP);
        case.train(&mut trained, 0..2, &layout);
        let state = trained.state();
        for parameter in trained.method.parameters().all() {
            let name = &parameter.name;
            let frozen = trained.method.frozen();
            let follows = name.starts_with("momentum.")
                || frozen.iter().any(|start| name.starts_with(start.as_str()));
            let kept = matches!(parameter.role, Role::Buffer | Role::State);
            assert_eq!(parameter.trained, !(follows || kept), "{}: {name}", case.label);
            let gradient = parameter.tensor.grad().defined();
            assert_eq!(gradient, parameter.trained, "{}: {name}", case.label);
            assert_eq!(parameter.tensor.requires_grad(), parameter.trained);
            let remembered = state.contains_key(&format!("optimizer.{name}.momentum"));
            assert_eq!(remembered, parameter.trained, "{}: {name}", case.label);
        }
    }
}

#[test]
fn feature_transformation_begins_with_its_epoch() {
    for case in cases().into_iter().filter(|case| case.plugins.feature_transformation.is_some()) {
        let starting = |epoch: Option<u32>| {
            let mut plugins: Plugins = case.plugins.clone();
            match epoch {
                Some(epoch) => {
                    plugins.feature_transformation.as_mut().unwrap().start_epoch = epoch;
                }
                None => plugins.feature_transformation = None,
            }
            Case { plugins, label: case.label.clone(), config: case.config.clone(), main: false }
        };
        let loss = |epoch: Option<u32>, step: u64| {
            let case = starting(epoch);
            let layout = case.layout(Precision::Float64, BATCH, GROUP);
            let trained = case.trained(Precision::Float64, GROUP);
            case.gradient(trained.method.as_ref(), step, &layout).objective.loss
        };
        let (last_before, first) = (EPOCH - 1, EPOCH);
        let same = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(same(loss(Some(1), last_before), loss(None, last_before)), "{}", case.label);
        assert!(same(loss(Some(1), first), loss(Some(0), first)), "{}", case.label);
        assert!(!same(loss(Some(1), first), loss(None, first)), "{}", case.label);
    }
}

#[test]
fn what_the_sentinels_hear_of_cosines_is_of_the_network_whatever_is_mixed() {
    let told = |case: &Case| -> BTreeMap<String, f64> {
        let layout = case.layout(Precision::Float64, BATCH, GROUP);
        let trained = case.trained(Precision::Float64, GROUP);
        let step = EPOCH * 2;
        let objective = case.gradient(trained.method.as_ref(), step, &layout).objective;
        let cosines = ["positive_similarity", "negative_similarity"];
        objective.scalars.into_iter().filter(|(name, _)| cosines.contains(&&**name)).collect()
    };
    let mut count = 0;
    for case in cases().into_iter().filter(|case| case.plugins.feature_transformation.is_some()) {
        let plugins = Plugins { feature_transformation: None, ..case.plugins.clone() };
        let plain =
            Case { plugins, label: case.label.clone(), config: case.config.clone(), main: false };
        let (mixed, plain) = (told(&case), told(&plain));
        assert!(mixed.keys().eq(plain.keys()), "{}", case.label);
        for (name, value) in &plain {
            let found = mixed[name];
            assert!((found - value).abs() < 1e-9, "{} {name}: {found} {value}", case.label);
            count += 1;
        }
    }
    assert!(count > 8, "only {count} values are told");
}

/// A batch that asks for a stop when it is read the n-th time.
struct Interrupting<'a> {
    batch: &'a HostBatch,
    reads: Cell<usize>,
    at: usize,
    stop: &'a Stop,
}

impl Views for Interrupting<'_> {
    fn step(&self) -> u64 {
        Views::step(self.batch)
    }

    fn bytes(
        &self,
        view: usize,
        size_px: usize,
        start: usize,
        count: usize,
        device: Device,
    ) -> Result<Tensor> {
        self.reads.set(self.reads.get() + 1);
        if self.reads.get() == self.at {
            self.stop.ask();
        }
        self.batch.bytes(view, size_px, start, count, device)
    }
}

#[test]
fn a_step_dropped_by_a_stop_moves_nothing() {
    for case in cases().into_iter().filter(|case| case.main) {
        let layout = case.layout(Precision::Float32, BATCH / 2, GROUP);
        let mut trained = case.trained(Precision::Float32, GROUP);
        case.train(&mut trained, 0..1, &layout);
        let before = copied(&trained);
        let (batch, labels) = (case.batch(1), labels());
        let step = at(1, &batch.indices, &labels, BATCH / GROUP);
        let reads = |at: usize| {
            let stop = Stop::new();
            let views = Interrupting { batch: &batch, reads: Cell::new(0), at, stop: &stop };
            let method = trained.method.as_ref();
            let found = step::gradient(method, &views, &layout, &step, &stop, None).unwrap();
            (found.is_some(), views.reads.get())
        };
        let wiring = trained.method.wiring();
        let all = 2 * (wiring.targets.len() + 2 * wiring.online.len());
        for at in [1, all / 4, all / 2, all - wiring.online.len()] {
            assert!(!reads(at).0, "{}: not dropped at {at} of {all}", case.label);
            assert_eq!(differences(&before, &copied(&trained)), [""; 0], "{} at {at}", case.label);
        }
        assert_eq!(reads(0), (true, all), "{}", case.label);
        assert!(!differences(&before, &copied(&trained)).is_empty(), "{}", case.label);
    }
}

/// A method whose loss and gradient are not finite at one step.
struct Poisoned {
    method: Box<dyn Method>,
    step: u64,
}

impl Method for Poisoned {
    fn wiring(&self) -> &Wiring {
        self.method.wiring()
    }

    fn embed(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor {
        self.method.embed(views, groups, statistics)
    }

    fn targets(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor {
        self.method.targets(views, groups, statistics)
    }

    fn targets_order(&self, step: &Step<'_>) -> Option<Vec<usize>> {
        self.method.targets_order(step)
    }

    fn objective(&self, rows: &Rows, step: &Step<'_>) -> Result<Objective> {
        let mut found = self.method.objective(rows, step)?;
        if step.index == self.step {
            found.loss = f64::NAN;
            found.rows_gradient *= f64::NAN;
        }
        Ok(found)
    }

    fn before_update(&self, step: &Step<'_>) {
        assert_ne!(step.index, self.step);
        self.method.before_update(step);
    }

    fn after_step(&self, carried: &[Tensor], step: &Step<'_>) {
        assert_ne!(step.index, self.step);
        self.method.after_step(carried, step);
    }

    fn stuck_at(&self, batch_size: usize) -> Option<Constant> {
        self.method.stuck_at(batch_size)
    }

    fn parameters(&self) -> &Parameters {
        self.method.parameters()
    }

    fn backbone(&self) -> &ResNet {
        self.method.backbone()
    }
}

#[test]
fn a_step_that_is_left_out_moves_nothing() {
    let source = data::open("synthetic:scenes?train=40&test=12").unwrap();
    let dataset = source.for_training(&Selection::default()).unwrap();
    // As many classes as the methods were built for.
    let labels = data::labels(dataset.as_ref());
    let labels = labels.map(|labels| {
        data::Labels::One(labels.iter().map(|label| label % CLASSES as u32).collect())
    });
    let sentinels = "epochs = 1\nmax_steps = 3\ncheckpoint_every_steps = 1\nthreads = 1\n\
        optimizer = { name = \"sgd\", learning_rate = 0.05, weight_decay = 0.0 }\n\
        schedule = { name = \"constant\" }\nsentinels = { non_finite = \"warn\" }";
    let config: train::Config = toml::from_str(sentinels).unwrap();
    for case in cases().into_iter().filter(|case| case.main) {
        let view = |side: usize| -> ViewRecipe {
            let text = format!(
                "count = 1\nsteps = [{{ name = \"random_resized_crop\", size_px = {side} }}, \
                 {{ name = \"normalize\", mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] }}]"
            );
            toml::from_str(&text).unwrap()
        };
        let views: Vec<ViewRecipe> = (0..case.views()).map(|at| view(case.side(at))).collect();
        let pipeline = Arc::new(Pipeline::new(&views).unwrap());
        let order = Order::new(0, dataset.len(), BATCH).unwrap();
        let batches = |first: u64| {
            let config = LoaderConfig {
                seed: 0,
                steps: first..3,
                threads: 1,
                background: false,
                prefetch: 1,
                max_damaged: 0.0,
            };
            Loader::start(Arc::clone(&dataset), Arc::clone(&pipeline), order.clone(), &config)
                .map(Batches::Host)
        };
        let Trained { method, optimizer, probe } = case.trained(Precision::Float32, GROUP);
        let method: Box<dyn Method> = Box::new(Poisoned { method, step: 2 });
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(folder.path()).unwrap();
        let job = Job {
            trained: Trained { method, optimizer, probe },
            schedule: Schedule::new(config.schedule.clone(), 0.05, EPOCH, 3),
            batches: &batches,
            layout: case.layout(Precision::Float32, BATCH / 2, GROUP),
            config: &config,
            first_step: 0,
            steps: 3,
            steps_per_epoch: EPOCH,
            seed: 0,
            labels: labels.clone(),
            max_damaged: 0,
            model: serde_json::json!({}),
            journal: Journal::default(),
            profile: None,
        };
        train::train(job, &run, &Stop::new(), &mut []).unwrap();
        assert_eq!(read_status(folder.path()).unwrap().left_out, 1, "{}", case.label);
        let [before, after] = ["previous", "last"].map(|name| {
            checkpoint::load(&run.join(&format!("checkpoints/{name}.safetensors"))).unwrap()
        });
        assert_eq!((before.header.step, after.header.step), (2, 3));
        assert_eq!(differences(&before.tensors, &after.tensors), [""; 0], "{}", case.label);
    }
}
