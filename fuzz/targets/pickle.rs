//! A Python pickle of arrays and lists.
#![no_main]

use diptych::data::pickle;
use diptych_fuzz::{in_proportion, is_data, judged, tried};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    tried(in_proportion(input.len()), || {
        if let Some(value) = judged(pickle::parse(input, "fuzz"), is_data) {
            let data = value.get("data");
            (data.and_then(pickle::Value::integers), value.integers(), value.text());
        }
    });
});
