//! Seeded mutations of small valid files: what every reader of foreign bytes is tried with.

use crate::random::{Purpose, Scope, Stream};

/// A source of mutants of one file.
pub(crate) struct Mutator<'a> {
    original: &'a [u8],
    draws: Stream,
}

impl<'a> Mutator<'a> {
    /// The same seed gives the same mutants.
    pub(crate) fn new(original: &'a [u8], seed: u64) -> Self {
        Self { original, draws: Stream::open(seed, Purpose::Test, Scope::Item(0)) }
    }

    /// The next mutant: one to four changes, each of bytes, bits, digits, numbers, length or order.
    pub(crate) fn next_mutant(&mut self) -> Vec<u8> {
        let mut bytes = self.original.to_vec();
        for _ in 0..=self.draws.below(4) {
            if bytes.is_empty() {
                break;
            }
            self.change(&mut bytes);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.at(bytes.len());
        match self.draws.below(9) {
            0 | 1 => bytes[at] = self.draws.next_u32() as u8,
            2 => bytes[at] ^= 1 << self.draws.below(8),
            3 => bytes.truncate(at),
            4 => self.number(bytes, at),
            // A digit within a text stays one.
            5 => {
                let digits = bytes.iter().skip(at).position(u8::is_ascii_digit);
                if let Some(ahead) = digits {
                    bytes[at + ahead] = b'0' + self.draws.below(10) as u8;
                }
            }
            6 => {
                let (from, length) = self.piece(bytes.len());
                let piece = bytes[from..from + length].to_vec();
                bytes.splice(at..at, piece);
            }
            7 => {
                let (from, length) = self.piece(bytes.len());
                bytes.drain(from..from + length);
            }
            _ => {
                let (from, length) = self.piece(bytes.len());
                let piece = bytes[from..from + length].to_vec();
                let end = bytes.len().min(at + length);
                bytes[at..end].copy_from_slice(&piece[..end - at]);
            }
        }
    }

    /// Overwrites a number of 1, 2, 4 or 8 bytes, of either order, by one that lies at an edge.
    fn number(&mut self, bytes: &mut [u8], at: usize) {
        let width = 1 << self.draws.below(4);
        let edges = [
            0,
            1,
            0x7f,
            0xff,
            0x7fff_ffff,
            0x8000_0000,
            u64::from(u32::MAX),
            u64::MAX >> 1,
            u64::MAX,
            bytes.len() as u64,
            (bytes.len() - at) as u64 + 1,
        ];
        let value = edges[self.at(edges.len())];
        let mut field = value.to_le_bytes()[..width].to_vec();
        if self.draws.chance(0.5) {
            field.reverse();
        }
        let end = bytes.len().min(at + width);
        bytes[at..end].copy_from_slice(&field[..end - at]);
    }

    fn at(&mut self, length: usize) -> usize {
        self.draws.below(length as u64) as usize
    }

    /// A short run of bytes.
    fn piece(&mut self, length: usize) -> (usize, usize) {
        let from = self.at(length);
        (from, 1 + self.at((length - from).min(600)))
    }
}

mod tests {
    use super::Mutator;
    use crate::data::testing::{copy, golden};
    use crate::data::{Dataset, decode, idx, open, pickle, tar};
    use crate::error::{Error, Result};
    use std::io::Cursor;
    use std::path::Path;

    #[test]
    fn mutants_are_many_and_come_again_under_their_seed() {
        let original: Vec<u8> = (0..200).collect();
        let some = |seed| {
            let mut mutator = Mutator::new(&original, seed);
            (0..200).map(|_| mutator.next_mutant()).collect::<Vec<_>>()
        };
        assert_eq!(some(1), some(1));
        assert_ne!(some(1), some(2));
        let mutants = some(1);
        assert!(mutants.iter().any(|m| m.len() < 200) && mutants.iter().any(|m| m.len() > 200));
        assert!(mutants.iter().filter(|m| **m == original).count() < 20);
    }

    /// Ok or a data error; a panic ends the test by itself.
    fn judged<T>(outcome: Result<T>) -> bool {
        match outcome {
            Ok(_) => true,
            Err(Error::Data(_)) => false,
            Err(other) => panic!("{other:?} is no data error"),
        }
    }

    /// Opens a source and decodes all of it; true if everything was there.
    fn read_all(location: &Path) -> bool {
        let Ok(source) = open(location.to_str().unwrap()).map_err(|e| judged::<()>(Err(e))) else {
            return false;
        };
        let all = |split: &dyn Dataset| {
            (0..split.len()).filter(|index| !judged(split.image(*index))).count() == 0
        };
        source.splits.iter().all(|(_, split)| all(split.as_ref()))
    }

