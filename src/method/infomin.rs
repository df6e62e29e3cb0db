//! `InfoMin`: what makes for good views for contrastive learning?
//!
//! **Paper.** Tian et al. 2020, arXiv:2005.10243 (its best model, "InfoMin Aug."). Code: HobbitLong/PyContrast.
//!
//! **Idea.** MoCo with stronger augmentation and a second query: nine patches of a jigsaw of the image, whose order the
//! head does not know, should find the same key.
//!
//! **Symbols.** As [`moco`]; patches p₁…p₉, u = g₁(f(p)) `[9, d]`, `q_j` = g₂(u in a random order, one behind the other) at
//! unit length; β weight. `L = (1 - β) L_MoCo(q, k) + β L_MoCo(q_j, k)`, both against one queue.
//!
//! **Deviations.** With cross-level discrimination there are two queries and one jigsaw; that code has the contrast twice
//! per step, keys enqueued twice.
//!
//! **Cost.** MoCo's, and a forward and backward pass for nine patches, of 64 pixels as published.

use crate::augment::{Step as ViewStep, ViewRecipe};
use crate::error::{Error, Result};
use crate::method::moco::{self, Contrasted, MoCo};
use crate::method::momentum::MomentumSchedule;
use crate::method::{
    Constant, Fits, Held, Method, Objective, Rows, Settings, Setup, Step, Wiring, passes, require,
};
use crate::model::heads::{Head, HeadConfig};
use crate::model::resnet::ResNet;
use crate::model::{BackboneConfig, Parameters, Phase, Statistics};
use crate::plugin::Plugins;
use crate::random::Purpose;
use crate::shape;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Settings of `InfoMin`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// T, above 0.
    pub temperature: f64,
    /// K, keys in the queue.
    pub queue_length: usize,
    /// m, in [0, 1].
    pub momentum: f64,
    /// β, in [0, 1): weight of the jigsaw; 0 leaves it and its view out.
    pub jigsaw_weight: f64,
    /// Whether the key network's normalisation groups are made of other images than the query network's.
    pub shuffle: bool,
    /// g, and g₁ in its own copy.
    pub projector: HeadConfig,
}

impl Default for Config {
    fn default() -> Self {
        let moco = moco::Config::default();
        Self {
            temperature: 0.15,
            queue_length: moco.queue_length,
            momentum: moco.momentum,
            jigsaw_weight: 0.5,
            shuffle: moco.shuffle,
            projector: moco.projector,
        }
    }
}

/// Patches in a row of the jigsaw, and in all.
const GRID: i64 = 3;
const PATCHES: i64 = GRID * GRID;

impl Config {
    fn moco(&self) -> moco::Config {
        moco::Config {
            temperature: self.temperature,
            queue_length: self.queue_length,
            momentum: self.momentum,
            momentum_schedule: MomentumSchedule::Constant,
            shuffle: self.shuffle,
            projector: self.projector.clone(),
            ..moco::Config::default()
        }
    }
}

impl Settings for Config {
    fn wiring(&self, plugins: &Plugins, views: usize) -> Wiring {
        let mut wiring = self.moco().wiring(plugins, views);
        if self.jigsaw_weight > 0.0 {
            wiring.online.push(wiring.views());
        }
        wiring
    }

    fn held(&self, backbone: &BackboneConfig, views: usize, batch: usize, images: usize) -> Held {
        let held = self.moco().held(backbone, views, batch, images);
        if self.jigsaw_weight == 0.0 {
            return held;
        }
        // The head of the patches is a projector, that of the whole a layer on all of them.
        let outputs = self.projector.output as u64;
        let patch = self.projector.parameter_count(backbone.features());
        let heads = patch + PATCHES as u64 * outputs * outputs;
        Held { state: held.state + Held::TRAINED * heads, ..held }
    }

    fn fits(&self) -> Fits {
        Fits {
            feature_transformation: Ok(
                "(q, k) and (q_j, k) extrapolated, each with its own λ; the queue mixed once for both",
            ),
            ..self.moco().fits()
        }
    }

    fn check(&self, plugins: &Plugins) -> Result<()> {
        let beta = self.jigsaw_weight;
        require(
            (0.0..1.0).contains(&beta),
            "method.jigsaw_weight",
            "at least 0 and below 1",
            beta,
        )?;
        self.moco().check(plugins)
    }

