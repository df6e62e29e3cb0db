//! The sweep of the protocol `logistic` beside scikit-learn's on the same made features: 45 penalties, ten classes.
//!
//! `PEER_PYTHON=… cargo bench --locked --profile release --bench logistic -- [--images N] [--dimensions D] [--runs R]
//! [--every K] [--start zeros|warm]`. The peer's Python needs scikit-learn and safetensors; without it the ratio is left
//! out. With `--every 4` the peer fits every fourth penalty only and its time is scaled to 45.
//!
//! Features are made like those behind a rectifier: class means and noise of a falling spectrum in 64 dimensions, mixed into D
//! channels of differing scale, cut at zero. Times are of the sweep alone, ours with all preparation. Beside wall time
//! stands processor time, which says more on a machine that is not quiet.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use diptych::evaluate::Features;
use diptych::evaluate::logistic::{Logistic, Point};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

const CLASSES: i64 = 10;

/// Measures the 45-point logistic sweep beside scikit-learn
#[derive(Parser)]
struct Arguments {
    /// Images to learn from
    #[arg(long, default_value_t = 10_000)]
    images: i64,
    /// Width of the features
    #[arg(long, default_value_t = 256)]
    dimensions: i64,
    /// Runs of each, in turns
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Which penalties the peer fits: every one, every second, ...
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Where the peer's fits begin: zeros, or warm from the next larger penalty
    #[arg(long, default_value = "zeros")]
    start: String,
    /// Threads of each
    #[arg(long)]
    threads: Option<usize>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// A sweep's seconds on the clock and on the processors.
#[derive(Clone, Copy)]
struct Seconds {
    wall: f64,
    processor: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let threads = arguments.threads.unwrap_or_else(diptych::machine::cores).max(1);
    tch::set_num_threads(threads as i32);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let Arguments { images, dimensions, .. } = arguments;
    println!("{images} images, {dimensions} dimensions, {CLASSES} classes, {threads} threads");
    let features = made(images, dimensions);
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("features.safetensors");
    Tensor::write_safetensors(&[("h", &features.h), ("label", &features.labels)], &file)?;
    for run in 0..arguments.runs {
        let (own, sweep) = ours(&features)?;
        let iterations: usize = sweep.iter().map(|point| point.iterations).sum();
        println!(
            "run {}: diptych {:.1} s ({:.1} s of processor time), {iterations} iterations",
            run + 1,
            own.wall,
            own.processor
        );
        match peer(&file, threads, &arguments) {
            Ok((peer, fits)) => tell(own, peer, &sweep, &fits),
            Err(error) => println!("  the peer is left out: {error:#}"),
        }
    }
    Ok(())
}

/// Features with classes that overlap.
fn made(images: i64, dimensions: i64) -> Features {
    const LATENT: i64 = 64;
    tch::manual_seed(0);
    let normal = |rows, columns| Tensor::randn([rows, columns], (Kind::Float, Device::Cpu));
    let labels = Tensor::randint(CLASSES, [images], (Kind::Int64, Device::Cpu));
    let spectrum = (Tensor::arange(LATENT, (Kind::Float, Device::Cpu)) + 1.0).rsqrt();
    let means = normal(CLASSES, LATENT).index_select(0, &labels) * 0.5;
    let latent = (means + normal(images, LATENT)) * spectrum;
    let turned = latent.matmul(&normal(LATENT, LATENT)) / (LATENT as f64).sqrt();
    let latent = latent + turned.tanh() * 0.3;
    let mixed = latent.matmul(&normal(LATENT, dimensions)) * 2.0 / (LATENT as f64).sqrt();
    let noisy = mixed + normal(images, dimensions) * 0.3 - normal(1, dimensions).abs() * 0.2;
    Features {
        h: noisy.relu() * (normal(1, dimensions) * 0.5).exp(),
        labels,
        index: Tensor::arange(images, (Kind::Int64, Device::Cpu)),
        paths: (0..images).map(|image| image.to_string()).collect(),
        damaged: Vec::new(),
    }
}

fn ours(features: &Features) -> Result<(Seconds, Vec<Point>)> {
    // A few images to choose on, so that the sweep learns from the same ones as the peer's.
    let few = Features {
        h: features.h.narrow(0, 0, 100),
        labels: features.labels.narrow(0, 0, 100),
        index: features.index.narrow(0, 0, 100),
        paths: features.paths[..100].to_vec(),
        damaged: Vec::new(),
    };
    let (start, used) = (Instant::now(), processor_seconds());
    let mut swept = None;
    let mut progress = |done, all| {
        if done + 1 == all {
            let seconds = Seconds {
                wall: start.elapsed().as_secs_f64(),
                processor: processor_seconds() - used,
            };
            swept = Some(seconds);
        }
    };
    let found = Logistic::default().evaluate(&few, features, Some(&few), 0, &mut progress)?;
    Ok((swept.context("the sweep told of its progress")?, found.choice.sweep))
}

/// Processor time of this process so far, to a hundredth of a second.
fn processor_seconds() -> f64 {
    let told = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program comes second, in brackets, and may hold anything.
    let fields = told.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    ticks / 100.0
}

fn peer(file: &Path, threads: usize, arguments: &Arguments) -> Result<(Seconds, Vec<Value>)> {
    let python = std::env::var_os("PEER_PYTHON").filter(|python| !python.is_empty());
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/logistic.py");
    let output = Command::new(python.unwrap_or_else(|| "python3".into()))
        .arg(program)
        .arg(file)
        .args(["--threads", &threads.to_string(), "--every", &arguments.every.to_string()])
        .args(["--start", &arguments.start])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", errors.lines().last().unwrap_or("it failed"));
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    let fits = answer["fits"].as_array().context("no fits")?.clone();
    let scale = 45.0 / fits.len() as f64;
    let seconds =
        |key: &str| answer[key].as_f64().map(|seconds| seconds * scale).context("no times");
    Ok((Seconds { wall: seconds("seconds")?, processor: seconds("cpu_seconds")? }, fits))
}

fn tell(own: Seconds, peer: Seconds, sweep: &[Point], fits: &[Value]) {
    let number = |fit: &Value, key: &str| fit[key].as_f64().unwrap_or(f64::NAN);
    let iterations: f64 = fits.iter().map(|fit| number(fit, "iterations")).sum();
    println!(
        "  scikit-learn {:.1} s ({:.1} s of processor time), {iterations} iterations of {} fits",
        peer.wall,
        peer.processor,
        fits.len()
    );
    println!(
        "  ratio: {:.1} on the clock, {:.1} on the processors",
        peer.wall / own.wall,
        peer.processor / own.processor
    );
    // Above 0 where ours is the higher objective.
    let beyond = fits.iter().filter(|fit| fit["converged"] == true).map(|fit| {
        let penalty = number(fit, "penalty");
        let nearest = |point: &&Point| (point.lambda / penalty).ln().abs();
        let near = sweep.iter().min_by(|a, b| nearest(a).total_cmp(&nearest(b)));
        (near.map_or(f64::NAN, |point| point.objective) / number(fit, "objective") - 1.0, penalty)
    });
    let (worst, at) = beyond.clone().fold((f64::MIN, 0.0), |a, b| if b.0 > a.0 { b } else { a });
    let (best, there) = beyond.fold((f64::MAX, 0.0), |a, b| if b.0 < a.0 { b } else { a });
    println!(
        "  objective relative to scikit-learn's: from {best:+.1e} (penalty {there:.0e}) to {worst:+.1e} ({at:.0e})"
    );
}
