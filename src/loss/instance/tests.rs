use super::*;
use crate::loss::tiled::testing::{
    distance, dot, equals_golden, golden, graded, log_sum_exp, normal, rows_of, slope, value,
};
use crate::random::{Purpose, Scope};
use crate::rows::unit_rows;
use tch::Device;

const SLOTS: [i64; 5] = [4, 0, 28, 13, 4];
const COOL: Instance = Instance { temperature: 0.1 };

/// Features near their slots, a bank of 29, and 11 draws for each feature.
fn inputs() -> (Tensor, Tensor, Tensor) {
    let bank = unit_rows(&normal(1, 29, 6));
    let own = bank.index_select(0, &Tensor::from_slice(&SLOTS));
    let features = unit_rows(&(own + normal(2, 5, 6) * 0.4));
    (features, bank, sample(&mut stream(), &SLOTS, 11, 29))
}

fn stream() -> Stream {
    Stream::open(5, Purpose::Negatives, Scope::Step { step: 3, view: 0 })
}

/// One feature's loss from its logits, the positive first.
type Rule<'a> = &'a dyn Fn(&[f64]) -> f64;

/// A loss of the features.
type Loss<'a> = &'a dyn Fn(&Tensor) -> Scored;

fn cross_entropy(logits: &[f64]) -> f64 {
    log_sum_exp(logits) - logits[0]
}

/// The formula as it is written.
fn noise(logits: &[f64], images: f64, normalizer: f64) -> f64 {
    let negatives = (logits.len() - 1) as f64;
    let (noise, share) = (negatives / images, |logit: f64| logit.exp() / normalizer);
    let own = share(logits[0]);
    let others = logits[1..].iter().map(|logit| (noise / (share(*logit) + noise + 1e-7)).ln());
    -(own / (own + noise + 1e-7)).ln() - others.sum::<f64>()
}

/// Loss, accuracy and mean scores in one scalar loop over the slots that are named.
fn naive(features: &Tensor, bank: &Tensor, indices: &Tensor, rule: Rule) -> [f64; 4] {
    let (features, bank) = (rows_of(features), rows_of(bank));
    let indices = Vec::<Vec<i64>>::try_from(indices).unwrap();
    let mut sums = [0.0; 4];
    for (feature, named) in features.iter().zip(&indices) {
        let scores: Vec<f64> = named.iter().map(|j| dot(feature, &bank[*j as usize])).collect();
        let logits: Vec<f64> = scores.iter().map(|score| score / COOL.temperature).collect();
        let mut rivals = named.iter().zip(&scores).filter(|(j, _)| **j != named[0]);
        sums[0] += rule(&logits);
        sums[1] += f64::from(u8::from(rivals.all(|(_, score)| *score < scores[0])));
        sums[2] += scores[0];
        sums[3] += scores[1..].iter().sum::<f64>() / (scores.len() - 1) as f64;
    }
    sums.map(|sum| sum / features.len() as f64)
}

/// Every image's slot, its own first.
fn everything(slots: &[i64], images: i64) -> Tensor {
    let row = |slot: &i64| {
        let mut row = vec![*slot];
        row.extend((0..images).filter(|other| other != slot));
        row
    };
    Tensor::from_slice2(&slots.iter().map(row).collect::<Vec<_>>())
}

fn agrees(
    features: &Tensor,
    bank: &Tensor,
    indices: &Tensor,
    rule: Rule,
    loss: &dyn Fn(&Tensor, &Tensor) -> Scored,
) {
    let expected = naive(features, bank, indices, rule);
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5)] {
        let found = loss(&features.to_kind(kind), &bank.to_kind(kind));
        let found = [
            value(&found.loss),
            found.accuracy,
            found.positive_similarity,
            found.negative_similarity,
        ];
        for (found, expected) in found.iter().zip(expected) {
            let off = (found - expected).abs();
            assert!(off < tolerance * expected.abs().max(1.0), "{found} against {expected}");
        }
    }
    let found = graded(features, |features| loss(features, bank).loss).1;
    let expected = slope(features, |features| naive(features, bank, indices, rule)[0]);
    assert!(distance(&found, &expected) < 1e-7);
}

