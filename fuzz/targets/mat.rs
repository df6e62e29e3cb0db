//! A MATLAB 5 file, as the lists of data sets are.
#![no_main]

use diptych::data::transfer::mat::Variables;
use diptych_fuzz::{in_proportion, is_data, judged, tried};
use libfuzzer_sys::fuzz_target;

/// What deflate packs into a byte at most.
const PACKED: usize = 1_040;

fuzz_target!(|input: &[u8]| {
    let limit = in_proportion(PACKED / 4 * input.len());
    tried(limit, || judged(Variables::parse(input, "fuzz"), is_data));
});
