//! What follows from a recipe and a data source before anything is built: `pretrain --dry-run`.

use super::Answer;
use anyhow::Result;
use diptych::augment::{Order, Pipeline, Preprocess};
use diptych::data::{self, Dataset, Selection, Source};
use diptych::error::Error;
use diptych::machine;
use diptych::recipe::Recipe;
use diptych::train::memory_plan::MemoryPlan;
use diptych::train::schedule::Schedule;
use diptych::train::step::{Layout, ViewInput};
use serde_json::json;
use std::sync::Arc;

/// What follows from a recipe and a data source before anything is built.
pub(super) struct Plan {
    pub(super) dataset: Arc<dyn Dataset>,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) order: Order,
    pub(super) layout: Layout,
    pub(super) preprocess: Preprocess,
    /// Labels of the training images, if each has one.
    pub(super) labels: Option<Vec<u32>>,
    pub(super) steps: u64,
    pub(super) peak_learning_rate: f64,
    pub(super) schedule: Schedule,
}

impl Plan {
    pub(super) fn new(recipe: &Recipe, source: &Source) -> Result<Self> {
        let dataset = source.for_training(&selection(recipe))?;
        let batch_size = recipe.data.batch_size;
        if dataset.len() < 2 {
            return Err(Error::Data(format!(
                "`{}` gives {} image to train on; at least 2 are needed",
                source.location,
                dataset.len()
            ))
            .into());
        }
        if dataset.len() < batch_size {
            return Err(Error::Recipe(format!(
                "`data.batch_size` must be at most the number of images ({}), found `{batch_size}`; \
                 set `data.batch_size={}`",
                dataset.len(),
                dataset.len()
            ))
            .into());
        }
        let channels = 3 + dataset.constant_channels() as i64;
        if recipe.backbone.input_channels != channels {
            return Err(Error::Recipe(format!(
                "`backbone.input_channels` must be {channels}, the channels of `{}`, found `{}`; set \
                 `backbone.input_channels={channels}`",
                source.location, recipe.backbone.input_channels
            ))
            .into());
        }
        let pipeline = Pipeline::new(&recipe.view)?;
        let order = Order::new(recipe.seed, dataset.len(), batch_size)?;
        let views: Vec<ViewInput> = (0..pipeline.views())
            .map(|view| {
                let (mean, std) = pipeline.normalization(view);
                ViewInput { size_px: pipeline.size_px(view), mean, std }
            })
            .collect();
        for view in &views {
            recipe.backbone.check_images(view.size_px, recipe.backbone.norm_group)?;
        }
        let preprocess = Preprocess::for_training(&recipe.view[0]);
        let steps_per_epoch = order.steps_per_epoch();
        let config = &recipe.train;
        let steps = config.max_steps.unwrap_or(u64::from(config.epochs) * steps_per_epoch);
        let peak_learning_rate = config.optimizer.peak_learning_rate(batch_size);
        let schedule =
            Schedule::new(config.schedule.clone(), peak_learning_rate, steps_per_epoch, steps);
        let layout = Layout {
            views,
            batch: batch_size,
            micro_batch: recipe.data.micro_batch_size,
            group: recipe.backbone.norm_group,
            tile_rows: config.tile_rows,
            device: machine::device(&config.device)?,
            precision: config.precision,
        };
        Ok(Self {
            labels: data::labels(dataset.as_ref()).filter(|_| source.classes.len() > 1),
            dataset,
            pipeline: Arc::new(pipeline),
            order,
            layout,
            preprocess,
            steps,
            peak_learning_rate,
            schedule,
        })
    }

    /// Bytes the run will hold at most: what the process holds already (program, libtorch, data) and its tensors.
    fn predicted_memory(&self, recipe: &Recipe) -> u64 {
        let layout = &self.layout;
        let sizes: Vec<usize> = layout.views.iter().map(|view| view.size_px).collect();
        let plan = memory_plan(recipe, &sizes, self.dataset.len());
        machine::held_memory().unwrap_or(0) + plan.bytes(layout.micro_batch)
    }

