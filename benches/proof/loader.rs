//! The loader alone: decode every image and make two views of it, beside the peer.

use crate::data::{Pictures, training};
use crate::figures::{Claim, or_dash, spread, table};
use crate::session::{RECIPE, Report, Session};
use anyhow::Result;
use diptych::augment::{Loader, LoaderConfig, Order, Pipeline, ViewRecipe, to_device};
use diptych::data;
use diptych::recipe::Recipe;
use serde_json::{Value, json};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;
use tch::{Device, Kind};

/// lightly's `SimCLRTransform` at 224 px with its defaults.
const FULL_SIZE: &str = r#"
count = 2
steps = [
  { name = "random_resized_crop", size_px = 224, scale = [0.08, 1.0] },
  { name = "flip", probability = 0.5 },
  { name = "color_jitter", probability = 0.8, brightness = 0.8, contrast = 0.8, saturation = 0.8, hue = 0.2 },
  { name = "grayscale", probability = 0.2 },
  { name = "blur", kind = "pillow", probability = 0.5, sigma_px = [0.1, 2.0] },
  { name = "normalize", mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225] },
]"#;

/// What is measured at one size.
struct Case<'a> {
    size_px: usize,
    batch: usize,
    /// Passes that are timed.
    passes: u64,
    least: f64,
    pictures: &'a Pictures,
    views: Vec<ViewRecipe>,
}

pub(crate) fn measure(session: &Session, report: &mut Report<'_>) -> Result<()> {
    let cases = [
        Case {
            size_px: 32,
            batch: 256,
            passes: 1,
            least: 10.0,
            pictures: session.cifar10()?,
            views: Recipe::load(RECIPE, &[])?.view,
        },
        Case {
            size_px: 224,
            batch: 32,
            passes: if session.quick { 1 } else { 5 },
            least: 3.0,
            pictures: session.photographs()?,
            views: vec![toml::from_str(FULL_SIZE)?],
        },
    ];
    for case in cases {
        report.pictures(case.pictures);
        let what = format!("{} px", case.size_px);
        let pair = session.in_turns(
            &what,
            session.runs(),
            |_| ours(session, &case),
            |peer, _| {
                let options: [(&str, &dyn Display); 4] = [
                    ("--size", &case.size_px),
                    ("--batch", &case.batch),
                    ("--passes", &case.passes),
                    ("--workers", &session.threads),
                ];
                peer.program("loader.py", &case.pictures.path, &options)
            },
        )?;
        let row = |name: &str, key: &str, claim: Option<Claim>| {
            let ratio = pair.ratio_of(key, "views_per_second");
            let ours = or_dash(spread(&pair.ours, key));
            let peer = or_dash(spread(&pair.peer, "views_per_second"));
            let median = ratio.map(|ratio| ratio.median);
            let judged = claim.map_or("–".to_owned(), |claim| claim.judge(median));
            vec![name.to_owned(), ours, peer, or_dash(ratio), judged]
        };
        let rows = [
            row("views/s", "views_per_second", Some(Claim::AtLeast(case.least))),
            row("the same, ours made into f32 tensors", "views_per_second_as_tensors", None),
        ];
        let (images, passes) = (case.pictures.images, case.passes);
        report.say(&format!(
            "**{what}**, {images} images, passes timed after the first: {passes}; {0} threads beside {0} workers; medians of \
             {1} (least to most)",
            session.threads,
            session.runs()
        ));
        report.say(&table(&["", "diptych", "lightly", "ratio", "claim"], &rows));
        report.keep(&format!("size_{}", case.size_px), &pair);
        if let Some(ratio) = pair.ratio("views_per_second") {
            report.raw.insert(format!("ratio_size_{}", case.size_px), ratio.to_json());
        }
    }
    report.say(
        "The peer's batches are normalised f32 tensors. Ours are bytes, which the model's device normalises; the second row \
         does that here, too, while the loader works.",
    );
    Ok(())
}

/// Both rates of ours, each with a loader of its own.
fn ours(session: &Session, case: &Case<'_>) -> Result<Value> {
    let (rate, seconds) = pass(session, case, false)?;
    session.go_on()?;
    let (as_tensors, _) = pass(session, case, true)?;
    Ok(json!({
        "images": case.pictures.images,
        "views_per_second": rate,
        "views_per_second_as_tensors": as_tensors,
        "wall_seconds": seconds,
    }))
}

/// Views per second and seconds of the passes after the first.
fn pass(session: &Session, case: &Case<'_>, as_tensors: bool) -> Result<(f64, f64)> {
    let dataset = training(&data::open(&case.pictures.path.to_string_lossy())?)?;
    let batch = case.batch.min(dataset.len());
    let order = Order::new(0, dataset.len(), batch)?;
    let pipeline = Arc::new(Pipeline::new(&case.views)?);
    let warm_up = order.steps_per_epoch();
    let config = LoaderConfig {
        seed: 0,
        steps: 0..warm_up * (1 + case.passes),
        threads: session.threads,
        background: false,
        prefetch: 2,
        max_damaged: 0.01,
    };
    let mut loader = Loader::start(dataset, Arc::clone(&pipeline), order, &config)?;
    let (mut started, mut views) = (Instant::now(), 0);
    while let Some(ready) = loader.next() {
        let ready = ready?;
        if as_tensors {
            for (view, bytes) in ready.views.iter().enumerate() {
                let side = pipeline.size_px(view);
                let (mean, std) = pipeline.normalization(view);
                let shape = [batch, side, side];
                let _ = to_device(bytes, shape, mean, std, Device::Cpu, Kind::Float)?;
            }
        }
        views += ready.indices.len() * ready.views.len();
        if ready.step + 1 == warm_up {
            (started, views) = (Instant::now(), 0);
        }
        loader.recycle(ready);
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok((views as f64 / seconds, seconds))
}
