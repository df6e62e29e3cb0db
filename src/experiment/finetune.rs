//! A protocol that trains, carried out: its grid on a validation part of the labelled images, then all of them with what was
//! chosen, then the evaluation split once.
//!
//! Every training is an ordinary run in a folder of its own, so whatever was killed goes on where it was: the points of a
//! grid in `grid/NAME`, the run that is judged in the folder itself.

use super::{Experiment, Plan, changes, earlier_recipe};
use crate::data::{Dataset, Selection, Source, subset};
use crate::error::{Error, Result};
use crate::evaluate::WeightsUsed;
use crate::evaluate::finetune::{Classifier, Judged, Metric};
use crate::evaluate::weights::Weights;
use crate::files::replace_text;
use crate::machine;
use crate::model::Frozen;
use crate::recipe::Recipe;
use crate::recipe::protocol::{Labelled, Model, Point, Protocol};
use crate::report;
use crate::train::Observer;
use crate::train::journal::Event;
use crate::train::run::{RunFolder, read_status};
use crate::train::stop::Stop;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Share of the labelled images that a grid is judged on, where the data set has no validation split of its own.
pub const VALIDATION: f64 = 0.2;

/// A protocol, a model, labelled images, and a folder.
pub struct Finetune<'a> {
    /// How.
    pub protocol: &'a Protocol,
    /// What is judged.
    pub model: &'a Weights,
    /// Where it lies, as [`Weights::load`] was told.
    pub file: &'a str,
    /// Where the images are from: its name, classes and fingerprint.
    pub source: &'a Source,
    /// Images to train on, all labelled.
    pub references: &'a Arc<dyn Dataset>,
    /// Images to judge.
    pub queries: &'a Arc<dyn Dataset>,
    /// Images to choose settings on, beside the references; a fifth of these if left out.
    pub validation: Option<&'a Arc<dyn Dataset>>,
    /// Share of all labelled images that the references are, in (0, 1].
    pub fraction: f64,
    /// How they were cut out of the source.
    pub selection: Selection,
    /// What settings are chosen by.
    pub metric: Metric,
    /// `key=value` changes of the recipes: `train.device=cpu`, `data.micro_batch_size=64`.
    pub changes: &'a [String],
    /// Of everything drawn.
    pub seed: u64,
    /// Where runs are written.
    pub folder: &'a Path,
}

/// A point of a grid and what it came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// The settings.
    pub point: Point,
    /// The metric on the validation part; none where training did not stay finite.
    pub value: Option<f64>,
}

/// What a protocol found.
#[derive(Debug)]
pub struct Outcome {
    /// The evaluation split, judged after the last epoch.
    pub judged: Judged,
    /// The recipe of the run that was judged.
    pub recipe: Recipe,
    /// All points of the grid, in its order; empty without one.
    pub tried: Vec<Tried>,
    /// The settings that were chosen; none without a grid.
    pub chosen: Option<Point>,
    /// Hash of the model's backbone.
    pub hash_before: String,
    /// Hash of the backbone after training: the same where it is frozen.
    pub hash_after: String,
    /// Loss of the last step.
    pub train_loss: Option<f64>,
    /// Images that turned out unreadable in it.
    pub damaged: usize,
    /// What happened to the run that was judged.
    pub history: Vec<Event>,
}

