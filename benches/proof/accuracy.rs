//! What is learned, beside the peer: weighted k-NN after a short training, three seeds each.

use crate::figures::{Claim, mean, numbers, or_dash, rounded, table};
use crate::session::{Report, Session, diptych};
use anyhow::Result;
use serde_json::json;
use std::fmt::Display;

/// Points that the mean may lie below the peer's.
const BELOW: f64 = 1.0;

pub(crate) fn measure(session: &Session, report: &mut Report<'_>) -> Result<()> {
    let pictures = session.cifar10()?;
    report.pictures(pictures);
    let (width, batch, epochs) = if session.quick { (0.125, 64, 1) } else { (0.25, 256, 4) };
    let what = format!("width {width}, batch {batch}, {epochs} epochs");
    let settings = |seed: usize| {
        [
            format!("seed={seed}"),
            format!("backbone.width={width}"),
            format!("data.batch_size={batch}"),
            format!("train.epochs={epochs}"),
        ]
    };
    let pair = session.in_turns(
        &what,
        session.runs(),
        |seed| {
            session.pretrain(pictures, &settings(seed), |run, found| {
                let mut command = diptych();
                command.args(["evaluate", "knn", "--json"]).arg(run);
                let judged = session.answer(command)?;
                let percent = |value: &serde_json::Value| value.as_f64().map(|v| 100.0 * v);
                let interval = &judged["interval_95"];
                found["knn_top1"] = json!(percent(&judged["value"]));
                found["knn_top1_interval_95"] =
                    json!([percent(&interval[0]), percent(&interval[1])]);
                found["seed"] = json!(seed);
                Ok(())
            })
        },
        |peer, seed| {
            let options: [(&str, &dyn Display); 6] = [
                ("--width", &width),
                ("--batch", &batch),
                ("--epochs", &epochs),
                ("--seed", &seed),
                ("--threads", &session.threads),
                ("--workers", &session.threads),
            ];
            peer.program("simclr.py", &pictures.path, &options)
        },
    )?;
    let (ours, peer) = (numbers(&pair.ours, "knn_top1"), numbers(&pair.peer, "knn_top1"));
    let mut rows: Vec<Vec<String>> = (0..session.runs())
        .map(|seed| {
            let of = |side: &[Option<f64>]| or_dash(side.get(seed).copied().flatten().map(rounded));
            vec![format!("seed {seed}"), of(&ours), of(&peer)]
        })
        .collect();
    let [our_mean, peer_mean] =
        [ours, peer].map(|side| mean(&side.into_iter().flatten().collect::<Vec<_>>()));
    rows.push(vec![
        "mean".to_owned(),
        or_dash(our_mean.map(rounded)),
        or_dash(peer_mean.map(rounded)),
    ]);
    report.say(&format!("**{what}**, weighted k-NN top-1 in per cent (k 200, τ 0.1)"));
    report.say(&table(&["", "diptych", "lightly"], &rows));
    let difference = our_mean.zip(peer_mean).map(|(ours, peer)| ours - peer);
    report.say(&format!(
        "Difference of the means in points: {}; {}.",
        or_dash(difference.map(|points| format!("{points:+.2}"))),
        Claim::AtLeast(-BELOW).judge(difference)
    ));
    report.keep("seeds", &pair);
    report.raw.insert("difference_of_means".to_owned(), json!(difference));
    Ok(())
}
