//! Turn weights of another system into ours.

use super::{file_of, flattened, named_flavor, named_stem, tensorflow};
use crate::cli::Answer;
use crate::cli::evaluate::choose_preprocess;
use crate::cli::table::aligned;
use anyhow::Result;
use diptych::error::Error;
use diptych::evaluate::weights::{Layer, Weights};
use diptych::train::checkpoint::{self, KEY};
use diptych::train::journal::{Event, Journal};
use diptych::weights::export::SETTINGS;
use diptych::weights::simclr_tf::{Choice, find};
use diptych::weights::tensorflow::Bundle;
use diptych::weights::{Format, Import, Outcome, Row, Stated, TensorFile};
use serde_json::{Value, json};
use std::path::PathBuf;
use tch::Device;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  diptych weights import moco_v2_800ep_pretrain.pth.tar --out moco.safetensors
  diptych weights import simclrv2/r50_1x_sk0/model.ckpt-250228 --average --out simclrv2.safetensors
  diptych weights import resnet18.pth --stem cifar --preprocess cifar --out mine.safetensors

Whose file it is, is told by its names (`diptych weights show FILE`); every tensor of the backbone must match.")]
pub(in crate::cli) struct Arguments {
    /// A file of weights: safetensors, PyTorch, pickle; or the prefix or folder of a TensorFlow checkpoint
    file: PathBuf,
    /// The model to write, a .safetensors file that every command takes
    #[arg(long)]
    out: PathBuf,
    /// Whose file it is [default: recognised by its names]
    #[arg(long)]
    family: Option<String>,
    /// The stem of a network with a 3×3 kernel, where its family does not say: cifar, `cifar_pad2`, `cifar_no_relu`
    #[arg(long)]
    stem: Option<String>,
    /// Whose rules its network follows: torchvision, `simclr_tf`, `simclr_converter` [default: its family's]
    #[arg(long)]
    flavor: Option<String>,
    /// How images are prepared: imagenet, cifar, resize-S, ... [default: as its family published]
    #[arg(long)]
    preprocess: Option<String>,
    /// Of a TensorFlow checkpoint of SimCLRv2's pre-training: the moving average of the weights
    #[arg(long)]
    average: bool,
    /// Of a TensorFlow checkpoint: the pooling of the published PyTorch conversions
    #[arg(long)]
    converter: bool,
    /// Of a TensorFlow checkpoint: what its linear head reads, h or a layer of the projection head, g1 and so on
    /// [default: as published for this name]
    #[arg(long)]
    tap: Option<String>,
    /// Which of several dictionaries of weights in the file: model, `model_ema` [default: the first that its family has]
    #[arg(long)]
    group: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    if arguments.out.extension().is_none_or(|end| end != "safetensors") {
        let out = arguments.out.display();
        return Err(
            Error::Recipe(format!("`--out` must end in .safetensors, found `{out}`")).into()
        );
    }
    let stated = Stated {
        family: arguments.family.clone(),
        stem: arguments.stem.as_deref().map(named_stem).transpose()?,
        flavor: arguments.flavor.as_deref().map(named_flavor).transpose()?,
        group: arguments.group.clone(),
    };
    let file = TensorFile::open(&file_of(&arguments.file))?;
    if file.format() == Format::TensorFlow {
        return from_tensorflow(arguments, &stated, &file);
    }
    if arguments.average || arguments.converter || arguments.tap.is_some() {
        let name = file.format().name();
        return Err(Error::Recipe(format!(
            "`--average`, `--converter` and `--tap` are for TensorFlow checkpoints, found `{}`, {name}",
            file.path().display()
        ))
        .into());
    }
    if file.notes().contains_key(KEY) {
        return Err(Error::Weights(format!(
            "`{}` is a model of diptych already, which every command takes",
            file.path().display()
        ))
        .into());
    }
    if file.notes().contains_key(SETTINGS) {
        return from_export(arguments, &stated, &file);
    }
    let import = Import::plan(&file, &stated)?;
    let told = Told {
        whose: import.family.title.to_owned(),
        source: json!({ "family": import.family.id, "group": import.group }),
        table: table(&import.rows),
        summary: import.summary(),
        more: json!({ "elsewhere": import.elsewhere, "tensors": listed(&import.rows) }),
        ..Told::default()
    };
    save(arguments, &Weights::imported(&file, &stated, Device::Cpu)?, &file, told)
}

/// What `weights export --format safetensors` wrote, which says what it is; heads come along.
fn from_export(arguments: &Arguments, stated: &Stated, file: &TensorFile) -> Result<Answer> {
    if *stated != Stated::default() {
        return Err(Error::Recipe(format!(
            "`{}` says which network it is, in its metadata `{SETTINGS}`: leave out `--family`, `--stem`, `--flavor` and \
             `--group`",
            file.path().display()
        ))
        .into());
    }
    let weights = Weights::exported(file, Device::Cpu)?;
    let becomes = |name: &str| match name {
        name if ["projector.", "classifier."].iter().any(|part| name.starts_with(part)) => {
            name.to_owned()
        }
        name => format!("backbone.{name}"),
    };
    let rows: Vec<Row> = file
        .entries()
        .iter()
        .map(|entry| Row {
            name: entry.name.clone(),
            outcome: Outcome::Matched,
            becomes: Some(becomes(&entry.name)),
            shape: entry.shape.clone(),
            remark: String::new(),
        })
        .collect();
    let told = Told {
        whose: "an export of diptych".to_owned(),
        source: json!({ "family": "diptych" }),
        table: table(&rows),
        summary: format!("{} matched", rows.len()),
        more: json!({ "tensors": listed(&rows) }),
        ..Told::default()
    };
    save(arguments, &weights, file, told)
}

