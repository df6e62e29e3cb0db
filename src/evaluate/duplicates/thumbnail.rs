//! Small versions of an image: means over equal areas.

use crate::data::Image;

/// Side of a fingerprint.
const PRINT: usize = 8;

/// Standard deviation, in units of 8-bit values, below which an image is of one colour.
const FLAT: f32 = 2.0;

/// Hash (BLAKE3, 128 bits of it) of size and pixels.
pub(super) fn hash(image: &Image) -> [u8; 16] {
    let mut hash = blake3::Hasher::new();
    hash.update(&(image.width as u64).to_le_bytes()).update(&(image.height as u64).to_le_bytes());
    let hash = hash.update(&image.pixels).finalize();
    *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
}

/// An image with left and right exchanged.
pub(super) fn mirrored(image: &Image) -> Image {
    let Image { width, height, .. } = *image;
    let mut pixels = image.pixels.clone();
    pixels.chunks_exact_mut(3 * width).for_each(|row| row.as_chunks_mut::<3>().0.reverse());
    Image { width, height, pixels }
}

/// An image as 8 × 8 means of three channels, rounded to bytes.
pub(super) struct Fingerprint([u8; PRINT * PRINT * 3]);

impl Fingerprint {
    pub(super) fn of(image: &Image) -> Self {
        let means = means(image, PRINT);
        let mut bytes = [0; PRINT * PRINT * 3];
        for (byte, mean) in bytes.iter_mut().zip(&means) {
            *byte = mean.round() as u8;
        }
        Self(bytes)
    }

    /// That of the mirrored image.
    pub(super) fn mirrored(&self) -> Self {
        let mut bytes = self.0;
        bytes.chunks_exact_mut(3 * PRINT).for_each(|row| row.as_chunks_mut::<3>().0.reverse());
        Self(bytes)
    }

    pub(super) fn is_flat(&self) -> bool {
        self.centred().1 < FLAT * (self.0.len() as f32).sqrt()
    }

    /// Centred by channel and of length 1; zeros if the image is of one colour, so that nothing is like it.
    pub(super) fn unit(&self) -> Vec<f32> {
        let (mut values, length) = self.centred();
        let factor = if self.is_flat() { 0.0 } else { 1.0 / length };
        for value in &mut values {
            *value *= factor;
        }
        values
    }

    fn centred(&self) -> (Vec<f32>, f32) {
        let mut values: Vec<f32> = self.0.iter().copied().map(f32::from).collect();
        centre(&mut values);
        let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
        (values, length)
    }
}

/// An image as means over [`Thumbnail::SIDE`]² equal areas, three channels.
pub(super) struct Thumbnail(pub(super) Vec<f32>);

impl Thumbnail {
    pub(super) const SIDE: usize = 32;

    pub(super) fn of(image: &Image) -> Self {
        Self(means(image, Self::SIDE))
    }

    /// That of the mirrored image.
    pub(super) fn mirrored(mut self) -> Self {
        for row in self.0.chunks_exact_mut(3 * Self::SIDE) {
            row.as_chunks_mut::<3>().0.reverse();
        }
        self
    }
}

/// Subtracts the mean of each of three interleaved channels.
pub(super) fn centre(values: &mut [f32]) {
    for channel in 0..3 {
        let of_channel = || values.iter().skip(channel).step_by(3);
        let mean = of_channel().sum::<f32>() / of_channel().count() as f32;
        values.iter_mut().skip(channel).step_by(3).for_each(|value| *value -= mean);
    }
}

/// Means over `side` × `side` equal areas, channels interleaved; a pixel counts by how much of it lies within.
fn means(image: &Image, side: usize) -> Vec<f32> {
    let (columns, rows) = (spans(image.width, side), spans(image.height, side));
    // Along x, for every row of the image.
    let mut narrow = vec![0.0f32; image.height * side * 3];
    for (pixels, out) in image.pixels.chunks(3 * image.width).zip(narrow.chunks_mut(3 * side)) {
        for (span, out) in columns.iter().zip(out.chunks_mut(3)) {
            for (column, weight) in span {
                for (out, value) in out.iter_mut().zip(&pixels[3 * column..]) {
                    *out += weight * f32::from(*value);
                }
            }
        }
    }
    let mut means = vec![0.0f32; side * side * 3];
    for (span, out) in rows.iter().zip(means.chunks_mut(3 * side)) {
        for (row, weight) in span {
            for (out, value) in out.iter_mut().zip(&narrow[3 * side * row..]) {
                *out += weight * value;
            }
        }
    }
    means
}

/// Which of `from` pixels make each of `to` areas, with weights of sum 1.
fn spans(from: usize, to: usize) -> Vec<Vec<(usize, f32)>> {
    let size = from as f64 / to as f64;
    let span = |area: usize| {
        let (begin, end) = (area as f64 * size, (area + 1) as f64 * size);
        let last = (end.ceil() as usize).min(from);
        (begin as usize..last)
            .map(|pixel| {
                let within = end.min((pixel + 1) as f64) - begin.max(pixel as f64);
                (pixel, (within.max(0.0) / size) as f32)
            })
            .collect()
    };
    (0..to).map(span).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_those_of_areas_whatever_the_size() {
        // Values that rise along x and y: the mean over an area is the value at its centre.
        for (width, height) in [(64, 64), (50, 37), (5, 200), (8, 8), (3, 3)] {
            let value = |x: usize, y: usize| (x * 100 / width + y * 100 / height) as u8;
            let pixels = (0..height)
                .flat_map(|y| (0..width).flat_map(move |x| [value(x, y), 7, 255]))
                .collect();
            let image = Image { width, height, pixels };
            let found = means(&image, 8);
            for y in 0..8 {
                for x in 0..8 {
                    let (mut sum, mut area) = (0.0, 0.0);
                    // A hundred samples a cell.
                    for j in 0..40 {
                        for i in 0..40 {
                            let u = (x as f64 + (i as f64 + 0.5) / 40.0) / 8.0 * width as f64;
                            let v = (y as f64 + (j as f64 + 0.5) / 40.0) / 8.0 * height as f64;
                            sum += f64::from(value(u as usize, v as usize));
                            area += 1.0;
                        }
                    }
                    let cell = &found[3 * (8 * y + x)..][..3];
                    assert!((f64::from(cell[0]) - sum / area).abs() < 1.0, "{width}x{height}");
                    assert!((cell[1] - 7.0).abs() < 1e-3 && (cell[2] - 255.0).abs() < 1e-2);
                }
            }
        }
    }

    #[test]
    fn an_image_of_one_colour_is_like_nothing() {
        let flat = Image { width: 9, height: 9, pixels: [10, 200, 30].repeat(81) };
        let print = Fingerprint::of(&flat);
        assert!(print.is_flat());
        assert!(print.unit().iter().all(|value| value.abs() < 1e-9));
    }
}
