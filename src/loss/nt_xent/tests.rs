use super::*;
use crate::loss::tiled::default_tile;
use crate::loss::tiled::testing::{dot, graded, rows_of, slope};
use crate::random::{Purpose, Scope, Stream};
use std::collections::HashMap;
use tch::Device;

const PAPER: NtXent = NtXent { temperature: 0.5, reduction: Reduction::Mean2n };

fn at(temperature: f64) -> NtXent {
    NtXent { temperature, ..PAPER }
}

fn normal(rows: i64, width: i64, kind: Kind) -> Tensor {
    let mut stream = Stream::open(3, Purpose::Test, Scope::Item((rows * 1000 + width) as u64));
    let values: Vec<f64> = (0..rows * width).map(|_| stream.normal()).collect();
    Tensor::from_slice(&values).view([rows, width]).to_kind(kind)
}

fn distance(left: &Tensor, right: &Tensor) -> f64 {
    assert_eq!(left.size(), right.size());
    (left.to_kind(Kind::Double) - right.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// The textbook form in f64 by autograd over the whole 2N x 2N matrix.
fn dense(loss: NtXent, projections: &Tensor) -> (f64, Tensor) {
    let leaf = projections.detach().to_kind(Kind::Double).copy().set_requires_grad(true);
    let rows = leaf.size()[0];
    let unit = &leaf / leaf.square().sum_dim_intlist(1, true, None).sqrt().clamp_min(1e-12);
    let itself = Tensor::eye(rows, (Kind::Bool, Device::Cpu));
    let logits = (unit.mm(&unit.tr()) / loss.temperature).masked_fill(&itself, f64::NEG_INFINITY);
    let partner = Tensor::arange(rows, (Kind::Int64, Device::Cpu)).roll(rows / 2, 0);
    let mean = logits.cross_entropy_loss::<Tensor>(&partner, None, tch::Reduction::Mean, -100, 0.0);
    let value = if loss.reduction == Reduction::SimclrSum { mean * 2.0 } else { mean };
    value.backward();
    (value.double_value(&[]), leaf.grad())
}

fn appendix() -> Tensor {
    Tensor::from_slice(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0, -1.0, 1.0]).view([4, 2])
}

#[test]
fn published_vectors_are_met() {
    for (temperature, expected) in [(0.5, 0.535_969_351_8), (0.1, 0.347_210_719_6)] {
        let loss = at(temperature).evaluate(&appendix(), 8).unwrap().loss;
        assert!((loss - expected).abs() < 1e-10, "{temperature}: {loss}");
    }
    let summed = NtXent { reduction: Reduction::SimclrSum, ..PAPER };
    let summed = summed.evaluate(&appendix(), 8).unwrap();
    assert!((summed.loss - 1.071_938_703_6).abs() < 1e-10);
    let mean = PAPER.evaluate(&appendix(), 8).unwrap();
    assert!(distance(&summed.gradient, &(mean.gradient * 2.0)) < 1e-15);
}

#[test]
fn a_collapsed_batch_costs_ln_of_its_competitors() {
    for (images, temperature) in [(2, 0.5), (2, 0.01), (8, 100.0)] {
        let rows = Tensor::ones([2 * images, 3], (Kind::Float, Device::Cpu));
        let found = at(temperature).evaluate(&rows, 3).unwrap();
        let expected = ((2 * images - 1) as f64).ln();
        assert!((found.loss - expected).abs() < 1e-5, "{} against {expected}", found.loss);
        assert!(found.gradient.abs().max().double_value(&[]) < 1e-4);
        assert!((found.agreement.contrastive_entropy - (images as f64).ln()).abs() < 1e-5);
        assert_eq!(found.agreement.contrastive_accuracy, 0.0);
        assert!((found.agreement.positive_similarity - 1.0).abs() < 1e-6);
        assert!((found.agreement.negative_similarity - 1.0).abs() < 1e-5);
    }
}

#[test]
fn orthogonal_pairs_have_a_closed_form() {
    // Each image is its own axis, both views equal: ln( e^(1/τ) + 2N - 2 ) - 1/τ.
    let (images, temperature) = (5, 0.3_f64);
    let axes = Tensor::eye(images, (Kind::Double, Device::Cpu));
    let found = at(temperature).evaluate(&Tensor::cat(&[&axes * 3.0, axes * 0.1], 0), 4).unwrap();
    let expected = ((1.0 / temperature).exp() + 8.0).ln() - 1.0 / temperature;
    assert!((found.loss - expected).abs() < 1e-12);
    assert_eq!(found.agreement.contrastive_accuracy, 1.0);
    assert!((found.agreement.positive_similarity - 1.0).abs() < 1e-12);
    assert!(found.agreement.negative_similarity.abs() < 1e-12);
    let (right, wrong) = ((1.0 / temperature).exp(), 1.0);
    let total: f64 = right + 4.0 * wrong;
    let entropy = total.ln() - right / total / temperature;
    assert!((found.agreement.contrastive_entropy - entropy).abs() < 1e-12);
}

#[test]
fn loss_and_gradient_equal_the_textbook_form() {
    for reduction in [Reduction::Mean2n, Reduction::SimclrSum] {
        for temperature in [0.01, 0.07, 0.5, 2.0] {
            let loss = NtXent { temperature, reduction };
            // A logit of 1 / 0.01 has steps of 8e-6 in f32.
            let single = if temperature < 0.05 { 5e-5 } else { 1e-5 };
            for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, single)] {
                let rows = normal(74, 16, kind);
                let (value, gradient) = dense(loss, &rows);
                let found = loss.evaluate(&rows, 10).unwrap();
                assert!((found.loss / value - 1.0).abs() < tolerance, "{loss:?} {kind:?}");
                let scale = gradient.abs().max().double_value(&[]);
                let off = distance(&found.gradient, &gradient) / scale;
                assert!(off < tolerance, "{loss:?} {kind:?}: {off}");
                assert_eq!(found.gradient.kind(), kind);
            }
        }
    }
}