    /// Puts mutants of a file in its place within a data set; some must be refused.
    fn tried(folder: &Path, file: &str, count: usize, mend: impl Fn(&mut Vec<u8>)) {
        let place = folder.join(file);
        let whole = std::fs::read(&place).unwrap();
        assert!(read_all(folder), "{file} is whole");
        let mut mutator = Mutator::new(&whole, 5);
        let mut refused = 0;
        for _ in 0..count {
            let mut mutant = mutator.next_mutant();
            mend(&mut mutant);
            std::fs::write(&place, mutant).unwrap();
            refused += usize::from(!read_all(folder));
        }
        std::fs::write(&place, &whole).unwrap();
        assert!(refused > count / 10 && refused < count, "{file}: {refused} of {count} refused");
    }

    fn set(from: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        copy(&golden(&format!("data/{from}")), folder.path());
        folder
    }

    #[test]
    fn pickles() {
        for name in ["object.0.pickle", "object.2.pickle", "object.4.pickle"] {
            let whole = std::fs::read(golden(&format!("data/{name}"))).unwrap();
            let mut mutator = Mutator::new(&whole, 1);
            let read = (0..10_000).filter(|_| judged(pickle::parse(&mutator.next_mutant(), "x")));
            assert!((100..9_900).contains(&read.count()), "{name}");
        }
    }

    #[test]
    fn cifar_in_both_forms() {
        tried(set("cifar-10/cifar-10-batches-py").path(), "data_batch_3", 1_000, |_| ());
        tried(set("cifar-100/cifar-100-python").path(), "meta", 500, |_| ());
        tried(set("cifar-10/cifar-10-batches-bin").path(), "test_batch.bin", 500, |_| ());
    }

    #[test]
    fn stl10() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [("train_X.bin", vec![7; 2 * 27_648]), ("train_y.bin", vec![1, 10])] {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        tried(folder.path(), "train_y.bin", 500, |_| ());
        tried(folder.path(), "train_X.bin", 200, |_| ());
    }

    #[test]
    fn idx_plain_and_packed() {
        tried(set("MNIST/raw").path(), "train-images-idx3-ubyte", 500, |_| ());
        tried(set("MNIST/raw").path(), "t10k-labels-idx1-ubyte", 500, |_| ());
        let folder = tempfile::tempdir().unwrap();
        for name in ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"] {
            std::fs::copy(golden(&format!("data/{name}")), folder.path().join(name)).unwrap();
        }
        tried(folder.path(), "train-images-idx3-ubyte.gz", 1_000, |_| ());
        let mut mutator = Mutator::new(b"\0\0\x08\x03\0\0\0\x02\0\0\0\x1c\0\0\0\x1c", 2);
        let read = (0..10_000).filter(|_| judged(idx::header(&mutator.next_mutant(), "x")));
        assert!(read.count() > 1_000);
    }

    #[test]
    fn shards() {
        for name in ["gnu.tar", "pax.tar", "ustar.tar"] {
            let whole = std::fs::read(golden(&format!("data/{name}"))).unwrap();
            let mut mutator = Mutator::new(&whole, 4);
            let mut images = 0;
            for number in 0..3_000 {
                let mut mutant = mutator.next_mutant();
                // Headers under a right checksum get further.
                if number % 2 == 0 {
                    for header in mutant.chunks_exact_mut(512).filter(|h| h[257..262] == *b"ustar")
                    {
                        tar::tests::resum(header);
                    }
                }
                let length = mutant.len() as u64;
                let index = tar::index(Cursor::new(&mutant), length);
                images += index.images;
                for record in index.records.iter().filter(|record| record.damage.is_none()) {
                    assert!(record.offset + record.size <= length, "{record:?}");
                    let bytes = &mutant[record.offset as usize..][..record.size as usize];
                    judged(decode::decode(bytes, &record.name));
                }
            }
            assert!(images > 1_000, "{name}: {images}");
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(golden("data/gnu.tar"), folder.path().join("gnu.tar")).unwrap();
        let mutants = std::fs::read(folder.path().join("gnu.tar")).unwrap();
        let mut mutator = Mutator::new(&mutants, 6);
        for _ in 0..300 {
            std::fs::write(folder.path().join("gnu.tar"), mutator.next_mutant()).unwrap();
            read_all(folder.path());
        }
    }

    #[test]
    fn encoded_images() {
        for name in ["baseline.jpg", "progressive.jpg", "cmyk.jpg", "palette.png", "alpha.png"]
            .into_iter()
            .chain(["lossless.webp", "plain.bmp", "plain.ppm", "lzw.tif"])
        {
            let whole = std::fs::read(golden(&format!("decode/{name}"))).unwrap();
            let mut mutator = Mutator::new(&whole, 7);
            let read = (0..400).filter(|_| judged(decode::decode(&mutator.next_mutant(), name)));
            assert!(read.count() < 400, "{name}");
        }
    }
}
