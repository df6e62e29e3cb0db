//! The primitive held to a scalar loop.

use super::testing::{dot, normal, rows_of};
use super::*;
use crate::rows::unit_rows;
use tch::Device;

/// log-sum-exp, positive, hardest, then the gradients of rows, columns and pairs: one scalar loop in f64.
type Naive = (Vec<[f64; 3]>, Vec<Vec<f64>>, Vec<Vec<f64>>, Vec<Vec<f64>>);

fn naive(contrast: &Contrast) -> Naive {
    let (rows, columns) = (rows_of(contrast.rows), rows_of(contrast.columns));
    let weights: Vec<f64> = Vec::try_from(contrast.weights.to_kind(Kind::Double)).unwrap();
    let width = rows[0].len();
    let mut scalars = Vec::new();
    let mut rows_gradient = vec![vec![0.0; width]; rows.len()];
    let mut columns_gradient = vec![vec![0.0; width]; columns.len()];
    let mut pairs_gradient = vec![vec![0.0; width]; rows.len()];
    for (i, row) in rows.iter().enumerate() {
        let (own, pair) = match contrast.positive {
            Positive::None => (None, None),
            Positive::Column(index) => {
                let own = index.int64_value(&[i as i64]) as usize;
                (Some(own), Some(columns[own].clone()))
            }
            Positive::Pair(keys) => (None, Some(rows_of(keys)[i].clone())),
        };
        let excluded: Vec<i64> =
            contrast.excluded.map_or(vec![], |t| Vec::try_from(t.get(i as i64)).unwrap());
        let scale = contrast.negatives_scale.map_or(1.0, |scale| scale.double_value(&[i as i64]));
        let logit = |column: &[f64]| dot(row, column) / contrast.temperature;
        let positive = pair.as_ref().map(|pair| logit(pair));
        let negatives: Vec<usize> = (0..columns.len())
            .filter(|j| Some(*j) != own && !excluded.contains(&(*j as i64)))
            .collect();
        let weight = |j: usize| scale * logit(&columns[j]).exp();
        let mut sum: f64 = negatives.iter().map(|j| weight(*j)).sum();
        sum += positive.map_or(0.0, f64::exp);
        let hardest = negatives.iter().map(|j| logit(&columns[*j])).fold(f64::MIN, f64::max);
        scalars.push([sum.ln(), positive.unwrap_or(0.0), hardest]);
        let mut add = |slope: f64, column: &[f64], gradient: &mut [f64]| {
            for k in 0..width {
                rows_gradient[i][k] += weights[i] * slope * column[k] / contrast.temperature;
                gradient[k] += weights[i] * slope * row[k] / contrast.temperature;
            }
        };
        for j in negatives {
            add(weight(j) / sum, &columns[j], &mut columns_gradient[j]);
        }
        if let (Some(positive), Some(pair)) = (positive, pair) {
            let gradient = match own {
                Some(own) => &mut columns_gradient[own],
                None => &mut pairs_gradient[i],
            };
            add(positive.exp() / sum - 1.0, &pair, gradient);
        }
    }
    (scalars, rows_gradient, columns_gradient, pairs_gradient)
}

fn close(found: &Tensor, expected: &[Vec<f64>], tolerance: f64) {
    let expected = Tensor::from_slice2(expected);
    let off = (found.to_kind(Kind::Double) - &expected).abs().max().double_value(&[]);
    let scale = expected.abs().max().double_value(&[]).max(1e-3);
    assert!(off < tolerance * scale, "off by {off} of {scale}");
}

fn agrees(contrast: &Contrast, tolerance: f64) {
    let found = contrast.evaluate().unwrap();
    let (scalars, rows, columns, pairs) = naive(contrast);
    let scalars: Vec<Vec<f64>> = scalars.iter().map(|three| three.to_vec()).collect();
    let three = [&found.log_sum_exp, &found.positive, &found.hardest];
    close(&Tensor::stack(&three, 1), &scalars, tolerance);
    close(&found.rows_gradient, &rows, tolerance);
    match found.columns_gradient {
        Some(gradient) => close(&gradient, &columns, tolerance),
        None => assert!(!contrast.columns_gradient),
    }
    match found.positives_gradient {
        Some(gradient) => close(&gradient, &pairs, tolerance),
        None => assert!(!matches!(contrast.positive, Positive::Pair(_))),
    }
}

#[test]
fn every_form_equals_a_scalar_loop() {
    let (rows, columns, keys) = (normal(1, 7, 4), normal(2, 11, 4), normal(3, 7, 4));
    let weights = normal(4, 7, 1).squeeze_dim(1);
    let scale = normal(5, 7, 1).squeeze_dim(1).exp();
    let index = Tensor::from_slice(&[3_i64, 10, 0, 0, 5, 7, 1]);
    let itself = Tensor::arange(7, (Kind::Int64, Device::Cpu)).unsqueeze(1);
    // The row itself, a column named twice, and in some rows the positive.
    let several = Tensor::cat(&[&itself, &itself.roll(2, 0), &itself.roll(2, 0)], 1);
    for positive in [Positive::None, Positive::Column(&index), Positive::Pair(&keys)] {
        for excluded in [None, Some(&itself), Some(&several)] {
            for switches in 0..4 {
                let mut contrast = Contrast {
                    rows: &rows,
                    columns: &columns,
                    temperature: 0.4,
                    positive,
                    weights: &weights,
                    excluded,
                    negatives_scale: (switches & 1 != 0).then_some(&scale),
                    columns_gradient: switches & 2 != 0,
                    tile: 1,
                };
                for tile in [1, 3, 7, 50] {
                    contrast.tile = tile;
                    agrees(&contrast, 1e-12);
                }
                let single =
                    [&rows, &columns, &keys, &weights, &scale].map(|t| t.to_kind(Kind::Float));
                let [rows, columns, keys, weights, scale] = &single;
                let positive = match positive {
                    Positive::Pair(_) => Positive::Pair(keys),
                    other => other,
                };
                let negatives_scale = contrast.negatives_scale.map(|_| scale);
                let single =
                    Contrast { rows, columns, positive, weights, negatives_scale, ..contrast };
                agrees(&single, 1e-5);
            }
        }
    }
}