#[test]
fn the_gradient_is_the_slope_of_the_loss() {
    let rows = normal(6, 3, Kind::Double);
    let gradient = PAPER.evaluate(&rows, 4).unwrap().gradient;
    let step = 1e-6;
    for (row, column) in (0..6).flat_map(|row| (0..3).map(move |column| (row, column))) {
        let moved = |by: f64| {
            let moved = rows.copy();
            let _ = moved.get(row).get(column).g_add_scalar_(by);
            PAPER.evaluate(&moved, 4).unwrap().loss
        };
        let slope = (moved(step) - moved(-step)) / (2.0 * step);
        assert!((gradient.double_value(&[row, column]) - slope).abs() < 1e-9);
    }
}

#[test]
fn neither_order_nor_length_nor_tile_matters() {
    let rows = normal(24, 8, Kind::Double);
    let expected = PAPER.evaluate(&rows, 24).unwrap();
    let rearranged = |order: &Tensor| {
        let found = PAPER.evaluate(&rows.index_select(0, order), 24).unwrap();
        assert!((found.loss - expected.loss).abs() < 1e-13);
        assert!(distance(&found.gradient, &expected.gradient.index_select(0, order)) < 1e-13);
    };
    let identity = Tensor::arange(24, (Kind::Int64, Device::Cpu));
    rearranged(&identity.roll(12, 0));
    let images = Tensor::from_slice(&[5_i64, 3, 8, 1, 0, 11, 2, 10, 4, 9, 7, 6]);
    rearranged(&Tensor::cat(&[&images, &(&images + 12)], 0));

    let lengths = (identity.to_kind(Kind::Double) + 0.5).unsqueeze(1);
    let scaled = PAPER.evaluate(&(&rows * &lengths), 24).unwrap();
    assert!((scaled.loss - expected.loss).abs() < 1e-13);
    assert!(distance(&(scaled.gradient * lengths), &expected.gradient) < 1e-13);

    for tile in [1, 5, 7, 100] {
        let found = PAPER.evaluate(&rows, tile).unwrap();
        assert!((found.loss - expected.loss).abs() < 1e-13);
        assert!(distance(&found.gradient, &expected.gradient) < 1e-14);
        assert!(
            (found.agreement.contrastive_entropy - expected.agreement.contrastive_entropy).abs()
                < 1e-13
        );
        assert_eq!(found.agreement.contrastive_accuracy, expected.agreement.contrastive_accuracy);
    }
}

