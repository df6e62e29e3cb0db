use super::*;
use crate::analyze::figure::svg_to_png;
use crate::analyze::structure::complaints;
use crate::data::{Dataset, Image};
use crate::evaluate::Damaged;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Plain pictures, `size` pixels wide, of a colour by their index.
struct Fields {
    len: usize,
    size: (usize, usize),
}

impl Dataset for Fields {
    fn len(&self) -> usize {
        self.len
    }
    fn label(&self, _: usize) -> Option<u32> {
        None
    }
    fn path(&self, index: usize) -> String {
        format!("{index}.png")
    }
    fn image(&self, index: usize) -> Result<Image> {
        if index >= self.len {
            return Err(Error::Data(format!("there is no image {index}")));
        }
        let color = [(40 * index % 256) as u8, (250 - 30 * index % 256) as u8, 90];
        let (width, height) = self.size;
        Ok(Image { width, height, pixels: color.repeat(width * height) })
    }
}

/// Rows of two dimensions at these angles in degrees; the image of row `r` has index `first + r` and path
/// `<class>/<index>.png`.
fn at_angles(angles: &[f32], labels: &[i64], first: i64) -> Features {
    let rows: Vec<f32> =
        angles.iter().flat_map(|a| [a.to_radians().cos(), a.to_radians().sin()]).collect();
    let count = angles.len() as i64;
    Features {
        h: Tensor::from_slice(&rows).view([count, 2]),
        labels: Tensor::from_slice(labels),
        index: Tensor::arange(count, (Kind::Int64, Device::Cpu)) + first,
        paths: labels.iter().zip(first..).map(|(l, index)| format!("{l}/{index}.png")).collect(),
        damaged: Vec::new(),
    }
}

fn classes() -> Vec<String> {
    ["cat", "dog", "a, \"strange\" <class>"].map(str::to_owned).into()
}

/// Queries at 0° (cat), 90° (dog) and 45° (strange), references with what is near them known.
fn known() -> (Features, Features) {
    let queries = at_angles(&[0.0, 90.0, 45.0], &[0, 1, 2], 0);
    let references = at_angles(&[5.0, 20.0, 80.0, 120.0, 44.0], &[0, 1, 1, 0, 2], 0);
    (queries, references)
}

fn sheet() -> Sheet {
    let (queries, references) = known();
    let mut sheet = Sheet::new(&queries, &[0, 2, 1], 2, false, &classes()).unwrap();
    sheet.ask("one", &queries, &references, &classes(), 1).unwrap();
    // To the second, everything is turned by 40°: 0° becomes 40°.
    let turned = at_angles(&[40.0, 130.0, 85.0], &[0, 1, 2], 0);
    sheet.ask("two", &turned, &references, &classes(), 1).unwrap();
    sheet
}

fn indices(sheet: &Sheet, model: usize) -> Vec<Vec<usize>> {
    let found = sheet.models[model].found.iter();
    found.map(|hits| hits.iter().map(|hit| hit.index).collect()).collect()
}

#[test]
fn known_neighbours_are_found_and_judged() {
    let sheet = sheet();
    let asked: Vec<usize> = sheet.queries.iter().map(|asked| asked.index).collect();
    assert_eq!(asked, [0, 2, 1]);
    assert_eq!(indices(&sheet, 0), [[0, 1], [4, 1], [2, 3]]);
    assert_eq!(indices(&sheet, 1), [[4, 1], [2, 3], [3, 2]]);
    let first = &sheet.models[0];
    let agrees: Vec<Vec<Option<bool>>> =
        first.found.iter().map(|hits| hits.iter().map(|hit| hit.agrees).collect()).collect();
    let (yes, no) = (Some(true), Some(false));
    assert_eq!(agrees, [[yes, no], [yes, no], [yes, no]]);
    let hit = &first.found[0][1];
    assert!((hit.similarity - 20f32.to_radians().cos()).abs() < 1e-6);
    assert_eq!((hit.path.as_str(), hit.class.as_deref()), ("1/1.png", Some("dog")));
    assert!((first.precision.as_ref().unwrap().value - 0.5).abs() < 1e-12);
    assert_eq!(first.shown_precision, Some(0.5));
    // 40° finds neither cat, 85° neither of its class, 130° one dog.
    assert!((sheet.models[1].precision.as_ref().unwrap().value - 1.0 / 6.0).abs() < 1e-12);
    let [low, high] = first.precision.as_ref().unwrap().interval_95.unwrap();
    assert!(low <= 0.5 && high >= 0.5);
}

#[test]
fn precision_is_that_of_all_queries_not_of_those_shown() {
    let (queries, references) = known();
    let mut sheet = Sheet::new(&queries, &[0], 1, false, &classes()).unwrap();
    let turned = at_angles(&[0.0, 0.0, 0.0], &[0, 1, 2], 0);
    sheet.ask("one", &turned, &references, &classes(), 1).unwrap();
    let model = &sheet.models[0];
    assert_eq!(model.shown_precision, Some(1.0));
    assert!((model.precision.as_ref().unwrap().value - 1.0 / 3.0).abs() < 1e-12);
    assert_eq!(model.queries, 3);
}

