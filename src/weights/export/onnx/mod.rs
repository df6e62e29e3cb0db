//! ONNX: the network as a graph that other programs run, with its weights.
//!
//! Opset 13. The input is `image`, f32 `[N, C, H, W]` of any N, H and W, normalised as the metadata say; the outputs are `h`
//! `[N, F]`, with `--head` also `z` and `logits`, with `--blocks` the maps `block1` to `block4`. All pooling is that of the
//! model, TensorFlow's included.

mod graph;
mod message;
mod run;
mod weight;

use super::probe::{Probe, difference, differs};
use super::{Model, Options, TOLERANCE, Written};
use crate::error::{Error, Result};
use crate::files::replace;
use graph::Builder;
use message::{Initializer, Opset, Pair};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tch::Tensor;
use weight::Weight;

/// Most bytes of weights within the graph: a message must stay below 2 GiB, and the graph takes some.
pub const LARGEST_MESSAGE: u64 = (2 << 30) - (16 << 20);

const IR_VERSION: i64 = 7;
const OPSET: i64 = 13;
/// Where the numbers of a tensor begin in a file of their own.
const ALIGNMENT: u64 = 64;

/// Writes the graph, read back and run by [`run`] before it takes its name.
pub(super) fn export(model: &Model<'_>, options: &Options, out: &Path) -> Result<Written> {
    let probe = Probe::of(model)?;
    let (graph, weights) = Builder::build(model, options)?;
    let bytes: u64 = weights.iter().map(Weight::size).sum();
    let external = (bytes > options.external_above).then(|| beside(out, &weights)).transpose()?;
    let message = message::Model {
        ir_version: IR_VERSION,
        producer_name: "diptych".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: None,
        opset_import: vec![Opset { domain: String::new(), version: OPSET }],
        metadata_props: metadata(model),
    };
    let (mut found, mut magnified) = (0.0, None);
    let mut checked = |graph_file: &Path, data_file: Option<&Path>| {
        found = check(model, options, &probe, graph_file, data_file)?;
        if found <= TOLERANCE {
            return Ok(());
        }
        // Folded weights are rounded anew, which such a network magnifies.
        let rounding = probe.rounding(model)?;
        magnified = Some(rounding);
        if found <= MAGNIFIED * rounding { Ok(()) } else { Err(differs(found, rounding)) }
    };
    let graph = graph.encode_to_vec();
    let mut files = vec![out.to_owned()];
    match &external {
        None => replace(out, |sibling| {
            write_graph(sibling, &message, &graph, &weights, None)?;
            checked(sibling, None)
        })?,
        Some((path, name)) => {
            // The name of the weights tells what they are, so the graph that is there keeps its own until another takes its
            // place: whenever this ends, a graph finds the weights that it was written with.
            let fresh = !path.exists();
            replace(path, |data| write_data(data, &weights))?;
            let graph = replace(out, |sibling| {
                write_graph(sibling, &message, &graph, &weights, Some(name))?;
                checked(sibling, Some(path))
            });
            if graph.is_err() && fresh {
                // The error at hand says more than a failure to tidy up would.
                let _ = fs::remove_file(path);
            }
            graph?;
            files.push(path.clone());
        }
    }
    forget(out, external.as_ref().map(|(_, name)| name.as_str()));
    let mut left_out = Vec::new();
    for part in ["projector.", "classifier."] {
        let count = model.part(part).count();
        if count > 0 && !options.head {
            let title = part.trim_end_matches('.');
            left_out.push(format!("the {title} ({count} tensors): add `--head`"));
        }
    }
    if options.head {
        left_out.extend(model.broken_heads());
    }
    if model.preprocess.is_none() {
        left_out.push("how images are prepared, which the model does not say either".to_owned());
    }
    let mut notes = Vec::new();
    if let Some((_, name)) = &external {
        notes.push(format!("the weights lie in `{name}`, which must stay beside the graph"));
    }
    if let Some(rounding) = magnified {
        notes.push(format!(
            "the network magnifies rounding: features are off by {found:.1e} of the largest, and by {rounding:.1e} between \
             single and double precision"
        ));
    }
    Ok(Written { files, tensors: weights.len(), difference: found, left_out, notes })
}

/// How many times as far as rounding alone an export may be off.
const MAGNIFIED: f64 = 10.0;

/// Digits of their hash in the name of the weights.
const DIGITS: usize = 16;

/// The file for the weights, and its name: that of the graph and the hash of what is in it.
fn beside(out: &Path, weights: &[Weight<'_>]) -> Result<(PathBuf, String)> {
    let name = out.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        Error::Recipe(format!("`--out` must be named in UTF-8, found `{}`", out.display()))
    })?;
    let mut hasher = blake3::Hasher::new();
    put_data(&mut hasher, weights).map_err(Error::io("hash", out))?;
    let name = format!("{name}.{:.DIGITS$}.data", hasher.finalize().to_hex());
    Ok((out.with_file_name(&name), name))
}

