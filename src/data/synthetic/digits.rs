//! `synthetic:digits`: handwriting in the manner of MNIST, drawn, so that what needs digits can be tried without a file.

use crate::data::options::Options;
use crate::data::{Dataset, Image, Source};
use crate::error::Result;
use crate::random::{Purpose, Scope, Stream};
use std::sync::Arc;

/// Stands for version 1 of the digits; the next version, with other images, gets another.
const SEED: u64 = 0x0d19_7d16_1750_0001;

/// Side of an image in pixels, and of the box within it that a digit fills, as in MNIST.
const SIDE: usize = 28;
const BOX: f64 = 20.0;

/// The strokes of each digit as points within the unit square, y downwards.
const STROKES: [&[&[[f64; 2]]]; 10] = [
    &[&[
        [0.5, 0.0],
        [0.2, 0.15],
        [0.12, 0.5],
        [0.2, 0.85],
        [0.5, 1.0],
        [0.8, 0.85],
        [0.88, 0.5],
        [0.8, 0.15],
        [0.5, 0.0],
    ]],
    &[&[[0.3, 0.2], [0.55, 0.0], [0.55, 1.0]]],
    &[&[[0.15, 0.25], [0.3, 0.05], [0.6, 0.0], [0.82, 0.2], [0.75, 0.45], [0.12, 1.0], [0.9, 1.0]]],
    &[
        &[[0.15, 0.08], [0.5, 0.0], [0.8, 0.15], [0.75, 0.38], [0.4, 0.47]],
        &[[0.4, 0.47], [0.8, 0.6], [0.85, 0.85], [0.5, 1.0], [0.12, 0.92]],
    ],
    &[&[[0.7, 1.0], [0.7, 0.0], [0.08, 0.68], [0.95, 0.68]]],
    &[&[
        [0.85, 0.0],
        [0.25, 0.0],
        [0.2, 0.42],
        [0.6, 0.38],
        [0.88, 0.65],
        [0.65, 0.97],
        [0.12, 0.95],
    ]],
    &[&[
        [0.78, 0.02],
        [0.4, 0.2],
        [0.15, 0.6],
        [0.25, 0.93],
        [0.6, 1.0],
        [0.85, 0.75],
        [0.6, 0.5],
        [0.2, 0.65],
    ]],
    &[&[[0.1, 0.0], [0.9, 0.0], [0.4, 1.0]]],
    &[&[
        [0.5, 0.46],
        [0.2, 0.25],
        [0.5, 0.0],
        [0.8, 0.25],
        [0.5, 0.46],
        [0.12, 0.74],
        [0.5, 1.0],
        [0.88, 0.74],
        [0.5, 0.46],
    ]],
    &[&[[0.82, 0.3], [0.5, 0.5], [0.2, 0.28], [0.45, 0.0], [0.8, 0.1], [0.82, 0.3], [0.65, 1.0]]],
];

/// Opens `synthetic:digits?…`; `spec` is what follows the colon, `settings` what follows the question mark.
pub(super) fn open(spec: &str, settings: &str) -> Result<Source> {
    let mut options = Options::parse("synthetic:digits", settings)?;
    let train = options.number("train", 1..=1_000_000)?.unwrap_or(6_000);
    let test = options.number("test", 1..=1_000_000)?.unwrap_or(1_000);
    options.finish()?;
    let identity = format!("synthetic digits {SEED:x} train={train} test={test}");
    let split = |number, name: &'static str, count| {
        (name.to_owned(), Arc::new(Digits { number, name, count }) as Arc<dyn Dataset>)
    };
    Ok(Source {
        format: "synthetic digits (strokes, drawn)".to_owned(),
        location: format!("synthetic:{spec}"),
        classes: (0..10).map(|digit| digit.to_string()).collect(),
        splits: vec![split(0, "train", train), split(1, "test", test)],
        fingerprint: blake3::hash(identity.as_bytes()).to_hex().to_string(),
    })
}

/// One split; image `index` shows the digit `index mod 10` and is a pure function of (split, index).
struct Digits {
    number: u64,
    name: &'static str,
    count: usize,
}

impl Dataset for Digits {
    fn len(&self) -> usize {
        self.count
    }

    fn label(&self, index: usize) -> Option<u32> {
        Some((index % 10) as u32)
    }

    fn path(&self, index: usize) -> String {
        format!("{}/{}-{index:06}", self.name, index % 10)
    }

