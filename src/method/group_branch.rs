//! The branch of cross-level discrimination in a method: an extra layer beside the projector, and its loss.

use crate::error::{Error, Result};
use crate::method::{Setup, Step};
use crate::model::heads::{Head, HeadConfig};
use crate::model::{Parameters, Phase, Statistics};
use crate::plugin::cross_level::{CrossLevel, CrossLevelLoss};
use crate::rows::unit_rows;
use tch::Tensor;

/// Name of the extra layer's tensors.
const PLACE: &str = "group";

/// Cross-level discrimination between the first two online views.
#[derive(Debug)]
pub(super) struct GroupBranch {
    config: CrossLevel,
    layer: Option<Head>,
}

impl GroupBranch {
    /// The branch beside a projector with these settings; none without the plug-in.
    ///
    /// # Errors
    /// [`Error::Recipe`] if it lies on a hidden layer that the projector does not have.
    pub(super) fn build(
        parameters: &mut Parameters,
        setup: &Setup<'_>,
        projector: &HeadConfig,
    ) -> Result<Option<Self>> {
        let Some(config) = &setup.plugins.cross_level else { return Ok(None) };
        let features = setup.backbone.features();
        let inputs = match (config.on_hidden(), projector.layers) {
            (false, _) => features,
            (true, 0 | 1) => {
                return Err(Error::Recipe(
                    "`plugins.cross_level.head` is on the projector's hidden layer, and `method.projector.layers` leaves \
                     it none: set it to 2, or the head to `linear` or `norm_linear`"
                        .to_owned(),
                ));
            }
            (true, _) => projector.hidden.map_or(features, |hidden| hidden as i64),
        };
        let layer = config
            .layer(projector.output)
            .map(|layer| Head::build(&mut parameters.root().at(PLACE), inputs, &layer));
        Ok(Some(Self { config: config.clone(), layer: layer.transpose()? }))
    }

    /// The loss, weighted, with what is worth logging. `taps` are the projector's, of the rows of at least two views, view
    /// by view, N rows each: [`Head::forward_taps`].
    ///
    /// # Errors
    /// Those of [`CrossLevel::loss`].
    pub(super) fn loss(
        &self,
        taps: &[Tensor],
        step: &Step<'_>,
    ) -> Result<(Tensor, [(&'static str, f64); 3])> {
        let images = step.indices.len() as i64;
        let from = match (&self.layer, self.config.on_hidden()) {
            (None, _) => taps.len() - 1,
            (Some(_), true) => taps.len() - 2,
            (Some(_), false) => 0,
        };
        let rows = taps[from].narrow(0, 0, 2 * images);
        let rows = match &self.layer {
            None => rows,
            Some(layer) => {
                let statistics = Statistics::Move { seen: 0, of: 1 };
                layer.forward(&rows, Phase::Training { groups: 1, statistics })
            }
        };
        let rows = unit_rows(&rows);
        let [first, second] = [0, images].map(|start| rows.narrow(0, start, images));
        let CrossLevelLoss { loss, group_accuracy, empty } =
            self.config.loss(&first, &second, step.ranks as usize)?;
        let scalars = [
            ("cross_level_loss", loss.double_value(&[])),
            ("cross_level_accuracy", group_accuracy),
            ("cross_level_empty", empty),
        ];
        Ok((loss * self.config.weight, scalars))
    }
}