#[test]
fn every_form_equals_a_scalar_loop_and_its_slope() {
    let (features, bank, indices) = inputs();
    // Rows of a new bank are not of length 1.
    let bank = bank * normal(3, 29, 1).exp();
    let all = everything(&SLOTS, 29);
    let slots = Tensor::from_slice(&SLOTS);
    for tile in [2, 50] {
        agrees(&features, &bank, &all, &cross_entropy, &|features, bank| {
            COOL.softmax(features, bank, &slots, tile).unwrap()
        });
    }
    agrees(&features, &bank, &indices, &cross_entropy, &|features, bank| {
        COOL.sampled_softmax(features, bank, &indices).unwrap()
    });
    for normalizer in [0.5, 29.0, 3e4] {
        let rule = |logits: &[f64]| noise(logits, 29.0, normalizer);
        agrees(&features, &bank, &indices, &rule, &|features, bank| {
            COOL.noise_contrastive(features, bank, &indices, normalizer).unwrap()
        });
    }
}

#[test]
fn the_official_code_agrees() {
    let arrays = golden("instance");
    let (bank, indices) = (&arrays["bank"], &arrays["indices"]);
    let normalizer = COOL.normalizer(&arrays["features"], bank, indices).unwrap();
    let expected = value(&arrays["normalizer"]);
    assert!((normalizer / expected - 1.0).abs() < 1e-5, "{normalizer} against {expected}");
    let losses: [(&str, Loss); 3] = [
        ("noise", &|v| COOL.noise_contrastive(v, bank, indices, normalizer).unwrap()),
        ("softmax", &|v| COOL.softmax(v, bank, &arrays["slots"], 4).unwrap()),
        ("sampled", &|v| COOL.sampled_softmax(v, bank, indices).unwrap()),
    ];
    for (name, loss) in losses {
        let found = graded(&arrays["features"], |features| loss(features).loss);
        equals_golden(&arrays, name, &found);
    }
}

#[test]
fn equal_scores_have_closed_forms() {
    let ones = |rows: i64| Tensor::ones([rows, 4], (Kind::Double, Device::Cpu)) / 2.0;
    let (features, bank) = (ones(5), ones(29));
    let slots = Tensor::from_slice(&SLOTS);
    let indices = sample(&mut stream(), &SLOTS, 11, 29);
    let full = COOL.softmax(&features, &bank, &slots, 3).unwrap();
    assert!((value(&full.loss) - 29_f64.ln()).abs() < 1e-12);
    let drawn = COOL.sampled_softmax(&features, &bank, &indices).unwrap();
    assert!((value(&drawn.loss) - 12_f64.ln()).abs() < 1e-12);
    let normalizer = COOL.normalizer(&features, &bank, &indices).unwrap();
    assert!((normalizer / (29.0 * 10_f64.exp()) - 1.0).abs() < 1e-12);
    let noise = COOL.noise_contrastive(&features, &bank, &indices, normalizer).unwrap();
    let share = |part: f64| -(part / (12.0 + 29.0 * 1e-7)).ln();
    assert!((value(&noise.loss) - share(1.0) - 11.0 * share(11.0)).abs() < 1e-12);
    for scored in [full, drawn, noise] {
        assert_eq!((scored.accuracy, scored.positive_similarity), (0.0, 1.0));
        assert!((scored.negative_similarity - 1.0).abs() < 1e-12);
    }
}

#[test]
fn a_batch_of_several_tiles_is_right() {
    // 64 features to a tile.
    let (count, choices, width, images) = (70, 4096, 128, 9000);
    assert_eq!(GATHERED / (choices * width), 64);
    let single = |tensor: Tensor| unit_rows(&tensor).to_kind(Kind::Float);
    let (features, bank) = (single(normal(1, count, width)), single(normal(2, images, width)));
    let slots: Vec<i64> = (0..count).map(|i| i * 128).collect();
    let indices = sample(&mut stream(), &slots, 4095, 9000);
    let found = graded(&features, |v| COOL.sampled_softmax(v, &bank, &indices).unwrap().loss);
    let expected = graded(&features, |v| {
        let logits = (v.mm(&bank.tr()) / 0.1).gather(1, &indices, false);
        -logits.log_softmax(1, None).select(1, 0).mean(None)
    });
    assert!((found.0 / expected.0 - 1.0).abs() < 1e-6);
    assert!(distance(&found.1, &expected.1) < 1e-5 * value(&expected.1.abs().max()));
}

