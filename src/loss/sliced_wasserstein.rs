//! The sliced Wasserstein distance between rows and a sample of a prior distribution.

use crate::random::Stream;
use crate::rows::unit_rows;
use tch::{Device, Kind, Tensor};

/// The distribution that rows are pulled towards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Prior {
    /// Uniform on the unit sphere: normal rows, normalised.
    Hypersphere,
    /// Every element uniform between the two values.
    Hypercube(f64, f64),
    /// Every element standard normal.
    Normal,
}

impl Prior {
    /// A sample `[rows, width]` of a kind, made on a device, from the next whole blocks of the stream.
    pub fn sample(
        self,
        stream: &mut Stream,
        [rows, width]: [i64; 2],
        options: (Kind, Device),
    ) -> Tensor {
        let count = rows * width;
        let values = match self {
            Self::Hypercube(low, high) => uniform(stream, count, options) * (high - low) + low,
            Self::Hypersphere | Self::Normal => normal(stream, count, options),
        };
        let values = values.view([rows, width]);
        if self == Self::Hypersphere { unit_rows(&values) } else { values }
    }
}

/// That many numbers in (0, 1], each of 24 random bits.
fn uniform(stream: &mut Stream, count: i64, (kind, device): (Kind, Device)) -> Tensor {
    let mut blocks = vec![[0; 4]; (count as usize).div_ceil(4)];
    stream.blocks(&mut blocks);
    let bits = blocks.as_flattened()[..count as usize].iter();
    let values: Vec<f32> = bits.map(|bits| ((bits >> 8) + 1) as f32 / 16_777_216.0).collect();
    Tensor::from_slice(&values).to_device(device).to_kind(kind)
}

/// That many standard normal numbers, both of each pair of Box and Muller's transform: a batch needs up to a million.
fn normal(stream: &mut Stream, count: i64, options: (Kind, Device)) -> Tensor {
    let pairs = count - count / 2;
    let radius = (uniform(stream, pairs, options).log() * -2.0).sqrt();
    let angle = uniform(stream, pairs, options) * std::f64::consts::TAU;
    Tensor::cat(&[&radius * angle.cos(), radius * angle.sin()], 0).narrow(0, 0, count)
}

/// Orthonormal columns `[width, count]` in f64 on the processor, uniform but for their signs, which no sliced distance
/// sees: the Q factor of a normal matrix. `count` is at most `width`.
pub fn directions(stream: &mut Stream, width: i64, count: i64) -> Tensor {
    assert!(count <= width, "there are at most `width` orthogonal directions");
    let values: Vec<f64> = (0..width * count).map(|_| stream.normal()).collect();
    Tensor::linalg_qr(&Tensor::from_slice(&values).view([width, count]), "reduced").0
}

