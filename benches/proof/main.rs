//! Speed and memory beside the same work in PyTorch with lightly, and how far a step is from what the machine can do.
//!
//! `cargo bench --locked --profile release --bench proof -- [PART...] [--quick]`; `make bench` runs it with everything else.
//! Each part prints Markdown and writes `results/bench/PART.md` and `PART.json`.

mod accuracy;
mod child;
mod data;
mod figures;
mod limit;
mod loader;
mod machine;
mod memory;
mod peer;
mod results;
mod session;
mod speed;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use peer::Peer;
use serde_json::{Value, json};
use session::{Report, Session};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The whole pipeline at two widths (13 minutes)
    Speed,
    /// Decoding and augmenting alone (5 minutes)
    Loader,
    /// A batch of 4,096, and predicted memory against what is held (9 minutes)
    Memory,
    /// The machine's peak, and where a step's time and memory go (3 minutes)
    Limit,
    /// k-NN of three seeds after four epochs (75 minutes; only when named)
    Accuracy,
}

impl Part {
    const DEFAULT: [Self; 4] = [Self::Speed, Self::Loader, Self::Memory, Self::Limit];

    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn measure(self, session: &Session, report: &mut Report<'_>) -> Result<()> {
        match self {
            Self::Speed => speed::measure(session, report),
            Self::Loader => loader::measure(session, report),
            Self::Memory => memory::measure(session, report),
            Self::Limit => limit::measure(session, report),
            Self::Accuracy => accuracy::measure(session, report),
        }
    }
}

/// Measures speed and memory beside lightly on PyTorch; times are those of two cores
#[derive(Parser)]
#[command(
    bin_name = "cargo bench --locked --profile release --bench proof --",
    after_help = "Environment:
  DIPTYCH_BENCH_CIFAR10      folder of CIFAR-10; without it small pictures are made
  DIPTYCH_BENCH_PHOTOGRAPHS  folder of photographs; without it large pictures are made
  PEER_PYTHON                Python that has lightly, see benches/peers/README.md [default: python3]"
)]
struct Arguments {
    /// What to measure [default: all but accuracy]
    parts: Vec<Part>,
    /// One small run of each, to see that everything works; writes no results unless told where
    #[arg(long)]
    quick: bool,
    /// Folder for the results [default: results/bench]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Threads of each program, and loader workers of the peer [default: every core]
    #[arg(long)]
    threads: Option<usize>,
    /// Print what this machine is, and stop
    #[arg(long)]
    machine: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    // As the program does.
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every part is whole.
fn run(arguments: &Arguments) -> Result<bool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The second one leaves at once.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let threads = arguments.threads.unwrap_or_else(diptych::machine::cores).max(1);
    tch::set_num_threads(threads as i32);
    let load =
        if arguments.quick { machine::load_average() } else { machine::wait_for_quiet(&stop) };
    if arguments.machine {
        println!("{}", machine::describe(&machine::record(threads, load, None), &[]));
        return Ok(true);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("PEER_PYTHON").filter(|python| !python.is_empty());
    let python = python.unwrap_or_else(|| "python3".into());
    let peer = Peer::find(python, root.join("benches/peers"), &stop);
    let machine = machine::record(threads, load, Some(&peer));
    let differs = peer.as_ref().map_or(&[][..], |peer| &peer.differs[..]);
    let mut described = machine::describe(&machine, differs);
    if arguments.quick {
        described +=
            "\n\n**Small runs to see that everything works; none of this is a measurement.**";
    }
    println!("{described}\n");
    let session = Session {
        quick: arguments.quick,
        threads,
        scratch: tempfile::Builder::new().prefix("diptych-bench-").tempdir()?,
        stop,
        cifar10: OnceCell::new(),
        photographs: OnceCell::new(),
        peer,
    };
    let parts = if arguments.parts.is_empty() { &Part::DEFAULT[..] } else { &arguments.parts[..] };
    let results =
        arguments.out.clone().or_else(|| (!arguments.quick).then(|| root.join("results/bench")));
    let mut whole = true;
    for part in parts {
        whole &= measure(*part, &session, &machine, &described, results.as_deref())?;
    }
    Ok(whole)
}

/// Measures a part, writes its result, and says whether it is whole. Fails only when the program is asked to stop, or the
/// result cannot be written.
fn measure(
    part: Part,
    session: &Session,
    machine: &Value,
    described: &str,
    results: Option<&Path>,
) -> Result<bool> {
    session.go_on()?;
    let name = part.name();
    println!("# {name}\n");
    let mut report = Report::new(session);
    if let Err(error) = part.measure(session, &mut report) {
        if session.stop.load(Ordering::Relaxed) {
            return Err(error.context(format!("`{name}` is not written")));
        }
        let error = session.without_places(&format!("{error:#}"));
        report.note(&[error], []);
    }
    let whole = report.failures.is_empty();
    if let Some(folder) = results {
        let text = session.without_places(described);
        let text = format!("# {name}\n\n{text}\n\n{}\n", report.text.trim_end());
        let raw = json!({ "format": 1, "part": name, "machine": machine, "measured": report.raw });
        results::publish(folder, &name, &text, &raw, whole)?;
    }
    Ok(whole)
}
