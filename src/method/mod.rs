//! Pre-training methods. Each is one file that reads like its paper.
//!
//! What several of them have in common is in `passes` (how views go through networks), [`momentum`] (networks that follow
//! others), [`queue`] and [`bank`] (rows remembered from earlier steps), `prediction` and `group_branch` (where plug-ins
//! attach), and [`compared`] (what a loss compared, for who watches it).

pub mod bank;
pub mod barlow;
pub mod byol;
pub mod classifier;
pub mod compared;
pub mod distill;
pub mod infomin;
pub mod moco;
pub mod momentum;
pub mod npid;
pub mod queue;
pub mod simclr;
pub mod simsiam;
pub mod supcon;
pub mod swav;
pub mod vicreg;

mod group_branch;
mod passes;
mod prediction;
#[cfg(test)]
mod testing;

use crate::augment::ViewRecipe;
use crate::data::{Labels, Presence};
use crate::error::{Error, Result};
use crate::model::resnet::ResNet;
use crate::model::{BackboneConfig, Frozen, Parameters, Statistics};
use crate::plugin::Plugins;
use crate::random::{Purpose, Scope, Stream};
use compared::Scores;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// Where in the run a method is called, and on which images.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Optimizer steps taken before this one.
    pub index: u64,
    /// Optimizer steps of the run.
    pub steps: u64,
    /// Optimizer steps of an epoch, at least 1.
    pub steps_per_epoch: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Index in the data set of each image of the batch.
    pub indices: &'a [usize],
    /// What each image of the data set shows, for methods that learn from labels.
    pub labels: Option<&'a Labels>,
    /// Virtual ranks: normalisation groups, each of consecutive images of the batch.
    pub ranks: i64,
    /// Rows of a tile in the losses that compare all rows with all rows, at least 1.
    pub tile_rows: i64,
}

impl Step<'_> {
    /// Epoch, from 0.
    pub fn epoch(&self) -> u64 {
        self.index / self.steps_per_epoch
    }

    /// Share of the run that lies behind, in [0, 1).
    pub fn progress(&self) -> f64 {
        self.index as f64 / self.steps as f64
    }

    /// The random numbers of this step for a purpose; `part` tells several streams of one purpose apart.
    pub fn stream(&self, purpose: Purpose, part: u8) -> Stream {
        Stream::open(self.seed, purpose, Scope::Step { step: self.index, view: part })
    }

    /// The labels of the batch, i64 `[N]`, for `method`, which learns from them.
    ///
    /// # Errors
    /// [`Error::Data`] if not every training image has one, or they show several classes.
    pub fn labels_of_batch(&self, method: &str, device: Device) -> Result<Tensor> {
        let labels = self.labels.ok_or_else(|| {
            Error::Data(format!(
                "method {method} learns from labels, and not every training image has one; take `simclr` for data \
                 without labels"
            ))
        })?;
        let labels = labels.one().ok_or_else(|| {
            Error::Data(format!(
                "method {method} learns one class an image, and these images show any number of classes; \
                 `classifier` learns from such"
            ))
        })?;
        let labels: Vec<i64> = self.indices.iter().map(|image| i64::from(labels[*image])).collect();
        Ok(Tensor::from_slice(&labels).to_device(device))
    }

    /// 1 for each class that an image of the batch shows, else 0, `[N, C]`, where images show any number of classes. A
    /// class that is only shown in a difficult way counts as not shown.
    pub fn shown_in_batch(&self, (device, kind): (Device, Kind)) -> Option<Tensor> {
        let Some(Labels::Several(labels)) = self.labels else { return None };
        let rows = self.indices.iter().flat_map(|image| labels.of(*image));
        let shown: Vec<f32> =
            rows.map(|it| f32::from(u8::from(*it == Presence::Present))).collect();
        let shown = Tensor::from_slice(&shown).view([-1, labels.classes() as i64]);
        Some(shown.to_device(device).to_kind(kind))
    }

    /// The indices as i64 `[N]`.
    pub fn images(&self, device: Device) -> Tensor {
        let indices: Vec<i64> = self.indices.iter().map(|index| *index as i64).collect();
        Tensor::from_slice(&indices).to_device(device)
    }
}

