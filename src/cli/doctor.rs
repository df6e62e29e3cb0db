//! `diptych doctor`: what this machine offers, and the batch it can train.

use super::Answer;
use super::storage::{self, Speed};
use super::table::aligned;
use anyhow::Result;
use diptych::augment::Pipeline;
use diptych::error::Error;
use diptych::experiment::memory_plan;
use diptych::recipe::{BUILT_IN, Recipe};
use diptych::{ffi, machine, memory};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Rows and columns of the square matrix product that is timed.
const SIDE: i64 = 1_024;

/// Channels of the convolution that is timed.
const CHANNELS: i64 = 256;

/// Recipes whose batch is planned where none is named: a small image, a photograph, the papers' setting.
const COMMON: [&str; 3] = ["cifar10/simclr", "folder/simclr", "imagenet/simclr"];

#[derive(clap::Args)]
#[command(after_help = "Examples:
  diptych doctor
  diptych doctor imagenet/simclr data.batch_size=1024
  diptych doctor --data /mnt/photos --json

Takes a few seconds; writes 65 MB to the data's folder, or the current one, and removes them.")]
pub(super) struct Arguments {
    /// Plan the batch of this recipe, a file or a built-in name [default: a few common ones]
    recipe: Option<String>,
    /// Settings to change, `key=value`
    overrides: Vec<String>,
    /// Whose storage to measure; the current folder if left out
    #[arg(long)]
    data: Option<PathBuf>,
}

/// Lines for people, and the same for programs.
struct Finding {
    rows: Vec<(&'static str, String)>,
    json: Value,
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let recipes = recipes(arguments)?;
    let folder = storage_folder(arguments.data.as_deref())?;
    let findings = [system(), processor(), memory_left(), cuda(), threads(), storage(&folder)];
    let mut json = json!({});
    let mut rows = Vec::new();
    for finding in findings {
        if let (Some(all), Value::Object(found)) = (json.as_object_mut(), finding.json) {
            all.extend(found);
        }
        rows.extend(finding.rows.into_iter().map(|(label, text)| vec![label.to_owned(), text]));
    }
    let plans = recipes.into_iter().map(|(name, recipe)| batch_plan(&name, recipe));
    let plans = plans.collect::<Result<Vec<_>>>()?;
    json["plans"] = plans.iter().map(|(_, json)| json.clone()).collect();
    let header = ["recipe", "batch", "at a time", "memory", "suggestion"];
    let mut table = vec![header.map(str::to_owned).to_vec()];
    table.extend(plans.into_iter().map(|(row, _)| row));
    let text = format!(
        "{}\n\nbatch plan on the CPU (predicted; `pretrain --dry-run` knows the data too)\n{}",
        aligned(&rows, &[]),
        aligned(&table, &[1, 2, 3])
    );
    Ok(Answer { text, json })
}

fn gib(bytes: Option<u64>) -> Option<f64> {
    bytes.map(|bytes| (bytes as f64 / f64::from(1 << 30) * 10.0).round() / 10.0)
}

fn or_unknown(value: Option<impl ToString>) -> String {
    value.map_or("unknown".to_owned(), |value| value.to_string())
}

/// What runs, and whether the pinned libtorch can run here.
fn system() -> Finding {
    let name = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    let (kernel, release, architecture) =
        (text(name.sysname()), text(name.release()), text(name.machine()));
    let glibc = ffi::glibc_version();
    let fits = kernel == "Linux"
        && architecture == "x86_64"
        && glibc.as_deref().is_some_and(|version| at_least(version, (2, 28)));
    let verdict =
        if fits { "" } else { "; the pinned libtorch needs Linux x86-64, glibc 2.28 or newer" };
    let glibc = or_unknown(glibc);
    let keeps = ffi::keeps_freed_memory();
    let allocator =
        if keeps { "jemalloc, keeps freed memory" } else { "jemalloc as `MALLOC_CONF` says" };
    Finding {
        rows: vec![
            ("diptych", format!("{} {}", env!("CARGO_PKG_VERSION"), machine::REVISION)),
            ("libtorch", machine::LIBTORCH.to_owned()),
            ("system", format!("{kernel} {release} {architecture}, glibc {glibc}{verdict}")),
            ("allocator", allocator.to_owned()),
        ],
        json: json!({
            "diptych": env!("CARGO_PKG_VERSION"),
            "revision": machine::REVISION,
            "libtorch": machine::LIBTORCH,
            "system": { "kernel": kernel, "release": release, "architecture": architecture, "glibc": glibc, "fits": fits },
            "allocator": { "name": "jemalloc", "keeps_freed_memory": keeps },
        }),
    }
}

/// Whether a version `major.minor…` is at least the wanted one.
fn at_least(version: &str, wanted: (u32, u32)) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= wanted
}

