//! `multi-digits:MNIST?variant=grid&count=12`: several digits on one black canvas, for which an instance has no one label.
//!
//! | variant | what is put on the canvas |
//! |---|---|
//! | `grid` | `count` of `cells` cells, chosen anew for each image, a digit in each; with `repeat=true` the same |
//! | `place` | `count` digits, each cropped to what is lit, at places drawn uniformly; they may overlap |
//! | `sizes` | two digits, cropped: one brought to 20 px, which goes on top, one to `large` px or to 20, 30, … 80 by chance |
//!
//! As built by the replication (repo mona251/Intriguing-Properties-of-Contrastive-Losses, `src/data_generation/`): a canvas of
//! 112 px, values added and cut off at 255. It drops the labels; here [`crate::data::Dataset::objects`] lists the digits in
//! order of placement, and an image that shows one class only, or that tells its digits apart by size, has a label.

use super::digits::{DigitSets, Digits, Glyph};
use super::{base, draws, fingerprint};
use crate::data::options::Options;
use crate::data::{Dataset, Image, Object, Source};
use crate::error::{Error, Result};
use crate::random::Stream;
use std::sync::Arc;

/// Side of the small digit of the variant `sizes`, in pixels.
const SMALL: usize = 20;

/// What is put on a canvas.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Variant {
    Grid { across: usize, count: usize, repeat: bool },
    Place { count: usize },
    Sizes { large: Option<usize>, label: Label },
}

/// Which digit of two sizes is the label.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Label {
    Small,
    Large,
}

#[derive(Clone, Copy)]
enum Kind {
    Grid,
    Place,
    Sizes,
}

impl Variant {
    fn read(options: &mut Options<'_>, canvas: usize) -> Result<Self> {
        let kinds = [("grid", Kind::Grid), ("place", Kind::Place), ("sizes", Kind::Sizes)];
        Ok(match options.word("variant", &kinds)? {
            Kind::Grid => {
                let cells: usize = options.number("cells", 1..=1024)?.unwrap_or(16);
                let across = cells.isqrt();
                if across * across != cells || canvas / across < 4 {
                    return Err(Error::Data(format!(
                        "`cells` of `multi-digits` must be a square number such as 16 that leaves at least 4 px a cell, found \
                         `{cells}` on {canvas} px"
                    )));
                }
                let count = options.number("count", 1..=cells)?.unwrap_or(cells.min(12));
                let repeat = options.word("repeat", &[("false", false), ("true", true)])?;
                Self::Grid { across, count, repeat }
            }
            Kind::Place => Self::Place { count: options.number("count", 1..=256)?.unwrap_or(8) },
            Kind::Sizes => {
                let large = options.number("large", 4..=canvas - 4)?;
                let words = [("small", Label::Small), ("large", Label::Large)];
                Self::Sizes { large, label: options.word("label", &words)? }
            }
        })
    }

    /// Digits of an image that differ.
    fn different(self) -> usize {
        match self {
            Self::Grid { .. } => 1,
            Self::Place { count } => count,
            Self::Sizes { .. } => 2,
        }
    }
}

/// Opens digits and puts several on each canvas.
pub(super) fn open(location: &str, options: &mut Options<'_>) -> Result<Source> {
    let digits = base("multi-digits", location, "multi-digits:mnist/?variant=grid&count=12")?;
    let canvas = options.number("canvas", 96..=1024)?.unwrap_or(112);
    let variant = Variant::read(options, canvas)?;
    let unique = options.number("unique", 1..=u32::MAX as usize)?;
    let seed = options.number("seed", 0..=u64::MAX)?.unwrap_or(0);
    let sets = DigitSets::of(&digits, unique)?;
    let train = options.number("train", 1..=10_000_000)?.unwrap_or(sets.training.len());
    let test = options.number("test", 1..=10_000_000)?.unwrap_or(sets.others.len());
    let fewest = sets.training.len().min(sets.others.len());
    if variant.different() > fewest {
        return Err(Error::Data(format!(
            "`multi-digits` needs {} different digits for an image, `{location}` gives {fewest}",
            variant.different()
        )));
    }
    let said = format!("{variant:?} {canvas} {unique:?} {train} {test} {seed}");
    let split = |number, name: &'static str, images, digits: &Digits| {
        let digits = digits.clone();
        let made = MultiDigits { digits, number, name, images, variant, canvas, seed };
        (name.to_owned(), Arc::new(made) as Arc<dyn Dataset>)
    };
    Ok(Source {
        format: format!("several digits of {}, {}", digits.format, sets.said()),
        location: String::new(),
        splits: vec![
            split(0, "train", train, &sets.training),
            split(1, "test", test, &sets.others),
        ],
        fingerprint: fingerprint(&serde_json::json!(["multi-digits", digits.fingerprint, said])),
        classes: digits.classes,
    })
}

