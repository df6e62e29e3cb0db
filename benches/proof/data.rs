//! The pictures that are measured on: those that were named, or made ones.

use crate::session::Session;
use anyhow::{Context, Result};
use diptych::augment::write_png;
use diptych::data::{self, Dataset, Image, Source};
use diptych::random::{Purpose, Scope, Stream};
use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Rgb};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Size of the made pictures that stand for photographs: the commonest one of ImageNet.
const LARGE: (u32, u32) = (500, 375);

/// A folder both programs can read.
pub(crate) struct Pictures {
    pub(crate) path: PathBuf,
    /// What it holds, in a sentence.
    pub(crate) told: String,
    /// Images of the split to train on.
    pub(crate) images: usize,
}

/// The folder that the environment names (`DIPTYCH_BENCH_CIFAR10`, `DIPTYCH_BENCH_PHOTOGRAPHS`), if it does.
pub(crate) fn given(name: &str) -> Result<Option<Pictures>> {
    let variable = format!("DIPTYCH_BENCH_{name}");
    let Some(path) = std::env::var_os(&variable).filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let path = PathBuf::from(path);
    let path = path.canonicalize().with_context(|| format!("{variable}={}", path.display()))?;
    let source = data::open(&path.to_string_lossy())?;
    let splits: Vec<String> =
        source.splits.iter().map(|(name, split)| format!("{} ({name})", split.len())).collect();
    let told = format!("Pictures: {name}, {}, {} images.", source.format, splits.join(" + "));
    Ok(Some(Pictures { path, told, images: training(&source)?.len() }))
}

/// The split to train on.
pub(crate) fn training(source: &Source) -> Result<std::sync::Arc<dyn Dataset>> {
    Ok(source.for_training(&data::Selection::default())?)
}

const OF_MADE: &str =
    "**The figures are of made pictures, not of the data that the claims are about";

/// Scenes of 32 x 32 as PNG files, in `train` and `test`, in a folder for each class.
pub(crate) fn make_small(session: &Session) -> Result<Pictures> {
    let (train, test) = if session.quick { (600, 120) } else { (12_000, 2_400) };
    let source = data::open(&format!("synthetic:scenes?train={train}&test={test}&size=32"))?;
    let root = session.scratch.path().join("made-32");
    for (name, split) in &source.splits {
        write(&root.join(name), split.as_ref(), |image, _| image)?;
    }
    Ok(Pictures {
        path: root,
        told: format!(
            "{OF_MADE}: {train} + {test} scenes of 32 x 32 as PNG.** `make bench CIFAR10=DIR` takes others."
        ),
        images: train,
    })
}

/// Scenes as large as photographs, with noise so that their files are, too.
pub(crate) fn make_large(session: &Session) -> Result<Pictures> {
    let count = if session.quick { 8 } else { 96 };
    let source = data::open(&format!("synthetic:scenes?train={count}&test=12&size=256"))?;
    let root = session.scratch.path().join("made-photographs");
    write(&root, training(&source)?.as_ref(), |image, index| textured(&image, index))?;
    let (width, height) = LARGE;
    Ok(Pictures {
        path: root,
        told: format!(
            "{OF_MADE}: {count} scenes of {width} x {height} with noise, as PNG.** \
             `make bench PHOTOGRAPHS=DIR` takes others."
        ),
        images: count,
    })
}

/// Writes every image, changed by `finish`, in a folder for each class.
fn write(
    folder: &Path,
    images: &dyn Dataset,
    finish: impl Fn(Image, usize) -> Image + Sync,
) -> Result<()> {
    (0..images.len()).into_par_iter().try_for_each(|index| {
        let class = images.label(index).unwrap_or_default();
        let folder = folder.join(format!("{class:02}"));
        std::fs::create_dir_all(&folder)?;
        let image = finish(images.image(index)?, index);
        Ok(write_png(&image, &folder.join(format!("{index:06}.png")))?)
    })
}

/// An image at the size of a photograph, each byte moved by up to 12.
fn textured(image: &Image, index: usize) -> Image {
    let (width, height) = (image.width as u32, image.height as u32);
    let whole = ImageBuffer::<Rgb<u8>, _>::from_raw(width, height, image.pixels.clone());
    let whole = whole.expect("three bytes a pixel");
    let mut pixels = resize(&whole, LARGE.0, LARGE.1, FilterType::Triangle).into_raw();
    let mut stream = Stream::open(0, Purpose::Test, Scope::Item(index as u64));
    for byte in &mut pixels {
        let noise = stream.next_u32() % 25;
        *byte = (u32::from(*byte) + noise).saturating_sub(12).min(255) as u8;
    }
    Image { width: LARGE.0 as usize, height: LARGE.1 as usize, pixels }
}
