//! Classes by how often they were trained on: what results on long tails are told by.

/// How often a class occurs in the training images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Frequency {
    /// Often.
    Many,
    /// In between.
    Medium,
    /// Rarely.
    Few,
}

/// Where [`Frequency`] changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Cuts {
    /// Fewest training images of a frequent class.
    pub many: usize,
    /// Most training images of a rare class.
    pub few: usize,
}

impl Cuts {
    /// Liu et al. 2019 (arXiv:1904.05160, §4.1): more than 100, 20 to 100, fewer than 20.
    pub const LIU: Self = Self { many: 101, few: 19 };
    /// The linear evaluation of CLD's code: 100 and more, 20 and fewer.
    pub const CLD: Self = Self { many: 100, few: 20 };

    /// The group of each class, by its number of training images.
    pub fn groups(self, per_class: &[usize]) -> Vec<Frequency> {
        per_class.iter().map(|count| self.group(*count)).collect()
    }

    /// The group of a class with so many training images.
    pub fn group(self, count: usize) -> Frequency {
        if count >= self.many {
            Frequency::Many
        } else if count <= self.few {
            Frequency::Few
        } else {
            Frequency::Medium
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Frequency::{Few, Many, Medium};

    #[test]
    fn the_two_ways_to_cut_differ_at_the_cuts() {
        let counts = [1280, 101, 100, 99, 21, 20, 19, 0];
        let by_liu = [Many, Many, Medium, Medium, Medium, Medium, Few, Few];
        assert_eq!(Cuts::LIU.groups(&counts), by_liu);
        let by_cld = [Many, Many, Many, Medium, Medium, Few, Few, Few];
        assert_eq!(Cuts::CLD.groups(&counts), by_cld);
    }
}
