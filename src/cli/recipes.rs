//! `diptych recipes`: the built-in recipes.

use super::Answer;
use super::table::aligned;
use anyhow::Result;
use diptych::error::Error;
use diptych::recipe::{BUILT_IN, Recipe};
use serde_json::json;

#[derive(clap::Subcommand)]
#[command(after_help = "Examples:
  diptych recipes list
  diptych recipes show cifar10/simclr > my.toml")]
pub(super) enum Command {
    /// Name, method and purpose of the built-in recipes
    #[command(after_help = "Examples:\n  diptych recipes list\n  diptych recipes list cifar10")]
    List {
        /// Only those whose name contains this
        part: Option<String>,
    },
    /// Print a recipe, ready to be saved and changed
    #[command(after_help = "Example:\n  diptych recipes show cifar10/simclr > my.toml")]
    Show {
        /// A built-in name or a file
        recipe: String,
        /// Settings to change, `key=value`
        overrides: Vec<String>,
    },
}

pub(super) fn run(command: &Command) -> Result<Answer> {
    match command {
        Command::List { part } => list(part.as_deref().unwrap_or("")),
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

fn list(part: &str) -> Result<Answer> {
    let mut rows = vec![["recipe", "data", "method", "what it is"].map(str::to_owned).to_vec()];
    let mut found = Vec::new();
    let mut fitting: Vec<_> = BUILT_IN.iter().filter(|(name, _)| name.contains(part)).collect();
    fitting.sort();
    for (name, text) in fitting {
        let recipe = Recipe::parse(text, name, &[])?;
        let (data, method) = (name.split('/').next().unwrap_or(name), recipe.method.name());
        let about = about(text);
        rows.push([name, data, method, first_sentence(&about)].map(str::to_owned).to_vec());
        found.push(json!({ "name": name, "data": data, "method": method, "about": about }));
    }
    if found.is_empty() {
        return Err(Error::Recipe(format!(
            "no built-in recipe has `{part}` in its name; `diptych recipes list` shows them all"
        ))
        .into());
    }
    Ok(Answer { text: aligned(&rows, &[]), json: json!({ "recipes": found }) })
}

/// The comment that a recipe opens with.
fn about(text: &str) -> String {
    let lines = text.lines().take_while(|line| line.starts_with('#'));
    let lines: Vec<&str> = lines.map(|line| line.trim_start_matches(['#', ' '])).collect();
    lines.join(" ")
}

/// Up to the first point that ends a sentence: a capital follows. `Chen et al. 2020` goes on.
fn first_sentence(text: &str) -> &str {
    let ends = |(place, _): &(usize, &str)| {
        text[place + 2..].chars().next().is_some_and(|c| c.is_uppercase() || c == '`')
    };
    text.match_indices(". ")
        .find(ends)
        .map_or(text, |(place, _)| &text[..place])
        .trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_ends_where_the_next_begins() {
        assert_eq!(
            first_sentence("SimCLR (Chen et al. 2020, B.6). The batch is cut."),
            "SimCLR (Chen et al. 2020, B.6)"
        );
        assert_eq!(first_sentence("One only."), "One only");
        assert_eq!(first_sentence(""), "");
    }

    #[test]
    fn every_recipe_says_what_it_is() {
        for (name, text) in BUILT_IN {
            let about = about(text);
            let first = first_sentence(&about);
            assert!((10..160).contains(&first.len()), "{name} opens with `{first}`");
        }
    }
}