    fn check_views(&self, plugins: &Plugins, views: &[ViewRecipe]) -> Result<()> {
        let jigsaw = |view: &ViewRecipe| {
            let grid = |step: &ViewStep| match step {
                ViewStep::Jigsaw(jigsaw) => Some(jigsaw.grid),
                _ => None,
            };
            view.steps.iter().find_map(grid)
        };
        let kinds: Vec<Option<usize>> =
            views.iter().flat_map(|view| vec![jigsaw(view); view.count]).collect();
        let last = kinds.len() - 1;
        let expected = |view: usize| {
            let puzzle = self.jigsaw_weight > 0.0 && view == last;
            puzzle.then_some(GRID as usize)
        };
        if (0..=last).all(|view| kinds[view] == expected(view)) {
            return Ok(());
        }
        let whole = self.moco().wiring(plugins, kinds.len()).views();
        Err(Error::Recipe(if self.jigsaw_weight > 0.0 {
            format!(
                "`view` must be {whole} whole images and then a `jigsaw` of grid 3 for method infomin; \
                 `method.jigsaw_weight=0` leaves the jigsaw out"
            )
        } else {
            "`view` must be whole images for method infomin with `method.jigsaw_weight = 0`: leave the `jigsaw` out"
                .to_owned()
        }))
    }
}

/// The networks of `InfoMin`.
pub struct InfoMin {
    moco: MoCo,
    wiring: Wiring,
    jigsaw: Option<JigsawHead>,
}

/// g₁ on every patch, g₂ on all of them in a random order.
struct JigsawHead {
    patch: Head,
    whole: Head,
    weight: f64,
}

impl InfoMin {
    pub(super) fn build(
        config: &Config,
        setup: &Setup<'_>,
        parameters: Parameters,
    ) -> Result<Self> {
        let mut moco = MoCo::build(&config.moco(), setup, parameters)?;
        let wiring = config.wiring(setup.plugins, setup.views);
        let features = moco.backbone.features();
        let head = |moco: &mut MoCo| -> Result<JigsawHead> {
            let mut root = moco.parameters.root();
            let mut place = root.at("jigsaw");
            let patch = Head::build(&mut place.at("patch"), features, &config.projector)?;
            let one_layer = HeadConfig { layers: 1, ..config.projector.clone() };
            let whole = Head::build(&mut place.at("whole"), PATCHES * patch.outputs(), &one_layer)?;
            Ok(JigsawHead { patch, whole, weight: config.jigsaw_weight })
        };
        let jigsaw = (config.jigsaw_weight > 0.0).then(|| head(&mut moco)).transpose()?;
        Ok(Self { moco, wiring, jigsaw })
    }

    /// Online views that are whole images.
    fn queries(&self) -> usize {
        self.wiring.online.len() - usize::from(self.jigsaw.is_some())
    }
}

/// The patches of a jigsaw `[n, C, 3s, 3s]`, nine images `[s, s]` in three rows: `[n·9, C, s, s]`, an image's next to each
/// other.
fn patches(jigsaw: &Tensor) -> Tensor {
    let size = jigsaw.size();
    let (n, channels, side) = (size[0], size[1], size[2] / GRID);
    jigsaw.reshape([n, channels, GRID, side, GRID, side]).permute([0, 2, 4, 1, 3, 5]).reshape([
        n * PATCHES,
        channels,
        side,
        side,
    ])
}

impl JigsawHead {
    /// Rows of the patches `[9, N, F]` to projections `[N, d]`.
    fn project(&self, rows: &Tensor, step: &Step<'_>) -> Tensor {
        let images = rows.size()[1];
        let phase = Phase::Training { groups: 1, statistics: Statistics::Move { seen: 0, of: 1 } };
        let rows = rows.transpose(0, 1).reshape([images * PATCHES, -1]); // [N·9, F]
        let u = self.patch.forward(&rows, phase).view([images, PATCHES, -1]);
        let mut stream = step.stream(Purpose::Patches, 0);
        let order: Vec<i64> = (0..images)
            .flat_map(|_| stream.permutation(PATCHES as usize))
            .map(|patch| patch as i64)
            .collect();
        let order = Tensor::from_slice(&order).to_device(u.device()).view([images, PATCHES, 1]);
        let shuffled = u.gather(1, &order.expand_as(&u), false);
        self.whole.forward(&shuffled.flatten(1, 2), phase)
    }
}

