//! Each query's own numbers, an array `[steps, S, 5]` per epoch: `scores/score_001.npy`.
//!
//! The layout of the published runs (DTennant/CL-Visualizing-Feature-Transformation, `memory/mem_moco.py`): mean and
//! variance of the negatives, positive, mean exp(s/τ), exp(s⁺/τ), all in f32 here, where the published ones round the first
//! three to f16. A step that was left out, a query that a small batch does not have, and what a method does not have are
//! NaN, so that the place of a row is its step. The file is a valid one after every step.

use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes before the numbers; the format wants a multiple of 64.
const HEADER: u64 = 128;

/// Writes rows into the file of their epoch.
#[derive(Debug)]
pub(super) struct Raw {
    folder: PathBuf,
    queries: usize,
    steps_per_epoch: u64,
}

impl Raw {
    pub(super) fn new(folder: PathBuf, queries: usize, steps_per_epoch: u64) -> Self {
        Self { folder, queries, steps_per_epoch }
    }

    /// Writes the numbers of the step that was the `step`-th of the run, from 1.
    pub(super) fn write(&self, step: u64, each: &[[f64; 5]]) -> Result<()> {
        let (epoch, place) = ((step - 1) / self.steps_per_epoch, (step - 1) % self.steps_per_epoch);
        let path = self.folder.join(name(epoch));
        fs::create_dir_all(&self.folder).map_err(Error::io("create", &self.folder))?;
        let row = row_bytes(self.queries);
        let filled = |file: &mut File| {
            let length = file.metadata()?.len();
            // Another number of queries makes another array.
            if length > 0 && read_header(&path).map(|(_, queries)| queries) != Some(self.queries) {
                file.set_len(0)?;
            }
            let start = HEADER + place * row;
            let length = file.metadata()?.len().max(HEADER);
            file.set_len(length.min(start))?;
            file.seek(SeekFrom::Start(length.min(start)))?;
            let missing = start.saturating_sub(length) / 4;
            let mut bytes: Vec<u8> = (0..missing).flat_map(|_| f32::NAN.to_le_bytes()).collect();
            let nothing = [f64::NAN; 5];
            let rows = (0..self.queries).map(|query| each.get(query).unwrap_or(&nothing));
            bytes.extend(rows.flatten().flat_map(|value| (*value as f32).to_le_bytes()));
            file.write_all(&bytes)?;
            // Last, so that the header never promises more than there is.
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header(place + 1, self.queries))
        };
        let opened =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        opened.and_then(|mut file| filled(&mut file)).map_err(Error::io("write", &path))
    }
}

/// Takes what belongs to steps after `step` out of the files.
pub(super) fn cut_back(folder: &Path, step: u64, steps_per_epoch: u64) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    let (epoch, kept) = (step / steps_per_epoch, step % steps_per_epoch);
    for entry in entries.filter_map(std::result::Result::ok) {
        let found = entry.file_name().into_string().ok();
        let found = found.as_deref().and_then(|name| {
            name.strip_prefix("score_")?.strip_suffix(".npy")?.parse::<u64>().ok()?.checked_sub(1)
        });
        let path = entry.path();
        let cut = |steps: u64, queries: usize| {
            let mut file = OpenOptions::new().write(true).open(&path)?;
            file.write_all(&header(steps, queries))?;
            file.set_len(HEADER + steps * row_bytes(queries))
        };
        match found {
            Some(found) if found > epoch || (found == epoch && kept == 0) => {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
            Some(found) if found == epoch => {
                if let Some((steps, queries)) = read_header(&path) {
                    cut(steps.min(kept), queries).map_err(Error::io("cut", &path))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The file of an epoch, from 0.
fn name(epoch: u64) -> String {
    format!("score_{:03}.npy", epoch + 1)
}

fn row_bytes(queries: usize) -> u64 {
    queries as u64 * 5 * 4
}

/// The header of an array of f32 `[steps, queries, 5]` (format 1.0), padded to [`HEADER`] bytes.
fn header(steps: u64, queries: usize) -> Vec<u8> {
    let text =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({steps}, {queries}, 5), }}");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((HEADER as u16 - 10).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.resize(HEADER as usize - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// Steps and queries of a file of ours.
fn read_header(path: &Path) -> Option<(u64, usize)> {
    let mut file = File::open(path).ok()?;
    let mut bytes = [0; HEADER as usize];
    file.read_exact(&mut bytes).ok()?;
    let text = std::str::from_utf8(&bytes[10..]).ok()?;
    let shape = text.split_once('(')?.1.split_once(", 5)")?.0;
    let (steps, queries) = shape.split_once(", ")?;
    let (steps, queries) = (steps.parse().ok()?, queries.parse().ok()?);
    let whole = file.metadata().ok()?.len() >= HEADER + steps * row_bytes(queries);
    whole.then_some((steps, queries))
}
