//! Losses of instance discrimination: each feature finds the slot of its own image in a memory bank.
//!
//! Wu, Xiong, Yu, Lin 2018, arXiv:1805.01978 (NPID). The bank `[n, d]` holds one row per training image and is no
//! parameter: gradients go to the features alone. Features and bank are taken as they are, unit rows by the caller (a new
//! bank is not quite).

use crate::error::{Error, Result};
use crate::loss::attach;
use crate::loss::info_nce::{Scored, mean_product};
use crate::loss::tiled::{Contrast, Positive, check_temperature};
use crate::random::Stream;
use crate::rows::{computing_kind, sum};
use crate::shape::check;
use tch::{Kind, Tensor, no_grad};

/// Scalars of bank rows gathered at once, or one feature's if those are more: 134 MB in f32.
const GATHERED: i64 = 1 << 25;

/// Blocks of random numbers drawn at once: 64 KiB.
const BLOCKS: usize = 1 << 12;

/// ε of the noise-contrastive estimate, as in the official code.
const EPSILON: f64 = 1e-7;

/// Instance discrimination against a memory bank, in three forms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Instance {
    /// T, above 0: 0.07 for `ImageNet`, 0.1 for CIFAR.
    pub temperature: f64,
}

impl Instance {
    /// The full softmax (Eq. 2): cross entropy of finding slot `slots[i]` of `bank` `[n, d]` from feature i among all n,
    /// mean over the B rows of `features` `[B, d]`; `slots` is i64 `[B]`. In tiles of `tile` rows, see
    /// [`default_tile`](crate::loss::tiled::default_tile).
    ///
    /// # Errors
    /// [`Error::Shape`] if shapes do not fit, [`Error::Recipe`] if the temperature is not above 0.
    pub fn softmax(
        &self,
        features: &Tensor,
        bank: &Tensor,
        slots: &Tensor,
        tile: i64,
    ) -> Result<Scored> {
        let (count, _) = self.check(features, bank)?;
        check("slots", slots, &[count])?;
        let kind = computing_kind(features);
        let features = features.to_kind(kind);
        let (rows, columns) = (features.detach(), bank.detach().to_kind(kind));
        let found = Contrast {
            rows: &rows,
            columns: &columns,
            temperature: self.temperature,
            positive: Positive::Column(slots),
            weights: &Tensor::full([count], 1.0 / count as f64, (kind, rows.device())),
            excluded: None,
            negatives_scale: None,
            columns_gradient: false,
            tile,
        }
        .evaluate()?;
        let mean = |tensor: &Tensor| sum(tensor) / count as f64;
        let positive = mean(&found.positive) * self.temperature;
        let images = columns.size()[0] as f64;
        Ok(Scored {
            loss: attach(
                mean(&(&found.log_sum_exp - &found.positive)),
                &[(&features, &found.rows_gradient)],
            ),
            accuracy: mean(&found.positive.gt_tensor(&found.hardest)),
            positive_similarity: positive,
            negative_similarity: (mean_product(&rows, &columns) * images - positive)
                / (images - 1.0).max(1.0),
        })
    }

