//! Pickles of names and tensors, as PyTorch (protocol 2) and numpy (protocol 3) write them.

use super::item::{Item, Value};
use std::io::{self, Write};

/// A pickle being written.
pub(super) struct Pickle<W: Write>(W);

impl<W: Write> Pickle<W> {
    pub(super) fn new(mut out: W, protocol: u8) -> io::Result<Self> {
        out.write_all(&[0x80, protocol])?;
        Ok(Self(out))
    }

    pub(super) fn raw(&mut self, opcodes: &[u8]) -> io::Result<()> {
        self.0.write_all(opcodes)
    }

    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        self.raw(b"X")?;
        self.raw(&(text.len() as u32).to_le_bytes())?;
        self.raw(text.as_bytes())
    }

    fn number(&mut self, value: usize) -> io::Result<()> {
        match value {
            0..=0xff => self.raw(&[b'K', value as u8]),
            0x100..=0x7fff_ffff => {
                self.raw(b"J")?;
                self.raw(&(value as i32).to_le_bytes())
            }
            // One byte more than the highest, which would make it negative.
            _ => {
                self.raw(&[0x8a, 9])?;
                self.raw(&(value as u64).to_le_bytes())?;
                self.raw(&[0])
            }
        }
    }

    fn tuple(&mut self, values: &[usize]) -> io::Result<()> {
        self.raw(b"(")?;
        values.iter().try_for_each(|value| self.number(*value))?;
        self.raw(b"t")
    }

    /// A call of PyTorch that makes a tensor of the storage `key`.
    pub(super) fn torch_tensor(&mut self, key: &str, item: &Item<'_>) -> io::Result<()> {
        self.raw(b"ctorch._utils\n_rebuild_tensor_v2\n((")?;
        self.text("storage")?;
        self.raw(match item.value {
            Value::Floats(_) => b"ctorch\nFloatStorage\n",
            Value::Counter => b"ctorch\nLongStorage\n".as_slice(),
        })?;
        self.text(key)?;
        self.text("cpu")?;
        self.number(item.count())?;
        self.raw(b"tQK\0")?;
        self.tuple(&item.shape)?;
        let mut strides = vec![1; item.shape.len()];
        for place in (1..strides.len()).rev() {
            strides[place - 1] = strides[place] * item.shape[place];
        }
        self.tuple(&strides)?;
        self.raw(b"\x89ccollections\nOrderedDict\n)RtR")
    }

    /// A numpy array of f32.
    ///
    /// # Errors
    /// Those of writing, and one for an array of 4 GiB or more.
    pub(super) fn array(&mut self, item: &Item<'_>) -> io::Result<()> {
        let bytes = item.bytes();
        let length = u32::try_from(bytes.len())
            .map_err(|_| io::Error::other(format!("`{}` takes 4 GiB or more", item.name)))?;
        self.raw(
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R(K\x01",
        )?;
        self.tuple(&item.shape)?;
        self.raw(b"cnumpy\ndtype\n")?;
        self.text("f4")?;
        self.raw(b"K\0K\x01\x87R(K\x03")?;
        self.text("<")?;
        self.raw(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89B")?;
        self.raw(&length.to_le_bytes())?;
        self.raw(&bytes)?;
        self.raw(b"tb")
    }

    pub(super) fn end(mut self) -> io::Result<W> {
        self.raw(b".")?;
        self.0.flush()?;
        Ok(self.0)
    }
}