/// Takes away the weights of graphs that had this name before. What cannot be taken away is of no use and no harm.
fn forget(out: &Path, but: Option<&str>) {
    let Some(name) = out.file_name().and_then(|name| name.to_str()) else { return };
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let Ok(files) = fs::read_dir(folder.unwrap_or(Path::new("."))) else { return };
    let is_hash = |text: &str| {
        text.len() == DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    for file in files.flatten() {
        let own = file.file_name();
        let Some(own) = own.to_str().filter(|own| Some(*own) != but) else { continue };
        let hash = own.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
        if hash.and_then(|rest| rest.strip_suffix(".data")).is_some_and(is_hash) {
            let _ = fs::remove_file(file.path());
        }
    }
}

/// How to prepare images, under names that say it and once as the model has it.
fn metadata(model: &Model<'_>) -> Vec<Pair> {
    let pair = |key: &str, value: String| Pair { key: key.into(), value };
    let mut all = vec![pair("backbone", {
        let mut value = serde_json::to_value(model.config).unwrap_or_default();
        value.sort_all_objects();
        value.to_string()
    })];
    if let Some(preprocess) = model.preprocess {
        let three = |values: [f64; 3]| values.map(|value| value.to_string()).join(",");
        all.push(pair("image_mean", three(preprocess.mean)));
        all.push(pair("image_size_px", preprocess.size_px().to_string()));
        all.push(pair("image_std", three(preprocess.std)));
        let mut value = model.preparation();
        value.sort_all_objects();
        all.push(pair("preprocess", value.to_string()));
    }
    all
}

/// Head of a length-delimited field.
fn delimited(out: &mut Vec<u8>, tag: u32, length: u64) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(length, out);
}

/// An initializer without its numbers.
fn described(weight: &Weight<'_>, external: Option<(&str, u64)>) -> Initializer {
    let pair = |key: &str, value: String| Pair { key: key.into(), value };
    Initializer {
        dims: weight.shape.clone(),
        data_type: weight.data_type(),
        name: weight.name.clone(),
        raw_data: None,
        external_data: external.map_or(Vec::new(), |(file, offset)| {
            vec![
                pair("location", file.to_owned()),
                pair("offset", offset.to_string()),
                pair("length", weight.size().to_string()),
            ]
        }),
        data_location: external.map(|_| 1),
    }
}

/// Writes the whole message piece by piece: of the weights one at a time is held.
fn write_graph(
    path: &Path,
    model: &message::Model,
    graph: &[u8],
    weights: &[Weight<'_>],
    external: Option<&str>,
) -> Result<()> {
    // Every initializer up to its numbers, and how long it is with them. Whole numbers, which shapes are made of, always
    // stay: runtimes look at them before they load others.
    let (mut heads, mut length, mut offset) = (Vec::new(), graph.len() as u64, 0u64);
    for weight in weights {
        let outside = external.filter(|_| weight.data_type() == 1).map(|file| (file, offset));
        let mut body = described(weight, outside).encode_to_vec();
        let mut size = 0;
        if outside.is_some() {
            offset = (offset + weight.size()).next_multiple_of(ALIGNMENT);
        } else {
            delimited(&mut body, 9, weight.size());
            size = weight.size();
        }
        let whole = body.len() as u64 + size;
        length += 1 + encoded_len_varint(whole) as u64 + whole;
        let mut head = Vec::new();
        delimited(&mut head, 5, whole);
        head.extend(body);
        heads.push((head, outside.is_none()));
    }
    let write = || -> io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        out.write_all(&model.encode_to_vec())?;
        let mut head = Vec::new();
        delimited(&mut head, 7, length);
        out.write_all(&head)?;
        out.write_all(graph)?;
        for (weight, (head, inside)) in weights.iter().zip(&heads) {
            out.write_all(head)?;
            if *inside {
                out.write_all(&weight.bytes())?;
            }
        }
        out.flush()
    };
    write().map_err(Error::io("write", path))
}

/// The numbers of all weights, each at a multiple of [`ALIGNMENT`].
fn write_data(path: &Path, weights: &[Weight<'_>]) -> Result<()> {
    let write = || put_data(BufWriter::new(File::create(path)?), weights);
    write().map_err(Error::io("write", path))
}

fn put_data(mut out: impl Write, weights: &[Weight<'_>]) -> io::Result<()> {
    for weight in weights.iter().filter(|weight| weight.data_type() == 1) {
        let bytes = weight.bytes();
        let fill = (bytes.len() as u64).next_multiple_of(ALIGNMENT) as usize - bytes.len();
        out.write_all(&bytes)?;
        out.write_all(&vec![0; fill])?;
    }
    out.flush()
}

/// Runs what was written on the probe: the largest difference of any output.
fn check(
    model: &Model<'_>,
    options: &Options,
    probe: &Probe,
    graph: &Path,
    data: Option<&Path>,
) -> Result<f64> {
    let outputs = run::run(graph, data, &probe.images)?;
    let (z, logits) = if options.head { probe.heads(model)? } else { (None, None) };
    let mut all = vec![("h".to_owned(), probe.h.shallow_clone())];
    let heads = [("z", z), ("logits", logits)];
    all.extend(heads.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    if options.blocks {
        let named = |(number, map): (i32, &Tensor)| (format!("block{number}"), map.shallow_clone());
        all.extend((1..).zip(&probe.blocks).map(named));
    }
    if outputs.len() != all.len() {
        let (found, wanted) = (outputs.len(), all.len());
        return Err(Error::Weights(format!("the graph has {found} outputs, {wanted} are wanted")));
    }
    let mut largest = 0.0f64;
    for (name, expected) in all {
        let found = outputs
            .get(&name)
            .ok_or_else(|| Error::Weights(format!("the graph has no output `{name}`")))?;
        if found.size() != expected.size() {
            return Err(Error::Weights(format!(
                "output `{name}` of the graph has shape {:?}, expected {:?}",
                found.size(),
                expected.size()
            )));
        }
        let off = difference(found, &expected);
        largest = if off.is_nan() { off } else { largest.max(off) };
        if largest.is_nan() {
            break;
        }
    }
    Ok(largest)
}
