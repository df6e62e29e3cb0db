//! Features of a data set: computed once, stored, and used by every protocol.
//!
//! ```text
//! Dataset --decode, prepare (all cores)--> u8 [n,h,w,3] --forward (calling thread)--> f32 [n,D] --> Features --> file
//! ```

use crate::data::{Dataset, Image};
use crate::error::{Error, Result};
use crate::files::replace;
use crate::shape;
use crate::train::checkpoint::bytes as bytes_of;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::{fs, io};
use tch::{Device, Kind, Tensor};

/// Version of the file format; a reader refuses a newer one.
const FORMAT: u32 = 1;

/// Features of one split, in data-set order, on the CPU.
#[derive(Debug)]
pub struct Features {
    /// f32 `[N, D]`, one row per image that could be read.
    pub h: Tensor,
    /// i64 `[N]`: class id, −1 where the source has none.
    pub labels: Tensor,
    /// i64 `[N]`: index of the image in the split.
    pub index: Tensor,
    /// What to call each image.
    pub paths: Vec<String>,
    /// Images that are not among the rows. Rows and these together are the whole split, each image once.
    pub damaged: Vec<Damaged>,
}

/// An image that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damaged {
    /// Index in the split.
    pub index: usize,
    /// What to call it.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Everything that decides what the features of a split are. Two equal descriptions have equal features, so stored ones
/// are used again only where the whole description agrees.
///
/// Where the data lie is not part of it: a copy at another path has the same fingerprint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Names of the classes by label; empty when there are none.
    pub classes: Vec<String>,
    /// Version of this toolkit.
    pub diptych: String,
    /// Hash of the data source, [`crate::data::Source::fingerprint`].
    pub fingerprint: String,
    /// Kind of the data source, [`crate::data::Source::format`].
    pub format: String,
    /// Height of the network's input in pixels.
    pub height: usize,
    /// Number of images in the split, damaged ones included.
    pub images: usize,
    /// Resampling filter of the preprocessing: `bilinear`, `bicubic`, `none`, ...
    pub interpolation: String,
    /// Which layer the features come from: `h`, `z`, ...; also the name of the tensor in the file.
    pub layer: String,
    /// What is subtracted from the channels, in units where pixels are 0..1.
    pub mean: [f64; 3],
    /// Arithmetic of the forward pass: `float32`, ...
    pub precision: String,
    /// Id of the preprocessing: `cifar`, `imagenet`, ...
    pub preprocess: String,
    /// Which images: `train`, `test`, ..., with whatever narrows the split further.
    pub split: String,
    /// What the channels are divided by, in units where pixels are 0..1.
    pub std: [f64; 3],
    /// Hash of all weights and buffers, [`crate::train::checkpoint::hash`].
    pub weights: String,
    /// Width of the network's input in pixels.
    pub width: usize,
}

