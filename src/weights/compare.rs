//! What differs between two files of tensors, one pair in memory at a time.

use super::export::SETTINGS;
use super::simclr_tf::{Choice, Layout, find};
use super::tensorflow::Bundle;
use super::{Entry, Format, Import, Number, Stated, Storage, TensorFile, View};
use crate::error::{Error, Result};
use crate::model::BackboneConfig;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Numbers compared at a time.
const PIECE: i64 = 1 << 20;

/// How two tensors of one name differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Their name.
    pub name: String,
    /// Shapes in both files; none where there is no such tensor, or its numbers are not loaded.
    pub shapes: [Option<Vec<usize>>; 2],
    /// Kinds of numbers in both files.
    pub numbers: [Option<&'static str>; 2],
    /// Largest absolute difference, infinite where one is no number and the other is; none if shapes differ, or if numbers
    /// of their type are not loaded and the bytes of both are not the same.
    pub largest: Option<f64>,
    /// The same as a share of the largest magnitude in the first.
    pub relative: Option<f64>,
}

impl Difference {
    /// Whether both files hold the same, up to a share of the largest magnitude.
    pub fn within(&self, tolerance: f64) -> bool {
        self.relative.is_some_and(|relative| relative <= tolerance)
    }
}

/// A tensor of a file, and how it lies there.
#[derive(Clone, Copy, Debug)]
pub struct Side<'f> {
    entry: &'f Entry,
    layout: Layout,
}

impl Side<'_> {
    /// Its shape as it is compared.
    fn shape(self) -> Vec<usize> {
        let shape = &self.entry.shape;
        self.layout.order(shape.len()).iter().map(|place| shape[*place as usize]).collect()
    }

    fn tensor(self, file: &TensorFile) -> Result<Tensor> {
        let tensor = file.tensor(self.entry)?;
        Ok(tensor.permute(self.layout.order(self.entry.shape.len())))
    }
}

/// The tensors of a file that are compared.
#[derive(Debug)]
pub struct Named<'f> {
    /// By the names they are compared under.
    pub sides: BTreeMap<String, Side<'f>>,
    /// The network they are of, where networks are compared.
    pub config: Option<BackboneConfig>,
}

/// Tensors of a file by the names they are compared under: all by their own, or those of the backbone by torchvision's. Of
/// a file of another system `stated` says what it does not say itself; `key` is that of the metadata of our checkpoints.
///
/// # Errors
/// For the backbone those of [`Import::plan`] and [`Import::complete`], for a TensorFlow checkpoint of [`find`];
/// [`Error::Weights`] if a file of ours is not the network it says it is.
pub fn named<'f>(
    file: &'f TensorFile,
    backbone: bool,
    stated: &Stated,
    key: &str,
) -> Result<Named<'f>> {
    let plain = |entry| Side { entry, layout: Layout::Plain };
    if !backbone {
        let sides = file.entries().iter().map(|entry| (entry.full_name(), plain(entry)));
        return Ok(Named { sides: sides.collect(), config: None });
    }
    if let Some((config, prefix)) = said(file, key)? {
        return own(file, config, prefix);
    }
    if file.format() == Format::TensorFlow {
        let network = find(&Bundle::open(file.path())?, Choice::default())?;
        let entries: BTreeMap<&str, &Entry> =
            file.entries().iter().map(|entry| (entry.name.as_str(), entry)).collect();
        let of_backbone = network.tensors.iter().filter_map(|mapped| {
            let name = mapped.target.strip_prefix("backbone.")?;
            let entry = *entries.get(mapped.source.as_deref()?)?;
            Some((name.to_owned(), Side { entry, layout: mapped.layout }))
        });
        return Ok(Named { sides: of_backbone.collect(), config: Some(network.config) });
    }
    // What is stated may be needed for one of two files only.
    let plan = |stated: &Stated| {
        Import::plan(file, stated).and_then(|plan| plan.complete(file).map(|()| plan))
    };
    let import = plan(stated).or_else(|error| plan(&Stated::default()).map_err(|_| error))?;
    let sources = import.sources();
    let sides = sources.map(|(name, index)| (name.to_owned(), plain(&file.entries()[index])));
    Ok(Named { sides: sides.collect(), config: Some(import.config.clone()) })
}

/// The network that a file of ours says it is, and what the names of its tensors begin with: a checkpoint or an export.
fn said(file: &TensorFile, key: &str) -> Result<Option<(BackboneConfig, &'static str)>> {
    let (text, prefix, place) = match (file.notes().get(key), file.notes().get(SETTINGS)) {
        (Some(text), _) => (text, "backbone.", "/model/backbone"),
        (None, Some(text)) => (text, "", "/backbone"),
        (None, None) => return Ok(None),
    };
    let wrong = |why: &dyn std::fmt::Display| {
        Error::Weights(format!("`{}` does not say its network: {why}", file.path().display()))
    };
    let header: Value = serde_json::from_str(text).map_err(|error| wrong(&error))?;
    let config = header.pointer(place).cloned().ok_or_else(|| wrong(&"there is no `backbone`"))?;
    let config: BackboneConfig = serde_json::from_value(config).map_err(|error| wrong(&error))?;
    config.check().map_err(|error| wrong(&error))?;
    Ok(Some((config, prefix)))
}