#[test]
fn one_split_is_compared_with_itself_and_without_labels_nothing_is_judged() {
    let set = at_angles(&[0.0, 10.0, 30.0, 90.0], &[-1; 4], 10);
    let mut sheet = Sheet::new(&set, &[1], 3, true, &[]).unwrap();
    sheet.ask("one", &set, &set, &[], 0).unwrap();
    assert_eq!(indices(&sheet, 0), [[10, 12, 13]]);
    let model = &sheet.models[0];
    assert!(model.precision.is_none() && model.shown_precision.is_none() && !sheet.judges());
    let mut four = Sheet::new(&set, &[1], 4, true, &[]).unwrap();
    let message = four.ask("one", &set, &set, &[], 0).unwrap_err().to_string();
    assert!(message.contains("`neighbours.k` is 4, but there are only 3 references"), "{message}");
    assert!(four.models.is_empty());
}

#[test]
fn a_sheet_that_cannot_be_is_an_error() {
    let (queries, references) = known();
    let none = Sheet::new(&queries, &[0], 0, false, &[]).unwrap_err();
    assert!(matches!(none, Error::Recipe(_)), "{none}");
    assert!(matches!(Sheet::new(&queries, &[], 2, false, &[]), Err(Error::Data(_))));
    let mut sheet = Sheet::new(&queries, &[0], 6, false, &[]).unwrap();
    let many = sheet.ask("one", &queries, &references, &[], 0).unwrap_err();
    assert!(matches!(&many, Error::Data(text) if text.contains("`neighbours.k=5`")), "{many}");
    // A query that the second network could not be shown.
    let mut sheet = Sheet::new(&queries, &[0], 2, false, &[]).unwrap();
    let without = at_angles(&[90.0, 45.0], &[1, 2], 1);
    let gone = sheet.ask("two", &without, &references, &[], 0).unwrap_err().to_string();
    assert!(gone.contains("`0/0.png` could not be read for `two`"), "{gone}");
}

fn chosen(wanted: &Wanted, queries: &Features) -> Vec<usize> {
    wanted.rows(queries, &classes(), 3).unwrap()
}

#[test]
fn queries_are_chosen_by_index_path_and_class_and_by_the_seed() {
    let labels: Vec<i64> = (0..30).map(|row| row % 2).collect();
    let queries = at_angles(&[1.0; 30], &labels, 0);
    let wanted = Wanted {
        indices: vec![7, 3],
        paths: vec!["1/5.png".to_owned(), "/3.png".to_owned(), "9.png".to_owned()],
        classes: vec!["dog".to_owned()],
        per_class: 2,
        random: 4,
    };
    let rows = chosen(&wanted, &queries);
    // `/3.png` is image 3 again; `9.png` is 9, for 19 and 29 end in another name.
    assert_eq!(rows[..4], [7, 3, 5, 9]);
    let dogs = &rows[4..rows.len() - 4];
    assert!(!dogs.is_empty() && dogs.len() <= 2 && dogs.iter().all(|row| row % 2 == 1), "{rows:?}");
    let mut once = rows.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), rows.len());
    assert_eq!(chosen(&wanted, &queries), rows);
    assert_ne!(wanted.rows(&queries, &classes(), 4).unwrap(), rows);
    let all = Wanted { random: 99, ..Wanted::default() };
    assert_eq!(chosen(&all, &queries).len(), 30);
    assert!(chosen(&Wanted::default(), &queries).is_empty());
}

#[test]
fn a_query_that_is_none_says_why() {
    let mut queries = at_angles(&[1.0; 4], &[0, 0, 1, 1], 0);
    queries.index = Tensor::from_slice(&[0i64, 1, 3, 4]);
    queries.paths = ["a/x.png", "b/x.png", "a/y.png", "a/z.png"].map(str::to_owned).into();
    queries.damaged = vec![Damaged {
        index: 2,
        path: "a/broken.png".to_owned(),
        reason: "it is cut short".to_owned(),
    }];
    let fails = |wanted: Wanted, classes: &[String]| {
        let error = wanted.rows(&queries, classes, 0).unwrap_err();
        assert!(matches!(error, Error::Data(_)), "{error}");
        error.to_string()
    };
    let index = |index| Wanted { indices: vec![index], ..Wanted::default() };
    let path = |path: &str| Wanted { paths: vec![path.to_owned()], ..Wanted::default() };
    let class =
        |class: &str| Wanted { classes: vec![class.to_owned()], per_class: 1, ..Wanted::default() };
    for (wanted, expected) in [
        (index(5), "there is no query 5: the split has 5 images, 0 to 4"),
        (index(2), "query 2 (`a/broken.png`) cannot be read: it is cut short"),
        (path("x.png"), "is the end of 2 paths (`a/x.png`, `b/x.png`, ...)"),
        (path("broken.png"), "query `a/broken.png` cannot be read"),
        (path("a/yy.png"), "did you mean `a/y.png`?"),
        (path("qqqqqq"), "they are called `a/x.png`, `b/x.png`, `a/y.png`, ..."),
        (class("catt"), "there is no class `catt`; did you mean `cat`?"),
        (class("a, \"strange\" <class>"), "no image of class"),
    ] {
        let message = fails(wanted, &classes());
        assert!(message.contains(expected), "{message}");
    }
    assert!(fails(class("cat"), &[]).contains("the images have no labels"));
    assert_eq!(index(3).rows(&queries, &[], 0).unwrap(), [2]);
}

