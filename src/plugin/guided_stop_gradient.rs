//! Guided stop-gradient: of two images, the two views closest to each other are predicted away from each other.
//!
//! **Paper.** Lee, Lee 2023, "Implicit contrastive representation learning with guided stop-gradient", arXiv:2503.09058.
//! Its code: bych-lee/gsg.
//!
//! **Idea.** `SimSiam` and BYOL never compare different images. For an image and a partner, each with two views, the two
//! closest of the four pairs across the images are found. These views predict, and so are moved, each towards its own
//! image's other view; the others are targets. So they part, without a negative term in the loss.
//!
//! **Symbols.** `z_ab` projection and `p_ab` prediction of image a's view b; D(p, z) = -cos(p, stop-gradient z); r(i) the
//! partner of image i.

use crate::error::{Error, Result};
use crate::random::Stream;
use crate::rows::in_full;
use crate::shape::check;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Which views of a partner are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartnerViews {
    /// Two more views of every image, as the released code: four views per image.
    #[default]
    Fresh,
    /// The partner's own two views: half the cost.
    Reuse,
}

/// The recipe's `[plugins.guided_stop_gradient]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuidedStopGradient {
    /// Which views of a partner are looked at.
    pub partner_views: PartnerViews,
    /// Whether no image may be its own partner; the released code draws any permutation.
    pub derangement: bool,
}

/// What [`GuidedStopGradient::loss`] finds.
#[derive(Debug)]
pub struct Guided {
    /// The loss, a scalar (f64) with a graph: in [-1, 1] for cosines.
    pub loss: Tensor,
    /// Share of the pairs whose closest views were (1,1), (1,2), (2,1), (2,2): view of the image, view of the partner.
    pub closest: [f64; 4],
}

impl GuidedStopGradient {
    /// Views per image.
    pub fn views(&self) -> usize {
        match self.partner_views {
            PartnerViews::Fresh => 4,
            PartnerViews::Reuse => 2,
        }
    }

    /// Partners r of `images` images, i64 `[N]`: a uniform permutation, or one without fixed points.
    ///
    /// # Errors
    /// [`Error::Recipe`] if a single image should have another for a partner.
    pub fn partners(&self, images: usize, stream: &mut Stream) -> Result<Tensor> {
        if self.derangement && images == 1 {
            return Err(Error::Recipe(
                "`plugins.guided_stop_gradient.derangement` needs two images, found a batch of 1: use a larger \
                 `data.batch_size`"
                    .to_owned(),
            ));
        }
        // About e permutations are drawn until one has no fixed point.
        let order = loop {
            let order = stream.permutation(images);
            let fixed = order.iter().enumerate().any(|(image, partner)| image == *partner);
            if !(self.derangement && fixed) {
                break order;
            }
        };
        let order: Vec<i64> = order.into_iter().map(|partner| partner as i64).collect();
        Ok(Tensor::from_slice(&order))
    }