#[test]
fn a_row_whose_columns_are_all_excluded_costs_nothing_beside_its_positive() {
    let (rows, columns, keys) = (normal(1, 2, 4), normal(2, 3, 4), normal(3, 2, 4));
    let all = Tensor::arange(3, (Kind::Int64, Device::Cpu)).repeat([2, 1]);
    let contrast = Contrast {
        rows: &rows,
        columns: &columns,
        temperature: 0.01,
        positive: Positive::Pair(&keys),
        weights: &Tensor::ones([2], (Kind::Double, Device::Cpu)),
        excluded: Some(&all),
        negatives_scale: None,
        columns_gradient: true,
        tile: 2,
    };
    let found = contrast.evaluate().unwrap();
    assert_eq!(found.log_sum_exp, found.positive);
    let zeros = |rows| Tensor::zeros([rows, 4], (Kind::Double, Device::Cpu));
    assert_eq!(found.rows_gradient, zeros(2));
    assert_eq!(found.columns_gradient, Some(zeros(3)));
    assert_eq!(found.positives_gradient, Some(zeros(2)));
    let message = Contrast { positive: Positive::None, ..contrast }.evaluate().unwrap_err();
    assert!(message.to_string().contains("need a negative each, found 3 columns"), "{message}");
}

#[test]
fn a_nearly_perfect_row_keeps_the_digits_of_its_gradient() {
    // One negative at cosine 0, T = 0.05: the negative's share is e^-20, below f32's steps around 1.
    let rows = Tensor::from_slice(&[1.0_f32, 0.0]).view([1, 2]);
    let columns = Tensor::from_slice(&[1.0_f32, 0.0, 0.0, 1.0]).view([2, 2]);
    let found = Contrast {
        rows: &rows,
        columns: &columns,
        temperature: 0.05,
        positive: Positive::Column(&Tensor::from_slice(&[0_i64])),
        weights: &Tensor::from_slice(&[1.0_f32]),
        excluded: None,
        negatives_scale: None,
        columns_gradient: false,
        tile: 1,
    }
    .evaluate()
    .unwrap();
    let share = (-20.0_f64).exp() / (1.0 + (-20.0_f64).exp()) / 0.05;
    for (column, expected) in [(0, -share), (1, share)] {
        let value = found.rows_gradient.double_value(&[0, column]);
        assert!((value / expected - 1.0).abs() < 1e-4, "{value} against {expected}");
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let (rows, columns) = (normal(1, 4, 3), normal(2, 2, 3));
    let index = Tensor::zeros([4], (Kind::Int64, Device::Cpu));
    let weights = Tensor::ones([4], (Kind::Double, Device::Cpu));
    let contrast = Contrast {
        rows: &rows,
        columns: &columns,
        temperature: 1.0,
        positive: Positive::Column(&index),
        weights: &weights,
        excluded: None,
        negatives_scale: None,
        columns_gradient: false,
        tile: 4,
    };
    let refused = |contrast: Contrast, part: &str| {
        let message = contrast.evaluate().unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    refused(Contrast { columns: &normal(2, 2, 5), ..contrast }, "`columns` must have shape");
    let single = columns.to_kind(Kind::Float);
    refused(Contrast { columns: &single, ..contrast }, "found Double and Float");
    refused(Contrast { excluded: Some(&index), ..contrast }, "`excluded columns` must have");
    let scale = Some(&rows);
    refused(Contrast { negatives_scale: scale, ..contrast }, "`scale of the negatives` must");
    refused(Contrast { weights: &weights.narrow(0, 0, 3), ..contrast }, "`weights` must");
}

#[test]
fn the_default_tile_bounds_memory() {
    assert_eq!(default_tile(1), 512);
    assert_eq!(default_tile(131_072), 256);
    assert_eq!(default_tile(1 << 40), 1);
}

#[test]
fn unit_rows_have_length_one_and_a_finite_gradient_everywhere() {
    for scale in [1e-15, 1.0, 1e15] {
        let leaf = (normal(6, 4, 8) * scale).to_kind(Kind::Float);
        let _ = leaf.get(2).zero_();
        let leaf = leaf.set_requires_grad(true);
        let unit = unit_rows(&leaf);
        let lengths = Vec::<f64>::try_from(unit.square().sum_dim_intlist(1, false, None)).unwrap();
        let expected = if scale < 1e-12 { [0.0; 4] } else { [1.0, 1.0, 0.0, 1.0] };
        for (found, expected) in lengths.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-4, "{found} against {expected}");
        }
        (unit * normal(7, 4, 8)).sum(None).backward();
        assert!(leaf.grad().isfinite().all().int64_value(&[]) == 1);
    }
}
