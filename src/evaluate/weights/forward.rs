//! Features of a network in evaluation mode.

use super::{Layer, Weights};
use crate::augment::{Preprocess, normalize, to_device, with_constants};
use crate::error::{Error, Result};
use crate::model::resnet::ResNet;
use crate::model::{BlockGroup, Phase};
use tch::{Device, Kind, Tensor};

impl Weights {
    /// Features `[n, D]` of `n` prepared images; see [`forward`].
    ///
    /// # Errors
    /// Those of [`forward`]; [`Error::Weights`] for a layer of a projector that the model does not have.
    pub fn features(
        &self,
        pixels: &[u8],
        n: usize,
        preprocess: &Preprocess,
        layer: Layer,
    ) -> Result<Tensor> {
        let backbone =
            |layer| forward(&self.backbone, pixels, n, preprocess, layer, self.device, Kind::Float);
        if !layer.is_of_head() {
            return backbone(layer);
        }
        let h = backbone(Layer::H)?.to_device(self.device);
        self.behind(&h, layer)
    }

    /// Maps f32 `[n, C, H, W]` behind each of `groups`, on the CPU, of `n` prepared images `[side, side, 3]`.
    ///
    /// # Errors
    /// [`Error::Data`] if the network takes more than three channels; [`Error::Shape`] if `pixels` holds another number of
    /// bytes.
    pub fn maps(
        &self,
        pixels: &[u8],
        n: usize,
        preprocess: &Preprocess,
        groups: &[BlockGroup],
        phase: Phase,
    ) -> Result<Vec<Tensor>> {
        let channels = self.backbone.input_channels();
        if channels != 3 {
            return Err(Error::Data(format!(
                "maps are made of images of 3 channels, the network of `{}` takes {channels}",
                self.file.display()
            )));
        }
        let side = preprocess.size_px();
        let (mean, std) = (preprocess.mean, preprocess.std);
        tch::no_grad(|| {
            let images = to_device(pixels, [n, side, side], mean, std, self.device, Kind::Float)?;
            let maps = self.backbone.forward_features(&images, groups, phase);
            Ok(maps.iter().map(|map| map.to_kind(Kind::Float).to_device(Device::Cpu)).collect())
        })
    }

    /// h and, where the model has a projector, z of the images of [`Self::features`], from one pass.
    ///
    /// # Errors
    /// Those of [`forward`].
    pub fn h_and_z(&self, pixels: &[u8], n: usize, preprocess: &Preprocess) -> Result<Vec<Tensor>> {
        let h = self.features(pixels, n, preprocess, Layer::H)?;
        let z = self.projector.as_ref().map(|_| self.behind(&h.to_device(self.device), Layer::Z));
        Ok([Some(h), z.transpose()?].into_iter().flatten().collect())
    }

    /// Features of a layer of the projector.
    fn behind(&self, h: &Tensor, layer: Layer) -> Result<Tensor> {
        let projector = self.projector.as_ref().ok_or_else(|| {
            Error::Weights(format!(
                "`{}` has no whole projector, which layer {} lies in; take `--layer h`",
                self.file.display(),
                layer.name()
            ))
        })?;
        let mut taps =
            tch::no_grad(|| projector.head.forward_taps(h, Phase::Evaluation)).into_iter();
        let found = match layer {
            Layer::Projector(place) => taps.nth(usize::from(place)),
            _ => taps.next_back(),
        };
        let found = found.ok_or_else(|| {
            let (file, layer) = (self.file.display(), layer.name());
            Error::Recipe(format!("the projector of `{file}` has no layer {layer}"))
        })?;
        Ok(found.to_device(Device::Cpu))
    }
}

/// Features `[n, D]` of a layer of the backbone (h for any behind it), f32 on the CPU, of `n` prepared images, in evaluation
/// mode. Each image is its bytes `[side, side, 3]` and behind them those of its constant channels, as
/// [`crate::evaluate::features::extract`] hands them on.
///
/// # Errors
/// [`Error::Data`] if the images have other channels than the network takes; [`Error::Shape`] if `pixels` holds another
/// number of bytes.
pub fn forward(
    backbone: &ResNet,
    pixels: &[u8],
    n: usize,
    preprocess: &Preprocess,
    layer: Layer,
    device: Device,
    kind: Kind,
) -> Result<Tensor> {
    tch::no_grad(|| {
        let images = images(backbone, pixels, n, preprocess, device, kind)?;
        let h = match layer {
            Layer::Block(group) => {
                let maps = backbone.forward_features(&images, &[group], Phase::Evaluation);
                maps[0].mean_dim([2, 3].as_slice(), false, None)
            }
            _ => backbone.forward(&images, Phase::Evaluation),
        };
        Ok(h.to_kind(Kind::Float).to_device(Device::Cpu))
    })
}

/// The images `[n, channels, side, side]` that a network takes, of the bytes of [`forward`].
///
/// # Errors
/// As [`forward`].
pub fn images(
    backbone: &ResNet,
    pixels: &[u8],
    n: usize,
    preprocess: &Preprocess,
    device: Device,
    kind: Kind,
) -> Result<Tensor> {
    let side = preprocess.size_px();
    let (mean, std) = (preprocess.mean, preprocess.std);
    let found = pixels.len().checked_div(n).unwrap_or(0);
    let (plain, wanted) = (3 * side * side, backbone.input_channels() as usize - 3);
    if found != plain + wanted && (plain..plain + 256).contains(&found) && pixels.len() == n * found
    {
        return Err(Error::Data(format!(
            "the network takes {} channels, the images have {}; give the data it was trained on, with the same bits \
             (`random-bits:BASE?bits={wanted}`)",
            3 + wanted,
            3 + found - plain
        )));
    }
    if wanted > 0 && pixels.len() != n * (plain + wanted) {
        return Err(Error::Shape(format!(
            "`pixels` must hold {n} times {plain} and {wanted} bytes, found {}",
            pixels.len()
        )));
    }
    if wanted == 0 {
        return to_device(pixels, [n, side, side], mean, std, device, kind);
    }
    let records = Tensor::from_slice(pixels).view([n as i64, -1]);
    let parts = records.split_with_sizes([plain as i64, wanted as i64], 1);
    let side = side as i64;
    let bytes = parts[0].reshape([-1, side, side, 3]).to_device(device);
    let images = normalize(&bytes, mean, std, kind);
    Ok(with_constants(&images, &parts[1].to_device(device)))
}