/// Which views of an image go where, by their place in the recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiring {
    /// Views that the trained backbone sees: [`Method::embed`]. None where the backbone is not trained.
    pub online: Vec<usize>,
    /// Views that a network without a gradient sees: [`Method::targets`].
    pub targets: Vec<usize>,
}

impl Wiring {
    /// The first `count` views for the trained backbone, none for another.
    pub fn online(count: usize) -> Self {
        Self { online: (0..count).collect(), targets: Vec::new() }
    }

    /// Views of an image in all.
    pub fn views(&self) -> usize {
        self.online.iter().chain(&self.targets).max().map_or(0, |last| last + 1)
    }
}

/// Features of a whole batch.
#[derive(Debug)]
pub struct Rows {
    /// Of the online views, `[V, N, F]`; `[0, N, F]` where no network with a gradient sees a view.
    pub online: Tensor,
    /// Of the target views, `[V, N, F]`, without a graph, if the method has such.
    pub targets: Option<Tensor>,
}

impl Rows {
    /// The target rows.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are none.
    pub fn targets(&self) -> Result<&Tensor> {
        self.targets.as_ref().ok_or_else(|| Error::Shape("there are no target rows".to_owned()))
    }
}

/// What [`Method::objective`] gives back.
#[derive(Debug)]
pub struct Objective {
    /// The loss of the whole batch.
    pub loss: f64,
    /// Gradient of the loss for the online rows, of their shape `[V, N, F]`.
    pub rows_gradient: Tensor,
    /// What the loss compared, `[R, d]`, detached and not normalised; the sentinels look at its spread.
    pub projections: Tensor,
    /// Named values worth logging, `contrastive_accuracy`. The sentinels know `positive_similarity`,
    /// `negative_similarity` (mean cosines) and `prototype_usage` (share of the prototypes in use).
    pub scalars: Vec<(String, f64)>,
    /// What [`Method::after_step`] is to remember: keys for a queue, features for a bank.
    pub carried: Vec<Tensor>,
    /// What the loss compared, where it compares rows; for those who record scores.
    pub scores: Option<Scores>,
}

impl Objective {
    /// Works out the gradient of `loss`, a scalar with a graph that leads to `leaf` (and to the heads' parameters, whose
    /// gradients it adds to).
    pub fn backward(loss: &Tensor, leaf: &Tensor, projections: &Tensor) -> Self {
        let value = loss.double_value(&[]);
        loss.backward();
        let gradient = leaf.grad();
        let rows_gradient = if gradient.defined() { gradient } else { leaf.zeros_like() };
        Self {
            loss: value,
            rows_gradient,
            projections: projections.detach(),
            scalars: Vec::new(),
            carried: Vec::new(),
            scores: None,
        }
    }

    /// With these values to log.
    #[must_use]
    pub fn with<'a>(mut self, scalars: impl IntoIterator<Item = (&'a str, f64)>) -> Self {
        self.scalars.extend(scalars.into_iter().map(|(name, value)| (name.to_owned(), value)));
        self
    }

    /// With what the loss compared.
    #[must_use]
    pub fn comparing(self, scores: Scores) -> Self {
        Self { scores: Some(scores), ..self }
    }
}

/// What the loss of a network that tells nothing apart comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constant {
    /// Its value.
    pub value: f64,
    /// How it is written, `ln(2N - 1)`.
    pub formula: &'static str,
}

/// A way to learn from views of images.
///
/// A step has two halves. [`Method::embed`] and [`Method::targets`] see images, a micro-batch at a time.
/// [`Method::objective`] sees the rows of the whole batch at once, as leaves, so the loss never notices how the batch was
/// cut (gradient caching, Gao et al. 2021, arXiv:2101.06983). What a method remembers (queue, bank, momentum networks) is
/// among its [`Method::parameters`], and moves in [`Method::after_step`] alone.
pub trait Method {
    /// Which views go where.
    fn wiring(&self) -> &Wiring;

