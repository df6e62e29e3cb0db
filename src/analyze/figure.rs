//! Grids of pictures, as papers have them: labelled rows, titled columns, an overall title; as SVG with the pictures
//! inside, and as PNG of the same.
//!
//! Any SVG becomes a PNG by [`svg_to_png`], which knows one font, [`FONT`], and asks the system for none.

mod layout;

use super::palette::Color;
use super::{Form, Output};
use crate::data::Image;
use crate::error::{Error, Result};
use crate::files::{replace, replace_text};
use image::ImageEncoder;
use image::codecs::png::PngEncoder;
use layout::Layout;
use resvg::{tiny_skia, usvg};
use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};

/// The font of all figures, Ubuntu Light (Ubuntu Font Licence 1.0), as an SVG names it, with what readers without it fall
/// back to.
pub const FONT: &str = "Ubuntu, 'Helvetica Neue', Arial, sans-serif";

/// Most pixels of a PNG: a larger picture is drawn at a smaller scale.
const MOST_PIXELS: f64 = 64e6;

/// A grid of pictures.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Above all else; may be empty.
    pub title: String,
    /// What it shows, for those who cannot see it.
    pub description: String,
    /// Titles of the columns; none, or one for each.
    pub columns: Vec<String>,
    /// The rows from above.
    pub rows: Vec<Row>,
    /// What colours stand for, below the grid.
    pub legend: Vec<(Color, String)>,
    /// A line below that; may be empty.
    pub note: String,
    /// Width and height of the place of a picture, in units of the SVG; the longer side of a picture fills it.
    pub cell: u32,
}

/// A row of a [`Figure`].
#[derive(Clone, Debug)]
pub struct Row {
    /// Left of it; may be empty.
    pub label: String,
    /// Its pictures; `None` leaves a gap.
    pub cells: Vec<Option<Cell>>,
}

/// A picture in a [`Figure`].
#[derive(Clone, Debug)]
pub struct Cell {
    /// The picture; one much smaller than its place is enlarged in blocks.
    pub image: Image,
    /// Below it; may be empty.
    pub caption: String,
    /// The same and more for those who cannot see it.
    pub description: String,
    /// Colour of a frame around it.
    pub outline: Option<Color>,
}

impl Cell {
    /// A picture without caption and frame.
    pub fn plain(image: Image, description: String) -> Self {
        Self { image, caption: String::new(), description, outline: None }
    }
}

impl Figure {
    /// The figure as SVG.
    ///
    /// # Errors
    /// [`Error::Shape`] if a picture has other bytes than its size says, [`Error::Run`] if it has no pixel.
    pub fn svg(&self) -> Result<String> {
        Layout::of(self).draw(self)
    }

    /// Writes `<stem>.svg` and `<stem>.png` into a folder, the second at twice the size in units, and tells what they are.
    ///
    /// # Errors
    /// Those of [`Figure::svg`] and [`svg_to_png`]; [`Error::Io`].
    pub fn save(&self, folder: &Path, stem: &str) -> Result<Vec<Output>> {
        let svg = self.svg()?;
        let png = svg_to_png(&svg, 2.0)?;
        let (drawing, picture) = (format!("{stem}.svg"), format!("{stem}.png"));
        replace_text(&folder.join(&drawing), &svg)?;
        write(&folder.join(&picture), &png)?;
        let output = |file| Output {
            file,
            form: Form::Picture,
            title: self.title.clone(),
            description: self.description.clone(),
        };
        Ok(vec![output(drawing), output(picture)])
    }
}

/// Writes bytes so that the old or the new file is whole.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |file| fs::write(file, bytes).map_err(Error::io("write", path)))
}

/// Fonts that text in an SVG may have: one.
static FONTS: LazyLock<Arc<usvg::fontdb::Database>> = LazyLock::new(|| {
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    // Whatever family an SVG asks for in the end, it gets this one.
    fonts.set_sans_serif_family("Ubuntu");
    fonts.set_serif_family("Ubuntu");
    fonts.set_monospace_family("Ubuntu");
    Arc::new(fonts)
});

