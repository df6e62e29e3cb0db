//! What is in a file of weights, without loading it all.

use super::{file_of, flattened, megabytes, stem_name, tensorflow, thousands};
use crate::cli::Answer;
use crate::cli::table::aligned;
use anyhow::Result;
use diptych::train::checkpoint::KEY;
use diptych::weights::export::SETTINGS;
use diptych::weights::simclr_tf::{Choice, find};
use diptych::weights::tensorflow::Bundle;
use diptych::weights::{Format, Import, Stated, TensorFile};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  diptych weights show moco_v2_800ep_pretrain.pth.tar
  diptych weights show runs/a")]
pub(in crate::cli) struct Arguments {
    /// A file of weights of any system, a checkpoint, or a run folder
    file: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let file = TensorFile::open(&file_of(&arguments.file))?;
    let entries = file.entries();
    let bytes: u64 = entries.iter().map(|entry| entry.bytes() as u64).sum();
    let count: u64 = entries.iter().map(|entry| entry.count() as u64).sum();
    let whose = whose(&file);
    let mut lines = vec![format!(
        "{}: {}, {} tensors, {} numbers, {}",
        file.path().display(),
        file.format().name(),
        thousands(entries.len() as u64),
        thousands(count),
        megabytes(bytes),
    )];
    lines.extend(whose.lines);
    let short = |notes: &BTreeMap<String, String>| -> Vec<String> {
        let told =
            notes.iter().filter(|(name, _)| ![KEY, SETTINGS].contains(&name.as_str())).take(24);
        told.map(|(name, text)| format!("  {name}: {text}")).collect()
    };
    for (title, notes) in [("beside them:", file.notes()), ("not looked into:", file.opaque())] {
        let told = short(notes);
        if !told.is_empty() {
            lines.push(title.to_owned());
            let more = notes.len().saturating_sub(told.len());
            lines.extend(told);
            if more > 0 && !notes.contains_key(KEY) {
                lines.push(format!("  and {more} more (--json lists all)"));
            }
        }
    }
    let mut rows = vec![["tensor", "numbers", "shape", "becomes"].map(str::to_owned).to_vec()];
    let mut tensors = Vec::with_capacity(entries.len());
    for entry in entries {
        let name = entry.full_name();
        let becomes = whose.becomes.get(&name).cloned().unwrap_or_default();
        let shape = flattened(&entry.shape);
        rows.push(vec![name.clone(), entry.number.name().to_owned(), shape, becomes.clone()]);
        tensors.push(json!({
            "name": name,
            "numbers": entry.number.name(),
            "shape": entry.shape,
            "bytes": entry.bytes(),
            "becomes": becomes,
        }));
    }
    lines.push(aligned(&rows, &[]));
    let notes: BTreeMap<&String, &String> =
        file.notes().iter().filter(|(name, _)| ![KEY, SETTINGS].contains(&name.as_str())).collect();
    let json = json!({
        "file": file.path().display().to_string(),
        "format": file.format().name(),
        "tensors": tensors,
        "numbers": count,
        "bytes": bytes,
        "whose": whose.json,
        "notes": notes,
        "opaque": file.opaque(),
    });
    Ok(Answer { text: lines.join("\n"), json })
}

/// Who wrote the file, as far as it can be told.
struct Whose {
    lines: Vec<String>,
    json: Value,
    /// What becomes of each tensor.
    becomes: BTreeMap<String, String>,
}

fn whose(file: &TensorFile) -> Whose {
    if let Some(header) = file.notes().get(KEY) {
        let header: Value = serde_json::from_str(header).unwrap_or_default();
        let (model, step) = (&header["model"], &header["step"]);
        return Whose {
            lines: vec![
                format!("a model of diptych, step {step}"),
                format!("  backbone: {}", model["backbone"]),
                format!("  images: {}", model["preprocess"]["id"]),
            ],
            json: json!({ "family": "diptych", "header": header }),
            becomes: BTreeMap::new(),
        };
    }
    if let Some(settings) = file.notes().get(SETTINGS) {
        let model: Value = serde_json::from_str(settings).unwrap_or_default();
        return Whose {
            lines: vec![
                "a model that diptych exported".to_owned(),
                format!("  backbone: {}", model["backbone"]),
                format!("  images: {}", model["preprocess"]["id"]),
            ],
            json: json!({ "family": "diptych", "model": model }),
            becomes: BTreeMap::new(),
        };
    }
    if file.format() == Format::TensorFlow {
        return of_simclr(file);
    }
    match Import::plan(file, &Stated::default()) {
        Err(error) => {
            let why = error.to_string();
            let json = json!({ "family": Value::Null, "why": why });
            Whose { lines: vec![format!("not recognised: {why}")], json, becomes: BTreeMap::new() }
        }
        Ok(import) => {
            let ids: Vec<&str> = import.family.preprocess.iter().map(|known| known.id).collect();
            let images = match ids.as_slice() {
                [] => "how images are prepared must be stated (--preprocess)".to_owned(),
                [id] => format!("images are prepared as `{id}`"),
                several => format!("images are prepared as one of {}", several.join(", ")),
            };
            let name = format!("{:?}", import.config.name).to_lowercase();
            let place = match import.group.as_str() {
                "" => String::new(),
                group => format!(", in `{group}`"),
            };
            let rows = import.rows.iter().map(|row| {
                let becomes = row.becomes.clone().filter(|_| row.outcome.name() == "matched");
                (row.name.clone(), becomes.unwrap_or_else(|| row.outcome.name().to_owned()))
            });
            Whose {
                lines: vec![
                    format!("of {} (family {}){place}", import.family.title, import.family.id),
                    format!(
                        "  {name}, width {}, stem {}; {images}",
                        import.config.width,
                        stem_name(import.config.stem)
                    ),
                    format!("  {}", import.summary()),
                ],
                json: json!({
                    "family": import.family.id,
                    "group": import.group,
                    "backbone": import.config,
                    "preprocess": ids,
                    "summary": import.summary(),
                }),
                becomes: rows.collect(),
            }
        }
    }
}

/// A TensorFlow checkpoint, if it is one of SimCLR's.
fn of_simclr(file: &TensorFile) -> Whose {
    let found = Bundle::open(file.path()).and_then(|bundle| find(&bundle, Choice::default()));
    let network = match found {
        Ok(network) => network,
        Err(error) => {
            let why = error.to_string();
            let json = json!({ "family": Value::Null, "why": why });
            return Whose {
                lines: vec![format!("not recognised: {why}")],
                json,
                becomes: BTreeMap::new(),
            };
        }
    };
    let name = format!("{:?}", network.config.name).to_lowercase();
    let mut lines = vec![
        "of SimCLR's TensorFlow code".to_owned(),
        format!(
            "  {name}, width {}, stem {}; images are prepared as `simclr`",
            network.config.width,
            stem_name(network.config.stem)
        ),
        format!("  {}", tensorflow::summary(&network)),
    ];
    if network.has_average {
        lines.push("  with a moving average of the weights (`import --average`)".to_owned());
    }
    let json = json!({
        "family": "simclr",
        "backbone": network.config,
        "projector": network.projector,
        "classes": network.classes,
        "average": network.has_average,
        "preprocess": ["simclr"],
        "summary": tensorflow::summary(&network),
    });
    let becomes = network.tensors.into_iter().filter_map(|it| Some((it.source?, it.target)));
    Whose { lines, json, becomes: becomes.collect() }
}
