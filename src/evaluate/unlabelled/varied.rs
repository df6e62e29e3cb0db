//! Images before and after a change, as networks see them: one pass over the images for any number of networks.

use super::finite;
use crate::augment::{Drawn, Preprocess, Scratch};
use crate::data::{Dataset, Image};
use crate::error::{Error, Result};
use crate::evaluate::features::Damaged;
use crate::rows::{row_dot, unit_rows};
use crate::shape;
use rayon::prelude::*;
use std::cell::RefCell;
use tch::{Device, Kind, Tensor};

/// Bytes of prepared images held at once.
const BLOCK_BYTES: usize = 64 << 20;

/// Whatever makes features of prepared images: a network, or nothing but the pixels.
pub struct Eye<'a> {
    /// What to call it.
    pub name: String,
    /// Names of what it gives, in order: `h`, `z`.
    pub layers: Vec<String>,
    /// From the bytes of `n` images, as [`crate::evaluate::features::extract`] hands them on, to f32 `[n, D]` for each layer.
    pub look: Look<'a>,
}

/// See [`Eye::look`].
pub type Look<'a> = Box<dyn FnMut(&[u8], usize) -> Result<Vec<Tensor>> + 'a>;

/// What happens to the image of an index once it has the network's size.
pub type Change<'a> = Box<dyn Fn(usize) -> Drawn + Sync + 'a>;

/// How alike images and their changed copies are to each eye.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// Indices of the images that could be read, in order.
    pub index: Vec<usize>,
    /// The others.
    pub damaged: Vec<Damaged>,
    /// For each layer of each eye.
    pub seen: Vec<Seen>,
}

/// How alike images and their changed copies are in one layer of one eye.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Name of the eye.
    pub eye: String,
    /// Name of the layer.
    pub layer: String,
    /// For each change, the cosine similarity of the features of every image before and after.
    pub cosines: Vec<Vec<f64>>,
    /// Mean cosine similarity of two different images, neither changed.
    pub different: f64,
}

