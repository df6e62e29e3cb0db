//! The state of a run on disk: every tensor by name, one line of sorted JSON, and a checksum.
//!
//! A file holds state only: no time, no path, no name of a run, so two runs of the same recipe end with the same bytes.
//! `last.safetensors` exists from the first checkpoint on: the new one is written beside it and synced, the old one is
//! kept as `previous.safetensors`, then the new one takes its name.

use super::journal::Journal;
use crate::error::{Error, Result};
use crate::files::sync_folder;
use crate::weights::{Entry, Number, TensorFile};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use tch::{Kind, Tensor};

/// Version of the checkpoint format; a newer one in a file is an error.
pub const FORMAT: u32 = 1;

/// The way out of a file of a newer format.
const NEWER: &str = "use a newer diptych";

/// Bytes of a tensor that are hashed or written at once.
const PIECE: i64 = 1 << 20;

/// The one metadata key of a checkpoint, since a map of several is written in random order.
pub const KEY: &str = "diptych";

/// What a checkpoint says about itself beside its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// Optimizer steps taken.
    pub step: u64,
    /// What it takes to build and feed the backbone: its settings and its preprocessing.
    pub model: serde_json::Value,
    /// What happened on the way.
    #[serde(default)]
    pub journal: Journal,
    /// BLAKE3 of all tensors, see [`hash`].
    pub checksum: String,
}

/// A checkpoint in memory.
#[derive(Debug)]
pub struct Checkpoint {
    /// What it says about itself.
    pub header: Header,
    /// Tensors by name, on the CPU.
    pub tensors: BTreeMap<String, Tensor>,
}

/// BLAKE3 (hexadecimal) over name, type, shape and bytes of every tensor, sorted by name. Equal for equal values in any
/// memory layout and on any device.
pub fn hash<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> String {
    let sorted: BTreeMap<&str, &Tensor> = tensors.into_iter().collect();
    let (mut hasher, mut piece) = (blake3::Hasher::new(), Vec::new());
    for (name, tensor) in sorted {
        begin(&mut hasher, name, tensor.kind(), &tensor.size());
        let Ok(()) = pieces::<Infallible>(tensor, &mut piece, &mut |bytes| {
            hasher.update(bytes);
            Ok(())
        });
    }
    hasher.finalize().to_hex().to_string()
}

/// What is hashed before the bytes of a tensor.
fn begin(hasher: &mut blake3::Hasher, name: &str, kind: Kind, shape: &[i64]) {
    hasher.update(format!("{name}\0{kind:?}\0{shape:?}\0").as_bytes());
}

/// The bytes of a tensor in row-major order, in pieces that stay in the cache of a processor: a kernel that lies
/// channels-last is copied on the way.
fn pieces<E>(
    tensor: &Tensor,
    piece: &mut Vec<u8>,
    put: &mut dyn FnMut(&[u8]) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let mut put_part = |part: &Tensor| {
        let count = part.numel();
        piece.resize(count * part.kind().elt_size_in_bytes(), 0);
        part.contiguous().copy_data_u8(piece, count);
        put(piece)
    };
    let bytes = (tensor.numel() * tensor.kind().elt_size_in_bytes()).max(1) as i64;
    let rows = tensor.size().first().copied().unwrap_or(0);
    let at_once = (PIECE * rows / bytes).max(1);
    if rows <= at_once {
        return put_part(tensor);
    }
    let tensor = tensor.detach();
    (0..rows)
        .step_by(at_once as usize)
        .try_for_each(|first| put_part(&tensor.narrow(0, first, at_once.min(rows - first))))
}

/// Writes `tensors` to `folder/last.safetensors` as described above.
///
/// # Errors
/// [`Error::Io`] when the disk is full or the folder read-only; the last good checkpoint is then untouched.
pub fn save(
    folder: &Path,
    step: u64,
    (model, journal): (&serde_json::Value, &Journal),
    tensors: &BTreeMap<String, Tensor>,
) -> Result<()> {
    let last = folder.join("last.safetensors");
    let previous = folder.join("previous.safetensors");
    let fresh = folder.join("last.safetensors.tmp");
    write(&fresh, step, (model, journal), tensors).inspect_err(|_| {
        // What is left of a failed write is of no use and may be what fills the disk.
        let _ = fs::remove_file(&fresh);
    })?;
    if last.exists() {
        let link = folder.join("previous.safetensors.tmp");
        let _ = fs::remove_file(&link);
        fs::hard_link(&last, &link)
            .or_else(|_| fs::copy(&last, &link).map(drop))
            .map_err(Error::io("write", &link))?;
        fs::rename(&link, &previous).map_err(Error::io("write", &previous))?;
    }
    fs::rename(&fresh, &last).map_err(Error::io("write", &last))?;
    sync_folder(folder)
}