    /// Noise-contrastive estimation (Eq. 4 to 7): with `P_ij = exp(v_i·M[idx_ij] / T) / Z` and uniform noise `1/n`,
    ///
    /// ```text
    /// loss = -1/B Σ_i [ ln P_i0 / (P_i0 + K/n + ε) + Σ_{j=1..K} ln (K/n) / (P_ij + K/n + ε) ]
    /// ```
    ///
    /// ε = 1e-7. `indices` is i64 `[B, 1 + K]`, the positive first, see [`sample`]; `normalizer` is Z, above 0, see
    /// [`Instance::normalizer`]. Worked out in logarithms, so that no temperature overflows. Rows of the bank are
    /// gathered for a few features at a time: at most 2²⁵ scalars, or one feature's `(1 + K)·d`.
    ///
    /// # Errors
    /// [`Error::Shape`] if shapes do not fit, [`Error::Recipe`] if the temperature is not above 0.
    pub fn noise_contrastive(
        &self,
        features: &Tensor,
        bank: &Tensor,
        indices: &Tensor,
        normalizer: f64,
    ) -> Result<Scored> {
        assert!(normalizer > 0.0, "the normalizer is a mean of exponentials, found {normalizer}");
        self.sampled(features, bank, indices, |logits| {
            let negatives = logits.size()[1] - 1;
            let noise = negatives as f64 / bank.size()[0] as f64;
            // ln P - ln (K/n + ε): its logistic function is P / (P + K/n + ε).
            let odds = logits - (normalizer * (noise + EPSILON)).ln();
            let (own, others) = (odds.narrow(1, 0, 1), odds.narrow(1, 1, negatives));
            let constant = (EPSILON / noise).ln_1p() * negatives as f64;
            let losses = constant
                - own.log_sigmoid().squeeze_dim(1)
                - (-&others).log_sigmoid().sum_dim_intlist(1, false, None);
            (losses, Tensor::cat(&[-(-own).sigmoid(), others.sigmoid()], 1))
        })
    }

    /// Softmax over the positive and the drawn negatives (the authors' later model; CMC, `InfoMin`): cross entropy of
    /// finding column 0 of `[v_i·M[idx_ij]]_j / T`, mean over i. `indices` is i64 `[B, 1 + K]`, the positive first, see
    /// [`sample`]; memory as for [`Instance::noise_contrastive`].
    ///
    /// # Errors
    /// [`Error::Shape`] if shapes do not fit, [`Error::Recipe`] if the temperature is not above 0.
    pub fn sampled_softmax(
        &self,
        features: &Tensor,
        bank: &Tensor,
        indices: &Tensor,
    ) -> Result<Scored> {
        self.sampled(features, bank, indices, |logits| {
            let losses = -logits.log_softmax(1, None).select(1, 0);
            let shares = logits.softmax(1, None);
            let others = shares.narrow(1, 1, shares.size()[1] - 1);
            // p - 1 as minus the negatives' share keeps its digits.
            let own = -others.sum_dim_intlist(1, true, None);
            (losses, Tensor::cat(&[own, others], 1))
        })
    }

    /// Z of the noise-contrastive estimate: n times the mean of `exp(v_i·M[idx_ij] / T)` over a first batch, positives
    /// included, as in the official code. It is estimated once and then stays.
    ///
    /// # Errors
    /// [`Error::Shape`] if shapes do not fit, [`Error::Recipe`] if the temperature is not above 0.
    pub fn normalizer(&self, features: &Tensor, bank: &Tensor, indices: &Tensor) -> Result<f64> {
        let mut total = 0.0;
        self.tiles(features, bank, indices, |_, logits, _| {
            total += sum(&logits.to_kind(Kind::Double).exp());
        })?;
        Ok(total / indices.numel() as f64 * bank.size()[0] as f64)
    }

    /// The mean over the rows of a loss that `rule` finds, `[rows]`, from tiles of logits, `[rows, 1 + K]`, along with its
    /// slopes for them.
    fn sampled(
        self,
        features: &Tensor,
        bank: &Tensor,
        indices: &Tensor,
        rule: impl Fn(&Tensor) -> (Tensor, Tensor),
    ) -> Result<Scored> {
        let features = features.to_kind(computing_kind(features));
        let mut gradients = Vec::new();
        let [mut loss, mut hits, mut positive, mut negative] = [0.0; 4];
        self.tiles(&features, bank, indices, |slots, logits, indices| {
            let (losses, slopes) = rule(logits);
            gradients.push(slopes.unsqueeze(1).bmm(slots).squeeze_dim(1));
            loss += sum(&losses);

            let split = |tensor: &Tensor| {
                (tensor.narrow(1, 0, 1), tensor.narrow(1, 1, tensor.size()[1] - 1))
            };
            let ((own, others), (slot, drawn)) = (split(logits), split(indices));
            // The positive may have been drawn again.
            let again = drawn.eq_tensor(&slot);
            let hardest = others.masked_fill(&again, f64::NEG_INFINITY).amax(1, true);
            hits += sum(&own.gt_tensor(&hardest));
            positive += sum(&own);
            negative += sum(&others);
        })?;
        let (count, choices) = (features.size()[0] as f64, indices.size()[1] as f64);
        let gradient = Tensor::cat(&gradients, 0) / (self.temperature * count);
        Ok(Scored {
            loss: attach(loss / count, &[(&features, &gradient)]),
            accuracy: hits / count,
            positive_similarity: positive * self.temperature / count,
            negative_similarity: negative * self.temperature / (count * (choices - 1.0)),
        })
    }

