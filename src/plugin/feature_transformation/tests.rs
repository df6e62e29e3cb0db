use super::*;
use crate::loss::nt_xent::{NtXent, Reduction};
use crate::random::{Purpose, Scope};
use tch::{Device, Kind};

fn read(settings: &str) -> FeatureTransformation {
    toml::from_str(settings).unwrap()
}

fn stream(step: u64) -> Stream {
    Stream::open(17, Purpose::Mix, Scope::Step { step, view: 0 })
}

fn rows(item: u64, count: i64, width: i64) -> Tensor {
    let mut stream = Stream::open(17, Purpose::Test, Scope::Item(item));
    let values: Vec<f64> = (0..count * width).map(|_| stream.normal()).collect();
    unit_rows(&Tensor::from_slice(&values).view([count, width]))
}

fn axes(count: i64) -> Tensor {
    Tensor::eye(count, (Kind::Double, Device::Cpu))
}

fn leaf(rows: &Tensor) -> Tensor {
    rows.detach().copy().set_requires_grad(true)
}

/// Gradient of Σ `weights` ⊙ `output` for a leaf; the graph stays.
fn gradient(output: &Tensor, weights: &Tensor, leaf: &Tensor) -> Tensor {
    let sum = (output * weights).sum(None);
    Tensor::run_backward(&[sum], &[leaf], true, false).remove(0)
}

