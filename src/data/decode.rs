//! Encoded bytes to an RGB image, whatever the file is called.
//!
//! EXIF orientation is ignored, as the references do (they read with Pillow, which does not apply it).

use super::Image;
use crate::error::{Error, Result};
use image::{ColorType, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use zune_core::bytestream::ZCursor;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// Largest number of pixels decoded, about Pillow's own bound; larger images count as damaged.
pub const MAX_PIXELS: u64 = 178_000_000;

/// Most memory a foreign decoder may take beside its output, in bytes.
const MAX_SCRATCH: u64 = 2 << 30;

/// What is decoded, for messages.
pub(super) const ACCEPTED: &str = "JPEG, PNG, WebP, TIFF, BMP or PNM";

/// Name of the codec the first bytes of a file announce (`JPEG`, `PNG`, ...).
pub fn codec(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xFF, 0xD8, 0xFF, ..] => Some("JPEG"),
        [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Some("PNG"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("WebP"),
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some("TIFF"),
        [b'B', b'M', ..] => Some("BMP"),
        [b'P', b'1'..=b'7', white, ..] if white.is_ascii_whitespace() => Some("PNM"),
        _ => None,
    }
}

/// Decodes an image file to RGB, 8 bits a channel.
///
/// Grey is replicated, alpha dropped, palettes and CMYK resolved, 16 bits reduced by `>> 8`. `name` is for messages.
///
/// # Errors
/// [`Error::Data`] naming the image when it is of an unknown kind, damaged, cut off (a JPEG without its end marker
/// included) or larger than [`MAX_PIXELS`]; the size is checked before anything of that size is allocated.
pub fn decode(bytes: &[u8], name: &str) -> Result<Image> {
    let Some(codec) = codec(bytes) else {
        return Err(Error::Data(format!(
            "`{name}` is no image: it {}, expected {ACCEPTED}",
            opening(bytes)
        )));
    };
    let decoded = guarded(|| match codec {
        "JPEG" => decode_jpeg(bytes),
        "PNG" => decode_other(bytes, ImageFormat::Png),
        "WebP" => decode_other(bytes, ImageFormat::WebP),
        "TIFF" => decode_other(bytes, ImageFormat::Tiff),
        "BMP" => decode_other(bytes, ImageFormat::Bmp),
        _ => decode_other(bytes, ImageFormat::Pnm),
    });
    decoded.map_err(|why| Error::Data(format!("cannot decode `{name}` ({codec}): {why}")))
}

/// Runs foreign code on untrusted bytes and turns a panic in it into an error.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(format!("damaged (the decoder gave up: {text})"))
    })
}

/// How a file begins, for messages: `starts with ...` or `is empty`.
pub(super) fn opening(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(16)];
    if start.is_empty() {
        "is empty".to_owned()
    } else if start.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        format!("starts with the text {:?}", String::from_utf8_lossy(start))
    } else {
        let hex: Vec<String> = start.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("starts with the bytes {}", hex.join(" "))
    }
}

fn check_size(width: u64, height: u64) -> Result<(), String> {
    if width == 0 || height == 0 {
        return Err(format!("it has no pixels ({width}×{height})"));
    }
    if width.saturating_mul(height) > MAX_PIXELS {
        return Err(format!(
            "{width}×{height} pixels are more than the {} million accepted",
            MAX_PIXELS / 1_000_000
        ));
    }
    Ok(())
}

fn decode_jpeg(bytes: &[u8]) -> Result<Image, String> {
    if !has_end_marker(bytes) {
        return Err("cut off: the end marker is missing".to_owned());
    }
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|e| e.to_string())?;
    let (width, height) = decoder.dimensions().ok_or("the header gives no size")?;
    check_size(width as u64, height as u64)?;
    let pixels = decoder.decode().map_err(|e| e.to_string())?;
    if pixels.len() != 3 * width * height {
        return Err(format!("{} bytes decoded for {width}×{height} pixels", pixels.len()));
    }
    Ok(Image { width, height, pixels })
}

