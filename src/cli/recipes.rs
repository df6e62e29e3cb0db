//! `diptych recipes`: the built-in recipes.

use super::Answer;
use anyhow::Result;
use diptych::recipe::{BUILT_IN, Recipe};
use serde_json::json;

#[derive(clap::Subcommand)]
#[command(after_help = "Example:\n  diptych recipes show cifar10/simclr > my.toml")]
pub(super) enum Command {
    /// Names and first lines of the built-in recipes
    List,
    /// Print a recipe, ready to be saved and changed
    Show {
        /// A built-in name or a file
        recipe: String,
        /// Settings to change, `key=value`
        overrides: Vec<String>,
    },
}

pub(super) fn run(command: &Command) -> Result<Answer> {
    match command {
        Command::List => {
            let about = |text: &str| {
                let lines = text.lines().take_while(|line| line.starts_with('#'));
                let about: Vec<&str> =
                    lines.map(|line| line.trim_start_matches(['#', ' '])).collect();
                about.join(" ")
            };
            let text: Vec<String> =
                BUILT_IN.iter().map(|(name, text)| format!("{name:<22}{}", about(text))).collect();
            let json = BUILT_IN
                .iter()
                .map(|(name, text)| json!({ "name": name, "about": about(text) }))
                .collect::<Vec<_>>();
            Ok(Answer { text: text.join("\n"), json: json!({ "recipes": json }) })
        }
        Command::Show { recipe, overrides } => {
            let loaded = Recipe::load(recipe, overrides)?;
            let built_in = BUILT_IN.iter().find(|(name, _)| name == recipe);
            // Untouched, the recipe is shown as written, with its comments.
            let text = match built_in {
                Some((_, text)) if overrides.is_empty() => (*text).to_owned(),
                _ => loaded.to_toml()?,
            };
            Ok(Answer { text, json: serde_json::to_value(&loaded)? })
        }
    }
}
