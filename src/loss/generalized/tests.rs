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
        let mut draw =
            |prior: Prior| rows_of(&prior.sample(&mut stream, [both as i64, width as i64], CPU));
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
    assert!((without - (own + 2.0 * (images - 1) as f64).ln() + 1.0 / temperature).abs() < 1e-12);

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
    let at =
        |distribution, shift: f64| evaluate(&of(distribution), &(&rows + shift), 1.0).distribution;
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
    refused("distribution = 'swd_normal'\nswd_dim = 0", "`method.loss.swd_dim` must be at least");
    refused("swd_dim = 4", "`method.loss.swd_dim` counts directions");
    assert!(toml::from_str::<Generalized>("dist = 'normal'").is_err());
    for (text, distribution) in
        ["logsumexp", "swd_hypersphere", "swd_hypercube", "swd_normal"].iter().zip(ALL)
    {
        let loss: Generalized = toml::from_str(&format!("distribution = '{text}'")).unwrap();
        assert_eq!(loss, of(distribution));
        assert_eq!(toml::from_str::<Generalized>(&toml::to_string(&loss).unwrap()).unwrap(), loss);
    }

    let wide = Generalized { swd_dim: Some(9), ..of(Distribution::SwdNormal) };
    let message = wide.evaluate(&normal(7, 4, 8), 1.0, 4, &mut stream()).unwrap_err().to_string();
    assert!(message.contains("between 1 and the width 8"), "{message}");
    let message =
        of(Distribution::LogSumExp).evaluate(&normal(7, 3, 8), 1.0, 4, &mut stream()).unwrap_err();
    assert!(message.to_string().contains("found 3 rows"), "{message}");
    let message =
        of(Distribution::LogSumExp).evaluate(&normal(7, 4, 8), 0.0, 4, &mut stream()).unwrap_err();
    assert!(message.to_string().contains("`method.temperature` must be above 0"), "{message}");
}
