//! Laying one image over another: is one, or a large box of it, the other?

use super::thumbnail::{Thumbnail, centre};

/// Points to a side at which two images are compared.
const POINTS: usize = 24;

/// Smallest side of a box, in sides of the image.
const SMALLEST: f32 = 0.75;

/// How alike two images are at their best fit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Alike {
    /// Correlation of the colours, each channel centred, from −1 to 1.
    pub(super) similarity: f64,
    /// Correlation of the grey values less the mean of their neighbourhoods.
    pub(super) detail: f64,
}

/// A square box of an image of side 1.
#[derive(Clone, Copy)]
struct Cut {
    left: f32,
    top: f32,
    side: f32,
}

impl Cut {
    const WHOLE: Self = Self { left: 0.0, top: 0.0, side: 1.0 };

    /// The box moved and resized, if it still is one.
    fn by(self, [left, top, side]: [f32; 3]) -> Option<Self> {
        let cut = Self { left: self.left + left, top: self.top + top, side: self.side + side };
        // Beyond the edge by rounding at most.
        let within = |from: f32| from > -1e-4 && from + cut.side < 1.0 + 1e-4;
        (cut.side > SMALLEST - 1e-4 && within(cut.left) && within(cut.top)).then_some(cut)
    }
}

/// Compares whole with whole, then boxes of either with the other, climbing to the best correlation.
pub(super) fn compare(left: &Thumbnail, right: &Thumbnail) -> Alike {
    let (of_left, of_right) = (climb(left, right), climb(right, left));
    if of_right.similarity > of_left.similarity { of_right } else { of_left }
}

/// The best box of `from` for the whole of `whole`.
fn climb(from: &Thumbnail, whole: &Thumbnail) -> Alike {
    let target = centred(sample(whole, Cut::WHOLE));
    let score = |cut: Cut| correlation(&centred(sample(from, cut)), &target);
    let mut best = (score(Cut::WHOLE), Cut::WHOLE);
    for [left, top] in [[0.05, 0.05], [0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [0.1, 0.1]] {
        let cut = Cut { left, top, side: 0.9 };
        let found = score(cut);
        if found > best.0 {
            best = (found, cut);
        }
    }
    for step in [0.05, 0.025, 0.0125] {
        // A side grows around its middle, or with one corner fixed.
        let moves = [
            [step, 0.0, 0.0],
            [-step, 0.0, 0.0],
            [0.0, step, 0.0],
            [0.0, -step, 0.0],
            [step / 2.0, step / 2.0, -step],
            [-step / 2.0, -step / 2.0, step],
            [0.0, 0.0, -step],
            [0.0, 0.0, step],
            [step, step, -step],
            [-step, -step, step],
        ];
        loop {
            let cuts = moves.iter().filter_map(|by| best.1.by(*by));
            let next = cuts.map(|cut| (score(cut), cut)).max_by(|a, b| a.0.total_cmp(&b.0));
            match next {
                Some(next) if next.0 > best.0 + 1e-6 => best = next,
                _ => break,
            }
        }
    }
    let detail = correlation(&detail(&sample(from, best.1)), &detail(&sample(whole, Cut::WHOLE)));
    Alike { similarity: best.0, detail }
}

/// Values at the points of a box, between pixel centres linear.
fn sample(image: &Thumbnail, cut: Cut) -> Vec<f32> {
    const SIDE: usize = Thumbnail::SIDE;
    let place = |from: f32, point: usize| {
        let at = (from + cut.side * (point as f32 + 0.5) / POINTS as f32) * SIDE as f32 - 0.5;
        let at = at.clamp(0.0, SIDE as f32 - 1.0);
        let low = (at as usize).min(SIDE - 2);
        (low, at - low as f32)
    };
    let columns: Vec<(usize, f32)> = (0..POINTS).map(|point| place(cut.left, point)).collect();
    let mut values = Vec::with_capacity(3 * POINTS * POINTS);
    for row in 0..POINTS {
        let (y, down) = place(cut.top, row);
        for (x, right) in &columns {
            let (above, below) = (3 * (y * SIDE + x), 3 * ((y + 1) * SIDE + x));
            for channel in 0..3 {
                let mix = |at: usize| {
                    let (near, far) = (image.0[at + channel], image.0[at + 3 + channel]);
                    near + (far - near) * right
                };
                values.push(mix(above) + (mix(below) - mix(above)) * down);
            }
        }
    }
    values
}

/// Centred by channel.
fn centred(mut values: Vec<f32>) -> Vec<f32> {
    centre(&mut values);
    values
}

/// Grey values less the mean of their 3 × 3 neighbourhoods, centred.
fn detail(values: &[f32]) -> Vec<f32> {
    let grey: Vec<f32> = values.chunks(3).map(|pixel| pixel.iter().sum::<f32>() / 3.0).collect();
    let inner = 1..POINTS - 1;
    let mut details = Vec::with_capacity(inner.len() * inner.len());
    for y in inner.clone() {
        for x in inner.clone() {
            let rows =
                (y - 1..=y + 1).flat_map(|row| &grey[row * POINTS + x - 1..=row * POINTS + x + 1]);
            details.push(grey[y * POINTS + x] - rows.sum::<f32>() / 9.0);
        }
    }
    let mean = details.iter().sum::<f32>() / details.len() as f32;
    for value in &mut details {
        *value -= mean;
    }
    details
}

/// Of centred values; 0 where one side does not vary.
fn correlation(left: &[f32], right: &[f32]) -> f64 {
    let dot = |left: &[f32], right: &[f32]| -> f64 {
        left.iter().zip(right).map(|(left, right)| f64::from(*left) * f64::from(*right)).sum()
    };
    let lengths = (dot(left, left) * dot(right, right)).sqrt();
    if lengths > 1e-6 { dot(left, right) / lengths } else { 0.0 }
}