impl Method for InfoMin {
    fn wiring(&self) -> &Wiring {
        &self.wiring
    }

    fn embed(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor {
        let backbone = &self.moco.backbone;
        let (queries, jigsaw) = views.split_at(self.queries());
        let passes = views.len() as i64;
        let forward = |x: &Tensor, pass: i64| {
            let statistics = passes::share(statistics, pass, passes, groups);
            backbone.forward(x, Phase::Training { groups, statistics })
        };
        let mut rows: Vec<Tensor> =
            (0..).zip(queries).map(|(pass, x)| forward(x, pass).unsqueeze(0)).collect();
        if let [jigsaw] = jigsaw {
            let n = jigsaw.size()[0];
            let h = forward(&patches(jigsaw), passes - 1); // [n·9, F]
            rows.push(h.view([n, PATCHES, -1]).transpose(0, 1));
        }
        Tensor::cat(&rows, 0)
    }

    fn targets(&self, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor {
        self.moco.targets(views, groups, statistics)
    }

    fn targets_order(&self, step: &Step<'_>) -> Option<Vec<usize>> {
        self.moco.targets_order(step)
    }

    fn objective(&self, rows: &Rows, step: &Step<'_>) -> Result<Objective> {
        let Some(jigsaw) = &self.jigsaw else { return self.moco.objective(rows, step) };
        let (queries, targets) = (self.queries() as i64, rows.targets()?);
        shape::check(
            "rows",
            &rows.online,
            &[queries + PATCHES, -1, self.moco.backbone.features()],
        )?;
        let h = rows.online.detach().set_requires_grad(true);
        let taps = passes::heads_apart(&self.moco.projector, &h.narrow(0, 0, queries));
        let z = passes::outputs(&taps);
        let z_jigsaw = jigsaw.project(&h.narrow(0, queries, PATCHES), step);
        let k = self.moco.keys(targets);
        let [key] = k.as_slice() else {
            return Err(Error::Shape(format!("one key view is needed, found {}", k.len())));
        };

        // All queries see the queue mixed alike; each is mixed with the key by itself.
        let shared = u8::MAX;
        let queue = &self.moco.queues[0];
        let contrast = |z: &Tensor, stream: u8| {
            self.moco.contrast(&self.moco.length(z), key, queue, step, [stream, shared])
        };
        let Contrasted { loss: found, scalars: [accuracy, ..], .. } =
            contrast(&z_jigsaw, queries as u8)?;
        let mut loss = found * jigsaw.weight;
        let mut told = [0.0; 3];
        let mut compared = None; // of the first whole image
        for (index, z) in (0..).zip(&z) {
            let Contrasted { loss: part, scalars, scores } = contrast(z, index)?;
            compared.get_or_insert(scores);
            loss += part * ((1.0 - jigsaw.weight) / queries as f64);
            told.iter_mut().zip(scalars).for_each(|(sum, value)| *sum += value / queries as f64);
        }
        let mut scalars: Vec<_> =
            ["contrastive_accuracy", "positive_similarity", "negative_similarity"]
                .into_iter()
                .zip(told)
                .collect();
        scalars.push(("jigsaw_accuracy", accuracy));
        if let Some(group) = &self.moco.group {
            let (more, told) = group.loss(&passes::two_views(&taps), step)?;
            loss += more;
            scalars.extend(told);
        }
        let mut objective = Objective::backward(&loss, &h, &Tensor::cat(&z, 0)).with(scalars);
        objective.carried = k;
        objective.scores = compared;
        Ok(objective)
    }

    fn after_step(&self, carried: &[Tensor], step: &Step<'_>) {
        self.moco.after_step(carried, step);
    }

    /// Behind the queries are the patches of the jigsaw.
    fn whole_views(&self) -> Option<usize> {
        Some(self.queries())
    }

    fn inherited(&self) {
        self.moco.inherited();
    }

    fn stuck_at(&self, batch_size: usize) -> Option<Constant> {
        self.moco.stuck_at(batch_size)
    }

    fn parameters(&self) -> &Parameters {
        self.moco.parameters()
    }

    fn backbone(&self) -> &ResNet {
        self.moco.backbone()
    }
}