/// Runs a network over every image of a split, once and in order.
///
/// `prepare` writes an image as `3 · width · height` interleaved bytes; it and decoding use all cores. Behind them come the
/// bytes of its constant channels ([`Dataset::constants`]), of which most data have none. `forward` gets a batch of such
/// images and their number `n`, u8 `[n, height, width, 3]` where there are no such channels, and returns `[n, D]` on any
/// device, in any float kind; it is called from the calling thread alone, without gradients. `batch` is the most images it
/// gets. `progress` gets images done and images in all. The result does not depend on `batch`, as far as the network's
/// arithmetic does not.
///
/// An image that cannot be decoded has no row and is listed instead.
///
/// # Errors
/// [`Error::Data`] if the split is empty or no image can be read; [`Error::Shape`] if `forward` returns another shape;
/// whatever `forward` fails with.
pub fn extract(
    forward: &mut dyn FnMut(&[u8], usize) -> Result<Tensor>,
    dataset: &dyn Dataset,
    (width, height): (usize, usize),
    prepare: &(dyn Fn(&Image, &mut [u8]) + Sync),
    batch: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Features> {
    if batch == 0 || width == 0 || height == 0 {
        return Err(Error::Recipe("batch size, width and height must be above 0".to_owned()));
    }
    let images = dataset.len();
    let (plain, channels) = (3 * width * height, dataset.constant_channels());
    let bytes = plain + channels;
    let mut pixels = vec![0; bytes * batch.min(images)];
    let mut rows = Rows { h: None, filled: 0, capacity: images };
    let mut waiting = None;
    let (mut index, mut damaged) = (Vec::new(), Vec::new());
    for first in (0..images).step_by(batch) {
        let last = images.min(first + batch);
        let read: Vec<Result<()>> = pixels[..bytes * (last - first)]
            .par_chunks_mut(bytes)
            .zip(first..last)
            .map(|(pixels, index)| {
                let image = dataset.image(index)?;
                let (pixels, constants) = pixels.split_at_mut(plain);
                constants.copy_from_slice(&dataset.constants(index, &image));
                prepare(&image, pixels);
                Ok(())
            })
            .collect();
        let mut kept = 0;
        for (slot, read) in read.into_iter().enumerate() {
            match read {
                Ok(()) => {
                    pixels.copy_within(slot * bytes..(slot + 1) * bytes, kept * bytes);
                    kept += 1;
                    index.push(first + slot);
                }
                Err(Error::Data(reason)) => {
                    let index = first + slot;
                    damaged.push(Damaged { index, path: dataset.path(index), reason });
                }
                Err(other) => return Err(other),
            }
        }
        // Fetched only now: an accelerator has computed it while the cores above were decoding.
        if let Some(done) = waiting.take() {
            rows.push(&done)?;
        }
        if kept > 0 {
            let h = tch::no_grad(|| forward(&pixels[..kept * bytes], kept))?;
            shape::check("features", &h, &[kept as i64, -1])?;
            waiting = Some(h);
        }
        progress(last, images);
    }
    if let Some(done) = waiting {
        rows.push(&done)?;
    }
    let Some(h) = rows.h else {
        let first = damaged.first().map_or(String::new(), |first: &Damaged| {
            format!(", the first (`{}`) because: {}", first.path, first.reason)
        });
        return Err(Error::Data(format!("none of {images} images can be read{first}")));
    };
    let label = |index: &usize| dataset.label(*index).map_or(-1, i64::from);
    Ok(Features {
        h: h.narrow(0, 0, rows.filled),
        labels: Tensor::from_slice(&index.iter().map(label).collect::<Vec<_>>()),
        paths: index.iter().map(|index| dataset.path(*index)).collect(),
        index: Tensor::from_slice(&index.iter().map(|index| *index as i64).collect::<Vec<_>>()),
        damaged,
    })
}

/// The images themselves as features, f32 `[N, 3 · height · width + constant channels]` in [0, 1]: the baseline that any
/// network should beat.
///
/// # Errors
/// As [`extract`].
pub fn pixels(
    dataset: &dyn Dataset,
    size: (usize, usize),
    prepare: &(dyn Fn(&Image, &mut [u8]) + Sync),
    batch: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Features> {
    let mut forward = |pixels: &[u8], images: usize| {
        Ok(Tensor::from_slice(pixels).view([images as i64, -1]).to_kind(Kind::Float) / 255.0)
    };
    extract(&mut forward, dataset, size, prepare, batch, progress)
}

/// Rows that arrive batch by batch, in one tensor from the start.
struct Rows {
    h: Option<Tensor>,
    filled: i64,
    capacity: usize,
}

impl Rows {
    fn push(&mut self, batch: &Tensor) -> Result<()> {
        let (rows, dimensions) = batch.size2().expect("the shape was checked");
        let h = self.h.get_or_insert_with(|| {
            Tensor::zeros([self.capacity as i64, dimensions], (Kind::Float, Device::Cpu))
        });
        shape::check("features", batch, &[rows, h.size()[1]])?;
        h.narrow(0, self.filled, rows).copy_(&batch.detach());
        self.filled += rows;
        Ok(())
    }
}

impl Description {
    /// Name of the file that holds features of this description: `features-<hash>.safetensors`.
    pub fn file_name(&self) -> String {
        let hash = blake3::hash(sorted_json(self).as_bytes()).to_hex();
        format!("features-{}.safetensors", &hash[..16])
    }
}

/// What the one metadata key of a feature file holds.
#[derive(Serialize, Deserialize)]
struct Header {
    content: String,
    damaged: Vec<Damaged>,
    description: Description,
    file_format: u32,
}

impl Features {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Checks that rows, labels, indices and paths belong together.
    pub(super) fn check(&self) -> Result<()> {
        let rows = self.paths.len() as i64;
        shape::check("h", &self.h, &[rows, -1])?;
        shape::check("labels", &self.labels, &[rows])?;
        shape::check("index", &self.index, &[rows])
    }

    /// Some of the rows, in the order given.
    pub(super) fn rows(&self, rows: &[usize]) -> Self {
        let at = Tensor::from_slice(&rows.iter().map(|row| *row as i64).collect::<Vec<_>>());
        Self {
            h: self.h.index_select(0, &at.to_device(self.h.device())),
            labels: self.labels.index_select(0, &at.to_device(self.labels.device())),
            index: self.index.index_select(0, &at.to_device(self.index.device())),
            paths: rows.iter().map(|row| self.paths[*row].clone()).collect(),
            damaged: Vec::new(),
        }
    }

    /// The labels as plain numbers.
    pub(crate) fn labels(&self) -> Vec<i64> {
        integers(&self.labels)
    }

    /// The class of each row, none where the source has none.
    pub fn classes(&self) -> Vec<Option<u32>> {
        self.labels().into_iter().map(|label| u32::try_from(label).ok()).collect()
    }

    /// The indices as plain numbers.
    pub(crate) fn indices(&self) -> Vec<i64> {
        integers(&self.index)
    }

    /// Writes a safetensors file with the tensors `h` (or whatever the layer is called), `label` and `index`, and
    /// one metadata key `diptych` with sorted JSON; the paths, one a line, go beside it into `<name>.paths.txt`.
    /// Equal features give equal bytes.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be written; the old file is whole then.
    pub fn save(&self, path: &Path, description: &Description) -> Result<()> {
        self.check()?;
        let h = bytes_of(&self.h.to_kind(Kind::Float));
        let labels = bytes_of(&self.labels);
        let index = bytes_of(&self.index);
        let size = |tensor: &Tensor| tensor.size().iter().map(|n| *n as usize).collect();
        let view = |kind, tensor, bytes| {
            TensorView::new(kind, size(tensor), bytes).map_err(|error| foreign(path, &error))
        };
        let header = Header {
            content: content_hash(&h, &labels, &index),
            damaged: self.damaged.clone(),
            description: description.clone(),
            file_format: FORMAT,
        };
        let metadata = HashMap::from([("diptych".to_owned(), sorted_json(&header))]);
        let tensors = [
            (description.layer.as_str(), view(Dtype::F32, &self.h, &h)?),
            ("label", view(Dtype::I64, &self.labels, &labels)?),
            ("index", view(Dtype::I64, &self.index, &index)?),
        ];
        let paths: String = self.paths.iter().map(|path| one_line(path) + "\n").collect();
        replace(&paths_file(path), |file| {
            fs::write(file, paths).map_err(Error::io("write", file))
        })?;
        replace(path, |file| {
            safetensors::serialize_to_file(tensors, Some(metadata), file)
                .map_err(|error| Error::io("write", path)(io::Error::other(error)))
        })
    }

    /// Reads what [`Features::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Weights`] if the file is damaged, incomplete, of a newer format, or no feature file of ours.
    pub fn load(path: &Path) -> Result<(Self, Description)> {
        let buffer = fs::read(path).map_err(Error::io("read", path))?;
        let (_, metadata) =
            SafeTensors::read_metadata(&buffer).map_err(|error| foreign(path, &error))?;
        let header = metadata.metadata().as_ref().and_then(|metadata| metadata.get("diptych"));
        let header: Value = header
            .ok_or_else(|| foreign(path, &"it has no `diptych` description"))
            .and_then(|text| serde_json::from_str(text).map_err(|error| foreign(path, &error)))?;
        let version = header.get("file_format").and_then(Value::as_u64).unwrap_or(0);
        if version > u64::from(FORMAT) {
            return Err(foreign(path, &format!("its format {version} is newer than {FORMAT}")));
        }
        let header: Header =
            serde_json::from_value(header).map_err(|error| foreign(path, &error))?;
        let file = SafeTensors::deserialize(&buffer).map_err(|error| foreign(path, &error))?;
        let view = |name: &str, kind| {
            let view = file.tensor(name).map_err(|error| foreign(path, &error))?;
            if view.dtype() == kind {
                return Ok(view);
            }
            // A tensor made of bytes takes as many as its kind and shape ask for, whether they are there or not.
            let found = view.dtype();
            Err(foreign(path, &format!("`{name}` must be {kind:?}, found {found:?}")))
        };
        let h = view(&header.description.layer, Dtype::F32)?;
        let (labels, index) = (view("label", Dtype::I64)?, view("index", Dtype::I64)?);
        if content_hash(h.data(), labels.data(), index.data()) != header.content {
            return Err(foreign(path, &"its content does not match its hash"));
        }
        let beside = paths_file(path);
        let paths = fs::read(&beside).map_err(Error::io("read", &beside))?;
        let paths = String::from_utf8(paths).map_err(|error| foreign(&beside, &error))?;
        let tensor = |view: TensorView, kind| {
            let size: Vec<i64> = view.shape().iter().map(|n| *n as i64).collect();
            Tensor::f_from_data_size(view.data(), &size, kind)
                .map_err(|error| foreign(path, &error))
        };
        let features = Self {
            h: tensor(h, Kind::Float)?,
            labels: tensor(labels, Kind::Int64)?,
            index: tensor(index, Kind::Int64)?,
            paths: paths.lines().map(str::to_owned).collect(),
            damaged: header.damaged,
        };
        features.check().map_err(|error| foreign(path, &error))?;
        Ok((features, header.description))
    }

    /// Writes the features under their own name into a folder of stored features.
    ///
    /// # Errors
    /// As [`Features::save`].
    pub fn store(&self, folder: &Path, description: &Description) -> Result<PathBuf> {
        let path = folder.join(description.file_name());
        self.save(&path, description)?;
        Ok(path)
    }
}

/// Features of exactly this description from a folder of stored ones, if they are there and whole. A damaged file counts
/// as absent: the features are computed again and written over it.
pub fn stored(folder: &Path, description: &Description) -> Option<Features> {
    let (features, found) = Features::load(&folder.join(description.file_name())).ok()?;
    (found == *description).then_some(features)
}

/// JSON whose keys are sorted at every level, so that equal values give equal text.
fn sorted_json(value: &impl Serialize) -> String {
    fn sort(value: Value) -> Value {
        match value {
            Value::Object(map) => {
                let sorted: BTreeMap<String, Value> =
                    map.into_iter().map(|(key, value)| (key, sort(value))).collect();
                Value::Object(sorted.into_iter().collect())
            }
            Value::Array(list) => Value::Array(list.into_iter().map(sort).collect()),
            plain => plain,
        }
    }
    let value = serde_json::to_value(value).expect("plain data has a JSON form");
    sort(value).to_string()
}

fn content_hash(h: &[u8], labels: &[u8], index: &[u8]) -> String {
    blake3::Hasher::new().update(h).update(labels).update(index).finalize().to_hex().to_string()
}

fn integers(tensor: &Tensor) -> Vec<i64> {
    let mut values = vec![0; tensor.numel()];
    tensor.to_kind(Kind::Int64).contiguous().copy_data(&mut values, tensor.numel());
    values
}

fn paths_file(path: &Path) -> PathBuf {
    path.with_extension("paths.txt")
}

/// A path with its line breaks made visible.
fn one_line(path: &str) -> String {
    path.replace('\r', "\\r").replace('\n', "\\n")
}

fn foreign(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::Weights(format!(
        "`{}` is no whole feature file: {reason}; delete it, it is computed again when needed",
        path.display()
    ))
}

#[cfg(test)]
pub(super) mod tests;
