//! Average precision of a ranking, its mean over classes, and images with any number of classes.

use super::interval::bootstrap;
use super::record::Measure;
use crate::data::{MultiLabels, Presence};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What becomes of images that show a class only in a difficult way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Difficult {
    /// They are left out for that class, as in the development kit of VOC 2007.
    #[default]
    Ignore,
    /// They count as not showing it, as in the published transfer evaluation of Ericsson et al. 2021.
    Negative,
}

impl Difficult {
    /// Whether a class is present; none where the image is left out.
    pub fn judge(self, presence: Presence) -> Option<bool> {
        match (presence, self) {
            (Presence::Present, _) => Some(true),
            (Presence::Absent, _) | (Presence::Difficult, Self::Negative) => Some(false),
            (Presence::Difficult, Self::Ignore) => None,
        }
    }
}

/// How precision and recall of a ranking become one number.
///
/// Images are ranked by falling score. At every prefix that ends where the score falls, with `t` of its `n` images and
/// of all `P` true ones, precision is `t / n` and recall `t / P`. (Between images of equal score there is no order, so a
/// prefix never ends there; scikit-learn does the same.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AveragePrecision {
    /// VOC 2007 (Everingham et al. 2010, section 4.2): the mean over recalls `t` = 0, 0.1, …, 1 of the highest precision
    /// at a recall of at least `t`. The thresholds are `i · 0.1` in f64, like those of the published programs, so that
    /// a recall of exactly 3/10 does not reach its own.
    #[default]
    ElevenPoint,
    /// The same with a point of recall 0 and precision 1, which curves of scikit-learn end with: the term at 0 is always
    /// 1. That is what the published transfer evaluation of Ericsson et al. 2021 does.
    ElevenPointExtra,
    /// VOC from 2010: the area under the highest precision at a recall of at least `t`, over all `t`.
    Area,
    /// COCO: as [`AveragePrecision::ElevenPoint`] with recalls 0, 0.01, …, 1.
    HundredOnePoint,
    /// No interpolation: `Σ (recall_k − recall_{k−1}) · precision_k`, scikit-learn's `average_precision_score`.
    Plain,
}

impl AveragePrecision {
    /// The average precision of a class; none if no image shows it. `scores` are numbers, `present` is none where an
    /// image is left out.
    pub fn of(self, scores: &[f64], present: &[Option<bool>]) -> Option<f64> {
        let once = vec![1; scores.len()];
        Ranking::new(scores, present).average_precision(self, &once)
    }

    /// `curve` holds recall and precision at growing prefixes.
    fn of_curve(self, curve: &mut [(f64, f64)]) -> f64 {
        if self == Self::Plain {
            let mut before = 0.0;
            let mut sum = 0.0;
            for (recall, precision) in curve {
                sum += (*recall - before) * *precision;
                before = *recall;
            }
            return sum;
        }
        // From here on the precision is the highest at this recall or a larger one.
        let mut highest = 0.0f64;
        for (_, precision) in curve.iter_mut().rev() {
            highest = highest.max(*precision);
            *precision = highest;
        }
        let mean = |points: u32, step: f64| {
            let mut curve = curve.iter().peekable();
            let mut sum = 0.0;
            for point in 0..points {
                let threshold = f64::from(point) * step;
                while curve.next_if(|(recall, _)| *recall < threshold).is_some() {}
                sum += curve.peek().map_or(0.0, |(_, precision)| *precision);
            }
            sum / f64::from(points)
        };
        match self {
            Self::ElevenPoint => mean(11, 0.1),
            Self::ElevenPointExtra => {
                mean(11, 0.1) + (1.0 - curve.first().map_or(0.0, |first| first.1)) / 11.0
            }
            Self::HundredOnePoint => mean(101, 0.01),
            Self::Area | Self::Plain => Self::Plain.of_curve(curve),
        }
    }
}