#[test]
fn metrics_equal_their_definitions() {
    let rows = normal(40, 4, Kind::Double) + normal(20, 4, Kind::Double).repeat([2, 1]);
    let found = PAPER.evaluate(&rows, 9).unwrap();
    let unit = &rows / rows.square().sum_dim_intlist(1, true, None).sqrt();
    let cosine = unit.mm(&unit.tr());
    let value = |i: i64, j: i64| cosine.double_value(&[i, j]);
    let (mut hits, mut entropy, mut positive, mut negative) = (0.0, 0.0, 0.0, 0.0);
    for i in 0..20 {
        let logits: Vec<f64> = (20..40).map(|j| value(i, j) / 0.5).collect();
        let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
        let own = logits[i as usize];
        hits += f64::from(u8::from(logits.iter().all(|logit| *logit <= own)));
        entropy -= logits.iter().map(|l| l.exp() / total * (l.exp() / total).ln()).sum::<f64>();
        positive += value(i, i + 20);
    }
    for (i, j) in (0..40).flat_map(|i| (0..40).map(move |j| (i, j))) {
        negative += if i % 20 == j % 20 { 0.0 } else { value(i, j) };
    }
    assert!(hits > 0.0 && hits < 20.0, "the batch tests nothing: {hits} hits");
    assert!((found.agreement.contrastive_accuracy - hits / 20.0).abs() < 1e-12);
    assert!((found.agreement.contrastive_entropy - entropy / 20.0).abs() < 1e-12);
    assert!((found.agreement.positive_similarity - positive / 20.0).abs() < 1e-12);
    assert!((found.agreement.negative_similarity - negative / (40.0 * 38.0)).abs() < 1e-12);
    let alone = agreement(&rows, 0.5, 9).unwrap();
    assert_eq!(alone.contrastive_accuracy, found.agreement.contrastive_accuracy);
    assert!((alone.contrastive_entropy - found.agreement.contrastive_entropy).abs() < 1e-12);
    assert!((alone.positive_similarity - found.agreement.positive_similarity).abs() < 1e-12);
    assert!((alone.negative_similarity - found.agreement.negative_similarity).abs() < 1e-12);
}

#[test]
fn extremes_stay_finite() {
    let mut rows = normal(16, 8, Kind::Float);
    let _ = rows.get(3).zero_();
    rows = Tensor::cat(&[&rows, &rows.narrow(0, 0, 4), &rows.narrow(0, 3, 4)], 0);
    for temperature in [0.01, 1.0, 100.0] {
        for scale in [1e-15, 1.0, 1e15] {
            let found = at(temperature).evaluate(&(&rows * scale), 5).unwrap();
            for value in [
                found.loss,
                found.agreement.contrastive_entropy,
                found.agreement.positive_similarity,
                found.agreement.negative_similarity,
                found.gradient.to_kind(Kind::Double).abs().sum(Kind::Double).double_value(&[]),
            ] {
                assert!(value.is_finite(), "{temperature} {scale}: {value}");
            }
        }
    }
}

