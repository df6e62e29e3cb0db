//! One optimizer step: the gradient of a batch of any size in the memory of a micro-batch.
//!
//! With `micro_batch` below the batch size the step takes two passes (gradient caching, Gao et al. 2021,
//! arXiv:2101.06983): all micro-batches are embedded without a graph, the objective gives the gradient for every row, and
//! each micro-batch is embedded again, with its graph, to carry that gradient back. Views and statistics are the same in
//! both passes; running statistics move in the second. Target rows have no gradient and are made once, in the first; a method
//! with target views alone (a classifier on a frozen backbone) has neither graph nor second pass.

use crate::augment::{Views, normalize, with_constants};
use crate::error::{Error, Result};
use crate::method::{Method, Objective, Rows, Step};
use crate::model::{Role, Statistics};
use crate::train::Precision;
use crate::train::profile::{Profile, Stage, enter};
use crate::train::stop::Stop;
use tch::{Device, Tensor, no_grad};

/// What the network takes in as one view: square images, normalised per channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewInput {
    /// Side of the image in pixels.
    pub size_px: usize,
    /// Mean per channel, of values in [0, 1].
    pub mean: [f64; 3],
    /// Standard deviation per channel.
    pub std: [f64; 3],
}

/// How a batch is cut and where it is computed.
#[derive(Clone, Debug)]
pub struct Layout {
    /// One entry per view.
    pub views: Vec<ViewInput>,
    /// Images of the batch, N.
    pub batch: usize,
    /// Images in the device's memory at a time; a multiple of `group` that divides the batch.
    pub micro_batch: usize,
    /// Images of a normalisation group.
    pub group: usize,
    /// Rows of a tile of the loss, at least 1.
    pub tile_rows: i64,
    /// Where.
    pub device: Device,
    /// What is computed in.
    pub precision: Precision,
}

impl Layout {
    /// The bytes `[n, h, w, 3]` of a view, and the constant channels `[n, K]` of its images, as what the network takes in.
    fn pixels(&self, bytes: &Tensor, constants: Option<&Tensor>, view: usize) -> Tensor {
        let ViewInput { mean, std, .. } = self.views[view];
        let images = normalize(bytes, mean, std, self.precision.parameters());
        let images = match constants {
            Some(values) => with_constants(&images, values),
            None => images,
        };
        images.to_kind(self.precision.maps())
    }

    /// The next smaller micro-batch: at most half, a divisor of the batch and a multiple of the normalisation group.
    /// `None` when there is none, so that less memory would mean another computation.
    pub fn smaller_micro_batch(&self) -> Option<usize> {
        let fits =
            |size: &usize| self.batch.is_multiple_of(*size) && size.is_multiple_of(self.group);
        (1..=self.micro_batch / 2).rev().find(fits)
    }
}

/// What a step found.
#[derive(Debug)]
pub struct Outcome {
    /// What the method said of the rows.
    pub objective: Objective,
    /// The rows `[V, N, F]` themselves, detached: online ones, or targets where there are no others.
    pub rows: Tensor,
}

