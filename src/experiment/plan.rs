//! What follows from a recipe and a data source before anything is built.

use crate::augment::{Order, Pipeline, Preprocess};
use crate::data::{Dataset, Labels, Selection, Source};
use crate::error::{Error, Result};
use crate::machine;
use crate::recipe::Recipe;
use crate::train::memory_plan::MemoryPlan;
use crate::train::schedule::Schedule;
use crate::train::step::{Layout, ViewInput};
use std::sync::Arc;

/// What follows from a recipe and a data source before anything is built.
pub struct Plan {
    /// The training images.
    pub dataset: Arc<dyn Dataset>,
    /// Makes their views.
    pub pipeline: Arc<Pipeline>,
    /// Which image is in which batch.
    pub order: Order,
    /// How a batch is cut and where it is computed.
    pub layout: Layout,
    /// How images are brought to the network's input at evaluation.
    pub preprocess: Preprocess,
    /// Labels of the training images, if each has one.
    pub labels: Option<Labels>,
    /// Classes of the data set, 0 unless every training image has a label.
    pub classes: usize,
    /// Optimizer steps of the run.
    pub steps: u64,
    /// The learning rate after warm-up.
    pub peak_learning_rate: f64,
    /// Gives the learning rate of each step.
    pub schedule: Schedule,
}

impl Plan {
    /// Plans a run of a recipe whose gaps the machine has filled ([`Recipe::resolve`]).
    ///
    /// # Errors
    /// [`Error::Data`] for fewer than two images; [`Error::Recipe`] if the batch is larger than the data set or the images
    /// do not suit the network; [`Error::Environment`] if the device is not there.
    pub fn new(recipe: &Recipe, source: &Source) -> Result<Self> {
        let dataset = source.for_training(&selection(recipe))?;
        let batch_size = recipe.data.batch_size;
        if dataset.len() < 2 {
            return Err(Error::Data(format!(
                "`{}` gives {} image to train on; at least 2 are needed",
                source.location,
                dataset.len()
            )));
        }
        if dataset.len() < batch_size {
            return Err(Error::Recipe(format!(
                "`data.batch_size` must be at most the number of images ({}), found `{batch_size}`; \
                 set `data.batch_size={}`",
                dataset.len(),
                dataset.len()
            )));
        }
        let channels = 3 + dataset.constant_channels() as i64;
        if recipe.backbone.input_channels != channels {
            return Err(Error::Recipe(format!(
                "`backbone.input_channels` must be {channels}, the channels of `{}`, found `{}`; set \
                 `backbone.input_channels={channels}`",
                source.location, recipe.backbone.input_channels
            )));
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
        let labels = Labels::of(dataset.as_ref()).filter(|_| source.classes.len() > 1);
        Ok(Self {
            classes: labels.as_ref().map_or(0, |_| source.classes.len()),
            labels,
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
    pub fn predicted_memory(&self, recipe: &Recipe) -> u64 {
        let layout = &self.layout;
        let sizes: Vec<usize> = layout.views.iter().map(|view| view.size_px).collect();
        let plan = memory_plan(recipe, &sizes, self.dataset.len());
        machine::held_memory().unwrap_or(0) + plan.bytes(layout.micro_batch)
    }
}

/// What decides the memory of a recipe whose views have these sides, for so many images.
pub fn memory_plan<'a>(recipe: &'a Recipe, sizes_px: &[usize], images: usize) -> MemoryPlan<'a> {
    let (settings, batch) = (recipe.method.settings(), recipe.data.batch_size);
    let wiring = settings.wiring(&recipe.plugins, sizes_px.len());
    let sizes = |of: &[usize]| of.iter().map(|view| sizes_px[*view]).collect();
    MemoryPlan {
        backbone: &recipe.backbone,
        frozen: settings.frozen(),
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
pub fn selection(recipe: &Recipe) -> Selection {
    let data = &recipe.data;
    let (limit, holdout, label_fraction) = (data.limit, data.holdout, data.label_fraction);
    Selection { limit, holdout, label_fraction, seed: recipe.seed }
}
