//! Grouping rows inside a training step: a few rounds of k-means from the first rows, on the rows themselves or on their
//! spectral embedding. Everything works on batches of ranks, `[R, n, d]`, each rank grouped by itself.

use crate::rows::unit_rows;
use tch::{Kind, Tensor};

/// Which end of the normalised Laplacian's spectrum the eigenvectors come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpectrumEnd {
    /// The smallest eigenvalues: the released code, and what normalised cuts ask for.
    #[default]
    Smallest,
    /// The largest: the letter of the paper's supplement (§3).
    Largest,
}

/// Groups `rows` `[R, n, d]` and gives their labels, i64 `[R, n]`: the first `groups` rows are the first centroids, then
/// `iterations` (at least 1) times each row joins its nearest centroid (Euclidean, the first of equals) and each centroid
/// becomes its members' mean. A group without members, also one beyond the number of rows, has its centroid at 0 and
/// competes from there. With `spherical`, centroids are brought to unit length. No graph.
///
/// Labels belong to the last assignment, after which the means are taken: [`centroids`] of them is where the loop ends.
pub(crate) fn k_means(rows: &Tensor, groups: i64, iterations: usize, spherical: bool) -> Tensor {
    tch::no_grad(|| {
        let rows = rows.detach();
        let mut centers = rows.narrow(1, 0, groups.min(rows.size()[1]));
        let mut labels = nearest(&rows, &centers);
        for _ in 1..iterations {
            centers = centroids(&rows, &one_hot(&labels, groups, rows.kind()), spherical);
            labels = nearest(&rows, &centers);
        }
        labels
    })
}

/// Index of each row's nearest centroid, `[R, n]`.
fn nearest(rows: &Tensor, centers: &Tensor) -> Tensor {
    // The squared distance less |row|², which is the same for all centroids of a row.
    let lengths = centers.square().sum_dim_intlist(-1, false, None).unsqueeze(1);
    (lengths - rows.matmul(&centers.transpose(1, 2)) * 2.0).argmin(-1, false)
}

/// Membership of rows in groups, `[R, n]` to `[R, n, K]`, ones and zeros of this kind.
pub(super) fn one_hot(labels: &Tensor, groups: i64, kind: Kind) -> Tensor {
    labels.one_hot(groups).to_kind(kind)
}

/// Mean of each group's rows, `[R, K, d]`, 0 for a group without any; with their gradient for the rows. With `spherical`,
/// of unit length.
pub(super) fn centroids(rows: &Tensor, members: &Tensor, spherical: bool) -> Tensor {
    let counts = members.sum_dim_intlist(1, false, None).clamp_min(1.0).unsqueeze(-1); // [R, K, 1]
    let means = members.transpose(1, 2).matmul(rows) / counts;
    if spherical { unit_rows(&means) } else { means }
}

/// Coordinates `[R, n, vectors]` in f64 in which normalised cuts of the rows `[R, n, d]` are found by k-means (Shi and
/// Malik 2000): with `W = |cosine|`, zero diagonal, `D` its row sums and `L = D^-½ (D - W) D^-½`, the rows of `D^-½`
/// times the eigenvectors of L at that end of the spectrum (all n of them, if fewer than `vectors`). With `row_norm` they
/// are of unit length. No graph.
///
/// The released code also divides them by their very first element. That moves no label, and the element can be 0.
pub(crate) fn spectral_embedding(
    rows: &Tensor,
    vectors: i64,
    end: SpectrumEnd,
    row_norm: bool,
) -> Tensor {
    tch::no_grad(|| {
        let rows = unit_rows(&rows.detach().to_kind(Kind::Double));
        let count = rows.size()[1];
        // A row that is not finite must reach the loss, not the solver, which would refuse it.
        let cosines = rows.matmul(&rows.transpose(1, 2)).abs().nan_to_num(0.0, 0.0, 0.0);
        let itself = Tensor::eye(count, (Kind::Double, rows.device()));
        let similarity: Tensor = cosines * (1.0 - &itself);
        let degree = similarity.sum_dim_intlist(-1, false, None).clamp_min(1e-12);
        let root = degree.sqrt().reciprocal();
        let scaled = similarity * root.unsqueeze(-1) * root.unsqueeze(1);
        let (_, eigenvectors) = (itself - scaled).linalg_eigh("L"); // ascending
        let vectors = vectors.min(count);
        let first = match end {
            SpectrumEnd::Smallest => 0,
            SpectrumEnd::Largest => count - vectors,
        };
        let embedding = eigenvectors.narrow(-1, first, vectors) * root.unsqueeze(-1);
        if row_norm { unit_rows(&embedding) } else { embedding }
    })
}