fn processor() -> Finding {
    tch::set_num_threads(machine::cores() as i32);
    let gflops = matrix_product_gflops().round();
    let [single, half] = [Kind::Float, Kind::BFloat16].map(|kind| convolution_gflops(kind).round());
    let (model, cores) = (or_unknown(machine::processor()), machine::cores());
    let extensions = machine::vector_extensions();
    Finding {
        rows: vec![
            ("processor", format!("{model}, {cores} cores for this process")),
            ("extensions", extensions.join(" ")),
            ("matrix product", format!("{gflops} GFLOP/s (f32, {SIDE} x {SIDE}, all cores)")),
            (
                "convolution",
                format!("{single} GFLOP/s in f32, {half} in bfloat16 (3 x 3, {CHANNELS} channels)"),
            ),
        ],
        json: json!({
            "processor": machine::processor(),
            "cores": cores,
            "vector_extensions": extensions,
            "float32_gemm_gflops": gflops,
            "float32_convolution_gflops": single,
            "bfloat16_convolution_gflops": half,
        }),
    }
}

fn memory_left() -> Finding {
    let (total, available) = (gib(machine::total_memory()), gib(memory::available_bytes()));
    let limit = gib(memory::group_limit_bytes());
    let group = limit.map_or("no limit of a control group".to_owned(), |limit| {
        format!("control group grants {limit} GiB")
    });
    Finding {
        rows: vec![(
            "memory",
            format!("{} GiB, {} GiB available, {group}", or_unknown(total), or_unknown(available)),
        )],
        json: json!({
            "memory_gib": total,
            "memory_available_gib": available,
            "memory_limit_gib": limit,
        }),
    }
}

/// Devices, and what stands between this program and a GPU.
fn cuda() -> Finding {
    let driver = Path::new("/proc/driver/nvidia/version").exists();
    let folder = libtorch_folder();
    let present = |path: &str| folder.as_ref().is_some_and(|folder| folder.join(path).exists());
    let libtorch_part = present("libtorch_cuda.so");
    // Where the wheels lie side by side; a libtorch of one's own carries them with it.
    let libraries = present("../../nvidia/cudnn/lib") || present("libcudnn.so.9");
    let failure = if driver { ffi::load_cuda().err() } else { None };
    let count = if driver && failure.is_none() { tch::Cuda::device_count() } else { 0 };
    let devices: Vec<String> = std::iter::once("cpu".to_owned())
        .chain((0..count).map(|index| format!("cuda:{index}")))
        .collect();
    let verdict = match (&failure, driver, count) {
        (Some(error), ..) => format!(
            "NVIDIA driver loaded, libtorch's CUDA part does not load: {error}; `make cuda` fetches what it needs (2 GB)"
        ),
        (None, true, 0) => "NVIDIA driver loaded, no device seen; look at `nvidia-smi`".to_owned(),
        (None, true, _) => "ready: train.device=cuda".to_owned(),
        (None, false, _) if libraries => {
            "libraries are there, no NVIDIA driver is loaded: training runs on the CPU".to_owned()
        }
        (None, false, _) => "no NVIDIA driver is loaded: training runs on the CPU; with one, `make cuda` fetches the \
                             libraries (2 GB)"
            .to_owned(),
    };
    Finding {
        rows: vec![("devices", devices.join(" ")), ("CUDA", verdict.clone())],
        json: json!({
            "devices": devices,
            "cuda": { "driver": driver, "libtorch_part": libtorch_part, "libraries": libraries, "verdict": verdict },
        }),
    }
}

