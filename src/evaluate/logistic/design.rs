//! The features as the rows of a linear model, in coordinates that suit its solver.

use crate::error::{Error, Result};
use crate::shape;
use tch::{Device, Kind, Tensor};

/// Rows read at once where all are gone through.
const ROWS: i64 = 4_096;

/// Above this many dimensions the axes are left as they are: finding the principal ones would take longer than they save.
const MOST_ROTATED: i64 = 4_096;

/// Rows `[N, D + 1]`, a last column of ones for the bias, and the way back to the features' own coordinates.
#[derive(Debug)]
pub(super) struct Design {
    /// f32 or f64 `[N, D + 1]`.
    pub(super) rows: Tensor,
    /// Sum of squares of each column, f64 `[D + 1]`.
    pub(super) squares: Tensor,
    /// Moved and rotated features; none where the columns are the features themselves.
    frame: Option<Frame>,
}

/// New coordinates: `(h − mean) axes`.
#[derive(Debug)]
struct Frame {
    /// f64 `[D]`.
    mean: Tensor,
    /// Orthonormal columns, f64 `[D, D]`; none for no rotation.
    axes: Option<Tensor>,
}

impl Design {
    /// The features themselves, in f64.
    pub(super) fn raw(h: &Tensor) -> Result<Self> {
        check(h)?;
        let rows = h.to_kind(Kind::Double);
        Ok(Self::with_ones(&rows, None))
    }

    /// The features around their mean along their principal axes, in f32.
    ///
    /// The model is the same: a bias that is not penalised takes up the mean, and a rotation leaves `‖W‖²` as it is. But
    /// the columns, that of the ones included, are orthogonal, so the Hessian of a fit at zero is nearly diagonal, and a
    /// diagonal preconditioner does what otherwise takes hundreds of iterations.
    pub(super) fn principal(h: &Tensor) -> Result<Self> {
        check(h)?;
        let (images, dimensions) = (h.size()[0], h.size()[1]);
        let mean = h.mean_dim(0i64, false, Kind::Double);
        let centred = |first| {
            let rows = h.narrow(0, first, ROWS.min(images - first));
            (rows.to_kind(Kind::Double) - &mean).to_kind(Kind::Float)
        };
        let starts = || (0..images).step_by(ROWS as usize);
        let axes = (dimensions <= MOST_ROTATED).then(|| {
            let mut products = Tensor::zeros([dimensions, dimensions], (Kind::Double, Device::Cpu));
            for rows in starts().map(centred) {
                products += rows.tr().matmul(&rows);
            }
            products.linalg_eigh("L").1.flip([1])
        });
        let to_axes = axes.as_ref().map(|axes| axes.to_kind(Kind::Float));
        let rows: Vec<Tensor> = starts()
            .map(centred)
            .map(|rows| match &to_axes {
                Some(axes) => rows.matmul(axes),
                None => rows,
            })
            .collect();
        Ok(Self::with_ones(&Tensor::cat(&rows, 0), Some(Frame { mean, axes })))
    }

    fn with_ones(columns: &Tensor, frame: Option<Frame>) -> Self {
        let ones = Tensor::ones([columns.size()[0], 1], (columns.kind(), Device::Cpu));
        let rows = Tensor::cat(&[columns, &ones], 1);
        let squares = rows.square().sum_dim_intlist(0i64, false, Kind::Double);
        Self { rows, squares, frame }
    }

    /// Number of images.
    pub(super) fn images(&self) -> i64 {
        self.rows.size()[0]
    }

    /// Number of columns, that of the ones included.
    pub(super) fn columns(&self) -> i64 {
        self.rows.size()[1]
    }

    /// Weights `[…, D + 1]` of these columns as weights and bias of the features.
    pub(super) fn to_features(&self, weights: &Tensor) -> Tensor {
        let Some(frame) = &self.frame else { return weights.copy() };
        let (slopes, bias) = self.split(weights);
        let slopes = frame.rotate(&slopes);
        let bias = bias - slopes.matmul(&frame.mean).unsqueeze(-1);
        Tensor::cat(&[slopes, bias], -1)
    }

    /// Some of the images.
    pub(super) fn rows_at(&self, images: &Tensor) -> Self {
        let rows = self.rows.index_select(0, images);
        Self { rows, squares: self.squares.shallow_clone(), frame: None }
    }

    /// Weights and bias `[…, D + 1]` of the features as weights of these columns.
    pub(super) fn to_columns(&self, weights: &Tensor) -> Tensor {
        let Some(frame) = &self.frame else { return weights.copy() };
        let (slopes, bias) = self.split(weights);
        let bias = bias + slopes.matmul(&frame.mean).unsqueeze(-1);
        let slopes = match &frame.axes {
            Some(axes) => slopes.matmul(axes),
            None => slopes,
        };
        Tensor::cat(&[slopes, bias], -1)
    }

