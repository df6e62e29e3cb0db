//! Memory: a batch of 4,096 by cached gradients, and what `--dry-run` predicts against what was held.

use crate::figures::{Claim, Outcome, numbers, or_dash, rounded, runs_json, table};
use crate::session::{Report, Session};
use anyhow::Result;
use serde_json::json;

/// The batch of the claim, and the MB it must stay below.
const LARGE: (&str, f64) =
    ("backbone.width=1 data.batch_size=4096 data.micro_batch_size=128", 4_000.0);

/// Settings whose prediction is compared with what they hold.
const CASES: [&str; 7] = [
    "backbone.width=0.25 data.batch_size=256",
    "backbone.width=0.5 data.batch_size=256",
    "backbone.width=1 data.batch_size=128",
    "backbone.width=1 data.batch_size=256",
    "backbone.width=1 data.batch_size=256 data.micro_batch_size=64",
    "backbone.width=0.5 data.batch_size=512 data.micro_batch_size=128",
    "backbone.width=0.5 data.batch_size=128 view=lightly_cifar@64",
];

/// The same of other methods, plug-ins and heads: a recipe, and settings.
const METHODS: [&str; 16] = [
    "cifar10/simclrv2 backbone.width=0.5 data.batch_size=128",
    "cifar10/mocov2 backbone.width=0.5 data.batch_size=128",
    "cifar10/npid backbone.width=0.5 data.batch_size=128",
    "cifar10/simsiam backbone.width=0.5 data.batch_size=128",
    "cifar10/byol backbone.width=0.5 data.batch_size=128",
    "cifar10/byol backbone.width=0.5 data.batch_size=128 data.micro_batch_size=32",
    "cifar10/swav backbone.width=0.5 data.batch_size=128",
    "cifar10/swav backbone.width=0.5 data.batch_size=128 data.micro_batch_size=32",
    "cifar10/infomin backbone.width=0.5 data.batch_size=128",
    "cifar10/barlow backbone.width=0.5 data.batch_size=128",
    "cifar10/vicreg backbone.width=0.5 data.batch_size=128",
    "cifar10/supcon backbone.width=0.5 backbone.norm_group=0 data.batch_size=128 data.micro_batch_size=0",
    "cifar10/supervised backbone.width=0.5 backbone.norm_group=0 data.batch_size=128 data.micro_batch_size=0",
    "cifar10/mocov2-ft backbone.width=0.5 data.batch_size=128",
    "cifar10/moco-cld backbone.width=0.5 data.batch_size=128",
    "cifar10/byol-gsg backbone.width=0.5 data.batch_size=128",
];

const QUICK: [&str; 2] = [
    "backbone.width=0.25 data.batch_size=64",
    "backbone.width=0.25 data.batch_size=64 data.micro_batch_size=16",
];

/// Per cent that a prediction may be off.
const OFF: f64 = 15.0;

pub(crate) fn measure(session: &Session, report: &mut Report<'_>) -> Result<()> {
    let pictures = session.cifar10()?;
    report.pictures(pictures);
    let all: Vec<(&str, u32)> = if session.quick {
        QUICK.iter().map(|case| (*case, 3)).collect()
    } else {
        let cases = CASES.iter().chain(&METHODS).map(|case| (*case, 4));
        cases.chain([(LARGE.0, 2)]).collect()
    };
    let mut runs: Vec<Outcome> = Vec::new();
    for (case, steps) in &all {
        let settings: Vec<String> = case.split(' ').map(str::to_owned).collect();
        let run = session.attempt(case, || {
            let predicted = session.predict(pictures, &settings)?;
            let settings = [&settings[..], &[format!("train.max_steps={steps}")]].concat();
            session.pretrain(pictures, &settings, |_, found| {
                found["settings"] = json!(case);
                found["predicted_mb"] = predicted;
                let off = |seen: f64, predicted: f64| 100.0 * (predicted - seen) / seen;
                let seen = found["peak_memory_mb"].as_f64();
                let predicted = found["predicted_mb"].as_f64();
                found["off_percent"] = json!(seen.zip(predicted).map(|(s, p)| off(s, p)));
                Ok(())
            })
        })?;
        runs.push(run);
    }
    let column = |key: &str| numbers(&runs, key);
    let (predicted, seen) = (column("predicted_mb"), column("peak_memory_mb"));
    let off = column("off_percent");
    let row = |(n, (case, _)): (usize, &(&str, u32))| {
        let judged = Claim::Within(OFF).judge(off[n]);
        let numbers = [predicted[n], seen[n]].map(|value| or_dash(value.map(rounded)));
        let [predicted, seen] = numbers;
        let off = or_dash(off[n].map(|off| format!("{off:+.1} %")));
        vec![format!("`{case}`"), predicted, seen, off, judged]
    };
    report.say("**Peak memory in MB: what `--dry-run` predicts, and what was held**");
    let rows: Vec<Vec<String>> = all.iter().enumerate().map(row).collect();
    report.say(&table(&["settings", "predicted", "held", "off", "claim"], &rows));
    if !session.quick {
        let held = seen.last().copied().flatten();
        report.say(&format!(
            "**Batch 4,096 by cached gradients**, ResNet-18 at 32 px, 128 images at a time, two steps: {} MB; {}.",
            or_dash(held.map(rounded)),
            Claim::Below(LARGE.1).judge(held)
        ));
    }
    let failed = |((case, _), run): (&(&str, u32), &Outcome)| {
        Some(format!("`{case}`: {}", run.as_ref().err()?))
    };
    let failures: Vec<String> = all.iter().zip(&runs).filter_map(failed).collect();
    report.note(&failures, &runs);
    report.raw.insert("runs".to_owned(), runs_json(&runs));
    Ok(())
}
