//! `diptych doctor`: what this machine offers.

use super::Answer;
use diptych::machine;
use serde_json::json;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Rows and columns of the square matrix product that is timed.
const SIDE: i64 = 1_024;

pub(super) fn run() -> Answer {
    let gib = |bytes: Option<u64>| {
        bytes.map(|bytes| (bytes as f64 / f64::from(1 << 30) * 10.0).round() / 10.0)
    };
    let devices: Vec<String> = std::iter::once("cpu".to_owned())
        .chain((0..machine::cuda_devices()).map(|index| format!("cuda:{index}")))
        .collect();
    let gflops = matrix_product_gflops();
    let json = json!({
        "diptych": env!("CARGO_PKG_VERSION"),
        "revision": machine::REVISION,
        "libtorch": machine::LIBTORCH,
        "processor": machine::processor(),
        "cores": machine::cores(),
        "vector_extensions": machine::vector_extensions(),
        "memory_gib": gib(machine::total_memory()),
        "memory_available_gib": gib(diptych::memory::available_bytes()),
        "devices": devices,
        "float32_gemm_gflops": gflops.round(),
    });
    let show = |key: &str| match &json[key] {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(items) => {
            items.iter().filter_map(|item| item.as_str()).collect::<Vec<_>>().join(" ")
        }
        serde_json::Value::Null => "unknown".to_owned(),
        other => other.to_string(),
    };
    let text = format!(
        "diptych           {}\nlibtorch          {}\nprocessor         {}, {} cores\nextensions        {}\n\
         memory            {} GiB, {} GiB available\ndevices           {}\nmatrix product    {} GFLOP/s (f32, {SIDE} x {SIDE})",
        show("diptych"),
        show("libtorch"),
        show("processor"),
        show("cores"),
        show("vector_extensions"),
        show("memory_gib"),
        show("memory_available_gib"),
        show("devices"),
        show("float32_gemm_gflops"),
    );
    Answer { text, json }
}

/// The best of a few f32 matrix products on all cores, in 10^9 operations a second.
fn matrix_product_gflops() -> f64 {
    tch::set_num_threads(machine::cores() as i32);
    let a = Tensor::ones([SIDE, SIDE], (Kind::Float, Device::Cpu));
    let best = (0..8)
        .map(|_| {
            let started = Instant::now();
            let product = a.matmul(&a);
            let seconds = started.elapsed().as_secs_f64();
            drop(product);
            seconds
        })
        .fold(f64::INFINITY, f64::min);
    2.0 * (SIDE as f64).powi(3) / best / 1e9
}