/// One split.
struct MultiDigits {
    digits: Digits,
    number: usize,
    name: &'static str,
    images: usize,
    variant: Variant,
    canvas: usize,
    seed: u64,
}

impl MultiDigits {
    fn draws(&self, index: usize) -> Stream {
        assert!(index < self.images, "image {index} of {}", self.images);
        draws(self.seed, self.number, index)
    }

    /// The digits of an image, of which there are no two the same, and what else is drawn for it.
    fn chosen(&self, index: usize, count: usize) -> (Vec<usize>, Stream) {
        let mut draws = self.draws(index);
        let mut chosen = Vec::with_capacity(count);
        while chosen.len() < count {
            let digit = draws.below(self.digits.len() as u64) as usize;
            if !chosen.contains(&digit) {
                chosen.push(digit);
            }
        }
        (chosen, draws)
    }

    /// What is put on a canvas, in order, and where its left upper corner goes.
    fn layout(&self, index: usize) -> Result<Vec<(Glyph, [usize; 2])>> {
        match self.variant {
            Variant::Grid { across, count, repeat } => {
                let mut draws = self.draws(index);
                let mut cells = draws.permutation(across * across);
                cells.truncate(count);
                let side = self.canvas / across;
                let pick = |draws: &mut Stream| draws.below(self.digits.len() as u64) as usize;
                let same = repeat.then(|| pick(&mut draws));
                let put = |cell: usize| {
                    let glyph = self.digits.glyph(same.unwrap_or_else(|| pick(&mut draws)))?;
                    Ok((glyph.resized(side, side), [cell % across * side, cell / across * side]))
                };
                cells.into_iter().map(put).collect()
            }
            Variant::Place { count } => {
                let (chosen, mut draws) = self.chosen(index, count);
                let put = |digit: usize| {
                    let glyph = self.digits.glyph(digit)?.cropped();
                    let place = self.place(&glyph, &mut draws)?;
                    Ok((glyph, place))
                };
                chosen.into_iter().map(put).collect()
            }
            Variant::Sizes { large, .. } => {
                let (chosen, mut draws) = self.chosen(index, 2);
                let side = large.unwrap_or_else(|| 10 * (2 + draws.below(7) as usize));
                let sized = |digit: usize, side: usize| {
                    Ok(self.digits.glyph(digit)?.resized(side, side).cropped())
                };
                let (large, small) = (sized(chosen[1], side)?, sized(chosen[0], SMALL)?);
                let places = [self.place(&large, &mut draws)?, self.place(&small, &mut draws)?];
                Ok(vec![(large, places[0]), (small, places[1])])
            }
        }
    }

    /// Where a digit goes: its middle is drawn from ⌊side/2⌋ + 1 to canvas − ⌊side/2⌋ − 2 on either axis.
    fn place(&self, glyph: &Glyph, draws: &mut Stream) -> Result<[usize; 2]> {
        let mut along = |side: usize| {
            let room = (self.canvas as u64).saturating_sub(2 * (side as u64 / 2) + 2);
            if room == 0 {
                return Err(Error::Data(format!(
                    "a digit of {}x{} px has no room on {} px; raise `canvas`",
                    glyph.width, glyph.height, self.canvas
                )));
            }
            Ok(1 + draws.below(room) as usize)
        };
        let top = along(glyph.height)?;
        Ok([along(glyph.width)?, top])
    }
}

impl Dataset for MultiDigits {
    fn len(&self) -> usize {
        self.images
    }

    fn label(&self, index: usize) -> Option<u32> {
        let digit = match self.variant {
            Variant::Grid { count, repeat, .. } if repeat || count == 1 => {
                return Some(self.layout(index).ok()?.first()?.0.class);
            }
            Variant::Place { count: 1 } => self.chosen(index, 1).0[0],
            Variant::Sizes { label: Label::Small, .. } => self.chosen(index, 2).0[0],
            Variant::Sizes { label: Label::Large, .. } => self.chosen(index, 2).0[1],
            Variant::Grid { .. } | Variant::Place { .. } => return None,
        };
        self.digits.class(digit).ok()
    }

