//! Fine-tuning and linear layers as runs: what they take from a model, that frozen stays, and that a kill changes no bit.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use diptych::data::{self, Dataset, Selection, Source};
use diptych::error::{Error, Result};
use diptych::evaluate::Ranks;
use diptych::evaluate::finetune::{Metric, Told};
use diptych::evaluate::weights::Weights;
use diptych::experiment::finetune::{Finetune, Outcome};
use diptych::experiment::{Experiment, Plan};
use diptych::recipe::Recipe;
use diptych::recipe::protocol::Protocol;
use diptych::train::run::{RunFolder, read_status};
use diptych::train::stop::Stop;
use diptych::train::{Observer, Progress, checkpoint};
use std::path::Path;
use std::sync::Arc;
use tch::Device;

const IMAGES: usize = 60;

fn source() -> Source {
    data::open("synthetic:scenes?train=60&test=30").unwrap()
}

/// A recipe of the scenes as small as it can be.
fn tiny(name: &str, changes: &[&str]) -> Recipe {
    let small = [
        "data.batch_size=12",
        "data.threads=1",
        "backbone.width=0.125",
        "train.threads=1",
        "train.device=cpu",
        "train.epochs=1",
        "train.knn.every_epochs=0",
        "train.probe.enabled=false",
        "view.0.steps.0.size_px=16",
    ];
    let changes: Vec<String> =
        small.iter().chain(changes).map(|change| (*change).to_owned()).collect();
    let mut recipe = Recipe::load(name, &changes).unwrap();
    recipe.resolve().unwrap();
    recipe
}

fn train(recipe: &Recipe, folder: &Path) -> Result<()> {
    let source = source();
    let plan = Plan::new(recipe, &source)?;
    let run = RunFolder::open(folder)?;
    tch::set_num_threads(1);
    let experiment =
        Experiment { recipe, source: &source, plan: &plan, folder: &run, profile: None };
    experiment.train(&Stop::new(), &mut |_| (), &mut []).map(drop)
}

/// A model that was pre-trained a little.
fn pretrained(folder: &Path) {
    train(&tiny("scenes/simclr", &["method.projector.hidden=10"]), folder).unwrap();
}

/// Asks for a stop after some steps of all runs together.
struct Killer {
    stop: Stop,
    left: std::rc::Rc<std::cell::Cell<u32>>,
}

impl Observer for Killer {
    fn step(&mut self, _: &Progress) -> Result<()> {
        let left = self.left.get();
        if left == 1 {
            self.stop.ask();
        }
        self.left.set(left.saturating_sub(1));
        Ok(())
    }
}

/// Carries a protocol out; `steps` kills it after so many, 0 never. What was told comes with it.
fn carry_out(
    protocol: &Protocol,
    model: &Path,
    folder: &Path,
    steps: u32,
) -> (Result<Outcome>, Vec<String>) {
    let source = source();
    let (references, queries): (Arc<dyn Dataset>, Arc<dyn Dataset>) =
        source.for_evaluation(&Selection::default()).unwrap();
    assert_eq!(references.len(), IMAGES);
    let weights = Weights::load(model, Device::Cpu).unwrap();
    let changes = ["train.device=cpu", "train.threads=1", "data.threads=1"].map(str::to_owned);
    let finetune = Finetune {
        protocol,
        model: &weights,
        file: model.to_str().unwrap(),
        source: &source,
        references: &references,
        queries: &queries,
        validation: None,
        fraction: 1.0,
        selection: Selection::default(),
        metric: Metric::Top1,
        changes: &changes,
        seed: 3,
        folder,
    };
    let stop = Stop::new();
    let left = std::rc::Rc::new(std::cell::Cell::new(steps));
    let mut told = Vec::new();
    let mut watch = |_: &str, _: &Plan| -> Vec<Box<dyn Observer>> {
        vec![Box::new(Killer { stop: stop.clone(), left: std::rc::Rc::clone(&left) })]
    };
    let found = finetune.run(&stop, &mut |text| told.push(text.to_owned()), &mut watch);
    (found, told)
}

fn protocol(id: &str, changes: &[&str]) -> Protocol {
    let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
    Protocol::named(id).unwrap().with(&changes).unwrap()
}