/// The tensors of a network in a file of ours, every one of which must be there.
fn own<'f>(file: &'f TensorFile, config: BackboneConfig, prefix: &str) -> Result<Named<'f>> {
    let entries: BTreeMap<&str, &Entry> =
        file.entries().iter().map(|entry| (entry.name.as_str(), entry)).collect();
    let mut sides = BTreeMap::new();
    for (name, shape) in config.tensors() {
        let entry = *entries.get(format!("{prefix}{name}").as_str()).ok_or_else(|| {
            Error::Weights(format!("`{}` has no tensor `{prefix}{name}`", file.path().display()))
        })?;
        let found: Vec<i64> = entry.shape.iter().map(|size| *size as i64).collect();
        if found != shape {
            return Err(Error::Weights(format!(
                "`{}`, tensor `{prefix}{name}`: shape {found:?}, the network has {shape:?}",
                file.path().display()
            )));
        }
        sides.insert(name, Side { entry, layout: Layout::Plain });
    }
    Ok(Named { sides, config: Some(config) })
}

/// Compares the tensors of two files by name, in the order of the names.
///
/// # Errors
/// Those of [`TensorFile::tensor`].
pub fn compare(
    (first_file, first): (&TensorFile, &BTreeMap<String, Side<'_>>),
    (second_file, second): (&TensorFile, &BTreeMap<String, Side<'_>>),
) -> Result<Vec<Difference>> {
    let mut names: Vec<&String> = first.keys().chain(second.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let pair = [first.get(name), second.get(name)];
        let mut difference = Difference {
            name: name.clone(),
            shapes: pair.map(|side| side.map(|side| side.shape())),
            numbers: pair.map(|side| side.map(|side| side.entry.number.name())),
            largest: None,
            relative: None,
        };
        if let [Some(a), Some(b)] = pair
            && a.shape() == b.shape()
            && a.entry.number.kind().is_some()
            && b.entry.number.kind().is_some()
        {
            let (a, b) = (a.tensor(first_file)?, b.tensor(second_file)?);
            let (largest, magnitude) = distance(&a, &b);
            difference.largest = Some(largest);
            difference.relative = Some(if largest == 0.0 { 0.0 } else { largest / magnitude });
        } else if let [Some(a), Some(b)] = pair
            && a.shape() == b.shape()
            && a.entry.number == b.entry.number
            && same_bytes((first_file, a.entry), (second_file, b.entry))?
        {
            (difference.largest, difference.relative) = (Some(0.0), Some(0.0));
        }
        found.push(difference);
    }
    Ok(found)
}

/// Whether tensors of one shape and of numbers that are not loaded are the same, bit by bit; texts as they are stored.
fn same_bytes(a: (&TensorFile, &Entry), b: (&TensorFile, &Entry)) -> Result<bool> {
    let (first, second) = (bits(a.1), bits(b.1));
    Ok(first.shape == second.shape && a.0.tensor(&first)? == b.0.tensor(&second)?)
}

/// The same tensor as whole numbers that are loaded: of as many bytes each, or more of fewer.
fn bits(entry: &Entry) -> Entry {
    let (number, parts) = match entry.number {
        Number::U16 => (Number::I16, 1),
        Number::U32 => (Number::I32, 1),
        Number::U64 => (Number::I64, 1),
        Number::C64 => (Number::I32, 2),
        Number::C128 => (Number::I64, 2),
        _ => (Number::U8, 1),
    };
    if entry.number == Number::Text {
        let bytes = match &entry.storage {
            Storage::At { bytes, .. } => *bytes as usize,
            Storage::Held(bytes) => bytes.len(),
        };
        return Entry { number, shape: vec![bytes], view: None, ..entry.clone() };
    }
    if parts == 1 {
        return Entry { number, ..entry.clone() };
    }
    let mut shape = entry.shape.clone();
    shape.push(parts);
    let view = entry.view.as_ref().map(|view| View {
        offset: parts * view.offset,
        strides: view.strides.iter().map(|step| parts * step).chain([1]).collect(),
    });
    Entry { number, shape, view, ..entry.clone() }
}

/// Largest absolute difference, and largest magnitude of the first.
fn distance(a: &Tensor, b: &Tensor) -> (f64, f64) {
    let (a, b) = (a.reshape([-1]), b.reshape([-1]));
    let (mut largest, mut magnitude) = (0.0f64, 0.0f64);
    for start in (0..a.size()[0]).step_by(PIECE as usize) {
        let piece =
            |x: &Tensor| x.narrow(0, start, PIECE.min(x.size()[0] - start)).to_kind(Kind::Double);
        let (a, b) = (piece(&a), piece(&b));
        // Equal, as infinities and what is no number may be too.
        let same = a.eq_tensor(&b).logical_or(&a.isnan().logical_and(&b.isnan()));
        let apart = (&a - &b).abs().masked_fill(&same, 0.0).max().double_value(&[]);
        largest = if apart.is_nan() { f64::INFINITY } else { largest.max(apart) };
        magnitude = magnitude.max(a.abs().nan_to_num(0.0, 0.0, 0.0).max().double_value(&[]));
        if largest.is_infinite() {
            break;
        }
    }
    (largest, magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_numbers() {
        let of = |a: &[f64], b: &[f64]| distance(&Tensor::from_slice(a), &Tensor::from_slice(b));
        assert_eq!(of(&[1.0, -4.0, 2.0], &[1.0, -3.5, 2.25]), (0.5, 4.0));
        assert_eq!(of(&[], &[]), (0.0, 0.0));
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        assert!(of(&[nan, inf, 1.0], &[nan, inf, 1.0]).0.abs() < f64::EPSILON);
        assert!(of(&[nan, 1.0], &[0.0, 1.0]).0.is_infinite());
        assert!(of(&[inf, 1.0], &[0.0, 1.0]).0.is_infinite());
        let long: Vec<f64> = (0..PIECE + 5).map(|i| i as f64).collect();
        let mut other = long.clone();
        *other.last_mut().unwrap() += 3.0;
        assert_eq!(of(&long, &other), (3.0, (PIECE + 4) as f64));
    }
}