    /// The loss of predictions and projections of all views, [`Self::views`] of each, `[N, d]` in the order of the images:
    ///
    /// | closest | loss of the pair, times ½ |
    /// |---|---|
    /// | z11, z21 | D(p11, z12) + D(p21, z22) |
    /// | z11, z22 | D(p11, z12) + D(p22, z21) |
    /// | z12, z21 | D(p12, z11) + D(p21, z22) |
    /// | z12, z22 | D(p12, z11) + D(p22, z21) |
    ///
    /// and the mean over the images. Distances are Euclidean and of the projections as they are, the first of equals wins.
    /// Projections (of the target network, where there is one) are constants. `similarity` gives the cosine `[N]` of
    /// predictions and projections `[N, d]` that are not normalised, and is asked four times.
    ///
    /// # Errors
    /// [`Error::Shape`] if a view is missing or shapes differ; what `similarity` finds.
    pub fn loss(
        &self,
        predictions: &[Tensor],
        projections: &[Tensor],
        partners: &Tensor,
        mut similarity: impl FnMut(&Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Guided> {
        for (name, views) in [("predictions", predictions), ("projections", projections)] {
            if views.len() != self.views() {
                return Err(Error::Shape(format!(
                    "guided stop-gradient needs {name} of {} views, found {}",
                    self.views(),
                    views.len()
                )));
            }
            for view in views {
                check(name, view, &[-1, -1])?;
                check(name, view, &views[0].size())?;
            }
        }
        let count = projections[0].size()[0];
        check("predictions", &predictions[0], &[count, -1])?;
        check("partners", partners, &[count])?;

        let partners = partners.to_device(projections[0].device());
        let [third, fourth] = match self.partner_views {
            PartnerViews::Fresh => [2, 3],
            PartnerViews::Reuse => [0, 1],
        };
        let of_partner = |view: &Tensor| view.index_select(0, &partners);
        let p = predictions;
        let z: Vec<Tensor> = projections.iter().map(|z| in_full(&z.detach())).collect();
        let [p11, p12] = [&p[0], &p[1]];
        let [p21, p22] = [of_partner(&p[third]), of_partner(&p[fourth])];
        let [z11, z12] = [&z[0], &z[1]];
        let [z21, z22] = [of_partner(&z[third]), of_partner(&z[fourth])];

        let closest = distances([z11, z12], [&z21, &z22]).argmin(1, true); // [N, 1]
        let first = [similarity(p11, z12)?, similarity(p12, z11)?];
        let second = [similarity(&p21, &z22)?, similarity(&p22, &z21)?];
        let cases = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(b, c)| &first[b] + &second[c]);
        let chosen = Tensor::stack(&cases, 1).gather(1, &closest, false);
        let share = |case: i64| closest.eq(case).to_kind(Kind::Double).mean(None).double_value(&[]);
        Ok(Guided { loss: chosen.mean(Kind::Double) * -0.5, closest: [0, 1, 2, 3].map(share) })
    }
}

/// Distances of a pair's views, `[N, 4]`: (1,1), (1,2), (2,1), (2,2).
fn distances(image: [&Tensor; 2], partner: [&Tensor; 2]) -> Tensor {
    let distance = |a: &Tensor, b: &Tensor| (a - b).square().sum_dim_intlist(1, false, None).sqrt();
    let all = image.map(|a| partner.map(|b| distance(a, b)));
    Tensor::stack(all.as_flattened(), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope};
    use crate::rows::{row_dot, unit_rows};

    const FRESH: GuidedStopGradient =
        GuidedStopGradient { partner_views: PartnerViews::Fresh, derangement: false };

    fn stream(step: u64) -> Stream {
        Stream::open(23, Purpose::Partner, Scope::Step { step, view: 0 })
    }

    fn rows(item: u64, count: i64, width: i64) -> Tensor {
        let mut stream = Stream::open(23, Purpose::Test, Scope::Item(item));
        let values: Vec<f64> = (0..count * width).map(|_| stream.normal()).collect();
        Tensor::from_slice(&values).view([count, width])
    }

    fn loss(
        settings: &GuidedStopGradient,
        p: &[Tensor],
        z: &[Tensor],
        partners: &Tensor,
    ) -> Result<Guided> {
        let cosine = |p: &Tensor, z: &Tensor| row_dot(&unit_rows(p), &unit_rows(z)).squeeze_dim(1);
        settings.loss(p, z, partners, |p, z| Ok(cosine(p, z)))
    }

    fn values(tensor: &Tensor) -> Vec<Vec<f64>> {
        Vec::<Vec<f64>>::try_from(tensor).unwrap()
    }

    fn length(v: &[f64]) -> f64 {
        v.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    /// The table of the paper, image by image; also which case it was.
    fn naive(p: [&Tensor; 4], z: [&Tensor; 4], partners: &[i64]) -> (f64, Vec<usize>) {
        let (p, z) = (p.map(values), z.map(values));
        let d = |p: &[f64], z: &[f64]| {
            let dot: f64 = p.iter().zip(z).map(|(p, z)| p * z).sum();
            -dot / length(p) / length(z)
        };
        let mut total = 0.0;
        let mut cases = Vec::new();
        for (i, partner) in partners.iter().enumerate() {
            let r = *partner as usize;
            let [z11, z12, z21, z22] = [&z[0][i], &z[1][i], &z[2][r], &z[3][r]];
            let [p11, p12, p21, p22] = [&p[0][i], &p[1][i], &p[2][r], &p[3][r]];
            let apart = |a: &[f64], b: &[f64]| {
                length(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
            };
            let distances = [apart(z11, z21), apart(z11, z22), apart(z12, z21), apart(z12, z22)];
            let case = (0..4).fold(
                0,
                |best, case| {
                    if distances[case] < distances[best] { case } else { best }
                },
            );
            total += 0.5
                * match case {
                    0 => d(p11, z12) + d(p21, z22),
                    1 => d(p11, z12) + d(p22, z21),
                    2 => d(p12, z11) + d(p21, z22),
                    _ => d(p12, z11) + d(p22, z21),
                };
            cases.push(case);
        }
        (total / partners.len() as f64, cases)
    }

    fn points(points: [[f64; 2]; 4]) -> [Tensor; 4] {
        points.map(|point| Tensor::from_slice(&point).view([1, 2]))
    }

    #[test]
    fn the_published_distances_choose_the_third_case() {
        let z = points([[0.0, 0.0], [4.0, 0.0], [3.0, 1.0], [10.0, 10.0]]);
        let found = distances([&z[0], &z[1]], [&z[2], &z[3]]);
        let expected = Tensor::from_slice(&[10.0, 200.0, 2.0, 136.0]).sqrt().view([1, 4]);
        assert!((found - expected).abs().max().double_value(&[]) < 1e-7);
        let p = [0, 1, 2, 3].map(|view| rows(view, 1, 2).set_requires_grad(true));
        let alone = Tensor::from_slice(&[0_i64]);
        // A target at the origin has no direction to be pulled in.
        let z = z.map(|z| z + 1.0);
        let guided = loss(&FRESH, &p, &z, &alone).unwrap();
        assert_eq!(guided.closest.map(|share| share > 0.5), [false, false, true, false]);
        // p12 and p21 predict, and they alone are moved.
        guided.loss.backward();
        let moved = p.each_ref().map(|p| {
            let gradient = p.grad();
            gradient.defined() && gradient.abs().max().double_value(&[]) > 0.0
        });
        assert_eq!(moved, [false, true, true, false]);
    }

    #[test]
    fn the_loss_is_the_table_of_the_paper() {
        let mut seen = [false; 4];
        for step in 0..4 {
            let tensors = |from: u64| [0, 1, 2, 3].map(|view| rows(10 * step + from + view, 25, 6));
            let (p, z) = (tensors(0), tensors(4));
            let partners = FRESH.partners(25, &mut stream(step)).unwrap();
            let order = Vec::<i64>::try_from(&partners).unwrap();
            let (expected, cases) = naive(p.each_ref(), z.each_ref(), &order);
            let guided = loss(&FRESH, &p, &z, &partners).unwrap();
            assert!((guided.loss.double_value(&[]) - expected).abs() < 1e-12);
            for (case, share) in guided.closest.iter().enumerate() {
                let count = cases.iter().filter(|found| **found == case).count();
                assert!((share - count as f64 / 25.0).abs() < 1e-12);
                seen[case] |= count > 0;
            }

            let reuse = GuidedStopGradient { partner_views: PartnerViews::Reuse, ..FRESH };
            let again = |views: &[Tensor; 4]| [0, 1, 0, 1].map(|view| views[view].shallow_clone());
            let (expected, _) = naive(again(&p).each_ref(), again(&z).each_ref(), &order);
            let guided = loss(&reuse, &p[..2], &z[..2], &partners).unwrap();
            assert!((guided.loss.double_value(&[]) - expected).abs() < 1e-12);
        }
        assert_eq!(seen, [true; 4]);
    }

    #[test]
    fn predictions_get_their_slope_and_projections_none() {
        let p = [0, 1, 2, 3].map(|view| rows(view, 5, 3).set_requires_grad(true));
        let z = [4, 5, 6, 7].map(|view| rows(view, 5, 3).set_requires_grad(true));
        let partners = Tensor::from_slice(&[3_i64, 0, 2, 4, 1]);
        loss(&FRESH, &p, &z, &partners).unwrap().loss.backward();
        assert!(z.iter().all(|z| !z.grad().defined()));
        let constants = p.each_ref().map(Tensor::detach);
        let targets = z.each_ref().map(Tensor::detach);
        for (view, row, column) in (0..4)
            .flat_map(|view| (0..5).map(move |row| (view, row)))
            .flat_map(|(view, row)| (0..3).map(move |column| (view, row, column)))
        {
            let moved = |by: f64| {
                let moved = constants.each_ref().map(Tensor::copy);
                let _ = moved[view].get(row).get(column).g_add_scalar_(by);
                naive(moved.each_ref(), targets.each_ref(), &[3, 0, 2, 4, 1]).0
            };
            let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            let found = p[view].grad().double_value(&[row, column]);
            assert!((found - slope).abs() < 1e-8, "{view} {row} {column}: {found}, {slope}");
        }
    }

    #[test]
    fn the_first_of_equal_distances_wins_and_lengths_count() {
        let same = points([[1.0, 1.0]; 4]);
        let alone = Tensor::from_slice(&[0_i64]);
        let closest = |z: &[Tensor; 4]| loss(&FRESH, z, z, &alone).unwrap().closest;
        assert!(closest(&same)[0] > 0.5);
        let corners = points([[9.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]);
        assert!(closest(&corners)[2] > 0.5);
        // By direction alone the first would be closest.
        let lengths = points([[1.0, 0.0], [7.0, 7.0], [50.0, 0.0], [6.0, 9.0]]);
        assert!(closest(&lengths)[3] > 0.5);
    }

    #[test]
    fn partners_are_a_permutation_and_without_fixed_points_if_asked() {
        let deranged = GuidedStopGradient { derangement: true, ..FRESH };
        let mut fixed = 0;
        let mut firsts = [0; 5];
        for step in 0..400 {
            for settings in [FRESH, deranged.clone()] {
                let partners = settings.partners(5, &mut stream(step)).unwrap();
                let order = Vec::<i64>::try_from(partners).unwrap();
                let own = (0..5).filter(|image| order[*image as usize] == *image).count();
                if settings.derangement {
                    assert_eq!(own, 0);
                    firsts[order[0] as usize] += 1;
                } else {
                    fixed += own;
                }
                let mut sorted = order;
                sorted.sort_unstable();
                assert_eq!(sorted, [0, 1, 2, 3, 4]);
            }
        }
        // One fixed point on average, and no preference among derangements.
        assert!((350..450).contains(&fixed), "{fixed}");
        assert!(firsts[1..].iter().all(|count| (70..130).contains(count)), "{firsts:?}");
        assert!(deranged.partners(1, &mut stream(0)).is_err());
        assert!(FRESH.partners(1, &mut stream(0)).is_ok());
    }

    #[test]
    fn views_that_are_missing_or_do_not_fit_are_refused() {
        let four = [0, 1, 2, 3].map(|view| rows(view, 5, 3));
        let partners = Tensor::from_slice(&[3_i64, 0, 2, 4, 1]);
        assert!(loss(&FRESH, &four[..2], &four, &partners).is_err());
        assert!(loss(&FRESH, &four, &four, &partners.narrow(0, 0, 3)).is_err());
        let short = four.each_ref().map(|view| view.narrow(0, 0, 4));
        assert!(loss(&FRESH, &four, &short, &partners).is_err());
    }
}
