//! Parts that people have drawn: a map of labels for each image, to judge clusters by.

use super::maps::Picture;
use crate::error::{Error, Result};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The label of a pixel that is not judged.
pub const UNJUDGED: u8 = 255;

/// Reads the label maps of pictures from a folder: PNG of one byte a pixel, grey or with a palette, as large as the image, each
/// called like its image, in the same folders, with that of the split or without, or in none. 0 is the background, [`UNJUDGED`] is left out.
///
/// # Errors
/// [`Error::Data`] if there is none for an image, or it is no map of labels of the image's size; [`Error::Io`].
pub fn read_masks(folder: &Path, split: &str, pictures: &mut [Picture]) -> Result<()> {
    for picture in pictures {
        let path = place(folder, split, &picture.name).ok_or_else(|| {
            Error::Data(format!(
                "`{}` has no map of parts for `{}`; it would be called like the image, with the ending .png",
                folder.display(),
                picture.name
            ))
        })?;
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let wrong = |what: String| Error::Data(format!("`{}`: {what}", path.display()));
        let ((width, height), labels) = labels(&bytes).map_err(wrong)?;
        let size = (picture.original.width, picture.original.height);
        if (width, height) != size {
            return Err(wrong(format!(
                "it is {width} x {height}, the image `{}` is {} x {}",
                picture.name, size.0, size.1
            )));
        }
        (picture.parts, picture.drawn) = (Some(labels), true);
    }
    Ok(())
}

/// The map of an image: in the folders of the image, else by its name alone.
fn place(folder: &Path, split: &str, image: &str) -> Option<PathBuf> {
    let image = Path::new(image).with_extension("png");
    let within = image.components().filter(|part| matches!(part, Component::Normal(_)));
    let within: PathBuf = within.collect();
    let places = [Path::new(split).join(&within), within, PathBuf::from(image.file_name()?)];
    places.into_iter().map(|place| folder.join(place)).find(|path| path.is_file())
}

/// Width, height and the bytes of a PNG, where there is a palette the places in it.
fn labels(png: &[u8]) -> Result<((usize, usize), Vec<u8>), String> {
    // Signature, length and name of the first chunk, width and height; then bits and kind of colour.
    let (bits, kind) = match png.get(24..26) {
        Some(&[bits, kind]) if png.starts_with(b"\x89PNG") => (bits, kind),
        _ => return Err("it is no PNG".to_owned()),
    };
    if kind != 3 && (kind, bits) != (0, 8) {
        return Err(
            "a map of labels is a PNG of 8 bits of grey, or with a palette; this has other pixels"
                .to_owned(),
        );
    }
    let picture = image::load_from_memory_with_format(png, image::ImageFormat::Png)
        .map_err(|error| error.to_string())?;
    let size = (picture.width() as usize, picture.height() as usize);
    if kind == 0 {
        return Ok((size, picture.into_luma8().into_raw()));
    }
    // The decoder gives colours: back to their places.
    let colors = palette(png).ok_or("its palette is missing")?;
    if colors.iter().enumerate().any(|(at, color)| colors[..at].contains(color)) {
        return Err("two places of its palette have one colour".to_owned());
    }
    let pixels = picture.into_rgb8();
    let places = pixels.pixels().map(|pixel| {
        let place = colors.iter().position(|color| *color == pixel.0);
        place.map(|place| place as u8).ok_or_else(|| "a colour is not in its palette".to_owned())
    });
    Ok((size, places.collect::<Result<_, _>>()?))
}

