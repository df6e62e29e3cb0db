//! `random-bits:BASE?bits=10`: bits that both views of an image share, in channels of their own, beside what it shows.
//!
//! As in the original (repo google-research/simclr, `randbits_mnist.ipynb`): the bits are those of a number that is a hash of
//! the image, the lowest first, 0 or 1 at every pixel of a channel; queries of an evaluation have them as well. Departure: the
//! hash is seeded and of the decoded pixels, where the notebook's is of the file, so it does not depend on how images are
//! stored; `of=index` takes the index in place of the image.

use super::{base, draws, fingerprint};
use crate::data::options::Options;
use crate::data::{Dataset, Image, Object, Presence, Source};
use crate::error::{Error, Result};
use std::sync::Arc;

/// What the bits are a function of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Of {
    Pixels,
    Index,
}

/// Opens a base and adds channels; with `bits=0` it is the base itself.
pub(super) fn open(location: &str, options: &mut Options<'_>) -> Result<Source> {
    let bits: Option<usize> = options.number("bits", 0..=64)?;
    let of = options.word("of", &[("pixels", Of::Pixels), ("index", Of::Index)])?;
    let seed = options.number("seed", 0..=u64::MAX)?.unwrap_or(0);
    let Some(bits) = bits else {
        return Err(Error::Data(
            "`random-bits` needs the number of bits, as in `random-bits:mnist/?bits=10`".to_owned(),
        ));
    };
    let under = base("random-bits", location, "random-bits:mnist/?bits=10")?;
    if bits == 0 {
        return Ok(under);
    }
    let splits = under.splits.iter().enumerate().map(|(number, (name, split))| {
        let made = RandomBits { under: split.clone(), number, bits, of, seed };
        (name.clone(), Arc::new(made) as Arc<dyn Dataset>)
    });
    Ok(Source {
        format: format!("{}, {bits} random bits", under.format),
        location: String::new(),
        splits: splits.collect(),
        fingerprint: fingerprint(&serde_json::json!([
            "random-bits",
            under.fingerprint,
            bits,
            format!("{of:?}"),
            seed
        ])),
        classes: under.classes,
    })
}

/// One split.
struct RandomBits {
    under: Arc<dyn Dataset>,
    number: usize,
    bits: usize,
    of: Of,
    seed: u64,
}

impl RandomBits {
    /// The number whose lowest bits are shown.
    fn number(&self, index: usize, image: &Image) -> u64 {
        if self.of == Of::Index {
            return draws(self.seed, self.number, index).next_u64();
        }
        let mut hash = blake3::Hasher::new();
        for number in [self.seed, image.width as u64, image.height as u64] {
            hash.update(&number.to_le_bytes());
        }
        let hash = *hash.update(&image.pixels).finalize().as_bytes();
        u64::from_le_bytes(*hash.first_chunk().expect("a hash has 32 bytes"))
    }
}

impl Dataset for RandomBits {
    fn len(&self) -> usize {
        self.under.len()
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.under.label(index)
    }

    fn presence(&self, index: usize) -> Option<Vec<Presence>> {
        self.under.presence(index)
    }

    fn path(&self, index: usize) -> String {
        self.under.path(index)
    }

    fn image(&self, index: usize) -> Result<Image> {
        self.under.image(index)
    }

    fn part_mask(&self, index: usize) -> Option<Vec<u8>> {
        self.under.part_mask(index)
    }

