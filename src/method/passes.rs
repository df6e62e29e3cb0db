//! How views go through a backbone: all of them together, or each by itself. What batch norm takes its statistics over
//! differs, and the methods with it.

use crate::error::Result;
use crate::model::heads::{Head, HeadConfig};
use crate::model::resnet::ResNet;
use crate::model::{BackboneConfig, Phase, Place, Statistics};
use tch::Tensor;

/// A backbone and the projector on it, named `backbone.…` and `projector.…` below a place.
///
/// # Errors
/// [`crate::error::Error::Recipe`] if their settings do not fit.
pub(super) fn encoder(
    place: &mut Place<'_>,
    backbone: &BackboneConfig,
    projector: &HeadConfig,
) -> Result<(ResNet, Head)> {
    let backbone = ResNet::build(&mut place.at("backbone"), backbone)?;
    let projector = Head::build(&mut place.at("projector"), backbone.features(), projector)?;
    Ok((backbone, projector))
}

/// All views of one size in one pass, batch norm seeing all of them (SimCLR's global batch norm; `SwAV`, one pass per
/// resolution). Views `[n, 3, h, w]` to rows `[V, n, F]`; a normalisation group holds all views of n / groups consecutive
/// images.
pub(super) fn together(
    backbone: &ResNet,
    views: &[Tensor],
    groups: i64,
    statistics: Statistics,
) -> Tensor {
    let sizes: Vec<&[Tensor]> = views.chunk_by(|a, b| a.size() == b.size()).collect();
    let rows: Vec<Tensor> = (0..)
        .zip(&sizes)
        .map(|(index, views)| {
            let statistics = share(statistics, index, sizes.len() as i64, groups);
            one_size(backbone, views, groups, statistics)
        })
        .collect();
    joined(rows, |rows| Tensor::cat(rows, 0))
}

fn one_size(backbone: &ResNet, views: &[Tensor], groups: i64, statistics: Statistics) -> Tensor {
    let (v, n) = (views.len() as i64, views[0].size()[0]);
    let per_group = n / groups;
    // All views of a group's images next to each other.
    let x: Vec<Tensor> = (0..groups)
        .flat_map(|group| views.iter().map(move |x| x.narrow(0, group * per_group, per_group)))
        .collect();
    let x = joined(x, |x| Tensor::cat(x, 0));
    let h = backbone.forward(&x, Phase::Training { groups, statistics }); // [groups·V·per_group, F]
    h.view([groups, v, per_group, -1]).permute([1, 0, 2, 3]).reshape([v, n, -1])
}

/// Each view in its own pass, batch norm seeing that view alone (MoCo, `SimSiam`, BYOL). Views `[n, 3, h, w]` to rows
/// `[V, n, F]`.
///
/// Running statistics move once per step, by the mean over all views. In PyTorch each pass moves them, so there they follow
/// nearly V times as fast; training does not see them.
pub(super) fn apart(
    backbone: &ResNet,
    views: &[Tensor],
    groups: i64,
    statistics: Statistics,
) -> Tensor {
    let passes = views.len() as i64;
    let rows: Vec<Tensor> = (0..)
        .zip(views)
        .map(|(index, view)| {
            let statistics = share(statistics, index, passes, groups);
            backbone.forward(view, Phase::Training { groups, statistics })
        })
        .collect();
    Tensor::stack(&rows, 0)
}

/// The taps of a head for each view by itself: rows `[V, N, F]`, one list of `[N, ·]` per view.
pub(super) fn heads_apart(head: &Head, rows: &Tensor) -> Vec<Vec<Tensor>> {
    let views = rows.size()[0];
    let phase = |view| Phase::Training {
        groups: 1,
        statistics: Statistics::Move { seen: view, of: views },
    };
    (0..views).map(|view| head.forward_taps(&rows.select(0, view), phase(view))).collect()
}

/// What a head gives of each view, out of its taps.
pub(super) fn outputs(taps: &[Vec<Tensor>]) -> Vec<Tensor> {
    taps.iter().map(|taps| taps[taps.len() - 1].shallow_clone()).collect()
}

/// What a head makes of each view by itself, `[N, ·]` each.
pub(super) fn head_apart(head: &Head, views: &[Tensor]) -> Vec<Tensor> {
    let of = views.len() as i64;
    let phase = |seen| Phase::Training { groups: 1, statistics: Statistics::Move { seen, of } };
    (0..).zip(views).map(|(view, rows)| head.forward(rows, phase(view))).collect()
}

/// Taps of the first two views, one below the other, `[2N, ·]` each.
pub(super) fn two_views(taps: &[Vec<Tensor>]) -> Vec<Tensor> {
    taps[0].iter().zip(&taps[1]).map(|(first, second)| Tensor::cat(&[first, second], 0)).collect()
}

/// The part of a step's statistics that belongs to one of several passes over the same images.
pub(super) fn share(statistics: Statistics, pass: i64, passes: i64, groups: i64) -> Statistics {
    match statistics {
        Statistics::Keep => Statistics::Keep,
        Statistics::Move { seen, of } => {
            Statistics::Move { seen: seen * passes + pass * groups, of: of * passes }
        }
    }
}

/// Spares the copy where there is nothing to join.
fn joined(mut parts: Vec<Tensor>, join: impl Fn(&[Tensor]) -> Tensor) -> Tensor {
    if parts.len() == 1 { parts.remove(0) } else { join(&parts) }
}
