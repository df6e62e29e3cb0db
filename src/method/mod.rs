//! Pre-training methods. Each is one file that reads like its paper.

pub mod simclr;

use crate::error::Result;
use crate::model::resnet::ResNet;
use crate::model::{BackboneConfig, Parameters, Statistics};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// Where in the run a method is called.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Optimizer steps taken before this one.
    pub index: u64,
    /// Rows of a tile in the losses that compare all rows with all rows, at least 1.
    pub tile_rows: i64,
}

/// What [`Method::objective`] gives back.
#[derive(Debug)]
pub struct Objective {
    /// The loss of the whole batch.
    pub loss: f64,
    /// Gradient of the loss for the rows, of their shape `[V, N, F]`.
    pub rows_gradient: Tensor,
    /// What the loss compared, `[R, d]`, detached and not normalised; the sentinels look at its spread.
    pub projections: Tensor,
    /// Named values worth logging, `contrastive_accuracy`. The sentinels know `positive_similarity`,
    /// `negative_similarity` (mean cosines) and `prototype_usage` (share of the prototypes in use).
    pub scalars: Vec<(String, f64)>,
}

/// What the loss of a network that tells nothing apart comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constant {
    /// Its value.
    pub value: f64,
    /// How it is written, `ln(2N - 1)`.
    pub formula: &'static str,
}

/// A way to learn from views of images without labels.
///
/// A step has two halves. [`Method::embed`] sees images, a micro-batch at a time. [`Method::objective`] sees the rows of
/// the whole batch at once, as leaves, so the loss never notices how the batch was cut (gradient caching, Gao et al.
/// 2021, arXiv:2101.06983).
pub trait Method {
    /// Views wanted per image.
    fn views(&self) -> usize;

    /// Embeds a micro-batch: V views `[n, 3, h, w]` to rows `[V, n, F]`. Normalisation statistics are taken over `groups`
    /// groups of n / groups consecutive images each, all views of an image in one group.
    fn embed(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor;

    /// Loss and gradient of the rows `[V, N, F]` of a whole batch; gradients of what lies behind the rows (heads) are
    /// added to their parameters.
    ///
    /// # Errors
    /// [`crate::error::Error::Shape`] if the rows do not fit the method.
    fn objective(&self, rows: &Tensor, step: &Step) -> Result<Objective>;

    /// The loss for a batch of `batch_size` images at which a collapsed or untaught network stays, if there is one.
    fn stuck_at(&self, batch_size: usize) -> Option<Constant>;

    /// Everything the optimizer moves and the buffers that go with it.
    fn parameters(&self) -> &Parameters;

    /// What evaluation sees; its parameters are named `backbone.…`.
    fn backbone(&self) -> &ResNet;
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

            /// Views per image.
            pub fn views(&self) -> usize {
                match self { $(Self::$variant(_) => $module::VIEWS,)* }
            }

            /// Checks ranges.
            ///
            /// # Errors
            /// [`crate::error::Error::Recipe`] naming the key.
            pub fn check(&self) -> Result<()> {
                match self { $(Self::$variant(config) => config.check(),)* }
            }

            /// Builds the networks of the method, their initial values drawn from `seed`.
            ///
            /// # Errors
            /// [`crate::error::Error::Recipe`] if the settings do not fit each other.
            pub fn build(
                &self,
                backbone: &BackboneConfig,
                seed: u64,
                device: Device,
                kind: Kind,
            ) -> Result<Box<dyn Method>> {
                let parameters = Parameters::new(seed, device, kind);
                Ok(match self {
                    $(Self::$variant(config) => {
                        Box::new($module::$variant::build(config, backbone, parameters)?)
                    })*
                })
            }
        }
    };
}

methods! {
    /// [`simclr`].
    SimClr = simclr,
}