fn ranks(found: &Outcome) -> &Ranks {
    match &found.judged.result {
        Told::Ranks(ranks) => ranks,
        Told::Precision(_) => panic!("scenes are of one class each"),
    }
}

fn bytes(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("checkpoints/last.safetensors")).unwrap()
}

#[test]
fn a_linear_layer_judges_the_backbone_it_was_given_and_a_kill_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    pretrained(&model);
    let moco = protocol("moco", &["epochs.all=2", "batch_size=20", "optimizer.learning_rate=0.5"]);
    let whole = folder.path().join("whole");
    let (found, _) = carry_out(&moco, &model, &whole, 0);
    let found = found.unwrap();
    assert_eq!(ranks(&found).ranks.len(), 30, "every image once");
    assert_eq!(found.hash_before, found.hash_after);
    assert!(found.tried.is_empty() && found.chosen.is_none());
    assert_eq!(found.recipe.data.batch_size, 20);
    assert!(found.train_loss.unwrap().is_finite());

    // Killed in the second epoch, then gone on with.
    let killed = folder.path().join("killed");
    let (interrupted, _) = carry_out(&moco, &model, &killed, 4);
    assert!(matches!(interrupted, Err(Error::Interrupted(_))));
    let (again, told) = carry_out(&moco, &model, &killed, 0);
    assert!(told.iter().any(|text| text.contains("going on at step 4 of 6")), "{told:?}");
    assert_eq!(again.unwrap().judged, found.judged);
    assert!(bytes(&killed) == bytes(&whole), "the same bits");
    // At its end nothing is trained again.
    let (again, told) = carry_out(&moco, &model, &killed, 1);
    assert_eq!(again.unwrap().judged, found.judged);
    assert!(told.is_empty(), "{told:?}");

    // Another protocol and other weights are no continuation.
    let other = protocol("moco", &["epochs.all=2", "batch_size=30"]);
    let error = carry_out(&other, &model, &killed, 0).0.unwrap_err().to_string();
    assert!(
        error.contains("computes something else") && error.contains("data.batch_size"),
        "{error}"
    );
    std::fs::remove_dir_all(&model).unwrap();
    train(&tiny("scenes/simclr", &["method.projector.hidden=10", "seed=9"]), &model).unwrap();
    let error = carry_out(&moco, &model, &killed, 0).0.unwrap_err().to_string();
    assert!(error.contains("started from other weights"), "{error}");
}

#[test]
fn a_grid_is_chosen_on_validation_and_goes_on_where_it_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    pretrained(&model);
    let changes = [
        "epochs.all=1",
        "batch_size=12",
        "grid.learning_rates=[0.02, 1e30]",
        "grid.multipliers=[1.0, 10.0]",
    ];
    let grid = protocol("semi-cld", &changes);
    let out = folder.path().join("out");
    // Four steps a point of 48 images; killed within the second.
    let (killed, _) = carry_out(&grid, &model, &out, 6);
    assert!(matches!(killed, Err(Error::Interrupted(_))));
    let first = out.join("grid/rate-2e-2-multiplier-1e0");
    let modified = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let before = modified(&first.join("checkpoints/last.safetensors"));
    let (found, told) = carry_out(&grid, &model, &out, 0);
    let found = found.unwrap();
    assert_eq!(before, modified(&first.join("checkpoints/last.safetensors")), "not trained again");
    assert!(told.iter().any(|text| text.contains("going on at step 2 of 4")), "{told:?}");
    assert_eq!(found.tried.len(), 4);
    let values: Vec<Option<f64>> = found.tried.iter().map(|tried| tried.value).collect();
    assert!(values[0].is_some() && values[1].is_some(), "{values:?}");
    assert_eq!(values[2..], [None, None], "a rate beyond all reason is told, not an error");
    let best = usize::from(values[1] > values[0]);
    assert_eq!(found.chosen, Some(found.tried[best].point));
    let settings = found.settings();
    assert_eq!(settings["grid"].as_array().unwrap().len(), 4);
    assert_eq!(settings["chosen"]["learning_rate"], 0.02);
    assert!(!found.weights("model", 1).frozen);
    // The run that is judged had all the images, five batches, and moved the backbone.
    assert_eq!(read_status(&out).unwrap().steps, 5);
    assert_ne!(found.hash_before, found.hash_after);
    assert_eq!(ranks(&found).ranks.len(), 30);
}

