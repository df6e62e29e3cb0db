//! For tests: a writer of what [`super::Bundle`] reads.

use super::table::{masked, writer};
use super::wire::{Dimension, EntryMessage, Header, Shape, Version};
use prost::Message;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// A bundle in memory: what its index says and the bytes of one data file.
#[derive(Default)]
pub(crate) struct Draft {
    pub(super) entries: BTreeMap<String, EntryMessage>,
    pub(crate) data: Vec<u8>,
}

impl Draft {
    pub(crate) fn of(tensors: &[(String, Tensor)]) -> Self {
        let mut draft = Self::default();
        for (name, tensor) in tensors {
            draft.add(name, tensor);
        }
        draft
    }

    /// Adds a tensor of f32, f64, i64 or bool.
    pub(crate) fn add(&mut self, name: &str, tensor: &Tensor) {
        let dtype = match tensor.kind() {
            Kind::Float => 1,
            Kind::Double => 2,
            Kind::Int64 => 9,
            Kind::Bool => 10,
            Kind::BFloat16 => 14,
            Kind::Half => 19,
            other => panic!("no {other:?} here"),
        };
        let tensor = tensor.contiguous();
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        self.add_bytes(name, dtype, &tensor.size(), &bytes, masked(crc32c::crc32c(&bytes)));
    }

    pub(crate) fn add_bytes(
        &mut self,
        name: &str,
        dtype: i32,
        shape: &[i64],
        bytes: &[u8],
        crc: u32,
    ) {
        let dim = shape.iter().map(|size| Dimension { size: *size }).collect();
        let message = EntryMessage {
            dtype,
            shape: Some(Shape { dim, unknown_rank: false }),
            offset: self.data.len() as i64,
            size: bytes.len() as i64,
            crc32c: crc,
            ..EntryMessage::default()
        };
        self.data.extend(bytes);
        self.entries.insert(name.to_owned(), message);
    }

    /// Adds byte strings `[n]`, each shorter than 128 bytes.
    pub(crate) fn add_strings(&mut self, name: &str, strings: &[&[u8]]) {
        let mut bytes: Vec<u8> = strings.iter().map(|string| string.len() as u8).collect();
        let lengths: Vec<u8> = bytes.iter().flat_map(|n| u32::from(*n).to_le_bytes()).collect();
        let mask = masked(crc32c::crc32c(&lengths)).to_le_bytes();
        bytes.extend(mask);
        bytes.extend(strings.concat());
        let covered = [lengths, mask.to_vec(), strings.concat()].concat();
        let crc = masked(crc32c::crc32c(&covered));
        self.add_bytes(name, 7, &[strings.len() as i64], &bytes, crc);
    }

    pub(crate) fn index(&self) -> Vec<u8> {
        let version = Some(Version { producer: 1, min_consumer: 0 });
        self.index_under(&Header { num_shards: 1, endianness: 0, version })
    }

    pub(super) fn index_under(&self, header: &Header) -> Vec<u8> {
        let mut pairs = vec![(Vec::new(), header.encode_to_vec())];
        let all = self.entries.iter();
        pairs.extend(all.map(|(name, entry)| (name.clone().into_bytes(), entry.encode_to_vec())));
        writer::table(&[&pairs], false)
    }

    /// Writes both files and gives their prefix.
    pub(crate) fn save(&self, folder: &Path, name: &str) -> PathBuf {
        std::fs::write(folder.join(format!("{name}.index")), self.index()).unwrap();
        let data = folder.join(format!("{name}.data-00000-of-00001"));
        std::fs::write(data, &self.data).unwrap();
        folder.join(name)
    }
}
