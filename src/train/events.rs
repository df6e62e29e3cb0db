//! The scalars of a run as a TensorBoard event file: `tensorboard --logdir runs` draws the same curves as the report.
//!
//! The format (TensorFlow's `tensorflow/core/util/event.proto`, `tensorflow/core/framework/summary.proto` and
//! `tensorflow/core/lib/io/record_writer.h`): a file is a row of records, each the length of its data as eight bytes,
//! the masked CRC-32C of these eight, the data, and its masked CRC-32C; numbers are little-endian. The data is an `Event`
//! message; the first one of a file names the version of the format.

use crate::error::{Error, Result};
use crate::files::{replace, sync_folder};
use prost::Message;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const PREFIX: &str = "events.out.tfevents.";
const SUFFIX: &str = ".diptych";
/// What a file is written to before it takes its name; TensorBoard does not take it for one of its own.
const PART: &str = "events.part";
const VERSION: &str = "brain.Event:2";
/// A longer record was not written here: its length is damaged.
const LONGEST_RECORD: u64 = 1 << 20;

/// `Event`, as far as it is written here.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// `Summary`: values that belong to one step.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// `Summary.Value` that holds a scalar.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    /// One of a `oneof`, which is written even if it is zero.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// The event file of a run, open for more.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Opens the event file in the folder `run`, for a run that goes on after `first_step` steps.
    ///
    /// There is one file, whole at every moment. Where it holds later steps, which the run will write again, or a record
    /// torn by a kill, what is good of it is copied to a file of a later name and the old one goes; a TensorBoard that is
    /// looking takes the new one up. Otherwise the file is continued. No more than one record is held in memory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(run: &Path, first_step: u64) -> Result<Self> {
        let _ = fs::remove_file(run.join(PART));
        let earlier = own_files(run)?;
        let path = match earlier.last() {
            Some((_, newest)) if copy(newest, first_step, &mut io::sink())? => newest.clone(),
            newest => {
                let path = named(run, seconds().max(0.0) as u64, newest.map(|(number, _)| *number));
                create(&path, |out| {
                    newest.map_or(Ok(()), |(_, old)| copy(old, first_step, out).map(drop))
                })?;
                path
            }
        };
        // The file before, and what a kill left at this place: all of it is in the newest.
        for (_, old) in earlier.iter().filter(|(_, old)| *old != path) {
            fs::remove_file(old).map_err(Error::io("remove", old))?;
        }
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io("open", &path))?;
        Ok(Self { path, file })
    }

    /// Adds the scalars of a step: names as in `metrics.jsonl`, values rounded to the format's 32 bits, those that are
    /// not finite as they are. They are in the file when this returns.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, step: u64, values: &[(String, f64)]) -> Result<()> {
        let value = values
            .iter()
            .map(|(name, value)| Scalar { tag: name.clone(), simple_value: Some(*value as f32) });
        let event = Event {
            wall_time: seconds(),
            step: step as i64,
            file_version: None,
            summary: Some(Summary { value: value.collect() }),
        };
        // One write, so that a kill leaves whole records behind.
        (&self.file).write_all(&record(&event)).map_err(Error::io("write", &self.path))
    }
}

/// Seconds since 1970 by the system's clock, negative before.
fn seconds() -> f64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

/// Our event files in a run folder, with the number in their names, in its order.
fn own_files(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = fs::read_dir(run).map_err(Error::io("read", run))?;
    let mut files: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?;
            let number = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()?;
            Some((number, path))
        })
        .collect();
    files.sort();
    Ok(files)
}

/// The name of a file made at `now`; it comes after `earlier` even if the clock was set back.
fn named(run: &Path, now: u64, earlier: Option<u64>) -> PathBuf {
    let number = earlier.map_or(now, |earlier| now.max(earlier.saturating_add(1)));
    run.join(format!("{PREFIX}{number:010}{SUFFIX}"))
}

