use super::*;
use crate::data::open as open_source;
use crate::data::testing::{assert_truth, copy, failure, golden};
use std::fs;
use std::io::Write;

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

/// An idx file of zeros.
fn zeros(dimensions: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
    bytes.extend(dimensions.iter().flat_map(|size| size.to_be_bytes()));
    bytes.resize(bytes.len() + dimensions.iter().product::<u32>() as usize, 0);
    bytes
}

/// A folder with the four files of the golden set, under names made by a function of theirs.
fn renamed(
    rename: impl Fn(&str) -> String,
    content: impl Fn(Vec<u8>) -> Vec<u8>,
) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden("data/MNIST/raw")).unwrap() {
        let path = entry.unwrap().path();
        let name = rename(path.file_name().unwrap().to_str().unwrap());
        fs::write(folder.path().join(name), content(fs::read(path).unwrap())).unwrap();
    }
    folder
}

#[test]
fn every_naming_and_packing_gives_what_torchvision_reads() {
    let plain = assert_truth(&golden("data/MNIST/raw"), "mnist");
    assert_eq!((plain.format.as_str(), plain.classes.len()), ("MNIST idx", 8));
    // From the folder above, and the one above that.
    let above = tempfile::tempdir().unwrap();
    copy(&golden("data/MNIST/raw"), &above.path().join("MNIST/raw"));
    assert_truth(above.path(), "mnist");
    assert_truth(&above.path().join("MNIST"), "mnist");
    let dots = renamed(|name| name.replace("-idx", ".idx"), |bytes| bytes);
    assert_truth(dots.path(), "mnist");
    // As Python's gzip packed them.
    let folder = tempfile::tempdir().unwrap();
    for name in ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"] {
        let file = format!("{name}-ubyte.gz");
        fs::copy(golden(&format!("data/{file}")), folder.path().join(file)).unwrap();
    }
    let source = assert_truth(folder.path(), "mnist");
    assert_eq!(source.format, "MNIST idx (gzip)");
    assert_eq!(source.fingerprint, plain.fingerprint);
    // Both lie there, as torchvision leaves them: the plain ones are read.
    copy(&golden("data/MNIST/raw"), folder.path());
    assert_eq!(assert_truth(folder.path(), "mnist").format, "MNIST idx");
}

#[test]
fn three_channels_lie_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let mut images = zeros(&[1, 1, 2, 3]);
    let data = images.len() - 6;
    images[data..].copy_from_slice(&[1, 2, 3, 4, 5, 6]);
    fs::write(folder.path().join("train-images-idx4-ubyte"), images).unwrap();
    fs::write(folder.path().join("train-labels-idx1-ubyte"), zeros(&[1])).unwrap();
    let source = open_source(folder.path().to_str().unwrap()).unwrap();
    let image = source.split("train").unwrap().image(0).unwrap();
    assert_eq!((image.width, image.height, image.pixels), (2, 1, vec![1, 2, 3, 4, 5, 6]));
}

#[test]
fn sizes_must_be_what_the_header_tells() {
    let folder = renamed(str::to_owned, |bytes| bytes);
    let file = |name: &str| folder.path().join(name);
    let images = file("train-images-idx3-ubyte");
    let whole = fs::read(&images).unwrap();
    for (content, expected) in [
        (whole[..whole.len() - 1].to_vec(), "2367 bytes, 2368 expected"),
        ([&whole[..], &[0]].concat(), "2369 bytes, 2368 expected"),
        (packed(&whole[..whole.len() - 1]), "unpacks to fewer than the 2368 bytes"),
        (packed(&[&whole[..], &[0]].concat()), "unpacks to more than the 2368 bytes"),
        (zeros(&[3, 0, 28]), "are no images"),
        (zeros(&[2, 28, 28]), "labels of dimensions [3] for 2 images"),
    ] {
        fs::write(&images, &content).unwrap();
        let text = failure(folder.path());
        assert!(text.contains(expected), "{text}, not {expected}");
    }
    fs::write(&images, &whole).unwrap();
    fs::remove_file(file("train-labels-idx1-ubyte")).unwrap();
    assert!(failure(folder.path()).contains("lacks `train-labels-idx1-ubyte`"));
    assert!(failure(&images).contains("is an idx file; give the folder"));
}

#[test]
fn a_bomb_is_refused_before_anything_of_its_size_is_made() {
    let folder = renamed(str::to_owned, |bytes| bytes);
    let file = |name: &str| folder.path().join(name);
    // Four thousand million images announced in a few bytes.
    let header = [&[0, 0, 8, 3, 255, 255, 255, 255][..], &[0, 0, 16, 0], &[0, 0, 16, 0]].concat();
    let labels = [&[0, 0, 8, 1][..], &[255; 4]].concat();
    fs::write(file("train-images-idx3-ubyte"), packed(&header)).unwrap();
    fs::write(file("train-labels-idx1-ubyte"), packed(&labels)).unwrap();
    let start = std::time::Instant::now();
    assert!(failure(folder.path()).contains("packed bytes cannot hold"));
    fs::write(file("train-images-idx3-ubyte"), &header).unwrap();
    assert!(failure(folder.path()).contains("16 bytes"), "{}", failure(folder.path()));
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
fn other_numbers_than_bytes_are_refused() {
    for start in [&[0, 0, 13, 3][..], &[0, 0, 8, 0], &[0, 0, 8, 5], &[1, 0, 8, 3], b""] {
        assert!(header(start, "x").unwrap_err().to_string().contains("no idx file"), "{start:?}");
    }
    assert!(header(&[0, 0, 8, 2, 0, 0, 0, 1, 0, 0], "x").is_err());
    assert_eq!(header(&[0, 0, 8, 1, 0, 0, 1, 2], "x").unwrap().dimensions, [258]);
}