/// An SVG drawn as PNG, `scale` pixels for each of its units, or fewer where that would be above 64 million pixels. The
/// same SVG gives the same bytes on any machine: system fonts are not looked at.
///
/// # Errors
/// [`Error::Run`] if it is no SVG or has no size.
pub fn svg_to_png(svg: &str, scale: f32) -> Result<Vec<u8>> {
    let options = usvg::Options {
        font_family: "Ubuntu".to_owned(),
        fontdb: Arc::clone(&FONTS),
        ..usvg::Options::default()
    };
    let failed =
        |why: &dyn std::fmt::Display| Error::Run(format!("a figure cannot be drawn: {why}"));
    let tree = usvg::Tree::from_str(svg, &options).map_err(|error| failed(&error))?;
    let size = tree.size();
    let area = f64::from(size.width()) * f64::from(size.height());
    let scale = f64::from(scale).min((MOST_PIXELS / area).sqrt()) as f32;
    let pixels = |length: f32| ((length * scale).round() as u32).max(1);
    let (width, height) = (pixels(size.width()), pixels(size.height()));
    let mut pixmap = tiny_skia::Pixmap::new(width, height)
        .ok_or_else(|| failed(&format!("{width} x {height} pixels")))?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut pixmap.as_mut());
    // Figures have a ground: all is opaque, and colours need no division by alpha.
    let bytes: Vec<u8> = pixmap
        .pixels()
        .iter()
        .flat_map(|pixel| [pixel.red(), pixel.green(), pixel.blue()])
        .collect();
    encode(&bytes, (width, height), image::ExtendedColorType::Rgb8)
}

/// A picture as PNG.
///
/// # Errors
/// [`Error::Shape`] if it has other bytes than its size says.
pub fn png(picture: &Image) -> Result<Vec<u8>> {
    let size = (picture.width as u32, picture.height as u32);
    check(picture.pixels.len(), 3 * picture.width * picture.height)?;
    encode(&picture.pixels, size, image::ExtendedColorType::Rgb8)
}

/// One byte for each pixel as a grey PNG: a map of labels, kept exactly.
///
/// # Errors
/// [`Error::Shape`] if there are other bytes than the size says.
pub fn grey_png(values: &[u8], (width, height): (usize, usize)) -> Result<Vec<u8>> {
    check(values.len(), width * height)?;
    encode(values, (width as u32, height as u32), image::ExtendedColorType::L8)
}

fn check(found: usize, expected: usize) -> Result<()> {
    if found == expected && expected > 0 {
        return Ok(());
    }
    Err(Error::Shape(format!("a picture needs {expected} bytes, found {found}")))
}

fn encode(
    bytes: &[u8],
    (width, height): (u32, u32),
    kind: image::ExtendedColorType,
) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    PngEncoder::new(&mut file)
        .write_image(bytes, width, height, kind)
        .map_err(|error| Error::Run(format!("a picture cannot be written as PNG: {error}")))?;
    Ok(file)
}

/// A PNG file as an address that a page or an SVG can carry inside.
pub fn data_uri(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", base64(png))
}

/// Bytes in base64 (RFC 4648, section 4).
pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut bits = [0; 3];
        bits[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, bits[0], bits[1], bits[2]]);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