#[test]
fn a_tap_takes_the_projector_along_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    pretrained(&model);
    let weights = format!("backbone.weights={}", model.display());
    let tapped = |out: &str, changes: &[&str]| {
        let all = [&["method.tap=g1", "method.frozen=true", &weights], changes].concat();
        train(&tiny("scenes/supervised", &all), &folder.path().join(out))
    };
    tapped("tapped", &["method.projector.hidden=10"]).unwrap();
    let load = |run: &str| {
        let path = folder.path().join(run).join("checkpoints/last.safetensors");
        checkpoint::load(&path).unwrap().tensors
    };
    let (before, after) = (load("model"), load("tapped"));
    let kept = ["backbone.", "projector.layers.0."];
    let mut count = 0;
    for (name, tensor) in after.iter().filter(|(name, _)| kept.iter().any(|k| name.starts_with(k)))
    {
        assert!(checkpoint::bytes(tensor) == checkpoint::bytes(&before[name]), "{name}");
        count += usize::from(name.starts_with("projector."));
    }
    assert_eq!(count, 5, "the layer, its norm and its running statistics");
    assert!(!after.keys().any(|name| name.starts_with("projector.layers.1.")));
    assert_ne!(after["classifier.bias"].numel(), 0);
    // Its own checkpoint tells all of it.
    let found = Weights::load(&folder.path().join("tapped"), Device::Cpu).unwrap();
    assert_eq!(found.projector().unwrap().hidden, Some(10));
    assert_eq!(found.teacher().unwrap().tensors.len(), after.len() - 2, "but the momentum");

    let refuse = |out: &str, changes: &[&str]| tapped(out, changes).unwrap_err().to_string();
    let text = refuse("wide", &["method.projector.hidden=11"]);
    assert!(text.contains("`projector.layers.0.linear.weight` must have shape"), "{text}");
    let text = refuse("bare", &["method.projector.hidden=10", "method.projector.batch_norm=false"]);
    assert!(text.contains("no tensor for `projector.layers.0.linear.bias`"), "{text}");
    // A supervised run has no projector.
    train(&tiny("scenes/supervised", &[]), &folder.path().join("plain")).unwrap();
    let plain = format!("backbone.weights={}", folder.path().join("plain").display());
    let text = refuse("none", &["method.projector.hidden=10", &plain]);
    assert!(text.contains("does not fit: no tensor for `projector.layers.0."), "{text}");
}

#[test]
fn a_student_has_the_teacher_it_began_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    train(&tiny("scenes/supervised", &["backbone.width=0.25"]), &path("teacher")).unwrap();
    let teacher = format!("method.teacher={}", path("teacher").display());
    let learn = |changes: &[&str]| {
        train(&tiny("scenes/distill", &[&[teacher.as_str()], changes].concat()), &path("student"))
    };
    learn(&[]).unwrap();
    let load =
        |run: &str| checkpoint::load(&path(run).join("checkpoints/last.safetensors")).unwrap();
    let (taught, learned) = (load("teacher"), load("student"));
    let mut count = 0;
    for (name, tensor) in &learned.tensors {
        if let Some(name) = name.strip_prefix("teacher.") {
            assert!(
                checkpoint::bytes(tensor) == checkpoint::bytes(&taught.tensors[name]),
                "{name}"
            );
            count += 1;
        }
    }
    assert!(count > 100);
    assert!(learned.header.journal.events[0].text.starts_with("taught by weights "));
    let header = learned.header.model.to_string();
    assert!(
        !header.contains(folder.path().to_str().unwrap()),
        "a checkpoint knows no paths: {header}"
    );

    std::fs::remove_dir_all(path("teacher")).unwrap();
    train(&tiny("scenes/supervised", &["backbone.width=0.25", "seed=4"]), &path("teacher"))
        .unwrap();
    let text = learn(&["train.epochs=2"]).unwrap_err().to_string();
    assert!(text.contains("`method.teacher` holds other weights"), "{text}");
    pretrained(&path("unfit"));
    let unfit = format!("method.teacher={}", path("unfit").display());
    let recipe = tiny("scenes/distill", &[unfit.as_str()]);
    let text = train(&recipe, &path("other")).unwrap_err().to_string();
    assert!(text.contains("a run of method classifier is needed, found method simclr"), "{text}");
}
