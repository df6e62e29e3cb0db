//! Made data.
use super::Source;
use crate::error::{Error, Result};
pub(super) fn open(spec: &str) -> Result<Source> {
    Err(Error::Data(format!("there is no synthetic data set `{spec}`")))
}
