use super::*;
use crate::analyze::Form;
use crate::data::{Source, open};
use crate::random::{Purpose, Scope, Stream};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use tch::Kind;

const COUNT: usize = 90;

fn source() -> Source {
    open("synthetic:scenes?train=60&test=30").unwrap()
}

/// Both splits with features in which classes lie apart.
fn images(source: &Source) -> Images<'_> {
    let parts = source.splits.clone();
    let mut images = Images {
        layers: Vec::new(),
        labels: Vec::new(),
        classes: &source.classes,
        paths: Vec::new(),
        parts: parts.clone(),
        places: Vec::new(),
    };
    let mut stream = Stream::open(9, Purpose::Test, Scope::Item(0));
    let mut values: Vec<f32> = Vec::new();
    for (part, (name, split)) in parts.iter().enumerate() {
        for index in 0..split.len() {
            let label = split.label(index).unwrap();
            images.labels.push(i64::from(label));
            images.paths.push(format!("{name}/{}", split.path(index)));
            images.places.push((part, index));
            let corner = |axis: u32| if axis == label { 9.0 } else { 0.0 };
            let axes = 0..source.classes.len() as u32;
            values.extend(axes.map(|axis| (corner(axis) + stream.normal()) as f32));
        }
    }
    images.layers.push(("h".to_owned(), Tensor::from_slice(&values).view([COUNT as i64, -1])));
    images
}

fn quick() -> Tsne {
    Tsne { perplexity: 8.0, iterations: 120, exaggeration_iterations: 60, ..Tsne::default() }
}

fn made(map: &Map, images: &Images<'_>) -> Result<Maps> {
    map.make(&quick(), &Judge::default(), images, 3, &mut |_, _, _| ())
}

fn saved(map: &Map, maps: &Maps, images: &Images<'_>, folder: &Path) -> Vec<Output> {
    let facts = [("Model".to_owned(), "a <b> & c".to_owned())];
    map.save(maps, images, folder, &facts, &mut |_, _| ()).unwrap()
}

/// RFC 4648 backwards.
fn decoded(text: &str) -> Vec<u8> {
    let value = |letter: u8| match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let letters: Vec<u8> = text.bytes().filter(|letter| *letter != b'=').collect();
    let bits = letters.chunks(4).flat_map(|four| {
        let mut word = 0u32;
        for place in 0..4 {
            word = word << 6 | u32::from(four.get(place).map_or(0, |letter| value(*letter)));
        }
        word.to_be_bytes()[1..four.len()].to_vec()
    });
    bits.collect()
}

/// What a page carries, by the id of its script; sheets under `sheet-0` and so on.
fn scripts(page: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for part in page.split("<script").skip(1) {
        let (head, rest) = part.split_once('>').unwrap();
        let body = rest.split("</script>").next().unwrap();
        let id = head.split("id=\"").nth(1).map(|id| id.split('"').next().unwrap().to_owned());
        let sheets = found.keys().filter(|key: &&String| key.starts_with("sheet-")).count();
        let sheet = head.contains("sheet").then(|| format!("sheet-{sheets}"));
        let id = id.or(sheet).unwrap_or_else(|| "program".to_owned());
        assert!(found.insert(id, body.to_owned()).is_none());
    }
    found
}

fn shorts(bytes: &[u8]) -> Vec<u16> {
    bytes.as_chunks().0.iter().map(|two| u16::from_le_bytes(*two)).collect()
}

