//! The operations whose strength is varied, each as a small value drawn for an image and a strength.

use crate::augment::{
    Adjustment, Border, Crop, Drawn, Interpolation, Kernel, Motion, Noise, Operation, Patch,
    PillowOperation, Resampling, Warp,
};
use crate::random::{Purpose, Scope, Stream};

/// Draws here are those of an epoch that neither training nor any other evaluation reaches.
const EPOCH: u32 = u32::MAX - 1;

/// An augmentation with a strength.
///
/// What is drawn for an image (where a crop lies, which way it is turned) is the same for every strength, so curves are not
/// rougher than what they show. All act on the image at the network's size.
#[derive(Debug)]
pub struct Augmentation {
    /// Its name in settings and tables.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// What its strength is, with the unit.
    pub axis: &'static str,
    /// Strengths looked at unless told.
    pub strengths: &'static [f64],
    /// The strength at which nothing happens.
    pub neutral: f64,
    /// Least and greatest strength.
    pub range: [f64; 2],
    /// Whether strengths are whole numbers.
    pub whole: bool,
    draw: fn(f64, usize, &mut Stream) -> Drawn,
}

/// Every augmentation, in the order in which they are shown.
pub const AUGMENTATIONS: &[Augmentation] = &[
    Augmentation {
        name: "crop",
        title: "Crop",
        axis: "area that is kept",
        strengths: &[1.0, 0.8, 0.6, 0.4, 0.2, 0.08],
        neutral: 1.0,
        range: [0.001, 1.0],
        whole: false,
        draw: |area, side, stream| {
            let edge = ((side as f64 * area.sqrt()).round() as usize).clamp(1, side);
            let mut at = || (stream.uniform() * (side - edge + 1) as f64) as usize;
            let (left, top) = (at(), at());
            let crop = Crop { left, top, width: edge, height: edge, ..whole(side) };
            Drawn { crop, flip: false, operations: Vec::new() }
        },
    },
    Augmentation {
        name: "shift",
        title: "Shift",
        axis: "share of the width, to the left or right",
        strengths: &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
        neutral: 0.0,
        range: [0.0, 1.0],
        whole: false,
        draw: |share, side, stream| warp(Motion::TranslateX((sign(stream) * share) as f32), side),
    },
    Augmentation {
        name: "rotation",
        title: "Rotation",
        axis: "degrees, to the left or right",
        strengths: &[0.0, 10.0, 20.0, 45.0, 90.0, 135.0, 180.0],
        neutral: 0.0,
        range: [0.0, 180.0],
        whole: false,
        draw: |degrees, side, stream| warp(Motion::Rotate((sign(stream) * degrees) as f32), side),
    },
    Augmentation {
        name: "flip",
        title: "Flip",
        axis: "left and right exchanged",
        strengths: &[0.0, 1.0],
        neutral: 0.0,
        range: [0.0, 1.0],
        whole: true,
        draw: |flip, side, _| Drawn { flip: flip >= 0.5, ..with(Vec::new(), side) },
    },
    Augmentation {
        name: "color",
        title: "Colour jitter",
        axis: "strength s: brightness, contrast, saturation 0.8 s, hue 0.2 s",
        strengths: &[0.0, 0.25, 0.5, 0.75, 1.0],
        neutral: 0.0,
        range: [0.0, 2.5],
        whole: false,
        draw: jitter,
    },
    Augmentation {
        name: "brightness",
        title: "Brightness",
        axis: "factor",
        strengths: &[0.2, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0],
        neutral: 1.0,
        range: [0.0, 100.0],
        whole: false,
        draw: |factor, side, _| color(Adjustment::Brightness(factor as f32), side),
    },
    Augmentation {
        name: "contrast",
        title: "Contrast",
        axis: "factor",
        strengths: &[0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0],
        neutral: 1.0,
        range: [0.0, 100.0],
        whole: false,
        draw: |factor, side, _| color(Adjustment::Contrast(factor as f32), side),
    },
    Augmentation {
        name: "hue",
        title: "Hue",
        axis: "turns of the colour circle, either way",
        strengths: &[0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5],
        neutral: 0.0,
        range: [0.0, 0.5],
        whole: false,
        draw: |turns, side, stream| color(Adjustment::Hue((sign(stream) * turns) as f32), side),
    },
    Augmentation {
        name: "grayscale",
        title: "Grey",
        axis: "share of the colour taken away",
        strengths: &[0.0, 0.25, 0.5, 0.75, 1.0],
        neutral: 0.0,
        range: [0.0, 1.0],
        whole: false,
        draw: |share, side, _| color(Adjustment::Saturation((1.0 - share) as f32), side),
    },
    Augmentation {
        name: "solarize",
        title: "Solarize",
        axis: "x: values above 1 − x are inverted",
        strengths: &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
        neutral: 0.0,
        range: [0.0, 1.0],
        whole: false,
        draw: |share, side, _| color(Adjustment::Solarize((1.0 - share) as f32), side),
    },
    Augmentation {
        name: "posterize",
        title: "Posterize",
        axis: "bits of each channel",
        strengths: &[8.0, 5.0, 4.0, 3.0, 2.0, 1.0],
        neutral: 8.0,
        range: [1.0, 8.0],
        whole: true,
        draw: |bits, side, _| {
            let bits = bits.round() as u8;
            with(vec![Operation::Pillow(PillowOperation::Posterize(bits))], side)
        },
    },
    Augmentation {
        name: "blur",
        title: "Blur",
        axis: "σ as a share of the side",
        strengths: &[0.0, 0.005, 0.01, 0.02, 0.04, 0.08],
        neutral: 0.0,
        range: [0.0, 0.3],
        whole: false,
        draw: |share, side, _| {
            let sigma_px = share * side as f64;
            // Three deviations; mirrored pixels reach no further than the image.
            let radius_px = ((3.0 * sigma_px).ceil() as usize).clamp(1, side - 1);
            let sigma_px = sigma_px as f32;
            let kernel = Kernel::Kernel { sigma_px, radius_px, border: Border::Reflect };
            with(vec![Operation::Blur(kernel)], side)
        },
    },
    Augmentation {
        name: "noise",
        title: "Noise",
        axis: "standard deviation, values are 0 to 1",
        strengths: &[0.0, 0.02, 0.05, 0.1, 0.2, 0.4],
        neutral: 0.0,
        range: [0.0, 10.0],
        whole: false,
        draw: |std, side, stream| {
            let noise = Noise { std: std as f32, seed: stream.next_u64() };
            with(vec![Operation::Noise(noise)], side)
        },
    },
    Augmentation {
        name: "cutout",
        title: "Cutout",
        axis: "side of the grey square",
        strengths: &[0.0, 0.2, 0.4, 0.6, 0.8],
        neutral: 0.0,
        range: [0.0, 1.0],
        whole: false,
        draw: |share, side, stream| {
            let edge = ((side as f64 * share).round() as usize).clamp(1, side);
            let mut at = || (stream.uniform() * (side - edge + 1) as f64) as usize;
            let (left, top) = (at(), at());
            let patch = Patch { left, top, width: edge, height: edge, color: [0.5; 3] };
            with(vec![Operation::Fill(patch)], side)
        },
    },
    Augmentation {
        name: "sobel",
        title: "Edges",
        axis: "Sobel's edges in place of the image",
        strengths: &[0.0, 1.0],
        neutral: 0.0,
        range: [0.0, 1.0],
        whole: true,
        draw: |edges, side, _| {
            with(if edges >= 0.5 { vec![Operation::Sobel] } else { Vec::new() }, side)
        },
    },
];

