//! How much of a network stays as it is while something is learned above it.

use super::BlockGroup;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// What of a network stays, in evaluation mode and without a graph. Written `false`, `true`, or the last part that stays:
/// `stem`, `group1`, `group2` or `group3` (google-research/simclr, `fine_tune_after_block` -1, 4, and 0 to 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Frozen {
    /// All of it is trained.
    #[default]
    Nothing,
    /// The stem and the groups up to this one stay; at least one group is trained.
    Through(BlockGroup),
    /// All of it stays.
    All,
}

/// How far a network may be frozen in part.
const PARTS: [(&str, BlockGroup); 4] = [
    ("stem", BlockGroup::Stem),
    ("group1", BlockGroup::Group1),
    ("group2", BlockGroup::Group2),
    ("group3", BlockGroup::Group3),
];

impl Frozen {
    /// Whether this part stays.
    pub fn holds(self, part: BlockGroup) -> bool {
        match self {
            Self::Nothing => false,
            Self::Through(last) => part <= last,
            Self::All => true,
        }
    }

    /// How the names of all tensors that stay begin, below the network's place; all names begin so where all stays.
    pub fn prefixes(self) -> Vec<String> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Through(last) => {
                let stem = ["conv1", "bn1"].map(str::to_owned);
                stem.into_iter().chain((1..=last as usize).map(|n| format!("layer{n}."))).collect()
            }
            Self::All => vec![String::new()],
        }
    }
}

impl Serialize for Frozen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nothing => serializer.serialize_bool(false),
            Self::Through(last) => last.serialize(serializer),
            Self::All => serializer.serialize_bool(true),
        }
    }
}

impl<'de> Deserialize<'de> for Frozen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;

        impl Visitor<'_> for Reading {
            type Value = Frozen;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "false, true, or the last part that stays: stem, group1, group2 or group3",
                )
            }

            fn visit_bool<E: de::Error>(self, all: bool) -> Result<Frozen, E> {
                Ok(if all { Frozen::All } else { Frozen::Nothing })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Frozen, E> {
                let part = PARTS.iter().find(|(name, _)| *name == text);
                let unknown = || E::invalid_value(de::Unexpected::Str(text), &self);
                part.map(|(_, part)| Frozen::Through(*part)).ok_or_else(unknown)
            }
        }

        deserializer.deserialize_any(Reading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Settings {
        frozen: Frozen,
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        for (text, frozen) in [
            ("false", Frozen::Nothing),
            ("true", Frozen::All),
            ("\"stem\"", Frozen::Through(BlockGroup::Stem)),
            ("\"group3\"", Frozen::Through(BlockGroup::Group3)),
        ] {
            let text = format!("frozen = {text}\n");
            let found: Settings = toml::from_str(&text).unwrap();
            assert_eq!(found, Settings { frozen });
            assert_eq!(toml::to_string(&found).unwrap(), text);
        }
        for wrong in ["\"group4\"", "\"layer1\"", "2"] {
            let error = toml::from_str::<Settings>(&format!("frozen = {wrong}")).unwrap_err();
            assert!(error.message().contains("stem, group1, group2 or group3"), "{error}");
        }
    }

    #[test]
    fn parts_stay_from_the_images_on() {
        let through = Frozen::Through(BlockGroup::Group2);
        let parts = [BlockGroup::Stem, BlockGroup::Group1, BlockGroup::Group2, BlockGroup::Group3];
        assert_eq!(parts.map(|part| through.holds(part)), [true, true, true, false]);
        assert!(Frozen::All.holds(BlockGroup::Group4) && !Frozen::Nothing.holds(BlockGroup::Stem));
        assert_eq!(through.prefixes(), ["conv1", "bn1", "layer1.", "layer2."]);
    }
}
