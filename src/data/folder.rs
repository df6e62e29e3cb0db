//! Folders of image files: with classes, flat, or nested without classes; read lazily.

use super::decode::{ACCEPTED, codec};
use super::{
    Dataset, EXTENSIONS, Entry, Image, MultiLabels, Presence, Source, decode_file, entries,
    is_image, is_split_name,
};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files looked at to name the codec of a folder.
const SAMPLE: usize = 64;

/// An image file: its path below the root and its size in bytes.
pub(super) struct Found {
    pub path: PathBuf,
    size: u64,
}

/// What a folder of images turned out to be.
enum Layout {
    /// Class names in order of their byte values, each with its files.
    Classes(Vec<(String, Vec<Found>)>),
    /// One set without labels, and whether it is nested.
    Unlabelled(Vec<Found>, bool),
}

/// Opens a folder that holds images.
///
/// - Sub-folders that are all named like splits (`train`, `test`, `val`, ...) are splits, each with a layout of its own.
/// - No image in the folder itself: its sub-folders are classes, sorted by byte value, the label is the rank; within a
///   class, folders are sorted by path, then files by name (torchvision's order). A lone sub-folder is no class: what
///   lies in it counts.
/// - Otherwise: one set without labels, of the files here and in all sub-folders, in the same order.
///
/// Hidden files and folders do not count. Symbolic links are followed, but no folder is read twice.
///
/// # Errors
/// [`Error::Data`] when there is no image, when a class folder is empty (dropping it would shift the labels), and when
/// another split has a class that the first lacks.
pub(super) fn open(location: &str, root: &Path) -> Result<Source> {
    let (root, here) = descend(root)?;
    let folders: Vec<&Entry> = here.iter().filter(|entry| entry.is_folder).collect();
    let only_splits = !folders.is_empty()
        && folders.iter().all(|folder| is_split_name(&folder.name()))
        && !here.iter().any(is_image);
    let mut layouts: Vec<(String, Layout)> = Vec::new();
    if only_splits {
        for folder in folders {
            layouts.push((folder.name().to_lowercase(), layout(&root, &folder.path)?));
        }
        layouts.sort_by_key(|(name, _)| super::split_order(name));
    } else {
        layouts.push(("all".to_owned(), layout(&root, &root)?));
    }

    let classes = shared_classes(location, &layouts)?;
    let format = format(&root, &layouts, only_splits);
    let fingerprint = fingerprint(&layouts);
    let root: Arc<Path> = root.into();
    let splits = layouts
        .into_iter()
        .map(|(name, layout)| {
            let split = Folder::of(layout, &root, &classes);
            (name, Arc::new(split) as Arc<dyn Dataset>)
        })
        .collect();
    Ok(Source { format, location: location.to_owned(), classes, splits, fingerprint })
}

/// Steps into lone sub-folders that are no split, as an unpacked archive often leaves them.
fn descend(root: &Path) -> Result<(PathBuf, Vec<Entry>)> {
    let mut root = root.to_owned();
    // A link to a parent would go on for ever.
    for _ in 0..8 {
        let here = entries(&root)?;
        let mut folders = here.iter().filter(|entry| entry.is_folder);
        match (folders.next(), folders.next()) {
            (Some(only), None) if !here.iter().any(is_image) && !is_split_name(&only.name()) => {
                root.clone_from(&only.path);
            }
            _ => return Ok((root, here)),
        }
    }
    Err(Error::Data(format!("`{}` leads ever deeper without an image", root.display())))
}

