//! Rows of captioned pictures: what the report and the contact sheets show.

use super::crop::Interpolation;
use super::lettering::{ADVANCE, LINE, wrap, write_line};
use super::pipeline::{Drawn, Pipeline, Scratch};
use crate::data::{Dataset, Image};
use crate::error::{Error, Result};
use serde_json::json;
use std::path::Path;

/// A table of pictures.
#[derive(Clone, Debug)]
pub struct Gallery {
    /// Heading.
    pub title: String,
    /// What is seen, in a sentence or two.
    pub caption: String,
    /// Rows of cells; rows may differ in length.
    pub rows: Vec<Vec<Cell>>,
}

/// One picture.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The picture.
    pub image: Image,
    /// Text below it; may be empty.
    pub caption: String,
    /// A judgement, shown as a coloured outline.
    pub mark: Option<Mark>,
}

/// Whether a picture agrees with the one it is compared with (same class, say).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It does: green.
    Agrees,
    /// It does not: red.
    Differs,
}

impl Gallery {
    /// Writes each picture to `folder/name/RR-CC.png`, in its own pixels, and `folder/name.json`:
    ///
    /// `{"title", "caption", "rows": [[{"image": "name/00-00.png", "caption", "mark": "agrees" | "differs" | null}]]}`
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn save(&self, folder: &Path, name: &str) -> Result<()> {
        let pictures = folder.join(name);
        std::fs::create_dir_all(&pictures).map_err(Error::io("create", &pictures))?;
        let mut rows = Vec::with_capacity(self.rows.len());
        for (r, row) in self.rows.iter().enumerate() {
            let mut cells = Vec::with_capacity(row.len());
            for (c, cell) in row.iter().enumerate() {
                let file = format!("{name}/{r:02}-{c:02}.png");
                write_png(&cell.image, &folder.join(&file))?;
                let mark = cell.mark.map(|mark| match mark {
                    Mark::Agrees => "agrees",
                    Mark::Differs => "differs",
                });
                cells.push(json!({ "image": file, "caption": cell.caption, "mark": mark }));
            }
            rows.push(cells);
        }
        let page = json!({ "title": self.title, "caption": self.caption, "rows": rows });
        let path = folder.join(format!("{name}.json"));
        std::fs::write(&path, format!("{page:#}\n")).map_err(Error::io("write", &path))
    }

    /// All pictures on one, each with its caption below: small ones enlarged by a whole factor to at least 192 pixels on
    /// the shorter side, large ones shrunk to at most 384 on the longer, each column as wide as its widest cell, marks as
    /// outlines.
    pub fn sheet(&self) -> Image {
        let rows: Vec<Vec<Image>> =
            self.rows.iter().map(|row| row.iter().map(|cell| fit(&cell.image)).collect()).collect();
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|c| rows.iter().filter_map(|row| row.get(c)).map(|it| it.width).max())
            .map(Option::unwrap_or_default)
            .collect();
        let captions: Vec<Vec<Vec<String>>> = self
            .rows
            .iter()
            .map(|row| {
                row.iter().zip(&widths).map(|(it, w)| wrap(&it.caption, w / ADVANCE)).collect()
            })
            .collect();
        let heights: Vec<usize> = rows
            .iter()
            .zip(&captions)
            .map(|(row, captions)| {
                let cells = row.iter().zip(captions);
                cells.map(|(it, lines)| it.height + below(lines)).max().unwrap_or(0)
            })
            .collect();
        let extent =
            |sizes: &[usize]| MARGIN + sizes.iter().map(|size| size + MARGIN).sum::<usize>();
        let (width, height) = (extent(&widths), extent(&heights));
        let mut sheet = Image { width, height, pixels: BACKGROUND.repeat(width * height) };
        for (r, row) in rows.iter().enumerate() {
            for (c, image) in row.iter().enumerate() {
                let (left, top) = (extent(&widths[..c]), extent(&heights[..r]));
                if let Some(mark) = self.rows[r][c].mark {
                    let (width, height) = (image.width + 2 * OUTLINE, image.height + 2 * OUTLINE);
                    let pixels = mark.color().repeat(width * height);
                    let frame = Image { width, height, pixels };
                    paste(&mut sheet, &frame, left - OUTLINE, top - OUTLINE);
                }
                paste(&mut sheet, image, left, top);
                for (line, text) in captions[r][c].iter().enumerate() {
                    let top = top + image.height + GAP + line * LINE;
                    write_line(&mut sheet, text, (left, top), INK);
                }
            }
        }
        sheet
    }
}

const BACKGROUND: [u8; 3] = [244, 244, 242];
const INK: [u8; 3] = [38, 38, 42];
const MARGIN: usize = 12;
const OUTLINE: usize = 3;
/// Between a picture and its caption.
const GAP: usize = 8;
const SHORTER_SIDE: usize = 192;
const LONGER_SIDE: usize = 384;

/// Height of a caption with the gaps above and below it.
fn below(lines: &[String]) -> usize {
    if lines.is_empty() { 0 } else { LINE * lines.len() + 2 * GAP }
}

