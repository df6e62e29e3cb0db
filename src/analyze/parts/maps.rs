//! Pictures, and the maps of features of what looks at them.

use super::{Mode, RawResize, Settings, paint};
use crate::augment::Preprocess;
use crate::cluster::Algorithm;
use crate::data::{Dataset, Image};
use crate::error::{Error, Result};
use crate::evaluate::run::{batch, prepare};
use crate::evaluate::weights::Weights;
use crate::model::resnet::Stem;
use crate::model::{BackboneConfig, BlockGroup, Phase, Statistics};
use crate::rows::unit_rows;
use rayon::prelude::*;
use tch::{Kind, Tensor};

/// What features come from.
pub struct Subject<'a> {
    /// What it is called in figures and files.
    pub name: String,
    /// The network; none are the raw pixels.
    pub weights: Option<&'a Weights>,
}

/// An image of the analysis.
#[derive(Clone)]
pub struct Picture {
    /// What to call it.
    pub name: String,
    /// Index in its split.
    pub index: usize,
    /// Its class, if known.
    pub label: Option<u32>,
    /// As it came.
    pub original: Image,
    /// A square of the side of the figures.
    pub shown: Image,
    /// Parts of the ground truth, `[original.height, original.width]`; 0 is the background.
    pub parts: Option<Vec<u8>>,
    /// Whether these are a mask that people drew: its labels mean the same in every class, and
    /// [`super::UNJUDGED`] is left out.
    pub drawn: bool,
}

/// Reads images of a split and brings them to the size of the figures.
///
/// # Errors
/// [`Error::Data`] if an index lies outside of the split, or an image cannot be read.
pub fn read_pictures(
    dataset: &dyn Dataset,
    indices: &[usize],
    side: usize,
) -> Result<Vec<Picture>> {
    if let Some(index) = indices.iter().find(|index| **index >= dataset.len()) {
        return Err(Error::Data(format!(
            "there is no image {index}, the split has {} (counted from 0)",
            dataset.len()
        )));
    }
    let square = Preprocess::named(&format!("resize-{side}"))?;
    let resize = prepare(&square);
    let read = |index: &usize| {
        let original = dataset.image(*index)?;
        let mut pixels = vec![0; 3 * side * side];
        resize(&original, &mut pixels);
        Ok(Picture {
            name: dataset.path(*index),
            index: *index,
            label: dataset.label(*index),
            shown: Image { width: side, height: side, pixels },
            parts: dataset.part_mask(*index),
            drawn: false,
            original,
        })
    };
    indices.par_iter().map(read).collect()
}

/// Features of every pixel of the maps of one layer.
pub(super) struct Maps {
    /// Block group; none are raw pixels.
    pub(super) block: Option<u8>,
    pub(super) width: usize,
    pub(super) height: usize,
    /// f32 `[images · height · width, D]`, as the network gave them.
    pub(super) rows: Tensor,
}

impl Maps {
    pub(super) fn pixels(&self) -> usize {
        self.width * self.height
    }

    /// The rows to cluster of one image, or of all: of unit length, or as the published code has them.
    pub(super) fn features(&self, image: Option<usize>, mode: Mode) -> Tensor {
        let pixels = self.pixels() as i64;
        let rows = match image {
            Some(image) => self.rows.narrow(0, image as i64 * pixels, pixels),
            None => self.rows.shallow_clone(),
        };
        tch::no_grad(|| match (mode, self.block) {
            (Mode::Report, Some(_)) => unit_rows(&rows),
            (Mode::Report, None) => rows,
            (Mode::AsPublished, Some(_)) => whole_numbers(&rows),
            (Mode::AsPublished, None) => whole_numbers(&whole_numbers(&rows)),
        })
    }
}

/// Brought to 0 to 255 between the least and the largest of all values, and cut to whole numbers (`OpenCV`'s `normalize`, then
/// bytes); all zeros where there is one value only.
fn whole_numbers(rows: &Tensor) -> Tensor {
    let (least, most) = (rows.min().double_value(&[]), rows.max().double_value(&[]));
    let scale = if most > least { 255.0 / (most - least) } else { 0.0 };
    (rows.to_kind(Kind::Double) * scale - least * scale)
        .trunc()
        .clamp(0.0, 255.0)
        .to_kind(Kind::Float)
}

/// Side of the map of a block group for an input of a side.
pub(super) fn map_side(config: &BackboneConfig, side: usize, block: u8) -> usize {
    let halvings = match config.stem {
        Stem::Cifar | Stem::CifarPad2 | Stem::CifarNoRelu => u32::from(block) - 1,
        Stem::ImageNet | Stem::ResNetD => u32::from(block) + 1,
    };
    let padded = if config.stem == Stem::CifarPad2 { side + 2 } else { side };
    (0..halvings).fold(padded, |side, _| side.div_ceil(2))
}

/// The side of a network's input: that asked for, or what makes the map of block group 4 14 × 14.
pub fn side_for(config: &BackboneConfig, settings: &Settings) -> usize {
    settings.size.unwrap_or(match config.stem {
        Stem::Cifar | Stem::CifarPad2 | Stem::CifarNoRelu => 112,
        Stem::ImageNet | Stem::ResNetD => 448,
    })
}

/// Side of the grid of raw pixels: the one asked for, or that of block group 4 of the first network.
pub(super) fn grid(subjects: &[Subject], settings: &Settings) -> usize {
    let network = subjects.iter().find_map(|subject| subject.weights);
    settings.raw_grid.unwrap_or_else(|| {
        network
            .map_or(14, |weights| map_side(&weights.config, side_for(&weights.config, settings), 4))
    })
}

