//! What differs between two files of weights.

use super::{file_of, flattened, named_stem, stem_name};
use crate::cli::table::aligned;
use crate::cli::{Answer, Finding};
use anyhow::Result;
use diptych::error::Error;
use diptych::train::checkpoint::KEY;
use diptych::weights::compare::{Difference, compare, named};
use diptych::weights::{Stated, TensorFile};
use serde_json::json;
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  diptych weights compare a.safetensors b.pth
  diptych weights compare --backbone runs/a moco.pth.tar --tolerance 1e-6

Exit code 0 if both hold the same tensors, 1 if they differ, as `diff` does it.")]
pub(in crate::cli) struct Arguments {
    /// A file of weights of any system, a checkpoint, or a run folder
    first: PathBuf,
    /// The other
    second: PathBuf,
    /// Compare the backbones, by the names of the network, and nothing else
    #[arg(long)]
    backbone: bool,
    /// The stem of a network with a 3×3 kernel, for a file that does not say: cifar, `cifar_pad2`, `cifar_no_relu`
    #[arg(long, requires = "backbone")]
    stem: Option<String>,
    /// Whose file of another system it is, where it is not to be recognised
    #[arg(long, requires = "backbone")]
    family: Option<String>,
    /// Largest difference that counts as none, as a share of the largest magnitude of a tensor in the first
    #[arg(long, default_value_t = 0.0)]
    tolerance: f64,
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    if !(arguments.tolerance >= 0.0 && arguments.tolerance.is_finite()) {
        let found = arguments.tolerance;
        return Err(
            Error::Recipe(format!("`--tolerance` must be at least 0, found {found}")).into()
        );
    }
    let files = [&arguments.first, &arguments.second].map(|path| TensorFile::open(&file_of(path)));
    let [first, second] = files;
    let (first, second) = (first?, second?);
    let stated = Stated {
        family: arguments.family.clone(),
        stem: arguments.stem.as_deref().map(named_stem).transpose()?,
        ..Stated::default()
    };
    let sides = [&first, &second].map(|file| named(file, arguments.backbone, &stated, KEY));
    let [one, other] = sides;
    let (one, other) = (one?, other?);
    let all = compare((&first, &one.sides), (&second, &other.sides))?;
    let differing: Vec<&Difference> =
        all.iter().filter(|one| !one.within(arguments.tolerance)).collect();
    let head = ["tensor", "first", "second", "largest", "relative"].map(str::to_owned).to_vec();
    let rows = differing.iter().map(|one| {
        let side = |index: usize| match (&one.shapes[index], one.numbers[index]) {
            (Some(shape), Some(number)) => format!("{number} {}", flattened(shape)),
            _ => "–".to_owned(),
        };
        let number =
            |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.3e}"));
        let (largest, relative) = (number(one.largest), number(one.relative));
        vec![one.name.clone(), side(0), side(1), largest, relative]
    });
    let summary = format!(
        "{} tensors in the first, {} in the second: {} equal, {} differ",
        one.sides.len(),
        other.sides.len(),
        all.len() - differing.len(),
        differing.len()
    );
    let mut lines = Vec::new();
    if !differing.is_empty() {
        lines.push(aligned(&[head].into_iter().chain(rows).collect::<Vec<_>>(), &[3, 4]));
    }
    // Equal tensors may be those of two networks.
    if let (Some(a), Some(b)) = (&one.config, &other.config)
        && (a.stem, a.flavor) != (b.stem, b.flavor)
    {
        let told = [a, b].map(|it| format!("{} ({:?})", stem_name(it.stem), it.flavor));
        lines.push(format!("note: two networks, of stem {}", told.join(" and of stem ")));
    }
    lines.push(summary.clone());
    let json = json!({
        "first": first.path().display().to_string(),
        "second": second.path().display().to_string(),
        "backbone": arguments.backbone,
        "tolerance": arguments.tolerance,
        "equal": differing.is_empty(),
        "networks": [one.config, other.config],
        "tensors": all,
    });
    let answer = Answer { text: lines.join("\n"), json };
    if differing.is_empty() {
        return Ok(answer);
    }
    Err(anyhow::Error::new(Finding { answer, error: Error::Run(summary) }))
}
