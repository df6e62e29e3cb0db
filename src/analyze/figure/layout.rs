//! Where everything in a figure stands, and the SVG that says so.

use super::{FONT, Figure, Row, data_uri, escaped, png};
use crate::analyze::palette::hex;
use crate::augment::shrunk;
use crate::error::Result;
use std::fmt::Write;

/// Free space around the figure.
const MARGIN: f32 = 20.0;
/// Between pictures.
const GAP: f32 = 8.0;
/// Width that the label of a row may take.
const LABEL: f32 = 180.0;
/// Height of a line of text, in sizes of its font.
const LINE: f32 = 1.25;
/// Sizes of the fonts of the title, the titles of columns, the labels of rows, and what is small.
const TITLE: f32 = 20.0;
const COLUMN: f32 = 15.0;
const ROW: f32 = 14.0;
const SMALL: f32 = 11.5;
/// Width of a frame.
const FRAME: f32 = 4.0;
/// Most lines of a caption.
const CAPTION_LINES: usize = 3;

/// Width of a text in the figures' font, nearly: enough to break lines by.
fn width(text: &str, size: f32) -> f32 {
    let of = |letter: char| match letter {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ' => 0.26,
        'f' | 't' | 'r' | '(' | ')' | '-' | '/' => 0.38,
        'm' | 'w' | 'M' | 'W' | '%' => 0.86,
        letter if letter.is_ascii_uppercase() => 0.66,
        letter if letter.is_ascii() => 0.55,
        _ => 0.9,
    };
    text.chars().map(of).sum::<f32>() * size
}

