//! What `pretrain --profile` prints.

use super::table::aligned;
use diptych::train::profile::{Summary, TimeRow, WARM_UP};

/// The tables of time and memory, for people.
pub(super) fn text(summary: &Summary) -> String {
    let steps = summary.steps as f64;
    let by_operator = summary.device == "cpu";
    let mut parts = vec![format!(
        "profile: {} steps on {} (the first {WARM_UP} are not counted), {:.4} s each, {:.1} views/s",
        summary.steps,
        summary.device,
        summary.seconds / steps,
        summary.views_per_second,
    )];
    if !by_operator {
        let why = "operators run on the device while the program goes on: stages alone, the device synchronised at each";
        parts.push(why.to_owned());
    }
    parts.push(time(summary, steps, by_operator));
    let flops = summary.flops_per_step;
    let convolution = summary.time.iter().find(|row| row.what == "convolution");
    let speed =
        convolution.map(|row| format!(", {:.1} GFLOP/s", flops * steps / row.seconds * 1e-9));
    let work = format!("{:.1} GFLOP a step", flops * 1e-9);
    parts.push(format!("convolutions: {work}{}", speed.unwrap_or_default()));
    if by_operator {
        parts.push(memory(summary));
    }
    parts.join("\n\n")
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

fn time(summary: &Summary, steps: f64, by_operator: bool) -> String {
    // What would be told as 0 is left blank.
    let part = |seconds: f64| {
        if seconds / steps < 5e-5 { String::new() } else { format!("{:.4}", seconds / steps) }
    };
    let row = |row: &TimeRow| {
        let mut cells = vec![
            row.what.clone(),
            format!("{:.4}", row.seconds / steps),
            format!("{:.1} %", 100.0 * row.share),
            if row.calls.is_multiple_of(summary.steps) {
                format!("{}", row.calls / summary.steps)
            } else {
                format!("{:.1}", row.calls as f64 / steps)
            },
        ];
        if by_operator {
            cells.extend([row.forward, row.loss, row.backward].map(part));
        }
        cells
    };
    let mut header = words(["time", "s/step", "share", "calls/step"]);
    if by_operator {
        header.extend(words(["forward", "loss", "backward"]));
    }
    let sum = |value: fn(&TimeRow) -> f64| summary.time.iter().map(value).sum();
    let all = TimeRow {
        what: "all".to_owned(),
        seconds: summary.seconds,
        share: 1.0,
        calls: 0,
        forward: sum(|row| row.forward),
        loss: sum(|row| row.loss),
        backward: sum(|row| row.backward),
    };
    let mut rows = vec![header];
    rows.extend(summary.time.iter().map(row));
    let mut last = row(&all);
    last[3].clear();
    rows.push(last);
    aligned(&rows, &[1, 2, 3, 4, 5, 6])
}

fn memory(summary: &Summary) -> String {
    let all = summary.peak_tensor_bytes;
    let row = |what: &str, bytes: u64| {
        let mb = bytes as f64 / (1u64 << 20) as f64;
        let share = 100.0 * bytes as f64 / all as f64;
        vec![what.to_owned(), format!("{mb:.1}"), format!("{share:.1} %")]
    };
    let mut rows = vec![words(["memory at the peak", "MB", "share"])];
    rows.extend(summary.memory.iter().map(|held| row(&held.what, held.bytes)));
    rows.push(row("all tensors", all));
    aligned(&rows, &[1, 2])
}
