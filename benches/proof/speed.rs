//! The whole pipeline, from files to weights, beside the peer: views per second and memory.

use crate::figures::{Claim, Pair, or_dash, spread, table};
use crate::session::{Report, Session};
use anyhow::Result;
use serde_json::json;
use std::fmt::Display;

/// Width, precision, steps, and the least ratio that is claimed. The third step ends the warm-up, so eight steps time five.
/// In bfloat16 the peer runs under PyTorch's autocast.
const CASES: [(f64, &str, u64, f64); 4] = [
    (0.25, "float32", 40, 1.6),
    (1.0, "float32", 8, 1.15),
    (0.25, "bfloat16", 40, 1.0),
    (1.0, "bfloat16", 8, 1.0),
];

pub(crate) fn measure(session: &Session, report: &mut Report<'_>) -> Result<()> {
    let pictures = session.cifar10()?;
    report.pictures(pictures);
    let (cases, batch) = if session.quick { (&CASES[..1], 64) } else { (&CASES[..], 256) };
    for &(width, precision, steps, least) in cases {
        let steps = if session.quick { 6 } else { steps };
        let what = format!("width {width}, {precision}, batch {batch}, {steps} steps");
        let settings = [
            format!("backbone.width={width}"),
            format!("data.batch_size={batch}"),
            format!("train.max_steps={steps}"),
            format!("train.precision={precision}"),
        ];
        let pair = session.in_turns(
            &what,
            session.runs(),
            |_| session.pretrain(pictures, &settings, |_, _| Ok(())),
            |peer, _| {
                let options: [(&str, &dyn Display); 6] = [
                    ("--width", &width),
                    ("--batch", &batch),
                    ("--precision", &precision),
                    ("--steps", &steps),
                    ("--threads", &session.threads),
                    ("--workers", &session.threads),
                ];
                let mut command = peer.program("simclr.py", &pictures.path, &options);
                command.arg("--no-knn");
                command
            },
        )?;
        report.say(&format!("**{what}**, medians of {} (least to most)", session.runs()));
        report.say(&rows(&pair, least));
        let case = format!("width_{width}_{precision}");
        report.keep(&case, &pair);
        for (key, name) in [("views_per_second", "speed"), ("peak_memory_mb", "memory")] {
            if let Some(ratio) = pair.ratio(key) {
                report.raw.insert(format!("{name}_ratio_{case}"), ratio.to_json());
            }
        }
        report.raw.insert(
            format!("settings_{case}"),
            json!({ "width": width, "precision": precision, "batch": batch, "steps": steps, "least_ratio_claimed": least }),
        );
    }
    Ok(())
}

fn rows(pair: &Pair, least: f64) -> String {
    let row = |name: &str, key: &str, claim: Claim| {
        let ratio = pair.ratio(key);
        let judged = claim.judge(ratio.map(|ratio| ratio.median));
        let sides = [spread(&pair.ours, key), spread(&pair.peer, key)].map(or_dash);
        let [ours, peer] = sides;
        vec![name.to_owned(), ours, peer, or_dash(ratio), judged]
    };
    let workers = spread(&pair.peer, "workers_own_memory_mb");
    let dash = "–".to_owned();
    table(
        &["", "diptych", "lightly", "ratio", "claim"],
        &[
            row("views/s", "views_per_second", Claim::AtLeast(least)),
            row("peak memory, MB", "peak_memory_mb", Claim::Below(1.0)),
            vec![
                "its loader workers' own, MB".to_owned(),
                dash.clone(),
                or_dash(workers),
                dash.clone(),
                dash,
            ],
        ],
    )
}
