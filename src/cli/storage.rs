//! How fast a folder's storage writes, reads, and opens small files.

use rustix::fs::{Advice, fadvise};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes written and read, unless the time runs out first.
const SIZE: usize = 64 << 20;
const CHUNK: usize = 1 << 20;
/// Small files written and opened, unless the time runs out first, and their size.
const FILES: usize = 256;
const FILE_SIZE: usize = 4 << 10;
/// Writing of either kind stops after this long.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was measured.
pub(super) struct Speed {
    /// Bytes of the large file.
    pub(super) bytes: usize,
    /// Bytes per second until they are on the disk.
    pub(super) write: f64,
    /// Bytes per second; from the page cache where the kernel kept them in spite of being told not to.
    pub(super) read: f64,
    /// Files of 4 KB opened and read, per second; likewise.
    pub(super) opens: f64,
}

/// A folder of our own that goes when it is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Measures in a folder made below `folder` and removed again. Takes at most a few seconds.
pub(super) fn measure(folder: &Path) -> io::Result<Speed> {
    let scratch = Scratch(folder.join(format!(".diptych-doctor-{}", std::process::id())));
    fs::create_dir(&scratch.0)?;
    // Not zeros, which some file systems do not store.
    let mut chunk = vec![0; CHUNK];
    blake3::Hasher::new().finalize_xof().fill(&mut chunk);

    let path = scratch.0.join("large");
    let started = Instant::now();
    let mut file = File::create_new(&path)?;
    let mut bytes = 0;
    while bytes < SIZE && started.elapsed() < PATIENCE {
        file.write_all(&chunk)?;
        bytes += CHUNK;
    }
    file.sync_all()?;
    let write = rate(bytes, started);
    forget(&file);
    drop(file);

    let started = Instant::now();
    let mut file = File::open(&path)?;
    while file.read(&mut chunk)? > 0 {}
    let read = rate(bytes, started);

    let started = Instant::now();
    let mut paths = Vec::new();
    while paths.len() < FILES && (paths.is_empty() || started.elapsed() < PATIENCE) {
        let path = scratch.0.join(paths.len().to_string());
        let mut file = File::create_new(&path)?;
        file.write_all(&chunk[..FILE_SIZE])?;
        file.sync_data()?;
        forget(&file);
        paths.push(path);
    }
    let started = Instant::now();
    for path in &paths {
        File::open(path)?.read_exact(&mut chunk[..FILE_SIZE])?;
    }
    Ok(Speed { bytes, write, read, opens: rate(paths.len(), started) })
}

fn rate(count: usize, started: Instant) -> f64 {
    count as f64 / started.elapsed().as_secs_f64().max(1e-9)
}

/// Asks the kernel to drop what it keeps of a file; it need not.
fn forget(file: &File) {
    let _ = fadvise(file, 0, None, Advice::DontNeed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_measured_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let speed = measure(folder.path()).unwrap();
        assert!(speed.bytes >= CHUNK);
        for rate in [speed.write, speed.read, speed.opens] {
            assert!(rate.is_finite() && rate > 1.0, "{rate}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(measure(&folder.path().join("missing")).is_err());
    }
}
