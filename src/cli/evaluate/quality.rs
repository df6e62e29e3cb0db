//! `diptych evaluate quality`: what can be said of a representation without a label.

use super::Arguments;
use super::settings::Settings;
use super::subject::{Judged, Subject};
use crate::cli::Answer;
use crate::cli::monitor::image_bar;
use anyhow::Result;
use diptych::data::Dataset;
use diptych::evaluate::run::{Part, batch};
use diptych::evaluate::unlabelled::{Alignment, Invariance, Unlabelled, VERSION, variations};
use diptych::evaluate::{Features, Finding, Measure};
use serde_json::json;
use std::rc::Rc;
use std::sync::Arc;

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let subject = Subject::open(arguments, |settings: &mut Settings| {
        settings.quality = Some(Unlabelled::default());
        settings.invariance = Some(Invariance::default());
        settings.alignment = Some(Alignment::default());
    })?;
    arguments.refuse("quality", &["--protocol", "--baselines"])?;
    subject.settings.no_groups("quality")?;
    let (mut findings, mut counts) = (Vec::new(), [0, 0, 0]);
    for seed in subject.settings.all_seeds()? {
        let images = subject.source.to_look_at(&subject.selection(seed))?;
        let found = extracted(&subject, &images, seed)?;
        counts = [0, found.len(), found.damaged.len()];
        findings.push(finding(&subject, &images, &found, seed)?);
    }
    let settings = json!({
        "quality": subject.settings.quality,
        "invariance": subject.settings.invariance,
        "alignment": subject.settings.alignment,
    });
    subject.answer(&Judged {
        id: "quality".to_owned(),
        version: VERSION,
        settings,
        findings,
        baselines: Vec::new(),
        counts,
    })
}

fn extracted(subject: &Subject, images: &Arc<dyn Dataset>, seed: u64) -> Result<Rc<Features>> {
    let (source, selection) = (&subject.source, subject.selection(seed));
    let role = if source.splits.len() > 1 { "queries" } else { "images" };
    subject.features(&Part { dataset: Arc::clone(images), role, source, selection })
}

/// The effective rank; beside it the other scores, how near two views of an image are, and how steady features are under each
/// augmentation of the run.
fn finding(
    subject: &Subject,
    images: &Arc<dyn Dataset>,
    found: &Features,
    seed: u64,
) -> Result<Finding> {
    let quality = subject.settings.quality.clone().unwrap_or_default();
    let scores = quality.evaluate(found, seed)?;
    let mut finding = Finding {
        metric: "rank_me".to_owned(),
        value: Measure::plain(scores.rank_me),
        ..Finding::default()
    }
    .and("possible_rank", Measure::plain(scores.possible_rank as f64))
    .and("uniformity", Measure::plain(scores.uniformity))
    .and("mean_cosine", Measure::plain(scores.mean_cosine));
    let alignment = subject.settings.alignment.clone().unwrap_or_default();
    let own = subject.recipe.as_ref().map_or(&[][..], |recipe| &recipe.view);
    let side = subject.preprocess.size_px();
    if let Some(pair) = alignment.pair(own, side)? {
        let Subject { weights, preprocess, layer, .. } = subject;
        let mut forward = |pixels: &[u8], n: usize| weights.features(pixels, n, preprocess, *layer);
        let bar = &mut image_bar("views");
        let measure =
            alignment.evaluate(&quality, &mut forward, images, &pair, batch(side), seed, bar)?;
        finding = finding.and("alignment", measure);
    }
    let Some(view) = subject.recipe.as_ref().and_then(|recipe| recipe.view.first()) else {
        return Ok(finding);
    };
    let invariance = subject.settings.invariance.clone().unwrap_or_default();
    let Subject { weights, preprocess, layer, .. } = subject;
    let mut forward = |pixels: &[u8], n: usize| weights.features(pixels, n, preprocess, *layer);
    let steadiness = invariance.evaluate(
        &mut forward,
        images,
        preprocess,
        &variations(view, side),
        batch(side),
        seed,
        &mut image_bar("augmented"),
    )?;
    for steady in steadiness {
        // Where all images have the same features, nothing can be said.
        if let Some(measure) = steady.relative {
            finding = finding.and(&format!("steady_{}", steady.name), measure);
        }
    }
    Ok(finding)
}
