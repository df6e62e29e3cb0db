//! Turn weights of another system into ours.

use super::{file_of, flattened, named_flavor, named_stem, tensorflow};
use crate::cli::Answer;
use crate::cli::evaluate::choose_preprocess;
use crate::cli::table::aligned;
use anyhow::Result;
use diptych::error::Error;
use diptych::evaluate::weights::Weights;
use diptych::train::checkpoint::{self, KEY};
use diptych::train::journal::{Event, Journal};
use diptych::weights::export::SETTINGS;
use diptych::weights::simclr_tf::{Choice, find};
use diptych::weights::tensorflow::Bundle;
use diptych::weights::{Format, Import, Row, Stated, TensorFile};
use serde_json::json;
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
    };
    let file = TensorFile::open(&file_of(&arguments.file))?;
    if file.format() == Format::TensorFlow {
        return from_tensorflow(arguments, &stated, &file);
    }
    if arguments.average || arguments.converter {
        let name = file.format().name();
        return Err(Error::Recipe(format!(
            "`--average` and `--converter` are for TensorFlow checkpoints, found `{}`, {name}",
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
    let weights = Weights::imported(&file, &stated, Device::Cpu)?;
    let preprocess = choose_preprocess(arguments.preprocess.as_deref(), &weights)?;
    let hashes: Vec<String> = file.hashes()?;
    let source = json!({
        "family": import.family.id,
        "format": file.format().name(),
        "group": import.group,
        "blake3": hashes,
    });
    let model = json!({ "backbone": weights.config, "preprocess": preprocess, "source": source });
    let text = format!(
        "imported from {} ({}), BLAKE3 {:.16}",
        import.family.title,
        file.format().name(),
        hashes.first().map_or("", String::as_str)
    );
    let journal =
        Journal { events: vec![Event { step: 0, text: text.clone() }], ..Journal::default() };
    checkpoint::save_model(&arguments.out, (&model, &journal), &weights.tensors())?;
    let summary = import.summary();
    let lines = [
        table(&import.rows),
        text,
        format!("{summary}; images are prepared as `{}`", preprocess.id),
        arguments.out.display().to_string(),
    ];
    let rows: Vec<_> = import
        .rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name,
                "outcome": row.outcome.name(),
                "becomes": row.becomes,
                "shape": row.shape,
                "remark": row.remark,
            })
        })
        .collect();
    let json = json!({
        "out": arguments.out.display().to_string(),
        "source": source,
        "backbone": weights.config,
        "preprocess": preprocess,
        "hash": weights.hash(),
        "matched": weights.matched,
        "left": weights.left_over,
        "elsewhere": import.elsewhere,
        "tensors": rows,
    });
    Ok(Answer { text: lines.join("\n"), json })
}

/// What `weights export --format safetensors` wrote, which says what it is; heads come along.
fn from_export(arguments: &Arguments, stated: &Stated, file: &TensorFile) -> Result<Answer> {
    if *stated != Stated::default() {
        return Err(Error::Recipe(format!(
            "`{}` says which network it is, in its metadata `{SETTINGS}`: leave out `--family`, `--stem` and `--flavor`",
            file.path().display()
        ))
        .into());
    }
    let weights = Weights::exported(file, Device::Cpu)?;
    let preprocess = choose_preprocess(arguments.preprocess.as_deref(), &weights)?;
    let hashes: Vec<String> = file.hashes()?;
    let source = json!({ "family": "diptych", "format": file.format().name(), "blake3": hashes });
    let model = json!({
        "backbone": weights.config,
        "preprocess": preprocess,
        "projector": weights.projector(),
        "source": source,
    });
    let text = format!(
        "imported from an export of diptych ({}), BLAKE3 {:.16}",
        file.format().name(),
        hashes.first().map_or("", String::as_str)
    );
    let journal =
        Journal { events: vec![Event { step: 0, text: text.clone() }], ..Journal::default() };
    checkpoint::save_model(&arguments.out, (&model, &journal), &weights.with_head())?;
    let count = weights.with_head().len();
    let lines = [
        text,
        format!("{count} matched; images are prepared as `{}`", preprocess.id),
        arguments.out.display().to_string(),
    ];
    let json = json!({
        "out": arguments.out.display().to_string(),
        "source": source,
        "backbone": weights.config,
        "projector": weights.projector(),
        "preprocess": preprocess,
        "hash": weights.hash(),
        "matched": weights.matched,
        "left": weights.left_over,
    });
    Ok(Answer { text: lines.join("\n"), json })
}

/// SimCLR's networks, whose tensors are told by the order in which they were made; heads come along.
fn from_tensorflow(arguments: &Arguments, stated: &Stated, file: &TensorFile) -> Result<Answer> {
    if *stated != Stated::default() {
        return Err(Error::Recipe(
            "a TensorFlow checkpoint tells its network: leave out `--family`, `--stem` and `--flavor` (`--converter` takes \
             the pooling of the PyTorch conversions)"
                .to_owned(),
        )
        .into());
    }
    let choice = Choice { average: arguments.average, converter: arguments.converter };
    let network = find(&Bundle::open(&arguments.file)?, choice)?;
    let weights = Weights::from_tensorflow(&arguments.file, choice, Device::Cpu)?;
    let preprocess = choose_preprocess(arguments.preprocess.as_deref(), &weights)?;
    let hashes: Vec<String> = file.hashes()?;
    let source = json!({
        "family": "simclr",
        "format": file.format().name(),
        "average": choice.average,
        "blake3": hashes,
    });
    let model = json!({
        "backbone": weights.config,
        "preprocess": preprocess,
        "projector": weights.projector(),
        "source": source,
    });
    let text = format!(
        "imported from SimCLR ({}{}), BLAKE3 {:.16}",
        file.format().name(),
        if choice.average { ", moving average" } else { "" },
        hashes.first().map_or("", String::as_str)
    );
    let journal =
        Journal { events: vec![Event { step: 0, text: text.clone() }], ..Journal::default() };
    checkpoint::save_model(&arguments.out, (&model, &journal), &weights.with_head())?;
    let lines = [
        tensorflow::table(&network),
        text,
        format!("{}; images are prepared as `{}`", tensorflow::summary(&network), preprocess.id),
        arguments.out.display().to_string(),
    ];
    let json = json!({
        "out": arguments.out.display().to_string(),
        "source": source,
        "backbone": weights.config,
        "projector": weights.projector(),
        "classes": network.classes,
        "preprocess": preprocess,
        "hash": weights.hash(),
        "matched": weights.matched,
        "left": weights.left_over,
        "tensors": tensorflow::rows(&network),
    });
    Ok(Answer { text: lines.join("\n"), json })
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
