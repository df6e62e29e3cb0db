//! t-SNE beside scikit-learn's, in turns: `cargo bench --bench tsne -- [--quick]`.
//!
//! Features are classes of unlike size and width in 512 dimensions. `PEER_PYTHON` names a Python with scikit-learn and
//! safetensors, which runs `benches/peers/tsne.py` on the same file after ours, on as many threads. Both maps are judged by
//! the same code: trustworthiness over 5 neighbours, leave-one-out votes of 10 on the map.

use diptych::analyze::map::pca::pca;
use diptych::analyze::map::quality::Judge;
use diptych::analyze::map::tsne::Tsne;
use diptych::random::{Purpose, Scope, Stream};
use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::Instant;
use tch::Tensor;

/// Classes of the features.
const CLASSES: usize = 20;

/// On how many threads both compute.
const THREADS: usize = 2;

/// Directions along which the images of a class differ.
const LATENT: usize = 6;

fn features(rows: usize, dimensions: usize) -> (Tensor, Vec<i64>) {
    let mut stream = Stream::open(2, Purpose::Test, Scope::Item(0));
    let mut direction =
        |length: f64| (0..dimensions).map(|_| length * stream.normal()).collect::<Vec<f64>>();
    let centres: Vec<Vec<f64>> = (0..CLASSES).map(|_| direction(0.3)).collect();
    let spread: Vec<Vec<f64>> = (0..CLASSES * LATENT).map(|_| direction(0.2)).collect();
    let mut values = Vec::with_capacity(rows * dimensions);
    let mut labels = Vec::with_capacity(rows);
    for _ in 0..rows {
        let class = stream.below(CLASSES as u64 * 2).min(CLASSES as u64 - 1) as usize;
        let width = 0.5 + class as f64 / CLASSES as f64;
        labels.push(class as i64);
        let at: [f64; LATENT] = std::array::from_fn(|_| width * stream.normal());
        values.extend((0..dimensions).map(|axis| {
            let along = at.iter().zip(&spread[class * LATENT..]);
            let along: f64 = along.map(|(at, direction)| at * direction[axis]).sum();
            (centres[class][axis] + along + 0.1 * stream.normal()) as f32
        }));
    }
    (Tensor::from_slice(&values).view([rows as i64, -1]), labels)
}

/// Seconds, seconds of processor time and divergence.
fn peer(python: &str, file: &str, out: &str, seed: u64) -> Option<[f64; 3]> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/tsne.py");
    let threads = THREADS.to_string();
    let output = Command::new(python)
        .args([script, file, "--out", out, "--threads", &threads, "--seed", &seed.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .ok()?;
    let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
    let number = |key: &str| answer[key].as_f64();
    Some([number("seconds")?, number("processor_seconds")?, number("kl")?])
}

/// Processor time of this process so far, in seconds (proc(5): ticks of 10 ms).
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let python = std::env::var("PEER_PYTHON").ok().filter(|python| !python.is_empty());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build_global();
    pool.expect("no pool has been made before");
    tch::set_num_threads(THREADS as i32);
    let folder = std::env::temp_dir().join(format!("diptych-tsne-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
    let [file, out] = ["rows", "map"]
        .map(|name| folder.join(format!("{name}.safetensors")).display().to_string());
    println!(
        "rows    ours s  peer s  ratio   then ours, peer: processor s, KL, trustworthiness, k-NN"
    );
    for (rows, seed) in if quick { vec![(1_500, 0)] } else { vec![(10_000, 0), (10_000, 1)] } {
        let (values, labels) = features(rows, 512);
        Tensor::write_safetensors(&[("rows", &values)], &file).expect("the folder has room");
        let (started, used) = (Instant::now(), processor());
        let start = pca(&values).expect("rows are numbers");
        let found = Tsne::default().fit(&values, &start.points, seed, &mut |_, _| ());
        let found = found.expect("rows are many");
        let (ours, used) = (started.elapsed().as_secs_f64(), processor() - used);
        let judged = |points: &[[f32; 2]]| {
            let judge = Judge { images: 5_000, ..Judge::default() };
            let quality = judge.compare(&values, points, &labels, 0).expect("as many as rows");
            (quality.trustworthiness, quality.knn_map.unwrap_or_default())
        };
        let (trust, knn) = judged(&found.points);
        print!("{rows:<7} {ours:>6.2}");
        let kl = found.kl;
        if let Some(python) = &python
            && let Some([seconds, theirs, their_kl]) = peer(python, &file, &out, seed)
        {
            let map = Tensor::read_safetensors(&out).expect("the peer wrote a map").remove(0).1;
            let mut points = vec![[0.0f32; 2]; rows];
            map.copy_data(points.as_flattened_mut(), 2 * rows);
            let (their_trust, their_knn) = judged(&points);
            print!(" {seconds:>7.2} {:>6.1}   {used:.1}, {theirs:.1}", seconds / ours);
            print!("   {kl:.3}, {their_kl:.3}   {trust:.4}, {their_trust:.4}");
            println!("   {knn:.4}, {their_knn:.4}");
        } else {
            println!("       –      –   {used:.1}   {kl:.3}   {trust:.4}   {knn:.4}");
        }
    }
    std::fs::remove_dir_all(&folder).expect("the folder is ours");
}
