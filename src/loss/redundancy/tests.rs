//! Barlow Twins and `VICReg` against the formulas written out, published numbers, lightly, and slopes.

use super::*;
use crate::loss::numeric::{distance, golden, leaf, normal, slopes};
use tch::Device;

const CPU: (Kind, Device) = (Kind::Double, Device::Cpu);

fn appendix() -> [Tensor; 2] {
    let first = [1.0, 2.0, 2.0, 1.0, 3.0, 5.0, 4.0, 0.0];
    let second = [1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 3.0, -1.0];
    [first, second].map(|values| Tensor::from_slice(&values).view([4, 2]))
}

fn columns(z: &Tensor) -> Vec<Vec<f64>> {
    Vec::try_from(z.tr().contiguous()).unwrap()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Mean product of what two columns are beyond their means, divided by `free`.
fn covariance_of(a: &[f64], b: &[f64], free: f64) -> f64 {
    let (mean_a, mean_b) = (mean(a), mean(b));
    a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum::<f64>() / free
}

/// Invariance and redundancy, entry by entry.
fn barlow_loop(z1: &Tensor, z2: &Tensor) -> (f64, f64) {
    let (z1, z2, rows) = (columns(z1), columns(z2), z1.size()[0] as f64);
    let deviation = |z: &[f64]| (covariance_of(z, z, rows) + 1e-5).sqrt();
    let (mut on, mut off) = (0.0, 0.0);
    for (i, a) in z1.iter().enumerate() {
        for (j, b) in z2.iter().enumerate() {
            let correlation = covariance_of(a, b, rows) / deviation(a) / deviation(b);
            if i == j {
                on += (1.0 - correlation).powi(2);
            } else {
                off += correlation.powi(2);
            }
        }
    }
    (on, off)
}

/// The three terms of `VICReg`, entry by entry.
fn vicreg_loop(z1: &Tensor, z2: &Tensor) -> [f64; 3] {
    let free = (z1.size()[0] - 1) as f64;
    let views = [columns(z1), columns(z2)];
    let pairs = views[0].iter().flatten().zip(views[1].iter().flatten());
    let squares: Vec<f64> = pairs.map(|(a, b)| (a - b).powi(2)).collect();
    let (mut variance, mut covariance) = (0.0, 0.0);
    for view in &views {
        let width = view.len() as f64;
        for (i, a) in view.iter().enumerate() {
            let deviation = (covariance_of(a, a, free) + 1e-4).sqrt();
            variance += (1.0 - deviation).max(0.0) / width / 2.0;
            for (_, b) in view.iter().enumerate().filter(|(j, _)| *j != i) {
                covariance += covariance_of(a, b, free).powi(2) / width;
            }
        }
    }
    [mean(&squares), variance, covariance]
}

/// Two views that are alike, some of whose dimensions vary by less than 1; more dimensions than rows, and fewer.
fn views(rows: i64, width: i64) -> [Tensor; 2] {
    let shape = [rows, width];
    let shared = normal(1, &shape);
    let scale = Tensor::linspace(0.2, 2.0, width, CPU);
    [2, 3].map(|seed| (&shared + normal(seed, &shape) * 0.5) * &scale + 0.7)
}

#[test]
fn published_vectors_are_met() {
    let [z1, z2] = appendix();
    let barlow = BarlowTwins::default().evaluate(&z1, &z2).unwrap();
    assert!((barlow.loss.double_value(&[]) - 0.053_693_118_8).abs() < 1e-10);
    let on = (1.0_f64 - 0.799_993_6).powi(2) + (1.0_f64 - 0.889_496_5).powi(2);
    assert!((barlow.invariance - on).abs() < 1e-7);
    let off = 0.248_068_1_f64.powi(2) + 0.478_088_8_f64.powi(2);
    assert!((barlow.redundancy - off).abs() < 1e-7);
    let vicreg = VicReg::default().evaluate(&z1, &z2).unwrap();
    assert!((vicreg.loss.double_value(&[]) - 19.861_111_111_1).abs() < 1e-9);
    assert!((vicreg.invariance - 0.75).abs() < 1e-14 && vicreg.variance.abs() < 1e-14);
    assert!((vicreg.covariance - 10.0 / 9.0).abs() < 1e-14);
}

#[test]
fn both_equal_the_formulas_written_out() {
    for (rows, width) in [(7, 4), (4, 9), (2, 1)] {
        let [z1, z2] = views(rows, width);
        let (on, off) = barlow_loop(&z1, &z2);
        let barlow = BarlowTwins { off_diagonal_weight: 0.3, scale: 0.1, epsilon: 1e-5 };
        let found = barlow.evaluate(&z1, &z2).unwrap();
        assert!((found.invariance - on).abs() < 1e-12 && (found.redundancy - off).abs() < 1e-12);
        let expected = 0.1 * (on + 0.3 * off);
        assert!((found.loss.double_value(&[]) - expected).abs() < 1e-13);
        let [invariance, variance, covariance] = vicreg_loop(&z1, &z2);
        let found = VicReg::default().evaluate(&z1, &z2).unwrap();
        assert!((found.invariance - invariance).abs() < 1e-13);
        assert!((found.variance - variance).abs() < 1e-13);
        assert!((found.covariance - covariance).abs() < 1e-12);
        let expected = 25.0 * invariance + 25.0 * variance + covariance;
        assert!((found.loss.double_value(&[]) - expected).abs() < 1e-12);
    }
}

#[test]
fn the_gradients_are_the_slopes_of_the_losses() {
    for (rows, width) in [(6, 3), (3, 5)] {
        let leaves = views(rows, width).map(|z| leaf(&z));
        let barlow = BarlowTwins { off_diagonal_weight: 0.3, scale: 0.7, epsilon: 1e-5 };
        let loss = |z: &[Tensor]| barlow.evaluate(&z[0], &z[1]).unwrap().loss;
        loss(&leaves).backward();
        for index in 0..2 {
            let expected = slopes(&leaves, index, loss);
            assert!(distance(&leaves[index].grad(), &expected) < 1e-7);
        }
        let leaves = leaves.map(|z| leaf(&z));
        let settings = VicReg {
            invariance_weight: 2.0,
            variance_weight: 3.0,
            covariance_weight: 0.5,
            epsilon: 1e-4,
        };
        let loss = |z: &[Tensor]| settings.evaluate(&z[0], &z[1]).unwrap().loss;
        loss(&leaves).backward();
        for index in 0..2 {
            let expected = slopes(&leaves, index, loss);
            assert!(distance(&leaves[index].grad(), &expected) < 1e-7);
        }
    }
}

#[test]
fn losses_and_gradients_equal_lightly() {
    let golden = golden();
    let views = || ["z1", "z2"].map(|name| leaf(&golden[&format!("redundancy.{name}")]));
    let holds = |loss: Tensor, views: &[Tensor; 2], name: &str| {
        let expected = golden[&format!("redundancy.{name}")].double_value(&[]);
        assert!((loss.double_value(&[]) / expected - 1.0).abs() < 1e-5, "{name}");
        loss.backward();
        for (view, part) in views.iter().zip(["z1", "z2"]) {
            let expected = &golden[&format!("redundancy.{name}.{part}")];
            let scale = expected.abs().max().double_value(&[]);
            assert!(distance(&view.grad(), expected) / scale < 1e-5, "{name} {part}");
        }
    };
    let [z1, z2] = views();
    let lightly = BarlowTwins { off_diagonal_weight: 5e-3, ..BarlowTwins::default() };
    holds(lightly.evaluate(&z1, &z2).unwrap().loss, &[z1, z2], "barlow");
    let [z1, z2] = views();
    holds(VicReg::default().evaluate(&z1, &z2).unwrap().loss, &[z1, z2], "vicreg");
}

#[test]
fn whitened_equal_views_cost_nothing_and_collapsed_ones_their_closed_form() {
    // A Hadamard matrix without its column of ones: centred, uncorrelated, deviation 1.
    let white =
        Tensor::from_slice(&[1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0, 1.0]);
    let white = white.view([4, 3]);
    let barlow = BarlowTwins::default().evaluate(&white, &white).unwrap();
    assert!(barlow.loss.double_value(&[]).abs() < 1e-9);
    let vicreg = VicReg::default().evaluate(&white, &white).unwrap();
    assert!(vicreg.loss.double_value(&[]).abs() < 1e-14);

    let leaves = [0, 1].map(|_| leaf(&Tensor::ones([4, 3], CPU)));
    let barlow = BarlowTwins::default().evaluate(&leaves[0], &leaves[1]).unwrap();
    let vicreg = VicReg::default().evaluate(&leaves[0], &leaves[1]).unwrap();
    assert!((barlow.loss.double_value(&[]) - 3.0).abs() < 1e-14, "D");
    assert!((vicreg.loss.double_value(&[]) - 25.0 * (1.0 - 0.01)).abs() < 1e-12);
    (barlow.loss + vicreg.loss).backward();
    assert!(leaves.iter().all(|z| bool::try_from(z.grad().isfinite().all()).unwrap()));
}

#[test]
fn single_precision_keeps_its_digits_at_many_dimensions() {
    let wide = views(64, 512);
    for losses in [
        |z: &[Tensor; 2]| BarlowTwins::default().evaluate(&z[0], &z[1]).unwrap().loss,
        |z: &[Tensor; 2]| VicReg::default().evaluate(&z[0], &z[1]).unwrap().loss,
    ] {
        let found = [Kind::Float, Kind::Double].map(|kind| {
            let leaves = wide.each_ref().map(|z| leaf(&z.to_kind(kind)));
            let loss = losses(&leaves);
            loss.backward();
            (loss.double_value(&[]), leaves[0].grad())
        });
        let [(single, single_gradient), (double, gradient)] = found;
        assert!((single / double - 1.0).abs() < 1e-5, "{single}, not {double}");
        let scale = gradient.abs().max().double_value(&[]);
        assert!(distance(&single_gradient, &gradient) / scale < 1e-4);
    }
}

#[test]
fn half_precision_is_computed_in_f32() {
    let halves = views(6, 4).map(|z| z.to_kind(Kind::BFloat16));
    let whole = halves.each_ref().map(|z| z.to_kind(Kind::Float));
    let barlow = |z: &[Tensor; 2]| BarlowTwins::default().evaluate(&z[0], &z[1]).unwrap().loss;
    assert_eq!(barlow(&halves), barlow(&whole));
    let vicreg = |z: &[Tensor; 2]| VicReg::default().evaluate(&z[0], &z[1]).unwrap().loss;
    assert_eq!(vicreg(&halves), vicreg(&whole));
}

#[test]
fn what_does_not_fit_is_refused() {
    let zeros = |rows, width| Tensor::zeros([rows, width], CPU);
    let barlow = BarlowTwins::default();
    let message = barlow.evaluate(&zeros(4, 3), &zeros(4, 2)).unwrap_err().to_string();
    assert_eq!(message, "`second view` must have shape [4, 3], found [4, 2]");
    let message = VicReg::default().evaluate(&zeros(1, 3), &zeros(1, 3)).unwrap_err().to_string();
    assert!(
        message.ends_with("at least 2 rows of at least 1 dimension, found [1, 3]"),
        "{message}"
    );
    for (found, part) in [
        (
            BarlowTwins { off_diagonal_weight: -1.0, ..barlow },
            "off_diagonal_weight` must be at least 0",
        ),
        (BarlowTwins { scale: 0.0, ..barlow }, "scale` must be above 0, found `0`"),
        (BarlowTwins { epsilon: f64::NAN, ..barlow }, "epsilon` must be above 0, found `NaN`"),
    ] {
        let message = found.check("method.loss").unwrap_err().to_string();
        assert!(message.starts_with("`method.loss.") && message.contains(part), "{message}");
    }
    let vicreg = VicReg { covariance_weight: f64::INFINITY, ..VicReg::default() };
    assert!(vicreg.check("method").unwrap_err().to_string().contains("`method.covariance_weight`"));
    assert!(barlow.check("method").is_ok() && VicReg::default().check("method").is_ok());
    let written = toml::to_string(&barlow).unwrap();
    assert_eq!(toml::from_str::<BarlowTwins>(&written).unwrap(), barlow);
    assert!(toml::from_str::<VicReg>("gamma = 1.0").is_err());
}