impl Outcome {
    /// Every setting that made the number, for its record: the protocol as it was carried out, the views, the batch, and
    /// what a grid came to.
    pub fn settings(&self) -> BTreeMap<String, Value> {
        let Recipe { data, backbone, method, train, view, .. } = &self.recipe;
        let mut settings = BTreeMap::from([
            ("batch_size", json!(data.batch_size)),
            ("micro_batch_size", json!(data.micro_batch_size)),
            ("norm_group", json!(backbone.norm_group)),
            ("norm_momentum", json!(backbone.norm_momentum)),
            ("from_random", json!(backbone.weights.is_none())),
            ("method", json!(method)),
            ("epochs", json!(train.epochs)),
            ("max_steps", json!(train.max_steps)),
            ("optimizer", json!(train.optimizer)),
            ("schedule", json!(train.schedule)),
            ("precision", json!(train.precision)),
            ("view", json!(view)),
        ]);
        if !self.tried.is_empty() {
            settings.insert("grid", json!(self.tried));
            settings.insert("chosen", json!(self.chosen));
        }
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The network the number belongs to: `file`, of whose tensors `matched` were found.
    pub fn weights(&self, file: &str, matched: usize) -> WeightsUsed {
        WeightsUsed {
            file: file.to_owned(),
            hash_before: self.hash_before.clone(),
            hash_after: self.hash_after.clone(),
            frozen: self.hash_before == self.hash_after,
            matched,
            missing: Vec::new(),
            unexpected: Vec::new(),
            history: self.history.clone(),
        }
    }
}

/// What a grid point leaves beside its run.
const JUDGED: &str = "validation.json";

/// Observers of a run of so many steps, named for people.
pub type Watch<'a> = dyn FnMut(&str, &Plan) -> Vec<Box<dyn Observer>> + 'a;

impl Finetune<'_> {
    /// Trains and judges. `watch` makes the observers of each run, `tell` gets what people should know.
    ///
    /// # Errors
    /// Those of training and judging; [`Error::Run`] if the folder holds something else; [`Error::Weights`] if a frozen
    /// backbone moved; [`Error::NonFinite`] if no point of a grid stayed finite.
    pub fn run(
        &self,
        stop: &Stop,
        tell: &mut dyn FnMut(&str),
        watch: &mut Watch<'_>,
    ) -> Result<Outcome> {
        let points = self.protocol.points();
        let tried =
            if points.len() > 1 { self.try_all(&points, stop, tell, watch)? } else { Vec::new() };
        let chosen = best(&tried);
        if chosen.is_none() && !tried.is_empty() {
            return Err(Error::NonFinite(format!(
                "none of the {} settings of the grid stayed finite; give it smaller rates, \
                 `grid.learning_rates=[...]`",
                tried.len()
            )));
        }
        let point = chosen.unwrap_or(points[0]);
        // What it was chosen on is trained on as well: the settings are all that is kept of the choice.
        let references = match (self.validation, tried.is_empty()) {
            (Some(validation), false) => joined(self.references, validation),
            _ => Arc::clone(self.references),
        };
        let cut = self.cut("all", &references, self.queries);
        let recipe = self.train(&cut, &references, &point, self.folder, stop, tell, watch)?;
        let (judged, trained) =
            self.judge(self.folder, self.queries.as_ref(), &recipe.train.device)?;
        let (hash_before, hash_after) = (self.model.hash(), trained.hash());
        if self.protocol.frozen == Frozen::All && hash_before != hash_after {
            return Err(Error::Weights(format!(
                "the frozen backbone of `{}` is not that of `{}` (hash `{hash_after:.16}`, not `{hash_before:.16}`); \
                 please report this",
                self.folder.display(),
                self.file
            )));
        }
        let status = read_status(self.folder).unwrap_or_default();
        Ok(Outcome {
            judged,
            recipe,
            tried,
            chosen,
            hash_before,
            hash_after,
            train_loss: status.final_loss,
            damaged: status.damaged.len(),
            history: status.history,
        })
    }