/// Makes an event file: its version, and what `fill` adds.
fn create(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let part = path.with_file_name(PART);
    let version = Event {
        wall_time: seconds(),
        step: 0,
        file_version: Some(VERSION.to_owned()),
        summary: None,
    };
    replace(&part, |sibling| {
        let file = File::create(sibling).map_err(Error::io("create", sibling))?;
        let mut out = BufWriter::new(file);
        out.write_all(&record(&version)).map_err(Error::io("write", path))?;
        fill(&mut out)?;
        out.flush().map_err(Error::io("write", path))
    })?;
    fs::rename(&part, path).map_err(Error::io("write", path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Copies the records of `path` up to `last_step`, without its version. True if that is all the file holds.
fn copy(path: &Path, last_step: u64, out: &mut dyn Write) -> Result<bool> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut left = file.metadata().map_err(Error::io("read", path))?.len();
    let mut input = BufReader::new(file);
    let (mut all, mut first) = (true, true);
    while left > 0 {
        let Some(data) = read_record(&mut input, &mut left).map_err(Error::io("read", path))?
        else {
            return Ok(false);
        };
        let Ok(event) = Event::decode(data.as_slice()) else { return Ok(false) };
        all &= first == event.file_version.is_some();
        first = false;
        if event.step > last_step as i64 {
            all = false;
        } else if event.file_version.is_none() {
            out.write_all(&framed(&data)).map_err(Error::io("write", path))?;
        }
    }
    Ok(all && !first)
}

/// The data of the next record; none if it is torn or damaged. `left` counts the bytes down to the end of the file.
fn read_record(input: &mut impl Read, left: &mut u64) -> io::Result<Option<Vec<u8>>> {
    const FRAME: u64 = 16;
    if *left < FRAME {
        return Ok(None);
    }
    let mut head = [0; 12];
    input.read_exact(&mut head)?;
    let (length, check) = head.split_at(8);
    let size = u64::from_le_bytes(length.try_into().expect("eight bytes"));
    if check != masked(length) || size > LONGEST_RECORD || size + FRAME > *left {
        return Ok(None);
    }
    let mut data = vec![0; size as usize];
    let mut check = [0; 4];
    input.read_exact(&mut data)?;
    input.read_exact(&mut check)?;
    *left -= size + FRAME;
    Ok((check == masked(&data)).then_some(data))
}

fn record(event: &Event) -> Vec<u8> {
    framed(&event.encode_to_vec())
}

fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// The CRC-32C of the format, turned by 15 bits and shifted, so that checksums of checksums are not weak
/// (`tensorflow/core/lib/hash/crc32c.h`).
fn masked(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Records made by TensorBoard's own writer, `tests/golden/events.py`.
    fn golden() -> Vec<Value> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/events.json");
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    /// The golden file's spelling of a value: JSON has no NaN.
    fn value(value: &Value) -> f64 {
        value.as_f64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
    }

    #[test]
    fn records_are_those_of_tensorboards_own_writer() {
        let golden = golden();
        for case in &golden {
            let scalars: Vec<Scalar> = case["values"]
                .as_array()
                .unwrap()
                .iter()
                .map(|pair| Scalar {
                    tag: pair[0].as_str().unwrap().to_owned(),
                    simple_value: Some(value(&pair[1]) as f32),
                })
                .collect();
            let event = Event {
                wall_time: case["wall_time"].as_f64().unwrap(),
                step: case["step"].as_i64().unwrap(),
                file_version: case["file_version"].as_str().map(str::to_owned),
                summary: (!scalars.is_empty()).then_some(Summary { value: scalars }),
            };
            let expected = case["record"].as_str().unwrap().as_bytes().chunks(2);
            let expected: Vec<u8> = expected
                .map(|digits| u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap())
                .collect();
            assert_eq!(record(&event), expected, "{case}");
        }
        assert_eq!(golden.len(), 4);
    }

    /// Step, tags and values of every event of the one file in a folder.
    fn stored(run: &Path) -> Vec<(i64, Vec<(String, f32)>)> {
        let files = own_files(run).unwrap();
        assert_eq!(files.len(), 1, "{files:?}");
        let mut left = fs::metadata(&files[0].1).unwrap().len();
        let mut input = BufReader::new(File::open(&files[0].1).unwrap());
        let mut events = Vec::new();
        while left > 0 {
            let data = read_record(&mut input, &mut left).unwrap().expect("a whole record");
            let event = Event::decode(data.as_slice()).unwrap();
            assert_eq!(event.file_version.is_some(), events.is_empty(), "first, and first only");
            assert!(event.wall_time > 1.6e9, "{event:?}");
            let values = event.summary.unwrap_or_default().value;
            let values = values.into_iter().map(|v| (v.tag, v.simple_value.unwrap()));
            events.push((event.step, values.collect()));
        }
        events
    }

    fn steps(run: &Path) -> Vec<i64> {
        stored(run).iter().skip(1).map(|(step, _)| *step).collect()
    }

    fn loss(value: f64) -> Vec<(String, f64)> {
        vec![("train/loss".to_owned(), value)]
    }

    #[test]
    fn what_is_written_is_in_the_file_finite_or_not() {
        let run = tempfile::tempdir().unwrap();
        let events = Events::open(run.path(), 0).unwrap();
        events.write(10, &[("train/loss".into(), 5.25), ("zero/é".into(), 0.0)]).unwrap();
        events.write(20, &[("train/loss".into(), f64::NAN)]).unwrap();
        events.write(30, &[("train/loss".into(), f64::NEG_INFINITY)]).unwrap();
        let stored = stored(run.path());
        assert_eq!(stored[1], (10, vec![("train/loss".into(), 5.25), ("zero/é".into(), 0.0)]));
        assert!(stored[2].1[0].1.is_nan());
        assert!(stored[3].1[0].1 < 0.0 && stored[3].1[0].1.is_infinite());
    }

    #[test]
    fn going_on_neither_repeats_nor_loses_a_step() {
        let run = tempfile::tempdir().unwrap();
        let events = Events::open(run.path(), 0).unwrap();
        for step in [10, 20, 30, 40] {
            events.write(step, &loss(step as f64)).unwrap();
        }
        let whole = own_files(run.path()).unwrap();
        // Nothing is later: the file goes on under its name.
        let events = Events::open(run.path(), 40).unwrap();
        assert_eq!(own_files(run.path()).unwrap(), whole);
        events.write(50, &loss(50.0)).unwrap();
        assert_eq!(steps(run.path()), [10, 20, 30, 40, 50]);
        // Later steps go, and a reader of the old file is led to a new one.
        let events = Events::open(run.path(), 25).unwrap();
        events.write(30, &loss(3.0)).unwrap();
        assert_eq!(steps(run.path()), [10, 20, 30]);
        assert!(own_files(run.path()).unwrap() > whole);
        // From the start again: nothing is kept.
        Events::open(run.path(), 0).unwrap();
        assert!(steps(run.path()).is_empty());
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn what_a_kill_tore_is_cut_and_what_damage_hides_too() {
        let run = tempfile::tempdir().unwrap();
        let events = Events::open(run.path(), 0).unwrap();
        for step in [10, 20, 30] {
            events.write(step, &loss(1.0)).unwrap();
        }
        let path = own_files(run.path()).unwrap().remove(0).1;
        let whole = fs::read(&path).unwrap();
        let record_size = record(&Event {
            wall_time: 1.0,
            step: 10,
            summary: Some(Summary {
                value: vec![Scalar { tag: "train/loss".into(), simple_value: Some(1.0) }],
            }),
            file_version: None,
        })
        .len();
        for cut in 1..=record_size {
            let run = tempfile::tempdir().unwrap();
            let torn = run.path().join(path.file_name().unwrap());
            fs::write(&torn, &whole[..whole.len() - cut]).unwrap();
            let events = Events::open(run.path(), 30).unwrap();
            assert_eq!(steps(run.path()), [10, 20], "{cut} bytes cut off");
            events.write(30, &loss(2.0)).unwrap();
            assert_eq!(steps(run.path()), [10, 20, 30]);
        }
        // Any one flipped byte is noticed; what lies before it stays.
        for place in (0..whole.len()).step_by(7) {
            let run = tempfile::tempdir().unwrap();
            let mut bytes = whole.clone();
            bytes[place] ^= 0x40;
            fs::write(run.path().join(path.file_name().unwrap()), &bytes).unwrap();
            Events::open(run.path(), 30).unwrap();
            let kept = steps(run.path());
            assert!([10, 20, 30].starts_with(&kept) && kept.len() < 3, "{place}: {kept:?}");
        }
    }

    #[test]
    fn a_kill_between_the_new_file_and_the_old_ones_end_leaves_no_step_twice() {
        let run = tempfile::tempdir().unwrap();
        Events::open(run.path(), 0).unwrap().write(10, &loss(1.0)).unwrap();
        let (number, old) = own_files(run.path()).unwrap().remove(0);
        fs::copy(&old, named(run.path(), number, Some(number))).unwrap();
        fs::write(run.path().join(PART), "half").unwrap();
        fs::write(run.path().join("events.out.tfevents.7.elsewhere"), "not ours").unwrap();
        Events::open(run.path(), 10).unwrap().write(20, &loss(1.0)).unwrap();
        assert_eq!(steps(run.path()), [10, 20]);
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 2, "a foreign file stays");
    }

    #[test]
    fn names_grow_even_if_the_clock_was_set_back() {
        let name = |now, earlier| named(Path::new(""), now, earlier).display().to_string();
        assert_eq!(name(1_763_000_000, None), "events.out.tfevents.1763000000.diptych");
        assert_eq!(name(5, Some(1_763_000_000)), "events.out.tfevents.1763000001.diptych");
        assert_eq!(name(0, None), "events.out.tfevents.0000000000.diptych");
    }

    #[test]
    fn a_folder_that_is_not_there_is_told() {
        let error = Events::open(Path::new("no/such/run"), 0).unwrap_err();
        assert!(error.to_string().contains("no/such/run"), "{error}");
    }
}