impl Mark {
    fn color(self) -> [u8; 3] {
        match self {
            Self::Agrees => [46, 139, 87],
            Self::Differs => [200, 50, 47],
        }
    }
}

/// A picture whose longer side is at most `longest` pixels: shrunk bilinearly if it is larger.
pub fn shrunk(image: &Image, longest: usize) -> Image {
    let longer = image.width.max(image.height);
    if longer <= longest {
        return image.clone();
    }
    let side = |side: usize| (side * longest / longer).max(1);
    let (width, height) = (side(image.width), side(image.height));
    let mut pixels = vec![0; 3 * width * height];
    let whole = [0, 0, image.width, image.height];
    Scratch::default().resize(image, whole, (width, height), Interpolation::Bilinear, &mut pixels);
    Image { width, height, pixels }
}

/// Brings a picture to a size that can be looked at.
fn fit(image: &Image) -> Image {
    let longer = image.width.max(image.height);
    if longer > LONGER_SIDE {
        return shrunk(image, LONGER_SIDE);
    }
    let factor = SHORTER_SIDE.div_ceil(image.width.min(image.height).max(1));
    let factor = factor.min(LONGER_SIDE / longer.max(1)).max(1);
    let mut pixels = Vec::with_capacity(image.pixels.len() * factor * factor);
    for row in image.pixels.chunks_exact(3 * image.width) {
        let wide: Vec<u8> = row.as_chunks::<3>().0.iter().flat_map(|p| p.repeat(factor)).collect();
        pixels.extend(wide.repeat(factor));
    }
    Image { width: image.width * factor, height: image.height * factor, pixels }
}

fn paste(sheet: &mut Image, image: &Image, left: usize, top: usize) {
    let rows = sheet.pixels.chunks_exact_mut(3 * sheet.width).skip(top);
    for (target, row) in rows.zip(image.pixels.chunks_exact(3 * image.width)) {
        target[3 * left..][..row.len()].copy_from_slice(row);
    }
}

/// Writes a picture as PNG.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write_png(picture: &Image, path: &Path) -> Result<()> {
    let (width, height) = (picture.width as u32, picture.height as u32);
    let (color, format) = (image::ColorType::Rgb8, image::ImageFormat::Png);
    image::save_buffer_with_format(path, &picture.pixels, width, height, color, format)
        .map_err(|error| Error::io("write", path)(std::io::Error::other(error)))
}

/// An image and what a pipeline makes of it.
#[derive(Clone, Debug)]
pub struct SampledImage {
    /// Its name in the data set.
    pub path: String,
    /// The image as it is.
    pub image: Image,
    /// What was sampled for each view, and the view.
    pub views: Vec<(Drawn, Image)>,
}

/// Samples the views of the first epoch for the first `count` images that can be read; what is drawn once for a batch is that
/// of the first.
///
/// # Errors
/// [`Error::Data`] if none can be read, and those of the data set other than damage.
pub fn sample_images(
    dataset: &dyn Dataset,
    pipeline: &Pipeline,
    seed: u64,
    count: usize,
) -> Result<Vec<SampledImage>> {
    let mut scratch = Scratch::default();
    let mut found = Vec::with_capacity(count);
    let mut damage = None;
    for index in 0..dataset.len() {
        if found.len() == count {
            break;
        }
        let image = match dataset.image(index) {
            Err(Error::Data(reason)) => {
                damage.get_or_insert(reason);
                continue;
            }
            image => image?,
        };
        let views = (0..pipeline.views()).map(|view| {
            let size = (image.width, image.height);
            let drawn = pipeline.sample(seed, 0, index as u32, 0, view as u8, size);
            let side = pipeline.size_px(view);
            let mut pixels = vec![0; 3 * side * side];
            drawn.apply(&image, &mut scratch, &mut pixels);
            (drawn, Image { width: side, height: side, pixels })
        });
        let views = views.collect();
        found.push(SampledImage { path: dataset.path(index), image, views });
    }
    match damage {
        Some(reason) if found.is_empty() => {
            let count = dataset.len();
            Err(Error::Data(format!("none of {count} images can be read: {reason}")))
        }
        _ => Ok(found),
    }
}

impl From<Vec<SampledImage>> for Gallery {
    /// Each image beside its views, with the sampled values as captions.
    fn from(images: Vec<SampledImage>) -> Self {
        let row = |SampledImage { path, image, views }: SampledImage| {
            let caption = format!("{path}, {}x{}", image.width, image.height);
            let views = views.into_iter().map(|(drawn, image)| (image, drawn.to_string()));
            let cells = std::iter::once((image, caption)).chain(views);
            cells.map(|(image, caption)| Cell { image, caption, mark: None }).collect()
        };
        Self {
            title: "Augmented views".to_owned(),
            caption:
                "Each image as it is, then the views of the first epoch with their sampled values; what is drawn once for a \
                 batch is that of the first."
                    .to_owned(),
            rows: images.into_iter().map(row).collect(),
        }
    }
}

