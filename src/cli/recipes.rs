//! `diptych recipes`: the built-in recipes.

use super::Answer;
use super::table::aligned;
use anyhow::Result;
use diptych::error::Error;
use diptych::recipe::{BUILT_IN, Recipe, built_in};
use serde_json::json;

#[derive(clap::Subcommand)]
#[command(after_help = "Examples:
  diptych recipes list
  diptych recipes show cifar10/simclr > my.toml")]
pub(super) enum Command {
    /// Every built-in recipe and what it reproduces, by data set
    #[command(after_help = "Examples:
  diptych recipes list
  diptych recipes list cifar10/
  diptych recipes list imagenet feature transformation")]
    List {
        /// Only those that have all of these in their name or description
        words: Vec<String>,
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
        Command::List { words } => list(words),
        Command::Show { recipe, overrides } => {
            let loaded = Recipe::load(recipe, overrides)?;
            // Untouched, the recipe is shown as written, with its comments.
            let text = match built_in(recipe) {
                Some(text) if overrides.is_empty() => text.to_owned(),
                _ => loaded.to_toml()?,
            };
            Ok(Answer { text, json: serde_json::to_value(&loaded)? })
        }
    }
}

fn list(words: &[String]) -> Result<Answer> {
    let words: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    let mut groups: Vec<(&str, Vec<Vec<String>>)> = Vec::new();
    let mut found = Vec::new();
    for (name, text) in BUILT_IN {
        let about = about(text);
        let first = first_sentence(&about);
        let searched = format!("{name} {first}").to_lowercase();
        if !words.iter().all(|word| searched.contains(word)) {
            continue;
        }
        let data = name.split('/').next().unwrap_or(name);
        if groups.last().is_none_or(|(known, _)| *known != data) {
            groups.push((data, Vec::new()));
        }
        let rows = &mut groups.last_mut().expect("one was just put there").1;
        rows.push([*name, first].map(str::to_owned).to_vec());
        let recipe = Recipe::parse(text, name, &[])?;
        let plugins = recipe.plugins.names();
        found.push(json!({
            "name": name, "data": data, "method": recipe.method.name(), "plugins": plugins, "about": about,
        }));
    }
    if found.is_empty() {
        return Err(Error::Recipe(format!(
            "no built-in recipe has `{}` in its name or description; `diptych recipes list` shows them all",
            words.join("` and `")
        ))
        .into());
    }
    let tables: Vec<String> = groups.iter().map(|(_, rows)| aligned(rows, &[])).collect();
    let text = format!(
        "{}\n\n{} recipes. `diptych recipes show NAME` prints one, `diptych recipes list WORD ...` fewer of them",
        tables.join("\n\n"),
        found.len()
    );
    Ok(Answer { text, json: json!({ "recipes": found }) })
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

    fn listed(words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let answer = list(&words).unwrap();
        let found = answer.json["recipes"].as_array().unwrap().clone();
        for recipe in &found {
            assert!(answer.text.contains(recipe["name"].as_str().unwrap()), "{}", answer.text);
        }
        found.iter().map(|recipe| recipe["name"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_list_holds_what_has_all_words_in_name_or_description() {
        assert_eq!(listed(&[]).len(), BUILT_IN.len());
        assert_eq!(
            listed(&["cifar100/MOCO"]),
            ["cifar100/moco", "cifar100/moco-cld", "cifar100/mocov2"]
        );
        assert_eq!(listed(&["guided", "cifar-10"]), ["cifar10/byol-gsg", "cifar10/simsiam-gsg"]);
        let none = list(&["mocov9".to_owned()]).err().unwrap().to_string();
        assert!(none.contains("no built-in recipe has `mocov9`"), "{none}");
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