/// Shows images as `preprocess` prepares them, and every change of these, to all eyes. `batch` is the most images that an
/// eye gets at a time. `progress` gets images shown and images to show, changes included.
///
/// # Errors
/// [`Error::Data`] for fewer than two readable images; [`Error::NonFinite`] for features that are no numbers;
/// [`Error::Shape`] for an eye that gives other layers or rows than it says; whatever an eye fails with.
///
/// # Panics
/// If a change makes images of another size, or `batch` is 0.
pub fn compare(
    eyes: &mut [Eye],
    images: &dyn Dataset,
    preprocess: &Preprocess,
    changes: &[Change],
    batch: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Compared> {
    assert!(batch > 0, "a batch holds at least one image");
    let side = preprocess.size_px();
    let all = images.len() * (1 + changes.len());
    let mut found = Compared { index: Vec::new(), damaged: Vec::new(), seen: Vec::new() };
    let mut sums: Vec<Sum> = Vec::new();
    let block = (BLOCK_BYTES / (3 * side * side)).max(1);
    let mut shown = 0;
    for first in (0..images.len()).step_by(block) {
        let last = images.len().min(first + block);
        let block = Block::read(images, preprocess, first..last, &mut found.damaged)?;
        let mut before = Vec::new();
        for some in block.images.chunks(batch) {
            let rows = look(eyes, &Block::bytes(some, None, side), some.len())?;
            if sums.is_empty() {
                sums = rows.iter().map(|rows| Sum::new(rows.size()[1])).collect();
                found.seen = seen(eyes, changes.len());
            }
            sums.iter_mut().zip(&rows).for_each(|(sum, rows)| sum.add(rows));
            before.push(rows);
        }
        shown += last - first;
        progress(shown, all);
        for (at, change) in changes.iter().enumerate() {
            for (some, before) in block.images.chunks(batch).zip(&before) {
                let after = look(eyes, &Block::bytes(some, Some(change), side), some.len())?;
                for ((before, after), seen) in before.iter().zip(after).zip(&mut found.seen) {
                    seen.cosines[at].extend(super::numbers(&row_dot(before, &after)));
                }
            }
            shown += last - first;
            progress(shown, all);
        }
        found.index.extend(block.images.iter().map(|image| image.index));
    }
    if found.index.len() < 2 {
        let first = found.damaged.first().map_or(String::new(), |first| {
            format!(", the first that cannot (`{}`) because: {}", first.path, first.reason)
        });
        return Err(Error::Data(format!(
            "at least 2 images that can be read are needed, found {} of {}{first}",
            found.index.len(),
            images.len()
        )));
    }
    for (seen, sum) in found.seen.iter_mut().zip(sums) {
        seen.different = sum.different(found.index.len());
    }
    Ok(found)
}

/// Places for what each layer of each eye sees.
fn seen(eyes: &[Eye], changes: usize) -> Vec<Seen> {
    let of = |eye: &Eye, layer: &String| Seen {
        eye: eye.name.clone(),
        layer: layer.clone(),
        cosines: vec![Vec::new(); changes],
        different: 0.0,
    };
    eyes.iter().flat_map(|eye| eye.layers.iter().map(move |layer| of(eye, layer))).collect()
}

/// Rows of length 1 in f64, for each layer of each eye.
fn look(eyes: &mut [Eye], pixels: &[u8], images: usize) -> Result<Vec<Tensor>> {
    let mut rows = Vec::new();
    for eye in eyes {
        let seen = tch::no_grad(|| (eye.look)(pixels, images))?;
        if seen.len() != eye.layers.len() {
            return Err(Error::Shape(format!(
                "`{}` must give {} layers, found {}",
                eye.name,
                eye.layers.len(),
                seen.len()
            )));
        }
        for h in seen {
            shape::check("features", &h, &[images as i64, -1])?;
            finite(&h, 1)?;
            rows.push(unit_rows(&h.to_device(Device::Cpu).to_kind(Kind::Double)));
        }
    }
    Ok(rows)
}

/// What the mean cosine similarity of different rows needs of rows of length 1.
struct Sum {
    rows: Tensor,
    squares: f64,
}

impl Sum {
    fn new(dimensions: i64) -> Self {
        Self { rows: Tensor::zeros([dimensions], (Kind::Double, Device::Cpu)), squares: 0.0 }
    }

    /// Row by row, so that no sum depends on the batch.
    fn add(&mut self, unit: &Tensor) {
        for row in 0..unit.size()[0] {
            let row = unit.get(row);
            self.squares += row.square().sum(Kind::Double).double_value(&[]);
            self.rows += row;
        }
    }

    fn different(&self, count: usize) -> f64 {
        let all = self.rows.square().sum(Kind::Double).double_value(&[]);
        (all - self.squares) / (count as f64 * (count - 1) as f64)
    }
}

/// Consecutive images of a data set, prepared.
struct Block {
    images: Vec<Prepared>,
}

/// An image at the network's size, with the values of its constant channels.
struct Prepared {
    index: usize,
    image: Image,
    constants: Vec<u8>,
}

thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());

impl Block {
    fn read(
        images: &dyn Dataset,
        preprocess: &Preprocess,
        range: std::ops::Range<usize>,
        damaged: &mut Vec<Damaged>,
    ) -> Result<Self> {
        let side = preprocess.size_px();
        let prepare = |index: usize| {
            let image = images.image(index)?;
            let mut pixels = vec![0; 3 * side * side];
            SCRATCH.with_borrow_mut(|scratch| preprocess.apply(&image, scratch, &mut pixels));
            let constants = images.constants(index, &image);
            Ok(Prepared { index, image: Image { width: side, height: side, pixels }, constants })
        };
        let read: Vec<Result<Prepared>> = range.clone().into_par_iter().map(prepare).collect();
        let mut kept = Vec::with_capacity(read.len());
        for (index, read) in range.zip(read) {
            match read {
                Ok(image) => kept.push(image),
                Err(Error::Data(reason)) => {
                    damaged.push(Damaged { index, path: images.path(index), reason });
                }
                Err(other) => return Err(other),
            }
        }
        Ok(Self { images: kept })
    }

    /// The bytes of some images, changed or not, each followed by its constant channels.
    fn bytes(images: &[Prepared], change: Option<&Change>, side: usize) -> Vec<u8> {
        let bytes = 3 * side * side;
        let of = |prepared: &Prepared| {
            let Prepared { index, image, constants } = prepared;
            let mut out = Vec::with_capacity(bytes + constants.len());
            if let Some(change) = change {
                out.resize(bytes, 0);
                let drawn = change(*index);
                SCRATCH.with_borrow_mut(|scratch| drawn.apply(image, scratch, &mut out));
            } else {
                out.extend_from_slice(&image.pixels);
            }
            out.extend_from_slice(constants);
            out
        };
        images.par_iter().map(of).collect::<Vec<_>>().concat()
    }
}
