//! The grids of the published figures: layers by numbers of clusters, algorithms by numbers of clusters, images beside each
//! other.

use super::found::{Found, Map, Scope};
use super::maps::Picture;
use super::paint::{self, Enlarge, WEIGHT};
use super::{Mode, Settings, algorithm_name, algorithm_title};
use crate::analyze::figure::{Cell, Figure, Row};
use crate::analyze::palette::Color;
use crate::data::Image;

/// Side of a picture's place, in units of the figure.
const CELL: u32 = 200;

/// Most images beside each other: more could not be seen. The page and the arrays have all.
const MOST_COLUMNS: usize = 12;

/// What the figures are drawn from.
pub(super) struct Album<'a> {
    pub(super) settings: &'a Settings,
    pub(super) found: &'a Found,
    pub(super) pictures: &'a [Picture],
    /// Grey copies of the pictures.
    grey: Vec<Vec<u8>>,
    /// Names of the models as parts of files' names, no two alike.
    slugs: Vec<String>,
    colors: [Color; 10],
}

impl<'a> Album<'a> {
    pub(super) fn new(settings: &'a Settings, found: &'a Found, pictures: &'a [Picture]) -> Self {
        let swapped = settings.mode == Mode::AsPublished;
        let grey = pictures.iter().map(|picture| paint::grey(&picture.shown, swapped)).collect();
        let slugs = slugs(&found.subjects);
        Self { settings, found, pictures, grey, slugs, colors: settings.palette.colors() }
    }

    /// All figures, each with the name of its file.
    pub(super) fn figures(&self) -> Vec<(String, Figure)> {
        if self.settings.together { self.together() } else { self.one_by_one() }
    }

    /// The clusters of a map laid over a picture.
    pub(super) fn overlay(&self, map: &Map, picture: usize) -> Option<Image> {
        let mask = paint::mask(map.of_picture(picture)?, (map.width, map.height), &self.colors);
        let side = self.settings.picture;
        let large = self.settings.enlarge.apply(&mask, (side, side));
        Some(paint::overlay(&self.grey[picture], &large, WEIGHT))
    }

    fn cell(&self, map: Option<&Map>, picture: usize) -> Option<Cell> {
        let map = map?;
        let description = format!(
            "{} in {} clusters by {} of {}",
            name_of(&self.pictures[picture]),
            map.k,
            algorithm_title(map.algorithm),
            self.layer((map.subject, map.block))
        );
        Some(Cell::plain(self.overlay(map, picture)?, description))
    }

    fn input(&self, picture: usize) -> Cell {
        let found = &self.pictures[picture];
        Cell::plain(found.shown.clone(), format!("{} as it is", name_of(found)))
    }

    /// What a layer is called.
    pub(super) fn layer(&self, (subject, block): (usize, Option<u8>)) -> String {
        let name = &self.found.subjects[subject];
        match block {
            Some(block) if self.found.subjects.len() == 1 => format!("Block Group {block}"),
            Some(block) => format!("{name}, Block Group {block}"),
            None => name.clone(),
        }
    }

    /// Column titles: the input, then the numbers of clusters.
    fn columns(&self) -> Vec<String> {
        let numbers = self.settings.clusters.iter().map(|k| clusters(*k));
        std::iter::once("Input".to_owned()).chain(numbers).collect()
    }

    fn note(&self) -> String {
        let enlarged = match self.settings.enlarge {
            Enlarge::Bilinear => "bilinear",
            Enlarge::Nearest => "nearest",
        };
        let mode = match self.settings.mode {
            Mode::Report => "",
            Mode::AsPublished => "; as the published code has it",
        };
        let images = self.pictures.len();
        let some = if self.settings.together && images > MOST_COLUMNS {
            format!(" The first {MOST_COLUMNS} of {images} images that share clusters.")
        } else {
            String::new()
        };
        format!("Masks enlarged {enlarged}{mode}.{some}")
    }

    fn legend(&self, k: usize) -> Vec<(Color, String)> {
        (0..k).map(|at| (self.colors[at], format!("{}", at + 1))).collect()
    }

