//! What was measured on, and whether anything else was running.

use crate::peer::Peer;
use diptych::machine;
use diptych::train::run::timestamp;
use serde_json::{Value, json};
use std::fs::read_to_string;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A load average above this disturbs what is measured.
const QUIET: f64 = 0.5;

/// Cores that others may take during a run before it is marked.
const UNDISTURBED: f64 = 0.1;

/// Ticks per second of the processor times under `/proc` (`USER_HZ` of Linux on x86-64).
const TICKS: f64 = 100.0;

/// The load average of the last minute.
pub(crate) fn load_average() -> Option<f64> {
    read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// Waits until the machine is quiet, five minutes at most; building the program alone makes it busy. Returns the load
/// average found.
pub(crate) fn wait_for_quiet(stop: &AtomicBool) -> Option<f64> {
    let started = Instant::now();
    let busy = || load_average().filter(|load| *load > QUIET);
    if let Some(load) = busy() {
        eprintln!(
            "load average {load}: waiting for it to fall below {QUIET}, five minutes at most"
        );
    }
    while busy().is_some() && started.elapsed().as_secs() < 300 && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_secs(1));
    }
    load_average()
}

/// The machine and the programs, for the record.
pub(crate) fn record(
    threads: usize,
    load: Option<f64>,
    peer: Option<&Result<Peer, String>>,
) -> Value {
    let peer = peer.map(|peer| match peer {
        Ok(peer) => peer.versions.clone(),
        Err(why) => Value::from(why.as_str()),
    });
    json!({
        "date": timestamp(),
        "processor": machine::processor(),
        "vector_extensions": machine::vector_extensions(),
        "cores": machine::cores(),
        "threads": threads,
        "memory_mb": machine::total_memory().map(|bytes| bytes / 1_000_000),
        "load_average": load,
        "revision": revision(),
        "diptych": env!("CARGO_PKG_VERSION"),
        "libtorch": machine::LIBTORCH,
        "peer": peer,
    })
}

/// The revision of the checkout, with `-dirty` behind it where files differ from it.
fn revision() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    let head = git(&["rev-parse", "--short=12", "HEAD"]);
    let head = head.unwrap_or_else(|| machine::REVISION.to_owned());
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!results"]);
    let changed = changed.is_some_and(|list| !list.is_empty());
    head + if changed { "-dirty" } else { "" }
}

/// The record in sentences, each warning a paragraph.
pub(crate) fn describe(record: &Value, differs: &[String]) -> String {
    let text = |key: &str| record[key].as_str().unwrap_or("unknown").to_owned();
    let mut about = vec![format!(
        "{}, {} cores, {} MB, {} threads; {}; diptych {}, libtorch {}.",
        text("processor"),
        record["cores"],
        record["memory_mb"],
        record["threads"],
        text("date"),
        text("revision"),
        text("libtorch"),
    )];
    let mut paragraphs = Vec::new();
    match &record["peer"] {
        Value::Null => {}
        Value::Object(versions) => {
            let version = |(name, version): (&String, &Value)| {
                format!("{name} {}", version.as_str().unwrap_or("?"))
            };
            let versions: Vec<String> = versions.iter().map(version).collect();
            about.push(format!("Peer: {}.", versions.join(", ")));
        }
        _ => paragraphs.push(format!("**Peer:** {}", text("peer"))),
    }
    if !differs.is_empty() {
        let differs = differs.join(", ");
        paragraphs.push(format!("**Warning:** the peer has {differs}."));
    }
    match record["load_average"].as_f64() {
        Some(load) if load > QUIET => paragraphs.push(format!(
            "**Warning:** load average {load} at the start, so something else was running; the figures are not to be \
             trusted."
        )),
        Some(load) => about.push(format!("Load average at the start: {load}.")),
        None => about.push("Load average unknown.".to_owned()),
    }
    paragraphs.insert(0, about.join(" "));
    paragraphs.join("\n\n")
}

/// Processor time of the whole machine and of this program with its children, to see who else was at work.
pub(crate) struct Watch {
    started: Instant,
    before: Option<Times>,
}

#[derive(Clone, Copy)]
struct Times {
    /// Seconds of all processes.
    all: f64,
    /// Seconds of this program and of its children that ended.
    own: f64,
    /// Seconds that the host of a virtual machine gave to others.
    stolen: f64,
}

impl Times {
    fn now() -> Option<Self> {
        let machine = read_to_string("/proc/stat").ok()?;
        // user nice system idle iowait irq softirq steal
        let machine: Vec<f64> = numbers(machine.lines().next()?.split_whitespace().skip(1));
        let own = read_to_string("/proc/self/stat").ok()?;
        // Fields 14 to 17 (utime stime cutime cstime); the name in parentheses may hold spaces.
        let own = own.rsplit_once(')')?.1;
        let own: f64 = numbers(own.split_whitespace().skip(11).take(4)).iter().sum();
        let busy = [0, 1, 2, 5, 6].iter().map(|field| machine.get(*field)).sum::<Option<f64>>()?;
        Some(Self { all: busy / TICKS, own: own / TICKS, stolen: machine.get(7)? / TICKS })
    }
}

fn numbers<'a>(words: impl Iterator<Item = &'a str>) -> Vec<f64> {
    words.filter_map(|word| word.parse().ok()).collect()
}

impl Watch {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), before: Times::now() }
    }

    /// Cores that other processes and other virtual machines took on average since the start.
    pub(crate) fn others(&self) -> Option<f64> {
        let (before, after) = (self.before?, Times::now()?);
        let others = (after.all - before.all) - (after.own - before.own);
        let seconds = self.started.elapsed().as_secs_f64();
        Some(((others.max(0.0) + after.stolen - before.stolen) / seconds * 1e3).round() / 1e3)
    }
}

/// A warning when others took more than a tenth of a core.
pub(crate) fn disturbed(others: f64) -> Option<String> {
    (others > UNDISTURBED).then(|| format!("others took {others:.2} cores during this run"))
}