/// Squared distances `[n, count]` between what `rows` and `sample`, both `[n, d]`, become when projected on `directions`
/// `[d, count]` and matched in order of size, direction by direction: summed over n they are n times the squared
/// 2-Wasserstein distances of the projections (Deshpande et al. 2018, arXiv:1803.11188). The graph of `rows` is kept.
pub fn matched_squares(rows: &Tensor, sample: &Tensor, directions: &Tensor) -> Tensor {
    let ordered = |rows: &Tensor| rows.mm(directions).sort(0, false).0;
    (ordered(rows) - ordered(sample)).square()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Scope};

    fn stream(item: u64) -> Stream {
        Stream::open(11, Purpose::Test, Scope::Item(item))
    }

    fn sample(prior: Prior, stream: &mut Stream, rows: i64, width: i64) -> Tensor {
        prior.sample(stream, [rows, width], (Kind::Double, Device::Cpu))
    }

    fn largest(tensor: &Tensor) -> f64 {
        tensor.abs().max().double_value(&[])
    }

    fn column(tensor: &Tensor, index: i64) -> Vec<f64> {
        Vec::try_from(tensor.select(1, index).contiguous()).unwrap()
    }

    #[test]
    fn directions_are_orthonormal_and_fresh() {
        for (width, count) in [(1, 1), (6, 6), (64, 64), (64, 5)] {
            let found = directions(&mut stream(1), width, count);
            assert_eq!(found.size(), [width, count]);
            let identity = Tensor::eye(count, (Kind::Double, Device::Cpu));
            assert!(largest(&(found.tr().mm(&found) - identity)) < 1e-13);
        }
        let mut stream = stream(2);
        let (first, second) = (directions(&mut stream, 8, 8), directions(&mut stream, 8, 8));
        assert!(largest(&(first - second)) > 0.1);
    }

    #[test]
    fn directions_favour_none() {
        // For uniform directions the squares of the elements are 1 / d on average, and the products of two are 0.
        let mut stream = stream(3);
        let mut second_moments = Tensor::zeros([4, 4], (Kind::Double, Device::Cpu));
        for _ in 0..4_000 {
            let one = directions(&mut stream, 4, 1);
            second_moments += one.mm(&one.tr()) / 4_000.0;
        }
        let expected = Tensor::eye(4, (Kind::Double, Device::Cpu)) / 4.0;
        assert!(largest(&(second_moments - expected)) < 0.02);
    }

    #[test]
    fn priors_are_what_they_are_called() {
        let sphere = sample(Prior::Hypersphere, &mut stream(4), 2_000, 5);
        assert!(largest(&(sphere.square().sum_dim_intlist(1, false, None) - 1.0)) < 1e-14);
        assert!(largest(&sphere.mean_dim(0, false, None)) < 0.04);

        for (low, high) in [(-1.0, 1.0), (0.0, 1.0)] {
            let cube = sample(Prior::Hypercube(low, high), &mut stream(5), 4_000, 3);
            let (found_low, found_high) =
                (cube.min().double_value(&[]), cube.max().double_value(&[]));
            assert!(low < found_low && found_low < low + 0.01);
            assert!(high - 0.01 < found_high && found_high <= high);
            assert!(largest(&(cube.mean_dim(0, false, None) - f64::midpoint(low, high))) < 0.04);
        }

        let normal = sample(Prior::Normal, &mut stream(6), 4_000, 3);
        assert!(largest(&normal.mean_dim(0, false, None)) < 0.06);
        assert!(largest(&(normal.square().mean_dim(0, false, None) - 1.0)) < 0.1);
        let again = sample(Prior::Normal, &mut stream(6), 4_000, 3);
        assert_eq!(normal, again);
    }

    /// Least sum of squared differences over every way to match two sets of numbers.
    fn cheapest(left: &[f64], right: &[f64]) -> f64 {
        let Some((first, rest)) = left.split_first() else { return 0.0 };
        (0..right.len())
            .map(|taken| {
                let mut others = right.to_vec();
                let partner = others.remove(taken);
                (first - partner).powi(2) + cheapest(rest, &others)
            })
            .fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn matching_by_size_is_the_cheapest_of_all_matchings() {
        let rows = sample(Prior::Normal, &mut stream(7), 6, 4) * 2.0 + 0.3;
        let sample = sample(Prior::Normal, &mut stream(8), 6, 4);
        let directions = directions(&mut stream(9), 4, 3);
        let found = matched_squares(&rows, &sample, &directions);
        assert_eq!(found.size(), [6, 3]);
        let (rows, sample) = (rows.mm(&directions), sample.mm(&directions));
        for index in 0..3 {
            let expected = cheapest(&column(&rows, index), &column(&sample, index));
            let sum: f64 = column(&found, index).iter().sum();
            assert!((sum - expected).abs() < 1e-12, "{sum} against {expected}");
        }
    }

    #[test]
    fn neither_the_order_of_rows_nor_the_sign_of_a_direction_matters() {
        let rows = sample(Prior::Normal, &mut stream(10), 9, 4);
        let sample = sample(Prior::Hypersphere, &mut stream(11), 9, 4);
        let directions = directions(&mut stream(12), 4, 4);
        let distance = |rows: &Tensor, sample: &Tensor, directions: &Tensor| {
            matched_squares(rows, sample, directions).sum(None).double_value(&[])
        };
        let expected = distance(&rows, &sample, &directions);
        let order = Tensor::from_slice(&[4_i64, 0, 8, 2, 6, 1, 3, 7, 5]);
        let shuffled = distance(&rows.index_select(0, &order), &sample, &directions);
        assert!((shuffled - expected).abs() < 1e-12);
        let signs = Tensor::from_slice(&[1.0, -1.0, -1.0, 1.0]);
        assert!((distance(&rows, &sample, &(&directions * signs)) - expected).abs() < 1e-12);
        assert!(distance(&rows, &rows, &directions).abs() < f64::MIN_POSITIVE);
        // A shift by v moves every projection by v·w: over all directions ‖v‖² per row.
        let moved = distance(&(&rows + 0.5), &rows, &directions);
        assert!((moved - 9.0 * 4.0 * 0.25).abs() < 1e-12);
    }
}
