//! Whether a classifier is as often right as it is sure to be, and how a temperature mends it.

use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};
use crate::shape;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Bins of confidence.
const BINS: usize = 15;

/// Parts of the cross-validation that a temperature comes from.
const FOLDS: usize = 5;

/// Inverse temperatures looked at.
const RANGE: (f64, f64) = (1e-3, 1e3);

/// Calibration of logits, before and after they are divided by a temperature (Guo et al. 2017, arXiv:1706.04599, sections
/// 2 and 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Expected calibration error, in [0, 1].
    pub error: f64,
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// The temperature of least cross-entropy on all images.
    pub temperature: f64,
    /// Expected calibration error with each image under the temperature that the other four fifths of the images ask for,
    /// as Ericsson et al. 2021 (arXiv:2011.13377) report it.
    pub error_scaled: f64,
    /// Mean cross-entropy likewise.
    pub loss_scaled: f64,
}

/// Reckons the calibration of logits `[N, C]` with the true classes; a logit may be −∞, but not that of the true class.
///
/// The folds come from `Stream::open(seed, Purpose::Evaluation, Scope::Item(1))`.
///
/// # Errors
/// [`Error::Shape`] if labels and logits differ in number; [`Error::Data`] for fewer than five images, or a label beyond
/// the classes; [`Error::NonFinite`] for a logit that is not a number, or −∞ for a true class.
pub fn calibration(logits: &Tensor, labels: &[u32], seed: u64) -> Result<Calibration> {
    shape::check("logits", logits, &[labels.len() as i64, -1])?;
    if labels.len() < FOLDS {
        let found = labels.len();
        return Err(Error::Data(format!(
            "calibration needs at least {FOLDS} images, found {found}"
        )));
    }
    let classes = logits.size()[1] as usize;
    if let Some(label) = labels.iter().find(|label| **label as usize >= classes) {
        return Err(Error::Data(format!("label {label} is none of {classes} classes")));
    }
    let mut values = vec![0.0f64; logits.numel()];
    logits.to_kind(Kind::Double).contiguous().copy_data(&mut values, logits.numel());
    let images: Vec<Image> = values
        .chunks(classes)
        .zip(labels)
        .map(|(row, label)| Image { row, label: *label as usize })
        .collect();
    if !images.iter().all(Image::is_sound) {
        return Err(Error::NonFinite(
            "logits that are not a number, or that rule a true class out, have no calibration"
                .to_owned(),
        ));
    }
    let order = Stream::open(seed, Purpose::Evaluation, Scope::Item(1)).permutation(images.len());
    let mut own = vec![1.0; images.len()];
    for fold in 0..FOLDS {
        let inside = |place: &usize| place % FOLDS == fold;
        let others: Vec<&Image> = (0..order.len())
            .filter(|place| !inside(place))
            .map(|place| &images[order[place]])
            .collect();
        let sharpness = sharpness(&others);
        for place in (0..order.len()).filter(inside) {
            own[order[place]] = sharpness;
        }
    }
    let all: Vec<&Image> = images.iter().collect();
    let judge = |sharpness: &[f64]| {
        let judged: Vec<Judged> = images
            .par_iter()
            .zip(sharpness)
            .map(|(image, sharpness)| image.judge(*sharpness))
            .collect();
        let loss = judged.iter().map(|image| image.loss).sum::<f64>() / judged.len() as f64;
        (expected_error(&judged), loss)
    };
    let (error, loss) = judge(&vec![1.0; images.len()]);
    let (error_scaled, loss_scaled) = judge(&own);
    Ok(Calibration { error, loss, temperature: 1.0 / sharpness(&all), error_scaled, loss_scaled })
}

/// Logits of an image and its class.
struct Image<'a> {
    row: &'a [f64],
    label: usize,
}

/// An image under some temperature.
struct Judged {
    confidence: f64,
    right: bool,
    loss: f64,
    /// Derivative of the loss by the inverse temperature.
    slope: f64,
}

impl Image<'_> {
    fn is_sound(&self) -> bool {
        self.row.iter().all(|logit| *logit < f64::INFINITY) && self.row[self.label].is_finite()
    }

    /// Of equal logits the lower class is the prediction.
    fn judge(&self, sharpness: f64) -> Judged {
        let largest = self.row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (mut sum, mut weighted) = (0.0, 0.0);
        for logit in self.row.iter().filter(|logit| logit.is_finite()) {
            let share = ((logit - largest) * sharpness).exp();
            sum += share;
            weighted += share * (logit - largest);
        }
        let own = self.row[self.label] - largest;
        let first = self.row.iter().position(|logit| *logit >= largest);
        Judged {
            confidence: 1.0 / sum,
            right: first == Some(self.label),
            loss: sum.ln() - own * sharpness,
            slope: weighted / sum - own,
        }
    }
}

