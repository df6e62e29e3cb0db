//! Cross-level discrimination: an image told apart from the groups that the other view falls into.
//!
//! **Paper.** Wang, Liu, Yu 2021, "Unsupervised feature learning by cross-level instance-group discrimination",
//! arXiv:2008.03813. Its code: frank-xwang/CLD-UnsupervisedLearning.
//!
//! **Idea.** Images of a batch that look alike should not be pushed apart as instances. Each view's rows are grouped within
//! the step; then each row is classified among the *other* view's group centroids, right being the group which the same
//! image's other view fell into.
//!
//! **Symbols.** G1, G2 unit rows of the group branch `[N, d]`; c1, c2 their groups; U1, U2 centroids `[K, d]`; T
//! temperature of the groups.
//!
//! **Cost.** K-means of N rows, an N x K matrix of logits for each view; with spectral grouping the eigenvectors of a
//! matrix of n x n, n the images of a rank.

pub(crate) mod clustering;

pub use clustering::SpectrumEnd;

use super::{unused, within};
use crate::error::{Error, Result};
use crate::model::heads::{HeadConfig, HeadInitialization, OutputNorm};
use crate::rows::in_full;
use crate::shape::check;
use clustering::{centroids, k_means, one_hot, spectral_embedding};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// How rows are grouped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grouping {
    /// K-means on the rows.
    #[default]
    KMeans,
    /// K-means on the rows' spectral embedding (normalised cuts), centroids in the space of the rows.
    Spectral,
}

/// Where the group branch's rows come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Branch {
    /// A layer of its own.
    #[default]
    Separate,
    /// The projections of the instance branch themselves (Table A.2: worse).
    Shared,
}

/// The layer of a separate group branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupHead {
    /// A linear layer on the features (CIFAR).
    #[default]
    Linear,
    /// A linear layer on the hidden layer of the projector, which both branches share.
    Mlp,
    /// As `linear`, with a normalised linear layer; the projector's `norm_linear` belongs to it.
    NormLinear,
    /// As `mlp`, with a normalised linear layer; the projector's `norm_linear` belongs to it.
    NormMlp,
}

/// The recipe's `[plugins.cross_level]`.
///
/// Published settings: K 128, λ 1 (NPID on CIFAR-10); K 200, λ 0.8 (MoCo on CIFAR-10); K 120, λ 0.25, T 0.4 (MoCo v2 on
/// ImageNet); best of the supplement: λ 0.25, T 0.2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a choice of the recipe, independent of the others"
)]
pub struct CrossLevel {
    /// K, at least 1: groups of the images that are grouped together, of the whole batch or of a rank (`per_rank`).
    pub groups: usize,
    /// λ, at least 0: weight beside the method's own loss.
    pub weight: f64,
    /// T, from 0.001 to 100.
    pub temperature: f64,
    /// Rounds of k-means, from 1 to 1000.
    pub iterations: usize,
    /// How rows are grouped.
    pub grouping: Grouping,
    /// Eigenvectors of the spectral embedding, at least 1; K if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k_eigen: Option<usize>,
    /// Which of them.
    pub eig_end: SpectrumEnd,
    /// Whether the rows of the spectral embedding are of unit length (in the paper's text, not in its code).
    pub row_norm: bool,
    /// Whether centroids are of unit length (the formula of the supplement, §3); the released code takes plain means.
    pub centroid_norm: bool,
    /// Whether centroids are constants; in the released code gradients pass through them.
    pub detach_centroids: bool,
    /// Whether groups without members are left out of the softmax, where the released code keeps them with a logit of 0.
    pub drop_empty: bool,
    /// Whether rows are compared with the other view's groups; off is the ablation of Table A.2, their own.
    pub cross: bool,
    /// Where the group branch's rows come from.
    pub branch: Branch,
    /// The layer of a separate branch.
    pub head: GroupHead,
    /// Whether each virtual rank groups its own images, as each process of the released code does, or all together. Where
    /// a small `data.micro_batch_size` shrinks `backbone.norm_group`, it shrinks the ranks too.
    pub per_rank: bool,
}

impl Default for CrossLevel {
    fn default() -> Self {
        Self {
            groups: 32,
            weight: 0.25,
            temperature: 0.2,
            iterations: 5,
            grouping: Grouping::default(),
            k_eigen: None,
            eig_end: SpectrumEnd::default(),
            row_norm: false,
            centroid_norm: false,
            detach_centroids: false,
            drop_empty: false,
            cross: true,
            branch: Branch::default(),
            head: GroupHead::default(),
            per_rank: false,
        }
    }
}

/// What [`CrossLevel::loss`] finds.
#[derive(Debug)]
pub struct CrossLevelLoss {
    /// The loss, not yet weighted, a scalar (f64) with a graph.
    pub loss: Tensor,
    /// Share of the first view's rows whose nearest centroid of the other view is their group's.
    pub group_accuracy: f64,
    /// Share of the groups of both views without members.
    pub empty: f64,
}

/// Rows of a view, their groups, and the groups' centroids.
struct Grouped {
    rows: Tensor,
    labels: Tensor,
    /// Members per group, `[R, K]`.
    counts: Tensor,
    centroids: Tensor,
}