    /// The plan for people and programs.
    pub(super) fn describe(&self, recipe: &Recipe) -> Answer {
        let steps_per_epoch = self.order.steps_per_epoch();
        let memory = self.predicted_memory(recipe) >> 20;
        let at = |step: u64| self.schedule.at(step.min(self.steps - 1));
        let rates: Vec<(u64, f64)> =
            (0..=4).map(|part| part * self.steps / 4).map(|s| (s, at(s))).collect();
        let json = json!({
            "images": self.dataset.len(),
            "views": self.layout.views.len(),
            "view_sizes_px": self.layout.views.iter().map(|view| view.size_px).collect::<Vec<_>>(),
            "batch_size": self.layout.batch,
            "micro_batch_size": self.layout.micro_batch,
            "norm_group": self.layout.group,
            "steps_per_epoch": steps_per_epoch,
            "steps": self.steps,
            "warmup_steps": self.schedule.warmup_steps(),
            "peak_learning_rate": self.peak_learning_rate,
            "learning_rates": rates.iter().map(|(s, r)| json!([s, r])).collect::<Vec<_>>(),
            "backbone_parameters": recipe.backbone.parameter_count(),
            "features": recipe.backbone.features(),
            "device": recipe.train.device,
            "predicted_peak_memory_mb": memory,
        });
        let rates: Vec<String> =
            rates.iter().map(|(step, rate)| format!("{step}: {rate:.3e}")).collect();
        let sizes: Vec<String> =
            self.layout.views.iter().map(|view| format!("{0}x{0}", view.size_px)).collect();
        let left_out = match self.dataset.len() % self.layout.batch {
            0 => String::new(),
            rest => {
                format!(" (each epoch leaves out {rest} others, so that all batches are whole)")
            }
        };
        let text = format!(
            "images          {}{left_out}\nviews           {} per image ({} px)\nbatch           {} images, {} at a time, \
             statistics over {}\nsteps           {} ({} per epoch, {} of warm-up)\nlearning rates  {}\n\
             backbone        {} parameters, {} features\ndevice          {}\npeak memory     about {memory} MB",
            self.dataset.len(),
            self.layout.views.len(),
            sizes.join(", "),
            self.layout.batch,
            self.layout.micro_batch,
            self.layout.group,
            self.steps,
            steps_per_epoch,
            self.schedule.warmup_steps(),
            rates.join(", "),
            recipe.backbone.parameter_count(),
            recipe.backbone.features(),
            recipe.train.device,
        );
        Answer { text, json }
    }
}

/// What decides the memory of a recipe whose views have these sides, for so many images.
pub(super) fn memory_plan<'a>(
    recipe: &'a Recipe,
    sizes_px: &[usize],
    images: usize,
) -> MemoryPlan<'a> {
    let (settings, batch) = (recipe.method.settings(), recipe.data.batch_size);
    let wiring = settings.wiring(&recipe.plugins, sizes_px.len());
    let sizes = |of: &[usize]| of.iter().map(|view| sizes_px[*view]).collect();
    MemoryPlan {
        backbone: &recipe.backbone,
        view_sizes_px: sizes(&wiring.online),
        target_sizes_px: sizes(&wiring.targets),
        held: settings.held(&recipe.backbone, sizes_px.len(), batch, images),
        batch,
        group: recipe.backbone.norm_group,
        tile_rows: recipe.train.tile_rows,
        optimizer_state: recipe.train.optimizer.state_per_parameter(),
        precision: recipe.train.precision,
        prefetch: recipe.data.prefetch,
    }
}

/// Which images of each split a recipe uses.
pub(super) fn selection(recipe: &Recipe) -> Selection {
    let data = &recipe.data;
    let (limit, holdout, label_fraction) = (data.limit, data.holdout, data.label_fraction);
    Selection { limit, holdout, label_fraction, seed: recipe.seed }
}
