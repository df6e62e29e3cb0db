//! Ten colours for ten groups: a sequence that colour-blind readers can tell apart, and the published one.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Red, green and blue, 0 to 255.
pub type Color = [u8; 3];

/// A sequence of ten colours; group `j` has colour `j`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Palette {
    /// Ten colours chosen so that readers with any kind of colour vision can tell them apart (Petroff 2021,
    /// arXiv:2107.02270, ten colours).
    #[default]
    Accessible,
    /// Those of "\[Re\] Intriguing Properties of Contrastive Losses".
    Published,
}

const ACCESSIBLE: [(&str, Color); 10] = [
    ("blue", [63, 144, 218]),
    ("amber", [255, 169, 14]),
    ("crimson", [189, 31, 1]),
    ("grey", [148, 164, 162]),
    ("purple", [131, 45, 182]),
    ("brown", [169, 107, 89]),
    ("orange", [231, 99, 0]),
    ("khaki", [185, 172, 112]),
    ("slate", [113, 117, 129]),
    ("light blue", [146, 218, 221]),
];

const PUBLISHED: [(&str, Color); 10] = [
    ("blue", [0, 76, 153]),
    ("orange", [255, 178, 102]),
    ("red", [255, 102, 102]),
    ("light blue", [102, 255, 255]),
    ("green", [0, 153, 76]),
    ("yellow", [255, 255, 153]),
    ("violet", [204, 153, 255]),
    ("pink", [255, 153, 153]),
    ("black", [0, 0, 0]),
    ("white", [255, 255, 255]),
];

impl Palette {
    /// Names and colours in order.
    pub fn entries(self) -> &'static [(&'static str, Color); 10] {
        match self {
            Self::Accessible => &ACCESSIBLE,
            Self::Published => &PUBLISHED,
        }
    }

    /// The colours in order.
    pub fn colors(self) -> [Color; 10] {
        self.entries().map(|(_, color)| color)
    }

    /// Whether there are colours for so many groups; they do not start over.
    ///
    /// # Errors
    /// [`Error::Recipe`] above ten.
    pub fn check(self, groups: usize) -> Result<()> {
        let most = self.entries().len();
        if groups <= most {
            return Ok(());
        }
        Err(Error::Recipe(format!(
            "{groups} clusters need {groups} colours, a palette has {most}; ask for at most {most} clusters"
        )))
    }
}

/// A colour as SVG and CSS write it.
pub fn hex([red, green, blue]: Color) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How red-, green- and blue-blind people see linear red, green and blue (Machado, Oliveira and Fernandes 2009,
    /// severity 1).
    const SEEN: [[[f64; 3]; 3]; 4] = [
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [
            [0.152_286, 1.052_583, -0.204_868],
            [0.114_503, 0.786_281, 0.099_216],
            [-0.003_882, -0.048_116, 1.051_998],
        ],
        [
            [0.367_322, 0.860_646, -0.227_968],
            [0.280_085, 0.672_501, 0.047_413],
            [-0.011_820, 0.042_940, 0.968_881],
        ],
        [
            [1.255_528, -0.076_749, -0.178_779],
            [-0.078_411, 0.930_809, 0.147_602],
            [0.004_733, 0.691_367, 0.303_900],
        ],
    ];

    fn times(matrix: &[[f64; 3]; 3], v: [f64; 3]) -> [f64; 3] {
        matrix.map(|row| row.iter().zip(v).map(|(m, v)| m * v).sum())
    }

    /// CIE L*a*b* of a colour as it is seen.
    fn lab(color: Color, seen: &[[f64; 3]; 3]) -> [f64; 3] {
        let linear = color.map(|value| {
            let value = f64::from(value) / 255.0;
            if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        });
        let linear = times(seen, linear).map(|value| value.clamp(0.0, 1.0));
        let xyz = times(
            &[
                [0.412_456_4, 0.357_576_1, 0.180_437_5],
                [0.212_672_9, 0.715_152_2, 0.072_175_0],
                [0.019_333_9, 0.119_192_0, 0.950_304_1],
            ],
            linear,
        );
        let white = [0.950_47, 1.0, 1.088_83];
        let f = |at: usize| {
            let t = xyz[at] / white[at];
            if t > 216.0 / 24_389.0 { t.cbrt() } else { (24_389.0 / 27.0 * t + 16.0) / 116.0 }
        };
        [116.0 * f(1) - 16.0, 500.0 * (f(0) - f(1)), 200.0 * (f(1) - f(2))]
    }

    #[test]
    fn ten_colours_stay_apart_for_every_kind_of_colour_vision() {
        let least = |palette: Palette| {
            let mut least = f64::INFINITY;
            for seen in &SEEN {
                let colors = palette.colors().map(|color| lab(color, seen));
                for (at, one) in colors.iter().enumerate() {
                    for other in &colors[..at] {
                        let square: f64 = one.iter().zip(other).map(|(a, b)| (a - b).powi(2)).sum();
                        least = least.min(square.sqrt());
                    }
                }
            }
            least
        };
        assert!(least(Palette::Accessible) > 17.0, "{}", least(Palette::Accessible));
        // The published ones are not chosen for this: the measure tells the difference.
        assert!(least(Palette::Published) < 8.0);
    }

    #[test]
    fn an_eleventh_group_is_refused() {
        for palette in [Palette::Accessible, Palette::Published] {
            palette.check(10).unwrap();
            let message = palette.check(11).unwrap_err().to_string();
            assert!(message.contains("at most 10"), "{message}");
        }
        assert_eq!(serde_json::to_value(Palette::Published).unwrap(), "published");
        assert_eq!(hex([0, 76, 153]), "#004c99");
    }
}