impl CrossLevel {
    /// Checks ranges.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key.
    pub fn check(&self) -> Result<()> {
        let key = |name: &str| format!("cross_level.{name}");
        let most = (1 << 20) as f64;
        within(&key("groups"), self.groups as f64, [1.0, most])?;
        within(&key("weight"), self.weight, [0.0, 1e6])?;
        within(&key("temperature"), self.temperature, [0.001, 100.0])?;
        within(&key("iterations"), self.iterations as f64, [1.0, 1000.0])?;
        within(&key("k_eigen"), self.k_eigen.unwrap_or(1) as f64, [1.0, most])?;
        let plain = Self::default();
        let embedding = [
            ("k_eigen", self.k_eigen.is_some()),
            ("eig_end", self.eig_end != plain.eig_end),
            ("row_norm", self.row_norm != plain.row_norm),
        ];
        if self.grouping == Grouping::KMeans {
            unused("cross_level", &embedding, "grouping", "spectral")?;
        }
        if self.branch == Branch::Shared {
            let head = [("head", self.head != plain.head)];
            unused("cross_level", &head, "branch", "separate")?;
        }
        Ok(())
    }

    /// What to say about these settings where `images` images are grouped together, if anything.
    pub fn warning(&self, images: usize) -> Option<String> {
        (2 * self.groups >= images).then(|| {
            format!(
                "`plugins.cross_level.groups` is {} for {images} images grouped together: with half as many groups as \
                 images or more nearly every image is its own group, and the loss merely tells the images of a batch \
                 apart; take fewer groups or a larger batch",
                self.groups
            )
        })
    }

    /// Settings of a separate branch's own layer, whose rows of width `outputs` have yet to be brought to unit length; none
    /// for a shared branch.
    pub fn layer(&self, outputs: usize) -> Option<HeadConfig> {
        (self.branch == Branch::Separate).then(|| HeadConfig {
            layers: 1,
            output: outputs,
            output_batch_norm: OutputNorm::None,
            norm_linear: matches!(self.head, GroupHead::NormLinear | GroupHead::NormMlp),
            initialization: HeadInitialization::PyTorch,
            ..HeadConfig::default()
        })
    }

    /// Whether that layer lies on the projector's last hidden layer (behind its `ReLU`) in place of the features.
    pub fn on_hidden(&self) -> bool {
        self.branch == Branch::Separate && matches!(self.head, GroupHead::Mlp | GroupHead::NormMlp)
    }

    /// The loss of two views' unit rows `[N, d]`, the mean over the views of the mean cross entropy over the rows:
    /// `½ [ CE(G1 U2ᵀ / T, c2) + CE(G2 U1ᵀ / T, c1) ]`. Gradients reach rows and, through the centroids, the rows of
    /// the other view. `ranks` says how many virtual ranks of consecutive images the batch is made of.
    ///
    /// # Errors
    /// [`Error::Shape`] unless both have one shape and N is a multiple of `ranks`.
    pub fn loss(&self, first: &Tensor, second: &Tensor, ranks: usize) -> Result<CrossLevelLoss> {
        check("first view's group rows", first, &[-1, -1])?;
        check("second view's group rows", second, &first.size())?;
        let (count, width) = (first.size()[0], first.size()[1]);
        if ranks == 0 || count == 0 || count % ranks as i64 != 0 {
            return Err(Error::Shape(format!(
                "{count} group rows cannot be cut into {ranks} ranks"
            )));
        }
        let ranks = if self.per_rank { ranks as i64 } else { 1 };
        let [one, two] =
            [first, second].map(|rows| self.group(&in_full(rows).view([ranks, -1, width])));
        let [views_of_one, views_of_two] = if self.cross { [&two, &one] } else { [&one, &two] };
        let (loss_one, logits) = self.classify(&one.rows, views_of_one);
        let (loss_two, _) = self.classify(&two.rows, views_of_two);
        let right = logits.argmax(-1, false).eq_tensor(&views_of_one.labels);
        let empty = Tensor::stack(&[one.counts, two.counts], 0).eq(0.0);
        let share = |hits: Tensor| hits.to_kind(Kind::Double).mean(None).double_value(&[]);
        Ok(CrossLevelLoss {
            loss: (loss_one + loss_two).to_kind(Kind::Double) * 0.5,
            group_accuracy: share(right),
            empty: share(empty),
        })
    }

    fn group(&self, rows: &Tensor) -> Grouped {
        let groups = self.groups as i64;
        let labels = match self.grouping {
            Grouping::KMeans => k_means(rows, groups, self.iterations, self.centroid_norm),
            Grouping::Spectral => {
                let vectors = self.k_eigen.unwrap_or(self.groups) as i64;
                let embedding = spectral_embedding(rows, vectors, self.eig_end, self.row_norm);
                k_means(&embedding, groups, self.iterations, self.centroid_norm)
            }
        };
        let members = one_hot(&labels, groups, rows.kind());
        let centroids = centroids(rows, &members, self.centroid_norm);
        Grouped {
            rows: rows.shallow_clone(),
            labels,
            counts: members.sum_dim_intlist(1, false, None),
            centroids: if self.detach_centroids { centroids.detach() } else { centroids },
        }
    }

    /// Mean cross entropy of rows `[R, n, d]` among these groups' centroids, and the logits `[R, n, K]`.
    fn classify(&self, rows: &Tensor, among: &Grouped) -> (Tensor, Tensor) {
        let mut logits = rows.matmul(&among.centroids.transpose(1, 2)) / self.temperature;
        if self.drop_empty {
            logits = logits.masked_fill(&among.counts.eq(0.0).unsqueeze(1), f64::NEG_INFINITY);
        }
        let loss = logits.flatten(0, 1).cross_entropy_loss::<Tensor>(
            &among.labels.flatten(0, 1),
            None,
            tch::Reduction::Mean,
            -100,
            0.0,
        );
        (loss, logits.detach())
    }
}

#[cfg(test)]
mod tests;
