//! Several data sets as one.

use super::{Dataset, Image, Object, Presence};
use crate::error::Result;
use std::sync::Arc;

/// Data sets one behind the other.
pub struct Joined {
    parts: Vec<Arc<dyn Dataset>>,
}

impl Joined {
    /// The images of `parts`, in that order.
    pub fn new(parts: Vec<Arc<dyn Dataset>>) -> Self {
        Self { parts }
    }

    fn place(&self, index: usize) -> (&dyn Dataset, usize) {
        let mut within = index;
        for part in &self.parts {
            if within < part.len() {
                return (part.as_ref(), within);
            }
            within -= part.len();
        }
        panic!("image {index} asked of {}", self.len());
    }
}

impl Dataset for Joined {
    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    fn label(&self, index: usize) -> Option<u32> {
        let (part, within) = self.place(index);
        part.label(within)
    }

    fn presence(&self, index: usize) -> Option<Vec<Presence>> {
        let (part, within) = self.place(index);
        part.presence(within)
    }

    fn path(&self, index: usize) -> String {
        let (part, within) = self.place(index);
        part.path(within)
    }

    fn image(&self, index: usize) -> Result<Image> {
        let (part, within) = self.place(index);
        part.image(within)
    }

    fn part_mask(&self, index: usize) -> Option<Vec<u8>> {
        let (part, within) = self.place(index);
        part.part_mask(within)
    }

    fn codec(&self, index: usize) -> Option<&'static str> {
        let (part, within) = self.place(index);
        part.codec(within)
    }

    fn objects(&self, index: usize) -> Result<Vec<Object>> {
        let (part, within) = self.place(index);
        part.objects(within)
    }

    fn constant_channels(&self) -> usize {
        self.parts.first().map_or(0, |part| part.constant_channels())
    }

    fn constants(&self, index: usize, image: &Image) -> Vec<u8> {
        let (part, within) = self.place(index);
        part.constants(within, image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::Numbers;

    #[test]
    fn indices_go_on_from_part_to_part() {
        let all =
            Joined::new(vec![Arc::new(Numbers(3)), Arc::new(Numbers(0)), Arc::new(Numbers(20))]);
        assert_eq!(all.len(), 23);
        let shown = |index: usize| all.image(index).unwrap().pixels[0];
        assert_eq!((shown(2), shown(3), shown(22)), (2, 0, 19));
        assert_eq!((all.label(12), all.path(12).as_str()), (Some(2), "9"));
    }
}
