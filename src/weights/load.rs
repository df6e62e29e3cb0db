//! Bringing a tensor of a file into memory, piece by piece.

use super::{Entry, Storage, TensorFile};
use crate::error::{Error, Result};
use std::os::unix::fs::FileExt;
use tch::{Device, Kind, Tensor};

/// Most bytes that are read at once, unless what lies between two numbers forces more.
const PIECE: usize = 1 << 20;

/// Bytes that are read at once where nothing but a look is wanted: few enough to stay in the cache of a processor.
const LOOKED_AT: usize = 1 << 18;

impl TensorFile {
    /// A tensor of its own kind of numbers, row by row, on the CPU.
    ///
    /// # Errors
    /// [`Error::Weights`] if the file ends too soon, its checksum is wrong, or numbers of this kind are not loaded.
    pub fn tensor(&self, entry: &Entry) -> Result<Tensor> {
        let tensor = self.room(entry)?;
        self.copy_to(entry, &tensor)?;
        Ok(tensor)
    }

    /// A tensor for [`Self::copy_to`], of any values.
    pub(crate) fn room(&self, entry: &Entry) -> Result<Tensor> {
        let kind = self.kind(entry)?;
        let shape: Vec<i64> = entry.shape.iter().map(|size| *size as i64).collect();
        Tensor::f_empty(&shape, (kind, Device::Cpu)).map_err(|error| {
            self.fault(entry, &format!("there is no memory for it: {}", first_line(&error)))
        })
    }

    /// Fills a tensor of equal shape, of any kind, device and strides, with one of the file: nothing but pieces of a few
    /// megabytes is held beside it.
    ///
    /// # Errors
    /// Those of [`Self::tensor`]; [`Error::Weights`] if the shapes differ.
    pub fn copy_to(&self, entry: &Entry, target: &Tensor) -> Result<()> {
        let mut castagnoli = 0;
        let mut crc = flate2::Crc::new();
        let mut check = |bytes: &[u8]| match (entry.crc32c, entry.crc32) {
            (Some(_), _) => castagnoli = crc32c::crc32c_append(castagnoli, bytes),
            (None, Some(_)) => crc.update(bytes),
            (None, None) => {}
        };
        self.copy_seen(entry, target, &mut check)?;
        let found = if entry.crc32c.is_some() { castagnoli } else { crc.sum() };
        match entry.crc32c.or(entry.crc32) {
            Some(expected) if expected != found => Err(self.fault(
                entry,
                &format!("its checksum should be {expected:08x}, found {found:08x}"),
            )),
            _ => Ok(()),
        }
    }

    /// [`Self::copy_to`] without a look at the checksum; of a tensor that is all of its storage `seen` gets every byte, in
    /// the order of the file.
    pub(crate) fn copy_seen(
        &self,
        entry: &Entry,
        target: &Tensor,
        seen: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        let kind = self.kind(entry)?;
        let shape: Vec<i64> = entry.shape.iter().map(|size| *size as i64).collect();
        if target.size() != shape {
            let why = format!("it must have shape {:?}, found {shape:?}", target.size());
            return Err(self.fault(entry, &why));
        }
        let mut copy = Copy { file: self, entry, kind, seen, bytes: Vec::new() };
        if entry.count() > 0 {
            tch::no_grad(|| copy.fill(target, &entry.shape, &entry.strides(), entry.offset()))?;
        }
        Ok(())
    }

    /// Every byte of a tensor that is all of its storage, in pieces that lie in `piece`.
    pub(crate) fn look(
        &self,
        entry: &Entry,
        piece: &mut Vec<u8>,
        seen: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        let (mut at, all) = (0, entry.bytes());
        while at < all {
            piece.resize(LOOKED_AT.min(all - at), 0);
            self.read(entry, at as u64, piece)?;
            seen(piece);
            at += piece.len();
        }
        Ok(())
    }