/// The folder that the loaded libtorch came from.
fn libtorch_folder() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    Some(Path::new(&line[line.find('/')?..]).parent()?.to_owned())
}

fn threads() -> Finding {
    let cores = machine::cores();
    let variables: Vec<(&str, Option<String>)> = ["OMP_NUM_THREADS", "MKL_NUM_THREADS"]
        .map(|name| (name, std::env::var(name).ok()))
        .to_vec();
    let set: Vec<String> = variables
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)))
        .collect();
    let ignored = if set.is_empty() {
        String::new()
    } else {
        format!("; {} changes nothing here, set train.threads", set.join(" "))
    };
    Finding {
        rows: vec![(
            "threads",
            format!(
                "train.threads={cores} for computing, data.threads={cores} for loading at lowest priority{ignored}"
            ),
        )],
        json: json!({ "threads": {
            "compute": cores,
            "loader": cores,
            "OMP_NUM_THREADS": variables[0].1,
            "MKL_NUM_THREADS": variables[1].1,
        } }),
    }
}

/// The folder whose storage is measured.
fn storage_folder(data: Option<&Path>) -> Result<PathBuf> {
    match data {
        None => Ok(PathBuf::from(".")),
        Some(made) if made.to_string_lossy().starts_with("synthetic:") => Ok(PathBuf::from(".")),
        Some(path) if path.is_dir() => Ok(path.to_owned()),
        Some(path) if path.is_file() => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            Ok(parent.unwrap_or(Path::new(".")).to_owned())
        }
        Some(path) => Err(Error::Data(format!(
            "`{}` does not exist; --data names a file or folder whose storage is measured",
            path.display()
        ))
        .into()),
    }
}

fn storage(folder: &Path) -> Finding {
    let megabytes = |rate: f64| (rate / f64::from(1 << 20)).round();
    let place = folder.display();
    match storage::measure(folder) {
        Ok(Speed { bytes, write, read, opens }) => Finding {
            rows: vec![(
                "storage",
                format!(
                    "{place}: writes {} MB/s (synced), reads {} MB/s, opens {} small files/s (reads and opens may come from the \
                     page cache)",
                    megabytes(write),
                    megabytes(read),
                    opens.round()
                ),
            )],
            json: json!({ "storage": {
                "folder": folder,
                "bytes": bytes,
                "write_mb_per_second": megabytes(write),
                "read_mb_per_second": megabytes(read),
                "small_file_opens_per_second": opens.round(),
                "note": "reads and opens may come from the page cache, which was asked to forget the files",
            } }),
        },
        Err(error) => Finding {
            rows: vec![("storage", format!("{place}: not measured: {error}"))],
            json: json!({ "storage": { "folder": folder, "error": error.to_string() } }),
        },
    }
}

/// The recipes to plan for, by name.
fn recipes(arguments: &Arguments) -> Result<Vec<(String, Recipe)>> {
    let load = |name: &str| Ok((name.to_owned(), Recipe::load(name, &arguments.overrides)?));
    if let Some(name) = &arguments.recipe {
        return Ok(vec![load(name)?]);
    }
    let known = COMMON.iter().filter(|name| BUILT_IN.iter().any(|(known, _)| known == *name));
    known.map(|name| load(name)).collect()
}

