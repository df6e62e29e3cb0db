//! What differs between two files of tensors, one pair in memory at a time.

use super::simclr_tf::{Choice, Layout, find};
use super::tensorflow::Bundle;
use super::{Entry, Format, Import, Stated, TensorFile};
use crate::error::Result;
use serde::Serialize;
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
    /// Largest absolute difference, infinite where one is no number and the other is; none if shapes differ.
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

/// Tensors of a file by the names they are compared under: all by their own, or those of the backbone by torchvision's.
///
/// # Errors
/// Those of [`Import::plan`], and for a TensorFlow checkpoint of [`find`], for the backbone.
pub fn named(file: &TensorFile, backbone: bool) -> Result<BTreeMap<String, Side<'_>>> {
    let plain = |entry| Side { entry, layout: Layout::Plain };
    if !backbone {
        return Ok(file.entries().iter().map(|entry| (entry.full_name(), plain(entry))).collect());
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
        return Ok(of_backbone.collect());
    }
    let import = Import::plan(file, &Stated::default())?;
    let sources = import.sources();
    Ok(sources.map(|(name, index)| (name.to_owned(), plain(&file.entries()[index]))).collect())
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
        }
        found.push(difference);
    }
    Ok(found)
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
