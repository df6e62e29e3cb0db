//! How good a representation is: features of a frozen backbone, and protocols that turn them into a number.
//!
//! [`features`] runs a network over a data set once and keeps the result; [`knn`] and [`linear`] judge the stored
//! features; [`scores`] and [`interval`] say what came of it; [`record`] writes down a number with everything that made
//! it. Nothing here knows a network: whoever calls hands in a closure from pixels to features.

pub mod features;
pub mod interval;
pub mod knn;
pub mod linear;
pub mod neighbours;
pub mod record;
pub mod run;
pub mod scores;
pub mod weights;

pub use features::{Damaged, Description, Features};
pub use knn::Knn;
pub use linear::Linear;
pub use record::{DataUsed, Measure, Record, WeightsUsed};
pub use scores::Ranks;

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Writes a file so that at every moment the old or the new one is whole: `write` fills a sibling, which is synced and
/// then renamed over `path`.
fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut sibling = path.as_os_str().to_owned();
    sibling.push(format!(".{}.tmp", std::process::id()));
    let sibling = PathBuf::from(sibling);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let written = File::create(&sibling)
        .and_then(|file| file.metadata())
        .map_err(Error::io("create", &sibling))
        .and_then(|fresh| {
            write(&sibling)?;
            // A writer may itself replace the sibling by a file only its owner can read.
            fs::set_permissions(&sibling, fresh.permissions())
                .and_then(|()| File::open(&sibling)?.sync_all())
                .and_then(|()| fs::rename(&sibling, path))
                .and_then(|()| File::open(folder)?.sync_all())
                .map_err(Error::io("write", path))
        });
    if written.is_err() {
        // The error at hand says more than a failure to tidy up would.
        let _ = fs::remove_file(&sibling);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_sibling() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("value.json");
        let put = |text: &'static str| {
            move |sibling: &Path| fs::write(sibling, text).map_err(Error::io("write", sibling))
        };
        replace(&path, put("old")).unwrap();
        let failed = replace(&path, |sibling| {
            put("half")(sibling)?;
            Err(Error::Run("stopped".into()))
        });
        assert_eq!(failed.unwrap_err().to_string(), "stopped");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        replace(&path, put("new")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }
}
