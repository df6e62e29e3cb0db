//! Any source written to disk, labels included, as `WebDataset` shards: so made data can be kept, looked at and passed on.

use super::{Dataset, Image, Source};
use crate::error::{Error, Result};
use crate::files::{replace, replace_text};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use rayon::prelude::*;
use serde::Serialize;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// Images in a shard, at most.
const SHARD: usize = 10_000;

/// Images encoded together.
const CHUNK: usize = 256;

/// What [`write()`] left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Images that were written.
    pub images: usize,
    /// Images that are damaged and therefore left out.
    pub damaged: Vec<String>,
    /// The shards.
    pub shards: Vec<PathBuf>,
}

/// Writes every image of every split into `folder/SPLIT-000000.tar`, …: `00000000.png` (without loss), `.cls` with the label
/// if there is one, `.json` with the name and with what was put into it ([`Dataset::objects`]). The names of the classes go
/// into `classes.txt`. The same source gives the same bytes. The folder is there when all of it is.
///
/// `progress` is told how many of how many images are done.
///
/// # Errors
/// [`Error::Data`] when the folder holds something already, or the source has constant channels or class names that the format
/// cannot hold; [`Error::Io`].
pub fn write(
    source: &Source,
    folder: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Written> {
    let occupied = std::fs::read_dir(folder).is_ok_and(|mut found| found.next().is_some());
    if occupied || folder.is_file() {
        return Err(Error::Data(format!(
            "`{}` exists and is not empty; give the name of a new folder",
            folder.display()
        )));
    }
    if source.splits.iter().any(|(_, split)| split.constant_channels() > 0) {
        return Err(Error::Data(format!(
            "`{}` has channels beside red, green and blue, which no image file holds; write what it is made of, and put \
             `random-bits:` before the folder",
            source.location
        )));
    }
    if let Some(name) = source
        .classes
        .iter()
        .find(|name| name.trim() != name.as_str() || name.is_empty() || name.contains(['\n', '\r']))
    {
        return Err(Error::Data(format!(
            "class {name:?} has no place in a list of one name a line"
        )));
    }
    if let Some((name, _)) =
        source.splits.iter().find(|(_, split)| !split.is_empty() && split.presence(0).is_some())
    {
        return Err(Error::Data(format!(
            "images of split `{name}` of `{}` may show several classes each, for which these shards have no place",
            source.location
        )));
    }
    // Half a set would open as a smaller one, so it has another name until it is whole.
    let unfinished = beside(folder);
    let _ = std::fs::remove_dir_all(&unfinished);
    let mut written = write_all(source, &unfinished, progress).inspect_err(|_| {
        let _ = std::fs::remove_dir_all(&unfinished);
    })?;
    // An empty folder may be there.
    let _ = std::fs::remove_dir(folder);
    std::fs::rename(&unfinished, folder).map_err(Error::io("rename", &unfinished))?;
    for shard in &mut written.shards {
        *shard = folder.join(shard.file_name().unwrap_or_default());
    }
    Ok(written)
}

/// Where a folder lies until it is whole.
fn beside(folder: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(folder.file_name().unwrap_or_default());
    name.push(".unfinished");
    folder.with_file_name(name)
}

fn write_all(
    source: &Source,
    folder: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Written> {
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    if !source.classes.is_empty() {
        replace_text(&folder.join("classes.txt"), &(source.classes.join("\n") + "\n"))?;
    }
    let all = source.splits.iter().map(|(_, split)| split.len()).sum();
    let mut done = 0;
    let mut written = Written { images: 0, damaged: Vec::new(), shards: Vec::new() };
    for (name, split) in &source.splits {
        for (number, first) in (0..split.len()).step_by(SHARD).enumerate() {
            let path = folder.join(format!("{name}-{number:06}.tar"));
            let range = first..split.len().min(first + SHARD);
            replace(&path, |path| {
                let file = File::create(path).map_err(Error::io("write", path))?;
                let mut shard = tar::Builder::new(BufWriter::new(file));
                for start in range.clone().step_by(CHUNK) {
                    let chunk = start..range.end.min(start + CHUNK);
                    let records: Vec<Result<Record>> = chunk
                        .clone()
                        .into_par_iter()
                        .map(|index| Record::of(split.as_ref(), index))
                        .collect();
                    for record in records {
                        match record {
                            Ok(record) => {
                                record.append(&mut shard).map_err(Error::io("write", path))?;
                                written.images += 1;
                            }
                            Err(Error::Data(reason)) => written.damaged.push(reason),
                            Err(other) => return Err(other),
                        }
                    }
                    done += chunk.len();
                    progress(done, all);
                }
                shard
                    .into_inner()
                    .and_then(|file| Ok(file.into_inner()?))
                    .map_err(Error::io("write", path))?;
                Ok(())
            })?;
            written.shards.push(path);
        }
    }
    Ok(written)
}

/// The members of an image.
struct Record {
    index: usize,
    png: Vec<u8>,
    label: Option<u32>,
    json: String,
}

impl Record {
    fn of(split: &dyn Dataset, index: usize) -> Result<Self> {
        let Image { width, height, pixels } = split.image(index)?;
        let mut png = Vec::new();
        PngEncoder::new(&mut png)
            .write_image(&pixels, width as u32, height as u32, ExtendedColorType::Rgb8)
            .map_err(|error| Error::Data(format!("`{}`: {error}", split.path(index))))?;
        let mut json = serde_json::json!({ "path": split.path(index) });
        let objects = split.objects(index)?;
        if !objects.is_empty() {
            json["objects"] = serde_json::json!(objects);
        }
        Ok(Self { index, png, label: split.label(index), json: json.to_string() })
    }

    fn append(&self, shard: &mut tar::Builder<BufWriter<File>>) -> std::io::Result<()> {
        let mut member = |ending: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            shard.append_data(&mut header, format!("{:08}.{ending}", self.index), bytes)
        };
        member("png", &self.png)?;
        if let Some(label) = self.label {
            member("cls", label.to_string().as_bytes())?;
        }
        member("json", self.json.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::failure_of;
    use crate::data::{Presence, open};
    use std::sync::Arc;

    /// One image that may show several classes.
    struct Several;

    impl Dataset for Several {
        fn len(&self) -> usize {
            1
        }

        fn label(&self, _: usize) -> Option<u32> {
            None
        }

        fn presence(&self, _: usize) -> Option<Vec<Presence>> {
            Some(vec![Presence::Present])
        }

        fn path(&self, _: usize) -> String {
            String::new()
        }

        fn image(&self, _: usize) -> Result<Image> {
            Ok(Image { width: 1, height: 1, pixels: vec![0; 3] })
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("made");
        let source = open("multi-digits:synthetic:digits?variant=sizes&train=9&test=5").unwrap();
        let mut told = Vec::new();
        let written = write(&source, &place, &mut |done, all| told.push((done, all))).unwrap();
        assert_eq!((written.images, written.damaged.len(), written.shards.len()), (14, 0, 2));
        assert_eq!(told, [(9, 14), (14, 14)]);
        let again = open(place.to_str().unwrap()).unwrap();
        assert_eq!(again.format, "WebDataset tar, 2 shards, PNG");
        assert_eq!(again.classes, source.classes);
        for (name, split) in &source.splits {
            let read = again.split(name).unwrap();
            assert_eq!(read.len(), split.len());
            for index in 0..split.len() {
                assert_eq!(read.image(index).unwrap(), split.image(index).unwrap());
                assert_eq!(read.label(index), split.label(index));
            }
        }
        // Once more, the same bytes; and what was put into an image is told.
        let twin = folder.path().join("twin");
        write(&source, &twin, &mut |_, _| ()).unwrap();
        let bytes = |place: &Path| std::fs::read(place.join("train-000000.tar")).unwrap();
        assert!(bytes(&place) == bytes(&twin));
        let text = String::from_utf8_lossy(&bytes(&place)).into_owned();
        let first = &source.split("train").unwrap().objects(0).unwrap();
        let told = serde_json::json!({ "path": "train/000000", "objects": first }).to_string();
        assert!(text.contains(&told), "{told}");
    }

    #[test]
    fn damage_is_left_out_and_what_has_no_place_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images");
        std::fs::create_dir(&images).unwrap();
        std::fs::write(images.join("a.ppm"), b"P6 1 1 255 abc").unwrap();
        std::fs::write(images.join("b.ppm"), b"P6 1 1 255 ab").unwrap();
        let source = open(images.to_str().unwrap()).unwrap();
        let place = folder.path().join("made");
        let written = write(&source, &place, &mut |_, _| ()).unwrap();
        assert_eq!((written.images, written.damaged.len()), (1, 1));
        assert!(written.damaged[0].contains("b.ppm"), "{:?}", written.damaged);
        assert_eq!(open(place.to_str().unwrap()).unwrap().splits[0].1.len(), 1);

        let text = failure_of(write(&source, &place, &mut |_, _| ()));
        assert!(text.contains("exists and is not empty"), "{text}");
        // What was being written when the process died is no data set, and gives way.
        let begun = folder.path().join("begun");
        let unfinished = beside(&begun);
        std::fs::create_dir(&unfinished).unwrap();
        std::fs::write(unfinished.join("train-000000.tar"), b"half").unwrap();
        std::fs::create_dir(&begun).unwrap();
        let written = write(&source, &begun, &mut |_, _| ()).unwrap();
        assert!(written.shards[0].starts_with(&begun) && written.shards[0].is_file());
        assert!(!unfinished.exists());
        let splits = vec![("train".to_owned(), Arc::new(Several) as Arc<dyn Dataset>)];
        let several = Source { splits, ..source.clone() };
        let text = failure_of(write(&several, &folder.path().join("several"), &mut |_, _| ()));
        assert!(text.contains("may show several classes"), "{text}");
        assert!(!beside(&folder.path().join("several")).exists());
        let bits = open("random-bits:synthetic:digits?bits=2").unwrap();
        let text = failure_of(write(&bits, &folder.path().join("bits"), &mut |_, _| ()));
        assert!(text.contains("put `random-bits:` before the folder"), "{text}");
        let odd = Source { classes: vec!["a\nb".to_owned()], ..source.clone() };
        let text = failure_of(write(&odd, &folder.path().join("odd"), &mut |_, _| ()));
        assert!(text.contains("has no place in a list"), "{text}");
        let none = Source {
            splits: vec![("train".to_owned(), Arc::new(super::super::testing::Numbers(0)))],
            ..source
        };
        assert_eq!(write(&none, &folder.path().join("none"), &mut |_, _| ()).unwrap().images, 0);
    }
}