/// Walks the segments and entropy-coded data of a JPEG up to its end marker; what follows it does not matter.
///
/// The decoder accepts a missing end, and thumbnails carry end markers of their own, so the last two bytes tell nothing.
fn has_end_marker(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        let Some(ahead) = bytes.get(at..).and_then(|rest| rest.iter().position(|b| *b == 0xFF))
        else {
            return false;
        };
        at += ahead;
        match bytes.get(at + 1) {
            None => return false,
            Some(0xD9) => return true,
            Some(0xFF) => at += 1,
            Some(0x00 | 0x01 | 0xD0..=0xD8) => at += 2,
            Some(_) => {
                let Some(length) = bytes.get(at + 2..at + 4) else { return false };
                at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
            }
        }
    }
}

fn decode_other(bytes: &[u8], format: ImageFormat) -> Result<Image, String> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_SCRATCH);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    let (width, height) = decoder.dimensions();
    check_size(u64::from(width), u64::from(height))?;
    let color = decoder.color_type();
    let mut raw = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut raw).map_err(|e| e.to_string())?;
    Ok(Image { width: width as usize, height: height as usize, pixels: to_rgb(color, raw)? })
}

fn to_rgb(color: ColorType, raw: Vec<u8>) -> Result<Vec<u8>, String> {
    let narrow: Vec<u8> = match color {
        ColorType::Rgb8 => return Ok(raw),
        ColorType::L8 | ColorType::La8 | ColorType::Rgba8 => raw,
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => {
            raw.as_chunks().0.iter().map(|pair| (u16::from_ne_bytes(*pair) >> 8) as u8).collect()
        }
        other => {
            return Err(format!(
                "samples of kind {other:?} are not accepted, only 8 or 16 bits a channel"
            ));
        }
    };
    let channels = usize::from(color.channel_count());
    let rgb = match channels {
        1 | 2 => narrow.chunks_exact(channels).flat_map(|pixel| [pixel[0]; 3]).collect(),
        3 => narrow,
        _ => {
            narrow.chunks_exact(channels).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
        }
    };
    Ok(rgb)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{DynamicImage, ImageBuffer, Luma, LumaA, Rgb, Rgba};

    fn golden(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/tests/golden/decode/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn message(bytes: &[u8]) -> String {
        match decode(bytes, "a.jpg").unwrap_err() {
            Error::Data(message) => message,
            other => panic!("{other:?} is no data error"),
        }
    }

    #[test]
    fn agrees_with_pillow_on_every_codec_and_colour_layout() {
        // Lossless forms exactly; JPEG within what two correct inverse transforms and upsamplings may differ by.
        for (name, mean_bound, bound) in [
            ("baseline.jpg", 1.0, 8),
            ("progressive.jpg", 1.0, 8),
            ("grey.jpg", 0.5, 2),
            ("cmyk.jpg", 1.0, 8),
            ("exif.jpg", 1.0, 8),
            ("palette.png", 0.0, 0),
            ("alpha.png", 0.0, 0),
            ("lossless.webp", 0.0, 0),
            ("plain.bmp", 0.0, 0),
            ("plain.ppm", 0.0, 0),
            ("lzw.tif", 0.0, 0),
        ] {
            let image = decode(&golden(name), name).unwrap();
            let expected = golden(&format!("{name}.rgb"));
            assert_eq!((image.width, image.height), (37, 26), "{name}");
            let off: Vec<u8> =
                image.pixels.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).collect();
            let mean = off.iter().map(|d| f64::from(*d)).sum::<f64>() / off.len() as f64;
            assert_eq!(image.pixels.len(), expected.len(), "{name}");
            assert!(
                mean <= mean_bound && off.iter().all(|d| *d <= bound),
                "{name}: mean {mean}, max {:?}",
                off.iter().max()
            );
        }
    }

    #[test]
    fn sixteen_bits_of_grey_keep_their_high_byte() {
        let truth = crate::data::testing::truth("grey16");
        let truth: Vec<u8> =
            truth.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u8).collect();
        for name in ["grey16.png", "grey16.tif"] {
            let bytes = std::fs::read(crate::data::testing::golden(&format!("data/{name}")));
            let image = decode(&bytes.unwrap(), name).unwrap();
            assert_eq!((image.width, image.height), (4, 3), "{name}");
            let expected: Vec<u8> = truth.iter().flat_map(|value| [*value; 3]).collect();
            assert_eq!(image.pixels, expected, "{name}");
        }
    }

    /// Two pixels of every number of channels and bits; grey is replicated, alpha dropped, 16 bits shifted.
    #[test]
    fn every_count_of_channels_and_bits_becomes_rgb() {
        let samples: [u16; 8] = [0x12FF, 0x3480, 0xFF00, 0x00FF, 0x5601, 0x7802, 0x9A03, 0xBC04];
        for channels in 1..=4 {
            let wide = &samples[..2 * channels];
            let narrow: Vec<u8> = wide.iter().map(|sample| (sample >> 8) as u8).collect();
            let expected: Vec<u8> = narrow
                .chunks(channels)
                .flat_map(|pixel| match *pixel {
                    [grey] | [grey, _] => [grey; 3],
                    [red, green, blue] | [red, green, blue, _] => [red, green, blue],
                    _ => panic!("{pixel:?}"),
                })
                .collect();
            let (narrow_image, wide_image) = images(channels, &narrow, wide);
            for (bits, image) in [(8, &narrow_image), (16, &wide_image)] {
                let mut formats = vec![ImageFormat::Png];
                // The encoder at hand writes no grey TIFF with alpha.
                formats.extend((channels != 2).then_some(ImageFormat::Tiff));
                for format in formats {
                    let found = decode(&encoded(image, format), "a").unwrap().pixels;
                    assert_eq!(found, expected, "{channels} channels, {bits} bits, {format:?}");
                }
            }
            // Portable any-map, written by hand: big-endian.
            let big: Vec<u8> = wide.iter().flat_map(|sample| sample.to_be_bytes()).collect();
            for (most, data) in [(255, &narrow), (65_535, &big)] {
                let kind = ["GRAYSCALE", "GRAYSCALE_ALPHA", "RGB", "RGB_ALPHA"][channels - 1];
                let header = format!(
                    "P7\nWIDTH 2\nHEIGHT 1\nDEPTH {channels}\nMAXVAL {most}\nTUPLTYPE {kind}\nENDHDR\n"
                );
                let mut files = vec![[header.as_bytes(), data].concat()];
                let old = [Some("P5"), None, Some("P6"), None][channels - 1];
                let old = old.map(|magic| format!("{magic}\n2 1\n{most}\n"));
                files.extend(old.map(|header| [header.as_bytes(), data].concat()));
                for file in files {
                    let found = decode(&file, "a").unwrap().pixels;
                    assert_eq!(found, expected, "PNM, {channels} channels up to {most}");
                }
            }
        }
    }

    fn images(channels: usize, narrow: &[u8], wide: &[u16]) -> (DynamicImage, DynamicImage) {
        let (narrow, wide) = (narrow.to_vec(), wide.to_vec());
        match channels {
            1 => (
                ImageBuffer::<Luma<u8>, _>::from_raw(2, 1, narrow).unwrap().into(),
                ImageBuffer::<Luma<u16>, _>::from_raw(2, 1, wide).unwrap().into(),
            ),
            2 => (
                ImageBuffer::<LumaA<u8>, _>::from_raw(2, 1, narrow).unwrap().into(),
                ImageBuffer::<LumaA<u16>, _>::from_raw(2, 1, wide).unwrap().into(),
            ),
            3 => (
                ImageBuffer::<Rgb<u8>, _>::from_raw(2, 1, narrow).unwrap().into(),
                ImageBuffer::<Rgb<u16>, _>::from_raw(2, 1, wide).unwrap().into(),
            ),
            _ => (
                ImageBuffer::<Rgba<u8>, _>::from_raw(2, 1, narrow).unwrap().into(),
                ImageBuffer::<Rgba<u16>, _>::from_raw(2, 1, wide).unwrap().into(),
            ),
        }
    }

    #[test]
    fn black_and_white_and_other_ranges_are_scaled() {
        // One bit a pixel, 1 is black; then a largest value of 15, and of 4095 in two bytes.
        assert_eq!(decode(b"P4\n2 1\n\x40", "a").unwrap().pixels, [255, 255, 255, 0, 0, 0]);
        assert_eq!(decode(b"P5\n2 1\n15\n\x0f\x00", "a").unwrap().pixels, [255, 255, 255, 0, 0, 0]);
        let twelve = decode(b"P5\n2 1\n4095\n\x0f\xff\x08\x00", "a").unwrap().pixels;
        assert_eq!(twelve, [255, 255, 255, 128, 128, 128]);
    }

    #[test]
    fn a_cut_jpeg_is_damaged_at_every_length_and_garbage_behind_it_is_not() {
        for name in ["baseline.jpg", "progressive.jpg", "exif.jpg"] {
            let whole = golden(name);
            for length in 3..whole.len() {
                assert!(decode(&whole[..length], name).is_err(), "{name} cut to {length}");
            }
            assert!(message(&whole[..whole.len() - 2]).contains("end marker"));
            let image = decode(&whole, name).unwrap();
            let trailing = [&whole[..], b"\xFF\xD8garbage\xFF"].concat();
            assert_eq!(decode(&trailing, name).unwrap(), image);
        }
    }

    #[test]
    fn a_cut_png_is_damaged() {
        let whole = golden("alpha.png");
        for length in [9, 40, whole.len() / 2, whole.len() - 30] {
            assert!(decode(&whole[..length], "a").is_err(), "cut to {length}");
        }
    }

    #[test]
    fn a_huge_header_is_refused_before_allocation() {
        let mut header = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        header.extend(60_000u32.to_be_bytes());
        header.extend(60_000u32.to_be_bytes());
        header.extend([8, 2, 0, 0, 0]);
        header.extend(crc32(&header[12..29]).to_be_bytes());
        header.extend(b"\0\0\0\x01IDAT\x78");
        let start = std::time::Instant::now();
        let text = message(&header);
        assert!(text.contains("60000×60000 pixels are more than the 178 million"), "{text}");
        assert!(start.elapsed().as_millis() < 500);

        let mut jpeg = golden("baseline.jpg");
        let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0xEA, 0x60, 0xEA, 0x60]);
        assert!(message(&jpeg).contains("60000×60000"), "{}", message(&jpeg));

        let bomb = message(b"P6 60000 60000 255 ");
        assert!(bomb.contains("60000×60000"), "{bomb}");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| {
                (c >> 1) ^ (0xEDB8_8320 & (c & 1).wrapping_neg())
            })
        })
    }

    #[test]
    fn says_what_it_saw_instead_of_an_image() {
        let text = message(b"this is not an image");
        assert_eq!(
            text,
            "`a.jpg` is no image: it starts with the text \"this is not an i\", \
             expected JPEG, PNG, WebP, TIFF, BMP or PNM"
        );
        assert!(message(b"").contains("is empty"));
        assert!(message(b"GIF89a\x01\x00").contains("47 49 46 38"));
    }

    #[test]
    fn a_panic_inside_becomes_an_error() {
        let result: Result<(), String> = guarded(|| panic!("index {} out of bounds", 7));
        assert_eq!(result.unwrap_err(), "damaged (the decoder gave up: index 7 out of bounds)");
    }
}