/// The images of one class, best first.
struct Ranking {
    /// Image, whether it shows the class, and whether the next one's score is lower.
    places: Vec<(u32, bool, bool)>,
}

impl Ranking {
    fn new(scores: &[f64], present: &[Option<bool>]) -> Self {
        assert_eq!(scores.len(), present.len(), "each image has a score and a label");
        let mut order: Vec<(u32, bool)> =
            (0..).zip(present).filter_map(|(image, present)| Some((image, (*present)?))).collect();
        let score = |image: u32| scores[image as usize];
        order.sort_by(|a, b| score(b.0).total_cmp(&score(a.0)));
        let next = order.iter().skip(1).map(|(image, _)| Some(score(*image))).chain([None]);
        let places = order
            .iter()
            .zip(next)
            .map(|((image, present), next)| {
                (*image, *present, next.is_none_or(|next| next < score(*image)))
            })
            .collect();
        Self { places }
    }

    /// With each image as many times as `counts` says.
    fn average_precision(&self, form: AveragePrecision, counts: &[u32]) -> Option<f64> {
        let count = |image: u32| counts[image as usize];
        let all: u32 =
            self.places.iter().map(|(image, present, _)| count(*image) * u32::from(*present)).sum();
        if all == 0 {
            return None;
        }
        let (mut seen, mut found, mut recorded) = (0, 0, 0);
        let mut curve = Vec::new();
        for (image, present, ends) in &self.places {
            seen += count(*image);
            found += count(*image) * u32::from(*present);
            // A prefix that finds nothing new has the recall of the one before and less precision.
            if *ends && found > recorded {
                recorded = found;
                curve.push((f64::from(found) / f64::from(all), f64::from(found) / f64::from(seen)));
            }
        }
        Some(form.of_curve(&mut curve))
    }
}

/// Average precision of every class, and their mean.
#[derive(Clone, Debug, PartialEq)]
pub struct MeanAveragePrecision {
    /// Mean over the classes that occur, with its bootstrap interval over images.
    pub mean: Measure,
    /// Of each class; none where no image shows it.
    pub classes: Vec<Option<f64>>,
}

/// Ranks images by their scores `[images, classes]`, row after row, for every class.
///
/// # Errors
/// [`Error::Shape`] if scores and labels differ in number; [`Error::NonFinite`] for scores that are no numbers;
/// [`Error::Data`] if no image shows any class.
pub fn mean_average_precision(
    form: AveragePrecision,
    difficult: Difficult,
    scores: &[f64],
    labels: &MultiLabels,
    seed: u64,
) -> Result<MeanAveragePrecision> {
    let rankings = rankings(difficult, scores, labels)?;
    let images = labels.images();
    let classes = average_precisions(form, &rankings, &vec![1; images]);
    let value = mean(&classes).ok_or_else(no_class)?;
    let mut counts = vec![0; images];
    let interval = bootstrap(images, seed, |drawn| {
        counts.fill(0);
        for image in drawn {
            counts[*image] += 1;
        }
        mean(&average_precisions(form, &rankings, &counts)).unwrap_or(0.0)
    });
    Ok(MeanAveragePrecision { mean: Measure { value, interval_95: Some(interval) }, classes })
}

/// The mean alone, without its interval.
pub(super) fn mean_only(
    form: AveragePrecision,
    difficult: Difficult,
    scores: &[f64],
    labels: &MultiLabels,
) -> Result<f64> {
    let rankings = rankings(difficult, scores, labels)?;
    mean(&average_precisions(form, &rankings, &vec![1; labels.images()])).ok_or_else(no_class)
}

fn no_class() -> Error {
    Error::Data("no image shows any class: there is no average precision".to_owned())
}