    /// Embeds a micro-batch: the online views, `[n, 3, h, w]` each, to rows `[V, n, F]`. Normalisation statistics are taken
    /// over `groups` groups of n / groups consecutive images each.
    fn embed(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor;

    /// Embeds the target views of a micro-batch in the same way, by another network. Called once per micro-batch and
    /// without a graph, for a wiring that has target views.
    fn targets(&self, _views: &[Tensor], _groups: i64, _statistics: Statistics) -> Tensor {
        unreachable!("the wiring has no target views")
    }

    /// The order in which [`Method::targets`] is to see the images of the batch, so that its normalisation groups are others
    /// than those of the online views; rows come back in the batch's own order.
    fn targets_order(&self, _step: &Step<'_>) -> Option<Vec<usize>> {
        None
    }

    /// Loss and gradient of the rows of a whole batch; gradients of what lies behind the rows (heads) are added to their
    /// parameters.
    ///
    /// # Errors
    /// [`Error::Shape`] if the rows do not fit the method.
    fn objective(&self, rows: &Rows, step: &Step<'_>) -> Result<Objective>;

    /// Between the gradient and the optimizer: a method may drop gradients here (frozen prototypes).
    fn before_update(&self, _step: &Step<'_>) {}

    /// After the optimizer: moves what the method remembers. `carried` is what the objective of this step gave back. A step
    /// that is left out moves nothing.
    fn after_step(&self, _carried: &[Tensor], _step: &Step<'_>) {}

    /// The loss for a batch of `batch_size` images at which a collapsed or untaught network stays, if there is one.
    fn stuck_at(&self, batch_size: usize) -> Option<Constant>;

    /// Settings of this run that take away what keeps the method from collapsing, `method.stop_gradient = false`.
    fn suspects(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Beginnings of the names of the tensors that `backbone.weights` replaces. A model to start from must match each of
    /// these parts exactly: every tensor of the part is in it, and it has no other there.
    fn inherits(&self) -> Vec<String> {
        vec!["backbone.".to_owned()]
    }

    /// After `backbone.weights` are in place: what starts equal to them does so anew.
    fn inherited(&self) {}

    /// How many of the views that rows come from, the first, are whole images; all of them if it does not say. The probe
    /// learns from these.
    fn whole_views(&self) -> Option<usize> {
        None
    }

    /// Beginnings of the names of the tensors that never move, buffers included. The loop proves it after every epoch, by
    /// their hash.
    fn frozen(&self) -> Vec<String> {
        Vec::new()
    }

    /// Everything the optimizer moves, the buffers that go with it, and what the method moves itself.
    fn parameters(&self) -> &Parameters;

    /// What evaluation sees; its parameters are named `backbone.…`.
    fn backbone(&self) -> &ResNet;
}

/// Beside a method's own settings, what it is built from.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// The network.
    pub backbone: &'a BackboneConfig,
    /// What is added to the method.
    pub plugins: &'a Plugins,
    /// Views of an image that the recipe makes.
    pub views: usize,
    /// Images of the data set.
    pub images: usize,
    /// Images of a batch.
    pub batch: usize,
    /// Classes of the data set, 0 unless every image has a label.
    pub classes: usize,
    /// Whether an image may show several of them.
    pub multi_label: bool,
    /// Who teaches, for a method that learns from another network.
    pub teacher: Option<&'a distill::Teacher>,
    /// Initial values are drawn from it.
    pub seed: u64,
    /// Where everything lies.
    pub device: Device,
    /// Kind of the parameters.
    pub kind: Kind,
}

impl Setup<'_> {
    /// Virtual ranks: normalisation groups of a batch.
    pub fn ranks(&self) -> usize {
        match self.backbone.norm_group {
            0 => 1,
            group => self.batch / group,
        }
    }
}

/// Where a plug-in attaches to a method, or why it does not.
pub type Fit = std::result::Result<&'static str, &'static str>;

/// How the plug-ins go with a method; `docs/plugins.md` has them all in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fits {
    /// Feature transformation.
    pub feature_transformation: Fit,
    /// Cross-level discrimination.
    pub cross_level: Fit,
    /// Guided stop-gradient.
    pub guided_stop_gradient: Fit,
}

impl Fits {
    /// The plug-ins by the names of their tables.
    pub fn named(&self) -> [(&'static str, Fit); 3] {
        [
            ("feature_transformation", self.feature_transformation),
            ("cross_level", self.cross_level),
            ("guided_stop_gradient", self.guided_stop_gradient),
        ]
    }
}

/// What a method holds beside a backbone with its gradient and optimizer state, in scalars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Columns that a tile of the loss compares each row with.
    pub columns: usize,
    /// Scalars of momentum networks, queues and banks, and of heads and matrices where they are large.
    pub state: u64,
}

impl Held {
    /// Scalars for each that an optimizer moves: its value, its gradient, and what Adam remembers.
    const TRAINED: u64 = 4;
}

/// Settings of a method: what follows from them alone.
pub trait Settings {
    /// Which views go where, given how many a recipe makes.
    fn wiring(&self, plugins: &Plugins, views: usize) -> Wiring;

    /// Which plug-ins go with the method.
    fn fits(&self) -> Fits;

    /// What it holds for a data set of `images` images, in batches of `batch`.
    fn held(&self, backbone: &BackboneConfig, views: usize, batch: usize, images: usize) -> Held;

    /// What of the backbone stays as it is.
    fn frozen(&self) -> Frozen {
        Frozen::Nothing
    }

    /// Checks ranges, and that the settings go together with those of the plug-ins.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key.
    fn check(&self, plugins: &Plugins) -> Result<()>;

    /// Checks that the views, as many as [`Self::wiring`] asks for, are of the kinds the method takes.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the view.
    fn check_views(&self, _plugins: &Plugins, _views: &[ViewRecipe]) -> Result<()> {
        Ok(())
    }
}

/// Makes the settings enum, the list of names and the builder out of one list.
macro_rules! methods {
    ($($(#[$doc:meta])* $variant:ident = $module:ident),* $(,)?) => {
        /// Settings of a method, told apart by `name`.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "name", rename_all = "lowercase")]
        pub enum Config {
            $($(#[$doc])* $variant($module::Config),)*
        }

        /// The names of all methods.
        pub const NAMES: &[&str] = &[$(stringify!($module)),*];

        impl Config {
            /// The method's name.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($module),)* }
            }

            /// The same settings without what says where something lies: what a checkpoint tells about its networks.
            #[must_use]
            pub fn without_paths(&self) -> Self {
                match self {
                    Self::Distill(config) => {
                        Self::Distill(distill::Config { teacher: None, ..config.clone() })
                    }
                    other => other.clone(),
                }
            }

            /// What follows from the settings alone.
            pub fn settings(&self) -> &dyn Settings {
                match self { $(Self::$variant(config) => config,)* }
            }

            /// Checks the method's settings, and that the plug-ins go with it.
            ///
            /// # Errors
            /// [`Error::Recipe`] naming the key, and why a plug-in does not go with the method.
            pub fn check(&self, plugins: &Plugins) -> Result<()> {
                plugins.check()?;
                let on = plugins.each();
                for (plugin, fit) in self.settings().fits().named() {
                    if let (true, Err(why)) = (on.iter().any(|(name, _)| *name == plugin), fit) {
                        return Err(Error::Recipe(format!(
                            "`plugins.{plugin}` does not go with method {}: {why}",
                            self.name()
                        )));
                    }
                }
                self.settings().check(plugins)
            }

            /// Builds the networks of the method.
            ///
            /// # Errors
            /// [`Error::Recipe`] if the settings do not fit each other.
            pub fn build(&self, setup: &Setup<'_>) -> Result<Box<dyn Method>> {
                let parameters = Parameters::new(setup.seed, setup.device, setup.kind);
                Ok(match self {
                    $(Self::$variant(config) => {
                        Box::new($module::$variant::build(config, setup, parameters)?)
                    })*
                })
            }
        }
    };
}

methods! {
    /// [`barlow`].
    Barlow = barlow,
    /// [`byol`].
    Byol = byol,
    /// [`classifier`].
    Classifier = classifier,
    /// [`distill`].
    Distill = distill,
    /// [`infomin`].
    InfoMin = infomin,
    /// [`moco`].
    MoCo = moco,
    /// [`npid`].
    Npid = npid,
    /// [`simclr`].
    SimClr = simclr,
    /// [`simsiam`].
    SimSiam = simsiam,
    /// [`supcon`].
    SupCon = supcon,
    /// [`swav`].
    SwAv = swav,
    /// [`vicreg`].
    VicReg = vicreg,
}

/// Checks that a setting of the recipe lies in its range.
pub(crate) fn require(
    holds: bool,
    key: &str,
    range: &str,
    found: impl std::fmt::Display,
) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::Recipe(format!("`{key}` must be {range}, found `{found}`")))
}