/// Writes `tensors` as a file of its own, with everything [`save`] puts into a checkpoint: a model without a run.
///
/// # Errors
/// [`Error::Io`]; a file that was there is then untouched.
pub fn save_model(
    path: &Path,
    (model, journal): (&serde_json::Value, &Journal),
    tensors: &BTreeMap<String, Tensor>,
) -> Result<()> {
    crate::files::replace(path, |sibling| write(sibling, 0, (model, journal), tensors))
}

/// Keeps the current `last` under another name (a hard link, so it costs no space until `last` moves on).
///
/// # Errors
/// [`Error::Io`].
pub fn keep(folder: &Path, name: &str) -> Result<()> {
    let kept = folder.join(name);
    let _ = fs::remove_file(&kept);
    let last = folder.join("last.safetensors");
    fs::hard_link(&last, &kept)
        .or_else(|_| fs::copy(&last, &kept).map(drop))
        .map_err(Error::io("write", &kept))
}

/// A checkpoint on disk, of which the header has been read: what is wanted of it is loaded, and all of it is verified.
#[derive(Debug)]
pub struct Stored {
    /// What it says about itself.
    pub header: Header,
    file: TensorFile,
}

impl Stored {
    /// Opens a checkpoint file and reads its header.
    ///
    /// # Errors
    /// [`Error::Weights`] when the header is damaged, not ours, or of a newer format; [`Error::Io`] when it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(TensorFile::open_safetensors(path)?)
    }

    /// The same of a file that is open already.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn of(file: TensorFile) -> Result<Self> {
        let path = file.path();
        let wrong =
            |what: String| Error::Weights(format!("checkpoint `{}` {what}", path.display()));
        let header = file.notes().get(KEY).ok_or_else(|| {
            wrong("was not written by diptych: it has no `diptych` metadata".to_owned())
        })?;
        let header: Header = serde_json::from_str(header)
            .map_err(|error| wrong(format!("has an unreadable header: {error}")))?;
        if header.format > FORMAT {
            return Err(wrong(format!(
                "has format {}, this program reads up to {FORMAT}; {NEWER}",
                header.format
            )));
        }
        for entry in file.entries() {
            use Number::{Bf16, F16, F32, F64, I64, U8};
            if !matches!(entry.number, F32 | F64 | F16 | Bf16 | I64 | U8) {
                return Err(wrong(format!(
                    "has a tensor of a type that is not kept: `{}` of {}",
                    entry.name,
                    entry.number.name()
                )));
            }
        }
        Ok(Self { header, file })
    }

    /// Its tensors by name, each with its shape.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.file.entries().iter().map(|entry| (entry.name.as_str(), entry.shape.as_slice()))
    }

    /// The tensors that are `wanted`, on the CPU, and the filled ones of `targets`, which must have the shapes of the file.
    /// The rest is only verified, a piece at a time: no more is held than what is returned and a few megabytes.
    ///
    /// # Errors
    /// [`Error::Weights`] if a shape is another one, or the checksum is wrong: nothing that was filled may be used then.
    pub fn load(
        &self,
        targets: &BTreeMap<&str, &Tensor>,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, Tensor>> {
        let mut sorted: Vec<&Entry> = self.file.entries().iter().collect();
        sorted.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let (mut hasher, mut piece) = (blake3::Hasher::new(), Vec::new());
        let mut loaded = BTreeMap::new();
        for entry in sorted {
            let shape: Vec<i64> = entry.shape.iter().map(|size| *size as i64).collect();
            let kind = entry.number.kind().expect("opening admits these types only");
            begin(&mut hasher, &entry.name, kind, &shape);
            let mut seen = |bytes: &[u8]| {
                hasher.update(bytes);
            };
            if let Some(target) = targets.get(entry.name.as_str()) {
                self.file.copy_seen(entry, target, &mut seen)?;
            } else if wanted(&entry.name) {
                let tensor = self.file.room(entry)?;
                self.file.copy_seen(entry, &tensor, &mut seen)?;
                loaded.insert(entry.name.clone(), tensor);
            } else {
                self.file.look(entry, &mut piece, &mut seen)?;
            }
        }
        let found = hasher.finalize().to_hex().to_string();
        if found != self.header.checksum {
            return Err(Error::Weights(format!(
                "checkpoint `{}` is damaged: its checksum should be {}, found {found}",
                self.file.path().display(),
                self.header.checksum
            )));
        }
        Ok(loaded)
    }
}

