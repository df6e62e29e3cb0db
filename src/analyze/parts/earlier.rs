//! Maps of an earlier analysis, whose colours a later one goes on with.

use super::Settings;
use super::found::{Map, Scope};
use super::maps::Picture;
use crate::analyze::Analysis;
use crate::cluster::Algorithm;
use crate::error::{Error, Result};
use crate::evaluate::DataUsed;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The maps of the first layer and algorithm of an earlier analysis of the same images.
#[derive(Debug)]
pub struct Earlier {
    maps: Vec<Map>,
}

impl Earlier {
    /// Reads them from the folder that [`super::write()`] left.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Run`] if the folder holds no analysis of parts or a damaged one; [`Error::Recipe`] if it
    /// is of other images, or clusters are shared in one of the two alone.
    pub fn read(folder: &Path, settings: &Settings, pictures: &[Picture]) -> Result<Self> {
        let analysis = Analysis::read(folder)?;
        let place = folder.display();
        let damaged = |what: &str| Error::Run(format!("analysis `{place}`: {what}"));
        let of = |key: &str| analysis.settings.get(key).cloned().unwrap_or_default();
        let array = analysis
            .files
            .iter()
            .find(|file| Path::new(&file.file).extension().is_some_and(|end| end == "npy"));
        let (Some(array), "parts") = (array, analysis.kind.as_str()) else {
            return Err(damaged("it has no maps of parts"));
        };
        let numbers = |key: &str| -> Vec<usize> {
            let list = of(key).as_array().cloned().unwrap_or_default();
            list.iter().filter_map(Value::as_u64).map(|number| number as usize).collect()
        };
        let (clusters, images) = (numbers("clusters"), numbers("images"));
        let together = of("together") == Value::Bool(true);
        let own: Vec<usize> = pictures.iter().map(|picture| picture.index).collect();
        let known = |index: &usize| images.iter().position(|image| image == index);
        if together != settings.together || (together && images != own) {
            return Err(Error::Recipe(format!(
                "`{place}` clusters {} of the images {images:?}, this analysis {} of {own:?}: colours cannot be carried over",
                words(together),
                words(settings.together)
            )));
        }
        if !own.iter().any(|index| known(index).is_some()) {
            return Err(Error::Recipe(format!(
                "`{place}` is of the images {images:?}, none of which is among {own:?}"
            )));
        }
        let path = folder.join(&array.file);
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let file = npyz::NpyFile::new(&bytes[..]).map_err(|error| damaged(&error.to_string()))?;
        let shape: Vec<usize> = file.shape().iter().map(|length| *length as usize).collect();
        let labels: Vec<u8> = file.into_vec().map_err(|error| damaged(&error.to_string()))?;
        let (height, width) = match shape[..] {
            [n, k, height, width] if n == images.len() && k == clusters.len() => (height, width),
            _ => return Err(damaged(&format!("its maps have the shape {shape:?}"))),
        };
        let pixels = width * height;
        let one = |image: usize, at: usize| {
            let first = (image * clusters.len() + at) * pixels;
            labels[first..first + pixels].to_vec()
        };
        let map = |scope, k, labels| Map::bare(scope, k, (width, height), labels);
        let mut maps = Vec::new();
        for (at, k) in clusters.iter().enumerate() {
            if together {
                let all = (0..images.len()).flat_map(|image| one(image, at)).collect();
                maps.push(map(Scope::All, *k, all));
                continue;
            }
            for (picture, index) in own.iter().enumerate() {
                let labels = known(index).map(|image| one(image, at));
                maps.extend(labels.map(|labels| map(Scope::Image(picture), *k, labels)));
            }
        }
        Ok(Self { maps })
    }

    /// Refuses the folder of an analysis of other data or another split than these: places of images mean others there.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming what differs; [`Error::Io`] or [`Error::Run`] if there is no analysis.
    pub fn same_images(folder: &Path, data: &DataUsed, split: &str) -> Result<()> {
        let analysis = Analysis::read(folder)?;
        let place = folder.display();
        if let Some(other) = analysis.data.filter(|other| other.fingerprint != data.fingerprint) {
            return Err(Error::Recipe(format!(
                "`parts.like`: `{place}` is of `{}`, whose images are others than those of `{}`",
                other.location, data.location
            )));
        }
        let other = analysis.settings.get("split").and_then(Value::as_str);
        if let Some(other) = other.filter(|other| *other != split) {
            return Err(Error::Recipe(format!(
                "`parts.like`: `{place}` is of the split `{other}`, this analysis of `{split}`; choose with --split"
            )));
        }
        Ok(())
    }

    /// The map of these images with so many clusters.
    pub(super) fn map(&self, scope: Scope, k: usize) -> Option<&Map> {
        self.maps.iter().find(|map| (map.scope, map.k) == (scope, k))
    }
}

fn words(together: bool) -> &'static str {
    if together { "all together" } else { "each" }
}

impl Map {
    /// Labels without numbers.
    fn bare(scope: Scope, k: usize, (width, height): (usize, usize), labels: Vec<u8>) -> Self {
        Self {
            subject: 0,
            block: None,
            algorithm: Algorithm::default(),
            k,
            scope,
            width,
            height,
            labels,
            sizes: Vec::new(),
            inertia: 0.0,
            cluster_inertia: Vec::new(),
            spread: 0.0,
            silhouette: None,
            stability: None,
            truth: None,
            image_shares: Vec::new(),
        }
    }
}
