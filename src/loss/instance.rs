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
mod tests;
