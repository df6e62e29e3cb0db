//! `diptych embed`: the features of every image.

use super::Answer;
use super::evaluate::{choose_preprocess, recipe_of};
use super::monitor::{image_bar, location, of_own_data, open_source};
use anyhow::Result;
use diptych::data::Selection;
use diptych::error::Error;
use diptych::evaluate::export::{self, ENDINGS};
use diptych::evaluate::run::{Part, describe, features};
use diptych::evaluate::weights::{Layer, Weights};
use diptych::machine;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  diptych embed runs/a --data photos/ --out features.safetensors"
)]
pub(super) struct Arguments {
    /// A run folder, a checkpoint, or a file of another system (see `diptych weights show`)
    model: PathBuf,
    /// Images, labelled or not [default: what the run was trained on]
    #[arg(long)]
    data: Option<String>,
    /// Which split [default: the only one]
    #[arg(long)]
    split: Option<String>,
    /// The file to write: .safetensors, .npy, .csv or .parquet
    #[arg(long)]
    out: PathBuf,
    /// How images are prepared: imagenet, cifar, resize-S, center-S, ... [default: what the model file carries]
    #[arg(long)]
    preprocess: Option<String>,
    /// Which layer: h (the features), z (the projections), g1 and so on (layers of the projector), or stem, block1 ...
    /// block4, averaged over the map
    #[arg(long, default_value = "h")]
    layer: String,
    /// `auto`, `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "auto")]
    device: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let ending = arguments.out.extension().and_then(|end| end.to_str()).unwrap_or_default();
    if ending != "safetensors" && !ENDINGS.contains(&ending) {
        return Err(Error::Recipe(format!(
            "`--out` must end in .safetensors, .{}, found `{}`",
            ENDINGS.join(", ."),
            arguments.out.display()
        ))
        .into());
    }
    let layer = Layer::named(&arguments.layer)?;
    let recipe = recipe_of(&arguments.model)?;
    let own = of_own_data(arguments.data.as_ref(), recipe.as_ref());
    let classes = own.map_or(&[][..], |recipe| &recipe.data.classes);
    let source = open_source(&location(arguments.data.as_ref(), recipe.as_ref())?, classes)?;
    let weights = Weights::load(&arguments.model, machine::device(&arguments.device)?)?;
    let preprocess = choose_preprocess(arguments.preprocess.as_deref(), &weights)?;
    let names: Vec<&str> = source.splits.iter().map(|(name, _)| name.as_str()).collect();
    let wanted = match (&arguments.split, names.as_slice()) {
        (Some(name), _) => name.as_str(),
        (None, [only]) => *only,
        (None, several) => {
            return Err(Error::Recipe(format!(
                "`{}` has several splits; choose one with --split {}",
                source.location,
                several.join(" or --split ")
            ))
            .into());
        }
    };
    let dataset = source.split(wanted).map(Arc::clone).ok_or_else(|| {
        Error::Data(format!(
            "`{}` has no split `{wanted}`, only {}",
            source.location,
            names.join(", ")
        ))
    })?;
    // The description keeps a static role; the split's own name stands in the answer.
    let selection = Selection::default();
    let part = Part { dataset, role: "split", source: &source, selection };
    let found = features(&weights, &preprocess, layer, &part, None, &mut image_bar(wanted))?;
    let mut description = describe(&weights, &preprocess, layer, &part);
    wanted.clone_into(&mut description.split);
    if ending == "safetensors" {
        found.save(&arguments.out, &description)?;
    } else {
        export::write(&found, &arguments.out)?;
    }
    let dimensions = found.h.size()[1];
    let text = format!(
        "{}: {} images of `{wanted}`, {dimensions} features each, {} damaged",
        arguments.out.display(),
        found.len(),
        found.damaged.len()
    );
    let json = json!({
        "out": arguments.out,
        "images": found.len(),
        "features": dimensions,
        "damaged": found.damaged,
        "description": description,
    });
    Ok(Answer { text, json })
}
