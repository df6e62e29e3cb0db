//! What a recipe makes of a data source, told: `pretrain --dry-run`.

use super::Answer;
use diptych::experiment::Plan;
use diptych::recipe::Recipe;
use serde_json::json;

/// The plan for people and programs.
pub(super) fn describe(plan: &Plan, recipe: &Recipe) -> Answer {
    let steps_per_epoch = plan.order.steps_per_epoch();
    let memory = plan.predicted_memory(recipe) >> 20;
    let at = |step: u64| plan.schedule.at(step.min(plan.steps - 1));
    let rates: Vec<(u64, f64)> =
        (0..=4).map(|part| part * plan.steps / 4).map(|s| (s, at(s))).collect();
    let json = json!({
        "images": plan.dataset.len(),
        "views": plan.layout.views.len(),
        "view_sizes_px": plan.layout.views.iter().map(|view| view.size_px).collect::<Vec<_>>(),
        "batch_size": plan.layout.batch,
        "micro_batch_size": plan.layout.micro_batch,
        "norm_group": plan.layout.group,
        "steps_per_epoch": steps_per_epoch,
        "steps": plan.steps,
        "warmup_steps": plan.schedule.warmup_steps(),
        "peak_learning_rate": plan.peak_learning_rate,
        "learning_rates": rates.iter().map(|(s, r)| json!([s, r])).collect::<Vec<_>>(),
        "backbone_parameters": recipe.backbone.parameter_count(),
        "features": recipe.backbone.features(),
        "device": recipe.train.device,
        "predicted_peak_memory_mb": memory,
    });
    let rates: Vec<String> =
        rates.iter().map(|(step, rate)| format!("{step}: {rate:.3e}")).collect();
    let sizes: Vec<String> =
        plan.layout.views.iter().map(|view| format!("{0}x{0}", view.size_px)).collect();
    let left_out = match plan.dataset.len() % plan.layout.batch {
        0 => String::new(),
        rest => {
            format!(" (each epoch leaves out {rest} others, so that all batches are whole)")
        }
    };
    let text = format!(
        "images          {}{left_out}\nviews           {} per image ({} px)\nbatch           {} images, {} at a time, \
         statistics over {}\nsteps           {} ({} per epoch, {} of warm-up)\nlearning rates  {}\n\
         backbone        {} parameters, {} features\ndevice          {}\npeak memory     about {memory} MB",
        plan.dataset.len(),
        plan.layout.views.len(),
        sizes.join(", "),
        plan.layout.batch,
        plan.layout.micro_batch,
        plan.layout.group,
        plan.steps,
        steps_per_epoch,
        plan.schedule.warmup_steps(),
        rates.join(", "),
        recipe.backbone.parameter_count(),
        recipe.backbone.features(),
        recipe.train.device,
    );
    Answer { text, json }
}
