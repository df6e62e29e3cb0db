//! Data made on the spot, so that everything can be tried, tested and measured without a file.
//!
//! `synthetic:scenes` renders objects of twelve classes (house, fish, key, ...), each composed of parts in a fixed
//! arrangement. Only the arrangement tells the class: colour and texture of every part and of the background, position,
//! size, tilt, mirroring, clutter, light, shadow and noise are drawn independently of it. Every image knows which part
//! each of its pixels shows ([`Dataset::part_mask`]). With `parts=texture` colours tell nothing about the parts, textures do.
//!
//! `synthetic:digits` are strokes in the manner of MNIST.

mod digits;
mod scene;
mod shapes;
mod texture;

use super::options::Options;
use super::{Dataset, Image, Source};
use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
use scene::{Parts, Scene};
use shapes::CLASSES;
use std::sync::{Arc, OnceLock};

/// Stands for version 1 of the scenes; the next version, with other images, gets another.
const SEED: u64 = 0x0d19_7c40_5ce7_e501;

/// Splits up to this many bytes of pixels are kept once rendered.
const MAX_CACHED: usize = 512 << 20;

/// Settings of `synthetic:scenes?train=6000&test=2400&size=32&parts=color` (the defaults).
#[derive(Clone, Copy, Debug, PartialEq)]
struct Settings {
    /// Images of the split `train`.
    train: usize,
    /// Images of the split `test`.
    test: usize,
    /// Width and height in pixels; 96 unless given where textures tell the parts.
    size: usize,
    /// By what the parts of an object differ.
    parts: Parts,
}

impl Settings {
    fn parse(text: &str) -> Result<Self> {
        let mut options = Options::parse("synthetic:scenes", text)?;
        let parts =
            options.word("parts", &[("color", Parts::Color), ("texture", Parts::Texture)])?;
        // A period of a texture must be a few pixels.
        let (least, usual) = if parts == Parts::Texture { (64, 96) } else { (16, 32) };
        let settings = Self {
            train: options.number("train", 1..=1_000_000)?.unwrap_or(6_000),
            test: options.number("test", 1..=1_000_000)?.unwrap_or(2_400),
            size: options.number("size", least..=256)?.unwrap_or(usual),
            parts,
        };
        options.finish()?;
        Ok(settings)
    }
}

/// Opens `synthetic:` data; `spec` is what follows the colon.
pub(super) fn open(spec: &str) -> Result<Source> {
    let (name, settings) = spec.split_once('?').unwrap_or((spec, ""));
    match name {
        "scenes" => {}
        "digits" => return digits::open(spec, settings),
        _ => {
            return Err(Error::Data(format!(
                "there is no made data set `synthetic:{name}`, expected `synthetic:scenes` or `synthetic:digits`"
            )));
        }
    }
    let Settings { train, test, size, parts } = Settings::parse(settings)?;
    let mut identity = format!("synthetic scenes {SEED:x} train={train} test={test} size={size}");
    if parts == Parts::Texture {
        identity += " parts=texture";
    }
    let split = |number, name: &'static str, count| {
        let scenes = Scenes::new(number, name, count, size, parts);
        (name.to_owned(), Arc::new(scenes) as Arc<dyn Dataset>)
    };
    Ok(Source {
        format: "synthetic scenes (objects of composed shapes, rendered)".to_owned(),
        location: format!("synthetic:{spec}"),
        classes: CLASSES.iter().map(|class| class.name.to_owned()).collect(),
        splits: vec![split(0, "train", train), split(1, "test", test)],
        fingerprint: blake3::hash(identity.as_bytes()).to_hex().to_string(),
    })
}

/// One split; image `index` is of class `index mod 12` and a pure function of (split, index, size, parts).
struct Scenes {
    number: u64,
    name: &'static str,
    count: usize,
    size: usize,
    parts: Parts,
    /// Images rendered so far; empty when they would take too much memory.
    rendered: Vec<OnceLock<Box<[u8]>>>,
}