    /// BLAKE3 (hexadecimal) of every file that belongs to it, in the order of [`Self::files`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn hashes(&self) -> Result<Vec<String>> {
        let mut hashes = Vec::new();
        for (path, file) in &self.files {
            let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
            let mut piece = vec![0; 1 << 20];
            loop {
                match file.read_at(&mut piece, at).map_err(Error::io("read", path))? {
                    0 => break,
                    read => {
                        hasher.update(&piece[..read]);
                        at += read as u64;
                    }
                }
            }
            hashes.push(hasher.finalize().to_hex().to_string());
        }
        Ok(hashes)
    }

    fn kind(&self, entry: &Entry) -> Result<Kind> {
        entry.number.kind().ok_or_else(|| {
            self.fault(entry, &format!("numbers of type {} are not loaded", entry.number.name()))
        })
    }

    fn fault(&self, entry: &Entry, why: &str) -> Error {
        Error::Weights(format!(
            "`{}`, tensor `{}`: {why}",
            self.path().display(),
            entry.full_name()
        ))
    }

    /// Bytes of a storage.
    fn read(&self, entry: &Entry, at: u64, bytes: &mut [u8]) -> Result<()> {
        match &entry.storage {
            Storage::Held(all) => {
                let start = at as usize;
                bytes.copy_from_slice(&all[start..start + bytes.len()]);
                Ok(())
            }
            Storage::At { file, start, .. } => {
                let (path, file) = &self.files[*file];
                file.read_exact_at(bytes, start + at).map_err(|error| {
                    if error.kind() == std::io::ErrorKind::UnexpectedEof {
                        self.fault(entry, "the file ends within it; it changed while it was read")
                    } else {
                        Error::io("read", path)(error)
                    }
                })
            }
        }
    }
}

struct Copy<'a> {
    file: &'a TensorFile,
    entry: &'a Entry,
    kind: Kind,
    seen: &'a mut dyn FnMut(&[u8]),
    /// The piece that is under way.
    bytes: Vec<u8>,
}

impl Copy<'_> {
    /// Fills `target` of that shape with the numbers that lie `strides` apart from `offset` on.
    fn fill(
        &mut self,
        target: &Tensor,
        shape: &[usize],
        strides: &[usize],
        offset: usize,
    ) -> Result<()> {
        let size = self.entry.number.bytes();
        let span = 1 + reach(shape, strides);
        // Along the largest step, what lies between two numbers is least.
        let outer = (0..shape.len())
            .filter(|dimension| shape[*dimension] > 1)
            .max_by_key(|dimension| (strides[*dimension], shape.len() - dimension));
        let Some(outer) = outer.filter(|_| span * size > PIECE) else {
            return self.piece(target, shape, strides, offset, span);
        };
        let mut inner = shape.to_vec();
        inner[outer] = 1;
        let (step, inner_span) = (strides[outer], 1 + reach(&inner, strides));
        let fitting = (PIECE / size).saturating_sub(inner_span) / step.max(1) + 1;
        let mut at = 0;
        while at < shape[outer] {
            let count = fitting.min(shape[outer] - at);
            inner[outer] = count;
            let part = target.narrow(outer as i64, at as i64, count as i64);
            if count == 1 {
                self.fill(&part, &inner, strides, offset + at * step)?;
            } else {
                let span = 1 + reach(&inner, strides);
                self.piece(&part, &inner, strides, offset + at * step, span)?;
            }
            at += count;
        }
        Ok(())
    }

    /// Fills `target` with what lies within `span` numbers.
    fn piece(
        &mut self,
        target: &Tensor,
        shape: &[usize],
        strides: &[usize],
        offset: usize,
        span: usize,
    ) -> Result<()> {
        let size = self.entry.number.bytes();
        let bytes = &mut self.bytes;
        bytes.resize(span * size, 0);
        self.file.read(self.entry, (offset * size) as u64, bytes)?;
        (self.seen)(bytes);
        if self.entry.big_endian && size > 1 {
            bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        if self.kind == Kind::Bool {
            // Any other byte is no value of the type.
            for byte in bytes.iter_mut() {
                *byte = u8::from(*byte != 0);
            }
        }
        let engine = |error: tch::TchError| self.file.fault(self.entry, &first_line(&error));
        let flat = Tensor::f_from_data_size(bytes, &[span as i64], self.kind).map_err(engine)?;
        let whole = |numbers: &[usize]| numbers.iter().map(|n| *n as i64).collect::<Vec<i64>>();
        let part = flat.f_as_strided(whole(shape), whole(strides), None).map_err(engine)?;
        target.shallow_clone().f_copy_(&part).map(drop).map_err(engine)
    }
}

/// How far the last number lies behind the first.
fn reach(shape: &[usize], strides: &[usize]) -> usize {
    shape.iter().zip(strides).map(|(size, stride)| (size - 1) * stride).sum()
}

fn first_line(error: &tch::TchError) -> String {
    let text = error.to_string();
    let text = text.split("Exception raised from").next().unwrap_or(&text);
    text.lines().next().unwrap_or_default().to_owned()
}
