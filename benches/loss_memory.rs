//! Memory and speed of NT-Xent with its gradient for 65,536 images (131,072 rows of width 128, f32), where the dense
//! form's logits alone would take 69 GB. Prints the peak above the embeddings, which must stay below 1 GB.
//!
//! `cargo bench --bench loss_memory -- [IMAGES]`

use diptych::loss::nt_xent::{NtXent, Reduction};
use diptych::loss::tiled::default_tile;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

const WIDTH: i64 = 128;
const LIMIT_MB: u64 = 1000;

/// A line of `/proc/self/status` in MB: `VmRSS` (memory now) or `VmHWM` (its highest so far).
fn status_mb(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with(key)).expect("a known key");
    let kilobytes = line.split_whitespace().nth(1).expect("a value");
    kilobytes.parse::<u64>().expect("a number") * 1024 / 1_000_000
}

fn main() {
    let images: i64 = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(65_536);
    tch::manual_seed(0);
    let projections = Tensor::randn([2 * images, WIDTH], (Kind::Float, Device::Cpu));
    let loss = NtXent { temperature: 0.1, reduction: Reduction::Mean2n };
    // A first small batch, so that the libraries' own buffers do not count.
    let _ = loss.evaluate(&projections.narrow(0, 0, 512), 512).expect("even number of rows");

    let before = status_mb("VmRSS");
    let started = Instant::now();
    let found = loss.evaluate(&projections, default_tile(2 * images)).expect("even number of rows");
    let seconds = started.elapsed().as_secs_f64();
    let above = status_mb("VmHWM").saturating_sub(before);
    println!(
        "{images} x 2 x {WIDTH}: loss {:.6}, {seconds:.1} s, peak {above} MB above the embeddings",
        found.loss
    );
    assert!(above < LIMIT_MB, "{above} MB is not below {LIMIT_MB} MB");
}
