//! `digits-on:BASE?digits=MNIST&unique=16`: a digit on every image, so that the digit and the object compete.
//!
//! `variant=copies` is the original (repo google-research/simclr, `digits_on_tf_flowers.ipynb`): nine copies of one digit,
//! their left upper corners at trunc(S · {0.15, 0.45, 0.75}) on either side of an S-pixel image, joined to it by the maximum of
//! each byte. `variant=blend` is that of the replication (repo mona251/Intriguing-Properties-of-Contrastive-Losses): a grid of
//! `cells`, of which `count` show the digit, laid over the image with the digit itself as opacity.
//!
//! Departures: the pairing is fixed, digit(i) = one of the first `unique` by the draw of (seed, i), where the notebook draws
//! anew at each access, so that an image keeps its digit in all epochs and views, which the experiment needs. The
//! replication's exchange of red and blue is left out. Sizes change with antialiasing. The images of other splits show
//! digits that no training image shows, where there are any.

use super::digits::{DigitSets, Digits, Glyph, squared};
use super::{base, draws, fingerprint};
use crate::data::options::Options;
use crate::data::{Dataset, Image, Object, Presence, Source, is_query_name};
use crate::error::{Error, Result};
use crate::random::Stream;
use std::sync::Arc;

/// Where the copies begin, as shares of the side.
const OFFSETS: [f64; 3] = [0.15, 0.45, 0.75];

/// How digits get onto an image.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Variant {
    /// Nine copies, by the maximum; the side of a digit in pixels, as large as fits up to 28 if not given.
    Copies { digit_px: Option<usize> },
    /// `count` of `across` × `across` cells, laid over.
    Blend { across: usize, count: usize },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Label {
    Object,
    Digit,
}

/// Opens a base and puts digits onto it.
pub(super) fn open(location: &str, options: &mut Options<'_>) -> Result<Source> {
    let example = "digits-on:cifar10/?digits=mnist/&unique=16";
    let place = options.text("digits").unwrap_or_default();
    let unique = options.number("unique", 1..=u32::MAX as usize)?;
    let label = options.word("label", &[("object", Label::Object), ("digit", Label::Digit)])?;
    let size = options.number("size", 8..=4096)?;
    let seed = options.number("seed", 0..=u64::MAX)?.unwrap_or(0);
    let digit_px = options.number("digit_px", 2..=1024)?;
    let cells: usize = options.number("cells", 1..=1024)?.unwrap_or(9);
    let count = options.number("count", 1..=cells)?.unwrap_or(cells);
    let across = cells.isqrt();
    if across * across != cells {
        return Err(Error::Data(format!(
            "`cells` of `digits-on` must be a square number such as 9 or 16, found `{cells}`"
        )));
    }
    let (copies, blend) = (Variant::Copies { digit_px }, Variant::Blend { across, count });
    let variant = options.word("variant", &[("copies", copies), ("blend", blend)])?;
    let under = base("digits-on", location, example)?;
    let digits = base("the setting `digits` of digits-on", place, example)?;
    let sets = DigitSets::of(&digits, unique)?;
    let said = format!("{variant:?} {label:?} {unique:?} {size:?} {seed}");
    let training = under.training_split().ok().map(Arc::clone);
    let splits = under.splits.iter().enumerate().map(|(number, (name, split))| {
        let learned =
            !is_query_name(name) || training.as_ref().is_some_and(|it| Arc::ptr_eq(it, split));
        let digits = if learned { &sets.training } else { &sets.others }.clone();
        let made = DigitsOn { under: split.clone(), digits, number, variant, label, size, seed };
        (name.clone(), Arc::new(made) as Arc<dyn Dataset>)
    });
    Ok(Source {
        format: format!("digits ({}) on {}, {}", sets.training.len(), under.format, sets.said()),
        location: String::new(),
        splits: splits.collect(),
        fingerprint: fingerprint(&serde_json::json!([
            "digits-on",
            under.fingerprint,
            digits.fingerprint,
            said
        ])),
        classes: match label {
            Label::Object => under.classes,
            Label::Digit => digits.classes,
        },
    })
}