#[test]
fn the_same_batch_gives_the_same_bits() {
    let rows = normal(1024, 32, Kind::Float);
    let first = PAPER.evaluate(&rows, 300).unwrap();
    for _ in 0..3 {
        let again = PAPER.evaluate(&rows, 300).unwrap();
        assert_eq!(again.loss, first.loss);
        assert_eq!(again.gradient, first.gradient);
    }
}

#[test]
fn half_precision_is_computed_in_single() {
    let rows = normal(32, 16, Kind::Float).to_kind(Kind::BFloat16);
    let found = at(0.07).evaluate(&rows, 8).unwrap();
    let expected = at(0.07).evaluate(&rows.to_kind(Kind::Float), 8).unwrap();
    assert_eq!(found.loss, expected.loss);
    assert_eq!(found.gradient, expected.gradient.to_kind(Kind::BFloat16));
}

#[test]
fn a_batch_of_one_costs_nothing_and_odd_or_empty_batches_are_refused() {
    let found = PAPER.evaluate(&normal(2, 4, Kind::Float), 4).unwrap();
    assert_eq!((found.loss, found.agreement.contrastive_accuracy), (0.0, 1.0));
    assert_eq!(found.gradient, Tensor::zeros([2, 4], (Kind::Float, Device::Cpu)));
    assert_eq!(
        (found.agreement.negative_similarity, found.agreement.contrastive_entropy),
        (0.0, 0.0)
    );
    for rows in [0, 1, 3] {
        let message = PAPER.evaluate(&normal(rows, 4, Kind::Float), 4).unwrap_err().to_string();
        assert!(message.contains(&format!("found {rows} rows")), "{message}");
    }
    let message = at(0.0).evaluate(&normal(2, 4, Kind::Float), 4).unwrap_err().to_string();
    assert!(message.contains("`method.temperature` must be above 0"), "{message}");
}

#[test]
fn a_batch_of_4096_views_is_right_row_by_row() {
    let (rows, temperature) = (normal(4096, 128, Kind::Float), 0.1);
    let found = at(temperature).evaluate(&rows, default_tile(4096)).unwrap();

    let exact = rows.to_kind(Kind::Double);
    let length = exact.square().sum_dim_intlist(1, true, None).sqrt();
    let unit = exact / &length;
    let mut logits = unit.mm(&unit.tr()) / temperature;
    let _ = logits.fill_diagonal_(f64::NEG_INFINITY, false);
    let log_sum_exp = logits.logsumexp(1, false);
    let partner = unit.roll(2048, 0);
    let positive = (&unit * &partner).sum_dim_intlist(1, false, None) / temperature;
    let loss = (&log_sum_exp - positive).mean(None).double_value(&[]);
    assert!((found.loss / loss - 1.0).abs() < 1e-6, "{} against {loss}", found.loss);

    for row in [0, 1, 511, 512, 2047, 2048, 4095] {
        let logits = logits.get(row);
        let both = (&logits - log_sum_exp.get(row)).exp() + (&logits - &log_sum_exp).exp();
        let pull = both.unsqueeze(0).mm(&unit).squeeze_dim(0) - partner.get(row) * 2.0;
        let along = pull.dot(&unit.get(row));
        let expected = (pull - unit.get(row) * along) / length.get(row) / temperature / 4096.0;
        let largest = expected.abs().max().double_value(&[]);
        assert!(distance(&found.gradient.get(row), &expected) < 1e-5 * largest, "row {row}");
    }
}

#[test]
fn lightly_agrees() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/loss.safetensors");
    let golden: HashMap<String, Tensor> =
        Tensor::read_safetensors(path).unwrap().into_iter().collect();
    for (name, temperature) in [("cool", 0.07), ("warm", 0.5)] {
        let found = at(temperature).evaluate(&golden["projections"], 7).unwrap();
        let loss = golden[&format!("{name}.loss")].double_value(&[]);
        assert!((found.loss - loss).abs() < 1e-5, "{} against {loss}", found.loss);
        let gradient = &golden[&format!("{name}.gradient")];
        let largest = gradient.abs().max().double_value(&[]);
        assert!(distance(&found.gradient, gradient) < 1e-5 * largest);
    }
}