#[test]
fn extremes_stay_finite() {
    let (features, bank, indices) = inputs();
    let [features, bank] = [features, bank].map(|tensor| tensor.to_kind(Kind::BFloat16));
    let slots = Tensor::from_slice(&SLOTS);
    for temperature in [0.001, 1000.0] {
        let loss = Instance { temperature };
        let losses: [Loss; 4] = [
            &|v| loss.softmax(v, &bank, &slots, 3).unwrap(),
            &|v| loss.sampled_softmax(v, &bank, &indices).unwrap(),
            &|v| loss.noise_contrastive(v, &bank, &indices, 1e-300).unwrap(),
            &|v| loss.noise_contrastive(v, &bank, &indices, 1e300).unwrap(),
        ];
        for loss in losses {
            for scale in [0.0, 1.0, 100.0] {
                let (found, gradient) = graded(&(&features * scale), |v| loss(v).loss);
                assert!(found.is_finite() && gradient.isfinite().all().int64_value(&[]) == 1);
                assert_eq!(gradient.kind(), Kind::BFloat16);
            }
        }
    }
}

#[test]
fn draws_are_uniform_with_replacement_and_the_positive_comes_first() {
    let slots: Vec<i64> = (0..200).map(|i| i % 10).collect();
    let drawn = sample(&mut stream(), &slots, 500, 10);
    assert_eq!(drawn.size(), [200, 501]);
    assert_eq!(drawn.select(1, 0), Tensor::from_slice(&slots));
    assert_eq!(drawn, sample(&mut stream(), &slots, 500, 10));
    let counts = drawn.narrow(1, 1, 500).flatten(0, 1).bincount::<Tensor>(None, 10);
    // 100,000 draws: 10,000 a slot, with a standard deviation of 95.
    assert_eq!(counts.size(), [10]);
    assert!((counts - 10_000).abs().max().int64_value(&[]) < 480);
    let again = drawn.narrow(1, 1, 500).eq_tensor(&drawn.narrow(1, 0, 1));
    let share = sum(&again) / 100_000.0;
    assert!((share - 0.1).abs() < 0.005, "the positive is drawn like any other: {share}");

    // Three in eight of the bits are rejected here; what is left covers the whole range evenly.
    let images = 5 << 29;
    let drawn = sample(&mut stream(), &[0; 100], 1001, images).narrow(1, 1, 1001);
    assert_eq!(drawn.size(), [100, 1001]);
    assert!(drawn.min().int64_value(&[]) >= 0);
    assert!(drawn.max().int64_value(&[]) < i64::from(images));
    let mean = sum(&drawn) / 100_100.0 / f64::from(images);
    // The standard deviation of the mean is 0.0009.
    assert!((mean - 0.5).abs() < 0.0045, "{mean}");
    assert_eq!(sample(&mut stream(), &[7, 3], 0, 9), Tensor::from_slice2(&[[7_i64], [3]]));
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let (features, bank, indices) = inputs();
    let slots = Tensor::from_slice(&SLOTS);
    let refused = |found: Result<Scored>, part: &str| {
        let message = found.unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    refused(COOL.softmax(&features, &bank.tr(), &slots, 3), "`bank` must have shape [any, 6]");
    refused(COOL.softmax(&features, &bank, &indices, 3), "`slots` must have shape [5]");
    refused(COOL.sampled_softmax(&features, &bank, &slots), "`indices` must have shape");
    let own = indices.narrow(1, 0, 1);
    refused(COOL.sampled_softmax(&features, &bank, &own), "a negative at least, found 1");
    let none = features.narrow(0, 0, 0);
    refused(COOL.sampled_softmax(&none, &bank, &indices), "`features` must have a row");
    let frozen = Instance { temperature: 0.0 };
    refused(frozen.softmax(&features, &bank, &slots, 3), "must be above 0, found `0`");
}