/// [`sample_images`] as a gallery: what a pipeline does to this data.
///
/// # Errors
/// As [`sample_images`].
pub fn views_gallery(
    dataset: &dyn Dataset,
    pipeline: &Pipeline,
    seed: u64,
    count: usize,
) -> Result<Gallery> {
    sample_images(dataset, pipeline, seed, count).map(Gallery::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(width: usize, height: usize, color: [u8; 3]) -> Image {
        Image { width, height, pixels: color.repeat(width * height) }
    }

    fn gallery() -> Gallery {
        let cell = |image, mark| Cell { image, caption: "a".to_owned(), mark };
        Gallery {
            title: "T".to_owned(),
            caption: "C".to_owned(),
            rows: vec![
                vec![
                    cell(plain(40, 32, [1, 2, 3]), None),
                    cell(plain(32, 32, [4, 5, 6]), Some(Mark::Agrees)),
                ],
                vec![cell(plain(200, 100, [7, 8, 9]), Some(Mark::Differs))],
            ],
        }
    }

    #[test]
    fn saved_pictures_and_page_fit_together() {
        let folder = tempfile::tempdir().unwrap();
        gallery().save(folder.path(), "views").unwrap();
        let text = std::fs::read_to_string(folder.path().join("views.json")).unwrap();
        let page: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(page["title"], "T");
        assert_eq!(page["rows"][0][0]["mark"], serde_json::Value::Null);
        assert_eq!(page["rows"][0][1]["mark"], "agrees");
        assert_eq!(page["rows"][1][0]["image"], "views/01-00.png");
        let file = folder.path().join(page["rows"][1][0]["image"].as_str().unwrap());
        let decoded = image::open(file).unwrap().into_rgb8();
        assert_eq!(decoded.dimensions(), (200, 100));
        assert!(decoded.pixels().all(|pixel| pixel.0 == [7, 8, 9]));
    }

    #[test]
    fn a_picture_that_cannot_be_written_names_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("a.png");
        let message = write_png(&plain(2, 2, [0; 3]), &path).unwrap_err().to_string();
        assert!(message.starts_with("cannot write `") && message.contains("a.png"), "{message}");
    }

    #[test]
    fn the_sheet_shows_every_cell_at_a_fitting_size_outlined_and_with_its_caption() {
        let mut gallery = gallery();
        gallery.rows[1][0].image = plain(800, 400, [7, 8, 9]);
        gallery.rows[1][0].caption.clear();
        let sheet = gallery.sheet();
        // Columns of 384 (the widest) and 192, rows of 192 with a line of text and of 192 without, margins of 12.
        let text = LINE + 2 * GAP;
        assert_eq!(
            (sheet.width, sheet.height),
            (12 + 384 + 12 + 192 + 12, 12 + 192 + text + 12 + 192 + 12)
        );
        let at = |x: usize, y: usize| &sheet.pixels[3 * (y * sheet.width + x)..][..3];
        assert_eq!(at(0, 0), BACKGROUND);
        assert_eq!(at(12, 12), [1, 2, 3]);
        assert_eq!(at(12 + 239, 12 + 191), [1, 2, 3]);
        assert_eq!(at(12 + 240, 12), BACKGROUND);
        assert_eq!(at(408, 12), [4, 5, 6]);
        assert_eq!(at(405, 9), Mark::Agrees.color());
        let second = 12 + 192 + text + 12;
        assert_eq!(at(395, second + 191), [7, 8, 9]);
        assert_eq!(at(396, second), Mark::Differs.color());
        // The `a` below the first picture: nothing above the height of a small letter, then ink.
        let ink = |y: usize| (12..24).filter(|x| at(*x, y) == INK).count();
        assert_eq!([0, 3, 4, 12, 14].map(|row| ink(12 + 192 + GAP + row)), [0, 0, 6, 8, 0]);
    }

    #[test]
    fn the_views_gallery_shows_the_image_and_each_view_with_its_values() {
        struct One;
        impl Dataset for One {
            fn len(&self) -> usize {
                1
            }
            fn label(&self, _index: usize) -> Option<u32> {
                None
            }
            fn path(&self, _index: usize) -> String {
                "one.png".to_owned()
            }
            fn image(&self, _index: usize) -> Result<Image> {
                Ok(plain(20, 10, [9, 9, 9]))
            }
        }
        let recipe = "count = 2\nsteps = [{ name = \"resize\", size_px = 8 }, { name = \"grayscale\", probability = 1 }]";
        let pipeline = Pipeline::new(&[toml::from_str(recipe).unwrap()]).unwrap();
        let found = views_gallery(&One, &pipeline, 0, 2).unwrap();
        assert_eq!(found.rows.len(), 1);
        let captions: Vec<&str> = found.rows[0].iter().map(|cell| cell.caption.as_str()).collect();
        assert_eq!(
            captions,
            ["one.png, 20x10", "crop 20x10 at (0, 0), grey", "crop 20x10 at (0, 0), grey"]
        );
        assert_eq!(found.rows[0][2].image, plain(8, 8, [9, 9, 9]));
    }
}
