//! Weighted k-NN beside PyTorch's dense form, in turns: `cargo bench --bench knn -- [QUERIES REFERENCES DIMENSIONS ROUNDS]`.
//!
//! Features are noise around 100 directions. `PEER_PYTHON` names a Python with torch and safetensors, which then runs
//! `benches/peers/knn.py` on the same file after each of our rounds: all queries at once, and in tiles of 512. Ours runs
//! in a process of its own as well, so that each peak of memory is of one computation. One line of JSON for each round.

use diptych::evaluate::{Features, Knn};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{env, fs};
use tch::{Device, Kind, Tensor};

const CLASSES: i64 = 100;

fn main() {
    let words: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [word, file] = &words[..]
        && word == "ours"
    {
        println!("{}", ours(Path::new(file)));
        return;
    }
    let numbers: Vec<i64> = words.iter().map(|word| word.parse().expect("a number")).collect();
    let size = |at: usize, default| numbers.get(at).copied().unwrap_or(default);
    let (queries, references, dimensions) = (size(0, 10_000), size(1, 50_000), size(2, 512));
    let folder = env::temp_dir().join(format!("knn-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for the features");
    let file = folder.join("features.safetensors");
    make(&file, queries, references, dimensions);
    let program = env::current_exe().expect("this program");
    let file = file.display().to_string();
    for round in 0..size(3, 3) {
        let ours = child(Command::new(&program).args(["ours", &file]));
        let mut line = json!({"round": round, "ours": ours});
        if let Some(python) = env::var_os("PEER_PYTHON").filter(|python| !python.is_empty()) {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/knn.py");
            for (name, tile) in [("dense", "0"), ("tiled", "512")] {
                // The dense form holds all products at once.
                if name == "dense" && queries * references > 1_000_000_000 {
                    continue;
                }
                let mut command = Command::new(&python);
                let peer = child(command.arg(&script).args([&file, "--tile", tile]));
                let ratio = peer["seconds"].as_f64().zip(line["ours"]["seconds"].as_f64());
                line[name] = peer;
                line[format!("{name}_over_ours")] = ratio.map(|(peer, ours)| peer / ours).into();
            }
        }
        println!("{line}");
    }
    fs::remove_dir_all(folder).expect("our own folder");
}

fn child(command: &mut Command) -> Value {
    let output = command.stderr(Stdio::inherit()).output().expect("the program can be run");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn make(file: &Path, queries: i64, references: i64, dimensions: i64) {
    tch::manual_seed(0);
    let centres = Tensor::randn([CLASSES, dimensions], (Kind::Float, Device::Cpu));
    let side = |rows| {
        let labels = Tensor::randint(CLASSES, [rows], (Kind::Int64, Device::Cpu));
        let noise = Tensor::randn([rows, dimensions], (Kind::Float, Device::Cpu));
        (centres.index_select(0, &labels) + noise * 4.0, labels)
    };
    let (q, ql) = side(queries);
    let (r, rl) = side(references);
    let tensors =
        [("queries", &q), ("references", &r), ("query_labels", &ql), ("reference_labels", &rl)];
    Tensor::write_safetensors(&tensors, file).expect("room for the features");
}

fn ours(file: &Path) -> Value {
    tch::set_num_threads(2);
    let tensors = Tensor::read_safetensors(file).expect("the features just written");
    let named = |name: &str| {
        let tensor = tensors.iter().find(|(known, _)| known == name);
        tensor.expect("a tensor of that name").1.shallow_clone()
    };
    let side = |h: &str, labels: &str| {
        let labels = named(labels);
        let rows = labels.size()[0];
        Features {
            h: named(h),
            index: Tensor::arange(rows, (Kind::Int64, Device::Cpu)),
            labels,
            paths: vec![String::new(); rows as usize],
            damaged: Vec::new(),
        }
    };
    let (queries, references) =
        (side("queries", "query_labels"), side("references", "reference_labels"));
    let before = peak_mb();
    let (started, busy) = (Instant::now(), processor_seconds());
    let ranks = Knn::default().evaluate(&queries, &references).expect("features are whole");
    let seconds = started.elapsed().as_secs_f64();
    let processor_seconds = processor_seconds() - busy;
    let correct = ranks.ranks.iter().filter(|rank| **rank == 0).count();
    json!({"seconds": seconds, "processor_seconds": processor_seconds, "peak_memory_mb": peak_mb(), "peak_before_mb": before, "correct": correct})
}

/// Most memory this process has held, in MB of 10^6 bytes.
fn peak_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 =
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0.0);
    kib * 1024.0 / 1e6
}

/// Time that all threads of this process have computed, in steps of 10 ms.
fn processor_seconds() -> f64 {
    let status = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = status.rsplit(") ").next().unwrap_or_default();
    let ticks =
        after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}