/// Text as XML and HTML take it between tags and within quotes.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // Of these, XML takes none but white space.
            letter if letter.is_control() => safe.push(' '),
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(color: Color, (width, height): (usize, usize)) -> Image {
        Image { width, height, pixels: color.repeat(width * height) }
    }

    fn figure() -> Figure {
        let cell = |color, size, caption: &str, outline| {
            let caption = caption.to_owned();
            let image = picture(color, size);
            Some(Cell { image, description: format!("a field, {caption}"), caption, outline })
        };
        Figure {
            title: "Fields & <frames>".to_owned(),
            description: "Four fields of one colour each.".to_owned(),
            columns: vec![
                "2 Clusters".to_owned(),
                "a title that is far too long for one line".to_owned(),
            ],
            rows: vec![
                Row {
                    label: "Block Group 3".to_owned(),
                    cells: vec![
                        cell([200, 30, 30], (40, 40), "square", None),
                        cell([30, 160, 60], (40, 20), "wide", Some([20, 20, 220])),
                    ],
                },
                Row {
                    label: "a label of several words, so that it is broken".to_owned(),
                    cells: vec![None, cell([40, 40, 200], (20, 40), "", None)],
                },
            ],
            legend: vec![([200, 30, 30], "first".to_owned()), ([30, 160, 60], "second".to_owned())],
            note: "Nearest.".to_owned(),
            cell: 120,
        }
    }

    fn decoded(png: &[u8]) -> image::RgbImage {
        image::load_from_memory(png).unwrap().to_rgb8()
    }

    /// `DIPTYCH_BLESS=1` writes the stored picture anew.
    #[test]
    fn the_figure_looks_like_the_stored_one() {
        let svg = figure().svg().unwrap();
        let png = svg_to_png(&svg, 1.0).unwrap();
        let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/figure.png");
        if std::env::var_os("DIPTYCH_BLESS").is_some() {
            fs::write(&stored, &png).unwrap();
        }
        let (found, expected) = (decoded(&png), decoded(&fs::read(&stored).unwrap()));
        assert_eq!(found.dimensions(), expected.dimensions());
        let apart = |(a, b): (&u8, &u8)| a.abs_diff(*b) > 24;
        let count =
            found.as_raw().iter().zip(expected.as_raw()).filter(|pair| apart(*pair)).count();
        let share = count as f64 / found.as_raw().len() as f64;
        assert!(share < 0.002, "{share}: look at it, then write it anew with DIPTYCH_BLESS=1");
    }

    #[test]
    fn pictures_keep_their_place_colour_and_frame_and_text_is_drawn() {
        let figure = figure();
        let svg = figure.svg().unwrap();
        assert!(svg.contains("Fields &amp; &lt;frames&gt;"));
        assert_eq!(svg.matches("<image ").count(), 3);
        let found = decoded(&svg_to_png(&svg, 1.0).unwrap());
        let count = |color: [u8; 3]| found.pixels().filter(|pixel| pixel.0 == color).count();
        // 120 x 120, and 120 x 60 and 60 x 120 for those with an aspect ratio; edges between pixels blend, legend and
        // frames add some.
        assert!((13_900..14_800).contains(&count([200, 30, 30])), "{}", count([200, 30, 30]));
        assert!((5_500..7_600).contains(&count([30, 160, 60])), "{}", count([30, 160, 60]));
        assert!((6_800..7_300).contains(&count([40, 40, 200])), "{}", count([40, 40, 200]));
        assert!(count([20, 20, 220]) > 300, "no frame");
        let without = Figure { title: String::new(), columns: Vec::new(), ..figure };
        let without = decoded(&svg_to_png(&without.svg().unwrap(), 1.0).unwrap());
        let dark =
            |image: &image::RgbImage| image.pixels().filter(|p| p.0[0] < 90 && p.0[1] < 90).count();
        assert!(dark(&found) > dark(&without) + 500, "the title is not drawn");
    }

    #[test]
    fn a_huge_figure_is_drawn_smaller() {
        let svg = r#"<svg xmlns="http://www.w3.org/2000/svg" width="40000" height="10000"/>"#;
        let found = image::ImageReader::new(std::io::Cursor::new(svg_to_png(svg, 2.0).unwrap()));
        assert_eq!(
            found.with_guessed_format().unwrap().into_dimensions().unwrap(),
            (16_000, 4_000)
        );
        assert!(svg_to_png("no svg", 1.0).unwrap_err().to_string().contains("cannot be drawn"));
    }

    #[test]
    fn label_maps_come_back_as_they_were() {
        let labels: Vec<u8> = (0..12).collect();
        let file = grey_png(&labels, (4, 3)).unwrap();
        let found = image::load_from_memory(&file).unwrap();
        assert_eq!(found.color(), image::ColorType::L8);
        assert_eq!(found.into_bytes(), labels);
        assert!(matches!(grey_png(&labels, (4, 4)), Err(Error::Shape(_))));
        assert!(matches!(png(&picture([0; 3], (0, 3))), Err(Error::Shape(_))));
    }

    #[test]
    fn base64_equals_the_test_vectors_of_rfc_4648() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in vectors {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