    fn image(&self, index: usize) -> Result<Image> {
        assert!(index < self.count, "image {index} of {}", self.count);
        let item = 1 << 40 | self.number << 32 | index as u64;
        let mut draws = Stream::open(SEED, Purpose::Synthesis, Scope::Item(item));
        let pixels = draw(index % 10, &mut draws).into_iter().flat_map(|value| [value; 3]);
        Ok(Image { width: SIDE, height: SIDE, pixels: pixels.collect() })
    }
}

/// A digit with a slant, a tilt, a width, a thickness and unsteady points of its own; light on black.
fn draw(digit: usize, draws: &mut Stream) -> Vec<u8> {
    let (slant, tilt) = (draws.range(-0.25, 0.25), draws.range(-0.2, 0.2));
    let (wide, high) = (draws.range(0.6, 1.0), draws.range(0.85, 1.0));
    let half = draws.range(0.9, 1.7);
    let (sine, cosine) = f64::sin_cos(tilt);
    let mut place = |[x, y]: [f64; 2]| {
        let (x, y) = (x - 0.5 + draws.range(-0.05, 0.05), y - 0.5 + draws.range(-0.05, 0.05));
        let (x, y) = (wide * (x - slant * y), high * y);
        let middle = SIDE as f64 / 2.0;
        [middle + BOX * (cosine * x - sine * y), middle + BOX * (sine * x + cosine * y)]
    };
    let strokes: Vec<Vec<[f64; 2]>> = STROKES[digit]
        .iter()
        .map(|stroke| stroke.iter().map(|point| place(*point)).collect())
        .collect();
    let value = |pixel: usize| {
        let at = [(pixel % SIDE) as f64 + 0.5, (pixel / SIDE) as f64 + 0.5];
        let lines = strokes.iter().flat_map(|stroke| stroke.windows(2));
        let near = lines.map(|ends| distance(at, ends[0], ends[1])).fold(f64::INFINITY, f64::min);
        (255.0 * (half + 0.5 - near).clamp(0.0, 1.0)).round() as u8
    };
    (0..SIDE * SIDE).map(value).collect()
}

/// Distance of a point from a line that ends.
fn distance([x, y]: [f64; 2], [x0, y0]: [f64; 2], [x1, y1]: [f64; 2]) -> f64 {
    let (dx, dy) = (x1 - x0, y1 - y0);
    let along = ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy).max(1e-12);
    let along = along.clamp(0.0, 1.0);
    f64::hypot(x - x0 - along * dx, y - y0 - along * dy)
}

#[cfg(test)]
mod tests {
    use super::super::super::open as open_source;

    #[test]
    fn digits_are_light_on_black_within_the_box_and_each_its_own() {
        let source = open_source("synthetic:digits?train=40&test=40").unwrap();
        let train = source.split("train").unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for (name, split) in &source.splits {
            for index in 0..split.len() {
                let image = split.image(index).unwrap();
                assert_eq!((image.width, image.height), (28, 28));
                assert_eq!(split.label(index), Some(index as u32 % 10));
                let (pixels, _) = image.pixels.as_chunks::<3>();
                assert!(pixels.iter().all(|[r, g, b]| r == g && g == b));
                let light = pixels.iter().filter(|pixel| pixel[0] > 127).count();
                assert!((30..300).contains(&light), "{name} {index}: {light}");
                let rim =
                    |place: usize| [place / 28, place % 28].iter().any(|at| [0, 27].contains(at));
                assert!((0..784).filter(|place| rim(*place)).all(|place| pixels[place][0] == 0));
                assert!(seen.insert(image.pixels), "{name} {index} again");
            }
        }
        let again = open_source("synthetic:digits").unwrap();
        let longer = again.split("train").unwrap();
        assert_eq!((longer.len(), longer.image(7).unwrap()), (6_000, train.image(7).unwrap()));
    }

    /// Nearest neighbours on pixels read them: what the label says is in the picture.
    #[test]
    fn digits_can_be_told_apart() {
        let source = open_source("synthetic:digits?train=400&test=100").unwrap();
        let values = |name: &str| -> Vec<Vec<f32>> {
            let split = source.split(name).unwrap();
            let image = |index| split.image(index).unwrap().pixels.into_iter().step_by(3);
            (0..split.len()).map(|index| image(index).map(f32::from).collect()).collect()
        };
        let (bank, queries) = (values("train"), values("test"));
        let right = queries.iter().enumerate().filter(|(index, query)| {
            let far = |image: &Vec<f32>| -> f32 {
                image.iter().zip(*query).map(|(a, b)| (a - b).powi(2)).sum()
            };
            let near = (0..bank.len()).min_by(|a, b| far(&bank[*a]).total_cmp(&far(&bank[*b])));
            near.unwrap() % 10 == index % 10
        });
        let right = right.count();
        assert!(right >= 85, "{right} of 100");
    }
}