#[test]
fn the_graph_form_carries_the_gradient() {
    let rows = normal(12, 5, Kind::Float);
    let found = PAPER.evaluate(&rows, 5).unwrap();
    let (loss, gradient) = graded(&(&rows / 2.0), |half| PAPER.loss(&(half * 2.0), 5).unwrap());
    assert_eq!(loss, found.loss);
    assert_eq!(gradient, found.gradient * 2.0);
}

/// Rows that are not of length 1, negatives, and for each anchor the rows of the negatives that it does not keep, one
/// of them named twice.
fn transformed_inputs() -> [Tensor; 3] {
    let itself = Tensor::arange(10, (Kind::Int64, Device::Cpu));
    let mixed = Tensor::from_slice(&[3_i64, 7, 0, 5, 9, 1, 6, 2, 8, 4]);
    let excluded = [&itself, &itself.roll(5, 0), &mixed, &mixed.roll(5, 0)];
    let (rows, negatives) = (normal(10, 4, Kind::Double), normal(10, 3, Kind::Double));
    let negatives = Tensor::cat(&[&negatives, &negatives.narrow(1, 0, 1).square()], 1);
    [rows, negatives, Tensor::stack(&excluded, 1)]
}

/// Loss, accuracy and mean scores of the transformed form in one scalar loop.
/// The other view's rows.
fn other(rows: &Tensor) -> Tensor {
    rows.roll(rows.size()[0] / 2, 0)
}

fn transformed(temperature: f64, inputs: [&Tensor; 3], scale: &[f64]) -> [f64; 4] {
    let (rows, negatives) = (rows_of(inputs[0]), rows_of(inputs[1]));
    let excluded = Vec::<Vec<i64>>::try_from(inputs[2]).unwrap();
    let [mut sums, mut kept] = [[0.0; 4], [0.0; 4]];
    for (i, row) in rows.iter().enumerate() {
        let own = dot(row, &rows[(i + rows.len() / 2) % rows.len()]);
        let scores: Vec<f64> = (0..negatives.len())
            .filter(|j| !excluded[i].contains(&(*j as i64)))
            .map(|j| dot(row, &negatives[j]))
            .collect();
        let sum: f64 = scores.iter().map(|score| (score / temperature).exp()).sum();
        sums[0] += ((own / temperature).exp() + scale[i] * sum).ln() - own / temperature;
        sums[1] += f64::from(u8::from(scores.iter().all(|score| *score < own)));
        sums[2] += own;
        sums[3] += scores.iter().sum::<f64>();
        kept[3] += scores.len() as f64;
    }
    kept[..3].fill(rows.len() as f64);
    [0, 1, 2, 3].map(|at| sums[at] / kept[at])
}

#[test]
fn the_transformed_form_equals_a_scalar_loop_and_its_slopes() {
    let [rows, negatives, excluded] = transformed_inputs();
    let scale = (0..10).map(|i| 0.8 + 0.1 * f64::from(i)).collect::<Vec<_>>();
    let tensor = Tensor::from_slice(&scale);
    let sum = NtXent { reduction: Reduction::SimclrSum, ..PAPER };
    for (factor, scales, scale) in [(1.0, Some(&tensor), &scale), (2.0, None, &vec![1.0; 10])] {
        let loss = if factor == 1.0 { PAPER } else { sum };
        let expected = transformed(0.5, [&rows, &negatives, &excluded], scale);
        assert!(expected[1] > 0.0 && expected[1] < 1.0, "the batch tests nothing");
        let found =
            loss.transformed([&rows, &other(&rows)], &negatives, &excluded, scales, 3).unwrap();
        assert!((found.loss.double_value(&[]) - factor * expected[0]).abs() < 1e-12);
        assert_eq!(found.accuracy, expected[1]);
        assert!((found.positive_similarity - expected[2]).abs() < 1e-12);
        assert!((found.negative_similarity - expected[3]).abs() < 1e-12);

        let of = |rows: &Tensor, negatives: &Tensor| {
            loss.transformed([rows, &other(rows)], negatives, &excluded, scales, 3).unwrap().loss
        };
        let slopes =
            slope(&rows, |r| factor * transformed(0.5, [r, &negatives, &excluded], scale)[0]);
        assert!(distance(&graded(&rows, |r| of(r, &negatives)).1, &slopes) < 1e-8);
        let slopes =
            slope(&negatives, |n| factor * transformed(0.5, [&rows, n, &excluded], scale)[0]);
        assert!(distance(&graded(&negatives, |n| of(&rows, n)).1, &slopes) < 1e-8);
    }
}

