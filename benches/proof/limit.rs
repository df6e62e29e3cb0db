//! How far a training step is from the fastest arithmetic of this machine, and where its time and memory go.

use crate::figures::{or_dash, rounded, table};
use crate::session::{Report, Session};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor, no_grad};

/// Sides of square matrix products.
const PRODUCTS: [i64; 3] = [1024, 2048, 4096];

/// Kernel, channels and side of convolutions of 64 images, as wide as those of a `ResNet`. On some processors
/// libtorch's convolutions are faster than its matrix product, and then they show what the machine can do.
const CONVOLUTIONS: [(i64, i64, i64); 5] =
    [(1, 256, 32), (1, 512, 16), (3, 64, 32), (3, 128, 16), (3, 256, 16)];

/// Width and steps of the runs that are taken apart; a profile leaves out the first three.
const CASES: [(f64, u64); 2] = [(0.25, 33), (1.0, 9)];

pub(crate) fn measure(session: &Session, report: &mut Report<'_>) -> Result<()> {
    let peak = peak(session, report)?;
    let pictures = session.cifar10()?;
    report.pictures(pictures);
    let (cases, batch) = if session.quick { (&CASES[..1], 64) } else { (&CASES[..], 256) };
    for &(width, steps) in cases {
        let steps = if session.quick { 6 } else { steps };
        let what = format!("width {width}, batch {batch}, {steps} steps");
        let settings = [
            "--profile".to_owned(),
            format!("backbone.width={width}"),
            format!("data.batch_size={batch}"),
            format!("train.max_steps={steps}"),
        ];
        let run = session.attempt(&format!("profile, {what}"), || {
            session.pretrain(pictures, &settings, |run, found| {
                let text = std::fs::read_to_string(run.join("profile.json"));
                let text = text.context("no profile.json in the run's folder")?;
                found["profile"] = serde_json::from_str(&text)?;
                Ok(())
            })
        })?;
        report.say(&format!("**{what}**"));
        if let Ok(found) = &run {
            tell(&found["profile"], peak, report);
        }
        let failures: Vec<String> = run
            .as_ref()
            .err()
            .map(|error| format!("profile, {what}: {error}"))
            .into_iter()
            .collect();
        report.note(&failures, [&run]);
        report.raw.insert(format!("width_{width}"), run.unwrap_or_else(|e| json!({ "failed": e })));
    }
    Ok(())
}

/// The highest rate found, in operations per second.
fn peak(session: &Session, report: &mut Report<'_>) -> Result<f64> {
    let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let mut rates: Vec<(String, f64)> = Vec::new();
    for side in PRODUCTS {
        session.go_on()?;
        let (a, b) = (random(&[side, side]), random(&[side, side]));
        let rate = best_rate(session, 2.0 * (side as f64).powi(3), || a.mm(&b));
        rates.push((format!("matrix product, {side} x {side} x {side}"), rate));
    }
    for (kernel, channels, side) in CONVOLUTIONS {
        session.go_on()?;
        // Permuted, so that they lie channels-last.
        let images = random(&[64, side, side, channels]).permute([0, 3, 1, 2]);
        let weights = random(&[channels, kernel, kernel, channels]).permute([0, 3, 1, 2]);
        let places = (64 * side * side) as f64;
        let operations = 2.0 * places * (channels * channels * kernel * kernel) as f64;
        let padding = [kernel / 2; 2];
        let rate = best_rate(session, operations, || {
            images.conv2d(&weights, None::<&Tensor>, [1, 1], padding, [1, 1], 1)
        });
        rates.push((
            format!("convolution {kernel} x {kernel}, {channels} channels, {side} px"),
            rate,
        ));
    }
    let rows: Vec<Vec<String>> =
        rates.iter().map(|(name, rate)| vec![name.clone(), rounded(rate / 1e9)]).collect();
    let peak = rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    report.say(&format!(
        "**The peak of this machine**: the fastest of these f32 operations of libtorch, {} threads, {} GFLOP/s",
        session.threads,
        rounded(peak / 1e9)
    ));
    report.say(&table(&["operation", "GFLOP/s"], &rows));
    report.raw.insert("peak_flops_per_second".to_owned(), json!(peak));
    report.raw.insert("flops_per_second".to_owned(), rates.into_iter().collect());
    Ok(peak)
}

/// Operations per second of the fastest of many repetitions.
fn best_rate(session: &Session, operations: f64, work: impl Fn() -> Tensor) -> f64 {
    let enough = if session.quick { Duration::ZERO } else { Duration::from_millis(1500) };
    no_grad(|| {
        let _ = work();
        let (started, mut fastest) = (Instant::now(), f64::INFINITY);
        let mut repetitions = 0;
        while repetitions < 3 || started.elapsed() < enough {
            let begin = Instant::now();
            let _ = work();
            fastest = fastest.min(begin.elapsed().as_secs_f64());
            repetitions += 1;
        }
        operations / fastest
    })
}

/// The tables of a profile, and its rates beside the peak.
fn tell(profile: &Value, peak: f64, report: &mut Report<'_>) {
    let number = |value: &Value, key: &str| value[key].as_f64();
    let text = |value: &Value| value["what"].as_str().unwrap_or("?").to_owned();
    let list = |key: &str| profile[key].as_array().cloned().unwrap_or_default();
    let times = list("time");
    let rows: Vec<Vec<String>> = times
        .iter()
        .map(|line| {
            let share = number(line, "share").map(|share| format!("{:.1} %", 100.0 * share));
            vec![
                text(line),
                or_dash(number(line, "seconds").map(rounded)),
                or_dash(share),
                or_dash(number(line, "calls")),
            ]
        })
        .collect();
    report.say(&table(&["time", "seconds", "share", "calls"], &rows));
    let rows: Vec<Vec<String>> = list("memory")
        .iter()
        .map(|line| vec![text(line), or_dash(number(line, "bytes").map(|b| rounded(b / 1e6)))])
        .collect();
    report.say(&table(&["memory", "MB"], &rows));

    let steps = number(profile, "steps");
    let operations = number(profile, "flops_per_step").zip(steps).map(|(one, steps)| one * steps);
    let convolutions = times.iter().filter(|line| text(line).starts_with("convolution"));
    let convolutions: f64 = convolutions.filter_map(|line| number(line, "seconds")).sum();
    let row = |name: &str, seconds: Option<f64>| {
        let seconds = seconds.filter(|seconds| *seconds > 0.0);
        let rate = operations.zip(seconds).map(|(operations, seconds)| operations / seconds);
        let share = rate.map(|rate| format!("{:.1} %", 100.0 * rate / peak));
        vec![name.to_owned(), or_dash(rate.map(|rate| rounded(rate / 1e9))), or_dash(share)]
    };
    let rows = [
        row("convolutions, over the time of the whole step", number(profile, "seconds")),
        row("convolutions, over their own time", Some(convolutions)),
    ];
    report.say(&table(&["", "GFLOP/s", "of the peak"], &rows));
    let held = number(profile, "peak_tensor_bytes").map(|bytes| rounded(bytes / 1e6));
    let per_step = number(profile, "flops_per_step").map(|count| rounded(count / 1e9));
    report.say(&format!(
        "Convolutions of a step: {} GFLOP; tensors held {} MB at most; {} views/s while watched.",
        or_dash(per_step),
        or_dash(held),
        or_dash(number(profile, "views_per_second").map(rounded))
    ));
}
