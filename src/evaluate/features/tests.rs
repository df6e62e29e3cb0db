//! Promises of extraction and of the feature files.

use super::*;

/// Features with given rows and labels, for the tests of the protocols.
pub(in crate::evaluate) fn made(h: Tensor, labels: &[i64]) -> Features {
    Features {
        h,
        labels: Tensor::from_slice(labels),
        index: Tensor::arange(labels.len() as i64, (Kind::Int64, Device::Cpu)),
        paths: (0..labels.len()).map(|index| format!("{index}.png")).collect(),
        damaged: Vec::new(),
    }
}

/// Images of one pixel (index, 2 · index, 3 · index), some of them damaged.
struct Pixels {
    len: usize,
    damaged: Vec<usize>,
}

impl Dataset for Pixels {
    fn len(&self) -> usize {
        self.len
    }
    fn label(&self, index: usize) -> Option<u32> {
        (index % 3 != 2).then_some(index as u32 % 3)
    }
    fn path(&self, index: usize) -> String {
        format!("image {index}\n.png")
    }
    fn image(&self, index: usize) -> Result<Image> {
        if index == 99 {
            return Err(Error::Io {
                action: "read",
                path: "disk".into(),
                source: io::Error::other("gone"),
            });
        }
        if self.damaged.contains(&index) {
            return Err(Error::Data(format!("image {index} is cut short")));
        }
        let value = index as u8;
        Ok(Image { width: 1, height: 1, pixels: vec![value, 2 * value, 3 * value] })
    }
}

fn copy(image: &Image, pixels: &mut [u8]) {
    pixels.copy_from_slice(&image.pixels);
}

fn sums(dataset: &dyn Dataset, batch: usize) -> Result<Features> {
    let mut forward = |pixels: &[u8], images: usize| {
        assert_eq!(pixels.len(), 3 * images);
        assert!(images <= batch);
        let rgb = Tensor::from_slice(pixels).view([images as i64, 3]).to_kind(Kind::Double);
        Ok(Tensor::cat(&[rgb.sum_dim_intlist(1, true, Kind::Double), rgb], 1))
    };
    extract(&mut forward, dataset, (1, 1), &copy, batch, &mut |_, _| {})
}

#[test]
fn constant_channels_stand_behind_the_pixels_of_their_image() {
    let source = crate::data::open("random-bits:synthetic:digits?train=20&test=1?bits=3").unwrap();
    let train = source.split("train").unwrap().clone();
    for batch in [7, 20] {
        let mut forward = |pixels: &[u8], images: usize| {
            let rows = Tensor::from_slice(pixels).view([images as i64, -1]);
            Ok(rows.narrow(1, 3 * 28 * 28 - 1, 4).to_kind(Kind::Float))
        };
        let found =
            extract(&mut forward, train.as_ref(), (28, 28), &copy, batch, &mut |_, _| {}).unwrap();
        for index in 0..20 {
            let image = train.image(index).unwrap();
            let row = Vec::<f32>::try_from(found.h.get(index as i64)).unwrap();
            let mut expected = vec![image.pixels[3 * 28 * 28 - 1]];
            expected.extend(train.constants(index, &image));
            assert_eq!(row, expected.into_iter().map(f32::from).collect::<Vec<_>>());
        }
    }
}

#[test]
fn every_image_is_a_row_or_damaged_whatever_the_batch() {
    let dataset = Pixels { len: 20, damaged: vec![0, 7, 8, 9, 19] };
    for batch in [1, 3, 7, 20, 64] {
        let features = sums(&dataset, batch).unwrap();
        let index: Vec<i64> = [1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15, 16, 17, 18].into();
        assert_eq!(features.indices(), index);
        assert_eq!(features.h.size(), [15, 4]);
        assert_eq!(features.h.kind(), Kind::Float);
        let total = features.h.narrow(1, 0, 1).squeeze().to_kind(Kind::Int64);
        assert_eq!(integers(&total), index.iter().map(|i| 6 * i).collect::<Vec<_>>());
        let labels = index.iter().map(|i| if i % 3 == 2 { -1 } else { i % 3 });
        assert_eq!(features.labels(), labels.collect::<Vec<_>>());
        assert_eq!(features.paths[6], "image 10\n.png");
        let damaged: Vec<usize> = features.damaged.iter().map(|image| image.index).collect();
        assert_eq!(damaged, dataset.damaged);
        assert_eq!(features.damaged[1].reason, "image 7 is cut short");
    }
}

#[test]
fn a_split_without_a_readable_image_is_an_error_and_so_is_a_lost_disk() {
    let broken = sums(&Pixels { len: 2, damaged: vec![0, 1] }, 4).unwrap_err().to_string();
    assert!(broken.contains("none of 2 images") && broken.contains("cut short"), "{broken}");
    assert!(matches!(sums(&Pixels { len: 0, damaged: vec![] }, 4), Err(Error::Data(_))));
    assert!(matches!(sums(&Pixels { len: 120, damaged: vec![] }, 9), Err(Error::Io { .. })));
    assert!(matches!(sums(&Pixels { len: 3, damaged: vec![] }, 0), Err(Error::Recipe(_))));
}

