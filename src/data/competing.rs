//! Data sets with competing features: several things in one image that could be learned, of which a contrastive objective
//! may learn only some (Chen, Luo and Li 2021, "Intriguing Properties of Contrastive Losses", arXiv:2011.02803).
//!
//! Each is made of another source on the fly, image by image, and is a pure function of that source, the settings and the
//! index. So an image keeps its digit and its bits in all epochs and views, and whoever opens it again sees the same.

mod digits;
mod digits_on;
mod multi_digits;
mod random_bits;

use super::Source;
use super::options::Options;
use crate::error::{Error, Result};
use crate::random::{Purpose, Scope, Stream};

/// How a set is opened: what it is made of, its settings.
type Open = fn(&str, &mut Options<'_>) -> Result<Source>;

const SETS: [(&str, Open); 3] = [
    ("digits-on", digits_on::open),
    ("multi-digits", multi_digits::open),
    ("random-bits", random_bits::open),
];

/// Opens `NAME:BASE?key=value&…`, if it begins with the name of a set; BASE may itself be of this form, so the settings stand
/// behind the last question mark.
pub(super) fn open(spec: &str) -> Option<Result<Source>> {
    let (name, rest) = spec.split_once(':')?;
    let (name, open) = SETS.iter().find(|(known, _)| *known == name)?;
    let (base, settings) = rest.rsplit_once('?').unwrap_or((rest, ""));
    let opened = Options::parse(name, settings).and_then(|mut options| {
        let source = open(base, &mut options)?;
        options.finish()?;
        Ok(Source { location: spec.to_owned(), ..source })
    });
    Some(opened)
}

/// What is drawn for an image of a split.
fn draws(seed: u64, split: usize, index: usize) -> Stream {
    Stream::open(seed, Purpose::Synthesis, Scope::Item((split as u64) << 32 | index as u64))
}

/// Opens what a set is made of; `example` shows how to name it.
fn base(name: &str, location: &str, example: &str) -> Result<Source> {
    if location.is_empty() {
        return Err(Error::Data(format!(
            "`{name}` needs a source it is made of, as in `{example}`"
        )));
    }
    super::open(location)
}

/// Hash of what a set is made of and how.
fn fingerprint(parts: &serde_json::Value) -> String {
    blake3::hash(parts.to_string().as_bytes()).to_hex().to_string()
}