fn values(tensor: &Tensor) -> Vec<Vec<f64>> {
    Vec::<Vec<f64>>::try_from(tensor.to_kind(Kind::Double)).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    values(tensor).concat()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn close(found: &Tensor, expected: &Tensor) {
    assert_eq!(found.size(), expected.size());
    let off = (found - expected).abs().max().double_value(&[]);
    assert!(off < 1e-12, "off by {off}");
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn the_published_identity_is_met() {
    let q = Tensor::from_slice(&[1.0, 0.0]).view([1, 2]);
    let k = Tensor::from_slice(&[0.5, 0.75_f64.sqrt()]).view([1, 2]);
    let lambda = Tensor::from(1.5);
    let pair = [mix(&q, &k, &lambda), mix(&k, &q, &lambda)];
    assert!((row_dot(&pair[0], &pair[1]).double_value(&[0, 0]) + 0.25).abs() < 1e-12);
    assert!((row_dot(&pair[0], &pair[0]).double_value(&[0, 0]) - 1.75).abs() < 1e-12);
    assert_eq!(mix(&q, &k, &Tensor::from(1.0)), q);
}

#[test]
fn pairs_are_extrapolated_with_one_lambda_from_the_rows_as_they_were() {
    let (q, k) = (rows(0, 6, 4), rows(1, 6, 4));
    let s = row_dot(&q, &k);
    for level in ["step", "sample"] {
        let settings = read(&format!("positive_level = '{level}'"));
        let mut lambdas = Vec::new();
        for step in 0..50 {
            let (harder, key) = settings.positives(&q, &k, &mut stream(step)).unwrap();
            close(&(&harder + &key), &(&q + &k));
            // q' - q = (λ-1)(q - k)
            let apart = &q - &k;
            let lambda = row_dot(&(&harder - &q), &apart) / row_dot(&apart, &apart) + 1.0;
            let change = &lambda * (1.0 - &lambda) * (1.0 - &s) * 2.0;
            close(&row_dot(&harder, &key), &(&s + &change));
            close(&row_dot(&harder, &harder), &(1.0 - &change));
            close(&row_dot(&key, &key), &(1.0 - &change));
            lambdas.extend(flat(&lambda));
        }
        assert!(lambdas.iter().all(|lambda| (1.0..=2.0).contains(lambda)));
        let equal = lambdas.chunks(6).all(|six| six.iter().all(|l| (l - six[0]).abs() < 1e-9));
        assert_eq!(equal, level == "step");
        assert!((mean(&lambdas) - 1.5).abs() < 0.15);
    }
}

#[test]
fn a_lambda_per_coordinate_is_shared_by_the_pair() {
    let settings = read("positive_level = 'dimension'");
    let (q, k) = (rows(0, 6, 4), rows(1, 6, 4));
    let (harder, key) = settings.positives(&q, &k, &mut stream(0)).unwrap();
    close(&(&harder + &key), &(&q + &k));
    let mut lambda = flat(&((&harder - &q) / (&q - &k) + 1.0));
    lambda.sort_by(f64::total_cmp);
    assert!(lambda[0] > 1.0 && lambda[23] < 2.0);
    assert!(lambda.windows(2).all(|two| two[1] - two[0] > 1e-9), "{lambda:?}");
}

#[test]
fn keys_are_constants_and_the_query_within_a_key_is_not() {
    let (q, k) = (leaf(&rows(0, 3, 4)), leaf(&rows(1, 3, 4)));
    let weights = rows(2, 3, 4);
    let settings = read("");
    let (harder, key) = settings.positives(&q, &k, &mut stream(0)).unwrap();
    let lambda = 1.0 + stream(0).beta(2.0, 2.0);
    close(&gradient(&harder, &weights, &q), &(&weights * lambda));
    close(&gradient(&key, &weights, &q), &(&weights * (1.0 - lambda)));
    ((harder + key) * &weights).sum(None).backward();
    assert!(!k.grad().defined());

    let detached = FeatureTransformation { detach_keys_mix: true, ..settings };
    let (harder, key) = detached.positives(&q, &k, &mut stream(0)).unwrap();
    assert!(harder.requires_grad() && !key.requires_grad());
}

#[test]
fn negatives_get_a_fresh_permutation_and_the_queue_stays() {
    // With axes for rows the columns show who was mixed, and how.
    let queue = axes(40).set_requires_grad(true);
    for (mixing, offset) in [("interpolate", 0.0), ("extrapolate", 1.0)] {
        let settings = read(&format!("negative = '{mixing}'"));
        let (mut lambdas, mut orders) = (Vec::new(), Vec::new());
        let mut stream = stream(3);
        for _ in 0..60 {
            let columns = settings.negatives(&queue, &mut stream).unwrap().columns;
            assert!(!columns.requires_grad());
            // λ I + (1-λ) P: its rows and columns sum to 1, and off the diagonal there is one entry in a row.
            let columns = values(&columns);
            let mut order = Vec::new();
            for (row, column) in columns.iter().enumerate() {
                let others = column.iter().enumerate().filter(|(at, c)| *at != row && **c != 0.0);
                let others: Vec<usize> = others.map(|(at, _)| at).collect();
                assert!(others.len() < 2);
                order.push(others.first().copied().unwrap_or(row));
                assert!((column.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            }
            let row = (0..40).find(|row| order[*row] != *row).unwrap();
            let lambda = columns[row][row];
            assert!((offset..=offset + 1.0).contains(&lambda));
            lambdas.push(lambda);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..40));
            orders.push(order);
        }
        assert!((mean(&lambdas) - offset - 0.5).abs() < 0.12);
        orders.dedup();
        assert_eq!(orders.len(), 60);
    }
    assert_eq!(queue.detach(), axes(40));
    let same = read("negative = 'none'").negatives(&queue, &mut stream(3)).unwrap();
    assert_eq!(same.columns, axes(40));
}

#[test]
fn one_lambda_mixes_logits_as_it_mixes_negatives() {
    let (q, queue) = (rows(0, 5, 8), rows(1, 30, 8));
    let settings = read("");
    let columns = settings.negatives(&queue, &mut stream(2)).unwrap().columns;
    // The same draws on axes show λ and the permutation.
    let mixing = settings.negatives(&axes(30), &mut stream(2)).unwrap().columns;
    close(&q.mm(&columns.tr()), &q.mm(&queue.tr()).mm(&mixing.tr()));
}

#[test]
fn levels_of_negatives_draw_as_many_lambdas() {
    // A queue of zeros and ones: permuted or not, coordinates where the two rows differ show λ or 1 - λ.
    for (level, expected) in [("step", 1), ("sample", 40), ("dimension", 40 * 40)] {
        for mixing in ["interpolate", "hard"] {
            let settings = read(&format!("negative = '{mixing}'\nnegative_level = '{level}'"));
            let rows = axes(40);
            let lambda = settings.lambda([1.6; 2], settings.negative_level, &rows, &mut stream(1));
            let mut found = flat(&lambda);
            found.sort_by(f64::total_cmp);
            found.dedup();
            assert_eq!(found.len(), expected);
            assert_eq!(settings.negatives(&rows, &mut stream(1)).unwrap().columns.size()[0], 40);
        }
    }
    let uniform = read("distribution = 'uniform'");
    let many = Tensor::zeros([100, 100], (Kind::Float, Device::Cpu));
    let drawn = uniform.lambda([5.0, 2.0], Level::Dimension, &many, &mut stream(0));
    assert!((drawn.mean(Kind::Double).double_value(&[]) - 0.5).abs() < 0.015);
    assert!((drawn.var(true).double_value(&[]) - 1.0 / 12.0).abs() < 0.005);
}

#[test]
fn hard_negatives_are_those_of_the_formula_without_being_made() {
    let (q, k, queue) = (rows(0, 5, 8), rows(1, 5, 8), rows(2, 30, 8));
    for level in ["step", "sample", "dimension"] {
        for swap in [false, true] {
            let settings = read(&format!(
                "negative = 'hard'\nhard_beta = [5.0, 2.0]\nnegative_level = '{level}'\nswap_lambda = {swap}"
            ));
            let (harder, key) = settings.positives(&q, &k, &mut stream(0)).unwrap();
            let negatives = settings.negatives(&queue, &mut stream(1)).unwrap();
            let (longer, keys) = negatives.align(&harder, &key, &q);
            close(&row_dot(&longer, &keys), &row_dot(&harder, &key));

            let lambda =
                settings.lambda([5.0, 2.0], settings.negative_level, &queue, &mut stream(1));
            let lambda = if swap { 1.0 - lambda } else { lambda };
            let lambda = values(&lambda.expand([30, 8], false));
            let (q, harder, queue) = (values(&q), values(&harder), values(&queue));
            let logits = values(&longer.mm(&negatives.columns.tr()));
            for (i, j) in (0..5).flat_map(|i| (0..30).map(move |j| (i, j))) {
                let hard: Vec<f64> = (0..8)
                    .map(|c| lambda[j][c] * q[i][c] + (1.0 - lambda[j][c]) * queue[j][c])
                    .collect();
                assert!((logits[i][j] - dot(&harder[i], &hard)).abs() < 1e-12);
            }
        }
    }
    // For a unit query that was not mixed: λ + (1-λ)s, at least s.
    let settings = read("positive = 'none'\nnegative = 'hard'");
    let negatives = settings.negatives(&queue, &mut stream(1)).unwrap();
    let (longer, _) = negatives.align(&q, &k, &q);
    let (hard, s) = (longer.mm(&negatives.columns.tr()), q.mm(&queue.tr()));
    let lambda = stream(1).beta(2.0, 1.0);
    close(&hard, &(&s * (1.0 - lambda) + lambda));
    assert!((hard - s).min().double_value(&[]) > 0.0);
}

#[test]
fn the_pull_towards_a_query_is_a_constant() {
    let (q, k, queue) = (leaf(&rows(0, 5, 8)), rows(1, 5, 8), rows(2, 30, 8));
    let settings = read("positive = 'none'\nnegative = 'hard'");
    let negatives = settings.negatives(&queue, &mut stream(1)).unwrap();
    let (longer, _) = negatives.align(&q, &k, &q);
    let weights = rows(3, 5, 30);
    let found = gradient(&longer.mm(&negatives.columns.tr()), &weights, &q);
    let lambda = stream(1).beta(2.0, 1.0);
    let pull = q.detach() * weights.sum_dim_intlist(1, true, None) * lambda;
    close(&found, &(weights.mm(&queue) * (1.0 - lambda) + pull));
}

#[test]
fn lengths_are_restored_where_asked() {
    let (q, k, queue) = (rows(0, 5, 8), rows(1, 5, 8), rows(2, 30, 8));
    for (choice, positive, negative) in [
        ("", false, false),
        ("renormalize = 'none'", false, false),
        ("renormalize = 'positive'", true, false),
        ("renormalize = 'negative'", false, true),
        ("renormalize = 'both'", true, true),
    ] {
        let settings = read(choice);
        let lengths_are_one =
            |rows: &Tensor| (row_dot(rows, rows) - 1.0).abs().max().double_value(&[]) < 1e-12;
        let (harder, key) = settings.positives(&q, &k, &mut stream(0)).unwrap();
        assert_eq!([lengths_are_one(&harder), lengths_are_one(&key)], [positive; 2], "{choice}");
        let columns = settings.negatives(&queue, &mut stream(0)).unwrap().columns;
        assert_eq!(lengths_are_one(&columns), negative, "{choice}");
        let batch = settings.in_batch(&rows(3, 12, 8), &mut stream(0)).unwrap();
        assert_eq!(lengths_are_one(&batch.rows), positive, "{choice}");
        assert_eq!(lengths_are_one(&batch.negatives), negative, "{choice}");
        let (first, second) = settings.crops(&q, &k, &mut stream(0)).unwrap();
        let alone = choice.is_empty() || positive;
        assert_eq!([lengths_are_one(&first), lengths_are_one(&second)], [alone; 2], "{choice}");
    }
}

#[test]
fn predictions_and_targets_follow_the_closed_forms() {
    let (p, z) = (leaf(&rows(0, 7, 5)), leaf(&rows(1, 7, 5)));
    let s = row_dot(&p, &z).squeeze_dim(1);
    let lambda = 1.0 + stream(4).beta(2.0, 2.0);
    let t = 2.0 * lambda * (lambda - 1.0);
    let found = read("").similarity(&p, &z, &mut stream(4)).unwrap();
    let apart: Tensor = 1.0 - &s;
    let expected: Tensor = (&s - &apart * t) / (&apart * t + 1.0);
    close(&found.detach(), &expected.detach());

    // Without the length it is the old loss times 1 + t, and so, along the sphere, is its gradient.
    let plain = read("renormalize = 'none'").similarity(&p, &z, &mut stream(4)).unwrap();
    close(&(plain.detach() - 1.0), &((s.detach() - 1.0) * (1.0 + t)));
    let along_sphere = |gradient: Tensor| &gradient - &p.detach() * row_dot(&gradient, &p.detach());
    let ones = Tensor::ones([7], (Kind::Double, Device::Cpu));
    let old = along_sphere(z.detach());
    close(&along_sphere(gradient(&plain, &ones, &p)), &(old * (1.0 + t)));
    (found + plain).sum(None).backward();
    assert!(!z.grad().defined(), "targets are constants");

    let none = read("positive = 'none'").similarity(&p, &z, &mut stream(4)).unwrap();
    close(&none.detach(), &s.detach());
}

#[test]
fn crops_are_mixed_with_each_other_and_keep_their_gradients() {
    let (one, two) = (leaf(&rows(0, 7, 5)), leaf(&rows(1, 7, 5)));
    let settings = read("renormalize = 'none'");
    let (first, second) = settings.crops(&one, &two, &mut stream(4)).unwrap();
    let lambda = 1.0 + stream(4).beta(2.0, 2.0);
    close(&first.detach(), &(one.detach() * lambda + two.detach() * (1.0 - lambda)));
    close(&second.detach(), &(two.detach() * lambda + one.detach() * (1.0 - lambda)));
    let weights = rows(2, 7, 5);
    close(&gradient(&first, &weights, &two), &(&weights * (1.0 - lambda)));
    close(&gradient(&second, &weights, &two), &(&weights * lambda));
}

/// The mixing matrices of a batch, and which rows each column is made of, seen on axes.
fn mixing(settings: &FeatureTransformation, count: i64, step: u64) -> (Tensor, Tensor) {
    let seen = settings.in_batch(&axes(count), &mut stream(step)).unwrap();
    (seen.rows, seen.negatives)
}

/// The mean loss of a transformed batch, as its documentation puts it.
fn dense(batch: &InBatch, temperature: f64) -> f64 {
    let positive = row_dot(&batch.rows, &batch.positives) / temperature;
    let logits = batch.rows.mm(&batch.negatives.tr()) / temperature;
    let negatives = logits.exp().scatter_value(1, &batch.excluded, 0.0);
    let sum = negatives.sum_dim_intlist(1, true, None) * batch.scale.unsqueeze(1);
    ((positive.exp() + sum).log() - positive).mean(None).double_value(&[])
}

#[test]
fn a_batch_follows_the_procedure() {
    let (count, temperature) = (10_usize, 0.5);
    for settings in [
        "",
        "rescale_negatives = false",
        "positive_level = 'sample'\nnegative_level = 'sample'",
        "negative = 'extrapolate'",
        "positive = 'none'",
        "negative = 'none'",
    ] {
        let settings = read(settings);
        for step in 0..10 {
            let z = leaf(&rows(step, 10, 6));
            let found = settings.in_batch(&z, &mut stream(step)).unwrap();
            let (anchors, columns) = mixing(&settings, 10, step);
            close(&found.rows.detach(), &anchors.mm(&z.detach()));
            close(&found.negatives.detach(), &columns.mm(&z.detach()));
            close(&found.positives, &found.rows.roll(5, 0));
            let (anchors, columns) = (values(&anchors), values(&columns));

            // (a): both members of a pair with one λ in [1, 2], nobody else.
            for i in 0..count {
                let other = (i + 5) % count;
                assert!((anchors[i][i] + anchors[i][other] - 1.0).abs() < 1e-12);
                assert!((anchors[i][i] - anchors[other][other]).abs() < 1e-12);
                assert!((1.0..=2.0).contains(&anchors[i][i]));
                assert_eq!(anchors[i].iter().filter(|share| **share != 0.0).count(), {
                    if settings.positive == PositiveMixing::None { 1 } else { 2 }
                });
            }
            // (c), (d), (e), by loops over what each column contains.
            let [z1, n1] = [&anchors, &columns]
                .map(|shares| values(&Tensor::from_slice2(shares).mm(&z.detach())));
            let mut loss = 0.0;
            let excluded = values(&found.excluded);
            let scale: Vec<f64> = Vec::try_from(&found.scale).unwrap();
            for i in 0..count {
                let other = (i + 5) % count;
                let contains = |j: usize| columns[j][i] != 0.0 || columns[j][other] != 0.0;
                let kept: Vec<usize> = (0..count).filter(|j| !contains(*j)).collect();
                let left: Vec<usize> =
                    (0..count).filter(|j| !excluded[i].contains(&(*j as f64))).collect();
                assert_eq!(left, kept);
                let expected =
                    if settings.rescale_negatives { 8.0 / kept.len() as f64 } else { 1.0 };
                assert!((scale[i] - expected).abs() < 1e-12);
                let s = dot(&z1[i], &z1[other]) / temperature;
                let negative = |j: &usize| (dot(&z1[i], &n1[*j]) / temperature).exp();
                let sum: f64 = kept.iter().map(negative).sum();
                loss += ((s.exp() + expected * sum).ln() - s) / count as f64;
            }
            assert!((dense(&found, temperature) - loss).abs() < 1e-12);
            // Gradients are kept on every side.
            let weights = rows(100 + step, 10, 6);
            let back = |matrix: &[Vec<f64>]| Tensor::from_slice2(matrix).tr().mm(&weights);
            close(&gradient(&found.rows, &weights, &z), &back(&anchors));
            close(&gradient(&found.negatives, &weights, &z), &back(&columns));
        }
    }
}

#[test]
fn hard_negatives_of_a_batch_are_drawn_towards_the_anchor() {
    let settings = read("negative = 'hard'");
    let z = rows(0, 8, 6);
    let found = settings.in_batch(&z, &mut stream(0)).unwrap();
    assert_eq!(found.excluded.size(), [8, 2]);
    assert_eq!(found.scale, Tensor::ones([8], (Kind::Double, Device::Cpu)));
    let mut stream = stream(0);
    let (outside, inside) = (1.0 + stream.beta(2.0, 2.0), stream.beta(2.0, 1.0));
    let anchors = &z * outside + z.roll(4, 0) * (1.0 - outside);
    let s = row_dot(&anchors, &anchors.roll(4, 0));
    close(&row_dot(&found.rows, &found.positives), &s);
    let logits = found.rows.mm(&found.negatives.tr());
    close(&logits, &(anchors.mm(&z.tr()) * (1.0 - inside) + row_dot(&anchors, &z) * inside));
}

#[test]
fn a_coordinate_of_a_pair_in_a_batch_has_its_own_lambda() {
    let settings = read("positive_level = 'dimension'\nnegative_level = 'dimension'");
    let z = rows(0, 12, 7);
    let found = settings.in_batch(&z, &mut stream(0)).unwrap();
    close(&(&found.rows + &found.positives), &(&z + z.roll(6, 0)));
    let mut lambda = flat(&((&found.rows - &z) / (&z - z.roll(6, 0))).narrow(0, 0, 6));
    lambda.sort_by(f64::total_cmp);
    assert!(lambda.windows(2).all(|two| two[1] - two[0] > 1e-9));
    assert!(lambda[0] > 0.0 && lambda[41] < 1.0);
}

#[test]
fn a_batch_too_small_for_negatives_stays_finite() {
    for images in [1, 2] {
        for step in 0..20 {
            let found = read("").in_batch(&rows(0, 2 * images, 3), &mut stream(step)).unwrap();
            assert!(found.scale.isfinite().all().int64_value(&[]) == 1);
            // A row that has nothing to be told from has a loss, and a gradient, of numbers.
            let z = rows(0, 2 * images, 3).set_requires_grad(true);
            let found = read("").in_batch(&unit_rows(&z), &mut stream(step)).unwrap();
            let loss = NtXent { temperature: 0.1, reduction: Reduction::Mean2n }.transformed(
                [&found.rows, &found.positives],
                &found.negatives,
                &found.excluded,
                Some(&found.scale),
                4,
            );
            let loss = loss.unwrap().loss;
            loss.backward();
            for number in [&loss, &z.grad()] {
                assert!(number.isfinite().all().int64_value(&[]) == 1, "{images} {step}");
            }
        }
    }
    assert!(read("").in_batch(&rows(0, 5, 3), &mut stream(0)).is_err());
}

#[test]
fn epochs_before_the_start_are_left_alone() {
    let from = |start_epoch| FeatureTransformation { start_epoch, ..read("") };
    // Counted from 1, epochs above the start are transformed.
    for start in 0..4 {
        let active: Vec<u32> = (0..6).filter(|epoch| from(start).active(*epoch)).collect();
        assert!(active.into_iter().eq(start..6));
    }
}

#[test]
fn half_precision_is_widened_and_shapes_are_checked() {
    let half = rows(0, 4, 3).to_kind(Kind::BFloat16);
    let (q, k) = read("").positives(&half, &half, &mut stream(0)).unwrap();
    assert_eq!([q.kind(), k.kind()], [Kind::Float; 2]);
    assert!(read("").positives(&rows(0, 4, 3), &rows(0, 5, 3), &mut stream(0)).is_err());
    assert!(read("").similarity(&rows(0, 4, 3), &rows(0, 4, 2), &mut stream(0)).is_err());
}

#[test]
fn settings_out_of_range_are_refused() {
    assert!(read("").check().is_ok());
    assert_eq!(read("").renormalize, None);
    let refused = |settings: &str, part: &str| {
        let message = read(settings).check().unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    refused("alpha_interpolate = 0.0", "`plugins.feature_transformation.alpha_interpolate` must");
    refused("hard_beta = [2.0, nan]", "`plugins.feature_transformation.hard_beta` must");
    refused("positive = 'none'\nnegative = 'none'", "leave the table out");
    refused("hard_beta = [5.0, 2.0]", "hard_beta` is read with");
    refused("swap_lambda = true", "negative = \"hard\"` alone");
    refused("negative = 'hard'\nrenormalize = 'both'", "`none` or `positive`");
    assert!(toml::from_str::<FeatureTransformation>("level = 'step'").is_err());
}
