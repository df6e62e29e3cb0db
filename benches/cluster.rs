//! K-means with its defaults (ten starts), beside scikit-learn's in turns where `PEER_PYTHON` has it: seconds, and how many
//! times ours goes into theirs. Both are given two threads.
//!
//! The rows are of unit length and have no negative value, as features behind a rectifier: ten overlapping groups in a space
//! whose directions matter less and less; in the case `noise`, none at all, which takes many more rounds.

use diptych::cluster::KMeans;
use diptych::random::{Purpose, Scope, Stream};
use diptych::rows::unit_rows;
use std::process::Command;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Threads of either side.
const THREADS: usize = 2;

/// Runs of each side.
const RUNS: u64 = 3;

fn normal(stream: &mut Stream, rows: i64, columns: i64) -> Tensor {
    let values: Vec<f32> = (0..rows * columns).map(|_| stream.normal() as f32).collect();
    Tensor::from_slice(&values).view([rows, columns])
}

fn features(rows: i64, dimensions: i64) -> Tensor {
    let stream = &mut Stream::open(0, Purpose::Test, Scope::Item(0));
    let fading = Tensor::arange_start(1, 65, (Kind::Float, Device::Cpu)).rsqrt();
    let directions = normal(stream, 64, dimensions) * fading.unsqueeze(1) / 4.0;
    let groups = normal(stream, 10, 64);
    let which: Vec<i64> = (0..rows).map(|_| stream.below(10) as i64).collect();
    let own = normal(stream, rows, 64) + groups.index_select(0, &Tensor::from_slice(&which));
    let noise = normal(stream, rows, dimensions) * 0.3;
    unit_rows(&(own.mm(&directions) + noise).relu())
}

/// Seconds and inertia of scikit-learn.
fn peer(python: &str, file: &str, k: usize, seed: u64) -> Option<(f64, f64)> {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/k_means.py");
    let numbers = [("--k", k as u64), ("--threads", THREADS as u64), ("--seed", seed)];
    let mut command = Command::new(python);
    command.args([program, file]);
    for (name, value) in numbers {
        command.args([name, &value.to_string()]);
    }
    let printed = command.output().ok()?.stdout;
    let found: serde_json::Value = serde_json::from_slice(&printed).ok()?;
    Some((found["seconds"].as_f64()?, found["inertia"].as_f64()?))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    // `cargo test --benches` runs benches too; there is nothing to measure then.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let quick = std::env::args().any(|argument| argument == "--quick");
    let python = std::env::var("PEER_PYTHON").ok().filter(|python| !python.is_empty());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build_global();
    pool.expect("no pool has been made before");
    tch::set_num_threads(THREADS as i32);
    let folder = std::env::temp_dir().join(format!("diptych-cluster-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
    let file = folder.join("rows.safetensors");
    let cases = [
        ("features", 10_000, 10),
        ("features", 12_544, 8),
        ("noise", 10_000, 10),
        ("features", 50_000, 10),
    ];
    println!("rows              k   ours s  peer s  ratio   inertia ours, peer");
    for (kind, rows, k) in if quick { &cases[..1] } else { &cases[..] } {
        let values = match *kind {
            "noise" => normal(&mut Stream::open(1, Purpose::Test, Scope::Item(0)), *rows, 512),
            _ => features(*rows, 512),
        };
        Tensor::write_safetensors(&[("rows", &values)], &file).expect("the folder has room");
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let (mut inertia, mut their_inertia) = (f64::INFINITY, f64::INFINITY);
        for seed in 0..if quick { 1 } else { RUNS } {
            let started = Instant::now();
            let found = KMeans::default().fit(&values, *k, seed).expect("rows are numbers");
            ours.push(started.elapsed().as_secs_f64());
            inertia = inertia.min(found.inertia);
            let found = python.as_ref().and_then(|it| peer(it, &file.to_string_lossy(), *k, seed));
            if let Some((seconds, found)) = found {
                theirs.push(seconds);
                their_inertia = their_inertia.min(found);
            }
        }
        let ours = median(ours);
        print!("{kind:<8} {rows:>6} {k:>4} {ours:>8.2}");
        if theirs.is_empty() {
            println!("       –      –   {inertia:.1}");
        } else {
            let theirs = median(theirs);
            println!(" {theirs:>7.2} {:>6.1}   {inertia:.1}, {their_inertia:.1}", theirs / ours);
        }
    }
    std::fs::remove_dir_all(&folder).expect("the folder is ours");
}
