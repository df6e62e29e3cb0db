//! Spectral clustering: k-means in the space of the eigenvectors of a graph's normalised Laplacian.

use super::{Clustering, KMeans};
use crate::error::{Error, Result};
use crate::plugin::cross_level::clustering::{SpectrumEnd, k_means, spectral_embedding};
use crate::rows::{sum, unit_rows};
use tch::{Kind, Tensor};

/// Most rows: an eigenproblem of this size takes 0.6 GB and, on two cores, about a minute.
pub(super) const MOST_ROWS: i64 = 4_096;

/// Normalised cuts: with `w_ij = max(cos(f_i, f_j), 0)` (a negative cosine is no edge, our choice), `D` its row sums and
/// `L = 1 - D^-½ W D^-½`, the `k` eigenvectors of the smallest eigenvalues of `L` give each row `k` coordinates, brought to
/// unit length, and k-means with its defaults groups those (Ng, Jordan and Weiss 2001).
///
/// The supplement of "Unsupervised Feature Learning by Cross-Level Instance-Group Discrimination" (section 3) asks for the
/// largest eigenvalues of `L`; the smallest are meant, as its code has them.
pub(super) fn fit(rows: &Tensor, k: usize, seed: u64) -> Result<Clustering> {
    let mut found = fit_each(rows, &[k], seed)?;
    Ok(found.pop().expect("one number, one result"))
}

/// [`fit`] for several numbers of clusters: the eigenvectors are found once.
pub(super) fn fit_each(rows: &Tensor, ks: &[usize], seed: u64) -> Result<Vec<Clustering>> {
    for k in ks {
        check(rows, *k)?;
    }
    let (_, vectors) = spectrum(rows);
    let clustering = |k: &usize| {
        let of_k = unit_rows(&vectors.narrow(1, rows.size()[0] - *k as i64, *k as i64));
        let found = KMeans::default().fit(&of_k, *k, seed)?;
        // K-means works in 32 bits, the coordinates have 64.
        let labels: Vec<i64> = found.labels.iter().map(|label| i64::from(*label)).collect();
        let labels = Tensor::from_slice(&labels).to_device(of_k.device());
        let inertia = squares_within(&of_k, &labels, *k as i64);
        Ok(Clustering { centres: None, inertia, ..found })
    };
    ks.iter().map(clustering).collect()
}

/// Eigenvalues, ascending, and eigenvectors in the columns, of `D^-½ W D^-½`, in f64: the largest of it are the smallest of
/// `L`, and each is 1 less that of `L`.
fn spectrum(rows: &Tensor) -> (Tensor, Tensor) {
    tch::no_grad(|| {
        let rows = unit_rows(&rows.detach().to_kind(Kind::Double));
        let weights = rows.mm(&rows.tr()).clamp_min(0.0);
        // Below the degree of any row but one of zeros.
        let degrees = weights.sum_dim_intlist(1, false, None).clamp_min(1e-12);
        let root = degrees.rsqrt();
        let scaled = weights * root.unsqueeze(1) * root.unsqueeze(0);
        scaled.linalg_eigh("L")
    })
}

/// Sum of the squared distances of the rows `[n, D]` to the mean of their label's rows.
fn squares_within(rows: &Tensor, labels: &Tensor, k: i64) -> f64 {
    let members = labels.one_hot(k).to_kind(rows.kind());
    let counts = members.sum_dim_intlist(0, false, None).clamp_min(1.0);
    let means = members.tr().mm(rows) / counts.unsqueeze(1);
    sum(&(rows - means.index_select(0, labels)).square())
}

/// Rounds of k-means in the released code of cross-level discrimination.
const CLD_ROUNDS: usize = 10;

/// As the released code of cross-level discrimination (`models/spectral_clustering.py`): `w_ij = |cos(f_i, f_j)|` with a
/// zero diagonal, coordinates `D^-½` times the eigenvectors without unit length, ten rounds of k-means whose first centres
/// are the first `k` rows, an empty cluster's centre at 0. No draw. The code also divides all coordinates by the very
/// first, which can be 0 and moves no label; left out.
pub(super) fn fit_cld(rows: &Tensor, k: usize) -> Result<Clustering> {
    check(rows, k)?;
    tch::no_grad(|| {
        let groups = k as i64;
        let embedding =
            spectral_embedding(&rows.unsqueeze(0), groups, SpectrumEnd::Smallest, false);
        let labels = k_means(&embedding, groups, CLD_ROUNDS, false).squeeze_dim(0);
        let embedding = embedding.squeeze_dim(0);
        let inertia = squares_within(&embedding, &labels, groups);
        let labels: Vec<i64> = Vec::try_from(&labels).expect("labels are a row of integers");
        Ok(Clustering {
            labels: labels.into_iter().map(|label| label as u32).collect(),
            centres: None,
            inertia,
            iterations: CLD_ROUNDS as u64,
        })
    })
}

fn check(rows: &Tensor, k: usize) -> Result<()> {
    super::check_shape(rows)?;
    let n = rows.size()[0];
    super::check_count(n as usize, k)?;
    if n > MOST_ROWS {
        return Err(Error::Data(format!(
            "spectral clustering decomposes the matrix of all pairs: {n} rows are too many, {MOST_ROWS} fit; use fewer \
             rows or another algorithm, `spherical` or `k-means`"
        )));
    }
    if rows.isfinite().all().int64_value(&[]) == 0 {
        return Err(Error::NonFinite(
            "the rows to cluster hold values that are infinite or not a number: the network diverged or its weights \
             are damaged"
                .to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::*;

    #[test]
    fn labels_are_those_of_a_plain_computation() {
        let (arrays, numbers) = (golden::arrays(), golden::numbers());
        let rows = &arrays["spectral.rows"];
        let found = fit(rows, 4, 0).unwrap();
        let labels = golden::labels(&arrays["spectral.labels"]);
        assert_eq!(golden::renamed(&found.labels), golden::renamed(&labels));
        golden::close(found.inertia, &numbers["spectral"]["inertia"], 1e-6);
        let found = fit_cld(rows, 4).unwrap();
        assert_eq!(found.labels, golden::labels(&arrays["spectral_cld.labels"]));
    }

    /// Eigenvectors alone may be turned among equals and mirrored; what they span may not.
    #[test]
    fn eigenvalues_and_the_space_of_the_eigenvectors_are_those_of_numpy() {
        let arrays = golden::arrays();
        let (values, vectors) = spectrum(&arrays["spectral.rows"]);
        let values = (values.narrow(0, 115, 5) * -1.0 + 1.0).flip([0]);
        let apart = (values - &arrays["spectral.values"]).abs().max().double_value(&[]);
        assert!(apart < 1e-9, "{apart}");
        let span = vectors.narrow(1, 116, 4);
        let projected = span.mm(&span.tr().mm(&arrays["spectral.probe"]));
        let apart = (projected - &arrays["spectral.projected"]).abs().max().double_value(&[]);
        assert!(apart < 1e-9, "{apart}");
    }

    #[test]
    fn too_many_rows_are_refused_with_the_number_that_fits() {
        let rows = Tensor::ones([4_097, 1], (Kind::Float, tch::Device::Cpu));
        for message in [fit(&rows, 2, 0).map(|_| ()), fit_cld(&rows, 2).map(|_| ())] {
            let message = message.unwrap_err().to_string();
            assert!(message.contains("4096 fit"), "{message}");
        }
    }
}