#[test]
fn a_transformation_that_changes_nothing_is_nt_xent() {
    let rows = normal(16, 6, Kind::Float);
    let itself = Tensor::arange(16, (Kind::Int64, Device::Cpu));
    // λ = 1, the permutation the identity: each of the two excluded rows is named twice.
    let pair = Tensor::stack(&[&itself, &itself.roll(8, 0)], 1).repeat([1, 2]);
    let expected = graded(&rows, |rows| PAPER.loss(rows, 5).unwrap());
    let found = graded(&rows, |rows| {
        let unit = unit_rows(rows);
        PAPER.transformed([&unit, &other(&unit)], &unit, &pair, None, 5).unwrap().loss
    });
    assert!((found.0 - expected.0).abs() < 1e-6);
    assert!(distance(&found.1, &expected.1) < 1e-6);
    let unit = unit_rows(&rows);
    let metrics = PAPER.evaluate(&rows, 5).unwrap();
    let found = PAPER.transformed([&unit, &other(&unit)], &unit, &pair, None, 5).unwrap();
    assert!((found.positive_similarity - metrics.agreement.positive_similarity).abs() < 1e-6);
    assert!((found.negative_similarity - metrics.agreement.negative_similarity).abs() < 1e-6);
}

#[test]
fn extremes_of_the_transformed_form_stay_finite() {
    let [rows, negatives, excluded] = transformed_inputs();
    let [rows, negatives] = [rows, negatives].map(|tensor| tensor.to_kind(Kind::BFloat16));
    let scale = Tensor::from(1e-6).expand([10], false);
    for temperature in [0.001, 1000.0] {
        for by in [0.0, 1.0, 100.0] {
            let (loss, gradient) = graded(&(&rows * by), |rows| {
                let loss = at(temperature);
                loss.transformed([rows, &other(rows)], &negatives, &excluded, Some(&scale), 4)
                    .unwrap()
                    .loss
            });
            assert!(loss.is_finite() && gradient.isfinite().all().int64_value(&[]) == 1);
        }
    }
}

#[test]
fn transformed_inputs_that_do_not_fit_are_refused() {
    let [rows, negatives, excluded] = transformed_inputs();
    let refused = |inputs: [&Tensor; 3], part: &str| {
        let found = PAPER.transformed([inputs[0], inputs[0]], inputs[1], inputs[2], None, 3);
        let message = found.unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    let odd = rows.narrow(0, 0, 7);
    refused([&odd, &negatives, &excluded], "two views of every image, found 7 rows");
    refused([&rows, &odd, &excluded], "`negatives` must have shape [10, 4]");
    refused([&rows, &negatives, &excluded.tr()], "`excluded columns` must have shape");
}

#[test]
fn reductions_are_spelt_as_documented() {
    let spelt = |reduction| serde_json::to_string(&reduction).unwrap();
    assert_eq!(spelt(Reduction::Mean2n), "\"mean_2n\"");
    assert_eq!(spelt(Reduction::SimclrSum), "\"simclr_sum\"");
}
