//! Colours of groups.

use crate::analyze::palette::{Color, Palette as Ten};
use serde::{Deserialize, Serialize};

/// Which colours groups have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Palette {
    /// Ten that readers of any colour vision can tell apart (Petroff 2021, arXiv:2107.02270).
    #[default]
    Accessible,
    /// The ten in which most published maps are drawn, matplotlib's `tab10`.
    Tab10,
}

const TAB10: [Color; 10] = [
    [31, 119, 180],
    [255, 127, 14],
    [44, 160, 44],
    [214, 39, 40],
    [148, 103, 189],
    [140, 86, 75],
    [227, 119, 194],
    [127, 127, 127],
    [188, 189, 34],
    [23, 190, 207],
];

impl Palette {
    /// All, in the order in which a page offers them.
    pub const ALL: [Self; 2] = [Self::Accessible, Self::Tab10];

    /// What a page calls it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Accessible => "for all eyes",
            Self::Tab10 => "tab10",
        }
    }

    /// A colour for each of some groups: the ten of the palette, or, where there are more groups, as many hues in turns of
    /// three lightnesses. No two are the same up to 150, but of so many no eye tells all apart.
    pub fn colors(self, groups: usize) -> Vec<Color> {
        let ten = match self {
            Self::Accessible => Ten::Accessible.colors(),
            Self::Tab10 => TAB10,
        };
        if groups <= ten.len() {
            return ten[..groups].to_vec();
        }
        (0..groups).map(wheel).collect()
    }
}

/// Colour `at` of a sequence in which the next is far from the last: the hue goes on by the golden angle.
fn wheel(at: usize) -> Color {
    let hue = (at as f64 * 137.507_764).to_radians();
    let (lightness, chroma) = [(0.62, 0.17), (0.76, 0.14), (0.48, 0.15)][at % 3];
    // OKLCH to linear red, green and blue (Ottosson 2020).
    let (a, b) = (chroma * hue.cos(), chroma * hue.sin());
    let [l, m, s] = [
        lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b,
        lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b,
        lightness - 0.089_484_177_5 * a - 1.291_485_548_0 * b,
    ]
    .map(|root| root.powi(3));
    [
        4.076_741_662_1 * l - 3.307_711_591_3 * m + 0.230_969_929_2 * s,
        -1.268_438_004_6 * l + 2.609_757_401_1 * m - 0.341_319_396_5 * s,
        -0.004_196_086_3 * l - 0.703_418_614_7 * m + 1.707_614_701_0 * s,
    ]
    .map(|linear| {
        let linear = linear.clamp(0.0, 1.0);
        let value = if linear <= 0.003_130_8 {
            12.92 * linear
        } else {
            1.055 * linear.powf(1.0 / 2.4) - 0.055
        };
        (255.0 * value).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn colours_differ_and_none_is_nearly_black_or_white() {
        for groups in [1, 10, 11, 100, 150] {
            for palette in Palette::ALL {
                let colors = palette.colors(groups);
                assert_eq!(colors.len(), groups);
                assert_eq!(colors.iter().collect::<BTreeSet<_>>().len(), groups, "{groups}");
                for color in colors {
                    let sum: u32 = color.iter().map(|value| u32::from(*value)).sum();
                    assert!((100..690).contains(&sum), "{color:?}");
                }
            }
        }
        assert_eq!(serde_json::to_value(Palette::Accessible).unwrap(), "accessible");
    }
}
