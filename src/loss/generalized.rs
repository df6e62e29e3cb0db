//! The generalised contrastive loss: the views of an image align, and all rows together follow a distribution.

use crate::error::{Error, Result};
use crate::loss::attach;
use crate::loss::nt_xent::{Agreement, agreement};
use crate::loss::sliced_wasserstein::{Prior, directions, matched_squares};
use crate::loss::tiled::{Contrast, Positive};
use crate::random::Stream;
use crate::rows::{computing_kind, unit_rows};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

/// Which distribution the rows should follow, and how that is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// Uniform on the unit sphere, by log-sum-exps of all cosines: the decoupled NT-Xent loss.
    #[default]
    #[serde(rename = "logsumexp")]
    LogSumExp,
    /// Uniform on the unit sphere, by sliced Wasserstein distance.
    SwdHypersphere,
    /// Uniform in a cube, by sliced Wasserstein distance; rows are not normalised.
    SwdHypercube,
    /// Standard normal, by sliced Wasserstein distance; rows are not normalised.
    SwdNormal,
}

/// How terms are scaled where the paper's listing and the authors' notebook differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Convention {
    /// The authors' notebook: alignment halved, the sliced distance a mean over all elements, the cube `[-1, 1]`.
    #[default]
    Notebook,
    /// Algorithm 1 of the paper as it was re-implemented (mona251/Intriguing-Properties-of-Contrastive-Losses): alignment
    /// not halved, the sliced distance summed over rows and divided by width and directions, the cube `[0, 1]`.
    Listing,
}

/// The loss family of "Intriguing Properties of Contrastive Losses" (Chen, Luo, Li 2021, arXiv:2011.02803,
/// Algorithm 1), scaled as in the authors' notebook (`colabs/intriguing_properties` of google-research/simclr):
///
/// ```text
/// L = scale · ( L_align + λ · L_distribution )
/// L_align = mean over all n·d elements of (h1 - h2)² / 2
/// L_distribution = mean_i [ ln Σ_j exp(h_i·h_j / τ) - ln d ]        over all 2n rows j, i itself included
///                or mean of ( sort(H W) - sort(P W) )²              columns sorted, P a sample of the prior
/// ```
///
/// of rows h, normalised for the two distributions on the sphere and as they are for the others, with H = [h1; h2] and W a
/// random orthogonal matrix, fresh at every step like P.
///
/// On unit rows `L_align = (1 - s⁺) / d`, so with λ = τ / d the log-sum-exp form is τ / d times NT-Xent, up to a constant
/// and the term of i itself. A collapsed batch costs `λ (ln 2n + 1/τ - ln d)` there, at scale 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Generalized {
    /// Which distribution the rows should follow.
    pub distribution: Distribution,
    /// λ, the weight of the distribution's term, finite, at least 0; 1 in the authors' notebook.
    pub lambda: f64,
    /// Factor of the whole loss, above 0; 1 in the authors' notebook.
    pub scale: f64,
    /// How terms are scaled.
    pub convention: Convention,
    /// Directions of the sliced distance, from 1 to the width d of the projections; d if left out, as in the notebook.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swd_dim: Option<usize>,
}

impl Default for Generalized {
    fn default() -> Self {
        Self {
            distribution: Distribution::default(),
            lambda: 1.0,
            scale: 1.0,
            convention: Convention::default(),
            swd_dim: None,
        }
    }
}

/// The loss of a batch, its two terms, and what is worth logging about it.
#[derive(Debug)]
pub struct Evaluated {
    /// The loss, a f64 scalar with the graph of the projections.
    pub loss: Tensor,
    /// `L_align`, before the scale.
    pub alignment: f64,
    /// `L_distribution`, before λ and the scale.
    pub distribution: f64,
    /// How well the two views find each other, normalised for this.
    pub agreement: Agreement,
}

impl Generalized {
    /// Checks the settings; `key` is the loss's table in the recipe, `method.loss`.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting.
    pub fn check(&self, key: &str) -> Result<()> {
        let Self { lambda, scale, .. } = self;
        if !(lambda.is_finite() && *lambda >= 0.0) {
            return Err(Error::Recipe(format!(
                "`{key}.lambda` must be finite and at least 0, found `{lambda}`"
            )));
        }
        if !(scale.is_finite() && *scale > 0.0) {
            return Err(Error::Recipe(format!(
                "`{key}.scale` must be finite and above 0, found `{scale}`"
            )));
        }
        match self.swd_dim {
            Some(0) => Err(Error::Recipe(format!("`{key}.swd_dim` must be at least 1, found `0`"))),
            Some(_) if self.prior().is_none() => Err(Error::Recipe(format!(
                "`{key}.swd_dim` counts directions of a sliced distance, which `distribution = \"logsumexp\"` has not: \
                 leave it out"
            ))),
            _ => Ok(()),
        }
    }