/// SimCLR's networks, whose tensors are told by the order in which they were made; heads come along.
fn from_tensorflow(arguments: &Arguments, stated: &Stated, file: &TensorFile) -> Result<Answer> {
    if *stated != Stated::default() {
        return Err(Error::Recipe(
            "a TensorFlow checkpoint tells its network: leave out `--family`, `--stem`, `--flavor` and `--group` \
             (`--converter` takes the pooling of the PyTorch conversions)"
                .to_owned(),
        )
        .into());
    }
    let tap = arguments.tap.as_deref().map(named_tap).transpose()?;
    let choice = Choice { average: arguments.average, converter: arguments.converter, tap };
    let network = find(&Bundle::open(&arguments.file)?, choice)?;
    let weights = Weights::from_tensorflow(&arguments.file, choice, Device::Cpu)?;
    let told = Told {
        whose: "SimCLR".to_owned(),
        variant: choice.average.then_some("moving average"),
        source: json!({ "family": "simclr", "average": choice.average }),
        table: tensorflow::table(&network),
        summary: tensorflow::summary(&network),
        more: json!({ "classes": network.classes, "tensors": tensorflow::rows(&network) }),
    };
    save(arguments, &weights, file, told)
}

/// How many layers of the projection head lie below one, by its name.
fn named_tap(name: &str) -> Result<usize> {
    match Layer::named(name) {
        Ok(Layer::H) => Ok(0),
        Ok(Layer::Projector(place)) => Ok(usize::from(place)),
        _ => Err(Error::Recipe(format!("`--tap` must be h, g1 and so on, found `{name}`")).into()),
    }
}

/// What there is to say of an import beside its weights.
#[derive(Default)]
struct Told {
    /// Whose weights they are, in words.
    whose: String,
    /// Which of the weights in the file.
    variant: Option<&'static str>,
    /// What the model keeps of where it came from; format and hashes are added.
    source: Value,
    /// What became of each tensor, as a table.
    table: String,
    /// Counts of that.
    summary: String,
    /// What else belongs into the answer.
    more: Value,
}

/// Writes the model, with where it came from, and tells what was written.
fn save(arguments: &Arguments, weights: &Weights, file: &TensorFile, told: Told) -> Result<Answer> {
    let preprocess = choose_preprocess(arguments.preprocess.as_deref(), weights)?;
    let (format, hashes) = (file.format().name(), file.hashes()?);
    let text = format!(
        "imported from {} ({}), BLAKE3 {:.16}",
        told.whose,
        [format].into_iter().chain(told.variant).collect::<Vec<_>>().join(", "),
        hashes.first().map_or("", String::as_str)
    );
    let source = joined(told.source, json!({ "format": format, "blake3": hashes }));
    let projector = weights.projector();
    let model = json!({
        "backbone": weights.config,
        "preprocess": preprocess,
        "projector": projector,
        "classifier_behind": weights.classifier_behind,
        "source": source,
    });
    let event = Event { step: 0, text: text.clone() };
    let journal = Journal { events: vec![event], ..Journal::default() };
    checkpoint::save_model(&arguments.out, (&model, &journal), &weights.with_head())?;
    let out = arguments.out.display().to_string();
    let summary = format!("{}; images are prepared as `{}`", told.summary, preprocess.id);
    let lines = [told.table, text, summary, out.clone()];
    let json = json!({
        "out": out,
        "source": source,
        "backbone": weights.config,
        "projector": projector,
        "preprocess": preprocess,
        "hash": weights.hash(),
        "matched": weights.matched,
        "left": weights.left_over,
    });
    Ok(Answer { text: lines.join("\n"), json: joined(json, told.more) })
}

/// Two JSON objects in one.
fn joined(mut object: Value, more: Value) -> Value {
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

/// What became of each tensor, for programs.
fn listed(rows: &[Row]) -> Vec<Value> {
    let row = |row: &Row| {
        json!({
            "name": row.name,
            "outcome": row.outcome.name(),
            "becomes": row.becomes,
            "shape": row.shape,
            "remark": row.remark,
        })
    };
    rows.iter().map(row).collect()
}

fn table(rows: &[Row]) -> String {
    let head = ["tensor", "shape", "", "becomes"].map(str::to_owned).to_vec();
    let lines = rows.iter().map(|row| {
        let becomes = row.becomes.clone().unwrap_or_default();
        let becomes = match row.remark.as_str() {
            "" => becomes,
            remark => format!("{becomes} ({remark})"),
        };
        vec![row.name.clone(), flattened(&row.shape), row.outcome.name().to_owned(), becomes]
    });
    aligned(&[head].into_iter().chain(lines).collect::<Vec<_>>(), &[])
}
