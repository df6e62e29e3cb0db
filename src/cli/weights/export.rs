//! Write our weights under the names and in the format of another system.

use crate::cli::Answer;
use anyhow::Result;
use diptych::augment::Preprocess;
use diptych::error::Error;
use diptych::evaluate::weights::Weights;
use diptych::method;
use diptych::model::HeadConfig;
use diptych::weights::export::{Format, Model, Options, Written, export};
use serde_json::json;
use std::path::PathBuf;
use tch::Device;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  diptych weights export runs/a --format onnx --out a.onnx
  diptych weights export runs/a --format torchvision --out a.pth
  diptych weights export runs/a --format huggingface --head --out a-resnet/")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(in crate::cli) struct Arguments {
    /// A run folder, a checkpoint, or a weights file
    model: PathBuf,
    /// torchvision, timm, huggingface, detectron2, torch, onnx or safetensors
    #[arg(long)]
    format: String,
    /// The heads too: the classifier, and the projector where the format has a place for it
    #[arg(long)]
    head: bool,
    /// The file to write (for huggingface a folder): .safetensors or .pth, .pkl for detectron2, .onnx
    #[arg(long)]
    out: PathBuf,
    /// How images are prepared, for formats that carry it [default: what the model file carries]
    #[arg(long)]
    preprocess: Option<String>,
    /// onnx: what comes out of every block group, block1 to block4, is an output too
    #[arg(long)]
    blocks: bool,
    /// onnx: keep batch norms apart from the convolutions
    #[arg(long)]
    unfolded: bool,
    /// onnx: put the weights into a file of their own, as is done anyway above 2 GiB
    #[arg(long)]
    external_data: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let format = named(&arguments.format)?;
    let weights = Weights::load(&arguments.model, Device::Cpu)?;
    let preprocess = match &arguments.preprocess {
        None => weights.preprocess.clone(),
        Some(id) => {
            let chosen = Preprocess::named(id)?;
            Some(match &weights.preprocess {
                Some(own) => chosen.normalized(own.mean, own.std),
                None => chosen,
            })
        }
    };
    let tensors = weights.with_head();
    let (projector, classifier_behind) = heads(&weights);
    let whole = |(head, layers): &(HeadConfig, usize)| {
        let last = layers.checked_sub(1).map(|last| format!("projector.layers.{last}."));
        head.check("projector").is_ok()
            && last.is_some_and(|last| tensors.keys().any(|name| name.starts_with(&last)))
    };
    let model = Model {
        config: &weights.config,
        tensors: &tensors,
        projector: projector.filter(whole),
        classifier_behind,
        preprocess: preprocess.as_ref(),
    };
    let usual = Options::default();
    let options = Options {
        head: arguments.head,
        blocks: arguments.blocks,
        fold: !arguments.unfolded,
        external_above: if arguments.external_data { 0 } else { usual.external_above },
    };
    let mut written = export(&model, format, &options, &arguments.out)?;
    // Of the heads that came with the weights it is told above.
    let told = |left: &&String| {
        let part = left.split('*').next().unwrap_or_default();
        tensors.keys().any(|name| name.starts_with(part))
    };
    written.left_out.extend(weights.left_over.iter().filter(|left| !told(left)).cloned());
    let text = described(&written, format);
    let json = json!({
        "format": format.name(),
        "files": written.files,
        "tensors": written.tensors,
        "difference": written.difference,
        "left_out": written.left_out,
        "notes": written.notes,
        "weights": { "file": weights.file, "hash": weights.hash() },
    });
    Ok(Answer { text, json })
}

/// The projector and how many of its layers there are, and how many of them the classifier sits behind.
fn heads(weights: &Weights) -> (Option<(HeadConfig, usize)>, usize) {
    if let Some(method::Config::Classifier(config)) = &weights.method {
        let layers = config.tap.layers();
        return (Some((config.projector.clone(), layers)).filter(|_| layers > 0), layers);
    }
    let projector = weights.projector().map(|head| (head.clone(), head.layers));
    (projector, weights.classifier_behind)
}

fn named(name: &str) -> Result<Format> {
    if let Some((_, format)) = Format::ALL.iter().find(|(known, _)| *known == name) {
        return Ok(*format);
    }
    let names = Format::ALL.map(|(known, _)| known);
    let near = names
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
    let hint = near.filter(|known| strsim::jaro_winkler(known, name) > 0.8);
    let hint = hint.map_or_else(String::new, |known| format!("; did you mean `{known}`?"));
    let names = names.join(", ");
    Err(Error::Recipe(format!("`--format` must be one of {names}, found `{name}`{hint}")).into())
}

fn described(written: &Written, format: Format) -> String {
    let files: Vec<String> = written.files.iter().map(|file| file.display().to_string()).collect();
    let mut lines = vec![format!(
        "{}: {} tensors as {}, read back: features off by {:.1e} of the largest",
        files.join(", "),
        written.tensors,
        format.name(),
        written.difference
    )];
    for (title, told) in [("not in it", &written.left_out), ("note", &written.notes)] {
        lines.extend(told.iter().map(|line| format!("{title}: {line}")));
    }
    lines.join("\n")
}
