//! `diptych views`: what the network will see.

use super::Answer;
use super::pretrain::selection;
use anyhow::Result;
use diptych::augment::{Pipeline, views_gallery, write_png};
use diptych::data;
use diptych::error::Error;
use diptych::recipe::Recipe;
use serde_json::json;
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  diptych views cifar10/simclr --data cifar10/ --out views.png")]
pub(super) struct Arguments {
    /// A recipe file or a built-in name
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

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let recipe = Recipe::load(&arguments.recipe, &arguments.overrides)?;
    let location =
        arguments.data.clone().or_else(|| recipe.data.source.clone()).ok_or_else(|| {
            Error::Recipe(
                "no data: name it with --data, `--data synthetic:scenes` for a start".to_owned(),
            )
        })?;
    let dataset = data::open(&location)?.for_training(&selection(&recipe))?;
    let pipeline = Pipeline::new(&recipe.view)?;
    let gallery = views_gallery(dataset.as_ref(), &pipeline, recipe.seed, arguments.images)?;
    write_png(&gallery.sheet(), &arguments.out)?;
    let rows: Vec<Vec<&str>> = gallery
        .rows
        .iter()
        .map(|row| row.iter().map(|cell| cell.caption.as_str()).collect())
        .collect();
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let views = row.iter().enumerate().skip(1);
            let views: Vec<String> = views.map(|(n, text)| format!("  view {n}: {text}")).collect();
            format!("{}\n{}", row.first().unwrap_or(&""), views.join("\n"))
        })
        .collect();
    let text = format!("{}\n{}", lines.join("\n"), arguments.out.display());
    Ok(Answer { text, json: json!({ "picture": arguments.out, "images": rows }) })
}
