//! Writing files so that nothing is ever half written.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Writes a file so that at every moment the old or the new one is whole: `write` fills a sibling, which is synced and
/// then renamed over `path`. Missing folders are made.
///
/// # Errors
/// [`Error::Io`] or what `write` fails with; the old file is then untouched and the sibling gone.
pub fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
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
                .map_err(Error::io("write", path))?;
            sync_folder(folder)
        });
    if written.is_err() {
        // The error at hand says more than a failure to tidy up would.
        let _ = fs::remove_file(&sibling);
    }
    written
}

/// [`replace`] with the whole content at hand.
///
/// # Errors
/// [`Error::Io`].
pub fn replace_text(path: &Path, text: &str) -> Result<()> {
    replace(path, |sibling| fs::write(sibling, text).map_err(Error::io("write", path)))
}

/// Makes a rename in `folder` survive a power cut.
///
/// # Errors
/// [`Error::Io`].
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(Error::io("sync", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_sibling() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("value.json");
        replace_text(&path, "old").unwrap();
        let failed = replace(&path, |sibling| {
            fs::write(sibling, "half").unwrap();
            Err(Error::Run("stopped".into()))
        });
        assert_eq!(failed.unwrap_err().to_string(), "stopped");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        replace_text(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }
}