/// A text in lines of at most `most`; a word that is longer is cut.
fn lines(text: &str, size: f32, most: f32) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
        if width(&longer, size) <= most {
            line = longer;
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        for letter in word.chars() {
            line.push(letter);
            if width(&line, size) > most && line.chars().count() > 1 {
                line.pop();
                lines.push(std::mem::take(&mut line));
                line.push(letter);
            }
        }
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// Lines of a row's label, of its captions, and the height of its pictures.
struct Placed {
    label: Vec<String>,
    captions: Vec<Vec<String>>,
    pictures: f32,
}

impl Placed {
    fn of(row: &Row, cell: f32) -> Self {
        let filled = || row.cells.iter().flatten();
        let captions = row.cells.iter().map(|found| {
            let caption = found.as_ref().map_or("", |found| found.caption.as_str());
            let mut lines = lines(caption, SMALL, cell);
            if lines.len() > CAPTION_LINES {
                lines.truncate(CAPTION_LINES);
                lines[CAPTION_LINES - 1].push('…');
            }
            lines
        });
        let tallest = filled().map(|found| size(&found.image, cell).1).fold(0.0, f32::max);
        Self {
            label: lines(&row.label, ROW, LABEL),
            captions: captions.collect(),
            pictures: if tallest > 0.0 { tallest } else { cell },
        }
    }

    fn height(&self) -> f32 {
        let captions = self.captions.iter().map(Vec::len).max().unwrap_or(0);
        let captions = if captions > 0 { captions as f32 * SMALL * LINE + 4.0 } else { 0.0 };
        (self.pictures + captions).max(self.label.len() as f32 * ROW * LINE)
    }
}

/// Width and height of a picture whose longer side is `cell`.
fn size(image: &crate::data::Image, cell: f32) -> (f32, f32) {
    let (width, height) = (image.width as f32, image.height as f32);
    let longer = width.max(height).max(1.0);
    (cell * width / longer, cell * height / longer)
}

pub(super) struct Layout {
    cell: f32,
    title: Vec<String>,
    columns: Vec<Vec<String>>,
    rows: Vec<Placed>,
    /// Lines of entries: place among them, left edge.
    legend: Vec<Vec<(usize, f32)>>,
    note: Vec<String>,
    labels: f32,
    size: (f32, f32),
}

impl Layout {
    pub(super) fn of(figure: &Figure) -> Self {
        let cell = figure.cell as f32;
        let rows: Vec<Placed> = figure.rows.iter().map(|row| Placed::of(row, cell)).collect();
        let columns: Vec<Vec<String>> =
            figure.columns.iter().map(|title| lines(title, COLUMN, cell)).collect();
        let widest = rows.iter().flat_map(|row| &row.label).map(|line| width(line, ROW));
        let widest = widest.fold(0.0, f32::max);
        let labels = if widest > 0.0 { widest + 14.0 } else { 0.0 };
        let across = figure.rows.iter().map(|row| row.cells.len()).max().unwrap_or(0);
        let across = across.max(columns.len()).max(1) as f32;
        let grid = labels + across * (cell + GAP) - GAP;
        let inner = grid.max(320.0);
        let title = lines(&figure.title, TITLE, inner);
        let note = lines(&figure.note, SMALL, inner);
        let mut legend: Vec<Vec<(usize, f32)>> = Vec::new();
        let mut left = f32::INFINITY;
        for (at, (_, text)) in figure.legend.iter().enumerate() {
            let wide = 22.0 + width(text, SMALL) + 14.0;
            if left + wide > inner {
                legend.push(Vec::new());
                left = 0.0;
            }
            legend.last_mut().expect("one was made for the first").push((at, left));
            left += wide;
        }
        let mut layout = Self {
            cell,
            title,
            columns,
            rows,
            legend,
            note,
            labels,
            size: (inner + 2.0 * MARGIN, 0.0),
        };
        layout.size.1 = layout.height();
        layout
    }

    /// Height of what stands above the grid.
    fn head(&self) -> f32 {
        let block = |lines: usize, size: f32, behind: f32| {
            if lines > 0 { lines as f32 * size * LINE + behind } else { 0.0 }
        };
        let columns = self.columns.iter().map(Vec::len).max().unwrap_or(0);
        MARGIN + block(self.title.len(), TITLE, 12.0) + block(columns, COLUMN, 6.0)
    }

    fn height(&self) -> f32 {
        let rows: f32 = self.rows.iter().map(|row| row.height() + GAP).sum();
        let legend = self.legend.len() as f32 * SMALL * 1.7;
        let note = self.note.len() as f32 * SMALL * LINE;
        let below = legend + note + if legend + note > 0.0 { 8.0 } else { 0.0 };
        (self.head() + rows - GAP + below + MARGIN).ceil()
    }

    fn left(&self, column: usize) -> f32 {
        MARGIN + self.labels + column as f32 * (self.cell + GAP)
    }

    pub(super) fn draw(&self, figure: &Figure) -> Result<String> {
        let mut svg = String::new();
        let (width, height) = (self.size.0.ceil(), self.size.1);
        let title = if figure.title.is_empty() { "Figure" } else { &figure.title };
        let head = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} \
             {height}\" role=\"img\" font-family=\"{FONT}\">\n<title>{}</title>\n<desc>{}</desc>\n<rect \
             width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
            escaped(title),
            escaped(&figure.description)
        );
        svg.push_str(&head);
        let dark = "#1d1f23";
        let mut top = MARGIN;
        text(&mut svg, &self.title, (MARGIN, top), TITLE, ("start", dark));
        let head = self.head();
        for (column, lines) in self.columns.iter().enumerate() {
            let middle = self.left(column) + self.cell / 2.0;
            let top = head - 6.0 - lines.len() as f32 * COLUMN * LINE;
            text(&mut svg, lines, (middle, top), COLUMN, ("middle", dark));
        }
        top = head;
        for (row, placed) in figure.rows.iter().zip(&self.rows) {
            let high = placed.label.len() as f32 * ROW * LINE;
            let middle = top + (placed.pictures - high).max(0.0) / 2.0;
            text(
                &mut svg,
                &placed.label,
                (MARGIN + self.labels - 14.0, middle),
                ROW,
                ("end", dark),
            );
            self.pictures(&mut svg, row, placed, top)?;
            top += placed.height() + GAP;
        }
        self.below(&mut svg, figure, top);
        svg.push_str("</svg>\n");
        Ok(svg)
    }

    fn pictures(&self, svg: &mut String, row: &Row, placed: &Placed, top: f32) -> Result<()> {
        for (column, (cell, caption)) in row.cells.iter().zip(&placed.captions).enumerate() {
            let Some(cell) = cell else { continue };
            let (wide, high) = size(&cell.image, self.cell);
            let left = self.left(column) + (self.cell - wide) / 2.0;
            let over = top + (placed.pictures - high) / 2.0;
            // A browser would blur what is shown much larger than it is.
            let blocks = cell.image.width as f32 * 1.5 < wide;
            let style = if blocks { " style=\"image-rendering:pixelated\"" } else { "" };
            // As many pixels as the larger of the two files shows.
            let uri = data_uri(&png(&shrunk(&cell.image, 2 * self.cell as usize))?);
            let description = escaped(&cell.description);
            let _ = writeln!(
                svg,
                "<image x=\"{left}\" y=\"{over}\" width=\"{wide}\" height=\"{high}\" \
                 preserveAspectRatio=\"none\"{style} href=\"{uri}\"><title>{description}</title></image>"
            );
            if let Some(color) = cell.outline {
                let (half, inset) = (FRAME / 2.0, FRAME);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"{}\" \
                     stroke-width=\"{FRAME}\"/>",
                    left + half,
                    over + half,
                    wide - inset,
                    high - inset,
                    hex(color)
                );
            }
            let middle = self.left(column) + self.cell / 2.0;
            let under = top + placed.pictures + 4.0;
            text(svg, caption, (middle, under), SMALL, ("middle", "#454950"));
        }
        Ok(())
    }

    /// Legend and note, from `top` on.
    fn below(&self, svg: &mut String, figure: &Figure, mut top: f32) {
        for line in &self.legend {
            for (at, left) in line {
                let (color, name) = &figure.legend[*at];
                let left = MARGIN + left;
                let _ = writeln!(
                    svg,
                    "<rect x=\"{left}\" y=\"{}\" width=\"15\" height=\"12\" fill=\"{}\" stroke=\"#8a8f98\" \
                     stroke-width=\"0.5\"/>",
                    top + 2.0,
                    hex(*color)
                );
                let name = std::slice::from_ref(name);
                text(svg, name, (left + 21.0, top + 0.5), SMALL, ("start", "#454950"));
            }
            top += SMALL * 1.7;
        }
        if !self.legend.is_empty() {
            top += 4.0;
        }
        text(svg, &self.note, (MARGIN, top), SMALL, ("start", "#62666e"));
    }
}

/// Lines of text from `top` on.
fn text(svg: &mut String, lines: &[String], (x, top): (f32, f32), size: f32, style: (&str, &str)) {
    let (anchor, fill) = style;
    for (number, line) in lines.iter().enumerate() {
        let y = top + (number as f32 * LINE + 0.95) * size;
        let line = escaped(line);
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" text-anchor=\"{anchor}\" fill=\"{fill}\">{line}</text>"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words_and_within_those_too_long() {
        assert_eq!(lines("", 10.0, 50.0), Vec::<String>::new());
        assert_eq!(lines("one two three", 10.0, 40.0), ["one two", "three"]);
        let cut = lines("abcdefghijklmnop", 10.0, 30.0);
        assert!(cut.len() > 1 && cut.concat() == "abcdefghijklmnop", "{cut:?}");
        assert!(cut.iter().all(|line| width(line, 10.0) <= 30.0), "{cut:?}");
    }
}