    fn figure(
        &self,
        title: String,
        description: String,
        columns: Vec<String>,
        rows: Vec<Row>,
    ) -> Figure {
        let most = self.settings.clusters.iter().copied().max().unwrap_or(1);
        let (legend, note) = (self.legend(most), self.note());
        Figure { title, description, columns, rows, legend, note, cell: CELL }
    }

    /// For each image: models and layers by numbers of clusters; for each of these, algorithms by numbers of clusters.
    fn one_by_one(&self) -> Vec<(String, Figure)> {
        let mut figures = Vec::new();
        let (first, several) = (self.settings.algorithms[0], self.settings.algorithms.len() > 1);
        let layers = self.found.layers();
        for (at, picture) in self.pictures.iter().enumerate() {
            let row = |number: usize, label: String, layer, algorithm| {
                // Once is enough.
                let input = (number == 0).then(|| self.input(at));
                let maps =
                    self.settings.clusters.iter().map(|k| {
                        self.cell(self.found.map(layer, Scope::Image(at), algorithm, *k), at)
                    });
                Row { label, cells: std::iter::once(input).chain(maps).collect() }
            };
            let name = name_of(picture);
            let rows: Vec<Row> = layers
                .iter()
                .enumerate()
                .map(|(number, layer)| row(number, self.layer(*layer), *layer, first))
                .collect();
            let title = format!("{}: {name}", algorithm_title(first));
            let description = format!(
                "Rows are layers ({}), columns numbers of clusters; the pixels of a feature map in the colour of their \
                 cluster, laid over {name}.",
                layers.iter().map(|layer| self.layer(*layer)).collect::<Vec<_>>().join("; ")
            );
            let figure = self.figure(title, description, self.columns(), rows);
            figures.push((format!("image{at}-layers"), figure));
            if !several {
                continue;
            }
            for layer in &layers {
                let algorithms = self.settings.algorithms.iter().enumerate();
                let rows = algorithms
                    .map(|(number, algorithm)| {
                        row(number, algorithm_title(*algorithm).to_owned(), *layer, *algorithm)
                    })
                    .collect();
                let title = format!("{}: {name}", self.layer(*layer));
                let description = format!(
                    "Rows are algorithms, columns numbers of clusters of {}, laid over {name}.",
                    self.layer(*layer)
                );
                let file = format!("image{at}-algorithms-{}", self.slug(*layer));
                figures.push((file, self.figure(title, description, self.columns(), rows)));
            }
        }
        figures
    }

    /// For each layer and algorithm: numbers of clusters by images; over all layers, the largest number by images.
    fn together(&self) -> Vec<(String, Figure)> {
        let mut figures = Vec::new();
        let shown = self.pictures.len().min(MOST_COLUMNS);
        let columns: Vec<String> = self.pictures[..shown].iter().map(name_of).collect();
        let all = 0..shown;
        let input = || Row {
            label: "Input".to_owned(),
            cells: all.clone().map(|at| Some(self.input(at))).collect(),
        };
        let row = |label: String, layer, algorithm, k| {
            let map = self.found.map(layer, Scope::All, algorithm, k);
            Row { label, cells: all.clone().map(|at| self.cell(map, at)).collect() }
        };
        let layers = self.found.layers();
        for algorithm in &self.settings.algorithms {
            for layer in &layers {
                let numbers = self.settings.clusters.iter();
                let rows = numbers.map(|k| row(clusters(*k), *layer, *algorithm, *k));
                let rows = std::iter::once(input()).chain(rows).collect();
                let title = format!(
                    "{}, {}, shared clusters",
                    self.layer(*layer),
                    algorithm_title(*algorithm)
                );
                let description = format!(
                    "Columns are images, rows numbers of clusters that all images share, {} of {}.",
                    algorithm_title(*algorithm),
                    self.layer(*layer)
                );
                let file = format!("together-{}-{}", self.slug(*layer), algorithm_name(*algorithm));
                figures.push((file, self.figure(title, description, columns.clone(), rows)));
            }
            let most = self.settings.clusters.iter().copied().max().unwrap_or(1);
            if layers.len() > 1 {
                let rows =
                    layers.iter().map(|layer| row(self.layer(*layer), *layer, *algorithm, most));
                let rows = std::iter::once(input()).chain(rows).collect();
                let title = format!("{}, {}, shared", algorithm_title(*algorithm), clusters(most));
                let description =
                    "Columns are images, rows layers; clusters are shared by all images.";
                let file = format!("together-layers-{}", algorithm_name(*algorithm));
                let figure = self.figure(title, description.to_owned(), columns.clone(), rows);
                figures.push((file, figure));
            }
        }
        figures
    }

