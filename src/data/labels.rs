//! What the images of a data set show: one class each, or any number of them.

use super::Dataset;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The labels of a data set, for what learns from them.
#[derive(Clone, Debug)]
pub enum Labels {
    /// Each image shows one class: class ids by index.
    One(Arc<[u32]>),
    /// Each image shows any number of classes.
    Several(Arc<MultiLabels>),
}

impl Labels {
    /// Those of a data set, none unless every image has them.
    pub fn of(dataset: &dyn Dataset) -> Option<Self> {
        let one = super::labels(dataset).filter(|labels| !labels.is_empty());
        let several = || MultiLabels::of_all(dataset).map(Arc::new);
        one.map(|labels| Self::One(labels.into())).or_else(|| several().map(Self::Several))
    }

    /// One class an image.
    pub fn one(&self) -> Option<&[u32]> {
        match self {
            Self::One(labels) => Some(labels),
            Self::Several(_) => None,
        }
    }
}

/// Whether an image shows a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Presence {
    /// It does not.
    Absent = 0,
    /// It does.
    Present = 1,
    /// Only in a way that the annotators call difficult: small, hidden, cut off (label 0 of VOC 2007).
    Difficult = 2,
}

/// For every image of a split and every class, whether it is there.
///
/// They stand beside stored features, by index in the split, and not in them: the annotations do not depend on a network, so
/// features keep their form, and a damaged image needs no special care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MultiLabels {
    classes: usize,
    values: Vec<Presence>,
}

impl MultiLabels {
    /// Those of every image of a data set; none unless each has them, of the same classes.
    pub fn of_all(dataset: &dyn Dataset) -> Option<Self> {
        if dataset.is_empty() {
            return None;
        }
        let classes = dataset.presence(0)?.len();
        let mut values = Vec::with_capacity(dataset.len() * classes);
        for image in 0..dataset.len() {
            values.extend(dataset.presence(image).filter(|row| row.len() == classes)?);
        }
        Self::new(classes, values).ok()
    }

    /// Labels `[images, classes]`, row after row.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of values is no multiple of `classes`; [`Error::Data`] if there is no class.
    pub fn new(classes: usize, values: Vec<Presence>) -> Result<Self> {
        if classes == 0 {
            return Err(Error::Data("labels of no class cannot be judged".to_owned()));
        }
        if !values.len().is_multiple_of(classes) {
            let found = values.len();
            return Err(Error::Shape(format!("{found} labels are no rows of {classes} classes")));
        }
        Ok(Self { classes, values })
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.values.len() / self.classes
    }

    /// The labels of an image, `[classes]`.
    pub fn of(&self, image: usize) -> &[Presence] {
        &self.values[image * self.classes..(image + 1) * self.classes]
    }

    /// The labels of some images, in their order.
    ///
    /// # Errors
    /// [`Error::Data`] if there is no such image.
    pub fn at(&self, images: &[i64]) -> Result<Self> {
        let mut values = Vec::with_capacity(images.len() * self.classes);
        for image in images {
            let known = usize::try_from(*image).ok().filter(|image| *image < self.images());
            let Some(image) = known else {
                let found = self.images();
                return Err(Error::Data(format!(
                    "image {image} has no labels, there are {found} rows"
                )));
            };
            values.extend_from_slice(self.of(image));
        }
        Ok(Self { classes: self.classes, values })
    }

    /// These and then those of other images.
    ///
    /// # Errors
    /// [`Error::Data`] if they are of another number of classes.
    pub fn and(&self, others: &Self) -> Result<Self> {
        if self.classes != others.classes {
            let (expected, found) = (self.classes, others.classes);
            return Err(Error::Data(format!(
                "labels of {found} classes do not go with those of {expected}"
            )));
        }
        Ok(Self { classes: self.classes, values: [&self.values[..], &others.values].concat() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::Numbers;

    #[test]
    fn rows_must_be_whole_and_of_some_class() {
        assert!(matches!(MultiLabels::new(0, Vec::new()), Err(Error::Data(_))));
        assert!(matches!(MultiLabels::new(2, vec![Presence::Absent; 3]), Err(Error::Shape(_))));
    }

    #[test]
    fn data_sets_without_marks_have_none() {
        assert_eq!(MultiLabels::of_all(&Numbers(3)), None);
        assert_eq!(MultiLabels::of_all(&Numbers(0)), None);
    }
}