/// Sets the gradient of the method's parameters to that of the batch.
///
/// Returns `None`, with buffers as before the call, when a stop is asked for on the way.
///
/// # Errors
/// Those of [`Method::objective`].
pub fn gradient(
    method: &dyn Method,
    batch: &dyn Views,
    layout: &Layout,
    step: &Step<'_>,
    stop: &Stop,
    profile: Option<&Profile>,
) -> Result<Option<Outcome>> {
    let (batch_size, micro) = (layout.batch, layout.micro_batch);
    let groups = (micro / layout.group) as i64;
    let all_groups = (batch_size / layout.group) as i64;
    let starts: Vec<usize> = (0..batch_size).step_by(micro).collect();
    let moving = |index: usize| Statistics::Move { seen: index as i64 * groups, of: all_groups };
    enter(profile, Stage::Optimizer);
    method.parameters().zero_grad();
    let embed = |start: usize, statistics| {
        enter(profile, Stage::Normalize);
        let constants = batch.constants(start, micro, layout.device);
        let part = |view: usize| {
            let bytes =
                batch.bytes(view, layout.views[view].size_px, start, micro, layout.device)?;
            Ok(layout.pixels(&bytes, constants.as_ref(), view))
        };
        let views: Result<Vec<Tensor>> =
            method.wiring().online.iter().map(|view| part(*view)).collect();
        let views = views?;
        enter(profile, Stage::Forward);
        Ok::<_, Error>(method.embed(&views, groups, statistics))
    };
    let mut buffers = (starts.len() > 1).then(|| Buffers::of(method));
    let targets = if method.wiring().targets.is_empty() {
        None
    } else {
        let found = targets(method, batch, layout, step, stop, profile)?;
        if found.is_none() {
            if let Some(buffers) = &mut buffers {
                buffers.restore();
            }
            return Ok(None);
        }
        found
    };

    if method.wiring().online.is_empty() {
        let targets = targets.ok_or_else(|| Error::Shape("there are no views".to_owned()))?;
        enter(profile, Stage::Loss);
        let leaves = Rows { online: targets.narrow(0, 0, 0), targets: Some(targets) };
        let objective = method.objective(&leaves, step)?;
        return Ok(leaves.targets.map(|rows| Outcome { objective, rows }));
    }

    let Some(mut buffers) = buffers else {
        let rows = embed(0, moving(0))?;
        enter(profile, Stage::Loss);
        let leaves = Rows { online: rows.detach(), targets };
        let objective = method.objective(&leaves, step)?;
        enter(profile, Stage::Backward);
        (rows * &objective.rows_gradient).sum(None).backward();
        return Ok(Some(Outcome { objective, rows: leaves.online }));
    };

    let mut rows = Vec::with_capacity(starts.len());
    for start in &starts {
        if stop.asked() {
            buffers.restore();
            return Ok(None);
        }
        rows.push(no_grad(|| embed(*start, Statistics::Keep))?);
    }
    let rows = Rows { online: Tensor::cat(&rows, 1), targets };
    enter(profile, Stage::Loss);
    let objective = method.objective(&rows, step)?;
    for (index, start) in starts.iter().enumerate() {
        if stop.asked() {
            buffers.restore();
            return Ok(None);
        }
        let again = embed(*start, moving(index))?;
        enter(profile, Stage::Backward);
        let part = objective.rows_gradient.narrow(1, *start as i64, micro as i64);
        (again * part).sum(None).backward();
    }
    Ok(Some(Outcome { objective, rows: rows.online }))
}

/// The target rows `[V, N, F]` of the batch, in the order of its images; `None` when a stop is asked for on the way.
fn targets(
    method: &dyn Method,
    batch: &dyn Views,
    layout: &Layout,
    step: &Step<'_>,
    stop: &Stop,
    profile: Option<&Profile>,
) -> Result<Option<Tensor>> {
    let views = &method.wiring().targets;
    let (batch_size, micro) = (layout.batch, layout.micro_batch);
    let groups = (micro / layout.group) as i64;
    let all_groups = (batch_size / layout.group) as i64;
    // Within one group the order changes nothing.
    let order = method.targets_order(step).filter(|_| all_groups > 1);
    let order = order.map(|order| {
        let order: Vec<i64> = order.into_iter().map(|image| image as i64).collect();
        Tensor::from_slice(&order).to_device(layout.device)
    });
    let mut rows = Vec::new();
    for (index, start) in (0..batch_size).step_by(micro).enumerate() {
        if stop.asked() {
            return Ok(None);
        }
        enter(profile, Stage::Normalize);
        let part = order.as_ref().map(|order| order.narrow(0, start as i64, micro as i64));
        let (first, count) = if part.is_some() { (0, batch_size) } else { (start, micro) };
        let chosen = |rows: Tensor| match &part {
            Some(part) => rows.index_select(0, part),
            None => rows,
        };
        let constants = batch.constants(first, count, layout.device).map(chosen);
        let part = |view: &usize| {
            let side = layout.views[*view].size_px;
            let bytes = chosen(batch.bytes(*view, side, first, count, layout.device)?);
            Ok(layout.pixels(&bytes, constants.as_ref(), *view))
        };
        let views: Result<Vec<Tensor>> = views.iter().map(part).collect();
        let views = views?;
        enter(profile, Stage::Forward);
        let statistics = Statistics::Move { seen: index as i64 * groups, of: all_groups };
        rows.push(no_grad(|| method.targets(&views, groups, statistics)).detach());
    }
    let rows = Tensor::cat(&rows, 1);
    Ok(Some(match &order {
        Some(order) => rows.index_select(1, &order.argsort(0, false)),
        None => rows,
    }))
}

/// The running statistics and copies of them, so that a step that is dropped leaves no trace.
pub(super) struct Buffers(Vec<[Tensor; 2]>);

impl Buffers {
    pub(super) fn of(method: &dyn Method) -> Self {
        let buffers = method.parameters().all().iter().filter(|p| p.role == Role::Buffer);
        Self(buffers.map(|p| [p.tensor.shallow_clone(), p.tensor.copy()]).collect())
    }

    pub(super) fn restore(&mut self) {
        for [buffer, before] in &mut self.0 {
            buffer.copy_(before);
        }
    }
}