#[test]
fn a_page_carries_places_groups_neighbours_paths_and_pictures() {
    let source = source();
    let mut images = images(&source);
    images.paths[7] = "train/é </script> \"quoted\".png".to_owned();
    images.labels[8] = -1;
    let folder = tempfile::tempdir().unwrap();
    let map = Map { neighbours: 5, ..Map::default() };
    let maps = made(&map, &images).unwrap();
    let outputs = saved(&map, &maps, &images, folder.path());
    assert_eq!(outputs.iter().filter(|output| output.form == Form::Page).count(), 1);
    for output in &outputs {
        assert!(folder.path().join(&output.file).is_file(), "{}", output.file);
    }
    let page = fs::read_to_string(folder.path().join("map.html")).unwrap();
    assert!(page.contains("a &#60;b&#62; &#38; c"), "facts are escaped");
    for address in ["http:", "https:", "url(", "@import", "src="] {
        assert!(!page.contains(address), "the page asks for something: {address}");
    }
    assert_eq!(crate::analyze::structure::complaints(&page), Vec::<String>::new());
    let scripts = scripts(&page);
    let about: Value = serde_json::from_str(&scripts["about"]).unwrap();
    assert_eq!(about["count"], COUNT);
    assert_eq!(about["maps"][0]["name"], "t-SNE of h");
    assert_eq!(about["maps"][1]["id"], "pca");
    for (at, layout) in maps.layouts.iter().enumerate() {
        let bytes = decoded(&scripts[&format!("places-{at}")]);
        let values: Vec<f32> =
            bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
        assert_eq!(values, layout.points.as_flattened());
    }
    let groups = shorts(&decoded(&scripts["groups-0"]));
    for (group, label) in groups.iter().zip(&images.labels) {
        assert_eq!(i64::from(*group), if *label < 0 { 65_535 } else { *label });
    }
    let clusters = shorts(&decoded(&scripts["groups-1"]));
    assert!(clusters.iter().zip(&maps.clusters).all(|(a, b)| u32::from(*a) == *b));
    let splits = shorts(&decoded(&scripts["groups-2"]));
    assert_eq!(splits.iter().filter(|split| **split == 0).count(), 60);
    let near = shorts(&decoded(&scripts["near"]));
    let neighbours = maps.neighbours.as_ref().unwrap();
    for (row, five) in near.chunks(5).enumerate() {
        let expected: Vec<u16> = neighbours.of(row).0.iter().map(|row| *row as u16).collect();
        assert_eq!(five, expected);
    }
    let coded: Vec<String> = serde_json::from_str(&scripts["paths"]).unwrap();
    let mut last = String::new();
    for (line, path) in coded.iter().zip(&images.paths) {
        let (shared, rest) = line.split_once('|').unwrap();
        let units: Vec<u16> = last.encode_utf16().take(shared.parse().unwrap()).collect();
        last = String::from_utf16(&units).unwrap() + rest;
        assert_eq!(&last, path);
    }
    pictures_are_where_the_page_looks(&about, &scripts, &images);
}

fn pictures_are_where_the_page_looks(
    about: &Value,
    scripts: &BTreeMap<String, String>,
    images: &Images<'_>,
) {
    let number = |key: &str| about["pictures"][key].as_u64().unwrap() as usize;
    let (side, columns, per_sheet) = (number("side"), number("columns"), number("per_sheet"));
    assert_eq!(number("sheets"), 1);
    let sheet = image::load_from_memory(&decoded(&scripts["sheet-0"])).unwrap().to_rgb8();
    let slots = shorts(&decoded(&scripts["slots"]));
    let mut seen = slots.clone();
    seen.sort_unstable();
    assert!(seen.iter().enumerate().all(|(at, slot)| at == usize::from(*slot)));
    for row in (0..COUNT).step_by(13) {
        let place = usize::from(slots[row]) % per_sheet;
        let (left, top) = (place % columns * side, place / columns * side);
        let image = images.image(row).unwrap();
        // Means over the middle: JPEG and resizing leave them.
        for channel in 0..3 {
            let of = |pixel: &dyn Fn(usize, usize) -> u8, side: usize| {
                let range = side / 4..side - side / 4;
                let cells = range.clone().flat_map(|y| range.clone().map(move |x| (x, y)));
                let (mut sum, mut count) = (0.0, 0.0);
                for (x, y) in cells {
                    sum += f64::from(pixel(x, y));
                    count += 1.0;
                }
                sum / count
            };
            let own = of(&|x, y| image.pixels[3 * (y * image.width + x) + channel], image.width);
            let shown =
                of(&|x, y| sheet.get_pixel((left + x) as u32, (top + y) as u32).0[channel], side);
            assert!((own - shown).abs() < 8.0, "image {row}: {own} {shown}");
        }
    }
}

#[test]
fn arrays_and_table_hold_the_maps_and_equal_maps_give_equal_files() {
    let source = source();
    let images = images(&source);
    let map = Map { picture_px: Some(0), ..Map::default() };
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for folder in &folders {
        saved(&map, &made(&map, &images).unwrap(), &images, folder.path());
    }
    for file in ["map.safetensors", "map.csv", "map.html", "tsne.svg", "tsne.png", "pca.svg"] {
        let [one, other] = folders.each_ref().map(|it| fs::read(it.path().join(file)).unwrap());
        assert!(one == other, "{file} differs from one time to the next");
    }
    let color = map.palette.colors(images.class_count())[0];
    points_are_on_the_picture(&folders[0].path().join("tsne.png"), color);
    let maps = made(&map, &images).unwrap();
    let arrays: BTreeMap<String, Tensor> =
        Tensor::read_safetensors(folders[0].path().join("map.safetensors"))
            .unwrap()
            .into_iter()
            .collect();
    let expected = Tensor::from_slice(maps.layouts[0].points.as_flattened()).view([-1, 2]);
    assert_eq!(arrays["tsne"], expected);
    assert_eq!(arrays["label"], Tensor::from_slice(&images.labels));
    assert_eq!(arrays["neighbours"].size(), [COUNT as i64, 12]);
    let table = fs::read_to_string(folders[0].path().join("map.csv")).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], "path,split,index,label,class,cluster,tsne_x,tsne_y,pca_x,pca_y");
    assert_eq!(lines.len(), COUNT + 1);
    let x: f32 = lines[5].split(',').nth(6).unwrap().parse().unwrap();
    assert_eq!(x.to_bits(), maps.layouts[0].points[4][0].to_bits());
    // Classes that lie apart are found on the map and by k-means.
    let quality = maps.layouts[0].quality;
    assert!(quality.knn_map.unwrap() > 0.9, "{quality:?}");
    let pairs: std::collections::BTreeSet<_> = images.labels.iter().zip(&maps.clusters).collect();
    assert_eq!(pairs.len(), images.class_count(), "every cluster is a class");
}

