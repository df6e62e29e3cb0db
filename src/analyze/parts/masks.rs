//! Parts that people have drawn: a map of labels for each image, to judge clusters by.

use super::maps::Picture;
use crate::data::decode::MAX_PIXELS;
use crate::error::{Error, Result};
use png::{BitDepth, ColorType, Decoder, Transformations};
use std::fs;
use std::io::Cursor;
use std::path::{Component, Path, PathBuf};

/// The label of a pixel that is not judged.
pub const UNJUDGED: u8 = 255;

/// Reads the label maps of pictures from a folder: PNG of 8 bits of grey or with a palette, as large as the image, each called
/// like its image, in the same folders, with that of the split or without, or in none. 0 is the background, [`UNJUDGED`] is
/// left out.
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

/// Width, height and labels of a PNG: its grey values, or places in its palette, whatever colours are there.
fn labels(png: &[u8]) -> Result<((usize, usize), Vec<u8>), String> {
    let mut decoder = Decoder::new(Cursor::new(png));
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader =
        decoder.read_info().map_err(|error| format!("it is no PNG that can be read: {error}"))?;
    let (width, height) = reader.info().size();
    let bits = match reader.output_color_type() {
        (ColorType::Grayscale, BitDepth::Eight) => 8,
        (ColorType::Indexed, depth) => depth as usize,
        _ => {
            let wanted = "a map of labels is a PNG of 8 bits of grey, or with a palette";
            return Err(format!("{wanted}; this has other pixels"));
        }
    };
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!("it is {width} x {height}, at most {MAX_PIXELS} pixels are read"));
    }
    let mut rows = vec![0; reader.output_buffer_size().unwrap_or_default()];
    let line = reader.next_frame(&mut rows).map_err(|error| error.to_string())?.line_size;
    let (width, height) = (width as usize, height as usize);
    let mut labels = Vec::with_capacity(width * height);
    for row in rows.chunks_exact(line) {
        // Several of few bits share a byte, the first its highest bits.
        labels.extend((0..width).map(|x| {
            let from = x * bits;
            (row[from / 8] >> (8 - bits - from % 8)) & (u8::MAX >> (8 - bits))
        }));
    }
    Ok(((width, height), labels))
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

    /// Places that share a colour, as palettes are filled up with black, are told apart, and few bits are taken apart.
    #[test]
    fn places_of_one_colour_are_different_labels() {
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, 5, 2);
        encoder.set_color(ColorType::Indexed);
        encoder.set_depth(BitDepth::Four);
        encoder.set_palette(vec![0; 3 * 16]);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[0x01, 0x23, 0x40, 0xf0, 0x00, 0x10]).unwrap();
        drop(writer);
        assert_eq!(labels(&png).unwrap(), ((5, 2), vec![0, 1, 2, 3, 4, 15, 0, 0, 0, 1]));
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