    fn prior(&self) -> Option<Prior> {
        match (self.distribution, self.convention) {
            (Distribution::LogSumExp, _) => None,
            (Distribution::SwdHypersphere, _) => Some(Prior::Hypersphere),
            (Distribution::SwdHypercube, Convention::Notebook) => Some(Prior::Hypercube(-1.0, 1.0)),
            (Distribution::SwdHypercube, Convention::Listing) => Some(Prior::Hypercube(0.0, 1.0)),
            (Distribution::SwdNormal, _) => Some(Prior::Normal),
        }
    }

    /// The loss of `projections` `[2n, d]` (first views of all n images, then second views; not normalised) at temperature
    /// τ, which of the terms only the log-sum-exp knows, in f32, or f64 for f64 input, with `tile` rows at a time, at least 1.
    /// Directions and prior are drawn from `stream`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is an even number of rows, at least two. [`Error::Recipe`] if the temperature is not
    /// above 0 or there are more directions than the rows are wide.
    pub fn evaluate(
        &self,
        projections: &Tensor,
        temperature: f64,
        tile: i64,
        stream: &mut Stream,
    ) -> Result<Evaluated> {
        let agreement = agreement(projections, temperature, tile)?;
        let hidden = match self.distribution {
            Distribution::LogSumExp | Distribution::SwdHypersphere => unit_rows(projections),
            Distribution::SwdHypercube | Distribution::SwdNormal => {
                projections.to_kind(computing_kind(projections))
            }
        };
        let images = hidden.size()[0] / 2;
        let (first, second) = (hidden.narrow(0, 0, images), hidden.narrow(0, images, images));
        let squares = (first - second).square().mean(Kind::Double);
        let alignment = match self.convention {
            Convention::Notebook => squares / 2.0,
            Convention::Listing => squares,
        };
        let distribution = match self.prior() {
            None => mean_log_sum_exp(&hidden, temperature, tile)?,
            Some(prior) => self.sliced_distance(&hidden, prior, stream)?,
        };
        Ok(Evaluated {
            alignment: alignment.double_value(&[]),
            distribution: distribution.double_value(&[]),
            loss: (alignment + distribution * self.lambda) * self.scale,
            agreement,
        })
    }

    fn sliced_distance(
        &self,
        hidden: &Tensor,
        prior: Prior,
        stream: &mut Stream,
    ) -> Result<Tensor> {
        let (rows, width) = hidden.size2().expect("rows are checked before");
        let count = self.swd_dim.map_or(width, |count| count as i64);
        if !(1..=width).contains(&count) {
            return Err(Error::Recipe(format!(
                "`method.loss.swd_dim` must lie between 1 and the width {width} of the projections, found `{count}`"
            )));
        }
        let options = (hidden.kind(), hidden.device());
        let directions = directions(stream, width, count).to_device(options.1).to_kind(options.0);
        let sample = prior.sample(stream, [rows, width], options);
        let squares = matched_squares(hidden, &sample, &directions).sum(Kind::Double);
        Ok(match self.convention {
            Convention::Notebook => squares / (rows * count) as f64,
            Convention::Listing => squares / (width * count) as f64,
        })
    }
}

