//! Judging a trained classifier: every image of the evaluation split once, under the evaluation preprocessing.

use super::Ranks;
use super::average_precision::{
    AveragePrecision, Difficult, MeanAveragePrecision, mean_average_precision,
};
use super::features::{Damaged, extract};
use super::run::{batch, prepare};
use super::scores::judged;
use super::weights::images;
use crate::augment::Preprocess;
use crate::data::{Dataset, MultiLabels};
use crate::error::{Error, Result};
use crate::method::classifier::Network;
use crate::method::distill::Teacher;
use crate::model::{Parameters, Phase};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// A backbone with its linear layer, in evaluation mode.
pub struct Classifier {
    network: Network,
    device: Device,
    _parameters: Parameters,
}

/// What judging found.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// How well the classes were told.
    pub result: Told,
    /// Images that could not be read. They and those ranked are the whole split.
    pub damaged: Vec<Damaged>,
}

/// How well the classes of a split were told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// Images of one class each: where it came out.
    Ranks(Ranks),
    /// Images of any number of classes: [`AveragePrecision::ElevenPoint`] of each class, images that show it only in a
    /// difficult way left out, as the development kit of VOC 2007 has it.
    Precision(MeanAveragePrecision),
}

/// What settings are chosen by, and what is told first, of images of one class each; of others it is the mean average
/// precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of the images.
    #[default]
    Top1,
    /// Mean over the classes of the share of their images.
    MeanPerClass,
}

impl Metric {
    /// Its value, a share in [0, 1].
    pub fn of(self, told: &Told, seed: u64) -> f64 {
        match (told, self) {
            (Told::Precision(precision), _) => precision.mean.value,
            (Told::Ranks(ranks), Self::Top1) => ranks.top(1).value,
            (Told::Ranks(ranks), Self::MeanPerClass) => ranks.mean_per_class(seed).value,
        }
    }
}

impl Classifier {
    /// The network of a classifier that was read ([`super::weights::Weights::teacher`]).
    ///
    /// # Errors
    /// [`Error::Weights`] if a tensor is missing, has another shape, or has no place.
    pub fn new(found: &Teacher, device: Device) -> Result<Self> {
        let mut parameters = Parameters::new(0, device, Kind::Float);
        let network = Network::build(
            &mut parameters.root(),
            &found.backbone,
            &found.classifier,
            found.classes,
        )?;
        parameters.load_part("", &found.tensors)?;
        Ok(Self { network, device, _parameters: parameters })
    }

    /// Logits `[n, C]`, f32 on the CPU, of `n` prepared images: bytes as [`super::weights::forward`] takes them.
    ///
    /// # Errors
    /// As [`super::weights::forward`].
    pub fn logits(&self, pixels: &[u8], n: usize, preprocess: &Preprocess) -> Result<Tensor> {
        let backbone = self.network.backbone();
        tch::no_grad(|| {
            let images = images(backbone, pixels, n, preprocess, self.device, Kind::Float)?;
            let h = self.network.features(&images, Phase::Evaluation);
            let logits = self.network.logits(&h, Phase::Evaluation);
            Ok(logits.to_kind(Kind::Float).to_device(Device::Cpu))
        })
    }

    /// Tells the classes of every image of a split, each once; `seed` is that of intervals. `progress` gets images done
    /// and images in all.
    ///
    /// # Errors
    /// [`Error::Data`] if an image has no label or one that the classifier never saw, or none can be read;
    /// [`Error::NonFinite`] if the network gives no numbers.
    pub fn judge(
        &self,
        preprocess: &Preprocess,
        dataset: &dyn Dataset,
        seed: u64,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Judged> {
        let side = preprocess.size_px();
        let mut forward = |pixels: &[u8], n: usize| self.logits(pixels, n, preprocess);
        let prepare = prepare(preprocess);
        let found = extract(&mut forward, dataset, (side, side), &prepare, batch(side), progress)?;
        let classes = self.network.classes();
        let scores = Vec::<f32>::try_from(found.h.contiguous().view([-1]))
            .expect("logits are f32 on the CPU");
        if scores.iter().any(|score| !score.is_finite()) {
            return Err(Error::NonFinite(
                "the classifier gives logits that are NaN or infinite; a smaller learning rate trains one that does not"
                    .to_owned(),
            ));
        }
        if let Some(labels) = MultiLabels::of_all(dataset) {
            if labels.classes() != classes {
                return Err(Error::Data(format!(
                    "images to judge are marked for {} classes, and the classifier learned {classes}; both splits must be \
                     labelled alike",
                    labels.classes()
                )));
            }
            let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
            let precision = mean_average_precision(
                AveragePrecision::ElevenPoint,
                Difficult::Ignore,
                &scores,
                &labels.at(&found.indices())?,
                seed,
            )?;
            return Ok(Judged { result: Told::Precision(precision), damaged: found.damaged });
        }
        let labels = found.labels();
        let known = |label: &i64| usize::try_from(*label).is_ok_and(|label| label < classes);
        if let Some(label) = labels.iter().find(|label| !known(label)) {
            let what = if *label < 0 { "no label".to_owned() } else { format!("label {label}") };
            return Err(Error::Data(format!(
                "an image to judge has {what}, and the classifier learned {classes} classes, from 0; both splits must \
                 be labelled alike"
            )));
        }
        let mut ranks = Ranks::none(classes, classes);
        for (scores, label) in scores.chunks(classes).zip(&labels) {
            ranks.push(judged(scores, *label as usize), *label as u32);
        }
        Ok(Judged { result: Told::Ranks(ranks), damaged: found.damaged })
    }
}