/// Refuses an algorithm that keeps all pairs where there are too many pixels, before anything is computed.
///
/// # Errors
/// [`Error::Recipe`] with the size, or the block group, that fits.
pub(super) fn check_memory(subjects: &[Subject], images: usize, settings: &Settings) -> Result<()> {
    let images = if settings.together { images } else { 1 };
    for algorithm in &settings.algorithms {
        let Some(most) = algorithm.most_rows() else { continue };
        let grid = grid(subjects, settings);
        if subjects.iter().any(|subject| subject.weights.is_none()) && images * grid * grid > most {
            let fits = Some((most / images).isqrt()).filter(|side| *side > 1);
            let fits =
                fits.map_or(String::new(), |side| format!("`parts.raw_grid={side}` fits, or "));
            return Err(Error::Recipe(format!(
                "`{}` keeps all pairs of pixels: the grid of raw pixels has {}, at most {most} fit into memory; \
                 {fits}take fewer images together, or `parts.algorithms=k-means`",
                super::algorithm_name(*algorithm),
                images * grid * grid
            )));
        }
        for weights in subjects.iter().filter_map(|subject| subject.weights) {
            let config = &weights.config;
            for block in &settings.blocks {
                let rows = |side| images * map_side(config, side, *block).pow(2);
                let side = side_for(config, settings);
                if rows(side) > most {
                    return Err(Error::Recipe(too_many(*algorithm, *block, most, side, &rows)));
                }
            }
        }
    }
    Ok(())
}

fn too_many(
    algorithm: Algorithm,
    block: u8,
    most: usize,
    side: usize,
    rows: &dyn Fn(usize) -> usize,
) -> String {
    let name = super::algorithm_name(algorithm);
    let fits = (16..side).rev().find(|side| rows(*side) <= most);
    let fits = fits.map_or(String::new(), |side| format!("`parts.size={side}` fits, or take "));
    format!(
        "`{name}` keeps all pairs of pixels: block group {block} at {side} pixels has {}, at most {most} fit into memory; \
         {fits}a higher block group, fewer images together, or `parts.algorithms=k-means`",
        rows(side)
    )
}

/// Maps of all block groups asked for, in that order.
///
/// # Errors
/// [`Error::Shape`] or [`Error::Data`] where images do not suit the network.
pub(super) fn of_network(
    weights: &Weights,
    pictures: &[Picture],
    settings: &Settings,
) -> Result<Vec<Maps>> {
    let side = side_for(&weights.config, settings);
    let carried = weights.preprocess.as_ref().map_or(([0.0; 3], [1.0; 3]), |it| (it.mean, it.std));
    let preprocess = Preprocess::named(&format!("resize-{side}"))?.normalized(carried.0, carried.1);
    let resize = prepare(&preprocess);
    let mut bytes = vec![0; 3 * side * side * pictures.len()];
    bytes
        .par_chunks_mut(3 * side * side)
        .zip(pictures)
        .for_each(|(bytes, picture)| resize(&picture.original, bytes));
    let groups: Vec<BlockGroup> = settings.blocks.iter().map(|block| group(*block)).collect();
    // The published code never leaves the training mode: its statistics are those of the batch, here all images.
    let (phase, at_once) = match settings.mode {
        Mode::Report => (Phase::Evaluation, batch(side)),
        Mode::AsPublished => {
            (Phase::Training { groups: 1, statistics: Statistics::Keep }, pictures.len())
        }
    };
    let mut parts: Vec<Vec<Tensor>> = groups.iter().map(|_| Vec::new()).collect();
    for bytes in bytes.chunks(3 * side * side * at_once) {
        let images = bytes.len() / (3 * side * side);
        let maps = weights.maps(bytes, images, &preprocess, &groups, phase)?;
        for (part, map) in parts.iter_mut().zip(maps) {
            part.push(map.permute([0, 2, 3, 1]).contiguous());
        }
    }
    let maps = settings.blocks.iter().zip(parts).map(|(block, part)| {
        let map = if part.len() == 1 { part[0].shallow_clone() } else { Tensor::cat(&part, 0) };
        let size = map.size();
        let rows = map.reshape([-1, size[3]]);
        let (height, width) = (size[1] as usize, size[2] as usize);
        Maps { block: Some(*block), width, height, rows }
    });
    Ok(maps.collect())
}

fn group(block: u8) -> BlockGroup {
    match block {
        1 => BlockGroup::Group1,
        2 => BlockGroup::Group2,
        3 => BlockGroup::Group3,
        _ => BlockGroup::Group4,
    }
}

/// The pictures themselves on the grid of block group 4, three values from 0 to 1 a pixel.
pub(super) fn of_pixels(pictures: &[Picture], side: usize, resize: RawResize) -> Maps {
    let small = |picture: &Picture| match resize {
        RawResize::Bilinear => paint::linear(&picture.shown, (side, side)),
        RawResize::Area => paint::area(&picture.shown, (side, side)),
    };
    let bytes: Vec<u8> = pictures.iter().flat_map(|picture| small(picture).pixels).collect();
    let rows = Tensor::from_slice(&bytes).view([-1, 3]).to_kind(Kind::Float) / 255.0;
    Maps { block: None, width: side, height: side, rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_run_from_0_to_255() {
        let rows = Tensor::from_slice(&[-1.0f32, 0.0, 1.0, 0.999]).view([2, 2]);
        let found: Vec<f32> = Vec::try_from(whole_numbers(&rows).reshape([-1])).unwrap();
        assert_eq!(found, [0.0, 127.0, 255.0, 254.0]);
        let flat: Vec<f32> = Vec::try_from(whole_numbers(&rows.ones_like()).reshape([-1])).unwrap();
        assert_eq!(flat, [0.0; 4]);
    }
}
