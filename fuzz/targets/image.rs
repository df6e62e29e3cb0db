//! An encoded image of any kind.
#![no_main]

use diptych::data::decode;
use diptych_fuzz::{IMAGE, is_data, judged, tried};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some(image) = judged(tried(IMAGE, || decode::decode(input, "fuzz")), is_data) {
        assert_eq!(image.pixels.len(), 3 * image.width * image.height);
    }
});
