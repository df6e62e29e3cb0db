//! What `SimSiam` and BYOL share: predictions of one view compared with the other view's projections, and the plug-ins that
//! change which are compared and how.

use crate::error::Result;
use crate::loss::cosine::negative_cosine;
use crate::method::compared::Scores;
use crate::method::{Step, require};
use crate::model::heads::HeadConfig;
use crate::plugin::Plugins;
use crate::plugin::feature_transformation::PositiveMixing;
use crate::random::Purpose;
use crate::rows::unit_rows;
use tch::{Kind, Tensor};

/// The loss in [-1, 1], a scalar (f64) with a graph, and what is worth logging.
pub(super) struct Predicted {
    pub(super) loss: Tensor,
    pub(super) scalars: Vec<(&'static str, f64)>,
    /// Of the first prediction and its target.
    pub(super) scores: Scores,
}

/// `-½ (cos(p₁, z₂) + cos(p₂, z₁))`, mean over the images, from predictions and targets of each view, `[N, d]`; with a
/// guided stop-gradient one direction per image.
///
/// # Errors
/// [`crate::error::Error::Shape`] if shapes differ.
pub(super) fn loss(
    predictions: &[Tensor],
    targets: &[Tensor],
    plugins: &Plugins,
    stop_gradient: bool,
    step: &Step<'_>,
) -> Result<Predicted> {
    let mixing = plugins.feature_transformation.as_ref();
    let mixing = mixing.filter(|mixing| mixing.active(step.epoch() as u32));
    let mut direction = 0;
    let mut transformed = None; // of the first direction, which is p₁ and z₂
    let mut cosine = |p: &Tensor, z: &Tensor| match mixing {
        None => negative_cosine(p, z, stop_gradient).map(|negative| -negative),
        Some(mixing) => {
            let mut stream = step.stream(Purpose::Mix, direction);
            direction += 1;
            let found = mixing.similarity(&unit_rows(p), &unit_rows(z), &mut stream)?;
            transformed.get_or_insert_with(|| found.detach());
            Ok(found)
        }
    };
    let (loss, mut scalars) = match &plugins.guided_stop_gradient {
        None => {
            let first = cosine(&predictions[0], &targets[1])?.mean(Kind::Double);
            let second = cosine(&predictions[1], &targets[0])?.mean(Kind::Double);
            ((first + second) * -0.5, Vec::new())
        }
        Some(guided) => {
            let partners = guided
                .partners(step.indices.len(), &mut step.stream(Purpose::Partner, 0))?
                .to_device(targets[0].device());
            let found = guided.loss(predictions, targets, &partners, cosine)?;
            let [a, b, c, d] = found.closest;
            let names = ["closest_11", "closest_12", "closest_21", "closest_22"];
            (found.loss, names.into_iter().zip([a, b, c, d]).collect())
        }
    };
    scalars.extend(similarities(&predictions[0], &targets[1]));
    let scores = Scores::pairs(&predictions[0], &targets[1], transformed.as_ref());
    Ok(Predicted { loss, scalars, scores })
}

/// Mean cosine of two views `[N, d]` of the same image, and of different images (0 if there is one image).
pub(super) fn similarities(first: &Tensor, second: &Tensor) -> [(&'static str, f64); 2] {
    let [first, second] =
        [first, second].map(|rows| unit_rows(&rows.detach().to_kind(Kind::Double)));
    let images = first.size()[0] as f64;
    let own = (&first * &second).sum(None).double_value(&[]);
    let sum = |rows: &Tensor| rows.sum_dim_intlist(0, false, None);
    let all = sum(&first).dot(&sum(&second)).double_value(&[]);
    let others = if images > 1.0 { (all - own) / (images * (images - 1.0)) } else { 0.0 };
    [("positive_similarity", own / images), ("negative_similarity", others)]
}

/// Checks that a predictor gives what it is compared with.
///
/// # Errors
/// [`Error::Recipe`](crate::error::Error::Recipe) naming the keys.
pub(super) fn check(
    projector: &HeadConfig,
    predictor: &HeadConfig,
    plugins: &Plugins,
) -> Result<()> {
    if predictor.layers > 0 && projector.layers > 0 {
        let key = "method.predictor.output";
        let range = format!("`method.projector.output` ({})", projector.output);
        require(predictor.output == projector.output, key, &range, predictor.output)?;
    }
    check_mixing(plugins)
}

/// Checks that a feature transformation does something where there are no negatives.
///
/// # Errors
/// [`Error::Recipe`](crate::error::Error::Recipe) naming the key.
pub(super) fn check_mixing(plugins: &Plugins) -> Result<()> {
    if let Some(mixing) = &plugins.feature_transformation {
        require(
            mixing.positive != PositiveMixing::None,
            "plugins.feature_transformation.positive",
            "`extrapolate` for a method without negatives",
            "none",
        )?;
    }
    Ok(())
}