    /// Shows `tile`, for a few rows at a time, the bank's rows that are named, `[rows, 1 + K, d]`, the logits and the
    /// indices, `[rows, 1 + K]`.
    fn tiles(
        self,
        features: &Tensor,
        bank: &Tensor,
        indices: &Tensor,
        mut tile: impl FnMut(&Tensor, &Tensor, &Tensor),
    ) -> Result<()> {
        let (count, width) = self.check(features, bank)?;
        check("indices", indices, &[count, -1])?;
        let choices = indices.size()[1];
        if choices < 2 {
            return Err(Error::Shape(format!(
                "`indices` must name the positive and a negative at least, found {choices} columns"
            )));
        }
        let kind = computing_kind(features);
        no_grad(|| {
            let scaled = features.to_kind(kind) / self.temperature;
            let most = (GATHERED / (choices * width)).clamp(1, count);
            for start in (0..count).step_by(most as usize) {
                let size = most.min(count - start);
                let named = indices.narrow(0, start, size);
                let slots = bank.index_select(0, &named.flatten(0, 1)).to_kind(kind);
                let slots = slots.view([size, choices, width]);
                let rows = scaled.narrow(0, start, size).unsqueeze(2);
                tile(&slots, &slots.bmm(&rows).squeeze_dim(2), &named);
            }
        });
        Ok(())
    }

    /// Rows and width of the features.
    fn check(self, features: &Tensor, bank: &Tensor) -> Result<(i64, i64)> {
        check_temperature(self.temperature)?;
        check("features", features, &[-1, -1])?;
        let (count, width) = (features.size()[0], features.size()[1]);
        check("bank", bank, &[-1, width])?;
        if count == 0 {
            return Err(Error::Shape("`features` must have a row at least, found none".into()));
        }
        Ok((count, width))
    }
}

/// Which slots of a bank of `images` each feature is compared with, i64 `[B, 1 + negatives]` on the CPU: its own,
/// `slots[i]`, and then `negatives` drawn uniformly from all `images` with replacement, so its own may come again.
/// `images` must be at least 1. Draws start at the next whole block of the stream.
pub fn sample(stream: &mut Stream, slots: &[i64], negatives: usize, images: u32) -> Tensor {
    let total = slots.len() * negatives;
    let mut drawn: Vec<i64> = Vec::with_capacity(total);
    let mut blocks = vec![[0; 4]; total.div_ceil(4).min(BLOCKS)];
    // Without bias: Lemire 2019, arXiv:1805.10941, on 32 bits.
    let threshold = images.wrapping_neg() % images;
    let number = |bits: u32| {
        let product = u64::from(bits) * u64::from(images);
        (product as u32 >= threshold).then_some((product >> 32) as i64)
    };
    while drawn.len() < total {
        let missing = total - drawn.len();
        let blocks = &mut blocks[..missing.div_ceil(4).min(BLOCKS)];
        stream.blocks(blocks);
        drawn.extend(blocks.iter().flatten().filter_map(|bits| number(*bits)).take(missing));
    }
    let rows = slots.len() as i64;
    let drawn = Tensor::from_slice(&drawn).view([rows, negatives as i64]);
    Tensor::cat(&[Tensor::from_slice(slots).unsqueeze(1), drawn], 1)
}

#[cfg(test)]
mod tests {
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
}