fn rankings(difficult: Difficult, scores: &[f64], labels: &MultiLabels) -> Result<Vec<Ranking>> {
    let (images, classes) = (labels.images(), labels.classes());
    if scores.len() != images * classes {
        let found = scores.len();
        return Err(Error::Shape(format!(
            "scores must be {images} rows of {classes}, found {found} in all"
        )));
    }
    if scores.iter().any(|score| score.is_nan()) {
        return Err(Error::NonFinite("scores that are not a number cannot be ranked".to_owned()));
    }
    let of_class = |class| {
        let scores: Vec<f64> = scores.iter().skip(class).step_by(classes).copied().collect();
        let present: Vec<Option<bool>> =
            (0..images).map(|image| difficult.judge(labels.of(image)[class])).collect();
        Ranking::new(&scores, &present)
    };
    Ok((0..classes).map(of_class).collect())
}

fn average_precisions(
    form: AveragePrecision,
    rankings: &[Ranking],
    counts: &[u32],
) -> Vec<Option<f64>> {
    rankings.iter().map(|ranking| ranking.average_precision(form, counts)).collect()
}

fn mean(classes: &[Option<f64>]) -> Option<f64> {
    let known: Vec<f64> = classes.iter().flatten().copied().collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use tch::Tensor;

    /// An array of `tests/golden/logistic.py`.
    pub(in crate::evaluate) fn golden(name: &str) -> Tensor {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/logistic.safetensors");
        let all = Tensor::read_safetensors(path).unwrap();
        let found = all.into_iter().find(|(found, _)| found == name);
        found.unwrap_or_else(|| panic!("no `{name}`")).1
    }

    const FORMS: [AveragePrecision; 5] = [
        AveragePrecision::Plain,
        AveragePrecision::ElevenPoint,
        AveragePrecision::ElevenPointExtra,
        AveragePrecision::Area,
        AveragePrecision::HundredOnePoint,
    ];

    /// Of a ranking, with as many more images at its end as it takes to have `positives` of them.
    fn of(form: AveragePrecision, ranking: &str, positives: usize) -> f64 {
        let mut present: Vec<Option<bool>> = ranking.chars().map(|c| Some(c == 'T')).collect();
        let seen = ranking.matches('T').count();
        // Missed for good: ranked last, behind so many others that precision there is nothing.
        present.extend(std::iter::repeat_n(Some(false), 1_000_000 * usize::from(seen < positives)));
        present.extend(std::iter::repeat_n(Some(true), positives - seen));
        let scores: Vec<f64> = (0..present.len()).map(|place| -(place as f64)).collect();
        form.of(&scores, &present).unwrap()
    }

    #[test]
    fn the_published_values_are_met() {
        for (form, ranking, positives, expected) in [
            (AveragePrecision::ElevenPoint, "TFTTF", 4, 0.613_636_4),
            (AveragePrecision::Area, "TFTTF", 4, 0.625),
            (AveragePrecision::HundredOnePoint, "TFTTF", 4, 0.628_712_9),
            (AveragePrecision::ElevenPoint, "FTT", 2, 0.666_666_7),
            (AveragePrecision::ElevenPointExtra, "FTT", 2, 0.696_969_7),
            // Three of ten: 0.3 in f64 is below the threshold 3 · 0.1.
            (AveragePrecision::ElevenPoint, "TTT", 10, 0.272_727_3),
        ] {
            let found = of(form, ranking, positives);
            // The images missed come in with a precision of 4e-6 and less.
            assert!((found - expected).abs() < 1e-5, "{form:?} {ranking}: {found} {expected}");
        }
        assert!((of(AveragePrecision::ElevenPoint, "FTT", 2) - 2.0 / 3.0).abs() < 1e-15);
    }

    /// `tests/golden/logistic.py`: scikit-learn, and the definitions word for word; the second column has many ties.
    #[test]
    fn every_form_is_that_of_scikit_learn_or_of_its_definition() {
        let (scores, labels) = (golden("scores"), golden("labels"));
        let expected = golden("precision");
        for column in 0..2 {
            let scores: Vec<f64> = scores.select(1, column).try_into().unwrap();
            let present: Vec<u8> = labels.select(1, column).try_into().unwrap();
            let present: Vec<Option<bool>> = present.iter().map(|p| Some(*p == 1)).collect();
            for (place, form) in FORMS.into_iter().enumerate() {
                let expected = expected.double_value(&[column, place as i64]);
                let found = form.of(&scores, &present).unwrap();
                assert!((found - expected).abs() < 1e-12, "{form:?} {column}: {found} {expected}");
            }
        }
    }

    #[test]
    fn the_order_of_images_does_not_count_and_nothing_to_find_is_no_number() {
        let (scores, present) = ([1.0, 1.0, 0.0, 1.0], [true, false, true, false].map(Some));
        let turned = ([1.0, 0.0, 1.0, 1.0], [false, true, false, true].map(Some));
        for form in FORMS {
            assert_eq!(form.of(&scores, &present), form.of(&turned.0, &turned.1), "{form:?}");
            assert_eq!(form.of(&scores, &[Some(false), None, Some(false), None]), None);
        }
    }

    fn labels(rows: &[[u8; 2]]) -> MultiLabels {
        let of = |value: &u8| {
            [Presence::Absent, Presence::Present, Presence::Difficult][*value as usize]
        };
        MultiLabels::new(2, rows.iter().flatten().map(of).collect()).unwrap()
    }

    #[test]
    fn difficult_images_are_left_out_or_count_against() {
        let labels = labels(&[[2, 1], [1, 1], [0, 1], [1, 1]]);
        let scores = [4.0, 0.0, 3.0, 0.0, 2.0, 0.0, 1.0, 0.0];
        let mean = |difficult| {
            mean_average_precision(AveragePrecision::Plain, difficult, &scores, &labels, 1).unwrap()
        };
        let found = mean(Difficult::Ignore);
        assert_eq!(found.classes, [Some(f64::midpoint(1.0, 2.0 / 3.0)), Some(1.0)]);
        assert_eq!(mean(Difficult::Negative).classes[0], Some(0.5));
        let [low, high] = found.mean.interval_95.unwrap();
        assert!(low < found.mean.value && found.mean.value <= high && high <= 1.0);
        assert_eq!(found, mean(Difficult::Ignore));
    }

    /// A bootstrap draw counts an image as often as it was drawn, just as if it were there so often.
    #[test]
    fn counts_are_repetitions() {
        let (scores, present) =
            ([3.0, 2.0, 2.0, 1.0, 0.5], [false, true, false, true, true].map(Some));
        let counts = [1, 3, 0, 2, 1];
        let repeated = |values: &[f64]| -> Vec<f64> {
            values
                .iter()
                .zip(counts)
                .flat_map(|(v, n)| std::iter::repeat_n(*v, n as usize))
                .collect()
        };
        let truth: Vec<Option<bool>> = present
            .iter()
            .zip(counts)
            .flat_map(|(v, n)| std::iter::repeat_n(*v, n as usize))
            .collect();
        for form in FORMS {
            let counted = Ranking::new(&scores, &present).average_precision(form, &counts);
            assert_eq!(counted, form.of(&repeated(&scores), &truth), "{form:?}");
        }
    }

    #[test]
    fn scores_and_labels_that_do_not_fit_are_errors() {
        let good = labels(&[[1, 0], [0, 1]]);
        let mean = |scores: &[f64], labels: &MultiLabels| {
            mean_average_precision(AveragePrecision::Area, Difficult::Ignore, scores, labels, 0)
        };
        assert!(matches!(mean(&[0.0; 3], &good), Err(Error::Shape(_))));
        assert!(matches!(mean(&[f64::NAN; 4], &good), Err(Error::NonFinite(_))));
        assert!(matches!(mean(&[0.0; 4], &labels(&[[0, 0], [0, 2]])), Err(Error::Data(_))));
        assert!(matches!(good.at(&[2]), Err(Error::Data(_))));
        assert_eq!(good.at(&[1]).unwrap(), labels(&[[0, 1]]));
    }
}