/// One split.
struct DigitsOn {
    under: Arc<dyn Dataset>,
    digits: Digits,
    number: usize,
    variant: Variant,
    label: Label,
    size: Option<usize>,
    seed: u64,
}

impl DigitsOn {
    /// Which digit an image has, and what else is drawn for it.
    fn digit(&self, index: usize) -> (usize, Stream) {
        let mut draws = draws(self.seed, self.number, index);
        (draws.below(self.digits.len() as u64) as usize, draws)
    }

    /// The digit as it is put on an image of that size, and where.
    fn layout(
        &self,
        index: usize,
        [width, height]: [usize; 2],
    ) -> Result<(Glyph, Vec<[usize; 2]>)> {
        let (digit, mut draws) = self.digit(index);
        let glyph = self.digits.glyph(digit)?;
        match self.variant {
            Variant::Copies { digit_px } => {
                let [columns, rows] = [width, height].map(offsets);
                let room = (width - columns[2]).min(height - rows[2]);
                let side = digit_px.unwrap_or(room.min(28));
                if side > room || side == 0 {
                    return Err(Error::Data(format!(
                        "three digits of {side} px do not fit on `{}` of {width}x{height} px, {room} px would; set `digit_px` or \
                         `size`",
                        self.under.path(index)
                    )));
                }
                let places = columns.iter().flat_map(|x| rows.map(|y| [*x, y]));
                Ok((glyph.resized(side, side), places.collect()))
            }
            Variant::Blend { across, count } => {
                let cell = [width / across, height / across];
                if cell.contains(&0) {
                    return Err(Error::Data(format!(
                        "`{}` of {width}x{height} px has no room for {across} cells a side",
                        self.under.path(index)
                    )));
                }
                let mut chosen = draws.permutation(across * across);
                chosen.truncate(count);
                chosen.sort_unstable();
                let place = |at: usize| [at % across * cell[0], at / across * cell[1]];
                Ok((glyph.resized(cell[0], cell[1]), chosen.into_iter().map(place).collect()))
            }
        }
    }

    fn under(&self, index: usize) -> Result<Image> {
        let image = self.under.image(index)?;
        Ok(match self.size {
            Some(side) => squared(image, side),
            None => image,
        })
    }
}

/// Where the three copies along a side begin.
fn offsets(side: usize) -> [usize; 3] {
    OFFSETS.map(|share| (side as f64 * share) as usize)
}

/// A digit laid over a byte with itself as opacity.
fn over(byte: u8, digit: u8) -> u8 {
    let (byte, digit) = (u32::from(byte), u32::from(digit));
    ((digit * digit + (255 - digit) * byte + 127) / 255) as u8
}

impl Dataset for DigitsOn {
    fn len(&self) -> usize {
        self.under.len()
    }

    fn label(&self, index: usize) -> Option<u32> {
        match self.label {
            Label::Object => self.under.label(index),
            Label::Digit => self.digits.class(self.digit(index).0).ok(),
        }
    }

    fn path(&self, index: usize) -> String {
        self.under.path(index)
    }

    fn image(&self, index: usize) -> Result<Image> {
        let mut image = self.under(index)?;
        let (glyph, places) = self.layout(index, [image.width, image.height])?;
        let mix = match self.variant {
            Variant::Copies { .. } => u8::max,
            Variant::Blend { .. } => over,
        };
        for place in places {
            glyph.put(&mut image, place, mix);
        }
        Ok(image)
    }

    fn presence(&self, index: usize) -> Option<Vec<Presence>> {
        self.under.presence(index).filter(|_| self.label == Label::Object)
    }

    fn constant_channels(&self) -> usize {
        self.under.constant_channels()
    }

