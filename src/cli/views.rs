//! `diptych views`: what the network will see.

use super::Answer;
use super::monitor::open_subset;
use anyhow::Result;
use diptych::augment::{
    Gallery, Pipeline, SampledImage, ViewRecipe, named, sample_images, write_png,
};
use diptych::data::Selection;
use diptych::error::Error;
use diptych::experiment::selection;
use diptych::overrides;
use diptych::recipe::{Recipe, view_blocks};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  diptych views cifar10/simclr --data cifar10/ --out views.png\n  \
                  diptych views swav_mc@112 --data synthetic:scenes"
)]
pub(super) struct Arguments {
    /// A recipe file, a built-in recipe, or a published set of views (`byol`, `mocov2@96`)
    recipe: String,
    /// Settings to change, `key=value`
    overrides: Vec<String>,
    /// An image folder, or anything else that `diptych data show` takes
    #[arg(long)]
    data: Option<String>,
    /// The picture to write
    #[arg(long, default_value = "views.png")]
    out: PathBuf,
    /// Images to show
    #[arg(long, default_value_t = 8)]
    images: usize,
}

/// What is shown, of which images.
struct Wanted {
    seed: u64,
    view: Vec<ViewRecipe>,
    source: Option<String>,
    subset: Option<String>,
    classes: Vec<String>,
    selection: Selection,
}

/// What `key=value` may change of a set of views.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    seed: u64,
    #[serde(deserialize_with = "view_blocks")]
    view: Vec<ViewRecipe>,
}

impl Wanted {
    fn load(name: &str, changes: &[String]) -> Result<Self> {
        // Recipes are files or have a slash in their names, sets of views do not.
        if Path::new(name).is_file() || name.contains('/') {
            let recipe = Recipe::load(name, changes)?;
            let selection = selection(&recipe);
            let Recipe { seed, view, data, .. } = recipe;
            let (source, subset, classes) = (data.source, data.subset, data.classes);
            return Ok(Self { seed, view, source, subset, classes, selection });
        }
        let settings = Settings { seed: 0, view: named(name)? };
        let Settings { seed, view } = overrides::apply(&settings, changes, &[])?;
        let (source, subset, classes) = (None, None, Vec::new());
        Ok(Self { seed, view, source, subset, classes, selection: Selection::default() })
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let Wanted { seed, view, source, subset, classes, selection } =
        Wanted::load(&arguments.recipe, &arguments.overrides)?;
    let location = arguments.data.clone().or(source).ok_or_else(|| {
        Error::Recipe(
            "no data: name it with --data, `--data synthetic:scenes` for a start".to_owned(),
        )
    })?;
    let dataset = open_subset(&location, subset.as_ref(), &classes)?.for_training(&selection)?;
    let pipeline = Pipeline::new(&view)?;
    let images = sample_images(dataset.as_ref(), &pipeline, seed, arguments.images)?;
    let lines: Vec<String> = images.iter().map(describe).collect();
    let text = format!("{}\n{}", lines.join("\n"), arguments.out.display());
    let json = json!({ "picture": arguments.out, "images": images.iter().map(values).collect::<Vec<_>>() });
    write_png(&Gallery::from(images).sheet(), &arguments.out)?;
    Ok(Answer { text, json })
}

fn describe(SampledImage { path, image, views }: &SampledImage) -> String {
    let views = views.iter().enumerate();
    let views = views.map(|(n, (drawn, _))| format!("\n  view {}: {drawn}", n + 1));
    format!("{path}, {}x{}{}", image.width, image.height, views.collect::<String>())
}

fn values(SampledImage { path, image, views }: &SampledImage) -> serde_json::Value {
    let views = views.iter().map(|(drawn, view)| {
        json!({ "size_px": view.width, "text": drawn.to_string(), "sampled": drawn })
    });
    json!({
        "path": path,
        "width": image.width,
        "height": image.height,
        "views": views.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_views_takes_overrides_like_a_recipe() {
        let changes = ["seed=3".to_owned(), "view.1.count=2".to_owned()];
        let wanted = Wanted::load("byol@96", &changes).unwrap();
        assert_eq!((wanted.seed, wanted.source), (3, None));
        assert_eq!(
            wanted.view.iter().map(|it| (it.count, it.size_px())).collect::<Vec<_>>(),
            [(1, 96), (2, 96)]
        );
        let message = |name: &str, change: &str| {
            Wanted::load(name, &[change.to_owned()]).err().unwrap().to_string()
        };
        let found = message("byol", "view.1.cont=2");
        assert!(found.contains("view.1.count"), "{found}");
        let found = message("cifar10/simclir", "seed=1");
        assert!(found.contains("cifar10/simclr"), "{found}");
        let found = message("byoll", "seed=1");
        assert!(found.contains("`byol`"), "{found}");
    }
}