fn layout(root: &Path, folder: &Path) -> Result<Layout> {
    let here = entries(folder)?;
    let flat = here.iter().any(is_image);
    let folders: Vec<&Entry> = here.iter().filter(|entry| entry.is_folder).collect();
    if flat || folders.is_empty() {
        let files = walk(root, folder)?;
        if files.is_empty() {
            return Err(nothing(folder));
        }
        let nested = files.iter().any(|file| root.join(&file.path).parent() != Some(folder));
        return Ok(Layout::Unlabelled(files, nested));
    }
    let mut classes = Vec::new();
    for class in &folders {
        classes.push((class.name(), walk(root, &class.path)?));
    }
    let mut names: Vec<&String> = classes.iter().map(|(name, _)| name).collect();
    names.sort();
    if let Some([name, _]) = names.array_windows().find(|[a, b]| a == b) {
        return Err(Error::Data(format!(
            "`{}` has two class folders that read `{}`, as their names are no UTF-8; rename them",
            folder.display(),
            name
        )));
    }
    if classes.iter().all(|(_, files)| files.is_empty()) {
        return Err(nothing(folder));
    }
    if let Some((empty, _)) = classes.iter().find(|(_, files)| files.is_empty()) {
        return Err(Error::Data(format!(
            "class folder `{}` holds no image; remove it or fill it, for leaving it out would shift the labels",
            folder.join(empty).display()
        )));
    }
    Ok(Layout::Classes(classes))
}

fn nothing(folder: &Path) -> Error {
    Error::Data(format!(
        "`{}` holds no image; accepted are {ACCEPTED} files (.{}), in class folders or not, parquet files in the Hugging \
         Face layout, WebDataset shards, and the files of CIFAR, STL-10 or MNIST as published",
        folder.display(),
        EXTENSIONS.join(" .")
    ))
}

/// All images below a folder: folders by the bytes of their paths, then files by those of their names. What is no file
/// (a pipe would be waited for without end) does not count; a link that leads nowhere does, as a damaged image.
pub(super) fn walk(root: &Path, folder: &Path) -> Result<Vec<Found>> {
    let mut pending = vec![folder.to_owned()];
    let mut folders = BTreeMap::new();
    let mut seen = BTreeSet::new();
    while let Some(folder) = pending.pop() {
        let Ok(metadata) = std::fs::metadata(&folder) else { continue };
        if !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        let here = entries(&folder)?;
        // In reverse, so that the first by name is popped first: which of two links is followed is settled.
        pending.extend(here.iter().rev().filter(|entry| entry.is_folder).map(|e| e.path.clone()));
        folders.insert(folder.as_os_str().as_bytes().to_owned(), here);
    }
    let images = folders.into_values().flatten().filter(is_image);
    Ok(images
        .filter_map(|entry| {
            let metadata = std::fs::metadata(&entry.path);
            let special = metadata.as_ref().is_ok_and(|metadata| !metadata.is_file());
            (!special).then(|| Found {
                size: metadata.map_or(0, |metadata| metadata.len()),
                path: entry.path.strip_prefix(root).expect("below the root").to_owned(),
            })
        })
        .collect())
}

/// Class names of the first split that has classes; the others may lack some but add none.
fn shared_classes(location: &str, layouts: &[(String, Layout)]) -> Result<Vec<String>> {
    let mut first: Option<(&str, Vec<String>)> = None;
    for (split, layout) in layouts {
        let Layout::Classes(classes) = layout else { continue };
        let names: Vec<String> = classes.iter().map(|(name, _)| name.clone()).collect();
        let Some((labelled, known)) = &first else {
            first = Some((split, names));
            continue;
        };
        if let Some(new) = names.iter().find(|name| !known.contains(name)) {
            return Err(Error::Data(format!(
                "`{location}`: split `{split}` has class `{new}`, which split `{labelled}` lacks"
            )));
        }
    }
    Ok(first.map_or_else(Vec::new, |(_, names)| names))
}

fn format(root: &Path, layouts: &[(String, Layout)], splits: bool) -> String {
    let kind = match &layouts[0].1 {
        Layout::Classes(_) => "image folder with classes",
        Layout::Unlabelled(_, false) => "flat image folder",
        Layout::Unlabelled(_, true) => "nested image folder without classes",
    };
    let mut codecs: Vec<&str> = layouts
        .iter()
        .flat_map(|(_, layout)| layout.files().take(SAMPLE))
        .map(|file| codec_of(&root.join(&file.path)).unwrap_or("unknown"))
        .collect();
    codecs.sort_unstable();
    codecs.dedup();
    format!("{kind}{}, {}", if splits { " and splits" } else { "" }, codecs.join(" and "))
}