impl Scenes {
    fn new(number: u64, name: &'static str, count: usize, size: usize, parts: Parts) -> Self {
        let kept = if count * size * size * 3 <= MAX_CACHED { count } else { 0 };
        let rendered = (0..kept).map(|_| OnceLock::new()).collect();
        Self { number, name, count, size, parts, rendered }
    }

    fn class(index: usize) -> u32 {
        (index % CLASSES.len()) as u32
    }

    fn render(&self, index: usize) -> (Image, Vec<u8>) {
        assert!(index < self.count, "image {index} of {}", self.count);
        let item = self.number << 32 | index as u64;
        let draws = Stream::open(SEED, Purpose::Synthesis, Scope::Item(item));
        Scene::draw(Self::class(index), self.parts, draws).render(self.size)
    }
}

impl Dataset for Scenes {
    fn len(&self) -> usize {
        self.count
    }

    fn label(&self, index: usize) -> Option<u32> {
        Some(Self::class(index))
    }

    fn path(&self, index: usize) -> String {
        format!("{}/{}-{index:06}", self.name, CLASSES[Self::class(index) as usize].name)
    }

    fn image(&self, index: usize) -> Result<Image> {
        let pixels = match self.rendered.get(index) {
            None => self.render(index).0.pixels,
            Some(kept) => {
                kept.get_or_init(|| self.render(index).0.pixels.into_boxed_slice()).to_vec()
            }
        };
        Ok(Image { width: self.size, height: self.size, pixels })
    }