    /// The largest entry, by amount, that each gradient `[K, C, D + 1]` has in the coordinates of the features, f64 `[K]`.
    pub(super) fn steepest(&self, gradients: &Tensor) -> Tensor {
        let gradients = match &self.frame {
            None => gradients.shallow_clone(),
            Some(frame) => {
                let (slopes, bias) = self.split(gradients);
                let slopes = frame.rotate(&slopes) + &bias * &frame.mean;
                Tensor::cat(&[slopes, bias], -1)
            }
        };
        gradients.abs().amax([1, 2], false)
    }

    fn split(&self, weights: &Tensor) -> (Tensor, Tensor) {
        let dimensions = self.columns() - 1;
        (weights.narrow(-1, 0, dimensions), weights.narrow(-1, dimensions, 1))
    }
}

impl Frame {
    /// Vectors `[…, D]` along the axes as vectors of the features.
    fn rotate(&self, vectors: &Tensor) -> Tensor {
        match &self.axes {
            Some(axes) => vectors.matmul(&axes.tr()),
            None => vectors.shallow_clone(),
        }
    }
}

fn check(h: &Tensor) -> Result<()> {
    shape::check("reference features", h, &[-1, -1])?;
    if h.size()[1] == 0 {
        return Err(Error::Shape("reference features have no dimensions".to_owned()));
    }
    finite("reference", h)
}

/// Fails for features that are no numbers.
pub(super) fn finite(side: &str, h: &Tensor) -> Result<()> {
    if h.isfinite().all().int64_value(&[]) == 1 {
        return Ok(());
    }
    Err(Error::NonFinite(format!(
        "the {side} features hold values that are infinite or not a number: the network diverged \
         or its weights are damaged"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope, Stream};

    fn random(rows: i64, columns: i64, item: u64) -> Tensor {
        let mut stream = Stream::open(3, Purpose::Test, Scope::Item(item));
        let values: Vec<f64> = (0..rows * columns).map(|_| stream.normal()).collect();
        Tensor::from_slice(&values).view([rows, columns])
    }

    fn far(left: &Tensor, right: &Tensor) -> f64 {
        (left - right).abs().max().double_value(&[])
    }

    #[test]
    fn columns_are_orthogonal_and_weights_come_back() {
        let h = (random(500, 7, 1).matmul(&random(7, 7, 2)) + 3.0).to_kind(Kind::Float);
        let design = Design::principal(&h).unwrap();
        assert_eq!(design.rows.size(), [500, 8]);
        let rows = design.rows.to_kind(Kind::Double);
        let products = rows.tr().matmul(&rows);
        let diagonal = products.diagonal(0, 0, 1);
        assert!(far(&diagonal, &design.squares) < 1e-2);
        assert!(far(&products, &diagonal.diag(0)) < 1e-2, "{products}");
        let weights = random(3, 8, 3);
        assert!(far(&design.to_features(&design.to_columns(&weights)), &weights) < 1e-12);
        // Both forms give an image the same logits.
        let raw = Design::raw(&h).unwrap();
        let there = rows.matmul(&design.to_columns(&weights).tr());
        assert!(far(&there, &raw.rows.matmul(&weights.tr())) < 1e-4);
        assert_eq!(raw.to_features(&weights), weights);
    }

    /// The slope along a feature's weight, by the chain rule through both forms.
    #[test]
    fn a_gradient_is_as_steep_as_in_the_features_own_coordinates() {
        let h = random(50, 4, 4).to_kind(Kind::Float) * 2.0 + 5.0;
        let (design, raw) = (Design::principal(&h).unwrap(), Design::raw(&h).unwrap());
        let residual = random(6, 50, 5);
        let in_columns = residual.matmul(&design.rows.to_kind(Kind::Double)).view([2, 3, 5]);
        let in_features = residual.matmul(&raw.rows).view([2, 3, 5]);
        let expected = in_features.abs().amax([1, 2].as_slice(), false);
        assert!(far(&design.steepest(&in_columns), &expected) < 1e-3);
        assert_eq!(raw.steepest(&in_features), expected);
    }

    #[test]
    fn features_that_are_none_are_errors() {
        let flat = Tensor::zeros([3], (Kind::Float, Device::Cpu));
        assert!(matches!(Design::raw(&flat), Err(Error::Shape(_))));
        assert!(matches!(
            Design::principal(&flat.view([3, 1]).narrow(1, 0, 0)),
            Err(Error::Shape(_))
        ));
        assert!(matches!(Design::principal(&(flat.view([3, 1]) / 0.0)), Err(Error::NonFinite(_))));
    }
}