fn codec_of(file: &Path) -> Option<&'static str> {
    let mut start = Vec::new();
    std::fs::File::open(file).ok()?.take(16).read_to_end(&mut start).ok()?;
    codec(&start)
}

/// Hash of relative paths and sizes; contents are not read.
fn fingerprint(layouts: &[(String, Layout)]) -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(b"folder");
    for (split, layout) in layouts {
        hash.update(split.as_bytes()).update(&[0]);
        for file in layout.files() {
            hash.update(file.path.as_os_str().as_bytes()).update(&[0]);
            hash.update(&file.size.to_le_bytes());
        }
    }
    hash.finalize().to_hex().to_string()
}

impl Layout {
    fn files(&self) -> Box<dyn Iterator<Item = &Found> + '_> {
        match self {
            Self::Classes(classes) => Box::new(classes.iter().flat_map(|(_, files)| files)),
            Self::Unlabelled(files, _) => Box::new(files.iter()),
        }
    }
}

/// Image files below a folder, with the label of each.
pub(super) struct Folder {
    root: Arc<Path>,
    files: Vec<(Box<Path>, Option<u32>)>,
    presence: Option<MultiLabels>,
}

impl Folder {
    /// The files of a list, by their paths below the root, which may show several classes each; read when they are asked
    /// for.
    pub(super) fn listed(
        root: &Arc<Path>,
        files: Vec<(Box<Path>, Option<u32>)>,
        presence: Option<MultiLabels>,
    ) -> Self {
        Self { root: root.clone(), files, presence }
    }

    fn of(layout: Layout, root: &Arc<Path>, classes: &[String]) -> Self {
        let mut files = Vec::new();
        match layout {
            Layout::Unlabelled(found, _) => {
                files.extend(found.into_iter().map(|file| (file.path.into(), None)));
            }
            Layout::Classes(found) => {
                for (name, found) in found {
                    let label = classes.iter().position(|class| *class == name).map(|l| l as u32);
                    files.extend(found.into_iter().map(|file| (file.path.into(), label)));
                }
            }
        }
        Self { root: root.clone(), files, presence: None }
    }
}