/// The largest micro-batch of a recipe that should fit into the memory left, as a row of the table and as JSON.
fn batch_plan(name: &str, mut recipe: Recipe) -> Result<(Vec<String>, Value)> {
    "cpu".clone_into(&mut recipe.train.device);
    recipe.resolve()?;
    let pipeline = Pipeline::new(&recipe.view)?;
    let sizes: Vec<usize> = (0..pipeline.views()).map(|view| pipeline.size_px(view)).collect();
    // Nobody has said which data; a bank of a million images would be small beside the maps.
    let plan = memory_plan(&recipe, &sizes, 0);
    let held = machine::held_memory().unwrap_or(0);
    let budget = memory::available_bytes().map_or(0, |left| left.saturating_sub(machine::MARGIN));
    let (batch, micro) = (recipe.data.batch_size, recipe.data.micro_batch_size);
    let total_mb = |micro: usize| (held + plan.bytes(micro)) >> 20;
    let fits = plan.bytes(micro) <= budget;
    let largest = plan.largest_micro_batch(budget);
    let suggestion = match largest {
        _ if fits => "as it is".to_owned(),
        None => "not even one image fits: choose a smaller backbone.width or view".to_owned(),
        Some(largest) => {
            let group = if largest < plan.group {
                format!(", batch norm then sees {largest} images at a time")
            } else {
                String::new()
            };
            format!("data.micro_batch_size={largest}: about {} MB{group}", total_mb(largest))
        }
    };
    let json = json!({
        "recipe": name,
        "batch_size": batch,
        "micro_batch_size": micro,
        "predicted_peak_memory_mb": total_mb(micro),
        "fits": fits,
        "largest_micro_batch_size": largest,
        "largest_predicted_peak_memory_mb": largest.map(total_mb),
    });
    let row = [name.to_owned(), batch.to_string(), micro.to_string()];
    let row = row.into_iter().chain([format!("{} MB", total_mb(micro)), suggestion]).collect();
    Ok((row, json))
}

/// f32 matrix products on all cores, in 10^9 operations a second.
fn matrix_product_gflops() -> f64 {
    let a = Tensor::ones([SIDE, SIDE], (Kind::Float, Device::Cpu));
    2.0 * (SIDE as f64).powi(3) / fastest(|| a.matmul(&a)) / 1e9
}

/// The same for a convolution as a residual network has it, forward.
fn convolution_gflops(kind: Kind) -> f64 {
    const IMAGES: i64 = 64;
    const MAP: i64 = 8;
    let options = (kind, Device::Cpu);
    let channels_last = |size: [i64; 4]| Tensor::ones(size, options).permute([0, 3, 1, 2]);
    let x = channels_last([IMAGES, MAP, MAP, CHANNELS]);
    let weight = channels_last([CHANNELS, 3, 3, CHANNELS]);
    let seconds = fastest(|| x.conv2d(&weight, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1));
    2.0 * (IMAGES * MAP * MAP * 9 * CHANNELS * CHANNELS) as f64 / seconds / 1e9
}

/// Seconds of the fastest of a few calls.
fn fastest(work: impl Fn() -> Tensor) -> f64 {
    let seconds = (0..8).map(|_| {
        let started = Instant::now();
        let result = work();
        let seconds = started.elapsed().as_secs_f64();
        drop(result);
        seconds
    });
    seconds.fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(at_least("2.28", (2, 28)) && at_least("2.36", (2, 28)) && at_least("3.1", (2, 28)));
        assert!(!at_least("2.9", (2, 28)) && !at_least("2.17", (2, 28)) && !at_least("", (2, 28)));
    }

    #[test]
    fn the_plan_follows_the_recipe() {
        let changes = ["data.batch_size=64".to_owned(), "train.precision=float64".to_owned()];
        let plan = |changes: &[String]| {
            batch_plan("cifar10/simclr", Recipe::load("cifar10/simclr", changes).unwrap())
                .unwrap()
                .1
        };
        let [single, double] = [plan(&changes[..1]), plan(&changes)];
        assert_eq!(single["micro_batch_size"], 64);
        let mb = |plan: &Value| plan["predicted_peak_memory_mb"].as_u64().unwrap();
        assert!(mb(&double) > mb(&single), "{double} {single}");
    }
}