    /// Every point of the grid on what is not validation.
    fn try_all(
        &self,
        points: &[Point],
        stop: &Stop,
        tell: &mut dyn FnMut(&str),
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Tried>> {
        let (kept, validation) = match self.validation {
            Some(validation) => (Arc::clone(self.references), Arc::clone(validation)),
            None => subset::holdout(self.references, VALIDATION, self.seed)?,
        };
        let cut = self.cut("validation", &kept, &validation);
        let mut tried = Vec::with_capacity(points.len());
        for (number, point) in (1..).zip(points) {
            let name = point.name();
            let folder = self.folder.join("grid").join(&name);
            let trained = self.train(&cut, &kept, point, &folder, stop, tell, watch);
            let value = match trained {
                Ok(recipe) => self.value(&folder, validation.as_ref(), &recipe)?,
                // Too large a rate is a finding, not a failure.
                Err(Error::NonFinite(_)) => note(&folder, None)?,
                Err(other) => return Err(other),
            };
            let said = value.map_or("not finite".to_owned(), |v| format!("{:.2}%", 100.0 * v));
            tell(&format!("{number} of {}: {name}: {said} of the validation part", points.len()));
            tried.push(Tried { point: *point, value });
        }
        Ok(tried)
    }

    /// The metric of a finished point, judged once.
    fn value(
        &self,
        folder: &Path,
        validation: &dyn Dataset,
        recipe: &Recipe,
    ) -> Result<Option<f64>> {
        let stored = std::fs::read_to_string(folder.join(JUDGED)).ok();
        if let Some(value) = stored.and_then(|text| serde_json::from_str(&text).ok()) {
            return Ok(value);
        }
        match self.judge(folder, validation, &recipe.train.device) {
            Ok((judged, _)) => note(folder, Some(self.metric.of(&judged.result, self.seed))),
            Err(Error::NonFinite(_)) => note(folder, None),
            Err(other) => Err(other),
        }
    }

    /// One run to its end, or nothing if it is at its end; the recipe it has.
    #[expect(clippy::too_many_arguments, reason = "a run, where it lies, and who watches")]
    fn train(
        &self,
        source: &Source,
        images: &Arc<dyn Dataset>,
        point: &Point,
        folder: &Path,
        stop: &Stop,
        tell: &mut dyn FnMut(&str),
        watch: &mut Watch<'_>,
    ) -> Result<Recipe> {
        let labelled = Labelled { images: images.len(), fraction: self.fraction };
        let mut recipe = self.recipe(labelled, point)?;
        let earlier = earlier_recipe(folder)?;
        if let Some(earlier) = &earlier {
            recipe.inherit(earlier);
        }
        recipe.resolve()?;
        let plan = Plan::new(&recipe, source)?;
        if let Some(earlier) = &earlier {
            let found = changes(folder, earlier, &recipe, source);
            if !found.what.is_empty() {
                return Err(Error::Run(format!(
                    "`{}` holds a run that computes something else; choose another folder or remove it:\n  {}",
                    folder.display(),
                    found.what.join("\n  ")
                )));
            }
            let finished = read_status(folder).is_some_and(|status| status.state == "finished");
            if finished || folder.join(JUDGED).is_file() {
                self.same_weights(folder)?;
                return Ok(recipe);
            }
        }
        let run = RunFolder::open(folder)?;
        tch::set_num_threads(recipe.train.threads as i32);
        let name = if *point == Point::default() { "training".to_owned() } else { point.name() };
        let mut observers = watch(&name, &plan);
        let mut observers: Vec<&mut dyn Observer> =
            observers.iter_mut().map(|observer| observer.as_mut() as &mut dyn Observer).collect();
        let experiment =
            Experiment { recipe: &recipe, source, plan: &plan, folder: &run, profile: None };
        experiment.train(stop, tell, &mut observers)?;
        self.same_weights(folder)?;
        report::write(folder)?;
        Ok(recipe)
    }

    /// The recipe of a point, with the caller's changes.
    fn recipe(&self, labelled: Labelled, point: &Point) -> Result<Recipe> {
        let preprocess = self.model.preprocess.as_ref().ok_or_else(|| {
            Error::Recipe(format!(
                "`{}` does not say how its images are prepared; name it with --preprocess",
                self.file
            ))
        })?;
        let projector = self.model.projector();
        let model = Model {
            file: self.file,
            backbone: &self.model.config,
            preprocess,
            projector: projector.as_ref(),
        };
        let mut recipe = self.protocol.recipe(&model, labelled, point, self.seed)?;
        recipe.data.source = Some(self.source.location.clone());
        Recipe::parse(&recipe.to_toml()?, "of the protocol", self.changes)
    }

    /// Holds a run to the weights it is to judge: those it started from are in its history.
    fn same_weights(&self, folder: &Path) -> Result<()> {
        let history = read_status(folder).unwrap_or_default().history;
        let expected = format!("started from weights {:.16}", self.model.hash());
        if self.protocol.from_random || history.iter().any(|event| event.text == expected) {
            return Ok(());
        }
        Err(Error::Run(format!(
            "`{}` holds a run that started from other weights than `{}` has now; choose another folder or remove it",
            folder.display(),
            self.file
        )))
    }

    /// Judges the last epoch of a run on a split.
    fn judge(&self, run: &Path, split: &dyn Dataset, device: &str) -> Result<(Judged, Weights)> {
        let device = machine::device(device)?;
        let trained = Weights::load(run, device)?;
        let classifier = Classifier::new(&trained.teacher()?, device)?;
        let model = self.model.preprocess.as_ref().or(trained.preprocess.as_ref());
        let model = model.ok_or_else(|| Error::Weights("no preprocessing is known".to_owned()))?;
        let judged =
            classifier.judge(&self.protocol.preprocess(model), split, self.seed, &mut |_, _| ())?;
        Ok((judged, trained))
    }

    /// The source cut so that its training split is `training` and its test split `queries`; `name` tells cuts apart.
    fn cut(&self, name: &str, training: &Arc<dyn Dataset>, queries: &Arc<dyn Dataset>) -> Source {
        let counts = [training.len(), queries.len()];
        let Selection { limit, holdout, label_fraction, .. } = self.selection;
        let cut = json!([
            name,
            self.source.fingerprint,
            counts,
            [json!(limit), json!(holdout), json!(label_fraction)],
            self.seed,
        ]);
        Source {
            format: self.source.format.clone(),
            location: self.source.location.clone(),
            classes: self.source.classes.clone(),
            splits: vec![
                ("train".to_owned(), Arc::clone(training)),
                ("test".to_owned(), Arc::clone(queries)),
            ],
            fingerprint: blake3::hash(cut.to_string().as_bytes()).to_hex().to_string(),
        }
    }
}

/// Writes what a point came to beside its run.
fn note(folder: &Path, value: Option<f64>) -> Result<Option<f64>> {
    replace_text(&folder.join(JUDGED), &format!("{}\n", json!(value)))?;
    Ok(value)
}

/// Two data sets one behind the other.
fn joined(first: &Arc<dyn Dataset>, second: &Arc<dyn Dataset>) -> Arc<dyn Dataset> {
    Arc::new(crate::data::joined::Joined::new(vec![Arc::clone(first), Arc::clone(second)]))
}

/// The point of the largest value; of equal ones the first.
fn best(tried: &[Tried]) -> Option<Point> {
    let finite = tried.iter().filter_map(|tried| Some((tried.value?, tried.point)));
    finite.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, point)| point)
}