    fn codec(&self, index: usize) -> Option<&'static str> {
        self.under.codec(index)
    }

    fn objects(&self, index: usize) -> Result<Vec<Object>> {
        self.under.objects(index)
    }

    fn constant_channels(&self) -> usize {
        self.under.constant_channels() + self.bits
    }

    fn constants(&self, index: usize, image: &Image) -> Vec<u8> {
        let number = self.number(index, image);
        let mut values = self.under.constants(index, image);
        values.extend((0..self.bits).map(|bit| if number >> bit & 1 == 1 { 255 } else { 0 }));
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::open;
    use crate::data::testing::failure;
    use std::path::Path;

    const BASE: &str = "synthetic:digits?train=2048&test=64";

    fn opened(settings: &str) -> Source {
        open(&format!("random-bits:{BASE}?{settings}")).unwrap()
    }

    fn constants(source: &Source, split: &str, index: usize) -> Vec<u8> {
        let split = source.split(split).unwrap();
        split.constants(index, &split.image(index).unwrap())
    }

    #[test]
    fn no_bits_are_the_plain_data_set() {
        let (plain, none) = (open(BASE).unwrap(), opened("bits=0"));
        assert_eq!((&none.fingerprint, &none.format), (&plain.fingerprint, &plain.format));
        let (plain, none) = (plain.split("test").unwrap(), none.split("test").unwrap());
        assert_eq!(none.constant_channels(), 0);
        for index in 0..64 {
            assert_eq!(none.image(index).unwrap(), plain.image(index).unwrap());
            assert!(constants(&opened("bits=0"), "test", index).is_empty());
        }
    }

    #[test]
    fn the_image_stays_and_the_lowest_bits_come_first() {
        let (plain, few, many) = (open(BASE).unwrap(), opened("bits=3"), opened("bits=20"));
        let plain = plain.split("test").unwrap();
        for index in 0..64 {
            let split = many.split("test").unwrap();
            assert_eq!(split.image(index).unwrap(), plain.image(index).unwrap());
            assert_eq!(split.label(index), plain.label(index));
            let values = constants(&many, "test", index);
            assert_eq!((values.len(), split.constant_channels()), (20, 20));
            assert!(values.iter().all(|value| [0, 255].contains(value)));
            assert_eq!(constants(&few, "test", index), values[..3]);
        }
    }

    /// 2,048 numbers of 3 bits: each of the 8 is met 256 times, give or take 5σ = 75.
    #[test]
    fn numbers_are_spread_evenly_whatever_they_are_of() {
        for settings in ["bits=3", "bits=3&of=index", "bits=3&seed=7"] {
            let source = opened(settings);
            let mut met = [0; 8];
            for index in 0..2048 {
                let values = constants(&source, "train", index);
                let number =
                    (0..3).map(|bit| usize::from(values[bit] == 255) << bit).sum::<usize>();
                met[number] += 1;
            }
            assert!(met.iter().all(|count| (181..=331).contains(count)), "{settings}: {met:?}");
        }
    }

    #[test]
    fn bits_follow_the_pixels_the_index_or_another_seed() {
        let of = |settings: &str| -> Vec<Vec<u8>> {
            (0..32).map(|index| constants(&opened(settings), "train", index)).collect()
        };
        let by_pixels = of("bits=20");
        assert_eq!(by_pixels, of("bits=20"));
        assert!(by_pixels != of("bits=20&of=index") && by_pixels != of("bits=20&seed=1"));
        // A part of the data has the bits of the whole.
        let source = opened("bits=20&of=index");
        let part =
            crate::data::subset::Subset::new(source.split("train").unwrap().clone(), vec![9, 4]);
        let part = part.unwrap();
        assert_eq!(part.constant_channels(), 20);
        assert_eq!(part.constants(1, &part.image(1).unwrap()), constants(&source, "train", 4));
        let twice = open(&format!("random-bits:random-bits:{BASE}?bits=2?bits=3&seed=1")).unwrap();
        assert_eq!(twice.split("train").unwrap().constant_channels(), 5);
        assert_eq!(constants(&twice, "train", 0)[..2], by_pixels[0][..2]);
    }

    #[test]
    fn settings_are_checked() {
        for (spec, expected) in [
            ("random-bits:synthetic:digits", "needs the number of bits"),
            ("random-bits:synthetic:digits?bits=65", "from 0 to 64, found `65`"),
            ("random-bits:synthetic:digits?bits=3&of=name", "one of `pixels`, `index`"),
            ("random-bits:synthetic:digits?bits=3&hash=1", "expected `bits`, `of` or `seed`"),
            ("random-bits:?bits=3", "needs a source it is made of"),
            ("random-bits:no/such/thing?bits=3", "`no/such/thing` does not exist"),
        ] {
            let text = failure(Path::new(spec));
            assert!(text.contains(expected), "{spec}: {text}");
        }
    }
}