/// Reads and verifies all of one checkpoint file.
///
/// # Errors
/// [`Error::Weights`] when it is damaged, not ours, or of a newer format; [`Error::Io`] when it cannot be read.
pub fn load(path: &Path) -> Result<Checkpoint> {
    let stored = Stored::open(path)?;
    let tensors = stored.load(&BTreeMap::new(), &|_| true)?;
    Ok(Checkpoint { header: stored.header, tensors })
}

/// Name that a damaged `last` gets when `previous` stands in for it.
const DAMAGED: &str = "damaged.safetensors";

/// Loads `last`, or, when that is damaged, `previous` with a warning that says so, and moves the damaged one aside. `None`
/// when there is no checkpoint.
///
/// # Errors
/// [`Error::Weights`] naming both when neither can be used, or when `last` is of a newer format.
pub fn load_latest(folder: &Path, warn: &mut dyn FnMut(String)) -> Result<Option<Checkpoint>> {
    let last = folder.join("last.safetensors");
    let previous = folder.join("previous.safetensors");
    if !last.exists() && !previous.exists() {
        return Ok(None);
    }
    match load(&last) {
        Ok(checkpoint) => Ok(Some(checkpoint)),
        // Going on from the one before would overwrite the work of a newer program.
        Err(newer) if newer.to_string().contains(NEWER) => Err(newer),
        Err(first) => match load(&previous) {
            Ok(checkpoint) => {
                warn(format!("{first}; going on from `{}`", previous.display()));
                if last.exists() {
                    // The next one would put it in the place of the only good one.
                    let aside = folder.join(DAMAGED);
                    fs::rename(&last, &aside).map_err(Error::io("rename", &last))?;
                }
                Ok(Some(checkpoint))
            }
            Err(second) => Err(Error::Weights(format!(
                "{first}; {second}; start again with --fresh, which keeps the old folder"
            ))),
        },
    }
}

fn write(
    path: &Path,
    step: u64,
    (model, journal): (&serde_json::Value, &Journal),
    tensors: &BTreeMap<String, Tensor>,
) -> Result<()> {
    let checksum = hash(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)));
    let journal = journal.clone();
    let header = Header { format: FORMAT, step, model: sorted(model), journal, checksum };
    let text = serde_json::to_string(&header).map_err(|error| Error::Run(error.to_string()))?;
    write_safetensors(path, (KEY, text), tensors).map_err(Error::io("write", path))
}