#[test]
fn the_table_has_a_line_for_each_neighbour() {
    let text = sheet().csv();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1 + 2 * 3 * 2);
    assert!(lines[1].starts_with("\"one\",0,\"0/0.png\",\"cat\",1,0,\"0/0.png\",\"cat\",0.996"));
    assert!(lines[1].ends_with(",true"));
    assert!(lines[3].contains(",\"a, \"\"strange\"\" <class>\","), "{}", lines[3]);
}

#[test]
fn the_page_tells_right_from_wrong_by_more_than_colour_and_escapes_names() {
    let pictures = Fields { len: 5, size: (8, 8) };
    let facts = [("Data".to_owned(), "here".to_owned())];
    let text = page(&sheet(), "Near <h>", &facts, &pictures, &pictures).unwrap();
    assert_eq!(text.matches("class=\"tile agrees\"").count(), 4);
    assert_eq!(text.matches("class=\"tile differs\"").count(), 8);
    assert_eq!(text.matches("✕</b>").count(), 8);
    assert_eq!(text.matches("<span class=\"unseen\">right: </span>").count(), 4);
    assert_eq!(text.matches("<span class=\"unseen\">wrong: </span>").count(), 8);
    assert_eq!(text.matches(", right, cosine ").count(), 4, "in what is told of each");
    assert_eq!(text.matches(", wrong, cosine ").count(), 8);
    assert_eq!(complaints(&text), Vec::<String>::new());
    assert!(!text.contains("<class>") && text.contains("&#60;class&#62;"), "escaped");
    assert!(text.contains("50.0\u{202f}%"));
    assert!(!text.contains("http:") && !text.contains("https:"), "nothing from elsewhere");
    // The first finds 1 for 0°, the second too, at the same place.
    assert!(text.contains("also of two 2"));
    let gone = Fields { len: 3, size: (8, 8) };
    assert!(matches!(page(&sheet(), "", &[], &gone, &gone), Err(Error::Data(_))));
    let plain = {
        let set = at_angles(&[0.0, 10.0, 30.0], &[-1; 3], 0);
        let mut sheet = Sheet::new(&set, &[1], 2, true, &[]).unwrap();
        sheet.ask("one", &set, &set, &[], 0).unwrap();
        page(&sheet, "", &[], &pictures, &pictures).unwrap()
    };
    assert_eq!(complaints(&plain), Vec::<String>::new());
    assert!(!plain.contains("✕") && !plain.contains(", wrong") && !plain.contains("id=\"order\""));
}

/// `DIPTYCH_BLESS=1` writes the stored picture anew.
#[test]
fn the_figure_looks_like_the_stored_one() {
    let pictures = Fields { len: 5, size: (40, 30) };
    let figure = figure(&sheet(), "Nearest neighbours", &pictures, &pictures).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = save(&figure, folder.path()).unwrap();
    assert_eq!(files.len(), 2);
    let svg = std::fs::read_to_string(folder.path().join("neighbours.svg")).unwrap();
    assert_eq!(svg.matches("stroke-dasharray").count(), 8, "those of another class are dashed");
    let png = svg_to_png(&svg, 1.0).unwrap();
    let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/neighbours.png");
    if std::env::var_os("DIPTYCH_BLESS").is_some() {
        std::fs::write(&stored, &png).unwrap();
    }
    let decoded = |bytes: &[u8]| image::load_from_memory(bytes).unwrap().to_rgb8();
    let (found, expected) = (decoded(&png), decoded(&std::fs::read(&stored).unwrap()));
    assert_eq!(found.dimensions(), expected.dimensions());
    let apart = |(a, b): (&u8, &u8)| a.abs_diff(*b) > 24;
    let count = found.as_raw().iter().zip(expected.as_raw()).filter(|pair| apart(*pair)).count();
    let share = count as f64 / found.as_raw().len() as f64;
    assert!(share < 0.002, "{share}: look at it, then write it anew with DIPTYCH_BLESS=1");
}