    /// A layer in the name of a file.
    pub(super) fn slug(&self, (subject, block): (usize, Option<u8>)) -> String {
        let model = &self.slugs[subject];
        block.map_or(model.clone(), |block| format!("{model}-block{block}"))
    }
}

fn clusters(k: usize) -> String {
    if k == 1 { "1 Cluster".to_owned() } else { format!("{k} Clusters") }
}

/// The last part of an image's path, without its ending.
pub(super) fn name_of(picture: &Picture) -> String {
    let name = picture.name.rsplit(['/', '\\']).next().unwrap_or(&picture.name);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned()
}

/// Names as parts of files' names, those that would be the same numbered.
fn slugs(names: &[String]) -> Vec<String> {
    let mut taken: Vec<String> = Vec::new();
    for name in names {
        let first = slug(name);
        let mut found = first.clone();
        let mut number = 2;
        while taken.contains(&found) {
            found = format!("{first}-{number}");
            number += 1;
        }
        taken.push(found);
    }
    taken
}

/// A name as part of a file's name.
fn slug(name: &str) -> String {
    let letter = |letter: char| match letter {
        letter if letter.is_ascii_alphanumeric() => letter.to_ascii_lowercase(),
        '.' | '_' => letter,
        _ => '-',
    };
    let found: String = name.chars().map(letter).collect();
    let trimmed = found.trim_matches(['-', '.']);
    if trimmed.is_empty() { "model".to_owned() } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::Subject;
    use super::super::found::find;
    use super::super::tests::{pictures, small};
    use super::*;
    use crate::analyze::figure::svg_to_png;
    use crate::analyze::plot::tests::alike;
    use crate::cluster::Algorithm;

    /// Raw pixels twice stand for two layers: clusters of features would hang on the last bits of a processor.
    #[test]
    fn the_grids_look_like_the_stored_ones() {
        let folder = tempfile::tempdir().unwrap();
        let pictures = pictures(2);
        let subjects =
            ["One", "Other"].map(|name| Subject { name: name.to_owned(), weights: None });
        let algorithms = vec![Algorithm::KMeans, Algorithm::Ward];
        let alone = Settings { clusters: vec![2, 3], algorithms, raw_grid: Some(16), ..small() };
        let together = Settings { together: true, ..alone.clone() };
        let mut drawn = Vec::new();
        for settings in [alone, together] {
            let found = find(&settings, &subjects, &pictures, 0, &mut |_, _| ()).unwrap();
            for (name, figure) in Album::new(&settings, &found, &pictures).figures() {
                let path = folder.path().join(format!("{name}.png"));
                let svg = figure.svg().unwrap();
                std::fs::write(&path, svg_to_png(&svg, 0.4).unwrap()).unwrap();
                drawn.push(name);
            }
        }
        for name in [
            "image0-layers",
            "image1-algorithms-other",
            "together-one-k-means",
            "together-layers-ward",
        ] {
            assert!(drawn.iter().any(|known| known == name), "{drawn:?}");
            alike(&folder.path().join(format!("{name}.png")), &format!("parts-{name}.png"));
        }
    }

    #[test]
    fn no_two_models_write_the_same_files() {
        let names = ["SimCLR", "simclr", "SIMCLR!", "simclr-2", "..", "ü"];
        let found = slugs(&names.map(str::to_owned));
        assert_eq!(found, ["simclr", "simclr-2", "simclr-3", "simclr-2-2", "model", "model-2"]);
    }
}