impl Augmentation {
    /// The augmentation of a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        AUGMENTATIONS.iter().find(|known| known.name == name)
    }

    /// What happens to image `index`, of side `side`, at a strength.
    pub fn drawn(&self, strength: f64, side: usize, index: usize, seed: u64) -> Drawn {
        if self.changes_nothing(strength) {
            return with(Vec::new(), side);
        }
        let place = AUGMENTATIONS.iter().position(|known| known.name == self.name);
        let view = place.unwrap_or_default() as u8;
        let scope = Scope::Image { epoch: EPOCH, index: index as u32, view };
        (self.draw)(strength, side, &mut Stream::open(seed, Purpose::Augment, scope))
    }

    /// Whether an image is left as it is at a strength.
    pub fn changes_nothing(&self, strength: f64) -> bool {
        (strength - self.neutral).abs() < 1e-12
    }
}

fn whole(side: usize) -> Crop {
    let interpolation = Interpolation::Bilinear;
    Crop { left: 0, top: 0, width: side, height: side, size_px: side, interpolation }
}

/// Operations on the whole image.
fn with(operations: Vec<Operation>, side: usize) -> Drawn {
    Drawn { crop: whole(side), flip: false, operations }
}

fn color(adjustment: Adjustment, side: usize) -> Drawn {
    with(vec![Operation::Color(adjustment)], side)
}

fn warp(motion: Motion, side: usize) -> Drawn {
    let warp = Warp { motion, resampling: Resampling::Bicubic };
    with(vec![Operation::Pillow(PillowOperation::Warp(warp))], side)
}

fn sign(stream: &mut Stream) -> f64 {
    if stream.chance(0.5) { 1.0 } else { -1.0 }
}

/// SimCLR's colour distortion of a strength (Chen et al. 2020, arXiv:2002.05709, appendix A) without its grey images, in
/// torchvision's form: factors uniform in [max(0, 1 − 0.8 s), 1 + 0.8 s], a turn of hue uniform in ±0.2 s (at most 0.5), in
/// a random order.
fn jitter(strength: f64, side: usize, stream: &mut Stream) -> Drawn {
    let order = stream.permutation(4);
    let mut factor = || {
        let place = stream.uniform();
        let low = (1.0 - 0.8 * strength).max(0.0);
        (low + place * (1.0 + 0.8 * strength - low)) as f32
    };
    let (brightness, contrast, saturation) = (factor(), factor(), factor());
    let hue = ((2.0 * stream.uniform() - 1.0) * (0.2 * strength).min(0.5)) as f32;
    let all = [
        Adjustment::Brightness(brightness),
        Adjustment::Contrast(contrast),
        Adjustment::Saturation(saturation),
        Adjustment::Hue(hue),
    ];
    with(order.into_iter().map(|at| Operation::Color(all[at])).collect(), side)
}