/// What `safetensors::serialize_to_file` writes, a piece of a tensor at a time: that holds a copy of each whole one.
fn write_safetensors(
    path: &Path,
    (key, text): (&str, String),
    tensors: &BTreeMap<String, Tensor>,
) -> std::io::Result<()> {
    let mut sorted: Vec<(&String, Dtype, &Tensor)> =
        tensors.iter().map(|(name, tensor)| (name, dtype(tensor.kind()), tensor)).collect();
    // The widest numbers first; of one width by name, as they come.
    sorted.sort_by_key(|(_, dtype, _)| Reverse(*dtype));
    let mut end = 0;
    let infos = sorted.iter().map(|(name, dtype, tensor)| {
        let start = end;
        end += tensor.numel() * tensor.kind().elt_size_in_bytes();
        let shape = tensor.size().into_iter().map(|size| size as usize).collect();
        ((*name).clone(), TensorInfo { dtype: *dtype, shape, data_offsets: (start, end) })
    });
    let metadata = HashMap::from([(key.to_owned(), text)]);
    let metadata = Metadata::new(Some(metadata), infos.collect()).map_err(std::io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let mut piece = Vec::new();
    for (_, _, tensor) in sorted {
        pieces(tensor, &mut piece, &mut |bytes| file.write_all(bytes))?;
    }
    file.sync_all()
}

fn dtype(kind: Kind) -> Dtype {
    match kind {
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        Kind::Int64 => Dtype::I64,
        Kind::Uint8 => Dtype::U8,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Half => Dtype::F16,
        other => unreachable!("no state is kept as {other:?}"),
    }
}

/// The same value with the keys of every object in order.
fn sorted(value: &serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(map) => {
            let ordered: BTreeMap<_, _> = map.iter().map(|(k, v)| (k.clone(), sorted(v))).collect();
            serde_json::Value::Object(ordered.into_iter().collect())
        }
        serde_json::Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

/// The bytes of a tensor in row-major order, wherever it lies.
pub fn bytes(tensor: &Tensor) -> Vec<u8> {
    let count = tensor.numel();
    let mut bytes = vec![0u8; count * tensor.kind().elt_size_in_bytes()];
    tensor.contiguous().copy_data_u8(&mut bytes, count);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::mutation::Mutator;
    use safetensors::tensor::View;
    use std::borrow::Cow;
    use tch::Device;

    struct Written<'a>(&'a Tensor, Vec<usize>);

    impl<'a> Written<'a> {
        fn new(tensor: &'a Tensor) -> Self {
            Self(tensor, tensor.size().into_iter().map(|size| size as usize).collect())
        }
    }

    impl View for Written<'_> {
        fn dtype(&self) -> Dtype {
            dtype(self.0.kind())
        }

        fn shape(&self) -> &[usize] {
            &self.1
        }

        fn data(&self) -> Cow<'_, [u8]> {
            bytes(self.0).into()
        }

        fn data_len(&self) -> usize {
            bytes(self.0).len()
        }
    }

    #[test]
    fn a_file_is_to_the_byte_what_the_reference_writes() {
        let folder = tempfile::tempdir().unwrap();
        let mut tensors = state(0.25);
        let long = Tensor::arange(1_500_000, (Kind::Float, Device::Cpu)).view([3, 500, 10, 100]);
        for (name, kind) in [
            ("half", Kind::Half),
            ("bf", Kind::BFloat16),
            ("f64", Kind::Double),
            ("u8", Kind::Uint8),
        ] {
            tensors.insert(name.to_owned(), Tensor::arange(6, (kind, Device::Cpu)).view([2, 3]));
        }
        tensors.insert("none".to_owned(), Tensor::zeros([5, 0, 2], (Kind::Float, Device::Cpu)));
        tensors.insert("one".to_owned(), Tensor::from(3.5f32));
        tensors.insert("long".to_owned(), long.permute([1, 0, 3, 2]));
        let [ours, theirs] = ["ours", "theirs"].map(|name| folder.path().join(name));
        write_safetensors(&ours, (KEY, "{\"a\":1}".to_owned()), &tensors).unwrap();
        let views = tensors.iter().map(|(name, tensor)| (name.clone(), Written::new(tensor)));
        let metadata = HashMap::from([(KEY.to_owned(), "{\"a\":1}".to_owned())]);
        safetensors::serialize_to_file(views, Some(metadata), &theirs).unwrap();
        assert!(fs::read(ours).unwrap() == fs::read(theirs).unwrap());
        let mut whole = blake3::Hasher::new();
        begin(&mut whole, "long", Kind::Float, &[500, 3, 100, 10]);
        whole.update(&bytes(&tensors["long"]));
        assert_eq!(hash([("long", &tensors["long"])]), whole.finalize().to_hex().to_string());
    }

    fn state(value: f64) -> BTreeMap<String, Tensor> {
        let vector = Tensor::full([3], value, (Kind::Float, Device::Cpu));
        let kernel = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([2, 3, 2, 2]);
        let kernel = kernel.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        let count = Tensor::from_slice(&[7i64]);
        [("b.vector", vector), ("a.kernel", kernel), ("count", count)]
            .map(|(name, tensor)| (name.to_owned(), tensor))
            .into()
    }

    #[test]
    fn what_is_saved_is_loaded_and_the_file_is_always_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let model = serde_json::json!({"z": 1, "a": {"d": 2, "c": 3}});
        save(folder.path(), 12, (&model, &Journal::default()), &state(0.5)).unwrap();
        let loaded =
            load_latest(folder.path(), &mut |warning| panic!("{warning}")).unwrap().unwrap();
        assert_eq!(loaded.header.step, 12);
        assert_eq!(loaded.header.model, model);
        assert_eq!(loaded.tensors, state(0.5));
        let first = fs::read(folder.path().join("last.safetensors")).unwrap();
        save(folder.path(), 12, (&model, &Journal::default()), &state(0.5)).unwrap();
        assert_eq!(first, fs::read(folder.path().join("last.safetensors")).unwrap());
        assert!(String::from_utf8_lossy(&first).contains(r#"{\"a\":{\"c\":3,\"d\":2},\"z\":1}"#));
    }

    #[test]
    fn a_damaged_last_falls_back_to_previous_with_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let model = serde_json::Value::Null;
        save(folder.path(), 1, (&model, &Journal::default()), &state(1.0)).unwrap();
        save(folder.path(), 2, (&model, &Journal::default()), &state(2.0)).unwrap();
        let last = folder.path().join("last.safetensors");
        let whole = fs::read(&last).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for damage in [&whole[..whole.len() / 2], &whole[..4], &flipped[..]] {
            let _ = fs::remove_file(&last); // never write through the hard link
            fs::write(&last, damage).unwrap();
            let mut warnings = Vec::new();
            let loaded = load_latest(folder.path(), &mut |w| warnings.push(w)).unwrap().unwrap();
            assert_eq!(loaded.header.step, 1);
            assert_eq!(warnings.len(), 1);
            assert!(warnings[0].contains("is damaged"), "{warnings:?}");
            // The good one stays the one before, whatever is saved next.
            assert_eq!(fs::read(folder.path().join(DAMAGED)).unwrap(), damage);
            assert!(!last.exists());
        }
        fs::write(folder.path().join("previous.safetensors"), b"x").unwrap();
        assert!(matches!(load_latest(folder.path(), &mut |_| ()), Err(Error::Weights(_))));
    }

    #[test]
    fn foreign_and_newer_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("foreign.safetensors");
        Tensor::write_safetensors(&[("x", Tensor::from(1.0f32))], &path).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("was not written by diptych"));
        let header = r#"{"format":99,"step":0,"model":null,"checksum":""}"#.to_owned();
        let tensors = state(1.0);
        let views = tensors.iter().map(|(name, tensor)| (name.clone(), Written::new(tensor)));
        let metadata = Some(HashMap::from([(KEY.to_owned(), header)]));
        safetensors::serialize_to_file(views, metadata, &path).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("format 99"));
        assert!(load_latest(folder.path(), &mut |warning| panic!("{warning}")).unwrap().is_none());
    }

    #[test]
    fn the_hash_sees_values_names_and_shapes_but_not_the_layout() {
        let of =
            |state: &BTreeMap<String, Tensor>| hash(state.iter().map(|(n, t)| (n.as_str(), t)));
        let reference = of(&state(1.0));
        assert_ne!(reference, of(&state(1.5)));
        let mut renamed = state(1.0);
        let count = renamed.remove("count").unwrap();
        renamed.insert("counts".to_owned(), count);
        assert_ne!(reference, of(&renamed));
        let mut plain = state(1.0);
        let kernel = plain["a.kernel"].contiguous();
        plain.insert("a.kernel".to_owned(), kernel);
        assert_eq!(reference, of(&plain));
    }

    #[test]
    fn no_mutant_panics_or_holds_more_than_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let model = serde_json::json!({"backbone": {"name": "resnet18"}});
        save(folder.path(), 3, (&model, &Journal::default()), &state(1.0)).unwrap();
        let path = folder.path().join("last.safetensors");
        let whole = fs::read(&path).unwrap();
        let mut mutator = Mutator::new(&whole, 8);
        let mut read = 0;
        for _ in 0..5_000 {
            let mutant = mutator.next_mutant();
            fs::write(&path, &mutant).unwrap();
            match load(&path) {
                Ok(found) => {
                    read += 1;
                    let held: usize = found.tensors.values().map(|t| bytes(t).len()).sum();
                    assert!(held <= mutant.len(), "{held} bytes from {}", mutant.len());
                }
                Err(Error::Weights(message)) => {
                    assert!(message.contains("last.safetensors"), "{message}");
                }
                Err(other) => panic!("{other:?} does not blame the checkpoint"),
            }
        }
        assert!((50..2_500).contains(&read), "{read} of 5000 read");
    }
}