    /// Those of the image below, which a number of its pixels may decide.
    fn constants(&self, index: usize, image: &Image) -> Vec<u8> {
        if self.under.constant_channels() == 0 {
            return Vec::new();
        }
        match self.under.image(index) {
            Ok(under) => self.under.constants(index, &under),
            Err(_) => self.under.constants(index, image),
        }
    }

    fn objects(&self, index: usize) -> Result<Vec<Object>> {
        let image = self.under(index)?;
        let (glyph, places) = self.layout(index, [image.width, image.height])?;
        let Glyph { class, item, side, width, height, .. } = glyph;
        let object =
            |[x, y]: [usize; 2]| Object { class, item, side, bounds: [x, y, width, height] };
        Ok(places.into_iter().map(object).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::open;
    use crate::data::testing::{failure, failure_of};
    use std::path::Path;

    const BASE: &str = "digits-on:synthetic:scenes?train=40&test=40";

    fn opened(settings: &str) -> Source {
        open(&format!("{BASE}&size=32?digits=synthetic:digits&{settings}")).unwrap()
    }

    fn bases() -> Source {
        open("synthetic:scenes?train=40&test=40&size=32").unwrap()
    }

    #[test]
    fn bits_of_the_base_stay_with_its_images() {
        let base = "random-bits:synthetic:scenes?train=4&test=4&size=32?bits=3";
        let on = open(&format!("digits-on:{base}?digits=synthetic:digits")).unwrap();
        let (on, base) = (&on.splits[0].1, &open(base).unwrap().splits[0].1);
        assert_eq!(on.constant_channels(), 3);
        for index in 0..4 {
            let [below, above] = [base, on].map(|it| it.image(index).unwrap());
            assert_ne!(below, above);
            assert_eq!(on.constants(index, &above), base.constants(index, &below));
        }
    }

    #[test]
    fn copies_begin_where_the_notebook_puts_them() {
        assert_eq!(offsets(224), [33, 100, 168]);
        assert_eq!(offsets(32), [4, 14, 24]);
    }

    /// Against the notebook's own steps: pad the digit nine times to the size of the image, take the maximum of all.
    #[test]
    fn an_image_is_the_maximum_of_itself_and_nine_padded_digits() {
        let source = opened("size=224&unique=16&seed=5");
        let digits = open("synthetic:digits").unwrap();
        let (train, bank) = (source.split("train").unwrap(), digits.split("train").unwrap());
        for index in [0, 7, 39] {
            let found = train.image(index).unwrap();
            assert_eq!((found.width, found.height), (224, 224));
            let under = squared(bases().split("train").unwrap().image(index).unwrap(), 224);
            let item = train.objects(index).unwrap()[0].item;
            assert!(item < 16);
            let digit = bank.image(item).unwrap();
            let mut expected = under.pixels.clone();
            for [left, top] in [33, 100, 168].iter().flat_map(|x| [33, 100, 168].map(|y| [*x, y])) {
                for (y, x, c) in (0..28).flat_map(|y| (0..84).map(move |x| (y, x / 3, x % 3))) {
                    let byte = &mut expected[3 * ((top + y) * 224 + left + x) + c];
                    *byte = (*byte).max(digit.pixels[3 * (y * 28 + x) + c]);
                }
            }
            assert!(found.pixels == expected && found.pixels != under.pixels, "{index}");
        }
    }

    #[test]
    fn an_image_keeps_its_digit_and_both_labels_are_right() {
        let (object, digit) = (opened("unique=16"), opened("unique=16&label=digit"));
        let digits = open("synthetic:digits").unwrap();
        assert_eq!((object.classes.len(), digit.classes.len()), (12, 10));
        assert_ne!(object.fingerprint, digit.fingerprint);
        for (name, bank) in [("train", "train"), ("test", "test")] {
            let (one, other) = (object.split(name).unwrap(), digit.split(name).unwrap());
            let bank = digits.split(bank).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            for index in 0..40 {
                assert_eq!(one.label(index), bases().split(name).unwrap().label(index));
                let objects = other.objects(index).unwrap();
                assert_eq!(objects.len(), 9);
                let first = &objects[0];
                assert_eq!((first.bounds, first.side), ([4, 4, 8, 8], 8));
                assert_eq!(other.label(index), bank.label(first.item));
                assert_eq!(other.label(index), Some(first.class));
                let hot = crate::data::multi_hot(other.as_ref(), index, 10).unwrap();
                assert_eq!(hot.iter().position(|hot| *hot), Some(first.class as usize));
                assert_eq!(hot.iter().filter(|hot| **hot).count(), 1);
                assert_eq!(one.image(index).unwrap(), other.image(index).unwrap());
                assert_eq!(one.image(index).unwrap(), one.image(index).unwrap());
                seen.insert(first.item);
            }
            // Of 16 digits nearly all are met by 40 draws, and held out ones come from a thousand.
            assert!(if name == "train" {
                (12..=16).contains(&seen.len())
            } else {
                seen.len() > 35
            });
        }
        let other = opened("unique=16&seed=1");
        let images = |source: &Source| source.split("train").unwrap().image(3).unwrap();
        assert_ne!(images(&other), images(&object));
    }

    #[test]
    fn a_blend_fills_some_cells_with_the_digit_as_its_own_opacity() {
        let source = opened("variant=blend&cells=16&count=5&unique=3");
        let train = source.split("train").unwrap();
        for index in 0..10 {
            let under = bases().split("train").unwrap().image(index).unwrap();
            let found = train.image(index).unwrap();
            let objects = train.objects(index).unwrap();
            assert_eq!(objects.len(), 5);
            let inside = |x: usize, y: usize| {
                objects.iter().any(|it| {
                    let [left, top, width, height] = it.bounds;
                    assert_eq!((left % 8, top % 8, width, height), (0, 0, 8, 8));
                    (left..left + width).contains(&x) && (top..top + height).contains(&y)
                })
            };
            let mut changed = 0;
            for place in 0..1024 {
                let same = found.pixels[3 * place..3 * place + 3]
                    == under.pixels[3 * place..3 * place + 3];
                assert!(same || inside(place % 32, place / 32));
                changed += usize::from(!same);
            }
            assert!(changed > 30, "{changed}");
        }
        assert_eq!((over(100, 0), over(100, 255), over(100, 51), over(0, 128)), (100, 255, 90, 64));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (settings, expected) in [
            ("unique=0", "`unique` of `digits-on` must be a whole number from 1 to"),
            ("unique=7000", "labelled digits, 7000 of them; it has 6000"),
            ("cells=10", "must be a square number"),
            ("cells=9&count=10", "`count` of `digits-on` must be a whole number from 1 to 9"),
            ("label=both", "must be one of `object`, `digit`, found `both`"),
            ("variant=glue", "must be one of `copies`, `blend`"),
            ("digit=5", "`digits-on` has no setting `digit`, expected `digits`, `unique`"),
        ] {
            let place = format!("{BASE}?digits=synthetic:digits&{settings}");
            let text = failure(Path::new(&place));
            assert!(text.contains(expected), "{text}");
        }
        let text = failure(Path::new(&format!("{BASE}?unique=3")));
        assert!(
            text.contains("`digits` of digits-on") && text.contains("as in `digits-on:"),
            "{text}"
        );
        let text = failure(Path::new("digits-on:?digits=synthetic:digits"));
        assert!(text.contains("needs a source it is made of"), "{text}");
        let large = opened("digit_px=9");
        let text = failure_of(large.split("train").unwrap().image(0));
        assert!(
            text.contains("three digits of 9 px do not fit") && text.contains("8 px would"),
            "{text}"
        );
    }
}