    fn path(&self, index: usize) -> String {
        format!("{}/{index:06}", self.name)
    }

    fn image(&self, index: usize) -> Result<Image> {
        let side = self.canvas;
        let mut image = Image { width: side, height: side, pixels: vec![0; 3 * side * side] };
        for (glyph, place) in self.layout(index)? {
            glyph.put(&mut image, place, u8::saturating_add);
        }
        Ok(image)
    }

    fn objects(&self, index: usize) -> Result<Vec<Object>> {
        let object = |(glyph, [x, y]): (Glyph, [usize; 2])| {
            let Glyph { class, item, side, width, height, .. } = glyph;
            Object { class, item, side, bounds: [x, y, width, height] }
        };
        Ok(self.layout(index)?.into_iter().map(object).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::failure;
    use crate::data::{multi_hot, open};
    use std::path::Path;

    fn opened(settings: &str) -> Source {
        open(&format!("multi-digits:synthetic:digits?{settings}")).unwrap()
    }

    /// The picture that a list of objects describes, made from the digits themselves.
    fn rebuilt(objects: &[Object], bank: &dyn Dataset) -> Vec<u32> {
        let mut canvas = vec![0; 112 * 112];
        for Object { item, bounds: [left, top, width, height], .. } in objects {
            let digit = bank.image(*item).unwrap();
            let lit: Vec<usize> = (0..784).filter(|place| digit.pixels[3 * place] > 0).collect();
            let whole = (*width, *height) == (28, 28);
            let first_row = if whole { 0 } else { lit.iter().map(|p| p / 28).min().unwrap() };
            let first_column = if whole { 0 } else { lit.iter().map(|p| p % 28).min().unwrap() };
            for (y, x) in (0..*height).flat_map(|y| (0..*width).map(move |x| (y, x))) {
                let value = digit.pixels[3 * ((first_row + y) * 28 + first_column + x)];
                canvas[(top + y) * 112 + left + x] += u32::from(value);
            }
        }
        canvas.into_iter().map(|value| value.min(255)).collect()
    }

    fn grey(image: &Image) -> Vec<u32> {
        assert_eq!((image.width, image.height), (112, 112));
        image.pixels.as_chunks::<3>().0.iter().map(|[value, ..]| u32::from(*value)).collect()
    }

    #[test]
    fn a_grid_shows_a_digit_in_each_chosen_cell() {
        let (source, bank) = (opened("train=30"), open("synthetic:digits").unwrap());
        let (train, bank) = (source.split("train").unwrap(), bank.split("train").unwrap());
        assert_eq!((train.len(), source.split("test").unwrap().len()), (30, 1_000));
        let mut filled = [0; 16];
        for index in 0..30 {
            let objects = train.objects(index).unwrap();
            assert_eq!(objects.len(), 12);
            let cells: std::collections::BTreeSet<usize> = objects
                .iter()
                .map(|it| {
                    let [left, top, width, height] = it.bounds;
                    assert_eq!((left % 28, top % 28, width, height, it.side), (0, 0, 28, 28, 28));
                    assert_eq!(bank.label(it.item), Some(it.class));
                    top / 28 * 4 + left / 28
                })
                .collect();
            assert_eq!(cells.len(), 12);
            for cell in cells {
                filled[cell] += 1;
            }
            assert_eq!(grey(&train.image(index).unwrap()), rebuilt(&objects, bank.as_ref()));
            assert_eq!(train.label(index), None);
            let hot = multi_hot(train.as_ref(), index, 10).unwrap();
            assert!(
                (0..10)
                    .all(|class| hot[class] == objects.iter().any(|it| it.class == class as u32))
            );
        }
        // 30 · 12/16 is 22.5.
        assert!(filled.iter().all(|count| (12..=30).contains(count)), "{filled:?}");
    }

    #[test]
    fn one_digit_or_one_repeated_is_a_label() {
        for settings in
            ["count=1&train=20", "repeat=true&train=20", "variant=place&count=1&train=20"]
        {
            let source = opened(settings);
            let train = source.split("train").unwrap();
            for index in 0..20 {
                let objects = train.objects(index).unwrap();
                assert!(
                    objects.iter().all(|it| Some(it.class) == train.label(index)),
                    "{settings}"
                );
                assert!(objects.iter().all(|it| it.item == objects[0].item));
            }
        }
    }

    #[test]
    fn placed_digits_are_cropped_differ_and_stay_inside() {
        let (source, bank) = (opened("variant=place&train=40"), open("synthetic:digits").unwrap());
        let (train, bank) = (source.split("train").unwrap(), bank.split("train").unwrap());
        for index in 0..40 {
            let objects = train.objects(index).unwrap();
            let items: std::collections::BTreeSet<usize> =
                objects.iter().map(|it| it.item).collect();
            assert_eq!((items.len(), objects.len()), (8, 8));
            for it in &objects {
                let [left, top, width, height] = it.bounds;
                assert!(left >= 1 && top >= 1 && left + width < 112 && top + height < 112);
                // From ⌊h/2⌋ + 1 to H − ⌊h/2⌋ − 2, both ends included.
                assert!((height / 2 + 1..=110 - height / 2).contains(&(top + height / 2)));
                assert_eq!(it.side, 28);
            }
            assert_eq!(grey(&train.image(index).unwrap()), rebuilt(&objects, bank.as_ref()));
        }
    }

    #[test]
    fn of_two_sizes_the_small_one_lies_on_top_and_either_is_the_label() {
        let small = opened("variant=sizes&train=200");
        let large = opened("variant=sizes&train=200&label=large");
        let (small, large) = (small.split("train").unwrap(), large.split("train").unwrap());
        let mut sides = [0; 9];
        for index in 0..200 {
            let objects = small.objects(index).unwrap();
            assert_eq!((objects.len(), objects[1].side), (2, 20));
            assert_ne!(objects[0].item, objects[1].item);
            assert_eq!(small.label(index), Some(objects[1].class));
            assert_eq!(large.label(index), Some(objects[0].class));
            assert_eq!(small.image(index).unwrap(), large.image(index).unwrap());
            assert_eq!(objects[0].side % 10, 0);
            sides[objects[0].side / 10] += 1;
            let [_, _, width, height] = objects[0].bounds;
            assert!(width.max(height) <= objects[0].side && height * 3 > objects[0].side);
        }
        assert!(
            sides[..2] == [0, 0] && sides[2..].iter().all(|count| (10..=60).contains(count)),
            "{sides:?}"
        );
        let fixed = opened("variant=sizes&large=50&train=5");
        let fixed = fixed.split("train").unwrap();
        assert!((0..5).all(|index| fixed.objects(index).unwrap()[0].side == 50));
    }

    #[test]
    fn an_image_depends_on_seed_and_index_only_and_splits_have_digits_of_their_own() {
        let (one, longer) = (opened("train=5&test=5"), opened("train=50&test=5"));
        let (train, test) = (one.split("train").unwrap(), one.split("test").unwrap());
        for index in 0..5 {
            assert_eq!(
                train.image(index).unwrap(),
                longer.split("train").unwrap().image(index).unwrap()
            );
            assert_ne!(train.image(index).unwrap(), test.image(index).unwrap());
        }
        assert_ne!(one.fingerprint, longer.fingerprint);
        let other = opened("train=5&test=5&seed=1");
        assert_ne!(other.split("train").unwrap().image(0).unwrap(), train.image(0).unwrap());
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        for (settings, expected) in [
            ("variant=ring", "must be one of `grid`, `place`, `sizes`, found `ring`"),
            ("cells=15", "`cells` of `multi-digits` must be a square number"),
            ("cells=16&count=17", "a whole number from 1 to 16"),
            (
                "variant=place&count=9&unique=8",
                "needs 9 different digits for an image, `synthetic:digits` gives 8",
            ),
            (
                "variant=place&repeat=true",
                "has no setting `repeat`, expected `canvas`, `variant`, `count`",
            ),
            ("canvas=95", "from 96 to 1024, found `95`"),
            ("variant=sizes&large=109", "from 4 to 108, found `109`"),
            ("train=0", "found `0`"),
        ] {
            let text = failure(Path::new(&format!("multi-digits:synthetic:digits?{settings}")));
            assert!(text.contains(expected), "{text}");
        }
        let text = failure(Path::new("multi-digits:?variant=grid"));
        assert!(text.contains("as in `multi-digits:mnist/"), "{text}");
    }
}