/// In the place of the map, not in the legend alone.
fn points_are_on_the_picture(file: &Path, color: [u8; 3]) {
    let picture = image::open(file).unwrap().to_rgb8();
    let place = picture.enumerate_pixels().filter(|(x, ..)| *x < picture.width() * 2 / 3);
    let close = |pixel: &image::Rgb<u8>| {
        pixel.0.iter().zip(color).all(|(found, wanted)| found.abs_diff(wanted) < 12)
    };
    assert!(place.filter(|(.., pixel)| close(pixel)).count() > 50, "no point is drawn");
}

#[test]
fn images_without_labels_and_several_layers() {
    let source = source();
    let mut images = images(&source);
    images.labels.fill(-1);
    let z = images.layers[0].1.narrow(1, 0, 3);
    images.layers.push(("z".to_owned(), z));
    let map = Map { algorithms: vec![Algorithm::Pca], clusters: Some(4), ..Map::default() };
    let maps = made(&map, &images).unwrap();
    let ids: Vec<&str> = maps.layouts.iter().map(|layout| layout.id.as_str()).collect();
    assert_eq!(ids, ["pca-h", "pca-z"]);
    assert_eq!(maps.layouts[0].quality.knn_map, None);
    let sizes = |cluster: u32| maps.clusters.iter().filter(|own| **own == cluster).count();
    assert!((0..3).all(|cluster| sizes(cluster) >= sizes(cluster + 1)), "the largest comes first");
    let folder = tempfile::tempdir().unwrap();
    saved(&map, &maps, &images, folder.path());
    let page = fs::read_to_string(folder.path().join("map.html")).unwrap();
    let about: Value = serde_json::from_str(&scripts(&page)["about"]).unwrap();
    assert_eq!(about["colourings"][0]["name"], "Cluster");
    assert_eq!(about["colourings"][0]["groups"][3], "4");
    let svg = fs::read_to_string(folder.path().join("pca-z.svg")).unwrap();
    assert!(
        svg.contains(">Cluster</text>") && svg.contains("PCA of z"),
        "the legend names clusters"
    );
}

#[test]
fn what_cannot_be_mapped_is_refused_with_a_way_out() {
    let source = source();
    let map = Map::default();
    let fails = |change: &dyn Fn(&mut Images<'_>)| {
        let mut images = images(&source);
        change(&mut images);
        made(&map, &images).unwrap_err()
    };
    let first = |images: &mut Images<'_>, count: usize| {
        images.labels.truncate(count);
        images.paths.truncate(count);
        images.places.truncate(count);
        images.layers[0].1 = images.layers[0].1.narrow(0, 0, count as i64);
    };
    let one = fails(&|images| first(images, 1));
    assert_eq!(one.to_string(), "a map needs at least 3 images, found 1");
    let few = fails(&|images| first(images, 20)).to_string();
    assert!(few.contains("25 neighbours") && few.contains("map.algorithms"), "{few}");
    let nan = fails(&|images| {
        let _ = images.layers[0].1.narrow(0, 5, 1).fill_(f64::NAN);
    });
    assert!(matches!(nan, Error::NonFinite(_)), "{nan}");
    let same = fails(&|images| {
        images.layers[0].1 = Tensor::ones([COUNT as i64, 6], (Kind::Float, tch::Device::Cpu));
    });
    assert!(matches!(same, Error::Collapsed(_)), "{same}");
    let short = fails(&|images| images.labels.truncate(4));
    assert!(matches!(short, Error::Shape(_)), "{short}");
    for (map, key) in [
        (Map { neighbours: 65, ..Map::default() }, "map.neighbours"),
        (Map { clusters: Some(0), ..Map::default() }, "map.clusters"),
        (Map { picture_px: Some(129), ..Map::default() }, "map.picture_px"),
    ] {
        let message = map.check().unwrap_err().to_string();
        assert!(message.starts_with(&format!("`{key}` must")), "{message}");
    }
}
