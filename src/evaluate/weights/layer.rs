//! Where features are taken.

use crate::error::{Error, Result};
use crate::model::BlockGroup;

/// Where features are taken; maps are averaged over their rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The output of the stem or of a block group.
    Block(BlockGroup),
    /// The features behind the global average pool, which every image-level protocol uses.
    H,
    /// The output of a layer of the projector, counted from 1, behind its batch norm and `ReLU`.
    Projector(u8),
    /// The projections, not normalised.
    Z,
}

/// Names of the block groups, as in records and feature files.
const BLOCKS: [(&str, BlockGroup); 5] = [
    ("stem", BlockGroup::Stem),
    ("block1", BlockGroup::Group1),
    ("block2", BlockGroup::Group2),
    ("block3", BlockGroup::Group3),
    ("block4", BlockGroup::Group4),
];

impl Layer {
    /// A layer by its name: h, stem, block1 to block4, g1 (first layer of the projector) and so on, z.
    ///
    /// # Errors
    /// [`Error::Recipe`] listing the names.
    pub fn named(name: &str) -> Result<Self> {
        let block = BLOCKS.iter().find(|(known, _)| *known == name);
        let place = name.strip_prefix('g').and_then(|number| number.parse().ok());
        match (name, block, place) {
            ("h", ..) => Ok(Self::H),
            ("z", ..) => Ok(Self::Z),
            (_, Some((_, group)), _) => Ok(Self::Block(*group)),
            (_, _, Some(place @ 1..)) => Ok(Self::Projector(place)),
            _ => {
                let names = BLOCKS.map(|(name, _)| name).join(", ");
                Err(Error::Recipe(format!(
                    "`--layer` must be one of h, {names}, g1 (of the projector) and so on, z, found `{name}`"
                )))
            }
        }
    }

    /// Its name.
    pub fn name(self) -> String {
        match self {
            Self::H => "h".to_owned(),
            Self::Z => "z".to_owned(),
            Self::Projector(place) => format!("g{place}"),
            Self::Block(group) => {
                let found = BLOCKS.iter().find(|(_, known)| *known == group);
                found.map_or_else(String::new, |(name, _)| (*name).to_owned())
            }
        }
    }

    /// Whether it lies behind the backbone.
    pub fn is_of_head(self) -> bool {
        matches!(self, Self::Projector(_) | Self::Z)
    }
}