/// `Σ_b n_b/N · |accuracy_b − confidence_b|` over 15 equal bins, each without its lower end.
fn expected_error(images: &[Judged]) -> f64 {
    let mut bins = [(0.0f64, 0.0f64); BINS];
    for image in images {
        let bin = (image.confidence * BINS as f64).ceil() as usize;
        let bin = &mut bins[bin.clamp(1, BINS) - 1];
        bin.0 += f64::from(u8::from(image.right));
        bin.1 += image.confidence;
    }
    bins.iter().map(|(right, sure)| (right - sure).abs()).sum::<f64>() / images.len() as f64
}

/// The inverse temperature of least cross-entropy: the zero of its slope, which only grows, by bisection.
fn sharpness(images: &[&Image]) -> f64 {
    let slope = |sharpness: f64| -> f64 {
        let slopes: Vec<f64> =
            images.par_iter().map(|image| image.judge(sharpness).slope).collect();
        slopes.iter().sum()
    };
    let (mut low, mut high) = (RANGE.0.ln(), RANGE.1.ln());
    for _ in 0..48 {
        let middle = f64::midpoint(low, high);
        if slope(middle.exp()) < 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::average_precision::tests::golden;

    fn labels() -> Vec<u32> {
        let labels: Vec<i64> = golden("y").try_into().unwrap();
        labels.into_iter().map(|label| label as u32).collect()
    }

    /// `tests/golden/logistic.py`: a loop over bins, and `SciPy`'s bounded minimiser.
    #[test]
    fn error_loss_and_temperature_are_those_of_a_plain_script() {
        let expected: Vec<f64> = golden("calibration").try_into().unwrap();
        let found = calibration(&golden("logits"), &labels(), 0).unwrap();
        for (name, found, expected) in [
            ("error", found.error, expected[0]),
            ("loss", found.loss, expected[1]),
            ("temperature", found.temperature, expected[2]),
        ] {
            assert!((found - expected).abs() < 1e-6, "{name}: {found} {expected}");
        }
        let scaled = calibration(&(golden("logits") / found.temperature), &labels(), 0).unwrap();
        assert!((scaled.error - expected[3]).abs() < 1e-6, "{} {}", scaled.error, expected[3]);
        assert!((scaled.loss - expected[4]).abs() < 1e-9, "{} {}", scaled.loss, expected[4]);
        assert!((scaled.temperature - 1.0).abs() < 1e-6);
        // Temperatures of the folds are near that of all.
        assert!((found.loss_scaled - expected[4]).abs() < 5e-3, "{}", found.loss_scaled);
        assert!(found.error_scaled < found.error, "{found:?}");
        assert_eq!(found, calibration(&golden("logits"), &labels(), 0).unwrap());
    }

    #[test]
    fn whoever_is_always_right_could_be_surer_and_ruled_out_classes_take_no_part() {
        let logits = [2.0, 0.0, f64::NEG_INFINITY].repeat(10);
        let logits = Tensor::from_slice(&logits).view([10, 3]);
        let found = calibration(&logits, &[0; 10], 0).unwrap();
        let confidence = 1.0 / (1.0 + (-2.0f64).exp());
        assert!((found.error - (1.0 - confidence)).abs() < 1e-12);
        assert!(found.temperature < 1e-2 && found.error_scaled < 1e-12, "{found:?}");
    }

    #[test]
    fn what_has_no_calibration_is_an_error() {
        let logits = golden("logits");
        assert!(matches!(calibration(&logits, &labels()[1..], 0), Err(Error::Shape(_))));
        assert!(matches!(calibration(&logits.narrow(0, 0, 4), &[0; 4], 0), Err(Error::Data(_))));
        assert!(matches!(calibration(&logits, &[9; 300], 0), Err(Error::Data(_))));
        assert!(matches!(calibration(&(&logits / 0.0), &labels(), 0), Err(Error::NonFinite(_))));
        let out = Tensor::from_slice(&[0.0, f64::NEG_INFINITY]).repeat([6, 1]);
        assert!(matches!(calibration(&out, &[1; 6], 0), Err(Error::NonFinite(_))));
    }
}
