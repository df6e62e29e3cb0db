//! From bytes to the tensor a network takes.

use crate::error::{Error, Result};
use tch::{Device, Kind, Tensor};

/// Bytes `[n, h, w, 3]` as a tensor on a device.
pub(super) fn upload(bytes: &[u8], [n, h, w]: [usize; 3], device: Device) -> Tensor {
    Tensor::from_slice(bytes).view([n as i64, h as i64, w as i64, 3]).to_device(device)
}

/// Normalises bytes `[n, h, w, 3]`: (value / 255 − mean) / std per channel.
///
/// Returns `[n, 3, h, w]` of the given floating kind, laid out channels-last, on the same device.
pub fn normalize(bytes: &Tensor, mean: [f64; 3], std: [f64; 3], kind: Kind) -> Tensor {
    let size = bytes.size();
    let width = size[2];
    let mut rows = bytes.reshape([-1, 3 * width]).to_kind(kind);
    // One value per byte of a row: arithmetic along three channels at a time is several times slower.
    let row = |values: [f64; 3]| {
        let values = Tensor::from_slice(&values).to_kind(kind).to_device(bytes.device());
        values.repeat([width])
    };
    if (mean, std) == ([0.0; 3], [1.0; 3]) {
        let _ = rows.g_div_scalar_(255.0);
    } else {
        let _ = rows.g_sub_(&row(mean.map(|mean| 255.0 * mean)));
        let _ = rows.g_div_(&row(std.map(|std| 255.0 * std)));
    }
    rows.view(size.as_slice()).permute([0, 3, 1, 2])
}

/// Adds channels of one value each to images `[n, C, h, w]`: `values`, u8 `[n, K]` on the same device, become value / 255 in
/// the last K of `[n, C + K, h, w]`, laid out channels-last.
pub fn with_constants(images: &Tensor, values: &Tensor) -> Tensor {
    let size = images.size();
    let (n, h, w) = (size[0], size[2], size[3]);
    let values = values.to_kind(images.kind()) / 255.0;
    let planes = values.view([n, 1, 1, -1]).expand([n, h, w, -1], false);
    Tensor::cat(&[images.permute([0, 2, 3, 1]), planes], 3).permute([0, 3, 1, 2])
}

/// Moves `n` views of `h` rows and `w` columns, `[n, h, w, 3]` bytes, to a device and normalises them there; see
/// [`normalize`]. Bytes travel, so a transfer is a quarter of that of f32.
///
/// # Errors
/// [`Error::Shape`] if `views` has another length than `n · h · w · 3`.
pub fn to_device(
    views: &[u8],
    [n, h, w]: [usize; 3],
    mean: [f64; 3],
    std: [f64; 3],
    device: Device,
    kind: Kind,
) -> Result<Tensor> {
    if views.len() != n * h * w * 3 {
        return Err(Error::Shape(format!(
            "`views` must hold [{n}, {h}, {w}, 3] = {} bytes, found {}",
            n * h * w * 3,
            views.len()
        )));
    }
    Ok(normalize(&upload(views, [n, h, w], device), mean, std, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_normalised_channels_last_values() {
        let (n, h, w) = (2, 3, 4);
        let views: Vec<u8> = (0..n * h * w * 3).map(|i| (i * 37 % 256) as u8).collect();
        let (mean, std) = ([0.4, 0.5, 0.1], [0.2, 0.3, 0.25]);
        for kind in [Kind::Float, Kind::Double] {
            let tensor = to_device(&views, [n, h, w], mean, std, Device::Cpu, kind).unwrap();
            assert_eq!(tensor.size(), [2, 3, 3, 4]);
            assert_eq!(tensor.kind(), kind);
            assert_eq!(tensor.stride(), [36, 1, 12, 3]);
            for (i, byte) in views.iter().enumerate() {
                let (image, y, x, c) = (i / 36, i / 12 % 3, i / 3 % 4, i % 3);
                let found = tensor.double_value(&[image as i64, c as i64, y as i64, x as i64]);
                let expected = (f64::from(*byte) / 255.0 - mean[c]) / std[c];
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
        let plain =
            to_device(&views, [n, h, w], [0.0; 3], [1.0; 3], Device::Cpu, Kind::Float).unwrap();
        assert!((plain.double_value(&[0, 1, 0, 0]) - 37.0 / 255.0).abs() < 1e-7);
    }

    #[test]
    fn constants_become_whole_channels_behind_the_others() {
        let bytes = Tensor::from_slice(&(0..24).collect::<Vec<u8>>()).view([2, 2, 2, 3]);
        let images = normalize(&bytes, [0.5; 3], [0.2; 3], Kind::Float);
        let values = Tensor::from_slice(&[0u8, 255, 255, 51]).view([2, 2]);
        let all = with_constants(&images, &values);
        assert_eq!((all.size(), all.stride()), (vec![2, 5, 2, 2], vec![20, 1, 10, 5]));
        assert!(all.narrow(1, 0, 3).equal(&images));
        for (image, channel, expected) in [(0, 3, 0.0), (0, 4, 1.0), (1, 3, 1.0), (1, 4, 0.2)] {
            let plane = all.get(image).get(channel);
            assert!((plane - expected).abs().max().double_value(&[]) < 1e-7);
        }
    }

    #[test]
    fn a_wrong_length_is_refused() {
        let found = to_device(&[0; 11], [1, 2, 2], [0.0; 3], [1.0; 3], Device::Cpu, Kind::Float);
        assert_eq!(
            found.unwrap_err().to_string(),
            "`views` must hold [1, 2, 2, 3] = 12 bytes, found 11"
        );
    }
}