/// Mean over rows of the log-sum-exp of their products with all rows, themselves included, less ln d.
fn mean_log_sum_exp(hidden: &Tensor, temperature: f64, tile: i64) -> Result<Tensor> {
    let (rows, width) = hidden.size2().expect("rows are checked before");
    let options = (hidden.kind(), hidden.device());
    let values = hidden.detach();
    let found = Contrast {
        rows: &values,
        columns: &values,
        temperature,
        positive: Positive::None,
        weights: &Tensor::full([rows], 1.0 / rows as f64, options),
        excluded: None,
        negatives_scale: None,
        columns_gradient: true,
        tile,
    }
    .evaluate()?;
    let mean = no_grad(|| found.log_sum_exp.mean(Kind::Double)).double_value(&[]);
    let gradient = match found.columns_gradient {
        Some(columns) => found.rows_gradient + columns,
        None => unreachable!("the columns' gradient was asked for"),
    };
    Ok(attach(mean - (width as f64).ln(), &[(hidden, &gradient)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::nt_xent::{NtXent, Reduction};
    use crate::loss::pairwise::testing::{gradient_of, normal, rows_of, slopes_agree};
    use crate::random::{Purpose, Scope};
    use tch::Device;

    const CPU: (Kind, Device) = (Kind::Double, Device::Cpu);

    const ALL: [Distribution; 4] = [
        Distribution::LogSumExp,
        Distribution::SwdHypersphere,
        Distribution::SwdHypercube,
        Distribution::SwdNormal,
    ];

    fn stream() -> Stream {
        Stream::open(13, Purpose::Test, Scope::Item(0))
    }

    fn of(distribution: Distribution) -> Generalized {
        Generalized { distribution, ..Generalized::default() }
    }

    fn evaluate(loss: &Generalized, rows: &Tensor, temperature: f64) -> Evaluated {
        loss.evaluate(rows, temperature, 5, &mut stream()).unwrap()
    }

    fn value(loss: &Generalized, rows: &Tensor, temperature: f64) -> f64 {
        evaluate(loss, rows, temperature).loss.double_value(&[])
    }

    /// The formulas of the spec, loop by loop, on the same draws.
    fn naive(loss: &Generalized, rows: &[Vec<f64>], temperature: f64) -> f64 {
        let width = rows[0].len();
        let listing = loss.convention == Convention::Listing;
        let normalize = |row: &Vec<f64>| -> Vec<f64> {
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.iter().map(|x| x / length).collect()
        };
        let hidden: Vec<Vec<f64>> = match loss.distribution {
            Distribution::SwdHypercube | Distribution::SwdNormal => rows.to_vec(),
            _ => rows.iter().map(normalize).collect(),
        };
        let (n, both) = (rows.len() / 2, rows.len());
        let mut alignment = 0.0;
        for (first, second) in hidden[..n].iter().zip(&hidden[n..]) {
            for (a, b) in first.iter().zip(second) {
                alignment += (a - b).powi(2) / (n * width) as f64;
            }
        }
        if !listing {
            alignment /= 2.0;
        }
        let mut distribution = 0.0;
        if loss.distribution == Distribution::LogSumExp {
            for left in &hidden {
                let dot =
                    |right: &Vec<f64>| -> f64 { left.iter().zip(right).map(|(a, b)| a * b).sum() };
                let total: f64 = hidden.iter().map(|right| (dot(right) / temperature).exp()).sum();
                distribution += (total.ln() - (width as f64).ln()) / both as f64;
            }
        } else {
            let mut stream = stream();
            let count = loss.swd_dim.unwrap_or(width);
            let directions = rows_of(&directions(&mut stream, width as i64, count as i64).tr());
            let mut draw = |prior: Prior| {
                rows_of(&prior.sample(&mut stream, [both as i64, width as i64], CPU))
            };
            let mut sample = match loss.distribution {
                Distribution::SwdHypercube => draw(Prior::Hypercube(0.0, 1.0)),
                _ => draw(Prior::Normal),
            };
            if loss.distribution == Distribution::SwdHypercube && !listing {
                sample.iter_mut().flatten().for_each(|x| *x = 2.0 * *x - 1.0);
            }
            if loss.distribution == Distribution::SwdHypersphere {
                sample = sample.iter().map(normalize).collect();
            }
            for direction in &directions {
                let project = |rows: &[Vec<f64>]| {
                    let dot = |row: &Vec<f64>| row.iter().zip(direction).map(|(a, b)| a * b).sum();
                    let mut projected: Vec<f64> = rows.iter().map(dot).collect();
                    projected.sort_by(f64::total_cmp);
                    projected
                };
                for (a, b) in project(&hidden).iter().zip(project(&sample)) {
                    distribution += (a - b).powi(2);
                }
            }
            distribution /= (if listing { width * count } else { both * count }) as f64;
        }
        loss.scale * (alignment + loss.lambda * distribution)
    }

    #[test]
    fn every_form_and_its_slopes_equal_a_scalar_loop() {
        for distribution in ALL {
            for convention in [Convention::Notebook, Convention::Listing] {
                for swd_dim in [None, Some(3)] {
                    if swd_dim.is_some() && distribution == Distribution::LogSumExp {
                        continue;
                    }
                    let loss =
                        Generalized { distribution, convention, swd_dim, lambda: 0.7, scale: 3.0 };
                    loss.check("method.loss").unwrap();
                    for temperature in [0.2, 1.0] {
                        let rows = normal(1, 14, 4) * 1.3;
                        let expected = |rows: &[Vec<f64>]| naive(&loss, rows, temperature);
                        let found = value(&loss, &rows, temperature);
                        let whole = expected(&rows_of(&rows));
                        assert!((found - whole).abs() < 1e-12, "{loss:?}: {found} against {whole}");
                        let gradient =
                            gradient_of(&rows, |rows| evaluate(&loss, rows, temperature).loss);
                        slopes_agree(expected, &rows, &gradient);

                        let single = rows.to_kind(Kind::Float);
                        let found = value(&loss, &single, temperature);
                        assert!((found / whole - 1.0).abs() < 1e-5, "{found} against {whole}");
                    }
                }
            }
        }
    }

    #[test]
    fn published_vectors_are_met() {
        let rows = Tensor::from_slice(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0, -1.0, 1.0]).view([4, 2]);
        let found = evaluate(&Generalized::default(), &rows, 0.5);
        for (found, expected) in [
            (found.alignment, 0.146_446_609_4),
            (found.distribution, 1.984_608_649_4),
            (found.loss.double_value(&[]), 2.131_055_258_8),
        ] {
            assert!((found - expected).abs() < 1e-10, "{found} against {expected}");
        }
    }

    #[test]
    fn with_lambda_of_temperature_over_width_it_is_nt_xent_but_for_the_own_term() {
        // Where all rows but the pairs are orthogonal, each sum of exponentials is known: the own term is what differs.
        let (images, width, temperature) = (4_i64, 6_i64, 0.3);
        let axes = Tensor::eye(width, (Kind::Double, Device::Cpu)).narrow(0, 0, images);
        let pairs = Tensor::cat(&[&axes * 2.0, axes * 0.5], 0);
        let lambda = temperature / width as f64;
        let loss = Generalized { lambda, ..Generalized::default() };
        let nt_xent = NtXent { temperature, reduction: Reduction::Mean2n };
        let coupled = |rows: &Tensor| {
            let found = evaluate(&loss, rows, temperature);
            found.loss.double_value(&[]) / lambda + (width as f64).ln() - 1.0 / temperature
        };
        let own = (1.0 / temperature).exp();
        let with_own = (2.0 * own + 2.0 * (images - 1) as f64).ln() - 1.0 / temperature;
        assert!((coupled(&pairs) - with_own).abs() < 1e-12);
        let without = nt_xent.evaluate(&pairs, 9).unwrap().loss;
        assert!(
            (without - (own + 2.0 * (images - 1) as f64).ln() + 1.0 / temperature).abs() < 1e-12
        );

        // In general: ln( exp lse' + e^{1/τ} ) of NT-Xent's own log-sum-exps lse', which a cool temperature parts.
        let rows = normal(2, 12, 6);
        let unit = rows_of(&unit_rows(&rows));
        let dot = |i: usize, j: usize| -> f64 { (0..6).map(|k| unit[i][k] * unit[j][k]).sum() };
        let difference: f64 = (0..12_usize)
            .map(|i| {
                let others: f64 =
                    (0..12).filter(|j| *j != i).map(|j| (dot(i, j) / temperature).exp()).sum();
                ((others + own) / others).ln() / 12.0
            })
            .sum();
        let without = nt_xent.evaluate(&rows, 9).unwrap().loss;
        assert!((coupled(&rows) - without - difference).abs() < 1e-12);
    }

    #[test]
    fn a_collapsed_batch_costs_what_the_formula_says() {
        let rows = Tensor::ones([10, 8], (Kind::Float, Device::Cpu));
        let loss = Generalized { lambda: 0.4, scale: 2.0, ..Generalized::default() };
        let expected = 2.0 * 0.4 * (10_f64.ln() + 1.0 / 0.2 - 8_f64.ln());
        assert!((value(&loss, &rows, 0.2) - expected).abs() < 1e-6);
        let gradient = gradient_of(&rows, |rows| evaluate(&loss, rows, 0.2).loss);
        assert!(gradient.abs().max().double_value(&[]) < 1e-6);
    }

    #[test]
    fn rows_that_are_the_prior_sample_are_at_distance_zero() {
        for distribution in
            [Distribution::SwdHypersphere, Distribution::SwdHypercube, Distribution::SwdNormal]
        {
            let loss = of(distribution);
            let mut stream = stream();
            let _ = directions(&mut stream, 6, 6);
            let sample = loss.prior().unwrap().sample(&mut stream, [16, 6], CPU);
            let found = evaluate(&loss, &sample, 1.0);
            assert!(found.distribution < 1e-28, "{distribution:?}: {}", found.distribution);
            assert!(found.alignment > 0.1);
        }
    }

    #[test]
    fn the_wasserstein_distance_falls_as_rows_come_to_follow_the_prior() {
        let rows = normal(3, 64, 4);
        let at = |distribution, shift: f64| {
            evaluate(&of(distribution), &(&rows + shift), 1.0).distribution
        };
        for distribution in
            [Distribution::SwdNormal, Distribution::SwdHypersphere, Distribution::SwdHypercube]
        {
            assert!(at(distribution, 0.0) < at(distribution, 0.5));
            assert!(at(distribution, 0.5) < at(distribution, 3.0));
        }
        assert!(at(Distribution::SwdNormal, 0.0) < 0.1);
    }

    #[test]
    fn neither_order_nor_views_nor_length_on_the_sphere_matters() {
        let rows = normal(4, 12, 5);
        let images = Tensor::from_slice(&[3_i64, 5, 1, 0, 2, 4]);
        let orders = [
            Tensor::arange(12, (Kind::Int64, Device::Cpu)).roll(6, 0),
            Tensor::cat(&[&images, &(&images + 6)], 0),
        ];
        for distribution in ALL {
            let expected = value(&of(distribution), &rows, 0.5);
            for order in &orders {
                let found = value(&of(distribution), &rows.index_select(0, order), 0.5);
                assert!((found - expected).abs() < 1e-13, "{distribution:?}");
            }
            let scaled = value(&of(distribution), &(&rows * 7.0), 0.5);
            let on_sphere =
                matches!(distribution, Distribution::LogSumExp | Distribution::SwdHypersphere);
            assert_eq!((scaled - expected).abs() < 1e-13, on_sphere, "{distribution:?}");
        }
    }

    #[test]
    fn each_step_draws_its_own_directions_and_sample() {
        let rows = normal(5, 12, 5);
        let mut stream = stream();
        let mut next = || of(Distribution::SwdNormal).evaluate(&rows, 1.0, 4, &mut stream).unwrap();
        assert!((next().distribution - next().distribution).abs() > 1e-6);
    }

    #[test]
    fn extremes_stay_finite_and_bfloat16_is_computed_in_single() {
        let rows = normal(6, 16, 8).to_kind(Kind::Float);
        let _ = rows.get(3).zero_();
        for distribution in ALL {
            for temperature in [0.01, 100.0] {
                let loss = |rows: &Tensor| evaluate(&of(distribution), rows, temperature).loss;
                assert!(loss(&rows).double_value(&[]).is_finite());
                assert!(gradient_of(&rows, loss).isfinite().all().int64_value(&[]) == 1);
            }
            let half = rows.to_kind(Kind::BFloat16);
            let loss = |rows: &Tensor| value(&of(distribution), rows, 0.5);
            assert!((loss(&half) - loss(&half.to_kind(Kind::Float))).abs() < 1e-15);
            let gradient = gradient_of(&half, |rows| evaluate(&of(distribution), rows, 0.5).loss);
            assert_eq!(gradient.kind(), Kind::BFloat16);
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let refused = |text: &str, start: &str| {
            let loss: Generalized = toml::from_str(text).unwrap();
            let message = loss.check("method.loss").unwrap_err().to_string();
            assert!(message.starts_with(start), "{message}");
        };
        refused("lambda = -1.0", "`method.loss.lambda` must be finite and at least 0, found `-1`");
        refused("lambda = nan", "`method.loss.lambda` must");
        refused("scale = 0.0", "`method.loss.scale` must be finite and above 0, found `0`");
        refused(
            "distribution = 'swd_normal'\nswd_dim = 0",
            "`method.loss.swd_dim` must be at least",
        );
        refused("swd_dim = 4", "`method.loss.swd_dim` counts directions");
        assert!(toml::from_str::<Generalized>("dist = 'normal'").is_err());
        for (text, distribution) in
            ["logsumexp", "swd_hypersphere", "swd_hypercube", "swd_normal"].iter().zip(ALL)
        {
            let loss: Generalized = toml::from_str(&format!("distribution = '{text}'")).unwrap();
            assert_eq!(loss, of(distribution));
            assert_eq!(
                toml::from_str::<Generalized>(&toml::to_string(&loss).unwrap()).unwrap(),
                loss
            );
        }

        let wide = Generalized { swd_dim: Some(9), ..of(Distribution::SwdNormal) };
        let message =
            wide.evaluate(&normal(7, 4, 8), 1.0, 4, &mut stream()).unwrap_err().to_string();
        assert!(message.contains("between 1 and the width 8"), "{message}");
        let message = of(Distribution::LogSumExp)
            .evaluate(&normal(7, 3, 8), 1.0, 4, &mut stream())
            .unwrap_err();
        assert!(message.to_string().contains("found 3 rows"), "{message}");
        let message = of(Distribution::LogSumExp)
            .evaluate(&normal(7, 4, 8), 0.0, 4, &mut stream())
            .unwrap_err();
        assert!(message.to_string().contains("`method.temperature` must be above 0"), "{message}");
    }
}
