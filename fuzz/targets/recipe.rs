//! A recipe as TOML, then overrides, each behind a byte 0.
#![no_main]

use diptych::augment::Pipeline;
use diptych::error::Error;
use diptych::recipe::Recipe;
use diptych_fuzz::{in_proportion, judged, tried};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    let mut parts = text.split('\0');
    let recipe = parts.next().unwrap_or_default();
    let overrides: Vec<String> = parts.map(str::to_owned).collect();
    let is_recipe = |error: &Error| matches!(error, Error::Recipe(_));
    let limit = 8 * in_proportion(input.len());
    let read = tried(limit, || Recipe::parse(recipe, "fuzz", &overrides));
    let Some(recipe) = judged(read, is_recipe) else { return };
    // What is accepted can be written, read back and built.
    let again = tried(limit, || Recipe::parse(&recipe.to_toml()?, "written", &[]));
    assert_eq!(judged(again, |_| false).as_ref(), Some(&recipe));
    judged(tried(limit, || Pipeline::new(&recipe.view)), is_recipe);
    let mut resolved = recipe.clone();
    let machine = |error: &Error| matches!(error, Error::Recipe(_) | Error::Environment(_));
    judged(tried(limit, || resolved.resolve()), machine);
    tried(limit, || recipe.backbone.parameter_count());
});