/// The colours of a PNG's palette.
fn palette(png: &[u8]) -> Option<Vec<[u8; 3]>> {
    let mut rest = png.get(8..)?;
    loop {
        let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        if rest.get(4..8)? == b"PLTE" {
            return Some(rest.get(8..length.checked_add(8)?)?.as_chunks().0.to_vec());
        }
        rest = rest.get(length.checked_add(12)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::super::found::{Found, find};
    use super::super::tests::{pictures, small};
    use super::super::{Settings, Subject};
    use super::*;
    use crate::data::Image;

    fn stored(name: &str) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/masks");
        fs::read(folder.join(name)).unwrap()
    }

    /// The files are those of `tests/golden/masks.py`.
    #[test]
    fn labels_are_the_bytes_of_grey_and_the_places_of_a_palette() {
        let expected = vec![0, 0, 1, 255, 0, 2, 2, 255];
        for name in ["grey.png", "palette.png"] {
            assert_eq!(labels(&stored(name)).unwrap(), ((4, 2), expected.clone()), "{name}");
        }
        assert!(labels(&stored("bits.png")).unwrap_err().contains("8 bits of grey"));
        assert!(labels(b"GIF89a").unwrap_err().contains("no PNG"));
        let whole = stored("palette.png");
        for length in 0..whole.len() {
            let _ = labels(&whole[..length]);
        }
    }

    #[test]
    fn a_mask_is_found_by_the_name_of_its_image_and_must_be_of_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| {
            let mut pictures = pictures(1);
            pictures[0].name = name.to_owned();
            pictures[0].original = Image { width: 4, height: 2, pixels: vec![0; 24] };
            read_masks(folder.path(), "test", &mut pictures)
                .map(|()| pictures.remove(0).parts.unwrap())
        };
        let missing = read("cat/1.jpg").unwrap_err().to_string();
        assert!(missing.contains("no map of parts for `cat/1.jpg`"), "{missing}");
        fs::write(folder.path().join("1.png"), stored("grey.png")).unwrap();
        assert_eq!(read("cat/1.jpg").unwrap()[3..6], [255, 0, 2]);
        assert_eq!(read("/1.png").unwrap()[3..6], [255, 0, 2]);
        fs::create_dir(folder.path().join("cat")).unwrap();
        fs::write(folder.path().join("cat/1.png"), stored("bits.png")).unwrap();
        assert!(read("cat/1.jpg").unwrap_err().to_string().contains("8 bits of grey"));
        fs::create_dir_all(folder.path().join("test/cat")).unwrap();
        fs::write(folder.path().join("test/cat/1.png"), stored("palette.png")).unwrap();
        assert_eq!(read("cat/1.jpg").unwrap()[3..6], [255, 0, 2], "that of the split comes first");
        let other = read_masks(folder.path(), "test", &mut {
            let mut one = pictures(1);
            one[0].name = "1.jpg".to_owned();
            one
        });
        assert!(
            other.unwrap_err().to_string().contains("it is 4 x 2, the image `1.jpg` is 32 x 32")
        );
    }

    /// The clusters themselves as masks are told whole, whatever stands where nobody judges, and in images of two classes.
    #[test]
    fn masks_judge_clusters_as_the_parts_of_scenes_do() {
        let mut pictures = pictures(2);
        (pictures[0].label, pictures[1].label) = (Some(0), Some(1));
        let subjects = [Subject { name: "Raw pixels".to_owned(), weights: None }];
        let settings =
            Settings { clusters: vec![3], together: true, raw_grid: Some(32), ..small() };
        let look = |pictures: &[Picture]| -> Found {
            find(&settings, &subjects, pictures, 0, &mut |_, _| ()).unwrap()
        };
        let before = look(&pictures);
        for (at, picture) in pictures.iter_mut().enumerate() {
            // Names of the parts: 0, 7 and 14.
            let labels = before.maps[0].of_picture(at).unwrap().iter().map(|label| 7 * label);
            (picture.parts, picture.drawn) = (Some(labels.collect()), true);
        }
        let truth = look(&pictures).maps[0].truth.unwrap();
        assert_eq!((truth.parts, truth.purity), (3, 1.0));
        assert!((truth.iou - 1.0).abs() < 1e-9 && (truth.agreement.ari - 1.0).abs() < 1e-9);
        // A wrong label costs, the label of what is not judged does not.
        for (label, whole) in [(7, false), (UNJUDGED, true)] {
            let mut changed = pictures.clone();
            for picture in &mut changed {
                picture.parts.as_mut().unwrap()[..200].fill(label);
            }
            let truth = look(&changed).maps[0].truth.unwrap();
            assert_eq!(truth.purity > 0.999_999, whole, "{truth:?}");
        }
        for picture in &mut pictures {
            picture.parts.as_mut().unwrap().fill(UNJUDGED);
        }
        assert!(look(&pictures).maps[0].truth.is_none(), "nothing is judged");
    }
}
