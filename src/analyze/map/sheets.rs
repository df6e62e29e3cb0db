//! Small pictures of all images, many on a sheet, for the page.

use super::Images;
use crate::augment::{Interpolation, Preprocess, Scratch, Sizing};
use crate::error::{Error, Result};
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;
use std::cell::RefCell;

/// Sides that a page chooses from by itself, in pixels.
const SIDES: [usize; 5] = [64, 48, 32, 24, 16];

/// About how many bytes of pictures a page takes by itself.
const BUDGET: f64 = 12e6;

/// Bytes of a pixel at [`QUALITY`], about.
const BYTES_A_PIXEL: f64 = 0.27;

/// Quality of the JPEGs.
const QUALITY: u8 = 45;

/// Side of a sheet, about.
const SHEET_PX: usize = 768;

/// Pictures on sheets.
#[derive(Debug, Default)]
pub(super) struct Sheets {
    /// Side of a picture in pixels.
    pub(super) side: usize,
    /// Pictures in a row; a full sheet has as many rows.
    pub(super) columns: usize,
    /// For each image its place, counted over all sheets.
    pub(super) slots: Vec<u32>,
    /// The sheets as JPEG.
    pub(super) files: Vec<Vec<u8>>,
}

/// The largest side at which all pictures take about 12 MB, no more than the images have, at least 16.
///
/// # Errors
/// [`Error::Data`] if the first image has become unreadable.
pub(super) fn fitting_side(images: &Images<'_>) -> Result<usize> {
    let first = images.image(0)?;
    let native = first.width.min(first.height);
    let fits = |side: &&usize| {
        **side <= native && images.len() as f64 * (**side * **side) as f64 * BYTES_A_PIXEL <= BUDGET
    };
    Ok(*SIDES.iter().find(fits).unwrap_or(&SIDES[SIDES.len() - 1]))
}

/// Puts the central square of every image on a sheet, `side` pixels wide, in the given order; so what lies together on a map
/// lies together on a sheet, and a reader looks at few sheets at a time.
///
/// # Errors
/// [`Error::Data`] if an image has become unreadable.
pub(super) fn sheets(
    images: &Images<'_>,
    order: &[u32],
    side: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Sheets> {
    let columns = (SHEET_PX / side).max(1);
    let preprocess = Preprocess {
        id: String::new(),
        sizing: Sizing::ShorterSide { resize_px: side, crop_px: side },
        interpolation: Interpolation::Bilinear,
        mean: [0.0; 3],
        std: [1.0; 3],
    };
    let bytes = 3 * side * side;
    // Tensors stay with this thread.
    let (parts, places) = (&images.parts, &images.places);
    let mut slots = vec![0; order.len()];
    let mut files = Vec::new();
    for (sheet, of_sheet) in order.chunks(columns * columns).enumerate() {
        let mut pictures = vec![0; bytes * of_sheet.len()];
        pictures.par_chunks_mut(bytes).zip(of_sheet).try_for_each(|(out, row)| {
            thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());
            let (part, index) = places[*row as usize];
            let image = parts[part].1.image(index)?;
            SCRATCH.with_borrow_mut(|scratch| preprocess.apply(&image, scratch, out));
            Ok::<(), Error>(())
        })?;
        let rows = of_sheet.len().div_ceil(columns);
        let (width, height) = (columns * side, rows * side);
        let mut pixels = vec![128; 3 * width * height];
        for (place, picture) in pictures.chunks(bytes).enumerate() {
            let (left, top) = (place % columns * side, place / columns * side);
            for (y, line) in picture.chunks(3 * side).enumerate() {
                pixels[3 * ((top + y) * width + left)..][..3 * side].copy_from_slice(line);
            }
            slots[of_sheet[place] as usize] = (sheet * columns * columns + place) as u32;
        }
        let mut file = Vec::new();
        JpegEncoder::new_with_quality(&mut file, QUALITY)
            .encode(&pixels, width as u32, height as u32, ExtendedColorType::Rgb8)
            .map_err(|error| Error::Run(format!("small pictures cannot be encoded: {error}")))?;
        files.push(file);
        progress((sheet * columns * columns + of_sheet.len()).min(order.len()), order.len());
    }
    Ok(Sheets { side, columns, slots, files })
}