impl Dataset for Folder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.files[index].1
    }

    fn presence(&self, index: usize) -> Option<Vec<Presence>> {
        self.presence.as_ref().map(|presence| presence.of(index).to_vec())
    }

    fn path(&self, index: usize) -> String {
        self.files[index].0.to_string_lossy().into_owned()
    }

    fn image(&self, index: usize) -> Result<Image> {
        decode_file(&self.root.join(&self.files[index].0))
    }

    fn codec(&self, index: usize) -> Option<&'static str> {
        codec_of(&self.root.join(&self.files[index].0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{labels, open as open_source};
    use std::os::unix::fs::symlink;

    struct Tree(tempfile::TempDir);

    impl Tree {
        /// A folder holding a tiny image under each of the paths.
        fn of(paths: &[&str]) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            for (number, path) in paths.iter().enumerate() {
                tree.put(path, &[b"P6 1 1 255 ".as_slice(), &[number as u8; 3]].concat());
            }
            tree
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn put(&self, path: &str, bytes: &[u8]) {
            let file = self.at(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, bytes).unwrap();
        }

        fn open(&self) -> Source {
            open_source(self.0.path().to_str().unwrap()).unwrap()
        }

        fn failure(&self) -> String {
            open_source(self.0.path().to_str().unwrap()).map(|_| ()).unwrap_err().to_string()
        }
    }

    fn paths(split: &dyn Dataset) -> Vec<String> {
        (0..split.len()).map(|index| split.path(index)).collect()
    }

    #[test]
    fn classes_are_sorted_sub_folders_in_torchvisions_order() {
        let tree = Tree::of(&[
            "b/x.png",
            "Z/1.JPEG",
            "a/b.jpg",
            "a/a/b.jpg",
            "a/a-1/x.jpg",
            "a/a/a/c.webp",
            "a/.hidden.jpg",
        ]);
        tree.put("a/notes.txt", b"no image");
        tree.put(".cache/x.jpg", b"hidden");
        let source = tree.open();
        assert_eq!(source.format, "image folder with classes, PNM");
        assert_eq!(source.classes, ["Z", "a", "b"]);
        let all = source.split("all").unwrap();
        // As `sorted(os.walk(...))` visits: `a/a` < `a/a-1` < `a/a/a` as strings.
        let expected =
            ["Z/1.JPEG", "a/b.jpg", "a/a/b.jpg", "a/a-1/x.jpg", "a/a/a/c.webp", "b/x.png"];
        assert_eq!(paths(all.as_ref()), expected);
        assert_eq!(labels(all.as_ref()).unwrap(), [0, 1, 1, 1, 1, 2]);
        assert_eq!(all.image(3).unwrap().pixels, [4; 3]);
    }

    #[test]
    fn splits_share_the_classes_of_train() {
        let tree = Tree::of(&["test/b/1.png", "train/a/1.png", "train/b/1.png", "unlabeled/1.png"]);
        let source = tree.open();
        let names: Vec<&str> = source.splits.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["train", "test", "unlabeled"]);
        assert_eq!(source.classes, ["a", "b"]);
        assert_eq!(source.split("test").unwrap().label(0), Some(1), "the rank within train");
        assert_eq!(source.split("unlabeled").unwrap().label(0), None);
        tree.put("test/c/1.png", b"");
        let text = tree.failure();
        assert!(text.contains("split `test` has class `c`, which split `train` lacks"), "{text}");
    }

    #[test]
    fn images_in_the_root_make_one_unlabelled_set() {
        let flat = Tree::of(&["b.png", "a.png"]).open();
        assert_eq!((flat.format.as_str(), flat.classes.len()), ("flat image folder, PNM", 0));
        assert_eq!(paths(flat.split("all").unwrap().as_ref()), ["a.png", "b.png"]);
        let nested = Tree::of(&["z.png", "a/1.png", "b/c/1.png"]);
        std::fs::create_dir(nested.at("empty")).unwrap();
        let nested = nested.open();
        assert_eq!(nested.format, "nested image folder without classes, PNM");
        let all = nested.split("all").unwrap();
        assert_eq!(paths(all.as_ref()), ["z.png", "a/1.png", "b/c/1.png"]);
        assert!(labels(all.as_ref()).is_none());
    }

    #[test]
    fn a_lone_sub_folder_is_not_a_class() {
        let inside = Tree::of(&["set/images/a/1.png", "set/images/b/1.png"]).open();
        assert_eq!(inside.classes, ["a", "b"]);
        assert_eq!(inside.fingerprint, Tree::of(&["a/1.png", "b/1.png"]).open().fingerprint);
    }

    #[test]
    fn empty_folders_are_refused_by_name() {
        let tree = Tree::of(&["a/1.png"]);
        std::fs::create_dir_all(tree.at("b/deeper")).unwrap();
        let text = tree.failure();
        assert!(text.contains("class folder") && text.contains("/b`"), "{text}");
        let text = Tree::of(&[]).failure();
        assert!(text.contains("holds no image") && text.contains(".webp"), "{text}");
    }

    #[test]
    fn links_are_followed_once_and_loops_end() {
        let tree = Tree::of(&["a/1.png", "b/1.png"]);
        symlink(tree.at("a"), tree.at("c")).unwrap();
        symlink(tree.at("b"), tree.at("b/again")).unwrap();
        symlink(tree.0.path(), tree.at("b/up")).unwrap();
        symlink(tree.at("gone"), tree.at("a/broken.png")).unwrap();
        let source = tree.open();
        assert_eq!(source.classes, ["a", "b", "c"]);
        let all = source.split("all").unwrap();
        let found = paths(all.as_ref());
        assert!(found.contains(&"c/1.png".to_owned()), "{found:?}");
        assert_eq!(found.iter().filter(|path| *path == "b/1.png").count(), 1);
        let broken = found.iter().position(|path| path == "a/broken.png").unwrap();
        let text = all.image(broken).unwrap_err().to_string();
        assert!(text.contains("cannot read") && text.contains("broken.png"), "{text}");

        let alone = tempfile::tempdir().unwrap();
        symlink(alone.path(), alone.path().join("self")).unwrap();
        let text = open_source(alone.path().to_str().unwrap()).map(|_| ()).unwrap_err().to_string();
        assert!(text.contains("ever deeper"), "{text}");
    }

    #[test]
    fn names_of_any_bytes_are_read_and_stay_printable() {
        use std::os::unix::ffi::OsStringExt;
        let tree = Tree::of(&["größe 木/a picture (1).PNG", "z/1.png"]);
        let name = |bytes: &[u8]| std::ffi::OsString::from_vec(bytes.to_vec());
        // Latin-1: no UTF-8; a file name, and that of a class.
        std::fs::copy(tree.at("z/1.png"), tree.at("z").join(name(b"caf\xe9.png"))).unwrap();
        let class = tree.0.path().join(name(b"h\xf4tel"));
        std::fs::create_dir(&class).unwrap();
        std::fs::write(class.join("1.png"), b"no image").unwrap();
        let source = tree.open();
        assert_eq!(source.classes, ["größe 木", "h\u{fffd}tel", "z"]);
        let all = source.split("all").unwrap();
        let found = paths(all.as_ref());
        assert_eq!(found[0], "größe 木/a picture (1).PNG");
        assert_eq!(found[3], "z/caf\u{fffd}.png");
        assert_eq!(labels(all.as_ref()).unwrap(), [0, 1, 2, 2]);
        assert_eq!(all.image(3).unwrap().pixels, all.image(2).unwrap().pixels);
        let text = all.image(1).unwrap_err().to_string();
        assert!(text.contains("h\u{fffd}tel/1.png"), "{text}");
        // Two that read alike would be one class.
        let other = tree.0.path().join(name(b"h\xf5tel"));
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("1.png"), b"no image").unwrap();
        let text = open_source(tree.0.path().to_str().unwrap()).map(|_| ()).unwrap_err();
        assert!(text.to_string().contains("two class folders that read `h\u{fffd}tel`"), "{text}");
    }

    #[test]
    fn what_cannot_be_read_is_a_damaged_image() {
        use std::os::unix::fs::PermissionsExt;
        let tree = Tree::of(&["a.png", "b.png"]);
        let locked = std::fs::Permissions::from_mode(0o000);
        std::fs::set_permissions(tree.at("b.png"), locked).unwrap();
        // A link to itself gives no image whoever asks; a socket is none from the start.
        symlink(tree.at("c.png"), tree.at("c.png")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(tree.at("d.png")).unwrap();
        let all = tree.open().split("all").unwrap().clone();
        assert_eq!(paths(all.as_ref()), ["a.png", "b.png", "c.png"]);
        assert!(all.image(0).is_ok());
        let privileged = std::fs::File::open(tree.at("b.png")).is_ok();
        for (index, name) in [(1, "b.png"), (2, "c.png")] {
            match all.image(index) {
                Ok(_) => assert!(privileged && index == 1, "{name}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains("cannot read") && text.contains(name), "{text}");
                }
            }
        }
    }

    #[test]
    fn a_text_file_named_jpg_is_a_damaged_image_not_a_damaged_folder() {
        let tree = Tree::of(&["a.jpg"]);
        tree.put("b.jpg", b"hello");
        let all = tree.open().split("all").unwrap().clone();
        assert!(all.image(0).is_ok());
        assert!(matches!(all.image(1), Err(Error::Data(text)) if text.contains("b.jpg")));
    }

    #[test]
    fn the_fingerprint_sees_names_and_sizes() {
        let tree = Tree::of(&["a/1.png", "b/1.png"]);
        let before = tree.open().fingerprint;
        assert_eq!(Tree::of(&["a/1.png", "b/1.png"]).open().fingerprint, before);
        tree.put("b/1.png", b"P6 1 1 255 \0\0\0 ");
        assert_ne!(tree.open().fingerprint, before);
    }
}
