//! What watches a run from the program: progress bar, k-NN monitor, report.

use super::tell;
use anyhow::Result;
use diptych::augment::Preprocess;
use diptych::data::subset::{IndexList, Subset};
use diptych::data::{Dataset, Selection, Source};
use diptych::error::{Error, Result as DiptychResult};
use diptych::evaluate::features::{Features, extract};
use diptych::evaluate::neighbours::gallery;
use diptych::evaluate::run::{batch, neighbours_gallery, prepare};
use diptych::evaluate::weights::{Layer, forward};
use diptych::evaluate::{Knn, Ranks};
use diptych::experiment::selection;
use diptych::method::Method;
use diptych::recipe::Recipe;
use diptych::report;
use diptych::train::engine::guard;
use diptych::train::probe::Probe;
use diptych::train::run::log;
use diptych::train::step::Layout;
use diptych::train::{Observer, Progress};
use indicatif::{ProgressBar as Bar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A bar on a terminal, a line per epoch elsewhere.
pub(super) struct ProgressBar {
    bar: Bar,
    /// Sum of the losses of the epoch, of so many steps that this process took.
    epoch_loss: f64,
    epoch_steps: u64,
}

impl ProgressBar {
    pub(super) fn new(steps: u64) -> Self {
        let bar = Bar::new(steps).with_style(style(
            "{wide_bar} {pos}/{len} steps, {msg}, {elapsed} elapsed, {eta} left",
        ));
        Self { bar, epoch_loss: 0.0, epoch_steps: 0 }
    }

    /// The mean loss of the epoch that has ended; where some of its steps were left out or taken by an earlier process, of
    /// how many it is.
    fn mean_loss(&self, progress: &Progress) -> String {
        let first = (progress.step.max(1) - 1) / progress.steps_per_epoch;
        let all = progress.step - first * progress.steps_per_epoch;
        let mean = self.epoch_loss / self.epoch_steps as f64;
        match self.epoch_steps {
            0 => "no step was taken".to_owned(),
            steps if steps == all => format!("mean loss {mean:.4}"),
            steps => format!("mean loss {mean:.4} over {steps} of {all} steps"),
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A bar for work over images; use as `&mut |done, all| …`.
pub(super) fn image_bar(what: &str) -> impl FnMut(usize, usize) + use<> {
    let bar = Bar::new(0)
        .with_style(style("{msg} {wide_bar} {pos}/{len} images, {eta} left"))
        .with_message(what.to_owned());
    move |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        if done == all {
            bar.finish_and_clear();
        }
    }
}

/// A bar for rounds of work; use as `&mut |done, all| …`.
pub(super) fn round_bar(what: &str) -> impl FnMut(u64, u64) + use<> {
    let bar = Bar::new(0)
        .with_style(style("{msg} {wide_bar} {pos}/{len}, {eta} left"))
        .with_message(what.to_owned());
    move |done, all| {
        bar.set_length(all);
        bar.set_position(done);
        if done == all {
            bar.finish_and_clear();
        }
    }
}

impl Observer for ProgressBar {
    fn begin(&mut self, first_step: u64) {
        self.bar.set_position(first_step);
        (self.epoch_loss, self.epoch_steps) = (0.0, 0);
        // Otherwise the steps of earlier processes would count as done in no time.
        self.bar.reset_eta();
    }

    fn step(&mut self, progress: &Progress) -> DiptychResult<()> {
        if progress.loss.is_finite() {
            self.epoch_loss += progress.loss;
            self.epoch_steps += 1;
        }
        let rate =
            progress.views_per_second.map_or(String::new(), |rate| format!(", {rate:.0} views/s"));
        self.bar.set_message(format!("loss {:.4}{rate}", progress.loss));
        self.bar.set_position(progress.step);
        Ok(())
    }

    fn epoch(
        &mut self,
        progress: &Progress,
        _: &dyn Method,
        _: Option<&Probe>,
    ) -> DiptychResult<Vec<(String, f64)>> {
        let mean = self.mean_loss(progress);
        (self.epoch_loss, self.epoch_steps) = (0.0, 0);
        let [epoch, epochs] = [progress.step, progress.steps].map(|steps| {
            // Whole unless `train.max_steps` ends within an epoch.
            let hundredths = (100.0 * steps as f64 / progress.steps_per_epoch as f64).round();
            hundredths / 100.0
        });
        let rate =
            progress.views_per_second.map_or(String::new(), |rate| format!(", {rate:.0} views/s"));
        let line = format!("epoch {epoch}/{epochs}: {mean}{rate}");
        self.say(&line);
        Ok(Vec::new())
    }

    fn warn(&mut self, text: &str) {
        self.say(&format!("warning: {text}"));
    }
}

impl ProgressBar {
    fn say(&self, line: &str) {
        say(&self.bar, line);
    }
}

fn say(bar: &Bar, line: &str) {
    if bar.is_hidden() {
        tell(line);
    } else {
        bar.println(line);
    }
}

/// Weighted k-NN on a fixed part of the data after an epoch, and the nearest-neighbour picture at the end.
pub(super) struct KnnMonitor {
    parts: Option<[Arc<dyn Dataset>; 2]>,
    same: bool,
    labelled: bool,
    classes: Vec<String>,
    every_epochs: u64,
    preprocess: Preprocess,
    layout: Layout,
    run: PathBuf,
}

/// The images of a part that have labels; all of them where none has.
fn labelled_only(part: Arc<dyn Dataset>) -> DiptychResult<Arc<dyn Dataset>> {
    let labelled = (0..part.len()).filter(|index| part.label(*index).is_some());
    let labelled: Vec<u32> = labelled.map(|index| index as u32).collect();
    if labelled.is_empty() || labelled.len() == part.len() {
        return Ok(part);
    }
    Ok(Arc::new(Subset::new(part, labelled)?))
}

impl KnnMonitor {
    pub(super) fn new(
        recipe: &Recipe,
        source: &Source,
        preprocess: &Preprocess,
        layout: &Layout,
        run: &Path,
    ) -> DiptychResult<Self> {
        let config = &recipe.train.knn;
        let some = |dataset: Arc<dyn Dataset>, limit: usize| {
            diptych::data::subset::limit(dataset, limit, recipe.seed)
        };
        let selection = Selection { limit: None, ..selection(recipe) };
        // Without a split to ask about, training images are compared with one another, for the picture only.
        let cut = source.for_evaluation(&selection).ok();
        let same = cut.is_none();
        let parts = cut.map(<[_; 2]>::from).or_else(|| {
            let training = source.for_training(&selection).ok()?;
            Some([Arc::clone(&training), training])
        });
        let parts = parts
            .map(|[references, queries]| {
                let references = some(labelled_only(references)?, config.references);
                let queries = if same {
                    Arc::clone(&references)
                } else {
                    some(labelled_only(queries)?, config.queries)
                };
                Ok::<_, Error>([references, queries])
            })
            .transpose()?;
        let labelled = !same
            && parts.as_ref().is_some_and(|parts| {
                parts.iter().all(|part| !part.is_empty() && part.label(0).is_some())
            });
        Ok(Self {
            parts,
            same,
            labelled,
            classes: source.classes.clone(),
            every_epochs: u64::from(config.every_epochs),
            preprocess: preprocess.clone(),
            layout: layout.clone(),
            run: run.to_owned(),
        })
    }

    /// The number after an epoch, and at the end the picture.
    fn judge(
        &self,
        last: bool,
        method: &dyn Method,
        probe: Option<&Probe>,
    ) -> DiptychResult<Vec<(String, f64)>> {
        let Some([references, queries]) = &self.parts else { return Ok(Vec::new()) };
        let reference_features = self.features(references.as_ref(), method)?;
        let query_features = self.features(queries.as_ref(), method)?;
        if last {
            self.draw(
                (&query_features, queries.as_ref()),
                (&reference_features, references.as_ref()),
            )?;
        }
        if !self.labelled {
            return Ok(Vec::new());
        }
        let ranks: Ranks = Knn::default().evaluate(&query_features, &reference_features)?;
        let mut values = vec![("knn/top1".to_owned(), ranks.top(1).value)];
        let top1 = probe.and_then(|probe| probe.top1(&query_features.h, &query_features.labels));
        values.extend(top1.map(|top1| ("probe/top1".to_owned(), top1)));
        Ok(values)
    }

    fn features(&self, dataset: &dyn Dataset, method: &dyn Method) -> DiptychResult<Features> {
        let side = self.preprocess.size_px();
        let (device, kind) = (self.layout.device, self.layout.precision.parameters());
        let mut forward = |pixels: &[u8], n: usize| {
            forward(method.backbone(), pixels, n, &self.preprocess, Layer::H, device, kind)
        };
        let prepare = prepare(&self.preprocess);
        // What fits with a graph fits without.
        let views = self.layout.micro_batch * self.layout.views.len();
        let batch = batch(side).min(views);
        extract(&mut forward, dataset, (side, side), &prepare, batch, &mut |_, _| ())
    }

    fn draw(
        &self,
        queries: (&Features, &dyn Dataset),
        references: (&Features, &dyn Dataset),
    ) -> DiptychResult<()> {
        let examples = gallery(queries.0, references.0, 8, 8, self.same)?;
        neighbours_gallery(&examples, queries.1, references.1, &self.classes, self.same)?
            .save(&self.run.join("pictures"), "neighbours")
    }
}

impl Observer for KnnMonitor {
    fn epoch(
        &mut self,
        progress: &Progress,
        method: &dyn Method,
        probe: Option<&Probe>,
    ) -> DiptychResult<Vec<(String, f64)>> {
        let epoch = progress.step.div_ceil(progress.steps_per_epoch);
        let last = progress.step == progress.steps;
        let due = self.every_epochs > 0 && (last || epoch.is_multiple_of(self.every_epochs));
        if !due || !(self.labelled || last) {
            return Ok(Vec::new());
        }
        match guard("k-NN", || self.judge(last, method, probe)) {
            // What cannot be judged now is no reason to lose what is trained.
            Err(error @ (Error::Data(_) | Error::NonFinite(_) | Error::Engine(_))) => {
                let text = format!("no k-NN after step {}: {error}", progress.step);
                tell(&format!("warning: {text}"));
                log(&self.run, &text)?;
                Ok(Vec::new())
            }
            judged => judged,
        }
    }
}

/// Rewrites the report after each epoch, and every minute of a long one.
pub(super) struct Pages {
    run: PathBuf,
    written: Instant,
    pause: Duration,
}

/// At least so long between two pages of one epoch.
const PAUSE: Duration = Duration::from_mins(1);

impl Pages {
    pub(super) fn new(run: &Path) -> Self {
        Self { run: run.to_owned(), written: Instant::now(), pause: PAUSE }
    }

    fn write(&mut self) -> DiptychResult<()> {
        let started = Instant::now();
        report::write(&self.run)?;
        self.written = Instant::now();
        // A page of a long run takes a while; half a percent of the time is enough for them.
        self.pause = PAUSE.max(200 * (self.written - started));
        Ok(())
    }
}

impl Observer for Pages {
    fn step(&mut self, _: &Progress) -> DiptychResult<()> {
        if self.written.elapsed() < self.pause { Ok(()) } else { self.write() }
    }

    fn saved(&mut self, _: &Progress) -> DiptychResult<()> {
        self.write()
    }
}

/// Opens a data source and keeps only some classes of it, all if none is named.
pub(super) fn open_source(location: &str, classes: &[String]) -> DiptychResult<Source> {
    open_subset(location, None, classes)
}

/// Opens a data source, keeps the images of a list if there is one, then only some classes, all if none is named.
pub(super) fn open_subset(
    location: &str,
    list: Option<&String>,
    classes: &[String],
) -> DiptychResult<Source> {
    let mut source = diptych::data::open(location)?;
    if let Some(list) = list {
        source = IndexList::read(Path::new(list), &source, None)?.apply(&source)?;
    }
    if classes.is_empty() { Ok(source) } else { diptych::data::subset::classes(&source, classes) }
}

/// The recipe of a model where `--data` is left out or names what it was trained on: how the run cut its images holds for
/// those alone.
pub(super) fn of_own_data<'a>(
    given: Option<&String>,
    model: Option<&'a Recipe>,
) -> Option<&'a Recipe> {
    let own = |recipe: &&Recipe, given: &str| {
        recipe.data.source.as_ref().is_some_and(|own| same_place(given, own))
    };
    model.filter(|recipe| given.is_none_or(|given| own(recipe, given)))
}

/// Whether two locations of data are one.
pub(super) fn same_place(a: &str, b: &str) -> bool {
    let path = |location: &str| Path::new(location).canonicalize().ok();
    a == b || path(a).is_some_and(|a| path(b) == Some(a))
}

/// Where a command finds its data: `--data`, or what the model was trained on.
pub(super) fn location(given: Option<&String>, model: Option<&Recipe>) -> Result<String> {
    let location = given.or(model.and_then(|recipe| recipe.data.source.as_ref()));
    Ok(location.cloned().ok_or_else(|| {
        Error::Recipe(
            "no data: name it with --data, `--data synthetic:scenes` for a start".to_owned(),
        )
    })?)
}