    fn part_mask(&self, index: usize) -> Option<Vec<u8>> {
        Some(self.render(index).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{labels, open as open_source};
    use rayon::prelude::*;

    fn images(split: &dyn Dataset) -> Vec<Vec<u8>> {
        (0..split.len()).into_par_iter().map(|index| split.image(index).unwrap().pixels).collect()
    }

    #[test]
    fn an_image_is_a_pure_function_of_its_split_and_index() {
        let first = open_source("synthetic:scenes?train=24&test=24").unwrap();
        let again = open_source("synthetic:scenes?train=48&test=24").unwrap();
        let train = images(first.split("train").unwrap().as_ref());
        let longer = again.split("train").unwrap();
        for index in (0..24).rev() {
            let image = longer.image(index).unwrap();
            assert_eq!((image.width, image.height), (32, 32));
            assert_eq!(image.pixels, train[index]);
            assert_eq!(longer.image(index).unwrap().pixels, train[index], "the second time");
        }
        let test = images(first.split("test").unwrap().as_ref());
        assert!(train.iter().all(|image| !test.contains(image)));
        assert_ne!(first.fingerprint, again.fingerprint);
    }

    #[test]
    fn every_class_comes_equally_often() {
        let source = open_source("synthetic:scenes").unwrap();
        assert_eq!(source.classes.len(), 12);
        for (name, count) in [("train", 500), ("test", 200)] {
            let labels = labels(source.split(name).unwrap().as_ref()).unwrap();
            let of = |class| labels.iter().filter(|label| **label == class).count();
            assert!((0..12).all(|class| of(class) == count), "{name}");
        }
    }

    /// The mask of a pixel is what most of a threefold finer mask shows there, and the object fills what was promised.
    #[test]
    fn masks_agree_with_the_coverage() {
        let mut agreeing = 0;
        let mut missing = 0;
        for index in 0..60 {
            let coarse = Scenes::new(0, "train", 60, 32, Parts::Color).part_mask(index).unwrap();
            let fine = Scenes::new(0, "train", 60, 96, Parts::Color).part_mask(index).unwrap();
            let parts = CLASSES[Scenes::class(index) as usize].parts() as u8;
            assert!(coarse.iter().all(|part| *part <= parts));
            missing += (1..=parts).filter(|part| !coarse.contains(part)).count();
            for (pixel, part) in coarse.iter().enumerate() {
                let (row, column) = (pixel / 32, pixel % 32);
                let mut seen = [0; 5];
                for sub in 0..9 {
                    let at = (3 * row + sub / 3) * 96 + 3 * column + sub % 3;
                    seen[usize::from(fine[at])] += 1;
                }
                agreeing += usize::from(seen[usize::from(*part)] == *seen.iter().max().unwrap());
            }
            let inside: Vec<usize> = (0..1024).filter(|pixel| coarse[*pixel] > 0).collect();
            let span = |of: fn(usize) -> usize| {
                let (least, most) =
                    (inside.iter().map(|p| of(*p)).min(), inside.iter().map(|p| of(*p)).max());
                most.unwrap() - least.unwrap() + 1
            };
            let extent = span(|pixel| pixel / 32).max(span(|pixel| pixel % 32));
            assert!((13..=32).contains(&extent), "image {index} spans {extent} pixels");
        }
        let share = agreeing as f64 / (60.0 * 1024.0);
        assert!(share > 0.995, "{share}");
        assert!(missing <= 3, "{missing} parts do not show");
    }

    /// Where the object's edge is, brightness changes: a class is seen, not guessed.
    #[test]
    fn objects_stand_out() {
        let scenes = Scenes::new(0, "train", 120, 32, Parts::Color);
        let mut contrasts: Vec<f64> = (0..120)
            .map(|index| {
                let (image, mask) = scenes.render(index);
                let luma = |at: usize| {
                    let p = &image.pixels[3 * at..3 * at + 3];
                    0.299 * f64::from(p[0]) + 0.587 * f64::from(p[1]) + 0.114 * f64::from(p[2])
                };
                let steps: Vec<f64> = (0..31 * 32)
                    .filter(|at| (mask[*at] == 0) != (mask[*at + 32] == 0))
                    .map(|at| (luma(at) - luma(at + 32)).abs())
                    .collect();
                steps.iter().sum::<f64>() / steps.len() as f64
            })
            .collect();
        contrasts.sort_by(f64::total_cmp);
        assert!(contrasts[60] > 35.0 && contrasts[6] > 15.0, "{contrasts:?}");
    }

    /// Without their textures nothing tells the parts apart: neither the mean colour nor how often each colour occurs.
    /// Object and pose are those of the same image with coloured parts.
    #[test]
    fn textured_parts_have_one_mean_colour() {
        let (count, size) = (96, 96);
        let textured = Scenes::new(0, "train", count, size, Parts::Texture);
        let colored = Scenes::new(0, "train", count, size, Parts::Color);
        // Root mean square over channels of the distance of a part's mean from the background's.
        let apart = |scenes: &Scenes| -> f64 {
            let found: Vec<f64> = (0..count)
                .into_par_iter()
                .flat_map_iter(|index| {
                    let (image, mask) = scenes.render(index);
                    let mean = |part: u8| -> Option<[f64; 3]> {
                        let own: Vec<usize> =
                            (0..mask.len()).filter(|at| mask[*at] == part).collect();
                        (own.len() > 150).then(|| {
                            [0, 1, 2].map(|channel| {
                                let of = |at: &usize| f64::from(image.pixels[3 * at + channel]);
                                own.iter().map(of).sum::<f64>() / own.len() as f64
                            })
                        })
                    };
                    let behind = mean(0).unwrap();
                    let distance = |found: [f64; 3]| {
                        let squares = found.iter().zip(behind).map(|(a, b)| (a - b).powi(2));
                        (squares.sum::<f64>() / 3.0).sqrt()
                    };
                    (1..=4).filter_map(mean).map(distance).collect::<Vec<f64>>()
                })
                .collect();
            assert!(found.len() > count, "{} parts", found.len());
            found.iter().sum::<f64>() / found.len() as f64
        };
        let (one, other) = (apart(&textured), apart(&colored));
        assert!(4.0 * one < other && other > 40.0, "{one} with textures, {other} with colours");
        for index in 0..24 {
            // Things in front of the object hide parts of it only where colours tell.
            let (own, twin) = (textured.render(index), colored.render(index));
            assert_ne!(own.0.pixels, twin.0.pixels);
            let other = own.1.iter().zip(&twin.1).filter(|(a, b)| a != b && **b != 0).count();
            assert_eq!(other, 0, "image {index}");
        }
        let fingerprint = |spec: &str| open_source(spec).unwrap().fingerprint;
        assert_ne!(
            fingerprint("synthetic:scenes?parts=texture"),
            fingerprint("synthetic:scenes?parts=color")
        );
        assert_eq!(fingerprint("synthetic:scenes"), fingerprint("synthetic:scenes?parts=color"));
    }

    /// Weighted k-NN on raw pixels (cosine, temperature 0.07), with and without the mean image taken off.
    #[test]
    fn raw_pixels_tell_little_about_the_class() {
        let source = open_source("synthetic:scenes?train=1200&test=300").unwrap();
        let vectors = |name: &str| -> Vec<Vec<f32>> {
            let split = source.split(name).unwrap();
            images(split.as_ref())
                .into_iter()
                .map(|pixels| pixels.into_iter().map(f32::from).collect())
                .collect()
        };
        let (bank, queries) = (vectors("train"), vectors("test"));
        let mut mean = vec![0.0; bank[0].len()];
        for image in &bank {
            mean.iter_mut().zip(image).for_each(|(m, x)| *m += x / bank.len() as f32);
        }
        for centred in [false, true] {
            let unit = |image: &Vec<f32>| -> Vec<f32> {
                let shift = |(x, m): (&f32, &f32)| if centred { x - m } else { *x };
                let moved: Vec<f32> = image.iter().zip(&mean).map(shift).collect();
                let length = moved.iter().map(|x| x * x).sum::<f32>().sqrt();
                moved.into_iter().map(|x| x / length).collect()
            };
            let bank: Vec<Vec<f32>> = bank.iter().map(unit).collect();
            let right: usize = queries
                .par_iter()
                .enumerate()
                .map(|(index, query)| {
                    let query = unit(query);
                    let score = |image: &Vec<f32>| -> f32 {
                        image.iter().zip(&query).map(|(a, b)| a * b).sum()
                    };
                    let mut near: Vec<(f32, u32)> =
                        bank.iter().map(score).zip((0..bank.len()).map(Scenes::class)).collect();
                    near.sort_by(|a, b| b.0.total_cmp(&a.0));
                    let mut votes = [0.0; 12];
                    for (score, class) in &near[..20] {
                        votes[*class as usize] += (score / 0.07).exp();
                    }
                    let best = (0..12).max_by(|a, b| votes[*a].total_cmp(&votes[*b])).unwrap();
                    usize::from(best as u32 == Scenes::class(index))
                })
                .sum();
            let accuracy = right as f64 / queries.len() as f64;
            assert!(accuracy < 0.3, "centred {centred}: {accuracy}");
        }
    }

    #[test]
    fn settings_are_checked() {
        let parsed = Settings::parse("size=64&test=5").unwrap();
        assert_eq!(parsed, Settings { train: 6_000, test: 5, size: 64, parts: Parts::Color });
        let failure = |spec: &str| open_source(spec).map(|_| ()).unwrap_err().to_string();
        for (spec, expected) in [
            ("synthetic:shapes", "expected `synthetic:scenes`"),
            ("synthetic:scenes?width=3", "no setting `width`"),
            ("synthetic:scenes?size=8", "from 16 to 256, found `8`"),
            ("synthetic:scenes?train=many", "found `many`"),
            ("synthetic:scenes?train", "found ``"),
            ("synthetic:scenes?parts=texture&size=32", "from 64 to 256, found `32`"),
            ("synthetic:scenes?parts=shape", "one of `color`, `texture`, found `shape`"),
        ] {
            let text = failure(spec);
            assert!(text.contains(expected), "{spec}: {text}");
        }
    }
}