#[test]
fn a_forward_pass_of_another_shape_is_refused() {
    let dataset = Pixels { len: 6, damaged: vec![] };
    let mut widths = [4, 5].into_iter();
    let mut forward = |_: &[u8], images: usize| {
        Ok(Tensor::zeros([images as i64, widths.next().unwrap()], (Kind::Float, Device::Cpu)))
    };
    let changing = extract(&mut forward, &dataset, (1, 1), &copy, 3, &mut |_, _| {});
    assert!(matches!(changing, Err(Error::Shape(_))));
    let mut forward = |_: &[u8], _: usize| Ok(Tensor::zeros([4], (Kind::Float, Device::Cpu)));
    let flat = extract(&mut forward, &dataset, (1, 1), &copy, 4, &mut |_, _| {});
    assert!(matches!(flat, Err(Error::Shape(_))));
}

#[test]
fn pixels_are_the_image_in_unit_range_and_progress_reaches_the_end() {
    let dataset = Pixels { len: 5, damaged: vec![2] };
    let mut seen = Vec::new();
    let found =
        pixels(&dataset, (1, 1), &copy, 2, &mut |done, all| seen.push((done, all))).unwrap();
    assert_eq!(seen, [(2, 5), (4, 5), (5, 5)]);
    let expected = Tensor::from_slice(&[0i64, 0, 0, 1, 2, 3, 3, 6, 9, 4, 8, 12]).view([4, 3]);
    assert_eq!((found.h * 255.0).round().to_kind(Kind::Int64), expected);
}

fn description() -> Description {
    Description {
        classes: vec!["cat".into(), "dog".into()],
        diptych: "0.1.0".into(),
        fingerprint: "f00d".into(),
        format: "made".into(),
        height: 1,
        images: 20,
        interpolation: "none".into(),
        layer: "h".into(),
        mean: [0.4914, 0.4822, 0.4465],
        precision: "float32".into(),
        preprocess: "cifar".into(),
        split: "test".into(),
        std: [0.247, 0.243, 0.261],
        weights: "abc".into(),
        width: 1,
    }
}

#[test]
fn stored_features_come_back_whole_and_only_for_their_description() {
    let folder = tempfile::tempdir().unwrap();
    let features = sums(&Pixels { len: 20, damaged: vec![3] }, 8).unwrap();
    let description = description();
    assert!(stored(folder.path(), &description).is_none());
    let path = features.store(folder.path(), &description).unwrap();
    let found = stored(folder.path(), &description).unwrap();
    assert_eq!(found.h, features.h);
    assert_eq!(found.labels, features.labels);
    assert_eq!(found.index, features.index);
    assert_eq!(found.damaged, features.damaged);
    assert_eq!(found.paths[0], "image 0\\n.png");
    let other = Description { precision: "bfloat16".into(), ..description.clone() };
    assert!(stored(folder.path(), &other).is_none());
    // The right name does not make it the right file.
    fs::copy(&path, folder.path().join(other.file_name())).unwrap();
    fs::copy(paths_file(&path), paths_file(&folder.path().join(other.file_name()))).unwrap();
    assert!(stored(folder.path(), &other).is_none());
    let first = fs::read(&path).unwrap();
    features.store(folder.path(), &description).unwrap();
    assert_eq!(fs::read(&path).unwrap(), first, "equal features, equal bytes");
}

#[test]
fn the_file_is_what_others_can_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.safetensors");
    let features = sums(&Pixels { len: 4, damaged: vec![] }, 8).unwrap();
    features.save(&path, &Description { layer: "z".into(), ..description() }).unwrap();
    let mut tensors = Tensor::read_safetensors(&path).unwrap();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let kinds: Vec<_> = tensors.iter().map(|(name, t)| (name.as_str(), t.kind())).collect();
    assert_eq!(kinds, [("index", Kind::Int64), ("label", Kind::Int64), ("z", Kind::Float)]);
    let buffer = fs::read(&path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&buffer).unwrap();
    let text = &metadata.metadata().as_ref().unwrap()["diptych"];
    let value: Value = serde_json::from_str(text).unwrap();
    let keys: Vec<&String> = value["description"].as_object().unwrap().keys().collect();
    assert!(keys.is_sorted() && value["description"]["mean"][0] == 0.4914, "{text}");
}

#[test]
fn a_damaged_file_is_a_weights_error_that_says_delete_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.safetensors");
    let features = sums(&Pixels { len: 20, damaged: vec![] }, 8).unwrap();
    features.save(&path, &description()).unwrap();
    let whole = fs::read(&path).unwrap();
    let refuses = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let error = Features::load(&path).unwrap_err();
        assert!(matches!(error, Error::Weights(_)), "{error}");
        assert!(error.to_string().contains("delete it"), "{error}");
    };
    for length in [0, 5, 100, whole.len() - 1] {
        refuses(&whole[..length]);
    }
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    refuses(&flipped);
    let newer = String::from_utf8_lossy(&whole).contains("\\\"file_format\\\":1");
    assert!(newer, "the version is in the header");
    let position = whole.windows(16).position(|w| w == b"file_format\\\":1}").unwrap();
    let mut newer = whole.clone();
    newer[position + 14] = b'9';
    refuses(&newer);
    Tensor::write_safetensors(&[("h", &features.h)], &path).unwrap();
    refuses(&fs::read(&path).unwrap());
    fs::write(&path, &whole).unwrap();
    fs::write(paths_file(&path), "one\n").unwrap();
    assert!(matches!(Features::load(&path), Err(Error::Weights(_))));
}
